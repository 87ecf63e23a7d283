//! What openraft is told of our types, and how they travel.

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use openraft::vote::leader_id_std;
use openraft::{EntryPayload, SnapshotMeta};
use prost::Message;
use proto::{BadMessage, v1};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use types::intent::{Fault, Position};

openraft::declare_raft_types!(
    pub TypeConfig:
        D = Proposal,
        R = Answer,
        NodeId = u64,
        Node = Peer,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub(crate) type OpenRaft = openraft::Raft<TypeConfig, crate::machine::Machine>;
pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type Vote = VoteOf<TypeConfig>;
pub(crate) type Payload = EntryPayload<Proposal, u64, Peer>;
pub(crate) type Entry = openraft::Entry<leader_id_std::CommittedLeaderId<u64>, Payload>;
pub(crate) type Membership = openraft::Membership<u64, Peer>;
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(crate) type Meta = SnapshotMetaOf<TypeConfig>;

/// A command as it lies in the log: an encoded `v1::Command`, decoded where it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal(pub Bytes);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

/// What came of a proposal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub position: Position,
    pub faults: Vec<Fault>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revision {} with {} faults", self.position.revision, self.faults.len())
    }
}

/// A voter as the log holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    pub address: String,
    pub server_name: String,
    pub region: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.server_name, self.address)
    }
}

pub(crate) fn log_id(wire: &v1::LogId) -> LogId {
    LogId::new_term_index(wire.term, wire.index)
}

pub(crate) fn log_id_to_wire(id: &LogId) -> v1::LogId {
    v1::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn vote(wire: Option<&v1::Vote>) -> Result<Vote, BadMessage> {
    let wire = wire.ok_or_else(|| BadMessage::missing("vote"))?;
    Ok(if wire.committed {
        Vote::new_committed(wire.term, wire.node)
    } else {
        Vote::new(wire.term, wire.node)
    })
}

pub(crate) fn vote_to_wire(vote: &Vote) -> v1::Vote {
    v1::Vote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn membership(wire: &v1::Membership) -> Result<Membership, BadMessage> {
    if wire.configs.is_empty() && wire.members.is_empty() {
        return Ok(Membership::default());
    }
    let peer = |member: &v1::Member| Peer {
        address: member.address.clone(),
        server_name: member.server_name.clone(),
        region: member.region.clone(),
    };
    let nodes: BTreeMap<u64, Peer> = wire.members.iter().map(|member| (member.id, peer(member))).collect();
    let configs: Vec<BTreeSet<u64>> =
        wire.configs.iter().map(|set| set.ids.iter().copied().collect()).collect();
    Membership::new(configs, nodes).map_err(|error| BadMessage::malformed("membership", error))
}

pub(crate) fn membership_to_wire(membership: &Membership) -> v1::Membership {
    let member = |(id, peer): (&u64, &Peer)| v1::Member {
        id: *id,
        address: peer.address.clone(),
        server_name: peer.server_name.clone(),
        region: peer.region.clone(),
    };
    v1::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|ids| v1::VoterSet { ids: ids.iter().copied().collect() })
            .collect(),
        members: membership.nodes().map(member).collect(),
    }
}

pub(crate) fn stored_membership(wire: Option<&v1::StoredMembership>) -> Result<StoredMembership, BadMessage> {
    let Some(wire) = wire else { return Ok(StoredMembership::default()) };
    let inner = wire.membership.as_ref().ok_or_else(|| BadMessage::missing("membership.membership"))?;
    Ok(StoredMembership::new(wire.id.as_ref().map(log_id), membership(inner)?))
}

pub(crate) fn stored_membership_to_wire(stored: &StoredMembership) -> v1::StoredMembership {
    v1::StoredMembership {
        id: stored.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(stored.membership())),
    }
}

pub(crate) fn meta(
    last: Option<&v1::LogId>,
    membership: Option<&v1::StoredMembership>,
) -> Result<Meta, BadMessage> {
    Ok(SnapshotMeta { last_log_id: last.map(log_id), last_membership: stored_membership(membership)? })
}

/// What an entry says, as the log on disk and the wire hold it: its kind, and the bytes of that kind's message.
pub(crate) fn payload_to_wire(payload: Payload) -> (v1::EntryKind, Bytes) {
    match payload {
        EntryPayload::Blank => (v1::EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(proposal) => (v1::EntryKind::Command, proposal.0),
        EntryPayload::Membership(membership) => {
            (v1::EntryKind::Membership, membership_to_wire(&membership).encode_to_vec().into())
        }
    }
}

/// A kind that this release does not know is an error: an entry that is skipped makes this voter another one.
pub(crate) fn payload(kind: i32, data: Bytes) -> Result<Payload, BadMessage> {
    match v1::EntryKind::try_from(kind).map_err(|error| BadMessage::malformed("kind", error))? {
        v1::EntryKind::Blank => Ok(EntryPayload::Blank),
        v1::EntryKind::Command => Ok(EntryPayload::Normal(Proposal(data))),
        v1::EntryKind::Membership => {
            let wire =
                v1::Membership::decode(data).map_err(|error| BadMessage::malformed("membership", error))?;
            membership(&wire).map(EntryPayload::Membership)
        }
    }
}

pub(crate) fn entry(wire: v1::Entry) -> Result<Entry, BadMessage> {
    let id = wire.id.as_ref().ok_or_else(|| BadMessage::missing("id"))?;
    Ok(Entry::new(log_id(id), payload(wire.kind, wire.data)?))
}

pub(crate) fn entry_to_wire(entry: Entry) -> v1::Entry {
    let id = log_id_to_wire(&entry.log_id());
    let (kind, data) = payload_to_wire(entry.payload);
    v1::Entry { id: Some(id), kind: kind.into(), data }
}
