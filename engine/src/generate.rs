//! The step loop: one thread owns model, cache and scheduler, and turns sequences into events.

use crate::backend::cpu::KvCache;
use crate::kv::{BLOCK_TOKENS, blocks_for};
use crate::load::{Load, Standing};
use crate::metrics::{Metrics, Outcome};
use crate::model::{Model, Part};
use crate::queue::{Command, Event, Place, Request};
use crate::schedule::{Limits, Scheduler, SequenceId, Step, Work};
use crate::sequence::{Progress, Sequence};
use crate::tokenizer::Tokenizer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{Receiver, Sender};
use tracing::error;

#[derive(Debug)]
pub struct Generator {
    model: Model,
    tokenizer: Arc<Tokenizer>,
    cache: KvCache,
    scheduler: Scheduler,
    answers: BTreeMap<SequenceId, Answer>,
    ids: u64,
    /// A step takes at least so long.
    step_time: Duration,
    load: Arc<Load>,
    metrics: Arc<Metrics>,
}

/// A sequence and who listens to it.
#[derive(Debug)]
struct Answer {
    sequence: Sequence,
    events: Sender<Event>,
    came: Instant,
    place: Place,
}

impl Generator {
    pub fn new(
        model: Model,
        tokenizer: Arc<Tokenizer>,
        limits: Limits,
        kv_tokens: usize,
        step_time: Duration,
        load: Arc<Load>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let blocks = blocks_for(kv_tokens);
        let cache = model.cache(blocks);
        let scheduler = Scheduler::new(limits, blocks);
        Self {
            model,
            tokenizer,
            cache,
            scheduler,
            answers: BTreeMap::new(),
            ids: 0,
            step_time,
            load,
            metrics,
        }
    }

    pub fn vocabulary(&self) -> usize {
        self.model.config().vocabulary
    }

    /// What ends an answer, unless the client ignores it.
    pub fn end_tokens(&self) -> Vec<u32> {
        self.model.config().end_tokens.clone()
    }

    /// Works until everybody who could send a command is gone, or until told to halt.
    pub fn run(mut self, mut commands: Receiver<Command>) {
        while self.take_in(&mut commands).is_some() {
            self.drop_abandoned();
            if !self.scheduler.is_idle() {
                self.step();
            }
            self.load.stands(self.standing());
        }
    }

    /// Takes in all that has come; waits where there is nothing else to do. None means: end.
    fn take_in(&mut self, commands: &mut Receiver<Command>) -> Option<()> {
        if self.scheduler.is_idle() {
            let command = commands.blocking_recv()?;
            self.obey(command)?;
        }
        loop {
            match commands.try_recv() {
                Ok(command) => self.obey(command)?,
                Err(TryRecvError::Empty) => return Some(()),
                Err(TryRecvError::Disconnected) => return (!self.scheduler.is_idle()).then_some(()),
            }
        }
    }

    fn obey(&mut self, command: Command) -> Option<()> {
        let Command::Generate(request) = command else { return None };
        let Request { sequence, events, came, place } = *request;
        let id = SequenceId(self.ids);
        self.ids += 1;
        // With what was generated elsewhere: to the scheduler that is one prompt.
        self.scheduler.enqueue(id, sequence.tokens().len());
        self.answers.insert(id, Answer { sequence, events, came, place });
        Some(())
    }

    /// Frees what belonged to clients who left.
    fn drop_abandoned(&mut self) {
        let left = |(id, answer): (&SequenceId, &Answer)| answer.events.is_closed().then_some(*id);
        let abandoned: Vec<_> = self.answers.iter().filter_map(left).collect();
        for id in abandoned {
            self.end(id, Outcome::Cancelled);
        }
    }

    fn step(&mut self) {
        let began = Instant::now();
        self.load.step_begins();
        let step = self.scheduler.next_step();
        self.load.stands(self.standing());
        let mut logits = self.compute(&step);
        let draws = step.work.iter().filter(|work| work.draws);
        for (work, logits) in draws.clone().zip(logits.chunks_exact_mut(self.model.config().vocabulary)) {
            self.draw(work.id, logits);
        }
        // Tokens are out before the wait: it slows the next step, not this one's readers.
        std::thread::sleep(self.step_time.saturating_sub(began.elapsed()));
        let (took, drawn) = (began.elapsed(), draws.count());
        let decoded = step.work.iter().filter(|work| work.count == 1).count();
        let computed: usize = step.work.iter().map(|work| work.count).sum();
        self.load.stepped(took, computed - decoded, decoded);
        self.metrics.stepped(took.as_secs_f64(), drawn, step.preempted.len());
    }

    fn compute(&mut self, step: &Step) -> Vec<f32> {
        let part = |work: &Work| Part {
            tokens: &self.answers[&work.id].sequence.tokens()[work.from..work.from + work.count],
            from: work.from,
            blocks: self.scheduler.blocks(work.id),
            logits: work.draws,
        };
        let parts: Vec<_> = step.work.iter().map(part).collect();
        self.model.forward(&mut self.cache, &parts)
    }

    fn draw(&mut self, id: SequenceId, logits: &mut [f32]) {
        let Some(answer) = self.answers.get_mut(&id) else { return };
        let Answer { sequence, events, came, .. } = answer;
        let progress = sequence.draw(logits, &self.model.config().end_tokens, &self.tokenizer);
        if sequence.drawn() == 1 {
            self.metrics.first_token(came.elapsed().as_secs_f64(), sequence.tokens().len() - 1);
        }
        match progress {
            Ok(Progress::Going(piece)) => {
                self.scheduler.drew(id);
                if !piece.is_empty() {
                    send(events, Event::Text(piece));
                }
            }
            Ok(Progress::Ended(last, reason)) => {
                self.end_with(id, Outcome::Finished(reason), Event::End(last, reason));
            }
            Err(reason) => {
                error!(%reason, "a sequence failed");
                self.end_with(id, Outcome::Failed, Event::Failed);
            }
        }
    }

    /// Whoever reads the last event finds the slot free already.
    fn end_with(&mut self, id: SequenceId, outcome: Outcome, event: Event) {
        if let Some(events) = self.end(id, outcome) {
            send(&events, event);
        }
    }

    fn end(&mut self, id: SequenceId, outcome: Outcome) -> Option<Sender<Event>> {
        self.scheduler.remove(id);
        let Answer { events, place, .. } = self.answers.remove(&id)?;
        drop(place);
        self.load.stands(self.standing());
        self.metrics.ended(outcome);
        Some(events)
    }

    fn standing(&self) -> Standing {
        Standing {
            running: self.scheduler.running(),
            uncomputed_tokens: self.scheduler.uncomputed(),
            kv_free_tokens: self.scheduler.free_blocks() * BLOCK_TOKENS,
        }
    }
}

/// Never waits. A reader who has left is noticed before the next step.
fn send(events: &Sender<Event>, event: Event) {
    use tokio::sync::mpsc::error::TrySendError;
    if let Err(TrySendError::Full(_)) = events.try_send(event) {
        unreachable!("the channel has room for one event per token");
    }
}
