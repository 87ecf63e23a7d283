//! Delivers an answer that has begun, on another stream whenever one is lost.
//!
//! A stream is lost when it breaks, and given up when another one brings the rest before it speaks again. Streams
//! are never mixed: what one of them brought is taken over whole events at a time, and the next one goes on exactly
//! there.

use crate::alarm::Alarm;
use crate::attempt::{Answering, Turn};
use crate::attempts::{Attempts, Unsaved};
use crate::decision_log::{Decision, What};
use crate::patience::Patience;
use crate::progress::{NotResumable, Progress};
use crate::stream::{Kind, StreamError};
use openai::BrokenAnswer;
use policy::Outcome;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::time::{Instant as Timer, sleep};
use types::NodeKey;

pub(crate) struct Delivery<'a, 'b> {
    attempts: &'b mut Attempts<'a>,
    answering: Box<Answering<'a>>,
    progress: Progress,
    patience: Patience,
    /// When the client had all there was, and the wait for more began.
    heard: Instant,
    alarm: Alarm,
}

/// Why an answer that had begun will not be completed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("{broke}; {unsaved}")]
    Unsaved { broke: StreamError, unsaved: Unsaved },
    #[error("the stream stood still")]
    Silent,
    #[error("the chunks make no answer")]
    Unfit(#[from] BrokenAnswer),
}

/// What came of waiting.
enum Came<'a> {
    Events,
    Broke(StreamError),
    Joined(Box<Answering<'a>>),
    Unsaved(StreamError, Unsaved),
    Silence,
}

impl<'a, 'b> Delivery<'a, 'b> {
    pub(crate) fn begin(attempts: &'b mut Attempts<'a>, answering: Box<Answering<'a>>) -> Result<Self, Lost> {
        let asked = attempts.asked();
        let is_proven = matches!(answering.stream.kind(), Kind::Proven(_));
        let kept = if is_proven { attempts.keep() } else { Err(NotResumable::Plain) };
        if let Err(reason) = &kept {
            not_resumable(attempts, *reason);
        }
        let Answering { start, prompt_tokens, .. } = *answering;
        let progress = match asked.stream {
            true => Progress::streamed(asked.endpoint, asked.include_usage, start, prompt_tokens, kept),
            false if !is_proven => Progress::json(asked.endpoint, start, prompt_tokens),
            false => Progress::whole(asked.endpoint, start, prompt_tokens, kept),
        };
        let progress = progress.finishing_alone(is_proven && asked.answers <= 1);
        let (patience, heard) = (Patience::default(), Instant::now());
        let mut delivery = Self { attempts, answering, progress, patience, heard, alarm: Alarm::default() };
        delivery.take_over()?;
        Ok(delivery)
    }

    pub(crate) fn progress(&mut self) -> &mut Progress {
        &mut self.progress
    }

    /// Where the answer comes from.
    pub(crate) fn node(&self) -> &NodeKey {
        &self.answering.turn.node
    }

    /// Waits for more of the answer, from whatever stream it comes.
    pub(crate) async fn advance(&mut self) -> Result<(), Lost> {
        // Not when it was taken over: a client that reads slowly is no silence of the node.
        self.heard = Instant::now();
        match self.wait().await {
            Came::Events => {
                self.patience.heard_after(self.heard.elapsed());
                self.take_over()
            }
            Came::Broke(_) | Came::Silence if self.progress.has_finished() => {
                self.progress.finish();
                Ok(())
            }
            Came::Broke(broke) => {
                broken(self.attempts.decision(), &mut self.answering.turn, &self.progress, &broke);
                let node = &self.answering.turn.node;
                // Where the node said so itself, only the replica is lost.
                let lost = (!broke.is_the_nodes_word()).then_some(node);
                self.attempts.lost(lost, self.answering.replica.as_ref());
                // On the heap, as it is large and rare.
                match Box::pin(self.attempts.resume(&self.progress)).await {
                    Ok(answering) => self.join(answering, Outcome::Failed),
                    Err(unsaved) => self.unsaved(broke, unsaved),
                }
            }
            Came::Joined(answering) => self.join(answering, Outcome::Unknown),
            Came::Unsaved(broke, unsaved) => self.unsaved(broke, unsaved),
            Came::Silence => {
                self.attempts.decision().add(What::Lost { why: "the stream stood still".to_owned() });
                Err(Lost::Silent)
            }
        }
    }

    /// Hands back the node's turn, and what became of the answer.
    pub(crate) async fn served(self) -> Progress {
        let Answering { turn, stream, .. } = *self.answering;
        if stream.is_done() {
            let load = stream.last_load();
            turn.served(stream.into_upstream(), load).await;
        } else {
            // The answer was finished without it.
            turn.end(Outcome::Unknown);
        }
        self.progress
    }

    pub(crate) fn failed(self) {
        self.answering.turn.end(Outcome::Failed);
    }

