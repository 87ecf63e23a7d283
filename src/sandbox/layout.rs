//! Where everything of a sandbox is: an address for each role, and the links between regions.
//!
//! Region *i* is `127.N.i.1`, where N is the subnet, with the ports of production. So regions need no port
//! arithmetic, and two sandboxes side by side differ in one number. Seen from region *i*, region *j* is
//! `127.N.i.(10 + j)`: that is where the emulated link between them is dialled.

use crate::sandbox::places;
use chaos::network::{self, Anycast, AnycastEdge, Forward, distance};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;
use types::{BadName, DialMap, NodeName, RegionName, ZoneName};

/// The regions of a sandbox, in order: one to sixteen, each once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<RegionName>", into = "Vec<RegionName>")]
pub struct Regions(Vec<RegionName>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRegions {
    #[error(transparent)]
    Name(BadName),
    #[error("region {0} is named twice")]
    Twice(RegionName),
    #[error("a sandbox has 1 to {REGIONS_MAX} regions, not {0}")]
    Count(usize),
}

/// Roles that `up` starts. Engines are started by their region agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    ControlPlane,
    RegionAgent,
    Edge,
}

/// One process that `up` holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    pub region: RegionName,
    pub role: Role,
}

/// A whole sandbox. Kept in its data directory, so that other commands find the same addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub subnet: u8,
    pub regions: Regions,
    /// The regions with a voter of the control plane, in the order of the voters' ids. They stay as they were
    /// when the sandbox was made; none in the layout of a sandbox that is older than the control plane.
    #[serde(default)]
    pub voters: Vec<RegionName>,
}

/// One region of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub region: RegionName,
    /// The id of its voter.
    pub voter: Option<u64>,
    ip: Ipv4Addr,
    place: u8,
}

impl Regions {
    pub fn names(&self) -> &[RegionName] {
        &self.0
    }
}

impl FromStr for Regions {
    type Err = BadRegions;

    /// Names, or how many.
    fn from_str(text: &str) -> Result<Self, BadRegions> {
        if let Ok(count) = text.trim().parse::<usize>() {
            let names = || {
                places::NAMES.iter().map(|name| name.parse().expect("names of places are names of regions"))
            };
            // The bound is checked before anything is made of the number.
            return match count {
                0 => Err(BadRegions::Count(0)),
                many if many > REGIONS_MAX => Err(BadRegions::Count(many)),
                some => names().take(some).collect::<Vec<_>>().try_into(),
            };
        }
        let names: Result<Vec<RegionName>, BadName> =
            text.split(',').map(|name| name.trim().parse()).collect();
        names.map_err(BadRegions::Name)?.try_into()
    }
}

impl TryFrom<Vec<RegionName>> for Regions {
    type Error = BadRegions;

    fn try_from(names: Vec<RegionName>) -> Result<Self, BadRegions> {
        if !(1..=REGIONS_MAX).contains(&names.len()) {
            return Err(BadRegions::Count(names.len()));
        }
        match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            Some((_, name)) => Err(BadRegions::Twice(name.clone())),
            None => Ok(Self(names)),
        }
    }
}

impl From<Regions> for Vec<RegionName> {
    fn from(regions: Regions) -> Self {
        regions.0
    }
}

impl fmt::Display for Regions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            write!(f, "{}{name}", if at > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl Role {
    pub const ALL: [Self; 3] = [Self::ControlPlane, Self::RegionAgent, Self::Edge];

    /// Also the subcommand that runs it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::RegionAgent => "region-agent",
            Self::Edge => "edge",
        }
    }

    pub fn identity(self) -> identity::Role {
        match self {
            Self::ControlPlane => identity::Role::ControlPlane,
            Self::RegionAgent => identity::Role::RegionAgent,
            Self::Edge => identity::Role::Edge,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.region)
    }
}

impl Layout {
    /// Of a sandbox that is made now. Three voters outlive the death of any one; with fewer than three regions to
    /// put them in, more than one would only be more that can fail.
    pub fn new(subnet: u8, regions: Regions) -> Self {
        let count = if regions.0.len() >= VOTERS { VOTERS } else { 1 };
        let voters = regions.0[..count].to_vec();
        Self { subnet, regions, voters }
    }

    pub fn seats(&self) -> impl Iterator<Item = Seat> {
        self.regions.0.iter().zip(1..).map(|(region, place)| Seat {
            region: region.clone(),
            voter: self.voters.iter().zip(1..).find(|(voter, _)| *voter == region).map(|(_, id)| id),
            ip: Ipv4Addr::new(127, self.subnet, place, 1),
            place,
        })
    }

