//! Streams whose engine, node or region dies in the middle: every one of them is completed, and none differs from what
//! it would have been.

use crate::world::{Events, World};
use serde_json::Value;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const STREAMS: usize = 24;

#[test]
fn an_engine_dies() {
    no_stream_is_lost_when(|world, region| crate::world::kill(world.pids("engine", region)[0]));
}

#[test]
fn all_engines_of_a_region_die() {
    no_stream_is_lost_when(|world, region| {
        world.pids("engine", region).into_iter().for_each(crate::world::kill);
    });
}

#[test]
fn a_region_dies_but_for_its_edge() {
    no_stream_is_lost_when(|world, region| {
        world.kill("region-agent", region);
        world.kill("control-plane", region);
    });
}

/// A world for each death: what died once is left alone for a while, and its next death would matter less.
fn no_stream_is_lost_when(something_dies: impl FnOnce(&World, &str)) {
    let world = World::start(&["--step-time", "20ms"]);
    let wanted = streams_while(&world, || {});
    let began = Instant::now();
    let found = streams_while(&world, || something_dies(&world, world.region(0)));
    let took = began.elapsed();
    for (wanted, found) in wanted.iter().zip(&found) {
        assert!(found.is_complete(), "{found:?}");
        assert_eq!(content(found), content(wanted));
    }
    let resumed = world.edge_metric(0, "rhumb_edge_resumes_total", "exact");
    assert!(resumed > 0.0, "too late to matter");
    assert_eq!(world.edge_metric(0, "rhumb_edge_streams_broken_total", ""), 0.0);
    eprintln!("{resumed} of {STREAMS} streams resumed, all done in {took:?}");
}

/// What a stream said, without what names the request.
fn content(stream: &Events) -> Vec<Value> {
    let nameless = |mut chunk: Value| {
        let fields = chunk.as_object_mut().unwrap();
        fields.remove("id").unwrap();
        fields.remove("created").unwrap();
        chunk
    };
    stream.chunks().map(nameless).collect()
}

/// Streams of different lengths, kinds and seeds through the first region's edge; something happens once some of them
/// have begun.
fn streams_while(world: &World, happens: impl FnOnce()) -> Vec<Events> {
    let (begun, has_begun) = mpsc::channel();
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..STREAMS)
            .map(|number| {
                let begun = begun.clone();
                let usage = if number % 2 == 0 { r#","stream_options":{"include_usage":true}"# } else { "" };
                let more = format!(
                    r#","stream":true,"seed":{number},"temperature":0.9,"max_tokens":{},"ignore_eos":true{usage}"#,
                    60 + number
                );
                let body = world.chat("Tell me about Rhumb.", &more);
                scope.spawn(move || {
                    world.stream_with(0, CHAT, &body, |events| {
                        if events.data.len() == 5 {
                            let _ = begun.send(());
                        }
                        true
                    })
                })
            })
            .collect();
        for _ in 0..STREAMS / 4 {
            has_begun.recv_timeout(Duration::from_secs(30)).expect("streams begin");
        }
        happens();
        streams.into_iter().map(|stream| stream.join().unwrap()).collect()
    })
}
