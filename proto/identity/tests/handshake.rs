//! Certificates of one cluster open its doors, and no others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use identity::{Authority, CERTIFICATE_LIFE, Identity, LoadError, Name, peer_name};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

fn issue(authority: &Authority, uri: &str, dir: &Path) -> Identity {
    let name: Name = uri.parse().unwrap();
    authority.issue(&name, dir, CERTIFICATE_LIFE, SystemTime::now().into()).unwrap();
    Identity::load(dir).unwrap()
}

/// Runs a handshake in memory; the name is what the server learns of its client.
fn shake_hands(client: &Identity, server: &Identity, host_name: &str) -> Result<Name, rustls::Error> {
    let host_name = ServerName::try_from(host_name.to_owned()).unwrap();
    let mut client = ClientConnection::new(client.client_config(), host_name).unwrap();
    let mut server = ServerConnection::new(server.server_config()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut io::Cursor::new(wire)).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut io::Cursor::new(wire)).unwrap();
        client.process_new_packets()?;
    }
    Ok(peer_name(server.peer_certificates().unwrap()).unwrap())
}

#[test]
fn a_cluster_trusts_its_own_and_nobody_else() {
    let dir = TempDir::new().unwrap();
    let now = SystemTime::now().into();
    let ours = Authority::create("ours", now).unwrap();
    let theirs = Authority::create("theirs", now).unwrap();
    let edge = issue(&ours, "spiffe://ours/us-east/edge/e1", &dir.path().join("edge"));
    let agent = issue(&ours, "spiffe://ours/us-east/region-agent/n1", &dir.path().join("agent"));
    let stranger = issue(&theirs, "spiffe://ours/us-east/edge/e1", &dir.path().join("stranger"));
    let host_name = agent.name().host_name();

    assert_eq!(shake_hands(&edge, &agent, &host_name).unwrap(), *edge.name());
    assert!(shake_hands(&stranger, &agent, &host_name).is_err(), "another authority");
    assert!(shake_hands(&edge, &stranger, &stranger.name().host_name()).is_err(), "a strange server");
    assert!(shake_hands(&edge, &agent, "n2.region-agent.us-east.rhumb.internal").is_err(), "another node");
}

#[test]
fn an_old_certificate_is_refused() {
    let dir = TempDir::new().unwrap();
    let long_ago = (SystemTime::now() - Duration::from_secs(8 * 24 * 3600)).into();
    let authority = Authority::create("ours", long_ago).unwrap();
    let name: Name = "spiffe://ours/us-east/edge/e1".parse().unwrap();
    authority.issue(&name, &dir.path().join("old"), CERTIFICATE_LIFE, long_ago).unwrap();
    let old = Identity::load(&dir.path().join("old")).unwrap();
    let agent = issue(&authority, "spiffe://ours/us-east/region-agent/n1", &dir.path().join("agent"));
    let refused = shake_hands(&old, &agent, &agent.name().host_name()).unwrap_err();
    assert!(refused.to_string().contains("xpired"), "{refused}");
}

#[test]
fn an_authority_is_kept_and_its_key_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let now = SystemTime::now().into();
    let first = Authority::open(dir.path(), "ours", now).unwrap();
    let second = Authority::open(dir.path(), "ours", now).unwrap();
    let agent = issue(&first, "spiffe://ours/us-east/region-agent/n1", &dir.path().join("agent"));
    let edge = issue(&second, "spiffe://ours/us-east/edge/e1", &dir.path().join("edge"));
    assert!(shake_hands(&edge, &agent, &agent.name().host_name()).is_ok());
    for key in ["ca-key.pem", "agent/key.pem"] {
        let mode = dir.path().join(key).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn damage_is_named() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(Identity::load(dir.path()), Err(LoadError::Read { .. })));
    let authority = Authority::create("ours", SystemTime::now().into()).unwrap();
    issue(&authority, "spiffe://ours/us-east/edge/e1", &dir.path().join("a"));
    issue(&authority, "spiffe://ours/us-east/edge/e2", &dir.path().join("b"));
    std::fs::copy(dir.path().join("a/key.pem"), dir.path().join("b/key.pem")).unwrap();
    let refused = Identity::load(&dir.path().join("b"));
    assert!(matches!(refused, Err(LoadError::Unusable { .. })), "a key of another certificate");
}
