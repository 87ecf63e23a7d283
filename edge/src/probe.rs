//! Asks each node once a second how it is; one that serves nothing, or has requests of this edge, more often. Servers
//! without an agent may be strangers' and count every question, so they are never asked more often.

use crate::Edge;
use policy::{Health, Node, NodeHealth};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use types::intent::{NodeKind, OpenAiServer};
use types::{LoadFrame, LoadState, ModelVersion, NodeKey};

/// One node being probed; dropping it ends that.
struct Probe {
    kind: NodeKind,
    _task: AbortOnDropHandle<()>,
}

/// What a node says of each version.
type Frames = Vec<(ModelVersion, LoadFrame)>;

/// Probes the nodes of the routing table, whatever it becomes.
pub(crate) async fn probe_all(edge: Arc<Edge>) {
    let mut probes = BTreeMap::new();
    loop {
        if let Some(table) = edge.routing_table.load_full() {
            follow(&edge, &mut probes, &table.nodes);
        }
        edge.table_changed.notified().await;
    }
}

/// Probes of nodes that stay where they are go on undisturbed.
fn follow(edge: &Arc<Edge>, probes: &mut BTreeMap<NodeKey, Probe>, nodes: &BTreeMap<NodeKey, Node>) {
    probes.retain(|key, probe| nodes.get(key).is_some_and(|node| node.kind == probe.kind));
    for (key, node) in nodes {
        probes.entry(key.clone()).or_insert_with(|| Probe {
            kind: node.kind.clone(),
            _task: AbortOnDropHandle::new(tokio::spawn(probe(
                edge.clone(),
                key.clone(),
                Arc::new(node.clone()),
            ))),
        });
    }
}

async fn probe(edge: Arc<Edge>, key: NodeKey, node: Arc<Node>) {
    let mut took = Duration::ZERO;
    // Each worker has connections of its own, and no request to an agent shall be the first that dials.
    for turn in 0.. {
        let asked = Instant::now();
        // One that may serve a connection with a thread of its own is not made to hold several idle ones.
        let turn = if matches!(node.kind, NodeKind::Agent(_)) { turn } else { 0 };
        let answered = ask(&edge, edge.workers.by_turn(turn), &key, &node, patience(took)).await;
        if answered.is_some() {
            took = asked.elapsed();
        }
        let serves = answered.is_some_and(|frames| frames.iter().any(|(_, frame)| frame.replicas > 0));
        let in_flight = edge.health().node(&key).map_or(0, |node| node.in_flight);
        tokio::time::sleep_until(asked + interval(&node.kind, serves, in_flight)).await;
    }
}

fn interval(kind: &NodeKind, serves: bool, in_flight: u32) -> Duration {
    match (kind, serves, in_flight) {
        (NodeKind::OpenAi(_), ..) | (NodeKind::Agent(_), true, 0) => INTERVAL,
        (NodeKind::Agent(_), false, _) => INTERVAL_UNTIL_SERVING,
        (NodeKind::Agent(_), true, _) => INTERVAL_IN_USE,
    }
}

/// Silence counts as missed again and again, so that a node that says nothing is found out while it is still being
/// asked. But a late answer is an answer: a long way is no reason to give up on a dial half-way.
async fn ask(
    edge: &Arc<Edge>,
    on: &Handle,
    key: &NodeKey,
    node: &Arc<Node>,
    patience: Duration,
) -> Option<Frames> {
    let asked = Instant::now();
    let load = {
        let (edge, node) = (edge.clone(), node.clone());
        AbortOnDropHandle::new(on.spawn(async move { load(&edge, &node).await }))
    };
    let answer = tokio::time::timeout(ANSWER_MAX, load);
    tokio::pin!(answer);
    loop {
        let answered = tokio::select! {
            biased;
            answered = &mut answer => answered.ok().and_then(Result::ok).flatten(),
            () = tokio::time::sleep(patience) => {
                hear(edge, key, None, patience);
                continue;
            }
        };
        hear(edge, key, answered.as_ref(), asked.elapsed());
        return answered;
    }
}

/// Takes an answer to a probe, or the lack of one, into account.
fn hear(edge: &Edge, key: &NodeKey, answered: Option<&Frames>, took: Duration) {
    let now = edge.clock.now();
    let (was_down, is_down) = {
        let mut health = edge.health();
        let is_down = |health: &Health| health.node(key).is_some_and(NodeHealth::is_down);
        let was_down = is_down(&health);
        match answered {
            Some(frames) => health.probe_answered(key, frames, took, now),
            None => health.probe_missed(key, now),
        }
        (was_down, is_down(&health))
    };
    if is_down != was_down {
        tracing::info!(node = %key, down = is_down, "node changed");
        edge.node_changed.notify_waiters();
    }
}

