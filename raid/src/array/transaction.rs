//! Transactions: a set of writes that is there wholly or not at all after any crash (P3).
//!
//! A [`Transaction`] gathers in memory; nothing of it is reserved, logged or seen before
//! [`Transaction::commit`], so dropping it costs nothing. The commit goes the way of a write of
//! parts, whatever stripes it covers:
//!
//! 1. room for all of it, in one step: places, ring bytes, log rows;
//! 2. where a part of a block was written: the locks of all stripes, ascending, and the rest of
//!    these blocks is read;
//! 3. all records are appended at once, one Write for each run of blocks, and the cache follows;
//! 4. it is acknowledged as a write is.
//!
//! What must hold: the records are one request, so the ring's head moves once over all of them,
//! and the log takes them into one commit, which counts whole or not at all. There is nothing
//! else that could be half-done. Hence the bound, [`TransactionBound`]: a share of ring and log,
//! and the largest commit.

use std::collections::BTreeMap;
use std::fmt;

use evenkeel_journal::commit::{LARGEST_PAYLOAD, rows_at_most};
use evenkeel_journal::log::{Item, Need};
use evenkeel_journal::ring::{Place, record_bytes};
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::join_all;
use evenkeel_journal::{BLOCK, Buf, Lsn, Stripe, World};

use super::cache::DirtyBlock;
use super::locks::{BlockGuard, StripeGuard};
use super::write::{Piece, write_record_bytes};
use super::{Array, MAX_TRANSACTION};
use crate::error::RequestError;
use crate::geometry::Geometry;
use crate::options::Ack;

/// Blocks of the largest transaction, whatever ring and log have.
const MAX_BLOCKS: u64 = (MAX_TRANSACTION / BLOCK) as u64;
/// A transaction takes at most one part in so many of the ring's places and of the log's rows.
const SHARE: u64 = 4;
/// Bytes of a Write's record at most: so many, and [`BLOCK_META`] a block.
const RUN_META: u64 = 36;
const BLOCK_META: u64 = 4;
/// Blocks written in part whose rest is read together.
const READS_AT_ONCE: usize = 64;

const _: () = {
    let meta = (MAX_BLOCKS * (RUN_META + BLOCK_META)).div_ceil(BLOCK as u64);
    assert!(MAX_BLOCKS + meta <= LARGEST_PAYLOAD as u64, "any transaction fits one commit");
};

/// How much a transaction holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TransactionSize {
    /// D: blocks of the device that it writes, wholly or in part, each counted once.
    pub blocks: u64,
    /// R: runs of successive blocks; a run ends with its stripe.
    pub runs: u64,
    /// S: stripes that it touches.
    pub stripes: u64,
}

/// The most that a transaction of an array may hold.
///
/// A transaction of D blocks in R runs on S stripes (see [`TransactionSize`]) is possible if
///
/// - D ≤ `blocks`, where `blocks` = min(4096, ⌊places of the ring / 4⌋); and
/// - 1 + ⌈(D + ⌈(36 × R + 4 × D) / 4096⌉) / k⌉ + S × `place_rows` ≤ `rows`, where `rows` =
///   ⌊rows of the log / 4⌋.
///
/// So with default sizes (a cache of 64 MiB, a log of 256 MiB on each member) it is 16 MiB,
/// wherever they lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionBound {
    /// Blocks of the device.
    pub blocks: u64,
    /// Rows of the log, with those that the stripes are charged for their destage.
    pub rows: u64,
    /// Data columns of a commit at most.
    pub data: usize,
    /// Rows that each stripe is charged.
    pub place_rows: u64,
}

impl TransactionBound {
    fn of(g: &Geometry) -> TransactionBound {
        TransactionBound {
            blocks: MAX_BLOCKS.min(g.cache_blocks / SHARE),
            rows: g.rows_of_log() / SHARE,
            data: g.log_width(),
            place_rows: g.place_rows(),
        }
    }

    /// Rows of the log that a transaction of this size takes at most.
    #[must_use]
    pub fn rows_of(&self, size: &TransactionSize) -> u64 {
        let meta = size.runs * RUN_META + size.blocks * BLOCK_META;
        rows_at_most(size.blocks as usize, meta as usize, self.data)
            + size.stripes * self.place_rows
    }

