//! ④ Members that fail: the array freezes, waits for those that may come back, writes again what they
//! and the others may have lost, and thaws (I7).
//!
//! From the first failure on the array is *frozen*: no write, flush or epoch begins, so nothing is
//! acknowledged that needs one, and neither tail nor epoch moves. Reads go on where they can be
//! served, with what was written and not flushed laid over them. In this order (`run_freeze`):
//!
//! 1. a short grace, in which others that fail with it (a controller, a cable) show themselves; then
//!    all others are asked;
//! 2. if more are away than the array tolerates, those that are away are opened again, again and
//!    again, until enough are back or the bound of an operation is over;
//! 3. what was written to each member since its last good flush is written again, on all, and
//!    flushed: one that answers may have been reset with the others, and have lost it silently;
//! 4. thaw: what failed meanwhile ends well; members still away, as many as are tolerated, are failed
//!    and recorded. Or, if too many stay away: the array halts, and nothing is recorded (I8).
//!
//! What must hold: a member is taken back only if it is this array's, this one, in the epoch in
//! force, as large as it was, and if none of its old writes is still under way.

use std::time::Duration;

use evenkeel_journal::log::Halted;
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::{join_all, within};
use evenkeel_journal::{BLOCK, Buf, Disk, DiskError, MemberIndex, World};

use crate::advance::Place;
use crate::geometry::{LOG_OFFSET, SUPERBLOCK_A, SUPERBLOCK_BYTES};
use crate::hung::Kind;
use crate::members::{Member, Members};
use crate::news::{self, Doing, Trouble};
use crate::status::MemberState;
use crate::superblock::{BadSuperblock, Superblock};

/// How long a failure waits to be decided: others that fail with it show themselves meanwhile.
const GRACE: Duration = Duration::from_millis(250);
/// Between two tries to open members again.
const PAUSE: Duration = Duration::from_millis(200);
/// Where a member is asked whether it still takes writes: nothing lies there.
const ASKED_AT: u64 = LOG_OFFSET - BLOCK as u64;
/// Writes that are written again together, of one member.
const AGAIN_AT_ONCE: usize = 64;

impl<W: World> Members<W> {
    /// A member failed: nothing is read from it any more. Waits for what becomes of it. True: it is
    /// back, and what was to be written is on it, flushed. False: its failure is durable in the
    /// survivors' superblocks (I3).
    ///
    /// # Errors
    /// `Halted` if too many failed and did not come back: then nothing is recorded (I7) and no
    /// write is taken any more.
    pub(crate) async fn fail(&self, member: MemberIndex) -> Result<bool, Halted> {
        self.suspect(member);
        self.decided(member).await
    }

    /// A member failed: it is away, and the array frozen, until it is decided what becomes of it.
    pub(crate) fn suspect(&self, member: MemberIndex) {
        {
            let mut members = self.0.members.borrow_mut();
            let m = &mut members[member.at()];
            if self.is_halted() || !m.state.bears_epochs() || m.away {
                return;
            }
            m.away = true;
        }
        if !self.0.frozen.replace(true) {
            let this = self.clone();
            self.0.world.spawn("freeze", async move { this.run_freeze().await });
        }
        self.0.changed.notify();
        self.0.watch.ended().notify();
    }

    /// Fails a member by order of a person: at once.
    ///
    /// # Errors
    /// `Halted` if too few would be left, or if others fail meanwhile and do not come back.
    pub async fn fail_now(&self, member: MemberIndex) -> Result<(), Halted> {
        self.fail_because(member, None).await
    }

    /// The same, for a reason of which people are told.
    pub(crate) async fn fail_because(
        &self,
        member: MemberIndex,
        trouble: Option<Trouble>,
    ) -> Result<(), Halted> {
        self.thawed().await?;
        let before = {
            let mut members = self.0.members.borrow_mut();
            let m = &mut members[member.at()];
            let before = m.state;
            if before.bears_epochs() {
                (m.state, m.being_failed, m.trouble) = (MemberState::Failed, true, trouble);
            }
            if self.is_halted() {
                return Err(Halted);
            }
            before
        };
        if self.too_many_are_out() {
            let mut members = self.0.members.borrow_mut();
            let m = &mut members[member.at()];
            (m.state, m.being_failed) = (before, false);
            return Err(Halted);
        }
        self.0.members.borrow_mut()[member.at()].unflushed.clear();
        if broken(Sabotage::FailureNotRecorded) {
            self.0.members.borrow_mut()[member.at()].being_failed = false;
            return Ok(());
        }
        self.record_failures().await
    }

