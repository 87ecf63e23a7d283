//! Where connections wait between their first byte and the end of their handshake: how many there are, and how
//! many shake hands at once.
//!
//! Both bounds are by host as well, because nobody is known yet; who has proved to be an edge leaves the lobby and is
//! counted elsewhere.

use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

pub struct Lobby {
    present: identity::Lobby<OfHost>,
    handshakes: Semaphore,
}

/// The handshakes of one host.
struct OfHost(Semaphore);

/// One connection's place in the lobby. Dropping it is leaving.
#[must_use = "a connection without it is not counted"]
pub struct Guest<'a> {
    guest: identity::Guest<'a, OfHost>,
    handshakes: &'a Semaphore,
}

/// Leave to shake hands, until it is dropped.
#[must_use]
pub struct Handshake<'a> {
    _of_host: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

impl Lobby {
    pub fn new() -> Self {
        Self { present: identity::Lobby::default(), handshakes: Semaphore::new(HANDSHAKES_MAX) }
    }

    /// None where the lobby is full, or this host's share of it.
    pub fn enter(&self, from: IpAddr) -> Option<Guest<'_>> {
        Some(Guest { guest: self.present.enter(from)?, handshakes: &self.handshakes })
    }
}

impl Default for OfHost {
    fn default() -> Self {
        Self(Semaphore::new(HANDSHAKES_OF_HOST_MAX))
    }
}

impl Guest<'_> {
    /// Waits in line; None where that takes too long.
    pub async fn handshake(&self) -> Option<Handshake<'_>> {
        let both = async {
            // Its host's first, so that who waits for that keeps nobody else waiting.
            let of_host = self.guest.shared().0.acquire().await.ok()?;
            let of_all = self.handshakes.acquire().await.ok()?;
            Some(Handshake { _of_host: of_host, _of_all: of_all })
        };
        tokio::time::timeout(HANDSHAKE_WAIT_MAX, both).await.ok()?
    }
}

/// A handshake costs a millisecond of one core and some tens of kilobytes.
const HANDSHAKES_MAX: usize = 256;
const HANDSHAKES_OF_HOST_MAX: usize = 64;
/// An edge gives its connection and the handshake no longer.
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_silent_host_holds_only_its_own_handshakes() {
        let lobby = Lobby::new();
        let [silent, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let guests: Vec<_> = (0..=HANDSHAKES_OF_HOST_MAX).map(|_| lobby.enter(silent).unwrap()).collect();
        let mut handshakes = Vec::new();
        for guest in &guests[1..] {
            handshakes.push(guest.handshake().await.unwrap());
        }
        assert!(guests[0].handshake().now_or_never().is_none(), "it waits, for nobody left");
        assert!(lobby.enter(other).unwrap().handshake().await.is_some());
        handshakes.pop();
        assert!(guests[0].handshake().await.is_some());
    }
}
