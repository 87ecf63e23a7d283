//! A process starts from what it knew, while nobody answers.

use crate::member::{Watched, World, model, position, put, whole};
use client::{Follower, Patience, Picture, last_good};
use identity::CERTIFICATE_LIFE;
use std::path::PathBuf;
use std::time::Duration;
use types::intent::Revision;

fn files(world: &World, start: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(world.dir.path().join("kept")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start));
    paths.sort();
    paths
}

fn keep(world: &World, revision: u64, name: &str) {
    let picture = Picture::new(position(revision), Revision(0), [model(name)]);
    last_good::store(&world.interest().keep, &world.interest(), &picture).unwrap();
}

#[tokio::test]
async fn what_was_in_use_last_is_in_use_first() {
    let world = World::new(CERTIFICATE_LIFE);
    let mut member = world.member(1).await;
    let watched = Watched::start(&world, &[&member]);
    let mut subscription = member.subscription().await;
    for (at, name) in ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().enumerate() {
        let at = at as u64;
        let update = if at == 0 { whole(1, &[name]) } else { put(at, at + 1, name) };
        subscription.send(update).await;
        subscription.acked(at + 1).await;
    }
    watched.stop().await;
    assert!(files(&world, "good-").len() < 4, "one a second, and one at the end");

    let mut watched = Watched::start(&world, &[]);
    watched.sees(8, &["a", "b", "c", "d", "e", "f", "g", "h"]).await;
    assert!(!watched.standing.borrow().is_live);
    watched.stop().await;
    let mut watched = Watched::start(&world, &[&member]);
    watched.sees(8, &["a", "b", "c", "d", "e", "f", "g", "h"]).await;
    assert_eq!(member.subscription().await.resumes_at(), Some(8));
    watched.stop().await;
}

#[tokio::test]
async fn a_truncated_a_refused_and_a_deadly_picture_are_skipped() {
    let world = World::new(CERTIFICATE_LIFE);
    for (revision, name) in [(1, "a"), (2, "b"), (3, "poison"), (4, "d")] {
        keep(&world, revision, name);
    }
    let newest = files(&world, "good-").pop().unwrap();
    let whole = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &whole[..whole.len() - 1]).unwrap();
    let open = || {
        let mut opened = None;
        let follower = Follower::open(world.interest(), |picture: &Picture, _: client::Changed<'_>| {
            let name = picture.resources().next().unwrap().resource.id().to_string();
            if name == "model/poison" {
                return Err("poison".to_owned());
            }
            opened = Some(picture.position().revision.0);
            Ok(())
        });
        // Not run, so that it ends as a crash does.
        drop(follower.unwrap());
        opened
    };
    // When all are under suspicion, the newest is better than none.
    assert_eq!([open(), open(), open(), open(), open()], [Some(2), Some(2), Some(1), Some(1), Some(2)]);
    // Whoever lives, or ends in order, was not killed by its picture.
    std::fs::write(newest, whole).unwrap();
    for _ in 0..4 {
        let mut watched = Watched::start(&world, &[]);
        watched.sees(4, &["d"]).await;
        watched.stop().await;
    }
    let patience = Patience { trial: Duration::from_millis(1), ..Patience::default() };
    let mut watched = Watched::start_with(&world, &[], patience);
    watched.sees(4, &["d"]).await;
    while !files(&world, "good-00000000000000000004.trials").is_empty() {
        tokio::task::yield_now().await;
    }
    watched.stop().await;
}

#[tokio::test]
async fn what_served_for_long_is_the_last_resort() {
    let world = World::new(CERTIFICATE_LIFE);
    keep(&world, 1, "a");
    let patience = Patience { golden: Duration::from_millis(1), ..Patience::default() };
    let watched = Watched::start_with(&world, &[], patience);
    while files(&world, "golden.picture").is_empty() {
        tokio::task::yield_now().await;
    }
    watched.stop().await;
    // What came after it did not serve as long; then all of it is lost.
    let mut member = world.member(1).await;
    let watched = Watched::start(&world, &[&member]);
    let mut subscription = member.subscription().await;
    subscription.send(put(1, 2, "b")).await;
    subscription.acked(2).await;
    watched.stop().await;
    for path in files(&world, "good-") {
        std::fs::write(path, "nonsense").unwrap();
    }
    let mut watched = Watched::start(&world, &[]);
    watched.sees(1, &["a"]).await;
    watched.stop().await;
}

#[tokio::test]
async fn what_a_disk_did_not_take_is_written_once_it_does() {
    let world = World::new(CERTIFICATE_LIFE);
    let mut member = world.member(1).await;
    let patience = Patience { write: Duration::from_millis(1), ..Patience::default() };
    let watched = Watched::start_with(&world, &[&member], patience);
    let (kept, away) = (world.interest().keep, world.dir.path().join("away"));
    std::fs::rename(&kept, &away).unwrap();
    std::fs::write(&kept, "no directory").unwrap();
    let mut subscription = member.subscription().await;
    subscription.send(whole(1, &["a"])).await;
    subscription.acked(1).await;
    // Long enough for a first try; a test that came too early would pass for nothing.
    tokio::time::sleep(Duration::from_millis(100)).await;
    std::fs::remove_file(&kept).unwrap();
    std::fs::rename(&away, &kept).unwrap();
    let written = async {
        while files(&world, "good-").is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written).await.expect("tried again though nothing changed");
    watched.stop().await;
}

#[tokio::test]
async fn a_picture_that_makes_its_consumer_panic_is_skipped() {
    let world = World::new(CERTIFICATE_LIFE);
    keep(&world, 1, "a");
    keep(&world, 2, "panic");
    let mut watched = Watched::start(&world, &[]);
    watched.sees(1, &["a"]).await;
    watched.stop().await;
}
