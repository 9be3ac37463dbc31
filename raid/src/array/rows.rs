//! Rows of a slot, read while the stripe's lock is held: every block is compared with its checksum;
//! what a member does not give, or gives wrong, is rebuilt from k good blocks of its row; and what
//! was wrong is written again where it belongs, read back and counted (P7).
//!
//! What must hold: nothing is given, and no parity made of it, that does not have its checksum; nothing
//! is written but what does.

use std::collections::BTreeSet;

use evenkeel_journal::sync::join_all;
use evenkeel_journal::{BLOCK, Buf, MemberIndex, Slice, Slot, Stripe, World};

use super::Array;
use super::before::Plane;
use crate::checksums::{Verdict, verdict};
use crate::error::RequestError;
use crate::geometry::Geometry;

/// By which shape a slot is read.
#[derive(Clone, Copy)]
pub(super) enum View<'a> {
    /// By the one of now: under the stripe's lock.
    Now,
    /// By the one of before: under a pin of the slot, in which nothing changes.
    Before(&'a Plane),
}

/// Rows of some columns, as they should be.
pub(super) struct Rows {
    /// One for each column that was wanted.
    pub columns: Vec<Buf>,
    /// Blocks of it that are lost and so zero: (which of the wanted, row of the slot).
    pub lost: Vec<(usize, u32)>,
}

/// What the members gave of some rows.
struct Found {
    /// Number of rows.
    rows: usize,
    /// By column; None where the member gave nothing, or was not asked.
    columns: Vec<Option<Buf>>,
    tried: Vec<bool>,
    /// Checksums by column; empty: they are not known, or there are none.
    sums: Vec<Vec<u32>>,
    /// (row, column) of blocks that are not what their checksum says.
    bad: BTreeSet<(usize, usize)>,
    /// (row, column) of blocks that were lost before.
    lost: BTreeSet<(usize, usize)>,
}

impl Found {
    fn good(&self, row: usize, column: usize) -> Option<&[u8]> {
        let bytes = self.columns[column].as_ref()?;
        let good = !self.bad.contains(&(row, column));
        good.then(|| &bytes[row * BLOCK..(row + 1) * BLOCK])
    }

    fn good_of_row(&self, row: usize) -> usize {
        (0..self.columns.len()).filter(|c| self.good(row, *c).is_some()).count()
    }

    /// Rows in which one of these columns is not there.
    fn short(&self, wanted: &[usize]) -> Vec<usize> {
        let lacks = |row: &usize| wanted.iter().any(|c| self.good(*row, *c).is_none());
        (0..self.rows).filter(lacks).collect()
    }
}

impl<W: World> Array<W> {
    /// Rows `row..row + rows` of the wanted columns of a slot, as they should lie on the members:
    /// read where possible, else rebuilt. The stripe's lock is held.
    ///
    /// # Errors
    /// `Io` if too much of a row is gone or wrong, or a wanted block is lost.
    pub(super) async fn read_rows(
        &self,
        stripe: Stripe,
        slot: Slot,
        row: u32,
        rows: u32,
        wanted: &[usize],
    ) -> Result<Vec<Buf>, RequestError> {
        let found = self.read_rows_and_lost(stripe, slot, row, rows, wanted).await?;
        if found.lost.is_empty() { Ok(found.columns) } else { Err(RequestError::Io) }
    }

    /// The same, where blocks that are lost count as zero, as they do in the parity. Waits where
    /// members that may come back are needed (I7).
    ///
    /// # Errors
    /// `Io` if too much of a row is gone or wrong.
    pub(super) async fn read_rows_and_lost(
        &self,
        stripe: Stripe,
        slot: Slot,
        row: u32,
        rows: u32,
        wanted: &[usize],
    ) -> Result<Rows, RequestError> {
        self.read_rows_by(View::Now, stripe, slot, row, rows, wanted).await
    }

