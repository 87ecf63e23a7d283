//! Chooses the node that gets one attempt of a request.
//!
//! Filters hold hard facts and are never bent; each says which nodes it struck out. Among the rest, the region is
//! chosen first ([`crate::region`]), then a node there ([`crate::pick`]). Looks are soft: a node that does not answer
//! probes, or fails, is passed over as long as there are others, and asked before a request is turned away for want
//! of any.

use crate::ask::{Ask, Choice, Cost, NoRoute, Prediction, Purpose, Reason, Veto};
use crate::breaker::Breaker;
use crate::ejection;
use crate::hash::{mix, permille};
use crate::health::Health;
use crate::node::Standing;
use crate::pick::{Wish, pick};
use crate::pool::{FAR_NODES_MAX, Member, Pool};
use crate::predict::predict;
use crate::region::{self, View, Way};
use crate::signals::Readiness;
use crate::table::RoutingTable;
use std::time::Duration;
use types::{Monotonic, NodeKey, RegionName};

/// The node for one attempt of a request that an edge in `here` has in hand. `table` is the one that `health`
/// follows.
pub fn route(
    table: &RoutingTable,
    health: &mut Health,
    here: &RegionName,
    ask: Ask<'_>,
    now: Monotonic,
    dice: u64,
) -> Result<Choice, NoRoute> {
    let scene = Scene::set(health, here, ask, now);
    match decide(health, &scene, ask, now, dice) {
        Ok(decided) => {
            let (tokens, version) = (ask.prompt_tokens, ask.version);
            if decided.spilled
                && ask.purpose == Purpose::First
                && let Some(pool) = health.index.pools_mut(version).get_mut(decided.region)
            {
                pool.shift.moved(tokens, now);
            }
            if ask.purpose != Purpose::Hedge {
                health.recent.remember(ask.prefix, decided.hash);
            }
            Ok(decided.choice)
        }
        Err(Refused::Crowded { retry_after }) => Err(NoRoute::Shed { class: ask.priority, retry_after }),
        Err(Refused::NoNode) => Err(refusal(table, health, ask, now)),
    }
}

/// What one decision sees.
pub(crate) struct Scene {
    /// In the order of preference.
    pub(crate) views: Vec<View>,
    pub(crate) tried: Vec<u32>,
    /// Less than half of the allowed nodes look healthy.
    pub(crate) is_panic: bool,
    /// Some allowed region does not serve any more, or only again of late.
    pub(crate) is_lost: bool,
}

pub(crate) struct Decided {
    pub(crate) choice: Choice,
    region: usize,
    hash: u64,
    spilled: bool,
}

pub(crate) enum Refused {
    /// Filters left nothing.
    NoNode,
    Crowded {
        retry_after: Duration,
    },
}

impl Scene {
    /// Brings what is known up to now, and looks at every allowed region.
    pub(crate) fn set(health: &mut Health, here: &RegionName, ask: Ask<'_>, now: Monotonic) -> Self {
        health.catch_up(ask.version, now);
        let salt = health.salt;
        let home = health.index.region(here);
        for (region, pool) in health.index.pools_mut(ask.version).iter_mut().enumerate() {
            if Some(region) != home {
                pool.dial(salt);
            }
        }
        let tried: Vec<u32> = ask.tried.iter().filter_map(|key| health.find(key)).collect();
        let mut views = Vec::with_capacity(health.index.regions.len());
        let (mut good, mut members, mut is_lost) = (0, 0, false);
        for (region, pool) in health.index.pools(ask.version).iter().enumerate() {
            let there = &health.index.regions[region];
            if ask.regions.is_some_and(|regions| !regions.contains(&there.name)) {
                continue;
            }
            is_lost |= pool.is_lost_or_recovering(now);
            if pool.members.is_empty() {
                continue;
            }
            (good, members) = (good + pool.sums.good, members + pool.sums.members);
            let at_home = Some(region) == home;
            let rtt_us = match home {
                Some(home) => there.rtt_us[home],
                None => there.rtt_us.iter().copied().max().unwrap_or(0),
            };
            let mut view = View::of(region, at_home, pool, rtt_us, &ask, now);
            let is_barred = ask.purpose == Purpose::Resume && pool.sums.cannot_resume > 0;
            if !ask.tried.is_empty() || is_barred {
                let tries = ask.tried.iter().filter(|key| key.region == there.name).count();
                view.tries = tries.saturating_sub(REGION_TRIES_FREE);
                view.good = untried_good(health, pool, region, at_home, &tried, is_barred);
            }
            views.push(view);
        }
        // A rate is measured from what was asked: a region that had little to do shows less than it could. Which region
        // is near must not hang on that, or a quiet one at home would seem further away than the other side of the world.
        let fastest = views.iter().map(|view| view.usual.prefill_rate).max().unwrap_or(1);
        for view in &mut views {
            view.near_us = view.usual.rtt_us.saturating_add(region::prefill_us(ask.prompt_tokens, fastest));
        }
        views.sort_unstable_by_key(View::order);
        let is_panic = good * 2 < members;
        Self { views, tried, is_panic, is_lost: is_lost || is_panic }
    }
}

