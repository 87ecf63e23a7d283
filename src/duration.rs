//! Durations as people type them: `20ms`, `2s`, `24h`, `0`.

use std::time::Duration;

pub fn parse(text: &str) -> Result<Duration, &'static str> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let unit = text.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let millis = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, millis)| *millis);
    let number: Option<u64> = text.strip_suffix(unit).and_then(|digits| digits.parse().ok());
    number
        .zip(millis)
        .and_then(|(number, millis)| number.checked_mul(millis))
        .map(Duration::from_millis)
        .ok_or(SHAPE)
}

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SHAPE: &str = "a duration is a whole number with ms, s, m, h or d, such as 20ms";

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
        for bad in ["", "20", "ms", "s", "1.5s", "-1s", "1y", "20 ms", "99999999999999999d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
