//! A request's body on its way to an engine: bounded, and remembered how it ended.
//!
//! The engine's connection only knows that "the body failed". Whether the edge sent too much, went away, or all
//! arrived and the engine itself is at fault decides what the edge is told, so the fate is kept beside the body.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};

pub struct Upload {
    body: Incoming,
    left: u64,
    fate: Fate,
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("the body is longer than {BODY_MAX} bytes")]
    TooLarge,
    #[error("the edge stopped sending")]
    Broken(#[source] hyper::Error),
}

/// How a body ended, for whoever sent it on.
#[derive(Clone)]
pub struct Fate(Arc<AtomicU8>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    NotYet,
    Whole,
    TooLarge,
    Broken,
}

impl Upload {
    pub fn new(body: Incoming) -> Result<(Self, Fate), UploadError> {
        // A length that is announced is refused before an engine is bothered.
        if body.size_hint().lower() > BODY_MAX {
            return Err(UploadError::TooLarge);
        }
        let fate = Fate(Arc::new(AtomicU8::new(Ended::NotYet as u8)));
        if body.is_end_stream() {
            fate.is(Ended::Whole);
        }
        Ok((Self { body, left: BODY_MAX, fate: fate.clone() }, fate))
    }
}

impl Fate {
    pub fn ended(&self) -> Ended {
        let ended = self.0.load(Ordering::Acquire);
        [Ended::Whole, Ended::TooLarge, Ended::Broken]
            .into_iter()
            .find(|known| *known as u8 == ended)
            .unwrap_or(Ended::NotYet)
    }

    /// The body gives no reason why an answer should not have come.
    pub fn is_the_engine_s_fault(&self) -> bool {
        matches!(self.ended(), Ended::NotYet | Ended::Whole)
    }

    fn is(&self, ended: Ended) {
        self.0.store(ended as u8, Ordering::Release);
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => {
                    self.fate.is(Ended::Whole);
                    return Poll::Ready(None);
                }
                Some(Err(error)) => {
                    self.fate.is(Ended::Broken);
                    return Poll::Ready(Some(Err(UploadError::Broken(error))));
                }
                Some(Ok(frame)) => frame,
            };
            // Trailers mean nothing here, and HTTP/1.1 engines stumble over them.
            let Ok(data) = frame.into_data() else { continue };
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                self.fate.is(Ended::TooLarge);
                return Poll::Ready(Some(Err(UploadError::TooLarge)));
            };
            self.left = left;
            if self.body.is_end_stream() {
                self.fate.is(Ended::Whole);
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Edges accept 32 MiB from clients; the slack is for what they put around a body that resumes a stream.
pub const BODY_MAX: u64 = 33 * 1024 * 1024;
