//! One engine as its agent sees it: an address, idle connections, and what it last said of its load.
//!
//! Connections are ours rather than a pooling client's, because a seat belongs to the connection that occupies
//! the engine: it is free when the answer has ended, or when the connection has been closed, and not before.

use crate::slot::Slot;
use crate::upload::{Fate, Upload};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use types::{LoadFrame, ModelVersion, ReplicaId};

/// One start of an engine. Its id and its connections end with it.
pub struct Engine {
    pub replica: ReplicaId,
    pub version: ModelVersion,
    pub address: SocketAddr,
    /// Sequences that it runs at once.
    pub slots: u32,
    /// Told when a connection broke, so that the engine is probed at once.
    pub doubt: Notify,
    /// Holds a token for each seat that is taken.
    taken: TaskTracker,
    idle: Mutex<Vec<Connection>>,
    load: Mutex<Option<LoadFrame>>,
}

/// Why an engine gave no head.
#[derive(Debug, thiserror::Error)]
pub enum NoHead {
    #[error("cannot connect to the engine")]
    Connect(#[source] io::Error),
    #[error("the engine closed the connection before it answered")]
    Lost(#[source] hyper::Error),
}

impl Engine {
    pub fn new(replica: ReplicaId, version: ModelVersion, address: SocketAddr, slots: u32) -> Arc<Self> {
        let (idle, load) = (Mutex::default(), Mutex::default());
        let (doubt, taken) = (Notify::new(), TaskTracker::new());
        Arc::new(Self { replica, version, address, slots, doubt, taken, idle, load })
    }

    /// One of its seats is taken for as long as the token lives.
    pub(crate) fn seat(&self) -> TaskTrackerToken {
        self.taken.token()
    }

    pub(crate) fn is_occupied(&self) -> bool {
        !self.taken.is_empty()
    }

    /// Waits until no seat is taken. For one that gets no more requests.
    pub(crate) async fn vacated(&self) {
        self.taken.close();
        self.taken.wait().await;
    }

    /// Sends a request and waits for the head of its answer. From here on the connection holds the slot.
    pub async fn send(
        slot: Slot,
        mut request: Request<Upload>,
        upload: &Fate,
    ) -> Result<(Response<Incoming>, Connection), NoHead> {
        let (engine, slots) = (slot.engine().clone(), slot.slots().clone());
        let mut slot = slot;
        loop {
            let mut connection = match engine.connection().await {
                Ok(connection) => connection,
                Err(error) => {
                    slots.suspect(&engine);
                    return Err(NoHead::Connect(error));
                }
            };
            connection.occupy(slot);
            let mut refused = match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                Err(refused) => refused,
            };
            // An idle connection may have been closed this instant; the request is then still ours, untouched.
            if let Some(unsent) = refused.take_message()
                && connection.was_idle
            {
                request = unsent;
                slot = connection.vacate().expect("it was occupied above");
                continue;
            }
            // While the seat is still taken, so that the next in line does not get it.
            if upload.is_the_engine_s_fault() {
                slots.suspect(&engine);
            }
            return Err(NoHead::Lost(refused.into_error()));
        }
    }

    /// Takes a reading, unless a newer one of the same process is there already.
    pub fn observe(&self, frame: LoadFrame) {
        let mut load = lock(&self.load);
        let is_older = load.is_some_and(|known| known.boot == frame.boot && known.sequence > frame.sequence);
        if !is_older {
            *load = Some(frame);
        }
    }

    pub fn load(&self) -> Option<LoadFrame> {
        *lock(&self.load)
    }

    async fn connection(&self) -> io::Result<Connection> {
        match self.idle_connection().await {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let connecting = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(self.address));
        let stream = connecting.await.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::Builder::new()
            .max_headers(HEADERS_MAX)
            .max_buf_size(READ_BUFFER_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let occupant: Occupant = Arc::default();
        let drives = Drives { driver, _occupant: occupant.clone() };
        let driver = tokio::spawn(async move {
            let mut drives = drives;
            // Whoever waits for the answer learns of an error from the answer.
            let _ = (&mut drives.driver).await;
        });
        Ok(Connection { sender, occupant, driver: driver.abort_handle(), was_idle: false })
    }

    async fn idle_connection(&self) -> Option<Connection> {
        loop {
            let mut connection = lock(&self.idle).pop()?;
            let ready = tokio::time::timeout(SETTLE_MAX, connection.sender.ready());
            if matches!(ready.await, Ok(Ok(()))) {
                connection.was_idle = true;
                return Some(connection);
            }
        }
    }
}

/// A connection to an engine. Dropped in the middle of an answer, it is closed, which tells the engine to stop.
pub struct Connection {
    sender: SendRequest<Upload>,
    occupant: Occupant,
    driver: AbortHandle,
    /// It has served a request before.
    was_idle: bool,
}

/// The seat that the connection occupies, shared with the task that owns the socket: when a connection is given
/// up, the seat is freed by whichever of the two ends last.
type Occupant = Arc<Mutex<Option<Slot>>>;

impl Connection {
    /// The answer has ended: the seat is free and the connection serves the next request.
    pub fn finish(self) {
        let Some(slot) = self.vacate() else { return };
        let mut idle = lock(&slot.engine().idle);
        // More connections than seats cannot be busy at once.
        if idle.len() < slot.engine().slots as usize {
            idle.push(self);
        }
    }

    fn occupy(&self, slot: Slot) {
        *lock(&self.occupant) = Some(slot);
    }

    fn vacate(&self) -> Option<Slot> {
        lock(&self.occupant).take()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Owns the socket. Fields are dropped in order: first the socket closes, then the seat is free.
struct Drives {
    driver: http1::Connection<TokioIo<TcpStream>, Upload>,
    _occupant: Occupant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here can be left half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loopback answers in microseconds, or its backlog is full because the engine hangs.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// A connection whose answer has just ended needs a moment to be ready for the next request.
const SETTLE_MAX: Duration = Duration::from_millis(5);
const HEADERS_MAX: usize = 64;
/// Bounds a head, and what is read ahead of a slow edge.
const READ_BUFFER_MAX: usize = 64 * 1024;
