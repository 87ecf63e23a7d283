//! Prints what one routing decision costs: `cargo run --release -p rhumb-policy --example route-bench`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints what it measures")]

use policy::{Ask, Health, Node, Outcome, Purpose, Region, RoutingTable, route};
use std::hint::black_box;
use std::time::{Duration, Instant};
use types::intent::{Agent, NodeKind};
use types::{LoadFrame, LoadState, ModelVersion, Monotonic, NodeKey, Place, Priority, RegionName};

const VERSION: ModelVersion = ModelVersion::from_digest([1; 32]);
const DECISIONS: u32 = 200_000;

fn table(regions: usize, nodes: usize) -> RoutingTable {
    let mut table = RoutingTable::default();
    for at in 0..regions {
        let name: RegionName = format!("region-{at}").parse().unwrap();
        let place = Place { latitude: 5.0 * at as f64, longitude: 15.0 * at as f64 };
        table.regions.insert(name.clone(), Region { place, drained: false });
        for node in 0..nodes {
            let key = NodeKey { region: name.clone(), node: format!("node-{node}").parse().unwrap() };
            let ingress = ([127, 0, 0, 1], 7443).into();
            let kind = NodeKind::Agent(Agent { ingress, server_name: "n".to_owned() });
            table.nodes.insert(key, Node { zone: "a".parse().unwrap(), kind, drained: false });
        }
    }
    table
}

fn frame(sequence: u64, running: u32) -> LoadFrame {
    LoadFrame {
        boot: 1,
        sequence,
        state: LoadState::Serving,
        replicas: 1,
        slots: 64,
        running,
        prefill_tokens_per_s: 8000,
        kv_free_tokens: 1_000_000,
        step_us: 20_000,
        ..LoadFrame::default()
    }
}

fn ask(prefix: &[u64]) -> Ask<'_> {
    Ask {
        version: VERSION,
        regions: None,
        priority: Priority::Standard,
        prompt_tokens: 500,
        prefix,
        tried: &[],
        purpose: Purpose::First,
    }
}

fn bench(regions: usize, nodes: usize) {
    let table = table(regions, nodes);
    let now = Monotonic::from_micros(1_000_000);
    let mut health = Health::new(1);
    health.follow(&table);
    for (at, key) in table.nodes.keys().enumerate() {
        let frames = [(VERSION, frame(1, at as u32 % 40))];
        health.probe_answered(key, &frames, Duration::from_millis(20), now);
    }
    let here: RegionName = "region-3".parse().unwrap();
    let prefix = |at: u64| [at, at + 1, at + 2, at + 3];
    let per = |began: Instant, count: u32| began.elapsed().as_nanos() / u128::from(count);

    let began = Instant::now();
    for dice in 0..u64::from(DECISIONS) {
        let choice =
            route(&table, &mut health, &here, ask(&[]), now, dice.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let _ = black_box(choice);
    }
    let decision = per(began, DECISIONS);
    let began = Instant::now();
    for dice in 0..u64::from(DECISIONS) {
        let prefix = prefix(dice * 10);
        let choice = route(&table, &mut health, &here, ask(&prefix), now, dice);
        let _ = black_box(choice);
    }
    let with_prefix = per(began, DECISIONS);
    let began = Instant::now();
    for dice in 0..u64::from(DECISIONS) {
        let choice = route(&table, &mut health, &here, ask(&[]), now, dice).unwrap();
        let mut held = health.begin(&choice.node, choice.cost, now);
        health.answer_begun(&choice.node, &mut held, Duration::ZERO, now);
        health.end(&choice.node, held, Outcome::Served, now);
    }
    let whole = per(began, DECISIONS);
    let keys: Vec<&NodeKey> = table.nodes.keys().collect();
    let began = Instant::now();
    for at in 0..DECISIONS {
        let frame = frame(2 + u64::from(at), at % 40);
        health.load_heard(keys[at as usize % keys.len()], VERSION, frame, now);
    }
    let heard = per(began, DECISIONS);
    let began = Instant::now();
    health.follow(&table);
    let follow = began.elapsed();
    println!(
        "{regions} regions x {nodes} nodes: {decision} ns a decision, {with_prefix} ns with a prefix, {whole} ns with \
         begin and end, {heard} ns a load frame, {follow:?} to follow a table"
    );
}

fn main() {
    bench(3, 4);
    bench(10, 10);
    bench(10, 100);
    bench(10, 1000);
}
