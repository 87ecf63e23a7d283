//! Chooses the node that gets one attempt of a request.
//!
//! Filters hold hard facts and are never bent; each says which nodes it struck out. What is left is ordered:
//! nodes that this request has not tried before those it has, regions that failed it less often before those that
//! failed it more, near regions before far ones, then the fewest of this edge's own requests in flight.

use crate::health::{Cost, Health, NodeHealth, Readiness};
use crate::table::RoutingTable;
use std::time::Duration;
use types::{ModelVersion, Monotonic, NodeKey, Priority, RegionName};

/// What a request needs.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub version: ModelVersion,
    /// Where the tenant's requests may go; `None` = everywhere.
    pub regions: Option<&'a [RegionName]>,
    pub priority: Priority,
    /// Known, or guessed from the body's length.
    pub prompt_tokens: u64,
    /// Hashes of the prompt's leading blocks, salted by tenant, longest last; may be empty.
    pub prefix: &'a [u64],
    /// Nodes that earlier attempts of this request went to.
    pub tried: &'a [NodeKey],
    pub purpose: Purpose,
}

/// What an attempt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    #[default]
    First,
    /// An attempt before this one brought no first token.
    Retry,
    /// A second attempt beside one that is still awaited.
    Hedge,
    /// The rest of an answer whose node was lost in its midst.
    Resume,
}

/// One node for one attempt, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub node: NodeKey,
    /// What the attempt will cost the node; [`Health::begin`] takes it.
    pub cost: Cost,
    pub predicted: Prediction,
    pub reason: Reason,
}

/// What made a node the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It probably holds the prompt's beginning.
    Affinity,
    /// The better of two drawn at random.
    Balanced,
    /// Its breaker lets one request through to see how it does.
    Trial,
    /// Less than half of the capacity looks healthy, so looks are not trusted.
    Panic,
    /// Nothing speaks for it, but there is nothing else.
    LastResort,
}

impl Reason {
    /// Whether the node was chosen although it looks ill.
    pub fn is_doubtful(self) -> bool {
        matches!(self, Self::Panic | Self::LastResort)
    }
}

/// The time to the first token, in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prediction {
    pub rtt_us: u64,
    /// For what is queued there to be prefilled.
    pub queue_us: u64,
    /// For a place among the sequences that run at once.
    pub slot_us: u64,
    /// For this prompt, less what the node probably holds of it.
    pub prefill_us: u64,
    /// What it costs to press a request into memory that runs out.
    pub memory_us: u64,
}

impl Prediction {
    pub fn total_us(&self) -> u64 {
        [self.rtt_us, self.queue_us, self.slot_us, self.prefill_us, self.memory_us]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// Everything that a decision rests on: the same lines as [`route`], slower.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    pub outcome: Result<Choice, NoRoute>,
    /// Best first.
    pub candidates: Vec<Candidate>,
    pub vetoes: Vec<(NodeKey, Veto)>,
}

/// One node that might be asked, and what its place in the order rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub node: NodeKey,
    pub tries: usize,
    /// Attempts of this request in the node's region, as far as they speak against it.
    pub region_tries: usize,
    pub distance_km: f64,
    pub in_flight: u32,
}

/// A hard fact against a node. In the order in which the filters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Veto {
    /// The tenant's requests may not go to that region.
    Residency,
    /// Operators sent new work away from the node or from its region. What runs there goes on.
    Drained,
    /// No replica of the version serves there.
    NotReady,
    /// The node says that it takes nothing new.
    Draining,
    /// The node does not answer probes.
    Down,
    /// The breaker is open until then.
    BreakerOpen { until: Monotonic },
    /// A server without an agent has as many requests of this edge as operators allow.
    Full,
}

