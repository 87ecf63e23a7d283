//! `rhumb key`: what clients prove themselves by. A secret is made here and shown once; only its hash is sent.

use crate::cli::Output;
use crate::operator::At;
use crate::operator::cluster::{Cluster, Known, Removed, not_there};
use crate::say::say;
use crate::table::table;
use crate::{duration, moment, stdout};
use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::time::Duration;
use types::intent::{Change, Expect, Resource, ResourceId, What};
use types::{ApiKey, KeyId, ModelName, TenantName, UnixMs};

#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key of a tenant and print it: it is shown only now
    Create(Create),
    /// List the keys, without their secrets
    List {
        /// Only those of this tenant
        #[arg(long, value_name = "NAME")]
        tenant: Option<TenantName>,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
    /// Take a key back: at every edge within two seconds
    Revoke {
        /// The 16 characters after `rk_`
        id: KeyId,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    /// Who pays for what it opens
    #[arg(long, value_name = "NAME")]
    tenant: TenantName,
    /// How long it opens anything, such as 30d [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = duration::parse_some)]
    expires_in: Option<Duration>,
    /// The models that it may ask, separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    models: Option<Vec<ModelName>>,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

/// What `key create --json` prints.
#[derive(Debug, Serialize)]
struct Created {
    key: String,
    id: KeyId,
}

/// What `--json` prints of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    pub id: KeyId,
    pub tenant: TenantName,
    /// Null = never.
    pub expires_unix_ms: Option<UnixMs>,
    /// Null = all.
    pub models: Option<Vec<ModelName>>,
    pub created_unix_ms: UnixMs,
    pub revision: u64,
}

impl Key {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => create.run(),
            Self::List { tenant, at, output } => {
                let known = Cluster::open(&at)?.read(&["tenant", "key"])?;
                if let Some(id) = tenant.clone().map(ResourceId::Tenant)
                    && !known.contains_key(&id)
                {
                    return Err(not_there(&id));
                }
                let mut rows = rows(&known);
                rows.retain(|row| tenant.as_ref().is_none_or(|tenant| row.tenant == *tenant));
                match output.json {
                    true => stdout::print_json(&rows)?,
                    false => stdout::print(&shown(&rows))?,
                };
                Ok(())
            }
            Self::Revoke { id, at, output } => {
                let what = What::Delete(ResourceId::Key(id));
                // Who names one key means it, however few there are.
                let revision =
                    Cluster::open(&at)?.write(vec![Change { expect: Expect::Anything, what }], true)?;
                say!("revoked key/{id} at revision {revision}");
                if output.json {
                    let removed = Removed { id: ResourceId::Key(id), revision: Some(revision.0) };
                    stdout::print_json(&removed)?;
                }
                Ok(())
            }
        }
    }
}

impl Create {
    fn run(self) -> anyhow::Result<()> {
        let cluster = Cluster::open(&self.at)?;
        // A model may be made later than its keys, but more often its name is mistyped.
        if let Some(models) = &self.models {
            let known = cluster.read(&["model"])?;
            for model in
                models.iter().filter(|model| !known.contains_key(&ResourceId::Model((*model).clone())))
            {
                say!("note: there is no model/{model} yet; the key opens it once it is made");
            }
        }
        let key = draw()?;
        let resource = Resource::Key(types::intent::Key {
            id: key.id(),
            tenant: self.tenant,
            hash: key.hash(),
            expires_unix_ms: self.expires_in.map(moment::from_now),
            models: self.models,
        });
        cluster.write(vec![Change { expect: Expect::Absent, what: What::Put(resource) }], false)?;
        if self.output.json {
            stdout::print_json(&Created { key: key.reveal(), id: key.id() })?;
        } else {
            say!("created key/{}; it is shown only now:", key.id());
            stdout::print(&format!("{}\n", key.reveal()))?;
        }
        Ok(())
    }
}

/// A new key that nobody else can guess.
pub fn draw() -> anyhow::Result<ApiKey> {
    let (mut id, mut secret) = ([0; 10], [0; 32]);
    getrandom::fill(&mut id)
        .and_then(|()| getrandom::fill(&mut secret))
        .context("the operating system gives no randomness")?;
    Ok(ApiKey::from_random(id, secret))
}

pub fn rows(known: &Known) -> Vec<Row> {
    let row = |stored: &types::intent::Stored| {
        let Resource::Key(key) = &stored.resource else { return None };
        Some(Row {
            id: key.id,
            tenant: key.tenant.clone(),
            expires_unix_ms: key.expires_unix_ms,
            models: key.models.clone(),
            created_unix_ms: stored.created_unix_ms,
            revision: stored.revision.0,
        })
    };
    known.values().filter_map(row).collect()
}

pub fn shown(rows: &[Row]) -> String {
    let head = ["KEY", "TENANT", "MODELS", "EXPIRES", "CREATED"];
    let now = moment::now();
    let cells = |row: &Row| {
        let models = row
            .models
            .as_ref()
            .map(|models| models.iter().map(ModelName::as_str).collect::<Vec<_>>().join(","));
        let expires = match row.expires_unix_ms {
            None => "never".to_owned(),
            Some(at) if at <= now => "expired".to_owned(),
            Some(at) => moment::shown(at),
        };
        [
            row.id.to_string(),
            row.tenant.to_string(),
            models.unwrap_or("all".to_owned()),
            expires,
            moment::shown(row.created_unix_ms),
        ]
    };
    table(head.map(str::to_owned), rows.iter().map(cells))
}
