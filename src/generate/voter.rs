//! The members of the control plane: how they are typed, and how the other roles list them.

use crate::sandbox::places;
use client::MemberAddress;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use types::{BadName, NodeName, RegionName};

/// A member of the control plane, and where it is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    pub region: RegionName,
    pub name: NodeName,
    pub address: SocketAddr,
}

/// `[ID:]REGION/NAME=IP:PORT`. The id is written out, because one that was counted from the order of a list would
/// pass to another member when the list changes, and a voter that takes over an id breaks the promises of who had
/// it before. Edges and agents need none, and take the same list with or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedMember {
    pub id: Option<NonZeroU32>,
    pub voter: Voter,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMember {
    #[error("a member is [ID:]REGION/NAME=IP:PORT, such as 1:us-east/c1=10.0.0.4:7001")]
    Shape,
    #[error("the id {0:?} must be a number from 1 to {max}", max = u32::MAX)]
    Id(String),
    #[error(transparent)]
    Name(BadName),
    #[error("{0:?} must be an IP address with a port, such as 10.0.0.4:7001; host names are not looked up")]
    Address(String),
    #[error("{0} is no address to dial; give the one at which other hosts reach this member")]
    Undialled(SocketAddr),
}

impl Voter {
    /// What its certificate must be valid for.
    pub fn server_name(&self) -> String {
        let (region, name) = (self.region.clone(), self.name.clone());
        // The cluster is no part of a host name.
        let cluster = String::new();
        identity::Name { cluster, region, role: identity::Role::ControlPlane, name }.host_name()
    }

    pub fn listed(&self) -> MemberAddress {
        MemberAddress { address: self.address, server_name: self.server_name() }
    }
}

impl FromStr for TypedMember {
    type Err = BadMember;

    fn from_str(text: &str) -> Result<Self, BadMember> {
        let (who, address) = text.split_once('=').ok_or(BadMember::Shape)?;
        let (id, who) = who.split_once(':').map_or((None, who), |(id, who)| (Some(id), who));
        let (region, name) = who.split_once('/').ok_or(BadMember::Shape)?;
        let id = id.map(|id| id.parse().map_err(|_| BadMember::Id(id.to_owned()))).transpose()?;
        let region = region.parse().map_err(BadMember::Name)?;
        let name = name.parse().map_err(BadMember::Name)?;
        let address: SocketAddr = address.parse().map_err(|_| BadMember::Address(address.to_owned()))?;
        if address.port() == 0 || address.ip().is_unspecified() {
            return Err(BadMember::Undialled(address));
        }
        Ok(Self { id, voter: Voter { region, name, address } })
    }
}

/// Everything that makes a list other than that of a whole control plane.
pub fn problems(members: &[TypedMember]) -> Vec<String> {
    let mut problems = Vec::new();
    if ![1, 3, 5].contains(&members.len()) {
        problems.push(format!(
            "a control plane has 1, 3 or 5 members, not {}; give each of them once with --member",
            members.len()
        ));
    }
    let (mut names, mut addresses, mut ids) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for TypedMember { id, voter: Voter { region, name, address } } in members {
        if !names.insert((region, name)) {
            problems.push(format!("--member: {region}/{name} is given twice"));
        }
        if !addresses.insert(address) {
            problems.push(format!("--member: the address {address} is given twice"));
        }
        if let Some(id) = id
            && !ids.insert(id)
        {
            problems.push(format!("--member: the id {id} is given twice"));
        }
    }
    problems
}

/// Those of the region first, then by distance as far as the names of all regions tell it, else as they were given.
pub fn nearest_first(mut voters: Vec<Voter>, region: &RegionName) -> Vec<Voter> {
    let kilometres = |to: &RegionName| Some(places::known(region)?.kilometres_to(places::known(to)?));
    if voters.iter().all(|voter| kilometres(&voter.region).is_some()) {
        let distance = |voter: &Voter| kilometres(&voter.region).unwrap_or_default();
        voters.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
    }
    voters.sort_by_key(|voter| voter.region != *region);
    voters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> TypedMember {
        text.parse().unwrap()
    }

    #[test]
    fn a_member_is_named_and_dialled() {
        let TypedMember { id, voter } = typed("3:us-east/c1=[fd00::4]:7001");
        assert_eq!(
            (id.map(NonZeroU32::get), voter.address.to_string()),
            (Some(3), "[fd00::4]:7001".to_owned())
        );
        assert_eq!(voter.server_name(), "c1.control-plane.us-east.rhumb.internal");
        assert_eq!(typed("us-east/c1=10.0.0.4:7001").id, None);
    }

    #[test]
    fn what_is_no_member_is_refused_with_its_reason() {
        let said = |text: &str| text.parse::<TypedMember>().unwrap_err().to_string();
        for text in ["", "us-east", "us-east/c1", "us-east/c1:7001", "c1=10.0.0.4:7001", "=10.0.0.4:7001"] {
            assert!(said(text).contains("[ID:]REGION/NAME=IP:PORT"), "{text}: {}", said(text));
        }
        for id in ["0", "", "x", "-1", "4294967296"] {
            let text = format!("{id}:us-east/c1=10.0.0.4:7001");
            assert!(said(&text).starts_with(&format!("the id {id:?} must be")), "{}", said(&text));
        }
        assert!(said("US/c1=10.0.0.4:7001").starts_with("region name"));
        assert!(said("us-east/C=10.0.0.4:7001").starts_with("node name"));
        assert!(said("us-east/c1=c1.example:7001").contains("host names are not looked up"));
        assert!(said("us-east/c1=10.0.0.4").contains("with a port"));
        for address in ["0.0.0.0:7001", "[::]:7001", "10.0.0.4:0"] {
            assert!(said(&format!("us-east/c1={address}")).contains("no address to dial"), "{address}");
        }
    }

    #[test]
    fn a_list_is_odd_and_names_nobody_twice() {
        let members =
            ["1:us-east/c1=10.0.0.4:7001", "1:us-east/c1=10.1.0.4:7001", "eu-west/c1=10.0.0.4:7001"];
        let members = members.map(typed);
        let told = problems(&members);
        assert_eq!(
            told,
            [
                "--member: us-east/c1 is given twice",
                "--member: the id 1 is given twice",
                "--member: the address 10.0.0.4:7001 is given twice",
            ]
        );
        assert!(problems(&members[..1]).is_empty());
        for count in [0, 2] {
            assert!(problems(&members[..count])[0].contains(&format!("1, 3 or 5 members, not {count}")));
        }
    }

    #[test]
    fn members_are_listed_nearest_first_where_names_tell_it() {
        let order = |regions: &[&str], from: &str| {
            let voter = |region: &&str| typed(&format!("{region}/c1=10.0.0.4:7001")).voter;
            let sorted = nearest_first(regions.iter().map(voter).collect(), &from.parse().unwrap());
            sorted.into_iter().map(|voter| voter.region.to_string()).collect::<Vec<_>>()
        };
        let planet = ["us-east", "eu-west", "ap-south"];
        assert_eq!(order(&planet, "ap-south"), ["ap-south", "eu-west", "us-east"]);
        assert_eq!(order(&planet, "us-west"), ["us-east", "eu-west", "ap-south"]);
        assert_eq!(order(&["us-east", "mars", "ap-south"], "ap-south"), ["ap-south", "us-east", "mars"]);
        assert_eq!(order(&planet, "mars"), planet, "nobody knows how far it is from there");
    }
}
