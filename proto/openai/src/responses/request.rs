//! What a client asks of `/v1/responses`, as the body of a chat.

mod chat;

use crate::error::{BadRequest, parse, parse_within};
use chat::*;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// A request for a response, understood.
#[derive(Debug, Clone)]
pub struct ResponsesRequest {
    /// The body of the chat that answers it.
    pub chat: Vec<u8>,
    pub echo: Echo,
}

/// What a response repeats of its request.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Echo {
    instructions: Option<String>,
    max_output_tokens: Option<u64>,
    max_tool_calls: Option<u64>,
    metadata: Option<Box<RawValue>>,
    parallel_tool_calls: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Box<RawValue>>,
    temperature: Option<f64>,
    text: Option<Box<RawValue>>,
    tool_choice: Option<Box<RawValue>>,
    tools: Option<Box<RawValue>>,
    top_logprobs: Option<u64>,
    top_p: Option<f64>,
    truncation: &'static str,
    user: Option<String>,
}

impl ResponsesRequest {
    pub fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        let wire: Wire<'_> = parse(body)?;
        wire.refuse_state()?;
        let input = wire.input.as_ref().ok_or_else(|| missing("input"))?;
        let mut messages = Vec::new();
        if let Some(instructions) = &wire.instructions {
            messages.push(ChatMessage::of("system", ChatContent::Text(instructions.as_ref().into())));
        }
        let contents = contents(input)?;
        add_input(&mut messages, input, &contents)?;
        let text: Option<Text<'_>> = wire.text.map(|text| parse_within(text, "text")).transpose()?;
        let (format, verbosity) = text.map_or((None, None), |text| (text.format, text.verbosity));
        let reasoning: Option<Reasoning<'_>> =
            wire.reasoning.map(|reasoning| parse_within(reasoning, "reasoning")).transpose()?;
        let stream = wire.stream.unwrap_or(false);
        let chat = Chat {
            model: &wire.model,
            messages,
            stream: stream.then_some(true),
            // The last event of a response tells the tokens, asked or not.
            stream_options: stream.then_some(StreamOptions { include_usage: true }),
            max_completion_tokens: wire.max_output_tokens,
            tools: chat_tools(wire.tools)?,
            tool_choice: wire.tool_choice.map(chat_tool_choice).transpose()?,
            parallel_tool_calls: wire.parallel_tool_calls,
            response_format: format.map(chat_format).transpose()?.flatten(),
            reasoning_effort: reasoning.and_then(|reasoning| reasoning.effort),
            verbosity,
            logprobs: wire.wants_logprobs().then_some(true),
            temperature: wire.temperature,
            top_p: wire.top_p,
            top_logprobs: wire.top_logprobs,
            user: wire.user.as_deref(),
            sampling: wire.sampling(),
        };
        let chat = serde_json::to_vec(&chat).expect("strings and numbers always serialise");
        Ok(Self { chat, echo: wire.into_echo() })
    }
}

/// The fields of a request. Those that only matter to a store, a cache or a bill are skipped like unknown ones.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Wire<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    input: Option<TextOr<'a, Item<'a>>>,
    instructions: Option<Cow<'a, str>>,
    stream: Option<bool>,
    max_output_tokens: Option<u64>,
    max_tool_calls: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_logprobs: Option<u64>,
    include: Option<List<Cow<'a, str>>>,
    parallel_tool_calls: Option<bool>,
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_choice: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    user: Option<Cow<'a, str>>,
    truncation: Option<Cow<'a, str>>,
    // What needs an earlier response, or a later one.
    store: Option<bool>,
    background: Option<bool>,
    previous_response_id: Option<de::IgnoredAny>,
    conversation: Option<de::IgnoredAny>,
    prompt: Option<de::IgnoredAny>,
    context_management: Option<de::IgnoredAny>,
    moderation: Option<de::IgnoredAny>,
    // No fields of this API, but engines take them in chats, and clients that know them send them here too.
    #[serde(borrow)]
    seed: Option<&'a RawValue>,
    #[serde(borrow)]
    stop: Option<&'a RawValue>,
    #[serde(borrow)]
    top_k: Option<&'a RawValue>,
    #[serde(borrow)]
    min_p: Option<&'a RawValue>,
    #[serde(borrow)]
    presence_penalty: Option<&'a RawValue>,
    #[serde(borrow)]
    frequency_penalty: Option<&'a RawValue>,
    #[serde(borrow)]
    repetition_penalty: Option<&'a RawValue>,
    #[serde(borrow)]
    logit_bias: Option<&'a RawValue>,
    #[serde(borrow)]
    min_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    ignore_eos: Option<&'a RawValue>,
}

