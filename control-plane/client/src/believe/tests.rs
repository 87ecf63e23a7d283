use super::*;
use types::UnixMs;
use types::intent::{Resource, Tenant};
use v1::update::Content;

fn tenant(name: &str, revision: u64) -> Stored {
    let tenant = Tenant {
        name: name.parse().unwrap(),
        policy: None,
        requests_per_minute: None,
        tokens_per_minute: Some(revision),
    };
    Stored { resource: Resource::Tenant(tenant), revision: Revision(revision), created_unix_ms: UnixMs(1) }
}

fn picture(revision: u64, tenants: usize) -> Picture {
    let position = Position { incarnation: Incarnation(7), revision: Revision(revision) };
    Picture::new(position, Revision(0), (0..tenants).map(|at| tenant(&format!("t{at}"), revision)))
}

fn update(prev: u64, revision: u64, content: Content) -> v1::Update {
    v1::Update { incarnation: 7, prev_revision: prev, revision, content: Some(content) }
}

fn put(name: &str, revision: u64) -> v1::Event {
    v1::Event { event: Some(v1::event::Event::Put((&tenant(name, revision)).into())) }
}

fn delete(id: &str) -> v1::Event {
    v1::Event { event: Some(v1::event::Event::Delete(id.to_owned())) }
}

fn delta(events: Vec<v1::Event>) -> Content {
    Content::Delta(v1::Delta { events, expects_shrink: false })
}

fn part(of: &Picture, total: Option<u64>) -> Content {
    let resources = of.resources().map(|stored| stored.as_ref().into()).collect();
    Content::Snapshot(v1::Snapshot { resources, total, shrink_revision: 0 })
}

fn take(has: Option<&Picture>, update: v1::Update) -> Result<Taken, Refusal> {
    Intake::new(&[Kind::Tenant]).take(has, update)
}

#[test]
fn only_what_follows_is_taken() {
    let has = picture(10, 2);
    let gap = |follows| Err(Refusal::Gap { has: Revision(10), follows: Revision(follows) });
    let old = |got| Err(Refusal::NotNewer { has: Revision(10), got: Revision(got) });
    assert!(matches!(take(Some(&has), update(10, 12, delta(vec![put("a", 12)]))), Ok(Taken::These(_))));
    assert_eq!(take(Some(&has), update(11, 12, delta(vec![]))), gap(11));
    assert_eq!(take(Some(&has), update(9, 12, delta(vec![]))), gap(9));
    assert_eq!(take(Some(&has), update(10, 10, delta(vec![]))), old(10));
    assert_eq!(take(Some(&has), update(10, 9, delta(vec![]))), old(9));
    assert_eq!(take(Some(&has), update(10, 10, Content::Bookmark(true))), Ok(Taken::Same(Revision(10))));
    assert_eq!(take(Some(&has), update(10, 15, Content::Bookmark(true))), Ok(Taken::Same(Revision(15))));
    assert_eq!(take(Some(&has), update(9, 15, Content::Bookmark(true))), gap(9));
    assert_eq!(take(Some(&has), update(10, 9, Content::Bookmark(true))), old(9));
    assert_eq!(take(Some(&has), update(0, 9, part(&picture(9, 2), Some(2)))), old(9));
    assert_eq!(take(Some(&has), update(0, 10, part(&has, Some(2)))), Ok(Taken::Same(Revision(10))));
    assert!(matches!(take(None, update(0, 9, delta(vec![]))), Err(Refusal::Gap { .. })));
    let foreign = v1::Update { incarnation: 8, ..update(0, 20, part(&picture(20, 2), Some(2))) };
    assert!(matches!(take(Some(&has), foreign.clone()), Err(Refusal::Foreign { .. })));
    assert!(matches!(take(None, foreign), Ok(Taken::Whole(_))));
}

