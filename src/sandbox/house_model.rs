//! The model that comes inside the binary, so that a sandbox answers without a download.

use crate::files::{Readers, write_whole};
use engine::manifest::{self, Manifest};
use std::io;
use std::path::{Path, PathBuf};
use types::ModelVersion;

/// The model where engines find it.
#[derive(Debug, Clone)]
pub struct HouseModel {
    pub dir: PathBuf,
    pub version: ModelVersion,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write the house model to {}", path.display())]
pub struct KeepError {
    path: PathBuf,
    source: io::Error,
}

/// What clients call it.
pub const NAME: &str = "rhumb-house";

/// Writes the model below `models`, where its files are not already what they should be.
pub fn keep(models: &Path) -> Result<HouseModel, KeepError> {
    let version = version();
    let dir = models.join(short(version));
    std::fs::create_dir_all(&dir).map_err(|source| KeepError { path: dir.clone(), source })?;
    for (name, content) in FILES {
        let path = dir.join(name);
        let is_kept = std::fs::read(&path).is_ok_and(|kept| kept == *content);
        if !is_kept {
            write_whole(&path, content, Readers::Everybody).map_err(|source| KeepError { path, source })?;
        }
    }
    Ok(HouseModel { dir, version })
}

pub fn version() -> ModelVersion {
    let (_, manifest) = FILES
        .iter()
        .find(|(name, _)| *name == manifest::FILE_NAME)
        .expect("the manifest is one of the files");
    let manifest: Manifest =
        serde_json::from_slice(manifest).expect("a test reads the manifest that is built in");
    manifest.version()
}

/// Whether a version's source is where some sandbox keeps the house model that came with its binary.
pub fn is_source(source: &str, version: ModelVersion) -> bool {
    source.starts_with("file:///") && source.ends_with(&format!("/{MODELS}/{}", short(version)))
}

/// Enough of a digest to tell a person's models apart.
fn short(version: ModelVersion) -> String {
    version.to_string().trim_start_matches("sha256:").chars().take(SHORT_CHARS).collect()
}

/// The directory below a sandbox's data.
pub const MODELS: &str = "models";
const SHORT_CHARS: usize = 12;

macro_rules! house {
    ($($name:literal),*) => {
        &[$(($name, include_bytes!(concat!("../../engine/model/house/", $name)))),*]
    };
}

/// The manifest last: a folder without one is no model, so an interrupted copy is never used.
const FILES: &[(&str, &[u8])] =
    house!["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "manifest.json"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_whole_and_a_damaged_copy_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let house = keep(dir.path()).unwrap();
        let manifest = manifest::read(&house.dir).unwrap();
        manifest.verify(&house.dir).unwrap();
        assert_eq!(manifest.version(), house.version);
        std::fs::write(house.dir.join("tokenizer.json"), "{}").unwrap();
        keep(dir.path()).unwrap();
        manifest.verify(&house.dir).unwrap();
    }
}
