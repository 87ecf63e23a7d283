//! All nodes as this edge sees them: probes, load, failures, requests in flight; and what others report.
//!
//! What the edge heard from a node itself rules. Reports by way of the control plane fill the gaps where it has
//! heard nothing lately, and neither is needed: what was not heard for a while is unknown, and unknown never stops
//! traffic.
//!
//! A decision must not walk over thousands of nodes. So whatever is heard or begun changes one node, and with it
//! that node's place in the [`Pool`] of each version that was ever asked for.

use crate::ask::Cost;
use crate::breaker::{Outcome, Permit};
use crate::index::Index;
use crate::node::NodeHealth;
use crate::recent::Recent;
use crate::signals::Readiness;
use crate::table::RoutingTable;
use std::collections::BTreeMap;
use std::time::Duration;
use types::{LoadFrame, ModelVersion, Monotonic, NodeKey};

/// All nodes of the routing table, as this edge sees them.
#[derive(Debug, Default)]
pub struct Health {
    /// Where a node stands among [`Self::nodes`]: names are looked up at the border only.
    slots: BTreeMap<NodeKey, u32>,
    nodes: Vec<Option<NodeHealth>>,
    free: Vec<u32>,
    pub(crate) index: Index,
    pub(crate) recent: Recent,
    /// What sets this edge's draws apart from those of others.
    pub(crate) salt: u64,
}

/// A request on its way at a node; hand it back when it ends.
#[derive(Debug)]
#[must_use = "a request that is not handed back is counted as in flight for ever"]
pub struct Held {
    cost: Cost,
    /// `None` = sent past the breaker, for lack of anything better; it proves nothing.
    permit: Option<Permit>,
    at: Monotonic,
    begun: bool,
}

impl Health {
    /// `salt` sets this edge apart from others: by it they dial different nodes of a far region.
    pub fn new(salt: u64) -> Self {
        Self { salt, ..Self::default() }
    }

    /// Follows the routing table: new nodes begin well, removed ones are forgotten once nothing runs there.
    pub fn follow(&mut self, table: &RoutingTable) {
        let is_first = self.slots.is_empty();
        let removed: Vec<NodeKey> =
            self.slots.keys().filter(|key| !table.nodes.contains_key(*key)).cloned().collect();
        for key in removed {
            if let Some(node) = self.node_mut(&key) {
                node.kind = None;
            }
            self.forget_if_done(&key);
        }
        let mut lists = self.index.list_regions(table);
        for (key, entry) in &table.nodes {
            let slot = self.slot_of(key);
            let Some(node) = self.nodes[slot as usize].as_mut() else { continue };
            if node.kind.as_ref() != Some(&entry.kind) {
                node.is_new = node.kind.is_none() && !is_first;
                node.kind = Some(entry.kind.clone());
                node.moved();
            }
            node.drained = table.is_drained(key);
            node.serves_only = table.served_by(key);
            (node.region, node.place) = lists.add(&key.region, slot);
        }
        self.index.listed(lists, table, &self.nodes);
    }

    pub fn node(&self, key: &NodeKey) -> Option<&NodeHealth> {
        self.nodes[*self.slots.get(key)? as usize].as_ref()
    }

    /// How many nodes of the table are known to serve something.
    pub fn nodes_serving(&self, now: Monotonic) -> usize {
        let serves = |node: &&NodeHealth| {
            node.kind.is_some() && node.versions.keys().any(|version| node.serves(*version, now))
        };
        self.nodes.iter().flatten().filter(serves).count()
    }

    /// Prompt tokens that all nodes compute in a second, as far as they have measured it and said so of late. What
    /// the nodes hold already counts for nothing in it.
    pub fn prefill_tokens_per_s(&self, now: Monotonic) -> u64 {
        let alive = self.nodes.iter().flatten().filter(|node| !node.is_down());
        let own = alive.flat_map(|node| node.versions.values().filter_map(|signals| signals.own.as_ref()));
        let fresh = own.filter(|heard| heard.is_fresh(now));
        fresh.fold(0, |sum, heard| sum.saturating_add(heard.frame.prefill_tokens_per_s.into()))
    }

