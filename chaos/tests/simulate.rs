//! What the edge's decisions promise, in simulated worlds. A world that breaks its promise prints its seed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it skips"
)]

use chaos::simulate::arrivals::{ideal_hits, invented_trace, read_trace};
use chaos::simulate::{Arrivals, Fault, Plan, Settings, Tally, run};
use std::time::Duration;

/// Any would do; one that once failed stays.
const SEEDS: [u64; 4] = [1, 2, 3, 4];

const REGION_DIES: Fault = Fault::RegionDies { region: 0 };

fn with(mut plan: Plan, change: impl Fn(&mut Settings)) -> Plan {
    change(&mut plan.settings);
    plan
}

#[test]
fn a_seed_is_a_world() {
    let plan = |seed| Plan::three_regions(seed, 60).with(60, REGION_DIES);
    let story = |seed| format!("{:?}", run(&plan(seed)));
    assert_eq!(story(1), story(1));
    assert_ne!(story(1), story(2));
}

#[test]
fn a_region_that_dies_at_half_load_costs_no_request() {
    for seed in SEEDS {
        let plan = Plan::three_regions(seed, 50).with(60, REGION_DIES);
        let tally = run(&plan);
        assert_eq!((tally.failed(), tally.shed()), (0, [0; 3]), "seed {seed}: {:?}", tally.causes());
        assert!(tally.resumes > 0, "seed {seed}");
        let without = run(&with(plan, |settings| settings.resume = false));
        assert!(without.failed() > 0, "seed {seed}: what it prevents");
    }
}

#[test]
fn a_region_that_dies_at_high_load_costs_the_lower_classes_and_no_capacity() {
    for seed in SEEDS {
        let plan = Plan::three_regions(seed, 75).with(60, REGION_DIES);
        let tally = run(&plan);
        let goodput = tally.goodput(75..240) / plan.capacity([1, 2]);
        assert!(goodput >= 0.95, "seed {seed}: {goodput:.3} of what the survivors can do");
        let failed = tally.sum(|second| second.failed);
        let [batch, standard, interactive] = tally.shed();
        assert!(interactive + failed[2] == 0, "seed {seed}: {:?}", tally.causes());
        assert!(batch > 10 * (standard + failed[1]), "seed {seed}: {batch} batch, {standard} standard");
    }
}

#[test]
fn a_region_that_returns_is_filled_slowly_and_nothing_swings() {
    for seed in SEEDS {
        let mut plan =
            Plan::three_regions(seed, 55).with(40, REGION_DIES).with(80, Fault::RegionReturns { region: 0 });
        plan.lasts = Duration::from_secs(480);
        let tally = run(&plan);
        assert_eq!((tally.failed(), tally.shed()), (0, [0; 3]), "seed {seed}: {:?}", tally.causes());
        let share = |from: usize| tally.share(0, from..from + 10);
        assert!(share(60) < 0.01, "seed {seed}");
        assert!(share(80) < 0.12, "seed {seed}: {:.2} in the first ten seconds", share(80));
        assert!(share(440) > 0.25, "seed {seed}: {:.2} in the end", share(440));
        for region in 0..3 {
            let turns = tally.turns(region, 80..480);
            assert!(turns <= 1, "seed {seed}: region {region} turned {turns} times");
        }
        let queued = tally.queued_max(0, 80..480);
        assert!(queued < 30, "seed {seed}: {queued} in line in the region that returned");
    }
}

#[test]
fn a_storm_of_resumes_is_paced() {
    let plan = |seed| Plan::long_answers(seed, 55).with(60, REGION_DIES);
    let late = |tally: &Tally| tally.first_token(95, 61..90);
    for seed in SEEDS {
        let paced = run(&plan(seed));
        let unpaced = run(&with(plan(seed), |settings| settings.pace = false));
        assert_eq!(paced.failed(), 0, "seed {seed}: {:?}", paced.causes());
        assert!(unpaced.failed() > 0, "seed {seed}: what it prevents");
        assert!(late(&paced) * 2 < late(&unpaced), "seed {seed}: {:?}, {:?}", late(&paced), late(&unpaced));
    }
}

#[test]
fn a_sick_node_that_looks_well_is_left_alone() {
    let plan =
        |seed| Plan::three_regions(seed, 40).with(30, Fault::NodeSick { region: 0, node: 0, sick: true });
    for seed in SEEDS {
        let tally = run(&plan(seed));
        assert_eq!(tally.failed(), 0, "seed {seed}: {:?}", tally.causes());
        let without = run(&with(plan(seed), |settings| settings.breakers = false));
        assert!(
            tally.retries * 10 < without.retries,
            "seed {seed}: {} lost attempts, {} without breakers",
            tally.retries,
            without.retries
        );
    }
}

