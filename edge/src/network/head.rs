//! What this edge takes for the head of an HTTP/1 request.
//!
//! Stricter than the parser behind it, and than the standard asks: whatever two parsers could read in two ways is
//! refused, so that nobody in front of the edge or behind it can be made to see other requests than it does.

/// Why a head is refused. The client is told, and its connection ends: where the next request would begin is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadHead {
    #[error("each line of the request head must end in CR LF")]
    LineEnd,
    #[error("the request must begin with `METHOD /target HTTP/1.1`")]
    RequestLine,
    #[error("a line of the request head is no `name: value`")]
    Field,
    #[error("a header goes over more than one line")]
    Folded,
    #[error("the request has more than {FIELDS_MAX} headers")]
    TooManyFields,
    #[error("`content-length` must be one number")]
    ContentLength,
    #[error("`transfer-encoding` must be `chunked` and nothing else")]
    TransferEncoding,
    #[error("`content-length` and `transfer-encoding` exclude each other")]
    TwoFramings,
    #[error("HTTP/1.0 has no `transfer-encoding`")]
    OldChunked,
    #[error("`host` is given more than once")]
    TwoHosts,
}

/// Where the head ends, if its blank line has come. Nothing before `from` ends it.
pub(super) fn end(bytes: &[u8], from: usize) -> Result<Option<usize>, BadHead> {
    for at in memchr::memchr_iter(b'\n', &bytes[from..]) {
        let at = from + at;
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(BadHead::LineEnd);
        }
        if at >= 3 && bytes[at - 2] == b'\n' {
            return Ok(Some(at + 1));
        }
    }
    Ok(None)
}

/// Checks a whole head, with its blank line.
pub(super) fn check(head: &[u8]) -> Result<(), BadHead> {
    // Some clients send an empty line after a body.
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let lines = head.strip_suffix(b"\r\n\r\n").ok_or(BadHead::LineEnd)?;
    let mut rest = Some(lines);
    let mut next = || {
        let lines = rest?;
        let Some(end) = memchr::memchr(b'\n', lines) else {
            // This one's end is what was taken off above.
            rest = None;
            return Some(Ok(lines));
        };
        rest = Some(&lines[end + 1..]);
        Some(lines[..end].strip_suffix(b"\r").ok_or(BadHead::LineEnd))
    };
    let is_old = request_line(next().unwrap_or(Ok(b""))?)?;
    let mut framing = Framing::default();
    let mut fields = 0;
    while let Some(line) = next() {
        fields += 1;
        if fields > FIELDS_MAX {
            return Err(BadHead::TooManyFields);
        }
        let (name, value) = field(line?)?;
        framing.hear(name, value)?;
    }
    match framing {
        Framing { chunked: true, length: true, .. } => Err(BadHead::TwoFramings),
        Framing { chunked: true, .. } if is_old => Err(BadHead::OldChunked),
        _ => Ok(()),
    }
}

/// Whether it is HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, BadHead> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(BadHead::RequestLine);
    };
    let is_target = !target.is_empty() && target.iter().all(u8::is_ascii_graphic);
    if !is_token(method) || !is_target {
        return Err(BadHead::RequestLine);
    }
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        _ => Err(BadHead::RequestLine),
    }
}

fn field(line: &[u8]) -> Result<(&[u8], &[u8]), BadHead> {
    if line.first().is_some_and(|first| matches!(first, b' ' | b'\t')) {
        return Err(BadHead::Folded);
    }
    let colon = memchr::memchr(b':', line).ok_or(BadHead::Field)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    // Octets beyond ASCII say nothing here, but old clients send them.
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    if !is_token(name) || value.iter().any(is_control) {
        return Err(BadHead::Field);
    }
    Ok((name, trimmed(value)))
}

/// What is known of a request's length.
#[derive(Default)]
struct Framing {
    host: bool,
    length: bool,
    chunked: bool,
}

impl Framing {
    fn hear(&mut self, name: &[u8], value: &[u8]) -> Result<(), BadHead> {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("host") && std::mem::replace(&mut self.host, true) {
            return Err(BadHead::TwoHosts);
        }
        if is("content-length") {
            // Also two that agree: whoever joins them differently sees another number.
            let is_number =
                (1..=LENGTH_DIGITS_MAX).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
            if !is_number || std::mem::replace(&mut self.length, true) {
                return Err(BadHead::ContentLength);
            }
        }
        if is("transfer-encoding") {
            let is_chunked = value.eq_ignore_ascii_case(b"chunked");
            if !is_chunked || std::mem::replace(&mut self.chunked, true) {
                return Err(BadHead::TransferEncoding);
            }
        }
        Ok(())
    }
}

fn is_token(text: &[u8]) -> bool {
    let is_token_byte = |byte: &u8| {
        matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.')
            || matches!(byte, b'^'..=b'`' | b'|' | b'~')
    };
    !text.is_empty() && text.iter().all(is_token_byte)
}

