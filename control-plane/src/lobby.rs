//! Where connections are between their first byte and the end of their handshake.
//!
//! Nobody is known yet, so the bounds are by host: one that opens connections and stays silent fills its own share
//! and leaves the other hosts theirs. Who has proved to be of this cluster leaves the lobby and is counted elsewhere.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(crate) struct Lobby {
    present: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place in the lobby. Dropping it is leaving.
#[must_use = "a connection without it is not counted"]
pub(crate) struct Guest<'a> {
    lobby: &'a Lobby,
    host: IpAddr,
}

impl Lobby {
    /// None where the lobby is full, or this host's share of it.
    pub(crate) fn enter(&self, from: IpAddr) -> Option<Guest<'_>> {
        let host = host(from);
        let mut present = self.present();
        if present.values().sum::<usize>() >= PRESENT_MAX {
            return None;
        }
        let of_host = present.entry(host).or_default();
        if *of_host >= PRESENT_OF_HOST_MAX {
            return None;
        }
        *of_host += 1;
        Some(Guest { lobby: self, host })
    }

    fn present(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let mut present = self.lobby.present();
        if let Some(of_host) = present.get_mut(&self.host) {
            *of_host -= 1;
            if *of_host == 0 {
                present.remove(&self.host);
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

/// A handshake costs a millisecond of one core and some tens of kilobytes; the whole fleet that comes back at once
/// tries again, with jitter, where it is turned away.
const PRESENT_MAX: usize = 1024;
/// Everything that stands behind one address, a sandbox included.
const PRESENT_OF_HOST_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u16) -> IpAddr {
        IpAddr::from([10, 0, (number / 256) as u8, (number % 256) as u8])
    }

    #[test]
    fn a_host_fills_its_share_and_no_more() {
        let lobby = Lobby::default();
        let guests: Vec<_> = (0..PRESENT_OF_HOST_MAX).map(|_| lobby.enter(address(1)).unwrap()).collect();
        assert!(lobby.enter(address(1)).is_none());
        assert!(lobby.enter(address(2)).is_some());
        drop(guests);
        assert!(lobby.enter(address(1)).is_some());
        assert!(lobby.present().is_empty(), "who left is forgotten");
    }

    #[test]
    fn many_hosts_fill_the_lobby() {
        let lobby = Lobby::default();
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
