//! The sandbox itself: clear about what is wrong, clean when it goes, the same when it comes back.

use crate::world::{World, eventually, is_alive, kill, rhumb};
use std::net::TcpListener;
use std::process::Output;
use std::time::Duration;
use tempfile::TempDir;

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_world_comes_and_goes_cleanly() {
    let mut world = World::start(&["--regions", "us-east"]);
    let second = world.run(&["up", "--detach", "--subnet", "auto"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("rhumb down"), "{}", stderr(&second));
    logs_can_be_read(&world);

    let key = world.key().to_owned();
    world.restart();
    assert_eq!(world.key(), key, "a key outlives its sandbox");
    assert_eq!(world.post(0, "/v1/chat/completions", &world.chat("Hello", r#","max_tokens":1"#)).status, 200);

    nothing_outlives_a_killed_sandbox(&world);
    assert!(world.run(&["down"]).status.success());
    assert!(world.run(&["down"]).status.success(), "down twice is fine");
    assert_eq!(world.run(&["status"]).status.code(), Some(1));
}

fn logs_can_be_read(world: &World) {
    for role in ["edge", "region-agent", "engine"] {
        let logs = world.run(&["logs", role, "us-east"]);
        assert!(logs.status.success(), "{}", stderr(&logs));
        assert!(!logs.stdout.is_empty(), "{role} says nothing");
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        assert!(!text.contains(&world.key()[20..]), "a secret in the log of {role}");
    }
    let unknown = world.run(&["logs", "edge", "mars"]);
    assert!(!unknown.status.success());
    assert!(stderr(&unknown).contains("us-east"), "the known regions are named: {}", stderr(&unknown));
}

fn nothing_outlives_a_killed_sandbox(world: &World) {
    let processes = world.json(&["sandbox", "ps", "--json"]);
    let pids: Vec<i32> =
        processes.as_array().unwrap().iter().map(|process| process["pid"].as_i64().unwrap() as i32).collect();
    assert!(pids.len() >= 4, "{processes}");
    let up: i32 = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_string_lossy().parse().ok())
        .find(|pid: &i32| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.contains("\0up\0") && command.contains(world.data().to_str().unwrap())
        })
        .expect("the sandbox runs");
    kill(up);
    eventually("every process ended with the sandbox", Duration::from_secs(5), || {
        pids.iter().all(|pid| !is_alive(*pid))
    });
}

#[test]
fn what_is_wrong_is_said_with_the_next_step() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().to_str().unwrap();
    let failed = |arguments: &[&str], code: i32| {
        let output = rhumb(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    };
    assert!(failed(&["up", "--regions", "US", "--data", data], 2).contains("[a-z]"));
    assert!(failed(&["up", "--regions", "a,a", "--data", data], 2).contains("twice"));
    assert!(failed(&["logs", "edge", "us-east", "--data", data], 1).contains("rhumb up"));
    assert!(failed(&["frobnicate"], 2).contains("Usage"));

    // A subnet of its own, far from those that `auto` takes first.
    let busy = TcpListener::bind("127.251.1.1:8080").unwrap();
    let said = failed(&["up", "--detach", "--subnet", "251", "--data", data], 1);
    assert!(said.contains("127.251.1.1:8080") && said.contains("--subnet"), "{said}");
    drop(busy);

    let house = concat!(env!("CARGO_MANIFEST_DIR"), "/engine/model/house");
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(house).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let engine = ["engine", "--listen", "127.0.0.1:0", "--model", model.to_str().unwrap()];
    let mut weights = std::fs::read(model.join("model.safetensors")).unwrap();
    let middle = weights.len() / 2;
    weights[middle] ^= 1;
    std::fs::write(model.join("model.safetensors"), &weights).unwrap();
    let said = failed(&engine, 1);
    assert!(said.contains("model.safetensors") && said.contains("sha256"), "{said}");
    std::fs::remove_file(model.join("model.safetensors")).unwrap();
    assert!(failed(&engine, 1).contains("model.safetensors"));

    let config = dir.path().join("edge.toml");
    std::fs::write(&config, "region = 7").unwrap();
    assert!(failed(&["edge", "--config", config.to_str().unwrap()], 1).contains("region"));
    assert!(failed(&["edge", "--config", "/nowhere/edge.toml"], 1).contains("/nowhere/edge.toml"));
}
