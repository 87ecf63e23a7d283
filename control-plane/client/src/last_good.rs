//! The last good pictures on disk, so that a process can start while nobody answers.
//!
//! `good-<number>.picture`, the newest few, and `golden.picture`, the last one that served for long. Beside each may
//! lie `<name>.trials`: how often the picture was taken up by a process that has not been seen to live with it.

use crate::follow::Interest;
use crate::picture::Picture;
use prost::Message;
use proto::{BadMessage, v1};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use types::intent::{Incarnation, Position, Revision, Stored};

/// One directory of pictures of one interest.
#[derive(Debug, Clone)]
pub(crate) struct LastGood {
    dir: PathBuf,
    cluster: String,
    kinds: Vec<String>,
    region: Option<String>,
}

/// A picture that was taken from disk and has yet to prove itself.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    trials: PathBuf,
    before: u32,
}

/// Why a file is no picture for us.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadFile {
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    #[error("it is no picture, or of another format")]
    Header,
    #[error("it is truncated or damaged")]
    Damaged,
    #[error("it cannot be decoded")]
    Decode(#[from] prost::DecodeError),
    #[error("it is of another cluster, or of another interest")]
    Foreign,
    #[error("a resource in it cannot be believed: {0}")]
    Resource(#[from] BadMessage),
    #[error("{0} starts with it have ended badly")]
    Crashed(u32),
}

/// What a file holds after magic, format and checksum. Field numbers are for ever.
#[derive(Clone, PartialEq, Message)]
struct Content {
    #[prost(string, tag = "1")]
    cluster: String,
    #[prost(string, repeated, tag = "2")]
    kinds: Vec<String>,
    #[prost(string, optional, tag = "3")]
    region: Option<String>,
    #[prost(uint64, tag = "4")]
    incarnation: u64,
    #[prost(uint64, tag = "5")]
    revision: u64,
    #[prost(uint64, tag = "6")]
    shrink_revision: u64,
    #[prost(message, repeated, tag = "7")]
    resources: Vec<v1::Stored>,
}

/// Keeps a picture as the newest good one of an interest, as a follower does once it is in use.
pub fn store(dir: &Path, interest: &Interest, picture: &Picture) -> io::Result<()> {
    LastGood::open(dir, interest)?.store(picture)
}

impl LastGood {
    pub(crate) fn open(dir: &Path, interest: &Interest) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut kinds: Vec<_> = interest.kinds.iter().map(ToString::to_string).collect();
        kinds.sort();
        let region = interest.region.as_ref().map(ToString::to_string);
        Ok(Self { dir: dir.to_owned(), cluster: interest.cluster.clone(), kinds, region })
    }

    /// All files that may hold a picture, in the order in which they are tried.
    pub(crate) fn candidates(&self) -> io::Result<Vec<PathBuf>> {
        let mut numbers = self.numbers()?;
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        let mut paths: Vec<_> = numbers.into_iter().map(|number| self.good(number)).collect();
        let golden = self.dir.join(GOLDEN);
        if golden.exists() {
            paths.push(golden);
        }
        Ok(paths)
    }

    /// Reads a candidate and, before it is used, notes durably that it is being tried.
    ///
    /// A picture that kills its process cannot say so. It is known by the note that nobody lived to take back, and
    /// after two such ends the next older one is tried: an endless loop of crashes would be worse than an old picture.
    /// With `is_last_resort` it is tried all the same: no picture at all would be worse still.
    pub(crate) fn attempt(&self, path: &Path, is_last_resort: bool) -> Result<(Picture, Trial), BadFile> {
        let picture = self.read(path)?;
        let trials = path.with_extension("trials");
        // An unreadable note is none: it must not stand between a process and its picture.
        let before =
            std::fs::read_to_string(&trials).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        if before >= TRIALS_MAX && !is_last_resort {
            return Err(BadFile::Crashed(before));
        }
        let trial = Trial { trials, before };
        if let Err(error) = trial.note(before.saturating_add(1)) {
            tracing::warn!(file = %trial.trials.display(), %error, "cannot note that a picture is tried");
        }
        Ok((picture, trial))
    }

    pub(crate) fn store(&self, picture: &Picture) -> io::Result<()> {
        let mut numbers = self.numbers()?;
        numbers.sort_unstable();
        let next = numbers.last().map_or(1, |last| last.saturating_add(1));
        self.write(&self.good(next), picture)?;
        let surplus = (numbers.len() + 1).saturating_sub(GOOD_MAX);
        for number in &numbers[..surplus] {
            let path = self.good(*number);
            if let Err(error) = remove(&path) {
                tracing::warn!(file = %path.display(), %error, "an old picture cannot be removed");
                continue;
            }
            let _ = std::fs::remove_file(path.with_extension("trials"));
        }
        Ok(())
    }

    /// Only for a picture that has served for long: it is the last resort, and replaces the one before.
    pub(crate) fn store_golden(&self, picture: &Picture) -> io::Result<()> {
        let path = self.dir.join(GOLDEN);
        self.write(&path, picture)?;
        remove(&path.with_extension("trials"))
    }

    fn read(&self, path: &Path) -> Result<Picture, BadFile> {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        let rest = bytes.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(&FORMAT.to_le_bytes()));
        let (checksum, content) =
            rest.ok_or(BadFile::Header)?.split_at_checked(blake3::OUT_LEN).ok_or(BadFile::Damaged)?;
        if blake3::hash(content).as_bytes() != checksum {
            return Err(BadFile::Damaged);
        }
        let content = Content::decode(content)?;
        if content.cluster != self.cluster || content.kinds != self.kinds || content.region != self.region {
            return Err(BadFile::Foreign);
        }
        let position =
            Position { incarnation: Incarnation(content.incarnation), revision: Revision(content.revision) };
        let resources: Result<Vec<_>, _> = content.resources.into_iter().map(Stored::try_from).collect();
        Ok(Picture::new(position, Revision(content.shrink_revision), resources?))
    }

    fn write(&self, path: &Path, picture: &Picture) -> io::Result<()> {
        let content = Content {
            cluster: self.cluster.clone(),
            kinds: self.kinds.clone(),
            region: self.region.clone(),
            incarnation: picture.position.incarnation.0,
            revision: picture.position.revision.0,
            shrink_revision: picture.shrink_revision.0,
            resources: picture.resources().map(|stored| stored.as_ref().into()).collect(),
        };
        let content = content.encode_to_vec();
        write_durably(path, &[MAGIC, &FORMAT.to_le_bytes(), blake3::hash(&content).as_bytes(), &content])
    }

    fn good(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{GOOD}{number:020}{PICTURE}"))
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        let number = |entry: io::Result<std::fs::DirEntry>| {
            let name = match entry {
                Ok(entry) => entry.file_name(),
                Err(error) => return Some(Err(error)),
            };
            let number = name.to_str()?.strip_prefix(GOOD)?.strip_suffix(PICTURE)?;
            number.parse().ok().map(Ok)
        };
        std::fs::read_dir(&self.dir)?.filter_map(number).collect()
    }
}

impl Trial {
    /// The picture was not used after all.
    pub(crate) fn withdraw(self) -> io::Result<()> {
        if self.before == 0 { remove(&self.trials) } else { self.note(self.before) }
    }

    /// The process lives with it.
    pub(crate) fn passed(&self) -> io::Result<()> {
        remove(&self.trials)
    }

    fn note(&self, trials: u32) -> io::Result<()> {
        write_durably(&self.trials, &[trials.to_string().as_bytes()])
    }
}

fn write_durably(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let mut file = File::create(&unfinished)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    // Without this the rename itself may be forgotten.
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

const GOOD: &str = "good-";
const PICTURE: &str = ".picture";
const GOLDEN: &str = "golden.picture";
const GOOD_MAX: usize = 5;
const TRIALS_MAX: u32 = 2;
const MAGIC: &[u8] = b"RHUMBPIC";
const FORMAT: u32 = 1;
/// Twice what a member may send at once; a larger file is none of ours.
const FILE_BYTES_MAX: u64 = 128 << 20;

#[cfg(test)]
mod tests;