/// Without the blanks that may stand around a value; others are part of it.
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The largest browser sends some thirty.
const FIELDS_MAX: usize = 128;
/// What fits a `u64` whatever the digits are.
const LENGTH_DIGITS_MAX: usize = 19;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(fields: &str) -> Result<(), BadHead> {
        check(format!("POST /v1/x HTTP/1.1\r\n{fields}\r\n").as_bytes())
    }

    #[test]
    fn an_ordinary_head_is_taken() {
        for fields in [
            "host: a\r\n",
            "Host: a:80\r\nContent-Length: 17\r\n",
            "host:a\r\nTransfer-Encoding: Chunked \r\n",
            "host: a\r\nempty:\r\nuser-agent: caf\u{e9}\tx\r\nx_y: [\"q\"; {z}]\r\n",
            "",
        ] {
            assert_eq!(with(fields), Ok(()), "{fields}");
        }
        assert_eq!(check(b"GET http://a/v1/models HTTP/1.0\r\n\r\n"), Ok(()));
        assert_eq!(check(b"\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n"), Ok(()));
    }

    #[test]
    fn what_two_parsers_read_in_two_ways_is_refused() {
        for (fields, why) in [
            ("content-length: 5\r\ncontent-length: 6\r\n", BadHead::ContentLength),
            ("content-length: 5\r\nContent-Length: 5\r\n", BadHead::ContentLength),
            ("content-length: 5, 5\r\n", BadHead::ContentLength),
            ("content-length: +5\r\n", BadHead::ContentLength),
            ("content-length: -0\r\n", BadHead::ContentLength),
            ("content-length: 0x5\r\n", BadHead::ContentLength),
            ("content-length: 5 5\r\n", BadHead::ContentLength),
            ("content-length:\r\n", BadHead::ContentLength),
            ("content-length: 18446744073709551621\r\n", BadHead::ContentLength),
            ("content-length: 5\r\ntransfer-encoding: chunked\r\n", BadHead::TwoFramings),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", BadHead::TransferEncoding),
            ("transfer-encoding: gzip, chunked\r\n", BadHead::TransferEncoding),
            ("transfer-encoding: x,chunked\r\n", BadHead::TransferEncoding),
            ("transfer-encoding: xchunked\r\n", BadHead::TransferEncoding),
            ("transfer-encoding: \"chunked\"\r\n", BadHead::TransferEncoding),
            ("transfer-encoding: chunked;q=1\r\n", BadHead::TransferEncoding),
            ("transfer-encoding:\r\n", BadHead::TransferEncoding),
            ("transfer-encoding: \u{b}chunked\r\n", BadHead::Field),
            ("transfer-encoding : chunked\r\n", BadHead::Field),
            ("transfer-encoding\t: chunked\r\n", BadHead::Field),
            ("x: y\r\n transfer-encoding: chunked\r\n", BadHead::Folded),
            ("transfer-encoding:\r\n\tchunked\r\n", BadHead::TransferEncoding),
            ("x: y\rtransfer-encoding: chunked\r\n", BadHead::Field),
            ("x: a\0b\r\n", BadHead::Field),
            (": x\r\n", BadHead::Field),
            ("no colon\r\n", BadHead::Field),
            ("host: a\r\nhost: a\r\n", BadHead::TwoHosts),
            ("x: y\ncontent-length: 5\r\n", BadHead::LineEnd),
        ] {
            assert_eq!(with(fields), Err(why), "{fields:?}");
        }
        let lines = [
            "GET /",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET / HTTP/2.0",
            "GET /\u{1} HTTP/1.1",
            "G:T / HTTP/1.1",
            " / HTTP/1.1",
            "GET / http/1.1",
            "GET /\u{e9} HTTP/1.1",
        ];
        for line in lines {
            assert_eq!(check(format!("{line}\r\n\r\n").as_bytes()), Err(BadHead::RequestLine), "{line}");
        }
        let old = b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(check(old), Err(BadHead::OldChunked));
        assert_eq!(with(&"x: y\r\n".repeat(FIELDS_MAX)), Ok(()));
        assert_eq!(with(&"x: y\r\n".repeat(FIELDS_MAX + 1)), Err(BadHead::TooManyFields));
    }

    #[test]
    fn a_head_ends_at_its_blank_line_however_it_is_cut() {
        let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        assert_eq!(end(head, 0), Ok(Some(head.len())));
        for cut in 0..head.len() {
            assert_eq!(end(&head[..cut], 0), Ok(None));
            assert_eq!(end(head, cut), Ok(Some(head.len())));
        }
        for bare in [&b"GET / HTTP/1.1\n"[..], b"\n", b"a\r\nb\r\n\n", b"a\r\nb\n\r\n"] {
            assert_eq!(end(bare, 0), Err(BadHead::LineEnd));
        }
    }

    /// Mostly what heads are made of, so that much of it is nearly right.
    fn nearly_a_head() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(vec![
            &b"GET / HTTP/1.1"[..],
            b"POST",
            b" ",
            b"/x",
            b"HTTP/1.0",
            b"\r\n",
            b"\r\n",
            b"\n",
            b"\r",
            b":",
            b"host",
            b"a",
            b"content-length",
            b"5",
            b"+",
            b",",
            b"transfer-encoding",
            b"chunked",
            b"\t",
            b"\0",
            b"\xff",
            b"\r\n\r\n",
        ]);
        prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
    }

    proptest! {
        /// What is taken here has one reading: httparse, which pingora uses and which forgives much, sees the same
        /// fields, and no more than one length.
        #[test]
        fn whatever_is_taken_has_one_reading(head in nearly_a_head()) {
            let Ok(Some(at)) = end(&head, 0) else { return Ok(()) };
            for cut in 0..at {
                prop_assert!(!matches!(end(&head[..cut], 0), Ok(Some(_))));
                prop_assert_eq!(end(&head, cut.min(at)), Ok(Some(at)));
            }
            let head = &head[..at];
            if check(head).is_err() { return Ok(()) }
            let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
            let mut request = httparse::Request::new(&mut fields);
            let parsed = request.parse(head).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(parsed, httparse::Status::Complete(head.len()));
            let of = |name: &str| request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
            prop_assert!(of("content-length") + of("transfer-encoding") <= 1 && of("host") <= 1);
            let lines = head.iter().filter(|byte| **byte == b'\n').count();
            let before = usize::from(head.starts_with(b"\r\n"));
            prop_assert_eq!(request.headers.len(), lines - 2 - before);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = end(&bytes, 0);
            let _ = check(&bytes);
        }
    }
}