#[test]
fn a_snapshot_is_whole_or_nothing() {
    let whole = picture(10, 4);
    let half = |from: usize| {
        Picture::new(whole.position(), Revision(0), (from..from + 2).map(|at| tenant(&format!("t{at}"), 10)))
    };
    let mut intake = Intake::new(&[Kind::Tenant]);
    let mut send = |content, revision| intake.take(None, update(0, revision, content));
    assert_eq!(send(part(&half(0), None), 10), Ok(Taken::Part));
    assert_eq!(send(part(&half(2), Some(4)), 10), Ok(Taken::Whole(whole.clone())));
    // Each of these also shows that nothing of a refused one is left for the next.
    assert_eq!(send(part(&half(0), Some(4)), 10), Err(Refusal::Incomplete { total: 4, came: 2 }));
    assert_eq!(send(part(&half(0), None), 10), Ok(Taken::Part));
    assert_eq!(send(part(&half(2), Some(4)), 11), Err(Refusal::Torn));
    assert_eq!(send(part(&half(0), None), 10), Ok(Taken::Part));
    assert_eq!(send(Content::Bookmark(true), 10), Err(Refusal::Torn));
    assert_eq!(send(part(&half(0), None), 10), Ok(Taken::Part));
    assert!(matches!(send(part(&half(0), Some(4)), 10), Err(Refusal::Twice { .. })));
    let endless = (0..).find_map(|_| send(part(&picture(10, 0), None), 10).err());
    assert_eq!(endless, Some(Refusal::TooLarge));
    assert_eq!(send(part(&picture(10, 0), Some(0)), 10), Ok(Taken::Whole(picture(10, 0))));
}

#[test]
fn a_large_loss_needs_somebody_who_expects_it() {
    let has = picture(10, 10);
    let loss = |of| (0..of).map(|at| delete(&format!("tenant/t{at}"))).collect::<Vec<_>>();
    let shrink = Err(Refusal::Shrink { kind: Kind::Tenant, lost: 4, of: 10 });
    assert!(take(Some(&has), update(10, 11, delta(loss(3)))).is_ok());
    assert_eq!(take(Some(&has), update(10, 11, delta(loss(4)))), shrink);
    let expected = v1::Delta { events: loss(4), expects_shrink: true };
    assert!(take(Some(&has), update(10, 11, Content::Delta(expected))).is_ok());
    assert!(take(Some(&picture(10, 9)), update(10, 11, delta(loss(9)))).is_ok(), "few are no large loss");

    let snapshot = |shrink_revision| {
        let Content::Snapshot(part) = part(&picture(20, 6), Some(6)) else { unreachable!() };
        update(0, 20, Content::Snapshot(v1::Snapshot { shrink_revision, ..part }))
    };
    assert_eq!(take(Some(&has), snapshot(0)), shrink);
    assert_eq!(take(Some(&has), snapshot(10)), shrink, "that one is in what we have");
    assert!(take(Some(&has), snapshot(11)).is_ok());
}

#[test]
fn what_was_not_asked_for_or_makes_no_sense_is_refused() {
    let has = picture(10, 2);
    let send = |event| take(Some(&has), update(10, 11, delta(vec![event])));
    assert!(matches!(send(delete("key/aaaaaaaaaaaaaaaa")), Err(Refusal::NotAsked { .. })));
    assert!(matches!(send(delete("boss/acme")), Err(Refusal::Bad(_))));
    assert!(matches!(send(v1::Event { event: None }), Err(Refusal::Bad(_))));
    assert!(matches!(
        take(Some(&has), v1::Update { content: None, ..update(10, 11, delta(vec![])) }),
        Err(Refusal::Bad(_))
    ));
    let twice = delta(vec![put("t0", 11), delete("tenant/t0")]);
    assert!(matches!(take(Some(&has), update(10, 11, twice)), Err(Refusal::Twice { .. })));
    let Ok(Taken::These(advance)) = send(delete("tenant/unknown")) else { panic!("a filtered one may go") };
    assert_eq!(advance.events, []);
}

#[test]
fn undo_leads_back() {
    let mut picture = picture(10, 3);
    let before = picture.clone();
    let events = vec![put("t0", 11), delete("tenant/t1"), put("new", 11)];
    let content = Content::Delta(v1::Delta { events, expects_shrink: true });
    let Ok(Taken::These(advance)) = take(Some(&picture), update(10, 11, content)) else { panic!() };
    let undo = picture.apply(&advance);
    assert_eq!(picture.resources().count(), 3);
    assert_eq!((picture.position.revision, picture.shrink_revision), (Revision(11), Revision(11)));
    assert_ne!(picture, before);
    picture.undo(undo);
    assert_eq!(picture, before);
}
