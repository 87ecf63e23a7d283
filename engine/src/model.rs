//! Llama: tokens and positions in, logits out.
//!
//! Rows of a batch share the work of reading weights and nothing else; see the rule in `crate::backend`.

pub mod config;
pub mod weights;

pub use config::Config;

use crate::backend::cpu::{Cpu, KvCache, Place};
use crate::kv::blocks_for;
use std::path::Path;
use weights::{StoredMatrix, Weights, WeightsError};

/// A loaded model, and what computes it.
#[derive(Debug)]
pub struct Model {
    config: Config,
    cpu: Cpu,
    embeddings: StoredMatrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// None where the embeddings serve as head.
    head: Option<StoredMatrix>,
    /// Angle per position of each pair in a head.
    frequencies: Vec<f32>,
}

/// Consecutive tokens of one sequence, to be computed in this step.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    pub tokens: &'a [u32],
    /// Position of the first; those before it are in the cache.
    pub from: usize,
    pub blocks: &'a [u32],
    /// Logits after the last token are wanted.
    pub logits: bool,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    query: StoredMatrix,
    key: StoredMatrix,
    value: StoredMatrix,
    output: StoredMatrix,
    mlp_norm: Vec<f32>,
    gate: StoredMatrix,
    up: StoredMatrix,
    down: StoredMatrix,
}

