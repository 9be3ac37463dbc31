//! ③ The disk log: one sequence of records, gathered into commits, written over the log's devices:
//! the members, or journal devices of its own.
//!
//! - [`Journal::reserve`] takes room for a request in one step: places, ring bytes, log rows.
//! - [`Journal::append`] gives the records their LSNs and puts them into the ring.
//! - `run_writer` is the one task that writes commits, a step at a time.
//! - [`Journal::durable`] waits until a record is stable.
//! - [`Journal::hold`] and [`Journal::release`] say which records the tail may not pass (I2).
//!
//! The order of a commit is readable in `writer.rs`: gather, flush the members if a Place is in
//! it (what it names lies there, wherever the log is), write the columns, move the ring's tail, flush if somebody waits, tell them.

mod room;
mod scrub;
mod writer;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use crate::commit::rows_at_most;
use crate::mem::{Segs, Slice};
use crate::record::{RECORD_HEAD, Record};
use crate::ring::{Ring, record_bytes};
use crate::sync::{Lock, Signal};
use crate::units::{BLOCK, CommitNumber, Lsn, MemberIndex};
use crate::world::World;

/// Rows that only commits without records may take: they are what moves the tail on when the log
/// is full, so they must always fit. Each such commit takes one row and is written only if it
/// gives back at least two.
pub const SPARE_ROWS: u64 = 8;
/// Rows that only marks of lost blocks may take: they have no home but the log, and have to move
/// on when it is full. All of them together take one commit of at most as many rows.
pub const LOST_ROWS: u64 = 2;
/// After this time of idleness an empty commit makes the last one known as durable.
pub const IDLE: Duration = Duration::from_millis(100);

/// The array can no longer take writes: more members are gone than it tolerates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Halted;

/// Members and log devices, as the log sees them. Implemented by the array.
pub trait LogDevices: Clone + 'static {
    /// The active devices of the log, ascending.
    fn live(&self) -> Vec<MemberIndex>;
    /// Number of the epoch in force.
    fn epoch(&self) -> u64;
    /// Writes to a device of the log. `Ok(false)`: it is gone, and its failure is durable (I3).
    fn write(
        &self,
        member: MemberIndex,
        at: u64,
        segs: Segs,
    ) -> impl Future<Output = Result<bool, Halted>> + 'static;
    /// Makes all completed writes to all active devices of the log stable (I5).
    fn flush(&self) -> impl Future<Output = Result<(), Halted>> + 'static;
    /// Makes all completed writes to all active members stable: the chunks that a Place names.
    /// Where the log is on the members, [`LogDevices::flush`] does it, too.
    fn flush_members(&self) -> impl Future<Output = Result<(), Halted>> + 'static;
    /// Parity blocks of some data blocks, by the array's code (shortened where fewer).
    fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]);
}

/// Where the log lies and what its commits look like.
#[derive(Clone, Copy, Debug)]
pub struct LogGeometry {
    /// UUID of the array.
    pub array: u128,
    /// Byte at which the log area of every device begins.
    pub offset: u64,
    /// Rows (blocks on every device) of the log area.
    pub rows: u64,
    /// Data columns of a commit at most.
    pub data: usize,
    /// Parity columns of a commit when no device of the log is gone: so many may be lost.
    pub parity: usize,
    /// Devices of the log, those that are gone included.
    pub members: usize,
    /// Rows that the Place of one stripe takes at most.
    pub place_rows: u64,
    /// The log's devices hold nothing else, so flushing them flushes no member.
    pub apart: bool,
}

/// Each start may leave out as many numbers of records as the log that it found had beyond its end: so
/// many logs full of them are believed.
const GAPS: u64 = 64;

impl LogGeometry {
    /// How far the newest LSN may lie above the oldest that is needed: what is held is counted for
    /// each of them, so more, which somebody must have made up, would take any memory.
    #[must_use]
    pub fn most_lsns(&self) -> u64 {
        GAPS * self.rows * self.members as u64 * (BLOCK / RECORD_HEAD) as u64
    }
}

/// Where the log goes on: found by replay, or fresh.
#[derive(Clone, Debug)]
pub struct LogStart {
    /// Identity of this run.
    pub incarnation: u64,
    /// First number that may be used.
    pub number: CommitNumber,
    /// The last commit kept.
    pub prev: CommitNumber,
    /// Its CRC.
    pub prev_crc: u32,
    /// First row that may be used.
    pub row: u64,
    /// First LSN that may be used for new records.
    pub lsn: Lsn,
    /// The commits kept: number, row, rows, newest LSN; oldest first.
    pub kept: Vec<(CommitNumber, u64, u64, Lsn)>,
    /// First LSN that the log still holds.
    pub first_lsn: Lsn,
}

