//! What operators see of one engine.
//!
//! The `vllm:` names are aliases, so that dashboards and gateways made for vLLM work unchanged.

use crate::queue::Queue;
use openai::FinishReason;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    kv_tokens: usize,
    running: [IntGauge; 2],
    queued: [IntGauge; 2],
    kv_free_tokens: IntGauge,
    kv_used_share: Gauge,
    prompt_tokens: [IntCounter; 2],
    completion_tokens: [IntCounter; 2],
    preemptions: [IntCounter; 2],
    requests: IntCounterVec,
    step_seconds: Histogram,
    first_token_seconds: Histogram,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Finished(FinishReason),
    Cancelled,
    Failed,
    /// No room, or draining.
    TurnedAway,
    /// The client's mistake.
    Refused,
}

impl Metrics {
    pub fn new(model: &str, kv_tokens: usize) -> Self {
        let registry = Registry::new();
        let r = &registry;
        let label = |name, help| Opts::new(name, help).const_label("model_name", model);
        let seconds = |name, help, buckets: &[f64]| {
            let opts = HistogramOpts::from(label(name, help)).buckets(buckets.to_vec());
            register(r, Histogram::with_opts(opts))
        };
        let gauge = |name, help| register(r, IntGauge::with_opts(label(name, help)));
        let counter = |name, help| register(r, IntCounter::with_opts(label(name, help)));
        Self {
            kv_tokens,
            running: [
                gauge("rhumb_engine_requests_running", "Requests being generated now"),
                gauge("vllm:num_requests_running", "Alias of rhumb_engine_requests_running"),
            ],
            queued: [
                gauge("rhumb_engine_requests_queued", "Requests accepted and not yet running"),
                gauge("vllm:num_requests_waiting", "Alias of rhumb_engine_requests_queued"),
            ],
            kv_free_tokens: gauge("rhumb_engine_kv_free_tokens", "Tokens for which KV cache is free"),
            kv_used_share: register(
                r,
                Gauge::with_opts(label("vllm:kv_cache_usage_perc", "Used share of the KV cache, 0 to 1")),
            ),
            prompt_tokens: [
                counter("rhumb_engine_prompt_tokens_total", "Prompt tokens of requests that began to answer"),
                counter("vllm:prompt_tokens_total", "Alias of rhumb_engine_prompt_tokens_total"),
            ],
            completion_tokens: [
                counter("rhumb_engine_completion_tokens_total", "Tokens generated"),
                counter("vllm:generation_tokens_total", "Alias of rhumb_engine_completion_tokens_total"),
            ],
            preemptions: [
                counter(
                    "rhumb_engine_preemptions_total",
                    "Sequences that gave up their KV cache to an older one",
                ),
                counter("vllm:num_preemptions_total", "Alias of rhumb_engine_preemptions_total"),
            ],
            requests: register(
                r,
                IntCounterVec::new(
                    label("rhumb_engine_requests_total", "Requests that ended, by outcome"),
                    &["outcome"],
                ),
            ),
            step_seconds: seconds(
                "rhumb_engine_step_seconds",
                "Duration of a step, with its wait",
                &STEP_BUCKETS,
            ),
            first_token_seconds: seconds(
                "rhumb_engine_first_token_seconds",
                "From a task's arrival to its first token",
                &FIRST_TOKEN_BUCKETS,
            ),
            registry,
        }
    }

    pub fn stepped(&self, seconds: f64, drawn: usize, preempted: usize) {
        self.step_seconds.observe(seconds);
        self.completion_tokens.iter().for_each(|counter| counter.inc_by(drawn as u64));
        self.preemptions.iter().for_each(|counter| counter.inc_by(preempted as u64));
    }

    pub fn first_token(&self, seconds: f64, prompt_tokens: usize) {
        self.first_token_seconds.observe(seconds);
        self.prompt_tokens.iter().for_each(|counter| counter.inc_by(prompt_tokens as u64));
    }

    pub fn ended(&self, outcome: Outcome) {
        self.requests.with_label_values(&[outcome.label()]).inc();
    }

    /// The page, with gauges as they stand now.
    pub fn page(&self, queue: &Queue) -> String {
        let running = queue.load().running();
        let free = queue.load().kv_free_tokens();
        self.running.iter().for_each(|gauge| gauge.set(running as i64));
        let queued = queue.accepted().saturating_sub(running);
        self.queued.iter().for_each(|gauge| gauge.set(queued as i64));
        self.kv_free_tokens.set(free as i64);
        self.kv_used_share.set(1.0 - free as f64 / self.kv_tokens as f64);
        TextEncoder::new().encode_to_string(&self.registry.gather()).expect("our own metrics always encode")
    }
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Finished(FinishReason::Length) => "length",
            Self::Finished(_) => "stop",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::TurnedAway => "turned-away",
            Self::Refused => "refused",
        }
    }
}

fn register<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    let metric = metric.expect("the name follows Prometheus' rules");
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}

const STEP_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0];
const FIRST_TOKEN_BUCKETS: [f64; 12] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];
