//! The copies of the superblock, looked at and made right while the array runs (for the scrub).
//!
//! What must hold: no epoch is made meanwhile, and of a member's copies one is written at a time,
//! with a flush before the next, so that a cut never tears two.

use evenkeel_journal::log::Halted;
use evenkeel_journal::sync::join_all;
use evenkeel_journal::{Buf, Disk, DiskError, MemberIndex, World};

use super::Members;
use crate::advance::Place;
use crate::geometry::SUPERBLOCK_BYTES;
use crate::hung::Kind;
use crate::news::Doing;
use crate::scrub::Tally;
use crate::superblock::{Phase, Superblock};

const PLACES: [(&str, Place); 3] = [("A", Place::A), ("B", Place::B), ("C", Place::C)];

/// What became of an operation: done, failed, or the member is gone or does not answer.
enum End<T> {
    Done(T),
    Failed,
    Gone(Option<DiskError>),
}

impl<W: World> Members<W> {
    /// Looks at all copies of the superblock on all members, journal devices and spares: each must be
    /// whole, and of the epoch in force. Writes those again that are not, unless it is to look only.
    ///
    /// # Errors
    /// `Halted` if too many members fail.
    pub(crate) async fn scrub_superblocks(&self, check_only: bool) -> Result<Tally, Halted> {
        let mut tally = Tally::default();
        // A failure makes an epoch, so it waits until this has let the epochs go.
        let mut gone = Vec::new();
        {
            let _turn = self.0.epoch_lock.lock().await;
            let s = self.superblock();
            for (name, place) in PLACES {
                if self.is_halted() {
                    return Err(Halted);
                }
                let all = self.bearers().into_iter().filter(|m| !gone.contains(m));
                let all: Vec<_> =
                    all.map(|m| self.scrub_copy(&s, m, name, place, check_only)).collect();
                for done in join_all(all).await {
                    match done {
                        Ok(one) => tally += one,
                        Err(member) => gone.push(member),
                    }
                }
            }
        }
        for member in gone {
            self.fail(member).await?;
        }
        Ok(tally)
    }

    /// One copy of one member. `Err`: the member is gone.
    async fn scrub_copy(
        &self,
        s: &Superblock,
        member: MemberIndex,
        name: &str,
        place: Place,
        check_only: bool,
    ) -> Result<Tally, MemberIndex> {
        let at = place.byte(&s.geometry, member);
        let mut tally = Tally::default();
        match self.look_at_copy(s, member, place).await {
            End::Done(true) => return Ok(tally),
            End::Gone(e) => {
                self.trouble(member, Doing::Read, at, e);
                // One that only does not answer is failed where it can be spared, as for any read.
                let spared = if member.at() >= self.0.table {
                    true
                } else if self.is_journal(member) {
                    self.gone_journals() < self.0.journals_out
                } else {
                    self.gone_members() < self.0.parity
                };
                return if (e.is_some() || spared) && !self.0.read_only {
                    Err(member)
                } else {
                    Ok(tally)
                };
            }
            End::Done(false) => {
                self.found_bad(member, at, &format!("copy {name} of the superblock"));
            }
            End::Failed => {}
        }
        tally.mismatches = 1;
        if check_only {
            return Ok(tally);
        }
        let phase = if matches!(place, Place::A) { Phase::Prepared } else { Phase::InForce };
        let bytes = Superblock { phase, ..s.clone() }.encode(member.0, at).freeze();
        let Some(disk) = self.disk(member) else {
            return Ok(tally);
        };
        let written = async move {
            disk.write(at, vec![bytes]).await?;
            disk.flush().await
        };
        match self.0.watch.wait(&self.0.world, member, Kind::Write, written).await {
            Some(Ok(())) => {}
            failed => {
                self.trouble(member, Doing::Write, at, failed.and_then(Result::err));
                return Err(member);
            }
        }
        if let End::Done(true) = self.look_at_copy(s, member, place).await {
            self.healed(member, 1);
            tally.healed = 1;
        }
        Ok(tally)
    }

    /// Whether a copy is as it should be. Twice, since a read may fail once.
    async fn look_at_copy(&self, s: &Superblock, member: MemberIndex, place: Place) -> End<bool> {
        let at = place.byte(&s.geometry, member);
        for _ in 0..2 {
            let Some(disk) = self.disk(member) else {
                return End::Done(true);
            };
            let read = disk.read(at, Buf::new(SUPERBLOCK_BYTES as usize));
            match self.0.watch.wait(&self.0.world, member, Kind::Read, read).await {
                None => return End::Gone(None),
                Some((Err(DiskError::Gone), _)) => return End::Gone(Some(DiskError::Gone)),
                Some((Err(e), _)) => self.trouble(member, Doing::Read, at, Some(e)),
                Some((Ok(()), b)) => {
                    let found = Superblock::decode(&b, at);
                    let right = found.is_ok_and(|own| {
                        let phase = own.phase == Phase::InForce || matches!(place, Place::A);
                        let own_place = own.array == s.array && own.index == member.0;
                        // A read-only start has not written its epoch anywhere.
                        let epoch = own.epoch_id == s.epoch_id && phase;
                        own_place && (epoch || self.0.read_only)
                    });
                    return End::Done(right);
                }
            }
        }
        End::Failed
    }
}
