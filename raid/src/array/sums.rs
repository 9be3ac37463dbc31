//! Pages of checksums between members and memory: read when they are needed, ahead of sequential
//! reads, and written with the map's pages (`checkpoint.rs`).
//!
//! What must hold: a page counts only if it knows the last change of the stripes that it is asked for.
//! If the copy that was read does not, all others are read; a copy that is older or damaged is
//! written again with the next checkpoint. A page is the same on all members before one of its places is
//! written again, since a crash may have left its newest generation on some of them alone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;

use evenkeel_journal::log::Halted;
use evenkeel_journal::sync::{Signal, join_all};
use evenkeel_journal::{BLOCK, Buf, Lsn, MemberIndex, Slice, Stripe, World};

use super::Array;
use crate::checksums::{Checksums, SumPage};
use crate::geometry::Geometry;
use crate::members::Members;
use crate::page::{self, Head, PAGE_CHECKSUMS};

/// Bytes of both places of a page's copy, which lie side by side.
const BOTH_PLACES: usize = 2 * BLOCK;
/// Bytes of every member that are scanned together.
const SCANNED_AT_ONCE: u64 = 1 << 20;
/// Blocks that are remembered as wrong, at most.
const MOST_BAD: usize = 1 << 16;

/// The checksums of a running array.
pub(super) struct Sums {
    pub table: RefCell<Checksums>,
    /// Pages that are being read.
    loading: RefCell<HashSet<u64>>,
    loaded: Signal,
    /// Pages with a copy that has to be written again, and the members that have it.
    suspect: RefCell<BTreeSet<(u64, MemberIndex)>>,
    /// Pages that are the same on all members: a bit for each.
    settled: RefCell<Vec<u64>>,
    /// Blocks that are wrong and could not be healed, with the checksum that they lack: each is
    /// counted once. At most [`MOST_BAD`].
    bad: RefCell<BTreeMap<(MemberIndex, u64), u32>>,
    /// How often a block was found to be wrong, known or not.
    noticed: Cell<u64>,
    /// Pages were written: who waits for memory looks again.
    saved: Signal,
    /// Where the last read ended, for reading ahead.
    read_end: Cell<u64>,
}

impl Sums {
    pub fn new(table: Checksums) -> Sums {
        Sums {
            table: RefCell::new(table),
            loading: RefCell::default(),
            loaded: Signal::new(),
            suspect: RefCell::default(),
            settled: RefCell::default(),
            bad: RefCell::default(),
            noticed: Cell::new(0),
            saved: Signal::new(),
            read_end: Cell::new(u64::MAX),
        }
    }

    /// Copies that have to be written again.
    pub fn suspects(&self) -> BTreeSet<(u64, MemberIndex)> {
        self.suspect.borrow().clone()
    }

    /// The copy has to be written again. False if that was known.
    pub fn suspect(&self, page: u64, member: MemberIndex) -> bool {
        self.suspect.borrow_mut().insert((page, member))
    }

    /// These copies were written again.
    pub fn mended(&self, copies: &BTreeSet<(u64, MemberIndex)>) {
        self.suspect.borrow_mut().retain(|c| !copies.contains(c));
    }

    /// These copies of a page need not be written again by the next checkpoint.
    pub fn trust(&self, page: u64, copies: &[(MemberIndex, u64)]) {
        let again = |member: MemberIndex| copies.iter().any(|c| c.0 == member);
        self.suspect.borrow_mut().retain(|(p, member)| *p != page || !again(*member));
    }

    /// Whether it is known that the copy has to be written again.
    pub fn is_suspect(&self, page: u64, member: MemberIndex) -> bool {
        self.suspect.borrow().contains(&(page, member))
    }

    fn is_settled(&self, page: u64) -> bool {
        let word = self.settled.borrow().get((page / 64) as usize).copied();
        word.unwrap_or(0) >> (page % 64) & 1 == 1
    }

    fn set_settled(&self, page: u64) {
        let (mut settled, word) = (self.settled.borrow_mut(), (page / 64) as usize);
        if settled.len() <= word {
            settled.resize(word + 1, 0);
        }
        settled[word] |= 1 << (page % 64);
    }

    /// Remembers a block that is wrong. False if that was known.
    pub fn remember_bad(&self, member: MemberIndex, at: u64, sum: u32) -> bool {
        self.noticed.set(self.noticed.get() + 1);
        let mut bad = self.bad.borrow_mut();
        if bad.get(&(member, at)) == Some(&sum) {
            return false;
        }
        if bad.len() < MOST_BAD {
            bad.insert((member, at), sum);
        }
        true
    }

    /// A number that rises with every block that is found to be wrong, known or not.
    pub fn noticed(&self) -> u64 {
        self.noticed.get()
    }

    /// The block was healed.
    pub fn forget_bad(&self, member: MemberIndex, at: u64) {
        self.bad.borrow_mut().remove(&(member, at));
    }

