//! One edge in us-east, a node beside it and one in eu-west.

use crate::node::Node;
use bytes::Bytes;
use edge::routing_table::{ModelEntry, NodeEntry, RegionEntry, RoutingFile};
use edge::tenants::{KeyEntry, Tenant, TenantFile};
use edge::{Config, File};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use identity::{Authority, Identity, Name};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use types::{ApiKey, Priority};

pub struct World {
    pub near: Node,
    pub far: Node,
    edge: SocketAddr,
    _shutdown: DropGuard,
    _dir: TempDir,
}

/// What a client got.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: String,
    /// False when the connection broke before the body's end.
    pub whole: bool,
}

pub const VERSION: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000001";

/// A tenant that may go anywhere, and one that must stay in Europe.
pub fn key(tenant: &str) -> ApiKey {
    ApiKey::from_random([tenant.len() as u8; 10], [7; 32])
}

impl World {
    pub async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let authority = Authority::create("test", SystemTime::now().into()).unwrap();
        let near = node(&authority, dir.path(), "us-east").await;
        let far = node(&authority, dir.path(), "eu-west").await;
        issue(&authority, "spiffe://test/us-east/edge/e1", &dir.path().join("edge"));
        write(&dir, "routing.toml", &toml::to_string(&routing(&near, &far)).unwrap());
        write(&dir, "tenants.toml", &toml::to_string(&tenants()).unwrap());
        let [listen, admin] = free_addresses();
        let file = File {
            region: "us-east".parse().unwrap(),
            name: "e1".parse().unwrap(),
            listen: Some(listen),
            tls: None,
            admin,
            identity: dir.path().join("edge"),
            routing_table: dir.path().join("routing.toml"),
            tenants: dir.path().join("tenants.toml"),
            drain_seconds: 1,
        };
        let shutdown = CancellationToken::new();
        let prepared = edge::prepare(Config::try_from(file).unwrap());
        let prepared = prepared.unwrap_or_else(|problems| panic!("{problems:?}"));
        tokio::spawn(edge::run(prepared, shutdown.clone()));
        while TcpStream::connect(listen).await.is_err() {
            tokio::task::yield_now().await;
        }
        Self { near, far, edge: listen, _shutdown: shutdown.drop_guard(), _dir: dir }
    }

    pub async fn ask(&self, options: &str) -> Got {
        self.ask_as("anyone", options).await
    }

    pub async fn ask_as(&self, tenant: &str, options: &str) -> Got {
        let (status, headers, mut body) = self.begin(tenant, options).await;
        let mut got = Got { status, headers, body: String::new(), whole: false };
        loop {
            match body.frame().await {
                Some(Ok(frame)) => {
                    got.body.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
                    self.near.go_on();
                }
                Some(Err(_)) => return got,
                None => return Got { whole: true, ..got },
            }
        }
    }

    /// A request of which only the head of the answer was read. Dropping the body leaves.
    pub async fn begin(&self, tenant: &str, options: &str) -> (u16, http::HeaderMap, hyper::body::Incoming) {
        let stream = TcpStream::connect(self.edge).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::post("/v1/chat/completions")
            .header("host", "test")
            .header("authorization", format!("Bearer {}", key(tenant).reveal()))
            .header("x-client", "must not travel")
            .header("rhumb-seed", "1")
            .header("rhumb-tried", "us-east/n1/0-0")
            .body(Full::<Bytes>::from(body(options)))
            .unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        (head.status.as_u16(), head.headers, body)
    }
}

pub fn body(options: &str) -> String {
    // Odd spacing and a field that nobody knows: what reaches the engine must be the same bytes.
    format!(r#"{{ "model" : "m",  "messages":[{{"role":"user","content":"hi"}}], "mystery":[1] {options}}}"#)
}

async fn node(authority: &Authority, dir: &Path, region: &str) -> Node {
    let dir = dir.join(region);
    let identity = issue(authority, &format!("spiffe://test/{region}/region-agent/n1"), &dir);
    Node::start(&identity, &format!("{region}/n1/0-0"), VERSION).await
}

fn issue(authority: &Authority, uri: &str, dir: &Path) -> Identity {
    let name: Name = uri.parse().unwrap();
    authority.issue(&name, dir, SystemTime::now().into()).unwrap();
    Identity::load(dir).unwrap()
}

fn routing(near: &Node, far: &Node) -> RoutingFile {
    let region =
        |name: &str, latitude, longitude| RegionEntry { name: name.parse().unwrap(), latitude, longitude };
    let node = |region: &str, node: &Node| NodeEntry {
        region: region.parse().unwrap(),
        node: "n1".parse().unwrap(),
        zone: "a".parse().unwrap(),
        ingress: node.address,
        server_name: format!("n1.region-agent.{region}.rhumb.internal"),
    };
    RoutingFile {
        regions: vec![region("us-east", 39.0, -77.5), region("eu-west", 53.3, -6.3)],
        nodes: vec![node("us-east", near), node("eu-west", far)],
        models: vec![ModelEntry { name: "m".parse().unwrap(), version: VERSION.parse().unwrap() }],
    }
}

fn tenants() -> TenantFile {
    let tenant = |name: &str, regions: Option<&str>| Tenant {
        name: name.parse().unwrap(),
        regions: regions.map(|region| vec![region.parse().unwrap()]),
        priority: Priority::Batch,
    };
    let entry =
        |name: &str| KeyEntry { id: key(name).id(), tenant: name.parse().unwrap(), hash: key(name).hash() };
    TenantFile {
        tenants: vec![tenant("anyone", None), tenant("european", Some("eu-west"))],
        keys: vec![entry("anyone"), entry("european")],
    }
}

fn write(dir: &TempDir, name: &str, text: &str) {
    std::fs::write(dir.path().join(name), text).unwrap();
}

/// The edge is told its addresses, so they are found first and given free again.
fn free_addresses() -> [SocketAddr; 2] {
    let sockets = [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap())
}

/// For things that come by themselves.
pub const SOON: Duration = Duration::from_secs(5);
