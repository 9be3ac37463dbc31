//! The way of a read: from the cache what is dirty, zeros for what has no slot, and the rest from
//! the members, each column's run in one read, compared with its checksums. What a member does not
//! give, or gives wrong, is rebuilt from k others under the stripe's lock, so that a row is never
//! rebuilt while its destage is under way (`rows.rs`).

use std::rc::Rc;

use evenkeel_journal::sync::{join_all, join2};
use evenkeel_journal::{BLOCK, Buf, Lsn, Slot, Stripe, World};

use super::Array;
use super::before::{OldRun, Plane};
use super::slots::Pin;
use super::write::pieces;
use crate::checksums::{Verdict, verdict};
use crate::error::RequestError;

/// A run of rows of one column.
struct Run {
    stripe: Stripe,
    slot: Slot,
    column: usize,
    row: u32,
    rows: u32,
    /// Byte of the answer.
    to: usize,
    /// LSN of the stripe's map entry when this was looked up.
    entry: Lsn,
    /// How often wrong blocks had been noticed by then.
    noticed: u64,
    _pin: Pin,
}

/// Why a run's member did not give it.
enum NotGiven {
    /// It gave an error, nobody knows the checksums, or the stripe was written to meanwhile.
    Other,
    /// It gave something else: (row of the run, checksum that it lacks).
    Wrong(Vec<(u32, u32)>),
}

enum Source {
    Cache(evenkeel_journal::Slice),
    Zero,
    /// EIO until overwritten.
    Lost,
    Slot(Slot),
    /// Where the shape before has it.
    Before(Rc<Plane>),
}

impl<W: World> Array<W> {
    /// Fills `buf` from byte `at` on: any byte range of the device.
    ///
    /// # Errors
    /// `Invalid` outside the device; `Io` where too many members are gone. On an error the
    /// content is arbitrary and must not be passed on.
    pub async fn read(&self, at: u64, mut buf: Buf) -> (Result<(), RequestError>, Buf) {
        if buf.is_empty() {
            return (Ok(()), buf);
        }
        let request = self.enter(at, buf.len() as u64, false);
        let Ok(_request) = request else {
            return (request.map(|_| ()), buf);
        };
        let block = BLOCK as u64;
        let (first, last) = (at / block, (at + buf.len() as u64 - 1) / block);
        if at.is_multiple_of(block) && buf.len().is_multiple_of(BLOCK) {
            return self.read_blocks(first, last - first + 1, buf).await;
        }
        let wide = Buf::new((last - first + 1) as usize * BLOCK);
        let (done, wide) = self.read_blocks(first, last - first + 1, wide).await;
        let from = (at - first * block) as usize;
        let len = buf.len();
        buf.copy_from_slice(&wide[from..from + len]);
        (done, buf)
    }

    fn source(&self, stripe: Stripe, block: u32) -> Source {
        if let Some(dirty) = self.0.cache.borrow().get(stripe, block) {
            return dirty.data.as_ref().map_or(Source::Zero, |p| Source::Cache(p.bytes().clone()));
        }
        if self.0.lost.borrow().contains(stripe, block) {
            return Source::Lost;
        }
        if let Some(plane) = self.before().filter(|_| self.is_backed(stripe)) {
            return Source::Before(plane);
        }
        self.0.map.borrow().get(stripe).slot.map_or(Source::Zero, Source::Slot)
    }

