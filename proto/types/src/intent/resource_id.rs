//! How one resource is named: `<kind>/<name>`, for example `tenant/acme` or `node/us-east/n1`.

use crate::id::KeyId;
use crate::name::{ModelName, NodeName, PolicyName, RegionName, TenantName, ZoneName};
use crate::version::ModelVersion;
use std::fmt;
use std::str::FromStr;

/// The kinds of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Region,
    Zone,
    Node,
    Policy,
    Tenant,
    Key,
    Model,
    Version,
    Deployment,
    Drain,
}

/// One resource, named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ResourceId {
    Region(RegionName),
    Zone(RegionName, ZoneName),
    Node(NodeKey),
    Policy(PolicyName),
    Tenant(TenantName),
    Key(KeyId),
    Model(ModelName),
    Version(ModelVersion),
    /// There is one deployment for each model.
    Deployment(ModelName),
    Drain(DrainScope),
}

/// A node's name is unique in its region only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeKey {
    pub region: RegionName,
    pub node: NodeName,
}

/// What is drained: `<region>` or `<region>/<node>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DrainScope {
    Region(RegionName),
    Node(NodeKey),
}

/// A text that names no resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {shape}")]
pub struct BadResourceId {
    pub text: String,
    pub shape: &'static str,
}

impl Kind {
    /// What others refer to comes first.
    pub const ALL: [Self; 10] = [
        Self::Region,
        Self::Zone,
        Self::Node,
        Self::Policy,
        Self::Tenant,
        Self::Key,
        Self::Model,
        Self::Version,
        Self::Deployment,
        Self::Drain,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Zone => "zone",
            Self::Node => "node",
            Self::Policy => "policy",
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::Model => "model",
            Self::Version => "version",
            Self::Deployment => "deployment",
            Self::Drain => "drain",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl ResourceId {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Region(_) => Kind::Region,
            Self::Zone(..) => Kind::Zone,
            Self::Node(_) => Kind::Node,
            Self::Policy(_) => Kind::Policy,
            Self::Tenant(_) => Kind::Tenant,
            Self::Key(_) => Kind::Key,
            Self::Model(_) => Kind::Model,
            Self::Version(_) => Kind::Version,
            Self::Deployment(_) => Kind::Deployment,
            Self::Drain(_) => Kind::Drain,
        }
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.kind())?;
        match self {
            Self::Region(name) => name.fmt(f),
            Self::Zone(region, zone) => write!(f, "{region}/{zone}"),
            Self::Node(key) => key.fmt(f),
            Self::Policy(name) => name.fmt(f),
            Self::Tenant(name) => name.fmt(f),
            Self::Key(id) => id.fmt(f),
            Self::Model(name) | Self::Deployment(name) => name.fmt(f),
            Self::Version(version) => version.fmt(f),
            Self::Drain(scope) => scope.fmt(f),
        }
    }
}

impl FromStr for ResourceId {
    type Err = BadResourceId;

    fn from_str(text: &str) -> Result<Self, BadResourceId> {
        let bad = |_| bad(text, "<kind>/<name>");
        let (kind, name) = text.split_once('/').ok_or(()).map_err(bad)?;
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind).ok_or(()).map_err(bad)?;
        fn parse<T: FromStr>(name: &str) -> Result<T, ()> {
            name.parse().map_err(|_| ())
        }
        let id = match kind {
            Kind::Region => parse(name).map(Self::Region),
            Kind::Zone => name
                .split_once('/')
                .ok_or(())
                .and_then(|(region, zone)| Ok(Self::Zone(parse(region)?, parse(zone)?))),
            Kind::Node => parse(name).map(Self::Node),
            Kind::Policy => parse(name).map(Self::Policy),
            Kind::Tenant => parse(name).map(Self::Tenant),
            Kind::Key => parse(name).map(Self::Key),
            Kind::Model => parse(name).map(Self::Model),
            Kind::Version => parse(name).map(Self::Version),
            Kind::Deployment => parse(name).map(Self::Deployment),
            Kind::Drain => parse(name).map(Self::Drain),
        };
        id.map_err(bad)
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.region, self.node)
    }
}

impl FromStr for NodeKey {
    type Err = BadResourceId;

    fn from_str(text: &str) -> Result<Self, BadResourceId> {
        let parse = || {
            let (region, node) = text.split_once('/')?;
            Some(Self { region: region.parse().ok()?, node: node.parse().ok()? })
        };
        parse().ok_or_else(|| bad(text, "<region>/<node>"))
    }
}

impl DrainScope {
    pub fn region(&self) -> &RegionName {
        match self {
            Self::Region(region) => region,
            Self::Node(key) => &key.region,
        }
    }
}

impl fmt::Display for DrainScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Region(region) => region.fmt(f),
            Self::Node(key) => key.fmt(f),
        }
    }
}

impl FromStr for DrainScope {
    type Err = BadResourceId;

    fn from_str(text: &str) -> Result<Self, BadResourceId> {
        match text.parse() {
            Ok(region) => Ok(Self::Region(region)),
            Err(_) => text.parse().map(Self::Node).map_err(|_| bad(text, "<region> or <region>/<node>")),
        }
    }
}

macro_rules! as_text {
    ($($type:ident)*) => {$(
        impl TryFrom<String> for $type {
            type Error = BadResourceId;

            fn try_from(text: String) -> Result<Self, BadResourceId> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}

as_text! { ResourceId NodeKey DrainScope }

fn bad(text: &str, shape: &'static str) -> BadResourceId {
    BadResourceId { text: text.chars().take(TEXT_SHOWN_MAX).collect(), shape }
}

/// An error message repeats at most this much of a stranger's text.
const TEXT_SHOWN_MAX: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_goes_there_and_back() {
        let digest = format!("version/sha256:{}", "0f".repeat(32));
        let texts = [
            "region/us-east",
            "zone/us-east/a",
            "node/us-east/n1",
            "policy/gold",
            "tenant/acme",
            "key/aaaaaaaaaaaaaaaa",
            "model/meta/llama:8b",
            &digest,
            "deployment/meta/llama:8b",
            "drain/us-east",
            "drain/us-east/n1",
        ];
        for text in texts {
            let id: ResourceId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
            assert!(text.starts_with(id.kind().as_str()));
        }
        for bad in
            ["", "tenant", "tenant/", "tenant/A", "boss/acme", "node/n1", "zone/us-east", "drain/a/b/c"]
        {
            assert!(bad.parse::<ResourceId>().is_err(), "{bad}");
        }
    }
}
