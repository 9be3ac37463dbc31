//! Members that give too many errors, or are slow for long: *failing* from then on, which an epoch
//! records, and drained onto a spare by the rebuild; or, far beyond, failed.
//!
//! What must hold: a member that is failing is written to and counted as before, so nothing becomes
//! less safe by it; a judgement is never recorded while the array is frozen, and what shows while it
//! is frozen does not count: it is the controller's as likely as the disk's.

use std::collections::VecDeque;
use std::time::Duration;

use evenkeel_journal::log::Halted;
use evenkeel_journal::{Disk, DiskError, MemberIndex, World};

use super::{Member, Members};
use crate::news::{self, Doing};
use crate::status::MemberState;

/// So many errors within [`ERRORS_TIME`] make a member failing. A good disk has a few bad sectors a
/// year, and a scrub may find those of a month in one night: that must do nothing. A head or a
/// surface that goes gives dozens within hours.
const ERRORS_MOST: usize = 20;
/// The window: a day, so that a disk is judged the same whether its sectors are read by requests, at
/// any hour, or by a scrub of many hours.
const ERRORS_TIME: Duration = Duration::from_secs(24 * 3600);
/// So many fail it, if it can be spared and nobody is taking its place.
const ERRORS_BEYOND: usize = 10 * ERRORS_MOST;
/// Blocks that are wrong in one place within this time are one error: a write that was lost takes
/// all of them with it.
const SAME_TIME: Duration = Duration::from_secs(10);

/// What was wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Error {
    /// A sector could not be read. It stays so until it is written, and a busy block would be counted
    /// again and again: a place counts once within the window.
    Unreadable,
    /// What lay there was not what was written.
    Wrong,
}

/// The errors of a member within the window, oldest first: when, what, and in which place.
#[derive(Default)]
pub(super) struct Errors(VecDeque<(Duration, Error, u64)>);

impl Errors {
    /// Counts one more. Gives how many there are.
    fn count(&mut self, now: Duration, error: Error, place: u64) -> usize {
        let same = match error {
            Error::Unreadable => ERRORS_TIME,
            Error::Wrong => SAME_TIME,
        };
        self.forget_old(now);
        let known = |e: &(Duration, Error, u64)| (e.1, e.2) == (error, place) && now - e.0 <= same;
        if !self.0.iter().any(known) {
            if self.0.len() == ERRORS_BEYOND {
                self.0.pop_front();
            }
            self.0.push_back((now, error, place));
        }
        self.0.len()
    }

    fn forget_old(&mut self, now: Duration) {
        while self.0.front().is_some_and(|e| now - e.0 > ERRORS_TIME) {
            self.0.pop_front();
        }
    }
}

/// Why a member is failing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// So many errors within the window.
    Errors(usize),
    /// It has been slow for so long.
    Slow(Duration),
}

/// What is to become of a member.
enum Judgement {
    Failing(Why),
    Failed,
}

impl<W: World> Members<W> {
    /// A read of a member failed, and others give what it holds: what it says of the disk.
    pub(super) fn count_unreadable(&self, member: MemberIndex, at: u64, e: Option<DiskError>) {
        if matches!(e, Some(DiskError::Io(_))) {
            self.count_error(member, Error::Unreadable, at);
        }
    }

    /// Counts an error of a member, and has it judged if there are too many.
    pub(super) fn count_error(&self, member: MemberIndex, error: Error, at: u64) {
        // The place of a journal device cannot be taken, and a disk that is being filled is not read.
        if member.at() >= self.0.data || self.0.frozen.get() {
            return;
        }
        let place = at / self.0.superblock.borrow().geometry.chunk_bytes();
        let now = self.0.world.now();
        let all = self.0.members.borrow_mut()[member.at()].errors.count(now, error, place);
        if all == ERRORS_MOST || all == ERRORS_BEYOND {
            self.0.changed.notify();
        }
    }

