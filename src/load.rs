//! `rhumb load`: offers requests as clients would, and measures what they get.
//!
//! In reading order: [`trace`] recorded arrivals · [`arrivals`] what is to be sent when · [`prompt`] the texts ·
//! [`aim`] where it goes, as [`target`]s · [`send`] one request, its answer read by [`answer`] · [`record`] what became of it, written by [`recorder`] ·
//! [`run`] all of them · [`summary`] the numbers of a run · [`report`] what is told of it · [`progress`] what is
//! told while it runs.

pub mod aim;
pub mod answer;
pub mod arrivals;
pub mod progress;
pub mod prompt;
pub mod record;
pub mod recorder;
pub mod report;
pub mod run;
pub mod send;
pub mod summary;
pub mod target;
pub mod trace;

use crate::cli::Output;
use crate::failure::WrongUsage;
use crate::say::say;
use crate::{duration, stdout};
use aim::{Aim, Destination};
use anyhow::Context;
use arrivals::{Clipped, LENGTH_MAX, Playback, Poisson, SPAN_MAX, Schedule, Span};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal as set_signal};
use progress::Shown;
use recorder::Recorder;
use report::{Facts, Report};
use run::{Run, Told};
use send::Client;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use target::Target;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Offer requests to an endpoint and measure what its clients get
///
/// Arrivals are decided beforehand and never wait for answers: a server that becomes slow meets
/// the same load as before, as it would from clients who know nothing of each other. All times run
/// from the moment a request was scheduled for, not from when it was sent, so that waiting which
/// this client causes shows as well (there is no coordinated omission); "sent late by" says how
/// much of it that is.
///
/// What can become of a request:
///   served     its stream came to [DONE], or its whole answer came
///   refused    the server said no: status 4xx or 503
///   failed     it ended before any text came, or with another 5xx
///   broken     text had come, and then an error, or an end without [DONE]
///   not sent   more than --in-flight-max were running
///
/// First-token and inter-token times count every stream, end-to-end times what was served. Ctrl-C
/// ends a run early; what was measured until then is told, and what was still running is counted
/// as abandoned. The exit status is 0 however the requests fared, unless --fail-on-error is given.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, after_long_help = EXAMPLES)]
pub struct Load {
    /// Arrivals in a second, on average over all regions; the times between them are exponential (Poisson)
    #[arg(long, value_name = "R", default_value = "10", value_parser = rate, allow_negative_numbers = true)]
    #[arg(conflicts_with = "trace", help_heading = ARRIVALS)]
    rate: f64,
    /// How long requests arrive; running ones are waited for [default: 30s, or the whole trace]
    #[arg(long, value_name = "TIME", value_parser = duration_of_run, help_heading = ARRIVALS)]
    duration: Option<Duration>,
    /// Draw arrivals, lengths and words from this number, so that a run can be repeated [default: drawn, and told]
    #[arg(long, value_name = "N", help_heading = ARRIVALS)]
    seed: Option<u64>,
    /// Send at the times and in the lengths of a recorded trace
    ///
    /// Either CSV with the columns TIMESTAMP, ContextTokens and GeneratedTokens, as Azure publishes them, or JSON
    /// lines with timestamp (in ms), input_length, output_length and hash_ids, as Mooncake does. Prompts whose
    /// leading hash_ids are equal begin with the same text, one id for 512 tokens.
    #[arg(long, value_name = "FILE", help_heading = ARRIVALS)]
    trace: Option<PathBuf>,
    /// Play the trace so many times as fast
    #[arg(long, value_name = "X", default_value = "1", value_parser = speed, allow_negative_numbers = true)]
    #[arg(requires = "trace", help_heading = ARRIVALS)]
    speed: f64,
    /// Shorten longer prompts of the trace to this [default: 512 for the sandbox's small model, else as they are]
    #[arg(long, value_name = "N", value_parser = tokens(), requires = "trace", help_heading = ARRIVALS)]
    prompt_tokens_max: Option<u64>,
    /// Shorten longer answers of the trace to this [default: 256 for the sandbox's small model, else as they are]
    #[arg(long, value_name = "N", value_parser = tokens(), requires = "trace", help_heading = ARRIVALS)]
    output_tokens_max: Option<u64>,
    /// The prompt tokens that one hash_id stands for; fewer shrink every prompt and keep what prompts share
    #[arg(long, value_name = "N", default_value_t = trace::BLOCK_TOKENS, help_heading = ARRIVALS)]
    #[arg(value_parser = RangedU64ValueParser::<u64>::new().range(1..=trace::BLOCK_TOKENS), requires = "trace")]
    block_tokens: u64,

