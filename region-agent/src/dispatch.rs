//! Decides which request an engine gets next.
//!
//! One line of waiting requests per model version, first come first served, and so many seats per replica as
//! the engine can start at once. In front of it stand streams that broke elsewhere and shall go on here, because
//! somebody is reading them: by class among themselves, and first come first served within a class. An engine therefore never holds a request that it cannot begin: whoever waits,
//! waits here, where another replica can take it and where the edge is told to go elsewhere.
//!
//! Invariant: after every call no waiting request could start, because a replica is either full, tried by it
//! or not trusted. So a newcomer who finds a seat overtakes nobody who could have used it.
//! Invariant: the line is in the order in which it is served.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use types::{Failure, ModelVersion, Priority, ReplicaId};

/// All lines of one node. Pure: [`crate::slot::Slots`] carries its decisions out.
pub struct Dispatch {
    waiting_max: usize,
    draining: bool,
    next_ticket: u64,
    lines: BTreeMap<ModelVersion, Line>,
}

/// What one request wants.
#[derive(Debug, Clone)]
pub struct Ask {
    pub version: ModelVersion,
    /// Replicas that failed this request before.
    pub tried: Vec<ReplicaId>,
    /// A guess at the prompt's length, for the load frame.
    pub prompt_tokens: u64,
    pub standing: Standing,
}

/// Where in the line a request stands; the lower goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// A stream that broke, of this class.
    Resume(Reverse<Priority>),
    Newcomer,
}

/// A place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// The answer to an [`Ask`].
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Start(ReplicaId),
    Wait(Ticket),
    Refused(Failure),
}

/// What became of a request that waited.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    Start { ticket: Ticket, replica: ReplicaId },
    Refuse { ticket: Ticket, failure: Failure },
}

/// One replica's seats, for load frames and operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seats {
    pub slots: u32,
    pub running: u32,
    /// False while it drains, and from the moment a connection to it broke until it answers a probe. Without
    /// this, a dead engine has free seats and would swallow the whole line before its exit is noticed.
    pub trusted: bool,
}

/// One version's line, for load frames and operators.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub waiting: u32,
    pub waiting_prompt_tokens: u64,
    pub replicas: BTreeMap<ReplicaId, Seats>,
    /// False from when its places were given up until the last replica is gone.
    pub is_placed: bool,
}

impl Dispatch {
    /// No lines yet; each will hold at most `waiting_max` newcomers, and as many resumed streams.
    pub fn new(waiting_max: usize) -> Self {
        Self { waiting_max, draining: false, next_ticket: 0, lines: BTreeMap::new() }
    }

    /// There are places for these versions and no others. What still serves of another one keeps its line until it
    /// is gone.
    pub fn place(&mut self, versions: &BTreeSet<ModelVersion>) -> Vec<Order> {
        for version in versions {
            self.lines.entry(*version).or_default();
        }
        for (version, line) in &mut self.lines {
            line.is_placed = versions.contains(version);
        }
        self.clear()
    }

    pub fn ask(&mut self, ask: Ask) -> Answer {
        if self.draining {
            return Answer::Refused(Failure::Draining);
        }
        let Some(line) = self.lines.get_mut(&ask.version) else {
            return Answer::Refused(Failure::NoReplica);
        };
        match line.seat_for(&ask.tried) {
            Seat::Free(replica) => Answer::Start(replica),
            Seat::None => Answer::Refused(Failure::NoReplica),
            // Counted apart, so that a line full of newcomers turns no broken stream away.
            Seat::Taken if line.alike(ask.standing) >= self.waiting_max => {
                Answer::Refused(Failure::QueueFull)
            }
            Seat::Taken => {
                let ticket = Ticket(self.next_ticket);
                self.next_ticket += 1;
                let Ask { tried, prompt_tokens, standing, .. } = ask;
                line.stand(Waiting { ticket, tried, prompt_tokens, standing });
                Answer::Wait(ticket)
            }
        }
    }

