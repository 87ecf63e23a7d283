//! What clients get for bad input: always an OpenAI error object, never a hang, never a dead process.

use crate::world::{World, send};
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const CHAT: &str = "/v1/chat/completions";

#[test]
fn bad_input_is_refused() {
    let world = World::start(&["--step-time", "0ms", "--regions", "us-east"]);
    bad_keys_are_refused_before_the_body(&world);
    bad_bodies_name_the_field(&world);
    paths_and_methods_are_exact(&world);
    bodies_end_at_32_mib(&world);
    a_prompt_beyond_the_context_is_refused(&world);
    broken_http_is_refused(&world);
    a_waiting_client_is_invited_or_refused(&world);
    assert_eq!(world.edge_metric(0, "rhumb_edge_panics_total", ""), 0.0);
    assert_eq!(world.edge_metric(0, "rhumb_edge_requests_in_flight", ""), 0.0);
    assert_eq!(world.post(0, CHAT, &world.chat("Hello", r#","max_tokens":1"#)).status, 200);
}

fn bad_keys_are_refused_before_the_body(world: &World) {
    let of_another = "rk_aaaaaaaaaaaaaaaa_0000000000000000000000000000000000000000000";
    let other_secret = format!("{}{}", &world.key()[..20], "0".repeat(43));
    for authorization in [
        String::new(),
        "authorization: \r\n".to_owned(),
        "authorization: Bearer\r\n".to_owned(),
        "authorization: Bearer sk-1234\r\n".to_owned(),
        format!("authorization: Basic {}\r\n", world.key()),
        format!("authorization: Bearer {of_another}\r\n"),
        format!("authorization: Bearer {other_secret}\r\n"),
    ] {
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\n{authorization}");
        let refusal = send(world.edge(0), &head, "{").refusal();
        assert_eq!(refusal, (401, "invalid_api_key".to_owned()), "{authorization}");
    }
}

fn bad_bodies_name_the_field(world: &World) {
    let model = world.model();
    let message = r#""messages":[{"role":"user","content":"hi"}]"#;
    for (body, status, code, param) in [
        ("".to_owned(), 400, "invalid_json", None),
        ("{".to_owned(), 400, "invalid_json", None),
        ("\u{feff}{}".to_owned(), 400, "invalid_json", None),
        ("{}".to_owned(), 400, "missing_required_parameter", Some("model")),
        (r#"{"model":7}"#.to_owned(), 400, "invalid_type", Some("model")),
        (format!(r#"{{"model":"none",{message}}}"#), 404, "model_not_found", Some("model")),
        (format!(r#"{{"model":"{model}"}}"#), 400, "missing_required_parameter", Some("messages")),
        (format!(r#"{{"model":"{model}","messages":[]}}"#), 400, "invalid_value", Some("messages")),
        (format!(r#"{{"model":"{model}","messages":"hi"}}"#), 400, "invalid_type", Some("messages")),
        (
            format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":7}}]}}"#),
            400,
            "invalid_type",
            Some("messages[0].content"),
        ),
        (format!(r#"{{"model":"{model}",{message},"stream":"yes"}}"#), 400, "invalid_type", Some("stream")),
        (
            format!(r#"{{"model":"{model}",{message},"max_tokens":-1}}"#),
            400,
            "invalid_type",
            Some("max_tokens"),
        ),
        (
            format!(r#"{{"model":"{model}",{message},"temperature":"hot"}}"#),
            400,
            "invalid_type",
            Some("temperature"),
        ),
        (format!(r#"{{"model":"{model}",{message},"temperature":1e999}}"#), 400, "invalid_json", None),
        (format!(r#"{{"model":"{model}",{message},"top_p":0}}"#), 400, "invalid_value", Some("top_p")),
        (format!(r#"{{"model":"{model}",{message},"n":2}}"#), 400, "unsupported_parameter", Some("n")),
        (format!(r#"{{"model":"{model}",{message},"n":1000000}}"#), 400, "invalid_value", Some("n")),
        (format!(r#"{{"model":"{model}","x":{}"#, "[".repeat(100_000)), 400, "json_too_deep", None),
    ] {
        let answer = world.post(0, CHAT, &body);
        let shown: String = body.chars().take(120).collect();
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{shown}");
        assert_eq!(answer.json()["error"]["param"].as_str(), param, "{shown}");
        assert!(answer.json()["error"]["message"].as_str().unwrap().len() < 500, "{shown}");
    }
}

fn paths_and_methods_are_exact(world: &World) {
    for path in ["/", "/v1", "//v1/models", "/v1/models/..%2f", "/v1/chat/completions/", "/rhumb/v1/load"] {
        let answer = world.get(0, path);
        assert_eq!(answer.status, 404, "{path}: {}", answer.body);
    }
    let get = world.get(0, CHAT);
    assert_eq!(get.refusal(), (405, "method_not_allowed".to_owned()));
    assert_eq!(get.header("allow"), Some("POST"));
}

fn bodies_end_at_32_mib(world: &World) {
    const LIMIT: usize = 32 << 20;
    // A long prompt is the engine's to refuse, so that refusal shows that the whole body came through.
    let padded = |length: usize| {
        let frame = world.chat("", "");
        world.chat(&"a".repeat(length - frame.len()), "")
    };
    assert_eq!(padded(LIMIT).len(), LIMIT);
    let through = world.post(0, CHAT, &padded(LIMIT));
    assert_eq!(through.refusal(), (400, "context_length_exceeded".to_owned()));
    let beyond = world.post(0, CHAT, &padded(LIMIT + 1));
    assert_eq!(beyond.refusal(), (413, "request_too_large".to_owned()));
}

fn a_prompt_beyond_the_context_is_refused(world: &World) {
    let long = world.post(0, CHAT, &world.chat(&"What is Rhumb? ".repeat(2000), ""));
    assert_eq!(long.refusal(), (400, "context_length_exceeded".to_owned()));
    let greedy = world.post(0, CHAT, &world.chat("Hello", r#","max_tokens":1000000"#));
    assert_eq!(greedy.refusal(), (400, "context_length_exceeded".to_owned()));
}

fn broken_http_is_refused(world: &World) {
    let raw = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(world.edge(0)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(raw(b"GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n").contains("missing_host"));
    for malformed in [&b"BREW\r\n\r\n"[..], b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        let answer = raw(malformed);
        assert!(answer.starts_with("HTTP/1.1 400"), "{:?}: {answer}", String::from_utf8_lossy(malformed));
    }
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(70 << 10));
    assert!(raw(long.as_bytes()).contains("head_too_large"));
    let two_lengths = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{{}}",
        world.key()
    );
    assert!(raw(two_lengths.as_bytes()).starts_with("HTTP/1.1 400"));
    let zipped = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-encoding: gzip\r\n\
         content-length: 0\r\nconnection: close\r\n\r\n",
        world.key()
    );
    assert!(raw(zipped.as_bytes()).starts_with("HTTP/1.1 415"));
    let began = std::time::Instant::now();
    assert!(raw(b"GET /v1/models HTTP/1.1\r\nhost: ").contains("head_timeout"), "a head that never ends");
    assert!((9..13).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

fn a_waiting_client_is_invited_or_refused(world: &World) {
    let ask = |key: &str| {
        let body = world.chat("Hello", r#","max_tokens":1"#);
        let mut stream = TcpStream::connect(world.edge(0)).unwrap();
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\nexpect: 100-continue\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let first = crate::world::read_answer_head(&mut reader);
        if first == 100 {
            stream.write_all(body.as_bytes()).unwrap();
            return (first, crate::world::read_answer(&mut reader).unwrap().status);
        }
        (first, first)
    };
    assert_eq!(ask(world.key()), (100, 200));
    assert_eq!(ask("rk_no"), (401, 401), "no body is asked for when the key is wrong");
}
