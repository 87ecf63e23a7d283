use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use types::intent::{Incarnation, Key, Position, Resume, Revision, Tenant};

const NOW: UnixMs = UnixMs(1_000);

type Resources = BTreeMap<ResourceId, Arc<Stored>>;

fn stored(resource: Resource) -> Arc<Stored> {
    Arc::new(Stored { resource, revision: Revision(1), created_unix_ms: UnixMs(0) })
}

fn api_key(number: u8) -> ApiKey {
    ApiKey::from_random([number; 10], [number; 32])
}

fn key(number: u8, tenant: &str) -> Key {
    let (id, hash) = (api_key(number).id(), api_key(number).hash());
    Key { id, tenant: tenant.parse().unwrap(), hash, expires_unix_ms: None, models: None }
}

fn tenant(name: &str, policy: Option<&str>) -> Arc<Stored> {
    stored(Resource::Tenant(Tenant {
        name: name.parse().unwrap(),
        policy: policy.map(|policy| policy.parse().unwrap()),
        requests_per_minute: None,
        tokens_per_minute: None,
    }))
}

fn policy(name: &str, region: Option<&str>) -> Arc<Stored> {
    stored(Resource::Policy(Policy {
        name: name.parse().unwrap(),
        regions: region.map(|region| vec![region.parse().unwrap()]),
        priority: Priority::Batch,
        resume: Resume::Exact,
    }))
}

fn picture(resources: &Resources) -> Picture {
    let position = Position { incarnation: Incarnation(1), revision: Revision(1) };
    Picture::new(position, Revision(0), resources.values().map(|stored| stored.as_ref().clone()))
}

/// Takes the resources as a whole, as from disk.
fn table(resources: impl IntoIterator<Item = Arc<Stored>>) -> (TenantTable, Resources) {
    let resources = resources.into_iter().map(|stored| (stored.resource.id(), stored)).collect();
    let table = TenantTable::default();
    table.take(&picture(&resources), Changed::Whole).unwrap();
    (table, resources)
}

fn apply(resources: &mut Resources, events: &[Event]) {
    for event in events {
        match event {
            Event::Put(stored) => drop(resources.insert(stored.resource.id(), stored.clone())),
            Event::Delete(id) => drop(resources.remove(id)),
        }
    }
}

#[test]
fn only_the_whole_key_opens() {
    let (table, _) = table([tenant("acme", None), stored(Resource::Key(key(1, "acme")))]);
    assert_eq!(table.owner(&api_key(1), NOW).unwrap().tenant.as_str(), "acme");
    let refused = |key: &ApiKey| table.owner(key, NOW).unwrap_err();
    assert_eq!(refused(&ApiKey::from_random([1; 10], [2; 32])), KeyRefused::Unknown, "another secret");
    assert_eq!(refused(&ApiKey::from_random([2; 10], [1; 32])), KeyRefused::Unknown, "another id");
    assert_eq!(TenantTable::default().owner(&api_key(1), NOW).unwrap_err(), KeyRefused::NoTable);
}

#[test]
fn a_key_opens_until_its_time_and_tells_strangers_nothing_after_it() {
    let expiring = Key { expires_unix_ms: Some(UnixMs(1_001)), ..key(1, "acme") };
    let (table, _) = table([tenant("acme", None), stored(Resource::Key(expiring))]);
    assert!(table.owner(&api_key(1), NOW).is_ok());
    assert_eq!(table.owner(&api_key(1), UnixMs(1_001)).unwrap_err(), KeyRefused::Expired);
    let guessed = ApiKey::from_random([1; 10], [2; 32]);
    assert_eq!(table.owner(&guessed, UnixMs(1_001)).unwrap_err(), KeyRefused::Unknown);
}

#[test]
fn a_scope_names_all_that_a_key_may_ask() {
    let scoped = Key { models: Some(vec!["small".parse().unwrap()]), ..key(1, "acme") };
    let silent = Key { models: Some(Vec::new()), ..key(2, "acme") };
    let keys = [scoped, silent, key(3, "acme")].map(|key| stored(Resource::Key(key)));
    let (table, _) = table(keys.into_iter().chain([tenant("acme", None)]));
    let may_ask = |number, model| table.owner(&api_key(number), NOW).unwrap().may_ask(model);
    assert_eq!([may_ask(1, "small"), may_ask(1, "large")], [true, false]);
    assert_eq!([may_ask(2, "small"), may_ask(3, "large")], [false, true]);
}

#[test]
fn a_policy_of_many_tenants_changes_for_all_of_them_and_not_for_requests_on_their_way() {
    let tenants = [tenant("acme", Some("gold")), tenant("other", Some("gold"))];
    let keys = [key(1, "acme"), key(2, "other")].map(|key| stored(Resource::Key(key)));
    let (table, mut resources) = table(tenants.into_iter().chain(keys).chain([policy("gold", None)]));
    let before = table.owner(&api_key(1), NOW).unwrap();
    let events = [Event::Put(policy("gold", Some("eu-west")))];
    apply(&mut resources, &events);
    table.take(&picture(&resources), Changed::These(&events)).unwrap();
    for number in [1, 2] {
        let known = table.owner(&api_key(number), NOW).unwrap();
        assert_eq!(known.regions().unwrap()[0].as_str(), "eu-west");
    }
    assert_eq!(before.regions(), None);
}

