//! How much work an edge may cause twice.
//!
//! A retry repeats a prompt that a node may already have computed; when everything is slow, retries are what keeps
//! it slow. So repeated work is paid from a share of the first work of late, in prompt tokens, because a long
//! prompt costs more than a short one. Attempts that got no head cost nothing and are not paid for: the most that
//! one request makes bounds them.

use std::time::Duration;
use types::{Monotonic, Priority};

/// For attempts after one that failed with its head already here.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    earned: Window,
    spent: Window,
    retries: Window,
}

/// For the rest of answers whose node was lost in their midst. Apart from retries, so that neither starves the
/// other: a region's loss resumes everything it had at once.
#[derive(Debug, Clone)]
pub struct ResumeBudget {
    earned: Window,
    spent: Window,
    resumes: Window,
}

impl Default for RetryBudget {
    fn default() -> Self {
        let window = || Window::new(RETRY_SLOT);
        Self { earned: window(), spent: window(), retries: window() }
    }
}

impl RetryBudget {
    /// A request's first attempt, of so many prompt tokens, was sent.
    pub fn earned(&mut self, tokens: u64, now: Monotonic) {
        self.earned.add(tokens, now);
    }

    pub fn may_retry(&self, cost_tokens: u64, now: Monotonic) -> bool {
        let spent = self.spent.sum(now).saturating_add(cost_tokens);
        self.retries.sum(now) < RETRIES_FREE || spent <= self.earned.sum(now) / RETRY_SHARE
    }

    /// A retry of so many prompt tokens was sent.
    pub fn spent(&mut self, cost_tokens: u64, now: Monotonic) {
        self.spent.add(cost_tokens, now);
        self.retries.add(1, now);
    }
}

impl Default for ResumeBudget {
    fn default() -> Self {
        let window = || Window::new(RESUME_SLOT);
        Self { earned: window(), spent: window(), resumes: window() }
    }
}

impl ResumeBudget {
    /// A request's first attempt, of so many prompt tokens, was sent.
    pub fn earned(&mut self, tokens: u64, now: Monotonic) {
        self.earned.add(tokens, now);
    }

    /// Each request may be resumed once, with an answer as long as its prompt: a region's loss does no more. Lower
    /// classes reach the end of the budget earlier, so that what is left is there for the higher.
    pub fn may_resume(&self, class: Priority, cost_tokens: u64, now: Monotonic) -> bool {
        let percent = match class {
            Priority::Interactive => 200,
            Priority::Standard => 150,
            Priority::Batch => 100,
        };
        let budget = self.earned.sum(now) / 100 * percent;
        let free = RESUMES_FREE * percent / 200;
        self.resumes.sum(now) < free || self.spent.sum(now).saturating_add(cost_tokens) <= budget
    }

    /// A resume of so many tokens, prompt and answer so far, was sent.
    pub fn spent(&mut self, cost_tokens: u64, now: Monotonic) {
        self.spent.add(cost_tokens, now);
        self.resumes.add(1, now);
    }
}

/// A sum over the latest [`SLOTS`] slots of time. Of fixed size, whatever happens.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    slot: Duration,
    slots: [u64; SLOTS],
    /// The slot, counted from the clock's start, that was written last.
    latest: u64,
}

impl Window {
    pub(crate) fn new(slot: Duration) -> Self {
        Self { slot, slots: [0; SLOTS], latest: 0 }
    }

    pub(crate) fn add(&mut self, amount: u64, now: Monotonic) {
        let number = self.number(now);
        // Slots that nothing was written to since are empty. More than all of them need not be emptied.
        for passed in (self.latest + 1..=number).rev().take(SLOTS) {
            self.slots[place(passed)] = 0;
        }
        self.latest = self.latest.max(number);
        let slot = &mut self.slots[place(self.latest)];
        *slot = slot.saturating_add(amount);
    }

    pub(crate) fn sum(&self, now: Monotonic) -> u64 {
        let oldest = (self.number(now) + 1).saturating_sub(SLOTS as u64);
        let kept = (self.latest + 1).saturating_sub(SLOTS as u64)..=self.latest;
        kept.filter(|number| *number >= oldest)
            .fold(0, |sum, number| sum.saturating_add(self.slots[place(number)]))
    }