#[test]
fn retries_do_not_triple_the_load_of_a_world_that_fails() {
    let sick = |seed| {
        let nodes =
            (0..3).flat_map(|region| (0..20).map(move |node| Fault::NodeSick { region, node, sick: true }));
        // Breakers apart: what they would hide is what is looked at.
        let mut plan = with(Plan::three_regions(seed, 50), |settings| settings.breakers = false);
        // So large that the retries which are free for small edges do not matter.
        plan.regions.iter_mut().for_each(|region| region.nodes = 20);
        plan.lasts = Duration::from_secs(30);
        nodes.fold(plan, |plan, fault| plan.with(0, fault))
    };
    for seed in SEEDS {
        let load = |tally: Tally| tally.attempts as f64 / tally.arrived() as f64;
        let bounded = load(run(&sick(seed)));
        let unbounded = load(run(&with(sick(seed), |settings| settings.retry_budget = false)));
        // A tenth of the tokens; short prompts fit in where long ones do not.
        assert!(bounded < 1.3, "seed {seed}: {bounded:.2} attempts for a request");
        assert!(unbounded > 2.9, "seed {seed}: {unbounded:.2}, what it prevents");
    }
}

#[test]
fn silence_of_all_signals_stops_nothing() {
    for seed in SEEDS {
        let tally = run(&Plan::three_regions(seed, 50).with(60, Fault::Signals { stopped: true }));
        assert_eq!((tally.failed(), tally.shed()), (0, [0; 3]), "seed {seed}: {:?}", tally.causes());
    }
}

#[test]
fn faults_of_single_nodes_and_links_cost_no_request() {
    let flaps = |plan: Plan| {
        (4..20).fold(plan, |plan, turn| match turn % 2 {
            0 => plan.with(turn * 10, Fault::NodeDies { region: 0, node: 0 }),
            _ => plan.with(turn * 10, Fault::NodeReturns { region: 0, node: 0 }),
        })
    };
    for seed in SEEDS {
        let world = || Plan::three_regions(seed, 50);
        for (name, plan) in [
            ("dies", world().with(60, Fault::NodeDies { region: 0, node: 0 })),
            ("flaps", flaps(world())),
            ("is slow", world().with(60, Fault::NodeSlow { region: 0, node: 0, times: 10 })),
            (
                "is not heard by one edge",
                world().with(60, Fault::OneWay { edge: 1, region: 0, silent: true }),
            ),
        ] {
            let tally = run(&plan);
            assert_eq!(
                (tally.failed(), tally.shed()),
                (0, [0; 3]),
                "{name}, seed {seed}: {:?}",
                tally.causes()
            );
        }
    }
}

fn trace_plan(lines: std::rc::Rc<[chaos::simulate::arrivals::Traced]>, nodes: usize) -> Plan {
    let mut plan = Plan::three_regions(1, 0);
    plan.regions.truncate(1);
    plan.regions[0].nodes = nodes;
    plan.lasts = Duration::from_millis(lines.last().unwrap().timestamp + 1_000);
    plan.arrivals = Arrivals::Trace(lines);
    plan.node.cache_blocks = 20_000;
    plan
}

/// Hits with affinity, without it, with edges that forget everything half-way, with a node lost half-way.
fn hits(plan: &Plan) -> [f64; 4] {
    let half = plan.lasts.as_secs() / 2;
    let rate = |plan: Plan| run(&plan).hit_rate();
    [
        rate(plan.clone()),
        rate(with(plan.clone(), |settings| settings.affinity = false)),
        rate(plan.clone().with(half, Fault::EdgeRestarts { region: 0 })),
        rate(plan.clone().with(half, Fault::NodeDies { region: 0, node: 0 })),
    ]
}

#[test]
fn conversations_return_to_what_holds_their_beginning() {
    let trace = invented_trace(1, 400);
    let ideal = ideal_hits(&trace);
    let [affinity, none, restarted, node_lost] = hits(&trace_plan(trace, 4));
    assert!(affinity > 0.9 * ideal, "{affinity:.3} of {ideal:.3}");
    assert!(none < 0.8 * affinity, "{none:.3} without");
    assert!(
        (restarted - affinity).abs() < 0.02,
        "{restarted:.3} after a restart: nothing is kept that could be lost"
    );
    assert!(node_lost > 0.8 * affinity, "{node_lost:.3} after a node's loss");
}

#[test]
fn a_recorded_trace_finds_its_beginnings() {
    let Ok(folder) = std::env::var("RHUMB_TRACES") else {
        eprintln!("SKIP: RHUMB_TRACES names no folder with mooncake_conversation.jsonl");
        return;
    };
    let path = std::path::Path::new(&folder).join("mooncake_conversation.jsonl");
    let trace = read_trace(&std::fs::read_to_string(path).unwrap()).unwrap();
    let ideal = ideal_hits(&trace);
    let rates = hits(&trace_plan(trace, 9));
    eprintln!("ideal {ideal:.3}, affinity, none, edge restarted, node lost: {rates:.3?}");
    let [affinity, none, restarted, node_lost] = rates;
    assert!(affinity > 0.85 * ideal && none < 0.7 * affinity);
    assert!((restarted - affinity).abs() < 0.02 && node_lost > 0.85 * affinity);
}
