//! Gives whoever comes back little at first: caches are cold, and what made it fall may not be mended.

use std::time::Duration;
use types::Monotonic;

/// The share, of a thousand, that is due to something that began at `since`.
pub(crate) fn weight(since: Option<Monotonic>, ramp: Duration, now: Monotonic) -> u64 {
    let Some(since) = since else { return WHOLE };
    let (passed, ramp) = (now.since(since).as_micros() as u64, ramp.as_micros() as u64);
    if passed >= ramp { WHOLE } else { WEIGHT_MIN + (WHOLE - WEIGHT_MIN) * passed / ramp }
}

pub(crate) const WHOLE: u64 = 1000;
/// Enough to learn how it does, and to warm it.
const WEIGHT_MIN: u64 = 100;
/// A replica's cache is warm by then, and its kernels are compiled.
pub(crate) const NODE_RAMP: Duration = Duration::from_secs(120);
/// Many replicas at once, and whatever they all depend on.
pub(crate) const REGION_RAMP: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_from_a_tenth_to_the_whole() {
        let at = |seconds: u64| Monotonic::from_micros(seconds * 1_000_000);
        let weight = |seconds| weight(Some(at(10)), NODE_RAMP, at(seconds));
        assert_eq!([weight(10), weight(70), weight(130), weight(1000)], [100, 550, 1000, 1000]);
    }
}
