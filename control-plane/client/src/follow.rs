//! One consumer's way to its intent: from disk at start, then live from any member, checked, and kept.

use crate::believe::{Intake, Refusal, Remedy, Taken};
use crate::dial::Dialer;
use crate::keep::{self, Kept};
use crate::last_good::{LastGood, Trial};
use crate::members::{MemberAddress, Tour, dice, jittered};
use crate::picture::{Changed, Picture};
use proto::v1;
use proto::v1::watch_client::WatchClient;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use types::RegionName;
use types::intent::{Kind, Position, Revision};

/// What one consumer follows.
#[derive(Debug, Clone)]
pub struct Interest {
    /// For logs: `routing`, `tenants`, `deployments`.
    pub name: &'static str,
    pub cluster: String,
    pub kinds: Vec<Kind>,
    /// Only what concerns this region; none = everything.
    pub region: Option<RegionName>,
    /// Directory of the last good pictures; made if it is not there.
    pub keep: PathBuf,
}

/// Follows one interest for one consumer.
pub struct Follower<C> {
    interest: Interest,
    patience: Patience,
    consumer: C,
    last_good: LastGood,
    kept: Kept,
    /// The picture on disk that this process was started with, until it is known to live with it.
    trial: Option<Trial>,
    standing: watch::Sender<Standing>,
    /// Consecutive pictures that were refused.
    refusals: u32,
}

/// Where a follower stands, for readiness, metrics and operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// None before there was any picture.
    pub position: Option<Position>,
    /// A member sends.
    pub is_live: bool,
}

/// How long a follower waits for what. Tests wait less.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Members send something each 5 s; one that missed three is left.
    pub silence: Duration,
    /// A process that has lived so long with a picture is not killed by it.
    pub trial: Duration,
    /// A picture that has served so long is the last resort from then on.
    pub golden: Duration,
    /// At least between two pictures that are written to disk.
    pub write: Duration,
    /// Between a refused picture and the next try; doubles with each, up to a minute.
    pub refused: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(15),
            trial: Duration::from_secs(10),
            golden: Duration::from_secs(600),
            write: Duration::from_secs(1),
            refused: Duration::from_secs(1),
        }
    }
}

/// Why intent cannot be followed at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use {} for the last good pictures of {interest}", path.display())]
    Directory { interest: &'static str, path: PathBuf, source: std::io::Error },
}

/// Why a subscription is over.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Status(#[from] tonic::Status),
    #[error("the member ended it")]
    Closed,
    #[error("nothing came for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("an update leads nowhere: {0}")]
    Refused(#[from] Refusal),
    #[error("another picture is tried after a refused one")]
    Again(Remedy),
}

/// A picture that was refused, on a subscription that goes on.
struct Refused {
    revision: Revision,
    /// What the member has sent since.
    newest: Revision,
    remedy: Remedy,
    again: Instant,
}

impl Refused {
    /// Whether there is something else to be tried, once its time has come.
    fn is_due(&self) -> bool {
        self.remedy == Remedy::Elsewhere || self.newest > self.revision
    }
}

