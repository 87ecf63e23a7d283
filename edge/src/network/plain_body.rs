//! Where the body of an HTTP/1.1 answer ends, and what of the bytes is body. Pure.

use std::ops::Range;

/// What is left of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked(Chunk),
    /// The body ends with the connection.
    UntilClose,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Before the line with a chunk's length.
    Size,
    Data(u64),
    /// Before the line break after a chunk.
    DataEnd,
    /// Lines after the last chunk; so many more bytes of them are taken.
    Trailers(usize),
    End,
}

/// What a look at the bytes that have come says. Ranges and counts begin at the first of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A piece of the body.
    Data(Range<usize>),
    /// So many bytes are dealt with; it goes on with bytes that have not come.
    More(usize),
    /// The body ends after so many bytes.
    End(usize),
}

/// Framing that nobody should guess at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadFraming {
    #[error("the answer's length is not one number")]
    Length,
    #[error("the answer's transfer coding is not chunked alone, or comes with a length")]
    Coding,
    #[error("a chunk does not begin with its length")]
    ChunkSize,
    #[error("a chunk is not as long as it says")]
    ChunkEnd,
    #[error("there are more than {TRAILER_BYTES_MAX} bytes of trailers")]
    Trailers,
}

impl Framing {
    pub(super) fn of(status: u16, headers: &[httparse::Header<'_>]) -> Result<Self, BadFraming> {
        let mut length = None;
        let mut is_chunked = false;
        for header in headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                let found = number(header.value.trim_ascii(), 10).ok_or(BadFraming::Length)?;
                if length.is_some_and(|length| length != found) {
                    return Err(BadFraming::Length);
                }
                length = Some(found);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if is_chunked || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(BadFraming::Coding);
                }
                is_chunked = true;
            }
        }
        match (status, length, is_chunked) {
            (204 | 304, ..) => Ok(Self::Length(0)),
            (_, Some(_), true) => Err(BadFraming::Coding),
            (_, Some(length), false) => Ok(Self::Length(length)),
            (_, None, true) => Ok(Self::Chunked(Chunk::Size)),
            (_, None, false) => Ok(Self::UntilClose),
        }
    }

    pub(super) fn ends_with_connection(&self) -> bool {
        *self == Self::UntilClose
    }

    /// Takes up what comes next in `bytes`.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Result<Step, BadFraming> {
        match self {
            Self::Length(0) => Ok(Step::End(0)),
            Self::Length(left) => Ok(piece(left, bytes, 0)),
            Self::UntilClose if bytes.is_empty() => Ok(Step::More(0)),
            Self::UntilClose => Ok(Step::Data(0..bytes.len())),
            Self::Chunked(chunk) => chunk.step(bytes),
        }
    }
}

impl Chunk {
    fn step(&mut self, bytes: &[u8]) -> Result<Step, BadFraming> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            match self {
                Self::Size => {
                    let Some(line) = line(rest, SIZE_LINE_BYTES_MAX).ok_or(BadFraming::ChunkSize)? else {
                        return Ok(Step::More(at));
                    };
                    at += line.len() + 2;
                    // What follows a semicolon are extensions, which nobody uses.
                    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
                    let size = number(digits.trim_ascii_end(), 16).ok_or(BadFraming::ChunkSize)?;
                    *self = if size > 0 { Self::Data(size) } else { Self::Trailers(TRAILER_BYTES_MAX) };
                }
                Self::Data(0) => *self = Self::DataEnd,
                Self::Data(left) => return Ok(piece(left, rest, at)),
                Self::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        at += 2;
                        *self = Self::Size;
                    }
                    [] | [b'\r'] => return Ok(Step::More(at)),
                    _ => return Err(BadFraming::ChunkEnd),
                },
                Self::Trailers(left) => {
                    let Some(line) = line(rest, *left).ok_or(BadFraming::Trailers)? else {
                        return Ok(Step::More(at));
                    };
                    at += line.len() + 2;
                    match line.is_empty() {
                        true => *self = Self::End,
                        false => *left = left.saturating_sub(line.len() + 2),
                    }
                }
                Self::End => return Ok(Step::End(at)),
            }
        }
    }
}

fn piece(left: &mut u64, bytes: &[u8], at: usize) -> Step {
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    if taken == 0 {
        return Step::More(at);
    }
    *left -= taken as u64;
    Step::Data(at..at + taken)
}

/// The bytes before the next line break; inner `None` = it has not come yet. Outer `None` = the line is too long or
/// ends in a bare line feed.
fn line(bytes: &[u8], most: usize) -> Option<Option<&[u8]>> {
    match memchr::memchr(b'\n', bytes) {
        Some(end) => Some(Some(bytes[..end].strip_suffix(b"\r").filter(|line| line.len() <= most)?)),
        None if bytes.len() > most + 1 => None,
        None => Some(None),
    }
}

