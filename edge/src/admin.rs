//! Health, metrics and explanations, on a port that clients cannot reach.

use crate::Edge;
use crate::intent::{self, Standings};
use crate::other_edges::{OtherEdges, Untold};
use crate::route_page::{self, Imagined};
use axum::Router;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use identity::Live;
use openai::ErrorObject;
use serde::Deserialize;
use std::sync::Arc;

/// What is told of.
pub(crate) struct Told {
    pub(crate) edge: Arc<Edge>,
    /// `<region>/<name>` of this edge.
    pub(crate) name: String,
    pub(crate) other_edges: OtherEdges,
    pub(crate) standings: Standings,
    pub(crate) identity: Arc<Live>,
}

/// Who is to tell of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    /// An edge asks so on behalf of whom asked it.
    #[serde(default)]
    only_here: bool,
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

/// What was decided for a request, and what came of it. Only the edge that had it knows, and not for ever; so the
/// others are asked where this one knows nothing.
async fn request(
    State(told): State<Arc<Told>>,
    Path(id): Path<String>,
    scope: Result<Query<Scope>, QueryRejection>,
) -> Response {
    let Query(scope) = match scope {
        Ok(scope) => scope,
        Err(unreadable) => return refused(StatusCode::BAD_REQUEST, unreadable.body_text(), "invalid_query"),
    };
    let not_found = |message: &str| refused(StatusCode::NOT_FOUND, message, "request_not_found");
    // As SDKs show it, or as the header does.
    let Ok(id) = id.rsplit_once('-').map_or(id.as_str(), |(_, id)| id).parse() else {
        return not_found("this is no request's id");
    };
    if let Some(page) = told.edge.decisions.explain(id, &told.name) {
        return json(StatusCode::OK, page);
    }
    if scope.only_here {
        return not_found("this edge does not know the request, or has forgotten it");
    }
    match told.other_edges.explain(id).await {
        Ok(page) => json(StatusCode::OK, page),
        Err(untold @ Untold::Unknown(_)) => not_found(&untold.to_string()),
        Err(untold @ Untold::Silent(_)) => {
            refused(StatusCode::BAD_GATEWAY, untold.to_string(), "edges_silent")
        }
    }
}

fn json(status: StatusCode, page: impl IntoResponse) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], page).into_response()
}

fn refused(status: StatusCode, message: impl Into<String>, code: &str) -> Response {
    json(status, ErrorObject::new(message, "invalid_request_error", code).to_json())
}

/// Where a request would go now, and why not elsewhere.
async fn route(State(told): State<Arc<Told>>, imagined: Result<Query<Imagined>, QueryRejection>) -> Response {
    match imagined {
        Ok(Query(imagined)) => match route_page::explained(&told.edge, &imagined) {
            Ok(page) => json(StatusCode::OK, page),
            Err(unexplained) => json(StatusCode::NOT_FOUND, unexplained.to_json()),
        },
        Err(unreadable) => refused(StatusCode::BAD_REQUEST, unreadable.body_text(), "invalid_query"),
    }
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
