//! How a command fails: the whole chain of causes on standard error, and an exit status.

use crate::say::say;
use std::process::ExitCode;

/// Something was typed that makes no sense here, as clap would refuse it if it knew.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongUsage(pub String);

/// Several things that are wrong at once, and what can be done about them.
#[derive(Debug, thiserror::Error)]
#[error("{}", problems.join("; "))]
pub struct Problems {
    pub problems: Vec<String>,
    /// Sentences for people.
    pub next: Vec<String>,
}

/// An error and its causes, one each.
pub fn chain(error: &anyhow::Error) -> Vec<String> {
    error.chain().map(ToString::to_string).collect()
}

pub fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(Problems { problems, next }) = error.downcast_ref() {
        for problem in problems {
            say!("error: {problem}");
        }
        for step in next {
            say!("  next: {step}");
        }
        return ExitCode::FAILURE;
    }
    let mut chain = chain(error).into_iter();
    say!("error: {}", chain.next().unwrap_or_default());
    for cause in chain {
        say!("  because: {cause}");
    }
    match error.downcast_ref::<WrongUsage>() {
        Some(_) => ExitCode::from(WRONG_USAGE),
        None => ExitCode::FAILURE,
    }
}

/// Clap's too.
const WRONG_USAGE: u8 = 2;