    /// The seats with a voter, nearest to a region first.
    pub fn voters_from(&self, region: &RegionName) -> Vec<Seat> {
        let here = places::of(region);
        let mut seats: Vec<Seat> = self.seats().filter(|seat| seat.voter.is_some()).collect();
        seats.sort_by(|a, b| {
            let distance = |seat: &Seat| here.kilometres_to(places::of(&seat.region));
            // Its own voter also where another region lies at the same place.
            let is_other = |seat: &Seat| seat.region != *region;
            is_other(a).cmp(&is_other(b)).then(distance(a).total_cmp(&distance(b)))
        });
        seats
    }

    pub fn seat(&self, region: &RegionName) -> Option<Seat> {
        self.seats().find(|seat| seat.region == *region)
    }

    /// In the order in which they are started and listed.
    pub fn members(&self) -> impl Iterator<Item = Member> {
        self.seats().flat_map(|seat| {
            let roles = Role::ALL.into_iter().filter(|role| seat.has(*role));
            roles.map(|role| Member { region: seat.region.clone(), role }).collect::<Vec<_>>()
        })
    }

    /// How a role in a region dials the other regions.
    pub fn dial_map(&self, region: &RegionName) -> DialMap {
        let Some(here) = self.seat(region) else { return DialMap::default() };
        let others = self.seats().filter(|seat| seat.region != *region);
        DialMap::new(others.map(|seat| (IpAddr::from(seat.ip), IpAddr::from(seat.seen_from(&here)))))
    }

    /// The links between all regions, and the address in front of all edges. Without `round_trip` regions are as
    /// far apart as their places.
    pub fn network(&self, round_trip: Option<Duration>) -> network::Plan {
        let seats: Vec<Seat> = self.seats().collect();
        let pairs = || {
            let all = seats.iter().flat_map(|a| seats.iter().map(move |b| (a, b)));
            all.filter(|(a, b)| a.region != b.region)
        };
        let distance = |a: &Seat, b: &Seat| {
            let at = |seat: &Seat| places::of(&seat.region);
            round_trip.unwrap_or_else(|| distance::round_trip((&a.region, at(a)), (&b.region, at(b))))
        };
        let forwards = pairs().flat_map(|(from, to)| {
            let forward = |service: SocketAddr| Forward {
                from: from.region.clone(),
                to: to.region.clone(),
                listen: (to.seen_from(from), service.port()).into(),
                source: from.seen_from(to).into(),
                target: service,
            };
            to.dialled_from_afar().into_iter().map(forward).collect::<Vec<_>>()
        });
        let anycast = Anycast {
            clients_in: seats[0].region.clone(),
            listen: self.anycast().to_vec(),
            source: self.balancer(),
            edges: seats
                .iter()
                .map(|seat| AnycastEdge {
                    region: seat.region.clone(),
                    targets: vec![seat.edge_plain(), seat.edge_tls()],
                    admin: seat.edge_admin(),
                })
                .collect(),
        };
        network::Plan {
            regions: self.regions.0.clone(),
            round_trips: pairs()
                .filter(|(a, b)| a.place < b.place)
                .map(|(a, b)| (a.region.clone(), b.region.clone(), distance(a, b)))
                .collect(),
            forwards: forwards.collect(),
            anycast: Some(anycast),
        }
    }

    /// What clients dial: the nearest edge, in plain HTTP and in HTTPS.
    pub fn anycast(&self) -> [SocketAddr; 2] {
        [EDGE_PORT, EDGE_TLS_PORT].map(|port| (self.anycast_ip(), port).into())
    }

    /// Where connections come from that were made to [`Self::anycast`]. In the first subnet every client of this host
    /// comes from the anycast address itself, 127.0.0.1, and edges must not take them for the balancer.
    pub fn balancer(&self) -> IpAddr {
        Ipv4Addr::new(127, self.subnet, 0, 2).into()
    }

    fn anycast_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.subnet, 0, 1)
    }

    /// Everything that must be free before a sandbox can start.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        let network = self.network(None);
        let links = network.forwards.iter().map(|forward| forward.listen);
        self.seats().flat_map(|seat| seat.listeners()).chain(links).chain(self.anycast()).collect()
    }

    pub fn has(&self, member: &Member) -> bool {
        self.seat(&member.region).is_some_and(|seat| seat.has(member.role))
    }
}

impl Seat {
    pub fn has(&self, role: Role) -> bool {
        role != Role::ControlPlane || self.voter.is_some()
    }

    pub fn control_plane(&self) -> SocketAddr {
        self.at(7001)
    }

    pub fn control_plane_admin(&self) -> SocketAddr {
        self.at(9103)
    }

