//! `rhumb status`: how each region and the control plane are, measured now.

use crate::operator::{cluster, context};
use crate::sandbox::control::{self, ControlError, Question};
use crate::sandbox::layout::{Layout, Role, Seat};
use crate::sandbox::paths::Paths;
use crate::sandbox::replicas::{self, ReplicaState, Replicas};
use crate::sandbox::{kept_layout, ready, write};
use crate::say::say;
use crate::stdout;
use crate::table::table;
use client::Operator;
use proto::v1::StatusReply;
use serde::Serialize;
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;
use tokio::task::JoinSet;
use types::intent::{DrainScope, ResourceId};
use types::{ApiKey, RegionName};

/// What `rhumb status --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Everything is ready and the control plane has a leader; a drained region may be as well as any other.
    pub healthy: bool,
    /// The region of the control plane's leader; null while there is none.
    pub leader: Option<RegionName>,
    /// Null if no member answers.
    incarnation: Option<u64>,
    /// The newest that any member has applied.
    pub revision: Option<u64>,
    pub regions: Vec<RegionStatus>,
}

/// What the members of the control plane say, taken together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlPlane {
    pub leader: Option<u64>,
    incarnation: Option<u64>,
    pub revision: Option<u64>,
    /// Unknown without a leader, and then none.
    pub drained: BTreeSet<RegionName>,
}

/// Numbers count what is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegionStatus {
    pub name: RegionName,
    pub state: State,
    pub voters: usize,
    pub edges: usize,
    pub nodes: usize,
    pub replicas: usize,
    pub queued: u64,
    pub running: u64,
    #[serde(skip)]
    pub wanted: Wanted,
}

