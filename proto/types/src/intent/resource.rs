//! The resources themselves. Integers only: a replica that computes with them gets the same bits everywhere.

use super::resource_id::{DrainScope, Kind, NodeKey, ResourceId};
use super::revision::Revision;
use crate::api_key::KeyHash;
use crate::base_url::BaseUrl;
use crate::id::KeyId;
use crate::name::{ModelName, PolicyName, RegionName, SecretName, TenantName, ZoneName};
use crate::time::UnixMs;
use crate::units::{Place, Priority};
use crate::version::ModelVersion;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// A failure domain with a place on the map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    pub name: RegionName,
    /// Millionths of a degree, north positive; within ±90,000,000.
    pub latitude_e6: i32,
    /// Millionths of a degree, east positive; within ±180,000,000.
    pub longitude_e6: i32,
}

/// A part of a region that can fail by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    pub region: RegionName,
    pub name: ZoneName,
}

/// Something that answers requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NodeFields", into = "NodeFields")]
pub struct Node {
    pub key: NodeKey,
    pub zone: ZoneName,
    pub kind: NodeKind,
}

/// What stands behind a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    Agent(Agent),
    OpenAi(OpenAiServer),
}

/// One host run by a region agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Where edges connect to it.
    pub ingress: SocketAddr,
    /// What its certificate must be valid for.
    pub server_name: String,
}

/// An OpenAI-compatible server without an agent: an existing vLLM, or somebody else's service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAiServer {
    pub base_url: BaseUrl,
    /// What it serves, under these very names: no edge edits a body.
    pub models: Vec<ModelName>,
    /// How many requests one edge sends there at once.
    pub slots: u32,
    /// Which variable of an edge's environment holds what it proves itself with; absent = nothing is asked for.
    pub secret: Option<SecretName>,
}

/// A node as it is written: which of the fields must be there, its kind says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFields {
    node: NodeKey,
    zone: ZoneName,
    /// Absent = agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<NodeKindName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ingress: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_url: Option<BaseUrl>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    models: Option<Vec<ModelName>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slots: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<SecretName>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum NodeKindName {
    Agent,
    OpenAi,
}

/// A node whose fields do not fit its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadNode {
    #[error("missing field `{0}`")]
    Missing(&'static str),
    #[error("a node of kind {kind} has no field `{field}`")]
    Foreign { kind: &'static str, field: &'static str },
}

impl TryFrom<NodeFields> for Node {
    type Error = BadNode;

    fn try_from(fields: NodeFields) -> Result<Self, BadNode> {
        let NodeFields { node: key, zone, kind, ingress, server_name, base_url, models, slots, secret } =
            fields;
        let foreign = |kind, fields: &[(&'static str, bool)]| match fields.iter().find(|(_, there)| *there) {
            Some((field, _)) => Err(BadNode::Foreign { kind, field }),
            None => Ok(()),
        };
        let kind = match kind.unwrap_or(NodeKindName::Agent) {
            NodeKindName::Agent => {
                let strangers = [
                    ("base_url", base_url.is_some()),
                    ("models", models.is_some()),
                    ("slots", slots.is_some()),
                    ("secret", secret.is_some()),
                ];
                foreign("agent", &strangers)?;
                NodeKind::Agent(Agent {
                    ingress: ingress.ok_or(BadNode::Missing("ingress"))?,
                    server_name: server_name.ok_or(BadNode::Missing("server_name"))?,
                })
            }
            NodeKindName::OpenAi => {
                let strangers = [("ingress", ingress.is_some()), ("server_name", server_name.is_some())];
                foreign("openai", &strangers)?;
                NodeKind::OpenAi(OpenAiServer {
                    base_url: base_url.ok_or(BadNode::Missing("base_url"))?,
                    models: models.ok_or(BadNode::Missing("models"))?,
                    slots: slots.unwrap_or(OpenAiServer::SLOTS),
                    secret,
                })
            }
        };
        Ok(Self { key, zone, kind })
    }
}

impl From<Node> for NodeFields {
    fn from(node: Node) -> Self {
        let Node { key: node, zone, kind } = node;
        let mut fields = Self {
            node,
            zone,
            kind: None,
            ingress: None,
            server_name: None,
            base_url: None,
            models: None,
            slots: None,
            secret: None,
        };
        match kind {
            NodeKind::Agent(Agent { ingress, server_name }) => {
                fields.ingress = Some(ingress);
                fields.server_name = Some(server_name);
            }
            NodeKind::OpenAi(OpenAiServer { base_url, models, slots, secret }) => {
                fields.kind = Some(NodeKindName::OpenAi);
                fields.base_url = Some(base_url);
                fields.models = Some(models);
                fields.slots = Some(slots);
                fields.secret = secret;
            }
        }
        fields
    }
}

impl OpenAiServer {
    /// What vLLM runs at once unless it is told otherwise.
    pub const SLOTS: u32 = 256;
}

/// How the requests of some tenants are treated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub name: PolicyName,
    /// Residency: where requests may go; absent = everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<Vec<RegionName>>,
    #[serde(default)]
    pub priority: Priority,
    #[serde(default)]
    pub resume: Resume,
}

