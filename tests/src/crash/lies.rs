//! Disks that are wrong without a word when the array starts after a crash, in addition to those
//! that are lost: on at most as many members as may still be lost, blocks of slots, pages, or
//! everything but the superblocks are noise, or what they were at an earlier moment.

use std::rc::Rc;

use super::case::{Case, Refusal, compare};
use super::losses;
use super::run::{Recording, read_all};
use crate::oracle::Floor;
use crate::rng::{Rng, hash};
use crate::sim::{DiskImage, Image, Mode, PAGE, Survivors};
use crate::subject::{Areas, Subject};

/// Of so many crash states one is also tried with lies.
const EVERY: u64 = 8;

/// Fills pages of a disk with noise.
fn noise(disk: &mut DiskImage, pages: impl Iterator<Item = u64>, rng: &mut Rng) {
    for page in pages {
        let words = (0..PAGE / 8).flat_map(|_| rng.draw().to_le_bytes());
        disk.corrupt(page * PAGE as u64, &words.collect::<Vec<u8>>());
    }
}

/// Makes a disk lie, and says how.
fn tell(disk: &mut DiskImage, areas: &Areas, before: &Image, rng: &mut Rng) -> &'static str {
    let pages = |area: &std::ops::Range<u64>| area.start / PAGE as u64..area.end / PAGE as u64;
    let view = disk.view();
    let used = |p: &u64| view.page(*p as usize).is_some();
    let own: Vec<u64> = pages(&areas.pages).filter(used).collect();
    let slots: Vec<u64> = pages(&areas.slots).filter(used).collect();
    let log: Vec<u64> = areas.log.iter().flat_map(pages).filter(used).collect();
    let back = |disk: &mut DiskImage, which: &[u64]| {
        for page in which {
            let mut old = vec![0; PAGE];
            before.read(page * PAGE as u64, &mut old);
            disk.corrupt(page * PAGE as u64, &old);
        }
    };
    match rng.below(6) {
        0 if !slots.is_empty() => {
            for _ in 0..=rng.below(4) {
                let at = slots[rng.index(slots.len())] * PAGE as u64 + rng.below(PAGE as u64 - 8);
                disk.corrupt(at, &rng.draw().to_le_bytes());
            }
            "some blocks rot"
        }
        0 | 1 => {
            noise(disk, slots.into_iter(), rng);
            "its slots are noise"
        }
        2 => {
            noise(disk, own.into_iter(), rng);
            "its pages are noise"
        }
        3 => {
            noise(disk, own.into_iter().chain(slots).chain(log), rng);
            "all but its superblocks is noise"
        }
        4 => {
            let some: Vec<u64> = own.into_iter().chain(slots).filter(|_| rng.one_in(2)).collect();
            back(disk, &some);
            "some writes to slots and pages were lost"
        }
        _ => {
            back(disk, &[own, slots, log].concat());
            "all writes but those to superblocks were lost"
        }
    }
}

impl Case<'_> {
    /// Starts from the crash state with lies, if it is its turn: the content must be one that the
    /// oracle allows, and stay it when it is destaged, and after a loss of power.
    pub(super) fn with_lies<S: Subject>(
        &mut self,
        recording: &Recording,
        (event, mark, floor): (u64, usize, Floor),
        left: &Survivors,
        gone: &[usize],
        refusal: Refusal,
    ) -> Result<(), String> {
        let mut rng = Rng::new(hash(&[self.seed, 77]));
        let n = self.scenario.setup.members();
        if !rng.one_in(EVERY) {
            return Ok(());
        }
        let all = losses(&self.scenario.setup, gone);
        let of_members = all.into_iter().filter(|s| !s.is_empty() && s.iter().all(|d| *d < n));
        let sets: Vec<Vec<usize>> = of_members.collect();
        if sets.is_empty() {
            return Ok(());
        }
        let liars = &sets[rng.index(sets.len())];
        let earlier = recording.shots[rng.index(event as usize)].survive(Mode::PowerAll);
        let (mut from, mut how) = (left.clone(), Vec::new());
        for disk in from.disks.iter_mut().filter(|d| liars.contains(&d.id)) {
            let before = earlier.disks.iter().find(|d| d.id == disk.id);
            if let (Some(areas), Some(before)) = (S::areas(disk), before) {
                let what = tell(disk, &areas, &before.view(), &mut rng);
                how.push(format!("disk {}: {what}", disk.id));
            }
        }
        if how.is_empty() {
            return Ok(());
        }
        let step = |e: String| format!("{e} [with lies: {}]", how.join("; "));
        let first = self.start_and_read::<S>(5, &from, refusal, false, true).map_err(step)?;
        let content = Rc::new(first.value);
        recording.oracle.check_crash(&content, mark, floor).map_err(|v| step(v.0))?;
        let from = if rng.one_in(2) {
            first.left.survive(Mode::PowerNone)
        } else {
            let (_, end) = self.destage::<S>(&from, refusal, &content, true, true).map_err(step)?;
            end.survive(Mode::PowerNone)
        };
        // The epoch without the lost ones is in force by then.
        let later = if refusal == Refusal::Never { refusal } else { Refusal::May };
        let again = self.start_and_read::<S>(6, &from, later, rng.one_in(4), true);
        compare(&content, &again.map_err(step)?.value, "after a restart").map_err(step)
    }

    /// How many blocks and pages a device says were wrong, none of which was.
    pub(super) fn no_false_alarm<S: Subject>(device: &S) -> Result<(), String> {
        match device.found_wrong() {
            0 => Ok(()),
            n => Err(format!("{n} blocks or pages are said to be wrong, and no disk lied")),
        }
    }
}

/// Reads everything, and holds a device that has honest disks to have noticed nothing.
pub(super) async fn read_honest<S: Subject>(device: &S, lies: bool) -> Result<Vec<u8>, String> {
    let content = read_all(device).await?;
    if !lies {
        Case::no_false_alarm(device)?;
    }
    Ok(content)
}
