//! What is checked of the log before anything believes it.
//!
//! raft-log cuts whatever seems to end too early. A damaged length or type makes the same impression and would cut
//! acknowledged entries with it, so a record that ends too early is believed unfinished only after trying to find
//! it, or anything after it, whole.

use crate::log::Format;
use codeq::Decode;
use raft_log::chunked_wal::Config;
use raft_log::{RaftWalTypes, WALRecord};
use std::io;
use std::path::{Path, PathBuf};
use tracing::warn;

/// Bytes that cannot be what was written.
#[derive(Debug, thiserror::Error)]
#[error("{} is damaged at byte {offset}: {what}", file.display())]
pub struct Damage {
    pub file: PathBuf,
    pub offset: u64,
    pub what: String,
}

type Record = WALRecord<RaftWalTypes<Format>>;

/// Reads every record of every chunk. An unfinished end is left for raft-log to cut, with a warning.
pub(crate) fn check_log(dir: &Path) -> Result<(), Damage> {
    let unreadable = |error: io::Error| Damage {
        file: dir.to_owned(),
        offset: 0,
        what: format!("it cannot be read: {error}"),
    };
    let mut chunks = Vec::new();
    for file in std::fs::read_dir(dir).map_err(unreadable)? {
        let file = file.map_err(unreadable)?;
        if let Ok(start) = Config::parse_chunk_file_name(&file.file_name().to_string_lossy()) {
            chunks.push((start, file.path()));
        }
    }
    chunks.sort();
    // A chunk's file is made at once, and bytes are written in their order: nothing is in it before the chunk ahead
    // of it is whole and synced. raft-log removes it.
    while let [.., _, (_, path)] = chunks.as_slice()
        && std::fs::metadata(path).map_err(unreadable)?.len() == 0
    {
        warn!(file = %path.display(), "a chunk that was never written to is left out");
        chunks.pop();
    }
    let mut expected = None;
    for (at, (start, path)) in chunks.iter().enumerate() {
        if let Some(expected) = expected.filter(|expected| expected != start) {
            let what =
                format!("the file before it ends at {expected} of the log, and this one begins at {start}");
            return Err(Damage { file: path.clone(), offset: 0, what });
        }
        let bytes = std::fs::read(path).map_err(|error| Damage {
            file: path.clone(),
            offset: 0,
            what: format!("it cannot be read: {error}"),
        })?;
        let whole = check_chunk(path, &bytes)?;
        if whole < bytes.len() || bytes.is_empty() {
            // A crash between making a chunk and writing into it leaves the one before it whole.
            if at + 1 < chunks.len() {
                let what = "it ends within a record, and newer files follow".to_owned();
                return Err(Damage { file: path.clone(), offset: whole as u64, what });
            }
            let cut = bytes.len() - whole;
            warn!(file = %path.display(), offset = whole, cut, "the last record was not finished and is cut");
        }
        expected = Some(start + whole as u64);
    }
    Ok(())
}

/// Returns where the last whole record ends.
fn check_chunk(path: &Path, bytes: &[u8]) -> Result<usize, Damage> {
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        match record(rest) {
            Ok(length) => at += length,
            // The file grew, and what it should hold never came.
            Err(_) if rest.iter().all(|byte| *byte == 0) => return Ok(at),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && is_unfinished(rest) => {
                return Ok(at);
            }
            Err(error) => {
                return Err(Damage { file: path.to_owned(), offset: at as u64, what: error.to_string() });
            }
        }
    }
    Ok(at)
}

/// The length of the record that begins here.
pub(crate) fn record(bytes: &[u8]) -> io::Result<usize> {
    let mut rest = bytes;
    Record::decode(&mut rest)?;
    Ok(bytes.len() - rest.len())
}

/// Whether bytes that seem to end too early are no more than the beginning of one record.
fn is_unfinished(rest: &[u8]) -> bool {
    let follows = (1..rest.len()).any(|at| may_begin_here(&rest[at..]) && record(&rest[at..]).is_ok());
    !follows && !is_whole_but_for_one_byte(rest)
}

fn may_begin_here(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 0, 0, 0..=TYPE_MAX, _, ..])
}

/// Whether some other value of one byte makes this a whole record. An entry's head has its own copy, so that a long
/// record is in doubt for its type alone; all other records are short.
fn is_whole_but_for_one_byte(rest: &[u8]) -> bool {
    let mut changed = rest.to_vec();
    let doubtful = if rest.len() <= SHORT_BYTES_MAX { rest.len() } else { TYPE_BYTES.min(rest.len()) };
    (0..doubtful).any(|at| {
        let before = changed[at];
        let found = (0..=u8::MAX).any(|value| {
            changed[at] = value;
            record(&changed).is_ok()
        });
        changed[at] = before;
        found
    })
}

/// raft-log's record types are 0 to 5.
const TYPE_MAX: u8 = 5;
const TYPE_BYTES: usize = 4;
/// Above any record that is no entry.
const SHORT_BYTES_MAX: usize = 256;
