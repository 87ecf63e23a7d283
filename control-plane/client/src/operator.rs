//! Reads and writes of intent, for operators.

use crate::dial::Dialer;
use crate::members::MemberAddress;
use futures_util::future::join_all;
use prost::Message;
use proto::v1;
use proto::v1::intent_client::IntentClient;
use std::future::Future;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};
use types::intent::{Change, ClientId, Fault, Incarnation, Position, Revision, Stored, Write};

/// Speaks to whichever member answers.
pub struct Operator {
    dialer: Dialer,
    members: Vec<MemberAddress>,
    client: ClientId,
    /// Of the last write. Held while a write is decided: an older one that arrives after a newer one is refused.
    sequence: Mutex<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Nothing was changed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Fault>),
    #[error("no member of the control plane answers")]
    NoMember(#[source] tonic::Status),
    /// Another member would say the same.
    #[error("the control plane does not do what it was asked")]
    Denied(#[source] tonic::Status),
    #[error("the control plane answered something else than its contract says")]
    BadAnswer(#[from] proto::BadMessage),
}

impl Operator {
    pub fn new(dialer: Dialer, members: Vec<MemberAddress>) -> Self {
        let mut client = [0; 16];
        getrandom::fill(&mut client).expect("the operating system gives randomness to every process");
        Self { dialer, members, client: ClientId(client), sequence: Mutex::new(0) }
    }

    /// All changes together or none; returns the position afterwards. Retried at other members, exactly once.
    ///
    /// After [`OperatorError::NoMember`] it is not known whether the write was done.
    pub async fn write(&self, changes: Vec<Change>, expects_shrink: bool) -> Result<Position, OperatorError> {
        let mut last = self.sequence.lock().await;
        *last += 1;
        let write = Write { client: self.client, sequence: *last, changes, expects_shrink };
        let request = v1::WriteRequest::from(&write);
        let reply = self
            .ask(|mut client| {
                let request = request.clone();
                async move { client.write(request).await.map(tonic::Response::into_inner) }
            })
            .await?;
        if !reply.faults.is_empty() {
            return Err(OperatorError::Refused(reply.faults.into_iter().map(Fault::from).collect()));
        }
        Ok(position(reply.incarnation, reply.revision))
    }

    /// `what`: `<kind>` or `<kind>/<name>`; of one state.
    pub async fn read(&self, what: &[&str]) -> Result<(Position, Vec<Stored>), OperatorError> {
        let request = v1::ReadRequest { what: what.iter().map(ToString::to_string).collect() };
        let replies = self.ask(|client| read(client, request.clone())).await?;
        let first = replies.first().ok_or_else(|| proto::BadMessage::missing("the first reply"))?;
        let position = position(first.incarnation, first.revision);
        let stored = replies.into_iter().flat_map(|reply| reply.resources).map(Stored::try_from);
        Ok((position, stored.collect::<Result<_, _>>()?))
    }

    /// What each member says of itself, in the order given.
    pub async fn status(&self) -> Vec<Result<v1::StatusReply, tonic::Status>> {
        join_all(self.members.iter().map(|member| async move {
            let mut client = IntentClient::new(self.dialer.channel(member));
            let asked = timeout(STATUS_MAX, client.status(v1::StatusRequest {}));
            Ok(asked.await.map_err(|_| too_late())??.into_inner())
        }))
        .await
    }

    /// Asks one member after the other, round and round, until one answers or time is up.
    async fn ask<T, F>(&self, mut call: impl FnMut(IntentClient<Channel>) -> F) -> Result<T, OperatorError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + ASK_MAX;
        let mut last = Status::unavailable("no members are known");
        // A connection that was made is kept for the next round.
        let channels: Vec<_> = self.members.iter().map(|member| self.dialer.channel(member)).collect();
        while !channels.is_empty() {
            for channel in &channels {
                let client = IntentClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
                let attempt = deadline.min(Instant::now() + ATTEMPT_MAX);
                match timeout_at(attempt, call(client)).await.unwrap_or_else(|_| Err(too_late())) {
                    Ok(answer) => return Ok(answer),
                    Err(status) if is_worth_another(status.code()) => last = status,
                    Err(status) => return Err(OperatorError::Denied(status)),
                }
                if Instant::now() >= deadline {
                    return Err(OperatorError::NoMember(last));
                }
            }
            sleep(BETWEEN_ROUNDS).await;
        }
        Err(OperatorError::NoMember(last))
    }
}

async fn read(
    mut client: IntentClient<Channel>,
    request: v1::ReadRequest,
) -> Result<Vec<v1::ReadReply>, Status> {
    let mut stream = client.read(request).await?.into_inner();
    let (mut replies, mut bytes) = (Vec::new(), 0);
    while let Some(reply) = stream.message().await? {
        bytes += reply.encoded_len() + MESSAGE_COST;
        if bytes > READ_BYTES_MAX {
            return Err(Status::out_of_range(format!("the answer is longer than {READ_BYTES_MAX} bytes")));
        }
        replies.push(reply);
    }
    Ok(replies)
}

/// The member, or the way to it, failed; the question may be good.
fn is_worth_another(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::ResourceExhausted
            | Code::Unknown
            | Code::Internal
    )
}

fn position(incarnation: u64, revision: u64) -> Position {
    Position { incarnation: Incarnation(incarnation), revision: Revision(revision) }
}

fn too_late() -> Status {
    Status::deadline_exceeded("the member did not answer in time")
}

/// Longer than a group without a leader takes to find one around the world, even if the first vote is split.
const ASK_MAX: Duration = Duration::from_secs(8);
/// A member that swallows a question must leave time for another.
const ATTEMPT_MAX: Duration = Duration::from_secs(2);
const BETWEEN_ROUNDS: Duration = Duration::from_millis(100);
/// A connection is made for it, which takes three round trips.
const STATUS_MAX: Duration = Duration::from_secs(2);
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const READ_BYTES_MAX: usize = 256 << 20;
const MESSAGE_COST: usize = 1 << 10;
