//! Recorded arrivals: reads the two formats in which such traces are published. Pure.
//!
//! Azure's is CSV with the columns `TIMESTAMP`, `ContextTokens` and `GeneratedTokens`. Mooncake's is one JSON
//! object a line with `timestamp` (ms), `input_length`, `output_length` and, often, `hash_ids`: one id for each
//! 512 tokens of the prompt, so that equal leading ids are a shared prefix. The first line tells which it is.

use serde::Deserialize;
use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::time::Duration;
use time::{Date, Month, OffsetDateTime, Time, UtcOffset};

/// A trace by time; the first row is at zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    pub rows: Vec<Row>,
    /// The ids of all rows, one row after the other.
    pub ids: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub at: Duration,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    /// Where its ids are.
    pub ids: Range<usize>,
}

#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("line {line}: {reason}")]
    Line { line: usize, reason: String },
    #[error("it holds no arrivals")]
    Empty,
    #[error(
        "line 1 is neither the head of an Azure trace (TIMESTAMP,ContextTokens,GeneratedTokens) nor a line of a \
         Mooncake trace ({{\"timestamp\": …, \"input_length\": …, \"output_length\": …}})"
    )]
    UnknownFormat,
    #[error("it is longer than {} MiB; cut it with `head`", TRACE_BYTES_MAX >> 20)]
    TooLong,
    #[error("it cannot be read")]
    Read(#[source] io::Error),
}

enum Format {
    Azure(Columns),
    Mooncake,
}

/// Where a CSV file has what is needed; other columns are skipped.
struct Columns {
    timestamp: usize,
    prompt_tokens: usize,
    output_tokens: usize,
}

#[derive(Deserialize)]
struct MooncakeLine {
    /// Milliseconds.
    timestamp: f64,
    input_length: u64,
    output_length: u64,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

/// Rows may come in any order in time, as in traces that were merged.
pub fn read(mut source: impl BufRead) -> Result<Trace, TraceError> {
    let mut trace = Trace { rows: Vec::new(), ids: Vec::new() };
    let mut format = None;
    let (mut number, mut bytes_read) = (0, 0);
    // Since the Unix epoch or since the trace's own beginning, whichever the format has.
    let mut moments: Vec<i128> = Vec::new();
    loop {
        let mut bytes = Vec::new();
        let length = source
            .by_ref()
            .take(LINE_BYTES_MAX + 1)
            .read_until(b'\n', &mut bytes)
            .map_err(TraceError::Read)?;
        if length == 0 {
            break;
        }
        number += 1;
        bytes_read += length as u64;
        let refused = |reason: String| TraceError::Line { line: number, reason };
        if bytes_read > TRACE_BYTES_MAX {
            return Err(TraceError::TooLong);
        }
        if length as u64 > LINE_BYTES_MAX {
            return Err(refused(format!("it is longer than {LINE_BYTES_MAX} bytes")));
        }
        let line = std::str::from_utf8(&bytes).map_err(|_| refused("it is not UTF-8 text".to_owned()))?;
        let line = if number == 1 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line }.trim();
        if line.is_empty() {
            continue;
        }
        let (micros, row) = match &format {
            None if line.starts_with('{') => {
                format = Some(Format::Mooncake);
                mooncake(line, &mut trace.ids).map_err(refused)?
            }
            None => {
                format = Some(Format::Azure(Columns::of_head(line).ok_or(TraceError::UnknownFormat)?));
                continue;
            }
            Some(Format::Mooncake) => mooncake(line, &mut trace.ids).map_err(refused)?,
            Some(Format::Azure(columns)) => columns.row(line).map_err(refused)?,
        };
        moments.push(micros);
        trace.rows.push(row);
    }
    let first = *moments.iter().min().ok_or(TraceError::Empty)?;
    for (row, micros) in trace.rows.iter_mut().zip(moments) {
        row.at = Duration::from_micros(u64::try_from(micros - first).unwrap_or(u64::MAX));
    }
    trace.rows.sort_by_key(|row| row.at);
    Ok(trace)
}

