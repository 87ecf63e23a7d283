//! An engine's stand-in.

use super::within;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse;
use futures_util::stream;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// A server that does what the test says, request by request.
pub struct StandIn {
    pub address: SocketAddr,
    pub arrivals: mpsc::Receiver<Arrival>,
}

/// A request that has reached an engine.
pub struct Arrival {
    pub from: SocketAddr,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Body,
    pub answer: oneshot::Sender<Response<Body>>,
}

impl StandIn {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (arrive, arrivals) = mpsc::channel(8);
        let handler = async move |ConnectInfo(from): ConnectInfo<SocketAddr>, request: Request<Body>| {
            let (head, body) = request.into_parts();
            let (answer, answered) = oneshot::channel();
            let path = head.uri.path().to_owned();
            let _ = arrive.send(Arrival { from, path, headers: head.headers, body, answer }).await;
            answered.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
        };
        let router = axum::Router::new().fallback(handler);
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self { address, arrivals }
    }

    pub async fn next(&mut self) -> Arrival {
        within(self.arrivals.recv()).await.unwrap()
    }
}

impl Arrival {
    pub async fn text(&mut self) -> String {
        let body = std::mem::take(&mut self.body);
        String::from_utf8(within(body.collect()).await.unwrap().to_bytes().to_vec()).unwrap()
    }

    pub fn answer(self, answer: Response<Body>) {
        let _ = self.answer.send(answer);
    }

    /// Answers with a stream that the test writes; closing the sender ends it, an error breaks it off.
    pub fn answer_stream(self) -> mpsc::Sender<io::Result<&'static str>> {
        let (write, written) = mpsc::channel(8);
        let chunks = stream::unfold(written, async |mut written| Some((written.recv().await?, written)));
        let answer = Response::builder().header("content-type", "text/event-stream");
        self.answer(answer.body(Body::from_stream(chunks)).unwrap());
        write
    }
}
