//! Servers without an agent: operators say what they serve and how much, and nobody tells their load.

use super::*;

#[test]
fn a_server_without_an_agent_gets_what_it_serves_and_no_more_than_its_slots() {
    let mut world = world();
    let server = OpenAiServer {
        base_url: "http://vllm:8000/v1".parse().unwrap(),
        models: vec!["m".parse().unwrap()],
        slots: 1,
        secret: None,
    };
    let node = key("eu-west/n1");
    world.table.nodes.get_mut(&node).unwrap().kind = NodeKind::OpenAi(server);
    world.follow();
    let europe = [region("eu-west")];
    let in_europe = Ask { regions: Some(&europe), ..ask() };
    assert_eq!(world.route(in_europe, 0, 0), Err(NoRoute::NotReady), "not one of its models");
    let model = Model { version: VERSION, former: None, created: UnixMs(0), waits: Waits::default() };
    world.table.models.insert("m".parse().unwrap(), model);
    world.follow();
    assert!(world.route(in_europe, 0, 0).is_ok());
    let held = world.health.begin(&node, COST, at(0));
    assert_eq!(world.route(in_europe, 0, 0), Err(NoRoute::Full));
    world.health.end(&node, held, Outcome::Served, at(0));
    assert!(world.route(in_europe, 0, 0).is_ok());
    let resume = Ask { purpose: Purpose::Resume, ..in_europe };
    assert_eq!(world.route(resume, 0, 0), Err(NoRoute::NotReady), "it knows only whole requests");
    let two = [region("eu-west"), region("ap-south")];
    assert_eq!(world.node(Ask { regions: Some(&two), ..resume }, 0, 0), "ap-south/n1");
    // Agents queue by themselves.
    let _busy: Vec<_> = (0..100).map(|_| world.health.begin(&key("us-east/n1"), COST, at(0))).collect();
    let home = [region("us-east")];
    assert!(world.route(Ask { regions: Some(&home), ..ask() }, 0, 0).is_ok());
}

/// us-east has only servers without agents, of two slots each; eu-west has one agent.
fn world_of_servers() -> World {
    let mut world = World::of(table(&["us-east/n1", "us-east/n2", "eu-west/n1"]));
    let model = Model { version: VERSION, former: None, created: UnixMs(0), waits: Waits::default() };
    world.table.models.insert("m".parse().unwrap(), model);
    for node in ["us-east/n1", "us-east/n2"] {
        let server = OpenAiServer {
            base_url: "http://vllm:8000/v1".parse().unwrap(),
            models: vec!["m".parse().unwrap()],
            slots: 2,
            secret: None,
        };
        world.table.nodes.get_mut(&key(node)).unwrap().kind = NodeKind::OpenAi(server);
    }
    world.follow();
    world.health.catch_up(VERSION, at(0));
    world.hear_all(LoadFrame { slots: 2, ..frame() }, at(0));
    world
}

#[test]
fn a_full_region_is_not_lost() {
    let mut world = world_of_servers();
    let home = world.health.index.region(&world.here).unwrap();
    let fill = |world: &mut World| -> Vec<(NodeKey, crate::health::Held)> {
        ["us-east/n1", "us-east/n1", "us-east/n2", "us-east/n2"]
            .map(|node| (key(node), world.health.begin(&key(node), COST, at(1))))
            .into()
    };
    let held = fill(&mut world);
    assert_eq!(world.node(ask(), 1, 0), "eu-west/n1", "there is no room at home");
    assert!(!world.health.index.pools(VERSION)[home].is_lost_or_recovering(at(1)));
    for (node, held) in held {
        world.health.end(&node, held, Outcome::Served, at(1));
    }
    assert_eq!(world.health.index.pools(VERSION)[home].weight(at(1)), crate::slow_start::WHOLE);
    // One that is full and has fallen silent is lost like any other.
    let _held = fill(&mut world);
    ["us-east/n1", "us-east/n2"].iter().for_each(|node| world.silence(node));
    assert!(world.health.index.pools(VERSION)[home].is_lost_or_recovering(at(1)));
}

#[test]
fn a_server_that_tells_no_load_is_as_busy_as_this_edge_keeps_it_after_every_probe() {
    let mut world = world_of_servers();
    let mut held = world.health.begin(&key("us-east/n1"), COST, at(0));
    for probe in 1..4 {
        world.hear_all(LoadFrame { sequence: probe, slots: 2, ..frame() }, at(probe));
        for dice in 0..20 {
            assert_eq!(world.node(ask(), probe, dice), "us-east/n2");
        }
    }
    let load = |world: &World| {
        let node = world.health.node(&key("us-east/n1")).unwrap();
        let load = world.health.index.pools(VERSION)[node.region].member(node.place).unwrap().load;
        (load.outstanding, load.queued_tokens, load.slots)
    };
    assert_eq!(load(&world), (1, 100, 2));
    world.health.answer_begun(&key("us-east/n1"), &mut held, Duration::ZERO, at(4));
    assert_eq!(load(&world), (1, 0, 2));
    world.health.end(&key("us-east/n1"), held, Outcome::Served, at(4));
    assert_eq!(load(&world), (0, 0, 2));
}

#[test]
fn a_resume_passes_by_the_servers_beside_an_agent() {
    let mut world = world_of_servers();
    world.table.nodes.get_mut(&key("us-east/n2")).unwrap().kind = agent().kind;
    world.follow();
    world.hear_all(LoadFrame { sequence: 1, slots: 2, ..frame() }, at(0));
    let resume = Ask { purpose: Purpose::Resume, ..ask() };
    for dice in 0..50 {
        assert_eq!(world.node(resume, 0, dice), "us-east/n2");
    }
}
