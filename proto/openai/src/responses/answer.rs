//! The answer to a chat, as a response: its events, or the one object.
//!
//! Items are made as the chat's chunks come: one message for what is said, one call for each function. A message
//! ends where a call begins; calls end with the answer, since chunks of several may alternate.

mod chat;

use super::request::Echo;
use crate::answer::{BrokenAnswer, TEXT_BYTES_MAX};
use crate::error::ErrorObject;
use crate::sse::DONE;
use chat::{Call, ChatUsage, Chunk, Function};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Makes the events of a response from the data of a chat's events.
#[derive(Debug)]
pub struct ResponseStream {
    echo: Echo,
    /// The number of the next event.
    sequence: u64,
    head: Option<Head>,
    items: Vec<Item>,
    /// The message that what is said next belongs to.
    message: Option<usize>,
    /// Where each call of the chat is among the items.
    calls: BTreeMap<u64, usize>,
    /// What the items hold, in bytes.
    held: usize,
    finish_reason: Option<String>,
    usage: Option<ChatUsage>,
    /// What the edge says of the stream.
    rhumb: Option<Box<RawValue>>,
    ended: bool,
}

#[derive(Debug)]
struct Head {
    /// What ids end with: that of the chat without its prefix.
    id: String,
    created: u64,
    model: String,
}

impl ResponseStream {
    pub fn new(echo: Echo) -> Self {
        Self {
            echo,
            sequence: 0,
            head: None,
            items: Vec::new(),
            message: None,
            calls: BTreeMap::new(),
            held: 0,
            finish_reason: None,
            usage: None,
            rhumb: None,
            ended: false,
        }
    }

    /// A chat's whole answer as a response.
    pub fn whole(mut self, chat: &[u8]) -> Result<String, BrokenAnswer> {
        // It is a stream of one chunk, of whose events the last one has everything.
        let mut events = Vec::new();
        self.take_up(chat, &mut events)?;
        events.clear();
        let status = self.finish(&mut events)?;
        let response = self.response(status, None);
        Ok(serde_json::to_string(&response).expect("strings and numbers always serialise"))
    }

    /// Takes up the data of one event of the chat. What makes no answer ends the response as failed; whatever comes
    /// after an end is dropped.
    pub fn event(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        let taken = match data {
            DONE => self.complete(out),
            data => match failure(data) {
                Some(error) => {
                    self.fail(&error, out);
                    Ok(())
                }
                None => self.take_up(data, out),
            },
        };
        if let Err(broken) = taken {
            self.fail(&ErrorObject::new(broken.to_string(), "server_error", "stream_interrupted"), out);
        }
    }

    fn take_up(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), BrokenAnswer> {
        let chunk: Chunk<'_> = serde_json::from_slice(data).map_err(|_| BrokenAnswer::BadChunk)?;
        if self.head.is_none() {
            let (_, id) = chunk.id.split_once('-').unwrap_or(("", &chunk.id));
            let head = Head { id: id.to_owned(), created: chunk.created, model: chunk.model.into_owned() };
            self.head = Some(head);
            self.write_state("response.created", "in_progress", None, out);
            self.write_state("response.in_progress", "in_progress", None, out);
        }
        self.usage = chunk.usage.or(self.usage.take());
        self.rhumb = chunk.rhumb.map(ToOwned::to_owned).or(self.rhumb.take());
        // A response is one answer, and the chat was asked for one.
        for choice in chunk.choices.into_iter().filter(|choice| choice.index == 0) {
            let logprobs = choice.logprobs.and_then(|logprobs| logprobs.content).unwrap_or_default();
            if let Some(said) = choice.delta {
                if let Some(text) = said.content.filter(|text| !text.is_empty()) {
                    self.say(&text, logprobs, out)?;
                }
                if let Some(refusal) = said.refusal.filter(|refusal| !refusal.is_empty()) {
                    self.refuse(&refusal, out)?;
                }
                for (at, call) in said.tool_calls.unwrap_or_default().into_iter().enumerate() {
                    self.call(at as u64, call, out)?;
                }
            }
            self.finish_reason = self.finish_reason.take().or(choice.finish_reason.map(Cow::into_owned));
        }
        Ok(())
    }

