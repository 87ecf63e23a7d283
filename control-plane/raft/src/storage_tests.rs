//! The log, the image and the machine together: openraft's own suite, and what it does not know: reopening, crashes
//! and damage.

use crate::log::{CHUNK_BYTES, Log};
use crate::machine::Machine;
use crate::sample::{apply, assert_golden, commands, entries, hex, log_id, machine, normal};
use crate::wire::{TypeConfig, Vote, entry_to_wire};
use crate::{damage, entry, image, log, snapshot};
use codeq::Encode;
use openraft::StorageError;
use openraft::storage::{
    RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::testing::log::{StoreBuilder, Suite};
use prost::Message;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

struct Fresh;

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for Fresh {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(&dir.path().join("log"), CHUNK_BYTES).unwrap();
        let machine = machine(dir.path());
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openrafts_own_suite_passes() {
    Suite::test_all(Fresh).await.unwrap();
}

/// Small chunks, so that a few entries make several.
const SMALL: usize = 700;

fn open(dir: &Path) -> Log {
    Log::open(dir, SMALL).unwrap()
}

#[tokio::test]
async fn whatever_was_done_last_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let all = entries();
    let read = async |mut log: Log| {
        let state = log.get_log_state().await.unwrap();
        let entries = log.try_get_log_entries(0..1_000).await.unwrap();
        let wires: Vec<_> = entries.into_iter().map(entry_to_wire).collect();
        let (vote, committed) = (log.read_vote().await.unwrap(), log.read_committed().await.unwrap());
        (state.last_purged_log_id, state.last_log_id, wires, vote, committed)
    };
    for step in 0..7 {
        let mut log = open(dir.path());
        match step {
            0 => log.save_vote(&Vote::new(1, 2)).await.unwrap(),
            1 => log.save_vote(&Vote::new_committed(1, 2)).await.unwrap(),
            2 => log.blocking_append(all.clone()).await.unwrap(),
            3 => log.save_committed(Some(log_id(1, 8))).await.unwrap(),
            4 => log.truncate_after(Some(log_id(1, 11))).await.unwrap(),
            5 => log.purge(log_id(1, 4)).await.unwrap(),
            _ => log.save_vote(&Vote::new(7, 3)).await.unwrap(),
        }
        let before = read(log.clone()).await;
        drop(log);
        assert_eq!(read(open(dir.path())).await, before, "step {step}");
    }
    let (purged, last, wires, vote, committed) = read(open(dir.path())).await;
    assert_eq!((purged, last), (Some(log_id(1, 4)), Some(log_id(1, 11))));
    assert_eq!(wires, all[5..=11].iter().cloned().map(entry_to_wire).collect::<Vec<_>>());
    assert_eq!((vote, committed), (Some(Vote::new(7, 3)), Some(log_id(1, 8))));
}

#[tokio::test]
async fn a_purged_log_is_smaller_and_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for index in 0..200 {
        log.blocking_append([normal(1, index, vec![1; 100].into())]).await.unwrap();
    }
    let before = chunks(dir.path()).len();
    log.purge(log_id(1, 190)).await.unwrap();
    drop(log);
    let mut log = open(dir.path());
    assert_eq!(log.try_get_log_entries(0..1_000).await.unwrap().len(), 9);
    assert_eq!(log.purged(), Some(log_id(1, 190)));
    drop(log);
    assert!(chunks(dir.path()).len() < before / 4, "{before}");
}

fn chunks(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut chunks: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "wal")).collect();
    chunks.sort();
    chunks
}

/// A log of several chunks with every kind of record in them, the last chunk too.
async fn long_log(dir: &Path) {
    let mut log = open(dir);
    log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    log.blocking_append(entries()).await.unwrap();
    log.save_committed(Some(log_id(1, 5))).await.unwrap();
    log.truncate_after(Some(log_id(1, 12))).await.unwrap();
    log.purge(log_id(1, 2)).await.unwrap();
    for index in 13..20 {
        log.blocking_append([normal(3, index, vec![index as u8; 30].into())]).await.unwrap();
        log.save_committed(Some(log_id(3, index))).await.unwrap();
    }
    log.save_vote(&Vote::new(4, 2)).await.unwrap();
    log.truncate_after(Some(log_id(3, 19))).await.unwrap();
    // The last record is a long one, in a chunk that is not full yet: what ends too early may be any of its kind.
    for index in 20.. {
        log.blocking_append([normal(4, index, vec![0x5a; 270].into())]).await.unwrap();
        let last = chunks(dir).pop().unwrap();
        if std::fs::metadata(last).unwrap().len() > 300 {
            break;
        }
    }
}

