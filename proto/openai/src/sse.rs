//! Server-sent events: a writer, and a framer that gives out whole events only.
//!
//! A stream may be cut anywhere, also inside an event; what was not followed by an empty line never happened.

use std::fmt::Display;

/// The data that ends every complete stream.
pub const DONE: &[u8] = b"[DONE]";

/// Adds one event: an `id` line where there is one, then the data, which must not contain a line break.
pub fn write_event(out: &mut Vec<u8>, id: Option<&dyn Display>, data: &[u8]) {
    use std::io::Write;
    if let Some(id) = id {
        writeln!(out, "id: {id}").expect("memory takes every write");
    }
    out.reserve(data.len() + b"data: \n\n".len());
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

/// Adds a comment, which every client skips.
pub fn write_comment(out: &mut Vec<u8>, text: &dyn Display) {
    use std::io::Write;
    write!(out, ": {text}\n\n").expect("memory takes every write");
}

/// One whole event or comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Event<'a> {
    pub id: Option<&'a [u8]>,
    /// The last `data` line; engines send exactly one.
    pub data: Option<&'a [u8]>,
    pub comment: Option<&'a [u8]>,
}

/// An event longer than the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {EVENT_BYTES_MAX} bytes")]
pub struct EventTooLong;

/// Cuts a byte stream into events.
#[derive(Debug, Default)]
pub struct Framer {
    held: Vec<u8>,
    /// Where the first event that was not yet given out begins.
    begin: usize,
    /// Up to here there is no end of that event.
    scanned: usize,
}

impl Framer {
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), EventTooLong> {
        self.held.drain(..self.begin);
        self.scanned -= self.begin;
        self.begin = 0;
        if self.held.len() + bytes.len() > EVENT_BYTES_MAX + READ_BYTES_MAX {
            return Err(EventTooLong);
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole event, if it has arrived.
    pub fn next_event(&mut self) -> Option<Event<'_>> {
        let mut line_end = self.scanned;
        loop {
            let Some(found) = memchr::memchr(b'\n', &self.held[line_end..]) else {
                self.scanned = self.held.len();
                return None;
            };
            line_end += found;
            let end = match self.held.get(line_end + 1..) {
                Some([b'\n', ..]) => line_end + 2,
                Some([b'\r', b'\n', ..]) => line_end + 3,
                Some([] | [b'\r']) => {
                    // Whether this line is the event's last shows with the next bytes.
                    self.scanned = line_end;
                    return None;
                }
                _ => {
                    line_end += 1;
                    continue;
                }
            };
            let begin = std::mem::replace(&mut self.begin, end);
            self.scanned = end;
            return Some(parse(&self.held[begin..line_end]));
        }
    }
}

fn parse(mut lines: &[u8]) -> Event<'_> {
    let mut event = Event::default();
    while !lines.is_empty() {
        let end = memchr::memchr(b'\n', lines).unwrap_or(lines.len());
        let line = lines[..end].strip_suffix(b"\r").unwrap_or(&lines[..end]);
        lines = lines.get(end + 1..).unwrap_or_default();
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let value = &line[colon + 1..];
        let value = Some(value.strip_prefix(b" ").unwrap_or(value));
        match &line[..colon] {
            b"data" => event.data = value,
            b"id" => event.id = value,
            b"" => event.comment = value,
            _ => {}
        }
    }
    event
}

/// One token's event is some 300 bytes; tool calls may carry a document.
const EVENT_BYTES_MAX: usize = 1 << 20;
/// What one read may add beyond the bound before events are taken out.
const READ_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<(Option<String>, Option<String>, Option<String>)> {
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let mut framer = Framer::default();
        let mut all = Vec::new();
        for piece in pieces {
            framer.push(piece).unwrap();
            while let Some(event) = framer.next_event() {
                all.push((text(event.id), text(event.data), text(event.comment)));
            }
        }
        all
    }

    #[test]
    fn any_cut_gives_the_same_events() {
        for line_end in ["\n", "\r\n"] {
            let stream =
                "id: 1:2:ab\ndata: {\"a\":1}\n\n: rhumb-load x\n\ndata:[DONE]\n\n".replace('\n', line_end);
            let whole = events(&[stream.as_bytes()]);
            assert_eq!(whole.len(), 3);
            assert_eq!(whole[0], (Some("1:2:ab".into()), Some("{\"a\":1}".into()), None));
            assert_eq!(whole[1].2.as_deref(), Some("rhumb-load x"));
            assert_eq!(whole[2].1.as_deref(), Some("[DONE]"));
            for cut in 0..=stream.len() {
                let (left, right) = stream.as_bytes().split_at(cut);
                assert_eq!(events(&[left, right]), whole, "cut at {cut}");
            }
            let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
            assert_eq!(events(&bytes), whole);
        }
    }

    #[test]
    fn half_an_event_never_comes_out() {
        assert_eq!(events(&[b"data: {\"a\":1}\n"]), []);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut framer = Framer::default();
        let piece = vec![b'x'; 1 << 16];
        let refused = (0..64).find(|_| framer.next_event().is_some() || framer.push(&piece).is_err());
        assert!(refused.is_some());
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        write_event(&mut out, Some(&"5::00"), b"{}");
        write_comment(&mut out, &"bye");
        assert_eq!(events(&[&out]).len(), 2);
        assert_eq!(out, b"id: 5::00\ndata: {}\n\n: bye\n\n");
    }
}
