//! The real ingress over mutual TLS, with small servers standing where engines would be.
//!
//! An engine's stand-in gives every request it gets to the test, which answers by hand. So a test decides the
//! order of things, and nothing waits for time to pass.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{Authority, Identity, Live, Role};
use region_agent::engine::Engine;
use region_agent::ingress::Ingress;
use region_agent::node::Node;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use stand_in::StandIn;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};
use types::{LoadFrame, LoadState, ModelVersion, ReplicaId, header};

#[path = "ingress/stand_in.rs"]
mod stand_in;

const WAITING_MAX: usize = 2;

struct World {
    dir: tempfile::TempDir,
    authority: Authority,
    identity: Arc<Live>,
    node: Arc<Node>,
    address: SocketAddr,
    _stop: DropGuard,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("c1", time::OffsetDateTime::now_utc()).unwrap();
        let agent = issue(&authority, &dir, Role::RegionAgent, "n1");
        let node = Node::new("us-east".parse().unwrap(), "n1".parse().unwrap(), WAITING_MAX);
        node.slots.place(&BTreeSet::from([version()]));
        let identity = Live::new(agent);
        let ingress = Ingress::bind("127.0.0.1:0".parse().unwrap(), &identity, node.clone()).await.unwrap();
        let address = ingress.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(ingress.serve(stop.clone()));
        Self { dir, authority, identity, node, address, _stop: stop.drop_guard() }
    }

    /// An engine at an address, as if its supervisor had found it ready.
    fn attach(&self, number: u16, address: SocketAddr, slots: u32) -> Arc<Engine> {
        let engine = Engine::new(replica(number), version(), address, slots);
        self.node.slots.serving(&engine);
        engine
    }

    async fn attach_stand_in(&self, number: u16, slots: u32) -> StandIn {
        let stand_in = StandIn::new().await;
        self.attach(number, stand_in.address, slots);
        stand_in
    }

    async fn edge(&self) -> Edge {
        self.dial(&issue(&self.authority, &self.dir, Role::Edge, "e1")).await.unwrap()
    }

    async fn dial(&self, identity: &Identity) -> Result<Edge, BoxError> {
        dial(self.address, identity.client_config()).await
    }

    /// Waits until the node's own account is so; the events behind it have no other witness.
    async fn until(&self, what: impl Fn(LoadFrame) -> bool) {
        within(async {
            while !what(self.node.load(version()).unwrap()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

fn issue(authority: &Authority, dir: &tempfile::TempDir, role: Role, name: &str) -> Identity {
    let dir = dir.path().join(format!("{role}-{name}"));
    let name = identity::Name {
        cluster: "c1".to_owned(),
        region: "us-east".parse().unwrap(),
        role,
        name: name.parse().unwrap(),
    };
    authority.issue(&name, &dir, identity::CERTIFICATE_LIFE, time::OffsetDateTime::now_utc()).unwrap();
    Identity::load(&dir).unwrap()
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
struct Edge {
    sender: SendRequest<BoxBody<Bytes, io::Error>>,
}

async fn dial(address: SocketAddr, tls: Arc<rustls::ClientConfig>) -> Result<Edge, BoxError> {
    let host = ServerName::try_from("n1.region-agent.us-east.rhumb.internal")?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(tls).connect(host, stream).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(Edge { sender })
}

/// Trusts the authority and shows no certificate.
fn nobody(authority: &Path) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

impl Edge {
    async fn send(
        &self,
        request: Request<BoxBody<Bytes, io::Error>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        within(self.sender.clone().send_request(request)).await
    }

    async fn ask(&self, request: Request<BoxBody<Bytes, io::Error>>) -> Response<Incoming> {
        self.send(request).await.unwrap()
    }

    /// Asks in the background; the answer is the task's.
    fn begin(&self, name: &str) -> tokio::task::JoinHandle<Response<Incoming>> {
        let (edge, request) = (self.clone(), request(name));
        tokio::spawn(async move { edge.sender.clone().send_request(request).await.unwrap() })
    }
}

fn request(body: &str) -> Request<BoxBody<Bytes, io::Error>> {
    let body = Full::from(body.to_owned()).map_err(|never: Infallible| match never {}).boxed();
    Request::post("http://n1/v1/chat/completions")
        .header("content-type", "application/json")
        .header("authorization", "Bearer not-for-engines")
        .header(header::PROTOCOL, "1")
        .header(header::REQUEST_ID, "0f".repeat(16))
        .header(header::MODEL_VERSION, version().to_string())
        .header(header::DEADLINE_MS, "60000")
        .header(header::SEED, "7")
        .body(body)
        .unwrap()
}

fn with(name: &'static str, value: &str) -> Request<BoxBody<Bytes, io::Error>> {
    let mut request = request("{}");
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

fn version() -> ModelVersion {
    ModelVersion::from_digest([7; 32])
}

fn replica(number: u16) -> ReplicaId {
    format!("us-east/n1/{number}-0").parse().unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it takes far too long")
}

async fn text(answer: Response<Incoming>) -> String {
    String::from_utf8(within(answer.into_body().collect()).await.unwrap().to_bytes().to_vec()).unwrap()
}

#[track_caller]
fn assert_failure(answer: &Response<Incoming>, status: u16, word: &str, by: Option<u16>) {
    let said = answer.headers().get(header::FAILURE).map(|word| word.to_str().unwrap().to_owned());
    assert_eq!((answer.status().as_u16(), said.as_deref()), (status, Some(word)));
    let replica_said = answer.headers().get(header::REPLICA).map(|id| id.to_str().unwrap().to_owned());
    assert_eq!(replica_said, by.map(|number| replica(number).to_string()));
}

#[tokio::test]
async fn silent_strangers_do_not_shut_an_edge_out() {
    let world = World::new().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(world.address).await.unwrap());
    }
    let begun = Instant::now();
    within(world.edge()).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "the edge waited for strangers");
}

#[tokio::test]
async fn a_burst_of_edges_comes_in() {
    let world = World::new().await;
    let identity = issue(&world.authority, &world.dir, Role::Edge, "e1");
    let dials = futures_util::future::join_all((0..200).map(|_| world.dial(&identity)));
    let come_in = within(dials).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(come_in, 200);
}

#[tokio::test]
async fn only_edges_of_this_cluster_come_in() {
    let world = World::new().await;
    let _engine = world.attach_stand_in(0, 1).await;
    let load = || {
        let body = Full::<Bytes>::default().map_err(|never| match never {}).boxed();
        Request::get("http://n1/rhumb/v1/load").body(body).unwrap()
    };
    let edge = world.edge().await;
    assert_eq!(edge.ask(load()).await.status(), 200);

    let is_refused = async |dialled: Result<Edge, BoxError>| match dialled {
        Err(_) => true,
        Ok(stranger) => stranger.send(load()).await.is_err(),
    };
    let agent = issue(&world.authority, &world.dir, Role::RegionAgent, "n2");
    assert!(is_refused(world.dial(&agent).await).await, "an agent is no edge");

    let strange_authority = Authority::create("c1", time::OffsetDateTime::now_utc()).unwrap();
    let strange_dir = tempfile::tempdir().unwrap();
    let stranger = issue(&strange_authority, &strange_dir, Role::Edge, "e1");
    // It trusts us, so that the refusal is ours.
    std::fs::copy(world.dir.path().join("edge-e1/ca.pem"), strange_dir.path().join("edge-e1/ca.pem"))
        .unwrap();
    drop(stranger);
    let stranger = Identity::load(&strange_dir.path().join("edge-e1")).unwrap();
    assert!(is_refused(world.dial(&stranger).await).await, "another authority signed it");

    let nobody = nobody(&world.dir.path().join("edge-e1/ca.pem"));
    assert!(is_refused(dial(world.address, nobody).await).await, "no certificate at all");
    assert_eq!(edge.ask(load()).await.status(), 200, "the edge is still welcome");
}

#[tokio::test]
async fn a_renewed_identity_is_shown_to_newcomers_and_drops_nobody() {
    let world = World::new().await;
    let mut engine = world.attach_stand_in(0, 1).await;
    let edge = world.edge().await;
    let running = edge.begin("{}");
    let stream = engine.next().await.answer_stream();
    let before = shown(&world).await;

    world.identity.replace(issue(&world.authority, &world.dir, Role::RegionAgent, "n1"));
    assert_ne!(shown(&world).await, before);
    stream.send(Ok("data: 1\n\n")).await.unwrap();
    drop(stream);
    assert_eq!(text(within(running).await.unwrap()).await, "data: 1\n\n");
    let next = edge.begin("{}");
    engine.next().await.answer("served".into_response());
    assert_eq!(text(within(next).await.unwrap()).await, "served", "on the connection from before");
}

/// The certificate that a newcomer sees.
async fn shown(world: &World) -> Vec<u8> {
    let edge = issue(&world.authority, &world.dir, Role::Edge, "e2");
    let host = ServerName::try_from("n1.region-agent.us-east.rhumb.internal").unwrap();
    let stream = TcpStream::connect(world.address).await.unwrap();
    let stream = within(TlsConnector::from(edge.client_config()).connect(host, stream)).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_request_and_its_stream_pass_through() {
    let world = World::new().await;
    let mut engine = world.attach_stand_in(0, 1).await;
    let answer = world.edge().await.begin("{\"stream\":true}");

    let mut arrival = engine.next().await;
    assert_eq!(arrival.text().await, "{\"stream\":true}");
    assert_eq!(arrival.headers[header::SEED], "7");
    assert_eq!(arrival.headers["content-type"], "application/json");
    assert_eq!(arrival.headers["content-length"], "15");
    assert!(!arrival.headers.contains_key("authorization"));
    let remains: u64 = arrival.headers[header::DEADLINE_MS].to_str().unwrap().parse().unwrap();
    assert!((1..=60_000).contains(&remains), "{remains}");

    let stream = arrival.answer_stream();
    let answer = within(answer).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()[header::REPLICA], replica(0).to_string());
    let load: LoadFrame = answer.headers()[header::LOAD].to_str().unwrap().parse().unwrap();
    assert_eq!((load.state, load.running, load.slots), (LoadState::Serving, 1, 1));

    // The first event arrives while the stream is still open.
    stream.send(Ok("id: 1:5:x\ndata: {}\n\n")).await.unwrap();
    let mut body = answer.into_body();
    let first = within(body.frame()).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "id: 1:5:x\ndata: {}\n\n");

    stream.send(Ok(": rhumb-load boot=1 seq=1 state=serving kv_free=77\n\n")).await.unwrap();
    stream.send(Ok("data: [DONE]\n\n")).await.unwrap();
    drop(stream);
    let rest = within(body.collect()).await.unwrap().to_bytes();
    let rest = std::str::from_utf8(&rest).unwrap();
    let (comment, done) = rest.split_once("\n\n").unwrap();
    assert_eq!(done, "data: [DONE]\n\n");
    let closing: LoadFrame = comment.strip_prefix(": rhumb-load ").unwrap().parse().unwrap();
    assert_eq!(closing.boot, load.boot, "the node's frame, not the engine's");
    assert!(closing.sequence > load.sequence);
    assert_eq!(closing.kv_free_tokens, 77, "what the engine said is in it");
    world.until(|load| load.running == 0).await;
}

#[tokio::test]
async fn what_is_no_text_passes_through_unread() {
    let world = World::new().await;
    let mut engine = world.attach_stand_in(0, 1).await;
    let edge = world.edge().await;
    let mut form = request("--b\r\n\0");
    *form.uri_mut() = "http://n1/v1/audio/translations".parse().unwrap();
    form.headers_mut().insert("content-type", "multipart/form-data; boundary=b".parse().unwrap());
    let answer = tokio::spawn(async move { edge.ask(form).await });
    let mut arrival = engine.next().await;
    assert_eq!(arrival.text().await, "--b\r\n\0");
    assert_eq!(arrival.path, "/v1/audio/translations");
    assert_eq!(arrival.headers["content-type"], "multipart/form-data; boundary=b");
    arrival.answer(([("content-type", "audio/mpeg")], &b"\xff\xfb\0"[..]).into_response());
    let answer = within(answer).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"audio/mpeg".parse().unwrap())
    );
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), &b"\xff\xfb\0"[..]);
}

