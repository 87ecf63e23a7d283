//! Wakes tasks at exact times.
//!
//! The runtime's own timers tick in milliseconds and round up, which each way of a round trip would pay. The kernel's
//! are exact, so one of those serves all tasks here.

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::error;
use types::Monotonic;

/// The network's time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

pub(super) struct Alarms {
    clock: Clock,
    timer: TimerFd,
    set: Mutex<Set>,
}

/// Wakes one task at one time; dropped, it wakes nobody.
pub(super) struct Alarm {
    alarms: Arc<Alarms>,
    id: u64,
    at: Option<Monotonic>,
}

#[derive(Default)]
struct Set {
    wakers: BTreeMap<(Monotonic, u64), Waker>,
    next_id: u64,
    /// When the kernel's timer goes off.
    armed: Option<Monotonic>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> Monotonic {
        Monotonic::from_micros(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

impl Alarms {
    pub(super) fn new(clock: Clock) -> io::Result<Arc<Self>> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        Ok(Arc::new(Self { clock, timer, set: Mutex::default() }))
    }

    pub(super) fn alarm(self: &Arc<Self>) -> Alarm {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        set.next_id += 1;
        Alarm { alarms: Arc::clone(self), id: set.next_id, at: None }
    }

    /// What a runtime waits on for this timer.
    pub(super) fn file(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let file = self.timer.as_fd().try_clone_to_owned()?;
        // SAFETY: an owned file is open for as long as it exists, and is the same all that time.
        Ok(unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }?)
    }

    /// Wakes whose time has come, for ever.
    pub(super) async fn run(&self, file: AsyncFd<OwnedFd>) {
        loop {
            match file.readable().await {
                // The count of the timer is not read: setting it anew clears that.
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => return error!(%error, "the network's timer is lost"),
            }
            let (now, mut due) = (self.clock.now(), Vec::new());
            {
                let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
                while let Some(first) = set.wakers.first_entry().filter(|first| first.key().0 <= now) {
                    due.push(first.remove());
                }
                set.armed = None;
                self.arm(&mut set);
            }
            due.into_iter().for_each(Waker::wake);
        }
    }

    /// Sees that the timer goes off when the first alarm is due, or earlier.
    fn arm(&self, set: &mut Set) {
        let Some((first, _)) = set.wakers.keys().next().copied() else { return };
        if set.armed.is_some_and(|armed| armed <= first) {
            return;
        }
        set.armed = Some(first);
        // Zero would disarm it.
        let from_now = first.since(self.clock.now()).max(Duration::from_nanos(1));
        let expiration = Expiration::OneShot(TimeSpec::from_duration(from_now));
        if let Err(error) = self.timer.set(expiration, TimerSetTimeFlags::empty()) {
            error!(%error, "the network's timer cannot be set");
        }
    }
}

impl Alarm {
    /// Wakes a task at that time, in place of what was set before.
    pub(super) fn set(&mut self, at: Option<Monotonic>, waker: &Waker) {
        if at.is_none() && self.at.is_none() {
            return;
        }
        let mut set = self.alarms.set.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = self.at.take() {
            set.wakers.remove(&(before, self.id));
        }
        if let Some(at) = at {
            self.at = Some(at);
            set.wakers.insert((at, self.id), waker.clone());
            self.alarms.arm(&mut set);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.set(None, Waker::noop());
    }
}