/// What may happen to a stream whose engine died in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resume {
    /// It goes on only where the same tokens are proven.
    #[default]
    Exact,
    /// It may go on where the text is the same and the tokens may not be.
    Approximate,
    /// It ends with an error.
    Off,
}

/// Who pays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    pub name: TenantName,
    /// Absent: everywhere, standard priority, exact resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyName>,
    /// Absent = no limit. Kept and handed out; no edge enforces it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Absent = no limit. Kept and handed out; no edge enforces it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
}

/// An API key of a tenant. Its secret is kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    pub id: KeyId,
    pub tenant: TenantName,
    pub hash: KeyHash,
    /// From then on it opens nothing; absent = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_ms: Option<UnixMs>,
    /// Its scope: the models that it may ask; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<ModelName>>,
}

/// A name that clients ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub name: ModelName,
    /// How long a request may wait for its first token, whatever attempts are made; absent =
    /// [`Self::FIRST_TOKEN_SECONDS`]. For operators of models whose prompts take longer, or whose clients would rather
    /// be told soon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_seconds: Option<u32>,
    /// How long an answer may stand still before it is given up; its rest is asked for elsewhere long before. Absent =
    /// [`Self::STALL_SECONDS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_seconds: Option<u32>,
}

/// One immutable version of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    pub version: ModelVersion,
    pub model: ModelName,
    /// Where nodes find its manifest and weights: a directory on each node, as `file:///path`.
    pub source: String,
}

/// What a model's name stands for, and where it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    pub model: ModelName,
    pub version: ModelVersion,
    /// Each region at most once.
    pub placements: Vec<Placement>,
    #[serde(default)]
    pub engine: EngineSettings,
}

/// How many replicas run in a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    pub region: RegionName,
    /// On each node of the region.
    pub replicas_per_node: u16,
}

/// How each replica of a deployment runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSettings {
    /// Sequences that one replica runs at once.
    pub slots: u32,
    /// CPU threads of one replica.
    pub threads: u32,
    /// Tokens of KV cache of one replica; absent, the engine decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_tokens: Option<u64>,
    /// The least time of one decode step, for the sandbox; 0 = as fast as it goes.
    pub step_time_ms: u64,
}

/// New work goes elsewhere; what runs is finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    pub scope: DrainScope,
    /// For people; may be empty.
    #[serde(default)]
    pub reason: String,
    /// Then the leader lifts it; absent = when an operator does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_ms: Option<UnixMs>,
}

/// Any resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    Region(Region),
    Zone(Zone),
    Node(Node),
    Policy(Policy),
    Tenant(Tenant),
    Key(Key),
    Model(Model),
    Version(Version),
    Deployment(Deployment),
    Drain(Drain),
}

/// A resource as the control plane keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    pub resource: Resource,
    /// The write that made or last changed it; what an expected revision is compared with.
    pub revision: Revision,
    /// When it was first made, by the clock of the proposer.
    pub created_unix_ms: UnixMs,
}

impl Region {
    pub fn at(name: RegionName, place: Place) -> Self {
        let e6 = |degrees: f64| (degrees * 1e6).round() as i32;
        Self { name, latitude_e6: e6(place.latitude), longitude_e6: e6(place.longitude) }
    }

    pub fn place(&self) -> Place {
        Place { latitude: f64::from(self.latitude_e6) / 1e6, longitude: f64::from(self.longitude_e6) / 1e6 }
    }
}

impl Model {
    /// Queueing and prefill of the longest prompt included.
    pub const FIRST_TOKEN_SECONDS: u32 = 60;
    /// Far above the slowest step of a loaded engine, where there is no other place to go.
    pub const STALL_SECONDS: u32 = 30;

    pub fn named(name: ModelName) -> Self {
        Self { name, first_token_seconds: None, stall_seconds: None }
    }
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self { slots: 8, threads: 1, kv_tokens: None, step_time_ms: 0 }
    }
}

impl Resume {
    pub const ALL: [Self; 3] = [Self::Exact, Self::Approximate, Self::Off];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Approximate => "approximate",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Resume {
    type Err = BadResume;

    fn from_str(text: &str) -> Result<Self, BadResume> {
        Self::ALL.into_iter().find(|resume| resume.as_str() == text).ok_or(BadResume)
    }
}

/// A text that names no way to resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("resume is exact, approximate or off")]
pub struct BadResume;

impl Resource {
    pub fn id(&self) -> ResourceId {
        match self {
            Self::Region(region) => ResourceId::Region(region.name.clone()),
            Self::Zone(zone) => ResourceId::Zone(zone.region.clone(), zone.name.clone()),
            Self::Node(node) => ResourceId::Node(node.key.clone()),
            Self::Policy(policy) => ResourceId::Policy(policy.name.clone()),
            Self::Tenant(tenant) => ResourceId::Tenant(tenant.name.clone()),
            Self::Key(key) => ResourceId::Key(key.id),
            Self::Model(model) => ResourceId::Model(model.name.clone()),
            Self::Version(version) => ResourceId::Version(version.version),
            Self::Deployment(deployment) => ResourceId::Deployment(deployment.model.clone()),
            Self::Drain(drain) => ResourceId::Drain(drain.scope.clone()),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Region(_) => Kind::Region,
            Self::Zone(_) => Kind::Zone,
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
