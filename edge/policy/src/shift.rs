//! Caps how fast an edge moves work to a region by its own choice.
//!
//! Load is heard late, so all edges that see a region with room would send it more than it has room for, see it
//! full, and leave again all at once. What they move may grow by a tenth of its capacity in ten seconds.

use std::time::Duration;
use types::Monotonic;

/// What was moved to one region of late, in prompt tokens reckoned with cold caches.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShiftBudget {
    window: u64,
    moved: u64,
    moved_before: u64,
}

impl ShiftBudget {
    /// Whether `tokens` more may be moved to a region that computes `capacity` tokens in a second.
    pub(crate) fn allows(&self, tokens: u64, capacity: u64, now: Monotonic) -> bool {
        let (moved, before) = self.seen_from(window_of(now));
        let capacity = capacity.saturating_mul(WINDOW.as_secs());
        let cap = (before + capacity / 100 * GROWTH_PERCENT).min(capacity / 100 * RECEIVED_PERCENT_MAX);
        // A prompt longer than the whole growth goes alone.
        moved == 0 || moved.saturating_add(tokens) <= cap
    }

    pub(crate) fn moved(&mut self, tokens: u64, now: Monotonic) {
        let window = window_of(now);
        let (moved, before) = self.seen_from(window);
        *self = Self { window, moved: moved.saturating_add(tokens), moved_before: before };
    }

    /// What was moved in a window and in the one before it.
    fn seen_from(&self, window: u64) -> (u64, u64) {
        match window.saturating_sub(self.window) {
            0 => (self.moved, self.moved_before),
            1 => (0, self.moved),
            _ => (0, 0),
        }
    }
}

fn window_of(now: Monotonic) -> u64 {
    now.since(Monotonic::default()).as_secs() / WINDOW.as_secs()
}

const WINDOW: Duration = Duration::from_secs(10);
const GROWTH_PERCENT: u64 = 10;
/// Never so much that the region's own requests would have to leave.
const RECEIVED_PERCENT_MAX: u64 = 85;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_grows_by_a_tenth_of_capacity_in_ten_seconds() {
        let mut budget = ShiftBudget::default();
        let mut moved = Vec::new();
        for window in 0..12_u64 {
            let now = Monotonic::from_micros(window * 10_000_000);
            let mut tokens = 0;
            while budget.allows(100, 1000, now) {
                budget.moved(100, now);
                tokens += 100;
            }
            moved.push(tokens);
        }
        assert_eq!(moved[..3], [1000, 2000, 3000]);
        assert_eq!(moved[11], 8500, "of 10000 that it could compute");
    }
}
