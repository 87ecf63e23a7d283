//! The operations on processors, shared out over threads.
//!
//! Work is divided between output elements and never inside a sum, so the number of threads cannot show in a
//! result. With one thread there is no pool at all.

mod attend;
mod dot;
mod exp;
mod isa;
mod kv;

pub use isa::Isa;
pub use kv::{KvCache, KvShape};

use crate::backend::{Matrix, Values};
use rayon::prelude::*;
use std::num::NonZeroUsize;

/// A set of threads and what their processor can do.
#[derive(Debug)]
pub struct Cpu {
    pool: Option<rayon::ThreadPool>,
    isa: Isa,
}

/// Where one row of a batch stands in its sequence.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub position: usize,
    /// The blocks that hold the sequence's keys and values, in order.
    pub blocks: &'a [u32],
}

impl Cpu {
    pub fn new(threads: NonZeroUsize) -> Result<Self, rayon::ThreadPoolBuildError> {
        Self::with_isa(threads, Isa::best_here())
    }

    pub fn with_isa(threads: NonZeroUsize, isa: Isa) -> Result<Self, rayon::ThreadPoolBuildError> {
        let name = |number| format!("engine-cpu-{number}");
        let build =
            || rayon::ThreadPoolBuilder::new().num_threads(threads.get()).thread_name(name).build().map(Some);
        let pool = if threads.get() == 1 { None } else { build()? };
        Ok(Self { pool, isa })
    }

    /// `x` times the transposed matrix: one output row of `features` for each input row of `inputs`.
    pub fn matmul(&self, x: &[f32], matrix: Matrix<'_>) -> Vec<f32> {
        let rows = x.len() / matrix.inputs;
        let mut by_feature = vec![0.0; rows * matrix.features];
        if by_feature.is_empty() {
            return by_feature;
        }
        let stripe = self.share(matrix.features, rows * matrix.inputs);
        self.each_chunk(&mut by_feature, stripe * rows, |number, out| {
            let first = number * stripe * matrix.inputs;
            let range = first..first + out.len() / rows * matrix.inputs;
            match matrix.values {
                Values::Bf16(values) => dot::stripe(self.isa, &values[range], x, matrix.inputs, out),
                Values::F32(values) => dot::stripe(self.isa, &values[range], x, matrix.inputs, out),
            }
        });
        if rows == 1 { by_feature } else { transposed(&by_feature, matrix.features, rows) }
    }

    /// Each row divided by its root mean square, then scaled by `weight`.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
        let mut out = x.to_vec();
        for row in out.chunks_exact_mut(weight.len()) {
            let mean = dot::dot(self.isa, row, row) / weight.len() as f32;
            let scale = 1.0 / (mean + epsilon).sqrt();
            row.iter_mut().zip(weight).for_each(|(x, weight)| *x = *weight * (*x * scale));
        }
        out
    }

    /// Turns pairs (i, i + half) of every head by the angles of its row, as Hugging Face's `rotate_half` does.
    /// `cos` and `sin` hold half a head per row.
    pub fn rotate(&self, x: &mut [f32], heads: usize, head_dim: usize, cos: &[f32], sin: &[f32]) {
        let half = head_dim / 2;
        for (row, x) in x.chunks_exact_mut(heads * head_dim).enumerate() {
            let (cos, sin) = (&cos[row * half..(row + 1) * half], &sin[row * half..(row + 1) * half]);
            for head in x.chunks_exact_mut(head_dim) {
                let (left, right) = head.split_at_mut(half);
                for at in 0..half {
                    let (a, b) = (left[at], right[at]);
                    left[at] = a * cos[at] - b * sin[at];
                    right[at] = b * cos[at] + a * sin[at];
                }
            }
        }
    }

    /// Attention of each query row over the positions up to its own. Keys and values of these rows must be in
    /// the cache already.
    pub fn attend(&self, queries: &[f32], cache: &KvCache, layer: usize, places: &[Place<'_>]) -> Vec<f32> {
        let shape = cache.shape();
        let heads = queries.len() / (places.len() * shape.head_dim);
        let mut out = vec![0.0; queries.len()];
        let positions: usize = places.iter().map(|place| place.position + 1).sum();
        let chunk =
            self.share(places.len() * heads, 2 * shape.head_dim * positions / places.len()) * shape.head_dim;
        self.each_chunk(&mut out, chunk, |number, out| {
            let mut scores = Vec::new();
            for (at, out) in out.chunks_exact_mut(shape.head_dim).enumerate() {
                let begin = number * chunk + at * shape.head_dim;
                let (row, head) = (begin / shape.head_dim / heads, begin / shape.head_dim % heads);
                let kv = cache.head(layer, head / (heads / shape.heads));
                let query = &queries[begin..begin + shape.head_dim];
                attend::row(self.isa, query, kv, places[row], &mut scores, out);
            }
        });
        out
    }

    /// `gate` becomes silu(gate) · up.
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        exp::silu_mul(self.isa, gate, up);
    }

    pub fn add(&self, x: &mut [f32], more: &[f32]) {
        x.iter_mut().zip(more).for_each(|(x, more)| *x += more);
    }

    /// How many of `items` one thread takes at a time, when each costs `cost` multiplications.
    fn share(&self, items: usize, cost: usize) -> usize {
        let Some(pool) = &self.pool else { return items };
        let shares = (items * cost / SHARE_COST_MIN).clamp(1, pool.current_num_threads() * SHARES_PER_THREAD);
        items.div_ceil(shares).next_multiple_of(SHARE_MULTIPLE).min(items)
    }

    fn each_chunk(&self, out: &mut [f32], chunk: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        match &self.pool {
            Some(pool) if chunk < out.len() => pool.install(|| {
                out.par_chunks_mut(chunk).enumerate().for_each(|(number, out)| work(number, out));
            }),
            _ => out.chunks_mut(chunk).enumerate().for_each(|(number, out)| work(number, out)),
        }
    }
}