    /// Whether a transaction of this size is possible.
    #[must_use]
    pub fn allows(&self, size: &TransactionSize) -> bool {
        size.blocks <= self.blocks && self.rows_of(size) <= self.rows
    }
}

/// Why a transaction did not take a write. It is as it was before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionError {
    /// Outside the device.
    Outside {
        /// First byte.
        at: u64,
        /// Bytes.
        len: u64,
        /// Bytes of the device.
        device: u64,
    },
    /// Larger than the array's bound.
    TooLarge {
        /// What it would hold.
        wanted: TransactionSize,
        /// What it may.
        bound: TransactionBound,
    },
}

impl fmt::Display for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransactionError::Outside { at, len, device } => write!(
                f,
                "The {len} bytes at byte {at} are not all on the device, which has {device} bytes. \
                 The transaction is as it was before."
            ),
            TransactionError::TooLarge { wanted, bound } => write!(
                f,
                "The transaction would hold {} blocks and take {} rows of the log; this array \
                 allows {} blocks and {} rows. It is as it was before: commit it, or drop it and \
                 make smaller ones.",
                wanted.blocks,
                bound.rows_of(wanted),
                bound.blocks,
                bound.rows
            ),
        }
    }
}

impl std::error::Error for TransactionError {}

/// A block that a transaction writes.
struct Gathered {
    bytes: Buf,
    /// The bytes written: ascending ranges (from, to) with gaps between.
    written: Vec<(usize, usize)>,
}

impl Gathered {
    fn new() -> Gathered {
        Gathered { bytes: Buf::new(BLOCK), written: Vec::new() }
    }

    fn write(&mut self, from: usize, data: &[u8]) {
        let (mut from, mut to) = (from, from + data.len());
        self.bytes[from..to].copy_from_slice(data);
        self.written.retain(|(f, t)| {
            let apart = *t < from || to < *f;
            if !apart {
                (from, to) = (from.min(*f), to.max(*t));
            }
            apart
        });
        let at = self.written.partition_point(|r| r.0 < from);
        self.written.insert(at, (from, to));
    }

    fn is_whole(&self) -> bool {
        self.written == [(0, BLOCK)]
    }

    /// Takes the bytes that were not written from what the block holds.
    fn complete(&mut self, mut old: Buf) {
        for (from, to) in self.written.drain(..) {
            old[from..to].copy_from_slice(&self.bytes[from..to]);
        }
        *self = Gathered { bytes: old, written: vec![(0, BLOCK)] };
    }
}

