//! Whole answers, assembled from the chunks of a stream.
//!
//! Rhumb always streams inside, so that a long answer shows signs of life; a client that did not ask for a
//! stream gets this.

use crate::Endpoint;
use crate::chunk::{CompletionChoice, CompletionChunk, FinishReason, TEXT_COMPLETION, Usage};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Takes chunks in order and makes one answer of them.
#[derive(Debug)]
pub struct Assembler {
    endpoint: Endpoint,
    head: Option<Head>,
    text: String,
    finish_reason: Option<FinishReason>,
}

/// Why chunks make no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenAnswer {
    #[error("a chunk of the stream has not the expected shape")]
    BadChunk,
    #[error("the stream ended without a finish reason")]
    Unfinished,
    #[error("the answer is longer than {TEXT_BYTES_MAX} bytes")]
    TooLong,
}

#[derive(Debug)]
struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Assembler {
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, head: None, text: String::new(), finish_reason: None }
    }

    /// Adds the data of one event.
    pub fn add(&mut self, data: &[u8]) -> Result<(), BrokenAnswer> {
        let chunk: Chunk<'_> = serde_json::from_slice(data).map_err(|_| BrokenAnswer::BadChunk)?;
        let Chunk { id, created, model, choices } = chunk;
        self.head.get_or_insert_with(|| Head { id: id.into_owned(), created, model: model.into_owned() });
        for choice in choices {
            let text = match self.endpoint {
                Endpoint::Chat => choice.delta.and_then(|delta| delta.content),
                Endpoint::Completions => choice.text,
            };
            let text = text.unwrap_or_default();
            if self.text.len() + text.len() > TEXT_BYTES_MAX {
                return Err(BrokenAnswer::TooLong);
            }
            self.text.push_str(&text);
            self.finish_reason = self.finish_reason.or(choice.finish_reason);
        }
        Ok(())
    }

    /// The JSON of the whole answer.
    pub fn finish(self, usage: Usage) -> Result<String, BrokenAnswer> {
        let head = self.head.ok_or(BrokenAnswer::Unfinished)?;
        let finish_reason = self.finish_reason.ok_or(BrokenAnswer::Unfinished)?;
        let json = match self.endpoint {
            Endpoint::Chat => serde_json::to_string(&ChatCompletion {
                id: &head.id,
                object: "chat.completion",
                created: head.created,
                model: &head.model,
                choices: [ChatAnswer {
                    index: 0,
                    message: AnswerMessage { role: "assistant", content: &self.text, refusal: None },
                    logprobs: None,
                    finish_reason,
                }],
                usage,
            }),
            Endpoint::Completions => serde_json::to_string(&CompletionChunk {
                id: &head.id,
                object: TEXT_COMPLETION,
                created: head.created,
                model: &head.model,
                choices: vec![CompletionChoice {
                    index: 0,
                    text: &self.text,
                    logprobs: None,
                    finish_reason: Some(finish_reason),
                }],
                usage: Some(Some(usage)),
            }),
        };
        Ok(json.expect("strings and numbers always serialise"))
    }
}

/// A million tokens are some 4 MiB; only a broken engine goes on for longer.
pub(crate) const TEXT_BYTES_MAX: usize = 16 << 20;

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    created: u64,
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<ChunkDelta<'a>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    finish_reason: Option<FinishReason>,
}

#[derive(Deserialize)]
struct ChunkDelta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct ChatCompletion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [ChatAnswer<'a>; 1],
    usage: Usage,
}

#[derive(Serialize)]
struct ChatAnswer<'a> {
    index: u32,
    message: AnswerMessage<'a>,
    logprobs: Option<()>,
    finish_reason: FinishReason,
}

#[derive(Serialize)]
struct AnswerMessage<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<()>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{CHAT_CHUNK, ChatChoice, ChatChunk, Delta};

    fn chunk(content: &str, finish_reason: Option<FinishReason>) -> Vec<u8> {
        let delta = Delta { role: None, content: Some(content) };
        let choices = vec![ChatChoice { index: 0, delta, logprobs: None, finish_reason }];
        let chunk =
            ChatChunk { id: "chatcmpl-1", object: CHAT_CHUNK, created: 5, model: "m", choices, usage: None };
        serde_json::to_vec(&chunk).unwrap()
    }

    #[test]
    fn a_chat_is_the_sum_of_its_chunks() {
        let mut whole = Assembler::new(Endpoint::Chat);
        whole.add(&chunk("Hello", None)).unwrap();
        whole.add(&chunk(" \"you\"", Some(FinishReason::Stop))).unwrap();
        whole.add(br#"{"id":"x","created":5,"model":"m","choices":[],"usage":{}}"#).unwrap();
        insta::assert_snapshot!(whole.finish(Usage::new(3, 2)).unwrap(), @r#"{"id":"chatcmpl-1","object":"chat.completion","created":5,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello \"you\"","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#);
    }

    #[test]
    fn half_an_answer_is_none() {
        let mut half = Assembler::new(Endpoint::Chat);
        half.add(&chunk("Hel", None)).unwrap();
        assert_eq!(half.finish(Usage::new(1, 1)), Err(BrokenAnswer::Unfinished));
        assert_eq!(Assembler::new(Endpoint::Chat).add(b"{"), Err(BrokenAnswer::BadChunk));
    }

    #[test]
    fn an_endless_answer_is_refused() {
        let mut endless = Assembler::new(Endpoint::Chat);
        let piece = chunk(&"x".repeat(1 << 20), None);
        let refused = (0..20).find_map(|_| endless.add(&piece).err());
        assert_eq!(refused, Some(BrokenAnswer::TooLong));
    }
}
