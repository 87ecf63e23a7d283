//! How a voter comes up and goes down, and what stops it from coming up.

use crate::ask::now;
use crate::caller::Ourselves;
use crate::commit::Commits;
use crate::damage::Damage;
use crate::image::{self, Image};
use crate::log::{self, CHUNK_BYTES, Log};
use crate::machine::Machine;
use crate::network::Network;
use crate::snapshot::{self, Snapshots};
use crate::standing::{Boots, Failure, Heard};
use crate::wire::{OpenRaft, Peer};
use crate::{Inner, Member, Options, Progress, Raft, Standing, entry, member_file};
use openraft::async_runtime::instant::Instant;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{Fatal, InitializeError, RaftError};
use openraft::{Config, ServerState, SnapshotPolicy};
use state::{Command, Stamped};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{error, info, warn};
use types::intent::Incarnation;

/// Why a voter does not start. Its peers go on without it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "{} is no data directory of a voter; if voter {id} is a new one, create its directory first; if it ran \
         before, it must not come back empty under its old id: restore the directory from a copy of this voter",
        data.display()
    )]
    NotCreated { data: PathBuf, id: u64 },
    #[error("{} belongs to voter {id} of cluster {cluster}", path.display())]
    OtherMember { path: PathBuf, cluster: String, id: u64 },
    #[error("{} cannot be read: {what}", path.display())]
    MemberFile { path: PathBuf, what: String },
    #[error("{} is not empty; a voter is made once, in a directory of its own", data.display())]
    NotEmpty { data: PathBuf },
    #[error("another process uses {}", data.display())]
    InUse { data: PathBuf },
    #[error("cannot use {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the members are not as they must be: {0}")]
    Members(String),
    #[error("{damage}; {repair}")]
    Damaged { damage: Damage, repair: String },
    #[error("{what}; {repair}")]
    Incomplete { what: String, repair: String },
    #[error("the settings are not as they must be: {0}")]
    Settings(String),
    #[error("cannot start: {0}")]
    Raft(String),
}

impl Raft {
    pub async fn start(options: Options) -> Result<Self, StartError> {
        check_members(&options)?;
        let data = options.data.clone();
        member_file::check(&data, &options.cluster, options.id)?;
        let lock = member_file::lock(&data)?;
        let [random, incarnation] = random();
        // Every JSON reader holds 53 bits exactly.
        let incarnation = (incarnation >> 11).max(1);
        let boot = member_file::boot(&data, now().0, random)?;
        let opened = tokio::task::spawn_blocking(move || open(&data)).await;
        let (log, machine) = opened.map_err(|error| StartError::Raft(error.to_string()))??;

        let Options { cluster, id, members, snapshot_every, dialer, .. } = options;
        let config = config(&cluster, snapshot_every, election_ms(id, &members))?;
        let (boots, failure) = (Boots::default(), Failure::new());
        let heard = Heard::now();
        let ourselves = Arc::new(Ourselves { cluster, id, members, boot, boots, failure, heard });
        let network = Network::new(ourselves.clone(), &dialer);
        let raft = OpenRaft::new(id, Arc::new(config), network.clone(), log, machine.clone()).await;
        let raft = raft.map_err(|error| StartError::Raft(error.to_string()))?;
        initialize(&raft, &ourselves.members).await?;

        let (stopping, stopped) = watch::channel(false);
        let standing = watch_standing(&raft, ourselves.clone(), stopped);
        let commits = Commits::start(raft.clone());
        let inner = Inner { ourselves, raft, machine, network, commits, standing, stopping, _lock: lock };
        let raft = Self(Arc::new(inner));
        tokio::spawn(found(Arc::downgrade(&raft.0), raft.standing(), incarnation));
        raft.compare_members();
        info!(id, %boot, "voter started");
        Ok(raft)
    }

