//! One request's way through the node: read what is asked, wait for a seat, send it on, bring the answer back.

use crate::asked::Asked;
use crate::dispatch::{Ask, Standing};
use crate::engine::Engine;
use crate::metrics::{Kind, Outcome};
use crate::node::Node;
use crate::refusal::{Refusal, visible};
use crate::relay::{Exchange, Relay};
use crate::slot::Slot;
use crate::upload::{Ended, Upload};
use crate::visit::Visit;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, response};
use hyper::body::{Body, Incoming};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tracing::debug;
use types::{Failure, header};

/// Brings one request to an engine, and the engine's answer back.
pub async fn forward(
    node: &Arc<Node>,
    request: Request<Incoming>,
    asked: Asked,
    kind: Kind,
) -> Result<Response<Relay>, Refusal> {
    let mut visit = Visit::begin(node, kind);
    match exchange(node, request, asked, kind).await {
        Ok((head, body, exchange)) => {
            let is_event_stream = is_event_stream(&head.headers);
            let headers = to_edge(&head.headers, &exchange.engine);
            let mut answer = Response::new(Relay::new(body, exchange, visit, is_event_stream));
            *answer.status_mut() = head.status;
            *answer.headers_mut() = headers;
            Ok(answer)
        }
        Err(refusal) => {
            visit.ends(refusal.outcome());
            Err(refusal)
        }
    }
}

async fn exchange(
    node: &Node,
    request: Request<Incoming>,
    asked: Asked,
    kind: Kind,
) -> Result<(response::Parts, Incoming, Exchange), Refusal> {
    let deadline = Instant::now() + asked.remains;
    let (head, body) = request.into_parts();
    let prompt_tokens = body.size_hint().lower() / BYTES_PER_TOKEN;
    let (body, upload) = Upload::new(body).map_err(|_| Refusal::TooLarge)?;

    let standing = match kind {
        Kind::New => Standing::Newcomer,
        Kind::Resume => Standing::Resume(Reverse(asked.priority)),
    };
    let ask = Ask { version: asked.version, tried: asked.tried, prompt_tokens, standing };
    let slot = seat(node, ask, deadline).await?;

    let engine = slot.engine().clone();
    let mut forwarded = Request::new(body);
    *forwarded.method_mut() = head.method;
    *forwarded.uri_mut() = head.uri.path().parse().expect("the path of a URI is a URI");
    *forwarded.headers_mut() = to_engine(&head.headers, &engine, deadline - Instant::now());

    let sent_at = Instant::now();
    let replica = || engine.replica.clone();
    let (answer, connection) = match timeout_at(deadline, Engine::send(slot, forwarded, &upload)).await {
        Err(_) => return Err(Refusal::DeadlinePassed { replica: Some(replica()) }),
        Ok(Ok(answered)) => answered,
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            debug!(replica = %engine.replica, request = %asked.request_id, error, "engine gave no answer");
            return Err(match upload.ended() {
                Ended::TooLarge => Refusal::TooLarge,
                Ended::Broken => Refusal::Cancelled,
                Ended::NotYet | Ended::Whole => Refusal::ReplicaLost { replica: replica() },
            });
        }
    };
    node.metrics.head.observe(sent_at.elapsed().as_secs_f64());

    let (head, body) = answer.into_parts();
    if let Some(load) = head.headers.get(header::LOAD).and_then(|load| load.to_str().ok()?.parse().ok()) {
        engine.observe(load);
    }
    let status = head.status.as_u16();
    let outcome = judge(head.status, &head.headers)
        .ok_or_else(|| Refusal::ReplicaFailed { replica: replica(), status })?;
    Ok((head, body, Exchange { engine, connection, upload, outcome }))
}

async fn seat(node: &Node, ask: Ask, deadline: Instant) -> Result<Slot, Refusal> {
    let asked_at = Instant::now();
    let slot = timeout_at(deadline, node.slots.take(ask)).await;
    let slot = slot.map_err(|_| Refusal::DeadlinePassed { replica: None })??;
    node.metrics.queue_wait.observe(asked_at.elapsed().as_secs_f64());
    Ok(slot)
}

