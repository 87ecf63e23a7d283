//! Sends a request to one node after the other until one has delivered a first event.
//!
//! Only the edge retries. Nothing of a node's answer reaches the client until then, so a node that says "200" and
//! dies costs the client nothing but time.

pub(crate) mod opaque;

use crate::Edge;
use crate::answer::Stop;
use crate::keep_alive::KeepAlive;
use crate::network::client::Client;
use crate::network::upstream::{Upstream, UpstreamError};
use crate::plain_stream::{Counted, Head, retry_after};
use crate::refusal::Refusal;
use crate::stream::{Form, Progress, Stream, StreamError};
use bytes::Bytes;
use openai::{Assembler, Endpoint};
use policy::{Ask, Held, Node, Outcome, Purpose, route};
use std::time::{Duration, Instant};
use types::intent::NodeKind;
use types::{Failure, LoadFrame, ModelVersion, NodeKey, Priority, RegionName, ReplicaId, StreamPosition, header};

/// A request that was let in.
pub(crate) struct Asked {
    pub(crate) endpoint: Endpoint,
    pub(crate) body: Bytes,
    pub(crate) version: ModelVersion,
    pub(crate) regions: Option<Vec<RegionName>>,
    pub(crate) priority: Priority,
    /// Whether the client wants a stream; inside it always is one.
    pub(crate) stream: bool,
    /// The internal headers that are the same for all attempts.
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// All attempts of one request.
pub(crate) struct Attempts<'a> {
    edge: &'a Edge,
    asked: &'a Asked,
    /// Until then some attempt must have brought a first event.
    deadline: Instant,
    nodes: Vec<NodeKey>,
    /// How many attempts a node had a hand in.
    worked_on: u32,
    replicas: Vec<ReplicaId>,
    last: Option<NodeFailed>,
}

/// An answer that has begun.
pub(crate) struct Answering<'a> {
    pub(crate) turn: Turn<'a>,
    pub(crate) stream: Stream,
    pub(crate) replica: Option<ReplicaId>,
}

/// Why an attempt came to nothing.
#[derive(Debug)]
pub(crate) struct NodeFailed {
    pub(crate) reason: String,
    /// Whether the node had a hand in it: one that is dead or silent has done nothing for the request.
    worked_on: bool,
    replica: Option<ReplicaId>,
    outcome: Outcome,
    retry_after: Option<Duration>,
}

/// One attempt's end without an answer.
enum Failed {
    Node(NodeFailed),
    /// The engine refused the request itself; no other engine will think better of it.
    Request {
        status: u16,
        body: Vec<u8>,
    },
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(edge: &'a Edge, asked: &'a Asked) -> Self {
        let deadline = Instant::now() + FIRST_TOKEN_MAX;
        Self { edge, asked, deadline, nodes: Vec::new(), worked_on: 0, replicas: Vec::new(), last: None }
    }

    pub(crate) fn count(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// The node of the current attempt.
    pub(crate) fn node(&self) -> Option<&NodeKey> {
        self.nodes.last()
    }

    /// The next answer that begins.
    pub(crate) async fn next(
        &mut self,
        client: &mut Client,
        keep_alive: &mut KeepAlive,
    ) -> Result<Answering<'a>, Stop> {
        loop {
            let mut turn = self.choose()?;
            self.nodes.push(turn.node.clone());
            match keep_alive.during(client, self.open(&turn)).await? {
                Ok((stream, replica)) => {
                    turn.begun();
                    return Ok(Answering { turn, stream, replica });
                }
                Err(Failed::Request { status, body }) => {
                    turn.end(Outcome::Served);
                    return Err(Stop::Engine { status, body: body.into() });
                }
                Err(Failed::Node(failed)) => self.failed(turn, failed)?,
            }
        }
    }

