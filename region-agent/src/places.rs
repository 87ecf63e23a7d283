//! Owns the places of this node: intent or a place has changed → plan → orders to the supervisors.
//!
//! A place belongs to its supervisor until that has ended; only then it is free for another one.

use crate::board::{Board, Place, Status};
use crate::launch::Launcher;
use crate::node::Node;
use crate::placement::{self, Held, Plan, Progress, Recipe, Share, Wanted};
use crate::supervise::Supervisor;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub struct Places {
    room: Room,
    board: watch::Sender<Board>,
    occupants: BTreeMap<u16, Occupant>,
    supervisors: JoinSet<()>,
    /// How often each place was started by those who have left it.
    starts: BTreeMap<u16, u32>,
}

/// Where replicas run, and how long they may finish what they have.
pub struct Room {
    pub node: Arc<Node>,
    pub launcher: Launcher,
    /// Where place 0 listens; the others take the next ports.
    pub first: SocketAddr,
    pub places: u16,
    pub patience: Duration,
}

struct Occupant {
    recipe: Recipe,
    drain: CancellationToken,
    supervisor: task::Id,
}

impl Places {
    pub fn new(room: Room) -> Self {
        Self {
            room,
            board: watch::Sender::default(),
            occupants: BTreeMap::new(),
            supervisors: JoinSet::new(),
            starts: BTreeMap::new(),
        }
    }

    pub fn board(&self) -> watch::Receiver<Board> {
        self.board.subscribe()
    }

    /// Follows the intent until told to drain; returns when all replicas have finished and ended.
    ///
    /// Nothing is done before there is any intent.
    pub async fn run(mut self, mut intent: watch::Receiver<Option<Arc<Wanted>>>, drain: CancellationToken) {
        let mut board = self.board.subscribe();
        loop {
            let wanted = intent.borrow_and_update().clone();
            if let Some(wanted) = wanted {
                self.arrange(&wanted);
            }
            tokio::select! {
                () = drain.cancelled() => break,
                Some(ended) = self.supervisors.join_next_with_id() => self.vacate(ended),
                Ok(()) = intent.changed() => {}
                // How far a replica has come decides when the one before it may go.
                Ok(()) = board.changed() => {}
            }
        }
        self.occupants.values().for_each(|occupant| occupant.drain.cancel());
        while let Some(ended) = self.supervisors.join_next_with_id().await {
            self.vacate(ended);
        }
    }

    fn arrange(&mut self, wanted: &Wanted) {
        let Plan { start, drain, waiting } = placement::plan(wanted, &self.held(), self.room.places);
        for number in drain {
            if let Some(occupant) = self.occupants.get(&number) {
                info!(number, model = %occupant.recipe.served_name, version = %occupant.recipe.version, "place is given up");
                occupant.drain.cancel();
            }
        }
        let stay = self.occupants.values().filter(|occupant| !occupant.drain.is_cancelled());
        let placed: BTreeSet<_> = stay
            .map(|occupant| &occupant.recipe)
            .chain(start.values())
            .map(|recipe| recipe.version)
            .collect();
        // Before the first replica of a version can serve it.
        self.room.node.slots.place(&placed);
        for (number, recipe) in start {
            self.occupy(number, recipe);
        }
        self.tell(wanted.replica_count(), waiting);
    }

    fn held(&self) -> BTreeMap<u16, Held> {
        let board = self.board.borrow();
        let held = |(number, occupant): (&u16, &Occupant)| {
            // Told to drain, it drains, even where its supervisor has not come to say so.
            let progress = match board.places.get(number) {
                Some(status) if !occupant.drain.is_cancelled() => status.progress(),
                _ => Progress::Draining,
            };
            (*number, Held { recipe: occupant.recipe.clone(), progress })
        };
        self.occupants.iter().map(held).collect()
    }

    fn occupy(&mut self, number: u16, recipe: Recipe) {
        info!(number, model = %recipe.served_name, version = %recipe.version, "place is taken");
        let address = SocketAddr::new(self.room.first.ip(), self.room.first.port() + number);
        let starts = self.starts.get(&number).copied().unwrap_or(0);
        let place = Place { number, address, recipe: recipe.clone(), starts };
        self.board.send_modify(|board| {
            board.places.insert(number, Status::empty(place.clone()));
        });
        let supervisor = Supervisor {
            node: self.room.node.clone(),
            launcher: self.room.launcher.clone(),
            place,
            patience: self.room.patience,
            board: self.board.clone(),
        };
        let drain = CancellationToken::new();
        let supervisor = self.supervisors.spawn(supervisor.run(drain.clone())).id();
        self.occupants.insert(number, Occupant { recipe, drain, supervisor });
    }

    fn vacate(&mut self, ended: Result<(task::Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                error!(%error, "a supervisor broke off; its place is filled again");
                error.id()
            }
        };
        let number = self.occupants.iter().find(|(_, it)| it.supervisor == id).map(|(number, _)| *number);
        let Some(number) = number else { return };
        self.occupants.remove(&number);
        self.board.send_modify(|board| {
            if let Some(status) = board.places.remove(&number) {
                self.starts.insert(number, status.starts);
            }
        });
        info!(number, "place is empty");
    }

    fn tell(&self, wanted: u32, waiting: Vec<Share>) {
        self.board.send_if_modified(|board| {
            if board.wanted == wanted && board.waiting == waiting {
                return false;
            }
            if board.waiting != waiting {
                let replicas: u32 = waiting.iter().map(|share| u32::from(share.count)).sum();
                if replicas > 0 {
                    warn!(replicas, places = self.room.places, "replicas wait for a free place");
                } else {
                    info!("no replica waits for a place any more");
                }
            }
            (board.wanted, board.waiting) = (wanted, waiting);
            true
        });
    }
}
