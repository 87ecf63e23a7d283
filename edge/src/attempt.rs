//! One attempt: a request sent to one node, up to its first event.

pub(crate) mod opaque;

use crate::Edge;
use crate::decision_log::{Decision, What};
use crate::network::upstream::{Upstream, UpstreamError};
use crate::plain_stream::{self, Counted};
use crate::progress::Exactness;
use crate::stream::{Kind, Stream, StreamError};
use bytes::Bytes;
use openai::Endpoint;
use policy::{Choice, Held, Node, Outcome, Purpose, Waits};
use std::time::{Duration, Instant};
use types::intent::{NodeKind, Resume};
use types::{
    Failure, LoadFrame, ModelVersion, NodeKey, PrefixHash, Priority, RegionName, ReplicaId, StreamPosition,
    header,
};

/// A request that was let in.
pub(crate) struct Asked {
    pub(crate) endpoint: Endpoint,
    pub(crate) version: ModelVersion,
    pub(crate) waits: Waits,
    pub(crate) regions: Option<Vec<RegionName>>,
    pub(crate) priority: Priority,
    pub(crate) resume: Resume,
    /// Guessed from the body's length.
    pub(crate) prompt_tokens: u64,
    /// Keys of the prompt's leading blocks.
    pub(crate) prefix: Vec<u64>,
    /// Whether the client wants a stream; inside it always is one.
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    /// How many answers it wants.
    pub(crate) answers: u64,
    /// Minted here, so that every attempt of one request draws the same tokens.
    pub(crate) seed: u64,
    /// The internal headers that are the same for all attempts.
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// One attempt that is about to be made.
pub(crate) struct Attempt<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) decision: &'a Decision,
    pub(crate) turn: Turn<'a>,
    /// To its first event.
    pub(crate) predicted: Duration,
    /// From 1.
    pub(crate) number: u32,
    /// Replicas that failed this request, with commas between.
    pub(crate) tried: String,
    /// Until then it must have brought a first event.
    pub(crate) deadline: Instant,
    pub(crate) path: &'static str,
    pub(crate) body: Bytes,
    /// Where the answer stands that this attempt shall go on with.
    pub(crate) from: Option<StreamPosition>,
}

/// An answer that has begun, or goes on elsewhere.
pub(crate) struct Answering<'a> {
    pub(crate) turn: Turn<'a>,
    /// Holds a first event at least.
    pub(crate) stream: Stream,
    /// Where it began.
    pub(crate) start: StreamPosition,
    pub(crate) prompt_tokens: u64,
    pub(crate) exactness: Exactness,
    /// How long one step took the node when it began.
    pub(crate) step: Option<Duration>,
    pub(crate) replica: Option<ReplicaId>,
}

/// Why an attempt came to nothing.
#[derive(Debug)]
pub(crate) struct NodeFailed {
    pub(crate) reason: String,
    /// How far it came.
    pub(crate) stage: Stage,
    pub(crate) replica: Option<ReplicaId>,
    outcome: Outcome,
    pub(crate) retry_after: Option<Duration>,
}

/// How far an attempt came before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The node is dead or silent, and has done nothing for the request.
    NotReached,
    /// No head of an answer came, or one that only said that there will be none: hardly any work was done.
    NoHead,
    /// The prompt may have been computed.
    Head,
}

/// One attempt's end without an answer.
pub(crate) enum Failed {
    Node(NodeFailed),
    /// The engine refused the request itself; no other engine will think better of it.
    Request {
        status: u16,
        body: Vec<u8>,
    },
}

/// What the head of an answer said.
struct Head {
    start: StreamPosition,
    prompt_tokens: u64,
    exactness: Exactness,
    step: Option<Duration>,
    replica: Option<ReplicaId>,
}

