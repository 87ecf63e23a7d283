//! Stops sending to a node that keeps failing.
//!
//! ```text
//! Closed --failures in a row--> Open --cooldown--> Probing --begun--> Closed, on trial
//!                                ^                    |                   |
//!                                +-------failed-------+------failed-------+
//! ```
//!
//! An answer may take minutes, so a probe closes the breaker with its first token. The next failure opens it
//! again; an answer that is served to its end ends the trial.

use std::time::Duration;
use types::Monotonic;

#[derive(Debug, Clone)]
pub struct Breaker {
    state: State,
    /// Grows with every change of state.
    generation: u64,
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
        Self { state: State::Closed { failures: 0 }, generation: 0 }
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
        let until = now + COOLDOWN;
        match self.state {
            State::Closed { .. } => {}
            State::Open { .. } => self.enter(State::Probing { until }),
            // The probe was not heard of for a whole cooldown: perhaps lost, perhaps an answer that takes long.
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
        match (&mut self.state, outcome) {
            (State::Closed { failures }, Outcome::Served) => *failures = 0,
            (State::Closed { failures }, Outcome::Failed) if *failures + 1 < FAILURES_MAX => *failures += 1,
            (State::Closed { .. }, Outcome::Unknown) => {}
            (_, Outcome::Served) => self.enter(State::Closed { failures: 0 }),
            (_, Outcome::Failed) => self.enter(State::Open { until: now + COOLDOWN }),
            // The next request may be the probe.
            (_, Outcome::Unknown) => self.enter(State::Open { until: now }),
        }
    }

    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

/// Five in a row is no coincidence, and few enough that a dead node costs five retries.
const FAILURES_MAX: u32 = 5;
/// Longer than an engine's restart.
const COOLDOWN: Duration = Duration::from_secs(5);

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
        for _ in 0..10 {
            fail(&mut breaker, FAILURES_MAX - 1, at(0));
            let permit = breaker.admit(at(0)).unwrap();
            breaker.record(permit, Outcome::Served, at(0));
        }
        assert!(breaker.is_closed());
        fail(&mut breaker, FAILURES_MAX, at(0));
        assert_eq!(breaker.admit(at(1)).unwrap_err(), Refused { until: at(0) + COOLDOWN });
    }

    #[test]
    fn one_probe_decides() {
        for (outcome, closed) in [(Outcome::Served, true), (Outcome::Failed, false)] {
            let mut breaker = Breaker::default();
            fail(&mut breaker, FAILURES_MAX, at(0));
            let probe = breaker.admit(at(5)).unwrap();
            assert!(breaker.admit(at(5)).is_err(), "one probe at a time");
            breaker.record(probe, outcome, at(6));
            assert_eq!(breaker.is_closed(), closed);
        }
    }

    #[test]
    fn a_probe_that_tells_nothing_is_followed_by_another() {
        let mut breaker = Breaker::default();
        fail(&mut breaker, FAILURES_MAX, at(0));
        let probe = breaker.admit(at(5)).unwrap();
        breaker.record(probe, Outcome::Unknown, at(6));
        assert!(breaker.admit(at(6)).is_ok());
    }

    #[test]
    fn a_lost_probe_does_not_close_the_node_for_good() {
        let mut breaker = Breaker::default();
        fail(&mut breaker, FAILURES_MAX, at(0));
        let _lost = breaker.admit(at(5)).unwrap();
        assert!(breaker.admit(at(9)).is_err());
        assert!(breaker.admit(at(10)).is_ok());
    }

    #[test]
    fn a_probe_that_begins_to_answer_lets_others_in_on_trial() {
        for (outcome, refused) in [(Outcome::Served, false), (Outcome::Failed, true)] {
            let mut breaker = Breaker::default();
            fail(&mut breaker, FAILURES_MAX, at(0));
            let probe = breaker.admit(at(5)).unwrap();
            breaker.begun(&probe);
            let _other = breaker.admit(at(5)).expect("others may follow at once");
            breaker.record(probe, outcome, at(6));
            assert_eq!(breaker.admit(at(6)).is_err(), refused, "{outcome:?}");
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
        let slow = breaker.admit(at(5)).unwrap();
        let _slower = breaker.admit(at(10)).unwrap();
        breaker.record(slow, Outcome::Served, at(14));
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
}
