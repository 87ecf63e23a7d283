//! `rhumb sandbox ps`: every process of a sandbox, engines included.

use crate::sandbox::control::{self, Answer, ControlError, Question};
use crate::sandbox::layout::{Layout, Role};
use crate::sandbox::paths::Paths;
use crate::sandbox::supervise::Process;
use crate::sandbox::{kept_layout, replicas};
use crate::say::say;
use crate::stdout;
use crate::table::table;
use anyhow::bail;

pub fn run(paths: &Paths, json: bool) -> anyhow::Result<()> {
    let processes = match control::ask(paths, &Question::Processes) {
        Ok(Answer::Processes { processes }) => {
            let layout = kept_layout(paths)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(with_engines(processes, &layout))
        }
        Err(error @ ControlError::NothingRuns { .. }) => {
            say!("{error}");
            Vec::new()
        }
        Ok(other) => bail!("the sandbox answers something else: {other:?}"),
        Err(error) => return Err(error.into()),
    };
    if json {
        stdout::print_json(&processes)?;
    } else {
        let head = ["ROLE", "REGION", "PID", "ADDRESS"].map(str::to_owned);
        let row = |process: &Process| {
            [
                process.role.clone(),
                process.region.to_string(),
                process.pid.to_string(),
                process.addr.to_string(),
            ]
        };
        stdout::print(&table(head, processes.iter().map(row)))?;
    }
    Ok(())
}

/// Engines belong to their agents; those of an agent that is gone or gives no answer are gone or unknown.
async fn with_engines(processes: Vec<Process>, layout: &Layout) -> Vec<Process> {
    let mut all = Vec::new();
    for process in processes {
        let seat = layout.seat(&process.region).filter(|_| process.role == Role::RegionAgent.as_str());
        let region = process.region.clone();
        all.push(process);
        let Some(seat) = seat else { continue };
        match replicas::of(&seat).await {
            Ok(agent) => all.extend(agent.replicas.into_iter().filter_map(|replica| {
                let (region, addr) = (region.clone(), replica.addr);
                Some(Process { role: ENGINE.to_owned(), region, pid: replica.pid?, addr })
            })),
            Err(error) => say!("the engines of {region} are not listed: {error}"),
        }
    }
    all
}

const ENGINE: &str = "engine";
