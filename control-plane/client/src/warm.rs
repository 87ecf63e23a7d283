//! A connection to a member that is made before it is needed, and again whenever it broke.
//!
//! Elections cannot wait for one: over 200 ms there and back, TCP and TLS take longer than a vote may. So a task holds
//! the connection, and a call while there is none fails at once instead of making one.

use crate::dial::{CONNECTION_WINDOW, Dialer, KEEP_ALIVE, STREAM_WINDOW};
use crate::members::MemberAddress;
use http::Uri;
use http::uri::{Authority, Scheme};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tracing::debug;

/// What a gRPC client calls through. Cheap to clone; the connection ends with the last clone.
#[derive(Clone)]
pub struct WarmChannel(watch::Receiver<Option<SendRequest<Body>>>);

impl WarmChannel {
    pub(crate) fn hold(dialer: Dialer, member: MemberAddress) -> Self {
        let (connected, follow) = watch::channel(None);
        tokio::spawn(async move {
            tokio::select! {
                () = hold(&dialer, &member, &connected) => {}
                () = connected.closed() => {}
            }
        });
        Self(follow)
    }
}

/// One connection after the other, for ever.
async fn hold(dialer: &Dialer, member: &MemberAddress, connected: &watch::Sender<Option<SendRequest<Body>>>) {
    loop {
        match connect(dialer, member).await {
            Ok((requests, connection)) => {
                debug!(member = member.server_name, "connected ahead of need");
                connected.send_replace(Some(requests));
                let ended = connection.await;
                connected.send_replace(None);
                debug!(member = member.server_name, ?ended, "the connection is over");
            }
            Err(error) => {
                debug!(
                    member = member.server_name,
                    error = &error as &dyn std::error::Error,
                    "not connected"
                );
            }
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
}

async fn connect(
    dialer: &Dialer,
    member: &MemberAddress,
) -> io::Result<(SendRequest<Body>, impl Future<Output = hyper::Result<()>>)> {
    let stream = TokioIo::new(dialer.connect(member).await?);
    let mut settings = http2::Builder::new(TokioExecutor::new());
    settings
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    settings.handshake(stream).await.map_err(io::Error::other)
}

impl tower::Service<http::Request<Body>> for WarmChannel {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let requests = self.0.borrow().clone();
        Box::pin(async move {
            let mut requests = requests.ok_or_else(|| Status::unavailable("there is no connection"))?;
            let response = requests.send_request(absolute(request)).await;
            response.map(|response| response.map(Body::new)).map_err(|error| broken(&error))
        })
    }
}

/// gRPC clients name a path alone; HTTP/2 wants to know of which server.
fn absolute(request: http::Request<Body>) -> http::Request<Body> {
    let (mut head, body) = request.into_parts();
    let mut uri = head.uri.into_parts();
    (uri.scheme, uri.authority) = (Some(Scheme::HTTP), Some(Authority::from_static("control-plane")));
    head.uri = Uri::from_parts(uri).expect("a path is there, and nothing else was missing");
    http::Request::from_parts(head, body)
}

fn broken(error: &hyper::Error) -> Status {
    Status::unavailable(format!("the connection broke: {error}"))
}

/// A member that returns is connected to after this and some round trips; one that is away costs four tries a second.
const BETWEEN_TRIES: Duration = Duration::from_millis(250);
