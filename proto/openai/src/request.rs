//! What an engine reads of a request: messages or prompt, and how to sample.
//!
//! A field of OpenAI or vLLM that would change the answer and that this engine cannot honour is refused by name;
//! unknown fields are skipped, as clients expect.

mod foreign;

use crate::error::{BadRequest, parse};
use foreign::Foreign;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// `POST /v1/chat/completions`.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    pub model: String,
    pub messages: Vec<Message>,
    pub sampling: Sampling,
}

/// `POST /v1/completions`.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    pub model: String,
    pub prompt: Prompt,
    /// Begin the answer with the prompt's text.
    pub echo: bool,
    pub sampling: Sampling,
}

/// One turn of a chat, its text joined from all parts. Serialises for chat templates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(expecting = "an object")]
pub struct Message {
    pub role: String,
    #[serde(default, deserialize_with = "text_of_content")]
    pub content: String,
}

/// A text, or token ids where the client tokenised it itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    Text(String),
    TokenIds(Vec<u32>),
}

/// How to draw tokens and when to end. `None` means that the client left it open.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 = greedy. From 0 to 2.
    pub temperature: f64,
    /// Above 0, to 1.
    pub top_p: f64,
    /// 0 = all tokens.
    pub top_k: u32,
    pub seed: Option<i64>,
    pub stop: Vec<String>,
    pub max_tokens: Option<u64>,
    /// vLLM's extension: no end before so many tokens.
    pub min_tokens: u64,
    /// vLLM's extension: go on to `max_tokens` whatever the model says.
    pub ignore_eos: bool,
    /// Taken from a token's logit for each time it was generated. From -2 to 2.
    pub frequency_penalty: f64,
    /// Taken from a token's logit once it was generated. From -2 to 2.
    pub presence_penalty: f64,
    /// Added to a token's logit. From -100 to 100.
    pub logit_bias: BTreeMap<u32, f64>,
    /// Report how probable each token was, and so many of the most probable in its place.
    pub logprobs: Option<u32>,
    pub stream: bool,
    pub include_usage: bool,
}

impl ChatRequest {
    pub fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        let mut wire: Wire = parse(body)?;
        let mut messages = required(wire.messages.take(), "messages")?;
        if messages.is_empty() {
            return Err(BadRequest::OutOfRange { param: "messages", expected: "at least one message" });
        }
        let unsupported = |param, reason| Err(BadRequest::Unsupported { param, reason });
        if wire.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
            return unsupported("tools", "it was not trained to call tools");
        }
        if wire.response_format.as_ref().is_some_and(|format| format.kind != "text") {
            return unsupported("response_format", "only text is");
        }
        for message in &mut messages {
            // OpenAI's newer name for the same role; chat templates know the older one.
            if message.role == "developer" {
                message.role = "system".to_owned();
            }
        }
        let logprobs = wire.chat_logprobs()?;
        let (model, sampling) = wire.check()?;
        Ok(Self { model, messages, sampling: Sampling { logprobs, ..sampling } })
    }
}

impl CompletionRequest {
    pub fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        let mut wire: Wire = parse(body)?;
        let prompt = required(wire.prompt.take(), "prompt")?.0;
        let echo = wire.echo.unwrap_or(false);
        let unsupported = |param, reason| Err(BadRequest::Unsupported { param, reason });
        if wire.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return unsupported("suffix", "it only continues a text");
        }
        if wire.best_of.is_some_and(|best_of| best_of != 1) {
            return unsupported("best_of", "only 1 is");
        }
        let logprobs = wire.completion_logprobs()?;
        if echo && logprobs.is_some() {
            return unsupported("echo", "the engine reports no logprobs of a prompt");
        }
        let (model, mut sampling) = wire.check()?;
        sampling.logprobs = logprobs;
        // OpenAI's default on this endpoint; without it a forgotten limit runs to the end of the context.
        sampling.max_tokens.get_or_insert(COMPLETION_MAX_TOKENS_DEFAULT);
        Ok(Self { model, prompt, echo, sampling })
    }
}

