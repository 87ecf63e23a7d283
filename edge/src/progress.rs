//! An answer as far as it has come, whatever streams brought it.

use crate::resume_buffer::Kept;
use crate::stream::Batch;
use openai::chunk::{CHAT_CHUNK, TEXT_COMPLETION};
use openai::sse::{self, DONE};
use openai::{Assembler, BrokenAnswer, ChatChunk, CompletionChunk, Endpoint, Usage};
use serde::Deserialize;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;
use types::StreamPosition;

pub(crate) struct Progress {
    endpoint: Endpoint,
    include_usage: bool,
    position: StreamPosition,
    prompt_tokens: u64,
    /// What another node would need to go on.
    kept: Result<Kept, NotResumable>,
    form: Form,
    /// The chunk with the first `finish_reason`.
    finish: Option<Vec<u8>>,
    /// Whether that is the end of the last answer by proof, and the rest can be made here.
    finishes_alone: bool,
    has_usage: bool,
    is_complete: bool,
    joins: Joins,
}

/// What a client has, or will have with the events that wait for it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Delivered {
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) joins: Joins,
}

/// How often an answer went on elsewhere, and what that cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Joins {
    pub(crate) count: u32,
    pub(crate) exactness: Option<Exactness>,
    /// The longest time in which the client got nothing for it.
    pub(crate) longest_gap: Duration,
    /// What it had to expect at worst, by those who stood in line before it.
    pub(crate) expected_gap: Duration,
}

/// Whether a joined stream is the one that would have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exactness {
    /// The same tokens, by proof.
    Exact,
    /// It goes on from another reading of the same text.
    Approximate,
}

/// Why a stream that breaks could not go on elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotResumable {
    /// The tenant wants it so.
    Policy,
    /// One chain of tokens cannot stand for several answers.
    SeveralAnswers,
    /// A server without an agent names no tokens.
    Plain,
    /// The edge's buffer is full, or the answer is longer than any node would resume.
    Buffer,
}

/// What becomes of the events.
enum Form {
    /// As the client gets them, gathered until they are taken.
    Events(Vec<u8>),
    /// One whole answer.
    Whole(Box<Assembler>),
    /// One whole answer that comes as such.
    Json(Vec<u8>),
}

impl Progress {
    pub(crate) fn streamed(
        endpoint: Endpoint,
        include_usage: bool,
        start: StreamPosition,
        prompt_tokens: u64,
        kept: Result<Kept, NotResumable>,
    ) -> Self {
        Self {
            endpoint,
            include_usage,
            position: start,
            prompt_tokens,
            kept,
            form: Form::Events(Vec::new()),
            finish: None,
            finishes_alone: false,
            has_usage: false,
            is_complete: false,
            joins: Joins::default(),
        }
    }

    /// The client wants the answer in one piece.
    pub(crate) fn whole(
        endpoint: Endpoint,
        start: StreamPosition,
        prompt_tokens: u64,
        kept: Result<Kept, NotResumable>,
    ) -> Self {
        let form = Form::Whole(Box::new(Assembler::new(endpoint)));
        Self { form, ..Self::streamed(endpoint, false, start, prompt_tokens, kept) }
    }

    /// As [`Self::whole`], from a server that gives it so.
    pub(crate) fn json(endpoint: Endpoint, start: StreamPosition, prompt_tokens: u64) -> Self {
        let form = Form::Json(Vec::new());
        Self { form, ..Self::streamed(endpoint, false, start, prompt_tokens, Err(NotResumable::Plain)) }
    }

    /// Of one answer whose events prove that none is missing. The end of one of several says nothing of the others,
    /// and servers without an agent may give a reason before they are done.
    pub(crate) fn finishing_alone(self, finishes_alone: bool) -> Self {
        Self { finishes_alone, ..self }
    }

    /// Takes over what a stream brought. Why it may not be resumed any more comes back once.
    pub(crate) fn take(&mut self, batch: Batch) -> Result<Option<NotResumable>, BrokenAnswer> {
        let Batch { position, token_ids, mut events, prompt_tokens, finish_at } = batch;
        if let Form::Json(json) = &mut self.form {
            json.append(&mut events);
        }
        self.prompt_tokens = prompt_tokens.unwrap_or(self.prompt_tokens);
        if let Form::Whole(answer) = &mut self.form {
            data_of(&events).try_for_each(|data| answer.add(data))?;
        }
        self.position = position;
        let is_full = self.kept.as_mut().is_ok_and(|kept| kept.add(&token_ids).is_err());
        if is_full {
            self.kept = Err(NotResumable::Buffer);
        }
        let after_finish = match (finish_at, &self.finish) {
            (Some(at), None) => {
                self.finish = data_of(&events[at..]).next().map(<[u8]>::to_vec);
                data_of(&events[at..]).nth(1).is_some()
            }
            (_, Some(_)) => !events.is_empty(),
            (None, None) => false,
        };
        self.has_usage |= after_finish;
        if let Form::Events(waiting) = &mut self.form {
            let is_last = self.has_usage || (self.finish.is_some() && !self.include_usage);
            if is_last && self.joins.exactness == Some(Exactness::Approximate) {
                mark_approximate(&mut events);
            }
            if waiting.is_empty() {
                *waiting = events;
            } else {
                waiting.append(&mut events);
            }
        }
        Ok(is_full.then_some(NotResumable::Buffer))
    }

    /// Another stream goes on from here.
    pub(crate) fn joined(
        &mut self,
        start: StreamPosition,
        exactness: Exactness,
        gap: Duration,
        expected: Duration,
    ) {
        self.position = start;
        self.joins.count += 1;
        self.joins.exactness = self.joins.exactness.max(Some(exactness));
        self.joins.longest_gap = self.joins.longest_gap.max(gap);
        self.joins.expected_gap = expected;
    }

