//! The routing table, made of a picture of intent. Pure, so that a picture is judged before it is used.

use policy::{Model, Node, Region, RoutingTable};
use std::collections::{BTreeMap, BTreeSet};
use types::intent::{self, Deployment, Drain, DrainScope, Kind, NodeKind, Resource, ResourceId, Stored};
use types::{ModelName, ModelVersion, RegionName, UnixMs};

/// What the table is made of.
pub(crate) const KINDS: [Kind; 7] =
    [Kind::Region, Kind::Zone, Kind::Node, Kind::Model, Kind::Version, Kind::Deployment, Kind::Drain];

/// The table for an edge that stands in `here`, or everything that is wrong with the picture.
pub(crate) fn of<'a>(
    picture: impl Iterator<Item = &'a Stored>,
    here: &RegionName,
) -> Result<RoutingTable, Vec<String>> {
    let mut making = Making::default();
    picture.for_each(|stored| making.add(stored));
    let (table, mut problems) = making.finish();
    problems.extend(table.problems(here).iter().map(ToString::to_string));
    if problems.is_empty() { Ok(table) } else { Err(problems) }
}

/// A table of which not everything has been seen yet.
#[derive(Default)]
struct Making<'a> {
    table: RoutingTable,
    zones: BTreeSet<ResourceId>,
    models: BTreeMap<ResourceId, (&'a intent::Model, UnixMs)>,
    versions: BTreeMap<ResourceId, &'a Resource>,
    deployments: Vec<&'a Deployment>,
    drains: Vec<&'a Drain>,
}

impl<'a> Making<'a> {
    fn add(&mut self, stored: &'a Stored) {
        match &stored.resource {
            Resource::Region(region) => {
                let row = Region { place: region.place(), drained: false };
                self.table.regions.insert(region.name.clone(), row);
            }
            Resource::Node(node) => {
                let row = Node { zone: node.zone.clone(), kind: node.kind.clone(), drained: false };
                self.table.nodes.insert(node.key.clone(), row);
            }
            Resource::Zone(_) => drop(self.zones.insert(stored.resource.id())),
            Resource::Model(model) => {
                self.models.insert(stored.resource.id(), (model, stored.created_unix_ms));
            }
            Resource::Version(_) => drop(self.versions.insert(stored.resource.id(), &stored.resource)),
            Resource::Deployment(deployment) => self.deployments.push(deployment),
            Resource::Drain(drain) => self.drains.push(drain),
            // Not in this table's interest.
            Resource::Policy(_) | Resource::Tenant(_) | Resource::Key(_) => {}
        }
    }

