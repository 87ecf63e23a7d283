//! `rhumb region` and `rhumb node`: where requests are served, and where they are not for a while.

use crate::cli::Output;
use crate::operator::At;
use crate::operator::cluster::{Cluster, Known};
use crate::operator::drain::{self, How};
use crate::table::table;
use crate::{moment, stdout};
use clap::Subcommand;
use serde::Serialize;
use types::RegionName;
use types::intent::{Drain, DrainScope, NodeKey, Resource, ResourceId, Stored};

#[derive(Debug, Subcommand)]
pub enum Region {
    /// List the regions
    List {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
    /// Send new requests to other regions, and let those that run there finish
    Drain {
        name: RegionName,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
    /// Send requests to it again
    Undrain {
        name: RegionName,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub enum Node {
    /// Send new requests to other nodes, and let those that run there finish
    Drain {
        /// REGION/NODE
        name: NodeKey,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
    /// Send requests to it again
    Undrain {
        /// REGION/NODE
        name: NodeKey,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
}

/// What `--json` prints of a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    name: RegionName,
    latitude_e6: i32,
    longitude_e6: i32,
    nodes: usize,
    /// Null = not drained.
    drain: Option<Drain>,
    revision: u64,
}

impl Region {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { at, output } => {
                let rows = rows(&Cluster::open(&at)?.read(&["region", "node", "drain"])?);
                match output.json {
                    true => stdout::print_json(&rows)?,
                    false => stdout::print(&shown(&rows))?,
                };
                Ok(())
            }
            Self::Drain { name, how, at, output } => {
                drain::begin(DrainScope::Region(name), how, &at, output.json)
            }
            Self::Undrain { name, at, output } => drain::lift(DrainScope::Region(name), &at, output.json),
        }
    }
}

impl Node {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Drain { name, how, at, output } => {
                drain::begin(DrainScope::Node(name), how, &at, output.json)
            }
            Self::Undrain { name, at, output } => drain::lift(DrainScope::Node(name), &at, output.json),
        }
    }
}

fn rows(known: &Known) -> Vec<Row> {
    let row = |stored: &Stored| {
        let Resource::Region(region) = &stored.resource else { return None };
        let is_there = |id: &&ResourceId| matches!(id, ResourceId::Node(node) if node.region == region.name);
        let drain = known.get(&ResourceId::Drain(DrainScope::Region(region.name.clone())));
        let drain = drain.and_then(|stored| match &stored.resource {
            Resource::Drain(drain) => Some(drain.clone()),
            _ => None,
        });
        Some(Row {
            name: region.name.clone(),
            latitude_e6: region.latitude_e6,
            longitude_e6: region.longitude_e6,
            nodes: known.keys().filter(is_there).count(),
            drain,
            revision: stored.revision.0,
        })
    };
    known.values().filter_map(row).collect()
}

fn shown(rows: &[Row]) -> String {
    let head = ["REGION", "NODES", "LATITUDE", "LONGITUDE", "DRAINED", "REASON"];
    let cells = |row: &Row| {
        let drained = match &row.drain {
            None => "no".to_owned(),
            Some(drain) => drain
                .until_unix_ms
                .map_or("until lifted".to_owned(), |until| format!("until {}", moment::shown(until))),
        };
        let degrees = |e6: i32| format!("{:.2}", f64::from(e6) / 1e6);
        [
            row.name.to_string(),
            row.nodes.to_string(),
            degrees(row.latitude_e6),
            degrees(row.longitude_e6),
            drained,
            row.drain.as_ref().map(|drain| drain.reason.clone()).unwrap_or_default(),
        ]
    };
    table(head.map(str::to_owned), rows.iter().map(cells))
}
