//! Where requests go: a base URL taken apart, and connections to it.

use http::Uri;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

/// One endpoint and its idle connections.
pub struct Target {
    /// None for a URL that somebody gave.
    pub region: Option<String>,
    pub path: String,
    /// As the `Host` header has it.
    pub authority: String,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Idle connections that are kept.
    pub idle_max: usize,
    /// The one used last at the end, and taken first: what few requests do not need grows old and is closed.
    idle: Mutex<VecDeque<Idle>>,
    reasons: Mutex<Reasons>,
}

/// What first brought about each of this client's own codes, in the words of whoever knows.
pub type Reasons = BTreeMap<&'static str, String>;

struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

/// A connection for one request at a time.
pub struct Connection {
    pub sender: SendRequest<Full<Bytes>>,
    /// Another request was on it before.
    pub is_used: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    #[error("{0:?} is not a URL such as https://api.example.com/v1")]
    NotUrl(String),
    #[error("{0:?} begins with neither http:// nor https://")]
    Scheme(String),
    #[error("{0:?} has a port that is none; a port is a number from 1 to 65535")]
    Port(String),
    #[error("a base URL ends with its path, as in https://api.example.com/v1, without user name or query")]
    Extra,
}

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("cannot read certificates from {}", path.display())]
    Read { path: PathBuf, source: pem::Error },
    #[error("{} holds no certificate that can be trusted", .0.display())]
    Useless(PathBuf),
    #[error(
        "this host keeps no list of certificate authorities where one is looked for; name one with `--cacert`"
    )]
    NoSystemRoots,
    #[error("this build supports no TLS")]
    Provider(#[source] rustls::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot look the host up")]
    LookUp(#[source] io::Error),
    #[error("cannot connect")]
    Tcp(#[source] io::Error),
    #[error("cannot agree on TLS")]
    Tls(#[source] io::Error),
    #[error("cannot speak HTTP")]
    Http(#[source] hyper::Error),
}

impl Target {
    /// `trust` is only asked for `https`.
    pub fn new(
        url: &str,
        region: Option<String>,
        trust: impl FnOnce() -> Result<Arc<ClientConfig>, TrustError>,
    ) -> anyhow::Result<Self> {
        let not_url = || UrlError::NotUrl(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| not_url())?;
        let authority = uri.authority().ok_or_else(not_url)?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(UrlError::Scheme(url.to_owned()).into()),
        };
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(UrlError::Extra.into());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_bare = authority.as_str() == authority.host();
        let port = match authority.port_u16() {
            Some(port @ 1..) => port,
            None if is_bare => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
            _ => return Err(UrlError::Port(url.to_owned()).into()),
        };
        let tls = match is_tls {
            true => {
                let name = ServerName::try_from(host.clone()).map_err(|_| not_url())?;
                Some((TlsConnector::from(trust()?), name))
            }
            false => None,
        };
        Ok(Self {
            region,
            path: format!("{}/chat/completions", uri.path().trim_end_matches('/')),
            authority: authority.to_string(),
            host,
            port,
            tls,
            idle_max: usize::MAX,
            idle: Mutex::default(),
            reasons: Mutex::default(),
        })
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// An idle connection that is still open, or a new one.
    pub async fn connection(&self) -> Result<Connection, ConnectError> {
        while let Some(Idle { mut sender, since }) = self.pop() {
            if since.elapsed() < IDLE_MAX && sender.ready().await.is_ok() {
                return Ok(Connection { sender, is_used: true });
            }
        }
        self.connect().await
    }

    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        self.dial().await.inspect_err(|error| {
            let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
            reasons.entry(error.code()).or_insert_with(|| error.reason());
        })
    }

    pub fn reasons(&self) -> Reasons {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn dial(&self) -> Result<Connection, ConnectError> {
        let addresses = lookup_host((self.host.as_str(), self.port)).await.map_err(ConnectError::LookUp)?;
        let addresses: Vec<SocketAddr> = addresses.collect();
        let stream = TcpStream::connect(addresses.as_slice()).await.map_err(ConnectError::Tcp)?;
        stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
        let sender = match &self.tls {
            None => {
                let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(ConnectError::Http)?;
                tokio::spawn(driver);
                sender
            }
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await.map_err(ConnectError::Tls)?;
                let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(ConnectError::Http)?;
                tokio::spawn(driver);
                sender
            }
        };
        Ok(Connection { sender, is_used: false })
    }

    /// Takes a connection back whose answer was read to its end.
    pub fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = idle.len() >= self.idle_max;
        if is_full {
            idle.pop_front();
        }
        while idle.front().is_some_and(|oldest| oldest.since.elapsed() >= IDLE_MAX) {
            idle.pop_front();
        }
        idle.push_back(Idle { sender: connection.sender, since: Instant::now() });
    }

    fn pop(&self) -> Option<Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_back()
    }
}

impl ConnectError {
    /// One of this client's own words for a cause.
    pub fn code(&self) -> &'static str {
        match self {
            Self::LookUp(_) => "unknown_host",
            Self::Tcp(error) if error.kind() == ErrorKind::ConnectionRefused => "connect_refused",
            Self::Tcp(_) => "connect_failed",
            Self::Tls(_) => "tls_failed",
            Self::Http(_) => "bad_http",
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::LookUp(error) | Self::Tcp(error) | Self::Tls(error) => error.to_string(),
            Self::Http(error) => error.to_string(),
        }
    }
}

