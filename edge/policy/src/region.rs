//! Chooses the region: the nearest until it has too much to do, then the next, as water fills one basin after the
//! other.
//!
//! A region near its threshold gives away a growing share of its requests rather than all of them at once, because
//! load is heard late. What an edge moves by its own choice is capped; after a loss caps only say whom to ask first.

use crate::ask::{Ask, Purpose};
use crate::hash::permille;
use crate::pool::Pool;
use crate::predict::Usual;
use crate::slow_start::WHOLE;
use std::time::Duration;
use types::{Monotonic, Priority};

/// One region that may be asked, as one decision sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) region: usize,
    pub(crate) at_home: bool,
    /// To the first token of this prompt, if nobody else asked anything.
    pub(crate) near_us: u64,
    /// What others' requests add to that.
    pub(crate) wait_us: u64,
    /// The part of it that is known, not guessed.
    pub(crate) measured_wait_us: u64,
    /// Of what it has room for.
    pub(crate) load_permille: u64,
    /// What is due to it after its return.
    pub(crate) weight: u64,
    /// Good nodes that this request has not tried.
    pub(crate) good: u64,
    /// Attempts of this request there, as far as they speak against the region.
    pub(crate) tries: usize,
    /// Whether the shift budget lets a request in that a nearer region could take.
    pub(crate) may_receive: bool,
    pub(crate) usual: Usual,
}

/// The way a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the region at this place in the order.
    To { view: usize, spilled: bool },
    /// All regions with a good node have too much to do, this one least.
    Crowded { view: usize },
    /// No good node is left.
    Nowhere,
}

impl View {
    pub(crate) fn of(
        region: usize,
        at_home: bool,
        pool: &Pool,
        rtt_us: u64,
        ask: &Ask<'_>,
        now: Monotonic,
    ) -> Self {
        let usual = pool.sums.usual(rtt_us);
        let capacity = pool.sums.capacity(&usual);
        let prefill_us = prefill_us(ask.prompt_tokens, usual.prefill_rate);
        Self {
            region,
            at_home,
            near_us: usual.rtt_us.saturating_add(prefill_us),
            wait_us: pool.sums.wait_us(&usual),
            measured_wait_us: pool.sums.measured_wait_us(),
            load_permille: pool.sums.load_permille(&usual),
            weight: pool.weight(now),
            good: pool.sums.good,
            tries: 0,
            may_receive: pool.shift.allows(ask.prompt_tokens, capacity, now),
            usual,
        }
    }

    /// The share, of a thousand, of requests that it takes although others could.
    fn share(&self) -> u64 {
        let above = self.load_permille.saturating_sub(SPILL_FROM);
        (WHOLE.saturating_sub(above * WHOLE / (SPILL_ALL - SPILL_FROM))) * self.weight / WHOLE
    }

    /// The share, of a thousand, of what others have too much of.
    fn share_of_others(&self) -> u64 {
        let room = SPILL_FROM.saturating_sub(self.load_permille);
        (room * WHOLE / (SPILL_FROM - RECEIVE_WHOLE)).min(WHOLE) * self.weight / WHOLE
    }

    fn total_us(&self) -> u64 {
        self.near_us.saturating_add(self.wait_us)
    }

    /// Regions that failed this request less often come first, then near ones.
    pub(crate) fn order(&self) -> (usize, u64, bool, usize) {
        (self.tries, self.near_us, !self.at_home, self.region)
    }
}

pub(crate) fn prefill_us(prompt_tokens: u64, rate: u64) -> u64 {
    prompt_tokens.saturating_mul(1_000_000) / rate.max(1)
}

/// Chooses among views in their order. `is_lost`: a region that could serve does not any more, so that moving is no
/// choice of ours.
pub(crate) fn choose(views: &[View], is_lost: bool, purpose: Purpose, dice: u64) -> Way {
    let with_good = || views.iter().enumerate().filter(|(_, view)| view.good > 0);
    let Some((nearest, _)) = with_good().next() else { return Way::Nowhere };
    // What has failed once has no time for finesse, and its budget is another's business.
    let capped = purpose == Purpose::First;
    let takes = |(index, view): (usize, &View), caps: bool| {
        let is_nearest = index == nearest;
        let share = if is_nearest { view.share() } else { view.share_of_others() };
        (is_nearest || !caps || view.may_receive) && permille(dice, index as u64) < share
    };
    let taken = with_good().find(|view| takes(*view, capped));
    let taken = taken.or_else(|| with_good().find(|view| capped && is_lost && takes(*view, false)));
    match taken {
        Some((view, _)) => Way::To { view, spilled: view != nearest },
        None => {
            let cost = |(index, view): &(usize, &View)| {
                let is_capped = capped && !is_lost && *index != nearest && !view.may_receive;
                let penalty_us = if is_capped { CAP_US } else { 0 };
                (view.tries, view.total_us().saturating_add(penalty_us), view.region)
            };
            let least = with_good().min_by_key(cost);
            least.map_or(Way::Nowhere, |(view, _)| match views[view].load_permille < SPILL_ALL {
                true => Way::To { view, spilled: view != nearest },
                false => Way::Crowded { view },
            })
        }
    }
}

