//! The processes that `up` holds: each lives by a lifeline, and nothing is restarted.
//!
//! A lifeline is a pipe on a child's standard input that nothing is ever written to. When `up` ends, in whatever
//! way, the kernel closes it and the child leaves.

use crate::role::lifeline;
use crate::sandbox::layout::{Layout, Member, Role};
use crate::sandbox::paths::Paths;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{ChildStdin, Command};
use tokio::sync::mpsc;
use types::RegionName;

/// Everything that runs, by region and role.
pub struct Supervisor {
    program: PathBuf,
    layout: Layout,
    paths: Paths,
    children: BTreeMap<Member, Child>,
    exits: mpsc::Sender<Exit>,
}

/// A process that ended.
#[derive(Debug)]
pub struct Exit {
    pub member: Member,
    pub pid: u32,
    pub status: ExitStatus,
}

/// A process that runs, as `rhumb sandbox ps` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub role: String,
    pub region: RegionName,
    pub pid: u32,
    pub addr: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot write {}", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("cannot run {}", program.display())]
    Spawn { program: PathBuf, source: io::Error },
}

struct Child {
    pid: u32,
    /// To the task that owns the process: only the owner knows that the id still means this process.
    signals: mpsc::Sender<Signal>,
}

impl Supervisor {
    /// Children are this same `program`.
    pub fn new(program: PathBuf, layout: Layout, paths: Paths) -> (Self, mpsc::Receiver<Exit>) {
        let (exits, exited) = mpsc::channel(EXITS_MAX);
        (Self { program, layout, paths, children: BTreeMap::new(), exits }, exited)
    }

    /// The process that has this part now.
    pub fn pid(&self, member: &Member) -> Option<u32> {
        self.children.get(member).map(|child| child.pid)
    }

    pub fn start(&mut self, member: &Member) -> Result<u32, SpawnError> {
        let log_path = self.paths.log(member);
        let (out, err) = open_log(&log_path).map_err(|source| SpawnError::Log { path: log_path, source })?;
        let spawn = Command::new(&self.program)
            .arg(member.role.as_str())
            .arg("--config")
            .arg(self.paths.config(member))
            .env(lifeline::VARIABLE, lifeline::STDIN)
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            // Ctrl-C is for `up`, which then stops everything in order.
            .process_group(0)
            .spawn();
        let failed = |source| SpawnError::Spawn { program: self.program.clone(), source };
        let mut process = spawn.map_err(failed)?;
        let pid = process.id().expect("a process that was not waited for has an id");
        let lifeline = process.stdin.take().expect("standard input is a pipe");
        let (signals, received) = mpsc::channel(SIGNALS_MAX);
        self.children.insert(member.clone(), Child { pid, signals });
        tokio::spawn(hold(process, lifeline, received, member.clone(), self.exits.clone()));
        Ok(pid)
    }

    /// Forgets a process that ended.
    pub fn remove(&mut self, exit: &Exit) {
        if self.pid(&exit.member) == Some(exit.pid) {
            self.children.remove(&exit.member);
        }
    }

    pub fn processes(&self) -> Vec<Process> {
        let process = |member: Member| {
            let seat = self.layout.seat(&member.region)?;
            let pid = self.pid(&member)?;
            Some(Process {
                role: member.role.to_string(),
                region: member.region,
                pid,
                addr: seat.address(member.role),
            })
        };
        self.layout.members().filter_map(process).collect()
    }

    /// Stops everything: first the edges, so that no request meets a region whose agent has left; last the control
    /// plane, which nobody needs to stop.
    pub async fn stop(&mut self, exited: &mut mpsc::Receiver<Exit>) {
        for role in [Role::Edge, Role::RegionAgent, Role::ControlPlane] {
            self.signal(role, Signal::SIGTERM);
            if tokio::time::timeout(STOP_MAX, self.gone(role, exited)).await.is_err() {
                self.signal(role, Signal::SIGKILL);
                self.gone(role, exited).await;
            }
        }
    }

    fn signal(&self, role: Role, signal: Signal) {
        for (_, child) in self.children.iter().filter(|(member, _)| member.role == role) {
            // A full queue means that as many signals are already on their way.
            let _ = child.signals.try_send(signal);
        }
    }

    async fn gone(&mut self, role: Role, exited: &mut mpsc::Receiver<Exit>) {
        while self.children.keys().any(|member| member.role == role) {
            let exit = exited.recv().await.expect("the supervisor itself holds a sender");
            self.remove(&exit);
        }
    }
}

/// Owns one process until it ends.
async fn hold(
    mut process: tokio::process::Child,
    lifeline: ChildStdin,
    mut signals: mpsc::Receiver<Signal>,
    member: Member,
    exits: mpsc::Sender<Exit>,
) {
    let pid = process.id().expect("it was not waited for");
    let status = loop {
        tokio::select! {
            status = process.wait() => break status,
            Some(signal) = signals.recv() => {
                if let Some(pid) = process.id() {
                    // Not yet reaped, so the id is still ours; at worst the process has just ended.
                    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
                }
            }
        }
    };
    drop(lifeline);
    let status = status.expect("a child that nobody else waits for can be waited for");
    // With the supervisor gone there is nobody to tell.
    let _ = exits.send(Exit { member, pid, status }).await;
}

fn open_log(path: &Path) -> io::Result<(File, File)> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    Ok((file.try_clone()?, file))
}

/// Edges finish their streams within `write::DRAIN_SECONDS`; then patience ends.
const STOP_MAX: Duration = Duration::from_secs(8);
/// Each member can end once before it is started again, and the loop that receives never rests for long.
const EXITS_MAX: usize = 64;
const SIGNALS_MAX: usize = 4;
