//! The configurations of all roles, from one generator: what runs in a sandbox is told what it would be told on a
//! production host, and differs in addresses and paths alone.
//!
//! In reading order: [`Site`] what every role is told · [`voter`] the members of the control plane · [`edge`],
//! [`region_agent`], [`control_plane`] one role each: its file, and what is said of each field · [`annotated`] the
//! file as TOML · [`command`] `rhumb config`, which prints one.

pub mod annotated;
pub mod command;
pub mod control_plane;
pub mod edge;
pub mod region_agent;
pub mod voter;

use annotated::Field;
use std::net::SocketAddr;
use std::path::PathBuf;
use types::{DialMap, RegionName};

/// What every role is told: where it stands, what it has there, and how it dials.
#[derive(Debug, Clone)]
pub struct Site {
    pub region: RegionName,
    pub admin: SocketAddr,
    pub identity: PathBuf,
    pub data: PathBuf,
    pub dial_map: DialMap,
}

const MEMBER_ADDRESS: &[Field] = &[
    Field::new("address", "where it is dialled"),
    Field::new("server_name", "what its certificate must be valid for"),
];

const DIAL_MAP: Field = Field::new(
    "dial_map",
    "Addresses that are dialled elsewhere, as behind address translation; ports and server names stay.",
)
.such_as("{ \"10.0.0.4\" = \"192.168.0.4\" }");

#[cfg(test)]
mod tests;
