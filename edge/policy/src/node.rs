//! What this edge has seen of one node.

use crate::breaker::Breaker;
use crate::signals::{Heard, LOAD_AGE_MAX, Readiness, Signals};
use std::collections::BTreeMap;
use std::time::Duration;
use types::intent::NodeKind;
use types::{LoadFrame, ModelVersion, Monotonic, NodeKey};

/// One node, as this edge sees it.
#[derive(Debug)]
pub struct NodeHealth {
    pub breaker: Breaker,
    /// This edge's own requests there; correct at every instant, unlike any report.
    pub in_flight: u32,
    /// Prompts of theirs whose answers have not begun.
    pub in_flight_prefill_tokens: u64,
    pub(crate) key: NodeKey,
    pub(crate) hash: u64,
    /// What the routing table says of it; `None` once it has left the table.
    pub(crate) kind: Option<NodeKind>,
    /// It, or its region.
    pub(crate) drained: bool,
    /// Its region, and its place among the region's nodes.
    pub(crate) region: usize,
    pub(crate) place: usize,
    /// The versions that operators say it serves; `None` = it says so itself.
    pub(crate) serves_only: Option<Vec<ModelVersion>>,
    pub(crate) versions: BTreeMap<ModelVersion, Signals>,
    /// A moving mean.
    pub(crate) rtt_us: Option<u64>,
    /// Since when it is new, or another process than before.
    pub(crate) slow_since: Option<Monotonic>,
    /// Joined a table that was in use; it has not served yet.
    pub(crate) is_new: bool,
    probes_missed: u32,
    /// Answered in a row since it was down; `None` = it was not.
    probes_good: Option<u32>,
    was_up: bool,
    /// Set by the first whole answer to a probe: only then an absent version means "not here".
    load_complete_at: Option<Monotonic>,
}

/// What speaks against a node without being a hard fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    Good,
    /// It answers again, but not for long.
    Recovering,
    /// Its breaker is not closed.
    Broken,
    /// It does not answer probes.
    Silent,
}

impl NodeHealth {
    pub(crate) fn new(key: NodeKey) -> Self {
        let hash = crate::hash::of_bytes(&[key.region.as_str().as_bytes(), key.node.as_str().as_bytes()]);
        Self {
            breaker: Breaker::default(),
            in_flight: 0,
            in_flight_prefill_tokens: 0,
            key,
            hash,
            kind: None,
            drained: false,
            region: 0,
            place: 0,
            serves_only: None,
            versions: BTreeMap::new(),
            rtt_us: None,
            slow_since: None,
            is_new: false,
            probes_missed: 0,
            probes_good: None,
            was_up: false,
            load_complete_at: None,
        }
    }

    /// Down is three missed probes; one lost packet must not move a continent's traffic.
    pub fn is_down(&self) -> bool {
        self.probes_missed >= PROBES_MISSED_MAX
    }

    pub fn standing(&self) -> Standing {
        if self.is_down() {
            Standing::Silent
        } else if !self.breaker.is_closed() {
            Standing::Broken
        } else if self.probes_good.is_some() {
            Standing::Recovering
        } else {
            Standing::Good
        }
    }

    pub fn readiness(&self, version: ModelVersion, now: Monotonic) -> Readiness {
        if self.serves_only.as_ref().is_some_and(|only| !only.contains(&version)) {
            return Readiness::NotReady;
        }
        let signals = self.versions.get(&version);
        let own = signals.and_then(|signals| signals.own.as_ref());
        if let Some(own) = own.filter(|own| own.is_fresh(now)) {
            return own.readiness();
        }
        let is_complete = self.load_complete_at.is_some_and(|at| now.since(at) <= LOAD_AGE_MAX);
        if is_complete && own.is_none() {
            return Readiness::NotReady;
        }
        // A version that a report does not name may have been in a frame that could not be read.
        let reported = signals.and_then(|signals| signals.reported.as_ref());
        reported.filter(|heard| heard.is_fresh(now)).map_or(Readiness::Unknown, Heard::readiness)
    }

    /// Whether a version is known to be served here.
    pub fn serves(&self, version: ModelVersion, now: Monotonic) -> bool {
        !self.is_down() && self.readiness(version, now) == Readiness::Ready
    }

    /// Whether it has as many requests of this edge as operators allow. Agents keep a line of their own.
    pub(crate) fn is_full(&self) -> bool {
        matches!(&self.kind, Some(NodeKind::OpenAi(server)) if self.in_flight >= server.slots)
    }

    /// The smoothed time there and back.
    pub(crate) fn rtt(&self) -> Duration {
        Duration::from_micros(self.rtt_us.unwrap_or(0))
    }

