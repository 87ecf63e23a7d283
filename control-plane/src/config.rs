//! What a member is told: `File` is what was written, `Config` is what can be run.

use client::MemberAddress;
use raft::Member;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use time::Duration;
use types::{DialMap, NodeName, RegionName};

/// `control-plane.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where this member stands.
    pub region: RegionName,
    /// Unique among the members of its region.
    pub name: NodeName,
    /// From 1; never used again for another member, not even when this one's disk is lost.
    pub id: u64,
    /// gRPC under mutual TLS: for members, edges, agents and operators.
    pub listen: SocketAddr,
    /// Health and metrics in plain HTTP; never reachable from outside.
    pub admin: SocketAddr,
    /// Directory with `ca.pem`, `cert.pem` and `key.pem`: who this member is.
    pub identity: PathBuf,
    /// Log and state of this member, made once by [`raft::create`].
    pub data: PathBuf,
    /// Directory with `ca.pem` and `ca-key.pem`. A member that has it renews the certificates of all roles.
    #[serde(default)]
    pub authority: Option<PathBuf>,
    /// How long the certificates live that this member signs.
    #[serde(default = "certificate_life_seconds")]
    pub certificate_life_seconds: u64,
    /// A snapshot is taken and the log purged after so many entries.
    #[serde(default = "snapshot_every")]
    pub snapshot_every: u64,
    /// All members, this one included, the same everywhere.
    pub members: Vec<MemberEntry>,
    /// Addresses of members that are dialled elsewhere.
    #[serde(default, skip_serializing_if = "DialMap::is_empty")]
    pub dial_map: DialMap,
}

/// One member, as this one reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberEntry {
    pub id: u64,
    pub region: RegionName,
    pub address: SocketAddr,
    /// What its certificate must be valid for.
    pub server_name: String,
}

#[derive(Debug, Clone)]
pub struct Config {
    pub region: RegionName,
    pub name: NodeName,
    pub id: u64,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    pub identity: PathBuf,
    pub data: PathBuf,
    pub authority: Option<PathBuf>,
    pub certificate_life: Duration,
    pub snapshot_every: u64,
    pub members: Vec<Member>,
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
        if file.listen == file.admin {
            problems.push("listen and admin: gRPC and plain HTTP need two addresses".to_owned());
        }
        range(&mut problems, "certificate_life_seconds", file.certificate_life_seconds, LIFE_SECONDS);
        range(&mut problems, "snapshot_every", file.snapshot_every, SNAPSHOT_EVERY);
        members(&mut problems, &file);
        let mut paths = vec![("identity", file.identity.clone()), ("data", file.data.clone())];
        if let Some(dir) = &file.authority {
            paths.extend([("authority", dir.join("ca.pem")), ("authority", dir.join("ca-key.pem"))]);
        }
        for (field, path) in &paths {
            readable(&mut problems, field, path);
        }
        if !problems.is_empty() {
            return Err(BadConfig(problems));
        }
        // Was found to be within its bounds.
        let life_seconds = i64::try_from(file.certificate_life_seconds).unwrap_or(i64::MAX);
        let members = file.members.into_iter().map(|entry| Member {
            id: entry.id,
            region: entry.region,
            address: entry.address,
            server_name: entry.server_name,
        });
        Ok(Self {
            region: file.region,
            name: file.name,
            id: file.id,
            listen: file.listen,
            admin: file.admin,
            identity: file.identity,
            data: file.data,
            authority: file.authority,
            certificate_life: Duration::seconds(life_seconds),
            snapshot_every: file.snapshot_every,
            members: members.collect(),
            dial_map: file.dial_map,
        })
    }
}

impl Config {
    pub(crate) fn others(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.id != self.id)
    }
}

pub(crate) fn address(member: &Member) -> MemberAddress {
    MemberAddress { address: member.address, server_name: member.server_name.clone() }
}