    /// Waits until it is decided what becomes of this member, and of all while the array is frozen:
    /// true if it is in use, false if it is out, durably so.
    pub(crate) async fn decided(&self, member: MemberIndex) -> Result<bool, Halted> {
        loop {
            self.thawed().await?;
            {
                let m = &self.0.members.borrow()[member.at()];
                if !m.being_failed {
                    return Ok(m.state.bears_epochs());
                }
            }
            self.0.changed.wait().await;
        }
    }

    /// Waits until the array is not frozen.
    pub(crate) async fn thawed(&self) -> Result<(), Halted> {
        loop {
            if self.is_halted() {
                return Err(Halted);
            }
            if !self.0.frozen.get() {
                return Ok(());
            }
            self.0.changed.wait().await;
        }
    }

    /// Enough members did not give what was to be read, for the `nth` time. Whether it may be tried
    /// again: because they were away, or once more in any case, since they may be back by now.
    /// Members of which nothing at all can be read are away if they are too many.
    pub(crate) async fn may_be_read_again(&self, nth: usize) -> bool {
        if self.is_halted() || self.is_read_only() {
            return false;
        }
        if !self.0.frozen.get() {
            let asked = self.active().into_iter().map(|m| async move {
                if self.is_given_up(m) {
                    return (m, true);
                }
                let copies = self.copies_on(m, self.disk(m)).await;
                (m, copies.iter().all(Option::is_none))
            });
            let asked = join_all(asked.collect()).await.into_iter();
            let silent: Vec<MemberIndex> = asked.filter(|a| a.1).map(|a| a.0).collect();
            if self.would_be_too_many(&silent) {
                silent.into_iter().for_each(|m| self.suspect(m));
            }
        }
        let waited = self.0.frozen.get();
        self.thawed().await.is_ok() && (waited || nth == 0)
    }

    // ---- the freeze ----

    async fn run_freeze(&self) {
        let began = self.0.world.now();
        self.0.world.sleep(GRACE).await;
        self.ask_the_others().await;
        let bound = self.0.watch.bound();
        // Since when they are waited for, and since when enough are back.
        let (mut waits_since, mut enough_since) = (None, None);
        while !self.is_halted() {
            let now = self.0.world.now();
            let over = waits_since.is_some_and(|since| now - since >= bound);
            let back = if waits_since.is_some() { self.reopen_all().await } else { Vec::new() };
            self.quiet().await;
            self.write_all_again(back).await;
            if self.too_many_are_out() {
                // An array that is being made has nothing to come back to.
                if over || self.superblock().epoch == 0 {
                    return self.give_up();
                }
                enough_since = None;
                if waits_since.replace(waits_since.unwrap_or(now)).is_none() {
                    self.tell_of_reset();
                    continue;
                }
            } else {
                // The rest may follow those that are back.
                let long = now - *enough_since.get_or_insert(now) >= bound / 4;
                let all = self.those(|m| m.away).is_empty();
                if waits_since.is_none() || all || over || long {
                    return self.thaw(waits_since.map(|_| now - began)).await;
                }
            }
            self.0.world.sleep(PAUSE).await;
        }
    }

