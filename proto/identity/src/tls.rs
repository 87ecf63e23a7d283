//! TLS configurations that follow from an identity, and who the peer of a connection is.

use crate::files::Identity;
use crate::name::{BadIdentityName, Name};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;
use time::OffsetDateTime;
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

/// From when until when a certificate is good.
pub(crate) fn validity(
    certificate: &CertificateDer<'_>,
) -> Result<(OffsetDateTime, OffsetDateTime), PeerError> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| PeerError::Malformed)?;
    let validity = certificate.validity();
    Ok((validity.not_before.to_datetime(), validity.not_after.to_datetime()))
}

impl Identity {
    /// Accepts HTTP/2 from holders of a certificate of this cluster, and nobody else.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let shown = Arc::new(SingleCertAndKey::from(self.shown.as_ref().clone()));
        Arc::new(server_config(&self.authority, shown).expect(AUTHORITY_WAS_READ))
    }

    /// Dials HTTP/2 servers of this cluster; the caller gives the host name to verify.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        let shown = Arc::new(SingleCertAndKey::from(self.shown.as_ref().clone()));
        Arc::new(client_config(&self.authority, shown))
    }
}

/// What every server inside a cluster asks for; only what it shows differs.
pub(crate) fn server_config(
    authority: &CertificateDer<'static>,
    shown: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = provider();
    let clients = clients_of(authority)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would let a client in on the certificate of its first handshake, however old by now.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What every dialer inside a cluster accepts; only what it shows differs.
pub(crate) fn client_config(
    authority: &CertificateDer<'static>,
    shown: Arc<dyn ResolvesClientCert>,
) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring speaks TLS 1.3")
        .with_root_certificates(roots(authority))
        .with_client_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// Lets holders of a certificate of this authority in.
pub(crate) fn clients_of(
    authority: &CertificateDer<'static>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    WebPkiClientVerifier::builder_with_provider(roots(authority).into(), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

/// Believes servers that hold a certificate of this authority.
pub(crate) fn servers_of(
    authority: &CertificateDer<'static>,
) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(authority).into(), provider())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(verifier)
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(authority: &CertificateDer<'static>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates([authority.clone()]);
    roots
}

pub(crate) const AUTHORITY_WAS_READ: &str = "the same authority was used when the identity was made";
