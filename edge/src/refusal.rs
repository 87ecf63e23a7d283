//! What a client is told when it gets no answer: one table, in the shape that OpenAI SDKs expect.

use openai::{BadRequest, ErrorObject};
use policy::NoRoute;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("an HTTP/1.1 request must name its host")]
    NoHost,
    #[error("no such path: {path}")]
    UnknownPath { path: String },
    #[error("this path takes {allowed}")]
    WrongMethod { allowed: &'static str },
    #[error("no API key was given; send it as `Authorization: Bearer rk_…`")]
    NoKey,
    #[error("the API key is not valid")]
    BadKey,
    #[error("the API key has expired; ask for another")]
    ExpiredKey,
    #[error("this key may not ask the model {model:?}")]
    ModelNotAllowed { model: String },
    #[error("this edge has no {of} yet; it waits for the control plane")]
    NoPicture { of: &'static str },
    #[error("bodies encoded as {encoding:?} are not accepted; send plain JSON")]
    Encoded { encoding: String },
    #[error("the content-type cannot be read")]
    ContentType,
    #[error("the body is larger than {} bytes", crate::receive::BODY_BYTES_MAX)]
    BodyTooLarge,
    #[error("the body did not arrive within {} s", .0.as_secs())]
    BodyTooSlow(Duration),
    #[error("the body stopped arriving before its end")]
    BodyStalled,
    #[error("the body is not framed as its head says")]
    BodyMalformed,
    #[error("this tenant has too many requests in flight")]
    TooManyRequests,
    #[error("the requests of this tenant that are being received hold too many bytes")]
    TooManyBytes,
    #[error(transparent)]
    Bad(#[from] BadRequest),
    #[error("the model {model:?} does not exist, or this key may not use it")]
    UnknownModel { model: String },
    #[error("the model {model:?} does not serve {path}")]
    NotServed { path: &'static str, model: String },
    #[error("no region can take the request now: {0}")]
    NoRoute(#[from] NoRoute),
    /// Why is in the log: reasons name regions, which are not a client's business.
    #[error("no engine answered in {attempts} attempt(s); try again")]
    AttemptsFailed { attempts: u32, retry_after: Option<Duration> },
}

impl Refusal {
    /// Status and body.
    pub(crate) fn to_client(&self) -> (u16, ErrorObject) {
        const REQUEST: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        let (status, kind, code) = match self {
            Self::NoHost => (400, REQUEST, "missing_host"),
            Self::UnknownPath { .. } => (404, REQUEST, "unknown_url"),
            Self::WrongMethod { .. } => (405, REQUEST, "method_not_allowed"),
            Self::NoKey | Self::BadKey | Self::ExpiredKey => (401, REQUEST, "invalid_api_key"),
            Self::ModelNotAllowed { .. } => (403, REQUEST, "model_not_allowed"),
            Self::NoPicture { .. } => (503, SERVER, "not_ready"),
            Self::Encoded { .. } => (415, REQUEST, "unsupported_content_encoding"),
            Self::ContentType => (415, REQUEST, "unsupported_content_type"),
            Self::BodyTooLarge => (413, REQUEST, "request_too_large"),
            Self::BodyTooSlow(_) | Self::BodyStalled => (408, REQUEST, "body_timeout"),
            Self::BodyMalformed => (400, REQUEST, "invalid_body"),
            Self::TooManyRequests | Self::TooManyBytes => (429, "requests", "rate_limit_exceeded"),
            Self::Bad(bad) => return (BadRequest::STATUS, bad.to_error()),
            Self::UnknownModel { .. } => (404, REQUEST, "model_not_found"),
            Self::NotServed { .. } => (404, REQUEST, "unsupported_endpoint"),
            Self::NoRoute(NoRoute::Residency) => (403, REQUEST, "no_allowed_region"),
            Self::NoRoute(_) => (503, SERVER, "no_capacity"),
            Self::AttemptsFailed { .. } => (503, SERVER, "upstream_failed"),
        };
        let error = ErrorObject::new(self.to_string(), kind, code);
        let about_model =
            matches!(self, Self::UnknownModel { .. } | Self::ModelNotAllowed { .. } | Self::NotServed { .. });
        (status, if about_model { error.about("model") } else { error })
    }

    /// How long the client should wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let wait = match self {
            Self::TooManyRequests | Self::TooManyBytes => Duration::from_secs(1),
            Self::NoRoute(NoRoute::BreakersOpen { wait } | NoRoute::Shed { retry_after: wait, .. }) => *wait,
            Self::NoRoute(NoRoute::Residency) => return None,
            Self::NoRoute(_) | Self::NoPicture { .. } => Duration::from_secs(2),
            Self::AttemptsFailed { retry_after, .. } => retry_after.unwrap_or(Duration::from_secs(1)),
            _ => return None,
        };
        Some(wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX))
    }

    /// False where the same request can only meet the same refusal; SDKs would try 408 and 5xx again.
    pub(crate) fn retry_helps(&self) -> bool {
        !matches!(self, Self::NoRoute(NoRoute::Residency) | Self::BodyTooSlow(_) | Self::BodyStalled)
    }

    pub(crate) fn allowed_methods(&self) -> Option<&'static str> {
        match self {
            Self::WrongMethod { allowed } => Some(allowed),
            _ => None,
        }
    }
}

