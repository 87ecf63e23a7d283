//! Snapshots: the whole state in one file, for members that are too far behind for the log.
//!
//! `RHUMBSNP`, the format's version (4 bytes), then frames: length (4), the first 8 bytes of the BLAKE3 of what
//! follows, and that many bytes. The first frame is a `SnapshotHead`, the others are length-delimited
//! `SnapshotRecord`s. A length of zero ends them; the count of records (8) and the BLAKE3 of everything before
//! (32) follow, and nothing else. Numbers are big endian.

use crate::damage::Damage;
use crate::image::{session_from_wire, session_to_wire};
use crate::wire::{Meta, meta};
use prost::Message;
use proto::v1;
use state::{Record, Session};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use types::intent::Stored;

/// The snapshots of one voter.
pub(crate) struct Snapshots {
    dir: PathBuf,
    unfinished: AtomicU64,
}

/// A snapshot in a file. An unfinished one goes with its value.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    is_kept: bool,
}

/// The state at one entry.
pub(crate) struct Content {
    pub head: v1::SnapshotHead,
    pub resources: Vec<Arc<Stored>>,
    pub sessions: Vec<Session>,
}

impl Snapshots {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        for file in std::fs::read_dir(dir)? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == UNFINISHED) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(Self { dir: dir.to_owned(), unfinished: AtomicU64::new(0) })
    }

    /// Those that are kept, newest first.
    pub(crate) fn kept(&self) -> io::Result<Vec<PathBuf>> {
        let files: io::Result<Vec<PathBuf>> =
            std::fs::read_dir(&self.dir)?.map(|file| Ok(file?.path())).collect();
        let mut files = files?;
        files.retain(|path| path.extension().is_some_and(|extension| extension == FINISHED));
        // Names begin with the index, in as many digits as there are.
        files.sort();
        files.reverse();
        Ok(files)
    }

    /// The newest one, proven whole.
    pub(crate) fn newest(&self) -> Result<Option<(Meta, SnapshotFile)>, Damage> {
        let kept = self.kept().map_err(|error| unreadable(&self.dir, 0, &error))?;
        let Some(path) = kept.into_iter().next() else { return Ok(None) };
        let (head, _) = read(&path)?;
        let meta = meta_of(&head).map_err(|what| Damage { file: path.clone(), offset: 0, what })?;
        Ok(Some((meta, SnapshotFile { path, is_kept: true })))
    }

    /// An empty file for a snapshot that is written or received.
    pub(crate) fn begin(&self) -> io::Result<(File, SnapshotFile)> {
        let number = self.unfinished.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{number}.{UNFINISHED}"));
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok((file, SnapshotFile { path, is_kept: false }))
    }

    pub(crate) fn write(&self, content: &Content) -> io::Result<SnapshotFile> {
        let (file, unfinished) = self.begin()?;
        let mut to = Hashing { to: BufWriter::new(file), hash: blake3::Hasher::new() };
        to.write_all(MAGIC)?;
        to.write_all(&VERSION.to_be_bytes())?;
        frame(&mut to, &content.head.encode_to_vec())?;
        let mut bytes = Vec::new();
        let mut count = 0_u64;
        let resources = content
            .resources
            .iter()
            .map(|stored| v1::snapshot_record::Record::Resource(stored.as_ref().into()));
        let sessions = content
            .sessions
            .iter()
            .map(|session| v1::snapshot_record::Record::Session(session_to_wire(session)));
        for record in resources.chain(sessions) {
            v1::SnapshotRecord { record: Some(record) }.encode_length_delimited(&mut bytes)?;
            count += 1;
            if bytes.len() >= FRAME_BYTES {
                frame(&mut to, &bytes)?;
                bytes.clear();
            }
        }
        if !bytes.is_empty() {
            frame(&mut to, &bytes)?;
        }
        to.write_all(&0_u32.to_be_bytes())?;
        to.write_all(&count.to_be_bytes())?;
        let hash = to.hash.finalize();
        to.to.write_all(hash.as_bytes())?;
        to.to.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        self.keep(unfinished, &content.head)
    }

    /// Keeps a file that was written and proven whole, and the one before it.
    pub(crate) fn keep(&self, mut file: SnapshotFile, head: &v1::SnapshotHead) -> io::Result<SnapshotFile> {
        let last = head.last.unwrap_or_default();
        let path = self.dir.join(format!("{:020}-{:020}.{FINISHED}", last.index, last.term));
        std::fs::rename(&file.path, &path)?;
        file.path = path;
        file.is_kept = true;
        File::open(&self.dir)?.sync_all()?;
        for old in self.kept()?.into_iter().skip(KEPT) {
            std::fs::remove_file(old)?;
        }
        Ok(file)
    }
}