impl Model {
    /// Loads the safetensors files among `files`.
    pub fn load(
        folder: &Path,
        files: impl Iterator<Item = impl AsRef<str>>,
        config: Config,
        cpu: Cpu,
    ) -> Result<Self, WeightsError> {
        let mut weights = Weights::map(folder, files)?;
        let embeddings = weights.matrix("model.embed_tokens.weight", config.vocabulary, config.hidden)?;
        let layers = (0..config.layers)
            .map(|number| Layer::load(&mut weights, &config, number))
            .collect::<Result<_, _>>()?;
        let norm = weights.vector("model.norm.weight", config.hidden)?;
        let head = match config.tied {
            true => None,
            false => Some(weights.matrix("lm_head.weight", config.vocabulary, config.hidden)?),
        };
        let frequencies = frequencies(config.rope_theta, config.head_dim);
        Ok(Self { config, cpu, embeddings, layers, norm, head, frequencies })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// An empty cache of so many blocks.
    pub fn cache(&self, blocks: usize) -> KvCache {
        KvCache::new(self.config.kv_shape(), blocks)
    }

    /// Computes all parts in one step; one row of logits for each part that wants them, in order.
    pub fn forward(&self, cache: &mut KvCache, parts: &[Part<'_>]) -> Vec<f32> {
        let places = places(parts);
        if places.is_empty() {
            return Vec::new();
        }
        let (cos, sin) = self.angles(&places);
        let mut x = self.embed(parts);
        for (number, layer) in self.layers.iter().enumerate() {
            let attended = self.attention(layer, number, &x, cache, &places, (&cos, &sin));
            self.cpu.add(&mut x, &attended);
            let fed = self.feed_forward(layer, &x);
            self.cpu.add(&mut x, &fed);
        }
        let wanted = self.wanted_rows(parts, &x);
        let normed = self.cpu.rms_norm(&wanted, &self.norm, self.config.rms_epsilon);
        self.cpu.matmul(&normed, self.head.as_ref().unwrap_or(&self.embeddings).view())
    }

    fn attention(
        &self,
        layer: &Layer,
        number: usize,
        x: &[f32],
        cache: &mut KvCache,
        places: &[Place<'_>],
        (cos, sin): (&[f32], &[f32]),
    ) -> Vec<f32> {
        let Config { heads, kv_heads, head_dim, rms_epsilon, .. } = self.config;
        let normed = self.cpu.rms_norm(x, &layer.attention_norm, rms_epsilon);
        let mut queries = self.cpu.matmul(&normed, layer.query.view());
        let mut keys = self.cpu.matmul(&normed, layer.key.view());
        let values = self.cpu.matmul(&normed, layer.value.view());
        self.cpu.rotate(&mut queries, heads, head_dim, cos, sin);
        self.cpu.rotate(&mut keys, kv_heads, head_dim, cos, sin);
        cache.write(number, places, &keys, &values);
        let attended = self.cpu.attend(&queries, cache, number, places);
        self.cpu.matmul(&attended, layer.output.view())
    }

    fn feed_forward(&self, layer: &Layer, x: &[f32]) -> Vec<f32> {
        let normed = self.cpu.rms_norm(x, &layer.mlp_norm, self.config.rms_epsilon);
        let mut gate = self.cpu.matmul(&normed, layer.gate.view());
        let up = self.cpu.matmul(&normed, layer.up.view());
        self.cpu.silu_mul(&mut gate, &up);
        self.cpu.matmul(&gate, layer.down.view())
    }

    fn embed(&self, parts: &[Part<'_>]) -> Vec<f32> {
        let tokens = parts.iter().flat_map(|part| part.tokens);
        let mut x = vec![0.0; tokens.clone().count() * self.config.hidden];
        for (row, token) in x.chunks_exact_mut(self.config.hidden).zip(tokens) {
            self.embeddings.view().copy_row(*token as usize, row);
        }
        x
    }

    fn wanted_rows(&self, parts: &[Part<'_>], x: &[f32]) -> Vec<f32> {
        let mut wanted = Vec::new();
        let mut rows = x.chunks_exact(self.config.hidden);
        for part in parts {
            let last = rows.by_ref().take(part.tokens.len()).last();
            wanted.extend_from_slice(last.filter(|_| part.logits).unwrap_or_default());
        }
        wanted
    }

    /// Cosines and sines of every row. The angle is taken in f32, as Hugging Face takes it.
    fn angles(&self, places: &[Place<'_>]) -> (Vec<f32>, Vec<f32>) {
        let angles = places.iter().flat_map(|place| {
            self.frequencies.iter().map(|frequency| f64::from(place.position as f32 * frequency))
        });
        angles.map(|angle| (libm::cos(angle) as f32, libm::sin(angle) as f32)).unzip()
    }
}

impl Layer {
    fn load(weights: &mut Weights, config: &Config, number: usize) -> Result<Self, WeightsError> {
        let Config { hidden, intermediate, heads, kv_heads, head_dim, .. } = *config;
        let name = |part: &str| format!("model.layers.{number}.{part}.weight");
        Ok(Self {
            attention_norm: weights.vector(&name("input_layernorm"), hidden)?,
            query: weights.matrix(&name("self_attn.q_proj"), heads * head_dim, hidden)?,
            key: weights.matrix(&name("self_attn.k_proj"), kv_heads * head_dim, hidden)?,
            value: weights.matrix(&name("self_attn.v_proj"), kv_heads * head_dim, hidden)?,
            output: weights.matrix(&name("self_attn.o_proj"), hidden, heads * head_dim)?,
            mlp_norm: weights.vector(&name("post_attention_layernorm"), hidden)?,
            gate: weights.matrix(&name("mlp.gate_proj"), intermediate, hidden)?,
            up: weights.matrix(&name("mlp.up_proj"), intermediate, hidden)?,
            down: weights.matrix(&name("mlp.down_proj"), hidden, intermediate)?,
        })
    }
}

fn places<'a>(parts: &[Part<'a>]) -> Vec<Place<'a>> {
    let place = |part: &Part<'a>| {
        let Part { tokens, from, blocks, .. } = *part;
        assert!(blocks_for(from + tokens.len()) <= blocks.len(), "a part without room in the cache");
        (from..from + tokens.len()).map(move |position| Place { position, blocks })
    };
    parts.iter().flat_map(place).collect()
}

/// θ^(-2i/d) for each pair i, in the roundings of Hugging Face. Not the C library's powers, which differ
/// between machines in the last bit.
fn frequencies(theta: f64, head_dim: usize) -> Vec<f32> {
    let exponent = |pair: usize| (2 * pair) as f32 / head_dim as f32;
    (0..head_dim / 2).map(|pair| 1.0 / libm::pow(theta, f64::from(exponent(pair))) as f32).collect()
}
