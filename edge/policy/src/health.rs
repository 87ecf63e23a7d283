//! What this edge has seen of each node: probes, load, failures, requests in flight; and what others report.
//!
//! What the edge heard from a node itself rules. Reports by way of the control plane fill the gaps where it has
//! heard nothing lately, and neither is needed: what was not heard for a while is unknown, and unknown never stops
//! traffic.

use crate::breaker::{Breaker, Outcome, Permit};
use crate::table::RoutingTable;
use std::collections::BTreeMap;
use std::time::Duration;
use types::intent::NodeKind;
use types::{LoadFrame, LoadState, ModelVersion, Monotonic, NodeKey};

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
    /// Prompts of theirs whose answers have not begun.
    pub in_flight_prefill_tokens: u64,
    /// What the routing table says of it; `None` once it has left the table.
    kind: Option<NodeKind>,
    probes_missed: u32,
    load: BTreeMap<ModelVersion, Heard>,
    /// Second-hand.
    reported: BTreeMap<ModelVersion, Heard>,
    /// Set by the first whole answer to a probe: only then an absent version means "not here".
    load_complete_at: Option<Monotonic>,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    frame: LoadFrame,
    at: Monotonic,
    /// How old it was by then.
    age: Duration,
}

/// What one attempt costs the node that gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub version: ModelVersion,
    /// As if nothing of the prompt were held there.
    pub prefill_tokens: u64,
}

/// A request on its way at a node; hand it back when it ends.
#[derive(Debug)]
#[must_use = "a request that is not handed back is counted as in flight for ever"]
pub struct Held {
    cost: Cost,
    /// `None` = sent past the breaker, for lack of anything better; it proves nothing.
    permit: Option<Permit>,
    begun: bool,
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
    /// Follows the routing table: new nodes begin well, removed ones are forgotten once nothing runs there.
    pub fn follow(&mut self, table: &RoutingTable) {
        for (key, node) in &mut self.nodes {
            node.kind = node.kind.take().filter(|_| table.nodes.contains_key(key));
        }
        self.nodes.retain(|_, node| node.kind.is_some() || node.in_flight > 0);
        for (key, entry) in &table.nodes {
            let node = self.nodes.entry(key.clone()).or_default();
            if node.kind.as_ref() != Some(&entry.kind) {
                node.kind = Some(entry.kind.clone());
                node.moved();
            }
        }
    }

    pub fn node(&self, key: &NodeKey) -> Option<&NodeHealth> {
        self.nodes.get(key)
    }

    /// How many nodes of the table are known to serve something.
    pub fn nodes_serving(&self, now: Monotonic) -> usize {
        let serves = |node: &&NodeHealth| {
            let mut versions = node.load.keys().chain(node.reported.keys());
            node.kind.is_some() && versions.any(|version| node.serves(*version, now))
        };
        self.nodes.values().filter(serves).count()
    }

    /// Prompt tokens that all nodes compute in a second, as far as they have measured it and said so of late. What
    /// the nodes hold already counts for nothing in it.
    pub fn prefill_tokens_per_s(&self, now: Monotonic) -> u64 {
        let alive = self.nodes.values().filter(|node| !node.is_down());
        let heard = alive.flat_map(|node| node.load.values().filter(|heard| heard.is_fresh(now)));
        heard.fold(0, |sum, heard| sum.saturating_add(heard.frame.prefill_tokens_per_s.into()))
    }

    /// Counts one request that goes to a node now.
    pub fn begin(&mut self, key: &NodeKey, cost: Cost, now: Monotonic) -> Held {
        let node = self.nodes.entry(key.clone()).or_default();
        node.in_flight += 1;
        node.in_flight_prefill_tokens = node.in_flight_prefill_tokens.saturating_add(cost.prefill_tokens);
        Held { cost, permit: node.breaker.admit(now).ok(), begun: false }
    }

    /// The answer to a request has begun, so long after it was sent.
    pub fn answer_begun(
        &mut self,
        key: &NodeKey,
        held: &mut Held,
        _first_token_after: Duration,
        _now: Monotonic,
    ) {
        let Some(node) = self.nodes.get_mut(key) else { return };
        if let Some(permit) = &held.permit {
            node.breaker.begun(permit);
        }
        node.prefilled(held);
    }

    /// Ends a request that [`Self::begin`] counted.
    pub fn end(&mut self, key: &NodeKey, mut held: Held, outcome: Outcome, now: Monotonic) {
        let Some(node) = self.nodes.get_mut(key) else { return };
        node.in_flight = node.in_flight.saturating_sub(1);
        node.prefilled(&mut held);
        if let Some(permit) = held.permit {
            node.breaker.record(permit, outcome, now);
        }
        // The node may have left the table while its last stream went on.
        if node.kind.is_none() && node.in_flight == 0 {
            self.nodes.remove(key);
        }
    }

