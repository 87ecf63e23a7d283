//! How a run goes, told while it does: a bar on a terminal, elsewhere a line every few seconds.

use crate::load::run::Progress;
use crate::sandbox::view::screen;
use crate::say::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

pub enum Shown {
    /// Drawn only while the terminal is this process's: `rhumb load … &` leaves it to the shell.
    Bar(ProgressBar),
    Lines {
        next: Duration,
    },
}

impl Shown {
    /// On standard error, as fits what it is.
    pub fn to_people(length: Duration) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { next: BETWEEN_LINES };
        }
        let bar = ProgressBar::new(millis(length));
        bar.set_style(
            ProgressStyle::with_template("  {bar:30} {wide_msg}").expect("the template is well formed"),
        );
        Self::Bar(bar)
    }

    pub fn update(&mut self, progress: &Progress<'_>) {
        match self {
            Self::Bar(_) if !screen::is_ours(&std::io::stderr()) => {}
            Self::Bar(bar) => {
                bar.set_position(millis(progress.elapsed));
                bar.set_message(words(progress));
            }
            Self::Lines { next } if progress.elapsed >= *next => {
                *next += BETWEEN_LINES;
                say!("  {}", words(progress));
            }
            Self::Lines { .. } => {}
        }
    }

    /// Leaves the terminal to whoever writes next.
    pub fn end(&self) {
        let Self::Bar(bar) = self else { return };
        if !screen::is_ours(&std::io::stderr()) {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar.finish_and_clear();
    }
}

fn words(progress: &Progress<'_>) -> String {
    let counts = progress.summary.all.counts;
    let (seconds, served) = (progress.elapsed.as_secs_f64(), counts.served);
    let rate = served as f64 / seconds.max(0.001);
    let mut words =
        format!("{seconds:.0} s  {served} served ({rate:.1}/s)  {} in flight", progress.in_flight);
    for (count, name) in [
        (counts.refused, "refused"),
        (counts.failed, "failed"),
        (counts.broken, "broken"),
        (counts.not_sent, "not sent"),
    ] {
        if count > 0 {
            words.push_str(&format!("  {count} {name}"));
        }
    }
    words
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

const BETWEEN_LINES: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::record::{Outcome, Record, Seen};
    use crate::load::summary::Summary;

    #[test]
    fn only_what_goes_wrong_is_spoken_of() {
        let mut summary = Summary::new(1);
        let mut add = |outcome| {
            summary.add(&Record {
                target: 0,
                scheduled: Duration::ZERO,
                sent: None,
                seen: Seen::default(),
                end: Duration::ZERO,
                outcome,
            });
        };
        add(Outcome::Served);
        add(Outcome::NotSent);
        let progress = Progress { elapsed: Duration::from_secs(2), in_flight: 3, summary: &summary };
        assert_eq!(words(&progress), "2 s  1 served (0.5/s)  3 in flight  1 not sent");
    }
}
