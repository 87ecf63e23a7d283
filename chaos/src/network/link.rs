//! One direction of a link: when what was sent arrives.
//!
//! Pure: the time is told to it, and its dice come from a seed. A segment that waits remembers only what cannot be
//! undone (when it left, how long it was lost), so that a change of faults changes its arrival too.

use crate::network::faults::Faults;
use bytes::Bytes;
use fastrand::Rng;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use types::Monotonic;

/// One direction of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlowId(pub(super) u64);

/// What travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// Asks for a connection, or agrees to one.
    Syn,
    Data(Bytes),
    Fin,
    Reset,
}

/// What stands first on a flow.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    Arrived(Segment),
    /// Arrives then, if nothing changes.
    At(Monotonic),
    /// Nothing arrives until something is sent or a cut ends.
    Nothing,
}

pub(super) struct Link {
    /// One way.
    distance: Duration,
    faults: Faults,
    dice: Rng,
    flows: BTreeMap<FlowId, Flow>,
    /// The order in which all flows share a narrow link.
    entered: u64,
    /// When the last segment has left the sender.
    sent_by: Monotonic,
    weight: usize,
    pub(super) totals: Totals,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) connections: u64,
    pub(super) connections_total: u64,
    pub(super) bytes: u64,
    pub(super) segments: u64,
    pub(super) lost: u64,
    pub(super) in_flight: u64,
}

impl Link {
    pub(super) fn new(distance: Duration, dice: Rng) -> Self {
        Self {
            distance,
            faults: Faults::default(),
            dice,
            flows: BTreeMap::new(),
            entered: 0,
            sent_by: Monotonic::default(),
            weight: 0,
            totals: Totals::default(),
        }
    }

    pub(super) fn distance(&self) -> Duration {
        self.distance
    }

    pub(super) fn faults(&self) -> Faults {
        self.faults
    }

    /// What all that waits costs in memory.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// `dialled` tells the direction that a connection was dialled in from the other one.
    pub(super) fn open(&mut self, flow: FlowId, dialled: bool) {
        self.flows.insert(flow, Flow { waiting: VecDeque::new(), weight: 0, in_flight: 0, dialled });
        self.totals.connections += u64::from(dialled);
        self.totals.connections_total += u64::from(dialled);
    }

    /// Forgets a flow with all that waits on it.
    pub(super) fn close(&mut self, flow: FlowId) {
        let Some(flow) = self.flows.remove(&flow) else { return };
        self.weight -= flow.weight;
        self.totals.in_flight -= flow.in_flight;
        self.totals.connections -= u64::from(flow.dialled);
    }

    /// How many bytes the next segment of a flow may have; 0 = no more until some have arrived. `crowded` = the
    /// network as a whole holds as much as it may.
    pub(super) fn room(&self, flow: FlowId, crowded: bool) -> usize {
        let most = if crowded { FLOW_WEIGHT_WHEN_CROWDED } else { FLOW_WEIGHT_MAX };
        match self.flows.get(&flow) {
            Some(flow) if flow.weight < most.min(self.flow_weight_max()) => self.segment_max(),
            _ => 0,
        }
    }

    /// Sends a segment.
    pub(super) fn enter(&mut self, now: Monotonic, flow: FlowId, segment: Segment) {
        let left = self.leave(now, segment.bytes());
        let lost_for = self.lose(&segment);
        let Some(flow) = self.flows.get_mut(&flow) else { return };
        self.totals.lost += u64::from(!lost_for.is_zero());
        self.totals.in_flight += segment.bytes() as u64;
        self.weight += segment.weight();
        flow.in_flight += segment.bytes() as u64;
        flow.weight += segment.weight();
        flow.waiting.push_back(Waiting { order: self.entered, left, lost_for, segment });
        self.entered += 1;
    }

    /// The next segment of a flow, if it has arrived. Data counts as in flight until [`Self::carried`] is told.
    pub(super) fn take(&mut self, now: Monotonic, flow: FlowId) -> Head {
        let Some(first) = self.flows.get(&flow).and_then(|flow| flow.waiting.front()) else {
            return Head::Nothing;
        };
        match self.arrival(first) {
            None => Head::Nothing,
            Some(at) if at > now => Head::At(at),
            Some(_) => {
                let flow = self.flows.get_mut(&flow).expect("it was just found");
                let first = flow.waiting.pop_front().expect("it was just found");
                if first.segment.bytes() == 0 {
                    flow.weight -= first.segment.weight();
                    self.weight -= first.segment.weight();
                }
                Head::Arrived(first.segment)
            }
        }
    }

