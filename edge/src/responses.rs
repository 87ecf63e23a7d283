//! Gives a client of `/v1/responses` the answer to its chat as a response.
//!
//! It stands between all that is ever written to a client and its connection, so that attempts, resumes, comments and
//! in-band errors are those of every other chat.

use bytes::Bytes;
use openai::BrokenAnswer;
use openai::responses::{Echo, ResponseStream};
use openai::sse::{Framer, write_comment};

pub(crate) struct Translation {
    chat: Framer,
    response: ResponseStream,
}

impl Translation {
    pub(crate) fn new(echo: Echo) -> Self {
        Self { chat: Framer::default(), response: ResponseStream::new(echo) }
    }

    /// The events that follow from the chat's next bytes.
    pub(crate) fn events(&mut self, chat: &[u8]) -> Bytes {
        let mut events = Vec::new();
        for piece in chat.chunks(PIECE_BYTES) {
            if self.chat.push(piece).is_err() {
                // What the response cannot read ends it, loudly.
                self.response.event(b"", &mut events);
                break;
            }
            while let Some(event) = self.chat.next_event() {
                if let Some(comment) = event.comment {
                    write_comment(&mut events, &String::from_utf8_lossy(comment));
                }
                if let Some(data) = event.data {
                    self.response.event(data, &mut events);
                }
            }
        }
        events.into()
    }

    /// A whole answer.
    pub(crate) fn whole(self, chat: &[u8]) -> Result<Bytes, BrokenAnswer> {
        self.response.whole(chat).map(Bytes::from)
    }
}

/// Well below what a framer takes at once, whatever was gathered for one write.
const PIECE_BYTES: usize = 256 << 10;
