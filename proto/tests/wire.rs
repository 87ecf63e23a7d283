//! What goes over the wire comes back the same, and what cannot be believed is named.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use proto::v1;
use types::intent::{
    Agent, Change, ClientId, Deployment, Drain, EngineSettings, Expect, Fault, Key, Model, Node, NodeKind,
    OpenAiServer, Placement, Policy, Reason, Region, Resource, Resume, Revision, Stored, Tenant, Version,
    What, Write, Zone,
};
use types::{KeyHash, KeyId, ModelVersion, Priority, UnixMs};

fn name<T: std::str::FromStr<Err: std::fmt::Debug> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    "[a-z][a-z0-9-]{0,31}".prop_map(|text| text.parse().unwrap())
}

fn resource() -> impl Strategy<Value = Resource> {
    let version = || any::<[u8; 32]>().prop_map(ModelVersion::from_digest);
    let priority = prop::sample::select(vec![Priority::Batch, Priority::Standard, Priority::Interactive]);
    let placement = (name(), any::<u16>())
        .prop_map(|(region, replicas_per_node)| Placement { region, replicas_per_node });
    let engine = (any::<u32>(), any::<u32>(), any::<Option<u64>>(), any::<u64>()).prop_map(
        |(slots, threads, kv_tokens, step_time_ms)| EngineSettings {
            slots,
            threads,
            kv_tokens,
            step_time_ms,
        },
    );
    prop_oneof![
        (name(), any::<i32>(), any::<i32>()).prop_map(|(name, latitude_e6, longitude_e6)| {
            Resource::Region(Region { name, latitude_e6, longitude_e6 })
        }),
        (name(), name()).prop_map(|(region, name)| Resource::Zone(Zone { region, name })),
        (name(), name(), name(), any::<std::net::SocketAddr>(), any::<String>()).prop_map(
            |(region, node, zone, ingress, server_name)| {
                // The scope of an IPv6 address is of one host and is not text.
                let ingress = ingress.to_string().parse().unwrap();
                let key = types::NodeKey { region, node };
                let kind = NodeKind::Agent(Agent { ingress, server_name });
                Resource::Node(Node { key, zone, kind })
            }
        ),
        (name(), name(), prop::collection::vec(name(), 0..3), any::<u32>(), any::<bool>()).prop_map(
            |(region, zone, models, slots, has_secret)| {
                let key = types::NodeKey { region, node: "vllm".parse().unwrap() };
                let base_url = "https://vllm.example.com/v1".parse().unwrap();
                let secret = has_secret.then(|| "RHUMB_SECRET_VLLM".parse().unwrap());
                let kind = NodeKind::OpenAi(OpenAiServer { base_url, models, slots, secret });
                Resource::Node(Node { key, zone, kind })
            }
        ),
        (
            name(),
            prop::option::of(prop::collection::vec(name(), 0..3)),
            priority,
            prop::sample::select(Resume::ALL.to_vec())
        )
            .prop_map(|(name, regions, priority, resume)| {
                Resource::Policy(Policy { name, regions, priority, resume })
            }),
        (name(), prop::option::of(name()), any::<Option<u64>>(), any::<Option<u64>>()).prop_map(
            |(name, policy, requests_per_minute, tokens_per_minute)| {
                Resource::Tenant(Tenant { name, policy, requests_per_minute, tokens_per_minute })
            }
        ),
        (
            any::<[u8; 10]>(),
            name(),
            any::<[u8; 32]>(),
            any::<Option<u64>>(),
            prop::option::of(prop::collection::vec(name(), 0..3))
        )
            .prop_map(|(id, tenant, hash, expires, models)| {
                Resource::Key(Key {
                    id: KeyId::from_random(id),
                    tenant,
                    hash: KeyHash::from_bytes(hash),
                    expires_unix_ms: expires.map(UnixMs),
                    models,
                })
            }),
        (name(), any::<Option<u32>>(), any::<Option<u32>>()).prop_map(
            |(name, first_token_seconds, stall_seconds)| {
                Resource::Model(Model { name, first_token_seconds, stall_seconds })
            }
        ),
        (version(), name(), any::<String>())
            .prop_map(|(version, model, source)| { Resource::Version(Version { version, model, source }) }),
        (name(), version(), prop::collection::vec(placement, 0..3), engine).prop_map(
            |(model, version, placements, engine)| {
                Resource::Deployment(Deployment { model, version, placements, engine })
            }
        ),
        (name(), prop::option::of(name()), any::<String>(), any::<Option<u64>>()).prop_map(
            |(region, node, reason, until)| {
                let scope = match node {
                    None => types::intent::DrainScope::Region(region),
                    Some(node) => types::intent::DrainScope::Node(types::NodeKey { region, node }),
                };
                Resource::Drain(Drain { scope, reason, until_unix_ms: until.map(UnixMs) })
            }
        ),
    ]
}

