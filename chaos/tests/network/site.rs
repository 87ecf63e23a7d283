//! Two regions, a service in one of them, and who dials it from the other.

use chaos::Network;
use chaos::network::{Faults, Forward, LinkReport, Plan};
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use types::RegionName;

pub const CUT: Faults = Faults { is_cut: true, delay_ms: 0, loss_per_million: 0, bytes_per_second: None };

/// `a` dials `b`.
pub struct Pair {
    pub network: Network,
    pub listen: SocketAddr,
    pub source: IpAddr,
    pub target: TcpListener,
}

impl Pair {
    pub fn start(round_trip: Duration) -> Self {
        Self::start_with_seed(round_trip, 1)
    }

    pub fn start_with_seed(round_trip: Duration, seed: u64) -> Self {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = address();
        let source = listen.ip();
        let forward = Forward {
            from: region("a"),
            to: region("b"),
            listen,
            source,
            target: target.local_addr().unwrap(),
        };
        let plan = Plan {
            regions: vec![region("a"), region("b")],
            round_trips: vec![(region("b"), region("a"), round_trip)],
            forwards: vec![forward],
            anycast: None,
        };
        Self { network: Network::start(plan, seed).unwrap(), listen, source, target }
    }

    pub fn connect(&self) -> (TcpStream, TcpStream) {
        (dial(self.listen), self.accept())
    }

    /// With the handshake behind it.
    pub fn connect_through(&self) -> (TcpStream, TcpStream) {
        let (mut client, mut target) = self.connect();
        client.write_all(b"?").unwrap();
        assert_eq!(read_exactly(&mut target, 1), b"?");
        (client, target)
    }

    pub fn accept(&self) -> TcpStream {
        let (stream, _) = self.target.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn there(&self) -> LinkReport {
        link(&self.network, "a", "b")
    }

    pub fn back(&self) -> LinkReport {
        link(&self.network, "b", "a")
    }

    pub fn set_there(&self, faults: Faults) {
        self.network.set(&[(region("a"), region("b"))], faults).unwrap();
    }

    pub fn set_back(&self, faults: Faults) {
        self.network.set(&[(region("b"), region("a"))], faults).unwrap();
    }

    pub fn heal(&self) {
        self.set_there(Faults::default());
        self.set_back(Faults::default());
    }
}

pub fn region(name: &str) -> RegionName {
    name.parse().unwrap()
}

pub fn link(network: &Network, from: &str, to: &str) -> LinkReport {
    let mut links = network.report().into_iter();
    links.find(|link| link.from.as_str() == from && link.to.as_str() == to).unwrap()
}

/// A free port on an address that only this process uses, so that nobody takes it in between.
pub fn address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 128 | high, low, NEXT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

pub fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub fn read_exactly(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut got = vec![0; bytes];
    stream.read_exact(&mut got).unwrap();
    got
}

/// Closes without an end.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub const PATIENCE: Duration = Duration::from_secs(10);
