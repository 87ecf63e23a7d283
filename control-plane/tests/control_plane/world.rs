//! Members of a control plane in this process, and everybody who speaks to them.

use client::{Dialer, MemberAddress};
use control_plane::{Config, File, MemberEntry, RunError};
use identity::{Authority, Identity, Live, Name, Role};
use proto::v1;
use proto::v1::intent_client::IntentClient;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use types::ModelVersion;
use types::intent::{
    Change, ClientId, Deployment, EngineSettings, Expect, Fault, Model, Placement, Region, Resource,
    Revision, Stored, Tenant, Version, What, Write,
};

pub const CLUSTER: &str = "c1";

pub struct World {
    dir: tempfile::TempDir,
    authority: Authority,
    pub members: Vec<Member>,
    sequence: AtomicU64,
}

pub struct Member {
    file: File,
    running: Option<(CancellationToken, JoinHandle<Result<(), RunError>>)>,
}

impl World {
    /// One member that leads.
    pub async fn start() -> Self {
        Self::of(1, |_| {}).await
    }

    pub async fn of(count: u64, change: impl Fn(&mut File)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(&dir.path().join("authority"), CLUSTER, now()).unwrap();
        let regions = ["us-east", "eu-west", "ap-south", "eu-north", "us-west"];
        let ports = free_ports(2 * count as usize);
        let name = |id: u64| name(Role::ControlPlane, regions[id as usize - 1], &format!("cp{id}"));
        let entries: Vec<MemberEntry> = (1..=count)
            .map(|id| MemberEntry {
                id,
                region: name(id).region,
                address: ports[id as usize - 1],
                server_name: name(id).host_name(),
            })
            .collect();
        let mut world = Self { dir, authority, members: Vec::new(), sequence: AtomicU64::new(1) };
        for entry in &entries {
            let name = name(entry.id);
            let data = world.dir.path().join(format!("data{}", entry.id));
            control_plane::create(&data, CLUSTER, entry.id).unwrap();
            let mut file = File {
                region: entry.region.clone(),
                name: name.name.clone(),
                id: entry.id,
                listen: entry.address,
                admin: ports[(count + entry.id) as usize - 1],
                identity: world.identity(&name, CERTIFICATE_LIFE),
                data,
                // Only the first holds it.
                authority: (entry.id == 1).then(|| world.dir.path().join("authority")),
                certificate_life_seconds: CERTIFICATE_LIFE.as_secs(),
                snapshot_every: 10_000,
                members: entries.clone(),
                dial_map: types::DialMap::default(),
            };
            change(&mut file);
            if file.certificate_life_seconds != CERTIFICATE_LIFE.as_secs() {
                world.identity(&name, Duration::from_secs(file.certificate_life_seconds));
            }
            world.members.push(Member { file, running: None });
        }
        for at in 0..world.members.len() {
            world.run(at);
        }
        for at in 0..world.members.len() {
            world.ready(at).await;
        }
        world
    }

    fn run(&mut self, at: usize) {
        let member = &mut self.members[at];
        // As an operator writes it.
        let text = toml::to_string(&member.file).unwrap();
        let config = Config::try_from(toml::from_str::<File>(&text).unwrap()).unwrap();
        let prepared = control_plane::prepare(config).unwrap_or_else(|errors| panic!("{errors:?}"));
        let stop = CancellationToken::new();
        member.running = Some((stop.clone(), tokio::spawn(control_plane::run(prepared, stop))));
    }

