//! What hostile clients try, each against a real edge over real sockets, with the bytes written by hand.
//!
//! `docs/attacks.md` lists what was tried and what came of it; the tables of [`http1`], [`http2`] and [`bodies`] are
//! compared with it line by line.

mod bodies;
mod frames;
mod http1;
mod http2;
mod slow;

use crate::node::Seen;
use crate::world::World;

/// What was observed, in the words of the documentation.
pub struct Row {
    attack: &'static str,
    outcome: String,
}

/// Every row must be in the documentation as it was observed.
fn compare(rows: &[Row]) {
    let documented = include_str!("../../../docs/attacks.md");
    let lines = rows.iter().map(|row| format!("| {} | {} |", row.attack, row.outcome));
    let missing: Vec<String> = lines.filter(|line| !documented.contains(line.as_str())).collect();
    assert!(missing.is_empty(), "docs/attacks.md lacks what was observed:\n{}", missing.join("\n"));
}

/// Requests that reached either node since the last time.
fn reached(world: &World) -> Vec<Seen> {
    let seen = [world.near.seen(), world.far.seen()].concat();
    world.near.will([]);
    world.far.will([]);
    seen
}

/// This process, the edge and its clients together.
fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