/// Why no node may serve a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    #[error("the routing table has no nodes")]
    NoNodes,
    #[error("the tenant's regions have no nodes")]
    Residency,
    #[error("every node that could serve is drained, or its region is")]
    Drained,
    #[error("no replica of this model version serves in any allowed region")]
    NotReady,
    #[error("every node that could serve is draining")]
    Draining,
    #[error("every node that could serve is down")]
    Down,
    #[error("every node that could serve failed repeatedly and is left alone for {} ms", wait.as_millis())]
    BreakersOpen { wait: Duration },
    #[error("every node that could serve has as many requests as it may")]
    Full,
}

/// The node for one attempt of a request that an edge in `here` has in hand.
pub fn route(
    table: &RoutingTable,
    health: &mut Health,
    here: &RegionName,
    ask: Ask<'_>,
    now: Monotonic,
    dice: u64,
) -> Result<Choice, NoRoute> {
    explain(table, health, here, ask, now, dice).outcome
}

/// All candidates for one attempt, and why the others are none.
pub fn explain(
    table: &RoutingTable,
    health: &mut Health,
    here: &RegionName,
    ask: Ask<'_>,
    now: Monotonic,
    _dice: u64,
) -> Explanation {
    let unseen = NodeHealth::default();
    let tries_in = |region: &RegionName| ask.tried.iter().filter(|tried| tried.region == *region).count();
    let mut candidates = Vec::new();
    let mut vetoes = Vec::new();
    for key in table.nodes.keys() {
        let seen = health.node(key).unwrap_or(&unseen);
        match veto(table, key, seen, ask, now) {
            Some(veto) => vetoes.push((key.clone(), veto)),
            None => candidates.push(Candidate {
                node: key.clone(),
                tries: ask.tried.iter().filter(|tried| *tried == key).count(),
                region_tries: tries_in(&key.region).saturating_sub(REGION_TRIES_FREE),
                distance_km: distance_km(table, here, &key.region),
                in_flight: seen.in_flight,
            }),
        }
    }
    candidates.sort_by(|left, right| {
        left.tries
            .cmp(&right.tries)
            .then(left.region_tries.cmp(&right.region_tries))
            .then(left.distance_km.total_cmp(&right.distance_km))
            .then(left.in_flight.cmp(&right.in_flight))
            .then_with(|| left.node.cmp(&right.node))
    });
    let cost = Cost { version: ask.version, prefill_tokens: ask.prompt_tokens };
    let outcome = match candidates.first() {
        Some(best) => {
            let (node, predicted) = (best.node.clone(), Prediction::default());
            Ok(Choice { node, cost, predicted, reason: Reason::Balanced })
        }
        None => Err(refusal(&vetoes, now)),
    };
    Explanation { outcome, candidates, vetoes }
}

fn veto(
    table: &RoutingTable,
    key: &NodeKey,
    seen: &NodeHealth,
    ask: Ask<'_>,
    now: Monotonic,
) -> Option<Veto> {
    if ask.regions.is_some_and(|regions| !regions.contains(&key.region)) {
        return Some(Veto::Residency);
    }
    if table.is_drained(key) {
        return Some(Veto::Drained);
    }
    if ask.purpose == Purpose::Resume && !table.resumes(key) {
        return Some(Veto::NotReady);
    }
    match seen.readiness(ask.version, now) {
        Readiness::NotReady => return Some(Veto::NotReady),
        Readiness::Draining => return Some(Veto::Draining),
        Readiness::Unknown if !table.may_serve(key, ask.version) => return Some(Veto::NotReady),
        Readiness::Ready | Readiness::Unknown => {}
    }
    if seen.is_down() {
        return Some(Veto::Down);
    }
    if let Err(refused) = seen.breaker.would_admit(now) {
        return Some(Veto::BreakerOpen { until: refused.until });
    }
    table.is_full(key, seen.in_flight).then_some(Veto::Full)
}

