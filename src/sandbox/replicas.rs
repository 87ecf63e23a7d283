//! What a region agent says about its engines.

use crate::sandbox::layout::Seat;
use crate::sandbox::probe::{self, ProbeError};
use http::StatusCode;
use serde::Deserialize;
use std::net::SocketAddr;

/// `GET /replicas` of an agent, as far as a sandbox asks.
#[derive(Debug, Deserialize)]
pub struct Replicas {
    /// Of the node as a whole.
    pub state: ReplicaState,
    pub queued: u64,
    pub running: u64,
    /// How far it knows the intent; absent while it knows nothing of it.
    pub revision: Option<u64>,
    /// Replicas that the intent wants there.
    pub wanted: usize,
    /// Those that run, also where they only finish what they have.
    pub replicas: Vec<Replica>,
}

#[derive(Debug, Deserialize)]
pub struct Replica {
    /// Absent while no process runs.
    pub pid: Option<u32>,
    pub addr: SocketAddr,
    pub state: ReplicaState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaState {
    Serving,
    #[serde(other)]
    Other,
}

impl Replicas {
    pub fn serving(&self) -> usize {
        self.replicas.iter().filter(|one| one.state == ReplicaState::Serving).count()
    }

    /// Nothing is wanted of this node, and it knows so.
    pub fn is_idle(&self) -> bool {
        self.wanted == 0 && self.revision.is_some()
    }

    /// The error says what is missing.
    pub fn serves(&self, count: usize) -> Result<(), String> {
        match self.serving() {
            serving if serving >= count => Ok(()),
            serving => Err(format!("{serving} of {count} engines serve")),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ReplicasError {
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error("the region agent answers {0}")]
    Status(StatusCode),
    #[error("the region agent's list of replicas cannot be read")]
    Parse(#[source] serde_json::Error),
}

pub async fn of(seat: &Seat) -> Result<Replicas, ReplicasError> {
    let (status, body) = probe::get(seat.agent_admin(), "/replicas", None).await?;
    if status != StatusCode::OK {
        return Err(ReplicasError::Status(status));
    }
    serde_json::from_slice(&body).map_err(ReplicasError::Parse)
}
