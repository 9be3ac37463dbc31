//! The way of a write. It is readable here from top to bottom, an `.await` a step:
//!
//! 1. room for all of it, in one step: slots, then ring and log (a full log makes it wait here);
//! 2. stripe locks, ascending: of the stripes that are written whole, or of all if blocks are merged;
//! 3. whole stripes go into fresh slots: coded and written once, the old slot stays as it is;
//! 4. parts are copied into places of the ring, with their CRCs;
//! 5. all records of the request are appended at once, and cache and map follow;
//! 6. it is acknowledged: in `durable` mode, and with FUA, after its commit is durable.

use std::collections::BTreeMap;

use evenkeel_journal::commit::rows_at_most;
use evenkeel_journal::log::{Halted, Item, Need};
use evenkeel_journal::mem::segs_len;
use evenkeel_journal::record::Record;
use evenkeel_journal::ring::{Place, record_bytes};
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::join_all;
use evenkeel_journal::{BLOCK, Buf, Lsn, MemberIndex, Segs, Slice, Slot, Stripe, World};

use super::cache::DirtyBlock;
use super::slots::{DESTAGE_RESERVE, Promise};
use super::{Array, MAX_REQUEST};
use crate::error::RequestError;
use crate::geometry::Geometry;
use crate::options::Ack;

/// Member writes that are under way together.
const WRITES_AT_ONCE: usize = 64;

/// The part of a request that falls into one stripe.
pub(super) struct Piece {
    pub stripe: Stripe,
    pub first: u32,
    pub count: u32,
    /// Byte of the request's data.
    pub from: usize,
}

impl Piece {
    fn is_whole(&self, g: &Geometry) -> bool {
        u64::from(self.count) == g.stripe_blocks()
    }
}

/// Cuts `count` device blocks from `block` on into stripes.
pub(super) fn pieces(g: &Geometry, block: u64, count: u64) -> Vec<Piece> {
    let mut out = Vec::new();
    let mut at = block;
    while at < block + count {
        let (stripe, first) = g.stripe_of(at);
        let n = (g.stripe_blocks() - u64::from(first)).min(block + count - at);
        let from = (at - block) as usize * BLOCK;
        out.push(Piece { stripe, first, count: n as u32, from });
        at += n;
    }
    out
}

impl<W: World> Array<W> {
    /// Writes `data` at byte `at`: any byte range up to 1 MiB, atomic over a crash (P3). With
    /// `fua` it is durable when this returns.
    ///
    /// # Errors
    /// `Invalid`, `ReadOnly`, `Stopping` before anything is done; `Io` if the array has lost more
    /// members than it tolerates: then the write may or may not be there.
    pub async fn write(&self, at: u64, data: Slice, fua: bool) -> Result<(), RequestError> {
        let _request = self.enter(at, data.len() as u64, true)?;
        if data.len() > MAX_REQUEST {
            return Err(RequestError::Invalid);
        }
        if data.is_empty() {
            return Ok(());
        }
        let g = &self.0.geometry.get();
        let (first, last) = (at / BLOCK as u64, (at + data.len() as u64 - 1) / BLOCK as u64);
        let pieces = pieces(g, first, last - first + 1);
        let merged = merged_blocks(at, data.len());

        // 0. While columns are added: out of the shape before first.
        self.move_first(&pieces, true).await?;

        // 1. Room.
        self.room_for_sums().await;
        let whole = pieces.iter().filter(|p| p.is_whole(g)).count();
        let mut promise = self.promise_slots(whole).await?;
        let mut room = self.0.journal.reserve(self.need(&pieces)).await?;

        // 2. Locks. Who merges holds all of its stripes: else two could wait for each other's
        // merge to end, each with one of its own under way.
        let mut guards = Vec::new();
        for p in &pieces {
            if p.is_whole(g) || !merged.is_empty() {
                guards.push(self.0.locks.stripe(p.stripe).await);
            }
        }
        let mut merging = None;
        let data = if merged.is_empty() {
            data
        } else {
            merging = Some(self.0.locks.merge(merged.clone()));
            self.merge(at, &data, first, last, &merged).await?
        };

        // 3. Whole stripes.
        let placed: Vec<(Slot, Slice)> = pieces
            .iter()
            .filter(|p| p.is_whole(g))
            .map(|p| (self.0.slots.take(&mut promise), data.part(p.from, p.count as usize * BLOCK)))
            .collect();
        let crcs = self.write_slots(&placed).await?;
        // Where this request holds the stripe's lock, nobody else merges.
        let unlocked = pieces.iter().filter(|p| guards.iter().all(|g| g.stripe() != p.stripe));
        let ranges: Vec<(u64, u64)> = unlocked
            .map(|p| (p.stripe.0 * g.stripe_blocks() + u64::from(p.first), u64::from(p.count)))
            .collect();
        self.0.locks.unmerged(&ranges).await;
        if self.0.members.is_halted() {
            return Err(RequestError::Io);
        }

        // 4. Parts into the ring. 5. Append. Nothing else runs from here to the acknowledgement.
        // All content is the request's own, so it comes after every Write so far: a horizon of an
        // earlier moment would let an overlapping write win in one stripe and lose in the next.
        let horizon = self.0.journal.last_lsn();
        let mut placed = placed.into_iter().zip(crcs);
        let mut items = Vec::with_capacity(pieces.len());
        let mut places: Vec<Vec<Place>> = Vec::with_capacity(pieces.len());
        for p in &pieces {
            if p.is_whole(g) {
                let ((slot, _), crcs) = placed.next().expect("every whole piece was placed");
                let place = Record::Place { stripe: p.stripe, slot, horizon, crcs };
                items.push(Item::bare(place));
                places.push(Vec::new());
            } else {
                let part = data.part(p.from, p.count as usize * BLOCK);
                let (item, own) = self.fill(p, part.chunks(BLOCK));
                items.push(item);
                places.push(own);
            }
        }
        let placed: Vec<Option<(Slot, Vec<u32>)>> = items
            .iter()
            .map(|i| match &i.record {
                Record::Place { slot, crcs, .. } => Some((*slot, crcs.clone())),
                _ => None,
            })
            .collect();
        let crcs: Vec<Vec<u32>> =
            items.iter().map(|i| i.data.iter().map(|d| d.1).collect()).collect();
        let lsn = self.0.journal.append(&mut room, items);
        for (i, (p, own)) in pieces.iter().zip(places).enumerate() {
            let lsn = Lsn(lsn.0 + i as u64);
            if let Some((slot, crcs)) = &placed[i] {
                self.moved(p.stripe, Some((*slot, crcs)), lsn, horizon);
                continue;
            }
            for (n, place) in own.into_iter().enumerate() {
                let new = DirtyBlock { lsn, data: Some(place), crc: crcs[i][n] };
                self.dirty(p.stripe, p.first + n as u32, new);
            }
            self.charge(p.stripe, &mut room);
        }
        let newest = Lsn(lsn.0 + pieces.len() as u64 - 1);
        drop((room, promise, merging, guards));
        self.wake_destage();

        // 6. Acknowledge.
        if (fua && !broken(Sabotage::FuaLost)) || self.0.options.ack == Ack::Durable {
            self.0.journal.durable(newest).await?;
        }
        Ok(())
    }

