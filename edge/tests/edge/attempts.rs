//! What reaches a node, what a failing node costs the client, and what it never costs.

use crate::intent::node_at;
use crate::node::{Act, TEXTS};
use crate::world::{Got, SOON, Scene, World, body, free_addresses};
use std::time::Duration;
use types::intent::Kind;
use types::{Failure, header};

const STREAM: &str = r#", "stream":true"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_travel_and_no_header_of_the_client() {
    let world = World::start().await;
    let got = world.ask("").await;
    assert_eq!(got.status, 200, "{}", got.body);
    let [seen] = &world.near.seen()[..] else { panic!("one request") };
    assert_eq!(seen.body, body(""));
    let text = |name: &str| seen.headers[name].to_str().unwrap().to_owned();
    assert_eq!(text(header::PROTOCOL), "1");
    assert_eq!(text(header::STREAM), "annotated");
    assert_eq!(text(header::TENANT), "anyone");
    assert_eq!(text(header::PRIORITY), "batch");
    assert_eq!(text(header::ATTEMPT), "1");
    assert_eq!(text(header::REQUEST_ID), got.headers["x-request-id"].to_str().unwrap());
    assert!(text(header::SEED).len() > 5, "the client's own seed header does not count");
    for name in ["x-client", "authorization", header::TRIED] {
        assert!(!seen.headers.contains_key(name), "{name} travelled");
    }
    assert!(got.headers.keys().all(|name| !name.as_str().starts_with("rhumb-")), "{:?}", got.headers);
}

