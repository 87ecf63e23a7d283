//! What links carried.

use crate::network::faults::Faults;
use serde::{Deserialize, Serialize};
use types::RegionName;

/// One direction of a link. Counters begin with the network and only grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    pub from: RegionName,
    pub to: RegionName,
    /// Of both directions together, without faults.
    pub round_trip_us: u64,
    #[serde(flatten)]
    pub faults: Faults,
    /// Open now, dialled in `from`.
    pub connections: u64,
    /// Dialled in `from` since the start.
    pub connections_total: u64,
    /// Carried in this direction, whoever dialled.
    pub bytes_total: u64,
    /// Reads that were carried on; what a packet is to a real network.
    pub segments_total: u64,
    /// Segments that were lost and came late.
    pub lost_total: u64,
    /// On their way now, or held by a cut.
    pub bytes_in_flight: u64,
}
