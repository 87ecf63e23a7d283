//! Clocks as values. Pure code never reads a clock: its caller does, and hands the reading in.

use std::ops::Add;
use std::time::Duration;

/// Microseconds since a start of the process's own choosing; never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Monotonic(u64);

impl Monotonic {
    pub fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Time since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Wall time, milliseconds since 1970. For records, for people, and for ends that operators set by the calendar;
/// how long something takes is measured by [`Monotonic`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct UnixMs(pub u64);
