//! What is to happen in a simulated world.

use super::arrivals::Traced;
use std::rc::Rc;
use std::time::Duration;
use types::{Place, RegionName};

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    /// Arrivals stop then; what runs is brought to its end.
    pub lasts: Duration,
    pub regions: Vec<RegionPlan>,
    pub node: NodePlan,
    pub arrivals: Arrivals,
    pub faults: Vec<(Duration, Fault)>,
    pub settings: Settings,
}

/// A region has one edge and some nodes.
#[derive(Debug, Clone)]
pub struct RegionPlan {
    pub name: RegionName,
    pub place: Place,
    pub nodes: usize,
}

/// All nodes are alike until a fault makes them different.
#[derive(Debug, Clone, Copy)]
pub struct NodePlan {
    pub slots: usize,
    pub queue_max: usize,
    pub prefill_tokens_per_s: u32,
    /// Between two tokens of one answer.
    pub step: Duration,
    /// What the cache of prompts' beginnings holds.
    pub cache_blocks: usize,
}

#[derive(Debug, Clone)]
pub enum Arrivals {
    /// At so many percent of what all nodes can prefill, the same at every edge.
    Poisson { percent: u32, output_tokens_mean: u32 },
    /// As recorded. Conversations stay with one edge.
    Trace(Rc<[Traced]>),
}

/// Regions and nodes by their place in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed: its kernel says so to everybody at once.
    NodeDies {
        region: usize,
        node: usize,
    },
    NodeReturns {
        region: usize,
        node: usize,
    },
    /// The power is cut: nothing answers any more. The region's edge goes on, elsewhere.
    RegionDies {
        region: usize,
    },
    RegionReturns {
        region: usize,
    },
    /// Whatever begins there from now on takes so many times as long.
    NodeSlow {
        region: usize,
        node: usize,
        times: u32,
    },
    /// Every request that reaches the node is broken off; probes are answered as if nothing were wrong.
    NodeSick {
        region: usize,
        node: usize,
        sick: bool,
    },
    /// No probes, reports and load frames reach any edge.
    Signals {
        stopped: bool,
    },
    /// Nothing that a region sends reaches one edge; what the edge sends arrives.
    OneWay {
        edge: usize,
        region: usize,
        silent: bool,
    },
    /// An edge forgets everything that it learnt.
    EdgeRestarts {
        region: usize,
    },
}

/// What an edge does of its own for a request, each to be left out for comparison.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Including the first.
    pub attempts_max: u32,
    pub retry_budget: bool,
    pub resume: bool,
    pub pace: bool,
    /// Tells routing what the prompt begins with.
    pub affinity: bool,
    /// Tells the breakers what came of requests.
    pub breakers: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { attempts_max: 3, retry_budget: true, resume: true, pace: true, affinity: true, breakers: true }
    }
}

impl Default for NodePlan {
    /// Ten requests of the usual size a second.
    fn default() -> Self {
        Self {
            slots: 48,
            queue_max: 48,
            prefill_tokens_per_s: 10_000,
            step: Duration::from_millis(20),
            cache_blocks: 2_000,
        }
    }
}

impl Plan {
    /// Three regions of three nodes each.
    pub fn three_regions(seed: u64, percent: u32) -> Self {
        let region = |name: &str, latitude, longitude| RegionPlan {
            name: name.parse().expect("a region's name"),
            place: Place { latitude, longitude },
            nodes: 3,
        };
        Self {
            seed,
            lasts: Duration::from_secs(240),
            regions: vec![
                region("us-east", 39.0, -77.5),
                region("eu-west", 53.3, -6.3),
                region("ap-south", 19.1, 72.9),
            ],
            node: NodePlan::default(),
            arrivals: Arrivals::Poisson { percent, output_tokens_mean: 100 },
            faults: Vec::new(),
            settings: Settings::default(),
        }
    }

    /// Answers of half a minute, and slots for them: a lost region then breaks hundreds of streams at once.
    pub fn long_answers(seed: u64, percent: u32) -> Self {
        let mut plan = Self::three_regions(seed, percent);
        plan.node.slots = 600;
        plan.arrivals = Arrivals::Poisson { percent, output_tokens_mean: 1_500 };
        plan
    }

    #[must_use]
    pub fn with(mut self, at_s: u64, fault: Fault) -> Self {
        self.faults.push((Duration::from_secs(at_s), fault));
        self
    }

    /// Prompt tokens that all nodes of some regions compute in a second.
    pub fn capacity(&self, regions: impl IntoIterator<Item = usize>) -> f64 {
        let nodes: usize = regions.into_iter().map(|region| self.regions[region].nodes).sum();
        nodes as f64 * f64::from(self.node.prefill_tokens_per_s)
    }
}
