//! What a person does to the members: disks that are added, taken out, failed, and replaced.
//!
//! What must hold: everything is checked before the first byte is written; a disk that was a member
//! gets only what it missed, but only if it is known to have missed nothing else.

use std::time::Duration;

use evenkeel_journal::log::Halted;
use evenkeel_journal::{Bounded, Buf, Disk, Lsn, MemberIndex, World};

use super::super::Array;
use super::super::start::find;
use crate::epoch::Found;
use crate::error::{ArrayError, ErrorKind};
use crate::geometry::{MEMBER_GRAIN, SUPERBLOCK_A, SUPERBLOCK_B, SUPERBLOCK_BYTES};
use crate::hung::IO_TIMEOUT;
use crate::status::MemberState;
use crate::superblock::{Phase, Superblock};

/// What becomes of a disk that is added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Added {
    /// It waits for a member to fail, or takes the place of one that has.
    Spare(MemberIndex),
    /// It was the member with this index, and gets what it has missed.
    Back(MemberIndex),
}

/// What a disk was.
enum Past {
    /// Nothing that matters.
    None,
    /// This member, which has missed what was changed from this record on.
    Member(MemberIndex, Lsn),
}

pub(in crate::array) fn refuse<T>(
    kind: ErrorKind,
    text: impl Into<String>,
) -> Result<T, ArrayError> {
    Err(ArrayError::new(kind, format!("{} Nothing was written.", text.into())))
}

pub(in crate::array) fn halted(Halted: Halted) -> ArrayError {
    ArrayError::new(
        ErrorKind::Failed,
        "Too many members failed meanwhile: the array takes no writes any more.",
    )
}

impl<W: World> Array<W> {
    /// Takes a disk in. One that was a member until it failed gets what it has missed; any other is a
    /// spare, which takes the place of a member that is out, or waits for that.
    ///
    /// # Errors
    /// Before anything is written: too small, in use by this or another array, gone on alone, no room.
    pub async fn add_disk(&self, disk: W::Disk) -> Result<Added, ArrayError> {
        let path = disk.facts().path;
        let past = self.may_be_added(&disk).await?;
        let spare = self.take_in(disk, &path).await?;
        let Past::Member(member, missed_from) = past else {
            return Ok(Added::Spare(spare));
        };
        let members = &self.0.members;
        if members.begin_filling(spare, member, missed_from).await.map_err(halted)? {
            return Ok(Added::Back(member));
        }
        Ok(Added::Spare(spare))
    }

    /// Has `new` take the place of `old`, from which is read what it still gives. `new` may be a spare
    /// already: then no disk is given.
    ///
    /// # Errors
    /// As [`Array::add_disk`]; or `old` is no member whose place can be taken.
    pub async fn replace_member(
        &self,
        old: MemberIndex,
        new: Result<W::Disk, MemberIndex>,
    ) -> Result<(), ArrayError> {
        let members = &self.0.members;
        let (_, old_path, ..) = members.describe(old);
        if old.at() >= self.0.geometry.get().members() {
            return refuse(
                ErrorKind::Usage,
                format!("{old_path} is no member: only a member's place can be taken."),
            );
        }
        if let Some(twin) = members.twin_of(old) {
            let (_, path, ..) = members.describe(twin);
            return refuse(
                ErrorKind::Failed,
                format!("{path} is being filled already to take the place of member {old}."),
            );
        }
        let spare = match new {
            Err(spare) => spare,
            Ok(disk) => {
                let path = disk.facts().path;
                self.may_be_added(&disk).await?;
                self.take_in(disk, &path).await?
            }
        };
        if members.begin_filling(spare, old, Lsn(0)).await.map_err(halted)? {
            return Ok(());
        }
        let (state, path, ..) = members.describe(spare);
        let text = format!(
            "{path} cannot take the place of member {old}: it is {} by now. Nothing is lost; see \
             status.",
            state.as_str()
        );
        Err(ArrayError::new(ErrorKind::Failed, text))
    }

    /// Takes a disk out that is not in use: a spare, or one that has failed or is missing.
    ///
    /// # Errors
    /// If it is in use.
    pub async fn remove_member(&self, member: MemberIndex) -> Result<(), ArrayError> {
        self.may_be_changed()?;
        let members = &self.0.members;
        let (state, path, ..) = members.describe(member);
        match state {
            MemberState::Active | MemberState::Failing => {
                return refuse(
                    ErrorKind::Failed,
                    format!(
                        "{path} is in use. Replace it by another disk (evenkeel replace), or fail it \
                         first (evenkeel fail)."
                    ),
                );
            }
            MemberState::Rebuilding => {
                return refuse(
                    ErrorKind::Failed,
                    format!("{path} is being filled. To break that off, fail it first."),
                );
            }
            _ => {}
        }
        if members.forget(member).await.map_err(halted)? {
            return Ok(());
        }
        refuse(
            ErrorKind::Failed,
            format!("{path} is just coming into use, or failing; see status."),
        )
    }

    pub(in crate::array) fn may_be_changed(&self) -> Result<(), ArrayError> {
        if self.0.options.read_only {
            return refuse(
                ErrorKind::Failed,
                "The array was started read-only; its members cannot be changed.",
            );
        }
        if self.0.stopping.get() {
            return refuse(ErrorKind::Failed, "The array is being stopped.");
        }
        if self.0.members.is_halted() {
            return refuse(
                ErrorKind::Failed,
                "More members are gone than the array tolerates, and it takes no writes any more. \
                 Stop it, and start it with all members that can be read: those that were away come \
                 back then.",
            );
        }
        Ok(())
    }

