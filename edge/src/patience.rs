//! How long a stream that has begun may be silent before its rest is asked for elsewhere.
//!
//! An engine that hangs says nothing, and neither does one that computes a long prompt between two steps. So each
//! stream is judged by its own rhythm. Suspicion ends nothing: the old stream goes on beside the new one, and
//! whichever speaks first carries the answer. A false alarm costs one prompt's computation, and makes the stream's
//! next alarm come later.

use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// The longest silence of late.
    longest: Duration,
    false_alarms: u32,
}

impl Patience {
    /// Something came after so long.
    pub(crate) fn heard_after(&mut self, silence: Duration) {
        self.longest = silence.max(self.longest.mul_f64(FORGOTTEN_PER_EVENT));
    }

    pub(crate) fn false_alarm(&mut self) {
        self.false_alarms += 1;
    }

    /// The silence that is not waited out any more, where a step takes the node so long.
    pub(crate) fn silence_max(&self, step: Option<Duration>) -> Duration {
        let rhythm = (SILENCES * self.longest).max(STEPS * step.unwrap_or_default());
        let doubled = 1 << self.false_alarms.min(DOUBLINGS_MAX);
        rhythm.clamp(SILENCE_MIN, SILENCE_MAX) * doubled
    }
}

/// Thirty steps of a fast engine; with the prompt computed anew elsewhere, the gap stays about a second.
const SILENCE_MIN: Duration = Duration::from_millis(700);
/// Longer is not worth waiting for without a second iron in the fire, however slow the stream was before.
const SILENCE_MAX: Duration = Duration::from_secs(8);
const SILENCES: u32 = 4;
const STEPS: u32 = 8;
/// An exceptional silence is half forgotten after 34 events.
const FORGOTTEN_PER_EVENT: f64 = 0.98;
/// To 64 times: such a stream is as good as not watched.
const DOUBLINGS_MAX: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_stream_is_judged_by_its_own_rhythm() {
        let mut steady = Patience::default();
        (0..100).for_each(|_| steady.heard_after(ms(20)));
        assert_eq!(steady.silence_max(None), SILENCE_MIN);
        assert_eq!(steady.silence_max(Some(ms(250))), ms(2000), "its node computes something large");
        steady.heard_after(ms(500));
        assert_eq!(steady.silence_max(None), ms(2000));
        (0..200).for_each(|_| steady.heard_after(ms(20)));
        assert_eq!(steady.silence_max(None), SILENCE_MIN, "forgotten");
        steady.heard_after(ms(60_000));
        assert_eq!(steady.silence_max(None), SILENCE_MAX);
    }

    #[test]
    fn false_alarms_make_the_next_come_later_but_it_comes() {
        let mut wrong = Patience::default();
        wrong.false_alarm();
        assert_eq!(wrong.silence_max(None), ms(1400));
        (0..100).for_each(|_| wrong.false_alarm());
        assert_eq!(wrong.silence_max(None), SILENCE_MIN * 64);
    }
}