/// Where each record of a chunk begins, and the end of the last.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut boundaries = vec![0];
    while let Some(at) = boundaries.last().copied().filter(|at| *at < bytes.len()) {
        boundaries.push(at + damage::record(&bytes[at..]).unwrap());
    }
    boundaries
}

#[tokio::test]
async fn every_flipped_byte_is_found_with_its_file_and_record() {
    let dir = tempfile::tempdir().unwrap();
    long_log(dir.path()).await;
    let chunks = chunks(dir.path());
    assert!(chunks.len() > 2, "{}", chunks.len());
    for path in &chunks {
        let good = std::fs::read(path).unwrap();
        let boundaries = boundaries(&good);
        for at in 0..good.len() {
            for change in [0x01, 0x02, 0x04, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= change;
                std::fs::write(path, &bad).unwrap();
                let found = damage::check_log(dir.path()).expect_err(&format!("{at} of {}", path.display()));
                assert_eq!(&found.file, path);
                let begin = *boundaries.iter().rfind(|begin| **begin <= at).unwrap();
                assert_eq!(found.offset, begin as u64, "byte {at} ^ {change:02x}: {found}");
            }
        }
        std::fs::write(path, &good).unwrap();
    }
    damage::check_log(dir.path()).unwrap();
}

#[tokio::test]
async fn a_damaged_log_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    long_log(dir.path()).await;
    let chunks = chunks(dir.path());
    for path in [&chunks[0], &chunks[chunks.len() / 2], chunks.last().unwrap()] {
        let good = std::fs::read(path).unwrap();
        let mut bad = good.clone();
        let last = bad.len() - 1;
        bad[last] ^= 1;
        std::fs::write(path, &bad).unwrap();
        let Err(log::OpenError::Damaged(found)) = Log::open(dir.path(), SMALL) else {
            panic!("opened in spite of damage")
        };
        assert_eq!(&found.file, path);
        assert_eq!(std::fs::read(path).unwrap(), bad, "nothing is changed by looking");
        std::fs::write(path, &good).unwrap();
    }
    // A file in the middle is gone, or the first that is still needed.
    for path in [&chunks[1], &chunks[0]] {
        let good = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap();
        assert!(
            matches!(Log::open(dir.path(), SMALL), Err(log::OpenError::Damaged(_))),
            "{}",
            path.display()
        );
        std::fs::write(path, &good).unwrap();
    }
    open(dir.path());
}

#[tokio::test]
async fn an_unfinished_last_record_is_cut_wherever_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    long_log(dir.path()).await;
    let before = open(dir.path()).get_log_state().await.unwrap().last_log_id.unwrap();
    let next = || normal(5, before.index + 1, vec![0xab; 120].into());
    open(dir.path()).blocking_append([next()]).await.unwrap();
    let path = chunks(dir.path()).pop().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let begin = boundaries(&whole).iter().rev().nth(1).copied().unwrap();
    for end in begin..whole.len() {
        std::fs::write(&path, &whole[..end]).unwrap();
        for file in chunks(dir.path()).iter().filter(|file| **file > path) {
            std::fs::remove_file(file).unwrap();
        }
        let mut log = open(dir.path());
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(before), "cut at {end}");
        log.blocking_append([next()]).await.unwrap();
        drop(log);
        assert_eq!(
            open(dir.path()).get_log_state().await.unwrap().last_log_id,
            Some(log_id(5, before.index + 1))
        );
    }
    // The file grew and its bytes never came.
    let mut zeros = whole[..begin].to_vec();
    zeros.resize(whole.len(), 0);
    std::fs::write(&path, &zeros).unwrap();
    for file in chunks(dir.path()).iter().filter(|file| **file > path) {
        std::fs::remove_file(file).unwrap();
    }
    assert_eq!(open(dir.path()).get_log_state().await.unwrap().last_log_id, Some(before));
}

#[tokio::test]
async fn a_crash_between_two_chunks_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    long_log(dir.path()).await;
    let path = chunks(dir.path()).pop().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let begin = boundaries(&whole).iter().rev().nth(1).copied().unwrap();
    let last = open(dir.path()).get_log_state().await.unwrap().last_log_id.unwrap();
    let wal = raft_log::chunked_wal::Config::new(dir.path().display());
    let start = |path: &Path| {
        raft_log::chunked_wal::Config::parse_chunk_file_name(&path.file_name().unwrap().to_string_lossy())
            .unwrap()
    };
    let next = start(&path) + whole.len() as u64;
    for end in begin..=whole.len() {
        let index = if end == whole.len() { last.index } else { last.index - 1 };
        for file in chunks(dir.path()).iter().filter(|file| **file > path) {
            std::fs::remove_file(file).unwrap();
        }
        std::fs::write(&path, &whole[..end]).unwrap();
        // The files of the next chunks are there before what this one should hold is.
        for start in [next, next + 1_000] {
            std::fs::write(wal.chunk_path(raft_log::ChunkId(start)), []).unwrap();
        }
        let found = open(dir.path()).get_log_state().await.unwrap().last_log_id.unwrap();
        assert_eq!(found.index, index, "cut at {end}");
        open(dir.path()).blocking_append([normal(9, index + 1, vec![1; 9].into())]).await.unwrap();
        assert_eq!(open(dir.path()).get_log_state().await.unwrap().last_log_id, Some(log_id(9, index + 1)));
    }
}

