//! Words for people, on standard error.

use std::fmt::Arguments;
use std::io::Write;

/// Like `eprintln!`, which panics when nobody listens any more: a sandbox must outlive `2>&1 | head`.
macro_rules! say {
    ($($words:tt)*) => { $crate::say::line(format_args!($($words)*)) };
}

pub(crate) use say;

pub fn line(words: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{words}");
}
