//! An engine in this process, and a client that reads every byte of its answers.

use engine::Config;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use openai::sse::Framer;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub struct Engine {
    pub address: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), engine::RunError>>,
}

/// An answer's head, and its body as it comes.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    framer: Framer,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub data: Option<String>,
    pub comment: Option<String>,
}

impl Engine {
    pub async fn start(config: Config) -> Self {
        let shutdown = CancellationToken::new();
        let (ready, address) = oneshot::channel();
        let run = engine::run(config, shutdown.clone(), |address| ready.send(address).unwrap());
        let running = tokio::spawn(run);
        Self { address: address.await.unwrap(), shutdown, running }
    }

    pub fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        post(self.address, path, &[], body).await
    }

    pub async fn annotated(&self, path: &str, body: Value) -> Answer {
        post(self.address, path, &ANNOTATED, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        get(self.address, path).await
    }

    /// One answer to one question, in one piece.
    pub async fn ask(&self, question: &str, more: Value) -> String {
        let answer = self.post(CHAT, asking(question, more)).await;
        assert_eq!(answer.status, 200);
        answer.json().await["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }

    pub async fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").await.text().await;
        let line =
            page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

pub const CHAT: &str = "/v1/chat/completions";
pub const COMPLETIONS: &str = "/v1/completions";
pub const REQUEST_ID: &str = "000102030405060708090a0b0c0d0e0f";
pub const ANNOTATED: [(&str, &str); 5] = [
    ("rhumb-protocol", "1"),
    ("rhumb-stream", "annotated"),
    ("rhumb-request-id", REQUEST_ID),
    ("rhumb-created-unix-ms", "1700000000999"),
    ("rhumb-seed", "18446744073709551615"),
];

/// The body of a greedy question, with more fields over it.
pub fn asking(question: &str, more: Value) -> Value {
    let mut body =
        json!({"model": "house", "temperature": 0, "messages": [{"role": "user", "content": question}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, Request::get(path).header("host", "engine").body(Full::default()).unwrap()).await
}

pub async fn post(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
    post_bytes(address, path, headers, body.to_string().into_bytes()).await
}

pub async fn post_bytes(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let mut request = Request::post(path).header("host", "engine");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(address, request.body(Full::from(body)).unwrap()).await
}

/// On a connection of its own, which closes when the answer is dropped.
async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let connection = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = http1::handshake(connection).await.unwrap();
    tokio::spawn(connection);
    let response: Response<Incoming> = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body, framer: Framer::default() }
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub async fn text(self) -> String {
        String::from_utf8(self.body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    pub async fn json(self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    pub async fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.framer.next_event() {
                let text =
                    |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
                return Some(Event {
                    id: text(event.id),
                    data: text(event.data),
                    comment: text(event.comment),
                });
            }
            let frame = self.body.frame().await?.unwrap();
            self.framer.push(&frame.into_data().unwrap()).unwrap();
        }
    }

    /// Nothing more comes, and not because it was all.
    pub async fn breaks_off(mut self) -> bool {
        matches!(self.body.frame().await, Some(Err(_)))
    }

    pub async fn events(mut self) -> Vec<Event> {
        let mut all = Vec::new();
        while let Some(event) = self.next_event().await {
            all.push(event);
        }
        all
    }
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(self.data.as_ref().unwrap()).unwrap()
    }

    pub fn is_done(&self) -> bool {
        self.data.as_deref() == Some("[DONE]")
    }
}
