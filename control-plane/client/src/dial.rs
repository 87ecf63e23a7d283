//! Connections to members of the control plane, under mutual TLS.

use crate::members::MemberAddress;
use crate::warm::WarmChannel;
use hyper_util::rt::TokioIo;
use identity::Live;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use types::DialMap;

/// Dials members as whoever this process is at that moment.
#[derive(Clone)]
pub struct Dialer {
    identity: Arc<Live>,
    config: Arc<ClientConfig>,
    dial_map: DialMap,
}

impl Dialer {
    pub fn new(identity: Arc<Live>) -> Self {
        Self { config: identity.client_config(), identity, dial_map: DialMap::default() }
    }

    /// Dials some members elsewhere than where they are known to be.
    pub fn through(self, dial_map: DialMap) -> Self {
        Self { dial_map, ..self }
    }

    /// Who dials.
    pub fn identity(&self) -> &Arc<Live> {
        &self.identity
    }

    /// A connection that is made when it is first used, and again when it broke.
    pub fn channel(&self, member: &MemberAddress) -> Channel {
        let (dialer, member) = (self.clone(), member.clone());
        let connector = tower::service_fn(move |_label| {
            let (dialer, member) = (dialer.clone(), member.clone());
            async move { dialer.connect(&member).await.map(TokioIo::new) }
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

    /// A connection that is made now, and again as soon as it broke. Needs a tokio runtime.
    pub fn warm_channel(&self, member: &MemberAddress) -> WarmChannel {
        WarmChannel::hold(self.clone(), member.clone())
    }

    pub(crate) async fn connect(&self, member: &MemberAddress) -> io::Result<TlsStream<TcpStream>> {
        // The name that is verified stays the member's own, wherever it is dialled.
        let name = ServerName::try_from(member.server_name.clone())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let address = self.dial_map.dialled(member.address);
        let tcp = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await??;
        tcp.set_nodelay(true)?;
        let handshake = TlsConnector::from(self.config.clone()).connect(name, tcp);
        tokio::time::timeout(HANDSHAKE_MAX, handshake).await?
    }
}

/// The longest way round the world and back takes a third of it; a member that is not there must not hold up the next.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Two ways there and back, and a busy peer's signature.
const HANDSHAKE_MAX: Duration = Duration::from_secs(2);
/// A peer that vanished without a word is found out within twice this.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A snapshot of some megabytes crosses 200 ms of WAN in a few round trips, not in hundreds.
pub(crate) const STREAM_WINDOW: u32 = 2 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 4 << 20;
