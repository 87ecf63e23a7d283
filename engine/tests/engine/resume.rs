//! A stream that broke goes on elsewhere as if nothing had happened: the same lines, byte for byte, from whichever
//! event on, on another engine with other company.

use crate::client::{ANNOTATED, Answer, CHAT, COMPLETIONS, Engine, Event, asking, post_bytes};
use crate::{house, tiny};
use engine::Config;
use engine::penalty::Penalties;
use engine::sample::Sampler;
use engine::sequence::{NotResumable, Progress, Sequence, Task};
use engine::stop::Piece;
use engine::tokenizer::Tokenizer;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::time::Duration;
use types::{EventId, PrefixHash, ResumeLine, StreamPosition, header};

fn id(event: &Event) -> EventId {
    event.id.as_ref().unwrap().parse().unwrap()
}

/// The line that asks to go on after these events.
fn line(path: &str, begun: &[Event], prompt: PrefixHash) -> ResumeLine {
    let token_ids = begun.iter().flat_map(|event| id(event).token_ids).collect();
    let hash = begun.last().map_or(prompt, |event| id(event).hash);
    ResumeLine { path: path.to_owned(), token_ids, hash, seed: u64::MAX }
}

async fn resume(engine: &Engine, line: &ResumeLine, body: &Value) -> Answer {
    let sent = [line.to_line(), body.to_string().into_bytes()].concat();
    post_bytes(engine.address, header::RESUME_PATH, &ANNOTATED, sent).await
}

/// Events up to the end, without the load comment, which is never the same.
async fn lines(answer: Answer) -> Vec<Event> {
    answer.events().await.into_iter().filter(|event| event.comment.is_none()).collect()
}

/// Reads the answer on one engine, then goes on from each of its events on the other, all at once. Returns the
/// undisturbed events.
async fn check(one: &Engine, other: &Engine, path: &str, body: Value) -> Vec<Event> {
    let undisturbed = one.annotated(path, body.clone()).await;
    assert_eq!(undisturbed.status, 200, "{body}");
    let prompt: PrefixHash = undisturbed.header("rhumb-prefix-hash").parse().unwrap();
    let prompt_tokens = undisturbed.header("rhumb-prompt-tokens").to_owned();
    let wanted = lines(undisturbed).await;
    assert!(wanted.last().unwrap().is_done());
    let ends = |event: &&Event| event.json()["choices"][0]["finish_reason"].is_string();
    let last = wanted.iter().position(|event| ends(&event)).unwrap();
    let from = async |cut: usize| {
        let line = line(path, &wanted[..cut], prompt);
        let resumed = resume(other, &line, &body).await;
        assert_eq!(resumed.status, 200, "cut {cut} of {body}");
        assert_eq!(resumed.header("rhumb-prefix-hash"), line.hash.to_string(), "cut {cut} of {body}");
        assert_eq!(resumed.header("rhumb-prompt-tokens"), prompt_tokens);
        assert_eq!(lines(resumed).await, wanted[cut..], "cut {cut} of {body}");
    };
    futures_util::future::join_all((0..=last).map(from)).await;
    let line = line(path, &wanted[..=last], prompt);
    let over = resume(other, &line, &body).await;
    assert_eq!((over.status, over.header("rhumb-failure")), (400, "protocol"), "it had ended: {body}");
    wanted
}

/// Two engines of the same model that compute in different steps.
async fn pair(folder: &std::path::Path) -> (Engine, Engine) {
    let one = Engine::start(house::config(folder.to_owned())).await;
    let threads = NonZeroUsize::new(2).unwrap();
    let other = Config { threads, prefill_chunk: 7, slots: 5, ..house::config(folder.to_owned()) };
    (one, Engine::start(other).await)
}

fn holds_back(events: &[Event]) -> bool {
    events.iter().filter(|event| event.id.is_some()).any(|event| id(event).token_ids.len() > 2)
}