/// The filter that struck out the last hope is the one that says why.
fn refusal(vetoes: &[(NodeKey, Veto)], now: Monotonic) -> NoRoute {
    if vetoes.iter().any(|(_, veto)| *veto == Veto::Full) {
        return NoRoute::Full;
    }
    let breakers = vetoes.iter().filter_map(|(_, veto)| match veto {
        Veto::BreakerOpen { until } => Some(until.since(now)),
        _ => None,
    });
    if let Some(wait) = breakers.min() {
        return NoRoute::BreakersOpen { wait };
    }
    match vetoes.iter().map(|(_, veto)| veto).max() {
        None => NoRoute::NoNodes,
        Some(Veto::Residency) => NoRoute::Residency,
        Some(Veto::Drained) => NoRoute::Drained,
        Some(Veto::NotReady) => NoRoute::NotReady,
        Some(Veto::Draining) => NoRoute::Draining,
        Some(Veto::Down | Veto::BreakerOpen { .. } | Veto::Full) => NoRoute::Down,
    }
}

fn distance_km(table: &RoutingTable, here: &RegionName, there: &RegionName) -> f64 {
    // The edge's own region is nearest even where two regions share a place.
    if here == there {
        return 0.0;
    }
    match (table.regions.get(here), table.regions.get(there)) {
        (Some(here), Some(there)) => here.place.kilometres_to(there.place).max(1.0),
        _ => f64::MAX,
    }
}

