//! Accepts connections, bounds their number, and finds out which protocol each speaks.

use super::client::Client;
use super::slots::{Holder, Slot, Slots};
use super::socket::{Socket, read_some};
use super::tls::HttpsAcceptor;
use super::workers::Workers;
use super::{HEAD_DEADLINE, http1, http2, proxy_header};
use crate::metrics::Metrics;
use bytes::BytesMut;
use futures_util::FutureExt;
use pingora_core::protocols::{ALPN, Stream};
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Answers requests, one call each; shared by all connections.
pub(crate) trait Answer: Send + Sync + 'static {
    fn answer(&self, client: &mut Client) -> impl Future<Output = ()> + Send;
}

/// What all connections of an edge share.
pub(crate) struct Listener<A> {
    pub(crate) answerer: A,
    pub(crate) metrics: Arc<Metrics>,
    /// Finish what has begun, take no further request.
    pub(crate) drain: CancellationToken,
    pub(crate) connections: TaskTracker,
    workers: Workers,
    slots: Slots,
    /// These say who the client is, by a PROXY header. Nobody else's first bytes are taken for one.
    balancers: Vec<IpAddr>,
}

impl<A: Answer> Listener<A> {
    pub(crate) fn new(
        answerer: A,
        metrics: Arc<Metrics>,
        drain: CancellationToken,
        balancers: Vec<IpAddr>,
        workers: Workers,
    ) -> Arc<Self> {
        let (connections, slots) = (TaskTracker::new(), Slots::new(metrics.connections.clone()));
        Arc::new(Self { answerer, metrics, drain, connections, workers, slots, balancers })
    }

    /// Accepts until the drain begins.
    pub(crate) async fn accept(self: Arc<Self>, socket: TcpListener, tls: Option<HttpsAcceptor>) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.drain.cancelled() => return,
                accepted = socket.accept() => accepted,
            };
            let Ok((stream, from)) = accepted else {
                // Mostly too many open files: some will close, and spinning would not help them.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // A socket for both families sees IPv4 addresses in the clothes of the other.
            let from = SocketAddr::new(from.ip().to_canonical(), from.port());
            let is_balancer = self.balancers.contains(&from.ip());
            let holder = if is_balancer { Holder::Unnamed } else { Holder::Address(from.ip()) };
            let Some(mut slot) = self.slots.take(holder) else {
                self.metrics.connections_refused.inc();
                continue;
            };
            // It was heard of by this thread's runtime, and shall be by another.
            let Ok(stream) = stream.into_std() else { continue };
            let (listener, tls, seat) = (self.clone(), tls.clone(), self.workers.seat());
            let runtime = seat.runtime().clone();
            let connection = async move {
                let Ok(mut stream) = TcpStream::from_std(stream) else { return };
                let client = match is_balancer {
                    true => listener.client_behind(from, &mut stream, &mut slot).await,
                    false => Some(from),
                };
                let Some(client) = client else { return };
                // A broken connection is the client's business; there is nobody left to tell.
                let _ = listener.serve(Socket::new(stream, client), tls).await;
                drop((slot, seat));
            };
            self.connections.spawn_on(connection, &runtime);
        }
    }

    /// The client whom a balancer speaks for; itself when it names none. `None` = its connection must end.
    async fn client_behind(
        &self,
        balancer: SocketAddr,
        stream: &mut TcpStream,
        slot: &mut Slot,
    ) -> Option<SocketAddr> {
        let client = match proxy_header::read(stream).await {
            Ok(client) => client.unwrap_or(balancer),
            Err(error) => {
                if let Some(reason) = error.reason() {
                    self.metrics.proxy_headers_refused.with_label_values(&[reason]).inc();
                }
                return None;
            }
        };
        if !slot.name(client.ip()) {
            self.metrics.connections_refused.inc();
            return None;
        }
        Some(client)
    }

    /// `None` = the connection broke before it said what it wants.
    async fn serve(self: &Arc<Self>, socket: Socket, tls: Option<HttpsAcceptor>) -> Option<()> {
        let Some(tls) = tls else {
            let mut socket = socket;
            let mut ahead = BytesMut::new();
            let speaks_h2 = tokio::time::timeout(HEAD_DEADLINE, is_h2_preface(&mut socket, &mut ahead));
            if speaks_h2.await.ok()?? {
                socket.put_back(ahead);
                Box::pin(http2::serve(self, Box::new(socket))).await;
            } else {
                http1::serve(self, Box::new(socket), ahead).await;
            }
            return Some(());
        };
        let stream = tokio::time::timeout(HEAD_DEADLINE, Box::pin(tls.0.tls_handshake(socket)));
        let stream = stream.await.ok()?.ok()?;
        let stream: Stream = Box::new(stream);
        if stream.selected_alpn_proto() == Some(ALPN::H2) {
            Box::pin(http2::serve(self, stream)).await;
        } else {
            http1::serve(self, stream, BytesMut::new()).await;
        }
        Some(())
    }

    /// Answers one request. False: the connection must end, since the answer may have stopped half-way.
    pub(super) async fn answer(&self, client: &mut Client) -> bool {
        let _in_flight = self.metrics.requests_in_flight.guard();
        // On the heap for as long as it runs: a connection that waits for its next request must not hold the room of one.
        let answered = AssertUnwindSafe(Box::pin(self.answerer.answer(client))).catch_unwind().await;
        if answered.is_err() {
            self.metrics.panics.inc();
            tracing::error!("a request panicked; the others go on");
            Box::pin(client.refuse_after_panic()).await;
        }
        client.is_reusable()
    }
}

/// Whether the first bytes are HTTP/2 by prior knowledge; all that was read stays in `ahead`.
async fn is_h2_preface(socket: &mut Socket, ahead: &mut BytesMut) -> Option<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    loop {
        if read_some(socket, ahead).await.ok()? == 0 {
            return None;
        }
        let seen = ahead.len().min(PREFACE.len());
        if ahead[..seen] != PREFACE[..seen] {
            return Some(false);
        }
        if seen == PREFACE.len() {
            return Some(true);
        }
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    struct Nobody;

    impl Answer for Nobody {
        async fn answer(&self, _client: &mut Client) {}
    }

    #[tokio::test]
    async fn a_connection_counts_for_whom_its_balancer_names() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let edge = socket.local_addr().unwrap();
        let (balancer, client) = (edge.ip(), IpAddr::from([203, 0, 113, 7]));
        let drain = CancellationToken::new();
        let (workers, _threads) = Workers::start().unwrap();
        let metrics = Arc::new(Metrics::new());
        let listener = Listener::new(Nobody, metrics, drain.clone(), vec![balancer], workers);
        let accepting = tokio::spawn(listener.clone().accept(socket, None));
        let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x07\xc0\x00\x02\x01\x12\x34\x01\xbb";
        let mut connection = TcpStream::connect(edge).await.unwrap();
        connection.write_all(header).await.unwrap();
        let until_held = async |count| {
            while listener.slots.held_by(client) != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(HEAD_DEADLINE, until_held(1)).await.expect("counts soon");
        assert_eq!(listener.slots.held_by(balancer), 0);
        drop(connection);
        tokio::time::timeout(HEAD_DEADLINE, until_held(0)).await.expect("given back soon");
        drain.cancel();
        accepting.await.unwrap();
    }
}
