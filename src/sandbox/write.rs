//! Writes what the roles read: configurations, identities, and once the voters' data.
//!
//! Written anew at each start, because certificates expire and the binary may have changed. Only what others
//! remember is kept: the cluster's name, its authority, the API key, and what the roles themselves keep.

use crate::files::{Readers, write_whole};
use crate::generate::annotated::{self, Field};
use crate::generate::control_plane::ControlPlane;
use crate::generate::edge::{Edge, Https};
use crate::generate::region_agent::RegionAgent;
use crate::generate::voter::Voter;
use crate::generate::{self, Site};
use crate::operator::{context, key};
use crate::sandbox::house_model::{self, HouseModel};
use crate::sandbox::layout::{Layout, Member, Role, Seat};
use crate::sandbox::paths::{self, Paths};
use anyhow::Context;
use identity::Authority;
use identity::authority::CERTIFICATE_LIFE;
use serde::Serialize;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;
use time::OffsetDateTime;
use types::ApiKey;

/// What is the same for all roles of a sandbox.
pub struct Written {
    pub cluster: String,
    /// Opens the edges.
    pub key: ApiKey,
    /// There was none before.
    pub key_is_new: bool,
    pub house: HouseModel,
}

/// Writes everything. `is_new`: there was no sandbox here before, so its voters begin with nothing.
pub fn everything(
    layout: &Layout,
    paths: &Paths,
    program: &Path,
    certificate_life: Option<Duration>,
    is_new: bool,
) -> anyhow::Result<Written> {
    let now = OffsetDateTime::now_utc();
    let cluster = cluster_name(paths)?;
    let authority = Authority::open(&paths.authority(), &cluster, now)?;
    let house = house_model::keep(&paths.models())?;
    let key_is_new = !paths.api_key().exists();
    let key = api_key(paths)?;
    let life = life(certificate_life)?;

    for member in layout.members() {
        let seat = layout.seat(&member.region).expect("members come from the layout");
        authority.issue(&seat.name(member.role, &cluster), &paths.identity(&member), life, now)?;
        let config = paths.config(&member);
        match member.role {
            Role::ControlPlane => {
                let file = control_plane_file(&member, &seat, layout, paths, life);
                write_config(&config, &file, generate::control_plane::FIELDS)?;
                if is_new {
                    create_voter(&file.data, &cluster, file.id)?;
                }
            }
            Role::Edge => {
                let addresses = [seat.edge_tls(), layout.anycast()[1]].map(|address| address.ip());
                let dir = paths.public_certificate(&member);
                authority.issue_public(&PUBLIC_NAMES, &addresses, &dir, CERTIFICATE_LIFE, now)?;
                let file = edge_file(&member, &seat, layout, paths);
                write_config(&config, &file, generate::edge::FIELDS)?;
            }
            Role::RegionAgent => {
                let file = agent_file(&member, &seat, layout, paths, program);
                write_config(&config, &file, generate::region_agent::FIELDS)?;
            }
        }
    }
    write_operator(layout, paths, &cluster, &authority, now)?;
    // Last: with it, other commands find a whole sandbox, and the next start knows that the voters have data.
    let kept = serde_json::to_vec(layout).context("plain data serialises")?;
    write_whole(&paths.layout(), &kept, Readers::Everybody)
        .with_context(|| format!("cannot write {}", paths.layout().display()))?;
    Ok(Written { cluster, key, key_is_new, house })
}

/// Another certificate for a role that is started again: one that was down for longer than its certificate lives
/// could no longer renew it.
pub fn identity(
    layout: &Layout,
    paths: &Paths,
    member: &Member,
    certificate_life: Option<Duration>,
) -> anyhow::Result<()> {
    let now = OffsetDateTime::now_utc();
    let cluster = cluster_name(paths)?;
    let authority = Authority::open(&paths.authority(), &cluster, now)?;
    let seat = layout.seat(&member.region).context("the sandbox has no such region")?;
    let name = seat.name(member.role, &cluster);
    Ok(authority.issue(&name, &paths.identity(member), life(certificate_life)?, now)?)
}

fn life(wished: Option<Duration>) -> anyhow::Result<time::Duration> {
    match wished {
        Some(life) => time::Duration::try_from(life).context("no certificate lives that long"),
        None => Ok(CERTIFICATE_LIFE),
    }
}

/// The key of this sandbox, made when there is none.
pub fn api_key(paths: &Paths) -> anyhow::Result<ApiKey> {
    let path = paths.api_key();
    let text = kept(&path, || Ok(key::draw()?.reveal()))?;
    ApiKey::parse(&text)
        .with_context(|| format!("{} is damaged; remove it to get another key", path.display()))
}

fn cluster_name(paths: &Paths) -> anyhow::Result<String> {
    kept(&paths.cluster(), || {
        let random = getrandom::u32().context("the operating system gives no randomness")?;
        Ok(format!("sandbox-{random:08x}"))
    })
}

