//! When requests arrive and what each asks for, decided beforehand: nothing here ever hears of an answer. Pure.

use crate::load::prompt::Prompt;
use crate::load::trace::{BLOCK_TOKENS, Trace};
use fastrand::Rng;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One request to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Since the run began.
    pub at: Duration,
    /// Which of the targets it goes to.
    pub target: usize,
    pub prompt: Prompt,
    pub output_tokens: u64,
}

/// All arrivals of a run, in order. The same seed gives the same arrivals.
#[derive(Debug)]
pub struct Schedule {
    source: Source,
    targets: usize,
    seed: u64,
    rng: Rng,
    number: u64,
}

#[derive(Debug)]
enum Source {
    Poisson { wish: Poisson, at: Duration },
    Trace { trace: Trace, block_tokens: u64 },
}

/// Arrivals that know nothing of each other, as those of many clients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Poisson {
    /// Arrivals in a second, on average.
    pub rate: f64,
    pub duration: Duration,
    pub prompt_tokens: Span,
    pub output_tokens: Span,
}

/// How a trace is played.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Playback {
    /// 2 = twice as fast as it was recorded.
    pub speed: f64,
    pub duration: Option<Duration>,
    pub prompt_tokens_max: u64,
    pub output_tokens_max: u64,
    /// What one id stands for; prompts shrink along with it.
    pub block_tokens: u64,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "its arrivals come over {:.1} days, and a run lasts {} days at most: cut it by `--duration`, or play it \
     faster by `--speed`",
    days(*length), days(LENGTH_MAX)
)]
pub struct TooLong {
    length: Duration,
}

/// Requests of a trace that are made to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Clipped {
    pub prompts: u64,
    pub outputs: u64,
}

/// `32`, or `16..64` with both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub min: u64,
    pub max: u64,
}

impl Schedule {
    pub fn poisson(wish: Poisson, targets: usize, seed: u64) -> Self {
        Self::new(Source::Poisson { wish, at: Duration::ZERO }, targets, seed)
    }

    /// A trace, cut and clipped to what is to be played of it.
    pub fn trace(
        mut trace: Trace,
        playback: Playback,
        targets: usize,
        seed: u64,
    ) -> Result<(Self, Clipped), TooLong> {
        let mut clipped = Clipped::default();
        let Playback { speed, duration, prompt_tokens_max, output_tokens_max, block_tokens } = playback;
        for row in &mut trace.rows {
            row.at = row.at.div_f64(speed);
        }
        if let Some(duration) = duration {
            trace.rows.truncate(trace.rows.partition_point(|row| row.at < duration));
        }
        let length = trace.rows.last().map(|row| row.at).unwrap_or_default();
        if length > LENGTH_MAX {
            return Err(TooLong { length });
        }
        for row in &mut trace.rows {
            let shrunk = row.prompt_tokens.saturating_mul(block_tokens).div_ceil(BLOCK_TOKENS);
            row.prompt_tokens = shrunk.clamp(1, prompt_tokens_max);
            clipped.prompts += u64::from(shrunk > prompt_tokens_max);
            clipped.outputs += u64::from(row.output_tokens > output_tokens_max);
            row.output_tokens = row.output_tokens.clamp(1, output_tokens_max);
        }
        Ok((Self::new(Source::Trace { trace, block_tokens }, targets, seed), clipped))
    }

    fn new(source: Source, targets: usize, seed: u64) -> Self {
        Self { source, targets, seed, rng: Rng::with_seed(seed), number: 0 }
    }

    /// How long arrivals come.
    pub fn length(&self) -> Duration {
        match &self.source {
            Source::Poisson { wish, .. } => wish.duration,
            Source::Trace { trace, .. } => trace.rows.last().map(|row| row.at).unwrap_or_default(),
        }
    }

    /// Known beforehand only for a trace.
    pub fn planned(&self) -> Option<usize> {
        match &self.source {
            Source::Poisson { .. } => None,
            Source::Trace { trace, .. } => Some(trace.rows.len()),
        }
    }
}

