//! A region dies in the middle of a hundred answers: nobody behind a living edge may notice more than a pause.
//!
//! The same hundred requests run undisturbed first. Every request brings its own seed, so the answers to compare
//! with are known, byte for byte; `docs/drills.md` keeps the figures that are printed here.

use crate::world::{Events, World, eventually, kill, send};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const STREAMS: usize = 100;
const THREE: &[&str] = &["--regions", "us-east,eu-west,ap-south", "--step-time", "100ms"];
/// An answer runs for four seconds.
const TOKENS: usize = 40;

/// Three regions, each with room for all streams: what is left can carry what is lost.
fn world() -> World {
    let world = World::start(THREE);
    let seats = ["deployment", "apply", "--model", world.model(), "--slots", "64", "--yes"];
    let applied = world.run(&seats);
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    let replaced = |region| {
        let mut agent = world.edge(region);
        agent.set_port(9102);
        let page = send(agent, "GET /replicas HTTP/1.1\r\nhost: a\r\n", "").json();
        let replicas = page["replicas"].as_array().unwrap();
        replicas.len() == 2
            && replicas.iter().all(|replica| replica["slots"] == 64 && replica["state"] == "serving")
    };
    eventually("all replicas have the new number of seats", Duration::from_secs(60), || (0..3).all(replaced));
    world.until_healthy(Duration::from_secs(30));
    world
}

/// One answer as its client saw it.
struct Seen {
    events: Events,
    /// The longest pause between two events.
    gap: Duration,
}

