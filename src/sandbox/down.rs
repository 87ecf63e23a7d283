//! `rhumb down`: stops a sandbox, and is content if there is none.

use crate::sandbox::claim;
use crate::sandbox::control::{self, ControlError, Question};
use crate::sandbox::paths::Paths;
use crate::say::say;
use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

pub fn run(paths: &Paths) -> anyhow::Result<()> {
    let data = paths.data().display();
    match control::ask(paths, &Question::Stop) {
        Err(ControlError::NothingRuns { .. }) => {
            say!("nothing runs on {data}");
            return Ok(());
        }
        Ok(_) => say!("stopping the sandbox on {data}"),
        Err(error @ ControlError::Look { .. }) => return Err(error.into()),
        Err(ControlError::Silent { pid, .. }) => {
            let pid = pid.with_context(|| format!("a sandbox on {data} is just starting; try again"))?;
            say!("stopping the sandbox on {data} by a signal, for it does not answer (process {pid})");
            signal(pid, Signal::SIGTERM);
        }
    }
    if is_released(paths, STOP_MAX)? {
        say!("stopped");
        return Ok(());
    }
    let Some(claim::Holder { pid: Some(pid) }) = claim::holder(paths)? else { return Ok(()) };
    say!("it takes more than {} s; killing process {pid}, which ends all others", STOP_MAX.as_secs());
    signal(pid, Signal::SIGKILL);
    if is_released(paths, KILL_MAX)? {
        return Ok(());
    }
    bail!("process {pid} holds {data} although it was killed; look at it with `ps -fp {pid}`")
}

/// The lock ends with the process, so its end is what there is to wait for.
fn is_released(paths: &Paths, patience: Duration) -> anyhow::Result<bool> {
    let started = Instant::now();
    while started.elapsed() < patience {
        if claim::holder(paths)?.is_none() {
            return Ok(true);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(false)
}

/// Only for the holder of the lock: while it holds it, its id cannot be another's.
fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

/// Three times the patience of `up` with a role (edges, then agents, then voters), and a little.
const STOP_MAX: Duration = Duration::from_secs(28);
const KILL_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);
