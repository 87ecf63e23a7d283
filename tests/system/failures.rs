//! What clients get when things break under them.

use crate::world::{Events, World, eventually};
use std::sync::mpsc;
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";

fn long(tokens: usize) -> String {
    format!(r#","stream":true,"temperature":0,"max_tokens":{tokens},"ignore_eos":true"#)
}

#[test]
fn a_region_without_engines_costs_no_request() {
    let world = World::start(&["--step-time", "20ms"]);
    // Looked up before, so that the kill comes while they run.
    let engines = world.pids("engine", world.region(0));
    let streams = run_streams_and(&world, 50, || engines.into_iter().for_each(crate::world::kill));
    for stream in &streams {
        assert!(stream.status == 200 && stream.is_complete(), "{stream:?}");
    }
    let resumed = world.edge_metric(0, "rhumb_edge_resumes_total", "exact");
    assert!(resumed > 0.0, "the kill came too late to matter");
    eventually("engines are restarted by their agent", Duration::from_secs(20), || {
        world.json(&["status", "--json"])["healthy"] == true
    });
}

/// All of them at once, on an edge that has next to no connection to its node yet.
#[test]
fn a_burst_is_answered_by_its_own_region() {
    let world = World::start(&["--step-time", "0ms", "--regions", "us-east"]);
    let body = world.chat("Hello", r#","stream":true,"max_tokens":4,"ignore_eos":true"#);
    let before = world.edge_metric(0, "rhumb_edge_attempts_total", "failed");
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..250).map(|_| scope.spawn(|| world.stream(0, CHAT, &body))).collect();
        for stream in streams {
            let stream = stream.join().unwrap();
            assert!(stream.is_complete(), "{stream:?}");
        }
    });
    assert_eq!(world.edge_metric(0, "rhumb_edge_attempts_total", "failed"), before);
}

#[test]
fn each_role_may_die() {
    let world = World::start(&["--step-time", "10ms"]);
    a_client_that_leaves_stops_its_engine(&world);
    an_agent_dies_and_comes_back(&world);
    an_edge_dies_and_comes_back(&world);
    an_edge_that_is_told_to_stop_finishes_its_streams(&world);
}

fn a_client_that_leaves_stops_its_engine(world: &World) {
    let long = r#","stream":true,"max_tokens":900,"ignore_eos":true"#;
    world.stream_with(0, CHAT, &world.chat("Hello", long), |events| events.data.len() < 3);
    // 900 steps of 10 ms would run for 9 s.
    eventually("the engine is idle again", Duration::from_secs(3), || running(world) == 0);
}

fn running(world: &World) -> u64 {
    let status = world.json(&["status", "--json"]);
    let regions = status["regions"].as_array().unwrap().iter();
    regions.map(|region| region["running"].as_u64().unwrap() + region["queued"].as_u64().unwrap()).sum()
}

fn an_agent_dies_and_comes_back(world: &World) {
    let region = world.region(0);
    let engines = world.pids("engine", region);
    let agents = world.pids("region-agent", region);
    let streams = run_streams_and(world, 12, || agents.into_iter().for_each(crate::world::kill));
    for stream in &streams {
        assert!(stream.is_complete(), "{stream:?}");
    }
    eventually("its engines ended with it", Duration::from_secs(5), || {
        engines.iter().all(|pid| !crate::world::is_alive(*pid))
    });
    // Its region's edge goes on by the other region.
    for _ in 0..8 {
        assert_eq!(world.post(0, CHAT, &world.chat("Hello", r#","max_tokens":1"#)).status, 200);
    }
    assert!(!world.run(&["status"]).status.success(), "a dead role is a degraded world");
    assert!(world.run(&["sandbox", "start", "region-agent", region]).status.success());
    eventually("the region is whole again", Duration::from_secs(20), || {
        world.run(&["status"]).status.success()
    });
}

fn an_edge_dies_and_comes_back(world: &World) {
    let region = world.region(1);
    world.kill("edge", region);
    assert_eq!(world.post(0, CHAT, &world.chat("Hello", r#","max_tokens":1"#)).status, 200);
    assert!(world.run(&["sandbox", "start", "edge", region]).status.success());
    eventually("the edge answers again", Duration::from_secs(10), || world.run(&["status"]).status.success());
    assert_eq!(world.post(1, CHAT, &world.chat("Hello", r#","max_tokens":1"#)).status, 200);
}

fn an_edge_that_is_told_to_stop_finishes_its_streams(world: &World) {
    let [edge] = world.pids("edge", world.region(1))[..] else { panic!("one edge per region") };
    let mut told = false;
    let body = world.chat("Tell me about Rhumb.", &long(60));
    let stream = world.stream_with(1, CHAT, &body, |events| {
        if events.data.len() == 3 && !std::mem::replace(&mut told, true) {
            crate::world::terminate(edge);
            eventually("no new connection is taken", Duration::from_secs(3), || {
                std::net::TcpStream::connect(world.edge(1)).is_err()
            });
        }
        true
    });
    assert!(stream.is_complete(), "{stream:?}");
    eventually("the edge ends when its last stream has", Duration::from_secs(5), || {
        world.pids("edge", world.region(1)).is_empty()
    });
}

/// Runs streams through the first region's edge, and breaks something once half of those that fit have begun.
fn run_streams_and(world: &World, count: usize, break_something: impl FnOnce()) -> Vec<Events> {
    let (begun, has_begun) = mpsc::channel();
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..count)
            .map(|number| {
                let begun = begun.clone();
                // Of different lengths, so that they never all end at once and some are always running.
                let body = world.chat("Tell me about Rhumb.", &long(40 + 7 * number % 41));
                scope.spawn(move || {
                    world.stream_with(0, CHAT, &body, |events| {
                        if events.data.len() == 3 {
                            let _ = begun.send(());
                        }
                        true
                    })
                })
            })
            .collect();
        for _ in 0..count.min(16) / 2 {
            has_begun.recv_timeout(Duration::from_secs(30)).expect("streams begin");
        }
        break_something();
        streams.into_iter().map(|stream| stream.join().unwrap()).collect()
    })
}