/// Writes to any bytes of the device that are there together or not at all after any crash, with
/// whatever members are lost in it (P3).
///
/// Made by [`Array::begin`]. It gathers in memory; until [`Transaction::commit`] nothing is
/// reserved or seen, and dropping it costs nothing. Where its own writes overlap the later one
/// counts. It may take as much as [`TransactionBound`] says; what is beyond is refused by
/// [`Transaction::write`], and never by the commit.
///
/// It is not isolated from others: it holds no locks before its commit, and what it writes goes
/// over whatever was written meanwhile, in the order of the commits. Others see nothing of it
/// before its commit, and a read that begins after one that saw some of it sees all.
///
/// No protocol of block devices has this, so ublk and NBD do not offer it: it is for programs that
/// run the array in their own process.
///
/// ```
/// use evenkeel_journal::{Buf, World};
/// use evenkeel_raid::Array;
///
/// type Failure = Box<dyn std::error::Error>;
///
/// async fn balance<W: World>(array: &Array<W>, account: u64) -> Result<u64, Failure> {
///     let (read, bytes) = array.read(account, Buf::new(8)).await;
///     read?;
///     Ok(u64::from_le_bytes(bytes[..].try_into()?))
/// }
///
/// /// Moves an amount between two accounts, named by their bytes on the device. After any crash
/// /// both have changed, or neither. (Two transfers at once would need a lock around them.)
/// async fn transfer<W: World>(
///     array: &Array<W>,
///     from: u64,
///     to: u64,
///     amount: u64,
/// ) -> Result<(), Failure> {
///     let (poorer, richer) = (balance(array, from).await?, balance(array, to).await?);
///     let mut tx = array.begin();
///     tx.write(from, &(poorer - amount).to_le_bytes())?;
///     tx.write(to, &(richer + amount).to_le_bytes())?;
///     tx.commit().await?;
///     Ok(())
/// }
/// # // Three files as disks; where the kernel gives no io_uring there is nothing to run on.
/// # use evenkeel_journal::uring::{Access, Engine, UringDisk};
/// # use evenkeel_raid::{CreateOptions, StartOptions, codec::Level, create};
/// # fn main() -> Result<(), Failure> {
/// # let Ok(engine) = Engine::new() else {
/// #     println!("skipped: the kernel gives no io_uring");
/// #     return Ok(());
/// # };
/// # let dir = std::env::temp_dir().join(format!("evenkeel-transaction-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir)?;
/// # let world = engine.world(&dir)?;
/// # let mut disks = Vec::new();
/// # for i in 0..3 {
/// #     let path = dir.join(format!("disk{i}"));
/// #     std::fs::File::create(&path)?.set_len(32 << 20)?;
/// #     disks.push(UringDisk::open(engine.driver(), &path, Access::ReadWrite)?);
/// # }
/// # let options = CreateOptions {
/// #     name: "bank".into(),
/// #     level: Level::Raid5,
/// #     data: 2,
/// #     parity: 1,
/// #     chunk_bytes: 65536,
/// #     log_bytes: None,
/// #     cache_bytes: Some(4 << 20),
/// #     checksums: true,
/// #     force: false,
/// # };
/// # let done: Result<(), Failure> = engine.block_on(async {
/// #     create(&world, &disks, &options).await?;
/// #     let array = Array::start(&world, &disks, &StartOptions::default(), &|_| ()).await?;
/// #     let (alice, bob) = (4096, 8 << 20);
/// #     let mut tx = array.begin();
/// #     tx.write(alice, &100u64.to_le_bytes())?;
/// #     drop(tx);
/// #     assert_eq!(balance(&array, alice).await?, 0);
/// #     let mut tx = array.begin();
/// #     tx.write(alice, &100u64.to_le_bytes())?;
/// #     tx.commit().await?;
/// #     transfer(&array, alice, bob, 30).await?;
/// #     assert_eq!(balance(&array, alice).await?, 70);
/// #     assert_eq!(balance(&array, bob).await?, 30);
/// #     array.stop().await?;
/// #     Ok(())
/// # });
/// # std::fs::remove_dir_all(&dir)?;
/// # done
/// # }
/// ```
pub struct Transaction<W: World> {
    array: Array<W>,
    /// By block of the device.
    blocks: BTreeMap<u64, Gathered>,
    size: TransactionSize,
}

impl<W: World> Array<W> {
    /// Begins a transaction: see [`Transaction`].
    #[must_use]
    pub fn begin(&self) -> Transaction<W> {
        Transaction {
            array: self.clone(),
            blocks: BTreeMap::new(),
            size: TransactionSize::default(),
        }
    }

    /// The most that a transaction of this array may hold.
    #[must_use]
    pub fn transaction_bound(&self) -> TransactionBound {
        TransactionBound::of(&self.0.geometry.get())
    }
}

impl<W: World> Transaction<W> {
    /// What it holds so far.
    #[must_use]
    pub fn size(&self) -> TransactionSize {
        self.size
    }

    /// Adds a write of any bytes of the device. They are copied.
    ///
    /// # Errors
    /// Outside the device, or beyond the array's [`TransactionBound`]: then nothing is added.
    pub fn write(&mut self, at: u64, data: &[u8]) -> Result<(), TransactionError> {
        let (len, device) = (data.len() as u64, self.array.size_bytes());
        let end = at.checked_add(len).filter(|end| *end <= device);
        let end = end.ok_or(TransactionError::Outside { at, len, device })?;
        if data.is_empty() {
            return Ok(());
        }
        let block = BLOCK as u64;
        let (first, last) = (at / block, (end - 1) / block);
        let (wanted, bound) = (self.size_with(first, last), self.array.transaction_bound());
        if !bound.allows(&wanted) {
            return Err(TransactionError::TooLarge { wanted, bound });
        }
        self.size = wanted;
        for b in first..=last {
            let (from, to) = (at.max(b * block), end.min((b + 1) * block));
            let part = &data[(from - at) as usize..(to - at) as usize];
            let gathered = self.blocks.entry(b).or_insert_with(Gathered::new);
            gathered.write((from - b * block) as usize, part);
        }
        Ok(())
    }

