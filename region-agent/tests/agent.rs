//! A whole agent with real child processes: they start, die, hang, and end with it.
//!
//! The child is this very test program, which [`stand_in`] turns into something that answers like an engine.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use axum::Router;
use axum::routing::get;
use identity::{Authority, Role};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use region_agent::{Config, EngineFile, File, StartError};
use serde_json::Value;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const ARGUMENTS: &str = "STAND_IN_ARGUMENTS";

/// The engine. Run by an agent's launcher through a script; run as a test, it has nothing to do.
#[test]
#[ignore = "this is no test but the program that the other tests start"]
fn stand_in() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let listen = argument(&arguments, "--listen");
    assert_eq!(std::env::var("RHUMB_LIFELINE").unwrap(), "stdin");
    std::thread::spawn(|| {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
        std::process::exit(0);
    });
    let replica = argument(&arguments, "--replica");
    eprintln!("arguments: {arguments}");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let load = "boot=1 seq=1 state=serving kv_free=5";
        let pages = Router::new()
            .route("/readyz", get(async move || ([("rhumb-replica", replica)], "ok")))
            .route("/livez", get(async || "ok"))
            .route("/rhumb/v1/load", get(async move || load));
        axum::serve(tokio::net::TcpListener::bind(listen).await.unwrap(), pages).await.unwrap();
    });
}

fn argument(arguments: &str, flag: &str) -> String {
    arguments.split(' ').skip_while(|word| *word != flag).nth(1).unwrap().to_owned()
}

/// An agent in a directory of its own.
struct World {
    dir: tempfile::TempDir,
    file: File,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("engine.sh");
        let this = std::env::current_exe().unwrap();
        let script = format!(
            "#!/bin/sh\n{ARGUMENTS}=\"$*\" exec {} --exact stand_in --ignored --nocapture\n",
            this.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let [ingress, admin, engine] = free_addresses();
        let engine = EngineFile {
            version: format!("sha256:{}", "07".repeat(32)),
            model_dir: "/models/tiny".into(),
            served_name: "tiny".to_owned(),
            count: 1,
            listen: engine,
            slots: 8,
            threads: 1,
            kv_tokens: None,
            step_time_ms: 0,
        };
        let file = File {
            region: "us-east".to_owned(),
            zone: "a".to_owned(),
            node: "n1".to_owned(),
            ingress,
            admin,
            identity: dir.path().join("identity"),
            logs: dir.path().join("logs"),
            queue_max: 4,
            drain_seconds: 1,
            program: Some(program),
            engines: vec![engine],
        };
        issue(&file.identity, "n1");
        Self { dir, file }
    }

    fn config(&self) -> Config {
        self.file.clone().try_into().unwrap()
    }

