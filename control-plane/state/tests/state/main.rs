//! The replicated state through its public face.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod invariants;
mod world;
mod writes;