impl<C> Follower<C>
where
    C: FnMut(&Picture, Changed<'_>) -> Result<(), String> + Send,
{
    /// Hands the newest good picture on disk to the consumer, if there is one.
    ///
    /// The consumer takes a picture over or says why it cannot; a refused picture is told to the control plane and
    /// the one before stays.
    pub fn open(interest: Interest, mut consumer: C) -> Result<Self, OpenError> {
        let unusable =
            |source| OpenError::Directory { interest: interest.name, path: interest.keep.clone(), source };
        let last_good = LastGood::open(&interest.keep, &interest).map_err(unusable)?;
        let candidates = last_good.candidates().map_err(unusable)?;
        let mut take = |path: &PathBuf, is_last_resort| {
            let skipped = match last_good.attempt(path, is_last_resort) {
                Ok((picture, trial)) => match offer(&mut consumer, &picture, Changed::Whole) {
                    Ok(()) => return Some((picture, trial)),
                    Err(refused) => {
                        let _ = trial.withdraw();
                        refused
                    }
                },
                Err(bad) => chain(&bad),
            };
            tracing::warn!(
                interest = interest.name, file = %path.display(), reason = skipped,
                "a last good picture is skipped"
            );
            None
        };
        let first = candidates.iter().find_map(|path| take(path, false));
        // Crashes may have had another cause, such as an operator who kills.
        let found = first.or_else(|| candidates.iter().find_map(|path| take(path, true)));
        let (picture, trial) = found.unzip();
        let position = picture.as_ref().map(Picture::position);
        if let Some(Position { revision, .. }) = position {
            tracing::info!(interest = interest.name, %revision, "intent was taken from disk");
        }
        Ok(Self {
            interest,
            patience: Patience::default(),
            consumer,
            last_good,
            kept: Kept::new(picture),
            trial,
            standing: watch::Sender::new(Standing { position, is_live: false }),
            refusals: 0,
        })
    }

    /// Waits otherwise than by default; for tests.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Follows until `stop`, whatever happens to the members.
    pub async fn run(mut self, dialer: Dialer, members: Vec<MemberAddress>, stop: CancellationToken) {
        let keeper = keep::Keeper::new(
            self.interest.name,
            self.last_good.clone(),
            &self.kept,
            self.trial.take(),
            self.patience,
        );
        let follow = async move {
            let _over = Over(self.standing.clone());
            stop.run_until_cancelled(self.follow(dialer, members)).await;
            // Dropping what is kept tells the keeper that nothing comes after it.
            drop(self);
        };
        tokio::join!(follow, keeper.run());
    }

    async fn follow(&mut self, dialer: Dialer, members: Vec<MemberAddress>) {
        let mut tour = Tour::new(members);
        let mut resume = true;
        while let Some(member) = tour.member() {
            let began = Instant::now();
            let ended = self.subscription(&dialer, member, resume).await;
            let lasted = match &ended {
                // However long it lasted, in the end it was no service: the nearest is not asked at once again.
                Ended::Again(Remedy::Elsewhere) | Ended::Silent(_) => Duration::ZERO,
                _ if self.standing.borrow().is_live => began.elapsed(),
                _ => Duration::ZERO,
            };
            if self.set_live(false) {
                tracing::info!(
                    interest = self.interest.name, member = %member.address, reason = %ended,
                    "intent is no longer live; the last good picture stays in use"
                );
            } else {
                tracing::debug!(
                    interest = self.interest.name, member = %member.address, reason = %ended,
                    "a member does not send intent"
                );
            }
            // A picture that could not be reached by changes is asked for as a whole.
            resume = match &ended {
                Ended::Refused(refusal) => refusal.remedy() == Remedy::Resume,
                Ended::Again(_) => false,
                Ended::Status(status) => !is_about_content(status),
                Ended::Closed | Ended::Silent(_) => true,
            };
            let wait = tour.ended(lasted, dice());
            tokio::time::sleep(wait).await;
        }
        // Without members there is only what was on disk.
        std::future::pending::<()>().await;
    }

    /// From the first message to the last.
    async fn subscription(&mut self, dialer: &Dialer, member: &MemberAddress, resume: bool) -> Ended {
        match self.subscribed(dialer, member, resume).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn subscribed(
        &mut self,
        dialer: &Dialer,
        member: &MemberAddress,
        resume: bool,
    ) -> Result<std::convert::Infallible, Ended> {
        let (say, said) = mpsc::channel(SAID_MAX);
        let _ = say.try_send(self.subscribe(resume));
        let mut client = WatchClient::new(dialer.channel(member)).max_decoding_message_size(UPDATE_BYTES_MAX);
        let silent = |_| Ended::Silent(self.patience.silence);
        let answered =
            tokio::time::timeout(self.patience.silence, client.subscribe(ReceiverStream::new(said)));
        let mut updates = answered.await.map_err(silent)??.into_inner();
        let mut intake = Intake::new(&self.interest.kinds);
        let mut refused: Option<Refused> = None;
        loop {
            // Another picture is waited for after a refused one: another member's, or a newer one of this member.
            let again = refused.as_ref().filter(|refused| refused.is_due());
            let wait = again.map_or(self.patience.silence, |refused| {
                refused.again.saturating_duration_since(Instant::now())
            });
            let update = match (tokio::time::timeout(wait, updates.message()).await, again) {
                (Ok(update), _) => update?.ok_or(Ended::Closed)?,
                (Err(_), Some(refused)) => return Err(Ended::Again(refused.remedy)),
                (Err(_), None) => return Err(Ended::Silent(wait)),
            };
            let revision = Revision(update.revision);
            if let Some(refused) = &mut refused {
                // Changes on top of a refused picture lead nowhere.
                refused.newest = refused.newest.max(revision);
                if refused.is_due() && Instant::now() >= refused.again {
                    return Err(Ended::Again(refused.remedy));
                }
                continue;
            }
            let taken = self.take(&mut intake, update);
            let is_served = taken.as_ref().err().is_none_or(|refusal| refusal.remedy() != Remedy::Resume);
            if is_served && self.set_live(true) {
                tracing::info!(interest = self.interest.name, member = %member.address, "intent is live");
            }
            match taken {
                // A member that does not read what we say is no reason not to hear it: the next ack says more.
                Ok(Some(revision)) => {
                    let _ = say.try_send(message(v1::subscriber_message::Message::Ack(revision.0)));
                }
                Ok(None) => {}
                Err(refusal) if refusal.remedy() == Remedy::Resume => return Err(refusal.into()),
                Err(refusal) => {
                    tracing::warn!(
                        interest = self.interest.name, member = %member.address, %revision, reason = %refusal,
                        "a picture is refused; the last good one stays in use"
                    );
                    let error = refusal.to_string().chars().take(NACK_CHARS_MAX).collect();
                    let nack = v1::Nack { revision: revision.0, error };
                    let _ = say.try_send(message(v1::subscriber_message::Message::Nack(nack)));
                    let wait = self.patience.refused * 2_u32.pow(self.refusals.min(16));
                    self.refusals = self.refusals.saturating_add(1);
                    let again = Instant::now() + jittered(wait.min(REFUSED_WAIT_MAX), dice());
                    refused = Some(Refused { revision, newest: revision, remedy: refusal.remedy(), again });
                }
            }
        }
    }

    /// Believes an update or not; the revision that is in use afterwards, where something came of it.
    fn take(&mut self, intake: &mut Intake, update: v1::Update) -> Result<Option<Revision>, Refusal> {
        let mut current = self.kept.lock();
        let is_changed = match intake.take(current.as_ref(), update)? {
            Taken::Part => return Ok(None),
            Taken::Same(revision) => {
                if let Some(picture) = current.as_mut() {
                    picture.position.revision = revision;
                }
                false
            }
            Taken::Whole(picture) => {
                offer(&mut self.consumer, &picture, Changed::Whole).map_err(Refusal::Consumer)?;
                *current = Some(picture);
                true
            }
            Taken::These(advance) => {
                let picture = current.as_mut().expect("changes are believed only on top of a picture");
                let undo = picture.apply(&advance);
                if let Err(refused) = offer(&mut self.consumer, picture, Changed::These(&advance.events)) {
                    picture.undo(undo);
                    return Err(Refusal::Consumer(refused));
                }
                !advance.events.is_empty()
            }
        };
        let position = current.as_ref().map(Picture::position);
        drop(current);
        if is_changed {
            self.kept.changed();
        }
        self.refusals = 0;
        self.standing.send_if_modified(|standing| {
            let is_new = standing.position != position;
            standing.position = position;
            is_new
        });
        Ok(position.map(|position| position.revision))
    }

    fn subscribe(&self, resume: bool) -> v1::SubscriberMessage {
        let position = self.kept.lock().as_ref().map(Picture::position);
        message(v1::subscriber_message::Message::Subscribe(v1::Subscribe {
            cluster: self.interest.cluster.clone(),
            resume: position.filter(|_| resume).map(|position| v1::Position {
                incarnation: position.incarnation.0,
                revision: position.revision.0,
            }),
            kinds: self.interest.kinds.iter().map(ToString::to_string).collect(),
            region: self.interest.region.as_ref().map(ToString::to_string),
        }))
    }

    /// Whether this is news.
    fn set_live(&self, is_live: bool) -> bool {
        self.standing
            .send_if_modified(|standing| std::mem::replace(&mut standing.is_live, is_live) != is_live)
    }
}

/// A consumer that panics has refused: what it had before serves on, and the follower with it.
fn offer<C>(consumer: &mut C, picture: &Picture, changed: Changed<'_>) -> Result<(), String>
where
    C: FnMut(&Picture, Changed<'_>) -> Result<(), String>,
{
    catch_unwind(AssertUnwindSafe(|| consumer(picture, changed)))
        .unwrap_or_else(|_| Err("whoever was to use it panicked".to_owned()))
}

/// Says that nothing is live any more, however following ends.
struct Over(watch::Sender<Standing>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.send_if_modified(|standing| std::mem::take(&mut standing.is_live));
    }
}

/// The member answered, and going on from where we are would only bring the same answer again.
fn is_about_content(status: &tonic::Status) -> bool {
    use tonic::Code;
    matches!(status.code(), Code::OutOfRange | Code::DataLoss | Code::Internal | Code::InvalidArgument)
}

fn message(message: v1::subscriber_message::Message) -> v1::SubscriberMessage {
    v1::SubscriberMessage { message: Some(message) }
}

/// An error with everything that led to it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// Acks that wait for a member that reads slowly.
const SAID_MAX: usize = 16;
/// Some times what members put into one message.
const UPDATE_BYTES_MAX: usize = 16 << 20;
const NACK_CHARS_MAX: usize = 1000;
const REFUSED_WAIT_MAX: Duration = Duration::from_secs(60);
