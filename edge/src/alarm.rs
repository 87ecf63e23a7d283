//! A timer for waits that mostly end before it goes off. It is left set when such a wait ends, and looks again when
//! it goes off for one that has ended: to set a timer of the runtime anew for each event of each stream costs more
//! than to wake up in vain now and then.

use std::pin::Pin;
use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Default)]
pub(crate) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Waits until then.
    pub(crate) async fn at(&mut self, due: Instant) {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
            if sleep.is_elapsed() || sleep.deadline() > due {
                sleep.as_mut().reset(due);
            }
            sleep.as_mut().await;
            if Instant::now() >= due {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::time::Duration;

    const STEP: Duration = Duration::from_millis(10);

    #[tokio::test]
    async fn a_wait_takes_its_own_time_whatever_was_set_before() {
        let mut alarm = Alarm::default();
        for (left, waited) in [(1, 3), (9, 2), (0, 1)] {
            // Left before it goes off, earlier or later than the next.
            let _ = alarm.at(Instant::now() + left * STEP).now_or_never();
            let due = Instant::now() + waited * STEP;
            alarm.at(due).await;
            let late = Instant::now().checked_duration_since(due);
            assert!(late.is_some_and(|late| late < 6 * STEP), "{left} then {waited}: {late:?}");
        }
    }
}