fn required<T>(field: Option<T>, param: &str) -> Result<T, BadRequest> {
    field.ok_or_else(|| BadRequest::Missing { param: param.to_owned() })
}

/// The fields of both endpoints. One flat struct, because serde loses the name of a wrong field when structs
/// are flattened into one another.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Wire {
    model: String,
    messages: Option<Vec<Message>>,
    tools: Option<Vec<de::IgnoredAny>>,
    response_format: Option<ResponseFormat>,
    prompt: Option<PromptWire>,
    echo: Option<bool>,
    suffix: Option<String>,
    best_of: Option<u64>,
    logprobs: Option<Logprobs>,
    top_logprobs: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    n: Option<u64>,
    seed: Option<i64>,
    #[serde(default)]
    stop: Stop,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    min_tokens: Option<u64>,
    ignore_eos: Option<bool>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    repetition_penalty: Option<f64>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    logit_bias: Option<BTreeMap<String, f64>>,
    #[serde(default)]
    functions: Foreign,
    #[serde(default)]
    function_call: Foreign,
    #[serde(default)]
    tool_choice: Foreign,
    #[serde(default)]
    min_p: Foreign,
    #[serde(default)]
    stop_token_ids: Foreign,
    #[serde(default)]
    bad_words: Foreign,
    #[serde(default)]
    allowed_token_ids: Foreign,
    #[serde(default)]
    guided_json: Foreign,
    #[serde(default)]
    guided_regex: Foreign,
    #[serde(default)]
    guided_choice: Foreign,
    #[serde(default)]
    guided_grammar: Foreign,
    #[serde(default)]
    structured_outputs: Foreign,
    #[serde(default)]
    use_beam_search: Foreign,
    #[serde(default)]
    include_stop_str_in_output: Foreign,
}

/// A switch in chats, a count in completions.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a boolean or a small number")]
enum Logprobs {
    Wanted(bool),
    Count(i64),
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
}

impl Wire {
    fn chat_logprobs(&self) -> Result<Option<u32>, BadRequest> {
        let wanted = match self.logprobs {
            None => false,
            Some(Logprobs::Wanted(wanted)) => wanted,
            Some(Logprobs::Count(_)) => return wrong_logprobs("expected a boolean"),
        };
        let out_of_range = |expected| Err(BadRequest::OutOfRange { param: "top_logprobs", expected });
        match (wanted, self.top_logprobs) {
            (false, None | Some(0)) => Ok(None),
            (false, Some(_)) => out_of_range("left out where logprobs is not true"),
            (true, top) => match u32::try_from(top.unwrap_or(0)) {
                Ok(top @ ..=CHAT_TOP_LOGPROBS_MAX) => Ok(Some(top)),
                _ => out_of_range("from 0 to 20"),
            },
        }
    }

    fn completion_logprobs(&self) -> Result<Option<u32>, BadRequest> {
        match self.logprobs {
            None | Some(Logprobs::Wanted(false)) => Ok(None),
            Some(Logprobs::Wanted(true)) => wrong_logprobs("expected a number"),
            Some(Logprobs::Count(count)) => match u32::try_from(count) {
                Ok(count @ ..=COMPLETION_LOGPROBS_MAX) => Ok(Some(count)),
                _ => Err(BadRequest::OutOfRange { param: "logprobs", expected: "from 0 to 5" }),
            },
        }
    }

