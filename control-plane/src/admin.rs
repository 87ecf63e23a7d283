//! What operators and probes read: health and metrics. Plain HTTP, read only.

use crate::metrics::Metrics;
use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use identity::Live;
use raft::Raft;
use std::sync::Arc;

/// What the pages are made from.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) raft: Raft,
    pub(crate) identity: Arc<Live>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Pages {
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

/// Ready is who can answer: it follows a leader, and knows a state.
async fn readyz(State(pages): State<Pages>) -> (StatusCode, &'static str) {
    if pages.raft.standing().borrow().leader.is_none() {
        return (StatusCode::SERVICE_UNAVAILABLE, "no leader is known\n");
    }
    if pages.raft.state().cluster().is_none() {
        return (StatusCode::SERVICE_UNAVAILABLE, "no state is known yet\n");
    }
    (StatusCode::OK, "ok\n")
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    let text = pages.metrics.render(&pages.raft, pages.identity.current().not_after());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}
