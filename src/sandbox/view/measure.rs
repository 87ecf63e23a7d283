//! One look at a running sandbox: everybody is asked at once, and who does not answer in time is shown so.
//!
//! A look must cost a laptop nothing that anybody notices, so it reads the plain pages of the admin ports alone. It
//! asks no edge what a client would ask, because that would be counted as a client's.

use crate::operator::context;
use crate::sandbox::control::{self, Answer, ControlError, Question};
use crate::sandbox::layout::{Layout, Role, Seat};
use crate::sandbox::paths::Paths;
use crate::sandbox::probe::{self, ProbeError};
use crate::sandbox::replicas;
use crate::sandbox::status::{self, ControlPlane, RegionStatus, Status};
use crate::sandbox::view::metrics::{samples, total};
use chaos::network::{LinkReport, Network};
use client::Operator;
use http::StatusCode;
use proto::v1::StatusReply;
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;
use types::{Monotonic, RegionName, UnixMs};

/// What is looked at, and with what.
pub struct Instruments {
    layout: Layout,
    paths: Paths,
    links: Links,
    began: Instant,
    drained: BTreeSet<RegionName>,
    /// Of the intent that `drained` was read from.
    drained_at: Option<u64>,
}

/// Who knows the links.
pub enum Links {
    /// This process carries them.
    Here(Network),
    /// The `up` of this data directory does.
    AtUp,
}

/// What was found, all of it at one time.
#[derive(Debug, Clone)]
pub struct Look {
    pub at: Monotonic,
    pub clock: UnixMs,
    pub status: Status,
    /// In the order of the regions.
    pub edges: Vec<EdgeLook>,
    /// None while nobody tells of them.
    pub links: Option<Vec<LinkReport>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeLook {
    pub state: EdgeState,
    pub counts: Option<EdgeCounts>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EdgeState {
    Ready,
    /// It runs and wants no requests yet, or no more.
    Waits,
    /// It holds connections and says nothing: stopped, or overwhelmed.
    Hangs,
    Down,
}

/// What an edge counted since it started, and what it does now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EdgeCounts {
    pub in_flight: u64,
    pub requests: u64,
    /// Refused, or broken off.
    pub failed: u64,
    pub tokens: u64,
}

impl Instruments {
    pub fn new(layout: Layout, paths: Paths, links: Links) -> Self {
        let began = Instant::now();
        Self { layout, paths, links, began, drained: BTreeSet::new(), drained_at: None }
    }

    /// Fails when there is nothing to look at any more.
    pub async fn look(&mut self) -> Result<Look, ControlError> {
        let mut regions = JoinSet::new();
        for (at, seat) in self.layout.seats().enumerate() {
            regions.spawn(async move { (at, region(&seat).await) });
        }
        let (mut regions, links) = tokio::join!(regions.join_all(), self.links());
        let links = links?;
        regions.sort_by_key(|(at, _)| *at);
        let replies: Vec<StatusReply> =
            regions.iter().filter_map(|(_, region)| region.voter.clone()).collect();
        let mut control_plane = ControlPlane::of(&replies, self.layout.voters.len());
        self.read_drained(&control_plane).await;
        control_plane.drained.clone_from(&self.drained);
        let edges = regions.iter().map(|(_, region)| region.edge).collect();
        let statuses = regions.into_iter().map(|(_, region)| region.status).collect();
        Ok(Look {
            at: Monotonic::from_micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)),
            clock: crate::moment::now(),
            status: Status::of(statuses, control_plane, &self.layout),
            edges,
            links,
        })
    }

    /// Asks anew only where the intent is another one: this is the one question that costs a handshake.
    async fn read_drained(&mut self, control_plane: &ControlPlane) {
        if control_plane.leader.is_none() || control_plane.revision == self.drained_at {
            return;
        }
        let Ok((dialer, members)) = context::dial(&self.paths.context()) else { return };
        let operator = Operator::new(dialer, members);
        if let Ok(Some(drained)) = timeout(ANSWER_MAX, status::drained(&operator)).await {
            (self.drained, self.drained_at) = (drained, control_plane.revision);
        }
    }

    async fn links(&self) -> Result<Option<Vec<LinkReport>>, ControlError> {
        match &self.links {
            Links::Here(network) => Ok(Some(network.report())),
            Links::AtUp => {
                let paths = self.paths.clone();
                let asked = tokio::task::spawn_blocking(move || control::ask(&paths, &Question::Links));
                match timeout(ANSWER_MAX, asked).await {
                    Ok(Ok(Ok(Answer::Links { links }))) => Ok(Some(links)),
                    Ok(Ok(Err(error @ ControlError::NothingRuns { .. }))) => Err(error),
                    _ => Ok(None),
                }
            }
        }
    }
}

