//! `rhumb apply`: makes the intent what a file says, after showing what that changes.

use crate::cli::Output;
use crate::failure::Problems;
use crate::operator::At;
use crate::operator::cluster::Cluster;
use crate::operator::confirm::confirm;
use crate::operator::difference::{self, Action, Difference};
use crate::operator::document::Document;
use crate::say::say;
use crate::stdout;
use anyhow::Context;
use clap::Args;
use serde::Serialize;
use std::io::Read;
use std::path::{Path, PathBuf};
use types::intent::Kind;

#[derive(Debug, Args)]
pub struct Apply {
    /// TOML with [[tenant]], [[policy]] and the other kinds, as `rhumb get` prints it; - is standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Also remove what the file leaves out, of the kinds that it speaks of
    #[arg(long)]
    prune: bool,
    /// Go on also where this removes a large part of some kind
    #[arg(long)]
    expect_shrink: bool,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    output: Output,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Applied<'a> {
    changes: &'a [Difference],
    /// The write's own; null if there was nothing to do.
    revision: Option<u64>,
}

impl Apply {
    pub fn run(self) -> anyhow::Result<()> {
        let wanted = read(&self.file)?;
        let cluster = Cluster::open(&self.at)?;
        let kinds: Vec<&str> = wanted.kinds.iter().map(|kind: &Kind| kind.as_str()).collect();
        let differences = match kinds[..] {
            [] => Vec::new(),
            _ => {
                let known = cluster.read(&kinds)?;
                let differences = difference::between(&known, &wanted, self.prune);
                if let Some(since) = wanted.revision {
                    not_overtaken(difference::overtaken(&known, &differences, since))?;
                }
                differences
            }
        };
        if differences.is_empty() {
            let file = shown(&self.file);
            match wanted.kinds.is_empty() {
                true => say!("nothing to do: {file} names nothing"),
                false => say!("nothing to do: all of {file} is so already"),
            }
            return self.print(&[], None);
        }
        for difference in &differences {
            self.show(&format!("{difference}\n"))?;
        }
        if !confirm(&question(&differences), self.yes)? {
            return Ok(());
        }
        let changes = differences.iter().cloned().map(Difference::into_change).collect();
        let revision = cluster.write(changes, self.expect_shrink)?;
        say!("applied at revision {revision}");
        self.print(&differences, Some(revision.0))
    }

    /// The diff is what one looks at, so it is data; with `--json` it goes beside the data.
    fn show(&self, text: &str) -> anyhow::Result<()> {
        match self.output.json {
            true => say!("{}", text.trim_end()),
            false => drop(stdout::print(text)?),
        }
        Ok(())
    }

    fn print(&self, changes: &[Difference], revision: Option<u64>) -> anyhow::Result<()> {
        if self.output.json {
            stdout::print_json(&Applied { changes, revision })?;
        }
        Ok(())
    }
}

fn not_overtaken(problems: Vec<String>) -> anyhow::Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let next = vec![
        "`rhumb get` again and edit that; nothing was changed".to_owned(),
        "or take `revision` out of the file, to have it your way whatever others did".to_owned(),
    ];
    Err(Problems { problems, next }.into())
}

fn question(differences: &[Difference]) -> String {
    let count = |action| differences.iter().filter(|difference| difference.action == action).count();
    format!("Add {}, change {}, remove {}?", count(Action::Add), count(Action::Change), count(Action::Remove))
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

fn read(path: &Path) -> anyhow::Result<Document> {
    let shown = shown(path);
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(FILE_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
    };
    if read.with_context(|| format!("cannot read {shown}"))? as u64 == FILE_BYTES_MAX {
        anyhow::bail!("{shown} has {FILE_BYTES_MAX} bytes or more; apply it in parts");
    }
    Document::parse(&text).map_err(|problems| {
        let problems = problems.into_iter().map(|problem| format!("{shown}: {problem}")).collect();
        Problems { problems, next: vec!["mend the file; nothing was changed".to_owned()] }.into()
    })
}

/// Far more than one write can hold.
const FILE_BYTES_MAX: u64 = 32 << 20;
