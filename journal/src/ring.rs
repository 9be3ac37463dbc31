//! The ring: the journal's front in memory that survives the process, and the write-back cache.
//!
//! Layout (format.md §4): a header block, the record area (a ring of records), the places (4 KiB
//! each). A dirty block *is* a place; log I/O is issued from it. What must hold:
//! - a place does not change between append and release: a [`Place`] is freed by its last clone;
//! - the head moves by one release store per request, after all of the request's records, so that
//!   death at any instruction leaves whole requests;
//! - the tail moves once the records before it are written to the disk log.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::bytes::{crc_without, get_u32, get_u64, get_u128, put_u32, put_u64, put_u128};
use crate::mem::Slice;
use crate::record::Record;
use crate::sabotage::{Sabotage, broken};
use crate::units::{BLOCK, Lsn, NUMBERS_END};
use crate::world::RingMem;

/// First bytes of a ring.
pub const RING_MAGIC: [u8; 8] = *b"EVKRING1";
/// Version of the ring's layout.
pub const RING_VERSION: u32 = 1;
/// Where the head lies.
pub const AT_HEAD: usize = 512;
/// Where the tail lies.
pub const AT_TAIL: usize = 576;
/// Bytes before a ring record's metadata.
pub const RING_RECORD_HEAD: usize = 24;
/// Flag of a ring record: the last one of its request.
pub const RING_LAST: u32 = 1;
const HEADER_FIELDS: usize = 128;
const AT_HEADER_CRC: usize = 12;

/// Bytes of the record area for that many places.
#[must_use]
pub fn record_area_bytes(places: usize) -> usize {
    (places * 64 + (256 << 10)).next_multiple_of(BLOCK)
}

/// Bytes of a ring with that many places.
#[must_use]
pub fn ring_bytes(places: usize) -> usize {
    BLOCK + record_area_bytes(places) + places * BLOCK
}

/// Bytes that a record takes in the record area.
#[must_use]
pub fn record_bytes(meta: usize, places: usize) -> usize {
    (RING_RECORD_HEAD + meta + places * 4).next_multiple_of(8)
}

struct Token {
    index: u32,
    free: Rc<RefCell<Vec<u32>>>,
    freed: Rc<Cell<u64>>,
}

impl Drop for Token {
    fn drop(&mut self) {
        self.free.borrow_mut().push(self.index);
        self.freed.set(self.freed.get() + 1);
    }
}

/// One block of the cache. The last clone frees it (I/O that runs from it holds one).
#[derive(Clone)]
pub struct Place {
    index: u32,
    bytes: Slice,
}

impl Place {
    /// The block.
    #[must_use]
    pub fn bytes(&self) -> &Slice {
        &self.bytes
    }
    /// Its number in the ring.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }
}

/// The ring of a running daemon.
pub struct Ring<R: RingMem> {
    mem: R,
    places: usize,
    free: Rc<RefCell<Vec<u32>>>,
    freed: Rc<Cell<u64>>,
    head: Cell<u64>,
    tail: Cell<u64>,
}

impl<R: RingMem> Ring<R> {
    /// Formats `mem` (zero bytes) as an empty ring.
    pub fn format(mem: R, array: u128, id: u128, incarnation: u64, places: usize) -> Ring<R> {
        assert!(mem.bytes() >= ring_bytes(places));
        let mut h = [0u8; HEADER_FIELDS];
        h[..8].copy_from_slice(&RING_MAGIC);
        put_u32(&mut h, 8, RING_VERSION);
        put_u128(&mut h, 16, array);
        put_u128(&mut h, 32, id);
        put_u64(&mut h, 48, incarnation);
        put_u64(&mut h, 56, BLOCK as u64);
        put_u64(&mut h, 64, record_area_bytes(places) as u64);
        put_u64(&mut h, 72, (BLOCK + record_area_bytes(places)) as u64);
        put_u64(&mut h, 80, places as u64);
        let crc = crc_without(&h, AT_HEADER_CRC);
        put_u32(&mut h, AT_HEADER_CRC, crc);
        mem.store(0, &h);
        mem.store_u64(AT_HEAD, 0);
        mem.store_u64(AT_TAIL, 0);
        let free = Rc::new(RefCell::new((0..places as u32).rev().collect()));
        let freed = Rc::new(Cell::new(0));
        Ring { mem, places, free, freed, head: Cell::new(0), tail: Cell::new(0) }
    }

