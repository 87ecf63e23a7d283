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
    token_ids: Vec<u32>,
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
        let mut kept = Kept { buffer: self.clone(), token_ids: Vec::new(), held: 0 };
        kept.hold(body_bytes)?;
        Ok(kept)
    }
}

impl Kept {
    pub(crate) fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }

    pub(crate) fn add(&mut self, token_ids: &[u32]) -> Result<(), Full> {
        let (tokens, before) = (self.token_ids.len() + token_ids.len(), self.token_ids.capacity());
        if !ResumeLine::is_bounded(tokens) {
            return Err(Full);
        }
        if tokens > before {
            let capacity = tokens.next_power_of_two().max(CAPACITY_MIN);
            self.hold((capacity - before) * size_of::<u32>())?;
            self.token_ids.reserve_exact(capacity - self.token_ids.len());
        }
        self.token_ids.extend_from_slice(token_ids);
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

/// Ten thousand streams with prompts of 8 KiB and answers of 2,000 tokens take a third of it.
pub(crate) const RESUME_BYTES_MAX: usize = 512 << 20;
/// Short answers are many; they should not begin with four steps of growth.
const CAPACITY_MIN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_share_the_room_and_give_it_back() {
        let buffer = ResumeBuffer::new(2000);
        let mut first = buffer.keep(1000).unwrap();
        first.add(&[1; 64]).unwrap();
        assert!(buffer.keep(1000).is_err(), "1,256 bytes are taken");
        let mut second = buffer.keep(400).unwrap();
        second.add(&[2; 64]).unwrap();
        assert_eq!(second.add(&[2; 64]), Err(Full));
        assert_eq!(second.token_ids().len(), 64);
        drop((first, second));
        assert_eq!(buffer.held.load(Relaxed), 0);
    }

    #[test]
    fn an_answer_that_no_node_would_resume_is_not_kept() {
        let mut kept = ResumeBuffer::new(RESUME_BYTES_MAX).keep(0).unwrap();
        let too_many = (1..).find(|tokens| !ResumeLine::is_bounded(*tokens)).unwrap();
        assert_eq!(kept.add(&vec![1; too_many]), Err(Full));
    }
}
