//! A wide-area network on one host: regions that reach each other through links with distances and faults.
//!
//! A region dials another at an address that this network listens on, and the network carries the bytes on. It
//! needs no rights: no namespaces, no packet filters, only the loopback.
//!
//! In reading order: [`distance`] how far regions are apart · [`faults`] what a link can do to bytes · [`plan`] which
//! links there are · `link` when bytes arrive, as arithmetic · `links` all of them · `listen` takes connections ·
//! `connect` opens them over links, `early` keeping what their clients send meanwhile · `carry` carries their bytes,
//! by `socket` and `alarm` · `anycast` leads clients to the nearest edge by its `readiness` · [`report`] what was
//! carried.

mod alarm;
mod anycast;
mod carry;
mod connect;
pub mod distance;
mod early;
pub mod faults;
mod link;
mod links;
mod listen;
pub mod plan;
mod readiness;
pub mod report;
mod socket;

pub use faults::Faults;
pub use plan::{Anycast, AnycastEdge, Forward, Plan};
pub use report::LinkReport;

use crate::network::anycast::Sites;
use crate::network::connect::{Route, connect};
use crate::network::links::Links;
use crate::network::listen::{Places, accept, bind};
use crate::network::readiness::Readiness;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;
use types::RegionName;

/// A running network. It has a thread of its own, so that nothing else that this process does delays a byte; it ends
/// when the last handle is dropped.
#[derive(Clone)]
pub struct Network {
    links: Arc<Links>,
    _thread: Arc<Thread>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the network cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the network's thread cannot be started")]
    Thread(#[source] io::Error),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no link from {from} to {to}")]
pub struct NoSuchLink {
    pub from: RegionName,
    pub to: RegionName,
}

impl Network {
    /// Listens on every address of the plan; when this returns, all of them can be dialled. `seed` decides which
    /// segments are lost.
    pub fn start(plan: Plan, seed: u64) -> Result<Self, StartError> {
        let listen = |address| bind(address).map_err(|source| StartError::Listen { address, source });
        let forwards: Vec<std::net::TcpListener> =
            plan.forwards.iter().map(|forward| listen(forward.listen)).collect::<Result<_, _>>()?;
        let addresses = plan.anycast.iter().flat_map(|anycast| &anycast.listen);
        let anycast = addresses.map(|address| listen(*address)).collect::<Result<_, _>>()?;
        let links = Links::new(&plan, seed).map_err(StartError::Thread)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let stop = CancellationToken::new();
        let (theirs, told) = (Arc::clone(&links), stop.clone());
        let run = move || {
            runtime.block_on(async {
                let carried = serve(theirs, plan, forwards, anycast);
                if let Some(Err(error)) = told.run_until_cancelled(carried).await {
                    error!(%error, "the network cannot run");
                }
            });
        };
        let thread =
            std::thread::Builder::new().name(THREAD.to_owned()).spawn(run).map_err(StartError::Thread)?;
        Ok(Self { links, _thread: Arc::new(Thread { stop, thread: Some(thread) }) })
    }

    /// Gives directions of links other faults, at once and also for connections that are open. If one of them does
    /// not exist, none is changed.
    pub fn set(&self, links: &[(RegionName, RegionName)], faults: Faults) -> Result<(), NoSuchLink> {
        let found = links.iter().map(|(from, to)| {
            let link = (from != to).then(|| self.links.between(from, to)).flatten();
            link.map(|(there, _)| there).ok_or_else(|| NoSuchLink { from: from.clone(), to: to.clone() })
        });
        for link in found.collect::<Result<Vec<_>, _>>()? {
            self.links.set(link, faults);
        }
        Ok(())
    }

    /// Every direction of every link, in the order of the plan's regions.
    pub fn report(&self) -> Vec<LinkReport> {
        self.links.report()
    }
}

/// Everything that runs on the thread; it ends with the runtime.
async fn serve(
    links: Arc<Links>,
    plan: Plan,
    forwards: Vec<std::net::TcpListener>,
    anycast: Vec<std::net::TcpListener>,
) -> io::Result<()> {
    // Idle clients must not shut out what the regions say to each other.
    let (forward_places, anycast_places) = (Places::new(), Places::new());
    let timer = links.alarms.file()?;
    for (listener, forward) in forwards.into_iter().zip(&plan.forwards) {
        let Some((there, back)) = links.between(&forward.from, &forward.to) else { continue };
        let route = Route { there, back, source: forward.source, target: forward.target };
        let links = Arc::clone(&links);
        let carry = move |client, _| {
            let links = Arc::clone(&links);
            async move { connect(&links, client, &[route], |_| true, &[]).await }
        };
        tokio::spawn(accept(TcpListener::from_std(listener)?, forward_places.clone(), carry));
    }
    if let Some(plan) = &plan.anycast {
        let readiness: Vec<Readiness> = plan.edges.iter().map(|_| Readiness::default()).collect();
        for (edge, readiness) in plan.edges.iter().zip(&readiness) {
            tokio::spawn(readiness.clone().follow(edge.admin));
        }
        for (number, listener) in anycast.into_iter().enumerate() {
            let sites = Arc::new(Sites::new(&links, plan, number, &readiness));
            let links = Arc::clone(&links);
            let carry = move |client, address| Arc::clone(&sites).carry(Arc::clone(&links), client, address);
            tokio::spawn(accept(TcpListener::from_std(listener)?, anycast_places.clone(), carry));
        }
    }
    links.alarms.run(timer).await;
    Ok(())
}

/// Ends with the last handle, together with the listeners and the connections.
struct Thread {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            error!("the network's thread has panicked");
        }
    }
}

/// At most 15 characters, for the kernel.
const THREAD: &str = "network";