impl Iterator for Schedule {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let Self { source, rng, number, seed, .. } = self;
        let unshared = |tokens| Prompt {
            tokens,
            blocks: Vec::new(),
            block_tokens: BLOCK_TOKENS,
            seed: *seed,
            number: *number,
        };
        let (at, prompt, output_tokens) = match source {
            Source::Poisson { wish, at } => {
                // 1 - u is above 0, whose logarithm there is.
                let wait = -(1.0 - rng.f64()).ln() / wish.rate;
                *at += Duration::from_secs_f64(wait.min(wish.duration.as_secs_f64()));
                if *at >= wish.duration {
                    return None;
                }
                (*at, unshared(wish.prompt_tokens.draw(rng)), wish.output_tokens.draw(rng))
            }
            Source::Trace { trace, block_tokens } => {
                let row = trace.rows.get(usize::try_from(*number).ok()?)?;
                let blocks = trace.ids[row.ids.clone()].to_vec();
                let prompt = Prompt { blocks, block_tokens: *block_tokens, ..unshared(row.prompt_tokens) };
                (row.at, prompt, row.output_tokens)
            }
        };
        *number += 1;
        // Drawn, not in turn: a share of Poisson arrivals is Poisson again only if chance takes it.
        Some(Arrival { at, target: rng.usize(..self.targets), prompt, output_tokens })
    }
}

fn days(length: Duration) -> f64 {
    length.as_secs_f64() / 86_400.0
}

impl Span {
    fn draw(self, rng: &mut Rng) -> u64 {
        rng.u64(self.min..=self.max)
    }
}

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number =
            |text: &str| text.trim().parse::<u64>().ok().filter(|number| (1..=SPAN_MAX).contains(number));
        let (min, max) = match text.split_once("..") {
            Some((min, max)) => (number(min), number(max)),
            None => (number(text), number(text)),
        };
        match (min, max) {
            (Some(min), Some(max)) if min <= max => Ok(Self { min, max }),
            _ => Err("a number of tokens is 32, or from one to another as in 16..64; 1 to 1000000"),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(formatter, "{}", self.min),
            false => write!(formatter, "{}..{}", self.min, self.max),
        }
    }
}

