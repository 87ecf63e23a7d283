//! Runs one model and serves it the OpenAI way.
//!
//! In reading order, along a request's way: [`http`] asks and answers · [`queue`] lets in and turns away ·
//! [`schedule`] who computes what in a step · [`generate`] the step loop · [`sequence`] one answer in the
//! making · [`model`] Llama · [`backend`] its arithmetic · [`penalty`] what the
//! client adds to it · [`sample`] draws tokens · [`logprobs`] how probable they were · [`stop`] stop strings.
//! Beside it: [`start`] loads and checks · [`manifest`] what a version is made of · [`tokenizer`] ·
//! [`template`] · [`kv`] who holds which block · [`load`] what the engine says of itself · [`metrics`].

pub mod backend;
pub mod generate;
pub mod http;
pub mod kv;
pub mod load;
pub mod logprobs;
pub mod manifest;
pub mod metrics;
pub mod model;
pub mod penalty;
pub mod queue;
pub mod sample;
pub mod schedule;
pub mod sequence;
pub mod start;
pub mod stop;
pub mod template;
pub mod tokenizer;

pub use start::StartError;

use generate::Generator;
use http::Served;
use load::Load;
use metrics::Metrics;
use queue::Queue;
use schedule::Limits;
use start::Loaded;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use types::{ModelName, ModelVersion, ReplicaId};

/// How to run one engine.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// The folder that holds `manifest.json` and the files it names.
    pub model_dir: PathBuf,
    /// Anything else in the folder is refused.
    pub version: Option<ModelVersion>,
    /// Said in every internal answer.
    pub replica: Option<ReplicaId>,
    /// What `/v1/models` lists.
    pub served_name: ModelName,
    pub threads: NonZeroUsize,
    /// Sequences that run at once.
    pub slots: usize,
    /// Requests that wait for a slot.
    pub queue_max: usize,
    /// Tokens of all sequences whose keys and values are kept; at least one context, and rounded up to whole blocks.
    pub kv_tokens: usize,
    /// Prompt tokens computed in one step: more is faster for them and slower for everybody else's next token.
    pub prefill_chunk: usize,
    /// A step takes at least so long; zero is as fast as it goes.
    pub step_time: Duration,
}

/// Why an engine ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the step loop died; its panic is on standard error, and starting the engine again is safe")]
    StepLoopDied,
    #[error("the server cannot go on")]
    Serve(#[source] std::io::Error),
}

/// Binds, loads, says so to `ready`, and serves until `shutdown`; then finishes what runs, for a bounded time.
pub async fn run(
    config: Config,
    shutdown: CancellationToken,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), RunError> {
    let listener = start::listen(config.listen).await?;
    let address =
        listener.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;
    let loading = tokio::task::spawn_blocking(move || start::load(&config).map(|loaded| (config, loaded)));
    let (config, loaded) = tokio::select! {
        biased;
        // Large weights take minutes to read. The reading goes on in its thread, for nobody, until the process ends.
        () = shutdown.cancelled() => return Ok(()),
        loaded = loading => loaded.expect("loading neither panics nor is cancelled")?,
    };
    let mut boot = [0; 8];
    getrandom::fill(&mut boot).map_err(StartError::NoRandomness)?;
    let Loaded { version, context_length, kv_tokens, model, tokenizer, template } = loaded;
    let load = Arc::new(Load::new(u64::from_le_bytes(boot), config.slots, kv_tokens));
    let metrics = Arc::new(Metrics::new(config.served_name.as_str(), kv_tokens));
    let (queue, commands) = Queue::new(config.slots, config.queue_max, Arc::clone(&load));
    let tokenizer = Arc::new(tokenizer);
    let generator = Generator::new(
        model,
        Arc::clone(&tokenizer),
        Limits { slots: config.slots, prefill_chunk: config.prefill_chunk },
        kv_tokens,
        config.step_time,
        load,
        Arc::clone(&metrics),
    );
    let (vocabulary, end_tokens) = (generator.vocabulary(), generator.end_tokens());
    let loop_ended = spawn_step_loop(move || generator.run(commands))?;
    let served = Arc::new(Served {
        name: config.served_name,
        replica: config.replica,
        context_length,
        vocabulary,
        end_tokens,
        queue,
        tokenizer,
        template,
        metrics,
    });
    info!(%version, %address, "the engine serves");
    ready(address);
    serve(listener, served, shutdown, loop_ended).await
}

async fn serve(
    listener: tokio::net::TcpListener,
    served: Arc<Served>,
    shutdown: CancellationToken,
    mut loop_ended: oneshot::Receiver<()>,
) -> Result<(), RunError> {
    let stop = CancellationToken::new();
    let server = http::serve(listener, Arc::clone(&served), stop.clone());
    tokio::pin!(server);
    let died = tokio::select! {
        result = &mut server => return result.map_err(RunError::Serve),
        _ = &mut loop_ended => true,
        () = shutdown.cancelled() => false,
    };
    served.queue.drain();
    stop.cancel();
    let bound = if died { LAST_WORDS } else { DRAIN_MAX };
    tokio::select! {
        result = &mut server => result.map_err(RunError::Serve)?,
        () = tokio::time::sleep(bound) => {
            warn!(running = served.queue.accepted(), "requests were still running at the end of the drain");
            served.queue.halt();
            // Their streams end with an error in band, as soon as the loop has let go of them.
            let _ = tokio::time::timeout(LAST_WORDS, &mut server).await;
        }
    }
    if died { Err(RunError::StepLoopDied) } else { Ok(()) }
}

/// The receiver wakes when the loop has ended, however it did.
fn spawn_step_loop(work: impl FnOnce() + Send + 'static) -> Result<oneshot::Receiver<()>, StartError> {
    let (alive, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("engine-steps".to_owned());
    let spawned = thread.spawn(move || {
        let _alive: oneshot::Sender<()> = alive;
        work();
    });
    spawned.map_err(|error| StartError::Threads(error.into()))?;
    Ok(ended)
}

/// Longer than any answer of a small model; an agent that wants it shorter kills the process.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Enough to write one error event on each open stream.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_the_step_loop_is_noticed() {
        let ended = spawn_step_loop(|| panic!("on purpose")).unwrap();
        assert!(ended.await.is_err());
    }
}
