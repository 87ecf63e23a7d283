//! What this edge has seen of each node: probes, load, failures, requests in flight.
//!
//! First-hand and in-band, so it holds when every other signal is silent. What was not heard for a while is
//! unknown, and unknown never stops traffic.

use crate::breaker::{Breaker, Outcome, Permit, Refused};
use crate::table::{NodeKey, RoutingTable};
use std::collections::BTreeMap;
use std::time::Duration;
use types::{LoadFrame, LoadState, ModelVersion, Monotonic};

/// All nodes of the routing table, as this edge sees them.
#[derive(Debug, Default)]
pub struct Health {
    nodes: BTreeMap<NodeKey, NodeHealth>,
}

#[derive(Debug, Default)]
pub struct NodeHealth {
    pub breaker: Breaker,
    /// This edge's own requests there; correct at every instant, unlike any report.
    pub in_flight: u32,
    probes_missed: u32,
    load: BTreeMap<ModelVersion, Heard>,
    /// Set by the first whole answer to a probe: only then an absent version means "not here".
    load_complete_at: Option<Monotonic>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    frame: LoadFrame,
    at: Monotonic,
}

/// Whether a node can serve a version, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    NotReady,
    Draining,
    /// Nothing was heard, or too long ago.
    Unknown,
}

impl Health {
    /// Follows the routing table: new nodes begin well, removed ones are forgotten.
    pub fn follow(&mut self, table: &RoutingTable) {
        self.nodes.retain(|key, _| table.nodes.contains_key(key));
        for key in table.nodes.keys() {
            self.nodes.entry(key.clone()).or_default();
        }
    }

    pub fn node(&self, key: &NodeKey) -> Option<&NodeHealth> {
        self.nodes.get(key)
    }

    /// Takes leave to send one request to a node.
    pub fn begin(&mut self, key: &NodeKey, now: Monotonic) -> Result<Permit, Refused> {
        let node = self.nodes.entry(key.clone()).or_default();
        let permit = node.breaker.admit(now)?;
        node.in_flight += 1;
        Ok(permit)
    }

    /// The answer to a request that [`Self::begin`] let through has begun.
    pub fn answer_begun(&mut self, key: &NodeKey, permit: &Permit) {
        if let Some(node) = self.nodes.get_mut(key) {
            node.breaker.begun(permit);
        }
    }

    /// Ends a request that [`Self::begin`] let through.
    pub fn end(&mut self, key: &NodeKey, permit: Permit, outcome: Outcome, now: Monotonic) {
        // The node may have left the table while its last stream went on.
        if let Some(node) = self.nodes.get_mut(key) {
            node.in_flight = node.in_flight.saturating_sub(1);
            node.breaker.record(permit, outcome, now);
        }
    }

    /// A probe was answered with the load of every version on the node.
    pub fn probe_answered(&mut self, key: &NodeKey, frames: &[(ModelVersion, LoadFrame)], now: Monotonic) {
        let Some(node) = self.nodes.get_mut(key) else { return };
        node.probes_missed = 0;
        node.load_complete_at = Some(now);
        node.load.retain(|version, _| frames.iter().any(|(known, _)| known == version));
        for (version, frame) in frames {
            node.hear(*version, *frame, now);
        }
    }

    pub fn probe_missed(&mut self, key: &NodeKey) {
        if let Some(node) = self.nodes.get_mut(key) {
            node.probes_missed = node.probes_missed.saturating_add(1);
        }
    }

    /// An answer carried a load frame.
    pub fn load_heard(&mut self, key: &NodeKey, version: ModelVersion, frame: LoadFrame, now: Monotonic) {
        if let Some(node) = self.nodes.get_mut(key) {
            node.probes_missed = 0;
            node.hear(version, frame, now);
        }
    }

    /// The node itself said that no replica of the version serves there; the next probe may say otherwise.
    pub fn version_missing(&mut self, key: &NodeKey, version: ModelVersion, now: Monotonic) {
        if let Some(node) = self.nodes.get_mut(key) {
            let frame = match node.load.get(&version) {
                Some(heard) => LoadFrame { replicas: 0, ..heard.frame },
                None => LoadFrame::default(),
            };
            node.load.insert(version, Heard { frame, at: now });
        }
    }
}

impl NodeHealth {
    /// Down is three missed probes; one lost packet must not move a continent's traffic.
    pub fn is_down(&self) -> bool {
        self.probes_missed >= PROBES_MISSED_MAX
    }

    pub fn readiness(&self, version: ModelVersion, now: Monotonic) -> Readiness {
        let fresh = |at: Monotonic| now.since(at) <= LOAD_AGE_MAX;
        match self.load.get(&version) {
            Some(heard) if fresh(heard.at) => match heard.frame {
                LoadFrame { state: LoadState::Draining, .. } => Readiness::Draining,
                LoadFrame { replicas: 0, .. } => Readiness::NotReady,
                _ => Readiness::Ready,
            },
            None if self.load_complete_at.is_some_and(fresh) => Readiness::NotReady,
            _ => Readiness::Unknown,
        }
    }

    fn hear(&mut self, version: ModelVersion, frame: LoadFrame, now: Monotonic) {
        // Frames overtake each other on parallel streams; within one boot the sequence tells which is newer.
        let older = self
            .load
            .get(&version)
            .is_some_and(|heard| heard.frame.boot == frame.boot && heard.frame.sequence > frame.sequence);
        if !older {
            self.load.insert(version, Heard { frame, at: now });
        }
    }
}

const PROBES_MISSED_MAX: u32 = 3;
/// Five probes; older load is unknown.
const LOAD_AGE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn version(byte: u8) -> ModelVersion {
        ModelVersion::from_digest([byte; 32])
    }

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_micros(seconds * 1_000_000)
    }

    fn frame(sequence: u64, replicas: u32) -> LoadFrame {
        LoadFrame { boot: 1, sequence, replicas, state: LoadState::Serving, ..LoadFrame::default() }
    }

    #[test]
    fn silence_becomes_unknown_not_empty() {
        let mut node = NodeHealth::default();
        assert_eq!(node.readiness(version(1), at(0)), Readiness::Unknown);
        node.hear(version(1), frame(1, 2), at(0));
        assert_eq!(node.readiness(version(1), at(5)), Readiness::Ready);
        assert_eq!(node.readiness(version(1), at(6)), Readiness::Unknown);
    }

    #[test]
    fn an_overtaken_frame_changes_nothing() {
        let mut node = NodeHealth::default();
        node.hear(version(1), frame(7, 0), at(0));
        node.hear(version(1), frame(6, 2), at(0));
        assert_eq!(node.readiness(version(1), at(0)), Readiness::NotReady);
        node.hear(version(1), LoadFrame { boot: 2, ..frame(1, 2) }, at(0));
        assert_eq!(node.readiness(version(1), at(0)), Readiness::Ready, "a restart counts anew");
    }

    #[test]
    fn a_version_absent_from_a_whole_picture_is_not_ready() {
        let key = NodeKey { region: "us-east".parse().unwrap(), node: "n1".parse().unwrap() };
        let mut health = Health { nodes: BTreeMap::from([(key.clone(), NodeHealth::default())]) };
        health.probe_answered(&key, &[(version(1), frame(1, 2))], at(0));
        let node = health.node(&key).unwrap();
        assert_eq!(node.readiness(version(1), at(1)), Readiness::Ready);
        assert_eq!(node.readiness(version(2), at(1)), Readiness::NotReady);
        health.version_missing(&key, version(1), at(1));
        assert_eq!(health.node(&key).unwrap().readiness(version(1), at(1)), Readiness::NotReady);
    }
}
