//! The sandbox itself: clear about what is wrong, clean when it goes, the same when it comes back.

use crate::world::{World, eventually, interrupt, is_alive, kill, processes_of, rhumb};
use socket2::{Domain, Socket, Type};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Output, Stdio};
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
    a_client_may_have_the_address_of_the_endpoint(&world);

    let key = world.key().to_owned();
    world.restart();
    assert_eq!(world.key(), key, "a key outlives its sandbox");
    assert_eq!(world.post(0, "/v1/chat/completions", &world.chat("Hello", r#","max_tokens":1"#)).status, 200);

    nothing_outlives_a_killed_sandbox(&world);
    what_a_power_loss_leaves_is_no_obstacle(&mut world, &key);
    assert!(world.run(&["down"]).status.success());
    assert!(world.run(&["down"]).status.success(), "down twice is fine");
    assert_eq!(world.run(&["status"]).status.code(), Some(1));
}

/// In the first subnet every client of this host has it, unless it chooses another.
fn a_client_may_have_the_address_of_the_endpoint(world: &World) {
    let endpoint = world.facts["endpoint"].as_str().unwrap().replace("http://", "").replace("/v1", "");
    let mut source: SocketAddr = endpoint.parse().unwrap();
    source.set_port(0);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&source.into()).unwrap();
    socket.connect(&world.edge(0).into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET /v1/models HTTP/1.1\r\nhost: rhumb\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer:?}");
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
    kill(up_of(world.data()));
    eventually("every process ended with the sandbox", Duration::from_secs(5), || {
        pids.iter().all(|pid| !is_alive(*pid))
    });
}

/// Nobody has tidied up: the lock names a process of before, the socket has no listener, half a file lies about.
fn what_a_power_loss_leaves_is_no_obstacle(world: &mut World, key: &str) {
    assert!(world.data().join("up.lock").exists() && world.data().join("up.sock").exists());
    std::fs::write(world.data().join(".sandbox.json.unfinished"), "{\"subnet\":").unwrap();
    world.restart();
    assert_eq!(world.key(), key);
    assert_eq!(world.post(0, "/v1/chat/completions", &world.chat("Hello", r#","max_tokens":1"#)).status, 200);
}

#[test]
fn an_interrupted_start_leaves_nothing_and_can_be_made_again() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().to_str().unwrap();
    let start = ["up", "--subnet", "auto", "--regions", "us-east", "--data", data];
    for _ in 0..2 {
        let mut up = rhumb(&start).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(up.stderr.take().unwrap());
        let mut text = String::new();
        // Its processes are started right after that.
        while !text.contains("starting us-east") {
            assert!(said.read_line(&mut text).unwrap() > 0, "{text}");
        }
        interrupt(up.id() as i32);
        said.read_to_string(&mut text).unwrap();
        assert_eq!(up.wait().unwrap().code(), Some(1), "{text}");
        assert!(text.contains("interrupted before everything was ready"), "{text}");
        assert!(processes_of(dir.path()).is_empty(), "{text}");
    }
}

#[test]
fn a_sandbox_has_as_many_regions_as_one_likes_and_three_voters() {
    let world = World::start(&["--regions", "5"]);
    for region in 0..5 {
        let answer = world.post(region, "/v1/chat/completions", &world.chat("Hello", r#","max_tokens":1"#));
        assert_eq!(answer.status, 200, "{}: {answer:?}", world.region(region));
    }
    let regions = world.json(&["status", "--json"])["regions"].clone();
    let voters = |region: &serde_json::Value| region["voters"].as_u64().unwrap();
    assert_eq!(regions.as_array().unwrap().iter().map(voters).collect::<Vec<_>>(), [1, 1, 1, 0, 0]);
    assert_eq!(world.link(&[]).as_array().unwrap().len(), 5 * 4, "each region has links to all others");
}

/// A sandbox asks for no rights: no raw sockets, no namespaces, no privileged ports.
#[test]
fn a_sandbox_needs_no_root() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let world = World::start_as_nobody(&["--regions", "us-east,eu-west"]);
    assert_eq!(world.post(1, "/v1/chat/completions", &world.chat("Hello", r#","max_tokens":1"#)).status, 200);
    let cut = world.link(&["us-east", "eu-west", "--partition"]);
    assert_eq!(cut[0]["is_cut"], true, "{cut}");
}

/// The process that holds the sandbox.
fn up_of(data: &Path) -> i32 {
    let is_up = |pid: &i32| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.contains("\0up\0")
    };
    processes_of(data).into_iter().find(is_up).expect("the sandbox runs")
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

    // Far from those that `auto` takes first.
    let taken = |subnet| TcpListener::bind(format!("127.{subnet}.1.1:8080"));
    let (subnet, busy) = (128..=251).rev().find_map(|subnet| Some((subnet, taken(subnet).ok()?))).unwrap();
    let said = failed(&["up", "--detach", "--subnet", &subnet.to_string(), "--data", data], 1);
    assert!(said.contains(&format!("127.{subnet}.1.1:8080")) && said.contains("--subnet"), "{said}");
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