/// Whom to believe: the authorities of a file, or those that this host trusts.
pub fn trust(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TrustError> {
    let path = match ca {
        Some(path) => path,
        None => {
            SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists()).ok_or(TrustError::NoSystemRoots)?
        }
    };
    let failed = |source| TrustError::Read { path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
        // Some lists hold a certificate that no library accepts; the others still count.
        let _ = roots.add(certificate.map_err(failed)?);
    }
    if roots.is_empty() {
        return Err(TrustError::Useless(path.to_owned()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Provider)?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Where Debian, Fedora and Alpine keep them.
const SYSTEM_ROOTS: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// Below the 5 s after which common servers (uvicorn) close an idle connection: a request that meets that close
/// would be lost, and not by any fault of theirs.
const IDLE_MAX: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> anyhow::Result<Target> {
        Target::new(url, None, || Err(TrustError::NoSystemRoots))
    }

    #[test]
    fn a_base_url_is_taken_apart() {
        let parts = |url: &str| {
            let Target { path, authority, host, port, .. } = target(url).unwrap();
            (path, authority, host, port)
        };
        let expected = |authority: &str, host: &str, port| {
            ("/v1/chat/completions".to_owned(), authority.to_owned(), host.to_owned(), port)
        };
        assert_eq!(parts("http://127.0.0.1:8080/v1"), expected("127.0.0.1:8080", "127.0.0.1", 8080));
        assert_eq!(parts("http://example.com/v1/"), expected("example.com", "example.com", 80));
        assert_eq!(parts("http://[::1]:81/v1"), expected("[::1]:81", "::1", 81));
    }

    #[tokio::test]
    async fn a_host_that_nobody_knows_is_told_from_one_that_cannot_be_reached() {
        // No label of a name is as long as this, so that nobody is asked.
        let target = target(&format!("http://{}/v1", "a".repeat(64))).unwrap();
        assert_eq!(target.connect().await.err().map(|error| error.code()), Some("unknown_host"));
        assert!(target.reasons().contains_key("unknown_host"));
    }

    #[tokio::test]
    async fn no_more_idle_connections_are_kept_than_may_be() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut target = target(&format!("http://{}/v1", listener.local_addr().unwrap())).unwrap();
        target.idle_max = 2;
        for _ in 0..5 {
            target.give_back(target.connect().await.unwrap());
        }
        assert_eq!(target.idle.lock().unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for bad in ["", "example.com", "ftp://a/v1", "http://", "http://u:p@a/v1", "http://a/v1?x=1", "/v1"] {
            assert!(target(bad).is_err(), "{bad}");
        }
        for bad in ["http://a:99999/v1", "http://a:0/v1", "http://a:/v1", "http://[::1]:70000/v1"] {
            let error = target(bad).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("port"), "{bad}: {error}");
        }
        let error = target("https://a/v1").err().unwrap();
        assert!(error.to_string().contains("--cacert"), "{error}");
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        assert!(matches!(trust(Some(&path)), Err(TrustError::Read { .. })));
        std::fs::write(&path, "nothing").unwrap();
        assert!(matches!(trust(Some(&path)), Err(TrustError::Useless(_))));
    }
}
