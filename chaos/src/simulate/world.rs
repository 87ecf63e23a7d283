//! The course of events: requests here, [`signals`] and [`faults`] beside it.

mod faults;
mod signals;

use super::arrivals::{self, Arrival};
use super::edge::Edge;
use super::node::{Node, Work};
use super::plan::{Fault, Plan};
use super::tally::{Failure, Tally};
use crate::network::distance::round_trip;
use fastrand::Rng;
use policy::{Ask, Held, NoRoute, Outcome, Purpose, Region, RoutingTable, Ticket, Turn, route};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use types::intent::{Agent, NodeKind};
use types::{LoadFrame, ModelVersion, Monotonic, NodeKey, Priority};

pub(super) struct World<'p> {
    plan: &'p Plan,
    rng: Rng,
    now: Duration,
    /// By time, then by the order in which they were foreseen.
    events: BTreeMap<(Duration, u64), Event>,
    foreseen: u64,
    table: RoutingTable,
    edges: Vec<Edge>,
    nodes: Vec<Node>,
    numbers: BTreeMap<NodeKey, usize>,
    /// What each node has in hand, as far as edges still wait for it.
    in_hand: Vec<BTreeSet<usize>>,
    requests: Vec<Request>,
    open: usize,
    attempts: Vec<Attempt>,
    arrivals_over: bool,
    signals_stopped: bool,
    powerless: BTreeSet<usize>,
    /// Edges that hear nothing from a region.
    silent: BTreeSet<(usize, usize)>,
    tally: Tally,
}

struct Request {
    edge: usize,
    class: Priority,
    prompt_tokens: u64,
    output_tokens: u64,
    blocks: Rc<[u64]>,
    prefix: Vec<u64>,
    arrived: Duration,
    has_begun: bool,
    is_over: bool,
    /// Tokens that the client has.
    produced: u64,
    broken_at: Option<Duration>,
    resumes: u32,
    /// Since it arrived, or broke last.
    attempts: u32,
    tried: Vec<NodeKey>,
    attempt: Option<usize>,
    ticket: Option<Ticket>,
}

struct Attempt {
    request: usize,
    node: usize,
    sent: Duration,
    /// `None` once it is over for the edge.
    held: Option<Held>,
    has_begun: bool,
    produced: u64,
}

enum Event {
    Arrives(Arrival),
    /// A request reaches its node.
    Reaches(usize),
    Prefilled {
        node: usize,
        boot: u64,
        attempt: usize,
    },
    Finished {
        node: usize,
        boot: u64,
        attempt: usize,
    },
    /// What an edge hears of an attempt.
    Began {
        attempt: usize,
        frame: LoadFrame,
    },
    Ended {
        attempt: usize,
        frame: LoadFrame,
    },
    Refused {
        attempt: usize,
        frame: LoadFrame,
    },
    Lost {
        attempt: usize,
        after_head: bool,
    },
    /// A broken stream asks whether it is its turn.
    Asks(usize),
    /// The client waited long enough for a first token.
    GivesUp(usize),
    Probes {
        edge: usize,
        node: usize,
    },
    ProbeAnswered {
        edge: usize,
        node: usize,
        frame: LoadFrame,
        rtt: Duration,
    },
    ProbeMissed {
        edge: usize,
        node: usize,
    },
    Reports(usize),
    Reported {
        edge: usize,
        node: usize,
        frame: LoadFrame,
        age: Duration,
    },
    Fault(Fault),
    Second,
}

