//! The table of checksums: the CRC32C of every block of every mapped stripe, data and parity, as it
//! should lie in the stripe's slot (format.md §8). In memory: what no page carries yet, and a bounded
//! part of the pages. No I/O here; that is `array/sums.rs`.
//!
//! What must hold:
//! - a checksum comes from the bytes that were to be written, by a `Place` or `Parity` record, never
//!   from bytes that were read;
//! - a page counts for a stripe only if it is as new as the stripe's last change that is not in
//!   memory: so a write of a page that a disk lost shows, whichever copy is read;
//! - what no page carries is in the log, and stays there until a page carries it (I2): so it is
//!   bounded by the log, and by `Checksums::is_full`, for which writers wait.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use evenkeel_journal::bytes::{get_u32, put_u32};
use evenkeel_journal::record::ParityRow;
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::{BLOCK, Buf, Lsn, Slice, Stripe};

use crate::geometry::Geometry;
use crate::map::Map;
use crate::page::{self, Head, PAGE_CHECKSUMS, PAGE_HEAD};

/// Bytes of memory for checksums, unless something else is asked for.
pub const DEFAULT_MEMORY: u64 = 64 << 20;
/// Least bytes of memory for checksums: who asks for less gets so much. It works with that, but reads a
/// page for almost every read.
pub const LEAST_MEMORY: u64 = 4096;
/// Of the memory for checksums the part for those that no page carries yet: one of so many.
const UNSAVED_SHARE: u64 = 4;
/// CRC32C of a block of zeros.
const ZERO_SUM: u32 = 0x98f9_4189;
/// The checksum of a block that is lost: the block is zero, and this is not the CRC of zeros.
pub const LOST_SUM: u32 = !ZERO_SUM;

/// What the checksum says of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is what was written.
    Good,
    /// It was lost before: zero in the parity, EIO for who reads it.
    Lost,
    /// It is something else.
    Bad,
}

/// Compares a block with its checksum.
#[must_use]
pub fn verdict(block: &[u8], sum: u32) -> Verdict {
    let own = crc32c::crc32c(block);
    if own == sum || broken(Sabotage::ChecksumNotCompared) {
        Verdict::Good
    } else if sum == LOST_SUM && own == ZERO_SUM && block.iter().all(|b| *b == 0) {
        Verdict::Lost
    } else {
        Verdict::Bad
    }
}

/// Checksums of a stripe that no page carries yet.
#[derive(Clone, Debug)]
pub(crate) struct Unsaved {
    /// Of all blocks of the slot, row after row; None if the page has the others.
    whole: Option<Box<[u32]>>,
    /// Of some: by row and column.
    some: BTreeMap<(u32, u16), u32>,
    /// Record that the page must know at least, to have the others.
    base: Lsn,
    /// Newest record in here.
    newest: Lsn,
}

impl Unsaved {
    /// A Place: all checksums, as it carries them (column after column).
    pub fn placed(g: &Geometry, lsn: Lsn, crcs: &[u32]) -> Option<Unsaved> {
        let (n, rows) = (g.members(), g.chunk_blocks as usize);
        if crcs.len() != n * rows {
            return None;
        }
        let by_row = (0..rows).flat_map(|r| (0..n).map(move |c| crcs[c * rows + r]));
        let whole = Some(by_row.collect());
        Some(Unsaved { whole, some: BTreeMap::new(), base: Lsn(0), newest: lsn })
    }

    /// Nothing yet; the page knows `base`.
    pub fn none(base: Lsn) -> Unsaved {
        Unsaved { whole: None, some: BTreeMap::new(), base, newest: base }
    }

    /// A Parity: the blocks that it puts in place.
    pub fn changed(&mut self, g: &Geometry, lsn: Lsn, rows: &[ParityRow]) {
        self.newest = self.newest.max(lsn);
        for r in rows {
            let covered = r.covered.iter().map(|c| (c.column as usize, c.crc));
            let parity = r.parity_crcs.iter().enumerate().map(|(i, crc)| (g.data + i, *crc));
            for (column, crc) in covered.chain(parity) {
                match &mut self.whole {
                    Some(all) => all[r.row as usize * g.members() + column] = crc,
                    None => {
                        self.some.insert((r.row, column as u16), crc);
                    }
                }
            }
        }
    }

