//! How a sandbox comes up, told while it does: on a terminal as lines that change, elsewhere as lines that
//! follow each other, and from a detached `up` to the one that waits for it as JSON.

use crate::sandbox::layout::{Layout, Member};
use crate::sandbox::report::Report;
use crate::sandbox::view::screen;
use crate::say::say;
use crate::stdout;
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
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
    /// What it waits for, as a sentence that begins with "waits for" or says what is not so yet.
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
    Terminal(Box<Bars>),
    Lines { shown: BTreeMap<Member, StepState>, started: Instant },
    Pipe,
}

/// A line for each part, and one for all of them.
pub struct Bars {
    all: MultiProgress,
    whole: ProgressBar,
    parts: BTreeMap<Member, ProgressBar>,
    /// So many parts that what is ready has to make room.
    is_crowded: bool,
    name_width: usize,
    started: Instant,
}

impl Progress {
    /// On standard error, as fits what it is.
    pub fn to_people() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Terminal(Box::new(Bars::new()))
        } else {
            Self::Lines { shown: BTreeMap::new(), started: Instant::now() }
        }
    }

    /// The addresses are chosen and the processes are about to start.
    pub fn begin(&mut self, layout: &Layout) {
        let (regions, subnet) = (&layout.regions, layout.subnet);
        match self {
            Self::Terminal(bars) => bars.begin(layout),
            Self::Lines { .. } => say!("starting {regions} on 127.{subnet}.*.1"),
            Self::Pipe => tell(&Told::Layout(layout.clone())),
        }
    }

    pub fn step(&mut self, step: &Step) {
        let Step { member, state } = step;
        match self {
            Self::Terminal(bars) => bars.step(member, state),
            Self::Lines { shown, started } => {
                if shown.insert(member.clone(), state.clone()).as_ref() == Some(state) {
                    return;
                }
                match state {
                    StepState::Waits(what) => say!("  {}  {}", title(member, 0), waits(what)),
                    StepState::Ready => say!("  {}  {}", title(member, 0), ready(*started)),
                }
            }
            Self::Pipe => tell(&Told::Step(step.clone())),
        }
    }

    /// Leaves the terminal to whoever writes next.
    pub fn end(&mut self) {
        if let Self::Terminal(bars) = self {
            bars.end();
        }
    }
}

impl Bars {
    fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            whole: ProgressBar::hidden(),
            parts: BTreeMap::new(),
            is_crowded: false,
            name_width: 0,
            started: Instant::now(),
        }
    }

    fn begin(&mut self, layout: &Layout) {
        let count = layout.regions.names().len();
        let regions = if count == 1 { "1 region".to_owned() } else { format!("{count} regions") };
        self.whole = self.all.add(ProgressBar::new_spinner().with_style(whole_style()));
        self.whole.set_prefix(format!("starting {regions}"));
        self.whole.enable_steady_tick(TICK);
        // As they wait for each other: engines for the control plane, edges for engines.
        let mut members: Vec<Member> = layout.members().collect();
        members.sort_by_key(|member| member.role);
        let rows = screen::size(&std::io::stderr()).rows;
        self.is_crowded = members.len() + ROWS_BESIDE > usize::from(rows);
        self.name_width = members.iter().map(|member| member.region.as_str().len()).max().unwrap_or(0);
        for member in &members {
            self.add(member);
        }
        self.count();
    }

    fn add(&mut self, member: &Member) -> &ProgressBar {
        let bar = self.all.add(ProgressBar::new_spinner().with_style(waiting_style()));
        bar.set_prefix(title(member, self.name_width));
        bar.set_message("starts");
        bar.enable_steady_tick(TICK);
        self.parts.entry(member.clone()).or_insert(bar)
    }

    fn step(&mut self, member: &Member, state: &StepState) {
        let (is_crowded, started) = (self.is_crowded, self.started);
        let bar = match self.parts.get(member) {
            Some(bar) => bar,
            None => self.add(member),
        };
        match state {
            StepState::Waits(what) => bar.set_message(waits(first_clause(what))),
            StepState::Ready if is_crowded => bar.finish_and_clear(),
            StepState::Ready => {
                bar.set_style(ready_style());
                bar.finish_with_message(ready(started));
            }
        }
        self.count();
    }

    fn count(&self) {
        let ready = self.parts.values().filter(|bar| bar.is_finished()).count();
        self.whole.set_message(format!("{ready} of {} parts are ready", self.parts.len()));
    }

    fn end(&mut self) {
        if !self.whole.is_finished() && self.parts.values().all(ProgressBar::is_finished) {
            self.whole.set_style(all_ready_style());
            self.whole.finish_with_message(format!("everything is {}", ready(self.started)));
        }
        for bar in self.parts.values().chain([&self.whole]).filter(|bar| !bar.is_finished()) {
            bar.abandon();
        }
    }
}

/// One line on the pipe to who waits. If nobody waits any more, nobody needs to be told.
pub fn tell(told: &Told) {
    let mut line = serde_json::to_string(told).expect("plain data serialises");
    line.push('\n');
    let _ = stdout::print(&line);
}

fn title(member: &Member, name_width: usize) -> String {
    format!("{:13}  {:name_width$}", member.role, member.region.as_str())
}

fn waits(what: &str) -> String {
    if what.starts_with("waits ") { what.to_owned() } else { format!("waits: {what}") }
}

/// What matters to a newcomer; whoever wants the rest has the lines of a pipe, or of the error.
fn first_clause(what: &str) -> &str {
    what.strip_prefix("waits for")
        .and_then(|rest| rest.find(": "))
        .map_or(what, |end| &what[..end + "waits for".len()])
}

fn ready(started: Instant) -> String {
    format!("ready after {:.1} s", started.elapsed().as_secs_f64())
}

fn whole_style() -> ProgressStyle {
    let template = "{spinner} {prefix}: {wide_msg}  {seconds}";
    let seconds = |state: &ProgressState, cell: &mut dyn Write| {
        let _ = write!(cell, "{:.1} s", state.elapsed().as_secs_f64());
    };
    ProgressStyle::with_template(template).expect("the template is well formed").with_key("seconds", seconds)
}

fn all_ready_style() -> ProgressStyle {
    ProgressStyle::with_template("✔ {wide_msg}").expect("the template is well formed")
}

fn waiting_style() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {prefix}  {wide_msg}").expect("the template is well formed")
}

fn ready_style() -> ProgressStyle {
    ProgressStyle::with_template("  ✔ {prefix}  {wide_msg}").expect("the template is well formed")
}

const TICK: Duration = Duration::from_millis(100);
/// The line for all parts, and the cursor's.
const ROWS_BESIDE: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::layout::Role;

    #[test]
    fn a_part_is_shown_waiting_without_the_details() {
        let shown = |what| waits(first_clause(what));
        assert_eq!(shown("waits for a routing table: none on disk: none came"), "waits for a routing table");
        assert_eq!(shown("waits for a replica to serve"), "waits for a replica to serve");
        assert_eq!(shown("nothing listens on [::1]:80 yet"), "waits: nothing listens on [::1]:80 yet");
    }

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
