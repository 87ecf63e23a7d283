//! Which links there are and where they are dialled.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use types::RegionName;

/// A whole network. Every forward and every anycast edge speaks of regions that are listed.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub regions: Vec<RegionName>,
    /// The round trip of a pair of different regions, in either order of the two.
    pub round_trips: Vec<(RegionName, RegionName, Duration)>,
    pub forwards: Vec<Forward>,
    pub anycast: Option<Anycast>,
}

/// One service of `to` as it is dialled in `from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    pub from: RegionName,
    pub to: RegionName,
    pub listen: SocketAddr,
    /// The address that connections come from at the target: that of `from` as it is seen in `to`.
    pub source: IpAddr,
    pub target: SocketAddr,
}

/// Addresses that lead to the nearest edge that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anycast {
    /// Where the clients stand.
    pub clients_in: RegionName,
    /// The addresses that clients dial; `AnycastEdge::targets` has one for each, in the same order.
    pub listen: Vec<SocketAddr>,
    /// The address that connections come from at the edges, which then read who the client is from a PROXY v2
    /// header.
    pub source: IpAddr,
    pub edges: Vec<AnycastEdge>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnycastEdge {
    pub region: RegionName,
    pub targets: Vec<SocketAddr>,
    /// Answers `GET /readyz` with 200 when this edge takes requests.
    pub admin: SocketAddr,
}
