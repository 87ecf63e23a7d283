//! What a sandbox wants of its own cluster: everything at the first start, and afterwards only what must differ.
//!
//! The cluster belongs to who operates it: what they changed or removed stays as they left it.

use crate::sandbox::house_model::{self, HouseModel};
use crate::sandbox::layout::{ENGINES_PER_REGION, Layout, Role, Seat};
use crate::sandbox::places;
use std::collections::BTreeMap;
use types::intent::{
    Agent, Change, Deployment, DrainScope, EngineSettings, Expect, Key, Kind, Model, Node, NodeKey, NodeKind,
    Placement, Region, Resource, ResourceId, Stored, Tenant, Version, What, Zone,
};
use types::{ApiKey, ModelName, RegionName, TenantName};

/// What the cluster holds, by name.
pub type Current = BTreeMap<ResourceId, Stored>;

/// What this start brings along.
#[derive(Debug, Clone)]
pub struct Seed {
    pub regions: Vec<(Region, Zone, Node)>,
    pub key: Key,
    /// It was made just now; one that is kept and yet unknown to the cluster was revoked.
    pub key_is_new: bool,
    pub version: Version,
    /// None = as it was.
    pub step_time_ms: Option<u64>,
}

/// Changes that happen together.
pub type Batch = Vec<Change>;

/// What a seeded cluster can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// How many replicas each region should serve.
    pub replicas: BTreeMap<RegionName, usize>,
    /// What every edge should make of a request with the sandbox's own key for the house model.
    pub answers: Answers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// Serve it.
    Served,
    /// Serve it, or refuse it because it is not to be served.
    Decided,
    /// Anything: it is known that it cannot be served.
    Unasked,
}

impl Seed {
    pub fn new(
        layout: &Layout,
        cluster: &str,
        (key, key_is_new): (&ApiKey, bool),
        house: &HouseModel,
        step_time_ms: Option<u64>,
    ) -> Self {
        let region = |seat: Seat| {
            let node = Node {
                key: NodeKey { region: seat.region.clone(), node: seat.node() },
                zone: seat.zone(),
                kind: NodeKind::Agent(Agent {
                    ingress: seat.agent_ingress(),
                    server_name: seat.name(Role::RegionAgent, cluster).host_name(),
                }),
            };
            let zone = Zone { region: seat.region.clone(), name: seat.zone() };
            (Region::at(seat.region.clone(), places::of(&seat.region)), zone, node)
        };
        Self {
            regions: layout.seats().map(region).collect(),
            key: Key {
                id: key.id(),
                tenant: tenant(),
                hash: key.hash(),
                expires_unix_ms: None,
                models: None,
            },
            key_is_new,
            version: Version {
                version: house.version,
                model: model(),
                source: format!("file://{}", house.dir.display()),
            },
            step_time_ms,
        }
    }

    /// The writes that are needed, one after the other; none if all is as it should be.
    pub fn plan(&self, current: &Current) -> Vec<Batch> {
        let is_founded = current.keys().any(|id| id.kind() == Kind::Region);
        if !is_founded {
            return vec![self.everything()];
        }
        let (mut first, mut second) = (Batch::new(), Batch::new());
        let new_regions = self.regions_that_differ(current, &mut first);
        self.nodes_that_left(current, &mut first);
        self.key_if_new(current, &mut first);
        self.model_that_differs(current, &new_regions, &mut first, &mut second);
        [first, second].into_iter().filter(|batch| !batch.is_empty()).collect()
    }

    fn everything(&self) -> Batch {
        let mut resources = Vec::new();
        for (region, zone, node) in &self.regions {
            resources.push(Resource::Region(region.clone()));
            resources.push(Resource::Zone(zone.clone()));
            resources.push(Resource::Node(node.clone()));
        }
        let placements = self.regions.iter().map(|(region, ..)| placement(&region.name)).collect();
        resources.extend([
            Resource::Tenant(Tenant {
                name: tenant(),
                policy: None,
                requests_per_minute: None,
                tokens_per_minute: None,
            }),
            Resource::Key(self.key.clone()),
            Resource::Model(Model::named(model())),
            Resource::Version(self.version.clone()),
            Resource::Deployment(Deployment {
                model: model(),
                version: self.version.version,
                placements,
                engine: EngineSettings {
                    step_time_ms: self.step_time_ms.unwrap_or(STEP_TIME_MS),
                    ..EngineSettings::default()
                },
            }),
        ]);
        resources.into_iter().map(|resource| put(resource, Expect::Absent)).collect()
    }

