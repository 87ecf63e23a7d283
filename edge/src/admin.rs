//! Health and metrics, on a port that clients cannot reach.

use crate::Edge;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use std::sync::Arc;

pub(crate) fn routes(edge: Arc<Edge>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(edge)
}

/// Ready is: listening, not draining. Whether any engine is up is no question of this edge's health, since
/// taking all edges out when all engines are down would only hide why.
async fn ready(State(edge): State<Arc<Edge>>) -> (StatusCode, &'static str) {
    if edge.drain.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

async fn metrics(State(edge): State<Arc<Edge>>) -> String {
    edge.metrics.to_text()
}
