//! Which cluster a command speaks to, and as whom.

use crate::cli::DATA_DEFAULT;
use crate::sandbox;
use anyhow::{Context, bail};
use clap::Args;
use client::{Dialer, MemberAddress};
use identity::{Identity, Live};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The cluster that is meant: that of a context file, or else a sandbox's.
#[derive(Debug, Args)]
pub struct At {
    /// The file that says where the control plane is and who asks [env: RHUMB_CONTEXT] [default: the sandbox's]
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    context: Option<PathBuf>,
    /// Where the sandbox keeps its state and logs [default: .rhumb]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// A context file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The directory of the operator's `cert.pem`, `key.pem` and `ca.pem`; relative to this file.
    pub identity: PathBuf,
    /// The members of the control plane, nearest first.
    pub control_plane: Vec<MemberAddress>,
}

impl At {
    /// What was typed comes before what the environment says.
    pub fn file(&self) -> anyhow::Result<PathBuf> {
        let context = self.context.clone().or_else(|| {
            let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
            named.filter(|_| self.data.is_none()).map(PathBuf::from)
        });
        match context {
            Some(context) => Ok(context),
            None => {
                let data = self.data.as_deref().unwrap_or(Path::new(DATA_DEFAULT));
                Ok(sandbox::existing(data)?.context())
            }
        }
    }
}

/// Reads a context file; the identity's path comes back as it can be used.
fn read(path: &Path) -> anyhow::Result<File> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "there is no {}; start a sandbox with `rhumb up`, or name the context file of a cluster with `--context`",
            path.display()
        ),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let file: File =
        toml::from_str(&text).with_context(|| format!("{} is no context file", path.display()))?;
    if file.control_plane.is_empty() {
        bail!("{}: control_plane: names no member", path.display());
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    Ok(File { identity: dir.join(file.identity), ..file })
}

/// Connections to the members that a context file names, as whoever it says.
pub fn dial(path: &Path) -> anyhow::Result<(Dialer, Vec<MemberAddress>)> {
    let File { identity, control_plane } = read(path)?;
    let identity = Identity::load(&identity).context("an operator needs an identity of the cluster")?;
    Ok((Dialer::new(Live::new(identity)), control_plane))
}

const VARIABLE: &str = "RHUMB_CONTEXT";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read_and_its_identity_lies_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.toml");
        assert!(read(&path).unwrap_err().to_string().contains("`rhumb up`"));
        std::fs::write(
            &path,
            "identity = 'operator'\n[[control_plane]]\naddress = '127.0.1.1:7001'\nserver_name = 'c1'\n",
        )
        .unwrap();
        assert_eq!(read(&path).unwrap().identity, dir.path().join("operator"));
        std::fs::write(&path, "identity = 'operator'\ncontrol_plane = []\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("control_plane"));
    }
}
