//! A member of the control plane that says what a test wants it to say.

use crate::intent::{INCARNATION, stored};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use identity::{Authority, Identity, Name};
use proto::signal::NodeReport;
use proto::v1;
use proto::v1::subscriber_message::Message;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use types::intent::{Resource, ResourceId};

pub struct Member {
    pub address: SocketAddr,
    stage: Arc<Stage>,
}

/// What happens to one resource.
#[derive(Debug, Clone)]
pub enum Change {
    Put(Resource),
    Delete(ResourceId),
}

#[derive(Clone)]
struct Services(Arc<Stage>);

struct Stage {
    history: Mutex<Vec<Vec<Change>>>,
    /// How long the history is; the revision is that number.
    revision: watch::Sender<u64>,
    /// What each interest (by its first kind) said to each revision.
    said: watch::Sender<HashMap<(String, u64), Result<(), String>>>,
    reports: Mutex<Vec<v1::NodeReport>>,
    authority: Authority,
    edge: Name,
}

impl Member {
    /// Serves until the runtime ends. Certificates that it renews live for ever.
    pub async fn start(
        identity: &Identity,
        authority: Authority,
        edge: Name,
        resources: Vec<Resource>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stage = Arc::new(Stage {
            history: Mutex::new(vec![resources.into_iter().map(Change::Put).collect()]),
            revision: watch::Sender::new(1),
            said: watch::Sender::default(),
            reports: Mutex::default(),
            authority,
            edge,
        });
        let services = Services(stage.clone());
        let routes = tonic::service::Routes::new(v1::watch_server::WatchServer::new(services.clone()))
            .add_service(v1::signal_server::SignalServer::new(services.clone()))
            .add_service(v1::identity_server::IdentityServer::new(services))
            .prepare();
        let acceptor = TlsAcceptor::from(identity.server_config());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, routes) = (acceptor.clone(), routes.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let service = TowerToHyperService::new(routes);
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, stage }
    }

    /// Changes what operators want, and waits for what the edge says to it.
    pub async fn change(&self, changes: Vec<Change>) -> Result<(), String> {
        let kind = match &changes[0] {
            Change::Put(resource) => resource.kind(),
            Change::Delete(id) => id.kind(),
        };
        let interest = if crate::intent::TENANTS.contains(&kind) { "policy" } else { "region" };
        let revision = {
            let mut history = self.stage.history.lock().unwrap();
            history.push(changes);
            history.len() as u64
        };
        self.stage.revision.send_replace(revision);
        let mut said = self.stage.said.subscribe();
        let key = (interest.to_owned(), revision);
        said.wait_for(|said| said.contains_key(&key)).await.unwrap()[&key].clone()
    }

    /// What agents are said to have reported, ever again.
    pub fn heard(&self, reports: impl IntoIterator<Item = NodeReport>) {
        *self.stage.reports.lock().unwrap() = reports.into_iter().map(|report| (&report).into()).collect();
    }
}

impl Stage {
    /// Everything of some kinds, as of a revision.
    fn snapshot(&self, kinds: &[String], revision: u64) -> v1::Update {
        let mut resources = BTreeMap::new();
        let history = self.history.lock().unwrap();
        for (at, changes) in history.iter().enumerate().take(revision as usize) {
            for change in changes {
                match change {
                    Change::Put(resource) => {
                        drop(resources.insert(resource.id(), stored(resource.clone(), at as u64 + 1)));
                    }
                    Change::Delete(id) => drop(resources.remove(id)),
                }
            }
        }
        resources.retain(|id, _| kinds.contains(&id.kind().to_string()));
        let content = v1::update::Content::Snapshot(v1::Snapshot {
            total: Some(resources.len() as u64),
            resources: resources.values().map(Into::into).collect(),
            shrink_revision: 0,
        });
        v1::Update { incarnation: INCARNATION, prev_revision: 0, revision, content: Some(content) }
    }

