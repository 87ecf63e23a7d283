//! The calling side of openraft's network.
//!
//! Connections to the other members are held ready, because an election cannot wait for them to be made across the
//! world. Votes and heartbeats have one of their own, so that no entry or snapshot holds them up and a leader is not lost
//! for its own work; a snapshot has one too.

use crate::Member;
use crate::caller::{Ourselves, Seal};
use crate::snapshot::SnapshotFile;
use crate::wire::{
    Entry, Meta, Peer, TypeConfig, Vote, entry_to_wire, log_id, log_id_to_wire, stored_membership_to_wire,
    vote, vote_to_wire,
};
use client::{Dialer, MemberAddress, WarmChannel};
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use proto::v1::append_reply::Outcome;
use proto::v1::raft_client::RaftClient;
use proto::{BadMessage, v1};
use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

pub(crate) type Client = RaftClient<InterceptedService<WarmChannel, Seal>>;

/// The other members that the configuration lists.
#[derive(Clone)]
pub(crate) struct Network {
    ourselves: Arc<Ourselves>,
    others: Arc<BTreeMap<u64, Connections>>,
}

/// To one member, held ready.
#[derive(Clone)]
struct Connections {
    /// For votes and heartbeats.
    urgent: Client,
    /// For entries, and for what is asked of a leader.
    entries: Client,
    snapshots: Client,
}

/// Calls to one member.
pub(crate) struct Connection {
    ourselves: Arc<Ourselves>,
    to: u64,
    /// None for a member that the configuration does not list.
    connections: Option<Connections>,
    is_for_heartbeats: bool,
}

impl Network {
    /// Begins to connect to all. The log says who the members are; where they are, the configuration says.
    pub(crate) fn new(ourselves: Arc<Ourselves>, dialer: &Dialer) -> Self {
        let others = ourselves.members.iter().filter(|member| member.id != ourselves.id);
        let others = others.map(|member| (member.id, Connections::to(member, &ourselves, dialer))).collect();
        Self { ourselves, others: Arc::new(others) }
    }

    /// The connection on which a leader is asked.
    pub(crate) fn leader(&self, id: u64) -> Option<Client> {
        self.others.get(&id).map(|connections| connections.entries.clone())
    }

    fn connection(&self, to: u64, is_for_heartbeats: bool) -> Connection {
        let connections = self.others.get(&to).cloned();
        Connection { ourselves: self.ourselves.clone(), to, connections, is_for_heartbeats }
    }
}

impl Connections {
    fn to(member: &Member, ourselves: &Arc<Ourselves>, dialer: &Dialer) -> Self {
        let address = MemberAddress { address: member.address, server_name: member.server_name.clone() };
        let client = || {
            let seal = Seal { ourselves: ourselves.clone(), to: member.id };
            RaftClient::with_interceptor(dialer.warm_channel(&address), seal)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
        Self { urgent: client(), entries: client(), snapshots: client() }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, to: u64, _: &Peer) -> Connection {
        self.connection(to, false)
    }

    async fn new_heartbeat_client(&mut self, to: u64, _: &Peer) -> Connection {
        self.connection(to, true)
    }
}

impl Connection {
    fn connections(&self) -> Result<Connections, RPCError<TypeConfig>> {
        self.connections.clone().ok_or_else(|| RPCError::Unreachable(not_listed(self.to)))
    }

    fn failed(&self, status: &Status) -> RPCError<TypeConfig> {
        self.ourselves.hear_refusal(self.to, status);
        failed(status)
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        append: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let deadline = if append.entries.is_empty() { option.hard_ttl() } else { APPEND_DEADLINE };
        let request = timed(append_to_wire(append), deadline);
        let reply =
            self.connections()?.urgent.append(request).await.map_err(|status| self.failed(&status))?;
        Ok(match reply.into_inner().outcome {
            Some(Outcome::Success(_)) => AppendEntriesResponse::Success,
            Some(Outcome::Partial(matching)) => {
                AppendEntriesResponse::PartialSuccess(matching.id.as_ref().map(log_id))
            }
            Some(Outcome::Conflict(_)) => AppendEntriesResponse::Conflict,
            Some(Outcome::HigherVote(higher)) => {
                AppendEntriesResponse::HigherVote(vote(Some(&higher)).map_err(bad_answer)?)
            }
            None => return Err(bad_answer(BadMessage::missing("outcome"))),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Appended<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        // A heartbeat is one request and one answer, both within its interval.
        if self.is_for_heartbeats {
            return openraft::network::stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            // openraft waits out the pause after a failure in here: who does not ask first tries without any pause.
            let Some(first) = input.next().await else { return Ok(futures_util::stream::empty().boxed()) };
            let appends = futures_util::stream::iter([first]).chain(input).map(append_to_wire);
            let opened = self.connections()?.entries.append_stream(appends).await;
            let replies = opened.map_err(|status| self.failed(&status))?.into_inner();
            let this: &Self = self;
            let appended: Appended<'s> = Box::pin(replies.map(move |reply| match reply {
                Ok(reply) => appended(reply).map_err(bad_answer),
                Err(status) => Err(this.failed(&status)),
            }));
            Ok(appended)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = timed(vote_request_to_wire(&request), option.hard_ttl());
        let reply = self.connections()?.urgent.vote(request).await.map_err(|status| self.failed(&status))?;
        vote_response(&reply.into_inner()).map_err(bad_answer)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = timed(vote_request_to_wire(&request), option.hard_ttl());
        let reply =
            self.connections()?.urgent.pre_vote(request).await.map_err(|status| self.failed(&status))?;
        vote_response(&reply.into_inner()).map_err(bad_answer)
    }

