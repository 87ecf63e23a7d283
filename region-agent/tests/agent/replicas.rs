//! The lives of replicas under a whole agent that finds its intent on disk.

use crate::stand_in::script;
use crate::world::{World, ended, is_alive, issue_in, pid};
use axum::Router;
use axum::routing::get;
use nix::sys::signal::{Signal, kill};
use region_agent::StartError;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_killed_engine_is_another_replica_and_ends_with_its_agent() {
    let world = World::new();
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(region_agent::run(world.config(), shutdown.clone()));

    let page = world.until("us-east/n1/0-0", "serving").await;
    assert_eq!(
        (&page["region"], &page["node"], &page["state"]),
        (&"us-east".into(), &"n1".into(), &"serving".into())
    );
    assert_eq!(page["replicas"][0]["starts"], 1);
    assert!(world.page("/readyz").await.unwrap().starts_with("HTTP/1.1 200"));

    kill(pid(&page), Signal::SIGKILL).unwrap();
    let second = world.until("us-east/n1/0-1", "serving").await;
    assert_ne!(pid(&second), pid(&page));
    let metrics = world.page("/metrics").await.unwrap();
    assert!(metrics.contains("rhumb_agent_engine_starts_total 2"), "{metrics}");
    assert!(metrics.contains("rhumb_agent_engine_exits_total 1"), "{metrics}");

    shutdown.cancel();
    ended(agent).await;
    assert!(!is_alive(pid(&second)));
    let log = std::fs::read_to_string(world.dir.path().join("logs/engine-0.log")).unwrap();
    assert!(log.contains("-- us-east/n1/0-0 --") && log.contains("--replica us-east/n1/0-1"), "{log}");
}

#[tokio::test]
async fn a_hanging_engine_is_replaced() {
    let world = World::new();
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(region_agent::run(world.config(), shutdown.clone()));
    let page = world.until("us-east/n1/0-0", "serving").await;
    kill(pid(&page), Signal::SIGSTOP).unwrap();
    world.until("us-east/n1/0-1", "serving").await;
    assert!(!is_alive(pid(&page)));
    shutdown.cancel();
    ended(agent).await;
}

#[tokio::test]
async fn a_stranger_on_the_port_is_not_the_engine() {
    for stranger_says in ["", "us-east/n2/0-0"] {
        let mut world = World::new();
        // It lives, and does not come to listen.
        world.file.program = Some(script(world.dir.path(), "slow.sh", "exec sleep 1000"));
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let readyz = async move || {
            count.fetch_add(1, Ordering::Relaxed);
            ([("rhumb-replica", stranger_says)], "ok")
        };
        let listener = tokio::net::TcpListener::bind(&world.file.engines_listen).await.unwrap();
        let pages = Router::new().route("/readyz", get(readyz)).route("/livez", get(async || "ok"));
        tokio::spawn(async move { axum::serve(listener, pages).await });

        let shutdown = CancellationToken::new();
        let agent = tokio::spawn(region_agent::run(world.config(), shutdown.clone()));
        world.until("us-east/n1/0-0", "starting").await;
        let begun = Instant::now();
        // The third question comes after the answer to the second was judged.
        while asked.load(Ordering::Relaxed) < 3 {
            assert!(begun.elapsed() < Duration::from_secs(30), "the stranger was believed, or never asked");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(world.replicas().await.unwrap()["replicas"][0]["state"], "starting");
        shutdown.cancel();
        ended(agent).await;
    }
}

#[tokio::test]
async fn a_program_that_cannot_start_is_tried_again() {
    let mut world = World::new();
    world.file.program = Some(world.dir.path().join("missing"));
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(region_agent::run(world.config(), shutdown.clone()));
    let begun = Instant::now();
    loop {
        let starts = world.replicas().await.map(|page| page["replicas"][0]["starts"].clone());
        if starts.is_some_and(|starts| starts.as_u64() >= Some(3)) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(world.page("/readyz").await.unwrap().starts_with("HTTP/1.1 503"));
    shutdown.cancel();
    ended(agent).await;
}

#[tokio::test]
async fn what_keeps_an_agent_from_starting_names_the_way_out() {
    let never = CancellationToken::new;
    let mut world = World::new();
    let taken = TcpListener::bind(&world.file.ingress).unwrap();
    let busy = region_agent::run(world.config(), never()).await.unwrap_err();
    assert!(matches!(busy, StartError::Listen { field: "ingress", .. }));
    assert!(busy.to_string().contains("mend `ingress`"), "{busy}");
    drop(taken);

    issue_in(&world.file.identity, "n2");
    let other = region_agent::run(world.config(), never()).await.unwrap_err();
    assert!(other.to_string().contains("region-agent/n2, but this is node n1"), "{other}");

    world.file.identity = "/nowhere".into();
    let missing = region_agent::run(world.config(), never()).await.unwrap_err();
    assert!(missing.to_string().contains("join this node again"), "{missing}");
}
