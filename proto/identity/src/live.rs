//! An identity that is renewed while it is in use: connections made before go on, new ones show the new certificate.

use crate::files::Identity;
use crate::tls::{AUTHORITY_WAS_READ, client_config, server_config};
use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use std::fmt;
use std::sync::Arc;

/// Who this process is now.
pub struct Live {
    identity: ArcSwap<Identity>,
}

impl Live {
    pub fn new(identity: Identity) -> Arc<Self> {
        Arc::new(Self { identity: ArcSwap::from_pointee(identity) })
    }

    /// What is shown from now on. The name stays, and so does the authority that peers are held to.
    pub fn replace(&self, identity: Identity) {
        let current = self.current();
        assert_eq!(current.name, identity.name, "a process does not become another");
        assert_eq!(current.authority, identity.authority, "configurations in use trust the first authority");
        self.identity.store(Arc::new(identity));
    }

    pub fn current(&self) -> Arc<Identity> {
        self.identity.load_full()
    }

    /// As [`Identity::server_config`]; follows every replacement.
    pub fn server_config(self: &Arc<Self>) -> Arc<ServerConfig> {
        let config = server_config(&self.current().authority, Arc::new(Shown(self.clone())));
        Arc::new(config.expect(AUTHORITY_WAS_READ))
    }

    /// As [`Identity::client_config`]; follows every replacement.
    pub fn client_config(self: &Arc<Self>) -> Arc<ClientConfig> {
        Arc::new(client_config(&self.current().authority, Arc::new(Shown(self.clone()))))
    }
}

/// Asked at each handshake.
struct Shown(Arc<Live>);

impl Shown {
    fn now(&self) -> Arc<CertifiedKey> {
        self.0.identity.load().shown.clone()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shown").field(&self.0.current().name).finish()
    }
}
