//! The places of a node and its door, with an intent that the test changes.

use crate::stand_in;
use crate::world::{free_engines, issue, version, within};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{Authority, Identity, Live, Role};
use region_agent::board::{Board, Status};
use region_agent::ingress::Ingress;
use region_agent::launch::Launcher;
use region_agent::node::Node;
use region_agent::placement::{Recipe, Share, Wanted};
use region_agent::places::{Places, Room};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};
use types::header;

pub struct House {
    pub node: Arc<Node>,
    pub drain: CancellationToken,
    pub places: JoinHandle<()>,
    intent: watch::Sender<Option<Arc<Wanted>>>,
    board: watch::Receiver<Board>,
    pub edge: Edge,
    _dir: tempfile::TempDir,
    _stop: DropGuard,
}

pub fn share(version_number: u8, slots: u32, count: u16) -> Share {
    let recipe = Recipe {
        version: version(version_number),
        model_dir: "/models/tiny".into(),
        served_name: "tiny".parse().unwrap(),
        slots,
        threads: 1,
        kv_tokens: None,
        step_time: Duration::ZERO,
    };
    Share { recipe, count }
}

impl House {
    pub async fn new(places: u16, patience: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("c1", time::OffsetDateTime::now_utc()).unwrap();
        let agent = issue(&authority, &dir.path().join("agent"), Role::RegionAgent, "n1");
        let edge = issue(&authority, &dir.path().join("edge"), Role::Edge, "e1");
        let node = Node::new("us-east".parse().unwrap(), "n1".parse().unwrap(), 4);
        let ingress =
            Ingress::bind("127.0.0.1:0".parse().unwrap(), &Live::new(agent), node.clone()).await.unwrap();
        let address = ingress.local_addr().unwrap();
        let (stop, drain) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(ingress.serve(stop.clone()));

        let launcher = Launcher { program: stand_in::program(dir.path()), logs: dir.path().to_owned() };
        let first = free_engines().parse().unwrap();
        let room = Room { node: node.clone(), launcher, first, places, patience };
        let (places, (intent, wanted)) = (Places::new(room), watch::channel(None));
        let board = places.board();
        let places = tokio::spawn(places.run(wanted, drain.clone()));

        let edge = Edge::dial(address, &edge).await;
        Self { node, drain, places, intent, board, edge, _dir: dir, _stop: stop.drop_guard() }
    }

    pub fn want(&self, replicas: &[Share]) {
        let wanted = Wanted { is_known: true, replicas: replicas.to_vec() };
        self.intent.send_replace(Some(Arc::new(wanted)));
    }

    /// Waits until the board says so: it is what operators have, too.
    pub async fn until(&mut self, what: impl FnMut(&Board) -> bool) -> Board {
        within(self.board.wait_for(what)).await.unwrap().clone()
    }

    /// Waits until these are in the places, by number, and nothing else is.
    pub async fn until_places(&mut self, expected: &[(u16, &str)]) -> Board {
        let expected: Vec<_> =
            expected.iter().map(|(number, stage)| (*number, (*stage).to_owned())).collect();
        self.until(|board| {
            let there = |(number, status): (&u16, &Status)| (*number, status.stage.as_str().to_owned());
            board.places.iter().map(there).collect::<Vec<_>>() == expected
        })
        .await
    }
}

/// A connection to an agent's door.
pub struct Edge {
    sender: SendRequest<Full<Bytes>>,
}

impl Edge {
    pub async fn dial(address: SocketAddr, identity: &Identity) -> Self {
        let host = ServerName::try_from("n1.region-agent.us-east.rhumb.internal").unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = TlsConnector::from(identity.client_config()).connect(host, stream).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    /// Asks for an answer that ends when the gate opens.
    pub async fn ask(&self, version_number: u8, gate: &str) -> Response<Incoming> {
        let request = Request::post("http://n1/v1/chat/completions")
            .header(header::PROTOCOL, "1")
            .header(header::REQUEST_ID, "0f".repeat(16))
            .header(header::MODEL_VERSION, version(version_number).to_string())
            .header(header::DEADLINE_MS, "60000")
            .body(Full::from(gate.to_owned()))
            .unwrap();
        within(self.sender.clone().send_request(request)).await.unwrap()
    }
}

/// Where a stand-in waits before it ends its answer.
pub struct Gate {
    pub address: String,
    listener: TcpListener,
}

impl Gate {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap().to_string(), listener }
    }

    pub async fn open(&self) {
        drop(self.listener.accept().await.unwrap());
    }
}

/// The address of a gate that lets everybody pass.
pub async fn open_gate() -> String {
    let gate = Gate::new().await;
    let address = gate.address.clone();
    tokio::spawn(async move {
        loop {
            gate.open().await;
        }
    });
    address
}

pub fn replica(answer: &Response<Incoming>) -> &str {
    answer.headers().get(header::REPLICA).map_or("", |replica| replica.to_str().unwrap())
}

pub fn failure(answer: &Response<Incoming>) -> &str {
    answer.headers().get(header::FAILURE).map_or("", |failure| failure.to_str().unwrap())
}

pub async fn chunk(answer: &mut Response<Incoming>) -> Bytes {
    within(answer.frame()).await.unwrap().unwrap().into_data().unwrap()
}

pub async fn rest(answer: Response<Incoming>) -> Result<Bytes, hyper::Error> {
    within(answer.into_body().collect()).await.map(http_body_util::Collected::to_bytes)
}
