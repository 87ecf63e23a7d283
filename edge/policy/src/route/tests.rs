use super::*;
use crate::breaker::Outcome;
use crate::explain::explain;
use crate::table::{Model, Node, Region, Waits};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use types::intent::{Agent, NodeKind, OpenAiServer};
use types::{LoadFrame, LoadState, ModelVersion, Place, Priority, UnixMs};

mod servers;

const VERSION: ModelVersion = ModelVersion::from_digest([1; 32]);
const COST: Cost = Cost { version: VERSION, prefill_tokens: 100 };
const PLACES: [(&str, f64, f64); 3] =
    [("us-east", 39.0, -77.5), ("eu-west", 53.3, -6.3), ("ap-south", 19.1, 72.9)];

fn key(text: &str) -> NodeKey {
    text.parse().unwrap()
}

fn region(name: &str) -> RegionName {
    name.parse().unwrap()
}

fn at(seconds: u64) -> Monotonic {
    Monotonic::from_micros(seconds * 1_000_000)
}

fn agent() -> Node {
    let agent = Agent { ingress: ([127, 0, 0, 1], 7443).into(), server_name: "n".to_owned() };
    Node { zone: "a".parse().unwrap(), kind: NodeKind::Agent(agent), drained: false }
}

fn table(nodes: &[&str]) -> RoutingTable {
    let mut table = RoutingTable::default();
    for (name, latitude, longitude) in PLACES {
        table.regions.insert(region(name), Region { place: Place { latitude, longitude }, drained: false });
    }
    table.nodes = nodes.iter().map(|node| (key(node), agent())).collect();
    table
}

/// us-east has two nodes, eu-west one, ap-south one.
fn world() -> World {
    World::of(table(&["us-east/n1", "us-east/n2", "eu-west/n1", "ap-south/n1"]))
}

/// Seen by an edge in us-east.
struct World {
    table: RoutingTable,
    health: Health,
    here: RegionName,
}

fn ask() -> Ask<'static> {
    Ask {
        version: VERSION,
        regions: None,
        priority: Priority::Standard,
        prompt_tokens: 100,
        prefix: &[],
        tried: &[],
        purpose: Purpose::First,
    }
}

fn retry(tried: &[NodeKey]) -> Ask<'_> {
    Ask { tried, purpose: Purpose::Retry, ..ask() }
}

fn frame() -> LoadFrame {
    LoadFrame {
        state: LoadState::Serving,
        replicas: 1,
        slots: 8,
        prefill_tokens_per_s: 1000,
        kv_free_tokens: 1_000_000,
        ..LoadFrame::default()
    }
}

impl World {
    fn of(table: RoutingTable) -> Self {
        let mut health = Health::default();
        health.follow(&table);
        Self { table, health, here: region("us-east") }
    }

    fn follow(&mut self) {
        self.health.follow(&self.table);
    }

    fn route(&mut self, ask: Ask<'_>, seconds: u64, dice: u64) -> Result<Choice, NoRoute> {
        route(&self.table, &mut self.health, &self.here, ask, at(seconds), dice)
    }

    fn node(&mut self, ask: Ask<'_>, seconds: u64, dice: u64) -> String {
        self.route(ask, seconds, dice).unwrap().node.to_string()
    }

    fn hear(&mut self, node: &str, frame: LoadFrame, now: Monotonic) {
        self.health.probe_answered(&key(node), &[(VERSION, frame)], Duration::from_millis(1), now);
    }

    fn hear_all(&mut self, frame: LoadFrame, now: Monotonic) {
        for node in self.table.nodes.keys().cloned().collect::<Vec<_>>() {
            self.health.probe_answered(&node, &[(VERSION, frame)], Duration::from_millis(1), now);
        }
    }

    fn silence(&mut self, node: &str) {
        (0..3).for_each(|_| self.health.probe_missed(&key(node), at(0)));
    }

    fn fail(&mut self, node: &str, now: Monotonic) {
        for _ in 0..5 {
            let held = self.health.begin(&key(node), COST, now);
            self.health.end(&key(node), held, Outcome::Failed, now);
        }
    }

