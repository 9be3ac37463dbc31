//! The way of a discard, which is also that of write-zeroes: whole stripes lose their slot, parts
//! become zeros in the cache. Nothing is logged for what reads as zeros already.

use evenkeel_journal::commit::rows_at_most;
use evenkeel_journal::log::{Item, Need};
use evenkeel_journal::record::Record;
use evenkeel_journal::ring::record_bytes;
use evenkeel_journal::sync::after_the_ready;
use evenkeel_journal::{BLOCK, Buf, Lsn, Stripe, World};

use super::cache::DirtyBlock;
use super::write::{Piece, pieces};
use super::{Array, MAX_REQUEST};
use crate::error::RequestError;
use crate::geometry::MAX_REQUEST_BLOCKS;
use crate::options::Ack;

/// Stripes of one step: a longer discard is several, each atomic.
const STEP_STRIPES: u64 = 1024;

impl<W: World> Array<W> {
    /// Makes the range read as zeros and frees the whole stripes in it. Any byte range, of any
    /// length; atomic over a crash up to 1 MiB, and beyond that in steps of whole blocks.
    ///
    /// # Errors
    /// As for [`Array::write`].
    pub async fn discard(&self, at: u64, len: u64, fua: bool) -> Result<(), RequestError> {
        let _request = self.enter(at, len, true)?;
        let block = BLOCK as u64;
        let (first, end) = (at.div_ceil(block), (at + len) / block);
        let aligned = at.is_multiple_of(block) && (at + len).is_multiple_of(block);
        if !aligned && (len <= MAX_REQUEST as u64 || first > end) {
            // Parts of blocks are written as zeros, with the rest in one piece (P3).
            let zeros = Buf::zeroed(len as usize).freeze();
            return self.write(at, zeros, fua).await;
        }
        for (from, to) in [(at, first * block), (end * block, at + len)] {
            if to > from {
                self.write(from, Buf::zeroed((to - from) as usize).freeze(), fua).await?;
            }
        }
        let step = STEP_STRIPES * self.0.geometry.get().stripe_blocks();
        let mut from = first;
        while from < end {
            let near = end - first <= MAX_REQUEST_BLOCKS;
            let to = if near { end } else { end.min((from / step + 1) * step) };
            self.zero_blocks(from, to - from).await?;
            from = to;
            if from < end {
                // Steps over what is not in use wait for nothing: let others have their turn.
                after_the_ready().await;
            }
        }
        if fua || self.0.options.ack == Ack::Durable {
            self.0.journal.durable(self.0.journal.last_lsn()).await?;
        }
        Ok(())
    }

    /// Makes the range read as zeros; the same as discard.
    ///
    /// # Errors
    /// As for [`Array::write`].
    pub async fn write_zeroes(&self, at: u64, len: u64, fua: bool) -> Result<(), RequestError> {
        self.discard(at, len, fua).await
    }

    async fn zero_blocks(&self, block: u64, count: u64) -> Result<(), RequestError> {
        let g = &self.0.geometry.get();
        let all = pieces(g, block, count);
        let whole = |p: &Piece| u64::from(p.count) == g.stripe_blocks();
        // 0. While columns are added: parts of stripes out of the shape before first.
        let in_part: Vec<Piece> =
            pieces(g, block, count).into_iter().filter(|p| !whole(p)).collect();
        self.move_first(&in_part, false).await?;
        // 1. Room: an Unmap for every run of stripes at the worst, a Write for either end.
        let unmaps = all.iter().filter(|p| whole(p)).count();
        let parts = all.len() - unmaps;
        let meta = unmaps * 40 + parts * 32;
        let need = Need {
            places: 0,
            ring_bytes: unmaps * record_bytes(40, 0) + parts * record_bytes(32, 0),
            rows: rows_at_most(0, meta, g.log_width()) + parts as u64 * g.place_rows(),
        };
        let mut room = self.0.journal.reserve(need).await?;
        // 2. Locks, of what is in use. What comes into use while this waits is locked, too: a write
        // that came before in one stripe must not count as the later one in the next.
        let holds = |s: Stripe| {
            self.0.map.borrow().get(s).slot.is_some()
                || self.is_backed(s)
                || self.0.cache.borrow().stripes.contains_key(&s)
        };
        let mut guards = Vec::new();
        let mut locked = std::collections::HashSet::new();
        loop {
            for p in &all {
                if whole(p) && (holds(p.stripe) || self.0.locks.is_locked(p.stripe)) {
                    guards.push(self.0.locks.stripe(p.stripe).await);
                    locked.insert(p.stripe);
                }
            }
            self.0.locks.unmerged(&[(block, count)]).await;
            if all.iter().all(|p| !whole(p) || locked.contains(&p.stripe) || !holds(p.stripe)) {
                break;
            }
            guards.clear();
            locked.clear();
        }
        // 3. Append; cache and map follow.
        let horizon = self.0.journal.last_lsn();
        let mut items: Vec<Item> = Vec::new();
        let mut done: Vec<&Piece> = Vec::new();
        for p in &all {
            let mapped =
                self.0.map.borrow().get(p.stripe).slot.is_some() || self.is_backed(p.stripe);
            let dirty = self.0.cache.borrow().stripes.contains_key(&p.stripe);
            if !mapped && !dirty {
                continue;
            }
            assert!(!whole(p) || locked.contains(&p.stripe), "what is in use was locked");
            if whole(p) {
                let last = items.last_mut().map(|i| &mut i.record);
                if let Some(Record::Unmap { first, count, .. }) = last
                    && first.0 + *count == p.stripe.0
                {
                    *count += 1;
                } else {
                    let unmap = Record::Unmap { first: p.stripe, count: 1, horizon };
                    items.push(Item::bare(unmap));
                }
            } else {
                let write =
                    Record::Write { stripe: p.stripe, first: p.first, count: p.count, crcs: None };
                items.push(Item::bare(write));
            }
            done.push(p);
        }
        if items.is_empty() {
            return Ok(());
        }
        let records: Vec<Record> = items.iter().map(|i| i.record.clone()).collect();
        let first = self.0.journal.append(&mut room, items);
        let zero_crc = crc32c::crc32c(&[0; BLOCK]);
        for (i, record) in records.into_iter().enumerate() {
            let lsn = Lsn(first.0 + i as u64);
            match record {
                Record::Unmap { first, count, horizon } => {
                    for s in first.0..first.0 + count {
                        self.moved(Stripe(s), None, lsn, horizon);
                    }
                }
                Record::Write { stripe, first, count, .. } => {
                    for b in first..first + count {
                        self.dirty(stripe, b, DirtyBlock { lsn, data: None, crc: zero_crc });
                    }
                    self.charge(stripe, &mut room);
                }
                _ => unreachable!("a discard makes Unmaps and Writes"),
            }
        }
        drop(guards);
        self.wake_destage();
        Ok(())
    }
}