/// All kinds that can be resumed, in turn.
fn request(world: &World, number: usize) -> (&'static str, String) {
    let usage = r#","stream_options":{"include_usage":true}"#;
    let common = format!(r#","stream":true,"max_tokens":{TOKENS},"ignore_eos":true,"seed":{number}{usage}"#);
    let question = format!("Which way does traffic number {number} go?");
    match number % 4 {
        0 => (CHAT, world.chat(&question, &format!(r#"{common},"temperature":0"#))),
        1 => (CHAT, world.chat(&question, &format!(r#"{common},"temperature":1.3,"logprobs":true"#))),
        2 => (CHAT, world.chat(&question, &format!(r#"{common},"temperature":0.8,"frequency_penalty":0.7"#))),
        _ => {
            let (model, prompt) = (world.model(), Value::from(question));
            (COMPLETIONS, format!(r#"{{"model":"{model}","prompt":{prompt}{common},"temperature":0.9}}"#))
        }
    }
}

/// All streams at once, at the first region's edge. `begun` counts those that have some events.
fn run_all(world: &World, begun: &AtomicUsize, meanwhile: impl FnOnce()) -> Vec<Seen> {
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..STREAMS)
            .map(|number| {
                scope.spawn(move || {
                    let (path, body) = request(world, number);
                    let mut last: Option<Instant> = None;
                    let mut gap = Duration::ZERO;
                    let events = world.stream_with(0, path, &body, |events| {
                        gap = gap.max(last.map_or(Duration::ZERO, |last| last.elapsed()));
                        last = Some(Instant::now());
                        if events.data.len() == 5 {
                            begun.fetch_add(1, SeqCst);
                        }
                        true
                    });
                    Seen { events, gap }
                })
            })
            .collect();
        meanwhile();
        streams.into_iter().map(|stream| stream.join().unwrap()).collect()
    })
}

/// What must be the same whatever happened on the way: everything but the ids and the time of the request.
fn comparable(events: &Events) -> Vec<String> {
    let strip = |data: &String| match serde_json::from_str::<Value>(data) {
        Ok(mut chunk) => {
            for minted in ["id", "created"] {
                chunk.as_object_mut().unwrap().remove(minted);
            }
            chunk.to_string()
        }
        Err(_) => data.clone(),
    };
    events.data.iter().map(strip).collect()
}

/// What the text of an answer counts, where its chunks name their tokens.
fn tokens_named(events: &Events) -> Option<u64> {
    let named = |chunk: Value| Some(chunk["choices"][0]["logprobs"]["content"].as_array()?.len() as u64);
    events.chunks().map(named).fold(None, |sum, named| Some(sum.unwrap_or(0) + named?).or(sum))
}

fn usage(events: &Events) -> Option<u64> {
    events.chunks().filter_map(|chunk| chunk["usage"]["completion_tokens"].as_u64()).last()
}

#[test]
fn a_lost_region_breaks_no_stream_behind_a_living_edge() {
    let world = world();
    let begun = AtomicUsize::new(0);
    let undisturbed = run_all(&world, &begun, || {});
    let victims: Vec<i32> = ["engine", "region-agent", "control-plane"]
        .iter()
        .flat_map(|role| world.pids(role, world.region(0)))
        .collect();

    let ended = AtomicBool::new(false);
    let begun = AtomicUsize::new(0);
    let (seen, newcomers) = std::thread::scope(|scope| {
        let newcomers = scope.spawn(|| new_requests(&world, &begun, &ended));
        let seen = run_all(&world, &begun, || {
            eventually("most streams have begun", Duration::from_secs(60), || {
                begun.load(SeqCst) >= STREAMS / 2
            });
            victims.iter().copied().for_each(kill);
        });
        ended.store(true, SeqCst);
        (seen, newcomers.join().unwrap())
    });

    let mut gaps: Vec<Duration> = Vec::new();
    for (number, (seen, reference)) in seen.iter().zip(&undisturbed).enumerate() {
        assert!(seen.events.is_complete(), "stream {number} broke: {:?}", seen.events.data.last());
        assert_eq!(comparable(&seen.events), comparable(&reference.events), "stream {number} differs");
        assert_eq!(usage(&seen.events), Some(TOKENS as u64), "stream {number} counts wrongly");
        if let Some(named) = tokens_named(&seen.events) {
            assert_eq!(usage(&seen.events), Some(named), "stream {number} names other tokens than it counts");
        }
        gaps.push(seen.gap);
    }
    let resumed = world.edge_metric(0, "rhumb_edge_resumes_total", "exact");
    assert!(resumed > 0.0, "the kill came too late to matter");
    gaps.sort_unstable();
    let slowest = newcomers.iter().max().copied().unwrap_or_default();
    eprintln!(
        "region lost under {STREAMS} streams: {STREAMS} complete and identical, {resumed} resumes, longest pause \
         median {:?}, worst {:?}; {} new requests, none failed, first token after at most {slowest:?}",
        gaps[STREAMS / 2],
        gaps[STREAMS - 1],
        newcomers.len(),
    );
}

/// Short requests, one after the other, from the moment most streams run: each must succeed. How long each waited
/// for its first token.
fn new_requests(world: &World, begun: &AtomicUsize, ended: &AtomicBool) -> Vec<Duration> {
    eventually("most streams have begun", Duration::from_secs(60), || begun.load(SeqCst) >= STREAMS / 2);
    let mut waits = Vec::new();
    while !ended.load(SeqCst) {
        let body = world.chat("Hello", r#","stream":true,"max_tokens":2,"ignore_eos":true"#);
        let asked = Instant::now();
        let mut wait = None;
        let events = world.stream_with(0, CHAT, &body, |_| {
            wait.get_or_insert(asked.elapsed());
            true
        });
        assert!(events.status == 200 && events.is_complete(), "a new request failed: {events:?}");
        waits.push(wait.unwrap());
    }
    waits
}

/// With the edge gone there is nobody who could go on with what it carried. Those who come after find another one.
#[test]
fn a_lost_region_with_its_edge_costs_only_what_the_edge_carried() {
    let world = world();
    let victims: Vec<i32> = ["edge", "engine", "region-agent", "control-plane"]
        .iter()
        .flat_map(|role| world.pids(role, world.region(0)))
        .collect();
    let begun = AtomicUsize::new(0);
    let (streams, recovered) = std::thread::scope(|scope| {
        let streams: Vec<_> = (0..STREAMS)
            .map(|number| {
                let (world, begun) = (&world, &begun);
                scope.spawn(move || {
                    let (path, body) = request(world, number);
                    world.stream_at(world.front(), path, &body, |events| {
                        if events.data.len() == 5 {
                            begun.fetch_add(1, SeqCst);
                        }
                        true
                    })
                })
            })
            .collect();
        eventually("most streams have begun", Duration::from_secs(60), || begun.load(SeqCst) >= STREAMS / 2);
        victims.iter().copied().for_each(kill);
        let killed = Instant::now();
        let body = world.chat("Hello", r#","stream":true,"max_tokens":2,"ignore_eos":true"#);
        let served =
            || world.stream_at(world.front(), CHAT, &body, |_| true).is_some_and(|it| it.is_complete());
        eventually("the one address leads elsewhere", Duration::from_secs(10), served);
        let recovered = killed.elapsed();
        for _ in 0..20 {
            assert!(served(), "a new request failed after the first had been served");
        }
        let streams: Vec<_> = streams.into_iter().map(|stream| stream.join().unwrap()).collect();
        (streams, recovered)
    });
    let complete = |stream: &&Option<Events>| stream.as_ref().is_some_and(Events::is_complete);
    let whole = streams.iter().filter(complete).count();
    eprintln!(
        "region lost with its edge: {whole} of {STREAMS} complete, {} cut off without [DONE]; a new request \
         served after {recovered:?}",
        STREAMS - whole,
    );
    assert!(recovered <= Duration::from_secs(4), "the first new request took {recovered:?}");
}