/// What belongs to a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub replicas: usize,
    /// Nothing is to run there, so its node need not serve.
    pub is_idle: bool,
    pub voters: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Everything that belongs there is ready.
    Serving,
    /// The same, and an operator keeps requests away.
    Drained,
    /// The same, and nothing is to run there: its edge sends all requests elsewhere.
    Idle,
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
                .block_on(measure(&layout, paths, &key))
        }
        // Its addresses may be another sandbox's by now, so nobody is asked.
        Err(error @ ControlError::NothingRuns { .. }) => {
            say!("{error}");
            let down = layout.seats().map(|seat| RegionStatus::down(&seat));
            Status::of(down.collect(), ControlPlane::default(), &layout)
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

async fn measure(layout: &Layout, paths: &Paths, key: &ApiKey) -> Status {
    let mut regions = JoinSet::new();
    for (at, seat) in layout.seats().enumerate() {
        let key = key.clone();
        regions.spawn(async move { (at, region(&seat, &key).await) });
    }
    let (mut regions, control_plane) =
        tokio::join!(regions.join_all(), control_plane(paths, layout.voters.len()));
    let control_plane = control_plane.unwrap_or_else(|error| {
        say!("the control plane cannot be asked: {}", crate::failure::chain(&error).join(": "));
        ControlPlane::default()
    });
    regions.sort_by_key(|(at, _)| *at);
    Status::of(regions.into_iter().map(|(_, region)| region).collect(), control_plane, layout)
}

/// Asks every member, and whoever leads what is drained.
async fn control_plane(paths: &Paths, voters: usize) -> anyhow::Result<ControlPlane> {
    let (dialer, members) = context::dial(&paths.context())?;
    let operator = Operator::new(dialer, members);
    let replies = tokio::time::timeout(MEMBERS_MAX, operator.status()).await.unwrap_or_default();
    let replies: Vec<StatusReply> = replies.into_iter().flatten().collect();
    let mut found = ControlPlane::of(&replies, voters);
    if found.leader.is_some() {
        found.drained = drained(&operator).await.unwrap_or_default();
    }
    Ok(found)
}

/// The regions that operators keep requests away from; None if nobody says it in time.
pub async fn drained(operator: &Operator) -> Option<BTreeSet<RegionName>> {
    let known = tokio::time::timeout(DRAINS_MAX, cluster::read(operator, &["drain"])).await.ok()?.ok()?;
    let region = |id| match id {
        ResourceId::Drain(DrainScope::Region(region)) => Some(region),
        // A sandbox's region has one node, so without it the region takes no requests.
        ResourceId::Drain(DrainScope::Node(node)) => Some(node.region),
        _ => None,
    };
    Some(known.into_keys().filter_map(region).collect())
}

impl ControlPlane {
    /// Believes the newest term, and in a leader that says so itself and has a majority beside it.
    pub fn of(replies: &[StatusReply], voters: usize) -> Self {
        let term = replies.iter().map(|reply| reply.term).max();
        let leads = |reply: &&StatusReply| Some(reply.term) == term && reply.leader == reply.id;
        let leader = replies.iter().find(leads).map(|reply| reply.id);
        let newest = replies.iter().max_by_key(|reply| (reply.incarnation != 0, reply.revision));
        Self {
            leader: leader.filter(|_| replies.len() * 2 > voters),
            incarnation: newest.map(|reply| reply.incarnation),
            revision: newest.map(|reply| reply.revision),
            drained: BTreeSet::new(),
        }
    }
}

async fn region(seat: &Seat, key: &ApiKey) -> RegionStatus {
    let edge = ready::now(Role::Edge, seat, key).await.is_ok();
    let voter = seat.voter.is_some() && ready::now(Role::ControlPlane, seat, key).await.is_ok();
    RegionStatus::of(seat, edge, voter, replicas::of(seat).await.ok().as_ref())
}

impl Status {
    pub fn of(mut regions: Vec<RegionStatus>, control_plane: ControlPlane, layout: &Layout) -> Self {
        let ControlPlane { leader, incarnation, revision, drained } = control_plane;
        for region in &mut regions {
            if matches!(region.state, State::Serving | State::Idle) && drained.contains(&region.name) {
                region.state = State::Drained;
            }
        }
        let is_well =
            |region: &RegionStatus| matches!(region.state, State::Serving | State::Drained | State::Idle);
        let healthy = !regions.is_empty() && regions.iter().all(is_well) && leader.is_some();
        let leader =
            layout.seats().find(|seat| leader.is_some() && seat.voter == leader).map(|seat| seat.region);
        Self { healthy, leader, incarnation, revision, regions }
    }

    fn table(&self) -> String {
        let head = ["REGION", "STATE", "VOTERS", "EDGES", "NODES", "REPLICAS", "QUEUED", "RUNNING"];
        let rows = self.regions.iter().map(|region| {
            [
                region.name.to_string(),
                region.state.as_str().to_owned(),
                format!("{}/{}", region.voters, region.wanted.voters),
                format!("{}/1", region.edges),
                format!("{}/1", region.nodes),
                format!("{}/{}", region.replicas, region.wanted.replicas),
                region.queued.to_string(),
                region.running.to_string(),
            ]
        });
        let control_plane = match (&self.leader, self.revision) {
            (Some(leader), Some(revision)) => format!("is led by {leader}, revision {revision}"),
            (None, Some(revision)) => {
                format!("has no leader, revision {revision}; requests go on, changes wait")
            }
            (_, None) => "does not answer; requests go on, changes wait".to_owned(),
        };
        let serves =
            self.regions.iter().any(|region| matches!(region.state, State::Serving | State::Degraded));
        // Every region may be well by itself, and yet no client is served.
        let note = if serves { "" } else { "No region takes requests.\n" };
        format!("{}\nThe control plane {control_plane}.\n{note}", table(head.map(str::to_owned), rows))
    }
}

impl RegionStatus {
    /// From what answers there.
    pub fn of(seat: &Seat, edge: bool, voter: bool, agent: Option<&Replicas>) -> Self {
        let down = Self::down(seat);
        let (voters, edges) = (usize::from(voter), usize::from(edge));
        let Some(agent) = agent else { return Self { voters, edges, ..down }.judged() };
        Self {
            voters,
            edges,
            // A node is ready when it is worth sending requests to, or there is nothing to send.
            nodes: usize::from(agent.state == ReplicaState::Serving || agent.is_idle()),
            replicas: agent.serving(),
            queued: agent.queued,
            running: agent.running,
            wanted: Wanted { replicas: agent.wanted, is_idle: agent.is_idle(), ..down.wanted },
            ..down
        }
        .judged()
    }

    fn down(seat: &Seat) -> Self {
        Self {
            name: seat.region.clone(),
            state: State::Down,
            voters: 0,
            edges: 0,
            nodes: 0,
            replicas: 0,
            queued: 0,
            running: 0,
            wanted: Wanted { replicas: 0, is_idle: false, voters: usize::from(seat.voter.is_some()) },
        }
    }

    fn judged(self) -> Self {
        let Wanted { replicas, is_idle, voters } = self.wanted;
        let is_whole = self.voters >= voters && self.replicas >= replicas;
        let state = match (self.edges, self.nodes, self.replicas) {
            (0, _, 0) => State::Down,
            (1, 1, 0) if is_whole && is_idle => State::Idle,
            (1, 1, 1..) if is_whole => State::Serving,
            _ => State::Degraded,
        };
        Self { state, ..self }
    }
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Drained => "drained",
            Self::Idle => "idle",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// A member that is gone refuses at once; this is for one that hangs.
const MEMBERS_MAX: Duration = Duration::from_secs(5);
const DRAINS_MAX: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::new(0, "us-east".parse().unwrap())
    }

    fn region(edges: usize, nodes: usize, replicas: usize, voter_is_ready: bool) -> RegionStatus {
        let wanted = Wanted { replicas: 2, is_idle: false, voters: 1 };
        let down = RegionStatus::down(&layout().seats().next().unwrap());
        let voters = usize::from(voter_is_ready);
        RegionStatus { voters, edges, nodes, replicas, wanted, ..down }.judged()
    }

    fn status(regions: Vec<RegionStatus>, leader: Option<u64>, drained: &[&str]) -> Status {
        let drained = drained.iter().map(|name| name.parse().unwrap()).collect();
        let control_plane = ControlPlane { leader, incarnation: Some(5), revision: Some(7), drained };
        Status::of(regions, control_plane, &layout())
    }

    fn reply(id: u64, leader: u64, term: u64, revision: u64) -> StatusReply {
        StatusReply { id, leader, term, revision, incarnation: 5, ..StatusReply::default() }
    }

    #[test]
    fn a_region_serves_with_everything_and_is_down_with_nothing_of_use() {
        assert_eq!(region(1, 1, 2, true).state, State::Serving);
        assert_eq!(region(1, 1, 2, false).state, State::Degraded, "its voter is dead");
        assert_eq!(region(1, 1, 1, true).state, State::Degraded);
        assert_eq!(region(0, 1, 2, true).state, State::Degraded);
        assert_eq!(region(1, 0, 0, true).state, State::Degraded);
        assert_eq!(region(0, 1, 0, true).state, State::Down);
    }

    #[test]
    fn a_region_where_nothing_is_to_run_is_idle_and_well() {
        let wanted = Wanted { replicas: 0, is_idle: true, voters: 1 };
        let idle = RegionStatus { wanted, ..region(1, 1, 0, true) }.judged();
        assert_eq!(idle.state, State::Idle);
        assert_eq!(RegionStatus { voters: 0, ..idle.clone() }.judged().state, State::Degraded);
        assert!(status(vec![idle], Some(1), &[]).healthy);
    }

    #[test]
    fn a_table_shows_which_part_is_missing() {
        let table = status(vec![region(1, 1, 2, false)], Some(1), &[]).table();
        assert_eq!(
            table,
            "REGION   STATE     VOTERS  EDGES  NODES  REPLICAS  QUEUED  RUNNING\n\
             us-east  degraded  0/1     1/1    1/1    2/2       0       0\n\n\
             The control plane is led by us-east, revision 7.\n"
        );
        let drained = status(vec![region(1, 1, 2, true)], Some(1), &["us-east"]).table();
        assert!(drained.ends_with("revision 7.\nNo region takes requests.\n"), "{drained}");
    }

    #[test]
    fn one_degraded_region_or_no_leader_is_not_healthy() {
        let well = || region(1, 1, 2, true);
        assert!(status(vec![well()], Some(1), &[]).healthy);
        assert!(!status(vec![well()], None, &[]).healthy);
        assert!(!status(vec![well(), region(1, 1, 1, true)], Some(1), &[]).healthy);
        assert!(!status(vec![], Some(1), &[]).healthy);
    }

    #[test]
    fn a_drained_region_is_well_unless_something_is_dead() {
        let drained = status(vec![region(1, 1, 2, true)], Some(1), &["us-east"]);
        assert!(drained.healthy && drained.regions[0].state == State::Drained);
        let dead = status(vec![region(1, 1, 1, true)], Some(1), &["us-east"]);
        assert!(!dead.healthy && dead.regions[0].state == State::Degraded);
    }

    #[test]
    fn a_leader_must_answer_itself_in_the_newest_term_and_with_a_majority() {
        let leader = |replies: &[StatusReply]| ControlPlane::of(replies, 3).leader;
        assert_eq!(leader(&[reply(1, 1, 4, 9), reply(2, 1, 4, 8), reply(3, 1, 4, 9)]), Some(1));
        assert_eq!(leader(&[reply(2, 1, 4, 8), reply(3, 1, 4, 9)]), None, "the leader was killed just now");
        assert_eq!(leader(&[reply(1, 1, 4, 9), reply(2, 2, 5, 9)]), Some(2));
        assert_eq!(leader(&[reply(1, 1, 4, 9)]), None, "one of three");
        assert_eq!(ControlPlane::of(&[reply(1, 0, 4, 9), reply(2, 0, 4, 12)], 3).revision, Some(12));
        assert_eq!(ControlPlane::of(&[], 3), ControlPlane::default());
    }

    #[test]
    fn json_is_the_contract() {
        let expected = serde_json::json!({
            "healthy": true,
            "leader": "us-east",
            "incarnation": 5,
            "revision": 7,
            "regions": [{
                "name": "us-east",
                "state": "serving",
                "voters": 1,
                "edges": 1,
                "nodes": 1,
                "replicas": 2,
                "queued": 0,
                "running": 0,
            }],
        });
        let status = status(vec![region(1, 1, 2, true)], Some(1), &[]);
        assert_eq!(serde_json::to_value(status).unwrap(), expected);
    }
}
