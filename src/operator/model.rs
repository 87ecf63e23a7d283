//! `rhumb model`: names that clients ask for, and their versions.

use crate::cli::Output;
use crate::operator::cluster::{Cluster, Known, not_there};
use crate::operator::{At, difference};
use crate::say::say;
use crate::table::table;
use crate::{moment, stdout};
use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::{Path, PathBuf};
use types::intent::{Model as Intent, Resource, ResourceId};
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
        waits: Waits,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
    /// Say how long the clients of a model that is known wait
    Set {
        name: ModelName,
        #[command(flatten)]
        waits: Waits,
        #[command(flatten)]
        at: At,
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

/// How long its clients wait; what is not said stays as it is.
#[derive(Debug, Args)]
pub struct Waits {
    /// How long a request may wait for its first token: 1 to 600 [default: 60]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    first_token_seconds: Option<u32>,
    /// How long an answer may stand still before another node has to go on with it: 1 to 600 [default: 30]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    stall_seconds: Option<u32>,
}

/// What `--json` prints of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    name: ModelName,
    /// The version that its name stands for now.
    deployed: Option<ModelVersion>,
    versions: Vec<VersionRow>,
    first_token_seconds: u32,
    stall_seconds: u32,
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
            Self::Add { name, dir, waits, at, output } => add(name, &dir, &waits, &at, output.json),
            Self::Set { name, waits, at } => set(&name, &waits, &at),
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

fn add(name: ModelName, dir: &Path, waits: &Waits, at: &At, json: bool) -> anyhow::Result<()> {
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
        Resource::Model(waits.over(&known, &name)),
        Resource::Version(types::intent::Version { version, model: name.clone(), source: source.clone() }),
    ];
    let differences: Vec<_> =
        wanted.iter().filter_map(|resource| difference::of_one(&known, resource)).collect();
    if differences.is_empty() {
        say!("version/{version} of {name} is known already");
    } else {
        // Not asked before: a version never changes, and how long clients wait takes nothing from anybody.
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

fn set(name: &ModelName, waits: &Waits, at: &At) -> anyhow::Result<()> {
    let cluster = Cluster::open(at)?;
    let known = cluster.read(&["model"])?;
    let id = ResourceId::Model(name.clone());
    if !known.contains_key(&id) {
        return Err(not_there(&id));
    }
    match difference::of_one(&known, &Resource::Model(waits.over(&known, name))) {
        None => say!("nothing to do: {id} is so already"),
        Some(difference) => {
            say!("{difference}");
            let revision = cluster.write(vec![difference.into_change()], false)?;
            say!("set at revision {revision}");
        }
    }
    Ok(())
}

impl Waits {
    /// What was typed over what is there.
    fn over(&self, known: &Known, name: &ModelName) -> Intent {
        let model = match known.get(&ResourceId::Model(name.clone())).map(|stored| &stored.resource) {
            Some(Resource::Model(kept)) => kept.clone(),
            _ => Intent::named(name.clone()),
        };
        Intent {
            first_token_seconds: self.first_token_seconds.or(model.first_token_seconds),
            stall_seconds: self.stall_seconds.or(model.stall_seconds),
            ..model
        }
    }
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
                first_token_seconds: model.first_token_seconds.unwrap_or(Intent::FIRST_TOKEN_SECONDS),
                stall_seconds: model.stall_seconds.unwrap_or(Intent::STALL_SECONDS),
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
    let head = ["MODEL", "VERSIONS", "FIRST TOKEN", "STALL", "DEPLOYED"];
    let cells = |row: &Row| {
        let deployed = row.deployed.map_or("nowhere".to_owned(), |version| version.to_string());
        let waits = [row.first_token_seconds, row.stall_seconds].map(|seconds| format!("{seconds} s"));
        let [first_token, stall] = waits;
        [row.name.to_string(), row.versions.len().to_string(), first_token, stall, deployed]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::document::Document;
    use clap::Parser;
    use types::intent::{Revision, Stored};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        waits: Waits,
    }

    fn wanted(text: &str, line: &str) -> (Option<u32>, Option<u32>) {
        let stored = |resource| Stored { resource, revision: Revision(1), created_unix_ms: UnixMs(1) };
        let resources = Document::parse(text).unwrap().resources;
        let known: Known = resources.into_iter().map(|(id, resource)| (id, stored(resource))).collect();
        let line = Line::try_parse_from(format!("x {line}").split_whitespace()).unwrap();
        let model = line.waits.over(&known, &"m".parse().unwrap());
        (model.first_token_seconds, model.stall_seconds)
    }

    #[test]
    fn how_long_clients_wait_stays_unless_it_is_said() {
        let known = "[[model]]\nname = 'm'\nfirst_token_seconds = 5\n";
        assert_eq!(wanted("", ""), (None, None));
        assert_eq!(wanted(known, ""), (Some(5), None));
        assert_eq!(wanted(known, "--stall-seconds 7"), (Some(5), Some(7)));
        assert_eq!(wanted(known, "--first-token-seconds 600"), (Some(600), None));
    }
}