/// How long requests of a class may have to wait before they are turned away, so that those above them need not.
pub(crate) fn patience(class: Priority, is_lost: bool) -> Duration {
    match (is_lost, class) {
        (true, Priority::Batch) => Duration::from_secs(2),
        (true, Priority::Standard) => Duration::from_secs(8),
        (true, Priority::Interactive) => Duration::from_secs(25),
        // Nothing is lost, there is only much to do: waiting is better than nothing, as long as it can help.
        (false, _) => Duration::from_secs(55),
    }
}

/// Below it a region takes what others have too much of without reserve.
const RECEIVE_WHOLE: u64 = 700;
/// Some room is left for what is on its way and not heard of.
pub(crate) const SPILL_FROM: u64 = 850;
/// A request waits so much longer rather than break a cap, but no more.
const CAP_US: u64 = 5_000_000;
/// More waits than runs.
const SPILL_ALL: u64 = 1100;

#[cfg(test)]
mod tests {
    use super::*;

    fn view(region: usize, near_ms: u64, load: u64) -> View {
        View {
            region,
            at_home: region == 0,
            near_us: near_ms * 1000,
            wait_us: load * 100,
            measured_wait_us: 0,
            load_permille: load,
            weight: WHOLE,
            good: 3,
            tries: 0,
            may_receive: true,
            usual: Usual { prefill_rate: 1, slots: 1, outstanding: 0, queued_tokens: 0, rtt_us: 0 },
        }
    }

    /// How many of a thousand requests each region gets.
    fn shares(views: &[View], is_lost: bool) -> Vec<usize> {
        let mut shares = vec![0; views.len()];
        for dice in 0..1000 {
            match choose(views, is_lost, Purpose::First, dice) {
                Way::To { view, .. } | Way::Crowded { view } => shares[view] += 1,
                Way::Nowhere => {}
            }
        }
        shares
    }

    #[test]
    fn the_nearest_takes_all_until_it_is_full_then_the_next() {
        assert_eq!(shares(&[view(0, 1, 800), view(1, 80, 0)], false), [1000, 0]);
        let half = shares(&[view(0, 1, 975), view(1, 80, 0), view(2, 200, 0)], false);
        assert!((400..600).contains(&half[0]) && half[2] == 0, "{half:?}");
        assert_eq!(shares(&[view(0, 1, 1200), view(1, 80, 900), view(2, 200, 0)], false), [0, 0, 1000]);
    }

    #[test]
    fn a_returned_region_gets_its_due_and_all_if_there_is_nothing_else() {
        let returned = View { weight: 100, ..view(0, 1, 0) };
        let tenth = shares(&[returned, view(1, 80, 0)], false);
        assert!((60..140).contains(&tenth[0]), "{tenth:?}");
        assert_eq!(shares(&[returned], false), [1000]);
        assert_eq!(shares(&[returned, view(1, 80, 1200)], false), [1000, 0]);
    }

    #[test]
    fn caps_hold_for_choices_and_only_bend_after_a_loss() {
        let full = View { may_receive: false, ..view(1, 80, 0) };
        assert_eq!(shares(&[view(0, 1, 1200), full, view(2, 200, 0)], false), [0, 0, 1000]);
        assert_eq!(shares(&[view(0, 1, 1090), full], false)[1], 0);
        let lost = shares(&[view(0, 1, 1090), full], true);
        assert!(lost[1] > 900, "{lost:?}");
    }

    #[test]
    fn what_failed_a_request_is_asked_last() {
        let mut views = [View { tries: 1, ..view(0, 1, 0) }, view(1, 80, 0)];
        views.sort_by_key(View::order);
        assert_eq!(choose(&views, false, Purpose::Retry, 5), Way::To { view: 0, spilled: false });
        assert_eq!(views[0].region, 1);
    }
}
