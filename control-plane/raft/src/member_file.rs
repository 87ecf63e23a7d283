//! What a data directory says of whose it is: `member.toml`, written once, and one process at a time.

use crate::StartError;
use crate::standing::Boot;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberFile {
    cluster: String,
    id: u64,
    /// Of the files beside it.
    format: u32,
}

pub(crate) fn create(data: &Path, cluster: &str, id: u64) -> Result<(), StartError> {
    let error = |source| StartError::File { path: data.to_owned(), source };
    std::fs::create_dir_all(data).map_err(error)?;
    for file in std::fs::read_dir(data).map_err(error)? {
        // What an earlier try left, that did not come to its end.
        if file.map_err(error)?.file_name() != unfinished(NAME).as_str() {
            return Err(StartError::NotEmpty { data: data.to_owned() });
        }
    }
    let file = MemberFile { cluster: cluster.to_owned(), id, format: FORMAT };
    let text = toml::to_string(&file).expect("two numbers and a text are TOML");
    write(data, NAME, &text).map_err(error)
}

/// Refuses a directory that is not this voter's.
pub(crate) fn check(data: &Path, cluster: &str, id: u64) -> Result<(), StartError> {
    let path = data.join(NAME);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StartError::NotCreated { data: data.to_owned(), id });
        }
        Err(source) => return Err(StartError::File { path, source }),
    };
    let file: MemberFile = toml::from_str(&text)
        .map_err(|error| StartError::MemberFile { path: path.clone(), what: error.message().to_owned() })?;
    if file.format != FORMAT {
        let what = format!("its format is {}, and this release reads {FORMAT}", file.format);
        return Err(StartError::MemberFile { path, what });
    }
    if file.cluster != cluster || file.id != id {
        return Err(StartError::OtherMember { path, cluster: file.cluster, id: file.id });
    }
    Ok(())
}

/// Keeps a second process out for as long as the file is open.
pub(crate) fn lock(data: &Path) -> Result<File, StartError> {
    let path = data.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|source| StartError::File { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse { data: data.to_owned() }),
        Err(TryLockError::Error(source)) => Err(StartError::File { path, source }),
    }
}

/// This start, later than every one before it even where the clock went back.
pub(crate) fn boot(data: &Path, now_unix_ms: u64, random: u64) -> Result<Boot, StartError> {
    let path = data.join(BOOT);
    let before: Option<Boot> = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(StartError::File { path, source }),
    };
    let unix_ms = before.map_or(now_unix_ms, |before| now_unix_ms.max(before.unix_ms + 1));
    let boot = Boot { unix_ms, random };
    write(data, BOOT, &format!("{boot}\n")).map_err(|source| StartError::File { path, source })?;
    Ok(boot)
}

/// Through a second file and a rename, so that it is there whole or not at all.
fn write(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let unfinished = dir.join(unfinished(name));
    let mut file = File::create(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(unfinished, dir.join(name))?;
    File::open(dir)?.sync_all()
}

fn unfinished(name: &str) -> String {
    format!("{name}.unfinished")
}

const NAME: &str = "member.toml";
const BOOT: &str = "boot";
const FORMAT: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_one_members_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        assert!(matches!(check(&data, "c1", 1), Err(StartError::NotCreated { .. })));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("member.toml.unfinished"), "clus").unwrap();
        create(&data, "c1", 1).expect("a crash while it was made is made good");
        check(&data, "c1", 1).unwrap();
        assert!(matches!(check(&data, "c1", 2), Err(StartError::OtherMember { id: 1, .. })));
        assert!(matches!(check(&data, "c2", 1), Err(StartError::OtherMember { .. })));
        assert!(matches!(create(&data, "c1", 1), Err(StartError::NotEmpty { .. })));
        std::fs::write(data.join(NAME), "cluster = \"c1\"\nid = 1\nformat = 2\n").unwrap();
        assert!(matches!(check(&data, "c1", 1), Err(StartError::MemberFile { .. })));
    }

    #[test]
    fn a_start_is_later_than_the_one_before_whatever_the_clock_says() {
        let dir = tempfile::tempdir().unwrap();
        let first = boot(dir.path(), 1_000, 7).unwrap();
        let second = boot(dir.path(), 10, 3).unwrap();
        assert!(second > first);
        assert_eq!(boot(dir.path(), 5_000, 3).unwrap(), Boot { unix_ms: 5_000, random: 3 });
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(matches!(lock(dir.path()), Err(StartError::InUse { .. })));
        drop(held);
        lock(dir.path()).unwrap();
    }
}
