//! A world in one thread, to see how the edge's decisions hold against faults and load.
//!
//! Time is a number and all chance comes from one seed, so a run repeats bit for bit. What decides is the real
//! [`policy`] crate; nodes, links and clients are models: a node computes prompts one after the other, answers grow
//! at a steady pace in a number of slots, prompts' beginnings stay in a cache that forgets the longest unused.
//!
//! In reading order: [`plan`] what is to happen · [`arrivals`] requests · [`node`] what computes them · [`world`] the
//! course of events, with the edges in it · [`tally`] what came of it · [`plot`] the same as pictures.

pub mod arrivals;
mod edge;
mod node;
pub mod plan;
pub mod plot;
pub mod tally;
mod world;

pub use plan::{Arrivals, Fault, NodePlan, Plan, Settings};
pub use tally::Tally;

/// Lets a plan happen.
pub fn run(plan: &Plan) -> Tally {
    world::World::new(plan).run()
}
