//! Ids, units and plain data that every part of Rhumb speaks of. Pure: no clock, no dice, no I/O.
//!
//! In reading order: [`name`] what operators name · [`version`] model versions, named by digest ·
//! [`id`] requests, keys and replicas · [`api_key`] what clients prove themselves by · [`time`] clocks as values · [`units`] quantities ·
//! [`event`] positions and hashes of the internal stream · [`resume`] how a broken one is asked to go on · [`load`] what a node says of itself ·
//! [`dial_map`] which address is dialled in place of another · [`base_url`] where a server without an agent is ·
//! [`failure`] why an attempt failed · [`header`] the internal headers · [`intent`] what operators want.

pub mod api_key;
pub mod base_url;
pub mod dial_map;
pub mod event;
pub mod failure;
pub mod header;
pub mod id;
pub mod intent;
pub mod load;
pub mod name;
pub mod resume;
pub mod time;
pub mod units;
pub mod version;

pub use api_key::{ApiKey, BadApiKey, KeyHash};
pub use base_url::{BadBaseUrl, BaseUrl};
pub use dial_map::DialMap;
pub use event::{EventId, PrefixHash, StreamBroken, StreamPosition};
pub use failure::Failure;
pub use id::{KeyId, ReplicaId, RequestId};
pub use intent::NodeKey;
pub use load::{LoadFrame, LoadState};
pub use name::{BadName, ModelName, NodeName, PolicyName, RegionName, SecretName, TenantName, ZoneName};
pub use resume::{BadResume, ResumeLine};
pub use time::{Monotonic, UnixMs};
pub use units::{Place, Priority};
pub use version::{BadVersion, ModelVersion};
