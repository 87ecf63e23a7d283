//! What operators and probes read: health, metrics, replicas. Plain HTTP, read only.

use crate::life::Stage;
use crate::node::Node;
use crate::supervise::Status;
use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::watch;

/// What the pages are made from.
#[derive(Clone)]
pub struct Pages {
    pub node: Arc<Node>,
    pub statuses: Arc<[watch::Receiver<Status>]>,
}

impl Pages {
    pub fn router(self) -> Router {
        Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/replicas", get(replicas))
            .with_state(self)
    }

    fn statuses(&self) -> Vec<Status> {
        self.statuses.iter().map(|status| status.borrow().clone()).collect()
    }

    fn health(&self, statuses: &[Status]) -> Health {
        health(self.node.slots.is_draining(), statuses)
    }
}

/// Whether this node is worth sending requests to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Starting,
    Serving,
    Draining,
}

fn health(is_draining: bool, statuses: &[Status]) -> Health {
    match is_draining {
        true => Health::Draining,
        false if statuses.iter().any(|status| status.stage == Stage::Serving) => Health::Serving,
        false => Health::Starting,
    }
}

async fn readyz(State(pages): State<Pages>) -> (StatusCode, &'static str) {
    match pages.health(&pages.statuses()) {
        Health::Serving => (StatusCode::OK, "ok\n"),
        Health::Starting => (StatusCode::SERVICE_UNAVAILABLE, "no replica serves\n"),
        Health::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    let text = pages.node.metrics.render(&pages.node.slots.census(), &pages.statuses());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn replicas(State(pages): State<Pages>) -> impl IntoResponse {
    let statuses = pages.statuses();
    let census = pages.node.slots.census();
    let seats = |status: &Status| {
        let line = census.get(&status.place.version)?;
        line.replicas.get(status.replica.as_ref()?)
    };
    let replicas: Vec<_> = statuses
        .iter()
        .map(|status| ReplicaPage {
            replica: status.replica.as_ref().map(ToString::to_string),
            pid: status.pid,
            addr: status.place.address.to_string(),
            state: status.stage.as_str(),
            version: status.place.version.to_string(),
            starts: status.starts,
            running: seats(status).map_or(0, |seats| seats.running),
            slots: status.place.slots,
        })
        .collect();
    let page = NodePage {
        region: pages.node.region.as_str(),
        node: pages.node.name.as_str(),
        state: match pages.health(&statuses) {
            Health::Starting => "starting",
            Health::Serving => "serving",
            Health::Draining => "draining",
        },
        queued: census.values().map(|line| line.waiting).sum(),
        running: replicas.iter().map(|replica| replica.running).sum(),
        replicas,
    };
    let json = serde_json::to_string(&page).expect("strings and numbers always serialise");
    ([(CONTENT_TYPE, "application/json")], json)
}

#[derive(Serialize)]
struct NodePage<'a> {
    region: &'a str,
    node: &'a str,
    state: &'static str,
    queued: u32,
    running: u32,
    replicas: Vec<ReplicaPage>,
}

#[derive(Serialize)]
struct ReplicaPage {
    replica: Option<String>,
    pid: Option<u32>,
    addr: String,
    state: &'static str,
    version: String,
    starts: u32,
    running: u32,
    slots: u32,
}
