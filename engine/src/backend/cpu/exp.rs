//! The exponential function, the same on every machine.
//!
//! The C library chooses its `expf` by the processor, and its versions differ in the last bit. This one is
//! Cephes' polynomial in plain multiplications and additions; the relative error is below 2e-7.

use super::isa::{Isa, for_each_isa};

#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(LOWEST, HIGHEST);
    // Adding 1.5 · 2²³ rounds to a whole number, which then stands in the lowest bits.
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let whole = rounded - ROUNDER;
    let rest = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
    let mut sum = 1.987_569_2e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        sum = sum * rest + coefficient;
    }
    let fraction = (sum * (rest * rest) + rest) + 1.0;
    fraction * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

/// `gate` becomes gate · sigmoid(gate) · up.
pub(super) fn silu_mul(isa: Isa, gate: &mut [f32], up: &[f32]) {
    for_each_isa!(isa, silu_mul_of(gate: &mut [f32], up: &[f32]));
}

#[inline(always)]
fn silu_mul_of(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

/// Below, the result would no longer be a normal number; to a softmax, 1e-38 is nothing.
const LOWEST: f32 = -87.0;
const HIGHEST: f32 = 88.0;
const ROUNDER: f32 = 12_582_912.0;
/// ln 2 in two parts; a whole number times the first is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_true_one() {
        for step in -8700..8800 {
            let x = step as f32 / 100.0;
            let (found, wanted) = (f64::from(exp(x)), libm::exp(f64::from(x)));
            assert!((found - wanted).abs() <= 2e-7 * wanted, "exp({x}) = {found}, not {wanted}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 1e-37);
    }
}
