//! How writes change the tables.

use crate::world::{World, delete, drain, id, key, put, tenant};
use state::{Command, Event, Outcome, plan};
use types::UnixMs;
use types::intent::{ClientId, Expect, Incarnation, Reason, Resource, Revision, Write};

fn write(client: u8, sequence: u64, resource: Resource) -> Command {
    let changes = vec![put(Expect::Anything, resource)];
    Command::Write(Write { client: ClientId([client; 16]), sequence, changes, expects_shrink: false })
}

#[test]
fn a_cluster_is_founded_once() {
    let mut world = World::new();
    let again = Command::Found { cluster: "c2".to_owned(), incarnation: Incarnation(8) };
    let before = world.state.clone();
    assert_eq!(world.apply(again), Outcome::Founded);
    assert_eq!(world.state, before);
    assert_eq!(world.state.cluster(), Some("c1"));
}

#[test]
fn the_revision_is_the_index_of_the_last_change() {
    let mut world = World::new();
    let revision = world.put(vec![tenant("beta")]).unwrap();
    assert_eq!(revision, Revision(world.index));
    world.put(vec![key(9, "nobody")]).unwrap_err();
    assert_eq!(world.state.position().revision, revision, "a refused write is no revision");
    assert_eq!(world.state.get(&id("tenant/beta")).unwrap().revision, revision);
}

#[test]
fn a_write_is_done_exactly_once() {
    let mut world = World::new();
    let Outcome::Written(first) = world.apply(write(2, 1, tenant("beta"))) else { panic!() };
    world.delete("tenant/beta").unwrap();
    let before = world.state.clone();
    assert_eq!(world.apply(write(2, 1, tenant("beta"))), Outcome::Repeated(first.revision));
    assert_eq!(world.state, before, "the tenant does not come back");
    assert!(matches!(world.apply(write(2, 2, tenant("beta"))), Outcome::Written(_)));
    let Outcome::Refused(faults) = world.apply(write(2, 1, tenant("gamma"))) else { panic!() };
    assert_eq!(faults[0].reason, Reason::OldSequence { last: 2 });
}

#[test]
fn a_change_meets_what_it_expects_or_changes_nothing() {
    let mut world = World::new();
    let acme = world.state.get(&id("tenant/acme")).unwrap().revision;
    let stale = Expect::Revision(Revision(acme.0 - 1));
    let cases = [
        (put(Expect::Absent, tenant("acme")), Some(Reason::Exists)),
        (put(Expect::Revision(acme), tenant("beta")), Some(Reason::NotFound)),
        (put(stale, tenant("acme")), Some(Reason::Stale { expected: Revision(acme.0 - 1), actual: acme })),
        (delete(Expect::Anything, "tenant/beta"), Some(Reason::NotFound)),
        (delete(stale, "drain/us-east"), Some(Reason::NotFound)),
        (put(Expect::Absent, tenant("beta")), None),
        (put(Expect::Revision(acme), tenant("acme")), None),
    ];
    for (change, reason) in cases {
        let before = world.state.clone();
        let refused = world.write(vec![change.clone()]).err();
        assert_eq!(refused.as_ref().map(|faults| &faults[0].reason), reason.as_ref(), "{change:?}");
        if refused.is_some() {
            assert_eq!(world.state, before);
        }
    }
}

#[test]
fn what_is_put_again_unchanged_is_no_event() {
    let mut world = World::new();
    let made = world.state.get(&id("tenant/acme")).unwrap().clone();
    let Outcome::Written(written) = world.apply(write(3, 1, tenant("acme"))) else { panic!() };
    assert_eq!(written.events, []);
    assert_eq!(world.state.get(&id("tenant/acme")), Some(&made));

    let Resource::Tenant(mut changed) = tenant("acme") else { panic!() };
    changed.requests_per_minute = Some(5);
    let Outcome::Written(written) = world.apply(write(3, 2, Resource::Tenant(changed))) else { panic!() };
    let [Event::Put(stored)] = &written.events[..] else { panic!("{written:?}") };
    assert_eq!(stored.created_unix_ms, made.created_unix_ms, "it is as old as before");
    assert_eq!(stored.revision, written.revision);
}

#[test]
fn drains_are_lifted_when_their_time_is_over() {
    let mut world = World::new();
    world.put(vec![drain("us-east", Some(5_000)), drain("eu-west/n1", None)]).unwrap();
    assert_eq!(plan::lift_drains(&world.state, UnixMs(4_999)), []);
    let lifts = plan::lift_drains(&world.state, UnixMs(5_000));
    assert_eq!(lifts.len(), 1);
    // An operator was faster and made it longer.
    world.put(vec![drain("us-east", Some(9_000))]).unwrap();
    assert!(matches!(world.write(lifts).unwrap_err()[0].reason, Reason::Stale { .. }));
    let lifts = plan::lift_drains(&world.state, UnixMs(9_000));
    world.write(lifts).unwrap();
    assert!(world.state.get(&id("drain/us-east")).is_none());
    assert!(world.state.get(&id("drain/eu-west/n1")).is_some());
}
