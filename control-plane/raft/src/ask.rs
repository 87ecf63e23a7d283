//! Writes and linearizable reads, wherever they are asked for: the leader decides, the others ask it.
//!
//! A write is asked again and again until its time is over; its client and sequence make that one write.

use crate::commit::NotDecided;
use crate::entry;
use crate::network::timed;
use crate::wire::{LogId, TypeConfig, log_id};
use crate::{Decided, Raft, Standing};
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use proto::v1;
use state::{Command, Stamped};
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::Code;
use types::UnixMs;
use types::intent::{Fault, Incarnation, Position, Reason, Revision, Write};

/// A question that got no answer. A write may have been done nevertheless: ask again with the same sequence.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("no leader is known")]
    NoLeader,
    #[error("the leader did not answer in time")]
    Timeout,
    #[error("the leader could not be asked")]
    Leader(#[source] tonic::Status),
    #[error("too many writes wait")]
    Busy,
    #[error("this voter has stopped")]
    Stopped,
}

impl Raft {
    /// Decides a write, here or at the leader.
    pub async fn write(&self, write: Write) -> Result<Decided, Unavailable> {
        self.until_answered(|leader| self.write_once(leader, &write)).await
    }

    /// Returns once the state here holds everything that was acknowledged before the call.
    pub async fn catch_up(&self) -> Result<(), Unavailable> {
        let deadline = Instant::now() + PATIENCE;
        let read = self.until_answered(|leader| self.read_index_once(leader)).await?;
        let applied = applied(self.0.machine.next(), read.index);
        tokio::time::timeout_at(deadline, applied).await.unwrap_or(Err(Unavailable::Timeout))
    }

    /// Asks whoever leads, until there is an answer or the time is over.
    async fn until_answered<T, F: Future<Output = Result<T, Unavailable>>>(
        &self,
        ask: impl Fn(u64) -> F,
    ) -> Result<T, Unavailable> {
        let deadline = Instant::now() + PATIENCE;
        let mut standing = self.standing();
        loop {
            let leader = standing.borrow_and_update().leader;
            let answer = match leader {
                None => Err(Unavailable::NoLeader),
                Some(leader) => {
                    let asked = while_led_by(&mut standing, leader, ask(leader));
                    let answer = tokio::time::timeout_at(deadline, asked).await;
                    answer.unwrap_or(Err(Unavailable::Timeout))
                }
            };
            let why = match answer {
                Err(Unavailable::Busy) => return Err(Unavailable::Busy),
                Err(Unavailable::Stopped) => return Err(Unavailable::Stopped),
                Err(why) if Instant::now() >= deadline => return Err(why),
                Err(why) => why,
                Ok(answer) => return Ok(answer),
            };
            let pause = deadline.min(Instant::now() + ASK_AGAIN_AFTER);
            if let Ok(Err(_)) = tokio::time::timeout_at(pause, standing.changed()).await {
                return Err(Unavailable::Stopped);
            }
            if Instant::now() >= deadline {
                return Err(why);
            }
        }
    }

    async fn write_once(&self, leader: u64, write: &Write) -> Result<Decided, Unavailable> {
        if leader == self.0.ourselves.id {
            return self.decide(write).await.map_err(|not| match not {
                NotDecided::NotLeader => Unavailable::NoLeader,
                NotDecided::Busy => Unavailable::Busy,
                NotDecided::Stopped => Unavailable::Stopped,
            });
        }
        let mut client = self.0.network.leader(leader).ok_or(Unavailable::NoLeader)?;
        let request = timed(v1::ProposeRequest { write: Some(write.into()) }, TRY);
        let reply = timeout(TRY, client.propose(request)).await.map_err(|_| Unavailable::Timeout)?;
        let reply = reply.map_err(|status| self.refused(leader, status))?.into_inner();
        let incarnation = Incarnation(reply.incarnation);
        Ok(Decided {
            position: Position { incarnation, revision: Revision(reply.revision) },
            faults: reply.faults.into_iter().map(Into::into).collect(),
        })
    }

    /// Decides a write as the leader.
    pub(crate) async fn decide(&self, write: &Write) -> Result<Decided, NotDecided> {
        let position = {
            let state = self.state();
            // Its first entry comes before all writes, and gives positions a meaning.
            state.cluster().ok_or(NotDecided::NotLeader)?;
            state.position()
        };
        let command = entry::encode(&Stamped { at: now(), command: Command::Write(write.clone()) });
        let refused = |reason| {
            let fault = Fault { subject: "write".to_owned(), field: "changes".to_owned(), reason };
            Ok(Decided { position, faults: vec![fault] })
        };
        if command.len() > COMMAND_BYTES_MAX {
            let text = format!("take {} bytes; {COMMAND_BYTES_MAX} are the most", command.len());
            return refused(Reason::Malformed { text });
        }
        // Every voter halts at a command that it cannot read, so none such may come into the log.
        if let Err(error) = entry::decode(command.clone()) {
            return refused(Reason::Malformed { text: format!("cannot be kept: {error}") });
        }
        let answer = self.0.commits.decide(command).await?;
        Ok(Decided { position: answer.position, faults: answer.faults })
    }

