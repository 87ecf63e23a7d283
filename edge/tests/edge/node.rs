//! A node that plays a script: one act for each request that reaches it.

use crate::world::SOON;
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::Identity;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::UnboundedReceiverStream;
use types::{EventId, Failure, PrefixHash, ResumeLine, StreamPosition, header};

/// What a node does with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// All events and `[DONE]`.
    Serve,
    Fail(Failure),
    /// The engine's own refusal.
    Refuse(u16, &'static str),
    /// A head, so many events, then a reset of the stream; if there are events, not before [`Node::go_on`].
    BreakAfter(usize),
    /// A head, so many events; not before [`Node::go_on`], all connections to the node break.
    DieAfter(usize),
    /// A head, so many events, then a clean end without `[DONE]`.
    EndAfter(usize),
    /// A head, so many events, then the engine's word that it cannot go on.
    GiveUpAfter(usize),
    /// The event of this number belongs to another stream.
    Corrupt(usize),
    /// A head, so many events, then silence until the edge leaves.
    HangAfter(usize),
    /// All events and `[DONE]`, those after this many not before [`Node::go_on`].
    WaitAfter(usize),
    /// A head, then events of a kilobyte for as long as somebody takes them.
    Endless,
    /// A head, then one of those events, then a clean end without `[DONE]`, however far the answer is.
    OneMore,
    /// An answer of its own, part by part; cut off after them, not before [`Node::go_on`], if it `breaks`.
    Answer {
        status: u16,
        content_type: &'static str,
        parts: &'static [&'static [u8]],
        breaks: bool,
    },
    /// A head that tells of more prompt tokens than there can be.
    Lie,
    /// Serves, but has read the prompt in other tokens than whoever began the answer.
    ServeOther,
    /// Nothing before [`Node::go_on`], then something else, as a node whose requests queue.
    Later(Box<Act>),
}

/// What reached a node.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

pub struct Node {
    pub address: SocketAddr,
    stage: Arc<Stage>,
}

struct Stage {
    replica: String,
    acts: Mutex<VecDeque<Act>>,
    seen: Mutex<Vec<Seen>>,
    left: Mutex<Option<oneshot::Sender<()>>>,
    cue: Notify,
    /// Ends all connections.
    dies: Notify,
    load: String,
    probed: Notify,
    answers_probes: AtomicBool,
    /// Octets of endless answers.
    sent: AtomicUsize,
    /// The client certificate of each connection, in DER.
    certificates: Mutex<Vec<Vec<u8>>>,
}

/// The tokens of every answer, and their text.
pub const TEXTS: [&str; 3] = ["one ", "two ", "three"];

impl Node {
    /// Serves until the runtime ends.
    pub async fn start(identity: &Identity, replica: &str, version: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stage = Arc::new(Stage {
            replica: replica.to_owned(),
            acts: Mutex::default(),
            seen: Mutex::default(),
            left: Mutex::default(),
            cue: Notify::new(),
            dies: Notify::new(),
            load: format!("{version} boot=1 seq=1 state=serving replicas=1 slots=8\n"),
            probed: Notify::new(),
            answers_probes: AtomicBool::new(true),
            sent: AtomicUsize::new(0),
            certificates: Mutex::default(),
        });
        let acceptor = TlsAcceptor::from(identity.server_config());
        let on_stage = stage.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, stage) = (acceptor.clone(), on_stage.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
                    stage.certificates.lock().unwrap().push(shown);
                    let dies = stage.clone();
                    let service = service_fn(move |request| play(stage.clone(), request));
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    tokio::select! {
                        _ = server.serve_connection(TokioIo::new(stream), service) => {}
                        () = dies.dies.notified() => {}
                    }
                });
            }
        });
        Self { address, stage }
    }

    /// The acts for the next requests; after them it serves.
    pub fn will(&self, acts: impl IntoIterator<Item = Act>) {
        // A cue that an earlier act did not wait for is not for these.
        let _ = self.stage.cue.notified().now_or_never();
        *self.stage.acts.lock().unwrap() = acts.into_iter().collect();
        self.stage.seen.lock().unwrap().clear();
    }

    /// Waits until something was asked of it.
    pub async fn until_asked(&self) {
        let asked = async {
            while self.stage.seen.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, asked).await.expect("asked soon");
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.stage.seen.lock().unwrap().clone()
    }

    /// How many different certificates connections were made with.
    pub fn certificates(&self) -> usize {
        self.stage.certificates.lock().unwrap().iter().collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Waits for a probe.
    pub async fn until_probed(&self) {
        tokio::time::timeout(SOON, self.stage.probed.notified()).await.expect("probed soon");
    }

    pub fn answer_no_probes(&self) {
        self.stage.answers_probes.store(false, Relaxed);
    }

    pub fn sent(&self) -> usize {
        self.stage.sent.load(Relaxed)
    }

    /// Lets a stream that waits go on, or break if it is to. Before its events have been read, a reset would overtake them.
    pub fn go_on(&self) {
        self.stage.cue.notify_one();
    }

    /// Fires when the edge leaves a hanging stream.
    pub fn left(&self) -> oneshot::Receiver<()> {
        let (left, leaves) = oneshot::channel();
        *self.stage.left.lock().unwrap() = Some(left);
        leaves
    }
}

