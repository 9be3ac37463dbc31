//! A stripe under the scrub's eyes: all n chunks are read, each block is compared with its checksum,
//! what is wrong or cannot be read is rebuilt from the rest of its row, written and read again.
//! Where there are no checksums, parity is computed from the data and compared.
//!
//! What must hold: the stripe's lock is held from the first read to the last, so that nothing is
//! compared with what it is just being made into; nothing is written that does not have its
//! checksum.

use evenkeel_journal::log::Halted;
use evenkeel_journal::sync::{after_the_ready, join_all};
use evenkeel_journal::{BLOCK, Buf, MemberIndex, Slice, Slot, Stripe, World};

use super::super::Array;
use crate::checksums::{Verdict, verdict};
use crate::scrub::Tally;

/// Rows after which whoever is ready has a turn.
const ROWS_IN_A_ROW: usize = 16;

/// What an active member gave of a slot: by row; None where a block cannot be read.
type Chunk = Vec<Option<Slice>>;

/// The block of a row's column that is wrong.
struct Wrong {
    column: usize,
    /// Its checksum, if there is one and it could be read, and is another one.
    sum: Option<u32>,
    unreadable: bool,
    /// What should be there, if that can be told.
    right: Option<Slice>,
}

/// What is wrong with a row.
#[derive(Default)]
struct Row {
    wrong: Vec<Wrong>,
    /// Without checksums: columns that do not fit the first k, and what would.
    uneven: Vec<(usize, Slice)>,
}

impl<W: World> Array<W> {
    /// Looks at a stripe, if it has a slot, and makes it right unless it is to look only.
    pub(super) async fn scrub_stripe(
        &self,
        stripe: Stripe,
        check_only: bool,
    ) -> Result<Tally, Halted> {
        let g = &self.0.geometry.get();
        let mut tally = Tally::default();
        let _guard = self.0.locks.stripe(stripe).await;
        let Some(slot) = self.0.map.borrow().get(stripe).slot else {
            return Ok(tally);
        };
        let reads = (0..g.members()).map(|c| self.read_chunk(slot, c));
        let chunks: Vec<Option<Chunk>> = join_all(reads.collect()).await;
        let sums = self.sums_of_rows(stripe).await;
        // What a member that was about to be failed gave means nothing.
        if self.0.members.is_halted() {
            return Err(Halted);
        }
        for (r, sums) in sums.iter().enumerate() {
            if r % ROWS_IN_A_ROW == ROWS_IN_A_ROW - 1 {
                after_the_ready().await;
            }
            let row = self.look_at_row(&chunks, sums.as_deref(), r);
            let at = g.byte_of(slot, r as u32);
            for wrong in row.wrong {
                tally += self.mend_block(stripe, slot, at, wrong, check_only).await?;
            }
            if row.uneven.is_empty() {
                continue;
            }
            // Nobody can say which block of it is wrong.
            tally.mismatches += 1;
            let mut healed = !check_only;
            for (column, bytes) in row.uneven {
                healed = healed && self.write_again(g.member_of(slot, column), at, bytes).await?;
            }
            tally.healed += u64::from(healed);
        }
        Ok(tally)
    }

    /// A column of a slot, block by block where it cannot be read as a whole. None if its member is
    /// not active.
    async fn read_chunk(&self, slot: Slot, column: usize) -> Option<Chunk> {
        let (g, members) = (&self.0.geometry.get(), &self.0.members);
        let (member, at) = (g.member_of(slot, column), g.byte_of(slot, 0));
        if !members.is_active(member) {
            return None;
        }
        let rows = g.chunk_blocks as usize;
        if let Some(all) = members.read(member, at, Buf::new(rows * BLOCK)).await {
            let all = all.freeze();
            return Some((0..rows).map(|r| Some(all.part(r * BLOCK, BLOCK))).collect());
        }
        let mut out = Vec::with_capacity(rows);
        for r in 0..rows {
            let at = at + (r * BLOCK) as u64;
            out.push(members.read(member, at, Buf::new(BLOCK)).await.map(Buf::freeze));
        }
        // It was failed on the way, perhaps.
        members.is_active(member).then_some(out)
    }

    /// The checksums of a stripe, row by row; None where nobody knows them any more. Empty: there are
    /// none.
    async fn sums_of_rows(&self, stripe: Stripe) -> Vec<Option<Vec<u32>>> {
        let (n, rows) = (self.0.geometry.get().members(), self.0.geometry.get().chunk_blocks);
        if !self.0.geometry.get().has_checksums() {
            return vec![Some(Vec::new()); rows as usize];
        }
        let mut all = Vec::with_capacity(n);
        for column in 0..n {
            match self.sums_of(stripe, column, 0, rows).await {
                Some(sums) => all.push(sums),
                None => break,
            }
        }
        let by_row = |r: usize| Some(all.iter().map(|column| column[r]).collect());
        if all.len() == n {
            return (0..rows as usize).map(by_row).collect();
        }
        // One of its pages is gone: a row's checksums are all in one page.
        let mut out = Vec::with_capacity(rows as usize);
        for r in 0..rows {
            let mut row = Vec::with_capacity(n);
            for column in 0..n {
                row.extend(self.sums_of(stripe, column, r, 1).await.into_iter().flatten());
            }
            out.push((row.len() == n).then_some(row));
        }
        out
    }

