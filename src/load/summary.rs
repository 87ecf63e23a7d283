//! Records added up as they come: counts, latencies, causes. Pure, and of one size however long the run is.

use crate::load::record::{Cause, Kind, Record};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// A run so far.
#[derive(Debug)]
pub struct Summary {
    pub all: Group,
    /// One for each target.
    pub targets: Vec<Group>,
    pub causes: BTreeMap<(Kind, Cause), u64>,
}

/// Requests that are looked at together.
#[derive(Debug)]
pub struct Group {
    pub counts: Counts,
    /// From the scheduled moment to the first event with text; of every stream that had one.
    pub first_token: Histogram<u64>,
    /// Between events with text; of every stream.
    pub inter_token: Histogram<u64>,
    /// From the scheduled moment to the end; of what was served.
    pub end_to_end: Histogram<u64>,
    /// How late this client itself was: from the scheduled moment to the sending.
    pub send_lag: Histogram<u64>,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    service: Service,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counts {
    pub scheduled: u64,
    pub served: u64,
    pub refused: u64,
    pub failed: u64,
    pub broken: u64,
    pub not_sent: u64,
    pub abandoned: u64,
}

/// When requests were served, to a hundredth of a second: one bit for each.
#[derive(Debug, Default)]
struct Service {
    slots: Vec<u64>,
    first: Option<Duration>,
    last: Duration,
}

impl Summary {
    pub fn new(targets: usize) -> Self {
        Self {
            all: Group::new(),
            targets: (0..targets).map(|_| Group::new()).collect(),
            causes: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, record: &Record) {
        self.all.add(record);
        self.targets[record.target].add(record);
        let Some(cause) = record.outcome.cause() else { return };
        let kind = record.outcome.kind();
        let known = (kind, cause.clone());
        // Codes are the server's words, and there is no end to what a server may say.
        let key = match self.causes.len() < CAUSES_MAX || self.causes.contains_key(&known) {
            true => known,
            false => (kind, Cause { status: None, code: OTHERS.to_owned() }),
        };
        *self.causes.entry(key).or_default() += 1;
    }
}

impl Group {
    fn new() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, DIGITS).expect("the bounds are in order");
        Self {
            counts: Counts::default(),
            first_token: histogram(),
            inter_token: histogram(),
            end_to_end: histogram(),
            send_lag: histogram(),
            prompt_tokens: 0,
            output_tokens: 0,
            service: Service::default(),
        }
    }

    fn add(&mut self, record: &Record) {
        let kind = record.outcome.kind();
        self.counts.add(kind);
        self.prompt_tokens += record.seen.prompt_tokens;
        self.output_tokens += record.seen.output_tokens;
        if let Some(sent) = record.sent {
            add(&mut self.send_lag, sent.saturating_sub(record.scheduled));
        }
        if let Some(time) = record.time_to_first_token() {
            add(&mut self.first_token, time);
        }
        for gap in &record.seen.gaps {
            self.inter_token.saturating_record(u64::from(*gap));
        }
        if kind == Kind::Served {
            add(&mut self.end_to_end, record.end.saturating_sub(record.scheduled));
        }
        self.service.add(record, kind == Kind::Served);
    }

    /// The longest time without a first token of a request that was then served (a whole answer has only its
    /// end), between the first arrival and the last: what clients saw of an outage.
    pub fn longest_unserved(&self) -> Option<Duration> {
        self.service.longest_gap()
    }
}

impl Counts {
    fn add(&mut self, kind: Kind) {
        self.scheduled += 1;
        *match kind {
            Kind::Served => &mut self.served,
            Kind::Refused => &mut self.refused,
            Kind::Failed => &mut self.failed,
            Kind::Broken => &mut self.broken,
            Kind::NotSent => &mut self.not_sent,
            Kind::Abandoned => &mut self.abandoned,
        } += 1;
    }

    /// Everything that did not go as a client wishes. What the user ended is not among it.
    pub fn errors(&self) -> u64 {
        self.refused + self.failed + self.broken + self.not_sent
    }
}

impl Service {
    fn add(&mut self, record: &Record, is_served: bool) {
        let scheduled = record.scheduled;
        self.first = Some(self.first.map_or(scheduled, |first| first.min(scheduled)));
        self.last = self.last.max(scheduled);
        if !is_served {
            return;
        }
        let slot = record.seen.first_token.unwrap_or(record.end).as_millis() / SLOT_MILLIS;
        let (word, bit) = ((slot / 64) as usize, slot % 64);
        if word >= WORDS_MAX {
            return;
        }
        if word >= self.slots.len() {
            self.slots.resize(word + 1, 0);
        }
        self.slots[word] |= 1 << bit;
    }

    fn longest_gap(&self) -> Option<Duration> {
        let slot_of = |moment: Duration| moment.as_millis() / SLOT_MILLIS;
        let (begin, end) = (slot_of(self.first?), slot_of(self.last));
        let served = self.slots.iter().enumerate().flat_map(|(word, bits)| {
            let is_set = move |bit: &u128| bits & (1 << *bit) != 0;
            (0..64).filter(is_set).map(move |bit| word as u128 * 64 + bit)
        });
        let (mut longest, mut since) = (0, begin);
        for slot in served.take_while(|slot| *slot < end).chain([end]) {
            longest = longest.max(slot.saturating_sub(since));
            since = since.max(slot);
        }
        Some(Duration::from_millis(u64::try_from(longest * SLOT_MILLIS).unwrap_or(u64::MAX)))
    }
}

