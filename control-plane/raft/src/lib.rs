//! The replicated log under the control plane's state: openraft, its storage on disk and its network.
//!
//! openraft's own types stay in this package. In reading order: [`start`] how a voter comes up, and what stops it
//! from doing so · [`ask`] writes and reads, here or at the leader · [`commit`] group commit · [`recent`] what those
//! who follow are told · [`entry`] commands as the log holds them · [`wire`] openraft's types and how they travel ·
//! [`log`] the log on disk, [`damage`] what is checked of it · [`machine`] the state that entries are applied to,
//! [`image`] and [`snapshot`] how it is kept · [`caller`] and [`standing`] who calls whom, and which process is
//! which member · [`network`] the calling side, [`service`] the called one · [`member_file`] whose directory it is.

use crate::caller::Ourselves;
use crate::commit::Commits;
use crate::machine::Machine;
use crate::network::Network;
use crate::wire::OpenRaft;
use identity::Name;
use state::State;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLockReadGuard};
use tokio::sync::watch;
use types::RegionName;
use types::intent::{Fault, Position};

mod ask;
mod caller;
mod commit;
mod damage;
mod entry;
mod image;
mod log;
mod machine;
mod member_file;
mod network;
pub mod recent;
#[cfg(test)]
mod sample;
mod service;
mod snapshot;
mod standing;
mod start;
#[cfg(test)]
mod storage_tests;
mod wire;

pub use ask::Unavailable;
pub use damage::Damage;
pub use service::Service;
pub use start::StartError;

/// One voter, as every voter's configuration lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// From 1; never used again for another.
    pub id: u64,
    pub region: RegionName,
    pub address: SocketAddr,
    /// What its certificate must be valid for.
    pub server_name: String,
}

/// What this voter is started with.
pub struct Options {
    pub cluster: String,
    pub id: u64,
    pub members: Vec<Member>,
    /// Made by [`create`].
    pub data: PathBuf,
    /// A snapshot is taken and the log purged after so many entries.
    pub snapshot_every: u64,
    pub dialer: client::Dialer,
}

/// A running voter. Cheap to clone.
#[derive(Clone)]
pub struct Raft(Arc<Inner>);

struct Inner {
    ourselves: Arc<Ourselves>,
    raft: OpenRaft,
    machine: Machine,
    network: Network,
    commits: Commits,
    standing: watch::Receiver<Standing>,
    /// The tasks of this voter end with it.
    stopping: watch::Sender<bool>,
    /// Locked for as long as this voter runs.
    _lock: std::fs::File,
}

/// What this voter knows of the group by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub term: u64,
    /// The leader it follows, itself included; none while there is none that it knows of.
    pub leader: Option<u64>,
    pub is_leader: bool,
}

/// Indexes of a voter's log; 0 = none yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The newest entry, committed or not.
    pub logged: u64,
    pub applied: u64,
    /// The newest that a snapshot covers.
    pub snapshot: u64,
    /// The newest that is in the log no more.
    pub purged: u64,
}

/// A write that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub position: Position,
    /// Empty = done.
    pub faults: Vec<Fault>,
}

/// Makes the data directory of a voter, once in its life. A voter whose directory is gone must not come back empty
/// under its old id: it may have voted, and acknowledged, what it no longer knows.
pub fn create(data: &Path, cluster: &str, id: u64) -> Result<(), StartError> {
    member_file::create(data, cluster, id)
}

impl Raft {
    /// What the other members call. The listener tells it who a caller is: requests carry the name of the peer's
    /// certificate, an [`identity::Name`], among their extensions, and are refused without it.
    pub fn service(&self) -> proto::v1::raft_server::RaftServer<Service> {
        Service::server(self.clone())
    }

    /// Whether a peer's name is that of a voter.
    pub fn is_member(&self, name: &Name) -> bool {
        self.0.ourselves.members.iter().any(|member| self.0.ourselves.is_named(member, name))
    }

    /// The state as far as this voter has applied it. Hold the guard for a few lines.
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.0.machine.state()
    }

    /// What has changed lately, for those who follow.
    pub fn recent(&self) -> &recent::Recent {
        self.0.machine.recent()
    }

    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.0.standing.clone()
    }

    pub fn members(&self) -> &[Member] {
        &self.0.ourselves.members
    }

    /// Waits until this voter can go on no more; the process must end then.
    pub async fn failed(&self) -> String {
        self.0.ourselves.failure.wait().await
    }
}
