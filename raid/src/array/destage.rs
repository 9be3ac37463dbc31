//! From the cache into the slots, a batch of stripes at a time:
//!
//! 1. slots for those that may be placed;
//! 2. stripe locks, ascending;
//! 3. each stripe's content or rows are gathered: what is missing is read, parity is computed;
//! 4. stripes that are placed: all chunks into fresh slots;
//! 5. Places and Parities are appended, and are durable before anything is written in place (I1);
//! 6. rows in place: the covered blocks and their parity, nothing else (I1); flushed (I2);
//! 7. what was destaged is clean, and the map knows.
//!
//! A stripe without a slot, a dense one, and any when the log is short is placed: that logs no more
//! than a Place, for which every dirty stripe is charged, so destage can always end.

use std::collections::BTreeMap;

use evenkeel_journal::commit::rows_at_most;
use evenkeel_journal::log::{Halted, Item, Need, Room};
use evenkeel_journal::record::{Covered, ParityRow, Record};
use evenkeel_journal::ring::record_bytes;
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::join_all;
use evenkeel_journal::{BLOCK, Buf, Lsn, MemberIndex, Segs, Slice, Slot, Stripe, World};

use super::Array;
use super::cache::DirtyBlock;
use super::locks::StripeGuard;
use super::lost;
use super::slots::{DESTAGE_RESERVE, Promise};
use crate::checksums::LOST_SUM;
use crate::error::RequestError;
use crate::members::Members;

/// Stripes that are destaged together, at most: they share the flushes.
const BATCH: usize = 64;
/// Bytes that their chunks may take together; one stripe is destaged in any case.
const BATCH_BYTES: u64 = 256 << 20;
/// Parity blocks that one record may carry; beyond it the stripe is placed.
const MAX_PARITY_BLOCKS: usize = 1024;

struct Row {
    row: u32,
    /// (column, block of the stripe, content).
    covered: Vec<(usize, u32, DirtyBlock)>,
    parity: Vec<Slice>,
}

enum Way {
    /// All of it reads as zeros.
    Unmap,
    /// Into a new slot; blocks that cannot be given are zero there, and lost: their checksum says
    /// so, and a mark where the array has room for it.
    Place(Slot, Slice, Vec<u32>),
    /// In its slot; and, once it is logged, what the checksums become.
    Rows(Slot, Vec<Row>, Vec<ParityRow>),
    /// No slot was left for it: its turn comes with the next batch.
    Later,
    /// Too much of it is gone, and more is lost already than can be marked: it stays in the
    /// cache.
    Stuck,
}

struct Plan<W: World> {
    stripe: Stripe,
    horizon: Lsn,
    way: Way,
    room: Option<Room<W, Members<W>>>,
    _guard: StripeGuard,
}

impl<W: World> Array<W> {
    /// How many stripes are destaged together.
    pub(super) fn batch(&self) -> usize {
        let g = &self.0.geometry.get();
        let fit = BATCH_BYTES / (g.chunk_bytes() * g.members() as u64);
        (fit as usize).clamp(1, BATCH)
    }

    /// Destages these stripes (ascending, at most as many as `batch` says). Gives how many could not
    /// be, or not yet.
    pub(super) async fn destage(&self, stripes: &[Stripe], short: bool) -> Result<usize, Halted> {
        let _turn = self.0.destage_lock.lock().await;
        // 1. Slots. 2. Locks.
        let mut promise = self.slots_for_destage(stripes.len()).await?;
        let mut locked = Vec::new();
        for stripe in stripes {
            let guard = self.0.locks.stripe(*stripe).await;
            if self.0.cache.borrow().stripes.contains_key(stripe) {
                locked.push((*stripe, guard));
            }
        }
        // 3. Gather.
        let mut plans = Vec::new();
        for (stripe, guard) in locked {
            plans.push(self.plan(stripe, guard, &mut promise, short));
        }
        let mut plans = join_all(plans).await;
        let stuck = plans.iter().filter(|p| matches!(p.way, Way::Stuck | Way::Later)).count();
        // 4. Chunks of those that are placed.
        let placed = plans.iter().filter_map(|p| match &p.way {
            Way::Place(slot, data, _) => Some((*slot, data.clone())),
            _ => None,
        });
        let mut crcs = self.write_slots(&placed.collect::<Vec<_>>()).await?.into_iter();
        // 5. Append, and wait until it is durable.
        let mut appended = Vec::new();
        for plan in &mut plans {
            appended.push(self.append_plan(plan, &mut crcs).await?);
        }
        if !broken(Sabotage::ParityNotLogged) {
            self.0.journal.durable(self.0.journal.last_lsn()).await?;
        }
        // 6. Rows in place, and flushed.
        self.write_rows_in_place(&plans, &appended).await?;
        // 7. Clean.
        for (plan, lsn) in plans.into_iter().zip(appended) {
            if let (Way::Rows(_, rows, _), Some(lsn)) = (&plan.way, lsn) {
                self.rows_are_in_place(plan.stripe, rows, lsn);
            }
            self.destage_ended(plan.stripe);
        }
        Ok(stuck)
    }