    /// How often each node is chosen.
    fn spread(&mut self, ask: Ask<'_>, now: Monotonic) -> BTreeMap<String, usize> {
        let mut spread = BTreeMap::new();
        for dice in 0..1000 {
            let choice = route(&self.table, &mut self.health, &self.here, ask, now, dice).unwrap();
            *spread.entry(choice.node.to_string()).or_default() += 1;
        }
        spread
    }
}

#[test]
fn nearest_region_first_then_fewest_in_flight() {
    let mut world = world();
    let _busy = world.health.begin(&key("us-east/n1"), COST, at(0));
    for dice in 0..20 {
        assert_eq!(world.node(ask(), 0, dice), "us-east/n2");
    }
    world.here = region("ap-south");
    assert_eq!(world.node(ask(), 0, 1), "ap-south/n1");
}

#[test]
fn with_no_signal_at_all_requests_spread_by_what_this_edge_has_begun() {
    let mut world = World::of(table(&["us-east/n1", "us-east/n2", "us-east/n3", "us-east/n4", "eu-west/n1"]));
    let mut held = Vec::new();
    for dice in 0..40 {
        let choice = world.route(ask(), 100, dice).unwrap();
        held.push(world.health.begin(&choice.node, choice.cost, at(100)));
    }
    let in_flight = |node: &str| world.health.node(&key(node)).unwrap().in_flight;
    for node in ["us-east/n1", "us-east/n2", "us-east/n3", "us-east/n4"] {
        assert!((6..=14).contains(&in_flight(node)), "{node} has {}", in_flight(node));
    }
    assert_eq!(in_flight("eu-west/n1"), 0);
}

#[test]
fn a_full_home_spills_to_the_next_region_and_not_to_the_farthest() {
    let mut world = world();
    world.hear_all(frame(), at(0));
    for node in ["us-east/n1", "us-east/n2"] {
        world.hear(node, LoadFrame { sequence: 1, running: 8, queued: 8, ..frame() }, at(0));
    }
    let choice = world.route(ask(), 0, 1).unwrap();
    assert_eq!((choice.node.to_string().as_str(), choice.spilled), ("eu-west/n1", true));
    // By its own choice an edge moves no more than the cap; the rest waits at home.
    let spread = world.spread(ask(), at(0));
    assert!(spread["eu-west/n1"] < 20 && !spread.is_empty(), "{spread:?}");
    // 1000 tokens a second is what it computes, so in ten seconds a tenth of that is ten prompts.
    assert!(spread.contains_key("ap-south/n1"), "the next one has its own cap: {spread:?}");
}

#[test]
fn a_retry_goes_where_the_request_has_not_been() {
    let mut world = world();
    let tried = [key("us-east/n1")];
    assert_eq!(world.node(retry(&tried), 0, 1), "us-east/n2");
    // The second failure in a region sends a request out of it.
    let mut world =
        World::of(table(&["us-east/n1", "us-east/n2", "us-east/n3", "eu-west/n1", "ap-south/n1"]));
    let mut tried = vec![key("us-east/n1"), key("us-east/n2")];
    for next in ["eu-west/n1", "ap-south/n1", "us-east/n3"] {
        assert_eq!(world.node(retry(&tried), 0, 1), next);
        tried.push(key(next));
    }
    let again = world.route(retry(&tried), 0, 1).unwrap();
    assert_eq!(again.reason, Reason::Balanced, "all were tried once, and none looks ill");
    let hedge = Ask { tried: &tried, purpose: Purpose::Hedge, ..ask() };
    assert_eq!(world.route(hedge, 0, 1), Err(NoRoute::Tried));
}

