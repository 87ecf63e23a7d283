//! What a role says about itself, on standard error.

use anyhow::Context;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use tracing::error;
use tracing_subscriber::EnvFilter;

/// Starts logging. `RHUMB_LOG` takes directives of tracing-subscriber, such as `debug` or `info,edge=trace`.
pub fn start() -> anyhow::Result<()> {
    let wanted = std::env::var("RHUMB_LOG").unwrap_or_default();
    let wanted = if wanted.is_empty() { "info" } else { &wanted };
    // The operator's words come last: of two directives for the same target the later one holds.
    let filter = EnvFilter::try_new(format!("{QUIET},{wanted}"))
        .with_context(|| format!("RHUMB_LOG={wanted:?} cannot be understood; try RHUMB_LOG=debug"))?;
    let is_colourful = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_colourful)
        // It would complain on standard error that standard error is gone, and panic.
        .log_internal_errors(false)
        .init();
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A panic is caught per request; the log is where it is found again.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("a value that is no text");
    let backtrace = std::backtrace::Backtrace::capture();
    error!(location, message, %backtrace, "panic");
}

/// Pingora says ERROR where its pool's idle watcher and a taker race, which is harmless, and WARN where a client
/// leaves, which is no news. openraft tells every message and every unanswered heartbeat; our own packages tell what
/// became of them.
const QUIET: &str = "pingora_core=error,pingora_core::connectors=off,openraft=error";