    /// Places in all.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places
    }

    /// Places that are free now.
    #[must_use]
    pub fn free_places(&self) -> usize {
        self.free.borrow().len()
    }

    /// Bytes of the record area that are free now.
    #[must_use]
    pub fn free_record_bytes(&self) -> usize {
        record_area_bytes(self.places) - (self.head.get() - self.tail.get()) as usize
    }

    /// Copies a block into a free place, if there is one. `source` is 4 KiB.
    pub fn fill(&self, source: &[u8]) -> Option<Place> {
        assert_eq!(source.len(), BLOCK);
        let index = self.free.borrow_mut().pop()?;
        let at = BLOCK + record_area_bytes(self.places) + index as usize * BLOCK;
        self.mem.store(at, source);
        let token = Token { index, free: Rc::clone(&self.free), freed: Rc::clone(&self.freed) };
        let memory = self.mem.slice(at, BLOCK);
        let ptr =
            std::ptr::NonNull::new(memory.as_ptr().cast_mut()).expect("memory has an address");
        // SAFETY: the block is valid as long as `memory` lives, which is kept along with the
        // token; and it does not change while the token lives, since only `fill` stores to places
        // and only to free ones.
        let bytes = unsafe { Slice::lent(ptr, BLOCK, Rc::new((token, memory))) };
        Some(Place { index, bytes })
    }

    fn store_wrapping(&self, position: u64, bytes: &[u8]) {
        let area = record_area_bytes(self.places);
        let at = (position % area as u64) as usize;
        let first = bytes.len().min(area - at);
        self.mem.store(BLOCK + at, &bytes[..first]);
        if first < bytes.len() {
            self.mem.store(BLOCK, &bytes[first..]);
        }
    }

    /// Stores the records of one request, then moves the head over all of them. Each is its
    /// metadata and its places. Gives the position after each record.
    ///
    /// The caller reserved the room.
    pub fn append(&self, records: &[(Vec<u8>, Vec<u32>)]) -> Vec<u64> {
        let mut position = self.head.get();
        let mut ends = Vec::with_capacity(records.len());
        let mut b = Vec::new();
        for (i, (meta, places)) in records.iter().enumerate() {
            let bytes = record_bytes(meta.len(), places.len());
            b.clear();
            b.resize(RING_RECORD_HEAD, 0);
            b.extend_from_slice(meta);
            places.iter().for_each(|p| b.extend_from_slice(&p.to_le_bytes()));
            b.resize(bytes, 0);
            put_u32(&mut b, 0, bytes as u32);
            put_u32(&mut b, 8, places.len() as u32);
            put_u32(&mut b, 12, meta.len() as u32);
            put_u32(&mut b, 16, if i + 1 == records.len() { RING_LAST } else { 0 });
            let crc = crc_without(&b, 4);
            put_u32(&mut b, 4, crc);
            assert!(
                position + bytes as u64 - self.tail.get() <= record_area_bytes(self.places) as u64
            );
            if broken(Sabotage::HeadBeforeRecords) {
                self.mem.store_u64(AT_HEAD, position + bytes as u64);
            }
            self.store_wrapping(position, &b);
            position += bytes as u64;
            ends.push(position);
        }
        self.mem.store_u64(AT_HEAD, position);
        self.head.set(position);
        ends
    }

    /// Forgets the records before `position`: they are written to the disk log.
    pub fn advance_tail(&self, position: u64) {
        assert!(position >= self.tail.get() && position <= self.head.get());
        self.mem.store_u64(AT_TAIL, position);
        self.tail.set(position);
    }
}

