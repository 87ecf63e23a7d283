//! Bad input: each fault is named by resource, field and reason, and all of them at once.

use crate::world::{
    World, delete, deployment, drain, id, key, model, node, openai_node, policy, put, region, server, tenant,
    version, zone,
};
use state::check::CHANGES_MAX;
use types::intent::{
    Agent, Deployment, Drain, Expect, Key, Model, Node, NodeKind, OpenAiServer, Policy, Region, Resource,
    Tenant, Version,
};

macro_rules! with {
    ($kind:ident, $resource:expr, $($field:ident).+ = $value:expr) => {{
        let Resource::$kind(mut inner) = $resource else { unreachable!() };
        inner.$($field).+ = $value;
        let inner: $kind = inner;
        Resource::$kind(inner)
    }};
}

fn secret_to(base_url: &str) -> OpenAiServer {
    let secret = Some("RHUMB_SECRET_VLLM".parse().unwrap());
    OpenAiServer { base_url: base_url.parse().unwrap(), secret, ..server("us-east", &["house"]) }
}

#[test]
fn every_bad_field_is_named() {
    let long = "x".repeat(2_000);
    let none = || "nobody".parse().unwrap();
    let twice = || Some(vec!["us-east".parse().unwrap(), "us-east".parse().unwrap()]);
    let agent = |ingress: &str, server_name: &str| {
        NodeKind::Agent(Agent { ingress: ingress.parse().unwrap(), server_name: server_name.to_owned() })
    };
    let placements = |replicas| {
        let one = |replicas| types::intent::Placement {
            region: "us-east".parse().unwrap(),
            replicas_per_node: replicas,
        };
        vec![one(replicas), one(1)]
    };
    let cases: Vec<(Resource, &[&str])> = vec![
        (with!(Region, region("r"), latitude_e6 = 90_000_001), &["latitude_e6"]),
        (with!(Region, region("r"), longitude_e6 = i32::MIN), &["longitude_e6"]),
        (zone("nowhere"), &["region"]),
        (node("nowhere"), &["zone"]),
        (with!(Node, node("us-east"), zone = "b".parse().unwrap()), &["zone"]),
        (with!(Node, node("us-east"), kind = agent("127.0.0.1:0", "n1")), &["ingress"]),
        (with!(Node, node("us-east"), kind = agent("0.0.0.0:1", "n1")), &["ingress"]),
        (with!(Node, node("us-east"), kind = agent("127.0.0.1:1", "")), &["server_name"]),
        (with!(Node, node("us-east"), kind = agent("127.0.0.1:1", "no host")), &["server_name"]),
        (openai_node("us-east", server("us-east", &[])), &["models"]),
        (openai_node("us-east", server("us-east", &["house", "house"])), &["models[1]"]),
        (openai_node("us-east", server("us-east", &["house", "nothing"])), &["models[1]"]),
        (openai_node("us-east", OpenAiServer { slots: 0, ..server("us-east", &["house"]) }), &["slots"]),
        (
            openai_node(
                "us-east",
                OpenAiServer {
                    base_url: "http://0.0.0.0:1".parse().unwrap(),
                    ..server("us-east", &["house"])
                },
            ),
            &["base_url"],
        ),
        (openai_node("us-east", secret_to("http://vllm:8000/v1")), &["secret"]),
        (openai_node("us-east", secret_to("http://192.0.2.7/v1")), &["secret"]),
        (openai_node("us-east", secret_to("http://[::ffff:192.0.2.7]/v1")), &["secret"]),
        (policy("p", Some(&[])), &["regions"]),
        (policy("p", Some(&["nowhere"])), &["regions[0]"]),
        (with!(Policy, policy("p", None), regions = twice()), &["regions[1]"]),
        (with!(Tenant, tenant("t"), requests_per_minute = Some(0)), &["requests_per_minute"]),
        (with!(Tenant, tenant("t"), tokens_per_minute = Some(u64::MAX)), &["tokens_per_minute"]),
        (with!(Tenant, tenant("t"), policy = Some("nothing".parse().unwrap())), &["policy"]),
        (key(2, "nobody"), &["tenant"]),
        (key(0, "acme"), &["hash"]),
        (with!(Key, key(2, "acme"), models = Some(vec![])), &["models"]),
        (with!(Key, key(2, "acme"), expires_unix_ms = Some(types::UnixMs(0))), &["expires_unix_ms"]),
        (with!(Key, key(1, "acme"), tenant = none()), &["id", "tenant"]),
        (with!(Key, key(1, "acme"), hash = types::KeyHash::from_bytes([3; 32])), &["hash"]),
        (version(2, "nothing"), &["model"]),
        (with!(Version, version(2, "house"), source = String::new()), &["source"]),
        (with!(Version, version(2, "house"), source = "http://x".to_owned()), &["source"]),
        (with!(Version, version(2, "house"), source = format!("file:///{long}")), &["source"]),
        (with!(Version, version(1, "house"), source = "file:///elsewhere".to_owned()), &["source"]),
        (with!(Model, model("house"), first_token_seconds = Some(0)), &["first_token_seconds"]),
        (with!(Model, model("house"), first_token_seconds = Some(601)), &["first_token_seconds"]),
        (with!(Model, model("house"), stall_seconds = Some(0)), &["stall_seconds"]),
        (with!(Model, model("house"), stall_seconds = Some(u32::MAX)), &["stall_seconds"]),
        (deployment("house", 2), &["version"]),
        (with!(Deployment, deployment("house", 1), placements = placements(1)), &["placements[1]"]),
        (
            with!(Deployment, deployment("house", 1), placements = placements(u16::MAX)),
            &["placements[1]", "placements[0].replicas_per_node"],
        ),
        (with!(Deployment, deployment("house", 1), engine.slots = 0), &["engine.slots"]),
        (with!(Deployment, deployment("house", 1), engine.threads = u32::MAX), &["engine.threads"]),
        (with!(Deployment, deployment("house", 1), engine.kv_tokens = Some(0)), &["engine.kv_tokens"]),
        (with!(Deployment, deployment("house", 1), engine.step_time_ms = u64::MAX), &["engine.step_time_ms"]),
        (drain("nowhere", None), &["scope"]),
        (drain("us-east/n9", None), &["scope"]),
        (drain("us-east", Some(0)), &["until_unix_ms"]),
        (with!(Drain, drain("us-east", None), reason = long.clone()), &["reason"]),
        (with!(Drain, drain("us-east", None), reason = "a\nb".to_owned()), &["reason"]),
    ];
    for (resource, fields) in cases {
        let mut world = World::new();
        let before = world.state.clone();
        let faults = world.put(vec![resource.clone()]).unwrap_err();
        let named: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(named, fields, "{resource:?}: {faults:?}");
        assert!(faults.iter().all(|fault| fault.subject == resource.id().to_string()), "{faults:?}");
        assert_eq!(world.state, before);
    }
}

