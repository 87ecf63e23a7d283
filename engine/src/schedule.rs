//! Which sequences compute which tokens in the next step. Pure: it counts tokens and never sees them.
//!
//! waiting --room--> running --end--> gone
//!    ^                 |
//!    +---preempted-----+
//!
//! Every running sequence decodes one token a step; prompts are computed in chunks beside them, so that a long
//! one cannot stall the others. Sequences start in the order in which they came. When the cache is full the
//! youngest gives up its blocks and waits at the front; later it computes its tokens again, the generated ones
//! included, and arrives at the same bits. The oldest is never preempted, so there is always progress.

use crate::kv::{BlockPool, BlockTable, blocks_for};
use std::collections::VecDeque;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sequences that run at once.
    pub slots: usize,
    /// Prompt tokens computed in one step.
    pub prefill_chunk: usize,
}

/// Tokens `from .. from + count` of a sequence are computed in this step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    pub id: SequenceId,
    pub from: usize,
    pub count: usize,
    /// The last known token is among them: the next one can be drawn.
    pub draws: bool,
}

/// What happens in one step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub work: Vec<Work>,
    pub preempted: Vec<SequenceId>,
}

/// Both lines in the order of arrival, and everybody who runs came before everybody who waits.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pool: BlockPool,
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Waiting {
    id: SequenceId,
    known: usize,
}

#[derive(Debug)]
struct Running {
    id: SequenceId,
    /// Prompt and generated tokens.
    known: usize,
    /// Those whose keys and values are in the cache.
    computed: usize,
    table: BlockTable,
}

impl Scheduler {
    pub fn new(limits: Limits, blocks: usize) -> Self {
        assert!(limits.slots > 0 && limits.prefill_chunk > 0, "no step could do anything");
        Self { limits, pool: BlockPool::new(blocks), waiting: VecDeque::new(), running: Vec::new() }
    }

    /// A new sequence. Its prompt and answer together must fit into the whole cache.
    pub fn enqueue(&mut self, id: SequenceId, prompt_tokens: usize) {
        assert!(
            prompt_tokens > 0 && blocks_for(prompt_tokens) <= self.pool.total(),
            "{prompt_tokens} tokens"
        );
        self.waiting.push_back(Waiting { id, known: prompt_tokens });
    }

    /// Decides one step. Whoever gets work must have it computed before the next step is asked for.
    pub fn next_step(&mut self) -> Step {
        let mut step = Step::default();
        let mut prefill_left = self.limits.prefill_chunk;
        self.continue_running(&mut step, &mut prefill_left);
        // Who was just preempted must not take the blocks back at once.
        if step.preempted.is_empty() {
            self.start_waiting(&mut step, &mut prefill_left);
        }
        for work in &step.work {
            let running = self.find(work.id);
            running.computed += work.count;
        }
        step
    }

    /// A token was drawn for a running sequence.
    pub fn drew(&mut self, id: SequenceId) {
        let running = self.find(id);
        assert!(running.computed == running.known, "a token was drawn before the ones in front of it");
        running.known += 1;
    }

    /// The sequence is over, wherever it stood; its blocks are free.
    pub fn remove(&mut self, id: SequenceId) {
        self.waiting.retain(|waiting| waiting.id != id);
        if let Some(at) = self.running.iter().position(|running| running.id == id) {
            self.pool.give_back(self.running.remove(at).table);
        }
    }

