//! One request to a node: opened, written, and its stream read event by event.

use bytes::Bytes;
use identity::files::Paths;
use openai::sse::{EventTooLong, Framer};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_http::RequestHeader;
use policy::Node;
use std::time::Duration;

/// Connections to all nodes, under this edge's identity.
pub(crate) struct Upstreams {
    connector: Connector,
}

/// One request whose head was answered.
pub(crate) struct Upstream {
    peer: HttpPeer,
    session: HttpSession,
    framer: Framer,
}

/// Why a request got no head, or its stream broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("cannot connect")]
    Connect(#[source] Box<pingora_core::Error>),
    #[error("the connection broke before the head of the answer")]
    NoHead(#[source] Box<pingora_core::Error>),
    #[error("the stream broke")]
    Broken(#[source] Box<pingora_core::Error>),
    #[error("the stream ended before [DONE]")]
    EndedEarly,
    #[error("nothing came for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("the stream cannot be read")]
    Unreadable(#[from] EventTooLong),
}

impl Upstreams {
    /// The identity must have been loaded before: pingora panics on files that it cannot use.
    pub(crate) fn new(identity: &Paths) -> Self {
        let mut options = ConnectorOptions::new(IDLE_CONNECTIONS_MAX);
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
        options.ca_file = Some(path(&identity.authority));
        options.cert_key_file = Some((path(&identity.certificate), path(&identity.key)));
        Self { connector: Connector::new(Some(options)) }
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn send(
        &self,
        node: &Node,
        method: &str,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
        head_deadline: Duration,
    ) -> Result<Upstream, UpstreamError> {
        let peer = peer(node);
        // A pooled connection may have died unseen; that says nothing of the node, so one more try is free.
        let mut reused_before = false;
        loop {
            let connected = self.connector.get_http_session(&peer).await;
            let (mut session, reused) = connected.map_err(UpstreamError::Connect)?;
            let head = request_head(node, method, path, headers, body.len());
            session.set_write_timeout(Some(WRITE_STALL_MAX));
            session.set_read_timeout(Some(head_deadline));
            let answered = tokio::time::timeout(head_deadline, exchange(&mut session, head, body.clone()));
            match answered.await {
                Ok(Ok(())) => return Ok(Upstream { peer, session, framer: Framer::default() }),
                Ok(Err(error)) if reused && !reused_before && !was_reset(&error) => reused_before = true,
                Ok(Err(error)) => {
                    session.shutdown().await;
                    return Err(UpstreamError::NoHead(error));
                }
                Err(_) => {
                    session.shutdown().await;
                    return Err(UpstreamError::Stalled(head_deadline));
                }
            }
        }
    }

    /// Keeps the connection of a finished exchange for the next.
    pub(crate) async fn release(&self, upstream: Upstream) {
        let idle = upstream.peer.idle_timeout();
        self.connector.release_http_session(upstream.session, &upstream.peer, idle).await;
    }
}

/// The node itself ended this stream: its connection is alive, and the failure is its own.
fn was_reset(error: &pingora_core::Error) -> bool {
    error.root_cause().downcast_ref::<h2::Error>().is_some_and(h2::Error::is_reset)
}

async fn exchange(
    session: &mut HttpSession,
    head: RequestHeader,
    body: Bytes,
) -> Result<(), Box<pingora_core::Error>> {
    session.write_request_header(Box::new(head)).await?;
    let written = match body.is_empty() {
        true => session.finish_request_body().await,
        false => session.write_request_body(body, true).await,
    };
    // A node that refuses early stops reading; its answer is worth more than the broken write.
    let head = session.read_response_header().await;
    if session.response_header().is_some() { head } else { written.and(head) }
}

impl Upstream {
    pub(crate) fn status(&self) -> u16 {
        self.session.response_header().map_or(0, |head| head.status.as_u16())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.session.response_header()?.headers.get(name)?.to_str().ok()
    }

    /// Reads the next bytes of a stream into its framer; false at a clean end.
    pub(crate) async fn read_events(&mut self, stall: Duration) -> Result<bool, UpstreamError> {
        match self.read(stall).await? {
            Some(bytes) => {
                self.framer.push(&bytes)?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    pub(crate) fn events(&mut self) -> &mut Framer {
        &mut self.framer
    }

    /// The whole body of an answer that is no stream; cut at `bytes_max`.
    pub(crate) async fn read_all(
        &mut self,
        bytes_max: usize,
        stall: Duration,
    ) -> Result<Vec<u8>, UpstreamError> {
        let mut all = Vec::new();
        while let Some(bytes) = self.read(stall).await? {
            let room = bytes_max - all.len();
            all.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if all.len() == bytes_max {
                break;
            }
        }
        Ok(all)
    }

    async fn read(&mut self, stall: Duration) -> Result<Option<Bytes>, UpstreamError> {
        match tokio::time::timeout(stall, self.session.read_response_body()).await {
            Ok(read) => read.map_err(UpstreamError::Broken),
            Err(_) => Err(UpstreamError::Stalled(stall)),
        }
    }

    /// Tells the node at once that nobody wants the rest.
    pub(crate) async fn cancel(mut self) {
        self.session.shutdown().await;
    }
}

fn peer(node: &Node) -> HttpPeer {
    let mut peer = HttpPeer::new(node.ingress, true, node.server_name.clone());
    peer.options.set_http_version(2, 2);
    peer.options.connection_timeout = Some(CONNECT_MAX);
    peer.options.total_connection_timeout = Some(CONNECT_WITH_TLS_MAX);
    peer.options.idle_timeout = Some(IDLE_MAX);
    peer.options.max_h2_streams = STREAMS_PER_CONNECTION;
    peer.options.h2_ping_interval = Some(PING_INTERVAL);
    peer.options.h2_stream_window_size = Some(STREAM_WINDOW_BYTES);
    peer
}

fn request_head(
    node: &Node,
    method: &str,
    path: &str,
    headers: &[(&'static str, &str)],
    length: usize,
) -> RequestHeader {
    let mut head = RequestHeader::build(method, path.as_bytes(), Some(headers.len() + 3))
        .expect("our own method and path");
    head.insert_header("host", &node.server_name).expect("checked when the table was read");
    if length > 0 {
        head.insert_header("content-type", "application/json").expect("a header value");
    }
    head.insert_header("content-length", length.to_string()).expect("digits are a header value");
    for (name, value) in headers {
        head.insert_header(*name, *value).expect("ids, names and numbers are visible ASCII");
    }
    head
}

const CONNECT_MAX: Duration = Duration::from_secs(1);
const CONNECT_WITH_TLS_MAX: Duration = Duration::from_secs(3);
const WRITE_STALL_MAX: Duration = Duration::from_secs(10);
const IDLE_MAX: Duration = Duration::from_secs(60);
const PING_INTERVAL: Duration = Duration::from_secs(10);
const IDLE_CONNECTIONS_MAX: usize = 1024;
/// Beyond this many a lost packet would hold up too many streams at once.
const STREAMS_PER_CONNECTION: usize = 100;
/// Some hundred events: a slow client makes its engine wait rather than fill the edge's memory.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