impl<'p> World<'p> {
    pub(super) fn new(plan: &'p Plan) -> Self {
        let mut table = RoutingTable::default();
        let mut nodes = Vec::new();
        for (region, planned) in plan.regions.iter().enumerate() {
            table.regions.insert(planned.name.clone(), Region { place: planned.place, drained: false });
            for number in 0..planned.nodes {
                let node = format!("n{number}").parse().expect("a node's name");
                let key = NodeKey { region: planned.name.clone(), node };
                let entry = policy::Node {
                    zone: "a".parse().expect("a zone's name"),
                    kind: NodeKind::Agent(Agent {
                        ingress: ([127, 0, 0, 1], 7443).into(),
                        server_name: "node".to_owned(),
                    }),
                    drained: false,
                };
                table.nodes.insert(key.clone(), entry);
                nodes.push(Node::new(key, region, plan.node));
            }
        }
        let edges = plan.regions.iter().map(|region| Edge::new(region.name.clone(), &table)).collect();
        let seconds = plan.lasts.as_secs() as usize + 1;
        let mut world = Self {
            plan,
            rng: Rng::with_seed(plan.seed),
            now: Duration::ZERO,
            events: BTreeMap::new(),
            foreseen: 0,
            table,
            edges,
            in_hand: vec![BTreeSet::new(); nodes.len()],
            numbers: nodes.iter().enumerate().map(|(at, node)| (node.key.clone(), at)).collect(),
            nodes,
            requests: Vec::new(),
            open: 0,
            attempts: Vec::new(),
            arrivals_over: false,
            signals_stopped: false,
            powerless: BTreeSet::new(),
            silent: BTreeSet::new(),
            tally: Tally::new(plan.seed, seconds, plan.regions.len()),
        };
        world.foresee_the_regular();
        world
    }

    fn foresee_the_regular(&mut self) {
        for node in 0..self.nodes.len() {
            for edge in 0..self.edges.len() {
                let first = Duration::from_millis(self.rng.u64(0..1000));
                self.after(first, Event::Probes { edge, node });
            }
            let first = Duration::from_millis(self.rng.u64(0..1000));
            self.after(first, Event::Reports(node));
        }
        for (at, fault) in &self.plan.faults {
            self.after(*at, Event::Fault(*fault));
        }
        self.after(Duration::ZERO, Event::Second);
        self.await_next_arrival();
    }