    fn delta(&self, kinds: &[String], revision: u64) -> v1::Update {
        let changes = self.history.lock().unwrap()[revision as usize - 1].clone();
        let events: Vec<v1::Event> = changes
            .iter()
            .filter_map(|change| {
                let (kind, event) = match change {
                    Change::Put(resource) => {
                        let put = v1::event::Event::Put((&stored(resource.clone(), revision)).into());
                        (resource.kind(), put)
                    }
                    Change::Delete(id) => (id.kind(), v1::event::Event::Delete(id.to_string())),
                };
                kinds.contains(&kind.to_string()).then_some(v1::Event { event: Some(event) })
            })
            .collect();
        let content = match events.is_empty() {
            true => v1::update::Content::Bookmark(true),
            false => v1::update::Content::Delta(v1::Delta { events, expects_shrink: false }),
        };
        v1::Update { incarnation: INCARNATION, prev_revision: revision - 1, revision, content: Some(content) }
    }
}

#[tonic::async_trait]
impl v1::watch_server::Watch for Services {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<v1::Update, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscriberMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut heard = request.into_inner();
        let first = heard.message().await?.and_then(|message| message.message);
        let Some(Message::Subscribe(subscribe)) = first else { panic!("subscribe comes first: {first:?}") };
        let (said, interest) = (self.0.said.clone(), subscribe.kinds[0].clone());
        tokio::spawn(async move {
            while let Ok(Some(message)) = heard.message().await {
                let (revision, what) = match message.message.unwrap() {
                    Message::Ack(revision) => (revision, Ok(())),
                    Message::Nack(nack) => (nack.revision, Err(nack.error)),
                    Message::Subscribe(again) => panic!("once: {again:?}"),
                };
                said.send_modify(|said| drop(said.insert((interest.clone(), revision), what)));
            }
        });
        let (send, updates) = mpsc::channel(64);
        let mut revision = self.0.revision.subscribe();
        let now = *revision.borrow_and_update();
        let mut has = match &subscribe.resume {
            Some(resume) => resume.revision,
            None => {
                send.send(Ok(self.0.snapshot(&subscribe.kinds, now))).await.unwrap();
                now
            }
        };
        let updates = ReceiverStream::new(updates);
        let stage = self.0.clone();
        tokio::spawn(async move {
            loop {
                let now = *revision.borrow_and_update();
                for next in has + 1..=now {
                    if send.send(Ok(stage.delta(&subscribe.kinds, next))).await.is_err() {
                        return;
                    }
                }
                has = now;
                if revision.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(updates)))
    }
}

#[tonic::async_trait]
impl v1::identity_server::Identity for Services {
    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewReply>, Status> {
        let (authority, now) = (&self.0.authority, SystemTime::now().into());
        let request = request.into_inner().request;
        let certificate = authority.sign_request(&self.0.edge, &request, Duration::days(1), now).unwrap();
        Ok(Response::new(v1::RenewReply { certificate, authority: authority.certificate().to_owned() }))
    }
}

#[tonic::async_trait]
impl v1::signal_server::Signal for Services {
    type PicturesStream = Pin<Box<dyn Stream<Item = Result<v1::Picture, Status>> + Send>>;
    type HeardStream = Self::PicturesStream;

    async fn pictures(
        &self,
        _request: Request<v1::PicturesRequest>,
    ) -> Result<Response<Self::PicturesStream>, Status> {
        let (send, pictures) = mpsc::channel(1);
        let stage = self.0.clone();
        tokio::spawn(async move {
            let mut often = tokio::time::interval(std::time::Duration::from_millis(50));
            loop {
                often.tick().await;
                let reports = stage.reports.lock().unwrap().clone();
                if send.send(Ok(v1::Picture { reports })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(pictures))))
    }

    async fn report(
        &self,
        _request: Request<Streaming<v1::NodeReport>>,
    ) -> Result<Response<v1::ReportReply>, Status> {
        Err(Status::unimplemented("for agents"))
    }

    async fn heard(
        &self,
        _request: Request<v1::PicturesRequest>,
    ) -> Result<Response<Self::HeardStream>, Status> {
        Err(Status::unimplemented("for members"))
    }
}
