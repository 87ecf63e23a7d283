//! Attempts whose answers are handed on unread: embeddings, images, speech and the like.
//!
//! Nothing is known of such an answer but its status and its first byte. Once that byte is with the client no other
//! node can go on where this one stopped; until then any other may be asked. But an image or an hour of speech is work
//! that may have been done and billed, so another attempt is paid for unless the node said that it did nothing.

use super::{Attempt, Failed, NodeFailed, REFUSAL_BYTES_MAX, REFUSAL_DEADLINE, Stage, Turn, load_of};
use crate::answer::Stop;
use crate::attempts::Attempts;
use crate::network::upstream::{Upstream, UpstreamError};
use crate::plain_stream::retry_after;
use crate::refusal::Refusal;
use bytes::Bytes;
use openai::ErrorObject;
use policy::{Outcome, Purpose};
use std::time::{Duration, Instant};
use types::intent::NodeKind;
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
    /// The next answer that begins.
    pub(crate) async fn begin_unread(&mut self, opaque: &Opaque) -> Result<Unread<'a>, Stop> {
        loop {
            let purpose = if self.node().is_none() { Purpose::First } else { Purpose::Retry };
            let attempt = self.choose(purpose, None).map_err(|refused| self.refuse(refused))?;
            match attempt.open_unread(opaque, self.is_elsewhere()).await {
                Ok(unread) => return Ok(unread),
                Err(Failed::Request { status: 404 | 405, body }) if is_unknown_path(&body) => {
                    return Err(Refusal::NotServed { path: opaque.path, model: opaque.model.clone() }.into());
                }
                Err(Failed::Request { status, body }) => {
                    return Err(Stop::Engine { status, body: body.into() });
                }
                Err(Failed::Node(failed)) => self.failed(failed)?,
            }
        }
    }
}

impl<'a> Attempt<'a> {
    async fn open_unread(
        self,
        opaque: &Opaque,
        is_elsewhere: impl Fn() -> bool,
    ) -> Result<Unread<'a>, Failed> {
        let edge = self.turn.edge;
        let opened = tokio::select! {
            biased;
            opened = self.send_unread(opaque) => opened,
            () = edge.until_lost(&self.turn.node, is_elsewhere) => Err(Failed::Node(NodeFailed::silent(None))),
        };
        let (turn, (upstream, first)) = self.opened(opened)?;
        Ok(Unread { turn, upstream, first })
    }

    async fn send_unread(&self, opaque: &Opaque) -> Result<(Upstream, Option<Bytes>), Failed> {
        let (edge, asked) = (self.turn.edge, self.asked);
        let attempt = self.number.to_string();
        let left = self.deadline.saturating_duration_since(Instant::now());
        let deadline_ms = left.as_millis().to_string();
        let mut headers = vec![("content-type", opaque.content_type.as_str())];
        // What the parts of Rhumb tell each other is nobody else's to read.
        if matches!(self.turn.entry.kind, NodeKind::Agent(_)) {
            headers.extend(asked.headers.iter().map(|(name, value)| (*name, value.as_str())));
            headers.extend([(header::ATTEMPT, attempt.as_str()), (header::DEADLINE_MS, &deadline_ms)]);
            headers.extend((!self.tried.is_empty()).then_some((header::TRIED, self.tried.as_str())));
        }
        let (entry, body) = (&self.turn.entry, self.body.clone());
        let sent = edge.upstreams.send(entry, "POST", opaque.path, &headers, body, left).await;
        let sent = sent.map_err(broken)?;
        if let NodeKind::Agent(_) = entry.kind {
            edge.hear_load(&self.turn.node, asked.version, load_of(&sent));
        }
        let mut sent = self.judge_unread(sent).await?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let first = tokio::time::timeout(left, sent.read_part()).await;
        let first = first.unwrap_or(Err(UpstreamError::Stalled(left))).map_err(broken)?;
        Ok((sent, first))
    }

    /// Reads the head: an answer, a refusal, or the node's failure.
    async fn judge_unread(&self, mut sent: Upstream) -> Result<Upstream, Failed> {
        let status = sent.status();
        let said = sent.header(header::FAILURE);
        let failure: Option<Failure> = said.and_then(|said| said.parse().ok());
        let is_server = matches!(self.turn.entry.kind, NodeKind::OpenAi(_));
        let has_no_room = status == 429
            || (is_server && status == 503)
            || failure.is_some_and(|failure| !failure.is_fault());
        // Not the client's key but this edge's; slowness of the server's own.
        let has_not_us = is_server && matches!(status, 401 | 403 | 407 | 408);
        let did_nothing = has_no_room || matches!(status, 401 | 403 | 407 | 503);
        if said.is_some() || has_no_room || has_not_us || !(200..500).contains(&status) {
            return Err(Failed::Node(NodeFailed {
                reason: format!("{} answered {status}", self.turn.node.region),
                stage: if did_nothing { Stage::NoHead } else { Stage::Head },
                replica: sent.header(header::REPLICA).and_then(|replica| replica.parse().ok()),
                outcome: if has_no_room { Outcome::Unknown } else { Outcome::Failed },
                retry_after: retry_after(sent.header("retry-after"), sent.header("retry-after-ms")),
            }));
        }
        if matches!(status, 404 | 405) {
            let body = sent.read_all(REFUSAL_BYTES_MAX, REFUSAL_DEADLINE).await?;
            let body = body.ok_or_else(|| Failed::too_long(None))?;
            return Err(Failed::Request { status, body });
        }
        Ok(sent)
    }
}

/// Whoever got the request may have done all of it.
fn broken(error: UpstreamError) -> Failed {
    match Failed::from(error) {
        Failed::Node(failed) if failed.stage == Stage::NoHead => {
            Failed::Node(NodeFailed { stage: Stage::Head, ..failed })
        }
        failed => failed,
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
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(300);
