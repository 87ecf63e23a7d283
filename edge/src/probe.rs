//! Asks each node once a second how it is; one that serves nothing, more often.

use crate::Edge;
use policy::Node;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use types::{LoadFrame, ModelVersion, NodeKey};

/// One node being probed; dropping it ends that.
struct Probe {
    ingress: SocketAddr,
    server_name: String,
    _task: AbortOnDropHandle<()>,
}

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
    probes.retain(|key, probe| {
        nodes
            .get(key)
            .is_some_and(|node| node.ingress == probe.ingress && node.server_name == probe.server_name)
    });
    for (key, node) in nodes {
        probes.entry(key.clone()).or_insert_with(|| Probe {
            ingress: node.ingress,
            server_name: node.server_name.clone(),
            _task: AbortOnDropHandle::new(tokio::spawn(probe(edge.clone(), key.clone(), node.clone()))),
        });
    }
}

async fn probe(edge: Arc<Edge>, key: NodeKey, node: Node) {
    let mut was_down = false;
    loop {
        let asked = Instant::now();
        let answered = tokio::time::timeout(INTERVAL, load(&edge, &node)).await.ok().flatten();
        let now = edge.clock.now();
        let is_down = {
            let mut health = edge.health();
            match &answered {
                Some(frames) => health.probe_answered(&key, frames, now),
                None => health.probe_missed(&key),
            }
            health.node(&key).is_some_and(policy::NodeHealth::is_down)
        };
        if is_down != was_down {
            tracing::info!(node = %key, down = is_down, "node changed");
            was_down = is_down;
        }
        let serves = answered.is_some_and(|frames| frames.iter().any(|(_, frame)| frame.replicas > 0));
        let interval = if serves { INTERVAL } else { INTERVAL_UNTIL_SERVING };
        tokio::time::sleep_until(asked + interval).await;
    }
}

/// `None` = no answer, or none that can be read.
async fn load(edge: &Edge, node: &Node) -> Option<Vec<(ModelVersion, LoadFrame)>> {
    let headers = [(types::header::PROTOCOL, types::header::PROTOCOL_VERSION)];
    let sent = edge.upstreams.send(node, "GET", "/rhumb/v1/load", &headers, bytes::Bytes::new(), INTERVAL);
    let mut answer = sent.await.ok()?;
    if answer.status() != 200 {
        return None;
    }
    let body = answer.read_all(ANSWER_BYTES_MAX, INTERVAL).await.ok()??;
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
/// Requests that find no replica are refused until a probe finds one, so a starting node is asked more often.
const INTERVAL_UNTIL_SERVING: Duration = Duration::from_millis(250);
/// Some two hundred model versions on one node.
const ANSWER_BYTES_MAX: usize = 64 << 10;
