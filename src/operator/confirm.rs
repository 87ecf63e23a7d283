//! The last word before a change.

use crate::failure::WrongUsage;
use crate::say::say;
use std::io::{IsTerminal, Write};

/// Whether to go on: what was said beforehand, or what somebody at the terminal says now.
pub fn confirm(question: &str, yes: bool) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        let words = format!("{question} Nobody can be asked; give --yes to do it without a question");
        return Err(WrongUsage(words).into());
    }
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    let goes_on = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    if !goes_on {
        say!("nothing was changed");
    }
    Ok(goes_on)
}
