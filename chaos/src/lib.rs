//! Breaks a Rhumb on purpose, to see what becomes of it.
//!
//! [`network`] emulates the links between its regions · [`simulate`] lets a world happen in one thread, with the
//! real decisions of its edges.

pub mod network;
pub mod simulate;

pub use network::Network;
