//! Groups of three voters over mutual TLS on loopback, each in a runtime of its own, so that one can be lost at once
//! with all it does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod connections;
mod group;
mod identity_of_members;
mod links;
mod loss;
mod snapshots;
