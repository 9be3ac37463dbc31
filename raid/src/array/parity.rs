//! Parity made right: what a start with force does for every stripe that has a slot, since rows
//! may be half-written whose Parity was given up with the log.
//!
//! What must hold: the superblock says *uneven* until all of it is flushed, so that a start that is
//! cut here is made good by the next; and no request is taken before.

use evenkeel_journal::commit::rows_at_most;
use evenkeel_journal::log::{Halted, Item, Need};
use evenkeel_journal::record::Record;
use evenkeel_journal::ring::record_bytes;
use evenkeel_journal::sync::join_all;
use evenkeel_journal::{BLOCK, Buf, Lsn, Slice, Slot, Stripe, World};

use super::Array;
use super::lost;
use crate::checksums::{LOST_SUM, Verdict, verdict};
use crate::error::{ArrayError, ErrorKind};
use crate::options::Progress;

/// Stripes that are worked on together.
const AT_ONCE: usize = 8;

/// What became of a stripe.
enum Row {
    Right,
    Mended,
    Unreadable,
}

impl<W: World> Array<W> {
    /// Computes the parity of every mapped stripe from its data, and writes it where it is not
    /// what lies there.
    pub(super) async fn make_parity_right(
        &self,
        progress: &dyn Fn(Progress),
    ) -> Result<(), ArrayError> {
        let all: Vec<(Stripe, Slot)> = {
            let map = self.0.map.borrow();
            map.entries().filter_map(|(s, e)| e.slot.map(|slot| (s, slot))).collect()
        };
        let (mut mended, mut lost) = (0u64, Vec::new());
        if self.0.geometry.get().has_checksums() {
            return self.make_checksums_right(all, progress).await;
        }
        for (i, some) in all.chunks(AT_ONCE).enumerate() {
            progress(Progress::Parity((i * AT_ONCE) as u64, all.len() as u64));
            let rows = some.iter().map(|(s, slot)| self.parity_of(*s, *slot)).collect();
            for ((stripe, _), row) in some.iter().zip(join_all(rows).await) {
                match row.map_err(|Halted| halted())? {
                    Row::Right => {}
                    Row::Mended => mended += 1,
                    Row::Unreadable => lost.push(stripe.to_string()),
                }
            }
        }
        self.0.members.flush().await.map_err(|Halted| halted())?;
        let mut notices = self.0.notices.borrow_mut();
        notices.push(format!(
            "The parity of all {} stripes in use was checked; that of {mended} was made right.",
            all.len()
        ));
        if !lost.is_empty() {
            notices.push(format!(
                "Warning: too much of these stripes cannot be read to make their parity right: {}.",
                lost.join(", ")
            ));
        }
        Ok(())
    }

    async fn parity_of(&self, stripe: Stripe, slot: Slot) -> Result<Row, Halted> {
        let (g, members) = (&self.0.geometry.get(), &self.0.members);
        let rows = g.chunk_blocks;
        let data: Vec<usize> = (0..g.data).collect();
        let Ok(data) = self.read_rows(stripe, slot, 0, rows, &data).await else {
            return if members.is_halted() { Err(Halted) } else { Ok(Row::Unreadable) };
        };
        let columns: Vec<&[u8]> = data.iter().map(|c| &c[..]).collect();
        let chunk = g.chunk_bytes() as usize;
        let mut parity: Vec<Buf> = (0..g.parity).map(|_| Buf::new(chunk)).collect();
        let mut out: Vec<&mut [u8]> = parity.iter_mut().map(|p| &mut p[..]).collect();
        members.code().encode(&columns, &mut out);
        let mut row = Row::Right;
        for (i, right) in parity.into_iter().enumerate() {
            let (member, at) = (g.member_of(slot, g.data + i), g.byte_of(slot, 0));
            let there = members.read(member, at, Buf::new(chunk)).await;
            if there.is_some_and(|there| there[..] == right[..]) || !members.is_active(member) {
                continue;
            }
            let right: Slice = right.freeze();
            members.write(member, at, vec![right]).await?;
            row = Row::Mended;
        }
        Ok(row)
    }
}

/// What comparing a stripe with its checksums said.
enum Compared {
    Right,
    Wrong,
    /// No page of checksums counts for it.
    Unknown,
}

impl<W: World> Array<W> {
    /// Compares every block of every mapped stripe with its checksum. A stripe in which one is wrong
    /// is placed anew: what can be rebuilt is, and what cannot is lost (EIO until overwritten).
    async fn make_checksums_right(
        &self,
        all: Vec<(Stripe, Slot)>,
        progress: &dyn Fn(Progress),
    ) -> Result<(), ArrayError> {
        let total = all.len();
        let (mut mended, mut unknown, mut lost, mut left) = (0u64, 0u64, 0u64, Vec::new());
        for (i, (stripe, slot)) in all.into_iter().enumerate() {
            progress(Progress::Parity(i as u64, total as u64));
            let _guard = self.0.locks.stripe(stripe).await;
            let content = match self.compare(stripe, slot).await {
                Compared::Right => continue,
                Compared::Unknown => {
                    unknown += 1;
                    self.content_as_it_lies(slot).await
                }
                Compared::Wrong => None,
            };
            let placed = self.place_again(stripe, slot, content).await;
            match placed.map_err(|Halted| halted())? {
                Some(gone) => (mended, lost) = (mended + 1, lost + gone),
                None => left.push(stripe.to_string()),
            }
        }
        let durable = self.0.journal.durable(self.0.journal.last_lsn()).await;
        durable.map_err(|Halted| halted())?;
        let mut notices = self.0.notices.borrow_mut();
        notices.push(format!(
            "All {total} stripes in use were compared with their checksums; {mended} were not \
             right and have been written anew."
        ));
        if unknown > 0 {
            notices.push(format!(
                "Warning: the checksums of {unknown} of these were given up with the log. What lies \
                 there was taken as it is, and their parity made right."
            ));
        }
        if lost > 0 {
            notices.push(format!(
                "Warning: {lost} blocks are not what was written, and cannot be rebuilt. They give \
                 EIO until they are overwritten."
            ));
        }
        if !left.is_empty() {
            notices.push(format!(
                "Warning: there was no room to write these stripes anew; their wrong blocks give \
                 EIO: {}.",
                left.join(", ")
            ));
        }
        Ok(())
    }