    /// Tokens of each prompt, such as 64, or evenly spread as in 16..64; by the house model's count
    #[arg(long, value_name = "N|A..B", default_value = "16..64", conflicts_with = "trace", help_heading = REQUESTS)]
    prompt_tokens: Span,
    /// Tokens of each answer
    #[arg(long, value_name = "N|A..B", default_value = "32", conflicts_with = "trace", help_heading = REQUESTS)]
    output_tokens: Span,
    /// Let the model end its answers; otherwise they have the tokens asked for (by vLLM's field ignore_eos)
    #[arg(long, help_heading = REQUESTS)]
    let_end: bool,
    /// Ask for whole answers, which have no first token to be timed
    #[arg(long, help_heading = REQUESTS)]
    no_stream: bool,
    /// Give up on a request after this
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration::parse_some)]
    #[arg(help_heading = REQUESTS)]
    timeout: Duration,
    /// Requests that may run at once; an arrival beyond them is counted as not sent, and never delayed
    #[arg(long, value_name = "N", default_value_t = 1000, help_heading = REQUESTS)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=IN_FLIGHT_MAX))]
    in_flight_max: usize,

    #[command(flatten)]
    destination: Destination,
    #[command(flatten)]
    output: Output,
    /// Write one JSON object a line for each request
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Exit with status 1 if any request was refused, failed, broken or not sent, or if there was none
    #[arg(long)]
    fail_on_error: bool,
}

impl Load {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let seed = self.seed.unwrap_or_else(|| u64::from(fastrand::u32(..)));
        let mut aim = self.destination.aim()?;
        let count = aim.targets.len();
        let (schedule, clipped) = self.schedule(count, seed)?;
        self.have_enough_files(count)?;
        for target in &mut aim.targets {
            target.idle_max = idle_max(self.in_flight_max, count);
        }
        let mut recorder = self.record.as_deref().map(Recorder::create).transpose()?;
        self.announce(&aim, &schedule, clipped, seed);
        let names: Vec<Option<String>> = aim.targets.iter().map(|target| target.region.clone()).collect();
        let mut shown = Shown::to_people(schedule.length());
        let client = Client {
            targets: aim.targets,
            authorization: aim.authorization,
            model: aim.model,
            streams: !self.no_stream,
            ignore_eos: !self.let_end,
            timeout: self.timeout,
        };
        let client = Arc::new(client);
        let run = Run {
            schedule,
            client: client.clone(),
            in_flight_max: self.in_flight_max,
            stop: CancellationToken::new(),
        };
        let tell = |told: Told<'_>| match told {
            Told::Ended(record) => {
                if let Some(recorder) = &mut recorder {
                    recorder.write(&record.line(names[record.target].as_deref()));
                }
            }
            Told::Passed(progress) => shown.update(&progress),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let finished = runtime.block_on(async {
            stop_on_signal(run.stop.clone())?;
            anyhow::Ok(run.finish(tell).await)
        })?;
        shown.end();
        let facts = Facts { seed, clipped, duration: finished.duration, interrupted: finished.interrupted };
        let report = Report::new(&finished.summary, facts, &names);
        match self.output.json {
            true => stdout::print_json(&report)?,
            false => stdout::print(&report.shown())?,
        };
        let reasons = client.targets.iter().flat_map(Target::reasons).collect();
        for hint in report.hints(self.destination.url.is_none(), &reasons) {
            say!("  next: {hint}");
        }
        recorder.map_or(Ok(()), Recorder::end)?;
        let is_bad = self.fail_on_error && (report.requests.errors() > 0 || report.requests.scheduled == 0);
        Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn schedule(&self, targets: usize, seed: u64) -> anyhow::Result<(Schedule, Clipped)> {
        let Some(path) = &self.trace else {
            let wish = Poisson {
                rate: self.rate,
                duration: self.duration.unwrap_or(DURATION_DEFAULT),
                prompt_tokens: self.prompt_tokens,
                output_tokens: self.output_tokens,
            };
            return Ok((Schedule::poisson(wish, targets, seed), Clipped::default()));
        };
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let trace = trace::read(BufReader::new(file)).map_err(|error| match &error {
            // As compilers write it, so that an editor finds the place.
            trace::TraceError::Line { line, reason } => {
                anyhow::anyhow!("{}:{line}: {reason}", path.display())
            }
            _ => anyhow::Error::new(error).context(format!("{} is no trace", path.display())),
        })?;
        let max = |asked: Option<u64>, small: u64| {
            asked.unwrap_or(if self.destination.url.is_some() { SPAN_MAX } else { small })
        };
        let playback = Playback {
            speed: self.speed,
            duration: self.duration,
            prompt_tokens_max: max(self.prompt_tokens_max, SANDBOX_PROMPT_TOKENS_MAX),
            output_tokens_max: max(self.output_tokens_max, SANDBOX_OUTPUT_TOKENS_MAX),
            block_tokens: self.block_tokens,
        };
        let schedule = Schedule::trace(trace, playback, targets, seed);
        schedule.with_context(|| format!("{} is too long", path.display()))
    }

