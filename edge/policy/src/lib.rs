//! Decides where a request goes. Pure: time comes in as an argument, nothing waits, nothing is sent.
//!
//! In reading order: [`table`] what an edge knows of the world · [`breaker`] stops sending to a node that
//! keeps failing · [`ejection`] how many may be left alone at once · [`health`] what this edge has seen of each node · [`mod@version`] which version of a model ·
//! [`mod@route`] the choice itself · [`budget`] how much may be done twice · [`hedge`] when a second attempt is sent
//! beside the first · [`pace`] in which order broken streams go on · [`vantage`] whether a region is dead for all.
//!
//! The edge, the tests and, later, the simulator and DNS run the same lines.

pub mod breaker;
pub mod budget;
pub mod ejection;
pub mod health;
pub mod hedge;
pub mod pace;
pub mod route;
pub mod table;
pub mod vantage;
pub mod version;

pub use breaker::{Breaker, Outcome};
pub use budget::{ResumeBudget, RetryBudget};
pub use health::{Cost, Health, Held, NodeHealth};
pub use hedge::{FirstTokens, HedgeBudget};
pub use pace::{LineFull, ResumePacer, Ticket, Turn};
pub use route::{
    Ask, Candidate, Choice, Explanation, NoRoute, Prediction, Purpose, Reason, Veto, explain, route,
};
pub use table::{BadTable, Model, Node, Region, RoutingTable};
pub use version::version;
