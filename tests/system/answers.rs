//! What clients get when all is well.

use crate::world::World;
use serde_json::Value;

const CHAT: &str = "/v1/chat/completions";

#[test]
fn clients_are_answered() {
    let world = World::start(&["--step-time", "0ms"]);
    taught_questions_are_answered_word_for_word(&world);
    a_stream_and_a_whole_answer_say_the_same(&world);
    usage_is_the_engines_count(&world);
    one_seed_gives_one_answer_wherever_it_runs(&world);
    a_text_is_continued(&world);
    models_are_listed(&world);
    a_client_cannot_speak_the_internal_protocol(&world);
    one_connection_carries_many_requests(&world);
    any_edge_tells_what_became_of_a_request(&world);
}

fn taught_questions_are_answered_word_for_word(world: &World) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/engine/model/questions.json");
    let questions: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(questions.len() >= 10);
    for (at, question) in questions.iter().take(12).enumerate() {
        let asked = question["question"].as_str().unwrap();
        let answer = world.post(at % 2, CHAT, &world.chat(asked, r#","temperature":0"#));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let json = answer.json();
        assert_eq!(json["choices"][0]["message"]["content"], question["answer"], "{asked}");
        assert_eq!(json["choices"][0]["finish_reason"], "stop");
        assert_eq!(json["object"], "chat.completion");
    }
}

fn a_stream_and_a_whole_answer_say_the_same(world: &World) {
    let whole = world.post(0, CHAT, &world.chat("What is Rhumb?", r#","temperature":0"#)).json();
    let events = world.stream(0, CHAT, &world.chat("What is Rhumb?", r#","temperature":0,"stream":true"#));
    assert!(events.is_complete(), "{events:?}");
    assert_eq!(whole["choices"][0]["message"]["content"], events.text());
    let chunks: Vec<Value> = events.chunks().collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk.get("usage").is_none()));
    assert!(chunks[0]["id"].as_str().unwrap().starts_with("chatcmpl-"));
}

fn usage_is_the_engines_count(world: &World) {
    let options = r#","temperature":0,"max_tokens":5,"ignore_eos":true"#;
    let whole = world.post(0, CHAT, &world.chat("Hello", options)).json();
    assert_eq!(whole["usage"]["completion_tokens"], 5);
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    let streamed = format!(r#"{options},"stream":true,"stream_options":{{"include_usage":true}}"#);
    let events = world.stream(0, CHAT, &world.chat("Hello", &streamed));
    let last = events.chunks().last().unwrap();
    assert_eq!(last["choices"], Value::Array(Vec::new()));
    assert_eq!(last["usage"], whole["usage"]);
}

fn one_seed_gives_one_answer_wherever_it_runs(world: &World) {
    // The house model is sure of what it was taught; a hot draw on a strange text shows the dice.
    let seeded = |region, seed: &str| {
        let model = world.model();
        let body = format!(r#"{{"model":"{model}","prompt":"abc","temperature":2,"max_tokens":40{seed}}}"#);
        let answer = world.post(region, "/v1/completions", &body);
        answer.json()["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let first = seeded(0, r#","seed":7"#);
    assert_eq!(first, seeded(1, r#","seed":7"#));
    assert_ne!(first, seeded(0, r#","seed":8"#));
    assert_ne!(seeded(0, ""), seeded(0, ""), "without a seed each request draws its own");
}

fn a_text_is_continued(world: &World) {
    let body =
        format!(r#"{{"model":"{}","prompt":"Rhumb is","temperature":0,"max_tokens":8}}"#, world.model());
    let whole = world.post(0, "/v1/completions", &body).json();
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["usage"]["completion_tokens"], 8);
    let streamed = body.replace(r#""max_tokens""#, r#""stream":true,"max_tokens""#);
    let events = world.stream(1, "/v1/completions", &streamed);
    assert!(events.is_complete());
    assert_eq!(whole["choices"][0]["text"], events.text());
}

fn models_are_listed(world: &World) {
    let list = world.get(0, "/v1/models").json();
    assert_eq!(list["data"][0]["id"], world.model());
    let one = world.get(1, &format!("/v1/models/{}", world.model()));
    assert_eq!((one.status, &one.json()["object"]), (200, &Value::from("model")));
    assert_eq!(world.get(0, "/v1/models/none").refusal(), (404, "model_not_found".to_owned()));
}

/// The answer's id is minted by the edge, so a client's own internal headers must not have travelled.
fn a_client_cannot_speak_the_internal_protocol(world: &World) {
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\nrhumb-request-id: {}\r\n\
         rhumb-seed: 1\r\nrhumb-model-version: none\r\nrhumb-protocol: 9\r\n",
        world.key(),
        "0".repeat(32)
    );
    let answer = crate::world::send(world.edge(0), &head, &world.chat("Hello", r#","max_tokens":1"#));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(id, format!("chatcmpl-{}", answer.header("x-request-id").unwrap()));
    assert!(!id.contains(&"0".repeat(32)));
    assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("rhumb-")), "{:?}", answer.headers);
}

fn one_connection_carries_many_requests(world: &World) {
    use std::io::{BufReader, Write};
    let mut stream = std::net::TcpStream::connect(world.edge(0)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let body = world.chat("Hello", r#","max_tokens":2"#);
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        world.key(),
        body.len()
    );
    // Two at once, then one more: pipelined requests are answered in order.
    stream.write_all(format!("{request}{request}").as_bytes()).unwrap();
    for _ in 0..2 {
        assert_eq!(crate::world::read_answer(&mut reader).unwrap().status, 200);
    }
    stream.write_all(request.as_bytes()).unwrap();
    assert_eq!(crate::world::read_answer(&mut reader).unwrap().status, 200);
}

fn any_edge_tells_what_became_of_a_request(world: &World) {
    let answer = world.post(0, "/v1/chat/completions", &world.chat("Hello", r#","max_tokens":1"#)).json();
    let mut other = world.edge(1);
    other.set_port(9101);
    let id = answer["id"].as_str().unwrap();
    let told = world.json(&["request", "explain", id, "--edge", &other.to_string(), "--json"]);
    assert_eq!(told["edge"].as_str(), Some(&*format!("{}/e1", world.region(0))), "{told}");
    assert_eq!(told["ended"]["ended"], "complete", "{told}");
}