    /// A replica is well: it became ready, or it answered a probe after a broken connection.
    pub fn serving(&mut self, version: ModelVersion, replica: &ReplicaId, slots: u32) -> Vec<Order> {
        let Some(line) = self.lines.get_mut(&version) else { return Vec::new() };
        match line.replicas.get_mut(replica) {
            Some(seats) if seats.trusted => return Vec::new(),
            Some(seats) => seats.trusted = true,
            None => {
                line.replicas.insert(replica.clone(), Seats { slots, running: 0, trusted: true });
            }
        }
        line.settle()
    }

    /// A connection to the replica broke, or it drains: it gets nothing unless it is announced again.
    pub fn suspect(&mut self, version: ModelVersion, replica: &ReplicaId) -> Vec<Order> {
        let Some(line) = self.lines.get_mut(&version) else { return Vec::new() };
        let Some(seats) = line.replicas.get_mut(replica) else { return Vec::new() };
        seats.trusted = false;
        line.settle()
    }

    /// A replica serves no more. Its seats go with it; requests still on it end by themselves.
    pub fn gone(&mut self, version: ModelVersion, replica: &ReplicaId) -> Vec<Order> {
        let Some(line) = self.lines.get_mut(&version) else { return Vec::new() };
        line.replicas.remove(replica);
        let mut orders = line.settle();
        orders.extend(self.clear());
        orders
    }

    /// A request has left its seat.
    pub fn free(&mut self, version: ModelVersion, replica: &ReplicaId) -> Vec<Order> {
        let Some(line) = self.lines.get_mut(&version) else { return Vec::new() };
        // A replica that is gone took its seats along, and its id does not come back while this agent lives.
        let Some(seats) = line.replicas.get_mut(replica) else { return Vec::new() };
        seats.running = seats.running.saturating_sub(1);
        line.settle()
    }

    /// A waiting request gave up. One that has started or was refused meanwhile is no longer in line.
    pub fn withdraw(&mut self, version: ModelVersion, ticket: Ticket) {
        if let Some(line) = self.lines.get_mut(&version) {
            line.waiting.retain(|waiting| waiting.ticket != ticket);
        }
    }

    /// Refuses all that wait and all that come. A request that no engine has seen is served sooner elsewhere.
    pub fn drain(&mut self) -> Vec<Order> {
        self.draining = true;
        let refuse = |waiting: Waiting| Order::Refuse { ticket: waiting.ticket, failure: Failure::Draining };
        self.lines.values_mut().flat_map(|line| line.waiting.drain(..)).map(refuse).collect()
    }

    pub fn census(&self) -> BTreeMap<ModelVersion, Census> {
        self.lines.iter().map(|(version, line)| (*version, line.census())).collect()
    }

    pub fn census_of(&self, version: ModelVersion) -> Option<Census> {
        self.lines.get(&version).map(Line::census)
    }

    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Removes the lines of versions that have neither places nor replicas.
    fn clear(&mut self) -> Vec<Order> {
        let is_over = |_: &ModelVersion, line: &mut Line| !line.is_placed && line.replicas.is_empty();
        let over = self.lines.extract_if(.., is_over);
        let refuse = |waiting: Waiting| Order::Refuse { ticket: waiting.ticket, failure: Failure::NoReplica };
        over.flat_map(|(_, line)| line.waiting).map(refuse).collect()
    }
}

#[derive(Default)]
struct Line {
    is_placed: bool,
    replicas: BTreeMap<ReplicaId, Seats>,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    ticket: Ticket,
    tried: Vec<ReplicaId>,
    prompt_tokens: u64,
    standing: Standing,
}

enum Seat {
    Free(ReplicaId),
    /// Some replica would do, but all that would are full.
    Taken,
    /// No replica would do, however long one waits.
    None,
}

impl Line {
    /// How many wait that are newcomers too, or resumed streams too.
    fn alike(&self, standing: Standing) -> usize {
        let is_newcomer = standing == Standing::Newcomer;
        let alike = |waiting: &&Waiting| (waiting.standing == Standing::Newcomer) == is_newcomer;
        self.waiting.iter().filter(alike).count()
    }

    /// Behind all that go first or came first.
    fn stand(&mut self, waiting: Waiting) {
        let at = self.waiting.partition_point(|other| other.standing <= waiting.standing);
        self.waiting.insert(at, waiting);
    }