    /// The reset at the end of a flow, which does not wait for a receiver that does not read.
    pub(super) fn reset(&self, now: Monotonic, flow: FlowId) -> Head {
        let last = self.flows.get(&flow).and_then(|flow| flow.waiting.back());
        match last.filter(|last| last.segment == Segment::Reset).and_then(|last| self.arrival(last)) {
            None => Head::Nothing,
            Some(at) if at > now => Head::At(at),
            Some(_) => Head::Arrived(Segment::Reset),
        }
    }

    /// A segment of data that was taken is in its receiver's hands.
    pub(super) fn carried(&mut self, flow: FlowId, bytes: usize) {
        let Some(flow) = self.flows.get_mut(&flow) else { return };
        flow.weight -= bytes + SEGMENT_WEIGHT;
        flow.in_flight -= bytes as u64;
        self.weight -= bytes + SEGMENT_WEIGHT;
        self.totals.in_flight -= bytes as u64;
        self.totals.bytes += bytes as u64;
        self.totals.segments += 1;
    }

    /// Holds from now on, for what waits too.
    pub(super) fn set(&mut self, now: Monotonic, faults: Faults) {
        let healed = self.faults.is_cut && !faults.is_cut;
        let other_rate = self.faults.bytes_per_second != faults.bytes_per_second;
        self.faults = faults;
        if !healed && !other_rate {
            return;
        }
        // After a cut the senders transmit everything anew; at another rate, what they have not sent yet.
        let mut again: Vec<&mut Waiting> = self
            .flows
            .values_mut()
            .flat_map(|flow| &mut flow.waiting)
            .filter(|waiting| healed || waiting.left > now)
            .collect();
        again.sort_unstable_by_key(|waiting| waiting.order);
        self.sent_by = now;
        for waiting in again {
            waiting.left = leave(&mut self.sent_by, faults, now, waiting.segment.bytes());
            if healed {
                waiting.lost_for = Duration::ZERO;
            }
        }
    }

    /// None = held by a cut.
    fn arrival(&self, waiting: &Waiting) -> Option<Monotonic> {
        (!self.faults.is_cut).then(|| waiting.left + self.travel().saturating_add(waiting.lost_for))
    }

    fn travel(&self) -> Duration {
        self.distance + Duration::from_millis(self.faults.delay_ms)
    }

    fn leave(&mut self, now: Monotonic, bytes: usize) -> Monotonic {
        leave(&mut self.sent_by, self.faults, now, bytes)
    }

    /// How long a segment's sender needs to bring it through, beyond its first try.
    fn lose(&mut self, segment: &Segment) -> Duration {
        let mut lost_for = Duration::ZERO;
        if self.faults.loss_per_million == 0 {
            return lost_for;
        }
        let mut time_out = match segment {
            Segment::Syn => HANDSHAKE_TIME_OUT,
            _ => {
                let delay = Duration::from_millis(self.faults.delay_ms);
                (self.distance * 2).saturating_add(delay).saturating_add(TIME_OUT_LEAST).min(TIME_OUT_MAX)
            }
        };
        for _ in 0..RETRANSMISSIONS_MAX {
            if self.dice.u32(..MILLION) >= self.faults.loss_per_million {
                break;
            }
            lost_for += time_out;
            time_out = (time_out * 2).min(TIME_OUT_MAX);
        }
        lost_for
    }

    /// A narrow link is shared in small segments, so that nobody waits long behind somebody's large one.
    fn segment_max(&self) -> usize {
        let Some(rate) = self.faults.bytes_per_second else { return SEGMENT_MAX };
        let share = usize::try_from(rate.get() / SEGMENTS_PER_SECOND).unwrap_or(SEGMENT_MAX);
        share.clamp(SEGMENT_LEAST, SEGMENT_MAX)
    }

    /// On a narrow link a flow holds what its rate and its way need and a little more: everybody else waits behind it.
    fn flow_weight_max(&self) -> usize {
        let Some(rate) = self.faults.bytes_per_second else { return FLOW_WEIGHT_MAX };
        let time = self.travel().saturating_mul(2).saturating_add(QUEUE_MAX);
        let bytes = u128::from(rate.get()).saturating_mul(time.as_micros()) / 1_000_000;
        usize::try_from(bytes).unwrap_or(FLOW_WEIGHT_MAX).clamp(2 * self.segment_max(), FLOW_WEIGHT_MAX)
    }
}

