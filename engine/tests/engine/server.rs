//! The engine over HTTP, with the model in the repository.

use crate::client::{self, ANNOTATED, Answer, CHAT, COMPLETIONS, Engine, Event, REQUEST_ID, asking, post};
use crate::house;
use engine::Config;
use engine::queue::{Command, Queue};
use engine::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use types::{EventId, LoadFrame, LoadState, PrefixHash, StreamPosition};

async fn engine() -> Engine {
    Engine::start(house::config(house::folder())).await
}

fn content(event: &Event) -> String {
    let choice = &event.json()["choices"][0];
    let text = choice["delta"]["content"].as_str().or(choice["text"].as_str());
    text.unwrap_or_default().to_owned()
}

/// Everything an annotated stream says, with each of its ids checked.
struct Annotated {
    text: String,
    ids: Vec<u32>,
    finish_reason: String,
    prompt_tokens: u64,
}

async fn read_annotated(answer: Answer) -> Annotated {
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/event-stream"));
    assert_eq!(answer.header("rhumb-replica"), "us-east/n1/0-0");
    let prompt_tokens = answer.header("rhumb-prompt-tokens").parse().unwrap();
    let load: LoadFrame = answer.header("rhumb-load").parse().unwrap();
    assert_eq!(load.state, LoadState::Serving);
    let mut position = StreamPosition::start(answer.header("rhumb-prefix-hash").parse().unwrap());
    let mut whole =
        Annotated { text: String::new(), ids: Vec::new(), finish_reason: String::new(), prompt_tokens };
    let events = answer.events().await;
    let [chunks @ .., comment, done] = events.as_slice() else { panic!("{events:?}") };
    assert!(done.is_done() && done.id.is_none());
    let last_load: LoadFrame =
        comment.comment.as_ref().unwrap().strip_prefix("rhumb-load ").unwrap().parse().unwrap();
    assert!(last_load.sequence > load.sequence && last_load.boot == load.boot);
    for event in chunks {
        let id: EventId = event.id.as_ref().unwrap().parse().unwrap();
        position.accept(&id).unwrap();
        assert!(whole.finish_reason.is_empty() || id.token_ids.is_empty(), "a token after the end");
        whole.ids.extend(id.token_ids);
        whole.text += &content(event);
        if let Some(reason) = event.json()["choices"][0]["finish_reason"].as_str() {
            whole.finish_reason = reason.to_owned();
        }
    }
    assert_eq!(position.position(), whole.ids.len() as u64);
    whole
}

#[tokio::test]
async fn every_taught_question_is_answered_word_for_word() {
    let engine = Arc::new(engine().await);
    let questions = house::json("questions.json");
    let questions = questions.as_array().unwrap();
    assert!(questions.len() >= 10);
    let mut asked = tokio::task::JoinSet::new();
    for question in questions.clone() {
        let engine = Arc::clone(&engine);
        asked.spawn(async move {
            let found = engine.ask(question["question"].as_str().unwrap(), json!({})).await;
            assert_eq!(found, question["answer"].as_str().unwrap());
        });
    }
    asked.join_all().await;
    let engine = Arc::into_inner(engine).unwrap();
    assert_eq!(engine.metric("rhumb_engine_requests_total").await, questions.len() as f64);
    engine.stop().await;
}

#[tokio::test]
async fn an_annotated_chat_proves_every_token() {
    let engine = engine().await;
    let answer = engine.annotated(CHAT, asking("What is Rhumb?", json!({"model": "anything"}))).await;
    let prompt_hash: PrefixHash = answer.header("rhumb-prefix-hash").parse().unwrap();
    let whole = read_annotated(answer).await;
    let tokenizer = Tokenizer::read(&house::folder()).unwrap();
    let prompt = tokenizer.encode("<|bos|><|user|>What is Rhumb?<|end|><|assistant|>", false).unwrap();
    assert_eq!(prompt_hash, PrefixHash::of_prompt(&prompt));
    assert_eq!(whole.prompt_tokens, prompt.len() as u64);
    assert_eq!(whole.finish_reason, "stop");
    assert_eq!(whole.ids.last(), Some(&5), "the end of the turn is the last token");
    assert_eq!(tokenizer.decode(&whole.ids).unwrap(), whole.text);
    assert_eq!(whole.text, engine.ask("What is Rhumb?", json!({})).await);
    engine.stop().await;
}