    async fn slots_for_destage(&self, n: usize) -> Result<Promise, Halted> {
        loop {
            // Some are left for destage in any case; more are taken if they are there.
            let least = n.min(DESTAGE_RESERVE);
            let some = || {
                let p = self.0.slots.try_promise(n, DESTAGE_RESERVE);
                p.or_else(|| self.0.slots.try_promise(least, 0))
            };
            if let Some(p) = some() {
                return Ok(p);
            }
            let freed = self.0.slots.freed().wait();
            self.0.journal.durable(self.0.journal.last_lsn()).await?;
            if let Some(p) = some() {
                return Ok(p);
            }
            freed.await;
        }
    }

    /// Decides how a stripe is destaged and gathers what that takes. The decision, the horizon
    /// and the content of the cache are of one moment: now, before the first await.
    fn plan(
        &self,
        stripe: Stripe,
        guard: StripeGuard,
        promise: &mut Promise,
        short: bool,
    ) -> impl Future<Output = Plan<W>> + use<W> {
        let g = &self.0.geometry.get();
        let horizon = self.0.journal.last_lsn();
        let dirty: Vec<(u32, DirtyBlock)> = {
            let mut cache = self.0.cache.borrow_mut();
            let s = cache.stripes.get_mut(&stripe).expect("the stripe is dirty and locked");
            s.destaging = true;
            s.blocks.clone()
        };
        let old = self.0.map.borrow().get(stripe).slot;
        let all_zero = dirty.iter().all(|b| b.1.data.is_none())
            && (old.is_none() || dirty.len() as u64 == g.stripe_blocks());
        let dense = dirty.len() as u64 * 2 >= g.stripe_blocks();
        let rows = group_rows(g.chunk_blocks, &dirty);
        let unreadable = self.0.unreadable.borrow().contains(&stripe);
        let mut room = match old {
            Some(_) if !dense && !short && !all_zero && !unreadable => self.room_for_parity(&rows),
            _ => None,
        };
        if room.is_some() {
            // Covered by a Parity from now on: the tail does not pass them although a newer Write
            // may supersede them meanwhile (I2).
            dirty.iter().for_each(|b| self.0.journal.hold(b.1.lsn));
        }
        let placed = room.is_none() && !all_zero;
        let slot = (placed && promise.left() > 0).then(|| self.0.slots.take(promise));
        let this = self.clone();
        async move {
            let way = if all_zero {
                Way::Unmap
            } else if let (Some(old), true) = (old, room.is_some()) {
                match this.compute_rows(stripe, old, rows).await {
                    Ok(rows) => Way::Rows(old, rows, Vec::new()),
                    Err(_) => {
                        dirty.iter().for_each(|b| this.0.journal.release(b.1.lsn));
                        this.0.unreadable.borrow_mut().insert(stripe);
                        Way::Later
                    }
                }
            } else if let Some(slot) = slot {
                match this.content_to_place(stripe, old, &dirty).await {
                    Some((data, lost, marks)) => {
                        room = marks;
                        Way::Place(slot, data, lost)
                    }
                    None => {
                        this.0.slots.free(slot);
                        Way::Stuck
                    }
                }
            } else {
                Way::Later
            };
            Plan { stripe, horizon, way, room, _guard: guard }
        }
    }

