//! The only door to a member: HTTP/2 under mutual TLS, for processes of this cluster.

use crate::authorise::authorise;
use crate::metrics::{ConnectionRefused, Metrics};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use identity::{Live, Lobby, Name, PeerError};
use std::convert::Infallible;
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
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;
use tracing::{debug, warn};

/// The connection that a request came on, among the request's extensions. To cancel it is to close it.
#[derive(Clone)]
pub(crate) struct Connection(pub(crate) CancellationToken);

pub(crate) struct Door {
    pub(crate) identity: Arc<Live>,
    pub(crate) routes: Routes,
    pub(crate) metrics: Arc<Metrics>,
    lobby: Lobby,
    connections: Semaphore,
}

impl Door {
    pub(crate) fn new(identity: Arc<Live>, routes: Routes, metrics: Arc<Metrics>) -> Self {
        let connections = Semaphore::new(CONNECTIONS_MAX);
        Self { identity, routes, metrics, lobby: Lobby::default(), connections }
    }

    /// Serves until told to stop; then says goodbye on every connection and returns when they have closed.
    pub(crate) async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let door = Arc::new(self);
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    let (door, stop) = (door.clone(), stop.clone());
                    tasks.spawn(async move { door.welcome(stream, from, stop).await });
                }
                Err(error) => {
                    // Out of file descriptors, most likely; asking again at once would only burn a core.
                    warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        tasks.close();
        tasks.wait().await;
    }

    /// One connection, from its first byte to its last.
    async fn welcome(&self, stream: TcpStream, from: SocketAddr, stop: CancellationToken) {
        let refuse = |reason| self.metrics.count_refused(reason);
        let Some(guest) = self.lobby.enter(from.ip()) else { return refuse(ConnectionRefused::TooMany) };
        let stream = match self.shake_hands(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%from, error = &error as &dyn std::error::Error, "handshake failed");
                return refuse(ConnectionRefused::Handshake);
            }
        };
        let name = match self.name(&stream) {
            Ok(name) => name,
            Err(error) => {
                warn!(%from, error = &error as &dyn std::error::Error, "connection refused: not of this cluster");
                return refuse(ConnectionRefused::NotOfThisCluster);
            }
        };
        drop(guest);
        let Ok(_place) = self.connections.try_acquire() else { return refuse(ConnectionRefused::TooMany) };
        self.metrics.connections.inc();
        self.talk(stream, name, stop).await;
        self.metrics.connections.dec();
    }

    async fn shake_hands(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        stream.set_nodelay(true)?;
        let handshake = TlsAcceptor::from(self.identity.server_config()).accept(stream);
        tokio::time::timeout(HANDSHAKE_MAX, handshake).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// TLS has verified that our authority signed the certificate; this asks for whom.
    fn name(&self, stream: &TlsStream<TcpStream>) -> Result<Name, NotOfThisCluster> {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let name = identity::peer_name(certificates).map_err(NotOfThisCluster::Nameless)?;
        let is_ours = name.cluster == self.identity.current().name().cluster;
        if is_ours { Ok(name) } else { Err(NotOfThisCluster::Other(name)) }
    }

    async fn talk(&self, stream: TlsStream<TcpStream>, name: Name, stop: CancellationToken) {
        let close = CancellationToken::new();
        let service = service_fn(|request| {
            let (mut routes, name) = (self.routes.clone(), name.clone());
            let connection = Connection(close.clone());
            async move { Ok::<_, Infallible>(answer(&mut routes, name, connection, request).await) }
        });
        let connection = settings().serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = close.cancelled() => return,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(peer = %name, error = &error as &dyn std::error::Error, "connection ended");
        }
    }
}

/// Why a verified peer may not come in.
#[derive(Debug, thiserror::Error)]
enum NotOfThisCluster {
    #[error("its certificate has no name")]
    Nameless(#[source] PeerError),
    #[error("it is {0}")]
    Other(Name),
}

async fn answer(
    routes: &mut Routes,
    name: Name,
    connection: Connection,
    mut request: Request<Incoming>,
) -> Response<Body> {
    if let Err(status) = authorise(&name, request.uri().path()) {
        return status.into_http();
    }
    request.extensions_mut().insert(name);
    request.extensions_mut().insert(connection);
    match routes.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
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

/// Above all subscribers and all who report, each on a connection of its own.
const CONNECTIONS_MAX: usize = 16_384;
/// Several round trips around the world, and no longer: a silent stranger keeps somebody else waiting.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Above what members forward to the leader at once.
const STREAMS_MAX: u32 = 1024;
const HEADER_LIST_MAX: u32 = 16 * 1024;
/// A member far behind is sent a snapshot from the far side of the world; 1 MiB a round trip fills most lines.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What a slow subscriber makes us hold for one stream, beside the update it is at.
const SEND_BUFFER_MAX: usize = 64 * 1024;
/// A flood of resets ends the connection.
const RESETS_MAX: usize = 256;
/// A peer whose host vanished is noticed within twenty seconds.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_MAX: Duration = Duration::from_secs(10);