/// What a request needs before it may take locks.
#[derive(Clone, Copy, Default, Debug)]
pub struct Need {
    /// Blocks of the cache.
    pub places: usize,
    /// Bytes of the ring's record area.
    pub ring_bytes: usize,
    /// Rows of the log.
    pub rows: u64,
}

/// A record on its way in: its data blocks with their CRCs, and the places that hold them.
pub struct Item {
    /// What it says.
    pub record: Record,
    /// Its data blocks and their CRC32C.
    pub data: Vec<(Slice, u32)>,
    /// The places of the data; none for a Parity, whose data is not needed after a process died.
    pub places: Vec<u32>,
}

impl Item {
    /// A record without data.
    #[must_use]
    pub fn bare(record: Record) -> Item {
        Item { record, data: Vec::new(), places: Vec::new() }
    }
}

/// What becomes free when a record is durable.
pub enum Release {
    /// One hold on this record.
    Hold(Lsn),
    /// Something of the array's.
    Run(Box<dyn FnOnce()>),
}

struct Pending {
    meta: Vec<u8>,
    data: Vec<(Slice, u32)>,
    lsn: Lsn,
    ring_end: u64,
    /// Rows that the request reserved, on its last record; 0 on the others.
    rows: u64,
    last_of_request: bool,
    is_place: bool,
}

struct CommitInfo {
    number: CommitNumber,
    row_total: u64,
    lsn_last: Lsn,
    tail_total: u64,
}

struct State {
    incarnation: u64,
    next_lsn: Lsn,
    appended: Lsn,
    written: Lsn,
    durable: Lsn,
    next_number: CommitNumber,
    last: CommitNumber,
    last_crc: u32,
    last_with_records: CommitNumber,
    durable_number: CommitNumber,
    known_durable: CommitNumber,
    /// Rows are counted on without end; the place in the area is the rest by its size.
    head_total: u64,
    space_tail: u64,
    /// Rows before this one are not needed any more by any start: a durable commit says so. The
    /// space is free up to here, unless somebody reads there.
    announced_tail: u64,
    /// Somebody reads the commit at this row.
    pinned: Option<u64>,
    /// The commits between `space_tail` and the head: number and row.
    placed: VecDeque<(CommitNumber, u64)>,
    reserved_rows: u64,
    charged_rows: u64,
    commits: VecDeque<CommitInfo>,
    live: VecDeque<u32>,
    live_base: Lsn,
    pending: VecDeque<Pending>,
    /// What could not be written when the array halted: the ring's tail still covers it, so its
    /// places must stay as they are.
    stranded: Vec<Pending>,
    on_durable: VecDeque<(Lsn, Release)>,
    want_durable: Lsn,
    /// At or before the oldest record that somebody waits for.
    want_first: Lsn,
    want_empty: bool,
    /// The tail is to be durable although nobody waits for a record.
    flush_tail: bool,
    room_waiters: usize,
    reserved_places: usize,
    reserved_ring: usize,
    halted: bool,
    stopped: bool,
    activity: u64,
}

struct Inner<W: World, D: LogDevices> {
    world: W,
    devices: D,
    geometry: LogGeometry,
    ring: Ring<W::Ring>,
    state: RefCell<State>,
    work: Signal,
    progress: Signal,
    room: Signal,
    pressure: Signal,
    door: Lock,
    idle: Signal,
    writer_gone: Cell<bool>,
}

/// The journal of a running array. Clones share it.
pub struct Journal<W: World, D: LogDevices>(Rc<Inner<W, D>>);

impl<W: World, D: LogDevices> Clone for Journal<W, D> {
    fn clone(&self) -> Self {
        Journal(Rc::clone(&self.0))
    }
}

/// Room that was reserved; what is not used goes back when it is dropped.
pub struct Room<W: World, D: LogDevices> {
    journal: Journal<W, D>,
    left: Need,
}

impl<W: World, D: LogDevices> Room<W, D> {
    /// What is left of it.
    #[must_use]
    pub fn left(&self) -> Need {
        self.left
    }

    /// Adds another's room to this one, for records that belong together.
    pub fn join(&mut self, mut other: Room<W, D>) {
        let more = std::mem::take(&mut other.left);
        self.left.places += more.places;
        self.left.ring_bytes += more.ring_bytes;
        self.left.rows += more.rows;
    }
}

