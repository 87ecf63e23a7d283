//! What is read of an answer that a server without an agent gives: no ids, no hashes, no load; only what OpenAI's
//! own shapes tell.
//!
//! Such an answer cannot be resumed. Tokens are those of its `usage` if there is one, and counted otherwise.

use crate::stream::StreamError;
use memchr::memchr2;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// How many tokens an answer has cost so far.
#[derive(Debug)]
pub(crate) struct Counted {
    prompt_tokens: u64,
    completion_tokens: u64,
    /// Whether the server has said how many.
    is_told: bool,
    pattern: Pattern,
}

/// A chunk that was nothing but one piece of text and what stands around it. Most chunks of a stream are the same but
/// for the text, and such a one need not be taken apart to know what it is.
#[derive(Debug, Default)]
struct Pattern {
    chunk: Vec<u8>,
    /// Between its quotes.
    text: Range<usize>,
}

/// What the head of an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// The answer follows.
    Answer,
    /// The server has no room; another may have.
    NoRoom,
    /// The server does not have the path or the model that was asked for; another may.
    NotHere,
    /// The server refuses the request itself; no other will think better of it.
    Refusal,
    /// The server fails, or will not have us: the request is not at fault.
    Fault,
}

impl Head {
    pub(crate) fn of(status: u16) -> Self {
        match status {
            200 => Self::Answer,
            429 | 503 => Self::NoRoom,
            // Who asks for what a server lacks must not close it for those who ask for what it has.
            404 | 405 => Self::NotHere,
            // Not the client's key but this edge's; slowness of its own.
            401 | 403 | 407 | 408 => Self::Fault,
            400..500 => Self::Refusal,
            _ => Self::Fault,
        }
    }
}

/// `retry-after` in seconds, or in the milliseconds that OpenAI adds. Dates are not read: servers' clocks differ.
pub(crate) fn retry_after(seconds: Option<&str>, millis: Option<&str>) -> Option<Duration> {
    let millis = millis.and_then(|millis| millis.trim().parse().ok()).map(Duration::from_millis);
    millis.or_else(|| seconds?.trim().parse().ok().map(Duration::from_secs))
}

impl Counted {
    /// The prompt is guessed by its body until the server says more.
    pub(crate) fn new(body_bytes: usize) -> Self {
        let prompt_tokens = (body_bytes / BYTES_PER_TOKEN) as u64;
        Self { prompt_tokens, completion_tokens: 0, is_told: false, pattern: Pattern::default() }
    }

    pub(crate) fn prompt_tokens(&self) -> u64 {
        self.prompt_tokens
    }

    pub(crate) fn completion_tokens(&self) -> u64 {
        self.completion_tokens
    }

    /// Takes up one chunk of a stream. True if it says anything: a chunk that only opens the answer is no sign that
    /// the rest will come.
    pub(crate) fn chunk(&mut self, data: &[u8]) -> Result<bool, StreamError> {
        if self.pattern.fits(data) {
            self.completion_tokens += u64::from(!self.is_told);
            return Ok(true);
        }
        // Checked in one go: serde_json would check each string for itself.
        let json = std::str::from_utf8(data);
        let chunk = match json {
            Ok(json) => serde_json::from_str(json),
            // Some servers cut characters in half where nobody reads them.
            Err(_) => serde_json::from_slice(data),
        };
        let chunk: Chunk<'_> = chunk.map_err(|_| StreamError::NoChunk)?;
        if chunk.error.0 {
            return Err(StreamError::GaveUp);
        }
        let choices = chunk.choices.ok_or(StreamError::NoChunk)?;
        let saying = choices.iter().filter(|choice| choice.says_something()).count();
        if !self.is_told {
            self.completion_tokens += saying as u64;
        }
        if let (Ok(json), [choice], None) = (json, &choices[..], &chunk.usage)
            && let Some(text) = choice.text.or(choice.delta.content)
        {
            self.pattern.learn(json, text);
        }
        self.hear(chunk.usage);
        Ok(choices.is_empty() || saying > 0 || choices.iter().any(|choice| choice.finish_reason.0))
    }

    /// Takes up a whole answer.
    pub(crate) fn whole(&mut self, body: &[u8]) -> Result<(), StreamError> {
        let answer: Whole = serde_json::from_slice(body).map_err(|_| StreamError::NoChunk)?;
        if answer.error.0 {
            return Err(StreamError::GaveUp);
        }
        self.hear(answer.usage);
        Ok(())
    }