    /// Hands leadership over where it can, and stops.
    pub async fn stop(&self) {
        let id = self.0.ourselves.id;
        if let Some(to) = self.successor() {
            // Whoever cannot hand over is missed after an election timeout; nothing else depends on it.
            if self.0.raft.trigger().transfer_leader(to).await.is_ok() {
                let mut standing = self.standing();
                let handed_over =
                    standing.wait_for(|standing| standing.leader.is_some_and(|leader| leader != id));
                let _ = timeout(HAND_OVER, handed_over).await;
            }
        }
        self.0.stopping.send_replace(true);
        if let Err(error) = self.0.raft.shutdown().await {
            warn!(%error, "raft did not stop in order");
        }
        let machine = self.0.machine.clone();
        match tokio::task::spawn_blocking(move || machine.sync()).await {
            Ok(Ok(())) => info!(id, "voter stopped"),
            // The log holds it all.
            Ok(Err(error)) => warn!(%error, "the image is not up to date"),
            Err(error) => warn!(%error, "the image is not up to date"),
        }
    }

    /// How far this voter has come, for metrics.
    pub fn progress(&self) -> Progress {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: Option<&crate::wire::LogId>| id.map_or(0, |id| id.index);
        Progress {
            logged: metrics.last_log_index.unwrap_or(0),
            applied: index(metrics.last_applied.as_ref()),
            snapshot: index(metrics.snapshot.as_ref()),
            purged: index(metrics.purged.as_ref()),
        }
    }

    /// The voter that knows most, if this one leads.
    fn successor(&self) -> Option<u64> {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let replication = metrics.replication.as_ref()?;
        let others = replication.iter().filter(|(id, _)| **id != self.0.ourselves.id);
        others.max_by_key(|(_, matching)| **matching).map(|(id, _)| *id)
    }

    /// Who the members are, the log says; a configuration that says otherwise was forgotten somewhere.
    fn compare_members(&self) {
        let membership = self.0.machine.membership();
        let logged: BTreeMap<u64, Peer> =
            membership.membership().nodes().map(|(id, peer)| (*id, peer.clone())).collect();
        if logged.is_empty() {
            return;
        }
        let configured = peers(&self.0.ourselves.members);
        if logged != configured {
            let name = |peers: &BTreeMap<u64, Peer>| {
                peers.iter().map(|(id, peer)| format!("{id} {peer}")).collect::<Vec<_>>().join(", ")
            };
            let (logged, configured) = (name(&logged), name(&configured));
            warn!(logged, configured, "the configured members are not those of the group; the group's count");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stopping.send_replace(true);
    }
}

fn check_members(options: &Options) -> Result<(), StartError> {
    let mut ids = BTreeSet::new();
    for Member { id, .. } in &options.members {
        if *id == 0 {
            return Err(StartError::Members("ids begin with 1".to_owned()));
        }
        if !ids.insert(*id) {
            return Err(StartError::Members(format!("{id} is there twice")));
        }
    }
    if !ids.contains(&options.id) {
        return Err(StartError::Members(format!("{}, which this one is, is not among them", options.id)));
    }
    Ok(())
}

/// Opens what is on disk. Nothing is repaired that could lose what was acknowledged.
fn open(data: &Path) -> Result<(Log, Machine), StartError> {
    let (log_dir, image_path, snapshot_dir) =
        (data.join("log"), data.join("image.redb"), data.join("snapshots"));
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |source| StartError::File { path, source }
    };
    // The image is made after the log.
    let has_log = log_dir.read_dir().is_ok_and(|mut files| files.next().is_some());
    if image_path.exists() && !has_log {
        let what = format!("{} is gone, with the votes of this voter", log_dir.display());
        return Err(StartError::Incomplete { what, repair: RESTORE.to_owned() });
    }
    let log = Log::open(&log_dir, CHUNK_BYTES).map_err(|error| match error {
        log::OpenError::Damaged(damage) => StartError::Damaged { damage, repair: RESTORE.to_owned() },
        log::OpenError::Io(source) => StartError::File { path: log_dir, source },
    })?;
    let purged = log.purged();