    /// When something of what was heard becomes too old.
    pub(crate) fn expires(&self, now: Monotonic) -> Option<Monotonic> {
        let heard = self.versions.values().flat_map(|signals| [signals.own, signals.reported]).flatten();
        let complete = self.load_complete_at.map(|at| at + LOAD_AGE_MAX);
        heard.map(|heard| heard.fresh_until()).chain(complete).filter(|until| *until >= now).min()
    }

    /// It speaks; what of, the caller takes from there.
    pub(crate) fn alive(&mut self, now: Monotonic) {
        if self.is_down() && self.was_up {
            self.probes_good = Some(0);
        }
        self.probes_missed = 0;
        self.was_up = true;
        if let Some(good) = &mut self.probes_good {
            *good += 1;
            if *good >= PROBES_GOOD_MIN {
                self.probes_good = None;
                self.slow_since = Some(now);
            }
        }
    }

    pub(crate) fn silent(&mut self) {
        self.probes_missed = self.probes_missed.saturating_add(1);
        // Good ones in a row are counted.
        if let Some(good) = &mut self.probes_good {
            *good = 0;
        }
    }

    /// The whole picture of what it serves.
    pub(crate) fn complete(&mut self, frames: &[(ModelVersion, LoadFrame)], now: Monotonic) {
        self.load_complete_at = Some(now);
        for (version, signals) in &mut self.versions {
            if !frames.iter().any(|(known, _)| known == version) {
                signals.own = None;
            }
        }
    }

    pub(crate) fn hear(&mut self, version: ModelVersion, frame: LoadFrame, now: Monotonic) {
        let (rtt, serves) = (self.rtt(), frame.replicas > 0);
        if self.versions.len() >= VERSIONS_MAX && !self.versions.contains_key(&version) {
            return;
        }
        let restarted = self.versions.entry(version).or_default().hear(frame, rtt, now);
        if restarted {
            self.breaker.replaced(now);
        }
        if restarted || self.is_new && serves {
            self.slow_since = Some(now);
            self.is_new = false;
        }
    }

    /// It says itself that no replica of a version serves there.
    pub(crate) fn missing(&mut self, version: ModelVersion, now: Monotonic) {
        let known = self.versions.get(&version).and_then(|signals| signals.own);
        let frame = known.map_or_else(LoadFrame::default, |known| LoadFrame { replicas: 0, ..known.frame });
        self.versions.entry(version).or_default().own = Some(Heard { frame, at: now, age: Duration::ZERO });
    }

    pub(crate) fn hear_report(
        &mut self,
        version: ModelVersion,
        frame: LoadFrame,
        age: Duration,
        now: Monotonic,
    ) {
        let rtt = self.rtt();
        if self.versions.len() < VERSIONS_MAX || self.versions.contains_key(&version) {
            self.versions.entry(version).or_default().reported(frame, age, rtt, now);
        }
    }

    /// Bounds the versions that strangers can name.
    pub(crate) fn forget_stale_reports(&mut self, now: Monotonic) {
        for signals in self.versions.values_mut() {
            signals.reported = signals.reported.filter(|report| report.is_fresh(now));
        }
        self.versions.retain(|_, signals| !signals.is_idle());
    }

    pub(crate) fn hear_rtt(&mut self, rtt: Duration) {
        let sample = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).min(RTT_US_MAX);
        self.rtt_us = Some(match self.rtt_us {
            None => sample,
            // Waiting in queues only adds to it, so a short one tells more of the way than a long one.
            Some(known) if sample < known => known - (known - sample) / 2,
            Some(known) => known + (sample - known) / 8,
        });
    }

    /// Another process may answer there now; what was heard of load and probes, and how requests
    /// fared, is about the old one.
    pub(crate) fn moved(&mut self) {
        self.probes_missed = 0;
        self.probes_good = None;
        self.was_up = false;
        self.rtt_us = None;
        self.versions.values_mut().for_each(Signals::forget);
        self.versions.retain(|_, signals| !signals.is_idle());
        self.load_complete_at = None;
        // Whenever that is: it may be tried from now on.
        self.breaker.replaced(Monotonic::default());
    }
}

const PROBES_MISSED_MAX: u32 = 3;
/// Whoever comes and goes is not relied on; some ten seconds.
const PROBES_GOOD_MIN: u32 = 10;
/// An answer to a probe has room for some two hundred.
const VERSIONS_MAX: usize = 256;
/// A dial may be in it; nothing on Earth is further.
const RTT_US_MAX: u64 = 2_000_000;