    /// Without enough files, connections would fail and look like the server's failures.
    fn have_enough_files(&self, targets: usize) -> anyhow::Result<()> {
        let wanted = files(self.in_flight_max, targets);
        let (soft, hard) =
            getrlimit(Resource::RLIMIT_NOFILE).context("the limit of open files is unknown")?;
        if hard >= wanted {
            // The usual soft limit of 1,024 is meant for programs that `select`.
            return setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard)
                .context("the limit of open files cannot be raised");
        }
        Err(WrongUsage(too_few_files(hard, targets)).into())
    }

    fn announce(&self, aim: &Aim, schedule: &Schedule, clipped: Clipped, seed: u64) {
        let length = seconds(schedule.length());
        let what = match schedule.planned() {
            None => format!("{} requests/s for {length}", self.rate),
            Some(count) => format!("{count} requests of a trace over {length}"),
        };
        say!("{what} to {} for {}; --seed {seed}", aim.place, aim.model);
        if clipped != Clipped::default() {
            let Clipped { prompts, outputs } = clipped;
            say!(
                "{prompts} prompts and {outputs} answers of the trace are clipped to what may be asked for; \
                 --block-tokens shrinks all prompts alike"
            );
        }
    }
}

/// What a run may have open at once.
fn files(in_flight_max: usize, targets: usize) -> u64 {
    let idle = match targets {
        // A request takes an idle connection before it opens one.
        1 => 0,
        _ => targets * idle_max(in_flight_max, targets),
    };
    (in_flight_max + idle) as u64 + OTHER_FILES
}

/// Idle connections of each target: together as many as requests, wherever those went before.
fn idle_max(in_flight_max: usize, targets: usize) -> usize {
    in_flight_max.div_ceil(targets)
}

fn too_few_files(hard: u64, targets: usize) -> String {
    let left = usize::try_from(hard.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX);
    let share = if targets == 1 { left } else { left / 2 };
    // Rounding up may take one more of each target.
    let fits = (share.saturating_sub(targets)..=share).rev().find(|fits| files(*fits, targets) <= hard);
    match fits {
        Some(fits @ 1..) => format!(
            "this process may open {hard} files: ask for `--in-flight-max {fits}` at most, or allow more by \
             `ulimit -n`"
        ),
        _ => {
            format!("this process may open {hard} files, too few for any request: allow more by `ulimit -n`")
        }
    }
}

/// Ctrl-C, SIGTERM and a terminal that closes end the arrivals; what was measured until then is still told.
fn stop_on_signal(stop: CancellationToken) -> io::Result<()> {
    let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
    // SAFETY: to ignore a signal runs no code of ours, and whoever waits for it below does so from then on.
    let before = unsafe { set_signal(Signal::SIGHUP, SigHandler::SigIgn) }?;
    // `nohup` asks a run to outlive its terminal.
    if !matches!(before, SigHandler::SigIgn) {
        kinds.push(SignalKind::hangup());
    }
    for kind in kinds {
        let (mut signal, stop) = (signal(kind)?, stop.clone());
        tokio::spawn(async move {
            signal.recv().await;
            stop.cancel();
        });
    }
    Ok(())
}

