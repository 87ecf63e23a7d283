//! Asks the other edges for what this one does not know: what became of a request that one of them had.

use futures_util::stream::{FuturesUnordered, StreamExt};
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use types::RequestId;

/// Their admin addresses.
pub(crate) struct OtherEdges {
    addresses: Vec<SocketAddr>,
    questions: Semaphore,
}

/// Why none of them told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Untold {
    #[error("no edge knows the request, or it is forgotten: not this one, nor the {0} others that it asks")]
    Unknown(usize),
    #[error("this edge does not know the request, or has forgotten it, and {}", Missing(.0))]
    Silent(Vec<(SocketAddr, Silence)>),
}

/// Why one of them gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Silence {
    #[error("nothing within {} ms", ANSWER_MAX.as_millis())]
    Late,
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("no usable HTTP: {0}")]
    Broken(hyper::Error),
    #[error("an answer that breaks off or is too long")]
    Unreadable,
    #[error("status {0}")]
    Refused(StatusCode),
}

struct Missing<'a>(&'a [(SocketAddr, Silence)]);

impl OtherEdges {
    pub(crate) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self { addresses, questions: Semaphore::new(QUESTIONS_MAX) }
    }

    /// The page of the first that has one.
    pub(crate) async fn explain(&self, id: RequestId) -> Result<Vec<u8>, Untold> {
        let ask = async |address| (address, self.ask(address, id).await);
        let mut answers: FuturesUnordered<_> = self.addresses.iter().copied().map(ask).collect();
        let mut silent = Vec::new();
        while let Some((address, answer)) = answers.next().await {
            match answer {
                Ok(Some(page)) => return Ok(page),
                Ok(None) => {}
                Err(silence) => silent.push((address, silence)),
            }
        }
        silent.sort_by_key(|(address, _)| *address);
        Err(if silent.is_empty() { Untold::Unknown(self.addresses.len()) } else { Untold::Silent(silent) })
    }

    async fn ask(&self, address: SocketAddr, id: RequestId) -> Result<Option<Vec<u8>>, Silence> {
        let asked = async {
            let _question = self.questions.acquire().await.expect("never closed");
            ask(address, id).await
        };
        tokio::time::timeout(ANSWER_MAX, asked).await.unwrap_or(Err(Silence::Late))
    }
}

/// `None` where the other one does not know it either. It asks nobody in turn: that would go round and round.
async fn ask(address: SocketAddr, id: RequestId) -> Result<Option<Vec<u8>>, Silence> {
    let stream = TcpStream::connect(address).await.map_err(Silence::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Silence::Broken)?;
    let request = Request::get(format!("/requests/{id}?only_here=true"))
        .header(HOST, address.to_string())
        .body(Empty::<&[u8]>::new())
        .expect("an id and an address are visible ASCII");
    let answer = async {
        let (head, body) = sender.send_request(request).await.map_err(Silence::Broken)?.into_parts();
        let body = Limited::new(body, PAGE_BYTES_MAX).collect().await.map_err(|_| Silence::Unreadable)?;
        match head.status {
            StatusCode::OK => Ok(Some(body.to_bytes().into())),
            StatusCode::NOT_FOUND => Ok(None),
            other => Err(Silence::Refused(other)),
        }
    };
    // Driven here rather than in a task, so that giving up closes the connection.
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = connection => match ended {
            Err(error) => Err(Silence::Broken(error)),
            Ok(()) => answer.await,
        },
    }
}

impl Display for Missing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("these other edges gave no answer: ")?;
        for (at, (address, silence)) in self.0.iter().enumerate() {
            write!(f, "{}{address} ({silence})", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Round the world and back three times; an operator waits for it.
const ANSWER_MAX: Duration = Duration::from_millis(1500);
/// Many times what the steps of one request take.
const PAGE_BYTES_MAX: usize = 256 << 10;
/// All others of the largest fleet at once; whoever asks often opens no more connections than that.
const QUESTIONS_MAX: usize = crate::config::OTHER_EDGES_MAX;
