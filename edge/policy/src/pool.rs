//! The nodes of one region that may serve one version, and sums over them that are kept up to date.
//!
//! A decision looks at every region and must not look at every node for that. Sums are integers, so that adding and
//! taking away leaves no error behind.

use crate::node::Standing;
use crate::predict::{Load, Usual, slot_us, slot_us_least};
use crate::shift::ShiftBudget;
use crate::slow_start;
use std::collections::BTreeSet;
use types::Monotonic;

#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// No hard fact speaks against them. In no order that a choice may depend on.
    pub(crate) members: Vec<Member>,
    /// Where a node of the region stands among the members, if it does.
    at: Vec<Option<u32>>,
    pub(crate) sums: Sums,
    /// Places of good nodes that are no members only because they have as much to do as they may.
    full: BTreeSet<usize>,
    /// Operators want the version here.
    is_wanted: bool,
    had_ready: bool,
    lost_at: Option<Monotonic>,
    pub(crate) returned_at: Option<Monotonic>,
    pub(crate) shift: ShiftBudget,
    /// Which members an edge far away dials; empty = to be drawn anew.
    dialled: Vec<u32>,
}

/// What a node is to a pool.
#[derive(Debug)]
pub(crate) enum Seat {
    Taken(Member),
    /// It serves, and has no room for more.
    Full,
    /// A hard fact speaks against it.
    Empty,
}

#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) slot: u32,
    /// Among the nodes of its region.
    pub(crate) place: u32,
    /// Of the node's name: what draws are made of.
    pub(crate) hash: u64,
    pub(crate) standing: Standing,
    /// Goes on with answers that others began.
    pub(crate) resumes: bool,
    /// Known to serve.
    pub(crate) is_ready: bool,
    pub(crate) slow_since: Option<Monotonic>,
    pub(crate) rtt_us: Option<u64>,
    pub(crate) load: Load,
}

/// Over good members, but for the first four.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) members: u64,
    pub(crate) broken: u64,
    pub(crate) cannot_resume: u64,
    /// Known to serve and not silent.
    pub(crate) ready: u64,
    pub(crate) good: u64,
    known: u64,
    known_outstanding: u64,
    known_queued: u64,
    /// This edge's own at nodes that nobody spoke of.
    unknown_outstanding: u64,
    unknown_queued: u64,
    slotted: u64,
    slots: u64,
    rated: u64,
    rate: u64,
    measured: u64,
    rtt_us: u64,
    step_us: u64,
    stepped: u64,
}

impl Pool {
    pub(crate) fn of(nodes: usize, is_wanted: bool) -> Self {
        Self { at: vec![None; nodes], is_wanted, ..Self::default() }
    }

    /// Keeps what is known of the pool as a whole when its nodes are listed anew. `in_use`: operators want some of
    /// them to serve; what they took away is not lost. `is_wanted`: this version they want there.
    pub(crate) fn listed_anew(self, nodes: usize, in_use: bool, is_wanted: bool) -> Self {
        let Self { had_ready, lost_at, returned_at, shift, .. } = self;
        // Not wanted any more: whether agents let it go before this was heard of, or do so after, none of it is lost.
        let in_use = in_use && (is_wanted || !self.is_wanted);
        let lost_at = lost_at.filter(|_| in_use);
        let had_ready = had_ready && in_use;
        Self { had_ready, lost_at, returned_at, shift, ..Self::of(nodes, is_wanted) }
    }

    pub(crate) fn member(&self, place: usize) -> Option<&Member> {
        let index = self.at.get(place).copied().flatten()?;
        self.members.get(index as usize)
    }

    /// Puts a node in, takes it out, or takes note of how it is now.
    pub(crate) fn set(&mut self, place: usize, seat: Seat) {
        let Some(at) = self.at.get(place).copied() else { return };
        match seat {
            Seat::Full => self.full.insert(place),
            Seat::Taken(_) | Seat::Empty => self.full.remove(&place),
        };
        let member = match seat {
            Seat::Taken(member) => Some(member),
            Seat::Full | Seat::Empty => None,
        };
        match (at, member) {
            (Some(index), Some(member)) => {
                let old = std::mem::replace(&mut self.members[index as usize], member);
                self.sums.count(&old, false);
                let new = &self.members[index as usize];
                self.sums.count(new, true);
                if new.standing != old.standing {
                    self.dialled.clear();
                }
            }
            (None, Some(member)) => {
                self.sums.count(&member, true);
                self.at[place] = Some(self.members.len() as u32);
                self.members.push(member);
                self.dialled.clear();
            }
            (Some(_), None) => self.take_out(place),
            (None, None) => {}
        }
    }

