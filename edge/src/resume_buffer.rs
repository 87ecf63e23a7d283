//! Bounds what an edge holds so that streams can be resumed: their bodies, and the ids of the tokens delivered.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use types::ResumeLine;

/// One for all streams of an edge.
#[derive(Debug)]
pub(crate) struct ResumeBuffer {
    held: AtomicUsize,
    bytes_max: usize,
}

/// The tokens of one stream so far.
#[derive(Debug)]
pub(crate) struct Kept {
    buffer: Arc<ResumeBuffer>,
    tokens: usize,
    /// The ids as [`bytes_of`] writes them, one behind the other. Blocks are filled in turn and never copied: what a
    /// growing buffer leaves behind would lie idle in the allocator, as much again for each stream.
    #[expect(clippy::vec_box, reason = "without, all blocks would be copied as their number grows")]
    blocks: Vec<Box<[u8; BLOCK_BYTES]>>,
    bytes: usize,
    held: usize,
}

/// There is no room for a stream, or for more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl ResumeBuffer {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), bytes_max })
    }

    /// Begins to keep what a stream would need, its request's body first.
    pub(crate) fn keep(self: &Arc<Self>, body_bytes: usize) -> Result<Kept, Full> {
        let mut kept = Kept { buffer: self.clone(), tokens: 0, blocks: Vec::new(), bytes: 0, held: 0 };
        kept.hold(body_bytes)?;
        Ok(kept)
    }
}

impl Kept {
    /// All that were added, in order.
    pub(crate) fn token_ids(&self) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.tokens);
        let (mut id, mut shift) = (0, 0);
        for byte in self.blocks.iter().flat_map(|block| block.iter()).take(self.bytes) {
            id |= u32::from(byte & !MORE) << shift;
            shift += 7;
            if byte & MORE == 0 {
                ids.push(id);
                (id, shift) = (0, 0);
            }
        }
        ids
    }

    pub(crate) fn add(&mut self, token_ids: &[u32]) -> Result<(), Full> {
        let bytes = self.bytes + token_ids.iter().map(|id| bytes_of(*id).count()).sum::<usize>();
        if !ResumeLine::is_bounded(self.tokens + token_ids.len()) {
            return Err(Full);
        }
        let more = bytes.div_ceil(BLOCK_BYTES) - self.blocks.len();
        if more > 0 {
            self.hold(more * BLOCK_BYTES)?;
            self.blocks.extend((0..more).map(|_| Box::new([0; BLOCK_BYTES])));
        }
        for byte in token_ids.iter().flat_map(|id| bytes_of(*id)) {
            self.blocks[self.bytes / BLOCK_BYTES][self.bytes % BLOCK_BYTES] = byte;
            self.bytes += 1;
        }
        self.tokens += token_ids.len();
        Ok(())
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Full> {
        // What was added stays counted until the drop, so the count is right in either case.
        self.held += bytes;
        let before = self.buffer.held.fetch_add(bytes, Relaxed);
        if before + bytes > self.buffer.bytes_max { Err(Full) } else { Ok(()) }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.buffer.held.fetch_sub(self.held, Relaxed);
    }
}

/// Seven bits of an id in each, the lowest first: two or three for most ids of a vocabulary.
fn bytes_of(id: u32) -> impl Iterator<Item = u8> {
    let mut left = Some(id);
    std::iter::from_fn(move || {
        let id = left?;
        left = (id >= u32::from(MORE)).then_some(id >> 7);
        let more = if left.is_some() { MORE } else { 0 };
        Some(id as u8 & !MORE | more)
    })
}

/// Set where the next byte belongs to the same id.
const MORE: u8 = 1 << 7;
/// Ten thousand streams with prompts of 8 KiB and answers of 2,000 tokens take a quarter of it.
pub(crate) const RESUME_BYTES_MAX: usize = 512 << 20;
/// Two hundred tokens: most short answers take one, and a long one leaves little of its last empty.
const BLOCK_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_share_the_room_and_give_it_back() {
        let buffer = ResumeBuffer::new(2 * BLOCK_BYTES + 1000);
        let mut first = buffer.keep(900).unwrap();
        first.add(&[1; BLOCK_BYTES]).unwrap();
        assert!(buffer.keep(BLOCK_BYTES + 101).is_err(), "no more than that is left");
        let mut second = buffer.keep(100).unwrap();
        second.add(&[2; BLOCK_BYTES - 1]).unwrap();
        assert_eq!(buffer.held.load(Relaxed), buffer.bytes_max);
        assert_eq!(second.add(&[2]), Ok(()), "what is held already");
        assert_eq!(second.add(&[2]), Err(Full));
        assert_eq!(second.token_ids(), [2; BLOCK_BYTES]);
        drop((first, second));
        assert_eq!(buffer.held.load(Relaxed), 0);
    }

    #[test]
    fn whatever_ids_are_added_come_back_in_order() {
        let seed = fastrand::u64(..);
        let mut dice = fastrand::Rng::with_seed(seed);
        let edges = [0, 127, 128, 16_383, 16_384, (1 << 21) - 1, 1 << 21, (1 << 28) - 1, 1 << 28, u32::MAX];
        let mut kept = ResumeBuffer::new(RESUME_BYTES_MAX).keep(0).unwrap();
        let mut added = Vec::new();
        for _ in 0..300 {
            let ids: Vec<u32> = (0..dice.usize(..20))
                .map(|_| {
                    if dice.bool() {
                        edges[dice.usize(..edges.len())]
                    } else {
                        dice.u32(..) >> dice.u32(..32)
                    }
                })
                .collect();
            kept.add(&ids).unwrap();
            added.extend(ids);
            assert_eq!(
                kept.held,
                kept.bytes.next_multiple_of(BLOCK_BYTES),
                "seed {seed}: no block before it is needed"
            );
        }
        assert_eq!(kept.token_ids(), added, "seed {seed}");
    }

    #[test]
    fn an_answer_that_no_node_would_resume_is_not_kept() {
        let mut kept = ResumeBuffer::new(RESUME_BYTES_MAX).keep(0).unwrap();
        let too_many = (1..).find(|tokens| !ResumeLine::is_bounded(*tokens)).unwrap();
        assert_eq!(kept.add(&vec![1; too_many]), Err(Full));
    }
}
