//! All links of a network, and the ways of connections over them.

use crate::network::alarm::{Alarm, Alarms, Clock};
use crate::network::faults::Faults;
use crate::network::link::{FlowId, Head, Link, Segment};
use crate::network::plan::Plan;
use crate::network::report::LinkReport;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use types::RegionName;

/// Shared by the network's thread with whoever sets faults and reads counters.
pub(super) struct Links {
    clock: Clock,
    pub(super) alarms: Arc<Alarms>,
    regions: Vec<RegionName>,
    state: Mutex<State>,
}

/// One direction of the link between two regions. A region has one with itself, of no length, that nobody is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinkId(usize);

/// One direction of a connection; it ends when dropped.
pub(super) struct Way {
    links: Arc<Links>,
    link: LinkId,
    flow: FlowId,
}

struct State {
    links: Vec<Link>,
    /// Who waits for something to arrive, to be woken when faults change.
    waiting: BTreeMap<FlowId, (LinkId, Waker)>,
    next_flow: u64,
    weight: usize,
}

impl Links {
    pub(super) fn new(plan: &Plan, seed: u64) -> io::Result<Arc<Self>> {
        let clock = Clock::start();
        let mut dice = fastrand::Rng::with_seed(seed);
        let pairs = plan.regions.iter().flat_map(|from| plan.regions.iter().map(move |to| (from, to)));
        let links = pairs.map(|(from, to)| Link::new(round_trip(plan, from, to) / 2, dice.fork())).collect();
        let state = State { links, waiting: BTreeMap::new(), next_flow: 0, weight: 0 };
        Ok(Arc::new(Self {
            clock,
            alarms: Alarms::new(clock)?,
            regions: plan.regions.clone(),
            state: Mutex::new(state),
        }))
    }

    /// The two directions between regions: there and back.
    pub(super) fn between(&self, from: &RegionName, to: &RegionName) -> Option<(LinkId, LinkId)> {
        let at = |name| self.regions.iter().position(|region| region == name);
        let (from, to) = (at(from)?, at(to)?);
        let link = |from: usize, to: usize| LinkId(from * self.regions.len() + to);
        Some((link(from, to), link(to, from)))
    }

    pub(super) fn distance(&self, link: LinkId) -> Duration {
        self.state().links[link.0].distance()
    }

    pub(super) fn is_cut(&self, link: LinkId) -> bool {
        self.state().links[link.0].faults().is_cut
    }

    pub(super) fn set(&self, link: LinkId, faults: Faults) {
        let now = self.clock.now();
        let woken: Vec<Waker> = {
            let mut state = self.state();
            state.links[link.0].set(now, faults);
            let here = state.waiting.values().filter(|(at, _)| *at == link);
            here.map(|(_, waker)| waker.clone()).collect()
        };
        woken.into_iter().for_each(Waker::wake);
    }

    pub(super) fn report(&self) -> Vec<LinkReport> {
        let state = self.state();
        let pairs = self.regions.iter().flat_map(|from| self.regions.iter().map(move |to| (from, to)));
        pairs
            .zip(&state.links)
            .filter(|((from, to), _)| from != to)
            .map(|((from, to), link)| LinkReport {
                from: from.clone(),
                to: to.clone(),
                round_trip_us: u64::try_from((link.distance() * 2).as_micros()).unwrap_or(u64::MAX),
                faults: link.faults(),
                connections: link.totals.connections,
                connections_total: link.totals.connections_total,
                bytes_total: link.totals.bytes,
                segments_total: link.totals.segments,
                lost_total: link.totals.lost,
                bytes_in_flight: link.totals.in_flight,
            })
            .collect()
    }

    /// `dialled` tells the direction that a connection was dialled in from the other one.
    pub(super) fn open(self: &Arc<Self>, link: LinkId, dialled: bool) -> Way {
        let mut state = self.state();
        let flow = FlowId(state.next_flow);
        state.next_flow += 1;
        state.links[link.0].open(flow, dialled);
        Way { links: Arc::clone(self), link, flow }
    }

    pub(super) fn alarm(&self) -> Alarm {
        self.alarms.alarm()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way {
    /// See [`Link::room`].
    pub(super) fn room(&self) -> usize {
        let state = self.links.state();
        state.links[self.link.0].room(self.flow, state.weight >= WEIGHT_MAX)
    }

    pub(super) fn enter(&self, segment: Segment) {
        let now = self.links.clock.now();
        self.with(|link, flow| link.enter(now, flow, segment));
    }

    /// See [`Link::take`]. The task is woken when the link's faults change.
    pub(super) fn take(&self, context: &Context<'_>) -> Head {
        let now = self.links.clock.now();
        let mut state = self.links.state();
        let State { links, waiting, weight, .. } = &mut *state;
        let link = &mut links[self.link.0];
        *weight -= link.weight();
        let head = link.take(now, self.flow);
        *weight += link.weight();
        // Under the same lock, or a change in between would wake nobody.
        let known = waiting.get(&self.flow).is_some_and(|(_, waker)| waker.will_wake(context.waker()));
        if !known {
            waiting.insert(self.flow, (self.link, context.waker().clone()));
        }
        head
    }

    /// See [`Link::reset`].
    pub(super) fn reset(&self) -> Head {
        let now = self.links.clock.now();
        self.with(|link, flow| link.reset(now, flow))
    }

    /// See [`Link::carried`].
    pub(super) fn carried(&self, bytes: usize) {
        self.with(|link, flow| link.carried(flow, bytes));
    }

    /// Sends a segment that stands alone and waits until it has arrived.
    pub(super) async fn cross(&self, segment: Segment) {
        self.enter(segment);
        let mut alarm = self.links.alarm();
        poll_fn(|context| {
            let at = match self.take(context) {
                Head::Arrived(_) => return Poll::Ready(()),
                Head::At(at) => Some(at),
                Head::Nothing => None,
            };
            alarm.set(at, context.waker());
            Poll::Pending
        })
        .await;
    }

    fn with<T>(&self, act: impl FnOnce(&mut Link, FlowId) -> T) -> T {
        let mut state = self.links.state();
        let State { links, weight, .. } = &mut *state;
        let link = &mut links[self.link.0];
        *weight -= link.weight();
        let done = act(link, self.flow);
        *weight += link.weight();
        done
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.with(Link::close);
        self.links.state().waiting.remove(&self.flow);
    }
}

/// A region is no way from itself.
fn round_trip(plan: &Plan, from: &RegionName, to: &RegionName) -> Duration {
    let known = plan.round_trips.iter().find(|(a, b, _)| (a, b) == (from, to) || (b, a) == (from, to));
    known.map_or(Duration::ZERO, |(.., time)| *time)
}

/// Of all connections together.
const WEIGHT_MAX: usize = 256 << 20;
