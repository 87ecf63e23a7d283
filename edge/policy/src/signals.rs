//! What was heard of one model version on one node, and what this edge has begun there since.
//!
//! Frames come in answers, in answers to probes, and second-hand by way of the control plane. Between two of them
//! this edge counts what it sends itself, or a burst would all go to the node that looked idle last.

use crate::predict::Load;
use std::time::Duration;
use types::{LoadFrame, LoadState, Monotonic};

/// Whether a node can serve a version, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    NotReady,
    Draining,
    /// Nothing was heard, or too long ago.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    pub(crate) frame: LoadFrame,
    pub(crate) at: Monotonic,
    /// How old it was by then.
    pub(crate) age: Duration,
}

/// One version on one node.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// The node's own word.
    pub(crate) own: Option<Heard>,
    /// Second-hand.
    pub(crate) reported: Option<Heard>,
    begun: Begun,
    /// This edge's requests there, and the prompts of those whose answers have not begun.
    in_flight: u64,
    in_flight_tokens: u64,
}

/// What was begun and is in no frame yet, oldest first.
#[derive(Debug, Default)]
struct Begun {
    requests: Vec<(Monotonic, u64, u64)>,
}

impl Heard {
    pub(crate) fn is_fresh(&self, now: Monotonic) -> bool {
        self.age_at(now) <= LOAD_AGE_MAX
    }

    /// The last instant at which it is fresh.
    pub(crate) fn fresh_until(&self) -> Monotonic {
        self.at + LOAD_AGE_MAX.saturating_sub(self.age)
    }

    fn age_at(&self, now: Monotonic) -> Duration {
        now.since(self.at).saturating_add(self.age)
    }

    /// Frames overtake each other on parallel streams and ways; within one boot the sequence tells which is newer.
    fn replaces(&self, known: &Self, now: Monotonic) -> bool {
        if self.frame.boot == known.frame.boot {
            self.frame.sequence >= known.frame.sequence
        } else {
            self.age_at(now) <= known.age_at(now)
        }
    }

    pub(crate) fn readiness(&self) -> Readiness {
        match self.frame {
            LoadFrame { state: LoadState::Draining, .. } => Readiness::Draining,
            LoadFrame { replicas: 0, .. } => Readiness::NotReady,
            _ => Readiness::Ready,
        }
    }
}

impl Signals {
    /// The node said so itself. True if another process answers there than before.
    pub(crate) fn hear(&mut self, frame: LoadFrame, rtt: Duration, now: Monotonic) -> bool {
        let heard = Heard { frame, at: now, age: Duration::ZERO };
        if self.own.is_some_and(|known| !heard.replaces(&known, now)) {
            return false;
        }
        let restarted = self.own.is_some_and(|known| known.frame.boot != frame.boot);
        self.own = Some(heard);
        self.begun.covered(rtt, Duration::ZERO, now);
        restarted
    }

    /// Somebody else heard so.
    pub(crate) fn reported(&mut self, frame: LoadFrame, age: Duration, rtt: Duration, now: Monotonic) {
        let report = Heard { frame, at: now, age };
        if [self.own, self.reported].into_iter().flatten().any(|known| !report.replaces(&known, now)) {
            return;
        }
        self.reported = Some(report);
        // While the node's own word is fresh, that is what is added to.
        if !self.own.is_some_and(|own| own.is_fresh(now)) {
            self.begun.covered(rtt, age, now);
        }
    }

    /// Nobody is believed any more; what runs there goes on.
    pub(crate) fn forget(&mut self) {
        (self.own, self.reported) = (None, None);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.own.is_none() && self.reported.is_none() && self.in_flight == 0
    }

    /// What holds now: the node's own word before that of others.
    pub(crate) fn fresh(&self, now: Monotonic) -> Option<&Heard> {
        let fresh = |heard: &&Heard| heard.is_fresh(now);
        self.own.as_ref().filter(fresh).or(self.reported.as_ref().filter(fresh))
    }

    pub(crate) fn load(&self, now: Monotonic) -> Load {
        match self.fresh(now) {
            Some(heard) => {
                let (begun, tokens) = self.begun.sum();
                Load::of(&heard.frame, begun, tokens)
            }
            None => Load::unknown(self.in_flight, self.in_flight_tokens),
        }
    }

