//! What is told of a run: the contract of `--json`, the table for people, and what to do about what went wrong.
//! Pure.

use crate::load::arrivals::Clipped;
use crate::load::record::{Kind, millis};
use crate::load::summary::{Counts, Group, Summary};
use crate::load::target::Reasons;
use crate::table::table;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

/// What `rhumb load --json` prints. Times run from the moment a request was scheduled for; null where nothing
/// was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub seed: u64,
    /// From the start to the last answer.
    pub duration_ms: f64,
    /// Ended early, by a signal.
    pub interrupted: bool,
    /// Of a trace.
    pub clipped: Clipped,
    pub requests: Counts,
    #[serde(flatten)]
    pub measured: Measured,
    pub causes: Vec<CauseCount>,
    /// One for each that was asked for.
    pub regions: Vec<RegionReport>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    pub ttft_ms: Latency,
    pub inter_token_ms: Latency,
    pub end_to_end_ms: Latency,
    pub send_lag_ms: Latency,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    pub output_tokens_per_second: f64,
    pub served_per_second: f64,
    pub longest_unserved_ms: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CauseCount {
    pub outcome: Kind,
    pub status: Option<u16>,
    pub code: String,
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegionReport {
    pub name: String,
    pub requests: Counts,
    #[serde(flatten)]
    pub measured: Measured,
}

/// What a run was, beside its requests.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub seed: u64,
    pub clipped: Clipped,
    pub duration: Duration,
    pub interrupted: bool,
}

impl Report {
    /// `regions` are the names of the targets, as far as they have any.
    pub fn new(summary: &Summary, facts: Facts, regions: &[Option<String>]) -> Self {
        let causes = summary.causes.iter().map(|((outcome, cause), count)| CauseCount {
            outcome: *outcome,
            status: cause.status,
            code: cause.code.clone(),
            count: *count,
        });
        let named = regions.iter().zip(&summary.targets);
        let regions = named.filter_map(|(name, group)| {
            Some(RegionReport {
                name: name.clone()?,
                requests: group.counts,
                measured: Measured::of(group, facts.duration),
            })
        });
        Self {
            seed: facts.seed,
            duration_ms: millis(facts.duration),
            interrupted: facts.interrupted,
            clipped: facts.clipped,
            requests: summary.all.counts,
            measured: Measured::of(&summary.all, facts.duration),
            causes: causes.collect(),
            regions: regions.collect(),
        }
    }

    /// For people.
    pub fn shown(&self) -> String {
        let mut text = self.shown_counts();
        text.push('\n');
        text.push_str(&self.measured.shown());
        let Measured { output_tokens, output_tokens_per_second, served_per_second, .. } = self.measured;
        let seconds = self.duration_ms / 1000.0;
        write!(
            text,
            "\n{seconds:.1} s: {served_per_second:.2} requests/s served, \
             {output_tokens_per_second:.1} tokens/s ({output_tokens} tokens)\n"
        )
        .expect("a string takes any text");
        if let Some(longest) = self.measured.longest_unserved_ms {
            writeln!(text, "longest time in which nothing was served: {:.2} s", longest / 1000.0)
                .expect("a string takes any text");
        }
        if !self.causes.is_empty() {
            text.push('\n');
            text.push_str(&self.shown_causes());
        }
        if self.regions.len() > 1 {
            text.push('\n');
            text.push_str(&self.shown_regions());
        }
        text
    }

    fn shown_counts(&self) -> String {
        let counts = self.requests;
        let rows = [
            ("served", counts.served),
            ("refused", counts.refused),
            ("failed", counts.failed),
            ("broken", counts.broken),
            ("not sent", counts.not_sent),
            ("abandoned", counts.abandoned),
        ];
        let share = |count: u64| match counts.scheduled {
            0 => String::new(),
            all => format!("{:6.2} %", 100.0 * count as f64 / all as f64),
        };
        // Nothing is abandoned unless somebody ends the run.
        let rows = rows.into_iter().filter(|(name, count)| *name != "abandoned" || *count > 0);
        let cells = |(name, count): (&str, u64)| [name.to_owned(), right(count), share(count)];
        let all = ("scheduled", counts.scheduled);
        table(
            ["REQUESTS".to_owned(), right("COUNT"), format!("{:>8}", "SHARE")],
            rows.map(cells).chain([[all.0.to_owned(), right(all.1), String::new()]]),
        )
    }

    fn shown_causes(&self) -> String {
        let cells = |cause: &CauseCount| {
            [
                cause.outcome.to_string(),
                cause.status.map_or("-".to_owned(), |status| status.to_string()),
                cause.code.clone(),
                right(cause.count),
            ]
        };
        let head = ["WHY".to_owned(), "STATUS".to_owned(), "CODE".to_owned(), right("COUNT")];
        table(head, self.causes.iter().map(cells))
    }

