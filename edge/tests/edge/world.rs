//! One edge in us-east, a node beside it and one in eu-west.

use crate::intent::{ROUTING, TENANTS, VERSION, key, picture};
use crate::member::Member;
use crate::node::Node;
use bytes::Bytes;
use client::{Interest, MemberAddress};
use edge::config::TlsFile;
use edge::{Config, File, StartError};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use identity::{Authority, Identity, Name};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use types::DialMap;
use types::intent::{Kind, Resource};

pub struct World {
    pub near: Node,
    pub far: Node,
    pub edge: SocketAddr,
    admin: SocketAddr,
    authority: Authority,
    pub dir: TempDir,
    file: File,
    run: JoinHandle<Result<(), StartError>>,
    shutdown: DropGuard,
}

/// An edge that runs.
pub struct Running {
    pub run: JoinHandle<Result<(), StartError>>,
    pub shutdown: DropGuard,
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

/// A world that is not running yet.
pub struct Scene {
    pub near: Node,
    pub far: Node,
    pub authority: Authority,
    pub dir: TempDir,
}

impl Scene {
    pub async fn set() -> Self {
        let dir = TempDir::new().unwrap();
        let authority = Authority::open(&dir.path().join("ca"), "test", now()).unwrap();
        let near = node(&authority, dir.path(), "us-east").await;
        let far = node(&authority, dir.path(), "eu-west").await;
        issue(&authority, EDGE, &dir.path().join("edge"), WEEK);
        Self { near, far, authority, dir }
    }

    pub fn resources(&self) -> Vec<Resource> {
        crate::intent::world(&self.near, &self.far)
    }

    /// Leaves pictures on disk, as an earlier run of the edge would have.
    pub fn store(&self, resources: &[Resource]) {
        for (name, kinds) in [("routing", &ROUTING[..]), ("tenants", &TENANTS)] {
            self.store_interest(name, kinds, resources);
        }
    }

    pub fn store_interest(&self, name: &'static str, kinds: &[Kind], resources: &[Resource]) {
        let keep = self.dir.path().join("data").join(name);
        let (cluster, kinds) = ("test".to_owned(), kinds.to_vec());
        let picture = picture(resources, &kinds);
        let interest = Interest { name, cluster, kinds, region: None, keep: keep.clone() };
        client::last_good::store(&keep, &interest, &picture).unwrap();
    }

    /// A member that wants these resources. It knows the same authority.
    pub async fn member(&self, resources: Vec<Resource>) -> Member {
        let uri = "spiffe://test/us-east/control-plane/cp1";
        let identity = issue(&self.authority, uri, &self.dir.path().join("cp1"), WEEK);
        let authority = Authority::open(&self.dir.path().join("ca"), "test", now()).unwrap();
        Member::start(&identity, authority, EDGE.parse().unwrap(), resources).await
    }

    /// What the edge is told. Without a member: one whose control plane is dead.
    pub fn file(&self, member: Option<&Member>) -> File {
        let [nobody] = free_addresses();
        let member = MemberAddress {
            address: member.map_or(nobody, |member| member.address),
            server_name: "cp1.control-plane.us-east.rhumb.internal".to_owned(),
        };
        let [listen, admin] = free_addresses();
        File {
            region: "us-east".parse().unwrap(),
            name: "e1".parse().unwrap(),
            listen: Some(listen),
            tls: None,
            admin,
            identity: self.dir.path().join("edge"),
            control_plane: vec![member],
            data: self.dir.path().join("data"),
            notice_seconds: 0,
            drain_seconds: 1,
            keep_alive_seconds: 10,
            proxy_v2_from: Vec::new(),
            handover: None,
            other_edges: Vec::new(),
            dial_map: DialMap::default(),
        }
    }

    /// What HTTPS clients of the edge's address see.
    pub fn tls(&self) -> TlsFile {
        let [listen] = free_addresses();
        let dir = self.dir.path().join("tls");
        self.authority.issue_public(&["edge.test"], &[], &dir, WEEK, now()).unwrap();
        TlsFile { listen, certificate: dir.join("cert.pem"), key: dir.join("key.pem") }
    }

    pub async fn start(self, member: Option<&Member>) -> World {
        let file = self.file(member);
        self.start_as(file).await
    }

    pub async fn start_as(self, file: File) -> World {
        let (listen, admin) = (file.listen.unwrap(), file.admin);
        let Running { run, shutdown } = run(file.clone());
        // The last socket that an edge opens.
        while TcpStream::connect(admin).await.is_err() {
            assert!(!run.is_finished(), "{:?}", run.await);
            tokio::task::yield_now().await;
        }
        let Self { near, far, authority, dir } = self;
        World { near, far, edge: listen, admin, authority, dir, file, run, shutdown }
    }
}

pub fn run(file: File) -> Running {
    let shutdown = CancellationToken::new();
    let prepared = edge::prepare(Config::try_from(file).unwrap());
    let prepared = prepared.unwrap_or_else(|problems| panic!("{problems:?}"));
    Running { run: tokio::spawn(edge::run(prepared, shutdown.clone())), shutdown: shutdown.drop_guard() }
}

impl World {
    /// An edge that lives from its disk alone.
    pub async fn start() -> Self {
        let scene = Scene::set().await;
        scene.store(&scene.resources());
        scene.start(None).await
    }

    /// An edge that lives from a member alone, once it is ready.
    pub async fn live() -> (Self, Member) {
        let scene = Scene::set().await;
        let member = scene.member(scene.resources()).await;
        let world = scene.start(Some(&member)).await;
        world.until_ready().await;
        (world, member)
    }

