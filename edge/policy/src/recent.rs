//! Remembers which node got which prompt beginning last.
//!
//! By a hash alone every edge would find a prompt's node without a memory. But a node that had too much to do sent
//! some prompts elsewhere, and the next turns of those conversations should follow them there.

/// Bounded: a new entry takes the place of whatever stood there.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    entries: Vec<(u64, u64)>,
}

impl Recent {
    /// `node` is the hash of its name.
    pub(crate) fn remember(&mut self, prefix: &[u64], node: u64) {
        let Some(longest) = prefix.last() else { return };
        if self.entries.is_empty() {
            self.entries = vec![(0, 0); ENTRIES];
        }
        self.entries[place(*longest)] = (*longest, node);
    }

    /// The node that got the longest known beginning of a prompt, and how many blocks that is.
    pub(crate) fn holder(&self, prefix: &[u64]) -> Option<(u64, usize)> {
        prefix.iter().enumerate().rev().find_map(|(index, key)| {
            let (known, node) = *self.entries.get(place(*key))?;
            (known == *key).then_some((node, index + 1))
        })
    }
}

fn place(key: u64) -> usize {
    (key as usize) % ENTRIES
}

/// 256 KiB; the conversations of some minutes.
const ENTRIES: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_that_grows_is_found_and_memory_is_bounded() {
        let mut recent = Recent::default();
        assert_eq!(recent.holder(&[1]), None);
        recent.remember(&[10, 20], 7);
        assert_eq!(recent.holder(&[10, 20, 30, 40]), Some((7, 2)));
        assert_eq!(recent.holder(&[10]), None, "a beginning that others share says nothing");
        (0..100_000).for_each(|key| recent.remember(&[key], 8));
        assert_eq!(recent.entries.len(), ENTRIES);
    }
}
