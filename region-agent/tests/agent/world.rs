//! A whole agent in a directory of its own, that finds its intent on disk and no member of the control plane.

use crate::stand_in;
use identity::{Authority, Identity, Role};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use region_agent::{Config, File, StartError};
use serde_json::Value;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use types::intent::{
    Agent, Deployment, EngineSettings, Incarnation, Node, NodeKind, Placement, Position, Resource, Revision,
    Stored, Version,
};
use types::{ModelVersion, UnixMs};

pub struct World {
    pub dir: tempfile::TempDir,
    pub file: File,
}

impl World {
    /// One replica is wanted.
    pub fn new() -> Self {
        let world = Self::without_intent();
        world.keep(9, &[this_node(), tiny(), one_replica()]);
        world
    }

    /// Stores a picture as if a member had sent it to an agent before.
    pub fn keep(&self, revision: u64, resources: &[Resource]) {
        let position = Position { incarnation: Incarnation(1), revision: Revision(revision) };
        let picture =
            client::Picture::new(position, Revision(0), resources.iter().map(|it| stored(revision, it)));
        let interest = region_agent::intent::interest(&self.config(), "c1");
        client::last_good::store(&interest.keep, &interest, &picture).unwrap();
    }

    pub fn without_intent() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [ingress, admin, nobody] = free_addresses();
        let file = File {
            region: "us-east".to_owned(),
            zone: "a".to_owned(),
            node: "n1".to_owned(),
            ingress,
            admin,
            identity: dir.path().join("identity"),
            logs: dir.path().join("logs"),
            data: dir.path().join("data"),
            engines_listen: free_engines(),
            queue_max: 4,
            drain_seconds: 1,
            program: Some(stand_in::program(dir.path())),
            control_plane: vec![client::MemberAddress {
                address: nobody.parse().unwrap(),
                server_name: "c1.control-plane.us-east.rhumb.internal".to_owned(),
            }],
            dial_map: types::DialMap::default(),
        };
        issue_in(&file.identity, "n1");
        Self { dir, file }
    }

    pub fn config(&self) -> Config {
        self.file.clone().try_into().unwrap()
    }

    pub async fn page(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.file.admin).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    pub async fn replicas(&self) -> Option<Value> {
        let page = self.page("/replicas").await?;
        serde_json::from_str(page.split_once("\r\n\r\n")?.1).ok()
    }

    /// Waits for the admin page to say so of the one replica: it is what operators have, too.
    pub async fn until(&self, replica: &str, state: &str) -> Value {
        let is_so =
            |page: &Value| page["replicas"][0]["replica"] == replica && page["replicas"][0]["state"] == state;
        self.until_page(is_so).await
    }

    pub async fn until_page(&self, is_so: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let page = self.replicas().await;
            if let Some(page) = page.as_ref().filter(|page| is_so(page)) {
                return page.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{page:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub fn stored(revision: u64, resource: &Resource) -> Stored {
    Stored { resource: resource.clone(), revision: Revision(revision), created_unix_ms: UnixMs(0) }
}

pub fn this_node() -> Resource {
    Resource::Node(Node {
        key: "us-east/n1".parse().unwrap(),
        zone: "a".parse().unwrap(),
        kind: NodeKind::Agent(Agent {
            ingress: "127.0.0.1:7443".parse().unwrap(),
            server_name: "n1.region-agent.us-east.rhumb.internal".to_owned(),
        }),
    })
}

pub fn tiny() -> Resource {
    let (version, model) = (version(7), "tiny".parse().unwrap());
    Resource::Version(Version { version, model, source: "file:///models/tiny".to_owned() })
}

pub fn one_replica() -> Resource {
    let placement = Placement { region: "us-east".parse().unwrap(), replicas_per_node: 1 };
    Resource::Deployment(Deployment {
        model: "tiny".parse().unwrap(),
        version: version(7),
        placements: vec![placement],
        engine: EngineSettings::default(),
    })
}

pub fn version(number: u8) -> ModelVersion {
    ModelVersion::from_digest([number; 32])
}

/// The authority is new each time.
pub fn issue_in(dir: &Path, node: &str) -> Authority {
    let authority = Authority::create("c1", time::OffsetDateTime::now_utc()).unwrap();
    issue(&authority, dir, Role::RegionAgent, node);
    authority
}

pub fn issue_edge(authority: &Authority, world: &World) -> Identity {
    issue(authority, &world.dir.path().join("edge"), Role::Edge, "e1")
}

pub fn issue(authority: &Authority, dir: &Path, role: Role, name: &str) -> Identity {
    let name = identity::Name {
        cluster: "c1".to_owned(),
        region: "us-east".parse().unwrap(),
        role,
        name: name.parse().unwrap(),
    };
    authority.issue(&name, dir, identity::CERTIFICATE_LIFE, time::OffsetDateTime::now_utc()).unwrap();
    Identity::load(dir).unwrap()
}

/// All found before any is let go, so that they differ, on a host address that no other test takes.
pub fn free_addresses<const N: usize>() -> [String; N] {
    let host = own_host();
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind((host, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().to_string())
}

/// The first of many addresses in a row.
pub fn free_engines() -> String {
    TcpListener::bind((own_host(), 0)).unwrap().local_addr().unwrap().to_string()
}

fn own_host() -> Ipv4Addr {
    let [a, b, c, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    Ipv4Addr::new(127, 128 + a % 64, b, 1 + c % 254)
}

/// Waits for an agent that was told to shut down.
pub async fn ended(agent: JoinHandle<Result<(), StartError>>) {
    within(agent).await.unwrap().unwrap();
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it takes far too long")
}

pub fn pid(page: &Value) -> Pid {
    Pid::from_raw(page["replicas"][0]["pid"].as_i64().unwrap().try_into().unwrap())
}

pub fn is_alive(pid: Pid) -> bool {
    kill(pid, None).is_ok()
}