    fn room_for_parity(
        &self,
        rows: &BTreeMap<u32, Vec<(usize, u32, DirtyBlock)>>,
    ) -> Option<Room<W, Members<W>>> {
        let g = &self.0.geometry.get();
        let blocks = rows.len() * g.parity;
        if blocks > MAX_PARITY_BLOCKS {
            return None;
        }
        let row = |c: usize| (16 + c * 16 + g.parity * 4).next_multiple_of(8);
        let meta = 40 + rows.values().map(|c| row(c.len())).sum::<usize>();
        self.0.journal.try_reserve(Need {
            places: 0,
            ring_bytes: record_bytes(meta, 0),
            rows: rows_at_most(blocks, meta, g.log_width()),
        })
    }

    /// The whole content of a stripe: what is dirty, and the rest from its slot or zero; and which
    /// blocks of it are lost.
    async fn whole_content(
        &self,
        stripe: Stripe,
        old: Option<Slot>,
        dirty: &[(u32, DirtyBlock)],
    ) -> Result<(Slice, Vec<u32>), RequestError> {
        let g = &self.0.geometry.get();
        let mut lost = Vec::new();
        let chunk = g.chunk_bytes() as usize;
        let mut data = Buf::new(chunk * g.data);
        let mut per_column = vec![0; g.data];
        dirty.iter().for_each(|b| per_column[g.column_row(b.0).0] += 1);
        match old {
            None => data.fill(0),
            Some(slot) => {
                let wanted: Vec<usize> =
                    (0..g.data).filter(|c| per_column[*c] < g.chunk_blocks).collect();
                if !wanted.is_empty() {
                    let rows = g.chunk_blocks;
                    let found = self.read_rows_and_lost(stripe, slot, 0, rows, &wanted).await?;
                    for (c, bytes) in wanted.iter().zip(found.columns) {
                        data[c * chunk..(c + 1) * chunk].copy_from_slice(&bytes);
                    }
                    lost.extend(found.lost.iter().map(|(c, row)| wanted[*c] as u32 * rows + row));
                }
            }
        }
        lost.retain(|block| !is_dirty(dirty, *block));
        lay_over(&mut data, dirty);
        Ok((data.freeze(), lost))
    }

    /// What is placed: the content, the blocks of it that are lost, and room for their marks.
    /// None if it cannot be: too many members are gone, or more is lost than can be marked.
    async fn content_to_place(
        &self,
        stripe: Stripe,
        old: Option<Slot>,
        dirty: &[(u32, DirtyBlock)],
    ) -> Option<(Slice, Vec<u32>, Option<Room<W, Members<W>>>)> {
        let mut lost = self.0.lost.borrow().of_stripe(stripe);
        let (data, more) = match (self.whole_content(stripe, old, dirty).await, old) {
            (Ok(found), _) => found,
            (Err(_), None) => return None,
            (Err(_), Some(slot)) => self.what_is_left(stripe, slot, dirty).await?,
        };
        lost.extend(more);
        lost.sort_unstable();
        lost.dedup();
        if lost.is_empty() {
            return Some((data, lost, None));
        }
        let room = self.room_for_lost(stripe, &lost);
        // Without checksums a mark is all that tells it from zeros.
        if room.is_none() && !self.0.geometry.get().has_checksums() {
            return None;
        }
        Some((data, lost, room))
    }

    /// The content of a stripe whose slot cannot be read as a whole, block by block: zeros for
    /// those that nobody can give, and which those are. None if the array has lost too much: then
    /// nothing is lost that may not come back.
    pub(super) async fn what_is_left(
        &self,
        stripe: Stripe,
        slot: Slot,
        dirty: &[(u32, DirtyBlock)],
    ) -> Option<(Slice, Vec<u32>)> {
        let g = &self.0.geometry.get();
        let mut data = Buf::zeroed(g.stripe_blocks() as usize * BLOCK);
        let mut lost = Vec::new();
        for block in 0..g.stripe_blocks() as u32 {
            if is_dirty(dirty, block) {
                continue;
            }
            let (column, row) = g.column_row(block);
            match self.read_rows(stripe, slot, row, 1, &[column]).await {
                Ok(bytes) => data[block_bytes(block)].copy_from_slice(&bytes[0]),
                Err(_) => lost.push(block),
            }
        }
        lay_over(&mut data, dirty);
        (!self.0.members.is_halted()).then(|| (data.freeze(), lost))
    }

