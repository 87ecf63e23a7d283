//! The proxy role: carries requests from clients to regions, and answers back.
//!
//! The request's way, in reading order: [`answer`] is the table of contents · [`receive`] head and body ·
//! [`authenticate`] who asks · [`admit`] what for, [`prefix`] with which beginning · [`attempts`] to the nodes
//! that `policy` chooses, one [`attempt`] each · [`stream`] checks what comes back, also where no agent answers ([`plain_stream`]), [`progress`] is the answer that it
//! makes · [`relay`] hands it on, as [`responses`] where a client asks for those, [`pass_on`] what is not understood,
//! [`keep_alive`] fills the waits, each with an [`alarm`] · [`resume`] goes on elsewhere when a stream is lost, by what the [`resume_buffer`]
//! kept, or when [`patience`] ends; [`budgets`] bound what is done twice · [`settle`] keeps the record,
//! [`decision_log`] the reasons.
//! Beside it: [`config`] is read at start, [`intent`] keeps the [`routing_table`] and the [`tenants`] what operators
//! want, [`probe`] watches the nodes, [`admin`] and [`metrics`] tell of it, [`other_edges`] of what they did, [`refusal`] is what clients are told,
//! [`network`] is the sockets.

mod admin;
mod admit;
mod alarm;
mod answer;
mod attempt;
mod attempts;
mod authenticate;
mod budgets;
mod clock;
pub mod config;
mod decision_log;
mod intent;
mod keep_alive;
mod metrics;
mod network;
mod other_edges;
mod pass_on;
mod patience;
mod plain_stream;
mod prefix;
mod probe;
mod progress;
mod receive;
mod refusal;
mod relay;
mod responses;
mod resume;
mod resume_buffer;
mod route_page;
mod routing_table;
mod settle;
mod stream;
mod tenants;

pub use config::{BadConfig, Config, File};

use admin::Told;
use arc_swap::ArcSwapOption;
use budgets::Budgets;
use client::{Dialer, MemberAddress};
use clock::Clock;
use decision_log::DecisionLog;
use identity::files::Paths;
use identity::{Identity, Live};
use intent::Refusals;
use metrics::Metrics;
use network::handover::{Door, Doors, HandoverError, Offer, READY_MAX};
use network::listen::Listener;
use network::tls::HttpsAcceptor;
use network::upstream::Upstreams;
use network::workers::Workers;
use other_edges::OtherEdges;
use policy::{Health, NodeHealth, RoutingTable};
use proto::signal::NodeReport;
use refusal::Refusal;
use resume_buffer::{RESUME_BYTES_MAX, ResumeBuffer};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tenants::TenantTable;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use types::{LoadFrame, ModelVersion, NodeKey, RegionName};

/// What all requests of one edge share.
pub(crate) struct Edge {
    region: RegionName,
    clock: Clock,
    tenants: TenantTable,
    /// None before there was any.
    routing_table: ArcSwapOption<RoutingTable>,
    table_changed: Notify,
    /// Some node went down or came up.
    node_changed: Notify,
    refusals: Refusals,
    health: Mutex<Health>,
    budgets: Mutex<Budgets>,
    resume_buffer: Arc<ResumeBuffer>,
    decisions: DecisionLog,
    upstreams: Upstreams,
    workers: Workers,
    metrics: Arc<Metrics>,
    /// Told to stop: still answers, but should be asked no more.
    leaving: CancellationToken,
    /// Until the client of a stream is shown that it is not forgotten.
    keep_alive: Duration,
}

