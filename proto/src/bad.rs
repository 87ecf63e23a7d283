//! What came cannot be believed.

use std::fmt;

/// One field that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct BadMessage {
    /// From the outside in, with dots.
    pub field: String,
    pub reason: String,
    /// It is not there at all.
    pub is_missing: bool,
}

impl BadMessage {
    pub fn missing(field: &str) -> Self {
        Self { field: field.to_owned(), reason: "is missing".to_owned(), is_missing: true }
    }

    pub fn malformed(field: &str, reason: impl fmt::Display) -> Self {
        Self { field: field.to_owned(), reason: reason.to_string(), is_missing: false }
    }

    /// The same, seen from one level further out.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = if self.field.is_empty() { outer.to_owned() } else { format!("{outer}.{}", self.field) };
        self
    }
}

/// A message's field that must be there.
pub(crate) fn required<T>(field: &str, value: Option<T>) -> Result<T, BadMessage> {
    value.ok_or_else(|| BadMessage::missing(field))
}

/// A text with a form; an empty one is a missing one, as proto3 cannot tell them apart.
pub(crate) fn parse<T: std::str::FromStr<Err: fmt::Display>>(
    field: &str,
    text: &str,
) -> Result<T, BadMessage> {
    if text.is_empty() {
        return Err(BadMessage::missing(field));
    }
    text.parse().map_err(|error| BadMessage::malformed(field, error))
}

/// All of a list; the error names the first bad one by its index.
pub(crate) fn parse_all<T: std::str::FromStr<Err: fmt::Display>>(
    field: &str,
    texts: &[String],
) -> Result<Vec<T>, BadMessage> {
    texts.iter().enumerate().map(|(at, text)| parse(&format!("{field}[{at}]"), text)).collect()
}