    fn shown_regions(&self) -> String {
        let cells = |region: &RegionReport| {
            let Counts { scheduled, served, refused, failed, broken, not_sent, .. } = region.requests;
            let latency = &region.measured.ttft_ms;
            let counts = [scheduled, served, refused, failed, broken, not_sent].map(right);
            let [scheduled, served, refused, failed, broken, not_sent] = counts;
            let (p50, p99) = (shown_millis(latency.p50), shown_millis(latency.p99));
            [region.name.clone(), scheduled, served, refused, failed, broken, not_sent, p50, p99]
        };
        let head = ["SCHEDULED", "SERVED", "REFUSED", "FAILED", "BROKEN", "NOT SENT", "TTFT P50", "TTFT P99"]
            .map(right);
        let [a, b, c, d, e, f, g, h] = head;
        table(["REGION".to_owned(), a, b, c, d, e, f, g, h], self.regions.iter().map(cells))
    }

    /// What whoever sees these numbers can do.
    pub fn hints(&self, is_sandbox: bool, reasons: &Reasons) -> Vec<String> {
        let count = |wanted: &dyn Fn(&CauseCount) -> bool| {
            self.causes.iter().filter(|cause| wanted(cause)).map(|cause| cause.count).sum::<u64>()
        };
        let status = |wanted: u16| count(&|cause| cause.status == Some(wanted));
        let code = |wanted: &str| count(&|cause| cause.code == wanted);
        let because = |code: &str| reasons.get(code).map(|why| format!(" ({why})")).unwrap_or_default();
        let mut hints = Vec::new();
        let mut hint = |applies: bool, text: &str| {
            if applies {
                hints.push(text.to_owned());
            }
        };
        hint(
            status(401) > 0 && is_sandbox,
            "the key is not valid there: leave out `--key`, or make one with `rhumb key create`",
        );
        hint(
            status(401) > 0 && !is_sandbox,
            "the key is not valid there: give another by `--key` or RHUMB_KEY",
        );
        hint(
            status(404) > 0,
            "there is no such model or path: look at `--model`, and whether `--url` ends in /v1",
        );
        hint(
            code("context_length_exceeded") > 0,
            "some requests are longer than the model's context: ask for fewer tokens, or clip a trace by \
             `--prompt-tokens-max` and `--output-tokens-max`",
        );
        hint(
            status(400) > code("context_length_exceeded"),
            "servers that do not know the field ignore_eos refuse it: `--let-end` leaves it out",
        );
        hint(
            status(429) > 0,
            "429 is a limit of the tenant or of the server: a lower `--rate` stays below it",
        );
        hint(
            status(503) > 0 && is_sandbox,
            "503 means that no region had room, or that none was known to serve: `rhumb status` tells what is down, \
             and a lower `--rate` needs less",
        );
        hint(
            status(503) > 0 && !is_sandbox,
            "503 means that the server had no room, at least for a while: a lower `--rate` needs less",
        );
        hint(
            code("connect_refused") > 0 && is_sandbox,
            "nothing listened there, at least for a while: `rhumb status` tells of a sandbox what is down",
        );
        hint(
            code("connect_refused") > 0 && !is_sandbox,
            "nothing listened there, at least for a while: look at the host and the port of `--url`",
        );
        hint(
            code("unknown_host") > 0,
            &format!("the host's name was not found{}: look at `--url`", because("unknown_host")),
        );
        hint(
            code("connect_failed") > 0,
            &format!("connections could not be made{}", because("connect_failed")),
        );
        hint(
            code("tls_failed") > 0,
            &format!(
                "there was no agreement on TLS{}: a server whose certificate this host does not know needs \
                 `--cacert`",
                because("tls_failed")
            ),
        );
        hint(
            code("timeout") > 0,
            "some answers took longer than `--timeout`: ask for fewer tokens or a lower `--rate`, or wait longer",
        );
        hint(
            code("no_done") > 0,
            "streams that end without [DONE] count as cut off: something on the way ended them, or the server ends \
             its streams otherwise than OpenAI's, and `--no-stream` measures it",
        );
        hint(
            self.requests.scheduled == 0,
            "no request arrived in that time: a longer `--duration` or a higher `--rate` brings some",
        );
        hint(
            self.requests.not_sent > 0,
            "too many requests were running at once: the server is slower than the arrivals, or `--in-flight-max` \
             is too low",
        );
        let lag = self.measured.send_lag_ms.p99.unwrap_or(0.0);
        hint(
            lag > LAG_MILLIS_MAX,
            "this client was late itself: it needs more of a processor than it has, so its times are too long",
        );
        hints
    }
}

