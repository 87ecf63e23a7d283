//! Reports on the wire. A bad load frame is dropped and the rest believed: signals only ever inform.

use crate::bad::{BadMessage, parse};
use crate::v1;
use std::time::Duration;
use types::{LoadFrame, ModelVersion, NodeKey};

/// What one node said of itself, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    pub node: NodeKey,
    pub loads: Vec<(ModelVersion, LoadFrame)>,
    pub age: Duration,
}

impl From<&NodeReport> for v1::NodeReport {
    fn from(report: &NodeReport) -> Self {
        Self {
            region: report.node.region.to_string(),
            node: report.node.node.to_string(),
            loads: report
                .loads
                .iter()
                .map(|(version, frame)| v1::VersionLoad {
                    version: version.to_string(),
                    frame: frame.to_string(),
                })
                .collect(),
            age_ms: u64::try_from(report.age.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl TryFrom<v1::NodeReport> for NodeReport {
    type Error = BadMessage;

    fn try_from(wire: v1::NodeReport) -> Result<Self, BadMessage> {
        if wire.loads.len() > LOADS_MAX {
            return Err(BadMessage::malformed("loads", format!("there may be {LOADS_MAX} at most")));
        }
        let load = |load: &v1::VersionLoad| Some((load.version.parse().ok()?, load.frame.parse().ok()?));
        Ok(Self {
            node: NodeKey { region: parse("region", &wire.region)?, node: parse("node", &wire.node)? },
            loads: wire.loads.iter().filter_map(load).collect(),
            age: Duration::from_millis(wire.age_ms),
        })
    }
}

/// Versions that one node can hold at once.
pub const LOADS_MAX: usize = 1024;
