//! How intent reaches those who live from it: the door to it. What follows is [`subscriber`]'s.

mod subscriber;

use crate::authorise::caller;
use crate::door::Connection;
use crate::interest::Interest;
use crate::metrics::Metrics;
use identity::{Name, Role};
use proto::v1;
use proto::v1::subscriber_message::Message;
use raft::Raft;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use subscriber::{Patience, Subscriber};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use types::intent::{Incarnation, Kind, Position, Revision};

pub(crate) struct Watch {
    raft: Raft,
    cluster: String,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    tasks: TaskTracker,
    places: Arc<Semaphore>,
    snapshots: Arc<Semaphore>,
}

/// What was asked for, checked.
struct Asked {
    interest: Interest,
    resume: Option<Position>,
}

impl Watch {
    pub(crate) fn new(
        raft: Raft,
        cluster: String,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let places = Arc::new(Semaphore::new(SUBSCRIBERS_MAX));
        let snapshots = Arc::new(Semaphore::new(SNAPSHOTS_MAX));
        Self { raft, cluster, metrics, stop, tasks, places, snapshots }
    }

    pub(crate) fn service(self) -> v1::watch_server::WatchServer<Self> {
        v1::watch_server::WatchServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl v1::watch_server::Watch for Watch {
    type SubscribeStream = ReceiverStream<Result<v1::Update, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscriberMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let name = caller(&request)?;
        let connection = request.extensions().get::<Connection>().cloned();
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("this member has {SUBSCRIBERS_MAX} subscribers; ask another"))
        })?;
        let mut inbound = request.into_inner();
        let Asked { interest, resume } = asked(&self.cluster, first(&mut inbound).await?)?;
        allowed(&name, &interest)?;
        // One is being sent, and one waits for it: whoever reads slowly gets larger updates, not more of them.
        let (outlet, updates) = mpsc::channel(1);
        let subscriber = Subscriber {
            name,
            interest,
            raft: self.raft.clone(),
            metrics: self.metrics.clone(),
            snapshots: self.snapshots.clone(),
            patience: Patience::default(),
            stop: self.stop.clone(),
            connection,
            inbound,
            is_inbound_open: true,
            outlet,
        };
        self.tasks.spawn(async move {
            subscriber.run(resume).await;
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(updates)))
    }
}

async fn first(inbound: &mut Streaming<v1::SubscriberMessage>) -> Result<v1::Subscribe, Status> {
    let message = tokio::time::timeout(SUBSCRIBE_MAX, inbound.message()).await.map_err(|_| {
        Status::deadline_exceeded(format!("no subscribe came within {} s", SUBSCRIBE_MAX.as_secs()))
    })??;
    match message.and_then(|message| message.message) {
        Some(Message::Subscribe(subscribe)) => Ok(subscribe),
        Some(Message::Ack(_) | Message::Nack(_)) | None => {
            Err(Status::invalid_argument("the first message must be a subscribe"))
        }
    }
}

fn asked(cluster: &str, subscribe: v1::Subscribe) -> Result<Asked, Status> {
    let v1::Subscribe { cluster: wanted, resume, kinds, region } = subscribe;
    if wanted != cluster {
        return Err(Status::failed_precondition(format!(
            "cluster: this is {cluster}, not {}",
            shown(&wanted)
        )));
    }
    let kind = |text: &String| {
        let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| Status::invalid_argument(format!("kinds: there is no kind {}", shown(text))))
    };
    let kinds: BTreeSet<Kind> = kinds.iter().map(kind).collect::<Result<_, _>>()?;
    if kinds.is_empty() {
        return Err(Status::invalid_argument("kinds: at least one is needed"));
    }
    let region = region.map(|region| region.parse());
    let region = region.transpose().map_err(|error| Status::invalid_argument(format!("region: {error}")))?;
    let resume = resume.map(|position| Position {
        incarnation: Incarnation(position.incarnation),
        revision: Revision(position.revision),
    });
    Ok(Asked { interest: Interest { kinds, region }, resume })
}

/// Agents stand on many hosts. Each learns what its own region runs, and nothing of who may use it.
fn allowed(name: &Name, interest: &Interest) -> Result<(), Status> {
    if name.role != Role::RegionAgent {
        return Ok(());
    }
    if interest.region.as_ref() != Some(&name.region) {
        let text = format!("region: an agent in {0} may follow {0} only", name.region);
        return Err(Status::permission_denied(text));
    }
    match interest.kinds.iter().find(|kind| matches!(kind, Kind::Tenant | Kind::Key | Kind::Policy)) {
        Some(kind) => Err(Status::permission_denied(format!("kinds: an agent may not follow {kind}"))),
        None => Ok(()),
    }
}

/// A stranger's text, as far as an error message repeats it.
pub(crate) fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

/// All edges and agents of a large region, several times; each costs some tens of kilobytes.
const SUBSCRIBERS_MAX: usize = 4_096;
/// Each holds the list of everything for a while; a fleet that comes back at once is served in turn.
const SNAPSHOTS_MAX: usize = 8;
const SUBSCRIBE_MAX: Duration = Duration::from_secs(5);
/// Subscribers send little.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn refused(cluster: &str, kinds: &[&str], region: Option<&str>) -> Option<(Code, String)> {
        let subscribe = v1::Subscribe {
            cluster: cluster.to_owned(),
            resume: None,
            kinds: kinds.iter().map(ToString::to_string).collect(),
            region: region.map(ToOwned::to_owned),
        };
        asked("c1", subscribe).err().map(|status| (status.code(), status.message().to_owned()))
    }

    #[test]
    fn an_agent_follows_its_own_region_and_no_keys() {
        let refused = |name: &str, kinds: &[Kind], region: Option<&str>| {
            let region = region.map(|region| region.parse().unwrap());
            let interest = Interest { kinds: kinds.iter().copied().collect(), region };
            allowed(&name.parse().unwrap(), &interest).err().map(|status| status.code())
        };
        let agent = "spiffe://c1/us-east/region-agent/n1";
        let kinds = [Kind::Node, Kind::Model, Kind::Version, Kind::Deployment];
        assert_eq!(refused(agent, &kinds, Some("us-east")), None);
        assert_eq!(refused(agent, &kinds, Some("eu-west")), Some(Code::PermissionDenied));
        assert_eq!(refused(agent, &kinds, None), Some(Code::PermissionDenied));
        for kind in [Kind::Tenant, Kind::Key, Kind::Policy] {
            assert_eq!(refused(agent, &[kind], Some("us-east")), Some(Code::PermissionDenied), "{kind}");
        }
        assert_eq!(refused("spiffe://c1/us-east/edge/e1", &Kind::ALL, None), None);
    }

    #[test]
    fn a_subscription_says_what_it_wants() {
        assert_eq!(refused("c1", &["tenant", "tenant", "key"], Some("us-east")), None);
        for (cluster, kinds, region, code, word) in [
            ("c2", &["tenant"][..], None, Code::FailedPrecondition, "cluster"),
            ("", &["tenant"], None, Code::FailedPrecondition, "cluster"),
            ("c1", &[], None, Code::InvalidArgument, "kinds"),
            ("c1", &["tenant", "boss"], None, Code::InvalidArgument, "boss"),
            ("c1", &["tenant"], Some("US EAST"), Code::InvalidArgument, "region"),
        ] {
            let (found, text) = refused(cluster, kinds, region).unwrap();
            assert_eq!(found, code, "{text}");
            assert!(text.contains(word), "{text}");
        }
    }
}