fn mooncake(line: &str, ids: &mut Vec<u64>) -> Result<(i128, Row), String> {
    let parsed: MooncakeLine = serde_json::from_str(line).map_err(|error| plain(&error))?;
    if !(0.0..=MILLIS_MAX).contains(&parsed.timestamp) {
        return Err(format!("timestamp: {} is not a time in milliseconds", parsed.timestamp));
    }
    let begin = ids.len();
    ids.extend(parsed.hash_ids);
    let row = row(parsed.input_length, parsed.output_length, begin..ids.len())?;
    Ok(((parsed.timestamp * 1000.0).round() as i128, row))
}

/// Serde's own words, without its "at line 1": the line is known better here.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(reason, _)| reason.to_owned())
}

impl Columns {
    fn of_head(line: &str) -> Option<Self> {
        let names: Vec<&str> = line.split(',').map(str::trim).collect();
        let column = |wanted: &str| names.iter().position(|name| *name == wanted);
        Some(Self {
            timestamp: column("TIMESTAMP")?,
            prompt_tokens: column("ContextTokens")?,
            output_tokens: column("GeneratedTokens")?,
        })
    }

    fn row(&self, line: &str) -> Result<(i128, Row), String> {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let cell = |at: usize, name: &str| {
            cells.get(at).copied().ok_or_else(|| format!("{name}: there is no such column in this line"))
        };
        let tokens = |at: usize, name: &str| {
            let text = cell(at, name)?;
            text.parse::<u64>().map_err(|_| format!("{name}: {text:?} is not a number of tokens"))
        };
        let text = cell(self.timestamp, "TIMESTAMP")?;
        let micros = moment(text).ok_or_else(|| {
            format!("TIMESTAMP: {text:?} is not a time such as 2023-11-16 18:15:46.6805900")
        })?;
        let row = row(
            tokens(self.prompt_tokens, "ContextTokens")?,
            tokens(self.output_tokens, "GeneratedTokens")?,
            0..0,
        )?;
        Ok((micros, row))
    }
}

fn row(prompt_tokens: u64, output_tokens: u64, ids: Range<usize>) -> Result<Row, String> {
    match prompt_tokens.max(output_tokens) {
        ..=TOKENS_MAX => Ok(Row { at: Duration::ZERO, prompt_tokens, output_tokens, ids }),
        tokens => Err(format!("{tokens} tokens are more than any model takes ({TOKENS_MAX})")),
    }
}

/// `2023-11-16 18:15:46.6805900`, with `T` for the space and an offset at the end where somebody wrote one;
/// microseconds since the Unix epoch.
fn moment(text: &str) -> Option<i128> {
    let (date, rest) = text.split_once([' ', 'T'])?;
    let (clock, offset) = match rest.find(['+', '-', 'Z']) {
        Some(at) => (&rest[..at], offset(&rest[at..])?),
        None => (rest, UtcOffset::UTC),
    };
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (date.next()?, date.next()?, date.next()?);
    let month = Month::try_from(month.parse::<u8>().ok()?).ok()?;
    let date = Date::from_calendar_date(year.parse().ok()?, month, day.parse().ok()?).ok()?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut clock = clock.splitn(3, ':');
    let (hour, minute, second) = (clock.next()?, clock.next()?, clock.next()?);
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").parse().ok()?;
    let clock =
        Time::from_hms_nano(hour.parse().ok()?, minute.parse().ok()?, second.parse().ok()?, nanos).ok()?;
    Some(OffsetDateTime::new_in_offset(date, clock, offset).unix_timestamp_nanos() / 1000)
}

