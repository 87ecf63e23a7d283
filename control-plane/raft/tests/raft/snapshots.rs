//! Snapshots, and logs that are purged behind them.

use crate::group::{Group, eventually, has_tenant, tenant};
use types::intent::Revision;

#[test]
fn a_voter_that_was_away_for_long_gets_a_snapshot() {
    let mut group = Group::start(20);
    group.voter(1).write_surely(tenant(1, 1, "first"));
    let away = group.follower();
    group.voter(away).catch_up();
    group.kill(away);
    let writer = group.running()[0];
    for sequence in 2..=120 {
        group.voter(writer).write_surely(tenant(1, sequence, &format!("t{sequence}")));
    }
    // Purging comes behind snapshots, in the background, and not while entries are on their way to somebody.
    let mut sequence = 120;
    let is_purged = |group: &Group| {
        let running = group.running().into_iter();
        running.map(|id| group.voter(id).raft.progress().purged).min().is_some_and(|purged| purged > 20)
    };
    while !is_purged(&group) {
        sequence += 1;
        group.voter(writer).write_surely(tenant(1, sequence, &format!("t{sequence}")));
    }
    group.restart(away);
    group.voter(away).catch_up();
    let state = group.same_state();
    assert!(has_tenant(&state, "first") && has_tenant(&state, "t120"));
    // What led to the snapshot never came by.
    assert_eq!(group.voter(away).raft.recent().after(Revision(5)), None);
    let snapshots = || std::fs::read_dir(group.data(away).join("snapshots")).unwrap().count();
    eventually("a snapshot on disk", || (snapshots() > 0).then_some(()));
    // It goes on by itself afterwards, and after a restart.
    group.kill(away);
    group.restart(away);
    group.voter(away).write_surely(tenant(1, sequence + 1, "last"));
    group.voter(away).catch_up();
    let state = group.same_state();
    (1..=3).for_each(|id| group.kill(id));
    (1..=3).for_each(|id| group.restart(id));
    group.voter(1).catch_up();
    assert_eq!(group.same_state(), state);
}

#[test]
fn at_most_two_snapshots_are_kept_however_much_is_written() {
    let group = Group::start(20);
    for sequence in 1..=150 {
        group.voter(1).write_surely(tenant(1, sequence, &format!("t{sequence}")));
    }
    for id in 1..=3 {
        let dir = group.data(id).join("snapshots");
        let names = || -> Vec<String> {
            let files = std::fs::read_dir(&dir).unwrap();
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
        };
        eventually("snapshots", || {
            let mut finished = names();
            finished.retain(|name| name.ends_with(".snapshot"));
            assert!(finished.len() <= 3, "two, and one that is just about to go: {finished:?}");
            finished.iter().any(|name| name.as_str() >= "00000000000000000100").then_some(())
        });
    }
}
