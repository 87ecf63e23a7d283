//! Decides where a request goes. Pure: time comes in as an argument, nothing waits, nothing is sent.
//!
//! In reading order: [`table`] what an edge knows of the world · [`breaker`] stops sending to a node that
//! keeps failing · [`health`] what this edge has seen of each node · [`mod@version`] which version of a model ·
//! [`mod@route`] the choice itself.
//!
//! The edge, the tests and, later, the simulator and DNS run the same lines.

pub mod breaker;
pub mod health;
pub mod route;
pub mod table;
pub mod version;

pub use breaker::{Breaker, Outcome, Permit};
pub use health::{Health, NodeHealth};
pub use route::{Ask, Choice, NoRoute, Plan, Veto, route};
pub use table::{BadTable, Model, Node, Region, RoutingTable};
pub use version::version;
