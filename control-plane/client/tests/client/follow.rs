//! A consumer sees rising pictures without gaps, whatever members send.

use crate::member::{Watched, World, bookmark, delta, part, put, whole};
use client::{Patience, Standing};
use identity::CERTIFICATE_LIFE;
use proto::v1;
use std::time::Duration;

#[tokio::test]
async fn changes_follow_each_other_without_a_gap() {
    let world = World::new(CERTIFICATE_LIFE);
    let mut member = world.member(1).await;
    let mut watched = Watched::start(&world, &[&member]);
    let mut subscription = member.subscription().await;
    assert_eq!(subscription.subscribe.kinds, ["model"]);
    assert_eq!(subscription.resumes_at(), None);
    subscription.send(part(10, &["a"], None)).await;
    subscription.send(part(10, &["b"], Some(2))).await;
    watched.sees(10, &["a", "b"]).await;
    subscription.acked(10).await;
    assert_eq!(
        *watched.standing.borrow(),
        Standing { position: Some(crate::member::position(10)), is_live: true }
    );
    subscription.send(put(10, 12, "c")).await;
    watched.sees(12, &["a", "b", "c"]).await;
    subscription.acked(12).await;
    subscription.send(bookmark(12, 15)).await;
    subscription.acked(15).await;

    // A hole: what it led to is not believed, and the next subscription begins where we are.
    subscription.send(put(16, 17, "d")).await;
    subscription.left().await;
    let mut subscription = member.subscription().await;
    assert_eq!(subscription.resumes_at(), Some(15));
    subscription.send(put(15, 16, "d")).await;
    watched.sees(16, &["a", "b", "c", "d"]).await;
    subscription.acked(16).await;

    // A member that lags sends what was long ago.
    subscription.send(whole(11, &["a", "b"])).await;
    subscription.left().await;
    let mut subscription = member.subscription().await;
    assert_eq!(subscription.resumes_at(), Some(16));
    subscription.send(put(16, 18, "e")).await;
    watched.sees(18, &["a", "b", "c", "d", "e"]).await;
    subscription.acked(18).await;
    watched.stop().await;
}

#[tokio::test]
async fn what_a_consumer_refuses_is_undone_and_a_newer_whole_is_tried() {
    let world = World::new(CERTIFICATE_LIFE);
    let mut member = world.member(1).await;
    let mut watched = Watched::start(&world, &[&member]);
    let mut subscription = member.subscription().await;
    subscription.send(whole(10, &["a"])).await;
    subscription.acked(10).await;
    subscription.send(put(10, 11, "poison")).await;
    assert_eq!(subscription.nacked(11).await, "poison");
    assert_eq!(watched.standing.borrow().position, Some(crate::member::position(10)));
    drop(subscription);
    let mut subscription = member.subscription().await;
    assert_eq!(subscription.resumes_at(), Some(10));
    subscription.send(put(10, 11, "poison")).await;
    subscription.nacked(11).await;
    // Until there is something newer, nothing is asked for.
    subscription.send(bookmark(11, 11)).await;
    subscription.send(put(11, 12, "b")).await;
    // That one is tried as soon as its time has come, whether or not anything else is said.
    subscription.left().await;
    let mut subscription = member.subscription().await;
    assert_eq!(subscription.resumes_at(), None);
    subscription.send(whole(12, &["a", "b"])).await;
    subscription.acked(12).await;
    watched.sees(10, &["a"]).await;
    watched.sees(12, &["a", "b"]).await;
    watched.stop().await;
}

