//! One agent from start to end: opens its doors, fills its places as the intent says, and on the way out lets
//! requests finish.

use crate::admin::Pages;
use crate::config::Config;
use crate::ingress::Ingress;
use crate::intent;
use crate::launch::Launcher;
use crate::node::Node;
use crate::places::{Places, Room};
use client::Dialer;
use client::follow::OpenError;
use identity::{Identity, Live, LoadError, Name, Role};
use proto::signal::NodeReport;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use types::NodeKey;

/// Why an agent did not start, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the identity in {}; join this node again or mend `identity`", dir.display())]
    Identity { dir: PathBuf, source: LoadError },
    #[error("the identity in {} is {found}, but this is node {expected}; mend `identity`, `region` or `node`", dir.display())]
    OtherIdentity { dir: PathBuf, found: Box<Name>, expected: String },
    #[error("cannot make the directory {} for the engines' logs; make it writable or mend `logs`", dir.display())]
    Logs { dir: PathBuf, source: io::Error },
    #[error("cannot keep the intent in {}; make it writable or mend `data`", dir.display())]
    Intent { dir: PathBuf, source: OpenError },
    #[error("cannot listen on {address}; stop what runs there or mend `{field}`")]
    Listen { field: &'static str, address: SocketAddr, source: io::Error },
}

/// Runs an agent until `shutdown`, then drains it. Returns when its engines have ended.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), StartError> {
    let identity = Live::new(load_identity(&config)?);
    std::fs::create_dir_all(&config.logs)
        .map_err(|source| StartError::Logs { dir: config.logs.clone(), source })?;
    let node = Node::new(config.region.clone(), config.node.clone(), config.queue_max);
    // Before anything on disk is touched: where another agent runs with this configuration, this one ends here.
    let listen = |field, address| move |source| StartError::Listen { field, address, source };
    let ingress = Ingress::bind(config.ingress, &identity, node.clone())
        .await
        .map_err(listen("ingress", config.ingress))?;
    let admin = TcpListener::bind(config.admin).await.map_err(listen("admin", config.admin))?;
    let (intent, follower) = intent::open(&config, &identity.current().name().cluster)
        .map_err(|source| StartError::Intent { dir: config.data.clone(), source })?;
    info!(region = %config.region, zone = %config.zone, node = %config.node, ingress = %config.ingress, "agent started");

    let launcher = Launcher { program: config.program.clone(), logs: config.logs.clone() };
    let places = Places::new(Room {
        node: node.clone(),
        launcher,
        first: config.engines_first,
        places: config.places,
        patience: config.drain,
    });
    let board = places.board();
    let drain = CancellationToken::new();
    let places = tokio::spawn(places.run(intent.wanted.clone(), drain.clone()));

    let close = CancellationToken::new();
    let ties = TaskTracker::new();
    let (members, dialer) =
        (&config.control_plane, Dialer::new(identity.clone()).through(config.dial_map.clone()));
    ties.spawn(follower.run(dialer.clone(), members.clone(), close.clone()));
    let report = report_of(config.node_key(), node.clone());
    ties.spawn(client::signal::report(dialer.clone(), members.clone(), report, close.clone()));
    let dir = config.identity.clone();
    ties.spawn(client::renew::keep_renewed(identity.clone(), dir, dialer, members.clone(), close.clone()));
    ties.close();

    let doors = TaskTracker::new();
    doors.spawn(ingress.serve(close.clone()));
    let members = members.iter().map(|member| member.address).collect();
    let pages = Pages { node: node.clone(), board, intent, identity, members };
    doors.spawn(serve_admin(admin, pages, close.clone()));
    doors.close();

    shutdown.cancelled().await;
    end(&config, &node, places, &drain).await;
    close.cancel();
    // An edge that keeps its connection open without requests must not keep us, and neither must a member.
    let closed = async { tokio::join!(doors.wait(), ties.wait()) };
    if tokio::time::timeout(CLOSE_MAX, closed).await.is_err() {
        warn!("connections did not close in time");
    }
    info!("agent ended");
    Ok(())
}

/// The identity that the configuration points to, if it is this node's.
pub fn load_identity(config: &Config) -> Result<Identity, StartError> {
    let dir = || config.identity.clone();
    let identity =
        Identity::load(&config.identity).map_err(|source| StartError::Identity { dir: dir(), source })?;
    let name = identity.name();
    if name.role == Role::RegionAgent && name.region == config.region && name.name == config.node {
        return Ok(identity);
    }
    let expected = format!("{} of region {}", config.node, config.region);
    Err(StartError::OtherIdentity { dir: dir(), found: Box::new(name.clone()), expected })
}

/// Refuses new work, lets running requests finish, ends the engines.
async fn end(config: &Config, node: &Arc<Node>, places: JoinHandle<()>, drain: &CancellationToken) {
    info!(seconds = config.drain.as_secs(), in_flight = node.in_flight.len(), "agent drains");
    let until = Instant::now() + config.drain;
    node.slots.drain();
    node.in_flight.close();
    drain.cancel();
    if let Err(error) = places.await {
        error!(%error, "the places broke off");
    }
    // What engines have said may still be on its way to a slow edge.
    if tokio::time::timeout_at(until, node.in_flight.wait()).await.is_err() {
        warn!(in_flight = node.in_flight.len(), "answers did not leave in time");
    }
}

/// What edges hear from the members is what they hear from the node itself.
fn report_of(key: NodeKey, node: Arc<Node>) -> impl Fn() -> NodeReport + Send {
    move || NodeReport { node: key.clone(), loads: node.loads(), age: Duration::ZERO }
}

async fn serve_admin(listener: TcpListener, pages: Pages, close: CancellationToken) {
    let served = axum::serve(listener, pages.router()).with_graceful_shutdown(close.cancelled_owned()).await;
    if let Err(error) = served {
        error!(%error, "admin pages ended");
    }
}

/// For goodbyes on connections that carry nothing any more.
const CLOSE_MAX: Duration = Duration::from_secs(2);
