//! Whole answers, assembled from the chunks of a stream.
//!
//! Rhumb always streams inside, so that a long answer shows signs of life; a client that did not ask for a
//! stream gets this.

use crate::Endpoint;
use crate::chunk::{FinishReason, TEXT_COMPLETION, Usage};
use crate::logprobs::{Joined, Part};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Takes chunks in order and makes one answer of them.
#[derive(Debug)]
pub struct Assembler {
    endpoint: Endpoint,
    head: Option<Head>,
    text: String,
    refusal: String,
    tool_calls: BTreeMap<u64, ToolCall>,
    /// What the three hold, in bytes.
    held: usize,
    /// None unless a chunk had any.
    logprobs: Option<Joined>,
    finish_reason: Option<FinishReason>,
}

/// Why chunks make no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokenAnswer {
    #[error("a chunk of the stream has not the expected shape")]
    BadChunk,
    #[error("the stream ended without a finish reason")]
    Unfinished,
    #[error("the answer is longer than {TEXT_BYTES_MAX} bytes, or its logprobs than {LOGPROBS_BYTES_MAX}")]
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
        Self {
            endpoint,
            head: None,
            text: String::new(),
            refusal: String::new(),
            tool_calls: BTreeMap::new(),
            held: 0,
            logprobs: None,
            finish_reason: None,
        }
    }

    /// Adds the data of one event.
    pub fn add(&mut self, data: &[u8]) -> Result<(), BrokenAnswer> {
        let chunk: Chunk<'_> = serde_json::from_slice(data).map_err(|_| BrokenAnswer::BadChunk)?;
        let Chunk { id, created, model, choices } = chunk;
        self.head.get_or_insert_with(|| Head { id: id.into_owned(), created, model: model.into_owned() });
        for choice in choices {
            if choice.index > 0 {
                // Inside, one stream is one answer.
                return Err(BrokenAnswer::BadChunk);
            }
            let delta = choice.delta.unwrap_or_default();
            let text = match self.endpoint {
                Endpoint::Chat => delta.content,
                Endpoint::Completions => choice.text,
            };
            let (text, refusal) = (self.held(text)?, self.held(delta.refusal)?);
            self.text.push_str(&text);
            self.refusal.push_str(&refusal);
            for part in delta.tool_calls.unwrap_or_default() {
                self.add_to_call(part)?;
            }
            if let Some(logprobs) = choice.logprobs {
                let joined = self.logprobs.get_or_insert_default();
                joined.add(logprobs);
                if joined.bytes() > LOGPROBS_BYTES_MAX {
                    return Err(BrokenAnswer::TooLong);
                }
            }
            self.finish_reason = self.finish_reason.or(choice.finish_reason);
        }
        Ok(())
    }

    /// A call's name and id come with its first part, its arguments piece by piece.
    fn add_to_call(&mut self, part: ToolCallPart<'_>) -> Result<(), BrokenAnswer> {
        let function = part.function.unwrap_or_default();
        let [id, name, arguments] = [part.id, function.name, function.arguments];
        let [id, name, arguments] = [self.held(id)?, self.held(name)?, self.held(arguments)?];
        self.held += TOOL_CALL_BYTES;
        let call = self.tool_calls.entry(part.index).or_default();
        call.id.push_str(&id);
        call.function.name.push_str(&name);
        call.function.arguments.push_str(&arguments);
        Ok(())
    }

    fn held<'a>(&mut self, text: Option<Cow<'a, str>>) -> Result<Cow<'a, str>, BrokenAnswer> {
        let text = text.unwrap_or_default();
        self.held += text.len();
        if self.held > TEXT_BYTES_MAX { Err(BrokenAnswer::TooLong) } else { Ok(text) }
    }

    /// The JSON of the whole answer.
    pub fn finish(self, usage: Usage) -> Result<String, BrokenAnswer> {
        let head = self.head.ok_or(BrokenAnswer::Unfinished)?;
        let finish_reason = self.finish_reason.ok_or(BrokenAnswer::Unfinished)?;
        let is_text_only = self.refusal.is_empty() && self.tool_calls.is_empty();
        let json = match self.endpoint {
            Endpoint::Chat => serde_json::to_string(&ChatCompletion {
                id: &head.id,
                object: "chat.completion",
                created: head.created,
                model: &head.model,
                choices: [ChatAnswer {
                    index: 0,
                    message: AnswerMessage {
                        role: "assistant",
                        // Who only calls or refuses says nothing, which is not the same as an empty text.
                        content: (!self.text.is_empty() || is_text_only).then_some(&self.text),
                        refusal: (!self.refusal.is_empty()).then_some(&self.refusal),
                        tool_calls: self.tool_calls.into_values().collect(),
                    },
                    logprobs: self.logprobs.as_ref().map(Joined::of_chat),
                    finish_reason,
                }],
                usage,
            }),
            Endpoint::Completions => serde_json::to_string(&Completion {
                id: &head.id,
                object: TEXT_COMPLETION,
                created: head.created,
                model: &head.model,
                choices: [CompletionAnswer {
                    index: 0,
                    text: &self.text,
                    logprobs: self.logprobs.as_ref().map(Joined::of_completion),
                    finish_reason,
                }],
                usage,
            }),
        };
        Ok(json.expect("strings and numbers always serialise"))
    }
}

