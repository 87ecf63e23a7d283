//! What the other members call.

use crate::commit::NotDecided;
use crate::network::MESSAGE_BYTES_MAX;
use crate::snapshot::{self, SnapshotFile};
use crate::wire::{TypeConfig, entry, log_id, log_id_to_wire, meta, vote, vote_to_wire};
use crate::{Raft, Unavailable};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use proto::v1::append_reply::Outcome;
use proto::v1::raft_server::RaftServer;
use proto::{BadMessage, v1};
use std::fmt;
use std::fs::File;
use std::io::Write;
use tonic::{Request, Response, Status, Streaming};
use tracing::{error, info};
use types::intent::Write as IntentWrite;

#[derive(Clone)]
pub struct Service(Raft);

impl Service {
    pub(crate) fn server(raft: Raft) -> RaftServer<Self> {
        RaftServer::new(Self(raft))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Receives a file that is proven whole, or nothing.
    async fn receive(
        &self,
        parts: &mut Streaming<v1::SnapshotPart>,
    ) -> Result<(v1::SnapshotHead, SnapshotFile), Status> {
        let (file, unfinished) = self.0.0.machine.snapshots().begin().map_err(|error| failed(&error))?;
        let mut file = Some(file);
        let mut received = 0;
        while let Some(part) = parts.message().await? {
            let Some(v1::snapshot_part::Part::Bytes(bytes)) = part.part else {
                return Err(Status::invalid_argument("a part after the first is not bytes"));
            };
            received += bytes.len() as u64;
            if received > SNAPSHOT_BYTES_MAX {
                return Err(Status::resource_exhausted("the snapshot is too large"));
            }
            file = Some(append(file, move |file| file.write_all(&bytes)).await?);
        }
        append(file, |file| file.sync_all()).await?;
        let checked = tokio::task::spawn_blocking(move || {
            snapshot::read(unfinished.path()).map(|(head, _)| (head, unfinished))
        });
        checked.await.map_err(|error| failed(&error))?.map_err(|damage| {
            error!(error = %damage, "a snapshot that came damaged is not used");
            Status::data_loss(format!("the snapshot came damaged: {damage}"))
        })
    }
}

/// One write to a file, on a thread that may wait.
async fn append(
    file: Option<File>,
    write: impl FnOnce(&mut File) -> std::io::Result<()> + Send + 'static,
) -> Result<File, Status> {
    let mut file = file.ok_or_else(|| Status::internal("the file is in use"))?;
    let written = tokio::task::spawn_blocking(move || write(&mut file).map(|()| file));
    written.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

#[tonic::async_trait]
impl v1::raft_server::Raft for Service {
    type AppendStreamStream = BoxStream<'static, Result<v1::AppendReply, Status>>;

    async fn append_stream(
        &self,
        request: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let leader = self.0.0.ourselves.admit(&request)?;
        // The leader opens another stream where this one ends; what cannot be read is never acknowledged.
        let requests = tokio_stream::StreamExt::map_while(request.into_inner(), move |message| {
            let request = append_request(message.ok()?);
            let log =
                |bad: &BadMessage| error!(leader, error = %bad, "entries that cannot be read are refused");
            request.inspect_err(log).ok()
        });
        let ourselves = self.0.0.ourselves.clone();
        let requests = requests.inspect(move |_| ourselves.heard.hear());
        let replies = self.0.0.raft.stream_append(requests.boxed());
        Ok(Response::new(replies.map(|reply| reply.map(appended).map_err(|error| failed(&error))).boxed()))
    }

    async fn append(&self, request: Request<v1::AppendRequest>) -> Result<Response<v1::AppendReply>, Status> {
        self.0.0.ourselves.admit(&request)?;
        let append = append_request(request.into_inner()).map_err(bad)?;
        let previous = append.prev_log_id.as_ref().map(log_id_to_wire);
        let response = self.0.0.raft.append_entries(append).await.map_err(|error| failed(&error))?;
        // Heartbeats come this way, however much else comes on the stream.
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.0.0.ourselves.heard.hear();
        }
        let outcome = match response {
            AppendEntriesResponse::Success => Outcome::Success(true),
            AppendEntriesResponse::PartialSuccess(id) => {
                Outcome::Partial(v1::Matching { id: id.as_ref().map(log_id_to_wire) })
            }
            AppendEntriesResponse::Conflict => Outcome::Conflict(previous.unwrap_or_default()),
            AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(vote_to_wire(&vote)),
        };
        Ok(Response::new(v1::AppendReply { outcome: Some(outcome), last: None }))
    }

    async fn vote(&self, request: Request<v1::VoteRequest>) -> Result<Response<v1::VoteReply>, Status> {
        self.0.0.ourselves.admit(&request)?;
        let request = vote_request(&request.into_inner()).map_err(bad)?;
        let response = self.0.0.raft.vote(request).await.map_err(|error| failed(&error))?;
        Ok(Response::new(vote_reply(&response)))
    }

    async fn pre_vote(&self, request: Request<v1::VoteRequest>) -> Result<Response<v1::VoteReply>, Status> {
        self.0.0.ourselves.admit(&request)?;
        let request = vote_request(&request.into_inner()).map_err(bad)?;
        let response = self.0.0.raft.pre_vote(request).await.map_err(|error| failed(&error))?;
        Ok(Response::new(vote_reply(&response)))
    }

    async fn install(
        &self,
        request: Request<Streaming<v1::SnapshotPart>>,
    ) -> Result<Response<v1::VoteReply>, Status> {
        let leader = self.0.0.ourselves.admit(&request)?;
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|part| part.part);
        let Some(v1::snapshot_part::Part::Head(told)) = first else {
            return Err(Status::invalid_argument("the first part is no head"));
        };
        let vote = vote(told.vote.as_ref()).map_err(bad)?;
        let (head, snapshot) = self.receive(&mut parts).await?;
        if head.last != told.last || head.membership != told.membership {
            return Err(Status::invalid_argument("the snapshot is another one than was announced"));
        }
        let meta = meta(head.last.as_ref(), head.membership.as_ref()).map_err(bad)?;
        let last = head.last.map(|last| last.index);
        let response = self.0.0.raft.install_full_snapshot(vote, Snapshot { meta, snapshot }).await;
        let response = response.map_err(|error| failed(&error))?;
        info!(leader, ?last, "received a snapshot");
        let reply = v1::VoteReply { vote: Some(vote_to_wire(&response.vote)), granted: true, last: None };
        Ok(Response::new(reply))
    }

