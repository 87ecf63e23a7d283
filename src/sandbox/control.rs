//! How other commands speak to a running `up`: one question and one answer, each a line of JSON, over a Unix
//! socket in the data directory.

use crate::sandbox::claim;
use crate::sandbox::layout::Member;
use crate::sandbox::paths::Paths;
use crate::sandbox::supervise::Process;
use chaos::network::{Faults, LinkReport};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, oneshot};
use types::RegionName;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "kebab-case")]
pub enum Question {
    /// What runs?
    Processes,
    /// Start a part that is not running.
    Start(Member),
    /// How are the links between the regions?
    Links,
    /// Give links these faults, in the directions that are named.
    Fault { links: Vec<(RegionName, RegionName)>, faults: Faults },
    /// Stop everything and leave.
    Stop,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    Processes {
        processes: Vec<Process>,
    },
    Started {
        pid: u32,
    },
    AlreadyRuns {
        pid: u32,
    },
    Links {
        links: Vec<LinkReport>,
    },
    Stopping,
    /// A sentence for people.
    Refused {
        problem: String,
    },
}

/// A question on its way to who owns the processes.
#[derive(Debug)]
pub struct Asked {
    pub question: Question,
    pub answer: oneshot::Sender<Answer>,
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("no sandbox runs on {}; start one with `rhumb up`", data.display())]
    NothingRuns { data: PathBuf },
    #[error("the sandbox on {} (process {}) does not answer; `rhumb down` ends it", data.display(), pid.unwrap_or(0))]
    Silent { data: PathBuf, pid: Option<u32>, source: io::Error },
    #[error("cannot look for a sandbox in {}", data.display())]
    Look { data: PathBuf, source: io::Error },
}

/// Asks the `up` of this data directory.
pub fn ask(paths: &Paths, question: &Question) -> Result<Answer, ControlError> {
    let data = || paths.data().to_owned();
    let started = Instant::now();
    loop {
        let holder = claim::holder(paths).map_err(|source| ControlError::Look { data: data(), source })?;
        let Some(holder) = holder else { return Err(ControlError::NothingRuns { data: data() }) };
        match converse(paths.data(), question) {
            Ok(answer) => return Ok(answer),
            // It holds its data before it listens; give it the time between.
            Err(error) if is_absent(&error) && started.elapsed() < LISTENS_WITHIN => {
                std::thread::sleep(RETRY);
            }
            Err(source) => return Err(ControlError::Silent { data: data(), pid: holder.pid, source }),
        }
    }
}

/// Listens in a data directory that the caller has claimed, so a socket found there is a dead one's.
pub fn listen(paths: &Paths) -> io::Result<tokio::net::UnixListener> {
    match std::fs::remove_file(paths.data().join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = through(paths.data(), UnixListener::bind)?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

/// Hands the questions of all callers to who owns the processes, for ever.
pub async fn serve(listener: tokio::net::UnixListener, asked: mpsc::Sender<Asked>) {
    let places = Arc::new(Semaphore::new(CALLERS_MAX));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // Too many open files, most likely; that passes.
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let asked = asked.clone();
        tokio::spawn(async move {
            // A caller who went away or speaks nonsense hurts only itself.
            let _ = tokio::time::timeout(CALL_MAX, answer(stream, asked)).await;
            drop(place);
        });
    }
}

async fn answer(mut stream: tokio::net::UnixStream, asked: mpsc::Sender<Asked>) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    tokio::io::BufReader::new(reader.take(LINE_MAX)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(question) => {
            let (reply, replied) = oneshot::channel();
            let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            asked.send(Asked { question, answer: reply }).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            replied.await.map_err(gone)?
        }
        Err(error) => Answer::Refused { problem: format!("the question is not understood: {error}") },
    };
    writer.write_all(line_of(&answer).as_bytes()).await
}

fn converse(data: &Path, question: &Question) -> io::Result<Answer> {
    let mut stream = through(data, UnixStream::connect)?;
    stream.set_read_timeout(Some(CALL_MAX))?;
    stream.set_write_timeout(Some(CALL_MAX))?;
    stream.write_all(line_of(question).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_MAX)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn line_of(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).expect("plain data serialises");
    line.push('\n');
    line
}

/// A socket's path may have 107 bytes, a data directory's may have more: so the directory goes by its number.
fn through<T>(data: &Path, open: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    let dir = File::open(data)?;
    open(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()).into())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

const SOCKET: &str = "up.sock";
/// Sixteen regions with all their processes are below 8 KiB; their 240 links may need 70.
const LINE_MAX: u64 = 256 * 1024;
const CALLERS_MAX: usize = 32;
const CALL_MAX: Duration = Duration::from_secs(5);
const LISTENS_WITHIN: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::layout::Role;

    fn edge() -> Member {
        Member { region: "us-east".parse().unwrap(), role: Role::Edge }
    }

    #[test]
    fn the_wire_is_lines_of_plain_json() {
        let question = Question::Start(edge());
        assert_eq!(line_of(&question), "{\"question\":\"start\",\"region\":\"us-east\",\"role\":\"edge\"}\n");
        assert_eq!(line_of(&Answer::Started { pid: 7 }), "{\"answer\":\"started\",\"pid\":7}\n");
        assert_eq!(line_of(&Question::Stop), "{\"question\":\"stop\"}\n");
    }

    #[test]
    fn without_a_holder_nothing_runs() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path().to_owned());
        std::fs::write(dir.path().join(SOCKET), "left behind").unwrap();
        assert!(matches!(ask(&paths, &Question::Stop), Err(ControlError::NothingRuns { .. })));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_question_travels_to_the_owner_and_its_answer_back() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a-directory-with-a-long-name".repeat(6));
        std::fs::create_dir(&data).unwrap();
        let paths = Paths::below(data);
        let _claim = claim::data(&paths).unwrap();
        std::fs::write(paths.data().join(SOCKET), "left behind").unwrap();
        let listener = listen(&paths).unwrap();
        let (asked, mut questions) = mpsc::channel(1);
        tokio::spawn(serve(listener, asked));
        let caller = tokio::task::spawn_blocking(move || ask(&paths, &Question::Start(edge())));
        let Asked { question, answer } = questions.recv().await.unwrap();
        assert_eq!(question, Question::Start(edge()));
        answer.send(Answer::AlreadyRuns { pid: 5 }).unwrap();
        assert_eq!(caller.await.unwrap().unwrap(), Answer::AlreadyRuns { pid: 5 });
    }
}
