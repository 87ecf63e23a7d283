//! The arithmetic that a model is made of, and the rule it obeys.
//!
//! **One fixed reduction order per output element.** A sum is taken in an order that depends on its length
//! alone: not on the rows computed beside it, the size of a prefill chunk, the number of threads or the
//! processor's vector width. So a token decoded alone, recomputed in a chunk after a preemption, or on another
//! machine has the same bits, and a resumed stream continues exactly.
//!
//! [`cpu`] computes on processors.

pub mod cpu;

/// The bits of a bfloat16: the upper half of an f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

/// Numbers of a weight matrix, as they lie in memory.
#[derive(Debug, Clone, Copy)]
pub enum Values<'a> {
    Bf16(&'a [Bf16]),
    F32(&'a [f32]),
}

/// Row-major; each row holds the weights of one output feature.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    pub features: usize,
    pub inputs: usize,
    pub values: Values<'a>,
}

impl Bf16 {
    /// Exact: every bfloat16 is an f32.
    #[inline(always)]
    pub fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

impl Matrix<'_> {
    /// The weights of one feature, widened. A token's embedding is a row of its matrix.
    pub fn copy_row(&self, row: usize, out: &mut [f32]) {
        let range = row * self.inputs..(row + 1) * self.inputs;
        match self.values {
            Values::Bf16(values) => {
                out.iter_mut().zip(&values[range]).for_each(|(out, value)| *out = value.widen());
            }
            Values::F32(values) => out.copy_from_slice(&values[range]),
        }
    }
}
