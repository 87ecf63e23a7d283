//! From events to bytes: the annotated stream, the plain stream, and the whole answer.

use super::ask::{Head, Style};
use super::refuse::Refusal;
use super::{Served, logprobs, name};
use crate::metrics::Outcome;
use crate::queue::Event;
use crate::sequence::Sequence;
use crate::stop::Piece;
use crate::tokenizer::Tokenizer;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use openai::chunk::{CHAT_CHUNK, ChatChoice, CompletionChoice, Delta, TEXT_COMPLETION};
use openai::{Assembler, ChatChunk, CompletionChunk, Endpoint, FinishReason, Usage, sse};
use std::sync::Arc;
use tokio::sync::mpsc::Receiver;
use types::{EventId, PrefixHash, StreamPosition, header as internal};

/// Writes the chunks of one answer.
#[derive(Debug)]
pub struct Writer {
    endpoint: Endpoint,
    id: String,
    created: u64,
    model: String,
    annotated: bool,
    include_usage: bool,
    /// Goes out with the first chunk.
    echo: Option<String>,
    prompt_tokens: usize,
    position: StreamPosition,
    /// Characters of text so far.
    characters: usize,
    tokenizer: Arc<Tokenizer>,
}

/// What follows the bytes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoesOn,
    Ends,
    /// The connection closes in the middle of the body.
    BreaksOff,
}

#[derive(Debug, thiserror::Error)]
#[error("the engine cannot go on with this answer")]
struct BrokenOff;

impl Writer {
    pub fn new(served: &Served, head: &Head, style: &Style, sequence: &Sequence) -> Self {
        let mut position = StreamPosition::start(PrefixHash::of_prompt(sequence.prompt()));
        position.release(sequence.resumed().to_vec());
        let is_begun = position.position() > 0;
        Self {
            endpoint: style.endpoint,
            id: format!("{}{}", style.endpoint.id_prefix(), head.request_id),
            created: head.created,
            model: style.model.clone(),
            annotated: head.annotated,
            include_usage: style.include_usage,
            echo: (!is_begun).then(|| style.echo.clone()),
            prompt_tokens: sequence.prompt().len(),
            position,
            characters: sequence.resumed_characters() + if is_begun { style.echo.chars().count() } else { 0 },
            tokenizer: Arc::clone(&served.tokenizer),
        }
    }

    /// The chunk that releases a piece.
    fn chunk(&mut self, piece: Piece, finish_reason: Option<FinishReason>) -> (EventId, Vec<u8>) {
        let event_id = self.position.release(piece.ids);
        let echo = self.echo.take();
        let first = echo.is_some();
        let text = echo.unwrap_or_default() + &piece.text;
        let usage = self.include_usage.then_some(None);
        let data = match self.endpoint {
            Endpoint::Chat => {
                let delta = Delta {
                    role: first.then_some("assistant"),
                    content: (first || !text.is_empty()).then_some(text.as_str()),
                };
                let logprobs = logprobs::of_chat(&piece.logprobs, &self.tokenizer);
                self.chat(vec![ChatChoice { index: 0, delta, logprobs, finish_reason }], usage)
            }
            Endpoint::Completions => {
                let logprobs = logprobs::of_completion(&piece.logprobs, &self.tokenizer, self.characters);
                let choice = CompletionChoice { index: 0, text: &text, logprobs, finish_reason };
                self.completion(vec![choice], usage)
            }
        };
        self.characters += text.chars().count();
        (event_id, data)
    }

    /// The last chunk, without tokens: what was used.
    fn usage_chunk(&mut self) -> (EventId, Vec<u8>) {
        let usage = Some(Some(self.usage()));
        let data = match self.endpoint {
            Endpoint::Chat => self.chat(Vec::new(), usage),
            Endpoint::Completions => self.completion(Vec::new(), usage),
        };
        (self.position.release(Vec::new()), data)
    }

    fn chat(&self, choices: Vec<ChatChoice<'_>>, usage: Option<Option<Usage>>) -> Vec<u8> {
        let Self { id, created, model, .. } = self;
        json(&ChatChunk { id, object: CHAT_CHUNK, created: *created, model, choices, usage })
    }

    fn completion(&self, choices: Vec<CompletionChoice<'_>>, usage: Option<Option<Usage>>) -> Vec<u8> {
        let Self { id, created, model, .. } = self;
        json(&CompletionChunk { id, object: TEXT_COMPLETION, created: *created, model, choices, usage })
    }