    fn say(&mut self, text: &str, logprobs: Vec<&RawValue>, out: &mut Vec<u8>) -> Result<(), BrokenAnswer> {
        self.hold(text.len() + logprobs.iter().map(|one| one.get().len()).sum::<usize>())?;
        let (output_index, content_index) = self.open_part(&Part::text(), out);
        let item_id = self.items[output_index].id().to_owned();
        self.write(
            "response.output_text.delta",
            &Delta {
                item_id: &item_id,
                output_index,
                content_index: Some(content_index),
                delta: text,
                logprobs: Some(&logprobs),
            },
            out,
        );
        if let Some(Part::OutputText { text: all, logprobs: every, .. }) =
            self.part(output_index, content_index)
        {
            all.push_str(text);
            every.extend(logprobs.into_iter().map(ToOwned::to_owned));
        }
        Ok(())
    }

    fn refuse(&mut self, refusal: &str, out: &mut Vec<u8>) -> Result<(), BrokenAnswer> {
        self.hold(refusal.len())?;
        let (output_index, content_index) = self.open_part(&Part::refusal(), out);
        let item_id = self.items[output_index].id().to_owned();
        self.write(
            "response.refusal.delta",
            &Delta {
                item_id: &item_id,
                output_index,
                content_index: Some(content_index),
                delta: refusal,
                logprobs: None,
            },
            out,
        );
        if let Some(Part::Refusal { refusal: all }) = self.part(output_index, content_index) {
            all.push_str(refusal);
        }
        Ok(())
    }

    /// `at` is where it stands in its chunk; a whole answer numbers its calls by nothing else.
    fn call(&mut self, at: u64, call: Call<'_>, out: &mut Vec<u8>) -> Result<(), BrokenAnswer> {
        let Function { name, arguments } = call.function.unwrap_or_default();
        let arguments = arguments.unwrap_or_default();
        self.hold(arguments.len())?;
        let index = call.index.unwrap_or(at);
        let output_index = match self.calls.get(&index) {
            Some(output_index) => *output_index,
            None => {
                self.close_message("completed", out);
                let number = self.items.len();
                let head = self.head.as_ref().expect("taken up before");
                let call_id = match call.id {
                    Some(id) => id.into_owned(),
                    None => format!("call_{}_{number}", head.id),
                };
                let id = format!("fc_{}_{number}", head.id);
                let name = name.unwrap_or_default().into_owned();
                self.hold(CALL_BYTES + call_id.len() + name.len())?;
                self.items.push(Item::FunctionCall {
                    id,
                    call_id,
                    name,
                    arguments: String::new(),
                    status: "in_progress",
                });
                self.calls.insert(index, number);
                self.write_item("response.output_item.added", number, out);
                number
            }
        };
        if arguments.is_empty() {
            return Ok(());
        }
        let item_id = self.items[output_index].id().to_owned();
        self.write(
            "response.function_call_arguments.delta",
            &Delta {
                item_id: &item_id,
                output_index,
                content_index: None,
                delta: &arguments,
                logprobs: None,
            },
            out,
        );
        if let Item::FunctionCall { arguments: all, .. } = &mut self.items[output_index] {
            all.push_str(&arguments);
        }
        Ok(())
    }

    fn hold(&mut self, more: usize) -> Result<(), BrokenAnswer> {
        self.held += more;
        if self.held > TEXT_BYTES_MAX { Err(BrokenAnswer::TooLong) } else { Ok(()) }
    }