    /// Newest record in here.
    pub fn newest(&self) -> Lsn {
        self.newest
    }

    fn get(&self, n: usize, row: u32, column: usize) -> Option<u32> {
        match &self.whole {
            Some(all) => Some(all[row as usize * n + column]),
            None => self.some.get(&(row, column as u16)).copied(),
        }
    }

    /// Bytes that it takes, about.
    fn bytes(&self) -> u64 {
        let whole = self.whole.as_ref().map_or(0, |w| w.len() * 4);
        (whole + self.some.len() * 24 + 128) as u64
    }
}

/// A page of checksums in memory.
pub(crate) struct SumPage {
    pub lsn: Lsn,
    pub place: u8,
    bytes: Slice,
    /// Looked at since the hand of the clock passed it.
    used: Cell<bool>,
}

impl SumPage {
    /// A page as it was read, or one that was never written.
    pub fn found(head: Option<Head>, bytes: Slice) -> SumPage {
        let (lsn, place) = head.map_or((Lsn(0), 0), |h| (h.lsn, h.place));
        SumPage { lsn, place, bytes, used: Cell::new(true) }
    }

    /// One that was never written: all zero.
    pub fn never() -> SumPage {
        SumPage::found(None, Buf::zeroed(BLOCK).freeze())
    }
}

/// A page on its way to its home.
pub(crate) struct SumWrite {
    pub page: u64,
    pub place: u8,
    pub lsn: Lsn,
    pub bytes: Slice,
}

/// What is written of the table at one moment: the pages, and what they make saved.
pub(crate) struct SumSnapshot {
    pub pages: Vec<SumWrite>,
    /// (stripe, newest record of its checksums).
    stripes: Vec<(Stripe, Lsn)>,
}

/// The table of an array; empty and without effect where it has no checksums.
pub(crate) struct Checksums {
    g: Geometry,
    /// What its pages bear.
    id: u128,
    unsaved: BTreeMap<Stripe, Unsaved>,
    unsaved_bytes: u64,
    most_unsaved: u64,
    pages: HashMap<u64, Rc<SumPage>>,
    /// The pages in memory, in the order in which the hand of the clock meets them.
    clock: VecDeque<u64>,
    most_pages: usize,
}

impl Checksums {
    /// The table of this array, with what replay found, in so many bytes of memory.
    pub fn new(
        g: Geometry,
        array: u128,
        memory: u64,
        unsaved: BTreeMap<Stripe, Unsaved>,
    ) -> Checksums {
        let memory = memory.max(LEAST_MEMORY);
        let most_unsaved = memory / UNSAVED_SHARE;
        Checksums {
            id: g.pages_are_of(array),
            g,
            unsaved_bytes: unsaved.values().map(Unsaved::bytes).sum(),
            unsaved,
            most_unsaved,
            pages: HashMap::new(),
            clock: VecDeque::new(),
            most_pages: ((memory - most_unsaved) / BLOCK as u64) as usize,
        }
    }

    /// There are stripes more, none of which has checksums yet.
    pub fn grow(&mut self, g: Geometry) {
        self.g = g;
    }

    /// Whether there are any.
    pub fn are_kept(&self) -> bool {
        self.g.has_checksums()
    }

    // ---- what records do ----

    fn replace(&mut self, stripe: Stripe, new: Option<Unsaved>) {
        self.unsaved_bytes += new.as_ref().map_or(0, Unsaved::bytes);
        let old = match new {
            Some(new) => self.unsaved.insert(stripe, new),
            None => self.unsaved.remove(&stripe),
        };
        self.unsaved_bytes -= old.map_or(0, |u| u.bytes());
    }

    /// The stripe was placed with these checksums (column after column).
    pub fn placed(&mut self, stripe: Stripe, lsn: Lsn, crcs: &[u32]) {
        if self.are_kept() {
            let new = Unsaved::placed(&self.g, lsn, crcs);
            self.replace(stripe, Some(new.expect("a Place has the checksums of its slot")));
        }
    }

    /// The stripe has no slot any more.
    pub fn unmapped(&mut self, stripe: Stripe) {
        self.replace(stripe, None);
    }

