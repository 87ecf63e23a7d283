//! The routing table: the picture of regions, nodes and models that an edge decides from.
//!
//! It is replaced as a whole and never edited, so that one decision sees one world.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use types::base_url::is_host_name;
use types::intent::{self, NodeKind};
use types::{ModelName, ModelVersion, NodeKey, Place, RegionName, UnixMs, ZoneName};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoutingTable {
    pub regions: BTreeMap<RegionName, Region>,
    pub nodes: BTreeMap<NodeKey, Node>,
    /// Models that are placed somewhere; a name without a place is no route.
    pub models: BTreeMap<ModelName, Model>,
    /// Where operators want which version to run: whatever does not run there is missing.
    pub placed: BTreeSet<(ModelVersion, RegionName)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    pub place: Place,
    /// New work goes to other regions. A flag, so that a drain removes nothing from the table.
    pub drained: bool,
}

/// How to reach one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub zone: ZoneName,
    pub kind: NodeKind,
    /// New work goes to other nodes.
    pub drained: bool,
}

/// What a model's name stands for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    pub version: ModelVersion,
    /// What it stood for before, as far as this process knows.
    pub former: Option<ModelVersion>,
    /// When operators first named it.
    pub created: UnixMs,
    pub waits: Waits,
}

/// How long clients of a model wait before they are told that it is in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// For the first token, by all attempts together.
    pub first_token: Duration,
    /// For the next, while the answer stands still.
    pub stall: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Self {
            first_token: seconds(intent::Model::FIRST_TOKEN_SECONDS),
            stall: seconds(intent::Model::STALL_SECONDS),
        }
    }
}

impl From<&intent::Model> for Waits {
    fn from(model: &intent::Model) -> Self {
        let said = |seconds: Option<u32>| seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let Self { first_token, stall } = Self::default();
        Self {
            first_token: said(model.first_token_seconds).unwrap_or(first_token),
            stall: said(model.stall_seconds).unwrap_or(stall),
        }
    }
}

/// A table that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTable {
    #[error("node {node} stands in region {}, which the table does not have", node.region)]
    UnknownRegion { node: NodeKey },
    #[error("node {node} has a server name that no certificate can be checked against")]
    BadServerName { node: NodeKey },
    #[error("region {region} lies at no place on Earth")]
    NotOnEarth { region: RegionName },
    #[error("region {region}, where this edge stands, is not in the table")]
    NotHere { region: RegionName },
}

impl RoutingTable {
    /// Whether new work goes to other nodes than this one.
    pub fn is_drained(&self, key: &NodeKey) -> bool {
        self.nodes.get(key).is_some_and(|node| node.drained)
            || self.regions.get(&key.region).is_some_and(|region| region.drained)
    }

    /// The versions that operators say a server without an agent serves; `None` = the node says so itself.
    pub(crate) fn served_by(&self, key: &NodeKey) -> Option<Vec<ModelVersion>> {
        let Some(NodeKind::OpenAi(server)) = self.nodes.get(key).map(|node| &node.kind) else { return None };
        let models = server.models.iter().filter_map(|name| self.models.get(name));
        Some(models.flat_map(|model| [Some(model.version), model.former]).flatten().collect())
    }

    /// Everything that is wrong with the table for an edge that stands in `here`.
    pub fn problems(&self, here: &RegionName) -> Vec<BadTable> {
        let mut problems = Vec::new();
        if !self.regions.contains_key(here) {
            problems.push(BadTable::NotHere { region: here.clone() });
        }
        for (name, region) in &self.regions {
            if !region.place.is_on_earth() {
                problems.push(BadTable::NotOnEarth { region: name.clone() });
            }
        }
        for (key, node) in &self.nodes {
            if !self.regions.contains_key(&key.region) {
                problems.push(BadTable::UnknownRegion { node: key.clone() });
            }
            if let NodeKind::Agent(agent) = &node.kind
                && !is_host_name(&agent.server_name)
            {
                problems.push(BadTable::BadServerName { node: key.clone() });
            }
        }
        problems
    }
}
