//! Links between regions, over the real loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod anycast;
mod site;

use chaos::network::Faults;
use site::{CUT, Pair, eventually, read_exactly, region, reset};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

#[test]
fn round_trips_take_no_less_than_the_distance() {
    let pair = Pair::start(Duration::from_millis(60));
    let began = Instant::now();
    let (mut client, mut target) = pair.connect();
    assert!(began.elapsed() >= Duration::from_millis(30), "{:?} to ask for a connection", began.elapsed());
    // The first bytes go when word is back, and the answer when they are there.
    for least in [120, 60, 60] {
        let began = if least == 120 { began } else { Instant::now() };
        client.write_all(b"ping").unwrap();
        assert_eq!(read_exactly(&mut target, 4), b"ping");
        target.write_all(b"pong").unwrap();
        assert_eq!(read_exactly(&mut client, 4), b"pong");
        assert!(began.elapsed() >= Duration::from_millis(least), "{:?} for {least} ms", began.elapsed());
    }
    assert_eq!(target.peer_addr().unwrap().ip(), pair.source, "the target sees the client's region");
}

#[test]
fn bytes_arrive_whole_and_in_order_through_faults_that_change() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let pair = Pair::start_with_seed(Duration::from_millis(4), seed);
    let (client, target) = pair.connect();
    let streams = [(client.try_clone().unwrap(), target.try_clone().unwrap()), (target, client)];
    let carrying: Vec<_> = streams
        .into_iter()
        .map(|(mut from, mut to)| {
            let mut dice = dice.fork();
            let sent: Vec<u8> = (0..BYTES).map(|_| dice.u8(..)).collect();
            let expected = sent.clone();
            let sender = std::thread::spawn(move || {
                let mut left = sent.as_slice();
                while !left.is_empty() {
                    let (now, later) = left.split_at(dice.usize(1..100_000).min(left.len()));
                    from.write_all(now).unwrap();
                    left = later;
                }
                from.shutdown(Shutdown::Write).unwrap();
            });
            let receiver = std::thread::spawn(move || {
                let mut got = Vec::new();
                to.read_to_end(&mut got).unwrap();
                assert!(got == expected, "{} bytes of {BYTES}, or others", got.len());
            });
            (sender, receiver)
        })
        .collect();
    while !carrying.iter().all(|(_, receiver)| receiver.is_finished()) {
        let faults = Faults {
            is_cut: dice.u8(..4) == 0,
            delay_ms: dice.u64(..5),
            loss_per_million: [0, 1_000][dice.usize(..2)],
            bytes_per_second: [None, NonZeroU64::new(50_000_000)][dice.usize(..2)],
        };
        let (from, to) = if dice.bool() { ("a", "b") } else { ("b", "a") };
        pair.network.set(&[(region(from), region(to))], faults).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        if dice.u8(..8) == 0 {
            pair.heal();
        }
    }
    for (sender, receiver) in carrying {
        sender.join().unwrap();
        receiver.join().unwrap();
    }
    eventually("the connection is closed", || pair.there().connections == 0);
    for (link, dialled) in [(pair.there(), 1), (pair.back(), 0)] {
        assert_eq!((link.bytes_total, link.bytes_in_flight), (BYTES as u64, 0));
        assert_eq!((link.connections, link.connections_total), (0, dialled));
        assert!((1..=BYTES as u64).contains(&link.segments_total));
    }
}

#[test]
fn a_cut_holds_one_direction_and_lets_the_other_pass() {
    let pair = Pair::start(Duration::ZERO);
    let (mut client, mut target) = pair.connect();
    pair.set_there(CUT);
    client.write_all(b"there").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    target.write_all(b"back").unwrap();
    assert_eq!(read_exactly(&mut client, 4), b"back");
    eventually("the bytes are held", || pair.there().bytes_in_flight == 5);
    assert_eq!(pair.there().bytes_total, 0);
    target.set_nonblocking(true).unwrap();
    assert_eq!(target.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    target.set_nonblocking(false).unwrap();
    pair.heal();
    let mut got = String::new();
    target.read_to_string(&mut got).unwrap();
    assert_eq!(got, "there");
}

#[test]
fn a_connection_needs_both_directions() {
    let pair = Pair::start(Duration::ZERO);
    pair.set_there(CUT);
    let mut client = TcpStream::connect(pair.listen).unwrap();
    client.write_all(b"hello").unwrap();
    eventually("the connection is asked for", || pair.there().connections == 1);
    pair.target.set_nonblocking(true).unwrap();
    assert_eq!(pair.target.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    pair.target.set_nonblocking(false).unwrap();
    pair.set_back(CUT);
    pair.set_there(Faults::default());
    let mut target = pair.accept();
    // What the target says shows that the network has had its turn since.
    target.write_all(b"hi").unwrap();
    eventually("the target's word is held", || pair.back().bytes_in_flight == 2);
    assert_eq!((pair.there().bytes_in_flight, pair.there().bytes_total), (0, 0));
    pair.heal();
    assert_eq!(read_exactly(&mut target, 5), b"hello");
    assert_eq!(read_exactly(&mut client, 2), b"hi");
}

#[test]
fn an_end_is_an_end_and_a_reset_a_reset() {
    let pair = Pair::start(Duration::from_millis(2));
    let gone = |mut stream: &TcpStream| stream.read(&mut [0; 8]).map_err(|error| error.kind());

    let (client, mut target) = pair.connect();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(gone(&target), Ok(0));
    target.write_all(b"bye").unwrap();
    drop(target);
    assert_eq!((gone(&client), gone(&client)), (Ok(3), Ok(0)));

    // Both ends are carried before the client has read anything; it still gets all.
    let (mut client, mut target) = pair.connect();
    client.shutdown(Shutdown::Write).unwrap();
    target.write_all(&[7; SOME]).unwrap();
    drop(target);
    eventually("the network is done with it", || pair.there().connections == 0);
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), SOME);

    let (client, target) = pair.connect();
    reset(client);
    assert_eq!(gone(&target), Err(ErrorKind::ConnectionReset));

    let (client, mut target) = pair.connect_through();
    target.write_all(b"part").unwrap();
    reset(target);
    assert_eq!((gone(&client), gone(&client)), (Ok(4), Err(ErrorKind::ConnectionReset)));

    // A receiver that does not read hears of a reset all the same.
    let (mut client, target) = pair.connect();
    client.set_nonblocking(true).unwrap();
    eventually("all space is full", || {
        while client.write(&[0; 1 << 16]).is_ok() {}
        pair.there().bytes_in_flight > WAITING_MAX as u64 * 9 / 10
    });
    reset(client);
    eventually("the target hears of it", || target.take_error().unwrap().is_some());
    eventually("nothing is left of it", || pair.there().connections == 0);
}