    /// The sampling lacks logprobs, which the two endpoints write differently.
    fn check(self) -> Result<(String, Sampling), BadRequest> {
        let out_of_range = |param, expected| Err(BadRequest::OutOfRange { param, expected });
        let temperature = self.temperature.unwrap_or(1.0);
        if !(0.0..=2.0).contains(&temperature) {
            return out_of_range("temperature", "from 0 to 2");
        }
        let top_p = self.top_p.unwrap_or(1.0);
        if !(top_p > 0.0 && top_p <= 1.0) {
            return out_of_range("top_p", "above 0 and at most 1");
        }
        // vLLM writes "all tokens" as -1, others as 0.
        let Ok(top_k) = u32::try_from(self.top_k.unwrap_or(0).max(0)) else {
            return out_of_range("top_k", "a 32-bit number");
        };
        if self.n.is_some_and(|n| n != 1) {
            return Err(BadRequest::Unsupported { param: "n", reason: "only one answer to a prompt is" });
        }
        if self.repetition_penalty.is_some_and(|value| value != 1.0) {
            let reason = "frequency_penalty and presence_penalty are";
            return Err(BadRequest::Unsupported { param: "repetition_penalty", reason });
        }
        let frequency_penalty = self.frequency_penalty.unwrap_or(0.0);
        let presence_penalty = self.presence_penalty.unwrap_or(0.0);
        for (param, value) in
            [("frequency_penalty", frequency_penalty), ("presence_penalty", presence_penalty)]
        {
            if !(-2.0..=2.0).contains(&value) {
                return out_of_range(param, "from -2 to 2");
            }
        }
        self.refuse_foreign()?;
        let logit_bias = bias(self.logit_bias.unwrap_or_default())?;
        let max_tokens = self.max_completion_tokens.or(self.max_tokens);
        if max_tokens == Some(0) {
            return out_of_range("max_tokens", "at least 1");
        }
        let min_tokens = self.min_tokens.unwrap_or(0);
        if max_tokens.is_some_and(|max_tokens| min_tokens > max_tokens) {
            return out_of_range("min_tokens", "at most max_tokens");
        }
        let stop = self.stop.0;
        if stop.len() > STOP_MAX || stop.iter().any(|text| text.is_empty() || text.len() > STOP_BYTES_MAX) {
            return out_of_range("stop", "at most 16 texts of 1 to 256 bytes");
        }
        let sampling = Sampling {
            temperature,
            top_p,
            top_k,
            seed: self.seed,
            stop,
            max_tokens,
            min_tokens,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            frequency_penalty,
            presence_penalty,
            logit_bias,
            logprobs: None,
            stream: self.stream.unwrap_or(false),
            include_usage: self.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
        };
        Ok((self.model, sampling))
    }

    fn refuse_foreign(&self) -> Result<(), BadRequest> {
        const TOOLS: &str = "it was not trained to call tools";
        const TOKENS: &str = "the engine lets every token be drawn by its probability";
        const GRAMMAR: &str = "the engine holds no answer to a form";
        let may_name_no_tool = [("function_call", self.function_call), ("tool_choice", self.tool_choice)];
        let named = may_name_no_tool.into_iter().find(|(_, value)| *value == Foreign::Something);
        let others = [
            ("functions", self.functions, TOOLS),
            ("min_p", self.min_p, TOKENS),
            ("bad_words", self.bad_words, TOKENS),
            ("allowed_token_ids", self.allowed_token_ids, TOKENS),
            ("stop_token_ids", self.stop_token_ids, "only stop strings are"),
            ("guided_json", self.guided_json, GRAMMAR),
            ("guided_regex", self.guided_regex, GRAMMAR),
            ("guided_choice", self.guided_choice, GRAMMAR),
            ("guided_grammar", self.guided_grammar, GRAMMAR),
            ("structured_outputs", self.structured_outputs, GRAMMAR),
            ("use_beam_search", self.use_beam_search, "the engine follows one answer only"),
            ("include_stop_str_in_output", self.include_stop_str_in_output, "stop strings are left out"),
        ];
        let other = others.into_iter().find(|(_, value, _)| *value != Foreign::Neutral);
        match named.map(|(param, _)| (param, TOOLS)).or(other.map(|(param, _, reason)| (param, reason))) {
            None => Ok(()),
            Some((param, reason)) => Err(BadRequest::Unsupported { param, reason }),
        }
    }
}

