//! `rhumb tenant`: who pays, and how their requests are treated.

use crate::cli::Output;
use crate::operator::cluster::{Cluster, Known, Removed, not_there};
use crate::operator::confirm::confirm;
use crate::operator::{At, key};
use crate::say::say;
use crate::stdout;
use crate::table::table;
use clap::{Args, Subcommand};
use serde::Serialize;
use types::intent::{Change, Expect, Policy, Resource, ResourceId, Resume, Stored, What};
use types::{PolicyName, Priority, RegionName, TenantName, UnixMs};

#[derive(Debug, Subcommand)]
pub enum Tenant {
    /// Make a tenant; with --regions, --priority or --resume also a policy of the same name
    Create(Create),
    /// List the tenants
    List {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
    /// Show a tenant, its policy and its keys
    Show {
        name: TenantName,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
    /// Remove a tenant that has no keys any more
    Delete {
        name: TenantName,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    name: TenantName,
    /// [default: no limit]; kept and handed out, but no edge enforces it yet
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    requests_per_minute: Option<u64>,
    /// [default: no limit]; kept and handed out, but no edge enforces it yet
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    tokens_per_minute: Option<u64>,
    /// Where its requests may go, separated by commas [default: everywhere]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    regions: Option<Vec<RegionName>>,
    /// Who yields first when there is too little room: batch, then standard, then interactive
    #[arg(long, value_name = "CLASS")]
    priority: Option<Priority>,
    /// What may happen to a stream whose engine died: exact, approximate or off
    #[arg(long, value_name = "HOW")]
    resume: Option<Resume>,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

/// What `--json` prints of a tenant. What its policy leaves open is filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    name: TenantName,
    policy: Option<PolicyName>,
    /// Null = everywhere.
    regions: Option<Vec<RegionName>>,
    priority: Priority,
    resume: Resume,
    requests_per_minute: Option<u64>,
    tokens_per_minute: Option<u64>,
    created_unix_ms: UnixMs,
    revision: u64,
    keys: Vec<key::Row>,
}

impl Tenant {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => create.run(),
            Self::List { at, output } => {
                let known = Cluster::open(&at)?.read(&["tenant", "policy", "key"])?;
                list(&rows(&known), output.json)
            }
            Self::Show { name, at, output } => {
                let known = Cluster::open(&at)?.read(&["tenant", "policy", "key"])?;
                let row = rows(&known).into_iter().find(|row| row.name == name);
                let row = row.ok_or_else(|| not_there(&ResourceId::Tenant(name)))?;
                match output.json {
                    true => stdout::print_json(&row)?,
                    false => stdout::print(&row.shown())?,
                };
                Ok(())
            }
            Self::Delete { name, yes, at, output } => delete(&name, yes, &at, output.json),
        }
    }
}

impl Create {
    fn run(self) -> anyhow::Result<()> {
        let cluster = Cluster::open(&self.at)?;
        let json = self.output.json;
        let name = self.name.clone();
        let changes: Vec<Change> = self
            .resources()
            .into_iter()
            .map(|resource| Change { expect: Expect::Absent, what: What::Put(resource) })
            .collect();
        let revision = cluster.write(changes, false)?;
        if json {
            let known = cluster.read(&["tenant", "policy", "key"])?;
            let row = rows(&known).into_iter().find(|row| row.name == name);
            stdout::print_json(&row)?;
        } else {
            say!("created tenant/{name} at revision {revision}");
        }
        Ok(())
    }

