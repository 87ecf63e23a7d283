//! The life of one replica's place: a process that is started, serves, ends, and is started again.
//!
//! ```text
//!           start            ready             exit, or killed after missed probes
//! Resting ────────> Starting ──────> Serving ───────────────┐
//!    ^                 │ exit, or killed after the deadline │
//!    └─────────────────┴────────────────────────────────────┘
//! drain: Resting ──> Over     Starting, Serving ──> Draining ──stop, exit──> Over
//! ```
//!
//! Pure: [`crate::supervise`] waits for the next event, asks here what to do, and does it.

use std::time::Duration;
use types::Monotonic;

/// One place on the node; each start in it is another replica.
#[derive(Debug)]
pub struct Life {
    phase: Phase,
    starts: u32,
    is_failing: bool,
    /// How long the next rest will be.
    backoff: Duration,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing but time passing, up to [`Life::wakes_at`].
    Woke,
    Ready,
    ProbeAnswered,
    ProbeMissed,
    /// The process ended, or could not be started.
    Exited,
    /// Take no new work, and do not start again.
    Drain,
    /// What was to finish has finished, or took too long.
    Stop,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Nothing,
    Start {
        start: u32,
    },
    /// Give it requests; after a broken connection: again.
    Announce,
    /// Give it no more requests.
    Withdraw,
    /// Give it no more requests and end it; its exit follows.
    Kill(Why),
    /// Ask it to end, and see that it does; its exit follows.
    Terminate,
    /// Give it no more requests; start another after a rest.
    Rest(Duration),
    /// The supervisor's work is done.
    Finish,
}

/// Why a living process is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    NotReadyInTime,
    MissedProbes,
}

/// What operators see of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Starting,
    Serving,
    Draining,
    Gone,
}

impl Stage {
    pub const ALL: [Self; 4] = [Self::Starting, Self::Serving, Self::Draining, Self::Gone];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Gone => "gone",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Resting {
        until: Monotonic,
    },
    Starting {
        deadline: Monotonic,
    },
    Serving {
        since: Monotonic,
        missed: u32,
    },
    /// Killed; the address is free once the process has ended.
    Ending,
    Draining,
    Over,
}

impl Life {
    /// Starts at the first waking, in a place that was started so often before.
    pub fn new(starts: u32, now: Monotonic) -> Self {
        Self { phase: Phase::Resting { until: now }, starts, is_failing: false, backoff: BACKOFF_FIRST }
    }

    pub fn on(&mut self, event: Event, now: Monotonic) -> Act {
        match (self.phase, event) {
            (Phase::Resting { until }, Event::Woke) if now >= until => {
                let start = self.starts;
                self.starts += 1;
                self.phase = Phase::Starting { deadline: now + START_MAX };
                Act::Start { start }
            }
            (Phase::Resting { .. }, Event::Drain) => {
                self.phase = Phase::Over;
                Act::Finish
            }
            (Phase::Starting { .. }, Event::Ready) => {
                self.phase = Phase::Serving { since: now, missed: 0 };
                self.is_failing = false;
                Act::Announce
            }
            (Phase::Starting { deadline }, Event::Woke) if now >= deadline => {
                self.is_failing = true;
                self.phase = Phase::Ending;
                Act::Kill(Why::NotReadyInTime)
            }
            (Phase::Serving { since, .. }, Event::ProbeAnswered) => {
                self.phase = Phase::Serving { since, missed: 0 };
                Act::Announce
            }
            (Phase::Serving { since, missed }, Event::ProbeMissed) => {
                let missed = missed + 1;
                if missed < MISSED_PROBES_MAX {
                    self.phase = Phase::Serving { since, missed };
                    return Act::Nothing;
                }
                self.note_service(since, now);
                self.is_failing = true;
                self.phase = Phase::Ending;
                Act::Kill(Why::MissedProbes)
            }
            (Phase::Serving { since, .. }, Event::Exited) => {
                self.note_service(since, now);
                self.rest(now)
            }
            (Phase::Starting { .. } | Phase::Ending, Event::Exited) => self.rest(now),
            (Phase::Starting { .. } | Phase::Serving { .. } | Phase::Ending, Event::Drain) => {
                self.phase = Phase::Draining;
                Act::Withdraw
            }
            (Phase::Draining, Event::Stop) => Act::Terminate,
            (Phase::Draining, Event::Exited) => {
                self.phase = Phase::Over;
                Act::Finish
            }
            _ => Act::Nothing,
        }
    }

    /// When time alone changes something.
    pub fn wakes_at(&self) -> Option<Monotonic> {
        match self.phase {
            Phase::Resting { until } => Some(until),
            Phase::Starting { deadline } => Some(deadline),
            Phase::Serving { .. } | Phase::Ending | Phase::Draining | Phase::Over => None,
        }
    }

    pub fn stage(&self) -> Stage {
        match self.phase {
            Phase::Starting { .. } => Stage::Starting,
            Phase::Serving { .. } => Stage::Serving,
            Phase::Draining => Stage::Draining,
            Phase::Resting { .. } | Phase::Ending | Phase::Over => Stage::Gone,
        }
    }

    /// How often this place was started.
    pub fn starts(&self) -> u32 {
        self.starts
    }

    /// It ended, or was killed, and has not served since.
    pub fn is_failing(&self) -> bool {
        self.is_failing
    }

    /// A replica that served well for a while did not crash because of how it was started.
    fn note_service(&mut self, since: Monotonic, now: Monotonic) {
        if now.since(since) >= SERVED_WELL {
            self.backoff = BACKOFF_FIRST;
        }
    }

