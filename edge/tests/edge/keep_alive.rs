//! What the client of a stream sees while nothing comes for it.

use crate::access;
use crate::intent::key;
use crate::node::{Act, TEXTS};
use crate::world::{Got, SOON, Scene, World, body, got};
use bytes::Bytes;
use edge::File;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use types::Failure;

const STREAM: &str = r#", "stream":true"#;
const COMMENT: &str = ": keep-alive\n\n";

/// A world in which nobody has to wait for long.
async fn start() -> World {
    access::keep();
    let scene = Scene::set().await;
    scene.store(&scene.resources());
    let file = File { keep_alive_seconds: 1, ..scene.file(None) };
    scene.start_as(file).await
}

fn later(act: Act) -> Act {
    Act::Later(Box::new(act))
}

async fn next(body: &mut Incoming) -> String {
    let frame = tokio::time::timeout(SOON, body.frame()).await.expect("soon").unwrap().unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_that_it_lives_before_and_between_its_events() {
    let world = start().await;
    world.near.will([later(Act::WaitAfter(1))]);
    // Another tenant's would go on elsewhere before the next comment.
    let (status, headers, mut answer) = world.begin("off", STREAM).await;
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (200, "text/event-stream"));
    assert_eq!(next(&mut answer).await, COMMENT);
    assert_eq!(next(&mut answer).await, COMMENT);
    // Half-way to the next comment, so that it is seen whether the event puts it off.
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.near.go_on();
    assert!(next(&mut answer).await.contains(TEXTS[0]));
    let event_came = Instant::now();
    assert_eq!(next(&mut answer).await, COMMENT);
    assert!(event_came.elapsed() > Duration::from_millis(800), "{:?}", event_came.elapsed());
    world.near.go_on();
    let got = got((status, headers, answer), || {}).await;
    assert!(got.whole && got.body.ends_with("data: [DONE]\n\n"), "{got:?}");
    assert!(!got.body.contains(COMMENT), "nothing is said without need: {got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_by_h2_lives_as_well() {
    let world = start().await;
    world.near.will([later(Act::Serve)]);
    let stream = TokioIo::new(TcpStream::connect(world.edge).await.unwrap());
    let (mut sender, driven) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(driven);
    let request = hyper::Request::post("http://test/v1/chat/completions")
        .header("authorization", format!("Bearer {}", key("anyone").reveal()))
        .body(Full::<Bytes>::from(body(STREAM)))
        .unwrap();
    let (head, mut answer) = sender.send_request(request).await.unwrap().into_parts();
    assert_eq!(next(&mut answer).await, COMMENT);
    world.near.go_on();
    let got = got((head.status.as_u16(), head.headers, answer), || {}).await;
    assert!(got.whole && got.body.ends_with("data: [DONE]\n\n"), "{got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_go_on_under_comments() {
    let world = start().await;
    world.near.will([later(Act::Fail(Failure::ReplicaLost))]);
    let got = commented(&world, "anyone", || world.near.go_on()).await;
    assert!(got.body.ends_with("data: [DONE]\n\n") && !got.body.contains("error"), "{got:?}");
    assert_eq!((world.near.seen().len(), world.far.seen().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_comes_too_late_for_a_status_goes_in_band() {
    let world = start().await;
    let fail = Act::Fail(Failure::ReplicaLost);
    world.far.will([later(fail.clone()), fail.clone(), fail]);
    let failed = commented(&world, "european", || world.far.go_on()).await;
    let error = r#"data: {"error":{"message":"no engine answered in 3 attempt(s)"#;
    assert!(failed.body.starts_with(error), "{failed:?}");
    assert!(failed.body.contains(r#""code":"upstream_failed"}}"#), "{failed:?}");

    let refusal = "{\"error\": {\"message\": \"too long\",\n \"code\": \"context_length_exceeded\"}}";
    world.near.will([later(Act::Refuse(400, refusal))]);
    let refused = commented(&world, "anyone", || world.near.go_on()).await;
    let error = "data: {\"error\":{\"code\":\"context_length_exceeded\",\"message\":\"too long\"}}\n\n";
    assert_eq!(refused.body, error);

    for got in [failed, refused] {
        assert!(got.whole && !got.body.contains("[DONE]"), "{got:?}");
        let line = access::line_of(got.headers["x-request-id"].to_str().unwrap()).await;
        assert_eq!((line["status"].as_str(), line["ended"].as_str()), ("200", "refused"));
    }
    let metrics = world.admin("/metrics").await.body;
    assert!(metrics.contains("rhumb_edge_requests_total{outcome=\"refused\"} 2\n"), "{metrics}");
}

/// What comes after the first comment, once something has happened.
async fn commented(world: &World, tenant: &str, happens: impl Fn()) -> Got {
    let (status, headers, mut answer) = world.begin(tenant, STREAM).await;
    assert_eq!((status, next(&mut answer).await.as_str()), (200, COMMENT));
    happens();
    got((status, headers, answer), || {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_it_waits_is_left_at_once() {
    let world = start().await;
    world.near.will([Act::HangAfter(0)]);
    let left = world.near.left();
    let (_, headers, answer) = world.begin("anyone", STREAM).await;
    drop(answer);
    // Before the next comment could find out.
    tokio::time::timeout(Duration::from_millis(900), left).await.expect("the node was told").unwrap();
    let line = access::line_of(headers["x-request-id"].to_str().unwrap()).await;
    assert_eq!((line["status"].as_str(), line["ended"].as_str()), ("200", "client-gone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_has_nothing_before_its_status() {
    let world = start().await;
    let refusal = r#"{"error":{"message":"no","code":"unsupported_parameter"}}"#;
    world.near.will([later(Act::Refuse(400, refusal)), later(Act::Serve)]);
    let whole = world.begin("anyone", "");
    tokio::pin!(whole);
    let stream = async {
        while world.near.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        let (_, _, mut answer) = world.begin("anyone", STREAM).await;
        [next(&mut answer).await, next(&mut answer).await]
    };
    tokio::select! {
        (status, ..) = &mut whole => panic!("{status} before there was one"),
        comments = stream => assert_eq!(comments, [COMMENT; 2]),
    }
    world.near.go_on();
    let (status, ..) = whole.await;
    assert_eq!(status, 400);
}