    /// Notes a failure that cost the client nothing. `Err` = no attempt is left.
    pub(crate) fn failed(&mut self, turn: Turn<'_>, failed: NodeFailed) -> Result<(), Stop> {
        tracing::debug!(node = %turn.node, reason = %failed.reason, "attempt failed");
        turn.end(failed.outcome);
        self.replicas.extend(failed.replica.clone());
        self.worked_on += u32::from(failed.worked_on);
        self.last = Some(failed);
        let in_time = Instant::now() + ATTEMPT_WORTH < self.deadline;
        let may_go_on = self.worked_on < ATTEMPTS_MAX && self.count() < ATTEMPTS_WITH_DEAD_NODES_MAX;
        if may_go_on && in_time { Ok(()) } else { Err(self.exhausted().into()) }
    }

    fn exhausted(&self) -> Refusal {
        let last = self.last.as_ref();
        Refusal::AttemptsFailed {
            attempts: self.count(),
            retry_after: last.and_then(|failed| failed.retry_after),
        }
    }

    /// The best node for the next attempt.
    fn choose(&self) -> Result<Turn<'a>, Refusal> {
        let edge = self.edge;
        let table = edge.routing_table()?;
        let now = edge.clock.now();
        let mut health = edge.health();
        let choice =
            route(&table, &mut health, &edge.region, self.ask(), now, dice()).map_err(|refused| {
                // What happened to this request says more than what the table looks like after it.
                if self.last.is_some() { self.exhausted() } else { Refusal::NoRoute(refused) }
            })?;
        let held = Some(health.begin(&choice.node, choice.cost, now));
        let node = choice.node;
        let entry = table.nodes.get(&node).expect("the choice was made of this table").clone();
        Ok(Turn { edge, node, entry, version: self.asked.version, sent: Instant::now(), held })
    }

    fn ask(&self) -> Ask<'_> {
        Ask {
            version: self.asked.version,
            regions: self.asked.regions.as_deref(),
            priority: self.asked.priority,
            prompt_tokens: self.asked.body.len() as u64 / BYTES_PER_TOKEN,
            prefix: &[],
            tried: &self.nodes,
            purpose: if self.nodes.is_empty() { Purpose::First } else { Purpose::Retry },
        }
    }

    /// Waits until a turn's node is down and another one would take the request.
    pub(crate) async fn until_lost(&self, turn: &Turn<'_>) {
        let edge = self.edge;
        let is_elsewhere = || {
            let Ok(table) = edge.routing_table() else { return false };
            let now = edge.clock.now();
            let other = route(&table, &mut edge.health(), &edge.region, self.ask(), now, dice());
            other.is_ok_and(|other| other.node != turn.node && !other.reason.is_doubtful())
        };
        edge.until_lost(&turn.node, is_elsewhere).await;
    }

    /// One attempt, up to its first event.
    async fn open(&self, turn: &Turn<'_>) -> Result<(Stream, Option<ReplicaId>), Failed> {
        let outcome = tokio::select! {
            biased;
            opened = self.send(turn) => opened,
            () = self.until_lost(turn) => Err(Failed::Node(NodeFailed::silent(None))),
        };
        let label = match &outcome {
            Ok(_) => "answered",
            Err(Failed::Request { .. }) => "refused",
            Err(Failed::Node(failed)) if failed.outcome == Outcome::Unknown && failed.worked_on => "no-room",
            Err(Failed::Node(_)) => "failed",
        };
        self.edge.metrics.attempts.with_label_values(&[label]).inc();
        outcome
    }

    async fn send(&self, turn: &Turn<'_>) -> Result<(Stream, Option<ReplicaId>), Failed> {
        let attempt = self.count().to_string();
        let left = self.deadline.saturating_duration_since(Instant::now());
        // The node is told a little less, so that its own word comes before our patience ends.
        let deadline_ms = left.saturating_sub(ATTEMPT_WORTH / 2).as_millis().to_string();
        let tried = self.replicas.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let mut headers: Vec<(&'static str, &str)> =
            self.asked.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.push((header::ATTEMPT, &attempt));
        headers.push((header::DEADLINE_MS, &deadline_ms));
        if !tried.is_empty() {
            headers.push((header::TRIED, &tried));
        }
        let path = self.asked.endpoint.path();
        let body = self.asked.body.clone();
        let sent = self.edge.upstreams.send(&turn.entry, "POST", path, &headers, body, left).await?;
        self.edge.hear_load(&turn.node, self.asked.version, load_of(&sent));
        let (sent, progress) = match &turn.entry.kind {
            NodeKind::Agent(_) => self.judge(turn, sent).await?,
            NodeKind::OpenAi(_) => (judge_plain(sent).await?, self.counted()),
        };
        let form = match (self.asked.stream, &progress) {
            (true, _) => Form::Events(Vec::new()),
            (false, Progress::Proven { .. }) => Form::Whole(Assembler::new(self.asked.endpoint)),
            // Nobody but an agent reads the header that asks for a stream, and no body is edited.
            (false, Progress::Counted(_)) => Form::Json(Vec::new()),
        };
        let replica = sent.header(header::REPLICA).and_then(|replica| replica.parse().ok());
        let mut stream = Stream::new(sent, progress, form);
        let left = self.deadline.saturating_duration_since(Instant::now());
        match stream.advance(left).await {
            Ok(()) => Ok((stream, replica)),
            Err(error) => Err(Failed::Node(NodeFailed::broken(&error, replica))),
        }
    }

    fn counted(&self) -> Progress {
        Progress::Counted(Counted::new(self.asked.body.len()))
    }

    /// Reads the head: a stream of the internal protocol, the engine's refusal, or the node's failure.
    async fn judge(&self, turn: &Turn<'_>, mut sent: Upstream) -> Result<(Upstream, Progress), Failed> {
        let status = sent.status();
        let replica = sent.header(header::REPLICA).and_then(|replica| replica.parse().ok());
        if let Some(said) = sent.header(header::FAILURE) {
            // An unknown word is a newer agent's; take it for a fault of the node.
            let failure: Option<Failure> = said.parse().ok();
            // With replicas excluded, "none" may only mean "no other".
            if failure == Some(Failure::NoReplica) && self.replicas.is_empty() {
                let now = self.edge.clock.now();
                self.edge.health().version_missing(&turn.node, self.asked.version, now);
            }
            let blameless = failure.is_some_and(|failure| !failure.is_fault());
            let seconds = sent.header("retry-after").and_then(|seconds| seconds.parse().ok());
            return Err(Failed::Node(NodeFailed {
                reason: format!("{} said {}", turn.node.region, said.chars().take(32).collect::<String>()),
                worked_on: true,
                replica,
                outcome: if blameless { Outcome::Unknown } else { Outcome::Failed },
                retry_after: seconds.map(Duration::from_secs),
            }));
        }
        if (400..500).contains(&status) {
            return Err(refusal(status, &mut sent).await?);
        }
        let hash = sent.header(header::PREFIX_HASH).and_then(|hash| hash.parse().ok());
        let prompt_tokens = sent.header(header::PROMPT_TOKENS).and_then(|tokens| tokens.parse().ok());
        let prompt_tokens = prompt_tokens.filter(|tokens| *tokens <= PROMPT_TOKENS_MAX);
        match (status, hash, prompt_tokens) {
            (200, Some(hash), Some(prompt_tokens)) => {
                Ok((sent, Progress::Proven { position: StreamPosition::start(hash), prompt_tokens }))
            }
            _ => Err(Failed::Node(NodeFailed {
                reason: format!("{} answered {status} without the internal headers", turn.node.region),
                worked_on: true,
                replica,
                outcome: Outcome::Failed,
                retry_after: None,
            })),
        }
    }
}

