//! What this node says of one model version: the engines' readings and our own line, as one frame.
//!
//! Counts that we keep ourselves are exact now; what only engines know is at most a second old. Where both know,
//! ours wins.

use crate::dispatch::Census;
use std::collections::BTreeMap;
use types::{LoadFrame, LoadState, ReplicaId};

/// Adds up readings. `boot` and `sequence` belong to the agent and are its to fill in.
pub fn sum(census: &Census, readings: &BTreeMap<ReplicaId, LoadFrame>, is_draining: bool) -> LoadFrame {
    let mut frame = LoadFrame {
        queued: census.waiting,
        queued_prefill_tokens: census.waiting_prompt_tokens,
        ..Default::default()
    };
    let mut steps_us = Vec::new();
    for (replica, seats) in &census.replicas {
        if !seats.trusted {
            // It takes nothing now, but what it has is not finished.
            frame.running = frame.running.saturating_add(seats.running);
            continue;
        }
        let reading = readings.get(replica).copied().unwrap_or_default();
        // An engine short of KV cache lets some of what we gave it wait.
        let waits_inside = reading.queued.min(seats.running);
        frame.replicas += 1;
        frame.slots = frame.slots.saturating_add(seats.slots);
        frame.running = frame.running.saturating_add(seats.running - waits_inside);
        frame.queued = frame.queued.saturating_add(waits_inside);
        frame.queued_prefill_tokens =
            frame.queued_prefill_tokens.saturating_add(reading.queued_prefill_tokens);
        frame.kv_free_tokens = frame.kv_free_tokens.saturating_add(reading.kv_free_tokens);
        frame.gpu_free_mib = frame.gpu_free_mib.saturating_add(reading.gpu_free_mib);
        frame.prefill_tokens_per_s = frame.prefill_tokens_per_s.saturating_add(reading.prefill_tokens_per_s);
        frame.decode_tokens_per_s = frame.decode_tokens_per_s.saturating_add(reading.decode_tokens_per_s);
        if reading.step_us > 0 {
            steps_us.push(u64::from(reading.step_us));
        }
    }
    if let Some(mean) = steps_us.iter().sum::<u64>().checked_div(steps_us.len() as u64) {
        frame.step_us = u32::try_from(mean).unwrap_or(u32::MAX);
    }
    frame.state = match (is_draining, frame.replicas) {
        (true, _) => LoadState::Draining,
        (false, 0) => LoadState::Starting,
        (false, _) => LoadState::Serving,
    };
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Seats;

    fn replica(number: u16) -> ReplicaId {
        format!("us-east/n1/{number}-0").parse().unwrap()
    }

    fn census(running: &[u32]) -> Census {
        let seats = |(number, running): (usize, &u32)| {
            (replica(number as u16), Seats { slots: 4, running: *running, trusted: true })
        };
        Census {
            waiting: 3,
            waiting_prompt_tokens: 100,
            replicas: running.iter().enumerate().map(seats).collect(),
            is_placed: true,
        }
    }

    #[test]
    fn readings_add_up_and_steps_average() {
        let reading = |step_us| LoadFrame {
            state: LoadState::Serving,
            queued_prefill_tokens: 10,
            kv_free_tokens: 1000,
            step_us,
            decode_tokens_per_s: 50,
            ..Default::default()
        };
        let readings = BTreeMap::from([(replica(0), reading(100)), (replica(1), reading(300))]);
        let frame = sum(&census(&[4, 2]), &readings, false);
        assert_eq!(frame.state, LoadState::Serving);
        assert_eq!((frame.replicas, frame.slots, frame.running, frame.queued), (2, 8, 6, 3));
        assert_eq!((frame.queued_prefill_tokens, frame.kv_free_tokens), (120, 2000));
        assert_eq!((frame.step_us, frame.decode_tokens_per_s), (200, 100));
    }

    #[test]
    fn what_waits_inside_an_engine_is_not_running() {
        // The second engine's reading is old: it speaks of more than we have given it since.
        let reading = |queued| LoadFrame { queued, ..Default::default() };
        let readings = BTreeMap::from([(replica(0), reading(1)), (replica(1), reading(9))]);
        let frame = sum(&census(&[4, 2]), &readings, false);
        assert_eq!((frame.running, frame.queued), (3, 3 + 1 + 2));
    }

    #[test]
    fn a_replica_without_a_reading_has_room_and_a_suspected_one_has_none() {
        let mut census = census(&[1, 1]);
        census.replicas.get_mut(&replica(1)).unwrap().trusted = false;
        let frame = sum(&census, &BTreeMap::new(), false);
        assert_eq!((frame.replicas, frame.slots, frame.running), (1, 4, 2));
    }

    #[test]
    fn the_state_says_whether_work_is_welcome() {
        let none = BTreeMap::new();
        assert_eq!(sum(&census(&[]), &none, false).state, LoadState::Starting);
        assert_eq!(sum(&census(&[]), &none, true).state, LoadState::Draining);
        assert_eq!(sum(&census(&[0]), &none, true).state, LoadState::Draining);
    }
}
