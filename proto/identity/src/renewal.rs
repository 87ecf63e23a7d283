//! How a role gets its next certificate: a new key, a request that proves it is held, and a look at the answer.

use crate::files::{BadPair, Identity};
use crate::name::Name;
use crate::tls::{clients_of, servers_of};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{ServerName, UnixTime};
use std::time::Duration;
use time::OffsetDateTime;

/// A new key that waits for its certificate. It leaves this process only as a part of an [`Identity`].
#[must_use = "a key without its certificate is of no use"]
pub struct Renewal {
    key: KeyPair,
    request: String,
}

/// Why there is no new identity. The present one is untouched.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    #[error("cannot make a key and a request for its certificate")]
    Request(#[source] rcgen::Error),
    #[error("the new certificate makes no identity")]
    Bad(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the new certificate is that of {found}")]
    OtherName { found: Name },
    #[error("the new certificate would be refused by peers")]
    Refused(#[source] rustls::Error),
}

impl Renewal {
    pub fn begin() -> Result<Self, RenewalError> {
        let key = KeyPair::generate().map_err(RenewalError::Request)?;
        // Nothing in a request counts but its key.
        let params = CertificateParams::default();
        let request = params.serialize_request(&key).and_then(|request| request.pem());
        Ok(Self { request: request.map_err(RenewalError::Request)?, key })
    }

    /// What the authority signs, in PEM.
    pub fn request(&self) -> &str {
        &self.request
    }

    /// Looks at the certificate (PEM) as every peer will, so that a bad one never replaces a good one.
    ///
    /// May be asked again about the answer of another who signs.
    pub fn finish(
        &self,
        current: &Identity,
        certificate: &str,
        now: OffsetDateTime,
    ) -> Result<Identity, RenewalError> {
        let identity =
            Identity::from_pem(current.authority.clone(), certificate.to_owned(), self.key.serialize_pem())
                .map_err(|bad: BadPair| RenewalError::Bad(bad.into()))?;
        if identity.name != current.name {
            return Err(RenewalError::OtherName { found: identity.name });
        }
        identity.would_be_believed(now).map_err(RenewalError::Refused)?;
        Ok(identity)
    }
}

impl Identity {
    /// Whether peers of this cluster would let this identity in, and believe it when they dial it.
    fn would_be_believed(&self, now: OffsetDateTime) -> Result<(), rustls::Error> {
        let now = Duration::from_secs(u64::try_from(now.unix_timestamp()).unwrap_or(0));
        let now = UnixTime::since_unix_epoch(now);
        let (first, others) = self.shown.cert.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        clients_of(&self.authority)?.verify_client_cert(first, others, now)?;
        let host_name = ServerName::try_from(self.name.host_name())
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        servers_of(&self.authority)?.verify_server_cert(first, others, &host_name, &[], now)?;
        Ok(())
    }
}
