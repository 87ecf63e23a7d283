//! A model's numbers, mapped from safetensors files.
//!
//! Matrices stay as they lie in the file and are shared between processes through the page cache. Float16
//! becomes f32, because widening it on the fly costs more than it saves; vectors are small and become f32 too.

use crate::backend::{Bf16, Matrix, Values};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// All tensors of a model, by name.
#[derive(Debug)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
}

/// A matrix that keeps its file mapped.
#[derive(Debug)]
pub struct StoredMatrix {
    features: usize,
    inputs: usize,
    numbers: Numbers,
}

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("cannot map {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not a safetensors file; copy the model again", path.display())]
    NotSafetensors { path: PathBuf, source: safetensors::SafeTensorError },
    #[error("the tensor {name} is missing from the model's safetensors files; copy the model again")]
    Missing { name: String },
    #[error(
        "the tensor {name} is {found:?} where config.json asks for {expected:?}; weights and configuration are of different models"
    )]
    Shape { name: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("the tensor {name} has the type {found:?}; convert the model to bfloat16, float16 or float32")]
    Dtype { name: String, found: Dtype },
}

#[derive(Debug)]
struct Tensor {
    file: Arc<Mmap>,
    bytes: Range<usize>,
    shape: Vec<usize>,
    dtype: Dtype,
}

#[derive(Debug)]
enum Numbers {
    Bf16(Mapped<Bf16>),
    F32(Mapped<f32>),
    Widened(Vec<f32>),
}

/// Numbers in a mapped file. Only made by [`Mapped::new`], which checks length and alignment.
#[derive(Debug)]
struct Mapped<T> {
    file: Arc<Mmap>,
    bytes: Range<usize>,
    numbers: PhantomData<T>,
}

impl Weights {
    pub fn map(folder: &Path, names: impl Iterator<Item = impl AsRef<str>>) -> Result<Self, WeightsError> {
        let mut tensors = BTreeMap::new();
        for name in names.filter(|name| name.as_ref().ends_with(".safetensors")) {
            let path = folder.join(name.as_ref());
            let unreadable = |source| WeightsError::Unreadable { path: path.clone(), source };
            let file = File::open(&path).map_err(unreadable)?;
            // SAFETY: files of a model version are never changed in place; a new version is a new folder.
            let file = Arc::new(unsafe { Mmap::map(&file) }.map_err(unreadable)?);
            let read = SafeTensors::deserialize(&file)
                .map_err(|source| WeightsError::NotSafetensors { path: path.clone(), source })?;
            for (name, view) in read.tensors() {
                let begin = view.data().as_ptr().addr() - file.as_ptr().addr();
                let bytes = begin..begin + view.data().len();
                let (shape, dtype) = (view.shape().to_vec(), view.dtype());
                tensors.insert(name, Tensor { file: Arc::clone(&file), bytes, shape, dtype });
            }
        }
        Ok(Self { tensors })
    }

    /// Takes a matrix of `features` rows.
    pub fn matrix(
        &mut self,
        name: &str,
        features: usize,
        inputs: usize,
    ) -> Result<StoredMatrix, WeightsError> {
        let tensor = self.take(name, &[features, inputs])?;
        let numbers = match tensor.dtype {
            Dtype::BF16 => Mapped::new(&tensor).map(Numbers::Bf16),
            Dtype::F32 => Mapped::new(&tensor).map(Numbers::F32),
            _ => None,
        };
        let numbers = match numbers {
            Some(numbers) => numbers,
            None => Numbers::Widened(tensor.widen(name)?),
        };
        Ok(StoredMatrix { features, inputs, numbers })
    }

    /// Takes a vector, widened to f32.
    pub fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, WeightsError> {
        self.take(name, &[length])?.widen(name)
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        let tensor =
            self.tensors.remove(name).ok_or_else(|| WeightsError::Missing { name: name.to_owned() })?;
        if tensor.shape != shape {
            let (name, expected, found) = (name.to_owned(), shape.to_vec(), tensor.shape);
            return Err(WeightsError::Shape { name, expected, found });
        }
        Ok(tensor)
    }
}

impl StoredMatrix {
    pub fn view(&self) -> Matrix<'_> {
        let values = match &self.numbers {
            Numbers::Bf16(mapped) => Values::Bf16(mapped.as_slice()),
            Numbers::F32(mapped) => Values::F32(mapped.as_slice()),
            Numbers::Widened(values) => Values::F32(values),
        };
        Matrix { features: self.features, inputs: self.inputs, values }
    }
}

impl Tensor {
    fn widen(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let bytes = &self.file[self.bytes.clone()];
        let halves = || bytes.as_chunks().0.iter().map(|half| u16::from_le_bytes(*half));
        match self.dtype {
            Dtype::F32 => Ok(bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect()),
            Dtype::BF16 => Ok(halves().map(|bits| Bf16(bits).widen()).collect()),
            Dtype::F16 => Ok(halves().map(widen_f16).collect()),
            found => Err(WeightsError::Dtype { name: name.to_owned(), found }),
        }
    }
}

/// Exact: every float16 is an f32.
fn widen_f16(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff);
    // Shifted into f32's place the exponent is too small by 112; the product also turns what is subnormal
    // in float16 into normal numbers.
    let value = if magnitude >= 0x7c00 {
        f32::from_bits(0x7f80_0000 | (magnitude & 0x03ff) << 13)
    } else {
        f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000)
    };
    if bits & 0x8000 == 0 { value } else { -value }
}

/// Types for which every bit pattern is a value.
trait Plain: Copy {}
impl Plain for Bf16 {}
impl Plain for f32 {}

impl<T: Plain> Mapped<T> {
    /// None where the numbers do not lie as this processor reads them.
    fn new(tensor: &Tensor) -> Option<Self> {
        let bytes = &tensor.file[tensor.bytes.clone()];
        let fits = bytes.as_ptr().cast::<T>().is_aligned() && bytes.len().is_multiple_of(size_of::<T>());
        (cfg!(target_endian = "little") && fits).then(|| Self {
            file: Arc::clone(&tensor.file),
            bytes: tensor.bytes.clone(),
            numbers: PhantomData,
        })
    }

    fn as_slice(&self) -> &[T] {
        let bytes = &self.file[self.bytes.clone()];
        // SAFETY: `new` checked alignment and length, a mapping does not move, and T takes every bit pattern.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float16_is_widened_exactly() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x0001, 2f32.powi(-24)),
            (0x03ff, 1023.0 * 2f32.powi(-24)),
            (0x0400, 2f32.powi(-14)),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x7bff, 65504.0),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(widen_f16(bits), value, "{bits:#x}");
        }
        assert!(widen_f16(0x7e00).is_nan());
        assert!(widen_f16(0x8000).is_sign_negative());
    }
}
