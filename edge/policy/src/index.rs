//! Keeps the pools of every version up to date.

use crate::geography;
use crate::node::{NodeHealth, Standing};
use crate::pool::{Member, Pool, Seat};
use crate::predict::Load;
use crate::signals::{Readiness, Signals};
use crate::table::RoutingTable;
use std::collections::{BTreeMap, BTreeSet};
use types::{ModelVersion, Monotonic, RegionName};

#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) regions: Vec<Region>,
    versions: BTreeMap<ModelVersion, Vec<Pool>>,
    /// Where operators want which version.
    placed: BTreeSet<(ModelVersion, RegionName)>,
    /// Nodes of whom something that was heard becomes too old, by when; each at most once.
    expiries: BTreeSet<(Monotonic, u32)>,
    expires: BTreeMap<u32, Monotonic>,
}

#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) name: RegionName,
    /// The least time there and back from each region, by geography.
    pub(crate) rtt_us: Vec<u64>,
    slots: Vec<u32>,
}

/// Regions whose nodes are being listed.
pub(crate) struct Lists {
    regions: Vec<Region>,
    at: BTreeMap<RegionName, usize>,
}

impl Lists {
    /// The region's number, and the node's place there.
    pub(crate) fn add(&mut self, region: &RegionName, slot: u32) -> (usize, usize) {
        let next = self.regions.len();
        let number = *self.at.entry(region.clone()).or_insert(next);
        if number == next {
            self.regions.push(Region { name: region.clone(), rtt_us: Vec::new(), slots: Vec::new() });
        }
        let slots = &mut self.regions[number].slots;
        slots.push(slot);
        (number, slots.len() - 1)
    }
}

impl Index {
    pub(crate) fn list_regions(&self, table: &RoutingTable) -> Lists {
        let names = table.regions.keys().cloned();
        let at = names.clone().zip(0..).collect();
        let regions = names.map(|name| Region { name, rtt_us: Vec::new(), slots: Vec::new() }).collect();
        Lists { regions, at }
    }

    /// Takes over new lists of nodes. Pools of versions that no model stands for any more are let go; they come back
    /// when they are asked for.
    pub(crate) fn listed(&mut self, lists: Lists, table: &RoutingTable, nodes: &[Option<NodeHealth>]) {
        let before: Vec<RegionName> = self.regions.drain(..).map(|region| region.name).collect();
        self.regions = lists.regions;
        self.placed.clone_from(&table.placed);
        let names: Vec<RegionName> = self.regions.iter().map(|region| region.name.clone()).collect();
        for region in &mut self.regions {
            region.rtt_us = names.iter().map(|from| geography::rtt_us(table, from, &region.name)).collect();
        }
        let stands = |version| {
            let mut models = table.models.values();
            models.any(|model| model.version == version || model.former == Some(version))
        };
        let kept = std::mem::take(&mut self.versions).into_iter().filter(|(version, _)| stands(*version));
        for (version, pools) in kept.collect::<Vec<_>>() {
            let mut known: BTreeMap<RegionName, Pool> = before.iter().cloned().zip(pools).collect();
            let pools = self.regions.iter().map(|region| {
                let pool = known.remove(&region.name).unwrap_or_default();
                let mut listed = region.slots.iter().filter_map(|slot| nodes.get(*slot as usize)?.as_ref());
                let is_wanted = self.placed.contains(&(version, region.name.clone()));
                pool.listed_anew(region.slots.len(), listed.any(|node| !node.drained), is_wanted)
            });
            self.versions.insert(version, pools.collect());
            // What is too old by now, the next decision finds out.
            self.fill(version, nodes, Monotonic::default());
        }
        self.expires.clear();
        self.expiries.clear();
        let slots: Vec<u32> = self.regions.iter().flat_map(|region| region.slots.iter().copied()).collect();
        for slot in slots {
            // Looked at once more with the clock at hand.
            self.schedule(slot, Monotonic::default());
        }
    }

    pub(crate) fn knows(&self, version: ModelVersion) -> bool {
        self.versions.contains_key(&version)
    }

    /// Versions come from what operators placed, so there are few; a stranger's frames make none.
    pub(crate) fn add_version(
        &mut self,
        version: ModelVersion,
        nodes: &[Option<NodeHealth>],
        now: Monotonic,
    ) {
        if self.versions.len() >= VERSIONS_MAX {
            self.versions.clear();
        }
        let pools = self.regions.iter().map(|region| {
            let is_wanted = self.placed.contains(&(version, region.name.clone()));
            Pool::of(region.slots.len(), is_wanted)
        });
        let pools = pools.collect();
        self.versions.insert(version, pools);
        self.fill(version, nodes, now);
    }