    async fn compute_rows(
        &self,
        stripe: Stripe,
        slot: Slot,
        rows: BTreeMap<u32, Vec<(usize, u32, DirtyBlock)>>,
    ) -> Result<Vec<Row>, RequestError> {
        let all =
            rows.into_iter().map(|(row, covered)| self.compute_row(stripe, slot, row, covered));
        join_all(all.collect()).await.into_iter().collect()
    }

    /// New parity of one row: from the change of the dirty columns, or from all columns,
    /// whichever reads less; the other way if the first cannot work.
    async fn compute_row(
        &self,
        stripe: Stripe,
        slot: Slot,
        row: u32,
        covered: Vec<(usize, u32, DirtyBlock)>,
    ) -> Result<Row, RequestError> {
        let g = &self.0.geometry.get();
        let (k, m, d) = (g.data, g.parity, covered.len());
        let code = self.0.members.code();
        let zero = vec![0u8; BLOCK];
        let new = |b: &DirtyBlock| b.data.as_ref().map(|p| p.bytes().clone());
        let all_there = (0..k + m).all(|c| self.0.members.is_active(g.member_of(slot, c)));
        let wanted: Vec<usize> = covered.iter().map(|c| c.0).chain(k..k + m).collect();
        let changed = all_there && d + m <= k - d;
        let old =
            if changed { self.read_rows(stripe, slot, row, 1, &wanted).await.ok() } else { None };
        if let Some(mut old) = old {
            let mut parity = old.split_off(d);
            for ((column, _, block), mut delta) in covered.iter().zip(old) {
                let new = new(block);
                let new = new.as_deref().unwrap_or(&zero);
                delta.iter_mut().zip(new).for_each(|(a, b)| *a ^= b);
                let mut out: Vec<&mut [u8]> = parity.iter_mut().map(|p| &mut p[..]).collect();
                code.update(*column, &delta, &mut out);
            }
            let parity = parity.into_iter().map(Buf::freeze).collect();
            return Ok(Row { row, covered, parity });
        }
        let others: Vec<usize> =
            (0..k).filter(|c| covered.iter().all(|(own, ..)| own != c)).collect();
        let kept = if others.is_empty() {
            Vec::new()
        } else {
            self.read_rows(stripe, slot, row, 1, &others).await?
        };
        let mut columns: Vec<&[u8]> = vec![&zero; k];
        others.iter().zip(&kept).for_each(|(c, bytes)| columns[*c] = bytes);
        for (column, _, block) in &covered {
            columns[*column] = block.data.as_ref().map_or(&zero[..], |p| &p.bytes()[..]);
        }
        let mut parity: Vec<Buf> = (0..m).map(|_| Buf::new(BLOCK)).collect();
        let mut out: Vec<&mut [u8]> = parity.iter_mut().map(|p| &mut p[..]).collect();
        code.encode(&columns, &mut out);
        let parity = parity.into_iter().map(Buf::freeze).collect();
        Ok(Row { row, covered, parity })
    }

