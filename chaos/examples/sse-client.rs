//! Opens streams at one address and tells what became of each: one JSON line per stream, in the order of asking.
//!
//! Reads its plan, one JSON object, from standard input. Plain HTTP/1.1, a connection for each stream. The benches
//! `edge-vs-peers` and `failure-drill` run it.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement fails by panicking, and prints")]

use bytes::{Buf, BytesMut};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

#[derive(Deserialize)]
struct Plan {
    address: SocketAddr,
    path: String,
    headers: BTreeMap<String, String>,
    /// In turn.
    bodies: Vec<Value>,
    streams: usize,
    at_once: usize,
    /// A stream that has not ended by then counts as lost.
    limit_s: f64,
    /// The first ones do not all begin at the same instant.
    spread_s: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let plan: Plan = serde_json::from_reader(io::stdin().lock()).unwrap();
    let requests: Vec<Vec<u8>> = plan.bodies.iter().map(|body| request(&plan, body)).collect();
    let plan = Arc::new((plan, requests));
    let room = Arc::new(Semaphore::new(plan.0.at_once));
    let mut running = Vec::new();
    for number in 0..plan.0.streams {
        let (plan, room) = (plan.clone(), room.clone());
        running.push(tokio::spawn(async move {
            let first = plan.0.at_once.min(plan.0.streams);
            if number < first {
                tokio::time::sleep(Duration::from_secs_f64(plan.0.spread_s) * number as u32 / first as u32)
                    .await;
            }
            let _place = room.acquire().await.unwrap();
            let mut seen = Seen::default();
            let limit = Duration::from_secs_f64(plan.0.limit_s);
            let request = &plan.1[number % plan.1.len()];
            let ended = timeout(limit, stream(plan.0.address, request, &mut seen)).await;
            seen.told(ended.map(|ended| ended.map_err(|error| error.kind().to_string())))
        }));
    }
    for told in running {
        println!("{}", told.await.unwrap());
    }
}

fn request(plan: &Plan, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let mut text = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n",
        plan.path, plan.address
    );
    for (name, value) in &plan.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    text.into_bytes()
}

/// What came of one stream so far.
#[derive(Default)]
struct Seen {
    status: u16,
    began: Option<Instant>,
    /// Data of each event, and when it came.
    events: Vec<(Instant, Vec<u8>)>,
    other: Vec<u8>,
}

/// Returns when the answer has ended, cleanly or not.
async fn stream(address: SocketAddr, request: &[u8], seen: &mut Seen) -> io::Result<()> {
    seen.began = Some(Instant::now());
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    socket.write_all(request).await?;
    let mut raw = BytesMut::with_capacity(4096);
    let head_end = loop {
        if let Some(at) = find(&raw, b"\r\n\r\n") {
            break at + 4;
        }
        if socket.read_buf(&mut raw).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let head = String::from_utf8_lossy(&raw.split_to(head_end)).to_ascii_lowercase();
    seen.status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let mut framing = Framing::of(&head);
    let mut body = BytesMut::new();
    loop {
        let is_over = framing.take(&mut raw, &mut body);
        let now = Instant::now();
        while let Some(at) = find(&body, b"\n\n") {
            let event = body.split_to(at + 2);
            for line in event[..].split(|byte| *byte == b'\n') {
                if let Some(data) = line.strip_prefix(b"data:") {
                    seen.events.push((now, data.trim_ascii().to_vec()));
                }
            }
        }
        if is_over {
            seen.other.extend_from_slice(&body);
            return Ok(());
        }
        if socket.read_buf(&mut raw).await? == 0 {
            seen.other.extend_from_slice(&body);
            return match framing {
                Framing::UntilClose => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
    }
}

/// How the end of the answer is known.
enum Framing {
    Length(usize),
    /// Octets left of this chunk, its closing line included.
    Chunked(usize),
    UntilClose,
}

impl Framing {
    fn of(head: &str) -> Self {
        let value = |name: &str| {
            head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
        };
        match (value("transfer-encoding"), value("content-length")) {
            (Some("chunked"), _) => Self::Chunked(0),
            (_, Some(length)) => Self::Length(length.parse().unwrap()),
            _ => Self::UntilClose,
        }
    }

    /// Moves what belongs to the body. True when it is whole.
    fn take(&mut self, raw: &mut BytesMut, body: &mut BytesMut) -> bool {
        match self {
            Self::UntilClose => {
                body.extend_from_slice(raw);
                raw.clear();
                false
            }
            Self::Length(left) => {
                let some = raw.split_to(raw.len().min(*left));
                body.extend_from_slice(&some);
                *left -= some.len();
                *left == 0
            }
            Self::Chunked(left) => loop {
                if *left == 0 {
                    let Some(at) = find(raw, b"\r\n") else { return false };
                    let size = String::from_utf8_lossy(&raw[..at]).into_owned();
                    let size = usize::from_str_radix(size.split(';').next().unwrap().trim(), 16).unwrap();
                    raw.advance(at + 2);
                    if size == 0 {
                        return true;
                    }
                    *left = size + 2;
                }
                let some = raw.split_to(raw.len().min(left.saturating_sub(2)));
                body.extend_from_slice(&some);
                *left -= some.len();
                if *left > 2 || raw.len() < *left {
                    return false;
                }
                raw.advance(*left);
                *left = 0;
            },
        }
    }
}

impl Seen {
    fn told<E>(self, ended: Result<Result<(), String>, E>) -> Value {
        let began = self.began.unwrap();
        let since = |at: Instant| (at - began).as_secs_f64() * 1e3;
        let (mut text, mut usage, mut error, mut tokens, mut is_done) =
            (String::new(), Value::Null, Value::Null, 0, false);
        let (mut gap, mut before, mut first, mut last) = (0.0, None, None, began);
        for (at, data) in &self.events {
            if data == b"[DONE]" {
                is_done = true;
                continue;
            }
            let chunk: Value = serde_json::from_slice(data).unwrap_or_default();
            if !chunk["error"].is_null() {
                error = chunk["error"].clone();
            }
            if chunk["usage"].is_object() {
                usage = chunk["usage"].clone();
            }
            let choice = &chunk["choices"][0];
            let piece = choice["delta"]["content"].as_str().or_else(|| choice["text"].as_str()).unwrap_or("");
            if piece.is_empty() {
                continue;
            }
            text.push_str(piece);
            tokens += 1;
            first.get_or_insert(since(*at));
            gap = f64::max(gap, before.map_or(0.0, |before| since(*at) - before));
            before = Some(since(*at));
            last = *at;
        }
        let end = match &ended {
            Err(_) => "limit",
            Ok(_) if self.status != 200 => "refused",
            Ok(_) if !error.is_null() => "error",
            Ok(Ok(())) if is_done => "done",
            Ok(_) => "cut",
        };
        if end == "refused" {
            error = Value::String(String::from_utf8_lossy(&self.other).chars().take(200).collect());
        }
        if let Ok(Err(kind)) = &ended
            && error.is_null()
            && end != "done"
        {
            error = Value::String(kind.clone());
        }
        json!({
            "status": self.status, "end": end, "error": error, "text": text, "tokens": tokens, "usage": usage,
            "events": self.events.len(), "first_ms": first, "gap_ms": gap, "total_ms": since(last),
        })
    }
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}
