//! Certificates are replaced under the feet of those who use them, and by nobody else's word.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use identity::files::Paths;
use identity::{
    Authority, CERTIFICATE_LIFE, Identity, Live, Name, Renewal, RenewalError, SignError, peer_name,
};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

fn issue(authority: &Authority, uri: &str, dir: &Path) -> Identity {
    let name: Name = uri.parse().unwrap();
    authority.issue(&name, dir, CERTIFICATE_LIFE, OffsetDateTime::now_utc()).unwrap();
    Identity::load(dir).unwrap()
}

/// What each side was shown by the other: first by the client, then by the server.
fn shown(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    host_name: &str,
) -> [CertificateDer<'static>; 2] {
    let host_name = ServerName::try_from(host_name.to_owned()).unwrap();
    let mut client = ClientConnection::new(client, host_name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    // Some rounds more than a handshake needs, so that session tickets would arrive too.
    for _ in 0..5 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut io::Cursor::new(wire)).unwrap();
        server.process_new_packets().unwrap();
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut io::Cursor::new(wire)).unwrap();
        client.process_new_packets().unwrap();
    }
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full), "a resumed one shows no certificate");
    [server.peer_certificates().unwrap()[0].clone(), client.peer_certificates().unwrap()[0].clone()]
}

fn renewed(authority: &Authority, current: &Identity) -> Identity {
    let now = OffsetDateTime::now_utc();
    let renewal = Renewal::begin().unwrap();
    let signed = authority.sign_request(current.name(), renewal.request(), CERTIFICATE_LIFE, now).unwrap();
    renewal.finish(current, &signed, now).unwrap()
}

#[test]
fn configurations_in_use_show_what_was_renewed() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::create("ours", OffsetDateTime::now_utc()).unwrap();
    let edge = Live::new(issue(&authority, "spiffe://ours/us-east/edge/e1", &dir.path().join("edge")));
    let agent = Live::new(issue(&authority, "spiffe://ours/us-east/region-agent/n1", &dir.path().join("a")));
    let (client, server) = (edge.client_config(), agent.server_config());
    let host_name = agent.current().name().host_name();

    let first = shown(client.clone(), server.clone(), &host_name);
    assert_eq!(shown(client.clone(), server.clone(), &host_name), first);
    edge.replace(renewed(&authority, &edge.current()));
    let second = shown(client.clone(), server.clone(), &host_name);
    assert_ne!(second[0], first[0]);
    assert_eq!(second[1], first[1]);
    agent.replace(renewed(&authority, &agent.current()));
    let third = shown(client, server, &host_name);
    assert_eq!(third[0], second[0]);
    assert_ne!(third[1], second[1]);
}

#[test]
fn a_request_gives_nothing_but_its_key() {
    let now = OffsetDateTime::now_utc();
    let authority = Authority::create("ours", now).unwrap();
    let name: Name = "spiffe://ours/us-east/edge/e1".parse().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut wish =
        rcgen::CertificateParams::new(vec!["m1.control-plane.us-east.rhumb.internal".into()]).unwrap();
    let boss = "spiffe://ours/us-east/control-plane/m1".try_into().unwrap();
    wish.subject_alt_names.insert(0, rcgen::SanType::URI(boss));
    wish.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = wish.serialize_request(&key).unwrap().pem().unwrap();

    let signed = authority.sign_request(&name, &request, Duration::days(1), now).unwrap();
    let signed = rustls::pki_types::pem::PemObject::from_pem_slice(signed.as_bytes()).unwrap();
    assert_eq!(peer_name(std::slice::from_ref(&signed)).unwrap(), name);
    let (_, certificate) = x509_parser::parse_x509_certificate(&signed).unwrap();
    assert!(!certificate.is_ca());
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 2, "{names:?}");
    assert!(certificate.validity().not_after.to_datetime() <= now + Duration::days(1));
}