    async fn wait(&mut self) -> Came<'a> {
        let Self { attempts, answering, progress, patience, alarm, .. } = self;
        let Answering { turn, stream, step, replica, .. } = &mut **answering;
        let mut advanced = pin!(stream.advance());
        let stall_max = attempts.asked().waits.stall;
        let came = |advanced: Result<(), StreamError>| match advanced {
            Ok(()) => Came::Events,
            Err(error) => Came::Broke(error),
        };
        if progress.has_finished() || progress.kept().is_err() {
            // Nothing but formalities is missing, or there is nothing to be done about silence.
            let silence_max = if progress.has_finished() { FINISH_MAX } else { stall_max };
            return tokio::select! {
                biased;
                advanced = &mut advanced => came(advanced),
                () = alarm.at(Timer::now() + silence_max) => Came::Silence,
            };
        }
        let (edge, decision) = (attempts.edge(), attempts.decision());
        // The usual case: one timer, and nothing shared with other streams.
        tokio::select! {
            biased;
            advanced = &mut advanced => return came(advanced),
            () = alarm.at(Timer::now() + WATCHED_AFTER) => {}
        }
        let (began, position) = (Instant::now(), progress.completion_tokens());
        let mut waited = WATCHED_AFTER;
        while began.elapsed() < stall_max {
            let silence_max = patience.silence_max(*step, stall_max);
            // A resume that failed leaves the list of nodes it tried.
            attempts.lost(Some(&turn.node), None);
            let suspected = tokio::select! {
                biased;
                advanced = &mut advanced => return came(advanced),
                () = edge.until_down(&turn.node, attempts.is_elsewhere()) => "the node stopped answering probes",
                () = sleep(silence_max.saturating_sub(waited)) => "it was silent for too long",
            };
            decision.add(What::Suspected { position, why: suspected });
            attempts.lost(Some(&turn.node), replica.as_ref());
            let mut resumed = Box::pin(attempts.resume(progress));
            let (resumed, broke) = tokio::select! {
                biased;
                advanced = &mut advanced => match advanced {
                    Ok(()) => {
                        drop(resumed);
                        attempts.lost(Some(&turn.node), None);
                        patience.false_alarm();
                        decision.add(What::FalseAlarm);
                        edge.metrics.suspicions.with_label_values(&["false-alarm"]).inc();
                        return Came::Events;
                    }
                    Err(broke) => {
                        broken(decision, turn, progress, &broke);
                        (resumed.await, Some(broke))
                    }
                },
                resumed = &mut resumed => (resumed, None),
            };
            match (resumed, broke) {
                (Ok(answering), _) => {
                    edge.metrics.suspicions.with_label_values(&["left"]).inc();
                    return Came::Joined(answering);
                }
                (Err(unsaved), Some(broke)) => return Came::Unsaved(broke, unsaved),
                // Nobody else can help; the old stream still may.
                (Err(_), None) => patience.false_alarm(),
            }
            // Whatever raised the alarm is still so, and a resume may fail without a wait of its own.
            let left = stall_max.saturating_sub(began.elapsed());
            waited = patience.silence_max(*step, stall_max).max(RESUME_AGAIN_AFTER);
            tokio::select! {
                biased;
                advanced = &mut advanced => return came(advanced),
                () = sleep(waited.min(left)) => {}
            }
        }
        Came::Silence
    }

    fn unsaved(&self, broke: StreamError, unsaved: Unsaved) -> Result<(), Lost> {
        if !matches!(unsaved, Unsaved::NotResumable(_)) {
            self.attempts.edge().metrics.resumes.with_label_values(&["failed"]).inc();
        }
        self.attempts.decision().add(What::Lost { why: unsaved.to_string() });
        Err(Lost::Unsaved { broke, unsaved })
    }

    fn join(&mut self, answering: Box<Answering<'a>>, outcome_of_last: Outcome) -> Result<(), Lost> {
        let gap = self.heard.elapsed();
        let Answering { start, exactness, .. } = *answering;
        let edge = self.attempts.edge();
        edge.metrics.resumes.with_label_values(&[exactness.as_str()]).inc();
        edge.metrics.resume_gap_seconds.observe(gap.as_secs_f64());
        self.attempts.decision().add(What::Resumed {
            position: start.position(),
            exactness: exactness.as_str(),
            gap_ms: u64::try_from(gap.as_millis()).unwrap_or(u64::MAX),
        });
        std::mem::replace(&mut self.answering, answering).turn.end(outcome_of_last);
        self.progress.joined(start, exactness, gap, self.attempts.expected_gap());
        self.take_over()
    }

    fn take_over(&mut self) -> Result<(), Lost> {
        let no_more = self.progress.take(self.answering.stream.take())?;
        if let Some(reason) = no_more {
            not_resumable(self.attempts, reason);
        }
        if self.answering.stream.is_done() {
            self.progress.finish();
        }
        Ok(())
    }
}

/// Notes a break, and gives the turn back at once: those who choose a node next shall know of it.
fn broken(decision: &Decision, turn: &mut Turn<'_>, progress: &Progress, broke: &StreamError) {
    let position = progress.completion_tokens();
    tracing::debug!(node = %turn.node, position, %broke, "stream broke");
    decision.add(What::Broke { position, why: broke.to_string() });
    turn.give_back(Outcome::Failed);
}

/// What it was kept for cannot happen any more.
fn not_resumable(attempts: &mut Attempts<'_>, reason: NotResumable) {
    attempts.edge().metrics.not_resumable.with_label_values(&[reason.as_str()]).inc();
    // A whole answer may still be begun anew.
    if attempts.asked().stream {
        attempts.forget_body();
    }
}

impl Lost {
    /// Whether an answer of which the client has nothing yet may be begun anew: what was lost could not be
    /// continued, but nothing says that it cannot be had.
    pub(crate) fn may_begin_anew(&self) -> bool {
        match self {
            Self::Unsaved { unsaved, .. } => match unsaved {
                Unsaved::NotResumable(_) | Unsaved::Failed { .. } => true,
                Unsaved::TooOften | Unsaved::Budget | Unsaved::NoRoute(_) => false,
            },
            Self::Unfit(_) => true,
            Self::Silent => false,
        }
    }
}

/// After the last token, usage and `[DONE]` come with it or not at all.
const FINISH_MAX: Duration = Duration::from_millis(250);
/// Between two resumes of one stream of which the first was refused, at least.
const RESUME_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// From this silence on a stream listens for news of its node as well.
const WATCHED_AFTER: Duration = Duration::from_millis(250);
