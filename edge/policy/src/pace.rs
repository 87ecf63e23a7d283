//! In which order, and how fast, broken streams are asked for again.
//!
//! When a region is lost, all of its streams come to the survivors in one instant, and none of their prompts is
//! cached there. Sent at once, they would stand in front of everything else and make it late too. So they stand in a
//! line at the edge, highest class first, and leave it no faster than the survivors compute prompts they have never
//! seen. How long a client waits is then no surprise: what stands before it ÷ that rate.

use std::collections::BTreeMap;
use std::time::Duration;
use types::{Monotonic, Priority};

/// The line of one edge.
#[derive(Debug, Default)]
pub struct ResumePacer {
    /// Tokens that may leave now; below zero after one that was larger than what was left.
    credit: f64,
    tokens_per_s: u64,
    counted: Monotonic,
    next: u64,
    /// By place: the highest class first, then who came first.
    line: BTreeMap<Place, u64>,
    /// With what they cost, until they ask.
    called: BTreeMap<Place, u64>,
}

/// A place in the line. Hand it back with [`ResumePacer::leave`] when it is no longer wanted.
#[derive(Debug)]
#[must_use = "a place that is never asked about or left is called in vain"]
pub struct Ticket {
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    class: std::cmp::Reverse<Priority>,
    number: u64,
}

/// Whether a stream may be asked for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The ticket is used up.
    Now,
    /// Ask again then; perhaps once more after that, because higher classes go before.
    In(Duration),
}

/// The line is as long as it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{LINE_MAX} broken streams wait already")]
pub struct LineFull;

impl ResumePacer {
    /// How many prompt tokens the nodes that are left compute in a second beside their other work, as far as it is
    /// this edge's to use. Zero = not measured; then nobody waits, as what is unknown never stops traffic.
    pub fn set_rate(&mut self, tokens_per_s: u64, now: Monotonic) {
        self.count(now);
        self.tokens_per_s = tokens_per_s;
    }

    /// Takes a place for a stream whose prompt and answer so far are so many tokens.
    pub fn enqueue(&mut self, class: Priority, cost_tokens: u64, now: Monotonic) -> Result<Ticket, LineFull> {
        self.call(now);
        if self.line.len() >= LINE_MAX {
            return Err(LineFull);
        }
        let place = Place { class: std::cmp::Reverse(class), number: self.next };
        self.next += 1;
        self.line.insert(place, cost_tokens.max(1));
        Ok(Ticket { place })
    }

    pub fn turn(&mut self, ticket: &Ticket, now: Monotonic) -> Turn {
        self.call(now);
        if self.called.remove(&ticket.place).is_some() {
            return Turn::Now;
        }
        match self.line.contains_key(&ticket.place) {
            true => Turn::In(self.gap(ticket.place, ASK_AGAIN_MAX).clamp(ASK_AGAIN_MIN, ASK_AGAIN_MAX)),
            // Used already; asking twice must not make anybody wait for ever.
            false => Turn::Now,
        }
    }

    /// The stream is not wanted any more, or another way was found. What it was called for goes to the next.
    pub fn leave(&mut self, ticket: Ticket) {
        self.line.remove(&ticket.place);
        if let Some(cost) = self.called.remove(&ticket.place) {
            self.credit += cost as f64;
        }
    }

    /// How long the holder of this ticket waits from now on, if nobody comes before it.
    pub fn expected_gap(&mut self, ticket: &Ticket, now: Monotonic) -> Duration {
        self.call(now);
        self.gap(ticket.place, Duration::MAX)
    }

    /// Tokens that wait.
    pub fn backlog_tokens(&self) -> u64 {
        self.line.values().fold(0, |sum, cost| sum.saturating_add(*cost))
    }

    /// Counted no further than it matters: in a storm everybody asks, and the line is long.
    fn gap(&self, place: Place, enough: Duration) -> Duration {
        if self.tokens_per_s == 0 || !self.line.contains_key(&place) {
            return Duration::ZERO;
        }
        let rate = self.tokens_per_s as f64;
        let mut missing = -self.credit;
        for (_, cost) in self.line.range(..place) {
            if missing >= rate * enough.as_secs_f64() {
                return enough;
            }
            missing += *cost as f64;
        }
        Duration::try_from_secs_f64(missing.max(0.0) / rate).unwrap_or(Duration::MAX)
    }