#[test]
fn every_filter_says_so_when_it_leaves_nothing() {
    let mut world = world();
    let (nowhere, europe) = ([region("mars")], [region("eu-west")]);
    let in_europe = Ask { regions: Some(&europe), ..ask() };
    assert_eq!(world.route(Ask { regions: Some(&nowhere), ..ask() }, 1, 0), Err(NoRoute::Residency));
    world.table.nodes.get_mut(&key("eu-west/n1")).unwrap().drained = true;
    world.follow();
    assert_eq!(world.route(in_europe, 1, 0), Err(NoRoute::Drained));
    world.table.nodes.get_mut(&key("eu-west/n1")).unwrap().drained = false;
    world.follow();
    world.hear("eu-west/n1", LoadFrame { replicas: 0, ..frame() }, at(1));
    assert_eq!(world.route(in_europe, 1, 0), Err(NoRoute::NotReady));
    world.hear("eu-west/n1", LoadFrame { state: LoadState::Draining, ..frame() }, at(1));
    assert_eq!(world.route(in_europe, 1, 0), Err(NoRoute::Draining));
    world.hear("eu-west/n1", frame(), at(1));
    world.silence("eu-west/n1");
    let hedge = Ask { purpose: Purpose::Hedge, ..in_europe };
    assert_eq!(world.route(hedge, 1, 0), Err(NoRoute::Down));
    let mut world = World::of(table(&["eu-west/n1"]));
    world.fail("eu-west/n1", at(0));
    let Err(NoRoute::BreakersOpen { wait }) = world.route(hedge, 1, 0) else { panic!("an open breaker") };
    assert!((29..=37).contains(&wait.as_secs()), "{wait:?}");
    let mut world = World::of(RoutingTable::default());
    assert_eq!(world.route(ask(), 1, 0), Err(NoRoute::NoNodes));
}

#[test]
fn a_drained_region_or_node_gets_nothing_new() {
    let mut world = world();
    world.table.nodes.get_mut(&key("us-east/n1")).unwrap().drained = true;
    world.follow();
    assert_eq!(world.spread(ask(), at(0)).into_keys().collect::<Vec<_>>(), ["us-east/n2"]);
    let seen = explain(&world.table, &mut world.health, &world.here, ask(), at(0), 0);
    assert_eq!(seen.vetoes, [(key("us-east/n1"), Veto::Drained)]);
    world.table.regions.get_mut(&world.here).unwrap().drained = true;
    world.follow();
    assert_eq!(world.node(ask(), 0, 0), "eu-west/n1");
    // A hard fact also when nothing else is left.
    let home = [world.here.clone()];
    assert_eq!(world.route(Ask { regions: Some(&home), ..ask() }, 0, 0), Err(NoRoute::Drained));
}

#[test]
fn an_only_node_that_is_silent_or_broken_is_the_last_resort() {
    let home = [region("us-east")];
    let at_home = Ask { regions: Some(&home), ..ask() };
    let mut world = World::of(table(&["us-east/n1", "eu-west/n1"]));
    world.hear_all(frame(), at(0));
    world.silence("us-east/n1");
    let choice = world.route(at_home, 1, 0).unwrap();
    assert_eq!((choice.node, choice.reason), (key("us-east/n1"), Reason::LastResort));
    assert!(choice.reason.is_doubtful());
    assert_eq!(world.node(ask(), 1, 0), "eu-west/n1", "but for others there is a better one");
    let mut world = World::of(table(&["us-east/n1"]));
    world.fail("us-east/n1", at(0));
    assert_eq!(world.route(at_home, 1, 0).unwrap().reason, Reason::LastResort);
}

#[test]
fn a_node_that_comes_back_is_preferred_only_after_ten_good_probes() {
    let mut world = World::of(table(&["us-east/n1", "us-east/n2"]));
    world.hear_all(frame(), at(0));
    world.silence("us-east/n1");
    let used = |world: &mut World, now| world.spread(ask(), now).contains_key("us-east/n1");
    for probe in 1..10 {
        world.hear("us-east/n1", LoadFrame { sequence: probe, ..frame() }, at(probe));
        world.hear("us-east/n2", LoadFrame { sequence: probe, ..frame() }, at(probe));
        assert!(!used(&mut world, at(probe)), "after {probe}");
    }
    world.silence("us-east/n2");
    assert_eq!(world.node(ask(), 9, 0), "us-east/n1", "before that, it is used if it is all there is");
    let mut world = World::of(table(&["us-east/n1", "us-east/n2"]));
    world.silence("us-east/n1");
    world.hear_all(frame(), at(0));
    assert!(used(&mut world, at(0)), "one that never answered before does not come back");
}