impl<'a> Wire<'a> {
    fn refuse_state(&self) -> Result<(), BadRequest> {
        const KEPT: &str = "no response is kept here; send the whole conversation as `input`";
        for (is_asked, param, reason) in [
            (self.previous_response_id.is_some(), "previous_response_id", KEPT),
            (self.conversation.is_some(), "conversation", KEPT),
            (self.store == Some(true), "store", "no response is kept here; leave it out or send false"),
            (self.background == Some(true), "background", "a response is answered on its own connection"),
            (self.prompt.is_some(), "prompt", "no prompt templates are kept here"),
            (self.context_management.is_some(), "context_management", "the context is used as it is sent"),
            (self.moderation.is_some(), "moderation", "ask /v1/moderations"),
            (
                self.truncation.as_deref().is_some_and(|wanted| wanted != "disabled"),
                "truncation",
                "the context is used as it is sent; only \"disabled\" is",
            ),
        ] {
            if is_asked {
                return Err(unsupported(param, reason));
            }
        }
        Ok(())
    }

    fn wants_logprobs(&self) -> bool {
        let included =
            self.include.iter().flat_map(|list| &list.0).any(|name| name == "message.output_text.logprobs");
        included || self.top_logprobs.is_some_and(|count| count > 0)
    }

    fn sampling(&self) -> Sampling<'a> {
        Sampling {
            seed: self.seed,
            stop: self.stop,
            top_k: self.top_k,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty: self.repetition_penalty,
            logit_bias: self.logit_bias,
            min_tokens: self.min_tokens,
            ignore_eos: self.ignore_eos,
        }
    }

    fn into_echo(self) -> Echo {
        let or = |given: Option<&RawValue>, default: &'static str| {
            let default = || RawValue::from_string(default.to_owned()).expect("JSON");
            Some(given.map_or_else(default, on_one_line))
        };
        Echo {
            instructions: self.instructions.map(Cow::into_owned),
            max_output_tokens: self.max_output_tokens,
            max_tool_calls: self.max_tool_calls,
            metadata: or(self.metadata, "{}"),
            parallel_tool_calls: self.parallel_tool_calls.unwrap_or(true),
            reasoning: self.reasoning.map(on_one_line),
            temperature: self.temperature,
            text: or(self.text, r#"{"format":{"type":"text"}}"#),
            tool_choice: or(self.tool_choice, r#""auto""#),
            tools: or(self.tools, "[]"),
            top_logprobs: self.top_logprobs,
            top_p: self.top_p,
            truncation: "disabled",
            user: self.user.map(Cow::into_owned),
        }
    }
}

/// The same value without the space around its parts, in which a line break would end an event's data.
fn on_one_line(value: &RawValue) -> Box<RawValue> {
    let mut compact = String::with_capacity(value.get().len());
    let (mut in_string, mut escaped) = (false, false);
    for one in value.get().chars() {
        if in_string {
            in_string = escaped || one != '"';
            escaped = !escaped && one == '\\';
        } else if one.is_ascii_whitespace() {
            continue;
        } else {
            in_string = one == '"';
        }
        compact.push(one);
    }
    RawValue::from_string(compact).expect("space outside of strings means nothing")
}

/// A string, or a list of something.
enum TextOr<'a, T> {
    Text(Cow<'a, str>),
    List(Vec<T>),
}

impl<'de: 'a, 'a, T: Deserialize<'de>> Deserialize<'de> for TextOr<'a, T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either<'a, T>(PhantomData<TextOr<'a, T>>);
        impl<'de: 'a, 'a, T: Deserialize<'de>> Visitor<'de> for Either<'a, T> {
            type Value = TextOr<'a, T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(TextOr::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(TextOr::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                all_of(list).map(TextOr::List)
            }
        }
        from.deserialize_any(Either(PhantomData))
    }
}

/// No longer than [`LIST_MAX`].
struct List<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Seq<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Seq<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                all_of(list).map(List)
            }
        }
        from.deserialize_seq(Seq(PhantomData))
    }
}

fn all_of<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(mut list: A) -> Result<Vec<T>, A::Error> {
    let mut all = Vec::new();
    while let Some(one) = list.next_element()? {
        if all.len() == LIST_MAX {
            return Err(de::Error::invalid_length(LIST_MAX + 1, &"a shorter list"));
        }
        all.push(one);
    }
    Ok(all)
}

