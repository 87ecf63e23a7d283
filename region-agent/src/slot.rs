//! Hands out the seats that [`crate::dispatch`] decides on, and takes them back whatever happens.

use crate::dispatch::{Answer, Ask, Census, Dispatch, Order, Ticket};
use crate::engine::Engine;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use tokio_util::task::task_tracker::TaskTrackerToken;
use types::{Failure, LoadFrame, ModelVersion, ReplicaId};

/// The seats of all engines on this node.
pub struct Slots {
    desk: Mutex<Desk>,
}

struct Desk {
    dispatch: Dispatch,
    waiting: HashMap<Ticket, Waiter>,
    engines: BTreeMap<ReplicaId, Arc<Engine>>,
    surveys: u64,
}

/// One seat on one engine. Dropping it, on any way out of a request, gives the seat to the next in line.
pub struct Slot {
    slots: Arc<Slots>,
    engine: Arc<Engine>,
    _taken: TaskTrackerToken,
    /// False once the seat was taken back on another way.
    is_held: bool,
}

/// What a load frame is made of.
pub struct Survey {
    pub census: Census,
    pub readings: BTreeMap<ReplicaId, LoadFrame>,
    /// The node drains, or the version is on its way out of it.
    pub is_draining: bool,
    /// Grows with every survey, in the order in which they were made.
    pub sequence: u64,
}

impl Slots {
    pub fn new(waiting_max: usize) -> Arc<Self> {
        let dispatch = Dispatch::new(waiting_max);
        let desk = Desk { dispatch, waiting: HashMap::new(), engines: BTreeMap::new(), surveys: 0 };
        Arc::new(Self { desk: Mutex::new(desk) })
    }

    /// Waits for a seat. Dropping the future leaves the line.
    pub async fn take(self: &Arc<Self>, ask: Ask) -> Result<Slot, Failure> {
        let version = ask.version;
        let (ticket, granted) = {
            let mut desk = self.desk();
            match desk.dispatch.ask(ask) {
                Answer::Refused(failure) => return Err(failure),
                Answer::Start(replica) => {
                    return Ok(desk.slot(self, &replica));
                }
                Answer::Wait(ticket) => {
                    let (grant, granted) = oneshot::channel();
                    desk.waiting.insert(ticket, grant);
                    (ticket, granted)
                }
            }
        };
        let _leaves = LeavesLine { slots: self, version, ticket };
        granted.await.expect("a ticket is answered before it is forgotten, unless its owner forgets it")
    }

    /// Which versions have places on this node from now on.
    pub fn place(self: &Arc<Self>, versions: &BTreeSet<ModelVersion>) {
        self.change(|desk| desk.dispatch.place(versions));
    }

    /// An engine is ready, or well again.
    pub fn serving(self: &Arc<Self>, engine: &Arc<Engine>) {
        self.change(|desk| {
            desk.engines.insert(engine.replica.clone(), engine.clone());
            desk.dispatch.serving(engine.version, &engine.replica, engine.slots)
        });
    }

    /// A connection to the engine broke; its supervisor is asked to look at once.
    pub fn suspect(self: &Arc<Self>, engine: &Engine) {
        self.withhold(engine);
        engine.doubt.notify_one();
    }

    /// The engine finishes what it has.
    pub fn withhold(self: &Arc<Self>, engine: &Engine) {
        self.change(|desk| desk.dispatch.suspect(engine.version, &engine.replica));
    }

    pub fn gone(self: &Arc<Self>, engine: &Engine) {
        self.change(|desk| {
            desk.engines.remove(&engine.replica);
            desk.dispatch.gone(engine.version, &engine.replica)
        });
    }

    pub fn drain(self: &Arc<Self>) {
        self.change(|desk| desk.dispatch.drain());
    }

    pub fn is_draining(&self) -> bool {
        self.desk().dispatch.is_draining()
    }

    pub fn census(&self) -> BTreeMap<ModelVersion, Census> {
        self.desk().dispatch.census()
    }

    /// One version's seats and the last readings of its engines, of one moment.
    pub fn survey(&self, version: ModelVersion) -> Option<Survey> {
        let mut desk = self.desk();
        let census = desk.dispatch.census_of(version)?;
        desk.surveys += 1;
        let reading = |replica: &ReplicaId| Some((replica.clone(), desk.engines.get(replica)?.load()?));
        let readings = census.replicas.keys().filter_map(reading).collect();
        let is_draining = desk.dispatch.is_draining() || !census.is_placed;
        Some(Survey { census, readings, is_draining, sequence: desk.surveys })
    }

    /// Changes the desk and tells those in line what became of them.
    ///
    /// One who left in this very moment frees a seat again, which may be the next one's: a loop rather than a
    /// recursion through [`Slot::drop`], because a whole line can leave at once.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut Desk) -> Vec<Order>) {
        let mut verdicts = {
            let mut desk = self.desk();
            let orders = change(&mut desk);
            desk.verdicts(self, orders)
        };
        while let Some((waiter, verdict)) = verdicts.pop() {
            let unwanted = match waiter {
                Some(waiter) => waiter.send(verdict).err(),
                None => Some(verdict),
            };
            let Some(Ok(mut slot)) = unwanted else { continue };
            slot.is_held = false;
            let mut desk = self.desk();
            let orders = desk.dispatch.free(slot.engine.version, &slot.engine.replica);
            verdicts.extend(desk.verdicts(self, orders));
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Each call leaves the desk whole before anything that could panic.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    /// Under the lock of the decision, so that an engine that is withheld later is not vacant before.
    fn slot(&self, slots: &Arc<Slots>, replica: &ReplicaId) -> Slot {
        let engine = self.engines.get(replica).expect("only engines that serve have seats").clone();
        Slot { slots: slots.clone(), _taken: engine.seat(), engine, is_held: true }
    }

    /// Under the same lock as the decision: an engine that is gone a moment later is found when it is asked.
    fn verdicts(&mut self, slots: &Arc<Slots>, orders: Vec<Order>) -> Vec<(Option<Waiter>, Verdict)> {
        let verdict = |order| match order {
            Order::Refuse { ticket, failure } => (self.waiting.remove(&ticket), Err(failure)),
            Order::Start { ticket, replica } => {
                let slot = self.slot(slots, &replica);
                (self.waiting.remove(&ticket), Ok(slot))
            }
        };
        orders.into_iter().map(verdict).collect()
    }
}

type Verdict = Result<Slot, Failure>;
type Waiter = oneshot::Sender<Verdict>;

impl Slot {
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_held {
            self.slots.change(|desk| desk.dispatch.free(self.engine.version, &self.engine.replica));
        }
    }
}

/// Takes a request out of the line, unless it has been answered.
struct LeavesLine<'a> {
    slots: &'a Slots,
    version: ModelVersion,
    ticket: Ticket,
}

impl Drop for LeavesLine<'_> {
    fn drop(&mut self) {
        let mut desk = self.slots.desk();
        desk.waiting.remove(&self.ticket);
        desk.dispatch.withdraw(self.version, self.ticket);
    }
}
