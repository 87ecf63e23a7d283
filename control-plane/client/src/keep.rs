//! Writes what a follower uses to disk, beside it: at most once a second, the newest alone, and what has proved itself.

use crate::follow::Patience;
use crate::last_good::{LastGood, Trial};
use crate::picture::Picture;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
        // A consumer that panics ends the process or its follower; either way nothing reads on.
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
    pub(crate) async fn run(mut self) {
        let start = Instant::now();
        let (mut is_dirty, mut is_golden) = (false, false);
        let (mut since, mut write_at) = (start, start);
        loop {
            tokio::select! {
                changed = self.changed.changed() => match changed {
                    Ok(()) => (is_dirty, is_golden, since) = (true, false, Instant::now()),
                    Err(_) => break,
                },
                () = sleep_until(write_at), if is_dirty => {
                    is_dirty = false;
                    self.write(LastGood::store).await;
                    write_at = Instant::now() + self.patience.write;
                }
                () = sleep_until(since + self.patience.golden), if !is_golden => {
                    is_golden = true;
                    self.write(LastGood::store_golden).await;
                }
                () = sleep_until(start + self.patience.trial), if self.trial.is_some() => self.passed().await,
            }
        }
        if is_dirty {
            self.write(LastGood::store).await;
        }
        // An orderly end is no crash.
        self.passed().await;
    }

    async fn write(&self, how: fn(&LastGood, &Picture) -> io::Result<()>) {
        let picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(picture) = picture else { return };
        let last_good = self.last_good.clone();
        self.report(tokio::task::spawn_blocking(move || how(&last_good, &picture)).await);
    }

    async fn passed(&mut self) {
        let Some(trial) = self.trial.take() else { return };
        self.report(tokio::task::spawn_blocking(move || trial.passed()).await);
    }

    fn report(&self, written: Result<io::Result<()>, tokio::task::JoinError>) {
        let error = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(error) => io::Error::other(error),
        };
        tracing::warn!(interest = self.interest, %error, "the last good picture cannot be kept on disk");
    }
}
