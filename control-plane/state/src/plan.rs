//! What the leader does by itself. A plan is a write like any operator's; it may be proposed twice and then changes
//! nothing the second time.

use crate::state::State;
use types::UnixMs;
use types::intent::{Change, Expect, Kind, Resource, What};

/// Drains whose time is over are lifted.
pub fn lift_drains(state: &State, now: UnixMs) -> Vec<Change> {
    let ended = state.of_kind(Kind::Drain).filter_map(|stored| match &stored.resource {
        Resource::Drain(drain) if drain.until_unix_ms.is_some_and(|until| until <= now) => Some(Change {
            // A drain that was renewed meanwhile stays.
            expect: Expect::Revision(stored.revision),
            what: What::Delete(stored.resource.id()),
        }),
        _ => None,
    });
    ended.take(LIFTED_AT_ONCE_MAX).collect()
}

/// The rest follows with the next plan.
const LIFTED_AT_ONCE_MAX: usize = 100;
