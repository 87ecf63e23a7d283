//! Connections to members of the control plane, under mutual TLS.

use crate::members::MemberAddress;
use hyper_util::rt::TokioIo;
use identity::Live;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// Dials members as whoever this process is at that moment.
#[derive(Clone)]
pub struct Dialer {
    identity: Arc<Live>,
    config: Arc<ClientConfig>,
}

impl Dialer {
    pub fn new(identity: Arc<Live>) -> Self {
        Self { config: identity.client_config(), identity }
    }

    /// Who dials.
    pub fn identity(&self) -> &Arc<Live> {
        &self.identity
    }

    /// A connection that is made when it is first used, and again when it broke.
    pub fn channel(&self, member: &MemberAddress) -> Channel {
        let (config, member) = (self.config.clone(), member.clone());
        let connector = tower::service_fn(move |_label| {
            let (config, member) = (config.clone(), member.clone());
            async move { connect(config, &member).await.map(TokioIo::new) }
        });
        // The host is only what `:authority` says; where the connection leads is the connector's to decide.
        Endpoint::from_static("http://control-plane")
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .connect_with_connector_lazy(connector)
    }
}

async fn connect(config: Arc<ClientConfig>, member: &MemberAddress) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(member.server_name.clone())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let tcp = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address_of(member))).await??;
    tcp.set_nodelay(true)?;
    tokio::time::timeout(HANDSHAKE_MAX, TlsConnector::from(config).connect(name, tcp)).await?
}

/// Where a member is dialled. The name that is verified stays the member's own.
fn address_of(member: &MemberAddress) -> SocketAddr {
    member.address
}

/// The longest way round the world and back takes a third of it; a member that is not there must not hold up the next.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Two ways there and back, and a busy peer's signature.
const HANDSHAKE_MAX: Duration = Duration::from_secs(2);
/// A peer that vanished without a word is found out within twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A snapshot of some megabytes crosses 200 ms of WAN in a few round trips, not in hundreds.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
