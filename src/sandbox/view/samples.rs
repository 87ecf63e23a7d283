//! Invented sandboxes for the tests of this module.

use crate::sandbox::layout::{Layout, Seat};
use crate::sandbox::replicas::{Replica, ReplicaState, Replicas};
use crate::sandbox::status::{ControlPlane, RegionStatus, Status};
use crate::sandbox::view::measure::{EdgeCounts, EdgeLook, EdgeState, Look};
use chaos::network::{Faults, LinkReport};
use proto::v1::StatusReply;
use std::collections::BTreeSet;
use types::{Monotonic, RegionName, UnixMs};

/// What is the matter in a sandbox.
#[derive(Debug, Default)]
pub struct Matter {
    pub down: Vec<&'static str>,
    /// Their edge holds connections and says nothing.
    pub hanging: Vec<&'static str>,
    /// From, to, what.
    pub faults: Vec<(&'static str, &'static str, Faults)>,
    pub has_no_leader: bool,
    pub drained: Vec<&'static str>,
}

pub fn layout(count: usize) -> Layout {
    Layout::new(0, NAMES[..count].join(",").parse().unwrap())
}

/// Of a sandbox that has worked so long at the same pace.
pub fn look(layout: &Layout, seconds: u64, matter: &Matter) -> Look {
    let is = |list: &[&str], region: &RegionName| list.contains(&region.as_str());
    let seats: Vec<Seat> = layout.seats().collect();
    let regions = seats
        .iter()
        .map(|seat| region(seat, is(&matter.down, &seat.region), is(&matter.hanging, &seat.region)));
    let edges = (1..).zip(&seats).map(|(at, seat)| {
        if is(&matter.down, &seat.region) {
            return EdgeLook { state: EdgeState::Down, counts: None };
        }
        if is(&matter.hanging, &seat.region) {
            return EdgeLook { state: EdgeState::Hangs, counts: None };
        }
        let counts = EdgeCounts {
            in_flight: 3 * at,
            requests: 7 * at * seconds,
            failed: seconds / 5,
            tokens: 150 * at * seconds,
        };
        EdgeLook { state: EdgeState::Ready, counts: Some(counts) }
    });
    let leader = if matter.has_no_leader { 0 } else { 1 };
    let voters = seats.iter().filter(|seat| !is(&matter.down, &seat.region)).filter_map(|seat| seat.voter);
    let replies: Vec<StatusReply> = voters
        .map(|id| StatusReply { id, leader, term: 3, revision: 42, ..StatusReply::default() })
        .collect();
    let mut control_plane = ControlPlane::of(&replies, layout.voters.len());
    control_plane.drained = matter.drained.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<_>>();
    let status = Status::of(regions.collect(), control_plane, layout);
    let network = layout.network(None);
    let links = network.round_trips.iter().flat_map(|(a, b, time)| [(a, b, time), (b, a, time)]);
    let links = links.map(|(from, to, time)| LinkReport {
        from: from.clone(),
        to: to.clone(),
        round_trip_us: u64::try_from(time.as_micros()).unwrap(),
        faults: matter
            .faults
            .iter()
            .find(|(a, b, _)| (from.as_str(), to.as_str()) == (*a, *b))
            .map_or_else(Faults::default, |(.., faults)| *faults),
        connections: 2,
        connections_total: 9,
        bytes_total: seconds * 1500 * u64::from(from.as_str() == "us-east") + seconds * 90,
        segments_total: 0,
        lost_total: 0,
        bytes_in_flight: 0,
    });
    Look {
        at: Monotonic::from_micros(seconds * 1_000_000),
        clock: UnixMs(1_763_660_531_000 + seconds * 1000),
        status,
        edges: edges.collect(),
        links: Some(links.collect()),
    }
}

fn region(seat: &Seat, is_down: bool, is_hanging: bool) -> RegionStatus {
    if is_down {
        return RegionStatus::of(seat, false, false, None);
    }
    let replica = || Replica { pid: Some(1), addr: seat.engines(), state: ReplicaState::Serving };
    let agent = Replicas {
        state: ReplicaState::Serving,
        queued: 0,
        running: 5,
        revision: Some(42),
        wanted: 2,
        replicas: vec![replica(), replica()],
    };
    RegionStatus::of(seat, !is_hanging, seat.voter.is_some(), Some(&agent))
}

const NAMES: [&str; 16] = [
    "us-east",
    "eu-west",
    "ap-south",
    "us-west",
    "eu-north",
    "ap-southeast",
    "sa-east",
    "af-south",
    "ap-northeast",
    "eu-central",
    "us-central",
    "me-south",
    "ca-central",
    "eu-south",
    "ap-east",
    "me-central",
];
