//! What an edge is told when the node itself has to answer.

use crate::asked::BadHeaders;
use crate::metrics::Outcome;
use crate::upload::BODY_MAX;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use openai::error::ErrorObject;
use types::{Failure, ReplicaId, header};

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the queue of this node is full")]
    QueueFull,
    #[error("this node takes no new work")]
    Draining,
    #[error("no untried replica of this model version serves on this node")]
    NoReplica,
    #[error("the engine went away before it answered")]
    ReplicaLost { replica: ReplicaId },
    #[error("the engine answered with status {status}")]
    ReplicaFailed { replica: ReplicaId, status: u16 },
    #[error("the request's deadline passed before an answer began")]
    DeadlinePassed { replica: Option<ReplicaId> },
    #[error(transparent)]
    Protocol(BadHeaders),
    #[error("the body is longer than {BODY_MAX} bytes")]
    TooLarge,
    /// Nobody is there to read it.
    #[error("the edge went away")]
    Cancelled,
    #[error("there is nothing at this path")]
    NoSuchPath,
    #[error("this path takes no such method")]
    WrongMethod,
}

impl Refusal {
    /// The node's own word; the others are the client's mistake or nobody's.
    fn failure(&self) -> Option<Failure> {
        Some(match self {
            Self::QueueFull => Failure::QueueFull,
            Self::Draining => Failure::Draining,
            Self::NoReplica => Failure::NoReplica,
            Self::ReplicaLost { .. } => Failure::ReplicaLost,
            Self::ReplicaFailed { .. } => Failure::ReplicaFailed,
            Self::DeadlinePassed { .. } => Failure::DeadlinePassed,
            Self::Protocol(_) => Failure::Protocol,
            Self::TooLarge | Self::Cancelled | Self::NoSuchPath | Self::WrongMethod => return None,
        })
    }

    fn replica(&self) -> Option<&ReplicaId> {
        match self {
            Self::ReplicaLost { replica } | Self::ReplicaFailed { replica, .. } => Some(replica),
            Self::DeadlinePassed { replica } => replica.as_ref(),
            _ => None,
        }
    }

    /// The status, `type` and `code` of its body.
    fn to_client(&self) -> (StatusCode, &'static str, &'static str) {
        if let Some(failure) = self.failure() {
            let status = StatusCode::from_u16(failure.status()).expect("the table holds valid statuses");
            return (status, "server_error", failure.as_str());
        }
        let (status, code) = match self {
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large"),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "unknown_url"),
            Self::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            _ => (StatusCode::BAD_REQUEST, "request_incomplete"),
        };
        (status, "invalid_request_error", code)
    }

    pub fn outcome(&self) -> Outcome {
        match (self.failure(), self) {
            (Some(failure), _) => Outcome::Failed(failure),
            (None, Self::TooLarge) => Outcome::TooLarge,
            (None, Self::Cancelled) => Outcome::Cancelled,
            (None, _) => Outcome::ClientError,
        }
    }

    pub fn to_answer(&self) -> Response<Full<Bytes>> {
        let (status, kind, code) = self.to_client();
        let body = ErrorObject::new(self.to_string(), kind, code).to_json();
        let mut answer = Response::new(Full::from(body));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(failure) = self.failure() {
            headers.insert(header::FAILURE, HeaderValue::from_static(failure.as_str()));
        }
        if let Some(replica) = self.replica() {
            headers.insert(header::REPLICA, visible(replica));
        }
        if *self == Self::QueueFull {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        answer
    }
}

impl From<Failure> for Refusal {
    /// What the line itself can say.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::QueueFull => Self::QueueFull,
            Failure::Draining => Self::Draining,
            _ => Self::NoReplica,
        }
    }
}

/// Ids and load frames as header values.
pub fn visible(text: &impl ToString) -> HeaderValue {
    HeaderValue::from_str(&text.to_string()).expect("names and numbers are visible ASCII")
}

/// A full line moves on within a second or two; the edge has other nodes to ask meanwhile.
const RETRY_AFTER_SECONDS: &str = "1";

#[cfg(test)]
mod tests {
    use super::*;

    fn replica() -> ReplicaId {
        "us-east/n1/0-3".parse().unwrap()
    }

    #[test]
    fn every_failure_of_the_table_has_its_status_and_word() {
        for (refusal, status, word) in [
            (Refusal::QueueFull, 503, "queue-full"),
            (Refusal::Draining, 503, "draining"),
            (Refusal::NoReplica, 503, "no-replica"),
            (Refusal::ReplicaLost { replica: replica() }, 502, "replica-lost"),
            (Refusal::ReplicaFailed { replica: replica(), status: 500 }, 502, "replica-failed"),
            (Refusal::DeadlinePassed { replica: None }, 504, "deadline-passed"),
            (Refusal::Protocol(BadHeaders::OtherProtocol), 400, "protocol"),
        ] {
            let answer = refusal.to_answer();
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers()[header::FAILURE], word);
            assert_eq!(answer.headers().contains_key(header::REPLICA), refusal.replica().is_some());
            assert_eq!(answer.headers().contains_key(RETRY_AFTER), word == "queue-full");
        }
    }

    #[test]
    fn a_client_s_mistake_is_not_the_node_s_word() {
        let answer = Refusal::TooLarge.to_answer();
        assert_eq!(answer.status(), 413);
        assert!(!answer.headers().contains_key(header::FAILURE));
    }
}