    /// Lets those go whose turn has come. Any question moves the line, so that one who sleeps stops nobody.
    fn call(&mut self, now: Monotonic) {
        self.count(now);
        while self.tokens_per_s == 0 || self.credit >= 0.0 {
            let Some((place, cost)) = self.line.pop_first() else { return };
            self.credit -= cost as f64;
            self.called.insert(place, cost);
        }
    }

    fn count(&mut self, now: Monotonic) {
        let rate = self.tokens_per_s as f64;
        let earned = rate * now.since(self.counted).as_secs_f64();
        // What nobody needed does not pile up; without a rate there is nothing to owe either.
        self.credit = (self.credit + earned).min(rate * BURST.as_secs_f64());
        if self.tokens_per_s == 0 {
            self.credit = self.credit.max(0.0);
        }
        self.counted = self.counted.max(now);
    }
}

/// What of the capacity that is left resumes may use, beside the fresh work of so many tokens a second. When there is
/// more fresh work than capacity, people in the middle of reading still get their part.
pub fn spare(capacity_tokens_per_s: u64, fresh_tokens_per_s: u64) -> u64 {
    let least = capacity_tokens_per_s / 100 * RESUMES_PERCENT_MIN;
    capacity_tokens_per_s.saturating_sub(fresh_tokens_per_s).max(least)
}