    /// Whether a disk may be taken in, and what it was.
    async fn may_be_added(&self, disk: &W::Disk) -> Result<Past, ArrayError> {
        self.may_be_changed()?;
        let (g, members) = (&self.0.geometry.get(), &self.0.members);
        let facts = disk.facts();
        g.takes_spare(&facts.path, facts.bytes)?;
        if !members.has_room_for_a_spare() {
            return refuse(
                ErrorKind::Failed,
                "The member table is full. Remove a spare, or one that has failed.",
            );
        }
        match find(&Bounded::new(&self.0.world, disk, self.bound())).await {
            Ok(found) => self.past_of(&found, &facts.path),
            // It bears no superblock, or none that is whole: what else is on it was looked at before.
            Err(e) if e.kind == ErrorKind::Foreign => self.is_nobody(disk).await,
            Err(e) => Err(e),
        }
    }

    /// Whether a disk on which no superblock was found is one that can be overwritten: it can be read, and
    /// is not the disk of a member, whatever that gives at this moment.
    async fn is_nobody(&self, disk: &W::Disk) -> Result<Past, ArrayError> {
        let path = disk.facts().path;
        let members = &self.0.members;
        let bearers = members.those(|m| m.state.bears_epochs() && m.path() == path);
        if let Some(member) = bearers.first() {
            return refuse(
                ErrorKind::Foreign,
                format!("{path} is a member already (member {member}), which is in trouble now."),
            );
        }
        let disk = Bounded::new(&self.0.world, disk, self.bound());
        for at in [SUPERBLOCK_A, SUPERBLOCK_B] {
            if disk.read(at, Buf::new(SUPERBLOCK_BYTES as usize)).await.0.is_err() {
                return refuse(
                    ErrorKind::Failed,
                    format!(
                        "{path} cannot be read where a superblock would be, so nobody can say what it \
                         is, and it would not be a good member."
                    ),
                );
            }
        }
        Ok(Past::None)
    }

    fn past_of(&self, found: &Found, path: &str) -> Result<Past, ArrayError> {
        let members = &self.0.members;
        let sb = members.superblock();
        let first = &found.copies[0];
        if first.array != sb.array {
            return refuse(
                ErrorKind::Foreign,
                format!(
                    "{path} belongs to another array, {} ({}). If that is not needed any more, wipe \
                     it first (evenkeel destroy).",
                    first.name,
                    uuid::Uuid::from_u128(first.array)
                ),
            );
        }
        let known = |s: &Superblock| {
            s.epoch_id == sb.epoch_id || sb.history.iter().any(|h| h.1 == s.epoch_id)
        };
        let oldest = sb.history.last().map_or(sb.epoch, |h| h.0);
        let in_force = |s: &&Superblock| s.phase == Phase::InForce;
        if found.copies.iter().filter(in_force).any(|s| !known(s) && s.epoch >= oldest) {
            return refuse(
                ErrorKind::Disagree,
                format!(
                    "{path} was started without the other members and has written since: what is on \
                     it is nowhere else. If that is not needed, wipe it first (evenkeel destroy)."
                ),
            );
        }
        let own = |s: &Superblock| sb.members.iter().position(|m| m.uuid == s.uuid());
        let Some(index) = found.copies.iter().find_map(own) else { return Ok(Past::None) };
        let (entry, member) = (&sb.members[index], MemberIndex(index as u8));
        let (state, ..) = members.describe(member);
        if state.bears_epochs() || entry.state.bears_epochs() {
            return refuse(
                ErrorKind::Foreign,
                format!("{path} is a member already, or a copy of one (member {member})."),
            );
        }
        if index >= sb.geometry.members() || members.twin_of(member).is_some() {
            return Ok(Past::None);
        }
        if members.has_writes_under_way(member) {
            return refuse(
                ErrorKind::Failed,
                format!(
                    "Operations of before {path} failed have not ended yet: they could land over what \
                     is newer. Try again later."
                ),
            );
        }
        // It was there until the epoch that failed it, so it has everything of before.
        let before = sb.history.iter().filter(|h| h.0 < entry.failed_in).max_by_key(|h| h.0);
        let whole = before.is_some_and(|h| found.copies.iter().any(|s| s.epoch_id == h.1));
        let missed_from = if whole { entry.failed_at } else { Lsn(0) };
        Ok(Past::Member(member, missed_from))
    }

    pub(in crate::array) fn bound(&self) -> Duration {
        self.0.options.io_timeout.unwrap_or(IO_TIMEOUT)
    }

    async fn take_in(&self, disk: W::Disk, path: &str) -> Result<MemberIndex, ArrayError> {
        let failed = || {
            let text = format!("{path} failed while it was taken in; it is left out.");
            ArrayError::new(ErrorKind::Failed, text)
        };
        // The end of a larger disk may bear an older array's copy C.
        let end = disk.facts().bytes / MEMBER_GRAIN * MEMBER_GRAIN - SUPERBLOCK_BYTES;
        if end > self.0.geometry.get().member_bytes - SUPERBLOCK_BYTES {
            let zeros = Buf::zeroed(SUPERBLOCK_BYTES as usize).freeze();
            let disk = Bounded::new(&self.0.world, &disk, self.bound());
            disk.write(end, vec![zeros]).await.map_err(|_| failed())?;
            disk.flush().await.map_err(|_| failed())?;
        }
        let uuid = u128::from(self.0.world.random()) << 64 | u128::from(self.0.world.random()) | 1;
        let taken = self.0.members.add_spare(disk, uuid).await.map_err(halted)?;
        taken.ok_or_else(failed)
    }
}