#[test]
fn a_node_that_was_replaced_gets_a_tenth_at_first() {
    let mut world = World::of(table(&["us-east/n1", "us-east/n2"]));
    world.hear_all(frame(), at(0));
    world.hear("us-east/n1", LoadFrame { boot: 2, ..frame() }, at(1));
    let share = |world: &mut World, now| world.spread(ask(), now).get("us-east/n1").copied().unwrap_or(0);
    let first = share(&mut world, at(1));
    assert!((20..150).contains(&first), "{first}");
    world.hear_all(LoadFrame { sequence: 1, boot: 2, ..frame() }, at(1));
    world.hear_all(LoadFrame { sequence: 2, boot: 2, ..frame() }, at(121));
    let later = share(&mut world, at(121));
    assert!((400..600).contains(&later), "{later}");
}

#[test]
fn an_ejected_node_is_tried_by_one_live_request_when_its_time_is_over() {
    let mut world = World::of(table(&["us-east/n1", "us-east/n2", "us-east/n3"]));
    world.hear_all(frame(), at(0));
    world.fail("us-east/n1", at(0));
    assert!(!world.spread(ask(), at(1)).contains_key("us-east/n1"));
    world.hear_all(LoadFrame { sequence: 1, ..frame() }, at(40));
    let trial = world.route(ask(), 40, 0).unwrap();
    assert_eq!((trial.node.clone(), trial.reason), (key("us-east/n1"), Reason::Trial));
    let mut held = world.health.begin(&trial.node, trial.cost, at(40));
    assert_ne!(world.node(ask(), 40, 0), "us-east/n1", "one at a time");
    world.health.answer_begun(&trial.node, &mut held, Duration::from_millis(1), at(41));
    world.health.end(&trial.node, held, Outcome::Served, at(41));
    assert!(world.spread(ask(), at(41)).contains_key("us-east/n1"));
}

#[test]
fn failures_in_common_leave_two_thirds_of_a_region_in_use() {
    let nodes = ["us-east/n1", "us-east/n2", "us-east/n3", "us-east/n4", "us-east/n5", "us-east/n6"];
    let mut world = World::of(table(&nodes));
    world.hear_all(frame(), at(0));
    nodes[..3].iter().for_each(|node| world.fail(node, at(0)));
    assert_eq!(world.spread(ask(), at(1)).len(), 4, "one of the three that failed stays in use");
}

#[test]
fn a_lost_region_sheds_batch_first_and_interactive_last() {
    let mut world = world();
    world.hear_all(frame(), at(0));
    let _ = world.route(ask(), 0, 0);
    ["us-east/n1", "us-east/n2"].iter().for_each(|node| world.silence(node));
    let queued = |tokens| LoadFrame { sequence: tokens, queued_prefill_tokens: tokens, ..frame() };
    let mut shed = Vec::new();
    for seconds in [1, 3, 10, 30] {
        for node in ["eu-west/n1", "ap-south/n1"] {
            world.hear(node, queued(seconds * 1000), at(0));
        }
        let classes = [Priority::Batch, Priority::Standard, Priority::Interactive];
        let is_shed = |class: &Priority| {
            let asked = Ask { priority: *class, purpose: Purpose::Retry, ..ask() };
            let outcome = route(&world.table, &mut world.health, &world.here, asked, at(0), 1);
            matches!(outcome, Err(NoRoute::Shed { class: shed, .. }) if shed == *class)
        };
        shed.push(classes.into_iter().filter(is_shed).count());
        // Somebody is reading its beginning.
        let resumed = Ask { priority: Priority::Batch, purpose: Purpose::Resume, ..ask() };
        assert!(world.route(resumed, 0, 1).is_ok(), "{seconds} s");
    }
    assert_eq!(shed, [0, 1, 2, 3]);
}

