//! Bounds the connections of an edge: all together, those of one address, and those whose balancer has not said yet
//! whose they are.

use prometheus::IntGauge;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

pub(super) struct Slots {
    taken: Arc<Mutex<Taken>>,
    connections: IntGauge,
}

/// The right to one connection, given back when it ends.
pub(super) struct Slot {
    taken: Arc<Mutex<Taken>>,
    connections: IntGauge,
    of: Holder,
}

/// Who a connection counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Address(IpAddr),
    /// A client that its balancer has not named yet.
    Unnamed,
}

#[derive(Default)]
struct Taken {
    total: usize,
    unnamed: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Slots {
    /// Open connections show in the gauge.
    pub(super) fn new(connections: IntGauge) -> Self {
        Self { taken: Arc::default(), connections }
    }

    /// `None` = one of the bounds is reached.
    pub(super) fn take(&self, of: Holder) -> Option<Slot> {
        let mut taken = lock(&self.taken);
        if taken.total >= CONNECTIONS_MAX || !taken.add(of) {
            return None;
        }
        taken.total += 1;
        self.connections.inc();
        Some(Slot { taken: self.taken.clone(), connections: self.connections.clone(), of })
    }

    #[cfg(test)]
    pub(super) fn held_by(&self, address: IpAddr) -> usize {
        lock(&self.taken).by_address.get(&address).copied().unwrap_or_default()
    }
}

impl Slot {
    /// Counts for this address from now on. False = it has as many as one address may have.
    pub(super) fn name(&mut self, address: IpAddr) -> bool {
        let mut taken = lock(&self.taken);
        let named = Holder::Address(address);
        if !taken.add(named) {
            return false;
        }
        taken.remove(self.of);
        self.of = named;
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.total -= 1;
        taken.remove(self.of);
        self.connections.dec();
    }
}

impl Taken {
    fn add(&mut self, of: Holder) -> bool {
        let (held, max) = match of {
            Holder::Address(address) => {
                (self.by_address.entry(address).or_default(), CONNECTIONS_PER_ADDRESS_MAX)
            }
            Holder::Unnamed => (&mut self.unnamed, UNNAMED_MAX),
        };
        let fits = *held < max;
        *held += usize::from(fits);
        fits
    }

    fn remove(&mut self, of: Holder) {
        match of {
            Holder::Unnamed => self.unnamed -= 1,
            Holder::Address(address) => {
                let Some(held) = self.by_address.get_mut(&address) else { return };
                *held -= 1;
                if *held == 0 {
                    self.by_address.remove(&address);
                }
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().expect("no holder of this lock panics")
}

/// An idle one costs some 40 KiB (measured with 5,000), 0.8 GiB at the bound; one with many h2 streams a few MiB.
const CONNECTIONS_MAX: usize = 20_000;
/// Enough for a large service behind one address, too few for one address to take all.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 12_000;
/// A header comes right behind its connection: a balancer half the world away may still open 5,000 a second.
const UNNAMED_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Holder = Holder::Address(IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)));
    const OTHER: Holder = Holder::Address(IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 2)));

    fn slots() -> Slots {
        Slots::new(IntGauge::new("connections", "open").unwrap())
    }

    fn take(slots: &Slots, of: Holder, count: usize) -> Vec<Slot> {
        std::iter::repeat_with(|| slots.take(of)).map_while(|slot| slot).take(count).collect()
    }

    #[test]
    fn one_address_cannot_take_all_and_all_have_a_bound() {
        let slots = slots();
        let mut of_one = take(&slots, ONE, usize::MAX);
        assert_eq!(of_one.len(), CONNECTIONS_PER_ADDRESS_MAX);
        let of_other = take(&slots, OTHER, usize::MAX);
        assert_eq!(of_one.len() + of_other.len(), CONNECTIONS_MAX);
        assert!(slots.take(Holder::Unnamed).is_none(), "nor is there room for a balancer");
        of_one.pop();
        assert!(slots.take(OTHER).is_some() && slots.take(ONE).is_some());
    }

    #[test]
    fn behind_a_balancer_each_client_has_its_own_bound() {
        let slots = slots();
        let name = |slot: &mut Slot, of| match of {
            Holder::Address(address) => slot.name(address),
            Holder::Unnamed => unreachable!(),
        };
        let mut named = Vec::new();
        loop {
            let mut slot = slots.take(Holder::Unnamed).unwrap();
            if !name(&mut slot, ONE) {
                break;
            }
            named.push(slot);
        }
        assert_eq!(named.len(), CONNECTIONS_PER_ADDRESS_MAX);
        let mut slot = slots.take(Holder::Unnamed).unwrap();
        assert!(name(&mut slot, OTHER), "the balancer's other clients are let in");
        drop((named, slot));
        let taken = lock(&slots.taken);
        assert_eq!((taken.total, taken.unnamed, taken.by_address.len()), (0, 0, 0), "nothing is kept");
        assert_eq!(slots.connections.get(), 0);
    }

    #[test]
    fn connections_without_a_name_are_few() {
        let slots = slots();
        let mut unnamed = take(&slots, Holder::Unnamed, usize::MAX);
        assert_eq!(unnamed.len(), UNNAMED_MAX);
        assert!(unnamed[0].name([203, 0, 113, 1].into()));
        assert!(slots.take(Holder::Unnamed).is_some());
    }
}