    /// A tenant's own name for its policy, so that both are found together.
    fn resources(self) -> Vec<Resource> {
        let Self { name, requests_per_minute, tokens_per_minute, regions, priority, resume, .. } = self;
        let has_policy = regions.is_some() || priority.is_some() || resume.is_some();
        let policy = has_policy.then(|| Policy {
            name: policy_name(&name),
            regions,
            priority: priority.unwrap_or_default(),
            resume: resume.unwrap_or_default(),
        });
        let tenant = types::intent::Tenant {
            policy: policy.as_ref().map(|policy| policy.name.clone()),
            name,
            requests_per_minute,
            tokens_per_minute,
        };
        policy.map(Resource::Policy).into_iter().chain([Resource::Tenant(tenant)]).collect()
    }
}

fn delete(name: &TenantName, yes: bool, at: &At, json: bool) -> anyhow::Result<()> {
    let cluster = Cluster::open(at)?;
    let known = cluster.read(&["tenant", "policy"])?;
    let id = ResourceId::Tenant(name.clone());
    let mut stored: Vec<&Stored> = known.get(&id).into_iter().collect();
    if stored.is_empty() {
        return Err(not_there(&id));
    }
    stored.extend(own_policy(&known, name));
    for one in &stored {
        say!("- {}", one.resource.id());
    }
    if !confirm("Remove it?", yes)? {
        return Ok(());
    }
    let changes = stored.into_iter().map(|stored| Change {
        expect: Expect::Revision(stored.revision),
        what: What::Delete(stored.resource.id()),
    });
    // Who names one thing to remove means it, however few there are.
    let revision = cluster.write(changes.collect(), true)?;
    say!("removed {id} at revision {revision}");
    if json {
        stdout::print_json(&Removed { id, revision: Some(revision.0) })?;
    }
    Ok(())
}

/// The policy that `create` made along with a tenant, unless others have come to use it.
fn own_policy<'a>(known: &'a Known, name: &TenantName) -> Option<&'a Stored> {
    let policy = policy_name(name);
    let is_used = |tenant: &types::intent::Tenant| tenant.policy.as_ref() == Some(&policy);
    let tenants = known.values().filter_map(|stored| match &stored.resource {
        Resource::Tenant(tenant) => Some(tenant),
        _ => None,
    });
    let users: Vec<&TenantName> =
        tenants.filter(|tenant| is_used(tenant)).map(|tenant| &tenant.name).collect();
    (users == [name]).then(|| known.get(&ResourceId::Policy(policy))).flatten()
}

fn policy_name(tenant: &TenantName) -> PolicyName {
    tenant.as_str().parse().expect("tenants and policies are named by the same pattern")
}

fn rows(known: &Known) -> Vec<Row> {
    known
        .values()
        .filter_map(|stored| {
            let Resource::Tenant(tenant) = &stored.resource else { return None };
            let policy = tenant.policy.clone().and_then(|name| {
                match &known.get(&ResourceId::Policy(name))?.resource {
                    Resource::Policy(policy) => Some(policy.clone()),
                    _ => None,
                }
            });
            let mut keys = key::rows(known);
            keys.retain(|key| key.tenant == tenant.name);
            Some(Row {
                name: tenant.name.clone(),
                policy: tenant.policy.clone(),
                regions: policy.as_ref().and_then(|policy| policy.regions.clone()),
                priority: policy.as_ref().map(|policy| policy.priority).unwrap_or_default(),
                resume: policy.as_ref().map(|policy| policy.resume).unwrap_or_default(),
                requests_per_minute: tenant.requests_per_minute,
                tokens_per_minute: tenant.tokens_per_minute,
                created_unix_ms: stored.created_unix_ms,
                revision: stored.revision.0,
                keys,
            })
        })
        .collect()
}

fn list(rows: &[Row], json: bool) -> anyhow::Result<()> {
    if json {
        stdout::print_json(&rows)?;
        return Ok(());
    }
    let head = ["TENANT", "REGIONS", "PRIORITY", "RESUME", "REQUESTS/MIN", "TOKENS/MIN", "KEYS"];
    let cells = |row: &Row| {
        [
            row.name.to_string(),
            row.shown_regions(),
            row.priority.to_string(),
            row.resume.to_string(),
            shown_limit(row.requests_per_minute),
            shown_limit(row.tokens_per_minute),
            row.keys.len().to_string(),
        ]
    };
    stdout::print(&table(head.map(str::to_owned), rows.iter().map(cells)))?;
    Ok(())
}

impl Row {
    fn shown_regions(&self) -> String {
        match &self.regions {
            None => "all".to_owned(),
            Some(regions) => regions.iter().map(RegionName::as_str).collect::<Vec<_>>().join(","),
        }
    }

    fn shown(&self) -> String {
        let rows = [
            ("tenant", self.name.to_string()),
            ("policy", self.policy.as_ref().map_or("none".to_owned(), ToString::to_string)),
            ("regions", self.shown_regions()),
            ("priority", self.priority.to_string()),
            ("resume", self.resume.to_string()),
            ("requests per minute", shown_limit(self.requests_per_minute)),
            ("tokens per minute", shown_limit(self.tokens_per_minute)),
            ("created", crate::moment::shown(self.created_unix_ms)),
            ("revision", self.revision.to_string()),
        ];
        let facts: String = rows.iter().map(|(name, value)| format!("{name:20} {value}\n")).collect();
        format!("{facts}\n{}", key::shown(&self.keys))
    }
}

fn shown_limit(limit: Option<u64>) -> String {
    limit.map_or("no limit".to_owned(), |limit| limit.to_string())
}
