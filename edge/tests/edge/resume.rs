//! A stream that is lost in the middle goes on elsewhere, and the client gets the bytes that it would have got.

use crate::access;
use crate::node::{Act, TEXTS};
use crate::world::{Got, SOON, World, body, got};
use std::time::{Duration, Instant};
use types::{ResumeLine, header};

const STREAM: &str = r#", "stream":true"#;
const WITH_USAGE: &str = r#", "stream":true,"stream_options":{"include_usage":true}"#;
const EXACT: &str = ": rhumb-resume exact\n\n";

/// Every way to die that is known by a word or a broken connection.
fn deaths(events: usize) -> Vec<Act> {
    let mut deaths =
        vec![Act::BreakAfter(events), Act::EndAfter(events), Act::GiveUpAfter(events), Act::DieAfter(events)];
    if events < TEXTS.len() {
        deaths.push(Act::Corrupt(events));
    }
    deaths
}

/// What the clients of a disturbed stream must get, but for what is said of the disturbance.
async fn undisturbed(world: &World, options: &str) -> String {
    world.near.will([]);
    let got = world.ask(options).await;
    assert!(got.status == 200 && !got.body.contains("resume"), "{got:?}");
    got.body
}

async fn resumes(world: &World, outcome: &str) -> u64 {
    let metrics = world.admin("/metrics").await.body;
    let name = format!("rhumb_edge_resumes_total{{outcome=\"{outcome}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_at_whatever_event_the_client_gets_the_same_bytes() {
    let world = World::start().await;
    // Too long a prompt to be asked for twice: on a busy host a second attempt could win before anything breaks.
    let long = format!(r#", "user":"{}""#, "x".repeat(12 << 10));
    for options in [STREAM, WITH_USAGE].map(|options| format!("{options}{long}")) {
        let options = options.as_str();
        let wanted = undisturbed(&world, options).await;
        for events in 1..=TEXTS.len() {
            for act in deaths(events) {
                world.near.will([act.clone()]);
                world.far.will([]);
                let got = world.ask(options).await;
                assert!(got.status == 200 && got.whole, "{act:?}: {got:?}");
                assert_eq!(got.body.replace(EXACT, ""), wanted, "{act:?}");
                // After the last token the edge needs nobody.
                let resumed = events < TEXTS.len();
                assert_eq!(got.body.ends_with(&format!("{EXACT}data: [DONE]\n\n")), resumed, "{act:?}");
                // A success in between, so that the breaker stays out of this.
                world.near.will([]);
                assert_eq!(world.ask("").await.status, 200);
            }
        }
    }
    assert_eq!((resumes(&world, "exact").await, resumes(&world, "failed").await), (20, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_goes_on_where_it_was_and_is_counted_once() {
    let world = World::start().await;
    let wanted = undisturbed(&world, "").await;
    for act in [Act::EndAfter(1), Act::EndAfter(2), Act::GiveUpAfter(2), Act::Corrupt(1)] {
        world.near.will([act.clone()]);
        world.far.will([]);
        let got = world.ask("").await;
        assert_eq!((got.status, &got.body), (200, &wanted), "{act:?}");
        assert_eq!(got.headers["rhumb-resume"], "exact");
        assert!(got.body.contains(r#""completion_tokens":3,"total_tokens":6"#), "{act:?}: {}", got.body);
        let [resumed] = &[world.near.seen(), world.far.seen()].concat()[1..] else { panic!("{act:?}: one") };
        assert_eq!(resumed.path, header::RESUME_PATH);
        world.near.will([]);
        assert_eq!(world.ask("").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_the_next_node_is_where_the_client_stands() {
    access::keep();
    let world = World::start().await;
    world.near.will([Act::DieAfter(2)]);
    let got = world.ask(STREAM).await;
    let [begun] = &world.near.seen()[..] else { panic!("one attempt") };
    let [resumed] = &world.far.seen()[..] else { panic!("one resume elsewhere") };
    let (line, rest) = ResumeLine::split(&resumed.body).unwrap();
    assert_eq!((line.path.as_str(), &line.token_ids[..]), ("/v1/chat/completions", &[0, 1][..]));
    assert_eq!(rest, body(STREAM).as_bytes());
    assert_eq!(line.seed.to_string(), begun.headers[header::SEED].to_str().unwrap());
    for same in [header::REQUEST_ID, header::SEED, header::CREATED_UNIX_MS, header::TENANT, header::STREAM] {
        assert_eq!(begun.headers[same], resumed.headers[same], "{same}");
    }
    assert_eq!(resumed.headers[header::TRIED], "us-east/n1/0-0");
    let request = got.headers["x-request-id"].to_str().unwrap();
    let record = access::line_of(request).await;
    assert_eq!((record["ended"].as_str(), record["resumes"].as_str()), ("complete", "1"));
    assert_eq!((record["resume"].as_str(), record["completion_tokens"].as_str()), ("exact", "3"));

    let metrics = world.admin("/metrics").await.body;
    assert!(metrics.contains("rhumb_edge_resume_expected_seconds_count 1\n"), "it stood in line: {metrics}");

    let page = world.admin(&format!("/requests/{request}")).await;
    assert_eq!(page.status, 200, "{}", page.body);
    let page: serde_json::Value = serde_json::from_str(&page.body).unwrap();
    let steps: Vec<_> = page["steps"].as_array().unwrap().iter().map(|step| &step["what"]).collect();
    assert_eq!(steps, ["sent", "began", "broke", "sent", "began", "resumed"]);
    assert_eq!(
        (&page["steps"][3]["purpose"], &page["steps"][3]["node"]),
        (&"resume".into(), &"eu-west/n1".into())
    );
    assert_eq!(page["ended"]["ended"], "complete");
    let unknown = world.admin("/requests/chatcmpl-00000000000000000000000000000000").await;
    assert!(unknown.status == 404 && unknown.body.contains("request_not_found"), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_stream_may_break_again() {
    let world = World::start().await;
    let wanted = undisturbed(&world, STREAM).await;
    world.near.will([Act::EndAfter(1), Act::EndAfter(0), Act::EndAfter(1)]);
    world.far.will([Act::EndAfter(1)]);
    let got = world.ask(STREAM).await;
    assert_eq!(got.body.replace(EXACT, ""), wanted);
}

/// One of an older version, say.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_knows_no_resume_ends_no_answer() {
    let world = World::start().await;
    let wanted = undisturbed(&world, STREAM).await;
    world.near.will([Act::EndAfter(1), Act::Refuse(404, "{}")]);
    let got = world.ask(STREAM).await;
    assert_eq!(got.body.replace(EXACT, ""), wanted);
    assert_eq!((world.near.seen().len(), world.far.seen().len()), (2, 1));
}

/// One that breaks wherever it goes breaks its engines.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_resumed_eight_times_and_no_more() {
    let world = World::start().await;
    for node in [&world.near, &world.far] {
        node.will(std::iter::repeat_n(Act::OneMore, 30));
    }
    let got = world.ask(STREAM).await;
    assert!(got.whole && got.body.contains(r#""code":"stream_interrupted""#), "{got:?}");
    assert_eq!(world.near.seen().len() + world.far.seen().len(), 1 + 8);
    assert_eq!(got.body.matches("xxx\"").count(), 1 + 8, "{got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_hangs_is_left_once_another_goes_on() {
    let world = World::start().await;
    let wanted = undisturbed(&world, WITH_USAGE).await;
    for events in 1..=TEXTS.len() {
        world.near.will([Act::HangAfter(events)]);
        let left = world.near.left();
        let began = Instant::now();
        let got = world.ask(WITH_USAGE).await;
        assert_eq!(got.body.replace(EXACT, ""), wanted);
        assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
        tokio::time::timeout(SOON, left).await.expect("the silent node was left").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_that_hangs_costs_a_moment_and_no_byte() {
    let world = World::start().await;
    let wanted = undisturbed(&world, WITH_USAGE).await;
    let before_the_head = || Act::Later(Box::new(Act::Serve));
    for (loss, resumed, limit_ms) in [
        (Act::DieAfter(1), Act::HangAfter(0), 1000),
        (Act::DieAfter(2), before_the_head(), 1000),
        (Act::HangAfter(1), Act::HangAfter(0), 1700),
        (Act::HangAfter(2), before_the_head(), 1700),
    ] {
        let case = format!("{loss:?}, {resumed:?}");
        world.near.will([loss]);
        world.far.will([resumed]);
        let began = Instant::now();
        let got = world.ask(WITH_USAGE).await;
        let took = began.elapsed();
        assert_eq!(got.body.replace(EXACT, ""), wanted, "{case}");
        assert!(took < Duration::from_millis(limit_ms), "{case}: {took:?}");
        assert_eq!((world.near.seen().len(), world.far.seen().len()), (2, 1), "{case}");
        // A success in between, so that the breaker stays out of this.
        assert_eq!(world.ask("").await.status, 200);
    }
    assert_eq!((resumes(&world, "exact").await, resumes(&world, "failed").await), (4, 0));
}

/// The first resume is slow and no more: it carries the answer all the same, and the one beside it is left.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_two_resumes_may_win() {
    let world = World::start().await;
    let wanted = undisturbed(&world, STREAM).await;
    world.near.will([Act::EndAfter(1), Act::Later(Box::new(Act::Serve))]);
    world.far.will([Act::HangAfter(0)]);
    let left = world.far.left();
    let answer = world.begin("anyone", STREAM).await;
    world.far.until_asked().await;
    world.near.go_on();
    assert_eq!(got(answer, || {}).await.body.replace(EXACT, ""), wanted);
    tokio::time::timeout(SOON, left).await.expect("the other node was left").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_suspected_in_vain_goes_on_itself() {
    let world = World::start().await;
    let wanted = undisturbed(&world, STREAM).await;
    world.near.will([Act::WaitAfter(1)]);
    world.far.will([Act::HangAfter(0)]);
    let left = world.far.left();
    let answer = world.begin("anyone", STREAM).await;
    world.far.until_asked().await;
    world.near.go_on();
    let got: Got = got(answer, || {}).await;
    assert_eq!(got.body, wanted, "nothing of it was resumed");
    tokio::time::timeout(SOON, left).await.expect("the other node was left").unwrap();
    let metrics = world.admin("/metrics").await.body;
    assert!(metrics.contains("rhumb_edge_silent_streams_total{outcome=\"false-alarm\"} 1\n"), "{metrics}");
}

/// The other node reads the same text in other tokens.
#[tokio::test(flavor = "multi_thread")]
async fn an_inexact_continuation_needs_the_tenants_leave() {
    let world = World::start().await;
    let inexact = |world: &World| {
        world.near.will([
            Act::DieAfter(1),
            Act::ServeOther,
            Act::ServeOther,
            Act::ServeOther,
            Act::ServeOther,
        ]);
        world.far.will(std::iter::repeat_n(Act::ServeOther, 6));
    };
    inexact(&world);
    let refused = world.ask(STREAM).await;
    assert!(refused.body.contains(TEXTS[0]) && !refused.body.contains(TEXTS[1]), "{refused:?}");
    assert!(refused.body.contains(r#""code":"stream_interrupted""#), "{refused:?}");
    assert!(refused.whole && !refused.body.contains("[DONE]"), "{refused:?}");
    assert!(resumes(&world, "refused").await > 0);

    for (options, last) in [(STREAM, "finish_reason\":\"stop\"}]"), (WITH_USAGE, "\"total_tokens\":6}")] {
        inexact(&world);
        let taken = world.ask_as("approximate", options).await;
        let end = format!(
            "{last},\"rhumb\":{{\"resume\":\"approximate\"}}}}\n\n: rhumb-resume approximate\n\ndata: [DONE]\n\n"
        );
        assert!(taken.body.ends_with(&end), "{taken:?}");
        assert_eq!(taken.body.matches("rhumb\"").count(), 1, "{taken:?}");
    }
    inexact(&world);
    let whole = world.ask_as("approximate", "").await;
    assert_eq!((whole.status, whole.headers["rhumb-resume"].to_str().unwrap()), (200, "approximate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_no_resume_gets_an_error_or_a_new_answer() {
    let world = World::start().await;
    world.near.will([Act::EndAfter(1)]);
    let got = world.ask_as("off", STREAM).await;
    assert!(got.whole && got.body.contains(r#""code":"stream_interrupted""#), "{got:?}");
    assert_eq!((world.near.seen().len(), world.far.seen().len()), (1, 0));
    // Nothing of a whole answer has reached the client.
    world.near.will([Act::EndAfter(1)]);
    let got = world.ask_as("off", "").await;
    assert!(got.status == 200 && got.body.contains(&TEXTS.concat()), "{got:?}");
    let seen = [world.near.seen(), world.far.seen()].concat();
    assert!(seen.iter().all(|seen| seen.path != header::RESUME_PATH) && seen.len() == 2);
    let metrics = world.admin("/metrics").await.body;
    assert!(metrics.contains("rhumb_edge_streams_not_resumable_total{reason=\"policy\"} 3\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn residency_holds_for_a_resume() {
    let world = World::start().await;
    world.far.will([Act::EndAfter(1)].into_iter().chain(std::iter::repeat_n(Act::EndAfter(0), 6)));
    let got = world.ask_as("european", STREAM).await;
    assert!(got.whole && got.body.contains(r#""code":"stream_interrupted""#), "{got:?}");
    assert!(world.near.seen().is_empty() && world.far.seen().len() > 1, "it was tried, in Europe alone");
}