    /// The same, by either shape.
    ///
    /// # Errors
    /// `Io` if too much of a row is gone or wrong.
    pub(super) async fn read_rows_by(
        &self,
        view: View<'_>,
        stripe: Stripe,
        slot: Slot,
        row: u32,
        rows: u32,
        wanted: &[usize],
    ) -> Result<Rows, RequestError> {
        let mut tries = 0;
        loop {
            let found = self.read_rows_once(view, stripe, slot, row, rows, wanted).await;
            if found.is_ok() || !self.0.members.may_be_read_again(tries).await {
                return found;
            }
            tries += 1;
        }
    }

    fn shape_of(&self, view: View<'_>) -> Geometry {
        match view {
            View::Now => self.0.geometry.get(),
            View::Before(plane) => plane.g,
        }
    }

    async fn sums_by(
        &self,
        view: View<'_>,
        stripe: Stripe,
        column: usize,
        row: u32,
        rows: u32,
    ) -> Option<Vec<u32>> {
        match view {
            View::Now => self.sums_of(stripe, column, row, rows).await,
            View::Before(plane) => self.sums_before(plane, stripe, column, row, rows).await,
        }
    }

    async fn read_rows_once(
        &self,
        view: View<'_>,
        stripe: Stripe,
        slot: Slot,
        row: u32,
        rows: u32,
        wanted: &[usize],
    ) -> Result<Rows, RequestError> {
        let g = &self.shape_of(view);
        let n = g.members();
        let mut found = Found {
            rows: rows as usize,
            columns: (0..n).map(|_| None).collect(),
            tried: vec![false; n],
            sums: vec![Vec::new(); n],
            bad: BTreeSet::new(),
            lost: BTreeSet::new(),
        };
        // First what is wanted; then as many others as are needed to rebuild the rest. Those that are
        // slow last, and not at all if the others are enough.
        let around = |c: &usize| self.is_read_around_by(view, slot, *c);
        let mut next: Vec<usize> = wanted.iter().copied().filter(|c| !around(c)).collect();
        loop {
            self.read_columns(view, stripe, slot, row, &next, &mut found).await;
            let short = found.short(wanted);
            let Some(least) = short.iter().map(|r| found.good_of_row(*r)).min() else {
                break;
            };
            if least >= g.data {
                break;
            }
            let active = |c: &usize| self.0.members.is_active(g.member_of(slot, *c));
            let mut left: Vec<usize> = (0..n).filter(|c| !found.tried[*c]).filter(active).collect();
            left.sort_by_key(|c| self.0.members.is_avoided(g.member_of(slot, *c)));
            left.truncate(g.data - least);
            next = left;
            if next.is_empty() {
                self.too_much_is_wrong(view, stripe, slot, row, &found, &short);
                return Err(RequestError::Io);
            }
        }
        self.rebuild(view, stripe, row, wanted, &mut found).await?;
        if !found.bad.is_empty() {
            self.heal(view, stripe, slot, row, &mut found).await;
        }
        let which = |c: usize| wanted.iter().position(|w| *w == c);
        let lost = found.lost.iter().filter_map(|(r, c)| Some((which(*c)?, row + *r as u32)));
        let lost = lost.collect();
        let mut take = |c: &usize| found.columns[*c].take().expect("it was read or rebuilt");
        Ok(Rows { columns: wanted.iter().map(&mut take).collect(), lost })
    }

    /// Whether a column's member is slow or silent, and enough others are there that are not.
    pub(super) fn is_read_around(&self, slot: Slot, column: usize) -> bool {
        self.is_read_around_by(View::Now, slot, column)
    }

    fn is_read_around_by(&self, view: View<'_>, slot: Slot, column: usize) -> bool {
        let (g, members) = (&self.shape_of(view), &self.0.members);
        let member = g.member_of(slot, column);
        if !members.is_avoided(member) {
            return false;
        }
        let all = (0..g.members()).map(|c| g.member_of(slot, c));
        let others = all.filter(|m| members.is_active(*m) && !members.is_avoided(*m)).count();
        others >= g.data
    }

