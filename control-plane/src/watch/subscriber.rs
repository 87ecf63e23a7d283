//! One subscriber's life: the whole picture where it needs one, then each change, until it leaves.
//!
//! Nothing waits for it in a line. It is a reader of the last changes at its own pace, and whoever falls behind what
//! is remembered of them gets the whole picture again.

use crate::door::Connection;
use crate::interest::Interest;
use crate::metrics::{Metrics, Sent};
use crate::parts::Parts;
use crate::publish;
use proto::v1;
use proto::v1::subscriber_message::Message;
use proto::v1::update::Content;
use raft::Raft;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{debug, warn};
use types::intent::{Incarnation, Position, Revision};

pub(super) struct Subscriber {
    pub(super) name: identity::Name,
    pub(super) interest: Interest,
    pub(super) raft: Raft,
    pub(super) metrics: Arc<Metrics>,
    pub(super) snapshots: Arc<Semaphore>,
    pub(super) patience: Patience,
    pub(super) stop: CancellationToken,
    pub(super) connection: Option<Connection>,
    pub(super) inbound: Streaming<v1::SubscriberMessage>,
    pub(super) is_inbound_open: bool,
    pub(super) outlet: mpsc::Sender<Result<v1::Update, Status>>,
}

/// How long a subscriber is waited for, and kept waiting.
pub(super) struct Patience {
    /// One update is not taken.
    send: Duration,
    /// A whole picture is not taken.
    snapshot: Duration,
    /// In line for a snapshot.
    line: Duration,
    /// For this member to reach what the subscriber has already.
    ahead: Duration,
    /// Nothing concerned it.
    quiet: Duration,
    /// This member, which heard a leader, hears none any more: others may know more.
    leaderless: Duration,
    /// This member has heard no leader all the while. Perhaps nobody does; still others are asked now and then.
    never_led: Duration,
}

/// When this member last heard a leader, since the subscription began.
struct Led {
    at: Instant,
    was: bool,
}

/// How far a subscriber has come.
struct Progress {
    incarnation: Incarnation,
    /// What it was told last.
    told: Revision,
    /// What was looked through for it; not before `told`.
    read: Revision,
    told_at: Instant,
}

/// Why a subscription ends.
enum Ended {
    /// It left.
    Gone,
    NeverReads,
    Refused(Status),
}

enum Event {
    Changed,
    Quiet,
    Said(Result<Option<v1::SubscriberMessage>, Status>),
    Gone,
    Stopped,
}

impl Subscriber {
    pub(super) async fn run(mut self, resume: Option<Position>) {
        let name = self.name.clone();
        debug!(subscriber = %name, "subscriber came");
        self.metrics.subscribers.inc();
        let ended = match self.follow(resume).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        self.metrics.subscribers.dec();
        match ended {
            Ended::Gone => {}
            Ended::NeverReads => {
                warn!(subscriber = %name, "subscriber dropped: it does not read");
                self.metrics.subscribers_dropped.inc();
                // Its stream would hold what it has not read for as long as it likes.
                if let Some(Connection(close)) = &self.connection {
                    close.cancel();
                }
            }
            Ended::Refused(status) => {
                debug!(subscriber = %name, %status, "subscription ended by this member");
                let _ = timeout(self.patience.send, self.outlet.send(Err(status))).await;
            }
        }
        debug!(subscriber = %name, "subscriber went");
    }