impl SnapshotFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // What is left is removed at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

pub(crate) fn meta_of(head: &v1::SnapshotHead) -> Result<Meta, String> {
    meta(head.last.as_ref(), head.membership.as_ref()).map_err(|error| error.to_string())
}

/// Reads a whole snapshot and proves every byte of it.
pub(crate) fn read(path: &Path) -> Result<(v1::SnapshotHead, Vec<Record>), Damage> {
    let file = File::open(path).map_err(|error| unreadable(path, 0, &error))?;
    let mut from = Reading { path, from: BufReader::new(file), at: 0, hash: blake3::Hasher::new() };
    if from.take::<8>()? != *MAGIC {
        return Err(from.damage(0, "it is no snapshot"));
    }
    let version = u32::from_be_bytes(from.take()?);
    if version != VERSION {
        return Err(from.damage(8, &format!("its format {version} is not {VERSION}, or its head is damaged")));
    }
    let (at, bytes) = from.frame()?.ok_or_else(|| from.damage(12, "it has no head"))?;
    let head =
        v1::SnapshotHead::decode(bytes.as_slice()).map_err(|error| from.damage(at, &error.to_string()))?;
    let mut records = Vec::new();
    while let Some((at, bytes)) = from.frame()? {
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            let wire = v1::SnapshotRecord::decode_length_delimited(&mut bytes);
            let wire = wire.map_err(|error| from.damage(at, &error.to_string()))?;
            records.push(record(wire).map_err(|what| from.damage(at, &what))?);
        }
    }
    let at = from.at;
    let count = u64::from_be_bytes(from.take()?);
    if count != records.len() as u64 {
        return Err(from.damage(at, &format!("it has {} records, not {count}", records.len())));
    }
    let (at, hash) = (from.at, from.hash.finalize());
    if from.take::<32>()? != *hash.as_bytes() {
        return Err(from.damage(at, "its hash is not that of its bytes"));
    }
    let mut more = [0];
    match from.from.read(&mut more) {
        Ok(0) => Ok((head, records)),
        Ok(_) => Err(from.damage(from.at, "bytes follow its end")),
        Err(error) => Err(unreadable(path, from.at, &error)),
    }
}

fn record(wire: v1::SnapshotRecord) -> Result<Record, String> {
    match wire.record.ok_or("a record is of a newer release")? {
        v1::snapshot_record::Record::Resource(stored) => {
            Stored::try_from(stored).map(Record::Resource).map_err(|error| error.to_string())
        }
        v1::snapshot_record::Record::Session(session) => session_from_wire(&session).map(Record::Session),
    }
}

struct Hashing {
    to: BufWriter<File>,
    hash: blake3::Hasher,
}

impl Hashing {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.to.write_all(bytes)
    }
}

fn frame(to: &mut Hashing, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= FRAME_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("a record is too large for a snapshot"))?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(&check(bytes))?;
    to.write_all(bytes)
}

fn check(bytes: &[u8]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(bytes).as_bytes();
    [a, b, c, d, e, f, g, h]
}

struct Reading<'a> {
    path: &'a Path,
    from: BufReader<File>,
    at: u64,
    hash: blake3::Hasher,
}

impl Reading<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Where its bytes begin, and they; none at the end.
    fn frame(&mut self) -> Result<Option<(u64, Vec<u8>)>, Damage> {
        let at = self.at;
        let length = u32::from_be_bytes(self.take()?);
        if length == 0 {
            return Ok(None);
        }
        if length > FRAME_BYTES_MAX {
            return Err(self.damage(at, &format!("a length of {length} is too large")));
        }
        let expected: [u8; 8] = self.take()?;
        let at = self.at;
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        if check(&bytes) != expected {
            return Err(self.damage(at, "these bytes are not those that were written"));
        }
        Ok(Some((at, bytes)))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Damage> {
        self.from.read_exact(bytes).map_err(|error| unreadable(self.path, self.at, &error))?;
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn damage(&self, offset: u64, what: &str) -> Damage {
        Damage { file: self.path.to_owned(), offset, what: what.to_owned() }
    }
}

fn unreadable(path: &Path, offset: u64, error: &io::Error) -> Damage {
    let what = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        _ => format!("it cannot be read: {error}"),
    };
    Damage { file: path.to_owned(), offset, what }
}

const MAGIC: &[u8; 8] = b"RHUMBSNP";
const VERSION: u32 = 1;
const FINISHED: &str = "snapshot";
const UNFINISHED: &str = "unfinished";
/// The newest may just be sent when the next one is taken.
const KEPT: usize = 2;
const FRAME_BYTES: usize = 1 << 20;
/// A frame is closed after the record that fills it; a record is far below this.
const FRAME_BYTES_MAX: u32 = 16 << 20;