#[tokio::test]
async fn a_consumer_that_panics_has_refused_and_follows_on() {
    let world = World::new(CERTIFICATE_LIFE);
    let mut member = world.member(1).await;
    let mut watched = Watched::start(&world, &[&member]);
    let mut subscription = member.subscription().await;
    subscription.send(whole(10, &["a"])).await;
    subscription.acked(10).await;
    subscription.send(put(10, 11, "panic")).await;
    assert!(subscription.nacked(11).await.contains("panicked"));
    assert_eq!(watched.standing.borrow().position, Some(crate::member::position(10)));
    drop(subscription);
    let mut subscription = member.subscription().await;
    assert_eq!(subscription.resumes_at(), Some(10));
    subscription.send(put(10, 12, "b")).await;
    subscription.acked(12).await;
    watched.sees(10, &["a"]).await;
    watched.sees(12, &["a", "b"]).await;
    watched.stop().await;
}

/// It served for longer than what counts as a service, and then fell silent without closing anything.
#[tokio::test]
async fn the_nearest_is_not_asked_again_at_once_when_it_fell_silent() {
    let world = World::new(CERTIFICATE_LIFE);
    let (mut near, mut far) = (world.member(1).await, world.member(2).await);
    let patience = Patience { silence: Duration::from_millis(5_100), ..Patience::default() };
    let watched = Watched::start_with(&world, &[&near, &far], patience);
    let mut subscription = near.subscription().await;
    subscription.send(whole(10, &["a"])).await;
    subscription.acked(10).await;
    let next = tokio::select! {
        subscription = near.subscription() => Err(subscription),
        subscription = far.subscription() => Ok(subscription),
    };
    assert_eq!(next.ok().expect("another member is asked").resumes_at(), Some(10));
    watched.stop().await;
}

#[tokio::test]
async fn a_large_loss_and_foreign_history_are_refused() {
    let world = World::new(CERTIFICATE_LIFE);
    let mut member = world.member(1).await;
    let watched = Watched::start(&world, &[&member]);
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let mut subscription = member.subscription().await;
    subscription.send(whole(10, &names)).await;
    subscription.acked(10).await;
    let loss = names[..4].iter().map(|name| v1::event::Event::Delete(format!("model/{name}"))).collect();
    subscription.send(delta(10, 11, loss)).await;
    assert!(subscription.nacked(11).await.contains("4 of 10 model"));
    while !subscription.updates.is_closed() {
        let _ = subscription.updates.send(Ok(bookmark(11, 12))).await;
        tokio::task::yield_now().await;
    }
    let mut subscription = member.subscription().await;
    subscription.send(v1::Update { incarnation: 8, ..whole(12, &names) }).await;
    assert!(subscription.nacked(12).await.contains("incarnation"));
    // That member's word is not good, so that nothing newer needs to come before another is asked.
    subscription.left().await;
    let mut subscription = member.subscription().await;
    assert_eq!(subscription.resumes_at(), None);
    // Operators said at revision 11 that they expect it.
    let mut expected = whole(12, &names[4..]);
    if let Some(v1::update::Content::Snapshot(snapshot)) = &mut expected.content {
        snapshot.shrink_revision = 11;
    }
    subscription.send(expected).await;
    subscription.acked(12).await;
    watched.stop().await;
}

#[tokio::test]
async fn silent_dead_and_talkative_members_are_no_obstacle() {
    let world = World::new(CERTIFICATE_LIFE);
    let dead = world.member(1).await;
    dead_now(&dead).await;
    let (mut silent, mut good) = (world.member(2).await, world.member(3).await);
    let patience = Patience { silence: Duration::from_millis(500), ..Patience::default() };
    let mut watched = Watched::start_with(&world, &[&dead, &silent, &good], patience);
    let quiet = silent.subscription().await;
    let subscription = good.subscription().await;
    quiet.left().await;
    subscription.send(whole(1, &["a"])).await;
    watched.sees(1, &["a"]).await;
    // It never reads an ack, and is heard nevertheless.
    for revision in 2..2000 {
        subscription.send(put(revision - 1, revision, "a")).await;
    }
    for revision in 2..2000 {
        watched.sees(revision, &["a"]).await;
    }
    watched.stop().await;
}

/// Its address answers nobody from now on.
async fn dead_now(member: &crate::member::Member) {
    member.kill();
    while tokio::net::TcpStream::connect(member.address.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}