    async fn follow(&mut self, resume: Option<Position>) -> Result<std::convert::Infallible, Ended> {
        let mut newest = self.raft.recent().newest();
        let mut progress = match self.resumed(resume, &mut newest).await? {
            Some(progress) => progress,
            None => self.snapshot().await?,
        };
        let mut led = Led { at: Instant::now(), was: self.raft.standing().borrow().leader.is_some() };
        loop {
            // The state is ahead of what is remembered of it for a moment after each write.
            let is_known = *newest.borrow_and_update() >= progress.read;
            if is_known && !self.catch_up(&mut progress).await? {
                progress = self.snapshot().await?;
                continue;
            }
            match self.next(&mut newest, progress.told_at + self.patience.quiet).await {
                Event::Changed => {}
                Event::Quiet => {
                    self.ask_elsewhere(&mut led)?;
                    let told = progress.told;
                    progress.told = progress.read;
                    self.update(&mut progress, told, Content::Bookmark(true)).await?;
                }
                Event::Said(Ok(Some(message))) => self.hear(message)?,
                Event::Said(Ok(None)) => self.is_inbound_open = false,
                Event::Said(Err(_)) | Event::Gone => return Err(Ended::Gone),
                Event::Stopped => return Err(stopped()),
            }
        }
    }

    /// A member that is cut off from the others knows of no change, and would say so for ever.
    fn ask_elsewhere(&self, led: &mut Led) -> Result<(), Ended> {
        if self.raft.standing().borrow().leader.is_some() {
            *led = Led { at: Instant::now(), was: true };
        }
        let patience = if led.was { self.patience.leaderless } else { self.patience.never_led };
        if led.at.elapsed() < patience {
            return Ok(());
        }
        Err(Ended::Refused(Status::unavailable("this member hears no leader; ask another")))
    }

    /// Where it can go on from what it has; none where it needs the whole picture.
    async fn resumed(
        &self,
        resume: Option<Position>,
        newest: &mut watch::Receiver<Revision>,
    ) -> Result<Option<Progress>, Ended> {
        let Some(Position { incarnation, revision }) = resume else { return Ok(None) };
        if self.raft.state().position().incarnation != incarnation {
            return Ok(None);
        }
        if self.raft.state().position().revision < revision {
            self.reach(revision, newest).await?;
        }
        let is_remembered = *newest.borrow() >= revision;
        if is_remembered && self.raft.recent().after(revision).is_none() {
            return Ok(None);
        }
        // At once, so that it learns where it stands, and how far this member has come.
        let told_at = Instant::now().checked_sub(self.patience.quiet).unwrap_or_else(Instant::now);
        Ok(Some(Progress { incarnation, told: revision, read: revision, told_at }))
    }

    /// Another member has told the subscriber more than this one knows. To send it back in time would bring keys back
    /// that were revoked, so it waits for a moment, and then goes elsewhere.
    async fn reach(&self, revision: Revision, newest: &mut watch::Receiver<Revision>) -> Result<(), Ended> {
        let reached = timeout(self.patience.ahead, newest.wait_for(|newest| *newest >= revision));
        let is_reached = tokio::select! {
            () = self.stop.cancelled() => return Err(stopped()),
            () = self.outlet.closed() => return Err(Ended::Gone),
            reached = reached => reached.is_ok_and(|known| known.is_ok()),
        };
        if is_reached {
            return Ok(());
        }
        let text = format!("this member has not come to revision {revision} yet; ask another");
        Err(Ended::Refused(Status::unavailable(text)))
    }

    /// Sends everything that is known. False where what follows is remembered no more.
    async fn catch_up(&self, progress: &mut Progress) -> Result<bool, Ended> {
        let Some(changes) = self.raft.recent().after(progress.read) else { return Ok(false) };
        let mut changes = changes.as_slice();
        while let Some(step) = publish::step(changes, &self.interest) {
            changes = &changes[step.covers..];
            progress.read = step.revision;
            if let Some(delta) = step.delta {
                let told = progress.told;
                progress.told = step.revision;
                self.update(progress, told, Content::Delta(delta)).await?;
            }
        }
        Ok(true)
    }

    async fn update(
        &self,
        progress: &mut Progress,
        previous: Revision,
        content: Content,
    ) -> Result<(), Ended> {
        let sent = match content {
            Content::Bookmark(_) => Sent::Bookmark,
            Content::Delta(_) | Content::Snapshot(_) => Sent::Delta,
        };
        let update = v1::Update {
            incarnation: progress.incarnation.0,
            prev_revision: previous.0,
            revision: progress.told.0,
            content: Some(content),
        };
        self.send(update).await?;
        self.metrics.count_sent(sent);
        progress.told_at = Instant::now();
        Ok(())
    }

