//! `rhumb config`: prints the configuration of a role for a production host.
//!
//! There are flags for what differs from host to host. The rest is printed with its default, to be changed in the
//! file, where its comment is.

use super::annotated::{self, Field};
use super::voter::{self, TypedMember, Voter};
use super::{Site, control_plane, edge, region_agent};
use crate::failure::WrongUsage;
use crate::stdout;
use clap::{Args, Subcommand};
use identity::authority::CERTIFICATE_LIFE;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use types::{DialMap, NodeName, RegionName, ZoneName};

/// A role whose configuration is printed.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Print the configuration of an edge
    Edge(Edge),
    /// Print the configuration of a region agent
    RegionAgent(RegionAgent),
    /// Print the configuration of a member of the control plane
    ControlPlane(ControlPlane),
}

#[derive(Debug, Args)]
struct Cluster {
    /// Where this role stands
    #[arg(long, value_name = "NAME")]
    region: RegionName,
    /// A member of the control plane; once for each of them. All roles take the same list, and only members need
    /// its ids, which are never used again
    #[arg(long = "member", value_name = "[ID:]REGION/NAME=IP:PORT", required = true)]
    members: Vec<TypedMember>,
    /// Dial an address elsewhere, as behind address translation; once for each
    #[arg(long = "dial", value_name = "IP=IP")]
    dials: Vec<Dial>,
}

#[derive(Debug, Args)]
pub struct Edge {
    #[command(flatten)]
    cluster: Cluster,
    /// What this edge is called, unique in its region
    #[arg(long, value_name = "NAME")]
    name: NodeName,
    /// HTTPS for clients
    #[arg(long, value_name = "ADDR", default_value = "[::]:8443")]
    tls_listen: SocketAddr,
    /// Serve no HTTPS, because something in front of the edge ends TLS
    #[arg(long, requires = "listen", conflicts_with_all = ["tls_listen", "public"])]
    without_tls: bool,
    /// Plain HTTP for clients [default: none]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Health and metrics
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9101")]
    admin: SocketAddr,
    /// A load balancer that says with PROXY protocol version 2 who the client is; once for each
    #[arg(long, value_name = "IP")]
    proxy_v2_from: Vec<IpAddr>,
    /// A Unix socket over which the next edge on this host takes over, for upgrades that no client notices
    #[arg(long, value_name = "FILE")]
    handover: Option<PathBuf>,
    /// The admin address of another edge, which is asked for requests that this one knows nothing of; once for each
    #[arg(long = "other-edge", value_name = "ADDR")]
    other_edges: Vec<SocketAddr>,
    /// Who this edge is to agents and to the control plane
    #[arg(long, value_name = "DIR", default_value = "/etc/rhumb/edge/identity")]
    identity: PathBuf,
    /// The certificate that clients see
    #[arg(long, value_name = "DIR", default_value = "/etc/rhumb/edge/public")]
    public: PathBuf,
    /// What the edge keeps
    #[arg(long, value_name = "DIR", default_value = "/var/lib/rhumb/edge")]
    data: PathBuf,
}

#[derive(Debug, Args)]
pub struct RegionAgent {
    #[command(flatten)]
    cluster: Cluster,
    /// The part of the region that fails together with this node
    #[arg(long, value_name = "NAME")]
    zone: ZoneName,
    /// What this node is called, unique in its region
    #[arg(long, value_name = "NAME")]
    node: NodeName,
    /// Where edges connect
    #[arg(long, value_name = "ADDR", default_value = "[::]:7443")]
    ingress: SocketAddr,
    /// Health, metrics and replicas
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9102")]
    admin: SocketAddr,
    /// The first engine; the next ones take the ports after it
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7500")]
    engines_listen: SocketAddr,
    /// Who this agent is to edges and to the control plane
    #[arg(long, value_name = "DIR", default_value = "/etc/rhumb/region-agent/identity")]
    identity: PathBuf,
    /// What the agent keeps
    #[arg(long, value_name = "DIR", default_value = "/var/lib/rhumb/region-agent")]
    data: PathBuf,
    /// What engines write
    #[arg(long, value_name = "DIR", default_value = "/var/log/rhumb")]
    logs: PathBuf,
}

#[derive(Debug, Args)]
pub struct ControlPlane {
    #[command(flatten)]
    cluster: Cluster,
    /// What this member is called; with its region one of those given with --member
    #[arg(long, value_name = "NAME")]
    name: NodeName,
    /// For members, edges, agents and operators [default: every address, at the port of this member]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Health and metrics
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9103")]
    admin: SocketAddr,
    /// Who this member is
    #[arg(long, value_name = "DIR", default_value = "/etc/rhumb/control-plane/identity")]
    identity: PathBuf,
    /// Its log and state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/rhumb/control-plane")]
    data: PathBuf,
    /// The cluster's authority, with which this member renews certificates
    #[arg(long, value_name = "DIR", default_value = "/etc/rhumb/control-plane/authority")]
    authority: PathBuf,
    /// Leave the renewal of certificates to other members
    #[arg(long, conflicts_with = "authority")]
    without_authority: bool,
}

/// `KNOWN=DIALLED`.
#[derive(Debug, Clone, Copy)]
struct Dial {
    known: IpAddr,
    dialled: IpAddr,
}

#[derive(Debug, thiserror::Error)]
#[error("must be two IP addresses, such as 10.0.0.4=192.168.0.4: the known one, and the one that is dialled")]
struct BadDial;

impl FromStr for Dial {
    type Err = BadDial;

    fn from_str(text: &str) -> Result<Self, BadDial> {
        let (known, dialled) = text.split_once('=').ok_or(BadDial)?;
        let ip = |text: &str| text.parse().map_err(|_| BadDial);
        Ok(Self { known: ip(known)?, dialled: ip(dialled)? })
    }
}