    pub async fn stop(&mut self, at: usize) {
        let (stop, running) = self.members[at].running.take().unwrap();
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    pub async fn restart(&mut self, at: usize) {
        self.stop(at).await;
        self.run(at);
        self.ready(at).await;
    }

    pub async fn ready(&self, at: usize) {
        eventually("the member is ready", async || {
            self.page(at, "/readyz").await.starts_with("HTTP/1.1 200")
        })
        .await;
    }

    /// A page of a member's admin listener, head included; empty where nobody answers.
    pub async fn page(&self, at: usize, path: &str) -> String {
        let ask = async {
            let mut stream = TcpStream::connect(self.members[at].file.admin).await?;
            stream
                .write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
                .await?;
            let mut page = String::new();
            stream.read_to_string(&mut page).await?;
            std::io::Result::Ok(page)
        };
        ask.await.unwrap_or_default()
    }

    /// The value of one line of a member's metrics.
    pub async fn metric(&self, at: usize, line: &str) -> f64 {
        let page = self.page(at, "/metrics").await;
        let value = page.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {line} in {page}")).parse().unwrap()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Directory of an identity that our authority signed.
    pub fn identity(&self, name: &Name, life: Duration) -> PathBuf {
        let dir = self.dir.path().join(name.host_name());
        self.authority.issue(name, &dir, life.try_into().unwrap(), now()).unwrap();
        dir
    }

    pub fn address(&self, at: usize) -> MemberAddress {
        let file = &self.members[at].file;
        let own = file.members.iter().find(|entry| entry.id == file.id).unwrap();
        MemberAddress { address: own.address, server_name: own.server_name.clone() }
    }

    pub fn dialer(&self, name: &Name) -> Dialer {
        Dialer::new(Live::new(Identity::load(&self.identity(name, CERTIFICATE_LIFE)).unwrap()))
    }

    /// A connection to a member, as whoever holds this name.
    pub fn channel(&self, at: usize, name: &Name) -> Channel {
        self.dialer(name).channel(&self.address(at))
    }

    pub fn operator(&self, at: usize) -> IntentClient<Channel> {
        IntentClient::new(self.channel(at, &operator()))
    }

    pub async fn write(&self, changes: Vec<Change>) -> Result<Revision, Vec<Fault>> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let write = Write { client: ClientId([7; 16]), sequence, changes, expects_shrink: false };
        let reply = self.operator(0).write(v1::WriteRequest::from(&write)).await.unwrap().into_inner();
        if reply.faults.is_empty() {
            return Ok(Revision(reply.revision));
        }
        Err(reply.faults.into_iter().map(Fault::from).collect())
    }

    pub async fn put(&self, resources: impl IntoIterator<Item = Resource>) -> Revision {
        self.write(resources.into_iter().map(put).collect()).await.unwrap()
    }

    pub async fn read(&self, what: &[&str]) -> Vec<Stored> {
        let what = what.iter().map(ToString::to_string).collect();
        let mut replies = self.operator(0).read(v1::ReadRequest { what }).await.unwrap().into_inner();
        let mut resources = Vec::new();
        while let Some(reply) = replies.message().await.unwrap() {
            resources.extend(reply.resources.into_iter().map(|stored| Stored::try_from(stored).unwrap()));
        }
        resources
    }
}

pub fn name(role: Role, region: &str, name: &str) -> Name {
    Name { cluster: CLUSTER.to_owned(), region: region.parse().unwrap(), role, name: name.parse().unwrap() }
}

pub fn operator() -> Name {
    name(Role::Operator, "us-east", "ops")
}

pub fn edge(number: u32) -> Name {
    name(Role::Edge, "us-east", &format!("e{number}"))
}

pub fn put(resource: Resource) -> Change {
    Change { expect: Expect::Anything, what: What::Put(resource) }
}

pub fn delete(id: &str) -> Change {
    Change { expect: Expect::Anything, what: What::Delete(id.parse().unwrap()) }
}

pub fn region(name: &str) -> Resource {
    Resource::Region(Region { name: name.parse().unwrap(), latitude_e6: 1_000_000, longitude_e6: -2_000_000 })
}

pub fn tenant(name: &str, limit: u64) -> Resource {
    let name = name.parse().unwrap();
    Resource::Tenant(Tenant { name, policy: None, requests_per_minute: Some(limit), tokens_per_minute: None })
}

pub fn model(name: &str) -> Resource {
    Resource::Model(Model::named(name.parse().unwrap()))
}

pub fn digest(number: u32) -> ModelVersion {
    format!("sha256:{number:064x}").parse().unwrap()
}

pub fn version(model: &str, number: u32, source: &str) -> Resource {
    let source = source.to_owned();
    Resource::Version(Version { version: digest(number), model: model.parse().unwrap(), source })
}

pub fn deployment(model: &str, number: u32, regions: &[&str]) -> Resource {
    let place = |region: &&str| Placement { region: region.parse().unwrap(), replicas_per_node: 1 };
    Resource::Deployment(Deployment {
        model: model.parse().unwrap(),
        version: digest(number),
        placements: regions.iter().map(place).collect(),
        engine: EngineSettings::default(),
    })
}

pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < EVENTUALLY_MAX, "not within {} s: {what}", EVENTUALLY_MAX.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// Found before any is let go, so that they differ, on a host address that no other test takes.
fn free_ports(count: usize) -> Vec<SocketAddr> {
    let [a, b, c, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    let host = Ipv4Addr::new(127, 128 + a % 64, b, 1 + c % 254);
    let bound: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind((host, 0)).unwrap()).collect();
    bound.iter().map(|listener| listener.local_addr().unwrap()).collect()
}

const CERTIFICATE_LIFE: Duration = Duration::from_secs(3600);
const EVENTUALLY_MAX: Duration = Duration::from_secs(45);
