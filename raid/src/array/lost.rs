//! Blocks that are lost: a row of theirs had more unreadable blocks than the code tolerates when
//! it had to be written anew. They are EIO until they are overwritten, and zero in the parity.
//!
//! What must hold: a mark is a `Lost` record that the tail does not pass. It has no other home:
//! when the tail comes near, all marks are appended again, in one commit, for which the log keeps
//! rows ([`evenkeel_journal::log::LOST_ROWS`]). So there are at most [`MOST_RUNS`] runs of them; a
//! stripe beyond that stays in the cache. A newer Write, Place or Unmap ends a mark, like a block
//! of the cache.

use std::collections::BTreeMap;

use evenkeel_journal::log::{Item, Release, Room};
use evenkeel_journal::record::Record;
use evenkeel_journal::ring::record_bytes;
use evenkeel_journal::{Lsn, Stripe, World};

use super::Array;
use crate::members::Members;

/// Runs of neighbouring lost blocks that an array may have: their records fit one block.
pub(super) const MOST_RUNS: usize = 100;

/// Bytes of one `Lost` record.
const RECORD_BYTES: usize = 32;

/// The marks of all stripes, each with the record that carries it.
#[derive(Default)]
pub(super) struct Marks(BTreeMap<(Stripe, u32), Lsn>);

impl Marks {
    /// The marks that replay found.
    pub fn found(marks: BTreeMap<(Stripe, u32), Lsn>) -> Marks {
        Marks(marks)
    }

    pub fn contains(&self, stripe: Stripe, block: u32) -> bool {
        self.0.contains_key(&(stripe, block))
    }

    /// Whether a block of the stripe is lost.
    pub fn any_of(&self, stripe: Stripe) -> bool {
        self.0.range((stripe, 0)..=(stripe, u32::MAX)).next().is_some()
    }

    /// Blocks that are lost.
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// The lost blocks of a stripe, ascending.
    pub fn of_stripe(&self, stripe: Stripe) -> Vec<u32> {
        self.0.range((stripe, 0)..=(stripe, u32::MAX)).map(|((_, block), _)| *block).collect()
    }

    /// The records that carry the marks, one for each block.
    pub fn records(&self) -> Vec<Lsn> {
        self.0.values().copied().collect()
    }

    fn oldest(&self) -> Option<Lsn> {
        self.0.values().min().copied()
    }

    fn remove(&mut self, stripe: Stripe, block: u32) -> Option<Lsn> {
        self.0.remove(&(stripe, block))
    }

    /// Runs that there would be with the stripe's marks replaced by these.
    fn runs_with(&self, stripe: Stripe, blocks: &[u32]) -> usize {
        let others = self.0.keys().filter(|(s, _)| *s != stripe);
        runs(others.copied()).len() + runs(blocks.iter().map(|b| (stripe, *b))).len()
    }
}

/// Neighbours as (stripe, first, count); the blocks come in order.
fn runs(blocks: impl Iterator<Item = (Stripe, u32)>) -> Vec<(Stripe, u32, u32)> {
    let mut out: Vec<(Stripe, u32, u32)> = Vec::new();
    for (stripe, block) in blocks {
        match out.last_mut() {
            Some((s, first, count)) if *s == stripe && *first + *count == block => *count += 1,
            _ => out.push((stripe, block, 1)),
        }
    }
    out
}

/// The records that mark these blocks of a stripe.
pub(super) fn items(stripe: Stripe, blocks: &[u32]) -> Vec<Item> {
    records(&runs(blocks.iter().map(|b| (stripe, *b))))
}

fn records(runs: &[(Stripe, u32, u32)]) -> Vec<Item> {
    let record = |(stripe, first, count): &(Stripe, u32, u32)| {
        Item::bare(Record::Lost { stripe: *stripe, first: *first, count: *count })
    };
    runs.iter().map(record).collect()
}

impl<W: World> Array<W> {
    /// Room for the marks of a stripe beside its Place: if there is, and not too many are lost.
    pub(super) fn room_for_lost(
        &self,
        stripe: Stripe,
        blocks: &[u32],
    ) -> Option<Room<W, Members<W>>> {
        let runs = self.0.lost.borrow().runs_with(stripe, blocks);
        if runs > MOST_RUNS {
            return None;
        }
        self.0.journal.try_reserve_lost(runs * record_bytes(RECORD_BYTES, 0))
    }

    /// The blocks, none of which is dirty, are lost from now on, by records from `first` on that
    /// were just appended.
    pub(super) fn mark_lost(&self, stripe: Stripe, blocks: &[u32], first: Lsn) {
        self.mark_runs(&runs(blocks.iter().map(|b| (stripe, *b))), first);
    }

    fn mark_runs(&self, runs: &[(Stripe, u32, u32)], first: Lsn) {
        for (lsn, (stripe, from, count)) in (first.0..).map(Lsn).zip(runs.iter().copied()) {
            for block in from..from + count {
                self.0.journal.hold(lsn);
                let old = self.0.lost.borrow_mut().0.insert((stripe, block), lsn);
                if let Some(old) = old {
                    self.0.journal.when_durable(lsn, Release::Hold(old));
                }
            }
        }
    }

    /// A Write covers the block: it is not lost any more.
    pub(super) fn found_again(&self, stripe: Stripe, block: u32, lsn: Lsn) {
        let old = self.0.lost.borrow_mut().remove(stripe, block);
        if let Some(old) = old {
            self.0.journal.when_durable(lsn, Release::Hold(old));
        }
    }

    /// A Place or Unmap ends the marks of a stripe up to its horizon.
    pub(super) fn found_up_to(&self, stripe: Stripe, horizon: Lsn, lsn: Lsn) {
        let marked = self.0.lost.borrow().of_stripe(stripe);
        for block in marked {
            let old = self.0.lost.borrow().0[&(stripe, block)];
            if old <= horizon {
                self.found_again(stripe, block, lsn);
            }
        }
    }

    /// Appends all marks again if the oldest is at or before `lsn`, so that the tail can pass it.
    /// Gives whether it did.
    pub(super) fn renew_lost(&self, lsn: Lsn) -> bool {
        if self.0.lost.borrow().oldest().is_none_or(|oldest| oldest > lsn) {
            return false;
        }
        let all = runs(self.0.lost.borrow().0.keys().copied());
        let bytes = all.len() * record_bytes(RECORD_BYTES, 0);
        let Some(mut room) = self.0.journal.try_reserve_lost(bytes) else {
            return false;
        };
        let first = self.0.journal.append(&mut room, records(&all));
        self.mark_runs(&all, first);
        true
    }
}