    /// These rows of a stripe are what lies in its slot from now on; `entry` is the LSN of its map
    /// entry until then.
    pub fn changed(&mut self, stripe: Stripe, entry: Lsn, lsn: Lsn, rows: &[ParityRow]) {
        if !self.are_kept() {
            return;
        }
        let old = self.unsaved.remove(&stripe);
        self.unsaved_bytes -= old.as_ref().map_or(0, Unsaved::bytes);
        let mut new = old.unwrap_or_else(|| Unsaved::none(entry));
        new.changed(&self.g, lsn, rows);
        self.replace(stripe, Some(new));
    }

    /// Memory of what no page carries yet.
    pub fn unsaved_bytes(&self) -> u64 {
        self.unsaved_bytes
    }

    /// Whether pages should be written soon.
    pub fn is_filling(&self) -> bool {
        self.unsaved_bytes * 2 >= self.most_unsaved
    }

    /// Whether writers have to wait until pages are written.
    pub fn is_full(&self) -> bool {
        self.unsaved_bytes >= self.most_unsaved
    }

    // ---- look-up ----

    /// Record that a page must know to count for this stripe, whose entry has this LSN.
    fn required(&self, stripe: Stripe, entry: Lsn) -> Lsn {
        match self.unsaved.get(&stripe) {
            Some(Unsaved { whole: Some(_), .. }) => Lsn(0),
            Some(u) => u.base,
            None => entry,
        }
    }

    /// Checksums of the rows `row..row + rows` of a column, appended to `out`.
    ///
    /// # Errors
    /// The page that is not in memory, and the record that it must know.
    pub fn look_up(
        &self,
        stripe: Stripe,
        entry: Lsn,
        column: usize,
        row: u32,
        rows: u32,
        out: &mut Vec<u32>,
    ) -> Result<(), (u64, Lsn)> {
        let n = self.g.members();
        let unsaved = self.unsaved.get(&stripe);
        let mut at: Option<(u64, &SumPage)> = None;
        for r in row..row + rows {
            if let Some(sum) = unsaved.and_then(|u| u.get(n, r, column)) {
                out.push(sum);
                continue;
            }
            let (page, number) = self.g.sum_of(stripe, r, column);
            if at.is_none_or(|a| a.0 != page) {
                let required = self.required(stripe, entry);
                let found = self.pages.get(&page).filter(|p| p.lsn >= required);
                let found = found.ok_or((page, required))?;
                found.used.set(true);
                at = Some((page, found));
            }
            let (_, found) = at.expect("it was just set");
            out.push(get_u32(&found.bytes, PAGE_HEAD + number * 4));
        }
        Ok(())
    }

    /// The page, if it is in memory and knows this record.
    pub fn page(&self, page: u64, required: Lsn) -> Option<Rc<SumPage>> {
        self.pages.get(&page).filter(|p| p.lsn >= required).cloned()
    }

    /// Keeps a page that was read or written, unless a newer one is here. Pages that somebody holds
    /// stay, so there may be a few more than fit.
    pub fn keep(&mut self, page: u64, new: SumPage) -> Rc<SumPage> {
        if let Some(old) = self.pages.get(&page)
            && old.lsn > new.lsn
        {
            return Rc::clone(old);
        }
        let new = Rc::new(new);
        if self.pages.insert(page, Rc::clone(&new)).is_none() {
            self.clock.push_back(page);
        }
        let mut tries = 2 * self.clock.len();
        while self.clock.len() > self.most_pages && tries > 0 {
            tries -= 1;
            let Some(next) = self.clock.pop_front() else { break };
            let p = &self.pages[&next];
            if p.used.take() || Rc::strong_count(p) > 1 {
                self.clock.push_back(next);
            } else {
                self.pages.remove(&next);
            }
        }
        new
    }

    // ---- pages go home ----

    /// The pages that the checksums of these stripes go to, each with the record that what is
    /// there must know: the last change, not in memory, of any stripe of the page.
    pub fn pages_of(&self, stripes: &[Stripe], map: &Map) -> Vec<(u64, Lsn)> {
        let pages = self.page_numbers_of(stripes).into_iter();
        pages.map(|p| (p, self.required_of_page(p, map))).collect()
    }

