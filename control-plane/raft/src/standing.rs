//! Which process is which member, and whether this one may go on.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// One start of a member's process. A later one supersedes an earlier one, so that of two processes that run as one
/// member only the newer goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Boot {
    pub unix_ms: u64,
    pub random: u64,
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.unix_ms, self.random)
    }
}

impl FromStr for Boot {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (unix_ms, random) = text.split_once('-').ok_or(())?;
        if random.len() != 16 {
            return Err(());
        }
        let random = u64::from_str_radix(random, 16).map_err(drop)?;
        Ok(Self { unix_ms: unix_ms.parse().map_err(drop)?, random })
    }
}

/// The newest start of each member that was heard of. Only members are in it.
#[derive(Debug, Default)]
pub(crate) struct Boots(Mutex<BTreeMap<u64, Boot>>);

impl Boots {
    /// False when a newer one is known.
    pub(crate) fn hear(&self, member: u64, boot: Boot) -> bool {
        let mut boots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = boots.entry(member).or_insert(boot);
        *newest = boot.max(*newest);
        *newest == boot
    }

    pub(crate) fn newest(&self, member: u64) -> Option<Boot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&member).copied()
    }
}

/// When this member last heard from a leader.
#[derive(Debug)]
pub(crate) struct Heard(Mutex<Instant>);

impl Heard {
    pub(crate) fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    pub(crate) fn hear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// Why this process can go on no more; the first reason stays.
#[derive(Debug)]
pub(crate) struct Failure(watch::Sender<Option<String>>);

impl Failure {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    pub(crate) fn set(&self, why: String) {
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(why);
            }
            is_first
        });
    }

    pub(crate) async fn wait(&self) -> String {
        let mut why = self.0.subscribe();
        // An error never comes: the sender is `self`.
        let first = why.wait_for(Option::is_some).await.ok().and_then(|first| first.clone());
        first.unwrap_or_default()
    }
}

pub(crate) fn superseded(member: u64) -> String {
    format!("another process runs as member {member}, started later than this one; stop one of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_start_wins_whichever_is_heard_first() {
        let (old, new) = (Boot { unix_ms: 5, random: 9 }, Boot { unix_ms: 6, random: 1 });
        assert_eq!(new.to_string().parse(), Ok(new));
        for bad in ["", "5", "5-9", "x-0000000000000009", "5-000000000000000g"] {
            assert!(bad.parse::<Boot>().is_err(), "{bad}");
        }
        let boots = Boots::default();
        assert!(boots.hear(1, old));
        assert!(boots.hear(1, old), "the same process calls again");
        assert!(boots.hear(1, new));
        assert!(!boots.hear(1, old));
        assert!(boots.hear(2, old), "members are told apart");
        assert_eq!(boots.newest(1), Some(new));
    }
}
