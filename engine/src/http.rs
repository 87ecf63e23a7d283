//! The engine's server: the OpenAI endpoints, the internal stream, health, load and metrics.

mod answer;
mod ask;
mod logprobs;
mod refuse;

use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use ask::Target;
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use futures_util::StreamExt;
use openai::Endpoint;
use openai::models::{Model, ModelList};
use refuse::Refusal;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use types::{LoadState, ModelName, ReplicaId, header as internal};

/// What requests are answered from.
#[derive(Debug)]
pub struct Served {
    pub name: ModelName,
    pub replica: Option<ReplicaId>,
    pub context_length: usize,
    pub vocabulary: usize,
    pub end_tokens: Vec<u32>,
    pub queue: Queue,
    pub tokenizer: Arc<Tokenizer>,
    pub template: ChatTemplate,
    pub metrics: Arc<Metrics>,
}

/// Serves until `stop`, and on until the last answer is out.
pub async fn serve(
    listener: tokio::net::TcpListener,
    served: Arc<Served>,
    stop: CancellationToken,
) -> io::Result<()> {
    // Each token is a small write that must not wait for an acknowledgement of the one before.
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    axum::serve(listener, router(served)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router(served: Arc<Served>) -> Router {
    Router::new()
        .route(Endpoint::Chat.path(), post(chat))
        .route(Endpoint::Completions.path(), post(completions))
        .route(internal::RESUME_PATH, post(resume))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/rhumb/v1/load", get(load))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(no_such_path)
        .method_not_allowed_fallback(|| async { Refusal::NoSuchMethod })
        .with_state(served)
}

async fn chat(served: State<Arc<Served>>, request: Request) -> Response {
    generate(served, Target::Begin(Endpoint::Chat), request).await
}

async fn completions(served: State<Arc<Served>>, request: Request) -> Response {
    generate(served, Target::Begin(Endpoint::Completions), request).await
}

async fn resume(served: State<Arc<Served>>, request: Request) -> Response {
    generate(served, Target::Resume, request).await
}

async fn generate(State(served): State<Arc<Served>>, target: Target, request: Request) -> Response {
    match answer(&served, target, request).await {
        Ok(response) => response,
        Err(refusal) => {
            if let Some(outcome) = refusal.outcome() {
                served.metrics.ended(outcome);
            }
            refusal.to_response(served.replica.as_ref())
        }
    }
}

/// One request's way through the engine.
async fn answer(served: &Arc<Served>, target: Target, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let head = ask::head(&parts.headers, target)?;
    let place = served.queue.enter()?;
    let body = receive(body).await?;
    let (model, asker) = (Arc::clone(served), head.clone());
    // Rendering and tokenising a long prompt takes long; other requests must not wait for it.
    let asked = tokio::task::spawn_blocking(move || ask::body(&model, target, &asker, &body));
    let ask::Asked { style, sequence } = asked.await.map_err(|_| Refusal::Lost)??;
    let writer = answer::Writer::new(served, &head, &style, &sequence);
    let events = served.queue.submit(place, sequence)?;
    if head.annotated || style.stream {
        Ok(answer::stream(Arc::clone(served), events, writer))
    } else {
        answer::whole(events, writer).await
    }
}

async fn receive(body: Body) -> Result<axum::body::Bytes, Refusal> {
    let read = axum::body::to_bytes(body, BODY_BYTES_MAX);
    match tokio::time::timeout(BODY_TIME_MAX, read).await {
        Err(_) => Err(Refusal::SlowBody),
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => Err(Refusal::unread_body(&error)),
    }
}

/// Agents bring requests for all endpoints of the API. An answer that overtook a body would look like a crash to them,
/// so the body comes to its end first.
async fn no_such_path(request: Request) -> Refusal {
    let mut body = request.into_body().into_data_stream();
    let drain = async { while let Some(Ok(_)) = body.next().await {} };
    // One that takes longer loses nothing but its connection.
    let _ = tokio::time::timeout(BODY_TIME_MAX, drain).await;
    Refusal::NoSuchPath
}

async fn models(State(served): State<Arc<Served>>) -> Response {
    json(&ModelList::new(vec![served.listed()]))
}

/// A name that is no UTF-8 is no model's either.
async fn model(State(served): State<Arc<Served>>, name: Result<Path<String>, PathRejection>) -> Response {
    match name {
        Ok(Path(name)) if name == served.name.as_str() => json(&served.listed()),
        Ok(_) | Err(_) => Refusal::NoSuchModel.into_response(),
    }
}

async fn load(State(served): State<Arc<Served>>) -> String {
    served.queue.load_frame().to_string()
}

async fn livez(State(served): State<Arc<Served>>) -> (StatusCode, &'static str) {
    liveness(served.queue.load().step_age())
}

/// An engine whose step does not end answers every question but the one that counts.
fn liveness(step_age: Option<Duration>) -> (StatusCode, &'static str) {
    match step_age {
        Some(age) if age > STEP_MAX => (StatusCode::SERVICE_UNAVAILABLE, "a step does not end\n"),
        _ => (StatusCode::OK, "ok\n"),
    }
}

/// Says who is ready: an agent must not take another process on the port for the one it started.
async fn readyz(State(served): State<Arc<Served>>) -> impl IntoResponse {
    let replica = served.replica.as_ref().map(|replica| (name(internal::REPLICA), replica.to_string()));
    let (status, text) = match served.queue.state() {
        LoadState::Serving => (StatusCode::OK, "ok\n"),
        LoadState::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        LoadState::Starting => (StatusCode::SERVICE_UNAVAILABLE, "the step loop is dead\n"),
    };
    (status, AppendHeaders(replica), text)
}

async fn metrics(State(served): State<Arc<Served>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], served.metrics.page(&served.queue))
}

impl Served {
    /// A version never changes, and has no date of its own.
    fn listed(&self) -> Model {
        Model::new(self.name.as_str(), 0)
    }
}

fn json(value: &impl serde::Serialize) -> Response {
    let text = serde_json::to_string(value).expect("strings and numbers always serialise");
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

const fn name(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

/// What the edge admits, with room for the line that resumes a stream.
const BODY_BYTES_MAX: usize = (32 << 20) + types::resume::LINE_BYTES_MAX;
/// Edge and agent pass a body on as it comes, and its client may be slow. The edge's own deadline for it, 140 s, comes
/// first, so that the edge is the one who speaks.
const BODY_TIME_MAX: Duration = Duration::from_secs(150);
/// The largest chunk of a prompt on the slowest host takes some seconds.
const STEP_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_does_not_end_is_no_life() {
        assert_eq!(liveness(None).0, StatusCode::OK);
        assert_eq!(liveness(Some(STEP_MAX)).0, StatusCode::OK);
        assert_eq!(liveness(Some(STEP_MAX + Duration::from_millis(1))).0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