#[test]
fn when_most_nodes_look_ill_and_the_rest_is_crowded_some_requests_find_out() {
    let mut world = World::of(table(&["us-east/n1", "us-east/n2", "us-east/n3"]));
    world.hear_all(frame(), at(0));
    world.hear("us-east/n1", LoadFrame { sequence: 1, running: 8, queued: 8, ..frame() }, at(0));
    let asked_of_the_ill = |world: &mut World| {
        let mut asked = 0;
        for dice in 0..1000 {
            let choice = world.route(ask(), 0, dice).unwrap();
            assert_eq!(choice.node != key("us-east/n1"), choice.reason == Reason::Panic);
            asked += u32::from(choice.reason == Reason::Panic);
        }
        asked
    };
    world.silence("us-east/n2");
    world.hear("us-east/n3", LoadFrame { sequence: 1, running: 8, queued: 8, ..frame() }, at(0));
    for dice in 0..100 {
        let choice = world.route(ask(), 0, dice).unwrap();
        assert!(choice.node != key("us-east/n2") && choice.reason != Reason::Panic, "one of three is one");
    }
    world.silence("us-east/n3");
    let asked = asked_of_the_ill(&mut world);
    assert!((150..350).contains(&asked), "{asked} of 1000");
}

#[test]
fn a_hot_node_loses_to_a_cold_one_whatever_is_predicted() {
    let mut world = World::of(table(&["us-east/n1", "us-east/n2"]));
    let fast = LoadFrame { running: 6, prefill_tokens_per_s: 100_000, ..frame() };
    world.hear("us-east/n1", fast, at(0));
    world.hear("us-east/n2", LoadFrame { prefill_tokens_per_s: 100, ..frame() }, at(0));
    for dice in 0..20 {
        assert_eq!(world.node(ask(), 0, dice), "us-east/n2");
    }
    world.hear("us-east/n1", LoadFrame { sequence: 1, running: 1, ..fast }, at(0));
    assert_eq!(world.node(ask(), 0, 1), "us-east/n1", "one request more is no heat");
}

#[test]
fn a_region_that_returns_gets_its_requests_back_little_by_little() {
    let mut world = world();
    world.hear_all(frame(), at(0));
    let _ = world.route(ask(), 0, 0);
    ["us-east/n1", "us-east/n2"].iter().for_each(|node| world.silence(node));
    assert_eq!(world.node(ask(), 0, 0), "eu-west/n1");
    for probe in 1..=11 {
        world.hear_all(LoadFrame { sequence: probe, ..frame() }, at(probe));
    }
    let at_home = |world: &mut World, now| {
        let spread = world.spread(ask(), now);
        spread.iter().filter(|(node, _)| node.starts_with("us-east")).map(|(_, count)| count).sum::<usize>()
    };
    let first = at_home(&mut world, at(11));
    assert!((50..200).contains(&first), "{first} of 1000");
    world.hear_all(LoadFrame { sequence: 20, ..frame() }, at(400));
    assert_eq!(at_home(&mut world, at(400)), 1000);
}

#[test]
fn a_conversation_stays_on_its_node_and_a_shared_beginning_does_not_pin_all_to_one() {
    let nodes: Vec<String> = (0..10).map(|node| format!("us-east/n{node}")).collect();
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let mut world = World::of(table(&nodes));
    world.hear_all(LoadFrame { slots: 32, ..frame() }, at(0));
    let mut held = Vec::new();
    let mut used = BTreeSet::new();
    for conversation in 0..60_u64 {
        let turns = [7, conversation * 10, conversation * 10 + 1, conversation * 10 + 2];
        let first = world.route(Ask { prefix: &turns[..2], ..ask() }, 0, conversation).unwrap();
        let mut begun = world.health.begin(&first.node, first.cost, at(0));
        world.health.answer_begun(&first.node, &mut begun, Duration::ZERO, at(0));
        held.push(begun);
        let second = world.route(Ask { prefix: &turns, ..ask() }, 0, conversation + 1000).unwrap();
        assert_eq!((&second.node, second.reason), (&first.node, Reason::Affinity), "{conversation}");
        used.insert(first.node);
    }
    assert!(used.len() >= 8, "{used:?}");
    let most = world.health.listed().map(|(_, node)| node.in_flight).max();
    assert!(most <= Some(14), "{most:?}");
    // Edges that know nothing of each other find the same node for the same beginning.
    let choose = |salt: u64| {
        let mut health = Health::new(salt);
        health.follow(&world.table);
        route(&world.table, &mut health, &world.here, Ask { prefix: &[42], ..ask() }, at(0), salt).unwrap()
    };
    assert!((0..20).all(|salt| choose(salt).node == choose(0).node));
}

