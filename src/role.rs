//! A process of the system: what all roles do at their start and their end.
//!
//! [`logging`] what it says · [`lifeline`] whom it must not outlive · [`configuration`] what it is told.

pub mod configuration;
pub mod lifeline;
pub mod logging;

use crate::check;
use anyhow::Context;
use nix::sys::prctl::set_thp_disable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub fn edge(config: &Path) -> anyhow::Result<()> {
    begin()?;
    let prepared = check::prepare_edge(config)
        .map_err(|problems| anyhow::anyhow!(problems.join("\n")).context("the edge cannot start"))?;
    serve(|shutdown| async { edge::run(prepared, shutdown).await.context("the edge cannot start") })
}

pub fn control_plane(config: &Path) -> anyhow::Result<()> {
    begin()?;
    let prepared = check::prepare_control_plane(config)
        .map_err(|problems| anyhow::anyhow!(problems.join("\n")).context("the control plane cannot start"))?;
    serve(|shutdown| async {
        control_plane::run(prepared, shutdown).await.context("the control plane cannot go on")
    })
}

pub fn region_agent(config: &Path) -> anyhow::Result<()> {
    begin()?;
    let config: region_agent::Config = configuration::read::<region_agent::File, _>(config, "region-agent")?;
    serve(|shutdown| async {
        region_agent::run(config, shutdown).await.context("the region agent cannot start")
    })
}

pub fn engine(config: engine::Config) -> anyhow::Result<()> {
    begin()?;
    // Weights are read from end to end, which huge pages make faster; an agent would bequeath its own choice.
    use_huge_pages(true);
    // The engine itself logs where it listens.
    serve(|shutdown| async { engine::run(config, shutdown, |_| ()).await.context("the engine cannot go on") })
}

fn begin() -> anyhow::Result<()> {
    logging::start()?;
    lifeline::watch().context("cannot watch the lifeline")?;
    raise_open_files();
    // Where much is allocated here and there, each page of two megabytes holds little: without them a voter with
    // ten thousand tenants takes 68 MB instead of 120.
    use_huge_pages(false);
    Ok(())
}

/// What the allocator asks for and the kernel then gives or not.
fn use_huge_pages(wanted: bool) {
    if let Err(error) = set_thp_disable(!wanted) {
        warn!(%error, wanted, "cannot choose whether huge pages are used");
    }
}

/// Runs a role until it ends by itself, or by SIGTERM or Ctrl-C in its own time.
fn serve<F>(run: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let shutdown = CancellationToken::new();
    let ended = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
        let told = shutdown.clone();
        tokio::spawn(async move {
            for _ in 0..2 {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if told.is_cancelled() {
                    warn!("told to stop twice; leaving at once");
                    std::process::exit(1);
                }
                info!("told to stop");
                told.cancel();
            }
        });
        run(shutdown).await
    });
    // What has drained has nothing left to say; a thread that hangs must not keep the process.
    runtime.shutdown_timeout(LINGER_MAX);
    ended
}

/// A connection is a file, and the usual soft limit of 1,024 is meant for programs that `select`.
pub fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}

const LINGER_MAX: Duration = Duration::from_secs(1);
