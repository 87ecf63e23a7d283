//! What a write must fulfil. Every fault is named at once, so that an operator mends all of them together.
//!
//! The changes of a write are judged together: what one of them makes, another may name.

use crate::references;
use crate::state::State;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use types::BaseUrl;
use types::base_url::is_host_name;
use types::intent::{
    Agent, Change, Deployment, Drain, EngineSettings, Expect, Fault, Key, Kind, Model, Node, NodeKind,
    OpenAiServer, Policy, Reason, Region, Resource, ResourceId, Stored, Tenant, Version, What, Write,
    is_large_loss,
};

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

/// The state as it would be afterwards: none = deleted.
type After<'a> = BTreeMap<ResourceId, Option<&'a Resource>>;

pub(crate) fn all(state: &State, write: &Write) -> Result<(), Vec<Fault>> {
    let mut faults = Faults::default();
    if write.changes.is_empty() {
        faults.add("write", "changes", Reason::Missing);
    }
    if write.changes.len() > CHANGES_MAX {
        faults.add("write", "changes", Reason::TooMany { most: CHANGES_MAX as u64 });
        return faults.into_result();
    }
    let mut after = After::new();
    for change in &write.changes {
        let id = change.what.id();
        expected(&mut faults, state.get(&id).map(AsRef::as_ref), change, &id);
        let resource = match &change.what {
            What::Put(resource) => {
                fields(&mut faults, resource);
                unchangeable(&mut faults, state, resource);
                Some(resource)
            }
            What::Delete(_) => None,
        };
        if after.insert(id.clone(), resource).is_some() {
            faults.add(&id.to_string(), "", Reason::Duplicate);
        }
    }
    named(&mut faults, state, &after);
    used(&mut faults, state, &after);
    counts(&mut faults, state, &after, write.expects_shrink);
    faults.into_result()
}

impl Faults {
    pub(crate) fn old_sequence(last: u64) -> Vec<Fault> {
        let mut faults = Self::default();
        faults.add("write", "sequence", Reason::OldSequence { last });
        faults.0
    }

    fn add(&mut self, subject: &str, field: &str, reason: Reason) {
        // One write can be wrong in as many ways as it has fields; nobody reads more than this.
        if self.0.len() < FAULTS_MAX {
            self.0.push(Fault { subject: subject.to_owned(), field: field.to_owned(), reason });
        }
    }

    fn range(&mut self, subject: &str, field: &str, value: u64, least: u64, most: u64) {
        if !(least..=most).contains(&value) {
            let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            let (value, least, most) = (signed(value), signed(least), signed(most));
            self.add(subject, field, Reason::OutOfRange { value, least, most });
        }
    }

    fn text(&mut self, subject: &str, field: &str, text: &str, most: usize) {
        if text.len() > most {
            let text = format!("has {} bytes; {most} are the most", text.len());
            self.add(subject, field, Reason::Malformed { text });
        } else if text.chars().any(char::is_control) {
            let text = "has control characters".to_owned();
            self.add(subject, field, Reason::Malformed { text });
        }
    }

