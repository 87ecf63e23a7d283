//! The annotated stream of one attempt: every event is checked against the chain, stripped of what is
//! internal, and made into what the client wants. A server without an agent gives a plain one, or a whole answer.

use crate::network::upstream::{Upstream, UpstreamError};
use crate::plain_stream::Counted;
use openai::sse::{self, DONE, Event};
use openai::{Assembler, BrokenAnswer};
use std::time::Duration;
use types::header::LOAD_COMMENT;
use types::{EventId, LoadFrame, StreamBroken, StreamPosition};

pub(crate) struct Stream {
    upstream: Upstream,
    progress: Progress,
    form: Form,
    is_done: bool,
    last_load: Option<LoadFrame>,
}

/// How far an answer has come.
pub(crate) enum Progress {
    /// By the ids of its events.
    Proven { position: StreamPosition, prompt_tokens: u64 },
    /// By what can be counted.
    Counted(Counted),
}

/// What becomes of the events.
pub(crate) enum Form {
    /// Events as the client gets them, gathered until they are taken.
    Events(Vec<u8>),
    /// One whole answer.
    Whole(Assembler),
    /// One whole answer that came as such.
    Json(Vec<u8>),
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
    #[error("the chunks make no answer")]
    Answer(#[from] BrokenAnswer),
    #[error("the answer is not one of this API")]
    NoChunk,
    #[error("the answer is longer than {JSON_BYTES_MAX} bytes")]
    TooLong,
}

impl Stream {
    pub(crate) fn new(upstream: Upstream, progress: Progress, form: Form) -> Self {
        Self { upstream, progress, form, is_done: false, last_load: None }
    }

    /// Waits until at least one more event was taken up, or the stream is complete. Comments are no events:
    /// they do not prolong the wait.
    pub(crate) async fn advance(&mut self, stall: Duration) -> Result<(), StreamError> {
        let advanced = async {
            if let Form::Json(_) = self.form {
                return self.take_up_json().await;
            }
            while !self.take_up_events()? {
                if !self.upstream.read_events().await? {
                    return Err(UpstreamError::EndedEarly.into());
                }
            }
            Ok(())
        };
        tokio::time::timeout(stall, advanced).await.unwrap_or(Err(UpstreamError::Stalled(stall).into()))
    }

    /// True once `[DONE]` was seen, or the end of a whole answer: only then is it complete.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Completion tokens taken up so far.
    pub(crate) fn completion_tokens(&self) -> u64 {
        match &self.progress {
            Progress::Proven { position, .. } => position.position(),
            Progress::Counted(counted) => counted.completion_tokens(),
        }
    }

    pub(crate) fn prompt_tokens(&self) -> u64 {
        match &self.progress {
            Progress::Proven { prompt_tokens, .. } => *prompt_tokens,
            Progress::Counted(counted) => counted.prompt_tokens(),
        }
    }

    /// The load that the node reported last.
    pub(crate) fn last_load(&self) -> Option<LoadFrame> {
        self.last_load
    }

    /// The events that wait for the client.
    pub(crate) fn take_events(&mut self) -> Vec<u8> {
        match &mut self.form {
            Form::Events(events) => std::mem::take(events),
            Form::Whole(_) | Form::Json(_) => Vec::new(),
        }
    }

    pub(crate) fn into_parts(self) -> (Upstream, Form) {
        (self.upstream, self.form)
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
            advanced |= match &mut self.progress {
                Progress::Proven { position, .. } => prove(position, id, data)?,
                Progress::Counted(counted) => counted.chunk(data)?,
            };
            match &mut self.form {
                Form::Events(events) => sse::write_event(events, None, data),
                Form::Whole(answer) => answer.add(data)?,
                Form::Json(_) => {}
            }
        }
        Ok(advanced)
    }

    async fn take_up_json(&mut self) -> Result<(), StreamError> {
        let (Form::Json(json), Progress::Counted(counted)) = (&mut self.form, &mut self.progress) else {
            return Ok(());
        };
        if self.upstream.read_more(json).await? {
            return if json.len() <= JSON_BYTES_MAX { Ok(()) } else { Err(StreamError::TooLong) };
        }
        counted.whole(json)?;
        self.is_done = true;
        Ok(())
    }
}

fn prove(position: &mut StreamPosition, id: Option<&[u8]>, data: &[u8]) -> Result<bool, StreamError> {
    let Some(id) = id else {
        let is_error = data.starts_with(b"{\"error\"");
        return Err(if is_error { StreamError::GaveUp } else { StreamError::NoId });
    };
    let id: EventId = std::str::from_utf8(id).map_err(|_| StreamBroken::Malformed).and_then(str::parse)?;
    position.accept(&id)?;
    Ok(true)
}

fn load_of_comment(comment: &[u8]) -> Option<LoadFrame> {
    std::str::from_utf8(comment).ok()?.strip_prefix(LOAD_COMMENT)?.parse().ok()
}

/// A million tokens with their log probabilities; only a broken server goes on for longer.
const JSON_BYTES_MAX: usize = 64 << 20;