impl<'a> Attempt<'a> {
    /// Makes the attempt. `is_elsewhere` tells whether another node could take the request, should this one fall
    /// silent. Dropped half-way, it leaves the node at once.
    pub(crate) async fn open(self, is_elsewhere: impl Fn() -> bool) -> Result<Answering<'a>, Failed> {
        let edge = self.turn.edge;
        let outcome = tokio::select! {
            biased;
            opened = self.send() => opened,
            () = edge.until_lost(&self.turn.node, is_elsewhere) => Err(Failed::Node(NodeFailed::silent(None))),
        };
        let (turn, (stream, head)) = self.opened(outcome)?;
        let Head { start, prompt_tokens, exactness, step, replica } = head;
        Ok(Answering { turn, stream, start, prompt_tokens, exactness, step, replica })
    }

    /// Notes what came of the attempt, and gives its turn back if that was nothing.
    fn opened<T>(mut self, outcome: Result<T, Failed>) -> Result<(Turn<'a>, T), Failed> {
        let label = match &outcome {
            Ok(_) => "answered",
            Err(Failed::Request { .. }) => "refused",
            Err(Failed::Node(failed)) if failed.is_spill_over() => "no-room",
            Err(Failed::Node(_)) => "failed",
        };
        self.turn.edge.metrics.attempts.with_label_values(&[label]).inc();
        match outcome {
            Ok(opened) => {
                self.decision.add(What::Began { attempt: self.number });
                self.turn.begun();
                Ok((self.turn, opened))
            }
            Err(Failed::Request { status, body }) => {
                self.decision.add(What::Failed { attempt: self.number, why: format!("refused by {status}") });
                self.turn.end(Outcome::Served);
                Err(Failed::Request { status, body })
            }
            Err(Failed::Node(failed)) => {
                tracing::debug!(node = %self.turn.node, reason = %failed.reason, "attempt failed");
                self.decision.add(What::Failed { attempt: self.number, why: failed.reason.clone() });
                self.turn.end(failed.outcome);
                Err(Failed::Node(failed))
            }
        }
    }

    async fn send(&self) -> Result<(Stream, Head), Failed> {
        let (edge, asked) = (self.turn.edge, self.asked);
        let attempt = self.number.to_string();
        let left = self.deadline.saturating_duration_since(Instant::now());
        // The node is told a little less, so that its own word comes before our patience ends.
        let deadline_ms = left.saturating_sub(ATTEMPT_WORTH / 2).as_millis().to_string();
        let mut headers: Vec<(&'static str, &str)> =
            asked.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.push((header::ATTEMPT, &attempt));
        headers.push((header::DEADLINE_MS, &deadline_ms));
        if !self.tried.is_empty() {
            headers.push((header::TRIED, &self.tried));
        }
        let (entry, body) = (&self.turn.entry, self.body.clone());
        let sent = edge.upstreams.send(entry, "POST", self.path, &headers, body, left).await?;
        let (sent, head, kind) = match &self.turn.entry.kind {
            NodeKind::Agent(_) => {
                let (sent, head) = self.judge(sent).await?;
                let kind = Kind::Proven(head.start);
                (sent, head, kind)
            }
            NodeKind::OpenAi(_) => self.judge_plain(sent).await?,
        };
        let mut stream = Stream::new(sent, kind);
        let left = self.deadline.saturating_duration_since(Instant::now());
        let advanced = tokio::time::timeout(left, stream.advance()).await;
        match advanced.unwrap_or(Err(UpstreamError::Stalled(left).into())) {
            Ok(()) => Ok((stream, head)),
            Err(error) => Err(Failed::Node(NodeFailed::broken(&error, head.replica))),
        }
    }

    /// Reads the head: a stream of the internal protocol, the engine's refusal, or the node's failure.
    async fn judge(&self, mut sent: Upstream) -> Result<(Upstream, Head), Failed> {
        let (edge, region) = (self.turn.edge, &self.turn.node.region);
        let (status, load) = (sent.status(), load_of(&sent));
        edge.hear_load(&self.turn.node, self.asked.version, load);
        let replica: Option<ReplicaId> =
            sent.header(header::REPLICA).and_then(|replica| replica.parse().ok());
        let failed = |reason: String, outcome, replica| {
            Failed::Node(NodeFailed { reason, stage: Stage::NoHead, replica, outcome, retry_after: None })
        };
        if let Some(said) = sent.header(header::FAILURE) {
            // An unknown word is a newer agent's; take it for a fault of the node.
            let failure: Option<Failure> = said.parse().ok();
            // With replicas excluded, "none" may only mean "no other".
            if failure == Some(Failure::NoReplica) && self.tried.is_empty() {
                let now = edge.clock.now();
                edge.health().version_missing(&self.turn.node, self.asked.version, now);
            }
            let blameless = failure.is_some_and(|failure| !failure.is_fault());
            let seconds = sent.header("retry-after").and_then(|seconds| seconds.parse().ok());
            return Err(Failed::Node(NodeFailed {
                reason: format!("{region} said {}", said.chars().take(32).collect::<String>()),
                stage: Stage::NoHead,
                replica,
                outcome: if blameless { Outcome::Unknown } else { Outcome::Failed },
                retry_after: seconds.map(Duration::from_secs),
            }));
        }
        if status == 429 {
            // Not the agent's word but that of the engine, or of something before it: no room, and no fault of the
            // client's.
            let wait = (sent.header("retry-after"), sent.header("retry-after-ms"));
            return Err(Failed::Node(NodeFailed {
                reason: format!("{region} has no room, by {status}"),
                stage: Stage::NoHead,
                replica,
                outcome: Outcome::Unknown,
                retry_after: plain_stream::retry_after(wait.0, wait.1),
            }));
        }
        if (400..500).contains(&status) && self.from.is_some() {
            // It took the request before. An older node does not know how to resume, and others may.
            return Err(failed(format!("{region} does not resume, by {status}"), Outcome::Unknown, replica));
        }
        if (400..500).contains(&status) {
            let body = sent.read_all(REFUSAL_BYTES_MAX, REFUSAL_DEADLINE).await?;
            return Err(Failed::Request { status, body: body.ok_or_else(|| Failed::too_long(replica))? });
        }
        let hash = sent.header(header::PREFIX_HASH).and_then(|hash| hash.parse().ok());
        let prompt_tokens = sent.header(header::PROMPT_TOKENS).and_then(|tokens| tokens.parse().ok());
        let prompt_tokens = prompt_tokens.filter(|tokens| *tokens <= PROMPT_TOKENS_MAX);
        let (200, Some(hash), Some(prompt_tokens)) = (status, hash, prompt_tokens) else {
            let reason = format!("{region} answered {status} without the internal headers");
            return Err(failed(reason, Outcome::Failed, replica));
        };
        let (start, exactness) = self.start(hash);
        if exactness == Exactness::Approximate && self.asked.resume == Resume::Exact {
            edge.metrics.resumes.with_label_values(&["refused"]).inc();
            return Err(failed(
                format!("{region} reads the text in other tokens"),
                Outcome::Unknown,
                replica,
            ));
        }
        let step = load.map(|load| Duration::from_micros(load.step_us.into()));
        Ok((sent, Head { start, prompt_tokens, exactness, step, replica }))
    }

    /// Reads the head of a server without an agent.
    async fn judge_plain(&self, mut sent: Upstream) -> Result<(Upstream, Head, Kind), Failed> {
        let status = sent.status();
        let outcome = match plain_stream::Head::of(status) {
            plain_stream::Head::Answer => {
                let counted = Counted::new(self.body.len());
                let prompt_tokens = counted.prompt_tokens();
                let kind = match self.asked.stream {
                    true => Kind::Counted(counted),
                    // Nobody but an agent reads the header that asks for a stream, and no body is edited.
                    false => Kind::Json(counted, Vec::new()),
                };
                let (start, exactness) = (kind.start(), Exactness::Exact);
                let head = Head { start, prompt_tokens, exactness, step: None, replica: None };
                return Ok((sent, head, kind));
            }
            plain_stream::Head::Refusal => {
                let body = sent.read_all(REFUSAL_BYTES_MAX, REFUSAL_DEADLINE).await?;
                return Err(Failed::Request { status, body: body.ok_or_else(|| Failed::too_long(None))? });
            }
            plain_stream::Head::NoRoom | plain_stream::Head::NotHere => Outcome::Unknown,
            plain_stream::Head::Fault => Outcome::Failed,
        };
        let retry_after =
            plain_stream::retry_after(sent.header("retry-after"), sent.header("retry-after-ms"));
        let (reason, stage) = (format!("the server answered {status}"), Stage::NoHead);
        Err(Failed::Node(NodeFailed { reason, stage, replica: None, outcome, retry_after }))
    }

    /// Where the stream begins by the node's own reckoning, and whether that is where it was asked to.
    fn start(&self, hash: PrefixHash) -> (StreamPosition, Exactness) {
        match self.from {
            None => (StreamPosition::start(hash), Exactness::Exact),
            Some(from) if from.hash() == hash => (from, Exactness::Exact),
            Some(from) => (StreamPosition::at(from.position(), hash), Exactness::Approximate),
        }
    }
}

