//! One request of a client, and the answer to it.

use crate::refusal::Refusal;
use crate::responses::Translation;
use bytes::Bytes;
use futures_util::FutureExt;
use openai::ErrorObject;
use openai::sse::write_event;
use pingora_core::ErrorType;
use pingora_core::protocols::http::ServerSession;
use pingora_http::{RequestHeader, ResponseHeader};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

/// The client left before its answer was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientGone;

/// Why a body did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyError {
    Gone,
    /// The client is there and sends nothing.
    Stalled,
    /// A broken chunk, for example.
    Malformed,
}

pub(crate) struct Client {
    /// On the heap, or else each future that it is handed through would hold room for one more.
    session: Box<ServerSession>,
    state: State,
    received: Pace,
    sent: Pace,
    /// Nobody knows where the body ends, nor where a next request would begin.
    lost_track: bool,
    /// Where the client speaks another API than what is written to it.
    translation: Option<Box<Translation>>,
}

/// How long a client may keep the edge waiting in all: a little, and more with each byte. A time-out that begins anew
/// with each byte would let it hold a request, and an engine, for hours.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was answered yet.
    Asked,
    Answering,
    Answered,
    /// What was sent is no whole answer.
    Broken,
}

impl Client {
    pub(super) fn new(mut session: Box<ServerSession>) -> Self {
        // For a stream whose window stays closed; `Socket` sees to connections that nobody reads, at less cost.
        if session.is_http2() {
            session.set_write_timeout(Some(WRITE_STALL_MAX));
        }
        session.set_read_timeout(Some(READ_STALL_MAX));
        Self {
            session,
            state: State::Asked,
            received: Pace::default(),
            sent: Pace::default(),
            lost_track: false,
            translation: None,
        }
    }

    pub(super) fn into_session(self) -> Box<ServerSession> {
        self.session
    }

    /// From here on the client gets its chat as something else.
    pub(crate) fn translate(&mut self, translation: Translation) {
        self.translation = Some(Box::new(translation));
    }

    /// Whether the connection may carry another request.
    pub(super) fn is_reusable(&self) -> bool {
        self.state == State::Answered && !self.lost_track
    }