proptest! {
    #[test]
    fn resources_come_back_the_same(resource in resource(), revision in any::<u64>(), at in any::<u64>()) {
        let stored = Stored { resource, revision: Revision(revision), created_unix_ms: UnixMs(at) };
        let bytes = prost::Message::encode_to_vec(&v1::Stored::from(&stored));
        let wire: v1::Stored = prost::Message::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(Stored::try_from(wire), Ok(stored));
    }

    #[test]
    fn writes_come_back_the_same(
        resources in prop::collection::vec((resource(), 0..3u8, any::<bool>()), 0..5),
        client in any::<[u8; 16]>(),
        sequence in any::<u64>(),
        expects_shrink in any::<bool>(),
    ) {
        let changes = resources.into_iter().map(|(resource, expect, is_put)| Change {
            expect: [Expect::Anything, Expect::Absent, Expect::Revision(Revision(sequence))][usize::from(expect)],
            what: if is_put { What::Put(resource) } else { What::Delete(resource.id()) },
        });
        let write = Write { client: ClientId(client), sequence, changes: changes.collect(), expects_shrink };
        let bytes = prost::Message::encode_to_vec(&v1::WriteRequest::from(&write));
        let wire: v1::WriteRequest = prost::Message::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(Write::try_from(wire), Ok(write));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(wire) = <v1::WriteRequest as prost::Message>::decode(bytes.as_slice()) {
            let _ = Write::try_from(wire);
        }
        if let Ok(wire) = <v1::Update as prost::Message>::decode(bytes.as_slice())
            && let Some(v1::update::Content::Snapshot(snapshot)) = wire.content
        {
            for stored in snapshot.resources {
                let _ = Stored::try_from(stored);
            }
        }
    }
}

#[test]
fn what_is_missing_or_malformed_is_named() {
    use v1::resource::Resource as Wire;
    let put =
        |resource| v1::Change { what: Some(v1::change::What::Put(v1::Resource { resource })), expect: None };
    let changes = vec![
        put(None),
        put(Some(Wire::Tenant(v1::Tenant::default()))),
        put(Some(Wire::Tenant(v1::Tenant { name: "ACME".to_owned(), ..Default::default() }))),
        put(Some(Wire::Policy(v1::Policy { name: "p".to_owned(), priority: 99, ..Default::default() }))),
        put(Some(Wire::Key(v1::Key { id: "a".repeat(16), tenant: "acme".to_owned(), ..Default::default() }))),
        v1::Change { what: Some(v1::change::What::Delete("boss/x".to_owned())), expect: None },
        v1::Change::default(),
    ];
    let wire = v1::WriteRequest { client: vec![1].into(), sequence: 1, changes, expects_shrink: false };
    let faults = Write::try_from(wire).unwrap_err();
    let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "write: client: has 1 bytes, not 16",
            "changes[0]: resource: is missing",
            "changes[1]: name: is missing",
            "changes[2]: name: tenant name \"ACME\" must match [a-z][a-z0-9-]{0,31}",
            "changes[3]: priority: unknown enumeration value 99",
            "changes[4]: hash: is missing",
            "changes[5]: delete: \"boss/x\" is not <kind>/<name>",
            "changes[6]: put or delete: is missing",
        ]
    );
    let fault = faults[1].clone();
    assert_eq!(Fault::from(v1::Fault::from(&fault)), fault);
    let newer = v1::Fault { subject: "a".into(), field: "b".into(), reason: r#"{"code":"new"}"#.into() };
    assert_eq!(Fault::from(newer).reason, Reason::Malformed { text: r#"{"code":"new"}"#.to_owned() });
}
