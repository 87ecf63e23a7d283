//! What operators and probes read: health, metrics, replicas. Plain HTTP, read only.

use crate::board::{Board, Status};
use crate::intent::Intent;
use crate::metrics::Facts;
use crate::node::Node;
use crate::placement::Wanted;
use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use identity::Live;
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// What the pages are made from.
#[derive(Clone)]
pub struct Pages {
    pub node: Arc<Node>,
    pub board: watch::Receiver<Board>,
    pub intent: Intent,
    pub identity: Arc<Live>,
    /// Members of the control plane.
    pub members: Arc<[SocketAddr]>,
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

    fn health(&self, board: &Board) -> Health {
        health(self.node.slots.is_draining(), self.intent.wanted.borrow().as_deref(), board)
    }
}

/// Whether this node is worth sending requests to, and for what it waits if not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    /// Nobody has ever said what to run.
    NoIntent,
    /// The intent does not name this node.
    Unknown,
    /// The intent places nothing here.
    Nothing,
    Starting,
    Serving,
    Draining,
}

fn health(is_draining: bool, wanted: Option<&Wanted>, board: &Board) -> Health {
    match wanted {
        _ if is_draining => Health::Draining,
        _ if board.is_serving() => Health::Serving,
        None => Health::NoIntent,
        Some(wanted) if !wanted.is_known => Health::Unknown,
        Some(wanted) if wanted.replicas.is_empty() => Health::Nothing,
        Some(_) => Health::Starting,
    }
}

async fn readyz(State(pages): State<Pages>) -> (StatusCode, String) {
    let waits = match pages.health(&pages.board.borrow()) {
        Health::Serving => return (StatusCode::OK, "ok\n".to_owned()),
        Health::NoIntent => {
            let members: Vec<_> = pages.members.iter().map(ToString::to_string).collect();
            format!("waits for the control plane to say what to run: {}\n", members.join(", "))
        }
        Health::Unknown => {
            let (region, name) = (&pages.node.region, &pages.node.name);
            format!("waits for node/{region}/{name} to be in the intent\n")
        }
        Health::Nothing => "waits for a deployment that places replicas here\n".to_owned(),
        Health::Starting => "waits for a replica to serve\n".to_owned(),
        Health::Draining => "draining\n".to_owned(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, waits)
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    let text = pages.node.metrics.render(&Facts {
        census: pages.node.slots.census(),
        board: pages.board.borrow().clone(),
        standing: *pages.intent.standing.borrow(),
        certificate_ends: pages.identity.current().not_after(),
    });
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn replicas(State(pages): State<Pages>) -> impl IntoResponse {
    let board = pages.board.borrow().clone();
    let standing = *pages.intent.standing.borrow();
    let census = pages.node.slots.census();
    let seats = |status: &Status| {
        let line = census.get(&status.place.recipe.version)?;
        line.replicas.get(status.replica.as_ref()?)
    };
    let replicas: Vec<_> = board
        .places
        .values()
        .map(|status| ReplicaPage {
            replica: status.replica.as_ref().map(ToString::to_string),
            pid: status.pid,
            addr: status.place.address.to_string(),
            state: status.stage.as_str(),
            model: status.place.recipe.served_name.to_string(),
            version: status.place.recipe.version.to_string(),
            starts: status.starts,
            running: seats(status).map_or(0, |seats| seats.running),
            slots: status.place.recipe.slots,
        })
        .collect();
    let page = NodePage {
        region: pages.node.region.as_str(),
        node: pages.node.name.as_str(),
        state: match pages.health(&board) {
            Health::NoIntent | Health::Unknown | Health::Nothing | Health::Starting => "starting",
            Health::Serving => "serving",
            Health::Draining => "draining",
        },
        queued: census.values().map(|line| line.waiting).sum(),
        running: replicas.iter().map(|replica| replica.running).sum(),
        revision: standing.position.map(|position| position.revision.0),
        live: standing.is_live,
        wanted: board.wanted,
        waiting: board.waiting_count(),
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
    /// How far the intent is known here; null before there was any.
    revision: Option<u64>,
    /// A member of the control plane sends.
    live: bool,
    /// Replicas that the intent wants here.
    wanted: u32,
    /// Those of them that find no place free.
    waiting: u32,
    /// Also those that drain.
    replicas: Vec<ReplicaPage>,
}

#[derive(Serialize)]
struct ReplicaPage {
    replica: Option<String>,
    pid: Option<u32>,
    addr: String,
    state: &'static str,
    model: String,
    version: String,
    starts: u32,
    running: u32,
    slots: u32,
}
