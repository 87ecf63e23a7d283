//! The state's durable image: what is left for the log to replay after a crash is only what came after it.
//!
//! Every applied batch is one transaction, which holds the applied entry's id too. It is made durable at intervals
//! and before the log is purged; a crash in between falls back to the last durable one.

use crate::damage::Damage;
use prost::Message;
use proto::v1;
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};
use state::{Event, Record, Session, State, Written};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tracing::warn;
use types::intent::{ClientId, Revision, Stored};

pub(crate) struct Image {
    path: PathBuf,
    database: Database,
    durable_at: Instant,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    Damaged(Damage),
    #[error("{} cannot be used", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What an image held when it was opened; none when it is new.
pub(crate) type Held = Option<(v1::SnapshotHead, Vec<Record>)>;

impl Image {
    pub(crate) fn open(path: &Path) -> Result<(Self, Held), OpenError> {
        let opened = std::panic::catch_unwind(|| Self::open_checked(path));
        // What redb asserts of a file, a damaged file breaks.
        opened.unwrap_or_else(|_| Err(damaged(path, "its structure is inconsistent")))
    }

    fn open_checked(path: &Path) -> Result<(Self, Held), OpenError> {
        let is_new = !path.exists();
        let mut builder = Database::builder();
        let builder = builder.set_cache_size(CACHE_BYTES);
        let mut database = if is_new {
            Self::make(builder, path).map_err(|source| OpenError::Io { path: path.to_owned(), source })?
        } else {
            builder.create(path).map_err(|error| open_error(path, error))?
        };
        if !is_new {
            match database.check_integrity() {
                Ok(true) => {}
                // It went back to a state that it proved whole; the log replays the rest.
                Ok(false) => warn!(file = %path.display(), "the image was repaired"),
                Err(error) => return Err(open_error(path, error)),
            }
        }
        let image = Self { path: path.to_owned(), database, durable_at: Instant::now() };
        let held = image.read().map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => damaged(path, &error.to_string()),
            _ => OpenError::Io { path: path.to_owned(), source: error },
        })?;
        Ok((image, held))
    }

    /// Under another name until it is one: redb takes what a crash leaves of a new file for damage.
    fn make(builder: &redb::Builder, path: &Path) -> io::Result<Database> {
        let unfinished = path.with_extension(UNFINISHED);
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let database = builder.create(&unfinished).map_err(io_error)?;
        std::fs::rename(&unfinished, path)?;
        if let Some(dir) = path.parent() {
            std::fs::File::open(dir)?.sync_all()?;
        }
        Ok(database)
    }

    fn read(&self) -> io::Result<Held> {
        let transaction = self.database.begin_read().map_err(io_error)?;
        let heads = match transaction.open_table(HEAD) {
            Ok(heads) => heads,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(io_error(error)),
        };
        let Some(head) = heads.get(HEAD_KEY).map_err(io_error)? else { return Ok(None) };
        let head = v1::SnapshotHead::decode(head.value()).map_err(invalid)?;
        let resources = transaction.open_table(RESOURCES).map_err(io_error)?;
        let sessions = transaction.open_table(SESSIONS).map_err(io_error)?;
        let count = resources.len().map_err(io_error)? + sessions.len().map_err(io_error)?;
        let mut records = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        for row in resources.iter().map_err(io_error)? {
            let (id, stored) = row.map_err(io_error)?;
            let stored = v1::Stored::decode(stored.value()).map_err(invalid)?;
            let stored = Stored::try_from(stored).map_err(invalid)?;
            if stored.resource.id().to_string() != id.value() {
                return Err(invalid(format!("{} is kept as {}", stored.resource.id(), id.value())));
            }
            records.push(Record::Resource(stored));
        }
        for row in sessions.iter().map_err(io_error)? {
            let (_, session) = row.map_err(io_error)?;
            let session = v1::Session::decode(session.value()).map_err(invalid)?;
            records.push(Record::Session(session_from_wire(&session).map_err(invalid)?));
        }
        Ok(Some((head, records)))
    }

    /// Follows one applied batch.
    pub(crate) fn write<'a>(
        &mut self,
        written: impl Iterator<Item = &'a Written>,
        head: &v1::SnapshotHead,
    ) -> io::Result<()> {
        let is_durable = self.durable_at.elapsed() >= DURABLE_EVERY;
        let transaction = self.begin(is_durable)?;
        {
            let mut resources = transaction.open_table(RESOURCES).map_err(io_error)?;
            let mut sessions = transaction.open_table(SESSIONS).map_err(io_error)?;
            for written in written {
                for event in &written.events {
                    match event {
                        Event::Put(stored) => {
                            let id = stored.resource.id().to_string();
                            let bytes = v1::Stored::from(stored.as_ref()).encode_to_vec();
                            resources.insert(id.as_str(), bytes.as_slice()).map_err(io_error)?;
                        }
                        Event::Delete(id) => {
                            resources.remove(id.to_string().as_str()).map_err(io_error)?;
                        }
                    }
                }
                let session = session_to_wire(&written.session);
                sessions
                    .insert(session.client.as_ref(), session.encode_to_vec().as_slice())
                    .map_err(io_error)?;
                if let Some(forgotten) = written.forgotten {
                    sessions.remove(forgotten.0.as_slice()).map_err(io_error)?;
                }
            }
        }
        self.finish(transaction, head, is_durable)
    }

    /// Replaces everything, durably.
    pub(crate) fn replace(&mut self, state: &State, head: &v1::SnapshotHead) -> io::Result<()> {
        let transaction = self.begin(true)?;
        transaction.delete_table(RESOURCES).map_err(io_error)?;
        transaction.delete_table(SESSIONS).map_err(io_error)?;
        {
            let mut resources = transaction.open_table(RESOURCES).map_err(io_error)?;
            for stored in state.resources() {
                let bytes = v1::Stored::from(stored.as_ref()).encode_to_vec();
                resources
                    .insert(stored.resource.id().to_string().as_str(), bytes.as_slice())
                    .map_err(io_error)?;
            }
            let mut sessions = transaction.open_table(SESSIONS).map_err(io_error)?;
            for session in state.sessions() {
                let session = session_to_wire(&session);
                sessions
                    .insert(session.client.as_ref(), session.encode_to_vec().as_slice())
                    .map_err(io_error)?;
            }
        }
        self.finish(transaction, head, true)
    }

    /// Makes durable what was written so far.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        let transaction = self.begin(true)?;
        transaction.commit().map_err(io_error)?;
        self.durable_at = Instant::now();
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn begin(&self, is_durable: bool) -> io::Result<WriteTransaction> {
        let mut transaction = self.database.begin_write().map_err(io_error)?;
        let durability = if is_durable { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).map_err(io_error)?;
        Ok(transaction)
    }

    fn finish(
        &mut self,
        transaction: WriteTransaction,
        head: &v1::SnapshotHead,
        is_durable: bool,
    ) -> io::Result<()> {
        transaction
            .open_table(HEAD)
            .map_err(io_error)?
            .insert(HEAD_KEY, head.encode_to_vec().as_slice())
            .map_err(io_error)?;
        transaction.commit().map_err(io_error)?;
        if is_durable {
            self.durable_at = Instant::now();
        }
        Ok(())
    }
}

