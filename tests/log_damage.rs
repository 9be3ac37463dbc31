//! What a start makes of damage, place by place: torn and flipped columns of the log, superblock
//! copies, rings; and that a start which refuses, or was told not to, writes not one byte.
//!
//! The array is a small RAID-6 of 4+2 on the simulator's disks; what it holds is known, since
//! every write was acknowledged as durable.

use std::collections::BTreeMap;

use evenkeel_journal::BLOCK;
use evenkeel_raid::{Ack, ErrorKind};
use evenkeel_tests::checkers::parity::describe;
use evenkeel_tests::crash::subsets;
use evenkeel_tests::damage::{
    LIMIT, Running, SECTOR, SUPERBLOCK, assert_content, assert_untouched, bytes_of, columns, flip,
    kept, options, overwrite_log, put, setup, start, superblocks, u64_at,
};
use evenkeel_tests::sim::{Image, Mode, Survivors};

const N: usize = 6;
const M: usize = 2;

fn running(ack: Ack) -> Running {
    Running::new(&setup("raid6-4+2"), 5, ack)
}

#[test]
fn a_last_commit_torn_at_any_sector_is_a_torn_tail() {
    let mut running = running(Ack::Durable);
    running.write_parts();
    let old = running.content.clone();
    let before = running.sim.snapshot().survive(Mode::PowerNone);
    running.write(9, 5, 77);
    let after = running.sim.snapshot().survive(Mode::PowerNone);
    let all = columns(&after);
    let (number, last) = all.iter().next_back().expect("there are commits");
    assert!(kept(&all).1 < *number, "nobody knows the last commit as durable yet");
    assert_eq!(last.len(), 5, "3 data columns and 2 of parity: {last:?}");
    let (mut without, mut with) = (0, 0);
    let sectors = last[0].blocks.len() * BLOCK / SECTOR;
    for cut in 0..=sectors {
        for beginning in [true, false] {
            // Torn on all members at once, on each alone, and on every other one.
            let mut sets: Vec<Vec<usize>> = (0..last.len()).map(|i| vec![i]).collect();
            sets.extend([vec![0, 1, 2, 3, 4], vec![0, 2, 4], vec![1, 3]]);
            for set in sets {
                let mut from = after.clone();
                for c in set.iter().map(|i| &last[*i]) {
                    let (old, mut torn) = (bytes_of(&before, c), bytes_of(&after, c));
                    let at = (cut * SECTOR).min(torn.len());
                    let lost = if beginning { at..torn.len() } else { 0..at };
                    torn[lost.clone()].copy_from_slice(&old[lost]);
                    put(&mut from, c, &torn);
                }
                let what = format!("sector {cut}, beginning kept: {beginning}, columns {set:?}");
                let started = start(&from, options(Ack::Durable, false));
                if set.len() > M && started.content.as_ref() == Ok(&old) {
                    without += 1;
                } else {
                    assert_content(&started.content, &running.content, &what);
                    with += 1;
                }
            }
        }
    }
    assert!(without > 20 && with > 200, "{without} without the last write, {with} with it");
}