    /// Appends what the plan logs. Gives the LSN of a Parity.
    async fn append_plan(
        &self,
        plan: &mut Plan<W>,
        crcs: &mut impl Iterator<Item = Vec<u32>>,
    ) -> Result<Option<Lsn>, Halted> {
        let g = &self.0.geometry.get();
        let stripe = plan.stripe;
        match &mut plan.way {
            Way::Stuck | Way::Later => Ok(None),
            Way::Unmap | Way::Place(..) => {
                let horizon = plan.horizon;
                let (record, placed, lost) = match &plan.way {
                    Way::Place(slot, _, lost) => {
                        let mut crcs = crcs.next().expect("every placed stripe has its CRCs");
                        // Data columns come first, so blocks of the stripe are counted the same.
                        lost.iter().for_each(|block| crcs[*block as usize] = LOST_SUM);
                        let own = crcs.clone();
                        let place = Record::Place { stripe, slot: *slot, horizon, crcs };
                        (place, Some((*slot, own)), &lost[..])
                    }
                    _ => (Record::Unmap { first: stripe, count: 1, horizon }, None, &[][..]),
                };
                if let Some(s) = self.0.cache.borrow_mut().stripes.get_mut(&stripe) {
                    assert!(s.charges > 0, "I2: every dirty stripe is charged");
                    s.charges -= 1;
                }
                let bytes = record_bytes(g.place_record_bytes(), 0);
                let mut room = match self.0.journal.reserve_for_place(bytes).await {
                    Ok(room) => room,
                    Err(Halted) => {
                        // It stays as it was, and somebody may try again.
                        if let Some(s) = self.0.cache.borrow_mut().stripes.get_mut(&stripe) {
                            s.charges += 1;
                        }
                        return Err(Halted);
                    }
                };
                // What was written since the content was gathered is not lost: its Write is older
                // than the marks that are made now.
                let newer = |block: &u32| self.0.cache.borrow().get(stripe, *block).is_some();
                let mut lost: Vec<u32> = lost.iter().copied().filter(|b| !newer(b)).collect();
                match plan.room.take() {
                    Some(marks) => room.join(marks),
                    None => lost.clear(),
                }
                let mut items = vec![Item::bare(record)];
                items.extend(lost::items(stripe, &lost));
                let lsn = self.0.journal.append(&mut room, items);
                let placed = placed.as_ref().map(|(slot, crcs)| (*slot, &crcs[..]));
                self.moved(stripe, placed, lsn, horizon);
                self.mark_lost(stripe, &lost, lsn.next());
                self.0.unreadable.borrow_mut().remove(&stripe);
                Ok(None)
            }
            Way::Rows(slot, rows, to_sum) => {
                let base = self.0.map.borrow().get(stripe).lsn;
                let mut data = Vec::new();
                let logged = rows.iter().map(|r| {
                    let parity_crcs: Vec<u32> =
                        r.parity.iter().map(|p| crc32c::crc32c(p)).collect();
                    data.extend(r.parity.iter().cloned().zip(parity_crcs.iter().copied()));
                    let covered = r.covered.iter().map(|(column, _, b)| Covered {
                        column: *column as u32,
                        crc: b.crc,
                        lsn: b.lsn,
                    });
                    ParityRow { row: r.row, covered: covered.collect(), parity_crcs }
                });
                let rows: Vec<ParityRow> = logged.collect();
                *to_sum = rows.clone();
                let record = Record::Parity { stripe, slot: *slot, base, rows };
                let mut room = plan.room.take().expect("room was taken when it was planned");
                let item = Item { record, data, places: Vec::new() };
                let lsn = self.0.journal.append(&mut room, vec![item]);
                // Held until the map's home carries this Parity (I2), like what it covers.
                self.0.journal.hold(lsn);
                Ok(Some(lsn))
            }
        }
    }

