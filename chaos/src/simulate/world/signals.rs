//! What edges hear of nodes without asking for work: probes, and reports on a longer way.

use super::{Event, World, clock};
use crate::simulate::node::Node;
use policy::pace::spare;
use std::time::Duration;

impl World<'_> {
    pub(super) fn probes(&mut self, edge: usize, node: usize) {
        if self.goes_on() {
            self.after(PROBE_INTERVAL, Event::Probes { edge, node });
        }
        let rtt = 2 * self.one_way(edge, node);
        let region = self.nodes[node].region;
        let is_mute = self.signals_stopped || self.silent.contains(&(edge, region));
        if is_mute || self.powerless.contains(&region) {
            self.after(PROBE_PATIENCE, Event::ProbeMissed { edge, node });
        } else if self.nodes[node].alive {
            let frame = self.nodes[node].frame();
            self.after(rtt, Event::ProbeAnswered { edge, node, frame, rtt });
        } else {
            self.after(rtt, Event::ProbeMissed { edge, node });
        }
    }

    pub(super) fn reports(&mut self, node: usize) {
        if self.goes_on() {
            self.after(Duration::from_secs(1), Event::Reports(node));
        }
        if !self.nodes[node].alive || self.signals_stopped {
            return;
        }
        let frame = self.nodes[node].frame();
        for edge in 0..self.edges.len() {
            let age = self.one_way(edge, node) + Duration::from_millis(self.rng.u64(100..600));
            if self.rng.u32(0..100) >= REPORTS_LOST_PERCENT {
                self.after(age, Event::Reported { edge, node, frame, age });
            }
        }
    }

    pub(super) fn second(&mut self) {
        if self.goes_on() {
            self.after(Duration::from_secs(1), Event::Second);
        }
        let now = clock(self.now);
        for node in &self.nodes {
            let longest = &mut self.tally.second(self.now).queued_max[node.region];
            *longest = (*longest).max(node.queued() as u32);
        }
        let edges = self.edges.len() as u64;
        for edge in &mut self.edges {
            let is_up = |node: &&Node| edge.health.node(&node.key).is_some_and(|seen| !seen.is_down());
            let up = self.nodes.iter().filter(is_up).count() as u64;
            let capacity = up * u64::from(self.plan.node.prefill_tokens_per_s) / edges;
            edge.pacer.set_rate(spare(capacity, std::mem::take(&mut edge.fresh_tokens)), now);
        }
    }
}

const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_PATIENCE: Duration = Duration::from_millis(400);
const REPORTS_LOST_PERCENT: u32 = 5;
