//! The proxy role: carries requests from clients to regions, and answers back.
//!
//! The request's way, in reading order: [`answer`] is the table of contents · [`receive`] head and body ·
//! [`authenticate`] who asks · [`admit`] what for · [`attempt`] to one node after the other, as `policy`
//! chooses them · [`stream`] checks what comes back · [`relay`] hands it on · [`settle`] keeps the record.
//! Beside it: [`config`], [`routing_table`] and [`tenants`] are read at start, [`probe`] watches the nodes,
//! [`admin`] and [`metrics`] tell of it, [`refusal`] is what clients are told, [`network`] is the sockets.

mod admin;
mod admit;
mod answer;
mod attempt;
mod authenticate;
mod clock;
pub mod config;
mod metrics;
mod network;
mod probe;
mod receive;
mod refusal;
mod relay;
pub mod routing_table;
mod settle;
mod stream;
pub mod tenants;

pub use config::{BadConfig, Config, File};

use arc_swap::ArcSwap;
use clock::Clock;
use identity::Identity;
use identity::files::Paths;
use metrics::Metrics;
use network::listen::Listener;
use network::tls::HttpsAcceptor;
use network::upstream::Upstreams;
use policy::{Health, NodeHealth, NodeKey, RoutingTable};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tenants::TenantTable;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use types::{LoadFrame, ModelVersion, RegionName};

/// What all requests of one edge share.
pub(crate) struct Edge {
    region: RegionName,
    clock: Clock,
    tenants: TenantTable,
    routing_table: ArcSwap<RoutingTable>,
    health: Mutex<Health>,
    upstreams: Upstreams,
    metrics: Arc<Metrics>,
    drain: CancellationToken,
}

/// Why an edge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use this edge's identity")]
    Identity(#[from] identity::LoadError),
    #[error("the identity in {dir} is {found}, not an edge in {region}")]
    WrongIdentity { dir: String, found: String, region: RegionName },
    #[error("cannot use the routing table")]
    RoutingTable(#[from] routing_table::ReadTableError),
    #[error("cannot use the tenant table")]
    Tenants(#[from] tenants::ReadTenantsError),
    #[error("cannot serve HTTPS")]
    Tls(#[from] network::tls::TlsError),
    #[error("cannot listen on {address}; if another process does, stop it or choose another address")]
    Listen { address: SocketAddr, source: io::Error },
}

/// Everything that is read before the first socket is opened.
pub struct Prepared {
    config: Config,
    tenants: TenantTable,
    table: RoutingTable,
    tls: Option<(SocketAddr, HttpsAcceptor)>,
}

/// Reads and checks all that the configuration points to, and names everything that is wrong with it.
pub fn prepare(config: Config) -> Result<Prepared, Vec<StartError>> {
    let identity = check_identity(&config);
    let table = routing_table::read(&config.routing_table, &config.region).map_err(StartError::from);
    let tenants = TenantTable::read(&config.tenants).map_err(StartError::from);
    let tls = config.tls.as_ref().map(|tls| {
        let acceptor = network::tls::acceptor(&tls.certificate, &tls.key)?;
        Ok::<_, StartError>((tls.listen, acceptor))
    });
    match (identity, table, tenants, tls.transpose()) {
        (Ok(()), Ok(table), Ok(tenants), Ok(tls)) => Ok(Prepared { config, tenants, table, tls }),
        (identity, table, tenants, tls) => {
            Err([identity.err(), table.err(), tenants.err(), tls.err()].into_iter().flatten().collect())
        }
    }
}

fn check_identity(config: &Config) -> Result<(), StartError> {
    let identity = Identity::load(&config.identity)?;
    let name = identity.name();
    if name.role == identity::Role::Edge && name.region == config.region {
        return Ok(());
    }
    let (dir, found) = (config.identity.display().to_string(), name.to_string());
    Err(StartError::WrongIdentity { dir, found, region: config.region.clone() })
}

/// Serves until `shutdown`, then lets what has begun come to its end.
pub async fn run(prepared: Prepared, shutdown: CancellationToken) -> Result<(), StartError> {
    let Prepared { config, tenants, table, tls } = prepared;
    let metrics = Arc::new(Metrics::new());
    let drain = CancellationToken::new();
    let mut health = Health::default();
    health.follow(&table);
    let edge = Arc::new(Edge {
        region: config.region.clone(),
        clock: Clock::start(),
        tenants,
        routing_table: ArcSwap::from_pointee(table),
        health: Mutex::new(health),
        upstreams: Upstreams::new(&Paths::in_dir(&config.identity)),
        metrics: metrics.clone(),
        drain: drain.clone(),
    });
    // All sockets are bound before the first request is taken, so a busy port costs nobody an answer.
    let plain = match config.listen {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let secure = match tls {
        Some((address, acceptor)) => Some((listen(address).await?, acceptor)),
        None => None,
    };
    let admin = listen(config.admin).await?;

    let listener = Listener::new(edge.clone(), metrics, drain.clone());
    if let Some(socket) = plain {
        tokio::spawn(listener.clone().accept(socket, None));
    }
    if let Some((socket, acceptor)) = secure {
        tokio::spawn(listener.clone().accept(socket, Some(acceptor)));
    }
    let probes = tokio::spawn(probe::probe_all(edge.clone()));
    let admin = tokio::spawn(axum::serve(admin, admin::routes(edge.clone())).into_future());
    tracing::info!(region = %config.region, edge = %config.name, "edge serves");

    shutdown.cancelled().await;
    tracing::info!(in_flight = edge.metrics.requests_in_flight.get(), "edge drains");
    drain.cancel();
    listener.connections.close();
    if tokio::time::timeout(config.drain, listener.connections.wait()).await.is_err() {
        let in_flight = edge.metrics.requests_in_flight.get();
        tracing::warn!(in_flight, "drain deadline passed; the rest is cut off");
    }
    probes.abort();
    admin.abort();
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

impl Edge {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().expect("no holder of this lock panics")
    }

    fn hear_load(&self, node: &NodeKey, version: ModelVersion, frame: Option<LoadFrame>) {
        if let Some(frame) = frame {
            self.health().load_heard(node, version, frame, self.clock.now());
        }
    }

    /// Waits until probes find a node down. A request that hangs there need not wait for its own deadline.
    async fn until_down(&self, node: &NodeKey) {
        loop {
            tokio::time::sleep(DOWN_CHECK_INTERVAL).await;
            if self.health().node(node).is_some_and(NodeHealth::is_down) {
                return;
            }
        }
    }
}

const DOWN_CHECK_INTERVAL: Duration = Duration::from_millis(250);