#[test]
fn what_a_tenant_holds_stays_counted_whatever_changes() {
    let (table, mut resources) = table([tenant("acme", None), stored(Resource::Key(key(1, "acme")))]);
    table.owner(&api_key(1), NOW).unwrap().entry.body_bytes.store(7, Relaxed);
    let events = [Event::Put(policy("gold", None)), Event::Put(tenant("acme", Some("gold")))];
    apply(&mut resources, &events);
    table.take(&picture(&resources), Changed::These(&events)).unwrap();
    table.take(&picture(&resources), Changed::Whole).unwrap();
    let known = table.owner(&api_key(1), NOW).unwrap();
    assert_eq!((known.priority(), known.entry.body_bytes.load(Relaxed)), (Priority::Batch, 7));
}

#[test]
fn a_picture_that_leads_nowhere_is_refused_and_the_one_before_stays() {
    let resources = [policy("gold", Some("eu-west")), tenant("acme", Some("gold"))];
    let (table, resources) = table(resources.into_iter().chain([stored(Resource::Key(key(1, "acme")))]));
    let refused = |event: Event| {
        let (mut changed, events) = (resources.clone(), [event]);
        apply(&mut changed, &events);
        let whole = table.take(&picture(&changed), Changed::Whole).unwrap_err();
        assert_eq!(table.take(&picture(&changed), Changed::These(&events)), Err(whole.clone()));
        whole.join("; ")
    };
    assert!(refused(Event::Put(stored(Resource::Key(key(2, "nobody"))))).contains("tenant/nobody"));
    assert!(refused(Event::Put(tenant("acme", Some("none")))).contains("policy/none"));
    // Without its policy the tenant's requests would go anywhere.
    let gold = ResourceId::Policy("gold".parse().unwrap());
    assert!(refused(Event::Delete(gold)).contains("tenant/acme names policy/gold"));
    assert_eq!(table.owner(&api_key(1), NOW).unwrap().regions().unwrap()[0].as_str(), "eu-west");
    assert_eq!(table.counts(), Counts { keys: 1, tenants: 1 });
}

fn any_event() -> impl Strategy<Value = Event> {
    let name = |of: &'static [&'static str]| prop::sample::select(of);
    const TENANTS: &[&str] = &["t1", "t2", "t3"];
    const POLICIES: &[&str] = &["p1", "p2"];
    prop_oneof![
        (0..5u8, name(TENANTS)).prop_map(|(number, of)| Event::Put(stored(Resource::Key(key(number, of))))),
        (0..5u8).prop_map(|number| Event::Delete(ResourceId::Key(api_key(number).id()))),
        (name(TENANTS), prop::option::of(name(POLICIES)))
            .prop_map(|(of, policy)| Event::Put(tenant(of, policy))),
        name(TENANTS).prop_map(|of| Event::Delete(ResourceId::Tenant(of.parse().unwrap()))),
        (name(POLICIES), prop::option::of(name(&["eu-west", "us-east"])))
            .prop_map(|(of, region)| Event::Put(policy(of, region))),
        name(POLICIES).prop_map(|of| Event::Delete(ResourceId::Policy(of.parse().unwrap()))),
    ]
}

proptest! {
    /// Whatever came in whatever order: in place and as a whole are one table, and refuse the same.
    #[test]
    fn a_table_changed_in_place_equals_one_made_as_a_whole(
        deltas in prop::collection::vec(prop::collection::vec(any_event(), 1..4), 1..40),
    ) {
        let (table, mut resources) = table([]);
        for mut events in deltas {
            // One delta touches each resource at most once.
            let mut seen = std::collections::BTreeSet::new();
            events.retain(|event| seen.insert(match event {
                Event::Put(stored) => stored.resource.id(),
                Event::Delete(id) => id.clone(),
            }));
            let mut after = resources.clone();
            apply(&mut after, &events);
            let whole = TenantTable::default();
            let is_good = whole.take(&picture(&after), Changed::Whole).is_ok();
            prop_assert_eq!(table.take(&picture(&after), Changed::These(&events)).is_ok(), is_good);
            if is_good {
                resources = after;
            } else {
                whole.take(&picture(&resources), Changed::Whole).unwrap();
            }
            let (in_place, whole) = (table.rows.read().unwrap(), whole.rows.read().unwrap());
            let (in_place, whole) = (in_place.as_ref().unwrap(), whole.as_ref().unwrap());
            prop_assert_eq!(&in_place.keys, &whole.keys);
            prop_assert_eq!(&in_place.policies, &whole.policies);
            let tenants = |rows: &Rows| -> BTreeMap<_, _> {
                rows.tenants.iter().map(|(name, row)| (name.clone(), row.stored.clone())).collect()
            };
            prop_assert_eq!(tenants(in_place), tenants(whole));
        }
    }
}