    let snapshots = Snapshots::open(&snapshot_dir).map_err(file_error(&snapshot_dir))?;
    for kept in snapshots.kept().map_err(file_error(&snapshot_dir))? {
        snapshot::read(&kept).map_err(|damage| {
            let repair = match image_path.exists() {
                true => {
                    "remove the file and start again; a snapshot is made anew when one is needed".to_owned()
                }
                false => RESTORE.to_owned(),
            };
            StartError::Damaged { damage, repair }
        })?;
    }
    let newest =
        snapshots.newest().map_err(|damage| StartError::Damaged { damage, repair: RESTORE.to_owned() })?;
    let newest = newest.and_then(|(meta, _)| meta.last_log_id);

    let (image, held) = Image::open(&image_path).map_err(|error| match error {
        image::OpenError::Damaged(damage) => {
            let repair = match newest >= purged {
                true => "remove the file and start again; it is made anew from snapshot and log".to_owned(),
                false => RESTORE.to_owned(),
            };
            StartError::Damaged { damage, repair }
        }
        image::OpenError::Io { path, source } => StartError::File { path, source },
    })?;
    let path = image.path().to_owned();
    let machine = Machine::new(image, snapshots, held).map_err(|what| StartError::Damaged {
        damage: Damage { file: path, offset: 0, what },
        repair: RESTORE.to_owned(),
    })?;
    if machine.last().max(newest) < purged {
        let what = format!("neither {} nor a snapshot reaches the log", image_path.display());
        return Err(StartError::Incomplete { what, repair: RESTORE.to_owned() });
    }
    Ok((log, machine))
}

/// Between what times this voter draws when it campaigns. No two draw alike: two that ask for the same term while
/// their requests cross on a long way both lose it, and with it a second.
fn election_ms(id: u64, members: &[Member]) -> (u64, u64) {
    let before = members.iter().filter(|member| member.id < id).count() as u64;
    let steps = members.len().saturating_sub(1).max(1) as u64;
    let (first, last) = ELECTION_MS;
    let earliest = first + (last - first) * before / steps;
    (earliest, earliest + ELECTION_DRAW_MS)
}

fn config(cluster: &str, snapshot_every: u64, election_ms: (u64, u64)) -> Result<Config, StartError> {
    let config = Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: election_ms.0,
        election_timeout_max: election_ms.1,
        enable_pre_vote: Some(true),
        // What a leader promised before it died is not known to it afterwards.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        broadcast_submitted_on_append: Some(true),
        max_payload_entries: 1_024,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_every),
        // A follower that was away for a moment catches up from the log.
        max_in_snapshot_log_to_keep: snapshot_every / 2,
        replication_lag_threshold: snapshot_every.saturating_mul(4),
        install_snapshot_timeout: 600_000,
        // A member that returns is found within half a second.
        backoff: "20ms 40ms 80ms 160ms 320ms ...500ms".to_owned(),
        ..Config::default()
    };
    config.validate().map_err(|error| StartError::Settings(error.to_string()))
}

/// What the log says of the members. Addresses are the configurations' own: voters may know each other under
/// different ones, and the first entry must be the same on all.
fn peers(members: &[Member]) -> BTreeMap<u64, Peer> {
    let peer = |member: &Member| Peer {
        address: String::new(),
        server_name: member.server_name.clone(),
        region: member.region.to_string(),
    };
    members.iter().map(|member| (member.id, peer(member))).collect()
}

/// Every voter of an empty group says who the members are; who knows already is not asked.
async fn initialize(raft: &OpenRaft, members: &[Member]) -> Result<(), StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
    if raft.is_initialized().await.map_err(|error| failed(&error))? {
        return Ok(());
    }
    match raft.initialize(peers(members)).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}

