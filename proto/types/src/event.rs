//! Positions and hashes of the internal stream.
//!
//! Every event of an annotated stream carries `id: <position>:<token ids>:<hash>`. The position counts the
//! completion tokens released up to and including the event; the hash chains prompt and tokens, so that a
//! resumed stream can prove that it continues the same text.

use std::fmt;
use std::str::FromStr;

/// First 8 bytes of a BLAKE3 chain over token ids.
///
/// h₀ covers the prompt ids as little-endian u32; hₙ covers hₙ₋₁ and the id of token n.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PrefixHash([u8; 8]);

impl PrefixHash {
    pub fn of_prompt(ids: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for id in ids {
            hasher.update(&id.to_le_bytes());
        }
        Self::first_bytes(hasher.finalize())
    }

    #[must_use]
    pub fn followed_by(self, id: u32) -> Self {
        let mut link = [0; 12];
        link[..8].copy_from_slice(&self.0);
        link[8..].copy_from_slice(&id.to_le_bytes());
        Self::first_bytes(blake3::hash(&link))
    }

    fn first_bytes(hash: blake3::Hash) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        Self([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for PrefixHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PrefixHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PrefixHash {
    type Err = StreamBroken;

    fn from_str(hex: &str) -> Result<Self, StreamBroken> {
        crate::id::from_hex(hex).map(Self).ok_or(StreamBroken::Malformed)
    }
}

/// The `id` line of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventId {
    pub position: u64,
    pub token_ids: Vec<u32>,
    pub hash: PrefixHash,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.position)?;
        for (at, id) in self.token_ids.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            write!(f, "{id}")?;
        }
        write!(f, ":{}", self.hash)
    }
}

impl FromStr for EventId {
    type Err = StreamBroken;

    fn from_str(text: &str) -> Result<Self, StreamBroken> {
        let mut parts = text.split(':');
        let (Some(position), Some(ids), Some(hash), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(StreamBroken::Malformed);
        };
        let token_ids = ids
            .split(',')
            .filter(|_| !ids.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| StreamBroken::Malformed)?;
        let position = position.parse().map_err(|_| StreamBroken::Malformed)?;
        Ok(Self { position, token_ids, hash: hash.parse()? })
    }
}

/// How far a stream has come. Both ends keep one: the engine to write ids, the edge to check them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamPosition {
    position: u64,
    hash: PrefixHash,
}

impl StreamPosition {
    pub fn start(prompt: PrefixHash) -> Self {
        Self { position: 0, hash: prompt }
    }

    /// In the midst of an answer, as the head of a resumed stream tells it.
    pub fn at(position: u64, hash: PrefixHash) -> Self {
        Self { position, hash }
    }

    pub fn position(self) -> u64 {
        self.position
    }

    pub fn hash(self) -> PrefixHash {
        self.hash
    }

    /// The engine's end: releases tokens and names the event that carries them.
    pub fn release(&mut self, token_ids: Vec<u32>) -> EventId {
        self.position += token_ids.len() as u64;
        self.hash = token_ids.iter().fold(self.hash, |hash, id| hash.followed_by(*id));
        EventId { position: self.position, token_ids, hash: self.hash }
    }

    /// The edge's end: accepts an event that continues this stream, and no other.
    pub fn accept(&mut self, event: &EventId) -> Result<(), StreamBroken> {
        let position = self.position + event.token_ids.len() as u64;
        if position != event.position {
            return Err(StreamBroken::Position { expected: position, found: event.position });
        }
        let hash = event.token_ids.iter().fold(self.hash, |hash, id| hash.followed_by(*id));
        if hash != event.hash {
            return Err(StreamBroken::Hash { position });
        }
        *self = Self { position, hash };
        Ok(())
    }
}

/// Why an event cannot belong to the stream so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamBroken {
    #[error("the event id is not <position>:<token ids>:<hash>")]
    Malformed,
    #[error("the event is at position {found} where {expected} was expected")]
    Position { expected: u64, found: u64 },
    #[error("the token hash differs at position {position}")]
    Hash { position: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_chain_is_what_the_contract_says() {
        let prompt = [1u32, 513];
        let bytes: Vec<u8> = prompt.iter().flat_map(|id| id.to_le_bytes()).collect();
        let h0 = blake3::hash(&bytes);
        let h1 = blake3::hash(&[&h0.as_bytes()[..8], &9u32.to_le_bytes()].concat());
        let mut stream = StreamPosition::start(PrefixHash::of_prompt(&prompt));
        let event = stream.release(vec![9]);
        assert_eq!(event.hash.0, h1.as_bytes()[..8]);
        assert_eq!(event.to_string(), format!("1:9:{}", event.hash));
    }

    #[test]
    fn an_event_without_tokens_keeps_the_position() {
        let mut stream = StreamPosition::start(PrefixHash::of_prompt(&[]));
        let text = stream.release(vec![]).to_string();
        assert!(text.starts_with("0::"), "{text}");
        assert_eq!(text.parse::<EventId>().unwrap().token_ids, Vec::<u32>::new());
    }

    proptest! {
        #[test]
        fn ids_go_there_and_back(position: u64, token_ids: Vec<u32>, seed: Vec<u32>) {
            let event = EventId { position, token_ids, hash: PrefixHash::of_prompt(&seed) };
            prop_assert_eq!(event.to_string().parse::<EventId>(), Ok(event));
        }

        #[test]
        fn any_text_parses_or_is_refused(text: String) {
            let _ = text.parse::<EventId>();
        }

        #[test]
        fn a_lost_repeated_or_changed_event_is_noticed(
            tokens in prop::collection::vec(prop::collection::vec(any::<u32>(), 1..4), 2..6),
            at in any::<prop::sample::Index>(),
            fault in 0..3,
        ) {
            let start = StreamPosition::start(PrefixHash::of_prompt(&[1, 2]));
            let mut engine = start;
            let mut events: Vec<EventId> = tokens.into_iter().map(|ids| engine.release(ids)).collect();
            let at = at.index(events.len() - 1);
            match fault {
                0 => { events.remove(at); }
                1 => { let again = events[at].clone(); events.insert(at, again); }
                _ => { events[at].token_ids[0] ^= 1; }
            }
            let mut edge = start;
            prop_assert!(events.iter().any(|event| edge.accept(event).is_err()));
        }
    }
}
