//! What the engine says of its own load: written by the step loop, read by whoever asks.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use types::{LoadFrame, LoadState};

/// Counters are read one by one: a frame may mix two neighbouring steps, which routing does not mind.
#[derive(Debug)]
pub struct Load {
    boot: u64,
    slots: usize,
    sequence: AtomicU64,
    running: AtomicUsize,
    uncomputed_tokens: AtomicUsize,
    kv_free_tokens: AtomicUsize,
    step_us: Mean,
    prefill_rate: Mean,
    decode_rate: Mean,
    epoch: Instant,
    /// When the step began that goes on now, in microseconds of the epoch and one more; 0 between steps.
    step_began: AtomicU64,
}

/// The scheduler's state after a step.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    pub running: usize,
    pub uncomputed_tokens: usize,
    pub kv_free_tokens: usize,
}

/// A moving mean; 0 before the first value. One writer.
#[derive(Debug, Default)]
struct Mean(AtomicU64);

impl Load {
    /// `boot` is random, so that a restart shows.
    pub fn new(boot: u64, slots: usize, kv_tokens: usize) -> Self {
        Self {
            boot,
            slots,
            sequence: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            uncomputed_tokens: AtomicUsize::new(0),
            kv_free_tokens: AtomicUsize::new(kv_tokens),
            step_us: Mean::default(),
            prefill_rate: Mean::default(),
            decode_rate: Mean::default(),
            epoch: Instant::now(),
            step_began: AtomicU64::new(0),
        }
    }

    pub fn step_begins(&self) {
        self.step_began.store(self.epoch.elapsed().as_micros() as u64 + 1, Relaxed);
    }

    /// How long the step takes that goes on now.
    pub fn step_age(&self) -> Option<Duration> {
        let began = self.step_began.load(Relaxed).checked_sub(1)?;
        Some(self.epoch.elapsed().saturating_sub(Duration::from_micros(began)))
    }

    pub fn stands(&self, standing: Standing) {
        self.running.store(standing.running, Relaxed);
        self.uncomputed_tokens.store(standing.uncomputed_tokens, Relaxed);
        self.kv_free_tokens.store(standing.kv_free_tokens, Relaxed);
    }

    /// A step took this long, with the wait that a least step time adds.
    pub fn stepped(&self, took: Duration, prefilled: usize, decoded: usize) {
        self.step_began.store(0, Relaxed);
        let seconds = took.as_secs_f64().max(1e-6);
        self.step_us.add(seconds * 1e6);
        // A short prompt alone takes a step as well: it would only show how little was asked.
        for (mean, tokens, min) in
            [(&self.prefill_rate, prefilled, PREFILL_MEASURED_MIN), (&self.decode_rate, decoded, 1)]
        {
            if tokens >= min {
                mean.add(tokens as f64 / seconds);
            }
        }
    }

    pub fn running(&self) -> usize {
        self.running.load(Relaxed)
    }

    pub fn kv_free_tokens(&self) -> usize {
        self.kv_free_tokens.load(Relaxed)
    }

    /// Seconds until the prompts that wait now are computed, as far as measured.
    pub fn queue_wait(&self) -> Duration {
        let rate = self.prefill_rate.get();
        let seconds = if rate > 0.0 { self.uncomputed_tokens.load(Relaxed) as f64 / rate } else { 0.0 };
        Duration::from_secs_f64(seconds.min(QUEUE_WAIT_SECONDS_MAX))
    }

    /// A new frame for a sender who has accepted so many requests and not ended them.
    pub fn frame(&self, state: LoadState, accepted: usize) -> LoadFrame {
        let running = self.running();
        LoadFrame {
            boot: self.boot,
            sequence: self.sequence.fetch_add(1, Relaxed) + 1,
            state,
            replicas: u32::from(state == LoadState::Serving),
            slots: self.slots as u32,
            running: running as u32,
            queued: accepted.saturating_sub(running) as u32,
            queued_prefill_tokens: self.uncomputed_tokens.load(Relaxed) as u64,
            kv_free_tokens: self.kv_free_tokens() as u64,
            gpu_free_mib: 0,
            step_us: self.step_us.get() as u32,
            prefill_tokens_per_s: self.prefill_rate.get() as u32,
            decode_tokens_per_s: self.decode_rate.get() as u32,
        }
    }
}

impl Mean {
    fn add(&self, value: f64) {
        let mean = self.get();
        let next = if mean == 0.0 { value } else { mean + WEIGHT * (value - mean) };
        self.0.store(next.to_bits(), Relaxed);
    }

    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// Of the newest value: some ten steps back is the past.
const WEIGHT: f64 = 0.1;
/// Prompt tokens of one step that tell how fast prompts are computed.
const PREFILL_MEASURED_MIN: usize = 128;
/// Longer forecasts are guesses.
const QUEUE_WAIT_SECONDS_MAX: f64 = 60.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_the_steps_that_did_the_work() {
        let load = Load::new(7, 8, 1024);
        load.step_begins();
        assert!(load.step_age().is_some());
        load.stepped(Duration::from_millis(10), 200, 0);
        assert_eq!(load.step_age(), None);
        // With a prompt that is too short to tell anything.
        load.stepped(Duration::from_millis(20), 6, 4);
        load.stands(Standing { running: 3, uncomputed_tokens: 50_000, kv_free_tokens: 64 });
        let frame = load.frame(LoadState::Serving, 5);
        assert_eq!((frame.prefill_tokens_per_s, frame.decode_tokens_per_s), (20_000, 200));
        assert_eq!((frame.step_us, frame.running, frame.queued), (11_000, 3, 2));
        assert_eq!((frame.boot, frame.sequence, load.frame(LoadState::Serving, 0).sequence), (7, 1, 2));
        assert_eq!(load.queue_wait(), Duration::from_millis(2_500));
    }
}
