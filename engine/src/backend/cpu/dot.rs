//! Dot products in sixteen virtual lanes.
//!
//! Product n goes to lane n mod 16; each lane adds its products in order; the lanes are folded in one fixed
//! tree. So a sum depends on its numbers alone, not on what is computed beside it.

use super::isa::{Isa, for_each_isa};
use crate::backend::Bf16;

/// A number as weights are stored.
pub(super) trait Element: Copy + Sync {
    const ZERO: Self;

    fn value(self) -> f32;
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

impl Element for Bf16 {
    const ZERO: Self = Self(0);

    #[inline(always)]
    fn value(self) -> f32 {
        self.widen()
    }
}

/// Products of each feature's weights with each row of `x`; `out` is by feature, then by row.
pub(super) fn stripe<W: Element>(isa: Isa, weights: &[W], x: &[f32], inputs: usize, out: &mut [f32]) {
    // Two rows at a time pay where there are registers for so many sums.
    let paired = isa != Isa::Baseline;
    for_each_isa!(isa, stripe_of<W: Element>(weights: &[W], x: &[f32], inputs: usize, paired: bool, out: &mut [f32]));
}

pub(super) fn dot(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    for_each_isa!(isa, single(a: &[f32], b: &[f32]) -> f32)
}

#[inline(always)]
fn stripe_of<W: Element>(weights: &[W], x: &[f32], inputs: usize, paired: bool, out: &mut [f32]) {
    if paired {
        tiles::<W, 2>(weights, x, inputs, out);
    } else {
        tiles::<W, 1>(weights, x, inputs, out);
    }
}

#[inline(always)]
fn tiles<W: Element, const R: usize>(weights: &[W], x: &[f32], inputs: usize, out: &mut [f32]) {
    let (features, rows) = (weights.len() / inputs, x.len() / inputs);
    let weight = |feature: usize| &weights[feature * inputs..(feature + 1) * inputs];
    let input = |row: usize| &x[row * inputs..(row + 1) * inputs];
    let (tiled_features, tiled_rows) = (features / TILE * TILE, rows / R * R);
    // Rows in groups that stay in the cache while all weights pass by.
    for group in (0..tiled_rows).step_by(GROUP_ROWS) {
        for feature in (0..tiled_features).step_by(TILE) {
            let weights = [weight(feature), weight(feature + 1), weight(feature + 2), weight(feature + 3)];
            for row in (group..tiled_rows.min(group + GROUP_ROWS)).step_by(R) {
                let mut inputs = [input(row); R];
                for (at, inputs) in inputs.iter_mut().enumerate() {
                    *inputs = input(row + at);
                }
                let sums = tile::<W, R>(weights, inputs);
                for (at, sums) in sums.into_iter().enumerate() {
                    for (feature, sum) in (feature..).zip(sums) {
                        out[feature * rows + row + at] = sum;
                    }
                }
            }
        }
    }
    for row in tiled_rows..rows {
        for feature in (0..tiled_features).step_by(TILE) {
            let weights = [weight(feature), weight(feature + 1), weight(feature + 2), weight(feature + 3)];
            let [sums] = tile::<W, 1>(weights, [input(row)]);
            for (feature, sum) in (feature..).zip(sums) {
                out[feature * rows + row] = sum;
            }
        }
    }
    for feature in tiled_features..features {
        for row in 0..rows {
            out[feature * rows + row] = single(weight(feature), input(row));
        }
    }
}

/// Products of four features with `R` rows: a number once loaded serves several sums, and enough sums run side
/// by side to hide how long one addition takes.
#[inline(always)]
pub(super) fn tile<W: Element, const R: usize>(weights: [&[W]; TILE], x: [&[f32]; R]) -> [[f32; TILE]; R] {
    let whole = x[0].len() / LANES;
    let weight_chunks = weights.map(|weights| &weights.as_chunks::<LANES>().0[..whole]);
    let x_chunks = x.map(|x| &x.as_chunks::<LANES>().0[..whole]);
    let mut sums = [[[0.0; LANES]; TILE]; R];
    for at in 0..whole {
        for feature in 0..TILE {
            let weights = weight_chunks[feature][at].map(Element::value);
            for row in 0..R {
                add_products(&mut sums[row][feature], &weights, &x_chunks[row][at]);
            }
        }
    }
    if !x[0].len().is_multiple_of(LANES) {
        for feature in 0..TILE {
            let weights = padded(weights[feature]);
            for row in 0..R {
                add_products(&mut sums[row][feature], &weights, &padded(x[row]));
            }
        }
    }
    sums.map(|sums| sums.map(fold))
}

#[inline(always)]
fn single<W: Element>(weights: &[W], x: &[f32]) -> f32 {
    let mut sum = [0.0; LANES];
    for (weights, x) in weights.as_chunks().0.iter().zip(x.as_chunks().0) {
        add_products(&mut sum, &weights.map(Element::value), x);
    }
    if !x.len().is_multiple_of(LANES) {
        add_products(&mut sum, &padded(weights), &padded(x));
    }
    fold(sum)
}

#[inline(always)]
pub(super) fn add_products(sums: &mut [f32; LANES], a: &[f32; LANES], b: &[f32; LANES]) {
    for lane in 0..LANES {
        sums[lane] += a[lane] * b[lane];
    }
}

/// The one tree in which lanes become a sum.
#[inline(always)]
pub(super) fn fold(lanes: [f32; LANES]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|at| lanes[at] + lanes[at + 8]);
    let four: [f32; 4] = std::array::from_fn(|at| eight[at] + eight[at + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// What is left after the whole chunks, filled up with zeros.
#[inline(always)]
fn padded<W: Element>(values: &[W]) -> [f32; LANES] {
    let rest = values.as_chunks::<LANES>().1;
    let mut out = [W::ZERO; LANES];
    out[..rest.len()].copy_from_slice(rest);
    out.map(Element::value)
}

pub(super) const LANES: usize = 16;
/// Features computed side by side.
pub(super) const TILE: usize = 4;
/// 32 rows of 4,096 inputs are half a megabyte: what a core keeps close.
const GROUP_ROWS: usize = 32;
