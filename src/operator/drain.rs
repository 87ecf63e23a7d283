//! Draining a region or a node: new work goes elsewhere, what runs is finished.

use crate::operator::At;
use crate::operator::cluster::{Cluster, Known, Removed, not_there};
use crate::say::say;
use crate::{duration, moment, stdout};
use anyhow::bail;
use clap::Args;
use proto::signal::NodeReport;
use serde::Serialize;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use types::intent::{Change, Drain, DrainScope, Expect, NodeKey, Resource, ResourceId, What};
use types::{RegionName, UnixMs};

#[derive(Debug, Args)]
pub struct How {
    /// Lifted by itself after this time, such as 2h [default: 24h]
    #[arg(long = "for", value_name = "TIME", value_parser = duration::parse_some)]
    lasts: Option<Duration>,
    /// Until `undrain`, however long that takes
    #[arg(long, conflicts_with = "lasts")]
    until_lifted: bool,
    /// For whoever wonders why
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Return once no request runs there any more
    #[arg(long)]
    wait: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Begun {
    scope: DrainScope,
    reason: String,
    /// Null = until it is lifted.
    until_unix_ms: Option<UnixMs>,
    revision: u64,
}

pub fn begin(scope: DrainScope, how: How, at: &At, json: bool) -> anyhow::Result<()> {
    let cluster = Cluster::open(at)?;
    let until_unix_ms = (!how.until_lifted).then(|| moment::from_now(how.lasts.unwrap_or(LASTS)));
    let drain = Drain { scope: scope.clone(), reason: how.reason.clone(), until_unix_ms };
    // Draining twice only sets the time and the reason anew.
    let change = Change { expect: Expect::Anything, what: What::Put(Resource::Drain(drain)) };
    let revision = cluster.write(vec![change], false)?;
    let until =
        until_unix_ms.map_or("until it is lifted".to_owned(), |at| format!("until {}", moment::shown(at)));
    say!("drained {scope} {until}, at revision {revision}");
    if matches!(scope, DrainScope::Region(_)) && is_last(&cluster.read(&["region", "drain"])?) {
        say!("note: every region is drained; no request is served until one is undrained");
    }
    if how.wait {
        wait(&cluster, &scope)?;
    }
    if json {
        stdout::print_json(&Begun { scope, reason: how.reason, until_unix_ms, revision: revision.0 })?;
    }
    Ok(())
}

pub fn lift(scope: DrainScope, at: &At, json: bool) -> anyhow::Result<()> {
    let cluster = Cluster::open(at)?;
    let place = match &scope {
        DrainScope::Region(region) => ResourceId::Region(region.clone()),
        DrainScope::Node(node) => ResourceId::Node(node.clone()),
    };
    let id = ResourceId::Drain(scope.clone());
    let known = cluster.read(&[&place.to_string(), &id.to_string()])?;
    let revision = match known.get(&id) {
        Some(_) => {
            let change = Change { expect: Expect::Anything, what: What::Delete(id.clone()) };
            let revision = cluster.write(vec![change], true)?;
            say!("{scope} gets requests again, since revision {revision}");
            Some(revision.0)
        }
        None if known.contains_key(&place) => {
            say!("{scope} is not drained");
            None
        }
        None => return Err(not_there(&place)),
    };
    if json {
        stdout::print_json(&Removed { id, revision })?;
    }
    Ok(())
}

fn is_last(known: &Known) -> bool {
    let is_drained =
        |region: &RegionName| known.contains_key(&ResourceId::Drain(DrainScope::Region(region.clone())));
    known.keys().all(|id| !matches!(id, ResourceId::Region(region) if !is_drained(region)))
}

/// Waits until nothing runs there, by what its nodes report each second.
fn wait(cluster: &Cluster, scope: &DrainScope) -> anyhow::Result<()> {
    let nodes = nodes(&cluster.read(&["node"])?, scope);
    let stop = CancellationToken::new();
    let (heard, mut pictures) = mpsc::channel(PICTURES_MAX);
    // A full queue holds newer pictures than this one would be when it is read.
    let take = move |reports: Vec<NodeReport>| drop(heard.try_send(reports));
    let follow =
        client::signal::pictures(cluster.dialer.clone(), cluster.members.clone(), take, stop.clone());
    cluster.run(async {
        let watch = async {
            let mut quiet = Quiet::default();
            let mut told = None;
            loop {
                match tokio::time::timeout(SILENCE_MAX, pictures.recv()).await {
                    Ok(Some(reports)) => {
                        let load = Load::of(&nodes, &reports);
                        if quiet.hears(&load) {
                            for node in &load.unheard {
                                say!("{node} is not heard of; what runs there is not known");
                            }
                            say!("no request runs in {scope} any more");
                            return Ok(());
                        }
                        if told.as_ref() != Some(&load) {
                            say!("{load}");
                            told = Some(load);
                        }
                    }
                    Ok(None) => bail!("the control plane's reports ended"),
                    Err(_) => say!("waits: no member of the control plane sends reports"),
                }
            }
        };
        tokio::select! {
            watched = watch => watched,
            () = follow => bail!("the control plane's reports ended"),
        }
    })
}

fn nodes(known: &Known, scope: &DrainScope) -> Vec<NodeKey> {
    let is_meant = |node: &NodeKey| match scope {
        DrainScope::Region(region) => node.region == *region,
        DrainScope::Node(key) => node == key,
    };
    let node = |id: &ResourceId| match id {
        ResourceId::Node(node) if is_meant(node) => Some(node.clone()),
        _ => None,
    };
    known.keys().filter_map(node).collect()
}

/// What is known to be left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Load {
    running: u64,
    queued: u64,
    /// Nodes without a report that is worth believing.
    unheard: Vec<NodeKey>,
}

