//! What came of a simulated world.

use std::collections::BTreeMap;
use std::time::Duration;
use types::Priority;

#[derive(Debug, Clone)]
pub struct Tally {
    pub seed: u64,
    pub seconds: Vec<Second>,
    pub failures: Vec<Failure>,
    pub attempts: u64,
    pub retries: u64,
    pub resumes: u64,
    /// Between the last token before a break and the first after it.
    pub gap_max: Duration,
    pub blocks: u64,
    pub blocks_hit: u64,
}

#[derive(Debug, Clone)]
pub struct Failure {
    pub at: Duration,
    pub class: Priority,
    pub why: &'static str,
}

/// By class in the order of [`Priority`]: batch, standard, interactive.
#[derive(Debug, Clone, Default)]
pub struct Second {
    pub arrived: [u32; 3],
    /// Of these, by the second in which they arrived.
    pub served: [u32; 3],
    /// Told at once that there is no room.
    pub shed: [u32; 3],
    pub failed: [u32; 3],
    /// Prompt tokens of requests whose first token came in this second.
    pub goodput_tokens: u64,
    /// Attempts, by region.
    pub sent: Vec<u32>,
    /// The longest line of any node, by region.
    pub queued_max: Vec<u32>,
    /// Of requests that arrived in this second.
    pub first_tokens: Vec<Duration>,
}

impl Tally {
    pub fn new(seed: u64, seconds: usize, regions: usize) -> Self {
        let second = Second { sent: vec![0; regions], queued_max: vec![0; regions], ..Second::default() };
        Self {
            seed,
            seconds: vec![second; seconds],
            failures: Vec::new(),
            attempts: 0,
            retries: 0,
            resumes: 0,
            gap_max: Duration::ZERO,
            blocks: 0,
            blocks_hit: 0,
        }
    }

    /// What comes after the end is counted in the last second.
    pub fn second(&mut self, at: Duration) -> &mut Second {
        let last = self.seconds.len() - 1;
        &mut self.seconds[(at.as_secs() as usize).min(last)]
    }

    pub fn sum(&self, count: impl Fn(&Second) -> [u32; 3]) -> [u64; 3] {
        let mut sums = [0; 3];
        for second in &self.seconds {
            for (sum, count) in sums.iter_mut().zip(count(second)) {
                *sum += u64::from(count);
            }
        }
        sums
    }

    pub fn arrived(&self) -> u64 {
        self.sum(|second| second.arrived).iter().sum()
    }

    pub fn served(&self) -> u64 {
        self.sum(|second| second.served).iter().sum()
    }

    pub fn shed(&self) -> [u64; 3] {
        self.sum(|second| second.shed)
    }

    pub fn failed(&self) -> u64 {
        self.failures.len() as u64
    }

    /// How many failed of each cause.
    pub fn causes(&self) -> BTreeMap<&'static str, u64> {
        let mut causes = BTreeMap::new();
        for failure in &self.failures {
            *causes.entry(failure.why).or_default() += 1;
        }
        causes
    }

    /// Prompt tokens a second.
    pub fn goodput(&self, seconds: std::ops::Range<usize>) -> f64 {
        let tokens: u64 = self.seconds[seconds.clone()].iter().map(|second| second.goodput_tokens).sum();
        tokens as f64 / seconds.len() as f64
    }

    pub fn hit_rate(&self) -> f64 {
        self.blocks_hit as f64 / self.blocks.max(1) as f64
    }

    /// A region's part of all attempts in some seconds.
    pub fn share(&self, region: usize, seconds: std::ops::Range<usize>) -> f64 {
        let seconds = &self.seconds[seconds];
        let all: u32 = seconds.iter().flat_map(|second| &second.sent).sum();
        let its: u32 = seconds.iter().map(|second| second.sent[region]).sum();
        f64::from(its) / f64::from(all.max(1))
    }

    /// How often a region's share turned from growing to shrinking or back by more than chance moves it.
    pub fn turns(&self, region: usize, seconds: std::ops::Range<usize>) -> usize {
        let starts = (seconds.start..seconds.end.saturating_sub(TURN_S - 1)).step_by(TURN_S);
        let shares: Vec<f64> = starts.map(|start| self.share(region, start..start + TURN_S)).collect();
        let Some(mut extreme) = shares.first().copied() else { return 0 };
        let (mut direction, mut turns) = (0.0, 0);
        for share in shares {
            let moved = share - extreme;
            if moved * direction > 0.0 {
                extreme = share;
            } else if moved.abs() >= TURN_SHARE_MIN {
                turns += usize::from(direction != 0.0);
                (direction, extreme) = (moved.signum(), share);
            }
        }
        turns
    }

    /// Of requests that arrived in some seconds; zero if there are none.
    pub fn first_token(&self, percent: usize, seconds: std::ops::Range<usize>) -> Duration {
        let seconds = &self.seconds[seconds];
        let mut all: Vec<Duration> =
            seconds.iter().flat_map(|second| &second.first_tokens).copied().collect();
        all.sort_unstable();
        let at = (all.len() * percent / 100).min(all.len().saturating_sub(1));
        all.get(at).copied().unwrap_or_default()
    }

    pub fn queued_max(&self, region: usize, seconds: std::ops::Range<usize>) -> u32 {
        self.seconds[seconds].iter().map(|second| second.queued_max[region]).max().unwrap_or(0)
    }
}

const TURN_S: usize = 20;
/// Twenty seconds of 900 requests have a standard deviation of less than 2 % of share; ten seconds move by 8 % now and
/// then in a world without faults, too.
const TURN_SHARE_MIN: f64 = 0.08;
