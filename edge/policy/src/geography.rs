//! How far regions are from each other, where nothing was measured.

use crate::table::RoutingTable;
use types::RegionName;

/// The least time there and back. No measure can be below it: what is, was of something else than the way there.
pub(crate) fn rtt_us(table: &RoutingTable, from: &RegionName, to: &RegionName) -> u64 {
    // The edge's own region is nearest even where two regions share a place.
    if from == to {
        return 0;
    }
    let places = table.regions.get(from).zip(table.regions.get(to));
    let kilometres = places.map_or(ANTIPODE_KM, |(from, to)| from.place.kilometres_to(to.place));
    FOREIGN_US + (kilometres * US_PER_KM) as u64
}

/// Light in glass goes 200 km in a millisecond, and must come back.
const US_PER_KM: f64 = 10.0;
/// What any way out of a region costs.
const FOREIGN_US: u64 = 2_000;
/// Where a place is unknown.
const ANTIPODE_KM: f64 = 20_000.0;
