//! Starts an engine as a child process, so that it cannot outlive its agent and says what it says to a file.

use crate::placement::Recipe;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, ChildStdin, Command};
use tracing::warn;
use types::ReplicaId;

/// What every start on this node has in common.
#[derive(Debug, Clone)]
pub struct Launcher {
    pub program: PathBuf,
    pub logs: PathBuf,
}

/// A started engine. Dropped, it is killed.
pub struct Process {
    pub child: Child,
    /// Held open and never written to: the engine ends when it closes, also when this agent is killed.
    _lifeline: Option<ChildStdin>,
}

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("cannot start {}", program.display())]
    Spawn { program: PathBuf, source: io::Error },
}

impl Launcher {
    pub fn start(
        &self,
        recipe: &Recipe,
        address: SocketAddr,
        replica: &ReplicaId,
    ) -> Result<Process, LaunchError> {
        let path = self.log_path(replica.number);
        // A disk that is full must not keep engines from serving.
        let (stdout, stderr) = match open_log(&path, replica) {
            Ok((stdout, stderr)) => (stdout.into(), stderr.into()),
            Err(error) => {
                warn!(%replica, log = %path.display(), %error, "the engine's log cannot be written; it runs without");
                (Stdio::null(), Stdio::null())
            }
        };
        let mut child = Command::new(&self.program)
            .args(arguments(recipe, address, replica))
            .env("RHUMB_LIFELINE", "stdin")
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(true)
            // A Ctrl-C at the terminal is for the agent, which lets its engines finish first.
            .process_group(0)
            .spawn()
            .map_err(|source| LaunchError::Spawn { program: self.program.clone(), source })?;
        // Out of the child, because waiting for a child closes its stdin.
        let lifeline = child.stdin.take();
        Ok(Process { child, _lifeline: lifeline })
    }

    fn log_path(&self, number: u16) -> PathBuf {
        self.logs.join(format!("engine-{number}.log"))
    }
}

fn arguments(recipe: &Recipe, address: SocketAddr, replica: &ReplicaId) -> Vec<String> {
    let mut arguments = vec!["engine".to_owned()];
    let mut push = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    push("--model", recipe.model_dir.display().to_string());
    push("--listen", address.to_string());
    push("--version", recipe.version.to_string());
    push("--replica", replica.to_string());
    push("--served-name", recipe.served_name.to_string());
    push("--slots", recipe.slots.to_string());
    push("--threads", recipe.threads.to_string());
    if let Some(tokens) = recipe.kv_tokens {
        push("--kv-tokens", tokens.to_string());
    }
    push("--step-time", format!("{}ms", recipe.step_time.as_millis()));
    arguments
}

/// Appends, so that what the last process said before it died is still there.
fn open_log(path: &Path, replica: &ReplicaId) -> io::Result<(File, File)> {
    if path.metadata().is_ok_and(|log| log.len() > LOG_MAX) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    let mut log = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(log, "-- {replica} --")?;
    Ok((log.try_clone()?, log))
}

/// At each start a log longer than this makes room for a new one, and one such is kept: an engine that crashes for
/// weeks fills no disk. What one process writes during its life is not bounded here; an engine logs changes of
/// state and no requests.
const LOG_MAX: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use types::ModelVersion;

    fn recipe() -> Recipe {
        Recipe {
            version: ModelVersion::from_digest([1; 32]),
            model_dir: "/models/tiny".into(),
            served_name: "tiny".parse().unwrap(),
            slots: 8,
            threads: 1,
            kv_tokens: Some(4096),
            step_time: Duration::from_millis(20),
        }
    }

    #[test]
    fn the_command_line_is_the_engine_s_contract() {
        let (address, replica) = ("127.0.1.1:7500".parse().unwrap(), "us-east/n1/0-3".parse().unwrap());
        let version = format!("sha256:{}", "01".repeat(32));
        let expected = format!(
            "engine --model /models/tiny --listen 127.0.1.1:7500 --version {version} --replica us-east/n1/0-3 \
             --served-name tiny --slots 8 --threads 1 --kv-tokens 4096 --step-time 20ms"
        );
        assert_eq!(arguments(&recipe(), address, &replica).join(" "), expected);
        let unbounded = Recipe { kv_tokens: None, ..recipe() };
        assert!(!arguments(&unbounded, address, &replica).contains(&"--kv-tokens".to_owned()));
    }

    #[tokio::test]
    async fn an_engine_starts_although_its_log_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let launcher = Launcher { program: "/bin/true".into(), logs: dir.path().join("not there") };
        let (address, replica) = ("127.0.1.1:7500".parse().unwrap(), "us-east/n1/0-3".parse().unwrap());
        let mut process = launcher.start(&recipe(), address, &replica).unwrap();
        assert!(process.child.wait().await.unwrap().success());
    }

    #[test]
    fn a_log_is_appended_to_until_it_is_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine-0.log");
        open_log(&path, &"us-east/n1/0-0".parse().unwrap()).unwrap();
        open_log(&path, &"us-east/n1/0-1".parse().unwrap()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "-- us-east/n1/0-0 --\n-- us-east/n1/0-1 --\n");
        File::options().write(true).open(&path).unwrap().set_len(LOG_MAX + 1).unwrap();
        open_log(&path, &"us-east/n1/0-2".parse().unwrap()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "-- us-east/n1/0-2 --\n");
        assert!(dir.path().join("engine-0.log.1").exists());
    }
}
