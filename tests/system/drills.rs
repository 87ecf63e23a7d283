//! Faults under load: what each costs clients, and that everything recovers without help.
//!
//! Load is open loop, so a request that meets a fault is neither held back nor spared. Each drill prints what it
//! cost; `docs/drills.md` has the table.

use crate::world::{World, eventually, interrupt, kill};
use serde_json::Value;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

const THREE: &[&str] = &["--regions", "us-east,eu-west,ap-south"];
const REGIONS: [&str; 3] = ["us-east", "eu-west", "ap-south"];
/// Every region's clients, each at its own edge.
const EVERYWHERE: &[&str] = &["--region", "us-east,eu-west,ap-south", "--rate", "24"];
/// Clients who know one address.
const ANYCAST: &[&str] = &["--rate", "12"];

/// `rhumb load`, running.
struct Load {
    process: Child,
}

/// What a drill cost.
struct Cost {
    report: Value,
}

impl Load {
    fn start(world: &World, options: &[&str]) -> Self {
        let served = |world: &World| -> f64 {
            (0..REGIONS.len()).map(|region| world.edge_metric(region, "rhumb_edge_requests_total", "")).sum()
        };
        let before = served(world);
        let process = world
            .command(&["load", "--json", "--duration", "120s", "--output-tokens", "24", "--timeout", "30s"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("load runs", Duration::from_secs(10), || served(world) >= before + 10.0);
        Self { process }
    }

    /// Ends the load; what still runs then is nobody's failure.
    fn end(mut self) -> Cost {
        interrupt(self.process.id() as i32);
        let mut text = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.process.wait().unwrap().success());
        Cost { report: serde_json::from_str(&text).unwrap_or_else(|_| panic!("no report: {text}")) }
    }
}

impl Cost {
    fn count(&self, outcome: &str) -> u64 {
        self.report["requests"][outcome].as_u64().unwrap()
    }

    /// How long the clients of a region went without.
    fn longest_unserved_ms(&self, region: &str) -> f64 {
        let regions = self.report["regions"].as_array().unwrap();
        let found = regions.iter().find(|known| known["name"] == region).unwrap();
        found["longest_unserved_ms"].as_f64().unwrap()
    }

    fn tell(&self, drill: &str) {
        eprintln!(
            "{drill:44} served {:4}  refused {}  failed {}  broken {}  ttft p99 {:.0} ms  longest without {:.0} ms",
            self.count("served"),
            self.count("refused"),
            self.count("failed"),
            self.count("broken"),
            self.report["ttft_ms"]["p99"].as_f64().unwrap_or(f64::NAN),
            self.report["longest_unserved_ms"].as_f64().unwrap_or(f64::NAN),
        );
    }

