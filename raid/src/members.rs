//! ④ The members and journal devices of a running array: I/O to each (I3, I7, I8). What becomes of
//! one that fails is in `reset.rs`, how that is recorded in `advance.rs`.
//!
//! What must hold: when an operation here says that a member is gone, the failure is durable in
//! the survivors' superblocks (I3), so the caller may acknowledge without it. While the array is
//! frozen nothing is written or flushed here; what failed then ends well if its member comes back,
//! since it was written again. Journal devices are counted apart: the log survives fewer of them, or
//! as many.

mod copies;
mod failing;
mod slow;
mod spares;

pub(crate) use failing::Why;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::log::{Halted, LogDevices};
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::{Lock, Signal, join_all};
use evenkeel_journal::{BLOCK, Buf, Disk, DiskError, Lsn, MemberIndex, Segs, World};

use crate::codec::Code;
use crate::event::Event;
use crate::geometry::{Geometry, LogHome};
use crate::hung::{Kind, Watch};
use crate::news::{self, Doing, News, Trouble};
use crate::status::MemberState;
use crate::superblock::Superblock;
use crate::unflushed::Unflushed;

pub(crate) struct Member<D> {
    pub(crate) disk: Option<D>,
    path: String,
    /// Rises when another disk takes this place.
    seat: u64,
    /// Whose place it will take, while it is being filled.
    takes: Option<MemberIndex>,
    /// As the epoch says, or will say as soon as it is recorded.
    pub(crate) state: MemberState,
    /// Failed in memory, but not yet durably recorded.
    pub(crate) being_failed: bool,
    /// In trouble, and whether it fails or comes back is not decided: the array is frozen.
    pub(crate) away: bool,
    /// Writes that have completed, and how many of them a flush has covered.
    pub(crate) written: u64,
    pub(crate) flushed: u64,
    /// What was written since then, and how often that was written again.
    pub(crate) unflushed: Unflushed,
    pub(crate) rewritten: u64,
    read_errors: u64,
    write_errors: u64,
    /// Blocks and pages that were not what their checksum says.
    checksum_errors: u64,
    /// Those that were written again.
    healed: u64,
    /// Errors of the last while, and how fast it is: what it is judged by.
    errors: failing::Errors,
    speed: slow::Speed,
    /// The last error.
    pub(crate) trouble: Option<Trouble>,
}

impl<D: Disk> Member<D> {
    /// One that is there, or is not.
    fn new(disk: Option<D>, state: MemberState, ring: usize) -> Member<D> {
        Member {
            path: disk.as_ref().map_or_else(String::new, |d| d.facts().path),
            state: if disk.is_none() && state.bears_epochs() {
                MemberState::Missing
            } else {
                state
            },
            disk,
            seat: 0,
            takes: None,
            being_failed: false,
            away: false,
            written: 1,
            flushed: 0,
            unflushed: Unflushed::new(ring),
            rewritten: 0,
            read_errors: 0,
            write_errors: 0,
            checksum_errors: 0,
            healed: 0,
            errors: failing::Errors::default(),
            speed: slow::Speed::default(),
            trouble: None,
        }
    }

    /// It holds everything and can be read.
    fn is_active(&self) -> bool {
        self.state.serves() && !self.away
    }

    /// It is told of every epoch, so it fails like a member.
    pub(crate) fn is_bearer(&self) -> bool {
        self.state.bears_epochs() && !self.away
    }

    pub(crate) fn path(&self) -> String {
        self.path.clone()
    }
}

/// Exact counts of what was asked of the members.
#[derive(Clone, Copy, Default, Debug)]
pub struct Traffic {
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Flushes.
    pub flushes: u64,
}

