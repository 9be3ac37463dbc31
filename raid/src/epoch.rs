//! Which epoch is in force, and who belongs to it (I3, I6): pure decisions over the superblocks
//! that a start has found.
//!
//! An epoch is prepared on copy A of all its survivors, then marked in force on B and C. From the
//! moment that all survivors bear it prepared it is decided. A start finds one of:
//! - nobody bears anything newer than what is in force: that counts;
//! - everybody present that a prepared epoch names as survivor bears it: rolled forward;
//! - one of them lacks it: it never came in force and is dropped.

use evenkeel_journal::MemberIndex;
use evenkeel_journal::sabotage::{Sabotage, broken};

use crate::error::{ArrayError, ErrorKind};
use crate::geometry::LogHome;
use crate::status::MemberState;
use crate::superblock::{Phase, Superblock};

/// The copies of one disk that are whole.
#[derive(Clone, Debug)]
pub struct Found {
    /// Path, for people.
    pub path: String,
    /// Whole copies.
    pub copies: Vec<Superblock>,
}

/// Which of two epochs is looked at first: the newer one. The identity only makes sure that the order of
/// the disks never decides.
fn rank(s: &Superblock) -> (u64, u128) {
    (s.epoch, s.epoch_id)
}

impl Found {
    fn in_force(&self) -> Option<&Superblock> {
        self.copies.iter().filter(|s| s.phase == Phase::InForce).max_by_key(|s| rank(s))
    }

    fn bears(&self, epoch_id: u128) -> bool {
        self.copies.iter().any(|s| s.epoch_id == epoch_id)
    }

    /// What it is in an epoch: index in the member table. A disk that was being added may bear
    /// identities of before and after.
    fn index_in(&self, epoch: &Superblock) -> Option<usize> {
        let own = |s: &Superblock| epoch.members.iter().position(|m| m.uuid == s.uuid());
        let bears = |s: &&Superblock| s.epoch_id == epoch.epoch_id;
        let newest = self.copies.iter().filter(bears).find_map(own);
        newest.or_else(|| self.copies.iter().find_map(own))
    }

    /// The newest that it knows to be in force; else what it bears.
    fn own(&self) -> &Superblock {
        self.in_force().unwrap_or(&self.copies[0])
    }
}

/// What a start has decided.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The epoch in force (`index` is not meant).
    pub epoch: Superblock,
    /// Which disk is which current member: index in the table → index in what was found.
    pub current: Vec<Option<usize>>,
    /// Disks that are members or journal devices, but of an older epoch, or that failed.
    pub stale: Vec<usize>,
    /// How many of these are journal devices.
    pub stale_journals: usize,
    /// Disks that are no longer members, or never became one.
    pub left_out: Vec<usize>,
    /// Some current member does not bear the epoch on both copies B and C. They must before a
    /// newer one is prepared over copy A, or a cut would leave it with the parent alone.
    pub unmarked: bool,
}