pub(crate) fn session_to_wire(session: &Session) -> v1::Session {
    v1::Session {
        client: session.client.0.to_vec().into(),
        sequence: session.sequence,
        revision: session.revision.0,
    }
}

pub(crate) fn session_from_wire(wire: &v1::Session) -> Result<Session, String> {
    let client = wire.client.as_ref().try_into();
    let client = client.map_err(|_| format!("a client has {} bytes, not 16", wire.client.len()))?;
    Ok(Session { client: ClientId(client), sequence: wire.sequence, revision: Revision(wire.revision) })
}

fn open_error(path: &Path, error: redb::DatabaseError) -> OpenError {
    match error {
        redb::DatabaseError::Storage(redb::StorageError::Io(source))
            if source.kind() != io::ErrorKind::InvalidData
                && source.kind() != io::ErrorKind::UnexpectedEof =>
        {
            OpenError::Io { path: path.to_owned(), source }
        }
        error => damaged(path, &error.to_string()),
    }
}

/// redb proves a page wrong by its parents and says no offset.
fn damaged(path: &Path, what: &str) -> OpenError {
    OpenError::Damaged(Damage { file: path.to_owned(), offset: 0, what: what.to_owned() })
}

fn io_error(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        error @ redb::Error::Corrupted(_) => invalid(error),
        error => io::Error::other(error),
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

const RESOURCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("resources");
const SESSIONS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("sessions");
const HEAD: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("head");
const HEAD_KEY: &str = "head";
const UNFINISHED: &str = "unfinished";
/// A restart replays at most this much of the log, and a quiet voter writes nothing.
const DURABLE_EVERY: Duration = Duration::from_secs(5);
/// Written pages stay in it until they are durable; reads come from memory anyway.
const CACHE_BYTES: usize = 8 << 20;
