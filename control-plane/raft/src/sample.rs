//! One of everything, for tests of what is written.

use crate::wire::{Entry, LogId, Membership, Payload, Peer, Proposal};
use crate::{Machine, entry, image::Image, snapshot::Snapshots};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::storage::RaftStateMachine;
use state::{Command, Stamped};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use types::UnixMs;
use types::intent::{Change, ClientId, Expect, Incarnation, Resource, Revision, What, Write};

/// One resource of each kind, in an order in which they can be made.
pub(crate) fn resources() -> Vec<Resource> {
    use types::intent::*;
    let region = || "us-east".parse().unwrap();
    let node = NodeKey { region: region(), node: "n1".parse().unwrap() };
    let version = types::ModelVersion::from_digest([0x0f; 32]);
    let all = vec![
        Resource::Region(Region { name: region(), latitude_e6: 40_700_000, longitude_e6: -74_000_000 }),
        Resource::Zone(Zone { region: region(), name: "a".parse().unwrap() }),
        Resource::Node(Node {
            key: node.clone(),
            zone: "a".parse().unwrap(),
            kind: NodeKind::Agent(Agent {
                ingress: "10.0.0.1:8100".parse().unwrap(),
                server_name: "n1.region-agent.us-east.rhumb.internal".to_owned(),
            }),
        }),
        Resource::Policy(Policy {
            name: "gold".parse().unwrap(),
            regions: Some(vec![region()]),
            priority: types::Priority::Interactive,
            resume: Resume::Approximate,
        }),
        Resource::Tenant(Tenant {
            name: "acme".parse().unwrap(),
            policy: Some("gold".parse().unwrap()),
            requests_per_minute: Some(600),
            tokens_per_minute: None,
        }),
        Resource::Key(Key {
            id: "aaaaaaaaaaaaaaaa".parse().unwrap(),
            tenant: "acme".parse().unwrap(),
            hash: types::KeyHash::from_bytes([7; 32]),
            expires_unix_ms: Some(UnixMs(1_900_000_000_000)),
            models: Some(vec!["llama".parse().unwrap()]),
        }),
        Resource::Model(Model::named("llama".parse().unwrap())),
        Resource::Version(Version {
            version,
            model: "llama".parse().unwrap(),
            source: "file:///models/llama".to_owned(),
        }),
        Resource::Deployment(Deployment {
            model: "llama".parse().unwrap(),
            version,
            placements: vec![Placement { region: region(), replicas_per_node: 2 }],
            engine: EngineSettings { slots: 8, threads: 2, kv_tokens: Some(4_096), step_time_ms: 5 },
        }),
        Resource::Drain(Drain {
            scope: DrainScope::Node(node),
            reason: "new kernel".to_owned(),
            until_unix_ms: Some(UnixMs(1_800_000_000_000)),
        }),
    ];
    assert_eq!(all.iter().map(Resource::kind).collect::<Vec<_>>(), Kind::ALL);
    all
}

pub(crate) fn tenant(name: &str) -> Resource {
    Resource::Tenant(types::intent::Tenant {
        name: name.parse().unwrap(),
        policy: None,
        requests_per_minute: None,
        tokens_per_minute: None,
    })
}

pub(crate) fn put(resource: Resource) -> Change {
    Change { expect: Expect::Anything, what: What::Put(resource) }
}

pub(crate) fn write(sequence: u64, changes: Vec<Change>) -> Write {
    Write { client: ClientId([0xc1; 16]), sequence, changes, expects_shrink: false }
}

/// Named commands: the first of a cluster, each kind put, and the other forms that a change has.
pub(crate) fn commands() -> Vec<(String, Stamped)> {
    let stamped = |command| Stamped { at: UnixMs(1_700_000_000_000), command };
    let found = Command::Found { cluster: "c1".to_owned(), incarnation: Incarnation(0x1122_3344_5566_7788) };
    let mut all = vec![("found".to_owned(), stamped(found))];
    for (at, resource) in resources().into_iter().enumerate() {
        let name = format!("put-{}", resource.kind());
        all.push((name, stamped(Command::Write(write(at as u64 + 1, vec![put(resource)])))));
    }
    let drain = resources().pop().unwrap().id();
    let others = Write {
        expects_shrink: true,
        ..write(
            20,
            vec![
                Change { expect: Expect::Revision(Revision(11)), what: What::Delete(drain) },
                Change { expect: Expect::Absent, what: What::Put(tenant("umbrella")) },
            ],
        )
    };
    all.push(("delete-and-expectations".to_owned(), stamped(Command::Write(others))));
    all
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

pub(crate) fn command(term: u64, index: u64, stamped: &Stamped) -> Entry {
    normal(term, index, entry::encode(stamped))
}

pub(crate) fn normal(term: u64, index: u64, bytes: bytes::Bytes) -> Entry {
    Entry::new(log_id(term, index), EntryPayload::Normal(Proposal(bytes)))
}

pub(crate) fn membership(index: u64) -> Entry {
    let peer = |id| Peer {
        address: String::new(),
        server_name: format!("m{id}.control-plane.us-east.rhumb.internal"),
        region: "us-east".to_owned(),
    };
    let nodes: BTreeMap<u64, Peer> = (1..=3).map(|id| (id, peer(id))).collect();
    let voters = BTreeSet::from([1, 2, 3]);
    Entry::new(log_id(0, index), Payload::Membership(Membership::new(vec![voters], nodes).unwrap()))
}

/// The membership, every command, and an empty entry: indexes 0 to 13.
pub(crate) fn entries() -> Vec<Entry> {
    let mut entries = vec![membership(0)];
    for (at, (_, stamped)) in commands().iter().enumerate() {
        entries.push(command(1, at as u64 + 1, stamped));
    }
    let index = entries.len() as u64;
    entries.push(Entry::new(log_id(2, index), EntryPayload::Blank));
    entries
}

pub(crate) fn machine(dir: &Path) -> Machine {
    let (image, held) = Image::open(&dir.join("image.redb")).unwrap();
    Machine::new(image, Snapshots::open(&dir.join("snapshots")).unwrap(), held).unwrap()
}

pub(crate) async fn apply(machine: &Machine, entries: Vec<Entry>) -> std::io::Result<()> {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    machine.clone().apply(futures_util::stream::iter(entries)).await
}

/// What a change of a format on disk shows in. `RHUMB_GOLDEN=write` writes it anew.
#[track_caller]
pub(crate) fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var("RHUMB_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == text, "{} differs from what is written now:\n{text}", path.display());
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