    fn hear(&mut self, usage: Option<Usage>) {
        let Some(Usage { prompt_tokens, completion_tokens }) = usage else { return };
        // Some servers send a running count with every chunk.
        self.is_told = true;
        self.prompt_tokens = prompt_tokens.min(TOKENS_MAX);
        self.completion_tokens = completion_tokens.min(TOKENS_MAX);
    }
}

impl Pattern {
    /// Whether a chunk is the pattern with another text that is not empty.
    fn fits(&self, data: &[u8]) -> bool {
        let (before, after) = (&self.chunk[..self.text.start], &self.chunk[self.text.end..]);
        let text = data.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        text.is_some_and(|text| !text.is_empty() && !self.chunk.is_empty() && is_plain(text))
    }

    /// Takes a chunk for the pattern, if it is one: a JSON value of which `value` is a part.
    fn learn(&mut self, json: &str, value: &RawValue) {
        let Some(text) = value.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            return;
        };
        if text.is_empty() || json.len() > PATTERN_BYTES_MAX || !is_plain(text.as_bytes()) {
            return;
        }
        // The value was borrowed from there.
        let begin = text.as_ptr() as usize - json.as_ptr() as usize;
        self.text = begin..begin + text.len();
        self.chunk.clear();
        self.chunk.extend_from_slice(json.as_bytes());
    }
}

/// Whether these bytes between quotes are a JSON string that says what they say.
fn is_plain(text: &[u8]) -> bool {
    memchr2(b'"', b'\\', text).is_none()
        && text.iter().all(|byte| *byte >= b' ')
        && std::str::from_utf8(text).is_ok()
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    usage: Option<Usage>,
    #[serde(default)]
    error: Something,
}

#[derive(Deserialize)]
struct Whole {
    usage: Option<Usage>,
    #[serde(default)]
    error: Something,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default, borrow)]
    delta: Delta<'a>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(default)]
    finish_reason: Something,
}

#[derive(Deserialize, Default)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(default)]
    refusal: Something,
    #[serde(default)]
    reasoning: Something,
    #[serde(default)]
    reasoning_content: Something,
    #[serde(default)]
    tool_calls: Something,
    #[serde(default)]
    function_call: Something,
}

impl Choice<'_> {
    fn says_something(&self) -> bool {
        let Self { delta, text, finish_reason: _ } = self;
        let Delta { content, refusal, reasoning, reasoning_content, tool_calls, function_call } = delta;
        let is_something = |value: &RawValue| {
            let read = serde_json::from_str(value.get());
            read.is_ok_and(|Something(is_something)| is_something)
        };
        [text, content].into_iter().flatten().any(|value| is_something(value))
            || [refusal, reasoning, reasoning_content, tool_calls, function_call].iter().any(|part| part.0)
    }
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u64,
    /// Embeddings have none.
    #[serde(default)]
    completion_tokens: u64,
}

/// Whether a value, of whatever type, is more than nothing.
#[derive(Default)]
struct Something(bool);

impl<'de> Deserialize<'de> for Something {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IsSomething).map(Self)
    }
}

struct IsSomething;

impl<'de> Visitor<'de> for IsSomething {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(!text.is_empty())
    }

    fn visit_bool<E>(self, value: bool) -> Result<bool, E> {
        Ok(value)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let mut any = false;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            any = true;
        }
        Ok(any)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut any = false;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            any = true;
        }
        Ok(any)
    }
}

