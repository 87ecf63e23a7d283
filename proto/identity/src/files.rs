//! How a role keeps its identity: three PEM files in a directory, the key readable by its owner alone.

use crate::name::Name;
use crate::tls::{PeerError, peer_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A role's certificate, its key, and the authority it trusts.
pub struct Identity {
    pub(crate) name: Name,
    pub(crate) authority: CertificateDer<'static>,
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {} of this identity; it is written when the role joins", path.display())]
    Read { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("{} belongs to no role", path.display())]
    Nameless { path: PathBuf, source: PeerError },
    #[error("the identity in {} cannot be used", dir.display())]
    Unusable { dir: PathBuf, source: rustls::Error },
}

impl Identity {
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| LoadError::Read { path, source }
        };
        let paths = Paths::in_dir(dir);
        let authority = CertificateDer::from_pem_file(&paths.authority).map_err(read(&paths.authority))?;
        let certificates: Vec<_> = CertificateDer::pem_file_iter(&paths.certificate)
            .and_then(Iterator::collect)
            .map_err(read(&paths.certificate))?;
        let key = PrivateKeyDer::from_pem_file(&paths.key).map_err(read(&paths.key))?;
        let name = peer_name(&certificates)
            .map_err(|source| LoadError::Nameless { path: paths.certificate, source })?;
        let identity = Self { name, authority, certificates, key };
        // A key that does not fit its certificate shows here, at start, rather than at the first handshake.
        identity.try_server_config().map_err(|source| LoadError::Unusable { dir: dir.to_owned(), source })?;
        Ok(identity)
    }

    pub fn name(&self) -> &Name {
        &self.name
    }
}

/// Where the three files of an identity lie, for libraries that want paths.
#[derive(Debug, Clone)]
pub struct Paths {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Paths {
    pub fn in_dir(dir: &Path) -> Self {
        Self { authority: dir.join(CA), certificate: dir.join(CERTIFICATE), key: dir.join(KEY) }
    }
}

pub(crate) fn write_public(path: &Path, pem: &str) -> io::Result<()> {
    write(path, pem, 0o644)
}

pub(crate) fn write_private(path: &Path, pem: &str) -> io::Result<()> {
    write(path, pem, 0o600)
}

/// Through a second file and a rename, so that a reader never sees half a key.
fn write(path: &Path, pem: &str, mode: u32) -> io::Result<()> {
    let unfinished = path.with_extension("pem.unfinished");
    let _ = std::fs::remove_file(&unfinished);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(unfinished, path)
}

pub(crate) const CA: &str = "ca.pem";
pub(crate) const CERTIFICATE: &str = "cert.pem";
pub(crate) const KEY: &str = "key.pem";
