//! Chooses a node of a region: the one that probably holds the prompt's beginning, unless it has more to do than
//! others; else the better of two drawn at random.
//!
//! All draws are hashes of a node's name with something, the greatest wins. So no order of nodes and no history of
//! signals decides, and edges that were told the same find the same node for a prompt.

use crate::ask::{Prediction, Reason};
use crate::hash::mix;
use crate::node::Standing;
use crate::pool::{Member, Pool};
use crate::predict::{Usual, predict};
use crate::slow_start::{self, NODE_RAMP, WHOLE};
use types::Monotonic;

/// What a node is chosen for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) prompt_tokens: u64,
    /// Hashes of the prompt's leading blocks.
    pub(crate) prefix: &'a [u64],
    /// The hash of the node that got a beginning of so many blocks before.
    pub(crate) holder: Option<(u64, usize)>,
    /// Nodes that are out of the question.
    pub(crate) tried: &'a [u32],
    /// Only nodes that go on with answers of others.
    pub(crate) resume: bool,
    /// Hashes of nodes that may be asked although their breakers are open.
    pub(crate) readmitted: &'a [u64],
    pub(crate) dice: u64,
    pub(crate) now: Monotonic,
}

/// The best draw so far.
#[derive(Clone, Copy)]
struct Draw<'p> {
    score: u64,
    member: Option<&'p Member>,
}

impl<'p> Draw<'p> {
    const NONE: Self = Self { score: 0, member: None };

    #[inline]
    fn offer(&mut self, member: &'p Member, score: u64) {
        if self.member.is_none() || score > self.score {
            *self = Self { score, member: Some(member) };
        }
    }
}

/// The member of a pool, what is predicted of it, and why it.
pub(crate) fn pick<'p>(
    pool: &'p Pool,
    usual: &Usual,
    at_home: bool,
    wish: &Wish<'_>,
) -> Option<(&'p Member, Prediction, Reason)> {
    let first_block = wish.prefix.first().copied();
    let (mut holder, mut hashed, mut hashed_next) = (None, Draw::NONE, Draw::NONE);
    let (mut one, mut one_next, mut other) = (Draw::NONE, Draw::NONE, Draw::NONE);
    // Nodes whose share was used up in this draw; better than none.
    let mut warming = Draw::NONE;
    for member in pool.reachable(at_home) {
        if !is_eligible(member, wish) {
            continue;
        }
        if wish.holder.is_some_and(|(hash, _)| hash == member.hash) {
            holder = Some(member);
        }
        let weight = slow_start::weight(member.slow_since, NODE_RAMP, wish.now);
        if let Some(block) = first_block {
            let score = mix(member.hash, block);
            // Ever more of the same prompts find their way to a node that warms up.
            if weight >= WHOLE || mix(score, 1) % WHOLE < weight {
                if hashed.member.is_none() || score > hashed.score {
                    hashed_next = hashed;
                    hashed = Draw { score, member: Some(member) };
                } else {
                    hashed_next.offer(member, score);
                }
            }
        }
        let score = mix(member.hash, wish.dice);
        if weight < WHOLE && mix(score, 3) % WHOLE >= weight {
            warming.offer(member, score);
            continue;
        }
        if one.member.is_none() || score > one.score {
            one_next = one;
            one = Draw { score, member: Some(member) };
        } else {
            one_next.offer(member, score);
        }
        other.offer(member, mix(score, 2));
    }
    let first = one.member.or(warming.member)?;
    // The same node drawn twice is one draw.
    let second = other.member.filter(|second| second.slot != first.slot).or(one_next.member);
    let predicted = |member: &Member, held_blocks: usize| {
        let blocks = wish.prefix.len().max(1) as u64;
        let held = wish.prompt_tokens / blocks * (held_blocks as u64).min(blocks);
        predict(
            &member.load,
            usual,
            member.rtt_us.map(|rtt| rtt.max(usual.rtt_us / 2)),
            wish.prompt_tokens,
            held,
        )
    };
    let mean = pool.sums.mean_outstanding();
    let better = match second {
        Some(second) => better_of(first, second, usual, mean, |member| predicted(member, 0)),
        None => first,
    };
    let balanced = predicted(better, 0);
    let holds = [holder, hashed.member, hashed_next.member];
    for (index, member) in holds.into_iter().enumerate() {
        let Some(member) = member else { continue };
        let (blocks, slack) = match wish.holder.filter(|_| index == 0) {
            Some((_, blocks)) => (blocks, 2 * AFFINITY_SLACK),
            None => (0, AFFINITY_SLACK),
        };
        let predicted = predicted(member, blocks);
        let is_bounded = member.load.outstanding(usual) <= mean.max(usual.outstanding) * 5 / 4 + slack;
        if is_bounded && predicted.wait_us() <= balanced.wait_us().saturating_add(AFFINITY_WAIT_US_MAX)
            || index == 0 && predicted.total_us() <= balanced.total_us()
        {
            return Some((member, predicted, Reason::Affinity));
        }
    }
    Some((better, balanced, Reason::Balanced))
}

/// Prequal's rule: a hot node, one with more requests than most, loses to a cold one whatever its prediction says.
fn better_of<'p>(
    first: &'p Member,
    second: &'p Member,
    usual: &Usual,
    mean: u64,
    predicted: impl Fn(&Member) -> Prediction,
) -> &'p Member {
    let outstanding = |member: &Member| member.load.outstanding(usual);
    let is_hot = |member: &Member| outstanding(member) > mean * 5 / 4 + HOT_SLACK;
    let first_wins = match (is_hot(first), is_hot(second)) {
        (false, true) => true,
        (true, false) => false,
        (true, true) => outstanding(first) <= outstanding(second),
        (false, false) => {
            let key = |member: &Member| (predicted(member).total_us(), outstanding(member));
            key(first) <= key(second)
        }
    };
    if first_wins { first } else { second }
}

pub(crate) fn is_eligible(member: &Member, wish: &Wish<'_>) -> bool {
    let is_well = match member.standing {
        Standing::Good => true,
        Standing::Broken => wish.readmitted.contains(&member.hash),
        Standing::Recovering | Standing::Silent => false,
    };
    is_well && (!wish.resume || member.resumes) && !wish.tried.contains(&member.slot)
}

/// A few requests more than others have is no load, and a prompt that is held saves more than they cost. Twice as many
/// for a conversation that is known to be there: what brought it there must not be what drives it away.
const AFFINITY_SLACK: u64 = 4;
/// Where nothing is known to be held, going out of the way must be cheap.
const AFFINITY_WAIT_US_MAX: u64 = 100_000;
const HOT_SLACK: u64 = 1;
