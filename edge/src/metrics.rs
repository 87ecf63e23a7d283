//! What an edge counts. Labels come from closed sets.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) requests: IntCounterVec,
    pub(crate) requests_in_flight: Gauge,
    pub(crate) attempts: IntCounterVec,
    pub(crate) first_token_seconds: Histogram,
    pub(crate) prompt_tokens: IntCounter,
    pub(crate) completion_tokens: IntCounter,
    pub(crate) streams_broken: IntCounter,
    pub(crate) resumes: IntCounterVec,
    pub(crate) resume_gap_seconds: Histogram,
    pub(crate) resume_expected_seconds: Histogram,
    pub(crate) not_resumable: IntCounterVec,
    pub(crate) suspicions: IntCounterVec,
    pub(crate) hedges: IntCounterVec,
    pub(crate) budget_refused: IntCounterVec,
    pub(crate) client_retries: IntCounter,
    pub(crate) connections: IntGauge,
    pub(crate) connections_refused: IntCounter,
    pub(crate) proxy_headers_refused: IntCounterVec,
    pub(crate) panics: IntCounter,
    pub(crate) intent_revision: IntGaugeVec,
    pub(crate) intent_live: IntGaugeVec,
    pub(crate) pictures_refused: IntCounterVec,
    pub(crate) keys: IntGauge,
    pub(crate) tenants: IntGauge,
    pub(crate) nodes: IntGauge,
    pub(crate) nodes_serving: IntGauge,
    pub(crate) certificate_expiry_seconds: IntGauge,
}

/// A gauge that is counted by guards, so that no way out of a request forgets it.
pub(crate) struct Gauge(IntGauge);

pub(crate) struct GaugeGuard(IntGauge);

impl Gauge {
    pub(crate) fn guard(&self) -> GaugeGuard {
        self.0.inc();
        GaugeGuard(self.0.clone())
    }

    pub(crate) fn get(&self) -> i64 {
        self.0.get()
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let counter =
            |name: &str, help: &str| register(&registry, IntCounter::new(name, help).expect("a fixed name"));
        let gauge =
            |name: &str, help: &str| register(&registry, IntGauge::new(name, help).expect("a fixed name"));
        let counters = |name: &str, help: &str, label: &str| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), &[label]).expect("a fixed name"))
        };
        let gauges = |name: &str, help: &str, label: &str| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), &[label]).expect("a fixed name"))
        };
        let first_token = HistogramOpts::new(
            "rhumb_edge_first_token_seconds",
            "From the end of a request's head to its first token.",
        )
        // The buckets of OpenTelemetry's gen_ai.server.time_to_first_token, so that dashboards agree.
        .buckets(vec![
            0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
        ]);
        let first_token = Histogram::with_opts(first_token).expect("a fixed name");
        let gaps = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help);
            let options = options.buckets(vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
            register(&registry, Histogram::with_opts(options).expect("a fixed name"))
        };
        Self {
            requests: counters("rhumb_edge_requests_total", "Requests by how they ended.", "outcome"),
            requests_in_flight: Gauge(gauge("rhumb_edge_requests_in_flight", "Requests being answered.")),
            attempts: counters("rhumb_edge_attempts_total", "Attempts by how they ended.", "outcome"),
            first_token_seconds: register(&registry, first_token),
            prompt_tokens: counter("rhumb_edge_prompt_tokens_total", "Prompt tokens of answered requests."),
            completion_tokens: counter("rhumb_edge_completion_tokens_total", "Tokens delivered to clients."),
            streams_broken: counter("rhumb_edge_streams_broken_total", "Streams that could not be saved."),
            resumes: counters(
                "rhumb_edge_resumes_total",
                "Streams that went on elsewhere, by exactness; that no other node took; and offers refused as inexact.",
                "outcome",
            ),
            resume_gap_seconds: gaps(
                "rhumb_edge_resume_gap_seconds",
                "Time without an event in streams that went on elsewhere.",
            ),
            resume_expected_seconds: gaps(
                "rhumb_edge_resume_expected_seconds",
                "How long resumes had to expect to stand in line before they were sent.",
            ),
            not_resumable: counters(
                "rhumb_edge_streams_not_resumable_total",
                "Streams that could not go on elsewhere if they broke, from some point on.",
                "reason",
            ),
            suspicions: counters(
                "rhumb_edge_silent_streams_total",
                "Streams that were silent for too long, by whether they spoke again or were left.",
                "outcome",
            ),
            hedges: counters(
                "rhumb_edge_hedges_total",
                "Second attempts beside a late first one, by which of them won.",
                "winner",
            ),
            budget_refused: counters(
                "rhumb_edge_budget_refused_total",
                "Attempts that were not made because their budget was spent.",
                "budget",
            ),
            client_retries: counter(
                "rhumb_edge_client_retries_total",
                "Requests that a client's library had asked before, as it says.",
            ),
            connections: gauge("rhumb_edge_connections", "Open client connections."),
            connections_refused: counter(
                "rhumb_edge_connections_refused_total",
                "Connections beyond a bound: in total, for one address, or of balancers that named no client yet.",
            ),
            proxy_headers_refused: counters(
                "rhumb_edge_proxy_headers_refused_total",
                "Connections of load balancers that did not say who the client is.",
                "reason",
            ),
            panics: counter("rhumb_edge_panics_total", "Requests that panicked. Always a defect."),
            intent_revision: gauges(
                "rhumb_edge_intent_revision",
                "Revision of the picture of intent in use; 0 = none.",
                "interest",
            ),
            intent_live: gauges(
                "rhumb_edge_intent_live",
                "1 while a member of the control plane sends; 0 = living from the last good picture.",
                "interest",
            ),
            pictures_refused: counters(
                "rhumb_edge_intent_refused_total",
                "Pictures of intent that this edge could not use.",
                "interest",
            ),
            keys: gauge("rhumb_edge_keys", "API keys in the tenant table."),
            tenants: gauge("rhumb_edge_tenants", "Tenants in the tenant table."),
            nodes: gauge("rhumb_edge_nodes", "Nodes in the routing table."),
            nodes_serving: gauge(
                "rhumb_edge_nodes_serving",
                "Nodes that this edge knows to serve something.",
            ),
            certificate_expiry_seconds: gauge(
                "rhumb_edge_certificate_expiry_seconds",
                "When this edge's own certificate expires, in seconds since 1970.",
            ),
            registry,
        }
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).expect("memory takes every write");
        String::from_utf8(text).expect("metrics are text")
    }
}

fn register<M: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: M) -> M {
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}
