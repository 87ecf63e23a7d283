//! Writes what the roles read: tables, configurations, identities.
//!
//! Written anew at each start, because certificates expire and the binary may have changed. Only what others
//! remember is kept: the cluster's name, its authority, and the API key.

use crate::files::{Readers, write_whole};
use crate::sandbox::house_model::{self, HouseModel};
use crate::sandbox::layout::{ENGINES_PER_REGION, Layout, Member, Paths, Role, Seat};
use crate::sandbox::places;
use anyhow::Context;
use edge::routing_table::{ModelEntry, NodeEntry, RegionEntry, RoutingFile};
use edge::tenants::{KeyEntry, Tenant, TenantFile};
use identity::{Authority, Name};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;
use time::OffsetDateTime;
use types::{ApiKey, ModelVersion, Priority};

/// Who pays in a sandbox.
pub const TENANT: &str = "default";

/// Writes everything, and returns the key that opens the edges.
pub fn everything(
    layout: &Layout,
    paths: &Paths,
    program: &Path,
    step_time: Duration,
) -> anyhow::Result<ApiKey> {
    let now = OffsetDateTime::now_utc();
    let cluster = cluster_name(paths)?;
    let authority = Authority::open(&paths.authority(), &cluster, now)?;
    let house = house_model::keep(&paths.models())?;
    let key = api_key(paths)?;
    let name = |member: &Member, seat: &Seat| Name {
        cluster: cluster.clone(),
        region: member.region.clone(),
        role: match member.role {
            Role::Edge => identity::Role::Edge,
            Role::RegionAgent => identity::Role::RegionAgent,
        },
        name: match member.role {
            Role::Edge => seat.edge_name(),
            Role::RegionAgent => seat.node(),
        },
    };

    let mut nodes = Vec::new();
    for member in layout.members() {
        let seat = layout.seat(&member.region).expect("members come from the layout");
        let name = name(&member, &seat);
        authority.issue(&name, &paths.identity(&member), now)?;
        match member.role {
            Role::Edge => {
                let address = seat.edge_tls().ip();
                let dir = paths.public_certificate(&member);
                authority.issue_public(&PUBLIC_NAMES, &[address], &dir, now)?;
                write_toml(&paths.config(&member), &edge_file(&member, &seat, paths))?;
            }
            Role::RegionAgent => {
                let file = agent_file(&member, &seat, paths, program, &house, step_time);
                write_toml(&paths.config(&member), &file)?;
                nodes.push(node_entry(&seat, name.host_name()));
            }
        }
    }
    write_toml(&paths.routing_table(), &routing_file(layout, nodes, house.version))?;
    write_toml(&paths.tenants(), &tenant_file(&key))?;
    // Last: with it, other commands find a whole sandbox.
    let kept = serde_json::to_vec(layout).context("plain data serialises")?;
    write_whole(&paths.layout(), &kept, Readers::Everybody)
        .with_context(|| format!("cannot write {}", paths.layout().display()))?;
    Ok(key)
}

/// The key of this sandbox, made when there is none.
pub fn api_key(paths: &Paths) -> anyhow::Result<ApiKey> {
    let path = paths.api_key();
    let text = kept(&path, || {
        let (mut id, mut secret) = ([0; 10], [0; 32]);
        getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut secret))?;
        Ok(ApiKey::from_random(id, secret).reveal())
    })?;
    ApiKey::parse(&text)
        .with_context(|| format!("{} is damaged; remove it to get another key", path.display()))
}

fn cluster_name(paths: &Paths) -> anyhow::Result<String> {
    kept(&paths.cluster(), || Ok(format!("sandbox-{:08x}", getrandom::u32()?)))
}

/// What the file says, or what is made and written there if it is missing.
fn kept(path: &Path, make: impl FnOnce() -> Result<String, getrandom::Error>) -> anyhow::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => return Ok(text.trim_end().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let text = make().context("the operating system gives no randomness")?;
    write_whole(path, format!("{text}\n").as_bytes(), Readers::Owner)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(text)
}

fn edge_file(member: &Member, seat: &Seat, paths: &Paths) -> edge::config::File {
    let public = identity::files::Paths::in_dir(&paths.public_certificate(member));
    edge::config::File {
        region: member.region.clone(),
        name: seat.edge_name(),
        listen: Some(seat.edge_plain()),
        tls: Some(edge::config::TlsFile {
            listen: seat.edge_tls(),
            certificate: public.certificate,
            key: public.key,
        }),
        admin: seat.edge_admin(),
        identity: paths.identity(member),
        routing_table: paths.routing_table(),
        tenants: paths.tenants(),
        drain_seconds: DRAIN_SECONDS,
    }
}

fn agent_file(
    member: &Member,
    seat: &Seat,
    paths: &Paths,
    program: &Path,
    house: &HouseModel,
    step_time: Duration,
) -> region_agent::File {
    region_agent::File {
        region: member.region.to_string(),
        zone: seat.zone().to_string(),
        node: seat.node().to_string(),
        ingress: seat.agent_ingress().to_string(),
        admin: seat.agent_admin().to_string(),
        identity: paths.identity(member),
        logs: paths.region_logs(&member.region),
        queue_max: QUEUE_MAX,
        drain_seconds: DRAIN_SECONDS,
        program: Some(program.to_owned()),
        engines: vec![region_agent::EngineFile {
            version: house.version.to_string(),
            model_dir: house.dir.clone(),
            served_name: house_model::NAME.to_owned(),
            count: ENGINES_PER_REGION,
            listen: seat.engines().to_string(),
            slots: SLOTS,
            threads: 1,
            kv_tokens: None,
            step_time_ms: u64::try_from(step_time.as_millis()).unwrap_or(u64::MAX),
        }],
    }
}

fn node_entry(seat: &Seat, server_name: String) -> NodeEntry {
    NodeEntry {
        region: seat.region.clone(),
        node: seat.node(),
        zone: seat.zone(),
        ingress: seat.agent_ingress(),
        server_name,
    }
}

fn routing_file(layout: &Layout, nodes: Vec<NodeEntry>, version: ModelVersion) -> RoutingFile {
    let region = |seat: Seat| {
        let place = places::of(&seat.region);
        RegionEntry { name: seat.region, latitude: place.latitude, longitude: place.longitude }
    };
    let name = house_model::NAME.parse().expect("the name fits its pattern");
    RoutingFile {
        regions: layout.seats().map(region).collect(),
        nodes,
        models: vec![ModelEntry { name, version }],
    }
}

fn tenant_file(key: &ApiKey) -> TenantFile {
    let name: types::TenantName = TENANT.parse().expect("the name fits its pattern");
    TenantFile {
        keys: vec![KeyEntry { id: key.id(), tenant: name.clone(), hash: key.hash() }],
        tenants: vec![Tenant { name, regions: None, priority: Priority::default() }],
    }
}

fn write_toml(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let text = toml::to_string(value).with_context(|| format!("cannot express {}", path.display()))?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    write_whole(path, format!("{HEADER}{text}").as_bytes(), Readers::Everybody)
        .with_context(|| format!("cannot write {}", path.display()))
}

const HEADER: &str = "# Written by `rhumb up`, anew at each start.\n\n";
/// The sandbox's name in its own zone, and what people type.
const PUBLIC_NAMES: [&str; 2] = ["api.rhumb.test", "localhost"];
/// Production's defaults, said here so that a sandbox behaves the same when they change.
const QUEUE_MAX: usize = 256;
const SLOTS: u32 = 8;
/// A person who stops a sandbox waits for it; five seconds end nearly all answers of the house model.
const DRAIN_SECONDS: u64 = 5;
