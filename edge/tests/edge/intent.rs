//! What operators want of this little world: two regions with a node each, a model, a few tenants.

use crate::node::Node;
use client::Picture;
use std::net::SocketAddr;
use types::intent::{
    self, Agent, Deployment, Drain, EngineSettings, Incarnation, Kind, NodeKind, Placement, Policy, Position,
    Region, Resource, Resume, Revision, Stored, Tenant, Version, Zone,
};
use types::{ApiKey, ModelName, Place, Priority, UnixMs};

pub const VERSION: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000001";
pub const INCARNATION: u64 = 7;
/// In seconds since 1970; what `/v1/models` must say.
pub const MODEL_CREATED: u64 = 1_700_000_000;

/// The key of a tenant that is named so.
pub fn key(tenant: &str) -> ApiKey {
    ApiKey::from_random([tenant.len() as u8; 10], [7; 32])
}

/// A key as the control plane keeps it.
pub fn key_of(tenant: &str) -> intent::Key {
    intent::Key {
        id: key(tenant).id(),
        tenant: tenant.parse().unwrap(),
        hash: key(tenant).hash(),
        expires_unix_ms: None,
        models: None,
    }
}

pub fn tenant(name: &str, policy: &str) -> Resource {
    Resource::Tenant(Tenant {
        name: name.parse().unwrap(),
        policy: Some(policy.parse().unwrap()),
        requests_per_minute: None,
        tokens_per_minute: None,
    })
}

pub fn drain(scope: &str) -> Resource {
    Resource::Drain(Drain { scope: scope.parse().unwrap(), reason: "a test".to_owned(), until_unix_ms: None })
}

pub fn node(region: &str, node: &Node) -> Resource {
    node_at(region, "n1", node.address)
}

/// A node that is known to be at an address.
pub fn node_at(region: &str, name: &str, ingress: SocketAddr) -> Resource {
    Resource::Node(intent::Node {
        key: format!("{region}/{name}").parse().unwrap(),
        zone: "a".parse().unwrap(),
        kind: NodeKind::Agent(Agent {
            ingress,
            server_name: format!("n1.region-agent.{region}.rhumb.internal"),
        }),
    })
}

/// `anyone` may go anywhere, `european` must stay in Europe, `approximate` and `off` resume so, `other` has keys that open little.
pub fn world(near: &Node, far: &Node) -> Vec<Resource> {
    let region = |name: &str, latitude, longitude| {
        Resource::Region(Region::at(name.parse().unwrap(), Place { latitude, longitude }))
    };
    let zone =
        |region: &str| Resource::Zone(Zone { region: region.parse().unwrap(), name: "a".parse().unwrap() });
    let policy = |name: &str, region: Option<&str>, resume| {
        Resource::Policy(Policy {
            name: name.parse().unwrap(),
            regions: region.map(|region| vec![region.parse().unwrap()]),
            priority: Priority::Batch,
            resume,
        })
    };
    let mut resources = vec![
        region("us-east", 39.0, -77.5),
        region("eu-west", 53.3, -6.3),
        zone("us-east"),
        zone("eu-west"),
        node("us-east", near),
        node("eu-west", far),
        policy("anywhere", None, Resume::Exact),
        policy("europe", Some("eu-west"), Resume::Exact),
        policy("lenient", None, Resume::Approximate),
        policy("strict", None, Resume::Off),
        tenant("anyone", "anywhere"),
        tenant("european", "europe"),
        tenant("approximate", "lenient"),
        tenant("off", "strict"),
        Resource::Key(key_of("anyone")),
        Resource::Key(key_of("european")),
        Resource::Key(key_of("approximate")),
        Resource::Key(key_of("off")),
    ];
    for name in ["m", "another"] {
        resources.extend(model(name));
    }
    resources
}

fn model(name: &str) -> [Resource; 3] {
    let model: ModelName = name.parse().unwrap();
    let digit = if name == "m" { "1" } else { "2" };
    let version = format!("{}{digit}", &VERSION[..VERSION.len() - 1]).parse().unwrap();
    let place = |region: &str| Placement { region: region.parse().unwrap(), replicas_per_node: 1 };
    [
        Resource::Model(intent::Model::named(model.clone())),
        Resource::Version(Version { version, model: model.clone(), source: "file:///models".to_owned() }),
        Resource::Deployment(Deployment {
            model,
            version,
            placements: vec![place("us-east"), place("eu-west")],
            engine: EngineSettings::default(),
        }),
    ]
}

pub fn stored(resource: Resource, revision: u64) -> Stored {
    let created_unix_ms = UnixMs(MODEL_CREATED * 1000 + 999);
    Stored { resource, revision: Revision(revision), created_unix_ms }
}

/// The picture of some kinds, as an edge keeps it on disk.
pub fn picture(resources: &[Resource], kinds: &[Kind]) -> Picture {
    let position = Position { incarnation: Incarnation(INCARNATION), revision: Revision(1) };
    let of_kinds = resources.iter().filter(|resource| kinds.contains(&resource.kind()));
    Picture::new(position, Revision(0), of_kinds.map(|resource| stored(resource.clone(), 1)))
}

pub const ROUTING: [Kind; 7] =
    [Kind::Region, Kind::Zone, Kind::Node, Kind::Model, Kind::Version, Kind::Deployment, Kind::Drain];
pub const TENANTS: [Kind; 3] = [Kind::Policy, Kind::Tenant, Kind::Key];