impl<W: World, D: LogDevices> Drop for Room<W, D> {
    fn drop(&mut self) {
        let mut s = self.journal.0.state.borrow_mut();
        s.reserved_places -= self.left.places;
        s.reserved_ring -= self.left.ring_bytes;
        s.reserved_rows -= self.left.rows;
        drop(s);
        self.journal.0.room.notify();
    }
}

impl<W: World, D: LogDevices> Journal<W, D> {
    /// A journal that goes on from `start`, with an empty ring.
    pub fn new(
        world: &W,
        devices: &D,
        geometry: LogGeometry,
        ring: Ring<W::Ring>,
        start: &LogStart,
    ) -> Journal<W, D> {
        let rows = geometry.rows;
        let head_total = start.row + 2 * rows;
        let mut commits = VecDeque::new();
        let mut oldest = head_total;
        for (number, row, _, lsn_last) in &start.kept {
            let back = (start.row + rows - row) % rows;
            let row_total = head_total - if back == 0 { rows } else { back };
            oldest = oldest.min(row_total);
            commits.push_back(CommitInfo {
                number: *number,
                row_total,
                lsn_last: *lsn_last,
                tail_total: 0,
            });
        }
        for c in &mut commits {
            c.tail_total = oldest;
        }
        let placed = commits.iter().map(|c| (c.number, c.row_total)).collect();
        let last_lsn = Lsn(start.lsn.0 - 1);
        let live = (start.first_lsn.0..start.lsn.0).map(|_| 0).collect();
        let state = State {
            incarnation: start.incarnation,
            next_lsn: start.lsn,
            appended: last_lsn,
            written: last_lsn,
            durable: last_lsn,
            next_number: start.number,
            last: start.prev,
            last_crc: start.prev_crc,
            last_with_records: start.prev,
            durable_number: start.prev,
            known_durable: start.prev,
            head_total,
            space_tail: oldest,
            announced_tail: oldest,
            pinned: None,
            placed,
            reserved_rows: 0,
            charged_rows: 0,
            commits,
            live,
            live_base: start.first_lsn,
            pending: VecDeque::new(),
            stranded: Vec::new(),
            on_durable: VecDeque::new(),
            want_durable: Lsn(0),
            want_first: Lsn(0),
            want_empty: false,
            flush_tail: false,
            room_waiters: 0,
            reserved_places: 0,
            reserved_ring: 0,
            halted: false,
            stopped: false,
            activity: 0,
        };
        Journal(Rc::new(Inner {
            world: world.clone(),
            devices: devices.clone(),
            geometry,
            ring,
            state: RefCell::new(state),
            work: Signal::new(),
            progress: Signal::new(),
            room: Signal::new(),
            pressure: Signal::new(),
            door: Lock::new(),
            idle: Signal::new(),
            writer_gone: Cell::new(false),
        }))
    }

    // ---- what the array asks ----

    /// The ring's memory and places.
    #[must_use]
    pub fn ring(&self) -> &Ring<W::Ring> {
        &self.0.ring
    }