    /// What of a row is wrong, and what it should be.
    fn look_at_row(&self, chunks: &[Option<Chunk>], sums: Option<&[u32]>, r: usize) -> Row {
        let g = &self.0.geometry.get();
        let mut row = Row::default();
        let mut good: Vec<Option<&[u8]>> = vec![None; g.members()];
        for (column, chunk) in chunks.iter().enumerate() {
            let Some(chunk) = chunk else { continue };
            let sum = sums.and_then(|s| s.get(column).copied());
            let wrong = |unreadable| Wrong { column, sum, unreadable, right: None };
            match &chunk[r] {
                None => row.wrong.push(wrong(true)),
                Some(block) => match sum.map(|s| verdict(block, s)) {
                    Some(Verdict::Bad) => row.wrong.push(wrong(false)),
                    // A lost block is zero in the parity, too.
                    Some(Verdict::Good | Verdict::Lost) | None => good[column] = Some(block),
                },
            }
        }
        // Without its checksums nothing can be told of it.
        let Some(sums) = sums else { return row };
        if !row.wrong.is_empty() {
            let columns: Vec<usize> = row.wrong.iter().map(|w| w.column).collect();
            let made = self.reconstruct(&good, &columns);
            for (wrong, right) in row.wrong.iter_mut().zip(made.into_iter().flatten()) {
                let fits = wrong.sum.is_none_or(|s| verdict(&right, s) != Verdict::Bad);
                wrong.right = fits.then_some(right);
            }
        }
        if sums.is_empty() {
            row.uneven = self.uneven(&good);
        }
        row
    }

    /// Without checksums: what does not fit the first k columns that are there, data first, and what
    /// would be there if these are right.
    fn uneven(&self, good: &[Option<&[u8]>]) -> Vec<(usize, Slice)> {
        let here: Vec<usize> = (0..good.len()).filter(|c| good[*c].is_some()).collect();
        if here.len() <= self.0.geometry.get().data {
            return Vec::new();
        }
        let (base, rest) = here.split_at(self.0.geometry.get().data);
        let only = |c: usize| if base.contains(&c) { good[c] } else { None };
        let base: Vec<Option<&[u8]>> = (0..good.len()).map(only).collect();
        let made = self.reconstruct(&base, rest).unwrap_or_default();
        let differs =
            |(c, bytes): &(usize, Slice)| good[*c].is_some_and(|own| own[..] != bytes[..]);
        rest.iter().copied().zip(made).filter(differs).collect()
    }

    /// Some columns of a row from those that are there; None if these are too few.
    fn reconstruct(&self, good: &[Option<&[u8]>], wanted: &[usize]) -> Option<Vec<Slice>> {
        let k = self.0.geometry.get().data;
        if good.iter().flatten().count() < k {
            return None;
        }
        let mut made: Vec<Buf> = wanted.iter().map(|_| Buf::new(BLOCK)).collect();
        let mut out: Vec<&mut [u8]> = made.iter_mut().map(|b| &mut b[..]).collect();
        self.0.members.code().reconstruct(k, good, wanted, &mut out).ok()?;
        Some(made.into_iter().map(Buf::freeze).collect())
    }

    /// Counts a block that is wrong, and writes it again.
    async fn mend_block(
        &self,
        stripe: Stripe,
        slot: Slot,
        at: u64,
        wrong: Wrong,
        check_only: bool,
    ) -> Result<Tally, Halted> {
        let member = self.0.geometry.get().member_of(slot, wrong.column);
        let mut tally = Tally { mismatches: 1, ..Tally::default() };
        if !self.0.members.is_active(member) {
            // It failed meanwhile: nothing of it counts any more.
            return Ok(Tally::default());
        }
        if !wrong.unreadable {
            let beyond = if wrong.right.is_none() { ", beyond repair" } else { "" };
            self.found_bad(member, at, wrong.sum, || format!("stripe {stripe}{beyond}"));
        }
        let Some(right) = wrong.right else {
            tally.unrepairable = 1;
            return Ok(tally);
        };
        if check_only {
            return Ok(tally);
        }
        if self.write_again(member, at, right).await? {
            self.0.sums.forget_bad(member, at);
            self.0.members.healed(member, 1);
            tally.healed = 1;
        }
        Ok(if self.0.members.is_active(member) { tally } else { Tally::default() })
    }

    /// Writes a block or a page where it belongs, and reads it again; whether it is there now.
    pub(super) async fn write_again(
        &self,
        member: MemberIndex,
        at: u64,
        bytes: Slice,
    ) -> Result<bool, Halted> {
        if !self.0.members.write(member, at, vec![bytes.clone()]).await? {
            return Ok(false);
        }
        let again = self.0.members.read(member, at, Buf::new(bytes.len())).await;
        Ok(again.is_some_and(|again| again[..] == bytes[..]))
    }
}
