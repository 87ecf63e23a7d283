//! A worker that misbehaves as told: a real engine, and in front of it a proxy that breaks some of its answers.
//!
//! ```text
//! bad-worker PROGRAM engine --model DIR --listen ADDR …
//! ```
//!
//! Starts `PROGRAM engine …` on a port of its own and listens at ADDR itself, so a region agent can run it in an
//! engine's place. `GET /bad/<fault>/<percent>/<seed>` chooses what happens to how many of the POSTs from then on;
//! which ones follows from the seed and their number. `GET /bad` tells how many POSTs came and how many were hit.
//! `tests/bench/failure-drill` runs it.

#![allow(clippy::unwrap_used, reason = "a measurement fails by panicking")]

use bytes::BytesMut;
use std::env;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = env::args().skip(1);
    let program = arguments.next().expect("the engine's program comes first");
    let mut arguments: Vec<String> = arguments.collect();
    let at = arguments.iter().position(|one| one == "--listen").expect("--listen ADDR") + 1;
    let listen: SocketAddr = arguments[at].parse().unwrap();
    let slow =
        arguments.iter().skip_while(|one| *one != "--step-time").nth(1).map_or(SLOW_STEP, |text| {
            10 * Duration::from_millis(text.trim_end_matches("ms").parse().unwrap())
        });
    // Free now, and nobody else on this host is in a hurry to take it.
    let engine = TcpListener::bind((listen.ip(), 0)).await.unwrap().local_addr().unwrap();
    arguments[at] = engine.to_string();
    // The lifeline of an agent's engine is its standard input, which is passed on.
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .unwrap();

    let listener = TcpListener::bind(listen).await.unwrap();
    let plan = Arc::new(Mutex::new(Plan::default()));
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(converse(client, engine, plan.clone(), slow));
        }
    });
    child.wait().await.unwrap();
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// RST instead of an answer.
    Reset,
    /// 500.
    Error,
    /// The head, then RST.
    Head,
    /// Five events, then RST.
    Cut,
    /// Five events, then nothing, on an open connection.
    Stall,
    /// Five events and half of the sixth, then RST.
    Half,
    /// Each event takes ten times as long.
    Slow,
}

impl Fault {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "none" => Self::None,
            "reset" => Self::Reset,
            "error" => Self::Error,
            "head" => Self::Head,
            "cut" => Self::Cut,
            "stall" => Self::Stall,
            "half" => Self::Half,
            "slow" => Self::Slow,
            _ => return None,
        })
    }
}

#[derive(Default)]
struct Plan {
    fault: Fault,
    percent: u8,
    seed: u64,
    posts: u64,
    hit: u64,
}

impl Plan {
    /// What happens to the next POST.
    fn next(&mut self) -> Fault {
        let mut dice = fastrand::Rng::with_seed(self.seed.wrapping_add(self.posts.wrapping_mul(0x9e37_79b9)));
        self.posts += 1;
        if self.fault == Fault::None || dice.u8(0..100) >= self.percent {
            return Fault::None;
        }
        self.hit += 1;
        self.fault
    }

    /// `/bad`, `/bad/<fault>/<percent>/<seed>`
    fn steer(&mut self, path: &str) -> Option<String> {
        let told = format!("{{\"posts\": {}, \"hit\": {}}}\n", self.posts, self.hit);
        let mut words = path.strip_prefix("/bad")?.split('/').skip(1);
        if let Some(fault) = words.next() {
            let (percent, seed) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            *self = Self { fault: Fault::parse(fault)?, percent, seed, posts: 0, hit: 0 };
        }
        Some(told)
    }
}

/// One connection of a client: an answer for each request, until one is to be the last.
async fn converse(mut client: TcpStream, engine: SocketAddr, plan: Arc<Mutex<Plan>>, slow: Duration) {
    client.set_nodelay(true).unwrap();
    let mut received = BytesMut::new();
    // Whatever ends a conversation is what this program is for.
    while let Ok(Some(request)) = request(&mut client, &mut received).await {
        let steered = plan.lock().unwrap().steer(&request.path);
        let own = match (steered, request.path.as_str()) {
            (Some(told), _) => Some(told),
            // Routers ask for this, and no engine of ours has it.
            (None, "/health") => Some("{}".to_owned()),
            _ => None,
        };
        if let Some(body) = own {
            if client.write_all(whole("200 OK", &body).as_bytes()).await.is_err() {
                return;
            }
            continue;
        }
        let fault = if request.is_post { plan.lock().unwrap().next() } else { Fault::None };
        if answer(&mut client, engine, &request, fault, slow).await.is_err() {
            return;
        }
        if matches!(fault, Fault::Reset | Fault::Head | Fault::Cut | Fault::Half) {
            // What was sent should be read before the reset: some clients throw away what they have when it comes.
            sleep(BEFORE_RESET).await;
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        }
        if fault != Fault::Error {
            return;
        }
    }
}