    /// Another disk has taken this member's place: what was said of the old one does not count.
    pub fn forget_bad_of(&self, member: MemberIndex) {
        self.bad.borrow_mut().retain(|(m, _), _| *m != member);
    }

    /// Pages were written, or nothing will be any more.
    pub fn notify_saved(&self) {
        self.saved.notify();
    }
}

/// A copy of a page as it was found.
pub(super) struct SumCopy {
    /// The newest whole place of it.
    pub newest: Option<(Head, Slice)>,
    /// Whether both places could be read.
    pub was_read: bool,
}

/// A page that is being read; others wait for it.
struct Loading<'a>(&'a Sums, u64);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.0.loading.borrow_mut().remove(&self.1);
        self.0.loaded.notify();
    }
}

impl<W: World> Array<W> {
    /// The checksums of rows `row..row + rows` of a column of a stripe, as its slot should have them
    /// now. None if it has no slot any more, or if nobody knows them: more than m copies of their page
    /// are gone.
    pub(super) async fn sums_of(
        &self,
        stripe: Stripe,
        column: usize,
        row: u32,
        rows: u32,
    ) -> Option<Vec<u32>> {
        // What was read stays in memory until all of it is found.
        let mut held = Vec::new();
        loop {
            let mut out = Vec::with_capacity(rows as usize);
            let entry = self.0.map.borrow().get(stripe);
            // Unmapped while it was read without its lock: no page has to know that.
            entry.slot?;
            let looked =
                self.0.sums.table.borrow().look_up(stripe, entry.lsn, column, row, rows, &mut out);
            match looked {
                Ok(()) => return Some(out),
                Err((page, required)) => held.push(self.sum_page(page, required).await?),
            }
        }
    }

    /// A page that knows this record: from memory, or from any of its copies. None if there is none.
    pub(super) async fn sum_page(&self, page: u64, required: Lsn) -> Option<Rc<SumPage>> {
        let sums = &self.0.sums;
        loop {
            if let Some(found) = sums.table.borrow().page(page, required) {
                return Some(found);
            }
            if sums.loading.borrow_mut().insert(page) {
                break;
            }
            sums.loaded.wait().await;
        }
        let _loading = Loading(sums, page);
        let found = self.read_sum_page(page, required).await?;
        let kept = sums.table.borrow_mut().keep(page, found);
        (kept.lsn >= required).then_some(kept)
    }

    async fn read_sum_page(&self, page: u64, required: Lsn) -> Option<SumPage> {
        let g = &self.0.geometry.get();
        let active = |c: &(MemberIndex, u64)| self.0.members.is_active(c.0);
        let mut copies: Vec<_> = g.sum_page_copies(page, 0).into_iter().filter(active).collect();
        // A slow one last.
        copies.sort_by_key(|c| self.0.members.is_avoided(c.0));
        let (first, others) = copies.split_first()?;
        let id = self.0.members.pages_are_of();
        let one = self.read_sum_places(id, page, *first).await;
        if let Some((head, bytes)) = &one.newest
            && head.lsn >= required
        {
            return Some(SumPage::found(Some(*head), bytes.clone()));
        }
        let more =
            join_all(others.iter().map(|c| self.read_sum_places(id, page, *c)).collect()).await;
        let all: Vec<SumCopy> = std::iter::once(one).chain(more).collect();
        let newest = all.iter().filter_map(|c| c.newest.as_ref());
        let newest = newest.max_by_key(|(h, _)| h.lsn).cloned();
        let Some((head, bytes)) = newest else {
            return (required == Lsn(0)).then(SumPage::never);
        };
        if head.lsn < required {
            return None;
        }
        for ((member, at), found) in copies.iter().zip(&all) {
            let older = found.newest.as_ref().is_none_or(|(h, _)| h.lsn < head.lsn);
            // What could not be read is written again, too; but it is not wrong.
            if older && self.0.sums.suspect(page, *member) && found.was_read {
                self.0.members.found_bad(*member, *at, "a page of checksums");
            }
        }
        self.0.journal.pressure().notify();
        Some(SumPage::found(Some(head), bytes))
    }

