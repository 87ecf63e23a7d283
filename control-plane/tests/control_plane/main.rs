//! Real members under real mutual TLS: what operators, subscribers, agents and strangers meet.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod intent;
mod renewal;
mod roles;
mod signals;
mod subscriber;
mod watch;
mod world;