#[tokio::test]
async fn the_image_holds_what_was_applied() {
    let dir = tempfile::tempdir().unwrap();
    let before = {
        let machine = machine(dir.path());
        apply(&machine, entries()).await.unwrap();
        machine.sync().unwrap();
        machine.state().clone()
    };
    assert_eq!(before.count(types::intent::Kind::Tenant), 2);
    let mut machine = machine(dir.path());
    assert_eq!(*machine.state(), before);
    let (last, membership) = machine.applied_state().await.unwrap();
    assert_eq!(last, Some(log_id(2, 13)));
    assert_eq!(membership.membership().voter_ids().collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test]
async fn an_image_that_a_crash_leaves_goes_back_to_its_last_durable_state() {
    let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let machine = machine(dir.path());
    let mut all = entries();
    let later = all.split_off(6);
    apply(&machine, all).await.unwrap();
    machine.sync().unwrap();
    let durable = machine.state().clone();
    apply(&machine, later.clone()).await.unwrap();
    // What kill -9 leaves: the file as it is while it is in use.
    std::fs::copy(dir.path().join("image.redb"), crashed.path().join("image.redb")).unwrap();
    let recovered = crate::sample::machine(crashed.path());
    assert_eq!(recovered.last(), Some(log_id(1, 5)));
    assert_eq!(*recovered.state(), durable);
    apply(&recovered, later).await.unwrap();
    assert_eq!(*recovered.state(), *machine.state());
}

#[tokio::test]
async fn a_crash_while_the_image_is_made_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    // What redb leaves of a new file before it is one.
    let half = vec![0; 8 * 4_096];
    std::fs::write(dir.path().join("image.redb"), &half).unwrap();
    assert!(matches!(image::Image::open(&dir.path().join("image.redb")), Err(image::OpenError::Damaged(_))));
    std::fs::rename(dir.path().join("image.redb"), dir.path().join("image.unfinished")).unwrap();
    let before = {
        let machine = machine(dir.path());
        apply(&machine, entries()).await.unwrap();
        machine.sync().unwrap();
        machine.state().clone()
    };
    assert!(!dir.path().join("image.unfinished").exists(), "it is made under this name");
    assert_eq!(*machine(dir.path()).state(), before);
}

#[tokio::test]
async fn a_damaged_image_is_never_believed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.redb");
    let before = {
        let machine = machine(dir.path());
        apply(&machine, entries()).await.unwrap();
        machine.sync().unwrap();
        machine.state().clone()
    };
    let good = std::fs::read(&path).unwrap();
    let held = good.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at);
    let (mut refused, mut unharmed) = (0, 0);
    // redb asserts much of what it reads; what it says of it is of no use here.
    std::panic::set_hook(Box::new(|_| {}));
    for at in held.step_by(61) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        std::fs::write(&path, &bad).unwrap();
        match image::Image::open(&path) {
            Err(image::OpenError::Damaged(damage)) => {
                assert_eq!(damage.file, path);
                refused += 1;
            }
            Err(error) => panic!("byte {at}: {error}"),
            // A byte of a page that is not in use, or that redb repairs by what it keeps twice.
            Ok((_, held)) => {
                let (head, records) = held.unwrap_or_default();
                if head.last.is_some_and(|last| last.index == 13) {
                    let state = state::State::restore(
                        state::Head {
                            cluster: head.cluster,
                            incarnation: types::intent::Incarnation(head.incarnation),
                            revision: types::intent::Revision(head.revision),
                            shrink_revision: types::intent::Revision(head.shrink_revision),
                            losses: state::Losses::default(),
                        },
                        records,
                    );
                    assert_eq!(state, before, "byte {at}");
                }
                unharmed += 1;
            }
        }
    }
    drop(std::panic::take_hook());
    assert!(refused > 50, "{refused} refused, {unharmed} unharmed");
}