    async fn read_blocks(
        &self,
        block: u64,
        count: u64,
        mut buf: Buf,
    ) -> (Result<(), RequestError>, Buf) {
        let g = &self.0.geometry.get();
        let mut runs: Vec<Run> = Vec::new();
        let mut old: Vec<(Rc<Plane>, usize, Vec<OldRun>)> = Vec::new();
        for p in pieces(g, block, count) {
            if self.is_growing()
                && let Source::Before(plane) = self.source(p.stripe, p.first)
            {
                // All of it: what is written to a stripe moves it first.
                let bytes = p.from..p.from + p.count as usize * BLOCK;
                buf[bytes].fill(0);
                let first = p.stripe.0 * g.stripe_blocks() + u64::from(p.first);
                let found = self.runs_before(&plane, first, u64::from(p.count));
                old.push((plane, p.from, found));
                continue;
            }
            for i in 0..p.count {
                let to = p.from + i as usize * BLOCK;
                let out = &mut buf[to..to + BLOCK];
                match self.source(p.stripe, p.first + i) {
                    Source::Cache(bytes) => out.copy_from_slice(&bytes),
                    Source::Zero => out.fill(0),
                    Source::Lost => return (Err(RequestError::Io), buf),
                    Source::Before(_) => unreachable!("a stripe is backed as a whole"),
                    Source::Slot(slot) => {
                        let (column, row) = g.column_row(p.first + i);
                        if let Some(r) = runs.last_mut()
                            && (r.slot, r.column, r.row + r.rows) == (slot, column, row)
                            && r.to + r.rows as usize * BLOCK == to
                        {
                            r.rows += 1;
                            continue;
                        }
                        let _pin = self.0.slots.pin(slot);
                        let (stripe, entry) = (p.stripe, self.0.map.borrow().get(p.stripe).lsn);
                        let (rows, noticed) = (1, self.0.sums.noticed());
                        let run = Run { stripe, slot, column, row, rows, to, entry, noticed, _pin };
                        runs.push(run);
                    }
                }
            }
        }
        for (plane, from, found) in &old {
            if let Err(e) = self.read_before(plane, found, &mut buf[*from..]).await {
                return (Err(e), buf);
            }
        }
        self.read_ahead(block, count);
        // One run for all of it needs no copy.
        if let [run] = &runs[..]
            && run.rows as usize * BLOCK == buf.len()
        {
            let len = buf.len();
            match self.read_run(run, buf).await {
                Ok(full) => return (Ok(()), full),
                Err(why) => {
                    let mut buf = Buf::new(len);
                    let done = self.rebuild_run(run, &why, &mut buf).await;
                    return (done, buf);
                }
            }
        }
        let reads = runs.iter().map(|r| self.read_run(r, Buf::new(r.rows as usize * BLOCK)));
        for (run, found) in runs.iter().zip(join_all(reads.collect()).await) {
            let out = &mut buf[run.to..run.to + run.rows as usize * BLOCK];
            match found {
                Ok(bytes) => out.copy_from_slice(&bytes),
                Err(why) => {
                    if let Err(e) = self.rebuild_run(run, &why, out).await {
                        return (Err(e), buf);
                    }
                }
            }
        }
        (Ok(()), buf)
    }

    /// What a run's member gives, if it is what was written. Wrong bytes say little of the member
    /// yet: the stripe may also have been written to meanwhile.
    async fn read_run(&self, run: &Run, buf: Buf) -> Result<Buf, NotGiven> {
        let g = &self.0.geometry.get();
        let member = g.member_of(run.slot, run.column);
        if self.is_read_around(run.slot, run.column) {
            self.0.members.ask_by_the_way(member, g.byte_of(run.slot, run.row));
            return Err(NotGiven::Other);
        }
        let read = self.0.members.read(member, g.byte_of(run.slot, run.row), buf);
        if !g.has_checksums() {
            return read.await.ok_or(NotGiven::Other);
        }
        let Run { stripe, column, row, rows, entry, .. } = *run;
        let mut sums = Vec::with_capacity(rows as usize);
        let table = &self.0.sums.table;
        let here = table.borrow().look_up(stripe, entry, column, row, rows, &mut sums).is_ok();
        let bytes = if here {
            read.await
        } else {
            let (bytes, found) = join2(read, self.sums_of(stripe, column, row, rows)).await;
            // They are of now, the slot is of then.
            if self.0.map.borrow().get(stripe).lsn != entry {
                return Err(NotGiven::Other);
            }
            sums = found.ok_or(NotGiven::Other)?;
            bytes
        };
        let bytes = bytes.ok_or(NotGiven::Other)?;
        let judged = bytes.chunks(BLOCK).zip(&sums).map(|(b, s)| verdict(b, *s));
        let mut right = true;
        let mut wrong = Vec::new();
        for (i, verdict) in judged.enumerate() {
            right &= verdict == Verdict::Good;
            if verdict == Verdict::Bad {
                wrong.push((i as u32, sums[i]));
            }
        }
        if right { Ok(bytes) } else { Err(NotGiven::Wrong(wrong)) }
    }

