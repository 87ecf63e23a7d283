//! Resources on the wire.

use crate::bad::{BadMessage, parse, parse_all, required};
use crate::v1;
use types::intent::{
    Agent, Deployment, Drain, EngineSettings, Key, Model, Node, NodeKey, NodeKind, OpenAiServer, Placement,
    Policy, Region, Resource, Resume, Revision, Stored, Tenant, Version, Zone,
};
use types::{KeyHash, Priority, UnixMs};

impl From<&Resource> for v1::Resource {
    fn from(resource: &Resource) -> Self {
        use v1::resource::Resource as Wire;
        let wire = match resource {
            Resource::Region(region) => Wire::Region(v1::Region {
                name: region.name.to_string(),
                latitude_e6: region.latitude_e6,
                longitude_e6: region.longitude_e6,
            }),
            Resource::Zone(zone) => {
                Wire::Zone(v1::Zone { region: zone.region.to_string(), name: zone.name.to_string() })
            }
            Resource::Node(node) => Wire::Node(self::node(node)),
            Resource::Policy(policy) => Wire::Policy(v1::Policy {
                name: policy.name.to_string(),
                regions: policy.regions.as_deref().map(names),
                priority: match policy.priority {
                    Priority::Batch => v1::Priority::Batch,
                    Priority::Standard => v1::Priority::Standard,
                    Priority::Interactive => v1::Priority::Interactive,
                }
                .into(),
                resume: match policy.resume {
                    Resume::Exact => v1::Resume::Exact,
                    Resume::Approximate => v1::Resume::Approximate,
                    Resume::Off => v1::Resume::Off,
                }
                .into(),
            }),
            Resource::Tenant(tenant) => Wire::Tenant(v1::Tenant {
                name: tenant.name.to_string(),
                policy: tenant.policy.as_ref().map(ToString::to_string),
                requests_per_minute: tenant.requests_per_minute,
                tokens_per_minute: tenant.tokens_per_minute,
            }),
            Resource::Key(key) => Wire::Key(v1::Key {
                id: key.id.to_string(),
                tenant: key.tenant.to_string(),
                hash: key.hash.as_bytes().to_vec().into(),
                expires_unix_ms: key.expires_unix_ms.map(|at| at.0),
                models: key.models.as_deref().map(names),
            }),
            Resource::Model(model) => Wire::Model(v1::Model {
                name: model.name.to_string(),
                first_token_seconds: model.first_token_seconds,
                stall_seconds: model.stall_seconds,
            }),
            Resource::Version(version) => Wire::Version(v1::Version {
                version: version.version.to_string(),
                model: version.model.to_string(),
                source: version.source.clone(),
            }),
            Resource::Deployment(deployment) => Wire::Deployment(v1::Deployment {
                model: deployment.model.to_string(),
                version: deployment.version.to_string(),
                placements: deployment
                    .placements
                    .iter()
                    .map(|placement| v1::Placement {
                        region: placement.region.to_string(),
                        replicas_per_node: placement.replicas_per_node.into(),
                    })
                    .collect(),
                engine: Some(v1::EngineSettings {
                    slots: deployment.engine.slots,
                    threads: deployment.engine.threads,
                    kv_tokens: deployment.engine.kv_tokens,
                    step_time_ms: deployment.engine.step_time_ms,
                }),
            }),
            Resource::Drain(drain) => Wire::Drain(v1::Drain {
                scope: drain.scope.to_string(),
                reason: drain.reason.clone(),
                until_unix_ms: drain.until_unix_ms.map(|at| at.0),
            }),
        };
        Self { resource: Some(wire) }
    }
}

impl TryFrom<v1::Resource> for Resource {
    type Error = BadMessage;

