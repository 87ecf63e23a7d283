//! An engine's answer on its way to the edge.
//!
//! However it ends, the seat is given back. An answer that breaks off is an error of the body, which resets the
//! stream: an edge must never take a dead engine for a finished one.

use crate::engine::{Connection, Engine};
use crate::load_comment::LoadComments;
use crate::metrics::Outcome;
use crate::upload::{Ended, Fate};
use crate::visit::Visit;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

pub struct Relay {
    body: Incoming,
    /// None once the answer has ended.
    exchange: Option<Exchange>,
    visit: Visit,
    /// Only an event stream carries comments.
    comments: Option<LoadComments>,
}

/// One request on one engine, from the head of its answer on.
pub struct Exchange {
    pub engine: Arc<Engine>,
    pub connection: Connection,
    pub upload: Fate,
    /// What a whole answer counts as.
    pub outcome: Outcome,
}

/// The engine died in the middle of its answer.
#[derive(Debug, thiserror::Error)]
#[error("the engine broke off its answer")]
pub struct BrokenOff(#[source] hyper::Error);

impl Relay {
    pub fn new(body: Incoming, exchange: Exchange, visit: Visit, is_event_stream: bool) -> Self {
        let comments = is_event_stream.then(LoadComments::default);
        let mut relay = Self { body, exchange: Some(exchange), visit, comments };
        if relay.body.is_end_stream() {
            relay.end();
        }
        relay
    }

    fn end(&mut self) {
        let Some(exchange) = self.exchange.take() else { return };
        self.visit.ends(exchange.outcome);
        // An engine that answered without reading the whole body is not ready for another request.
        if exchange.upload.ended() == Ended::Whole {
            exchange.connection.finish();
        }
    }

    fn break_off(&mut self, error: hyper::Error) -> BrokenOff {
        if let Some(exchange) = self.exchange.take() {
            self.visit.ends(Outcome::Broken);
            // While the seat is still taken, so that the next in line does not get it.
            if exchange.upload.is_the_engine_s_fault() {
                self.visit.node().slots.suspect(&exchange.engine);
            }
        }
        BrokenOff(error)
    }

    fn rewrite(&mut self, bytes: Bytes) -> Bytes {
        let (Some(comments), Some(exchange)) = (&mut self.comments, &self.exchange) else { return bytes };
        comments.pass(bytes, |engines| {
            exchange.engine.observe(engines);
            self.visit.node().load(exchange.engine.version).unwrap_or(engines)
        })
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(self.break_off(error)))),
                None => {
                    self.end();
                    let rest = self.comments.take().map(|mut comments| comments.rest()).unwrap_or_default();
                    return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))));
                }
            };
            let Ok(bytes) = frame.into_data() else { continue };
            let bytes = self.rewrite(bytes);
            // After the last byte of a known length nobody asks for more.
            if self.body.is_end_stream() && self.comments.is_none() {
                self.end();
            }
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_none() && self.comments.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // A load comment may change the length.
        if self.comments.is_some() { SizeHint::default() } else { self.body.size_hint() }
    }
}
