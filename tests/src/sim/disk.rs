//! A simulated member. This table is the fault model; whatever the array promises, it promises
//! under all of it at once.
//!
//! | fault                          | what the simulated disk does                                   | what is required of the array |
//! |--------------------------------|----------------------------------------------------------------|-------------------------------|
//! | reordering                     | operations in flight complete in a seeded order, 20 µs to 20 ms after their issue | no assumption on order without an await |
//! | volatile cache                 | a completed write is stable only when a flush has completed that was issued after the write completed | nothing promised rests on an unflushed write |
//! | power loss, `power:none`       | every completed, unflushed write is lost, those in flight too  | P1–P4 |
//! | power loss, `power:all`        | every write issued is kept, those in flight too                | P1–P4; nothing appears that was not submitted |
//! | power loss, `power:subset:S`   | by seed S: per disk all, none, or each write by itself         | P1–P4 |
//! | power loss, `power:torn:S`     | as subset, and each 512-byte sector of a write by itself       | P1–P4 |
//! | process death, `process:S`     | writes in flight by S: absent, whole or torn; completed ones stay in the disk's volatile cache; ring memory survives, a store cut short by S | P5, and then all of the above again |
//! | read during a write            | each sector old or new by seed                                 | no use of such bytes |
//! | bytes changed under a write    | noticed at completion, reported as a violation                 | ring places are immutable |
//! | discard                        | each page by seed: kept, zero or garbage; volatile like a write | a discarded slot is never trusted |
//! | disk gone, `Fault::Gone`       | from then on every operation fails with `Gone`; writes in flight fail and are absent, whole or torn | I3, I7: device goes on |
//! | disk failing, `Fault::Io`      | the same with `Io(5)`                                          | I7 |
//! | write errors, `Fault::Writes`  | writes and discards fail with `Io(5)`, absent, whole or torn; reads and flushes go on | I3, I7 |
//! | flush errors, `Fault::Flushes` | flushes fail with `Io(5)`; of what they would have covered a part is lost, at random, though reads give it | I5, I7: the member is failed, nothing rests on a second flush |
//! | full, `Fault::Full`            | writes fail with `Full`; reads and flushes go on               | I7 |
//! | slow disk                      | operations take up to 100 times as long                        | P1–P5; waits stay bounded |
//! | disk hung, `Fault::Hang`       | operations never complete                                      | bounded waits (I4) |
//! | reset, [`super::Reset`]        | operations in flight fail, writes among them are absent, whole or torn; of what was not flushed a part is lost; all fails until the disk is back, perhaps only for who opens it again; if no write and no flush failed till then, the next one does | I7: wait, write again, go on |
//! | other content after it         | the disk comes back as another image: older, a stranger's, shorter | not taken back (I7) |
//! | hung operations end late       | what hung is done after all, whenever a test says so           | nothing newer is written before |
//! | bad sectors                    | a page cannot be read, `Io(5)`, until it is written            | read from the others; EIO where they cannot give it, nothing else |
//! | one bad read                   | the next read of the disk fails with `Io(5)`                   | served from the others |
//! | member lost at the crash       | it is not among the disks of the next start                    | P1, P4, up to m of them |
//! | failed disk comes back         | with what it held when it failed                               | never read from (I3) |
//! | bit rot                        | bytes of medium and volatile cache change by themselves        | P7: noticed, given right, written again, counted for this disk |
//! | lost write                     | acknowledged and not done: the next of a page, or all for a while | P7; nothing stale is ever given |
//! | misdirected write              | done to another page of the disk; its own keeps what it had    | P7, for both pages |
//! | misdirected read               | the answer is another page, once                               | P7 |
//!
//! The last four are wrong without a word (`lies.rs`), on at most m members in a row; more is EIO for
//! the wrong blocks alone. Not simulated: a disk that lies about flush, or that loses its cache and
//! reports no error at all.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use evenkeel_journal::{Buf, Disk, DiskError, DiskFacts, Segs, Slice};