    /// The part that goes on, or a new one where another kind was said before.
    fn open_part(&mut self, wanted: &Part, out: &mut Vec<u8>) -> (usize, usize) {
        let output_index = match self.message {
            Some(output_index) => output_index,
            None => {
                let number = self.items.len();
                let head = self.head.as_ref().expect("taken up before");
                let id = format!("msg_{}_{number}", head.id);
                let content = Vec::new();
                self.items.push(Item::Message { id, role: "assistant", status: "in_progress", content });
                self.message = Some(number);
                self.write_item("response.output_item.added", number, out);
                number
            }
        };
        let is_open = |part: &Part| std::mem::discriminant(part) == std::mem::discriminant(wanted);
        let parts = self.items[output_index].parts();
        if parts.last().is_some_and(is_open) {
            return (output_index, parts.len() - 1);
        }
        if !parts.is_empty() {
            self.close_part(output_index, out);
        }
        let content_index = self.items[output_index].parts().len();
        self.items[output_index].push(wanted.clone());
        self.write_part("response.content_part.added", output_index, content_index, out);
        (output_index, content_index)
    }

    fn part(&mut self, output_index: usize, content_index: usize) -> Option<&mut Part> {
        match &mut self.items[output_index] {
            Item::Message { content, .. } => content.get_mut(content_index),
            Item::FunctionCall { .. } => None,
        }
    }

    /// Says that the last part of a message is whole.
    fn close_part(&mut self, output_index: usize, out: &mut Vec<u8>) {
        let item = &self.items[output_index];
        let Some(content_index) = item.parts().len().checked_sub(1) else { return };
        let (item_id, part) = (item.id().to_owned(), item.parts()[content_index].clone());
        match &part {
            Part::OutputText { text, logprobs, .. } => self.write(
                "response.output_text.done",
                &TextDone { item_id: &item_id, output_index, content_index, text, logprobs },
                out,
            ),
            Part::Refusal { refusal } => self.write(
                "response.refusal.done",
                &RefusalDone { item_id: &item_id, output_index, content_index, refusal },
                out,
            ),
        }
        self.write_part("response.content_part.done", output_index, content_index, out);
    }

    fn close_message(&mut self, status: &'static str, out: &mut Vec<u8>) {
        if let Some(output_index) = self.message.take() {
            self.close_part(output_index, out);
            self.items[output_index].end(status);
            self.write_item("response.output_item.done", output_index, out);
        }
    }