    pub(crate) fn begin(&mut self, tokens: u64, now: Monotonic) {
        self.in_flight += 1;
        self.in_flight_tokens = self.in_flight_tokens.saturating_add(tokens);
        self.begun.add(tokens, now);
    }

    /// A prompt that was begun at `at` is computed.
    pub(crate) fn prefilled(&mut self, at: Monotonic, tokens: u64) {
        self.in_flight_tokens = self.in_flight_tokens.saturating_sub(tokens);
        self.begun.remove(at, 0, tokens);
    }

    pub(crate) fn end(&mut self, at: Monotonic) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.begun.remove(at, 1, 0);
    }
}

impl Begun {
    fn add(&mut self, tokens: u64, now: Monotonic) {
        let is_full = self.requests.len() == BEGUN_MAX;
        // What began in one instant is one; where there is no room, so are the youngest two, as if both were begun
        // now: counted a little too long rather than not.
        match self.requests.last_mut().filter(|last| is_full || last.0 == now) {
            Some(last) => *last = (now, last.1 + 1, last.2.saturating_add(tokens)),
            None => self.requests.push((now, 1, tokens)),
        }
    }

    /// A frame of `age` counts what was begun a way there and back before it.
    fn covered(&mut self, rtt: Duration, age: Duration, now: Monotonic) {
        self.requests.retain(|(at, _, _)| now.since(*at) < rtt.saturating_add(age));
    }

    fn remove(&mut self, at: Monotonic, requests: u64, tokens: u64) {
        let index = self.requests.partition_point(|(begun, _, _)| *begun < at);
        let Some(entry) = self.requests.get_mut(index) else { return };
        entry.1 = entry.1.saturating_sub(requests);
        entry.2 = entry.2.saturating_sub(tokens);
        if (entry.1, entry.2) == (0, 0) {
            self.requests.remove(index);
        }
    }

    fn sum(&self) -> (u64, u64) {
        let add = |sum: (u64, u64), begun: &(_, u64, u64)| (sum.0 + begun.1, sum.1.saturating_add(begun.2));
        self.requests.iter().fold((0, 0), add)
    }
}

/// Five probes; older load is unknown.
pub(crate) const LOAD_AGE_MAX: Duration = Duration::from_secs(5);
/// More than one edge begins on one node between two frames, unless the node says nothing of itself.
const BEGUN_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> Monotonic {
        Monotonic::from_micros(ms * 1000)
    }

    fn frame(sequence: u64) -> LoadFrame {
        LoadFrame { sequence, replicas: 1, state: LoadState::Serving, ..LoadFrame::default() }
    }

    #[test]
    fn a_burst_between_two_frames_is_seen_at_once() {
        let rtt = Duration::from_millis(100);
        let mut signals = Signals::default();
        signals.hear(frame(1), rtt, at_ms(0));
        for ms in [10, 20, 200] {
            signals.begin(500, at_ms(ms));
        }
        let seen = |signals: &Signals, ms| {
            let load = signals.load(at_ms(ms));
            (load.outstanding, load.queued_tokens)
        };
        assert_eq!(seen(&signals, 200), (3, 1500));
        // On its way back while the third was on its way there.
        signals.hear(LoadFrame { running: 2, queued_prefill_tokens: 900, ..frame(2) }, rtt, at_ms(250));
        assert_eq!(seen(&signals, 250), (3, 1400));
        signals.prefilled(at_ms(200), 500);
        assert_eq!(seen(&signals, 260), (3, 900), "computed, and still running");
        signals.end(at_ms(200));
        assert_eq!(seen(&signals, 270), (2, 900));
        assert_eq!(seen(&signals, 9000), (2, 1000), "nothing heard: what this edge has there");
    }

    #[test]
    fn a_silent_node_costs_no_memory() {
        let mut signals = Signals::default();
        (0..10_000).for_each(|ms| signals.begin(1, at_ms(ms)));
        assert_eq!(signals.begun.requests.len(), BEGUN_MAX);
        assert_eq!(signals.begun.sum(), (10_000, 10_000));
    }
}
