//! The annotated stream of one attempt: every event is checked against the chain and stripped of what is internal.
//! A server without an agent gives a plain one, or a whole answer.

use crate::network::upstream::{Upstream, UpstreamError};
use crate::plain_stream::Counted;
use memchr::memmem::Finder;
use openai::sse::{self, DONE, Event};
use std::sync::LazyLock;
use types::header::LOAD_COMMENT;
use types::{EventId, LoadFrame, PrefixHash, StreamBroken, StreamPosition};

pub(crate) struct Stream {
    upstream: Upstream,
    kind: Kind,
    batch: Batch,
    is_done: bool,
    last_load: Option<LoadFrame>,
}

/// What is known of the events.
pub(crate) enum Kind {
    /// Ids prove that each continues the answer.
    Proven(StreamPosition),
    /// Chunks of a server without an agent.
    Counted(Counted),
    /// One whole answer of such a server.
    Json(Counted, Vec<u8>),
}

/// Events that were checked and wait to be taken over.
pub(crate) struct Batch {
    /// Up to and including these events.
    pub(crate) position: StreamPosition,
    pub(crate) token_ids: Vec<u32>,
    /// As a client gets them.
    pub(crate) events: Vec<u8>,
    /// As far as it is known better than from the head.
    pub(crate) prompt_tokens: Option<u64>,
    /// Where among them the one with the `finish_reason` begins.
    pub(crate) finish_at: Option<usize>,
}

/// Why a stream that had begun cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("an event does not continue the stream")]
    Chain(#[from] StreamBroken),
    #[error("an event carries no id")]
    NoId,
    #[error("the engine gave up")]
    GaveUp,
    #[error("the answer is not one of this API")]
    NoChunk,
    #[error("the answer is longer than {JSON_BYTES_MAX} bytes")]
    TooLong,
}

impl StreamError {
    /// The node itself said so: another replica there may do better.
    pub(crate) fn is_the_nodes_word(&self) -> bool {
        match self {
            Self::Upstream(error) => error.is_the_nodes_word(),
            Self::GaveUp => true,
            Self::Chain(_) | Self::NoId | Self::NoChunk | Self::TooLong => false,
        }
    }
}

impl Stream {
    pub(crate) fn new(upstream: Upstream, kind: Kind) -> Self {
        let batch = Batch::at(kind.start());
        Self { upstream, kind, batch, is_done: false, last_load: None }
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Waits until at least one more event was taken up, or the stream is complete. Comments are no events:
    /// they do not end the wait.
    pub(crate) async fn advance(&mut self) -> Result<(), StreamError> {
        if let Kind::Json(..) = self.kind {
            return self.take_up_json().await;
        }
        while !self.take_up_events()? {
            if !self.upstream.read_events().await? {
                return Err(UpstreamError::EndedEarly.into());
            }
        }
        Ok(())
    }

    /// True once `[DONE]` was seen.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// The load that the node reported last.
    pub(crate) fn last_load(&self) -> Option<LoadFrame> {
        self.last_load
    }

    /// What was taken up since the last time.
    pub(crate) fn take(&mut self) -> Batch {
        let next = Batch::at(self.batch.position);
        std::mem::replace(&mut self.batch, next)
    }

    pub(crate) fn into_upstream(self) -> Upstream {
        self.upstream
    }

    fn take_up_events(&mut self) -> Result<bool, StreamError> {
        let mut advanced = false;
        while !self.is_done {
            let Some(event) = self.upstream.events().next_event() else { break };
            let Event { id, data, comment } = event;
            if let Some(frame) = comment.and_then(load_of_comment) {
                self.last_load = Some(frame);
            }
            let Some(data) = data else { continue };
            if data == DONE {
                advanced = true;
                self.is_done = true;
                break;
            }
            match &mut self.kind {
                Kind::Proven(_) => {
                    self.batch.prove(id, data)?;
                    advanced = true;
                }
                Kind::Counted(counted) => {
                    advanced |= counted.chunk(data)?;
                    self.batch.count(counted);
                }
                Kind::Json(..) => {}
            }
            self.batch.add(data);
        }
        Ok(advanced)
    }

    async fn take_up_json(&mut self) -> Result<(), StreamError> {
        let Kind::Json(counted, json) = &mut self.kind else { return Ok(()) };
        if self.upstream.read_more(json).await? {
            return if json.len() <= JSON_BYTES_MAX { Ok(()) } else { Err(StreamError::TooLong) };
        }
        counted.whole(json)?;
        self.batch.events = std::mem::take(json);
        self.batch.count(counted);
        self.is_done = true;
        Ok(())
    }
}

impl Batch {
    fn at(position: StreamPosition) -> Self {
        Self { position, token_ids: Vec::new(), events: Vec::new(), prompt_tokens: None, finish_at: None }
    }

    fn prove(&mut self, id: Option<&[u8]>, data: &[u8]) -> Result<(), StreamError> {
        let Some(id) = id else {
            let is_error = data.starts_with(b"{\"error\"");
            return Err(if is_error { StreamError::GaveUp } else { StreamError::NoId });
        };
        let id: EventId =
            std::str::from_utf8(id).map_err(|_| StreamBroken::Malformed).and_then(str::parse)?;
        self.position.accept(&id)?;
        self.token_ids.extend_from_slice(&id.token_ids);
        Ok(())
    }

    fn count(&mut self, counted: &Counted) {
        self.position = counted_position(counted);
        self.prompt_tokens = Some(counted.prompt_tokens());
    }

    fn add(&mut self, data: &[u8]) {
        if self.finish_at.is_none() && finishes(data) {
            self.finish_at = Some(self.events.len());
        }
        sse::write_event(&mut self.events, None, data);
    }
}

impl Kind {
    /// Where the answer begins, or goes on.
    pub(crate) fn start(&self) -> StreamPosition {
        match self {
            Self::Proven(start) => *start,
            Self::Counted(counted) | Self::Json(counted, _) => counted_position(counted),
        }
    }
}

/// Whether a chunk has a reason to finish, which an empty one is not.
fn finishes(data: &[u8]) -> bool {
    let mut reasons = FINISHES.find_iter(data);
    reasons.any(|at| data.get(at + FINISHES.needle().len()).is_some_and(|first| *first != b'"'))
}

/// Of tokens that were counted and have no names; nothing can go on from there.
fn counted_position(counted: &Counted) -> StreamPosition {
    static NO_TOKENS: LazyLock<PrefixHash> = LazyLock::new(|| PrefixHash::of_prompt(&[]));
    StreamPosition::at(counted.completion_tokens(), *NO_TOKENS)
}

fn load_of_comment(comment: &[u8]) -> Option<LoadFrame> {
    std::str::from_utf8(comment).ok()?.strip_prefix(LOAD_COMMENT)?.parse().ok()
}

/// A million tokens with their log probabilities; only a broken server goes on for longer.
const JSON_BYTES_MAX: usize = 64 << 20;
/// A reason that is not null. Inside of a JSON string the quotes would be escaped.
static FINISHES: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"finish_reason\":\""));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_reason_finishes_nothing() {
        assert!(finishes(br#"{"choices":[{"finish_reason":"stop"}]}"#));
        assert!(finishes(br#"{"choices":[{"finish_reason":""},{"finish_reason":"length"}]}"#));
        for open in [
            r#"{"finish_reason":""}"#,
            r#"{"finish_reason":null}"#,
            r#"{"finish_reason":"#,
            "\"finish_reason\":\"",
        ] {
            assert!(!finishes(open.as_bytes()), "{open}");
        }
    }
}
