//! Which address is dialled in place of another, for networks where the two differ: behind address translation,
//! and in the sandbox, whose regions see each other through emulated links.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// From the address that everybody knows to the one that this process dials; ports stay. Names that peers prove
/// are never mapped, so TLS verifies whoever is meant. Empty = everybody is dialled where he is known to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DialMap(BTreeMap<IpAddr, IpAddr>);

impl DialMap {
    pub fn new(entries: impl IntoIterator<Item = (IpAddr, IpAddr)>) -> Self {
        Self(entries.into_iter().collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where `known` is dialled.
    pub fn dialled(&self, known: SocketAddr) -> SocketAddr {
        self.0.get(&known.ip()).map_or(known, |ip| SocketAddr::new(*ip, known.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_change_and_ports_stay() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let map = DialMap::new([(ip("127.0.2.1"), ip("127.0.1.12"))]);
        assert_eq!(map.dialled(at("127.0.2.1:7443")), at("127.0.1.12:7443"));
        assert_eq!(map.dialled(at("127.0.1.1:7443")), at("127.0.1.1:7443"));
        assert_eq!(DialMap::default().dialled(at("127.0.2.1:7001")), at("127.0.2.1:7001"));
    }
}
