//! Accepts connections, bounds their number, and finds out which protocol each speaks.

use super::client::Client;
use super::socket::Socket;
use super::tls::HttpsAcceptor;
use super::{HEAD_DEADLINE, http1, http2};
use crate::metrics::Metrics;
use bytes::BytesMut;
use futures_util::FutureExt;
use pingora_core::protocols::{ALPN, Stream};
use std::collections::HashMap;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
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
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl<A: Answer> Listener<A> {
    pub(crate) fn new(answerer: A, metrics: Arc<Metrics>, drain: CancellationToken) -> Arc<Self> {
        let connections = TaskTracker::new();
        Arc::new(Self { answerer, metrics, drain, connections, slots: Mutex::default() })
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
            let Some(slot) = Slot::take(&self, from.ip()) else {
                self.metrics.connections_refused.inc();
                continue;
            };
            let (listener, tls) = (self.clone(), tls.clone());
            self.connections.spawn(async move {
                let _slot = slot;
                // A broken connection is the client's business; there is nobody left to tell.
                let _ = listener.serve(Socket::new(stream), tls).await;
            });
        }
    }

    /// `None` = the connection broke before it said what it wants.
    async fn serve(self: &Arc<Self>, socket: Socket, tls: Option<HttpsAcceptor>) -> Option<()> {
        let Some(tls) = tls else {
            let mut socket = socket;
            let mut ahead = BytesMut::with_capacity(READ_AHEAD_BYTES);
            let speaks_h2 = tokio::time::timeout(HEAD_DEADLINE, is_h2_preface(&mut socket, &mut ahead));
            if speaks_h2.await.ok()?? {
                socket.put_back(ahead);
                http2::serve(self, Box::new(socket)).await;
            } else {
                http1::serve(self, Box::new(socket), ahead).await;
            }
            return Some(());
        };
        let stream = tokio::time::timeout(HEAD_DEADLINE, tls.0.tls_handshake(socket)).await.ok()?.ok()?;
        let stream: Stream = Box::new(stream);
        if stream.selected_alpn_proto() == Some(ALPN::H2) {
            http2::serve(self, stream).await;
        } else {
            http1::serve(self, stream, BytesMut::new()).await;
        }
        Some(())
    }

    /// Answers one request. False: the connection must end, since the answer may have stopped half-way.
    pub(super) async fn answer(&self, client: &mut Client) -> bool {
        let _in_flight = self.metrics.requests_in_flight.guard();
        let answered = AssertUnwindSafe(self.answerer.answer(client)).catch_unwind().await;
        if answered.is_err() {
            self.metrics.panics.inc();
            tracing::error!("a request panicked; the others go on");
            client.refuse_after_panic().await;
        }
        client.is_reusable()
    }
}

/// Whether the first bytes are HTTP/2 by prior knowledge; all that was read stays in `ahead`.
async fn is_h2_preface(socket: &mut Socket, ahead: &mut BytesMut) -> Option<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    loop {
        if socket.read_buf(ahead).await.ok()? == 0 {
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

/// The right to one connection, given back when it ends.
struct Slot<A> {
    listener: Arc<Listener<A>>,
    address: IpAddr,
}

impl<A> Slot<A> {
    fn take(listener: &Arc<Listener<A>>, address: IpAddr) -> Option<Self> {
        let mut slots = listener.slots.lock().expect("no holder of this lock panics");
        let total = slots.total;
        let from_here = slots.by_address.entry(address).or_default();
        if total >= CONNECTIONS_MAX || *from_here >= CONNECTIONS_PER_ADDRESS_MAX {
            if *from_here == 0 {
                slots.by_address.remove(&address);
            }
            return None;
        }
        *from_here += 1;
        slots.total += 1;
        listener.metrics.connections.inc();
        Some(Self { listener: listener.clone(), address })
    }
}

impl<A> Drop for Slot<A> {
    fn drop(&mut self) {
        let mut slots = self.listener.slots.lock().expect("no holder of this lock panics");
        slots.total -= 1;
        if let Some(count) = slots.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                slots.by_address.remove(&self.address);
            }
        }
        self.listener.metrics.connections.dec();
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const READ_AHEAD_BYTES: usize = 4096;
/// An idle one costs some 100 KiB of buffers, 2 GiB at the bound; one with many h2 streams a few MiB.
const CONNECTIONS_MAX: usize = 20_000;
/// Enough for a large service behind one address, too few for one address to take all.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 12_000;
