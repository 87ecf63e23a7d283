//! `rhumb`: every role of the system, and the commands that people type.
//!
//! In reading order: [`cli`] what can be typed · [`role`] a process of the system · [`generate`] what it is told ·
//! [`check`] would it start? · [`sandbox`] a whole system on one host · [`operator`] what a cluster is told ·
//! [`mod@load`] requests as clients send them. Beside them: [`mod@stdout`], [`say`] and [`failure`] how a command
//! answers, [`files`], [`duration`], [`moment`] and [`mod@table`].

mod check;
mod cli;
mod duration;
mod explain;
mod failure;
mod files;
mod generate;
mod load;
mod moment;
mod operator;
mod role;
mod sandbox;
mod say;
mod stdout;
mod table;

use clap::Parser;
use std::process::ExitCode;

/// A proxy allocates and frees on many threads, which is where the system's allocator is slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::Cli::parse().run().unwrap_or_else(|error| failure::report(&error))
}
