//! Whatever is written, the tables hold together, and every member gets the same ones.

use crate::world::{
    World, delete, deployment, drain, key, model, node, policy, put, region, tenant, version, zone,
};
use proptest::prelude::*;
use state::{Record, State, references};
use types::intent::{Change, Expect, Resource};

fn any_resource() -> impl Strategy<Value = Resource> {
    let region_name = prop::sample::select(vec!["us-east", "eu-west", "ap-south"]);
    let tenant_name = prop::sample::select(vec!["acme", "beta"]);
    let model_name = prop::sample::select(vec!["house", "other"]);
    prop_oneof![
        region_name.clone().prop_map(region),
        region_name.clone().prop_map(zone),
        region_name.clone().prop_map(node),
        region_name.clone().prop_map(|name| policy("gold", Some(&[name]))),
        region_name.prop_map(|name| drain(name, None)),
        tenant_name.clone().prop_map(tenant),
        tenant_name.clone().prop_map(|name| {
            let Resource::Tenant(mut tenant) = tenant(name) else { unreachable!() };
            tenant.policy = Some("gold".parse().unwrap());
            Resource::Tenant(tenant)
        }),
        (1..4u8, tenant_name).prop_map(|(number, name)| key(number, name)),
        model_name.clone().prop_map(model),
        (1..3u8, model_name.clone()).prop_map(|(number, name)| version(number, name)),
        (1..3u8, model_name).prop_map(|(number, name)| deployment(name, number)),
    ]
}

fn any_change() -> impl Strategy<Value = Change> {
    let expect = prop_oneof![3 => Just(Expect::Anything), 1 => Just(Expect::Absent)];
    (any_resource(), any::<bool>(), expect).prop_map(|(resource, is_put, expect)| match is_put {
        true => put(expect, resource),
        false => delete(Expect::Anything, &resource.id().to_string()),
    })
}

fn holds_together(state: &State) {
    for stored in state.resources() {
        for reference in references::of(&stored.resource) {
            assert!(state.get(&reference.to).is_some(), "{reference:?} leads nowhere");
        }
        assert!(stored.revision <= state.position().revision);
    }
}

proptest! {
    #[test]
    fn no_name_leads_nowhere_and_a_copy_is_the_same(
        writes in prop::collection::vec(prop::collection::vec(any_change(), 1..6), 1..60)
    ) {
        let mut world = World::new();
        for changes in writes {
            let before = world.state.clone();
            let done = world.write(changes).is_ok();
            prop_assert!(done || world.state == before, "a refused write changed something");
            holds_together(&world.state);
        }
        let resources = world.state.resources().map(|stored| Record::Resource(stored.as_ref().clone()));
        let sessions = world.state.sessions().map(Record::Session);
        // In any order.
        let records: Vec<_> = sessions.chain(resources).collect();
        prop_assert_eq!(State::restore(world.state.head(), records.into_iter().rev()), world.state);
    }
}
