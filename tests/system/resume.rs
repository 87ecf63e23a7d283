//! Streams whose engine, node or region dies in the middle: every one of them is completed, and none differs from what
//! it would have been.

use crate::world::{Events, World, eventually};
use serde_json::Value;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const STREAMS: usize = 24;

#[test]
fn no_stream_is_lost_and_none_differs_whatever_dies() {
    let world = World::start(&["--step-time", "20ms"]);
    let wanted = streams_while(&world, || {});
    let region = world.region(0);
    let deaths: [(&str, &dyn Fn()); 3] = [
        ("an engine", &|| crate::world::kill(world.pids("engine", region)[0])),
        ("all engines of a region", &|| {
            world.pids("engine", region).into_iter().for_each(crate::world::kill)
        }),
        ("a node", &|| world.kill("region-agent", region)),
    ];
    for (what, death) in deaths {
        let before = resumes(&world);
        let began = Instant::now();
        let found = streams_while(&world, death);
        let took = began.elapsed();
        for (wanted, found) in wanted.iter().zip(&found) {
            assert!(found.is_complete(), "{what} died: {found:?}");
            assert_eq!(content(found), content(wanted), "{what} died");
        }
        let resumed = resumes(&world) - before;
        assert!(resumed > 0.0, "{what} died too late to matter");
        println!("{what} died: {resumed} of {STREAMS} streams resumed, all done in {took:?}");
        if world.pids("region-agent", region).is_empty() {
            assert!(world.run(&["sandbox", "start", "region-agent", region]).status.success());
        }
        eventually("the region is whole again", Duration::from_secs(30), || {
            world.run(&["status"]).status.success()
        });
    }
    let broken = world.edge_metric(0, "rhumb_edge_streams_broken_total", "");
    assert_eq!(broken, 0.0);
}

fn resumes(world: &World) -> f64 {
    world.edge_metric(0, "rhumb_edge_resumes_total", "exact")
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
