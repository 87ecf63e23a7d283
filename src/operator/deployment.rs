//! `rhumb deployment`: what a model's name stands for, and where it runs.

use crate::cli::Output;
use crate::operator::cluster::{Cluster, Known};
use crate::operator::confirm::confirm;
use crate::operator::{At, difference};
use crate::say::say;
use crate::table::table;
use crate::{duration, stdout};
use anyhow::bail;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::str::FromStr;
use std::time::Duration;
use types::intent::{Deployment as Intent, EngineSettings, Placement, Resource, ResourceId, Stored};
use types::{BadName, ModelName, ModelVersion, RegionName};

#[derive(Debug, Subcommand)]
pub enum Deployment {
    /// Say what a model's name stands for and where it runs; what is not said stays as it is
    Apply(Apply),
    /// List the deployments
    List {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub struct Apply {
    #[arg(long, value_name = "NAME")]
    model: ModelName,
    /// One of the model's versions [default: the deployed one, or the only one]
    #[arg(long, value_name = "sha256:HEX")]
    version: Option<ModelVersion>,
    /// Replicas on each node of each region, such as us-east=2,eu-west=1; regions left out run none
    #[arg(long, value_name = "REGION=N", value_delimiter = ',')]
    regions: Option<Vec<Wanted>>,
    /// Sequences that one replica runs at once
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    slots: Option<u32>,
    /// CPU threads of one replica
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    threads: Option<u32>,
    /// Tokens of KV cache of one replica
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    kv_tokens: Option<u64>,
    /// The least time of one decode step, such as 20ms; 0 is as fast as it goes
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    step_time: Option<Duration>,
    /// Do not ask, also where a region is left without a replica
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

/// `us-east=2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted(Placement);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadWanted {
    #[error("write it as REGION=N, such as us-east=2")]
    Shape,
    #[error(transparent)]
    Region(#[from] BadName),
}

/// What `--json` prints of a deployment.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    deployment: Intent,
    revision: u64,
}

impl Deployment {
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Apply(apply) => apply.run(),
            Self::List { at, output } => list(&Cluster::open(&at)?.read(&["deployment"])?, output.json),
        }
    }
}

impl Apply {
    fn run(self) -> anyhow::Result<()> {
        let cluster = Cluster::open(&self.at)?;
        let known = cluster.read(&["deployment", "version"])?;
        let (json, yes) = (self.output.json, self.yes);
        let wanted = self.wanted(&known)?;
        let resource = Resource::Deployment(wanted.clone());
        let revision = match difference::of_one(&known, &resource) {
            None => {
                say!("nothing to do: {} is so already", resource.id());
                known.get(&resource.id()).map(|stored| stored.revision)
            }
            Some(difference) => {
                say!("{difference}");
                let left = left(&known, &wanted);
                let question = || {
                    format!("No replica of {} will run in {} any more. Go on?", wanted.model, left.join(", "))
                };
                if !left.is_empty() && !confirm(&question(), yes)? {
                    return Ok(());
                }
                let revision = cluster.write(vec![difference.into_change()], false)?;
                say!("applied at revision {revision}");
                Some(revision)
            }
        };
        if json {
            let revision = revision.map_or(0, |revision| revision.0);
            stdout::print_json(&Row { deployment: wanted, revision })?;
        }
        Ok(())
    }

    /// What was typed over what is there.
    fn wanted(self, known: &Known) -> anyhow::Result<Intent> {
        let kept = match known.get(&ResourceId::Deployment(self.model.clone())).map(|stored| &stored.resource)
        {
            Some(Resource::Deployment(deployment)) => Some(deployment),
            _ => None,
        };
        let version = match (self.version, kept) {
            (Some(version), _) => version,
            (None, Some(kept)) => kept.version,
            (None, None) => only_version(known, &self.model)?,
        };
        let placements = match (self.regions, kept) {
            (Some(regions), _) => regions.into_iter().map(|Wanted(placement)| placement).collect(),
            (None, Some(kept)) => kept.placements.clone(),
            (None, None) => {
                bail!("deployment/{}: placements: say where it runs with `--regions`", self.model)
            }
        };
        let engine = kept.map(|kept| kept.engine).unwrap_or_default();
        let step_time_ms = self.step_time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Ok(Intent {
            model: self.model,
            version,
            placements,
            engine: EngineSettings {
                slots: self.slots.unwrap_or(engine.slots),
                threads: self.threads.unwrap_or(engine.threads),
                kv_tokens: self.kv_tokens.or(engine.kv_tokens),
                step_time_ms: step_time_ms.unwrap_or(engine.step_time_ms),
            },
        })
    }
}

/// The regions that run it and would not any more: whoever moves one replica easily forgets to name the others.
fn left(known: &Known, wanted: &Intent) -> Vec<String> {
    let runs = |placement: &&Placement| placement.replicas_per_node > 0;
    let stays =
        |region: &RegionName| wanted.placements.iter().filter(runs).any(|kept| kept.region == *region);
    match known.get(&ResourceId::Deployment(wanted.model.clone())).map(|stored| &stored.resource) {
        Some(Resource::Deployment(kept)) => {
            let regions = kept.placements.iter().filter(runs).map(|placement| &placement.region);
            regions.filter(|region| !stays(region)).map(ToString::to_string).collect()
        }
        _ => Vec::new(),
    }
}