    /// The pages that the checksums of these stripes go to.
    pub fn page_numbers_of(&self, stripes: &[Stripe]) -> Vec<u64> {
        let mut pages: Vec<u64> = Vec::new();
        for stripe in stripes.iter().filter(|s| self.unsaved.contains_key(s)) {
            let (first, last) = self.pages_of_stripe(*stripe);
            let known = pages.last().map_or(0, |p| p + 1);
            pages.extend(first.max(known)..=last);
        }
        pages
    }

    /// First and last page with checksums of a stripe.
    pub fn pages_of_stripe(&self, stripe: Stripe) -> (u64, u64) {
        let first = self.g.sum_of(stripe, 0, 0).0;
        (first, self.g.sum_of(stripe, self.g.chunk_blocks - 1, 0).0)
    }

    /// The stripes that have checksums in a page.
    pub fn stripes_of_page(&self, page: u64) -> std::ops::Range<u64> {
        let rows = self.g.rows_of_sum_page();
        let per_stripe = u64::from(self.g.chunk_blocks);
        let first = (page - 1) * rows / per_stripe;
        let end = (page * rows).div_ceil(per_stripe);
        first..end.min(self.g.stripes)
    }

    /// Record that a page must know for all of its stripes.
    pub fn required_of_page(&self, page: u64, map: &Map) -> Lsn {
        let stripes = self.stripes_of_page(page).map(Stripe);
        let mapped = stripes.map(|s| (s, map.get(s))).filter(|(_, e)| e.slot.is_some());
        mapped.map(|(s, e)| self.required(s, e.lsn)).max().unwrap_or_default()
    }

    /// The pages of these stripes as they are now: the newest record given out is `lsn`. The old
    /// ones are `bases`, by their numbers; what none of them has is unknown from now on, so EIO.
    pub fn snapshot(
        &self,
        lsn: Lsn,
        stripes: &[Stripe],
        bases: &[(u64, Option<Rc<SumPage>>)],
    ) -> SumSnapshot {
        let saved = stripes.iter().filter_map(|s| Some((*s, self.unsaved.get(s)?.newest)));
        let saved: Vec<(Stripe, Lsn)> = saved.collect();
        for (stripe, _) in &saved {
            let (first, last) = self.pages_of_stripe(*stripe);
            let goes_home = |page: u64| bases.binary_search_by_key(&page, |b| b.0).is_ok();
            assert!((first..=last).all(goes_home), "I2: what counts as home is written there");
        }
        let n = self.g.members();
        let mut pages = Vec::new();
        for (page, base) in bases {
            let place = base.as_ref().map_or(0, |b| 1 - b.place);
            let mut b = Buf::zeroed(BLOCK);
            match base {
                Some(base) => b.copy_from_slice(&base.bytes),
                None => b[PAGE_HEAD..].chunks_mut(4).for_each(|s| put_u32(s, 0, LOST_SUM)),
            }
            let head = Head { kind: PAGE_CHECKSUMS, page: *page, place, generation: lsn.0, lsn };
            head.put(self.id, &mut b);
            let of_page = self.stripes_of_page(*page);
            for (stripe, u) in self.unsaved.range(Stripe(of_page.start)..Stripe(of_page.end)) {
                let mut put = |row: u32, column: usize, sum: u32| {
                    let (own, number) = self.g.sum_of(*stripe, row, column);
                    if own == *page {
                        put_u32(&mut b, PAGE_HEAD + number * 4, sum);
                    }
                };
                for (i, sum) in u.whole.iter().flatten().enumerate() {
                    put((i / n) as u32, i % n, *sum);
                }
                u.some
                    .iter()
                    .for_each(|((row, column), sum)| put(*row, usize::from(*column), *sum));
            }
            page::seal(&mut b);
            pages.push(SumWrite { page: *page, place, lsn, bytes: b.freeze() });
        }
        SumSnapshot { pages, stripes: saved }
    }