    /// The table, and what in the picture leads nowhere.
    fn finish(mut self) -> (RoutingTable, Vec<String>) {
        let mut problems = Vec::new();
        let mut missing = |by: ResourceId, named: ResourceId| {
            problems.push(format!("{by} names {named}, which is not there"));
        };
        for (key, node) in &self.table.nodes {
            let zone = ResourceId::Zone(key.region.clone(), node.zone.clone());
            if !self.zones.contains(&zone) {
                missing(ResourceId::Node(key.clone()), zone);
            }
        }
        for drain in self.drains {
            let drained = match &drain.scope {
                DrainScope::Region(name) => self.table.regions.get_mut(name).map(|row| &mut row.drained),
                DrainScope::Node(key) => self.table.nodes.get_mut(key).map(|row| &mut row.drained),
            };
            match (drained, &drain.scope) {
                (Some(drained), _) => *drained = true,
                (None, DrainScope::Region(name)) => {
                    missing(ResourceId::Drain(drain.scope.clone()), ResourceId::Region(name.clone()));
                }
                (None, DrainScope::Node(key)) => {
                    missing(ResourceId::Drain(drain.scope.clone()), ResourceId::Node(key.clone()));
                }
            }
        }
        let mut others = Vec::new();
        let deployed: BTreeMap<ModelName, ModelVersion> = self
            .deployments
            .iter()
            .map(|deployment| (deployment.model.clone(), deployment.version))
            .collect();
        for deployment in self.deployments {
            let by = ResourceId::Deployment(deployment.model.clone());
            let model = ResourceId::Model(deployment.model.clone());
            let version = ResourceId::Version(deployment.version);
            match self.versions.get(&version) {
                Some(Resource::Version(known)) if known.model != deployment.model => {
                    others.push(format!("{by} names {version}, which is one of {}", known.model));
                }
                Some(_) => {}
                None => missing(by.clone(), version),
            }
            let Some((model, created)) = self.models.get(&model).copied() else {
                missing(by, model);
                continue;
            };
            let placed = deployment.placements.iter().filter(|placement| placement.replicas_per_node > 0);
            let mut placed =
                placed.map(|placement| (deployment.version, placement.region.clone())).peekable();
            if placed.peek().is_some() {
                let (version, waits) = (deployment.version, model.into());
                let row = Model { version, former: None, created, waits };
                self.table.models.insert(deployment.model.clone(), row);
                self.table.placed.extend(placed);
            }
        }
        for (key, node) in &self.table.nodes {
            let NodeKind::OpenAi(server) = &node.kind else { continue };
            for name in &server.models {
                let Some((model, created)) = self.models.get(&ResourceId::Model(name.clone())).copied()
                else {
                    missing(ResourceId::Node(key.clone()), ResourceId::Model(name.clone()));
                    continue;
                };
                // Where agents run the model, the server stands beside them, for the same version.
                let model = self.table.models.entry(name.clone()).or_insert_with(|| Model {
                    version: deployed.get(name).copied().unwrap_or_else(|| ModelVersion::of_servers(name)),
                    former: None,
                    created,
                    waits: model.into(),
                });
                self.table.placed.insert((model.version, key.region.clone()));
            }
        }
        problems.extend(others);
        (self.table, problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::Waits;
    use std::time::Duration;
    use types::NodeKey;
    use types::intent::{EngineSettings, Placement, Revision, Version, Zone};

    fn region(name: &str) -> Resource {
        Resource::Region(intent::Region {
            name: name.parse().unwrap(),
            latitude_e6: 1_500_000,
            longitude_e6: 0,
        })
    }

    fn zone(region: &str) -> Resource {
        Resource::Zone(Zone { region: region.parse().unwrap(), name: "a".parse().unwrap() })
    }

    fn node(key: &str) -> Resource {
        Resource::Node(intent::Node {
            key: key.parse().unwrap(),
            zone: "a".parse().unwrap(),
            kind: NodeKind::Agent(intent::Agent {
                ingress: ([127, 0, 0, 1], 7443).into(),
                server_name: "n1.region-agent.us-east.rhumb.internal".to_owned(),
            }),
        })
    }

    fn server(key: &str, models: &[&str]) -> Resource {
        Resource::Node(intent::Node {
            key: key.parse().unwrap(),
            zone: "a".parse().unwrap(),
            kind: NodeKind::OpenAi(intent::OpenAiServer {
                base_url: "http://vllm:8000/v1".parse().unwrap(),
                models: models.iter().map(|model| model.parse().unwrap()).collect(),
                slots: 8,
                secret: None,
            }),
        })
    }

    fn version(byte: u8) -> ModelVersion {
        ModelVersion::from_digest([byte; 32])
    }

    fn model(name: &str) -> Resource {
        Resource::Model(intent::Model::named(name.parse().unwrap()))
    }

    fn impatient(name: &str, first_token_seconds: u32) -> Resource {
        let named = intent::Model::named(name.parse().unwrap());
        Resource::Model(intent::Model { first_token_seconds: Some(first_token_seconds), ..named })
    }

    fn version_of(byte: u8, model: &str) -> Resource {
        Resource::Version(Version {
            version: version(byte),
            model: model.parse().unwrap(),
            source: String::new(),
        })
    }

    fn deployment(model: &str, byte: u8, replicas_per_node: u16) -> Resource {
        Resource::Deployment(Deployment {
            model: model.parse().unwrap(),
            version: version(byte),
            placements: vec![Placement { region: "us-east".parse().unwrap(), replicas_per_node }],
            engine: EngineSettings::default(),
        })
    }

    fn drain(scope: &str) -> Resource {
        Resource::Drain(Drain { scope: scope.parse().unwrap(), reason: String::new(), until_unix_ms: None })
    }

    fn made(resources: Vec<Resource>) -> Result<RoutingTable, Vec<String>> {
        let store = |resource| Stored { resource, revision: Revision(1), created_unix_ms: UnixMs(7_000) };
        let picture: Vec<Stored> = resources.into_iter().map(store).collect();
        of(picture.iter(), &"us-east".parse().unwrap())
    }

    /// One that agents run, one that is placed nowhere, one without a deployment.
    fn models() -> [Resource; 7] {
        [
            deployment("placed", 1, 2),
            deployment("nowhere", 2, 0),
            version_of(1, "placed"),
            version_of(2, "nowhere"),
            impatient("placed", 5),
            model("nowhere"),
            model("undeployed"),
        ]
    }

    #[test]
    fn a_picture_becomes_a_table() {
        // In no order.
        let mut resources = vec![drain("eu-west"), drain("us-east/n2")];
        resources.extend(models());
        resources.extend([
            node("us-east/n1"),
            node("us-east/n2"),
            zone("us-east"),
            region("eu-west"),
            region("us-east"),
        ]);
        let table = made(resources).unwrap();
        let drained: Vec<String> =
            table.nodes.iter().filter(|(_, node)| node.drained).map(|(key, _)| key.to_string()).collect();
        assert_eq!(drained, ["us-east/n2"]);
        assert_eq!(table.regions["eu-west"].place.latitude, 1.5);
        assert_eq!([table.regions["eu-west"].drained, table.regions["us-east"].drained], [true, false]);
        let waits = Waits { first_token: Duration::from_secs(5), stall: Duration::from_secs(30) };
        let placed = Model { version: version(1), former: None, created: UnixMs(7_000), waits };
        assert_eq!(table.models.into_iter().collect::<Vec<_>>(), [("placed".parse().unwrap(), placed)]);
        assert_eq!(table.placed.into_iter().collect::<Vec<_>>(), [(version(1), "us-east".parse().unwrap())]);
        assert!(table.nodes.contains_key(&"us-east/n1".parse::<NodeKey>().unwrap()));
    }

    #[test]
    fn a_server_without_an_agent_serves_names_whatever_is_deployed() {
        let mut resources = models().to_vec();
        resources.extend([
            server("us-east/vllm", &["placed", "nowhere", "undeployed"]),
            zone("us-east"),
            region("us-east"),
        ]);
        let table = made(resources).unwrap();
        let wanted = table.placed.iter().map(|(version, _)| *version).collect::<BTreeSet<_>>();
        assert_eq!(wanted, table.models.values().map(|model| model.version).collect());
        let versions: Vec<ModelVersion> = table.models.values().map(|model| model.version).collect();
        let undeployed = ModelVersion::of_servers(&"undeployed".parse().unwrap());
        assert_eq!(versions, [version(2), version(1), undeployed]);
    }

    #[test]
    fn every_contradiction_is_named() {
        let problems = made(vec![
            server("eu-west/vllm", &["unheard-of"]),
            region("eu-west"),
            node("ap-south/n1"),
            drain("mars"),
            drain("eu-west/n9"),
            model("one"),
            version_of(1, "one"),
            deployment("two", 1, 1),
            deployment("one", 2, 1),
        ])
        .unwrap_err()
        .join("\n");
        for named in [
            "node/ap-south/n1 names zone/ap-south/a",
            "drain/mars names region/mars",
            "drain/eu-west/n9 names node/eu-west/n9",
            "deployment/two names model/two",
            "node/eu-west/vllm names model/unheard-of",
            "which is one of one",
            "deployment/one names version/",
            "region us-east, where this edge stands",
            "stands in region ap-south",
        ] {
            assert!(problems.contains(named), "{named}: {problems}");
        }
    }
}