/// One turn, of whatever kind. Flat, because serde loses the name of a wrong field in tagged enums.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Item<'a> {
    #[serde(rename = "type")]
    kind: Option<Cow<'a, str>>,
    role: Option<Cow<'a, str>>,
    /// Read one by one, so that there is a bound for all of them; likewise [`Self::output`].
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    call_id: Option<Cow<'a, str>>,
    name: Option<Cow<'a, str>>,
    arguments: Option<Cow<'a, str>>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Part<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    text: Option<Cow<'a, str>>,
    refusal: Option<Cow<'a, str>>,
    image_url: Option<Cow<'a, str>>,
    detail: Option<Cow<'a, str>>,
    #[serde(borrow)]
    input_audio: Option<&'a RawValue>,
}

/// What each item holds, if it is one that holds anything.
type Contents<'a> = Vec<Option<TextOr<'a, Part<'a>>>>;

fn contents<'a>(input: &TextOr<'a, Item<'a>>) -> Result<Contents<'a>, BadRequest> {
    let TextOr::List(items) = input else { return Ok(Vec::new()) };
    let mut parts = 0;
    let read = |(at, item): (usize, &Item<'a>)| {
        let (name, held) = match item.kind.as_deref().unwrap_or("message") {
            "message" => ("content", item.content),
            "function_call_output" => ("output", item.output),
            _ => return Ok(None),
        };
        let Some(held) = held else { return Ok(None) };
        let held: TextOr<'a, Part<'a>> = parse_within(held, &format!("input[{at}].{name}"))?;
        parts += if let TextOr::List(held) = &held { held.len() } else { 0 };
        if parts > PARTS_MAX {
            return Err(BadRequest::OutOfRange { param: "input", expected: "of fewer parts" });
        }
        Ok(Some(held))
    };
    items.iter().enumerate().map(read).collect()
}

fn add_input<'a>(
    messages: &mut Vec<ChatMessage<'a>>,
    input: &'a TextOr<'a, Item<'a>>,
    contents: &'a [Option<TextOr<'a, Part<'a>>>],
) -> Result<(), BadRequest> {
    let items = match input {
        TextOr::Text(text) => {
            messages.push(ChatMessage::of("user", ChatContent::Text(text.as_ref().into())));
            return Ok(());
        }
        TextOr::List(items) => items,
    };
    if items.is_empty() {
        return Err(BadRequest::OutOfRange { param: "input", expected: "at least one item" });
    }
    for (at, (item, held)) in items.iter().zip(contents).enumerate() {
        let field = |name: &str| format!("input[{at}].{name}");
        let required =
            |value: &'a Option<Cow<'a, str>>, name| value.as_deref().ok_or_else(|| missing(field(name)));
        match item.kind.as_deref().unwrap_or("message") {
            "message" => {
                let role = required(&item.role, "role")?;
                let content = held.as_ref().ok_or_else(|| missing(field("content")))?;
                messages.push(ChatMessage::of(role, chat_content(content, &field("content"))?));
            }
            "function_call" => {
                let call = ChatCall {
                    id: required(&item.call_id, "call_id")?,
                    kind: "function",
                    function: ChatCallFunction {
                        name: required(&item.name, "name")?,
                        arguments: required(&item.arguments, "arguments")?,
                    },
                };
                // What the model said and called at once is one turn of a chat.
                match messages.last_mut().filter(|last| last.role == "assistant") {
                    Some(last) => last.tool_calls.push(call),
                    None => messages.push(ChatMessage { tool_calls: vec![call], ..ChatMessage::silent() }),
                }
            }
            "function_call_output" => {
                let output = held.as_ref().ok_or_else(|| missing(field("output")))?;
                let content = chat_content(output, &field("output"))?;
                let tool_call_id = Some(required(&item.call_id, "call_id")?);
                messages.push(ChatMessage { tool_call_id, ..ChatMessage::of("tool", content) });
            }
            // A chat has no place for what a model thought in an earlier turn.
            "reasoning" => {}
            "item_reference" => {
                return Err(unsupported(field("type"), "no item is kept here; send it again"));
            }
            _ => return Err(unsupported(field("type"), "chats know no such item")),
        }
    }
    Ok(())
}

