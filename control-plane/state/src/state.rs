//! The tables, and how a command changes them.

use crate::check::{self, Faults};
use crate::command::{Command, Stamped};
use crate::losses::Losses;
use crate::references::Users;
use crate::session::{Known, Session, Sessions};
use std::collections::BTreeMap;
use std::sync::Arc;
use types::UnixMs;
use types::intent::{
    ClientId, Fault, Incarnation, Kind, Position, Resource, ResourceId, Revision, Stored, What, Write,
};

/// Everything that is replicated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    cluster: String,
    incarnation: Incarnation,
    revision: Revision,
    shrink_revision: Revision,
    pub(crate) resources: BTreeMap<Kind, BTreeMap<ResourceId, Arc<Stored>>>,
    pub(crate) users: Users,
    sessions: Sessions,
    losses: Losses,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The cluster has a name now, or had one.
    Founded,
    Written(Written),
    /// The same write was done before; nothing changed.
    Repeated(Revision),
    /// Nothing changed.
    Refused(Vec<Fault>),
}

/// What a write changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub revision: Revision,
    /// Each resource at most once, in the order of the write.
    pub events: Vec<Event>,
    pub expects_shrink: bool,
    pub session: Session,
    /// A client that is remembered no longer.
    pub forgotten: Option<ClientId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Put(Arc<Stored>),
    Delete(ResourceId),
}

/// What is not in the tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    pub cluster: String,
    pub incarnation: Incarnation,
    pub revision: Revision,
    /// Whoever has an older picture must expect that a large part of some kind is gone.
    pub shrink_revision: Revision,
    pub losses: Losses,
}

/// One row of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Resource(Stored),
    Session(Session),
}

impl State {
    /// Applies the command at `index` of the log. The same commands in the same order give the same state on every
    /// member, whatever happens around them.
    pub fn apply(&mut self, index: u64, stamped: &Stamped) -> Outcome {
        match &stamped.command {
            Command::Found { cluster, incarnation } => {
                if self.cluster.is_empty() {
                    self.cluster.clone_from(cluster);
                    self.incarnation = *incarnation;
                    self.revision = Revision(index);
                }
                Outcome::Founded
            }
            Command::Write(write) => self.write(Revision(index), stamped.at, write),
        }
    }

    /// What is wrong with a write, without doing it. What is right now may be wrong when it is applied.
    pub fn check(&self, write: &Write) -> Result<(), Vec<Fault>> {
        check::all(self, write)
    }

    fn write(&mut self, revision: Revision, at: UnixMs, write: &Write) -> Outcome {
        match self.sessions.look_up(write.client, write.sequence) {
            Known::Done(revision) => return Outcome::Repeated(revision),
            Known::Old { last } => return Outcome::Refused(Faults::old_sequence(last)),
            Known::New => {}
        }
        if let Err(faults) = self.check(write) {
            return Outcome::Refused(faults);
        }
        let mut is_large_loss = write.expects_shrink;
        let events = write.changes.iter().map(|change| match &change.what {
            What::Put(resource) => self.put(resource, revision, at),
            What::Delete(id) => {
                is_large_loss |= self.losses.count(id.kind(), self.count(id.kind()));
                self.delete(id)
            }
        });
        let events = events.flatten().collect();
        self.revision = revision;
        if is_large_loss {
            self.shrink_revision = revision;
            self.losses.forget();
        }
        let session = Session { client: write.client, sequence: write.sequence, revision };
        let forgotten = self.sessions.remember(session);
        Outcome::Written(Written {
            revision,
            events,
            expects_shrink: write.expects_shrink,
            session,
            forgotten,
        })
    }

    /// None where it is there already, exactly so.
    fn put(&mut self, resource: &Resource, revision: Revision, at: UnixMs) -> Option<Event> {
        let id = resource.id();
        let before = self.get(&id).cloned();
        if before.as_ref().is_some_and(|before| before.resource == *resource) {
            return None;
        }
        let created_unix_ms = before.as_ref().map_or(at, |before| before.created_unix_ms);
        if let Some(before) = &before {
            self.users.remove(&before.resource);
        }
        let stored = Arc::new(Stored { resource: resource.clone(), revision, created_unix_ms });
        self.insert(stored.clone());
        Some(Event::Put(stored))
    }

    fn delete(&mut self, id: &ResourceId) -> Option<Event> {
        let of_kind = self.resources.get_mut(&id.kind())?;
        let gone = of_kind.remove(id)?;
        // Equal tables are equal, whatever they once held.
        if of_kind.is_empty() {
            self.resources.remove(&id.kind());
        }
        self.users.remove(&gone.resource);
        Some(Event::Delete(id.clone()))
    }

    fn insert(&mut self, stored: Arc<Stored>) {
        let id = stored.resource.id();
        self.users.add(&stored.resource);
        self.resources.entry(id.kind()).or_default().insert(id, stored);
    }

    /// The state that a head and records describe, in any order.
    pub fn restore(head: Head, records: impl IntoIterator<Item = Record>) -> Self {
        let Head { cluster, incarnation, revision, shrink_revision, losses } = head;
        let mut state = Self { cluster, incarnation, revision, shrink_revision, losses, ..Self::default() };
        for record in records {
            match record {
                Record::Resource(stored) => state.insert(Arc::new(stored)),
                Record::Session(session) => {
                    state.sessions.remember(session);
                }
            }
        }
        state
    }

    pub fn head(&self) -> Head {
        Head {
            cluster: self.cluster.clone(),
            incarnation: self.incarnation,
            revision: self.revision,
            shrink_revision: self.shrink_revision,
            losses: self.losses.clone(),
        }
    }

    /// None before the cluster was founded.
    pub fn cluster(&self) -> Option<&str> {
        (!self.cluster.is_empty()).then_some(self.cluster.as_str())
    }

    pub fn position(&self) -> Position {
        Position { incarnation: self.incarnation, revision: self.revision }
    }

    pub fn get(&self, id: &ResourceId) -> Option<&Arc<Stored>> {
        self.resources.get(&id.kind())?.get(id)
    }

    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Stored>> {
        self.resources.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.resources.get(&kind).map_or(0, BTreeMap::len)
    }

    pub fn resources(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.resources.values().flat_map(BTreeMap::values)
    }

    pub fn sessions(&self) -> impl Iterator<Item = Session> {
        self.sessions.iter()
    }
}