/// Reads the head of a server without an agent.
async fn judge_plain(mut sent: Upstream) -> Result<Upstream, Failed> {
    let status = sent.status();
    match Head::of(status) {
        Head::Answer => Ok(sent),
        Head::Refusal => Err(refusal(status, &mut sent).await?),
        Head::NoRoom => Err(Failed::Node(NodeFailed {
            reason: format!("the server answered {status}"),
            worked_on: true,
            replica: None,
            outcome: Outcome::Unknown,
            retry_after: retry_after(sent.header("retry-after"), sent.header("retry-after-ms")),
        })),
        Head::Fault => Err(Failed::node(&format!("the server answered {status}"), true)),
    }
}

async fn refusal(status: u16, sent: &mut Upstream) -> Result<Failed, Failed> {
    let body = sent.read_all(REFUSAL_BYTES_MAX, REFUSAL_DEADLINE).await?;
    let body = body.ok_or_else(|| Failed::node("the refusal is too long to pass on", true))?;
    Ok(Failed::Request { status, body })
}

impl NodeFailed {
    /// A stream that broke after its head.
    pub(crate) fn broken(error: &StreamError, replica: Option<ReplicaId>) -> Self {
        let reason = error.to_string();
        Self { reason, worked_on: true, replica, outcome: Outcome::Failed, retry_after: None }
    }

