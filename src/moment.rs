//! Points in time: the clock's, and as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use types::UnixMs;

pub fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub fn from_now(wait: Duration) -> UnixMs {
    UnixMs(now().0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
}

/// `2026-11-20 15:04 UTC`.
pub fn shown(at: UnixMs) -> String {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    match OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(at) => format!(
            "{}-{:02}-{:02} {:02}:{:02} UTC",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute()
        ),
        // Beyond the year 9999.
        Err(_) => "never".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_shown_to_the_minute() {
        assert_eq!(shown(UnixMs(1_800_000_000_000)), "2027-01-15 08:00 UTC");
        assert_eq!(shown(UnixMs(u64::MAX)), "never");
    }
}
