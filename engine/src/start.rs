//! From a model's folder to something that can generate: every file checked before anything runs.

use crate::Config;
use crate::backend::cpu::{Cpu, KvCache, KvShape};
use crate::kv::{BLOCK_TOKENS, blocks_for};
use crate::manifest::{self, Manifest};
use crate::model::{self, Model};
use crate::template::{ChatTemplate, TemplateError};
use crate::tokenizer::{Tokenizer, TokenizerError};
use std::io;
use std::net::SocketAddr;
use types::ModelVersion;

/// Everything that was read from the folder.
#[derive(Debug)]
pub struct Loaded {
    pub version: ModelVersion,
    /// Tokens of prompt and answer together.
    pub context_length: usize,
    /// What the KV cache holds: the configuration's, rounded up to whole blocks.
    pub kv_tokens: usize,
    pub model: Model,
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
}

/// Why the engine cannot start. The message of the innermost cause names the next step.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("another process listens on {address}; stop it or choose another address")]
    AddressBusy { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Manifest(#[from] manifest::ReadError),
    #[error(transparent)]
    Verify(#[from] manifest::VerifyError),
    #[error(
        "the folder holds version {found}, but {expected} was asked for; give the folder of that version"
    )]
    OtherVersion { expected: ModelVersion, found: ModelVersion },
    #[error("the architecture {found} is not supported; this engine runs llama")]
    Architecture { found: String },
    #[error("the dtype {found} is not supported; convert the model to bfloat16, float16 or float32")]
    Dtype { found: String },
    #[error("the manifest does not list {name}; copy the model again")]
    Unlisted { name: &'static str },
    #[error(transparent)]
    ModelConfig(#[from] model::config::ConfigError),
    #[error(transparent)]
    Weights(#[from] model::weights::WeightsError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(
        "the manifest promises a context of {manifest} tokens, but the model ends at {model}; copy the model again"
    )]
    Context { manifest: usize, model: usize },
    #[error("a KV cache of {kv_tokens} tokens cannot hold one context; raise kv_tokens to {needed} or more")]
    CacheTooSmall { kv_tokens: usize, needed: usize },
    #[error(
        "a KV cache of {kv_tokens} tokens needs {bytes} bytes, more than this system gives; \
         lower kv_tokens or slots"
    )]
    CacheTooLarge { kv_tokens: usize, bytes: u128 },
    #[error("{name} must be at least 1")]
    Zero { name: &'static str },
    #[error("{name} must be at most {max}")]
    TooMany { name: &'static str, max: usize },
    #[error("cannot start threads; allow this process more of them")]
    Threads(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the system gives no random numbers")]
    NoRandomness(#[source] getrandom::Error),
}

pub async fn listen(address: SocketAddr) -> Result<tokio::net::TcpListener, StartError> {
    tokio::net::TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressBusy { address },
        _ => StartError::Listen { address, source },
    })
}

/// Reads and checks everything. Takes as long as reading all weights once.
pub fn load(config: &Config) -> Result<Loaded, StartError> {
    check_bounds(config)?;
    let folder = &config.model_dir;
    let manifest = manifest::read(folder)?;
    let version = expected_version(&manifest, config.version)?;
    check_kind(&manifest)?;
    manifest.verify(folder)?;
    let shape = model::config::read(folder)?;
    let context_length = manifest.context_length;
    if context_length > shape.positions_max {
        return Err(StartError::Context { manifest: context_length, model: shape.positions_max });
    }
    let kv_tokens = whole_blocks(config.kv_tokens, context_length, shape.kv_shape())?;
    let tokenizer = Tokenizer::read(folder)?;
    let template = ChatTemplate::read(folder, &manifest)?;
    let cpu = Cpu::new(config.threads).map_err(|error| StartError::Threads(error.into()))?;
    let model = Model::load(folder, manifest.files.keys(), shape, cpu)?;
    Ok(Loaded { version, context_length, kv_tokens, model, tokenizer, template })
}

fn check_bounds(config: &Config) -> Result<(), StartError> {
    for (name, value, min, max) in [
        ("slots", config.slots, 1, SLOTS_MAX),
        ("queue_max", config.queue_max, 0, QUEUE_MAX),
        ("threads", config.threads.get(), 1, THREADS_MAX),
        ("prefill_chunk", config.prefill_chunk, 1, PREFILL_CHUNK_MAX),
    ] {
        if value < min {
            return Err(StartError::Zero { name });
        }
        if value > max {
            return Err(StartError::TooMany { name, max });
        }
    }
    Ok(())
}

/// The tokens of a cache that holds one context and fits into this machine.
fn whole_blocks(kv_tokens: usize, context_length: usize, shape: KvShape) -> Result<usize, StartError> {
    let needed = context_length.next_multiple_of(BLOCK_TOKENS);
    if kv_tokens < needed {
        return Err(StartError::CacheTooSmall { kv_tokens, needed });
    }
    let fits = |whole: &usize| KvCache::has_room(shape, blocks_for(*whole));
    kv_tokens
        .checked_next_multiple_of(BLOCK_TOKENS)
        .filter(fits)
        .ok_or_else(|| StartError::CacheTooLarge { kv_tokens, bytes: shape.bytes(kv_tokens) })
}

fn expected_version(manifest: &Manifest, expected: Option<ModelVersion>) -> Result<ModelVersion, StartError> {
    let found = manifest.version();
    match expected {
        Some(expected) if expected != found => Err(StartError::OtherVersion { expected, found }),
        _ => Ok(found),
    }
}

/// Refused before gigabytes are read.
fn check_kind(manifest: &Manifest) -> Result<(), StartError> {
    if manifest.architecture != "llama" {
        return Err(StartError::Architecture { found: manifest.architecture.clone() });
    }
    if !["bfloat16", "float16", "float32"].contains(&manifest.dtype.as_str()) {
        return Err(StartError::Dtype { found: manifest.dtype.clone() });
    }
    // What is read must be what the version names.
    if let Some(name) = NEEDED.into_iter().find(|name| !manifest.files.contains_key(*name)) {
        return Err(StartError::Unlisted { name });
    }
    Ok(())
}

/// Any more is a slip of the pen; an agent's configuration ends there, too.
pub const SLOTS_MAX: usize = 4096;
pub const THREADS_MAX: usize = 1024;
pub const QUEUE_MAX: usize = 65_536;
/// A step's activations are kept for each of these tokens.
pub const PREFILL_CHUNK_MAX: usize = 65_536;
/// Beside the weights, whose names differ.
const NEEDED: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];