fn chat_content<'a>(content: &'a TextOr<'a, Part<'a>>, param: &str) -> Result<ChatContent<'a>, BadRequest> {
    let parts = match content {
        TextOr::Text(text) => return Ok(ChatContent::Text(text.as_ref().into())),
        TextOr::List(parts) => parts,
    };
    // Chat templates of many engines know a plain text only.
    if let [Part { kind, text: Some(text), .. }] = &parts[..]
        && is_text(kind)
    {
        return Ok(ChatContent::Text(text.as_ref().into()));
    }
    let parts = parts.iter().enumerate().map(|(at, part)| {
        let field = |name: &str| format!("{param}[{at}].{name}");
        Ok(match part.kind.as_ref() {
            kind if is_text(kind) => {
                ChatPart::Text { text: part.text.as_deref().ok_or_else(|| missing(field("text")))? }
            }
            "refusal" => ChatPart::Refusal {
                refusal: part.refusal.as_deref().ok_or_else(|| missing(field("refusal")))?,
            },
            "input_image" => {
                let Some(url) = part.image_url.as_deref() else {
                    return Err(unsupported(field("file_id"), "no file is kept here; send `image_url`"));
                };
                ChatPart::ImageUrl { image_url: ImageUrl { url, detail: part.detail.as_deref() } }
            }
            "input_audio" => ChatPart::InputAudio {
                input_audio: part.input_audio.ok_or_else(|| missing(field("input_audio")))?,
            },
            _ => return Err(unsupported(field("type"), "chats know no such part")),
        })
    });
    Ok(ChatContent::Parts(parts.collect::<Result<_, _>>()?))
}

fn is_text(kind: &str) -> bool {
    matches!(kind, "input_text" | "output_text" | "text")
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Tool<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    name: Option<Cow<'a, str>>,
    description: Option<Cow<'a, str>>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
    strict: Option<bool>,
}

fn chat_tools(tools: Option<&RawValue>) -> Result<Vec<ChatTool<'_>>, BadRequest> {
    let Some(tools) = tools else { return Ok(Vec::new()) };
    let List::<Tool<'_>>(tools) = parse_within(tools, "tools")?;
    tools
        .into_iter()
        .enumerate()
        .map(|(at, tool)| {
            if tool.kind != "function" {
                return Err(unsupported(format!("tools[{at}].type"), "only functions are"));
            }
            let name = tool.name.ok_or_else(|| missing(format!("tools[{at}].name")))?;
            let Tool { description, parameters, strict, .. } = tool;
            let function = ChatFunction { name, description, parameters, strict };
            Ok(ChatTool { kind: "function", function })
        })
        .collect()
}

fn chat_tool_choice(choice: &RawValue) -> Result<ChatToolChoice<'_>, BadRequest> {
    if choice.get().starts_with('"') {
        return Ok(ChatToolChoice::Word(choice));
    }
    let tool: Tool<'_> = parse_within(choice, "tool_choice")?;
    if tool.kind != "function" {
        return Err(unsupported("tool_choice.type", "only a word or a function is"));
    }
    let name = tool.name.ok_or_else(|| missing("tool_choice.name"))?;
    Ok(ChatToolChoice::Function { kind: "function", function: Named { name } })
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Text<'a> {
    #[serde(borrow)]
    format: Option<Format<'a>>,
    verbosity: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Format<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    name: Option<Cow<'a, str>>,
    description: Option<Cow<'a, str>>,
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
    strict: Option<bool>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Reasoning<'a> {
    effort: Option<Cow<'a, str>>,
}

fn chat_format(format: Format<'_>) -> Result<Option<ChatFormat<'_>>, BadRequest> {
    let Format { kind, name, description, schema, strict } = format;
    Ok(match kind.as_ref() {
        "text" => None,
        "json_object" => Some(ChatFormat { kind: "json_object", json_schema: None }),
        "json_schema" => {
            let name = name.ok_or_else(|| missing("text.format.name"))?;
            let json_schema = Some(ChatSchema { name, description, schema, strict });
            Some(ChatFormat { kind: "json_schema", json_schema })
        }
        _ => return Err(unsupported("text.format.type", "only text, json_object and json_schema are")),
    })
}

fn missing(param: impl Into<String>) -> BadRequest {
    BadRequest::Missing { param: param.into() }
}

fn unsupported(param: impl Into<String>, reason: &'static str) -> BadRequest {
    BadRequest::NotOffered { param: param.into(), reason }
}

/// Longer than any conversation; each item takes much more memory than the bytes that it may consist of.
const LIST_MAX: usize = 10_000;
/// Of all items together; two for each of the most items that there may be.
const PARTS_MAX: usize = 2 * LIST_MAX;

#[cfg(test)]
mod tests;