#[test]
fn what_is_wrong_on_up_to_m_members_is_healed() {
    let mut running = running(Ack::Durable);
    running.write_parts();
    running.sleep(150);
    let from = running.sim.snapshot().survive(Mode::PowerNone);
    let all = columns(&from);
    let (tail, known) = kept(&all);
    let mut healed = 0;
    for (_, of_commit) in all.range(tail..=known) {
        for set in subsets(of_commit.len(), M, &[]) {
            // A field, the inline records, the padding of the header; a byte of the payload.
            for byte in [3, 70, 130, 161, 530, 4000, BLOCK as u64 + 1234] {
                let mut damaged = from.clone();
                for c in set.iter().map(|i| &of_commit[*i]) {
                    let block = (byte as usize / BLOCK).min(c.blocks.len() - 1);
                    flip(&mut damaged, c.disk, c.blocks[block] + byte % BLOCK as u64);
                }
                let what = format!("commit {} {set:?} byte {byte}", of_commit[0].header.number);
                let started = start(&damaged, options(Ack::Durable, false));
                assert_content(&started.content, &running.content, &what);
                // Whole again, and stable: of the very bytes that were there.
                let left = started.left.survive(Mode::PowerNone);
                for c in of_commit {
                    assert!(bytes_of(&left, c) == bytes_of(&from, c), "{what}: not healed");
                }
                // A disk more than were damaged may be lost, up to m of them.
                if set.len() < M {
                    let lost = (of_commit[set.first().map_or(0, |i| i + 1) % of_commit.len()]).disk;
                    let started = start(&damaged.without(&[lost]), options(Ack::Durable, false));
                    assert_content(&started.content, &running.content, &what);
                }
                healed += 1;
            }
        }
    }
    assert!(healed > 100, "only {healed} cases");
    // The whole log of m members is overwritten.
    for set in subsets(N, M, &[]).iter().filter(|s| s.len() == M) {
        let mut damaged = from.clone();
        overwrite_log(&mut damaged, set);
        let started = start(&damaged, options(Ack::Durable, false));
        assert_content(&started.content, &running.content, "a log overwritten");
        let left = started.left.survive(Mode::PowerNone);
        for c in all.range(tail..=known).flat_map(|(_, columns)| columns) {
            assert!(bytes_of(&left, c) == bytes_of(&from, c), "{set:?}: not healed");
        }
    }
}

#[test]
fn a_durable_commit_damaged_on_more_than_m_members_is_refused() {
    let mut running = running(Ack::Durable);
    running.write_parts();
    running.sleep(150);
    let from = running.sim.snapshot().survive(Mode::PowerNone);
    let all = columns(&from);
    let (tail, known) = kept(&all);
    let mut refused = 0;
    for (number, of_commit) in all.range(tail..=known) {
        let most = subsets(of_commit.len(), of_commit.len(), &[]);
        for set in most.iter().filter(|s| s.len() > M) {
            for in_payload in [false, true] {
                let mut damaged = from.clone();
                for c in set.iter().map(|i| &of_commit[*i]) {
                    let block = if in_payload { c.blocks.len() - 1 } else { 0 };
                    flip(&mut damaged, c.disk, c.blocks[block] + 77);
                }
                let what = format!("commit {number} {set:?}, payload: {in_payload}");
                for read_only in [false, true] {
                    let started = start(&damaged, options(Ack::Durable, read_only));
                    assert_eq!(started.content, Err(ErrorKind::LogDamaged), "{what}");
                    assert_untouched(&damaged, &started, &what);
                }
                refused += 1;
            }
        }
    }
    assert!(refused > 20, "only {refused} cases");
}

#[test]
fn one_whole_superblock_copy_of_a_member_is_enough() {
    let mut running = running(Ack::Durable);
    running.write_parts();
    let from = running.sim.snapshot().survive(Mode::PowerNone);
    let copies = superblocks(&setup("raid6-4+2"));
    for disk in 0..N {
        for set in subsets(3, 2, &[]) {
            for byte in [0, 20, 57, 100, 300, 3000, SUPERBLOCK - 1] {
                let mut damaged = from.clone();
                for copy in &set {
                    flip(&mut damaged, disk, copies[*copy] + byte);
                }
                let what = format!("disk {disk}, copies {set:?}, byte {byte}");
                let started = start(&damaged, options(Ack::Durable, false));
                assert_content(&started.content, &running.content, &what);
                let text = describe(&started.left.survive(Mode::PowerNone).disks);
                assert!(!text.contains("damaged"), "{what}: not written again\n{text}");
            }
        }
    }
}

