//! A stand-in for the array that tests the tests: a store on one disk with a write-ahead log, so
//! simple that it is right by inspection, and variants of it with one flaw each that the crash
//! tests must notice.
//!
//! Layout of the disk in pages: 0 header (epoch), 1..=LOG log, then the content. A record is a
//! header page (epoch, number, range, checksum) and whole pages of content; one is written at a
//! time. The content in place is written only by a checkpoint: log flushed, dirty pages written,
//! flushed, epoch raised, flushed, log empty.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use evenkeel_journal::sync::Lock;
use evenkeel_journal::{Buf, Disk, DiskError, Slice, World};

use crate::rng::mix;
use crate::sim::{PAGE, SimDisk, SimWorld};
use crate::subject::{How, Setup, StartError, Subject};

const LOG: usize = 24;
const PAGES: usize = 32;
const HOME: usize = 1 + LOG;

/// None.
pub const SOUND: u8 = 0;
/// A write is acknowledged before it is in the log.
pub const ACK_EARLY: u8 = 1;
/// Nothing is flushed for a durable write or a FLUSH.
pub const NO_FLUSH: u8 = 2;
/// Records are taken without looking at their checksum.
pub const NO_CHECKSUM: u8 = 3;
/// Writes go in place, without a log.
pub const IN_PLACE: u8 = 4;
/// A write is logged page by page.
pub const SPLIT: u8 = 5;
/// A start does not open a new epoch, so old records come back.
pub const OLD_EPOCH: u8 = 6;
/// A checkpoint raises the epoch before the content is flushed.
pub const EARLY_EPOCH: u8 = 7;
/// A discard is forgotten at a restart.
pub const LAZY_DISCARD: u8 = 8;
/// A read gives what was there at the last checkpoint.
pub const STALE_READ: u8 = 9;

struct State {
    disk: SimDisk,
    world: SimWorld,
    content: RefCell<Vec<u8>>,
    placed: RefCell<Vec<u8>>,
    dirty: RefCell<BTreeSet<usize>>,
    epoch: Cell<u64>,
    number: Cell<u64>,
    head: Cell<usize>,
    durable: bool,
    lock: Lock,
}

/// The stand-in; `FLAW` says what is wrong with it.
#[derive(Clone)]
pub struct StandIn<const FLAW: u8>(Rc<State>);

/// The shape of a stand-in.
#[must_use]
pub fn setup() -> Setup {
    Setup {
        name: "standin",
        level: "none",
        data: 1,
        parity: 0,
        chunk: 4 * PAGE as u64,
        member: ((HOME + PAGES) * PAGE) as u64,
        log: (LOG * PAGE) as u64,
        cache: 0,
        journals: 0,
        journal: 0,
        checksums: false,
    }
}

fn text(e: DiskError) -> String {
    e.to_string()
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(1, |h, w| {
        let mut word = [0; 8];
        word[..w.len()].copy_from_slice(w);
        mix(h ^ u64::from_le_bytes(word))
    })
}

fn words(page: &mut [u8], values: &[u64]) {
    for (w, v) in page.chunks_exact_mut(8).zip(values) {
        w.copy_from_slice(&v.to_le_bytes());
    }
}

fn word(page: &[u8], i: usize) -> u64 {
    u64::from_le_bytes(page[i * 8..i * 8 + 8].try_into().expect("eight bytes"))
}

impl<const FLAW: u8> StandIn<FLAW> {
    async fn write_pages(&self, at: usize, bytes: &[u8]) -> Result<(), String> {
        let data = vec![Slice::copy_of(bytes)];
        self.0.disk.write((at * PAGE) as u64, data).await.map_err(text)
    }

    async fn flush_disk(&self) -> Result<(), String> {
        self.0.disk.flush().await.map_err(text)
    }

    async fn flush_request(&self) -> Result<(), String> {
        if FLAW == NO_FLUSH { Ok(()) } else { self.flush_disk().await }
    }

    async fn header(&self) -> Result<(), String> {
        let mut page = [0; PAGE];
        words(&mut page, &[0x57a_0d1e, self.0.epoch.get()]);
        self.write_pages(0, &page).await
    }

    async fn checkpoint(&self) -> Result<(), String> {
        let s = &self.0;
        self.flush_disk().await?;
        for page in s.dirty.take() {
            let bytes = s.content.borrow()[page * PAGE..][..PAGE].to_vec();
            self.write_pages(HOME + page, &bytes).await?;
        }
        *s.placed.borrow_mut() = s.content.borrow().clone();
        if FLAW != EARLY_EPOCH {
            self.flush_disk().await?;
        }
        if FLAW != OLD_EPOCH {
            s.epoch.set(s.epoch.get() + 1);
            self.header().await?;
            self.flush_disk().await?;
            s.number.set(0);
        }
        s.head.set(0);
        Ok(())
    }

