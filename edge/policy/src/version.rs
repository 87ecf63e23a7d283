//! Which version of a model a request gets while a deployment changes from one to another.
//!
//! A name stands for its new version as soon as an operator says so, and its engines need minutes to load it. Nodes
//! keep the former version until then; so do requests. There are no stages in this: it bridges a change, and how
//! traffic should move is for rollouts to say.

use crate::health::Health;
use crate::table::{Model, RoutingTable};
use types::{ModelVersion, Monotonic, RegionName};

/// The new version once no more nodes serve the former one than serve it, among those that the tenant may use.
pub fn version(
    health: &mut Health,
    model: Model,
    regions: Option<&[RegionName]>,
    now: Monotonic,
) -> ModelVersion {
    let Some(former) = model.former else { return model.version };
    let mut serving = |version| {
        health.catch_up(version, now);
        let there = health.index.regions.iter().zip(health.index.pools(version));
        let allowed =
            there.filter(|(region, _)| regions.is_none_or(|regions| regions.contains(&region.name)));
        allowed.map(|(_, pool)| pool.sums.ready).sum::<u64>()
    };
    if serving(former) > serving(model.version) { former } else { model.version }
}

impl RoutingTable {
    /// Remembers what each model stood for in the table before.
    #[must_use]
    pub fn succeeding(mut self, before: &Self) -> Self {
        for (name, model) in &mut self.models {
            let Some(before) = before.models.get(name) else { continue };
            model.former = match before.version == model.version {
                true => before.former,
                false => Some(before.version),
            };
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Node, Region, Waits};
    use std::collections::BTreeMap;
    use std::time::Duration;
    use types::intent::Agent;
    use types::intent::NodeKind;
    use types::{LoadFrame, LoadState, NodeKey, Place, UnixMs};

    fn digest(byte: u8) -> ModelVersion {
        ModelVersion::from_digest([byte; 32])
    }

    fn table(version: u8) -> RoutingTable {
        let mut table = RoutingTable::default();
        for name in ["us-east", "eu-west", "ap-south"] {
            let region: RegionName = name.parse().unwrap();
            let place = Place { latitude: 0.0, longitude: 0.0 };
            table.regions.insert(region.clone(), Region { place, drained: false });
            let node = Node {
                zone: "a".parse().unwrap(),
                kind: NodeKind::Agent(Agent {
                    ingress: ([127, 0, 0, 1], 7443).into(),
                    server_name: "n".to_owned(),
                }),
                drained: false,
            };
            table.nodes.insert(NodeKey { region, node: "n1".parse().unwrap() }, node);
        }
        let model =
            Model { version: digest(version), former: None, created: UnixMs(0), waits: Waits::default() };
        table.models = BTreeMap::from([("m".parse().unwrap(), model)]);
        table
    }

    fn serve(health: &mut Health, region: &str, versions: &[u8]) {
        let key = NodeKey { region: region.parse().unwrap(), node: "n1".parse().unwrap() };
        let frame = LoadFrame { state: LoadState::Serving, replicas: 1, ..LoadFrame::default() };
        let frames: Vec<_> = versions.iter().map(|version| (digest(*version), frame)).collect();
        health.probe_answered(&key, &frames, Duration::ZERO, Monotonic::from_micros(0));
    }

    #[test]
    fn requests_stay_with_the_former_version_until_the_new_one_is_served_as_widely() {
        let mut changed = table(2).succeeding(&table(1));
        let mut health = Health::default();
        health.follow(&changed);
        let model = changed.models["m"];
        let now = Monotonic::from_micros(0);
        let ask = |table: &RoutingTable, health: &mut Health, regions| {
            health.follow(table);
            version(health, model, regions, now)
        };
        assert_eq!(ask(&changed, &mut health, None), digest(2), "nobody serves either");
        for region in ["us-east", "eu-west", "ap-south"] {
            serve(&mut health, region, &[1]);
        }
        assert_eq!(ask(&changed, &mut health, None), digest(1));
        serve(&mut health, "us-east", &[2]);
        assert_eq!(ask(&changed, &mut health, None), digest(1));
        let us = ["us-east".parse().unwrap()];
        assert_eq!(ask(&changed, &mut health, Some(&us)), digest(2), "only what the tenant may use counts");
        let eu = "eu-west".parse::<RegionName>().unwrap();
        changed.regions.get_mut(&eu).unwrap().drained = true;
        assert_eq!(ask(&changed, &mut health, None), digest(2), "a drained region counts for neither");
        changed.regions.get_mut(&eu).unwrap().drained = false;
        serve(&mut health, "eu-west", &[1, 2]);
        assert_eq!(ask(&changed, &mut health, None), digest(2));
    }

    #[test]
    fn the_former_version_is_remembered_over_other_changes() {
        let changed = table(2).succeeding(&table(1));
        assert_eq!(changed.models["m"].former, Some(digest(1)));
        assert_eq!(table(2).succeeding(&changed).models["m"].former, Some(digest(1)));
        assert_eq!(table(3).succeeding(&changed).models["m"].former, Some(digest(2)));
        assert_eq!(table(1).succeeding(&RoutingTable::default()).models["m"].former, None);
    }
}