    /// Counts one request that goes to a node now.
    pub fn begin(&mut self, key: &NodeKey, cost: Cost, now: Monotonic) -> Held {
        let slot = self.slot_of(key);
        let mut permit = None;
        if let Some(node) = self.nodes[slot as usize].as_mut() {
            node.in_flight += 1;
            node.in_flight_prefill_tokens = node.in_flight_prefill_tokens.saturating_add(cost.prefill_tokens);
            node.versions.entry(cost.version).or_default().begin(cost.prefill_tokens, now);
            permit = node.breaker.admit(now).ok();
        }
        match self.slot(slot).is_some_and(|node| node.serves_only.is_some()) {
            true => self.refresh(slot, now),
            false => self.refresh_version(slot, cost.version, now),
        }
        Held { cost, permit, at: now, begun: false }
    }

    /// The answer to a request has begun, so long after it was sent.
    pub fn answer_begun(
        &mut self,
        key: &NodeKey,
        held: &mut Held,
        _first_token_after: Duration,
        now: Monotonic,
    ) {
        let version = held.cost.version;
        self.change(key, now, |node| {
            let was_closed = node.breaker.is_closed();
            if let Some(permit) = &held.permit {
                node.breaker.begun(permit);
            }
            held.prefilled(node);
            changed(node, was_closed, version)
        });
    }

    /// Ends a request that [`Self::begin`] counted.
    pub fn end(&mut self, key: &NodeKey, mut held: Held, outcome: Outcome, now: Monotonic) {
        let version = held.cost.version;
        self.change(key, now, |node| {
            let was_closed = node.breaker.is_closed();
            node.in_flight = node.in_flight.saturating_sub(1);
            held.prefilled(node);
            if let Some(signals) = node.versions.get_mut(&version) {
                signals.end(held.at);
            }
            if let Some(permit) = held.permit.take() {
                node.breaker.record(permit, outcome, now);
            }
            changed(node, was_closed, version)
        });
        // The node may have left the table while its last stream went on.
        self.forget_if_done(key);
    }

    /// A probe was answered with the load of every version on the node, `rtt` after it was sent.
    pub fn probe_answered(
        &mut self,
        key: &NodeKey,
        frames: &[(ModelVersion, LoadFrame)],
        rtt: Duration,
        now: Monotonic,
    ) {
        self.change(key, now, |node| {
            node.alive(now);
            node.hear_rtt(rtt);
            node.complete(frames, now);
            for (version, frame) in frames {
                node.hear(*version, *frame, now);
            }
            Changed::Node
        });
    }

    /// A probe was refused, or not answered for a while.
    pub fn probe_missed(&mut self, key: &NodeKey, now: Monotonic) {
        self.change(key, now, |node| {
            node.silent();
            Changed::Node
        });
    }

    /// An answer carried a load frame.
    pub fn load_heard(&mut self, key: &NodeKey, version: ModelVersion, frame: LoadFrame, now: Monotonic) {
        self.change(key, now, |node| {
            let standing = node.standing();
            node.alive(now);
            node.hear(version, frame, now);
            if node.standing() == standing { Changed::Version(version) } else { Changed::Node }
        });
    }

    /// The node itself said that no replica of the version serves there; the next probe may say otherwise.
    pub fn version_missing(&mut self, key: &NodeKey, version: ModelVersion, now: Monotonic) {
        self.change(key, now, |node| {
            node.missing(version, now);
            Changed::Version(version)
        });
    }

    /// What others heard from the node, `age` ago.
    pub fn reported(
        &mut self,
        key: &NodeKey,
        frames: &[(ModelVersion, LoadFrame)],
        age: Duration,
        now: Monotonic,
    ) {
        self.change(key, now, |node| {
            for (version, frame) in frames {
                node.hear_report(*version, *frame, age, now);
            }
            node.forget_stale_reports(now);
            Changed::Node
        });
    }

