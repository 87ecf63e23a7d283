//! Durations as people type them: `20ms`, `2s`, `0`.

use std::time::Duration;

pub fn parse(text: &str) -> Result<Duration, &'static str> {
    let number =
        |digits: &str| digits.parse().map_err(|_| "a duration is a whole number with ms or s, such as 20ms");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    match text.strip_suffix("ms") {
        Some(digits) => number(digits).map(Duration::from_millis),
        None => number(text.strip_suffix('s').unwrap_or_default()).map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_unless_it_is_nothing() {
        assert_eq!(parse("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        for bad in ["", "20", "ms", "s", "1.5s", "-1s", "1m", "20 ms"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