    fn regions_that_differ(&self, current: &Current, batch: &mut Batch) -> Vec<RegionName> {
        let mut new = Vec::new();
        for (region, zone, node) in &self.regions {
            let region_is_new = add(current, batch, Resource::Region(region.clone()));
            if region_is_new {
                new.push(region.name.clone());
            }
            add(current, batch, Resource::Zone(zone.clone()));
            // Another subnet or order of regions gives it another address.
            replace(current, batch, Resource::Node(node.clone()));
        }
        new
    }

    /// A node of a region that this start leaves out would only be dialled in vain. The region itself stays, for
    /// policies may name it.
    fn nodes_that_left(&self, current: &Current, batch: &mut Batch) {
        let name = |node: &Node| {
            let (_, _, ours) = self.regions.first().expect("a sandbox has a region");
            let suffix = |node: &Node| {
                let NodeKind::Agent(agent) = &node.kind else { return None };
                let suffix = format!(".{}.rhumb.internal", node.key.region);
                agent.server_name.strip_suffix(&suffix).map(str::to_owned)
            };
            node.key.node == ours.key.node && suffix(node) == suffix(ours)
        };
        for stored in current.values() {
            let Resource::Node(node) = &stored.resource else { continue };
            let stays = self.regions.iter().any(|(region, ..)| region.name == node.key.region);
            if stays || !name(node) {
                continue;
            }
            batch.push(delete(stored));
            let drain = ResourceId::Drain(DrainScope::Node(node.key.clone()));
            batch.extend(current.get(&drain).map(delete));
        }
    }

    fn key_if_new(&self, current: &Current, batch: &mut Batch) {
        let tenant_is_there = current.contains_key(&ResourceId::Tenant(tenant()));
        if self.key_is_new && tenant_is_there {
            add(current, batch, Resource::Key(self.key.clone()));
        }
    }

    fn model_that_differs(
        &self,
        current: &Current,
        new_regions: &[RegionName],
        first: &mut Batch,
        second: &mut Batch,
    ) {
        if !current.contains_key(&ResourceId::Model(model())) {
            return;
        }
        let kept = current.get(&ResourceId::Version(self.version.version));
        let is_elsewhere = matches!(kept.map(|kept| &kept.resource), Some(Resource::Version(kept)) if kept.source != self.version.source);
        let deployment = current.get(&ResourceId::Deployment(model()));
        let wanted = deployment.and_then(|stored| {
            let Resource::Deployment(deployment) = &stored.resource else { return None };
            Some((stored, deployment, self.adapted(current, deployment, new_regions)))
        });
        if !is_elsewhere {
            add(current, first, Resource::Version(self.version.clone()));
            if let Some((stored, kept, wanted)) = wanted
                && *kept != wanted
            {
                first.push(put(Resource::Deployment(wanted), Expect::Revision(stored.revision)));
            }
            return;
        }
        // The data directory was moved. A version's source never changes, so it is made anew, and what names it too.
        first.extend(kept.map(delete));
        second.push(put(Resource::Version(self.version.clone()), Expect::Absent));
        match wanted {
            Some((stored, kept, wanted)) if kept.version == self.version.version => {
                first.push(delete(stored));
                second.push(put(Resource::Deployment(wanted), Expect::Absent));
            }
            Some((stored, kept, wanted)) if *kept != wanted => {
                second.push(put(Resource::Deployment(wanted), Expect::Revision(stored.revision)));
            }
            _ => {}
        }
    }

    /// The deployment as it should be now. Another model version than the house's is an operator's choice.
    fn adapted(&self, current: &Current, kept: &Deployment, new_regions: &[RegionName]) -> Deployment {
        let mut wanted = kept.clone();
        for region in new_regions {
            if !kept.placements.iter().any(|placement| placement.region == *region) {
                wanted.placements.push(placement(region));
            }
        }
        if let Some(step_time_ms) = self.step_time_ms {
            wanted.engine.step_time_ms = step_time_ms;
        }
        let is_a_house_version =
            match current.get(&ResourceId::Version(kept.version)).map(|kept| &kept.resource) {
                Some(Resource::Version(version)) => house_model::is_source(&version.source, version.version),
                _ => false,
            };
        if is_a_house_version {
            wanted.version = self.version.version;
        }
        wanted
    }
}

impl Goal {
    /// What follows from the intent for the regions of a sandbox that asks with this key.
    pub fn of(current: &Current, layout: &Layout, key: &ApiKey) -> Self {
        let mut replicas: BTreeMap<RegionName, usize> =
            layout.regions.names().iter().map(|name| (name.clone(), 0)).collect();
        let is_drained = |region: &RegionName| {
            current.contains_key(&ResourceId::Drain(DrainScope::Region(region.clone())))
        };
        let mut house_serves = false;
        for stored in current.values() {
            let Resource::Deployment(deployment) = &stored.resource else { continue };
            for placement in &deployment.placements {
                let Some(count) = replicas.get_mut(&placement.region) else { continue };
                *count += usize::from(placement.replicas_per_node);
                let serves = placement.replicas_per_node > 0 && !is_drained(&placement.region);
                house_serves |= serves && deployment.model == model();
            }
        }
        let answers = match house_serves && current.contains_key(&ResourceId::Key(key.id())) {
            true => Answers::Served,
            false => Answers::Unasked,
        };
        Self { replicas, answers }
    }
}