impl Load {
    fn of(nodes: &[NodeKey], reports: &[NodeReport]) -> Self {
        let mut load = Self::default();
        for node in nodes {
            let report = reports.iter().find(|report| report.node == *node && report.age < UNKNOWN_AFTER);
            match report {
                Some(report) => {
                    load.running +=
                        report.loads.iter().map(|(_, frame)| u64::from(frame.running)).sum::<u64>();
                    load.queued += report.loads.iter().map(|(_, frame)| u64::from(frame.queued)).sum::<u64>();
                }
                None => load.unheard.push(node.clone()),
            }
        }
        load
    }
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "waits: {} running, {} queued", self.running, self.queued)?;
        for node in &self.unheard {
            write!(f, ", {node} is not heard of")?;
        }
        Ok(())
    }
}

/// Several pictures in a row without a request: the first may be older than the drain is at the edges.
#[derive(Debug, Default)]
struct Quiet {
    known: u32,
    unheard: u32,
}

impl Quiet {
    /// True once it has been quiet for long enough; longer where nodes are not heard of.
    fn hears(&mut self, load: &Load) -> bool {
        let is_idle = load.running == 0 && load.queued == 0;
        self.known = if is_idle && load.unheard.is_empty() { self.known + 1 } else { 0 };
        self.unheard = if is_idle { self.unheard + 1 } else { 0 };
        self.known >= QUIET_PICTURES || self.unheard >= UNHEARD_PICTURES
    }
}

/// Longer than any maintenance of a shift, and short enough that nobody wonders next week (DESIGN 13).
const LASTS: Duration = Duration::from_secs(24 * 60 * 60);
/// As everywhere: an older report says nothing.
const UNKNOWN_AFTER: Duration = Duration::from_secs(5);
const QUIET_PICTURES: u32 = 3;
/// A dead node reports no more and runs nothing; this long a silence is no lost packet.
const UNHEARD_PICTURES: u32 = 10;
const PICTURES_MAX: usize = 4;
const SILENCE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::document::Document;
    use types::intent::{Revision, Stored};
    use types::{LoadFrame, ModelVersion};

    fn node(name: &str) -> NodeKey {
        format!("us-east/{name}").parse().unwrap()
    }

    fn report(name: &str, running: u32, age_s: u64) -> NodeReport {
        let frame = LoadFrame { running, ..LoadFrame::default() };
        NodeReport {
            node: node(name),
            loads: vec![(ModelVersion::from_digest([7; 32]), frame)],
            age: Duration::from_secs(age_s),
        }
    }

    #[test]
    fn only_fresh_reports_of_the_drained_nodes_count() {
        let nodes = [node("n1"), node("n2")];
        let load = Load::of(&nodes, &[report("n1", 2, 0), report("n2", 9, 6), report("n3", 9, 0)]);
        assert_eq!((load.running, &load.unheard[..]), (2, &[node("n2")][..]));
        assert_eq!(load.to_string(), "waits: 2 running, 0 queued, us-east/n2 is not heard of");
    }

    #[test]
    fn the_last_region_is_drained_once_no_other_is_open() {
        let known = |text: &str| -> Known {
            let stored = |resource| Stored { resource, revision: Revision(1), created_unix_ms: UnixMs(1) };
            let resources = Document::parse(text).unwrap().resources;
            resources.into_iter().map(|(id, resource)| (id, stored(resource))).collect()
        };
        let regions = "[[region]]\nname = 'a'\nlatitude_e6 = 0\nlongitude_e6 = 0\n\
                       [[region]]\nname = 'b'\nlatitude_e6 = 0\nlongitude_e6 = 0\n\
                       [[drain]]\nscope = 'a'\nreason = ''\n";
        assert!(!is_last(&known(regions)));
        assert!(!is_last(&known(&format!("{regions}[[drain]]\nscope = 'b/n1'\nreason = ''\n"))));
        assert!(is_last(&known(&format!("{regions}[[drain]]\nscope = 'b'\nreason = ''\n"))));
    }

    #[test]
    fn one_quiet_picture_is_not_enough_and_an_unheard_node_needs_more() {
        let nodes = [node("n1")];
        let (idle, busy) = (Load::of(&nodes, &[report("n1", 0, 0)]), Load::of(&nodes, &[report("n1", 1, 0)]));
        let mut quiet = Quiet::default();
        let heard: Vec<bool> =
            [&idle, &idle, &busy, &idle, &idle, &idle].into_iter().map(|load| quiet.hears(load)).collect();
        assert_eq!(heard, [false, false, false, false, false, true]);
        let unheard = Load::of(&nodes, &[]);
        let mut quiet = Quiet::default();
        let needed = (1..).find(|_| quiet.hears(&unheard));
        assert_eq!(needed, Some(UNHEARD_PICTURES));
    }
}