#[test]
fn a_far_region_is_reached_by_eight_nodes_that_differ_by_edge() {
    let nodes: Vec<String> = (0..40).map(|node| format!("eu-west/n{node}")).collect();
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let table = table(&nodes);
    let mut all = BTreeSet::new();
    for salt in 0..20 {
        let mut world = World { health: Health::new(salt), ..World::of(table.clone()) };
        world.follow();
        let used: BTreeSet<String> = world.spread(ask(), at(0)).into_keys().collect();
        assert_eq!(used.len(), 8);
        all.extend(used);
        world.here = region("eu-west");
        assert!(world.spread(ask(), at(0)).len() > 30, "at home all are used");
    }
    assert!(all.len() > 30, "{}", all.len());
}

#[test]
fn a_far_region_whose_breakers_are_open_is_tried_once_the_near_one_has_much_to_do() {
    let mut world = World::of(table(&["us-east/n1", "eu-west/n1"]));
    world.hear_all(frame(), at(0));
    world.fail("eu-west/n1", at(0));
    let quiet = LoadFrame { sequence: 1, ..frame() };
    world.hear_all(quiet, at(40));
    assert_eq!(world.node(ask(), 40, 0), "us-east/n1", "there is no need");
    for (sequence, running) in [(2, 7), (3, 80)] {
        world.hear("us-east/n1", LoadFrame { sequence, running, ..frame() }, at(40));
        let trial = world.route(ask(), 40, 0).unwrap();
        assert_eq!((trial.node, trial.reason), (key("eu-west/n1"), Reason::Trial), "{running}");
    }
}

#[test]
fn what_operators_took_away_is_not_lost_for_ever() {
    let lost = |world: &World, now| {
        world.health.index.pools(VERSION).iter().any(|pool| pool.is_lost_or_recovering(now))
    };
    let model = Model { version: VERSION, former: None, created: UnixMs(0), waits: Waits::default() };
    let gone = || {
        let mut world = world();
        world.table.models.insert("m".parse().unwrap(), model);
        world.health.catch_up(VERSION, at(0));
        world.hear_all(frame(), at(0));
        world.hear("eu-west/n1", LoadFrame { sequence: 1, replicas: 0, ..frame() }, at(1));
        assert!(lost(&world, at(1)));
        world
    };
    let world = gone();
    assert!(lost(&world, at(300)) && !lost(&world, at(301)), "a version that nobody wants there");
    let placed = || {
        let mut world = gone();
        world.table.placed.insert((VERSION, region("eu-west")));
        world.follow();
        world
    };
    assert!(lost(&placed(), at(100_000)), "what operators want is missing until it is back");
    let mut world = placed();
    world.table.placed.clear();
    world.follow();
    assert!(!lost(&world, at(2)), "placed elsewhere");
    let mut world = placed();
    world.hear("eu-west/n1", LoadFrame { sequence: 2, ..frame() }, at(1_000));
    assert!(lost(&world, at(1_299)) && !lost(&world, at(1_300)), "back, and warm again");
    let mut world = gone();
    world.table.regions.get_mut(&region("eu-west")).unwrap().drained = true;
    world.follow();
    assert!(!lost(&world, at(2)), "drained");
    let mut world = gone();
    world.table.nodes.remove(&key("eu-west/n1"));
    world.follow();
    assert!(!lost(&world, at(2)), "removed");
    let mut world = gone();
    world.follow();
    assert!(lost(&world, at(2)), "a table that changed elsewhere takes nothing away");
}