    pub fn edge_plain(&self) -> SocketAddr {
        self.at(EDGE_PORT)
    }

    pub fn edge_tls(&self) -> SocketAddr {
        self.at(EDGE_TLS_PORT)
    }

    pub fn edge_admin(&self) -> SocketAddr {
        self.at(9101)
    }

    pub fn agent_ingress(&self) -> SocketAddr {
        self.at(7443)
    }

    pub fn agent_admin(&self) -> SocketAddr {
        self.at(9102)
    }

    /// The first engine's; the others follow.
    pub fn engines(&self) -> SocketAddr {
        self.at(ENGINE_PORT)
    }

    /// Where a role is known to others.
    pub fn address(&self, role: Role) -> SocketAddr {
        match role {
            Role::ControlPlane => self.control_plane(),
            Role::RegionAgent => self.agent_ingress(),
            Role::Edge => self.edge_plain(),
        }
    }

    pub fn admin(&self, role: Role) -> SocketAddr {
        match role {
            Role::ControlPlane => self.control_plane_admin(),
            Role::RegionAgent => self.agent_admin(),
            Role::Edge => self.edge_admin(),
        }
    }

    /// What other regions dial here.
    fn dialled_from_afar(&self) -> Vec<SocketAddr> {
        let voter = self.voter.map(|_| self.control_plane());
        voter.into_iter().chain([self.agent_ingress()]).collect()
    }

    /// Its address as it is dialled in another region.
    fn seen_from(&self, other: &Self) -> Ipv4Addr {
        let [_, subnet, place, _] = other.ip.octets();
        Ipv4Addr::new(127, subnet, place, SEEN_FROM + self.place)
    }

    /// Everything that must be free before the region can start.
    fn listeners(&self) -> Vec<SocketAddr> {
        let roles =
            [self.edge_plain(), self.edge_tls(), self.edge_admin(), self.agent_ingress(), self.agent_admin()];
        let voter = [self.control_plane(), self.control_plane_admin()].into_iter();
        let voter = voter.filter(|_| self.has(Role::ControlPlane));
        roles
            .into_iter()
            .chain(voter)
            .chain((0..ENGINES_PER_REGION).map(|engine| self.at(ENGINE_PORT + engine)))
            .collect()
    }

    pub fn node(&self) -> NodeName {
        name("n1")
    }

    /// What a role's process is called, unique in its role and region.
    pub fn process(&self, role: Role) -> NodeName {
        match role {
            Role::ControlPlane => name("c1"),
            Role::RegionAgent => self.node(),
            Role::Edge => name("e1"),
        }
    }

    /// What a role's certificate says.
    pub fn name(&self, role: Role, cluster: &str) -> identity::Name {
        identity::Name {
            cluster: cluster.to_owned(),
            region: self.region.clone(),
            role: role.identity(),
            name: self.process(role),
        }
    }

    pub fn zone(&self) -> ZoneName {
        "a".parse().expect("the name fits its pattern")
    }

    fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }
}

fn name(text: &str) -> NodeName {
    text.parse().expect("the name fits its pattern")
}