    async fn transfer(
        &self,
        request: Request<v1::TransferRequest>,
    ) -> Result<Response<v1::TransferReply>, Status> {
        self.0.0.ourselves.admit(&request)?;
        let request = request.into_inner();
        let from = vote(request.from.as_ref()).map_err(bad)?;
        let transfer = TransferLeaderRequest::new(from, request.to, request.last.as_ref().map(log_id));
        let handled = self.0.0.raft.handle_transfer_leader(transfer).await;
        handled.map_err(|error| failed(&error))?.map_err(|error| Status::aborted(error.to_string()))?;
        Ok(Response::new(v1::TransferReply {}))
    }

    async fn read_index(
        &self,
        request: Request<v1::ReadIndexRequest>,
    ) -> Result<Response<v1::ReadIndexReply>, Status> {
        self.0.0.ourselves.admit(&request)?;
        let read = self.0.read_index().await.map_err(unavailable)?;
        Ok(Response::new(v1::ReadIndexReply { applied: Some(log_id_to_wire(&read)) }))
    }

    async fn propose(
        &self,
        request: Request<v1::ProposeRequest>,
    ) -> Result<Response<v1::WriteReply>, Status> {
        self.0.0.ourselves.admit(&request)?;
        let write = request.into_inner().write;
        let write = write.ok_or_else(|| bad(BadMessage::missing("write")))?;
        // The member that was asked has read it already.
        let write = IntentWrite::try_from(write).map_err(|_| {
            Status::invalid_argument("the write cannot be read; the caller is of another release")
        })?;
        let decided = self.0.decide(&write).await.map_err(|not| match not {
            NotDecided::NotLeader => not_leader(),
            NotDecided::Busy => unavailable(Unavailable::Busy),
            NotDecided::Stopped => unavailable(Unavailable::Stopped),
        })?;
        Ok(Response::new(v1::WriteReply {
            incarnation: decided.position.incarnation.0,
            revision: decided.position.revision.0,
            faults: decided.faults.iter().map(Into::into).collect(),
        }))
    }
}

fn append_request(wire: v1::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, BadMessage> {
    let entries = wire.entries.into_iter().enumerate();
    Ok(AppendEntriesRequest {
        vote: vote(wire.vote.as_ref())?,
        prev_log_id: wire.previous.as_ref().map(log_id),
        leader_commit: wire.committed.as_ref().map(log_id),
        entries: entries
            .map(|(at, wire)| entry(wire).map_err(|bad| bad.within(&format!("entries[{at}]"))))
            .collect::<Result<_, _>>()?,
    })
}

fn appended(result: StreamAppendResult<TypeConfig>) -> v1::AppendReply {
    let (outcome, last) = match result {
        Ok(last) => (Outcome::Success(true), last.as_ref().map(log_id_to_wire)),
        Err(StreamAppendError::Conflict(id)) => (Outcome::Conflict(log_id_to_wire(&id)), None),
        Err(StreamAppendError::HigherVote(vote)) => (Outcome::HigherVote(vote_to_wire(&vote)), None),
    };
    v1::AppendReply { outcome: Some(outcome), last }
}

fn vote_request(wire: &v1::VoteRequest) -> Result<VoteRequest<TypeConfig>, BadMessage> {
    let mut request = VoteRequest::new(vote(wire.vote.as_ref())?, wire.last.as_ref().map(log_id));
    request.leadership_transfer = wire.transfer;
    Ok(request)
}

fn vote_reply(response: &VoteResponse<TypeConfig>) -> v1::VoteReply {
    v1::VoteReply {
        vote: Some(vote_to_wire(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(log_id_to_wire),
    }
}

/// A peer asks elsewhere, or again.
pub(crate) fn not_leader() -> Status {
    Status::aborted("this member does not lead")
}

fn unavailable(error: Unavailable) -> Status {
    match error {
        Unavailable::NoLeader => not_leader(),
        Unavailable::Busy => Status::resource_exhausted(error.to_string()),
        Unavailable::Timeout => Status::deadline_exceeded(error.to_string()),
        Unavailable::Leader(status) => status,
        Unavailable::Stopped => Status::unavailable(error.to_string()),
    }
}

fn bad(bad: BadMessage) -> Status {
    Status::invalid_argument(bad.to_string())
}

fn failed(error: &impl fmt::Display) -> Status {
    Status::internal(error.to_string())
}

/// Far above the largest state that is allowed for.
const SNAPSHOT_BYTES_MAX: u64 = 64 << 30;
