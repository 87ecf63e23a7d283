//! What is believed of what members send. Pure: it says what an update leads to, or why it leads nowhere.

use crate::picture::{Advance, Event, Picture};
use prost::Message;
use proto::{BadMessage, v1};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use types::intent::{Incarnation, Kind, Position, ResourceId, Revision, Stored, is_large_loss};

/// The updates of one subscription, one after the other.
pub(crate) struct Intake {
    kinds: Vec<Kind>,
    parts: Option<Parts>,
}

/// What an update leads to.
#[derive(Debug, PartialEq)]
pub(crate) enum Taken {
    /// A part of a snapshot; others follow.
    Part,
    /// What we have is right up to here.
    Same(Revision),
    Whole(Picture),
    These(Advance),
}

/// Why an update leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("it follows revision {follows}, and what is here is {has}")]
    Gap { has: Revision, follows: Revision },
    #[error("it is of revision {got}, and {has} is here already")]
    NotNewer { has: Revision, got: Revision },
    /// Incarnations have no order, so none is newer. A restore must tell those who follow.
    #[error("it is of incarnation {got}, and what is kept here is of {has}; remove that to follow the other")]
    Foreign { has: Incarnation, got: Incarnation },
    #[error("it cannot be read: {0}")]
    Bad(#[from] BadMessage),
    #[error("{id} was not asked for")]
    NotAsked { id: ResourceId },
    #[error("{id} is there twice")]
    Twice { id: ResourceId },
    #[error("the parts of a snapshot do not belong together")]
    Torn,
    #[error("a snapshot is larger than {SNAPSHOT_BYTES_MAX} bytes")]
    TooLarge,
    #[error("a snapshot of {total} resources holds {came}")]
    Incomplete { total: u64, came: u64 },
    #[error("{lost} of {of} {kind} resources would be gone, and nobody said that this is expected")]
    Shrink { kind: Kind, lost: usize, of: usize },
    #[error("{0}")]
    Consumer(String),
}

/// What may help after a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Nothing is wrong with the content: a member that goes on from where we are.
    Resume,
    /// This member's word is not good: a whole picture from another.
    Elsewhere,
    /// Every member would send the same: a whole picture, once there is a newer one.
    Newer,
}

struct Parts {
    position: Position,
    bytes: usize,
    resources: BTreeMap<ResourceId, Arc<Stored>>,
}

impl Refusal {
    pub(crate) fn remedy(&self) -> Remedy {
        match self {
            Self::Gap { .. } | Self::NotNewer { .. } => Remedy::Resume,
            Self::Shrink { .. } | Self::Consumer(_) => Remedy::Newer,
            Self::Foreign { .. }
            | Self::Bad(_)
            | Self::NotAsked { .. }
            | Self::Twice { .. }
            | Self::Torn
            | Self::TooLarge
            | Self::Incomplete { .. } => Remedy::Elsewhere,
        }
    }
}

