//! Holds the shape of the workspace: which package may use which, what pure means, how files are named.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Package, its folder, whether it is pure, and what it may use of ours. A new arrow is a decision: it gets a
/// note in `docs/decisions/` and a word here.
const PACKAGES: &[(&str, &str, bool, &[&str])] = &[
    ("types", "proto/types", true, &[]),
    ("openai", "proto/openai", true, &[]),
    ("identity", "proto/identity", false, &["types"]),
    ("proto", "proto", false, &["types"]),
    ("policy", "edge/policy", true, &["types"]),
    ("client", "control-plane/client", false, &["types", "proto", "identity"]),
    ("state", "control-plane/state", true, &["types"]),
    ("raft", "control-plane/raft", false, &["types", "proto", "identity", "client", "state"]),
    ("control-plane", "control-plane", false, &["types", "proto", "identity", "client", "state", "raft"]),
    ("edge", "edge", false, &["types", "openai", "proto", "identity", "policy", "client"]),
    ("region-agent", "region-agent", false, &["types", "openai", "proto", "identity", "client"]),
    ("engine", "engine", false, &["types", "openai"]),
    ("chaos", "chaos", false, &["types", "policy"]),
    (
        "rhumb",
        "",
        false,
        &[
            "types",
            "openai",
            "proto",
            "identity",
            "policy",
            "client",
            "state",
            "raft",
            "control-plane",
            "edge",
            "region-agent",
            "engine",
            "chaos",
        ],
    ),
];

/// No clock, dice, sockets, tokio or logging in a pure package; ordered maps, so that runs repeat.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::thread",
    "HashMap",
    "HashSet",
    "tokio::",
    "tracing::",
    "getrandom",
    "println!",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The dependencies of ours in one section of a manifest.
fn ours_in(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    let names: BTreeSet<&str> = PACKAGES.iter().map(|(name, ..)| *name).collect();
    let Some(section) = manifest.get(section).and_then(toml::Value::as_table) else {
        return BTreeSet::new();
    };
    section.keys().filter(|name| names.contains(name.as_str())).cloned().collect()
}

/// Every file below a folder, without build output and what Git ignores by dot.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn rust_files_below(folder: &Path) -> Vec<PathBuf> {
    files_below(folder).into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "rs")).collect()
}

#[test]
fn packages_use_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for (name, folder, _, allowed) in PACKAGES {
        let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = toml::from_str(&text).unwrap();
        for used in ours_in(&manifest, "dependencies") {
            if !allowed.contains(&used.as_str()) {
                wrong.push(format!("{name} uses {used}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_member_is_in_the_table() {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&text).unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<&str> = members.iter().map(|member| member.as_str().unwrap()).collect();
    let table: BTreeSet<&str> =
        PACKAGES.iter().map(|(_, folder, ..)| *folder).filter(|folder| !folder.is_empty()).collect();
    assert_eq!(members, table);
}

#[test]
fn pure_packages_are_pure() {
    let mut wrong = Vec::new();
    for (_, folder, pure, _) in PACKAGES {
        if !pure {
            continue;
        }
        for path in rust_files_below(&root().join(folder).join("src")) {
            for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                if let Some(found) = IMPURE.iter().find(|word| line.contains(**word)) {
                    wrong.push(format!("{}:{}: {found}", path.display(), number + 1));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn files_are_named_for_what_they_hold() {
    const NAMELESS: &[&str] = &["mod.rs", "utils.rs", "util.rs", "helpers.rs", "common.rs", "misc.rs"];
    let mut wrong = Vec::new();
    let mut subjects: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for path in rust_files_below(root()) {
        if NAMELESS.iter().any(|name| path.ends_with(name)) {
            wrong.push(format!("{} names nothing", path.display()));
        }
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        subjects.insert(path, lines);
    }
    // A longer file may be one table or one protocol; beyond this it surely holds a second subject.
    wrong.extend(
        subjects
            .iter()
            .filter(|(_, lines)| **lines > 700)
            .map(|(path, lines)| format!("{} has {lines} lines: split it by subject", path.display())),
    );
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn decisions_carry_their_date() {
    for path in files_below(&root().join("docs/decisions")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let date: Vec<&str> = name.splitn(4, '-').collect();
        let dated = date.len() == 4
            && [4, 2, 2].iter().zip(&date).all(|(length, part)| {
                part.len() == *length && part.bytes().all(|byte| byte.is_ascii_digit())
            });
        assert!(dated, "{name} is not YYYY-MM-DD-title.md");
    }
}
