//! A member of the control plane that sends one agent the pictures that a test gives it, and hears its reports.

use crate::world::{issue, stored, within};
use client::MemberAddress;
use futures_util::stream::{self, Stream};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use identity::{Authority, Role};
use proto::signal::NodeReport;
use proto::v1;
use proto::v1::signal_server::{Signal, SignalServer};
use proto::v1::subscriber_message::Message;
use proto::v1::watch_server::{Watch, WatchServer};
use std::path::Path;
use std::pin::Pin;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use types::intent::Resource;

pub struct Member {
    pub address: MemberAddress,
    pub subscriptions: mpsc::UnboundedReceiver<v1::Subscribe>,
    said: mpsc::UnboundedReceiver<v1::SubscriberMessage>,
    pub reports: mpsc::UnboundedReceiver<NodeReport>,
    picture: watch::Sender<v1::Update>,
}

#[derive(Clone)]
struct Script {
    picture: watch::Receiver<v1::Update>,
    subscribed: mpsc::UnboundedSender<v1::Subscribe>,
    said: mpsc::UnboundedSender<v1::SubscriberMessage>,
    reported: mpsc::UnboundedSender<NodeReport>,
}

impl Member {
    pub async fn new(authority: &Authority, dir: &Path, resources: &[Resource]) -> Self {
        let identity = issue(authority, &dir.join("member"), Role::ControlPlane, "m1");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = MemberAddress {
            address: listener.local_addr().unwrap(),
            server_name: identity.name().host_name(),
        };
        let (picture, sent) = watch::channel(snapshot(1, resources));
        let (subscribed, subscriptions) = mpsc::unbounded_channel();
        let (say, said) = mpsc::unbounded_channel();
        let (reported, reports) = mpsc::unbounded_channel();
        let script = Script { picture: sent, subscribed, said: say, reported };
        let routes = Routes::new(WatchServer::new(script.clone())).add_service(SignalServer::new(script));
        let acceptor = TlsAcceptor::from(identity.server_config());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(routes.clone()));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let server = http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, subscriptions, said, reports, picture }
    }

    pub fn send(&self, revision: u64, resources: &[Resource]) {
        self.picture.send_replace(snapshot(revision, resources));
    }

    /// The next ack or nack.
    pub async fn said(&mut self) -> Message {
        within(self.said.recv()).await.unwrap().message.unwrap()
    }
}

fn snapshot(revision: u64, resources: &[Resource]) -> v1::Update {
    let resources: Vec<_> = resources.iter().map(|resource| (&stored(revision, resource)).into()).collect();
    let total = Some(resources.len() as u64);
    let snapshot = v1::Snapshot { resources, total, shrink_revision: 0 };
    let content = Some(v1::update::Content::Snapshot(snapshot));
    v1::Update { incarnation: 1, prev_revision: 0, revision, content }
}

type Sent<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Watch for Script {
    type SubscribeStream = Sent<v1::Update>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscriberMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut said = request.into_inner();
        let first = said.message().await?.and_then(|first| first.message);
        let Some(Message::Subscribe(subscribe)) = first else {
            return Err(Status::invalid_argument("it did not subscribe"));
        };
        let _ = self.subscribed.send(subscribe);
        let say = self.said.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = said.message().await {
                let _ = say.send(message);
            }
        });
        let mut picture = self.picture.clone();
        picture.mark_changed();
        let updates = stream::unfold(picture, async |mut picture| {
            picture.changed().await.ok()?;
            let update = picture.borrow_and_update().clone();
            Some((Ok(update), picture))
        });
        Ok(Response::new(Box::pin(updates)))
    }
}

#[tonic::async_trait]
impl Signal for Script {
    type PicturesStream = Sent<v1::Picture>;
    type HeardStream = Sent<v1::Picture>;

    async fn report(
        &self,
        request: Request<Streaming<v1::NodeReport>>,
    ) -> Result<Response<v1::ReportReply>, Status> {
        let mut reports = request.into_inner();
        while let Some(report) = reports.message().await? {
            let _ = self.reported.send(report.try_into().unwrap());
        }
        Ok(Response::new(v1::ReportReply {}))
    }

    async fn pictures(
        &self,
        _: Request<v1::PicturesRequest>,
    ) -> Result<Response<Self::PicturesStream>, Status> {
        Err(Status::unimplemented("not for agents"))
    }

    async fn heard(&self, _: Request<v1::PicturesRequest>) -> Result<Response<Self::HeardStream>, Status> {
        Err(Status::unimplemented("not for agents"))
    }
}