    /// Takes the seat it finds, on the least occupied replica.
    fn seat_for(&mut self, tried: &[ReplicaId]) -> Seat {
        let would_do =
            |(replica, seats): &(&ReplicaId, &mut Seats)| seats.trusted && !tried.contains(replica);
        let least = self
            .replicas
            .iter_mut()
            .filter(would_do)
            // Compares running/slots without division.
            .min_by(|(_, a), (_, b)| {
                let share = |x: &Seats, y: &Seats| u64::from(x.running) * u64::from(y.slots);
                share(a, b).cmp(&share(b, a))
            });
        match least {
            None => Seat::None,
            Some((_, seats)) if seats.running >= seats.slots => Seat::Taken,
            Some((replica, seats)) => {
                seats.running += 1;
                Seat::Free(replica.clone())
            }
        }
    }

    /// Restores the invariant: starts, in order, whoever can start, and refuses whoever waits for nobody.
    fn settle(&mut self) -> Vec<Order> {
        let mut orders = Vec::new();
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|request| {
            let ticket = request.ticket;
            match self.seat_for(&request.tried) {
                Seat::Taken => return true,
                Seat::Free(replica) => orders.push(Order::Start { ticket, replica }),
                Seat::None => orders.push(Order::Refuse { ticket, failure: Failure::NoReplica }),
            }
            false
        });
        self.waiting = waiting;
        orders
    }

    fn census(&self) -> Census {
        Census {
            waiting: u32::try_from(self.waiting.len()).unwrap_or(u32::MAX),
            waiting_prompt_tokens: self.waiting.iter().map(|waiting| waiting.prompt_tokens).sum(),
            replicas: self.replicas.clone(),
            is_placed: self.is_placed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLOTS: u32 = 2;
    const WAITING_MAX: usize = 3;

    fn version() -> ModelVersion {
        ModelVersion::from_digest([1; 32])
    }

    fn replica(number: u16) -> ReplicaId {
        format!("us-east/n1/{number}-0").parse().unwrap()
    }

    fn placed() -> Dispatch {
        let mut dispatch = Dispatch::new(WAITING_MAX);
        assert_eq!(dispatch.place(&BTreeSet::from([version()])), []);
        dispatch
    }

    fn with_replicas(count: u16) -> Dispatch {
        let mut dispatch = placed();
        for number in 0..count {
            assert_eq!(dispatch.serving(version(), &replica(number), SLOTS), []);
        }
        dispatch
    }

    fn ask(tried: &[u16]) -> Ask {
        let tried = tried.iter().map(|number| replica(*number)).collect();
        Ask { version: version(), tried, prompt_tokens: 5, standing: Standing::Newcomer }
    }

    fn resume(class: Priority) -> Ask {
        Ask { standing: Standing::Resume(Reverse(class)), ..ask(&[]) }
    }

    fn fill(dispatch: &mut Dispatch, seats: u32) {
        for _ in 0..seats {
            assert!(matches!(dispatch.ask(ask(&[])), Answer::Start(_)));
        }
    }

    fn wait(dispatch: &mut Dispatch, tried: &[u16]) -> Ticket {
        match dispatch.ask(ask(tried)) {
            Answer::Wait(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_spread_over_replicas() {
        let mut dispatch = with_replicas(2);
        assert_eq!(dispatch.ask(ask(&[])), Answer::Start(replica(0)));
        assert_eq!(dispatch.ask(ask(&[])), Answer::Start(replica(1)));
        assert_eq!(dispatch.ask(ask(&[1])), Answer::Start(replica(0)));
    }

    #[test]
    fn nobody_waits_for_a_replica_that_is_not_there() {
        assert_eq!(with_replicas(0).ask(ask(&[])), Answer::Refused(Failure::NoReplica));
        assert_eq!(with_replicas(2).ask(ask(&[0, 1])), Answer::Refused(Failure::NoReplica));
        let strange = Ask { version: ModelVersion::from_digest([9; 32]), ..ask(&[]) };
        assert_eq!(with_replicas(1).ask(strange), Answer::Refused(Failure::NoReplica));
    }

    #[test]
    fn broken_streams_go_first_by_class_and_count_apart() {
        let mut dispatch = with_replicas(1);
        fill(&mut dispatch, SLOTS);
        let newcomers: Vec<_> = (0..WAITING_MAX).map(|_| wait(&mut dispatch, &[])).collect();
        assert_eq!(dispatch.ask(ask(&[])), Answer::Refused(Failure::QueueFull));
        let mut waits = |class| match dispatch.ask(resume(class)) {
            Answer::Wait(ticket) => ticket,
            other => panic!("{other:?}"),
        };
        let [batch, standard, interactive] =
            [Priority::Batch, Priority::Standard, Priority::Interactive].map(&mut waits);
        assert_eq!(dispatch.ask(resume(Priority::Interactive)), Answer::Refused(Failure::QueueFull));
        dispatch.withdraw(version(), standard);
        let Answer::Wait(later) = dispatch.ask(resume(Priority::Interactive)) else { panic!() };
        for ticket in [vec![interactive, later, batch], newcomers].concat() {
            let start = Order::Start { ticket, replica: replica(0) };
            assert_eq!(dispatch.free(version(), &replica(0)), [start]);
        }
    }

    #[test]
    fn the_line_is_first_come_first_served_and_bounded() {
        let mut dispatch = with_replicas(1);
        fill(&mut dispatch, SLOTS);
        let tickets: Vec<_> = (0..WAITING_MAX).map(|_| wait(&mut dispatch, &[])).collect();
        assert_eq!(dispatch.ask(ask(&[])), Answer::Refused(Failure::QueueFull));
        for ticket in tickets {
            let start = Order::Start { ticket, replica: replica(0) };
            assert_eq!(dispatch.free(version(), &replica(0)), [start]);
        }
    }

    #[test]
    fn one_who_has_tried_the_free_replica_is_overtaken() {
        let mut dispatch = with_replicas(2);
        fill(&mut dispatch, 2 * SLOTS);
        let picky = wait(&mut dispatch, &[0]);
        let second = wait(&mut dispatch, &[]);
        let start = Order::Start { ticket: second, replica: replica(0) };
        assert_eq!(dispatch.free(version(), &replica(0)), [start]);
        let start = Order::Start { ticket: picky, replica: replica(1) };
        assert_eq!(dispatch.free(version(), &replica(1)), [start]);
    }

    #[test]
    fn those_whose_last_replica_is_gone_are_refused_at_once() {
        let mut dispatch = with_replicas(2);
        fill(&mut dispatch, 2 * SLOTS);
        let picky = wait(&mut dispatch, &[0]);
        let other = wait(&mut dispatch, &[]);
        let refuse = |ticket| Order::Refuse { ticket, failure: Failure::NoReplica };
        assert_eq!(dispatch.gone(version(), &replica(1)), [refuse(picky)]);
        assert_eq!(dispatch.gone(version(), &replica(0)), [refuse(other)]);
    }

    #[test]
    fn a_suspected_replica_swallows_no_line() {
        let mut dispatch = with_replicas(2);
        fill(&mut dispatch, 2 * SLOTS);
        let waiting = wait(&mut dispatch, &[]);
        assert_eq!(dispatch.suspect(version(), &replica(0)), []);
        assert_eq!(dispatch.free(version(), &replica(0)), []);
        // It was a single broken connection: the probe is answered, and the seats it had are as they were.
        let start = Order::Start { ticket: waiting, replica: replica(0) };
        assert_eq!(dispatch.serving(version(), &replica(0), SLOTS), [start]);
        assert_eq!(dispatch.census()[&version()].replicas[&replica(0)].running, SLOTS);
    }

    #[test]
    fn a_drain_refuses_those_who_wait_and_those_who_come() {
        let mut dispatch = with_replicas(1);
        fill(&mut dispatch, SLOTS);
        let ticket = wait(&mut dispatch, &[]);
        assert_eq!(dispatch.drain(), [Order::Refuse { ticket, failure: Failure::Draining }]);
        assert_eq!(dispatch.ask(ask(&[])), Answer::Refused(Failure::Draining));
    }

    #[test]
    fn one_who_gave_up_is_not_started() {
        let mut dispatch = with_replicas(1);
        fill(&mut dispatch, SLOTS);
        let ticket = wait(&mut dispatch, &[]);
        assert_eq!(dispatch.census()[&version()].waiting_prompt_tokens, 5);
        dispatch.withdraw(version(), ticket);
        assert_eq!(dispatch.free(version(), &replica(0)), []);
        assert_eq!(dispatch.census()[&version()].waiting, 0);
    }

    #[test]
    fn a_version_without_places_goes_with_its_last_replica() {
        let mut dispatch = with_replicas(2);
        fill(&mut dispatch, 2 * SLOTS);
        let waiting = wait(&mut dispatch, &[]);
        assert_eq!(dispatch.place(&BTreeSet::new()), [], "its replicas serve until they are told to drain");
        assert!(!dispatch.census()[&version()].is_placed);
        assert_eq!(dispatch.suspect(version(), &replica(0)), []);
        let refuse = Order::Refuse { ticket: waiting, failure: Failure::NoReplica };
        assert_eq!(dispatch.suspect(version(), &replica(1)), [refuse]);
        assert_eq!(dispatch.gone(version(), &replica(0)), []);
        assert_eq!(
            dispatch.census()[&version()].replicas[&replica(1)].running,
            SLOTS,
            "operators see it finish"
        );
        assert_eq!(dispatch.gone(version(), &replica(1)), []);
        assert!(dispatch.census().is_empty());
        assert_eq!(dispatch.ask(ask(&[])), Answer::Refused(Failure::NoReplica));
        // A late word about a version that is gone brings nothing back.
        assert_eq!(dispatch.serving(version(), &replica(2), SLOTS), []);
        assert_eq!(dispatch.free(version(), &replica(1)), []);
        assert!(dispatch.census().is_empty());
    }

    #[test]
    fn a_version_that_comes_back_in_time_keeps_its_line() {
        let mut dispatch = with_replicas(1);
        fill(&mut dispatch, SLOTS);
        let ticket = wait(&mut dispatch, &[]);
        dispatch.place(&BTreeSet::new());
        dispatch.place(&BTreeSet::from([version()]));
        assert!(dispatch.census()[&version()].is_placed);
        let start = Order::Start { ticket, replica: replica(0) };
        assert_eq!(dispatch.free(version(), &replica(0)), [start]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask { tried: BTreeSet<u16>, standing: Standing },
        Free { which: prop::sample::Index },
        Serving(u16),
        Suspect(u16),
        Gone(u16),
        Withdraw { which: prop::sample::Index },
    }

    fn standing() -> impl Strategy<Value = Standing> {
        let class = prop::sample::select(vec![Priority::Batch, Priority::Standard, Priority::Interactive]);
        prop_oneof![Just(Standing::Newcomer), class.prop_map(|class| Standing::Resume(Reverse(class)))]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (prop::collection::btree_set(0..3u16, 0..2), standing())
                .prop_map(|(tried, standing)| Step::Ask { tried, standing }),
            3 => any::<prop::sample::Index>().prop_map(|which| Step::Free { which }),
            2 => (0..3u16).prop_map(Step::Serving),
            1 => (0..3u16).prop_map(Step::Suspect),
            1 => (0..3u16).prop_map(Step::Gone),
            1 => any::<prop::sample::Index>().prop_map(|which| Step::Withdraw { which }),
        ]
    }

    proptest! {
        /// A slow, plain account is kept beside the real one: who waits in which order, who runs where.
        #[test]
        fn seats_are_never_oversold_and_nobody_is_lost_or_overtaken(steps in prop::collection::vec(step(), 1..80)) {
            let mut dispatch = placed();
            let mut starts = [0u32; 3];
            let mut serving: BTreeMap<ReplicaId, bool> = BTreeMap::new();
            let mut line: Vec<(Ticket, Vec<ReplicaId>, Standing)> = Vec::new();
            let mut running: Vec<ReplicaId> = Vec::new();
            for step in steps {
                let id = |number: u16, starts: &[u32; 3]| ReplicaId {
                    start: starts[usize::from(number)],
                    ..replica(number)
                };
                let orders = match step {
                    Step::Ask { tried, standing } => {
                        let tried: Vec<_> = tried.into_iter().map(|number| id(number, &starts)).collect();
                        let would_do: Vec<_> =
                            serving.iter().filter(|(id, trusted)| **trusted && !tried.contains(id)).collect();
                        let alike = line.iter().filter(|(.., other)| matches!(other, Standing::Newcomer) == matches!(standing, Standing::Newcomer)).count();
                        match dispatch.ask(Ask { version: version(), tried: tried.clone(), prompt_tokens: 1, standing }) {
                            Answer::Start(replica) => {
                                prop_assert!(would_do.iter().any(|(id, _)| **id == replica));
                                running.push(replica);
                            }
                            Answer::Wait(ticket) => {
                                prop_assert!(!would_do.is_empty() && alike < WAITING_MAX);
                                line.push((ticket, tried, standing));
                                // A stable sort: whoever came first stays in front of the like.
                                line.sort_by_key(|(.., standing)| *standing);
                            }
                            Answer::Refused(Failure::NoReplica) => prop_assert!(would_do.is_empty()),
                            Answer::Refused(Failure::QueueFull) => prop_assert_eq!(alike, WAITING_MAX),
                            Answer::Refused(other) => prop_assert!(false, "{}", other),
                        }
                        vec![]
                    }
                    Step::Free { which } if !running.is_empty() => {
                        let replica = running.swap_remove(which.index(running.len()));
                        dispatch.free(version(), &replica)
                    }
                    Step::Serving(number) => {
                        serving.insert(id(number, &starts), true);
                        dispatch.serving(version(), &id(number, &starts), SLOTS)
                    }
                    Step::Suspect(number) => {
                        if let Some(trusted) = serving.get_mut(&id(number, &starts)) {
                            *trusted = false;
                        }
                        dispatch.suspect(version(), &id(number, &starts))
                    }
                    Step::Gone(number) => {
                        let gone = id(number, &starts);
                        serving.remove(&gone);
                        starts[usize::from(number)] += 1;
                        dispatch.gone(version(), &gone)
                    }
                    Step::Withdraw { which } if !line.is_empty() => {
                        let (ticket, ..) = line.remove(which.index(line.len()));
                        dispatch.withdraw(version(), ticket);
                        vec![]
                    }
                    Step::Free { .. } | Step::Withdraw { .. } => vec![],
                };
                for order in orders {
                    match order {
                        Order::Start { ticket, replica } => {
                            let at = line.iter().position(|(waiting, ..)| *waiting == ticket);
                            prop_assert!(at.is_some(), "started twice or never asked");
                            let at = at.unwrap();
                            // Whoever is passed over must have tried this replica.
                            prop_assert!(line[..at].iter().all(|(_, tried, _)| tried.contains(&replica)));
                            prop_assert!(!line[at].1.contains(&replica));
                            prop_assert_eq!(serving.get(&replica), Some(&true));
                            line.remove(at);
                            running.push(replica);
                        }
                        Order::Refuse { ticket, failure } => {
                            prop_assert_eq!(failure, Failure::NoReplica);
                            let at = line.iter().position(|(waiting, ..)| *waiting == ticket).unwrap();
                            let (_, tried, _) = line.remove(at);
                            prop_assert!(serving.iter().all(|(id, trusted)| !trusted || tried.contains(id)));
                        }
                    }
                }
                let census = &dispatch.census()[&version()];
                prop_assert_eq!(census.waiting as usize, line.len());
                for (id, seats) in &census.replicas {
                    prop_assert!(seats.running <= SLOTS, "oversold");
                    let counted = running.iter().filter(|running| *running == id).count();
                    prop_assert_eq!(seats.running as usize, counted);
                    // No free seat beside someone who could use it.
                    if seats.trusted && seats.running < SLOTS {
                        prop_assert!(line.iter().all(|(_, tried, _)| tried.contains(id)));
                    }
                }
            }
        }
    }
}
