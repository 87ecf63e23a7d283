//! The replicated state of the control plane: every member applies the same commands and holds the same tables.
//!
//! Pure: the clock of the proposer is inside the command, maps are ordered, numbers are integers, and nothing in
//! here waits, reads or fails half-way. In reading order: [`command`] what the log holds · [`state`] the tables and
//! `apply` · [`check`] what a write must fulfil · [`references`] who names whom · [`session`] exactly-once writes ·
//! [`losses`] how much is gone · [`plan`] what the leader does by itself.

pub mod check;
pub mod command;
pub mod losses;
pub mod plan;
pub mod references;
pub mod session;
pub mod state;

pub use command::{Command, Stamped};
pub use losses::{Loss, Losses};
pub use session::Session;
pub use state::{Event, Head, Outcome, Record, State, Written};