    fn into_result(self) -> Result<(), Vec<Fault>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

fn expected(faults: &mut Faults, before: Option<&Stored>, change: &Change, id: &ResourceId) {
    let reason = match (change.expect, before) {
        (Expect::Absent, Some(_)) => Reason::Exists,
        (Expect::Revision(expected), Some(before)) if before.revision != expected => {
            Reason::Stale { expected, actual: before.revision }
        }
        (Expect::Revision(_), None) => Reason::NotFound,
        (Expect::Anything, None) if matches!(change.what, What::Delete(_)) => Reason::NotFound,
        (Expect::Absent, None) if matches!(change.what, What::Delete(_)) => Reason::NotFound,
        (Expect::Anything | Expect::Absent | Expect::Revision(_), _) => return,
    };
    faults.add(&id.to_string(), "", reason);
}

/// What a resource's own fields must fulfil, whatever else there is.
fn fields(faults: &mut Faults, resource: &Resource) {
    let subject = resource.id().to_string();
    match resource {
        Resource::Region(region) => region_fields(faults, &subject, region),
        Resource::Node(node) => node_fields(faults, &subject, node),
        Resource::Policy(policy) => policy_fields(faults, &subject, policy),
        Resource::Tenant(tenant) => tenant_fields(faults, &subject, tenant),
        Resource::Key(key) => key_fields(faults, &subject, key),
        Resource::Version(version) => version_fields(faults, &subject, version),
        Resource::Deployment(deployment) => deployment_fields(faults, &subject, deployment),
        Resource::Drain(drain) => drain_fields(faults, &subject, drain),
        Resource::Model(model) => model_fields(faults, &subject, model),
        Resource::Zone(_) => {}
    }
}

fn region_fields(faults: &mut Faults, subject: &str, region: &Region) {
    for (field, value, most) in
        [("latitude_e6", region.latitude_e6, 90_000_000), ("longitude_e6", region.longitude_e6, 180_000_000)]
    {
        if !(-most..=most).contains(&value) {
            let (value, least, most) = (value.into(), (-most).into(), most.into());
            faults.add(subject, field, Reason::OutOfRange { value, least, most });
        }
    }
}

fn node_fields(faults: &mut Faults, subject: &str, node: &Node) {
    match &node.kind {
        NodeKind::Agent(agent) => agent_fields(faults, subject, agent),
        NodeKind::OpenAi(server) => server_fields(faults, subject, server),
    }
}

fn server_fields(faults: &mut Faults, subject: &str, server: &OpenAiServer) {
    if server.models.is_empty() {
        faults.add(subject, "models", Reason::Missing);
    }
    if server.models.len() > SERVER_MODELS_MAX {
        faults.add(subject, "models", Reason::TooMany { most: SERVER_MODELS_MAX as u64 });
    }
    duplicates(faults, subject, "models", server.models.iter());
    faults.range(subject, "slots", server.slots.into(), 1, SERVER_SLOTS_MAX);
    let is_open = server.base_url.host().parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    if is_open {
        faults.add(subject, "base_url", Reason::Malformed { text: "is no address to dial".to_owned() });
    }
    if server.secret.is_some() && !keeps_secrets(&server.base_url) {
        let text =
            "would be readable on its way: use https:// in base_url, or the address of the server in a \
                    private network"
                .to_owned();
        faults.add(subject, "secret", Reason::Malformed { text });
    }
}

/// Whether what is sent there passes no stranger. Behind a name may be any address, and another one tomorrow.
fn keeps_secrets(url: &BaseUrl) -> bool {
    let is_private = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local(),
    };
    url.is_tls() || url.host() == "localhost" || url.host().parse().is_ok_and(is_private)
}

fn agent_fields(faults: &mut Faults, subject: &str, node: &Agent) {
    if node.ingress.port() == 0 {
        faults.add(subject, "ingress", Reason::Malformed { text: "has no port".to_owned() });
    }
    if node.ingress.ip().is_unspecified() {
        faults.add(subject, "ingress", Reason::Malformed { text: "is no address to dial".to_owned() });
    }
    // Without a name nothing would be verified.
    if node.server_name.is_empty() {
        faults.add(subject, "server_name", Reason::Missing);
    } else if !is_host_name(&node.server_name) {
        faults.add(subject, "server_name", Reason::Malformed { text: "is no host name".to_owned() });
    }
}

fn policy_fields(faults: &mut Faults, subject: &str, policy: &Policy) {
    // No region at all would refuse every request; who means that deletes the keys.
    if policy.regions.as_ref().is_some_and(Vec::is_empty) {
        faults.add(subject, "regions", Reason::Missing);
    }
    duplicates(faults, subject, "regions", policy.regions.iter().flatten());
}

fn tenant_fields(faults: &mut Faults, subject: &str, tenant: &Tenant) {
    for (field, limit) in
        [("requests_per_minute", tenant.requests_per_minute), ("tokens_per_minute", tenant.tokens_per_minute)]
    {
        if let Some(limit) = limit {
            faults.range(subject, field, limit, 1, LIMIT_MAX);
        }
    }
}