/// To the millisecond, which is as short as a duration can be typed.
fn seconds(length: Duration) -> String {
    format!("{} s", length.as_millis() as f64 / 1000.0)
}

fn rate(text: &str) -> Result<f64, String> {
    positive(text, RATE_MAX).ok_or_else(|| format!("a rate is a number above 0, to {RATE_MAX} a second"))
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = positive(text, SPEED_MAX).filter(|speed| *speed >= 1.0 / SPEED_MAX);
    speed.ok_or_else(|| format!("a speed is a number from {} to {SPEED_MAX}", 1.0 / SPEED_MAX))
}

fn positive(text: &str, max: f64) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| *number > 0.0 && *number <= max)
}

fn duration_of_run(text: &str) -> Result<Duration, String> {
    let duration = duration::parse_some(text)?;
    if duration > LENGTH_MAX {
        return Err("a run lasts 7d at most".to_owned());
    }
    Ok(duration)
}

fn tokens() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(1..=SPAN_MAX)
}

const ARRIVALS: &str = "Arrivals";
const REQUESTS: &str = "Requests";
const EXAMPLES: &str = "\
Examples:
  rhumb load --rate 20 --duration 1m --region us-east,eu-west
  rhumb load --trace azure_llm_2023_conv.csv --speed 2 --duration 5m
  rhumb load --trace mooncake_conversation.jsonl --block-tokens 16 --record requests.jsonl
  rhumb load --rate 500 --no-stream --output-tokens 1 --json
  RHUMB_KEY=… rhumb load --url https://api.example.com/v1 --model llama --prompt-tokens 512..2048";

const DURATION_DEFAULT: Duration = Duration::from_secs(30);
/// One process offers some tens of thousands a second.
const RATE_MAX: f64 = 100_000.0;
const SPEED_MAX: f64 = 10_000.0;
const IN_FLIGHT_MAX: u64 = 1_000_000;
/// Together three quarters of the house model's context, so that template and rounding never matter.
const SANDBOX_PROMPT_TOKENS_MAX: u64 = 512;
const SANDBOX_OUTPUT_TOKENS_MAX: u64 = 256;
/// Standard streams, the runtime's own, a record.
const OTHER_FILES: u64 = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::raise;

    #[tokio::test]
    async fn a_terminal_that_closes_ends_a_run_like_its_user_would() {
        let stop = CancellationToken::new();
        stop_on_signal(stop.clone()).unwrap();
        raise(Signal::SIGHUP).unwrap();
        tokio::time::timeout(Duration::from_secs(10), stop.cancelled()).await.unwrap();
    }

    #[test]
    fn idle_connections_of_many_regions_are_bounded_and_advice_always_fits() {
        assert_eq!(files(1000, 1), 1000 + OTHER_FILES);
        assert_eq!(files(1000, 20), 2000 + OTHER_FILES);
        for (hard, targets) in [(1024, 1), (1024, 3), (40, 3), (34, 1), (34, 3), (33, 1)] {
            let advice = too_few_files(hard, targets);
            let fits = advice.split("--in-flight-max ").nth(1).map(|rest| rest.split('`').next().unwrap());
            match fits.map(|fits| fits.parse::<usize>().unwrap()) {
                Some(fits) => assert!(fits > 0 && files(fits, targets) <= hard, "{hard} {targets}: {advice}"),
                None => assert!(files(1, targets) > hard, "{hard} {targets}: {advice}"),
            }
            assert!(advice.contains("ulimit -n"), "{advice}");
        }
    }

    #[test]
    fn a_length_is_told_as_it_was_typed() {
        let shown = [500, 1500, 30_000, 1].map(|millis| seconds(Duration::from_millis(millis)));
        assert_eq!(shown, ["0.5 s", "1.5 s", "30 s", "0.001 s"]);
    }

    #[test]
    fn numbers_out_of_reach_are_wrong_usage() {
        for bad in ["0", "-1", "1e9", "NaN", "inf", "", "ten"] {
            assert!(rate(bad).is_err() && speed(bad).is_err(), "{bad}");
        }
        assert_eq!((rate("0.5"), rate("100000"), speed("0.0001")), (Ok(0.5), Ok(100_000.0), Ok(0.0001)));
        for bad in ["0", "8d", "-1s", "5"] {
            assert!(duration_of_run(bad).is_err(), "{bad}");
        }
    }
}
