//! What the edge reads of a request: only what routing, admission and relay need.
//!
//! The edge never edits a body, so everything it does not know passes untouched to the engine, which has the
//! last word on the rest.

use crate::error::{BadRequest, parse};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// The common part of a chat and a completions request.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestView {
    pub model: String,
    /// What the client wants to get; the edge always asks for a stream itself.
    pub stream: bool,
    pub include_usage: bool,
    /// The most tokens that may be generated, where the client said so.
    pub max_tokens: Option<u64>,
    /// Answers to one prompt.
    pub n: u64,
    pub seed: Option<i64>,
}

impl RequestView {
    pub fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        let wire: Wire<'_> = parse(body)?;
        let n = wire.n.unwrap_or(1);
        if !(1..=N_MAX).contains(&n) {
            return Err(BadRequest::OutOfRange { param: "n", expected: "from 1 to 128" });
        }
        Ok(Self {
            model: wire.model.into_owned(),
            stream: wire.stream.unwrap_or(false),
            include_usage: wire.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
            max_tokens: wire.max_completion_tokens.or(wire.max_tokens),
            n,
            seed: wire.seed,
        })
    }
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Wire<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    n: Option<u64>,
    seed: Option<i64>,
    // Present in one of the two endpoints; naming them here refuses their duplicates at the border.
    #[serde(rename = "messages")]
    _messages: Option<IgnoredAny>,
    #[serde(rename = "prompt")]
    _prompt: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// OpenAI's own limit.
const N_MAX: u64 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_view_takes_what_it_needs_and_skips_the_rest() {
        let body =
            br#"{"model":"house","messages":[{"role":"user","content":"hi"}],"stream":true,"unknown":[1]}"#;
        let view = RequestView::parse(body).unwrap();
        assert_eq!(view.model, "house");
        assert!(view.stream && !view.include_usage);
        assert_eq!((view.n, view.max_tokens), (1, None));
    }

    #[test]
    fn bad_bodies_name_the_field() {
        let code = |body: &str| {
            let error = RequestView::parse(body.as_bytes()).unwrap_err().to_error();
            (error.code.unwrap(), error.param)
        };
        let at = |param: &str| Some(param.to_owned());
        assert_eq!(code("{"), ("invalid_json".into(), None));
        assert_eq!(code(""), ("invalid_json".into(), None));
        assert_eq!(code("\u{feff}{}"), ("invalid_json".into(), None));
        assert_eq!(code("{}"), ("missing_required_parameter".into(), at("model")));
        assert_eq!(code("[]"), ("invalid_type".into(), at("body")));
        assert_eq!(code(r#"{"model":7}"#), ("invalid_type".into(), at("model")));
        assert_eq!(code(r#"{"model":"m","stream":"yes"}"#), ("invalid_type".into(), at("stream")));
        assert_eq!(code(r#"{"model":"m","max_tokens":-1}"#), ("invalid_type".into(), at("max_tokens")));
        assert_eq!(code(r#"{"model":"m","max_tokens":1.5}"#), ("invalid_type".into(), at("max_tokens")));
        assert_eq!(code(r#"{"model":"m","n":0}"#), ("invalid_value".into(), at("n")));
        assert_eq!(
            code(r#"{"model":"m","stream_options":{"include_usage":1}}"#),
            ("invalid_type".into(), at("stream_options.include_usage"))
        );
        let bomb = format!(r#"{{"model":"m","x":{}"#, "[".repeat(100_000));
        assert_eq!(code(&bomb), ("json_too_deep".into(), None));
        let list = RequestView::parse(b"[]").unwrap_err().to_string();
        assert!(!list.contains("struct"), "{list}");
        let long = format!(r#"{{"model":"m","stream":"{}"}}"#, "x".repeat(1_000_000));
        assert!(RequestView::parse(long.as_bytes()).unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn broken_text_is_refused() {
        for body in [&b"{\"model\":\"\xff\"}"[..], br#"{"model":"\ud800"}"#, br#"{"model":"a","model":"b"}"#]
        {
            assert!(RequestView::parse(body).is_err());
        }
        assert!(RequestView::parse(br#"{"model":"m","max_tokens":1e999}"#).is_err());
    }
}
