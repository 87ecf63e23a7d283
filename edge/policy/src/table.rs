//! The routing table: the picture of regions, nodes and models that an edge decides from.
//!
//! It is replaced as a whole and never edited, so that one decision sees one world.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use types::{ModelName, ModelVersion, NodeName, Place, RegionName, ZoneName};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoutingTable {
    pub regions: BTreeMap<RegionName, Place>,
    pub nodes: BTreeMap<NodeKey, Node>,
    /// What a model's name stands for now.
    pub models: BTreeMap<ModelName, ModelVersion>,
}

/// A node's name is unique in its region only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey {
    pub region: RegionName,
    pub node: NodeName,
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.node)
    }
}

/// How to reach one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub zone: ZoneName,
    pub ingress: SocketAddr,
    /// What its certificate must be valid for.
    pub server_name: String,
}

/// A table that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTable {
    #[error("node {node} stands in region {}, which the table does not have", node.region)]
    UnknownRegion { node: NodeKey },
    #[error("node {node} has no server name; its certificate could not be checked")]
    NoServerName { node: NodeKey },
    #[error("region {region} lies at no place on Earth")]
    NotOnEarth { region: RegionName },
    #[error("region {region}, where this edge stands, is not in the table")]
    NotHere { region: RegionName },
}

impl RoutingTable {
    /// Everything that is wrong with the table for an edge that stands in `here`.
    pub fn problems(&self, here: &RegionName) -> Vec<BadTable> {
        let mut problems = Vec::new();
        if !self.regions.contains_key(here) {
            problems.push(BadTable::NotHere { region: here.clone() });
        }
        for (region, place) in &self.regions {
            if !place.is_on_earth() {
                problems.push(BadTable::NotOnEarth { region: region.clone() });
            }
        }
        for (key, node) in &self.nodes {
            if !self.regions.contains_key(&key.region) {
                problems.push(BadTable::UnknownRegion { node: key.clone() });
            }
            if node.server_name.is_empty() {
                problems.push(BadTable::NoServerName { node: key.clone() });
            }
        }
        problems
    }
}
