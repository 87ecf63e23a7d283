//! Requests on an HTTP/1.1 connection, one after the other.

use super::client::{Client, refuse_unreadable};
use super::head::{self, BadHead};
use super::listen::{Answer, Listener};
use super::socket::read_some;
use super::{HEAD_BYTES_MAX, HEAD_DEADLINE, IDLE_MAX};
use bytes::BytesMut;
use openai::ErrorObject;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

/// Serves the connection to its end. `ahead` was read already.
pub(super) async fn serve<A: Answer>(listener: &Listener<A>, stream: Stream, ahead: BytesMut) {
    let mut next = Some((stream, ahead));
    while let Some((stream, ahead)) = next {
        next = serve_one(listener, stream, ahead).await;
    }
}

/// One request; what is left of the connection if it may be used again.
async fn serve_one<A: Answer>(
    listener: &Listener<A>,
    mut stream: Stream,
    mut ahead: BytesMut,
) -> Option<(Stream, BytesMut)> {
    if ahead.is_empty() {
        await_first_byte(listener, &mut stream, &mut ahead).await?;
    }
    // Pingora's time-outs are per read and its bound is a megabyte, so the head is gathered here.
    match timeout(HEAD_DEADLINE, gather_head(&mut stream, &mut ahead)).await {
        Ok(Ok(())) => {}
        Ok(Err(HeadError::Gone)) => return None,
        Ok(Err(HeadError::TooLarge)) => {
            let message = format!("the request head is larger than {HEAD_BYTES_MAX} bytes");
            return refuse(stream, TOO_LARGE, &message, "head_too_large").await;
        }
        Ok(Err(HeadError::Bad(bad @ BadHead::TooManyFields))) => {
            return refuse(stream, TOO_LARGE, &bad.to_string(), "head_too_large").await;
        }
        Ok(Err(HeadError::Bad(bad))) => {
            return refuse(stream, "400 Bad Request", &bad.to_string(), "invalid_http").await;
        }
        Err(_) => {
            let message = format!("the request head did not arrive within {} s", HEAD_DEADLINE.as_secs());
            return refuse(stream, "408 Request Timeout", &message, "head_timeout").await;
        }
    }
    let mut session = Box::new(ServerSession::new_http1(stream));
    session.set_pipelined_prefix(ahead);
    // Without it, bytes of a next request that come during this one count as a broken body.
    session.set_pipelining_enabled(true);
    // The whole head is here. What makes the parser wait for more is as malformed as what makes it fail.
    if !matches!(timeout(PARSE_MAX, session.read_request()).await, Ok(Ok(true))) {
        Box::pin(refuse_unreadable(session)).await;
        return None;
    }
    if listener.drain.is_cancelled() {
        session.set_keepalive(None);
    }
    let mut client = Client::new(session);
    let reusable = listener.answer(&mut client).await;
    let mut session = client.into_session();
    if !reusable {
        session.shutdown().await;
        // What the client still sends is not read. Closed at once, its reset could overtake the answer.
        sleep(UNREAD_MAX).await;
        return None;
    }
    if !session.is_body_done() {
        Box::pin(linger(session)).await;
        return None;
    }
    // On the heap: pingora hands the session by value from one call to the next, and each would hold it here.
    let (stream, rest) = Box::pin(session.finish()).await.ok()??.into_parts();
    Some((stream, rest.unwrap_or_default()))
}

/// Waits between requests. A drain does not cut off a request that is already on its way.
async fn await_first_byte<A: Answer>(
    listener: &Listener<A>,
    stream: &mut Stream,
    ahead: &mut BytesMut,
) -> Option<()> {
    let read = tokio::select! {
        biased;
        read = timeout(IDLE_MAX, read_some(stream, ahead)) => Some(read),
        () = listener.drain.cancelled() => None,
    };
    let read = match read {
        Some(read) => read,
        None => timeout(DRAIN_GRACE, read_some(stream, ahead)).await,
    };
    (read.ok()?.ok()? > 0).then_some(())
}

enum HeadError {
    Gone,
    TooLarge,
    Bad(BadHead),
}

/// Reads until the blank line after the head, and checks it.
async fn gather_head(stream: &mut Stream, ahead: &mut BytesMut) -> Result<(), HeadError> {
    let mut scanned = 0;
    loop {
        if let Some(end) = head::end(ahead, scanned).map_err(HeadError::Bad)? {
            if end > HEAD_BYTES_MAX {
                return Err(HeadError::TooLarge);
            }
            return head::check(&ahead[..end]).map_err(HeadError::Bad);
        }
        if ahead.len() > HEAD_BYTES_MAX {
            return Err(HeadError::TooLarge);
        }
        scanned = ahead.len();
        match read_some(stream, ahead).await {
            Ok(0) | Err(_) => return Err(HeadError::Gone),
            Ok(_) => {}
        }
    }
}

/// An answer where there is no session yet to give it.
async fn refuse<T>(mut stream: Stream, status: &str, message: &str, code: &str) -> Option<T> {
    let body = ErrorObject::new(message, "invalid_request_error", code).to_json();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.flush().await;
    let _ = AsyncWriteExt::shutdown(&mut stream).await;
    // What is still sent would be answered by a reset, over which the client may never see why it was refused.
    let swallow = async {
        let mut ignored = BytesMut::new();
        let mut left = REFUSED_BYTES_MAX;
        while let Ok(1..) = read_some(&mut stream, &mut ignored).await {
            let Some(rest) = left.checked_sub(ignored.len()) else { return };
            left = rest;
            ignored.clear();
        }
    };
    let _ = timeout(LINGER_MAX, swallow).await;
    None
}

/// Refused before the whole body came: half-close and swallow some of it, so that the answer is not lost to
/// the reset which unread bytes cause. Bounded in time and bytes, since it costs the edge and helps it nothing.
async fn linger(mut session: Box<ServerSession>) {
    session.shutdown().await;
    let swallow = async {
        let mut left = LINGER_BYTES_MAX;
        while let Ok(Some(bytes)) = session.read_request_body().await {
            let Some(rest) = left.checked_sub(bytes.len()) else { return };
            left = rest;
        }
    };
    let _ = timeout(LINGER_MAX, swallow).await;
}

const TOO_LARGE: &str = "431 Request Header Fields Too Large";
const PARSE_MAX: Duration = Duration::from_millis(500);
const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// The answer is on its way for no longer.
const UNREAD_MAX: Duration = Duration::from_millis(500);
const LINGER_MAX: Duration = Duration::from_secs(2);
/// A little more than the largest body that is ever taken.
const LINGER_BYTES_MAX: usize = 40 << 20;
/// A few heads of the largest size.
const REFUSED_BYTES_MAX: usize = 256 << 10;
