//! Tells everything that a decision rests on: by the same lines as [`route`](crate::route()), only slower.

use crate::ask::{Ask, Choice, NoRoute, Prediction, Veto};
use crate::health::Health;
use crate::predict::predict;
use crate::region::{SPILL_FROM, View};
use crate::route::{Refused, Scene, decide, refusal, veto};
use crate::slow_start::WHOLE;
use crate::table::RoutingTable;
use types::{Monotonic, NodeKey, RegionName};

/// What would be chosen, and what it would be chosen from.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    pub outcome: Result<Choice, NoRoute>,
    /// Less than half of the allowed nodes look healthy.
    pub is_panic: bool,
    /// Allowed regions with a node that could serve, in the order of preference.
    pub regions: Vec<RegionSeen>,
    /// Every node against which no hard fact speaks; regions in their order, then the soonest first.
    pub candidates: Vec<Candidate>,
    /// What speaks against nodes, hard facts and soft.
    pub vetoes: Vec<(NodeKey, Veto)>,
}

/// One region as the decision sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionSeen {
    pub region: RegionName,
    /// To the first token if nobody else asked anything, and what others add to that.
    pub near_us: u64,
    pub wait_us: u64,
    pub load_percent: u64,
    /// What is due to it after its return.
    pub weight_percent: u64,
    pub nodes_good: u64,
    pub nodes: u64,
    /// In words.
    pub state: &'static str,
}

/// One node that might be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub node: NodeKey,
    pub predicted: Prediction,
    /// This edge's own requests there.
    pub in_flight: u32,
    /// Attempts of this request there.
    pub tries: usize,
    /// What is soft against it.
    pub veto: Option<Veto>,
    /// In words.
    pub state: &'static str,
}

/// All candidates for one attempt, and why the others are none. Decides like the next [`route`](crate::route())
/// with the same dice, and leaves no trace in later decisions.
pub fn explain(
    table: &RoutingTable,
    health: &mut Health,
    here: &RegionName,
    ask: Ask<'_>,
    now: Monotonic,
    dice: u64,
) -> Explanation {
    let scene = Scene::set(health, here, ask, now);
    let outcome = match decide(health, &scene, ask, now, dice) {
        Ok(decided) => Ok(decided.choice),
        Err(Refused::Crowded { retry_after }) => Err(NoRoute::Shed { class: ask.priority, retry_after }),
        Err(Refused::NoNode) => Err(refusal(table, health, ask, now)),
    };
    let pools = health.index.pools(ask.version);
    let seen = |view: &View| RegionSeen {
        region: health.index.regions[view.region].name.clone(),
        near_us: view.near_us,
        wait_us: view.wait_us,
        load_percent: view.load_permille / 10,
        weight_percent: view.weight / 10,
        nodes_good: pools[view.region].sums.good,
        nodes: pools[view.region].sums.members,
        state: state_of(view),
    };
    let vetoes: Vec<(NodeKey, Veto)> = table
        .nodes
        .keys()
        .filter_map(|key| Some((key.clone(), veto(health, key, table, &ask, now)?)))
        .collect();
    let mut candidates = Vec::new();
    for view in &scene.views {
        let first = candidates.len();
        for member in pools[view.region].reachable(view.at_home) {
            let Some(node) = health.slot(member.slot) else { continue };
            let veto = vetoes.iter().find(|(key, _)| *key == node.key).map(|(_, veto)| *veto);
            candidates.push(Candidate {
                node: node.key.clone(),
                predicted: predict(&member.load, &view.usual, member.rtt_us, ask.prompt_tokens, 0),
                in_flight: node.in_flight,
                tries: ask.tried.iter().filter(|tried| **tried == node.key).count(),
                veto,
                state: veto.map_or("could take it", Veto::as_str),
            });
        }
        candidates[first..].sort_by(|left, right| {
            let key = |seen: &Candidate| (seen.veto.is_some(), seen.predicted.total_us());
            key(left).cmp(&key(right)).then_with(|| left.node.cmp(&right.node))
        });
    }
    let regions = scene.views.iter().map(seen).collect();
    Explanation { outcome, is_panic: scene.is_panic, regions, candidates, vetoes }
}

fn state_of(view: &View) -> &'static str {
    if view.good == 0 {
        "no good node that was not tried"
    } else if view.tries > 0 {
        "failed this request twice"
    } else if view.weight < WHOLE {
        "returned of late"
    } else if view.load_permille >= SPILL_FROM {
        "has too much to do"
    } else if !view.may_receive {
        "has received as much from elsewhere as it may for now"
    } else {
        "has room"
    }
}

impl Veto {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Residency => "the tenant's requests may not go there",
            Self::Drained => "drained",
            Self::NotReady => "no replica of the version serves there",
            Self::Draining => "takes nothing new",
            Self::Full => "has as many requests as it may",
            Self::Down => "does not answer probes, or only again of late",
            Self::BreakerOpen { .. } => "failed repeatedly",
            Self::Tried => "failed this request before",
        }
    }
}
