//! What one edge knows and may still spend, with the real code of [`policy`].

use policy::{Health, ResumeBudget, ResumePacer, RetryBudget, RoutingTable};
use types::RegionName;

pub(super) struct Edge {
    pub(super) here: RegionName,
    pub(super) health: Health,
    pub(super) retries: RetryBudget,
    pub(super) resumes: ResumeBudget,
    pub(super) pacer: ResumePacer,
    /// Prompt tokens of requests that came since the last second began.
    pub(super) fresh_tokens: u64,
}

impl Edge {
    pub(super) fn new(here: RegionName, table: &RoutingTable) -> Self {
        let mut edge = Self {
            here,
            health: Health::default(),
            retries: RetryBudget::default(),
            resumes: ResumeBudget::default(),
            pacer: ResumePacer::default(),
            fresh_tokens: 0,
        };
        edge.health.follow(table);
        edge
    }
}
