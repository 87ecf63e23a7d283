//! What became of one request, and the line that `--record` writes of it. Pure.

use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// One request, when it is over. Times are since the run began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub target: usize,
    /// When it was to be sent; everything is measured from here, so that a client that is late shows.
    pub scheduled: Duration,
    /// When this client began to send it, connecting included; none = it never did.
    pub sent: Option<Duration>,
    pub seen: Seen,
    pub end: Duration,
    pub outcome: Outcome,
}

/// What came of an answer, as far as it came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// The first event of a stream that carries text.
    pub first_token: Option<Duration>,
    /// From each such event to the next, in microseconds.
    pub gaps: Vec<u32>,
    /// As the server counts them; of a stream that ended before its usage came, the events with text.
    pub output_tokens: u64,
    /// 0 where the server did not say.
    pub prompt_tokens: u64,
    pub request_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A stream to its `[DONE]`, or a whole answer.
    Served,
    /// The server said no: any 4xx, or 503.
    Refused(Cause),
    /// Nothing came before it ended, or another 5xx did.
    Failed(Cause),
    /// Some text had come, and then an error, or an end without `[DONE]`.
    Broken(Cause),
    /// Too many were running. It is not sent later: that would hide how slow the server is.
    NotSent,
    /// The run was ended early while it ran.
    Abandoned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Served,
    Refused,
    Failed,
    Broken,
    NotSent,
    Abandoned,
}

/// Why a request was not served.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// None where no answer came.
    pub status: Option<u16>,
    /// The error's `code` as the server names it, or one of this client's own words.
    pub code: String,
}

/// A line of `--record`.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    scheduled_ms: f64,
    sent_ms: Option<f64>,
    /// From `scheduled_ms` on, as the summary has it.
    ttft_ms: Option<f64>,
    /// Since the run began.
    end_ms: f64,
    prompt_tokens: u64,
    output_tokens: u64,
    outcome: Kind,
    status: Option<u16>,
    code: Option<&'a str>,
    region: Option<&'a str>,
    request_id: Option<&'a str>,
}

impl Record {
    /// From the moment it was to be sent.
    pub fn time_to_first_token(&self) -> Option<Duration> {
        self.seen.first_token.map(|at| at.saturating_sub(self.scheduled))
    }

    pub fn line<'a>(&'a self, region: Option<&'a str>) -> Line<'a> {
        let cause = self.outcome.cause();
        Line {
            scheduled_ms: millis(self.scheduled),
            sent_ms: self.sent.map(millis),
            ttft_ms: self.time_to_first_token().map(millis),
            end_ms: millis(self.end),
            prompt_tokens: self.seen.prompt_tokens,
            output_tokens: self.seen.output_tokens,
            outcome: self.outcome.kind(),
            status: cause.and_then(|cause| cause.status),
            code: cause.map(|cause| cause.code.as_str()),
            region,
            request_id: self.seen.request_id.as_deref(),
        }
    }
}

impl Outcome {
    /// Of an answer that is an error by its status.
    pub fn of_status(status: u16, code: String) -> Self {
        let cause = Cause { status: Some(status), code };
        match status {
            400..500 | 503 => Self::Refused(cause),
            _ => Self::Failed(cause),
        }
    }

    /// Of an answer that ended before it should have.
    pub fn of_end(seen: &Seen, status: Option<u16>, code: &str) -> Self {
        let cause = Cause { status, code: code.to_owned() };
        match seen.first_token {
            Some(_) => Self::Broken(cause),
            None => Self::Failed(cause),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Served => Kind::Served,
            Self::Refused(_) => Kind::Refused,
            Self::Failed(_) => Kind::Failed,
            Self::Broken(_) => Kind::Broken,
            Self::NotSent => Kind::NotSent,
            Self::Abandoned => Kind::Abandoned,
        }
    }

    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Refused(cause) | Self::Failed(cause) | Self::Broken(cause) => Some(cause),
            Self::Served | Self::NotSent | Self::Abandoned => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Served => "served",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Broken => "broken",
            Self::NotSent => "not sent",
            Self::Abandoned => "abandoned",
        })
    }
}

/// To the microsecond.
pub fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_a_failure() {
        let kind = |status| Outcome::of_status(status, String::new()).kind();
        assert_eq!([400, 401, 404, 429, 503].map(kind), [Kind::Refused; 5]);
        assert_eq!([500, 502, 504, 302].map(kind), [Kind::Failed; 4]);
    }

    #[test]
    fn only_a_stream_that_had_begun_is_broken() {
        let none = Seen::default();
        let some = Seen { first_token: Some(Duration::ZERO), ..Seen::default() };
        assert_eq!(Outcome::of_end(&none, Some(200), "no_done").kind(), Kind::Failed);
        assert_eq!(Outcome::of_end(&some, Some(200), "no_done").kind(), Kind::Broken);
    }

    #[test]
    fn a_line_is_the_contract() {
        let record = Record {
            target: 0,
            scheduled: Duration::from_millis(100),
            sent: Some(Duration::from_micros(100_500)),
            seen: Seen {
                first_token: Some(Duration::from_millis(140)),
                gaps: vec![20_000],
                output_tokens: 2,
                prompt_tokens: 9,
                request_id: Some("ab".to_owned()),
            },
            end: Duration::from_millis(170),
            outcome: Outcome::Broken(Cause { status: Some(200), code: "stream_interrupted".to_owned() }),
        };
        assert_eq!(
            serde_json::to_string(&record.line(Some("us-east"))).unwrap(),
            "{\"scheduled_ms\":100.0,\"sent_ms\":100.5,\"ttft_ms\":40.0,\"end_ms\":170.0,\"prompt_tokens\":9,\
             \"output_tokens\":2,\"outcome\":\"broken\",\"status\":200,\"code\":\"stream_interrupted\",\
             \"region\":\"us-east\",\"request_id\":\"ab\"}"
        );
    }
}
