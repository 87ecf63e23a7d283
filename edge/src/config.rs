//! What an edge is told: `File` is what was written, `Config` is what can be run.

use crate::network::handover::PATH_BYTES_MAX;
use client::MemberAddress;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use types::{DialMap, NodeName, RegionName};

/// `edge.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where this edge stands; must be a region that the control plane knows.
    pub region: RegionName,
    /// Unique among the edges of its region.
    pub name: NodeName,
    /// Plain HTTP for clients. For the sandbox, and for networks that end TLS in front of the edge.
    pub listen: Option<SocketAddr>,
    /// HTTPS for clients.
    pub tls: Option<TlsFile>,
    /// Health and metrics; never reachable by clients.
    pub admin: SocketAddr,
    /// Directory with `ca.pem`, `cert.pem` and `key.pem`: who this edge is to agents and to the control plane.
    pub identity: PathBuf,
    /// The members of the control plane, nearest first.
    pub control_plane: Vec<MemberAddress>,
    /// Directory for what this edge keeps: the last good pictures of intent, to serve from without a control plane.
    pub data: PathBuf,
    /// How long the edge goes on taking connections once it is told to stop, while `/readyz` says so already. Whoever
    /// has load balancers or DNS that take longer to look (clients are refused while an edge restarts) raises it.
    /// Since 0.1.
    #[serde(default = "notice_seconds")]
    pub notice_seconds: u64,
    /// How long streams may go on after that.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u64,
    /// How long the client of a stream may see nothing before it is sent a comment. Whoever has load balancers or
    /// proxies that cut silent connections sooner (`rhumb_edge_requests_total{outcome="client-gone"}` rises while
    /// requests queue) lowers it. Since 0.1.
    #[serde(default = "keep_alive_seconds")]
    pub keep_alive_seconds: u64,
    /// Load balancers in front of this edge that say who the client is: a connection from one of these addresses
    /// must begin with a PROXY protocol header, version 2. Since 0.1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proxy_v2_from: Vec<IpAddr>,
    /// A Unix socket over which an edge that starts takes the listening sockets over from the one that runs, which then
    /// drains. Whoever upgrades edges in place sets it; clients notice nothing then. Since 0.1.
    pub handover: Option<PathBuf>,
    /// The admin addresses of the other edges, as they are dialled from here: each is asked what became of a request
    /// that this edge knows nothing of. Whoever has more than one edge and asks any of them (`rhumb request explain`)
    /// lists them; without, only the edge that had a request tells of it. Since 0.1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_edges: Vec<SocketAddr>,
    /// Addresses of nodes and members that are dialled elsewhere.
    #[serde(default, skip_serializing_if = "DialMap::is_empty")]
    pub dial_map: DialMap,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFile {
    pub listen: SocketAddr,
    /// PEM, the chain with the leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

#[derive(Debug, Clone)]
pub struct Config {
    pub region: RegionName,
    pub name: NodeName,
    pub listen: Option<SocketAddr>,
    pub tls: Option<TlsFile>,
    pub admin: SocketAddr,
    pub identity: PathBuf,
    pub control_plane: Vec<MemberAddress>,
    pub data: PathBuf,
    pub notice: Duration,
    pub drain: Duration,
    pub keep_alive: Duration,
    /// In their canonical form.
    pub proxy_v2_from: Vec<IpAddr>,
    pub handover: Option<PathBuf>,
    pub other_edges: Vec<SocketAddr>,
    pub dial_map: DialMap,
}

/// Everything that is wrong with a file, one line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BadConfig(pub Vec<String>);

impl TryFrom<File> for Config {
    type Error = BadConfig;

    fn try_from(file: File) -> Result<Self, BadConfig> {
        let mut problems = Vec::new();
        if file.listen.is_none() && file.tls.is_none() {
            problems
                .push("listen or tls: at least one is needed, or no client can reach this edge".to_owned());
        }
        let tls = file.tls.as_ref().map(|tls| tls.listen);
        if file.listen.zip(tls).is_some_and(|(listen, tls)| collide(listen, tls)) {
            problems.push("listen and tls.listen: plain HTTP and HTTPS need two addresses".to_owned());
        }
        for (field, door) in [("listen", file.listen), ("tls.listen", tls)] {
            if door.is_some_and(|door| collide(door, file.admin)) {
                problems.push(format!("admin: {} is taken by {field}", file.admin));
            }
        }
        if file.notice_seconds > NOTICE_SECONDS_MAX {
            problems.push(format!("notice_seconds: must be at most {NOTICE_SECONDS_MAX}"));
        }
        if !(1..=DRAIN_SECONDS_MAX).contains(&file.drain_seconds) {
            problems.push(format!("drain_seconds: must be from 1 to {DRAIN_SECONDS_MAX}"));
        }
        if !(1..=KEEP_ALIVE_SECONDS_MAX).contains(&file.keep_alive_seconds) {
            problems.push(format!("keep_alive_seconds: must be from 1 to {KEEP_ALIVE_SECONDS_MAX}"));
        }
        if !(1..=MEMBERS_MAX).contains(&file.control_plane.len()) {
            problems.push(format!("control_plane: must list from 1 to {MEMBERS_MAX} members"));
        }
        for (at, member) in file.control_plane.iter().enumerate() {
            if member.server_name.is_empty() {
                problems.push(format!("control_plane[{at}].server_name: must not be empty"));
            }
        }
        if file.proxy_v2_from.len() > BALANCERS_MAX {
            problems.push(format!("proxy_v2_from: must list at most {BALANCERS_MAX} addresses"));
        }
        // One address may be written in two ways.
        let proxy_v2_from: Vec<IpAddr> = file.proxy_v2_from.iter().map(IpAddr::to_canonical).collect();
        for (at, address) in proxy_v2_from.iter().enumerate() {
            if proxy_v2_from[..at].contains(address) {
                problems.push(format!("proxy_v2_from[{at}]: {address} is listed twice"));
            }
        }
        if let Some(handover) = &file.handover {
            if handover.as_os_str().len() > PATH_BYTES_MAX {
                problems.push(format!("handover: must be at most {PATH_BYTES_MAX} bytes long"));
            }
            if !handover.parent().is_some_and(Path::is_dir) {
                problems.push(format!("handover: {} is in no directory", handover.display()));
            }
        }
        if file.other_edges.len() > OTHER_EDGES_MAX {
            problems.push(format!("other_edges: must list at most {OTHER_EDGES_MAX} addresses"));
        }
        for (at, address) in file.other_edges.iter().enumerate() {
            if *address == file.admin {
                problems.push(format!("other_edges[{at}]: {address} is this edge's own"));
            }
            if file.other_edges[..at].contains(address) {
                problems.push(format!("other_edges[{at}]: {address} is listed twice"));
            }
        }
        if file.data.exists() && !file.data.is_dir() {
            problems.push(format!("data: {} is not a directory", file.data.display()));
        }
        let mut paths = vec![("identity", &file.identity)];
        if let Some(tls) = &file.tls {
            paths.extend([("tls.certificate", &tls.certificate), ("tls.key", &tls.key)]);
        }
        for (field, path) in paths {
            if let Err(error) = path.metadata() {
                problems.push(format!("{field}: {}: {error}", path.display()));
            }
        }
        if !problems.is_empty() {
            return Err(BadConfig(problems));
        }
        Ok(Self {
            region: file.region,
            name: file.name,
            listen: file.listen,
            tls: file.tls,
            admin: file.admin,
            identity: file.identity,
            control_plane: file.control_plane,
            data: file.data,
            notice: Duration::from_secs(file.notice_seconds),
            drain: Duration::from_secs(file.drain_seconds),
            keep_alive: Duration::from_secs(file.keep_alive_seconds),
            proxy_v2_from,
            handover: file.handover,
            other_edges: file.other_edges,
            dial_map: file.dial_map,
        })
    }
}

/// Whether two listeners want the same port of one address. Port 0 is another one each time.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let is_everywhere = |address: SocketAddr| address.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || is_everywhere(a) || is_everywhere(b))
}