fn transposed(by_feature: &[f32], features: usize, rows: usize) -> Vec<f32> {
    let mut out = vec![0.0; by_feature.len()];
    for (feature, values) in by_feature.chunks_exact(rows).enumerate() {
        for (row, value) in values.iter().enumerate() {
            out[row * features + feature] = *value;
        }
    }
    out
}

/// Handing work to another thread costs some microseconds; below this it is cheaper to do it at once.
const SHARE_COST_MIN: usize = 1 << 16;
/// A multiple of every tile.
const SHARE_MULTIPLE: usize = 4;
/// More shares than threads, so that a thread that was interrupted does not hold up the rest.
const SHARES_PER_THREAD: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Bf16;

    /// Numbers whose sums are different in every order.
    fn rough(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next() * 10f32.powf(3.0 * next())).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn rows_threads_and_instructions_do_not_show_in_a_product() {
        for (features, inputs, rows) in [(1, 1, 1), (7, 16, 3), (33, 100, 9), (300, 192, 70), (513, 250, 1)] {
            let (weights, x) = (rough(features * inputs, 1), rough(rows * inputs, 2));
            let narrow: Vec<Bf16> = weights.iter().map(|w| Bf16((w.to_bits() >> 16) as u16)).collect();
            for values in [Values::F32(&weights), Values::Bf16(&narrow)] {
                let matrix = Matrix { features, inputs, values };
                let one = Cpu::with_isa(NonZeroUsize::MIN, Isa::Baseline).unwrap();
                let alone: Vec<f32> = x.chunks(inputs).flat_map(|row| one.matmul(row, matrix)).collect();
                for isa in Isa::all_here() {
                    for threads in 1..=4 {
                        let cpu = Cpu::with_isa(NonZeroUsize::new(threads).unwrap(), isa).unwrap();
                        assert_eq!(bits(&cpu.matmul(&x, matrix)), bits(&alone), "{isa:?} {threads}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_product_is_close_to_the_true_one() {
        let (features, inputs) = (5, 777);
        let (weights, x) = (rough(features * inputs, 3), rough(inputs, 4));
        let matrix = Matrix { features, inputs, values: Values::F32(&weights) };
        let product = Cpu::new(NonZeroUsize::MIN).unwrap().matmul(&x, matrix);
        for (row, found) in weights.chunks(inputs).zip(product) {
            let terms = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            assert!((f64::from(found) - sum).abs() <= 1e-6 * size, "{found} {sum}");
        }
    }

    #[test]
    fn silu_has_the_same_bits_with_all_instructions() {
        let (gate, up) = (rough(1000, 5), rough(1000, 6));
        let of = |isa| {
            let mut out = gate.clone();
            exp::silu_mul(isa, &mut out, &up);
            bits(&out)
        };
        for isa in Isa::all_here() {
            assert_eq!(of(isa), of(Isa::Baseline));
        }
    }
}
