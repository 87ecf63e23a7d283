//! What is asked of routing, and what it answers.

use std::time::Duration;
use types::{ModelVersion, Monotonic, NodeKey, Priority, RegionName};

/// What a request needs.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub version: ModelVersion,
    /// Where the tenant's requests may go; `None` = everywhere.
    pub regions: Option<&'a [RegionName]>,
    pub priority: Priority,
    /// Known, or guessed from the body's length.
    pub prompt_tokens: u64,
    /// Hashes of the prompt's leading blocks, salted by tenant, longest last; may be empty.
    pub prefix: &'a [u64],
    /// Nodes that earlier attempts of this request went to.
    pub tried: &'a [NodeKey],
    pub purpose: Purpose,
}

/// What an attempt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    #[default]
    First,
    /// An attempt before this one brought no first token.
    Retry,
    /// A second attempt beside one that is still awaited. It is worth nothing on a node that looks ill.
    Hedge,
    /// The rest of an answer whose node was lost in its midst.
    Resume,
}

/// What one attempt costs the node that gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub version: ModelVersion,
    /// As if nothing of the prompt were held there.
    pub prefill_tokens: u64,
}

/// One node for one attempt, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub node: NodeKey,
    /// What the attempt will cost the node; [`crate::Health::begin`] takes it.
    pub cost: Cost,
    pub predicted: Prediction,
    pub reason: Reason,
    /// Whether a nearer region could have taken it, but has too much to do.
    pub spilled: bool,
}

/// What made a node the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It probably holds the prompt's beginning.
    Affinity,
    /// The better of two drawn at random.
    Balanced,
    /// Its breaker lets one request through to see how it does.
    Trial,
    /// Less than half of the capacity looks healthy, so looks are not trusted.
    Panic,
    /// Nothing speaks for it, but there is nothing else.
    LastResort,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Affinity => "affinity",
            Self::Balanced => "balanced",
            Self::Trial => "trial",
            Self::Panic => "panic",
            Self::LastResort => "last-resort",
        }
    }

    /// Whether the node was chosen although it looks ill.
    pub fn is_doubtful(self) -> bool {
        matches!(self, Self::Panic | Self::LastResort)
    }
}

/// The time to the first token, in its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prediction {
    pub rtt_us: u64,
    /// For what is queued there to be prefilled.
    pub queue_us: u64,
    /// For a place among the sequences that run at once.
    pub slot_us: u64,
    /// For this prompt, less what the node probably holds of it.
    pub prefill_us: u64,
    /// What it costs to press a request into memory that runs out.
    pub memory_us: u64,
}

impl Prediction {
    pub fn total_us(&self) -> u64 {
        self.wait_us().saturating_add(self.rtt_us).saturating_add(self.prefill_us)
    }

    /// What others' requests cost this one.
    pub fn wait_us(&self) -> u64 {
        self.queue_us.saturating_add(self.slot_us).saturating_add(self.memory_us)
    }
}

/// A fact against a node. In the order in which the filters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Veto {
    /// The tenant's requests may not go to that region.
    Residency,
    /// Operators sent new work away from the node or from its region. What runs there goes on.
    Drained,
    /// No replica of the version serves there.
    NotReady,
    /// The node says that it takes nothing new.
    Draining,
    /// A server without an agent has as many requests of this edge as operators allow.
    Full,
    /// The node does not answer probes, or has only begun to again.
    Down,
    /// The breaker is open until then.
    BreakerOpen { until: Monotonic },
    /// An earlier attempt of this request went there.
    Tried,
}

/// Why no node may serve a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    #[error("the routing table has no nodes")]
    NoNodes,
    #[error("the tenant's regions have no nodes")]
    Residency,
    #[error("every node that could serve is drained, or its region is")]
    Drained,
    #[error("no replica of this model version serves in any allowed region")]
    NotReady,
    #[error("every node that could serve is draining")]
    Draining,
    #[error("every node that could serve has as many requests as it may")]
    Full,
    /// Only of hedges: other attempts go to nodes that look ill before they go nowhere.
    #[error("every node that could serve is down")]
    Down,
    /// Only of hedges, too.
    #[error("every node that could serve failed repeatedly and is left alone for {} ms", wait.as_millis())]
    BreakersOpen { wait: Duration },
    /// Only of hedges, too.
    #[error("every node that could serve has been tried")]
    Tried,
    #[error("what is left of capacity does not reach for requests of class {class} now")]
    Shed { class: Priority, retry_after: Duration },
}
