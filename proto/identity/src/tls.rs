//! TLS configurations that follow from an identity, and who the peer of a connection is.

use crate::files::Identity;
use crate::name::{BadIdentityName, Name};
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a verified peer has no name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("the peer showed no certificate")]
    NoCertificate,
    #[error("the certificate cannot be read")]
    Malformed,
    #[error("the certificate carries no spiffe URI")]
    NoUri,
    #[error("the certificate's URI names no process")]
    BadName(#[source] BadIdentityName),
}

/// The name in the first certificate of a chain that TLS has verified.
pub fn peer_name(certificates: &[CertificateDer<'_>]) -> Result<Name, PeerError> {
    let first = certificates.first().ok_or(PeerError::NoCertificate)?;
    let (_, certificate) = X509Certificate::from_der(first).map_err(|_| PeerError::Malformed)?;
    let names =
        certificate.subject_alternative_name().map_err(|_| PeerError::Malformed)?.ok_or(PeerError::NoUri)?;
    let uri = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    uri.ok_or(PeerError::NoUri)?.parse().map_err(PeerError::BadName)
}

impl Identity {
    /// Accepts HTTP/2 from holders of a certificate of this cluster, and nobody else.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::new(
            self.try_server_config().expect("the same configuration was made when the identity was loaded"),
        )
    }

    /// Dials HTTP/2 servers of this cluster; the caller gives the host name to verify.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring speaks TLS 1.3")
            .with_root_certificates(self.roots())
            .with_client_auth_cert(self.certificates.clone(), self.key.clone_key())
            .expect("certificate and key were found to fit when the identity was loaded");
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    pub(crate) fn try_server_config(&self) -> Result<ServerConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(self.roots().into(), provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(clients)
            .with_single_cert(self.certificates.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates([self.authority.clone()]);
        roots
    }
}