fn members(problems: &mut Vec<String>, file: &File) {
    match file.members.len() {
        1 | 3 | 5 => {}
        0 => problems.push("members: must list all members, this one included".to_owned()),
        even if even % 2 == 0 => problems.push(format!(
            "members: {even} survive no more failures than {}, and lose their majority sooner; list 1, 3 or 5",
            even - 1
        )),
        many => problems.push(format!("members: {many} make each write wait for many; list 1, 3 or 5")),
    }
    let (mut ids, mut addresses, mut names) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (at, entry) in file.members.iter().enumerate() {
        if entry.id == 0 {
            problems.push(format!("members[{at}].id: must be at least 1"));
        } else if !ids.insert(entry.id) {
            problems.push(format!("members[{at}].id: {} is listed twice", entry.id));
        }
        if entry.address.port() == 0 || entry.address.ip().is_unspecified() {
            problems.push(format!("members[{at}].address: {} is no address to dial", entry.address));
        } else if !addresses.insert(entry.address) {
            problems.push(format!("members[{at}].address: {} is listed twice", entry.address));
        }
        if entry.server_name.is_empty() {
            problems.push(format!("members[{at}].server_name: is missing; without it nobody is verified"));
        } else if !names.insert(&entry.server_name) {
            problems.push(format!("members[{at}].server_name: {} is listed twice", entry.server_name));
        }
    }
    let Some(own) = file.members.iter().find(|entry| entry.id == file.id) else {
        problems.push(format!("id: {} is not among the members", file.id));
        return;
    };
    if own.region != file.region {
        problems.push(format!("region: {}, but member {} is in {}", file.region, own.id, own.region));
    }
    let is_same_host = file.listen.ip().is_unspecified() || file.listen.ip() == own.address.ip();
    if !is_same_host || file.listen.port() != own.address.port() {
        problems.push(format!("listen: {}, but member {} is at {}", file.listen, own.id, own.address));
    }
}

fn range(problems: &mut Vec<String>, field: &str, value: u64, (least, most): (u64, u64)) {
    if !(least..=most).contains(&value) {
        problems.push(format!("{field}: must be from {least} to {most}"));
    }
}

fn readable(problems: &mut Vec<String>, field: &str, path: &Path) {
    if let Err(error) = path.metadata() {
        problems.push(format!("{field}: {}: {error}", path.display()));
    }
}

fn certificate_life_seconds() -> u64 {
    7 * 24 * 3600
}

fn snapshot_every() -> u64 {
    10_000
}

/// Below, a certificate is used up by the renewing of it; above, a stolen one is of use for too long.
const LIFE_SECONDS: (u64, u64) = (10, 30 * 24 * 3600);
/// Below, a member does nothing else; above, a start reads the log for minutes.
const SNAPSHOT_EVERY: (u64, u64) = (10, 10_000_000);

#[cfg(test)]
mod tests {
    use super::*;

    fn file(members: &str) -> File {
        let text = format!(
            r#"
            region = "us-east"
            name = "cp1"
            id = 1
            listen = "127.0.0.1:7001"
            admin = "127.0.0.1:7001"
            identity = "/nowhere/identity"
            data = "/nowhere/data"
            authority = "/nowhere/authority"
            certificate_life_seconds = 0
            snapshot_every = 0
            {members}
            "#
        );
        toml::from_str(&text).unwrap()
    }

    fn fields(file: File) -> Vec<String> {
        let BadConfig(problems) = Config::try_from(file).unwrap_err();
        problems.iter().map(|line| line.split(':').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let members = r#"
            members = [
                { id = 0, region = "us-east", address = "127.0.0.2:7001", server_name = "a" },
                { id = 2, region = "us-east", address = "127.0.0.2:7001", server_name = "a" },
                { id = 2, region = "us-east", address = "127.0.0.3:0", server_name = "" },
                { id = 1, region = "eu-west", address = "127.0.0.1:7002", server_name = "b" },
            ]
        "#;
        assert_eq!(
            fields(file(members)),
            [
                "listen and admin",
                "certificate_life_seconds",
                "snapshot_every",
                "members",
                "members[0].id",
                "members[1].address",
                "members[1].server_name",
                "members[2].id",
                "members[2].address",
                "members[2].server_name",
                "region",
                "listen",
                "identity",
                "data",
                "authority",
                "authority",
            ]
        );
        assert!(fields(file("members = []")).contains(&"id".to_owned()), "it is not among them");
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(toml::from_str::<File>("region = \"us-east\"\nlistne = \"127.0.0.1:1\"").is_err());
    }
}