fn wrong_logprobs<T>(reason: &str) -> Result<T, BadRequest> {
    Err(BadRequest::WrongType { param: "logprobs".to_owned(), reason: reason.to_owned() })
}

/// OpenAI writes token ids as the texts that JSON's keys are.
fn bias(written: BTreeMap<String, f64>) -> Result<BTreeMap<u32, f64>, BadRequest> {
    let expected = "at most 1024 token ids, each with a number from -100 to 100";
    let out_of_range = BadRequest::OutOfRange { param: "logit_bias", expected };
    if written.len() > LOGIT_BIAS_MAX || written.values().any(|bias| !(-100.0..=100.0).contains(bias)) {
        return Err(out_of_range);
    }
    let read = |(id, bias): (String, f64)| id.parse().map(|id| (id, bias));
    written.into_iter().map(read).collect::<Result<_, _>>().map_err(|_| out_of_range)
}

/// `null`, one text, or a list of texts.
#[derive(Default)]
struct Stop(Vec<String>);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Stop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Stop, E> {
                Ok(Stop::default())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Stop, E> {
                Ok(Stop(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Stop, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Stop(texts))
            }
        }
        from.deserialize_any(Texts)
    }
}

/// A text, token ids, or a list that holds exactly one of these.
struct PromptWire(Prompt);

impl<'de> Deserialize<'de> for PromptWire {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a text, a token id or a list of token ids")]
        enum Item {
            Id(u32),
            Text(String),
            Ids(Vec<u32>),
        }
        struct AnyForm;
        impl<'de> Visitor<'de> for AnyForm {
            type Value = PromptWire;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one text, or one list of token ids")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PromptWire, E> {
                Ok(PromptWire(Prompt::Text(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PromptWire, A::Error> {
                let prompt = match list.next_element::<Item>()? {
                    None => Prompt::TokenIds(Vec::new()),
                    Some(Item::Text(text)) => Prompt::Text(text),
                    Some(Item::Ids(ids)) => Prompt::TokenIds(ids),
                    Some(Item::Id(first)) => {
                        let mut ids = vec![first];
                        while let Some(id) = list.next_element()? {
                            ids.push(id);
                        }
                        Prompt::TokenIds(ids)
                    }
                };
                match list.next_element::<de::IgnoredAny>()? {
                    None => Ok(PromptWire(prompt)),
                    Some(_) => Err(de::Error::custom("several prompts in one request are not supported")),
                }
            }
        }
        from.deserialize_any(AnyForm)
    }
}

/// `null`, one text, or a list of `{"type":"text","text":…}` parts.
fn text_of_content<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(expecting = "an object")]
    struct Part {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        text: String,
    }
    struct Content;
    impl<'de> Visitor<'de> for Content {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or a list of text parts")
        }

        fn visit_unit<E: de::Error>(self) -> Result<String, E> {
            Ok(String::new())
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<String, A::Error> {
            let mut text = String::new();
            while let Some(part) = list.next_element::<Part>()? {
                if part.kind != "text" {
                    return Err(de::Error::custom("only parts of type text are supported"));
                }
                text.push_str(&part.text);
            }
            Ok(text)
        }
    }
    from.deserialize_any(Content)
}

