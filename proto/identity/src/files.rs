//! How a role keeps its identity: three PEM files in a directory, the key readable by its owner alone.
//!
//! Certificate and key change together, though they are two files that libraries open by path: `cert.pem` and
//! `key.pem` are links through `pair`, itself a link to one of two directories. Renaming that one link is the change.

use crate::name::Name;
use crate::tls::{PeerError, peer_name, provider, server_config, validity};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use time::OffsetDateTime;

/// A role's certificate, its key, and the authority it trusts.
pub struct Identity {
    pub(crate) name: Name,
    pub(crate) authority: CertificateDer<'static>,
    pub(crate) shown: Arc<CertifiedKey>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    certificate_pem: String,
    key_pem: String,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {} of this identity; it is written when the role joins", path.display())]
    Read { path: PathBuf, source: PemError },
    #[error("{} belongs to no role", path.display())]
    Nameless { path: PathBuf, source: PeerError },
    #[error("the identity in {} cannot be used", dir.display())]
    Unusable { dir: PathBuf, source: rustls::Error },
}

/// Why two PEM texts are no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadPair {
    #[error("the certificate cannot be read")]
    Certificate(#[source] PemError),
    #[error("the key cannot be read")]
    Key(#[source] PemError),
    #[error("the certificate belongs to no role")]
    Nameless(#[source] PeerError),
    #[error("certificate and key cannot be used")]
    Unusable(#[source] rustls::Error),
}

impl Identity {
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        match Self::read(dir) {
            // Another process may have stored a new pair after the first of the two files was read.
            Err(LoadError::Unusable { .. }) => Self::read(dir),
            read => read,
        }
    }

    fn read(dir: &Path) -> Result<Self, LoadError> {
        let paths = Paths::in_dir(dir);
        let text = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|error| LoadError::Read { path: path.to_owned(), source: PemError::Io(error) })
        };
        let authority = CertificateDer::from_pem_slice(text(&paths.authority)?.as_bytes())
            .map_err(|source| LoadError::Read { path: paths.authority.clone(), source })?;
        let (certificate, key) = (text(&paths.certificate)?, text(&paths.key)?);
        Self::from_pem(authority, certificate, key).map_err(|bad| match bad {
            BadPair::Certificate(source) => LoadError::Read { path: paths.certificate, source },
            BadPair::Key(source) => LoadError::Read { path: paths.key, source },
            BadPair::Nameless(source) => LoadError::Nameless { path: paths.certificate, source },
            BadPair::Unusable(source) => LoadError::Unusable { dir: dir.to_owned(), source },
        })
    }

    pub(crate) fn from_pem(
        authority: CertificateDer<'static>,
        certificate_pem: String,
        key_pem: String,
    ) -> Result<Self, BadPair> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(BadPair::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(BadPair::Key)?;
        let first = certificates.first().ok_or(BadPair::Certificate(PemError::NoItemsFound))?;
        let name = peer_name(&certificates).map_err(BadPair::Nameless)?;
        let (not_before, not_after) = validity(first).map_err(BadPair::Nameless)?;
        // A key that does not fit its certificate shows here, at start, rather than at the first handshake.
        let shown = CertifiedKey::from_der(certificates, key, &provider()).map_err(BadPair::Unusable)?;
        server_config(&authority, Arc::new(SingleCertAndKey::from(shown.clone())))
            .map_err(BadPair::Unusable)?;
        let shown = Arc::new(shown);
        Ok(Self { name, authority, shown, not_before, not_after, certificate_pem, key_pem })
    }

    /// Replaces certificate and key in `dir`, both or neither, whenever the process or the host dies.
    pub fn store(&self, dir: &Path) -> io::Result<()> {
        write_pair(dir, &self.certificate_pem, &self.key_pem)
    }

    pub fn name(&self) -> &Name {
        &self.name
    }

    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// The chain, its own certificate first.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// For libraries that make their own TLS configurations.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// From then on every peer refuses it.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
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

/// Replaces certificate and key together.
pub(crate) fn write_pair(dir: &Path, certificate: &str, key: &str) -> io::Result<()> {
    let paths = Paths::in_dir(dir);
    if !(paths.certificate.is_symlink() && paths.key.is_symlink()) {
        // The first time, or somebody put plain files here. What is read through the two paths must not change while
        // they become links, so both first lead to a copy of what they are.
        if let (Ok(old_certificate), Ok(old_key)) =
            (std::fs::read_to_string(&paths.certificate), std::fs::read_to_string(&paths.key))
        {
            switch_to(dir, &old_certificate, &old_key)?;
        }
        for name in [CERTIFICATE, KEY] {
            link(&Path::new(PAIR).join(name), &dir.join(name))?;
        }
    }
    switch_to(dir, certificate, key)
}

/// Fills the directory that is not in use, and makes it the one that is.
fn switch_to(dir: &Path, certificate: &str, key: &str) -> io::Result<()> {
    let pair = dir.join(PAIR);
    let used = std::fs::read_link(&pair).ok();
    let [next, old] =
        if used.is_some_and(|used| used == Path::new(PAIRS[0])) { [PAIRS[1], PAIRS[0]] } else { PAIRS };
    remove(&dir.join(next))?;
    std::fs::create_dir(dir.join(next))?;
    write_public(&dir.join(next).join(CERTIFICATE), certificate)?;
    write_private(&dir.join(next).join(KEY), key)?;
    File::open(dir.join(next))?.sync_all()?;
    link(Path::new(next), &pair)?;
    File::open(dir)?.sync_all()?;
    // An old key is of no more use to anyone but a thief.
    remove(&dir.join(old))
}

fn remove(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Makes `path` a link to `target`, whatever it was before.
fn link(target: &Path, path: &Path) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let _ = std::fs::remove_file(&unfinished);
    symlink(target, &unfinished)?;
    std::fs::rename(unfinished, path)
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
const PAIR: &str = "pair";
const PAIRS: [&str; 2] = ["pair-a", "pair-b"];