/// Each of these fails before the client has anything: the other region answers, and nobody notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_before_the_first_event_is_invisible() {
    let world = World::start().await;
    for act in [
        Act::Fail(Failure::ReplicaLost),
        Act::Fail(Failure::QueueFull),
        Act::Fail(Failure::Draining),
        Act::Refuse(500, "a crash"),
        Act::Refuse(200, "no stream at all"),
        Act::BreakAfter(0),
        Act::EndAfter(0),
        Act::Corrupt(0),
        Act::Lie,
    ] {
        world.near.will([act.clone()]);
        world.far.will([]);
        let got = world.ask(STREAM).await;
        assert_eq!(got.status, 200, "{act:?}: {}", got.body);
        assert!(got.body.ends_with("data: [DONE]\n\n"), "{act:?}: {}", got.body);
        assert!(!got.body.contains("id:") && !got.body.contains(": x"), "{act:?}: {}", got.body);
        assert_eq!(world.near.seen().len(), 1, "{act:?}: the near node was asked again");
        let [retried] = &world.far.seen()[..] else { panic!("{act:?}: one retry") };
        assert_eq!(retried.headers[header::ATTEMPT], "2");
        assert_eq!(retried.headers[header::SEED], world.near.seen()[0].headers[header::SEED]);
        // A reset may overtake the head that names the replica.
        if act != Act::BreakAfter(0) {
            assert_eq!(retried.headers[header::TRIED], "us-east/n1/0-0", "{act:?}");
        }
        // A success in between, so that the breaker stays out of this.
        world.near.will([]);
        assert_eq!(world.ask("").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_resumes_ends_with_an_error_and_never_silently() {
    let world = World::start().await;
    for act in [Act::BreakAfter(1), Act::EndAfter(2), Act::Corrupt(1)] {
        let refuses = || std::iter::repeat_n(Act::Refuse(404, "an older node"), 6);
        world.near.will([act.clone()].into_iter().chain(refuses()));
        world.far.will(refuses());
        let got = world.ask(STREAM).await;
        assert!(got.whole && got.body.contains(TEXTS[0]), "{act:?}: {}", got.body);
        assert!(got.body.contains(r#""code":"stream_interrupted""#), "{act:?}: {}", got.body);
        assert!(!got.body.contains("[DONE]"), "{act:?}: {}", got.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engines_refusal_is_passed_on_and_not_retried() {
    let world = World::start().await;
    let refusal = r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;
    world.near.will([Act::Refuse(400, refusal)]);
    let got = world.ask(STREAM).await;
    assert_eq!((got.status, got.body.as_str()), (400, refusal));
    assert!(world.far.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_attempts_are_enough() {
    let world = World::start().await;
    let fails = || std::iter::repeat_n(Act::Fail(Failure::ReplicaLost), 4);
    world.near.will(fails());
    world.far.will(fails());
    let got = world.ask(STREAM).await;
    assert_eq!(got.status, 503, "{}", got.body);
    assert!(got.body.contains("upstream_failed"), "{}", got.body);
    let told = ["retry-after", "retry-after-ms"].map(|name| got.headers[name].to_str().unwrap());
    assert_eq!(told, ["1", "1000"]);
    assert!(!got.body.contains("us-east") && !got.body.contains("eu-west"), "no client learns of regions");
    assert_eq!((world.near.seen().len(), world.far.seen().len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn five_failures_in_a_row_spare_the_node_and_its_requests() {
    let world = World::start().await;
    world.near.will(std::iter::repeat_n(Act::Fail(Failure::ReplicaLost), 9));
    for _ in 0..7 {
        assert_eq!(world.ask("").await.status, 200);
    }
    assert_eq!(world.near.seen().len(), 5, "the breaker opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_is_not_a_sick_one() {
    let world = World::start().await;
    world.near.will(std::iter::repeat_n(Act::Fail(Failure::QueueFull), 7));
    for _ in 0..8 {
        assert_eq!(world.ask("").await.status, 200);
    }
    assert_eq!(world.near.seen().len(), 8, "it was asked every time");
}

#[tokio::test(flavor = "multi_thread")]
async fn residency_holds_even_when_that_region_fails() {
    let world = World::start().await;
    world.far.will(std::iter::repeat_n(Act::Fail(Failure::ReplicaLost), 3));
    let got = world.ask_as("european", STREAM).await;
    assert_eq!(got.status, 503, "{}", got.body);
    assert_eq!((world.near.seen().len(), world.far.seen().len()), (0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_left_at_once() {
    let world = World::start().await;
    world.near.will([Act::HangAfter(1)]);
    let left = world.near.left();
    let (status, _, answer) = world.begin("anyone", STREAM).await;
    assert_eq!(status, 200);
    drop(answer);
    tokio::time::timeout(SOON, left).await.expect("the node was told").unwrap();
}

/// Answers enough for the edge to know what is late.
async fn accustomed() -> World {
    let world = World::start().await;
    for _ in 0..30 {
        assert_eq!(world.ask(STREAM).await.status, 200);
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_first_token_is_asked_for_again_and_the_loser_is_left() {
    let world = accustomed().await;
    world.near.will([Act::HangAfter(0)]);
    world.far.will([]);
    let left = world.near.left();
    // On a busy host the near node may be the slower one for a moment, and not be asked at all.
    while world.near.seen().is_empty() {
        let began = std::time::Instant::now();
        let got = world.ask(STREAM).await;
        assert!(got.body.ends_with("data: [DONE]\n\n"), "{got:?}");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    tokio::time::timeout(SOON, left).await.expect("the late node was left").unwrap();

    world.near.will([Act::Later(Box::new(Act::Serve))]);
    world.far.will([Act::HangAfter(0)]);
    let left = world.far.left();
    let answer = world.begin("anyone", STREAM);
    let first_wins = async {
        world.far.until_asked().await;
        world.near.go_on();
    };
    let (answer, ()) = tokio::join!(answer, first_wins);
    assert_eq!(answer.0, 200);
    tokio::time::timeout(SOON, left).await.expect("the second node was left").unwrap();
    let metrics = world.admin("/metrics").await.body;
    for winner in ["first", "second"] {
        let line = format!("rhumb_edge_hedges_total{{winner=\"{winner}\"}} 1\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

/// How many requests whose first attempt fails are answered before one is not.
pub async fn until_no_retry_is_left(world: &World, ask: impl AsyncFn() -> Got) -> u32 {
    let mut retried = 0;
    let refused = loop {
        let got = ask().await;
        if got.status != 200 {
            break got;
        }
        retried += 1;
        assert!(retried < 200, "without end");
        // More successes than failures, so that the breaker stays out of this.
        for _ in 0..2 {
            assert_eq!(world.ask("").await.status, 200);
        }
    };
    assert!(refused.body.contains("upstream_failed"), "{refused:?}");
    retried
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_of_computed_prompts_end_with_their_budget() {
    let world = World::start().await;
    let failing = async || {
        world.near.will([Act::EndAfter(0)]);
        world.ask(STREAM).await
    };
    let retried = until_no_retry_is_left(&world, failing).await;
    let metrics = world.admin("/metrics").await.body;
    assert!(metrics.contains("rhumb_edge_budget_refused_total{budget=\"retry\"} 1\n"), "{metrics}");
    assert!(retried >= 64, "{retried}");
}

/// Two answers in one cannot be resumed, so they are begun anew.
#[tokio::test(flavor = "multi_thread")]
async fn whole_answers_that_are_begun_anew_end_with_the_same_budget() {
    let world = World::start().await;
    let failing = async || {
        world.near.will([Act::EndAfter(1)]);
        world.ask(r#", "n":2"#).await
    };
    let retried = until_no_retry_is_left(&world, failing).await;
    assert!(retried >= 64, "{retried}");
}

/// A dead node does no work, so trying it does not multiply any; but it must come to an end.
#[tokio::test(flavor = "multi_thread")]
async fn six_attempts_are_enough_where_every_node_is_dead() {
    let scene = Scene::set().await;
    let mut resources = scene.resources();
    let [near, far] = free_addresses();
    resources.retain(|resource| resource.kind() != Kind::Node);
    resources.extend([node_at("us-east", "n1", near), node_at("eu-west", "n1", far)]);
    scene.store(&resources);
    let world = scene.start(None).await;
    let got = tokio::time::timeout(SOON, world.ask("")).await.expect("told soon");
    assert!(got.status >= 500, "{got:?}");
    let page = world.admin(&format!("/requests/{}", got.headers["x-request-id"].to_str().unwrap())).await;
    assert_eq!(page.body.matches(r#""what":"sent""#).count(), 6, "{}", page.body);
}
