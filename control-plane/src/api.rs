//! Reads and writes of intent, for operators. Any member answers.

use crate::metrics::{Metrics, WriteOutcome};
use crate::parts::Parts;
use crate::watch::shown;
use futures_util::stream::{self, BoxStream, StreamExt};
use proto::v1;
use raft::{Raft, Unavailable};
use state::State;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use tonic::{Request, Response, Status};
use types::intent::{Fault, Kind, Position, ResourceId, Stored, Write};

pub(crate) struct Api {
    pub(crate) raft: Raft,
    pub(crate) cluster: String,
    pub(crate) id: u64,
    pub(crate) metrics: Arc<Metrics>,
}

impl Api {
    pub(crate) fn service(self) -> v1::intent_server::IntentServer<Self> {
        v1::intent_server::IntentServer::new(self).max_decoding_message_size(WRITE_BYTES_MAX)
    }

    async fn decide(&self, request: v1::WriteRequest) -> Result<(WriteOutcome, v1::WriteReply), Unavailable> {
        match Write::try_from(request) {
            Ok(write) => {
                let decided = self.raft.write(write).await?;
                let is_done = decided.faults.is_empty();
                let outcome = if is_done { WriteOutcome::Done } else { WriteOutcome::Refused };
                Ok((outcome, reply(decided.position, &decided.faults)))
            }
            // What has no form is not worth a leader's time; any member says so.
            Err(faults) => Ok((WriteOutcome::Refused, reply(self.raft.state().position(), &faults))),
        }
    }
}

#[tonic::async_trait]
impl v1::intent_server::Intent for Api {
    type ReadStream = BoxStream<'static, Result<v1::ReadReply, Status>>;

    async fn write(&self, request: Request<v1::WriteRequest>) -> Result<Response<v1::WriteReply>, Status> {
        let began = Instant::now();
        match self.decide(request.into_inner()).await {
            Ok((outcome, reply)) => {
                self.metrics.count_write(outcome, began.elapsed());
                Ok(Response::new(reply))
            }
            Err(error) => {
                self.metrics.count_write(WriteOutcome::Unavailable, began.elapsed());
                Err(unavailable(&error))
            }
        }
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let wanted = Wanted::parse(&request.into_inner().what)?;
        self.raft.catch_up().await.map_err(|error| unavailable(&error))?;
        let (position, resources) = {
            let state = self.raft.state();
            (state.position(), wanted.of(&state))
        };
        let replies = Parts::of(resources).map(move |part| {
            Ok(v1::ReadReply {
                incarnation: position.incarnation.0,
                revision: position.revision.0,
                resources: part.resources,
            })
        });
        Ok(Response::new(stream::iter(replies).boxed()))
    }

    async fn status(
        &self,
        _request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusReply>, Status> {
        let standing = self.raft.standing().borrow().clone();
        let position = self.raft.state().position();
        let members = self.raft.members().iter().map(|member| v1::MemberStatus {
            id: member.id,
            region: member.region.to_string(),
            // The name that its certificate carries comes first.
            name: member.server_name.split('.').next().unwrap_or_default().to_owned(),
            address: member.address.to_string(),
            voter: true,
        });
        Ok(Response::new(v1::StatusReply {
            cluster: self.cluster.clone(),
            incarnation: position.incarnation.0,
            revision: position.revision.0,
            id: self.id,
            leader: standing.leader.unwrap_or_default(),
            term: standing.term,
            members: members.collect(),
        }))
    }
}

/// What a read asks for; each resource once, however often it is named.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    kinds: BTreeSet<Kind>,
    ids: BTreeSet<ResourceId>,
}

impl Wanted {
    fn parse(what: &[String]) -> Result<Self, Status> {
        if what.is_empty() || what.len() > WHAT_MAX {
            return Err(Status::invalid_argument(format!("what: from 1 to {WHAT_MAX} are needed")));
        }
        let mut wanted = Self::default();
        for (at, text) in what.iter().enumerate() {
            if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.as_str() == text) {
                wanted.kinds.insert(kind);
                continue;
            }
            let id = text.parse().map_err(|_| {
                let text = shown(text);
                Status::invalid_argument(format!("what[{at}]: {text} is neither <kind> nor <kind>/<name>"))
            })?;
            wanted.ids.insert(id);
        }
        Ok(wanted)
    }

    fn of(&self, state: &State) -> Vec<Arc<Stored>> {
        let of_kinds = self.kinds.iter().flat_map(|kind| state.of_kind(*kind));
        let singles = self.ids.iter().filter(|id| !self.kinds.contains(&id.kind()));
        of_kinds.chain(singles.filter_map(|id| state.get(id))).cloned().collect()
    }
}

fn reply(position: Position, faults: &[Fault]) -> v1::WriteReply {
    v1::WriteReply {
        incarnation: position.incarnation.0,
        revision: position.revision.0,
        faults: faults.iter().map(Into::into).collect(),
    }
}

/// With its whole chain, for the operator who reads it.
fn unavailable(error: &Unavailable) -> Status {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    Status::unavailable(text)
}

/// A write travels on to each subscriber in one update, with a little more to each resource; that must stay below
/// the 4 MiB that a gRPC client takes.
const WRITE_BYTES_MAX: usize = 3 * 1024 * 1024;
const WHAT_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn a_read_names_kinds_and_resources() {
        let parse = |what: &[&str]| Wanted::parse(&what.iter().map(ToString::to_string).collect::<Vec<_>>());
        let wanted = parse(&["tenant", "model/m", "tenant", "model/m"]).unwrap();
        assert_eq!((wanted.kinds.len(), wanted.ids.len()), (1, 1));
        let many = vec!["tenant"; WHAT_MAX + 1];
        for (what, word) in [
            (&[][..], "what"),
            (&many, "what"),
            (&["tenant", "boss"], "what[1]: \"boss\""),
            (&["boss/acme"], "boss/acme"),
            (&["tenant/UPPER"], "tenant/UPPER"),
            (&["node/n1"], "node/n1"),
            (&[""], "what[0]"),
        ] {
            let status = parse(what).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(word), "{status}");
        }
    }
}
