//! Who holds which block of the KV cache.
//!
//! A block is held by the pool or by one table, never by both and never by two: [`Block`] can be neither
//! copied nor made outside of this file, so the compiler keeps the books. What lies in the blocks is the
//! backend's business.

/// Tokens whose keys and values lie in one block.
pub const BLOCK_TOKENS: usize = 16;

/// Leave to use one block. Hand it back to the pool.
#[derive(Debug, PartialEq, Eq)]
#[repr(transparent)]
struct Block(u32);

/// The blocks that nobody holds.
#[derive(Debug)]
pub struct BlockPool {
    free: Vec<Block>,
    total: usize,
}

/// The blocks of one sequence, in the order of its positions.
#[derive(Debug, Default)]
#[must_use = "a dropped table keeps its blocks from everybody; give it back to the pool"]
pub struct BlockTable {
    blocks: Vec<Block>,
    numbers: Vec<u32>,
}

/// Fewer blocks are free than were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfBlocks;

impl BlockPool {
    pub fn new(total: usize) -> Self {
        let number = |number| Block(u32::try_from(number).expect("a cache of 2³² blocks exceeds any memory"));
        Self { free: (0..total).rev().map(number).collect(), total }
    }

    pub fn free(&self) -> usize {
        self.free.len()
    }

    pub fn total(&self) -> usize {
        self.total
    }

    /// Makes the table hold at least `tokens`; changes nothing if there is too little room.
    pub fn grow(&mut self, table: &mut BlockTable, tokens: usize) -> Result<(), OutOfBlocks> {
        let wanted = blocks_for(tokens).saturating_sub(table.blocks.len());
        let left = self.free.len().checked_sub(wanted).ok_or(OutOfBlocks)?;
        for block in self.free.drain(left..).rev() {
            table.numbers.push(block.0);
            table.blocks.push(block);
        }
        Ok(())
    }

    pub fn give_back(&mut self, table: BlockTable) {
        self.free.extend(table.blocks);
        assert!(self.free.len() <= self.total, "more blocks came back than there are");
    }
}

impl BlockTable {
    pub fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    pub fn held(&self) -> usize {
        self.blocks.len()
    }
}

pub fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn no_block_is_lost_or_held_twice(steps in prop::collection::vec((0..4usize, 0..80usize, any::<bool>()), 0..60)) {
            let mut pool = BlockPool::new(10);
            let mut tables: [BlockTable; 4] = Default::default();
            for (who, tokens, give_back) in steps {
                if give_back {
                    pool.give_back(std::mem::take(&mut tables[who]));
                } else {
                    let before = (pool.free(), tables[who].held());
                    if pool.grow(&mut tables[who], tokens).is_err() {
                        prop_assert!(blocks_for(tokens) > before.0 + before.1);
                        prop_assert_eq!((pool.free(), tables[who].held()), before);
                    } else {
                        prop_assert!(tables[who].held() >= blocks_for(tokens));
                    }
                }
                let held: Vec<u32> = tables.iter().flat_map(|table| table.numbers().to_vec()).collect();
                prop_assert_eq!(held.len() + pool.free(), pool.total());
                prop_assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len());
            }
        }
    }
}
