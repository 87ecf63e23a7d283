//! `rhumb up --detach`: starts an `up` that nobody holds, and waits until it is ready.

use crate::role::lifeline;
use crate::sandbox::logs;
use crate::sandbox::progress::{Progress, Told};
use crate::sandbox::report::{Invocation, Report};
use crate::sandbox::up::make_data;
use crate::stdout;
use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Tells an `up` that it is the detached one. Not for people.
pub const DETACHED_FLAG: &str = "--detached";

pub fn run(data: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(start(data))?;
    if json {
        stdout::print_json(&report)?;
    } else {
        stdout::print(&report.summary(&Invocation::of_this_process(data)))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn start(data: &Path) -> anyhow::Result<Report> {
    let paths = make_data(data)?;
    let log_path = paths.up_log();
    if let Some(dir) = log_path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&log_path)
        .with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut child = command(log)?.spawn().context("cannot start the detached `up`")?;
    let told = child.stdout.take().expect("standard output is a pipe");
    let waited = tokio::select! {
        report = follow(BufReader::new(told).lines()) => report,
        _ = tokio::signal::ctrl_c() => {
            stop(&mut child).await;
            anyhow::bail!("interrupted before the sandbox was ready; it is stopped");
        }
    };
    match waited? {
        Some(report) => Ok(report),
        None => {
            let status = child.wait().await.context("cannot wait for the detached `up`")?;
            let lines = logs::last_lines(&log_path, logs::LINES_SHOWN).join("\n    ");
            anyhow::bail!(
                "the detached `up` ended before it was ready: {status}\n  the last lines of {}:\n    {lines}",
                log_path.display()
            )
        }
    }
}

/// The same program with the same arguments, held by nobody.
fn command(log: std::fs::File) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot tell which program this is")?;
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new(program);
    command.arg0(arguments.next().unwrap_or_else(|| "rhumb".into()));
    command.args(arguments).arg(DETACHED_FLAG);
    command.env_remove(lifeline::VARIABLE).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    Ok(command.into())
}

/// Shows what is told until the last word; None if it never comes.
async fn follow(mut lines: Lines<BufReader<ChildStdout>>) -> anyhow::Result<Option<Report>> {
    let mut progress = Progress::to_people();
    while let Some(line) = lines.next_line().await.context("cannot read from the detached `up`")? {
        match serde_json::from_str(&line).context("the detached `up` speaks another language")? {
            Told::Layout(layout) => progress.begin(&layout),
            Told::Step(step) => progress.step(&step),
            Told::Ready(report) => {
                progress.end();
                return Ok(Some(*report));
            }
            Told::Failed(chain) => {
                progress.end();
                let mut chain = chain.into_iter().rev();
                let root = anyhow::Error::msg(chain.next().unwrap_or_default());
                return Err(chain.fold(root, anyhow::Error::context));
            }
        }
    }
    Ok(None)
}

async fn stop(child: &mut Child) {
    if let Some(pid) = child.id() {
        // Not reaped yet, so the id is still its own.
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
        let _ = child.wait().await;
    }
}
