//! What an entry of the log says.

use types::UnixMs;
use types::intent::{Incarnation, Write};

/// A command, with the clock of whoever proposed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped {
    pub at: UnixMs,
    pub command: Command,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The first of a cluster. A later one changes nothing.
    Found {
        cluster: String,
        incarnation: Incarnation,
    },
    Write(Write),
}