/// What an engine reads: the internal headers, and what describes the body.
fn to_engine(from_edge: &HeaderMap, engine: &Engine, remains: Duration) -> HeaderMap {
    let internal = from_edge.iter().filter(|(name, _)| name.as_str().starts_with(header::PREFIX));
    let mut headers: HeaderMap = internal.map(|(name, value)| (name.clone(), value.clone())).collect();
    headers.remove(header::TRIED);
    // What remains is less than what the edge said by the time in line.
    headers.insert(
        header::DEADLINE_MS,
        HeaderValue::from(u64::try_from(remains.as_millis()).unwrap_or(u64::MAX)),
    );
    if let Some(kind) = from_edge.get(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, kind.clone());
    }
    headers.insert(HOST, visible(&engine.address));
    headers
}

/// What an edge may read of an engine's head. The node puts its own load there for the engine's.
fn to_edge(from_engine: &HeaderMap, engine: &Engine) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for name in
        [CONTENT_TYPE.as_str(), CACHE_CONTROL.as_str(), RETRY_AFTER.as_str()].into_iter().chain(PASSED_ON)
    {
        if let Some(value) = from_engine.get(name) {
            headers.insert(http::HeaderName::from_static(name), value.clone());
        }
    }
    headers.insert(header::REPLICA, visible(&engine.replica));
    headers
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let is_stream = |kind: &str| kind.trim().eq_ignore_ascii_case("text/event-stream");
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.and_then(|kind| kind.split(';').next()).is_some_and(is_stream)
}

/// How an engine's head counts; none if the edge shall hear of a failed replica instead.
fn judge(status: StatusCode, headers: &HeaderMap) -> Option<Outcome> {
    if let Some(word) = headers.get(header::FAILURE) {
        let failure = word.to_str().ok()?.parse::<Failure>().ok()?;
        return (failure.status() == status.as_u16()).then_some(Outcome::Failed(failure));
    }
    match status {
        StatusCode::OK => Some(Outcome::Served),
        status if status.is_client_error() => Some(Outcome::ClientError),
        _ => None,
    }
}

const PASSED_ON: [&str; 3] = [header::FAILURE, header::PROMPT_TOKENS, header::PREFIX_HASH];

/// English text and its JSON around it; only a guess for routing, until the engine has counted.
const BYTES_PER_TOKEN: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use types::ModelVersion;

    fn failure(word: &str) -> HeaderMap {
        [(header::FAILURE.parse().unwrap(), word.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn an_engine_s_head_is_judged() {
        let none = HeaderMap::new();
        for (status, headers, outcome) in [
            (200, &none, Some(Outcome::Served)),
            (400, &none, Some(Outcome::ClientError)),
            (429, &none, Some(Outcome::ClientError)),
            (500, &none, None),
            (503, &none, None),
            (204, &none, None),
            (302, &none, None),
            (503, &failure("queue-full"), Some(Outcome::Failed(Failure::QueueFull))),
            (503, &failure("draining"), Some(Outcome::Failed(Failure::Draining))),
            (400, &failure("protocol"), Some(Outcome::Failed(Failure::Protocol))),
            (200, &failure("queue-full"), None),
            (503, &failure("a-newer-word"), None),
        ] {
            assert_eq!(
                judge(StatusCode::from_u16(status).unwrap(), headers),
                outcome,
                "{status} {headers:?}"
            );
        }
    }

    #[test]
    fn only_listed_headers_travel() {
        let id = "us-east/n1/0-0".parse().unwrap();
        let version = ModelVersion::from_digest([0; 32]);
        let engine = Engine::new(id, version, "127.0.0.1:7500".parse().unwrap(), 1);
        let mut from_edge = failure("x");
        for (name, value) in [
            (header::SEED, "7"),
            (header::TRIED, "us-east/n1/1-0"),
            (header::DEADLINE_MS, "9000"),
            ("authorization", "Bearer secret"),
            ("content-type", "application/json"),
            ("te", "trailers"),
        ] {
            from_edge.insert(name, value.parse().unwrap());
        }
        let sent = to_engine(&from_edge, &engine, Duration::from_millis(1234));
        let mut names: Vec<_> = sent.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "host", "rhumb-deadline-ms", "rhumb-failure", "rhumb-seed"]);
        assert_eq!(sent[header::DEADLINE_MS], "1234");

        let mut from_engine = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("connection", "close"),
            ("server", "x"),
            ("set-cookie", "a=b"),
            (header::REPLICA, "us-east/n1/9-9"),
            (header::PROMPT_TOKENS, "12"),
        ] {
            from_engine.insert(name, value.parse().unwrap());
        }
        let given = to_edge(&from_engine, &engine);
        assert_eq!(given.len(), 3);
        assert_eq!(given[header::REPLICA], "us-east/n1/0-0", "the agent knows better");
    }
}
