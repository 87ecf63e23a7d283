//! Sends one request and watches its answer.

use crate::load::answer::{self, Step, Stream};
use crate::load::arrivals::Arrival;
use crate::load::record::{Outcome, Record, Seen};
use crate::load::target::{Connection, Target};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// What all requests of a run have in common.
pub struct Client {
    pub targets: Vec<Target>,
    /// `Bearer …`; none for a server that asks for no key.
    pub authorization: Option<HeaderValue>,
    pub model: String,
    pub streams: bool,
    /// Ask for exactly the tokens that are wished for, whatever the model would say.
    pub ignore_eos: bool,
    /// From the sending to the end.
    pub timeout: Duration,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: [Message<'a>; 1],
    max_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_eos: Option<bool>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

/// An answer as far as it was watched; it survives when the watching is cut short.
struct Watched {
    began: Instant,
    seen: Seen,
    status: Option<u16>,
    /// When a stream ended and how, before its connection was made ready for another.
    ended: Option<(Duration, Outcome)>,
}

impl Client {
    /// `began` is when the run did. Whoever stops it gets what was seen so far.
    pub async fn send(&self, arrival: Arrival, began: Instant, stop: &CancellationToken) -> Record {
        let sent = began.elapsed();
        let mut watched = Watched { began, seen: Seen::default(), status: None, ended: None };
        let outcome = tokio::select! {
            exchanged = timeout(self.timeout, self.exchange(&arrival, &mut watched)) => exchanged.ok(),
            () = stop.cancelled() => Some(Outcome::Abandoned),
        };
        let Watched { seen, status, ended, .. } = watched;
        // What had ended before the watching was cut short stays what it was.
        let (end, outcome) = ended.unwrap_or_else(|| {
            (began.elapsed(), outcome.unwrap_or_else(|| Outcome::of_end(&seen, status, "timeout")))
        });
        Record { target: arrival.target, scheduled: arrival.at, sent: Some(sent), end, outcome, seen }
    }

    async fn exchange(&self, arrival: &Arrival, watched: &mut Watched) -> Outcome {
        let target = &self.targets[arrival.target];
        let request = self.request(target, arrival);
        let (connection, response) = match answered(target, request).await {
            Ok(answered) => answered,
            Err(code) => return Outcome::of_end(&watched.seen, None, code),
        };
        let status = response.status().as_u16();
        watched.status = Some(status);
        let id = response.headers().get("x-request-id").and_then(|id| id.to_str().ok());
        watched.seen.request_id = id.map(answer::word);
        let outcome = match (status, self.streams) {
            (200, true) => return watched.stream(response.into_body(), connection, target).await,
            (200, false) => match whole(response.into_body(), WHOLE_BYTES_MAX).await {
                Ok(body) => answer::whole(&body, &mut watched.seen),
                Err(code) => return Outcome::of_end(&watched.seen, Some(status), code),
            },
            _ => match whole(response.into_body(), REFUSAL_BYTES_MAX).await {
                Ok(body) => answer::refused(status, &body),
                // Its status says enough.
                Err(code) => return Outcome::of_status(status, code.to_owned()),
            },
        };
        target.give_back(connection);
        outcome
    }

    fn request(&self, target: &Target, arrival: &Arrival) -> Request<Full<Bytes>> {
        let content = arrival.prompt.text();
        let body = Body {
            model: &self.model,
            messages: [Message { role: "user", content: &content }],
            max_tokens: arrival.output_tokens,
            ignore_eos: self.ignore_eos.then_some(true),
            stream: self.streams,
            stream_options: self.streams.then_some(StreamOptions { include_usage: true }),
        };
        let body = serde_json::to_vec(&body).expect("plain data serialises");
        let mut request = Request::post(&target.path)
            .header(HOST, &target.authority)
            .header(USER_AGENT, concat!("rhumb-load/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.body(Full::new(body.into())).expect("host and path come from a URL")
    }
}

/// The answer's head, and the connection that it came on.
async fn answered(
    target: &Target,
    request: Request<Full<Bytes>>,
) -> Result<(Connection, Response<Incoming>), &'static str> {
    let mut connection = target.connection().await.map_err(|error| error.code())?;
    let mut refused = match connection.sender.try_send_request(request).await {
        Ok(response) => return Ok((connection, response)),
        Err(refused) => refused,
    };
    // Only a request that never left may go again: whatever else happened to it is what is to be measured.
    let Some(request) = refused.take_message().filter(|_| connection.is_used) else {
        return Err(code(refused.error()));
    };
    let mut connection = target.connect().await.map_err(|error| error.code())?;
    let sent = connection.sender.send_request(request).await;
    sent.map(|response| (connection, response)).map_err(|error| code(&error))
}

async fn whole(body: Incoming, bytes_max: usize) -> Result<Bytes, &'static str> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(if error.is::<hyper::Error>() { "cut" } else { "too_long" }),
    }
}

fn code(error: &hyper::Error) -> &'static str {
    if error.is_parse() { "bad_http" } else { "closed" }
}

