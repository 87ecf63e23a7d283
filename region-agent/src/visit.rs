//! That a request is here, and how it left: counted exactly once, on whatever way it goes.

use crate::metrics::{Kind, Outcome};
use crate::node::Node;
use std::sync::Arc;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Lives as long as the request, from its head to the end of its answer. Drain waits for it.
pub struct Visit {
    node: Arc<Node>,
    kind: Kind,
    outcome: Outcome,
    _in_flight: TaskTrackerToken,
}

impl Visit {
    pub fn begin(node: &Arc<Node>, kind: Kind) -> Self {
        // Unless somebody says otherwise before the request is dropped, its edge has dropped it.
        Self { node: node.clone(), kind, outcome: Outcome::Cancelled, _in_flight: node.in_flight.token() }
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub fn ends(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.node.metrics.count(self.kind, self.outcome);
    }
}
