//! Predicts how long a node needs to the first token of a request.

use crate::ask::Prediction;
use types::LoadFrame;

/// What is known of one version on one node, as prediction needs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Whether the node, or someone else, spoke of it lately; else only this edge's own requests are counted.
    pub(crate) is_known: bool,
    /// Requests that run or wait there, this edge's newest included.
    pub(crate) outstanding: u64,
    /// Prompt tokens not computed yet, likewise.
    pub(crate) queued_tokens: u64,
    /// Sequences that run at once; 0 = not known.
    pub(crate) slots: u64,
    /// Prompt tokens that all replicas compute in a second; 0 = not measured.
    pub(crate) prefill_rate: u64,
    pub(crate) replicas: u64,
    pub(crate) step_us: u64,
    /// `None` = the engine does not count it.
    pub(crate) kv_free_tokens: Option<u64>,
    pub(crate) gpu_free_mib: u64,
}

/// What nodes of a pool have in common; stands in for what one of them has not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usual {
    pub(crate) prefill_rate: u64,
    pub(crate) slots: u64,
    pub(crate) outstanding: u64,
    pub(crate) queued_tokens: u64,
    pub(crate) rtt_us: u64,
}

impl Load {
    /// Of a frame, with what this edge has begun there since.
    pub(crate) fn of(frame: &LoadFrame, begun: u64, begun_tokens: u64) -> Self {
        // An engine that runs something holds keys and values; zero free and nothing running is a missing figure.
        let counts_kv = frame.kv_free_tokens > 0 || frame.running > 0 && frame.step_us > 0;
        Self {
            is_known: true,
            outstanding: u64::from(frame.running) + u64::from(frame.queued) + begun,
            queued_tokens: frame.queued_prefill_tokens.saturating_add(begun_tokens),
            slots: frame.slots.into(),
            prefill_rate: frame.prefill_tokens_per_s.into(),
            replicas: frame.replicas.into(),
            step_us: frame.step_us.into(),
            kv_free_tokens: counts_kv.then_some(frame.kv_free_tokens),
            gpu_free_mib: frame.gpu_free_mib.into(),
        }
    }

    /// Of a node that nobody has spoken of lately.
    pub(crate) fn unknown(in_flight: u64, in_flight_tokens: u64) -> Self {
        Self { outstanding: in_flight, queued_tokens: in_flight_tokens, ..Self::default() }
    }

    /// Unknown is not empty: beside what this edge has there, such a node is taken to be as busy as the others.
    pub(crate) fn outstanding(&self, usual: &Usual) -> u64 {
        if self.is_known { self.outstanding } else { self.outstanding.max(usual.outstanding) }
    }

    fn queued_tokens(&self, usual: &Usual) -> u64 {
        if self.is_known { self.queued_tokens } else { self.queued_tokens.max(usual.queued_tokens) }
    }
}

/// The parts of the time to the first token of a prompt of which the node probably holds `held_tokens`.
pub(crate) fn predict(
    load: &Load,
    usual: &Usual,
    rtt_us: Option<u64>,
    prompt_tokens: u64,
    held_tokens: u64,
) -> Prediction {
    let rate = if load.prefill_rate > 0 { load.prefill_rate } else { usual.prefill_rate }.max(1);
    // All replicas work on the queue; one of them computes this prompt.
    let rate_of_one = (rate / load.replicas.max(1)).max(1);
    let slots = if load.slots > 0 { load.slots } else { usual.slots }.max(1);
    Prediction {
        rtt_us: rtt_us.unwrap_or(usual.rtt_us),
        queue_us: load.queued_tokens(usual).saturating_mul(SECOND_US) / rate,
        slot_us: slot_us(load.outstanding(usual), slots, load.step_us),
        prefill_us: prompt_tokens.saturating_sub(held_tokens).saturating_mul(SECOND_US) / rate_of_one,
        memory_us: memory_us(load, prompt_tokens),
    }
}

/// A slot comes free whenever one of `slots` answers ends.
pub(crate) fn slot_us(outstanding: u64, slots: u64, step_us: u64) -> u64 {
    let Some(ahead) = (outstanding + 1).checked_sub(slots).filter(|ahead| *ahead > 0) else { return 0 };
    let step_us = if step_us > 0 { step_us } else { STEP_US };
    ahead.saturating_mul(step_us.saturating_mul(ANSWER_STEPS)) / slots.max(1)
}

/// The same if all answers were short: what is waited for in any case.
pub(crate) fn slot_us_least(outstanding: u64, slots: u64, step_us: u64) -> u64 {
    slot_us(outstanding, slots, step_us) / ANSWER_STEPS * ANSWER_STEPS_LEAST
}