struct RegionLook {
    status: RegionStatus,
    edge: EdgeLook,
    /// What its voter says of the control plane.
    voter: Option<StatusReply>,
}

async fn region(seat: &Seat) -> RegionLook {
    let admin = |role| seat.admin(role);
    let agent = async { timeout(ANSWER_MAX, replicas::of(seat)).await.ok()?.ok() };
    let voter = async {
        let admin = seat.voter.map(|_| admin(Role::ControlPlane))?;
        let (ready, page) = tokio::join!(page(admin, "/readyz"), page(admin, "/metrics"));
        Some((ready.is_ok(), page.ok()?))
    };
    let edge =
        async { tokio::join!(page(admin(Role::Edge), "/readyz"), page(admin(Role::Edge), "/metrics")) };
    let (agent, voter, (edge_ready, edge_page)) = tokio::join!(agent, voter, edge);
    let edge_state = match edge_ready {
        Ok(_) => EdgeState::Ready,
        Err(NoPage::Refused(_)) => EdgeState::Waits,
        Err(NoPage::Late) => EdgeState::Hangs,
        Err(NoPage::Unreachable) => EdgeState::Down,
    };
    let voter_is_ready = voter.as_ref().is_some_and(|(ready, _)| *ready);
    RegionLook {
        status: RegionStatus::of(seat, edge_state == EdgeState::Ready, voter_is_ready, agent.as_ref()),
        edge: EdgeLook { state: edge_state, counts: edge_page.ok().map(|page| EdgeCounts::of(&page)) },
        voter: voter.zip(seat.voter).map(|((_, page), id)| standing(id, &page)),
    }
}

impl EdgeCounts {
    fn of(page: &str) -> Self {
        let count = |name| total(page, name).unwrap_or(0);
        let failed = samples(page, "rhumb_edge_requests_total")
            .filter(|(labels, _)| FAILED.iter().any(|outcome| labels.contains(outcome)))
            .map(|(_, value)| value as u64);
        Self {
            in_flight: count("rhumb_edge_requests_in_flight"),
            requests: count("rhumb_edge_requests_total"),
            failed: failed.sum(),
            tokens: count("rhumb_edge_completion_tokens_total"),
        }
    }
}

/// A voter's standing, as it would tell an operator.
fn standing(id: u64, page: &str) -> StatusReply {
    let number = |name| total(page, name).unwrap_or(0);
    let leads = number("rhumb_control_plane_leader") == 1;
    StatusReply {
        id,
        term: number("rhumb_control_plane_term"),
        leader: if leads { id } else { 0 },
        revision: number("rhumb_control_plane_revision"),
        ..StatusReply::default()
    }
}

/// Why there is no page.
enum NoPage {
    Refused(#[expect(dead_code, reason = "for who debugs it")] StatusCode),
    Late,
    Unreachable,
}

async fn page(address: std::net::SocketAddr, path: &str) -> Result<String, NoPage> {
    match timeout(ANSWER_MAX, probe::get(address, path, None)).await {
        Ok(Ok((StatusCode::OK, body))) => Ok(String::from_utf8_lossy(&body).into_owned()),
        Ok(Ok((status, _))) => Err(NoPage::Refused(status)),
        Err(_) | Ok(Err(ProbeError::Slow(_))) => Err(NoPage::Late),
        Ok(Err(_)) => Err(NoPage::Unreachable),
    }
}

/// The ends of a request that its client did not wish.
const FAILED: [&str; 2] = ["\"refused\"", "\"broken\""];
/// Shorter than the time between two looks, so that one role that hangs does not stop the picture.
const ANSWER_MAX: Duration = Duration::from_millis(800);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_s_page_says_what_it_carries() {
        let page = "rhumb_edge_requests_in_flight 4\n\
                    rhumb_edge_requests_total{outcome=\"complete\"} 90\n\
                    rhumb_edge_requests_total{outcome=\"client-gone\"} 5\n\
                    rhumb_edge_requests_total{outcome=\"refused\"} 3\n\
                    rhumb_edge_requests_total{outcome=\"broken\"} 2\n\
                    rhumb_edge_completion_tokens_total 1234\n";
        let expected = EdgeCounts { in_flight: 4, requests: 100, failed: 5, tokens: 1234 };
        assert_eq!(EdgeCounts::of(page), expected);
    }
}
