//! A worker that thinks nothing: every stream is the same events at the same pace.
//!
//! ```text
//! canned-worker [engine] --listen ADDR [--events N] [--every-ms N] [--tokens N]
//! ```
//!
//! A plain OpenAI server, and towards a region agent an engine: asked for an annotated stream it sends positions and
//! hashes, and it says that it has room. `--tokens` of them are in each event. The bench `edge-vs-peers` runs it.

#![allow(clippy::unwrap_used, reason = "a measurement fails by panicking")]

use bytes::BytesMut;
use std::collections::BTreeMap;
use std::env;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval};
use types::{EventId, LoadFrame, LoadState, PrefixHash, StreamPosition, header};

struct Worker {
    events: u64,
    every: Duration,
    tokens: u32,
    replica: String,
    served_name: String,
    slots: u32,
    frames: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut given = BTreeMap::new();
    let mut arguments = env::args().skip(1).skip_while(|one| !one.starts_with("--"));
    // Of a flag given twice the last one counts, so that a script can add to what an agent says.
    while let (Some(flag), Some(value)) = (arguments.next(), arguments.next()) {
        given.insert(flag, value);
    }
    let number = |flag: &str, default: u64| given.get(flag).map_or(default, |text| text.parse().unwrap());
    let text = |flag: &str| given.get(flag).cloned().unwrap_or_default();
    let worker = Arc::new(Worker {
        events: number("--events", 100),
        every: Duration::from_millis(number("--every-ms", 20)),
        tokens: number("--tokens", 1) as u32,
        replica: text("--replica"),
        served_name: text("--served-name"),
        slots: number("--slots", 16_384) as u32,
        frames: AtomicU64::new(1),
    });
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.set_reuse_address(true).unwrap();
    let address: std::net::SocketAddr = given["--listen"].parse().unwrap();
    listener.bind(&address.into()).unwrap();
    // Thousands of streams may begin at the same instant.
    listener.listen(16_384).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener.into()).unwrap();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let worker = worker.clone();
        // A client that leaves ends its own connection only.
        tokio::spawn(async move { worker.converse(client).await });
    }
}

impl Worker {
    async fn converse(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut received = BytesMut::new();
        loop {
            let head_end = loop {
                if let Some(at) = find(&received, b"\r\n\r\n") {
                    break at + 4;
                }
                if client.read_buf(&mut received).await? == 0 {
                    return Ok(());
                }
            };
            let head = String::from_utf8_lossy(&received.split_to(head_end)).to_ascii_lowercase();
            let length = value(&head, "content-length").map_or(0, |length| length.parse().unwrap());
            while received.len() < length {
                if client.read_buf(&mut received).await? == 0 {
                    return Ok(());
                }
            }
            let body = received.split_to(length);
            let is_annotated = value(&head, header::STREAM).is_some();
            let path = head.split(' ').nth(1).unwrap_or_default();
            if head.starts_with("post") && (is_annotated || find(&body, b"\"stream\"").is_some()) {
                self.stream(&mut client, is_annotated).await?;
            } else {
                client.write_all(self.whole(path, head.starts_with("post")).as_bytes()).await?;
            }
        }
    }

    fn frame(&self) -> LoadFrame {
        LoadFrame {
            boot: u64::from(std::process::id()),
            sequence: self.frames.fetch_add(1, Ordering::Relaxed),
            state: LoadState::Serving,
            replicas: 1,
            slots: self.slots,
            kv_free_tokens: 1 << 30,
            step_us: 1_000,
            prefill_tokens_per_s: 1_000_000,
            decode_tokens_per_s: 1_000_000,
            ..LoadFrame::default()
        }
    }

    fn whole(&self, path: &str, is_post: bool) -> String {
        let name = &self.served_name;
        let body = match path {
            "/rhumb/v1/load" => self.frame().to_string(),
            "/v1/models" => format!(r#"{{"object":"list","data":[{{"id":"{name}","object":"model"}}]}}"#),
            _ if is_post => format!(
                r#"{{"id":"chatcmpl-0","object":"chat.completion","created":1700000000,"model":"{name}","choices":[{{"index":0,"message":{{"role":"assistant","content":"word"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}}}"#
            ),
            _ => "{}".to_owned(),
        };
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{}: {}\r\ncontent-length: {}\r\n\r\n{body}",
            header::REPLICA,
            self.replica,
            body.len()
        )
    }

    async fn stream(&self, client: &mut TcpStream, is_annotated: bool) -> io::Result<()> {
        let prompt = PrefixHash::of_prompt(&[1, 2, 3]);
        let mut position = StreamPosition::start(prompt);
        let mut head =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n".to_owned();
        if is_annotated {
            let values = [
                (header::REPLICA, self.replica.clone()),
                (header::PROMPT_TOKENS, "3".to_owned()),
                (header::PREFIX_HASH, prompt.to_string()),
                (header::LOAD, self.frame().to_string()),
            ];
            for (name, value) in values {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        client.write_all(format!("{head}\r\n").as_bytes()).await?;
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 1..=self.events {
            ticks.tick().await;
            let id = is_annotated.then(|| position.release((0..self.tokens).map(token_id).collect()));
            let finish = if number == self.events { "\"stop\"" } else { "null" };
            let data = format!(
                r#"{{"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"stub","choices":[{{"index":0,"delta":{{"content":" word"}},"logprobs":null,"finish_reason":{finish}}}]}}"#
            );
            client.write_all(chunk(id, &data).as_bytes()).await?;
        }
        client.write_all(format!("{}0\r\n\r\n", chunk(None, "[DONE]")).as_bytes()).await
    }
}

/// As in texts, where the id of a token mostly is the larger the rarer it is: as many below 358 as above.
fn token_id(number: u32) -> u32 {
    let (vocabulary, golden_ratio) = (128_000_f64, 0.618_033_988_75);
    vocabulary.powf((f64::from(number) * golden_ratio).fract()) as u32
}

fn chunk(id: Option<EventId>, data: &str) -> String {
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    let length = id.len() + data.len() + 8;
    format!("{length:x}\r\n{id}data: {data}\n\n\r\n")
}

fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}
