//! What of the intent concerns one subscriber. Pure.

use state::Event;
use std::collections::BTreeSet;
use types::RegionName;
use types::intent::{Kind, Resource, ResourceId};

/// Kinds, and with a region only what concerns it: its zones, nodes and drains, and the deployments that place
/// something there. Regions, models and versions are few and small, and shown to everybody; so is everything that
/// belongs to no region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) kinds: BTreeSet<Kind>,
    pub(crate) region: Option<RegionName>,
}

impl Interest {
    /// Whether the resource is one that the subscriber is shown as it is now.
    pub(crate) fn shows(&self, resource: &Resource) -> bool {
        let is_placed = match (resource, &self.region) {
            (Resource::Deployment(deployment), Some(region)) => {
                deployment.placements.iter().any(|placement| placement.region == *region)
            }
            _ => true,
        };
        is_placed && self.concerns(&resource.id())
    }

    /// What the subscriber is told of an event. A resource that concerns it no longer is gone for it; whether it
    /// ever had it is not known here, so such a deletion may be of something it never heard of.
    pub(crate) fn told(&self, event: &Event) -> Option<Event> {
        match event {
            Event::Put(stored) if self.shows(&stored.resource) => Some(event.clone()),
            Event::Put(stored) => {
                let id = stored.resource.id();
                self.concerns(&id).then_some(Event::Delete(id))
            }
            Event::Delete(id) => self.concerns(id).then_some(Event::Delete(id.clone())),
        }
    }

    /// Whether a resource of this name could be one that is shown.
    fn concerns(&self, id: &ResourceId) -> bool {
        let is_here = match (id, &self.region) {
            (ResourceId::Zone(region, _), Some(here)) => region == here,
            (ResourceId::Node(key), Some(here)) => key.region == *here,
            (ResourceId::Drain(scope), Some(here)) => scope.region() == here,
            _ => true,
        };
        is_here && self.kinds.contains(&id.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use types::UnixMs;
    use types::intent::{Deployment, Drain, EngineSettings, Model, Placement, Region, Revision, Stored};

    fn interest(kinds: &[Kind], region: Option<&str>) -> Interest {
        Interest {
            kinds: kinds.iter().copied().collect(),
            region: region.map(|region| region.parse().unwrap()),
        }
    }

    fn put(resource: Resource) -> Event {
        Event::Put(Arc::new(Stored { resource, revision: Revision(7), created_unix_ms: UnixMs(0) }))
    }

    fn deployment(regions: &[&str]) -> Resource {
        let place = |region: &&str| Placement { region: region.parse().unwrap(), replicas_per_node: 1 };
        Resource::Deployment(Deployment {
            model: "m".parse().unwrap(),
            version: format!("sha256:{}", "0f".repeat(32)).parse().unwrap(),
            placements: regions.iter().map(place).collect(),
            engine: EngineSettings::default(),
        })
    }

    #[test]
    fn a_deployment_that_leaves_the_region_is_gone_there() {
        let here = interest(&[Kind::Deployment], Some("us-east"));
        let stays = put(deployment(&["eu-west", "us-east"]));
        assert_eq!(here.told(&stays), Some(stays.clone()));
        let gone = Event::Delete("deployment/m".parse().unwrap());
        assert_eq!(here.told(&put(deployment(&["eu-west"]))), Some(gone.clone()));
        assert_eq!(here.told(&gone), Some(gone));
        let everywhere = interest(&[Kind::Deployment], None);
        assert_eq!(everywhere.told(&put(deployment(&[]))), Some(put(deployment(&[]))));
    }

    #[test]
    fn what_belongs_to_another_region_is_never_told() {
        let drain = |scope: &str| {
            let scope = scope.parse().unwrap();
            Resource::Drain(Drain { scope, reason: String::new(), until_unix_ms: None })
        };
        let here = interest(&Kind::ALL, Some("us-east"));
        for (scope, is_told) in
            [("us-east", true), ("us-east/n1", true), ("eu-west", false), ("eu-west/n1", false)]
        {
            let put = put(drain(scope));
            assert_eq!(here.told(&put).is_some(), is_told, "{scope}");
        }
        for (id, is_told) in [
            ("zone/us-east/a", true),
            ("zone/eu-west/a", false),
            ("node/us-east/n1", true),
            ("node/eu-west/n1", false),
            ("drain/eu-west", false),
            ("region/eu-west", true),
            ("tenant/acme", true),
        ] {
            let event = Event::Delete(id.parse().unwrap());
            assert_eq!(here.told(&event).is_some(), is_told, "{id}");
        }
    }

    #[test]
    fn only_the_kinds_asked_for_are_told() {
        let models = interest(&[Kind::Model], None);
        assert!(models.shows(&Resource::Model(Model::named("m".parse().unwrap()))));
        let region = Region { name: "us-east".parse().unwrap(), latitude_e6: 0, longitude_e6: 0 };
        assert_eq!(models.told(&put(Resource::Region(region))), None);
        assert_eq!(models.told(&put(deployment(&["us-east"]))), None);
    }
}
