//! The one place where the edge reads a clock for its decisions.

use std::time::{Instant, SystemTime, UNIX_EPOCH};
use types::{Monotonic, UnixMs};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Monotonic {
        Monotonic::from_micros(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// For records and people, and for the ends of keys, which people set.
    pub(crate) fn wall(&self) -> UnixMs {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMs(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
    }
}
