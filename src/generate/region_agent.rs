//! A region agent's configuration.

use crate::generate::annotated::Field;
use crate::generate::voter::Voter;
use crate::generate::{DIAL_MAP, MEMBER_ADDRESS, Site};
use ::region_agent::{Config, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use types::{NodeName, ZoneName};

/// The agent of one node.
#[derive(Debug, Clone)]
pub struct RegionAgent {
    pub site: Site,
    pub zone: ZoneName,
    pub node: NodeName,
    pub ingress: SocketAddr,
    /// The first engine's; the others follow.
    pub engines: SocketAddr,
    pub logs: PathBuf,
    /// Nearest first.
    pub voters: Vec<Voter>,
    pub drain_seconds: u64,
    /// The program that runs engines, if not the agent's own.
    pub program: Option<PathBuf>,
}

impl RegionAgent {
    pub fn file(self) -> File {
        let Site { region, admin, identity, data, dial_map } = self.site;
        File {
            region: region.to_string(),
            zone: self.zone.to_string(),
            node: self.node.to_string(),
            ingress: self.ingress.to_string(),
            admin: admin.to_string(),
            identity,
            logs: self.logs,
            data,
            engines_listen: self.engines.to_string(),
            queue_max: QUEUE_MAX,
            drain_seconds: self.drain_seconds,
            program: self.program,
            control_plane: self.voters.iter().map(Voter::listed).collect(),
            dial_map,
        }
    }
}

/// What an agent would refuse of a file; it looks at no path before it starts.
pub fn refused(file: File) -> Vec<String> {
    let problems = Config::try_from(file).err().map_or_else(Vec::new, |error| error.problems);
    problems.iter().map(ToString::to_string).collect()
}

pub const FIELDS: &[Field] = &[
    Field::new("region", "Where this node stands; a region that the control plane knows."),
    Field::new("zone", "The part of the region that fails together with this node."),
    Field::new("node", "The name of this node, unique in its region; its certificate carries the same."),
    Field::new(
        "ingress",
        "Where edges connect, under mutual TLS; [::] is every address of this host, of IPv4 too.\n\
         Which of them edges dial is said in the intent, with the node.",
    ),
    Field::new("admin", "Health, metrics and replicas in plain HTTP, for this host only."),
    Field::new(
        "identity",
        "Directory with ca.pem, cert.pem and key.pem: who this agent is to edges and to the control plane.\n\
         The agent renews its certificate here, so it must be able to write.",
    ),
    Field::new("control_plane", "The members of the control plane, nearest first.").holding(MEMBER_ADDRESS),
    Field::new(
        "data",
        "Directory for the last good picture of the intent, to run engines by when no member can be reached.",
    ),
    Field::new("logs", "Directory for what engines write: engine-<number>.log."),
    Field::new(
        "engines_listen",
        "The first engine's address; the next ones take the ports after it. Loopback, as engines ask nobody who he is.",
    ),
    Field::new(
        "queue_max",
        "Requests that may wait for each model version before edges are sent elsewhere, from 1 to 65536.",
    ),
    Field::new(
        "drain_seconds",
        "How long running requests may go on where an engine or the agent is to end.",
    ),
    Field::new("program", "The program that runs engines, if not the one that runs the agent.")
        .such_as("\"/usr/bin/rhumb\""),
    DIAL_MAP,
];

/// The default of [`File`], said in each file so that it stays what it was when the default changes.
pub const QUEUE_MAX: usize = 256;
