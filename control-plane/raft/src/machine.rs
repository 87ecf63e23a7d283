//! openraft's state machine: applies entries to the state in memory, and keeps the image behind it.

use crate::entry;
use crate::image::Image;
use crate::recent::{Changed, Recent};
use crate::snapshot::{self, Content, SnapshotFile, Snapshots};
use crate::wire::{
    Answer, LogId, Meta, StoredMembership, TypeConfig, log_id_to_wire, stored_membership_to_wire,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::type_config::alias::SnapshotOf;
use openraft::{EntryPayload, OptionalSend};
use proto::v1;
use state::{Loss, Outcome, Record, State, Written};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::watch;
use types::intent::{Kind, Position, Revision};

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Machine(Arc<Inner>);

struct Inner {
    state: RwLock<State>,
    /// Written while `state` is locked for writing, so whoever holds both sees one moment.
    applied: Mutex<Applied>,
    /// How many entries are applied: the index of the next one.
    next: watch::Sender<u64>,
    image: Mutex<Image>,
    snapshots: Snapshots,
    recent: Recent,
}

#[derive(Clone, Default)]
struct Applied {
    last: Option<LogId>,
    membership: StoredMembership,
}

impl Machine {
    /// Goes on from what the image held.
    pub(crate) fn new(
        image: Image,
        snapshots: Snapshots,
        held: Option<(v1::SnapshotHead, Vec<Record>)>,
    ) -> Result<Self, String> {
        let (head, records) = held.unwrap_or_default();
        let meta = snapshot::meta_of(&head)?;
        let state = State::restore(state_head(&head), records);
        let recent = Recent::new(state.position().revision);
        let applied = Applied { last: meta.last_log_id, membership: meta.last_membership };
        let next = watch::Sender::new(next(applied.last));
        Ok(Self(Arc::new(Inner {
            state: RwLock::new(state),
            applied: Mutex::new(applied),
            next,
            image: Mutex::new(image),
            snapshots,
            recent,
        })))
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        // `apply` does not fail half-way; a panic in it stops openraft and with it the process.
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn recent(&self) -> &Recent {
        &self.0.recent
    }

    pub(crate) fn snapshots(&self) -> &Snapshots {
        &self.0.snapshots
    }

    /// Follows the index of the next entry to be applied.
    pub(crate) fn next(&self) -> watch::Receiver<u64> {
        self.0.next.subscribe()
    }

    pub(crate) fn membership(&self) -> StoredMembership {
        self.applied().membership.clone()
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        self.applied().last
    }

    /// Makes the image durable as it is.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.image().sync()
    }

    /// The applied entries' effects come in their order: memory, image, followers, and then whoever waits for them.
    fn apply_batch(&self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let (mut written, mut answers) = (Vec::new(), Vec::with_capacity(batch.len()));
        let head = {
            let mut state = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
            let mut applied = self.applied();
            for (entry, responder) in batch {
                let id = entry.log_id;
                let mut answer = Answer { position: state.position(), faults: Vec::new() };
                match entry.payload {
                    EntryPayload::Blank => {}
                    EntryPayload::Membership(membership) => {
                        applied.membership = StoredMembership::new(Some(id), membership);
                    }
                    EntryPayload::Normal(proposal) => {
                        answer = apply(&mut state, id.index, proposal.0, &mut written)?;
                    }
                }
                applied.last = Some(id);
                if let Some(responder) = responder {
                    answers.push((responder, answer));
                }
            }
            head(&state, &applied)
        };
        self.image().write(written.iter(), &head)?;
        for Written { revision, events, expects_shrink, .. } in written {
            self.0.recent.add(Changed { revision, events, expects_shrink });
        }
        self.0.next.send_replace(head.last.map_or(0, |last| last.index + 1));
        for (responder, answer) in answers {
            responder.send(answer);
        }
        Ok(())
    }

    /// The state at this moment, without copying what is in it.
    fn content(&self) -> Content {
        let state = self.state();
        let head = head(&state, &self.applied());
        Content {
            head,
            resources: state.resources().cloned().collect(),
            sessions: state.sessions().collect(),
        }
    }

    fn build(&self) -> io::Result<(Meta, SnapshotFile)> {
        let content = self.content();
        let file = self.0.snapshots.write(&content)?;
        // What the snapshot covers may be purged from the log from now on.
        self.sync()?;
        Ok((snapshot::meta_of(&content.head).map_err(io::Error::other)?, file))
    }

    fn install(&self, file: SnapshotFile) -> io::Result<()> {
        let (head, records) = snapshot::read(file.path()).map_err(io::Error::other)?;
        let meta = snapshot::meta_of(&head).map_err(io::Error::other)?;
        let new = State::restore(state_head(&head), records);
        let is_kept = self.0.snapshots.kept()?.iter().any(|kept| kept == file.path());
        if !is_kept {
            self.0.snapshots.keep(file, &head)?;
        }
        self.image().replace(&new, &head)?;
        let revision = new.position().revision;
        let old = {
            let mut state = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
            let mut applied = self.applied();
            *applied = Applied { last: meta.last_log_id, membership: meta.last_membership };
            std::mem::replace(&mut *state, new)
        };
        drop(old);
        self.0.recent.reset(revision);
        self.0.next.send_replace(next(meta.last_log_id));
        Ok(())
    }

    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.0.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn image(&self) -> MutexGuard<'_, Image> {
        self.0.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(state: &mut State, index: u64, command: Bytes, written: &mut Vec<Written>) -> io::Result<Answer> {
    let stamped = entry::decode(command).map_err(|error| {
        let text = format!("entry {index} of the log cannot be applied: {error}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    let outcome = state.apply(index, &stamped);
    let position = state.position();
    let at = |revision: Revision| Position { revision, ..position };
    Ok(match outcome {
        Outcome::Founded => Answer { position, faults: Vec::new() },
        Outcome::Written(one) => {
            let revision = one.revision;
            written.push(one);
            Answer { position: at(revision), faults: Vec::new() }
        }
        Outcome::Repeated(revision) => Answer { position: at(revision), faults: Vec::new() },
        Outcome::Refused(faults) => Answer { position, faults },
    })
}

fn head(state: &State, applied: &Applied) -> v1::SnapshotHead {
    let head = state.head();
    v1::SnapshotHead {
        last: applied.last.as_ref().map(log_id_to_wire),
        membership: Some(stored_membership_to_wire(&applied.membership)),
        cluster: head.cluster,
        incarnation: head.incarnation.0,
        revision: head.revision.0,
        shrink_revision: head.shrink_revision.0,
        losses: head.losses.iter().map(loss_to_wire).collect(),
    }
}

fn loss_to_wire((kind, Loss { of, lost }): (Kind, Loss)) -> v1::Loss {
    v1::Loss { kind: kind.to_string(), of, lost }
}

/// A kind of a newer release has lost nothing that this one could judge.
fn loss(wire: &v1::Loss) -> Option<(Kind, Loss)> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == wire.kind)?;
    Some((kind, Loss { of: wire.of, lost: wire.lost }))
}

fn state_head(head: &v1::SnapshotHead) -> state::Head {
    state::Head {
        cluster: head.cluster.clone(),
        incarnation: types::intent::Incarnation(head.incarnation),
        revision: Revision(head.revision),
        shrink_revision: Revision(head.shrink_revision),
        losses: head.losses.iter().filter_map(loss).collect(),
    }
}

fn next(last: Option<LogId>) -> u64 {
    last.map_or(0, |id| id.index + 1)
}

/// For work that waits for a disk longer than a task may keep its thread.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotFile>> {
        let machine = self.clone();
        let (meta, snapshot) = off_thread(move || machine.build()).await?;
        Ok(Snapshot { meta, snapshot })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let Applied { last, membership } = self.applied().clone();
        Ok((last, membership))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(BATCH_MAX);
        while let Some(batch) = batches.next().await {
            self.apply_batch(batch.into_iter().collect::<io::Result<_>>()?)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _meta: &Meta, file: SnapshotFile) -> io::Result<()> {
        let machine = self.clone();
        off_thread(move || machine.install(file)).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>> {
        let machine = self.clone();
        let newest = off_thread(move || machine.0.snapshots.newest().map_err(io::Error::other)).await?;
        Ok(newest.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Entries of one transaction of the image.
const BATCH_MAX: usize = 1024;
