//! Keys and values of all sequences, in blocks of positions.
//!
//! Within a block one head's positions lie together, so that attention reads memory in order. Which block
//! belongs to whom is not known here: see `crate::kv`.

use super::Place;
use crate::kv::BLOCK_TOKENS;

/// The whole pool, for all layers.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    layers: Vec<Layer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    /// Heads of keys and values; several heads of queries may share one.
    pub heads: usize,
    pub head_dim: usize,
}

#[derive(Debug)]
struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// One head's part of the pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct KvHead<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    /// From one block's part of this head to the next block's.
    stride: usize,
    offset: usize,
    block_len: usize,
}

impl KvShape {
    /// Bytes of a cache for so many tokens.
    pub fn bytes(self, tokens: usize) -> u128 {
        let numbers = 2 * (self.layers * self.heads * self.head_dim) as u128;
        tokens as u128 * numbers * size_of::<f32>() as u128
    }
}

impl KvCache {
    /// Whether the system would give this much memory, asked for in one piece: layer by layer it might promise
    /// more than it has. Nothing is kept.
    pub fn has_room(shape: KvShape, blocks: usize) -> bool {
        // Block numbers have 32 bits.
        let (Ok(_), Ok(bytes)) =
            (u32::try_from(blocks), usize::try_from(shape.bytes(blocks.saturating_mul(BLOCK_TOKENS))))
        else {
            return false;
        };
        let mut room = Vec::<u8>::new();
        let is_given = room.try_reserve_exact(bytes).is_ok();
        // Otherwise the optimiser leaves out an allocation that nobody uses, and with it the answer.
        std::hint::black_box(&mut room);
        is_given
    }

    pub fn new(shape: KvShape, blocks: usize) -> Self {
        let numbers = blocks * BLOCK_TOKENS * shape.heads * shape.head_dim;
        let layer = |_| Layer { keys: vec![0.0; numbers], values: vec![0.0; numbers] };
        Self { shape, layers: (0..shape.layers).map(layer).collect() }
    }

    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Stores the keys and values of each row at its place.
    pub fn write(&mut self, layer: usize, places: &[Place<'_>], keys: &[f32], values: &[f32]) {
        let KvShape { heads, head_dim, .. } = self.shape;
        let layer = &mut self.layers[layer];
        for (row, place) in places.iter().enumerate() {
            let block = place.blocks[place.position / BLOCK_TOKENS] as usize;
            for head in 0..heads {
                let from = (row * heads + head) * head_dim;
                let to = ((block * heads + head) * BLOCK_TOKENS + place.position % BLOCK_TOKENS) * head_dim;
                layer.keys[to..to + head_dim].copy_from_slice(&keys[from..from + head_dim]);
                layer.values[to..to + head_dim].copy_from_slice(&values[from..from + head_dim]);
            }
        }
    }

    pub(super) fn head(&self, layer: usize, head: usize) -> KvHead<'_> {
        let block_len = BLOCK_TOKENS * self.shape.head_dim;
        let Layer { keys, values } = &self.layers[layer];
        KvHead { keys, values, stride: self.shape.heads * block_len, offset: head * block_len, block_len }
    }
}

impl<'a> KvHead<'a> {
    #[inline(always)]
    pub(super) fn keys(self, block: u32) -> &'a [f32] {
        &self.keys[block as usize * self.stride + self.offset..][..self.block_len]
    }

    #[inline(always)]
    pub(super) fn values(self, block: u32) -> &'a [f32] {
        &self.values[block as usize * self.stride + self.offset..][..self.block_len]
    }
}