#[tokio::test]
async fn the_next_request_uses_the_same_connection() {
    let world = World::new().await;
    let mut engine = world.attach_stand_in(0, 1).await;
    let edge = world.edge().await;
    let mut from = None;
    for _ in 0..20 {
        let answer = edge.begin("{}");
        let mut arrival = engine.next().await;
        arrival.text().await;
        assert_eq!(*from.get_or_insert(arrival.from), arrival.from);
        arrival.answer("served".into_response());
        assert_eq!(text(within(answer).await.unwrap()).await, "served");
    }
}

#[tokio::test]
async fn only_listed_paths_and_protocol_versions_are_served() {
    let world = World::new().await;
    let _engine = world.attach_stand_in(0, 1).await;
    let edge = world.edge().await;
    assert_failure(&edge.ask(with(header::PROTOCOL, "2")).await, 400, "protocol", None);
    let refused = edge.ask(with(header::DEADLINE_MS, "soon")).await;
    assert_failure(&refused, 400, "protocol", None);
    assert!(text(refused).await.contains("rhumb-deadline-ms"));
    let mut other = request("{}");
    *other.uri_mut() = "http://n1/readyz".parse().unwrap();
    assert_eq!(edge.ask(other).await.status(), 404);
    let mut get = request("{}");
    *get.method_mut() = http::Method::GET;
    assert_eq!(edge.ask(get).await.status(), 405);
    world.until(|load| load.running == 0).await;
}