fn offset(text: &str) -> Option<UtcOffset> {
    if text == "Z" {
        return Some(UtcOffset::UTC);
    }
    let (sign, rest) = text.split_at(1);
    let sign = match sign {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    // A sign of its own would not be refused by `parse`.
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<i8>().ok(),
        false => None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    UtcOffset::from_hms(sign * number(hours)?, sign * number(minutes)?, 0).ok()
}

/// The prompt tokens that one id stands for, as Mooncake cuts them.
pub const BLOCK_TOKENS: u64 = 512;
/// A day of a busy fleet; held in memory whole, because arrivals must not wait for a disk.
const TRACE_BYTES_MAX: u64 = 256 << 20;
/// A prompt of a million tokens has 2,000 ids of some 8 characters.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// The longest contexts are a tenth of this.
pub const TOKENS_MAX: u64 = 10_000_000;
/// A hundred years; more is not a time in milliseconds.
const MILLIS_MAX: f64 = 36_500.0 * 86_400_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

    fn refused(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    fn shapes(trace: &Trace) -> Vec<(u64, u64, u64)> {
        let shape = |row: &Row| (row.at.as_micros() as u64, row.prompt_tokens, row.output_tokens);
        trace.rows.iter().map(shape).collect()
    }

    #[test]
    fn an_azure_trace_is_read() {
        let text =
            format!("\u{feff}{AZURE}\r\n2024-02-28 23:59:59.5000000,10,20\r\n\n2024-02-29 00:00:01,30,0\r\n");
        let trace = read(text.as_bytes()).unwrap();
        assert_eq!(shapes(&trace), [(0, 10, 20), (1_500_000, 30, 0)]);
        let text = "a,GeneratedTokens,TIMESTAMP,ContextTokens\nx,2,2024-05-10T01:00:00.009930+01:00,1\n\
                    x,4,2024-05-10 00:00:00.019930+00:00,3";
        assert_eq!(shapes(&read(text.as_bytes()).unwrap()), [(0, 1, 2), (10_000, 3, 4)]);
    }

    #[test]
    fn a_mooncake_trace_is_read() {
        let text = "{\"timestamp\": 3000, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [0, 7]}\n\
                    {\"timestamp\": 1000.5, \"input_length\": 9, \"output_length\": 6, \"extra\": null}\n";
        let trace = read(text.as_bytes()).unwrap();
        assert_eq!(shapes(&trace), [(0, 9, 6), (1_999_500, 600, 5)], "by time, from the first");
        assert_eq!(trace.ids[trace.rows[1].ids.clone()], [0, 7]);
        assert!(trace.rows[0].ids.is_empty());
    }

    #[test]
    fn bad_lines_are_refused_by_their_number() {
        let azure = |line: &str| refused(&format!("{AZURE}\n2024-01-01 00:00:00,1,1\n{line}\n"));
        assert_eq!(
            azure("2024-01-01 00:00:00,-1,1"),
            "line 3: ContextTokens: \"-1\" is not a number of tokens"
        );
        assert_eq!(
            azure("2024-01-01 00:00:00,1"),
            "line 3: GeneratedTokens: there is no such column in this line"
        );
        assert!(
            azure("2024-01-01 00:00:00,1,99999999999").starts_with("line 3: 99999999999 tokens are more")
        );
        for bad in
            ["", "x", "2024-01-01", "2024-02-30 00:00:00", "2024-01-01 25:00:00", "2024-01-01 00:00:00.x"]
        {
            assert!(azure(&format!("{bad},1,1")).starts_with("line 3: TIMESTAMP: "), "{bad}");
        }
        for bad in ["--128:00", "-+1:00", "+1:-1", "+25:60", "+300:00", "+1", "Z1:00", "+", "-:"] {
            let line = azure(&format!("2024-01-01 00:00:00{bad},1,1"));
            assert!(line.starts_with("line 3: TIMESTAMP: "), "{bad}: {line}");
        }
        let mooncake = |line: &str| {
            refused(&format!("{{\"timestamp\":0,\"input_length\":1,\"output_length\":1}}\n\n{line}"))
        };
        assert_eq!(mooncake("{\"timestamp\":0,\"input_length\":1}"), "line 3: missing field `output_length`");
        assert!(
            mooncake("{\"timestamp\":-1,\"input_length\":1,\"output_length\":1}")
                .starts_with("line 3: timestamp")
        );
        assert!(mooncake("{\"timestamp\":1,").starts_with("line 3: EOF"));
        assert!(mooncake(&"[".repeat(100_000)).starts_with("line 3: "));
        assert!(mooncake(&"x".repeat(2 << 20)).starts_with("line 3: it is longer than"));
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        assert_eq!(refused(""), "it holds no arrivals");
        assert_eq!(refused("\n\n"), "it holds no arrivals");
        assert_eq!(refused(AZURE), "it holds no arrivals");
        for garbage in ["hello", "TIMESTAMP,ContextTokens\n1,2", "[1,2]", "\u{1}\u{2}"] {
            assert!(refused(garbage).starts_with("line 1 is neither"), "{garbage:?}");
        }
        let error = read(&b"\xff\xfe\x00"[..]).unwrap_err().to_string();
        assert_eq!(error, "line 1: it is not UTF-8 text");
    }
}
