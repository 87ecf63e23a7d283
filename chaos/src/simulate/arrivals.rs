//! Requests: invented ones, and those of a recorded trace.

use super::plan::{Arrivals, Plan};
use fastrand::Rng;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;
use types::Priority;

/// One request of a client.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) edge: usize,
    pub(super) class: Priority,
    pub(super) prompt_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) blocks: Rc<[u64]>,
}

/// One line of a trace in the form that Mooncake published.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Traced {
    pub timestamp: u64,
    pub input_length: u64,
    pub output_length: u64,
    /// One for every [`BLOCK_TOKENS`] of the prompt; equal ones stand for equal beginnings up to there.
    pub hash_ids: Vec<u64>,
}

#[derive(Debug, thiserror::Error)]
#[error("line {line} is no request of a trace: {source}")]
pub struct BadTrace {
    line: usize,
    source: serde_json::Error,
}

/// Reads a trace, one JSON object a line.
pub fn read_trace(text: &str) -> Result<Rc<[Traced]>, BadTrace> {
    let line = |(at, line)| serde_json::from_str(line).map_err(|source| BadTrace { line: at + 1, source });
    text.lines().enumerate().map(line).collect()
}

/// Conversations of several turns, each repeating what was said before, behind a few system prompts.
pub fn invented_trace(seed: u64, conversations: usize) -> Rc<[Traced]> {
    let mut rng = Rng::with_seed(seed);
    let mut fresh = 1_000_000;
    let mut lines = Vec::new();
    for _ in 0..conversations {
        let system = rng.u64(0..5) * 10;
        let mut blocks: Vec<u64> = (system..system + 3).collect();
        let mut at_ms = rng.u64(0..600_000);
        for _turn in 0..rng.usize(1..8) {
            let grown = rng.u64(1..6);
            blocks.extend(fresh..fresh + grown);
            fresh += grown;
            lines.push(Traced {
                timestamp: at_ms,
                input_length: blocks.len() as u64 * BLOCK_TOKENS,
                output_length: rng.u64(20..400),
                hash_ids: blocks.clone(),
            });
            at_ms += rng.u64(5_000..60_000);
        }
    }
    lines.sort_by_key(|line| line.timestamp);
    lines.into()
}

/// The share of blocks that a cache of no end in one place would have known.
pub fn ideal_hits(trace: &[Traced]) -> f64 {
    let mut known = HashSet::new();
    let (mut hits, mut all) = (0, 0);
    for line in trace {
        all += line.hash_ids.len();
        hits += line.hash_ids.iter().take_while(|block| known.contains(*block)).count();
        known.extend(line.hash_ids.iter().copied());
    }
    hits as f64 / all.max(1) as f64
}

/// The next request and the time until it comes.
pub(super) fn next(plan: &Plan, count: usize, now: Duration, rng: &mut Rng) -> Option<(Duration, Arrival)> {
    let (wait, arrival) = match &plan.arrivals {
        Arrivals::Poisson { percent, output_tokens_mean } => {
            let capacity = plan.capacity(0..plan.regions.len());
            let per_second = capacity * f64::from(*percent) / 100.0 / PROMPT_TOKENS_MEAN;
            let wait = Duration::from_secs_f64(exponential(rng) / per_second);
            let prompt_tokens = 50 + (exponential(rng) * (PROMPT_TOKENS_MEAN - 50.0)) as u64;
            let arrival = Arrival {
                edge: rng.usize(0..plan.regions.len()),
                class: match rng.u32(0..10) {
                    0..3 => Priority::Interactive,
                    3..7 => Priority::Standard,
                    _ => Priority::Batch,
                },
                prompt_tokens: prompt_tokens.min(8_000),
                output_tokens: 1 + (exponential(rng) * f64::from(*output_tokens_mean)) as u64,
                blocks: [].into(),
            };
            (wait, arrival)
        }
        Arrivals::Trace(lines) => {
            let line = lines.get(count)?;
            // The first block is the system prompt that everybody shares.
            let conversation = line.hash_ids.get(1).or(line.hash_ids.first()).copied().unwrap_or(0);
            let arrival = Arrival {
                edge: (Rng::with_seed(conversation).u64(..) % plan.regions.len() as u64) as usize,
                class: Priority::Standard,
                prompt_tokens: line.input_length.max(1),
                output_tokens: line.output_length.max(1),
                blocks: line.hash_ids.as_slice().into(),
            };
            (Duration::from_millis(line.timestamp).saturating_sub(now), arrival)
        }
    };
    (now + wait <= plan.lasts).then_some((wait, arrival))
}

/// Of mean 1.
pub(super) fn exponential(rng: &mut Rng) -> f64 {
    -(1.0 - rng.f64()).ln()
}

pub const BLOCK_TOKENS: u64 = 512;
const PROMPT_TOKENS_MEAN: f64 = 1_000.0;
