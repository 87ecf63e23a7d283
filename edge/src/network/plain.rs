//! Plain HTTP/1.1 to servers without an agent, made for speed: head and body leave in one write, the connection used
//! last is used next, and an answer is read in place.
//!
//! A server is not ours and may do anything: what it says is bounded, and framing that could be read in two ways is
//! refused.

use super::plain_body::{BadFraming, Framing, Step};
use super::upstream::UpstreamError;
use super::workers;
use arc_swap::ArcSwap;
use futures_util::FutureExt;
use policy::RoutingTable;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use types::intent::{NodeKind, OpenAiServer};
use types::{BaseUrl, DialMap, SecretName};

/// All servers without an agent, and connections to them.
pub(super) struct Plain {
    dial_map: DialMap,
    authority: PathBuf,
    servers: ArcSwap<HashMap<ServerKey, Arc<Server>>>,
    tls: OnceCell<TlsConnector>,
    workers: usize,
}

type ServerKey = (BaseUrl, Option<SecretName>);

struct Server {
    url: BaseUrl,
    /// What stands in every head.
    headers: Result<String, NoSecret>,
    /// Of each worker.
    idle: Box<[Mutex<VecDeque<Idle>>]>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// One request whose head was answered. Dropped before its end, it closes the connection: over HTTP/1.1 that is how
/// a server learns that nobody wants the rest.
pub(super) struct Exchange {
    server: Arc<Server>,
    connection: Connection,
    status: u16,
    framing: Framing,
    /// Whether the server keeps the connection after this.
    keeps: bool,
}

struct Connection {
    stream: Stream,
    /// The answer's head, then what was read of its body and not yet taken.
    read: Vec<u8>,
    head_bytes: usize,
    /// Up to here it was taken.
    taken: usize,
    /// Kept for its memory.
    written: Vec<u8>,
}

enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why a server's answer cannot be used.
#[derive(Debug, thiserror::Error)]
enum BadAnswer {
    #[error("the head is larger than {HEAD_BYTES_MAX} bytes")]
    HeadTooLarge,
    #[error("the head is not one of HTTP/1.1")]
    Head(#[from] httparse::Error),
    #[error(transparent)]
    Framing(#[from] BadFraming),
    #[error("the connection ended in the midst of the answer")]
    EndedEarly,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("the environment of this edge has no usable {0}")]
struct NoSecret(SecretName);

impl Plain {
    pub(super) fn new(authority: &Path, dial_map: DialMap, workers: usize) -> Self {
        let authority = authority.to_owned();
        Self { dial_map, authority, servers: ArcSwap::default(), tls: OnceCell::new(), workers }
    }

    /// Keeps the connections to servers that are still in the table.
    pub(super) fn follow(&self, table: &RoutingTable) {
        let before = self.servers.load_full();
        let servers = table.nodes.values().filter_map(|node| match &node.kind {
            NodeKind::OpenAi(server) => Some(key(server)),
            NodeKind::Agent(_) => None,
        });
        let server = |key: ServerKey| {
            let known = before.get(&key).cloned();
            (key.clone(), known.unwrap_or_else(|| Arc::new(Server::new(key, self.workers))))
        };
        self.servers.store(Arc::new(servers.map(server).collect()));
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(
        &self,
        server: &OpenAiServer,
        method: &str,
        path: &str,
        headers: &[(&'static str, &str)],
        body: &[u8],
        head_deadline: Duration,
    ) -> Result<Exchange, UpstreamError> {
        let key = key(server);
        let known = self.servers.load().get(&key).cloned();
        // A request may still hold a table that was replaced meanwhile.
        let server = known.unwrap_or_else(|| Arc::new(Server::new(key, self.workers)));
        let answered = async {
            if let Some(connection) = server.take_idle() {
                match exchange(&server, connection, method, path, headers, body).await {
                    // It may have died unseen; that says nothing of the server, so one more try is free.
                    Err(Unanswered { heard: false, .. }) => {}
                    Err(Unanswered { error, .. }) => return Err(error),
                    Ok(exchange) => return Ok(exchange),
                }
            }
            let stream = tokio::time::timeout(CONNECT_MAX, self.connect(&server.url)).await;
            let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let connection = Connection::new(stream.map_err(|error| UpstreamError::Connect(error.into()))?);
            exchange(&server, connection, method, path, headers, body).await.map_err(|failed| failed.error)
        };
        let answered = tokio::time::timeout(head_deadline, answered).await;
        answered.unwrap_or(Err(UpstreamError::Stalled(head_deadline)))
    }

    async fn connect(&self, url: &BaseUrl) -> io::Result<Stream> {
        let tcp = match url.host().parse::<IpAddr>() {
            Ok(ip) => TcpStream::connect(self.dial_map.dialled(SocketAddr::new(ip, url.port()))).await?,
            Err(_) => TcpStream::connect((url.host(), url.port())).await?,
        };
        tcp.set_nodelay(true)?;
        if !url.is_tls() {
            return Ok(Stream::Tcp(tcp));
        }
        let name = ServerName::try_from(url.host().to_owned()).map_err(io::Error::other)?;
        let tls = self.tls.get_or_try_init(|| connector(self.authority.clone())).await?;
        Ok(Stream::Tls(Box::new(tls.connect(name, tcp).await?)))
    }
}

/// Trusts whom this host trusts, and the cluster's own authority, which also signs for servers.
async fn connector(authority: PathBuf) -> io::Result<TlsConnector> {
    let read = move || {
        let mut roots = RootCertStore::empty();
        // A host without any certificates can still reach servers that the cluster's authority has signed for.
        let of_host = rustls_native_certs::load_native_certs().unwrap_or_default();
        roots.add_parsable_certificates(of_host);
        let own = rustls::pki_types::CertificateDer::pem_file_iter(authority).map_err(io::Error::other)?;
        roots.add_parsable_certificates(own.filter_map(Result::ok));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    };
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

fn key(server: &OpenAiServer) -> ServerKey {
    (server.base_url.clone(), server.secret.clone())
}

impl Server {
    fn new((url, secret): ServerKey, workers: usize) -> Self {
        let headers = fixed_headers(&url, secret, |name| std::env::var(name).ok());
        let idle = std::iter::repeat_with(Mutex::default).take(workers).collect();
        Self { url, headers, idle }
    }

    /// The connection used last that is still open: the others may rest and be closed.
    fn take_idle(&self) -> Option<Connection> {
        loop {
            let Idle { mut connection, since } = self.idle().pop_back()?;
            if since.elapsed() < IDLE_MAX && connection.is_alive() {
                return Some(connection);
            }
        }
    }

    fn put_idle(&self, connection: Connection) {
        let now = Instant::now();
        let mut idle = self.idle();
        while idle.len() >= IDLE_CONNECTIONS_MAX
            || idle.front().is_some_and(|oldest| now.duration_since(oldest.since) > IDLE_MAX)
        {
            idle.pop_front();
        }
        idle.push_back(Idle { connection, since: now });
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, VecDeque<Idle>> {
        self.idle[workers::index()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fixed_headers(
    url: &BaseUrl,
    secret: Option<SecretName>,
    read: impl Fn(&str) -> Option<String>,
) -> Result<String, NoSecret> {
    let mut headers = format!("host: {}\r\nuser-agent: rhumb\r\naccept: */*\r\n", url.authority());
    let Some(name) = secret else { return Ok(headers) };
    let is_token = |value: &String| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic());
    let Some(value) = read(name.as_str()).filter(is_token) else { return Err(NoSecret(name)) };
    headers += &format!("authorization: Bearer {value}\r\n");
    Ok(headers)
}

/// Why a connection brought no head.
struct Unanswered {
    error: UpstreamError,
    /// Whether any byte of an answer came.
    heard: bool,
}

async fn exchange(
    server: &Arc<Server>,
    mut connection: Connection,
    method: &str,
    path: &str,
    headers: &[(&'static str, &str)],
    body: &[u8],
) -> Result<Exchange, Unanswered> {
    let unsendable =
        |error: NoSecret| Unanswered { error: UpstreamError::Connect(error.into()), heard: true };
    let fixed = server.headers.as_ref().map_err(|error| unsendable(error.clone()))?;
    connection.write_head(server.url.path(), method, path, fixed, headers, body.len());
    let answer = match connection.write(body).await {
        Ok(()) => connection.read_head().await,
        // A server that refuses early stops reading, and its answer is worth more than the broken write. But an
        // answer that comes long after is one to half a request.
        Err(unwritten) => match tokio::time::timeout(EARLY_ANSWER_MAX, connection.read_head()).await {
            Ok(Ok(answer)) if answer.status != 200 => Ok(Answer { keeps: false, ..answer }),
            _ => Err(unwritten.into()),
        },
    };
    match answer {
        Ok(Answer { status, framing, keeps }) => {
            Ok(Exchange { server: server.clone(), connection, status, framing, keeps })
        }
        Err(error) => {
            let heard = !connection.read.is_empty();
            Err(Unanswered { error: UpstreamError::NoHead(error), heard })
        }
    }
}

impl Exchange {
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// Read anew at each call, for it is rarely asked.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(&self.connection.read[..self.connection.head_bytes]).ok()?;
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    }

    /// The next piece of the body; `None` at its end.
    pub(super) async fn read(&mut self) -> Result<Option<&[u8]>, UpstreamError> {
        loop {
            let unread = &self.connection.read[self.connection.taken..];
            match self.framing.step(unread).map_err(|error| UpstreamError::Broken(error.into()))? {
                Step::Data(range) => {
                    let begin = self.connection.taken;
                    self.connection.taken += range.end;
                    return Ok(Some(&self.connection.read[begin + range.start..begin + range.end]));
                }
                Step::End(skipped) => {
                    self.connection.taken += skipped;
                    return Ok(None);
                }
                Step::More(skipped) => {
                    self.connection.taken += skipped;
                    let more = self.connection.fill().await;
                    if !more.map_err(|error| UpstreamError::Broken(error.into()))? {
                        self.keeps = false;
                        match self.framing.ends_with_connection() {
                            true => return Ok(None),
                            false => return Err(UpstreamError::Broken(BadAnswer::EndedEarly.into())),
                        }
                    }
                }
            }
        }
    }

    /// Keeps the connection for the next request, if the answer has come to its end or does so soon.
    pub(super) fn release(mut self) {
        match self.rest().now_or_never() {
            Some(true) => self.keep(),
            Some(false) => {}
            // `[DONE]` and the end of the body travel apart.
            None => drop(tokio::spawn(async move {
                if tokio::time::timeout(REST_MAX, self.rest()).await == Ok(true) {
                    self.keep();
                }
            })),
        }
    }

    /// Reads to the end of the answer. False where something comes that nobody expects.
    async fn rest(&mut self) -> bool {
        self.keeps && matches!(self.read().await, Ok(None))
    }

    fn keep(self) {
        let Self { server, mut connection, keeps, .. } = self;
        // What comes after the end of an answer is an answer to nothing.
        if keeps && connection.taken == connection.read.len() {
            connection.forget();
            server.put_idle(connection);
        }
    }
}

/// What a head says.
struct Answer {
    status: u16,
    framing: Framing,
    keeps: bool,
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Connection {
    fn new(stream: Stream) -> Self {
        let read = Vec::with_capacity(READ_BYTES);
        Self { stream, read, head_bytes: 0, taken: 0, written: Vec::with_capacity(READ_BYTES) }
    }

    /// Whether nothing has come since the last answer, not even an end.
    fn is_alive(&mut self) -> bool {
        self.stream.read(&mut [0]).now_or_never().is_none()
    }

    /// Gets ready for the next request. Memory that one large answer needed is not kept.
    fn forget(&mut self) {
        self.read.clear();
        self.read.shrink_to(READ_BYTES);
        self.written.clear();
        self.written.shrink_to(ONE_WRITE_BYTES_MAX);
        (self.head_bytes, self.taken) = (0, 0);
    }

    fn write_head(
        &mut self,
        base: &str,
        method: &str,
        path: &str,
        fixed: &str,
        headers: &[(&'static str, &str)],
        length: usize,
    ) {
        // The base URL of a server has the version in it, as SDKs want it.
        let path = path.strip_prefix("/v1").unwrap_or(path);
        let out = &mut self.written;
        for part in [method, " ", base, path, " HTTP/1.1\r\n", fixed] {
            out.extend_from_slice(part.as_bytes());
        }
        let mut has_type = false;
        // What travels to agents is nobody else's business.
        for (name, value) in headers.iter().filter(|(name, _)| !name.starts_with("rhumb-")) {
            has_type |= *name == "content-type";
            for part in [name, ": ", value, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        if method != "GET" {
            if !has_type {
                out.extend_from_slice(b"content-type: application/json\r\n");
            }
            use io::Write;
            write!(out, "content-length: {length}\r\n").expect("memory takes every write");
        }
        out.extend_from_slice(b"\r\n");
    }

    async fn write(&mut self, body: &[u8]) -> io::Result<()> {
        if self.written.len() + body.len() <= ONE_WRITE_BYTES_MAX {
            self.written.extend_from_slice(body);
            self.stream.write_all(&self.written).await?;
        } else {
            self.stream.write_all(&self.written).await?;
            self.stream.write_all(body).await?;
        }
        self.stream.flush().await
    }

    async fn read_head(&mut self) -> Result<Answer, Cause> {
        let mut scanned = 0;
        loop {
            let Some(end) = memchr::memmem::find(&self.read[scanned..], b"\r\n\r\n") else {
                if self.read.len() > HEAD_BYTES_MAX {
                    return Err(BadAnswer::HeadTooLarge.into());
                }
                // The blank line may have begun in what was scanned.
                scanned = self.read.len().saturating_sub(3);
                if !self.fill().await? {
                    return Err(BadAnswer::EndedEarly.into());
                }
                continue;
            };
            let head_bytes = scanned + end + 4;
            let answer = answer_of(&self.read[..head_bytes])?;
            if (100..200).contains(&answer.status) {
                self.read.drain(..head_bytes);
                scanned = 0;
                continue;
            }
            (self.head_bytes, self.taken) = (head_bytes, head_bytes);
            return Ok(answer);
        }
    }

    /// Reads what is there, or waits for some; false at the end of the connection.
    async fn fill(&mut self) -> io::Result<bool> {
        if self.taken > self.head_bytes {
            self.read.drain(self.head_bytes..self.taken);
            self.taken = self.head_bytes;
        }
        self.read.reserve(READ_BYTES);
        Ok(self.stream.read_buf(&mut self.read).await? > 0)
    }
}

fn answer_of(head: &[u8]) -> Result<Answer, BadAnswer> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    if response.parse(head)?.is_partial() {
        return Err(httparse::Error::Status.into());
    }
    let status = response.code.unwrap_or_default();
    let is_http11 = response.version == Some(1);
    let framing = Framing::of(status, response.headers)?;
    let says = |word: &str| {
        let connection =
            response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
        let mut words = connection.flat_map(|header| header.value.split(|byte| *byte == b','));
        words.any(|said| said.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    };
    let keeps = if is_http11 { !says("close") } else { says("keep-alive") };
    Ok(Answer { status, keeps: keeps && !framing.ends_with_connection(), framing })
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// With the TLS handshake, to the other side of the world and one lost packet.
const CONNECT_MAX: Duration = Duration::from_secs(3);
const EARLY_ANSWER_MAX: Duration = Duration::from_secs(1);
/// Between `[DONE]` and the end of its body.
const REST_MAX: Duration = Duration::from_secs(1);
const IDLE_MAX: Duration = Duration::from_secs(60);
/// From one worker to one server. Each holds a socket and some 8 KiB.
const IDLE_CONNECTIONS_MAX: usize = 1024;
/// One packet more or less costs nothing; a copy of a long prompt would.
const ONE_WRITE_BYTES_MAX: usize = 16 << 10;
const READ_BYTES: usize = 4096;
/// As much as the edge takes from a client.
const HEAD_BYTES_MAX: usize = super::HEAD_BYTES_MAX;
const HEADERS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_sent_whole_or_nothing_is_sent() {
        let url: BaseUrl = "http://vllm:8000/v1".parse().unwrap();
        let name = || Some("RHUMB_SECRET_VLLM".parse().unwrap());
        let with = |value: Option<&str>| fixed_headers(&url, name(), |_| value.map(str::to_owned));
        assert!(with(Some("sk-1")).unwrap().ends_with("\r\nauthorization: Bearer sk-1\r\n"));
        for unusable in [None, Some(""), Some("two words"), Some("a\r\nx: y"), Some("schlüssel")] {
            let refused = with(unusable).unwrap_err().to_string();
            assert_eq!(refused, "the environment of this edge has no usable RHUMB_SECRET_VLLM");
        }
        assert!(!fixed_headers(&url, None, |_| Some("x".to_owned())).unwrap().contains("authorization"));
    }
}
