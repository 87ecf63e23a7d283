//! Where the members of the control plane are, and in which order they are tried.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// One member, as configurations list them: nearest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberAddress {
    pub address: SocketAddr,
    /// What its certificate must be valid for.
    pub server_name: String,
}

/// From member to member until one serves.
pub(crate) struct Tour {
    members: Vec<MemberAddress>,
    failures: u32,
}

impl Tour {
    pub(crate) fn new(members: Vec<MemberAddress>) -> Self {
        Self { members, failures: 0 }
    }

    /// Whose turn it is; none where there are no members at all.
    pub(crate) fn member(&self) -> Option<&MemberAddress> {
        self.members.get(self.failures as usize % self.members.len().max(1))
    }

    /// This one served for `lasted`, and no more: how long to wait before the next.
    ///
    /// After a long service the nearest is tried first again. A short one counts as none, so that a member that breaks
    /// off at once is not asked for ever.
    pub(crate) fn ended(&mut self, lasted: Duration, dice: u32) -> Duration {
        if lasted >= SERVICE_MIN {
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        let round = self.failures / self.members.len().max(1) as u32;
        jittered((WAIT_MIN * 2_u32.saturating_pow(round.min(16))).min(WAIT_MAX), dice)
    }
}

/// Between half and the whole of it, so that those who lost the same member do not come to the next all at once.
pub(crate) fn jittered(wait: Duration, dice: u32) -> Duration {
    wait / 2 + (wait / 2).mul_f64(f64::from(dice) / f64::from(u32::MAX))
}

/// Without randomness there is no jitter, which is no reason to stop.
pub(crate) fn dice() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX)
}

const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(5);
const SERVICE_MIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_first_then_all_others_ever_more_slowly() {
        let member = |port| MemberAddress {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            server_name: String::new(),
        };
        let mut tour = Tour::new((0..3).map(member).collect());
        let mut fail = |lasted: u64| {
            let port = tour.member().unwrap().address.port();
            (port, tour.ended(Duration::from_secs(lasted), u32::MAX).as_millis())
        };
        let tried: Vec<_> = (0..7).map(|_| fail(1)).collect();
        assert_eq!(tried, [(0, 200), (1, 200), (2, 400), (0, 400), (1, 400), (2, 800), (0, 800)]);
        assert_eq!((0..50).map(|_| fail(1).1).max(), Some(5000));
        fail(60);
        assert_eq!(fail(60).0, 0, "a long service ends at the nearest");
        assert!(Tour::new(Vec::new()).member().is_none());
        assert_eq!(jittered(Duration::from_secs(2), 0), Duration::from_secs(1));
    }
}