/// Why an edge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use this edge's identity")]
    Identity(#[from] identity::LoadError),
    #[error("the identity in {dir} is {found}, not an edge in {region}")]
    WrongIdentity { dir: String, found: String, region: RegionName },
    #[error("cannot keep pictures of intent")]
    Intent(#[from] client::follow::OpenError),
    #[error("cannot serve HTTPS")]
    Tls(#[from] network::tls::TlsError),
    #[error("cannot take over from another edge, or let one take over, at {}", path.display())]
    Handover { path: PathBuf, source: HandoverError },
    #[error("cannot start a thread for each core")]
    Threads(#[source] io::Error),
    #[error("cannot listen on {address}; if another process does, stop it or choose another address")]
    Listen { address: SocketAddr, source: io::Error },
}

/// Everything that is read before the first socket is opened, but for the pictures of intent.
pub struct Prepared {
    config: Config,
    identity: Identity,
    tls: Option<(SocketAddr, HttpsAcceptor)>,
}

/// Reads and checks all that the configuration points to, and names everything that is wrong with it.
pub fn prepare(config: Config) -> Result<Prepared, Vec<StartError>> {
    let identity = own_identity(&config);
    let tls = config.tls.as_ref().map(|tls| {
        let acceptor = network::tls::acceptor(&tls.certificate, &tls.key)?;
        Ok::<_, StartError>((tls.listen, acceptor))
    });
    match (identity, tls.transpose()) {
        (Ok(identity), Ok(tls)) => Ok(Prepared { config, identity, tls }),
        (identity, tls) => Err([identity.err(), tls.err()].into_iter().flatten().collect()),
    }
}

fn own_identity(config: &Config) -> Result<Identity, StartError> {
    let identity = Identity::load(&config.identity)?;
    let name = identity.name();
    if name.role == identity::Role::Edge && name.region == config.region {
        return Ok(identity);
    }
    let (dir, found) = (config.identity.display().to_string(), name.to_string());
    Err(StartError::WrongIdentity { dir, found, region: config.region.clone() })
}

/// Serves until `shutdown`, then lets what has begun come to its end.
pub async fn run(prepared: Prepared, shutdown: CancellationToken) -> Result<(), StartError> {
    let Prepared { config, identity, tls } = prepared;
    let cluster = identity.name().cluster.clone();
    let identity = Live::new(identity);
    let metrics = Arc::new(Metrics::new());
    let drain = CancellationToken::new();
    let (workers, threads) = Workers::start().map_err(StartError::Threads)?;
    let edge = Arc::new(Edge {
        region: config.region.clone(),
        clock: Clock::start(),
        tenants: TenantTable::default(),
        routing_table: ArcSwapOption::empty(),
        table_changed: Notify::new(),
        node_changed: Notify::new(),
        refusals: Refusals::default(),
        health: Mutex::new(Health::new(attempt::dice())),
        budgets: Mutex::default(),
        resume_buffer: ResumeBuffer::new(RESUME_BYTES_MAX),
        decisions: DecisionLog::default(),
        upstreams: Upstreams::new(
            &Paths::in_dir(&config.identity).authority,
            identity.clone(),
            config.dial_map.clone(),
            workers.count(),
        ),
        workers: workers.clone(),
        metrics: metrics.clone(),
        leaving: CancellationToken::new(),
        keep_alive: config.keep_alive,
    });
    let unhandy = |source| {
        let path = config.handover.clone().unwrap_or_default();
        StartError::Handover { path, source }
    };
    let mut doors = Doors::knock(config.handover.as_deref()).await.map_err(unhandy)?;
    // All sockets are bound before the first request is taken, so a busy port costs nobody an answer; and before
    // anything on disk is touched: a start that fails here must not count as one that its picture killed.
    let plain = match config.listen {
        Some(address) => Some(listen(&mut doors, Door::Plain, address).await?),
        None => None,
    };
    let secure = match tls {
        Some((address, acceptor)) => Some((listen(&mut doors, Door::Secure, address).await?, acceptor)),
        None => None,
    };
    let admin = listen(&mut doors, Door::Admin, config.admin).await?;
    let followers = intent::open(&edge, &config, &cluster)?;
    let told = Told {
        edge: edge.clone(),
        name: format!("{}/{}", config.region, config.name),
        other_edges: OtherEdges::new(config.other_edges),
        standings: followers.standings(),
        identity: identity.clone(),
    };
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    // Also where this edge does not get as far as its drain.
    let _stop = stop.clone().drop_guard();
    let (dialer, members) = (Dialer::new(identity.clone()).through(config.dial_map), config.control_plane);
    followers.go_live(&dialer, &members, &stop, &tasks);
    if doors.takes_over() {
        until_ready(&edge, &shutdown).await.map_err(unhandy)?;
    }

    let listener = Listener::new(edge.clone(), metrics, drain.clone(), config.proxy_v2_from, workers);
    if let Some(socket) = plain {
        tokio::spawn(listener.clone().accept(socket, None));
    }
    if let Some((socket, acceptor)) = secure {
        tokio::spawn(listener.clone().accept(socket, Some(acceptor)));
    }
    let admin = tokio::spawn(axum::serve(admin, admin::routes(told)).into_future());
    let probes = tokio::spawn(probe::probe_all(edge.clone()));
    tasks.spawn(hear_reports(edge.clone(), dialer.clone(), members.clone(), stop.clone()));
    let renewed = client::renew::keep_renewed(identity, config.identity, dialer, members, stop.clone());
    tasks.spawn(renewed);
    tracing::info!(region = %config.region, edge = %config.name, "edge serves");

    let is_replaced = until_told(&edge, doors.serving().await, &shutdown, config.notice).await;
    if is_replaced {
        // The other one answers there from now on, and keeps the pictures on disk.
        admin.abort();
        stop.cancel();
    }
    tracing::info!(in_flight = edge.metrics.requests_in_flight.get(), is_replaced, "edge drains");
    drain.cancel();
    listener.connections.close();
    if tokio::time::timeout(config.drain, listener.connections.wait()).await.is_err() {
        let in_flight = edge.metrics.requests_in_flight.get();
        tracing::warn!(in_flight, "drain deadline passed; the rest is cut off");
    }
    stop.cancel();
    probes.abort();
    admin.abort();
    tasks.close();
    let _ = tokio::time::timeout(STOP_MAX, threads.end()).await;
    // What is kept on disk is whole at every instant, so nothing is lost with a task that does not end.
    let _ = tokio::time::timeout(STOP_MAX, tasks.wait()).await;
    Ok(())
}

/// Waits until this edge has something to serve from. The one that it takes over from serves meanwhile.
async fn until_ready(edge: &Edge, shutdown: &CancellationToken) -> Result<(), HandoverError> {
    let ready = async {
        while !intent::waits_for(edge).is_empty() {
            tokio::time::sleep(READY_PAUSE).await;
        }
    };
    tokio::select! {
        ready = tokio::time::timeout(READY_MAX, ready) => ready.map_err(|_| HandoverError::NotReady),
        () = shutdown.cancelled() => Err(HandoverError::NotReady),
    }
}

/// Waits until this edge has to leave, and has been seen leaving. True = another one serves in its place, so nobody
/// has to see it.
async fn until_told(
    edge: &Edge,
    offer: Option<Offer>,
    shutdown: &CancellationToken,
    notice: Duration,
) -> bool {
    let replaced = async {
        match offer {
            Some(offer) => offer.until_taken().await,
            None => std::future::pending().await,
        }
    };
    let told = async {
        shutdown.cancelled().await;
        edge.leaving.cancel();
        tracing::info!(notice_seconds = notice.as_secs(), "edge is to stop; it still takes connections");
        tokio::time::sleep(notice).await;
    };
    tokio::select! {
        () = replaced => {
            edge.leaving.cancel();
            true
        }
        () = told => false,
    }
}

/// What all agents told the control plane of their load, once a second.
async fn hear_reports(edge: Arc<Edge>, dialer: Dialer, members: Vec<MemberAddress>, stop: CancellationToken) {
    let take = |reports: Vec<NodeReport>| {
        let now = edge.clock.now();
        for report in reports {
            // Locked for each anew: no request waits for the reports of thousands of nodes.
            edge.health().reported(&report.node, &report.loads, report.age, now);
        }
    };
    client::signal::pictures(dialer, members, take, stop).await;
}

async fn listen(doors: &mut Doors, door: Door, address: SocketAddr) -> Result<TcpListener, StartError> {
    doors.open(door, address).await.map_err(|source| StartError::Listen { address, source })
}

impl Edge {
    fn routing_table(&self) -> Result<Arc<RoutingTable>, Refusal> {
        self.routing_table.load_full().ok_or(Refusal::NoPicture { of: "routing table" })
    }

    /// Decides by another table from now on. Requests on their way go on where they are.
    fn follow(&self, table: RoutingTable) {
        // Held to the end: freeing a large table takes longer than a request should wait for the lock.
        let before = self.routing_table.load_full();
        let table = Arc::new(match &before {
            Some(before) => table.succeeding(before),
            None => table,
        });
        {
            let mut health = self.health();
            health.follow(&table);
            self.routing_table.store(Some(table.clone()));
        }
        self.upstreams.follow(&table);
        self.table_changed.notify_one();
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // All requests need it: whatever one of them, or a picture, made panic must not end the others.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear_load(&self, node: &NodeKey, version: ModelVersion, frame: Option<LoadFrame>) {
        if let Some(frame) = frame {
            self.health().load_heard(node, version, frame, self.clock.now());
        }
    }

    /// Waits until probes find a node down while there is another place to go. A request that hangs there need not
    /// wait for its own deadline then; without another place it can only hope that the node speaks again.
    async fn until_lost(&self, node: &NodeKey, is_elsewhere: impl Fn() -> bool) {
        // What comes is worth more than what probes say, so it is given time to come.
        tokio::time::sleep(DOWN_GRACE).await;
        self.until_down(node, is_elsewhere).await;
    }

    /// As [`Self::until_lost`], for those who have waited already.
    async fn until_down(&self, node: &NodeKey, is_elsewhere: impl Fn() -> bool) {
        loop {
            let changed = self.node_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let is_down = self.health().node(node).is_some_and(NodeHealth::is_down);
            if is_down && is_elsewhere() {
                return;
            }
            changed.await;
        }
    }
}

const DOWN_GRACE: Duration = Duration::from_millis(250);
const READY_PAUSE: Duration = Duration::from_millis(20);
const STOP_MAX: Duration = Duration::from_secs(1);
