//! JSON that is meant to hurt its parser, and bodies that are meant to grow.

use super::{Row, compare, reached};
use crate::raw::{Connection, fields};
use crate::world::World;
use std::time::{Duration, Instant};

fn nested(open: &str, depth: usize) -> Vec<u8> {
    format!(r#"{{"model":"m","x":{}"#, open.repeat(depth)).into()
}

fn with(rest: &str) -> Vec<u8> {
    format!(r#"{{"model":"m",{rest}}}"#).into()
}

fn bodies() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let encoded = |encoding| (encoding, vec![0x1f, 0x8b, 8, 0]);
    let (gzip, deflate, brotli, zstd) = (encoded("gzip"), encoded("deflate"), encoded("br"), encoded("zstd"));
    vec![
        ("100,000 arrays in each other", "", nested("[", 100_000)),
        ("8 million arrays in each other", "", nested("[", 8 << 20)),
        ("objects in each other", "", nested(r#"{"a":"#, 100_000)),
        ("129 arrays, closed", "", with(&format!(r#""x":{}{}"#, "[".repeat(129), "]".repeat(129)))),
        ("`max_tokens: 1e999`", "", with(r#""max_tokens":1e999"#)),
        ("`max_tokens: 99999999999999999999`", "", with(r#""max_tokens":99999999999999999999"#)),
        ("`max_tokens: -1`", "", with(r#""max_tokens":-1"#)),
        ("`seed` beyond 64 bits", "", with(r#""seed":9223372036854775808"#)),
        ("`n: 1000000`", "", with(r#""n":1000000"#)),
        ("`n: NaN`", "", with(r#""n":NaN"#)),
        ("two models", "", br#"{"model":"m","model":"other"}"#.to_vec()),
        ("messages twice", "", with(r#""messages":[],"messages":[]"#)),
        ("a model in two spellings of one name", "", br#"{"model":"m","\u006dodel":"other"}"#.to_vec()),
        ("invalid UTF-8 in a name", "", b"{\"model\":\"\xff\xfe\"}".to_vec()),
        ("invalid UTF-8 in text", "", b"{\"model\":\"nobody\",\"prompt\":\"\xc0\xaf\"}".to_vec()),
        ("half a surrogate", "", br#"{"model":"\ud800"}"#.to_vec()),
        ("a byte order mark", "", b"\xef\xbb\xbf{\"model\":\"m\"}".to_vec()),
        ("UTF-16", "", "{\"model\":\"m\"}".encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("nothing", "", Vec::new()),
        ("NUL", "", vec![0]),
        ("a list", "", b"[]".to_vec()),
        ("two values", "", br#"{"model":"m"}{"model":"m"}"#.to_vec()),
        ("a model's name of 1 MiB", "", format!(r#"{{"model":"{}"}}"#, "m".repeat(1 << 20)).into()),
        ("a number of 1 MiB", "", with(&format!(r#""n":{}"#, "9".repeat(1 << 20)))),
        ("gzip", gzip.0, gzip.1),
        ("deflate", deflate.0, deflate.1),
        ("brotli", brotli.0, brotli.1),
        ("zstd", zstd.0, zstd.1),
        ("gzip twice", "gzip, gzip", vec![0]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_meant_to_hurt_are_refused_at_once() {
    let world = World::start().await;
    let mut rows = Vec::new();
    for (attack, encoding, body) in bodies() {
        let encoding = match encoding {
            "" => String::new(),
            encoding => format!("content-encoding: {encoding}\r\n"),
        };
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\n{}{encoding}content-length: {}\r\n\r\n",
            fields(),
            body.len()
        );
        let mut connection = Connection::open(world.edge).await.unwrap();
        let request = [head.as_bytes(), &body].concat();
        let began = Instant::now();
        let answer = connection.ask(&request).await.unwrap_or_else(|error| panic!("{attack}: {error}"));
        let took = began.elapsed();
        eprintln!("{attack}: {} bytes, {took:?}", body.len());
        // A busy machine and an unoptimised build; the figures of the documentation are of a release build.
        assert!(
            took < Duration::from_millis(if body.len() > 1 << 20 { 500 } else { 100 }),
            "{attack}: {took:?}"
        );
        assert!(reached(&world).is_empty(), "{attack} reached a node");
        rows.push(Row { attack, outcome: format!("{} `{}`", answer.status, answer.code().unwrap()) });
    }
    // Announced, it is refused before it is sent.
    let mut connection = Connection::open(world.edge).await.unwrap();
    let head =
        format!("POST /v1/chat/completions HTTP/1.1\r\n{}content-length: {}\r\n\r\n", fields(), 64 << 20);
    let answer = connection.ask(head.as_bytes()).await.unwrap();
    rows.push(Row {
        attack: "a string of 64 MiB",
        outcome: format!("{} `{}`", answer.status, answer.code().unwrap()),
    });
    compare(&rows);
}
