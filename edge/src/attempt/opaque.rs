//! Attempts whose answers are handed on unread: embeddings, images, speech and the like.
//!
//! Nothing is known of such an answer but its status and its first byte. Once that byte is with the client no other
//! node can go on where this one stopped; until then any other may be asked.

use super::{Asked, Attempts, Failed, NodeFailed, REFUSAL_BYTES_MAX, REFUSAL_DEADLINE, Turn, load_of};
use crate::Edge;
use crate::answer::Stop;
use crate::keep_alive::KeepAlive;
use crate::network::client::Client;
use crate::network::upstream::{Upstream, UpstreamError};
use crate::refusal::Refusal;
use bytes::Bytes;
use openai::ErrorObject;
use policy::Outcome;
use std::time::{Duration, Instant};
use types::{Failure, header};

/// A request that is handed on unread.
pub(crate) struct Opaque {
    pub(crate) path: &'static str,
    pub(crate) content_type: String,
    /// As the client named it.
    pub(crate) model: String,
}

/// An answer of which the first part is here.
pub(crate) struct Unread<'a> {
    pub(crate) turn: Turn<'a>,
    pub(crate) upstream: Upstream,
    /// `None` where it has no bytes at all.
    pub(crate) first: Option<Bytes>,
}

impl<'a> Attempts<'a> {
    /// For answers that begin when all the work is done.
    pub(crate) fn patient(edge: &'a Edge, asked: &'a Asked) -> Self {
        Self { deadline: Instant::now() + ANSWER_MAX, ..Self::new(edge, asked) }
    }

    /// The next answer that begins.
    pub(crate) async fn next_unread(
        &mut self,
        client: &mut Client,
        keep_alive: &mut KeepAlive,
        opaque: &Opaque,
    ) -> Result<Unread<'a>, Stop> {
        loop {
            let mut turn = self.choose()?;
            self.nodes.push(turn.node.clone());
            let opened = async {
                tokio::select! {
                    biased;
                    opened = self.open_unread(&turn, opaque) => opened,
                    () = self.until_lost(&turn) => Err(Failed::Node(NodeFailed::silent(None))),
                }
            };
            match keep_alive.during(client, opened).await? {
                Ok((upstream, first)) => {
                    turn.begun();
                    return Ok(Unread { turn, upstream, first });
                }
                Err(Failed::Request { status: 404 | 405, body }) if is_unknown_path(&body) => {
                    turn.end(Outcome::Served);
                    return Err(Refusal::NotServed { path: opaque.path, model: opaque.model.clone() }.into());
                }
                Err(Failed::Request { status, body }) => {
                    turn.end(Outcome::Served);
                    return Err(Stop::Engine { status, body: body.into() });
                }
                Err(Failed::Node(failed)) => self.failed(turn, failed)?,
            }
        }
    }

    async fn open_unread(
        &self,
        turn: &Turn<'_>,
        opaque: &Opaque,
    ) -> Result<(Upstream, Option<Bytes>), Failed> {
        let attempt = self.count().to_string();
        let left = self.deadline.saturating_duration_since(Instant::now());
        let deadline_ms = left.as_millis().to_string();
        let tried = self.replicas.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let of_all_attempts = self.asked.headers.iter().map(|(name, value)| (*name, value.as_str()));
        let of_this_one = [
            ("content-type", opaque.content_type.as_str()),
            (header::ATTEMPT, &attempt),
            (header::DEADLINE_MS, &deadline_ms),
        ];
        let tried = (!tried.is_empty()).then_some((header::TRIED, tried.as_str()));
        let headers: Vec<_> = of_all_attempts.chain(of_this_one).chain(tried).collect();
        let body = self.asked.body.clone();
        let sent = self.edge.upstreams.send(&turn.entry, "POST", opaque.path, &headers, body, left).await?;
        self.edge.hear_load(&turn.node, self.asked.version, load_of(&sent));
        let mut sent = self.judge_unread(turn, sent).await?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let first = tokio::time::timeout(left, sent.read_part()).await;
        let first = first.unwrap_or(Err(UpstreamError::Stalled(left)))?;
        Ok((sent, first))
    }

    /// Reads the head: an answer, a refusal, or the node's failure.
    async fn judge_unread(&self, turn: &Turn<'_>, mut sent: Upstream) -> Result<Upstream, Failed> {
        let status = sent.status();
        let said = sent.header(header::FAILURE);
        let failure: Option<Failure> = said.and_then(|said| said.parse().ok());
        let has_no_room = status == 429 || failure.is_some_and(|failure| !failure.is_fault());
        if said.is_some() || has_no_room || !(200..500).contains(&status) {
            let seconds = sent.header("retry-after").and_then(|seconds| seconds.parse().ok());
            return Err(Failed::Node(NodeFailed {
                reason: format!("{} answered {status}", turn.node.region),
                worked_on: true,
                replica: sent.header(header::REPLICA).and_then(|replica| replica.parse().ok()),
                outcome: if has_no_room { Outcome::Unknown } else { Outcome::Failed },
                retry_after: seconds.map(Duration::from_secs),
            }));
        }
        if matches!(status, 404 | 405) {
            let body = sent.read_all(REFUSAL_BYTES_MAX, REFUSAL_DEADLINE).await?;
            let body = body.ok_or_else(|| Failed::node("the refusal is too long to pass on", true))?;
            return Err(Failed::Request { status, body });
        }
        Ok(sent)
    }
}

/// Whether a refusal says that the server has no such endpoint, rather than no such model: in our own words, or in
/// none that a client of the API would understand.
fn is_unknown_path(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Refused {
        error: ErrorObject,
    }
    let ours = ["unknown_url", "method_not_allowed"];
    let refused = serde_json::from_slice::<Refused>(body);
    refused.map_or(true, |refused| refused.error.code.is_some_and(|code| ours.contains(&code.as_str())))
}

/// As long as a large image may take, queueing included.
const ANSWER_MAX: Duration = Duration::from_secs(300);