    /// Logs pages and changes the content.
    async fn log(&self, page: usize, bytes: &[u8], zero: bool) -> Result<(), String> {
        let s = &self.0;
        let count = bytes.len() / PAGE;
        if FLAW == IN_PLACE {
            s.content.borrow_mut()[page * PAGE..][..bytes.len()].copy_from_slice(bytes);
            return self.write_pages(HOME + page, bytes).await;
        }
        if s.head.get() + 1 + count > LOG {
            self.checkpoint().await?;
        }
        if !(zero && FLAW == LAZY_DISCARD) {
            let mut record = vec![0; PAGE];
            record.extend_from_slice(bytes);
            let number = s.number.get();
            let sum = checksum(bytes);
            words(&mut record, &[0x1095, s.epoch.get(), number, page as u64, count as u64, sum]);
            let at = 1 + s.head.get();
            s.number.set(number + 1);
            s.head.set(s.head.get() + 1 + count);
            if FLAW == ACK_EARLY {
                let me = self.clone();
                s.world.spawn("late log", async move {
                    let _ = me.write_pages(at, &record).await;
                });
            } else {
                self.write_pages(at, &record).await?;
            }
        }
        s.content.borrow_mut()[page * PAGE..][..bytes.len()].copy_from_slice(bytes);
        s.dirty.borrow_mut().extend(page..page + count);
        Ok(())
    }

    async fn change(
        &self,
        at: u64,
        len: u64,
        data: Option<&[u8]>,
        fua: bool,
    ) -> Result<(), String> {
        let _held = self.0.lock.lock().await;
        let (at, len) = (at as usize, len as usize);
        let (first, end) = (at / PAGE, (at + len).div_ceil(PAGE));
        let mut bytes = self.0.content.borrow()[first * PAGE..end * PAGE].to_vec();
        let range = at - first * PAGE..at - first * PAGE + len;
        match data {
            Some(d) => bytes[range].copy_from_slice(d),
            None => bytes[range].fill(0),
        }
        let step = if FLAW == SPLIT { 1 } else { 8 };
        // What is larger than the log takes is not atomic; no test asks for that.
        for (i, part) in bytes.chunks(step * PAGE).enumerate() {
            self.log(first + i * step, part, data.is_none()).await?;
        }
        if self.0.durable || fua { self.flush_request().await } else { Ok(()) }
    }
}

impl<const FLAW: u8> Subject for StandIn<FLAW> {
    async fn create(_: &SimWorld, disks: &[SimDisk], _: &Setup) -> Result<(), String> {
        let mut page = [0; PAGE];
        words(&mut page, &[0x57a_0d1e, 1]);
        disks[0].write(0, vec![Slice::copy_of(&page)]).await.map_err(text)?;
        disks[0].flush().await.map_err(text)
    }

    async fn start(
        world: &SimWorld,
        disks: &[SimDisk],
        _: &Setup,
        how: How,
    ) -> Result<Self, StartError> {
        let disk = disks[0].clone();
        let (result, all) = disk.read(0, Buf::new((HOME + PAGES) * PAGE)).await;
        result.map_err(|e| StartError::Other(text(e)))?;
        let epoch = word(&all, 1);
        let mut content = all[HOME * PAGE..].to_vec();
        let mut dirty = BTreeSet::new();
        let (mut head, mut number) = (0, 0);
        while head < LOG {
            let record = &all[(1 + head) * PAGE..HOME * PAGE];
            let (page, count) = (word(record, 3) as usize, word(record, 4) as usize);
            if word(record, 0) != 0x1095
                || word(record, 1) != epoch
                || (word(record, 2) != number && FLAW != OLD_EPOCH)
                || head + 1 + count > LOG
            {
                break;
            }
            let bytes = &record[PAGE..(1 + count) * PAGE];
            if FLAW != NO_CHECKSUM && checksum(bytes) != word(record, 5) {
                break;
            }
            content[page * PAGE..][..bytes.len()].copy_from_slice(bytes);
            dirty.extend(page..page + count);
            (head, number) = (head + 1 + count, number + 1);
        }
        let me = StandIn::<FLAW>(Rc::new(State {
            disk,
            world: world.clone(),
            placed: RefCell::new(content.clone()),
            content: RefCell::new(content),
            dirty: RefCell::new(dirty),
            epoch: Cell::new(epoch),
            number: Cell::new(number),
            head: Cell::new(head),
            durable: how.durable,
            lock: Lock::new(),
        }));
        if !how.read_only {
            me.checkpoint().await.map_err(StartError::Other)?;
        }
        Ok(me)
    }

    fn size(&self) -> u64 {
        (PAGES * PAGE) as u64
    }

    fn largest(&self) -> u64 {
        8 * PAGE as u64
    }

    async fn read(&self, at: u64, len: u64) -> Result<Vec<u8>, String> {
        let content = if FLAW == STALE_READ { &self.0.placed } else { &self.0.content };
        Ok(content.borrow()[at as usize..(at + len) as usize].to_vec())
    }

    async fn write(&self, at: u64, data: Rc<[u8]>, fua: bool) -> Result<(), String> {
        self.change(at, data.len() as u64, Some(&data), fua).await
    }

    async fn flush(&self) -> Result<(), String> {
        self.flush_request().await
    }

    async fn discard(&self, at: u64, len: u64, fua: bool) -> Result<(), String> {
        self.change(at, len, None, fua).await
    }

    async fn destage(&self) -> Result<(), String> {
        let _held = self.0.lock.lock().await;
        self.checkpoint().await
    }

    async fn fail_member(&self, _: usize) -> Result<(), String> {
        Err("there is one disk".to_owned())
    }

    async fn stop(&self) -> Result<(), String> {
        let _held = self.0.lock.lock().await;
        self.checkpoint().await
    }
}
