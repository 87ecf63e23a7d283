//! A member of the control plane that does what a test says, under real mutual TLS.

use client::{Changed, Dialer, Follower, Interest, MemberAddress, Patience, Picture, Standing};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use identity::{Authority, CERTIFICATE_LIFE, Identity, Live, Name};
use proto::v1;
use proto::v1::identity_server::IdentityServer;
use proto::v1::intent_server::IntentServer;
use proto::v1::signal_server::SignalServer;
use proto::v1::watch_server::{Watch, WatchServer};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use types::UnixMs;
use types::intent::{Incarnation, Kind, Model, Position, Resource, Revision, Stored};

/// One cluster's authority, and who we are in it.
pub struct World {
    pub dir: TempDir,
    pub authority: Arc<Authority>,
    pub live: Arc<Live>,
}

/// A listening member. Dropped, it is dead.
pub struct Member {
    pub address: MemberAddress,
    /// What each connection showed of itself.
    pub shown: Arc<Mutex<Vec<Vec<u8>>>>,
    pub subscriptions: mpsc::UnboundedReceiver<Subscription>,
    task: JoinHandle<()>,
}

/// One subscription, for a test to answer.
pub struct Subscription {
    pub subscribe: v1::Subscribe,
    pub said: Streaming<v1::SubscriberMessage>,
    pub updates: mpsc::Sender<Result<v1::Update, Status>>,
}

/// What a member does besides Watch.
#[derive(Clone)]
pub struct Part {
    pub intent: super::ask::Answers,
    pub authority: Arc<Authority>,
    pub client: Name,
    pub life: time::Duration,
    /// How far its clock is ahead when it signs.
    pub ahead: time::Duration,
}

#[derive(Clone)]
struct Script(mpsc::UnboundedSender<Subscription>);

#[tonic::async_trait]
impl Watch for Script {
    type SubscribeStream = ReceiverStream<Result<v1::Update, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscriberMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut said = request.into_inner();
        let Some(v1::SubscriberMessage {
            message: Some(v1::subscriber_message::Message::Subscribe(subscribe)),
        }) = said.message().await?
        else {
            return Err(Status::invalid_argument("not subscribed"));
        };
        let (updates, sent) = mpsc::channel(1000);
        self.0.send(Subscription { subscribe, said, updates }).map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(sent)))
    }
}

impl World {
    pub fn new(life: time::Duration) -> Self {
        let dir = TempDir::new().unwrap();
        let now = OffsetDateTime::now_utc();
        let authority = Authority::create("c1", now).unwrap();
        let name = "spiffe://c1/us-east/edge/e1".parse().unwrap();
        authority.issue(&name, &dir.path().join("edge"), life, now).unwrap();
        let live = Live::new(Identity::load(&dir.path().join("edge")).unwrap());
        Self { dir, authority: Arc::new(authority), live }
    }

    pub fn dialer(&self) -> Dialer {
        Dialer::new(self.live.clone())
    }

    pub async fn member(&self, number: u32) -> Member {
        self.member_with(number, super::ask::Answers::default(), CERTIFICATE_LIFE).await
    }

    pub async fn member_with(
        &self,
        number: u32,
        intent: super::ask::Answers,
        life: time::Duration,
    ) -> Member {
        self.member_that(number, intent, life, time::Duration::ZERO).await
    }

    /// One that signs by a clock of its own.
    pub async fn member_ahead(&self, number: u32, ahead: time::Duration) -> Member {
        self.member_that(number, super::ask::Answers::default(), CERTIFICATE_LIFE, ahead).await
    }

    async fn member_that(
        &self,
        number: u32,
        intent: super::ask::Answers,
        life: time::Duration,
        ahead: time::Duration,
    ) -> Member {
        let name: Name = format!("spiffe://c1/us-east/control-plane/m{number}").parse().unwrap();
        let dir = self.dir.path().join(format!("m{number}"));
        self.authority.issue(&name, &dir, CERTIFICATE_LIFE, OffsetDateTime::now_utc()).unwrap();
        let identity = Identity::load(&dir).unwrap();
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address =
            MemberAddress { address: listener.local_addr().unwrap(), server_name: name.host_name() };
        let (send, subscriptions) = mpsc::unbounded_channel();
        let client = self.live.current().name().clone();
        let part = Part { intent, authority: self.authority.clone(), client, life, ahead };
        let routes = Routes::new(WatchServer::new(Script(send)))
            .add_service(IdentityServer::new(part.clone()))
            .add_service(IntentServer::new(part.clone()))
            .add_service(SignalServer::new(part))
            .prepare();
        let shown = Arc::default();
        let task = tokio::spawn(serve(listener, identity, routes, Arc::clone(&shown)));
        Member { address, shown, subscriptions, task }
    }

    pub fn interest(&self) -> Interest {
        Interest {
            name: "models",
            cluster: "c1".to_owned(),
            kinds: vec![Kind::Model],
            region: None,
            keep: self.dir.path().join("kept"),
        }
    }
}