impl Intake {
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        Self { kinds: kinds.to_vec(), parts: None }
    }

    /// Reads the next update, against the picture that is in use.
    pub(crate) fn take(&mut self, has: Option<&Picture>, update: v1::Update) -> Result<Taken, Refusal> {
        use v1::update::Content;
        let position =
            Position { incarnation: Incarnation(update.incarnation), revision: Revision(update.revision) };
        let ours = has.map(|picture| picture.position);
        if let Some(ours) = ours
            && ours.incarnation != position.incarnation
        {
            return Err(Refusal::Foreign { has: ours.incarnation, got: position.incarnation });
        }
        let content = update.content.ok_or_else(|| BadMessage::missing("content"))?;
        if let Content::Snapshot(part) = content {
            return self.part(has, position, part);
        }
        if self.parts.take().is_some() {
            return Err(Refusal::Torn);
        }
        let here = ours.map_or(Revision(0), |ours| ours.revision);
        let (Some(picture), true) = (has, update.prev_revision == here.0) else {
            return Err(Refusal::Gap { has: here, follows: Revision(update.prev_revision) });
        };
        match content {
            Content::Bookmark(_) if position.revision >= here => Ok(Taken::Same(position.revision)),
            Content::Delta(delta) if position.revision > here => {
                self.delta(picture, position.revision, delta).map(Taken::These)
            }
            _ => Err(Refusal::NotNewer { has: here, got: position.revision }),
        }
    }

    fn part(
        &mut self,
        has: Option<&Picture>,
        position: Position,
        part: v1::Snapshot,
    ) -> Result<Taken, Refusal> {
        let mut parts = match self.parts.take() {
            Some(parts) if parts.position != position => return Err(Refusal::Torn),
            Some(parts) => parts,
            None => Parts { position, bytes: 0, resources: BTreeMap::new() },
        };
        // An endless row of empty parts is endless too.
        parts.bytes += part.encoded_len() + PART_COST;
        if parts.bytes > SNAPSHOT_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        for (at, stored) in part.resources.into_iter().enumerate() {
            let stored = self.read(stored).map_err(|refusal| within(refusal, at))?;
            let id = stored.resource.id();
            if parts.resources.insert(id.clone(), stored).is_some() {
                return Err(Refusal::Twice { id });
            }
        }
        let Some(total) = part.total else {
            self.parts = Some(parts);
            return Ok(Taken::Part);
        };
        let came = parts.resources.len() as u64;
        if came != total {
            return Err(Refusal::Incomplete { total, came });
        }
        let shrink_revision = Revision(part.shrink_revision);
        let picture = Picture { position, shrink_revision, resources: parts.resources };
        let Some(has) = has else { return Ok(Taken::Whole(picture)) };
        let here = has.position.revision;
        if position.revision <= here {
            // A member that lags, or one that could not go on from where we are.
            return if position.revision == here {
                Ok(Taken::Same(here))
            } else {
                Err(Refusal::NotNewer { has: here, got: position.revision })
            };
        }
        if shrink_revision <= here {
            let lost = has.resources.keys().filter(|id| !picture.resources.contains_key(id));
            refuse_large_loss(has, lost)?;
        }
        Ok(Taken::Whole(picture))
    }

    fn delta(&self, has: &Picture, revision: Revision, delta: v1::Delta) -> Result<Advance, Refusal> {
        let mut touched = BTreeSet::new();
        let mut events = Vec::new();
        for (at, event) in delta.events.into_iter().enumerate() {
            let event = self.event(event).map_err(|refusal| within(refusal, at))?;
            let id = match &event {
                Event::Put(stored) => stored.resource.id(),
                Event::Delete(id) => id.clone(),
            };
            let is_known = has.resources.contains_key(&id);
            if !touched.insert(id.clone()) {
                return Err(Refusal::Twice { id });
            }
            // What was filtered out before may be deleted by name.
            if is_known || matches!(event, Event::Put(_)) {
                events.push(event);
            }
        }
        if !delta.expects_shrink {
            let lost = events.iter().filter_map(|event| match event {
                Event::Delete(id) => Some(id),
                Event::Put(_) => None,
            });
            refuse_large_loss(has, lost)?;
        }
        Ok(Advance { revision, events, expects_shrink: delta.expects_shrink })
    }

    fn event(&self, event: v1::Event) -> Result<Event, Refusal> {
        match event.event.ok_or_else(|| BadMessage::missing("event"))? {
            v1::event::Event::Put(stored) => self.read(stored).map(Event::Put),
            v1::event::Event::Delete(id) => {
                let id: ResourceId = id.parse().map_err(|error| BadMessage::malformed("delete", error))?;
                self.asked(id).map(Event::Delete)
            }
        }
    }

    fn read(&self, stored: v1::Stored) -> Result<Arc<Stored>, Refusal> {
        let stored = Stored::try_from(stored)?;
        self.asked(stored.resource.id())?;
        Ok(Arc::new(stored))
    }

    fn asked(&self, id: ResourceId) -> Result<ResourceId, Refusal> {
        if self.kinds.contains(&id.kind()) { Ok(id) } else { Err(Refusal::NotAsked { id }) }
    }
}

/// Counted against what each kind had before.
fn refuse_large_loss<'a>(has: &Picture, lost: impl Iterator<Item = &'a ResourceId>) -> Result<(), Refusal> {
    let mut lost_of_kind = BTreeMap::<Kind, usize>::new();
    for id in lost {
        *lost_of_kind.entry(id.kind()).or_default() += 1;
    }
    for (kind, lost) in lost_of_kind {
        let of = has.of_kind(kind).count();
        if is_large_loss(lost, of) {
            return Err(Refusal::Shrink { kind, lost, of });
        }
    }
    Ok(())
}

fn within(refusal: Refusal, at: usize) -> Refusal {
    match refusal {
        Refusal::Bad(bad) => Refusal::Bad(bad.within(&format!("[{at}]"))),
        other => other,
    }
}

/// Some hundred thousand keys; whatever is larger is no picture of a cluster.
const SNAPSHOT_BYTES_MAX: usize = 64 << 20;
const PART_COST: usize = 1 << 10;

#[cfg(test)]
mod tests;
