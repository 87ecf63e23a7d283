//! The shape of a Llama, as Hugging Face's `config.json` tells it.
//!
//! Whatever would change the arithmetic and is not implemented is refused here, by name: a model that loads
//! computes what its makers meant.

use crate::backend::cpu::KvShape;
use serde::Deserialize;
use std::path::Path;

/// What can be run: every relation checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub vocabulary: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub positions_max: usize,
    pub rms_epsilon: f32,
    pub rope_theta: f64,
    /// The head is the embedding matrix.
    pub tied: bool,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
}

/// Why a configuration cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("config.json is not a model configuration; copy the model again")]
    NotAConfig(#[source] serde_json::Error),
    #[error("cannot read config.json; copy the model again")]
    Unreadable(#[source] std::io::Error),
    #[error("{field} is {found}, but this engine runs {supported} only; choose another model")]
    Unsupported { field: &'static str, found: String, supported: &'static str },
    #[error("{relation} does not hold in config.json; copy the model again")]
    Broken { relation: &'static str },
}

pub fn read(folder: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read(folder.join("config.json")).map_err(ConfigError::Unreadable)?;
    parse(&text)
}

fn parse(text: &[u8]) -> Result<Config, ConfigError> {
    serde_json::from_slice::<File>(text).map_err(ConfigError::NotAConfig)?.try_into()
}

/// `config.json`. Keys that do not touch the arithmetic are skipped.
#[derive(Deserialize)]
struct File {
    model_type: String,
    hidden_act: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_parameters: Option<Rope>,
    rope_scaling: Option<Rope>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    eos_token_id: Option<OneOrMore>,
}

/// transformers 5 writes `rope_parameters`; before, `rope_theta` and `rope_scaling`.
#[derive(Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(u32),
    More(Vec<u32>),
}

impl TryFrom<File> for Config {
    type Error = ConfigError;

    fn try_from(file: File) -> Result<Self, ConfigError> {
        let activation = file.hidden_act.unwrap_or_else(|| "silu".to_owned());
        supported("model_type", &file.model_type, "llama")?;
        supported("hidden_act", &activation, "silu")?;
        supported("attention_bias", &file.attention_bias.to_string(), "false")?;
        supported("mlp_bias", &file.mlp_bias.to_string(), "false")?;
        for rope in [&file.rope_parameters, &file.rope_scaling].into_iter().flatten() {
            supported("rope_type", rope.rope_type.as_deref().unwrap_or("default"), "default")?;
        }
        let rope_theta = file.rope_parameters.and_then(|rope| rope.rope_theta).or(file.rope_theta);
        let end_tokens = match file.eos_token_id {
            None => Vec::new(),
            Some(OneOrMore::One(id)) => vec![id],
            Some(OneOrMore::More(ids)) => ids,
        };
        let heads = file.num_attention_heads;
        let config = Self {
            vocabulary: file.vocab_size,
            hidden: file.hidden_size,
            intermediate: file.intermediate_size,
            layers: file.num_hidden_layers,
            heads,
            kv_heads: file.num_key_value_heads.unwrap_or(heads),
            head_dim: file.head_dim.unwrap_or(file.hidden_size / heads.max(1)),
            positions_max: file.max_position_embeddings,
            rms_epsilon: file.rms_norm_eps as f32,
            rope_theta: rope_theta.unwrap_or(ROPE_THETA_DEFAULT),
            tied: file.tie_word_embeddings,
            end_tokens,
        };
        config.check()?;
        Ok(config)
    }
}

impl Config {
    /// What one token keeps in the cache.
    pub fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.layers, heads: self.kv_heads, head_dim: self.head_dim }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let sizes = [
            self.vocabulary,
            self.hidden,
            self.intermediate,
            self.layers,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.positions_max,
        ];
        let relations = [
            (sizes.iter().all(|size| (1..=SIZE_MAX).contains(size)), "1 <= every size <= 2^24"),
            (
                self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
                "num_key_value_heads divides num_attention_heads",
            ),
            (self.head_dim.is_multiple_of(2), "head_dim is even"),
            (self.rms_epsilon > 0.0, "rms_norm_eps > 0"),
            (self.rope_theta >= 1.0 && self.rope_theta.is_finite(), "rope_theta >= 1"),
            (self.end_tokens.iter().all(|id| (*id as usize) < self.vocabulary), "eos_token_id < vocab_size"),
        ];
        match relations.into_iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, relation)) => Err(ConfigError::Broken { relation }),
        }
    }
}

fn supported(field: &'static str, found: &str, supported: &'static str) -> Result<(), ConfigError> {
    if found == supported {
        return Ok(());
    }
    Err(ConfigError::Unsupported { field, found: found.chars().take(FOUND_SHOWN_MAX).collect(), supported })
}

/// transformers' own default.
const ROPE_THETA_DEFAULT: f64 = 10_000.0;
/// No published model comes near; products of two sizes cannot overflow.
const SIZE_MAX: usize = 1 << 24;
const FOUND_SHOWN_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn with(fields: &str) -> Result<Config, ConfigError> {
        let text = format!(
            r#"{{"model_type":"llama","vocab_size":10,"hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,
            "num_attention_heads":2,"max_position_embeddings":16,"rms_norm_eps":1e-5{fields}}}"#
        );
        parse(text.as_bytes())
    }

    #[test]
    fn old_and_new_spellings_mean_the_same() {
        let old = with(r#","rope_theta":5e5,"rope_scaling":null,"eos_token_id":3"#).unwrap();
        let new = with(r#","rope_parameters":{"rope_type":"default","rope_theta":5e5},"eos_token_id":[3]"#);
        assert_eq!(old, new.unwrap());
        assert_eq!((old.kv_heads, old.head_dim, old.rope_theta), (2, 4, 5e5));
    }

    #[test]
    fn what_cannot_be_computed_is_refused_by_name() {
        for (fields, named) in [
            (r#","rope_scaling":{"type":"linear","factor":2.0}"#, "rope_type is linear"),
            (r#","rope_parameters":{"rope_type":"llama3"}"#, "rope_type is llama3"),
            (r#","hidden_act":"gelu""#, "hidden_act is gelu"),
            (r#","attention_bias":true"#, "attention_bias is true"),
            (r#","num_key_value_heads":0"#, "every size"),
            (r#","num_key_value_heads":3"#, "num_key_value_heads divides"),
            (r#","head_dim":3"#, "head_dim is even"),
            (r#","eos_token_id":10"#, "eos_token_id"),
        ] {
            let message = with(fields).unwrap_err().to_string();
            assert!(message.contains(named), "{fields}: {message}");
        }
    }
}
