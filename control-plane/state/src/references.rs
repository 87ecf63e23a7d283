//! Which resource names which others. A name must lead somewhere, and what is named cannot be deleted.

use std::collections::BTreeSet;
use types::intent::{DrainScope, NodeKind, Resource, ResourceId};

/// A resource that is named, and in which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub field: String,
    pub to: ResourceId,
}

/// Everything that a resource names.
pub fn of(resource: &Resource) -> Vec<Reference> {
    let one = |field: &str, to| vec![Reference { field: field.to_owned(), to }];
    match resource {
        Resource::Region(_) | Resource::Model(_) => Vec::new(),
        Resource::Zone(zone) => one("region", ResourceId::Region(zone.region.clone())),
        Resource::Node(node) => {
            let mut references = one("zone", ResourceId::Zone(node.key.region.clone(), node.zone.clone()));
            if let NodeKind::OpenAi(server) = &node.kind {
                references.extend(server.models.iter().enumerate().map(|(at, model)| Reference {
                    field: format!("models[{at}]"),
                    to: ResourceId::Model(model.clone()),
                }));
            }
            references
        }
        Resource::Policy(policy) => policy
            .regions
            .iter()
            .flatten()
            .enumerate()
            .map(|(at, region)| Reference {
                field: format!("regions[{at}]"),
                to: ResourceId::Region(region.clone()),
            })
            .collect(),
        Resource::Tenant(tenant) => tenant
            .policy
            .iter()
            .map(|policy| Reference { field: "policy".to_owned(), to: ResourceId::Policy(policy.clone()) })
            .collect(),
        // The models of a key are a scope, which may name what does not exist yet.
        Resource::Key(key) => one("tenant", ResourceId::Tenant(key.tenant.clone())),
        Resource::Version(version) => one("model", ResourceId::Model(version.model.clone())),
        Resource::Deployment(deployment) => {
            let mut references = one("model", ResourceId::Model(deployment.model.clone()));
            references.extend(one("version", ResourceId::Version(deployment.version)));
            references.extend(deployment.placements.iter().enumerate().map(|(at, placement)| Reference {
                field: format!("placements[{at}].region"),
                to: ResourceId::Region(placement.region.clone()),
            }));
            references
        }
        Resource::Drain(drain) => match &drain.scope {
            DrainScope::Region(region) => one("scope", ResourceId::Region(region.clone())),
            DrainScope::Node(key) => one("scope", ResourceId::Node(key.clone())),
        },
    }
}

/// Who is named by whom: pairs of (named, by).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Users(BTreeSet<(ResourceId, ResourceId)>);

impl Users {
    pub fn add(&mut self, by: &Resource) {
        let id = by.id();
        self.0.extend(of(by).into_iter().map(|reference| (reference.to, id.clone())));
    }

    pub fn remove(&mut self, by: &Resource) {
        let id = by.id();
        for reference in of(by) {
            self.0.remove(&(reference.to, id.clone()));
        }
    }

    /// All that name `id`.
    pub fn of(&self, id: &ResourceId) -> impl Iterator<Item = &ResourceId> {
        // No resource sorts before the first region, whose name is the shortest.
        let first = ResourceId::Region("a".parse().expect("a is a name"));
        let id = id.clone();
        self.0.range((id.clone(), first)..).take_while(move |(named, _)| *named == id).map(|(_, by)| by)
    }
}
