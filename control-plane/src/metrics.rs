//! What a member counts. Labels come from closed sets.

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use raft::Raft;
use std::time::Duration;
use time::OffsetDateTime;

pub(crate) struct Metrics {
    registry: Registry,
    term: IntGauge,
    leader: IntGauge,
    revision: IntGauge,
    log_index: IntGaugeVec,
    certificate_expiry: Gauge,
    writes: IntCounterVec,
    write_seconds: Histogram,
    pub(crate) subscribers: IntGauge,
    pub(crate) subscribers_dropped: IntCounter,
    sent: IntCounterVec,
    pub(crate) acks: IntCounter,
    pub(crate) nacks: IntCounter,
    pub(crate) reports: IntCounter,
    pub(crate) nodes_heard: IntGauge,
    pub(crate) connections: IntGauge,
    connections_refused: IntCounterVec,
}

/// How a write was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    Done,
    Refused,
    Unavailable,
}

/// What a subscriber was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Snapshot,
    Delta,
    Bookmark,
}

/// Why a connection was closed before its first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionRefused {
    TooMany,
    Handshake,
    NotOfThisCluster,
}

impl WriteOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Sent {
    fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Delta => "delta",
            Self::Bookmark => "bookmark",
        }
    }
}

impl ConnectionRefused {
    fn as_str(self) -> &'static str {
        match self {
            Self::TooMany => "too-many",
            Self::Handshake => "handshake",
            Self::NotOfThisCluster => "not-of-this-cluster",
        }
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| register(&registry, IntCounter::new(full(name), help));
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(full(name), help));
        let counters = |name: &str, help: &str, label: &str| {
            register(&registry, IntCounterVec::new(Opts::new(full(name), help), &[label]))
        };
        let write_seconds =
            HistogramOpts::new(full("write_seconds"), "From a write's arrival to its answer.")
                .buckets(SECONDS.to_vec());
        let expiry =
            Gauge::new(full("certificate_expiry_seconds"), "When this member's certificate ends, Unix time.");
        Self {
            term: gauge("term", "The term of the group, as this member knows it."),
            leader: gauge("leader", "1 where this member leads."),
            revision: gauge("revision", "The state that this member has applied."),
            log_index: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(full("log_index"), "Entries of the log, by what is newest."),
                    &["of"],
                ),
            ),
            certificate_expiry: register(&registry, expiry),
            writes: counters("writes_total", "Writes that this member was asked for, by answer.", "outcome"),
            write_seconds: register(&registry, Histogram::with_opts(write_seconds)),
            subscribers: gauge("subscribers", "Subscriptions that are served."),
            subscribers_dropped: counter("subscribers_dropped_total", "Subscribers that did not read."),
            sent: counters("updates_sent_total", "Updates to subscribers; a snapshot is one.", "content"),
            acks: counter("acks_total", "Pictures that subscribers took over."),
            nacks: counter("nacks_total", "Pictures that subscribers refused."),
            reports: counter("reports_total", "Reports from agents."),
            nodes_heard: gauge("nodes_heard", "Nodes whose agents report to this member."),
            connections: gauge("connections", "Connections that are open."),
            connections_refused: counters(
                "connections_refused_total",
                "Connections closed before their first request.",
                "reason",
            ),
            registry,
        }
    }

    pub(crate) fn count_write(&self, outcome: WriteOutcome, took: Duration) {
        self.writes.with_label_values(&[outcome.as_str()]).inc();
        self.write_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn count_sent(&self, sent: Sent) {
        self.sent.with_label_values(&[sent.as_str()]).inc();
    }

    pub(crate) fn count_refused(&self, reason: ConnectionRefused) {
        self.connections_refused.with_label_values(&[reason.as_str()]).inc();
    }

    /// Everything in the text format of Prometheus. What others own is read here, when somebody asks.
    pub(crate) fn render(&self, raft: &Raft, certificate_until: OffsetDateTime) -> Vec<u8> {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let standing = raft.standing().borrow().clone();
        self.term.set(number(standing.term));
        self.leader.set(standing.is_leader.into());
        self.revision.set(number(raft.state().position().revision.0));
        let progress = raft.progress();
        for (of, index) in [
            ("logged", progress.logged),
            ("applied", progress.applied),
            ("snapshot", progress.snapshot),
            ("purged", progress.purged),
        ] {
            self.log_index.with_label_values(&[of]).set(number(index));
        }
        self.certificate_expiry.set(certificate_until.unix_timestamp() as f64);
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("metrics have names, and writing to memory does not fail");
        text
    }
}

fn full(name: &str) -> String {
    format!("rhumb_control_plane_{name}")
}

fn register<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    let metric = metric.expect("names and labels are literals in this file");
    registry.register(Box::new(metric.clone())).expect("each name is used once in this file");
    metric
}

/// From a fast disk on a LAN to a change of the leader.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 4.0, 10.0];
