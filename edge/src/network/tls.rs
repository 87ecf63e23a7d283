//! What HTTPS clients see.

use pingora_core::listeners::tls::{Acceptor, TlsSettings};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the PEM file {}", path.display())]
    Read { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("the key {} does not fit the certificate {}", key.display(), certificate.display())]
    Mismatch { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// Shakes hands with HTTPS clients.
#[derive(Clone)]
pub(crate) struct HttpsAcceptor(pub(super) Arc<Acceptor>);

/// Offers h2 and HTTP/1.1 under one certificate.
pub(crate) fn acceptor(certificate: &Path, key: &Path) -> Result<HttpsAcceptor, TlsError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Read { path, source }
    };
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(read(certificate))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(read(key))?;
    let certified = CertifiedKey::from_der(chain, private, &rustls::crypto::ring::default_provider())
        .map_err(|source| TlsError::Mismatch { certificate: certificate.into(), key: key.into(), source })?;
    // With a resolver pingora never opens the two files, which it would do by panicking on a bad one.
    let mut settings = TlsSettings::intermediate("", "").expect("the two paths are only kept");
    settings.set_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    settings.enable_h2();
    Ok(HttpsAcceptor(Arc::new(settings.build())))
}
