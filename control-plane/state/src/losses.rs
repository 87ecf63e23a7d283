//! How much of each kind is gone since a large loss was last allowed.
//!
//! Everyone who receives a whole picture refuses one that has lost a large part of a kind. Harmless deletions add up
//! to that, for somebody who was away meanwhile; so they are counted, and once together they are a large loss, older
//! pictures are told to expect it.

use std::collections::BTreeMap;
use types::intent::{Kind, is_large_loss};

/// Kinds that have lost nothing are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses(BTreeMap<Kind, Loss>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// How many there were when counting began.
    pub of: u64,
    pub lost: u64,
}

impl Losses {
    /// One of `count` is about to be deleted. True where that makes the losses large.
    pub fn count(&mut self, kind: Kind, count: usize) -> bool {
        let loss = self.0.entry(kind).or_insert(Loss { of: count as u64, lost: 0 });
        loss.lost += 1;
        // A kind may have been small when counting began and large for whoever left later.
        let of = usize::try_from(loss.of).unwrap_or(usize::MAX).max(LEAST);
        is_large_loss(usize::try_from(loss.lost).unwrap_or(usize::MAX), of)
    }

    /// Counting begins anew: whoever has an older picture than this is told to expect a large loss.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    pub fn iter(&self) -> impl Iterator<Item = (Kind, Loss)> {
        self.0.iter().map(|(kind, loss)| (*kind, *loss))
    }
}

impl FromIterator<(Kind, Loss)> for Losses {
    fn from_iter<I: IntoIterator<Item = (Kind, Loss)>>(losses: I) -> Self {
        Self(losses.into_iter().collect())
    }
}

/// From so many on a loss is judged at all.
const LEAST: usize = 10;
