//! Nodes that are far, silent or gone: a request that a healthy node could serve is served, and soon.

use crate::intent::node_at;
use crate::link::Link;
use crate::node::Act;
use crate::world::{Got, SOON, Scene, World, free_addresses, got};
use edge::File;
use std::time::{Duration, Instant};
use types::DialMap;
use types::intent::Resource;

const STREAM: &str = r#", "stream":true"#;

/// A world whose near node is at the end of a link.
async fn near_behind_a_link() -> (World, Link) {
    let scene = Scene::set().await;
    let link = Link::to(scene.near.address, Duration::ZERO).await;
    let mut resources = scene.resources();
    place(&mut resources, node_at("us-east", "n1", link.address));
    scene.store(&resources);
    let world = scene.start(None).await;
    (world, link)
}

/// In place of whatever is there under the same name.
fn place(resources: &mut Vec<Resource>, resource: Resource) {
    resources.retain(|other| other.id() != resource.id());
    resources.push(resource);
}

/// How long until a request had its whole answer, which must be good.
async fn time_of(world: &World, options: &str) -> Duration {
    let began = Instant::now();
    let got = got(world.begin("anyone", options).await, || {}).await;
    assert!(got.status == 200 && got.whole && !got.body.contains("error"), "{got:?}");
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_falls_silent_is_left_soon_and_used_again_once_it_speaks() {
    let (world, link) = near_behind_a_link().await;
    time_of(&world, STREAM).await;
    // A stream keeps the node in use, as load would.
    world.near.will([Act::WaitAfter(1)]);
    let running = world.begin("anyone", STREAM).await;
    for _ in 0..3 {
        world.near.until_probed().await;
    }
    link.hold();
    let asks = (0..20).map(|_| time_of(&world, STREAM));
    let longest = futures_util::future::join_all(asks).await.into_iter().max().unwrap();
    // 1.7 s by the constants of the probe, and something for a busy machine.
    assert!(longest < Duration::from_millis(2500), "{longest:?}");
    assert!(time_of(&world, STREAM).await < Duration::from_millis(500), "new requests go elsewhere at once");

    link.release();
    world.near.go_on();
    let running: Got = got(running, || {}).await;
    assert!(running.body.ends_with("data: [DONE]\n\n"), "what had begun goes on: {}", running.body);
    let back = async {
        loop {
            world.near.will([]);
            time_of(&world, STREAM).await;
            if !world.near.seen().is_empty() {
                return;
            }
        }
    };
    tokio::time::timeout(2 * SOON, back).await.expect("used again soon");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_at_the_end_of_a_very_slow_link_is_not_taken_for_a_dead_one() {
    let scene = Scene::set().await;
    let link = Link::to(scene.far.address, Duration::from_millis(600)).await;
    let mut resources = scene.resources();
    place(&mut resources, node_at("eu-west", "n1", link.address));
    scene.store(&resources);
    let world = scene.start(None).await;
    // The dial alone takes longer than a near node is waited for.
    world.far.until_probed().await;
    let served = async { while world.ask_as("european", STREAM).await.status != 200 {} };
    tokio::time::timeout(SOON, served).await.expect("served once it is known");
    for _ in 0..2 {
        let got = world.ask_as("european", STREAM).await;
        assert_eq!(got.status, 200, "{}", got.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_node_is_waited_for_while_it_is_silent_and_used_at_once_when_it_speaks() {
    let scene = Scene::set().await;
    let link = Link::to(scene.far.address, Duration::ZERO).await;
    let mut resources = scene.resources();
    place(&mut resources, node_at("eu-west", "n1", link.address));
    scene.store(&resources);
    let world = scene.start(None).await;
    let serving = async |count: &str| {
        let gauge = format!("rhumb_edge_nodes_serving {count}\n");
        while !world.admin("/metrics").await.body.contains(&gauge) {}
    };
    tokio::time::timeout(SOON, serving("2")).await.expect("both are known");

    link.hold();
    let waiting = (0..8).map(|_| world.ask_as("european", ""));
    let released = async {
        serving("1").await;
        link.release();
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(waiting), released);
    for got in answers {
        assert_eq!(got.status, 200, "{}", got.body);
    }
    let again = async { while world.ask_as("european", STREAM).await.status != 200 {} };
    tokio::time::timeout(Duration::from_secs(2), again).await.expect("no breaker keeps requests away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_is_begun_anew_elsewhere_when_its_node_falls_silent() {
    let (world, link) = near_behind_a_link().await;
    world.near.will([Act::HangAfter(1)]);
    let asked = time_of(&world, "");
    let silenced = async {
        let begun = r#"rhumb_edge_attempts_total{outcome="answered"} 1"#;
        while !world.admin("/metrics").await.body.contains(begun) {
            tokio::task::yield_now().await;
        }
        link.hold();
    };
    let both = async { tokio::join!(asked, silenced) };
    tokio::time::timeout(SOON, both).await.expect("answered soon");
    assert_eq!(world.far.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_and_silent_nodes_cost_a_request_nothing_but_time() {
    let scene = Scene::set().await;
    let mut resources = scene.resources();
    // A whole region is dead, and in the next one those that are asked first are no better.
    let dead = ["us-east/n1", "us-east/n2", "us-east/n3", "eu-west/a1"];
    for (node, address) in dead.into_iter().zip(free_addresses::<4>()) {
        let (region, name) = node.split_once('/').unwrap();
        place(&mut resources, node_at(region, name, address));
    }
    let link = Link::to(scene.far.address, Duration::ZERO).await;
    link.hold();
    place(&mut resources, node_at("eu-west", "a2", link.address));
    scene.store(&resources);
    let world = scene.start(None).await;
    // Before any probe has found them out.
    let longest = futures_util::future::join_all((0..20).map(|_| time_of(&world, STREAM))).await;
    assert!(longest.iter().max() < Some(&Duration::from_millis(2500)), "{longest:?}");
    assert!(world.near.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_dialled_where_the_map_says() {
    let scene = Scene::set().await;
    let known = "127.99.99.99".parse().unwrap();
    let mut resources = scene.resources();
    place(&mut resources, node_at("eu-west", "n1", (known, scene.far.address.port()).into()));
    scene.store(&resources);
    let file = File { dial_map: DialMap::new([(known, scene.far.address.ip())]), ..scene.file(None) };
    let world = scene.start_as(file).await;
    assert_eq!(world.ask_as("european", "").await.status, 200);
    assert_eq!(world.far.seen().len(), 1);
}
