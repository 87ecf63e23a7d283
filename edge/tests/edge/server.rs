//! A server without an agent, byte for byte as a test wants it.

use crate::world::SOON;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use types::intent::{self, NodeKind, OpenAiServer, Resource};

/// What a server writes for one request, and what it does then.
#[derive(Debug, Clone)]
pub struct Reply {
    bytes: Vec<u8>,
    /// Written so long after them.
    rest: Option<(Duration, Vec<u8>)>,
    then: Then,
}

#[derive(Debug, Clone, Copy)]
enum Then {
    /// The next request may come.
    Keep,
    /// The connection ends, as one may.
    Close,
    /// The connection ends once [`Server::go_on`] was called.
    CloseOnCue,
    /// Nothing more comes; [`Server::until_left`] tells when the edge has had enough.
    Hang,
}

#[derive(Debug, Clone)]
pub struct Seen {
    /// Of which connection.
    pub connection: usize,
    pub head: String,
    pub body: String,
}

pub struct Server {
    pub address: SocketAddr,
    stage: Arc<Stage>,
}

#[derive(Default)]
struct Stage {
    replies: Mutex<VecDeque<Reply>>,
    seen: Mutex<Vec<Seen>>,
    cue: Notify,
    left: Notify,
    probed: Notify,
}

impl Server {
    /// Serves until the runtime ends.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stage = Arc::new(Stage::default());
        let on_stage = stage.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(on_stage.clone(), stream, connection));
            }
        });
        Self { address, stage }
    }

    /// The replies to the next requests; after them every stream is served.
    pub fn will(&self, replies: impl IntoIterator<Item = Reply>) {
        *self.stage.replies.lock().unwrap() = replies.into_iter().collect();
        self.stage.seen.lock().unwrap().clear();
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.stage.seen.lock().unwrap().clone()
    }

    pub fn go_on(&self) {
        self.stage.cue.notify_one();
    }

    pub async fn until_left(&self) {
        tokio::time::timeout(SOON, self.stage.left.notified()).await.expect("left soon");
    }

    pub async fn until_probed(&self) {
        tokio::time::timeout(SOON, self.stage.probed.notified()).await.expect("probed soon");
    }

    /// As operators name it.
    pub fn resource(&self, key: &str, slots: u32) -> Resource {
        Resource::Node(intent::Node {
            key: key.parse().unwrap(),
            zone: "a".parse().unwrap(),
            kind: NodeKind::OpenAi(OpenAiServer {
                base_url: format!("http://{}/base/v1", self.address).parse().unwrap(),
                models: vec!["m".parse().unwrap()],
                slots,
                secret: None,
            }),
        })
    }
}

impl Reply {
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), rest: None, then: Then::Close }
    }

    /// A whole answer, with its length.
    pub fn json(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n{body}");
        Self { bytes: head.into(), rest: None, then: Then::Keep }
    }

    /// A chunked stream of these events, each in two chunks, and its end.
    pub fn events(events: &[&str]) -> Self {
        let mut reply = Self::unended(events);
        reply.bytes.extend_from_slice(b"0\r\n\r\n");
        Self { then: Then::Keep, ..reply }
    }

    /// A stream of these events that breaks.
    pub fn unended(events: &[&str]) -> Self {
        let mut bytes =
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_vec();
        for event in events {
            let event = format!("data: {event}\n\n");
            let (left, right) = event.split_at(event.len() / 2);
            for part in [left, right] {
                bytes.extend_from_slice(format!("{:X}\r\n{part}\r\n", part.len()).as_bytes());
            }
        }
        Self { bytes, rest: None, then: Then::Close }
    }

    /// Goes on with the events of another stream.
    pub fn then_write(self, after: Duration, events: Self) -> Self {
        let head = events.bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        Self { rest: Some((after, events.bytes[head..].to_vec())), then: events.then, ..self }
    }

    pub fn then_close(self) -> Self {
        Self { then: Then::Close, ..self }
    }

    pub fn then_close_on_cue(self) -> Self {
        Self { then: Then::CloseOnCue, ..self }
    }

    pub fn then_hang(self) -> Self {
        Self { then: Then::Hang, ..self }
    }
}

pub const OPENING: &str = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
pub const ONE: &str = r#"{"choices":[{"index":0,"delta":{"content":"one "}}]}"#;
pub const TWO: &str = r#"{"choices":[{"index":0,"delta":{"content":"two"},"finish_reason":"stop"}]}"#;
pub const USAGE: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}}"#;
pub const DONE: &str = "[DONE]";

async fn serve(stage: Arc<Stage>, mut stream: TcpStream, connection: usize) -> Option<()> {
    for earlier in 0_usize.. {
        let (head, body) = request(&mut stream).await?;
        if head.starts_with("GET /base/v1/models ") {
            stage.probed.notify_one();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.ok()?;
            continue;
        }
        // Who hears nothing on a connection that was used before, by a probe too, tries once more on another.
        let is_silence = stage.replies.lock().unwrap().front().is_some_and(|reply| reply.bytes.is_empty());
        if is_silence && earlier > 0 {
            return None;
        }
        stage.seen.lock().unwrap().push(Seen { connection, head, body });
        let reply = stage.replies.lock().unwrap().pop_front();
        let reply = reply.unwrap_or_else(|| Reply::events(&[OPENING, ONE, TWO, DONE]));
        stream.write_all(&reply.bytes).await.ok()?;
        if let Some((after, rest)) = reply.rest {
            tokio::time::sleep(after).await;
            stream.write_all(&rest).await.ok()?;
        }
        match reply.then {
            Then::Keep => {}
            Then::Close => return None,
            Then::CloseOnCue => {
                stage.cue.notified().await;
                return None;
            }
            Then::Hang => {
                while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
                stage.left.notify_one();
                return None;
            }
        }
    }
    None
}

/// The next request; `None` at the connection's end.
async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut more = async |bytes: &mut Vec<u8>| stream.read_buf(bytes).await.ok().filter(|read| *read > 0);
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        more(&mut bytes).await?;
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    while bytes.len() < end + length {
        more(&mut bytes).await?;
    }
    assert_eq!(bytes.len(), end + length, "one request at a time");
    Some((head, String::from_utf8(bytes[end..].to_vec()).unwrap()))
}