/// Follows openraft's own picture, and its end.
fn watch_standing(
    raft: &OpenRaft,
    ourselves: Arc<Ourselves>,
    mut stopped: watch::Receiver<bool>,
) -> watch::Receiver<Standing> {
    let (standing, follow) = watch::channel(Standing::default());
    let (mut metrics, settings) = (raft.metrics(), raft.clone());
    tokio::spawn(async move {
        loop {
            let (running, now) = {
                let metrics = metrics.borrow_watched();
                let is_leader = metrics.state == ServerState::Leader;
                // openraft names a leader until it knows of another; one that hears nobody, or that nobody hears, leads
                // no more.
                let silent = match is_leader {
                    // Nobody acknowledges the only voter anything.
                    true if metrics.membership_config.membership().voter_ids().count() == 1 => Duration::ZERO,
                    true => metrics.last_quorum_acked.map_or(Duration::ZERO, |acked| acked.elapsed()),
                    false => ourselves.heard.elapsed(),
                };
                let leader = metrics.current_leader.filter(|_| silent < LEADER_SILENT_MAX);
                // Whom it still reaches must miss it, or they never elect another.
                settings.runtime_config().heartbeat(!is_leader || leader.is_some());
                let is_leader = is_leader && leader.is_some();
                let standing = Standing { term: metrics.current_term, leader, is_leader };
                (metrics.running_state.clone(), standing)
            };
            if let Err(fatal) = running {
                // openraft has stopped, and its last picture stays as it was.
                standing.send_replace(Standing { leader: None, is_leader: false, ..now });
                let is_meant = *stopped.borrow() && matches!(fatal, Fatal::Stopped);
                if !is_meant {
                    error!(error = %fatal, "raft has stopped");
                    ourselves.failure.set(format!("raft has stopped: {fatal}"));
                }
                return;
            }
            standing.send_if_modified(|before| {
                let is_new = *before != now;
                before.clone_from(&now);
                is_new
            });
            let is_followed = tokio::select! {
                changed = metrics.changed() => changed.is_ok(),
                () = tokio::time::sleep(HEARTBEAT) => true,
                _ = stopped.wait_for(|stopped| *stopped) => false,
            };
            if !is_followed {
                standing.send_replace(Standing { leader: None, is_leader: false, ..now });
                if !*stopped.borrow() {
                    ourselves.failure.set("raft has ended".to_owned());
                }
                return;
            }
        }
    });
    follow
}

/// The leader of a new cluster writes its first command.
async fn found(inner: std::sync::Weak<Inner>, mut standing: watch::Receiver<Standing>, incarnation: u64) {
    loop {
        if standing.wait_for(|standing| standing.is_leader).await.is_err() {
            return;
        }
        {
            let Some(inner) = inner.upgrade() else { return };
            if inner.machine.state().cluster().is_some() {
                return;
            }
            let (cluster, incarnation) = (inner.ourselves.cluster.clone(), Incarnation(incarnation));
            let command = Command::Found { cluster, incarnation };
            let decided = inner.commits.decide(entry::encode(&Stamped { at: now(), command })).await;
            if decided.is_ok() {
                info!(%incarnation, "cluster founded");
                return;
            }
        }
        tokio::time::sleep(FOUND_AGAIN_AFTER).await;
    }
}

/// Two numbers that are not zero.
fn random() -> [u64; 2] {
    [(); 2].map(|()| {
        loop {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).expect("the system has random numbers");
            let number = u64::from_be_bytes(bytes);
            if number != 0 {
                return number;
            }
        }
    })
}

