//! Asks a role of the sandbox one thing over HTTP.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::request::Builder;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use types::ApiKey;

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("nothing listens on {0} yet")]
    Refused(SocketAddr),
    #[error("cannot connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("{0} gives no answer within {max} s", max = ANSWER_MAX.as_secs())]
    Slow(SocketAddr),
    #[error("{0} does not speak HTTP")]
    Http(SocketAddr, #[source] hyper::Error),
    #[error("the answer of {0} breaks off or is too long")]
    Body(SocketAddr, #[source] Box<dyn std::error::Error + Send + Sync>),
}

/// `GET` of a page.
pub async fn get(
    address: SocketAddr,
    path: &str,
    key: Option<&ApiKey>,
) -> Result<(StatusCode, Bytes), ProbeError> {
    ask(address, request(Method::GET, path, key), Bytes::new()).await
}

/// `POST` of JSON, as a client does it.
pub async fn post(
    address: SocketAddr,
    path: &str,
    key: &ApiKey,
    json: String,
) -> Result<(StatusCode, Bytes), ProbeError> {
    let request = request(Method::POST, path, Some(key)).header(CONTENT_TYPE, "application/json");
    ask(address, request, json.into()).await
}

fn request(method: Method, path: &str, key: Option<&ApiKey>) -> Builder {
    let request = Request::builder().method(method).uri(path);
    match key {
        Some(key) => request.header(AUTHORIZATION, format!("Bearer {}", key.reveal())),
        None => request,
    }
}

async fn ask(address: SocketAddr, request: Builder, body: Bytes) -> Result<(StatusCode, Bytes), ProbeError> {
    let request = request.header(HOST, address.to_string()).body(Full::new(body));
    let request = request.expect("path, address and key are plain text");
    tokio::time::timeout(ANSWER_MAX, exchange(address, request))
        .await
        .unwrap_or(Err(ProbeError::Slow(address)))
}

/// On a fresh connection, so that the answer comes from who listens now.
async fn exchange(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), ProbeError> {
    let stream = TcpStream::connect(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => ProbeError::Refused(address),
        _ => ProbeError::Connect(address, error),
    })?;
    let broken = |error| ProbeError::Http(address, error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driver = tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    let body =
        Limited::new(body, BODY_MAX).collect().await.map_err(|source| ProbeError::Body(address, source))?;
    driver.abort();
    Ok((head.status, body.to_bytes()))
}

/// A role on the same host answers in milliseconds, unless the host is very busy, or it asks other edges first, which
/// takes 1.5 s where one is silent.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// A list of replicas is a few hundred bytes for each.
const BODY_MAX: usize = 1 << 20;
