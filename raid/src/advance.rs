//! ④ A new epoch: prepared on all its bearers, then in force on them (I3, I6). Bearers are the active
//! members and journal devices, those that are being filled, and the spares.
//!
//! What must hold: an epoch is in force only when every bearer has it in copy A, and its
//! copies B and C are on all of them before the next one is prepared over A. While the array is frozen
//! no epoch advances: the copy that was being written is written again on all.

use evenkeel_journal::log::Halted;
use evenkeel_journal::sync::join_all;
use evenkeel_journal::{Disk, DiskError, MemberIndex, World};

use crate::geometry::{Geometry, SUPERBLOCK_A, SUPERBLOCK_B};
use crate::hung::Kind;
use crate::members::Members;
use crate::news::{self, Doing};
use crate::status::MemberState;
use crate::superblock::{HISTORY, MemberEntry, Phase, Superblock};

/// A copy of the superblock.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    A,
    B,
    C,
}

impl Place {
    pub(crate) fn byte(self, g: &Geometry, member: MemberIndex) -> u64 {
        match self {
            Place::A => SUPERBLOCK_A,
            Place::B => SUPERBLOCK_B,
            Place::C => g.superblock_c_of(member),
        }
    }
}

/// Whether the table says what is so. A spare that is not there misses nothing, so it stays one.
fn agree(entry: &MemberEntry, state: MemberState) -> bool {
    entry.state == state || (entry.state == MemberState::Spare && state == MemberState::Missing)
}

impl<W: World> Members<W> {
    /// Makes a new epoch with the present states and whatever `change` does to it: prepared on
    /// all bearers, then in force.
    ///
    /// # Errors
    /// `Halted` if too many members fail meanwhile.
    pub async fn advance_epoch(&self, change: impl FnOnce(&mut Superblock)) -> Result<(), Halted> {
        let _turn = self.0.epoch_lock.lock().await;
        let mut base = self.superblock();
        change(&mut base);
        self.advance_to(base).await
    }

    /// Makes a new epoch that names a larger shape.
    ///
    /// # Errors
    /// `Halted` if too many members fail meanwhile.
    pub(crate) async fn advance_shape(&self, grown: Geometry) -> Result<(), Halted> {
        self.0.grows_from.set(Some(self.superblock().geometry));
        let named = self.advance_epoch(|s| {
            s.geometry = grown;
            s.generation += 1;
        });
        let done = named.await;
        self.0.grows_from.set(None);
        done
    }

    /// Records the members that are being failed, unless somebody else has.
    pub(crate) async fn record_failures(&self) -> Result<(), Halted> {
        let _turn = self.0.epoch_lock.lock().await;
        if self.those(|m| m.being_failed).is_empty() {
            return Ok(());
        }
        let base = self.superblock();
        self.advance_to(base).await
    }

    /// The next epoch, with what `base` says and the present states. The lock is held.
    async fn advance_to(&self, mut base: Superblock) -> Result<(), Halted> {
        let mut number = base.epoch;
        loop {
            self.thawed().await?;
            self.mark().await?;
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
                if agree(entry, m.state) {
                    continue;
                }
                if entry.state.serves() && !m.state.serves() {
                    (entry.failed_at, entry.failed_in) = (self.0.tail.get(), next.epoch);
                }
                entry.state = m.state;
                if entry.state != MemberState::Rebuilding {
                    entry.filling = None;
                }
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
        let table = recorded.geometry.table();
        for (i, m) in self.0.members.borrow_mut().iter_mut().enumerate() {
            let Some(entry) = recorded.members.get(i) else { break };
            if m.state == entry.state && std::mem::take(&mut m.being_failed) {
                self.0.news.tell(if i < table {
                    news::failed(&m.path(), m.trouble, recorded.epoch, left)
                } else {
                    news::spare_failed(&recorded.name, &m.path(), m.trouble)
                });
            }
            if !m.state.bears_epochs() && !m.being_failed {
                // What is still under way keeps the disk, and its lock, until it has ended.
                m.disk = None;
            }
        }
        let out =
            |m: MemberIndex| recorded.members.get(m.at()).is_some_and(|e| !e.state.bears_epochs());
        self.0.watch.give_up(|m, _| out(m));
        self.0.changed.notify();
        Ok(())
    }

    /// Marks the epoch in force on copies B and C of all bearers, if a start has found that some
    /// of them do not bear it there. Gives whether no member failed meanwhile.
    ///
    /// # Errors
    /// `Halted` if too many members fail.
    pub async fn mark_in_force(&self) -> Result<bool, Halted> {
        let _turn = self.0.epoch_lock.lock().await;
        let before = self.gone();
        self.mark().await?;
        Ok(self.gone() == before)
    }

    /// The same, with the lock held: the first thing that any advance does, since a failure may have to
    /// be recorded at any moment of a start.
    async fn mark(&self) -> Result<(), Halted> {
        if !self.0.unmarked.get() {
            return Ok(());
        }
        // What was read may still be volatile: the daemon that wrote it died before its flush.
        self.flush_bearers().await?;
        let s = self.superblock();
        self.write_superblocks(&s, Place::B).await?;
        self.write_superblocks(&s, Place::C).await?;
        self.0.unmarked.set(false);
        Ok(())
    }

    /// Flushes all bearers.
    async fn flush_bearers(&self) -> Result<(), Halted> {
        self.on_bearers(Doing::Flush, |_| 0, |_, disk| async move { disk.flush().await }).await
    }

    /// Writes one copy on all bearers and flushes them; again, if the array was frozen
    /// meanwhile. False: a member failed in between, and the epoch must name it.
    async fn write_superblocks(&self, s: &Superblock, place: Place) -> Result<bool, Halted> {
        let byte = |member| place.byte(&s.geometry, member);
        let write = |member: MemberIndex, disk: W::Disk| {
            let at = byte(member);
            let bytes = s.encode(member.0, at).freeze();
            async move {
                disk.write(at, vec![bytes]).await?;
                disk.flush().await
            }
        };
        self.on_bearers(Doing::Write, byte, write).await?;
        // Someone may have failed a member of this epoch while it was being written.
        let members = self.0.members.borrow();
        Ok(s.members.iter().zip(members.iter()).all(|(e, m)| agree(e, m.state)))
    }

    /// Has the same done on all bearers, until it was done by each that is still one; what
    /// it is and at which byte is said of those that fail. Nothing waits here for a failure to be
    /// recorded, which waits for the lock.
    async fn on_bearers<F: Future<Output = Result<(), DiskError>> + 'static>(
        &self,
        doing: Doing,
        byte: impl Fn(MemberIndex) -> u64,
        act: impl Fn(MemberIndex, W::Disk) -> F,
    ) -> Result<(), Halted> {
        loop {
            self.thawed().await?;
            let act = |member: MemberIndex| {
                let act = &act;
                async move {
                    let Some(disk) = self.disk(member) else { return (member, Some(Ok(()))) };
                    let act = act(member, disk);
                    (member, self.0.watch.wait(&self.0.world, member, Kind::Write, act).await)
                }
            };
            let mut whole = true;
            for (member, done) in join_all(self.bearers().into_iter().map(act).collect()).await {
                if done != Some(Ok(())) {
                    whole = false;
                    self.trouble(member, doing, byte(member), done.and_then(Result::err));
                    self.suspect(member);
                }
            }
            self.thawed().await?;
            if whole {
                return Ok(());
            }
        }
    }
}