fn notice_seconds() -> u64 {
    NOTICE_SECONDS
}

fn drain_seconds() -> u64 {
    30
}

fn keep_alive_seconds() -> u64 {
    KEEP_ALIVE_SECONDS
}

/// Load balancers and proxies cut a connection that is silent for a minute, some for half of that; some browsers and
/// mobile networks are no more patient. Most answers begin sooner, with their status still to be chosen.
pub const KEEP_ALIVE_SECONDS: u64 = 10;
/// No model lets a request wait longer for its first event, so this is never.
const KEEP_ALIVE_SECONDS_MAX: u64 = 600;
/// Most load balancers look every two or three seconds, and believe the second look.
pub const NOTICE_SECONDS: u64 = 5;
/// DNS answers are kept no longer.
const NOTICE_SECONDS_MAX: u64 = 300;
/// Longer than the longest answer; beyond it an upgrade never ends.
const DRAIN_SECONDS_MAX: u64 = 3600;
/// More than any group has voters and learners; each is dialled when those before it do not answer.
const MEMBERS_MAX: usize = 16;
/// More than any edge has balancers; each is looked up for every connection.
const BALANCERS_MAX: usize = 64;
/// Some in each of a dozen regions; all are asked at once.
pub(crate) const OTHER_EDGES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_told_at_once() {
        let mut file: File = toml::from_str(
            r#"
            region = "us-east"
            name = "e1"
            admin = "127.0.0.1:1"
            identity = "/nowhere/identity"
            control_plane = []
            data = "/dev/null"
            notice_seconds = 301
            drain_seconds = 0
            handover = "/nowhere/handover"
            keep_alive_seconds = 601
            "#,
        )
        .unwrap();
        file.proxy_v2_from = (0..64).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        file.proxy_v2_from.push("::ffff:192.0.2.1".parse().unwrap());
        file.other_edges = (1..=64).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        file.other_edges.push(file.other_edges[1]);
        let BadConfig(problems) = Config::try_from(file).unwrap_err();
        let fields: Vec<&str> = problems.iter().map(|line| line.split(':').next().unwrap()).collect();
        let expected = [
            "listen or tls",
            "notice_seconds",
            "drain_seconds",
            "keep_alive_seconds",
            "control_plane",
            "proxy_v2_from",
            "proxy_v2_from[64]",
            "handover",
            "other_edges",
            "other_edges[0]",
            "other_edges[64]",
            "data",
            "identity",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn two_listeners_need_two_ports() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(collide(at("127.0.0.1:8443"), at("[::]:8443")));
        assert!(collide(at("10.0.0.1:9101"), at("10.0.0.1:9101")));
        assert!(!collide(at("10.0.0.1:9101"), at("10.0.0.2:9101")));
        assert!(!collide(at("0.0.0.0:0"), at("0.0.0.0:0")), "each gets a port of its own");
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(toml::from_str::<File>("region = \"us-east\"\nlistne = \"127.0.0.1:1\"").is_err());
    }
}