/// A node that took long to answer last is given twice that.
fn patience(took: Duration) -> Duration {
    (2 * took).clamp(PATIENCE, PATIENCE_MAX)
}

/// `None` = no answer, or none that can be read.
async fn load(edge: &Edge, node: &Node) -> Option<Frames> {
    match &node.kind {
        NodeKind::Agent(_) => agent_load(edge, node).await,
        NodeKind::OpenAi(server) => server_load(edge, node, server).await,
    }
}

/// A server without an agent tells no load, but whether it answers at all, and how soon. What it serves, operators
/// say; so many requests it takes from this edge.
async fn server_load(edge: &Edge, node: &Node, server: &OpenAiServer) -> Option<Frames> {
    let sent = edge.upstreams.send(node, "GET", "/v1/models", &[], bytes::Bytes::new(), ANSWER_MAX);
    let mut answer = sent.await.ok()?;
    // Some have no list of models; whoever says so is alive.
    let is_well = matches!(answer.status(), 200..300 | 404 | 405 | 429);
    let body = answer.read_all(MODELS_BYTES_MAX, ANSWER_MAX).await.ok()?;
    if body.is_some() {
        edge.upstreams.release(answer).await;
    }
    let table = edge.routing_table.load_full().filter(|_| is_well)?;
    let frame =
        LoadFrame { state: LoadState::Serving, replicas: 1, slots: server.slots, ..LoadFrame::default() };
    let models = server.models.iter().filter_map(|name| table.models.get(name));
    let versions = models.flat_map(|model| [Some(model.version), model.former]);
    Some(versions.flatten().map(|version| (version, frame)).collect())
}

async fn agent_load(edge: &Edge, node: &Node) -> Option<Frames> {
    let headers = [(types::header::PROTOCOL, types::header::PROTOCOL_VERSION)];
    let sent = edge.upstreams.send(node, "GET", "/rhumb/v1/load", &headers, bytes::Bytes::new(), ANSWER_MAX);
    let mut answer = sent.await.ok()?;
    if answer.status() != 200 {
        return None;
    }
    let body = answer.read_all(ANSWER_BYTES_MAX, ANSWER_MAX).await.ok()??;
    edge.upstreams.release(answer).await;
    let text = String::from_utf8(body).ok()?;
    // A line that cannot be read is a newer agent's word on one version; it says nothing of the node.
    let frames = text.lines().filter_map(|line| {
        let (version, frame) = line.split_once(' ')?;
        Some((version.parse().ok()?, frame.parse().ok()?))
    });
    Some(frames.collect())
}

const INTERVAL: Duration = Duration::from_secs(1);
/// It is the requests there that wait until a silent node is found out.
const INTERVAL_IN_USE: Duration = Duration::from_millis(500);
/// Requests that find no replica are refused until a probe finds one, so a starting node is asked more often.
const INTERVAL_UNTIL_SERVING: Duration = Duration::from_millis(250);
/// Three of them make a node down: 1.2 s, in which a lost packet is sent again twice. Twice the longest way round the
/// world and back.
const PATIENCE: Duration = Duration::from_millis(400);
const PATIENCE_MAX: Duration = Duration::from_secs(2);
/// For three ways there and back on the slowest link, and a dial that begins with a lost packet.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Some two hundred model versions on one node.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The list of an aggregator's models with all their prices; a longer one is not read to its end.
const MODELS_BYTES_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use types::intent::Agent;

    #[test]
    fn only_agents_are_asked_more_often_than_once_a_second() {
        let agent = Agent { ingress: ([127, 0, 0, 1], 7443).into(), server_name: "n".to_owned() };
        let server = OpenAiServer {
            base_url: "http://vllm:8000/v1".parse().unwrap(),
            models: vec!["m".parse().unwrap()],
            slots: 1,
            secret: None,
        };
        let intervals = |kind: &NodeKind| {
            [(false, 0), (true, 0), (true, 1)].map(|(serves, in_flight)| interval(kind, serves, in_flight))
        };
        let (agent, server) = (NodeKind::Agent(agent), NodeKind::OpenAi(server));
        assert_eq!(intervals(&agent), [INTERVAL_UNTIL_SERVING, INTERVAL, INTERVAL_IN_USE]);
        assert_eq!(intervals(&server), [INTERVAL; 3]);
    }
}