#[tokio::test]
async fn chunks_look_as_openais() {
    let engine = engine().await;
    let more = json!({"stream": true, "stream_options": {"include_usage": true}, "max_tokens": 3});
    let events = engine.annotated(CHAT, asking("What is Rhumb?", more.clone())).await.events().await;
    let first = events[0].json();
    assert_eq!(first["id"], format!("chatcmpl-{REQUEST_ID}"));
    assert_eq!(first["object"], "chat.completion.chunk");
    assert_eq!((&first["created"], &first["model"]), (&json!(1_700_000_000), &json!("house")));
    assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
    assert!(!content(&events[0]).is_empty(), "no event before the first text");
    assert_eq!(first["usage"], Value::Null);
    assert!(events[1].json()["choices"][0]["delta"].get("role").is_none());
    let usage = events[events.len() - 3].json();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(3)));
    assert_eq!(usage["usage"]["total_tokens"], usage["usage"]["prompt_tokens"].as_u64().unwrap() + 3);
    assert!(events[events.len() - 3].id.as_ref().unwrap().starts_with("3::"));

    let plain = engine.post(CHAT, asking("What is Rhumb?", more)).await.events().await;
    assert!(plain.iter().all(|event| event.id.is_none() && event.comment.is_none()));
    assert!(plain.last().unwrap().is_done());
    assert_eq!(
        plain.iter().filter(|event| !event.is_done()).map(content).collect::<String>(),
        events.iter().filter(|event| event.id.is_some()).map(content).collect::<String>()
    );

    let whole = engine.post(CHAT, asking("What is Rhumb?", json!({"max_tokens": 3}))).await.json().await;
    assert_eq!(
        (&whole["object"], &whole["choices"][0]["finish_reason"]),
        (&json!("chat.completion"), &json!("length"))
    );
    assert_eq!(whole["usage"]["completion_tokens"], 3);
    engine.stop().await;
}