fn key_fields(faults: &mut Faults, subject: &str, key: &Key) {
    if key.hash.as_bytes() == &[0; 32] {
        let text = "is all zero, which no secret has".to_owned();
        faults.add(subject, "hash", Reason::Malformed { text });
    }
    if key.expires_unix_ms.is_some_and(|at| at.0 == 0) {
        let text = "leave it out for a key that never expires".to_owned();
        faults.add(subject, "expires_unix_ms", Reason::Malformed { text });
    }
    if key.models.as_ref().is_some_and(Vec::is_empty) {
        faults.add(subject, "models", Reason::Missing);
    }
    if key.models.as_ref().is_some_and(|models| models.len() > KEY_MODELS_MAX) {
        faults.add(subject, "models", Reason::TooMany { most: KEY_MODELS_MAX as u64 });
    }
    duplicates(faults, subject, "models", key.models.iter().flatten());
}

fn version_fields(faults: &mut Faults, subject: &str, version: &Version) {
    if version.source.is_empty() {
        faults.add(subject, "source", Reason::Missing);
        return;
    }
    faults.text(subject, "source", &version.source, SOURCE_BYTES_MAX);
    let is_file = version.source.strip_prefix("file://").is_some_and(|path| path.starts_with('/'));
    if !is_file {
        let text = "must be file:// and an absolute path".to_owned();
        faults.add(subject, "source", Reason::Malformed { text });
    }
}

fn model_fields(faults: &mut Faults, subject: &str, model: &Model) {
    let Model { name: _, first_token_seconds, stall_seconds } = model;
    for (field, seconds) in [("first_token_seconds", first_token_seconds), ("stall_seconds", stall_seconds)] {
        if let Some(seconds) = seconds {
            faults.range(subject, field, (*seconds).into(), 1, TIME_OUT_SECONDS_MAX);
        }
    }
}

fn deployment_fields(faults: &mut Faults, subject: &str, deployment: &Deployment) {
    duplicates(
        faults,
        subject,
        "placements",
        deployment.placements.iter().map(|placement| &placement.region),
    );
    for (at, placement) in deployment.placements.iter().enumerate() {
        let field = format!("placements[{at}].replicas_per_node");
        faults.range(subject, &field, placement.replicas_per_node.into(), 0, REPLICAS_PER_NODE_MAX);
    }
    let EngineSettings { slots, threads, kv_tokens, step_time_ms } = deployment.engine;
    faults.range(subject, "engine.slots", slots.into(), 1, SLOTS_MAX);
    faults.range(subject, "engine.threads", threads.into(), 1, THREADS_MAX);
    faults.range(subject, "engine.step_time_ms", step_time_ms, 0, STEP_TIME_MS_MAX);
    if let Some(kv_tokens) = kv_tokens {
        faults.range(subject, "engine.kv_tokens", kv_tokens, 1, KV_TOKENS_MAX);
    }
}

fn drain_fields(faults: &mut Faults, subject: &str, drain: &Drain) {
    faults.text(subject, "reason", &drain.reason, REASON_BYTES_MAX);
    if drain.until_unix_ms.is_some_and(|at| at.0 == 0) {
        let text = "leave it out for a drain without an end".to_owned();
        faults.add(subject, "until_unix_ms", Reason::Malformed { text });
    }
}

fn duplicates<T: Ord>(faults: &mut Faults, subject: &str, field: &str, values: impl Iterator<Item = T>) {
    let mut seen = BTreeSet::new();
    for (at, value) in values.enumerate() {
        if !seen.insert(value) {
            faults.add(subject, &format!("{field}[{at}]"), Reason::Duplicate);
        }
    }
}

/// A version's digest names one thing for ever, and a key stays its tenant's.
fn unchangeable(faults: &mut Faults, state: &State, resource: &Resource) {
    let Some(before) = state.get(&resource.id()) else { return };
    let subject = resource.id().to_string();
    match (&before.resource, resource) {
        (Resource::Version(before), Resource::Version(version)) => {
            if before.model != version.model {
                let to = ResourceId::Model(before.model.clone()).to_string();
                faults.add(&subject, "version", Reason::Taken { to });
            } else if before.source != version.source {
                faults.add(&subject, "source", Reason::Immutable);
            }
        }
        (Resource::Key(before), Resource::Key(key)) => {
            if before.tenant != key.tenant {
                let to = ResourceId::Tenant(before.tenant.clone()).to_string();
                faults.add(&subject, "id", Reason::Taken { to });
            } else if before.hash != key.hash {
                faults.add(&subject, "hash", Reason::Immutable);
            }
        }
        _ => {}
    }
}

