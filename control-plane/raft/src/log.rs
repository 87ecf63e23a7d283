//! The log on disk: raft-log under openraft's storage trait.
//!
//! Appends, votes, truncations and purges go through one ordered file and are acknowledged after fdatasync. The
//! committed index rides on the next sync: losing it loses nothing, the leader says it again.

use crate::damage::{self, Damage};
use crate::wire::{Entry, LogId, Payload, TypeConfig, Vote, payload, payload_to_wire};
use bytes::Bytes;
use codeq::{Decode, Encode};
use openraft::OptionalSend;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::{Callback, RaftLog, Types};
use std::fmt::Debug;
use std::io::{self, Read};
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use tokio::sync::oneshot;

/// The log of one voter. Cheap to clone; the directory is locked until the last clone is gone.
#[derive(Clone)]
pub(crate) struct Log(Arc<RwLock<RaftLog<Format>>>);

#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Damaged(Damage),
    #[error("the log cannot be opened")]
    Io(#[source] io::Error),
}

impl Log {
    pub(crate) fn open(dir: &Path, chunk_bytes: usize) -> Result<Self, OpenError> {
        std::fs::create_dir_all(dir).map_err(OpenError::Io)?;
        damage::check_log(dir).map_err(OpenError::Damaged)?;
        let mut config = raft_log::Config::new(dir.display());
        // One proposal batch is in flight at a time, so waiting for more would only delay it.
        config.wal.flush_batch_wait = Some(Duration::ZERO);
        config.wal.chunk_max_size = Some(chunk_bytes);
        config.wal.read_buffer_size = Some(READ_BUFFER_BYTES);
        config.log_cache_capacity = Some(CACHE_BYTES);
        let log = RaftLog::open(Arc::new(config)).map_err(OpenError::Io)?;
        let log = Self(Arc::new(RwLock::new(log)));
        log.check_whole(dir).map_err(OpenError::Damaged)?;
        Ok(log)
    }