    async fn read_index_once(&self, leader: u64) -> Result<LogId, Unavailable> {
        if leader == self.0.ourselves.id {
            return self.read_index().await;
        }
        let mut client = self.0.network.leader(leader).ok_or(Unavailable::NoLeader)?;
        let request = timed(v1::ReadIndexRequest {}, TRY);
        let reply = timeout(TRY, client.read_index(request)).await.map_err(|_| Unavailable::Timeout)?;
        let reply = reply.map_err(|status| self.refused(leader, status))?.into_inner();
        // An answer that names no entry proves nothing of what is here.
        let unnamed = || Unavailable::Leader(tonic::Status::internal("the leader named no entry"));
        reply.applied.as_ref().map(log_id).ok_or_else(unnamed)
    }

    /// What must be applied for a read, as the leader: a round to a quorum, never a lease.
    pub(crate) async fn read_index(&self) -> Result<LogId, Unavailable> {
        self.state().cluster().ok_or(Unavailable::NoLeader)?;
        let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(TRY);
        match self.0.raft.get_read_linearizer(option).await {
            Ok(linearizer) => Ok(*linearizer.read_log_id().log_id()),
            Err(RaftError::APIError(
                LinearizableReadError::<TypeConfig>::ForwardToLeader(_)
                | LinearizableReadError::QuorumNotEnough(_),
            )) => Err(Unavailable::NoLeader),
            Err(RaftError::Fatal(_)) => Err(Unavailable::Stopped),
        }
    }

    fn refused(&self, leader: u64, status: tonic::Status) -> Unavailable {
        self.0.ourselves.hear_refusal(leader, &status);
        match status.code() {
            Code::Aborted => Unavailable::NoLeader,
            Code::ResourceExhausted => Unavailable::Busy,
            Code::DeadlineExceeded | Code::Cancelled => Unavailable::Timeout,
            _ => Unavailable::Leader(status),
        }
    }
}

/// Asks for as long as that leader leads: one that was cut off does not answer, and does not say so either.
async fn while_led_by<T>(
    standing: &mut watch::Receiver<Standing>,
    leader: u64,
    ask: impl Future<Output = Result<T, Unavailable>>,
) -> Result<T, Unavailable> {
    tokio::select! {
        answer = ask => answer,
        _ = standing.wait_for(|standing| standing.leader != Some(leader)) => Err(Unavailable::NoLeader),
    }
}

/// Returns once the entry is applied here.
async fn applied(mut next: watch::Receiver<u64>, index: u64) -> Result<(), Unavailable> {
    next.wait_for(|next| *next > index).await.map(drop).map_err(|_| Unavailable::Stopped)
}

pub(crate) fn now() -> UnixMs {
    // A clock before 1970 is a broken one; the stamp is for people.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// An election takes about two seconds.
const PATIENCE: Duration = Duration::from_secs(4);
const TRY: Duration = Duration::from_secs(2);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// A thousand changes of a kilobyte and more; it goes into one message, and a follower takes it within a heartbeat.
const COMMAND_BYTES_MAX: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Poll;

    #[tokio::test]
    async fn a_leader_that_is_replaced_is_waited_for_no_more() {
        let led_by = |leader| Standing { leader: Some(leader), ..Standing::default() };
        let (standing, mut follow) = watch::channel(led_by(1));
        let answered = while_led_by(&mut follow, 1, std::future::ready(Ok(7))).await;
        assert_eq!(answered.unwrap(), 7);
        let mut silent = std::pin::pin!(while_led_by::<u64>(&mut follow, 1, std::future::pending()));
        standing.send_modify(|standing| standing.term += 1);
        assert!(timeout(Duration::from_millis(10), &mut silent).await.is_err(), "it leads on");
        standing.send_replace(led_by(2));
        let given_up = timeout(PATIENCE, silent).await;
        assert!(matches!(given_up, Ok(Err(Unavailable::NoLeader))));
    }

    #[tokio::test]
    async fn a_read_waits_for_its_entry_itself() {
        let (next, follow) = watch::channel(5);
        let mut read = std::pin::pin!(applied(follow, 5));
        let mut is_done = async || {
            matches!(
                std::future::poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await,
                Poll::Ready(Ok(()))
            )
        };
        assert!(!is_done().await, "the next entry is 5, so 5 is not applied");
        next.send_replace(6);
        assert!(is_done().await);
    }
}
