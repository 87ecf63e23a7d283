//! What a subscriber is sent: the whole picture, or what has changed since. Pure.

use crate::interest::Interest;
use crate::parts::{PART_BYTES_MAX, PART_RESOURCES_MAX};
use prost::Message;
use proto::v1;
use raft::recent::Changed;
use state::{Event, State};
use std::collections::BTreeMap;
use std::sync::Arc;
use types::intent::{Kind, Position, ResourceId, Revision, Stored};

/// Everything that concerns a subscriber, as of one position.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) position: Position,
    pub(crate) shrink_revision: Revision,
    pub(crate) resources: Vec<Arc<Stored>>,
}

/// The first of a run of changes, as one step of a subscriber's picture.
#[derive(Debug, PartialEq)]
pub(crate) struct Step {
    /// How many changes it covers; at least one.
    pub(crate) covers: usize,
    pub(crate) revision: Revision,
    /// None where none of them concerns the subscriber.
    pub(crate) delta: Option<v1::Delta>,
}

/// None before the cluster was founded.
pub(crate) fn whole(state: &State, interest: &Interest) -> Option<Whole> {
    state.cluster()?;
    let of_kinds = interest.kinds.iter().flat_map(|kind| state.of_kind(*kind));
    let (shown, hidden): (Vec<_>, Vec<_>) = of_kinds.partition(|stored| interest.shows(&stored.resource));
    // Placed elsewhere by an operator, each at its revision: an older picture may hold them all.
    let moved = hidden.iter().filter(|stored| stored.resource.kind() == Kind::Deployment);
    let moved = moved.map(|stored| stored.revision).max().unwrap_or_default();
    Some(Whole {
        position: state.position(),
        shrink_revision: state.head().shrink_revision.max(moved),
        resources: shown.into_iter().cloned().collect(),
    })
}

/// Merges as many of the changes as make one update of a good size. Each is in it as a whole or not at all.
pub(crate) fn step(changes: &[Arc<Changed>], interest: &Interest) -> Option<Step> {
    let mut step = Step { covers: 0, revision: Revision::default(), delta: None };
    let mut events: BTreeMap<ResourceId, v1::Event> = BTreeMap::new();
    let (mut bytes, mut deletions, mut expects_shrink) = (0, 0, false);
    for changed in changes {
        let told: Vec<Event> = changed.events.iter().filter_map(|event| interest.told(event)).collect();
        let deleted = told.iter().filter(|event| matches!(event, Event::Delete(_))).count();
        let wire: Vec<_> = told.iter().map(|event| (id(event), to_wire(event))).collect();
        let size: usize = wire.iter().map(|(_, event)| event.encoded_len()).sum();
        let is_too_much = events.len() + wire.len() > PART_RESOURCES_MAX
            || bytes + size > PART_BYTES_MAX
            || deletions + deleted > MERGED_DELETIONS_MAX;
        if !events.is_empty() && !wire.is_empty() && is_too_much {
            break;
        }
        step.covers += 1;
        step.revision = changed.revision;
        if !wire.is_empty() {
            expects_shrink |= changed.expects_shrink;
        }
        (bytes, deletions) = (bytes + size, deletions + deleted);
        events.extend(wire);
    }
    if step.covers == 0 {
        return None;
    }
    // The state judges a loss against all there is. Of one region's share a write may take most, with right.
    expects_shrink |= interest.region.is_some() && deletions > MERGED_DELETIONS_MAX;
    if !events.is_empty() {
        step.delta = Some(v1::Delta { events: events.into_values().collect(), expects_shrink });
    }
    Some(step)
}

fn id(event: &Event) -> ResourceId {
    match event {
        Event::Put(stored) => stored.resource.id(),
        Event::Delete(id) => id.clone(),
    }
}

fn to_wire(event: &Event) -> v1::Event {
    let event = match event {
        Event::Put(stored) => v1::event::Event::Put(stored.as_ref().into()),
        Event::Delete(id) => v1::event::Event::Delete(id.to_string()),
    };
    v1::Event { event: Some(event) }
}

