//! What this edge lives from: two pictures of intent, each from disk at start, then live from the control plane.
//!
//! They are two, so that a new key waits for no routing table, and a routing table that is refused keeps no revoked
//! key alive.

use crate::Edge;
use crate::config::Config;
use crate::routing_table;
use client::follow::OpenError;
use client::{Changed, Dialer, Follower, Interest, MemberAddress, Picture, Standing};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use types::intent::Kind;

/// Both followers, before they go live.
pub(crate) struct Followers {
    routing: Follower<Consumer>,
    tenants: Follower<Consumer>,
}

type Consumer = Box<dyn FnMut(&Picture, Changed<'_>) -> Result<(), String> + Send>;

/// Where both followers stand, by the interest's name.
pub(crate) type Standings = [(&'static str, watch::Receiver<Standing>); 2];

/// Why the last picture of each interest was refused, until one is taken.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<BTreeMap<&'static str, String>>);

/// Takes over the last good pictures on disk, where there are any.
pub(crate) fn open(edge: &Arc<Edge>, config: &Config, cluster: &str) -> Result<Followers, OpenError> {
    let interest = |name, kinds: &[Kind]| Interest {
        name,
        cluster: cluster.to_owned(),
        kinds: kinds.to_vec(),
        // An edge must see the nodes of the whole world.
        region: None,
        keep: config.data.join(name),
    };
    let routing = consumer(edge, ROUTING, |edge, picture, _| {
        let table = routing_table::of(picture.resources().map(AsRef::as_ref), &edge.region)?;
        edge.follow(table);
        Ok(())
    });
    let tenants = consumer(edge, TENANTS, |edge, picture, changed| edge.tenants.take(picture, changed));
    Ok(Followers {
        routing: Follower::open(interest(ROUTING, &routing_table::KINDS), routing)?,
        tenants: Follower::open(interest(TENANTS, &[Kind::Policy, Kind::Tenant, Kind::Key]), tenants)?,
    })
}

impl Followers {
    pub(crate) fn standings(&self) -> Standings {
        [(ROUTING, self.routing.standing()), (TENANTS, self.tenants.standing())]
    }

    /// Follows the control plane until `stop`, whatever becomes of it.
    pub(crate) fn go_live(
        self,
        dialer: &Dialer,
        members: &[MemberAddress],
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) {
        for follower in [self.routing, self.tenants] {
            tasks.spawn(follower.run(dialer.clone(), members.to_vec(), stop.clone()));
        }
    }
}

impl Refusals {
    fn all(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

/// What this edge cannot serve without and does not have, one line each.
pub(crate) fn waits_for(edge: &Edge) -> Vec<String> {
    let refused = edge.refusals.all();
    let tables = [
        (ROUTING, "routing table", edge.routing_table.load().is_some()),
        (TENANTS, "tenant table", edge.tenants.is_there()),
    ];
    let missing = tables.into_iter().filter(|(_, _, is_there)| !is_there);
    missing
        .map(|(name, table, _)| match refused.get(name) {
            Some(problem) => format!("waits for a {table}: the one that came was refused: {problem}"),
            None => format!("waits for a {table}: none on disk, and none has come from the control plane"),
        })
        .collect()
}

fn consumer(
    edge: &Arc<Edge>,
    name: &'static str,
    take: fn(&Edge, &Picture, Changed<'_>) -> Result<(), Vec<String>>,
) -> Consumer {
    let edge = edge.clone();
    Box::new(move |picture, changed| {
        let taken = take(&edge, picture, changed).map_err(|problems| tell(&problems));
        let mut refused = edge.refusals.all();
        match &taken {
            Ok(()) => drop(refused.remove(name)),
            Err(problem) => {
                edge.metrics.pictures_refused.with_label_values(&[name]).inc();
                refused.insert(name, problem.clone());
            }
        }
        taken
    })
}

/// A broken picture may be wrong in every line; an operator mends it by the first few.
fn tell(problems: &[String]) -> String {
    let told = problems.iter().take(PROBLEMS_TOLD_MAX).map(String::as_str).collect::<Vec<_>>().join("; ");
    match problems.len().saturating_sub(PROBLEMS_TOLD_MAX) {
        0 => told,
        more => format!("{told}; and {more} more"),
    }
}

const ROUTING: &str = "routing";
const TENANTS: &str = "tenants";
const PROBLEMS_TOLD_MAX: usize = 8;