    /// The newest entry that was purged.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.read().log_state().purged().map(|id| log_id(*id))
    }

    /// A chunk that is gone leaves a log that seems to begin later than it says.
    fn check_whole(&self, dir: &Path) -> Result<(), Damage> {
        let log = self.read();
        let state = log.log_state();
        let (Some(last), first) = (state.last(), state.purged().map_or(0, |id| id.1 + 1)) else {
            return Ok(());
        };
        if last.1 >= first && log.read(first, first + 1).next().is_none() {
            return Err(Damage {
                file: dir.to_owned(),
                offset: 0,
                what: format!("entry {first} is not there, the first that was not purged"),
            });
        }
        Ok(())
    }

    /// Waits until what `change` appended is on disk.
    async fn synced(&self, change: impl FnOnce(&mut RaftLog<Format>) -> io::Result<()>) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        {
            let mut log = self.write();
            change(&mut log)?;
            log.flush(true, Some(Flushed::One(done)))?;
        }
        wait.await.map_err(|_| io::Error::other("the log's writer has ended"))?
    }

    // raft-log leaves itself whole or fails for good, whatever panicked around it.
    fn read(&self) -> RwLockReadGuard<'_, RaftLog<Format>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, RaftLog<Format>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        if from >= to {
            return Ok(Vec::new());
        }
        self.read().read(from, to).map(|entry| entry.and_then(decoded)).collect()
    }

    /// As many as fit into one message to a follower.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let log = self.read();
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for entry in log.read(start, end) {
            let (id, payload) = entry?;
            bytes += payload.data.len();
            entries.push(decoded((id, payload))?);
            if bytes >= READ_BYTES_MAX {
                break;
            }
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.read().log_state().vote().map(|((term, committed), node)| match committed {
            0 => Vote::new(*term, *node),
            _ => Vote::new_committed(*term, *node),
        }))
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = self.read();
        let last_purged_log_id = log.log_state().purged().map(|id| log_id(*id));
        let last = log.log_state().last().map(|id| log_id(*id));
        Ok(LogState { last_purged_log_id, last_log_id: last.max(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        // This order of the parts makes votes totally ordered, which raft-log asks for.
        let vote = ((vote.leader_id.term, u8::from(vote.committed)), vote.leader_id.voted_for);
        self.synced(|log| log.save_vote(vote).map(drop)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        match committed {
            Some(id) => self.write().commit(parts(&id)).map(drop),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.read().log_state().committed().map(|id| log_id(*id)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut log = self.write();
        log.append(entries.into_iter().map(|entry| {
            let id = parts(&entry.log_id());
            let (kind, data) = payload_to_wire(entry.payload);
            (id, Encoded { kind: kind as u8, data })
        }))?;
        log.flush(true, Some(Flushed::Raft(callback)))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |id| id.index + 1);
        if self.read().log_state().last().is_none_or(|last| last.1 < from) {
            return Ok(());
        }
        self.synced(|log| log.truncate(from).map(drop)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.synced(|log| log.purge(parts(&upto)).map(drop)).await
    }
}

fn parts(id: &LogId) -> (u64, u64) {
    (id.leader_id.term, id.index)
}

fn log_id((term, index): (u64, u64)) -> LogId {
    LogId::new_term_index(term, index)
}

fn decoded((id, encoded): ((u64, u64), Encoded)) -> io::Result<Entry> {
    let payload: Payload = payload(encoded.kind.into(), encoded.data).map_err(|error| {
        let text = format!("entry {} of the log cannot be read: {error}", id.1);
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    Ok(Entry::new(log_id(id), payload))
}

/// How raft-log keeps our entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Format;

impl Types for Format {
    /// Term and index.
    type LogId = (u64, u64);
    type LogPayload = Encoded;
    /// ((term, committed), node)
    type Vote = ((u64, u8), u64);
    type Callback = Flushed;
    type UserData = String;

    fn log_index(id: &(u64, u64)) -> u64 {
        id.1
    }

    fn payload_size(payload: &Encoded) -> u64 {
        payload.data.len() as u64 + ENTRY_OVERHEAD_BYTES
    }
}

/// One entry's payload: its kind (1), its length (4, big endian), both once more inverted (5), its bytes.
///
/// The second copy tells a damaged length from an entry that was not written to its end, which the checksum at the
/// end of a record cannot: with a damaged length, the end is somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub kind: u8,
    pub data: Bytes,
}

impl Encode for Encoded {
    fn encode<W: io::Write>(&self, mut to: W) -> io::Result<usize> {
        let length = u32::try_from(self.data.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "an entry is larger than 4 GiB"))?;
        let [a, b, c, d] = length.to_be_bytes();
        to.write_all(&[self.kind, a, b, c, d, !self.kind, !a, !b, !c, !d])?;
        to.write_all(&self.data)?;
        Ok(HEAD_BYTES + self.data.len())
    }
}

impl Decode for Encoded {
    fn decode<R: io::Read>(mut from: R) -> io::Result<Self> {
        let mut head = [0; HEAD_BYTES];
        from.read_exact(&mut head)?;
        let [kind, a, b, c, d, inverted @ ..] = head;
        if inverted != [!kind, !a, !b, !c, !d] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the head of an entry is damaged"));
        }
        let mut data = Vec::new();
        let length = u32::from_be_bytes([a, b, c, d]);
        // Grows as bytes come, so that no length makes us reserve what is not there.
        if from.by_ref().take(length.into()).read_to_end(&mut data)? < length as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { kind, data: data.into() })
    }
}

/// Whom to tell that bytes are on disk.
pub(crate) enum Flushed {
    Raft(IOFlushed<TypeConfig>),
    One(oneshot::Sender<io::Result<()>>),
}

impl Callback for Flushed {
    fn send(self, result: io::Result<()>) {
        match self {
            Self::Raft(callback) => callback.io_completed(result),
            // Whoever waited is gone with its operation.
            Self::One(wait) => drop(wait.send(result)),
        }
    }
}

const HEAD_BYTES: usize = 10;
/// For the cache's count of what an entry takes besides its bytes.
const ENTRY_OVERHEAD_BYTES: u64 = 64;
/// Purging frees whole chunks, and the newest chunk's entries stay in memory: small, for a process of a few tens of
/// megabytes.
pub(crate) const CHUNK_BYTES: usize = 8 << 20;
const CACHE_BYTES: usize = 16 << 20;
const READ_BUFFER_BYTES: usize = 1 << 20;
/// One message to a follower holds at most this and one entry more.
const READ_BYTES_MAX: usize = 4 << 20;