/// Decides. All of `found` are of one array (same UUID), each with at least one whole copy.
///
/// # Errors
/// `Foreign` for two disks with the same identity; `Disagree` for split histories.
pub fn decide(found: &[Found]) -> Result<Decision, ArrayError> {
    for (i, a) in found.iter().enumerate() {
        for b in &found[i + 1..] {
            // Case EA: clones.
            if a.copies.iter().any(|a| b.copies.iter().any(|b| a.uuid() == b.uuid())) {
                return Err(ArrayError::new(
                    ErrorKind::Foreign,
                    format!(
                        "{} and {} are the same member: one is a copy of the other, or both name \
                         one disk. Nothing was written. Take the copy away and start again.",
                        a.path, b.path
                    ),
                ));
            }
        }
    }
    let newest = found.iter().filter_map(Found::in_force).max_by_key(|s| rank(s));
    let prepared = found
        .iter()
        .flat_map(|f| &f.copies)
        .filter(|s| s.phase == Phase::Prepared && newest.is_none_or(|n| s.epoch > n.epoch));
    let mut candidates: Vec<&Superblock> = prepared.collect();
    candidates.sort_by_key(|s| std::cmp::Reverse(rank(s)));
    // Case EC: a prepared epoch that all of its members that are here bear. Case ED: one lacks it.
    let rolled = candidates.into_iter().find(|p| {
        newest.is_none_or(|n| p.parent == n.epoch_id)
            && found.iter().all(|f| {
                let entry = f.index_in(p).map(|i| &p.members[i]);
                entry.is_none_or(|m| !m.state.bears_epochs()) || f.bears(p.epoch_id)
            })
    });
    // Case EE: otherwise the newest in force. Case EF: there is none.
    let Some(epoch) = rolled.or(newest) else {
        return Err(ArrayError::new(
            ErrorKind::Disagree,
            "None of the disks bears an epoch that is in force: the array was never completely \
             created. Nothing was written. Create it again with --force.",
        ));
    };
    let mut current: Vec<Option<usize>> = vec![None; epoch.members.len()];
    let mut stale = Vec::new();
    let mut unmarked = false;
    let mut stale_journals = 0;
    let mut left_out = Vec::new();
    let mut filled: Vec<(usize, u64)> = Vec::new();
    for (i, f) in found.iter().enumerate() {
        let split = |own: &Superblock| {
            ArrayError::new(
                ErrorKind::Disagree,
                format!(
                    "The members have split histories: {} went on alone in epoch {}, the others \
                     in epoch {}. Nothing was written. Start with the disks of one side only, and \
                     choose it with care: what was written to the other side is not there.",
                    f.path, own.epoch, epoch.epoch
                ),
            )
        };
        // Case EJ: it bears two histories at once, which no order of writes leaves behind.
        let other = |s: &&Superblock| s.phase == Phase::InForce && s.epoch_id != epoch.epoch_id;
        if let Some(own) = f.copies.iter().filter(other).find(|s| s.epoch >= epoch.epoch) {
            return Err(split(own));
        }
        let own = f.own();
        let oldest = epoch.history.last().map_or(epoch.epoch, |h| h.0);
        let ancestor = epoch.history.iter().any(|h| h.1 == own.epoch_id);
        // Case EJ: it went on apart from the others.
        let apart = !ancestor && own.epoch >= oldest && own.phase == Phase::InForce;
        if apart && !f.bears(epoch.epoch_id) {
            return Err(split(own));
        }
        let Some(index) = f.index_in(epoch) else {
            // Case EB: no longer a member, or it never became one.
            left_out.push(i);
            continue;
        };
        let state = epoch.members[index].state;
        let is_journal = epoch.geometry.is_journal(MemberIndex(index as u8));
        let bears = |s: &&Superblock| s.epoch_id == epoch.epoch_id;
        // Case EG: it bears the epoch. Case EH: but is not in use in it.
        if f.bears(epoch.epoch_id) {
            let is_spare = index >= epoch.geometry.table();
            if state.serves() || (is_spare && state.bears_epochs()) {
                current[index] = Some(i);
                let marked = |s: &&Superblock| bears(s) && s.phase == Phase::InForce;
                unmarked |= f.copies.iter().filter(marked).count() < 2;
                // How far it is filled is written on itself alone.
                let next = |s: &Superblock| s.members.get(index)?.filling.map(|f| f.next);
                let next = f.copies.iter().filter(bears).filter_map(next).max();
                filled.extend(next.map(|next| (index, next)));
            } else {
                stale.push(i);
                stale_journals += usize::from(is_journal);
            }
            continue;
        }
        // Case ER: a spare holds nothing, so it has missed nothing.
        if state == MemberState::Spare && index >= epoch.geometry.table() {
            (current[index], unmarked) = (Some(i), true);
            continue;
        }
        // Case EI: it missed something.
        if broken(Sabotage::EpochIgnored) && index < epoch.geometry.table() {
            current[index] = Some(i);
            continue;
        }
        stale.push(i);
        stale_journals += usize::from(is_journal);
    }
    let mut epoch = Superblock { phase: Phase::InForce, ..epoch.clone() };
    if broken(Sabotage::EpochIgnored) {
        let here = epoch.members.iter_mut().zip(&current).filter(|(_, c)| c.is_some());
        let here = here.take(epoch.geometry.table());
        here.for_each(|(m, _)| m.state = MemberState::Active);
    }
    for (index, next) in filled {
        epoch.members[index].filling.iter_mut().for_each(|f| f.next = next);
    }
    Ok(Decision { epoch, current, stale, stale_journals, left_out, unmarked })
}