    /// What a run holds, when its member does not give it: under the stripe's lock, from where
    /// each block is by then.
    async fn rebuild_run(
        &self,
        run: &Run,
        why: &NotGiven,
        out: &mut [u8],
    ) -> Result<(), RequestError> {
        let _guard = self.0.locks.stripe(run.stripe).await;
        let first = run.column as u32 * self.0.geometry.get().chunk_blocks + run.row;
        let mut done = 0;
        while done < run.rows {
            let at = done as usize * BLOCK;
            let slot = match self.source(run.stripe, first + done) {
                Source::Slot(slot) => slot,
                Source::Cache(bytes) => {
                    out[at..at + BLOCK].copy_from_slice(&bytes);
                    done += 1;
                    continue;
                }
                Source::Zero => {
                    out[at..at + BLOCK].fill(0);
                    done += 1;
                    continue;
                }
                Source::Lost => return Err(RequestError::Io),
                Source::Before(_) => unreachable!("it had a slot, so it has a record"),
            };
            // All rows in a row that lie in the slot.
            let more = (done + 1..run.rows)
                .take_while(|i| matches!(self.source(run.stripe, first + i), Source::Slot(_)));
            let mut rows = 1 + more.count() as u32;
            let read = |rows| {
                let wanted = [run.column];
                async move { self.read_rows(run.stripe, slot, run.row + done, rows, &wanted).await }
            };
            let found = match read(rows).await {
                // Members may have unreadable sectors in different rows.
                Err(_) if rows > 1 => {
                    rows = 1;
                    read(1).await?
                }
                found => found?,
            };
            out[at..at + rows as usize * BLOCK].copy_from_slice(&found[0]);
            done += rows;
        }
        if let NotGiven::Wrong(wrong) = why {
            self.wrong_once(run, wrong);
        }
        Ok(())
    }

    /// A run's member gave wrong bytes. If nobody has touched the stripe since, and reading again
    /// (or another reader) has found nothing wrong there, its answer was: it is counted. The
    /// stripe's lock is held.
    fn wrong_once(&self, run: &Run, wrong: &[(u32, u32)]) {
        let g = &self.0.geometry.get();
        if self.0.sums.noticed() != run.noticed
            || self.0.map.borrow().get(run.stripe).lsn != run.entry
        {
            return;
        }
        let member = g.member_of(run.slot, run.column);
        for (i, sum) in wrong {
            let (row, mut now) = (run.row + i, Vec::new());
            let table = self.0.sums.table.borrow();
            let known = table.look_up(run.stripe, run.entry, run.column, row, 1, &mut now).is_ok();
            if known && now == [*sum] {
                let what = format!("stripe {}; read again they were right", run.stripe);
                self.0.members.found_bad(member, g.byte_of(run.slot, row), &what);
            }
        }
    }

    /// One block, read while the stripe's lock is held.
    pub(super) async fn read_block_locked(
        &self,
        stripe: Stripe,
        block: u32,
    ) -> Result<Buf, RequestError> {
        match self.source(stripe, block) {
            Source::Zero => Ok(Buf::zeroed(BLOCK)),
            Source::Lost => Err(RequestError::Io),
            Source::Before(plane) => {
                let g = &self.0.geometry.get();
                let first = stripe.0 * g.stripe_blocks() + u64::from(block);
                let mut b = Buf::zeroed(BLOCK);
                self.read_before(&plane, &self.runs_before(&plane, first, 1), &mut b).await?;
                Ok(b)
            }
            Source::Cache(bytes) => {
                let mut b = Buf::new(BLOCK);
                b.copy_from_slice(&bytes);
                Ok(b)
            }
            Source::Slot(slot) => {
                let (column, row) = self.0.geometry.get().column_row(block);
                let mut columns = self.read_rows(stripe, slot, row, 1, &[column]).await?;
                Ok(columns.remove(0))
            }
        }
    }
}