impl NodeFailed {
    /// A stream that broke after its head.
    pub(crate) fn broken(error: &StreamError, replica: Option<ReplicaId>) -> Self {
        let reason = error.to_string();
        Self { reason, stage: Stage::Head, replica, outcome: Outcome::Failed, retry_after: None }
    }

    /// A node that answers no probe any more. It has worked on the request if a replica began to answer.
    pub(crate) fn silent(begun: Option<ReplicaId>) -> Self {
        let reason = "the node stopped answering probes".to_owned();
        let stage = if begun.is_some() { Stage::Head } else { Stage::NotReached };
        // Probes keep requests away from it for as long as it is silent, and a breaker would for longer.
        Self { reason, stage, replica: begun, outcome: Outcome::Unknown, retry_after: None }
    }

    /// The node works as it should, and merely could not take the request.
    fn is_spill_over(&self) -> bool {
        self.outcome == Outcome::Unknown && self.stage == Stage::NoHead
    }
}

impl Failed {
    fn too_long(replica: Option<ReplicaId>) -> Self {
        let (reason, stage) = ("the refusal is too long to pass on".to_owned(), Stage::NoHead);
        Self::Node(NodeFailed { reason, stage, replica, outcome: Outcome::Failed, retry_after: None })
    }
}

impl From<UpstreamError> for Failed {
    fn from(error: UpstreamError) -> Self {
        let stage = if error.reached_the_node() { Stage::NoHead } else { Stage::NotReached };
        let outcome = match error {
            // Said of a model whose clients are impatient, or at the end of a round; the node may be as ever.
            UpstreamError::Stalled(after) if after < BLAMED_AFTER => Outcome::Unknown,
            _ => Outcome::Failed,
        };
        let reason = error.to_string();
        Self::Node(NodeFailed { reason, stage, replica: None, outcome, retry_after: None })
    }
}

