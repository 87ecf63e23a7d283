//! Attention of one query over all positions up to its own, in the order of positions.

use super::Place;
use super::dot::{LANES, TILE, add_products, fold, tile};
use super::exp::exp;
use super::isa::{Isa, for_each_isa};
use super::kv::KvHead;
use crate::kv::BLOCK_TOKENS;

/// `out` becomes the mean of the values, weighted by softmax(query · keys / √d). `scores` is scratch.
pub(super) fn row(
    isa: Isa,
    query: &[f32],
    kv: KvHead<'_>,
    place: Place<'_>,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    scores.resize(place.position + 1, 0.0);
    let scores = scores.as_mut_slice();
    for_each_isa!(isa, row_of(query: &[f32], kv: KvHead<'_>, place: Place<'_>, scores: &mut [f32], out: &mut [f32]));
}

#[inline(always)]
fn row_of(query: &[f32], kv: KvHead<'_>, place: Place<'_>, scores: &mut [f32], out: &mut [f32]) {
    let head_dim = query.len();
    let scale = 1.0 / (head_dim as f32).sqrt();
    for (scores, block) in scores.chunks_mut(BLOCK_TOKENS).zip(place.blocks) {
        let keys = kv.keys(*block);
        // A block is a whole number of tiles; what lies beyond the last position is computed and dropped.
        for (tile_at, scores) in scores.chunks_mut(TILE).enumerate() {
            let mut four = [keys; TILE];
            for (at, key) in four.iter_mut().enumerate() {
                *key = &keys[(tile_at * TILE + at) * head_dim..][..head_dim];
            }
            let [sums] = tile::<f32, 1>(four, [query]);
            for (score, sum) in scores.iter_mut().zip(sums) {
                *score = sum * scale;
            }
        }
    }
    let highest = scores.iter().fold(f32::NEG_INFINITY, |highest, score| highest.max(*score));
    for score in scores.iter_mut() {
        *score = exp(*score - highest);
    }
    let share = 1.0 / sum_of(scores);
    let (whole, rest) = out.as_chunks_mut::<LANES>();
    let begin = whole.len() * LANES;
    for (at, out) in whole.iter_mut().enumerate() {
        let mut sum = [0.0; LANES];
        for (block, weights) in place.blocks.iter().zip(scores.chunks(BLOCK_TOKENS)) {
            for (value, weight) in kv.values(*block).chunks_exact(head_dim).zip(weights) {
                add_products(&mut sum, &[*weight; LANES], &value.as_chunks().0[at]);
            }
        }
        *out = sum.map(|sum| sum * share);
    }
    for (at, out) in rest.iter_mut().enumerate() {
        let mut sum = 0.0;
        for (block, weights) in place.blocks.iter().zip(scores.chunks(BLOCK_TOKENS)) {
            for (value, weight) in kv.values(*block).chunks_exact(head_dim).zip(weights) {
                sum += value[begin + at] * weight;
            }
        }
        *out = sum * share;
    }
}

#[inline(always)]
fn sum_of(values: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    for values in values.chunks(LANES) {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane += value;
        }
    }
    fold(lanes)
}
