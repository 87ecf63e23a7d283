//! Reads and writes of one cluster's intent, with errors that say what to do.

use crate::failure::Problems;
use crate::operator::context::{self, At};
use client::operator::OperatorError;
use client::{Dialer, MemberAddress, Operator};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;
use types::intent::{Change, Fault, Reason, ResourceId, Revision, Stored};

/// What `--json` prints of what was taken away.
#[derive(Debug, Serialize)]
pub struct Removed {
    pub id: ResourceId,
    /// Of the removal; null if it was not there.
    pub revision: Option<u64>,
}

/// Resources by their names, in the order of their kinds.
pub type Known = BTreeMap<ResourceId, Stored>;

/// A cluster, as whoever a context file says.
pub struct Cluster {
    runtime: Runtime,
    operator: Operator,
    pub dialer: Dialer,
    pub members: Vec<MemberAddress>,
}

impl Cluster {
    pub fn open(at: &At) -> anyhow::Result<Self> {
        Self::of_context(&at.file()?)
    }

    pub fn of_context(path: &Path) -> anyhow::Result<Self> {
        let (dialer, members) = context::dial(path)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let operator = Operator::new(dialer.clone(), members.clone());
        Ok(Self { runtime, operator, dialer, members })
    }

    /// `what`: kinds, or single resources as `<kind>/<name>`; all of one state.
    pub fn read(&self, what: &[&str]) -> anyhow::Result<Known> {
        Ok(self.read_at(what)?.1)
    }

    /// The same, and the revision of that state.
    pub fn read_at(&self, what: &[&str]) -> anyhow::Result<(Revision, Known)> {
        self.run(read_at(&self.operator, what))
    }

    /// All changes or none; the revision afterwards.
    pub fn write(&self, changes: Vec<Change>, expects_shrink: bool) -> anyhow::Result<Revision> {
        self.run(write(&self.operator, changes, expects_shrink))
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

pub async fn read(operator: &Operator, what: &[&str]) -> anyhow::Result<Known> {
    Ok(read_at(operator, what).await?.1)
}

async fn read_at(operator: &Operator, what: &[&str]) -> anyhow::Result<(Revision, Known)> {
    let read = tokio::time::timeout(ANSWER_MAX, operator.read(what)).await;
    let (position, resources) = read.map_err(|_| silent())?.map_err(explained)?;
    let known = resources.into_iter().map(|stored| (stored.resource.id(), stored)).collect();
    Ok((position.revision, known))
}

pub async fn write(
    operator: &Operator,
    changes: Vec<Change>,
    expects_shrink: bool,
) -> anyhow::Result<Revision> {
    let written = tokio::time::timeout(ANSWER_MAX, operator.write(changes, expects_shrink)).await;
    Ok(written.map_err(|_| silent())?.map_err(unwritten)?.revision)
}

fn silent() -> anyhow::Error {
    Problems {
        problems: vec![format!(
            "no member of the control plane answers within {} s; whether a change was made is not known",
            ANSWER_MAX.as_secs()
        )],
        next: vec![LOOK.to_owned()],
    }
    .into()
}

/// A member may die between a write and its answer.
fn unwritten(error: OperatorError) -> anyhow::Error {
    let is_silence = matches!(error, OperatorError::NoMember(_));
    let mut error = explained(error);
    if is_silence && let Some(Problems { next, .. }) = error.downcast_mut() {
        next.push("whether it was done is not known; look with `rhumb get` before you repeat it".to_owned());
    }
    error
}

fn explained(error: OperatorError) -> anyhow::Error {
    match error {
        OperatorError::Refused(faults) => Problems {
            problems: faults.iter().map(ToString::to_string).collect(),
            next: faults.iter().map(next_step).collect::<BTreeSet<_>>().into_iter().collect(),
        }
        .into(),
        OperatorError::NoMember(ref status) => {
            let problem = format!("{error}: {}", status.message());
            Problems { problems: vec![problem], next: vec![LOOK.to_owned()] }.into()
        }
        // Its code says nothing that the message does not.
        OperatorError::Denied(ref status) => anyhow::anyhow!("{error}: {}", status.message()),
        other @ OperatorError::BadAnswer(_) => other.into(),
    }
}

/// What was named is not among what is known.
pub fn not_there(id: &ResourceId) -> anyhow::Error {
    Problems {
        problems: vec![format!("{id}: is not there")],
        next: vec![format!("`rhumb get {}` shows what is there", id.kind())],
    }
    .into()
}

/// What whoever reads a fault can do about it.
fn next_step(fault: &Fault) -> String {
    let subject = &fault.subject;
    match &fault.reason {
        Reason::Exists => format!("`rhumb get {subject}` shows it; `rhumb apply` changes it"),
        Reason::Stale { .. } => {
            format!("somebody else changed it; look at it with `rhumb get {subject}`, and try again")
        }
        Reason::NotFound => {
            let kind = subject.split('/').next().unwrap_or_default();
            format!("`rhumb get {kind}` shows what is there")
        }
        Reason::Unknown { id } => {
            let kind = id.split('/').next().unwrap_or_default();
            format!("`rhumb get {kind}` shows what is there; make {id} first if it is meant")
        }
        Reason::InUse { by, .. } => format!("change or remove {by} first; nothing was changed"),
        Reason::TooMany { .. } if fault.field == "changes" => {
            "one write takes no more; apply the file in parts; nothing was changed".to_owned()
        }
        Reason::Immutable if subject.starts_with("version/") => {
            format!("a version never changes; `rhumb get {subject}` shows it; nothing was changed")
        }
        Reason::Shrink { .. } => "say that it is meant with `--expect-shrink`".to_owned(),
        Reason::Missing
        | Reason::Malformed { .. }
        | Reason::OutOfRange { .. }
        | Reason::Duplicate
        | Reason::Taken { .. }
        | Reason::Immutable
        | Reason::TooMany { .. }
        | Reason::OldSequence { .. } => "mend it and try again; nothing was changed".to_owned(),
    }
}

const LOOK: &str = "`rhumb status` shows who answers; requests go on without a control plane";
/// An election takes two or three seconds; a write waits for it and is tried again.
const ANSWER_MAX: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Problems;

    #[test]
    fn every_fault_is_named_and_each_next_step_once() {
        let fault = |field: &str, reason| Fault {
            subject: "tenant/acme".to_owned(),
            field: field.to_owned(),
            reason,
        };
        let error = explained(OperatorError::Refused(vec![
            fault("requests_per_minute", Reason::OutOfRange { value: 0, least: 1, most: 9 }),
            fault("tokens_per_minute", Reason::OutOfRange { value: 0, least: 1, most: 9 }),
            fault("policy", Reason::Unknown { id: "policy/gold".to_owned() }),
        ]));
        let Problems { problems, next } = error.downcast_ref().unwrap();
        assert_eq!(problems[0], "tenant/acme: requests_per_minute: 0 is not within 1 and 9");
        assert_eq!((problems.len(), next.len()), (3, 2));
        assert!(next.iter().any(|step| step.contains("rhumb get policy")));
    }
}