use super::change::Change;
use super::image::{Image, PAGE, Page, SECTOR, pages_of};
use super::lies::Lies;
use super::world::Sim;
use crate::rng::Rng;

/// What is wrong with a disk from some moment on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Every operation fails with [`DiskError::Gone`].
    Gone,
    /// Every operation fails with `Io(5)`.
    Io,
    /// No operation completes any more.
    Hang,
    /// Writes and discards fail with `Io(5)`; reads and flushes do not.
    Writes,
    /// Flushes fail with `Io(5)`, and a part of what they would have covered is lost.
    Flushes,
    /// Writes fail with `Full`.
    Full,
}

impl Fault {
    /// What an operation that begins or ends under this fault fails with.
    fn of(self, kind: &Kind) -> Option<DiskError> {
        let changes = matches!(kind, Kind::Write { .. } | Kind::Discard { .. });
        match self {
            Fault::Gone => Some(DiskError::Gone),
            Fault::Io => Some(DiskError::Io(5)),
            Fault::Writes if changes => Some(DiskError::Io(5)),
            Fault::Flushes if matches!(kind, Kind::Flush { .. }) => Some(DiskError::Io(5)),
            Fault::Full if matches!(kind, Kind::Write { .. }) => Some(DiskError::Full),
            _ => None,
        }
    }
}

/// A change under way, with its number.
type Landing = (u64, Rc<Change>);

/// Bytes and operations of a disk so far.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
}

/// What of a disk lives on after a crash.
#[derive(Clone)]
pub struct DiskImage {
    /// Its place in the order in which the array was created.
    pub id: usize,
    /// Its path.
    pub path: String,
    /// What is stable.
    medium: Image,
    /// Completed writes that no flush has covered, oldest first.
    volatile: Vec<Rc<Change>>,
    /// Writes in flight.
    inflight: Vec<Rc<Change>>,
}

/// The path of a simulated disk.
#[must_use]
pub fn path_of(id: usize) -> String {
    format!("/sim/disk{id}")
}

impl DiskImage {
    /// Makes it larger: so many bytes from now on.
    pub fn enlarge(&mut self, bytes: u64) {
        self.medium.enlarge(bytes);
    }

    /// An empty disk.
    #[must_use]
    pub fn empty(id: usize, bytes: u64) -> DiskImage {
        DiskImage {
            id,
            path: path_of(id),
            medium: Image::zeros(bytes),
            volatile: Vec::new(),
            inflight: Vec::new(),
        }
    }

    /// What a reader sees now.
    #[must_use]
    pub fn view(&self) -> Image {
        let mut view = self.medium.clone();
        self.volatile.iter().for_each(|c| c.apply(&mut view));
        view
    }

    /// Everything written is stable: a test's way to prepare a disk.
    #[must_use]
    pub fn settled(mut self) -> DiskImage {
        self.medium = self.view();
        self.volatile.clear();
        self.inflight.clear();
        self
    }

    /// Bytes change by themselves, wherever they are.
    pub fn corrupt(&mut self, at: u64, bytes: &[u8]) {
        self.medium.write(at, bytes);
        self.volatile.iter_mut().for_each(|c| Rc::make_mut(c).corrupt(at, bytes));
    }

    /// The stable content, to be damaged by a test.
    pub fn medium_mut(&mut self) -> &mut Image {
        &mut self.medium
    }

    /// A number that tells contents apart.
    #[must_use]
    pub fn digest(&self) -> u64 {
        crate::rng::hash(&[self.medium.digest(), self.view().digest(), self.volatile.len() as u64])
    }

