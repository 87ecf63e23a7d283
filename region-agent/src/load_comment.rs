//! Puts the node's load in the place of the engine's, in the closing comment of an event stream.
//!
//! An engine speaks for one replica and has a boot id of its own; an edge keeps one picture per node and version
//! and would take the other boot id for a restart. Everything else passes untouched, byte for byte.

use bytes::{Bytes, BytesMut};
use types::{LoadFrame, header};

/// Watches one stream. Holds back only what may become a load comment, which is never a line of data.
#[derive(Default)]
pub struct LoadComments {
    held: BytesMut,
    is_inside_line: bool,
}

impl LoadComments {
    /// Takes the next bytes of the stream and gives those that may go on.
    ///
    /// `ours` is told what the engine said and gives what the edge shall read instead.
    pub fn pass(&mut self, bytes: Bytes, mut ours: impl FnMut(LoadFrame) -> LoadFrame) -> Bytes {
        let bytes = if self.held.is_empty() {
            bytes
        } else {
            self.held.extend_from_slice(&bytes);
            self.held.split().freeze()
        };
        let mut changed = BytesMut::new();
        let mut passed = 0;
        let mut line = if self.is_inside_line { next_line(&bytes, 0) } else { Some(0) };
        self.is_inside_line = true;
        while let Some(start) = line {
            match look(&bytes[start..]) {
                Line::Comment { length, frame } => {
                    changed.extend_from_slice(&bytes[passed..start]);
                    changed
                        .extend_from_slice(format!(": {}{}", header::LOAD_COMMENT, ours(frame)).as_bytes());
                    passed = start + length;
                }
                Line::Unfinished => {
                    self.is_inside_line = false;
                    self.held.extend_from_slice(&bytes[start..]);
                    return join(changed, bytes.slice(passed..start));
                }
                Line::Other => {}
            }
            line = next_line(&bytes, start);
        }
        join(changed, bytes.slice(passed..))
    }

    /// What was held back when the stream ended.
    pub fn rest(&mut self) -> Bytes {
        self.held.split().freeze()
    }
}

enum Line {
    Comment {
        length: usize,
        frame: LoadFrame,
    },
    /// Perhaps a load comment; its end has not come yet. An empty line start counts: nothing is held for it.
    Unfinished,
    Other,
}

fn look(line: &[u8]) -> Line {
    if line.len() < BEGINNING.len() && BEGINNING.starts_with(line) {
        return Line::Unfinished;
    }
    let Some(text) = line.strip_prefix(BEGINNING) else { return Line::Other };
    let Some(end) = memchr::memchr(b'\n', text) else {
        return if line.len() > HELD_MAX { Line::Other } else { Line::Unfinished };
    };
    let frame = std::str::from_utf8(&text[..end]).ok().and_then(|text| text.parse().ok());
    // What cannot be read is not ours to judge; the edge skips comments it does not know.
    frame.map_or(Line::Other, |frame| Line::Comment { length: BEGINNING.len() + end, frame })
}

fn next_line(bytes: &[u8], from: usize) -> Option<usize> {
    memchr::memchr(b'\n', &bytes[from..]).map(|at| from + at + 1)
}

fn join(mut changed: BytesMut, rest: Bytes) -> Bytes {
    if changed.is_empty() {
        return rest;
    }
    changed.extend_from_slice(&rest);
    changed.freeze()
}

/// `: ` and [`header::LOAD_COMMENT`].
const BEGINNING: &[u8] = b": rhumb-load ";
/// A load frame has at most 1,024 bytes.
const HELD_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ENGINES: &str = "boot=1 seq=7 state=serving";

    fn ours(_: LoadFrame) -> LoadFrame {
        LoadFrame { boot: 0xa9e, ..Default::default() }
    }

    fn pass_all(chunks: &[&[u8]]) -> Vec<u8> {
        let mut comments = LoadComments::default();
        let mut out: Vec<u8> =
            chunks.iter().flat_map(|chunk| comments.pass(Bytes::copy_from_slice(chunk), ours)).collect();
        out.extend_from_slice(&comments.rest());
        out
    }

    #[test]
    fn the_beginning_is_the_contract_s() {
        assert_eq!(BEGINNING, format!(": {}", header::LOAD_COMMENT).as_bytes());
    }

    #[test]
    fn the_comment_is_replaced_and_nothing_else() {
        let stream = format!(
            "id: 1:2:3\ndata: {{\"a\":\": rhumb-load x\"}}\n\n: rhumb-load {ENGINES}\n\ndata: [DONE]\n\n"
        );
        let expected = stream.replace(ENGINES, &ours(LoadFrame::default()).to_string());
        assert_eq!(String::from_utf8(pass_all(&[stream.as_bytes()])).unwrap(), expected);
    }

    #[test]
    fn the_engine_s_frame_is_heard() {
        let mut heard = None;
        let comment = Bytes::from(format!(": rhumb-load {ENGINES}\n"));
        LoadComments::default().pass(comment, |frame| {
            heard = Some(frame);
            frame
        });
        assert_eq!(heard, Some(ENGINES.parse().unwrap()));
    }

    #[test]
    fn what_is_no_frame_passes() {
        let endless = format!(": rhumb-load {}", "x".repeat(10_000));
        for stream in [": rhumb-load nonsense\n\n", ": rhumb-lo", ": keep-alive\n\n", endless.as_str()] {
            assert_eq!(pass_all(&[stream.as_bytes()]), stream.as_bytes());
        }
    }

    #[test]
    fn a_token_is_never_held_back() {
        let mut comments = LoadComments::default();
        for event in ["id: 1:2:3\ndata: {}\n\n", "data: half", " of it\n", ": rhumb-load"] {
            let is_comment = event.starts_with(':');
            let passed = comments.pass(Bytes::from(event), ours);
            assert_eq!(passed.is_empty(), is_comment, "{event}");
        }
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(
            lines in prop::collection::vec(prop_oneof![
                Just(format!(": rhumb-load {ENGINES}\n")),
                Just("\n".to_owned()),
                "(: rhumb-load |: |data: |:)?[a-z: \n]{0,12}\n",
            ], 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let stream = lines.concat();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<_> = cuts.windows(2).map(|ends| &stream.as_bytes()[ends[0]..ends[1]]).collect();
            let whole = pass_all(&[stream.as_bytes()]);
            prop_assert_eq!(pass_all(&chunks), whole.clone());
            let lines: Vec<_> = stream.split('\n').map(|line| match line.strip_prefix(": rhumb-load ") {
                Some(frame) if frame.parse::<LoadFrame>().is_ok() =>
                    format!(": rhumb-load {}", ours(LoadFrame::default())),
                _ => line.to_owned(),
            }).collect();
            // A comment that the stream's end cuts off stays as it is.
            if stream.ends_with('\n') {
                prop_assert_eq!(whole, lines.join("\n").into_bytes());
            }
        }
    }
}
