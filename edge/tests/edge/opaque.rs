//! Endpoints that are handed on unread.

use crate::attempts::until_no_retry_is_left;
use crate::node::Act;
use crate::world::World;
use http_body_util::BodyExt;
use types::{Failure, header};

const JSON: &str = "application/json";
const EMBED: &str = r#"{"model": "m", "input":["a"],"encoding_format":"base64","odd":[1]}"#;

fn answer(status: u16, content_type: &'static str, parts: &'static [&'static [u8]]) -> Act {
    Act::Answer { status, content_type, parts, breaks: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_travels_as_it_is_and_so_does_its_answer() {
    let world = World::start().await;
    world.near.will([answer(200, "audio/mpeg", &[b"\xff\xfb", b"\x00\n\xfe"])]);
    let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\0\r\n--b\r\n\
                Content-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n";
    let kind = "multipart/form-data; boundary=b";
    let (status, headers, body) = world.begin_post("/v1/audio/translations", kind, form).await;
    assert_eq!((status, &headers["content-type"]), (200, &"audio/mpeg".parse().unwrap()));
    assert!(headers.contains_key("x-request-id") && !headers.contains_key(header::REPLICA), "{headers:?}");
    assert_eq!(body.collect().await.unwrap().to_bytes(), &b"\xff\xfb\x00\n\xfe"[..]);
    let [seen] = &world.near.seen()[..] else { panic!("one request") };
    assert_eq!((seen.path.as_str(), &seen.body[..]), ("/v1/audio/translations", form.as_bytes()));
    assert_eq!(seen.headers["content-type"], kind);
    assert_eq!(seen.headers[header::TENANT], "anyone");
    for name in ["authorization", header::STREAM] {
        assert!(!seen.headers.contains_key(name), "{name} travelled");
    }
}

/// Until the first byte of an answer has come, the client notices nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_before_the_first_byte_is_invisible() {
    let world = World::start().await;
    for act in [
        Act::Fail(Failure::ReplicaLost),
        Act::Fail(Failure::QueueFull),
        answer(500, JSON, &[b"{}"]),
        answer(429, JSON, &[b"{}"]),
        Act::Answer { status: 200, content_type: JSON, parts: &[], breaks: true },
    ] {
        world.near.will([act.clone()]);
        world.near.go_on();
        world.far.will([answer(200, JSON, &[b"{\"data\":[]}"])]);
        let got = world.post("/v1/embeddings", JSON, EMBED).await;
        assert_eq!((got.status, got.body.as_str(), got.whole), (200, r#"{"data":[]}"#, true), "{act:?}");
        let [retried] = &world.far.seen()[..] else { panic!("{act:?}: one retry") };
        assert_eq!(retried.headers[header::ATTEMPT], "2");
        assert_eq!(retried.body, EMBED);
        // A success in between, so that the breaker stays out of this.
        world.near.will([]);
        assert_eq!(world.ask("").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_is_never_taken_for_a_whole_one() {
    let world = World::start().await;
    let broken =
        |content_type| Act::Answer { status: 200, content_type, parts: &[b"data: {\"a\""], breaks: true };
    world.near.will([broken(JSON), broken("text/event-stream; charset=utf-8")]);
    let got = world.post("/v1/embeddings", JSON, EMBED).await;
    assert_eq!((got.status, got.whole), (200, false), "{}", got.body);
    let got = world.post("/v1/audio/speech", JSON, EMBED).await;
    assert!(got.whole && got.body.starts_with("data: {\"a\"\n\ndata: {\"error\":"), "{}", got.body);
    assert!(got.body.contains("stream_interrupted"), "{}", got.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_the_engines_own_unless_it_lacks_the_endpoint() {
    let world = World::start().await;
    world.near.will([answer(400, "text/plain", &[b"too long"])]);
    let got = world.post("/v1/rerank", JSON, EMBED).await;
    assert_eq!((got.status, got.body.as_str()), (400, "too long"));
    assert_eq!(got.headers["content-type"], "text/plain");

    let no_model = r#"{"error":{"message":"no","type":"x","param":null,"code":"model_not_found"}}"#;
    world.near.will([Act::Refuse(404, no_model)]);
    let got = world.post("/v1/rerank", JSON, EMBED).await;
    assert_eq!((got.status, got.body.as_str()), (404, no_model));

    let no_path = r#"{"error":{"message":"no","type":"x","param":null,"code":"unknown_url"}}"#;
    for refusal in [no_path, "<html>Not Found</html>", ""] {
        world.near.will([Act::Refuse(404, refusal)]);
        let got = world.post("/v1/rerank", JSON, EMBED).await;
        assert_eq!(got.status, 404, "{refusal}");
        let told = r#"{"error":{"message":"the model \"m\" does not serve /v1/rerank","type":"invalid_request_error","param":"model","code":"unsupported_endpoint"}}"#;
        assert_eq!(got.body, told, "{refusal}");
    }
    assert_eq!(world.far.seen().len(), 0, "another engine of the model would say the same");

    let got = world.post("/v1/rerank", JSON, r#"{"input":"a"}"#).await;
    assert!(got.status == 400 && got.body.contains(r#""param":"model""#), "{}", got.body);
    let got = world.post("/v1/rerank", JSON, r#"{"model":"no"}"#).await;
    assert!(got.status == 404 && got.body.contains("model_not_found"), "{}", got.body);
}

/// An image may have been drawn, and billed, by whoever failed to hand it over.
#[tokio::test(flavor = "multi_thread")]
async fn work_that_may_have_been_done_is_repeated_within_the_budget_of_retries() {
    let world = World::start().await;
    let failing = async || {
        world.near.will([answer(500, JSON, &[b"{}"])]);
        world.far.will([answer(200, JSON, &[b"{}"])]);
        world.post("/v1/images/generations", JSON, EMBED).await
    };
    let retried = until_no_retry_is_left(&world, failing).await;
    assert!(retried >= 64, "{retried}");
    // What did nothing for it is nothing to pay for.
    for act in [Act::Fail(Failure::QueueFull), answer(429, JSON, &[b"{}"])] {
        world.near.will([act.clone()]);
        world.far.will([answer(200, JSON, &[b"{}"])]);
        assert_eq!(world.post("/v1/images/generations", JSON, EMBED).await.status, 200, "{act:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_body_has_no_framing_either() {
    let world = World::start().await;
    world.near.will([answer(204, JSON, &[])]);
    let got = world.post("/v1/embeddings", JSON, EMBED).await;
    assert_eq!((got.status, got.body.as_str(), got.whole), (204, "", true));
    for name in ["transfer-encoding", "content-length"] {
        assert!(!got.headers.contains_key(name), "{:?}", got.headers);
    }
}