    /// Has one member judged that gave too many errors or is slow for long. True: it was, and
    /// others may have to be.
    ///
    /// # Errors
    /// `Halted` if too many members fail.
    pub(crate) async fn judge(&self) -> Result<bool, Halted> {
        if self.0.frozen.get() || self.is_halted() {
            return Ok(false);
        }
        let Some((member, judgement)) = self.next_judgement() else { return Ok(false) };
        match judgement {
            Judgement::Failing(why) => self.is_failing(member, why).await?,
            Judgement::Failed => self.fail_because(member, Some((Doing::Count, None))).await?,
        }
        Ok(true)
    }

    /// Whether a member has to be judged.
    pub(crate) fn has_to_judge(&self) -> bool {
        self.next_judgement().is_some()
    }

    fn next_judgement(&self) -> Option<(MemberIndex, Judgement)> {
        let now = self.0.world.now();
        for member in (0..self.0.data as u8).map(MemberIndex) {
            // While it is drained it gives what it can: out of the array it could give nothing.
            let spared = self.gone_members() < self.0.parity && self.twin_of(member).is_none();
            let mut members = self.0.members.borrow_mut();
            let m = &mut members[member.at()];
            if !may_be_judged(m) {
                continue;
            }
            m.errors.forget_old(now);
            let errors = m.errors.0.len();
            if errors >= ERRORS_BEYOND && spared {
                return Some((member, Judgement::Failed));
            }
            if m.state == MemberState::Failing {
                continue;
            }
            if errors >= ERRORS_MOST {
                return Some((member, Judgement::Failing(Why::Errors(errors))));
            }
            if let Some(time) = m.speed.slow_for_long(now) {
                return Some((member, Judgement::Failing(Why::Slow(time))));
            }
        }
        None
    }

    /// Records that a member is failing.
    async fn is_failing(&self, member: MemberIndex, why: Why) -> Result<(), Halted> {
        let done = std::cell::Cell::new(false);
        self.advance_epoch(|_| {
            let mut members = self.0.members.borrow_mut();
            let m = &mut members[member.at()];
            if may_be_judged(m) && m.state == MemberState::Active {
                m.state = MemberState::Failing;
                done.set(true);
            }
        })
        .await?;
        let (state, path, ..) = self.describe(member);
        if done.get() && state == MemberState::Failing {
            let epoch = self.0.superblock.borrow().epoch;
            let spare = self.spare().is_some() || self.twin_of(member).is_some();
            self.tell(news::failing(&path, why, ERRORS_TIME, epoch, spare));
        }
        Ok(())
    }
}

/// Whether it is in use, and nothing else is being decided of it.
fn may_be_judged<D: Disk>(m: &Member<D>) -> bool {
    m.is_active() && !m.being_failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_forgotten_after_a_day() {
        let (mut errors, hour) = (Errors::default(), Duration::from_secs(3600));
        for i in 0..200u32 {
            // One in two hours: no more than thirteen in any day.
            assert!(errors.count(hour * 2 * i, Error::Unreadable, u64::from(i)) <= 13);
        }
    }

    #[test]
    fn one_place_counts_once() {
        let (mut errors, s) = (Errors::default(), Duration::from_secs);
        for i in 0..100 {
            assert_eq!(errors.count(s(60 * i), Error::Unreadable, 7), 1, "a bad sector, busy");
        }
        for _ in 0..16 {
            assert_eq!(errors.count(s(6000), Error::Wrong, 7), 2, "a write that was lost");
        }
        assert_eq!(errors.count(s(6060), Error::Wrong, 7), 3, "healed, and wrong again");
        assert_eq!(errors.count(s(6061), Error::Unreadable, 8), 4, "another place");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut errors = Errors::default();
        for i in 0..10_000 {
            errors.count(Duration::from_millis(i), Error::Wrong, i);
        }
        assert_eq!(errors.0.len(), ERRORS_BEYOND);
    }
}
