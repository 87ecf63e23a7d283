//! `rhumb model`: names that clients ask for, and their versions.

use crate::cli::Output;
use crate::operator::cluster::{Cluster, Known, not_there};
use crate::operator::{At, difference};
use crate::say::say;
use crate::table::table;
use crate::{moment, stdout};
use anyhow::Context;
use clap::Subcommand;
use serde::Serialize;
use std::path::{Path, PathBuf};
use types::intent::{Resource, ResourceId};
use types::{ModelName, ModelVersion, UnixMs};

#[derive(Debug, Subcommand)]
pub enum Model {
    /// Make the model of a folder known, as a version of NAME, and print the version
    ///
    /// Nodes find its files under the same path; nothing is copied.
    Add {
        name: ModelName,
        /// The folder with manifest.json
        dir: PathBuf,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
    /// List the models
    List {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
    /// Show a model's versions
    Show {
        name: ModelName,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
}

/// What `--json` prints of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    name: ModelName,
    /// The version that its name stands for now.
    deployed: Option<ModelVersion>,
    versions: Vec<VersionRow>,
    created_unix_ms: UnixMs,
    revision: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct VersionRow {
    version: ModelVersion,
    source: String,
    created_unix_ms: UnixMs,
    revision: u64,
}

/// What `model add --json` prints.
#[derive(Debug, Serialize)]
struct Added {
    model: ModelName,
    version: ModelVersion,
    source: String,
}

impl Model {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Add { name, dir, at, output } => add(name, &dir, &at, output.json),
            Self::List { at, output } => {
                let rows = rows(&Cluster::open(&at)?.read(KINDS)?);
                match output.json {
                    true => stdout::print_json(&rows)?,
                    false => stdout::print(&listed(&rows))?,
                };
                Ok(())
            }
            Self::Show { name, at, output } => {
                let row = rows(&Cluster::open(&at)?.read(KINDS)?).into_iter().find(|row| row.name == name);
                let row = row.ok_or_else(|| not_there(&ResourceId::Model(name)))?;
                match output.json {
                    true => stdout::print_json(&row)?,
                    false => stdout::print(&row.shown())?,
                };
                Ok(())
            }
        }
    }
}

fn add(name: ModelName, dir: &Path, at: &At, json: bool) -> anyhow::Result<()> {
    let manifest = engine::manifest::read(dir)?;
    // An engine would refuse it, but only once it is deployed.
    manifest.verify(dir)?;
    let dir = dir.canonicalize().with_context(|| format!("cannot use {}", dir.display()))?;
    let dir = dir.to_str().with_context(|| format!("the path {} is not UTF-8", dir.display()))?;
    let version = manifest.version();
    let source = format!("file://{dir}");
    let cluster = Cluster::open(at)?;
    let known = cluster.read(&["model", &format!("version/{version}")])?;
    let wanted = [
        Resource::Model(types::intent::Model { name: name.clone() }),
        Resource::Version(types::intent::Version { version, model: name.clone(), source: source.clone() }),
    ];
    let differences: Vec<_> =
        wanted.iter().filter_map(|resource| difference::of_one(&known, resource)).collect();
    if differences.is_empty() {
        say!("version/{version} of {name} is known already");
    } else {
        // Not shown before: a version never changes, so nothing but an addition can come of it.
        let shown: Vec<String> = differences.iter().map(ToString::to_string).collect();
        let changes = differences.into_iter().map(difference::Difference::into_change).collect();
        let revision = cluster.write(changes, false)?;
        say!("{}", shown.join("\n"));
        say!(
            "added at revision {revision}; deploy it with `rhumb deployment apply --model {name} --version {version}`"
        );
    }
    match json {
        true => stdout::print_json(&Added { model: name, version, source })?,
        false => stdout::print(&format!("{version}\n"))?,
    };
    Ok(())
}

fn rows(known: &Known) -> Vec<Row> {
    known
        .values()
        .filter_map(|stored| {
            let Resource::Model(model) = &stored.resource else { return None };
            let deployed =
                match known.get(&ResourceId::Deployment(model.name.clone())).map(|kept| &kept.resource) {
                    Some(Resource::Deployment(deployment)) => Some(deployment.version),
                    _ => None,
                };
            Some(Row {
                name: model.name.clone(),
                deployed,
                versions: versions(known, &model.name),
                created_unix_ms: stored.created_unix_ms,
                revision: stored.revision.0,
            })
        })
        .collect()
}

fn versions(known: &Known, model: &ModelName) -> Vec<VersionRow> {
    let row = |stored: &types::intent::Stored| match &stored.resource {
        Resource::Version(version) if version.model == *model => Some(VersionRow {
            version: version.version,
            source: version.source.clone(),
            created_unix_ms: stored.created_unix_ms,
            revision: stored.revision.0,
        }),
        _ => None,
    };
    let mut rows: Vec<VersionRow> = known.values().filter_map(row).collect();
    rows.sort_by_key(|row| row.revision);
    rows
}

fn listed(rows: &[Row]) -> String {
    let head = ["MODEL", "VERSIONS", "DEPLOYED"];
    let cells = |row: &Row| {
        let deployed = row.deployed.map_or("nowhere".to_owned(), |version| version.to_string());
        [row.name.to_string(), row.versions.len().to_string(), deployed]
    };
    table(head.map(str::to_owned), rows.iter().map(cells))
}

impl Row {
    fn shown(&self) -> String {
        let head = ["VERSION", "DEPLOYED", "ADDED", "SOURCE"];
        let cells = |row: &VersionRow| {
            let deployed = if self.deployed == Some(row.version) { "yes" } else { "" };
            let added = moment::shown(row.created_unix_ms);
            [row.version.to_string(), deployed.to_owned(), added, row.source.clone()]
        };
        table(head.map(str::to_owned), self.versions.iter().map(cells))
    }
}

const KINDS: &[&str] = &["model", "version", "deployment"];
