//! From a file to a configuration that can be run. Start-up and `rhumb check` both read by this.

use anyhow::Context;
use serde::de::DeserializeOwned;
use std::path::Path;

/// `File` is what was written; `C` is what can be run.
pub fn read<File, C>(path: &Path, role: &str) -> anyhow::Result<C>
where
    File: DeserializeOwned,
    C: TryFrom<File, Error: std::error::Error + Send + Sync + 'static>,
{
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {shown}"))?;
    let file: File = toml::from_str(&text)
        .with_context(|| format!("{shown} is not the configuration of this role ({role})"))?;
    file.try_into().with_context(|| format!("{shown} cannot be used for this role ({role})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure;

    #[derive(Debug, serde::Deserialize)]
    struct File {
        slots: u32,
    }

    #[derive(Debug)]
    struct Config;

    #[derive(Debug, thiserror::Error)]
    #[error("slots: must not be {0}")]
    struct BadSlots(u32);

    impl TryFrom<File> for Config {
        type Error = BadSlots;

        fn try_from(file: File) -> Result<Self, BadSlots> {
            if file.slots == 0 { Err(BadSlots(0)) } else { Ok(Self) }
        }
    }

    #[test]
    fn each_step_says_what_it_could_not_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        let words = |path: &Path| failure::chain(&read::<File, Config>(path, "x").unwrap_err()).join(": ");
        assert!(words(&path).starts_with("cannot read the configuration"));
        std::fs::write(&path, "slot = 1").unwrap();
        assert!(words(&path).contains("missing field `slots`"), "{}", words(&path));
        std::fs::write(&path, "slots = 0").unwrap();
        assert!(words(&path).ends_with("slots: must not be 0"));
        std::fs::write(&path, "slots = 1").unwrap();
        read::<File, Config>(&path, "x").unwrap();
    }
}