/// Digits alone: no sign, no space, nothing that wraps around.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let fits = text.chars().all(|digit| digit.is_digit(radix));
    if fits { u64::from_str_radix(text, radix).ok() } else { None }
}

/// A length and a few extensions.
const SIZE_LINE_BYTES_MAX: usize = 256;
const TRAILER_BYTES_MAX: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// The body that comes of a stream of bytes cut into pieces; `None` where its end is missing.
    fn body(mut framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, Option<usize>), BadFraming> {
        let (mut held, mut body, mut left) = (Vec::new(), Vec::new(), pieces.iter());
        loop {
            match framing.step(&held)? {
                Step::Data(range) => {
                    body.extend_from_slice(&held[range.clone()]);
                    held.drain(..range.end);
                }
                Step::End(skipped) => return Ok((body, Some(held.len() - skipped))),
                Step::More(skipped) => {
                    held.drain(..skipped);
                    let Some(piece) = left.next() else { return Ok((body, None)) };
                    held.extend_from_slice(piece);
                }
            }
        }
    }

    fn chunked() -> Framing {
        Framing::Chunked(Chunk::Size)
    }

    #[test]
    fn any_cut_gives_the_same_body() {
        let wire = b"4\r\nwiki\r\n00a;x=\"y\"\r\npedia \r\nin\r\n0\r\nexpires: never\r\n\r\nmore";
        let whole = body(chunked(), &[wire]).unwrap();
        assert_eq!(whole, (b"wikipedia \r\nin".to_vec(), Some(4)));
        for cut in 0..=wire.len() {
            let (left, right) = wire.split_at(cut);
            // What comes after the end is seen only if it came with the end.
            assert_eq!(body(chunked(), &[left, right]).unwrap().0, whole.0, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(body(chunked(), &bytes).unwrap(), (whole.0, Some(0)));
        assert_eq!(body(Framing::Length(3), &[b"ab", b"cd"]).unwrap(), (b"abc".to_vec(), Some(1)));
        assert_eq!(body(Framing::Length(3), &[b"ab"]).unwrap(), (b"ab".to_vec(), None));
    }

    #[test]
    fn broken_chunks_are_no_body() {
        let long_line = [b"1".as_slice(), &[b';'; 300]].concat();
        let trailers = [b"0\r\n".as_slice(), &b"a: b\r\n".repeat(2_000)].concat();
        for (wire, why) in [
            (b"\r\n".as_slice(), BadFraming::ChunkSize),
            (b"-1\r\nx", BadFraming::ChunkSize),
            (b"+1\r\nx", BadFraming::ChunkSize),
            (b"0x1\r\nx", BadFraming::ChunkSize),
            (b" 1\r\nx", BadFraming::ChunkSize),
            (b"1\nx", BadFraming::ChunkSize),
            (b"10000000000000000\r\n", BadFraming::ChunkSize),
            (&long_line, BadFraming::ChunkSize),
            (b"1\r\nxy", BadFraming::ChunkEnd),
            (b"1\r\nx\n", BadFraming::ChunkEnd),
            (&trailers, BadFraming::Trailers),
        ] {
            assert_eq!(
                body(chunked(), &[wire]),
                Err(why),
                "{}",
                String::from_utf8_lossy(&wire[..wire.len().min(40)])
            );
        }
    }

    #[test]
    fn an_answer_has_one_end() {
        let of = |status, headers: &[(&'static str, &'static str)]| {
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| httparse::Header { name, value: value.as_bytes() })
                .collect();
            Framing::of(status, &headers)
        };
        assert_eq!(of(200, &[("Content-Length", "7")]), Ok(Framing::Length(7)));
        assert_eq!(of(200, &[("content-length", "7"), ("content-length", "7")]), Ok(Framing::Length(7)));
        assert_eq!(of(200, &[("Transfer-Encoding", "Chunked")]), Ok(chunked()));
        assert_eq!(of(200, &[]), Ok(Framing::UntilClose));
        assert_eq!(of(204, &[]), Ok(Framing::Length(0)));
        for length in ["-1", "+1", "1, 1", "0x1", "", "99999999999999999999"] {
            assert_eq!(of(200, &[("content-length", length)]), Err(BadFraming::Length), "{length}");
        }
        assert_eq!(of(200, &[("content-length", "1"), ("content-length", "2")]), Err(BadFraming::Length));
        for coding in ["gzip, chunked", "identity", "chunked, chunked"] {
            assert_eq!(of(200, &[("transfer-encoding", coding)]), Err(BadFraming::Coding), "{coding}");
        }
        let both = of(200, &[("content-length", "1"), ("transfer-encoding", "chunked")]);
        assert_eq!(both, Err(BadFraming::Coding));
    }
}
