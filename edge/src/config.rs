//! What an edge is told: `File` is what was written, `Config` is what can be run.

use client::MemberAddress;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use types::{NodeName, RegionName};

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
    /// How long streams may go on once the edge is told to stop.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u64,
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
    pub drain: Duration,
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
        if file.listen.is_some() && file.listen == file.tls.as_ref().map(|tls| tls.listen) {
            problems.push("listen and tls.listen: plain HTTP and HTTPS need two addresses".to_owned());
        }
        if !(1..=DRAIN_SECONDS_MAX).contains(&file.drain_seconds) {
            problems.push(format!("drain_seconds: must be from 1 to {DRAIN_SECONDS_MAX}"));
        }
        if !(1..=MEMBERS_MAX).contains(&file.control_plane.len()) {
            problems.push(format!("control_plane: must list from 1 to {MEMBERS_MAX} members"));
        }
        for (at, member) in file.control_plane.iter().enumerate() {
            if member.server_name.is_empty() {
                problems.push(format!("control_plane[{at}].server_name: must not be empty"));
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
            drain: Duration::from_secs(file.drain_seconds),
        })
    }
}

fn drain_seconds() -> u64 {
    30
}

/// Longer than the longest answer; beyond it an upgrade never ends.
const DRAIN_SECONDS_MAX: u64 = 3600;
/// More than any group has voters and learners; each is dialled when those before it do not answer.
const MEMBERS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_told_at_once() {
        let file: File = toml::from_str(
            r#"
            region = "us-east"
            name = "e1"
            admin = "127.0.0.1:0"
            identity = "/nowhere/identity"
            control_plane = []
            data = "/dev/null"
            drain_seconds = 0
            "#,
        )
        .unwrap();
        let BadConfig(problems) = Config::try_from(file).unwrap_err();
        let fields: Vec<&str> = problems.iter().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(fields, ["listen or tls", "drain_seconds", "control_plane", "data", "identity"]);
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(toml::from_str::<File>("region = \"us-east\"\nlistne = \"127.0.0.1:1\"").is_err());
    }
}
