//! What is shown of a look, and of what changed since the one before. Pure.

use crate::sandbox::link;
use crate::sandbox::status::{RegionStatus, State};
use crate::sandbox::view::measure::{EdgeCounts, EdgeLook, EdgeState, Look};
use chaos::network::LinkReport;
use serde::Serialize;
use types::{Monotonic, RegionName, UnixMs};

/// What `rhumb sandbox watch --json` prints, a line for each look.
#[derive(Debug, Clone, Serialize)]
pub struct Picture {
    pub at_ms: UnixMs,
    pub healthy: bool,
    /// The region of the control plane's leader; null while there is none.
    pub leader: Option<RegionName>,
    /// Null if no member answers.
    pub revision: Option<u64>,
    pub regions: Vec<Region>,
    /// Null while nobody tells of them.
    pub links: Option<Vec<Link>>,
    /// Since the picture before, as sentences.
    pub events: Vec<String>,
    #[serde(skip)]
    taken: Monotonic,
}

#[derive(Debug, Clone, Serialize)]
pub struct Region {
    pub name: RegionName,
    pub state: State,
    pub edge: EdgeState,
    /// Requests in flight at the edge. Null, as are the rates, where it does not tell.
    pub streams: Option<u64>,
    pub requests_per_second: Option<f64>,
    pub tokens_per_second: Option<f64>,
    /// Requests that were refused or broke off since the first picture.
    pub failed: u64,
    /// Replicas that serve, and how many are to. Null, as is their load, where the agent does not tell.
    pub replicas: Option<usize>,
    pub replicas_wanted: Option<usize>,
    pub queued: Option<u64>,
    pub running: Option<u64>,
    /// Null where none is to be.
    pub voter: Option<Voter>,
    /// The last that its edge told, and when.
    #[serde(skip)]
    counts: Option<(Monotonic, EdgeCounts)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Voter {
    Leads,
    Votes,
    /// It does not answer, or follows nobody.
    Down,
}

/// One direction of a link.
#[derive(Debug, Clone, Serialize)]
pub struct Link {
    #[serde(flatten)]
    pub report: LinkReport,
    /// In bytes.
    pub carried_per_second: Option<f64>,
}

impl Picture {
    pub fn of(look: Look, before: Option<&Self>) -> Self {
        let seconds = before.map(|before| look.at.since(before.taken).as_secs_f64());
        let leader = look.status.leader;
        let regions = look.status.regions.into_iter().zip(look.edges);
        let regions = regions.map(|(status, edge)| {
            let known =
                before.and_then(|before| before.regions.iter().find(|known| known.name == status.name));
            Region::of(status, edge, look.at, leader.as_ref(), known)
        });
        let links = look.links.map(|links| {
            let known = before.and_then(|before| before.links.as_deref()).unwrap_or_default();
            let link = |report: LinkReport| {
                let known = known.iter().find(|known| known.joins(&report.from, &report.to)).zip(seconds);
                let carried_per_second = known.map(|(known, seconds)| {
                    rate(risen(known.report.bytes_total, report.bytes_total), seconds)
                });
                Link { report, carried_per_second }
            };
            links.into_iter().map(link).collect()
        });
        let mut picture = Self {
            at_ms: look.clock,
            healthy: look.status.healthy,
            regions: regions.collect(),
            leader,
            revision: look.status.revision,
            links,
            events: Vec::new(),
            taken: look.at,
        };
        if let Some(before) = before {
            picture.events = picture.since(before);
        }
        picture
    }

    fn since(&self, before: &Self) -> Vec<String> {
        let mut events = Vec::new();
        if self.leader != before.leader {
            events.push(match (&self.leader, &before.leader) {
                (Some(leader), Some(last)) => format!("{leader} leads the control plane, after {last}"),
                (Some(leader), None) => format!("{leader} leads the control plane"),
                (None, _) => "the control plane has no leader".to_owned(),
            });
        }
        for (region, was) in self.regions.iter().zip(&before.regions) {
            if region.standing() != was.standing() {
                events.push(region.standing());
            }
        }
        events.extend(self.link_events(before));
        events
    }

