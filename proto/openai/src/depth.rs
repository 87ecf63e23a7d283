//! How deep a JSON text nests, without parsing it.
//!
//! Parsers that recurse overflow on hostile depth, and those that skip unknown fields let it pass to the next
//! parser. One scan in front settles it for all of them.

/// Deeper than any honest request; the limit that serde_json has too.
pub const DEPTH_MAX: usize = 128;

/// False if brackets outside of strings nest deeper than [`DEPTH_MAX`]. Says nothing of validity.
pub fn is_bounded(json: &[u8]) -> bool {
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => at = end_of_string(json, at + 1),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return false;
        }
        at += 1;
    }
    true
}

/// The closing quote of the string whose text begins at `at`. Prompts are long strings: memchr skips them.
fn end_of_string(json: &[u8], mut at: usize) -> usize {
    while let Some(found) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if json[at] == b'"' {
            return at;
        }
        at += 2;
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_bounded(nested(DEPTH_MAX).as_bytes()));
        assert!(!is_bounded(nested(DEPTH_MAX + 1).as_bytes()));
        assert!(!is_bounded("{\"a\":".repeat(100_000).as_bytes()));
        assert!(is_bounded(format!(r#"{{"a":"\"{}"}}"#, "[".repeat(1000)).as_bytes()));
        assert!(is_bounded(br#"{"open":"\"#));
    }
}
