//! The engine as its users meet it: against Hugging Face's numbers, against itself, over HTTP, and with
//! damaged models. Needs no network and no accelerator.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod client;
mod golden;
mod house;
mod invariance;
mod resume;
mod server;
mod start;
mod tiny;
