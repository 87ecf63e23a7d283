//! Reads and writes of operators.

use crate::subscriber::{Got, Subscriber, Wish};
use crate::world::{
    World, delete, deployment, digest, edge, eventually, model, put, region, tenant, version,
};
use proto::v1;
use proto::v1::change::{Expect, What};
use proto::v1::resource::Resource as Wire;
use tonic::Code;
use types::UnixMs;
use types::intent::{Change, ClientId, Drain, Fault, Reason, Resource, Revision, Write};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_read_at_once_and_of_one_state() {
    let world = World::start().await;
    let first = world.put((0..1_000).map(|at| tenant(&format!("a{at}"), 1))).await;
    let second = world.put((0..200).map(|at| tenant(&format!("b{at}"), 1)).chain([model("m")])).await;
    assert!(second > first);
    let what = ["tenant", "model/m", "model/none", "tenant/a1"].map(ToOwned::to_owned).to_vec();
    let mut replies = world.operator(0).read(v1::ReadRequest { what }).await.unwrap().into_inner();
    let mut sizes = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        assert_eq!(reply.revision, second.0);
        assert_ne!(reply.incarnation, 0);
        sizes.push(reply.resources.len());
    }
    assert_eq!(sizes, [500, 500, 201], "each resource once, in parts");
    assert_eq!(world.read(&["node", "tenant/none"]).await, [], "what is not there is an empty answer");

    let status = world.operator(0).status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.cluster.as_str(), status.id, status.leader), ("c1", 1, 1));
    assert!(status.revision >= second.0 && status.term > 0);
    let members: Vec<_> =
        status.members.iter().map(|member| (member.id, member.name.as_str(), member.voter)).collect();
    assert_eq!(members, [(1, "cp1", true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_write_is_answered_as_the_first_was() {
    let world = World::start().await;
    let write = |sequence, limit| {
        let changes = vec![put(tenant("acme", limit))];
        v1::WriteRequest::from(&Write { client: ClientId([1; 16]), sequence, changes, expects_shrink: false })
    };
    let mut operator = world.operator(0);
    let first = operator.write(write(5, 1)).await.unwrap().into_inner();
    let second = operator.write(write(6, 2)).await.unwrap().into_inner();
    assert!(second.revision > first.revision);
    assert_eq!(operator.write(write(6, 2)).await.unwrap().into_inner(), second);
    let old = operator.write(write(5, 3)).await.unwrap().into_inner();
    assert_eq!(faults(&old)[0].reason, Reason::OldSequence { last: 6 });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_must_have_a_form() {
    let world = World::start().await;
    for what in [vec![], vec!["boss"], vec!["tenant", "tenant/UPPER"], vec!["tenant"; 1_001]] {
        let request = v1::ReadRequest { what: what.iter().map(ToString::to_string).collect() };
        let status = world.operator(0).read(request).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drains_are_lifted_when_their_time_is_over_however_many() {
    let world = World::start().await;
    let drain = |region: &str, until_unix_ms| {
        let scope = region.parse().unwrap();
        Resource::Drain(Drain { scope, reason: String::new(), until_unix_ms })
    };
    let names: Vec<String> = (0..12).map(|at| format!("r{at}")).collect();
    world.put(names.iter().map(|name| region(name))).await;
    let drains = names.iter().enumerate().map(|(at, name)| {
        // All but one end at once, which would be a large loss if nobody expected it.
        drain(name, (at > 0).then_some(UnixMs(1)))
    });
    world.put(drains).await;
    eventually("only the endless one is there", async || {
        let left = world.read(&["drain"]).await;
        left.len() == 1 && left[0].resource.id().to_string() == "drain/r0"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_majority_says_so_and_still_publishes() {
    let mut world = World::of(3, |_| {}).await;
    let last = world.put([tenant("acme", 1)]).await.0;
    let wish = || Wish { kinds: vec!["tenant"], ..Wish::default() };
    let mut live = Subscriber::new(&world, 0, &edge(1), wish()).await.unwrap();
    live.until(last).await;
    world.stop(1).await;
    world.stop(2).await;
    assert!(world.page(0, "/livez").await.starts_with("HTTP/1.1 200"));
    eventually("a leader that is silent is none", async || {
        world.page(0, "/readyz").await.starts_with("HTTP/1.1 503")
    })
    .await;

    let mut operator = world.operator(0);
    let status = operator.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.id, status.revision, status.members.len()), (1, last, 3));
    let changes = vec![put(tenant("late", 1))];
    let write = Write { client: ClientId([2; 16]), sequence: 1, changes, expects_shrink: false };
    let refused = operator.write(v1::WriteRequest::from(&write)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(!refused.message().is_empty());
    let read = v1::ReadRequest { what: vec!["tenant".to_owned()] };
    assert_eq!(operator.read(read).await.err().unwrap().code(), Code::Unavailable);

    assert_eq!(live.next().await.unwrap(), Got::Bookmark);
    let mut newcomer = Subscriber::new(&world, 0, &edge(2), wish()).await.unwrap();
    newcomer.until(last).await;
    assert_eq!(newcomer.picture, live.picture);
    // Other members may know more than this one, which hears nobody.
    let sent_away = live.next_change().await.unwrap_err();
    assert_eq!(sent_away.code(), Code::Unavailable, "{sent_away}");
    assert!(newcomer.next().await.is_ok(), "who came without a leader stays longer: perhaps there is none");
}

fn faults(reply: &v1::WriteReply) -> Vec<Fault> {
    reply.faults.iter().cloned().map(Fault::from).collect()
}

/// One wrong change, and which subject and field are named for it.
struct Wrong {
    change: v1::Change,
    subject: &'static str,
    field: &'static str,
    is_why: fn(&Reason) -> bool,
}

fn wrong(
    change: v1::Change,
    subject: &'static str,
    field: &'static str,
    is_why: fn(&Reason) -> bool,
) -> Wrong {
    Wrong { change, subject, field, is_why }
}

fn raw(resource: Wire) -> v1::Change {
    v1::Change { what: Some(What::Put(v1::Resource { resource: Some(resource) })), expect: None }
}

fn typed(change: &Change) -> v1::Change {
    change.into()
}

/// Nothing but a write of bad form names a change by its place.
const PLACE: &str = "changes[0]";

fn malformed() -> Vec<Wrong> {
    use Reason::{Malformed, Missing};
    let missing = |wire: Wire, field| wrong(raw(wire), PLACE, field, |why| matches!(why, Missing));
    let bad = |change, field| wrong(change, PLACE, field, |why| matches!(why, Malformed { .. }));
    let text = String::from;
    let digest = digest(1).to_string();
    let engine = Some(v1::EngineSettings { slots: 1, threads: 1, kv_tokens: None, step_time_ms: 0 });
    let key =
        v1::Key { id: "a".repeat(16), tenant: text("acme"), hash: vec![1; 32].into(), ..Default::default() };
    let node = v1::Node {
        region: text("us-east"),
        name: text("n1"),
        zone: text("a"),
        ingress: text("127.0.0.1:7443"),
        server_name: text("n1.x"),
        openai: None,
    };
    let server = v1::OpenAiServer {
        base_url: text("http://vllm:8000/v1"),
        models: vec![text("m")],
        slots: 8,
        secret: None,
    };
    let openai = |server| Wire::Node(v1::Node { openai: Some(server), ..node.clone() });
    let deployment = v1::Deployment { model: text("m"), version: digest.clone(), placements: vec![], engine };
    let placed = |region: &str, replicas_per_node| v1::Deployment {
        placements: vec![v1::Placement { region: region.to_owned(), replicas_per_node }],
        ..deployment.clone()
    };
    vec![
        wrong(v1::Change { what: None, expect: None }, PLACE, "put or delete", |why| matches!(why, Missing)),
        wrong(
            v1::Change { what: Some(What::Put(v1::Resource { resource: None })), expect: None },
            PLACE,
            "resource",
            |why| matches!(why, Missing),
        ),
        missing(Wire::Region(v1::Region::default()), "name"),
        missing(Wire::Zone(v1::Zone { region: text(""), name: text("a") }), "region"),
        missing(Wire::Zone(v1::Zone { region: text("us-east"), name: text("") }), "name"),
        missing(Wire::Node(v1::Node { region: text(""), ..node.clone() }), "region"),
        missing(Wire::Node(v1::Node { name: text(""), ..node.clone() }), "name"),
        missing(Wire::Node(v1::Node { zone: text(""), ..node.clone() }), "zone"),
        missing(Wire::Node(v1::Node { ingress: text(""), ..node.clone() }), "ingress"),
        missing(openai(v1::OpenAiServer { base_url: text(""), ..server.clone() }), "openai.base_url"),
        bad(
            raw(openai(v1::OpenAiServer { base_url: text("vllm:8000"), ..server.clone() })),
            "openai.base_url",
        ),
        bad(raw(openai(v1::OpenAiServer { secret: Some(text("PATH")), ..server })), "openai.secret"),
        missing(Wire::Policy(v1::Policy::default()), "name"),
        missing(Wire::Tenant(v1::Tenant::default()), "name"),
        missing(Wire::Key(v1::Key { id: text(""), ..key.clone() }), "id"),
        missing(Wire::Key(v1::Key { tenant: text(""), ..key.clone() }), "tenant"),
        missing(Wire::Key(v1::Key { hash: vec![].into(), ..key.clone() }), "hash"),
        missing(Wire::Model(v1::Model::default()), "name"),
        missing(Wire::Version(v1::Version { model: text("m"), ..Default::default() }), "version"),
        missing(Wire::Version(v1::Version { version: digest.clone(), ..Default::default() }), "model"),
        missing(Wire::Deployment(v1::Deployment { model: text(""), ..deployment.clone() }), "model"),
        missing(Wire::Deployment(v1::Deployment { version: text(""), ..deployment.clone() }), "version"),
        missing(Wire::Deployment(v1::Deployment { engine: None, ..deployment.clone() }), "engine"),
        missing(Wire::Deployment(placed("", 1)), "placements[0].region"),
        missing(Wire::Drain(v1::Drain::default()), "scope"),
        bad(raw(Wire::Tenant(v1::Tenant { name: "a".repeat(33), ..Default::default() })), "name"),
        bad(raw(Wire::Tenant(v1::Tenant { name: text("a\nb"), ..Default::default() })), "name"),
        bad(
            raw(Wire::Tenant(v1::Tenant { name: text("a"), policy: Some(text("B")), ..Default::default() })),
            "policy",
        ),
        bad(raw(Wire::Key(v1::Key { hash: vec![1; 31].into(), ..key })), "hash"),
        bad(raw(Wire::Node(v1::Node { ingress: text("nowhere"), ..node.clone() })), "ingress"),
        bad(
            raw(Wire::Policy(v1::Policy { name: text("p"), priority: 99, ..Default::default() })),
            "priority",
        ),
        bad(raw(Wire::Version(v1::Version { version: text("sha256:0"), ..Default::default() })), "version"),
        bad(raw(Wire::Deployment(placed("us-east", u32::MAX))), "placements[0].replicas_per_node"),
        bad(raw(Wire::Drain(v1::Drain { scope: text("a/b/c"), ..Default::default() })), "scope"),
        bad(v1::Change { what: Some(What::Delete(text("boss/acme"))), expect: None }, "delete"),
        bad(
            v1::Change { what: Some(What::Delete(text("tenant/acme"))), expect: Some(Expect::Absent(false)) },
            "expect",
        ),
    ]
}

fn senseless() -> Vec<Wrong> {
    use Reason::{Duplicate, Exists, Immutable, InUse, NotFound, OutOfRange, Stale, Taken, Unknown};
    let of = |change: Change, subject, field, is_why| wrong(typed(&change), subject, field, is_why);
    let expecting = |change: Change, expect| v1::Change { expect: Some(expect), ..typed(&change) };
    let version_id = "version/sha256:0000000000000000000000000000000000000000000000000000000000000001";
    vec![
        wrong(expecting(put(tenant("acme", 1)), Expect::Absent(true)), "tenant/acme", "", |why| {
            matches!(why, Exists)
        }),
        wrong(expecting(put(tenant("acme", 1)), Expect::Revision(1)), "tenant/acme", "", |why| {
            matches!(why, Stale { expected: Revision(1), .. })
        }),
        wrong(expecting(put(tenant("none", 1)), Expect::Revision(1)), "tenant/none", "", |why| {
            matches!(why, NotFound)
        }),
        of(delete("tenant/none"), "tenant/none", "", |why| matches!(why, NotFound)),
        of(delete("model/m"), "model/m", "", |why| matches!(why, InUse { .. })),
        of(put(tenant("acme", 0)), "tenant/acme", "requests_per_minute", |why| {
            matches!(why, OutOfRange { .. })
        }),
        of(put(tenant("acme", u64::MAX)), "tenant/acme", "requests_per_minute", |why| {
            matches!(why, OutOfRange { .. })
        }),
        of(
            put(deployment("m", 1, &["mars"])),
            "deployment/m",
            "placements[0].region",
            |why| matches!(why, Unknown { id } if id == "region/mars"),
        ),
        of(put(deployment("m", 1, &["us-east", "us-east"])), "deployment/m", "placements[1]", |why| {
            matches!(why, Duplicate)
        }),
        of(put(deployment("m", 9, &[])), "deployment/m", "version", |why| matches!(why, Unknown { .. })),
        of(
            put(version("other", 1, "file:///m")),
            version_id,
            "version",
            |why| matches!(why, Taken { to } if to == "model/m"),
        ),
        of(put(version("m", 1, "file:///elsewhere")), version_id, "source", |why| matches!(why, Immutable)),
        of(put(version("m", 1, "")), version_id, "source", |why| matches!(why, Reason::Missing)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_write_is_said_by_subject_and_field_and_nothing_is_done() {
    let world = World::start().await;
    world
        .put([region("us-east"), tenant("acme", 7), model("m"), model("other"), version("m", 1, "file:///m")])
        .await;
    let before = world.read(&ALL).await;
    let mut operator = world.operator(0);
    let mut sequence = 0;
    let mut write = async |client: Vec<u8>, changes: Vec<v1::Change>| {
        sequence += 1;
        let write = v1::WriteRequest { client: client.into(), sequence, changes, expects_shrink: false };
        faults(&operator.write(write).await.unwrap().into_inner())
    };
    let client = || vec![3; 16];
    for Wrong { change, subject, field, is_why } in malformed().into_iter().chain(senseless()) {
        // With a good one beside it, which is not done either.
        let good = typed(&put(tenant("good", 1)));
        let found = write(client(), vec![change.clone(), good]).await;
        let is_named = found
            .iter()
            .any(|fault| fault.subject == subject && fault.field == field && is_why(&fault.reason));
        assert!(is_named, "{change:?} must be refused for {subject} {field:?}, not with {found:?}");
    }
    let good = || typed(&put(tenant("good", 1)));
    for (client, changes, field) in [
        (vec![], vec![good()], "client"),
        (vec![1; 17], vec![good()], "client"),
        (client(), vec![], "changes"),
    ] {
        let found = write(client, changes).await;
        assert_eq!((found[0].subject.as_str(), found[0].field.as_str()), ("write", field));
    }
    let twice = write(client(), vec![good(), good()]).await;
    assert_eq!((twice[0].subject.as_str(), &twice[0].reason), ("tenant/good", &Reason::Duplicate));
    let many = (0..1_001).map(|at| typed(&put(tenant(&format!("t{at}"), 1)))).collect();
    assert!(matches!(write(client(), many).await[0].reason, Reason::TooMany { most: 1_000 }));
    // All that is wrong is said together.
    let all = write(client(), vec![typed(&put(tenant("a", 0))), typed(&delete("tenant/none"))]).await;
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(world.read(&ALL).await, before);
    let line = "rhumb_control_plane_writes_total{outcome=\"refused\"}";
    assert!(world.metric(0, line).await > 40.0);
    let too_large = v1::WriteRequest { client: vec![0; 4 << 20].into(), ..Default::default() };
    assert_eq!(world.operator(0).write(too_large).await.unwrap_err().code(), Code::OutOfRange);
}

const ALL: [&str; 10] =
    ["region", "zone", "node", "policy", "tenant", "key", "model", "version", "deployment", "drain"];
