//! A real edge in front of nodes that misbehave on purpose, over real mutual TLS.
//!
//! The nodes stand where region agents would: what they do to a request cannot be asked of a real engine. Nor can
//! what the member of the control plane says be asked of a real one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod alone;
mod attacks;
mod attempts;
mod balancer;
mod changes;
mod identity;
mod intent;
mod keep_alive;
mod link;
mod links;
mod member;
mod node;
mod opaque;
mod other_edges;
mod raw;
mod refusals;
mod responses;
mod resume;
mod server;
mod servers;
mod takeover;
mod waits;
mod world;
