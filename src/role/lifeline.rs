//! Leaves when the process that started this one is gone.

use std::io::Read;
use tracing::info;

/// Set to [`STDIN`] by whoever holds the other end of our standard input and writes nothing to it.
pub const VARIABLE: &str = "RHUMB_LIFELINE";
pub const STDIN: &str = "stdin";

/// Watches standard input on a thread of its own, so that no busy runtime can keep the process alive.
pub fn watch() -> std::io::Result<()> {
    if std::env::var_os(VARIABLE).is_none_or(|value| value != STDIN) {
        return Ok(());
    }
    std::thread::Builder::new().name("lifeline".to_owned()).spawn(|| {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0; 256];
        loop {
            match stdin.read(&mut ignored) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        info!("the process that started this one is gone; leaving");
        // At once: whoever is left behind without its parent must not finish anything slowly.
        std::process::exit(0);
    })?;
    Ok(())
}