impl Measured {
    fn of(group: &Group, duration: Duration) -> Self {
        // A run that was ended at once has no rate to speak of.
        let seconds = duration.as_secs_f64().max(0.001);
        let rate = |count: u64| (100.0 * count as f64 / seconds).round() / 100.0;
        Self {
            ttft_ms: Latency::of(&group.first_token),
            inter_token_ms: Latency::of(&group.inter_token),
            end_to_end_ms: Latency::of(&group.end_to_end),
            send_lag_ms: Latency::of(&group.send_lag),
            prompt_tokens: group.prompt_tokens,
            output_tokens: group.output_tokens,
            output_tokens_per_second: rate(group.output_tokens),
            served_per_second: rate(group.counts.served),
            longest_unserved_ms: group.longest_unserved().map(millis),
        }
    }

    fn shown(&self) -> String {
        let rows = [
            ("first token", &self.ttft_ms),
            ("inter-token", &self.inter_token_ms),
            ("end to end", &self.end_to_end_ms),
            ("sent late by", &self.send_lag_ms),
        ];
        let cells = |(name, latency): (&str, &Latency)| {
            let Latency { p50, p90, p99, max, .. } = latency;
            let [p50, p90, p99, max] = [p50, p90, p99, max].map(|value| shown_millis(*value));
            [name.to_owned(), p50, p90, p99, max]
        };
        let [p50, p90, p99, max] = ["P50", "P90", "P99", "MAX"].map(right);
        table(["MILLISECONDS".to_owned(), p50, p90, p99, max], rows.map(cells))
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        // A histogram's value stands for a range that ends above what was measured.
        let value = |micros: u64| {
            (!histogram.is_empty()).then(|| millis(Duration::from_micros(micros.min(histogram.max()))))
        };
        let quantile = |quantile: f64| value(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            max: value(histogram.max()),
        }
    }
}

fn right(value: impl std::fmt::Display) -> String {
    format!("{value:>9}")
}

fn shown_millis(value: Option<f64>) -> String {
    value.map_or_else(|| right("-"), |value| format!("{value:9.1}"))
}

