//! One member of the control plane: keeps what operators want with the other members, and publishes it.
//!
//! In reading order, the way in: [`config`] what is written and what can be run · [`door`] who may come in ·
//! [`authorise`] who may call what. What can be called: [`api`] reads and writes of intent · [`watch`] intent for those
//! who live from it, as [`interest`] filters, [`publish`] merges and [`parts`] cuts it · [`signal`] what is measured
//! now · [`renew`] certificates. Beside it: [`lead`] what the leader does by itself · [`admin`] and [`metrics`] what
//! operators see. The log under it is the package `raft`.
//!
//! **Invariant:** nothing on a request's way waits for this process.

mod admin;
mod api;
mod authorise;
pub mod config;
mod door;
mod interest;
mod lead;
mod metrics;
mod parts;
mod publish;
mod renew;
mod signal;
mod watch;

pub use config::{BadConfig, Config, File, MemberEntry};
pub use raft::create;

use admin::Pages;
use api::Api;
use client::Dialer;
use client::renew::{Signer, keep_renewed_by};
use door::Door;
use identity::{Authority, AuthorityError, Identity, Live, LoadError, Name, Role};
use metrics::Metrics;
use raft::Raft;
use renew::Renew;
use signal::Signal;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tracing::{error, info, warn};
use watch::Watch;

/// Why a member cannot start, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the identity in {}; mend `identity`", dir.display())]
    Identity { dir: PathBuf, source: LoadError },
    #[error("the identity in {} is {found}, but this is {expected}; mend `identity`, `region` or `name`", dir.display())]
    OtherIdentity { dir: PathBuf, found: Box<Name>, expected: String },
    #[error(
        "members list this one as {listed}, but its certificate is valid for {certificate}; mend `members`"
    )]
    OtherServerName { listed: String, certificate: String },
    #[error("cannot use the authority in {}; mend `authority`", dir.display())]
    Authority { dir: PathBuf, source: AuthorityError },
}

/// Why a member that could start does not run, or runs no more.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot listen on {address}; stop what runs there or mend `{field}`")]
    Listen { field: &'static str, address: SocketAddr, source: io::Error },
    #[error("cannot start this voter")]
    Raft(#[from] raft::StartError),
    #[error("this voter cannot go on: {0}")]
    Failed(String),
}

/// Everything that is read before the first socket is opened.
pub struct Prepared {
    config: Config,
    identity: Identity,
    authority: Option<Arc<Authority>>,
}

/// Reads and checks all that the configuration points to, and names everything that is wrong with it.
pub fn prepare(config: Config) -> Result<Prepared, Vec<StartError>> {
    let identity = load_identity(&config);
    let authority = config.authority.clone().map(|dir| {
        // The configuration has seen that it is there; none is made here.
        let authority = Authority::open(&dir, config.name.as_str(), OffsetDateTime::now_utc());
        authority.map(Arc::new).map_err(|source| StartError::Authority { dir, source })
    });
    match (identity, authority.transpose()) {
        (Ok(identity), Ok(authority)) => Ok(Prepared { config, identity, authority }),
        (identity, authority) => Err([identity.err(), authority.err()].into_iter().flatten().collect()),
    }
}

fn load_identity(config: &Config) -> Result<Identity, StartError> {
    let dir = config.identity.clone();
    let identity = match Identity::load(&dir) {
        Ok(identity) => identity,
        Err(source) => return Err(StartError::Identity { dir, source }),
    };
    let name = identity.name();
    if name.role != Role::ControlPlane || name.region != config.region || name.name != config.name {
        let expected = format!("member {} in {}", config.name, config.region);
        return Err(StartError::OtherIdentity { dir, found: Box::new(name.clone()), expected });
    }
    let own = config.members.iter().find(|member| member.id == config.id);
    let listed = own.map(|member| member.server_name.clone()).unwrap_or_default();
    let certificate = name.host_name();
    if listed == certificate {
        Ok(identity)
    } else {
        Err(StartError::OtherServerName { listed, certificate })
    }
}

/// Runs a member until `shutdown`, or until its voter can go on no more.
pub async fn run(prepared: Prepared, shutdown: CancellationToken) -> Result<(), RunError> {
    let Prepared { config, identity, authority } = prepared;
    let listen = |field, address| move |source| RunError::Listen { field, address, source };
    let listener = TcpListener::bind(config.listen).await.map_err(listen("listen", config.listen))?;
    let pages = TcpListener::bind(config.admin).await.map_err(listen("admin", config.admin))?;

    let cluster = identity.name().cluster.clone();
    let identity = Live::new(identity);
    let dialer = Dialer::new(identity.clone()).through(config.dial_map.clone());
    let raft = Raft::start(raft::Options {
        cluster: cluster.clone(),
        id: config.id,
        members: config.members.clone(),
        data: config.data.clone(),
        snapshot_every: config.snapshot_every,
        dialer: dialer.clone(),
    })
    .await?;
    let metrics = Arc::new(Metrics::new());
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());

    let signal = Signal::new(metrics.clone(), stop.clone());
    let watch = Watch::new(raft.clone(), cluster.clone(), metrics.clone(), tasks.clone(), stop.clone());
    let api = Api { raft: raft.clone(), cluster, id: config.id, metrics: metrics.clone() };
    let routes = Routes::new(raft.service().max_decoding_message_size(RAFT_BYTES_MAX))
        .add_service(api.service())
        .add_service(watch.service())
        .add_service(signal.service())
        .add_service(Renew::new(authority.clone(), config.certificate_life).service())
        .prepare();
    tasks.spawn(Door::new(identity.clone(), routes, metrics.clone()).serve(listener, stop.clone()));
    let pages_of = Pages { raft: raft.clone(), identity: identity.clone(), metrics };
    tasks.spawn(serve_pages(pages, pages_of, stop.clone()));
    for member in config.others() {
        tasks.spawn(signal::listen_to(config::address(member), dialer.clone(), signal.clone()));
    }
    tasks.spawn(signal.draw());
    tasks.spawn(lead::lead(raft.clone(), stop.clone()));
    let signer = match authority {
        Some(authority) => Signer::Own { authority, life: config.certificate_life },
        None => Signer::Members { dialer, members: config.others().map(config::address).collect() },
    };
    tasks.spawn(keep_renewed_by(signer, identity, config.identity.clone(), stop.clone()));
    info!(region = %config.region, name = %config.name, id = config.id, listen = %config.listen, "control plane serves");

    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        why = raft.failed() => Err(RunError::Failed(why)),
    };
    if ended.is_ok() {
        info!("control plane stops");
        // While the other members can still reach this one.
        if tokio::time::timeout(STOP_MAX, raft.stop()).await.is_err() {
            warn!("leadership was not handed over in time");
        }
    }
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(CLOSE_MAX, tasks.wait()).await.is_err() {
        warn!("connections did not close in time");
    }
    ended
}

async fn serve_pages(listener: TcpListener, pages: Pages, stop: CancellationToken) {
    let served = axum::serve(listener, pages.router()).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        error!(error = &error as &dyn std::error::Error, "admin pages ended");
    }
}

/// A batch of the log, or a part of a snapshot.
const RAFT_BYTES_MAX: usize = 64 * 1024 * 1024;
const STOP_MAX: Duration = Duration::from_secs(5);
/// For goodbyes on connections that carry nothing any more.
const CLOSE_MAX: Duration = Duration::from_secs(2);