/// A million tokens are some 4 MiB; only a broken engine goes on for longer.
pub(crate) const TEXT_BYTES_MAX: usize = 16 << 20;
/// What a part of a call costs besides its words.
const TOOL_CALL_BYTES: usize = 64;
/// Twenty alternatives to a token are some 1.5 KiB: room for twenty thousand tokens with all of them. Whoever wants
/// more reads the stream.
const LOGPROBS_BYTES_MAX: usize = 32 << 20;

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
    #[serde(default)]
    index: u64,
    #[serde(borrow)]
    delta: Option<ChunkDelta<'a>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    logprobs: Option<Part<'a>>,
    finish_reason: Option<FinishReason>,
}

#[derive(Deserialize, Default)]
struct ChunkDelta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    refusal: Option<Cow<'a, str>>,
    #[serde(borrow)]
    tool_calls: Option<Vec<ToolCallPart<'a>>>,
}

#[derive(Deserialize)]
struct ToolCallPart<'a> {
    index: u64,
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    function: Option<FunctionPart<'a>>,
}

#[derive(Deserialize, Default)]
struct FunctionPart<'a> {
    name: Option<Cow<'a, str>>,
    arguments: Option<Cow<'a, str>>,
}

#[derive(Debug, Default, Serialize)]
struct ToolCall {
    id: String,
    #[serde(rename = "type")]
    kind: Function,
    function: CalledFunction,
}

/// The one type of call that streams.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
enum Function {
    #[default]
    Function,
}

#[derive(Debug, Default, Serialize)]
struct CalledFunction {
    name: String,
    arguments: String,
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
    logprobs: Option<Box<RawValue>>,
    finish_reason: FinishReason,
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [CompletionAnswer<'a>; 1],
    usage: Usage,
}

#[derive(Serialize)]
struct CompletionAnswer<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<Box<RawValue>>,
    finish_reason: FinishReason,
}

#[derive(Serialize)]
struct AnswerMessage<'a> {
    role: &'static str,
    content: Option<&'a String>,
    refusal: Option<&'a String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
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
    fn calls_are_joined_by_their_index_and_a_refusal_is_no_text() {
        let of =
            |choices: &str| format!(r#"{{"id":"chatcmpl-1","created":5,"model":"m","choices":[{choices}]}}"#);
        let mut whole = Assembler::new(Endpoint::Chat);
        for delta in [
            r#"{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}"#,
            r#"{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"[1"}},{"index":0,"function":{"arguments":"{\"x\""}}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"arguments":":1}"}},{"index":1,"function":{"arguments":"]"}}]}"#,
        ] {
            whole
                .add(of(&format!(r#"{{"index":0,"delta":{delta},"finish_reason":null}}"#)).as_bytes())
                .unwrap();
        }
        whole
            .add(of(r#"{"index":0,"delta":{"refusal":"No."},"finish_reason":"tool_calls"}"#).as_bytes())
            .unwrap();
        insta::assert_snapshot!(whole.finish(Usage::new(3, 2)).unwrap());

        let second = of(r#"{"index":1,"delta":{"content":"x"}}"#);
        assert_eq!(Assembler::new(Endpoint::Chat).add(second.as_bytes()), Err(BrokenAnswer::BadChunk));
    }

    #[test]
    fn logprobs_are_joined_digit_by_digit() {
        let mut chat = Assembler::new(Endpoint::Chat);
        for (entry, reason) in [("1,\"x\":-0.10", "null"), ("2,\"x\":[1e-7]", "\"stop\"")] {
            let chunk = format!(
                r#"{{"id":"i","created":1,"model":"m","choices":[{{"delta":{{"content":"a"}},"logprobs":{{"content":[{{"t":{entry}}}],"refusal":null}},"finish_reason":{reason}}}]}}"#
            );
            chat.add(chunk.as_bytes()).unwrap();
        }
        let whole = chat.finish(Usage::new(1, 2)).unwrap();
        let joined = r#""logprobs":{"content":[{"t":1,"x":-0.10},{"t":2,"x":[1e-7]}],"refusal":null}"#;
        assert!(whole.contains(joined), "{whole}");
        let mut text = Assembler::new(Endpoint::Completions);
        for (offset, reason) in [(0, "null"), (3, "\"length\"")] {
            let chunk = format!(
                r#"{{"id":"i","created":1,"model":"m","choices":[{{"text":"abc","logprobs":{{"tokens":["abc"],"token_logprobs":[-1.5],"top_logprobs":[{{"abc":-1.5}}],"text_offset":[{offset}]}},"finish_reason":{reason}}}]}}"#
            );
            text.add(chunk.as_bytes()).unwrap();
        }
        let whole = text.finish(Usage::new(1, 2)).unwrap();
        let joined = r#""logprobs":{"tokens":["abc","abc"],"token_logprobs":[-1.5,-1.5],"top_logprobs":[{"abc":-1.5},{"abc":-1.5}],"text_offset":[0,3]}"#;
        assert!(whole.contains(joined), "{whole}");
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
