//! Decides where a request goes. Pure: time comes in as an argument, nothing waits, nothing is sent.
//!
//! In reading order: [`table`] what an edge knows of the world · [`mod@ask`] what is asked of routing and what it
//! answers · [`signals`] what was heard of one version on one node · [`node`] what this edge has seen of one node ·
//! [`health`] of all nodes · [`index`] and [`pool`] sums that spare a decision the walk over them · [`mod@version`]
//! which version of a model · [`mod@route`] the choice, by [`predict`] how long a node needs, [`mod@region`] which
//! region, [`pick`] which node, [`shift`] and [`slow_start`] how fast work moves, [`recent`] where a prompt's
//! beginning is, [`geography`] how far regions are · [`mod@explain`] tells all of it · [`breaker`] stops sending to a
//! node that keeps failing · [`ejection`] how many may be left alone at once · [`budget`] how much may be done twice ·
//! [`hedge`] when a second attempt is sent beside the first · [`pace`] in which order broken streams go on ·
//! [`vantage`] whether a region is dead for all.
//!
//! The edge, the tests and, later, the simulator and DNS run the same lines.

pub mod ask;
pub mod breaker;
pub mod budget;
pub mod ejection;
pub mod explain;
mod geography;
mod hash;
pub mod health;
pub mod hedge;
mod index;
pub mod node;
pub mod pace;
mod pick;
mod pool;
mod predict;
mod recent;
mod region;
pub mod route;
mod shift;
mod signals;
mod slow_start;
pub mod table;
pub mod vantage;
pub mod version;

pub use ask::{Ask, Choice, Cost, NoRoute, Prediction, Purpose, Reason, Veto};
pub use breaker::{Breaker, Outcome};
pub use budget::{ResumeBudget, RetryBudget};
pub use explain::{Candidate, Explanation, RegionSeen, explain};
pub use health::{Health, Held};
pub use hedge::{FirstTokens, HedgeBudget};
pub use node::{NodeHealth, Standing};
pub use pace::{LineFull, ResumePacer, Ticket, Turn};
pub use route::route;
pub use signals::Readiness;
pub use table::{BadTable, Model, Node, Region, RoutingTable, Waits};
pub use version::version;