#[tokio::test]
async fn a_chat_goes_on_from_any_event() {
    let (one, other) = pair(&house::folder()).await;
    let question = "What is Rhumb?";
    let unsure = json!({"temperature": 2, "max_tokens": 40, "ignore_eos": true, "stream": true});
    let with = |more: Value| {
        let mut all = unsure.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        asking(question, all)
    };
    for body in [
        asking(question, json!({})),
        asking(question, json!({"stop": ["obal traf", "never said"], "stream": true})),
        with(json!({"seed": 3})),
        with(json!({"top_p": 0.9, "stream_options": {"include_usage": true}})),
        with(json!({"min_tokens": 12, "stop": ["e", "a"], "seed": 5})),
        with(json!({"frequency_penalty": 1.5, "presence_penalty": -0.7, "seed": 8, "temperature": 0.5})),
        with(json!({"logprobs": true, "top_logprobs": 3, "seed": 9, "stop": ["e zzz", "t zz"]})),
    ] {
        check(&one, &other, CHAT, body).await;
    }
    // Each of these holds most of the answer's words back for a token or more.
    let stops: Vec<String> = ('a'..='p').map(|letter| format!("{letter} qqq qqq")).collect();
    let held = check(&one, &other, CHAT, asking(question, json!({"stop": stops, "logprobs": true}))).await;
    assert!(held.iter().filter(|event| event.id.is_some()).any(|event| id(event).token_ids.len() > 1));
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_completion_goes_on_from_any_event() {
    let (one, other) = pair(&house::folder()).await;
    let with = |more: Value| {
        let mut all = json!({"model": "m", "prompt": "Routing is a pure decision. Hard", "max_tokens": 30});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    for body in [
        with(json!({"temperature": 0, "echo": true})),
        with(json!({"prompt": [40, 41, 42], "temperature": 1.5, "logprobs": 5, "ignore_eos": true})),
        with(json!({"prompt": "zq xv", "temperature": 2, "logit_bias": {"50": 5, "60": -100}, "seed": -4})),
    ] {
        check(&one, &other, COMPLETIONS, body).await;
    }
    one.stop().await;
    other.stop().await;
}

/// Tokens are single bytes here, and most of what comes is no text.
#[tokio::test]
async fn half_characters_go_on_from_any_event_to_the_end_of_the_context() {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(folder.path(), tiny::ODD);
    let (one, other) = pair(folder.path()).await;
    let bias: serde_json::Map<String, Value> =
        "aé€😀".bytes().map(|byte| (byte.to_string(), json!(if byte < 128 { 5 } else { 9 }))).collect();
    let more =
        json!({"temperature": 1.8, "logit_bias": bias, "ignore_eos": true, "seed": 11, "logprobs": true});
    let to_the_end = check(&one, &other, CHAT, asking("what", more.clone())).await;
    assert!(holds_back(&to_the_end), "no character came in parts");
    assert_eq!(to_the_end[to_the_end.len() - 2].json()["choices"][0]["finish_reason"], "length");
    let mut stopping = more;
    stopping["stop"] = json!(["é€", "aa", "€€€"]);
    stopping["min_tokens"] = json!(9);
    check(&one, &other, CHAT, asking("what", stopping)).await;
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn what_cannot_be_resumed_is_the_node_s_word() {
    let engine = Engine::start(house::config(house::folder())).await;
    let body = asking("What is Rhumb?", json!({"max_tokens": 3}));
    let good = ResumeLine {
        path: CHAT.to_owned(),
        token_ids: vec![40, 41],
        hash: PrefixHash::of_prompt(&[]),
        seed: 1,
    };
    let refused = async |sent: Vec<u8>, headers: &[(&str, &str)]| {
        let answer = post_bytes(engine.address, header::RESUME_PATH, headers, sent).await;
        assert_eq!((answer.status, answer.header("rhumb-failure")), (400, "protocol"));
        assert_eq!(answer.json().await["error"]["code"], "protocol");
    };
    let with = |line: ResumeLine| [line.to_line(), body.to_string().into_bytes()].concat();
    refused(body.to_string().into_bytes(), &ANNOTATED).await;
    refused(with(good.clone()), &ANNOTATED[..1]).await;
    refused(with(ResumeLine { path: "/v1/models".to_owned(), ..good.clone() }), &ANNOTATED).await;
    refused(with(ResumeLine { token_ids: vec![40, 1024], ..good.clone() }), &ANNOTATED).await;
    refused(with(ResumeLine { token_ids: vec![40, 41, 42], ..good.clone() }), &ANNOTATED).await;
    refused(with(ResumeLine { token_ids: vec![40, 5], ..good.clone() }), &ANNOTATED).await;
    // Another prompt than the edge thinks: the answer says so by its hash, and the edge decides.
    let other = resume(&engine, &good, &body).await;
    assert_eq!(other.status, 200);
    let prompt = engine.annotated(CHAT, body.clone()).await.header("rhumb-prefix-hash").parse().unwrap();
    let mut position = StreamPosition::start(prompt);
    position.release(good.token_ids.clone());
    assert_eq!(other.header("rhumb-prefix-hash"), position.hash().to_string());
    // What the client itself did wrong is still its own.
    let bad = resume(&engine, &good, &json!({"model": "m"})).await;
    assert_eq!((bad.status, bad.header("rhumb-failure")), (400, ""));
    engine.stop().await;
}

#[tokio::test]
async fn a_resume_counts_as_prefill_and_not_as_generation() {
    let engine = Engine::start(house::config(house::folder())).await;
    let body = asking("What is Rhumb?", json!({"ignore_eos": true, "max_tokens": 60}));
    let answer = engine.annotated(CHAT, body.clone()).await;
    let prompt = answer.header("rhumb-prefix-hash").parse().unwrap();
    let prompt_tokens: f64 = answer.header("rhumb-prompt-tokens").parse().unwrap();
    let events = lines(answer).await;
    lines(resume(&engine, &line(CHAT, &events[..50], prompt), &body).await).await;
    let released = id(&events[49]).position as f64;
    assert_eq!(engine.metric("rhumb_engine_prompt_tokens_total").await, 2.0 * prompt_tokens + released);
    // The last token is out before its step is counted.
    let counted =
        async { while engine.metric("rhumb_engine_completion_tokens_total").await != 120.0 - released {} };
    tokio::time::timeout(Duration::from_secs(20), counted).await.expect("other tokens were generated");
    engine.stop().await;
}

/// One answer made of given tokens, without any model.
fn run(mut sequence: Sequence, tokens: &[u32], tokenizer: &Tokenizer) -> Vec<(Piece, bool)> {
    let mut events = Vec::new();
    for token in &tokens[sequence.generated()..] {
        let mut logits = vec![0.0; 258];
        logits[*token as usize] = 1.0;
        match sequence.draw(&mut logits, &[257], tokenizer).unwrap() {
            Progress::Going(piece) if piece.is_empty() => {}
            Progress::Going(piece) => events.push((piece, false)),
            Progress::Ended(piece, _) => {
                events.push((piece, true));
                break;
            }
        }
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn nothing_comes_twice_and_nothing_is_lost(
        tokens in prop::collection::vec(prop::sample::select(b"aab\xc3\xa9\xe2\x82\xac".to_vec()), 1..40),
        ends_at in prop::option::weighted(0.3, any::<prop::sample::Index>()),
        stops in prop::collection::vec("[ab\u{e9}\u{20ac}\u{fffd}]{1,4}", 0..4),
        min_tokens in 0..6usize,
        ignore_eos: bool,
    ) {
        thread_local!(static TOKENIZER: Tokenizer = {
            let folder = tempfile::tempdir().unwrap();
            tiny::write(folder.path(), tiny::ODD);
            Tokenizer::read(folder.path()).unwrap()
        });
        TOKENIZER.with(|tokenizer| {
            let mut tokens: Vec<u32> = tokens.into_iter().map(u32::from).collect();
            if let Some(at) = ends_at {
                let at = at.index(tokens.len());
                if at >= min_tokens { tokens[at] = 257; }
            }
            let begin = || {
                let sampler = Sampler { temperature: 0.0, top_p: 1.0, top_k: 0, seed: 0 };
                let (prompt, max_tokens) = (vec![97], tokens.len());
                let penalties = Penalties::default();
                let stops = stops.clone();
                let logprobs = Some(1);
                let task =
                    Task { prompt, sampler, penalties, stops, min_tokens, max_tokens, ignore_eos, logprobs };
                Sequence::new(task, tokenizer)
            };
            let events = run(begin(), &tokens, tokenizer);
            prop_assert!(events.last().unwrap().1);
            let mut released = 0;
            let mut text = String::new();
            for (number, (piece, is_last)) in events.iter().enumerate() {
                let resumed = begin().resume(&tokens[..released], &[257], tokenizer).unwrap();
                prop_assert_eq!(resumed.resumed_characters(), text.chars().count());
                prop_assert_eq!(run(resumed, &tokens, tokenizer), &events[number..], "cut at {}", released);
                released += piece.ids.len();
                text += &piece.text;
                let ids: Vec<u32> = events[..=number].iter().flat_map(|(piece, _)| &piece.ids).copied().collect();
                prop_assert_eq!(&ids, &tokens[..released]);
                prop_assert_eq!(*is_last, number == events.len() - 1);
            }
            let over = begin().resume(&tokens[..released], &[257], tokenizer);
            let is_over = matches!(over, Err(NotResumable::Ended { .. }));
            prop_assert!(is_over);
            Ok(())
        })?;
    }
}
