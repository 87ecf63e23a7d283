//! How long bytes travel between regions.

use std::time::Duration;
use types::{Place, RegionName};

/// The round trip between two regions: measured for well-known pairs, by distance for all others.
pub fn round_trip(a: (&RegionName, Place), b: (&RegionName, Place)) -> Duration {
    let known = KNOWN.iter().find(|(one, other, _)| {
        let is = |region: &RegionName, name: &str| region.as_str() == name;
        (is(a.0, one) && is(b.0, other)) || (is(a.0, other) && is(b.0, one))
    });
    match known {
        Some((.., milliseconds)) => Duration::from_millis(*milliseconds),
        None => Duration::from_secs_f64(a.1.kilometres_to(b.1) * SECONDS_PER_KILOMETRE) + LEAST,
    }
}

/// Round trips as clouds publish them between these places, rounded.
const KNOWN: &[(&str, &str, u64)] =
    &[("us-east", "eu-west", 80), ("us-east", "ap-south", 200), ("eu-west", "ap-south", 130)];
/// Light in glass needs 10 µs for a kilometre there and back; cables lie half as long again as the great circle.
const SECONDS_PER_KILOMETRE: f64 = 15e-6;
/// Two sites in one city.
const LEAST: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_agrees_with_what_is_measured() {
        let at = |name: &str, latitude, longitude| {
            (name.parse::<RegionName>().unwrap(), Place { latitude, longitude })
        };
        let regions =
            [at("us-east", 39.04, -77.49), at("eu-west", 53.35, -6.26), at("ap-south", 19.08, 72.88)];
        for (a, b, expected) in [(0, 1, 80.0), (0, 2, 200.0), (1, 2, 130.0)] {
            let (a, b) = (&regions[a], &regions[b]);
            let measured = round_trip((&a.0, a.1), (&b.0, b.1)).as_secs_f64() * 1e3;
            assert_eq!(measured, expected);
            assert_eq!(round_trip((&b.0, b.1), (&a.0, a.1)), round_trip((&a.0, a.1), (&b.0, b.1)));
            let elsewhere: RegionName = "elsewhere".parse().unwrap();
            let computed = round_trip((&a.0, a.1), (&elsewhere, b.1)).as_secs_f64() * 1e3;
            assert!((0.8..1.2).contains(&(computed / measured)), "{computed} for {measured}");
        }
    }
}
