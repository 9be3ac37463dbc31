//! The commits that lie in the log, for who looks whether they still are what was written: what a
//! start would need, from the tail that is known as durable to the newest commit.
//!
//! What must hold: rows that somebody reads, or writes again, are not reused meanwhile. That makes
//! writers wait where the log is full, so it is for one commit at a time.

use super::{Journal, LogDevices, State};
use crate::units::CommitNumber;
use crate::world::World;

/// A commit in the log; its rows stay as long as this lives.
pub struct Pinned<W: World, D: LogDevices> {
    journal: Journal<W, D>,
    /// Its number.
    pub number: CommitNumber,
    /// Row of the log area at which it begins.
    pub row: u64,
}

impl<W: World, D: LogDevices> Drop for Pinned<W, D> {
    fn drop(&mut self) {
        let mut s = self.journal.0.state.borrow_mut();
        s.pinned = None;
        Journal::<W, D>::free_space(&mut s);
        drop(s);
        self.journal.0.room.notify();
    }
}

impl<W: World, D: LogDevices> Journal<W, D> {
    /// Rows up to the announced tail are free, but for what somebody reads.
    pub(super) fn free_space(s: &mut State) {
        let end = s.pinned.map_or(s.announced_tail, |row| row.min(s.announced_tail));
        s.space_tail = s.space_tail.max(end);
        while s.placed.front().is_some_and(|(_, row)| *row < s.space_tail) {
            s.placed.pop_front();
        }
    }

    /// The commits that a start would need, or might, oldest first; all of them are written.
    #[must_use]
    pub fn needed_commits(&self) -> Vec<CommitNumber> {
        let s = self.0.state.borrow();
        let all = s.placed.iter().map(|(number, _)| *number);
        all.take_while(|number| *number <= s.last).collect()
    }

    /// The commit with this number, kept where it lies; None if no start needs it any more.
    ///
    /// # Panics
    /// If another one is pinned.
    #[must_use]
    pub fn pin_commit(&self, number: CommitNumber) -> Option<Pinned<W, D>> {
        let mut s = self.0.state.borrow_mut();
        assert!(s.pinned.is_none(), "one commit is looked at at a time");
        let at = s.placed.binary_search_by_key(&number, |(own, _)| *own).ok()?;
        let row_total = s.placed[at].1;
        s.pinned = Some(row_total);
        let row = row_total % self.0.geometry.rows;
        Some(Pinned { journal: self.clone(), number, row })
    }
}
