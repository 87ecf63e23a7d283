//! What nodes are shown: this edge's certificate, as it is when a connection is made.
//!
//! A renewed certificate begins a new pool of connections. Streams on the old ones go on; an old connection is
//! closed once it has been idle for its time.

use arc_swap::ArcSwap;
use identity::{Identity, Live};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::CertKey;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use std::sync::Arc;

pub(super) struct Credential {
    identity: Arc<Live>,
    prepared: ArcSwap<Prepared>,
}

/// One identity in the form that pingora takes.
struct Prepared {
    of: Arc<Identity>,
    certificate: Arc<CertKey>,
    /// Keeps pools apart also where an authority gives two certificates one serial number.
    generation: u64,
}

impl Credential {
    pub(super) fn new(identity: Arc<Live>) -> Self {
        let prepared = ArcSwap::from_pointee(Prepared::new(identity.current(), 0));
        Self { identity, prepared }
    }

    pub(super) fn show(&self, peer: &mut HttpPeer) {
        let current = self.identity.current();
        let mut prepared = self.prepared.load_full();
        if !Arc::ptr_eq(&prepared.of, &current) {
            // Several requests may do so at once, with the same result.
            prepared = Arc::new(Prepared::new(current, prepared.generation + 1));
            self.prepared.store(prepared.clone());
        }
        peer.client_cert_key = Some(prepared.certificate.clone());
        peer.group_key = prepared.generation;
    }
}

impl Prepared {
    fn new(identity: Arc<Identity>, generation: u64) -> Self {
        let certificates = CertificateDer::pem_slice_iter(identity.certificate_pem().as_bytes()).flatten();
        // Pingora panics on what it cannot parse. The first was parsed when the identity was made.
        let chain = certificates.filter(|der| ParsedCertificate::try_from(der).is_ok());
        let chain: Vec<_> = chain.map(|der| der.to_vec()).collect();
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem().as_bytes());
        let key = key.expect("the same key was read when the identity was made");
        let certificate = Arc::new(CertKey::new(chain, key.secret_der().to_vec()));
        Self { of: identity, certificate, generation }
    }
}
