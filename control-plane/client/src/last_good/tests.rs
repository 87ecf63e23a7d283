use super::*;
use tempfile::TempDir;
use types::UnixMs;
use types::intent::{Kind, Model, Resource};

fn interest(dir: &TempDir) -> Interest {
    Interest {
        name: "routing",
        cluster: "c1".to_owned(),
        kinds: vec![Kind::Model],
        region: None,
        keep: dir.path().to_owned(),
    }
}

fn picture(revision: u64) -> Picture {
    let stored = Stored {
        resource: Resource::Model(Model::named("small".parse().unwrap())),
        revision: Revision(revision),
        created_unix_ms: UnixMs(1),
    };
    let position = Position { incarnation: Incarnation(7), revision: Revision(revision) };
    Picture::new(position, Revision(3), [stored])
}

/// What a starting process would see: revisions, in the order in which they are tried.
fn readable(kept: &LastGood) -> Vec<u64> {
    let paths = kept.candidates().unwrap();
    paths.iter().filter_map(|path| Some(kept.read(path).ok()?.position().revision.0)).collect()
}

#[test]
fn the_newest_five_are_kept_and_the_golden_one() {
    let dir = TempDir::new().unwrap();
    let kept = LastGood::open(dir.path(), &interest(&dir)).unwrap();
    kept.store_golden(&picture(1)).unwrap();
    for revision in 2..=9 {
        kept.store(&picture(revision)).unwrap();
    }
    assert_eq!(readable(&kept), [9, 8, 7, 6, 5, 1]);
    assert_eq!(kept.read(&kept.candidates().unwrap()[0]).unwrap(), picture(9));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 6, "nothing else is left behind");
}

#[test]
fn no_damaged_byte_is_believed() {
    let dir = TempDir::new().unwrap();
    let kept = LastGood::open(dir.path(), &interest(&dir)).unwrap();
    kept.store(&picture(1)).unwrap();
    kept.store(&picture(2)).unwrap();
    let newest = kept.candidates().unwrap().remove(0);
    let whole = std::fs::read(&newest).unwrap();
    for at in 0..whole.len() {
        std::fs::write(&newest, &whole[..at]).unwrap();
        assert_eq!(readable(&kept), [1], "cut at {at}");
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&newest, flipped).unwrap();
        assert_eq!(readable(&kept), [1], "flipped at {at}");
    }
    std::fs::write(&newest, whole).unwrap();
    assert_eq!(readable(&kept), [2, 1]);
}

#[test]
fn what_belongs_to_others_is_not_ours() {
    let dir = TempDir::new().unwrap();
    let ours = interest(&dir);
    store(dir.path(), &ours, &picture(1)).unwrap();
    let others = [
        Interest { cluster: "c2".to_owned(), ..ours.clone() },
        Interest { kinds: vec![Kind::Model, Kind::Node], ..ours.clone() },
        Interest { region: Some("us-east".parse().unwrap()), ..ours.clone() },
    ];
    for other in others {
        assert_eq!(readable(&LastGood::open(dir.path(), &other).unwrap()), [0; 0], "{other:?}");
    }
    assert_eq!(readable(&LastGood::open(dir.path(), &ours).unwrap()), [1]);
}

#[test]
fn two_crashes_are_enough() {
    let dir = TempDir::new().unwrap();
    let kept = LastGood::open(dir.path(), &interest(&dir)).unwrap();
    kept.store(&picture(1)).unwrap();
    let path = kept.candidates().unwrap().remove(0);
    // One that was refused without a crash, one that was lived with: neither counts.
    kept.attempt(&path, false).unwrap().1.withdraw().unwrap();
    kept.attempt(&path, false).unwrap().1.passed().unwrap();
    drop(kept.attempt(&path, false).unwrap());
    drop(kept.attempt(&path, false).unwrap());
    assert!(matches!(kept.attempt(&path, false), Err(BadFile::Crashed(2))));
    drop(kept.attempt(&path, true).unwrap());
    assert!(matches!(kept.attempt(&path, false), Err(BadFile::Crashed(3))));
    std::fs::write(path.with_extension("trials"), "nonsense").unwrap();
    assert!(kept.attempt(&path, false).is_ok());
}
