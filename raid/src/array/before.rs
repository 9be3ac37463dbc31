//! The shape before, while its stripes are moved to the wider one (format.md §2, "More columns"): its
//! map and checksums, which are only read, and what of it is still needed.
//!
//! A stripe of the wider shape that was never written or discarded is *backed* by the stripes of before
//! that hold some of its blocks. What must hold:
//! - what lies in a slot of the shape before never changes, so it is read without a lock, under a pin;
//! - a slot of the shape before is free when every stripe of the wider shape that it backs has a record
//!   of its own, and these are durable (I4);
//! - stripes ahead of those that are moved in order take slots only by permit, as many as the shape
//!   says, or whoever moves them would run out of slots.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::{Signal, join_all};
use evenkeel_journal::{BLOCK, Buf, Lsn, Slot, Stripe, World};

use super::Array;
use super::rows::View;
use super::slots::Pin;
use super::write::pieces;
use crate::checksums::{Checksums, SumPage};
use crate::codec::Code;
use crate::error::RequestError;
use crate::geometry::Geometry;
use crate::map::{Entry, Map};

/// The shape before, and what of it is still needed.
pub(super) struct Plane {
    /// The shape.
    pub g: Geometry,
    /// Its code.
    pub code: Code,
    /// k of the wider shape.
    wide: u64,
    map: RefCell<Map>,
    pub sums: RefCell<Checksums>,
    /// By stripe of before: how many stripes of the wider shape have no record of their own.
    needed_by: RefCell<Vec<u32>>,
    /// Stripes of the wider shape that hold a part of the device as it is.
    pub end: u64,
    /// Stripes of the wider shape before this one are moved.
    next: Cell<u64>,
    /// Those from there on that have a permit.
    ahead: RefCell<BTreeSet<Stripe>>,
    most_ahead: usize,
    /// Something was moved, or is to end.
    pub changed: Signal,
}

impl Plane {
    /// The shape before `wider`, as replay left the map of that. `in_use`: stripes of the wider shape that
    /// have a slot or blocks that are dirty. Gives also the stripes of before whose slots those of the
    /// wider shape use, which then have none.
    pub fn new(
        wider: &Geometry,
        code: Code,
        (map, sums): (Map, Checksums),
        now: &Map,
        in_use: impl Fn(Stripe) -> bool,
    ) -> (Plane, Vec<Stripe>) {
        let g = wider.shape_before().expect("stripes of the shape before are in use");
        let end = (g.stripes * g.data as u64).div_ceil(wider.data as u64);
        let plane = Plane {
            g,
            code,
            wide: wider.data as u64,
            map: RefCell::new(map),
            sums: RefCell::new(sums),
            needed_by: RefCell::new(vec![0; g.stripes as usize]),
            end,
            next: Cell::new(0),
            ahead: RefCell::default(),
            most_ahead: wider.ahead_at_most() as usize,
            changed: Signal::new(),
        };
        for stripe in (0..end).map(Stripe).filter(|s| now.get(*s).lsn == Lsn(0)) {
            for old in plane.holds(stripe) {
                plane.needed_by.borrow_mut()[old as usize] += 1;
            }
        }
        // What nobody needs was given up before the crash, and may be used by others.
        for old in 0..g.stripes {
            if plane.needed_by.borrow()[old as usize] == 0 {
                plane.forget(old);
            }
        }
        let mut used: BTreeSet<Slot> = now.slots().collect();
        let mut is_used = |(_, e): &(Stripe, Entry)| e.slot.is_some_and(|s| !used.insert(s));
        let twice: Vec<Stripe> =
            plane.map.borrow().entries().filter(&mut is_used).map(|e| e.0).collect();
        for stripe in &twice {
            plane.forget(stripe.0);
        }
        let touched = |s: &Stripe| in_use(*s) && plane.overlaps(*s);
        plane.ahead.replace((0..end).map(Stripe).filter(touched).collect());
        plane.passed(0);
        (plane, twice)
    }

    /// The stripes of before that hold some of a stripe's blocks.
    fn holds(&self, stripe: Stripe) -> Range<u64> {
        let k = self.g.data as u64;
        let from = stripe.0 * self.wide / k;
        from.min(self.g.stripes)..((stripe.0 + 1) * self.wide).div_ceil(k).min(self.g.stripes)
    }