    /// Room that the records of these pieces take at most.
    fn need(&self, pieces: &[Piece]) -> Need {
        let g = &self.0.geometry.get();
        let (mut need, mut blocks, mut meta) = (Need::default(), 0, 0);
        for p in pieces {
            if p.is_whole(g) {
                meta += g.place_record_bytes();
                need.ring_bytes += record_bytes(g.place_record_bytes(), 0);
            } else {
                let (n, own) = (p.count as usize, write_record_bytes(p.count));
                blocks += n;
                meta += own;
                need.ring_bytes += record_bytes(own, n);
                need.places += n;
                need.rows += g.place_rows();
            }
        }
        need.rows += rows_at_most(blocks, meta, g.log_width());
        need
    }

    /// A stripe that became dirty is charged for the Place that may be needed to destage it.
    pub(super) fn charge(
        &self,
        stripe: Stripe,
        room: &mut evenkeel_journal::log::Room<W, crate::members::Members<W>>,
    ) {
        let mut cache = self.0.cache.borrow_mut();
        if let Some(s) = cache.stripes.get_mut(&stripe)
            && s.charges < 1 + u32::from(s.destaging)
        {
            s.charges += 1;
            self.0.journal.charge(room);
        }
    }

    /// Waits for slots for whole stripes; a waiter has what would free some made durable.
    async fn promise_slots(&self, n: usize) -> Result<Promise, Halted> {
        let slots = &self.0.slots;
        if n == 0 {
            return Ok(slots.none());
        }
        if !slots.door().is_busy()
            && let Some(p) = slots.try_promise(n, DESTAGE_RESERVE)
        {
            return Ok(p);
        }
        let _turn = slots.door().lock().await;
        loop {
            let freed = slots.freed().wait();
            self.0.journal.durable(self.0.journal.last_lsn()).await?;
            if let Some(p) = slots.try_promise(n, DESTAGE_RESERVE) {
                return Ok(p);
            }
            if self.0.members.is_halted() {
                return Err(Halted);
            }
            freed.await;
        }
    }

