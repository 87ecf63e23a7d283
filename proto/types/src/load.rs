//! What a node says of its own load, for one model version.
//!
//! Text on the wire, one line of `key=value`, because it travels in a header, in an SSE comment and in the
//! body of `GET /rhumb/v1/load`. Numbers only, clamped, of fixed size: a strange peer can mislead routing but
//! cannot break it. Unknown keys are skipped (a newer peer), missing numbers are zero, a missing state is an
//! error.

use std::fmt;
use std::str::FromStr;

/// Whether new work is welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadState {
    /// No replica has answered yet, or none is left.
    #[default]
    Starting,
    Serving,
    /// Finishes what it has; takes nothing new.
    Draining,
}

/// One reading of a replica (from an engine) or of all replicas of a version on a node (from an agent).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadFrame {
    /// Random per process start: a changed value means that all counters began anew.
    pub boot: u64,
    /// Grows by one per frame; an older frame than the last one seen is ignored.
    pub sequence: u64,
    pub state: LoadState,
    /// Replicas that serve.
    pub replicas: u32,
    /// Sequences that can run at once.
    pub slots: u32,
    /// Requests being generated now.
    pub running: u32,
    /// Requests accepted and not yet running.
    pub queued: u32,
    /// Prompt tokens not yet computed, of queued and running requests.
    pub queued_prefill_tokens: u64,
    /// Tokens for which KV cache is free.
    pub kv_free_tokens: u64,
    /// Free accelerator memory; 0 without one.
    pub gpu_free_mib: u32,
    /// Duration of one step, a moving mean.
    pub step_us: u32,
    /// Measured prompt tokens per second while prefilling; 0 = not measured yet.
    pub prefill_tokens_per_s: u32,
    /// Measured tokens per second while decoding; 0 = not measured yet.
    pub decode_tokens_per_s: u32,
}

impl LoadState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for LoadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "boot={:x} seq={} state={} replicas={} slots={} running={} queued={} queued_prefill={} kv_free={} \
             gpu_free_mib={} step_us={} prefill_rate={} decode_rate={}",
            self.boot,
            self.sequence,
            self.state.as_str(),
            self.replicas,
            self.slots,
            self.running,
            self.queued,
            self.queued_prefill_tokens,
            self.kv_free_tokens,
            self.gpu_free_mib,
            self.step_us,
            self.prefill_tokens_per_s,
            self.decode_tokens_per_s,
        )
    }
}

impl FromStr for LoadFrame {
    type Err = BadLoadFrame;

    fn from_str(text: &str) -> Result<Self, BadLoadFrame> {
        if text.len() > TEXT_MAX {
            return Err(BadLoadFrame::TooLong);
        }
        let mut frame = Self::default();
        let mut state = None;
        for pair in text.split_ascii_whitespace() {
            let (key, value) = pair.split_once('=').ok_or(BadLoadFrame::NotAPair)?;
            let count = || number(value).map(|value| value.min(u64::from(COUNT_MAX)) as u32);
            match key {
                "boot" => {
                    frame.boot = u64::from_str_radix(value, 16).map_err(|_| BadLoadFrame::NotANumber)?;
                }
                "seq" => frame.sequence = number(value)?,
                "state" => state = Some(parse_state(value)?),
                "replicas" => frame.replicas = count()?,
                "slots" => frame.slots = count()?,
                "running" => frame.running = count()?,
                "queued" => frame.queued = count()?,
                "queued_prefill" => frame.queued_prefill_tokens = number(value)?.min(TOKENS_MAX),
                "kv_free" => frame.kv_free_tokens = number(value)?.min(TOKENS_MAX),
                "gpu_free_mib" => frame.gpu_free_mib = count()?,
                "step_us" => frame.step_us = count()?,
                "prefill_rate" => frame.prefill_tokens_per_s = count()?,
                "decode_rate" => frame.decode_tokens_per_s = count()?,
                _ => {}
            }
        }
        frame.state = state.ok_or(BadLoadFrame::NoState)?;
        Ok(frame)
    }
}

/// A text that is not a load frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadLoadFrame {
    #[error("a load frame is longer than {TEXT_MAX} bytes")]
    TooLong,
    #[error("a load frame is made of key=value pairs")]
    NotAPair,
    #[error("a load frame's value is not a number")]
    NotANumber,
    #[error("a load frame's state is starting, serving or draining")]
    NotAState,
    #[error("a load frame has no state")]
    NoState,
}

fn number(text: &str) -> Result<u64, BadLoadFrame> {
    text.parse().map_err(|_| BadLoadFrame::NotANumber)
}

fn parse_state(text: &str) -> Result<LoadState, BadLoadFrame> {
    [LoadState::Starting, LoadState::Serving, LoadState::Draining]
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or(BadLoadFrame::NotAState)
}

/// Far beyond any honest frame (about 250 bytes), far below a header limit.
const TEXT_MAX: usize = 1024;
/// A thousand million of anything on one node is a lie; sums over a fleet still fit in 64 bits.
const COUNT_MAX: u32 = 1_000_000_000;
const TOKENS_MAX: u64 = 1_000_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_goes_there_and_back() {
        let frame = LoadFrame {
            boot: 0xfeed,
            sequence: 2,
            state: LoadState::Serving,
            replicas: 3,
            slots: 4,
            running: 5,
            queued: 6,
            queued_prefill_tokens: 7,
            kv_free_tokens: 8,
            gpu_free_mib: 9,
            step_us: 10,
            prefill_tokens_per_s: 11,
            decode_tokens_per_s: 12,
        };
        assert_eq!(frame.to_string().parse(), Ok(frame));
    }

    #[test]
    fn strange_peers_are_clamped_or_refused() {
        let huge: LoadFrame = "state=serving queued=18446744073709551615 new_key=1".parse().unwrap();
        assert_eq!(huge.queued, COUNT_MAX);
        let bad = |text: &str| text.parse::<LoadFrame>().unwrap_err();
        assert_eq!(bad("queued=1"), BadLoadFrame::NoState);
        assert_eq!(bad("state=happy"), BadLoadFrame::NotAState);
        assert_eq!(bad("state=serving queued=-1"), BadLoadFrame::NotANumber);
        assert_eq!(bad("serving"), BadLoadFrame::NotAPair);
        assert_eq!(bad(&"x=1 ".repeat(300)), BadLoadFrame::TooLong);
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused(text: String) {
            let _ = text.parse::<LoadFrame>();
        }
    }
}
