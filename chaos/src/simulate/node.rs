//! A node as its edges see it: a line, an accelerator that computes one prompt at a time, and slots for answers.

use super::arrivals::BLOCK_TOKENS;
use super::plan::NodePlan;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;
use types::{LoadFrame, LoadState, NodeKey, Priority};

pub(super) struct Node {
    pub(super) key: NodeKey,
    pub(super) region: usize,
    pub(super) alive: bool,
    pub(super) sick: bool,
    pub(super) slow: u32,
    /// Grows with every start; what was due before it is void.
    pub(super) boot: u64,
    plan: NodePlan,
    sequence: u64,
    line: BTreeMap<Place, Work>,
    arrived: u64,
    prefilling: Option<Work>,
    running: BTreeMap<usize, Running>,
    cache: Cache,
    measured: f64,
}

/// Resumes stand in front of their class: somebody is in the middle of reading.
type Place = (Reverse<Priority>, bool, u64);

#[derive(Debug, Clone)]
pub(super) struct Work {
    pub(super) attempt: usize,
    pub(super) class: Priority,
    pub(super) is_resume: bool,
    pub(super) prefill_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) blocks: Rc<[u64]>,
}

struct Running {
    since: Duration,
    step: Duration,
}

/// What a node begins to do, and how long it takes.
pub(super) struct Prefill {
    pub(super) attempt: usize,
    pub(super) takes: Duration,
    pub(super) blocks_hit: usize,
    pub(super) blocks: usize,
}

impl Node {
    pub(super) fn new(key: NodeKey, region: usize, plan: NodePlan) -> Self {
        Self {
            key,
            region,
            alive: true,
            sick: false,
            slow: 1,
            boot: 1,
            plan,
            sequence: 0,
            line: BTreeMap::new(),
            arrived: 0,
            prefilling: None,
            running: BTreeMap::new(),
            cache: Cache::new(plan.cache_blocks),
            measured: f64::from(plan.prefill_tokens_per_s),
        }
    }

    /// Takes work into the line; what there is no room for, this or lower work before it, comes back.
    pub(super) fn accept(&mut self, work: Work) -> Option<usize> {
        self.arrived += 1;
        let place = (Reverse(work.class), !work.is_resume, self.arrived);
        self.line.insert(place, work);
        if self.line.len() <= self.plan.queue_max {
            return None;
        }
        self.line.pop_last().map(|(_, work)| work.attempt)
    }

    /// Begins the next prompt if there is one, and room for its answer.
    pub(super) fn prefill(&mut self) -> Option<Prefill> {
        if self.prefilling.is_some() || self.running.len() >= self.plan.slots {
            return None;
        }
        let (_, work) = self.line.pop_first()?;
        let blocks_hit = self.cache.hits(&work.blocks);
        let known = blocks_hit as u64 * BLOCK_TOKENS;
        let compute = work.prefill_tokens.saturating_sub(known).max(1) as f64;
        let rate = f64::from(self.plan.prefill_tokens_per_s) / f64::from(self.slow);
        self.measured += (rate - self.measured) * 0.1;
        let started = Prefill {
            attempt: work.attempt,
            takes: Duration::from_secs_f64(compute / rate),
            blocks_hit,
            blocks: work.blocks.len(),
        };
        self.prefilling = Some(work);
        Some(started)
    }

    /// The first token is there; says how long the others take.
    pub(super) fn prefilled(&mut self, attempt: usize, now: Duration) -> Option<Duration> {
        let work = self.prefilling.take_if(|work| work.attempt == attempt)?;
        self.cache.keep(&work.blocks);
        let step = self.plan.step * self.slow;
        self.running.insert(attempt, Running { since: now, step });
        Some(step * u32::try_from(work.output_tokens.saturating_sub(1)).unwrap_or(u32::MAX))
    }

    pub(super) fn finished(&mut self, attempt: usize) -> bool {
        self.running.remove(&attempt).is_some()
    }

    /// Tokens of an answer that were sent by now.
    pub(super) fn produced(&self, attempt: usize, now: Duration) -> u64 {
        let Some(running) = self.running.get(&attempt) else { return 0 };
        1 + ((now - running.since).as_micros() / running.step.as_micros().max(1)) as u64
    }

    /// Forgets work that nobody waits for any more. A prompt that is being computed is computed to its end.
    pub(super) fn cancel(&mut self, attempt: usize) {
        self.line.retain(|_, work| work.attempt != attempt);
        self.running.remove(&attempt);
    }

    pub(super) fn start_anew(&mut self) {
        let boot = self.boot + 1;
        *self = Self::new(self.key.clone(), self.region, self.plan);
        self.boot = boot;
    }

    /// The process is gone, with everything in it.
    pub(super) fn die(&mut self) {
        self.start_anew();
        self.alive = false;
    }

    pub(super) fn queued(&self) -> usize {
        self.line.len()
    }

    pub(super) fn frame(&mut self) -> LoadFrame {
        self.sequence += 1;
        let waiting = self.line.values().chain(&self.prefilling);
        let held: u64 = self.running.len() as u64 * 1_200;
        LoadFrame {
            boot: self.boot,
            sequence: self.sequence,
            state: LoadState::Serving,
            replicas: 1,
            slots: self.plan.slots as u32,
            running: self.running.len() as u32,
            queued: self.line.len() as u32,
            queued_prefill_tokens: waiting.map(|work| work.prefill_tokens).sum(),
            kv_free_tokens: (self.plan.cache_blocks as u64).saturating_mul(BLOCK_TOKENS).saturating_sub(held),
            gpu_free_mib: 0,
            step_us: (self.plan.step * self.slow).as_micros() as u32,
            prefill_tokens_per_s: self.measured as u32,
            decode_tokens_per_s: (self.running.len() as f64 / (self.plan.step * self.slow).as_secs_f64())
                as u32,
        }
    }
}

/// Prompts' beginnings, block by block; the longest unused goes first.
struct Cache {
    room: usize,
    used: u64,
    by_block: HashMap<u64, u64>,
    by_use: BTreeMap<u64, u64>,
}

impl Cache {
    fn new(room: usize) -> Self {
        Self { room, used: 0, by_block: HashMap::new(), by_use: BTreeMap::new() }
    }

    fn hits(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|block| self.by_block.contains_key(*block)).count()
    }

    /// From the last block to the first: a beginning must not be forgotten before what follows it.
    fn keep(&mut self, blocks: &[u64]) {
        for block in blocks.iter().rev() {
            self.used += 1;
            if let Some(before) = self.by_block.insert(*block, self.used) {
                self.by_use.remove(&before);
            }
            self.by_use.insert(self.used, *block);
        }
        while self.by_use.len() > self.room {
            if let Some((_, block)) = self.by_use.pop_first() {
                self.by_block.remove(&block);
            }
        }
    }
}