    /// Makes these pages the same on all members, where they are not: what a crash left on some alone
    /// gets to the others, at the same place. Once a run for each page; the checkpoint's lock is held.
    pub(super) async fn settle_sum_pages(&self, pages: &[(u64, Lsn)]) -> Result<(), Halted> {
        let (g, sums) = (&self.0.geometry.get(), &self.0.sums);
        let mut settled = Vec::new();
        let mut flush = false;
        for (page, required) in pages.iter().filter(|(page, _)| !sums.is_settled(*page)) {
            let active = |c: &(MemberIndex, u64)| self.0.members.is_active(c.0);
            let copies: Vec<_> = g.sum_page_copies(*page, 0).into_iter().filter(active).collect();
            let reads = copies.iter().map(|c| self.read_sum_copy(*page, *c)).collect();
            let found = join_all(reads).await;
            settled.push(*page);
            let newest = found.iter().flatten().max_by_key(|(h, _)| h.lsn);
            let Some((head, bytes)) = newest else { continue };
            for ((member, at), copy) in copies.iter().zip(&found) {
                if copy.as_ref().is_none_or(|(h, _)| h.lsn < head.lsn) {
                    let at = at + u64::from(head.place) * BLOCK as u64;
                    self.0.members.write(*member, at, vec![bytes.clone()]).await?;
                    flush = true;
                }
            }
            if head.lsn >= *required {
                let newest = SumPage::found(Some(*head), bytes.clone());
                sums.table.borrow_mut().keep(*page, newest);
            }
        }
        if flush {
            self.0.members.flush_members().await?;
        }
        settled.into_iter().for_each(|page| sums.set_settled(page));
        Ok(())
    }

    /// The newest whole place of a copy.
    pub(super) async fn read_sum_copy(
        &self,
        page: u64,
        copy: (MemberIndex, u64),
    ) -> Option<(Head, Slice)> {
        self.read_sum_places(self.0.members.pages_are_of(), page, copy).await.newest
    }

    /// A copy, both places of it, of a page that bears this identity.
    pub(super) async fn read_sum_places(
        &self,
        id: u128,
        page: u64,
        (member, at): (MemberIndex, u64),
    ) -> SumCopy {
        let read = |at, len| self.0.members.read(member, at, Buf::new(len));
        let places: Vec<Slice> = match read(at, BOTH_PLACES).await {
            Some(both) => {
                let both = both.freeze();
                vec![both.part(0, BLOCK), both.part(BLOCK, BLOCK)]
            }
            // A sector may be unreadable in one of them.
            None => {
                let some = [read(at, BLOCK).await, read(at + BLOCK as u64, BLOCK).await];
                some.into_iter().flatten().map(Buf::freeze).collect()
            }
        };
        let right = |b: &Slice| {
            let head = page::decode(b, id)?;
            let here = head.kind == PAGE_CHECKSUMS && head.page == page;
            here.then(|| (head, b.clone()))
        };
        let newest = places.iter().filter_map(right).max_by_key(|(h, _)| h.lsn);
        SumCopy { newest, was_read: places.len() == 2 }
    }

    /// Reads the next page of checksums while a sequential read has not come to it yet.
    pub(super) fn read_ahead(&self, first: u64, count: u64) {
        let sums = &self.0.sums;
        let sequential = sums.read_end.replace(first + count) == first;
        if !sequential || !sums.table.borrow().are_kept() {
            return;
        }
        let g = &self.0.geometry.get();
        let (stripe, block) = g.stripe_of(first + count - 1);
        let (page, _) = g.sum_of(stripe, g.column_row(block).1, 0);
        let next = page + 1;
        if next >= g.sum_pages()
            || sums.loading.borrow().contains(&next)
            || sums.table.borrow().page(next, Lsn(0)).is_some()
        {
            return;
        }
        let required = sums.table.borrow().required_of_page(next, &self.0.map.borrow());
        if required == Lsn(0) {
            return;
        }
        let this = self.clone();
        self.0.world.spawn("read ahead", async move {
            this.sum_page(next, required).await;
        });
    }

    /// Waits until there is memory for more checksums that no page carries yet.
    pub(super) async fn room_for_sums(&self) {
        loop {
            if !self.0.sums.table.borrow().is_full() || self.0.members.is_halted() {
                return;
            }
            let saved = self.0.sums.saved.wait();
            self.0.journal.pressure().notify();
            saved.await;
        }
    }
}

/// The newest record that any page of checksums knows, on any member: what comes after a part of the
/// log was given up has to be newer.
pub(super) async fn newest_sum_page<W: World>(
    members: &Members<W>,
    g: &Geometry,
    array: u128,
) -> Lsn {
    let mut newest = Lsn(0);
    let id = g.pages_are_of(array);
    let areas = g.stretches().map(|s| (s.sums_at, s.sums_bytes));
    let parts = areas.flat_map(|(from, bytes)| {
        let firsts = (0..bytes).step_by(SCANNED_AT_ONCE as usize);
        firsts.map(move |first| (from + first, SCANNED_AT_ONCE.min(bytes - first) as usize))
    });
    for (from, len) in parts {
        let all = (0..g.members() as u8).map(MemberIndex);
        let reads = all.map(|m| members.read(m, from, Buf::new(len))).collect();
        for found in join_all(reads).await.into_iter().flatten() {
            let heads = found.chunks(BLOCK).filter_map(|b| page::decode(b, id));
            newest = heads.map(|h| h.lsn).max().unwrap_or_default().max(newest);
        }
    }
    newest
}