    fn fill(&mut self, version: ModelVersion, nodes: &[Option<NodeHealth>], now: Monotonic) {
        let Some(pools) = self.versions.get_mut(&version) else { return };
        for (region, pool) in self.regions.iter().zip(pools) {
            for slot in &region.slots {
                if let Some(node) = nodes.get(*slot as usize).and_then(Option::as_ref) {
                    pool.set(node.place, seat(*slot, node, version, now));
                }
            }
            pool.note_ready();
        }
    }

    /// One pool of a version for each region.
    pub(crate) fn pools(&self, version: ModelVersion) -> &[Pool] {
        self.versions.get(&version).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn pools_mut(&mut self, version: ModelVersion) -> &mut [Pool] {
        self.versions.get_mut(&version).map_or(&mut [], Vec::as_mut_slice)
    }

    pub(crate) fn region(&self, name: &RegionName) -> Option<usize> {
        self.regions.iter().position(|region| region.name == *name)
    }

    pub(crate) fn refresh(&mut self, slot: u32, node: &NodeHealth, now: Monotonic) {
        for (version, pools) in &mut self.versions {
            refresh(pools, slot, node, *version, now);
        }
        self.expect(slot, node, now);
    }

    pub(crate) fn refresh_version(
        &mut self,
        slot: u32,
        node: &NodeHealth,
        version: ModelVersion,
        now: Monotonic,
    ) {
        if let Some(pools) = self.versions.get_mut(&version) {
            refresh(pools, slot, node, version, now);
        }
        self.expect(slot, node, now);
    }

    fn expect(&mut self, slot: u32, node: &NodeHealth, now: Monotonic) {
        if !self.expires.contains_key(&slot)
            && let Some(until) = node.expires(now)
        {
            self.schedule(slot, until);
        }
    }

    fn schedule(&mut self, slot: u32, until: Monotonic) {
        self.expires.insert(slot, until);
        self.expiries.insert((until, slot));
    }

    /// A node of whom something is too old by now.
    pub(crate) fn next_expired(&mut self, now: Monotonic) -> Option<u32> {
        let (_, slot) = *self.expiries.first().filter(|(until, _)| *until < now)?;
        self.expiries.pop_first();
        self.expires.remove(&slot);
        Some(slot)
    }
}

fn refresh(pools: &mut [Pool], slot: u32, node: &NodeHealth, version: ModelVersion, now: Monotonic) {
    if node.kind.is_none() {
        return;
    }
    if let Some(pool) = pools.get_mut(node.region) {
        pool.set(node.place, seat(slot, node, version, now));
        // What operators sent away is not lost.
        if !node.drained {
            pool.note_loss(now);
        }
    }
}

fn seat(slot: u32, node: &NodeHealth, version: ModelVersion, now: Monotonic) -> Seat {
    let readiness = node.readiness(version, now);
    if node.drained || matches!(readiness, Readiness::NotReady | Readiness::Draining) {
        return Seat::Empty;
    }
    if node.is_full() {
        return if node.standing() == Standing::Good { Seat::Full } else { Seat::Empty };
    }
    Seat::Taken(Member {
        slot,
        place: node.place as u32,
        hash: node.hash,
        standing: node.standing(),
        // A server without an agent knows only whole requests.
        resumes: node.serves_only.is_none(),
        is_ready: readiness == Readiness::Ready,
        slow_since: node.slow_since,
        rtt_us: node.rtt_us,
        load: load(node, version, now),
    })
}

fn load(node: &NodeHealth, version: ModelVersion, now: Monotonic) -> Load {
    let heard = node.versions.get(&version).map(|signals| Signals::load(signals, now)).unwrap_or_default();
    match node.serves_only {
        None => heard,
        // It tells nobody what it has to do, so an answer to a probe does not mean that it is idle. All its versions
        // share its slots.
        Some(_) => {
            Load { outstanding: node.in_flight.into(), queued_tokens: node.in_flight_prefill_tokens, ..heard }
        }
    }
}

/// More versions than operators place at once.
const VERSIONS_MAX: usize = 1024;
