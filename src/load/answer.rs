//! Reads what a server answers, event by event, and says what it amounts to. Pure.

use crate::load::record::{Outcome, Seen};
use openai::sse::{DONE, Framer};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::time::Duration;

/// A stream as far as it came.
#[derive(Debug, Default)]
pub struct Stream {
    framer: Framer,
    last_text: Option<Duration>,
    /// Once the server has said it, it is the server's number that counts.
    usage_came: bool,
}

/// What one piece of a stream means for the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    GoOn,
    /// `[DONE]` came after some text.
    Served,
    /// It ends here, by this code.
    Ended(String),
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    error: Option<ServerError>,
    /// Old vLLM says `error` here, and the rest beside it.
    object: Option<String>,
}

/// Servers leave out of it what they do not count.
#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Message>,
    message: Option<Message>,
    text: Option<String>,
    finish_reason: Option<String>,
}

/// Whole or in parts. Models that reason stream their thoughts under one of two names.
#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct ServerError {
    /// OpenAI's are words, vLLM's are numbers.
    code: Option<Value>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Whole {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Refused {
    error: ServerError,
}

impl Stream {
    /// `now` is since the run began.
    pub fn read(&mut self, bytes: &[u8], seen: &mut Seen, now: Duration) -> Step {
        if self.framer.push(bytes).is_err() {
            return Step::Ended("event_too_long".to_owned());
        }
        while let Some(event) = self.framer.next_event() {
            let Some(data) = event.data else { continue };
            if data == DONE {
                return match seen.first_token {
                    Some(_) => Step::Served,
                    None => Step::Ended("empty".to_owned()),
                };
            }
            let Ok(event) = serde_json::from_slice::<Event>(data) else {
                return Step::Ended("bad_event".to_owned());
            };
            if let Some(error) = &event.error {
                return Step::Ended(error.code());
            }
            if event.object.as_deref() == Some("error") {
                return Step::Ended("error".to_owned());
            }
            if let Some(usage) = event.usage {
                self.usage_came |= usage.completion_tokens.is_some();
                usage.note(seen);
            }
            let choices = event.choices.unwrap_or_default();
            if choices.iter().any(Choice::has_text) {
                self.count_text(seen, now);
            }
            if let Some(code) = choices.iter().find_map(Choice::failure) {
                return Step::Ended(code);
            }
        }
        Step::GoOn
    }

    fn count_text(&mut self, seen: &mut Seen, now: Duration) {
        if !self.usage_came {
            seen.output_tokens += 1;
        }
        seen.first_token.get_or_insert(now);
        if let Some(last) = self.last_text.replace(now)
            && seen.gaps.len() < GAPS_MAX
        {
            let gap = now.saturating_sub(last).as_micros();
            seen.gaps.push(u32::try_from(gap).unwrap_or(u32::MAX));
        }
    }
}

/// A body of status 200 to a request that asked for no stream.
pub fn whole(body: &[u8], seen: &mut Seen) -> Outcome {
    let answer = serde_json::from_slice::<Whole>(body).ok().filter(|answer| !answer.choices.is_empty());
    let Some(Whole { choices, usage }) = answer else {
        return Outcome::of_end(seen, Some(200), "bad_answer");
    };
    if let Some(usage) = usage {
        usage.note(seen);
    }
    if let Some(code) = choices.iter().find_map(Choice::failure) {
        return Outcome::of_end(seen, Some(200), &code);
    }
    match choices.iter().any(Choice::has_text) {
        true => Outcome::Served,
        false => Outcome::of_end(seen, Some(200), "empty"),
    }
}

/// A body of any other status.
pub fn refused(status: u16, body: &[u8]) -> Outcome {
    let code = serde_json::from_slice::<Refused>(body).map(|refused| refused.error.code());
    Outcome::of_status(status, code.unwrap_or_else(|_| "none".to_owned()))
}

impl Usage {
    fn note(&self, seen: &mut Seen) {
        seen.prompt_tokens = self.prompt_tokens.unwrap_or(seen.prompt_tokens);
        seen.output_tokens = self.completion_tokens.unwrap_or(seen.output_tokens);
    }
}

impl Choice {
    /// A call of a tool is text, too: the model wrote it token by token.
    fn has_text(&self) -> bool {
        let is_text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let has_text = |message: &Message| {
            is_text(&message.content)
                || is_text(&message.reasoning_content)
                || is_text(&message.reasoning)
                || message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
        };
        is_text(&self.text) || [&self.delta, &self.message].into_iter().flatten().any(has_text)
    }

    /// Servers that give up on an answer may end it in good order and say so only here.
    fn failure(&self) -> Option<String> {
        let reason = self.finish_reason.as_deref()?;
        matches!(reason, "error" | "abort").then(|| format!("finish_{reason}"))
    }
}

impl ServerError {
    fn code(&self) -> String {
        let code = match &self.code {
            Some(Value::String(code)) => Some(code.clone()),
            Some(Value::Number(code)) => Some(code.to_string()),
            _ => self.kind.clone(),
        };
        word(&code.unwrap_or_default())
    }
}

/// A stranger's text, as it may stand in a terminal and in a table.
pub fn word(text: &str) -> String {
    let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || "_-.:/".contains(*letter);
    let word: String = text.chars().filter(is_plain).take(WORD_CHARS_MAX).collect();
    if word.is_empty() { "error".to_owned() } else { word }
}

/// Longer streams are measured on, but for the gaps behind these.
const GAPS_MAX: usize = 1 << 16;
const WORD_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::record::Kind;

    const ROLE: &str = r#"{"choices":[{"delta":{"role":"assistant","content":""}}],"usage":null}"#;
    const TEXT: &str = r#"{"choices":[{"delta":{"content":"a\n"}}],"usage":null}"#;
    const USAGE: &str =
        r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}"#;

    /// Events that arrive one by one, 10 ms apart from 10 ms on.
    fn read(events: &[&str]) -> (Step, Seen) {
        let (mut stream, mut seen) = (Stream::default(), Seen::default());
        for (at, event) in events.iter().enumerate() {
            let now = Duration::from_millis(10 * (at as u64 + 1));
            let step = stream.read(format!("data: {event}\n\n").as_bytes(), &mut seen, now);
            if step != Step::GoOn {
                return (step, seen);
            }
        }
        (Step::GoOn, seen)
    }

    fn ended(code: &str) -> Step {
        Step::Ended(code.to_owned())
    }

    #[test]
    fn a_stream_is_served_by_its_done_alone() {
        let (step, seen) = read(&[ROLE, TEXT, TEXT, TEXT, USAGE, "[DONE]"]);
        assert_eq!(step, Step::Served);
        assert_eq!(seen.first_token, Some(Duration::from_millis(20)), "a role is no text");
        assert_eq!(seen.gaps, [10_000, 10_000]);
        assert_eq!((seen.prompt_tokens, seen.output_tokens), (9, 4), "the server's count");
        let (step, seen) = read(&[ROLE, TEXT, TEXT, USAGE]);
        assert_eq!((step, seen.output_tokens), (Step::GoOn, 4));
        assert_eq!(read(&[ROLE, TEXT, TEXT]).1.output_tokens, 2, "without a count, events with text");
    }

    #[test]
    fn an_error_within_a_stream_is_never_served() {
        let interrupted =
            r#"{"error":{"message":"m","type":"server_error","param":null,"code":"stream_interrupted"}}"#;
        assert_eq!(read(&[ROLE, TEXT, interrupted, "[DONE]"]).0, ended("stream_interrupted"));
        assert_eq!(read(&[TEXT, r#"{"error":{"message":"m","code":500}}"#, "[DONE]"]).0, ended("500"));
        assert_eq!(read(&[TEXT, r#"{"object":"error","message":"m"}"#, "[DONE]"]).0, ended("error"));
        assert_eq!(read(&[TEXT, "{", "[DONE]"]).0, ended("bad_event"));
        assert_eq!(read(&["[DONE]"]).0, ended("empty"), "nothing is not an answer");
    }

    #[test]
    fn an_answer_without_text_is_empty() {
        assert_eq!(read(&[ROLE, "[DONE]"]).0, ended("empty"));
        assert_eq!(read(&[ROLE, USAGE, "[DONE]"]).0, ended("empty"));
        let mut seen = Seen::default();
        for empty in [r#"{"choices":[{}]}"#, r#"{"choices":[{"message":{"content":""}}]}"#] {
            assert_eq!(
                whole(empty.as_bytes(), &mut seen),
                Outcome::of_end(&seen, Some(200), "empty"),
                "{empty}"
            );
        }
        let call = r#"{"choices":[{"message":{"content":null,"tool_calls":[{"id":"a"}]}}]}"#;
        assert_eq!(whole(call.as_bytes(), &mut seen), Outcome::Served);
    }

    #[test]
    fn an_answer_that_its_server_gave_up_is_never_served() {
        for reason in ["error", "abort"] {
            let event = format!(r#"{{"choices":[{{"delta":{{}},"finish_reason":"{reason}"}}]}}"#);
            let code = format!("finish_{reason}");
            assert_eq!(read(&[TEXT, &event, "[DONE]"]).0, ended(&code));
            let mut seen = Seen::default();
            let body =
                format!(r#"{{"choices":[{{"message":{{"content":"a"}},"finish_reason":"{reason}"}}]}}"#);
            assert_eq!(whole(body.as_bytes(), &mut seen), Outcome::of_end(&seen, Some(200), &code));
        }
        let stop = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
        assert_eq!(read(&[TEXT, stop, "[DONE]"]).0, Step::Served);
    }

    #[test]
    fn what_a_server_leaves_out_of_its_usage_is_missing_and_nothing_more() {
        for (usage, tokens) in [
            ("{}", (0, 1)),
            (r#"{"prompt_tokens":9}"#, (9, 1)),
            (r#"{"prompt_tokens":9,"completion_tokens":null}"#, (9, 1)),
            (r#"{"completion_tokens":4,"prompt_tokens_details":{}}"#, (0, 4)),
        ] {
            let event = format!(r#"{{"choices":[],"usage":{usage}}}"#);
            let (step, seen) = read(&[TEXT, &event, "[DONE]"]);
            assert_eq!((step, (seen.prompt_tokens, seen.output_tokens)), (Step::Served, tokens), "{usage}");
            let mut seen = Seen::default();
            let body = format!(r#"{{"choices":[{{"text":"a"}}],"usage":{usage}}}"#);
            assert_eq!(whole(body.as_bytes(), &mut seen), Outcome::Served, "{usage}");
        }
    }

    #[test]
    fn other_servers_text_is_text() {
        for text in [
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}}]}"#,
            r#"{"choices":[{"text":"a"}]}"#,
            r#"{"choices":[{"delta":{"reasoning_content":"a"}}]}"#,
            r#"{"choices":[{"delta":{"content":null,"reasoning":"a"}}]}"#,
        ] {
            assert!(read(&[text]).1.first_token.is_some(), "{text}");
        }
    }

    #[test]
    fn whole_answers_and_refusals_are_told_apart() {
        let mut seen = Seen::default();
        let answer =
            br#"{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":9,"completion_tokens":4}}"#;
        assert_eq!((whole(answer, &mut seen), seen.output_tokens), (Outcome::Served, 4));
        for bad in [&b"{}"[..], b"", b"<html>", br#"{"choices":[]}"#] {
            assert_eq!(whole(bad, &mut seen).kind(), Kind::Failed);
        }
        let refusal = refused(429, br#"{"error":{"code":"rate_limit_exceeded","type":"tokens"}}"#);
        assert_eq!(refusal, Outcome::of_status(429, "rate_limit_exceeded".to_owned()));
        assert_eq!(refused(502, b"<html>"), Outcome::of_status(502, "none".to_owned()));
    }

    #[test]
    fn a_strangers_code_cannot_write_to_the_terminal() {
        assert_eq!(word("\u{1b}[2Ja b"), "2Jab");
        assert_eq!(word("\n"), "error");
        assert_eq!(word(&"x".repeat(1000)).len(), WORD_CHARS_MAX);
    }
}