#[test]
fn a_node_whose_address_was_mended_is_tried_at_once() {
    let mut world = World::of(table(&["us-east/n1", "us-east/n2", "us-east/n3"]));
    world.fail("us-east/n1", at(100));
    assert_ne!(world.node(ask(), 100, 0), "us-east/n1");
    let NodeKind::Agent(agent) = &mut world.table.nodes.get_mut(&key("us-east/n1")).unwrap().kind else {
        panic!("an agent")
    };
    agent.ingress.set_port(7444);
    world.follow();
    let trial = world.route(ask(), 100, 0).unwrap();
    assert_eq!((trial.node, trial.reason), (key("us-east/n1"), Reason::Trial));
}

/// Something that happens to a node.
#[derive(Debug, Clone)]
enum Event {
    Heard { running: u32, queued_tokens: u64, replicas: u32, draining: bool },
    Missed,
    Failed,
    Begun,
    Reported,
}

const NODES: [&str; 6] =
    ["us-east/n1", "us-east/n2", "us-east/n3", "eu-west/n1", "eu-west/n2", "ap-south/n1"];

fn event() -> impl Strategy<Value = (usize, Event)> {
    let heard = (0..40_u32, 0..100_000_u64, 0..3_u32, prop::bool::weighted(0.1)).prop_map(
        |(running, queued_tokens, replicas, draining)| Event::Heard {
            running,
            queued_tokens,
            replicas,
            draining,
        },
    );
    let others = prop::sample::select(vec![Event::Missed, Event::Failed, Event::Begun, Event::Reported]);
    (0..NODES.len(), prop_oneof![heard, others])
}