/// Nothing while there is room, then ever more: a node that evicts makes all its answers slow.
fn memory_us(load: &Load, prompt_tokens: u64) -> u64 {
    let need = prompt_tokens.saturating_add(ANSWER_STEPS);
    let kv = match load.kv_free_tokens {
        Some(free) if free < need.saturating_mul(ROOM_TIMES) => {
            // From 0 where there is room for several such requests to 1000 where there is none.
            let lack = 1000 - free.saturating_mul(1000) / need.saturating_mul(ROOM_TIMES).max(1);
            (lack * lack / 1000) * lack / 1000 * MEMORY_US_MAX / 1000
        }
        _ => 0,
    };
    let gpu = match load.gpu_free_mib {
        0 => 0,
        free => GPU_FREE_MIB_MIN.saturating_sub(free) * (MEMORY_US_MAX / 10) / GPU_FREE_MIB_MIN,
    };
    kv + gpu
}

const SECOND_US: u64 = 1_000_000;
/// Tokens of a usual answer.
const ANSWER_STEPS: u64 = 200;
/// Few answers are shorter. How long answers are is a guess, and no guess turns a request away.
const ANSWER_STEPS_LEAST: u64 = 32;
/// A mid-size model's step on one accelerator, until one was measured.
const STEP_US: u64 = 20_000;
/// Room for so many requests of this size is room enough.
const ROOM_TIMES: u64 = 4;
/// Longer than any queue that is worth waiting in, short of the deadline of a first token.
const MEMORY_US_MAX: u64 = 20_000_000;
/// Less, and the next allocation of an engine may fail.
const GPU_FREE_MIB_MIN: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USUAL: Usual =
        Usual { prefill_rate: 1000, slots: 4, outstanding: 0, queued_tokens: 0, rtt_us: 1000 };

    fn total(load: &Load, prompt: u64) -> u64 {
        predict(load, &USUAL, None, prompt, 0).total_us()
    }

    #[test]
    fn the_parts_are_what_their_names_say() {
        let load = Load {
            is_known: true,
            outstanding: 5,
            queued_tokens: 500,
            slots: 4,
            prefill_rate: 2000,
            replicas: 2,
            step_us: 10_000,
            kv_free_tokens: Some(1_000_000),
            gpu_free_mib: 0,
        };
        let expected = Prediction {
            rtt_us: 7,
            queue_us: 250_000,
            slot_us: 2 * 200 * 10_000 / 4,
            prefill_us: 70_000,
            memory_us: 0,
        };
        assert_eq!(predict(&load, &USUAL, Some(7), 100, 30), expected);
        let full = Load { kv_free_tokens: Some(0), ..load };
        assert!(predict(&full, &USUAL, Some(7), 100, 30).memory_us > 10_000_000);
    }

    #[test]
    fn unknown_is_as_busy_as_others_not_empty() {
        let usual = Usual { outstanding: 9, queued_tokens: 800, ..USUAL };
        let unknown = predict(&Load::unknown(1, 0), &usual, None, 100, 0);
        assert_eq!((unknown.queue_us, unknown.slot_us > 0), (800_000, true));
    }

    proptest! {
        #[test]
        fn more_to_do_never_improves_a_prediction(
            outstanding in 0_u64..100, queued in 0_u64..1_000_000, kv in prop::option::of(0_u64..10_000),
            slots in 0_u64..32, rate in 0_u64..100_000, prompt in 0_u64..200_000,
            more in 0_u64..100_000,
        ) {
            let load = Load {
                is_known: true, outstanding, queued_tokens: queued, slots, prefill_rate: rate, replicas: 1,
                step_us: 0, kv_free_tokens: kv, gpu_free_mib: 0,
            };
            let before = total(&load, prompt);
            let busier = [
                Load { outstanding: outstanding + more, ..load },
                Load { queued_tokens: queued + more, ..load },
                Load { kv_free_tokens: kv.map(|free| free.saturating_sub(more)), ..load },
            ];
            for busier in busier {
                prop_assert!(total(&busier, prompt) >= before, "{:?}", busier);
            }
            prop_assert!(total(&load, prompt + more) >= before);
        }

        #[test]
        fn no_figures_of_a_strange_peer_break_it(a: u64, b: u64, c: u64, d: u64) {
            let load = Load {
                is_known: true, outstanding: a >> 20, queued_tokens: b, slots: c >> 32, prefill_rate: d >> 32,
                replicas: a >> 40, step_us: b >> 32, kv_free_tokens: Some(c), gpu_free_mib: d >> 40,
            };
            let _ = total(&load, a);
        }
    }
}
