//! The only door to this node's engines: HTTP/2 under mutual TLS, for edges of this cluster.

use crate::asked::Asked;
use crate::forward::forward;
use crate::lobby::Lobby;
use crate::metrics::{ConnectionRefused, Kind};
use crate::node::Node;
use crate::refusal::{Refusal, visible};
use crate::relay::Relay;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use identity::{Live, Name, PeerError, Role};
use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use types::header;

pub struct Ingress {
    listener: TcpListener,
    node: Arc<Node>,
    door: Arc<Door>,
}

/// Who may come in, and how many at once.
struct Door {
    acceptor: TlsAcceptor,
    cluster: String,
    /// Two counts, so that strangers who never finish a handshake cannot take the place of edges: a connection is
    /// one only once it has proved to be an edge's, and until then each host has its share of the lobby.
    lobby: Lobby,
    connections: Semaphore,
}

impl Ingress {
    /// Shows each edge that comes the identity of that moment; those that are in keep their connection.
    pub async fn bind(address: SocketAddr, identity: &Arc<Live>, node: Arc<Node>) -> io::Result<Self> {
        let door = Door {
            acceptor: TlsAcceptor::from(identity.server_config()),
            cluster: identity.current().name().cluster.clone(),
            lobby: Lobby::new(),
            connections: Semaphore::new(CONNECTIONS_MAX),
        };
        Ok(Self { listener: TcpListener::bind(address).await?, node, door: Arc::new(door) })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until told to stop; then says goodbye on every connection and returns when they have closed.
    pub async fn serve(self, stop: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    let (node, door, stop) = (self.node.clone(), self.door.clone(), stop.clone());
                    connections.spawn(async move { welcome(stream, from, &node, &door, stop).await });
                }
                Err(error) => {
                    // Out of file descriptors, most likely; asking again at once would only burn a core.
                    warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        connections.close();
        connections.wait().await;
    }
}

/// One connection, from its first byte to its last.
async fn welcome(
    stream: TcpStream,
    from: SocketAddr,
    node: &Arc<Node>,
    door: &Door,
    stop: CancellationToken,
) {
    let refuse = |reason| node.metrics.count_refused(reason);
    let Some(guest) = door.lobby.enter(from.ip()) else { return refuse(ConnectionRefused::TooMany) };
    let Some(handshake) = guest.handshake().await else { return refuse(ConnectionRefused::TooMany) };
    let stream = match shake_hands(stream, door).await {
        Ok(stream) => stream,
        Err(error) => {
            debug!(%from, error = &error as &dyn std::error::Error, "handshake failed");
            return refuse(ConnectionRefused::Handshake);
        }
    };
    if let Err(error) = authorise(&stream, &door.cluster) {
        warn!(%from, error = &error as &dyn std::error::Error, "connection refused: not an edge of this cluster");
        return refuse(ConnectionRefused::NotAnEdge);
    }
    drop(handshake);
    drop(guest);
    let Ok(_place) = door.connections.try_acquire() else { return refuse(ConnectionRefused::TooMany) };
    node.metrics.connections.inc();
    serve(stream, node, stop).await;
    node.metrics.connections.dec();
}

async fn shake_hands(stream: TcpStream, door: &Door) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let handshake = door.acceptor.accept(stream);
    tokio::time::timeout(HANDSHAKE_MAX, handshake).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Why a verified peer may not come in.
#[derive(Debug, thiserror::Error)]
enum NotAnEdge {
    #[error("its certificate has no name")]
    Nameless(#[source] PeerError),
    #[error("it is {0}")]
    Other(Name),
}

/// TLS has verified that our authority signed the certificate; this asks for whom.
fn authorise(stream: &TlsStream<TcpStream>, cluster: &str) -> Result<(), NotAnEdge> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let name = identity::peer_name(certificates).map_err(NotAnEdge::Nameless)?;
    if name.role == Role::Edge && name.cluster == cluster { Ok(()) } else { Err(NotAnEdge::Other(name)) }
}

async fn serve(stream: TlsStream<TcpStream>, node: &Arc<Node>, stop: CancellationToken) {
    let service = service_fn(|request| {
        let node = node.clone();
        async move { Ok::<_, Infallible>(answer(&node, request).await) }
    });
    let connection = settings().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(error = &error as &dyn std::error::Error, "connection ended");
    }
}

fn settings() -> http2::Builder<TokioExecutor> {
    let mut settings = http2::Builder::new(TokioExecutor::new());
    settings
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .adaptive_window(false)
        .max_send_buf_size(SEND_BUFFER_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(RESETS_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_MAX);
    settings
}

type Answer = Response<Either<Full<Bytes>, Relay>>;

async fn answer(node: &Arc<Node>, request: Request<Incoming>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::POST, path) if is_served(path) => {
            let kind = if path == header::RESUME_PATH { Kind::Resume } else { Kind::New };
            let asked = match Asked::read(request.headers()) {
                Ok(asked) => asked,
                Err(error) => return refuse(node, kind, &Refusal::Protocol(error)),
            };
            let version = asked.version;
            let mut answer = match forward(node, request, asked, kind).await {
                Ok(answer) => answer.map(Either::Right),
                Err(refusal) => refusal.to_answer().map(Either::Left),
            };
            // In the place of the engine's own: an edge keeps one picture per node and version.
            if let Some(load) = node.load(version) {
                answer.headers_mut().insert(header::LOAD, visible(&load));
            }
            answer
        }
        (&Method::GET, LOAD) => Response::new(Either::Left(Full::from(loads(node)))),
        (_, header::RESUME_PATH) => refuse(node, Kind::Resume, &Refusal::WrongMethod),
        (_, path) if path == LOAD || is_served(path) => refuse(node, Kind::New, &Refusal::WrongMethod),
        _ => refuse(node, Kind::New, &Refusal::NoSuchPath),
    }
}

fn refuse(node: &Node, kind: Kind, refusal: &Refusal) -> Answer {
    node.metrics.count(kind, refusal.outcome());
    refusal.to_answer().map(Either::Left)
}

/// Paths that travel on to an engine, which has the last word on them.
fn is_served(path: &str) -> bool {
    matches!(path, CHAT | COMPLETIONS | header::RESUME_PATH) || openai::opaque::path(path).is_some()
}

/// One line for each version that has a place here.
fn loads(node: &Node) -> String {
    let mut text = String::new();
    for (version, load) in node.loads() {
        writeln!(text, "{version} {load}").expect("writing to memory does not fail");
    }
    text
}

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
pub const LOAD: &str = "/rhumb/v1/load";

/// As the edges of a large fleet have that dial one node: one for each of their threads, 16 at most, and twice that
/// while one edge takes over from another or certificates change.
const CONNECTIONS_MAX: usize = 4096;
/// Several round trips around the world, and no longer: a silent stranger keeps somebody else waiting.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Above any queue and all slots of a node, so that the queue's bound is the one that speaks.
const STREAMS_MAX: u32 = 1024;
const HEADER_LIST_MAX: u32 = 64 * 1024;
/// A request in line has been read this far and no further. Most bodies fit; a long one from the far side of the
/// world still moves 256 KiB in each round trip.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What a slow edge makes us hold for one stream.
const SEND_BUFFER_MAX: usize = 64 * 1024;
/// Resets are how edges cancel, many at once when clients leave; a flood of them ends the connection.
const RESETS_MAX: usize = 256;
/// An edge whose host vanished is noticed, and its requests cancelled, within half a minute.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_MAX: Duration = Duration::from_secs(10);
