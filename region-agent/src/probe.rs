//! One question to an engine on loopback: is it ready, is it alive, how loaded is it?

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    #[error("the answer cannot be read")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within {PATIENCE:?}")]
    Late,
}

/// On a connection of its own, so that an answer proves that the engine still accepts any.
pub async fn get(address: SocketAddr, path: &'static str) -> Result<Response<Bytes>, Unanswered> {
    tokio::time::timeout(PATIENCE, ask(address, path)).await.map_err(|_| Unanswered::Late)?
}

async fn ask(address: SocketAddr, path: &'static str) -> Result<Response<Bytes>, Unanswered> {
    let stream = TcpStream::connect(address).await.map_err(Unanswered::Connect)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(Unanswered::Broken)?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static(path);
    let host = HeaderValue::from_str(&address.to_string()).expect("an address is visible ASCII");
    request.headers_mut().insert(HOST, host);
    let answer = async {
        let answer = sender.send_request(request).await.map_err(Unanswered::Broken)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        Ok(Response::from_parts(head, body.map_err(Unanswered::Unreadable)?.to_bytes()))
    };
    // Driven here rather than in a task, so that giving up closes the connection.
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = connection => match ended {
            Err(error) => Err(Unanswered::Broken(error)),
            // Closed in good order: the answer is complete, or says what is missing.
            Ok(()) => answer.await,
        },
    }
}

/// An engine on loopback answers in a millisecond. With the supervisor's interval and its three misses, one that hangs
/// is found within 1.4 s, and its streams are cut and go on elsewhere.
pub const PATIENCE: Duration = Duration::from_millis(350);
const ANSWER_MAX: usize = 64 * 1024;