    /// The blocks of a sequence that has work.
    pub fn blocks(&self, id: SequenceId) -> &[u32] {
        self.running.iter().find(|running| running.id == id).map_or(&[], |running| running.table.numbers())
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    pub fn running(&self) -> usize {
        self.running.len()
    }

    pub fn free_blocks(&self) -> usize {
        self.pool.free()
    }

    /// Prompt tokens that are still to be computed; a running sequence's next token is none.
    pub fn uncomputed(&self) -> usize {
        let running = self.running.iter().map(|running| running.known - running.computed);
        running.filter(|left| *left > 1).sum::<usize>()
            + self.waiting.iter().map(|waiting| waiting.known).sum::<usize>()
    }

    fn continue_running(&mut self, step: &mut Step, prefill_left: &mut usize) {
        let mut at = 0;
        while at < self.running.len() {
            let count = self.running[at].next_count(*prefill_left);
            if count > 0 && !self.make_room(at, count, step) {
                // It was the youngest itself.
                break;
            }
            self.running[at].take(count, step, prefill_left);
            at += 1;
        }
    }

    /// Blocks for `count` more tokens, from the pool or else from the youngest. False if that was itself.
    fn make_room(&mut self, at: usize, count: usize, step: &mut Step) -> bool {
        loop {
            let running = &mut self.running[at];
            if self.pool.grow(&mut running.table, running.computed + count).is_ok() {
                return true;
            }
            let Some(Running { id, known, table, .. }) = self.running.pop() else { return false };
            self.pool.give_back(table);
            self.waiting.push_front(Waiting { id, known });
            step.preempted.push(id);
            if at == self.running.len() {
                assert!(at > 0, "one sequence alone outgrew the whole cache");
                return false;
            }
        }
    }

    fn start_waiting(&mut self, step: &mut Step, prefill_left: &mut usize) {
        while self.running.len() < self.limits.slots && *prefill_left > 0 {
            // Each running sequence may soon need one more block; starting into that reserve would only
            // mean being preempted for it.
            let reserve = self.running.len();
            let fits = |waiting: &mut Waiting| blocks_for(waiting.known) + reserve <= self.pool.free();
            let alone = self.running.is_empty();
            let Some(Waiting { id, known }) = self.waiting.pop_front_if(|waiting| alone || fits(waiting))
            else {
                return;
            };
            let mut table = BlockTable::default();
            self.pool
                .grow(&mut table, known)
                .expect("it fits, or the whole pool is free and no prompt exceeds it");
            let running = Running { id, known, computed: 0, table };
            let count = running.next_count(*prefill_left);
            running.take(count, step, prefill_left);
            self.running.push(running);
        }
    }

    fn find(&mut self, id: SequenceId) -> &mut Running {
        self.running.iter_mut().find(|running| running.id == id).expect("only running sequences get work")
    }
}

impl Running {
    /// A decoded token is always computed, so that nobody's stream stalls; prompts share what a step allows.
    fn next_count(&self, prefill_left: usize) -> usize {
        match self.known - self.computed {
            1 => 1,
            left => left.min(prefill_left),
        }
    }

