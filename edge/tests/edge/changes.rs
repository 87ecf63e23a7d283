//! What operators change while requests are on their way, and what it never costs.

use crate::intent::{VERSION, drain, key_of, node};
use crate::member::{Change, Member};
use crate::node::Act;
use crate::world::{Got, Scene, World, got};
use proto::signal::NodeReport;
use std::time::Duration;
use types::intent::{Resource, ResourceId};
use types::{LoadFrame, LoadState};

const STREAM: &str = r#", "stream":true"#;

fn id(text: &str) -> ResourceId {
    text.parse().unwrap()
}

/// Changes intent while the near node is in the middle of a stream, and returns how that ended.
async fn during_a_stream(world: &World, member: &Member, changes: Vec<Change>) -> Got {
    world.near.will([Act::WaitAfter(1)]);
    let running = world.begin("anyone", STREAM).await;
    assert_eq!(running.0, 200);
    member.change(changes).await.unwrap();
    world.near.will([]);
    world.far.will([]);
    for _ in 0..3 {
        // Not by `ask`, which would let the stream go on.
        let got = got(world.begin("anyone", "").await, || {}).await;
        assert_eq!(got.status, 200, "{}", got.body);
    }
    world.near.go_on();
    got(running, || {}).await
}

fn assert_complete(got: &Got) {
    assert!(got.whole && got.body.ends_with("data: [DONE]\n\n"), "{}", got.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_sends_new_requests_elsewhere_and_cuts_nothing() {
    let (world, member) = World::live().await;
    for scope in ["us-east", "us-east/n1"] {
        let running = during_a_stream(&world, &member, vec![Change::Put(drain(scope))]).await;
        assert_complete(&running);
        assert_eq!((world.near.seen().len(), world.far.seen().len()), (0, 3), "{scope}");
        member.change(vec![Change::Delete(id(&format!("drain/{scope}")))]).await.unwrap();
        assert_eq!(world.ask("").await.status, 200);
        assert_eq!(world.near.seen().len(), 1, "{scope} is back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_of_everything_is_a_refusal_that_says_so() {
    let (world, member) = World::live().await;
    let everywhere = ["us-east", "eu-west"].map(|scope| Change::Put(drain(scope)));
    member.change(everywhere.to_vec()).await.unwrap();
    let got = world.ask("").await;
    assert_eq!(got.status, 503);
    assert!(got.body.contains("no_capacity") && got.body.contains("drained"), "{}", got.body);
    assert!(got.headers.contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_the_table_finishes_its_streams() {
    let (world, member) = World::live().await;
    let running = during_a_stream(&world, &member, vec![Change::Delete(id("node/us-east/n1"))]).await;
    assert_complete(&running);
    assert_eq!((world.near.seen().len(), world.far.seen().len()), (0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moves_is_probed_and_asked_where_it_is() {
    let (world, member) = World::live().await;
    world.near.until_probed().await;
    let moved = world.replacement().await;
    let running = during_a_stream(&world, &member, vec![Change::Put(node("us-east", &moved))]).await;
    assert_complete(&running);
    assert_eq!((world.near.seen().len(), moved.seen().len()), (0, 3));
    moved.until_probed().await;
}

/// After three missed probes the refusal would be another one.
#[tokio::test(flavor = "multi_thread")]
async fn reports_are_heeded_where_probes_tell_nothing() {
    let scene = Scene::set().await;
    scene.far.answer_no_probes();
    let member = scene.member(scene.resources()).await;
    let frame = LoadFrame { state: LoadState::Serving, replicas: 0, ..LoadFrame::default() };
    let loads = vec![(VERSION.parse().unwrap(), frame)];
    let node = "eu-west/n1".parse().unwrap();
    member.heard([NodeReport { node, loads, age: Duration::from_millis(500) }]);
    let world = scene.start(Some(&member)).await;
    world.until_ready().await;
    let refused = loop {
        let got = world.ask_as("european", "").await;
        if got.status != 200 {
            break got;
        }
    };
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains("no replica of this model version"), "{}", refused.body);
    assert_eq!(world.ask("").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_from_the_next_request_on() {
    let (world, member) = World::live().await;
    world.far.will([Act::WaitAfter(1)]);
    let running = world.begin("european", STREAM).await;
    member.change(vec![Change::Delete(ResourceId::Key(key_of("european").id))]).await.unwrap();
    let refused = world.ask_as("european", "").await;
    assert_eq!(refused.status, 401, "{}", refused.body);
    assert!(refused.body.contains("invalid_api_key"), "{}", refused.body);
    assert_eq!(world.ask("").await.status, 200, "other keys open");
    world.far.go_on();
    assert_complete(&got(running, || {}).await);
    member.change(vec![Change::Put(Resource::Key(key_of("european")))]).await.unwrap();
    world.far.will([]);
    assert_eq!(world.ask_as("european", "").await.status, 200, "a new key opens at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_contradicts_itself_is_refused_and_the_old_one_stays() {
    let (world, member) = World::live().await;
    let refused = member.change(vec![Change::Delete(id("zone/us-east/a"))]).await.unwrap_err();
    assert!(refused.contains("node/us-east/n1 names zone/us-east/a"), "{refused}");
    let refused = member.change(vec![Change::Delete(id("policy/europe"))]).await.unwrap_err();
    assert!(refused.contains("tenant/european names policy/europe"), "{refused}");
    assert_eq!(world.ask("").await.status, 200);
    assert_eq!(world.ask_as("european", "").await.status, 200);
    assert_eq!((world.near.seen().len(), world.far.seen().len()), (1, 1), "residency as before");
    let metrics = world.admin("/metrics").await.body;
    for line in [
        r#"rhumb_edge_intent_refused_total{interest="routing"} 1"#,
        r#"rhumb_edge_intent_refused_total{interest="tenants"} 1"#,
        r#"rhumb_edge_intent_live{interest="routing"} 1"#,
        r#"rhumb_edge_intent_revision{interest="tenants"}"#,
        "rhumb_edge_keys 4",
        "rhumb_edge_tenants 4",
        "rhumb_edge_nodes 2",
        "rhumb_edge_certificate_expiry_seconds 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}
