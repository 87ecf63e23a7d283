//! Durations as people type them: `20ms`, `2s`, `24h`, `0`.

use std::time::Duration;

/// What lasts: `0` is no such time.
pub fn parse_some(text: &str) -> Result<Duration, &'static str> {
    match parse(text) {
        Ok(Duration::ZERO) => Err(NOTHING),
        parsed => parsed,
    }
}

pub fn parse(text: &str) -> Result<Duration, &'static str> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let unit = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let millis = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, millis)| *millis);
    let digits = text.strip_suffix(unit).filter(|digits| !digits.is_empty());
    let (digits, millis) = digits.zip(millis).ok_or(SHAPE)?;
    let whole: Option<u64> = digits.parse().ok().and_then(|number: u64| number.checked_mul(millis));
    whole.filter(|whole| *whole <= MILLIS_MAX).map(Duration::from_millis).ok_or(TOO_LONG)
}

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SHAPE: &str = "a duration is a whole number with ms, s, m, h or d, such as 20ms";
const NOTHING: &str = "a duration here is longer than nothing";
const TOO_LONG: &str = "a duration has 100 years (36500d) at most";
/// Whoever means longer means for ever, and every date stays one that can be shown.
const MILLIS_MAX: u64 = 36_500 * 86_400_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_unless_it_is_nothing() {
        assert_eq!(parse("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        for bad in ["", "20", "ms", "s", "1.5s", "-1s", "1y", "20 ms"] {
            assert_eq!(parse(bad), Err(SHAPE), "{bad}");
        }
    }

    #[test]
    fn a_duration_is_bounded_and_what_lasts_is_longer_than_nothing() {
        assert!(parse("36500d").is_ok());
        for bad in ["36501d", "99999999999999999d", "99999999999999999999999s"] {
            assert_eq!(parse(bad), Err(TOO_LONG), "{bad}");
        }
        assert_eq!(parse_some("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(
            (parse_some("0"), parse_some("0h"), parse_some("")),
            (Err(NOTHING), Err(NOTHING), Err(SHAPE))
        );
    }
}
