//! Framing: whatever a client writes, a node gets exactly the request that the edge answered, or none.

use super::{Row, compare, reached};
use crate::raw::{Connection, fields, request};
use crate::world::{SOON, World, body};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request of which a head and a body are given as they are.
fn post(extra: &str, body: &str) -> Vec<u8> {
    format!("POST /v1/chat/completions HTTP/1.1\r\n{}{extra}\r\n{body}", fields()).into()
}

/// What an attacker wants a node to see.
fn smuggled() -> String {
    String::from_utf8(request(r#", "user":"smuggled""#)).unwrap()
}

fn chunked(chunks: &str) -> Vec<u8> {
    post("transfer-encoding: chunked\r\n", chunks)
}

fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let json = body("");
    let length = json.len();
    let in_one = format!("{length:x}\r\n{json}\r\n0\r\n\r\n");
    let exact = format!("content-length: {length}\r\n");
    let then = smuggled();
    let head = |line: &str| [line.as_bytes(), fields().as_bytes(), b"\r\n"].concat();
    let te = |line: &str| post(&format!("{line}\r\n"), &in_one);
    let many = |count: usize| "x: y\r\n".repeat(count);
    vec![
        ("an honest request", request("")),
        ("an honest request in chunks", chunked(&in_one)),
        ("two requests in one packet", [request(""), request("")].concat()),
        (
            "CL.TE: a length and chunks",
            post(&format!("{exact}transfer-encoding: chunked\r\n"), &format!("0\r\n\r\n{then}")),
        ),
        (
            "TE.CL: chunks and a short length",
            post("transfer-encoding: chunked\r\ncontent-length: 4\r\n", &in_one),
        ),
        ("two lengths that differ", post(&format!("content-length: 4\r\n{exact}"), &json)),
        ("two lengths that agree", post(&format!("{exact}{exact}"), &json)),
        ("a list of lengths", post(&format!("content-length: {length}, {length}\r\n"), &json)),
        ("`content-length: +N`", post(&format!("content-length: +{length}\r\n"), &json)),
        ("`content-length: 0xN`", post(&format!("content-length: 0x{length:x}\r\n"), &json)),
        ("`content-length: -1`", post("content-length: -1\r\n", &json)),
        ("a length beyond 64 bits", post("content-length: 18446744073709551617\r\n", &json)),
        (
            "a length within 64 bits that nobody has room for",
            post("content-length: 9000000000000000000\r\n", &json),
        ),
        ("`transfer-encoding: x, chunked`", te("transfer-encoding: x, chunked")),
        ("`transfer-encoding: chunked, identity`", te("transfer-encoding: chunked, identity")),
        ("`transfer-encoding` twice", te("transfer-encoding: chunked\r\ntransfer-encoding: chunked")),
        ("`transfer-encoding: xchunked`", te("transfer-encoding: xchunked")),
        ("`transfer-encoding:` and a vertical tab", te("transfer-encoding: \u{b}chunked")),
        ("`transfer-encoding : chunked`, a blank before the colon", te("transfer-encoding : chunked")),
        ("a tab before the colon", te("transfer-encoding\t: chunked")),
        ("`transfer-encoding` folded onto a second line", te("transfer-encoding:\r\n chunked")),
        ("a folded header", te("x: y\r\n z\r\ntransfer-encoding: chunked")),
        ("`transfer-encoding` behind a bare CR", te("x: y\rtransfer-encoding: chunked")),
        ("`Transfer-Encoding: CHUNKED`, in order", te("Transfer-Encoding: \t CHUNKED \t")),
        (
            "HTTP/1.0 with chunks",
            [
                &b"POST /v1/chat/completions HTTP/1.0\r\n"[..],
                fields().as_bytes(),
                b"transfer-encoding: chunked\r\n\r\n",
                in_one.as_bytes(),
            ]
            .concat(),
        ),
        ("a head with bare line feeds", String::from_utf8(request("")).unwrap().replace("\r\n", "\n").into()),
        (
            "one bare line feed in a head",
            String::from_utf8(request("")).unwrap().replacen("\r\n", "\n", 2).into(),
        ),
        ("HTTP/0.9", b"GET /v1/models\r\n\r\n".to_vec()),
        ("HTTP/1.2", head("GET /v1/models HTTP/1.2\r\n")),
        ("HTTP/2.0 in words", head("GET /v1/models HTTP/2.0\r\n")),
        ("two blanks in the request line", head("GET  /v1/models HTTP/1.1\r\n")),
        ("a control octet in the target", head("GET /v1/\u{1}models HTTP/1.1\r\n")),
        ("octets beyond ASCII in the target", head("GET /v1/m\u{f6}dels HTTP/1.1\r\n")),
        ("NUL in a header", post(&format!("{exact}x: a\0b\r\n"), &json)),
        ("NUL in a header's name", post(&format!("{exact}x\0: a\r\n"), &json)),
        ("a header without a name", post(&format!("{exact}: a\r\n"), &json)),
        ("no host", b"GET /v1/models HTTP/1.1\r\n\r\n".to_vec()),
        ("two hosts", post(&format!("{exact}host: other\r\n"), &json)),
        ("an absolute target that is the host", head("GET http://test/v1/models HTTP/1.1\r\n")),
        ("an absolute target that is not the host", head("GET http://other/v1/models HTTP/1.1\r\n")),
        ("a name and a password in the target", head("GET http://a:b@test/v1/models HTTP/1.1\r\n")),
        ("CONNECT", head("CONNECT test:443 HTTP/1.1\r\n")),
        ("TRACE", head("TRACE /v1/models HTTP/1.1\r\n")),
        ("an unknown method", head("BREW /v1/models HTTP/1.1\r\n")),
        (
            "an upgrade, and a second request before its answer",
            [post(&format!("{exact}connection: upgrade\r\nupgrade: websocket\r\n"), &json), request("")]
                .concat(),
        ),
        (
            "an upgrade to h2c",
            post(
                &format!(
                    "{exact}connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
                ),
                &json,
            ),
        ),
        (
            "`connection: content-length`",
            post(&format!("{exact}connection: content-length, authorization\r\n"), &json),
        ),
        (
            "internal headers of this system",
            post(&format!("{exact}rhumb-tenant: other\r\nrhumb-priority: interactive\r\n"), &json),
        ),
        ("128 headers more", post(&format!("{exact}{}", many(128)), &json)),
        ("100 headers more", post(&format!("{exact}{}", many(100)), &json)),
        ("a head of 70 KiB", post(&format!("{exact}x: {}\r\n", "y".repeat(70 << 10)), &json)),
        (
            "a head of 70 KiB without an end",
            [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'y'; 70 << 10]].concat(),
        ),
        ("an empty line before a request", [b"\r\n".to_vec(), request("")].concat()),
        ("chunk extensions", chunked(&format!("{length:x};a=b;c=\"d\"\r\n{json}\r\n0;e\r\n\r\n"))),
        (
            "a chunk extension of 1 MiB",
            chunked(&format!("{length:x};{}\r\n{json}\r\n0\r\n\r\n", "x".repeat(1 << 20))),
        ),
        ("a chunk size beyond 64 bits", chunked(&format!("1{length:016x}\r\n{json}\r\n0\r\n\r\n"))),
        ("a chunk size of 2^64 - 1", chunked(&format!("ffffffffffffffff\r\n{json}"))),
        ("a chunk size `+N`", chunked(&format!("+{length:x}\r\n{json}\r\n0\r\n\r\n"))),
        ("a chunk size `0xN`", chunked(&format!("0x{length:x}\r\n{json}\r\n0\r\n\r\n"))),
        ("a chunk size `-1`", chunked(&format!("-1\r\n{json}\r\n0\r\n\r\n"))),
        ("a chunk size with a blank in front", chunked(&format!(" {length:x}\r\n{json}\r\n0\r\n\r\n"))),
        ("no chunk size", chunked(&format!("\r\n{json}\r\n0\r\n\r\n"))),
        ("a chunk size line with a bare line feed", chunked(&format!("{length:x}\n{json}\r\n0\r\n\r\n"))),
        ("a bare line feed in a chunk extension", chunked(&format!("{length:x};a\n{json}\r\n0\r\n\r\n"))),
        ("a chunk longer than its size", chunked(&format!("{:x}\r\n{json}\r\n0\r\n\r\n", length - 1))),
        ("a chunk that ends in a bare line feed", chunked(&format!("{length:x}\r\n{json}\n0\r\n\r\n"))),
        (
            "a last chunk that ends in bare line feeds",
            chunked(&format!("{length:x}\r\n{json}\r\n0\n\n{then}")),
        ),
        (
            "trailers",
            chunked(&format!("{length:x}\r\n{json}\r\n0\r\nhost: other\r\ncontent-length: 9\r\n\r\n")),
        ),
        (
            "trailers of 70 KiB",
            chunked(&format!("{length:x}\r\n{json}\r\n0\r\nx: {}\r\n\r\n", "y".repeat(70 << 10))),
        ),
        (
            "a body shorter than its length, then the end",
            post(&format!("content-length: {}\r\n", length + 100), &json),
        ),
        ("a body longer than its length", [post(&exact, &json), then.into_bytes()].concat()),
        ("a body with GET", [head("GET /v1/models HTTP/1.1\r\n"), b"xx\r\n\r\n".to_vec()].concat()),
    ]
}

