//! Lets the known worlds happen, prints what came of each, and writes pictures.
//!
//! `cargo run -p rhumb-chaos --example simulate -- FOLDER [TRACE]`

#![allow(clippy::print_stdout, reason = "its output is a table")]

use anyhow::{Context as _, anyhow};
use chaos::simulate::arrivals::{ideal_hits, read_trace};
use chaos::simulate::{Arrivals, Fault, Plan, Settings, Tally, plot, run};
use std::fs;
use std::path::Path;
use std::time::Duration;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or_else(|| anyhow!("name a folder for the pictures"))?;
    let folder = Path::new(&folder);
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    println!(
        "{:<34} {:>8} {:>7} {:>17} {:>7} {:>8} {:>8} {:>9} {:>7}",
        "world", "arrived", "failed", "shed b/s/i", "resumes", "ttft p50", "ttft p99", "goodput %", "gap max"
    );
    for (name, plan) in worlds() {
        let tally = run(&plan);
        println!("{}", row(name, &plan, &tally));
        for (cause, count) in tally.causes() {
            println!("    {count} failed: {cause}");
        }
        let words: Vec<&str> =
            name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let path = folder.join(format!("{}.svg", words.join("-")));
        fs::write(&path, plot::svg(name, &plan, &tally))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    match arguments.next() {
        Some(trace) => hits(Path::new(&trace)),
        None => Ok(()),
    }
}

fn worlds() -> Vec<(&'static str, Plan)> {
    let world = |percent| Plan::three_regions(1, percent);
    let dies = Fault::RegionDies { region: 0 };
    let returns = Fault::RegionReturns { region: 0 };
    let without = |mut plan: Plan, change: fn(&mut Settings)| {
        change(&mut plan.settings);
        plan
    };
    let flaps = |plan: Plan| {
        (2..22).fold(plan, |plan, turn| {
            let fault = match turn % 2 {
                0 => Fault::NodeDies { region: 0, node: 0 },
                _ => Fault::NodeReturns { region: 0, node: 0 },
            };
            plan.with(turn * 10, fault)
        })
    };
    vec![
        ("quiet 50%", world(50)),
        ("region dies 50%", world(50).with(60, dies)),
        ("region dies 50%, no resume", without(world(50).with(60, dies), |settings| settings.resume = false)),
        ("region dies 50%, no pacing", without(world(50).with(60, dies), |settings| settings.pace = false)),
        ("region dies 75%", world(75).with(60, dies)),
        ("region dies and returns 60%", world(60).with(40, dies).with(80, returns)),
        ("node slow 10 times 60%", world(60).with(60, Fault::NodeSlow { region: 0, node: 0, times: 10 })),
        ("node flaps 60%", flaps(world(60))),
        ("signals stop 60%", world(60).with(60, Fault::Signals { stopped: true })),
        ("one way silent 60%", world(60).with(60, Fault::OneWay { edge: 1, region: 0, silent: true })),
    ]
}

fn row(name: &str, plan: &Plan, tally: &Tally) -> String {
    let seconds = tally.seconds.len() - 1;
    let [batch, standard, interactive] = tally.shed();
    let capacity = plan.capacity(0..plan.regions.len());
    format!(
        "{name:<34} {:>8} {:>7} {:>17} {:>7} {:>5} ms {:>5} ms {:>9.1} {:>4} ms",
        tally.arrived(),
        tally.failed(),
        format!("{batch}/{standard}/{interactive}"),
        tally.resumes,
        tally.first_token(50, 0..seconds).as_millis(),
        tally.first_token(99, 0..seconds).as_millis(),
        100.0 * tally.goodput(90..seconds) / capacity,
        tally.gap_max.as_millis(),
    )
}

/// Prefix hits on a trace, against what a cache of no end in one place would give.
fn hits(trace: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(trace).with_context(|| format!("reading {}", trace.display()))?;
    let trace = read_trace(&text)?;
    println!("\nideal hits {:.1} %", 100.0 * ideal_hits(&trace));
    let half = trace.last().map_or(0, |line| line.timestamp / 2000);
    for regions in [1, 3] {
        for blocks in [3_000, 20_000] {
            for (name, affinity, fault) in [
                ("affinity", true, None),
                ("affinity, edges restart", true, Some(Fault::EdgeRestarts { region: 0 })),
                ("affinity, node lost", true, Some(Fault::NodeDies { region: 0, node: 0 })),
                ("no affinity", false, None),
            ] {
                let mut plan = Plan::three_regions(1, 0);
                plan.regions.truncate(regions);
                plan.regions.iter_mut().for_each(|region| region.nodes = 9 / regions);
                plan.arrivals = Arrivals::Trace(trace.clone());
                plan.lasts = Duration::from_secs(2 * half + 1);
                plan.node.cache_blocks = blocks;
                plan.settings.affinity = affinity;
                plan.faults.extend(fault.map(|fault| (Duration::from_secs(half), fault)));
                let tally = run(&plan);
                println!(
                    "{regions} regions, cache of {blocks} blocks, {name:<24} {:>5.1} % hits, {} failed, shed {:?}, ttft p50 {} ms, p99 {} ms",
                    100.0 * tally.hit_rate(),
                    tally.failed(),
                    tally.shed(),
                    tally.first_token(50, 0..tally.seconds.len()).as_millis(),
                    tally.first_token(99, 0..tally.seconds.len()).as_millis(),
                );
            }
        }
    }
    Ok(())
}
