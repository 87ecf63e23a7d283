//! What was decided for the latest requests, and what came of it, so that each can be explained afterwards.
//!
//! Steps are kept as the values that decisions were made of; words and JSON are made when somebody asks.

use crate::route_page::Predicted;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use types::{ModelVersion, NodeKey, RequestId, TenantName, UnixMs};

/// The latest requests of one edge. One that has no key is not among them: strangers must not push others out.
#[derive(Debug, Default)]
pub(crate) struct DecisionLog {
    ring: Mutex<VecDeque<Arc<Decision>>>,
    /// Of all requests in the ring, and of those that left it and still run.
    steps: Arc<AtomicUsize>,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Decision {
    id: RequestId,
    began: Instant,
    began_unix_ms: UnixMs,
    tenant: TenantName,
    told: Mutex<Told>,
    steps: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Told {
    version: Option<ModelVersion>,
    steps: Vec<Step>,
    steps_left_out: u32,
    ended: Option<Ending>,
}

#[derive(Debug, Clone, Serialize)]
struct Step {
    /// Since the request's head was read.
    at_us: u64,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub(crate) enum What {
    /// An attempt was sent.
    Sent {
        attempt: u32,
        node: NodeKey,
        purpose: &'static str,
        reason: &'static str,
        predicted: Predicted,
    },
    /// Its first event came.
    Began {
        attempt: u32,
    },
    Failed {
        attempt: u32,
        why: String,
    },
    /// No node was found, or none was to be asked any more.
    Refused {
        why: String,
    },
    /// A stream said nothing for longer than it should.
    Suspected {
        position: u64,
        why: &'static str,
    },
    /// It spoke again before anyone else did.
    FalseAlarm,
    /// A stream that had begun was lost.
    Broke {
        position: u64,
        why: String,
    },
    /// The answer waits for its place among those that resume.
    Paced {
        wait_ms: u64,
    },
    /// The answer goes on elsewhere.
    Resumed {
        position: u64,
        exactness: &'static str,
        gap_ms: u64,
    },
    /// The answer could not be saved.
    Lost {
        why: String,
    },
}

/// How a request ended.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ending {
    pub(crate) ended: &'static str,
    pub(crate) status: Option<u16>,
    pub(crate) attempts: u32,
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) first_token_ms: Option<u64>,
    pub(crate) duration_ms: u64,
}

impl DecisionLog {
    pub(crate) fn begin(&self, id: RequestId, tenant: TenantName, began_unix_ms: UnixMs) -> Arc<Decision> {
        let (told, steps) = (Mutex::default(), self.steps.clone());
        let decision = Arc::new(Decision { id, began: Instant::now(), began_unix_ms, tenant, told, steps });
        let mut ring = lock(&self.ring);
        ring.push_back(decision.clone());
        if ring.len() > REQUESTS_MAX {
            ring.pop_front();
        }
        // One that still runs gives nothing back yet.
        for _ in 0..OLDEST_AT_ONCE {
            if self.steps.load(Relaxed) <= STEPS_MAX {
                break;
            }
            ring.pop_front();
        }
        drop(ring);
        decision
    }

    /// JSON of one request, as told by `edge`.
    pub(crate) fn explain(&self, id: RequestId, edge: &str) -> Option<String> {
        let found = lock(&self.ring).iter().rev().find(|decision| decision.id == id).cloned();
        found.map(|decision| decision.to_json(edge))
    }
}

impl Decision {
    pub(crate) fn add(&self, what: What) {
        let at_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut told = lock(&self.told);
        if told.steps.len() < STEPS_OF_ONE_MAX {
            told.steps.push(Step { at_us, what });
            self.steps.fetch_add(1, Relaxed);
        } else {
            told.steps_left_out += 1;
        }
    }

    pub(crate) fn asked_for(&self, version: ModelVersion) {
        lock(&self.told).version = Some(version);
    }

    pub(crate) fn ended(&self, ending: Ending) {
        lock(&self.told).ended = Some(ending);
    }