    pub(super) fn run(mut self) -> Tally {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = at;
            self.happen(event);
        }
        self.tally
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives(arrival) => self.arrives(arrival),
            Event::Reaches(attempt) => self.reaches(attempt),
            Event::Prefilled { node, boot, attempt } => self.prefilled(node, boot, attempt),
            Event::Finished { node, boot, attempt } => self.finished(node, boot, attempt),
            Event::Began { attempt, frame } => self.began(attempt, frame),
            Event::Ended { attempt, frame } => self.ended(attempt, frame),
            Event::Refused { attempt, frame } => self.refused(attempt, frame),
            Event::Lost { attempt, after_head } => self.lost(attempt, after_head),
            Event::Asks(request) => self.asks(request),
            Event::GivesUp(request) => self.gives_up(request),
            Event::Probes { edge, node } => self.probes(edge, node),
            Event::ProbeAnswered { edge, node, frame, rtt } => {
                let key = &self.nodes[node].key;
                let frames = [(version(), frame)];
                self.edges[edge].health.probe_answered(key, &frames, rtt, clock(self.now));
            }
            Event::ProbeMissed { edge, node } => {
                self.edges[edge].health.probe_missed(&self.nodes[node].key, clock(self.now));
            }
            Event::Reports(node) => self.reports(node),
            Event::Reported { edge, node, frame, age } => {
                let key = &self.nodes[node].key;
                let frames = [(version(), frame)];
                self.edges[edge].health.reported(key, &frames, age, clock(self.now));
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Second => self.second(),
        }
    }

    fn after(&mut self, wait: Duration, event: Event) {
        self.foreseen += 1;
        self.events.insert((self.now + wait, self.foreseen), event);
    }

    /// What repeats itself does so until the last request is over.
    fn goes_on(&self) -> bool {
        !self.arrivals_over || self.open > 0
    }

    fn one_way(&self, edge: usize, node: usize) -> Duration {
        let (here, there) = (&self.plan.regions[edge], &self.plan.regions[self.nodes[node].region]);
        if here.name == there.name {
            return Duration::from_micros(250);
        }
        round_trip((&here.name, here.place), (&there.name, there.place)) / 2
    }

    // Requests, as edges see them.

    fn await_next_arrival(&mut self) {
        match arrivals::next(self.plan, self.requests.len(), self.now, &mut self.rng) {
            Some((wait, arrival)) => self.after(wait, Event::Arrives(arrival)),
            None => self.arrivals_over = true,
        }
    }

    fn arrives(&mut self, arrival: Arrival) {
        let Arrival { edge, class, prompt_tokens, output_tokens, blocks } = arrival;
        // An edge cuts blocks of about 256 tokens, and no more than 32 of them.
        let halves = blocks.iter().flat_map(|block| [2 * block, 2 * block + 1]);
        let prefix = if self.plan.settings.affinity { halves.take(32).collect() } else { Vec::new() };
        let request = self.requests.len();
        self.requests.push(Request {
            edge,
            class,
            prompt_tokens,
            output_tokens,
            blocks,
            prefix,
            arrived: self.now,
            has_begun: false,
            is_over: false,
            produced: 0,
            broken_at: None,
            resumes: 0,
            attempts: 0,
            tried: Vec::new(),
            attempt: None,
            ticket: None,
        });
        self.open += 1;
        self.tally.second(self.now).arrived[class as usize] += 1;
        let now = clock(self.now);
        self.edges[edge].fresh_tokens += prompt_tokens;
        self.edges[edge].retries.earned(prompt_tokens, now);
        self.edges[edge].resumes.earned(prompt_tokens, now);
        self.after(PATIENCE, Event::GivesUp(request));
        self.await_next_arrival();
        self.send(request, Purpose::First);
    }

    fn send(&mut self, number: usize, purpose: Purpose) {
        let dice = self.rng.u64(..);
        let request = &mut self.requests[number];
        let edge = &mut self.edges[request.edge];
        let tokens = request.prompt_tokens + request.produced;
        let ask = Ask {
            version: version(),
            regions: None,
            priority: request.class,
            prompt_tokens: tokens,
            prefix: &request.prefix,
            tried: &request.tried,
            purpose,
        };
        let now = clock(self.now);
        let choice = match route(&self.table, &mut edge.health, &edge.here, ask, now, dice) {
            Ok(choice) => choice,
            Err(refusal) => return self.no_route(number, &refusal),
        };
        let held = edge.health.begin(&choice.node, choice.cost, now);
        let node = self.numbers[&choice.node];
        request.attempts += 1;
        request.tried.push(choice.node);
        request.attempt = Some(self.attempts.len());
        let edge = request.edge;
        self.tally.attempts += 1;
        self.tally.retries += u64::from(purpose == Purpose::Retry);
        self.tally.resumes += u64::from(purpose == Purpose::Resume);
        self.tally.second(self.now).sent[self.nodes[node].region] += 1;
        let wait = self.one_way(edge, node);
        self.after(wait, Event::Reaches(self.attempts.len()));
        self.attempts.push(Attempt {
            request: number,
            node,
            sent: self.now,
            held: Some(held),
            has_begun: false,
            produced: 0,
        });
    }

    fn no_route(&mut self, request: usize, refusal: &NoRoute) {
        match refusal {
            NoRoute::NoNodes | NoRoute::Residency | NoRoute::Drained => self.fail(request, "no node"),
            _ if self.requests[request].has_begun => self.fail(request, "no node for the rest"),
            NoRoute::Shed { .. } => self.shed(request),
            _ => self.fail(request, "no node that is well"),
        }
    }

    fn began(&mut self, attempt: usize, frame: LoadFrame) {
        if !self.is_heard(attempt) {
            return;
        }
        self.hear(attempt, frame);
        let Attempt { request, node, sent, .. } = self.attempts[attempt];
        self.attempts[attempt].has_begun = true;
        let request = &mut self.requests[request];
        if let Some(held) = &mut self.attempts[attempt].held {
            let health = &mut self.edges[request.edge].health;
            health.answer_begun(&self.nodes[node].key, held, self.now - sent, clock(self.now));
        }
        if let Some(broken) = request.broken_at.take() {
            self.tally.gap_max = self.tally.gap_max.max(self.now - broken);
        }
        if !request.has_begun {
            request.has_begun = true;
            self.tally.second(self.now).goodput_tokens += request.prompt_tokens;
            self.tally.second(request.arrived).first_tokens.push(self.now - request.arrived);
        }
    }

    fn ended(&mut self, attempt: usize, frame: LoadFrame) {
        if !self.is_heard(attempt) {
            return;
        }
        self.hear(attempt, frame);
        self.close(attempt, Outcome::Served);
        let number = self.attempts[attempt].request;
        self.end(number);
        let Request { arrived, class, .. } = self.requests[number];
        self.tally.second(arrived).served[class as usize] += 1;
    }

    fn refused(&mut self, attempt: usize, frame: LoadFrame) {
        if !self.is_heard(attempt) {
            return;
        }
        self.hear(attempt, frame);
        self.close(attempt, Outcome::Unknown);
        let number = self.attempts[attempt].request;
        let request = &self.requests[number];
        match (request.attempts < self.plan.settings.attempts_max, request.has_begun) {
            (true, false) => self.send(number, Purpose::Retry),
            (true, true) => self.send(number, Purpose::Resume),
            (false, false) => self.shed(number),
            (false, true) => self.fail(number, "no room for the rest"),
        }
    }

    fn lost(&mut self, attempt: usize, after_head: bool) {
        if self.attempts[attempt].held.is_none() {
            return;
        }
        let Attempt { request: number, has_begun, node, produced, .. } = self.attempts[attempt];
        // Of a stream that fell silent, the node still knows; of one that broke, it was noted then.
        let produced = produced.max(self.nodes[node].produced(attempt, self.now));
        let outcome = if self.plan.settings.breakers { Outcome::Failed } else { Outcome::Unknown };
        self.close(attempt, outcome);
        let request = &mut self.requests[number];
        if has_begun {
            request.produced = (request.produced + produced).min(request.output_tokens - 1);
            request.broken_at.get_or_insert(self.now);
        }
        match request.has_begun {
            true if has_begun => self.resume(number),
            true if request.attempts < self.plan.settings.attempts_max => self.send(number, Purpose::Resume),
            true => self.fail(number, "resumed in vain"),
            false => self.retry(number, after_head),
        }
    }

    fn retry(&mut self, number: usize, after_head: bool) {
        let request = &self.requests[number];
        let now = clock(self.now);
        if request.attempts >= self.plan.settings.attempts_max {
            return self.fail(number, "attempts used up");
        }
        if after_head && self.plan.settings.retry_budget {
            let budget = &mut self.edges[request.edge].retries;
            if !budget.may_retry(request.prompt_tokens, now) {
                return self.fail(number, "retry budget used up");
            }
            budget.spent(request.prompt_tokens, now);
        }
        self.send(number, Purpose::Retry);
    }

    fn resume(&mut self, number: usize) {
        let request = &mut self.requests[number];
        let (class, cost, now) = (request.class, request.prompt_tokens + request.produced, clock(self.now));
        let edge = &mut self.edges[request.edge];
        request.attempts = 0;
        request.resumes += 1;
        if !self.plan.settings.resume {
            return self.fail(number, "stream interrupted");
        }
        if request.resumes > RESUMES_MAX {
            return self.fail(number, "broken too often");
        }
        if !edge.resumes.may_resume(class, cost, now) {
            return self.fail(number, "resume budget used up");
        }
        edge.resumes.spent(cost, now);
        if !self.plan.settings.pace {
            return self.send(number, Purpose::Resume);
        }
        match edge.pacer.enqueue(class, cost, now) {
            Ok(ticket) => request.ticket = Some(ticket),
            Err(_) => return self.fail(number, "too many broken streams"),
        }
        self.after(Duration::ZERO, Event::Asks(number));
    }

    fn asks(&mut self, number: usize) {
        let request = &self.requests[number];
        let Some(ticket) = &request.ticket else { return };
        match self.edges[request.edge].pacer.turn(ticket, clock(self.now)) {
            Turn::Now => {
                self.requests[number].ticket = None;
                self.send(number, Purpose::Resume);
            }
            Turn::In(wait) => self.after(wait, Event::Asks(number)),
        }
    }

    fn gives_up(&mut self, number: usize) {
        let request = &self.requests[number];
        if request.has_begun || request.is_over {
            return;
        }
        if let Some(attempt) = request.attempt {
            self.close(attempt, Outcome::Unknown);
        }
        self.fail(number, "no first token in time");
    }

    fn fail(&mut self, number: usize, why: &'static str) {
        self.end(number);
        let Request { arrived, class, .. } = self.requests[number];
        self.tally.second(arrived).failed[class as usize] += 1;
        self.tally.failures.push(Failure { at: self.now, class, why });
    }

    fn shed(&mut self, number: usize) {
        self.end(number);
        let Request { arrived, class, .. } = self.requests[number];
        self.tally.second(arrived).shed[class as usize] += 1;
    }

    fn end(&mut self, number: usize) {
        self.requests[number].is_over = true;
        self.open -= 1;
    }

    /// The edge is done with an attempt; what the node still has of it is not wanted any more.
    fn close(&mut self, attempt: usize, outcome: Outcome) {
        let Attempt { request, node, .. } = self.attempts[attempt];
        let Some(held) = self.attempts[attempt].held.take() else { return };
        let edge = &mut self.edges[self.requests[request].edge];
        edge.health.end(&self.nodes[node].key, held, outcome, clock(self.now));
        self.in_hand[node].remove(&attempt);
        self.nodes[node].cancel(attempt);
        self.begin_next(node);
    }

    fn hear(&mut self, attempt: usize, frame: LoadFrame) {
        if self.signals_stopped {
            return;
        }
        let Attempt { request, node, .. } = self.attempts[attempt];
        let health = &mut self.edges[self.requests[request].edge].health;
        health.load_heard(&self.nodes[node].key, version(), frame, clock(self.now));
    }

    fn is_heard(&self, attempt: usize) -> bool {
        let Attempt { request, node, ref held, .. } = self.attempts[attempt];
        held.is_some() && !self.silent.contains(&(self.requests[request].edge, self.nodes[node].region))
    }

    // Requests, as nodes see them.

    fn reaches(&mut self, attempt: usize) {
        let Attempt { request: number, node, ref held, .. } = self.attempts[attempt];
        if held.is_none() {
            return;
        }
        let edge = self.requests[number].edge;
        let way = self.one_way(edge, node);
        let region = self.nodes[node].region;
        if self.powerless.contains(&region) {
            return self.after(CONNECT_TIMEOUT, Event::Lost { attempt, after_head: false });
        }
        if !self.nodes[node].alive {
            return self.after(way, Event::Lost { attempt, after_head: false });
        }
        if self.silent.contains(&(edge, region)) {
            self.after(SILENCE_SEEN, Event::Lost { attempt, after_head: false });
        }
        if self.nodes[node].sick {
            return self.after(way, Event::Lost { attempt, after_head: true });
        }
        self.in_hand[node].insert(attempt);
        let request = &self.requests[number];
        let work = Work {
            attempt,
            class: request.class,
            is_resume: request.has_begun,
            prefill_tokens: request.prompt_tokens + request.produced,
            output_tokens: request.output_tokens - request.produced,
            blocks: request.blocks.clone(),
        };
        if let Some(refused) = self.nodes[node].accept(work) {
            let frame = self.nodes[node].frame();
            let edge = self.requests[self.attempts[refused].request].edge;
            let way = self.one_way(edge, node);
            self.after(way, Event::Refused { attempt: refused, frame });
        }
        self.begin_next(node);
    }

    fn begin_next(&mut self, node: usize) {
        let Some(prefill) = self.nodes[node].prefill() else { return };
        self.tally.blocks += prefill.blocks as u64;
        self.tally.blocks_hit += prefill.blocks_hit as u64;
        let boot = self.nodes[node].boot;
        self.after(prefill.takes, Event::Prefilled { node, boot, attempt: prefill.attempt });
    }

    fn prefilled(&mut self, node: usize, boot: u64, attempt: usize) {
        if self.nodes[node].boot != boot {
            return;
        }
        if let Some(takes) = self.nodes[node].prefilled(attempt, self.now) {
            if self.attempts[attempt].held.is_none() {
                self.nodes[node].cancel(attempt);
            } else {
                self.after(takes, Event::Finished { node, boot, attempt });
                let way = self.one_way(self.requests[self.attempts[attempt].request].edge, node);
                let frame = self.nodes[node].frame();
                self.after(way, Event::Began { attempt, frame });
            }
        }
        self.begin_next(node);
    }

    fn finished(&mut self, node: usize, boot: u64, attempt: usize) {
        if self.nodes[node].boot != boot || !self.nodes[node].finished(attempt) {
            return;
        }
        let way = self.one_way(self.requests[self.attempts[attempt].request].edge, node);
        let frame = self.nodes[node].frame();
        self.after(way, Event::Ended { attempt, frame });
        self.begin_next(node);
    }
}

fn clock(now: Duration) -> Monotonic {
    Monotonic::default() + now
}

fn version() -> ModelVersion {
    ModelVersion::from_digest([7; 32])
}

/// Of a client, for its first token.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of an edge, for a stream or a connection that says nothing.
const SILENCE_SEEN: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A stream that broke so often is the cause, not the victim.
const RESUMES_MAX: u32 = 5;