    async fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.file.admin).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    async fn replicas(&self) -> Option<Value> {
        let page = self.page("/replicas").await?;
        serde_json::from_str(page.split_once("\r\n\r\n")?.1).ok()
    }

    /// Waits for the admin page to say so of the one replica: it is what operators have, too.
    async fn until(&self, replica: &str, state: &str) -> Value {
        let begun = Instant::now();
        loop {
            let page = self.replicas().await;
            if let Some(page) = &page
                && page["replicas"][0]["replica"] == replica
                && page["replicas"][0]["state"] == state
            {
                return page.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{replica} is not {state}: {page:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn issue(dir: &Path, node: &str) {
    let now = time::OffsetDateTime::now_utc();
    let name = identity::Name {
        cluster: "c1".to_owned(),
        region: "us-east".parse().unwrap(),
        role: Role::RegionAgent,
        name: node.parse().unwrap(),
    };
    Authority::create("c1", now).unwrap().issue(&name, dir, now).unwrap();
}

/// All found before any is let go, so that they differ.
fn free_addresses<const N: usize>() -> [String; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().to_string())
}

/// Waits for an agent that was told to shut down.
async fn ended(agent: JoinHandle<Result<(), StartError>>) {
    let within = tokio::time::timeout(Duration::from_secs(20), agent);
    within.await.expect("it takes far too long").unwrap().unwrap();
}

fn pid(page: &Value) -> Pid {
    Pid::from_raw(page["replicas"][0]["pid"].as_i64().unwrap().try_into().unwrap())
}

fn is_alive(pid: Pid) -> bool {
    kill(pid, None).is_ok()
}

#[tokio::test]
async fn a_killed_engine_is_another_replica_and_ends_with_its_agent() {
    let world = World::new();
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(region_agent::run(world.config(), shutdown.clone()));

    let page = world.until("us-east/n1/0-0", "serving").await;
    assert_eq!(
        (&page["region"], &page["node"], &page["state"]),
        (&"us-east".into(), &"n1".into(), &"serving".into())
    );
    assert_eq!(page["replicas"][0]["starts"], 1);
    assert!(world.page("/readyz").await.unwrap().starts_with("HTTP/1.1 200"));

    kill(pid(&page), Signal::SIGKILL).unwrap();
    let second = world.until("us-east/n1/0-1", "serving").await;
    assert_ne!(pid(&second), pid(&page));
    let metrics = world.page("/metrics").await.unwrap();
    assert!(metrics.contains("rhumb_agent_engine_starts_total 2"), "{metrics}");
    assert!(metrics.contains("rhumb_agent_engine_exits_total 1"), "{metrics}");

    shutdown.cancel();
    ended(agent).await;
    assert!(!is_alive(pid(&second)));
    let log = std::fs::read_to_string(world.dir.path().join("logs/engine-0.log")).unwrap();
    assert!(log.contains("-- us-east/n1/0-0 --") && log.contains("--replica us-east/n1/0-1"), "{log}");
}

#[tokio::test]
async fn a_hanging_engine_is_replaced() {
    let world = World::new();
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(region_agent::run(world.config(), shutdown.clone()));
    let page = world.until("us-east/n1/0-0", "serving").await;
    kill(pid(&page), Signal::SIGSTOP).unwrap();
    world.until("us-east/n1/0-1", "serving").await;
    assert!(!is_alive(pid(&page)));
    shutdown.cancel();
    ended(agent).await;
}

#[tokio::test]
async fn a_stranger_on_the_port_is_not_the_engine() {
    for stranger_says in ["", "us-east/n2/0-0"] {
        let mut world = World::new();
        // It lives, and does not come to listen.
        let program = world.dir.path().join("slow.sh");
        std::fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        world.file.program = Some(program);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let readyz = async move || {
            count.fetch_add(1, Ordering::Relaxed);
            ([("rhumb-replica", stranger_says)], "ok")
        };
        let listener = tokio::net::TcpListener::bind(&world.file.engines[0].listen).await.unwrap();
        let pages = Router::new().route("/readyz", get(readyz)).route("/livez", get(async || "ok"));
        tokio::spawn(async move { axum::serve(listener, pages).await });

        let shutdown = CancellationToken::new();
        let agent = tokio::spawn(region_agent::run(world.config(), shutdown.clone()));
        world.until("us-east/n1/0-0", "starting").await;
        let begun = Instant::now();
        // The third question comes after the answer to the second was judged.
        while asked.load(Ordering::Relaxed) < 3 {
            assert!(begun.elapsed() < Duration::from_secs(30), "the stranger was believed, or never asked");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(world.replicas().await.unwrap()["replicas"][0]["state"], "starting");
        shutdown.cancel();
        ended(agent).await;
    }
}

#[tokio::test]
async fn a_program_that_cannot_start_is_tried_again() {
    let mut world = World::new();
    world.file.program = Some(world.dir.path().join("missing"));
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(region_agent::run(world.config(), shutdown.clone()));
    let begun = Instant::now();
    loop {
        let starts = world.replicas().await.map(|page| page["replicas"][0]["starts"].clone());
        if starts.is_some_and(|starts| starts.as_u64() >= Some(3)) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(world.page("/readyz").await.unwrap().starts_with("HTTP/1.1 503"));
    shutdown.cancel();
    ended(agent).await;
}

#[tokio::test]
async fn what_keeps_an_agent_from_starting_names_the_way_out() {
    let never = CancellationToken::new;
    let mut world = World::new();
    let taken = TcpListener::bind(&world.file.ingress).unwrap();
    let busy = region_agent::run(world.config(), never()).await.unwrap_err();
    assert!(matches!(busy, StartError::Listen { field: "ingress", .. }));
    assert!(busy.to_string().contains("mend `ingress`"), "{busy}");
    drop(taken);

    issue(&world.file.identity, "n2");
    let other = region_agent::run(world.config(), never()).await.unwrap_err();
    assert!(other.to_string().contains("region-agent/n2, but this is node n1"), "{other}");

    world.file.identity = "/nowhere".into();
    let missing = region_agent::run(world.config(), never()).await.unwrap_err();
    assert!(missing.to_string().contains("join this node again"), "{missing}");
}
