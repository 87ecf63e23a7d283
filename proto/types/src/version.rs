//! Model versions: a digest of the canonical manifest, so that a version never changes.

use crate::name::ModelName;
use std::fmt;
use std::str::FromStr;

/// `sha256:<64 hex>` of the canonical manifest (weights, tokenizer, chat template, dtype, context length).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelVersion([u8; 32]);

/// A text that is not a model version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a model version is sha256: and 64 lower-case hexadecimal digits")]
pub struct BadVersion;

impl ModelVersion {
    /// The version whose canonical manifest has this SHA-256.
    pub const fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// What stands for the version of a model that only servers without an agent serve: nobody knows its manifest,
    /// and none of ours has this digest.
    pub fn of_servers(model: &ModelName) -> Self {
        Self(blake3::derive_key("rhumb 2026 version of a model at openai nodes", model.as_str().as_bytes()))
    }
}

impl FromStr for ModelVersion {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let hex = text.strip_prefix("sha256:").ok_or(BadVersion)?;
        crate::id::from_hex(hex).map(Self).ok_or(BadVersion)
    }
}

impl fmt::Display for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        crate::id::write_hex(f, &self.0)
    }
}

impl fmt::Debug for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for ModelVersion {
    type Error = BadVersion;

    fn try_from(text: String) -> Result<Self, BadVersion> {
        text.parse()
    }
}

impl From<ModelVersion> for String {
    fn from(version: ModelVersion) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_there_and_back() {
        let text = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(text.parse::<ModelVersion>().unwrap().to_string(), text);
        for bad in ["", "sha256:", "sha256:0F", &text[..70], &text.to_uppercase(), &format!("{text}0")] {
            assert_eq!(bad.parse::<ModelVersion>(), Err(BadVersion), "{bad}");
        }
    }
}
