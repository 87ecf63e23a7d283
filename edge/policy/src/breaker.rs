//! Stops sending to a node that keeps failing.
//!
//! ```text
//! Closed --failures in a row, or most of many--> Open --ejection--> Probing --begun--> Closed, on trial
//!                                                 ^                    |                   |
//!                                                 +-------failed-------+------failed-------+
//! ```
//!
//! Each ejection is longer than the one before, so that a node that comes and goes is asked ever less often; a node
//! that serves for a while is forgiven one by one.
//!
//! An answer may take minutes, so a probe closes the breaker with its first token. The next failure opens it
//! again; an answer that is served to its end ends the trial.

use crate::budget::Window;
use std::time::Duration;
use types::Monotonic;

#[derive(Debug, Clone)]
pub struct Breaker {
    state: State,
    /// Grows with every change of state.
    generation: u64,
    /// Ejections that are not forgiven yet.
    ejections: u32,
    /// Since when forgiveness is counted.
    closed_at: Monotonic,
    served: Window,
    failed: Window,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Monotonic },
    Probing { until: Monotonic },
}

/// Leave to send one request; hand it back with the outcome.
#[derive(Debug)]
#[must_use = "a permit that is not handed back leaves a probing breaker waiting"]
pub struct Permit {
    generation: u64,
}

/// What came of a permitted request, as far as it tells of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Served,
    Failed,
    /// The client left, or the node had no room: neither praise nor blame.
    Unknown,
}

/// The breaker lets nothing through before this instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub until: Monotonic,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed { failures: 0 },
            generation: 0,
            ejections: 0,
            closed_at: Monotonic::default(),
            served: Window::new(RATE_SLOT),
            failed: Window::new(RATE_SLOT),
        }
    }
}

impl Breaker {
    /// Whether a request would be admitted now; changes nothing.
    pub fn would_admit(&self, now: Monotonic) -> Result<(), Refused> {
        match self.state {
            State::Open { until } | State::Probing { until } if now < until => Err(Refused { until }),
            _ => Ok(()),
        }
    }

    /// Admits a request, or one probe once the cooldown is over.
    pub fn admit(&mut self, now: Monotonic) -> Result<Permit, Refused> {
        self.would_admit(now)?;
        let until = now + PROBE_TIMEOUT;
        match self.state {
            State::Closed { .. } => {}
            State::Open { .. } => self.enter(State::Probing { until }),
            // The probe was not heard of for a while: perhaps lost, perhaps an answer that takes long.
            // Another may go, and the first to end decides for both.
            State::Probing { .. } => self.state = State::Probing { until },
        }
        Ok(Permit { generation: self.generation })
    }

    /// The answer to a permitted request has begun. That proves a probe; it does not forgive failures, or a node
    /// that dies after every first token would never be left alone.
    pub fn begun(&mut self, permit: &Permit) {
        if permit.generation == self.generation && matches!(self.state, State::Probing { .. }) {
            // The generation stays, so that the rest of this very answer counts.
            self.state = State::Closed { failures: FAILURES_MAX - 1 };
        }
    }

    /// A stream can outlive the state it began in by minutes; such a late answer is ignored.
    pub fn record(&mut self, permit: Permit, outcome: Outcome, now: Monotonic) {
        if permit.generation != self.generation {
            return;
        }
        match outcome {
            Outcome::Served => self.served.add(1, now),
            Outcome::Failed => self.failed.add(1, now),
            Outcome::Unknown => {}
        }
        let fails_mostly = self.fails_mostly(now);
        match (&mut self.state, outcome) {
            (State::Closed { failures }, Outcome::Served) => *failures = 0,
            (State::Closed { failures }, Outcome::Failed)
                if *failures + 1 < FAILURES_MAX && !fails_mostly =>
            {
                *failures += 1;
            }
            (State::Closed { .. }, Outcome::Unknown) => {}
            (_, Outcome::Served) => {
                self.closed_at = now;
                self.enter(State::Closed { failures: 0 });
            }
            (_, Outcome::Failed) => self.eject(now),
            // The next request may be the probe.
            (_, Outcome::Unknown) => self.enter(State::Open { until: now }),
        }
    }