    async fn full_snapshot(
        &mut self,
        leader: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let Some(Connections { snapshots: mut client, .. }) = self.connections.clone() else {
            return Err(StreamingError::Unreachable(not_listed(self.to)));
        };
        let parts = parts(&leader, &snapshot.meta, &snapshot.snapshot)
            .map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        let sent = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            sent = tokio::time::timeout(SNAPSHOT_DEADLINE, client.install(parts)) => sent,
        };
        let sent = sent.unwrap_or_else(|_| Err(Status::deadline_exceeded("the snapshot took too long")));
        let reply = sent.map_err(|status| {
            self.ourselves.hear_refusal(self.to, &status);
            StreamingError::Unreachable(Unreachable::new(&status))
        })?;
        let vote = vote(reply.into_inner().vote.as_ref())
            .map_err(|bad| StreamingError::Network(NetworkError::new(&bad)))?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = v1::TransferRequest {
            from: Some(vote_to_wire(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(log_id_to_wire),
        };
        let request = timed(request, option.hard_ttl());
        self.connections()?.urgent.transfer(request).await.map_err(|status| self.failed(&status))?;
        Ok(Ok(()))
    }
}

type Appended<'a> = BoxStream<'a, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

/// The file in parts, read as they are taken.
fn parts(leader: &Vote, meta: &Meta, file: &SnapshotFile) -> io::Result<ReceiverStream<v1::SnapshotPart>> {
    let head = v1::InstallHead {
        vote: Some(vote_to_wire(leader)),
        last: meta.last_log_id.as_ref().map(log_id_to_wire),
        membership: Some(stored_membership_to_wire(&meta.last_membership)),
    };
    let mut file = File::open(file.path())?;
    let (parts, received) = mpsc::channel(PARTS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let part = |part| v1::SnapshotPart { part: Some(part) };
        let mut next = part(v1::snapshot_part::Part::Head(head));
        // A part that is not taken, or a file that ends early, ends the stream; the receiver finds it incomplete.
        while parts.blocking_send(next).is_ok() {
            let mut bytes = Vec::with_capacity(PART_BYTES as usize);
            match file.by_ref().take(PART_BYTES).read_to_end(&mut bytes) {
                Ok(1..) => next = part(v1::snapshot_part::Part::Bytes(bytes.into())),
                Ok(0) | Err(_) => return,
            }
        }
    });
    Ok(ReceiverStream::new(received))
}

pub(crate) fn timed<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// A member that cannot be reached is left alone for a while; others are asked again at once.
fn failed(status: &Status) -> RPCError<TypeConfig> {
    match status.code() {
        tonic::Code::Unavailable
        | tonic::Code::FailedPrecondition
        | tonic::Code::PermissionDenied
        | tonic::Code::Unauthenticated => RPCError::Unreachable(Unreachable::new(status)),
        _ => RPCError::Network(NetworkError::new(status)),
    }
}

fn not_listed(member: u64) -> Unreachable<TypeConfig> {
    Unreachable::new(&io::Error::other(format!("member {member} is not in the configuration")))
}

fn bad_answer(bad: BadMessage) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&bad))
}

fn append_to_wire(append: AppendEntriesRequest<TypeConfig>) -> v1::AppendRequest {
    v1::AppendRequest {
        vote: Some(vote_to_wire(&append.vote)),
        previous: append.prev_log_id.as_ref().map(log_id_to_wire),
        committed: append.leader_commit.as_ref().map(log_id_to_wire),
        entries: append.entries.into_iter().map(|entry: Entry| entry_to_wire(entry)).collect(),
    }
}

fn appended(reply: v1::AppendReply) -> Result<StreamAppendResult<TypeConfig>, BadMessage> {
    Ok(match reply.outcome.ok_or_else(|| BadMessage::missing("outcome"))? {
        Outcome::Success(_) => Ok(reply.last.as_ref().map(log_id)),
        Outcome::Partial(matching) => Ok(matching.id.as_ref().map(log_id)),
        Outcome::Conflict(id) => Err(StreamAppendError::Conflict(log_id(&id))),
        Outcome::HigherVote(higher) => Err(StreamAppendError::HigherVote(vote(Some(&higher))?)),
    })
}

fn vote_request_to_wire(request: &VoteRequest<TypeConfig>) -> v1::VoteRequest {
    v1::VoteRequest {
        vote: Some(vote_to_wire(&request.vote)),
        last: request.last_log_id.as_ref().map(log_id_to_wire),
        transfer: request.leadership_transfer,
    }
}

fn vote_response(reply: &v1::VoteReply) -> Result<VoteResponse<TypeConfig>, BadMessage> {
    Ok(VoteResponse::new(vote(reply.vote.as_ref())?, reply.last.as_ref().map(log_id), reply.granted))
}

/// A read of the log is cut at 4 MiB and one entry more, far below.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// For a follower that writes a large batch to a slow disk.
const APPEND_DEADLINE: Duration = Duration::from_secs(5);
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(600);
const PART_BYTES: u64 = 1 << 20;
const PARTS_AHEAD: usize = 4;
