//! `rhumb sandbox start`: starts a part that died, and waits until it does its work again.

use crate::sandbox::control::{self, Answer, Question};
use crate::sandbox::layout::{Member, Paths};
use crate::sandbox::progress::{Progress, Step};
use crate::sandbox::{kept_layout, ready, write};
use crate::say::say;
use anyhow::{Context, bail};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

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
    runtime.block_on(async {
        let (step, mut steps) = mpsc::channel::<Step>(STEPS_MAX);
        // Engines of any region will do, and the others are there already.
        let engines = CancellationToken::new();
        engines.cancel();
        let ready = ready::one(member.clone(), seat, key, engines, step, ready::deadline());
        let show = async {
            let mut progress = Progress::to_people();
            while let Some(step) = steps.recv().await {
                progress.step(&step);
            }
        };
        let (ready, ()) = tokio::join!(ready, show);
        ready
    })?;
    Ok(())
}

const STEPS_MAX: usize = 16;
