//! Writes what a follower uses to disk, beside it: at most once a second, the newest alone, and what has proved itself.

use crate::follow::Patience;
use crate::last_good::{LastGood, Trial};
use crate::picture::Picture;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The picture in use, as follower and keeper share it.
pub(crate) struct Kept {
    picture: Arc<Mutex<Option<Picture>>>,
    changed: watch::Sender<()>,
}

pub(crate) struct Keeper {
    interest: &'static str,
    last_good: LastGood,
    picture: Arc<Mutex<Option<Picture>>>,
    changed: watch::Receiver<()>,
    trial: Option<Trial>,
    patience: Patience,
}

impl Kept {
    pub(crate) fn new(picture: Option<Picture>) -> Self {
        Self { picture: Arc::new(Mutex::new(picture)), changed: watch::Sender::new(()) }
    }

    /// Held while one update is taken; never across a wait.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<Picture>> {
        // Each holder leaves it whole before anything that could panic.
        self.picture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in use is no longer what was.
    pub(crate) fn changed(&self) {
        self.changed.send_replace(());
    }
}

impl Keeper {
    pub(crate) fn new(
        interest: &'static str,
        last_good: LastGood,
        kept: &Kept,
        trial: Option<Trial>,
        patience: Patience,
    ) -> Self {
        let (picture, changed) = (kept.picture.clone(), kept.changed.subscribe());
        Self { interest, last_good, picture, changed, trial, patience }
    }

    /// Until the follower is gone, and what it used last is written.
    ///
    /// What could not be written is tried again, though nothing else may ever change: a disk that was full for a
    /// minute must not bring revoked keys back at a start days later.
    pub(crate) async fn run(mut self) {
        let start = Instant::now();
        let (mut is_dirty, mut is_golden) = (false, false);
        let (mut write_at, mut golden_at) = (start, start + self.patience.golden);
        let mut passed_at = start + self.patience.trial;
        let mut pause = self.patience.write;
        loop {
            tokio::select! {
                changed = self.changed.changed() => match changed {
                    Ok(()) => {
                        (is_dirty, is_golden) = (true, false);
                        golden_at = Instant::now() + self.patience.golden;
                    }
                    Err(_) => break,
                },
                () = sleep_until(write_at), if is_dirty => {
                    is_dirty = !self.write(LastGood::store).await;
                    pause = if is_dirty { (pause * 2).min(PAUSE_MAX) } else { self.patience.write };
                    write_at = Instant::now() + pause;
                }
                () = sleep_until(golden_at), if !is_golden => {
                    is_golden = self.write(LastGood::store_golden).await;
                    golden_at = Instant::now() + self.patience.golden;
                }
                () = sleep_until(passed_at), if self.trial.is_some() => {
                    self.passed().await;
                    passed_at = Instant::now() + self.patience.trial;
                }
            }
        }
        if is_dirty {
            self.write(LastGood::store).await;
        }
        // An orderly end is no crash.
        self.passed().await;
    }

    /// True where nothing is left to be written.
    async fn write(&self, how: fn(&LastGood, &Picture) -> io::Result<()>) -> bool {
        let picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(picture) = picture else { return true };
        let last_good = self.last_good.clone();
        self.is_done(tokio::task::spawn_blocking(move || how(&last_good, &picture)).await)
    }

    async fn passed(&mut self) {
        let Some(trial) = self.trial.clone() else { return };
        if self.is_done(tokio::task::spawn_blocking(move || trial.passed()).await) {
            self.trial = None;
        }
    }

    fn is_done(&self, written: Result<io::Result<()>, tokio::task::JoinError>) -> bool {
        let error = match written {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error,
            Err(error) => io::Error::other(error),
        };
        tracing::warn!(
            interest = self.interest, %error,
            "the last good picture cannot be kept on disk; it is tried again"
        );
        false
    }
}

/// Between two tries while a disk takes nothing.
const PAUSE_MAX: Duration = Duration::from_secs(60);
