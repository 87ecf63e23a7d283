//! The last changes, for those who follow the state from a revision on.
//!
//! Whoever is further behind than this reaches gets the whole state again.

use state::Event;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use types::intent::Revision;

pub struct Recent {
    ring: Mutex<Ring>,
    /// The newest revision.
    newest: watch::Sender<Revision>,
}

/// All changes of one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub revision: Revision,
    pub events: Vec<Event>,
    pub expects_shrink: bool,
}

struct Ring {
    /// The state that the first change follows.
    from: Revision,
    changes: VecDeque<Arc<Changed>>,
    events: usize,
}

impl Recent {
    /// Nothing is known of what led to this revision.
    pub fn new(revision: Revision) -> Self {
        let ring = Ring { from: revision, changes: VecDeque::new(), events: 0 };
        Self { ring: Mutex::new(ring), newest: watch::Sender::new(revision) }
    }

    /// Remembers a change. Called in the order of revisions, after the state holds it.
    pub fn add(&self, changed: Changed) {
        let revision = changed.revision;
        {
            let mut ring = self.ring();
            ring.events += changed.events.len();
            ring.changes.push_back(Arc::new(changed));
            while ring.events > EVENTS_MAX || ring.changes.len() > CHANGES_MAX {
                let Some(oldest) = ring.changes.pop_front() else { break };
                ring.events -= oldest.events.len();
                ring.from = oldest.revision;
            }
        }
        self.newest.send_replace(revision);
    }

    /// The state was replaced as a whole: nothing that led to it is known.
    pub fn reset(&self, revision: Revision) {
        *self.ring() = Ring { from: revision, changes: VecDeque::new(), events: 0 };
        self.newest.send_replace(revision);
    }

    /// All changes after `revision`; none where it lies before what is remembered, or ahead of it.
    pub fn after(&self, revision: Revision) -> Option<Vec<Arc<Changed>>> {
        let ring = self.ring();
        let newest = ring.changes.back().map_or(ring.from, |changed| changed.revision);
        if revision < ring.from || revision > newest {
            return None;
        }
        let first = ring.changes.partition_point(|changed| changed.revision <= revision);
        Some(ring.changes.range(first..).cloned().collect())
    }

    /// Follows the newest revision.
    pub fn newest(&self) -> watch::Receiver<Revision> {
        self.newest.subscribe()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Each call leaves it whole before anything that could panic.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Some tens of megabytes at most; minutes of a busy cluster, so that a consumer that was away for a moment needs no
/// snapshot.
const EVENTS_MAX: usize = 50_000;
const CHANGES_MAX: usize = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(revision: u64) -> Changed {
        let id = "tenant/acme".parse().unwrap();
        Changed { revision: Revision(revision), events: vec![Event::Delete(id)], expects_shrink: false }
    }

    fn revisions(recent: &Recent, after: u64) -> Option<Vec<u64>> {
        Some(recent.after(Revision(after))?.iter().map(|changed| changed.revision.0).collect())
    }

    #[test]
    fn only_what_is_surely_complete_is_given() {
        let recent = Recent::new(Revision(10));
        assert_eq!(revisions(&recent, 10), Some(vec![]));
        assert_eq!(revisions(&recent, 9), None, "what led to 10 is not known");
        assert_eq!(revisions(&recent, 11), None, "a revision ahead of ours is another's history");
        recent.add(changed(12));
        recent.add(changed(15));
        assert_eq!(revisions(&recent, 10), Some(vec![12, 15]));
        assert_eq!(revisions(&recent, 13), Some(vec![15]), "a bookmark may lie between two changes");
        assert_eq!(revisions(&recent, 15), Some(vec![]));
        recent.reset(Revision(20));
        assert_eq!(revisions(&recent, 15), None);
        assert_eq!(revisions(&recent, 20), Some(vec![]));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let recent = Recent::new(Revision(0));
        for revision in 1..=CHANGES_MAX as u64 + 5 {
            recent.add(changed(revision));
        }
        assert_eq!(revisions(&recent, 4), None);
        assert_eq!(revisions(&recent, 5).unwrap().len(), CHANGES_MAX);
    }
}