#[test]
fn a_digest_that_is_taken_stays_with_its_model() {
    let mut world = World::new();
    world.put(vec![model("other")]).unwrap();
    let faults = world.put(vec![version(1, "other")]).unwrap_err();
    assert_eq!(
        faults[0].to_string(),
        format!("{}: version: belongs to model/house already", version(1, "other").id())
    );
    let faults = world.put(vec![deployment("other", 1)]).unwrap_err();
    assert_eq!(faults[0].to_string(), "deployment/other: version: belongs to model/house already");
}

#[test]
fn all_faults_of_a_write_are_named_together() {
    let mut world = World::new();
    let changes = vec![
        put(Expect::Absent, tenant("acme")),
        put(Expect::Anything, key(5, "nobody")),
        delete(Expect::Anything, "tenant/ghost"),
        put(Expect::Anything, tenant("beta")),
        put(Expect::Anything, tenant("beta")),
    ];
    let faults = world.write(changes).unwrap_err();
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let of_key = format!("{}: tenant: there is no tenant/nobody", key(5, "acme").id());
    assert_eq!(
        texts,
        [
            "tenant/acme: is there already",
            "tenant/ghost: is not there",
            "tenant/beta: is named twice",
            &of_key
        ]
    );
    assert!(world.write(vec![]).is_err(), "a write changes something");
}