/// Good nodes of a region that a request has not tried. `is_barred`: some of them cannot resume, and should.
fn untried_good(
    health: &Health,
    pool: &Pool,
    region: usize,
    at_home: bool,
    tried: &[u32],
    is_barred: bool,
) -> u64 {
    if is_barred || !at_home && pool.members.len() > FAR_NODES_MAX {
        let is_good = |member: &&Member| {
            member.standing == Standing::Good
                && (!is_barred || member.resumes)
                && !tried.contains(&member.slot)
        };
        return pool.reachable(at_home).filter(is_good).count() as u64;
    }
    let was_good = |(index, slot): &(usize, &u32)| {
        let node = health.slot(**slot).filter(|node| node.region == region);
        let member = node.and_then(|node| pool.member(node.place)).filter(|member| member.slot == **slot);
        !tried[..*index].contains(*slot) && member.is_some_and(|member| member.standing == Standing::Good)
    };
    pool.sums.good - tried.iter().enumerate().filter(was_good).count() as u64
}

/// The decision itself; changes nothing.
pub(crate) fn decide(
    health: &Health,
    scene: &Scene,
    ask: Ask<'_>,
    now: Monotonic,
    dice: u64,
) -> Result<Decided, Refused> {
    let way = region::choose(&scene.views, scene.is_lost, ask.purpose, dice);
    if ask.purpose == Purpose::First
        && let Some(decided) = trial(health, scene, way, ask, now)
    {
        return Ok(decided);
    }
    let (view, spilled) = match way {
        Way::To { view, spilled } => (view, spilled),
        Way::Crowded { view } => {
            if scene.is_panic
                && ask.purpose == Purpose::First
                && permille(dice, u64::MAX) < PANIC_PERMILLE
                && let Some(decided) = last_resort(health, scene, ask, now, dice, Reason::Panic)
            {
                return Ok(decided);
            }
            turn_away(&scene.views[view], ask, scene.is_lost)?;
            (view, false)
        }
        Way::Nowhere if ask.purpose == Purpose::Hedge => return Err(Refused::NoNode),
        Way::Nowhere => {
            let decided = last_resort(health, scene, ask, now, dice, Reason::LastResort);
            return decided.ok_or(Refused::NoNode);
        }
    };
    let view = &scene.views[view];
    let pool = &health.index.pools(ask.version)[view.region];
    let readmitted = readmitted(health, pool, now);
    let wish = Wish {
        prompt_tokens: ask.prompt_tokens,
        prefix: ask.prefix,
        holder: health.recent.holder(ask.prefix),
        tried: &scene.tried,
        resume: ask.purpose == Purpose::Resume,
        readmitted: &readmitted,
        dice: mix(dice, 3),
        now,
    };
    let picked = pick(pool, &view.usual, view.at_home, &wish);
    let (member, predicted, reason) = picked.ok_or(Refused::NoNode)?;
    decided(health, view, member, predicted, reason, spilled, ask).ok_or(Refused::NoNode)
}

