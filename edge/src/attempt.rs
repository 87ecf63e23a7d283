//! Sends a request to one node after the other until one has delivered a first event.
//!
//! Only the edge retries. The head of the answer is held back from the client until then, so a node that says
//! "200" and dies costs the client nothing but time.

use crate::Edge;
use crate::answer::Stop;
use crate::network::client::{Client, ClientGone};
use crate::network::upstream::{Upstream, UpstreamError};
use crate::refusal::Refusal;
use crate::stream::{Form, Stream, StreamError};
use bytes::Bytes;
use openai::{Assembler, Endpoint};
use policy::{Ask, NodeKey, Outcome, Permit, route};
use std::time::Duration;
use types::{Failure, LoadFrame, ModelVersion, RegionName, ReplicaId, StreamPosition, header};

/// A request that was let in.
pub(crate) struct Asked {
    pub(crate) endpoint: Endpoint,
    pub(crate) body: Bytes,
    pub(crate) version: ModelVersion,
    pub(crate) regions: Option<Vec<RegionName>>,
    /// Whether the client wants a stream; inside it always is one.
    pub(crate) stream: bool,
    /// The internal headers that are the same for all attempts.
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// All attempts of one request.
pub(crate) struct Attempts<'a> {
    edge: &'a Edge,
    asked: &'a Asked,
    nodes: Vec<NodeKey>,
    replicas: Vec<ReplicaId>,
    last: Option<NodeFailed>,
}

/// An answer that has begun.
pub(crate) struct Answering<'a> {
    pub(crate) leave: Leave<'a>,
    pub(crate) stream: Stream,
}