    async fn write_rows_in_place(
        &self,
        plans: &[Plan<W>],
        lsns: &[Option<Lsn>],
    ) -> Result<(), Halted> {
        let g = &self.0.geometry.get();
        let zero = Slice::copy_of(&[0; BLOCK]);
        let mut runs: BTreeMap<(u8, u64), Segs> = BTreeMap::new();
        for (plan, lsn) in plans.iter().zip(lsns) {
            let (Way::Rows(slot, rows, to_sum), Some(lsn)) = (&plan.way, lsn) else {
                continue;
            };
            // From now on a reader finds what is about to be written.
            let entry = self.0.map.borrow().get(plan.stripe).lsn;
            self.0.sums.table.borrow_mut().changed(plan.stripe, entry, *lsn, to_sum);
            for r in rows {
                let at = g.byte_of(*slot, r.row);
                let data = r.covered.iter().map(|(column, _, b)| {
                    let bytes = b.data.as_ref().map_or(&zero, |p| p.bytes());
                    (*column, bytes.clone())
                });
                let parity = r.parity.iter().enumerate().map(|(i, p)| (g.data + i, p.clone()));
                for (column, bytes) in data.chain(parity) {
                    runs.insert((g.member_of(*slot, column).0, at), vec![bytes]);
                }
            }
        }
        if runs.is_empty() {
            return Ok(());
        }
        // Should the array halt half-way, reads still see the rows whole (I8).
        let places: Vec<(u8, u64)> = runs.keys().copied().collect();
        for ((member, at), block) in &runs {
            self.0.members.overlay(MemberIndex(*member), *at, block[0].clone());
        }
        self.write_runs(runs).await?;
        if !broken(Sabotage::TailBeforeFlush) {
            self.0.members.flush_members().await?;
        }
        for (member, at) in places {
            self.0.members.remove_overlay(MemberIndex(member), at);
        }
        Ok(())
    }

    fn rows_are_in_place(&self, stripe: Stripe, rows: &[Row], lsn: Lsn) {
        let covered: BTreeMap<u32, Lsn> =
            rows.iter().flat_map(|r| &r.covered).map(|(_, b, d)| (*b, d.lsn)).collect();
        let held: Vec<Lsn> = covered.values().copied().collect();
        self.0.map.borrow_mut().destaged(stripe, lsn, &held);
        let (gone, charges) =
            self.0.cache.borrow_mut().remove(stripe, |b, d| covered.get(&b) == Some(&d.lsn));
        gone.into_iter().for_each(|b| self.0.journal.release(b.lsn));
        (0..charges).for_each(|_| self.0.journal.uncharge());
    }

    /// The stripe may be destaged again; a charge too many goes back.
    fn destage_ended(&self, stripe: Stripe) {
        let mut extra = 0;
        if let Some(s) = self.0.cache.borrow_mut().stripes.get_mut(&stripe) {
            s.destaging = false;
            extra = s.charges.saturating_sub(1);
            s.charges -= extra;
        }
        (0..extra).for_each(|_| self.0.journal.uncharge());
    }

    /// Brings everything that is dirty now into its slots.
    ///
    /// # Errors
    /// `Io` if the array has lost too much, or if rows are left that cannot be destaged.
    pub async fn destage_all(&self) -> Result<(), RequestError> {
        if self.0.options.read_only {
            return Ok(());
        }
        let all: Vec<Stripe> = self.0.cache.borrow().stripes.keys().copied().collect();
        for batch in all.chunks(self.batch()) {
            let mut left = batch.len() + 1;
            loop {
                let stuck = self.destage(batch, false).await?;
                if stuck == 0 {
                    break;
                }
                // What had to wait for slots goes on as long as each pass does some.
                if stuck >= left {
                    return Err(RequestError::Io);
                }
                left = stuck;
            }
        }
        Ok(())
    }
}

fn is_dirty(dirty: &[(u32, DirtyBlock)], block: u32) -> bool {
    dirty.binary_search_by_key(&block, |b| b.0).is_ok()
}

fn block_bytes(block: u32) -> std::ops::Range<usize> {
    block as usize * BLOCK..(block as usize + 1) * BLOCK
}

/// Puts the dirty blocks into a stripe's content.
fn lay_over(data: &mut [u8], dirty: &[(u32, DirtyBlock)]) {
    for (block, d) in dirty {
        match &d.data {
            Some(place) => data[block_bytes(*block)].copy_from_slice(place.bytes()),
            None => data[block_bytes(*block)].fill(0),
        }
    }
}

fn group_rows(
    chunk_blocks: u32,
    dirty: &[(u32, DirtyBlock)],
) -> BTreeMap<u32, Vec<(usize, u32, DirtyBlock)>> {
    let mut rows: BTreeMap<u32, Vec<(usize, u32, DirtyBlock)>> = BTreeMap::new();
    for (block, d) in dirty {
        let (column, row) = ((block / chunk_blocks) as usize, block % chunk_blocks);
        rows.entry(row).or_default().push((column, *block, d.clone()));
    }
    rows
}
