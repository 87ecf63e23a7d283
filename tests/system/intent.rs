//! The control plane as its users see it: what is wanted is soon everywhere, and stays when it is gone.

use crate::world::{Answer, World, eventually};
use serde_json::Value;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";
const THREE: &[&str] = &["--regions", "us-east,eu-west,ap-south", "--step-time", "0ms"];

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn done(world: &World, arguments: &[&str]) -> Output {
    let output = world.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    output
}

fn refused(world: &World, arguments: &[&str]) -> String {
    let output = world.run(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stderr(&output));
    stderr(&output)
}

/// A key of a tenant, and its id.
fn new_key(world: &World, tenant: &str) -> (String, String) {
    let made = world.json(&["key", "create", "--tenant", tenant, "--json"]);
    (made["key"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned())
}

fn ask(world: &World, region: usize, key: &str) -> Answer {
    world.post_as(key, region, CHAT, &world.chat("Hello", r#","max_tokens":1"#))
}

fn status(world: &World) -> Value {
    world.json(&["status", "--json"])
}

#[test]
fn what_is_wanted_is_everywhere_and_outlives_its_control_plane() {
    let world = World::start(THREE);
    a_key_opens_every_edge_until_it_is_revoked(&world);
    a_drain_costs_no_request(&world);
    each_voter_may_die(&world);
    all_voters_may_die(&world);
}

fn a_key_opens_every_edge_until_it_is_revoked(world: &World) {
    done(world, &["tenant", "create", "acme"]);
    let (key, id) = new_key(world, "acme");
    for region in 0..3 {
        eventually("the key opens the edge", Duration::from_secs(2), || {
            ask(world, region, &key).status == 200
        });
    }
    done(world, &["key", "revoke", &id]);
    for region in 0..3 {
        eventually("the key is revoked", Duration::from_secs(2), || ask(world, region, &key).status == 401);
    }
}

fn a_drain_costs_no_request(world: &World) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = (0..3).map(|region| {
            let is_over = &is_over;
            scope.spawn(move || {
                let body = world.chat("Hello", r#","stream":true,"max_tokens":8,"ignore_eos":true"#);
                let mut served = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let stream = world.stream(region, CHAT, &body);
                    assert!(stream.is_complete(), "{stream:?}");
                    served += 1;
                }
                served
            })
        });
        let load: Vec<_> = load.collect();
        done(world, &["region", "drain", world.region(0), "--wait"]);
        eventually("the drain shows", Duration::from_secs(2), || {
            status(world)["regions"][0]["state"] == "drained"
        });
        let began = world.agent_metric(0, "rhumb_agent_requests_total", "");
        for _ in 0..5 {
            assert_eq!(ask(world, 0, world.key()).status, 200, "its edge goes on by other regions");
        }
        assert_eq!(world.agent_metric(0, "rhumb_agent_requests_total", ""), began, "nothing new runs there");
        done(world, &["region", "undrain", world.region(0)]);
        eventually("it gets requests again", Duration::from_secs(5), || {
            world.agent_metric(0, "rhumb_agent_requests_total", "") > began
        });
        is_over.store(true, Ordering::Relaxed);
        for load in load {
            assert!(load.join().unwrap() > 0);
        }
    });
}

fn each_voter_may_die(world: &World) {
    for region in 0..3 {
        let name = world.region(region).to_owned();
        world.kill("control-plane", &name);
        done(world, &["tenant", "create", &format!("while-{name}-is-away")]);
        assert_eq!(world.run(&["status"]).status.code(), Some(1), "a dead voter is a degraded world");
        done(world, &["sandbox", "start", "control-plane", &name]);
        eventually("the voter is back", Duration::from_secs(20), || world.run(&["status"]).status.success());
    }
    let tenants = String::from_utf8(done(world, &["tenant", "list"]).stdout).unwrap();
    assert_eq!(tenants.matches("-is-away").count(), 3, "{tenants}");
}

fn all_voters_may_die(world: &World) {
    let before = status(world);
    let regions: Vec<String> = (0..3).map(|region| world.region(region).to_owned()).collect();
    for region in &regions {
        world.kill("control-plane", region);
    }
    let message = refused(world, &["tenant", "create", "too-late"]);
    assert!(message.contains("no member of the control plane answers"), "{message}");
    world.kill("edge", &regions[1]);
    world.kill("region-agent", &regions[2]);
    for role in [("edge", &regions[1]), ("region-agent", &regions[2])] {
        done(world, &["sandbox", "start", role.0, role.1]);
    }
    eventually("an edge serves from its disk", Duration::from_secs(5), || {
        ask(world, 1, world.key()).status == 200
    });
    eventually("an agent starts its engines from its disk", Duration::from_secs(20), || {
        status(world)["regions"][2]["replicas"] == 2
    });
    for region in &regions {
        done(world, &["sandbox", "start", "control-plane", region]);
    }
    eventually("all is well again", Duration::from_secs(20), || world.run(&["status"]).status.success());
    let after = status(world);
    assert_eq!(after["incarnation"], before["incarnation"]);
    assert_eq!(after["revision"], before["revision"], "nothing was lost and nothing made up");
    let (key, _) = new_key(world, "default");
    for region in 0..3 {
        eventually("a change arrives again", Duration::from_secs(6), || {
            ask(world, region, &key).status == 200
        });
    }
}

