//! Exactly-once writes: the last write of each client is remembered, so that its repetition is answered as the
//! first was.
//!
//! A process writes one thing after the other, so one remembered write each is enough. How many clients are
//! remembered is bounded; the one whose last write is oldest is forgotten first, by log index and not by a clock.

use std::collections::BTreeMap;
use types::intent::{ClientId, Revision};

/// The last write of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    pub client: ClientId,
    pub sequence: u64,
    pub revision: Revision,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sessions {
    by_client: BTreeMap<ClientId, (u64, Revision)>,
    /// No two writes have one revision.
    by_age: BTreeMap<Revision, ClientId>,
}

/// What is known of a write before it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    New,
    /// It was done, and this is its revision.
    Done(Revision),
    /// A later one was done.
    Old {
        last: u64,
    },
}

impl Sessions {
    pub fn look_up(&self, client: ClientId, sequence: u64) -> Known {
        match self.by_client.get(&client) {
            Some((last, revision)) if *last == sequence => Known::Done(*revision),
            Some((last, _)) if *last > sequence => Known::Old { last: *last },
            Some(_) | None => Known::New,
        }
    }

    /// Remembers a write that was done. Returns the client that is forgotten for it.
    pub fn remember(&mut self, session: Session) -> Option<ClientId> {
        if let Some((_, before)) = self.by_client.insert(session.client, (session.sequence, session.revision))
        {
            self.by_age.remove(&before);
        }
        self.by_age.insert(session.revision, session.client);
        if self.by_client.len() <= SESSIONS_MAX {
            return None;
        }
        let (_, oldest) = self.by_age.pop_first()?;
        self.by_client.remove(&oldest);
        Some(oldest)
    }

    pub fn iter(&self) -> impl Iterator<Item = Session> {
        self.by_client.iter().map(|(client, (sequence, revision))| Session {
            client: *client,
            sequence: *sequence,
            revision: *revision,
        })
    }
}

/// Clients that retry do so within seconds; this many writers in a few seconds are far above what Raft takes.
pub const SESSIONS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn session(client: u16, sequence: u64, revision: u64) -> Session {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&client.to_be_bytes());
        Session { client: ClientId(id), sequence, revision: Revision(revision) }
    }

    #[test]
    fn a_repetition_is_known() {
        let mut sessions = Sessions::default();
        let write = session(1, 5, 10);
        assert_eq!(sessions.look_up(write.client, 5), Known::New);
        sessions.remember(write);
        assert_eq!(sessions.look_up(write.client, 5), Known::Done(Revision(10)));
        assert_eq!(sessions.look_up(write.client, 4), Known::Old { last: 5 });
        assert_eq!(sessions.look_up(write.client, 6), Known::New);
    }

    #[test]
    fn the_client_silent_for_longest_is_forgotten() {
        let mut sessions = Sessions::default();
        for client in 0..SESSIONS_MAX as u16 {
            assert_eq!(sessions.remember(session(client, 1, u64::from(client) + 1)), None);
        }
        // The first client writes again, so the second is the oldest.
        assert_eq!(sessions.remember(session(0, 2, 10_000)), None);
        let newcomer = session(u16::MAX, 1, 10_001);
        assert_eq!(sessions.remember(newcomer), Some(session(1, 0, 0).client));
        assert_eq!(sessions.iter().count(), SESSIONS_MAX);
        assert_eq!(sessions.by_age.len(), SESSIONS_MAX);
    }
}
