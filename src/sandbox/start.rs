//! `rhumb sandbox start`: starts a part that died, and waits until it does its work again.

use crate::sandbox::control::{self, Answer, Question};
use crate::sandbox::layout::{Layout, Member, Role};
use crate::sandbox::paths::Paths;
use crate::sandbox::progress::{Progress, Step};
use crate::sandbox::ready::Trial;
use crate::sandbox::seed::{Answers, Goal};
use crate::sandbox::{kept_layout, logs, ready, write};
use crate::say::say;
use anyhow::{Context, bail};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;

pub fn run(paths: &Paths, member: &Member) -> anyhow::Result<()> {
    let pid = match control::ask(paths, &Question::Start(member.clone()))? {
        Answer::Started { pid } => pid,
        Answer::AlreadyRuns { pid } => {
            say!("{member} already runs (process {pid})");
            return Ok(());
        }
        Answer::Refused { problem } => bail!(problem),
        other => bail!("the sandbox answers something else: {other:?}"),
    };
    say!("starting {member} (process {pid})");
    let layout = kept_layout(paths)?;
    let seat = layout.seat(&member.region).context("the sandbox has another layout by now")?;
    let key = write::api_key(paths)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let has_quorum = has_quorum(paths, &layout)?;
    runtime.block_on(async {
        let (step, mut steps) = mpsc::channel::<Step>(STEPS_MAX);
        // What operators have made of the intent meanwhile is not asked: the control plane may be what is dead.
        let goal = Goal { replicas: BTreeMap::new(), answers: Answers::Decided };
        let trial = Trial::of_one(key, goal, has_quorum);
        let ready = ready::one(member.clone(), seat, trial, step, ready::deadline());
        let show = async {
            let mut progress = Progress::to_people();
            while let Some(step) = steps.recv().await {
                progress.step(&step);
            }
        };
        tokio::select! {
            (ready, ()) = async { tokio::join!(ready, show) } => ready?,
            () = end(pid) => {
                let problem = format!("{member} (process {pid}) ended while it started");
                bail!(logs::explain(paths, member, &problem))
            }
        }
        if member.role == Role::Edge {
            // It may be the first one, which the network has yet to find.
            ready::endpoint(&layout, ready::deadline()).await?;
        }
        Ok(())
    })?;
    if member.role == Role::ControlPlane && !has_quorum {
        say!("{member} waits for a majority of the voters; start another one");
    }
    Ok(())
}

/// Returns when there is no such process any more. It is a child of the sandbox, which takes note of its end.
async fn end(pid: u32) {
    let pid = i32::try_from(pid).map(Pid::from_raw);
    while pid.is_ok_and(|pid| kill(pid, None).is_ok()) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether enough voters run for one of them to lead: the first of several that are started cannot.
fn has_quorum(paths: &Paths, layout: &Layout) -> anyhow::Result<bool> {
    let Answer::Processes { processes } = control::ask(paths, &Question::Processes)? else {
        bail!("the sandbox answers something else");
    };
    let running = processes.iter().filter(|process| process.role == Role::ControlPlane.as_str()).count();
    Ok(running * 2 > layout.voters.len())
}

const STEPS_MAX: usize = 16;
const LOOK_EVERY: Duration = Duration::from_millis(100);