#[test]
fn intent_is_kept_and_its_mistakes_are_named() {
    let mut world = World::start(&["--regions", "us-east", "--step-time", "0ms"]);
    mistakes_are_named(&world);
    what_is_got_can_be_applied(&world);
    let revision = status(&world)["revision"].clone();
    world.restart();
    assert_eq!(status(&world)["revision"], revision, "a restart of all changes nothing");
    a_voter_runs_once(&world);
    a_damaged_log_stops_its_voter(&world);
}

fn mistakes_are_named(world: &World) {
    let cases: &[(&[&str], &str)] = &[
        (&["tenant", "create", "default"], "tenant/default: is there already"),
        (&["tenant", "create", "t", "--regions", "mars"], "policy/t: regions[0]: there is no region/mars"),
        (&["key", "create", "--tenant", "nobody"], "tenant: there is no tenant/nobody"),
        (&["key", "revoke", "aaaaaaaaaaaaaaaa"], "key/aaaaaaaaaaaaaaaa: is not there"),
        (&["tenant", "delete", "default", "--yes"], "tenant/default: key/"),
        (&["region", "drain", "mars"], "there is no region/mars"),
    ];
    for (arguments, message) in cases {
        let said = refused(world, arguments);
        assert!(said.contains(message), "{arguments:?} said {said}");
    }
    for wrong in
        [&["tenant", "create", "ACME"][..], &["tenant", "create", "t", "--requests-per-minute", "many"]]
    {
        assert_eq!(world.run(wrong).status.code(), Some(2), "{wrong:?} is wrong usage");
    }
    let zero = refused(world, &["tenant", "create", "t", "--requests-per-minute", "0"]);
    assert!(zero.contains("tenant/t: requests_per_minute: 0 is not within 1 and"), "{zero}");
}

fn what_is_got_can_be_applied(world: &World) {
    let got = done(world, &["get"]);
    let file = world.data().join("intent.toml");
    std::fs::write(&file, &got.stdout).unwrap();
    let file = file.to_str().unwrap();
    let before = status(world)["revision"].clone();
    done(world, &["apply", "-f", file, "--yes"]);
    assert_eq!(status(world)["revision"], before, "what is so already changes nothing");
    let text = String::from_utf8(got.stdout).unwrap();
    std::fs::write(file, format!("{text}\n[[tenant]]\nname = \"beta\"\nrequests_per_minute = 7\n")).unwrap();
    let applied = done(world, &["apply", "-f", file, "--yes"]);
    let diff = String::from_utf8_lossy(&applied.stdout).into_owned() + &stderr(&applied);
    assert!(diff.contains("+ tenant/beta"), "{diff}");
    let limit = || world.json(&["tenant", "show", "beta", "--json"])["requests_per_minute"].clone();
    assert_eq!(limit(), 7);
    // Somebody else changes what the file has, which is of an older revision.
    let other = world.data().join("other.toml");
    std::fs::write(&other, "[[tenant]]\nname = \"beta\"\nrequests_per_minute = 9\n").unwrap();
    done(world, &["apply", "-f", other.to_str().unwrap(), "--yes"]);
    let overtaken = refused(world, &["apply", "-f", file, "--yes"]);
    assert!(overtaken.contains("tenant/beta: was changed at revision"), "{overtaken}");
    assert_eq!(limit(), 9);
}

fn a_voter_runs_once(world: &World) {
    let region = world.data().join("regions/us-east/control-plane/control-plane.toml");
    let second = crate::world::rhumb(&["control-plane", "--config"]).arg(region).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains("in use"), "{}", stderr(&second));
    assert!(world.run(&["status"]).status.success(), "the first goes on");
}

fn a_damaged_log_stops_its_voter(world: &World) {
    world.kill("control-plane", "us-east");
    let folder = world.data().join("regions/us-east/control-plane/data");
    let log = largest_file(&folder.join("log"));
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let config = world.data().join("regions/us-east/control-plane/control-plane.toml");
    let damaged = crate::world::rhumb(&["control-plane", "--config"]).arg(config).output().unwrap();
    assert_eq!(damaged.status.code(), Some(1));
    let said = stderr(&damaged);
    let name = log.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(name) && said.contains("damaged at byte"), "{said}");
    assert_eq!(ask(world, 0, world.key()).status, 200, "requests do not notice");
    let said = refused(world, &["sandbox", "start", "control-plane", "us-east"]);
    assert!(said.contains("ended while it started") && said.contains("damaged at byte"), "{said}");
}

fn largest_file(folder: &std::path::Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

#[test]
fn certificates_renew_themselves_under_a_running_stream() {
    let world = World::start(&["--regions", "us-east", "--step-time", "40ms", "--certificate-life", "10s"]);
    // 350 steps of 40 ms run for 14 s: longer than any certificate of the start lives.
    let long = r#","stream":true,"max_tokens":350,"ignore_eos":true"#;
    let stream = world.stream(0, CHAT, &world.chat("Hello", long));
    assert!(stream.is_complete(), "{:?}", stream.data.last());
    assert_eq!(ask(&world, 0, world.key()).status, 200);
    let (key, _) = new_key(&world, "default");
    eventually("the control plane is still heard", Duration::from_secs(3), || {
        ask(&world, 0, &key).status == 200
    });
}
