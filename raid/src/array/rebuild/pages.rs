//! The pages of map and checksums of a disk that is being filled. Those that are written meanwhile go
//! to it by themselves; here it gets the older ones.
//!
//! What must hold: after it no page on the disk is newer than what the others hold (it may have been a
//! member before), and every page that a start would read is there.

use evenkeel_journal::log::Halted;
use evenkeel_journal::{BLOCK, Buf, MemberIndex, Slice, World};

use super::super::Array;
use super::Break;
use crate::page::{self, Head, PAGE_CHECKSUMS};

/// Pages that are looked at before requests have their turn.
const PAGES_AT_ONCE: u64 = 64;

impl<W: World> Array<W> {
    /// Writes to `twin` what `takes` must hold of map and checksums.
    pub(super) async fn fill_pages(
        &self,
        twin: MemberIndex,
        takes: MemberIndex,
    ) -> Result<(), Break> {
        let (map, sums) = (self.map_and_roots(), self.0.geometry.get().sum_pages());
        let mut at = 0;
        while at < map {
            self.let_requests_go_first().await?;
            let end = map.min(at + PAGES_AT_ONCE);
            let mut again = Vec::new();
            {
                let _turn = self.0.checkpoint_lock.lock().await;
                for page in at..end {
                    if !self.fill_map_page(page, twin, takes).await? {
                        again.push(page);
                    }
                }
            }
            for page in again {
                // No copy of it is whole: it is written anew, here as well.
                self.scrub_map_pages(page..page + 1, false).await?;
            }
            at = end;
        }
        // Page 0 is the scrub's own, which is written at its end and not needed before.
        at = 1;
        while at < sums {
            self.let_requests_go_first().await?;
            let end = sums.min(at + PAGES_AT_ONCE);
            let mut again = Vec::new();
            {
                let _turn = self.0.checkpoint_lock.lock().await;
                for page in at..end {
                    if !self.fill_sum_page(page, twin, takes).await? {
                        again.push(page);
                    }
                }
            }
            for page in again {
                self.scrub_sum_pages(page..page + 1, false).await?;
            }
            at = end;
        }
        self.0.members.flush_twins(vec![twin]).await?;
        Ok(())
    }

    /// False: no copy of it is whole.
    async fn fill_map_page(
        &self,
        number: u64,
        twin: MemberIndex,
        takes: MemberIndex,
    ) -> Result<bool, Halted> {
        let g = &self.0.geometry.get();
        let Some(home) = self.0.map.borrow().page_at_home(number) else { return Ok(true) };
        let of_it = |place| {
            g.page_copies(number, place).into_iter().find(|(m, _)| *m == takes).map(|c| c.1)
        };
        let (Some(at), Some(other)) = (of_it(home.place), of_it(1 - home.place)) else {
            return Ok(true);
        };
        let known = |h: &Head| {
            (h.kind, h.page, h.generation, h.place)
                == (home.kind, home.page, home.generation, home.place)
        };
        if !self.head_on_twin(twin, at).await.is_some_and(|h| known(&h)) {
            let mut whole = None;
            for copy in self.active_copies(g.page_copies(number, home.place)) {
                whole = self.whole_map_copy(copy, home).await;
                if whole.is_some() {
                    break;
                }
            }
            let Some(whole) = whole else { return Ok(self.0.members.is_halted()) };
            self.0.members.write_twin(twin, at, vec![whole]).await?;
        }
        let newer = |h: &Head| h.generation >= home.generation;
        self.wipe_if(twin, other, newer).await
    }

    /// False: no copy of it counts.
    async fn fill_sum_page(
        &self,
        number: u64,
        twin: MemberIndex,
        takes: MemberIndex,
    ) -> Result<bool, Halted> {
        let g = &self.0.geometry.get();
        let copies = g.sum_page_copies(number, 0);
        let Some((_, at)) = copies.iter().find(|(m, _)| *m == takes).copied() else {
            return Ok(true);
        };
        let required = {
            let (table, map) = (self.0.sums.table.borrow(), self.0.map.borrow());
            table.required_of_page(number, &map)
        };
        // Nothing that only the page knows.
        if required.0 == 0 {
            return Ok(true);
        }
        let mut newest: Option<(Head, Slice)> = None;
        for copy in self.active_copies(copies) {
            let found = self.read_sum_copy(number, copy).await;
            if found.as_ref().map(|f| f.0.lsn) > newest.as_ref().map(|n| n.0.lsn) {
                newest = found;
            }
        }
        let Some((head, whole)) = newest.filter(|(h, _)| h.lsn >= required) else {
            return Ok(self.0.members.is_halted());
        };
        let place = |p: u8| at + u64::from(p) * BLOCK as u64;
        let known = |h: &Head| {
            (h.kind, h.page, h.lsn, h.place) == (PAGE_CHECKSUMS, number, head.lsn, head.place)
        };
        if !self.head_on_twin(twin, place(head.place)).await.is_some_and(|h| known(&h)) {
            self.0.members.write_twin(twin, place(head.place), vec![whole]).await?;
        }
        self.wipe_if(twin, place(1 - head.place), |h| h.lsn > head.lsn).await
    }

    async fn head_on_twin(&self, twin: MemberIndex, at: u64) -> Option<Head> {
        let there = self.0.members.read_twin(twin, at).await?;
        page::decode(&there, self.0.members.pages_are_of())
    }

    /// Overwrites a page of a time that the others do not know, or one that cannot be read.
    async fn wipe_if(
        &self,
        twin: MemberIndex,
        at: u64,
        newer: impl Fn(&Head) -> bool,
    ) -> Result<bool, Halted> {
        if self.head_on_twin(twin, at).await.is_some_and(|h| newer(&h)) {
            let zeros = Buf::zeroed(BLOCK).freeze();
            self.0.members.write_twin(twin, at, vec![zeros]).await?;
        }
        Ok(true)
    }
}