/// What the file says, or what is made and written there if it is missing.
fn kept(path: &Path, make: impl FnOnce() -> anyhow::Result<String>) -> anyhow::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => return Ok(text.trim_end().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let text = make()?;
    write_whole(path, format!("{text}\n").as_bytes(), Readers::Owner)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(text)
}

/// What an interrupted first start left has never voted, so it can go.
fn create_voter(data: &Path, cluster: &str, id: u64) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(data) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot clear {}", data.display()));
        }
        _ => {}
    }
    control_plane::create(data, cluster, id)
        .with_context(|| format!("cannot make the data directory of voter {id}, {}", data.display()))
}

/// Who types commands, and where those find the control plane.
fn write_operator(
    layout: &Layout,
    paths: &Paths,
    cluster: &str,
    authority: &Authority,
    now: OffsetDateTime,
) -> anyhow::Result<()> {
    let first = layout.regions.names().first().expect("a sandbox has a region");
    let name = identity::Name {
        cluster: cluster.to_owned(),
        region: first.clone(),
        role: identity::Role::Operator,
        name: "sandbox".parse().expect("the name fits its pattern"),
    };
    authority.issue(&name, &paths.operator(), OPERATOR_LIFE, now)?;
    let control_plane = voters_from(layout, first).iter().map(Voter::listed).collect();
    let file = context::File { identity: paths::OPERATOR.into(), control_plane };
    let text = toml::to_string(&file).context("a context file is plain data")?;
    write_text(&paths.context(), &format!("# {HEADER}\n\n{text}"))
}

/// All voters, nearest first.
fn voters_from(layout: &Layout, region: &types::RegionName) -> Vec<Voter> {
    layout.voters_from(region).into_iter().map(voter).collect()
}

fn voter(seat: Seat) -> Voter {
    Voter { name: seat.process(Role::ControlPlane), address: seat.control_plane(), region: seat.region }
}

fn site(member: &Member, seat: &Seat, layout: &Layout, paths: &Paths) -> Site {
    Site {
        region: member.region.clone(),
        admin: seat.admin(member.role),
        identity: paths.identity(member),
        data: paths.role_data(member),
        dial_map: layout.dial_map(&member.region),
    }
}

fn control_plane_file(
    member: &Member,
    seat: &Seat,
    layout: &Layout,
    paths: &Paths,
    life: time::Duration,
) -> control_plane::File {
    ControlPlane {
        site: site(member, seat, layout, paths),
        name: seat.process(member.role),
        id: seat.voter.expect("only voters have a control plane here"),
        listen: seat.control_plane(),
        authority: Some(paths.authority()),
        certificate_life_seconds: life.whole_seconds().unsigned_abs(),
        voters: layout.seats().filter_map(|seat| Some((seat.voter?, voter(seat)))).collect(),
    }
    .file()
}

fn edge_file(member: &Member, seat: &Seat, layout: &Layout, paths: &Paths) -> edge::File {
    Edge {
        site: site(member, seat, layout, paths),
        name: seat.process(member.role),
        plain: Some(seat.edge_plain()),
        https: Some(Https { listen: seat.edge_tls(), certificate: paths.public_certificate(member) }),
        voters: voters_from(layout, &member.region),
        // Nobody looks at this edge from outside but its balancer, which follows at once.
        notice_seconds: 0,
        drain_seconds: DRAIN_SECONDS,
        proxy_v2_from: vec![layout.balancer()],
        handover: None,
        other_edges: layout.seats().filter(|other| other != seat).map(|other| other.edge_admin()).collect(),
    }
    .file()
}

fn agent_file(
    member: &Member,
    seat: &Seat,
    layout: &Layout,
    paths: &Paths,
    program: &Path,
) -> region_agent::File {
    RegionAgent {
        site: site(member, seat, layout, paths),
        zone: seat.zone(),
        node: seat.node(),
        ingress: seat.agent_ingress(),
        engines: seat.engines(),
        logs: paths.region_logs(&member.region),
        voters: voters_from(layout, &member.region),
        drain_seconds: DRAIN_SECONDS,
        program: Some(program.to_owned()),
    }
    .file()
}

fn write_config(path: &Path, file: &impl Serialize, fields: &[Field]) -> anyhow::Result<()> {
    let text = annotated::toml(HEADER, file, fields)
        .with_context(|| format!("cannot express {}", path.display()))?;
    write_text(path, &text)
}

fn write_text(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    write_whole(path, text.as_bytes(), Readers::Everybody)
        .with_context(|| format!("cannot write {}", path.display()))
}

const HEADER: &str = "Written by `rhumb up`, anew at each start.";
/// The sandbox's name in its own zone, and what people type.
const PUBLIC_NAMES: [&str; 2] = ["api.rhumb.test", "localhost"];
/// A command does not live long enough to renew anything, and each `up` makes another; drills of renewal are for
/// roles.
const OPERATOR_LIFE: time::Duration = time::Duration::days(30);
/// A person who stops a sandbox waits for it; five seconds end nearly all answers of the house model.
const DRAIN_SECONDS: u64 = 5;
