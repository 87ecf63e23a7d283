//! The door between HTTP and the step loop: who may come in, and how sequences and events pass.

use crate::load::Load;
use crate::sequence::Sequence;
use crate::stop::Piece;
use openai::FinishReason;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use types::{LoadFrame, LoadState};

/// The outer side of the door.
#[derive(Debug)]
pub struct Queue {
    commands: Sender<Command>,
    places: Arc<Semaphore>,
    places_total: usize,
    draining: AtomicBool,
    load: Arc<Load>,
}

/// Leave to have one request in the engine, from its head to its end.
#[derive(Debug)]
#[must_use = "dropping it lets somebody else in"]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// Why nobody may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Full {
        retry_after: Duration,
    },
    Draining,
    /// The step loop is dead.
    Stopped,
}

/// What the step loop is told.
#[derive(Debug)]
pub enum Command {
    Generate(Box<Request>),
    /// End now, whatever runs.
    Halt,
}

#[derive(Debug)]
pub struct Request {
    pub sequence: Sequence,
    /// Has room for all events of the sequence, so that a slow reader never stops the loop.
    pub events: Sender<Event>,
    pub came: Instant,
    pub place: Place,
}

/// What the step loop answers. A stream that closes without `End` or `Failed` lost its loop.
#[derive(Debug, PartialEq)]
pub enum Event {
    Text(Piece),
    End(Piece, FinishReason),
    Failed,
}

impl Queue {
    /// Room for `slots` running and `queue_max` waiting requests.
    pub fn new(slots: usize, queue_max: usize, load: Arc<Load>) -> (Self, Receiver<Command>) {
        let places_total = slots.saturating_add(queue_max).min(Semaphore::MAX_PERMITS - 1);
        // Every request in the channel holds a place, and there is one halt: sending never waits.
        let (commands, inner) = mpsc::channel(places_total + 1);
        let places = Arc::new(Semaphore::new(places_total));
        (Self { commands, places, places_total, draining: AtomicBool::new(false), load }, inner)
    }

    /// Asked before the body is read, so that the bound also holds for bodies in memory.
    pub fn enter(&self) -> Result<Place, Refused> {
        if self.commands.is_closed() {
            return Err(Refused::Stopped);
        }
        if self.draining.load(Relaxed) {
            return Err(Refused::Draining);
        }
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => Ok(Place { _permit: permit }),
            Err(_) => Err(Refused::Full { retry_after: self.load.queue_wait() }),
        }
    }

    /// Hands a sequence to the step loop. Dropping the receiver cancels it.
    pub fn submit(&self, place: Place, sequence: Sequence) -> Result<Receiver<Event>, Refused> {
        // At most one event for each token.
        let (events, receiver) = mpsc::channel(sequence.left() + 1);
        let request = Request { sequence, events, came: Instant::now(), place };
        self.commands.try_send(Command::Generate(Box::new(request))).map_err(|_| Refused::Stopped)?;
        Ok(receiver)
    }

    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    pub fn halt(&self) {
        // A full channel is impossible, a closed one has nobody left to stop.
        let _ = self.commands.try_send(Command::Halt);
    }

    pub fn state(&self) -> LoadState {
        match (self.commands.is_closed(), self.draining.load(Relaxed)) {
            (true, _) => LoadState::Starting,
            (false, true) => LoadState::Draining,
            (false, false) => LoadState::Serving,
        }
    }

    /// Requests that have come in and not ended.
    pub fn accepted(&self) -> usize {
        self.places_total - self.places.available_permits()
    }

    pub fn load_frame(&self) -> LoadFrame {
        self.load.frame(self.state(), self.accepted())
    }

    pub fn load(&self) -> &Load {
        &self.load
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_counts_requests_from_entry_to_end() {
        let (queue, inner) = Queue::new(1, 1, Arc::new(Load::new(0, 1, 16)));
        let first = queue.enter().unwrap();
        let second = queue.enter().unwrap();
        assert!(matches!(queue.enter(), Err(Refused::Full { .. })));
        assert_eq!(queue.load_frame().queued, 2);
        drop(first);
        let third = queue.enter().unwrap();
        queue.drain();
        assert_eq!(queue.enter().unwrap_err(), Refused::Draining);
        assert_eq!(queue.state(), LoadState::Draining);
        drop((second, third, inner));
        assert_eq!(queue.enter().unwrap_err(), Refused::Stopped);
        assert_eq!(queue.state(), LoadState::Starting);
    }
}