    fn assert_none_but(&self, allowed: &[&str]) {
        for outcome in ["refused", "failed", "broken", "not_sent"] {
            let is_none = self.count(outcome) == 0 || allowed.contains(&outcome);
            assert!(is_none, "{outcome}: {:#}", self.report["causes"]);
        }
    }
}

/// Runs load, breaks something under it, and sees that all is well again in the end.
fn drill(world: &World, name: &str, load: &[&str], break_and_mend: impl FnOnce()) -> Cost {
    let load = Load::start(world, load);
    break_and_mend();
    world.until_healthy(Duration::from_secs(30));
    let cost = load.end();
    cost.tell(name);
    cost
}

/// How long a fault lasts that is not mended by what it breaks.
fn for_seconds(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

fn kill_all(world: &World, role: &str, region: &str) {
    world.pids(role, region).into_iter().for_each(kill);
}

#[test]
fn each_kind_of_process_may_be_killed() {
    let world = World::start(THREE);

    let cost = drill(&world, "kill -9: one engine of a region", EVERYWHERE, || {
        kill(world.pids("engine", "us-east")[0]);
        for_seconds(2);
    });
    cost.assert_none_but(&[]);

    let cost = drill(&world, "kill -9: a region's agent and all its engines", EVERYWHERE, || {
        kill_all(&world, "region-agent", "us-east");
        for_seconds(4);
        world.revive("region-agent", "us-east");
    });
    cost.assert_none_but(&[]);
    let unserved = cost.longest_unserved_ms("us-east");
    assert!(unserved <= 2_000.0, "rerouted only after {unserved} ms");

    let leader = world.leader().unwrap();
    let cost = drill(&world, "kill -9: the control plane's leader", EVERYWHERE, || {
        kill_all(&world, "control-plane", &leader);
        eventually("there is another leader", Duration::from_secs(10), || {
            world.leader().is_some_and(|region| region != leader)
        });
        world.revive("control-plane", &leader);
    });
    cost.assert_none_but(&[]);

    let cost = drill(&world, "kill -9: the nearest edge (anycast)", ANYCAST, || {
        kill_all(&world, "edge", "us-east");
        for_seconds(3);
        world.revive("edge", "us-east");
    });
    // Whoever was connected to it; everybody else is led to the next one.
    cost.assert_none_but(&["broken", "failed"]);
    assert!(cost.count("failed") <= 12, "{:#}", cost.report["causes"]);
    assert!(cost.report["longest_unserved_ms"].as_f64().unwrap() <= 2_000.0);
}

#[test]
fn each_kind_of_process_may_hang() {
    let world = World::start(THREE);
    let freeze = |role, region| {
        let frozen = world.freeze(role, region);
        for_seconds(10);
        drop(frozen);
    };

    let cost = drill(&world, "SIGSTOP 10 s: a region's engines", EVERYWHERE, || freeze("engine", "us-east"));
    cost.assert_none_but(&[]);

    let cost =
        drill(&world, "SIGSTOP 10 s: a region's agent", EVERYWHERE, || freeze("region-agent", "eu-west"));
    cost.assert_none_but(&[]);

    let leader = world.leader().unwrap();
    let cost = drill(&world, "SIGSTOP 10 s: the control plane's leader", EVERYWHERE, || {
        freeze("control-plane", &leader);
    });
    cost.assert_none_but(&[]);

    let cost =
        drill(&world, "SIGSTOP 10 s: the nearest edge (anycast)", ANYCAST, || freeze("edge", "us-east"));
    // Nobody tells a client that its edge hangs; it goes on when the edge does.
    cost.assert_none_but(&[]);
    assert!(cost.report["longest_unserved_ms"].as_f64().unwrap() <= 3_000.0);
}

#[test]
fn links_may_be_cut() {
    let world = World::start(THREE);
    let links = [["us-east", "eu-west"], ["us-east", "ap-south"], ["eu-west", "ap-south"]];
    for [a, b] in links {
        let cost = drill(&world, &format!("cut: {a} - {b}, each way and both"), EVERYWHERE, || {
            for cut in [
                &[a, b, "--partition", "--one-way"][..],
                &[b, a, "--partition", "--one-way"],
                &[a, b, "--partition"],
            ] {
                world.link(cut);
                for_seconds(2);
                world.link(&["--heal"]);
            }
        });
        cost.assert_none_but(&[]);
    }

    for region in ["ap-south", "us-east"] {
        let served_by_own = world.agent_metric(
            REGIONS.iter().position(|known| *known == region).unwrap(),
            "rhumb_agent_requests_total",
            "",
        );
        let cost = drill(&world, &format!("cut: {region} off from all others, 6 s"), EVERYWHERE, || {
            world.link(&[region, "--partition"]);
            for_seconds(6);
            world.link(&[region, "--heal"]);
        });
        cost.assert_none_but(&[]);
        let at = REGIONS.iter().position(|known| *known == region).unwrap();
        assert!(world.agent_metric(at, "rhumb_agent_requests_total", "") > served_by_own);
    }

    let cost = drill(&world, "cut: a region off whose engines are dead too", EVERYWHERE, || {
        kill_all(&world, "region-agent", "ap-south");
        for_seconds(2);
        world.link(&["us-east", "ap-south", "--partition"]);
        for_seconds(4);
        world.link(&["--heal"]);
        world.revive("region-agent", "ap-south");
    });
    cost.assert_none_but(&[]);
}

#[test]
fn much_may_die_at_once() {
    let world = World::start(THREE);

    let cost = drill(&world, "kill -9: two of three voters", EVERYWHERE, || {
        for region in ["us-east", "eu-west"] {
            kill_all(&world, "control-plane", region);
        }
        for_seconds(5);
        for region in ["us-east", "eu-west"] {
            world.revive("control-plane", region);
        }
    });
    cost.assert_none_but(&[]);

    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut parts: Vec<(&str, &str)> = REGIONS
        .iter()
        .flat_map(|region| ["control-plane", "region-agent", "edge"].map(|role| (role, *region)))
        .collect();
    let cost = drill(&world, "kill -9: everything, back in random order", ANYCAST, || {
        for (role, region) in &parts {
            kill_all(&world, role, region);
        }
        dice.shuffle(&mut parts);
        // None waits for the one before: an edge may come back first, and nobody is there to serve it yet.
        let begin = |(role, region): &(&str, &str)| {
            let mut command = world.command(&["sandbox", "start", role, region]);
            command.stderr(Stdio::piped()).spawn().unwrap()
        };
        let begun: Vec<Child> = parts.iter().map(begin).collect();
        for (child, part) in begun.into_iter().zip(&parts) {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{part:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    });
    assert!(cost.count("served") > 0);
    let created = world.run(&["tenant", "create", "after-all"]);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
}