/// The timer counts milliseconds; later than this it is the processor that is short.
const LAG_MILLIS_MAX: f64 = 20.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::record::{Cause, Outcome, Record, Seen};

    fn report() -> Report {
        let mut summary = Summary::new(2);
        let mut add = |target, scheduled_ms: u64, outcome: Outcome| {
            let at = |after: u64| Duration::from_millis(scheduled_ms + after);
            let (first_token, gaps) = match outcome {
                Outcome::Served => (Some(at(40)), vec![20_000, 30_000]),
                _ => (None, Vec::new()),
            };
            let output_tokens = gaps.len() as u64 + u64::from(first_token.is_some());
            summary.add(&Record {
                target,
                scheduled: at(0),
                sent: Some(at(1)),
                seen: Seen { first_token, gaps, output_tokens, prompt_tokens: 10, request_id: None },
                end: at(100),
                outcome,
            });
        };
        let cause = |status, code: &str| Cause { status, code: code.to_owned() };
        add(0, 0, Outcome::Served);
        add(1, 500, Outcome::Served);
        add(0, 1000, Outcome::Refused(cause(Some(429), "rate_limit_exceeded")));
        add(1, 2000, Outcome::Failed(cause(None, "connect_refused")));
        let facts = Facts {
            seed: 7,
            clipped: Clipped { prompts: 1, outputs: 0 },
            duration: Duration::from_millis(2100),
            interrupted: false,
        };
        Report::new(&summary, facts, &["us-east", "eu-west"].map(|name| Some(name.to_owned())))
    }

    #[test]
    fn json_is_the_contract() {
        let latency = |count: u64, [p50, p90, p99, max]: [Option<f64>; 4]| serde_json::json!({ "count": count, "p50": p50, "p90": p90, "p99": p99, "max": max });
        let json = serde_json::to_value(report()).unwrap();
        let mut fields: Vec<&String> = json.as_object().unwrap().keys().collect();
        fields.sort();
        assert_eq!(
            fields,
            [
                "causes",
                "clipped",
                "duration_ms",
                "end_to_end_ms",
                "inter_token_ms",
                "interrupted",
                "longest_unserved_ms",
                "output_tokens",
                "output_tokens_per_second",
                "prompt_tokens",
                "regions",
                "requests",
                "seed",
                "send_lag_ms",
                "served_per_second",
                "ttft_ms",
            ]
        );
        assert_eq!(
            json["requests"],
            serde_json::json!({ "scheduled": 4, "served": 2, "refused": 1, "failed": 1, "broken": 0, "not_sent": 0, "abandoned": 0 })
        );
        assert_eq!(json["ttft_ms"], latency(2, [Some(40.0); 4].map(|_| json["ttft_ms"]["max"].as_f64())));
        assert!((json["ttft_ms"]["max"].as_f64().unwrap() - 40.0).abs() < 0.1);
        assert_eq!(
            json["causes"],
            serde_json::json!([
                { "outcome": "refused", "status": 429, "code": "rate_limit_exceeded", "count": 1 },
                { "outcome": "failed", "status": null, "code": "connect_refused", "count": 1 },
            ])
        );
        assert_eq!(json["clipped"], serde_json::json!({ "prompts": 1, "outputs": 0 }));
        assert_eq!(json["seed"], 7);
        assert_eq!(json["longest_unserved_ms"], 1460.0);
        assert_eq!((&json["output_tokens"], &json["output_tokens_per_second"]), (&6.into(), &2.86.into()));
        assert_eq!(json["regions"][1]["name"], "eu-west");
        assert_eq!(json["regions"][1]["requests"]["failed"], 1);
        assert_eq!(json["regions"][1]["ttft_ms"]["count"], 1);
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let facts =
            Facts { seed: 7, clipped: Clipped::default(), duration: Duration::ZERO, interrupted: true };
        let empty = Report::new(&Summary::new(1), facts, &[None]);
        let json = serde_json::to_value(&empty).unwrap();
        assert!(json["ttft_ms"]["p99"].is_null() && json["longest_unserved_ms"].is_null(), "{json}");
        assert_eq!(json["regions"], serde_json::json!([]), "an address without a region is none");
        assert!(empty.shown().contains("first token"), "{}", empty.shown());
    }

    #[test]
    fn a_table_is_for_people() {
        let expected = "\
REQUESTS       COUNT     SHARE
served             2   50.00 %
refused            1   25.00 %
failed             1   25.00 %
broken             0    0.00 %
not sent           0    0.00 %
scheduled          4

MILLISECONDS        P50        P90        P99        MAX
first token        40.0       40.0       40.0       40.0
inter-token        20.0       30.0       30.0       30.0
end to end        100.0      100.0      100.0      100.0
sent late by        1.0        1.0        1.0        1.0

2.1 s: 0.95 requests/s served, 2.9 tokens/s (6 tokens)
longest time in which nothing was served: 1.46 s

WHY      STATUS  CODE                     COUNT
refused  429     rate_limit_exceeded          1
failed   -       connect_refused              1

REGION   SCHEDULED     SERVED    REFUSED     FAILED     BROKEN   NOT SENT   TTFT P50   TTFT P99
us-east          2          1          1          0          0          0       40.0       40.0
eu-west          2          1          0          1          0          0       40.0       40.0
";
        assert_eq!(report().shown(), expected, "{}", report().shown());
    }

    #[test]
    fn what_went_wrong_comes_with_what_to_do() {
        let none = Reasons::new();
        let hints = report().hints(true, &none);
        assert_eq!(hints.len(), 2, "{hints:?}");
        assert!(hints[0].contains("--rate") && hints[1].contains("listened"), "{hints:?}");
        let mut report = report();
        report.causes = vec![CauseCount {
            outcome: Kind::Refused,
            status: Some(401),
            code: "invalid_api_key".to_owned(),
            count: 4,
        }];
        assert!(report.hints(true, &none)[0].contains("rhumb key create"));
        assert!(report.hints(false, &none)[0].contains("RHUMB_KEY"));
    }

    #[test]
    fn each_way_not_to_reach_a_server_has_its_hint() {
        let why = "no route to host";
        for (status, code, word) in [
            (None, "connect_refused", "--url"),
            (None, "connect_failed", why),
            (None, "unknown_host", why),
            (None, "tls_failed", "--cacert"),
            (None, "tls_failed", why),
            (None, "timeout", "--timeout"),
            (Some(200), "no_done", "[DONE]"),
            (Some(503), "overloaded", "--rate"),
        ] {
            let cause = CauseCount { outcome: Kind::Failed, status, code: code.to_owned(), count: 4 };
            let report = Report { causes: vec![cause], ..report() };
            let reasons = [(code, why.to_owned())].into();
            let hints = report.hints(false, &reasons);
            assert!(hints.len() == 1 && hints[0].contains(word), "{code}: {hints:?}");
            assert!(!hints[0].contains("rhumb status"), "that tells of a sandbox only: {hints:?}");
        }
    }

    #[test]
    fn a_run_without_a_request_says_so() {
        let facts =
            Facts { seed: 7, clipped: Clipped::default(), duration: Duration::ZERO, interrupted: false };
        let hints = Report::new(&Summary::new(1), facts, &[None]).hints(true, &Reasons::new());
        assert!(hints.len() == 1 && hints[0].contains("no request"), "{hints:?}");
    }
}