pub(crate) struct Inner<W: World> {
    pub(crate) world: W,
    code: Code,
    /// Members; the rest of the table are journal devices, then spares.
    data: usize,
    /// Members and journal devices.
    pub(crate) table: usize,
    /// Members that may be out.
    parity: usize,
    /// Journal devices that may be out.
    journals_out: usize,
    log_home: Cell<LogHome>,
    pub(crate) members: RefCell<Vec<Member<W::Disk>>>,
    pub(crate) superblock: RefCell<Superblock>,
    pub(crate) epoch_lock: Lock,
    /// Some active members may not bear the epoch on copies B and C.
    pub(crate) unmarked: Cell<bool>,
    /// The shape before, while an epoch is made that names a larger one.
    pub(crate) grows_from: Cell<Option<Geometry>>,
    pub(crate) changed: Signal,
    halted: Cell<bool>,
    /// Members are in trouble, and it is not decided what becomes of them.
    pub(crate) frozen: Cell<bool>,
    /// A disk is about to take another one's place: no write begins.
    changing_seats: Cell<bool>,
    /// Writes and flushes under way that go to twins, too.
    to_twins: Cell<u64>,
    pub(crate) watch: Watch,
    traffic: Cell<Traffic>,
    /// The tail, for the epoch that fails a member.
    pub(crate) tail: Cell<Lsn>,
    read_only: bool,
    pub(crate) news: News,
    /// Blocks that are newer than what may lie at their place: (member, byte) → block.
    overlay: RefCell<HashMap<(u8, u64), evenkeel_journal::Slice>>,
}

/// The members of a running array. Clones share them.
pub struct Members<W: World>(pub(crate) Rc<Inner<W>>);

impl<W: World> Clone for Members<W> {
    fn clone(&self) -> Self {
        Members(Rc::clone(&self.0))
    }
}

impl<W: World> Members<W> {
    /// The members, journal devices and spares of `superblock`'s epoch; `disks` by index, None for
    /// those that are not there.
    #[must_use]
    pub fn new(
        world: &W,
        code: Code,
        superblock: Superblock,
        disks: Vec<Option<W::Disk>>,
        read_only: bool,
    ) -> Members<W> {
        let ring = superblock.geometry.cache_blocks as usize * BLOCK;
        let member = |(disk, entry): (Option<W::Disk>, &crate::superblock::MemberEntry)| {
            let takes = entry.filling.map(|f| MemberIndex(f.takes));
            Member { takes, ..Member::new(disk, entry.state, ring) }
        };
        let members = disks.into_iter().zip(&superblock.members).map(member).collect();
        Members(Rc::new(Inner {
            world: world.clone(),
            data: superblock.geometry.members(),
            table: superblock.geometry.table(),
            parity: superblock.geometry.parity,
            journals_out: superblock.geometry.journal_tolerance(),
            log_home: Cell::new(superblock.geometry.log_home),
            code,
            members: RefCell::new(members),
            superblock: RefCell::new(superblock),
            epoch_lock: Lock::new(),
            changed: Signal::new(),
            halted: Cell::new(false),
            frozen: Cell::new(false),
            changing_seats: Cell::new(false),
            to_twins: Cell::new(0),
            watch: Watch::new(),
            traffic: Cell::new(Traffic::default()),
            tail: Cell::new(Lsn(0)),
            unmarked: Cell::new(false),
            grows_from: Cell::new(None),
            read_only,
            news: News::default(),
            overlay: RefCell::new(HashMap::new()),
        }))
    }

    /// The code of the array.
    #[must_use]
    pub fn code(&self) -> &Code {
        &self.0.code
    }

    /// The superblock of the epoch in force (`index` is not meant).
    #[must_use]
    pub fn superblock(&self) -> Superblock {
        self.0.superblock.borrow().clone()
    }