/// Who pays in a sandbox.
pub fn tenant() -> TenantName {
    TENANT.parse().expect("the name fits its pattern")
}

fn model() -> ModelName {
    house_model::NAME.parse().expect("the name fits its pattern")
}

fn placement(region: &RegionName) -> Placement {
    Placement { region: region.clone(), replicas_per_node: ENGINES_PER_REGION }
}

/// Adds what is not there; true if it was not.
fn add(current: &Current, batch: &mut Batch, resource: Resource) -> bool {
    let is_new = !current.contains_key(&resource.id());
    if is_new {
        batch.push(put(resource, Expect::Absent));
    }
    is_new
}

fn replace(current: &Current, batch: &mut Batch, resource: Resource) {
    match current.get(&resource.id()) {
        None => batch.push(put(resource, Expect::Absent)),
        Some(kept) if kept.resource != resource => {
            batch.push(put(resource, Expect::Revision(kept.revision)));
        }
        Some(_) => {}
    }
}

fn put(resource: Resource, expect: Expect) -> Change {
    Change { expect, what: What::Put(resource) }
}

fn delete(stored: &Stored) -> Change {
    Change { expect: Expect::Revision(stored.revision), what: What::Delete(stored.resource.id()) }
}

pub const TENANT: &str = "default";
/// A small model then streams about as fast as a large one.
const STEP_TIME_MS: u64 = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use types::intent::{Drain, Revision};
    use types::{ModelVersion, UnixMs};

    fn seed(regions: &str, dir: &str, step_time_ms: Option<u64>) -> Seed {
        let house = HouseModel { dir: dir.into(), version: ModelVersion::from_digest([7; 32]) };
        let layout = Layout::new(0, regions.parse().unwrap());
        Seed::new(&layout, "c", (&key(), false), &house, step_time_ms)
    }

    fn key() -> ApiKey {
        ApiKey::from_random([1; 10], [2; 32])
    }

    fn dir() -> String {
        format!("/data/models/{}", "07".repeat(6))
    }

    /// As the control plane would do it, without its checks but for what is expected.
    fn done(mut current: Current, batches: &[Batch]) -> Current {
        for (at, batch) in batches.iter().enumerate() {
            let revision = Revision(current.values().map(|stored| stored.revision.0).max().unwrap_or(0) + 1);
            for change in batch {
                let before = current.get(&change.what.id());
                match change.expect {
                    Expect::Anything => panic!("everything is expected to be something"),
                    Expect::Absent => assert!(before.is_none(), "{at}: {change:?}"),
                    Expect::Revision(expected) => assert_eq!(before.unwrap().revision, expected),
                }
                match &change.what {
                    What::Put(resource) => {
                        let resource = resource.clone();
                        let stored = Stored { resource, revision, created_unix_ms: UnixMs(1) };
                        current.insert(stored.resource.id(), stored);
                    }
                    What::Delete(id) => {
                        current.remove(id);
                    }
                }
            }
        }
        current
    }

    fn founded() -> Current {
        done(Current::new(), &seed("us-east,eu-west,ap-south", &dir(), None).plan(&Current::new()))
    }

    fn deployment(current: &Current) -> &Deployment {
        match &current[&ResourceId::Deployment(model())].resource {
            Resource::Deployment(deployment) => deployment,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_new_cluster_gets_everything_in_one_write_and_nothing_twice() {
        let seed = seed("us-east,eu-west,ap-south", &dir(), None);
        let batches = seed.plan(&Current::new());
        assert_eq!(batches.len(), 1);
        let current = done(Current::new(), &batches);
        assert_eq!(current.len(), 3 * 3 + 5);
        assert_eq!(deployment(&current).engine.step_time_ms, 20);
        assert_eq!(seed.plan(&current), Vec::<Batch>::new());
        let layout = Layout::new(0, "us-east,eu-west,ap-south".parse().unwrap());
        let goal = Goal::of(&current, &layout, &key());
        assert!(goal.answers == Answers::Served && goal.replicas.values().all(|count| *count == 2));
    }

    #[test]
    fn what_operators_changed_stays() {
        let mut current = founded();
        // A revoked key, a drained region, fewer replicas.
        current.remove(&ResourceId::Key(key().id()));
        let region: RegionName = "us-east".parse().unwrap();
        let drain =
            Drain { scope: DrainScope::Region(region.clone()), reason: String::new(), until_unix_ms: None };
        let stored =
            Stored { resource: Resource::Drain(drain), revision: Revision(9), created_unix_ms: UnixMs(1) };
        current.insert(stored.resource.id(), stored);
        let Resource::Deployment(kept) =
            &mut current.get_mut(&ResourceId::Deployment(model())).unwrap().resource
        else {
            panic!("no deployment")
        };
        kept.placements.remove(0);
        kept.placements[0].replicas_per_node = 1;
        assert_eq!(seed("us-east,eu-west,ap-south", &dir(), None).plan(&current), Vec::<Batch>::new());
        let layout = Layout::new(0, "us-east,eu-west,ap-south".parse().unwrap());
        let goal = Goal::of(&current, &layout, &key());
        assert_eq!(goal.answers, Answers::Unasked, "nobody can ask with a revoked key");
        assert_eq!(goal.replicas.values().copied().collect::<Vec<_>>(), [2, 1, 0]);
    }

    #[test]
    fn a_key_that_was_made_anew_is_made_known_while_its_tenant_is_there() {
        let mut current = founded();
        current.remove(&ResourceId::Key(key().id()));
        let seed = Seed { key_is_new: true, ..seed("us-east,eu-west,ap-south", &dir(), None) };
        let known = done(current.clone(), &seed.plan(&current));
        assert!(known.contains_key(&ResourceId::Key(key().id())));
        current.remove(&ResourceId::Tenant(tenant()));
        assert_eq!(seed.plan(&current), Vec::<Batch>::new());
    }

    #[test]
    fn a_region_that_is_added_gets_its_replicas_and_one_left_out_loses_its_node() {
        let current = founded();
        let more =
            done(current.clone(), &seed("us-east,eu-west,ap-south,us-west", &dir(), None).plan(&current));
        assert_eq!(deployment(&more).placements.len(), 4);
        assert_eq!(more.len(), current.len() + 3);
        let fewer = done(more.clone(), &seed("us-east,eu-west,ap-south", &dir(), None).plan(&more));
        let node = |region: &str| format!("node/{region}/n1").parse::<ResourceId>().unwrap();
        assert!(!fewer.contains_key(&node("us-west")) && fewer.contains_key(&node("ap-south")));
        assert!(fewer.contains_key(&"region/us-west".parse().unwrap()));
    }

    #[test]
    fn another_order_gives_other_addresses_and_a_step_time_is_set_when_it_is_given() {
        let current = founded();
        let batches = seed("eu-west,us-east,ap-south", &dir(), Some(5)).plan(&current);
        let changed: Vec<String> = batches[0].iter().map(|change| change.what.id().to_string()).collect();
        assert_eq!(changed, ["node/eu-west/n1", "node/us-east/n1", "deployment/rhumb-house"]);
        assert_eq!(deployment(&done(current, &batches)).engine.step_time_ms, 5);
    }

    #[test]
    fn a_moved_data_directory_and_a_newer_house_model_are_followed() {
        let current = founded();
        let moved = format!("/elsewhere/models/{}", "07".repeat(6));
        let seed = seed("us-east,eu-west,ap-south", &moved, None);
        let batches = seed.plan(&current);
        assert_eq!(batches.len(), 2, "a source never changes, so the version goes and comes again");
        let current = done(current, &batches);
        assert_eq!(seed.plan(&current), Vec::<Batch>::new());

        let newer = HouseModel {
            dir: "/data/models/080808080808".into(),
            version: ModelVersion::from_digest([8; 32]),
        };
        let layout = Layout::new(0, "us-east,eu-west,ap-south".parse().unwrap());
        let newer = Seed::new(&layout, "c", (&key(), false), &newer, None);
        let current = done(current.clone(), &newer.plan(&current));
        assert_eq!(deployment(&current).version, ModelVersion::from_digest([8; 32]));
    }

    #[test]
    fn a_version_that_an_operator_chose_is_not_replaced() {
        let mut current = founded();
        let other = Version {
            version: ModelVersion::from_digest([9; 32]),
            model: model(),
            source: "file:///opt/finetuned".to_owned(),
        };
        let stored = Stored {
            resource: Resource::Version(other.clone()),
            revision: Revision(9),
            created_unix_ms: UnixMs(1),
        };
        current.insert(stored.resource.id(), stored);
        let Resource::Deployment(kept) =
            &mut current.get_mut(&ResourceId::Deployment(model())).unwrap().resource
        else {
            panic!("no deployment")
        };
        kept.version = other.version;
        assert_eq!(seed("us-east,eu-west,ap-south", &dir(), None).plan(&current), Vec::<Batch>::new());
    }
}