/// A record found in a ring, with the data of its places.
pub struct RingRecord {
    /// Its LSN.
    pub lsn: Lsn,
    /// What it says.
    pub record: Record,
    /// The data blocks of a Write; a Parity's are not in the ring.
    pub data: Vec<Slice>,
    /// Whether it is the last one of its request: a request's records stay in one commit (P3).
    pub last: bool,
}

/// What an earlier daemon left.
pub struct RingContents {
    /// Which run of the daemon it belonged to.
    pub incarnation: u64,
    /// The records between tail and head, oldest first.
    pub records: Vec<RingRecord>,
}

/// Reads a ring that an earlier daemon left. `Err` says in words what is wrong with it.
pub fn read_ring<R: RingMem>(mem: &R, array: u128, id: u128) -> Result<RingContents, String> {
    if mem.bytes() < 2 * BLOCK {
        return Err("the ring is shorter than its header".into());
    }
    let h = mem.slice(0, HEADER_FIELDS);
    if h[..8] != RING_MAGIC || get_u32(&h, AT_HEADER_CRC) != crc_without(&h, AT_HEADER_CRC) {
        return Err("the ring's header is damaged".into());
    }
    if get_u32(&h, 8) != RING_VERSION {
        return Err(format!("the ring has version {}, this is {RING_VERSION}", get_u32(&h, 8)));
    }
    if get_u128(&h, 16) != array || get_u128(&h, 32) != id {
        return Err("the ring belongs to another array".into());
    }
    let places = get_u64(&h, 80) as usize;
    let area = get_u64(&h, 64) as usize;
    if places > 1 << 40 || area != record_area_bytes(places) || mem.bytes() < ring_bytes(places) {
        return Err("the ring's sizes do not fit together".into());
    }
    let (tail, head) = (mem.load_u64(AT_TAIL), mem.load_u64(AT_HEAD));
    if tail > head || head - tail > area as u64 {
        return Err("the ring's head and tail do not fit together".into());
    }
    let damaged = |at: u64| format!("the ring's record at {at} is damaged");
    let mut records = Vec::new();
    let mut position = tail;
    while position < head {
        let at = (position % area as u64) as usize;
        let load = |at: usize, len: usize| -> Vec<u8> {
            let first = len.min(area - at);
            let mut b = mem.slice(BLOCK + at, first).to_vec();
            b.extend_from_slice(&mem.slice(BLOCK, len - first));
            b
        };
        let len = get_u32(&load(at, 8), 0) as usize;
        if len < RING_RECORD_HEAD || !len.is_multiple_of(8) || len as u64 > head - position {
            return Err(damaged(position));
        }
        let b = load(at, len);
        let (n, meta) = (get_u32(&b, 8) as usize, get_u32(&b, 12) as usize);
        if get_u32(&b, 4) != crc_without(&b, 4) || record_bytes(meta, n) != len {
            return Err(damaged(position));
        }
        let mut m = &b[RING_RECORD_HEAD..RING_RECORD_HEAD + meta];
        let Some((lsn, record)) = Record::decode(&mut m) else {
            return Err(damaged(position));
        };
        let mut data = Vec::new();
        for i in 0..n {
            let index = get_u32(&b, RING_RECORD_HEAD + meta + i * 4) as usize;
            if index >= places {
                return Err(damaged(position));
            }
            data.push(mem.slice(BLOCK + area + index * BLOCK, BLOCK));
        }
        if let Record::Write { crcs: Some(crcs), .. } = &record {
            let whole =
                crcs.len() == n && crcs.iter().zip(&data).all(|(c, d)| crc32c::crc32c(d) == *c);
            if !whole {
                return Err(format!("the data of the ring's record at {position} is damaged"));
            }
        }
        // A daemon gives out one number after the other.
        let before: Option<&RingRecord> = records.last();
        if lsn.0 >= NUMBERS_END || before.is_some_and(|b| b.lsn.next() != lsn) {
            return Err(damaged(position));
        }
        let last = get_u32(&b, 16) & RING_LAST != 0;
        records.push(RingRecord { lsn, record, data, last });
        position += len as u64;
    }
    Ok(RingContents { incarnation: get_u64(&h, 48), records })
}