impl Decision {
    /// What is in use in the epoch, but is not there now: members, journal devices, and those that
    /// were being filled.
    #[must_use]
    pub fn absent(&self) -> Vec<usize> {
        let used = |i: &usize| self.epoch.members[*i].state.takes_writes();
        (0..self.current.len()).filter(used).filter(|i| self.current[*i].is_none()).collect()
    }

    /// Whether the members that are there may start.
    ///
    /// # Errors
    /// `TooFew` if fewer than k are left; or, unless `accept_missing`, if k or more of the newest
    /// epoch's active members are absent: these could have gone on without the present ones.
    pub fn quorum(&self, accept_missing: bool) -> Result<(), ArrayError> {
        let (k, n) = (self.epoch.geometry.data, self.epoch.geometry.members());
        let present = self.current[..n].iter().flatten().count();
        let absent: Vec<usize> = self.absent().into_iter().filter(|i| *i < n).collect();
        let stale_members = self.stale.len() - self.stale_journals;
        // Case EK: too few to give the content.
        if present < k {
            let (kind, stale) = match stale_members {
                0 => (ErrorKind::TooFew, String::new()),
                s if present + s >= k => (
                    ErrorKind::Disagree,
                    format!(
                        " With the {s} that are stale or failed there would be enough, but those \
                         miss what was written since."
                    ),
                ),
                s => (ErrorKind::TooFew, format!(" {s} more are stale or failed.")),
            };
            return Err(ArrayError::new(
                kind,
                format!(
                    "The array {} has {n} members and needs {k} current ones; {present} are here. \
                     Missing: {}.{stale} Nothing was written; what is on the disks is as it was. \
                     Bring back the missing members and start again.",
                    self.epoch.name,
                    self.names(&absent)
                ),
            ));
        }
        // Case EL: those that are absent could have gone on alone.
        if absent.len() >= k && !accept_missing {
            return Err(ArrayError::new(
                ErrorKind::TooFew,
                format!(
                    "Of the array {} the members {} are absent. They are enough to have gone on \
                     without those that are here, and may know of newer writes. Nothing was \
                     written. If they did not go on, start with --accept-missing; if they did, \
                     what was written since would be given up.",
                    self.epoch.name,
                    self.names(&absent)
                ),
            ));
        }
        Ok(())
    }

    /// Journal devices that are current, and how many may be out; None if the log is on the
    /// members.
    fn journals(&self) -> Option<(usize, usize)> {
        let g = &self.epoch.geometry;
        let present = self.current[g.members()..g.table()].iter().flatten().count();
        (g.log_home == LogHome::Journals).then(|| (present, g.journal_tolerance()))
    }

    /// Case EO: too many journal devices are out, but the last stop emptied the log, or a person
    /// gives up what it held. So the log begins anew on the members.
    #[must_use]
    pub fn log_goes_home(&self, force: bool) -> bool {
        let out = |present| self.epoch.geometry.journals - present;
        let too_many = self.journals().is_some_and(|(present, most)| out(present) > most);
        too_many && (self.epoch.clean || force)
    }