/// A week is the longest soak; what is kept of a run grows with its length, if slowly.
pub const LENGTH_MAX: Duration = Duration::from_secs(7 * 86_400);
/// A text of a million words is a body of 6 MB.
pub const SPAN_MAX: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::trace;

    const POISSON: Poisson = Poisson {
        rate: 50.0,
        duration: Duration::from_secs(400),
        prompt_tokens: Span { min: 16, max: 64 },
        output_tokens: Span { min: 32, max: 32 },
    };

    fn arrivals(seed: u64) -> Vec<Arrival> {
        Schedule::poisson(POISSON, 2, seed).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_arrivals() {
        assert_eq!(arrivals(7), arrivals(7));
        assert_ne!(arrivals(7), arrivals(8));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_that_they_should() {
        let arrivals = arrivals(7);
        let count = arrivals.len() as f64;
        // 20,000 are expected, give or take 141; five times that never happens by chance.
        assert!((count - 20_000.0).abs() < 700.0, "{count}");
        let waits: Vec<f64> =
            arrivals.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64()).collect();
        let mean = waits.iter().sum::<f64>() / count;
        let variance = waits.iter().map(|wait| (wait - mean).powi(2)).sum::<f64>() / count;
        let ratio = variance.sqrt() / mean;
        assert!((0.95..1.05).contains(&ratio), "exponential waits spread as wide as their mean: {ratio}");
        assert!(arrivals.iter().all(|arrival| arrival.at < POISSON.duration));
    }

    #[test]
    fn lengths_and_targets_are_spread_evenly() {
        let arrivals = arrivals(7);
        let count = arrivals.len() as f64;
        let mean = arrivals.iter().map(|arrival| arrival.prompt.tokens).sum::<u64>() as f64 / count;
        assert!((39.0..41.0).contains(&mean), "{mean}");
        assert!(arrivals.iter().all(|arrival| (16..=64).contains(&arrival.prompt.tokens)));
        assert!(arrivals.iter().any(|arrival| arrival.prompt.tokens == 64));
        assert!(arrivals.iter().all(|arrival| arrival.output_tokens == 32));
        let second = arrivals.iter().filter(|arrival| arrival.target == 1).count() as f64 / count;
        assert!((0.48..0.52).contains(&second), "{second}");
    }

    fn recorded() -> Trace {
        let lines = [(0, 100, 10, "[1,2]"), (4000, 2048, 300, "[1,3,4,5]"), (10000, 0, 0, "[]")];
        let text: String = lines
            .iter()
            .map(|(at, prompt, output, ids)| {
                format!(
                    "{{\"timestamp\":{at},\"input_length\":{prompt},\"output_length\":{output},\"hash_ids\":{ids}}}\n"
                )
            })
            .collect();
        trace::read(text.as_bytes()).unwrap()
    }

    const PLAYBACK: Playback = Playback {
        speed: 2.0,
        duration: None,
        prompt_tokens_max: 512,
        output_tokens_max: 256,
        block_tokens: BLOCK_TOKENS,
    };

    #[test]
    fn a_trace_is_played_at_its_speed_and_clipped() {
        let (schedule, clipped) = Schedule::trace(recorded(), PLAYBACK, 1, 7).unwrap();
        assert_eq!((schedule.planned(), schedule.length()), (Some(3), Duration::from_secs(5)));
        assert_eq!(clipped, Clipped { prompts: 1, outputs: 1 });
        let shapes: Vec<_> = schedule
            .map(|arrival| (arrival.at.as_millis(), arrival.prompt.tokens, arrival.output_tokens))
            .collect();
        assert_eq!(shapes, [(0, 100, 10), (2000, 512, 256), (5000, 1, 1)]);
    }

    #[test]
    fn a_trace_is_cut_after_its_duration_and_only_what_is_left_counts_as_clipped() {
        let playback = Playback { duration: Some(Duration::from_secs(2)), ..PLAYBACK };
        let (schedule, clipped) = Schedule::trace(recorded(), playback, 1, 7).unwrap();
        assert_eq!((schedule.planned(), clipped), (Some(1), Clipped::default()));
    }

    #[test]
    fn a_trace_is_played_for_a_week_at_most() {
        // 10 s of trace.
        let slow = Playback { speed: 1.0 / 60_481.0, ..PLAYBACK };
        let error = Schedule::trace(recorded(), slow, 1, 7).unwrap_err().to_string();
        assert!(error.contains("7.0 days") && error.contains("7 days at most"), "{error}");
        let cut = Playback { duration: Some(LENGTH_MAX), ..slow };
        assert_eq!(Schedule::trace(recorded(), cut, 1, 7).unwrap().0.planned(), Some(2));
        assert!(Schedule::trace(recorded(), Playback { speed: 1.0 / 60_480.0, ..PLAYBACK }, 1, 7).is_ok());
    }

    #[test]
    fn smaller_blocks_shrink_prompts_and_keep_what_they_share() {
        let (schedule, clipped) =
            Schedule::trace(recorded(), Playback { block_tokens: 16, ..PLAYBACK }, 1, 7).unwrap();
        assert_eq!(clipped.prompts, 0);
        let prompts: Vec<Prompt> = schedule.map(|arrival| arrival.prompt).collect();
        assert_eq!((prompts[0].tokens, prompts[1].tokens), (4, 64));
        assert_eq!((prompts[1].block_tokens, &prompts[1].blocks), (16, &vec![1, 3, 4, 5]));
    }

    #[test]
    fn a_span_is_a_number_or_two() {
        assert_eq!("32".parse(), Ok(Span { min: 32, max: 32 }));
        assert_eq!("16..64".parse(), Ok(Span { min: 16, max: 64 }));
        for bad in ["", "0", "-1", "64..16", "..", "1..", "1.5", "1000001", "1...2"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