    /// Power is cut.
    #[must_use]
    pub fn after_power_loss(&self, mode: super::Mode) -> DiskImage {
        let mut medium = self.medium.clone();
        let all = self.volatile.iter().chain(&self.inflight);
        match mode {
            super::Mode::PowerAll => all.for_each(|c| c.apply(&mut medium)),
            super::Mode::PowerSubset(seed) | super::Mode::PowerTorn(seed) => {
                let torn = matches!(mode, super::Mode::PowerTorn(_));
                let mut rng = Rng::new(crate::rng::hash(&[seed, self.id as u64]));
                // Some disks keep everything, some nothing, some the beginning; most a mixture.
                let style = rng.below(if torn { 12 } else { 6 });
                let count = self.volatile.len() + self.inflight.len();
                let beginning = rng.index(count + 1);
                for (i, c) in all.enumerate() {
                    match style {
                        0 => {}
                        1 => c.apply(&mut medium),
                        2 if i < beginning => c.apply(&mut medium),
                        2 => {}
                        _ if torn => c.apply_by_chance(&mut medium, &mut rng),
                        _ if rng.one_in(2) => c.apply(&mut medium),
                        _ => {}
                    }
                }
            }
            super::Mode::PowerNone | super::Mode::Process(_) => {}
        }
        DiskImage { medium, volatile: Vec::new(), inflight: Vec::new(), ..self.clone_head() }
    }

    /// The process is killed; what it had in flight ends before anybody else comes.
    #[must_use]
    pub fn after_process_death(&self, seed: u64) -> DiskImage {
        let mut rng = Rng::new(crate::rng::hash(&[seed, self.id as u64, 1]));
        let mut volatile = self.volatile.clone();
        if !self.inflight.is_empty() {
            let mut view = self.view();
            let mut order = self.inflight.clone();
            rng.shuffle(&mut order);
            for c in order {
                match rng.below(4) {
                    0 => {}
                    1 => {
                        c.apply_torn(&mut view, &mut rng);
                        volatile.push(Rc::new(c.difference(&view)));
                    }
                    _ => {
                        c.apply(&mut view);
                        volatile.push(c);
                    }
                }
            }
        }
        DiskImage {
            medium: self.medium.clone(),
            volatile,
            inflight: Vec::new(),
            ..self.clone_head()
        }
    }

    fn clone_head(&self) -> DiskImage {
        DiskImage {
            id: self.id,
            path: self.path.clone(),
            medium: Image::zeros(0),
            volatile: Vec::new(),
            inflight: Vec::new(),
        }
    }
}

/// A disk of a running world.
pub(super) struct DiskState {
    id: usize,
    path: String,
    bytes: u64,
    medium: Image,
    view: Image,
    volatile: Vec<(u64, Rc<Change>)>,
    inflight: Vec<(u64, Rc<Change>)>,
    next: u64,
    fault: Option<Fault>,
    /// How many times as long as those of other disks its operations take.
    slower: u64,
    /// Counts resets: what was issued before one fails.
    resets: u64,
    /// What it fails with.
    cut_off: DiskError,
    /// It was reset, and no write or flush has failed since: nobody can know yet.
    untold: bool,
    /// Handles of before have to be opened again.
    opened: u64,
    bad_reads: u32,
    /// Pages that cannot be read until they are written.
    bad_pages: BTreeSet<usize>,
    lies: Lies,
    counters: Counters,
    copy: Option<Rc<DiskImage>>,
}

impl DiskState {
    pub(super) fn new(from: &DiskImage) -> DiskState {
        let numbered = from.volatile.iter().enumerate().map(|(i, c)| (i as u64, Rc::clone(c)));
        DiskState {
            id: from.id,
            path: from.path.clone(),
            bytes: (from.medium.pages() * PAGE) as u64,
            view: from.view(),
            medium: from.medium.clone(),
            volatile: numbered.collect(),
            inflight: Vec::new(),
            next: from.volatile.len() as u64,
            fault: None,
            slower: 1,
            resets: 0,
            cut_off: DiskError::Gone,
            untold: false,
            opened: 0,
            bad_reads: 0,
            bad_pages: BTreeSet::new(),
            lies: Lies::default(),
            counters: Counters::default(),
            copy: None,
        }
    }

