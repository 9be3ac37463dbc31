//! Spares, and the disks that are being filled to take a member's place: *twins*. A twin has an entry of
//! its own in the member table; whatever is written to its member is written to it as well, it is
//! flushed and failed like a member, but never read and never counted (I9).
//!
//! What must hold: a disk bears the epoch that names it before anything else of it is used; when it
//! takes its place nothing is under way on it, and the epoch that says so is in force before any write
//! goes on.

use evenkeel_journal::log::Halted;
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::{Signal, either};
use evenkeel_journal::{BLOCK, Disk, Lsn, MemberIndex, World};

use super::{Member, MemberState, Members};
use crate::advance::Place;
use crate::hung::Kind;
use crate::news::Doing;
use crate::superblock::{Filling, MAX_SPARES, MemberEntry, Superblock};

/// A write or flush that goes to a twin, too: it goes with the operation.
pub(super) struct ToTwin<W: World>(Members<W>);

impl<W: World> Drop for ToTwin<W> {
    fn drop(&mut self) {
        let inner = &self.0.0;
        inner.to_twins.set(inner.to_twins.get() - 1);
        if inner.changing_seats.get() {
            inner.changed.notify();
        }
    }
}

impl<W: World> Members<W> {
    /// The one that is being filled to take this member's place.
    #[must_use]
    pub fn twin_of(&self, member: MemberIndex) -> Option<MemberIndex> {
        let members = self.0.members.borrow();
        let twin =
            |m: &Member<W::Disk>| m.state == MemberState::Rebuilding && m.takes == Some(member);
        let at = members[self.0.table..].iter().position(twin)?;
        Some(MemberIndex((self.0.table + at) as u8))
    }

    /// All that are being filled, and whose place each will take.
    #[must_use]
    pub fn twins(&self) -> Vec<(MemberIndex, MemberIndex)> {
        let twins = self.those(|m| m.state == MemberState::Rebuilding).into_iter();
        let members = self.0.members.borrow();
        twins.filter_map(|t| Some((t, members[t.at()].takes?))).collect()
    }

    /// The first spare that is there.
    #[must_use]
    pub fn spare(&self) -> Option<MemberIndex> {
        self.those(|m| m.state == MemberState::Spare && !m.away && !m.being_failed).first().copied()
    }

    /// How many spares are there, and how many the member table names.
    #[must_use]
    pub fn spares(&self) -> (usize, usize) {
        let spare = |e: &&MemberEntry| e.state == MemberState::Spare;
        let wanted = self.0.superblock.borrow().members.iter().filter(spare).count();
        (self.those(|m| m.state == MemberState::Spare && !m.away).len(), wanted)
    }

    /// Members that are out, durably so, or failing, and whose place nobody is taking.
    #[must_use]
    pub fn vacant(&self) -> Vec<MemberIndex> {
        let out = self.those(|m| !m.state.serves() && !m.being_failed).into_iter();
        let failing = self.those(|m| m.state == MemberState::Failing && !m.away).into_iter();
        let all = out.chain(failing).filter(|m| m.at() < self.0.data);
        all.filter(|m| self.twin_of(*m).is_none()).collect()
    }

    /// Notified when the health of a member changes.
    pub(crate) fn changed(&self) -> &Signal {
        &self.0.changed
    }

    /// Whether writes of before a member failed have not really ended.
    pub(crate) fn has_writes_under_way(&self, member: MemberIndex) -> bool {
        self.0.watch.is_writing(member)
    }

    /// A write is about to go to a twin, too.
    pub(super) fn to_twin(&self) -> ToTwin<W> {
        self.0.to_twins.set(self.0.to_twins.get() + 1);
        ToTwin(self.clone())
    }

    /// Waits while a disk takes its place.
    pub(super) async fn no_change_of_seats(&self) -> Result<(), Halted> {
        while self.0.changing_seats.get() {
            if self.is_halted() {
                return Err(Halted);
            }
            self.0.changed.wait().await;
        }
        Ok(())
    }