    /// Makes the rest of an answer whose stream is over: after its last token nothing is left that only an engine
    /// could say.
    pub(crate) fn finish(&mut self) {
        // A server without an agent that says no usage has none that would be its own.
        let is_plain = matches!(self.kept, Err(NotResumable::Plain));
        let is_owed = self.include_usage && !self.has_usage && !is_plain;
        if let (true, Form::Events(events), Some(finish)) = (is_owed, &mut self.form, &self.finish) {
            let usage = Usage::new(self.prompt_tokens, self.position.position());
            if let Some(mut data) = usage_chunk(self.endpoint, finish, usage) {
                if self.joins.exactness == Some(Exactness::Approximate) {
                    data.pop();
                    data.extend_from_slice(APPROXIMATE);
                }
                sse::write_event(events, None, &data);
                self.has_usage = true;
            }
        }
        if let Form::Events(events) = &mut self.form {
            if let Some(exactness) = self.joins.exactness {
                sse::write_comment(events, &format_args!("rhumb-resume {exactness}"));
            }
            sse::write_event(events, None, DONE);
        }
        self.is_complete = true;
    }

    /// The last token is here, and no engine is needed for what is missing.
    pub(crate) fn has_finished(&self) -> bool {
        self.finishes_alone && self.finish.is_some()
    }

    /// Nothing will follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub(crate) fn position(&self) -> StreamPosition {
        self.position
    }

    pub(crate) fn completion_tokens(&self) -> u64 {
        self.position.position()
    }

    pub(crate) fn kept(&self) -> Result<&Kept, NotResumable> {
        self.kept.as_ref().map_err(|reason| *reason)
    }

    pub(crate) fn delivered(&self) -> Delivered {
        let (prompt_tokens, completion_tokens) = (self.prompt_tokens, self.completion_tokens());
        Delivered { prompt_tokens, completion_tokens, joins: self.joins }
    }

    /// The events that wait for the client.
    pub(crate) fn take_events(&mut self) -> Vec<u8> {
        match &mut self.form {
            Form::Events(events) => std::mem::take(events),
            Form::Whole(_) | Form::Json(_) => Vec::new(),
        }
    }

    /// The JSON of the whole answer.
    pub(crate) fn into_whole(self) -> Result<Vec<u8>, BrokenAnswer> {
        let usage = Usage::new(self.prompt_tokens, self.position.position());
        match self.form {
            Form::Whole(answer) => answer.finish(usage).map(String::into_bytes),
            Form::Json(json) => Ok(json),
            Form::Events(_) => Err(BrokenAnswer::Unfinished),
        }
    }
}

impl Exactness {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Approximate => "approximate",
        }
    }
}

impl fmt::Display for Exactness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl NotResumable {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::SeveralAnswers => "several-answers",
            Self::Plain => "plain",
            Self::Buffer => "buffer",
        }
    }
}

/// The data of events that were written here, so each is one line.
fn data_of(events: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = events.split(|byte| *byte == b'\n');
    lines.filter_map(|line| line.strip_prefix(b"data: "))
}

/// Says in the last chunk that the answer is not quite the one that would have come.
fn mark_approximate(events: &mut Vec<u8>) {
    if let Some(end) = events.len().checked_sub(b"}\n\n".len()).filter(|end| events[*end..] == *b"}\n\n") {
        events.truncate(end);
        events.extend_from_slice(APPROXIMATE);
        events.extend_from_slice(b"\n\n");
    }
}

/// What was used, under the name of the answer. `None` if the chunk before it cannot be read.
fn usage_chunk(endpoint: Endpoint, finish: &[u8], usage: Usage) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
        created: u64,
        #[serde(borrow)]
        model: Cow<'a, str>,
    }
    let Named { id, created, model } = serde_json::from_slice(finish).ok()?;
    let (id, model, usage) = (&*id, &*model, Some(Some(usage)));
    let json = match endpoint {
        Endpoint::Chat => serde_json::to_vec(&ChatChunk {
            id,
            object: CHAT_CHUNK,
            created,
            model,
            choices: Vec::new(),
            usage,
        }),
        Endpoint::Completions => serde_json::to_vec(&CompletionChunk {
            id,
            object: TEXT_COMPLETION,
            created,
            model,
            choices: Vec::new(),
            usage,
        }),
    };
    json.ok()
}

/// In place of a chunk's last brace.
const APPROXIMATE: &[u8] = br#","rhumb":{"resume":"approximate"}}"#;

#[cfg(test)]
mod tests {
    use super::*;
    use types::PrefixHash;

    #[test]
    fn an_answer_that_was_approximate_once_says_so_at_its_end_whoever_makes_it() {
        let start = StreamPosition::start(PrefixHash::of_prompt(&[]));
        let mut progress = Progress::streamed(Endpoint::Chat, true, start, 3, Err(NotResumable::Policy));
        let last = r#"{"id":"x","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop"}]}"#;
        let events = format!("data: {last}\n\n").into_bytes();
        let batch =
            Batch { position: start, token_ids: Vec::new(), events, prompt_tokens: None, finish_at: Some(0) };
        progress.take(batch).unwrap();
        for exactness in [Exactness::Approximate, Exactness::Exact] {
            progress.joined(start, exactness, Duration::ZERO, Duration::ZERO);
        }
        progress.finish();
        let events = String::from_utf8(progress.take_events()).unwrap();
        let end = r#""rhumb":{"resume":"approximate"}}"#.to_owned()
            + "\n\n: rhumb-resume approximate\n\ndata: [DONE]\n\n";
        assert!(events.contains(r#""usage":{"#) && events.ends_with(&end), "{events}");
    }
}