    /// Copies a piece, block by block, into places of the ring and makes its Write.
    pub(super) fn fill<'a>(
        &self,
        p: &Piece,
        blocks: impl Iterator<Item = &'a [u8]>,
    ) -> (Item, Vec<Place>) {
        let ring = self.0.journal.ring();
        let mut places = Vec::with_capacity(p.count as usize);
        let mut own = Vec::with_capacity(p.count as usize);
        for block in blocks {
            let crc = crc32c::crc32c(block);
            let place = ring.fill(block).expect("the places were reserved");
            own.push((place.bytes().clone(), crc));
            places.push(place);
        }
        let crcs = Some(own.iter().map(|d| d.1).collect());
        let record = Record::Write { stripe: p.stripe, first: p.first, count: p.count, crcs };
        let numbers = places.iter().map(Place::index).collect();
        (Item { record, data: own, places: numbers }, places)
    }

    /// The request's data with the blocks that it covers in part completed by what they hold.
    async fn merge(
        &self,
        at: u64,
        data: &Slice,
        first: u64,
        last: u64,
        merged: &[u64],
    ) -> Result<Slice, RequestError> {
        let mut whole = Buf::new((last - first + 1) as usize * BLOCK);
        for b in merged {
            let (stripe, block) = self.0.geometry.get().stripe_of(*b);
            let old = self.read_block_locked(stripe, block).await?;
            let to = (b - first) as usize * BLOCK;
            whole[to..to + BLOCK].copy_from_slice(&old);
        }
        let to = (at - first * BLOCK as u64) as usize;
        whole[to..to + data.len()].copy_from_slice(data);
        Ok(whole.freeze())
    }

    /// Codes whole stripes and writes all their chunks, merged where neighbours touch. Gives the
    /// CRCs of each slot's blocks, column after column. When this returns every chunk is written
    /// or its member durably failed; nothing is flushed.
    pub(super) async fn write_slots(
        &self,
        placed: &[(Slot, Slice)],
    ) -> Result<Vec<Vec<u32>>, Halted> {
        let g = &self.0.geometry.get();
        let mut crcs = Vec::with_capacity(placed.len());
        let mut runs: BTreeMap<(u8, u64), Segs> = BTreeMap::new();
        for (slot, data) in placed {
            let all = self.columns_of(data);
            // The copies of a single column have its CRCs.
            let different = if g.data == 1 { &all[..1] } else { &all[..] };
            let own = different.iter().flat_map(|c| c.chunks(BLOCK)).map(crc32c::crc32c);
            crcs.push(own.collect::<Vec<u32>>().repeat(all.len() / different.len()));
            for (column, bytes) in all.into_iter().enumerate() {
                let member = g.member_of(*slot, column);
                let at = g.byte_of(*slot, 0);
                runs.insert((member.0, at), vec![bytes]);
            }
        }
        self.write_runs(runs).await?;
        Ok(crcs)
    }

    /// The n chunks of a stripe with this content. With one data column every parity is a copy of
    /// it, so all are the same memory.
    fn columns_of(&self, data: &Slice) -> Vec<Slice> {
        let g = &self.0.geometry.get();
        let chunk = g.chunk_bytes() as usize;
        if g.data == 1 {
            return vec![data.clone(); g.members()];
        }
        let columns: Vec<Slice> = (0..g.data).map(|c| data.part(c * chunk, chunk)).collect();
        let mut parity: Vec<Buf> = (0..g.parity).map(|_| Buf::new(chunk)).collect();
        {
            let views: Vec<&[u8]> = columns.iter().map(|c| &c[..]).collect();
            let mut out: Vec<&mut [u8]> = parity.iter_mut().map(|p| &mut p[..]).collect();
            self.0.members.code().encode(&views, &mut out);
        }
        columns.into_iter().chain(parity.into_iter().map(Buf::freeze)).collect()
    }

    /// Writes pieces to (member, byte), neighbours as one write.
    pub(super) async fn write_runs(&self, runs: BTreeMap<(u8, u64), Segs>) -> Result<(), Halted> {
        let mut writes: Vec<(u8, u64, u64, Segs)> = Vec::new();
        for ((member, at), mut segs) in runs {
            let end = at + segs_len(&segs) as u64;
            match writes.last_mut() {
                Some(w) if w.0 == member && w.2 == at => {
                    w.2 = end;
                    w.3.append(&mut segs);
                }
                _ => writes.push((member, at, end, segs)),
            }
        }
        while !writes.is_empty() {
            let some: Vec<_> = writes.drain(..writes.len().min(WRITES_AT_ONCE)).collect();
            let some = some
                .into_iter()
                .map(|(member, at, _, segs)| self.0.members.write(MemberIndex(member), at, segs));
            for done in join_all(some.collect()).await {
                done?;
            }
        }
        Ok(())
    }
}

/// Bytes of a Write of `count` blocks with data.
pub(super) fn write_record_bytes(count: u32) -> usize {
    (32 + count as usize * 4).next_multiple_of(8)
}

/// The blocks that a byte range covers in part: none, one or two.
fn merged_blocks(at: u64, len: usize) -> Vec<u64> {
    let block = BLOCK as u64;
    let end = at + len as u64;
    let mut out = Vec::new();
    if !at.is_multiple_of(block) {
        out.push(at / block);
    }
    if !end.is_multiple_of(block) && out.last() != Some(&(end / block)) {
        out.push(end / block);
    }
    out
}
