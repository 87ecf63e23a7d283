//! Receives a request: first the head, then, once it is known who asks, the whole body.

use crate::admit::BodyBytes;
use crate::answer::Stop;
use crate::network::client::Client;
use crate::refusal::Refusal;
use bytes::{Bytes, BytesMut};
use openai::Endpoint;
use std::time::Duration;

/// What a path and a method ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Generate(Endpoint),
    /// A chat by the Responses API.
    Respond,
    /// One of [`openai::opaque::PATHS`].
    PassOn(&'static str),
    ListModels,
    ShowModel(String),
}

/// The one normal form of a path, for authorisation and routing alike: as it was sent, or not at all.
pub(crate) fn head(client: &Client) -> Result<Target, Refusal> {
    if !client.names_its_host() {
        return Err(Refusal::NoHost);
    }
    target(client.method(), client.path())
}

fn target(method: &str, path: &str) -> Result<Target, Refusal> {
    let post = |target| match method {
        "POST" => Ok(target),
        _ => Err(Refusal::WrongMethod { allowed: "POST" }),
    };
    let get = |target| match method {
        "GET" | "HEAD" => Ok(target),
        _ => Err(Refusal::WrongMethod { allowed: "GET, HEAD" }),
    };
    match path {
        "/v1/chat/completions" => post(Target::Generate(Endpoint::Chat)),
        "/v1/completions" => post(Target::Generate(Endpoint::Completions)),
        "/v1/responses" => post(Target::Respond),
        "/v1/models" => get(Target::ListModels),
        _ if let Some(path) = openai::opaque::path(path) => post(Target::PassOn(path)),
        _ => match path.strip_prefix("/v1/models/").and_then(percent_decoded) {
            Some(model) if !model.is_empty() => get(Target::ShowModel(model)),
            _ => Err(Refusal::UnknownPath { path: path.chars().take(PATH_SHOWN_MAX).collect() }),
        },
    }
}

/// Model names may hold a slash, which SDKs send as `%2F`.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// What the client says its body is: JSON, unless it says otherwise.
pub(crate) fn content_type(client: &Client) -> Result<String, Refusal> {
    let Some(kind) = client.header("content-type") else { return Ok("application/json".to_owned()) };
    let kind = std::str::from_utf8(kind).ok().filter(|kind| {
        kind.len() <= CONTENT_TYPE_BYTES_MAX && kind.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    });
    kind.map(str::to_owned).ok_or(Refusal::ContentType)
}

/// The whole body, in one piece: an attempt may need it again from its first byte.
pub(crate) async fn body(client: &mut Client, mut held: BodyBytes) -> Result<(Bytes, BodyBytes), Stop> {
    if let Some(encoding) = client.header("content-encoding").filter(|encoding| *encoding != b"identity") {
        let encoding = String::from_utf8_lossy(encoding).chars().take(ENCODING_SHOWN_MAX).collect();
        return Err(Refusal::Encoded { encoding }.into());
    }
    let codings = client.header("transfer-encoding");
    if let Some(codings) = codings.filter(|codings| !codings.eq_ignore_ascii_case(b"chunked")) {
        let encoding = String::from_utf8_lossy(codings).chars().take(ENCODING_SHOWN_MAX).collect();
        return Err(Refusal::Encoded { encoding }.into());
    }
    let announced = announced_length(client);
    if announced > BODY_BYTES_MAX {
        return Err(Refusal::BodyTooLarge.into());
    }
    held.grow(announced)?;
    client.invite_body().await?;
    let receive = async {
        let mut body = BytesMut::with_capacity(announced.min(FIRST_CAPACITY));
        while let Some(part) = client.read_body().await? {
            if body.len() + part.len() > BODY_BYTES_MAX {
                return Err(Stop::from(Refusal::BodyTooLarge));
            }
            body.extend_from_slice(&part);
            held.grow(body.len())?;
        }
        Ok(body.freeze())
    };
    // Pingora bounds the time between two reads only, so a drip would hold its memory for hours.
    let body = tokio::time::timeout(BODY_DEADLINE, receive).await;
    let body = body.unwrap_or(Err(Refusal::BodyTooSlow(BODY_DEADLINE).into()))?;
    Ok((body, held))
}

/// Reads a body that is all here: at once where that is short work, else beside the streams that this thread carries.
pub(crate) async fn read<T: Send + 'static>(body: &Bytes, read: fn(&[u8]) -> T) -> T {
    if body.len() <= READ_AT_ONCE_BYTES {
        return read(body);
    }
    let body = body.clone();
    match tokio::task::spawn_blocking(move || read(&body)).await {
        Ok(read) => read,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // This thread ends, and the request with it.
            Err(_) => std::future::pending().await,
        },
    }
}

fn announced_length(client: &Client) -> usize {
    let length = client.header("content-length").and_then(|length| std::str::from_utf8(length).ok());
    // A length that does not fit a number is certainly too long.
    length.map_or(0, |length| length.trim().parse().unwrap_or(usize::MAX))
}

/// A conversation with a few images fits. The bound is on what one request may hold of the edge's memory.
pub(crate) const BODY_BYTES_MAX: usize = 32 << 20;
/// 32 MiB at 2 Mbit/s.
const BODY_DEADLINE: Duration = Duration::from_secs(140);
/// An announcement alone claims no more memory than this; the rest comes with the bytes.
const FIRST_CAPACITY: usize = 1 << 20;
/// About half a millisecond's work.
const READ_AT_ONCE_BYTES: usize = 256 << 10;
/// A form's boundary is 70 at most.
const CONTENT_TYPE_BYTES_MAX: usize = 256;
const PATH_SHOWN_MAX: usize = 128;
const ENCODING_SHOWN_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_as_sent_or_not_at_all() {
        let chat = Target::Generate(Endpoint::Chat);
        assert_eq!(target("POST", "/v1/chat/completions"), Ok(chat));
        assert_eq!(target("GET", "/v1/models/meta%2FLlama"), Ok(Target::ShowModel("meta/Llama".into())));
        assert_eq!(target("POST", "/v1/rerank"), Ok(Target::PassOn("/v1/rerank")));
        let wrong = Err(Refusal::WrongMethod { allowed: "POST" });
        for path in ["/v1/chat/completions", "/v1/responses", "/v1/embeddings"] {
            assert_eq!(target("BREW", path), wrong, "{path}");
        }
        for path in [
            "/",
            "//v1/chat/completions",
            "/v1/chat/completions/",
            "/v1/../v1/chat/completions",
            "/V1/chat/completions",
            "/v1/responses/resp_1",
            "/v1/images",
            "/v1/chat%2Fcompletions",
            "/v1/models/",
            "/v1/models/%zz",
            "/v1/models/%ff",
            "/v1/models/%+f",
        ] {
            assert!(matches!(target("POST", path), Err(Refusal::UnknownPath { .. })), "{path}");
        }
    }
}