/// One node may fail alone, and the next is near. Two failures are their region's, which a third node there would
/// hardly escape; from then on regions share what attempts are left.
const REGION_TRIES_FREE: usize = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::Outcome;
    use crate::table::{Model, Node, Region};
    use proptest::prelude::*;
    use types::intent::{Agent, NodeKind, OpenAiServer};
    use types::{LoadFrame, LoadState, Place, UnixMs};

    const VERSION: [u8; 32] = [1; 32];

    fn key(text: &str) -> NodeKey {
        let (region, node) = text.split_once('/').unwrap();
        NodeKey { region: region.parse().unwrap(), node: node.parse().unwrap() }
    }

    fn region(name: &str) -> RegionName {
        name.parse().unwrap()
    }

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_micros(seconds * 1_000_000)
    }

    /// us-east has two nodes, eu-west one, ap-south one.
    fn world() -> (RoutingTable, Health) {
        let mut table = RoutingTable::default();
        for (name, latitude, longitude) in
            [("us-east", 39.0, -77.5), ("eu-west", 53.3, -6.3), ("ap-south", 19.1, 72.9)]
        {
            let place = Place { latitude, longitude };
            table.regions.insert(region(name), Region { place, drained: false });
        }
        for node in ["us-east/n1", "us-east/n2", "eu-west/n1", "ap-south/n1"] {
            let entry = Node {
                zone: "a".parse().unwrap(),
                kind: NodeKind::Agent(Agent {
                    ingress: ([127, 0, 0, 1], 7443).into(),
                    server_name: "n".to_owned(),
                }),
                drained: false,
            };
            table.nodes.insert(key(node), entry);
        }
        let mut health = Health::default();
        health.follow(&table);
        (table, health)
    }

    fn ask<'a>(regions: Option<&'a [RegionName]>, tried: &'a [NodeKey]) -> Ask<'a> {
        Ask { version: ModelVersion::from_digest(VERSION), regions, tried }
    }

    fn order(plan: Result<Plan, NoRoute>) -> Vec<String> {
        plan.unwrap().choices.iter().map(|choice| choice.node.to_string()).collect()
    }

    fn report(health: &mut Health, node: &str, state: LoadState, replicas: u32, now: Monotonic) {
        let frame = LoadFrame { state, replicas, ..LoadFrame::default() };
        let frames = [(ModelVersion::from_digest(VERSION), frame)];
        health.probe_answered(&key(node), &frames, now);
    }

    #[test]
    fn nearest_region_first_then_fewest_in_flight() {
        let (table, mut health) = world();
        let here = region("us-east");
        let _busy = health.begin(&key("us-east/n1"), at(0)).unwrap();
        let plan = route(&table, &health, &here, ask(None, &[]), at(0));
        assert_eq!(order(plan), ["us-east/n2", "us-east/n1", "eu-west/n1", "ap-south/n1"]);
        let plan = route(&table, &health, &region("ap-south"), ask(None, &[]), at(0));
        assert_eq!(order(plan)[..2], ["ap-south/n1", "eu-west/n1"]);
    }

    #[test]
    fn a_retry_goes_where_the_request_has_not_been() {
        let (table, health) = world();
        let tried = [key("us-east/n1"), key("us-east/n2"), key("us-east/n1")];
        let plan = route(&table, &health, &region("us-east"), ask(None, &tried), at(0));
        assert_eq!(order(plan), ["eu-west/n1", "ap-south/n1", "us-east/n2", "us-east/n1"]);
    }

    #[test]
    fn the_second_failure_in_a_region_sends_a_request_out_of_it() {
        let (mut table, _) = world();
        let third = table.nodes[&key("us-east/n1")].clone();
        table.nodes.insert(key("us-east/n3"), third);
        let plan = |table: &RoutingTable, tried: &[NodeKey]| {
            order(route(table, &Health::default(), &region("us-east"), ask(None, tried), at(0)))
        };
        let first = [key("us-east/n1")];
        assert_eq!(plan(&table, &first)[..3], ["us-east/n2", "us-east/n3", "eu-west/n1"]);
        let both = [key("us-east/n1"), key("us-east/n2")];
        assert_eq!(plan(&table, &both)[..3], ["eu-west/n1", "ap-south/n1", "us-east/n3"]);
        // Two regions failed: they take turns.
        let europe = table.nodes[&europe_node()].clone();
        table
            .nodes
            .extend(["eu-west/n2", "eu-west/n3", "us-east/n4"].map(|node| (key(node), europe.clone())));
        table.nodes.remove(&key("ap-south/n1"));
        let mut tried = both.to_vec();
        for next in ["eu-west/n1", "eu-west/n2", "us-east/n3", "eu-west/n3", "us-east/n4"] {
            assert_eq!(plan(&table, &tried)[0], next);
            tried.push(key(next));
        }
    }

    #[test]
    fn every_filter_says_so_when_it_leaves_nothing() {
        let here = region("us-east");
        let (table, mut health) = world();
        let nowhere = [region("mars")];
        let refused = |health: &Health, regions: Option<&[RegionName]>| {
            route(&table, health, &here, ask(regions, &[]), at(1)).unwrap_err()
        };
        assert_eq!(refused(&health, Some(&nowhere)), NoRoute::Residency);
        let europe = [region("eu-west")];
        let mut drained = table.clone();
        drained.nodes.get_mut(&europe_node()).unwrap().drained = true;
        let of_drained = route(&drained, &health, &here, ask(Some(&europe), &[]), at(1));
        assert_eq!(of_drained, Err(NoRoute::Drained));
        report(&mut health, "eu-west/n1", LoadState::Serving, 0, at(0));
        assert_eq!(refused(&health, Some(&europe)), NoRoute::NotReady);
        report(&mut health, "eu-west/n1", LoadState::Draining, 1, at(0));
        assert_eq!(refused(&health, Some(&europe)), NoRoute::Draining);
        report(&mut health, "eu-west/n1", LoadState::Serving, 1, at(0));
        for _ in 0..3 {
            health.probe_missed(&key("eu-west/n1"));
        }
        assert_eq!(refused(&health, Some(&europe)), NoRoute::Down);
        report(&mut health, "eu-west/n1", LoadState::Serving, 1, at(0));
        for _ in 0..5 {
            let permit = health.begin(&europe_node(), at(0)).unwrap();
            health.end(&europe_node(), permit, Outcome::Failed, at(0));
        }
        let NoRoute::BreakersOpen { wait } = refused(&health, Some(&europe)) else {
            panic!("an open breaker")
        };
        assert!((29..=37).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(
            route(&RoutingTable::default(), &health, &here, ask(None, &[]), at(1)),
            Err(NoRoute::NoNodes)
        );
    }

    #[test]
    fn a_drained_region_or_node_gets_nothing_new() {
        let (mut table, health) = world();
        let here = region("us-east");
        table.nodes.get_mut(&key("us-east/n1")).unwrap().drained = true;
        let plan = route(&table, &health, &here, ask(None, &[]), at(0)).unwrap();
        assert_eq!(plan.vetoes, [(key("us-east/n1"), Veto::Drained)]);
        assert_eq!(order(Ok(plan)), ["us-east/n2", "eu-west/n1", "ap-south/n1"]);
        table.regions.get_mut(&here).unwrap().drained = true;
        let plan = route(&table, &health, &here, ask(None, &[]), at(0));
        assert_eq!(order(plan), ["eu-west/n1", "ap-south/n1"]);
        // A hard fact also when nothing else is left.
        let home = [here.clone()];
        assert_eq!(route(&table, &health, &here, ask(Some(&home), &[]), at(0)), Err(NoRoute::Drained));
    }

    #[test]
    fn a_server_without_an_agent_gets_what_it_serves_and_no_more_than_its_slots() {
        let (mut table, mut health) = world();
        let server = OpenAiServer {
            base_url: "http://vllm:8000/v1".parse().unwrap(),
            models: vec!["m".parse().unwrap()],
            slots: 1,
            secret: None,
        };
        table.nodes.get_mut(&europe_node()).unwrap().kind = NodeKind::OpenAi(server);
        health.follow(&table);
        let europe = [region("eu-west")];
        let asked = |table: &RoutingTable, health: &Health| {
            route(table, health, &region("us-east"), ask(Some(&europe), &[]), at(0)).map(|_| ())
        };
        assert_eq!(asked(&table, &health), Err(NoRoute::NotReady), "not one of its models, heard of or not");
        let version = ModelVersion::from_digest(VERSION);
        let model = Model { version, former: None, created: UnixMs(0) };
        table.models.insert("m".parse().unwrap(), model);
        assert_eq!(asked(&table, &health), Ok(()));
        let permit = health.begin(&europe_node(), at(0)).unwrap();
        assert_eq!(asked(&table, &health), Err(NoRoute::Full));
        health.end(&europe_node(), permit, Outcome::Served, at(0));
        assert_eq!(asked(&table, &health), Ok(()));
        // Agents queue by themselves.
        let _busy: Vec<_> = (0..100).map(|_| health.begin(&key("us-east/n1"), at(0)).unwrap()).collect();
        let home = [region("us-east")];
        assert!(route(&table, &health, &home[0], ask(Some(&home), &[]), at(0)).is_ok());
    }

    fn europe_node() -> NodeKey {
        key("eu-west/n1")
    }

    proptest! {
        /// Residency is law: whatever the health, no plan names a node outside of the tenant's regions.
        #[test]
        fn no_plan_leaves_the_tenants_regions(
            allowed in prop::sample::subsequence(vec!["us-east", "eu-west", "ap-south"], 1..3),
            down in prop::sample::subsequence(vec!["us-east/n1", "us-east/n2", "eu-west/n1", "ap-south/n1"], 0..4),
            tried in prop::sample::subsequence(vec!["us-east/n1", "us-east/n2", "eu-west/n1"], 0..3),
        ) {
            let (table, mut health) = world();
            for node in &down {
                for _ in 0..3 {
                    health.probe_missed(&key(node));
                }
            }
            let allowed: Vec<RegionName> = allowed.into_iter().map(region).collect();
            let tried: Vec<NodeKey> = tried.into_iter().map(key).collect();
            match route(&table, &health, &region("us-east"), ask(Some(&allowed), &tried), at(0)) {
                Ok(plan) => for choice in plan.choices {
                    prop_assert!(allowed.contains(&choice.node.region));
                    prop_assert!(!down.contains(&choice.node.to_string().as_str()));
                },
                Err(refused) => prop_assert_eq!(refused, NoRoute::Down),
            }
        }
    }
}