impl Config {
    pub fn run(self) -> anyhow::Result<()> {
        stdout::print(&self.text()?)?;
        Ok(())
    }

    fn text(self) -> anyhow::Result<String> {
        match self {
            Self::Edge(edge) => edge.text(),
            Self::RegionAgent(agent) => agent.text(),
            Self::ControlPlane(member) => member.text(),
        }
    }
}

impl Edge {
    fn text(self) -> anyhow::Result<String> {
        self.cluster.check()?;
        let (voters, whose) = (self.cluster.nearest_first(), self.cluster.whose(&self.name));
        let https = edge::Https { listen: self.tls_listen, certificate: self.public };
        let file = edge::Edge {
            site: self.cluster.site(self.admin, self.identity, self.data),
            name: self.name,
            plain: self.listen,
            https: (!self.without_tls).then_some(https),
            voters,
            notice_seconds: ::edge::config::NOTICE_SECONDS,
            drain_seconds: DRAIN_SECONDS,
            proxy_v2_from: self.proxy_v2_from,
            handover: self.handover,
            other_edges: self.other_edges,
        }
        .file();
        usable(edge::refused(file.clone()))?;
        print(&whose, "edge", &file, edge::FIELDS)
    }
}

impl RegionAgent {
    fn text(self) -> anyhow::Result<String> {
        self.cluster.check()?;
        let (voters, whose) = (self.cluster.nearest_first(), self.cluster.whose(&self.node));
        let file = region_agent::RegionAgent {
            site: self.cluster.site(self.admin, self.identity, self.data),
            zone: self.zone,
            node: self.node,
            ingress: self.ingress,
            engines: self.engines_listen,
            logs: self.logs,
            voters,
            drain_seconds: DRAIN_SECONDS,
            program: None,
        }
        .file();
        usable(region_agent::refused(file.clone()))?;
        print(&whose, "region-agent", &file, region_agent::FIELDS)
    }
}

impl ControlPlane {
    fn text(self) -> anyhow::Result<String> {
        self.cluster.check()?;
        let voters = self.cluster.with_ids()?;
        let whose = self.cluster.whose(&self.name);
        let is_own = |voter: &Voter| voter.region == self.cluster.region && voter.name == self.name;
        let Some((id, own)) = voters.iter().find(|(_, voter)| is_own(voter)).cloned() else {
            let names: Vec<String> =
                voters.iter().map(|(_, voter)| format!("{}/{}", voter.region, voter.name)).collect();
            return wrong(format!("{whose} is not among the members: {}", names.join(", ")));
        };
        let every_address = (std::net::Ipv6Addr::UNSPECIFIED, own.address.port()).into();
        let file = control_plane::ControlPlane {
            site: self.cluster.site(self.admin, self.identity, self.data),
            name: self.name,
            id,
            listen: self.listen.unwrap_or(every_address),
            authority: (!self.without_authority).then_some(self.authority),
            certificate_life_seconds: CERTIFICATE_LIFE.whole_seconds().unsigned_abs(),
            voters,
        }
        .file();
        usable(control_plane::refused(file.clone()))?;
        print(&whose, "control-plane", &file, control_plane::FIELDS)
    }
}

impl Cluster {
    fn check(&self) -> anyhow::Result<()> {
        let mut problems = voter::problems(&self.members);
        for (at, Dial { known, .. }) in self.dials.iter().enumerate() {
            if self.dials[..at].iter().any(|other| other.known == *known) {
                problems.push(format!("--dial: {known} is given twice"));
            }
        }
        usable(problems)
    }

    /// `<region>/<name>`.
    fn whose(&self, name: &NodeName) -> String {
        format!("{}/{name}", self.region)
    }

    fn nearest_first(&self) -> Vec<Voter> {
        voter::nearest_first(self.members.iter().map(|member| member.voter.clone()).collect(), &self.region)
    }

    fn with_ids(&self) -> anyhow::Result<Vec<(u64, Voter)>> {
        let mut voters = Vec::new();
        for TypedMember { id, voter } in &self.members {
            let Some(id) = id else {
                let Voter { region, name, address } = voter;
                return wrong(format!(
                    "--member: {region}/{name} needs the id that is its own for good, such as \
                     1:{region}/{name}={address}"
                ));
            };
            voters.push((id.get().into(), voter.clone()));
        }
        Ok(voters)
    }

    fn site(self, admin: SocketAddr, identity: PathBuf, data: PathBuf) -> Site {
        let dial_map = DialMap::new(self.dials.into_iter().map(|dial| (dial.known, dial.dialled)));
        Site { region: self.region, admin, identity, data, dial_map }
    }
}

fn usable(problems: Vec<String>) -> anyhow::Result<()> {
    if problems.is_empty() { Ok(()) } else { wrong(problems.join("; ")) }
}

fn wrong<T>(words: String) -> anyhow::Result<T> {
    Err(WrongUsage(words).into())
}

fn print(whose: &str, role: &str, file: &impl Serialize, fields: &[Field]) -> anyhow::Result<String> {
    let header = format!(
        "Written by `rhumb config` for {role} {whose}. A field behind # is off and shows what it could be.\n\
         Next, on its host: rhumb check --config {role}.toml --role {role}"
    );
    // Anything that was typed can be written but a path in no encoding.
    annotated::toml(&header, file, fields).or_else(|error| wrong(format!("TOML cannot hold this: {error}")))
}

/// The default of all roles, said in each file so that it stays what it was when the default changes.
const DRAIN_SECONDS: u64 = 30;

#[cfg(test)]
mod tests;
