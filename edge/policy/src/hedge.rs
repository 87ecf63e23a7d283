//! When a first token is so late that a second attempt is sent beside the first.
//!
//! Late is what nineteen of twenty first tokens of that region and version are not. Hedges are few by budget: when
//! everything is slow, everything is late, and hedging it all would double the load.

use crate::budget::Window;
use std::collections::BTreeMap;
use std::time::Duration;
use types::{ModelVersion, Monotonic, RegionName};

/// How long first tokens took of late, for each region and version.
#[derive(Debug, Default)]
pub struct FirstTokens {
    sketches: BTreeMap<(RegionName, ModelVersion), Sketch>,
}

#[derive(Debug, Clone)]
pub struct HedgeBudget {
    requests: Window,
    hedges: Window,
}

/// Counts by size in steps of a quarter octave, of this period and the one before: 19 % of error, 560 bytes.
#[derive(Debug, Clone)]
struct Sketch {
    period: u64,
    current: [u32; SIZES],
    before: [u32; SIZES],
}

impl FirstTokens {
    /// A first token took so long. One that was given up for a hedge counts with the time it was waited for, or the
    /// late ones would vanish from the picture and make "late" ever earlier.
    pub fn observe(&mut self, region: &RegionName, version: ModelVersion, took: Duration, now: Monotonic) {
        let key = (region.clone(), version);
        if !self.sketches.contains_key(&key) && self.sketches.len() >= SKETCHES_MAX {
            let oldest = self.sketches.iter().min_by_key(|(_, sketch)| sketch.period);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { return };
            self.sketches.remove(&oldest);
        }
        self.sketches.entry(key).or_insert_with(|| Sketch::new(now)).add(took, now);
    }

    /// `None` = no hedge: too little is known, or the prompt is too long to compute it twice.
    pub fn hedge_after(
        &self,
        region: &RegionName,
        version: ModelVersion,
        prompt_tokens: u64,
        now: Monotonic,
    ) -> Option<Duration> {
        if prompt_tokens > PROMPT_TOKENS_MAX {
            return None;
        }
        let p95 = self.sketches.get(&(region.clone(), version))?.p95(now)?;
        Some(p95.max(HEDGE_AFTER_MIN))
    }
}

impl Sketch {
    fn new(now: Monotonic) -> Self {
        Self { period: period(now), current: [0; SIZES], before: [0; SIZES] }
    }

    fn add(&mut self, took: Duration, now: Monotonic) {
        match period(now).saturating_sub(self.period) {
            0 => {}
            1 => self.before = std::mem::replace(&mut self.current, [0; SIZES]),
            _ => (self.before, self.current) = ([0; SIZES], [0; SIZES]),
        }
        self.period = self.period.max(period(now));
        let count = &mut self.current[size(took)];
        *count = count.saturating_add(1);
    }

    fn p95(&self, now: Monotonic) -> Option<Duration> {
        let counts = |size: usize| match period(now).saturating_sub(self.period) {
            0 => u64::from(self.current[size]) + u64::from(self.before[size]),
            1 => u64::from(self.current[size]),
            _ => 0,
        };
        let total: u64 = (0..SIZES).map(counts).sum();
        if total < SAMPLES_MIN {
            return None;
        }
        let mut below = 0;
        let found = (0..SIZES).find(|size| {
            below += counts(*size);
            below * 100 >= total * 95
        });
        found.map(upper_end)
    }
}

fn period(now: Monotonic) -> u64 {
    now.since(Monotonic::default()).as_secs() / PERIOD_S
}

fn size(took: Duration) -> usize {
    let steps = (took.as_secs_f64() / SMALLEST.as_secs_f64()).max(1.0).log2() * STEPS_PER_OCTAVE;
    (steps as usize).min(SIZES - 1)
}

fn upper_end(size: usize) -> Duration {
    SMALLEST.mul_f64(((size + 1) as f64 / STEPS_PER_OCTAVE).exp2())
}

impl Default for HedgeBudget {
    fn default() -> Self {
        let window = || Window::new(BUDGET_SLOT);
        Self { requests: window(), hedges: window() }
    }
}

impl HedgeBudget {
    /// A request's first attempt was sent.
    pub fn earned(&mut self, now: Monotonic) {
        self.requests.add(1, now);
    }