    /// Takes a disk in as a spare: when this returns it bears the epoch that names it. `None`: it
    /// failed meanwhile.
    ///
    /// # Errors
    /// `Halted` if too many members fail.
    pub(crate) async fn add_spare(
        &self,
        disk: W::Disk,
        uuid: u128,
    ) -> Result<Option<MemberIndex>, Halted> {
        let at = std::cell::Cell::new(None);
        self.advance_epoch(|s| {
            let mut members = self.0.members.borrow_mut();
            let spares = s.geometry.table();
            let free = s.members.iter().skip(spares).position(MemberEntry::is_free);
            let index = free.map_or(s.members.len(), |f| spares + f);
            let ring = s.geometry.cache_blocks as usize * BLOCK;
            let member = Member::new(Some(disk), MemberState::Spare, ring);
            if index == members.len() {
                members.push(member);
                s.members.push(MemberEntry::spare(uuid));
            } else {
                let seat = members[index].seat + 1;
                members[index] = Member { seat, ..member };
                s.members[index] = MemberEntry::spare(uuid);
            }
            self.0.watch.new_disk(MemberIndex(index as u8));
            at.set(Some(MemberIndex(index as u8)));
        })
        .await?;
        Ok(at.get().filter(|m| self.is_bearer(*m)))
    }

    /// Whether one more spare has room in the member table.
    pub(crate) fn has_room_for_a_spare(&self) -> bool {
        let s = self.0.superblock.borrow();
        let spares = s.members.len() - s.geometry.table();
        let free = s.members.iter().skip(s.geometry.table()).any(MemberEntry::is_free);
        free || (spares < MAX_SPARES && s.members.len() < 255)
    }

    /// From now on a spare is filled, to take the place of a member. What was changed before
    /// `missed_from` it holds already. False: one of the two is not what it was.
    ///
    /// # Errors
    /// `Halted` if too many members fail.
    pub(crate) async fn begin_filling(
        &self,
        spare: MemberIndex,
        takes: MemberIndex,
        missed_from: Lsn,
    ) -> Result<bool, Halted> {
        self.thawed().await?;
        let is_spare = |m: &Member<W::Disk>| m.state == MemberState::Spare && !m.away;
        let free = {
            let members = self.0.members.borrow();
            is_spare(&members[spare.at()])
        };
        if !free || self.twin_of(takes).is_some() {
            return Ok(false);
        }
        self.advance_epoch(|s| {
            // While this waited for its turn another may have begun to take the same place.
            let taken = self.twin_of(takes).is_some();
            let mut members = self.0.members.borrow_mut();
            let m = &mut members[spare.at()];
            if !is_spare(m) || taken {
                return;
            }
            (m.state, m.takes) = (MemberState::Rebuilding, Some(takes));
            let entry = &mut s.members[spare.at()];
            entry.state = MemberState::Rebuilding;
            entry.failed_at = missed_from;
            entry.filling = Some(Filling { takes: takes.0, next: 0 });
        })
        .await?;
        let members = self.0.members.borrow();
        let m = &members[spare.at()];
        Ok(m.state == MemberState::Rebuilding && m.takes == Some(takes))
    }

    /// How far a twin is filled, and from which record on it missed what was changed.
    pub(crate) fn filling(&self, twin: MemberIndex) -> Option<(u64, Lsn)> {
        let s = self.0.superblock.borrow();
        let entry = s.members.get(twin.at())?;
        Some((entry.filling?.next, entry.failed_at))
    }

    /// Writes to a twin alone. False: it is gone.
    ///
    /// # Errors
    /// `Halted` as for [`Members::write`].
    pub(crate) async fn write_twin(
        &self,
        twin: MemberIndex,
        at: u64,
        segs: evenkeel_journal::Segs,
    ) -> Result<bool, Halted> {
        self.no_change_of_seats().await?;
        let _to_twin = self.to_twin();
        self.write_one(twin, at, segs).await
    }

    /// Flushes twins, or spares.
    ///
    /// # Errors
    /// `Halted` as for [`Members::flush`].
    pub(crate) async fn flush_twins(&self, twins: Vec<MemberIndex>) -> Result<(), Halted> {
        self.flush_some(twins).await
    }

    /// Reads a block of a twin, to see what is there already. None: it cannot be read.
    pub(crate) async fn read_twin(
        &self,
        twin: MemberIndex,
        at: u64,
    ) -> Option<evenkeel_journal::Buf> {
        let disk = self.disk(twin)?;
        let read = disk.read(at, evenkeel_journal::Buf::new(BLOCK));
        let (done, buf) = self.0.watch.wait(&self.0.world, twin, Kind::Read, read).await?;
        done.ok().map(|()| buf)
    }