    /// Whether a stripe of before that holds some of the blocks has a slot.
    fn overlaps(&self, stripe: Stripe) -> bool {
        let map = self.map.borrow();
        self.holds(stripe).any(|old| map.get(Stripe(old)).slot.is_some())
    }

    /// The entry of a stripe of before; its LSN stays when its slot is given up.
    pub fn entry(&self, old: Stripe) -> Entry {
        self.map.borrow().get(old)
    }

    fn forget(&self, old: u64) -> Option<Slot> {
        let mut map = self.map.borrow_mut();
        let Entry { slot, lsn } = map.get(Stripe(old));
        map.set(Stripe(old), Entry { slot: None, lsn });
        slot
    }

    /// Whether a stripe whose map entry has this LSN is backed.
    pub fn backs(&self, stripe: Stripe, entry: Lsn) -> bool {
        entry == Lsn(0) && stripe.0 < self.end && self.overlaps(stripe)
    }

    /// Stripes of before that are needed.
    pub fn left(&self) -> u64 {
        self.map.borrow().mapped()
    }

    /// Their slots.
    pub fn slots(&self) -> Vec<Slot> {
        self.map.borrow().slots().collect()
    }

    /// Stripes of the wider shape before this one are moved.
    pub fn next(&self) -> u64 {
        self.next.get()
    }

    /// A stripe has its first record now: gives the slots of before that nobody needs any more.
    pub fn has_a_record(&self, stripe: Stripe) -> Vec<Slot> {
        let mut free = Vec::new();
        if stripe.0 >= self.end {
            return free;
        }
        for old in self.holds(stripe) {
            let left = {
                let mut needed_by = self.needed_by.borrow_mut();
                let n = &mut needed_by[old as usize];
                *n = n.checked_sub(1).expect("I4: a stripe has its first record once");
                *n
            };
            if left == 0 || broken(Sabotage::BeforeGivenUpEarly) {
                free.extend(self.forget(old));
            }
        }
        free
    }

    /// Everything before this stripe is moved.
    pub fn passed(&self, next: u64) {
        self.next.set(next);
        let mut ahead = self.ahead.borrow_mut();
        *ahead = ahead.split_off(&Stripe(next));
        drop(ahead);
        self.changed.notify();
    }

    /// Whether a stripe must not take a slot without a permit.
    fn wants_permit(&self, stripe: Stripe) -> bool {
        (self.next.get()..self.end).contains(&stripe.0)
            && !self.ahead.borrow().contains(&stripe)
            && self.overlaps(stripe)
    }

    /// A permit for a stripe to take a slot, if it needs none or there is one left.
    pub fn permit(&self, stripe: Stripe) -> bool {
        if !self.wants_permit(stripe) {
            return true;
        }
        let mut ahead = self.ahead.borrow_mut();
        ahead.len() < self.most_ahead && ahead.insert(stripe)
    }
}

/// What a range of device blocks was in the shape before.
pub(super) struct OldRun {
    stripe: Stripe,
    slot: Slot,
    column: usize,
    row: u32,
    rows: u32,
    /// Block of the range.
    to: u64,
    _pin: Pin,
}

impl<W: World> Array<W> {
    /// The shape before, while it is in use.
    pub(super) fn before(&self) -> Option<Rc<Plane>> {
        self.0.before.borrow().clone()
    }

    /// Whether a stripe is backed by the shape before.
    pub(super) fn is_backed(&self, stripe: Stripe) -> bool {
        let before = self.0.before.borrow();
        before.as_ref().is_some_and(|b| b.backs(stripe, self.0.map.borrow().get(stripe).lsn))
    }

    /// Where these blocks of the device lie in the shape before, pinned in this moment; what has no
    /// slot there is left out.
    pub(super) fn runs_before(&self, plane: &Plane, block: u64, count: u64) -> Vec<OldRun> {
        let count = count.min(plane.g.device_blocks().saturating_sub(block));
        let mut runs = Vec::new();
        for p in pieces(&plane.g, block, count) {
            let Some(slot) = plane.entry(p.stripe).slot else { continue };
            let mut done = 0;
            while done < p.count {
                let (column, row) = plane.g.column_row(p.first + done);
                let rows = (plane.g.chunk_blocks - row).min(p.count - done);
                let to = (p.from / BLOCK) as u64 + u64::from(done);
                let _pin = self.0.slots.pin(slot);
                runs.push(OldRun { stripe: p.stripe, slot, column, row, rows, to, _pin });
                done += rows;
            }
        }
        runs
    }

