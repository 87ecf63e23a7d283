//! How probable tokens were, in the two shapes of the API, and how those of chunks become those of a whole answer.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// Of a chat: one entry for each token of the chunk.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatLogprobs {
    pub content: Vec<TokenLogprob>,
    pub refusal: Option<()>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprob {
    #[serde(flatten)]
    pub drawn: Likelihood,
    /// Most likely first; empty unless asked for.
    pub top_logprobs: Vec<Likelihood>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Likelihood {
    /// Half a character shows as U+FFFD.
    pub token: String,
    pub logprob: f32,
    pub bytes: Vec<u8>,
}

/// Of a completion: four lists of the same length.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CompletionLogprobs {
    pub tokens: Vec<String>,
    pub token_logprobs: Vec<f32>,
    pub top_logprobs: Vec<TopLogprobs>,
    /// Where each token begins in the whole answer's text, in characters.
    pub text_offset: Vec<u64>,
}

/// Token → logprob, most likely first. The drawn token is always among them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TopLogprobs(pub Vec<(String, f32)>);

impl Serialize for TopLogprobs {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (token, logprob) in &self.0 {
            map.serialize_entry(token, logprob)?;
        }
        map.end()
    }
}

/// The logprobs of one chunk, whichever endpoint it is of. Entries stay the text that they came as, so that a number
/// is the same digit by digit, streamed or not.
#[derive(Debug, Deserialize)]
pub(crate) struct Part<'a> {
    #[serde(borrow)]
    content: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    tokens: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    token_logprobs: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    top_logprobs: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    text_offset: Option<Vec<&'a RawValue>>,
}

/// Lists joined from all chunks, as the JSON between their brackets.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    content: String,
    tokens: String,
    token_logprobs: String,
    top_logprobs: String,
    text_offset: String,
}

impl Joined {
    pub(crate) fn add(&mut self, part: Part<'_>) {
        let Part { content, tokens, token_logprobs, top_logprobs, text_offset } = part;
        for (list, more) in [
            (&mut self.content, content),
            (&mut self.tokens, tokens),
            (&mut self.token_logprobs, token_logprobs),
            (&mut self.top_logprobs, top_logprobs),
            (&mut self.text_offset, text_offset),
        ] {
            for entry in more.unwrap_or_default() {
                if !list.is_empty() {
                    list.push(',');
                }
                list.push_str(entry.get());
            }
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let Self { content, tokens, token_logprobs, top_logprobs, text_offset } = self;
        [content, tokens, token_logprobs, top_logprobs, text_offset].iter().map(|list| list.len()).sum()
    }

    pub(crate) fn of_chat(&self) -> Box<RawValue> {
        raw(format!(r#"{{"content":[{}],"refusal":null}}"#, self.content))
    }

    pub(crate) fn of_completion(&self) -> Box<RawValue> {
        let Self { tokens, token_logprobs, top_logprobs, text_offset, .. } = self;
        raw(format!(
            r#"{{"tokens":[{tokens}],"token_logprobs":[{token_logprobs}],"top_logprobs":[{top_logprobs}],"text_offset":[{text_offset}]}}"#
        ))
    }
}

fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).expect("lists of JSON values between brackets are JSON")
}
