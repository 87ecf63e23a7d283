//! The same bits, however a token is computed: alone, in a chunk, in a batch, on several threads, with other
//! instructions, in other blocks. Resuming a stream elsewhere rests on this.

use crate::{house, tiny};
use engine::backend::cpu::Isa;
use engine::model::{Model, Part};
use safetensors::Dtype;
use std::path::Path;

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// Tokens that no two sequences share.
fn tokens(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|at| (seed * 7919 + at * 104_729 + at * at) % 256).collect()
}

/// All sequences in one cache, their blocks interleaved, all in each step: logits at the end of each chunk.
fn together(model: &Model, sequences: &[Vec<u32>], chunk: usize) -> Vec<Vec<Vec<f32>>> {
    let count = sequences.len();
    let blocks_each = sequences.iter().map(Vec::len).max().unwrap().div_ceil(16);
    let mut cache = model.cache(count * blocks_each);
    let tables: Vec<Vec<u32>> = (0..count)
        .map(|number| (0..blocks_each).map(|block| (block * count + number) as u32).collect())
        .collect();
    let mut all = vec![Vec::new(); count];
    for from in (0..).step_by(chunk) {
        let running: Vec<usize> = (0..count).filter(|number| from < sequences[*number].len()).collect();
        if running.is_empty() {
            return all;
        }
        let part = |number: &usize| {
            let sequence = &sequences[*number];
            let tokens = &sequence[from..sequence.len().min(from + chunk)];
            Part { tokens, from, blocks: &tables[*number], logits: true }
        };
        let parts: Vec<Part<'_>> = running.iter().map(part).collect();
        let logits = model.forward(&mut cache, &parts);
        let rows = logits.chunks_exact(logits.len() / running.len());
        for (number, row) in running.into_iter().zip(rows) {
            all[number].push(row.to_vec());
        }
    }
    unreachable!("sequences are finite")
}

fn check(folder: &Path, length: usize) {
    let model = house::load(folder, 1, Isa::Baseline);
    let sequences: Vec<Vec<u32>> = (0..8).map(|seed| tokens(seed, length - 3 * seed as usize)).collect();
    // The measure of everything: each token decoded alone, on one thread, with the plainest instructions.
    let alone: Vec<Vec<Vec<f32>>> = sequences.iter().map(|tokens| house::logits(&model, tokens, 1)).collect();
    let distinct: std::collections::BTreeSet<_> = alone[0].iter().map(|logits| bits(logits)).collect();
    assert!(distinct.len() > length / 2, "the model sees no difference between positions");
    let compare = |model: &Model, batch: usize, chunk: usize, what: &str| {
        let found = together(model, &sequences[..batch], chunk);
        for (number, found) in found.iter().enumerate() {
            for (at, logits) in found.iter().enumerate() {
                let position = (at * chunk + chunk).min(sequences[number].len()) - 1;
                let wanted = bits(&alone[number][position]);
                assert!(bits(logits) == wanted, "{what}: batch {batch}, chunk {chunk}, position {position}");
            }
        }
    };
    for chunk in [1, 2, 3, 7, 16, 17, 33, 1000] {
        compare(&model, 1, chunk, "chunks");
    }
    for batch in 2..=8 {
        compare(&model, batch, 1, "batches");
    }
    compare(&model, 5, 11, "both");
    for isa in Isa::all_here() {
        for threads in 1..=4 {
            let model = house::load(folder, threads, isa);
            compare(&model, 8, 1, &format!("{isa:?}, {threads} threads"));
            compare(&model, 3, 19, &format!("{isa:?}, {threads} threads"));
        }
    }
}

#[test]
fn the_house_model_has_the_same_bits_in_every_way() {
    check(&house::folder(), 60);
}

#[test]
fn models_of_odd_shapes_have_the_same_bits_in_every_way() {
    for shape in [
        tiny::ODD,
        tiny::Shape { tied: true, dtype: Dtype::BF16, kv_heads: 1, head_dim: 18, ..tiny::ODD },
        tiny::Shape { dtype: Dtype::F16, heads: 2, kv_heads: 2, head_dim: 64, ..tiny::ODD },
    ] {
        let folder = tempfile::tempdir().unwrap();
        tiny::write(folder.path(), shape);
        check(folder.path(), 50);
    }
}
