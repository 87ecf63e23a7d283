//! What this agent counts. Labels come from closed sets.

use crate::board::Board;
use crate::dispatch::Census;
use crate::life::Stage;
use client::Standing;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use time::OffsetDateTime;
use types::{Failure, ModelVersion};

pub struct Metrics {
    registry: Registry,
    rendering: Mutex<()>,
    requests: IntCounterVec,
    pub queue_wait: Histogram,
    pub head: Histogram,
    pub connections: IntGauge,
    connections_refused: IntCounterVec,
    pub engine_starts: IntCounter,
    pub engine_exits: IntCounter,
    pub probes_missed: IntCounter,
    waiting: IntGaugeVec,
    running: IntGaugeVec,
    replicas: IntGaugeVec,
    places: IntGaugeVec,
    intent_revision: IntGauge,
    intent_live: IntGauge,
    certificate_expiry: IntGauge,
}

/// What others own and is read when somebody asks.
pub struct Facts {
    pub census: BTreeMap<ModelVersion, Census>,
    pub board: Board,
    pub standing: Standing,
    pub certificate_ends: OffsetDateTime,
}

/// What a request came for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    New,
    /// To go on with a stream that broke elsewhere.
    Resume,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Resume => "resume",
        }
    }
}

/// How a request left this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The engine's answer went through to its end.
    Served,
    /// The engine found the client at fault.
    ClientError,
    /// The engine died in the middle of its answer.
    Broken,
    /// The edge went away.
    Cancelled,
    TooLarge,
    Failed(Failure),
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::ClientError => "client-error",
            Self::Broken => "broken",
            Self::Cancelled => "cancelled",
            Self::TooLarge => "too-large",
            Self::Failed(failure) => failure.as_str(),
        }
    }
}

/// Why a connection to the ingress was closed before its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionRefused {
    TooMany,
    Handshake,
    NotAnEdge,
}

impl ConnectionRefused {
    fn as_str(self) -> &'static str {
        match self {
            Self::TooMany => "too-many",
            Self::Handshake => "handshake",
            Self::NotAnEdge => "not-an-edge",
        }
    }
}

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let seconds = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            register(&registry, Histogram::with_opts(options))
        };
        Self {
            requests: counters(
                "rhumb_agent_requests_total",
                "Requests from edges, by what they came for and how they left.",
                &["kind", "outcome"],
            ),
            queue_wait: seconds("rhumb_agent_queue_wait_seconds", "Time in line before an engine had room."),
            head: seconds(
                "rhumb_agent_head_seconds",
                "Time from sending to an engine until its answer began.",
            ),
            connections: gauge("rhumb_agent_connections", "Connections from edges that are open."),
            connections_refused: counters(
                "rhumb_agent_connections_refused_total",
                "Connections closed before their first request.",
                &["reason"],
            ),
            engine_starts: counter("rhumb_agent_engine_starts_total", "Engine processes started."),
            engine_exits: counter("rhumb_agent_engine_exits_total", "Engine processes that ended."),
            probes_missed: counter("rhumb_agent_probes_missed_total", "Probes that a serving engine missed."),
            waiting: gauges("rhumb_agent_waiting_requests", "Requests in line.", &["version"]),
            running: gauges("rhumb_agent_running_requests", "Requests on engines.", &["version"]),
            replicas: gauges(
                "rhumb_agent_replicas",
                "Places for replicas, by what is there.",
                &["version", "state"],
            ),
            places: gauges(
                "rhumb_agent_places",
                "Places of this node: wanted by the intent, running a process, waiting for one to be free.",
                &["state"],
            ),
            intent_revision: gauge(
                "rhumb_agent_intent_revision",
                "Revision of the intent in use; 0 before there was any.",
            ),
            intent_live: gauge("rhumb_agent_intent_live", "1 while a member of the control plane sends."),
            certificate_expiry: gauge(
                "rhumb_agent_certificate_expiry_seconds",
                "When this node's certificate expires, in seconds since 1970.",
            ),
            registry,
            rendering: Mutex::new(()),
        }
    }

    pub fn count(&self, kind: Kind, outcome: Outcome) {
        self.requests.with_label_values(&[kind.as_str(), outcome.as_str()]).inc();
    }

    pub fn count_refused(&self, reason: ConnectionRefused) {
        self.connections_refused.with_label_values(&[reason.as_str()]).inc();
    }

    /// Everything in the text format of Prometheus.
    pub fn render(&self, facts: &Facts) -> Vec<u8> {
        let _one_at_a_time = self.rendering.lock().unwrap_or_else(PoisonError::into_inner);
        // Versions come and go; one that is gone has no numbers.
        for gauges in [&self.waiting, &self.running, &self.replicas] {
            gauges.reset();
        }
        for (version, line) in &facts.census {
            let version = version.to_string();
            let running: u32 = line.replicas.values().map(|seats| seats.running).sum();
            self.waiting.with_label_values(&[&version]).set(line.waiting.into());
            self.running.with_label_values(&[&version]).set(running.into());
        }
        let places = &facts.board.places;
        let versions: BTreeSet<_> = places.values().map(|status| status.place.recipe.version).collect();
        for version in versions {
            let of_version = || places.values().filter(|status| status.place.recipe.version == version);
            for stage in Stage::ALL {
                let count = of_version().filter(|status| status.stage == stage).count();
                self.replicas
                    .with_label_values(&[version.to_string().as_str(), stage.as_str()])
                    .set(count as i64);
            }
        }
        let running = places.values().filter(|status| status.pid.is_some()).count();
        let wanted = facts.board.wanted.into();
        for (state, count) in
            [("wanted", wanted), ("running", running as i64), ("waiting", facts.board.waiting_count().into())]
        {
            self.places.with_label_values(&[state]).set(count);
        }
        let revision = facts.standing.position.map_or(0, |position| position.revision.0);
        self.intent_revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
        self.intent_live.set(facts.standing.is_live.into());
        self.certificate_expiry.set(facts.certificate_ends.unix_timestamp());
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("metrics have names, and writing to memory does not fail");
        text
    }
}

fn register<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    let metric = metric.expect("names and labels are literals in this file");
    registry.register(Box::new(metric.clone())).expect("each name is used once in this file");
    metric
}

/// From an engine with room to a deadline of minutes.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