    fn take(&self, count: usize, step: &mut Step, prefill_left: &mut usize) {
        let left = self.known - self.computed;
        if left > 1 {
            *prefill_left -= count;
        }
        if count > 0 {
            step.work.push(Work { id: self.id, from: self.computed, count, draws: count == left });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::BLOCK_TOKENS;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn scheduler(slots: usize, prefill_chunk: usize, blocks: usize) -> Scheduler {
        Scheduler::new(Limits { slots, prefill_chunk }, blocks)
    }

    fn work(id: u64, from: usize, count: usize, draws: bool) -> Work {
        Work { id: SequenceId(id), from, count, draws }
    }

    #[test]
    fn a_long_prompt_is_computed_beside_a_running_answer() {
        let mut scheduler = scheduler(4, 100, 64);
        scheduler.enqueue(SequenceId(1), 30);
        assert_eq!(scheduler.next_step().work, [work(1, 0, 30, true)]);
        scheduler.drew(SequenceId(1));
        scheduler.enqueue(SequenceId(2), 250);
        assert_eq!(scheduler.next_step().work, [work(1, 30, 1, true), work(2, 0, 100, false)]);
        scheduler.drew(SequenceId(1));
        assert_eq!(scheduler.next_step().work, [work(1, 31, 1, true), work(2, 100, 100, false)]);
        scheduler.drew(SequenceId(1));
        assert_eq!(scheduler.uncomputed(), 50);
        assert_eq!(scheduler.next_step().work, [work(1, 32, 1, true), work(2, 200, 50, true)]);
    }

    #[test]
    fn the_youngest_yields_and_waits_at_the_front() {
        let mut scheduler = scheduler(4, 100, 4);
        scheduler.enqueue(SequenceId(1), 16);
        scheduler.enqueue(SequenceId(2), 16);
        scheduler.enqueue(SequenceId(3), 40);
        scheduler.next_step();
        assert_eq!(scheduler.running(), 2);
        for _ in 0..16 {
            scheduler.drew(SequenceId(1));
            scheduler.drew(SequenceId(2));
            assert_eq!(scheduler.next_step().work.len(), 2);
        }
        scheduler.drew(SequenceId(1));
        scheduler.drew(SequenceId(2));
        let step = scheduler.next_step();
        assert_eq!(step, Step { work: vec![work(1, 32, 1, true)], preempted: vec![SequenceId(2)] });
        scheduler.remove(SequenceId(1));
        // Its 16 prompt tokens and the 17 that were drawn, all at once.
        assert_eq!(scheduler.next_step().work, [work(2, 0, 33, true)]);
    }

    #[derive(Debug, Clone)]
    struct Request {
        prompt: usize,
        answer: usize,
        /// The client leaves after so many steps.
        leaves_after: Option<usize>,
        comes_at: usize,
    }

    fn requests() -> impl Strategy<Value = Vec<Request>> {
        let one = (1..120usize, 1..60usize, prop::option::weighted(0.2, 0..40usize), 0..80usize).prop_map(
            |(prompt, answer, leaves_after, comes_at)| Request { prompt, answer, leaves_after, comes_at },
        );
        prop::collection::vec(one, 1..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn every_answer_ends_and_no_block_is_lost(
            mut requests in requests(), slots in 1..6usize, prefill_chunk in 1..64usize, spare in 0..20usize,
        ) {
            requests.sort_by_key(|request| request.comes_at);
            let blocks = blocks_for(120 + 60) + spare;
            let mut scheduler = scheduler(slots, prefill_chunk, blocks);
            let mut cached: BTreeMap<SequenceId, usize> = BTreeMap::new();
            let mut left: BTreeMap<SequenceId, (usize, usize)> = BTreeMap::new();
            let mut coming = requests.iter().enumerate().peekable();
            let mut starts = Vec::new();
            // Each token is computed once, and again at most once for each preemption of its sequence.
            let bound = 20_000;
            for now in 0.. {
                prop_assert!(now < bound, "no end in sight");
                while let Some((at, request)) = coming.next_if(|(_, request)| request.comes_at <= now) {
                    scheduler.enqueue(SequenceId(at as u64), request.prompt);
                    left.insert(SequenceId(at as u64), (request.prompt, request.answer));
                }
                left.retain(|id, _| {
                    let Request { leaves_after, comes_at, .. } = requests[id.0 as usize];
                    let leaves = leaves_after.is_some_and(|after| now >= comes_at + after);
                    if leaves { scheduler.remove(*id); }
                    !leaves
                });
                if left.is_empty() && coming.peek().is_none() { break; }
                let step = scheduler.next_step();
                prop_assert!(!step.work.is_empty() || left.is_empty(), "somebody waits and nobody works");
                prop_assert!(scheduler.running() <= slots);
                let prefill: usize = step.work.iter().filter(|work| work.count > 1).map(|work| work.count).sum();
                prop_assert!(prefill <= prefill_chunk);
                for id in &step.preempted {
                    cached.remove(id);
                }
                let mut held = 0;
                for work in &step.work {
                    // Tokens are computed in order, and again from the start after a preemption.
                    let done = cached.entry(work.id).or_default();
                    if work.from == 0 { *done = 0; }
                    prop_assert_eq!(work.from, *done);
                    *done += work.count;
                    prop_assert!(scheduler.blocks(work.id).len() * BLOCK_TOKENS >= *done);
                    if !starts.contains(&work.id) { starts.push(work.id); }
                    let (known, answer) = left.get_mut(&work.id).unwrap();
                    prop_assert_eq!(work.draws, *done == *known);
                    if work.draws {
                        *answer -= 1;
                        *known += 1;
                        if *answer == 0 {
                            scheduler.remove(work.id);
                            left.remove(&work.id);
                        } else {
                            scheduler.drew(work.id);
                        }
                    }
                }
                for running in &scheduler.running { held += running.table.held(); }
                prop_assert_eq!(held + scheduler.free_blocks(), blocks);
            }
            prop_assert!(scheduler.is_idle());
            prop_assert_eq!(scheduler.free_blocks(), blocks);
            prop_assert!(starts.is_sorted(), "somebody overtook: {:?}", starts);
        }
    }
}