/// A heartbeat must also be answered within its interval, between any two regions.
const HEARTBEAT_MS: u64 = 450;
/// Where the draws of the first voter and of the last begin. The first outlives a heartbeat that comes late, across the
/// world and back. A follower campaigns after the end of its draws and a draw: a dead leader is missed after 1.75 s by
/// the first, and each of three voters is 0.3 s later than the one before, which is more than one way takes.
const ELECTION_MS: (u64, u64) = (850, 1_150);
const ELECTION_DRAW_MS: u64 = 50;
const HEARTBEAT: Duration = Duration::from_millis(HEARTBEAT_MS);
/// Three heartbeats and a round trip around the world.
const LEADER_SILENT_MAX: Duration = Duration::from_secs(2);
const HAND_OVER: Duration = Duration::from_millis(1_500);
const FOUND_AGAIN_AFTER: Duration = Duration::from_millis(100);
const RESTORE: &str = "stop, and restore the data directory from a copy of this same voter; the others go on \
                       meanwhile. It must not come back empty under its old id";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Unavailable;
    use identity::{Authority, Identity, Live, Name};

    /// A group of one, which dials nobody.
    fn alone(dir: &Path) -> Options {
        let name: Name = "spiffe://c1/us-east/control-plane/m1".parse().unwrap();
        let now = time::OffsetDateTime::now_utc();
        let authority = Authority::create("c1", now).unwrap();
        authority.issue(&name, &dir.join("identity"), time::Duration::days(1), now).unwrap();
        let identity = Live::new(Identity::load(&dir.join("identity")).unwrap());
        member_file::create(&dir.join("data"), "c1", 1).unwrap();
        let address = "127.0.0.1:1".parse().unwrap();
        let server_name = name.host_name();
        Options {
            cluster: "c1".to_owned(),
            id: 1,
            members: vec![Member { id: 1, region: name.region, address, server_name }],
            data: dir.join("data"),
            snapshot_every: 1_000,
            dialer: client::Dialer::new(identity),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_command_that_nobody_can_read_ends_the_voter_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let raft = Raft::start(alone(dir.path())).await.unwrap();
        raft.standing().wait_for(|standing| standing.is_leader).await.unwrap();
        assert!(raft.0.commits.decide(bytes::Bytes::from_static(&[0xff])).await.is_err());
        let why = raft.failed().await;
        assert!(why.contains("cannot be applied"), "{why}");
        let write = crate::sample::write(1, vec![crate::sample::put(crate::sample::tenant("acme"))]);
        assert!(matches!(raft.write(write).await, Err(Unavailable::Stopped)));
        assert_eq!(raft.standing().borrow().leader, None, "the last picture of a dead leader still named it");
        drop(raft);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_leader_without_followers_leads_on() {
        let dir = tempfile::tempdir().unwrap();
        let raft = Raft::start(alone(dir.path())).await.unwrap();
        let mut standing = raft.standing();
        standing.wait_for(|standing| standing.leader == Some(1)).await.unwrap();
        let lost = standing.wait_for(|standing| standing.leader.is_none());
        assert!(
            timeout(LEADER_SILENT_MAX + 2 * HEARTBEAT, lost).await.is_err(),
            "nobody was there to hear it"
        );
        raft.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_command_too_large_for_one_message_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let raft = Raft::start(alone(dir.path())).await.unwrap();
        let tenant = |at| crate::sample::put(crate::sample::tenant(&format!("t{at:030}")));
        let many = (0..60_000).map(tenant);
        let decided = raft.write(crate::sample::write(1, many.collect())).await.unwrap();
        assert!(decided.faults[0].to_string().contains("are the most"), "{:?}", decided.faults);
        assert_ne!(decided.position.incarnation, Incarnation(0));
        raft.stop().await;
    }

    #[test]
    fn no_two_voters_campaign_at_the_same_time() {
        let dir = tempfile::tempdir().unwrap();
        let member = alone(dir.path()).members.remove(0);
        // Silence that a voter takes for its leader's end, in milliseconds: openraft adds the lease to the draw.
        let silences = |count: u64| {
            let members: Vec<_> = (1..=count).rev().map(|id| Member { id, ..member.clone() }).collect();
            let silence = |id| {
                let draws = election_ms(id, &members);
                config("c1", 1_000, draws).unwrap();
                (draws.1 + draws.0, 2 * draws.1)
            };
            (1..=count).map(silence).collect::<Vec<_>>()
        };
        assert_eq!(silences(1), [(1_750, 1_800)]);
        assert_eq!(silences(3), [(1_750, 1_800), (2_050, 2_100), (2_350, 2_400)]);
        let five = silences(5);
        assert!(five.windows(2).all(|pair| pair[0].1 < pair[1].0), "{five:?}");
    }

    #[tokio::test]
    async fn members_that_cannot_be_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let good = alone(dir.path());
        let member = good.members[0].clone();
        let refused =
            |members: Vec<Member>| Options { members, ..alone(tempfile::tempdir().unwrap().path()) };
        let zero = Member { id: 0, ..member.clone() };
        let two = Member { id: 2, ..member.clone() };
        for members in [vec![], vec![two], vec![member.clone(), member.clone()], vec![member, zero]] {
            assert!(matches!(Raft::start(refused(members)).await, Err(StartError::Members(_))));
        }
    }
}