/// What an engine says of a request that it refuses, as the data of an event: the same words on one line.
pub(crate) fn in_band(refusal: &[u8]) -> String {
    #[derive(Serialize, Deserialize)]
    struct Body {
        error: serde_json::Map<String, serde_json::Value>,
    }
    let body = serde_json::from_slice(refusal).and_then(|body: Body| serde_json::to_string(&body));
    // Without `error` around it, SDKs would take it for a part of the answer.
    body.unwrap_or_else(|_| {
        ErrorObject::new("the engine refused the request", "invalid_request_error", "invalid_request")
            .to_json()
    })
}

/// As long as SDKs wait by themselves; sooner, they would waste their tries.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(500);
/// SDKs wait no longer.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sdks_choose_their_exception_by_this_table() {
        let seen = |refusal: Refusal| {
            let (status, error) = refusal.to_client();
            (status, error.code.unwrap())
        };
        assert_eq!(seen(Refusal::BadKey), (401, "invalid_api_key".into()));
        assert_eq!(seen(Refusal::ExpiredKey), (401, "invalid_api_key".into()));
        assert_eq!(seen(Refusal::ModelNotAllowed { model: "x".into() }), (403, "model_not_allowed".into()));
        assert_eq!(seen(Refusal::UnknownModel { model: "x".into() }), (404, "model_not_found".into()));
        assert_eq!(seen(Refusal::BodyTooLarge), (413, "request_too_large".into()));
        assert_eq!(seen(Refusal::NoRoute(NoRoute::Down)), (503, "no_capacity".into()));
        let forever = NoRoute::BreakersOpen { wait: Duration::from_secs(3600) };
        assert_eq!(Refusal::NoRoute(forever).retry_after(), Some(RETRY_AFTER_MAX));
        let now = NoRoute::BreakersOpen { wait: Duration::ZERO };
        assert_eq!(Refusal::NoRoute(now).retry_after(), Some(RETRY_AFTER_MIN));
    }

    #[test]
    fn an_engines_refusal_fits_into_one_event_whatever_it_is() {
        let pretty = b"{\n  \"error\": { \"message\": \"too\\nlong\",\n \"code\": 400 }, \"more\": 1\n}";
        assert_eq!(in_band(pretty), r#"{"error":{"code":400,"message":"too\nlong"}}"#);
        for foreign in [r#"{"object":"error"}"#, r#"{"error":"no"}"#, "<html>", ""] {
            assert!(in_band(foreign.as_bytes()).contains(r#""code":"invalid_request""#), "{foreign}");
        }
    }
}
