//! Keeps one place on the node filled, until it is told to drain: waits for what happens to its engine, asks [`crate::life`], does it.

use crate::board::{Board, Place};
use crate::engine::Engine;
use crate::ingress;
use crate::launch::{Launcher, Process};
use crate::life::{Act, Event, Life, Stage};
use crate::node::Node;
use crate::probe;
use bytes::Bytes;
use http::{Response, StatusCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use types::{Monotonic, ReplicaId, header};

pub struct Supervisor {
    pub node: Arc<Node>,
    pub launcher: Launcher,
    pub place: Place,
    /// How long a replica may finish what it has.
    pub patience: Duration,
    /// Its place is there already; whoever ends this supervisor takes it out.
    pub board: watch::Sender<Board>,
}

/// A running process and how the ingress knows it.
struct Running {
    process: Process,
    engine: Arc<Engine>,
    probes: Probes,
    /// When it has finished for long enough; none while it is not draining.
    drained_at: Option<Instant>,
}

/// When to ask an engine how it is.
struct Probes {
    next: Instant,
    /// The last one was missed. Doubt is no news then: misses count once an interval, however many streams break.
    is_missed: bool,
}

impl Supervisor {
    /// Returns once it was told to drain, what ran has finished, and the place is empty.
    pub async fn run(self, drain: CancellationToken) {
        let epoch = Instant::now();
        let now = || Monotonic::from_micros(u64::try_from(epoch.elapsed().as_micros()).unwrap_or(u64::MAX));
        let mut life = Life::new(self.place.starts, now());
        let mut running: Option<Running> = None;
        let mut is_told = false;
        loop {
            let event = tokio::select! {
                () = drain.cancelled(), if !is_told => Event::Drain,
                event = happens(running.as_mut(), life.stage()) => event,
                () = until(life.wakes_at().map(|at| Instant::now() + at.since(now()))) => Event::Woke,
            };
            is_told |= event == Event::Drain;
            if event == Event::Exited
                && let Some(ended) = running.take()
            {
                self.forget(ended);
            }
            let act = life.on(event, now());
            self.act(act, event, &mut running).await;
            self.tell(&life, running.as_ref());
            if act == Act::Finish {
                return;
            }
        }
    }

    async fn act(&self, act: Act, event: Event, running: &mut Option<Running>) {
        match (act, running) {
            (Act::Start { start }, running) => *running = self.start(start),
            (Act::Announce, Some(running)) => {
                if event == Event::Ready {
                    info!(replica = %running.engine.replica, "engine serves");
                }
                self.node.slots.serving(&running.engine);
            }
            (Act::Withdraw, Some(running)) => {
                info!(replica = %running.engine.replica, "engine drains");
                self.node.slots.withhold(&running.engine);
                running.drained_at = Some(Instant::now() + self.patience);
            }
            (Act::Kill(why), Some(running)) => {
                warn!(replica = %running.engine.replica, ?why, "engine is killed");
                self.node.slots.gone(&running.engine);
                self.end(running, Duration::ZERO).await;
            }
            (Act::Terminate, Some(running)) => {
                // Asked to end, an engine would go on with what it has, beyond the time that was promised. Killed, it
                // breaks its streams off at once, and edges go on with them elsewhere.
                let patience = if running.engine.is_occupied() {
                    warn!(replica = %running.engine.replica, "requests did not finish in time");
                    Duration::ZERO
                } else {
                    STOP_MAX
                };
                self.end(running, patience).await;
            }
            (Act::Rest(rest), _) => {
                warn!(number = self.place.number, ?rest, "engine is started again after a rest");
            }
            (Act::Nothing | Act::Finish, _) | (_, None) => {}
        }
        if event == Event::ProbeMissed {
            self.node.metrics.probes_missed.inc();
        }
    }

    fn start(&self, start: u32) -> Option<Running> {
        let Place { number, address, recipe, .. } = &self.place;
        let replica = ReplicaId {
            region: self.node.region.clone(),
            node: self.node.name.clone(),
            number: *number,
            start,
        };
        self.node.metrics.engine_starts.inc();
        match self.launcher.start(recipe, *address, &replica) {
            Ok(process) => {
                info!(%replica, pid = process.child.id(), %address, model = %recipe.served_name, "engine started");
                let engine = Engine::new(replica, recipe.version, *address, recipe.slots);
                let probes = Probes { next: Instant::now(), is_missed: false };
                Some(Running { process, engine, probes, drained_at: None })
            }
            Err(error) => {
                error!(%replica, error = &error as &dyn std::error::Error, "engine cannot be started");
                None
            }
        }
    }

    /// A process has ended, and its replica with it.
    fn forget(&self, mut ended: Running) {
        self.node.slots.gone(&ended.engine);
        self.node.metrics.engine_exits.inc();
        let status = ended.process.child.try_wait().ok().flatten();
        info!(replica = %ended.engine.replica, status = status.map(tracing::field::display), "engine ended");
    }

    /// Asks the process to end, and makes it end when it takes too long.
    async fn end(&self, running: &mut Running, patience: Duration) {
        let child = &mut running.process.child;
        if !patience.is_zero()
            && let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok())
        {
            // The process may have ended by itself; until it is waited for, its id is still its own.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            if tokio::time::timeout(patience, child.wait()).await.is_ok() {
                return;
            }
            warn!(replica = %running.engine.replica, "engine does not end when asked");
        }
        if let Err(error) = child.kill().await {
            error!(replica = %running.engine.replica, %error, "engine cannot be killed");
        }
    }

    fn tell(&self, life: &Life, running: Option<&Running>) {
        let number = self.place.number;
        self.board.send_modify(|board| {
            let Some(status) = board.places.get_mut(&number) else { return };
            status.stage = life.stage();
            status.is_failing = life.is_failing();
            status.starts = life.starts();
            status.pid = running.and_then(|running| running.process.child.id());
            if let Some(running) = running {
                status.replica = Some(running.engine.replica.clone());
            }
        });
    }
}

