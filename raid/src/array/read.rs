//! The way of a read: from the cache what is dirty, zeros for what has no slot, and the rest from
//! the members, each column's run in one read, compared with its checksums. What a member does not
//! give, or gives wrong, is rebuilt from k others under the stripe's lock, so that a row is never
//! rebuilt while its destage is under way (`rows.rs`).

use evenkeel_journal::sync::{join_all, join2};
use evenkeel_journal::{BLOCK, Buf, Lsn, Slot, Stripe, World};

use super::Array;
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
    _pin: Pin,
}

enum Source {
    Cache(evenkeel_journal::Slice),
    Zero,
    /// EIO until overwritten.
    Lost,
    Slot(Slot),
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
        self.0.map.borrow().get(stripe).slot.map_or(Source::Zero, Source::Slot)
    }

    async fn read_blocks(
        &self,
        block: u64,
        count: u64,
        mut buf: Buf,
    ) -> (Result<(), RequestError>, Buf) {
        let g = &self.0.geometry;
        let mut runs: Vec<Run> = Vec::new();
        for p in pieces(g, block, count) {
            for i in 0..p.count {
                let to = p.from + i as usize * BLOCK;
                let out = &mut buf[to..to + BLOCK];
                match self.source(p.stripe, p.first + i) {
                    Source::Cache(bytes) => out.copy_from_slice(&bytes),
                    Source::Zero => out.fill(0),
                    Source::Lost => return (Err(RequestError::Io), buf),
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
                        runs.push(Run { stripe, slot, column, row, rows: 1, to, entry, _pin });
                    }
                }
            }
        }
        self.read_ahead(block, count);
        // One run for all of it needs no copy.
        if let [run] = &runs[..]
            && run.rows as usize * BLOCK == buf.len()
        {
            let len = buf.len();
            match self.read_run(run, buf).await {
                Some(full) => return (Ok(()), full),
                None => {
                    let mut buf = Buf::new(len);
                    let done = self.rebuild_run(run, &mut buf).await;
                    return (done, buf);
                }
            }
        }
        let reads = runs.iter().map(|r| self.read_run(r, Buf::new(r.rows as usize * BLOCK)));
        for (run, found) in runs.iter().zip(join_all(reads.collect()).await) {
            let out = &mut buf[run.to..run.to + run.rows as usize * BLOCK];
            match found {
                Some(bytes) => out.copy_from_slice(&bytes),
                None => {
                    if let Err(e) = self.rebuild_run(run, out).await {
                        return (Err(e), buf);
                    }
                }
            }
        }
        (Ok(()), buf)
    }

    /// What a run's member gives, if it is what was written. None says little of the member: the
    /// stripe may also have been written to meanwhile.
    async fn read_run(&self, run: &Run, buf: Buf) -> Option<Buf> {
        let g = &self.0.geometry;
        let member = g.member_of(run.slot, run.column);
        let read = self.0.members.read(member, g.byte_of(run.slot, run.row), buf);
        if !g.has_checksums() {
            return read.await;
        }
        let Run { stripe, column, row, rows, entry, .. } = *run;
        let mut sums = Vec::with_capacity(rows as usize);
        let table = &self.0.sums.table;
        let here = table.borrow().look_up(stripe, entry, column, row, rows, &mut sums).is_ok();
        let bytes = if here {
            read.await?
        } else {
            let (bytes, found) = join2(read, self.sums_of(stripe, column, row, rows)).await;
            // They are of now, the slot is of then.
            if self.0.map.borrow().get(stripe).lsn != entry {
                return None;
            }
            sums = found?;
            bytes?
        };
        let right = bytes.chunks(BLOCK).zip(&sums).all(|(b, s)| verdict(b, *s) == Verdict::Good);
        right.then_some(bytes)
    }

    /// What a run holds, when its member does not give it: under the stripe's lock, from where
    /// each block is by then.
    async fn rebuild_run(&self, run: &Run, out: &mut [u8]) -> Result<(), RequestError> {
        let _guard = self.0.locks.stripe(run.stripe).await;
        let first = run.column as u32 * self.0.geometry.chunk_blocks + run.row;
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
            };
            // All rows in a row that lie in the slot.
            let more = (done + 1..run.rows)
                .take_while(|i| matches!(self.source(run.stripe, first + i), Source::Slot(_)));
            let rows = 1 + more.count() as u32;
            let found =
                self.read_rows(run.stripe, slot, run.row + done, rows, &[run.column]).await?;
            out[at..at + rows as usize * BLOCK].copy_from_slice(&found[0]);
            done += rows;
        }
        Ok(())
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
            Source::Cache(bytes) => {
                let mut b = Buf::new(BLOCK);
                b.copy_from_slice(&bytes);
                Ok(b)
            }
            Source::Slot(slot) => {
                let (column, row) = self.0.geometry.column_row(block);
                let mut columns = self.read_rows(stripe, slot, row, 1, &[column]).await?;
                Ok(columns.remove(0))
            }
        }
    }
}