    /// Reads some columns, and compares each block with its checksum.
    async fn read_columns(
        &self,
        view: View<'_>,
        stripe: Stripe,
        slot: Slot,
        row: u32,
        columns: &[usize],
        found: &mut Found,
    ) {
        let g = &self.shape_of(view);
        let (at, len) = (g.byte_of(slot, row), found.rows * BLOCK);
        let reads = columns.iter().map(|c| async move {
            let read = self.0.members.read(g.member_of(slot, *c), at, Buf::new(len)).await;
            let sums = if g.has_checksums() {
                self.sums_by(view, stripe, *c, row, (len / BLOCK) as u32).await
            } else {
                Some(Vec::new())
            };
            (*c, read, sums)
        });
        for (c, bytes, sums) in join_all(reads.collect()).await {
            found.tried[c] = true;
            let Some(bytes) = bytes else {
                found.sums[c] = sums.unwrap_or_default();
                continue;
            };
            match sums {
                // Nobody can say whether it is right.
                None => found.bad.extend((0..found.rows).map(|r| (r, c))),
                Some(sums) => {
                    for (r, (block, sum)) in bytes.chunks(BLOCK).zip(&sums).enumerate() {
                        match verdict(block, *sum) {
                            Verdict::Good => {}
                            Verdict::Lost => drop(found.lost.insert((r, c))),
                            Verdict::Bad => drop(found.bad.insert((r, c))),
                        }
                    }
                    found.sums[c] = sums;
                }
            }
            found.columns[c] = Some(bytes);
        }
    }

    /// Makes the wanted columns whole, and all blocks that are wrong.
    async fn rebuild(
        &self,
        view: View<'_>,
        stripe: Stripe,
        row: u32,
        wanted: &[usize],
        found: &mut Found,
    ) -> Result<(), RequestError> {
        let g = &self.shape_of(view);
        let code = match view {
            View::Now => self.0.members.code(),
            View::Before(plane) => &plane.code,
        };
        let absent: Vec<usize> =
            wanted.iter().copied().filter(|c| found.columns[*c].is_none()).collect();
        if found.bad.is_empty() && absent.is_empty() {
            return Ok(());
        }
        for c in &absent {
            if g.has_checksums() && found.sums[*c].is_empty() {
                let sums = self.sums_by(view, stripe, *c, row, found.rows as u32).await;
                found.sums[*c] = sums.ok_or(RequestError::Io)?;
            }
        }
        if found.bad.is_empty() {
            // All rows lack the same columns.
            let mut made: Vec<Buf> = absent.iter().map(|_| Buf::new(found.rows * BLOCK)).collect();
            {
                let shards: Vec<Option<&[u8]>> =
                    found.columns.iter().map(Option::as_deref).collect();
                let mut out: Vec<&mut [u8]> = made.iter_mut().map(|b| &mut b[..]).collect();
                code.reconstruct(g.data, &shards, &absent, &mut out)
                    .map_err(|_| RequestError::Io)?;
            }
            absent.iter().zip(made).for_each(|(c, b)| found.columns[*c] = Some(b));
            let right = absent.iter().all(|c| (0..found.rows).all(|r| self.judge(found, r, *c)));
            return if right { Ok(()) } else { Err(RequestError::Io) };
        }
        for c in &absent {
            found.columns[*c] = Some(Buf::new(found.rows * BLOCK));
        }
        for r in 0..found.rows {
            let wrong: Vec<usize> = (0..g.members())
                .filter(|c| absent.contains(c) || found.bad.contains(&(r, *c)))
                .collect();
            if wrong.is_empty() {
                continue;
            }
            let mut made: Vec<Buf> = wrong.iter().map(|_| Buf::new(BLOCK)).collect();
            let done = {
                let shard = |c: usize| if wrong.contains(&c) { None } else { found.good(r, c) };
                let shards: Vec<Option<&[u8]>> = (0..g.members()).map(shard).collect();
                let mut out: Vec<&mut [u8]> = made.iter_mut().map(|b| &mut b[..]).collect();
                let enough = shards.iter().flatten().count() >= g.data;
                enough && code.reconstruct(g.data, &shards, &wrong, &mut out).is_ok()
            };
            if !done {
                // Enough is there of every row that is wanted; this one's bad blocks stay as they are.
                if wrong.iter().any(|c| wanted.contains(c)) {
                    return Err(RequestError::Io);
                }
                continue;
            }
            for (c, b) in wrong.into_iter().zip(made) {
                let column = found.columns[c].as_mut().expect("it is there, right or wrong");
                column[r * BLOCK..(r + 1) * BLOCK].copy_from_slice(&b);
                if !self.judge(found, r, c) && wanted.contains(&c) {
                    return Err(RequestError::Io);
                }
            }
        }
        Ok(())
    }