    /// Whether the other members still answer and take writes: some of them may not have been asked
    /// for anything during the grace. One that does not is away, too.
    async fn ask_the_others(&self) {
        let zeros = Buf::zeroed(BLOCK).freeze();
        let ask = |member: MemberIndex| {
            let (this, disk, zeros) = (self.clone(), self.disk(member), zeros.clone());
            async move {
                let Some(disk) = disk else {
                    return (member, Some(Ok(())));
                };
                let asked = async move {
                    // A sector that cannot be read is an answer, too: the disk is there.
                    match disk.read(SUPERBLOCK_A, Buf::new(BLOCK)).await.0 {
                        Err(DiskError::Gone) => return Err(DiskError::Gone),
                        _ => disk.write(ASKED_AT, vec![zeros]).await?,
                    }
                    disk.flush().await
                };
                let done = this.0.watch.wait(&this.0.world, member, Kind::Write, asked).await;
                (member, done)
            }
        };
        for (member, done) in join_all(self.bearers().into_iter().map(ask).collect()).await {
            if done != Some(Ok(())) {
                self.trouble(member, Doing::Ask, SUPERBLOCK_A, done.and_then(Result::err));
                self.suspect(member);
            }
        }
    }

    /// Waits until no write is under way on the members that are not away. One that takes too long
    /// makes its member one of those.
    async fn quiet(&self) {
        loop {
            let ended = self.0.watch.ended().wait();
            if self.bearers().into_iter().all(|m| !self.0.watch.is_writing(m)) {
                return;
            }
            ended.await;
        }
    }

    /// Opens all that are away again, as far as that can be done soon and they are to be believed.
    async fn reopen_all(&self) -> Vec<(MemberIndex, W::Disk)> {
        let soon = PAUSE.max(self.0.watch.bound() / 8);
        let away = self.those(|m| m.away).into_iter();
        let away = away.map(|m| within(self.0.world.sleep(soon), self.reopen(m)));
        join_all(away.collect()).await.into_iter().flatten().flatten().collect()
    }

    async fn reopen(&self, member: MemberIndex) -> Option<(MemberIndex, W::Disk)> {
        // I7: a late write would land over what is newer.
        if self.0.watch.is_writing(member) {
            return None;
        }
        let old = self.0.members.borrow()[member.at()].disk.clone()?;
        let opened = self.0.world.reopen(&old);
        let disk = self.0.watch.wait(&self.0.world, member, Kind::Read, opened).await??;
        let s = self.superblock();
        if disk.facts().bytes < s.geometry.bytes_of(member) {
            return None;
        }
        // One copy may have been torn; but one that is not there at all is another disk's.
        let copies = self.copies_on(member, Some(disk.clone())).await;
        // One that is just being added has no entry yet.
        let uuid = s.members.get(member.at())?.uuid;
        let own = |c: &Superblock| c.array == s.array && c.index == member.0 && c.uuid() == uuid;
        let whole: Vec<&Superblock> = copies.iter().flatten().flatten().collect();
        let absent = copies.contains(&Some(Err(BadSuperblock::Absent)));
        let believed = !absent
            && whole.len() >= 2
            && whole.iter().all(|c| own(c))
            && whole.iter().any(|c| (c.epoch, c.epoch_id) == (s.epoch, s.epoch_id));
        believed.then_some((member, disk))
    }

    /// The three copies of the superblock as they are on a disk; None for one that is unreadable.
    async fn copies_on(
        &self,
        member: MemberIndex,
        disk: Option<W::Disk>,
    ) -> Vec<Option<Result<Superblock, BadSuperblock>>> {
        let geometry = self.superblock().geometry;
        let Some(disk) = disk else { return Vec::new() };
        let mut copies = Vec::new();
        for place in [Place::A, Place::B, Place::C] {
            copies.push(self.copy_at(member, &disk, place.byte(&geometry, member)).await);
        }
        // While the epoch of a growth is written, copy C may not be at its new place yet.
        if let (Some(before), Some(Err(BadSuperblock::Absent))) =
            (self.0.grows_from.get(), &copies[2])
        {
            copies[2] = self.copy_at(member, &disk, Place::C.byte(&before, member)).await;
        }
        copies
    }

    async fn copy_at(
        &self,
        member: MemberIndex,
        disk: &W::Disk,
        at: u64,
    ) -> Option<Result<Superblock, BadSuperblock>> {
        let read = disk.read(at, Buf::new(SUPERBLOCK_BYTES as usize));
        let read = self.0.watch.wait(&self.0.world, member, Kind::Read, read).await;
        let whole = read.filter(|(done, _)| done.is_ok());
        whole.map(|(_, bytes)| Superblock::decode(&bytes, at))
    }