    /// Ends all items; says how the response ended.
    fn finish(&mut self, out: &mut Vec<u8>) -> Result<&'static str, BrokenAnswer> {
        self.head.as_ref().ok_or(BrokenAnswer::Unfinished)?;
        let status = match self.finish_reason.as_deref().ok_or(BrokenAnswer::Unfinished)? {
            "length" | "content_filter" => "incomplete",
            _ => "completed",
        };
        if self.items.is_empty() {
            // Nothing was said, which is an empty text.
            self.open_part(&Part::text(), out);
        }
        self.close_message(status, out);
        for output_index in std::mem::take(&mut self.calls).into_values() {
            if let Item::FunctionCall { id, arguments, .. } = &self.items[output_index] {
                let (id, arguments) = (id.clone(), arguments.clone());
                let done = ArgumentsDone { item_id: &id, output_index, arguments: &arguments };
                self.write("response.function_call_arguments.done", &done, out);
            }
            self.items[output_index].end(status);
            self.write_item("response.output_item.done", output_index, out);
        }
        Ok(status)
    }

    fn complete(&mut self, out: &mut Vec<u8>) -> Result<(), BrokenAnswer> {
        let status = self.finish(out)?;
        let kind = if status == "completed" { "response.completed" } else { "response.incomplete" };
        self.write_state(kind, status, None, out);
        self.ended = true;
        Ok(())
    }

    /// Ends the response loudly: by its own last event, and by an error that SDKs raise as they do in a chat.
    fn fail(&mut self, error: &ErrorObject, out: &mut Vec<u8>) {
        self.ended = true;
        let open = self.message.take().into_iter().chain(std::mem::take(&mut self.calls).into_values());
        open.for_each(|output_index| self.items[output_index].end("incomplete"));
        if self.head.is_some() {
            // One of the few codes that the API has for a response; the event after it says more.
            let failed = Failed { code: "server_error", message: &error.message };
            self.write_state("response.failed", "failed", Some(failed), out);
        }
        let ErrorObject { message, param, code, .. } = error;
        let flat = ErrorEvent { code: code.as_deref(), message, param: param.as_deref(), error };
        self.write("error", &flat, out);
    }

    fn response<'a>(&'a self, status: &'static str, error: Option<Failed<'a>>) -> Response<'a> {
        let head = self.head.as_ref().expect("a response begins with a chunk");
        let reason = match self.finish_reason.as_deref() {
            Some("content_filter") => "content_filter",
            _ => "max_output_tokens",
        };
        Response {
            id: format!("resp_{}", head.id),
            object: "response",
            created_at: head.created,
            status,
            background: false,
            error,
            incomplete_details: (status == "incomplete").then_some(Incomplete { reason }),
            model: &head.model,
            output: if status == "in_progress" { &[] } else { &self.items },
            previous_response_id: None,
            store: false,
            usage: self.usage.as_ref().filter(|_| status != "in_progress").map(ResponseUsage::of),
            echo: &self.echo,
            rhumb: self.rhumb.as_deref(),
        }
    }

    fn write_state(
        &mut self,
        kind: &'static str,
        status: &'static str,
        error: Option<Failed<'_>>,
        out: &mut Vec<u8>,
    ) {
        let sequence_number = self.count();
        let response = self.response(status, error);
        write(out, kind, &Event { kind, sequence_number, more: &State { response } });
    }

    fn write_item(&mut self, kind: &'static str, output_index: usize, out: &mut Vec<u8>) {
        let sequence_number = self.count();
        let item = &self.items[output_index];
        write(out, kind, &Event { kind, sequence_number, more: &ItemEvent { output_index, item } });
    }

    fn write_part(
        &mut self,
        kind: &'static str,
        output_index: usize,
        content_index: usize,
        out: &mut Vec<u8>,
    ) {
        let sequence_number = self.count();
        let item = &self.items[output_index];
        let (item_id, part) = (item.id(), &item.parts()[content_index]);
        let more = &PartEvent { item_id, output_index, content_index, part };
        write(out, kind, &Event { kind, sequence_number, more });
    }

    fn write(&mut self, kind: &'static str, more: &impl Serialize, out: &mut Vec<u8>) {
        let sequence_number = self.count();
        write(out, kind, &Event { kind, sequence_number, more });
    }

    fn count(&mut self) -> u64 {
        let number = self.sequence;
        self.sequence += 1;
        number
    }
}

fn write(out: &mut Vec<u8>, kind: &str, event: &impl Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    serde_json::to_writer(&mut *out, event).expect("memory takes every write, and strings always serialise");
    out.extend_from_slice(b"\n\n");
}

/// The error in a chat's stream, which stands where a chunk would.
fn failure(data: &[u8]) -> Option<ErrorObject> {
    #[derive(Deserialize)]
    struct InBand<'a> {
        #[serde(borrow)]
        error: Error<'a>,
    }
    #[derive(Deserialize)]
    struct Error<'a> {
        #[serde(default, borrow)]
        message: Cow<'a, str>,
        #[serde(rename = "type")]
        kind: Option<Cow<'a, str>>,
        param: Option<Cow<'a, str>>,
        #[serde(borrow)]
        code: Option<&'a RawValue>,
    }
    if !data.starts_with(b"{\"error\"") {
        return None;
    }
    let InBand { error } = serde_json::from_slice(data).ok()?;
    // Some engines give a number.
    let code = error.code.map(|code| code.get().trim_matches('"').to_owned());
    Some(ErrorObject {
        message: error.message.into_owned(),
        kind: error.kind.map_or_else(|| "server_error".to_owned(), Cow::into_owned),
        param: error.param.map(Cow::into_owned),
        code,
    })
}

