//! Health, metrics and explanations, on a port that clients cannot reach.

use crate::Edge;
use crate::intent::{self, Standings};
use crate::route_page::{self, Imagined};
use axum::Router;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use identity::Live;
use openai::ErrorObject;
use std::sync::Arc;

/// What is told of.
pub(crate) struct Told {
    pub(crate) edge: Arc<Edge>,
    pub(crate) standings: Standings,
    pub(crate) identity: Arc<Live>,
}

pub(crate) fn routes(told: Told) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/requests/{id}", get(request))
        .route("/route", get(route))
        .with_state(Arc::new(told))
}

/// Ready is: listening, not draining, and with a table of each kind, however old. Whether any engine is up is no
/// question of this edge's health, since taking all edges out when all engines are down would only hide why; nor is
/// the control plane, without which an edge serves just as well.
async fn ready(State(told): State<Arc<Told>>) -> (StatusCode, String) {
    let missing = match told.edge.leaving.is_cancelled() {
        true => vec!["draining".to_owned()],
        false => intent::waits_for(&told.edge),
    };
    if missing.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n")
    }
}

/// What was decided for a request, and what came of it. Only the edge that had it knows, and not for ever.
async fn request(State(told): State<Arc<Told>>, Path(id): Path<String>) -> Response {
    // As SDKs show it, or as the header does.
    let id = id.rsplit_once('-').map_or(id.as_str(), |(_, id)| id);
    let (status, json) = match id.parse().ok().and_then(|id| told.edge.decisions.explain(id)) {
        Some(json) => (StatusCode::OK, json),
        None => {
            let message = "this edge does not know the request, or has forgotten it";
            let error = ErrorObject::new(message, "invalid_request_error", "request_not_found");
            (StatusCode::NOT_FOUND, error.to_json())
        }
    };
    (status, [(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// Where a request would go now, and why not elsewhere.
async fn route(State(told): State<Arc<Told>>, imagined: Result<Query<Imagined>, QueryRejection>) -> Response {
    let (status, json) = match imagined {
        Ok(Query(imagined)) => match route_page::explained(&told.edge, &imagined) {
            Ok(json) => (StatusCode::OK, json),
            Err(unexplained) => (StatusCode::NOT_FOUND, unexplained.to_json()),
        },
        Err(unreadable) => {
            let error = ErrorObject::new(unreadable.body_text(), "invalid_request_error", "invalid_query");
            (StatusCode::BAD_REQUEST, error.to_json())
        }
    };
    (status, [(header::CONTENT_TYPE, "application/json")], json).into_response()
}

async fn metrics(State(told): State<Arc<Told>>) -> String {
    let metrics = &told.edge.metrics;
    for (interest, standing) in &told.standings {
        let standing = *standing.borrow();
        let revision = standing.position.map_or(0, |position| position.revision.0);
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        metrics.intent_revision.with_label_values(&[interest]).set(gauge(revision));
        metrics.intent_live.with_label_values(&[interest]).set(standing.is_live.into());
    }
    let counts = told.edge.tenants.counts();
    let nodes = told.edge.routing_table.load().as_ref().map_or(0, |table| table.nodes.len());
    let nodes_serving = told.edge.health().nodes_serving(told.edge.clock.now());
    for (gauge, count) in [
        (&metrics.keys, counts.keys),
        (&metrics.tenants, counts.tenants),
        (&metrics.nodes, nodes),
        (&metrics.nodes_serving, nodes_serving),
    ] {
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    metrics.certificate_expiry_seconds.set(told.identity.current().not_after().unix_timestamp());
    metrics.to_text()
}
