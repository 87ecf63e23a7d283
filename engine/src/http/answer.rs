//! From events to bytes: the annotated stream, the plain stream, and the whole answer.

use super::ask::{Head, Style};
use super::refuse::Refusal;
use super::{Served, name};
use crate::metrics::Outcome;
use crate::queue::Event;
use crate::stop::Piece;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use openai::chunk::{CHAT_CHUNK, ChatChoice, CompletionChoice, Delta, TEXT_COMPLETION};
use openai::{Assembler, ChatChunk, CompletionChunk, Endpoint, FinishReason, Usage, sse};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::mpsc::Receiver;
use types::{EventId, PrefixHash, StreamPosition, header as internal};

/// What an answer needs to know of its prompt.
#[derive(Debug, Clone, Copy)]
pub struct Prompt {
    tokens: usize,
    hash: PrefixHash,
}

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
    prompt: Prompt,
    position: StreamPosition,
}

impl Prompt {
    pub fn of(ids: &[u32]) -> Self {
        Self { tokens: ids.len(), hash: PrefixHash::of_prompt(ids) }
    }
}

impl Writer {
    pub fn new(endpoint: Endpoint, head: &Head, style: &Style, prompt: Prompt) -> Self {
        Self {
            endpoint,
            id: format!("{}{}", endpoint.id_prefix(), head.request_id),
            created: head.created,
            model: style.model.clone(),
            annotated: head.annotated,
            include_usage: style.include_usage,
            echo: Some(style.echo.clone()),
            prompt,
            position: StreamPosition::start(prompt.hash),
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
                self.chat(vec![ChatChoice { index: 0, delta, logprobs: None, finish_reason }], usage)
            }
            Endpoint::Completions => {
                let choice = CompletionChoice { index: 0, text: &text, logprobs: None, finish_reason };
                self.completion(vec![choice], usage)
            }
        };
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
        Usage::new(self.prompt.tokens as u64, self.position.position())
    }

    /// Adds all that an event puts on the wire. False after the last.
    fn write(&mut self, out: &mut Vec<u8>, event: Option<Event>, served: &Served) -> bool {
        let (piece, finish_reason) = match event {
            Some(Event::Text(piece)) => (piece, None),
            Some(Event::End(last, reason)) => (last, Some(reason)),
            failed @ (Some(Event::Failed) | None) => {
                if failed.is_none() {
                    // The step loop is gone, and did not count it.
                    served.metrics.ended(Outcome::Failed);
                }
                // No [DONE] follows: clients take a stream without it for broken, which it is.
                sse::write_event(out, None, Refusal::Lost.to_client().1.to_json().as_bytes());
                return false;
            }
        };
        let chunk = self.chunk(piece, finish_reason);
        self.write_chunk(out, &chunk);
        if finish_reason.is_none() {
            return true;
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
        false
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
    let state = Some((served, events, writer));
    let body = futures_util::stream::unfold(state, |state| async {
        let (served, mut events, mut writer) = state?;
        let mut out = Vec::new();
        let mut goes_on = writer.write(&mut out, events.recv().await, &served);
        // What a slow reader let pile up goes out in one write.
        while goes_on && out.len() < WRITE_BYTES {
            let Ok(event) = events.try_recv() else { break };
            goes_on = writer.write(&mut out, Some(event), &served);
        }
        Some((Ok::<_, Infallible>(Bytes::from(out)), goes_on.then_some((served, events, writer))))
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
        say(name(internal::PROMPT_TOKENS), writer.prompt.tokens.to_string());
        say(name(internal::PREFIX_HASH), writer.prompt.hash.to_string());
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