    fn to_json(&self, edge: &str) -> String {
        #[derive(Serialize)]
        struct Page<'a> {
            id: String,
            edge: &'a str,
            tenant: &'a str,
            version: Option<String>,
            began_unix_ms: u64,
            steps: &'a [Step],
            steps_left_out: u32,
            /// Null while it runs.
            ended: Option<&'a Ending>,
        }
        let told = lock(&self.told);
        let page = Page {
            id: self.id.to_string(),
            edge,
            tenant: self.tenant.as_str(),
            version: told.version.map(|version| version.to_string()),
            began_unix_ms: self.began_unix_ms.0,
            steps: &told.steps,
            steps_left_out: told.steps_left_out,
            ended: told.ended.as_ref(),
        };
        serde_json::to_string(&page).expect("strings and numbers always serialise")
    }
}

impl Drop for Decision {
    fn drop(&mut self) {
        let steps = self.told.get_mut().unwrap_or_else(PoisonError::into_inner).steps.len();
        self.steps.fetch_sub(steps, Relaxed);
    }
}

/// Whatever panicked under it must not end other requests.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Some minutes of a busy edge.
const REQUESTS_MAX: usize = 10_000;
/// Of 200 bytes or so each: about 20 MiB. An undisturbed request has two.
const STEPS_MAX: usize = 100_000;
/// Three attempts and two resumes have a dozen.
const STEPS_OF_ONE_MAX: usize = 64;
/// Twice as many as one request can add, so that the ring shrinks faster than it grows, and no request pays for many.
const OLDEST_AT_ONCE: usize = 2 * STEPS_OF_ONE_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: &str = "us-east/e1";

    fn id(number: u64) -> RequestId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        RequestId::from_random(bytes)
    }

    fn begin(log: &DecisionLog, number: u64) -> Arc<Decision> {
        log.begin(id(number), "acme".parse().unwrap(), UnixMs(7))
    }

    #[test]
    fn a_request_is_told_of_while_it_runs_and_after() {
        let log = DecisionLog::default();
        let decision = begin(&log, 1);
        decision.add(What::Failed { attempt: 1, why: "dead".to_owned() });
        let page = |log: &DecisionLog| -> serde_json::Value {
            serde_json::from_str(&log.explain(id(1), EDGE).unwrap()).unwrap()
        };
        let running = page(&log);
        assert_eq!((running["tenant"].as_str(), &running["ended"]), (Some("acme"), &serde_json::Value::Null));
        assert_eq!(
            (&running["steps"][0]["what"], &running["steps"][0]["why"]),
            (&"failed".into(), &"dead".into())
        );
        decision.ended(Ending {
            ended: "complete",
            status: Some(200),
            attempts: 2,
            prompt_tokens: 3,
            completion_tokens: 4,
            first_token_ms: None,
            duration_ms: 5,
        });
        drop(decision);
        assert_eq!(page(&log)["ended"]["ended"], "complete");
        assert_eq!(log.explain(id(2), EDGE), None);
    }

    #[test]
    fn the_latest_are_kept_and_no_more() {
        let log = DecisionLog::default();
        (0..=REQUESTS_MAX as u64).for_each(|number| drop(begin(&log, number)));
        assert_eq!(log.explain(id(0), EDGE), None);
        assert!(log.explain(id(1), EDGE).is_some() && log.explain(id(REQUESTS_MAX as u64), EDGE).is_some());
    }

    #[test]
    fn requests_of_many_steps_push_out_more() {
        let log = DecisionLog::default();
        for number in 0..2 * (STEPS_MAX / STEPS_OF_ONE_MAX) as u64 {
            let decision = begin(&log, number);
            (0..STEPS_OF_ONE_MAX + 3).for_each(|_| decision.add(What::FalseAlarm));
        }
        assert!(log.steps.load(Relaxed) <= STEPS_MAX + STEPS_OF_ONE_MAX);
        let page = log.explain(id(2 * (STEPS_MAX / STEPS_OF_ONE_MAX) as u64 - 1), EDGE).unwrap();
        assert!(page.contains(r#""steps_left_out":3"#));
        drop(log);
    }
}