    /// Fills `buf` from byte `at` on with what the device holds now and its own writes over it.
    ///
    /// # Errors
    /// As for [`Array::read`].
    pub async fn read(&self, at: u64, buf: Buf) -> (Result<(), RequestError>, Buf) {
        let (done, mut buf) = self.array.read(at, buf).await;
        if done.is_err() || buf.is_empty() {
            return (done, buf);
        }
        let (block, end) = (BLOCK as u64, at + buf.len() as u64);
        for (b, own) in self.blocks.range(at / block..end.div_ceil(block)) {
            for (from, to) in &own.written {
                let start = b * block + *from as u64;
                let (f, t) = (start.max(at), (b * block + *to as u64).min(end));
                if f < t {
                    let bytes = &own.bytes[from + (f - start) as usize..][..(t - f) as usize];
                    buf[(f - at) as usize..(t - at) as usize].copy_from_slice(bytes);
                }
            }
        }
        (Ok(()), buf)
    }

    /// Makes all of it happen, at once: in the order of all writes it is one of them. When this
    /// returns it is acknowledged as a write is, by the array's [`Ack`]; [`Array::flush`] makes it
    /// durable where the array acknowledges earlier.
    ///
    /// # Errors
    /// `ReadOnly` or `Stopping` before anything is done; `Io` if the array has lost more members
    /// than it tolerates: then it may be there, wholly, or not at all.
    pub async fn commit(mut self) -> Result<(), RequestError> {
        let array = self.array.clone();
        let _request = array.enter(0, 0, true)?;
        if self.blocks.is_empty() {
            return Ok(());
        }

        // 0. While columns are added: out of the shape before first.
        let mut pieces = self.pieces();
        array.move_first(&pieces, false).await?;

        // 1. Room.
        let mut room = array.0.journal.reserve(self.need(&pieces)).await?;

        // 2. Locks, where something must be read.
        let guards = self.complete(&pieces).await?;
        if array.0.members.is_halted() {
            return Err(RequestError::Io);
        }

        // 3. Append. Nothing else runs from here to the acknowledgement.
        let mut newest = Lsn(0);
        while !pieces.is_empty() {
            let n = if broken(Sabotage::TransactionSplit) { 1 } else { pieces.len() };
            let some: Vec<Piece> = pieces.drain(..n).collect();
            newest = self.append(&some, &mut room);
            if !pieces.is_empty() {
                array.0.journal.durable(newest).await?;
            }
        }
        drop((room, guards));
        drop(self);
        array.wake_destage();

        // 4. Acknowledge.
        if array.0.options.ack == Ack::Durable {
            array.0.journal.durable(newest).await?;
        }
        Ok(())
    }

    /// What it would hold with these blocks, too.
    fn size_with(&self, first: u64, last: u64) -> TransactionSize {
        let per = self.array.0.geometry.get().stripe_blocks();
        let before = |b: u64| self.blocks.contains_key(&b);
        let after = |b: u64| (first..=last).contains(&b) || before(b);
        // A run begins at a block without one before it in its stripe.
        let begins = |has: &dyn Fn(u64) -> bool| {
            let near = first..=last + 1;
            near.filter(|b| has(*b) && (b % per == 0 || !has(b - 1))).count() as u64
        };
        let is_new = |s: &u64| self.blocks.range(s * per..(s + 1) * per).next().is_none();
        TransactionSize {
            blocks: self.size.blocks + (first..=last).filter(|b| !before(*b)).count() as u64,
            runs: self.size.runs + begins(&after) - begins(&before),
            stripes: self.size.stripes + (first / per..=last / per).filter(is_new).count() as u64,
        }
    }

