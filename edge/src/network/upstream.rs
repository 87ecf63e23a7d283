//! One request to a node: opened, written, and its stream read event by event.

use super::credential::Credential;
use super::plain::{self, Plain};
use super::workers;
use bytes::Bytes;
use identity::Live;
use openai::sse::{EventTooLong, Framer};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_http::RequestHeader;
use policy::{Node, RoutingTable};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use types::DialMap;
use types::intent::{Agent, NodeKind};

/// Connections to all nodes, under this edge's identity.
pub(crate) struct Upstreams {
    plain: Plain,
    to_agents: Box<[ToAgents]>,
    credential: Credential,
    dial_map: DialMap,
}

/// One worker's connections to agents.
struct ToAgents {
    connector: Connector,
    /// By server name, of which there are as many as nodes in the routing table.
    dials: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// One request whose head was answered. Dropping it resets the stream, or closes the connection that carries nothing
/// else: the node learns at once that nobody wants the rest.
pub(crate) struct Upstream {
    way: Way,
    framer: Framer,
}

enum Way {
    /// HTTP/2 to an agent.
    Agent { peer: Box<HttpPeer>, session: Box<HttpSession> },
    /// HTTP/1.1 to a server without one.
    Plain(Box<plain::Exchange>),
}

/// An error of whichever way it was.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a request got no head, or its stream broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("cannot connect")]
    Connect(#[source] Cause),
    #[error("other requests dial there, and none got through for {} s", .0.as_secs())]
    Undialled(Duration),
    #[error("the connection broke before the head of the answer")]
    NoHead(#[source] Cause),
    #[error("the stream broke")]
    Broken(#[source] Cause),
    #[error("the stream ended before [DONE]")]
    EndedEarly,
    #[error("nothing came for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("the stream cannot be read")]
    Unreadable(#[from] EventTooLong),
}

impl UpstreamError {
    /// False where the node cannot have seen anything of the request.
    pub(crate) fn reached_the_node(&self) -> bool {
        !matches!(self, Self::Connect(_) | Self::Undialled(_))
    }

    /// A stream that had begun was ended by its node on purpose: the node is alive, the engine behind it may not be.
    pub(crate) fn is_the_nodes_word(&self) -> bool {
        match self {
            Self::EndedEarly => true,
            Self::Broken(error) => {
                let error = error.downcast_ref::<Box<pingora_core::Error>>();
                error.is_some_and(|error| was_reset(error))
            }
            _ => false,
        }
    }
}

impl Upstreams {
    /// The authority (PEM) must have been read before: pingora panics on a file that it cannot use.
    pub(crate) fn new(authority: &Path, identity: Arc<Live>, dial_map: DialMap, workers: usize) -> Self {
        let plain = Plain::new(authority, dial_map.clone(), workers);
        let mut options = ConnectorOptions::new(IDLE_CONNECTIONS_MAX);
        options.ca_file = Some(authority.to_string_lossy().into_owned());
        let of_worker =
            || ToAgents { connector: Connector::new(Some(options.clone())), dials: Mutex::default() };
        let to_agents = std::iter::repeat_with(of_worker).take(workers).collect();
        Self { plain, to_agents, credential: Credential::new(identity), dial_map }
    }

    /// Forgets nodes that are not in the table any more.
    pub(crate) fn follow(&self, table: &RoutingTable) {
        self.plain.follow(table);
        let name = |node: &Node| match &node.kind {
            NodeKind::Agent(agent) => Some(agent.server_name.clone()),
            NodeKind::OpenAi(_) => None,
        };
        let names: HashSet<String> = table.nodes.values().filter_map(name).collect();
        for ToAgents { dials, .. } in &self.to_agents {
            let mut dials = dials.lock().expect("no holder of this lock panics");
            dials.retain(|name, _| names.contains(name.as_str()));
        }
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
        let agent = match &node.kind {
            NodeKind::Agent(agent) => agent,
            NodeKind::OpenAi(server) => {
                let sent = self.plain.send(server, method, path, headers, &body, head_deadline).await?;
                return Ok(Upstream { way: Way::Plain(Box::new(sent)), framer: Framer::default() });
            }
        };
        let mut peer = peer(agent, &self.dial_map);
        self.credential.show(&mut peer);
        // A pooled connection may have died unseen; that says nothing of the node, so one more try is free.
        let mut tried_again = false;
        loop {
            // On the heap: a TLS handshake is large, and hardly ever needed.
            let (mut session, reused) = Box::pin(self.to_agents().connect(&peer)).await?;
            let head = request_head(agent, method, path, headers, body.len());
            // A node reads a body only when an engine is free, so a stalled write is no fault before the deadline.
            session.set_write_timeout(Some(head_deadline));
            session.set_read_timeout(Some(head_deadline));
            let answered = tokio::time::timeout(head_deadline, exchange(&mut session, head, body.clone()));
            match answered.await {
                Ok(Ok(())) => {
                    // Whoever reads the answer has a time-out of its own, and this one would be set for each event.
                    session.set_read_timeout(None);
                    let way = Way::Agent { peer: Box::new(peer), session: Box::new(session) };
                    return Ok(Upstream { way, framer: Framer::default() });
                }
                Ok(Err(error)) if reused && !tried_again && !was_reset(&error) => tried_again = true,
                Ok(Err(error)) => {
                    session.shutdown().await;
                    return Err(UpstreamError::NoHead(error.into()));
                }
                Err(_) => {
                    session.shutdown().await;
                    return Err(UpstreamError::Stalled(head_deadline));
                }
            }
        }
    }

    fn to_agents(&self) -> &ToAgents {
        &self.to_agents[workers::index()]
    }

    /// Keeps the connection of a finished exchange for the next.
    pub(crate) async fn release(&self, upstream: Upstream) {
        match upstream.way {
            Way::Agent { peer, session } => {
                let (idle, connector) = (peer.idle_timeout(), &self.to_agents().connector);
                Box::pin(connector.release_http_session(*session, &*peer, idle)).await;
            }
            Way::Plain(exchange) => exchange.release(),
        }
    }
}

impl ToAgents {
    /// A stream on a pooled connection, or on a new one.
    async fn connect(&self, peer: &HttpPeer) -> Result<(HttpSession, bool), UpstreamError> {
        let dials = self.dials(peer);
        // Pingora takes a connection out of its pool while a stream is opened on it, so all others of a burst
        // would dial at once; those who wait a moment find it again.
        // A node that swallows every dial must not make its requests wait in turn.
        let dial = tokio::time::timeout(CONNECT_WITH_TLS_MAX, dials.acquire_owned()).await;
        let dial = dial.map_err(|_| UpstreamError::Undialled(CONNECT_WITH_TLS_MAX))?;
        let _dial = dial.expect("the semaphore is never closed");
        self.connector.get_http_session(peer).await.map_err(|error| UpstreamError::Connect(error.into()))
    }

    fn dials(&self, peer: &HttpPeer) -> Arc<Semaphore> {
        let mut dials = self.dials.lock().expect("no holder of this lock panics");
        let of_node = dials.entry(peer.sni.clone());
        of_node.or_insert_with(|| Arc::new(Semaphore::new(DIALS_AT_ONCE_MAX))).clone()
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
    let Err(unwritten) = written else { return session.read_response_header().await };
    // A node that refuses early stops reading, and its answer is worth more than the broken write. But an answer
    // that comes long after is one to half a request.
    match tokio::time::timeout(EARLY_ANSWER_MAX, session.read_response_header()).await {
        Ok(Ok(())) if session.response_header().is_some_and(|head| head.status != 200) => Ok(()),
        _ => Err(unwritten),
    }
}

impl Upstream {
    pub(crate) fn status(&self) -> u16 {
        match &self.way {
            Way::Agent { session, .. } => session.response_header().map_or(0, |head| head.status.as_u16()),
            Way::Plain(exchange) => exchange.status(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        match &self.way {
            Way::Agent { session, .. } => session.response_header()?.headers.get(name)?.to_str().ok(),
            Way::Plain(exchange) => exchange.header(name),
        }
    }

    /// Reads the next bytes of a stream into its framer; false at a clean end.
    pub(crate) async fn read_events(&mut self) -> Result<bool, UpstreamError> {
        match &mut self.way {
            Way::Agent { session, .. } => match read(session).await? {
                Some(bytes) => self.framer.push(&bytes)?,
                None => return Ok(false),
            },
            Way::Plain(exchange) => match exchange.read().await? {
                Some(bytes) => self.framer.push(bytes)?,
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    /// The next bytes of an answer that is handed on unread; `None` at its clean end.
    pub(crate) async fn read_part(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let part = match &mut self.way {
                Way::Agent { session, .. } => read(session).await?,
                Way::Plain(exchange) => exchange.read().await?.map(Bytes::copy_from_slice),
            };
            if part.as_ref().is_none_or(|bytes| !bytes.is_empty()) {
                return Ok(part);
            }
        }
    }

    pub(crate) fn events(&mut self) -> &mut Framer {
        &mut self.framer
    }

    /// Reads the next bytes of a body that is no stream; false at its end.
    pub(crate) async fn read_more(&mut self, into: &mut Vec<u8>) -> Result<bool, UpstreamError> {
        match &mut self.way {
            Way::Agent { session, .. } => match read(session).await? {
                Some(bytes) => into.extend_from_slice(&bytes),
                None => return Ok(false),
            },
            Way::Plain(exchange) => match exchange.read().await? {
                Some(bytes) => into.extend_from_slice(bytes),
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    /// The whole body of an answer that is no stream; `None` if it is longer than the bound.
    pub(crate) async fn read_all(
        &mut self,
        bytes_max: usize,
        deadline: Duration,
    ) -> Result<Option<Vec<u8>>, UpstreamError> {
        let read = async {
            let mut all = Vec::new();
            while self.read_more(&mut all).await? {
                if all.len() > bytes_max {
                    return Ok(None);
                }
            }
            Ok(Some(all))
        };
        tokio::time::timeout(deadline, read).await.unwrap_or(Err(UpstreamError::Stalled(deadline)))
    }
}

async fn read(session: &mut HttpSession) -> Result<Option<Bytes>, UpstreamError> {
    session.read_response_body().await.map_err(|error| UpstreamError::Broken(error.into()))
}

fn peer(agent: &Agent, dial_map: &DialMap) -> HttpPeer {
    let mut peer = HttpPeer::new(dial_map.dialled(agent.ingress), true, agent.server_name.clone());
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
    agent: &Agent,
    method: &str,
    path: &str,
    headers: &[(&'static str, &str)],
    length: usize,
) -> RequestHeader {
    let mut head = RequestHeader::build_no_case(method, path.as_bytes(), Some(headers.len() + 3))
        .expect("our own method and path");
    head.insert_header("host", &agent.server_name).expect("checked when the table was read");
    if length > 0 {
        head.insert_header("content-type", "application/json").expect("a header value");
    }
    head.insert_header("content-length", length.to_string()).expect("digits are a header value");
    for (name, value) in headers {
        head.insert_header(*name, *value).expect("ids, names and numbers are visible ASCII");
    }
    head
}

/// A first packet that is lost is sent again after a second.
const CONNECT_MAX: Duration = Duration::from_secs(2);
const CONNECT_WITH_TLS_MAX: Duration = Duration::from_secs(3);
const EARLY_ANSWER_MAX: Duration = Duration::from_secs(1);
const IDLE_MAX: Duration = Duration::from_secs(60);
const PING_INTERVAL: Duration = Duration::from_secs(10);
const IDLE_CONNECTIONS_MAX: usize = 1024;
/// Few enough that a burst shares connections, enough that one slow handshake holds up nobody.
const DIALS_AT_ONCE_MAX: usize = 4;
/// Beyond this many a lost packet would hold up too many streams at once.
const STREAMS_PER_CONNECTION: usize = 100;
/// Some hundred events: a slow client makes its engine wait rather than fill the edge's memory.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