#[tokio::test]
async fn completions_continue_text_and_tokens() {
    let engine = engine().await;
    let prompt = "Routing is a pure decision. Hard filters come";
    let tokenizer = Tokenizer::read(&house::folder()).unwrap();
    let ids = tokenizer.encode(prompt, true).unwrap();
    let ask = async |prompt: Value, echo: bool| {
        let body = json!({"model": "m", "prompt": prompt, "temperature": 0, "max_tokens": 20, "echo": echo});
        let whole = engine.post(COMPLETIONS, body).await.json().await;
        assert_eq!(whole["object"], "text_completion");
        whole["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let text = ask(json!(prompt), false).await;
    assert!(text.starts_with(" first"), "{text}");
    assert_eq!(ask(json!([prompt]), false).await, text);
    assert_eq!(ask(json!(ids), false).await, text);
    assert_eq!(ask(json!(prompt), true).await, format!("{prompt}{text}"));
    assert_eq!(ask(json!(ids), true).await, format!("{prompt}{text}"));
    engine.stop().await;
}

#[tokio::test]
async fn an_answer_ends_as_asked() {
    let engine = engine().await;
    let question = "What is Rhumb?";
    let natural = engine.ask(question, json!({})).await;
    let stopped = engine.ask(question, json!({"stop": ["global traffic", "never said"]})).await;
    assert_eq!(stopped, natural[..natural.find("global traffic").unwrap()]);
    let mid_word =
        read_annotated(engine.annotated(CHAT, asking(question, json!({"stop": "obal traf"}))).await).await;
    assert_eq!(mid_word.text, natural[..natural.find("obal traf").unwrap()]);
    assert_eq!(mid_word.finish_reason, "stop");
    let tokenizer = Tokenizer::read(&house::folder()).unwrap();
    assert!(tokenizer.decode(&mid_word.ids).unwrap().contains("obal traf"), "its tokens were generated");

    let on = async |more: Value| read_annotated(engine.annotated(CHAT, asking(question, more)).await).await;
    let natural_ids = on(json!({})).await.ids;
    let ignoring = on(json!({"ignore_eos": true, "max_tokens": 200})).await;
    assert_eq!((ignoring.ids.len(), ignoring.finish_reason.as_str()), (200, "length"));
    assert_eq!(ignoring.ids[..natural_ids.len()], natural_ids, "the end was drawn and ignored");
    let unmatched = tokenizer.decode(&natural_ids[..10]).unwrap().len();
    let late_stop = on(json!({"stop": ["e"], "min_tokens": 10})).await;
    let end = natural[unmatched..].find('e').unwrap() + unmatched;
    assert_eq!(late_stop.text, natural[..end], "a stop string counts from the eleventh token on");
    assert!(natural[..unmatched].contains('e') && late_stop.ids.len() > 10);
    let least = natural_ids.len() as u64 + 10;
    let longer = on(json!({"min_tokens": least, "max_tokens": 200})).await;
    assert!(longer.ids.len() as u64 > least || longer.finish_reason == "length");
    assert!(longer.ids[..least as usize].iter().all(|id| *id != 5 && *id != 1), "the end was forbidden");
    engine.stop().await;
}

#[tokio::test]
async fn logprobs_come_as_openais() {
    let engine = engine().await;
    let more = json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 12, "stop": ["glo qq", "raff qq"]});
    let whole = engine.post(CHAT, asking("What is Rhumb?", more.clone())).await.json().await;
    let choice = &whole["choices"][0];
    let entries = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(entries.len(), 12);
    assert_eq!(choice["logprobs"]["refusal"], Value::Null);
    let joined: String = entries.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    assert_eq!(joined, choice["message"]["content"], "the tokens make up the text");
    for entry in entries {
        let [best, second] = entry["top_logprobs"].as_array().unwrap().as_slice() else { panic!("{entry}") };
        assert_eq!((&best["token"], &best["logprob"]), (&entry["token"], &entry["logprob"]), "greedy");
        assert!(
            second["logprob"].as_f64() <= best["logprob"].as_f64() && best["logprob"].as_f64() <= Some(0.0)
        );
        let bytes: Vec<u8> = serde_json::from_value(entry["bytes"].clone()).unwrap();
        assert_eq!(entry["token"], String::from_utf8(bytes).unwrap());
    }
    let events = engine.annotated(CHAT, asking("What is Rhumb?", more)).await.events().await;
    let mut streamed = Vec::new();
    for event in events.iter().filter(|event| event.id.is_some()) {
        let id: EventId = event.id.as_ref().unwrap().parse().unwrap();
        let chunk = event.json();
        let own = chunk["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
        assert_eq!(own.len(), id.token_ids.len(), "each token travels with what is said of it");
        streamed.extend(own);
    }
    assert_eq!(&streamed, entries, "digit by digit");
    let ended = engine.post(CHAT, asking("What is Rhumb?", json!({"logprobs": true}))).await.json().await;
    let told = ended["choices"][0]["logprobs"]["content"].as_array().unwrap().len() as u64;
    assert_eq!(
        Some(told + 1),
        ended["usage"]["completion_tokens"].as_u64(),
        "the end is no token of the text"
    );
    let without = engine.post(CHAT, asking("What is Rhumb?", json!({"max_tokens": 2}))).await.json().await;
    assert_eq!(without["choices"][0]["logprobs"], Value::Null);

    let body = json!({"model": "m", "prompt": "Routing is", "temperature": 1, "seed": 4, "logprobs": 2, "max_tokens": 9});
    let whole = engine.post(COMPLETIONS, body).await.json().await;
    let text = whole["choices"][0]["text"].as_str().unwrap();
    let told = &whole["choices"][0]["logprobs"];
    for at in 0..9 {
        let (token, offset) =
            (told["tokens"][at].as_str().unwrap(), told["text_offset"][at].as_u64().unwrap());
        assert!(text[offset as usize..].starts_with(token), "{token} at {offset} of {text}");
        let top = told["top_logprobs"][at].as_object().unwrap();
        assert_eq!(top[token], told["token_logprobs"][at]);
        assert!((2..=3).contains(&top.len()));
    }
    engine.stop().await;
}

#[tokio::test]
async fn bias_and_penalties_change_what_is_drawn() {
    let engine = engine().await;
    let drawn = async |more: Value| {
        let mut body = json!({"ignore_eos": true, "max_tokens": 40});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        read_annotated(engine.annotated(CHAT, asking("What is Rhumb?", body)).await).await.ids
    };
    let distinct = |ids: &[u32]| ids.iter().collect::<std::collections::BTreeSet<_>>().len();
    let plain = drawn(json!({})).await;
    let first = plain[0].to_string();
    assert_eq!(drawn(json!({"logit_bias": {"77": 100}})).await, [77; 40]);
    assert!(!drawn(json!({"logit_bias": {first: -100}})).await.contains(&plain[0]));
    // What is counted outweighs a bias in the end; what only was there before does not.
    let forced = |penalty: &str| json!({"logit_bias": {"77": 60}, penalty: 2});
    assert_eq!(distinct(&drawn(forced("presence_penalty")).await), 1);
    let frequent = drawn(forced("frequency_penalty")).await;
    assert!(frequent[..10].iter().all(|id| *id == 77) && distinct(&frequent) > 1, "{frequent:?}");
    engine.stop().await;
}

/// Prompts and seeds of some sampled answers.
fn sampled(number: usize) -> Value {
    let question = ["What is Rhumb?", "Tell me a story", "What is an edge?"][number % 3];
    let top_p = if number.is_multiple_of(2) { 0.9 } else { 1.0 };
    let more = json!({"temperature": 2, "top_p": top_p, "top_k": 50 * (number % 2), "seed": number,
        "max_tokens": 300 + number, "ignore_eos": true});
    asking(question, more)
}

async fn all_sampled(engine: &Engine, at_once: bool) -> Vec<Vec<u32>> {
    if at_once {
        let all = (0..8)
            .map(async |number| read_annotated(engine.annotated(CHAT, sampled(number)).await).await.ids);
        return futures_util::future::join_all(all).await;
    }
    let mut all = Vec::new();
    for number in 0..8 {
        all.push(read_annotated(engine.annotated(CHAT, sampled(number)).await).await.ids);
    }
    all
}

#[tokio::test]
async fn sampled_answers_do_not_depend_on_company() {
    let reference = engine().await;
    let alone = all_sampled(&reference, false).await;
    assert_eq!(all_sampled(&reference, true).await, alone);
    assert_ne!(alone[0][..100], alone[3][..100], "another seed gives another answer");
    // Far from everything it was taught, the model is unsure of every token.
    let unsure = |more: Value| {
        let mut body = json!({"model": "m", "prompt": "zq xv", "temperature": 2, "max_tokens": 60});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let drawn =
        async |more: Value| read_annotated(reference.annotated(COMPLETIONS, unsure(more)).await).await.ids;
    let first = drawn(json!({})).await;
    assert_eq!(drawn(json!({})).await, first, "the header's seed counts where the body has none");
    assert_eq!(drawn(json!({"seed": -1})).await, first, "the header says the same number without a sign");
    assert_ne!(drawn(json!({"seed": 1})).await, first, "the body's seed wins");
    let plain = async || reference.post(COMPLETIONS, unsure(json!({}))).await.json().await["choices"].clone();
    assert_ne!(plain().await, plain().await, "without any seed each answer is another");
    reference.stop().await;

    // The same in a cache that holds a quarter of it, in small chunks.
    let small = Config { kv_tokens: 1024, prefill_chunk: 7, ..house::config(house::folder()) };
    let small = Engine::start(small).await;
    assert_eq!(all_sampled(&small, true).await, alone);
    assert!(small.metric("rhumb_engine_preemptions_total").await > 0.0, "there was room for all of them");
    assert_eq!(small.metric("rhumb_engine_kv_free_tokens").await, 1024.0);
    small.stop().await;
}

#[tokio::test]
async fn a_client_who_leaves_frees_the_slot() {
    // Left alone, these answers would take a minute.
    let config = Config { slots: 1, step_time: Duration::from_millis(60), ..house::config(house::folder()) };
    let engine = Engine::start(config).await;
    let endless = asking("What is Rhumb?", json!({"ignore_eos": true, "max_tokens": 990}));
    let mut streamed = engine.annotated(CHAT, endless.clone()).await;
    streamed.next_event().await.unwrap();
    drop(streamed);
    let cancelled = async |count: usize| {
        let line = format!("outcome=\"cancelled\"}} {count}\n");
        let seen = async { while !engine.get("/metrics").await.text().await.contains(&line) {} };
        tokio::time::timeout(Duration::from_secs(20), seen)
            .await
            .expect("the client's leaving goes unnoticed");
    };
    cancelled(1).await;
    let whole = tokio::spawn(client::post(engine.address, CHAT, &[], endless));
    while engine.metric("rhumb_engine_requests_running").await == 0.0 {}
    whole.abort();
    cancelled(2).await;
    let short = engine.ask("Hello", json!({"max_tokens": 2})).await;
    assert!(!short.is_empty());
    assert!(engine.metric("rhumb_engine_completion_tokens_total").await < 100.0);
    engine.stop().await;
}

#[tokio::test]
async fn a_full_queue_turns_away() {
    let config = Config {
        slots: 1,
        queue_max: 1,
        step_time: Duration::from_millis(20),
        ..house::config(house::folder())
    };
    let engine = Engine::start(config).await;
    let endless = asking("What is Rhumb?", json!({"ignore_eos": true, "max_tokens": 900, "stream": true}));
    let mut first = engine.annotated(CHAT, endless.clone()).await;
    first.next_event().await.unwrap();
    let _second = engine.annotated(CHAT, endless.clone()).await;
    let refused = engine.annotated(CHAT, endless).await;
    assert_eq!((refused.status, refused.header("rhumb-failure")), (503, "queue-full"));
    assert_eq!(refused.header("rhumb-replica"), "us-east/n1/0-0");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(refused.json().await["error"]["code"], "queue_full");
    // The loop takes the second in between two tokens of the first.
    first.next_event().await.unwrap();
    first.next_event().await.unwrap();
    let frame: LoadFrame = engine.get("/rhumb/v1/load").await.text().await.parse().unwrap();
    assert_eq!((frame.slots, frame.running, frame.queued), (1, 1, 1));
    assert!(frame.queued_prefill_tokens > 0 && frame.step_us >= 20_000 && frame.decode_tokens_per_s > 0);
}

#[tokio::test]
async fn a_drain_finishes_what_runs() {
    let engine =
        Engine::start(Config { step_time: Duration::from_millis(5), ..house::config(house::folder()) }).await;
    assert_eq!(engine.get("/readyz").await.status, 200);
    let mut running =
        engine.annotated(CHAT, asking("What is Rhumb?", json!({"max_tokens": 30, "ignore_eos": true}))).await;
    let first = running.next_event().await.unwrap();
    engine.begin_shutdown();
    let mut rest = running.events().await;
    assert!(rest.pop().unwrap().is_done());
    assert!(first.id.unwrap().starts_with("1:"));
    assert!(rest[rest.len() - 2].id.as_ref().unwrap().starts_with("30:"));
    let address = engine.address;
    engine.stop().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn mistakes_are_named_the_openai_way() {
    let engine = engine().await;
    let error = async |path: &str, body: Value| {
        let answer = engine.annotated(path, body).await;
        let (status, failure) = (answer.status, answer.header("rhumb-failure").to_owned());
        let error = answer.json().await["error"].clone();
        assert!(failure.is_empty(), "the client's mistake is not the node's: {error}");
        (status, error["code"].as_str().unwrap().to_owned())
    };
    let too_long = (400, "context_length_exceeded".to_owned());
    assert_eq!(error(CHAT, asking("Hello", json!({"max_tokens": 1024}))).await, too_long);
    assert_eq!(error(CHAT, asking(&"word ".repeat(1200), json!({}))).await, too_long);
    assert_eq!(error(CHAT, asking(&"x".repeat(30_000_000), json!({}))).await, too_long);
    assert_eq!(
        error(COMPLETIONS, json!({"model": "m", "prompt": vec![7; 1024], "max_tokens": 1})).await,
        too_long
    );
    let message = async |path: &str, body: Value| {
        engine.post(path, body).await.json().await["error"]["message"].as_str().unwrap().to_owned()
    };
    let estimated = message(CHAT, asking(&"x".repeat(30_000_000), json!({}))).await;
    assert!(estimated.starts_with("the prompt has at least "), "{estimated}");
    let counted = message(COMPLETIONS, json!({"model": "m", "prompt": vec![7; 1024]})).await;
    assert!(counted.starts_with("the prompt has 1024 tokens "), "{counted}");
    let invalid = (400, "invalid_value".to_owned());
    assert_eq!(error(COMPLETIONS, json!({"model": "m", "prompt": [1024]})).await, invalid);
    assert_eq!(error(COMPLETIONS, json!({"model": "m", "prompt": []})).await, invalid);
    let tool = json!({"model": "m", "messages": [{"role": "tool", "content": "42"}]});
    assert_eq!(error(CHAT, tool).await, invalid);
    assert_eq!(error(CHAT, json!({"model": "m"})).await, (400, "missing_required_parameter".to_owned()));
    let huge = "x".repeat(35_000_000);
    assert_eq!(error(CHAT, asking(&huge, json!({}))).await, (413, "request_too_large".to_owned()));
    assert_eq!(engine.get("/v1/nothing").await.status, 404);
    // The rest of a body must not meet a closed connection: an agent would take that for a crash.
    let long = engine.post("/v1/embeddings", json!({"input": "x".repeat(8 << 20)})).await;
    assert_eq!((long.status, long.header("connection")), (404, ""));
    assert_eq!(engine.get(CHAT).await.status, 405);
    for (name, value) in
        [("rhumb-protocol", "2"), ("rhumb-stream", "plain"), ("rhumb-seed", "x"), ("rhumb-request-id", "1")]
    {
        let answer = post(engine.address, CHAT, &[(name, value)], asking("Hello", json!({}))).await;
        assert_eq!((answer.status, answer.header("rhumb-failure")), (400, "protocol"), "{name}");
    }
    // A prompt that fills the context to its last token but one still gets that one.
    let last =
        engine.post(COMPLETIONS, json!({"model": "m", "prompt": vec![7; 1023], "max_tokens": 1})).await;
    assert_eq!(last.json().await["usage"]["total_tokens"], 1024);
    engine.stop().await;
}

#[tokio::test]
async fn models_and_aliases_are_listed() {
    // No whole number of blocks, which must not show as a negative use.
    let engine = Engine::start(Config { kv_tokens: 8190, ..house::config(house::folder()) }).await;
    let list = engine.get("/v1/models").await.json().await;
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!("house")));
    assert_eq!(engine.get("/v1/models/house").await.json().await["object"], "model");
    for unknown in ["/v1/models/other", "/v1/models/%ff"] {
        let answer = engine.get(unknown).await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.json().await["error"]["code"], "model_not_found");
    }
    let ready = engine.get("/readyz").await;
    assert_eq!((ready.status, ready.header("rhumb-replica")), (200, "us-east/n1/0-0"));
    engine.ask("Hello", json!({})).await;
    assert!(engine.metric("vllm:prompt_tokens_total").await > 0.0);
    assert!(engine.metric("vllm:generation_tokens_total").await > 0.0);
    for gauge in ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"] {
        assert_eq!(engine.metric(gauge).await, 0.0, "{gauge}");
    }
    engine.stop().await;
}

