//! Losing voters, and getting them back.

use crate::group::{Group, eventually, has_tenant, tenant, within};
use raft::StartError;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn writes_survive_the_loss_of_any_one_voter_and_a_restart_of_all() {
    let mut group = Group::start(10_000);
    let mut sequence = 0;
    let mut make = |group: &Group, through: u64, name: &str| {
        sequence += 1;
        let decided = group.voter(through).write_surely(tenant(1, sequence, name));
        assert_eq!(decided.faults, []);
        decided.position
    };
    let first = make(&group, 1, "first");
    assert_ne!(first.incarnation.0, 0);
    for victim in 1..=3 {
        // A write is acknowledged, its voter is lost at once, and the others have it.
        make(&group, victim, &format!("before-{victim}"));
        group.kill(victim);
        let survivors = group.running();
        make(&group, survivors[0], &format!("without-{victim}"));
        for id in survivors {
            group.voter(id).catch_up();
            for name in ["first".to_owned(), format!("before-{victim}"), format!("without-{victim}")] {
                assert!(has_tenant(&group.voter(id).raft.state(), &name), "{name} at {id}");
            }
        }
        group.restart(victim);
        group.voter(victim).catch_up();
        assert!(has_tenant(&group.voter(victim).raft.state(), &format!("without-{victim}")));
    }
    let before = group.same_state();
    (1..=3).for_each(|id| group.kill(id));
    (1..=3).for_each(|id| group.restart(id));
    group.voter(2).catch_up();
    assert_eq!(group.same_state(), before);
    let after = make(&group, 3, "after");
    assert_eq!(after.incarnation, first.incarnation);
    assert!(after.revision > before.position().revision);
}

#[test]
fn a_repeated_write_is_done_once_whoever_is_asked_and_whoever_leads() {
    let mut group = Group::start(10_000);
    let write = tenant(7, 1, "once");
    let first = group.voter(1).write_surely(write.clone());
    for id in 1..=3 {
        assert_eq!(group.voter(id).write_surely(write.clone()), first);
    }
    let leader = group.leader();
    group.kill(leader);
    for id in group.running() {
        assert_eq!(group.voter(id).write_surely(write.clone()), first);
    }
    // Another client's is another write, and finds it there.
    let other = group.voter(group.running()[0]).write_surely(tenant(8, 1, "once"));
    assert_eq!(other.faults.len(), 1);
}

#[test]
fn what_was_acknowledged_anywhere_is_read_everywhere() {
    let group = Group::start(10_000);
    for sequence in 1..=50 {
        let name = format!("t{sequence}");
        let (writer, reader) = (1 + sequence % 3, 1 + (sequence + 1) % 3);
        group.voter(writer).write_surely(tenant(1, sequence, &name));
        group.voter(reader).catch_up();
        assert!(has_tenant(&group.voter(reader).raft.state(), &name), "{name} at {reader}");
    }
}

#[test]
fn a_leader_that_stops_hands_over() {
    let group = Group::start(10_000);
    let leader = group.leader();
    group.voter(leader).write_surely(tenant(1, 1, "first"));
    let began = Instant::now();
    group.voter(leader).run(async |raft: raft::Raft| raft.stop().await);
    let successor = eventually("another leader", || {
        let id = group.running().into_iter().find(|id| *id != leader)?;
        let standing = group.voter(id).raft.standing().borrow().clone();
        standing.leader.filter(|id| *id != leader)
    });
    // Nobody campaigns before 1.75 seconds of silence, half a second of which may have been over.
    assert!(began.elapsed() < Duration::from_millis(1_200), "{:?}", began.elapsed());
    group.voter(successor).write_surely(tenant(1, 2, "second"));
    assert!(group.voter(leader).write(tenant(1, 3, "third")).is_err());
}

#[test]
fn a_damaged_voter_does_not_start_and_its_peers_go_on() {
    let mut group = Group::start(10_000);
    group.voter(1).write_surely(tenant(1, 1, "first"));
    let victim = group.follower();
    group.kill(victim);
    let path = first_file(&group.data(victim).join("log"));
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 0x08;
    std::fs::write(&path, &bad).unwrap();
    let Err(StartError::Damaged { damage, repair }) = group.try_restart(victim) else { panic!("it started") };
    assert_eq!(damage.file, path);
    assert!(damage.offset <= good.len() as u64 / 2);
    assert!(repair.contains("restore the data directory"), "{repair}");
    let other = group.running()[0];
    group.voter(other).write_surely(tenant(1, 2, "second"));
    std::fs::write(&path, &good).unwrap();
    group.restart(victim);
    group.voter(victim).catch_up();
    assert!(has_tenant(&group.voter(victim).raft.state(), "second"));
}

#[test]
fn an_image_that_is_gone_or_damaged_is_made_anew_and_a_log_is_not() {
    let mut group = Group::start(10_000);
    for sequence in 1..=5 {
        group.voter(1).write_surely(tenant(1, sequence, &format!("t{sequence}")));
    }
    let before = group.same_state();
    group.kill(3);
    let image = group.data(3).join("image.redb");
    std::fs::write(&image, b"what is this").unwrap();
    let Err(StartError::Damaged { damage, repair }) = group.try_restart(3) else { panic!("it started") };
    assert_eq!(damage.file, image);
    assert!(repair.contains("remove the file"), "{repair}");
    std::fs::remove_file(&image).unwrap();
    group.restart(3);
    group.voter(3).catch_up();
    assert_eq!(group.same_state(), before);
    group.kill(3);
    std::fs::remove_dir_all(group.data(3).join("log")).unwrap();
    assert!(matches!(group.try_restart(3), Err(StartError::Incomplete { .. })));
}

#[test]
fn one_directory_is_one_process_and_one_voter() {
    let mut group = Group::start(10_000);
    let voter = group.voter(1);
    let twice = within(voter, "an answer", raft::Raft::start(group.options(1)));
    assert!(matches!(twice, Err(StartError::InUse { .. })));
    group.kill(1);
    std::fs::remove_dir_all(group.data(1)).unwrap();
    let Err(error) = group.try_restart(1) else { panic!("it came back empty") };
    assert!(matches!(error, StartError::NotCreated { .. }));
    assert!(error.to_string().contains("must not come back empty"), "{error}");
    raft::create(&group.data(1), "c1", 2).unwrap();
    assert!(matches!(group.try_restart(1), Err(StartError::OtherMember { id: 2, .. })));
}

fn first_file(dir: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "wal")).min().unwrap()
}