    /// The pages are flushed: what they carry need not be kept any more, unless it has changed.
    pub fn saved(&mut self, snapshot: SumSnapshot) {
        for (stripe, newest) in snapshot.stripes {
            if self.unsaved.get(&stripe).is_some_and(|u| u.newest == newest) {
                self.replace(stripe, None);
            }
        }
        for w in snapshot.pages {
            let SumWrite { page, place, lsn, bytes } = w;
            self.keep(page, SumPage { lsn, place, bytes, used: Cell::new(false) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Level;
    use crate::map::Entry;
    use evenkeel_journal::Slot;
    use evenkeel_journal::record::Covered;

    const MEMORY: u64 = 1 << 20;

    fn shape(chunk: u64) -> Geometry {
        Geometry::plan(Level::Raid6, 4, 2, chunk, 256 << 20, None, None, true).expect("it fits")
    }

    fn table(g: Geometry) -> Checksums {
        Checksums::new(g, 7, MEMORY, BTreeMap::new())
    }

    /// Checksums of a Place that say where they belong: 1000 × column + row.
    fn telling(g: &Geometry) -> Vec<u32> {
        let rows = g.chunk_blocks;
        (0..g.members() as u32).flat_map(|c| (0..rows).map(move |r| 1000 * c + r)).collect()
    }

    fn one(t: &Checksums, stripe: u64, entry: u64, column: usize, row: u32) -> Option<u32> {
        let mut out = Vec::new();
        let found = t.look_up(Stripe(stripe), Lsn(entry), column, row, 1, &mut out);
        found.ok().map(|()| out[0])
    }

    fn write_home(t: &mut Checksums, map: &Map, lsn: u64, stripes: &[u64]) -> Vec<SumWrite> {
        let stripes: Vec<Stripe> = stripes.iter().copied().map(Stripe).collect();
        let pages = t.pages_of(&stripes, map).into_iter();
        let bases: Vec<_> = pages
            .map(|(p, required)| (p, t.page(p, required).or_else(|| Some(SumPage::never().into()))))
            .collect();
        let snapshot = t.snapshot(Lsn(lsn), &stripes, &bases);
        let written = snapshot.pages.iter().map(|w| SumWrite { bytes: w.bytes.clone(), ..*w });
        let written = written.collect();
        t.saved(snapshot);
        written
    }

    fn mapped(map: &mut Map, stripe: u64, lsn: u64) {
        map.set(Stripe(stripe), Entry { slot: Some(Slot(stripe as u32)), lsn: Lsn(lsn) });
    }

    #[test]
    fn a_page_lies_as_the_format_says() {
        // 16 rows a stripe, 168 a page: stripe 10 begins in page 1 and ends in page 2.
        let g = shape(65536);
        let (mut t, mut map) = (table(g), Map::empty(g, 7));
        assert_eq!(t.pages_of_stripe(Stripe(10)), (1, 2));
        assert_eq!((t.stripes_of_page(1), t.stripes_of_page(2)), (0..11, 10..21));
        t.placed(Stripe(10), Lsn(50), &telling(&g));
        mapped(&mut map, 10, 50);
        let written = write_home(&mut t, &map, 60, &[10]);
        assert_eq!(written.iter().map(|w| (w.page, w.place)).collect::<Vec<_>>(), [(1, 1), (2, 1)]);
        for row in 0..16u64 {
            let nth = 10 * 16 + row;
            let (page, within) = (nth / 168, nth % 168);
            for column in 0..6 {
                let at = 64 + (within * 6 + column) as usize * 4;
                let sum = get_u32(&written[page as usize].bytes, at);
                assert_eq!(u64::from(sum), 1000 * column + row);
            }
        }
        let head = page::decode(&written[1].bytes, 7).expect("a page");
        let expected =
            Head { kind: PAGE_CHECKSUMS, page: 2, place: 1, generation: 60, lsn: Lsn(60) };
        assert_eq!(head, expected);
        assert_eq!(page::decode(&written[1].bytes, 8), None, "of another array");
        // What is home is read from there, and the next writing goes to the other place.
        assert_eq!((t.unsaved_bytes(), one(&t, 10, 50, 5, 15)), (0, Some(5015)));
        t.placed(Stripe(10), Lsn(70), &telling(&g));
        let again = write_home(&mut t, &map, 80, &[10]);
        assert!(again.iter().all(|w| w.place == 0 && w.lsn == Lsn(80)));
    }

    #[test]
    fn a_page_that_is_too_old_does_not_count() {
        let g = shape(4096);
        let (mut t, mut map) = (table(g), Map::empty(g, 7));
        t.placed(Stripe(3), Lsn(50), &telling(&g));
        mapped(&mut map, 3, 50);
        let old = write_home(&mut t, &map, 50, &[3]).remove(0);
        assert_eq!(one(&t, 3, 50, 2, 0), Some(2000));
        // A Parity changes two blocks; the rest is the page's.
        let covered = vec![Covered { column: 2, crc: 77, lsn: Lsn(55) }];
        let rows = [ParityRow { row: 0, covered, parity_crcs: vec![88, 99] }];
        t.changed(Stripe(3), Lsn(50), Lsn(60), &rows);
        assert_eq!((one(&t, 3, 50, 2, 0), one(&t, 3, 50, 5, 0)), (Some(77), Some(99)));
        assert_eq!(one(&t, 3, 60, 1, 0), Some(1000), "its base is as new as the page");
        mapped(&mut map, 3, 60);
        write_home(&mut t, &map, 61, &[3]);
        assert_eq!((one(&t, 3, 60, 2, 0), one(&t, 3, 60, 1, 0)), (Some(77), Some(1000)));
        // A disk that lost that writing gives the old page: it is not believed.
        let mut stale = table(g);
        stale.keep(1, SumPage::found(page::decode(&old.bytes, 7), old.bytes));
        assert_eq!(one(&stale, 3, 50, 2, 0), Some(2000));
        assert_eq!(stale.required_of_page(1, &map), Lsn(60));
        assert_eq!(one(&stale, 3, 60, 2, 0), None);
    }

    #[test]
    fn memory_is_bounded_and_what_is_unsaved_stays() {
        let g = shape(4096);
        let mut t = table(g);
        let most = (MEMORY - MEMORY / UNSAVED_SHARE) / BLOCK as u64;
        let pages = most * 3;
        let held = t.keep(1, SumPage::never());
        for page in 2..pages {
            t.keep(page, SumPage::never());
            assert!(t.pages.len() as u64 <= most + 1);
        }
        assert!(t.page(1, Lsn(0)).is_some(), "somebody holds it");
        drop(held);
        let mut stripe = 0;
        while !t.is_full() {
            t.placed(Stripe(stripe), Lsn(stripe + 1), &telling(&g));
            stripe += 1;
        }
        assert!(t.unsaved_bytes() <= MEMORY / UNSAVED_SHARE + 1000 && t.is_filling());
        assert!((0..stripe).all(|s| one(&t, s, s + 1, 5, 0) == Some(5000)));
        (0..stripe).for_each(|s| t.unmapped(Stripe(s)));
        assert_eq!(t.unsaved_bytes(), 0);
    }

    #[test]
    fn lost_blocks_are_told_from_zeros_and_from_blocks_with_that_sum() {
        assert_eq!(crc32c::crc32c(&[0; BLOCK]), ZERO_SUM);
        let zeros = [0u8; BLOCK];
        assert_eq!(verdict(&zeros, ZERO_SUM), Verdict::Good);
        assert_eq!(verdict(&zeros, LOST_SUM), Verdict::Lost);
        assert_eq!(verdict(&[1; BLOCK], LOST_SUM), Verdict::Bad);
        // The four bytes that make a block of zeros have any CRC: found by the CRC's linearity.
        let mut own = [0u8; BLOCK];
        let mut columns = Vec::new();
        for bit in 0..32 {
            let mut b = [0u8; BLOCK];
            b[bit / 8] = 1 << (bit % 8);
            columns.push((crc32c::crc32c(&b) ^ ZERO_SUM, 1u32 << bit));
        }
        let mut left = LOST_SUM ^ ZERO_SUM;
        let mut bits = 0u32;
        for place in (0..32).rev() {
            let Some(i) = columns.iter().position(|c| c.0 >> place == 1) else { continue };
            let (sum, which) = columns.remove(i);
            for c in &mut columns {
                if c.0 >> place & 1 == 1 {
                    *c = (c.0 ^ sum, c.1 ^ which);
                }
            }
            if left >> place & 1 == 1 {
                (left, bits) = (left ^ sum, bits ^ which);
            }
        }
        own[..4].copy_from_slice(&bits.to_le_bytes());
        assert_eq!(crc32c::crc32c(&own), LOST_SUM);
        assert_eq!(verdict(&own, LOST_SUM), Verdict::Good);
    }
}