#[test]
fn a_ring_that_is_needed_and_damaged_or_gone_is_refused() {
    let mut running = running(Ack::Cached);
    running.write_parts();
    let from = running.sim.snapshot().survive(Mode::Process(3));
    let started = start(&from, options(Ack::Cached, false));
    assert_content(&started.content, &running.content, "the ring is whole");
    assert_eq!(from.rings.len(), 1);
    let (id, ring) = from.rings.iter().next().expect("a ring");
    let (head, tail, area) = (u64_at(ring, 512), u64_at(ring, 576), u64_at(ring, 64));
    assert!(tail < head, "some records are not in the log yet");
    let mut bytes: Vec<u64> = vec![0, 8, 13, 20, 40, 64, 72, 80, 127];
    bytes.extend((tail..head).step_by(5).map(|p| 4096 + p % area));
    // The places that hold something, at the end all of them at once.
    let places = 4096 + area;
    let held = (0..u64_at(ring, 80)).map(|i| places + i * BLOCK as u64);
    let used = held.filter(|at| u64_at(ring, *at) != 0).collect::<Vec<_>>();
    assert!(!used.is_empty());
    let mut cases: Vec<(String, Survivors)> = Vec::new();
    for at in bytes {
        let mut damaged = from.clone();
        let mut b = [0];
        ring.read(at, &mut b);
        damaged.rings.get_mut(id).expect("a ring").write(at, &[b[0] ^ 4]);
        cases.push((format!("byte {at} of the ring"), damaged));
    }
    let mut damaged = from.clone();
    for at in used {
        damaged.rings.get_mut(id).expect("a ring").write(at + 9, &[0xee; 3]);
    }
    cases.push(("the places".into(), damaged));
    cases.push(("no ring".into(), Survivors { rings: BTreeMap::new(), ..from.clone() }));
    // Elsewhere, or after another boot, a ring that is there counts as much.
    for (what, damaged) in cases {
        for (read_only, boots) in [(false, 0), (true, 0), (false, 1), (true, 1)] {
            let damaged = Survivors { boot: from.boot + boots, ..damaged.clone() };
            let started = start(&damaged, options(Ack::Cached, read_only));
            if damaged.rings.is_empty() && boots > 0 {
                // Power was lost with it: the log alone, up to what was durable.
                assert!(started.content.is_ok(), "{what}: {:?}", started.content);
                continue;
            }
            assert_eq!(started.content, Err(ErrorKind::LogDamaged), "{what}");
            assert_untouched(&damaged, &started, &what);
        }
    }
}

#[test]
fn a_read_only_start_writes_nothing_and_reads_the_same() {
    let mut running = running(Ack::Durable);
    let array = running.array.clone();
    assert_eq!(running.sim.run(LIMIT, async move { array.destage_all().await }), Ok(Ok(())));
    running.write_parts();
    running.sim.record();
    let array = running.array.clone();
    assert_eq!(running.sim.run(LIMIT, async move { array.destage_all().await }), Ok(Ok(())));
    let shots = running.sim.recorded();
    let sets = subsets(N, M, &[]);
    let (mut overlaid, mut starts) = (0, 0);
    for (i, shot) in shots.iter().enumerate() {
        let seed = i as u64;
        let mode = match i % 4 {
            0 => Mode::Process(seed),
            1 => Mode::PowerTorn(seed),
            2 => Mode::PowerSubset(seed),
            _ => Mode::PowerNone,
        };
        let lost = &sets[i * 7 % sets.len()];
        let from = shot.survive(mode).without(lost);
        let what = format!("event {} {mode} without {lost:?}", shot.event);
        let started = start(&from, options(Ack::Durable, true));
        assert_content(&started.content, &running.content, &what);
        assert_untouched(&from, &started, &what);
        // Once more, from what it left: nothing stands in the way of a start that writes.
        let left = started.left.leave();
        let started = start(&left, options(Ack::Durable, false));
        assert_content(&started.content, &running.content, &what);
        starts += 1;
        overlaid += u32::from(slots_differ(&from, &started.left.leave()));
    }
    assert!(starts > 50 && overlaid > 10, "{starts} starts, {overlaid} of unfinished destages");
}

/// Whether a start has put rows in place.
fn slots_differ(from: &Survivors, left: &Survivors) -> bool {
    let digest = |s: &Survivors| -> Vec<u64> {
        let of = |d: &evenkeel_tests::sim::DiskImage| {
            let image = d.view();
            let first = u64_at(&image, 4096 + 232) / BLOCK as u64;
            let end = image.pages() as u64 - SUPERBLOCK / BLOCK as u64;
            let mut only = Image::zeros(end * BLOCK as u64);
            (first..end).for_each(|p| only.set(p as usize, image.page(p as usize).cloned()));
            only.digest()
        };
        s.disks.iter().map(of).collect()
    };
    digest(from) != digest(left)
}
