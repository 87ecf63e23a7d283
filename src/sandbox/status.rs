//! `rhumb status`: how each region is, measured now.

use crate::sandbox::control::{self, ControlError, Question};
use crate::sandbox::layout::{ENGINES_PER_REGION, Layout, Paths, Role, Seat};
use crate::sandbox::replicas::{self, ReplicaState};
use crate::sandbox::{kept_layout, ready, write};
use crate::say::say;
use crate::stdout;
use crate::table::table;
use serde::Serialize;
use std::process::ExitCode;
use tokio::task::JoinSet;
use types::{ApiKey, RegionName};

/// What `rhumb status --json` prints. Parts that are not built yet are null.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Status {
    healthy: bool,
    /// The region of the control plane's leader.
    leader: Option<RegionName>,
    incarnation: Option<u64>,
    revision: Option<u64>,
    regions: Vec<RegionStatus>,
}

/// Numbers count what is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RegionStatus {
    name: RegionName,
    state: State,
    edges: usize,
    nodes: usize,
    replicas: usize,
    queued: u64,
    running: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Everything that belongs there is ready.
    Serving,
    Degraded,
    /// No edge answers and no replica serves.
    Down,
}

pub fn run(paths: &Paths, json: bool) -> anyhow::Result<ExitCode> {
    let layout = kept_layout(paths)?;
    let status = match control::ask(paths, &Question::Processes) {
        Ok(_) => {
            let key = write::api_key(paths)?;
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(measure(&layout, &key))
        }
        // Its addresses may be another sandbox's by now, so nobody is asked.
        Err(error @ ControlError::NothingRuns { .. }) => {
            say!("{error}");
            Status::of(layout.regions.names().iter().map(|name| RegionStatus::down(name.clone())).collect())
        }
        Err(error) => return Err(error.into()),
    };
    if json {
        stdout::print_json(&status)?;
    } else {
        stdout::print(&status.table())?;
    }
    Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(layout: &Layout, key: &ApiKey) -> Status {
    let mut regions = JoinSet::new();
    for (at, seat) in layout.seats().enumerate() {
        let key = key.clone();
        regions.spawn(async move { (at, region(&seat, &key).await) });
    }
    let mut regions = regions.join_all().await;
    regions.sort_by_key(|(at, _)| *at);
    Status::of(regions.into_iter().map(|(_, region)| region).collect())
}

async fn region(seat: &Seat, key: &ApiKey) -> RegionStatus {
    let edges = usize::from(ready::now(Role::Edge, seat, key).await.is_ok());
    let Ok(agent) = replicas::of(seat).await else {
        return RegionStatus { edges, ..RegionStatus::down(seat.region.clone()) }.judged();
    };
    let replicas = agent.replicas.iter().filter(|one| one.state == ReplicaState::Serving).count();
    RegionStatus {
        edges,
        // A node is ready when it is worth sending requests to.
        nodes: usize::from(agent.state == ReplicaState::Serving),
        replicas,
        queued: agent.queued,
        running: agent.running,
        ..RegionStatus::down(seat.region.clone())
    }
    .judged()
}

impl Status {
    fn of(regions: Vec<RegionStatus>) -> Self {
        let healthy = !regions.is_empty() && regions.iter().all(|region| region.state == State::Serving);
        Self { healthy, leader: None, incarnation: None, revision: None, regions }
    }

    fn table(&self) -> String {
        let head = ["REGION", "STATE", "EDGES", "NODES", "REPLICAS", "QUEUED", "RUNNING"].map(str::to_owned);
        let rows = self.regions.iter().map(|region| {
            [
                region.name.to_string(),
                region.state.as_str().to_owned(),
                format!("{}/1", region.edges),
                format!("{}/1", region.nodes),
                format!("{}/{ENGINES_PER_REGION}", region.replicas),
                region.queued.to_string(),
                region.running.to_string(),
            ]
        });
        table(head, rows)
    }
}

impl RegionStatus {
    fn down(name: RegionName) -> Self {
        Self { name, state: State::Down, edges: 0, nodes: 0, replicas: 0, queued: 0, running: 0 }
    }

    fn judged(self) -> Self {
        let state = match (self.edges, self.nodes, self.replicas) {
            (0, _, 0) => State::Down,
            (1, 1, replicas) if replicas == usize::from(ENGINES_PER_REGION) => State::Serving,
            _ => State::Degraded,
        };
        Self { state, ..self }
    }
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(edges: usize, nodes: usize, replicas: usize) -> RegionStatus {
        RegionStatus { edges, nodes, replicas, ..RegionStatus::down("us-east".parse().unwrap()) }.judged()
    }

    #[test]
    fn a_region_serves_with_everything_and_is_down_with_nothing_of_use() {
        let engines = usize::from(ENGINES_PER_REGION);
        assert_eq!(region(1, 1, engines).state, State::Serving);
        assert_eq!(region(1, 1, engines - 1).state, State::Degraded);
        assert_eq!(region(0, 1, engines).state, State::Degraded);
        assert_eq!(region(1, 0, 0).state, State::Degraded);
        assert_eq!(region(0, 1, 0).state, State::Down);
    }

    #[test]
    fn one_degraded_region_is_not_healthy() {
        let status = |regions| Status::of(regions).healthy;
        assert!(status(vec![region(1, 1, 2)]));
        assert!(!status(vec![region(1, 1, 2), region(1, 1, 1)]));
        assert!(!status(vec![]));
    }

    #[test]
    fn json_is_the_contract() {
        let expected = serde_json::json!({
            "healthy": true,
            "leader": null,
            "incarnation": null,
            "revision": null,
            "regions": [{
                "name": "us-east",
                "state": "serving",
                "edges": 1,
                "nodes": 1,
                "replicas": 2,
                "queued": 0,
                "running": 0,
            }],
        });
        assert_eq!(serde_json::to_value(Status::of(vec![region(1, 1, 2)])).unwrap(), expected);
    }
}
