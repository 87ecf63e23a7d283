//! How many nodes of a pool may be left alone at once for their failures.
//!
//! Failures that many nodes have in common are seldom the nodes' fault: a bad release, a strange prompt, a link. If
//! every breaker had its way, the pool would shrink under a load that stays, and the rest would fail by overload.

use crate::breaker::Breaker;
use types::Monotonic;

/// The nodes of one pool that are left alone now: of those with an open breaker, the most often opened first, as
/// many as may be.
pub fn ejected<'a, K: Ord + Copy>(
    pool: impl Iterator<Item = (K, Option<&'a Breaker>)>,
    now: Monotonic,
) -> Vec<K> {
    let mut size = 0;
    let mut open = Vec::new();
    for (key, breaker) in pool {
        size += 1;
        if let Some(breaker) = breaker.filter(|breaker| breaker.would_admit(now).is_err()) {
            open.push((std::cmp::Reverse(breaker.ejections()), key));
        }
    }
    let max = ejected_max(size);
    if open.len() > max {
        open.sort_unstable();
        open.truncate(max);
    }
    open.into_iter().map(|(_, key)| key).collect()
}

/// A third, at least one so that small pools are protected too, and always one node less than there are.
pub fn ejected_max(pool: usize) -> usize {
    (pool * EJECTED_PERCENT_MAX / 100).max(1).min(pool.saturating_sub(1))
}

const EJECTED_PERCENT_MAX: usize = 34;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::Outcome;
    use types::Monotonic;

    #[test]
    fn a_fault_in_common_does_not_empty_the_pool() {
        for (pool, max) in [(0, 0), (1, 0), (2, 1), (3, 1), (5, 1), (6, 2), (100, 34)] {
            assert_eq!(ejected_max(pool), max, "{pool} nodes");
        }
        let now = Monotonic::from_micros(0);
        let mut breakers = vec![Breaker::default(); 6];
        for breaker in &mut breakers {
            for _ in 0..5 {
                let permit = breaker.admit(now).unwrap();
                breaker.record(permit, Outcome::Failed, now);
            }
        }
        let out = |breakers: &[Breaker], now| ejected(breakers.iter().map(Some).enumerate(), now);
        assert!(breakers.iter().all(|breaker| breaker.would_admit(now).is_err()), "what it prevents");
        assert_eq!(out(&breakers, now), [0, 1]);
        // The one that fails again when its time is over is worse than the others.
        let later = now + std::time::Duration::from_secs(40);
        let permit = breakers[4].admit(later).unwrap();
        breakers[4].record(permit, Outcome::Failed, later);
        assert_eq!(out(&breakers, later), [4]);
    }
}