    /// Writes down how far a twin is filled: on itself alone, which has been flushed since.
    ///
    /// # Errors
    /// `Halted` if too many members fail.
    pub(crate) async fn filled_up_to(&self, twin: MemberIndex, next: u64) -> Result<(), Halted> {
        self.flush_twins(vec![twin]).await?;
        let mut failed = None;
        {
            let _turn = self.0.epoch_lock.lock().await;
            self.thawed().await?;
            let s = {
                let mut s = self.0.superblock.borrow_mut();
                match s.members.get_mut(twin.at()).and_then(|e| e.filling.as_mut()) {
                    Some(filling) => filling.next = next,
                    None => return Ok(()),
                }
                s.clone()
            };
            for place in [Place::B, Place::C] {
                let at = place.byte(&s.geometry, twin);
                let bytes = s.encode(twin.0, at).freeze();
                let Some(disk) = self.disk(twin) else { return Ok(()) };
                let written = async move {
                    disk.write(at, vec![bytes]).await?;
                    disk.flush().await
                };
                let done = self.0.watch.wait(&self.0.world, twin, Kind::Write, written).await;
                if done != Some(Ok(())) {
                    failed = Some((at, done.and_then(Result::err)));
                    break;
                }
            }
        }
        if let Some((at, e)) = failed {
            self.trouble(twin, Doing::Write, at, e);
            self.fail(twin).await?;
        }
        Ok(())
    }

    /// A twin that is filled takes its place: it is the member from now on, and its entry is free. False:
    /// it failed.
    ///
    /// # Errors
    /// `Halted` if too many members fail.
    pub(crate) async fn take_the_place(&self, twin: MemberIndex) -> Result<bool, Halted> {
        assert!(!self.0.changing_seats.replace(true), "I9: one disk at a time takes its place");
        let done = self.change_seats(twin).await;
        self.0.changing_seats.set(false);
        self.0.changed.notify();
        done
    }

    async fn change_seats(&self, twin: MemberIndex) -> Result<bool, Halted> {
        // Nothing may be under way on it that would be ascribed to another member.
        loop {
            self.thawed().await?;
            if !self.is_bearer(twin) {
                // What hangs on it may never end.
                return Ok(false);
            }
            if !self.0.watch.is_writing(twin) && self.0.to_twins.get() == 0 {
                self.flush_one(twin).await?;
                break;
            }
            either(self.0.watch.ended().wait(), self.0.changed.wait()).await;
        }
        let done = std::cell::Cell::new(false);
        let swap = |s: &mut Superblock| {
            let mut members = self.0.members.borrow_mut();
            let t = &members[twin.at()];
            let Some(takes) = t.takes.filter(|_| t.state == MemberState::Rebuilding) else {
                return;
            };
            if t.away || t.flushed < t.written {
                return;
            }
            let ring = s.geometry.cache_blocks as usize * BLOCK;
            let gone = Member::new(None, MemberState::Missing, ring);
            let seat = t.seat + 1;
            let mut new = std::mem::replace(&mut members[twin.at()], Member { seat, ..gone });
            let old = &members[takes.at()];
            (new.seat, new.state, new.takes) = (old.seat + 1, MemberState::Active, None);
            members[takes.at()] = new;
            self.0.watch.new_disk(takes);
            s.members[takes.at()] = MemberEntry::active(s.members[twin.at()].uuid);
            s.members[twin.at()] = MemberEntry::FREE;
            done.set(true);
        };
        if broken(Sabotage::SeatBeforeEpoch) {
            swap(&mut self.0.superblock.borrow_mut());
            return Ok(done.get());
        }
        self.advance_epoch(swap).await?;
        Ok(done.get())
    }

    /// Forgets a spare, or one that has failed or is missing: its disk is free. False: it is in use.
    ///
    /// # Errors
    /// `Halted` if too many members fail.
    pub(crate) async fn forget(&self, member: MemberIndex) -> Result<bool, Halted> {
        let free = |m: &Member<W::Disk>| {
            !m.being_failed && !m.away && (m.state == MemberState::Spare || !m.state.bears_epochs())
        };
        let done = std::cell::Cell::new(false);
        self.advance_epoch(|s| {
            let mut members = self.0.members.borrow_mut();
            let m = &mut members[member.at()];
            if !free(m) {
                return;
            }
            (m.disk, m.path, m.state) = (None, String::new(), MemberState::Missing);
            if member.at() >= self.0.table {
                s.members[member.at()] = MemberEntry::FREE;
            } else {
                s.members[member.at()].state = MemberState::Missing;
            }
            done.set(true);
        })
        .await?;
        Ok(done.get())
    }
}