    /// Fills `out`, which is zero, from these runs.
    ///
    /// # Errors
    /// `Io` if too much of a row is gone or wrong, or a block is lost.
    pub(super) async fn read_before(
        &self,
        plane: &Plane,
        runs: &[OldRun],
        out: &mut [u8],
    ) -> Result<(), RequestError> {
        for (run, bytes) in runs.iter().zip(self.read_runs(plane, runs).await) {
            let (bytes, lost) = bytes?;
            if !lost.is_empty() {
                return Err(RequestError::Io);
            }
            let to = run.to as usize * BLOCK;
            out[to..to + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }

    /// The same, where blocks that nobody can give are zero; gives which those are.
    ///
    /// # Errors
    /// `Io` if the array has lost too much: then nothing is lost that may not come back.
    pub(super) async fn what_is_left_before(
        &self,
        plane: &Plane,
        runs: &[OldRun],
        out: &mut [u8],
    ) -> Result<Vec<u32>, RequestError> {
        let mut lost = Vec::new();
        for (run, found) in runs.iter().zip(self.read_runs(plane, runs).await) {
            let to = run.to as usize * BLOCK;
            if let Ok((bytes, zero)) = found {
                out[to..to + bytes.len()].copy_from_slice(&bytes);
                lost.extend(zero.iter().map(|row| run.to as u32 + row - run.row));
                continue;
            }
            for i in 0..run.rows {
                let (view, wanted) = (View::Before(plane), [run.column]);
                let row = self.read_rows_by(view, run.stripe, run.slot, run.row + i, 1, &wanted);
                let to = to + i as usize * BLOCK;
                match row.await {
                    Ok(mut row) if row.lost.is_empty() => {
                        let bytes = row.columns.remove(0);
                        out[to..to + bytes.len()].copy_from_slice(&bytes);
                    }
                    _ if self.0.members.is_halted() => return Err(RequestError::Io),
                    _ => lost.push(run.to as u32 + i),
                }
            }
        }
        Ok(lost)
    }

    /// The rows of each run, and which of them are lost.
    async fn read_runs(
        &self,
        plane: &Plane,
        runs: &[OldRun],
    ) -> Vec<Result<(Buf, Vec<u32>), RequestError>> {
        let reads = runs.iter().map(|run| async move {
            let (view, wanted) = (View::Before(plane), [run.column]);
            let rows = self.read_rows_by(view, run.stripe, run.slot, run.row, run.rows, &wanted);
            let mut rows = rows.await?;
            let lost = rows.lost.iter().map(|l| l.1).collect();
            Ok((rows.columns.remove(0), lost))
        });
        join_all(reads.collect()).await
    }

    /// The checksums of rows of a column of a stripe of before. None if nobody knows them.
    pub(super) async fn sums_before(
        &self,
        plane: &Plane,
        stripe: Stripe,
        column: usize,
        row: u32,
        rows: u32,
    ) -> Option<Vec<u32>> {
        // What was read stays in memory until all of it is found.
        let mut held: Vec<Rc<SumPage>> = Vec::new();
        let entry = plane.entry(stripe).lsn;
        loop {
            let mut out = Vec::with_capacity(rows as usize);
            let looked = plane.sums.borrow().look_up(stripe, entry, column, row, rows, &mut out);
            let Err((page, required)) = looked else { return Some(out) };
            let mut newest = None;
            for copy in plane.g.sum_page_copies(page, 0) {
                if !self.0.members.is_active(copy.0) {
                    continue;
                }
                let id = plane.g.pages_are_of(self.uuid());
                let found = self.read_sum_places(id, page, copy).await.newest;
                newest = found.filter(|(head, _)| head.lsn >= required);
                if newest.is_some() {
                    break;
                }
            }
            let (head, bytes) = newest?;
            held.push(plane.sums.borrow_mut().keep(page, SumPage::found(Some(head), bytes)));
        }
    }
}
