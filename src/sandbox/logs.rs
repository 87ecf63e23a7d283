//! `rhumb logs`: what the processes of a region wrote, and what they go on to write.

use crate::sandbox::layout::{Layout, Member, Role};
use crate::sandbox::paths::Paths;
use crate::say::say;
use crate::stdout::{self, Reader};
use anyhow::Context;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;
use types::RegionName;

/// Whose log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    Role(Role),
    /// All engines of the region.
    Engines,
}

pub fn show(paths: &Paths, writer: Writer, region: &RegionName, follow: bool) -> anyhow::Result<()> {
    let mut tails = BTreeMap::new();
    loop {
        for path in files(paths, writer, region)? {
            tails.entry(path.clone()).or_insert_with(|| Tail::new(path, writer));
        }
        if tails.is_empty() && !follow {
            say!("nothing has been written yet");
        }
        for tail in tails.values_mut() {
            if tail.print(follow)? == Reader::Gone {
                return Ok(());
            }
        }
        if !follow {
            return Ok(());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A problem with a part, and what the part itself said last.
pub fn explain(paths: &Paths, member: &Member, problem: &str) -> String {
    let mut told = problem.to_owned();
    for log in blamed(paths, member) {
        told += &format!("\n  the last lines of {}:", log.display());
        for line in last_lines(&log, LINES_SHOWN) {
            told += &format!("\n    {line}");
        }
    }
    told
}

/// Where a part says why it does not come up; an agent's reasons are mostly its engines'.
fn blamed(paths: &Paths, member: &Member) -> Vec<PathBuf> {
    let engines = match member.role {
        Role::RegionAgent => files(paths, Writer::Engines, &member.region).unwrap_or_default(),
        Role::ControlPlane | Role::Edge => Vec::new(),
    };
    // One engine is as good as the other: they run the same model on the same host.
    std::iter::once(paths.log(member)).chain(engines.into_iter().min()).collect()
}

/// The end of a log, for an error message; nothing if there is no log.
pub fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(END_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut end = Vec::new();
        file.take(END_BYTES).read_to_end(&mut end)?;
        Ok(end)
    };
    let end = read().unwrap_or_default();
    let end = String::from_utf8_lossy(&end);
    let lines: Vec<&str> = end.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(ToString::to_string).collect()
}

/// Enough for an error with its causes.
pub const LINES_SHOWN: usize = 12;

/// A start begins with empty logs; those of the start before are kept beside them.
pub fn put_aside(paths: &Paths, layout: &Layout) -> io::Result<()> {
    put_up_log_aside(paths)?;
    for region in layout.regions.names() {
        let logs = paths.region_logs(region);
        let before = logs.with_file_name("previous").join(region.as_str());
        if logs.exists() {
            let _ = std::fs::remove_dir_all(&before);
            std::fs::create_dir_all(before.parent().unwrap_or(paths.data()))?;
            std::fs::rename(&logs, &before)?;
        }
        std::fs::create_dir_all(&logs)?;
    }
    Ok(())
}

/// Copied and emptied rather than moved: a detached `up` appends to it from before it knows that it may start.
fn put_up_log_aside(paths: &Paths) -> io::Result<()> {
    let log = paths.up_log();
    if !log.exists() {
        return Ok(());
    }
    let previous = log.with_file_name("previous");
    std::fs::create_dir_all(&previous)?;
    std::fs::copy(&log, previous.join(name(&log)))?;
    File::options().write(true).open(&log)?.set_len(0)
}

fn files(paths: &Paths, writer: Writer, region: &RegionName) -> anyhow::Result<Vec<PathBuf>> {
    let logs = paths.region_logs(region);
    let found = match writer {
        Writer::Role(role) => vec![paths.log(&Member { region: region.clone(), role })],
        Writer::Engines => {
            let entries = logs.read_dir().with_context(|| format!("cannot read {}", logs.display()))?;
            let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
            paths.into_iter().filter(|path| is_engine_log(&name(path))).collect()
        }
    };
    Ok(found.into_iter().filter(|path| path.exists()).collect())
}

/// One file, printed as far as it has been written.
struct Tail {
    path: PathBuf,
    prefix: String,
    position: u64,
    /// The beginning of a line whose end is not written yet.
    unfinished: Vec<u8>,
}

impl Tail {
    fn new(path: PathBuf, writer: Writer) -> Self {
        let prefix = match writer {
            Writer::Role(_) => String::new(),
            Writer::Engines => format!("{} | ", name(&path).trim_end_matches(".log")),
        };
        Self { path, prefix, position: 0, unfinished: Vec::new() }
    }

    /// Prints what is new: whole lines, and at the end of a log that nobody follows the rest as well.
    fn print(&mut self, follow: bool) -> anyhow::Result<Reader> {
        let cannot = || format!("cannot read {}", self.path.display());
        let mut file = File::open(&self.path).with_context(cannot)?;
        if file.metadata().with_context(cannot)?.len() < self.position {
            // A new start began a new file under the same name.
            self.position = 0;
            self.unfinished.clear();
        }
        file.seek(SeekFrom::Start(self.position)).with_context(cannot)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = file.read(&mut chunk).with_context(cannot)?;
            if count == 0 {
                break;
            }
            self.position += count as u64;
            self.unfinished.extend_from_slice(&chunk[..count]);
            let end = self.unfinished.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let whole: Vec<u8> = self.unfinished.drain(..end).collect();
            if self.lines(&whole)? == Reader::Gone {
                return Ok(Reader::Gone);
            }
        }
        if follow || self.unfinished.is_empty() {
            return Ok(Reader::There);
        }
        let rest = std::mem::take(&mut self.unfinished);
        Ok(self.lines(&rest)?)
    }

    fn lines(&self, bytes: &[u8]) -> io::Result<Reader> {
        let text = String::from_utf8_lossy(bytes);
        stdout::print(&text.lines().map(|line| format!("{}{line}\n", self.prefix)).collect::<String>())
    }
}

fn is_engine_log(name: &str) -> bool {
    name.starts_with("engine-") && name.ends_with(".log")
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

const LOOK_EVERY: Duration = Duration::from_millis(200);
const CHUNK_BYTES: usize = 64 * 1024;
/// A dozen long lines.
const END_BYTES: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_last_lines_are_few_and_no_log_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge.log");
        assert_eq!(last_lines(&path, 2), Vec::<String>::new());
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(last_lines(&path, 2), ["two", "three"]);
        assert_eq!(last_lines(&path, 9).len(), 3);
    }

    #[test]
    fn logs_of_the_start_before_are_kept_once() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path().to_owned());
        let layout = Layout::new(0, "us-east".parse().unwrap());
        for start in 0..3 {
            let up_log = paths.up_log();
            std::fs::create_dir_all(up_log.parent().unwrap()).unwrap();
            let mut held = File::options().append(true).create(true).open(&up_log).unwrap();
            put_aside(&paths, &layout).unwrap();
            write!(held, "up {start}").unwrap();
            assert_eq!(std::fs::read_to_string(&up_log).unwrap(), format!("up {start}"));
            let log = paths.region_logs(&layout.regions.names()[0]).join("edge.log");
            assert!(!log.exists());
            std::fs::write(log, format!("start {start}")).unwrap();
        }
        let previous = dir.path().join("logs/previous/us-east/edge.log");
        assert_eq!(std::fs::read_to_string(previous).unwrap(), "start 1");
        assert_eq!(std::fs::read_to_string(dir.path().join("logs/previous/up.log")).unwrap(), "up 1");
    }
}
