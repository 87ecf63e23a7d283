//! How a sandbox comes up, told while it does: on a terminal as lines that change, elsewhere as lines that
//! follow each other, and from a detached `up` to the one that waits for it as JSON.

use crate::sandbox::layout::{Layout, Member};
use crate::sandbox::report::Report;
use crate::say::say;
use crate::stdout;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// What became of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    #[serde(flatten)]
    pub member: Member,
    pub state: StepState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// What it waits for, in words that follow "waits: ".
    Waits(String),
    Ready,
}

/// What a detached `up` tells, a line each. The last one is `Ready` or `Failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    Layout(Layout),
    Step(Step),
    Ready(Box<Report>),
    /// The error and its causes.
    Failed(Vec<String>),
}

/// Where progress is shown.
pub enum Progress {
    Terminal { bars: BTreeMap<Member, ProgressBar>, all: MultiProgress, started: Instant },
    Lines { shown: BTreeMap<Member, StepState>, started: Instant },
    Pipe,
}

impl Progress {
    /// On standard error, as fits what it is.
    pub fn to_people() -> Self {
        let started = Instant::now();
        if std::io::stderr().is_terminal() {
            Self::Terminal { bars: BTreeMap::new(), all: MultiProgress::new(), started }
        } else {
            Self::Lines { shown: BTreeMap::new(), started }
        }
    }

    /// The addresses are chosen and the processes are about to start.
    pub fn begin(&mut self, layout: &Layout) {
        match self {
            Self::Terminal { bars, all, .. } => {
                for member in layout.members() {
                    let bar = all.add(ProgressBar::new_spinner().with_style(waiting_style()));
                    bar.set_prefix(title(&member));
                    bar.set_message("starts");
                    bar.enable_steady_tick(TICK);
                    bars.insert(member, bar);
                }
            }
            Self::Lines { .. } => {
                let (regions, subnet) = (&layout.regions, layout.subnet);
                say!("starting {regions} on 127.{subnet}.*.1");
            }
            Self::Pipe => tell(&Told::Layout(layout.clone())),
        }
    }

    pub fn step(&mut self, step: &Step) {
        let Step { member, state } = step;
        match self {
            Self::Terminal { bars, started, .. } => {
                let Some(bar) = bars.get(member) else { return };
                match state {
                    StepState::Waits(what) => bar.set_message(format!("waits: {what}")),
                    StepState::Ready => {
                        bar.set_style(ready_style());
                        bar.finish_with_message(ready(*started));
                    }
                }
            }
            Self::Lines { shown, started } => {
                if shown.insert(member.clone(), state.clone()).as_ref() == Some(state) {
                    return;
                }
                match state {
                    StepState::Waits(what) => say!("  {}  waits: {what}", title(member)),
                    StepState::Ready => say!("  {}  {}", title(member), ready(*started)),
                }
            }
            Self::Pipe => tell(&Told::Step(step.clone())),
        }
    }

    /// Leaves the terminal to whoever writes next.
    pub fn end(&mut self) {
        if let Self::Terminal { bars, .. } = self {
            for bar in bars.values().filter(|bar| !bar.is_finished()) {
                bar.abandon();
            }
        }
    }
}

/// One line on the pipe to who waits. If nobody waits any more, nobody needs to be told.
pub fn tell(told: &Told) {
    let mut line = serde_json::to_string(told).expect("plain data serialises");
    line.push('\n');
    let _ = stdout::print(&line);
}

fn title(member: &Member) -> String {
    format!("{:13}  {}", member.role, member.region)
}

fn ready(started: Instant) -> String {
    format!("ready after {:.1} s", started.elapsed().as_secs_f64())
}

fn waiting_style() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {prefix}  {wide_msg}").expect("the template is well formed")
}

fn ready_style() -> ProgressStyle {
    ProgressStyle::with_template("  ✔ {prefix}  {msg}").expect("the template is well formed")
}

const TICK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::layout::Role;

    #[test]
    fn what_is_told_is_understood() {
        let member = Member { region: "us-east".parse().unwrap(), role: Role::Edge };
        let told = [
            Told::Layout(Layout::new(1, "us-east".parse().unwrap())),
            Told::Step(Step { member: member.clone(), state: StepState::Waits("for \"x\"".to_owned()) }),
            Told::Step(Step { member, state: StepState::Ready }),
            Told::Failed(vec!["a\nb".to_owned()]),
        ];
        for told in told {
            let line = serde_json::to_string(&told).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Told>(&line).unwrap(), told);
        }
    }
}