async fn serve(listener: TcpListener, identity: Identity, routes: Routes, shown: Arc<Mutex<Vec<Vec<u8>>>>) {
    let acceptor = TlsAcceptor::from(identity.server_config());
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (acceptor, routes, shown) = (acceptor.clone(), routes.clone(), shown.clone());
        connections.spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            shown.lock().unwrap().push(tls.get_ref().1.peer_certificates().unwrap()[0].to_vec());
            let service = TowerToHyperService::new(routes);
            let builder = auto::Builder::new(TokioExecutor::new()).http2_only();
            let _ = builder.serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

impl Member {
    pub async fn subscription(&mut self) -> Subscription {
        soon(self.subscriptions.recv()).await.unwrap()
    }

    pub fn kill(&self) {
        self.task.abort();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscription {
    pub async fn send(&self, update: v1::Update) {
        self.updates.send(Ok(update)).await.unwrap();
    }

    /// The next ack or nack.
    pub async fn said(&mut self) -> v1::subscriber_message::Message {
        soon(self.said.message()).await.unwrap().unwrap().message.unwrap()
    }

    pub async fn acked(&mut self, revision: u64) {
        assert_eq!(self.said().await, v1::subscriber_message::Message::Ack(revision));
    }

    pub async fn nacked(&mut self, revision: u64) -> String {
        match self.said().await {
            v1::subscriber_message::Message::Nack(nack) if nack.revision == revision => nack.error,
            other => panic!("no nack of {revision}: {other:?}"),
        }
    }

    /// Waits until the client has left.
    pub async fn left(self) {
        self.updates.closed().await;
    }

    pub fn resumes_at(&self) -> Option<u64> {
        self.subscribe.resume.map(|position| position.revision)
    }
}

/// A consumer that writes down what it is given; it refuses pictures with a model named `poison`, and panics at one
/// named `panic`.
pub struct Watched {
    pub seen: mpsc::UnboundedReceiver<(u64, Vec<String>)>,
    pub standing: watch::Receiver<Standing>,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
}

impl Watched {
    pub fn start(world: &World, members: &[&Member]) -> Self {
        let patience = Patience { refused: Duration::from_millis(20), ..Patience::default() };
        Self::start_with(world, members, patience)
    }

    pub fn start_with(world: &World, members: &[&Member], patience: Patience) -> Self {
        let (send, seen) = mpsc::unbounded_channel();
        let follower = Follower::open(world.interest(), move |picture: &Picture, _: Changed<'_>| {
            let names: Vec<_> = picture.resources().map(|stored| stored.resource.id().to_string()).collect();
            if names.iter().any(|name| name == "model/poison") {
                return Err("poison".to_owned());
            }
            assert!(!names.iter().any(|name| name == "model/panic"), "as a consumer with a defect does");
            let _ = send.send((picture.position().revision.0, names));
            Ok(())
        });
        let follower = follower.unwrap().with_patience(patience);
        let (standing, stop) = (follower.standing(), CancellationToken::new());
        let members = members.iter().map(|member| member.address.clone()).collect();
        let task = tokio::spawn(follower.run(world.dialer(), members, stop.clone()));
        Self { seen, standing, stop, task }
    }

    pub async fn sees(&mut self, revision: u64, names: &[&str]) {
        let (seen, models) = soon(self.seen.recv()).await.unwrap();
        let names: Vec<_> = names.iter().map(|name| format!("model/{name}")).collect();
        assert_eq!((seen, models), (revision, names));
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// A test that waits for what never comes fails rather than hangs.
async fn soon<T>(waited_for: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), waited_for).await.unwrap()
}

pub fn position(revision: u64) -> Position {
    Position { incarnation: Incarnation(7), revision: Revision(revision) }
}

pub fn model(name: &str) -> Stored {
    Stored {
        resource: Resource::Model(Model::named(name.parse().unwrap())),
        revision: Revision(1),
        created_unix_ms: UnixMs(1),
    }
}

pub fn update(prev_revision: u64, revision: u64, content: v1::update::Content) -> v1::Update {
    v1::Update { incarnation: 7, prev_revision, revision, content: Some(content) }
}

/// A part of a snapshot; with a total, the last one.
pub fn part(revision: u64, names: &[&str], total: Option<u64>) -> v1::Update {
    let resources = names.iter().map(|name| (&model(name)).into()).collect();
    let snapshot = v1::Snapshot { resources, total, shrink_revision: 0 };
    update(0, revision, v1::update::Content::Snapshot(snapshot))
}

pub fn whole(revision: u64, names: &[&str]) -> v1::Update {
    part(revision, names, Some(names.len() as u64))
}

pub fn put(prev_revision: u64, revision: u64, name: &str) -> v1::Update {
    let event = v1::event::Event::Put((&model(name)).into());
    delta(prev_revision, revision, vec![event])
}

pub fn delta(prev_revision: u64, revision: u64, events: Vec<v1::event::Event>) -> v1::Update {
    let events = events.into_iter().map(|event| v1::Event { event: Some(event) }).collect();
    update(prev_revision, revision, v1::update::Content::Delta(v1::Delta { events, expects_shrink: false }))
}

pub fn bookmark(prev_revision: u64, revision: u64) -> v1::Update {
    update(prev_revision, revision, v1::update::Content::Bookmark(true))
}