    fn number(&self, now: Monotonic) -> u64 {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        micros(now.since(Monotonic::default())) / micros(self.slot).max(1)
    }
}

fn place(number: u64) -> usize {
    (number % SLOTS as u64) as usize
}

const SLOTS: usize = 10;
/// Ten of them look back 10 s: long enough to smooth arrivals, short enough to feel an outage.
const RETRY_SLOT: Duration = Duration::from_secs(1);
/// A tenth of the work: with three attempts to a request, a full outage costs 1.1 times the load and not 3 times.
const RETRY_SHARE: u64 = 10;
/// So many retries in a window need no earnings: a quiet edge has none, and so few hurt nobody.
const RETRIES_FREE: u64 = 64;
/// Ten of them look back 5 min: longer than most streams, which earned when they began.
const RESUME_SLOT: Duration = Duration::from_secs(30);
/// What a young edge may have to resume before it earned anything: some hundred streams, begun in the last seconds.
const RESUMES_FREE: u64 = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at_ms(ms: u64) -> Monotonic {
        Monotonic::from_micros(ms * 1000)
    }

    /// Everything fails after its head, for a minute, at 100 requests a second, each with up to three attempts.
    fn attempts_in_an_outage(budget: Option<&mut RetryBudget>) -> u64 {
        let mut unlimited = RetryBudget::default();
        let limited = budget.is_some();
        let budget = budget.unwrap_or(&mut unlimited);
        let mut attempts = 0;
        for request in 0..6_000 {
            let now = at_ms(request * 10);
            attempts += 1;
            budget.earned(1_000, now);
            for _retry in 0..2 {
                if !limited || budget.may_retry(1_000, now) {
                    budget.spent(1_000, now);
                    attempts += 1;
                }
            }
        }
        attempts
    }

    #[test]
    fn an_outage_is_not_tripled_by_retries() {
        assert_eq!(attempts_in_an_outage(None), 18_000, "what it prevents");
        let attempts = attempts_in_an_outage(Some(&mut RetryBudget::default()));
        assert!((6_600..=6_700).contains(&attempts), "{attempts}");
    }

    #[test]
    fn a_quiet_edge_may_retry_and_long_prompts_cost_more() {
        let mut budget = RetryBudget::default();
        for _ in 0..RETRIES_FREE {
            assert!(budget.may_retry(50_000, at_ms(0)));
            budget.spent(50_000, at_ms(0));
        }
        assert!(!budget.may_retry(1, at_ms(0)));
        assert!(!budget.may_retry(1, at_ms(9_999)));
        assert!(budget.may_retry(1, at_ms(10_000)), "a window later");
    }

    #[test]
    fn the_end_of_the_resume_budget_is_for_the_highest_class() {
        let mut budget = ResumeBudget::default();
        budget.earned(1_000_000, at_ms(0));
        let mut served = Vec::new();
        for class in [Priority::Batch, Priority::Standard, Priority::Interactive] {
            let mut count = 0;
            while budget.may_resume(class, 1_000, at_ms(1)) {
                budget.spent(1_000, at_ms(1));
                count += 1;
            }
            served.push(count);
        }
        assert_eq!(served, [1_000, 500, 500]);
    }

    #[test]
    fn a_young_edge_saves_all_of_its_streams() {
        let mut budget = ResumeBudget::default();
        for _ in 0..500 {
            budget.earned(50, at_ms(0));
        }
        for _ in 0..500 {
            assert!(budget.may_resume(Priority::Batch, 150, at_ms(3_000)));
            budget.spent(150, at_ms(3_000));
        }
    }

    proptest! {
        #[test]
        fn a_window_is_the_sum_of_its_latest_slots(
            mut adds in prop::collection::vec((0_u64..40_000, 0_u64..100), 0..50),
            later in 0_u64..30_000,
        ) {
            adds.sort();
            let mut window = Window::new(RETRY_SLOT);
            for (at, amount) in &adds {
                window.add(*amount, at_ms(*at));
            }
            let now = adds.last().map_or(0, |(at, _)| *at) + later;
            let counted = |at: u64| at / 1000 + SLOTS as u64 > now / 1000;
            let sum: u64 = adds.iter().filter(|(at, _)| counted(*at)).map(|(_, amount)| amount).sum();
            prop_assert_eq!(window.sum(at_ms(now)), sum);
        }
    }
}