    fn try_from(wire: v1::Resource) -> Result<Self, BadMessage> {
        use v1::resource::Resource as Wire;
        match required("resource", wire.resource)? {
            Wire::Region(region) => Ok(Self::Region(Region {
                name: parse("name", &region.name)?,
                latitude_e6: region.latitude_e6,
                longitude_e6: region.longitude_e6,
            })),
            Wire::Zone(zone) => Ok(Self::Zone(Zone {
                region: parse("region", &zone.region)?,
                name: parse("name", &zone.name)?,
            })),
            Wire::Node(node) => Ok(Self::Node(Node {
                key: NodeKey { region: parse("region", &node.region)?, node: parse("name", &node.name)? },
                zone: parse("zone", &node.zone)?,
                kind: match node.openai {
                    Some(server) => {
                        NodeKind::OpenAi(openai_server(server).map_err(|bad| bad.within("openai"))?)
                    }
                    None => NodeKind::Agent(Agent {
                        ingress: parse("ingress", &node.ingress)?,
                        server_name: node.server_name,
                    }),
                },
            })),
            Wire::Policy(policy) => Ok(Self::Policy(Policy {
                name: parse("name", &policy.name)?,
                regions: policy.regions.map(|regions| parse_all("regions", &regions.names)).transpose()?,
                priority: match v1::Priority::try_from(policy.priority) {
                    // What an older writer could not say.
                    Ok(v1::Priority::Unspecified) => Priority::default(),
                    Ok(v1::Priority::Batch) => Priority::Batch,
                    Ok(v1::Priority::Standard) => Priority::Standard,
                    Ok(v1::Priority::Interactive) => Priority::Interactive,
                    Err(error) => return Err(BadMessage::malformed("priority", error)),
                },
                resume: match v1::Resume::try_from(policy.resume) {
                    Ok(v1::Resume::Unspecified) => Resume::default(),
                    Ok(v1::Resume::Exact) => Resume::Exact,
                    Ok(v1::Resume::Approximate) => Resume::Approximate,
                    Ok(v1::Resume::Off) => Resume::Off,
                    Err(error) => return Err(BadMessage::malformed("resume", error)),
                },
            })),
            Wire::Tenant(tenant) => Ok(Self::Tenant(Tenant {
                name: parse("name", &tenant.name)?,
                policy: tenant.policy.map(|policy| parse("policy", &policy)).transpose()?,
                requests_per_minute: tenant.requests_per_minute,
                tokens_per_minute: tenant.tokens_per_minute,
            })),
            Wire::Key(key) => Ok(Self::Key(Key {
                id: parse("id", &key.id)?,
                tenant: parse("tenant", &key.tenant)?,
                hash: hash(&key.hash)?,
                expires_unix_ms: key.expires_unix_ms.map(UnixMs),
                models: key.models.map(|models| parse_all("models", &models.names)).transpose()?,
            })),
            Wire::Model(model) => Ok(Self::Model(Model {
                name: parse("name", &model.name)?,
                first_token_seconds: model.first_token_seconds,
                stall_seconds: model.stall_seconds,
            })),
            Wire::Version(version) => Ok(Self::Version(Version {
                version: parse("version", &version.version)?,
                model: parse("model", &version.model)?,
                source: version.source,
            })),
            Wire::Deployment(deployment) => {
                let placements = deployment.placements.iter().enumerate();
                let engine = required("engine", deployment.engine)?;
                Ok(Self::Deployment(Deployment {
                    model: parse("model", &deployment.model)?,
                    version: parse("version", &deployment.version)?,
                    placements: placements
                        .map(|(at, placement)| {
                            self::placement(placement).map_err(|bad| bad.within(&format!("placements[{at}]")))
                        })
                        .collect::<Result<_, _>>()?,
                    engine: EngineSettings {
                        slots: engine.slots,
                        threads: engine.threads,
                        kv_tokens: engine.kv_tokens,
                        step_time_ms: engine.step_time_ms,
                    },
                }))
            }
            Wire::Drain(drain) => Ok(Self::Drain(Drain {
                scope: parse("scope", &drain.scope)?,
                reason: drain.reason,
                until_unix_ms: drain.until_unix_ms.map(UnixMs),
            })),
        }
    }
}

impl From<&Stored> for v1::Stored {
    fn from(stored: &Stored) -> Self {
        Self {
            resource: Some((&stored.resource).into()),
            revision: stored.revision.0,
            created_unix_ms: stored.created_unix_ms.0,
        }
    }
}

impl TryFrom<v1::Stored> for Stored {
    type Error = BadMessage;

    fn try_from(wire: v1::Stored) -> Result<Self, BadMessage> {
        Ok(Self {
            resource: required("resource", wire.resource)?.try_into()?,
            revision: Revision(wire.revision),
            created_unix_ms: UnixMs(wire.created_unix_ms),
        })
    }
}

fn node(node: &Node) -> v1::Node {
    let mut wire = v1::Node {
        region: node.key.region.to_string(),
        name: node.key.node.to_string(),
        zone: node.zone.to_string(),
        ..v1::Node::default()
    };
    match &node.kind {
        NodeKind::Agent(agent) => {
            wire.ingress = agent.ingress.to_string();
            wire.server_name = agent.server_name.clone();
        }
        NodeKind::OpenAi(server) => {
            wire.openai = Some(v1::OpenAiServer {
                base_url: server.base_url.to_string(),
                models: server.models.iter().map(ToString::to_string).collect(),
                slots: server.slots,
                secret: server.secret.as_ref().map(ToString::to_string),
            });
        }
    }
    wire
}

fn openai_server(wire: v1::OpenAiServer) -> Result<OpenAiServer, BadMessage> {
    Ok(OpenAiServer {
        base_url: parse("base_url", &wire.base_url)?,
        models: parse_all("models", &wire.models)?,
        slots: wire.slots,
        secret: wire.secret.map(|secret| parse("secret", &secret)).transpose()?,
    })
}

fn placement(wire: &v1::Placement) -> Result<Placement, BadMessage> {
    let replicas = wire.replicas_per_node;
    Ok(Placement {
        region: parse("region", &wire.region)?,
        replicas_per_node: replicas.try_into().map_err(|_| {
            BadMessage::malformed("replicas_per_node", format!("{replicas} is not within 0 and {}", u16::MAX))
        })?,
    })
}

fn hash(bytes: &[u8]) -> Result<KeyHash, BadMessage> {
    match bytes.try_into() {
        Ok(bytes) => Ok(KeyHash::from_bytes(bytes)),
        Err(_) if bytes.is_empty() => Err(BadMessage::missing("hash")),
        Err(_) => Err(BadMessage::malformed("hash", format!("has {} bytes, not 32", bytes.len()))),
    }
}

fn names<T: ToString>(names: &[T]) -> v1::Names {
    v1::Names { names: names.iter().map(ToString::to_string).collect() }
}
