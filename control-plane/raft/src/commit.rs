//! Group commit: while one batch of proposals is decided, what comes meanwhile is the next batch.
//!
//! A lone writer never waits for others, and many writers share one sync and one message to each follower.

use crate::wire::{Answer, OpenRaft, Proposal};
use bytes::Bytes;
use futures_util::StreamExt;
use openraft::errors::Fatal;
use std::collections::VecDeque;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

pub(crate) struct Commits(mpsc::Sender<Waiting>);

struct Waiting {
    proposal: Proposal,
    decided: oneshot::Sender<Result<Answer, NotDecided>>,
}

/// A proposal that got no answer here. It may have been decided nevertheless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotDecided {
    NotLeader,
    Busy,
    Stopped,
}

impl Commits {
    /// Ends when this value is gone, or openraft is.
    pub(crate) fn start(raft: OpenRaft) -> Self {
        let (waiting, queue) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(raft, queue));
        Self(waiting)
    }

    pub(crate) async fn decide(&self, command: Bytes) -> Result<Answer, NotDecided> {
        let (decided, answer) = oneshot::channel();
        self.0.try_send(Waiting { proposal: Proposal(command), decided }).map_err(|error| match error {
            TrySendError::Full(_) => NotDecided::Busy,
            TrySendError::Closed(_) => NotDecided::Stopped,
        })?;
        answer.await.unwrap_or(Err(NotDecided::Stopped))
    }
}

async fn run(raft: OpenRaft, mut queue: mpsc::Receiver<Waiting>) {
    let mut waiting = VecDeque::new();
    let mut received = Vec::new();
    loop {
        if waiting.is_empty() && queue.recv_many(&mut received, BATCH_MAX).await == 0 {
            return;
        }
        waiting.extend(received.drain(..));
        let (proposals, decided) = batch(&mut waiting);
        if !proposals.is_empty() && decide(&raft, proposals, decided).await.is_err() {
            return;
        }
    }
}

/// As many as one batch may hold. Whoever has stopped waiting will ask again, or not at all.
fn batch(
    waiting: &mut VecDeque<Waiting>,
) -> (Vec<Proposal>, Vec<oneshot::Sender<Result<Answer, NotDecided>>>) {
    let (mut proposals, mut decided, mut bytes) = (Vec::new(), Vec::new(), 0);
    while bytes < BATCH_BYTES
        && let Some(next) = waiting.pop_front()
    {
        if next.decided.is_closed() {
            continue;
        }
        bytes += next.proposal.0.len();
        proposals.push(next.proposal);
        decided.push(next.decided);
    }
    (proposals, decided)
}

async fn decide(
    raft: &OpenRaft,
    proposals: Vec<Proposal>,
    decided: Vec<oneshot::Sender<Result<Answer, NotDecided>>>,
) -> Result<(), Fatal<crate::wire::TypeConfig>> {
    let mut answers = raft.client_write_many(proposals).await?;
    for decided in decided {
        let answer = match answers.next().await {
            Some(Ok(Ok(written))) => Ok(written.response),
            // It leads no longer, whatever else is said of it.
            Some(Ok(Err(_))) | None => Err(NotDecided::NotLeader),
            Some(Err(fatal)) => return Err(fatal),
        };
        // A writer that is gone asks again under the same sequence.
        let _ = decided.send(answer);
    }
    Ok(())
}

/// Some seconds' worth of what a group decides; more would wait longer than a writer does.
const QUEUE_MAX: usize = 8_192;
const BATCH_MAX: usize = 2_048;
const BATCH_BYTES: usize = 1 << 20;