    fn usage(&self) -> Usage {
        Usage::new(self.prompt_tokens as u64, self.position.position())
    }

    /// Adds all that an event puts on the wire.
    fn write(&mut self, out: &mut Vec<u8>, event: Option<Event>, served: &Served) -> Then {
        let (piece, finish_reason) = match event {
            Some(Event::Text(piece)) => (piece, None),
            Some(Event::End(last, reason)) => (last, Some(reason)),
            failed @ (Some(Event::Failed) | None) => {
                if failed.is_none() {
                    // The step loop is gone, and did not count it.
                    served.metrics.ended(Outcome::Failed);
                }
                if self.annotated {
                    // Whoever can go on elsewhere must see at once that this is no end.
                    return Then::BreaksOff;
                }
                // No [DONE] follows: clients take a stream without it for broken, which it is.
                sse::write_event(out, None, Refusal::Lost.to_client().1.to_json().as_bytes());
                return Then::Ends;
            }
        };
        let chunk = self.chunk(piece, finish_reason);
        self.write_chunk(out, &chunk);
        if finish_reason.is_none() {
            return Then::GoesOn;
        }
        if self.include_usage {
            let chunk = self.usage_chunk();
            self.write_chunk(out, &chunk);
        }
        if self.annotated {
            let frame = served.queue.load_frame();
            sse::write_comment(out, &format_args!("{}{frame}", internal::LOAD_COMMENT));
        }
        sse::write_event(out, None, sse::DONE);
        Then::Ends
    }

    fn write_chunk(&self, out: &mut Vec<u8>, (id, data): &(EventId, Vec<u8>)) {
        let id: Option<&dyn std::fmt::Display> = if self.annotated { Some(id) } else { None };
        sse::write_event(out, id, data);
    }
}

/// Streams events as they come. When the client leaves, the body is dropped, and with it the receiver: that
/// cancels the task.
pub fn stream(served: Arc<Served>, events: Receiver<Event>, writer: Writer) -> Response {
    let headers = stream_headers(&served, &writer);
    let state = (Then::GoesOn, served, events, writer);
    let body = futures_util::stream::unfold(state, |(then, served, mut events, mut writer)| async move {
        match then {
            Then::GoesOn => {}
            Then::Ends => return None,
            Then::BreaksOff => return Some((Err(BrokenOff), (Then::Ends, served, events, writer))),
        }
        let mut out = Vec::new();
        let mut then = writer.write(&mut out, events.recv().await, &served);
        // What a slow reader let pile up goes out in one write.
        while then == Then::GoesOn && out.len() < WRITE_BYTES {
            let Ok(event) = events.try_recv() else { break };
            then = writer.write(&mut out, Some(event), &served);
        }
        Some((Ok(Bytes::from(out)), (then, served, events, writer)))
    });
    (headers, Body::from_stream(body)).into_response()
}

/// Waits for the end and answers in one piece.
pub async fn whole(mut events: Receiver<Event>, mut writer: Writer) -> Result<Response, Refusal> {
    let mut assembler = Assembler::new(writer.endpoint);
    loop {
        let (piece, finish_reason) = match events.recv().await {
            Some(Event::Text(piece)) => (piece, None),
            Some(Event::End(last, reason)) => (last, Some(reason)),
            Some(Event::Failed) => return Err(Refusal::GivenUp),
            None => return Err(Refusal::Lost),
        };
        let (_, data) = writer.chunk(piece, finish_reason);
        // The step loop counts it all the same, as ended or as abandoned.
        assembler.add(&data).map_err(|_| Refusal::GivenUp)?;
        if finish_reason.is_some() {
            break;
        }
    }
    let answer = assembler.finish(writer.usage()).map_err(|_| Refusal::GivenUp)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], answer).into_response())
}

fn stream_headers(served: &Served, writer: &Writer) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if writer.annotated {
        let mut say = |name: HeaderName, value: String| {
            headers.insert(name, HeaderValue::from_str(&value).expect("ids and numbers are plain text"));
        };
        say(name(internal::PROMPT_TOKENS), writer.prompt_tokens.to_string());
        say(name(internal::PREFIX_HASH), writer.position.hash().to_string());
        say(name(internal::LOAD), served.queue.load_frame().to_string());
        if let Some(replica) = &served.replica {
            say(name(internal::REPLICA), replica.to_string());
        }
    }
    headers
}

fn json(chunk: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(chunk).expect("strings and numbers always serialise")
}

/// One write carries no more than this, unless one event alone is longer.
const WRITE_BYTES: usize = 64 << 10;
