//! The routing table on disk: `routing.toml`.

use policy::{BadTable, Node, NodeKey, RoutingTable};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use types::{ModelName, ModelVersion, NodeName, Place, RegionName, ZoneName};

/// `routing.toml`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutingFile {
    #[serde(default)]
    pub regions: Vec<RegionEntry>,
    #[serde(default)]
    pub nodes: Vec<NodeEntry>,
    #[serde(default)]
    pub models: Vec<ModelEntry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionEntry {
    pub name: RegionName,
    pub latitude: f64,
    pub longitude: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEntry {
    pub region: RegionName,
    pub node: NodeName,
    pub zone: ZoneName,
    pub ingress: SocketAddr,
    /// What the agent's certificate is valid for.
    pub server_name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    pub name: ModelName,
    pub version: ModelVersion,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadTableError {
    #[error("cannot read the routing table {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a routing table", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{}: {} is listed twice", path.display(), what)]
    Duplicate { path: PathBuf, what: String },
    #[error("{}: {}", path.display(), problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Contradiction { path: PathBuf, problems: Vec<BadTable> },
}

/// Reads the table for an edge that stands in `here`.
pub fn read(path: &Path, here: &RegionName) -> Result<RoutingTable, ReadTableError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ReadTableError::Read { path: path.to_owned(), source })?;
    let file: RoutingFile = toml::from_str(&text)
        .map_err(|source| ReadTableError::Parse { path: path.to_owned(), source: Box::new(source) })?;
    let table =
        file.into_table().map_err(|what| ReadTableError::Duplicate { path: path.to_owned(), what })?;
    let problems = table.problems(here);
    if problems.is_empty() {
        Ok(table)
    } else {
        Err(ReadTableError::Contradiction { path: path.to_owned(), problems })
    }
}

impl RoutingFile {
    /// The error names what is there twice.
    fn into_table(self) -> Result<RoutingTable, String> {
        let mut table = RoutingTable::default();
        for region in self.regions {
            let place = Place { latitude: region.latitude, longitude: region.longitude };
            if table.regions.insert(region.name.clone(), place).is_some() {
                return Err(format!("region {}", region.name));
            }
        }
        for entry in self.nodes {
            let key = NodeKey { region: entry.region, node: entry.node };
            let node = Node { zone: entry.zone, ingress: entry.ingress, server_name: entry.server_name };
            if table.nodes.insert(key.clone(), node).is_some() {
                return Err(format!("node {key}"));
            }
        }
        for model in self.models {
            if table.models.insert(model.name.clone(), model.version).is_some() {
                return Err(format!("model {}", model.name));
            }
        }
        Ok(table)
    }
}