#[test]
fn what_is_used_is_not_deleted_and_order_within_a_write_is_free() {
    let mut world = World::new();
    let faults = world.delete("tenant/acme").unwrap_err();
    assert_eq!(faults[0].to_string(), format!("tenant/acme: {} uses it", key(1, "acme").id()));
    let faults = world.delete("region/us-east").unwrap_err();
    assert_eq!(faults[0].to_string(), "region/us-east: zone/us-east/a uses it (and 1 more)");
    let key_id = key(1, "acme").id().to_string();
    world.write(vec![delete(Expect::Anything, "tenant/acme"), delete(Expect::Anything, &key_id)]).unwrap();
    world.put(vec![key(2, "beta"), tenant("beta")]).unwrap();
    // What named the policy before no longer does.
    world.put(vec![with!(Tenant, tenant("beta"), policy = Some("gold".parse().unwrap()))]).unwrap();
    world.delete("policy/gold").unwrap_err();
    world
        .write(vec![put(Expect::Anything, tenant("beta")), delete(Expect::Anything, "policy/gold")])
        .unwrap();
}

#[test]
fn a_write_is_bounded() {
    let mut world = World::new();
    let tenants = |count: usize| (0..count).map(|number| tenant(&format!("t{number}"))).collect();
    world.put(tenants(CHANGES_MAX + 1)).unwrap_err();
    world.put(tenants(CHANGES_MAX)).unwrap();
    let regions = (0..300).map(|number| region(&format!("r{number}"))).collect();
    let faults = world.put(regions).unwrap_err();
    assert_eq!(faults[0].to_string(), "write: region: there may be 256 at most");
}

#[test]
fn a_large_loss_must_be_expected() {
    let mut world = World::new();
    world.put((0..9).map(|number| tenant(&format!("t{number}"))).collect()).unwrap();
    assert_eq!(world.state.count(types::intent::Kind::Tenant), 10);
    let lose = |count: usize| {
        (0..count).map(|number| delete(Expect::Anything, &format!("tenant/t{number}"))).collect::<Vec<_>>()
    };
    let faults = world.write(lose(4)).unwrap_err();
    let text = "write: expects_shrink: would remove 4 of 10 tenant resources; say that you expect it";
    assert_eq!(faults[0].to_string(), text);
    let write = types::intent::Write {
        client: types::intent::ClientId([9; 16]),
        sequence: 1,
        changes: lose(4),
        expects_shrink: true,
    };
    let outcome = world.apply(state::Command::Write(write));
    assert!(matches!(outcome, state::Outcome::Written(_)), "{outcome:?}");
    assert_eq!(world.state.head().shrink_revision.0, world.index);
    world.write(lose(0).into_iter().chain([delete(Expect::Anything, "tenant/t8")]).collect()).unwrap();
    assert!(world.state.get(&id("tenant/t8")).is_none());
}

#[test]
fn harmless_deletions_add_up_to_a_large_loss_for_whoever_was_away() {
    let mut world = World::new();
    world.put((0..9).map(|number| tenant(&format!("t{number}"))).collect()).unwrap();
    let mut shrunk_at = Vec::new();
    for number in 0..9 {
        let before = world.state.head().shrink_revision;
        let revision = world.delete(&format!("tenant/t{number}")).unwrap();
        let after = world.state.head().shrink_revision;
        assert!(after == before || after == revision);
        if after == revision {
            shrunk_at.push(number);
        }
    }
    // Of ten the fourth is too much; of the six that are left, four more.
    assert_eq!(shrunk_at, [3, 7]);
    // A kind that was small when its first was lost, and large later.
    world.put(vec![tenant("first")]).unwrap();
    world.delete("tenant/first").unwrap();
    world.put((0..100).map(|number| tenant(&format!("u{number}"))).collect()).unwrap();
    let before = world.state.position().revision;
    for number in 0..31 {
        world.delete(&format!("tenant/u{number}")).unwrap();
    }
    assert!(world.state.head().shrink_revision > before);
}

#[test]
fn a_secret_may_go_by_https_anywhere_and_in_plain_where_no_stranger_is() {
    for url in [
        "https://api.example.com/v1",
        "http://localhost:8000",
        "http://127.9.0.1:8000",
        "http://10.0.0.7:8000/v1",
        "http://[::1]:8000",
        "http://[fd00::7]:8000",
        "http://[::ffff:192.168.0.7]:8000",
    ] {
        let written = World::new().put(vec![
            region("us-east"),
            zone("us-east"),
            model("house"),
            openai_node("us-east", secret_to(url)),
        ]);
        assert!(written.is_ok(), "{url}: {written:?}");
    }
}