    /// Sends the whole picture as it is now. Picture and revision are read together, so what follows joins exactly.
    async fn snapshot(&self) -> Result<Progress, Ended> {
        let exhausted =
            || Ended::Refused(Status::resource_exhausted("many ask for everything at once; wait a little"));
        let line = timeout(self.patience.line, self.snapshots.acquire());
        let permit = tokio::select! {
            () = self.stop.cancelled() => return Err(stopped()),
            () = self.outlet.closed() => return Err(Ended::Gone),
            permit = line => permit.map_err(|_| exhausted())?,
        };
        let Some(whole) = publish::whole(&self.raft.state(), &self.interest) else {
            return Err(Ended::Refused(Status::unavailable("this member knows no state yet")));
        };
        let Position { incarnation, revision } = whole.position;
        let total = whole.resources.len() as u64;
        let send_all = async {
            for (at, part) in Parts::of(whole.resources).enumerate() {
                let snapshot = v1::Snapshot {
                    resources: part.resources,
                    total: part.is_last.then_some(total),
                    shrink_revision: if part.is_last { whole.shrink_revision.0 } else { 0 },
                };
                let update = v1::Update {
                    incarnation: incarnation.0,
                    prev_revision: if at == 0 { 0 } else { revision.0 },
                    revision: revision.0,
                    content: Some(Content::Snapshot(snapshot)),
                };
                self.send(update).await?;
            }
            Ok(())
        };
        timeout(self.patience.snapshot, send_all).await.unwrap_or(Err(Ended::NeverReads))?;
        drop(permit);
        self.metrics.count_sent(Sent::Snapshot);
        Ok(Progress { incarnation, told: revision, read: revision, told_at: Instant::now() })
    }

    async fn send(&self, update: v1::Update) -> Result<(), Ended> {
        tokio::select! {
            () = self.stop.cancelled() => Err(stopped()),
            sent = timeout(self.patience.send, self.outlet.send(Ok(update))) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(Ended::Gone),
                Err(_) => Err(Ended::NeverReads),
            },
        }
    }

    async fn next(&mut self, newest: &mut watch::Receiver<Revision>, quiet_at: Instant) -> Event {
        tokio::select! {
            () = self.stop.cancelled() => Event::Stopped,
            () = self.outlet.closed() => Event::Gone,
            changed = newest.changed() => if changed.is_ok() { Event::Changed } else { Event::Stopped },
            () = sleep_until(quiet_at) => Event::Quiet,
            message = self.inbound.message(), if self.is_inbound_open => Event::Said(message),
        }
    }

    fn hear(&self, message: v1::SubscriberMessage) -> Result<(), Ended> {
        match message.message {
            Some(Message::Ack(_)) => self.metrics.acks.inc(),
            Some(Message::Nack(v1::Nack { revision, error })) => {
                self.metrics.nacks.inc();
                let error: String = error.chars().take(ERROR_SHOWN_MAX).collect();
                warn!(subscriber = %self.name, revision, error, "subscriber refused a picture");
            }
            Some(Message::Subscribe(_)) | None => {
                let text = "after the first message, only ack and nack";
                return Err(Ended::Refused(Status::invalid_argument(text)));
            }
        }
        Ok(())
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            send: Duration::from_secs(30),
            // Some hundred megabytes over a thin line.
            snapshot: Duration::from_secs(120),
            line: Duration::from_secs(10),
            ahead: Duration::from_secs(5),
            // Whoever hears nothing for a few of these looks for another member.
            quiet: Duration::from_secs(5),
            leaderless: Duration::from_secs(10),
            never_led: Duration::from_secs(60),
        }
    }
}

fn stopped() -> Ended {
    Ended::Refused(Status::unavailable("this member stops; ask another"))
}

const ERROR_SHOWN_MAX: usize = 500;