    /// Whether a block that was rebuilt is what its checksum says.
    fn judge(&self, found: &mut Found, r: usize, c: usize) -> bool {
        let Some(sum) = found.sums[c].get(r) else {
            return !self.0.geometry.get().has_checksums();
        };
        let bytes = found.columns[c].as_ref().expect("it was just made");
        let verdict = verdict(&bytes[r * BLOCK..(r + 1) * BLOCK], *sum);
        if verdict == Verdict::Lost {
            found.lost.insert((r, c));
        }
        verdict != Verdict::Bad
    }

    /// Writes blocks that were wrong and have been rebuilt to their members, reads them again, and
    /// counts. Whatever fails here, the answer to the reader is right.
    async fn heal(&self, view: View<'_>, stripe: Stripe, slot: Slot, row: u32, found: &mut Found) {
        let g = &self.shape_of(view);
        for (r, c) in found.bad.clone() {
            let (member, at) = (g.member_of(slot, c), g.byte_of(slot, row + r as u32));
            let bytes = found.columns[c].as_ref().expect("it was read");
            let block = Slice::copy_of(&bytes[r * BLOCK..(r + 1) * BLOCK]);
            let sum = found.sums[c].get(r).copied();
            let right = sum.is_some_and(|s| verdict(&block, s) != Verdict::Bad);
            self.found_bad(member, at, sum, || format!("stripe {stripe}"));
            if !right || self.0.options.read_only || self.0.members.is_halted() {
                continue;
            }
            if !matches!(self.0.members.write(member, at, vec![block.clone()]).await, Ok(true)) {
                continue;
            }
            let again = self.0.members.read(member, at, Buf::new(BLOCK)).await;
            if again.is_some_and(|again| again[..] == block[..]) {
                self.0.members.healed(member, 1);
                self.0.sums.forget_bad(member, at);
            }
        }
    }

    /// Counts and reports a block that is wrong, once.
    pub(super) fn found_bad(
        &self,
        member: MemberIndex,
        at: u64,
        sum: Option<u32>,
        what: impl FnOnce() -> String,
    ) {
        if self.0.sums.remember_bad(member, at, sum.unwrap_or_default()) {
            self.0.members.found_bad(member, at, &what());
        }
    }

    /// Nobody can give some of these rows: counts what is wrong, and says where.
    fn too_much_is_wrong(
        &self,
        view: View<'_>,
        stripe: Stripe,
        slot: Slot,
        row: u32,
        found: &Found,
        short: &[usize],
    ) {
        let g = &self.shape_of(view);
        for (r, c) in found.bad.iter().filter(|(r, _)| short.contains(r)) {
            let (member, at) = (g.member_of(slot, *c), g.byte_of(slot, row + *r as u32));
            let sum = found.sums[*c].get(*r).copied();
            self.found_bad(member, at, sum, || format!("stripe {stripe}, beyond repair"));
        }
    }
}
