use super::*;
use crate::table::Node;
use types::LoadState;
use types::intent::{Agent, NodeKind};

const RTT: Duration = Duration::from_millis(1);

fn cost() -> Cost {
    Cost { version: version(1), prefill_tokens: 100 }
}

fn version(byte: u8) -> ModelVersion {
    ModelVersion::from_digest([byte; 32])
}

fn at(seconds: u64) -> Monotonic {
    Monotonic::from_micros(seconds * 1_000_000)
}

fn frame(sequence: u64, replicas: u32) -> LoadFrame {
    LoadFrame { boot: 1, sequence, replicas, state: LoadState::Serving, ..LoadFrame::default() }
}

#[test]
fn silence_becomes_unknown_not_empty() {
    let mut node = NodeHealth::new(key());
    assert_eq!(node.readiness(version(1), at(0)), Readiness::Unknown);
    node.hear(version(1), frame(1, 2), at(0));
    assert_eq!(node.readiness(version(1), at(5)), Readiness::Ready);
    assert_eq!(node.readiness(version(1), at(6)), Readiness::Unknown);
}

#[test]
fn an_overtaken_frame_changes_nothing() {
    let mut node = NodeHealth::new(key());
    node.hear(version(1), frame(7, 0), at(0));
    node.hear(version(1), frame(6, 2), at(0));
    assert_eq!(node.readiness(version(1), at(0)), Readiness::NotReady);
    node.hear(version(1), LoadFrame { boot: 2, ..frame(1, 2) }, at(0));
    assert_eq!(node.readiness(version(1), at(0)), Readiness::Ready, "a restart counts anew");
}

fn key() -> NodeKey {
    "us-east/n1".parse().unwrap()
}

fn table(port: u16) -> RoutingTable {
    let mut table = RoutingTable::default();
    let node = Node {
        zone: "a".parse().unwrap(),
        kind: NodeKind::Agent(Agent { ingress: ([127, 0, 0, 1], port).into(), server_name: "n".to_owned() }),
        drained: false,
    };
    table.nodes.insert(key(), node);
    table
}

fn one_node() -> Health {
    let mut health = Health::default();
    health.follow(&table(1));
    health
}

fn readiness(health: &Health, now: Monotonic) -> Readiness {
    health.node(&key()).unwrap().readiness(version(1), now)
}

#[test]
fn what_the_node_said_itself_rules_over_reports() {
    let mut health = one_node();
    let ready = [(version(1), frame(9, 2))];
    let gone = [(version(1), frame(10, 0))];
    health.probe_answered(&key(), &ready, RTT, at(0));
    health.reported(&key(), &gone, Duration::ZERO, at(1));
    assert_eq!(readiness(&health, at(5)), Readiness::Ready, "heard 5 s ago");
    assert_eq!(readiness(&health, at(6)), Readiness::NotReady, "heard too long ago");
    health.reported(&key(), &[(version(2), frame(10, 2))], Duration::ZERO, at(6));
    health.probe_answered(&key(), &ready, RTT, at(6));
    let other = health.node(&key()).unwrap().readiness(version(2), at(6));
    assert_eq!(other, Readiness::NotReady, "the node itself does not name that version");
}

#[test]
fn an_old_report_is_unknown_and_unknown_stops_nothing() {
    let mut health = one_node();
    let gone = [(version(1), frame(1, 0))];
    health.reported(&key(), &gone, Duration::from_secs(4), at(0));
    assert_eq!(readiness(&health, at(1)), Readiness::NotReady, "5 s old by now");
    assert_eq!(readiness(&health, at(2)), Readiness::Unknown);
    health.reported(&key(), &gone, Duration::from_secs(6), at(2));
    assert_eq!(readiness(&health, at(2)), Readiness::Unknown, "too old when it came");
}

#[test]
fn a_report_of_an_earlier_time_is_ignored() {
    let mut health = one_node();
    let report = |health: &mut Health, frame, age, now| {
        health.reported(&key(), &[(version(1), frame)], Duration::from_secs(age), now);
    };
    // Of an earlier sequence than the node's own word, which is stale by then.
    health.load_heard(&key(), version(1), frame(7, 2), at(0));
    report(&mut health, frame(6, 0), 0, at(6));
    assert_eq!(readiness(&health, at(6)), Readiness::Unknown);
    report(&mut health, frame(8, 0), 0, at(6));
    assert_eq!(readiness(&health, at(6)), Readiness::NotReady);
    // Of an earlier sequence than another report, though it came later.
    report(&mut health, frame(7, 2), 0, at(7));
    assert_eq!(readiness(&health, at(7)), Readiness::NotReady);
    // Of another start of the node: only time tells which was first.
    let restarted = LoadFrame { boot: 2, ..frame(1, 2) };
    report(&mut health, restarted, 3, at(7));
    assert_eq!(readiness(&health, at(7)), Readiness::NotReady);
    report(&mut health, restarted, 0, at(8));
    assert_eq!(readiness(&health, at(8)), Readiness::Ready);
}

#[test]
fn reports_of_ever_new_versions_are_not_kept() {
    let mut health = one_node();
    for second in 0..40 {
        let frames: Vec<_> = (0..5).map(|byte| (version(5 * second + byte), frame(1, 1))).collect();
        health.reported(&key(), &frames, Duration::ZERO, at(second.into()));
    }
    assert!(health.node(&key()).unwrap().versions.len() <= 30);
}

#[test]
fn requests_on_a_node_that_left_are_counted_to_their_end() {
    let mut health = one_node();
    let first = health.begin(&key(), cost(), at(0));
    let second = health.begin(&key(), cost(), at(0));
    health.follow(&RoutingTable::default());
    health.end(&key(), first, Outcome::Served, at(1));
    health.follow(&table(1));
    assert_eq!(health.node(&key()).unwrap().in_flight, 1, "back before its last stream ended");
    health.follow(&RoutingTable::default());
    health.end(&key(), second, Outcome::Served, at(2));
    assert!(health.node(&key()).is_none());
}

#[test]
fn a_node_at_a_new_address_begins_well() {
    let mut health = one_node();
    for _ in 0..3 {
        health.probe_missed(&key(), at(0));
    }
    health.follow(&table(1));
    assert!(health.node(&key()).unwrap().is_down());
    health.follow(&table(2));
    assert!(!health.node(&key()).unwrap().is_down());
}

#[test]
fn a_version_absent_from_a_whole_picture_is_not_ready() {
    let key = key();
    let mut health = one_node();
    health.probe_answered(&key, &[(version(1), frame(1, 2))], RTT, at(0));
    let node = health.node(&key).unwrap();
    assert_eq!(node.readiness(version(1), at(1)), Readiness::Ready);
    assert_eq!(node.readiness(version(2), at(1)), Readiness::NotReady);
    health.version_missing(&key, version(1), at(1));
    assert_eq!(health.node(&key).unwrap().readiness(version(1), at(1)), Readiness::NotReady);
}