    /// What would be there if the world ended now.
    pub(super) fn image(&mut self) -> Rc<DiskImage> {
        let made = self.copy.get_or_insert_with(|| {
            Rc::new(DiskImage {
                id: self.id,
                path: self.path.clone(),
                medium: self.medium.clone(),
                volatile: self.volatile.iter().map(|(_, c)| Rc::clone(c)).collect(),
                inflight: self.inflight.iter().map(|(_, c)| Rc::clone(c)).collect(),
            })
        });
        Rc::clone(made)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// What is sent, and what will land.
    fn begin(&mut self, sent: Change) -> (Rc<Change>, Vec<Landing>) {
        self.copy = None;
        let really = self.lies.of_write(&sent, &self.view);
        let sent = Rc::new(sent);
        let all = match really {
            None => vec![Rc::clone(&sent)],
            Some(all) => all.into_iter().map(Rc::new).collect(),
        };
        let landing: Vec<Landing> = all.into_iter().map(|c| (self.number(), c)).collect();
        self.inflight.extend(landing.iter().cloned());
        (sent, landing)
    }

    /// Bytes change by themselves.
    pub(super) fn corrupt(&mut self, at: u64, bytes: &[u8]) {
        self.copy = None;
        self.medium.write(at, bytes);
        self.view.write(at, bytes);
        self.volatile.iter_mut().for_each(|(_, c)| Rc::make_mut(c).corrupt(at, bytes));
    }

    /// What a reader sees now.
    pub(super) fn peek(&self, at: u64, out: &mut [u8]) {
        self.view.read(at, out);
    }

    pub(super) fn lies(&mut self) -> &mut Lies {
        &mut self.lies
    }

    /// Takes a change out of flight and gives it the number of its completion.
    fn land(&mut self, n: u64, change: Rc<Change>) {
        self.copy = None;
        self.inflight.retain(|(m, _)| *m != n);
        let done = self.number();
        change.apply(&mut self.view);
        self.volatile.push((done, change));
    }

    fn land_failed(&mut self, n: u64, change: &Change, rng: &mut Rng) {
        self.copy = None;
        self.inflight.retain(|(m, _)| *m != n);
        change.apply_by_chance(&mut self.view, rng);
        let done = self.number();
        self.volatile.push((done, Rc::new(change.difference(&self.view))));
    }

    fn land_all(&mut self, landing: Vec<Landing>, whole: bool, rng: &mut Rng) {
        for (n, change) in landing {
            if whole { self.land(n, change) } else { self.land_failed(n, &change, rng) }
        }
    }

    fn flushed(&mut self, mark: u64) {
        self.copy = None;
        let covered = self.volatile.iter().take_while(|(n, _)| *n <= mark).count();
        for (_, c) in self.volatile.drain(..covered) {
            c.apply(&mut self.medium);
        }
    }

    /// As Linux does: what could not be written is no longer dirty, and the error is told once. Reads
    /// still give it, from a cache that a restart of the machine empties.
    fn flush_failed(&mut self, mark: u64, rng: &mut Rng) {
        self.copy = None;
        let covered = self.volatile.iter().take_while(|(n, _)| *n <= mark).count();
        let style = rng.below(3);
        for (_, c) in self.volatile.drain(..covered) {
            match style {
                0 => {}
                _ => c.apply_by_chance(&mut self.medium, rng),
            }
        }
    }

    fn read(&self, at: u64, buf: &mut [u8], rng: &mut Rng) {
        self.view.read(at, buf);
        let first = at as usize / PAGE;
        let end = first + buf.len() / PAGE;
        for (_, c) in &self.inflight {
            for page in c.first.max(first)..(c.first + c.pages.len()).min(end) {
                let new = c.pages[page - c.first].as_ref();
                let out = &mut buf[(page - first) * PAGE..][..PAGE];
                for s in 0..PAGE / SECTOR {
                    if rng.one_in(2) {
                        let range = s * SECTOR..(s + 1) * SECTOR;
                        match new {
                            Some(p) => out[range.clone()].copy_from_slice(&p[range]),
                            None => out[range].fill(0),
                        }
                    }
                }
            }
        }
    }

    pub(super) fn image_id(&self) -> usize {
        self.id
    }

    /// All in flight fails, and a part of what was not flushed is lost.
    pub(super) fn reset(&mut self, fault: Fault, reopen: bool, rng: &mut Rng) {
        self.copy = None;
        self.resets += 1;
        self.opened += u64::from(reopen);
        self.untold = true;
        self.cut_off = if fault == Fault::Io { DiskError::Io(5) } else { DiskError::Gone };
        self.fault = Some(fault);
        for (_, change) in std::mem::take(&mut self.inflight) {
            change.apply_by_chance(&mut self.view, rng);
            self.volatile.push((0, Rc::new(change.difference(&self.view))));
        }
        let style = rng.below(4);
        for (_, change) in std::mem::take(&mut self.volatile) {
            match style {
                0 => {}
                1 => change.apply(&mut self.medium),
                _ => change.apply_by_chance(&mut self.medium, rng),
            }
        }
        self.view = self.medium.clone();
    }

    /// Another disk is there from now on, under the same path.
    pub(super) fn replace(&mut self, by: &DiskImage) {
        self.copy = None;
        self.resets += 1;
        self.inflight.clear();
        self.volatile.clear();
        self.medium = by.view();
        self.view = self.medium.clone();
        self.bytes = (self.medium.pages() * PAGE) as u64;
    }

    pub(super) fn set_fault(&mut self, fault: Option<Fault>) {
        self.fault = fault;
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    pub(super) fn slow_down(&mut self, factor: u64) {
        self.slower = factor;
    }

    pub(super) fn slower(&self) -> u64 {
        self.slower
    }

    pub(super) fn add_bad_read(&mut self) {
        self.bad_reads += 1;
    }

    pub(super) fn add_bad_pages(&mut self, at: u64, len: u64) {
        let pages = at as usize / PAGE..(at + len).div_ceil(PAGE as u64) as usize;
        self.bad_pages.extend(pages);
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }
}

enum Kind {
    Read { at: u64, buf: Buf },
    Write { sent: Rc<Change>, landing: Vec<Landing>, segs: Segs },
    Discard { landing: Vec<Landing> },
    Flush { mark: u64 },
}

/// An operation that was issued: it owns its buffers whether anybody still waits or not.
pub(super) struct Op {
    disk: usize,
    resets: u64,
    kind: Kind,
    slot: Rc<Slot>,
}

/// How an operation ended, with the buffer of a read.
type End = (Result<(), DiskError>, Option<Buf>);

#[derive(Default)]
struct Slot {
    end: RefCell<Option<End>>,
    waker: Cell<Option<Waker>>,
}

struct Wait(Rc<Slot>);

impl Future for Wait {
    type Output = End;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.end.borrow_mut().take() {
            Some(end) => Poll::Ready(end),
            None => {
                self.0.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

impl Op {
    pub(super) fn disk(&self) -> usize {
        self.disk
    }

    /// The disk does it, and the waiter is told.
    pub(super) fn complete(self, sim: &Sim) {
        let mut rng = sim.rng();
        let (result, buf) = {
            let mut disk = sim.disk(self.disk);
            let fault = disk.fault.and_then(|f| f.of(&self.kind)).map_or(Ok(()), Err);
            let cut_off = self.resets != disk.resets;
            let mut fault = if cut_off { Err(disk.cut_off) } else { fault };
            if disk.untold && !matches!(self.kind, Kind::Read { .. }) {
                fault = fault.and(Err(disk.cut_off));
                disk.untold = false;
            }
            match self.kind {
                Kind::Read { at, mut buf } => {
                    let mut result = fault;
                    if result.is_ok() && disk.bad_reads > 0 {
                        disk.bad_reads -= 1;
                        result = Err(DiskError::Io(5));
                    }
                    let first = at as usize / PAGE;
                    let pages = first..first + buf.len().div_ceil(PAGE);
                    if result.is_ok() && disk.bad_pages.range(pages).next().is_some() {
                        result = Err(DiskError::Io(5));
                    }
                    if result.is_ok() {
                        disk.read(at, &mut buf, &mut rng);
                        let DiskState { lies, view, .. } = &mut *disk;
                        lies.of_read(at, &mut buf, view);
                    } else {
                        buf.fill(0xee);
                    }
                    (result, Some(buf))
                }
                Kind::Write { sent, landing, segs } => {
                    if fault.is_ok() {
                        if !same(&segs, &sent.pages) {
                            sim.violation(format!(
                                "the bytes of a write to disk {} at page {} changed under way",
                                disk.id, sent.first
                            ));
                        }
                        let pages = sent.first..sent.first + sent.pages.len();
                        disk.bad_pages.retain(|p| !pages.contains(p));
                    }
                    if !cut_off {
                        disk.land_all(landing, fault.is_ok(), &mut rng);
                    }
                    (fault, None)
                }
                Kind::Discard { landing } => {
                    if !cut_off {
                        disk.land_all(landing, fault.is_ok(), &mut rng);
                    }
                    (fault, None)
                }
                Kind::Flush { mark } => {
                    if fault.is_ok() {
                        disk.flushed(mark);
                    } else if disk.fault == Some(Fault::Flushes) {
                        disk.flush_failed(mark, &mut rng);
                    }
                    (fault, None)
                }
            }
        };
        *self.slot.end.borrow_mut() = Some((result, buf));
        if let Some(w) = self.slot.waker.take() {
            w.wake();
        }
    }
}

/// Whether the memory that a write runs from still holds what it held at the issue.
fn same(segs: &[Slice], pages: &[Option<Page>]) -> bool {
    let mut at = 0;
    segs.iter().all(|s| {
        let mut rest: &[u8] = s;
        while !rest.is_empty() {
            let n = rest.len().min(PAGE - at % PAGE);
            let equal = match &pages[at / PAGE] {
                Some(p) => rest[..n] == p[at % PAGE..at % PAGE + n],
                None => rest[..n].iter().all(|b| *b == 0),
            };
            if !equal {
                return false;
            }
            (at, rest) = (at + n, &rest[n..]);
        }
        true
    })
}

/// A member of the simulated array.
#[derive(Clone)]
pub struct SimDisk {
    sim: Rc<Sim>,
    index: usize,
    opened: u64,
}

impl SimDisk {
    pub(super) fn new(sim: Rc<Sim>, index: usize) -> SimDisk {
        let opened = sim.disk(index).opened;
        SimDisk { sim, index, opened }
    }

    /// What opening its path again gives; None if there is nothing.
    pub(super) fn again(&self) -> Option<SimDisk> {
        let gone = self.sim.disk(self.index).fault == Some(Fault::Gone);
        (!gone).then(|| SimDisk::new(Rc::clone(&self.sim), self.index))
    }

    pub(super) fn hangs(&self) -> bool {
        self.sim.disk(self.index).fault == Some(Fault::Hang)
    }

    /// Its place in the order in which the array was created.
    #[must_use]
    pub fn id(&self) -> usize {
        self.sim.disk(self.index).id
    }

    fn check(&self, what: &str, at: u64, len: u64) {
        let disk = self.sim.disk(self.index);
        let page = PAGE as u64;
        assert!(
            at.is_multiple_of(page) && len.is_multiple_of(page) && len > 0,
            "a {what} of {len} bytes at {at} of disk {} is not in blocks",
            disk.id
        );
        assert!(
            at.checked_add(len).is_some_and(|end| end <= disk.bytes),
            "a {what} of {len} bytes at {at} is beyond the end of disk {} ({} bytes)",
            disk.id,
            disk.bytes
        );
    }

    fn issue(&self, kind: impl FnOnce(&mut DiskState, &mut Rng) -> Kind) -> Wait {
        let slot = Rc::new(Slot::default());
        if self.sim.event() {
            let (kind, resets) = {
                let mut disk = self.sim.disk(self.index);
                let kind = kind(&mut disk, &mut self.sim.rng());
                if self.opened == disk.opened {
                    (kind, disk.resets)
                } else {
                    // Nothing is behind this handle any more.
                    if let Kind::Write { landing, .. } | Kind::Discard { landing } = &kind {
                        let own = |n: u64| landing.iter().any(|(own, _)| *own == n);
                        disk.inflight.retain(|(n, _)| !own(*n));
                    }
                    (kind, u64::MAX)
                }
            };
            let op = Op { disk: self.index, resets, kind, slot: Rc::clone(&slot) };
            self.sim.issue(op, self.index);
        }
        Wait(slot)
    }
}

impl Disk for SimDisk {
    fn facts(&self) -> DiskFacts {
        let disk = self.sim.disk(self.index);
        DiskFacts { path: disk.path.clone(), bytes: disk.bytes, is_file: true }
    }

    fn read(
        &self,
        at: u64,
        buf: Buf,
    ) -> impl Future<Output = (Result<(), DiskError>, Buf)> + 'static {
        self.check("read", at, buf.len() as u64);
        let wait = self.issue(move |disk, _| {
            disk.counters.reads += 1;
            disk.counters.read_bytes += buf.len() as u64;
            Kind::Read { at, buf }
        });
        async move {
            let (result, buf) = wait.await;
            (result, buf.expect("a read gives its buffer back"))
        }
    }

    fn write(&self, at: u64, segs: Segs) -> impl Future<Output = Result<(), DiskError>> + 'static {
        let len = evenkeel_journal::mem::segs_len(&segs);
        self.check("write", at, len as u64);
        let wait = self.issue(move |disk, _| {
            disk.counters.writes += 1;
            disk.counters.write_bytes += len as u64;
            let pages = match &segs[..] {
                [one] => pages_of(one),
                many => pages_of(&many.iter().map(|s| &s[..]).collect::<Vec<_>>().concat()),
            };
            let (sent, landing) = disk.begin(Change { first: at as usize / PAGE, pages });
            Kind::Write { sent, landing, segs }
        });
        async move { wait.await.0 }
    }

    fn flush(&self) -> impl Future<Output = Result<(), DiskError>> + 'static {
        let wait = self.issue(|disk, _| {
            disk.counters.flushes += 1;
            Kind::Flush { mark: disk.next }
        });
        async move { wait.await.0 }
    }

    fn discard(&self, at: u64, len: u64) -> impl Future<Output = Result<(), DiskError>> + 'static {
        self.check("discard", at, len);
        let wait = self.issue(move |disk, rng| {
            disk.counters.discards += 1;
            let first = at as usize / PAGE;
            let fate = |i| match rng.below(3) {
                0 => disk.view.page(first + i).cloned(),
                1 => None,
                _ => {
                    let mut garbage = [0; PAGE];
                    garbage.chunks_exact_mut(8).for_each(|w| {
                        w.copy_from_slice(&rng.draw().to_le_bytes());
                    });
                    Some(Rc::new(garbage))
                }
            };
            let pages = (0..len as usize / PAGE).map(fate).collect();
            let (_, landing) = disk.begin(Change { first, pages });
            Kind::Discard { landing }
        });
        async move { wait.await.0 }
    }
}