/// What a call costs besides its words, so that there is a bound on calls without any.
const CALL_BYTES: usize = 256;

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Item {
    Message { id: String, status: &'static str, role: &'static str, content: Vec<Part> },
    FunctionCall { id: String, status: &'static str, call_id: String, name: String, arguments: String },
}

impl Item {
    fn id(&self) -> &str {
        match self {
            Self::Message { id, .. } | Self::FunctionCall { id, .. } => id,
        }
    }

    fn parts(&self) -> &[Part] {
        match self {
            Self::Message { content, .. } => content,
            Self::FunctionCall { .. } => &[],
        }
    }

    fn push(&mut self, part: Part) {
        if let Self::Message { content, .. } = self {
            content.push(part);
        }
    }

    fn end(&mut self, how: &'static str) {
        match self {
            Self::Message { status, .. } | Self::FunctionCall { status, .. } => *status = how,
        }
    }
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
    OutputText { text: String, annotations: [(); 0], logprobs: Vec<Box<RawValue>> },
    Refusal { refusal: String },
}

impl Part {
    fn text() -> Self {
        Self::OutputText { text: String::new(), annotations: [], logprobs: Vec::new() }
    }

    fn refusal() -> Self {
        Self::Refusal { refusal: String::new() }
    }
}

#[derive(Serialize)]
struct Response<'a> {
    id: String,
    object: &'static str,
    created_at: u64,
    status: &'static str,
    background: bool,
    error: Option<Failed<'a>>,
    incomplete_details: Option<Incomplete>,
    model: &'a str,
    output: &'a [Item],
    previous_response_id: Option<()>,
    store: bool,
    usage: Option<ResponseUsage>,
    #[serde(flatten)]
    echo: &'a Echo,
    #[serde(skip_serializing_if = "Option::is_none")]
    rhumb: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Failed<'a> {
    code: &'static str,
    message: &'a str,
}

#[derive(Serialize)]
struct Incomplete {
    reason: &'static str,
}

#[derive(Serialize)]
struct ResponseUsage {
    input_tokens: u64,
    input_tokens_details: InputDetails,
    output_tokens: u64,
    output_tokens_details: OutputDetails,
    total_tokens: u64,
}

impl ResponseUsage {
    fn of(chat: &ChatUsage) -> Self {
        let cached_tokens = chat.prompt_tokens_details.as_ref().and_then(|details| details.cached_tokens);
        let thought = chat.completion_tokens_details.as_ref().and_then(|details| details.reasoning_tokens);
        Self {
            input_tokens: chat.sums.prompt_tokens,
            input_tokens_details: InputDetails {
                cached_tokens: cached_tokens.unwrap_or(0),
                cache_write_tokens: 0,
            },
            output_tokens: chat.sums.completion_tokens,
            output_tokens_details: OutputDetails { reasoning_tokens: thought.unwrap_or(0) },
            total_tokens: chat.sums.total_tokens,
        }
    }
}

#[derive(Serialize)]
struct InputDetails {
    cached_tokens: u64,
    cache_write_tokens: u64,
}

#[derive(Serialize)]
struct OutputDetails {
    reasoning_tokens: u64,
}

/// What all events have, around what each has of its own.
#[derive(Serialize)]
struct Event<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    sequence_number: u64,
    #[serde(flatten)]
    more: &'a T,
}

#[derive(Serialize)]
struct State<'a> {
    response: Response<'a>,
}

#[derive(Serialize)]
struct ItemEvent<'a> {
    output_index: usize,
    item: &'a Item,
}

#[derive(Serialize)]
struct PartEvent<'a> {
    item_id: &'a str,
    output_index: usize,
    content_index: usize,
    part: &'a Part,
}

#[derive(Serialize)]
struct Delta<'a> {
    item_id: &'a str,
    output_index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    delta: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a [&'a RawValue]>,
}

#[derive(Serialize)]
struct TextDone<'a> {
    item_id: &'a str,
    output_index: usize,
    content_index: usize,
    text: &'a str,
    logprobs: &'a [Box<RawValue>],
}

#[derive(Serialize)]
struct RefusalDone<'a> {
    item_id: &'a str,
    output_index: usize,
    content_index: usize,
    refusal: &'a str,
}

#[derive(Serialize)]
struct ArgumentsDone<'a> {
    item_id: &'a str,
    output_index: usize,
    arguments: &'a str,
}

/// Flat as the API has it, and nested as SDKs know to raise it.
#[derive(Serialize)]
struct ErrorEvent<'a> {
    code: Option<&'a str>,
    message: &'a str,
    param: Option<&'a str>,
    error: &'a ErrorObject,
}

#[cfg(test)]
mod tests;
