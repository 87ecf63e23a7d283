//! What this edge may do twice, and in which order; the rules are `policy`'s.

use crate::Edge;
use policy::hedge::{FirstTokens, HedgeBudget};
use policy::{Health, ResumeBudget, ResumePacer, RetryBudget, Ticket, Turn};
use std::time::Duration;
use types::{ModelVersion, Monotonic, Priority, RegionName};

/// One for all requests of an edge.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    retries: RetryBudget,
    hedges: HedgeBudget,
    first_tokens: FirstTokens,
    resumes: ResumeBudget,
    line: ResumePacer,
    /// When the line was told last how fast it may move.
    rate_set: Option<Monotonic>,
}

/// A broken stream's place among those that shall go on; given up when dropped.
pub(crate) struct InLine<'a> {
    edge: &'a Edge,
    class: Priority,
    cost: u64,
    ticket: Option<Ticket>,
}

/// What is said to a stream that stands in line.
pub(crate) enum Called {
    /// The resume is paid for.
    Now,
    /// Ask again then.
    In(Duration),
    /// Those before it have spent the budget.
    Never,
}

impl Budgets {
    /// A request made its first attempt, which all budgets are shares of.
    pub(crate) fn first_sent(&mut self, prompt_tokens: u64, now: Monotonic) {
        self.retries.earned(prompt_tokens, now);
        self.resumes.earned(prompt_tokens, now);
        self.hedges.earned(now);
    }

    /// A first token came, so long after it was asked for first.
    pub(crate) fn first_token(
        &mut self,
        region: &RegionName,
        version: ModelVersion,
        took: Duration,
        now: Monotonic,
    ) {
        self.first_tokens.observe(region, version, took, now);
    }

    /// For an attempt after one that may have computed its prompt.
    pub(crate) fn take_retry(&mut self, prompt_tokens: u64, now: Monotonic) -> bool {
        let may = self.retries.may_retry(prompt_tokens, now);
        if may {
            self.retries.spent(prompt_tokens, now);
        }
        may
    }

    /// When an attempt in that region is later than most.
    pub(crate) fn hedge_after(
        &self,
        region: &RegionName,
        version: ModelVersion,
        prompt_tokens: u64,
        now: Monotonic,
    ) -> Option<Duration> {
        self.first_tokens.hedge_after(region, version, prompt_tokens, now)
    }

    pub(crate) fn take_hedge(&mut self, now: Monotonic) -> bool {
        let may = self.hedges.may_hedge(now);
        if may {
            self.hedges.spent(now);
        }
        may
    }

    /// A place costs nothing: most of those who stand in it leave before their turn when the line is long.
    fn take_place(&mut self, class: Priority, cost: u64, now: Monotonic) -> Option<Ticket> {
        let may = self.resumes.may_resume(class, cost, now);
        may.then(|| self.line.enqueue(class, cost, now).ok()).flatten()
    }

    fn take_resume(&mut self, class: Priority, cost: u64, now: Monotonic) -> bool {
        let may = self.resumes.may_resume(class, cost, now);
        if may {
            self.resumes.spent(cost, now);
        }
        may
    }

    fn wants_rate(&self, now: Monotonic) -> bool {
        self.rate_set.is_none_or(|set| now.since(set) > RATE_AGE_MAX)
    }

    fn set_rate(&mut self, tokens_per_s: u64, now: Monotonic) {
        self.line.set_rate(tokens_per_s, now);
        self.rate_set = Some(now);
    }
}

impl<'a> InLine<'a> {
    /// `None` = the budget is spent, or the line too long.
    pub(crate) fn enter(edge: &'a Edge, class: Priority, cost: u64) -> Option<Self> {
        let now = edge.clock.now();
        // Not under both locks: all requests wait for the one of health.
        if edge.budgets().wants_rate(now) {
            let all = Health::prefill_tokens_per_s(&edge.health(), now);
            edge.budgets().set_rate(all / RATE_SHARE, now);
        }
        let ticket = edge.budgets().take_place(class, cost, now);
        if ticket.is_none() {
            edge.metrics.budget_refused.with_label_values(&["resume"]).inc();
        }
        Some(Self { edge, class, cost, ticket: Some(ticket?) })
    }

    /// How long it will take, unless higher classes come.
    pub(crate) fn expected(&self) -> Duration {
        let (mut budgets, now) = (self.edge.budgets(), self.edge.clock.now());
        self.ticket.as_ref().map_or(Duration::ZERO, |ticket| budgets.line.expected_gap(ticket, now))
    }

    /// Whether its turn has come, which takes the resume out of the budget.
    pub(crate) fn called(&mut self) -> Called {
        let (mut budgets, now) = (self.edge.budgets(), self.edge.clock.now());
        let Some(ticket) = &self.ticket else { return Called::Now };
        if let Turn::In(wait) = budgets.line.turn(ticket, now) {
            return Called::In(wait);
        }
        self.ticket = None;
        if budgets.take_resume(self.class, self.cost, now) {
            return Called::Now;
        }
        self.edge.metrics.budget_refused.with_label_values(&["resume"]).inc();
        Called::Never
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.edge.budgets().line.leave(ticket);
        }
    }
}

/// The nodes compute new prompts as well, and for other edges. Half is what they are asked to give to what broke.
const RATE_SHARE: u64 = 2;
/// As often as loads are heard.
const RATE_AGE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_is_counted_and_the_line_is_closed_to_those_without_budget() {
        let (mut budgets, now) = (Budgets::default(), Monotonic::default());
        let spent = (0..10_000).take_while(|_| budgets.take_resume(Priority::Batch, 1_000, now)).count();
        assert!(spent < 10_000);
        assert!(budgets.take_place(Priority::Batch, 1_000, now).is_none(), "it would be refused in the end");
        assert!(budgets.take_place(Priority::Interactive, 1_000, now).is_some());
        assert!((0..10_000).take_while(|_| budgets.take_retry(1_000, now)).count() < 10_000);
        assert!((0..10_000).take_while(|_| budgets.take_hedge(now)).count() < 10_000);
    }
}