    fn take_out(&mut self, place: usize) {
        let Some(index) = self.at[place].take() else { return };
        let old = self.members.swap_remove(index as usize);
        self.sums.count(&old, false);
        self.dialled.clear();
        if let Some(moved) = self.members.get(index as usize) {
            self.at[moved.place as usize] = Some(index);
        }
    }

    /// Whoever has served here can be lost.
    pub(crate) fn note_ready(&mut self) {
        self.had_ready |= self.sums.ready > 0 || !self.full.is_empty();
    }

    /// Notes the loss and the return of all that served here.
    pub(crate) fn note_loss(&mut self, now: Monotonic) {
        self.note_ready();
        if self.sums.good == 0 && self.full.is_empty() {
            if self.had_ready && self.lost_at.is_none() {
                self.lost_at = Some(now);
            }
        } else if (self.sums.ready > 0 || !self.full.is_empty()) && self.lost_at.take().is_some() {
            self.returned_at = Some(now);
        }
    }

    /// Whether it served and has ceased to, or has begun to again of late. What operators want there is missing for as
    /// long as it stays away. What they do not, such as the version before the present one, is missed for a while.
    pub(crate) fn is_lost_or_recovering(&self, now: Monotonic) -> bool {
        self.lost_at.is_some_and(|at| self.is_wanted || now.since(at) < slow_start::REGION_RAMP)
            || self.weight(now) < slow_start::WHOLE
    }

    pub(crate) fn weight(&self, now: Monotonic) -> u64 {
        slow_start::weight(self.returned_at, slow_start::REGION_RAMP, now)
    }

    /// At most eight nodes of a far region, others for each edge: thousands of edges times thousands of nodes are
    /// too many connections.
    pub(crate) fn dial(&mut self, salt: u64) {
        if self.dialled.is_empty() && self.members.len() > FAR_NODES_MAX {
            let mut order: Vec<(Standing, u64, u32)> = (0_u32..)
                .zip(&self.members)
                .map(|(index, member)| (member.standing, crate::hash::mix(member.hash, salt), index))
                .collect();
            // Fewer good ones than that, and the others are there as a last resort.
            order.select_nth_unstable(FAR_NODES_MAX);
            order.truncate(FAR_NODES_MAX);
            self.dialled = order.into_iter().map(|(_, _, index)| index).collect();
        }
    }

    /// Those that an edge may send to: all at home, those that it dials far away.
    pub(crate) fn reachable(&self, at_home: bool) -> impl Iterator<Item = &Member> {
        let few = !at_home && !self.dialled.is_empty();
        let dialled = self.dialled.iter().filter(move |_| few).map(|index| &self.members[*index as usize]);
        dialled.chain(self.members.iter().filter(move |_| !few))
    }
}

impl Sums {
    fn count(&mut self, member: &Member, add: bool) {
        let sum = |total: &mut u64, value: u64| {
            *total = if add { total.saturating_add(value) } else { total.saturating_sub(value) };
        };
        sum(&mut self.members, 1);
        sum(&mut self.broken, u64::from(member.standing == Standing::Broken));
        sum(&mut self.cannot_resume, u64::from(!member.resumes));
        sum(&mut self.ready, u64::from(member.is_ready && member.standing != Standing::Silent));
        if member.standing != Standing::Good {
            return;
        }
        let load = &member.load;
        sum(&mut self.good, 1);
        if load.is_known {
            sum(&mut self.known, 1);
            sum(&mut self.known_outstanding, load.outstanding);
            sum(&mut self.known_queued, load.queued_tokens);
        } else {
            sum(&mut self.unknown_outstanding, load.outstanding);
            sum(&mut self.unknown_queued, load.queued_tokens);
        }
        sum(&mut self.slotted, u64::from(load.slots > 0));
        sum(&mut self.slots, load.slots);
        sum(&mut self.rated, u64::from(load.prefill_rate > 0));
        sum(&mut self.rate, load.prefill_rate);
        sum(&mut self.stepped, u64::from(load.step_us > 0));
        sum(&mut self.step_us, load.step_us);
        sum(&mut self.measured, u64::from(member.rtt_us.is_some()));
        sum(&mut self.rtt_us, member.rtt_us.unwrap_or(0));
    }