/// OpenAI allows 4; vLLM's users send more.
const STOP_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 256;
const COMPLETION_MAX_TOKENS_DEFAULT: u64 = 16;
/// OpenAI's own limits.
const CHAT_TOP_LOGPROBS_MAX: u32 = 20;
const COMPLETION_LOGPROBS_MAX: u32 = 5;
/// As vLLM; each is added in every step.
const LOGIT_BIAS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(fields: &str) -> Result<ChatRequest, BadRequest> {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{fields}}}"#);
        ChatRequest::parse(body.as_bytes())
    }

    #[test]
    fn defaults_are_openais() {
        let sampling = chat("").unwrap().sampling;
        assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (1.0, 1.0, 0));
        assert_eq!((sampling.max_tokens, sampling.min_tokens, sampling.ignore_eos), (None, 0, false));
        let body = br#"{"model":"m","prompt":"once"}"#;
        assert_eq!(CompletionRequest::parse(body).unwrap().sampling.max_tokens, Some(16));
    }

    #[test]
    fn every_form_of_content_prompt_and_stop() {
        let parts = br#"{"model":"m","messages":[
            {"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
            {"role":"assistant","content":null}]}"#;
        let messages = ChatRequest::parse(parts).unwrap().messages;
        assert_eq!((messages[0].role.as_str(), messages[0].content.as_str()), ("system", "ab"));
        assert_eq!(messages[1].content, "");
        let prompt = |json: &str| {
            let body = format!(r#"{{"model":"m","prompt":{json}}}"#);
            CompletionRequest::parse(body.as_bytes()).map(|request| request.prompt)
        };
        assert_eq!(prompt(r#""a""#), Ok(Prompt::Text("a".into())));
        assert_eq!(prompt(r#"["a"]"#), Ok(Prompt::Text("a".into())));
        assert_eq!(prompt("[1,2]"), Ok(Prompt::TokenIds(vec![1, 2])));
        assert_eq!(prompt("[[1,2]]"), Ok(Prompt::TokenIds(vec![1, 2])));
        assert!(prompt(r#"["a","b"]"#).is_err());
        assert_eq!(chat(r#","stop":"x""#).unwrap().sampling.stop, ["x"]);
        assert_eq!(chat(r#","stop":["x","y"]"#).unwrap().sampling.stop, ["x", "y"]);
        assert_eq!(chat(r#","stop":null"#).unwrap().sampling.stop, Vec::<String>::new());
    }

    #[test]
    fn neutral_values_of_unsupported_fields_pass() {
        for fields in [
            r#","logit_bias":{},"functions":[],"bad_words":[],"stop_token_ids":[],"allowed_token_ids":[]"#,
            r#","logit_bias":null,"functions":null,"tool_choice":null,"function_call":null,"min_p":null"#,
            r#","tool_choice":"none","function_call":"auto","min_p":0,"guided_regex":"""#,
            r#","tool_choice":"auto","function_call":"none","min_p":0.0,"use_beam_search":false"#,
        ] {
            assert!(chat(fields).is_ok(), "{fields}");
        }
    }

    #[test]
    fn each_endpoint_asks_for_logprobs_in_its_own_way() {
        let of_chat = |fields: &str| chat(fields).unwrap().sampling.logprobs;
        assert_eq!(of_chat(r#","logprobs":false,"top_logprobs":0"#), None);
        assert_eq!(of_chat(r#","logprobs":true"#), Some(0));
        assert_eq!(of_chat(r#","logprobs":true,"top_logprobs":20"#), Some(20));
        let of_completion = |fields: &str| {
            let body = format!(r#"{{"model":"m","prompt":"a"{fields}}}"#);
            CompletionRequest::parse(body.as_bytes()).map(|request| request.sampling.logprobs)
        };
        assert_eq!(of_completion(r#","logprobs":null"#), Ok(None));
        assert_eq!(of_completion(r#","logprobs":0"#), Ok(Some(0)));
        assert_eq!(of_completion(r#","logprobs":5"#), Ok(Some(5)));
        for (fields, named) in [
            (r#","logprobs":6"#, "logprobs"),
            (r#","logprobs":-1"#, "logprobs"),
            (r#","logprobs":true"#, "logprobs"),
            (r#","logprobs":1,"echo":true"#, "echo"),
        ] {
            assert_eq!(
                of_completion(fields).unwrap_err().to_error().param.as_deref(),
                Some(named),
                "{fields}"
            );
        }
    }

    #[test]
    fn no_rust_name_is_told() {
        let wrong = |body: &str| CompletionRequest::parse(body.as_bytes()).unwrap_err().to_string();
        for body in [
            "7",
            r#"{"model":"m","prompt":[1.5]}"#,
            r#"{"model":"m","prompt":7}"#,
            r#"{"model":"m","prompt":"a","stream_options":7}"#,
            r#"{"model":"m","prompt":"a","messages":[7]}"#,
            r#"{"model":"m","prompt":"a","response_format":7}"#,
        ] {
            let told = wrong(body);
            assert!(!["struct", "enum", "Item", "Wire"].iter().any(|name| told.contains(name)), "{told}");
        }
    }

    #[test]
    fn bad_fields_are_named() {
        let param = |fields: &str| chat(fields).unwrap_err().to_error().param.unwrap();
        for (fields, named) in [
            (r#","temperature":3"#, "temperature"),
            (r#","temperature":-0.1"#, "temperature"),
            (r#","top_p":0"#, "top_p"),
            (r#","top_k":99999999999"#, "top_k"),
            (r#","max_tokens":0"#, "max_tokens"),
            (r#","max_tokens":2,"min_tokens":3"#, "min_tokens"),
            (r#","stop":[""]"#, "stop"),
            (r#","n":2"#, "n"),
            (r#","presence_penalty":2.1"#, "presence_penalty"),
            (r#","frequency_penalty":-3"#, "frequency_penalty"),
            (r#","repetition_penalty":1.1"#, "repetition_penalty"),
            (r#","logprobs":1"#, "logprobs"),
            (r#","logprobs":true,"top_logprobs":21"#, "top_logprobs"),
            (r#","logprobs":true,"top_logprobs":-1"#, "top_logprobs"),
            (r#","top_logprobs":1"#, "top_logprobs"),
            (r#","logit_bias":{"7":101}"#, "logit_bias"),
            (r#","logit_bias":{"seven":1}"#, "logit_bias"),
            (r#","logprobs":"all""#, "logprobs"),
            (r#","temperature":"hot""#, "temperature"),
            (r#","stop":7"#, "stop"),
            (r#","stream_options":{"include_usage":7}"#, "stream_options.include_usage"),
            (r#","tools":[{}]"#, "tools"),
            (r#","response_format":{"type":"json_object"}"#, "response_format"),
            (r#","functions":[{}]"#, "functions"),
            (r#","function_call":{"name":"f"}"#, "function_call"),
            (r#","tool_choice":"required""#, "tool_choice"),
            (r#","tool_choice":{"type":"function"}"#, "tool_choice"),
            (r#","min_p":0.1"#, "min_p"),
            (r#","stop_token_ids":[7]"#, "stop_token_ids"),
            (r#","guided_json":{"type":"object"}"#, "guided_json"),
            (r#","guided_regex":"a+""#, "guided_regex"),
            (r#","guided_choice":["a"]"#, "guided_choice"),
            (r#","guided_grammar":"root""#, "guided_grammar"),
            (r#","structured_outputs":{"regex":"a"}"#, "structured_outputs"),
            (r#","bad_words":["a"]"#, "bad_words"),
            (r#","allowed_token_ids":[7]"#, "allowed_token_ids"),
            (r#","use_beam_search":true"#, "use_beam_search"),
            (r#","include_stop_str_in_output":true"#, "include_stop_str_in_output"),
        ] {
            assert_eq!(param(fields), named, "{fields}");
        }
        let role = ChatRequest::parse(br#"{"model":"m","messages":[{"role":1}]}"#).unwrap_err();
        assert_eq!(role.to_error().param.as_deref(), Some("messages[0].role"));
        let image = ChatRequest::parse(
            br#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#,
        );
        assert_eq!(image.unwrap_err().to_error().param.as_deref(), Some("messages[0].content"));
    }
}