/// The next thing that happens to the process of this place.
async fn happens(running: Option<&mut Running>, stage: Stage) -> Event {
    let Some(Running { process, engine, probes, drained_at }) = running else {
        return match stage {
            Stage::Gone => std::future::pending().await,
            // It could not be started.
            Stage::Starting | Stage::Serving | Stage::Draining => Event::Exited,
        };
    };
    tokio::select! {
        // First: one that was asked to end after it had finished is finished still.
        biased;
        // An error means that it was waited for already.
        _ = process.child.wait() => Event::Exited,
        event = observe(engine, stage, probes) => event,
        () = finished(engine, *drained_at) => Event::Stop,
    }
}

/// An engine that drains has nothing left, or no more time.
async fn finished(engine: &Engine, drained_at: Option<Instant>) {
    let Some(drained_at) = drained_at else { return std::future::pending().await };
    let _ = tokio::time::timeout_at(drained_at, engine.vacated()).await;
}

/// Asks the engine how it is, at its next time to be asked. May be dropped and called again at any point.
async fn observe(engine: &Engine, stage: Stage, probes: &mut Probes) -> Event {
    match stage {
        Stage::Starting => loop {
            tokio::time::sleep_until(probes.next).await;
            let is_ready = is_ready(engine).await;
            probes.next = Instant::now() + READY_EVERY;
            if is_ready {
                return Event::Ready;
            }
        },
        Stage::Serving => {
            tokio::select! {
                () = tokio::time::sleep_until(probes.next) => {}
                () = engine.doubt.notified(), if !probes.is_missed => {}
            }
            let asked_at = Instant::now();
            probes.is_missed = ask(engine, "/livez").await.is_none();
            probes.next = asked_at + PROBE_EVERY;
            if probes.is_missed {
                return Event::ProbeMissed;
            }
            read_load(engine).await;
            Event::ProbeAnswered
        }
        Stage::Draining | Stage::Gone => std::future::pending().await,
    }
}

/// Another process may hold the port, ready as it says; it is not this replica.
async fn is_ready(engine: &Engine) -> bool {
    let Some(answer) = ask(engine, "/readyz").await else { return false };
    let replica = answer.headers().get(header::REPLICA).and_then(|replica| replica.to_str().ok());
    replica == Some(engine.replica.to_string().as_str())
}

/// None unless the answer is 200.
async fn ask(engine: &Engine, path: &'static str) -> Option<Response<Bytes>> {
    probe::get(engine.address, path).await.ok().filter(|answer| answer.status() == StatusCode::OK)
}

/// A reading that fails leaves the last one; whether the engine lives is the probe's business.
async fn read_load(engine: &Engine) {
    let Some(answer) = ask(engine, ingress::LOAD).await else { return };
    if let Some(load) = std::str::from_utf8(answer.body()).ok().and_then(|text| text.trim().parse().ok()) {
        engine.observe(load);
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

const READY_EVERY: Duration = Duration::from_millis(50);
/// One that was missed is followed by the next at once.
const PROBE_EVERY: Duration = probe::PATIENCE;
/// An engine that has nothing left to do ends in milliseconds.
const STOP_MAX: Duration = Duration::from_secs(5);