/// A quarter: fresh work is then late by a third, and a region's streams of a minute are back within minutes.
const RESUMES_PERCENT_MIN: u64 = 25;
/// A few streams that break on a quiet day should not wait for each other.
const BURST: Duration = Duration::from_millis(250);
/// More than the streams that one edge carries; what cannot stand in line fails at once, and honestly.
const LINE_MAX: usize = 100_000;
const ASK_AGAIN_MIN: Duration = Duration::from_millis(1);
/// Those before may leave unserved, so nobody sleeps for the whole of its expected wait.
const ASK_AGAIN_MAX: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Batch, Interactive, Standard};
    use proptest::prelude::*;

    fn at_ms(ms: u64) -> Monotonic {
        Monotonic::from_micros(ms * 1000)
    }

    fn paced(tokens_per_s: u64) -> ResumePacer {
        let mut pacer = ResumePacer::default();
        pacer.set_rate(tokens_per_s, at_ms(0));
        pacer
    }

    /// When each ticket was called, asking every millisecond for a hundred seconds.
    fn called_at(pacer: &mut ResumePacer, tickets: Vec<Ticket>, from_ms: u64) -> Vec<u64> {
        let mut called = vec![u64::MAX; tickets.len()];
        for ms in from_ms..from_ms + 100_000 {
            for (ticket, at) in tickets.iter().zip(&mut called) {
                if *at == u64::MAX && pacer.turn(ticket, at_ms(ms)) == Turn::Now {
                    *at = ms;
                }
            }
            if !called.contains(&u64::MAX) {
                break;
            }
        }
        called
    }

    #[test]
    fn a_storm_leaves_in_order_of_class_and_no_faster_than_the_rate() {
        let mut pacer = paced(10_000);
        let classes = [Batch, Batch, Standard, Standard, Interactive, Interactive];
        // The first finds the line empty and goes at once.
        let first = pacer.enqueue(Batch, 10_000, at_ms(0)).unwrap();
        assert_eq!(pacer.turn(&first, at_ms(0)), Turn::Now);
        let tickets: Vec<_> =
            classes.iter().map(|class| pacer.enqueue(*class, 10_000, at_ms(0)).unwrap()).collect();
        assert_eq!(pacer.backlog_tokens(), 60_000);
        let gaps: Vec<_> =
            tickets.iter().map(|ticket| pacer.expected_gap(ticket, at_ms(0)).as_millis()).collect();
        assert_eq!(gaps, [5_000, 6_000, 3_000, 4_000, 1_000, 2_000], "backlog ÷ rate");
        let called = called_at(&mut pacer, tickets, 0);
        assert_eq!(called, [5_000, 6_000, 3_000, 4_000, 1_000, 2_000], "and so it comes");
    }

    #[test]
    fn a_few_on_a_quiet_day_and_an_unmeasured_pool_wait_for_nothing() {
        let mut quiet = paced(10_000);
        let tickets: Vec<_> = (0..3).map(|_| quiet.enqueue(Standard, 1_000, at_ms(1_000)).unwrap()).collect();
        assert_eq!(called_at(&mut quiet, tickets, 1_000), [1_000; 3]);
        let mut unmeasured = paced(0);
        let tickets: Vec<_> =
            (0..1_000).map(|_| unmeasured.enqueue(Batch, 1_000_000, at_ms(0)).unwrap()).collect();
        assert!(tickets.iter().all(|ticket| unmeasured.turn(ticket, at_ms(0)) == Turn::Now));
    }

    #[test]
    fn resumes_get_what_fresh_work_leaves_and_never_nothing() {
        assert_eq!(spare(10_000, 4_000), 6_000);
        assert_eq!(spare(10_000, 9_000), 2_500);
        assert_eq!(spare(10_000, 90_000), 2_500);
        assert_eq!(spare(0, 10), 0, "not measured");
    }

    #[test]
    fn who_leaves_makes_room() {
        let mut pacer = paced(1_000);
        let mut ticket = || pacer.enqueue(Standard, 1_000, at_ms(0)).unwrap();
        let (first, second, third) = (ticket(), ticket(), ticket());
        assert_eq!(pacer.turn(&first, at_ms(0)), Turn::Now);
        assert_eq!(pacer.expected_gap(&third, at_ms(0)), Duration::from_secs(2));
        pacer.leave(second);
        assert_eq!(pacer.expected_gap(&third, at_ms(0)), Duration::from_secs(1));
        // Also if nobody has told it yet that it was called.
        let mut pacer = paced(1_000);
        let mut ticket = || pacer.enqueue(Standard, 1_000, at_ms(0)).unwrap();
        let (first, second) = (ticket(), ticket());
        assert_eq!(pacer.expected_gap(&second, at_ms(0)), Duration::from_secs(1));
        pacer.leave(first);
        assert_eq!(pacer.turn(&second, at_ms(0)), Turn::Now);
    }

    #[test]
    fn a_quiet_time_saves_nothing_up_for_a_storm() {
        let mut pacer = paced(1_000);
        let after_a_while = at_ms(10_000);
        let tickets: Vec<_> = (0..20).map(|_| pacer.enqueue(Standard, 100, after_a_while).unwrap()).collect();
        let at_once = tickets.iter().filter(|ticket| pacer.turn(ticket, after_a_while) == Turn::Now).count();
        assert_eq!(at_once, 3, "a quarter of a second, and the one that overdraws it");
    }

    #[test]
    fn the_line_has_an_end() {
        let mut pacer = paced(1);
        let tickets: Vec<_> = (0..=LINE_MAX).map(|_| pacer.enqueue(Batch, 1_000, at_ms(0))).collect();
        assert!(tickets.iter().all(Result::is_ok), "one of them was called at once");
        assert_eq!(pacer.enqueue(Batch, 1, at_ms(0)).unwrap_err(), LineFull);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn never_past_the_rate(costs in prop::collection::vec(1_u64..5_000, 1..60), rate in 4_000_u64..50_000) {
            let mut pacer = paced(rate);
            let tickets: Vec<_> =
                costs.iter().map(|cost| pacer.enqueue(Standard, *cost, at_ms(0)).unwrap()).collect();
            let called = called_at(&mut pacer, tickets, 0);
            let largest = costs.iter().max().unwrap();
            for end in &called {
                let gone: u64 = costs.iter().zip(&called).filter(|(_, at)| *at <= end).map(|(cost, _)| cost).sum();
                prop_assert!(gone <= rate * end / 1000 + largest + 1, "{gone} tokens by {end} ms");
            }
        }
    }
}
