//! Real child processes under an agent: they start, die, hang, come and go as the intent says, and end with it.
//!
//! In reading order: [`stand_in`] what runs as an engine · [`world`] a whole agent, with its intent on disk ·
//! [`replicas`] their lives · [`restart`] an agent without its control plane · [`member`] a control plane, and
//! [`live`] an agent with it · [`house`] places and a door, with an intent that the test changes · [`change`] what
//! such changes do to those who are served.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod change;
mod house;
mod live;
mod member;
mod replicas;
mod restart;
mod stand_in;
mod world;