    /// Ends the edge alone.
    pub async fn stop(self) -> Scene {
        drop(self.shutdown);
        self.run.await.unwrap().unwrap();
        Scene { near: self.near, far: self.far, authority: self.authority, dir: self.dir }
    }

    /// Starts another edge in the place of this one, which is handed back while it drains.
    pub fn replace(&mut self) -> Running {
        let Running { run, shutdown } = run(self.file.clone());
        let run = std::mem::replace(&mut self.run, run);
        Running { run, shutdown: std::mem::replace(&mut self.shutdown, shutdown) }
    }

    pub fn file(&self) -> File {
        self.file.clone()
    }

    /// Tells the edge to stop, and gives what comes of it.
    pub fn tell_to_stop(&mut self) -> JoinHandle<Result<(), StartError>> {
        let nothing = CancellationToken::new().drop_guard();
        drop(std::mem::replace(&mut self.shutdown, nothing));
        std::mem::replace(&mut self.run, tokio::spawn(async { Ok(()) }))
    }

    /// Another node under the name of the near one.
    pub async fn replacement(&self) -> Node {
        let identity = Identity::load(&self.dir.path().join("us-east")).unwrap();
        Node::start(&identity, "us-east/n1/0-1", VERSION).await
    }

    pub async fn until_ready(&self) {
        let ready = async {
            while self.admin("/readyz").await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, ready).await.expect("ready soon");
    }

    pub async fn admin(&self, path: &str) -> Got {
        page(self.admin, path).await
    }

    /// `GET` as a tenant.
    pub async fn get(&self, key_name: &str, path: &str) -> Got {
        let request = hyper::Request::get(path)
            .header("host", "test")
            .header("authorization", format!("Bearer {}", key(key_name).reveal()))
            .body(Full::default())
            .unwrap();
        got(exchange(self.edge, request).await, || {}).await
    }

    pub async fn ask(&self, options: &str) -> Got {
        self.ask_as("anyone", options).await
    }

    pub async fn ask_as(&self, tenant: &str, options: &str) -> Got {
        got(self.begin(tenant, options).await, || self.near.go_on()).await
    }

    /// A request to another path than that of chats.
    pub async fn post(&self, path: &str, content_type: &str, body: impl Into<Bytes>) -> Got {
        got(self.begin_post(path, content_type, body).await, || self.near.go_on()).await
    }

    pub async fn begin_post(&self, path: &str, content_type: &str, body: impl Into<Bytes>) -> Answer {
        let request = hyper::Request::post(path)
            .header("host", "test")
            .header("authorization", format!("Bearer {}", key("anyone").reveal()))
            .header("content-type", content_type)
            .body(Full::new(body.into()))
            .unwrap();
        exchange(self.edge, request).await
    }

    /// A request of which only the head of the answer was read. Dropping the body leaves.
    pub async fn begin(&self, tenant: &str, options: &str) -> Answer {
        let request = hyper::Request::post("/v1/chat/completions")
            .header("host", "test")
            .header("authorization", format!("Bearer {}", key(tenant).reveal()))
            .header("x-client", "must not travel")
            .header("rhumb-seed", "1")
            .header("rhumb-tried", "us-east/n1/0-0")
            .body(Full::<Bytes>::from(body(options)))
            .unwrap();
        exchange(self.edge, request).await
    }
}

type Answer = (u16, http::HeaderMap, hyper::body::Incoming);

async fn exchange(address: SocketAddr, request: hyper::Request<Full<Bytes>>) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    (head.status.as_u16(), head.headers, body)
}

/// What an edge tells on its admin port.
pub async fn page(admin: SocketAddr, path: &str) -> Got {
    let request = hyper::Request::get(path).header("host", "test").body(Full::default()).unwrap();
    got(exchange(admin, request).await, || {}).await
}

/// Reads an answer to its end.
pub async fn got((status, headers, mut body): Answer, heard: impl Fn()) -> Got {
    let mut got = Got { status, headers, body: String::new(), whole: false };
    loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                got.body.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
                heard();
            }
            Some(Err(_)) => return got,
            None => return Got { whole: true, ..got },
        }
    }
}

pub fn body(options: &str) -> String {
    // Odd spacing and a field that nobody knows: what reaches the engine must be the same bytes.
    format!(r#"{{ "model" : "m",  "messages":[{{"role":"user","content":"hi"}}], "mystery":[1] {options}}}"#)
}

async fn node(authority: &Authority, dir: &Path, region: &str) -> Node {
    let uri = format!("spiffe://test/{region}/region-agent/n1");
    let identity = issue(authority, &uri, &dir.join(region), WEEK);
    Node::start(&identity, &format!("{region}/n1/0-0"), VERSION).await
}

pub fn issue(authority: &Authority, uri: &str, dir: &Path, life: time::Duration) -> Identity {
    let name: Name = uri.parse().unwrap();
    authority.issue(&name, dir, life, now()).unwrap();
    Identity::load(dir).unwrap()
}

fn now() -> time::OffsetDateTime {
    SystemTime::now().into()
}

/// The edge is told its addresses, so they are found first and given free again. The host is this world's own, so
/// that nobody takes them meanwhile.
pub fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let [a, b, c, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    let host = Ipv4Addr::new(127, 128 + a % 64, b, 1 + c % 254);
    let sockets = [(); N].map(|()| std::net::TcpListener::bind((host, 0)).unwrap());
    sockets.map(|socket| socket.local_addr().unwrap())
}

/// For things that come by themselves.
pub const SOON: Duration = Duration::from_secs(5);
pub const EDGE: &str = "spiffe://test/us-east/edge/e1";
const WEEK: time::Duration = time::Duration::weeks(1);
