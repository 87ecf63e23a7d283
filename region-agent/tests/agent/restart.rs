//! An agent without its control plane: what it runs is what was last said, and it says for what it waits.

use crate::house::{Edge, failure};
use crate::world::{World, ended, issue_edge, issue_in, one_replica, this_node, tiny};
use region_agent::StartError;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub fn run(world: &World) -> (CancellationToken, JoinHandle<Result<(), StartError>>) {
    let shutdown = CancellationToken::new();
    (shutdown.clone(), tokio::spawn(region_agent::run(world.config(), shutdown)))
}

async fn until_ready_says(world: &World, what: &str) {
    let begun = Instant::now();
    loop {
        let page = world.page("/readyz").await.unwrap_or_default();
        if page.contains(what) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{page}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_agent_starts_its_engines_from_disk_again_and_again() {
    let world = World::new();
    for _ in 0..4 {
        let (shutdown, agent) = run(&world);
        let page = world.until("us-east/n1/0-0", "serving").await;
        assert_eq!((&page["revision"], &page["live"]), (&9.into(), &false.into()));
        assert_eq!((&page["wanted"], &page["waiting"]), (&1.into(), &0.into()));
        let metrics = world.page("/metrics").await.unwrap();
        for line in [
            "rhumb_agent_intent_revision 9",
            "rhumb_agent_intent_live 0",
            "rhumb_agent_places{state=\"wanted\"} 1",
            "rhumb_agent_places{state=\"running\"} 1",
            "rhumb_agent_places{state=\"waiting\"} 0",
        ] {
            assert!(metrics.contains(line), "{line} is not in {metrics}");
        }
        shutdown.cancel();
        ended(agent).await;
    }
}

#[tokio::test]
async fn without_any_intent_an_agent_waits_and_says_so() {
    let world = World::without_intent();
    let authority = issue_in(&world.file.identity, "n1");
    let (shutdown, agent) = run(&world);
    let member = world.file.control_plane[0].address;
    until_ready_says(&world, &format!("waits for the control plane to say what to run: {member}")).await;
    assert!(world.page("/readyz").await.unwrap().starts_with("HTTP/1.1 503"));
    assert_eq!(world.replicas().await.unwrap()["revision"], serde_json::Value::Null);
    let edge = Edge::dial(world.file.ingress.parse().unwrap(), &issue_edge(&authority, &world)).await;
    assert_eq!(failure(&edge.ask(7, "nowhere").await), "no-replica");
    shutdown.cancel();
    ended(agent).await;
}

#[tokio::test]
async fn an_agent_says_what_its_intent_lacks() {
    for (resources, what) in [
        (vec![tiny(), one_replica()], "waits for node/us-east/n1 to be in the intent"),
        (vec![this_node(), tiny()], "waits for a deployment that places replicas here"),
    ] {
        let world = World::without_intent();
        world.keep(9, &resources);
        let (shutdown, agent) = run(&world);
        until_ready_says(&world, what).await;
        shutdown.cancel();
        ended(agent).await;
    }
}

#[tokio::test]
async fn a_picture_that_cannot_be_run_leaves_the_one_before() {
    let world = World::new();
    // Without its version.
    world.keep(10, &[this_node(), one_replica()]);
    let (shutdown, agent) = run(&world);
    let page = world.until("us-east/n1/0-0", "serving").await;
    assert_eq!(page["revision"], 9);
    shutdown.cancel();
    ended(agent).await;
}
