//! Intent: what operators want, as the control plane replicates it and everybody else receives it.
//!
//! In reading order: [`resource`] the kinds of things and their fields · [`resource_id`] how one is named ·
//! [`write`] how they are changed, and why a change is refused · [`revision`] how far a picture of them has come.

pub mod resource;
pub mod resource_id;
pub mod revision;
pub mod write;

pub use resource::{
    Agent, Deployment, Drain, EngineSettings, Key, Model, Node, NodeKind, OpenAiServer, Placement, Policy,
    Region, Resource, Resume, Stored, Tenant, Version, Zone,
};
pub use resource_id::{BadResourceId, DrainScope, Kind, NodeKey, ResourceId};
pub use revision::{Incarnation, Position, Revision};
pub use write::{Change, ClientId, Expect, Fault, Reason, What, Write, is_large_loss};