    pub fn may_hedge(&self, now: Monotonic) -> bool {
        let hedges = self.hedges.sum(now);
        hedges < HEDGES_FREE || hedges * 100 < self.requests.sum(now) * HEDGES_PERCENT
    }

    pub fn spent(&mut self, now: Monotonic) {
        self.hedges.add(1, now);
    }
}

const SMALLEST: Duration = Duration::from_millis(1);
const STEPS_PER_OCTAVE: f64 = 4.0;
/// Up to 1 ms · 2^(70/4), three minutes: later than any first token that is still waited for.
const SIZES: usize = 70;
/// What was normal two minutes ago is forgotten.
const PERIOD_S: u64 = 60;
/// The 95th percentile of fewer is only their largest.
const SAMPLES_MIN: u64 = 20;
/// Ten regions with a hundred versions; beyond it the one that was silent longest is forgotten.
const SKETCHES_MAX: usize = 1_000;
/// About 50 ms of an accelerator. A longer prompt costs more than the wait it might save.
const PROMPT_TOKENS_MAX: u64 = 2_048;
/// A fast pool's own jitter is no reason to send twice.
const HEDGE_AFTER_MIN: Duration = Duration::from_millis(20);
const BUDGET_SLOT: Duration = Duration::from_secs(1);
/// By its definition the 95th percentile is passed by 5 %.
const HEDGES_PERCENT: u64 = 5;
const HEDGES_FREE: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_micros(seconds * 1_000_000)
    }

    fn here() -> (RegionName, ModelVersion) {
        ("us-east".parse().unwrap(), ModelVersion::from_digest([1; 32]))
    }

    fn after(seen: &FirstTokens, prompt: u64, now: Monotonic) -> Option<Duration> {
        let (region, version) = here();
        seen.hedge_after(&region, version, prompt, now)
    }

    #[test]
    fn late_is_what_nineteen_of_twenty_are_not() {
        let (region, version) = here();
        let mut seen = FirstTokens::default();
        assert_eq!(after(&seen, 10, at(0)), None, "nothing is known");
        for request in 0..100 {
            let took = if request % 20 == 0 { 3_000 } else { 100 };
            seen.observe(&region, version, Duration::from_millis(took), at(0));
        }
        let late = after(&seen, 10, at(0)).unwrap().as_millis();
        assert!((100..=120).contains(&late), "{late}");
        assert_eq!(after(&seen, PROMPT_TOKENS_MAX + 1, at(0)), None, "too long a prompt");
        assert!(after(&seen, 10, at(119)).is_some());
        assert_eq!(after(&seen, 10, at(120)), None, "forgotten");
        seen.observe(&region, version, Duration::from_millis(1), at(600));
        assert_eq!(after(&seen, 10, at(600)), None, "what was before the pause does not come back");
    }

    #[test]
    fn a_slow_world_is_not_doubled_by_hedges() {
        let mut budget = HedgeBudget::default();
        let mut hedges = 0;
        for request in 0..6_000 {
            let now = Monotonic::from_micros(request * 10_000);
            budget.earned(now);
            // Without the budget, every one of them.
            if budget.may_hedge(now) {
                budget.spent(now);
                hedges += 1;
            }
        }
        assert!((290..=310).contains(&hedges), "{hedges}");
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let (region, _) = here();
        let mut seen = FirstTokens::default();
        for number in 0..2 * SKETCHES_MAX {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_le_bytes());
            seen.observe(&region, ModelVersion::from_digest(digest), SMALLEST, at(number as u64));
        }
        assert_eq!(seen.sketches.len(), SKETCHES_MAX);
    }

    proptest! {
        #[test]
        fn the_sketch_is_a_quarter_octave_from_the_truth(
            mut samples in prop::collection::vec(1_000_u64..100_000_000, 20..200),
        ) {
            let mut sketch = Sketch::new(at(0));
            for micros in &samples {
                sketch.add(Duration::from_micros(*micros), at(0));
            }
            samples.sort();
            let truth = samples[(samples.len() * 95).div_ceil(100) - 1] as f64;
            let told = sketch.p95(at(0)).unwrap().as_micros() as f64;
            prop_assert!(told >= truth * 0.999 && told <= truth * 1.2, "{told} for {truth}");
        }
    }
}
