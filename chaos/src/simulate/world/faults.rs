//! What goes wrong, and right again.

use super::{Event, SILENCE_SEEN, World};
use crate::simulate::edge::Edge;
use crate::simulate::plan::Fault;
use std::time::Duration;

impl World<'_> {
    pub(super) fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::NodeDies { region, node } => self.node_dies(self.node_at(region, node), None),
            Fault::NodeReturns { region, node } => self.node_returns(self.node_at(region, node)),
            Fault::RegionDies { region } => {
                self.powerless.insert(region);
                for node in self.nodes_of(region) {
                    self.node_dies(node, Some(SILENCE_SEEN));
                }
            }
            Fault::RegionReturns { region } => {
                self.powerless.remove(&region);
                for node in self.nodes_of(region) {
                    self.node_returns(node);
                }
            }
            Fault::NodeSlow { region, node, times } => {
                let node = self.node_at(region, node);
                self.nodes[node].slow = times;
            }
            Fault::NodeSick { region, node, sick } => {
                let node = self.node_at(region, node);
                self.nodes[node].sick = sick;
            }
            Fault::Signals { stopped } => self.signals_stopped = stopped,
            Fault::OneWay { edge, region, silent: true } => {
                self.silent.insert((edge, region));
                for node in self.nodes_of(region) {
                    for attempt in self.in_hand[node].clone() {
                        if self.requests[self.attempts[attempt].request].edge == edge {
                            self.after(SILENCE_SEEN, Event::Lost { attempt, after_head: true });
                        }
                    }
                }
            }
            Fault::OneWay { edge, region, silent: false } => {
                self.silent.remove(&(edge, region));
            }
            Fault::EdgeRestarts { region } => {
                self.edges[region] = Edge::new(self.plan.regions[region].name.clone(), &self.table);
            }
        }
    }

    fn node_at(&self, region: usize, node: usize) -> usize {
        self.plan.regions[..region].iter().map(|region| region.nodes).sum::<usize>() + node
    }

    fn nodes_of(&self, region: usize) -> std::ops::Range<usize> {
        self.node_at(region, 0)..self.node_at(region + 1, 0)
    }

    /// Its kernel tells the edges, or nobody does.
    fn node_dies(&mut self, node: usize, seen_after: Option<Duration>) {
        for attempt in std::mem::take(&mut self.in_hand[node]) {
            self.attempts[attempt].produced = self.nodes[node].produced(attempt, self.now);
            let way = self.one_way(self.requests[self.attempts[attempt].request].edge, node);
            self.after(seen_after.unwrap_or(way), Event::Lost { attempt, after_head: true });
        }
        self.nodes[node].die();
    }

    fn node_returns(&mut self, node: usize) {
        if !self.nodes[node].alive {
            self.nodes[node].start_anew();
        }
    }
}