    /// A change of both directions at once is one event.
    fn link_events(&self, before: &Self) -> Vec<String> {
        let (now, then) =
            (self.links.as_deref().unwrap_or_default(), before.links.as_deref().unwrap_or_default());
        let changed = now.iter().map(|link| &link.report).filter(|report| {
            let was = then.iter().find(|was| was.joins(&report.from, &report.to));
            was.is_some_and(|was| was.report.faults != report.faults)
        });
        let changed: Vec<&LinkReport> = changed.collect();
        let mut events = Vec::new();
        for (at, one) in changed.iter().enumerate() {
            let is_back = |other: &&LinkReport| {
                (&other.to, &other.from, other.faults) == (&one.from, &one.to, one.faults)
            };
            let arrow = match changed.iter().position(is_back) {
                Some(back) if back < at => continue,
                Some(_) => '↔',
                None => '→',
            };
            events.push(format!("{} {arrow} {} is {}", one.from, one.to, link::state(&one.faults)));
        }
        events
    }
}

impl Region {
    fn of(
        status: RegionStatus,
        edge: EdgeLook,
        at: Monotonic,
        leader: Option<&RegionName>,
        before: Option<&Self>,
    ) -> Self {
        let counts = edge.counts;
        let last = before.and_then(|before| before.counts);
        // An edge that said nothing for a while tells what it did in all that time.
        let since = last.zip(counts).map(|((told, then), now)| (then, now, at.since(told).as_secs_f64()));
        let per_second = |count: fn(&EdgeCounts) -> u64| {
            since.map(|(then, now, seconds)| rate(risen(count(&then), count(&now)), seconds))
        };
        let failed = since.map_or(0, |(then, now, _)| risen(then.failed, now.failed));
        // An agent that knows that nothing is wanted says so.
        let is_told = status.wanted.replicas > 0 || status.wanted.is_idle;
        let voter = (status.wanted.voters > 0).then(|| match (status.voters, leader == Some(&status.name)) {
            (0, _) => Voter::Down,
            (_, true) => Voter::Leads,
            (_, false) => Voter::Votes,
        });
        Self {
            state: status.state,
            edge: edge.state,
            streams: counts.map(|counts| counts.in_flight),
            requests_per_second: per_second(|counts| counts.requests),
            tokens_per_second: per_second(|counts| counts.tokens),
            failed: before.map_or(0, |before| before.failed) + failed,
            replicas: is_told.then_some(status.replicas),
            replicas_wanted: is_told.then_some(status.wanted.replicas),
            queued: is_told.then_some(status.queued),
            running: is_told.then_some(status.running),
            voter,
            counts: counts.map(|counts| (at, counts)).or(last),
            name: status.name,
        }
    }

    /// How it is, and what is missing there.
    pub fn standing(&self) -> String {
        let mut missing = Vec::new();
        match self.edge {
            EdgeState::Ready => {}
            state => missing.push(format!("its edge {}", state.said())),
        }
        match self.replicas.zip(self.replicas_wanted) {
            None => missing.push("its agent does not tell what runs".to_owned()),
            Some((serving, wanted)) if serving < wanted => {
                missing.push(format!("{serving} of {wanted} replicas serve"));
            }
            Some(_) => {}
        }
        if self.voter == Some(Voter::Down) {
            missing.push("its voter is down".to_owned());
        }
        let is = format!("{} is {}", self.name, self.state.as_str());
        if missing.is_empty() { is } else { format!("{is}: {}", missing.join(", ")) }
    }
}

impl Link {
    pub fn joins(&self, from: &RegionName, to: &RegionName) -> bool {
        (&self.report.from, &self.report.to) == (from, to)
    }
}

impl EdgeState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Waits => "waits",
            Self::Hangs => "hangs",
            Self::Down => "down",
        }
    }

    fn said(self) -> &'static str {
        match self {
            Self::Ready => "is ready",
            Self::Waits => "takes no requests",
            Self::Hangs => "does not answer",
            Self::Down => "is down",
        }
    }
}

impl Voter {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leads => "leads",
            Self::Votes => "votes",
            Self::Down => "down",
        }
    }
}