    /// A probe was answered with the load of every version on the node.
    pub fn probe_answered(
        &mut self,
        key: &NodeKey,
        frames: &[(ModelVersion, LoadFrame)],
        _rtt: Duration,
        now: Monotonic,
    ) {
        let Some(node) = self.nodes.get_mut(key) else { return };
        node.probes_missed = 0;
        node.load_complete_at = Some(now);
        node.load.retain(|version, _| frames.iter().any(|(known, _)| known == version));
        for (version, frame) in frames {
            node.hear(*version, *frame, now);
        }
    }

    /// A probe was refused, or not answered for a while.
    pub fn probe_missed(&mut self, key: &NodeKey, _now: Monotonic) {
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
            node.load.insert(version, Heard { frame, at: now, age: Duration::ZERO });
        }
    }

    /// What others heard from the node, `age` ago.
    pub fn reported(
        &mut self,
        key: &NodeKey,
        frames: &[(ModelVersion, LoadFrame)],
        age: Duration,
        now: Monotonic,
    ) {
        let Some(node) = self.nodes.get_mut(key) else { return };
        for (version, frame) in frames {
            let report = Heard { frame: *frame, at: now, age };
            let known = [node.load.get(version), node.reported.get(version)];
            if known.into_iter().flatten().all(|known| report.replaces(known, now)) {
                node.reported.insert(*version, report);
            }
        }
        // Bounds the versions that a strange reporter can name.
        node.reported.retain(|_, report| report.is_fresh(now));
    }
}

impl NodeHealth {
    /// Down is three missed probes; one lost packet must not move a continent's traffic.
    pub fn is_down(&self) -> bool {
        self.probes_missed >= PROBES_MISSED_MAX
    }

    pub fn readiness(&self, version: ModelVersion, now: Monotonic) -> Readiness {
        let fresh = |heard: &&Heard| heard.is_fresh(now);
        if let Some(heard) = self.load.get(&version).filter(fresh) {
            return heard.readiness();
        }
        let is_complete = self.load_complete_at.is_some_and(|at| now.since(at) <= LOAD_AGE_MAX);
        if is_complete && !self.load.contains_key(&version) {
            return Readiness::NotReady;
        }
        // A version that a report does not name may have been in a frame that could not be read.
        self.reported.get(&version).filter(fresh).map_or(Readiness::Unknown, Heard::readiness)
    }

    /// Whether a version is known to be served here.
    pub fn serves(&self, version: ModelVersion, now: Monotonic) -> bool {
        !self.is_down() && self.readiness(version, now) == Readiness::Ready
    }

    fn prefilled(&mut self, held: &mut Held) {
        if !std::mem::replace(&mut held.begun, true) {
            let tokens = self.in_flight_prefill_tokens;
            self.in_flight_prefill_tokens = tokens.saturating_sub(held.cost.prefill_tokens);
        }
    }

    fn hear(&mut self, version: ModelVersion, frame: LoadFrame, now: Monotonic) {
        let heard = Heard { frame, at: now, age: Duration::ZERO };
        if self.load.get(&version).is_none_or(|known| heard.replaces(known, now)) {
            self.load.insert(version, heard);
        }
    }

    /// Another process may answer there now; what was heard of load and probes is about the old one.
    fn moved(&mut self) {
        self.probes_missed = 0;
        self.load.clear();
        self.reported.clear();
        self.load_complete_at = None;
    }
}

impl Heard {
    fn is_fresh(&self, now: Monotonic) -> bool {
        self.age_at(now) <= LOAD_AGE_MAX
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

    fn readiness(&self) -> Readiness {
        match self.frame {
            LoadFrame { state: LoadState::Draining, .. } => Readiness::Draining,
            LoadFrame { replicas: 0, .. } => Readiness::NotReady,
            _ => Readiness::Ready,
        }
    }
}

const PROBES_MISSED_MAX: u32 = 3;
/// Five probes; older load is unknown.
const LOAD_AGE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Node;
    use types::intent::Agent;

    const RTT: Duration = Duration::from_millis(1);

    fn cost() -> Cost {
        Cost { version: version(1), prefill_tokens: 100 }
    }

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

    fn key() -> NodeKey {
        "us-east/n1".parse().unwrap()
    }

    fn table(port: u16) -> RoutingTable {
        let mut table = RoutingTable::default();
        let node = Node {
            zone: "a".parse().unwrap(),
            kind: NodeKind::Agent(Agent {
                ingress: ([127, 0, 0, 1], port).into(),
                server_name: "n".to_owned(),
            }),
            drained: false,
        };
        table.nodes.insert(key(), node);
        table
    }

    fn one_node() -> Health {
        let mut health = Health::default();
        health.follow(&table(1));
        health
    }

    fn readiness(health: &Health, now: Monotonic) -> Readiness {
        health.node(&key()).unwrap().readiness(version(1), now)
    }

