//! The model in the repository.

use engine::Config;
use engine::backend::cpu::{Cpu, Isa};
use engine::model::{Model, Part};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub fn model_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("model")
}

pub fn folder() -> PathBuf {
    model_folder().join("house")
}

pub fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(model_folder().join(name)).unwrap()).unwrap()
}

/// A free port, and room for everything.
pub fn config(model_dir: PathBuf) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        model_dir,
        version: None,
        replica: Some("us-east/n1/0-0".parse().unwrap()),
        served_name: "house".parse().unwrap(),
        threads: NonZeroUsize::MIN,
        slots: 8,
        queue_max: 1000,
        kv_tokens: 8192,
        prefill_chunk: 256,
        step_time: Duration::ZERO,
    }
}

pub fn load(folder: &Path, threads: usize, isa: Isa) -> Model {
    let manifest = engine::manifest::read(folder).unwrap();
    let config = engine::model::config::read(folder).unwrap();
    let cpu = Cpu::with_isa(NonZeroUsize::new(threads).unwrap(), isa).unwrap();
    Model::load(folder, manifest.files.keys(), config, cpu).unwrap()
}

/// Logits at the end of each chunk of one sequence that is alone in the engine.
pub fn logits(model: &Model, tokens: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let blocks: Vec<u32> = (0..tokens.len().div_ceil(16) as u32).collect();
    let mut cache = model.cache(blocks.len());
    let chunks = tokens.chunks(chunk).enumerate();
    chunks
        .map(|(number, tokens)| {
            let part = Part { tokens, from: number * chunk, blocks: &blocks, logits: true };
            model.forward(&mut cache, &[part])
        })
        .collect()
}
