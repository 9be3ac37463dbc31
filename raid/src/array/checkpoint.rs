//! From the map and the checksums to their pages: what lets the tail pass Places, Unmaps and
//! Parities (I2).
//!
//! What must hold: both go home together, from one moment, before anything that they carry is
//! released.

use evenkeel_journal::log::Halted;
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::{Guard, join_all};
use evenkeel_journal::{Stripe, World};

use super::Array;
use crate::checksums::{SumSnapshot, SumWrite};
use crate::map::write_pages;

/// Map pages that are written together.
const PAGES_AT_ONCE: usize = 64;
/// Checksum pages that are written together, or those of one stripe.
const SUM_PAGES_AT_ONCE: u64 = 256;

impl<W: World> Array<W> {
    /// Writes home every map entry that has no home yet, and the checksums of these stripes.
    ///
    /// # Errors
    /// `Halted` if too many members fail.
    pub(super) async fn checkpoint(&self) -> Result<(), Halted> {
        let _turn = self.0.checkpoint_lock.lock().await;
        // What is dirty now, once; what comes meanwhile is for the next checkpoint.
        let mut left = self.0.map.borrow().unsaved();
        let suspects = self.0.sums.suspects();
        let mut mended: Vec<u64> = suspects.iter().map(|(page, _)| *page).collect();
        mended.dedup();
        while left > 0 || !mended.is_empty() {
            let stripes = self.next_stripes();
            let some = mended.len().min(SUM_PAGES_AT_ONCE as usize);
            let again: Vec<u64> = mended.drain(..some).collect();
            if stripes.is_empty() && again.is_empty() {
                break;
            }
            // Of one moment: now. No destage is under way: a Parity is logged before the table has
            // its checksums, and a page that says it knows a record must have what that says.
            let (bases, between) = self.bases_now(&stripes, again).await?;
            let lsn = self.0.journal.last_lsn();
            let pages = self.0.map.borrow().snapshot(lsn, &stripes);
            let sums = self.0.sums.table.borrow().snapshot(lsn, &stripes, &bases);
            drop((bases, between));
            // Homes are written from durable commits alone.
            self.0.journal.durable(lsn).await?;
            if !broken(Sabotage::ChecksumsNotHome) {
                self.write_sum_pages(&sums.pages).await?;
            }
            if !broken(Sabotage::MapNotHome) {
                write_pages(&self.0.members, &self.0.geometry.get(), &pages).await?;
            }
            self.0.members.flush_members().await?;
            let roots = self.0.map.borrow_mut().roots_for(&pages, lsn);
            if !roots.is_empty() {
                write_pages(&self.0.members, &self.0.geometry.get(), &roots).await?;
                self.0.members.flush_members().await?;
            }
            self.sums_are_home(sums);
            let mut map = self.0.map.borrow_mut();
            let before = map.unsaved();
            let released = map.saved(&pages);
            map.saved(&roots);
            left = left.saturating_sub((before - map.unsaved()).max(1));
            drop(map);
            released.into_iter().for_each(|lsn| self.0.journal.release(lsn));
            self.0.members.set_tail(self.0.journal.tail_lsn());
        }
        self.0.sums.mended(&suspects);
        suspects.iter().for_each(|(_, member)| self.0.members.healed(*member, 1));
        Ok(())
    }

    /// Stripes that go home next: not too many pages of either kind.
    fn next_stripes(&self) -> Vec<Stripe> {
        let mut stripes = self.0.map.borrow().next_unsaved(PAGES_AT_ONCE);
        let table = self.0.sums.table.borrow();
        if !table.are_kept() {
            return stripes;
        }
        let (mut pages, mut last) = (0, 0);
        let fit = stripes.iter().take_while(|s| {
            let (from, to) = table.pages_of_stripe(**s);
            pages += to + 1 - from.max(last + 1);
            last = to;
            pages <= SUM_PAGES_AT_ONCE
        });
        let fit = fit.count().max(1);
        stripes.truncate(fit);
        stripes
    }

    /// As [`Array::bases_of`], with destages held back, at a moment when the bases are all that these
    /// stripes need: one that had no slot when they were read may have been placed meanwhile.
    async fn bases_now(
        &self,
        stripes: &[Stripe],
        mut again: Vec<u64>,
    ) -> Result<(Vec<Base>, Guard), Halted> {
        loop {
            let bases = self.bases_of(stripes, &again).await?;
            let between = self.0.destage_lock.lock().await;
            let mut missing = self.0.sums.table.borrow().page_numbers_of(stripes);
            missing.retain(|page| bases.binary_search_by_key(page, |b| b.0).is_err());
            if missing.is_empty() {
                return Ok((bases, between));
            }
            drop(between);
            // They are never more than the stripes have, so this ends.
            again.extend(missing);
        }
    }

    /// What now lies at home of the checksum pages of these stripes, and of pages to be mended, by
    /// their numbers; None where no copy that counts is left.
    async fn bases_of(&self, stripes: &[Stripe], again: &[u64]) -> Result<Vec<Base>, Halted> {
        let wanted = {
            let (table, map) = (self.0.sums.table.borrow(), self.0.map.borrow());
            let mut wanted = table.pages_of(stripes, &map);
            wanted.extend(again.iter().map(|p| (*p, table.required_of_page(*p, &map))));
            wanted.sort_unstable();
            wanted.dedup_by_key(|w| w.0);
            wanted
        };
        self.settle_sum_pages(&wanted).await?;
        let read = wanted.into_iter().map(|(page, required)| async move {
            let mut tries = 0;
            loop {
                let found = self.sum_page(page, required).await;
                if found.is_some() {
                    return (page, found);
                }
                // Its copies may be on members that come back (I7).
                if !self.0.members.may_be_read_again(tries).await {
                    break;
                }
                tries += 1;
            }
            if !self.0.members.is_halted() {
                self.0.members.sums_lost(page);
            }
            (page, None)
        });
        Ok(join_all(read.collect()).await)
    }

    async fn write_sum_pages(&self, pages: &[SumWrite]) -> Result<(), Halted> {
        let mut writes = Vec::new();
        for p in pages {
            for (member, at) in self.0.geometry.get().sum_page_copies(p.page, p.place) {
                writes.push(self.0.members.write(member, at, vec![p.bytes.clone()]));
            }
        }
        for done in join_all(writes).await {
            done?;
        }
        Ok(())
    }

    fn sums_are_home(&self, sums: SumSnapshot) {
        self.0.sums.table.borrow_mut().saved(sums);
        self.0.sums.notify_saved();
    }
}

/// A page of checksums as it lies at home.
type Base = (u64, Option<std::rc::Rc<crate::checksums::SumPage>>);
