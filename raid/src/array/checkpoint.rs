//! From the map to its pages: what lets the tail pass Places, Unmaps and Parities (I2).

use evenkeel_journal::World;
use evenkeel_journal::log::Halted;

use super::Array;
use crate::map::write_pages;

/// Pages that are written together.
const PAGES_AT_ONCE: usize = 64;

impl<W: World> Array<W> {
    /// Writes home every map entry that has no home yet.
    ///
    /// # Errors
    /// `Halted` if too many members fail.
    pub(super) async fn checkpoint(&self) -> Result<(), Halted> {
        let _turn = self.0.checkpoint_lock.lock().await;
        let g = &self.0.geometry;
        // What is dirty now, once; what comes meanwhile is for the next checkpoint.
        let mut left = self.0.map.borrow().unsaved();
        while left > 0 {
            let lsn = self.0.journal.last_lsn();
            let pages = self.0.map.borrow().snapshot(lsn, PAGES_AT_ONCE);
            if pages.is_empty() {
                break;
            }
            // Homes are written from durable commits alone.
            self.0.journal.durable(lsn).await?;
            write_pages(&self.0.members, g, &pages).await?;
            let roots = self.0.map.borrow_mut().roots_for(&pages, lsn);
            if !roots.is_empty() {
                write_pages(&self.0.members, g, &roots).await?;
            }
            let mut map = self.0.map.borrow_mut();
            let before = map.unsaved();
            let released = map.saved(&pages);
            map.saved(&roots);
            left = left.saturating_sub((before - map.unsaved()).max(1));
            drop(map);
            released.into_iter().for_each(|lsn| self.0.journal.release(lsn));
            self.0.members.set_tail(self.0.journal.tail_lsn());
        }
        Ok(())
    }
}