/// A server whose step loop is this test.
async fn loopless() -> (std::net::SocketAddr, tokio::sync::mpsc::Receiver<Command>) {
    let config = house::config(house::folder());
    let loaded = engine::start::load(&config).unwrap();
    let load = Arc::new(engine::load::Load::new(1, 8, 1024));
    let (queue, commands) = Queue::new(8, 8, load);
    let served = engine::http::Served {
        name: config.served_name,
        replica: config.replica,
        context_length: loaded.context_length,
        vocabulary: loaded.model.config().vocabulary,
        end_tokens: loaded.model.config().end_tokens.clone(),
        queue,
        tokenizer: Arc::new(loaded.tokenizer),
        template: loaded.template,
        metrics: Arc::new(engine::metrics::Metrics::new("house", 1024)),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(engine::http::serve(listener, Arc::new(served), Default::default()));
    (address, commands)
}

#[tokio::test]
async fn a_dead_step_loop_is_admitted() {
    let (address, mut commands) = loopless().await;
    let streamed = asking("Hello", json!({"stream": true}));
    let asked = tokio::spawn(client::post(address, CHAT, &[], streamed));
    let annotated = tokio::spawn(client::post(address, CHAT, &ANNOTATED, asking("Hello", json!({}))));
    let whole = tokio::spawn(client::post(address, CHAT, &[], asking("Hello", json!({}))));
    let mut sent = Vec::new();
    while sent.len() < 3 {
        sent.push(commands.recv().await.unwrap());
    }
    for command in &sent {
        let Command::Generate(request) = command else { panic!() };
        let piece = engine::stop::Piece { ids: vec![40], text: "Hel".to_owned(), logprobs: Vec::new() };
        request.events.send(engine::queue::Event::Text(piece)).await.unwrap();
    }
    let mut annotated = annotated.await.unwrap();
    assert_eq!(content(&annotated.next_event().await.unwrap()), "Hel");
    drop((sent, commands));
    assert!(annotated.breaks_off().await, "an edge takes a clean end for one");
    let events = asked.await.unwrap().events().await;
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(content(&events[0]), "Hel");
    assert_eq!(events[1].json()["error"]["code"], "engine_failed");
    let whole = whole.await.unwrap();
    assert_eq!((whole.status, whole.header("rhumb-failure")), (502, "replica-failed"));
    let later = client::post(address, CHAT, &ANNOTATED, asking("Hello", json!({}))).await;
    assert_eq!((later.status, later.header("rhumb-failure")), (502, "replica-failed"));
    let page = client::get(address, "/metrics").await.text().await;
    assert!(
        page.contains("rhumb_engine_requests_total{model_name=\"house\",outcome=\"failed\"} 4\n"),
        "{page}"
    );
}