    /// A node that answers no probe any more. It has worked on the request if a replica began to answer.
    pub(crate) fn silent(begun: Option<ReplicaId>) -> Self {
        let reason = "the node stopped answering probes".to_owned();
        let worked_on = begun.is_some();
        // Probes keep requests away from it for as long as it is silent, and a breaker would for longer.
        Self { reason, worked_on, replica: begun, outcome: Outcome::Unknown, retry_after: None }
    }
}

impl Failed {
    fn node(reason: &str, worked_on: bool) -> Self {
        let reason = reason.to_owned();
        let outcome = Outcome::Failed;
        Self::Node(NodeFailed { reason, worked_on, replica: None, outcome, retry_after: None })
    }
}

impl From<UpstreamError> for Failed {
    fn from(error: UpstreamError) -> Self {
        Self::node(&error.to_string(), error.reached_the_node())
    }
}

fn load_of(upstream: &Upstream) -> Option<LoadFrame> {
    upstream.header(header::LOAD)?.parse().ok()
}

/// One request's turn at a node; whatever way it ends, it is given back.
pub(crate) struct Turn<'a> {
    edge: &'a Edge,
    pub(crate) node: NodeKey,
    /// As it was when it was chosen; the table may have lost it since.
    entry: Node,
    version: ModelVersion,
    sent: Instant,
    held: Option<Held>,
}

impl Turn<'_> {
    /// The node has delivered a first event.
    fn begun(&mut self) {
        if let Some(held) = &mut self.held {
            let now = self.edge.clock.now();
            self.edge.health().answer_begun(&self.node, held, self.sent.elapsed(), now);
        }
    }

    /// The answer has come to its end: hears what the node said last of its load, and keeps the connection.
    pub(crate) async fn served(mut self, upstream: Upstream, load: Option<LoadFrame>) {
        self.give_back(Outcome::Served);
        self.edge.hear_load(&self.node, self.version, load);
        self.edge.upstreams.release(upstream).await;
    }

    pub(crate) fn end(mut self, outcome: Outcome) {
        self.give_back(outcome);
    }

    fn give_back(&mut self, outcome: Outcome) {
        if let Some(held) = self.held.take() {
            let now = self.edge.clock.now();
            self.edge.health().end(&self.node, held, outcome, now);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.give_back(Outcome::Unknown);
    }
}

/// Draws that nobody can foresee, so that edges do not all choose alike.
fn dice() -> u64 {
    getrandom::u64().expect("the operating system has random bytes")
}

/// Of English; a guess that only routing relies on.
const BYTES_PER_TOKEN: u64 = 4;
/// More would only multiply an outage's load.
const ATTEMPTS_MAX: u32 = 3;
/// Nodes that are dead or silent get none of that load. So many lead out of two regions that died at once, before
/// any probe has found them out.
const ATTEMPTS_WITH_DEAD_NODES_MAX: u32 = 6;
/// For all attempts together; queueing and prefill of the longest prompt included.
const FIRST_TOKEN_MAX: Duration = Duration::from_secs(60);
/// With less left than this another attempt could only fail too.
const ATTEMPT_WORTH: Duration = Duration::from_secs(1);
/// Beyond any context; more is a lie that would spoil every sum.
const PROMPT_TOKENS_MAX: u64 = 1_000_000_000;
/// An engine's refusal is one error object.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);
