//! Where connections are before they have proved whose they are.
//!
//! Nobody is known yet, so the bounds are by host: one that opens connections and stays silent fills its own share
//! and leaves the other hosts theirs. Who has proved to be of the cluster leaves the lobby and is counted elsewhere.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts connections by host, and keeps an `H` for each host that is present.
#[derive(Default)]
pub struct Lobby<H = ()> {
    hosts: Mutex<HashMap<IpAddr, Host<H>>>,
}

struct Host<H> {
    present: usize,
    shared: Arc<H>,
}

/// One connection's place in the lobby. Dropping it is leaving.
#[must_use = "a connection without it is not counted"]
pub struct Guest<'a, H = ()> {
    lobby: &'a Lobby<H>,
    host: IpAddr,
    shared: Arc<H>,
}

impl<H: Default> Lobby<H> {
    /// None where the lobby is full, or this host's share of it.
    pub fn enter(&self, from: IpAddr) -> Option<Guest<'_, H>> {
        let host = host(from);
        let mut hosts = self.hosts();
        if hosts.values().map(|host| host.present).sum::<usize>() >= PRESENT_MAX {
            return None;
        }
        let entry = hosts.entry(host).or_insert_with(|| Host { present: 0, shared: Arc::default() });
        if entry.present >= PRESENT_OF_HOST_MAX {
            return None;
        }
        entry.present += 1;
        Some(Guest { lobby: self, host, shared: entry.shared.clone() })
    }
}

impl<H> Lobby<H> {
    fn hosts(&self) -> MutexGuard<'_, HashMap<IpAddr, Host<H>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H> Guest<'_, H> {
    /// What all connections of its host share.
    pub fn shared(&self) -> &H {
        &self.shared
    }
}

impl<H> Drop for Guest<'_, H> {
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

/// Sockets that wait or shake hands, some tens of kilobytes each. A burst of all edges of a large fleet is a quarter
/// of it, and whoever is turned away tries again, with jitter.
const PRESENT_MAX: usize = 1024;
/// Everything that stands behind one address: all connections that an ingress has for edges, or a whole sandbox.
const PRESENT_OF_HOST_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u16) -> IpAddr {
        IpAddr::from([10, 0, (number / 256) as u8, (number % 256) as u8])
    }

    #[test]
    fn a_host_fills_its_share_and_no_more() {
        let lobby: Lobby = Lobby::default();
        let guests: Vec<_> = (0..PRESENT_OF_HOST_MAX).map(|_| lobby.enter(address(1)).unwrap()).collect();
        assert!(lobby.enter(address(1)).is_none());
        assert!(lobby.enter(address(2)).is_some());
        drop(guests);
        assert!(lobby.enter(address(1)).is_some());
        assert!(lobby.hosts().is_empty(), "who left is forgotten");
    }

    #[test]
    fn many_hosts_fill_the_lobby() {
        let lobby: Lobby = Lobby::default();
        let mut guests: Vec<_> =
            (0..PRESENT_MAX as u16).map(|number| lobby.enter(address(number)).unwrap()).collect();
        assert!(lobby.enter(address(5000)).is_none());
        guests.pop();
        assert!(lobby.enter(address(5000)).is_some());
    }

    #[test]
    fn a_network_of_version_6_is_one_host() {
        let of = |text: &str| host(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
