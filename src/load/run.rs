//! One run: requests go out when the schedule says, whatever became of those before them.

use crate::load::arrivals::{Arrival, Schedule};
use crate::load::record::{Outcome, Record, Seen};
use crate::load::send::Client;
use crate::load::summary::Summary;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

pub struct Run {
    pub schedule: Schedule,
    pub client: Arc<Client>,
    /// An arrival beyond it is counted and not sent.
    pub in_flight_max: usize,
    /// Ends the run early.
    pub stop: CancellationToken,
}

/// What a run tells while it goes on.
pub enum Told<'a> {
    Ended(&'a Record),
    Passed(Progress<'a>),
}

/// How far a run is, told several times a second.
pub struct Progress<'a> {
    pub elapsed: Duration,
    pub in_flight: usize,
    pub summary: &'a Summary,
}

pub struct Finished {
    pub summary: Summary,
    pub duration: Duration,
    pub interrupted: bool,
}

enum Event {
    Due,
    Ended(Record),
    Tick,
    Stopped,
}

impl Run {
    pub async fn finish(self, mut tell: impl FnMut(Told<'_>)) -> Finished {
        let Self { mut schedule, client, in_flight_max, stop } = self;
        let mut summary = Summary::new(client.targets.len());
        let mut running: JoinSet<Record> = JoinSet::new();
        let mut interrupted = false;
        let began = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut next = schedule.next();
        while next.is_some() || !running.is_empty() {
            let due = next.as_ref().map_or(began, |arrival| began + arrival.at);
            let event = tokio::select! {
                () = sleep_until(due), if next.is_some() => Event::Due,
                Some(ended) = running.join_next() => Event::Ended(finished(ended)),
                _ = ticks.tick() => Event::Tick,
                () = stop.cancelled(), if !interrupted => Event::Stopped,
            };
            match event {
                Event::Due => {
                    let Some(arrival) = next.take() else { continue };
                    next = schedule.next();
                    // What ended in the meantime is no longer in flight.
                    while running.len() >= in_flight_max
                        && let Some(ended) = running.try_join_next()
                    {
                        settle(finished(ended), &mut summary, &mut tell);
                    }
                    if running.len() >= in_flight_max {
                        settle(not_sent(&arrival, began.elapsed()), &mut summary, &mut tell);
                        continue;
                    }
                    let (client, stop) = (client.clone(), stop.clone());
                    running.spawn(async move { client.send(arrival, began, &stop).await });
                }
                Event::Ended(record) => settle(record, &mut summary, &mut tell),
                Event::Tick => tell(Told::Passed(Progress {
                    elapsed: began.elapsed(),
                    in_flight: running.len(),
                    summary: &summary,
                })),
                // What is still running ends by the same word.
                Event::Stopped => {
                    interrupted = true;
                    next = None;
                }
            }
        }
        Finished { summary, duration: began.elapsed(), interrupted }
    }
}

fn settle(record: Record, summary: &mut Summary, tell: &mut impl FnMut(Told<'_>)) {
    summary.add(&record);
    tell(Told::Ended(&record));
}

fn finished(ended: Result<Record, tokio::task::JoinError>) -> Record {
    ended.expect("no request is aborted, and none panics")
}

fn not_sent(arrival: &Arrival, now: Duration) -> Record {
    Record {
        target: arrival.target,
        scheduled: arrival.at,
        sent: None,
        seen: Seen::default(),
        end: now,
        outcome: Outcome::NotSent,
    }
}

const TICK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::arrivals::{Poisson, Span};
    use crate::load::target::{Target, TrustError};
    use tokio::net::TcpListener;

    /// Half a second of arrivals to a server that takes connections and never answers; stopped once so many run.
    async fn run(in_flight_max: usize, stops_at: usize) -> (Finished, Vec<Record>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let wish = Poisson {
            rate: 200.0,
            duration: Duration::from_millis(500),
            prompt_tokens: Span { min: 8, max: 8 },
            output_tokens: Span { min: 1, max: 1 },
        };
        let stop = CancellationToken::new();
        let client = Client {
            targets: vec![Target::new(&url, None, || Err(TrustError::NoSystemRoots)).unwrap()],
            authorization: None,
            model: "m".to_owned(),
            streams: true,
            ignore_eos: true,
            timeout: Duration::from_secs(2),
        };
        let run = Run {
            schedule: Schedule::poisson(wish, 1, 7),
            client: Arc::new(client),
            in_flight_max,
            stop: stop.clone(),
        };
        let mut records = Vec::new();
        let tell = |told: Told<'_>| match told {
            Told::Ended(record) => records.push(record.clone()),
            Told::Passed(progress) if progress.in_flight >= stops_at => stop.cancel(),
            Told::Passed(_) => {}
        };
        let finished = run.finish(tell).await;
        (finished, records)
    }

    #[tokio::test]
    async fn a_server_that_hangs_keeps_no_arrival_from_being_sent() {
        let (finished, records) = run(1000, usize::MAX).await;
        let counts = finished.summary.all.counts;
        assert!((60..150).contains(&counts.scheduled), "{counts:?}");
        assert_eq!((counts.failed, counts.not_sent), (counts.scheduled, 0), "all by time-out");
        // The first answer, a time-out, came 2 s after the first arrival.
        assert!(records.iter().all(|record| record.sent.is_some_and(|at| at < Duration::from_secs(2))));
        assert_eq!(records.len() as u64, counts.scheduled);
    }

    #[tokio::test]
    async fn an_arrival_beyond_the_bound_is_counted_and_never_sent_later() {
        let (finished, records) = run(5, usize::MAX).await;
        let counts = finished.summary.all.counts;
        assert_eq!((counts.failed, counts.not_sent), (5, counts.scheduled - 5));
        assert!(
            records
                .iter()
                .filter(|record| record.outcome == Outcome::NotSent)
                .all(|record| { record.sent.is_none() && record.end < Duration::from_secs(2) })
        );
    }

    #[tokio::test]
    async fn whoever_stops_a_run_gets_what_was_measured() {
        let (Finished { summary, duration, interrupted }, _) = run(1000, 5).await;
        let counts = summary.all.counts;
        assert!(interrupted && duration < Duration::from_secs(2), "{duration:?}");
        assert!(counts.abandoned > 0 && counts.abandoned == counts.scheduled, "{counts:?}");
    }
}
