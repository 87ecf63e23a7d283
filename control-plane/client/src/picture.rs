//! What intent looks like from outside: the resources of some kinds, at one position.

use std::collections::BTreeMap;
use std::sync::Arc;
use types::intent::{Kind, Position, ResourceId, Revision, Stored};

/// Everything that a subscriber asked for, as of one position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    pub(crate) position: Position,
    /// The last write before it that was expected to remove a large part of some kind.
    pub(crate) shrink_revision: Revision,
    pub(crate) resources: BTreeMap<ResourceId, Arc<Stored>>,
}

/// How a picture differs from the one before.
#[derive(Debug, Clone, Copy)]
pub enum Changed<'a> {
    /// Anything may have changed.
    Whole,
    These(&'a [Event]),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Put(Arc<Stored>),
    Delete(ResourceId),
}

/// Events that lead from one picture to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Advance {
    pub(crate) revision: Revision,
    pub(crate) events: Vec<Event>,
    pub(crate) expects_shrink: bool,
}

/// What leads back.
#[must_use = "a refused picture must be undone"]
pub(crate) struct Undo {
    position: Position,
    shrink_revision: Revision,
    before: Vec<(ResourceId, Option<Arc<Stored>>)>,
}

impl Picture {
    pub fn new(
        position: Position,
        shrink_revision: Revision,
        resources: impl IntoIterator<Item = Stored>,
    ) -> Self {
        let resources = resources.into_iter().map(|stored| (stored.resource.id(), Arc::new(stored)));
        Self { position, shrink_revision, resources: resources.collect() }
    }

    pub fn position(&self) -> Position {
        self.position
    }

    pub fn get(&self, id: &ResourceId) -> Option<&Arc<Stored>> {
        self.resources.get(id)
    }

    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Stored>> {
        self.resources.values().filter(move |stored| stored.resource.kind() == kind)
    }

    pub fn resources(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.resources.values()
    }

    /// In place, because a copy of a hundred thousand keys for each new one would cost more than the change.
    pub(crate) fn apply(&mut self, advance: &Advance) -> Undo {
        let (position, shrink_revision) = (self.position, self.shrink_revision);
        let before = advance.events.iter().map(|event| match event {
            Event::Put(stored) => {
                let id = stored.resource.id();
                let before = self.resources.insert(id.clone(), stored.clone());
                (id, before)
            }
            Event::Delete(id) => (id.clone(), self.resources.remove(id)),
        });
        let before = before.collect();
        self.position.revision = advance.revision;
        if advance.expects_shrink {
            self.shrink_revision = advance.revision;
        }
        Undo { position, shrink_revision, before }
    }

    pub(crate) fn undo(&mut self, undo: Undo) {
        for (id, before) in undo.before {
            match before {
                Some(stored) => self.resources.insert(id, stored),
                None => self.resources.remove(&id),
            };
        }
        self.position = undo.position;
        self.shrink_revision = undo.shrink_revision;
    }
}
