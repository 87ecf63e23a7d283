//! One thread for each core, with a runtime of its own. A connection stays on the thread that it was put on, and so does
//! all that its requests open: an event that crosses threads costs as much again as to carry it.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Where work can be put.
#[derive(Clone)]
pub(crate) struct Workers(Arc<[Worker]>);

struct Worker {
    runtime: Handle,
    connections: AtomicUsize,
}

/// Their threads, which end when this is dropped, and what still runs on them with them.
pub(crate) struct Threads {
    stop: DropGuard,
    /// Closed once all have ended.
    running: mpsc::Receiver<()>,
}

/// A worker's connection, which counts until this is dropped.
pub(crate) struct Seat {
    workers: Workers,
    index: usize,
}

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// Which worker's thread this is; 0 on any other.
pub(crate) fn index() -> usize {
    INDEX.get()
}

impl Workers {
    /// As many as there are cores that this process may use, within a bound.
    pub(crate) fn start() -> io::Result<(Self, Threads)> {
        let count = thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
        let (stop, (run, running)) = (CancellationToken::new(), mpsc::channel(1));
        let worker = |index| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let worker = Worker { runtime: runtime.handle().clone(), connections: AtomicUsize::new(0) };
            let (stop, run) = (stop.clone(), run.clone());
            let thread = move || {
                INDEX.set(index);
                runtime.block_on(stop.cancelled());
                // A name that is being looked up must not hold up the end.
                runtime.shutdown_background();
                drop(run);
            };
            thread::Builder::new().name(format!("edge-{index}")).spawn(thread)?;
            Ok(worker)
        };
        let workers = (0..count).map(worker).collect::<io::Result<Vec<_>>>();
        let threads = Threads { stop: stop.drop_guard(), running };
        Ok((Self(workers?.into()), threads))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// A seat where the fewest connections are.
    pub(crate) fn seat(&self) -> Seat {
        let connections = |index: &usize| self.0[*index].connections.load(Relaxed);
        let index = (0..self.count()).min_by_key(connections).unwrap_or_default();
        self.0[index].connections.fetch_add(1, Relaxed);
        Seat { workers: self.clone(), index }
    }

    /// Each in its turn.
    pub(crate) fn by_turn(&self, turn: usize) -> &Handle {
        &self.0[turn % self.count()].runtime
    }
}

impl Seat {
    pub(crate) fn runtime(&self) -> &Handle {
        &self.workers.0[self.index].runtime
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.workers.0[self.index].connections.fetch_sub(1, Relaxed);
    }
}

impl Threads {
    /// Ends them; returns once they have.
    pub(crate) async fn end(mut self) {
        drop(self.stop);
        let nobody = self.running.recv().await;
        debug_assert!(nobody.is_none(), "nothing is ever sent");
    }
}

/// Each keeps a connection to each node, by a probe in its turn once a second, and idle ones live for a minute. So many
/// carry some 300,000 requests a second.
const WORKERS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_spread_and_what_runs_ends_with_the_threads() {
        let (workers, threads) = Workers::start().unwrap();
        let mut seats: Vec<_> = (0..3 * workers.count()).map(|_| workers.seat()).collect();
        let held = || workers.0.iter().map(|worker| worker.connections.load(Relaxed)).collect::<Vec<_>>();
        assert!(held().iter().all(|count| *count == 3), "{:?}", held());
        let left = seats.pop().unwrap();
        let gone = left.index;
        drop(left);
        assert_eq!(workers.seat().index, gone);
        for (turn, seat) in seats.iter().take(workers.count()).enumerate() {
            let by_turn = workers.by_turn(turn).spawn(async { index() });
            assert_eq!(by_turn.await.unwrap(), turn);
            let seated = seat.runtime().spawn(async { index() });
            assert_eq!(seated.await.unwrap(), seat.index);
        }
        let endless = seats[0].runtime().spawn(std::future::pending::<()>());
        threads.end().await;
        assert!(endless.await.unwrap_err().is_cancelled());
    }
}
