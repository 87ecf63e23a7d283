//! What a link can do to bytes on their way, beyond the time that its distance takes.

use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;

/// The faults of one direction of a link. The default is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Nothing gets through and nothing is lost: what was sent waits for the end of the cut.
    pub is_cut: bool,
    /// One way, on top of the distance.
    pub delay_ms: u64,
    /// Of a million segments so many are lost. TCP hides that behind a stall: the segment comes after a
    /// retransmission time-out, and all that follow it on its connection wait for it.
    pub loss_per_million: u32,
    /// Shared by all connections; none = as fast as this host is.
    pub bytes_per_second: Option<NonZeroU64>,
}

impl Faults {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}
