//! `rhumb get`: intent as a file that can be edited and applied again.

use crate::cli::Output;
use crate::failure::{Problems, WrongUsage};
use crate::operator::cluster::{Cluster, Known};
use crate::operator::difference::inner;
use crate::operator::{At, document};
use crate::stdout;
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use types::UnixMs;
use types::intent::{Kind, ResourceId, Stored};

#[derive(Debug, Args)]
pub struct Get {
    /// Kinds, such as tenant, or single resources, such as tenant/acme [default: everything]
    #[arg(value_name = "KIND[/NAME]")]
    what: Vec<String>,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

/// What `--json` prints of a resource.
#[derive(Debug, Serialize)]
struct Row {
    id: ResourceId,
    revision: u64,
    created_unix_ms: UnixMs,
    resource: Value,
}

impl Get {
    pub fn run(self) -> anyhow::Result<()> {
        let what = self.checked()?;
        let what: Vec<&str> = what.iter().map(String::as_str).collect();
        let (revision, known) = Cluster::open(&self.at)?.read_at(&what)?;
        missing(&what, &known)?;
        if self.output.json {
            let rows: Vec<Row> = known.values().map(Row::new).collect();
            stdout::print_json(&rows)?;
        } else {
            stdout::print(&document::write(revision, known.values().map(|stored| &stored.resource))?)?;
        }
        Ok(())
    }

    /// What was asked for, if all of it can be there.
    fn checked(&self) -> anyhow::Result<Vec<String>> {
        if self.what.is_empty() {
            return Ok(Kind::ALL.iter().map(ToString::to_string).collect());
        }
        for what in &self.what {
            let is_kind = Kind::ALL.iter().any(|kind| kind.as_str() == what);
            if is_kind || what.parse::<ResourceId>().is_ok() {
                continue;
            }
            let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            let words =
                format!("{what:?} is neither a kind nor <kind>/<name>; the kinds are {}", kinds.join(", "));
            return Err(WrongUsage(words).into());
        }
        Ok(self.what.clone())
    }
}

/// Whoever names one resource wants to know that it is not there.
fn missing(what: &[&str], known: &Known) -> anyhow::Result<()> {
    let ids = what.iter().filter_map(|what| what.parse::<ResourceId>().ok());
    let problems: Vec<String> =
        ids.filter(|id| !known.contains_key(id)).map(|id| format!("{id}: is not there")).collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Problems { problems, next: vec!["`rhumb get` shows everything that is there".to_owned()] }.into())
}

impl Row {
    fn new(stored: &Stored) -> Self {
        Self {
            id: stored.resource.id(),
            revision: stored.revision.0,
            created_unix_ms: stored.created_unix_ms,
            resource: inner(&stored.resource),
        }
    }
}
