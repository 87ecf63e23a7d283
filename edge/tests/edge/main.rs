//! A real edge in front of nodes that misbehave on purpose, over real mutual TLS.
//!
//! The nodes stand where region agents would: what they do to a request cannot be asked of a real engine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod attempts;
mod node;
mod world;