#[tokio::test]
async fn a_command_that_cannot_be_read_halts_and_is_not_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let machine = machine(dir.path());
    let (_, found) = &commands()[0];
    // An unknown command of a newer release, bytes that are no message, and a resource of an unknown kind.
    for bytes in [&[0x08, 1, 0x7a, 1, 0][..], &[0xff], &[0x1a, 0x16, 0x0a, 0x10]] {
        let batch = vec![normal(1, 0, bytes.to_vec().into()), crate::sample::command(1, 1, found)];
        let error = apply(&machine, batch).await.unwrap_err();
        assert!(error.to_string().starts_with("entry 0 of the log cannot be applied"), "{error}");
        assert_eq!(machine.state().cluster(), None);
    }
}

#[tokio::test]
async fn a_snapshot_holds_the_state_and_takes_away_what_it_does_not_hold() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut from = machine(dir.path());
    apply(&from, entries()).await.unwrap();
    let snapshot = from.build_snapshot().await.unwrap();
    let mut to = machine(other.path());
    let (_, found) = &commands()[0];
    let stranger = state::Stamped {
        at: types::UnixMs(1),
        command: state::Command::Write(crate::sample::write(
            9,
            vec![crate::sample::put(crate::sample::tenant("gone"))],
        )),
    };
    let mine = vec![crate::sample::command(1, 0, found), crate::sample::command(1, 1, &stranger)];
    apply(&to, mine).await.unwrap();
    to.install_snapshot(&snapshot.meta, copied(&to, snapshot.snapshot.path())).await.unwrap();
    assert_eq!(*to.state(), *from.state());
    assert_eq!(to.applied_state().await.unwrap(), from.applied_state().await.unwrap());
    assert_eq!(to.recent().after(types::intent::Revision(1)), None, "what led to it is not known");
    assert_eq!(to.get_current_snapshot().await.unwrap().unwrap().meta, snapshot.meta);
    drop(to);
    let again = machine(other.path());
    assert_eq!(*again.state(), *from.state(), "the image was replaced too");
}

/// As a snapshot that was received.
fn copied(machine: &Machine, path: &Path) -> snapshot::SnapshotFile {
    let (_, file) = machine.snapshots().begin().unwrap();
    std::fs::copy(path, file.path()).unwrap();
    file
}

#[tokio::test]
async fn a_damaged_snapshot_is_neither_read_nor_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = machine(dir.path());
    apply(&machine, entries()).await.unwrap();
    let path = machine.build_snapshot().await.unwrap().snapshot.path().to_owned();
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        let damage = snapshot::read(&path).expect_err(&format!("byte {at}"));
        assert_eq!(damage.file, path);
    }
    for end in 0..good.len() {
        std::fs::write(&path, &good[..end]).unwrap();
        snapshot::read(&path).expect_err(&format!("cut at {end}"));
    }
    assert!(machine.get_current_snapshot().await.is_err());
    let state = machine.state().clone();
    let file = copied(&machine, &path);
    assert!(machine.install_snapshot(&Default::default(), file).await.is_err());
    assert_eq!(*machine.state(), state);
}

#[tokio::test]
async fn two_snapshots_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = machine(dir.path());
    for entry in entries() {
        apply(&machine, vec![entry]).await.unwrap();
        machine.build_snapshot().await.unwrap();
    }
    let kept = machine.snapshots().kept().unwrap();
    assert_eq!(kept.len(), 2);
    assert!(kept[0].to_string_lossy().contains("00000000000000000013"), "{kept:?}");
}

#[tokio::test]
async fn a_log_entry_is_written_as_it_always_was() {
    let mut text = String::new();
    for (name, stamped) in commands() {
        let bytes = entry::encode(&stamped);
        assert_eq!(entry::decode(bytes.clone()).unwrap(), stamped, "{name}");
        text += &format!("{name} {}\n", hex(&bytes));
    }
    for entry in entries() {
        let wire = entry_to_wire(entry);
        let encoded = log::Encoded { kind: wire.kind as u8, data: wire.data.clone() };
        let mut bytes = Vec::new();
        encoded.encode(&mut bytes).unwrap();
        if wire.kind != 1 {
            text += &format!("record-of-kind-{} {}\n", wire.kind, hex(&bytes));
        }
    }
    assert_golden("log-entries.txt", &text);
}

#[tokio::test]
async fn a_snapshot_is_written_as_it_always_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = machine(dir.path());
    apply(&machine, entries()).await.unwrap();
    let snapshot = machine.build_snapshot().await.unwrap();
    let bytes = std::fs::read(snapshot.snapshot.path()).unwrap();
    let (head, records) = snapshot::read(snapshot.snapshot.path()).unwrap();
    let mut text = format!("head {}\n", hex(&head.encode_to_vec()));
    text += &format!("records {}\n", records.len());
    for line in hex(&bytes).as_bytes().chunks(100) {
        text += std::str::from_utf8(line).unwrap();
        text += "\n";
    }
    assert_golden("snapshot.txt", &text);
}