type Body = BoxBody<Bytes, io::Error>;

async fn play(stage: Arc<Stage>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    if request.uri().path() == "/rhumb/v1/load" {
        stage.probed.notify_one();
        if !stage.answers_probes.load(Relaxed) {
            std::future::pending::<()>().await;
        }
        return Ok(Response::new(whole(stage.load.clone())));
    }
    let (head, body) = request.into_parts();
    // One that is cut short was not sent to this node in earnest.
    let Ok(body) = body.collect().await else { return Ok(Response::new(whole(String::new()))) };
    let body = body.to_bytes();
    let path = head.uri.path().to_owned();
    let resumed = (path == header::RESUME_PATH).then(|| ResumeLine::split(&body).unwrap());
    let usage = body.windows(20).any(|window| window == b"\"include_usage\":true");
    let prompt = PrefixHash::of_prompt(&[1, 2, 3]);
    let start = StreamPosition::start(prompt);
    let start = resumed.map_or(start, |(line, _)| {
        let mut start = start;
        start.release(line.token_ids);
        start
    });
    stage.seen.lock().unwrap().push(Seen { path, headers: head.headers, body: body.clone() });
    let act = stage.acts.lock().unwrap().pop_front().unwrap_or(Act::Serve);
    let act = match act {
        Act::Later(act) => {
            stage.cue.notified().await;
            *act
        }
        act => act,
    };
    let answer = Response::builder().header(header::REPLICA, &stage.replica);
    Ok(match act {
        Act::Fail(failure) => {
            let answer = answer.status(failure.status()).header(header::FAILURE, failure.as_str());
            answer.body(whole("{}".to_owned())).unwrap()
        }
        Act::Refuse(status, body) => answer.status(status).body(whole(body.to_owned())).unwrap(),
        Act::Answer { status, content_type, parts, breaks } => {
            let answer = answer.status(status).header("content-type", content_type);
            answer.body(parts_of(&stage, parts, breaks)).unwrap()
        }
        streamed => {
            let start = match streamed {
                Act::ServeOther => StreamPosition::at(start.position(), PrefixHash::of_prompt(&[8])),
                _ => start,
            };
            let answer = answer
                .header("content-type", "text/event-stream")
                .header(header::PROMPT_TOKENS, if streamed == Act::Lie { u64::MAX } else { 3 })
                .header(header::PREFIX_HASH, start.hash().to_string());
            answer.body(stream(&stage, &streamed, start, usage)).unwrap()
        }
    })
}

fn done() -> Frame<Bytes> {
    Frame::data(Bytes::from_static(b": x\n\ndata: [DONE]\n\n"))
}

fn broken<T>() -> io::Result<T> {
    Err(io::Error::other("on purpose"))
}

fn whole(text: String) -> Body {
    Full::from(text).map_err(|never| match never {}).boxed()
}

/// Tells when nobody wants the rest.
struct Wanted(Arc<Stage>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.tell_left();
    }
}

impl Stage {
    fn tell_left(&self) {
        if let Some(left) = self.left.lock().unwrap().take() {
            let _ = left.send(());
        }
    }
}

fn endless(stage: &Arc<Stage>, mut position: StreamPosition, events: usize) -> Body {
    let wanted = Wanted(stage.clone());
    let text = "x".repeat(1_000);
    let frames = std::iter::repeat_with(move || {
        let id = position.release(vec![1]);
        let event = format!(
            "id: {id}\ndata: {{\"id\":\"chatcmpl-x\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
        );
        wanted.0.sent.fetch_add(event.len(), Relaxed);
        Ok(Frame::data(Bytes::from(event)))
    });
    BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames.take(events))))
}

