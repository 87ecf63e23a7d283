//! What a model version is made of: names and digests of its files.
//!
//! The version is the SHA-256 of the canonical manifest (keys sorted, no white space), so that weights,
//! tokenizer, template or context cannot change without the version changing.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use types::ModelVersion;

/// `manifest.json` of a model's folder. Fields in the order of their names: that is the canonical order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub architecture: String,
    pub context_length: usize,
    pub dtype: String,
    /// File name to `sha256:<hex>`.
    pub files: BTreeMap<String, String>,
    pub name: String,
}

/// Why a folder has no usable manifest.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("there is no {}; give the folder that holds the model's files", path.display())]
    Missing { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not a model manifest; copy the model again", path.display())]
    NotAManifest { path: PathBuf, source: serde_json::Error },
    #[error("{} has {problem}; copy the model again", path.display())]
    Refused { path: PathBuf, problem: String },
}

/// Why a file is not the one that the manifest names.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{} is missing; copy the model again", path.display())]
    Missing { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "{} is damaged or of another version: the manifest says {expected}, its content is {found}; \
         copy the model again",
        path.display()
    )]
    Digest { path: PathBuf, expected: String, found: String },
}

/// Reads the manifest of a model's folder. Its files are not looked at: see [`Manifest::verify`].
pub fn read(folder: &Path) -> Result<Manifest, ReadError> {
    let path = folder.join(FILE_NAME);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadError::Missing { path }),
        Err(source) => return Err(ReadError::Unreadable { path, source }),
    };
    let manifest: Manifest = match serde_json::from_slice(&text) {
        Ok(manifest) => manifest,
        Err(source) => return Err(ReadError::NotAManifest { path, source }),
    };
    match manifest.problem() {
        None => Ok(manifest),
        Some(problem) => Err(ReadError::Refused { path, problem }),
    }
}

impl Manifest {
    pub fn version(&self) -> ModelVersion {
        ModelVersion::from_digest(Sha256::digest(self.canonical()).into())
    }

    /// The bytes whose digest is the version.
    pub fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always serialise")
    }

    /// Compares every file with its digest, byte for byte.
    pub fn verify(&self, folder: &Path) -> Result<(), VerifyError> {
        self.files.iter().try_for_each(|(name, expected)| {
            let path = folder.join(name);
            match digest(&path) {
                Ok(found) if found == *expected => Ok(()),
                Ok(found) => Err(VerifyError::Digest { path, expected: expected.clone(), found }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(VerifyError::Missing { path }),
                Err(source) => Err(VerifyError::Unreadable { path, source }),
            }
        })
    }

    fn problem(&self) -> Option<String> {
        // Plain names only, so that no manifest reaches out of its folder and every JSON writer escapes
        // (that is, does not escape) them alike.
        let plain = |text: &str| {
            !text.starts_with('.')
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let strange =
            self.files.keys().chain([&self.name, &self.architecture, &self.dtype]).find(|text| !plain(text));
        if let Some(text) = strange {
            let shown: String = text.chars().take(NAME_SHOWN_MAX).collect();
            return Some(format!(
                "the name {shown:?}, where only letters, digits, '.', '_' and '-' are allowed"
            ));
        }
        (self.context_length < 2).then(|| "a context of less than two tokens".to_owned())
    }
}

/// `sha256:<hex>` of a file.
pub fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(ModelVersion::from_digest(hasher.finalize().into()).to_string())
}

pub const FILE_NAME: &str = "manifest.json";
const READ_BYTES: usize = 1 << 20;
const NAME_SHOWN_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const CANONICAL: &str = r#"{"architecture":"llama","context_length":8,"dtype":"float32","files":{"a":"sha256:1","b.json":"sha256:2"},"name":"m"}"#;

    fn read_text(text: &str) -> Result<Manifest, ReadError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), text).unwrap();
        read(folder.path())
    }

    #[test]
    fn the_version_does_not_depend_on_how_it_is_written() {
        let spaced = CANONICAL.replace(':', ": ").replace("sha256: ", "sha256:");
        let (one, other) = (read_text(CANONICAL).unwrap(), read_text(&spaced).unwrap());
        assert_eq!(one.canonical(), CANONICAL.as_bytes());
        assert_eq!(one.version(), other.version());
        let wanted = ModelVersion::from_digest(Sha256::digest(CANONICAL).into());
        assert_eq!(one.version(), wanted);
    }

    #[test]
    fn strange_manifests_are_refused() {
        assert!(matches!(read_text("{}"), Err(ReadError::NotAManifest { .. })));
        let more = CANONICAL.replace("\"name\"", "\"more\":1,\"name\"");
        assert!(matches!(read_text(&more), Err(ReadError::NotAManifest { .. })));
        for name in ["../a", "a/b", ".", "..", "é"] {
            let text = CANONICAL.replace("\"a\"", &format!("{name:?}"));
            assert!(matches!(read_text(&text), Err(ReadError::Refused { .. })), "{name}");
        }
        let nowhere = read(Path::new("/nonexistent")).unwrap_err();
        assert!(matches!(nowhere, ReadError::Missing { .. }));
    }
}
