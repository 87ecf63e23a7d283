//! The Responses API: a chat to everybody but the client.

use crate::node::{Act, TEXTS};
use crate::world::{Got, World};
use types::Failure;

async fn ask(world: &World, fields: &str) -> Got {
    let body = format!(r#"{{"model":"m","input":"hi"{fields}}}"#);
    world.post("/v1/responses", "application/json", body).await
}

fn kinds(events: &str) -> Vec<&str> {
    events.lines().filter_map(|line| line.strip_prefix("event: ")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_a_chat_that_fails_over_like_any_other() {
    let world = World::start().await;
    world.near.will([Act::Fail(Failure::ReplicaLost)]);
    world.far.will([]);
    let got = ask(&world, r#","instructions":"Be brief.","stream":true"#).await;
    assert_eq!((got.status, got.whole), (200, true), "{}", got.body);
    assert_eq!(got.headers["content-type"], "text/event-stream");
    let kinds = kinds(&got.body);
    assert_eq!(
        (kinds[0], kinds[kinds.len() - 1]),
        ("response.created", "response.completed"),
        "{}",
        got.body
    );
    assert!(got.body.contains(&format!(r#""text":"{}""#, TEXTS.concat())), "{}", got.body);
    assert!(!got.body.contains("[DONE]") && !got.body.contains("chat.completion"), "{}", got.body);
    let [seen] = &world.far.seen()[..] else { panic!("one retry") };
    assert_eq!(seen.path, "/v1/chat/completions");
    let chat = r#"{"model":"m","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}"#;
    assert_eq!(seen.body, chat);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_response_survives_a_broken_stream() {
    let world = World::start().await;
    world.near.will([Act::BreakAfter(2)]);
    world.near.go_on();
    let got = ask(&world, "").await;
    assert_eq!(got.status, 200, "{}", got.body);
    assert!(got.body.starts_with(r#"{"id":"resp_x","object":"response","#), "{}", got.body);
    assert!(got.body.contains(&format!(r#""text":"{}""#, TEXTS.concat())), "{}", got.body);
    assert!(
        got.body.contains(r#""input_tokens":3,"#) && got.body.contains(r#""output_tokens":3,"#),
        "{}",
        got.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_response_ends_as_failed_and_with_an_error() {
    let world = World::start().await;
    // Nobody can go on with it.
    let nothing = || std::iter::repeat_n(Act::EndAfter(0), 6);
    world.near.will([Act::EndAfter(1)].into_iter().chain(nothing()));
    world.far.will(nothing());
    let got = ask(&world, r#","stream":true"#).await;
    let kinds = kinds(&got.body);
    assert_eq!(kinds[kinds.len() - 2..], ["response.failed", "error"], "{}", got.body);
    assert!(got.body.contains(r#""code":"stream_interrupted""#), "{}", got.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_response_is_refused_as_ever() {
    let world = World::start().await;
    let got = ask(&world, r#","previous_response_id":"resp_1""#).await;
    assert_eq!(got.status, 400, "{}", got.body);
    assert!(
        got.body.contains(r#""param":"previous_response_id","code":"unsupported_parameter""#),
        "{}",
        got.body
    );
    let refusal = r#"{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"x"}}"#;
    world.near.will([Act::Refuse(400, refusal)]);
    let got = ask(&world, r#","stream":true"#).await;
    assert_eq!((got.status, got.body.as_str()), (400, refusal));
    assert_eq!(world.near.seen().len(), 1);
}
