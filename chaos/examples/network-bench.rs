//! Measures the network over the real loopback; `tests/bench/network` runs it. Prints one JSON line.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement fails by panicking, and prints")]

use chaos::Network;
use chaos::network::{Forward, Plan};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

fn main() {
    let mut lines = Vec::new();
    for milliseconds in [0, 20, 80, 200] {
        let (p50, p99) = round_trips(Duration::from_millis(milliseconds));
        lines.push(format!(
            "\"round_trip_{milliseconds}_ms\": {{\"over_ms_p50\": {p50:.3}, \"over_ms_p99\": {p99:.3}}}"
        ));
    }
    let (p50, p99) = host();
    lines.push(format!("\"host\": {{\"over_ms_p50\": {p50:.3}, \"over_ms_p99\": {p99:.3}}}"));
    let (rate, share) = cost();
    lines.push(format!("\"segments_per_second\": {rate:.0}, \"core_percent\": {share:.1}"));
    lines.push(format!("\"megabytes_per_second\": {:.1}", throughput(Duration::from_millis(80))));
    println!("{{{}}}", lines.join(", "));
}

/// By how many milliseconds a round trip is longer than it should be: half and 99 of 100 are below.
fn round_trips(round_trip: Duration) -> (f64, f64) {
    let world = World::start(round_trip);
    let (mut client, target) = world.connect();
    spawn(move || echo(target));
    let count = (8_000 / round_trip.as_millis().max(2)).clamp(200, 1_000);
    let mut over: Vec<f64> = (0..count)
        .map(|number| {
            // A pause of its own each time, so that nothing falls into step with a timer.
            sleep(Duration::from_micros(u64::try_from(number).unwrap() % 17 * 137));
            let began = Instant::now();
            client.write_all(&[1; 200]).unwrap();
            client.read_exact(&mut [0; 200]).unwrap();
            (began.elapsed().as_secs_f64() - round_trip.as_secs_f64()) * 1e3
        })
        .collect();
    half_and_most(&mut over)
}

/// The same for a sleep of 40 ms, which tells what the host adds before anything of ours does.
fn host() -> (f64, f64) {
    let least = Duration::from_millis(40);
    let mut over: Vec<f64> = (0..200)
        .map(|_| {
            let began = Instant::now();
            sleep(least);
            (began.elapsed() - least).as_secs_f64() * 1e3
        })
        .collect();
    half_and_most(&mut over)
}

fn half_and_most(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[values.len() * 99 / 100])
}

/// How many segments a second were carried, and the share of a core that took: twenty connections over 80 ms, each
/// sending 200 bytes 50 times a second both ways, as streams of tokens do.
fn cost() -> (f64, f64) {
    let world = World::start(Duration::from_millis(80));
    for _ in 0..20 {
        let (mut client, target) = world.connect();
        let mut reader = client.try_clone().unwrap();
        spawn(move || echo(target));
        spawn(move || while reader.read(&mut [0; 4_096]).is_ok_and(|bytes| bytes > 0) {});
        spawn(move || {
            let began = Instant::now();
            for turn in 0.. {
                sleep((began + Duration::from_millis(20) * turn).saturating_duration_since(Instant::now()));
                if client.write_all(&[1; 200]).is_err() {
                    return;
                }
            }
        });
    }
    sleep(Duration::from_secs(1));
    let segments = || world.network.report().iter().map(|link| link.segments_total).sum::<u64>() as f64;
    let (began, segments_before, busy_before) = (Instant::now(), segments(), busy());
    sleep(Duration::from_secs(5));
    let took = began.elapsed().as_secs_f64();
    ((segments() - segments_before) / took, (busy() - busy_before) / took * 100.0)
}

/// Megabytes a second that one connection carries.
fn throughput(round_trip: Duration) -> f64 {
    let world = World::start(round_trip);
    let (mut client, mut target) = world.connect();
    spawn(move || {
        let piece = vec![7; 1 << 20];
        for _ in 0..MEBIBYTES {
            client.write_all(&piece).unwrap();
        }
    });
    let (mut piece, mut bytes) = (vec![0; 1 << 20], 0);
    let began = Instant::now();
    loop {
        match target.read(&mut piece).unwrap() {
            0 => return bytes as f64 / 1e6 / began.elapsed().as_secs_f64(),
            read => bytes += read,
        }
    }
}

/// Seconds of a core that the network's thread has taken.
fn busy() -> f64 {
    let threads = fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
    let nanoseconds = threads
        .filter(|thread| fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == "network"))
        .map(|thread| {
            let text = fs::read_to_string(thread.join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse::<f64>().unwrap()
        });
    nanoseconds.sum::<f64>() / 1e9
}

fn echo(mut stream: TcpStream) {
    let mut piece = [0; 4_096];
    while let Ok(bytes @ 1..) = stream.read(&mut piece) {
        if stream.write_all(&piece[..bytes]).is_err() {
            return;
        }
    }
}

struct World {
    network: Network,
    listen: SocketAddr,
    target: TcpListener,
}

impl World {
    fn start(round_trip: Duration) -> Self {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let [from, to] = ["here", "there"].map(|name| name.parse::<types::RegionName>().unwrap());
        let forward = Forward {
            from: from.clone(),
            to: to.clone(),
            listen,
            source: listen.ip(),
            target: target.local_addr().unwrap(),
        };
        let plan = Plan {
            regions: vec![from.clone(), to.clone()],
            round_trips: vec![(from, to, round_trip)],
            forwards: vec![forward],
            anycast: None,
        };
        Self { network: Network::start(plan, 1).unwrap(), listen, target }
    }

    /// With the handshake behind it.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let mut client = TcpStream::connect(self.listen).unwrap();
        let (mut target, _) = self.target.accept().unwrap();
        for stream in [&client, &target] {
            stream.set_nodelay(true).unwrap();
        }
        client.write_all(&[0]).unwrap();
        target.read_exact(&mut [0]).unwrap();
        (client, target)
    }
}

const MEBIBYTES: usize = 256;
