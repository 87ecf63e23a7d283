//! Names in certificates.
//!
//! The URI `spiffe://<cluster>/<region>/<role>/<name>` is what servers authorise. The host name
//! `<name>.<role>.<region>.rhumb.internal` is what dialers send as SNI and verify. There are no addresses in a
//! certificate, so a process may move and a dial map may lead elsewhere.

use std::fmt;
use std::str::FromStr;
use types::{NodeName, RegionName};

/// The name of one process in one cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub cluster: String,
    pub region: RegionName,
    pub role: Role,
    /// Unique in its role and region; for an agent the name of its node.
    pub name: NodeName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    ControlPlane,
    Edge,
    RegionAgent,
    /// A person, or a program that acts for one.
    Operator,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::ControlPlane, Self::Edge, Self::RegionAgent, Self::Operator];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Edge => "edge",
            Self::RegionAgent => "region-agent",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Name {
    /// What a server finds in the peer's certificate.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}/{}/{}/{}", self.cluster, self.region, self.role, self.name)
    }

    /// What a dialer asks for and verifies.
    pub fn host_name(&self) -> String {
        format!("{}.{}.{}.{DOMAIN}", self.name, self.role, self.region)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri())
    }
}

impl FromStr for Name {
    type Err = BadIdentityName;

    fn from_str(uri: &str) -> Result<Self, BadIdentityName> {
        let parts: Vec<&str> = uri.strip_prefix(SCHEME).ok_or(BadIdentityName)?.split('/').collect();
        let [cluster, region, role, name] = parts[..] else { return Err(BadIdentityName) };
        if cluster.is_empty() {
            return Err(BadIdentityName);
        }
        Ok(Self {
            cluster: cluster.to_owned(),
            region: region.parse().map_err(|_| BadIdentityName)?,
            role: Role::ALL.into_iter().find(|known| known.as_str() == role).ok_or(BadIdentityName)?,
            name: name.parse().map_err(|_| BadIdentityName)?,
        })
    }
}

/// A URI that names no process of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name is not spiffe://<cluster>/<region>/<role>/<name>")]
pub struct BadIdentityName;

const SCHEME: &str = "spiffe://";
const DOMAIN: &str = "rhumb.internal";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_there_and_back() {
        let uri = "spiffe://c1/us-east/region-agent/n1";
        let name: Name = uri.parse().unwrap();
        assert_eq!(name.uri(), uri);
        assert_eq!(name.host_name(), "n1.region-agent.us-east.rhumb.internal");
        for bad in
            ["", "spiffe://c1/us-east/boss/n1", "spiffe:///us-east/edge/n1", "spiffe://c1/us-east/edge"]
        {
            assert_eq!(bad.parse::<Name>(), Err(BadIdentityName), "{bad}");
        }
    }
}