    fn rest(&mut self, now: Monotonic) -> Act {
        self.is_failing = true;
        let rest = self.backoff;
        self.backoff = (rest * 2).min(BACKOFF_MAX);
        self.phase = Phase::Resting { until: now + rest };
        Act::Rest(rest)
    }
}

/// Weights of many gigabytes take minutes from a slow disk; a hung start must still end.
const START_MAX: Duration = Duration::from_secs(120);
/// One late answer is a busy host, three are a hung engine.
const MISSED_PROBES_MAX: u32 = 3;
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// An engine that can never start costs the host one attempt in half a minute.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const SERVED_WELL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Monotonic {
        Monotonic::from_micros(millis * 1000)
    }

    fn serving_since(millis: u64) -> Life {
        let mut life = Life::new(0, at(millis));
        assert_eq!(life.on(Event::Woke, at(millis)), Act::Start { start: 0 });
        assert_eq!(life.on(Event::Ready, at(millis)), Act::Announce);
        life
    }

    #[test]
    fn each_start_is_another_replica_after_a_longer_rest() {
        let mut life = Life::new(0, at(0));
        let mut now = at(0);
        for (start, rest_ms) in
            [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000].into_iter().enumerate()
        {
            assert_eq!(life.on(Event::Woke, now), Act::Start { start: start as u32 });
            let rest = Duration::from_millis(rest_ms);
            assert_eq!(life.on(Event::Exited, now), Act::Rest(rest));
            assert_eq!(life.stage(), Stage::Gone);
            assert_eq!(life.wakes_at(), Some(now + rest));
            assert_eq!(life.on(Event::Woke, now), Act::Nothing, "woke too early");
            now = now + rest;
        }
    }

    #[test]
    fn a_minute_of_service_makes_the_next_rest_short_again() {
        for (served_ms, rest_ms) in [(59_999, 400), (60_000, 200)] {
            let mut life = Life::new(0, at(0));
            life.on(Event::Woke, at(0));
            life.on(Event::Exited, at(0));
            life.on(Event::Woke, at(200));
            life.on(Event::Ready, at(200));
            let rest = Act::Rest(Duration::from_millis(rest_ms));
            assert_eq!(life.on(Event::Exited, at(200 + served_ms)), rest);
        }
    }

    #[test]
    fn three_missed_probes_in_a_row_kill() {
        let mut life = serving_since(0);
        assert_eq!(life.on(Event::ProbeMissed, at(1)), Act::Nothing);
        assert_eq!(life.on(Event::ProbeMissed, at(2)), Act::Nothing);
        assert_eq!(life.on(Event::ProbeAnswered, at(3)), Act::Announce);
        assert_eq!(life.on(Event::ProbeMissed, at(4)), Act::Nothing);
        assert_eq!(life.on(Event::ProbeMissed, at(5)), Act::Nothing);
        assert_eq!(life.stage(), Stage::Serving);
        assert_eq!(life.on(Event::ProbeMissed, at(6)), Act::Kill(Why::MissedProbes));
        assert_eq!(life.on(Event::ProbeAnswered, at(7)), Act::Nothing, "it is already being ended");
        assert!(matches!(life.on(Event::Exited, at(8)), Act::Rest(_)));
    }

    #[test]
    fn a_start_that_hangs_is_killed_and_tried_again() {
        let mut life = Life::new(0, at(0));
        life.on(Event::Woke, at(0));
        assert_eq!(life.on(Event::Woke, at(119_999)), Act::Nothing);
        assert_eq!(life.on(Event::Woke, at(120_000)), Act::Kill(Why::NotReadyInTime));
        assert_eq!(life.on(Event::Ready, at(120_001)), Act::Nothing, "too late");
        assert!(matches!(life.on(Event::Exited, at(120_002)), Act::Rest(_)));
    }

    #[test]
    fn it_fails_from_its_end_until_it_serves() {
        let mut life = Life::new(0, at(0));
        life.on(Event::Woke, at(0));
        assert!(!life.is_failing());
        life.on(Event::Exited, at(1));
        assert!(life.is_failing());
        life.on(Event::Woke, at(500));
        assert!(life.is_failing(), "a second attempt is no service");
        life.on(Event::Ready, at(501));
        assert!(!life.is_failing());

        let mut hangs = Life::new(0, at(0));
        hangs.on(Event::Woke, at(0));
        hangs.on(Event::Woke, at(120_000));
        assert!(hangs.is_failing());
    }

    #[test]
    fn a_place_s_next_life_goes_on_counting() {
        let mut life = Life::new(3, at(0));
        assert_eq!(life.on(Event::Woke, at(0)), Act::Start { start: 3 });
        assert_eq!(life.starts(), 4);
    }

    #[test]
    fn nothing_starts_after_a_drain() {
        let mut serving = serving_since(0);
        assert_eq!(serving.on(Event::Drain, at(1)), Act::Withdraw);
        assert_eq!(serving.on(Event::ProbeAnswered, at(2)), Act::Nothing, "not announced again");
        assert_eq!(serving.on(Event::ProbeMissed, at(3)), Act::Nothing, "not killed while it finishes");
        assert_eq!(serving.on(Event::Stop, at(4)), Act::Terminate);
        assert_eq!(serving.on(Event::Exited, at(4)), Act::Finish);
        assert_eq!(serving.on(Event::Woke, at(999_999)), Act::Nothing);

        let mut starting = Life::new(0, at(0));
        starting.on(Event::Woke, at(0));
        assert_eq!(starting.on(Event::Drain, at(1)), Act::Withdraw);
        assert_eq!(starting.on(Event::Ready, at(2)), Act::Nothing);
        assert_eq!(starting.on(Event::Exited, at(3)), Act::Finish);

        assert_eq!(Life::new(0, at(0)).on(Event::Drain, at(0)), Act::Finish);
    }
}