    /// Another process answers there now; what the former one did says nothing of it. One request may try it at once.
    pub fn replaced(&mut self, now: Monotonic) {
        if !self.is_closed() {
            self.enter(State::Open { until: now });
        }
    }

    /// How often it opened of late.
    pub fn ejections(&self) -> u32 {
        self.ejections
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    fn eject(&mut self, now: Monotonic) {
        let served_for = match self.state {
            State::Closed { .. } => now.since(self.closed_at),
            State::Open { .. } | State::Probing { .. } => Duration::ZERO,
        };
        let forgiven = served_for.as_secs() / EJECTION.as_secs();
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        self.ejections = self.ejections.saturating_sub(forgiven).saturating_add(1).min(EJECTIONS_MAX);
        let (served, failed) = (Window::new(RATE_SLOT), Window::new(RATE_SLOT));
        (self.served, self.failed) = (served, failed);
        self.enter(State::Open { until: now + jittered(EJECTION * self.ejections, now) });
    }

    /// A node that serves every third request never fails five in a row.
    fn fails_mostly(&self, now: Monotonic) -> bool {
        let (served, failed) = (self.served.sum(now), self.failed.sum(now));
        served + failed >= RATE_RESULTS_MIN && failed * 100 >= (served + failed) * RATE_FAILED_PERCENT
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

/// Five in a row is no coincidence, and few enough that a dead node costs five retries.
const FAILURES_MAX: u32 = 5;
/// The n-th ejection in a row is n times as long.
const EJECTION: Duration = Duration::from_secs(30);
/// Five minutes: after that, longer only means that a repair is noticed later.
const EJECTIONS_MAX: u32 = 10;
/// Edges that saw the same failure must not all come back in the same instant.
const JITTER_PERCENT: u64 = 25;
/// A probe may be lost, or may wait behind a long line.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Ten of them are what the error rate looks back on.
const RATE_SLOT: Duration = Duration::from_secs(3);
/// Half of fewer is chance.
const RATE_RESULTS_MIN: u64 = 20;
const RATE_FAILED_PERCENT: u64 = 50;

/// Up to a quarter more. The microsecond in which it failed is dice enough, and no two edges share it.
fn jittered(ejection: Duration, now: Monotonic) -> Duration {
    let micros = u64::try_from(now.since(Monotonic::default()).as_micros()).unwrap_or(u64::MAX);
    // Fibonacci hashing: neighbouring microseconds land far apart.
    let dice = micros.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ejection + ejection.mul_f64(dice as f64 / f64::from(u32::MAX) * JITTER_PERCENT as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_micros(seconds * 1_000_000)
    }

    fn fail(breaker: &mut Breaker, times: u32, now: Monotonic) {
        for _ in 0..times {
            let permit = breaker.admit(now).unwrap();
            breaker.record(permit, Outcome::Failed, now);
        }
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            fail(&mut breaker, FAILURES_MAX - 1, at(0));
            let permit = breaker.admit(at(0)).unwrap();
            breaker.record(permit, Outcome::Served, at(0));
        }
        assert!(breaker.is_closed());
        fail(&mut breaker, FAILURES_MAX, at(0));
        let Refused { until } = breaker.admit(at(1)).unwrap_err();
        assert!((30..=38).contains(&until.since(at(0)).as_secs()), "{until:?}");
    }

    #[test]
    fn one_probe_decides() {
        for (outcome, closed) in [(Outcome::Served, true), (Outcome::Failed, false)] {
            let mut breaker = Breaker::default();
            fail(&mut breaker, FAILURES_MAX, at(0));
            let probe = breaker.admit(at(38)).unwrap();
            assert!(breaker.admit(at(38)).is_err(), "one probe at a time");
            breaker.record(probe, outcome, at(39));
            assert_eq!(breaker.is_closed(), closed);
        }
    }

    #[test]
    fn a_probe_that_tells_nothing_is_followed_by_another() {
        let mut breaker = Breaker::default();
        fail(&mut breaker, FAILURES_MAX, at(0));
        let probe = breaker.admit(at(38)).unwrap();
        breaker.record(probe, Outcome::Unknown, at(39));
        assert!(breaker.admit(at(39)).is_ok());
    }

    #[test]
    fn a_lost_probe_does_not_close_the_node_for_good() {
        let mut breaker = Breaker::default();
        fail(&mut breaker, FAILURES_MAX, at(0));
        let _lost = breaker.admit(at(38)).unwrap();
        assert!(breaker.admit(at(42)).is_err());
        assert!(breaker.admit(at(43)).is_ok());
    }

    #[test]
    fn a_probe_that_begins_to_answer_lets_others_in_on_trial() {
        for (outcome, refused) in [(Outcome::Served, false), (Outcome::Failed, true)] {
            let mut breaker = Breaker::default();
            fail(&mut breaker, FAILURES_MAX, at(0));
            let probe = breaker.admit(at(38)).unwrap();
            breaker.begun(&probe);
            let _other = breaker.admit(at(38)).expect("others may follow at once");
            breaker.record(probe, outcome, at(39));
            assert_eq!(breaker.admit(at(39)).is_err(), refused, "{outcome:?}");
        }
    }

    #[test]
    fn first_tokens_alone_forgive_nothing() {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_MAX {
            let permit = breaker.admit(at(0)).unwrap();
            breaker.begun(&permit);
            breaker.record(permit, Outcome::Failed, at(0));
        }
        assert!(breaker.admit(at(1)).is_err());
    }

    #[test]
    fn answers_that_outlast_the_cooldown_close_it_too() {
        let mut breaker = Breaker::default();
        fail(&mut breaker, FAILURES_MAX, at(0));
        let slow = breaker.admit(at(38)).unwrap();
        let _slower = breaker.admit(at(43)).unwrap();
        breaker.record(slow, Outcome::Served, at(44));
        assert!(breaker.is_closed());
    }

    #[test]
    fn a_late_answer_does_not_close_it() {
        let mut breaker = Breaker::default();
        let early = breaker.admit(at(0)).unwrap();
        fail(&mut breaker, FAILURES_MAX, at(1));
        breaker.record(early, Outcome::Served, at(2));
        assert!(breaker.admit(at(2)).is_err());
    }

    #[test]
    fn a_node_that_fails_most_of_its_requests_is_left_alone_too() {
        let mut breaker = Breaker::default();
        let mut sent = 0;
        while let Ok(permit) = breaker.admit(at(0)) {
            let outcome = if sent % 3 == 0 { Outcome::Served } else { Outcome::Failed };
            breaker.record(permit, outcome, at(0));
            sent += 1;
            assert!(sent < 1_000, "never five in a row, so a count of those alone lets it fail for ever");
        }
        assert_eq!(sent, RATE_RESULTS_MIN);
    }

    #[test]
    fn a_node_that_comes_and_goes_is_asked_ever_less_often() {
        let mut breaker = Breaker::default();
        let mut now = at(0);
        let mut probes = 0;
        fail(&mut breaker, FAILURES_MAX, now);
        while now < at(3_600) {
            match breaker.admit(now) {
                Ok(probe) => {
                    probes += 1;
                    breaker.record(probe, Outcome::Failed, now);
                }
                Err(Refused { until }) => now = until,
            }
        }
        // At equal ejections of 30 s it would be asked about a hundred times.
        assert!((13..=17).contains(&probes), "{probes}");
        assert_eq!(breaker.ejections(), EJECTIONS_MAX);
        // Served again for five minutes, it begins anew.
        let probe = breaker.admit(at(5_000)).unwrap();
        breaker.record(probe, Outcome::Served, at(5_000));
        fail(&mut breaker, FAILURES_MAX, at(5_301));
        assert_eq!(breaker.ejections(), 1);
    }

    #[test]
    fn a_new_process_is_tried_at_once() {
        let mut breaker = Breaker::default();
        fail(&mut breaker, FAILURES_MAX, at(0));
        breaker.replaced(at(1));
        assert!(breaker.admit(at(1)).is_ok());
        assert!(breaker.admit(at(1)).is_err(), "by one request");
    }

    #[test]
    fn edges_do_not_come_back_in_one_instant() {
        let ends: std::collections::BTreeSet<_> =
            (0..100).map(|micros| jittered(EJECTION, Monotonic::from_micros(micros)).as_millis()).collect();
        assert!(ends.len() > 90);
        assert!(ends.iter().all(|ms| (30_000..=37_500).contains(ms)));
    }
}
