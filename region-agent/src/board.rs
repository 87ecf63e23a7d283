//! What is in the places of this node: written by their supervisors, read for the next plan and by operators.

use crate::life::Stage;
use crate::placement::{Progress, Recipe, Share};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use types::ReplicaId;

#[derive(Debug, Clone, Default)]
pub struct Board {
    /// By number. Places that are empty are not here.
    pub places: BTreeMap<u16, Status>,
    /// Replicas that the intent wants of this node.
    pub wanted: u32,
    /// Those of them that find no place free.
    pub waiting: Vec<Share>,
}

/// One place for a replica on this node.
#[derive(Debug, Clone)]
pub struct Place {
    pub number: u16,
    pub address: SocketAddr,
    pub recipe: Recipe,
    /// How often it was started before, whatever ran there: no replica's id comes back while this agent lives.
    pub starts: u32,
}

#[derive(Debug, Clone)]
pub struct Status {
    pub place: Place,
    pub stage: Stage,
    pub is_failing: bool,
    /// None before the first start.
    pub replica: Option<ReplicaId>,
    /// None while no process runs.
    pub pid: Option<u32>,
    pub starts: u32,
}

impl Board {
    pub fn waiting_count(&self) -> u32 {
        self.waiting.iter().map(|share| u32::from(share.count)).sum()
    }

    pub fn is_serving(&self) -> bool {
        self.places.values().any(|status| status.stage == Stage::Serving)
    }
}

impl Status {
    pub fn empty(place: Place) -> Self {
        let starts = place.starts;
        Self { place, stage: Stage::Gone, is_failing: false, replica: None, pid: None, starts }
    }

    pub fn progress(&self) -> Progress {
        match self.stage {
            Stage::Draining => Progress::Draining,
            Stage::Serving => Progress::Serving,
            Stage::Starting | Stage::Gone if self.is_failing => Progress::Failing,
            Stage::Starting | Stage::Gone => Progress::Coming,
        }
    }
}
