//! `rhumb load` against a world: its numbers are the truth, also when things break under it.

use crate::world::{World, eventually, interrupt, rhumb};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The default number of tokens of an answer, which `ignore_eos` makes exact.
const OUTPUT_TOKENS: u64 = 32;

#[test]
fn a_load_is_measured_as_it_was() {
    let world = World::start(&["--regions", "us-east"]);
    what_is_offered_is_served_and_counted(&world);
    one_seed_is_one_load(&world);
    prompts_have_the_tokens_that_a_trace_says(&world);
    refusals_are_told_apart(&world);
    a_load_that_is_ended_early_tells_what_it_did(&world);
    wrong_words_are_refused(&world);
    nothing_that_breaks_counts_as_served(&world);
}

fn load(world: &World, arguments: &[&str]) -> Output {
    world.run(&[&["load"], arguments].concat())
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(output)))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn count(report: &Value, name: &str) -> u64 {
    report["requests"][name].as_u64().unwrap_or_else(|| panic!("{name}: {report}"))
}

fn assert_adds_up(report: &Value) {
    let outcomes = ["served", "refused", "failed", "broken", "not_sent", "abandoned"];
    let sum: u64 = outcomes.iter().map(|name| count(report, name)).sum();
    assert_eq!(count(report, "scheduled"), sum, "{report}");
    let causes = report["causes"].as_array().unwrap().iter();
    let caused: u64 = causes.map(|cause| cause["count"].as_u64().unwrap()).sum();
    let unserved = count(report, "refused") + count(report, "failed") + count(report, "broken");
    assert_eq!(caused, unserved, "{report}");
}

fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn what_is_offered_is_served_and_counted(world: &World) {
    let before = world.edge_metric(0, "rhumb_edge_requests_total", "");
    let output = load(world, &["--rate", "20", "--duration", "3s", "--json", "--fail-on-error"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report = json(&output);
    assert_adds_up(&report);
    let served = count(&report, "served");
    assert_eq!(served, count(&report, "scheduled"), "{report}");
    assert!((25..110).contains(&served), "60 were to be expected: {report}");
    assert_eq!(report["output_tokens"], served * OUTPUT_TOKENS);
    assert_eq!(
        (&report["ttft_ms"]["count"], &report["end_to_end_ms"]["count"]),
        (&served.into(), &served.into())
    );
    // An edge may count a request a moment after its client has read it.
    eventually("the edge counts the same", Duration::from_secs(10), || {
        world.edge_metric(0, "rhumb_edge_requests_total", "") - before == served as f64
    });
}

fn one_seed_is_one_load(world: &World) {
    let run = || {
        let options = ["--rate", "30", "--duration", "1s", "--seed", "7", "--output-tokens", "2", "--json"];
        let report = json(&load(world, &options));
        (count(&report, "scheduled"), report["prompt_tokens"].clone(), report["seed"].clone())
    };
    let first = run();
    assert_eq!(first, run());
    assert_eq!(first.2, 7);
}

fn prompts_have_the_tokens_that_a_trace_says(world: &World) {
    let (trace, record) = (world.data().join("trace.csv"), world.data().join("record.jsonl"));
    let rows = "2024-01-01 00:00:00,20,3\n2024-01-01 00:00:00.2,137,4\n2024-01-01 00:00:00.4,9000,5\n";
    std::fs::write(&trace, format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")).unwrap();
    let [trace, record_name] = [&trace, &record].map(|path| path.to_str().unwrap());
    let options = ["--trace", trace, "--record", record_name, "--region", "us-east", "--json"];
    let report = json(&load(world, &options));
    assert_eq!((count(&report, "served"), &report["clipped"]["prompts"]), (3, &1.into()), "{report}");
    let mut tokens: Vec<(u64, u64)> = records(&record)
        .iter()
        .map(|line| (line["prompt_tokens"].as_u64().unwrap(), line["output_tokens"].as_u64().unwrap()))
        .collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [(20, 3), (137, 4), (512, 5)]);
    assert!(
        records(&record).iter().all(|line| line["region"] == "us-east" && line["request_id"].is_string())
    );
    assert_eq!(report["regions"][0]["requests"], report["requests"]);
}

fn refusals_are_told_apart(world: &World) {
    let key = format!("{}{}", &world.key()[..20], "0".repeat(43));
    let output = load(world, &["--rate", "20", "--duration", "1s", "--key", &key, "--fail-on-error"]);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("refused  401     invalid_api_key"), "{table}");
    assert!(stderr(&output).contains("rhumb key create"), "{}", stderr(&output));
}

fn a_load_that_is_ended_early_tells_what_it_did(world: &World) {
    let child = start(world, &["--rate", "20", "--duration", "10m"]);
    eventually("requests run", Duration::from_secs(10), || {
        world.edge_metric(0, "rhumb_edge_requests_in_flight", "") > 3.0
    });
    interrupt(child.id() as i32);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report = json(&output);
    assert_adds_up(&report);
    assert!(report["interrupted"] == true && count(&report, "abandoned") > 0, "{report}");
}

fn wrong_words_are_refused(world: &World) {
    let refused = |arguments: &[&str], code: i32, word: &str| {
        let output = load(world, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(word), "{arguments:?}: {}", stderr(&output));
    };
    refused(&["--region", "mars"], 2, "us-east");
    refused(&["--rate", "0"], 2, "above 0");
    refused(&["--rate", "-1"], 2, "above 0");
    refused(&["--rate", "1e9"], 2, "above 0");
    refused(&["--duration", "0"], 2, "longer than nothing");
    let trace = world.data().join("bad.csv");
    let name = trace.to_str().unwrap();
    refused(&["--trace", name], 1, "cannot open");
    std::fs::write(&trace, "").unwrap();
    refused(&["--trace", name], 1, "no arrivals");
    std::fs::write(&trace, "TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1\n").unwrap();
    refused(&["--trace", name], 1, "bad.csv:2: TIMESTAMP");
    let nowhere = tempfile::tempdir().unwrap();
    let output = rhumb(&["load"]).arg("--data").arg(nowhere.path()).output().unwrap();
    assert!(stderr(&output).contains("rhumb up"), "{}", stderr(&output));
}

fn nothing_that_breaks_counts_as_served(world: &World) {
    let record = world.data().join("broken.jsonl");
    let child = start(world, &["--rate", "20", "--duration", "3s", "--record", record.to_str().unwrap()]);
    let engines = world.pids("engine", world.region(0));
    eventually("streams run", Duration::from_secs(10), || {
        world.edge_metric(0, "rhumb_edge_requests_in_flight", "") > 5.0
    });
    engines.into_iter().for_each(crate::world::kill);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "without --fail-on-error: {}", stderr(&output));
    let report = json(&output);
    assert_adds_up(&report);
    assert!(count(&report, "broken") > 0, "the kill came too late to matter: {report}");
    let lines = records(&record);
    assert_eq!(lines.len() as u64, count(&report, "scheduled"));
    for line in lines {
        let tokens = line["output_tokens"].as_u64().unwrap();
        match line["outcome"].as_str().unwrap() {
            "served" => assert_eq!(tokens, OUTPUT_TOKENS, "served in part: {line}"),
            "broken" => assert!(tokens > 0 && line["code"].is_string(), "{line}"),
            _ => assert!(tokens == 0 && line["code"].is_string(), "{line}"),
        }
    }
}

fn start(world: &World, arguments: &[&str]) -> Child {
    let mut command: Command = rhumb(&["load", "--json"]);
    command.args(arguments).arg("--data").arg(world.data());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}