fn add(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

/// Whoever waited longer than this left long before.
const LATENCY_MICROS_MAX: u64 = 3_600_000_000;
/// A thousandth of each value is finer than any two runs agree.
const DIGITS: u8 = 3;
const CAUSES_MAX: usize = 64;
const OTHERS: &str = "others";
const SLOT_MILLIS: u128 = 10;
/// A month: 32 MiB. No run is longer.
const WORDS_MAX: usize = 1 << 22;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::record::{Outcome, Seen};

    fn record(scheduled_ms: u64, first_token_ms: Option<u64>, outcome: Outcome) -> Record {
        Record {
            target: 0,
            scheduled: Duration::from_millis(scheduled_ms),
            sent: Some(Duration::from_millis(scheduled_ms + 1)),
            seen: Seen { first_token: first_token_ms.map(Duration::from_millis), ..Seen::default() },
            end: Duration::from_millis(first_token_ms.unwrap_or(scheduled_ms) + 100),
            outcome,
        }
    }

    fn cause(code: &str) -> Cause {
        Cause { status: None, code: code.to_owned() }
    }

    fn summary(records: impl IntoIterator<Item = Record>) -> Summary {
        let mut summary = Summary::new(1);
        records.into_iter().for_each(|record| summary.add(&record));
        summary
    }

    #[test]
    fn every_request_counts_once() {
        let summary = summary([
            record(0, Some(10), Outcome::Served),
            record(0, None, Outcome::Refused(cause("a"))),
            record(0, None, Outcome::Failed(cause("a"))),
            record(0, Some(10), Outcome::Broken(cause("b"))),
            record(0, Some(10), Outcome::Broken(cause("b"))),
            record(0, None, Outcome::NotSent),
            record(0, None, Outcome::Abandoned),
        ]);
        let expected =
            Counts { scheduled: 7, served: 1, refused: 1, failed: 1, broken: 2, not_sent: 1, abandoned: 1 };
        assert_eq!((summary.all.counts, summary.targets[0].counts), (expected, expected));
        assert_eq!(expected.errors(), 5);
        let causes: Vec<_> = summary
            .causes
            .iter()
            .map(|((kind, cause), count)| (*kind, cause.code.as_str(), *count))
            .collect();
        assert_eq!(causes, [(Kind::Refused, "a", 1), (Kind::Failed, "a", 1), (Kind::Broken, "b", 2)]);
    }

    #[test]
    fn time_runs_from_the_scheduled_moment() {
        let mut late = record(1000, Some(1500), Outcome::Served);
        late.sent = Some(Duration::from_millis(1400));
        let summary = summary([late]);
        let near = |histogram: &Histogram<u64>, millis: u64| {
            assert_eq!(histogram.len(), 1);
            assert!(
                histogram.max().abs_diff(millis * 1000) <= millis,
                "{} is not {millis} ms",
                histogram.max()
            );
        };
        near(&summary.all.first_token, 500);
        near(&summary.all.end_to_end, 600);
        near(&summary.all.send_lag, 400);
    }

    #[test]
    fn what_was_not_served_has_no_end_to_end_time() {
        let summary = summary([
            record(0, Some(10), Outcome::Broken(cause("b"))),
            record(0, None, Outcome::Failed(cause("timeout"))),
        ]);
        assert_eq!((summary.all.end_to_end.len(), summary.all.first_token.len()), (0, 1));
    }

    #[test]
    fn an_outage_is_the_longest_time_in_which_nothing_was_served() {
        let gap = |records: Vec<Record>| summary(records).all.longest_unserved();
        let served = |at| record(at, Some(at + 100), Outcome::Served);
        let broken = |at| record(at, Some(at + 100), Outcome::Broken(cause("b")));
        let millis = |millis| Some(Duration::from_millis(millis));
        assert_eq!(gap(vec![]), None);
        assert_eq!(gap(vec![served(0), served(500), served(900)]), millis(500));
        assert_eq!(gap(vec![served(0), broken(500), served(900)]), millis(800), "broken is not served");
        assert_eq!(
            gap(vec![served(0), record(200, Some(5000), Outcome::Served)]),
            millis(100),
            "to the last arrival"
        );
        assert_eq!(gap(vec![broken(0), broken(5000)]), millis(5000), "nothing was ever served");
        assert_eq!(gap(vec![served(0), broken(5000)]), millis(4900), "it did not come back");
        assert_eq!(gap(vec![served(900), served(0), served(500)]), millis(500), "whatever ended first");
        assert_eq!(gap(vec![served(60_000), served(60_110)]), millis(100), "from the first arrival");
    }

    #[test]
    fn a_server_with_endless_codes_fills_no_memory() {
        let codes = (0..1000).map(|code| record(0, None, Outcome::Failed(cause(&format!("c{code}")))));
        let summary = summary(codes);
        assert_eq!(summary.causes.len(), CAUSES_MAX + 1);
        assert_eq!(summary.causes.values().sum::<u64>(), 1000);
    }
}
