//! The certificate authority of a cluster.

use crate::files::{CA, write_pair, write_private, write_public};
use crate::name::Name;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

/// Signs the certificates of one cluster. Holds the key that must never leave its host.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    #[error("cannot use {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{} holds no certificate authority; remove its directory to make a new one", path.display())]
    Damaged { path: PathBuf, source: rcgen::Error },
}

/// Why a request for a certificate is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("the request is longer than {REQUEST_BYTES_MAX} bytes")]
    TooLong,
    #[error("the request for a certificate cannot be read, or is not signed by its own key")]
    BadRequest(#[source] rcgen::Error),
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
}

impl Authority {
    /// A new authority, valid from `now`.
    pub fn create(cluster: &str, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = params(cluster, now, AUTHORITY_LIFE);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// The authority kept in `dir`, made and kept there if there is none.
    pub fn open(dir: &Path, cluster: &str, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let at = |path: PathBuf| move |source| AuthorityError::File { path, source };
        let (certificate_path, key_path) = (dir.join(CA), dir.join(AUTHORITY_KEY));
        if !key_path.exists() {
            let authority = Self::create(cluster, now)?;
            std::fs::create_dir_all(dir).map_err(at(dir.to_owned()))?;
            write_public(&certificate_path, &authority.certificate).map_err(at(certificate_path))?;
            write_private(&key_path, &authority.issuer.key().serialize_pem()).map_err(at(key_path))?;
            return Ok(authority);
        }
        let certificate = std::fs::read_to_string(&certificate_path).map_err(at(certificate_path.clone()))?;
        let key = std::fs::read_to_string(&key_path).map_err(at(key_path.clone()))?;
        let key = KeyPair::from_pem(&key)
            .map_err(|source| AuthorityError::Damaged { path: key_path.clone(), source })?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)
            .map_err(|source| AuthorityError::Damaged { path: certificate_path, source })?;
        Ok(Self { issuer, certificate })
    }

    /// The authority's own certificate, in PEM: what everybody in the cluster trusts.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Writes a role's identity into `dir`: `ca.pem`, `cert.pem` and `key.pem`.
    pub fn issue(
        &self,
        name: &Name,
        dir: &Path,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<(), AuthorityError> {
        self.write(&role_params(name, life, now)?, dir)
    }

    /// Writes what a public listener shows to clients: valid for host names and addresses, for no role.
    pub fn issue_public(
        &self,
        host_names: &[&str],
        addresses: &[IpAddr],
        dir: &Path,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<(), AuthorityError> {
        let mut params = params(host_names.first().unwrap_or(&"rhumb"), now, life);
        for host_name in host_names {
            params.subject_alt_names.push(SanType::DnsName((*host_name).try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.write(&params, dir)
    }

    /// Signs the key in a request (PEM) and returns the certificate (PEM).
    ///
    /// Whoever asks proves only that it holds the key. Everything else that the request says is ignored: the name is
    /// what the caller was found to be.
    pub fn sign_request(
        &self,
        name: &Name,
        request: &str,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<String, SignError> {
        if request.len() > REQUEST_BYTES_MAX {
            return Err(SignError::TooLong);
        }
        let asked = CertificateSigningRequestParams::from_pem(request).map_err(SignError::BadRequest)?;
        let certificate = role_params(name, life, now)?.signed_by(&asked.public_key, &self.issuer)?;
        Ok(certificate.pem())
    }

    fn write(&self, params: &CertificateParams, dir: &Path) -> Result<(), AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let at = |path: PathBuf| move |source| AuthorityError::File { path, source };
        std::fs::create_dir_all(dir).map_err(at(dir.to_owned()))?;
        write_public(&dir.join(CA), &self.certificate).map_err(at(dir.join(CA)))?;
        write_pair(dir, &certificate.pem(), &key.serialize_pem()).map_err(at(dir.to_owned()))
    }
}

/// What the certificate of a role says.
fn role_params(name: &Name, life: Duration, now: OffsetDateTime) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(name.name.as_str(), now, life);
    params.subject_alt_names =
        vec![SanType::URI(name.uri().try_into()?), SanType::DnsName(name.host_name().try_into()?)];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn params(common_name: &str, now: OffsetDateTime, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = now - CLOCK_SKEW.min(life / 7);
    params.not_after = now + life;
    params
}

const AUTHORITY_KEY: &str = "ca-key.pem";
/// What a role's certificate lives where nothing else is wanted: a stolen one is of use for a week at most.
pub const CERTIFICATE_LIFE: Duration = Duration::days(7);
const AUTHORITY_LIFE: Duration = Duration::days(3650);
/// A peer whose clock is a little behind must not refuse a fresh certificate. Less of a short life, so that one is
/// not due for renewal when it is made.
const CLOCK_SKEW: Duration = Duration::minutes(5);
/// Some times what a request with the largest usual key needs.
const REQUEST_BYTES_MAX: usize = 16 << 10;