    #[test]
    fn what_the_node_said_itself_rules_over_reports() {
        let mut health = one_node();
        let ready = [(version(1), frame(9, 2))];
        let gone = [(version(1), frame(10, 0))];
        health.probe_answered(&key(), &ready, RTT, at(0));
        health.reported(&key(), &gone, Duration::ZERO, at(1));
        assert_eq!(readiness(&health, at(5)), Readiness::Ready, "heard 5 s ago");
        assert_eq!(readiness(&health, at(6)), Readiness::NotReady, "heard too long ago");
        health.reported(&key(), &[(version(2), frame(10, 2))], Duration::ZERO, at(6));
        health.probe_answered(&key(), &ready, RTT, at(6));
        let other = health.node(&key()).unwrap().readiness(version(2), at(6));
        assert_eq!(other, Readiness::NotReady, "the node itself does not name that version");
    }

    #[test]
    fn an_old_report_is_unknown_and_unknown_stops_nothing() {
        let mut health = one_node();
        let gone = [(version(1), frame(1, 0))];
        health.reported(&key(), &gone, Duration::from_secs(4), at(0));
        assert_eq!(readiness(&health, at(1)), Readiness::NotReady, "5 s old by now");
        assert_eq!(readiness(&health, at(2)), Readiness::Unknown);
        health.reported(&key(), &gone, Duration::from_secs(6), at(2));
        assert_eq!(readiness(&health, at(2)), Readiness::Unknown, "too old when it came");
    }

    #[test]
    fn a_report_of_an_earlier_time_is_ignored() {
        let mut health = one_node();
        let report = |health: &mut Health, frame, age, now| {
            health.reported(&key(), &[(version(1), frame)], Duration::from_secs(age), now);
        };
        // Of an earlier sequence than the node's own word, which is stale by then.
        health.load_heard(&key(), version(1), frame(7, 2), at(0));
        report(&mut health, frame(6, 0), 0, at(6));
        assert_eq!(readiness(&health, at(6)), Readiness::Unknown);
        report(&mut health, frame(8, 0), 0, at(6));
        assert_eq!(readiness(&health, at(6)), Readiness::NotReady);
        // Of an earlier sequence than another report, though it came later.
        report(&mut health, frame(7, 2), 0, at(7));
        assert_eq!(readiness(&health, at(7)), Readiness::NotReady);
        // Of another start of the node: only time tells which was first.
        let restarted = LoadFrame { boot: 2, ..frame(1, 2) };
        report(&mut health, restarted, 3, at(7));
        assert_eq!(readiness(&health, at(7)), Readiness::NotReady);
        report(&mut health, restarted, 0, at(8));
        assert_eq!(readiness(&health, at(8)), Readiness::Ready);
    }

    #[test]
    fn reports_of_ever_new_versions_are_not_kept() {
        let mut health = one_node();
        for second in 0..40 {
            let frames: Vec<_> = (0..5).map(|byte| (version(5 * second + byte), frame(1, 1))).collect();
            health.reported(&key(), &frames, Duration::ZERO, at(second.into()));
        }
        assert!(health.node(&key()).unwrap().reported.len() <= 30);
    }

    #[test]
    fn requests_on_a_node_that_left_are_counted_to_their_end() {
        let mut health = one_node();
        let first = health.begin(&key(), cost(), at(0));
        let second = health.begin(&key(), cost(), at(0));
        health.follow(&RoutingTable::default());
        health.end(&key(), first, Outcome::Served, at(1));
        health.follow(&table(1));
        assert_eq!(health.node(&key()).unwrap().in_flight, 1, "back before its last stream ended");
        health.follow(&RoutingTable::default());
        health.end(&key(), second, Outcome::Served, at(2));
        assert!(health.node(&key()).is_none());
    }

    #[test]
    fn a_node_at_a_new_address_begins_well() {
        let mut health = one_node();
        for _ in 0..PROBES_MISSED_MAX {
            health.probe_missed(&key(), at(0));
        }
        health.follow(&table(1));
        assert!(health.node(&key()).unwrap().is_down());
        health.follow(&table(2));
        assert!(!health.node(&key()).unwrap().is_down());
    }

    #[test]
    fn a_version_absent_from_a_whole_picture_is_not_ready() {
        let key = key();
        let mut health = one_node();
        health.probe_answered(&key, &[(version(1), frame(1, 2))], RTT, at(0));
        let node = health.node(&key).unwrap();
        assert_eq!(node.readiness(version(1), at(1)), Readiness::Ready);
        assert_eq!(node.readiness(version(2), at(1)), Readiness::NotReady);
        health.version_missing(&key, version(1), at(1));
        assert_eq!(health.node(&key).unwrap().readiness(version(1), at(1)), Readiness::NotReady);
    }
}