fn decided(
    health: &Health,
    view: &View,
    member: &Member,
    predicted: Prediction,
    reason: Reason,
    spilled: bool,
    ask: Ask<'_>,
) -> Option<Decided> {
    let node = health.slot(member.slot)?.key.clone();
    let cost = Cost { version: ask.version, prefill_tokens: ask.prompt_tokens };
    let choice = Choice { node, cost, predicted, reason, spilled };
    Some(Decided { choice, region: view.region, hash: member.hash, spilled })
}

/// A node whose time alone is over gets one request, if it stands no further than where the request would go, or if
/// that place has much to do: a region of which all breakers are open gets no request in any other way.
fn trial(health: &Health, scene: &Scene, way: Way, ask: Ask<'_>, now: Monotonic) -> Option<Decided> {
    let (Way::To { view: last, .. } | Way::Crowded { view: last }) = way else { return None };
    let pools = health.index.pools(ask.version);
    let is_crowded =
        matches!(way, Way::Crowded { .. }) || scene.views[last].load_permille >= region::SPILL_FROM;
    let within = if is_crowded { &scene.views[..] } else { &scene.views[..=last] };
    let near = within.iter().filter(|view| pools[view.region].sums.broken > 0);
    for view in near {
        let admits = |member: &&Member| {
            member.standing == Standing::Broken
                && health.slot(member.slot).is_some_and(|node| node.breaker.would_admit(now).is_ok())
                && !scene.tried.contains(&member.slot)
        };
        let broken = pools[view.region].reachable(view.at_home).filter(admits);
        if let Some(member) = broken.min_by_key(|member| member.hash) {
            let predicted = predict(&member.load, &view.usual, member.rtt_us, ask.prompt_tokens, 0);
            return decided(health, view, member, predicted, Reason::Trial, false, ask);
        }
    }
    None
}

/// The nodes that stay in use although their breakers are open, because too many are.
fn readmitted(health: &Health, pool: &Pool, now: Monotonic) -> Vec<u64> {
    if pool.sums.broken as usize <= ejection::ejected_max(pool.members.len()) {
        return Vec::new();
    }
    let breakers = pool.members.iter().map(|member| {
        let breaker: Option<&Breaker> = health.slot(member.slot).map(|node| &node.breaker);
        (member.hash, breaker)
    });
    let ejected = ejection::ejected(breakers, now);
    let broken = pool.members.iter().filter(|member| member.standing == Standing::Broken);
    broken.map(|member| member.hash).filter(|hash| !ejected.contains(hash)).collect()
}

/// No good node is left, or those that are have far too much to do: the best of what looks ill or has been tried.
fn last_resort(
    health: &Health,
    scene: &Scene,
    ask: Ask<'_>,
    now: Monotonic,
    dice: u64,
    reason: Reason,
) -> Option<Decided> {
    let pools = health.index.pools(ask.version);
    // What is wrong with it, how often it was tried, how often its region was, how far it is, and a draw.
    type Order = (u8, usize, usize, usize, u64);
    let mut best: Option<(Order, &View, &Member)> = None;
    for (place, view) in scene.views.iter().enumerate() {
        for member in pools[view.region].reachable(view.at_home) {
            let tries = scene.tried.iter().filter(|slot| **slot == member.slot).count();
            if ask.purpose == Purpose::Resume && !member.resumes {
                continue;
            }
            if reason == Reason::Panic && (member.standing == Standing::Good || tries > 0) {
                continue;
            }
            let admits = health.slot(member.slot).is_some_and(|node| node.breaker.would_admit(now).is_ok());
            let rank = match (member.standing, tries) {
                (Standing::Recovering, 0) => 0,
                (Standing::Broken, 0) if admits => 1,
                (Standing::Good, _) => 2,
                (_, 0) => 3,
                _ => 4,
            };
            let order = (rank, tries, view.tries, place, mix(member.hash, dice));
            if best.as_ref().is_none_or(|(least, ..)| order < *least) {
                best = Some((order, view, member));
            }
        }
    }
    let ((rank, ..), view, member) = best?;
    // Only that it has been tried speaks against it.
    let reason = if rank == 2 { Reason::Balanced } else { reason };
    let predicted = predict(&member.load, &view.usual, member.rtt_us, ask.prompt_tokens, 0);
    decided(health, view, member, predicted, reason, false, ask)
}