    /// Whether the log can be had, or is given up by force.
    ///
    /// # Errors
    /// `LogDamaged` if all journal devices are out and the last stop did not empty the log;
    /// `TooFew` if some are there, but more are out than its commits survive.
    pub fn quorum_of_log(&self, force: bool) -> Result<(), ArrayError> {
        let Some((present, tolerated)) = self.journals() else { return Ok(()) };
        let g = &self.epoch.geometry;
        // Case EN: enough are there. Case EO: the log was empty, or is given up.
        if g.journals - present <= tolerated || self.log_goes_home(force) {
            return Ok(());
        }
        let journal = |i: &usize| g.is_journal(MemberIndex(*i as u8));
        let absent: Vec<usize> = self.absent().into_iter().filter(journal).collect();
        let stale = match self.stale_journals {
            0 => String::new(),
            n => format!(
                " {n} of the disks given are journal devices that are stale or failed: what they \
                 hold is older than what the members know, so it is not read."
            ),
        };
        let text = format!(
            "The log of the array {} is on {} journal devices, of which {tolerated} may be missing; \
             {present} are here. Missing: {}.{stale} The array was not stopped cleanly, so the log \
             holds acknowledged writes that are nowhere else. Nothing was written. Bring back the \
             missing journal devices and start again. With --force the log begins anew on the \
             members, and all that it held is lost: at most {} bytes of acknowledged writes.",
            self.epoch.name,
            g.journals,
            self.names(&absent),
            g.journal_rows * g.log_width() as u64 * evenkeel_journal::BLOCK as u64
        );
        // Case EQ: there is no log. Case EP: the others hold what was promised.
        let kind = if present == 0 { ErrorKind::LogDamaged } else { ErrorKind::TooFew };
        Err(ArrayError::new(kind, text))
    }

    /// How many more disks may be lost, whichever they are.
    fn can_lose(&self) -> usize {
        let g = &self.epoch.geometry;
        let out = self.current[..g.members()].iter().filter(|c| c.is_none()).count();
        let left = g.parity.saturating_sub(out);
        match self.journals() {
            Some((present, most)) if g.journals - present <= most => {
                left.min(most + present - g.journals)
            }
            // The log is on the members, or goes there.
            _ => left,
        }
    }

    /// Index and UUID of some members, for people.
    fn names(&self, members: &[usize]) -> String {
        if members.is_empty() {
            return "none but those that failed before".into();
        }
        let uuid = |i: &usize| uuid::Uuid::from_u128(self.epoch.members[*i].uuid);
        let names: Vec<String> = members.iter().map(|i| format!("{i} ({})", uuid(i))).collect();
        names.join(", ")
    }