struct Request {
    path: String,
    is_post: bool,
    /// As it goes to the engine, which is to close its connection afterwards.
    bytes: Vec<u8>,
}

/// The next request, or none if the client has left.
async fn request(client: &mut TcpStream, received: &mut BytesMut) -> io::Result<Option<Request>> {
    let head_end = loop {
        if let Some(at) = find(received, b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(received).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&received.split_to(head_end)).into_owned();
    let mut lines = head.trim_end().split("\r\n");
    let first = lines.next().unwrap_or_default();
    let (mut kept, mut length, mut is_chunked, mut expects) = (format!("{first}\r\n"), 0, false, false);
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        match name.to_ascii_lowercase().as_str() {
            "connection" | "keep-alive" => continue,
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "transfer-encoding" => is_chunked = true,
            "expect" => {
                expects = true;
                continue;
            }
            _ => {}
        }
        kept.push_str(line);
        kept.push_str("\r\n");
    }
    if expects {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let is_whole = |received: &BytesMut| match is_chunked {
        true => received.ends_with(b"0\r\n\r\n"),
        false => received.len() >= length,
    };
    while !is_whole(received) {
        if client.read_buf(received).await? == 0 {
            return Ok(None);
        }
    }
    let body = if is_chunked { received.split() } else { received.split_to(length) };
    let mut bytes = format!("{kept}connection: close\r\n\r\n").into_bytes();
    bytes.extend_from_slice(&body);
    let mut words = first.split(' ');
    let is_post = words.next() == Some("POST");
    Ok(Some(Request { path: words.next().unwrap_or_default().to_owned(), is_post, bytes }))
}

/// Passes the engine's answer on, up to where the fault strikes.
async fn answer(
    client: &mut TcpStream,
    engine: SocketAddr,
    request: &Request,
    fault: Fault,
    slow: Duration,
) -> io::Result<()> {
    match fault {
        Fault::Reset => return Ok(()),
        Fault::Error => {
            let body = r#"{"error":{"message":"the worker failed","type":"server_error","code":null}}"#;
            return client.write_all(whole("500 Internal Server Error", body).as_bytes()).await;
        }
        _ => {}
    }
    let mut engine = TcpStream::connect(engine).await?;
    engine.set_nodelay(true)?;
    engine.write_all(&request.bytes).await?;
    let (mut received, mut events, mut is_head_sent) = (BytesMut::new(), 0, false);
    loop {
        let mut own = [0; 1];
        tokio::select! {
            read = engine.read_buf(&mut received) => if read? == 0 {
                return client.write_all(&received).await;
            },
            // The client has left, so the engine is left, too.
            gone = client.read(&mut own) => return gone.and(Err(ErrorKind::BrokenPipe.into())),
        }
        if !is_head_sent {
            let Some(at) = find(&received, b"\r\n\r\n") else { continue };
            client.write_all(&received.split_to(at + 4)).await?;
            is_head_sent = true;
            if fault == Fault::Head {
                return Ok(());
            }
        }
        while let Some(at) = find(&received, b"\n\n") {
            let piece = received.split_to(at + 2);
            let is_event = find(&piece, b"data:").is_some();
            if is_event && events == EVENTS_BEFORE {
                match fault {
                    Fault::Cut => return Ok(()),
                    Fault::Half => return client.write_all(&piece[..piece.len() / 2]).await,
                    Fault::Stall => {
                        let mut own = [0; 1];
                        let _ = timeout(STALL_MAX, client.read(&mut own)).await;
                        return Ok(());
                    }
                    _ => {}
                }
            }
            events += u32::from(is_event);
            if fault == Fault::Slow {
                sleep(slow).await;
            }
            client.write_all(&piece).await?;
        }
    }
}

fn whole(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

/// As many tokens, where each event carries one.
const EVENTS_BEFORE: u32 = 5;
/// Longer than any client of the drill waits.
const STALL_MAX: Duration = Duration::from_secs(120);
/// Where the engine has no step time of its own.
const SLOW_STEP: Duration = Duration::from_millis(100);
/// A step of a large model.
const BEFORE_RESET: Duration = Duration::from_millis(20);