/// What an agent says of its node. Nobody else is asked, and a server's word would stand for all requests.
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
    /// When it began.
    sent: Instant,
    held: Option<Held>,
}

impl<'a> Turn<'a> {
    /// Takes a turn at the node that was chosen; under the same lock, so that the next choice knows of it.
    pub(crate) fn take(edge: &'a Edge, health: &mut policy::Health, choice: &Choice, entry: Node) -> Self {
        let (node, version) = (choice.node.clone(), choice.cost.version);
        let held = Some(health.begin(&node, choice.cost, edge.clock.now()));
        Self { edge, node, entry, version, sent: Instant::now(), held }
    }

    /// The node has delivered a first event.
    fn begun(&mut self) {
        if let Some(held) = &mut self.held {
            let (edge, after) = (self.edge, self.sent.elapsed());
            edge.health().answer_begun(&self.node, held, after, edge.clock.now());
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

    /// Only the first time counts.
    pub(crate) fn give_back(&mut self, outcome: Outcome) {
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

/// What an attempt is called where people read of it.
pub(crate) fn purpose_as_str(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::First => "first",
        Purpose::Retry => "retry",
        Purpose::Hedge => "hedge",
        Purpose::Resume => "resume",
    }
}

/// Draws that nobody can foresee, so that edges do not all choose alike.
pub(crate) fn dice() -> u64 {
    getrandom::u64().expect("the operating system has random bytes")
}

/// With less left than this another attempt could only fail too.
pub(crate) const ATTEMPT_WORTH: Duration = Duration::from_secs(1);
/// Beyond any context; more is a lie that would spoil every sum.
const PROMPT_TOKENS_MAX: u64 = 1_000_000_000;
/// An engine's refusal is one error object.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);
/// A node that says nothing for so long fails whoever asks.
const BLAMED_AFTER: Duration = Duration::from_secs(10);