fn only_version(known: &Known, model: &ModelName) -> anyhow::Result<ModelVersion> {
    let version = |stored: &Stored| match &stored.resource {
        Resource::Version(version) if version.model == *model => Some(version.version),
        _ => None,
    };
    let versions: Vec<ModelVersion> = known.values().filter_map(version).collect();
    match versions[..] {
        [version] => Ok(version),
        [] => bail!(
            "deployment/{model}: version: model {model} has none; add one with `rhumb model add {model} DIR`"
        ),
        _ => {
            let listed: Vec<String> = versions.iter().map(ToString::to_string).collect();
            bail!(
                "deployment/{model}: version: choose one of its {} with `--version`:\n  {}",
                versions.len(),
                listed.join("\n  ")
            )
        }
    }
}

fn list(known: &Known, json: bool) -> anyhow::Result<()> {
    let rows: Vec<Row> = known
        .values()
        .filter_map(|stored| match &stored.resource {
            Resource::Deployment(deployment) => {
                Some(Row { deployment: deployment.clone(), revision: stored.revision.0 })
            }
            _ => None,
        })
        .collect();
    if json {
        stdout::print_json(&rows)?;
        return Ok(());
    }
    let head = ["MODEL", "REPLICAS PER NODE", "SLOTS", "STEP", "VERSION"];
    let cells = |row: &Row| {
        let Intent { model, version, placements, engine } = &row.deployment;
        let places: Vec<String> = placements
            .iter()
            .map(|placement| format!("{}={}", placement.region, placement.replicas_per_node))
            .collect();
        let step = format!("{}ms", engine.step_time_ms);
        [model.to_string(), places.join(","), engine.slots.to_string(), step, version.to_string()]
    };
    stdout::print(&table(head.map(str::to_owned), rows.iter().map(cells)))?;
    Ok(())
}

impl FromStr for Wanted {
    type Err = BadWanted;

    fn from_str(text: &str) -> Result<Self, BadWanted> {
        let (region, replicas) = text.split_once('=').ok_or(BadWanted::Shape)?;
        let region: RegionName = region.trim().parse()?;
        let replicas_per_node = replicas.trim().parse().map_err(|_| BadWanted::Shape)?;
        Ok(Self(Placement { region, replicas_per_node }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::document::Document;
    use clap::Parser;
    use types::UnixMs;
    use types::intent::Revision;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        apply: Apply,
    }

    fn known(text: &str) -> Known {
        let stored = |resource| Stored { resource, revision: Revision(1), created_unix_ms: UnixMs(1) };
        let resources = Document::parse(text).unwrap().resources;
        resources.into_iter().map(|(id, resource)| (id, stored(resource))).collect()
    }

    fn wanted(text: &str, line: &str) -> anyhow::Result<Intent> {
        let words = format!("x --model m {line}");
        Line::try_parse_from(words.split_whitespace()).unwrap().apply.wanted(&known(text))
    }

    fn version(digit: &str) -> String {
        format!("[[version]]\nversion = 'sha256:{}'\nmodel = 'm'\nsource = 'file:///m'\n", digit.repeat(64))
    }

    #[test]
    fn what_is_not_said_stays() {
        let known = format!(
            "[[deployment]]\nmodel = 'm'\nversion = 'sha256:{}'\nplacements = [{{ region = 'a', replicas_per_node = 2 }}]\n\
             engine = {{ slots = 3, step_time_ms = 20 }}\n",
            "7".repeat(64)
        );
        let same = wanted(&known, "").unwrap();
        assert_eq!((same.engine.slots, same.engine.step_time_ms, same.placements.len()), (3, 20, 1));
        let other = wanted(&known, "--regions a=1,b=2 --slots 4").unwrap();
        assert_eq!((other.engine.slots, other.engine.step_time_ms, other.placements.len()), (4, 20, 2));
        assert_eq!(other.version, same.version);
    }

    #[test]
    fn the_only_version_is_meant_and_of_two_none_is_guessed() {
        assert!(wanted(&version("7"), "--regions a=1").is_ok());
        let error = wanted(&(version("7") + &version("8")), "--regions a=1").unwrap_err().to_string();
        assert!(error.contains("--version") && error.contains("8888"), "{error}");
        assert!(wanted("", "--regions a=1").unwrap_err().to_string().contains("rhumb model add m"));
        assert!(wanted(&version("7"), "").unwrap_err().to_string().contains("--regions"));
    }

    #[test]
    fn a_region_that_is_left_without_a_replica_is_named() {
        let text = format!(
            "[[deployment]]\nmodel = 'm'\nversion = 'sha256:{}'\nplacements = [\
             {{ region = 'a', replicas_per_node = 2 }}, {{ region = 'b', replicas_per_node = 1 }}, \
             {{ region = 'c', replicas_per_node = 0 }}]\n",
            "7".repeat(64)
        );
        let left = |line: &str| left(&known(&text), &wanted(&text, line).unwrap());
        assert_eq!(left("--regions a=0"), ["a", "b"]);
        assert_eq!(left("--regions a=1,b=0,d=1"), ["b"]);
        assert!(left("--regions b=1,a=1").is_empty() && left("--slots 4").is_empty());
    }

    #[test]
    fn a_placement_is_a_region_and_a_number() {
        assert_eq!("a=2".parse::<Wanted>().unwrap().0.replicas_per_node, 2);
        for bad in ["a", "a=", "a=-1", "a=x", "A=1", "a=70000"] {
            assert!(bad.parse::<Wanted>().is_err(), "{bad}");
        }
    }
}
