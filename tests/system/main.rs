//! Drives the real binary: regions on loopback, real processes, the CPU engine with the house model.
//!
//! A world takes seconds to start, so each test makes one and checks several claims in it; each claim has its
//! own function, named for what it claims.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod drills;
mod failures;
mod http2;
mod intent;
mod load;
mod refusals;
mod region_loss;
mod resume;
mod sandbox;
#[path = "../world.rs"]
mod world;
