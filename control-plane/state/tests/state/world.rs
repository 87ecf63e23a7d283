//! A small world to change.

use state::{Command, Outcome, Stamped, State};
use types::UnixMs;
use types::intent::{
    Agent, Change, ClientId, Deployment, Drain, EngineSettings, Expect, Fault, Incarnation, Key, Model, Node,
    NodeKind, OpenAiServer, Placement, Policy, Region, Resource, ResourceId, Revision, Tenant, Version, What,
    Write, Zone,
};
use types::{KeyHash, KeyId, Priority};

/// Counts log indexes and sequences as a leader and a client would.
pub struct World {
    pub state: State,
    pub index: u64,
}

impl World {
    /// Two regions with a node each, a model that runs in both, and a tenant with a key.
    pub fn new() -> Self {
        let mut world = Self { state: State::default(), index: 0 };
        let found = Command::Found { cluster: "c1".to_owned(), incarnation: Incarnation(7) };
        assert_eq!(world.apply(found), Outcome::Founded);
        let mut all = Vec::new();
        for region_name in ["us-east", "eu-west"] {
            all.extend([region(region_name), zone(region_name), node(region_name)]);
        }
        all.extend([policy("gold", Some(&["eu-west"])), tenant("acme"), key(1, "acme")]);
        all.extend([model("house"), version(1, "house"), deployment("house", 1)]);
        world.put(all).unwrap();
        world
    }

    pub fn apply(&mut self, command: Command) -> Outcome {
        self.index += 1;
        // Wall clocks of proposers jump about.
        self.state.apply(self.index, &Stamped { at: UnixMs(1_000_000 - self.index), command })
    }

    pub fn write(&mut self, changes: Vec<Change>) -> Result<Revision, Vec<Fault>> {
        let sequence = self.index;
        let write = Write { client: ClientId([1; 16]), sequence, changes, expects_shrink: false };
        match self.apply(Command::Write(write)) {
            Outcome::Written(written) => Ok(written.revision),
            Outcome::Refused(faults) => Err(faults),
            other => panic!("{other:?}"),
        }
    }

    pub fn put(&mut self, resources: Vec<Resource>) -> Result<Revision, Vec<Fault>> {
        self.write(resources.into_iter().map(|resource| put(Expect::Anything, resource)).collect())
    }

    pub fn delete(&mut self, id: &str) -> Result<Revision, Vec<Fault>> {
        self.write(vec![delete(Expect::Anything, id)])
    }
}

pub fn put(expect: Expect, resource: Resource) -> Change {
    Change { expect, what: What::Put(resource) }
}

pub fn delete(expect: Expect, id: &str) -> Change {
    Change { expect, what: What::Delete(self::id(id)) }
}

pub fn id(text: &str) -> ResourceId {
    text.parse().unwrap()
}

pub fn region(name: &str) -> Resource {
    Resource::Region(Region { name: name.parse().unwrap(), latitude_e6: 1, longitude_e6: -1 })
}

pub fn zone(region: &str) -> Resource {
    Resource::Zone(Zone { region: region.parse().unwrap(), name: "a".parse().unwrap() })
}

pub fn node(region: &str) -> Resource {
    Resource::Node(Node {
        key: format!("{region}/n1").parse().unwrap(),
        zone: "a".parse().unwrap(),
        kind: NodeKind::Agent(Agent {
            ingress: "127.0.1.1:7443".parse().unwrap(),
            server_name: format!("n1.region-agent.{region}.rhumb.internal"),
        }),
    })
}

pub fn server(region: &str, models: &[&str]) -> OpenAiServer {
    OpenAiServer {
        base_url: format!("http://vllm.{region}:8000/v1").parse().unwrap(),
        models: models.iter().map(|model| model.parse().unwrap()).collect(),
        slots: 64,
        secret: None,
    }
}

pub fn openai_node(region: &str, server: OpenAiServer) -> Resource {
    Resource::Node(Node {
        key: format!("{region}/vllm").parse().unwrap(),
        zone: "a".parse().unwrap(),
        kind: NodeKind::OpenAi(server),
    })
}

pub fn policy(name: &str, regions: Option<&[&str]>) -> Resource {
    let regions = regions.map(|regions| regions.iter().map(|region| region.parse().unwrap()).collect());
    Resource::Policy(Policy {
        name: name.parse().unwrap(),
        regions,
        priority: Priority::Standard,
        resume: types::intent::Resume::Exact,
    })
}

pub fn tenant(name: &str) -> Resource {
    Resource::Tenant(Tenant {
        name: name.parse().unwrap(),
        policy: None,
        requests_per_minute: None,
        tokens_per_minute: None,
    })
}

pub fn key(number: u8, tenant: &str) -> Resource {
    Resource::Key(Key {
        id: KeyId::from_random([number; 10]),
        tenant: tenant.parse().unwrap(),
        hash: KeyHash::from_bytes([number; 32]),
        expires_unix_ms: None,
        models: None,
    })
}

pub fn model(name: &str) -> Resource {
    Resource::Model(Model::named(name.parse().unwrap()))
}

pub fn version(number: u8, model: &str) -> Resource {
    Resource::Version(Version {
        version: types::ModelVersion::from_digest([number; 32]),
        model: model.parse().unwrap(),
        source: "file:///models/house".to_owned(),
    })
}

pub fn deployment(model: &str, version: u8) -> Resource {
    let placement = |region: &str| Placement { region: region.parse().unwrap(), replicas_per_node: 2 };
    Resource::Deployment(Deployment {
        model: model.parse().unwrap(),
        version: types::ModelVersion::from_digest([version; 32]),
        placements: vec![placement("us-east"), placement("eu-west")],
        engine: EngineSettings::default(),
    })
}

pub fn drain(scope: &str, until: Option<u64>) -> Resource {
    Resource::Drain(Drain {
        scope: scope.parse().unwrap(),
        reason: "maintenance".to_owned(),
        until_unix_ms: until.map(UnixMs),
    })
}
