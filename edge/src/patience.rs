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

    /// The silence that is not waited out any more, where a step takes the node so long, and an answer may stand still
    /// for `stall_max` in all: of which another node needs half to go on, unless that was in vain before.
    pub(crate) fn silence_max(&self, step: Option<Duration>, stall_max: Duration) -> Duration {
        let beyond = |usual: Duration, times: u32| usual + (times * usual).max(EXTRA_MIN);
        let rhythm = beyond(self.longest, SILENCES).max(beyond(step.unwrap_or_default(), STEPS));
        let doubled = 1 << self.false_alarms.min(DOUBLINGS_MAX);
        let within = if self.false_alarms > ALARMS_HEEDED { stall_max } else { stall_max / 2 };
        (rhythm.min(SILENCE_MAX) * doubled).min(within)
    }
}

/// What the client waits for in vain before its rest is asked for. Thirty steps of a fast engine; with the prompt
/// computed anew elsewhere, the extra wait stays about a second.
const EXTRA_MIN: Duration = Duration::from_millis(700);
/// Longer is not worth waiting for without a second iron in the fire, however slow the stream was before.
const SILENCE_MAX: Duration = Duration::from_secs(8);
/// A stream whose silences are longer than [`EXTRA_MIN`] waits for two of them.
const SILENCES: u32 = 1;
/// One whose steps are longer than a quarter of a second waits for four: a step is a mean.
const STEPS: u32 = 3;
/// An exceptional silence is half forgotten after 34 events.
const FORGOTTEN_PER_EVENT: f64 = 0.98;
/// To 64 times: such a stream is as good as not watched.
const DOUBLINGS_MAX: u32 = 6;
/// A pause that comes again and again must not cost a prompt's computation each time.
const ALARMS_HEEDED: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_stream_is_judged_by_its_own_rhythm() {
        let mut steady = Patience::default();
        (0..100).for_each(|_| steady.heard_after(ms(20)));
        assert_eq!(steady.silence_max(None, HOUR), ms(720));
        assert_eq!(steady.silence_max(Some(ms(500)), HOUR), ms(2000), "its node computes something large");
        steady.heard_after(ms(900));
        assert_eq!(steady.silence_max(None, HOUR), ms(1800));
        (0..200).for_each(|_| steady.heard_after(ms(20)));
        assert_eq!(steady.silence_max(None, HOUR), ms(720), "forgotten");
        steady.heard_after(ms(60_000));
        assert_eq!(steady.silence_max(None, HOUR), SILENCE_MAX);
    }

    /// The promise is a second more than the stream's own rhythm; the other node needs the rest of it.
    #[test]
    fn the_extra_wait_is_the_same_for_quick_and_for_hesitant_streams() {
        for usual in [0, 20, 100, 175, 230, 450, 700] {
            let mut stream = Patience::default();
            stream.heard_after(ms(usual));
            assert_eq!(stream.silence_max(Some(ms(usual / 4)), HOUR) - ms(usual), EXTRA_MIN, "{usual} ms");
        }
    }

    #[test]
    fn false_alarms_make_the_next_come_later_but_it_comes() {
        let mut wrong = Patience::default();
        wrong.false_alarm();
        assert_eq!(wrong.silence_max(None, HOUR), ms(1400));
        (0..100).for_each(|_| wrong.false_alarm());
        assert_eq!(wrong.silence_max(None, HOUR), EXTRA_MIN * 64);
        assert_eq!(wrong.silence_max(None, ms(2000)), ms(2000), "nor is anybody asked in vain again");
        assert_eq!(Patience::default().silence_max(None, ms(1000)), ms(500));
    }
}
