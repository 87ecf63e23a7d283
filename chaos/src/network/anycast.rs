//! Addresses that lead to the nearest edge that is ready, as routers of a real network choose it.

use crate::network::connect::{Route, connect};
use crate::network::links::Links;
use crate::network::plan::Anycast;
use crate::network::readiness::Readiness;
use ppp::v2::{Builder, Command, Protocol, Version};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tracing::error;

/// The ways from the clients to all edges for one address, nearest first.
pub(super) struct Sites {
    listen: SocketAddr,
    routes: Vec<Route>,
    /// Of the edges that the routes lead to.
    readiness: Vec<Readiness>,
}

impl Sites {
    /// `number` is that of the address. An edge of a region that the plan does not list cannot be reached.
    pub(super) fn new(links: &Links, anycast: &Anycast, number: usize, readiness: &[Readiness]) -> Self {
        let mut sites: Vec<(Route, Readiness)> = anycast
            .edges
            .iter()
            .zip(readiness)
            .filter_map(|(edge, readiness)| {
                let (there, back) = links.between(&anycast.clients_in, &edge.region)?;
                let target = *edge.targets.get(number)?;
                Some((Route { there, back, source: anycast.source, target }, readiness.clone()))
            })
            .collect();
        sites.sort_by_key(|(route, _)| links.distance(route.there));
        let (routes, readiness) = sites.into_iter().unzip();
        Self { listen: anycast.listen[number], routes, readiness }
    }

    /// Carries one client's connection.
    pub(super) async fn carry(self: Arc<Self>, links: Arc<Links>, client: TcpStream, address: SocketAddr) {
        let Ok(header) =
            Builder::with_addresses(Version::Two | Command::Proxy, Protocol::Stream, (address, self.listen))
                .build()
        else {
            return error!(%address, "the edges cannot be told of a client");
        };
        let leads = |route: &Route| {
            let mut sites = self.routes.iter().zip(&self.readiness);
            let is_ready = sites.any(|(site, edge)| site.target == route.target && edge.is_ready());
            is_ready && !links.is_cut(route.there) && !links.is_cut(route.back)
        };
        connect(&links, client, &self.routes, leads, &header).await;
    }
}
