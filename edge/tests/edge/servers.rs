//! Servers without an agent: what reaches them, and what their faults cost the client.

use crate::intent::{drain, node};
use crate::member::Change;
use crate::node::Act;
use crate::raw::{Connection, request};
use crate::server::{DONE, ONE, OPENING, Reply, Server, TWO, USAGE};
use crate::world::{SOON, Scene, World, body};
use std::collections::BTreeSet;
use std::time::Duration;
use types::intent::Kind;

const STREAM: &str = r#", "stream":true"#;

/// A server in us-east, where the edge is; the only agent is far away.
async fn world() -> (World, Server) {
    let server = Server::start().await;
    let scene = Scene::set().await;
    let mut resources = scene.resources();
    let near = node("us-east", &scene.near);
    resources.retain(|resource| *resource != near);
    resources.push(server.resource("us-east/vllm", 8));
    scene.store(&resources);
    (scene.start(None).await, server)
}

async fn tokens(world: &World) -> (String, String) {
    let metrics = world.admin("/metrics").await.body;
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("rhumb_edge_{name} ")));
        line.unwrap_or_default().to_owned()
    };
    (value("prompt_tokens_total"), value("completion_tokens_total"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_travels_as_the_server_wrote_it() {
    let (world, server) = world().await;
    server.will([Reply::events(&[OPENING, ONE, TWO, USAGE, DONE])]);
    let got = world.ask(STREAM).await;
    let events = [OPENING, ONE, TWO, USAGE, DONE].map(|event| format!("data: {event}\n\n")).concat();
    assert_eq!((got.status, got.body), (200, events));
    assert!(got.whole);
    let [seen] = &server.seen()[..] else { panic!("one request") };
    assert!(seen.head.starts_with("POST /base/v1/chat/completions HTTP/1.1\r\nhost: "), "{}", seen.head);
    assert!(!seen.head.contains("rhumb-") && !seen.head.contains("authorization"), "{}", seen.head);
    assert!(!seen.head.contains("x-client"), "{}", seen.head);
    assert_eq!(seen.body, body(STREAM));
    assert_eq!(tokens(&world).await, ("11".to_owned(), "7".to_owned()), "as the server said");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_is_not_touched() {
    let (world, server) = world().await;
    let odd = r#"{ "id":"x", "choices":[ {"message":{"content":"hi"}} ],
        "usage":{"prompt_tokens":3, "completion_tokens":2}, "service_tier":null }"#;
    server.will([Reply::json(200, "", odd)]);
    let got = world.ask("").await;
    assert_eq!((got.status, got.body.as_str()), (200, odd));
    assert_eq!(server.seen()[0].body, body(""));
    assert_eq!(tokens(&world).await, ("3".to_owned(), "2".to_owned()));
    // Until the connection ends: also a way to say how long an answer is.
    server.will([Reply::raw(format!("HTTP/1.0 200 OK\r\n\r\n{odd}"))]);
    assert_eq!(world.ask("").await.body, odd);
    assert!(world.far.seen().is_empty());
}

/// Each of these fails before the client has anything: the agent far away answers, and nobody notices.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_before_the_first_token_is_asked_for_elsewhere() {
    let (world, server) = world().await;
    // Its connection may be the one that is used first.
    server.until_probed().await;
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(70_000));
    let smuggled = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    for reply in [
        Reply::raw(""),
        Reply::raw("HTTP/1.1 200 OK\r\ncontent-le"),
        Reply::raw("SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        Reply::raw(huge),
        Reply::raw(smuggled),
        Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n"),
        Reply::unended(&[]),
        Reply::unended(&[OPENING]),
        Reply::events(&[OPENING]),
        Reply::events(&["<html>", DONE]),
        Reply::events(&[r#"{"error":{"message":"out of memory"}}"#]),
        Reply::json(200, "", "<html>"),
        Reply::json(500, "", "a crash"),
        Reply::json(302, "location: http://elsewhere/\r\n", ""),
        Reply::json(401, "", r#"{"error":{"message":"whose key is this?"}}"#),
        Reply::json(404, "", r#"{"error":{"message":"no such model"}}"#),
        Reply::json(429, "retry-after: 7\r\n", "{}"),
        Reply::json(503, "", "{}"),
    ] {
        server.will([reply.clone()]);
        world.far.will([]);
        let got = world.ask(STREAM).await;
        let shown = format!("{reply:?}").chars().take(200).collect::<String>();
        assert_eq!(got.status, 200, "{shown}: {}", got.body);
        assert!(
            got.body.contains("three") && got.body.ends_with("data: [DONE]\n\n"),
            "{shown}: {}",
            got.body
        );
        assert!(!got.body.contains("key"), "{shown}: {}", got.body);
        assert_eq!((server.seen().len(), world.far.seen().len()), (1, 1), "{shown}");
        // More successes than failures, so that the breaker stays out of this.
        for _ in 0..2 {
            assert!(world.ask(STREAM).await.body.contains("two"), "{shown}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_that_breaks_is_asked_for_elsewhere() {
    let (world, server) = world().await;
    for reply in [
        Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"choices\":"),
        Reply::json(200, "", r#"{"choices":["#),
        Reply::json(200, "", r#"{"error":{"message":"no"}}"#),
    ] {
        server.will([reply.clone()]);
        world.far.will([]);
        let got = world.ask("").await;
        assert_eq!(got.status, 200, "{reply:?}: {}", got.body);
        assert!(got.body.contains("one two three"), "{reply:?}: {}", got.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_later_ends_with_an_error() {
    let (world, server) = world().await;
    server.will([Reply::unended(&[OPENING, ONE]).then_close_on_cue()]);
    let (status, headers, body) = world.begin("anyone", STREAM).await;
    let got = crate::world::got((status, headers, body), || server.go_on()).await;
    assert!(got.whole && got.body.contains("one "), "{}", got.body);
    assert!(got.body.contains(r#""code":"stream_interrupted""#), "{}", got.body);
    assert!(!got.body.contains("[DONE]") && world.far.seen().is_empty(), "{}", got.body);
}

/// A reason to finish may be one of several, and usage may take its time; only `[DONE]` is the end.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_done_is_the_end_of_a_servers_stream() {
    let (world, server) = world().await;
    server.will([Reply::unended(&[ONE, TWO]).then_close_on_cue()]);
    let broken = crate::world::got(world.begin("anyone", STREAM).await, || server.go_on()).await;
    assert!(broken.whole && broken.body.contains("two"), "{}", broken.body);
    assert!(broken.body.contains(r#""code":"stream_interrupted""#), "{}", broken.body);
    assert!(!broken.body.contains("[DONE]"), "{}", broken.body);

    let rest = Reply::events(&[USAGE, DONE]);
    server.will([Reply::unended(&[ONE, TWO]).then_write(Duration::from_millis(400), rest)]);
    let late = world.ask(STREAM).await;
    let events = [ONE, TWO, USAGE, DONE].map(|event| format!("data: {event}\n\n")).concat();
    assert_eq!((late.body, late.whole), (events, true));
    assert_eq!(tokens(&world).await.1, (2 + 7).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_request_is_passed_on() {
    let (world, server) = world().await;
    let refusal = r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;
    server.will([Reply::json(400, "", refusal)]);
    let got = world.ask("").await;
    assert_eq!((got.status, got.body.as_str()), (400, refusal));
    assert!(world.far.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_stays_in_use() {
    let (world, server) = world().await;
    server.will(std::iter::repeat_n(Reply::json(429, "", "{}"), 8));
    for _ in 0..8 {
        assert!(world.ask(STREAM).await.body.contains("three"));
    }
    assert!(world.ask(STREAM).await.body.contains("two"), "no breaker opened");
    // Nor does one that lacks what was asked for fail those who ask for what it has.
    for status in [404, 405] {
        server.will(std::iter::repeat_n(Reply::json(status, "", "{}"), 8));
        for _ in 0..8 {
            assert!(world.ask(STREAM).await.body.contains("three"));
        }
        assert!(world.ask(STREAM).await.body.contains("two"), "no breaker opened by {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_used_again_and_a_dead_one_costs_nothing() {
    let (world, server) = world().await;
    server.will([]);
    // What a client's connection uses stays on its thread.
    let mut client = Connection::open(world.edge).await.unwrap();
    for _ in 0..5 {
        assert_eq!(client.ask(&request(STREAM)).await.unwrap().status, 200);
    }
    // A probe may hold one of them.
    let used: BTreeSet<usize> = server.seen().iter().map(|seen| seen.connection).collect();
    assert!(used.len() <= 2, "{used:?}");
    for _ in 0..20 {
        // A server may close whenever it likes, and says nothing before.
        server.will([Reply::events(&[ONE, TWO, DONE]).then_close()]);
        assert!(world.ask(STREAM).await.body.contains("two"));
        assert!(world.ask(STREAM).await.body.contains("two"));
        assert!(world.far.seen().is_empty(), "no other node was asked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_closes_the_servers_connection() {
    let (world, server) = world().await;
    for reply in [Reply::unended(&[ONE]).then_hang(), Reply::unended(&[]).then_hang()] {
        server.will([reply]);
        let begun = tokio::time::timeout(Duration::from_millis(200), world.begin("anyone", STREAM)).await;
        drop(begun);
        server.until_left().await;
    }
}

/// The only agent is drained and then dies, and what is left cannot resume: a resume is refused without a wait, again
/// and again, and the client can leave all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_no_server_can_resume_can_still_be_left() {
    let server = Server::start().await;
    let scene = Scene::set().await;
    let mut resources = scene.resources();
    let far = node("eu-west", &scene.far);
    resources.retain(|resource| *resource != far);
    resources.push(server.resource("eu-west/vllm", 8));
    let member = scene.member(resources).await;
    let world = scene.start(Some(&member)).await;
    world.until_ready().await;
    server.until_probed().await;
    world.near.until_probed().await;
    world.near.will([Act::HangAfter(1)]);
    let left = world.near.left();
    let stuck = world.begin("anyone", STREAM).await;
    member.change(vec![Change::Put(drain("us-east/n1"))]).await.unwrap();
    world.near.answer_no_probes();
    // Until the edge has found out, and well past the first doubts about the stream.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((world.near.seen().len(), server.seen().len()), (1, 0), "nobody was asked to resume");
    let page = world.admin(&format!("/requests/{}", stuck.1["x-request-id"].to_str().unwrap())).await;
    let page: serde_json::Value = serde_json::from_str(&page.body).unwrap();
    let steps = page["steps"].as_array().unwrap().iter();
    let doubts: Vec<u64> = steps
        .filter(|step| step["what"] == "suspected")
        .map(|step| step["at_us"].as_u64().unwrap())
        .collect();
    let is_patient = doubts.windows(2).all(|two| two[1] - two[0] >= 1_000_000);
    assert!(doubts.len() > 1 && is_patient, "it is tried again, and not at once: {doubts:?}");
    drop(stuck);
    tokio::time::timeout(SOON, left).await.expect("the client's leaving was noticed").unwrap();
}

/// Operators name it, and its model needs neither a version nor a deployment.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_adopted_by_its_name_alone() {
    let server = Server::start().await;
    let scene = Scene::set().await;
    let mut resources = scene.resources();
    let is_left_out = |kind| matches!(kind, Kind::Node | Kind::Deployment | Kind::Version);
    resources.retain(|resource| !is_left_out(resource.kind()));
    resources.push(server.resource("us-east/vllm", 8));
    scene.store(&resources);
    let world = scene.start(None).await;
    server.until_probed().await;
    world.until_ready().await;
    assert!(world.ask(STREAM).await.body.contains("two"));
    let models = world.get("anyone", "/v1/models").await.body;
    assert!(models.contains(r#""id":"m""#) && !models.contains("another"), "{models}");
}