    /// Lets go of what was heard too long ago, and makes sure that there are pools of a version.
    pub(crate) fn catch_up(&mut self, version: ModelVersion, now: Monotonic) {
        while let Some(slot) = self.index.next_expired(now) {
            self.refresh(slot, now);
        }
        if !self.index.knows(version) {
            self.index.add_version(version, &self.nodes, now);
        }
    }

    pub(crate) fn slot(&self, slot: u32) -> Option<&NodeHealth> {
        self.nodes.get(slot as usize)?.as_ref()
    }

    pub(crate) fn find(&self, key: &NodeKey) -> Option<u32> {
        self.slots.get(key).copied()
    }

    /// The nodes of the table, and where they stand.
    #[cfg(test)]
    pub(crate) fn listed(&self) -> impl Iterator<Item = (u32, &NodeHealth)> {
        self.slots
            .values()
            .filter_map(|slot| Some((*slot, self.slot(*slot)?)))
            .filter(|(_, node)| node.kind.is_some())
    }

    /// How a node may be used for a version now, by what is known of it.
    pub(crate) fn readiness(&self, slot: u32, version: ModelVersion, now: Monotonic) -> Readiness {
        self.slot(slot).map_or(Readiness::NotReady, |node| node.readiness(version, now))
    }

    fn node_mut(&mut self, key: &NodeKey) -> Option<&mut NodeHealth> {
        self.nodes[*self.slots.get(key)? as usize].as_mut()
    }

    fn change(&mut self, key: &NodeKey, now: Monotonic, change: impl FnOnce(&mut NodeHealth) -> Changed) {
        let Some(slot) = self.find(key) else { return };
        let Some(node) = self.nodes[slot as usize].as_mut() else { return };
        match change(node) {
            Changed::Version(version) => self.refresh_version(slot, version, now),
            Changed::Node => self.refresh(slot, now),
        }
    }

    fn refresh(&mut self, slot: u32, now: Monotonic) {
        if let Some(node) = self.nodes[slot as usize].as_ref() {
            self.index.refresh(slot, node, now);
        }
    }

    fn refresh_version(&mut self, slot: u32, version: ModelVersion, now: Monotonic) {
        if let Some(node) = self.nodes[slot as usize].as_ref() {
            self.index.refresh_version(slot, node, version, now);
        }
    }

    fn slot_of(&mut self, key: &NodeKey) -> u32 {
        if let Some(slot) = self.slots.get(key) {
            return *slot;
        }
        let node = Some(NodeHealth::new(key.clone()));
        let slot = match self.free.pop() {
            Some(slot) => {
                self.nodes[slot as usize] = node;
                slot
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
        };
        self.slots.insert(key.clone(), slot);
        slot
    }

    fn forget_if_done(&mut self, key: &NodeKey) {
        let Some(slot) = self.find(key) else { return };
        let is_done = |node: &NodeHealth| node.kind.is_none() && node.in_flight == 0;
        if self.nodes[slot as usize].as_ref().is_some_and(is_done) {
            self.nodes[slot as usize] = None;
            self.slots.remove(key);
            self.free.push(slot);
        }
    }
}

impl Held {
    fn prefilled(&mut self, node: &mut NodeHealth) {
        if !std::mem::replace(&mut self.begun, true) {
            let tokens = self.cost.prefill_tokens;
            node.in_flight_prefill_tokens = node.in_flight_prefill_tokens.saturating_sub(tokens);
            if let Some(signals) = node.versions.get_mut(&self.cost.version) {
                signals.prefilled(self.at, tokens);
            }
        }
    }
}

/// How much of the index a change concerns.
enum Changed {
    Version(ModelVersion),
    Node,
}

/// A server without an agent has one limit for all its versions.
fn changed(node: &NodeHealth, was_closed: bool, version: ModelVersion) -> Changed {
    let is_agent = node.serves_only.is_none();
    if is_agent && node.breaker.is_closed() == was_closed { Changed::Version(version) } else { Changed::Node }
}

#[cfg(test)]
mod tests;