#[tokio::test]
async fn the_load_has_one_line_for_each_version() {
    let world = World::new().await;
    let edge = world.edge().await;
    let body = Full::<Bytes>::default().map_err(|never| match never {}).boxed();
    let answer = edge.ask(Request::get("http://n1/rhumb/v1/load").body(body).unwrap()).await;
    let lines = text(answer).await;
    let (of, frame) = lines.trim_end().split_once(' ').unwrap();
    assert_eq!(of.parse(), Ok(version()));
    assert_eq!(frame.parse::<LoadFrame>().unwrap().state, LoadState::Starting);
}

#[tokio::test]
async fn nobody_waits_for_an_engine_that_is_not_there() {
    let world = World::new().await;
    let edge = world.edge().await;
    assert_failure(&edge.ask(request("{}")).await, 503, "no-replica", None);
    let _engine = world.attach_stand_in(0, 1).await;
    let tried = with(header::TRIED, &replica(0).to_string());
    assert_failure(&edge.ask(tried).await, 503, "no-replica", None);
    let strange = with(header::MODEL_VERSION, &ModelVersion::from_digest([8; 32]).to_string());
    assert_failure(&edge.ask(strange).await, 503, "no-replica", None);
}

#[tokio::test]
async fn a_dead_engine_is_lost_and_gets_nothing_more() {
    let world = World::new().await;
    let edge = world.edge().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.attach(0, closed.local_addr().unwrap(), 4);
    drop(closed);
    assert_failure(&edge.ask(request("{}")).await, 502, "replica-lost", Some(0));
    // Until its supervisor has seen it alive, it is as good as gone.
    assert_failure(&edge.ask(request("{}")).await, 503, "no-replica", None);
}

