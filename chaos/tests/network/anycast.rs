//! One address, the nearest edge that is ready.

use crate::site::{CUT, address, dial, eventually, link, read_exactly, region};
use chaos::Network;
use chaos::network::{Anycast, AnycastEdge, Faults, Plan};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// Says its name and what it was told of the client, once for each connection.
struct Edge {
    name: &'static str,
    target: SocketAddr,
    admin: SocketAddr,
    ready: Arc<AtomicBool>,
    /// How often it was asked whether it is ready.
    questions: Arc<AtomicU32>,
}

impl Edge {
    fn start(name: &'static str, takes: bool) -> Self {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").unwrap();
        let ready = Arc::new(AtomicBool::new(true));
        let addresses = [&target, &admin].map(|listener| listener.local_addr().unwrap());
        if takes {
            std::thread::spawn(move || {
                for stream in target.incoming() {
                    let mut stream = stream.unwrap();
                    // Who leaves before saying anything is no concern of this edge.
                    let (mut header, mut hello) = ([0; HEADER], [0; HELLO.len()]);
                    let _ = stream
                        .read_exact(&mut header)
                        .and_then(|()| stream.write_all(&[name.as_bytes(), &header].concat()))
                        .and_then(|()| stream.read_exact(&mut hello))
                        .and_then(|()| stream.write_all(&hello));
                }
            });
        }
        let questions = Arc::new(AtomicU32::new(0));
        let (is_ready, asked) = (Arc::clone(&ready), Arc::clone(&questions));
        std::thread::spawn(move || {
            for stream in admin.incoming() {
                let mut stream = stream.unwrap();
                let mut question = [0; 256];
                let _ = stream.read(&mut question);
                assert!(question.starts_with(b"GET /readyz HTTP/1.1\r\n"));
                let status = if is_ready.load(Ordering::Relaxed) { "200 OK" } else { "503 Not yet" };
                let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { name, target: addresses[0], admin: addresses[1], ready, questions }
    }
}

/// Clients stand in `a`; `b` is nearer to them than `c`.
fn start(edges: &[Edge]) -> (Network, SocketAddr) {
    let listen = address();
    let edge = |edge: &Edge| AnycastEdge {
        region: region(edge.name),
        targets: vec![edge.target],
        admin: edge.admin,
    };
    let plan = Plan {
        regions: ["a", "b", "c"].map(region).to_vec(),
        round_trips: vec![
            (region("a"), region("b"), Duration::from_millis(4)),
            (region("a"), region("c"), Duration::from_millis(8)),
            (region("b"), region("c"), Duration::from_millis(2)),
        ],
        forwards: Vec::new(),
        anycast: Some(Anycast {
            clients_in: region("a"),
            listen: vec![listen],
            source: listen.ip(),
            edges: edges.iter().map(edge).collect(),
        }),
    };
    (Network::start(plan, 1).unwrap(), listen)
}

/// Who answers; none = the connection is reset.
fn asked(listen: SocketAddr) -> Option<String> {
    let mut client = dial(listen);
    let answer = client.write_all(HELLO).and_then(|()| {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).map(|_| answer)
    });
    match answer {
        Ok(answer) => Some(String::from_utf8(answer[..1].to_vec()).unwrap()),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
            None
        }
    }
}

#[test]
fn anycast_leads_to_the_nearest_edge_that_is_ready() {
    let edges = ["c", "b", "a"].map(|name| Edge::start(name, true));
    let (network, listen) = start(&edges);
    let leads_to = |expected: Option<&str>| {
        eventually(&format!("{expected:?} answers"), || asked(listen).as_deref() == expected);
    };
    leads_to(Some("a"));
    edges[2].ready.store(false, Ordering::Relaxed);
    leads_to(Some("b"));
    // A client's bytes to a far edge travel over the link, and nothing else does.
    let carried = link(&network, "a", "b");
    assert_eq!(carried.bytes_total % HELLO.len() as u64, 0);
    assert!(carried.connections_total > 0 && carried.bytes_total > 0);
    for (from, to) in [("a", "b"), ("b", "a")] {
        network.set(&[(region(from), region(to))], CUT).unwrap();
        leads_to(Some("c"));
        network.set(&[(region(from), region(to))], Faults::default()).unwrap();
        leads_to(Some("b"));
    }
    edges.iter().for_each(|edge| edge.ready.store(false, Ordering::Relaxed));
    leads_to(None);
    edges[0].ready.store(true, Ordering::Relaxed);
    leads_to(Some("c"));
}

#[test]
fn an_edge_that_refuses_is_passed_over() {
    // Ready by its own word, but its door is gone.
    let edges = [Edge::start("b", false), Edge::start("c", true)];
    let (network, listen) = start(&edges);
    eventually("the next one answers", || asked(listen).as_deref() == Some("c"));
    // An edge takes its time to be found ready; then the nearer is tried first.
    eventually("the nearer was tried", || {
        assert!(matches!(asked(listen).as_deref(), Some("c") | None));
        link(&network, "a", "b").connections_total > 0
    });
    assert_eq!(asked(listen).as_deref(), Some("c"));
    assert_eq!(link(&network, "a", "b").bytes_total, 0, "nothing of a client's is lost there");
}

#[test]
fn the_edge_is_told_who_the_client_is() {
    let edges = [Edge::start("a", true)];
    let (_network, listen) = start(&edges);
    eventually("it answers", || asked(listen).is_some());
    let mut client: TcpStream = dial(listen);
    let local = client.local_addr().unwrap();
    client.write_all(HELLO).unwrap();
    let answer = read_exactly(&mut client, 1 + HEADER + HELLO.len());
    let (header, hello) = answer[1..].split_at(HEADER);
    let header = ppp::v2::Header::try_from(header).unwrap();
    assert_eq!(header.addresses, (local, listen).into());
    assert_eq!(hello, HELLO);
}

#[test]
fn the_edge_is_told_at_once_however_long_the_way_is() {
    let edges = [Edge::start("b", true)];
    let (network, listen) = start(&edges);
    eventually("it answers", || asked(listen).is_some());
    eventually("that is over", || link(&network, "a", "b").connections == 0);
    let far = Faults { delay_ms: 600_000, ..Faults::default() };
    network.set(&[(region("b"), region("a"))], far).unwrap();
    let _client = dial(listen);
    // The client's own bytes would wait for the handshake to come back.
    eventually("the edge answers the header", || link(&network, "b", "a").bytes_in_flight > 0);
}

#[test]
fn a_connection_waits_a_moment_for_an_edge_to_be_ready() {
    let edges = [Edge::start("a", true)];
    edges[0].ready.store(false, Ordering::Relaxed);
    let (_network, listen) = start(&edges);
    // The next question comes long after the connection does.
    eventually("it is asked", || edges[0].questions.load(Ordering::Relaxed) > 0);
    let mut client = dial(listen);
    client.write_all(HELLO).unwrap();
    edges[0].ready.store(true, Ordering::Relaxed);
    assert_eq!(read_exactly(&mut client, 1), b"a");
}

/// Of IPv4.
const HEADER: usize = 28;
const HELLO: &[u8] = b"hello";
