//! How intent is changed, and why a change is refused.

use super::resource::Resource;
use super::resource_id::ResourceId;
use super::revision::Revision;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Changes that happen together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub client: ClientId,
    /// Grows with each write of one client. A repeated one is answered as the first was and changes nothing.
    pub sequence: u64,
    pub changes: Vec<Change>,
    /// The writer knows that this removes a large part of some kind. Without it such a write is refused, here and
    /// by everyone who receives it.
    pub expects_shrink: bool,
}

/// Who retries: drawn at random by each process that writes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub [u8; 16]);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub expect: Expect,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Put(Resource),
    /// Deleting what is not there is a fault, unless nothing was expected of it.
    Delete(ResourceId),
}

/// What must be there before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expect {
    #[default]
    Anything,
    /// It must not be there yet.
    Absent,
    /// It must be there, last changed by this write.
    Revision(Revision),
}

/// One thing that is wrong with a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{subject}{}{field}: {reason}", if field.is_empty() { "" } else { ": " })]
pub struct Fault {
    /// The change's resource, as [`ResourceId`] writes it; `write` for the write as a whole.
    pub subject: String,
    /// The field's name, with an index where it is one of several; empty for the resource as a whole.
    pub field: String,
    pub reason: Reason,
}

/// Why, in the words of the field: programs read the variant, people the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "code")]
pub enum Reason {
    #[error("is missing")]
    Missing,
    #[error("{text}")]
    Malformed { text: String },
    #[error("{value} is not within {least} and {most}")]
    OutOfRange { value: i64, least: i64, most: i64 },
    #[error("is there already")]
    Exists,
    #[error("is not there")]
    NotFound,
    #[error("there is no {id}")]
    Unknown { id: String },
    #[error("is named twice")]
    Duplicate,
    #[error("was changed at revision {actual}, not {expected}; read it again")]
    Stale { expected: Revision, actual: Revision },
    #[error("{by} uses it{}", if *more > 0 { format!(" (and {more} more)") } else { String::new() })]
    InUse { by: String, more: u64 },
    #[error("belongs to {to} already")]
    Taken { to: String },
    #[error("cannot be changed once it is made")]
    Immutable,
    #[error("would remove {lost} of {of} {kind} resources; say that you expect it")]
    Shrink { kind: String, lost: u64, of: u64 },
    #[error("there may be {most} at most")]
    TooMany { most: u64 },
    #[error("is older than the last one, {last}")]
    OldSequence { last: u64 },
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl What {
    pub fn id(&self) -> ResourceId {
        match self {
            Self::Put(resource) => resource.id(),
            Self::Delete(id) => id.clone(),
        }
    }
}

/// A loss this large is more often a mistake than a wish: refused by the control plane and by everyone who receives
/// it, unless an operator said that it is expected.
pub fn is_large_loss(lost: usize, of: usize) -> bool {
    of >= SHRINK_FROM && lost * 100 > of * SHRINK_PERCENT_MAX
}

const SHRINK_FROM: usize = 10;
const SHRINK_PERCENT_MAX: usize = 30;