    /// Newest LSN given out.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.0.state.borrow().appended
    }

    /// The newest record in a commit that was written, flushed or not.
    #[must_use]
    pub fn written_lsn(&self) -> Lsn {
        self.0.state.borrow().written
    }

    /// The LSN that the next record gets.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.0.state.borrow().next_lsn
    }

    /// The number that the next commit gets.
    #[must_use]
    pub fn next_number(&self) -> CommitNumber {
        self.0.state.borrow().next_number
    }

    /// Whether writes can no longer be taken.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.0.state.borrow().halted
    }

    /// Identity of this run.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.0.state.borrow().incarnation
    }

    /// Rows between tail and head, and rows in all.
    #[must_use]
    pub fn used_rows(&self) -> (u64, u64) {
        let s = self.0.state.borrow();
        (s.head_total - s.space_tail, self.0.geometry.rows)
    }

    /// Blocks of the cache in use.
    #[must_use]
    pub fn used_places(&self) -> usize {
        self.0.ring.places() - self.0.ring.free_places()
    }

    /// Whether somebody waits for room.
    #[must_use]
    pub fn room_is_wanted(&self) -> bool {
        self.0.state.borrow().room_waiters > 0
    }

    /// Notified when room is wanted.
    #[must_use]
    pub fn pressure(&self) -> &Signal {
        &self.0.pressure
    }

    /// First LSN that the tail has not passed.
    #[must_use]
    pub fn tail_lsn(&self) -> Lsn {
        self.0.state.borrow().live_base
    }

    /// Newest LSN of the commits in the oldest `part` of the used rows: what must be released for
    /// the tail to pass them.
    #[must_use]
    pub fn oldest(&self, rows: u64) -> Lsn {
        let s = self.0.state.borrow();
        let Some(first) = s.commits.front() else {
            return Lsn(0);
        };
        let end = first.row_total + rows;
        s.commits.iter().take_while(|c| c.row_total <= end).last().map_or(Lsn(0), |c| c.lsn_last)
    }

    // ---- append ----

    /// Appends the records of one request: LSNs in order, one move of the ring's head. Gives the
    /// first LSN. All of it happens at once; nothing else runs in between.
    pub fn append(&self, room: &mut Room<W, D>, items: Vec<Item>) -> Lsn {
        let mut s = self.0.state.borrow_mut();
        let first = s.next_lsn;
        let mut encoded = Vec::with_capacity(items.len());
        let (mut blocks, mut meta_bytes, mut ring_bytes, mut places) = (0, 0, 0, 0);
        for (lsn, item) in (first.0..).zip(&items) {
            let mut meta = Vec::with_capacity(item.record.encoded_len());
            item.record.encode(Lsn(lsn), &mut meta);
            assert_eq!(item.record.data_blocks(), item.data.len());
            blocks += item.data.len();
            meta_bytes += meta.len();
            ring_bytes += record_bytes(meta.len(), item.places.len());
            places += item.places.len();
            encoded.push((meta, item.places.clone()));
        }
        let rows = rows_at_most(blocks, meta_bytes, self.0.geometry.data);
        assert!(room.left.rows >= rows, "the request reserved its rows: {:?} {rows}", room.left);
        assert!(room.left.ring_bytes >= ring_bytes && room.left.places >= places);
        room.left.rows -= rows;
        room.left.ring_bytes -= ring_bytes;
        room.left.places -= places;
        s.reserved_ring -= ring_bytes;
        s.reserved_places -= places;
        let ends = self.0.ring.append(&encoded);
        let n = items.len();
        for (i, ((item, (meta, _)), ring_end)) in
            items.into_iter().zip(encoded).zip(ends).enumerate()
        {
            let last = i + 1 == n;
            s.pending.push_back(Pending {
                meta,
                data: item.data,
                lsn: Lsn(first.0 + i as u64),
                ring_end,
                rows: if last { rows } else { 0 },
                last_of_request: last,
                is_place: matches!(item.record, Record::Place { .. }),
            });
            s.live.push_back(0);
        }
        s.next_lsn = Lsn(first.0 + n as u64);
        s.appended = Lsn(first.0 + n as u64 - 1);
        s.activity += 1;
        drop(s);
        self.0.work.notify();
        first
    }

    /// Takes over a record of an earlier ring with the LSN it had. Its rows come out of the log's
    /// free space: they were reserved when it was first appended.
    pub fn adopt(&self, lsn: Lsn, record: &Record, data: Vec<(Slice, u32)>, last: bool) {
        let mut s = self.0.state.borrow_mut();
        assert!(lsn >= s.next_lsn);
        while s.next_lsn < lsn {
            s.live.push_back(0);
            s.next_lsn = s.next_lsn.next();
        }
        let mut meta = Vec::new();
        record.encode(lsn, &mut meta);
        let rows = rows_at_most(data.len(), meta.len(), self.0.geometry.data);
        s.reserved_rows += rows;
        s.pending.push_back(Pending {
            meta,
            data,
            lsn,
            ring_end: 0,
            rows,
            last_of_request: last,
            is_place: false,
        });
        s.live.push_back(0);
        s.next_lsn = lsn.next();
        s.appended = lsn;
        drop(s);
        self.0.work.notify();
    }

    /// Leaves out the LSNs before `lsn`: records with them were dropped.
    pub fn skip_to(&self, lsn: Lsn) {
        let mut s = self.0.state.borrow_mut();
        while s.next_lsn < lsn {
            s.live.push_back(0);
            s.next_lsn = s.next_lsn.next();
        }
    }

    // ---- holds and the tail ----

    /// The tail does not pass this record until it is released as often as it was held.
    pub fn hold(&self, lsn: Lsn) {
        let mut s = self.0.state.borrow_mut();
        assert!(lsn >= s.live_base, "I2: the tail passed record {lsn} that is still needed");
        let i = (lsn.0 - s.live_base.0) as usize;
        s.live[i] += 1;
    }

    /// Ends one hold.
    pub fn release(&self, lsn: Lsn) {
        {
            let mut s = self.0.state.borrow_mut();
            assert!(lsn >= s.live_base, "I2: record {lsn} was released before");
            let i = (lsn.0 - s.live_base.0) as usize;
            assert!(s.live[i] > 0, "I2: record {lsn} was not held");
            s.live[i] -= 1;
            Self::advance_tail(&mut s);
        }
        if self.room_is_wanted() {
            self.0.work.notify();
        }
    }

    /// Has something done when record `lsn` is durable: now, if it is.
    pub fn when_durable(&self, lsn: Lsn, release: Release) {
        if self.0.state.borrow().durable >= lsn {
            return self.let_go(release);
        }
        let mut s = self.0.state.borrow_mut();
        assert!(s.on_durable.back().is_none_or(|(l, _)| *l <= lsn));
        s.on_durable.push_back((lsn, release));
    }

    fn let_go(&self, release: Release) {
        match release {
            Release::Hold(lsn) => self.release(lsn),
            Release::Run(f) => f(),
        }
    }

    fn advance_tail(s: &mut State) {
        while s.live_base <= s.durable && s.live.front() == Some(&0) {
            s.live.pop_front();
            s.live_base = s.live_base.next();
        }
        while s
            .commits
            .front()
            .is_some_and(|c| c.number <= s.durable_number && c.lsn_last < s.live_base)
        {
            s.commits.pop_front();
        }
    }

    /// Has a commit without records written if that gives back more rows than it takes.
    pub fn move_tail(&self) {
        let mut s = self.0.state.borrow_mut();
        let tail = s.commits.front().map_or(s.head_total, |c| c.row_total);
        if tail >= s.announced_tail + 2 && s.pending.is_empty() {
            s.want_empty = true;
            s.flush_tail = true;
            drop(s);
            self.0.work.notify();
        }
    }

    // ---- waiting ----

    /// Waits until everything up to `lsn` is stable.
    pub async fn durable(&self, lsn: Lsn) -> Result<(), Halted> {
        loop {
            {
                let mut s = self.0.state.borrow_mut();
                if s.durable >= lsn {
                    return Ok(());
                }
                if s.halted || self.0.writer_gone.get() {
                    return Err(Halted);
                }
                let outstanding = s.want_durable > s.durable;
                s.want_first = if outstanding { s.want_first.min(lsn) } else { lsn };
                s.want_durable = s.want_durable.max(lsn);
            }
            let moved = self.0.progress.wait();
            self.0.work.notify();
            moved.await;
        }
    }

    /// Writes a commit without records, which says where the tail is now, and makes it durable.
    /// Without a row to spare nothing is done.
    pub async fn announce_tail(&self) -> Result<(), Halted> {
        let before = {
            let mut s = self.0.state.borrow_mut();
            if self.free_rows(&s) == 0 {
                return Ok(());
            }
            (s.want_empty, s.flush_tail) = (true, true);
            s.next_number
        };
        self.written_and_durable(before).await
    }

    /// Waits until a commit of this number or a higher one is durable.
    async fn written_and_durable(&self, number: CommitNumber) -> Result<(), Halted> {
        loop {
            {
                let mut s = self.0.state.borrow_mut();
                if s.halted || self.0.writer_gone.get() {
                    return Err(Halted);
                }
                if s.last >= number && s.durable_number >= number {
                    return Ok(());
                }
                s.flush_tail = true;
            }
            let moved = self.0.progress.wait();
            self.0.work.notify();
            moved.await;
        }
    }

    /// Empties the log: writes a commit whose tail is itself, and makes it durable. Everything
    /// must be released before.
    pub async fn close(&self) -> Result<(), Halted> {
        let before = self.0.state.borrow().next_number;
        {
            let mut s = self.0.state.borrow_mut();
            (s.want_empty, s.flush_tail) = (true, true);
        }
        self.written_and_durable(before).await?;
        self.0.state.borrow_mut().stopped = true;
        self.0.work.notify();
        Ok(())
    }

    /// Ends the writer and everybody who waits, without writing anything more.
    pub fn halt(&self) {
        self.0.state.borrow_mut().halted = true;
        self.0.work.notify();
        self.0.room.notify();
        self.0.progress.notify();
        self.0.pressure.notify();
        self.0.idle.notify();
    }
}

enum Step {
    Wait,
    Stop,
    Flush,
    Commit,
}

struct Columns {
    number: CommitNumber,
    lsn_last: Lsn,
    durable: CommitNumber,
    writes: Vec<(MemberIndex, u64, Segs)>,
}
