//! Every refusal, in one table: the status, the OpenAI error, and the internal header where it is the node's
//! own word.

use super::name;
use crate::metrics::Outcome;
use crate::queue::Refused;
use crate::sequence::NotResumable;
use crate::template::RenderError;
use crate::tokenizer::TokenizeError;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use openai::{BadRequest, ErrorObject};
use types::{BadResume, Failure, ReplicaId, header as internal};

#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Client(#[from] BadRequest),
    #[error(transparent)]
    Messages(#[from] RenderError),
    #[error("prompt: {0}")]
    Prompt(#[from] TokenizeError),
    #[error("the body is larger than 32 MiB")]
    LargeBody,
    #[error("the body did not arrive in time")]
    SlowBody,
    #[error("the body ended early")]
    BrokenBody,
    #[error("there is no such path")]
    NoSuchPath,
    #[error("this path has other methods")]
    NoSuchMethod,
    #[error("there is no such model")]
    NoSuchModel,
    #[error("the header {header} is not what the internal protocol says")]
    Protocol { header: &'static str },
    #[error(transparent)]
    ResumeLine(#[from] BadResume),
    #[error("a stream of another path cannot be resumed")]
    ResumePath,
    #[error("a released token is none of this model's")]
    ResumeToken,
    #[error(transparent)]
    NotResumable(#[from] NotResumable),
    #[error("the engine's queue is full; try again later")]
    QueueFull { retry_after_seconds: u64 },
    #[error("the engine is draining and takes nothing new")]
    Draining,
    /// Before the step loop could count it, or together with the step loop.
    #[error("the engine lost this request")]
    Lost,
    /// The step loop gave it up, and has counted it.
    #[error("the engine lost this request")]
    GivenUp,
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full { retry_after } => {
                Self::QueueFull { retry_after_seconds: retry_after.as_secs_f64().ceil().max(1.0) as u64 }
            }
            Refused::Draining => Self::Draining,
            Refused::Stopped => Self::Lost,
        }
    }
}

impl Refusal {
    pub fn unread_body(error: &axum::Error) -> Self {
        use std::error::Error as _;
        match error.source().and_then(|source| source.downcast_ref::<http_body_util::LengthLimitError>()) {
            Some(_) => Self::LargeBody,
            None => Self::BrokenBody,
        }
    }

    /// The status, and what an OpenAI client sees.
    pub fn to_client(&self) -> (u16, ErrorObject) {
        let error = |kind, code| ErrorObject::new(self.to_string(), kind, code);
        const CLIENT: &str = "invalid_request_error";
        const SERVER: &str = "server_error";
        match self {
            Self::Client(bad) => (BadRequest::STATUS, bad.to_error()),
            Self::Messages(_) => (400, error(CLIENT, "invalid_value").about("messages")),
            Self::Prompt(_) => (400, error(CLIENT, "invalid_value").about("prompt")),
            Self::LargeBody => (413, error(CLIENT, "request_too_large")),
            Self::SlowBody => (408, error(CLIENT, "request_timeout")),
            Self::BrokenBody => (400, error(CLIENT, "incomplete_body")),
            Self::NoSuchPath => (404, error(CLIENT, "unknown_url")),
            Self::NoSuchMethod => (405, error(CLIENT, "method_not_supported")),
            Self::NoSuchModel => (404, error(CLIENT, "model_not_found").about("model")),
            Self::Protocol { .. }
            | Self::ResumeLine(_)
            | Self::ResumePath
            | Self::ResumeToken
            | Self::NotResumable(_) => (Failure::Protocol.status(), error(CLIENT, "protocol")),
            Self::QueueFull { .. } => (Failure::QueueFull.status(), error(SERVER, "queue_full")),
            Self::Draining => (Failure::Draining.status(), error(SERVER, "draining")),
            Self::Lost | Self::GivenUp => (Failure::ReplicaFailed.status(), error(SERVER, "engine_failed")),
        }
    }

    /// None where it is the model's word, meant for the client.
    fn failure(&self) -> Option<Failure> {
        match self {
            Self::Protocol { .. }
            | Self::ResumeLine(_)
            | Self::ResumePath
            | Self::ResumeToken
            | Self::NotResumable(_) => Some(Failure::Protocol),
            Self::QueueFull { .. } => Some(Failure::QueueFull),
            Self::Draining => Some(Failure::Draining),
            Self::Lost | Self::GivenUp => Some(Failure::ReplicaFailed),
            _ => None,
        }
    }

    /// None where the step loop has counted the request.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::QueueFull { .. } | Self::Draining => Some(Outcome::TurnedAway),
            Self::Lost => Some(Outcome::Failed),
            Self::GivenUp => None,
            _ => Some(Outcome::Refused),
        }
    }

    pub fn to_response(&self, replica: Option<&ReplicaId>) -> Response {
        let (status, error) = self.to_client();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(failure) = self.failure() {
            headers.insert(name(internal::FAILURE), HeaderValue::from_static(failure.as_str()));
            let replica = replica.and_then(|replica| HeaderValue::from_str(&replica.to_string()).ok());
            replica.and_then(|replica| headers.insert(name(internal::REPLICA), replica));
        }
        if let Self::QueueFull { retry_after_seconds } = self {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after_seconds));
        }
        let status = StatusCode::from_u16(status).expect("the table holds valid statuses only");
        (status, headers, error.to_json()).into_response()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.to_response(None)
    }
}