#[tokio::test]
async fn an_engine_that_dies_before_its_head_is_lost_and_the_line_is_spared() {
    let world = World::new().await;
    let edge = world.edge().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.attach(0, listener.local_addr().unwrap(), 1);
    let first = edge.begin("{}");
    let (mut connection, _) = within(listener.accept()).await.unwrap();
    connection.read_u8().await.unwrap();
    let waiting = edge.begin("{}");
    world.until(|load| load.queued == 1).await;
    drop((connection, listener));
    assert_failure(&within(first).await.unwrap(), 502, "replica-lost", Some(0));
    // Refused without an attempt on the dead engine: that attempt would count against the request.
    assert_failure(&within(waiting).await.unwrap(), 503, "no-replica", None);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_reset() {
    let world = World::new().await;
    let mut engine = world.attach_stand_in(0, 1).await;
    let answer = world.edge().await.begin("{}");
    let stream = engine.next().await.answer_stream();
    stream.send(Ok("data: 1\n\n")).await.unwrap();
    let mut body = within(answer).await.unwrap().into_body();
    assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
    stream.send(Err(io::ErrorKind::BrokenPipe.into())).await.unwrap();
    let error = within(body.frame()).await.expect("a clean end would mean that all is well").unwrap_err();
    let reset = std::error::Error::source(&error).unwrap().to_string();
    assert!(reset.contains("stream error received"), "{reset}");
    world.until(|load| load.running == 0 && load.replicas == 0).await;
}

#[tokio::test]
async fn what_engines_answer_is_told_apart() {
    let world = World::new().await;
    let mut engine = world.attach_stand_in(0, 1).await;
    let edge = world.edge().await;
    let mut exchange = async |answer: Response<Body>| {
        let asked = edge.begin("{}");
        engine.next().await.answer(answer);
        within(asked).await.unwrap()
    };
    let clients_mistake = (StatusCode::BAD_REQUEST, [("set-cookie", "a=b")], "{\"error\":1}").into_response();
    let answer = exchange(clients_mistake).await;
    assert_eq!(answer.status(), 400);
    assert!(!answer.headers().contains_key(header::FAILURE) && !answer.headers().contains_key("set-cookie"));
    assert_eq!(text(answer).await, "{\"error\":1}");

    let answer = exchange((StatusCode::INTERNAL_SERVER_ERROR, "boom: secret").into_response()).await;
    assert_failure(&answer, 502, "replica-failed", Some(0));
    assert!(!text(answer).await.contains("secret"));

    let full =
        (StatusCode::SERVICE_UNAVAILABLE, [(header::FAILURE, "queue-full"), ("retry-after", "3")], "full");
    let answer = exchange(full.into_response()).await;
    assert_failure(&answer, 503, "queue-full", Some(0));
    assert_eq!(answer.headers()["retry-after"], "3");
}

#[tokio::test]
async fn the_line_is_first_come_first_served_and_bounded() {
    let world = World::new().await;
    let mut engine = world.attach_stand_in(0, 1).await;
    let edge = world.edge().await;
    let _running = edge.begin("running");
    let mut running = engine.next().await;
    assert_eq!(running.text().await, "running");
    let mut waiting = Vec::new();
    for number in 1..=WAITING_MAX {
        waiting.push(edge.begin(&number.to_string()));
        world.until(|load| load.queued as usize == number).await;
    }
    let refused = edge.ask(request("one too many")).await;
    assert_failure(&refused, 503, "queue-full", None);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert!(engine.arrivals.is_empty(), "an engine gets only what it can start");
    for number in 1..=WAITING_MAX {
        running.answer("served".into_response());
        running = engine.next().await;
        assert_eq!(running.text().await, number.to_string());
    }
}

#[tokio::test]
async fn a_broken_stream_goes_on_before_the_line() {
    let world = World::new().await;
    let mut engine = world.attach_stand_in(0, 1).await;
    let edge = world.edge().await;
    let _running = edge.begin("running");
    let running = engine.next().await;
    let mut waiting = Vec::new();
    for (number, class) in [(1, None), (2, Some("batch")), (3, Some("interactive"))] {
        let mut asked = request(&number.to_string());
        if let Some(class) = class {
            *asked.uri_mut() = format!("http://n1{}", header::RESUME_PATH).parse().unwrap();
            asked.headers_mut().insert(header::PRIORITY, class.parse().unwrap());
        }
        let edge = edge.clone();
        waiting.push(tokio::spawn(async move { edge.ask(asked).await }));
        world.until(|load| load.queued == number).await;
    }
    running.answer("served".into_response());
    for (number, path) in
        [("3", header::RESUME_PATH), ("2", header::RESUME_PATH), ("1", "/v1/chat/completions")]
    {
        let mut next = engine.next().await;
        assert_eq!((next.text().await.as_str(), next.path.as_str()), (number, path));
        next.answer("served".into_response());
    }
    for answer in waiting {
        text(within(answer).await.unwrap()).await;
    }
    world.until(|load| load.running == 0).await;
    let mut other = request("{}");
    *other.uri_mut() = format!("http://n1{}", header::RESUME_PATH).parse().unwrap();
    *other.method_mut() = http::Method::GET;
    assert_eq!(edge.ask(other).await.status(), 405);
}

#[tokio::test]
async fn a_deadline_holds_in_the_line_and_at_the_engine() {
    let world = World::new().await;
    let mut engine = world.attach_stand_in(0, 1).await;
    let edge = world.edge().await;
    // The engine never answers; the second request never gets there.
    let first = tokio::spawn({
        let edge = edge.clone();
        async move { edge.ask(with(header::DEADLINE_MS, "300")).await }
    });
    let _never_answered = engine.next().await;
    assert_failure(&edge.ask(with(header::DEADLINE_MS, "30")).await, 504, "deadline-passed", None);
    assert_failure(&within(first).await.unwrap(), 504, "deadline-passed", Some(0));
    world.until(|load| load.running == 0 && load.queued == 0).await;
}

#[tokio::test]
async fn a_cancelled_request_frees_its_seat_and_stops_the_engine() {
    let world = World::new().await;
    let mut engine = world.attach_stand_in(0, 1).await;
    let edge = world.edge().await;
    let first = edge.begin("first");
    let stream = engine.next().await.answer_stream();
    stream.send(Ok("data: 1\n\n")).await.unwrap();
    let mut body = within(first).await.unwrap().into_body();
    within(body.frame()).await.unwrap().unwrap();

    let gives_up = edge.begin("gives up in line");
    world.until(|load| load.queued == 1).await;
    let last = edge.begin("last");
    world.until(|load| load.queued == 2).await;
    gives_up.abort();
    world.until(|load| load.queued == 1).await;

    drop(body);
    within(stream.closed()).await;
    let mut arrival = engine.next().await;
    assert_eq!(arrival.text().await, "last");
    arrival.answer("served".into_response());
    assert_eq!(text(within(last).await.unwrap()).await, "served");
    world.until(|load| load.running == 0).await;
}

#[tokio::test]
async fn one_who_leaves_before_a_head_frees_the_seat() {
    let world = World::new().await;
    let mut engine = world.attach_stand_in(0, 1).await;
    let edge = world.edge().await;
    let leaves = edge.begin("leaves");
    let mut arrival = engine.next().await;
    leaves.abort();
    within(arrival.answer.closed()).await;
    world.until(|load| load.running == 0 && load.replicas == 1).await;
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_refused() {
    let world = World::new().await;
    let mut engine = world.attach_stand_in(0, 1).await;
    let edge = world.edge().await;
    let chunk = Bytes::from(vec![b' '; 1 << 20]);
    let body = |chunks: usize| {
        let chunk = chunk.clone();
        StreamBody::new(stream::iter((0..chunks).map(move |_| Ok(Frame::data(chunk.clone()))))).boxed()
    };
    // Announced: refused before an engine sees it.
    let mut announced = request("").map(|_| body(34));
    announced.headers_mut().insert("content-length", (34 << 20).into());
    let answer = edge.ask(announced).await;
    assert_eq!(answer.status(), 413);
    assert!(!answer.headers().contains_key(header::FAILURE));
    assert!(engine.arrivals.is_empty());

    // Not announced: noticed on the way, and no fault of the engine.
    let asked = tokio::spawn({
        let (edge, request) = (edge.clone(), request("").map(|_| body(34)));
        async move { edge.ask(request).await }
    });
    let mut arrival = engine.next().await;
    let cut_off = std::mem::take(&mut arrival.body).collect();
    assert!(within(cut_off).await.is_err());
    assert_eq!(within(asked).await.unwrap().status(), 413);
    world.until(|load| load.running == 0 && load.replicas == 1).await;

    // The longest body that fits arrives whole.
    let _asked = tokio::spawn({
        let (edge, request) = (edge.clone(), request("").map(|_| body(33)));
        async move { edge.ask(request).await }
    });
    let mut arrival = engine.next().await;
    let whole = std::mem::take(&mut arrival.body).collect();
    assert_eq!(within(whole).await.unwrap().to_bytes().len(), 33 << 20);
}

#[tokio::test]
async fn a_draining_node_finishes_what_it_has_and_takes_nothing_new() {
    let world = World::new().await;
    let mut engine = world.attach_stand_in(0, 1).await;
    let edge = world.edge().await;
    let running = edge.begin("running");
    let arrival = engine.next().await;
    let waiting = edge.begin("waiting");
    world.until(|load| load.queued == 1).await;
    world.node.slots.drain();
    assert_failure(&within(waiting).await.unwrap(), 503, "draining", None);
    assert_failure(&edge.ask(request("{}")).await, 503, "draining", None);
    assert_eq!(world.node.load(version()).unwrap().state, LoadState::Draining);
    arrival.answer("served".into_response());
    assert_eq!(text(within(running).await.unwrap()).await, "served");
    world.node.in_flight.close();
    within(world.node.in_flight.wait()).await;
}