/// As routing guesses too.
const BYTES_PER_TOKEN: usize = 4;
/// Of one token; what is longer is rare, and may be taken apart.
const PATTERN_BYTES_MAX: usize = 1024;
/// Beyond any context; more is a lie that would spoil every sum.
const TOKENS_MAX: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn count(chunks: &[&str]) -> (Vec<bool>, (u64, u64)) {
        let mut counted = Counted::new(400);
        let says = chunks.iter().map(|chunk| counted.chunk(chunk.as_bytes()).unwrap()).collect();
        (says, (counted.prompt_tokens(), counted.completion_tokens()))
    }

    #[test]
    fn a_chunk_counts_if_it_says_something() {
        let opening =
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
        let text = r#"{"choices":[{"index":0,"delta":{"content":"hi"}}],"usage":null}"#;
        let thought = r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#;
        let call = r#"{"choices":[{"index":0,"delta":{"content":null,"tool_calls":[{"index":0}]}}]}"#;
        let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
        let completion = r#"{"choices":[{"index":0,"text":"a"},{"index":1,"text":"b"}]}"#;
        let chunks = [opening, text, thought, call, completion, end];
        assert_eq!(count(&chunks), (vec![false, true, true, true, true, true], (100, 5)));
    }

    #[test]
    fn what_resembles_the_last_chunk_means_the_same_as_alone() {
        let seed = fastrand::u64(..);
        let mut dice = fastrand::Rng::with_seed(seed);
        let before = [
            r#"{"id":"c","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}],"usage":null}"#,
            r#"{"choices":[{"index":0,"text":"é","logprobs":{"tokens":["x"]}}],"created":7}"#,
            r#"{"choices":[{"delta":{"content":"a","tool_calls":[]},"finish_reason":"stop"}]}"#,
        ];
        let pieces = [
            "\"",
            "\\",
            "\n",
            "é",
            "",
            "word",
            "{",
            "}",
            ",",
            "[]",
            "null",
            "\"usage\":{\"prompt_tokens\":1},",
        ];
        let mut fitted = 0;
        for round in 0..20_000 {
            let before = *dice.choice(&before).unwrap();
            let place = |dice: &mut fastrand::Rng| dice.usize(..=before.len());
            let (from, to) = if dice.bool() {
                let text = before.find([' ', 'é', 'a']).unwrap();
                (text, text + before[text..].find('"').unwrap())
            } else {
                let (one, other) = (place(&mut dice), place(&mut dice));
                (one.min(other), (one.min(other) + 2).min(one.max(other)))
            };
            let piece = dice.choice(&pieces).unwrap().as_bytes();
            let changed = [&before.as_bytes()[..from], piece, &before.as_bytes()[to..]].concat();
            let (mut alone, mut after) = (Counted::new(0), Counted::new(0));
            after.chunk(before.as_bytes()).unwrap();
            fitted += u32::from(after.pattern.fits(&changed));
            after.completion_tokens = 0;
            let meant = |counted: &mut Counted| {
                let says = counted.chunk(&changed).map_err(|error| error.to_string());
                (says, counted.completion_tokens, counted.prompt_tokens, counted.is_told)
            };
            let told = String::from_utf8_lossy(&changed);
            assert_eq!(meant(&mut after), meant(&mut alone), "seed {seed}, round {round}: {told}");
        }
        assert!(fitted > 1_000, "seed {seed}: {fitted}");
    }

    #[test]
    fn what_the_server_says_of_usage_rules() {
        let text = r#"{"choices":[{"delta":{"content":"a b c"}}]}"#;
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}"#;
        assert_eq!(count(&[text, usage]).1, (7, 3));
        let running = r#"{"choices":[{"delta":{"content":"a b c"}}],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;
        assert_eq!(count(&[running, running]).1, (7, 3), "a running count is no addition");
        let mut counted = Counted::new(0);
        counted
            .whole(br#"{"id":"x","choices":[{}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#)
            .unwrap();
        assert_eq!((counted.prompt_tokens(), counted.completion_tokens()), (5, 2));
    }

    #[test]
    fn garbage_and_errors_are_no_answer() {
        let mut counted = Counted::new(0);
        for garbage in ["", "<html>", "[]", "{}", r#"{"choices":1}"#, r#"{"choices":[{"delta":7}]}"#] {
            assert!(matches!(counted.chunk(garbage.as_bytes()), Err(StreamError::NoChunk)), "{garbage}");
        }
        let error = br#"{"error":{"message":"out of memory"}}"#;
        assert!(matches!(counted.chunk(error), Err(StreamError::GaveUp)));
        assert!(matches!(counted.whole(error), Err(StreamError::GaveUp)));
        assert!(matches!(counted.whole(b"<html>"), Err(StreamError::NoChunk)));
    }

    #[test]
    fn a_wait_is_read_in_seconds_or_milliseconds() {
        assert_eq!(retry_after(Some(" 2 "), None), Some(Duration::from_secs(2)));
        assert_eq!(retry_after(Some("2"), Some("1500")), Some(Duration::from_millis(1500)));
        assert_eq!(retry_after(Some("Fri, 20 Nov 2026 21:00:00 GMT"), None), None);
    }
}