    /// Writes again what every bearer, and those that are back, may have lost; those are
    /// active again, and one that fails is away.
    async fn write_all_again(&self, back: Vec<(MemberIndex, W::Disk)>) {
        let here = self.bearers().into_iter().filter_map(|m| Some((m, self.disk(m)?)));
        let all = here.chain(back).map(|(member, disk)| async move {
            (member, self.write_again(member, disk.clone()).await.then_some(disk))
        });
        for (member, disk) in join_all(all.collect()).await {
            let Some(disk) = disk else {
                self.suspect(member);
                continue;
            };
            let mut members = self.0.members.borrow_mut();
            let m = &mut members[member.at()];
            if m.away {
                self.0.watch.new_disk(member);
            }
            (m.disk, m.away, m.flushed) = (Some(disk), false, m.written);
            m.unflushed.clear();
            m.rewritten += 1;
        }
        self.0.changed.notify();
    }

    /// Writes again, in the order of their submission, what no good flush has covered; flushes. There
    /// may be nothing: that the member takes writes is asked in any case. One that can be read and
    /// flushed, and not written to, would come back to fail the next write, time after time.
    async fn write_again(&self, member: MemberIndex, disk: W::Disk) -> bool {
        let groups = self.0.members.borrow()[member.at()].unflushed.groups(AGAIN_AT_ONCE);
        let mut groups = if broken(Sabotage::NotWrittenAgain) { Vec::new() } else { groups };
        groups.push(vec![(ASKED_AT, vec![Buf::zeroed(BLOCK).freeze()])]);
        for group in groups {
            let writes = group.into_iter().map(|(at, segs)| {
                let write = disk.write(at, segs);
                self.0.watch.wait(&self.0.world, member, Kind::Write, write)
            });
            for done in join_all(writes.collect()).await {
                if done != Some(Ok(())) {
                    self.trouble(member, Doing::Write, 0, done.and_then(Result::err));
                    return false;
                }
            }
        }
        let done = self.0.watch.wait(&self.0.world, member, Kind::Write, disk.flush()).await;
        if done != Some(Ok(())) {
            self.trouble(member, Doing::Flush, 0, done.and_then(Result::err));
        }
        done == Some(Ok(()))
    }

    /// Operations begin again. Members still away are failed, and that is recorded.
    async fn thaw(&self, after_reset: Option<Duration>) {
        assert!(!self.too_many_are_out(), "I7: a failure too many is never recorded");
        let away = self.those(|m| m.away);
        if let Some(waited) = after_reset {
            self.0.news.tell(news::thawed(waited, away.len()));
        }
        for member in &away {
            let mut members = self.0.members.borrow_mut();
            let m = &mut members[member.at()];
            (m.state, m.away) = (MemberState::Failed, false);
            m.being_failed = !broken(Sabotage::FailureNotRecorded);
            m.unflushed.clear();
        }
        self.0.frozen.set(false);
        self.0.changed.notify();
        // If that cannot be done, the array has halted.
        let _ = self.record_failures().await;
    }

    /// Members and journal devices, without the spares: these are not counted.
    fn in_table<'a>(&self, members: &'a [Member<W::Disk>]) -> &'a [Member<W::Disk>] {
        &members[..self.0.table]
    }

    fn tell_of_reset(&self) {
        let members = self.0.members.borrow();
        let members = self.in_table(&members);
        let away = members.iter().filter(|m| m.away);
        let away: Vec<_> = away.map(|m| (m.path(), m.trouble)).collect();
        self.0.news.tell(news::frozen(&away, members.len(), self.0.watch.bound()));
    }

    /// Too many stay away: stops taking writes for good.
    fn give_up(&self) {
        {
            let members = self.0.members.borrow();
            let members = self.in_table(&members);
            let out = members.iter().filter(|m| !m.away && !m.state.serves()).count();
            let away = members.iter().filter(|m| m.away);
            let away: Vec<_> = away.map(|m| (m.path(), m.trouble)).collect();
            self.0.news.tell(news::halted(&away, out, members.len()));
        }
        self.halt();
    }
}