fn parts_of(stage: &Arc<Stage>, parts: &[&'static [u8]], breaks: bool) -> Body {
    let (send, frames) = mpsc::unbounded_channel();
    for part in parts {
        send.send(Ok(Frame::data(Bytes::from_static(part)))).unwrap();
    }
    if breaks {
        let stage = stage.clone();
        tokio::spawn(async move {
            stage.cue.notified().await;
            let _ = send.send(broken());
        });
    }
    BodyExt::boxed(StreamBody::new(UnboundedReceiverStream::new(frames)))
}

/// The events of an answer from some position on, each in a frame of its own; `[DONE]` is not among them.
fn frames(act: &Act, mut position: StreamPosition, usage: bool) -> Vec<Frame<Bytes>> {
    let begun = position.position() as usize;
    let mut frames = Vec::new();
    let chunk = |fields: &str| {
        format!(r#"{{"id":"chatcmpl-x","object":"chat.completion.chunk","created":1,"model":"m",{fields}}}"#)
    };
    let event = |id: EventId, data: String| Frame::data(Bytes::from(format!("id: {id}\ndata: {data}\n\n")));
    for (at, text) in TEXTS.iter().enumerate().skip(begun) {
        if *act == Act::Corrupt(frames.len()) {
            position = StreamPosition::start(PrefixHash::of_prompt(&[9]));
        }
        let finish = if at + 1 == TEXTS.len() { r#""stop""# } else { "null" };
        let choices =
            format!(r#""choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{finish}}}]"#);
        frames.push(event(position.release(vec![at as u32]), chunk(&choices)));
    }
    if usage {
        let tokens = position.position();
        let usage = format!(
            r#""choices":[],"usage":{{"prompt_tokens":3,"completion_tokens":{tokens},"total_tokens":{}}}"#,
            tokens + 3
        );
        frames.push(event(position.release(Vec::new()), chunk(&usage)));
    }
    frames
}

fn stream(stage: &Arc<Stage>, act: &Act, start: StreamPosition, usage: bool) -> Body {
    match act {
        Act::Endless => return endless(stage, start, usize::MAX),
        Act::OneMore => return endless(stage, start, 1),
        _ => {}
    }
    let (send, body) = mpsc::unbounded_channel();
    let mut frames = frames(act, start, usage);
    let count = match act {
        Act::BreakAfter(count)
        | Act::DieAfter(count)
        | Act::EndAfter(count)
        | Act::GiveUpAfter(count)
        | Act::HangAfter(count)
        | Act::WaitAfter(count) => (*count).min(frames.len()),
        _ => frames.len(),
    };
    let later = frames.split_off(count);
    frames.into_iter().for_each(|frame| send.send(Ok(frame)).unwrap());
    match act {
        // At once, so that the reset is likely to overtake the head.
        Act::BreakAfter(0) => send.send(broken()).unwrap(),
        Act::BreakAfter(_) => {
            let stage = stage.clone();
            tokio::spawn(async move {
                stage.cue.notified().await;
                let _ = send.send(broken());
            });
        }
        Act::DieAfter(_) => {
            let stage = stage.clone();
            tokio::spawn(async move {
                stage.cue.notified().await;
                stage.dies.notify_waiters();
                send.closed().await;
            });
        }
        Act::EndAfter(_) => {}
        Act::GiveUpAfter(_) => {
            let error = "data: {\"error\":{\"message\":\"no\"}}\n\n";
            send.send(Ok(Frame::data(Bytes::from_static(error.as_bytes())))).unwrap();
        }
        Act::HangAfter(_) => {
            let stage = stage.clone();
            tokio::spawn(async move {
                send.closed().await;
                stage.tell_left();
            });
        }
        Act::WaitAfter(_) => {
            let stage = stage.clone();
            tokio::spawn(async move {
                stage.cue.notified().await;
                for frame in later.into_iter().chain([done()]) {
                    let _ = send.send(Ok(frame));
                }
            });
        }
        _ => send.send(Ok(done())).unwrap(),
    }
    BodyExt::boxed(StreamBody::new(UnboundedReceiverStream::new(body)))
}
