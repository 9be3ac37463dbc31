//! ④ The members and journal devices of a running array: I/O to each, and what becomes of one that
//! fails (I3, I7, I8).
//!
//! What must hold: when an operation here says that a member is gone, the failure is durable in
//! the survivors' superblocks (I3), so the caller may acknowledge without it. A failure that
//! would bring those out to more than m is never recorded: the array halts instead (I8). Journal
//! devices are counted apart: the log survives fewer of them, or as many.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::log::{Halted, LogDevices};
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::{Lock, Signal, join_all};
use evenkeel_journal::{BLOCK, Buf, Disk, DiskError, Lsn, MemberIndex, Segs, World};

use crate::codec::Code;
use crate::geometry::{Geometry, LogHome, SUPERBLOCK_A, SUPERBLOCK_B};
use crate::hung::{Kind, Watch};
use crate::news::{self, Doing, News, Trouble};
use crate::status::MemberState;
use crate::superblock::{HISTORY, Phase, Superblock};

/// How long a failure waits to be recorded: others that fail with it (a controller, a cable) show
/// themselves meanwhile, and a failure too many is never recorded (I7). Nothing is acknowledged
/// before.
const GRACE: Duration = Duration::from_millis(250);

struct Member<D> {
    disk: Option<D>,
    state: MemberState,
    /// Failed in memory, but not yet durably recorded.
    being_failed: bool,
    written: u64,
    flushed: u64,
    read_errors: u64,
    write_errors: u64,
    /// Blocks and pages that were not what their checksum says.
    checksum_errors: u64,
    /// Those that were written again.
    healed: u64,
    /// The last error.
    trouble: Option<Trouble>,
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

#[derive(PartialEq, Eq)]
enum Mark {
    Marked,
    Already,
    TooMany,
}

/// A copy of the superblock.
#[derive(Clone, Copy)]
enum Place {
    A,
    B,
    C,
}

impl Place {
    fn byte(self, g: &Geometry, member: MemberIndex) -> u64 {
        match self {
            Place::A => SUPERBLOCK_A,
            Place::B => SUPERBLOCK_B,
            Place::C => g.superblock_c_of(member),
        }
    }
}

struct Inner<W: World> {
    world: W,
    code: Code,
    /// Members; the rest of the table are journal devices.
    data: usize,
    /// Members that may be out.
    parity: usize,
    /// Journal devices that may be out.
    journals_out: usize,
    log_home: Cell<LogHome>,
    members: RefCell<Vec<Member<W::Disk>>>,
    superblock: RefCell<Superblock>,
    epoch_lock: Lock,
    changed: Signal,
    halted: Cell<bool>,
    watch: Watch,
    traffic: Cell<Traffic>,
    /// The tail, for the epoch that fails a member.
    tail: Cell<Lsn>,
    read_only: bool,
    news: News,
    /// Blocks that are newer than what may lie at their place: (member, byte) → block.
    overlay: RefCell<HashMap<(u8, u64), evenkeel_journal::Slice>>,
}

/// The members of a running array. Clones share them.
pub struct Members<W: World>(Rc<Inner<W>>);

impl<W: World> Clone for Members<W> {
    fn clone(&self) -> Self {
        Members(Rc::clone(&self.0))
    }
}

impl<W: World> Members<W> {
    /// The members and journal devices of `superblock`'s epoch; `disks` by index, None for those
    /// that are not there.
    #[must_use]
    pub fn new(
        world: &W,
        code: Code,
        superblock: Superblock,
        disks: Vec<Option<W::Disk>>,
        read_only: bool,
    ) -> Members<W> {
        let member = |(disk, entry): (Option<W::Disk>, &crate::superblock::MemberEntry)| Member {
            state: match (&disk, entry.state) {
                (None, MemberState::Active) => MemberState::Missing,
                (_, state) => state,
            },
            disk,
            being_failed: false,
            written: 1,
            flushed: 0,
            read_errors: 0,
            write_errors: 0,
            checksum_errors: 0,
            healed: 0,
            trouble: None,
        };
        let members = disks.into_iter().zip(&superblock.members).map(member).collect();
        Members(Rc::new(Inner {
            world: world.clone(),
            data: superblock.geometry.members(),
            parity: superblock.geometry.parity,
            journals_out: superblock.geometry.journal_tolerance(),
            log_home: Cell::new(superblock.geometry.log_home),
            code,
            members: RefCell::new(members),
            superblock: RefCell::new(superblock),
            epoch_lock: Lock::new(),
            changed: Signal::new(),
            halted: Cell::new(false),
            watch: Watch::new(),
            traffic: Cell::new(Traffic::default()),
            tail: Cell::new(Lsn(0)),
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

    /// Stops taking writes for good. Members whose failure was not recorded yet may be read:
    /// nothing was acknowledged that they missed, and what was being written lies over them.
    pub fn halt(&self) {
        self.0.halted.set(true);
        for m in self.0.members.borrow_mut().iter_mut() {
            if std::mem::take(&mut m.being_failed) {
                m.state = MemberState::Active;
            }
        }
        self.0.watch.give_up(|_, kind| kind == Kind::Write);
        self.0.changed.notify();
    }

    /// The next sentence about the members' health. One listener at a time hears each.
    pub async fn news(&self) -> String {
        self.0.news.next().await
    }

    /// An operation on a member failed, or had no answer in time: counts it and keeps what it was.
    fn trouble(&self, member: MemberIndex, doing: Doing, at: u64, e: Option<DiskError>) {
        let mut members = self.0.members.borrow_mut();
        let m = &mut members[member.at()];
        m.trouble = Some((doing, e));
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
    }

    /// Stops taking writes, since this member is one too many.
    fn halt_without(&self, member: MemberIndex) {
        if !self.is_halted() {
            let members = self.0.members.borrow();
            let m = &members[member.at()];
            let path = m.disk.as_ref().map_or_else(String::new, |d| d.facts().path);
            let gone = members.iter().filter(|m| m.state != MemberState::Active).count();
            self.0.news.tell(news::halted(&path, m.trouble, gone, members.len()));
        }
        self.halt();
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

    /// Whether a member can be read and written.
    #[must_use]
    pub fn is_active(&self, member: MemberIndex) -> bool {
        self.0.members.borrow()[member.at()].state == MemberState::Active
    }

    /// Number of members and journal devices that are not active.
    #[must_use]
    pub fn gone(&self) -> usize {
        self.gone_members() + self.gone_journals()
    }

    /// Number of members that are not active.
    #[must_use]
    pub fn gone_members(&self) -> usize {
        out(&self.0.members.borrow()[..self.0.data])
    }

    /// Number of journal devices that are not active.
    #[must_use]
    pub fn gone_journals(&self) -> usize {
        out(&self.0.members.borrow()[self.0.data..])
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

    /// All that are active, ascending.
    fn active(&self) -> Vec<MemberIndex> {
        let members = self.0.members.borrow();
        let active = members.iter().enumerate().filter(|(_, m)| m.state == MemberState::Active);
        active.map(|(i, _)| MemberIndex(i as u8)).collect()
    }

    fn is_journal(&self, member: MemberIndex) -> bool {
        member.at() >= self.0.data
    }

    /// State, path, read and write errors of a member.
    #[must_use]
    pub fn describe(&self, member: MemberIndex) -> (MemberState, String, u64, u64) {
        let members = self.0.members.borrow();
        let m = &members[member.at()];
        let path = m.disk.as_ref().map_or_else(String::new, |d| d.facts().path);
        (m.state, path, m.read_errors, m.write_errors)
    }

    /// UUID of the array.
    #[must_use]
    pub fn superblock_array(&self) -> u128 {
        self.0.superblock.borrow().array
    }

    /// How many blocks and pages of a member were not what their checksums say, and how many of
    /// these were written again.
    #[must_use]
    pub fn wrong(&self, member: MemberIndex) -> (u64, u64) {
        let members = self.0.members.borrow();
        (members[member.at()].checksum_errors, members[member.at()].healed)
    }

    /// What lies at byte `at` of a member is not what was written there: counts and tells it.
    pub(crate) fn found_bad(&self, member: MemberIndex, at: u64, what: &str) {
        let mut members = self.0.members.borrow_mut();
        let m = &mut members[member.at()];
        m.checksum_errors += 1;
        let path = m.disk.as_ref().map_or_else(String::new, |d| d.facts().path);
        if news::is_told(m.checksum_errors) {
            let name = &self.0.superblock.borrow().name;
            self.0.news.tell(news::wrong(name, &path, at, what, m.checksum_errors));
        }
    }

    /// So many blocks or pages of a member were written again, and read back.
    pub(crate) fn healed(&self, member: MemberIndex, count: u64) {
        self.0.members.borrow_mut()[member.at()].healed += count;
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

    fn disk(&self, member: MemberIndex) -> Option<W::Disk> {
        let members = self.0.members.borrow();
        let m = &members[member.at()];
        if m.state == MemberState::Active { m.disk.clone() } else { None }
    }

    /// Reads from a member. None if it is not active or the read failed; a member that is gone
    /// is failed on the way.
    pub async fn read(&self, member: MemberIndex, at: u64, buf: Buf) -> Option<Buf> {
        let disk = self.disk(member)?;
        let mut t = self.0.traffic.get();
        (t.reads, t.read_bytes) = (t.reads + 1, t.read_bytes + buf.len() as u64);
        self.0.traffic.set(t);
        let done = self.0.watch.wait(&self.0.world, member, Kind::Read, disk.read(at, buf)).await;
        let Some((done, mut buf)) = done else {
            if self.is_active(member) {
                self.trouble(member, Doing::Read, at, None);
                // Where others can give what it holds, a disk that does not answer is failed.
                if self.gone_members() < self.0.parity && !self.0.read_only {
                    let _ = self.fail(member).await;
                }
            }
            return None;
        };
        match done {
            Ok(()) => {
                let overlay = self.0.overlay.borrow();
                if !overlay.is_empty() {
                    for (i, block) in buf.chunks_mut(BLOCK).enumerate() {
                        let at = at + (i * BLOCK) as u64;
                        if let Some(newer) = overlay.get(&(member.0, at)) {
                            block.copy_from_slice(newer);
                        }
                    }
                }
                Some(buf)
            }
            Err(e) => {
                self.trouble(member, Doing::Read, at, Some(e));
                if e == DiskError::Gone && !self.0.read_only {
                    let _ = self.fail(member).await;
                }
                None
            }
        }
    }

    /// Writes to a member. `Ok(false)`: it is gone, durably so.
    ///
    /// # Errors
    /// `Halted` if the array has lost too much; nothing may be acknowledged then.
    pub async fn write(&self, member: MemberIndex, at: u64, segs: Segs) -> Result<bool, Halted> {
        assert!(!self.0.read_only, "a read-only start writes nothing");
        if self.0.halted.get() {
            return Err(Halted);
        }
        let Some(disk) = self.disk(member) else {
            return self.settled(member).await;
        };
        let mut t = self.0.traffic.get();
        t.writes += 1;
        t.write_bytes += evenkeel_journal::mem::segs_len(&segs) as u64;
        self.0.traffic.set(t);
        let write = disk.write(at, segs);
        match self.0.watch.wait(&self.0.world, member, Kind::Write, write).await {
            Some(Ok(())) => {
                self.0.members.borrow_mut()[member.at()].written += 1;
                if self.is_active(member) { Ok(true) } else { self.settled(member).await }
            }
            // It failed meanwhile, durably: what is still under way counts as ended (I4).
            None if !self.is_active(member) => self.settled(member).await,
            failed => {
                self.trouble(member, Doing::Write, at, failed.and_then(Result::err));
                self.fail(member).await?;
                Ok(false)
            }
        }
    }

    /// Makes every completed write to every active member and journal device stable (I5). One that
    /// is just being failed has missed something: this ends only when that is recorded (I3).
    ///
    /// # Errors
    /// `Halted` as for [`Members::write`].
    pub async fn flush(&self) -> Result<(), Halted> {
        self.flush_some(self.active()).await
    }

    /// Makes every completed write to every active member stable: chunks and pages.
    ///
    /// # Errors
    /// `Halted` as for [`Members::write`].
    pub async fn flush_members(&self) -> Result<(), Halted> {
        let members = self.active().into_iter().filter(|m| !self.is_journal(*m));
        self.flush_some(members.collect()).await
    }

    async fn flush_some(&self, some: Vec<MemberIndex>) -> Result<(), Halted> {
        if self.0.halted.get() {
            return Err(Halted);
        }
        let all: Vec<_> = some.into_iter().map(|m| self.flush_one(m)).collect();
        for done in join_all(all).await {
            done?;
        }
        self.none_being_failed().await
    }

    async fn none_being_failed(&self) -> Result<(), Halted> {
        loop {
            if self.0.halted.get() {
                return Err(Halted);
            }
            if self.0.members.borrow().iter().all(|m| !m.being_failed) {
                return Ok(());
            }
            self.0.changed.wait().await;
        }
    }

    async fn flush_one(&self, member: MemberIndex) -> Result<(), Halted> {
        let Some(disk) = self.disk(member) else {
            return self.settled(member).await.map(|_| ());
        };
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
                Ok(())
            }
            None if !self.is_active(member) => self.settled(member).await.map(|_| ()),
            failed => {
                self.trouble(member, Doing::Flush, 0, failed.and_then(Result::err));
                self.fail(member).await
            }
        }
    }

    /// Waits until the failure of a member that is not active is recorded.
    async fn settled(&self, member: MemberIndex) -> Result<bool, Halted> {
        loop {
            if self.0.halted.get() {
                return Err(Halted);
            }
            if !self.0.members.borrow()[member.at()].being_failed {
                return Ok(false);
            }
            self.0.changed.wait().await;
        }
    }

    /// A member failed: nothing is read from it any more, and its failure is durable in the
    /// survivors' superblocks when this returns (I3), after a short grace (I7).
    ///
    /// # Errors
    /// `Halted` if too few are left, or if more fail within the grace: then nothing is recorded
    /// (I7) and no write is taken any more.
    pub async fn fail(&self, member: MemberIndex) -> Result<(), Halted> {
        self.fail_after(member, Some(GRACE)).await
    }

    /// As [`Members::fail`], but by order of a person: at once.
    ///
    /// # Errors
    /// As for [`Members::fail`].
    pub async fn fail_now(&self, member: MemberIndex) -> Result<(), Halted> {
        self.0.members.borrow_mut()[member.at()].trouble = None;
        self.fail_after(member, None).await
    }

    async fn fail_after(&self, member: MemberIndex, grace: Option<Duration>) -> Result<(), Halted> {
        match self.mark_failed(member) {
            Mark::Marked => {}
            Mark::Already => return self.settled(member).await.map(|_| ()),
            Mark::TooMany => {
                self.halt_without(member);
                return Err(Halted);
            }
        }
        if broken(Sabotage::FailureNotRecorded) {
            self.0.members.borrow_mut()[member.at()].being_failed = false;
            return Ok(());
        }
        if let Some(grace) = grace {
            self.0.world.sleep(grace).await;
            self.ask_the_others().await?;
            if self.0.halted.get() {
                return Err(Halted);
            }
            // Another one's failure may have recorded this one, too.
            if !self.0.members.borrow()[member.at()].being_failed {
                return Ok(());
            }
        }
        self.advance_epoch(|_| ()).await
    }

    /// Whether the other members still answer: some of them may not have been asked for anything
    /// during the grace. One that does not has failed, too.
    async fn ask_the_others(&self) -> Result<(), Halted> {
        let ask = |member: MemberIndex| {
            let (this, disk) = (self.clone(), self.disk(member));
            async move {
                let Some(disk) = disk else {
                    return (member, Some(Ok(())));
                };
                let asked = async {
                    // A sector that cannot be read is an answer, too: the disk is there.
                    match disk.read(SUPERBLOCK_A, Buf::new(BLOCK)).await.0 {
                        Err(DiskError::Gone) => Err(DiskError::Gone),
                        _ => disk.flush().await,
                    }
                };
                let done = this.0.watch.wait(&this.0.world, member, Kind::Write, asked).await;
                (member, done)
            }
        };
        for (member, done) in join_all(self.active().into_iter().map(ask).collect()).await {
            if done == Some(Ok(())) {
                continue;
            }
            self.trouble(member, Doing::Ask, SUPERBLOCK_A, done.and_then(Result::err));
            if self.mark_failed(member) == Mark::TooMany {
                self.halt_without(member);
                return Err(Halted);
            }
        }
        Ok(())
    }

    /// Marks a member failed in memory, unless that would leave too few.
    fn mark_failed(&self, member: MemberIndex) -> Mark {
        let mut members = self.0.members.borrow_mut();
        let (gone, tolerated) = if self.is_journal(member) {
            (out(&members[self.0.data..]), self.0.journals_out)
        } else {
            (out(&members[..self.0.data]), self.0.parity)
        };
        let m = &mut members[member.at()];
        if m.state != MemberState::Active {
            return Mark::Already;
        }
        if gone + 1 > tolerated {
            return Mark::TooMany;
        }
        m.state = MemberState::Failed;
        m.being_failed = true;
        Mark::Marked
    }

    /// Makes a new epoch with the present states and whatever `change` does to it: prepared on
    /// all active members, then in force.
    ///
    /// # Errors
    /// `Halted` if too many members fail meanwhile.
    pub async fn advance_epoch(&self, change: impl FnOnce(&mut Superblock)) -> Result<(), Halted> {
        let _turn = self.0.epoch_lock.lock().await;
        let mut base = self.superblock();
        change(&mut base);
        let mut number = base.epoch;
        loop {
            if self.0.halted.get() {
                return Err(Halted);
            }
            let parent = self.superblock();
            number += 1;
            let mut next = base.clone();
            next.parent = parent.epoch_id;
            next.epoch = number;
            next.epoch_id =
                u128::from(self.0.world.random()) << 64 | u128::from(self.0.world.random());
            next.history = parent.history.clone();
            next.history.insert(0, (parent.epoch, parent.epoch_id));
            next.history.truncate(HISTORY);
            for (entry, m) in next.members.iter_mut().zip(self.0.members.borrow().iter()) {
                if entry.state == MemberState::Active && m.state != MemberState::Active {
                    entry.failed_at = self.0.tail.get();
                }
                entry.state = m.state;
            }
            next.phase = Phase::Prepared;
            if !self.write_superblocks(&next, Place::A).await? {
                continue;
            }
            // Decided: every survivor bears it.
            next.phase = Phase::InForce;
            *self.0.superblock.borrow_mut() = next.clone();
            base = next.clone();
            let marked = self.write_superblocks(&next, Place::B).await?
                && self.write_superblocks(&next, Place::C).await?;
            if marked {
                break;
            }
        }
        let recorded = self.superblock();
        let left = self.can_lose();
        for (m, entry) in self.0.members.borrow_mut().iter_mut().zip(&recorded.members) {
            if m.state == entry.state && std::mem::take(&mut m.being_failed) {
                let path = m.disk.as_ref().map_or_else(String::new, |d| d.facts().path);
                self.0.news.tell(news::failed(&path, m.trouble, recorded.epoch, left));
            }
        }
        let recorded = |m: MemberIndex| recorded.members[m.at()].state != MemberState::Active;
        self.0.watch.give_up(|m, _| recorded(m));
        self.0.changed.notify();
        Ok(())
    }

    /// Marks the epoch in force on copies B and C of all active members, before a newer one is
    /// prepared over copy A. Gives whether all could be written.
    ///
    /// # Errors
    /// `Halted` if too many members fail.
    pub async fn mark_in_force(&self) -> Result<bool, Halted> {
        // What was read may still be volatile: the daemon that wrote it died before its flush.
        self.flush().await?;
        let _turn = self.0.epoch_lock.lock().await;
        let before = self.gone();
        let s = self.superblock();
        self.write_superblocks(&s, Place::B).await?;
        self.write_superblocks(&s, Place::C).await?;
        Ok(self.gone() == before)
    }

    /// Writes one copy on all active members and flushes them. False: a member failed in between
    /// (it is marked so), and the epoch must name it.
    async fn write_superblocks(&self, s: &Superblock, place: Place) -> Result<bool, Halted> {
        let one = |member: MemberIndex| {
            let disk = self.disk(member);
            let at = place.byte(&s.geometry, member);
            let bytes = s.encode(member.0, at).freeze();
            let this = self.clone();
            async move {
                let Some(disk) = disk else {
                    return (member, Some(Ok(())));
                };
                let written = async {
                    disk.write(at, vec![bytes]).await?;
                    disk.flush().await
                };
                let done = this.0.watch.wait(&this.0.world, member, Kind::Write, written).await;
                (member, done)
            }
        };
        let all = self.active().into_iter().map(one).collect();
        let mut whole = true;
        for (member, done) in join_all(all).await {
            if done == Some(Ok(())) {
                continue;
            }
            whole = false;
            let at = place.byte(&s.geometry, member);
            self.trouble(member, Doing::Write, at, done.and_then(Result::err));
            if self.mark_failed(member) == Mark::TooMany {
                self.halt_without(member);
                return Err(Halted);
            }
        }
        if self.0.halted.get() {
            return Err(Halted);
        }
        // Someone else may have failed a member of this epoch while it was being written.
        let members = self.0.members.borrow();
        let agrees = s.members.iter().zip(members.iter()).all(|(e, m)| e.state == m.state);
        Ok(whole && agrees)
    }
}

impl<W: World> LogDevices for Members<W> {
    fn live(&self) -> Vec<MemberIndex> {
        let on_journals = self.0.log_home.get() == LogHome::Journals;
        self.active().into_iter().filter(|m| self.is_journal(*m) == on_journals).collect()
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

fn out<D>(members: &[Member<D>]) -> usize {
    members.iter().filter(|m| m.state != MemberState::Active).count()
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