impl Watched {
    async fn stream(&mut self, mut body: Incoming, connection: Connection, target: &Target) -> Outcome {
        let mut stream = Stream::default();
        let step = loop {
            let bytes = match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => bytes,
                    Err(_trailers) => continue,
                },
                Some(Err(_)) => break Step::Ended("cut".to_owned()),
                None => break Step::Ended("no_done".to_owned()),
            };
            match stream.read(&bytes, &mut self.seen, self.began.elapsed()) {
                Step::GoOn => {}
                step @ (Step::Served | Step::Ended(_)) => break step,
            }
        };
        let outcome = match step {
            Step::Ended(code) => Outcome::of_end(&self.seen, self.status, &code),
            Step::Served | Step::GoOn => Outcome::Served,
        };
        self.ended = Some((self.began.elapsed(), outcome.clone()));
        // Behind `[DONE]` there is only the body's end, without which the connection is of no more use.
        if outcome == Outcome::Served && timeout(REST_MAX, ends(&mut body)).await == Ok(true) {
            target.give_back(connection);
        }
        outcome
    }
}

async fn ends(body: &mut Incoming) -> bool {
    loop {
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return false,
            None => return true,
        }
    }
}

/// A million tokens are some 5 MB.
const WHOLE_BYTES_MAX: usize = 64 << 20;
const REFUSAL_BYTES_MAX: usize = 64 << 10;
const REST_MAX: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::prompt::Prompt;
    use crate::load::record::Kind;
    use crate::load::target::TrustError;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const TEXT: &str = r#"data: {"choices":[{"delta":{"content":"a"}}]}"#;
    const DONE: &str = "data: [DONE]";

    fn stream(events: &[&str]) -> String {
        let chunk = |event: &&str| format!("{:x}\r\n{event}\n\n\r\n", event.len() + 2);
        let chunks: String = events.iter().map(chunk).collect();
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
    }

    fn with_length(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    /// What comes of requests to a server that answers each with the same bytes, and whether it keeps connections.
    async fn outcomes(answer: String, is_kept: bool, count: usize) -> (Vec<Outcome>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let streams = !answer.contains("content-length");
        let server = tokio::spawn(async move {
            let mut connections = 0;
            let mut left = count;
            while left > 0 {
                let (mut socket, _) = listener.accept().await.unwrap();
                connections += 1;
                loop {
                    let mut request = vec![0; 1 << 16];
                    if socket.read(&mut request).await.unwrap_or(0) == 0 {
                        break;
                    }
                    left -= 1;
                    socket.write_all(answer.as_bytes()).await.unwrap();
                    if !is_kept || left == 0 {
                        break;
                    }
                }
            }
            connections
        });
        let client = Client {
            targets: vec![Target::new(&url, None, || Err(TrustError::NoSystemRoots)).unwrap()],
            authorization: None,
            model: "m".to_owned(),
            streams,
            ignore_eos: true,
            timeout: Duration::from_secs(5),
        };
        let mut outcomes = Vec::new();
        for _ in 0..count {
            let prompt = Prompt { tokens: 8, blocks: Vec::new(), block_tokens: 1, seed: 0, number: 0 };
            let arrival = Arrival { at: Duration::ZERO, target: 0, prompt, output_tokens: 1 };
            let record = client.send(arrival, Instant::now(), &CancellationToken::new()).await;
            outcomes.push(record.outcome);
        }
        (outcomes, server.await.unwrap())
    }

    async fn outcome(answer: String) -> (Kind, String) {
        let (outcomes, _) = outcomes(answer, false, 1).await;
        let code = outcomes[0].cause().map(|cause| cause.code.clone());
        (outcomes[0].kind(), code.unwrap_or_default())
    }

    #[tokio::test]
    async fn only_a_whole_stream_is_served() {
        let whole = stream(&[TEXT, TEXT, DONE]);
        assert_eq!(outcome(whole.clone()).await, (Kind::Served, String::new()));
        let is = |kind, code: &str| (kind, code.to_owned());
        assert_eq!(outcome(stream(&[TEXT])).await, is(Kind::Broken, "no_done"), "a clean end is none");
        assert_eq!(outcome(stream(&[])).await, is(Kind::Failed, "no_done"));
        let after_text = whole.find(TEXT).unwrap() + TEXT.len() + 20;
        assert_eq!(outcome(whole[..after_text].to_owned()).await, is(Kind::Broken, "cut"));
        let head = whole.find("\r\n\r\n").unwrap() + 4;
        assert_eq!(outcome(whole[..head].to_owned()).await, is(Kind::Failed, "cut"));
        assert_eq!(outcome(String::new()).await, is(Kind::Failed, "closed"));
        assert_eq!(outcome("BREW\r\n\r\n".to_owned()).await, is(Kind::Failed, "bad_http"));
    }

    #[tokio::test]
    async fn a_status_is_a_refusal_or_a_failure() {
        let error = r#"{"error":{"message":"m","type":"t","code":"c"}}"#;
        let is = |kind, code: &str| (kind, code.to_owned());
        assert_eq!(outcome(with_length("429 No", error)).await, is(Kind::Refused, "c"));
        assert_eq!(outcome(with_length("503 No", error)).await, is(Kind::Refused, "c"));
        assert_eq!(outcome(with_length("500 No", "oh")).await, is(Kind::Failed, "none"));
        let answer = r#"{"choices":[{"message":{"content":"a"}}]}"#;
        assert_eq!(outcome(with_length("200 OK", answer)).await, is(Kind::Served, ""));
        assert_eq!(outcome(with_length("200 OK", "{}")).await, is(Kind::Failed, "bad_answer"));
    }

    #[tokio::test]
    async fn connections_are_kept_and_a_closed_one_is_replaced() {
        for answer in [stream(&[TEXT, DONE]), with_length("429 No", "{}")] {
            let (outcomes, connections) = outcomes(answer, true, 3).await;
            assert_eq!((outcomes.len(), connections), (3, 1), "{outcomes:?}");
        }
        let (outcomes, connections) = outcomes(stream(&[TEXT, DONE]), false, 3).await;
        assert_eq!((outcomes, connections), (vec![Outcome::Served; 3], 3));
    }

    #[tokio::test]
    async fn an_answer_that_came_to_its_done_is_served_even_if_the_run_ends_right_then() {
        let target = Target::new("http://127.0.0.1:1/v1", None, || Err(TrustError::NoSystemRoots)).unwrap();
        // Without a network in between it is certain when everything that was sent was also read.
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
        tokio::spawn(driver);
        target.give_back(Connection { sender, is_used: false });
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            assert!(far.read(&mut vec![0; 1 << 16]).await.unwrap() > 0);
            let answer = stream(&[TEXT, DONE]);
            far.write_all(answer.strip_suffix("0\r\n\r\n").unwrap().as_bytes()).await.unwrap();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            stopped.cancel();
        });
        let prompt = Prompt { tokens: 8, blocks: Vec::new(), block_tokens: 1, seed: 0, number: 0 };
        let arrival = Arrival { at: Duration::ZERO, target: 0, prompt, output_tokens: 1 };
        let client = Client {
            targets: vec![target],
            authorization: None,
            model: "m".to_owned(),
            streams: true,
            ignore_eos: true,
            timeout: Duration::from_secs(5),
        };
        assert_eq!(client.send(arrival, Instant::now(), &stop).await.outcome, Outcome::Served);
    }

    #[tokio::test]
    async fn nobody_there_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        drop(listener);
        let target = Target::new(&url, None, || Err(TrustError::NoSystemRoots)).unwrap();
        assert_eq!(target.connect().await.err().map(|error| error.code()), Some("connect_refused"));
    }
}