    /// Whose request this is, as far as the network knows: the peer, or whom its balancer names.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.session.client_addr()?.as_inet().copied()
    }

    pub(crate) fn method(&self) -> &str {
        self.session.req_header().method.as_str()
    }

    pub(crate) fn path(&self) -> &str {
        self.session.req_header().uri.path()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        self.session.req_header().headers.get(name).map(http::HeaderValue::as_bytes)
    }

    /// Whether the request says which host it is for, as HTTP/1.1 demands.
    pub(crate) fn names_its_host(&self) -> bool {
        let head = self.session.req_header();
        head.version != http::Version::HTTP_11 || head.headers.contains_key("host")
    }

    /// Lets go of the request's headers, which a stream would hold for minutes after they were read.
    pub(crate) fn forget_headers(&mut self) {
        let head = self.session.req_header_mut();
        let stripped = RequestHeader::build_no_case(head.method.clone(), head.raw_path(), Some(0));
        if let Ok(mut stripped) = stripped {
            stripped.set_version(head.version);
            *head = stripped;
        }
    }

    /// Whether the head of an answer is out, and its status with it.
    pub(crate) fn has_begun(&self) -> bool {
        self.state != State::Asked
    }

    fn is_head_request(&self) -> bool {
        self.method() == "HEAD"
    }

    /// Tells a client that waits for it to send its body. HTTP/2 clients send without.
    pub(crate) async fn invite_body(&mut self) -> Result<(), ClientGone> {
        let waits =
            self.header("expect").is_some_and(|expected| expected.eq_ignore_ascii_case(b"100-continue"));
        if waits && !self.session.is_http2() {
            self.session.write_continue_response().await.map_err(|_| ClientGone)?;
        }
        Ok(())
    }

    /// The next part of the body; `None` at its end. After an error the connection ends with the answer.
    pub(crate) async fn read_body(&mut self) -> Result<Option<Bytes>, BodyError> {
        if self.session.is_body_done() {
            return Ok(None);
        }
        let read = self.read_part().await;
        if read.is_err() {
            self.lost_track = true;
            self.session.set_keepalive(None);
        }
        read
    }

    async fn read_part(&mut self) -> Result<Option<Bytes>, BodyError> {
        let began = Instant::now();
        // Pingora's own time-out is for HTTP/1 alone.
        let left = self.received.left(RECEIVE_WAIT_MAX).min(READ_STALL_MAX);
        let read = tokio::time::timeout(left, self.session.read_request_body()).await;
        let read = read.map_err(|_| BodyError::Stalled)?.map_err(|error| match error.etype() {
            ErrorType::ReadTimedout => BodyError::Stalled,
            ErrorType::ReadError | ErrorType::ConnectionClosed | ErrorType::H2Error => BodyError::Gone,
            _ => BodyError::Malformed,
        })?;
        self.received.took(began.elapsed(), read.as_ref().map_or(0, Bytes::len));
        Ok(read)
    }

    /// Waits until the client leaves. Only after its body was read. One that has sent bytes of a next request by
    /// HTTP/1.1 is not seen leaving before a write fails: pingora watches the read side no further.
    pub(crate) async fn gone(&mut self) -> ClientGone {
        while self.session.read_body_or_idle(true).await.is_ok() {}
        ClientGone
    }

    /// A whole answer in one go.
    pub(crate) async fn answer_json(
        &mut self,
        status: u16,
        request_id: &str,
        json: Bytes,
    ) -> Result<(), ClientGone> {
        self.answer_json_with(status, request_id, &[], json).await
    }

    /// As [`Self::answer_json`], with headers that say more of the answer.
    pub(crate) async fn answer_json_with(
        &mut self,
        status: u16,
        request_id: &str,
        more: &[(&'static str, &str)],
        json: Bytes,
    ) -> Result<(), ClientGone> {
        let json = match self.translation.take() {
            Some(translation) if status == 200 => match translation.whole(&json) {
                Ok(json) => json,
                Err(error) => {
                    tracing::warn!(request = request_id, %error, "a chat makes no response");
                    let refusal = Refusal::AttemptsFailed { attempts: 1, retry_after: None };
                    return self.refuse(&refusal, request_id).await;
                }
            },
            _ => json,
        };
        let headers = [&[JSON, ("x-request-id", request_id)], more].concat();
        self.answer(status, &headers, json).await
    }

    async fn answer(
        &mut self,
        status: u16,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<(), ClientGone> {
        let mut head = response_head(status, headers);
        let length = body.len().to_string();
        let body = if self.is_head_request() { Bytes::new() } else { body };
        head.insert_header("content-length", length).expect("digits are a header value");
        self.write_head(head).await?;
        self.write(body, true).await
    }

    /// The head of an answer that somebody else made.
    pub(crate) async fn begin(
        &mut self,
        status: u16,
        content_type: Option<&str>,
        length: Option<u64>,
        request_id: &str,
    ) -> Result<(), ClientGone> {
        let mut head = response_head(status, &[("x-request-id", request_id)]);
        if let Some(content_type) = content_type {
            head.insert_header("content-type", content_type).expect("it was a header value before");
        }
        if status == 204 {
            // It has no body, and RFC 9110, 8.6 and RFC 9112, 6.1 forbid it to say how long that is.
        } else if let Some(length) = length {
            head.insert_header("content-length", length.to_string()).expect("digits are a header value");
        } else if self.session.req_header().version == http::Version::HTTP_11 {
            head.insert_header("transfer-encoding", "chunked").expect("a header value");
        }
        self.write_head(head).await
    }

    /// The head of a stream of events, unless it is out already.
    pub(crate) async fn begin_events(&mut self, request_id: &str) -> Result<(), ClientGone> {
        if self.has_begun() {
            return Ok(());
        }
        let mut head =
            response_head(200, &[EVENTS, ("cache-control", "no-cache"), ("x-request-id", request_id)]);
        // An HTTP/1.0 client knows no chunks: its stream ends with the connection.
        if self.session.req_header().version == http::Version::HTTP_11 {
            head.insert_header("transfer-encoding", "chunked").expect("a header value");
        }
        self.write_head(head).await
    }

    /// A part of a stream.
    pub(crate) async fn write(&mut self, mut part: Bytes, last: bool) -> Result<(), ClientGone> {
        if let Some(translation) = &mut self.translation {
            part = translation.events(&part);
            // An empty part would end an answer by chunks.
            if part.is_empty() && !last {
                return Ok(());
            }
        }
        let length = part.len();
        let mut writing = pin!(self.session.write_response_body(part, last));
        // Mostly there is room at once, and nothing to be timed.
        let (written, took) = match writing.as_mut().now_or_never() {
            Some(written) => (written.is_ok(), Duration::ZERO),
            None => {
                let (began, left) = (Instant::now(), self.sent.left(WRITE_STALL_MAX));
                let written = tokio::time::timeout(left, writing).await;
                (matches!(written, Ok(Ok(_))), began.elapsed())
            }
        };
        if !written {
            self.state = State::Broken;
            return Err(ClientGone);
        }
        self.sent.took(took, length);
        if last {
            self.state = State::Answered;
        }
        Ok(())
    }

    /// Ends a stream that cannot be completed. SDKs take a clean end for success, so the error goes in-band, after
    /// the events that still came, and `[DONE]` is withheld.
    pub(crate) async fn end_events(&mut self, mut events: Vec<u8>, error: &str) -> Result<(), ClientGone> {
        write_event(&mut events, None, error.as_bytes());
        self.write(events.into(), true).await
    }

    pub(crate) async fn refuse(&mut self, refusal: &Refusal, request_id: &str) -> Result<(), ClientGone> {
        let (status, error) = refusal.to_client();
        let mut headers = vec![JSON, ("x-request-id", request_id)];
        let retry_after = refusal.retry_after().map(retry_after);
        if let Some([seconds, millis]) = &retry_after {
            headers.extend([("retry-after", seconds.as_str()), ("retry-after-ms", millis.as_str())]);
        }
        if let Some(allowed) = refusal.allowed_methods() {
            headers.push(("allow", allowed));
        }
        if !refusal.retry_helps() {
            headers.push(("x-should-retry", "false"));
        }
        self.answer(status, &headers, error.to_json().into()).await
    }

    /// Whatever was half done is lost; what had not begun gets an honest error.
    pub(super) async fn refuse_after_panic(&mut self) {
        if self.state == State::Asked {
            self.session.set_keepalive(None);
            let error = ErrorObject::new("the edge failed", "server_error", "internal_error");
            let _ = self.answer(500, &[JSON], error.to_json().into()).await;
        }
        self.state = State::Broken;
    }

    async fn write_head(&mut self, head: ResponseHeader) -> Result<(), ClientGone> {
        self.state = State::Answering;
        let written = self.session.write_response_header(Box::new(head)).await;
        written.map_err(|_| {
            self.state = State::Broken;
            ClientGone
        })
    }
}

impl Pace {
    fn left(&self, at_first: Duration) -> Duration {
        let earned = Duration::from_millis(self.bytes.saturating_mul(1000) / BYTES_PER_SECOND_MIN);
        (at_first + earned).saturating_sub(self.waited)
    }

    fn took(&mut self, time: Duration, bytes: usize) {
        self.waited += time;
        self.bytes += bytes as u64;
    }
}

/// The head could not be parsed, so there is no request to answer, only a connection.
pub(super) async fn refuse_unreadable(mut session: Box<ServerSession>) {
    let error = ErrorObject::new("the request is not valid HTTP", "invalid_request_error", "invalid_http");
    let body = Bytes::from(error.to_json());
    let mut head = response_head(400, &[JSON]);
    head.insert_header("content-length", body.len().to_string()).expect("digits are a header value");
    let _ = session.write_error_response(head, body).await;
    session.shutdown().await;
}

fn response_head(status: u16, headers: &[(&'static str, &str)]) -> ResponseHeader {
    let mut head = ResponseHeader::build(status, Some(headers.len() + 1)).expect("a status code");
    for (name, value) in headers {
        head.insert_header(*name, *value).expect("made by us, from visible ASCII");
    }
    head
}

/// Rounded up, in seconds and in milliseconds: who comes back too early is refused once more. SDKs go by the
/// milliseconds.
fn retry_after(wait: Duration) -> [String; 2] {
    [1_000_000_000, 1_000_000].map(|unit| wait.as_nanos().div_ceil(unit).to_string())
}

const EVENTS: (&str, &str) = ("content-type", "text/event-stream");
const JSON: (&str, &str) = ("content-type", "application/json");
/// As for a connection that nobody reads.
const WRITE_STALL_MAX: Duration = Duration::from_secs(30);
const READ_STALL_MAX: Duration = Duration::from_secs(30);
/// As for a head.
const RECEIVE_WAIT_MAX: Duration = Duration::from_secs(10);
/// A tenth of the slowest link that anybody would ask a model over.
const BYTES_PER_SECOND_MIN: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_drips_is_given_less_time_than_who_is_slow() {
        let time_of = |bytes: usize, every: Duration| {
            let (mut pace, mut time) = (Pace::default(), Duration::ZERO);
            while pace.left(RECEIVE_WAIT_MAX) >= every && time < Duration::from_secs(600) {
                pace.took(every, bytes);
                time += every;
            }
            time
        };
        assert_eq!(time_of(1, Duration::from_secs(1)), RECEIVE_WAIT_MAX);
        assert_eq!(time_of(2048, Duration::from_secs(1)), Duration::from_secs(600));
        // A large part at once earns no more than its own time.
        assert_eq!(time_of(0, Duration::from_secs(11)), Duration::ZERO);
    }

    #[test]
    fn no_client_is_told_to_come_back_too_early() {
        let told = |millis| retry_after(Duration::from_millis(millis));
        assert_eq!(told(1900), ["2", "1900"]);
        assert_eq!(told(2000), ["2", "2000"]);
        assert_eq!(retry_after(Duration::from_micros(1_000_001)), ["2", "1001"]);
    }
}
