//! Supervises engines on one node and gives them requests.
//!
//! One process per node. It starts engines as children, waits until they are ready, starts them again when they
//! end, and is the only door to them. Its ingress takes requests from edges under mutual TLS, lets them wait in a
//! bounded line per model version, and gives an engine only what it can begin at once.
//!
//! What it starts is what the control plane wants of its node, now or when it last said so: the agent keeps that on
//! disk and needs nobody to serve.
//!
//! In reading order, the agent: [`config`] what is written and what can be run · [`agent`] from start to end ·
//! [`intent`] what the control plane says · [`placement`] which place runs what (pure) · [`places`] does it ·
//! [`life`] what happens to a replica (pure) · [`supervise`] does it · [`launch`] starts processes · [`probe`] asks
//! them how they are · [`board`] what is in the places · [`admin`] and [`metrics`] what operators see.
//!
//! And a request's way: [`ingress`] who may come in · [`lobby`] where they wait for that · [`asked`] what the edge
//! wants · [`forward`] step by step · [`dispatch`] who gets which seat (pure) · [`slot`] hands seats out · [`engine`] connections to one engine ·
//! [`upload`] the body going there · [`relay`] and [`load_comment`] the answer coming back · [`refusal`] the node's
//! own word · [`visit`] counts how it ended · [`load`] what the node says of itself (pure) · [`node`] what all share.

mod admin;
mod agent;
mod asked;
pub mod board;
mod config;
mod dispatch;
pub mod engine;
mod forward;
pub mod ingress;
pub mod intent;
pub mod launch;
mod life;
mod load;
mod load_comment;
mod lobby;
mod metrics;
pub mod node;
pub mod placement;
pub mod places;
mod probe;
mod refusal;
mod relay;
mod slot;
mod supervise;
mod upload;
mod visit;

pub use agent::{StartError, load_identity, run};
pub use config::{Config, ConfigError, File, Problem};