#[test]
fn a_request_that_is_damaged_or_not_its_key_s_own_is_refused() {
    let now = OffsetDateTime::now_utc();
    let authority = Authority::create("ours", now).unwrap();
    let name: Name = "spiffe://ours/us-east/edge/e1".parse().unwrap();
    let sign = |request: &str| authority.sign_request(&name, request, CERTIFICATE_LIFE, now);
    let (one, other) = (Renewal::begin().unwrap(), Renewal::begin().unwrap());
    assert!(sign(one.request()).is_ok());
    // One's body and the other's signature: the last two lines hold nothing but the signature.
    let lines = |request: &str| request.lines().map(str::to_owned).collect::<Vec<_>>();
    let (mut forged, other) = (lines(one.request()), lines(other.request()));
    let at = forged.len() - 2;
    forged[at] = other[at].clone();
    for bad in ["", "nonsense", &one.request()[..200], &forged.join("\n")] {
        assert!(matches!(sign(bad), Err(SignError::BadRequest(_))), "{bad}");
    }
    assert!(matches!(sign(&"x".repeat(1 << 20)), Err(SignError::TooLong)));
}

#[test]
fn an_answer_that_peers_would_refuse_is_not_taken() {
    let dir = TempDir::new().unwrap();
    let now = OffsetDateTime::now_utc();
    let ours = Authority::create("ours", now).unwrap();
    let theirs = Authority::create("ours", now).unwrap();
    let edge = issue(&ours, "spiffe://ours/us-east/edge/e1", dir.path());
    let other: Name = "spiffe://ours/us-east/edge/e2".parse().unwrap();
    let finish = |authority: &Authority, name: &Name, at: OffsetDateTime| {
        let renewal = Renewal::begin().unwrap();
        let signed = authority.sign_request(name, renewal.request(), CERTIFICATE_LIFE, at).unwrap();
        renewal.finish(&edge, &signed, now).map(|_| ())
    };
    assert!(finish(&ours, edge.name(), now).is_ok());
    assert!(matches!(finish(&ours, &other, now), Err(RenewalError::OtherName { .. })));
    assert!(matches!(finish(&theirs, edge.name(), now), Err(RenewalError::Refused(_))));
    assert!(matches!(finish(&ours, edge.name(), now - Duration::days(8)), Err(RenewalError::Refused(_))));
    let (asked, answered) = (Renewal::begin().unwrap(), Renewal::begin().unwrap());
    let signed = ours.sign_request(edge.name(), answered.request(), CERTIFICATE_LIFE, now).unwrap();
    assert!(matches!(asked.finish(&edge, &signed, now), Err(RenewalError::Bad(_))), "another's key");
    let nonsense = Renewal::begin().unwrap().finish(&edge, "nonsense", now);
    assert!(matches!(nonsense, Err(RenewalError::Bad(_))));
}

#[test]
fn a_pair_on_disk_changes_as_one() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::create("ours", OffsetDateTime::now_utc()).unwrap();
    let mut identity = issue(&authority, "spiffe://ours/us-east/edge/e1", dir.path());
    let paths = Paths::in_dir(dir.path());
    let not_after = identity.not_after();
    assert!(not_after - identity.not_before() >= CERTIFICATE_LIFE);

    // What a crash just before the last step leaves: the new pair lies ready and is not in use.
    for round in 0..3 {
        let before = std::fs::read_to_string(&paths.certificate).unwrap();
        let used = std::fs::read_link(dir.path().join("pair")).unwrap();
        let free = if used == Path::new("pair-a") { "pair-b" } else { "pair-a" };
        std::fs::create_dir(dir.path().join(free)).unwrap();
        std::fs::write(dir.path().join(free).join("key.pem"), "half a k").unwrap();
        std::os::unix::fs::symlink(free, dir.path().join("pair.unfinished")).unwrap();
        assert!(Identity::load(dir.path()).is_ok(), "round {round}");
        assert_eq!(std::fs::read_to_string(&paths.certificate).unwrap(), before);

        identity = renewed(&authority, &identity);
        identity.store(dir.path()).unwrap();
        assert!(Identity::load(dir.path()).is_ok(), "round {round}");
        assert_ne!(std::fs::read_to_string(&paths.certificate).unwrap(), before);
        assert!(!dir.path().join(used).exists(), "an old key stays");
    }
    // Plain files, as somebody who copies them here leaves them, are taken over.
    let (certificate, key) = (std::fs::read(&paths.certificate), std::fs::read(&paths.key));
    for (path, pem) in [(&paths.certificate, certificate), (&paths.key, key)] {
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, pem.unwrap()).unwrap();
    }
    renewed(&authority, &identity).store(dir.path()).unwrap();
    assert!(Identity::load(dir.path()).is_ok());
    assert!(paths.certificate.is_symlink() && paths.key.is_symlink());
}