impl Segment {
    fn bytes(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len(),
            Self::Syn | Self::Fin | Self::Reset => 0,
        }
    }

    fn weight(&self) -> usize {
        self.bytes() + SEGMENT_WEIGHT
    }
}

/// When a segment has left its sender, behind all that left before.
fn leave(sent_by: &mut Monotonic, faults: Faults, now: Monotonic, bytes: usize) -> Monotonic {
    let begins = now.max(*sent_by);
    *sent_by = match faults.bytes_per_second {
        None => now,
        Some(rate) => begins + Duration::from_micros(bytes as u64 * 1_000_000 / rate),
    };
    *sent_by
}

struct Flow {
    waiting: VecDeque<Waiting>,
    weight: usize,
    in_flight: u64,
    dialled: bool,
}

struct Waiting {
    order: u64,
    left: Monotonic,
    lost_for: Duration,
    segment: Segment,
}

/// With 100 ms one way a connection carries 40 MB/s.
const FLOW_WEIGHT_MAX: usize = 4 << 20;
/// How long a narrow link may take for what one connection holds, beyond its way: a router's queue.
const QUEUE_MAX: Duration = Duration::from_millis(250);
/// What a connection may hold in any case, so that nobody can starve the others.
const FLOW_WEIGHT_WHEN_CROWDED: usize = 64 << 10;
/// What a segment costs beside its bytes: many are a few bytes long.
const SEGMENT_WEIGHT: usize = 128;
const SEGMENT_MAX: usize = 64 << 10;
/// One packet.
const SEGMENT_LEAST: usize = 1_460;
const SEGMENTS_PER_SECOND: u64 = 100;
/// Linux retransmits after the round trip and this much, twice as late each time, to a bound.
const TIME_OUT_LEAST: Duration = Duration::from_millis(200);
const TIME_OUT_MAX: Duration = Duration::from_secs(120);
/// Linux again, as long as no round trip is known.
const HANDSHAKE_TIME_OUT: Duration = Duration::from_secs(1);
/// Then it comes, also where everything is lost: who wants nothing to come cuts the link.
const RETRANSMISSIONS_MAX: u32 = 6;
const MILLION: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;

    const FLOW: FlowId = FlowId(1);
    const OTHER: FlowId = FlowId(2);

    fn link(one_way_ms: u64, seed: u64) -> Link {
        let mut link = Link::new(Duration::from_millis(one_way_ms), Rng::with_seed(seed));
        link.open(FLOW, true);
        link.open(OTHER, false);
        link
    }

    fn at(milliseconds: u64) -> Monotonic {
        Monotonic::from_micros(milliseconds * 1_000)
    }

    fn data(bytes: usize) -> Segment {
        static ZEROS: [u8; SEGMENT_MAX] = [0; SEGMENT_MAX];
        Segment::Data(Bytes::from_static(&ZEROS[..bytes]))
    }

    fn narrow(bytes_per_second: u64) -> Faults {
        Faults { bytes_per_second: NonZeroU64::new(bytes_per_second), ..Faults::default() }
    }

    const CUT: Faults = Faults { is_cut: true, delay_ms: 0, loss_per_million: 0, bytes_per_second: None };

    #[test]
    fn segments_arrive_in_order_after_the_distance() {
        let mut link = link(40, 1);
        assert_eq!(link.take(at(0), FLOW), Head::Nothing);
        link.enter(at(10), FLOW, data(3));
        link.enter(at(11), FLOW, Segment::Fin);
        assert_eq!(link.take(at(49), FLOW), Head::At(at(50)));
        assert_eq!(link.take(at(50), FLOW), Head::Arrived(data(3)));
        assert_eq!(link.take(at(50), FLOW), Head::At(at(51)));
        assert_eq!(link.take(at(90), FLOW), Head::Arrived(Segment::Fin));
        assert_eq!(link.take(at(90), FLOW), Head::Nothing);
        assert_eq!(link.take(at(90), OTHER), Head::Nothing);
    }

    #[test]
    fn a_change_of_delay_holds_for_what_is_on_its_way() {
        let mut link = link(40, 1);
        link.enter(at(0), FLOW, data(1));
        link.set(at(10), Faults { delay_ms: 100, ..Faults::default() });
        assert_eq!(link.take(at(10), FLOW), Head::At(at(140)));
        link.enter(at(20), FLOW, data(2));
        link.set(at(100), Faults::default());
        assert_eq!(link.take(at(100), FLOW), Head::Arrived(data(1)));
        assert_eq!(link.take(at(100), FLOW), Head::Arrived(data(2)));
    }

    #[test]
    fn what_was_cut_off_is_sent_anew_when_the_cut_ends() {
        let mut link = link(40, 1);
        link.set(at(0), Faults { loss_per_million: 1_000_000, ..Faults::default() });
        link.enter(at(0), FLOW, data(1));
        link.set(at(39), CUT);
        link.enter(at(100), FLOW, Segment::Reset);
        assert_eq!(link.take(at(9_000), FLOW), Head::Nothing);
        assert_eq!(link.reset(at(9_000), FLOW), Head::Nothing);
        link.set(at(10_000), Faults::default());
        assert_eq!(link.take(at(10_000), FLOW), Head::At(at(10_040)));
        assert_eq!(link.reset(at(10_000), FLOW), Head::At(at(10_040)));
        assert_eq!(link.take(at(10_040), FLOW), Head::Arrived(data(1)));
        assert_eq!(link.reset(at(10_040), FLOW), Head::Arrived(Segment::Reset));
        assert_eq!(link.take(at(10_040), FLOW), Head::Arrived(Segment::Reset));
    }

    #[test]
    fn a_narrow_link_is_shared() {
        let mut link = link(40, 1);
        link.set(at(0), narrow(1_000_000));
        // A thousand bytes a millisecond.
        link.enter(at(0), FLOW, data(10_000));
        link.enter(at(0), OTHER, data(5_000));
        link.enter(at(1), FLOW, data(1_000));
        assert_eq!(link.take(at(0), FLOW), Head::At(at(50)));
        assert_eq!(link.take(at(0), OTHER), Head::At(at(55)));
        assert_eq!(link.take(at(50), FLOW), Head::Arrived(data(10_000)));
        assert_eq!(link.take(at(50), FLOW), Head::At(at(56)));
        // Idle time is not saved up.
        link.enter(at(1_000), OTHER, data(1_000));
        assert_eq!(link.take(at(55), OTHER), Head::Arrived(data(5_000)));
        assert_eq!(link.take(at(55), OTHER), Head::At(at(1_041)));
    }

    #[test]
    fn another_rate_holds_for_what_has_not_been_sent() {
        let mut link = link(40, 1);
        link.set(at(0), narrow(1_000));
        link.enter(at(0), FLOW, data(10));
        for _ in 0..1_000 {
            link.enter(at(0), FLOW, data(1_000));
        }
        link.set(at(50), Faults::default());
        assert_eq!(link.take(at(50), FLOW), Head::Arrived(data(10)), "that had left at 10 ms");
        for _ in 0..1_000 {
            assert_eq!(link.take(at(90), FLOW), Head::Arrived(data(1_000)));
        }
        link.set(at(100), narrow(1_000_000));
        link.enter(at(100), FLOW, data(1_000));
        assert_eq!(link.take(at(100), FLOW), Head::At(at(141)), "what is over is not waited for");
    }

    #[test]
    fn a_loss_stalls_its_flow_alone() {
        let mut link = link(40, 1);
        link.set(at(0), Faults { loss_per_million: 1_000_000, ..Faults::default() });
        link.enter(at(0), FLOW, data(1));
        link.enter(at(0), FLOW, Segment::Syn);
        link.set(at(0), Faults::default());
        link.enter(at(0), FLOW, data(2));
        link.enter(at(0), OTHER, data(3));
        assert_eq!(link.take(at(40), OTHER), Head::Arrived(data(3)));
        // 280 ms, doubled five times.
        let last = 40 + 280 * 63;
        assert_eq!(link.take(at(40), FLOW), Head::At(at(last)));
        assert_eq!(link.take(at(last), FLOW), Head::Arrived(data(1)));
        assert_eq!(link.take(at(last), FLOW), Head::At(at(40 + 1_000 * 63)), "a handshake waits longer");
        assert_eq!(link.take(at(100_000), FLOW), Head::Arrived(Segment::Syn));
        assert_eq!(link.take(at(100_000), FLOW), Head::Arrived(data(2)));
        assert_eq!(link.totals.lost, 2);
    }

    #[test]
    fn losses_are_as_frequent_as_asked_and_repeat_with_their_seed() {
        let lost = |seed| {
            let mut link = link(40, seed);
            link.set(at(0), Faults { loss_per_million: 20_000, ..Faults::default() });
            let before = (0..10_000).map(|_| {
                link.enter(at(0), FLOW, data(1));
                link.totals.lost
            });
            before.collect::<Vec<_>>()
        };
        assert_eq!(lost(7), lost(7));
        assert_ne!(lost(7), lost(8));
        assert!((150..250).contains(&lost(7)[9_999]), "{:?}", lost(7)[9_999]);
    }

    #[test]
    fn what_waits_is_bounded_and_small_segments_weigh_more_than_their_bytes() {
        let mut link = link(40, 1);
        let fill = |link: &mut Link, flow, bytes, crowded| {
            let mut segments = 0;
            while link.room(flow, crowded) > 0 && segments < FLOW_WEIGHT_MAX {
                link.enter(at(0), flow, data(bytes));
                segments += 1;
            }
            segments
        };
        assert_eq!(fill(&mut link, FLOW, SEGMENT_MAX, false), FLOW_WEIGHT_MAX / SEGMENT_MAX);
        assert_eq!(fill(&mut link, FLOW, 1, false), 0);
        assert_eq!(fill(&mut link, OTHER, 1, true), FLOW_WEIGHT_WHEN_CROWDED.div_ceil(1 + SEGMENT_WEIGHT));
        // There is room again when bytes are in their receiver's hands, not before.
        link.take(at(40), FLOW);
        assert_eq!(link.room(FLOW, false), 0);
        link.carried(FLOW, SEGMENT_MAX);
        assert_eq!(link.room(FLOW, false), SEGMENT_MAX);
    }

    #[test]
    fn nobody_waits_long_behind_a_flow_that_fills_a_narrow_link() {
        let mut link = link(40, 1);
        link.set(at(0), narrow(12_500));
        while link.room(FLOW, false) > 0 {
            link.enter(at(0), FLOW, data(link.room(FLOW, false)));
        }
        link.enter(at(0), OTHER, data(link.room(OTHER, false)));
        assert_eq!(link.take(at(1_000), OTHER), Head::Arrived(data(SEGMENT_LEAST)));
        // What it may hold covers the way, or it could not use the rate it has.
        link.set(at(1_000), Faults { delay_ms: 2_000, ..narrow(12_500) });
        while link.room(FLOW, false) > 0 {
            link.enter(at(1_000), FLOW, data(link.room(FLOW, false)));
        }
        assert!(link.totals.in_flight > 2 * 12_500, "{} bytes", link.totals.in_flight);
    }

    #[test]
    fn counters_add_up_whatever_happens() {
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        let mut dice = Rng::with_seed(seed);
        let mut link = link(3, seed);
        let (mut sent, mut carried, mut taken) = ([0; 2], 0, [0; 2]);
        for now in 0..20_000 {
            let (number, flow) = [(0, FLOW), (1, OTHER)][dice.usize(..2)];
            match dice.u8(..12) {
                0 => link.set(
                    at(now),
                    Faults {
                        is_cut: dice.bool(),
                        delay_ms: dice.u64(..9),
                        loss_per_million: dice.u32(..50_000),
                        bytes_per_second: NonZeroU64::new(dice.u64(..3) * 100_000),
                    },
                ),
                1..6 if link.room(flow, false) > 0 => {
                    // A segment's length is its number, so that its place in the order shows.
                    sent[number] += 1;
                    link.enter(at(now), flow, data(sent[number]));
                }
                _ => {
                    while let Head::Arrived(Segment::Data(bytes)) = link.take(at(now), flow) {
                        taken[number] += 1;
                        assert_eq!(bytes.len(), taken[number], "out of order");
                        carried += bytes.len() as u64;
                        link.carried(flow, bytes.len());
                    }
                }
            }
        }
        let all: u64 = sent.iter().map(|last| (last * (last + 1) / 2) as u64).sum();
        let totals = link.totals;
        assert_eq!((totals.bytes, totals.bytes + totals.in_flight), (carried, all));
        assert_eq!(totals.segments, (taken[0] + taken[1]) as u64);
        assert_eq!((totals.connections, totals.connections_total), (1, 1));
        link.close(FLOW);
        link.close(OTHER);
        assert_eq!((link.totals.in_flight, link.totals.connections, link.weight()), (0, 0, 0));
    }
}
