//! Refusals in the form that OpenAI SDKs expect: `{"error":{"message","type","param","code"}}`.
//!
//! The SDKs choose the exception by status alone; people read `message`, programs read `code`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The object under `error`. All four fields are always present, as the specification requires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    pub message: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub param: Option<String>,
    pub code: Option<String>,
}

impl ErrorObject {
    pub fn new(message: impl Into<String>, kind: &str, code: &str) -> Self {
        Self { message: message.into(), kind: kind.to_owned(), param: None, code: Some(code.to_owned()) }
    }

    #[must_use]
    pub fn about(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// The whole body, or the data of an in-band error event.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            error: &'a ErrorObject,
        }
        serde_json::to_string(&Body { error: self }).expect("strings always serialise")
    }
}

/// A request that cannot be answered as it stands. Status 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("the body is not valid JSON: {reason}")]
    NotJson { reason: String },
    #[error("the body is not a form as its content-type says: {reason}")]
    NotForm { reason: &'static str },
    #[error("the body nests deeper than {} levels", crate::depth::DEPTH_MAX)]
    TooDeep,
    #[error("{param}: {reason}")]
    WrongType { param: String, reason: String },
    #[error("the field {param} is required")]
    Missing { param: String },
    #[error("{param} must be {expected}")]
    OutOfRange { param: &'static str, expected: &'static str },
    #[error("{param} is not supported by this model: {reason}")]
    Unsupported { param: &'static str, reason: &'static str },
    /// What no model makes up for.
    #[error("{param} is not supported: {reason}")]
    NotOffered { param: String, reason: &'static str },
    #[error(
        "the prompt has {prompt_tokens} tokens and asks for {max_tokens} more, \
         but this model's context holds {context_length}"
    )]
    ContextLengthExceeded { prompt_tokens: u64, max_tokens: u64, context_length: u64 },
    /// As the one above, known before the tokens were counted.
    #[error(
        "the prompt has at least {prompt_tokens_min} tokens and asks for {max_tokens} more, \
         but this model's context holds {context_length}"
    )]
    ContextLengthExceededByFar { prompt_tokens_min: u64, max_tokens: u64, context_length: u64 },
}

impl BadRequest {
    pub const STATUS: u16 = 400;

    /// What the client sees; `type` is always `invalid_request_error`.
    pub fn to_error(&self) -> ErrorObject {
        let (code, param) = match self {
            Self::NotJson { .. } => ("invalid_json", None),
            Self::NotForm { .. } => ("invalid_form", None),
            Self::TooDeep => ("json_too_deep", None),
            Self::WrongType { param, .. } => ("invalid_type", Some(param.as_str())),
            Self::Missing { param } => ("missing_required_parameter", Some(param.as_str())),
            Self::OutOfRange { param, .. } => ("invalid_value", Some(*param)),
            Self::Unsupported { param, .. } => ("unsupported_parameter", Some(*param)),
            Self::NotOffered { param, .. } => ("unsupported_parameter", Some(param.as_str())),
            Self::ContextLengthExceeded { .. } | Self::ContextLengthExceededByFar { .. } => {
                ("context_length_exceeded", None)
            }
        };
        let error = ErrorObject::new(self.to_string(), "invalid_request_error", code);
        match param {
            Some(param) => error.about(param),
            None => error,
        }
    }
}

/// Parses once for speed; only a text that fails is parsed again to learn which field was at fault.
pub(crate) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, BadRequest> {
    parse_under(json, "")
}

/// Parses a part of a body; `root` is where it stands there.
pub(crate) fn parse_within<'a, T: Deserialize<'a>>(json: &'a RawValue, root: &str) -> Result<T, BadRequest> {
    parse_under(json.get().as_bytes(), root)
}

fn parse_under<'a, T: Deserialize<'a>>(json: &'a [u8], root: &str) -> Result<T, BadRequest> {
    if !crate::depth::is_bounded(json) {
        return Err(BadRequest::TooDeep);
    }
    serde_json::from_slice(json).map_err(|first| {
        let mut again = serde_json::Deserializer::from_slice(json);
        match serde_path_to_error::deserialize::<_, T>(&mut again) {
            Err(traced) if traced.inner().is_data() => {
                at_field(&within(root, &traced.path().to_string()), traced.inner())
            }
            _ => BadRequest::NotJson { reason: first.to_string() },
        }
    })
}

/// The path of a field in the whole body; empty for the body itself.
fn within(root: &str, path: &str) -> String {
    match path {
        "." => root.to_owned(),
        path if root.is_empty() || path.starts_with('[') => format!("{root}{path}"),
        path => format!("{root}.{path}"),
    }
}

fn at_field(path: &str, error: &serde_json::Error) -> BadRequest {
    let message = error.to_string();
    // The position in the text adds nothing once the field has a name.
    let reason = message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason);
    if let Some(field) = reason.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        let param = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
        return BadRequest::Missing { param };
    }
    let param = if path.is_empty() { "body".to_owned() } else { path.to_owned() };
    BadRequest::WrongType { param, reason: reason.chars().take(REASON_MAX).collect() }
}

/// serde quotes the offending value, which may be megabytes long.
const REASON_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_all_four_fields() {
        let error = ErrorObject::new("no", "invalid_request_error", "invalid_api_key");
        assert_eq!(
            error.to_json(),
            r#"{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#
        );
    }
}
