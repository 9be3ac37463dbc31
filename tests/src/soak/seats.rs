//! Which disk is which member, when spares take places: read from the superblocks. Between two lives the
//! disks are numbered anew, so that a member's disk always has the member's number, and those that
//! are no members come behind.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_journal::MemberIndex;
use evenkeel_raid::geometry::{SUPERBLOCK_A, SUPERBLOCK_B, SUPERBLOCK_BYTES};
use evenkeel_raid::superblock::{Phase, Superblock};

use crate::sim::{DiskImage, Survivors, path_of};

/// What the disks of an array say of its members.
pub(super) struct Seats {
    /// The disk of each member and journal device, if it is among these.
    pub holders: Vec<Option<usize>>,
    /// Those that are not active, or will perhaps not be when the next start has decided, or whose place
    /// another disk is about to take.
    pub out: BTreeSet<usize>,
}

fn copies(disk: &DiskImage) -> Vec<Superblock> {
    let view = disk.view();
    let at = |at: u64| {
        let mut bytes = vec![0; SUPERBLOCK_BYTES as usize];
        view.read(at, &mut bytes);
        Superblock::decode(&bytes, at).ok()
    };
    let mut all: Vec<Superblock> =
        [SUPERBLOCK_A, SUPERBLOCK_B].into_iter().filter_map(at).collect();
    if let Some(c) = all.first().map(Superblock::copy_c) {
        all.extend(at(c));
    }
    all
}

/// Looks at disks; `seats` of them are members and journal devices.
pub(super) fn look(disks: &[DiskImage], seats: usize) -> Option<Seats> {
    let all: Vec<(usize, Superblock)> =
        disks.iter().flat_map(|d| copies(d).into_iter().map(move |s| (d.id, s))).collect();
    let in_force = all.iter().filter(|(_, s)| s.phase == Phase::InForce);
    let newest = &in_force.max_by_key(|(_, s)| s.epoch)?.1;
    let uuid = |s: &Superblock, seat: usize| s.members[seat].uuid;
    let holder = |seat: usize| {
        let own = |(_, s): &&(usize, Superblock)| s.uuid() == uuid(newest, seat);
        all.iter().find(own).map(|(id, _)| *id)
    };
    let prepared: Vec<&Superblock> =
        all.iter().map(|(_, s)| s).filter(|s| s.epoch > newest.epoch).collect();
    let filled = |s: &Superblock, seat: usize| s.twin_of(MemberIndex(seat as u8)).is_some();
    let is_out = |seat: &usize| {
        let other = |s: &&Superblock| {
            uuid(s, *seat) != uuid(newest, *seat)
                || !s.members[*seat].state.serves()
                || filled(s, *seat)
        };
        let gone = !newest.members[*seat].state.serves() || filled(newest, *seat);
        gone || prepared.iter().any(other)
    };
    Some(Seats {
        holders: (0..seats).map(holder).collect(),
        out: (0..seats).filter(is_out).collect(),
    })
}

/// Numbers the disks anew. Gives the new number of each old one.
pub(super) fn settle(all: &mut Survivors, seats: &Seats) -> BTreeMap<usize, usize> {
    let mut numbers: BTreeMap<usize, usize> = all.disks.iter().map(|d| (d.id, d.id)).collect();
    for (seat, holder) in seats.holders.iter().enumerate() {
        let Some(now) = holder.and_then(|h| numbers.get(&h).copied()).filter(|h| *h != seat) else {
            continue;
        };
        for number in numbers.values_mut() {
            *number = match *number {
                n if n == now => seat,
                n if n == seat => now,
                n => n,
            };
        }
    }
    for disk in &mut all.disks {
        disk.id = numbers[&disk.id];
        disk.path = path_of(disk.id);
    }
    numbers
}