/// `18:02:11`, in UTC as everywhere.
pub fn time_of_day(at: UnixMs) -> String {
    let seconds = at.0 / 1000;
    format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// A counter that fell began anew with its process.
fn risen(then: u64, now: u64) -> u64 {
    now.checked_sub(then).unwrap_or(now)
}

/// To a tenth, because nobody reads more.
fn rate(count: u64, seconds: f64) -> f64 {
    if seconds <= 0.0 { 0.0 } else { (count as f64 / seconds * 10.0).round() / 10.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::view::samples::{self, Matter};
    use chaos::network::Faults;

    fn after(before: &Picture, seconds: u64, matter: &Matter) -> Picture {
        Picture::of(samples::look(&samples::layout(3), seconds, matter), Some(before))
    }

    fn first() -> Picture {
        Picture::of(samples::look(&samples::layout(3), 10, &Matter::default()), None)
    }

    #[test]
    fn rates_are_differences_and_unknown_at_first() {
        let first = first();
        assert_eq!((first.regions[0].requests_per_second, first.regions[0].failed), (None, 0));
        let second = after(&first, 20, &Matter::default());
        let region = &second.regions[1];
        assert_eq!((region.requests_per_second, region.tokens_per_second), (Some(14.0), Some(300.0)));
        assert_eq!(region.failed, 2, "since the first look");
        assert_eq!(second.links.as_ref().unwrap()[0].carried_per_second, Some(1590.0));
        let third = after(&second, 40, &Matter::default());
        assert_eq!(third.regions[1].failed, 6);
    }

    #[test]
    fn an_edge_that_was_silent_and_one_that_began_anew_are_counted_right() {
        let hangs = Matter { hanging: vec!["eu-west"], ..Matter::default() };
        let silent = after(&first(), 20, &hangs);
        assert_eq!((silent.regions[1].requests_per_second, silent.regions[1].streams), (None, None));
        let again = after(&silent, 30, &Matter::default());
        assert_eq!(again.regions[1].requests_per_second, Some(14.0), "over the twenty seconds");
        assert_eq!((risen(100, 7), rate(7, 0.5)), (7, 14.0), "a new process counts from nothing");
    }

    #[test]
    fn what_changed_is_told_once() {
        let cut = Faults { is_cut: true, ..Faults::default() };
        let lossy = Faults { loss_per_million: 20_000, ..Faults::default() };
        let matter = Matter {
            down: vec!["ap-south"],
            has_no_leader: true,
            faults: vec![
                ("us-east", "eu-west", cut),
                ("us-east", "ap-south", lossy),
                ("ap-south", "us-east", lossy),
            ],
            ..Matter::default()
        };
        let broken = after(&first(), 20, &matter);
        let expected = [
            "the control plane has no leader",
            "ap-south is down: its edge is down, its agent does not tell what runs, its voter is down",
            "us-east → eu-west is cut",
            "us-east ↔ ap-south is 2 % lost",
        ];
        assert_eq!(broken.events, expected);
        assert_eq!(after(&broken, 30, &matter).events, [""; 0]);
        let healed = [
            "us-east leads the control plane",
            "ap-south is serving",
            "us-east → eu-west is well",
            "us-east ↔ ap-south is well",
        ];
        assert_eq!(after(&broken, 30, &Matter::default()).events, healed);
    }

    #[test]
    fn json_is_the_contract() {
        let picture = after(&first(), 20, &Matter::default());
        let json = serde_json::to_value(&picture).unwrap();
        let region = serde_json::json!({
            "name": "us-east", "state": "serving", "edge": "ready", "streams": 3, "requests_per_second": 7.0,
            "tokens_per_second": 150.0, "failed": 2, "replicas": 2, "replicas_wanted": 2, "queued": 0, "running": 5,
            "voter": "leads",
        });
        assert_eq!(json["regions"][0], region);
        let link = serde_json::json!({
            "from": "us-east", "to": "eu-west", "round_trip_us": 80_000, "is_cut": false, "delay_ms": 0,
            "loss_per_million": 0, "bytes_per_second": null, "carried_per_second": 1590.0, "connections": 2, "connections_total": 9,
            "bytes_total": 31_800, "segments_total": 0, "lost_total": 0, "bytes_in_flight": 0,
        });
        assert_eq!(json["links"][0], link);
    }
}
