//! Where connections wait between their first byte and the end of their handshake: how many there are, and how
//! many shake hands at once.
//!
//! Nobody is known yet, so the bounds are by host: one that opens connections and stays silent fills its own share
//! and leaves the other hosts theirs. Who has proved to be an edge leaves the lobby and is counted elsewhere.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

pub struct Lobby {
    handshakes: Semaphore,
    hosts: Mutex<HashMap<IpAddr, Host>>,
}

struct Host {
    present: usize,
    handshakes: Arc<Semaphore>,
}

/// One connection's place in the lobby. Dropping it is leaving.
#[must_use = "a connection without it is not counted"]
pub struct Guest<'a> {
    lobby: &'a Lobby,
    host: IpAddr,
    handshakes: Arc<Semaphore>,
}

/// Leave to shake hands, until it is dropped.
#[must_use]
pub struct Handshake<'a> {
    _of_host: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

impl Lobby {
    pub fn new() -> Self {
        Self { handshakes: Semaphore::new(HANDSHAKES_MAX), hosts: Mutex::default() }
    }

    /// None where the lobby is full, or this host's share of it.
    pub fn enter(&self, from: IpAddr) -> Option<Guest<'_>> {
        let host = host(from);
        let mut hosts = self.hosts();
        if hosts.values().map(|host| host.present).sum::<usize>() >= PRESENT_MAX {
            return None;
        }
        let new = || Host { present: 0, handshakes: Arc::new(Semaphore::new(HANDSHAKES_OF_HOST_MAX)) };
        let entry = hosts.entry(host).or_insert_with(new);
        if entry.present >= PRESENT_OF_HOST_MAX {
            return None;
        }
        entry.present += 1;
        Some(Guest { lobby: self, host, handshakes: entry.handshakes.clone() })
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<IpAddr, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest<'_> {
    /// Waits in line; None where that takes too long.
    pub async fn handshake(&self) -> Option<Handshake<'_>> {
        let both = async {
            // Its host's first, so that who waits for that keeps nobody else waiting.
            let of_host = self.handshakes.acquire().await.ok()?;
            let of_all = self.lobby.handshakes.acquire().await.ok()?;
            Some(Handshake { _of_host: of_host, _of_all: of_all })
        };
        tokio::time::timeout(HANDSHAKE_WAIT_MAX, both).await.ok()?
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let mut hosts = self.lobby.hosts();
        if let Some(host) = hosts.get_mut(&self.host) {
            host.present -= 1;
            if host.present == 0 {
                hosts.remove(&self.host);
            }
        }
    }
}

/// In version 6 one host may have all addresses of its network.
fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

/// Sockets that wait or shake hands; a burst of all edges of a large fleet is a quarter of it.
const PRESENT_MAX: usize = 1024;
/// All connections that an ingress has for edges may come from one host.
const PRESENT_OF_HOST_MAX: usize = 256;
/// A handshake costs a millisecond of one core and some tens of kilobytes.
const HANDSHAKES_MAX: usize = 256;
const HANDSHAKES_OF_HOST_MAX: usize = 64;
/// An edge gives its connection and the handshake no longer.
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn address(number: u16) -> IpAddr {
        IpAddr::from([10, 0, (number / 256) as u8, (number % 256) as u8])
    }

    #[test]
    fn a_host_fills_its_share_and_no_more() {
        let lobby = Lobby::new();
        let guests: Vec<_> = (0..PRESENT_OF_HOST_MAX).map(|_| lobby.enter(address(1)).unwrap()).collect();
        assert!(lobby.enter(address(1)).is_none());
        assert!(lobby.enter(address(2)).is_some());
        drop(guests);
        assert!(lobby.enter(address(1)).is_some());
        assert!(lobby.hosts().is_empty(), "who left is forgotten");
    }

    #[test]
    fn many_hosts_fill_the_lobby() {
        let lobby = Lobby::new();
        let mut guests: Vec<_> =
            (0..PRESENT_MAX as u16).map(|number| lobby.enter(address(number)).unwrap()).collect();
        assert!(lobby.enter(address(5000)).is_none());
        guests.pop();
        assert!(lobby.enter(address(5000)).is_some());
    }

    #[tokio::test]
    async fn a_silent_host_holds_only_its_own_handshakes() {
        let lobby = Lobby::new();
        let guests: Vec<_> = (0..=HANDSHAKES_OF_HOST_MAX).map(|_| lobby.enter(address(1)).unwrap()).collect();
        let mut handshakes = Vec::new();
        for guest in &guests[1..] {
            handshakes.push(guest.handshake().await.unwrap());
        }
        assert!(guests[0].handshake().now_or_never().is_none(), "it waits, for nobody left");
        assert!(lobby.enter(address(2)).unwrap().handshake().await.is_some());
        handshakes.pop();
        assert!(guests[0].handshake().await.is_some());
    }

    #[test]
    fn a_network_of_version_6_is_one_host() {
        let of = |text: &str| host(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
