//! Opens connections over links: the handshake crosses them before anything else does.

use crate::network::carry::Connection;
use crate::network::early::Early;
use crate::network::link::Segment;
use crate::network::links::{LinkId, Links, Way};
use crate::network::socket::{Closes, dial};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tracing::debug;

/// Where a connection may lead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    pub(super) there: LinkId,
    pub(super) back: LinkId,
    pub(super) source: IpAddr,
    pub(super) target: SocketAddr,
}

/// Carries a client's connection from its accept to its end, over the first route that leads to somebody. The
/// target gets `header` first, and not over the link: a balancer stands beside its edge.
pub(super) async fn connect(
    links: &Arc<Links>,
    client: TcpStream,
    routes: &[Route],
    leads: impl Fn(&Route) -> bool,
    header: &[u8],
) {
    if let Err(error) = client.set_nodelay(true) {
        debug!(%error, "a client left at once");
        return;
    }
    Closes::WithReset.set(&client);
    let client = Arc::new(client);
    let mut early = Early::new();
    let opened = tokio::select! {
        opened = open(links, routes, leads, header) => opened,
        () = poll_fn(|context| early.poll(context, &client)) => None,
    };
    if let Some((target, ways)) = opened {
        Connection::new((client, target), ways, early, links.alarm()).await;
    }
}

/// None = nobody takes the connection, and word of that has come back.
async fn open(
    links: &Arc<Links>,
    routes: &[Route],
    leads: impl Fn(&Route) -> bool,
    header: &[u8],
) -> Option<(TcpStream, (Way, Way))> {
    // Looks are counted, not timed: a host that holds up this process lets everybody look lost for a moment.
    for _ in 0..LOOKS_MAX {
        match try_all(links, routes, &leads, header).await {
            Tried::Open(opened) => return Some(opened),
            Tried::Refused => return None,
            Tried::Nobody => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
    None
}

enum Tried {
    Open((TcpStream, (Way, Way))),
    Refused,
    /// There is nobody to try, or whoever was tried has been lost.
    Nobody,
}

async fn try_all(
    links: &Arc<Links>,
    routes: &[Route],
    leads: impl Fn(&Route) -> bool,
    header: &[u8],
) -> Tried {
    let mut is_refused = false;
    for route in routes {
        // Looked at only now: what is farther matters when what is nearer has refused.
        if !leads(route) {
            continue;
        }
        let (there, back) = (links.open(route.there, true), links.open(route.back, false));
        let attempt = async {
            there.cross(Segment::Syn).await;
            let dialled = async {
                let mut target = dial(route.source, route.target).await?;
                target.write_all(header).await?;
                io::Result::Ok(target)
            };
            match tokio::time::timeout(DIAL_MAX, dialled).await {
                Ok(Ok(target)) => {
                    // Its arrival opens the connection for the client's bytes; the target may speak before that.
                    back.enter(Segment::Syn);
                    return Some(target);
                }
                Ok(Err(error)) => debug!(target = %route.target, %error, "a target refuses a connection"),
                Err(_) => debug!(target = %route.target, "a target does not answer"),
            }
            back.cross(Segment::Reset).await;
            None
        };
        let lost = async {
            while leads(route) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            target = attempt => match target {
                Some(target) => return Tried::Open((target, (there, back))),
                None => is_refused = true,
            },
            () = lost => {}
        }
    }
    if is_refused { Tried::Refused } else { Tried::Nobody }
}

/// On one host only a process that has been stopped, with a full backlog, takes longer.
const DIAL_MAX: Duration = Duration::from_secs(10);
/// How long a connection that is being opened may go on towards somebody who has just been lost.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// For about a second: longer than it takes to ask every edge anew.
const LOOKS_MAX: u32 = 10;