    /// What a good member is like. `rtt_us` stands in where no probe has measured it.
    pub(crate) fn usual(&self, rtt_us: u64) -> Usual {
        let mean = |sum: u64, count: u64, otherwise: u64| sum.checked_div(count).unwrap_or(otherwise);
        Usual {
            prefill_rate: mean(self.rate, self.rated, PREFILL_TOKENS_PER_S).max(1),
            slots: mean(self.slots, self.slotted, SLOTS).max(1),
            outstanding: mean(self.known_outstanding, self.known, 0),
            queued_tokens: mean(self.known_queued, self.known, 0),
            // Light in glass is the least: a measure below it is of something else than the way there.
            rtt_us: mean(self.rtt_us, self.measured, rtt_us).max(rtt_us),
        }
    }

    /// Requests there, of a thousand for which there is room; above that they wait.
    pub(crate) fn load_permille(&self, usual: &Usual) -> u64 {
        let slots = usual.slots.saturating_mul(self.good).max(1);
        let by_slots = self.outstanding().saturating_mul(1000) / slots;
        by_slots.max(self.backlog_us(usual) / (BACKLOG_US_FULL / 1000))
    }

    /// How long what waits there takes.
    pub(crate) fn backlog_us(&self, usual: &Usual) -> u64 {
        let queued = self.known_queued.saturating_add(self.unknown_queued);
        queued.saturating_mul(1_000_000) / self.capacity(usual).max(1)
    }

    /// Prompt tokens that it computes in a second with cold caches.
    pub(crate) fn capacity(&self, usual: &Usual) -> u64 {
        usual.prefill_rate.saturating_mul(self.good)
    }

    /// A newcomer's usual wait.
    pub(crate) fn wait_us(&self, usual: &Usual) -> u64 {
        let slots = usual.slots.saturating_mul(self.good);
        let step_us = self.step_us.checked_div(self.stepped).unwrap_or(0);
        self.backlog_us(usual).saturating_add(slot_us(self.outstanding(), slots.max(1), step_us))
    }

    /// The wait as far as it follows from what nodes have measured and said: no guess turns a request away.
    pub(crate) fn measured_wait_us(&self) -> u64 {
        let queue_us = self.known_queued.saturating_mul(1_000_000).checked_div(self.rate).unwrap_or(0);
        let slot_us = match self.step_us.checked_div(self.stepped) {
            Some(step_us) if self.slots > 0 => {
                slot_us_least(self.known_outstanding, self.slots, step_us.max(1))
            }
            _ => 0,
        };
        queue_us.saturating_add(slot_us)
    }

    /// Nodes that nobody spoke of are taken to be as busy as the others, or as this edge keeps them.
    fn outstanding(&self) -> u64 {
        let unknown = self.good - self.known;
        let guessed = self.known_outstanding.checked_div(self.known).unwrap_or(0).saturating_mul(unknown);
        self.known_outstanding.saturating_add(self.unknown_outstanding.max(guessed))
    }

    pub(crate) fn mean_outstanding(&self) -> u64 {
        self.outstanding() / self.good.max(1)
    }
}

/// DESIGN 6.
pub(crate) const FAR_NODES_MAX: usize = 8;
/// What a mid-size model does on one accelerator, until something was measured. Only the proportion of ways and
/// prompts hangs on it.
const PREFILL_TOKENS_PER_S: u64 = 4000;
/// Likewise.
const SLOTS: u64 = 16;
/// Prompts that wait a second are as bad as slots that are all taken.
const BACKLOG_US_FULL: u64 = 1_000_000;