/// Everything that is named must be there afterwards.
fn named(faults: &mut Faults, state: &State, after: &After<'_>) {
    for (id, resource) in after {
        let Some(resource) = resource else { continue };
        for reference in references::of(resource) {
            if will_be(state, after, &reference.to).is_none() {
                faults.add(
                    &id.to_string(),
                    &reference.field,
                    Reason::Unknown { id: reference.to.to_string() },
                );
            }
        }
        if let Resource::Deployment(deployment) = resource
            && let Some(Resource::Version(version)) =
                will_be(state, after, &ResourceId::Version(deployment.version))
            && version.model != deployment.model
        {
            let to = ResourceId::Model(version.model.clone()).to_string();
            faults.add(&id.to_string(), "version", Reason::Taken { to });
        }
    }
}

/// What is named by something that stays cannot be deleted.
fn used(faults: &mut Faults, state: &State, after: &After<'_>) {
    for (id, resource) in after {
        if resource.is_some() {
            continue;
        }
        let mut users = state.users.of(id).filter(|by| match after.get(*by) {
            None => true,
            Some(None) => false,
            // It is changed by this write; whether it still names the deleted one was judged above.
            Some(Some(_)) => false,
        });
        if let Some(by) = users.next() {
            let reason = Reason::InUse { by: by.to_string(), more: users.count() as u64 };
            faults.add(&id.to_string(), "", reason);
        }
    }
}

fn counts(faults: &mut Faults, state: &State, after: &After<'_>, expects_shrink: bool) {
    for kind in Kind::ALL {
        let (mut made, mut lost) = (0, 0);
        for (id, resource) in after.iter().filter(|(id, _)| id.kind() == kind) {
            match (state.get(id), resource) {
                (None, Some(_)) => made += 1,
                (Some(_), None) => lost += 1,
                (None, None) | (Some(_), Some(_)) => {}
            }
        }
        let of = state.count(kind);
        if made > 0 && of + made - lost > most(kind) {
            faults.add("write", kind.as_str(), Reason::TooMany { most: most(kind) as u64 });
        }
        if !expects_shrink && is_large_loss(lost, of) {
            let reason = Reason::Shrink { kind: kind.to_string(), lost: lost as u64, of: of as u64 };
            faults.add("write", "expects_shrink", reason);
        }
    }
}

fn will_be<'a>(state: &'a State, after: &After<'a>, id: &ResourceId) -> Option<&'a Resource> {
    match after.get(id) {
        Some(resource) => *resource,
        None => state.get(id).map(|stored| &stored.resource),
    }
}

/// How many of a kind there may be: what a voter holds in a few gigabytes, and far above any fleet known.
fn most(kind: Kind) -> usize {
    match kind {
        Kind::Region => 256,
        Kind::Zone => 4_096,
        Kind::Node => 50_000,
        Kind::Policy => 100_000,
        Kind::Tenant => 1_000_000,
        Kind::Key => 10_000_000,
        Kind::Model | Kind::Deployment => 10_000,
        Kind::Version => 100_000,
        Kind::Drain => 50_256,
    }
}

/// One entry of the log stays small enough to be replicated within a heartbeat.
pub const CHANGES_MAX: usize = 1_000;
const FAULTS_MAX: usize = 100;
/// Above any machine, and safe to multiply.
const LIMIT_MAX: u64 = 1_000_000_000_000;
const KEY_MODELS_MAX: usize = 64;
/// An aggregator serves many; each is a row of every edge's table.
const SERVER_MODELS_MAX: usize = 256;
/// As many connections as one edge keeps to one server.
const SERVER_SLOTS_MAX: u64 = 4_096;
const SOURCE_BYTES_MAX: usize = 1_024;
const REASON_BYTES_MAX: usize = 256;
/// The same bounds as an agent's configuration has.
const REPLICAS_PER_NODE_MAX: u64 = 256;
const SLOTS_MAX: u64 = 4_096;
const THREADS_MAX: u64 = 1_024;
const STEP_TIME_MS_MAX: u64 = 60_000;
const KV_TOKENS_MAX: u64 = 1 << 40;
/// Ten minutes: clients and what stands between them and an edge do not wait for longer.
const TIME_OUT_SECONDS_MAX: u64 = 600;
