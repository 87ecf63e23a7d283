//! What all parts of one agent share.

use crate::load;
use crate::metrics::Metrics;
use crate::slot::Slots;
use std::sync::Arc;
use tokio_util::task::TaskTracker;
use types::{LoadFrame, ModelVersion, NodeName, RegionName};

pub struct Node {
    pub region: RegionName,
    pub name: NodeName,
    pub slots: Arc<Slots>,
    pub metrics: Metrics,
    /// Holds a token for each request until its answer has ended; drain waits for it.
    pub in_flight: TaskTracker,
    boot: u64,
}

impl Node {
    /// A node on which no version has a place yet.
    pub fn new(region: RegionName, name: NodeName, waiting_max: usize) -> Arc<Self> {
        Arc::new(Self {
            region,
            name,
            slots: Slots::new(waiting_max),
            metrics: Metrics::new(),
            in_flight: TaskTracker::new(),
            boot: getrandom::u64().expect("the operating system gives randomness to a running process"),
        })
    }

    /// The load of one version now; none for a version that has no place here.
    pub fn load(&self, version: ModelVersion) -> Option<LoadFrame> {
        let survey = self.slots.survey(version)?;
        let frame = load::sum(&survey.census, &survey.readings, survey.is_draining);
        Some(LoadFrame { boot: self.boot, sequence: survey.sequence, ..frame })
    }

    /// The load of each version that has a place here.
    pub fn loads(&self) -> Vec<(ModelVersion, LoadFrame)> {
        let versions = self.slots.census().into_keys();
        versions.filter_map(|version| Some((version, self.load(version)?))).collect()
    }
}