    /// Compares every block of a stripe on an active member with its checksum.
    async fn compare(&self, stripe: Stripe, slot: Slot) -> Compared {
        let (g, rows) = (&self.0.geometry.get(), self.0.geometry.get().chunk_blocks);
        let mut compared = Compared::Right;
        for column in 0..g.members() {
            let member = g.member_of(slot, column);
            let Some(sums) = self.sums_of(stripe, column, 0, rows).await else {
                return Compared::Unknown;
            };
            if !self.0.members.is_active(member) {
                continue;
            }
            let buf = Buf::new(g.chunk_bytes() as usize);
            let bytes = self.0.members.read(member, g.byte_of(slot, 0), buf).await;
            let right = bytes.is_some_and(|bytes| {
                let mut blocks = bytes.chunks(BLOCK).zip(sums);
                blocks.all(|(b, s)| verdict(b, s) != Verdict::Bad)
            });
            if !right {
                compared = Compared::Wrong;
            }
        }
        compared
    }

    /// The data of a slot, whatever it is; what is on members that are absent, by the parity.
    async fn content_as_it_lies(&self, slot: Slot) -> Option<Slice> {
        let g = &self.0.geometry.get();
        let chunk = g.chunk_bytes() as usize;
        let reads = (0..g.members()).map(|c| {
            self.0.members.read(g.member_of(slot, c), g.byte_of(slot, 0), Buf::new(chunk))
        });
        let found: Vec<Option<Buf>> = join_all(reads.collect()).await;
        let absent: Vec<usize> = (0..g.data).filter(|c| found[*c].is_none()).collect();
        let mut data = Buf::new(g.data * chunk);
        for (to, from) in data.chunks_mut(chunk).zip(&found) {
            from.iter().for_each(|bytes| to.copy_from_slice(bytes));
        }
        if !absent.is_empty() {
            let shards: Vec<Option<&[u8]>> = found.iter().map(Option::as_deref).collect();
            let columns = data.chunks_mut(chunk).enumerate();
            let mut out: Vec<&mut [u8]> =
                columns.filter(|(c, _)| absent.contains(c)).map(|(_, bytes)| bytes).collect();
            self.0.members.code().reconstruct(g.data, &shards, &absent, &mut out).ok()?;
        }
        Some(data.freeze())
    }

    /// Places this content of a stripe, or what is left of it, into a new slot. Gives how many blocks
    /// of it are lost; None if there is no slot or no room in the log. The stripe's lock is held.
    pub(super) async fn place_again(
        &self,
        stripe: Stripe,
        slot: Slot,
        content: Option<Slice>,
    ) -> Result<Option<u64>, Halted> {
        let g = &self.0.geometry.get();
        let left = match content {
            Some(data) => Some((data, Vec::new())),
            None => self.what_is_left(stripe, slot, &[]).await,
        };
        let Some((data, lost)) = left else {
            return Err(Halted);
        };
        // Without checksums a mark is all that tells a lost block from zeros.
        let mut marks = None;
        if !lost.is_empty() && !g.has_checksums() {
            marks = self.room_for_lost(stripe, &lost);
            if marks.is_none() {
                return Ok(None);
            }
        }
        let bytes = g.place_record_bytes();
        let rows = rows_at_most(0, bytes, g.log_width());
        let need = Need { places: 0, ring_bytes: record_bytes(bytes, 0), rows };
        let mut room = None;
        for _ in 0..2 {
            room = self.0.journal.try_reserve(need);
            if room.is_some() {
                break;
            }
            // What is home already may leave the log.
            self.checkpoint().await?;
            self.0.journal.move_tail();
            self.0.journal.durable(self.0.journal.last_lsn()).await?;
        }
        let promise = self.0.slots.try_promise(1, 0);
        let (Some(mut room), Some(mut promise)) = (room, promise) else {
            return Ok(None);
        };
        let new = self.0.slots.take(&mut promise);
        let mut crcs = self.write_slots(&[(new, data)]).await?.remove(0);
        lost.iter().for_each(|block| crcs[*block as usize] = LOST_SUM);
        // Content of before every Write that is still dirty.
        let horizon = Lsn(0);
        let place = Record::Place { stripe, slot: new, horizon, crcs: crcs.clone() };
        let mut items = vec![Item::bare(place)];
        let dirty = |block: &u32| self.0.cache.borrow().get(stripe, *block).is_some();
        let marked: Vec<u32> = match marks {
            Some(marks) => {
                room.join(marks);
                lost.iter().copied().filter(|b| !dirty(b)).collect()
            }
            None => Vec::new(),
        };
        items.extend(lost::items(stripe, &marked));
        let lsn = self.0.journal.append(&mut room, items);
        self.moved(stripe, Some((new, &crcs)), lsn, horizon);
        self.mark_lost(stripe, &marked, lsn.next());
        Ok(Some(lost.len() as u64))
    }
}

fn halted() -> ArrayError {
    ArrayError::new(
        ErrorKind::Failed,
        "Too many members failed while the parity was being made right. The next start goes on \
         with that.",
    )
}