    /// Whether the array has lost more than it tolerates.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.0.halted.get()
    }

    /// How long an operation on a member may take before the member counts as failed
    /// ([`crate::hung::IO_TIMEOUT`] if it is never set).
    pub fn set_io_timeout(&self, bound: Duration) {
        self.0.watch.set_bound(bound);
    }

    /// The epoch has to be marked in force before another one is prepared.
    pub fn set_unmarked(&self) {
        self.0.unmarked.set(true);
    }

    /// Stops taking writes for good. Members whose failure was not recorded yet may be read:
    /// nothing was acknowledged that they missed, and what was being written lies over them.
    pub fn halt(&self) {
        self.0.halted.set(true);
        self.0.frozen.set(false);
        for (i, m) in self.0.members.borrow_mut().iter_mut().enumerate() {
            m.away = false;
            if std::mem::take(&mut m.being_failed) && i < self.0.table {
                m.state = MemberState::Active;
            }
        }
        self.0.watch.give_up(|_, kind| kind == Kind::Write);
        self.0.changed.notify();
    }

    /// The next event. One listener at a time hears each.
    pub async fn news(&self) -> Event {
        self.0.news.next().await
    }

    /// An operation on a member failed, or had no answer in time: counts it and keeps what it was.
    pub(crate) fn trouble(&self, member: MemberIndex, doing: Doing, at: u64, e: Option<DiskError>) {
        let mut members = self.0.members.borrow_mut();
        let m = &mut members[member.at()];
        // Of one that is being failed it is known why.
        if !m.being_failed {
            m.trouble = Some((doing, e));
        }
        if doing != Doing::Read {
            m.write_errors += 1;
            return;
        }
        m.read_errors += 1;
        if m.read_errors == 1
            && let Some(e) = e
            && e != DiskError::Gone
            && let Some(disk) = &m.disk
        {
            self.0.news.tell(news::unreadable(&disk.facts().path, at, e));
        }
        drop(members);
        self.count_unreadable(member, at, e);
    }

    /// What was asked of the members so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.0.traffic.get()
    }

    /// The record that the tail has not passed: goes into the epoch that fails a member.
    pub fn set_tail(&self, lsn: Lsn) {
        self.0.tail.set(lsn);
    }

    /// Whether a member can be read and written now.
    #[must_use]
    pub fn is_active(&self, member: MemberIndex) -> bool {
        self.0.members.borrow()[member.at()].is_active()
    }

    /// Number of members and journal devices that are not there: failed, missing, or away.
    #[must_use]
    pub fn gone(&self) -> usize {
        self.gone_members() + self.gone_journals()
    }

    /// Number of members that are not there.
    #[must_use]
    pub fn gone_members(&self) -> usize {
        out(&self.0.members.borrow()[..self.0.data])
    }

    /// Number of journal devices that are not there.
    #[must_use]
    pub fn gone_journals(&self) -> usize {
        out(&self.0.members.borrow()[self.0.data..self.0.table])
    }

    /// How many more disks may be lost, whichever they are.
    #[must_use]
    pub fn can_lose(&self) -> usize {
        let left = self.0.parity.saturating_sub(self.gone_members());
        match self.0.log_home.get() {
            LogHome::Members => left,
            LogHome::Journals => left.min(self.0.journals_out.saturating_sub(self.gone_journals())),
        }
    }

    /// The log is on the members from now on; an epoch has to say so.
    pub fn log_goes_home(&self) {
        self.0.log_home.set(LogHome::Members);
    }

    /// Whether more are out than the array tolerates, if those that are away are counted.
    pub(crate) fn too_many_are_out(&self) -> bool {
        self.would_be_too_many(&[])
    }

    /// The same with these besides.
    pub(crate) fn would_be_too_many(&self, more: &[MemberIndex]) -> bool {
        let journals = more.iter().filter(|m| self.is_journal(**m)).count();
        self.gone_members() + more.len() - journals > self.0.parity
            || self.gone_journals() + journals > self.0.journals_out
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.0.read_only
    }

    /// All that are active, ascending.
    pub(crate) fn active(&self) -> Vec<MemberIndex> {
        self.those(Member::is_active)
    }

    /// All that take writes: the active ones, and those that are being filled, also in the place of one
    /// that is out.
    fn writable(&self) -> Vec<MemberIndex> {
        self.those(|m| m.state.takes_writes() && !m.away)
    }

    /// All that are told of every epoch: these, those that are being filled, and the spares.
    pub(crate) fn bearers(&self) -> Vec<MemberIndex> {
        self.those(Member::is_bearer)
    }

    pub(crate) fn is_bearer(&self, member: MemberIndex) -> bool {
        self.0.members.borrow()[member.at()].is_bearer()
    }

    /// All for which `which` holds, ascending.
    pub(crate) fn those(&self, which: impl Fn(&Member<W::Disk>) -> bool) -> Vec<MemberIndex> {
        let members = self.0.members.borrow();
        let found = members.iter().enumerate().filter(|(_, m)| which(m));
        found.map(|(i, _)| MemberIndex(i as u8)).collect()
    }

    fn is_journal(&self, member: MemberIndex) -> bool {
        (self.0.data..self.0.table).contains(&member.at())
    }

    /// State, path, read and write errors of a member.
    #[must_use]
    pub fn describe(&self, member: MemberIndex) -> (MemberState, String, u64, u64) {
        let members = self.0.members.borrow();
        let m = &members[member.at()];
        let state = if m.away { MemberState::Missing } else { m.state };
        (state, m.path(), m.read_errors, m.write_errors)
    }

    /// UUID of the array.
    pub fn superblock_array(&self) -> u128 {
        self.0.superblock.borrow().array
    }

    /// The identity that pages bear.
    pub fn pages_are_of(&self) -> u128 {
        let s = self.0.superblock.borrow();
        s.geometry.pages_are_of(s.array)
    }

    /// How many blocks and pages of a member were not what their checksums say, and how many of
    /// these were written again.
    #[must_use]
    pub fn wrong(&self, member: MemberIndex) -> (u64, u64) {
        let members = self.0.members.borrow();
        (members[member.at()].checksum_errors, members[member.at()].healed)
    }

    /// What lies at byte `at` of a member is not what was written there: counts and tells it. Of one
    /// that is out of the array meanwhile nothing is expected.
    pub(crate) fn found_bad(&self, member: MemberIndex, at: u64, what: &str) {
        if !self.is_active(member) {
            return;
        }
        let mut members = self.0.members.borrow_mut();
        let m = &mut members[member.at()];
        m.checksum_errors += 1;
        let path = m.path();
        if news::is_told(m.checksum_errors) {
            let name = &self.0.superblock.borrow().name;
            self.0.news.tell(news::wrong(name, &path, at, what, m.checksum_errors));
        }
        drop(members);
        self.count_error(member, failing::Error::Wrong, at);
    }

    /// So many blocks or pages of a member were written again, and read back.
    pub(crate) fn healed(&self, member: MemberIndex, count: u64) {
        let mut members = self.0.members.borrow_mut();
        let m = &mut members[member.at()];
        m.healed += count;
        let name = &self.0.superblock.borrow().name;
        if let Some(event) = news::healed(name, &m.path(), count, m.healed) {
            self.0.news.tell(event);
        }
    }

    /// Says something that people should know.
    pub(crate) fn tell(&self, event: Event) {
        self.0.news.tell(event);
    }

    /// No copy of a page of checksums is left.
    pub(crate) fn sums_lost(&self, page: u64) {
        let name = &self.0.superblock.borrow().name;
        self.0.news.tell(news::sums_lost(name, page));
    }

    /// From now on a read of this place gives this block: what replay in memory found, or what a
    /// destage is about to write, so that a row is never seen half new.
    pub fn overlay(&self, member: MemberIndex, at: u64, block: evenkeel_journal::Slice) {
        self.0.overlay.borrow_mut().insert((member.0, at), block);
    }

    /// Ends [`Members::overlay`] for one place.
    pub fn remove_overlay(&self, member: MemberIndex, at: u64) {
        self.0.overlay.borrow_mut().remove(&(member.0, at));
    }

    /// Whether a read of this place gives something newer than what may lie there.
    #[must_use]
    pub fn is_overlaid(&self, member: MemberIndex, at: u64) -> bool {
        self.0.overlay.borrow().contains_key(&(member.0, at))
    }

    /// Waits until the array has lost more than it tolerates, or `ended`.
    pub async fn wait_halted(&self, ended: impl Fn() -> bool) {
        while !self.0.halted.get() && !ended() {
            self.0.changed.wait().await;
        }
    }

    /// Has those look again who wait for a change of health.
    pub fn wake(&self) {
        self.0.changed.notify();
    }

    pub(crate) fn disk(&self, member: MemberIndex) -> Option<W::Disk> {
        let members = self.0.members.borrow();
        let m = &members[member.at()];
        if m.is_bearer() { m.disk.clone() } else { None }
    }

    /// The disk of a member that may be read, and which one that is.
    fn readable(&self, member: MemberIndex) -> Option<(W::Disk, u64)> {
        let members = self.0.members.borrow();
        let m = &members[member.at()];
        if m.is_active() { Some((m.disk.clone()?, m.seat)) } else { None }
    }

    /// Reads from a member. None if it is not active or the read failed; a member that is gone
    /// is failed on the way.
    pub async fn read(&self, member: MemberIndex, at: u64, mut buf: Buf) -> Option<Buf> {
        let len = buf.len();
        loop {
            let (disk, seat) = self.readable(member)?;
            // Nobody fails this member, and each read would wait for the bound in vain.
            if self.is_given_up(member) {
                return None;
            }
            let rewritten = self.0.members.borrow()[member.at()].rewritten;
            let mut t = self.0.traffic.get();
            (t.reads, t.read_bytes) = (t.reads + 1, t.read_bytes + len as u64);
            self.0.traffic.set(t);
            let began = self.0.world.now();
            let read = disk.read(at, buf);
            let done = self.0.watch.wait(&self.0.world, member, Kind::Read, read).await;
            let same = self.0.members.borrow()[member.at()].seat == seat;
            if same && done.as_ref().is_none_or(|(result, _)| result.is_ok()) {
                self.read_took(member, self.0.world.now() - began);
            }
            match done {
                // Another disk has taken its place meanwhile: this one's errors are not that one's.
                Some((Err(_), _)) | None if !same => buf = Buf::new(len),
                Some((Ok(()), full)) => {
                    buf = full;
                    let members = self.0.members.borrow();
                    let m = &members[member.at()];
                    if same && m.rewritten != rewritten {
                        // Perhaps read before that was written which it had lost.
                        continue;
                    }
                    if same && self.0.frozen.get() {
                        // It may have been reset with others: what it has not flushed may be lost.
                        m.unflushed.lay_over(at, &mut buf);
                    }
                    drop(members);
                    self.put_overlay(member, at, &mut buf);
                    return Some(buf);
                }
                Some((Err(e), _)) => {
                    self.trouble(member, Doing::Read, at, Some(e));
                    if e != DiskError::Gone || self.0.read_only {
                        return None;
                    }
                    if self.fail(member).await != Ok(true) {
                        return None;
                    }
                    buf = Buf::new(len);
                }
                None => {
                    if self.is_active(member) {
                        self.trouble(member, Doing::Read, at, None);
                        // Where others can give what it holds, a disk that does not answer is
                        // failed.
                        if self.gone_members() < self.0.parity && !self.0.read_only {
                            let _ = self.fail(member).await;
                        }
                    }
                    return None;
                }
            }
        }
    }

    fn put_overlay(&self, member: MemberIndex, at: u64, buf: &mut [u8]) {
        let overlay = self.0.overlay.borrow();
        if overlay.is_empty() {
            return;
        }
        for (i, block) in buf.chunks_mut(BLOCK).enumerate() {
            if let Some(newer) = overlay.get(&(member.0, at + (i * BLOCK) as u64)) {
                block.copy_from_slice(newer);
            }
        }
    }

    /// Writes to a member, and to the one that is being filled to take its place. `Ok(false)`: the
    /// member itself is gone, durably so.
    ///
    /// # Errors
    /// `Halted` if the array has lost too much; nothing may be acknowledged then.
    pub async fn write(&self, member: MemberIndex, at: u64, segs: Segs) -> Result<bool, Halted> {
        self.no_change_of_seats().await?;
        let Some(twin) = self.twin_of(member).filter(|_| !broken(Sabotage::NotMirrored)) else {
            return self.write_one(member, at, segs).await;
        };
        let _to_twin = self.to_twin();
        if broken(Sabotage::TwinIgnored) {
            // Whatever becomes of it.
            if let Some(disk) = self.disk(twin) {
                let _ = disk.write(at, segs.clone()).await;
            }
            return self.write_one(member, at, segs).await;
        }
        let both = [(member, segs.clone()), (twin, segs)];
        let both = both.map(|(m, segs)| self.write_one(m, at, segs));
        let mut done = join_all(both.into()).await.into_iter();
        let own = done.next().expect("two were begun");
        done.next().expect("two were begun")?;
        own
    }

    /// Writes to one disk.
    async fn write_one(&self, member: MemberIndex, at: u64, segs: Segs) -> Result<bool, Halted> {
        assert!(!self.0.read_only, "a read-only start writes nothing");
        self.room_in_the_list(member).await?;
        if !self.decided(member).await? {
            return Ok(false);
        }
        let Some(disk) = self.disk(member) else { return Ok(false) };
        let mut t = self.0.traffic.get();
        t.writes += 1;
        t.write_bytes += evenkeel_journal::mem::segs_len(&segs) as u64;
        self.0.traffic.set(t);
        let number = self.0.members.borrow_mut()[member.at()].unflushed.submitted(at, &segs);
        let write = disk.write(at, segs);
        match self.0.watch.wait(&self.0.world, member, Kind::Write, write).await {
            Some(Ok(())) => {
                let active = {
                    let mut members = self.0.members.borrow_mut();
                    let m = &mut members[member.at()];
                    m.written += 1;
                    m.unflushed.completed(number, m.written);
                    m.is_bearer()
                };
                if active { Ok(true) } else { self.decided(member).await }
            }
            // It failed meanwhile, durably: what is still under way counts as ended (I4).
            None if !self.is_bearer(member) => self.decided(member).await,
            failed => {
                self.trouble(member, Doing::Write, at, failed.and_then(Result::err));
                self.fail(member).await
            }
        }
    }

    /// Has a member flushed whose list of unflushed writes is long, and waits if it is full.
    async fn room_in_the_list(&self, member: MemberIndex) -> Result<(), Halted> {
        {
            let mut members = self.0.members.borrow_mut();
            let list = &mut members[member.at()].unflushed;
            if !list.is_long() {
                return Ok(());
            }
            if !std::mem::replace(&mut list.flushing, true) {
                let this = self.clone();
                self.0.world.spawn("flush of a long list", async move {
                    let _ = this.flush_one(member).await;
                    this.0.members.borrow_mut()[member.at()].unflushed.flushing = false;
                    this.0.changed.notify();
                });
            }
        }
        loop {
            if self.is_halted() {
                return Err(Halted);
            }
            let list = |m: &Member<W::Disk>| m.unflushed.is_full() && m.unflushed.flushing;
            if !list(&self.0.members.borrow()[member.at()]) {
                return Ok(());
            }
            self.0.changed.wait().await;
        }
    }

    /// Makes every completed write to every active member and journal device stable (I5), and to
    /// those that are being filled. One that
    /// is just being failed has missed something: this ends only when that is recorded (I3).
    ///
    /// # Errors
    /// `Halted` as for [`Members::write`].
    pub async fn flush(&self) -> Result<(), Halted> {
        self.flush_some(self.writable()).await
    }

    /// Makes every completed write to every active member stable: chunks and pages.
    ///
    /// # Errors
    /// `Halted` as for [`Members::write`].
    pub async fn flush_members(&self) -> Result<(), Halted> {
        let members = self.writable().into_iter().filter(|m| !self.is_journal(*m));
        self.flush_some(members.collect()).await
    }

    /// Flushes these, and those that are being filled to take their places. Those that are away are
    /// flushed before the array thaws.
    async fn flush_some(&self, mut some: Vec<MemberIndex>) -> Result<(), Halted> {
        self.no_change_of_seats().await?;
        let _to_twins = self.to_twin();
        let twins: Vec<MemberIndex> = some.iter().filter_map(|m| self.twin_of(*m)).collect();
        some.extend(twins);
        some.sort_unstable();
        some.dedup();
        let all: Vec<_> = some.into_iter().map(|m| self.flush_one(m)).collect();
        for done in join_all(all).await {
            done?;
        }
        self.none_being_failed().await
    }

    async fn none_being_failed(&self) -> Result<(), Halted> {
        loop {
            self.thawed().await?;
            if self.0.members.borrow().iter().all(|m| !m.being_failed) {
                return Ok(());
            }
            self.0.changed.wait().await;
        }
    }

    async fn flush_one(&self, member: MemberIndex) -> Result<(), Halted> {
        if !self.decided(member).await? {
            return Ok(());
        }
        let Some(disk) = self.disk(member) else { return Ok(()) };
        let upto = {
            let members = self.0.members.borrow();
            let m = &members[member.at()];
            if m.flushed >= m.written {
                return Ok(());
            }
            m.written
        };
        let mut t = self.0.traffic.get();
        t.flushes += 1;
        self.0.traffic.set(t);
        match self.0.watch.wait(&self.0.world, member, Kind::Write, disk.flush()).await {
            Some(Ok(())) => {
                let mut members = self.0.members.borrow_mut();
                let m = &mut members[member.at()];
                m.flushed = m.flushed.max(upto);
                m.unflushed.flushed(upto);
                Ok(())
            }
            None if !self.is_bearer(member) => self.decided(member).await.map(|_| ()),
            failed => {
                self.trouble(member, Doing::Flush, 0, failed.and_then(Result::err));
                self.fail(member).await.map(|_| ())
            }
        }
    }
}

