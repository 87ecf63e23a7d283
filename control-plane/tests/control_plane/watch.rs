//! Intent on its way to subscribers.

use crate::subscriber::{Got, Subscriber, Wish, message, subscribe};
use crate::world::{World, delete, deployment, edge, eventually, model, name, put, region, tenant, version};
use identity::Role;
use proto::v1;
use proto::v1::subscriber_message::Message;
use std::collections::BTreeMap;
use tonic::Code;
use types::intent::{Resource, ResourceId, Stored};

fn wish(kinds: &[&'static str]) -> Wish {
    Wish { kinds: kinds.to_vec(), ..Wish::default() }
}

fn by_id(resources: Vec<Stored>) -> BTreeMap<ResourceId, Stored> {
    resources.into_iter().map(|stored| (stored.resource.id(), stored)).collect()
}

fn tenants(count: usize, limit: u64) -> impl Iterator<Item = Resource> {
    (0..count).map(move |at| tenant(&format!("t{at}"), limit))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_subscriber_arrives_at_the_same_picture_without_a_gap() {
    let world = World::start().await;
    world.put(tenants(600, 1)).await;
    let mut subscribers = Vec::new();
    let mut last = 0;
    for number in 0..5 {
        // Each comes at another moment of the writing.
        let mut subscriber =
            Subscriber::new(&world, 0, &edge(number), wish(&["tenant", "model"])).await.unwrap();
        if number % 2 == 0 {
            assert_eq!(subscriber.next().await.unwrap(), Got::Part);
        }
        subscribers.push(subscriber);
        for at in 0..20 {
            let change = if at % 3 == 2 {
                delete(&format!("tenant/n{number}-{}", at - 2))
            } else {
                put(tenant(&format!("n{number}-{at}"), u64::from(number) + 1))
            };
            last = world.write(vec![change, put(model(&format!("m{at}")))]).await.unwrap().0;
        }
    }
    let expected = by_id(world.read(&["tenant", "model"]).await);
    for subscriber in &mut subscribers {
        let got = subscriber.until(last).await;
        assert!(got.iter().filter(|got| **got == Got::Whole).count() == 1, "one snapshot, then only changes");
        assert_eq!(subscriber.revision, last);
        assert_eq!(subscriber.picture, expected);
    }
    let line = "rhumb_control_plane_updates_sent_total{content=\"snapshot\"}";
    assert_eq!(world.metric(0, line).await, 5.0);
    assert_eq!(world.metric(0, "rhumb_control_plane_subscribers").await, 5.0);
    drop(subscribers);
    eventually("who left is not counted", async || {
        world.metric(0, "rhumb_control_plane_subscribers").await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_a_revision_gets_only_what_followed() {
    let world = World::start().await;
    // Even before the first write of all.
    let mut first = Subscriber::new(&world, 0, &edge(0), wish(&["tenant"])).await.unwrap();
    assert_eq!(first.next().await.unwrap(), Got::Whole);
    let founded = Wish { resume: Some((first.incarnation, first.revision)), ..wish(&["tenant"]) };
    let mut first = Subscriber::new(&world, 0, &edge(0), founded).await.unwrap();
    assert_eq!(first.next().await.unwrap(), Got::Bookmark);
    world.put(tenants(3, 1)).await;
    let mut subscriber = Subscriber::new(&world, 0, &edge(1), wish(&["tenant"])).await.unwrap();
    assert_eq!(subscriber.next().await.unwrap(), Got::Whole);
    let has = (subscriber.incarnation, subscriber.revision);
    drop(subscriber);
    world.put([model("m")]).await;
    world.put([tenant("new", 1)]).await;
    let last = world.put([tenant("t1", 2)]).await.0;

    let resume = Wish { resume: Some(has), ..wish(&["tenant"]) };
    let mut subscriber = Subscriber::new(&world, 0, &edge(1), resume.clone()).await.unwrap();
    let got = subscriber.until(last).await;
    assert_eq!(
        got,
        [Got::Delta(vec!["tenant/new".to_owned(), "tenant/t1".to_owned()])],
        "what piled up, at once"
    );

    let now = Wish { resume: Some((has.0, last)), ..wish(&["tenant"]) };
    let mut current = Subscriber::new(&world, 0, &edge(2), now).await.unwrap();
    assert_eq!(current.next().await.unwrap(), Got::Bookmark, "it hears at once that it is right");

    // Of another history, the same revision says nothing.
    let foreign = Wish { resume: Some((has.0 + 1, last)), ..wish(&["tenant"]) };
    let mut subscriber = Subscriber::new(&world, 0, &edge(3), foreign).await.unwrap();
    assert_eq!(subscriber.next().await.unwrap(), Got::Whole);
    assert_eq!((subscriber.incarnation, subscriber.revision, subscriber.picture.len()), (has.0, last, 4));

    // Ahead of this member: never back in time.
    let ahead = Wish { resume: Some((has.0, last + 1)), ..wish(&["tenant"]) };
    let mut waits = Subscriber::new(&world, 0, &edge(4), ahead.clone()).await.unwrap();
    world.put([tenant("t1", 3)]).await;
    assert_eq!(waits.next().await.unwrap(), Got::Bookmark, "this member came to it");
    let far = Wish { resume: Some((has.0, last + 1_000)), ..wish(&["tenant"]) };
    let mut refused = Subscriber::new(&world, 0, &edge(5), far).await.unwrap();
    assert_eq!(refused.next().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_too_far_behind_gets_the_whole_picture() {
    let world = World::start().await;
    let first = world.put(tenants(1_000, 1)).await.0;
    let subscriber = Subscriber::new(&world, 0, &edge(1), wish(&["tenant"])).await.unwrap();
    let mut subscriber = subscriber;
    subscriber.until(first).await;
    let has = (subscriber.incarnation, first);
    drop(subscriber);
    let mut last = 0;
    // More than is remembered: 50,000 events.
    for limit in 2..=52 {
        last = world.put(tenants(1_000, limit)).await.0;
    }
    let resume = Wish { resume: Some(has), ..wish(&["tenant"]) };
    let mut subscriber = Subscriber::new(&world, 0, &edge(1), resume).await.unwrap();
    let got = subscriber.until(last).await;
    assert_eq!(got, [Got::Part, Got::Whole]);
    assert_eq!(subscriber.picture, by_id(world.read(&["tenant"]).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_told_of_its_own_and_of_what_leaves_it() {
    let world = World::start().await;
    world.put([region("us-east"), region("eu-west"), model("m"), version("m", 1, "file:///m")]).await;
    world.put([deployment("m", 1, &["us-east", "eu-west"])]).await;
    let agent = name(Role::RegionAgent, "us-east", "n1");
    let wish = Wish { region: Some("us-east"), ..wish(&["deployment", "version"]) };
    let mut here = Subscriber::new(&world, 0, &agent, wish.clone()).await.unwrap();
    assert_eq!(here.next().await.unwrap(), Got::Whole);
    assert_eq!(here.picture.len(), 2);
    world.put([deployment("m", 1, &["eu-west"])]).await;
    assert_eq!(here.next_change().await.unwrap(), Got::Delta(vec!["-deployment/m".to_owned()]));
    let mut later = Subscriber::new(&world, 0, &agent, wish).await.unwrap();
    assert_eq!(later.next().await.unwrap(), Got::Whole);
    assert_eq!(later.picture, here.picture, "whoever comes now sees the same");
    let last = world.put([deployment("m", 1, &["us-east"])]).await.0;
    assert_eq!(here.next_change().await.unwrap(), Got::Delta(vec!["deployment/m".to_owned()]));
    assert_eq!(here.revision, last);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookmark_leads_over_what_concerns_nobody_and_never_ahead() {
    let world = World::start().await;
    let mut subscriber = Subscriber::new(&world, 0, &edge(1), wish(&["node"])).await.unwrap();
    assert_eq!(subscriber.next().await.unwrap(), Got::Whole);
    let last = world.put(tenants(5, 1)).await.0;
    assert_eq!(subscriber.next().await.unwrap(), Got::Bookmark);
    assert_eq!(subscriber.revision, last, "as far as this member is, and no further");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_never_reads_is_dropped_and_holds_nobody_up() {
    let world = World::start().await;
    world.put([model("m")]).await;
    let source = format!("file:///{}", "x".repeat(1_000));
    // Some megabytes: more than what is under way to somebody who does not read.
    for batch in 0..4 {
        world.put((0..1_000).map(|at| version("m", batch * 1_000 + at, &source))).await;
    }
    let silent = Subscriber::new(&world, 0, &edge(1), wish(&["version"])).await.unwrap();
    let mut reader = Subscriber::new(&world, 0, &edge(2), wish(&["version", "tenant"])).await.unwrap();
    for number in 0..20 {
        let last = world.put([tenant("acme", number + 1)]).await.0;
        reader.until(last).await;
    }
    assert_eq!(reader.picture.len(), 4_001);
    assert_eq!(world.metric(0, "rhumb_control_plane_subscribers").await, 2.0);
    eventually("it is dropped", async || {
        reader.next().await.unwrap();
        world.metric(0, "rhumb_control_plane_subscribers_dropped_total").await == 1.0
    })
    .await;
    assert_eq!(world.metric(0, "rhumb_control_plane_subscribers").await, 1.0);
    // Although its end goes on not reading.
    eventually("only the reader's connection is open", async || {
        world.metric(0, "rhumb_control_plane_connections").await == 1.0
    })
    .await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_subscriber_says_is_checked_and_counted() {
    let world = World::start().await;
    let ack = || message(Message::Ack(1));
    let mut other_cluster = subscribe(&wish(&["tenant"]));
    if let Some(Message::Subscribe(subscribe)) = &mut other_cluster.message {
        subscribe.cluster = "c2".to_owned();
    }
    let empty = v1::SubscriberMessage { message: None };
    for (first, code) in [
        (ack(), Code::InvalidArgument),
        (empty, Code::InvalidArgument),
        (subscribe(&wish(&[])), Code::InvalidArgument),
        (subscribe(&wish(&["boss"])), Code::InvalidArgument),
        (subscribe(&Wish { region: Some("US"), ..wish(&["tenant"]) }), Code::InvalidArgument),
        (other_cluster, Code::FailedPrecondition),
    ] {
        let refused = Subscriber::saying(&world, 0, &edge(1), vec![first], None).await.err().unwrap();
        assert_eq!(refused.code(), code, "{refused}");
    }
    let late = Subscriber::saying(&world, 0, &edge(1), vec![], None).await.err().unwrap();
    assert_eq!(late.code(), Code::DeadlineExceeded, "nothing was said");

    let mut subscriber = Subscriber::new(&world, 0, &edge(1), wish(&["tenant"])).await.unwrap();
    subscriber.next().await.unwrap();
    let error = "too few keys".to_owned();
    let nack = message(Message::Nack(v1::Nack { revision: subscriber.revision, error }));
    for message in [ack(), nack] {
        subscriber.say.send(message).await.unwrap();
    }
    eventually("both are counted", async || {
        world.metric(0, "rhumb_control_plane_acks_total").await == 1.0
            && world.metric(0, "rhumb_control_plane_nacks_total").await == 1.0
    })
    .await;
    subscriber.say.send(subscribe(&wish(&["tenant"]))).await.unwrap();
    assert_eq!(subscriber.next_change().await.unwrap_err().code(), Code::InvalidArgument, "once is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_member_serves_and_a_subscriber_goes_on_at_another() {
    let mut world = World::of(3, |_| {}).await;
    let mut last = world.put(tenants(3, 1)).await.0;
    let mut subscriber = Subscriber::new(&world, 0, &edge(1), wish(&["tenant"])).await.unwrap();
    subscriber.until(last).await;
    for at in [1, 2, 0] {
        let resume =
            Wish { resume: Some((subscriber.incarnation, subscriber.revision)), ..wish(&["tenant"]) };
        let mut next = Subscriber::new(&world, at, &edge(1), resume).await.unwrap();
        last = world.put([tenant("t1", last)]).await.0;
        let got = next.until(last).await;
        assert_eq!(got.last(), Some(&Got::Delta(vec!["tenant/t1".to_owned()])));
        assert!(!got.contains(&Got::Whole), "it goes on from what it has");
        subscriber = next;
    }
    world.stop(1).await;
    last = world.put([tenant("t2", last)]).await.0;
    subscriber.until(last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_member_goes_on_where_it_was() {
    let mut world = World::start().await;
    let last = world.put(tenants(3, 1)).await.0;
    let mut before = Subscriber::new(&world, 0, &edge(1), wish(&["tenant"])).await.unwrap();
    before.until(last).await;
    world.restart(0).await;
    assert!(before.next_change().await.is_err(), "the stream ended with the member");
    let resume = Wish { resume: Some((before.incarnation, before.revision)), ..wish(&["tenant"]) };
    let mut after = Subscriber::new(&world, 0, &edge(1), resume).await.unwrap();
    let last = world.put([tenant("t9", 1)]).await.0;
    after.until(last).await;
    assert_eq!(after.incarnation, before.incarnation);
    assert_eq!(by_id(world.read(&["tenant"]).await).len(), 4);
}
