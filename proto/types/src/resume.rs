//! What an edge says of a stream that broke and shall go on elsewhere: one JSON line, and after it the client's body
//! byte for byte.

use crate::event::PrefixHash;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// `{"path":…,"position":…,"token_ids":[…],"hash":"…","seed":…}`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeLine {
    /// The endpoint that was asked in the first place.
    pub path: String,
    /// All tokens that were released, in order; their number is the position.
    pub token_ids: Vec<u32>,
    /// hₙ as the edge knows it. The answering side says its own in the head of its answer.
    pub hash: PrefixHash,
    /// As in the `rhumb-seed` header; a seed in the client's body wins over both.
    pub seed: u64,
}

/// A body that resumes nothing. The message never quotes the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadResume {
    #[error("the first line does not end within {LINE_BYTES_MAX} bytes")]
    NoLine,
    #[error("the first line is not what the internal protocol says")]
    Malformed,
    #[error("{tokens} token ids do not make up the position {position}")]
    Position { position: u64, tokens: usize },
    #[error("more than {TOKENS_MAX} tokens")]
    TooMany,
}

impl ResumeLine {
    /// Tokens that were released.
    pub fn position(&self) -> u64 {
        self.token_ids.len() as u64
    }

    /// False where [`ResumeLine::split`] would refuse it: such a stream cannot be resumed.
    pub fn is_bounded(tokens: usize) -> bool {
        tokens <= TOKENS_MAX
    }

    /// The line and its end. The client's body follows it on the wire.
    pub fn to_line(&self) -> Vec<u8> {
        let wire = Wire {
            path: self.path.as_str().into(),
            position: self.position(),
            token_ids: self.token_ids.as_slice().into(),
            hash: self.hash.to_string().into(),
            seed: self.seed,
        };
        let mut line = serde_json::to_vec(&wire).expect("strings and numbers always serialise");
        line.push(b'\n');
        line
    }

    /// The line, and the client's body.
    pub fn split(body: &[u8]) -> Result<(Self, &[u8]), BadResume> {
        let within = &body[..body.len().min(LINE_BYTES_MAX)];
        let end = within.iter().position(|byte| *byte == b'\n').ok_or(BadResume::NoLine)?;
        let wire: Wire<'_> = serde_json::from_slice(&body[..end]).map_err(|_| BadResume::Malformed)?;
        let Wire { path, position, token_ids, hash, seed } = wire;
        if token_ids.len() > TOKENS_MAX {
            return Err(BadResume::TooMany);
        }
        if token_ids.len() as u64 != position {
            return Err(BadResume::Position { position, tokens: token_ids.len() });
        }
        let hash = hash.parse().map_err(|_| BadResume::Malformed)?;
        let line = Self { path: path.into_owned(), token_ids: token_ids.into_owned(), hash, seed };
        Ok((line, &body[end + 1..]))
    }
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
    position: u64,
    token_ids: Cow<'a, [u32]>,
    #[serde(borrow)]
    hash: Cow<'a, str>,
    seed: u64,
}

/// The longest context of the models we know. No vocabulary has a million entries, so ids have six digits at most and
/// the line always fits its bound.
const TOKENS_MAX: usize = 1 << 17;
/// What agent and engine admit beyond a client's own 32 MiB.
pub const LINE_BYTES_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(token_ids: Vec<u32>) -> ResumeLine {
        let hash = PrefixHash::of_prompt(&token_ids);
        ResumeLine { path: "/v1/completions".to_owned(), token_ids, hash, seed: 7 }
    }

    fn refused(text: &str) -> BadResume {
        ResumeLine::split(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn the_line_is_what_the_contract_says() {
        let found = String::from_utf8(line(vec![17, 204]).to_line()).unwrap();
        let hash = PrefixHash::of_prompt(&[17, 204]);
        let wanted = r#"{"path":"/v1/completions","position":2,"token_ids":[17,204],"hash":"HASH","seed":7}"#;
        assert_eq!(found, wanted.replace("HASH", &hash.to_string()) + "\n");
    }

    #[test]
    fn a_line_that_cannot_be_meant_is_refused() {
        let good = String::from_utf8(line(vec![1, 2]).to_line()).unwrap();
        assert_eq!(refused(""), BadResume::NoLine);
        assert_eq!(refused(good.trim_end()), BadResume::NoLine);
        assert_eq!(refused(&(" ".repeat(LINE_BYTES_MAX) + &good)), BadResume::NoLine);
        for (from, to) in [
            ("[1,2]", "[1,-2]"),
            ("[1,2]", "[1,2.0]"),
            ("[1,2]", "[1,4294967296]"),
            ("\"seed\":7", "\"seed\":7,\"seed\":7"),
            ("\"seed\":7", "\"seed\":-1"),
            (",\"seed\":7", ""),
            ("\"hash\":\"", "\"hash\":\"0"),
        ] {
            assert_eq!(refused(&good.replace(from, to)), BadResume::Malformed, "{to}");
        }
        let three = good.replace("\"position\":2", "\"position\":3");
        assert_eq!(refused(&three), BadResume::Position { position: 3, tokens: 2 });
    }

    #[test]
    fn the_longest_answer_fits_and_one_token_more_does_not() {
        let longest = line(vec![999_999; TOKENS_MAX]);
        assert_eq!(ResumeLine::split(&longest.to_line()).map(|(found, _)| found), Ok(longest));
        let too_many = line(vec![1; TOKENS_MAX + 1]);
        assert!(ResumeLine::is_bounded(TOKENS_MAX) && !ResumeLine::is_bounded(TOKENS_MAX + 1));
        assert_eq!(ResumeLine::split(&too_many.to_line()), Err(BadResume::TooMany));
    }

    proptest! {
        #[test]
        fn lines_go_there_and_back_and_leave_the_body_alone(
            path: String, token_ids: Vec<u32>, seed: u64, body: Vec<u8>,
        ) {
            let line = ResumeLine { path, seed, ..line(token_ids) };
            let sent = [line.to_line(), body.clone()].concat();
            prop_assert_eq!(ResumeLine::split(&sent), Ok((line, body.as_slice())));
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            bytes: Vec<u8>, cut in any::<prop::sample::Index>(), byte: u8,
        ) {
            let _ = ResumeLine::split(&bytes);
            let mut sent = line(vec![1, 2, 3]).to_line();
            let at = cut.index(sent.len());
            sent[at] = byte;
            let _ = ResumeLine::split(&sent);
        }
    }
}