#[test]
fn a_peer_that_vanishes_leaves_nothing_behind() {
    let pair = Pair::start(Duration::from_millis(2));
    // Silent half-closed connections: no byte ever shows that the other side is gone.
    let (client, target) = pair.connect();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&target).read(&mut [0]).unwrap(), 0);
    reset(client);
    eventually("the target hears of it", || target.take_error().unwrap().is_some());
    eventually("nothing is left of it", || pair.there().connections == 0);

    let (client, target) = pair.connect();
    target.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&client).read(&mut [0]).unwrap(), 0);
    reset(target);
    eventually("the client hears of it", || client.take_error().unwrap().is_some());
    eventually("nothing is left of it", || pair.there().connections == 0);
}

#[test]
fn a_refusal_is_a_reset_after_a_round_trip() {
    let mut pair = Pair::start(Duration::from_millis(30));
    pair.target = TcpListener::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    let mut client = TcpStream::connect(pair.listen).unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(began.elapsed() >= Duration::from_millis(30));
    eventually("it is forgotten", || pair.there().connections == 0);
    assert_eq!(pair.there().connections_total, 1);
}

#[test]
fn what_waits_is_bounded() {
    let pair = Pair::start(Duration::ZERO);
    let (mut client, mut target) = pair.connect();
    pair.set_there(CUT);
    let sending = std::thread::spawn(move || client.write_all(&vec![7; 8 * WAITING_MAX]).unwrap());
    eventually("the bound is reached", || pair.there().bytes_in_flight > WAITING_MAX as u64 * 9 / 10);
    for _ in 0..50 {
        assert!(pair.there().bytes_in_flight <= WAITING_MAX as u64 + (64 << 10));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!sending.is_finished());
    pair.heal();
    let mut got = Vec::new();
    target.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 8 * WAITING_MAX);
    sending.join().unwrap();
}

#[test]
fn what_was_sent_before_the_handshake_fills_no_narrow_link() {
    let pair = Pair::start(Duration::ZERO);
    pair.set_there(Faults { bytes_per_second: NonZeroU64::new(12_500), ..Faults::default() });
    pair.set_back(CUT);
    let mut client = TcpStream::connect(pair.listen).unwrap();
    client.write_all(&[7; EARLY]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut target = pair.accept();
    pair.set_back(Faults::default());
    eventually("it is sent", || pair.there().bytes_in_flight > 0);
    assert!(pair.there().bytes_in_flight < 10_000, "{} bytes", pair.there().bytes_in_flight);
    pair.heal();
    let mut got = Vec::new();
    target.read_to_end(&mut got).unwrap();
    assert_eq!(got, [7; EARLY]);
}

#[test]
fn the_last_handle_ends_everything() {
    let pair = Pair::start(Duration::ZERO);
    let (mut client, mut target) = pair.connect();
    let other = pair.network.clone();
    let listen = pair.listen;
    let Pair { network, target: _listener, .. } = pair;
    drop(network);
    client.write_all(b"still").unwrap();
    assert_eq!(read_exactly(&mut target, 5), b"still");
    drop(other);
    for stream in [&mut client, &mut target] {
        assert_eq!(
            stream.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::ConnectionReset,
            "nobody said that it was over"
        );
    }
    assert_eq!(TcpStream::connect(listen).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn links_that_are_not_there_have_no_faults() {
    let pair = Pair::start(Duration::ZERO);
    for (from, to) in [("a", "mars"), ("mars", "a"), ("a", "a")] {
        // The one that is there comes first, and stays as it was.
        let links = [(region("a"), region("b")), (region(from), region(to))];
        let error = pair.network.set(&links, CUT).unwrap_err();
        assert_eq!(error.to_string(), format!("there is no link from {from} to {to}"));
    }
    assert!(pair.network.report().iter().all(|link| link.faults.is_none()));
}

const BYTES: usize = 3 << 20;
/// More than a socket receives while nobody reads, less than two sockets hold.
const SOME: usize = 400_000;
/// Much for one second at the rate of the test, little enough to be kept as a whole.
const EARLY: usize = 50_000;
/// The bound of one direction of one connection.
const WAITING_MAX: usize = 4 << 20;