fn happen(world: &mut World, events: &[(usize, Event)], seconds: u64) {
    for (sequence, (node, event)) in events.iter().enumerate() {
        let (node, now) = (key(NODES[*node]), at(seconds));
        match event {
            Event::Heard { running, queued_tokens, replicas, draining } => {
                let state = if *draining { LoadState::Draining } else { LoadState::Serving };
                let frame = LoadFrame {
                    sequence: sequence as u64,
                    running: *running,
                    queued_prefill_tokens: *queued_tokens,
                    replicas: *replicas,
                    state,
                    ..frame()
                };
                world.health.probe_answered(&node, &[(VERSION, frame)], Duration::from_millis(3), now);
            }
            Event::Missed => world.health.probe_missed(&node, now),
            Event::Failed => {
                let held = world.health.begin(&node, COST, now);
                world.health.end(&node, held, Outcome::Failed, now);
            }
            Event::Begun => drop(world.health.begin(&node, COST, now)),
            Event::Reported => {
                let frames = [(VERSION, LoadFrame { boot: 9, ..frame() })];
                world.health.reported(&node, &frames, Duration::from_secs(1), now);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Residency, drains and readiness are law whatever the health; a refusal names the filter, and where no filter
    /// speaks there is none.
    #[test]
    fn hard_facts_are_never_bent_and_soft_ones_never_refuse(
        events in prop::collection::vec(event(), 0..60),
        allowed in prop::sample::subsequence(vec!["us-east", "eu-west", "ap-south"], 1..=3),
        drained in prop::sample::subsequence(NODES.to_vec(), 0..4),
        tried in prop::sample::subsequence(NODES.to_vec(), 0..4),
        purpose in prop::sample::select(vec![Purpose::First, Purpose::Retry, Purpose::Resume, Purpose::Hedge]),
        later in 0..8_u64,
        dice: u64,
    ) {
        let mut world = World::of(table(&NODES));
        for node in &drained {
            world.table.nodes.get_mut(&key(node)).unwrap().drained = true;
        }
        world.follow();
        happen(&mut world, &events, 1);
        let allowed: Vec<RegionName> = allowed.into_iter().map(region).collect();
        let tried: Vec<NodeKey> = tried.into_iter().map(key).collect();
        let asked = Ask { regions: Some(&allowed), tried: &tried, purpose, ..ask() };
        let now = at(1 + later);
        let usable = |node: &&&str| {
            let node = key(node);
            let readiness = world.health.node(&node).unwrap().readiness(VERSION, now);
            allowed.contains(&node.region)
                && !world.table.is_drained(&node)
                && matches!(readiness, Readiness::Ready | Readiness::Unknown)
        };
        let usable: Vec<NodeKey> = NODES.iter().filter(usable).map(|node| key(node)).collect();
        let explained = explain(&world.table, &mut world.health, &world.here, asked, now, dice).outcome;
        let routed = world.route(asked, 1 + later, dice);
        prop_assert_eq!(&explained, &routed);
        match routed {
            Ok(choice) => {
                prop_assert!(usable.contains(&choice.node), "{choice:?}");
                if purpose == Purpose::Hedge {
                    prop_assert!(!tried.contains(&choice.node) && !choice.reason.is_doubtful());
                }
            }
            Err(NoRoute::Shed { .. }) => prop_assert!(!usable.is_empty()),
            Err(refused) => prop_assert!(usable.is_empty() || purpose == Purpose::Hedge, "{refused}"),
        }
    }

    /// Nobody who was told the same in another order decides otherwise.
    #[test]
    fn no_order_of_nodes_or_of_words_changes_a_choice(
        running in prop::collection::vec((0..20_u32, 0..10_000_u64), NODES.len()),
        order in Just((0..NODES.len()).collect::<Vec<_>>()).prop_shuffle(),
        prefix in prop::collection::vec(any::<u64>(), 0..3),
        dice: u64,
    ) {
        let mut choices = Vec::new();
        for order in [(0..NODES.len()).collect(), order] {
            let mut world = World::of(table(&NODES));
            // All leave their pools, and come back in some order.
            world.health.catch_up(VERSION, at(0));
            world.hear_all(LoadFrame { replicas: 0, ..frame() }, at(0));
            for index in order {
                let (running, queued_prefill_tokens) = running[index];
                world.hear(NODES[index], LoadFrame { running, queued_prefill_tokens, ..frame() }, at(0));
            }
            choices.push(world.route(Ask { prefix: &prefix, ..ask() }, 0, dice));
        }
        prop_assert_eq!(&choices[0], &choices[1]);
    }

    /// Sums that are kept up to date are those that a walk over all nodes would find.
    #[test]
    fn kept_sums_are_what_a_recount_finds(
        events in prop::collection::vec(event(), 0..80),
        later in 0..8_u64,
    ) {
        let mut world = World::of(table(&NODES));
        world.health.catch_up(VERSION, at(0));
        happen(&mut world, &events, 1);
        let now = at(1 + later);
        world.health.catch_up(VERSION, now);
        let kept: Vec<_> = world.health.index.pools(VERSION).iter().map(|pool| pool.sums).collect();
        world.follow();
        let model = Model { version: VERSION, former: None, created: UnixMs(0), waits: Waits::default() };
        world.table.models.insert("m".parse().unwrap(), model);
        world.follow();
        world.health.catch_up(VERSION, now);
        let counted: Vec<_> = world.health.index.pools(VERSION).iter().map(|pool| pool.sums).collect();
        prop_assert_eq!(kept, counted);
    }
}

#[test]
fn a_region_that_had_little_to_do_does_not_seem_far_away() {
    let mut world = world();
    for (node, rate) in
        [("us-east/n1", 150), ("us-east/n2", 150), ("eu-west/n1", 2000), ("ap-south/n1", 2000)]
    {
        world.hear(node, LoadFrame { prefill_tokens_per_s: rate, ..frame() }, at(0));
    }
    let long = Ask { prompt_tokens: 2000, ..ask() };
    assert!(world.node(long, 0, 1).starts_with("us-east/"));
}
