//! What a sandbox must have to itself: its data directory, its subnet, its ports.
//!
//! Locks are the kernel's (`flock`): they end with the process that holds them, however it ends. The process id
//! in a lock file is only for people to read.

use crate::sandbox::layout::Layout;
use crate::sandbox::paths::Paths;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Which 127.N.*.* to live in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subnet {
    Number(u8),
    /// The first free one above 0, which stays with who asks for nothing.
    Auto,
}

/// Held for as long as the sandbox lives.
#[derive(Debug)]
pub struct Claim {
    lock: File,
    path: PathBuf,
}

/// Who holds a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Absent in the instant between taking the lock and writing the id.
    pub pid: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "a sandbox already runs on {} ({}); stop it with `rhumb down`, or give this one another `--data`",
        data.display(),
        process(*pid)
    )]
    AlreadyRuns { data: PathBuf, pid: Option<u32> },
    #[error("another sandbox holds the addresses 127.{subnet}.*.*; choose others with `--subnet auto`")]
    SubnetTaken { subnet: u8 },
    #[error(
        "{address} is in use by another program; choose other addresses with `--subnet auto`, or stop that \
         program (`ss -ltnp src {address}` names it)"
    )]
    PortBusy { address: SocketAddr },
    #[error("no subnet from 1 to {SUBNET_MAX} is free; stop a sandbox with `rhumb down`")]
    NoSubnet,
    #[error("cannot listen on {address}; a sandbox needs Linux, where all of 127.0.0.0/8 is the loopback")]
    CannotListen { address: SocketAddr, source: io::Error },
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
}

/// Takes the data directory.
pub fn data(paths: &Paths) -> Result<Claim, ClaimError> {
    let path = paths.lock();
    let failed = |source| ClaimError::Lock { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            // Another command may be looking, by trying the lock, whether somebody holds it.
            Err(TryLockError::WouldBlock) if started.elapsed() < LOOK_MAX => {
                std::thread::sleep(RETRY);
            }
            Err(TryLockError::WouldBlock) => {
                let data = paths.data().to_owned();
                return Err(ClaimError::AlreadyRuns { data, pid: written_pid(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(Claim { lock: file, path })
}

impl Claim {
    /// False once the locked file was removed or replaced: nobody can find its holder any more.
    pub fn is_visible(&self) -> bool {
        let same = |kept: Metadata, found: Metadata| (kept.dev(), kept.ino()) == (found.dev(), found.ino());
        match (self.lock.metadata(), self.path.metadata()) {
            (Ok(kept), Ok(found)) => same(kept, found),
            (_, found) => !found.is_err_and(|error| error.kind() == ErrorKind::NotFound),
        }
    }
}

/// Who holds the data directory now, if anybody does.
pub fn holder(paths: &Paths) -> io::Result<Option<Holder>> {
    let mut file = match File::open(paths.lock()) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(Holder { pid: written_pid(&mut file) })),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Takes a subnet and sees that the ports of the layout there are free. `Auto` looks first where the sandbox was.
pub fn subnet(
    wanted: Subnet,
    kept: Option<u8>,
    layout: impl Fn(u8) -> Layout,
) -> Result<(u8, Claim), ClaimError> {
    let number = match wanted {
        Subnet::Number(number) => number,
        Subnet::Auto => {
            for number in kept.into_iter().chain(1..=SUBNET_MAX) {
                let Some(claim) = subnet_lock(number)? else { continue };
                match ports_are_free(&layout(number)) {
                    Ok(()) => return Ok((number, claim)),
                    Err(ClaimError::PortBusy { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            return Err(ClaimError::NoSubnet);
        }
    };
    let claim = subnet_lock(number)?.ok_or(ClaimError::SubnetTaken { subnet: number })?;
    let started = Instant::now();
    loop {
        match ports_are_free(&layout(number)) {
            Ok(()) => return Ok((number, claim)),
            // The processes of a sandbox that was killed a moment ago may still be on their way out.
            Err(ClaimError::PortBusy { .. }) if started.elapsed() < LEAVING_MAX => std::thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
}

impl FromStr for Subnet {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Number).map_err(|_| "a subnet is a number from 0 to 255, or auto"),
        }
    }
}

/// None = somebody else has it. The file is shared by all users of the host and never written to.
fn subnet_lock(number: u8) -> Result<Option<Claim>, ClaimError> {
    let path = std::env::temp_dir().join(format!("rhumb-subnet-{number}.lock"));
    let file = open_shared(&path).map_err(|source| ClaimError::Lock { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Claim { lock: file, path })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(ClaimError::Lock { path, source }),
    }
}

fn open_shared(path: &Path) -> io::Result<File> {
    // Reading is enough for a lock, and is all that is allowed when another user made the file.
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        opened => return opened,
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => File::open(path),
        made => made,
    }
}

fn ports_are_free(layout: &Layout) -> Result<(), ClaimError> {
    layout.listeners().into_iter().try_for_each(|address| match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Err(ClaimError::PortBusy { address }),
        Err(source) => Err(ClaimError::CannotListen { address, source }),
    })
}

fn written_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(PID_CHARS_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(|| "its process is just starting".to_owned(), |pid| format!("process {pid}"))
}

const SUBNET_MAX: u8 = 255;
const PID_CHARS_MAX: u64 = 16;
const RETRY: Duration = Duration::from_millis(20);
/// Looking at a lock takes microseconds; this is for a host that is busy elsewhere.
const LOOK_MAX: Duration = Duration::from_millis(200);
/// A role leaves as soon as its lifeline ends; its engines a moment later.
const LEAVING_MAX: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path().to_owned());
        assert_eq!(holder(&paths).unwrap(), None);
        let claim = data(&paths).unwrap();
        let me = std::process::id();
        assert_eq!(holder(&paths).unwrap(), Some(Holder { pid: Some(me) }));
        assert!(matches!(data(&paths), Err(ClaimError::AlreadyRuns { pid, .. }) if pid == Some(me)));
        drop(claim);
        assert_eq!(holder(&paths).unwrap(), None, "the file alone holds nothing");
        data(&paths).unwrap();
    }

    #[test]
    fn a_claim_is_lost_with_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path().to_owned());
        let claim = data(&paths).unwrap();
        assert!(claim.is_visible());
        std::fs::remove_file(paths.lock()).unwrap();
        assert!(!claim.is_visible());
        let another = data(&paths).unwrap();
        assert!(another.is_visible() && !claim.is_visible());
    }

    #[test]
    fn subnets_are_numbers_or_auto() {
        assert_eq!("auto".parse(), Ok(Subnet::Auto));
        assert_eq!("255".parse(), Ok(Subnet::Number(255)));
        for bad in ["256", "-1", "", "first"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
