//! The configuration of a member of the control plane.

use crate::generate::annotated::Field;
use crate::generate::voter::Voter;
use crate::generate::{DIAL_MAP, Site};
use ::control_plane::{BadConfig, Config, File, MemberEntry};
use std::net::SocketAddr;
use std::path::PathBuf;
use types::NodeName;

/// One member.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    pub site: Site,
    pub name: NodeName,
    pub id: u64,
    pub listen: SocketAddr,
    /// With it the member renews the certificates of all roles.
    pub authority: Option<PathBuf>,
    pub certificate_life_seconds: u64,
    /// All members with their ids, this one included.
    pub voters: Vec<(u64, Voter)>,
}

impl ControlPlane {
    pub fn file(self) -> File {
        let Site { region, admin, identity, data, dial_map } = self.site;
        let entry = |(id, voter): (u64, Voter)| MemberEntry {
            id,
            address: voter.address,
            server_name: voter.server_name(),
            region: voter.region,
        };
        File {
            region,
            name: self.name,
            id: self.id,
            listen: self.listen,
            admin,
            identity,
            data,
            authority: self.authority,
            certificate_life_seconds: self.certificate_life_seconds,
            snapshot_every: SNAPSHOT_EVERY,
            members: self.voters.into_iter().map(entry).collect(),
            dial_map,
        }
    }
}

/// What a member would refuse of a file, apart from paths: those can only be looked at on its host.
pub fn refused(file: File) -> Vec<String> {
    let there = || PathBuf::from("/");
    let file = File { identity: there(), data: there(), authority: None, ..file };
    Config::try_from(file).err().map_or_else(Vec::new, |BadConfig(problems)| problems)
}

pub const FIELDS: &[Field] = &[
    Field::new("region", "Where this member stands."),
    Field::new("name", "Unique among the members of its region; its certificate carries the same."),
    Field::new(
        "id",
        "This member's among all members. Never used again for another one, not even when this one's disk is lost.",
    ),
    Field::new(
        "listen",
        "gRPC under mutual TLS, for members, edges, agents and operators; [::] is every address of this host,\n\
         of IPv4 too. The port is the one in the members' list.",
    ),
    Field::new("admin", "Health and metrics in plain HTTP; never reachable from outside."),
    Field::new(
        "identity",
        "Directory with ca.pem, cert.pem and key.pem: who this member is to the others and to all roles.\n\
         The member renews its certificate here, so it must be able to write.",
    ),
    Field::new("data", "Directory of this member's log and state, made once. A member that loses it comes back only under another id."),
    Field::new(
        "authority",
        "Directory with ca.pem and ca-key.pem. Members that have it renew the certificates of all roles; where\n\
         no member has it, every role falls silent when its certificate expires.",
    )
    .such_as("\"/etc/rhumb/control-plane/authority\""),
    Field::new(
        "certificate_life_seconds",
        "How long the certificates live that this member signs, from 10 seconds to 30 days.",
    ),
    Field::new("snapshot_every", "A snapshot is taken and the log purged after so many entries."),
    Field::new("members", "All members, this one included; the same list on every member.").holding(&[
        Field::new("id", "never used again for another member"),
        Field::new("region", "where it stands"),
        Field::new("address", "where the other members dial it"),
        Field::new("server_name", "what its certificate must be valid for"),
    ]),
    DIAL_MAP,
];

/// The default of [`File`], said in each file so that it stays what it was when the default changes.
pub const SNAPSHOT_EVERY: u64 = 10_000;