/// Statuses and codes of all answers, what became of the connection, and what the nodes saw.
async fn observe(world: &World, bytes: &[u8], is_cut: bool) -> String {
    let mut connection = Connection::open(world.edge).await.unwrap();
    // Where the edge refuses in the middle, it may stop reading.
    let _ = connection.stream.write_all(bytes).await;
    if is_cut {
        connection.stream.shutdown().await.unwrap();
    }
    let mut told = Vec::new();
    let end = loop {
        // The first answer may take a while; after it everything else is there at once.
        let patience = if told.is_empty() { 3 * SOON } else { Duration::from_millis(200) };
        match tokio::time::timeout(patience, connection.answer()).await {
            Ok(Ok(answer)) => match answer.code() {
                Some(code) => told.push(format!("{} `{code}`", answer.status)),
                None => told.push(answer.status.to_string()),
            },
            Ok(Err(_)) => break "closed",
            Err(_) => break "open",
        }
    };
    let seen = reached(world);
    let honest = [body(""), body(r#", "user":"smuggled""#)];
    let internal = seen.iter().any(|seen| seen.headers["rhumb-tenant"] != "anyone");
    let whole = seen.iter().all(|seen| honest.iter().any(|body| *body == seen.body)) && !internal;
    let reached = match (seen.len(), whole) {
        (0, _) => "no request".to_owned(),
        (count, true) => format!("{count} whole"),
        (count, false) => format!("{count}, CHANGED"),
    };
    let served = told.iter().filter(|status| *status == "200").count();
    assert!(seen.len() <= served, "a node saw more than the client was answered: {told:?}, {seen:?}");
    let told = if told.is_empty() { "no answer".to_owned() } else { told.join(", ") };
    format!("{told} | {end} | {reached}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_one_reading_or_none() {
    let world = World::start().await;
    let mut rows = Vec::new();
    for (attack, bytes) in attacks() {
        let outcome = observe(&world, &bytes, attack.ends_with("then the end")).await;
        assert!(!outcome.contains("CHANGED"), "{attack}: {outcome}");
        rows.push(Row { attack, outcome });
    }
    compare(&rows);
}

/// As through a slow link, or from somebody who hopes that the edge looks at packets.
#[tokio::test(flavor = "multi_thread")]
async fn cuts_between_packets_change_no_reading() {
    let world = World::start().await;
    let json = body("");
    let bytes = chunked(&format!("{:x};a=b\r\n{json}\r\n0\r\nx: y\r\n\r\n", json.len()));
    let mut stream = TcpStream::connect(world.edge).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in &bytes {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let [seen] = &reached(&world)[..] else { panic!("one request") };
    assert_eq!(seen.body, json);
}