    /// What a start without some members has to say, if there are any.
    #[must_use]
    pub fn notice_of_absent(&self, read_only: bool) -> Option<String> {
        let absent = self.absent();
        if absent.is_empty() {
            return None;
        }
        let (name, names) = (&self.epoch.name, self.names(&absent));
        let members = absent.iter().filter(|i| **i < self.epoch.geometry.members()).count();
        Some(if members >= self.epoch.geometry.data {
            format!(
                "Warning: the array {name} is started without the members {names}, which are \
                 enough to have gone on without those that are here. If they did, everything that \
                 was acknowledged since is on them alone. {}",
                if read_only {
                    "Nothing is changed by this."
                } else {
                    "From now on it is given up: do not start them by themselves."
                }
            )
        } else {
            let more = self.can_lose();
            format!(
                "Warning: of the array {name} the members {names} are absent. It is started \
                 without them and can lose {more} more.{}",
                if read_only { "" } else { " From now on what they hold is old." }
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superblock::MemberEntry;
    use crate::superblock::tests::sample;

    fn all(s: &Superblock) -> Vec<Found> {
        (0..6u8)
            .map(|i| Found {
                path: format!("disk{i}"),
                copies: vec![Superblock { index: i, ..s.clone() }],
            })
            .collect()
    }

    fn child(s: &Superblock, id: u128, phase: Phase) -> Superblock {
        let mut c = s.clone();
        c.history.insert(0, (s.epoch, s.epoch_id));
        (c.parent, c.epoch_id, c.epoch, c.phase) = (s.epoch_id, id, s.epoch + 1, phase);
        c
    }

    fn bear(f: &mut Found, s: &Superblock) {
        let index = f.copies[0].index;
        f.copies.push(Superblock { index, ..s.clone() });
    }

    #[test]
    fn a_prepared_epoch_counts_if_all_present_survivors_bear_it() {
        let s = sample();
        let mut next = child(&s, 66, Phase::Prepared);
        next.members[5].state = MemberState::Failed;
        let mut found = all(&s);
        (0..5).for_each(|i| bear(&mut found[i], &next));
        let d = decide(&found).expect("decides");
        assert_eq!((d.epoch.epoch, d.current[5], d.stale.clone()), (6, None, vec![5]));
        // One survivor lacks it: dropped, and all six are current.
        found[2].copies.truncate(1);
        let d = decide(&found).expect("decides");
        assert_eq!((d.epoch.epoch, d.current.iter().flatten().count()), (5, 6));
        // The one that lacks it is absent: it may have come in force, so it counts.
        found.remove(2);
        let d = decide(&found).expect("decides");
        assert_eq!((d.epoch.epoch, d.absent()), (6, vec![2]));
    }

    #[test]
    fn halves_that_each_went_on_are_refused_also_with_the_same_number() {
        let s = sample();
        let mut found = all(&s);
        let (a, b) = (child(&s, 66, Phase::InForce), child(&s, 77, Phase::InForce));
        (0..3).for_each(|i| bear(&mut found[i], &a));
        (3..6).for_each(|i| bear(&mut found[i], &b));
        assert_eq!(decide(&found).expect_err("split").kind, ErrorKind::Disagree);
        // Nor does it matter that a disk bears both, or in which order the disks come.
        let mut both = found.clone();
        (0..3).for_each(|i| bear(&mut both[i], &b));
        assert_eq!(decide(&both).expect_err("split").kind, ErrorKind::Disagree);
        both.reverse();
        assert_eq!(decide(&both).expect_err("split").kind, ErrorKind::Disagree);
        // A longer history of one half changes nothing.
        let c = child(&a, 88, Phase::InForce);
        (0..3).for_each(|i| bear(&mut found[i], &c));
        assert_eq!(decide(&found).expect_err("split").kind, ErrorKind::Disagree);
    }

    #[test]
    fn an_older_member_is_stale_and_clones_are_refused() {
        let s = sample();
        let mut found = all(&s);
        let a = child(&s, 66, Phase::InForce);
        (0..5).for_each(|i| bear(&mut found[i], &a));
        let d = decide(&found).expect("decides");
        assert_eq!(d.stale, vec![5]);
        assert!(d.quorum(false).is_ok());
        found.push(found[1].clone());
        assert_eq!(decide(&found).expect_err("clone").kind, ErrorKind::Foreign);
    }

    #[test]
    fn a_spare_is_current_though_it_is_older_and_what_is_being_filled_is_not() {
        let mut s = sample();
        let filling = Some(crate::superblock::Filling { takes: 2, next: 7 });
        let spare = MemberEntry::spare;
        s.members[2].state = MemberState::Failed;
        s.members.extend([spare(200), spare(201)]);
        s.members[7] = MemberEntry { state: MemberState::Rebuilding, filling, ..s.members[7] };
        let mut found = all(&s);
        found.remove(2);
        for index in [6, 7] {
            let copies = vec![Superblock { index, ..s.clone() }];
            found.push(Found { path: format!("spare{index}"), copies });
        }
        let d = decide(&found).expect("decides");
        assert_eq!((d.current[6], d.current[7], d.absent()), (Some(5), Some(6), vec![]));
        // A disk says of itself how far it is filled.
        let mut own = found[6].copies[0].clone();
        own.members[7].filling = Some(crate::superblock::Filling { takes: 2, next: 9 });
        found[6].copies.push(own);
        let d = decide(&found).expect("decides");
        assert_eq!(d.epoch.members[7].filling.map(|f| f.next), Some(9));
        // Both miss an epoch.
        let next = child(&s, 66, Phase::InForce);
        (0..5).for_each(|i| bear(&mut found[i], &next));
        let d = decide(&found).expect("decides");
        assert_eq!((d.current[6], d.current[7], d.absent()), (Some(5), None, vec![7]));
        assert_eq!((d.stale.clone(), d.unmarked), (vec![6], true));
        // And what is prepared counts only if they have it, too.
        let next = child(&next, 77, Phase::Prepared);
        (0..5).for_each(|i| bear(&mut found[i], &next));
        assert_eq!(decide(&found).expect("decides").epoch.epoch, 6);
        found.truncate(5);
        assert_eq!(decide(&found).expect("decides").epoch.epoch, 7);
    }

    #[test]
    fn a_disk_that_was_being_added_again_may_bear_two_identities() {
        let mut s = sample();
        s.members[2].state = MemberState::Failed;
        let mut found = all(&s);
        let mut next = child(&s, 66, Phase::Prepared);
        next.members.push(MemberEntry::spare(200));
        found[2].copies.insert(0, Superblock { index: 6, ..next.clone() });
        // The cut came before the others had it: it is what it was.
        let d = decide(&found).expect("decides");
        assert_eq!((d.epoch.epoch, d.stale.clone(), d.left_out.clone()), (5, vec![2], vec![]));
        for i in [0, 1, 3, 4, 5] {
            bear(&mut found[i], &next);
        }
        let d = decide(&found).expect("decides");
        assert_eq!((d.epoch.epoch, d.current[6], d.current[2]), (6, Some(2), None));
        // One that was never a member bears nothing else, and is left out until then.
        (0..6).for_each(|i| found[i].copies.retain(|c| c.epoch == 5));
        found.push(Found { path: "new".into(), copies: vec![Superblock { index: 6, ..next }] });
        let d = decide(&found).expect("decides");
        assert_eq!((d.epoch.epoch, d.left_out), (5, vec![6]));
    }

    /// `sample()` with `j` journal devices, and all its disks.
    fn with_journals(j: usize, clean: bool) -> Vec<Found> {
        let mut s = sample();
        s.clean = clean;
        s.geometry = s.geometry.with_journals(j, 64 << 20, None).expect("fits");
        let extra = (0..j)
            .map(|i| crate::superblock::MemberEntry { uuid: 900 + i as u128, ..s.members[0] });
        let extra: Vec<_> = extra.collect();
        s.members.extend(extra);
        let mut found = all(&s);
        found.extend((6..6 + j as u8).map(|index| Found {
            path: format!("journal{index}"),
            copies: vec![Superblock { index, ..s.clone() }],
        }));
        found
    }

    #[test]
    fn a_start_needs_as_many_journal_devices_as_the_commits_do() {
        for j in 1..=4usize {
            let tolerated = 2.min(j - 1);
            for gone in 0..=j {
                for clean in [false, true] {
                    let mut found = with_journals(j, clean);
                    found.truncate(6 + j - gone);
                    let d = decide(&found).expect("decides");
                    let kind = match gone {
                        _ if clean || gone <= tolerated => None,
                        all if all == j => Some(ErrorKind::LogDamaged),
                        _ => Some(ErrorKind::TooFew),
                    };
                    let log = d.quorum_of_log(false).err().map(|e| e.kind);
                    assert_eq!(log, kind, "{j} {gone} {clean}");
                    assert!(d.quorum(false).is_ok());
                    let left = 2.min(tolerated - gone.min(tolerated));
                    assert_eq!(d.can_lose(), if gone > tolerated { 2 } else { left });
                    assert_eq!(d.log_goes_home(false), clean && gone > tolerated);
                    assert_eq!(d.log_goes_home(true), gone > tolerated);
                    assert!(d.quorum_of_log(true).is_ok());
                    assert_eq!(d.absent().len(), gone);
                }
            }
        }
    }

    #[test]
    fn an_old_copy_of_a_journal_device_is_no_journal_device() {
        let mut found = with_journals(1, false);
        let next = child(&found[0].copies[0].clone(), 66, Phase::InForce);
        (0..6).for_each(|i| bear(&mut found[i], &next));
        let d = decide(&found).expect("decides");
        assert_eq!((d.stale.clone(), d.stale_journals, d.current[6]), (vec![6], 1, None));
        let e = d.quorum_of_log(false).expect_err("no log");
        assert!(e.kind == ErrorKind::LogDamaged && e.message.contains("stale"), "{e}");
        // Journal devices do not count as members, whatever they bear.
        let d = decide(&found[3..]).expect("decides");
        assert_eq!(d.quorum(true).expect_err("3 of 4").kind, ErrorKind::TooFew);
    }

    #[test]
    fn quorum_needs_k_and_a_word_where_k_are_absent() {
        let s = sample();
        let found = all(&s);
        let d = decide(&found[..4]).expect("decides");
        assert!(d.quorum(false).is_ok());
        let d = decide(&found[..3]).expect("decides");
        assert_eq!(d.quorum(true).expect_err("3 of 4").kind, ErrorKind::TooFew);
    }
}
