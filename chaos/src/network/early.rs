//! What a client sends before its connection is open.
//!
//! The kernel of this host accepts a connection at once, long before a handshake could have crossed the link. The
//! client's first bytes are kept here until it has.

use crate::network::socket::read;
use bytes::Bytes;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

pub(super) struct Early {
    pub(super) segments: VecDeque<Bytes>,
    /// The client has sent everything.
    is_whole: bool,
    bytes: usize,
    patience: Pin<Box<Sleep>>,
}

impl Early {
    pub(super) fn new() -> Self {
        Self {
            segments: VecDeque::new(),
            is_whole: false,
            bytes: 0,
            patience: Box::pin(sleep(HANDSHAKE_MAX)),
        }
    }

    /// Reads what comes; ready when there is nobody any more to open a connection for.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, client: &TcpStream) -> Poll<()> {
        while !self.is_whole && self.bytes < EARLY_BYTES_MAX {
            match read(client, context, EARLY_BYTES_MAX - self.bytes) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(bytes)) if bytes.is_empty() => {
                    self.is_whole = true;
                    let left = Instant::now() + GIVEN_UP_AFTER;
                    let deadline = self.patience.deadline().min(left);
                    self.patience.as_mut().reset(deadline);
                }
                Poll::Ready(Ok(bytes)) => {
                    self.bytes += bytes.len();
                    self.segments.push_back(bytes);
                }
            }
        }
        self.patience.as_mut().poll(context)
    }
}

/// More than a TLS hello or the head of a request; who sends more waits for the handshake.
const EARLY_BYTES_MAX: usize = 64 << 10;
/// Linux gives up a connection that nobody answers after so long.
const HANDSHAKE_MAX: Duration = Duration::from_secs(127);
/// A client that has closed before the handshake is done may only have said everything; one that still has no
/// connection much later was closed for good. Clients that try again and again behind a cut must not pile up.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(10);