/// Turns away what would wait longer than its class may. What nobody knows turns nobody away.
fn turn_away(view: &View, ask: Ask<'_>, is_lost: bool) -> Result<(), Refused> {
    // The rest of an answer that a client reads already.
    let is_lost = is_lost && ask.purpose != Purpose::Resume;
    let wait = Duration::from_micros(view.measured_wait_us);
    match wait.checked_sub(region::patience(ask.priority, is_lost)) {
        Some(too_long) if !too_long.is_zero() => {
            Err(Refused::Crowded { retry_after: too_long.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX) })
        }
        _ => Ok(()),
    }
}

/// What speaks against one node of the table.
pub(crate) fn veto(
    health: &Health,
    key: &NodeKey,
    table: &RoutingTable,
    ask: &Ask<'_>,
    now: Monotonic,
) -> Option<Veto> {
    if ask.regions.is_some_and(|regions| !regions.contains(&key.region)) {
        return Some(Veto::Residency);
    }
    if table.is_drained(key) {
        return Some(Veto::Drained);
    }
    let slot = health.find(key)?;
    match health.readiness(slot, ask.version, now) {
        Readiness::NotReady => return Some(Veto::NotReady),
        Readiness::Draining => return Some(Veto::Draining),
        Readiness::Ready | Readiness::Unknown => {}
    }
    let node = health.slot(slot)?;
    if ask.purpose == Purpose::Resume && node.serves_only.is_some() {
        return Some(Veto::NotReady);
    }
    if node.is_full() {
        return Some(Veto::Full);
    }
    match node.standing() {
        Standing::Silent | Standing::Recovering => return Some(Veto::Down),
        Standing::Broken => {
            let until = node.breaker.would_admit(now).err().map_or(now, |refused| refused.until);
            return Some(Veto::BreakerOpen { until });
        }
        Standing::Good => {}
    }
    ask.tried.contains(key).then_some(Veto::Tried)
}

/// The filter that struck out the last hope is the one that says why.
pub(crate) fn refusal(table: &RoutingTable, health: &Health, ask: Ask<'_>, now: Monotonic) -> NoRoute {
    let vetoes: Vec<Veto> =
        table.nodes.keys().filter_map(|key| veto(health, key, table, &ask, now)).collect();
    let breakers = vetoes.iter().filter_map(|veto| match veto {
        Veto::BreakerOpen { until } => Some(until.since(now)),
        _ => None,
    });
    match vetoes.iter().max() {
        None => NoRoute::NoNodes,
        Some(Veto::Residency) => NoRoute::Residency,
        Some(Veto::Drained) => NoRoute::Drained,
        Some(Veto::NotReady) => NoRoute::NotReady,
        Some(Veto::Draining) => NoRoute::Draining,
        Some(Veto::Full) => NoRoute::Full,
        Some(Veto::Down) => NoRoute::Down,
        Some(Veto::BreakerOpen { .. }) => NoRoute::BreakersOpen { wait: breakers.min().unwrap_or_default() },
        Some(Veto::Tried) => NoRoute::Tried,
    }
}

/// One node may fail alone, and the next is near. Two failures are their region's, which a third node there would
/// hardly escape; from then on regions share what attempts are left.
const REGION_TRIES_FREE: usize = 1;
/// When all that looks healthy is crowded and less than half does, looks may deceive; one in four finds out.
const PANIC_PERMILLE: u64 = 250;
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
