//! One agent from start to end: opens its doors, fills its places, and on the way out lets requests finish.

use crate::admin::Pages;
use crate::config::Config;
use crate::ingress::Ingress;
use crate::launch::Launcher;
use crate::node::Node;
use crate::supervise::{Orders, Status, Supervisor};
use identity::{Identity, LoadError, Name, Role};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

/// Why an agent did not start, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the identity in {}; join this node again or mend `identity`", dir.display())]
    Identity { dir: PathBuf, source: LoadError },
    #[error("the identity in {} is {found}, but this is node {expected}; mend `identity`, `region` or `node`", dir.display())]
    OtherIdentity { dir: PathBuf, found: Box<Name>, expected: String },
    #[error("cannot make the directory {} for the engines' logs; make it writable or mend `logs`", dir.display())]
    Logs { dir: PathBuf, source: io::Error },
    #[error("cannot listen on {address}; stop what runs there or mend `{field}`")]
    Listen { field: &'static str, address: SocketAddr, source: io::Error },
}

/// Runs an agent until `shutdown`, then drains it. Returns when its engines have ended.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), StartError> {
    let identity = load_identity(&config)?;
    std::fs::create_dir_all(&config.logs)
        .map_err(|source| StartError::Logs { dir: config.logs.clone(), source })?;
    let versions = config.places.iter().map(|place| place.version);
    let node = Node::new(config.region.clone(), config.node.clone(), versions, config.queue_max);
    let listen = |field, address| move |source| StartError::Listen { field, address, source };
    let ingress = Ingress::bind(config.ingress, &identity, node.clone())
        .await
        .map_err(listen("ingress", config.ingress))?;
    let admin = TcpListener::bind(config.admin).await.map_err(listen("admin", config.admin))?;
    info!(region = %config.region, zone = %config.zone, node = %config.node, ingress = %config.ingress, "agent started");

    let orders = Orders::new();
    let supervisors = TaskTracker::new();
    let launcher = Launcher { program: config.program.clone(), logs: config.logs.clone() };
    let mut statuses = Vec::new();
    for place in &config.places {
        let (status, watched) = watch::channel(Status::empty(place.clone()));
        statuses.push(watched);
        let supervisor =
            Supervisor { node: node.clone(), launcher: launcher.clone(), place: place.clone(), status };
        supervisors.spawn(supervisor.run(orders.clone()));
    }
    supervisors.close();

    let doors = TaskTracker::new();
    let close = CancellationToken::new();
    doors.spawn(ingress.serve(close.clone()));
    let pages = Pages { node: node.clone(), statuses: statuses.into() };
    doors.spawn(serve_admin(admin, pages, close.clone()));
    doors.close();

    shutdown.cancelled().await;
    drain(&config, &node, &orders).await;
    supervisors.wait().await;
    close.cancel();
    // An edge that keeps its connection open without requests must not keep us.
    if tokio::time::timeout(CLOSE_MAX, doors.wait()).await.is_err() {
        warn!("connections from edges did not close in time");
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
async fn drain(config: &Config, node: &Arc<Node>, orders: &Orders) {
    info!(seconds = config.drain.as_secs(), in_flight = node.in_flight.len(), "agent drains");
    node.slots.drain();
    orders.drain();
    node.in_flight.close();
    if tokio::time::timeout(config.drain, node.in_flight.wait()).await.is_err() {
        warn!(in_flight = node.in_flight.len(), "requests did not finish in time");
    }
    orders.stop();
}

async fn serve_admin(listener: TcpListener, pages: Pages, close: CancellationToken) {
    let served = axum::serve(listener, pages.router()).with_graceful_shutdown(close.cancelled_owned()).await;
    if let Err(error) = served {
        error!(%error, "admin pages ended");
    }
}

/// For goodbyes on connections that carry nothing any more.
const CLOSE_MAX: std::time::Duration = std::time::Duration::from_secs(2);
