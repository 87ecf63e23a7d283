//! The last report of each node, and when it was made. Old ones are unknown, not zero: they are left out.

use proto::signal::NodeReport;
use proto::v1;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use types::NodeKey;

#[derive(Default)]
pub(super) struct Known {
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    /// From agents themselves.
    own: Table,
    /// From other members.
    others: Table,
}

#[derive(Default)]
struct Table(BTreeMap<NodeKey, Heard>);

struct Heard {
    report: NodeReport,
    made: Instant,
}

impl Known {
    /// From the node's agent. False where there are more nodes than there can be.
    pub(super) fn hear(&self, report: NodeReport, now: Instant) -> bool {
        self.tables().own.hear(report, now)
    }

    /// From another member, which says how old each report is.
    pub(super) fn hear_from_member(&self, reports: Vec<NodeReport>, now: Instant) {
        let mut tables = self.tables();
        for report in reports {
            if report.age > AGE_MAX {
                continue;
            }
            let made = now.checked_sub(report.age).unwrap_or(now);
            tables.others.hear(report, made);
        }
    }

    /// Drops what is too old to be told.
    pub(super) fn forget(&self, now: Instant) {
        let mut tables = self.tables();
        let Tables { own, others } = &mut *tables;
        for table in [own, others] {
            table.0.retain(|_, heard| now.saturating_duration_since(heard.made) <= AGE_MAX);
        }
    }

    /// What this member has heard itself.
    pub(super) fn own(&self, now: Instant) -> Vec<v1::NodeReport> {
        self.tables().own.0.values().filter_map(|heard| heard.told(now)).collect()
    }

    /// What all members have heard: of each node the newest.
    pub(super) fn all(&self, now: Instant) -> Vec<v1::NodeReport> {
        let tables = self.tables();
        let mut newest: BTreeMap<&NodeKey, &Heard> = tables.own.0.iter().collect();
        for (node, heard) in &tables.others.0 {
            let own = newest.entry(node).or_insert(heard);
            if own.made < heard.made {
                *own = heard;
            }
        }
        newest.values().filter_map(|heard| heard.told(now)).collect()
    }

    /// Nodes that report to this member.
    pub(super) fn count(&self) -> usize {
        self.tables().own.0.len()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The newer one stays.
    fn hear(&mut self, report: NodeReport, made: Instant) -> bool {
        let is_full = self.0.len() >= NODES_MAX;
        match self.0.get_mut(&report.node) {
            Some(before) if before.made <= made => *before = Heard { report, made },
            Some(_) => {}
            None if is_full => return false,
            None => {
                self.0.insert(report.node.clone(), Heard { report, made });
            }
        }
        true
    }
}

impl Heard {
    fn told(&self, now: Instant) -> Option<v1::NodeReport> {
        let age = now.saturating_duration_since(self.made);
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        (age <= AGE_MAX).then(|| v1::NodeReport { age_ms, ..(&self.report).into() })
    }
}

/// As many as the intent has at most.
const NODES_MAX: usize = 50_000;
/// Beyond, a report says nothing about now.
const AGE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn report(node: &str, age_ms: u64) -> NodeReport {
        NodeReport { node: node.parse().unwrap(), loads: Vec::new(), age: Duration::from_millis(age_ms) }
    }

    fn told(reports: &[v1::NodeReport]) -> Vec<(String, u64)> {
        reports.iter().map(|report| (format!("{}/{}", report.region, report.node), report.age_ms)).collect()
    }

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn the_newest_word_counts_and_old_words_are_left_out() {
        let (known, start) = (Known::default(), Instant::now() + Duration::from_secs(60));
        // What an agent says of its own age is not asked.
        assert!(known.hear(report("us-east/n1", 4_000), start));
        known.hear_from_member(vec![report("us-east/n1", 500), report("eu-west/n2", 100)], at(start, 1_000));
        let now = at(start, 2_000);
        assert_eq!(told(&known.own(now)), [("us-east/n1".to_owned(), 2_000)]);
        let all = [("eu-west/n2".to_owned(), 1_100), ("us-east/n1".to_owned(), 1_500)];
        assert_eq!(told(&known.all(now)), all);
        // An older word through another member replaces nothing.
        known.hear_from_member(vec![report("us-east/n1", 1_900)], now);
        assert_eq!(told(&known.all(now)), all);
        assert_eq!(told(&known.all(at(start, 5_600))), [("eu-west/n2".to_owned(), 4_700)]);
        known.forget(at(start, 60_000));
        assert_eq!((known.count(), known.tables().others.0.len()), (0, 0));
    }

    #[test]
    fn what_comes_too_old_is_not_heard() {
        let known = Known::default();
        known.hear_from_member(
            vec![report("us-east/n1", 5_001), report("us-east/n2", u64::MAX)],
            Instant::now(),
        );
        assert_eq!(known.tables().others.0.len(), 0);
    }

    #[test]
    fn there_are_only_so_many_nodes() {
        let (known, now) = (Known::default(), Instant::now());
        for number in 0..NODES_MAX {
            assert!(known.hear(report(&format!("us-east/n{number}"), 0), now));
        }
        assert!(!known.hear(report("us-east/one-more", 0), now));
        assert!(known.hear(report("us-east/n7", 0), now), "those who are known are heard");
    }
}
