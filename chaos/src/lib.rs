//! Breaks a Rhumb on purpose, to see what becomes of it.
//!
//! [`network`] emulates the links between its regions.

pub mod network;

pub use network::Network;