/// Two, so that the death of one is survived inside its region.
pub const ENGINES_PER_REGION: u16 = 2;
const VOTERS: usize = 3;
const ENGINE_PORT: u16 = 7500;
const EDGE_PORT: u16 = 8080;
const EDGE_TLS_PORT: u16 = 8443;
/// Added to a region's number, for its address in another region.
const SEEN_FROM: u8 = 10;
/// Thirty-two engines are more than a laptop can do anything useful with.
const REGIONS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn layout(subnet: u8, regions: &str) -> Layout {
        Layout::new(subnet, regions.parse().unwrap())
    }

    #[test]
    fn regions_are_named_once_and_are_not_too_many() {
        let bad = |text: &str| text.parse::<Regions>().unwrap_err();
        assert!(matches!(bad(""), BadRegions::Name(_)));
        assert!(matches!(bad("us-east,,eu-west"), BadRegions::Name(_)));
        assert!(matches!(bad("US"), BadRegions::Name(_)));
        assert_eq!((bad("0"), bad("40")), (BadRegions::Count(0), BadRegions::Count(40)));
        assert_eq!("2".parse::<Regions>().unwrap().to_string(), "us-east, eu-west");
        assert_eq!(REGIONS_MAX.to_string().parse::<Regions>().unwrap().names().len(), REGIONS_MAX);
        assert_eq!(bad("a,b,a"), BadRegions::Twice("a".parse().unwrap()));
        let many: Vec<String> = (0..=REGIONS_MAX).map(|number| format!("r{number}")).collect();
        assert_eq!(bad(&many.join(",")), BadRegions::Count(REGIONS_MAX + 1));
        assert_eq!(many[1..].join(",").parse::<Regions>().unwrap().names().len(), REGIONS_MAX);
        assert_eq!("us-east, eu-west".parse::<Regions>().unwrap().to_string(), "us-east, eu-west");
    }

    #[test]
    fn addresses_are_those_of_the_contract() {
        let layout = layout(7, "us-east,eu-west");
        let seat = layout.seat(&"eu-west".parse().unwrap()).unwrap();
        assert_eq!(seat.edge_plain().to_string(), "127.7.2.1:8080");
        assert_eq!(seat.engines().to_string(), "127.7.2.1:7500");
        assert_eq!(seat.admin(Role::RegionAgent).to_string(), "127.7.2.1:9102");
        assert_eq!(layout.seat(&"mars".parse().unwrap()), None);
        let first = layout.seat(&"us-east".parse().unwrap()).unwrap();
        assert_eq!(first.control_plane().to_string(), "127.7.1.1:7001");
        assert_eq!(first.admin(Role::ControlPlane).to_string(), "127.7.1.1:9103");
    }

    #[test]
    fn three_regions_have_three_voters_and_fewer_have_one() {
        let voters = |regions| layout(0, regions).seats().map(|seat| seat.voter).collect::<Vec<_>>();
        assert_eq!(voters("a"), [Some(1)]);
        assert_eq!(voters("a,b"), [Some(1), None]);
        assert_eq!(voters("a,b,c,d"), [Some(1), Some(2), Some(3), None]);
        let two = layout(0, "a,b");
        let control_planes = two.members().filter(|member| member.role == Role::ControlPlane);
        assert_eq!(control_planes.count(), 1);
        assert!(!two.has(&Member { region: "b".parse().unwrap(), role: Role::ControlPlane }));
    }

    #[test]
    fn voters_are_listed_nearest_first() {
        let layout = layout(0, "us-east,eu-west,ap-south");
        let from = |region: &str| {
            let seats = layout.voters_from(&region.parse().unwrap());
            seats.into_iter().map(|seat| seat.region.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(from("eu-west"), ["eu-west", "us-east", "ap-south"]);
        assert_eq!(from("ap-south"), ["ap-south", "eu-west", "us-east"]);
        assert_eq!(from("us-west"), ["us-east", "eu-west", "ap-south"]);
    }

    #[test]
    fn no_address_is_used_twice() {
        let layout = layout(0, "a,b,c,d");
        let listeners = layout.listeners();
        assert_eq!(listeners.iter().collect::<BTreeSet<_>>().len(), listeners.len());
    }

    #[test]
    fn regions_see_each_other_through_links() {
        let layout = layout(7, "us-east,eu-west,ap-south,us-west");
        let known = "127.7.3.1:7443".parse().unwrap();
        let here = "us-east".parse().unwrap();
        assert_eq!(layout.dial_map(&here).dialled(known).to_string(), "127.7.1.13:7443");
        let there = "ap-south".parse().unwrap();
        assert_eq!(layout.dial_map(&there).dialled(known), known, "nobody needs a link to himself");
        let network = layout.network(None);
        let link = network.forwards.iter().find(|link| link.listen.to_string() == "127.7.1.13:7443").unwrap();
        assert_eq!((link.from.as_str(), link.to.as_str()), ("us-east", "ap-south"));
        assert_eq!((link.target, link.source.to_string()), (known, "127.7.3.11".to_owned()));
        // Four regions dial three others each; the fourth has no voter.
        assert_eq!((network.forwards.len(), network.round_trips.len()), (4 * 3 * 2 - 3, 6));
        // As a client of this host would come who did not choose an address.
        let usual: IpAddr = "127.0.0.1".parse().unwrap();
        assert!((0..=255).all(|subnet| Layout { subnet, ..layout.clone() }.balancer() != usual));
        let flat = layout.network(Some(Duration::ZERO));
        assert!(flat.round_trips.iter().all(|(.., time)| time.is_zero()));
    }

    #[test]
    fn a_kept_layout_is_read_back_and_checked() {
        let layout = layout(3, "us-east,eu-west");
        let text = serde_json::to_string(&layout).unwrap();
        assert_eq!(text, r#"{"subnet":3,"regions":["us-east","eu-west"],"voters":["us-east"]}"#);
        assert_eq!(serde_json::from_str::<Layout>(&text).unwrap(), layout);
        assert!(serde_json::from_str::<Layout>(r#"{"subnet":3,"regions":["a","a"]}"#).is_err());
        let older: Layout = serde_json::from_str(r#"{"subnet":3,"regions":["a"]}"#).unwrap();
        assert_eq!(older.voters, []);
    }
}