/// So few are never a large loss, whatever they are few of. Harmless writes merged must not look like a harmful one:
/// the subscriber would refuse them.
const MERGED_DELETIONS_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use state::{Command, Outcome, Stamped};
    use std::collections::BTreeSet;
    use types::UnixMs;
    use types::intent::{
        Change, ClientId, Deployment, EngineSettings, Expect, Incarnation, Model, Placement, Region,
        Resource, Tenant, Version, What, Write, is_large_loss,
    };

    fn interest(kinds: &[Kind], region: Option<&str>) -> Interest {
        Interest { kinds: kinds.iter().copied().collect(), region: region.map(|name| name.parse().unwrap()) }
    }

    fn tenant(name: &str, limit: u64) -> Resource {
        let name = name.parse().unwrap();
        Resource::Tenant(Tenant {
            name,
            policy: None,
            requests_per_minute: Some(limit),
            tokens_per_minute: None,
        })
    }

    fn put(revision: u64, resource: Resource) -> Arc<Changed> {
        let revision = Revision(revision);
        let stored = Stored { resource, revision, created_unix_ms: UnixMs(0) };
        Arc::new(Changed { revision, events: vec![Event::Put(Arc::new(stored))], expects_shrink: false })
    }

    fn delete(revision: u64, id: &str) -> Arc<Changed> {
        let events = vec![Event::Delete(id.parse().unwrap())];
        Arc::new(Changed { revision: Revision(revision), events, expects_shrink: false })
    }

    /// Each event as the id, with a minus where it is a deletion.
    fn texts(step: &Step) -> Vec<String> {
        let text = |event: &v1::Event| match event.event.as_ref().unwrap() {
            v1::event::Event::Put(stored) => {
                Stored::try_from(stored.clone()).unwrap().resource.id().to_string()
            }
            v1::event::Event::Delete(id) => format!("-{id}"),
        };
        step.delta.iter().flat_map(|delta| &delta.events).map(text).collect()
    }

    fn steps(mut changes: &[Arc<Changed>], interest: &Interest) -> Vec<(u64, Vec<String>)> {
        let mut all = Vec::new();
        while let Some(step) = step(changes, interest) {
            all.push((step.revision.0, texts(&step)));
            changes = &changes[step.covers..];
        }
        all
    }

    #[test]
    fn what_piled_up_is_one_update_of_the_last_words() {
        let changes = [
            put(5, tenant("a", 1)),
            put(6, tenant("b", 1)),
            delete(8, "tenant/b"),
            put(9, tenant("a", 2)),
            put(11, Resource::Model(Model::named("m".parse().unwrap()))),
        ];
        let tenants = interest(&[Kind::Tenant], None);
        assert_eq!(steps(&changes, &tenants), [(11, vec!["tenant/a".to_owned(), "-tenant/b".to_owned()])]);
        let delta = step(&changes, &tenants).unwrap().delta.unwrap();
        let Some(v1::event::Event::Put(stored)) = &delta.events[0].event else { panic!("{delta:?}") };
        assert_eq!(stored.revision, 9, "the last one counts");
        assert_eq!(
            steps(&changes, &interest(&[Kind::Node], None)),
            [(11, vec![])],
            "nothing of it concerns nodes"
        );
        assert_eq!(step(&[], &tenants), None);
    }

    #[test]
    fn harmless_deletions_merged_look_harmless() {
        assert!((0..1000).all(|of| !is_large_loss(MERGED_DELETIONS_MAX, of)));
        let changes: Vec<_> = (1..=7).map(|at| delete(at, &format!("tenant/t{at}"))).collect();
        let revisions: Vec<u64> =
            steps(&changes, &interest(&[Kind::Tenant], None)).iter().map(|(revision, _)| *revision).collect();
        assert_eq!(revisions, [3, 6, 7]);
    }

    #[test]
    fn a_large_write_goes_as_a_whole_and_a_large_pile_in_pieces() {
        let tenants = interest(&[Kind::Tenant], None);
        let events = |count: usize, of: &str| -> Vec<Event> {
            let names = (0..count).map(|at| tenant(&format!("{of}{at}"), 1));
            names.map(|tenant| put(0, tenant).events[0].clone()).collect()
        };
        let write = |revision, events| {
            Arc::new(Changed { revision: Revision(revision), events, expects_shrink: false })
        };
        let changes = [write(3, events(1000, "a")), write(4, events(300, "b")), write(5, events(300, "c"))];
        let sizes: Vec<(u64, usize)> =
            steps(&changes, &tenants).iter().map(|(revision, texts)| (*revision, texts.len())).collect();
        assert_eq!(sizes, [(3, 1000), (4, 300), (5, 300)]);
    }

    #[test]
    fn an_expected_shrink_is_told_to_whom_it_concerns() {
        let shrink =
            |changed: &Arc<Changed>| Arc::new(Changed { expects_shrink: true, ..changed.as_ref().clone() });
        let changes = [put(1, tenant("a", 1)), shrink(&delete(2, "tenant/b"))];
        assert!(step(&changes, &interest(&[Kind::Tenant], None)).unwrap().delta.unwrap().expects_shrink);
        let changes = [put(1, tenant("a", 1)), shrink(&delete(2, "model/m"))];
        assert!(!step(&changes, &interest(&[Kind::Tenant], None)).unwrap().delta.unwrap().expects_shrink);
    }

    fn deployment(number: u8, region: &str) -> Resource {
        Resource::Deployment(Deployment {
            model: format!("m{number}").parse().unwrap(),
            version: version(number),
            placements: vec![Placement { region: region.parse().unwrap(), replicas_per_node: 1 }],
            engine: EngineSettings::default(),
        })
    }

    fn version(number: u8) -> types::ModelVersion {
        format!("sha256:{}", format!("{number:02x}").repeat(32)).parse().unwrap()
    }

    fn world() -> State {
        let mut state = State::default();
        let found = Command::Found { cluster: "c1".into(), incarnation: Incarnation(9) };
        let _ = state.apply(1, &Stamped { at: UnixMs(1), command: found });
        state
    }

    fn write(state: &mut State, index: u64, resources: Vec<Resource>) -> Changed {
        let change = |resource| Change { expect: Expect::Anything, what: What::Put(resource) };
        let write = Write {
            client: ClientId([1; 16]),
            sequence: index,
            changes: resources.into_iter().map(change).collect(),
            expects_shrink: false,
        };
        match state.apply(index, &Stamped { at: UnixMs(index), command: Command::Write(write) }) {
            Outcome::Written(written) => {
                Changed { revision: written.revision, events: written.events, expects_shrink: false }
            }
            refused => panic!("{refused:?}"),
        }
    }

    #[test]
    fn deployments_moved_away_are_an_expected_loss_for_their_region() {
        let mut state = world();
        let region = |name: &str| {
            Resource::Region(Region { name: name.parse().unwrap(), latitude_e6: 0, longitude_e6: 0 })
        };
        let mut resources = vec![region("us-east"), region("eu-west")];
        for number in 0..10 {
            let model: types::ModelName = format!("m{number}").parse().unwrap();
            resources.push(Resource::Model(Model::named(model.clone())));
            let source = "file:///m".to_owned();
            resources.push(Resource::Version(Version { version: version(number), model, source }));
            resources.push(deployment(number, "us-east"));
        }
        let _ = write(&mut state, 5, resources);
        let here = interest(&[Kind::Deployment], Some("us-east"));
        assert_eq!(whole(&state, &here).unwrap().shrink_revision, Revision(0));
        let moved = write(&mut state, 6, (0..10).map(|number| deployment(number, "eu-west")).collect());
        let delta = step(&[Arc::new(moved)], &here).unwrap().delta.unwrap();
        assert_eq!((delta.events.len(), delta.expects_shrink), (10, true));
        let after = whole(&state, &here).unwrap();
        assert_eq!((after.resources.len(), after.shrink_revision), (0, Revision(6)));
        assert_eq!(whole(&state, &interest(&[Kind::Deployment], None)).unwrap().shrink_revision, Revision(0));
    }

    #[test]
    fn the_whole_and_the_steps_after_it_make_the_later_whole() {
        let mut state = world();
        let all = Interest { kinds: BTreeSet::from(Kind::ALL), region: None };
        let _ = write(&mut state, 3, vec![tenant("a", 1), tenant("b", 1)]);
        let before = whole(&state, &all).unwrap();
        let changes = [
            Arc::new(write(&mut state, 5, vec![tenant("c", 1)])),
            Arc::new(write(&mut state, 9, vec![tenant("a", 2)])),
        ];
        let mut picture: BTreeMap<ResourceId, Stored> =
            before.resources.iter().map(|stored| (stored.resource.id(), stored.as_ref().clone())).collect();
        let step = step(&changes, &all).unwrap();
        assert_eq!(step.revision, state.position().revision);
        for event in step.delta.unwrap().events {
            let Some(v1::event::Event::Put(stored)) = event.event else { panic!("nothing was deleted") };
            let stored = Stored::try_from(stored).unwrap();
            picture.insert(stored.resource.id(), stored);
        }
        let after = whole(&state, &all).unwrap();
        let expected: Vec<Stored> = after.resources.iter().map(|stored| stored.as_ref().clone()).collect();
        assert_eq!(picture.into_values().collect::<Vec<_>>(), expected);
        assert_eq!(whole(&State::default(), &all), None, "nothing is published before there is a cluster");
    }
}