impl<W: World> LogDevices for Members<W> {
    fn live(&self) -> Vec<MemberIndex> {
        let on_journals = self.0.log_home.get() == LogHome::Journals;
        // One that is away may come back, and then misses nothing. What goes to one that is out goes
        // to the one that is being filled for it.
        let table = (0..self.0.table as u8).map(MemberIndex);
        let live = |m: &MemberIndex| {
            let twin = self.twin_of(*m).is_some() && !broken(Sabotage::SeatBeforeTail);
            twin || self.0.members.borrow()[m.at()].state.serves()
        };
        table.filter(live).filter(|m| self.is_journal(*m) == on_journals).collect()
    }

    fn epoch(&self) -> u64 {
        self.0.superblock.borrow().epoch
    }

    fn write(
        &self,
        member: MemberIndex,
        at: u64,
        segs: Segs,
    ) -> impl Future<Output = Result<bool, Halted>> + 'static {
        let this = self.clone();
        async move { Members::write(&this, member, at, segs).await }
    }

    fn flush(&self) -> impl Future<Output = Result<(), Halted>> + 'static {
        let this = self.clone();
        async move { this.flush_some(this.live()).await }
    }

    fn flush_members(&self) -> impl Future<Output = Result<(), Halted>> + 'static {
        let this = self.clone();
        async move { Members::flush_members(&this).await }
    }

    fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        self.0.code.encode(data, parity);
    }
}

fn out<D: Disk>(members: &[Member<D>]) -> usize {
    members.iter().filter(|m| !m.is_active()).count()
}

/// The array's code as the log's replay uses it.
pub struct Columns(pub Code);

impl evenkeel_journal::replay::ColumnCode for Columns {
    fn rebuild(
        &self,
        width: usize,
        shards: &[Option<&[u8]>],
        wanted: &[usize],
        out: &mut [&mut [u8]],
    ) -> bool {
        self.0.reconstruct(width, shards, wanted, out).is_ok()
    }
}
