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
    versions: Vec<ModelVersion>,
    boot: u64,
}

impl Node {
    /// A node for these versions, none of which serves yet.
    pub fn new(
        region: RegionName,
        name: NodeName,
        versions: impl IntoIterator<Item = ModelVersion>,
        waiting_max: usize,
    ) -> Arc<Self> {
        let mut versions: Vec<_> = versions.into_iter().collect();
        versions.sort_unstable();
        versions.dedup();
        Arc::new(Self {
            region,
            name,
            slots: Slots::new(versions.iter().copied(), waiting_max),
            metrics: Metrics::new(),
            in_flight: TaskTracker::new(),
            versions,
            boot: getrandom::u64().expect("the operating system gives randomness to a running process"),
        })
    }

    pub fn versions(&self) -> &[ModelVersion] {
        &self.versions
    }

    /// The load of one version now; none for a version that this node does not know.
    pub fn load(&self, version: ModelVersion) -> Option<LoadFrame> {
        let survey = self.slots.survey(version)?;
        let frame = load::sum(&survey.census, &survey.readings, survey.is_draining);
        Some(LoadFrame { boot: self.boot, sequence: survey.sequence, ..frame })
    }
}