/// Why an attempt came to nothing.
#[derive(Debug)]
pub(crate) struct NodeFailed {
    pub(crate) reason: String,
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
        Self { edge, asked, nodes: Vec::new(), replicas: Vec::new(), last: None }
    }

    pub(crate) fn count(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// The node of the current attempt.
    pub(crate) fn node(&self) -> Option<&NodeKey> {
        self.nodes.last()
    }

    /// The next answer that begins.
    pub(crate) async fn next(&mut self, client: &mut Client) -> Result<Answering<'a>, Stop> {
        loop {
            let leave = self.choose()?;
            self.nodes.push(leave.node.clone());
            let opened = tokio::select! {
                biased;
                opened = self.open(&leave) => opened,
                ClientGone = client.gone() => return Err(Stop::ClientGone),
            };
            match opened {
                Ok(stream) => return Ok(Answering { leave, stream }),
                Err(Failed::Request { status, body }) => {
                    leave.end(Outcome::Served);
                    return Err(Stop::Engine { status, body: body.into() });
                }
                Err(Failed::Node(failed)) => self.failed(leave, failed)?,
            }
        }
    }

    /// Notes a failure that cost the client nothing. `Err` = no attempt is left.
    pub(crate) fn failed(&mut self, leave: Leave<'_>, failed: NodeFailed) -> Result<(), Stop> {
        tracing::debug!(node = %leave.node, reason = %failed.reason, "attempt failed");
        leave.end(failed.outcome);
        self.replicas.extend(failed.replica.clone());
        self.last = Some(failed);
        if self.count() < ATTEMPTS_MAX { Ok(()) } else { Err(self.exhausted().into()) }
    }

    fn exhausted(&self) -> Refusal {
        let last = self.last.as_ref();
        Refusal::AttemptsFailed {
            attempts: self.count(),
            last: last.map_or_else(String::new, |failed| failed.reason.clone()),
            retry_after: last.and_then(|failed| failed.retry_after),
        }
    }

    /// The best node that lets the request through.
    fn choose(&self) -> Result<Leave<'a>, Refusal> {
        let edge = self.edge;
        let ask =
            Ask { version: self.asked.version, regions: self.asked.regions.as_deref(), tried: &self.nodes };
        let table = edge.routing_table.load();
        let now = edge.clock.now();
        let mut health = edge.health();
        let plan = route(&table, &health, &edge.region, ask, now).map_err(|refused| {
            // What happened to this request says more than what the table looks like after it.
            if self.last.is_some() { self.exhausted() } else { Refusal::NoRoute(refused) }
        })?;
        let admitted = plan
            .choices
            .into_iter()
            .find_map(|choice| Some((health.begin(&choice.node, now).ok()?, choice.node)));
        let (permit, node) = admitted.expect("the plan was made under the same lock, of nodes that admit");
        Ok(Leave { edge, node, permit: Some(permit) })
    }

    /// One attempt, up to its first event.
    async fn open(&self, leave: &Leave<'_>) -> Result<Stream, Failed> {
        let outcome = tokio::select! {
            biased;
            opened = self.send(leave) => opened,
            () = self.edge.until_down(&leave.node) => Err(Failed::node("the node stopped answering probes")),
        };
        let label = match &outcome {
            Ok(_) => "answered",
            Err(Failed::Request { .. }) => "refused",
            Err(Failed::Node(failed)) if failed.outcome == Outcome::Unknown => "no-room",
            Err(Failed::Node(_)) => "failed",
        };
        self.edge.metrics.attempts.with_label_values(&[label]).inc();
        outcome
    }

    async fn send(&self, leave: &Leave<'_>) -> Result<Stream, Failed> {
        let table = self.edge.routing_table.load();
        let node = table.nodes.get(&leave.node).ok_or_else(|| Failed::node("the node left the table"))?;
        let attempt = self.count().to_string();
        let deadline_ms = FIRST_TOKEN_MAX.as_millis().to_string();
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
        let sent = self.edge.upstreams.send(node, "POST", path, &headers, body, FIRST_TOKEN_MAX).await?;
        self.edge.hear_load(&leave.node, self.asked.version, load_of(&sent));
        let (sent, start, prompt_tokens) = self.judge(leave, sent).await?;
        let form = match self.asked.stream {
            true => Form::Events(Vec::new()),
            false => Form::Whole(Assembler::new(self.asked.endpoint)),
        };
        let replica = sent.header(header::REPLICA).and_then(|replica| replica.parse().ok());
        let mut stream = Stream::new(sent, start, prompt_tokens, form);
        match stream.advance(FIRST_TOKEN_MAX).await {
            Ok(()) => Ok(stream),
            Err(error) => Err(Failed::Node(NodeFailed { replica, ..NodeFailed::broken(&error) })),
        }
    }

    /// Reads the head: a stream of the internal protocol, the engine's refusal, or the node's failure.
    async fn judge(
        &self,
        leave: &Leave<'_>,
        mut sent: Upstream,
    ) -> Result<(Upstream, StreamPosition, u64), Failed> {
        let status = sent.status();
        let replica = sent.header(header::REPLICA).and_then(|replica| replica.parse().ok());
        if let Some(said) = sent.header(header::FAILURE) {
            // An unknown word is a newer agent's; take it for a fault of the node.
            let failure: Option<Failure> = said.parse().ok();
            // With replicas excluded, "none" may only mean "no other".
            if failure == Some(Failure::NoReplica) && self.replicas.is_empty() {
                let now = self.edge.clock.now();
                self.edge.health().version_missing(&leave.node, self.asked.version, now);
            }
            let blameless = failure.is_some_and(|failure| !failure.is_fault());
            let seconds = sent.header("retry-after").and_then(|seconds| seconds.parse().ok());
            return Err(Failed::Node(NodeFailed {
                reason: format!("{} said {}", leave.node.region, said.chars().take(32).collect::<String>()),
                replica,
                outcome: if blameless { Outcome::Unknown } else { Outcome::Failed },
                retry_after: seconds.map(Duration::from_secs),
            }));
        }
        if (400..500).contains(&status) {
            let body = sent.read_all(REFUSAL_BYTES_MAX, REFUSAL_STALL).await?;
            return Err(Failed::Request { status, body });
        }
        let hash = sent.header(header::PREFIX_HASH).and_then(|hash| hash.parse().ok());
        let prompt_tokens = sent.header(header::PROMPT_TOKENS).and_then(|tokens| tokens.parse().ok());
        match (status, hash, prompt_tokens) {
            (200, Some(hash), Some(prompt_tokens)) => Ok((sent, StreamPosition::start(hash), prompt_tokens)),
            _ => Err(Failed::Node(NodeFailed {
                reason: format!("{} answered {status} without the internal headers", leave.node.region),
                replica,
                outcome: Outcome::Failed,
                retry_after: None,
            })),
        }
    }
}

impl NodeFailed {
    /// A stream that broke after its head.
    pub(crate) fn broken(error: &StreamError) -> Self {
        let reason = error.to_string();
        Self { reason, replica: None, outcome: Outcome::Failed, retry_after: None }
    }
}

impl Failed {
    fn node(reason: &str) -> Self {
        let reason = reason.to_owned();
        Self::Node(NodeFailed { reason, replica: None, outcome: Outcome::Failed, retry_after: None })
    }
}

impl From<UpstreamError> for Failed {
    fn from(error: UpstreamError) -> Self {
        Self::node(&error.to_string())
    }
}

pub(crate) fn load_of(upstream: &Upstream) -> Option<LoadFrame> {
    upstream.header(header::LOAD)?.parse().ok()
}

/// The leave to use a node; whatever way a request ends, it is given back.
pub(crate) struct Leave<'a> {
    edge: &'a Edge,
    pub(crate) node: NodeKey,
    permit: Option<Permit>,
}

impl Leave<'_> {
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.give_back(outcome);
    }

    fn give_back(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            let now = self.edge.clock.now();
            self.edge.health().end(&self.node, permit, outcome, now);
        }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.give_back(Outcome::Unknown);
    }
}

/// More would only multiply an outage's load.
const ATTEMPTS_MAX: u32 = 3;
/// Queueing and prefill of the longest prompt included.
const FIRST_TOKEN_MAX: Duration = Duration::from_secs(60);
/// An engine's refusal is one error object.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
const REFUSAL_STALL: Duration = Duration::from_secs(5);