    /// The runs, ascending.
    fn pieces(&self) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::with_capacity(self.size.runs as usize);
        for b in self.blocks.keys() {
            let (stripe, block) = self.array.0.geometry.get().stripe_of(*b);
            match pieces.last_mut() {
                Some(p) if p.stripe == stripe && p.first + p.count == block => p.count += 1,
                _ => pieces.push(Piece { stripe, first: block, count: 1, from: 0 }),
            }
        }
        assert_eq!(pieces.len() as u64, self.size.runs, "runs are counted as they are made");
        pieces
    }

    /// Room that the records of these pieces take at most.
    fn need(&self, pieces: &[Piece]) -> Need {
        let bytes = |p: &Piece| record_bytes(write_record_bytes(p.count), p.count as usize);
        let rows = self.array.transaction_bound().rows_of(&self.size);
        let split = if broken(Sabotage::TransactionSplit) { 3 * self.size.runs } else { 0 };
        Need {
            places: self.size.blocks as usize,
            ring_bytes: pieces.iter().map(bytes).sum(),
            rows: rows + split,
        }
    }

    /// Reads the rest of the blocks that were written in part, under the locks of all stripes:
    /// who holds none waits until nobody else merges what it writes.
    async fn complete(
        &mut self,
        pieces: &[Piece],
    ) -> Result<(Vec<StripeGuard>, Option<BlockGuard>), RequestError> {
        let Array(inner) = &self.array;
        let g = &inner.geometry.get();
        let parts: Vec<u64> =
            self.blocks.iter().filter(|(_, own)| !own.is_whole()).map(|(b, _)| *b).collect();
        if parts.is_empty() {
            let block = |p: &Piece| p.stripe.0 * g.stripe_blocks() + u64::from(p.first);
            let ranges: Vec<(u64, u64)> =
                pieces.iter().map(|p| (block(p), u64::from(p.count))).collect();
            inner.locks.unmerged(&ranges).await;
            return Ok((Vec::new(), None));
        }
        let mut guards: Vec<StripeGuard> = Vec::with_capacity(self.size.stripes as usize);
        for p in pieces {
            if guards.last().is_none_or(|g| g.stripe() != p.stripe) {
                guards.push(inner.locks.stripe(p.stripe).await);
            }
        }
        let merging = inner.locks.merge(parts.clone());
        for some in parts.chunks(READS_AT_ONCE) {
            let reads = some.iter().map(|b| {
                let (stripe, block) = g.stripe_of(*b);
                self.array.read_block_locked(stripe, block)
            });
            for (b, old) in some.iter().zip(join_all(reads.collect()).await) {
                let old = old?;
                self.blocks.entry(*b).or_insert_with(Gathered::new).complete(old);
            }
        }
        Ok((guards, Some(merging)))
    }

    /// Copies these pieces into the ring and appends them as one request; the cache follows.
    /// Gives the newest LSN.
    fn append(
        &self,
        pieces: &[Piece],
        room: &mut evenkeel_journal::log::Room<W, crate::members::Members<W>>,
    ) -> Lsn {
        let array = &self.array;
        let per = array.0.geometry.get().stripe_blocks();
        let mut items: Vec<Item> = Vec::with_capacity(pieces.len());
        let mut places: Vec<Vec<(Place, u32)>> = Vec::with_capacity(pieces.len());
        for p in pieces {
            let first = p.stripe.0 * per + u64::from(p.first);
            let own = self.blocks.range(first..first + u64::from(p.count));
            let (item, filled) = array.fill(p, own.map(|(_, own)| &own.bytes[..]));
            let crcs: Vec<u32> = item.data.iter().map(|d| d.1).collect();
            places.push(filled.into_iter().zip(crcs).collect());
            items.push(item);
        }
        let first = array.0.journal.append(room, items);
        let mut charged: Option<Stripe> = None;
        for ((i, p), own) in (0..).zip(pieces).zip(places) {
            let lsn = Lsn(first.0 + i);
            for (block, (place, crc)) in (p.first..).zip(own) {
                array.dirty(p.stripe, block, DirtyBlock { lsn, data: Some(place), crc });
            }
            if charged != Some(p.stripe) {
                array.charge(p.stripe, room);
                charged = Some(p.stripe);
            }
        }
        Lsn(first.0 + pieces.len() as u64 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Level;

    #[test]
    fn parts_of_a_block_join_whatever_their_order() {
        let ranges = [(0, 10), (4090, 4096), (10, 20), (100, 200), (50, 60), (55, 120), (60, 4090)];
        let mut own = Gathered::new();
        let mut wanted = vec![None; BLOCK];
        for (i, (from, to)) in ranges.into_iter().enumerate() {
            own.write(from, &vec![i as u8 + 1; to - from]);
            wanted[from..to].fill(Some(i as u8 + 1));
            let covered = |b: &usize| own.written.iter().any(|(f, t)| (f..t).contains(&b));
            for (b, byte) in wanted.iter().enumerate() {
                assert_eq!(covered(&b), byte.is_some(), "byte {b} after write {i}");
                assert!(byte.is_none_or(|w| own.bytes[b] == w), "byte {b} after write {i}");
            }
            assert!(own.written.windows(2).all(|w| w[0].1 < w[1].0), "{:?}", own.written);
        }
        assert!(!own.is_whole(), "bytes 20 to 49 are missing");
        let mut old = Buf::new(BLOCK);
        old.fill(99);
        own.complete(old);
        assert!(own.is_whole());
        for (b, byte) in wanted.iter().enumerate() {
            assert_eq!(own.bytes[b], byte.unwrap_or(99), "byte {b}");
        }
    }

    #[test]
    fn the_bound_is_the_formula_and_fits_ring_and_log() {
        let mut plans = 0;
        for (k, m) in [(1, 1), (2, 1), (4, 2), (3, 3), (10, 4)] {
            for chunk in [4096, 65536, 1 << 20] {
                for size in [32 << 20, 1 << 30, 40 << 30] {
                    let plan = Geometry::plan(Level::Rs, k, m, chunk, size, None, None, true);
                    let Ok(g) = plan else { continue };
                    plans += 1;
                    let bound = TransactionBound::of(&g);
                    assert_eq!(bound.blocks, 4096.min(g.cache_blocks / 4));
                    assert_eq!(bound.rows, g.log_rows / 4);
                    let one = TransactionSize { blocks: 1, runs: 1, stripes: 1 };
                    assert!(bound.allows(&one), "{g:?}");
                    // The formula of the page, and of the records' real bytes.
                    for blocks in [1, 7, 64, 4096] {
                        for runs in [1, 2, blocks].into_iter().filter(|r| *r <= blocks) {
                            let wanted = TransactionSize { blocks, runs, stripes: runs };
                            let meta = (36 * runs + 4 * blocks).div_ceil(4096);
                            let rows = 1 + (blocks + meta).div_ceil(k as u64);
                            let rows = rows + runs * g.place_rows();
                            assert_eq!(bound.rows_of(&wanted), rows);
                            let count = (blocks / runs) as u32;
                            let real = runs * write_record_bytes(count) as u64;
                            assert!(real <= 36 * runs + 4 * u64::from(count) * runs);
                        }
                    }
                    // The ring's record area is never what is short.
                    let most = bound.blocks as usize * record_bytes(write_record_bytes(1), 1);
                    let area = evenkeel_journal::ring::record_area_bytes(g.cache_blocks as usize);
                    assert!(most <= area / 4);
                }
            }
        }
        assert!(plans > 20, "{plans} shapes were possible");
    }

    #[test]
    fn default_sizes_allow_16_mib_wherever_they_lie() {
        for (k, m) in [(2, 1), (4, 2), (8, 2)] {
            let g = Geometry::plan(Level::Rs, k, m, 65536, 40 << 30, None, None, true);
            let bound = TransactionBound::of(&g.expect("it fits"));
            let scattered = TransactionSize { blocks: 4096, runs: 4096, stripes: 4096 };
            assert!(bound.allows(&scattered), "{bound:?}");
            let more = TransactionSize { blocks: 4097, runs: 1, stripes: 65 };
            assert!(!bound.allows(&more));
        }
    }
}
