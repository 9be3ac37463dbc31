//! Disks that are wrong without a word: blocks that rot, writes that are lost or go elsewhere, whole
//! members of noise. Up to m wrong blocks of a row are given right, written again and counted for the
//! member that was wrong (P7); more are EIO, they alone, until they are overwritten. What is on the
//! members after all that is compared byte by byte.

use evenkeel_journal::sync::join2;
use evenkeel_journal::{BLOCK, Slice, Slot};
use evenkeel_raid::{Ack, Array, RequestError, StartOptions};
use evenkeel_tests::checkers::parity::{areas, check_at_rest};
use evenkeel_tests::crash::subsets;
use evenkeel_tests::damage::{LIMIT, Running, after_power_loss, options};
use evenkeel_tests::evenkeel::{journal_setups, setups};
use evenkeel_tests::rng::Rng;
use evenkeel_tests::sim::{Lie, Mode, SimWorld, Snapshot, Survivors};
use evenkeel_tests::subject::Setup;

const STRIPES: usize = 3;

/// Every geometry that has checksums, and two with the log on journal devices.
fn grid() -> Vec<Setup> {
    let journals = journal_setups().into_iter().filter(|s| s.journals == 2);
    setups().into_iter().chain(journals).filter(|s| s.checksums).collect()
}

fn plain() -> StartOptions {
    options(Ack::Durable, false)
}

/// With as little memory for checksums as can be.
fn tiny() -> StartOptions {
    StartOptions { checksum_cache: Some(0), ..plain() }
}

/// (checksum errors, healed) of each member.
type Counts = Vec<(u64, u64)>;

/// An array with three whole stripes, some of them changed in place, all of it home.
struct Liar {
    running: Running,
    setup: Setup,
    value: u8,
}

/// Where a block lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Spot {
    disk: usize,
    at: u64,
}

impl Liar {
    fn new(setup: &Setup, seed: u64) -> Liar {
        let mut running = Running::new(setup, seed, Ack::Durable);
        running.destage();
        running.write_parts();
        running.destage();
        // Map and checksums go home in idle time.
        running.sleep(3000);
        Liar { running, setup: setup.clone(), value: 40 }
    }

    fn rows(&self) -> usize {
        self.setup.chunk as usize / BLOCK
    }

    /// Block of the device in a stripe's column and row.
    fn block(&self, stripe: usize, row: usize, column: usize) -> usize {
        stripe * self.running.stripe_blocks() + column * self.rows() + row
    }

    fn spot(&self, stripe: usize, row: usize, column: usize) -> Spot {
        let byte = (stripe * self.running.stripe_blocks() * BLOCK) as u64;
        let slot = self.running.array.locate(byte).expect("a byte").slot.expect("a slot");
        let g = self.running.array.geometry();
        let disk = g.member_of(Slot(slot), column).at();
        Spot { disk, at: g.byte_of(Slot(slot), row as u32) }
    }

    fn peek(&self, s: Spot) -> Vec<u8> {
        self.running.sim.world().peek(s.disk, s.at, BLOCK)
    }

    fn put(&self, s: Spot, bytes: &[u8]) {
        self.running.sim.world().corrupt(s.disk, s.at, bytes);
    }

    fn lie(&self, disk: usize, lie: Lie) {
        self.running.sim.world().lie(disk, lie);
    }

    /// Makes a block wrong, in one of several ways.
    fn spoil(&self, s: Spot, how: usize) {
        let bytes = self.peek(s);
        let wrong: Vec<u8> = match how % 4 {
            0 => {
                let mut one = bytes.clone();
                one[how * 61 % BLOCK] ^= 1 << (how % 8);
                one
            }
            1 => vec![0; BLOCK],
            2 => (0..BLOCK).map(|i| (i * 7 + how) as u8 ^ bytes[i]).collect(),
            _ => self.peek(Spot { at: s.at + BLOCK as u64, ..s }),
        };
        let wrong = if wrong == bytes { vec![0x5a; BLOCK] } else { wrong };
        self.put(s, &wrong);
    }

    fn write(&mut self, block: usize, count: usize) {
        self.value = self.value % 250 + 1;
        self.running.write(block, count, self.value);
    }

    fn counts(&self) -> Counts {
        let status = self.running.array.status();
        status.members.iter().map(|m| (m.checksum_errors, m.healed)).collect()
    }

    /// Asserts what was counted since `before`: errors and healed of these disks, nothing of others.
    fn counted(&self, before: &Counts, expected: &[(usize, u64, u64)], case: &str) {
        for (disk, (was, is)) in before.iter().zip(self.counts()).enumerate() {
            let own = expected.iter().filter(|e| e.0 == disk);
            let sum = own.fold((0, 0), |s, e| (s.0 + e.1, s.1 + e.2));
            assert_eq!((is.0 - was.0, is.1 - was.1), sum, "{case}: disk {disk} of {expected:?}");
        }
    }

    /// Reads everything, in requests of so many blocks.
    fn right(&self, at_once: usize, case: &str) {
        let blocks = STRIPES * self.running.stripe_blocks();
        for block in (0..blocks).step_by(at_once) {
            let count = at_once.min(blocks - block);
            let got = self.running.read(block, count);
            let wanted = &self.running.content[block * BLOCK..(block + count) * BLOCK];
            assert!(got.as_deref() == Ok(wanted), "{case}: block {block}: {:?}", got.map(|_| ()));
        }
    }

    /// Reads block by block: these are EIO, all others right.
    fn right_but(&self, lost: &[usize], case: &str) {
        for block in 0..STRIPES * self.running.stripe_blocks() {
            let got = self.running.read(block, 1);
            let wanted = &self.running.content[block * BLOCK..(block + 1) * BLOCK];
            if lost.contains(&block) {
                assert_eq!(got.map(|_| ()), Err(RequestError::Io), "{case}: block {block}");
            } else {
                assert!(got.as_deref() == Ok(wanted), "{case}: block {block}");
            }
        }
    }

    /// Stops, and looks at every byte on the members.
    fn at_rest(&self, case: &str) -> Survivors {
        self.running.stop();
        let left = self.running.sim.snapshot().survive(Mode::PowerNone);
        assert_eq!(check_at_rest(&left.disks, &self.running.content), Ok(()), "{case}");
        left
    }
}

/// Sets of columns, none of them empty.
fn sets(setup: &Setup, most: usize) -> Vec<Vec<usize>> {
    let mut all = subsets(setup.members(), most, &[]);
    all.retain(|s| !s.is_empty());
    all
}

#[test]
fn every_set_of_m_wrong_blocks_of_a_row_is_given_right_and_healed() {
    for setup in grid() {
        let mut a = Liar::new(&setup, 5);
        for (i, set) in sets(&setup, setup.parity).into_iter().enumerate() {
            let case = format!("{} {set:?}", setup.name);
            let (stripe, row) = (i % STRIPES, i / STRIPES % a.rows());
            let spots: Vec<Spot> = set.iter().map(|c| a.spot(stripe, row, *c)).collect();
            let whole: Vec<Vec<u8>> = spots.iter().map(|s| a.peek(*s)).collect();
            let before = a.counts();
            spots.iter().enumerate().for_each(|(j, s)| a.spoil(*s, i + j));
            a.right(if i % 2 == 0 { 1 } else { a.running.stripe_blocks() }, &case);
            let mut expected = Vec::new();
            for ((c, s), bytes) in set.iter().zip(&spots).zip(&whole) {
                let healed = a.peek(*s) == *bytes;
                // Parity is read where data is wrong alone.
                assert!(healed || *c >= setup.data, "{case}: column {c}");
                expected.push((s.disk, u64::from(healed), u64::from(healed)));
            }
            a.counted(&before, &expected, &case);
            // Parity that was not read is written anew with its row.
            a.write(a.block(stripe, row, i % setup.data), 1);
            a.running.destage();
        }
        a.at_rest(setup.name);
    }
}

#[test]
fn parity_is_not_made_of_wrong_blocks() {
    for setup in grid() {
        let mut a = Liar::new(&setup, 6);
        for (i, set) in sets(&setup, setup.parity).into_iter().enumerate() {
            let case = format!("{} {set:?}", setup.name);
            let (stripe, row, own) = (i % STRIPES, i / STRIPES % a.rows(), i % setup.data);
            let spots: Vec<Spot> = set.iter().map(|c| a.spot(stripe, row, *c)).collect();
            let before = a.counts();
            spots.iter().enumerate().for_each(|(j, s)| a.spoil(*s, i + j));
            a.write(a.block(stripe, row, own), 1);
            a.running.destage();
            a.right(3, &case);
            let mut expected = Vec::new();
            for (c, s) in set.iter().zip(&spots) {
                // What is overwritten need not be read before.
                let read = *c < setup.data && *c != own;
                let now = a.counts()[s.disk].0 - before[s.disk].0;
                expected.push((s.disk, if read { 1 } else { now }, if read { 1 } else { now }));
            }
            a.counted(&before, &expected, &case);
        }
        a.at_rest(setup.name);
    }
}

#[test]
fn degraded_arrays_tell_right_from_wrong_too() {
    for setup in grid() {
        for gone in 1..=setup.parity {
            let mut a = Liar::new(&setup, 7);
            let failed: Vec<usize> = (0..gone).map(|i| (i * 2 + gone) % setup.members()).collect();
            failed.iter().for_each(|d| a.running.fail(*d));
            let all = sets(&setup, setup.parity - gone + 1);
            for (i, set) in all.into_iter().enumerate() {
                let case = format!("{} without {failed:?}: {set:?}", setup.name);
                let (stripe, row) = (i % STRIPES, i / STRIPES % a.rows());
                let here = |c: &&usize| !failed.contains(&a.spot(stripe, row, **c).disk);
                let wrong: Vec<usize> = set.iter().filter(here).copied().collect();
                for (j, c) in wrong.iter().enumerate() {
                    a.spoil(a.spot(stripe, row, *c), i + j);
                }
                let too_many = wrong.len() + gone > setup.parity;
                let absent =
                    (0..setup.data).filter(|c| failed.contains(&a.spot(stripe, row, *c).disk));
                let lost: Vec<usize> = wrong
                    .iter()
                    .copied()
                    .filter(|c| *c < setup.data)
                    .chain(absent)
                    .filter(|_| too_many)
                    .map(|c| a.block(stripe, row, c))
                    .collect();
                a.right_but(&lost, &case);
                // What is lost is overwritten, and the row whole again.
                for block in &lost {
                    a.write(*block, 1);
                }
                a.write(a.block(stripe, row, i % setup.data), 1);
                a.running.destage();
                a.right(1, &case);
            }
            a.at_rest(setup.name);
        }
    }
}

#[test]
fn one_wrong_block_too_many_is_eio_for_the_wrong_ones_alone() {
    for setup in grid() {
        let mut a = Liar::new(&setup, 8);
        let all = sets(&setup, setup.parity + 1);
        for (i, set) in all.into_iter().filter(|s| s.len() == setup.parity + 1).enumerate() {
            let case = format!("{} {set:?}", setup.name);
            let (stripe, row) = (i % STRIPES, i / STRIPES % a.rows());
            let spots: Vec<Spot> = set.iter().map(|c| a.spot(stripe, row, *c)).collect();
            let before = a.counts();
            spots.iter().enumerate().for_each(|(j, s)| a.spoil(*s, i + j));
            let data = set.iter().filter(|c| **c < setup.data);
            let lost: Vec<usize> = data.map(|c| a.block(stripe, row, *c)).collect();
            // With k = 1 and all blocks wrong, all of them are lost; else those of the set.
            a.right_but(&lost, &case);
            a.right_but(&lost, &case);
            if !lost.is_empty() {
                let expected: Vec<_> = spots.iter().map(|s| (s.disk, 1, 0)).collect();
                a.counted(&before, &expected, &case);
            }
            // A part of a block cannot be written, since the rest of it is not known.
            for block in &lost {
                let (array, at) = (a.running.array.clone(), (block * BLOCK + 5) as u64);
                let part = async move { array.write(at, Slice::copy_of(&[1; 9]), false).await };
                let part = a.running.sim.run(LIMIT, part);
                assert_eq!(part, Ok(Err(RequestError::Io)), "{case}");
            }
            // Another block of the row changes: the others stay what they are, through a restart.
            let free = (0..setup.data).find(|c| !set.contains(c));
            if let Some(c) = free.filter(|_| i % 2 == 0) {
                a.write(a.block(stripe, row, c), 1);
                a.running.destage();
                a.right_but(&lost, &case);
                let left = a.running.sim.snapshot().survive(Mode::PowerNone);
                a.running = a.running.again(90 + i as u64, &left, &plain());
                a.right_but(&lost, &case);
            }
            lost.iter().for_each(|block| a.write(*block, 1));
            a.write(a.block(stripe, row, 0), 1);
            a.running.destage();
            a.right(2, &case);
            assert_eq!(a.running.array.status().stripes.lost_blocks, 0, "{case}");
        }
        a.at_rest(setup.name);
    }
}

#[test]
fn a_member_of_noise_changes_nothing() {
    for setup in grid() {
        for seed in 0..4 {
            let a = Liar::new(&setup, 20 + seed);
            let mut rng = Rng::new(seed);
            let mut liars: Vec<usize> = (0..setup.members()).collect();
            rng.shuffle(&mut liars);
            liars.truncate(1 + seed as usize % setup.parity);
            let case = format!("{} {liars:?}", setup.name);
            let world = a.running.sim.world();
            let left = a.running.sim.snapshot().leave();
            for disk in &liars {
                let own = areas(&left.disks[*disk]).expect("it has checksums");
                let all = [Some(own.slots), Some(own.pages), own.log];
                for area in all.into_iter().flatten() {
                    let words =
                        (0..(area.end - area.start) / 8).flat_map(|_| rng.draw().to_le_bytes());
                    world.corrupt(*disk, area.start, &words.collect::<Vec<u8>>());
                }
            }
            let before = a.counts();
            let data = |disk: &usize| {
                let all = (0..STRIPES).flat_map(|s| (0..a.rows()).map(move |r| (s, r)));
                let mine =
                    |(s, r)| (0..setup.data).filter(|c| a.spot(s, r, *c).disk == *disk).count();
                all.map(mine).sum::<usize>() as u64
            };
            a.right(5, &case);
            for (disk, (now, was)) in a.counts().into_iter().zip(before).enumerate() {
                let (errors, healed) = (now.0 - was.0, now.1 - was.1);
                if liars.contains(&disk) {
                    assert!(errors >= data(&disk), "{case}: disk {disk}: {errors}");
                    assert_eq!(errors, healed, "{case}: disk {disk}");
                } else {
                    assert_eq!((errors, healed), (0, 0), "{case}: disk {disk} is honest");
                }
            }
            // Pages, log columns and parity are noise still. A crash, and another life.
            let left = after_power_loss(&a.running);
            let mut b = Liar { running: a.running.again(5, &left, &plain()), ..a };
            b.right(1, &case);
            b.write(3, 2);
            b.running.destage();
            b.running.stop();
            let left = b.running.sim.snapshot().survive(Mode::PowerNone);
            b.running = b.running.again(6, &left, &plain());
            b.right(4, &case);
        }
    }
}

/// A write in place is lost, or goes elsewhere, for each set of up to m of the blocks that it is
/// made of: the new content is read, never the old one, and the victim is what it was.
#[test]
fn lost_and_misdirected_writes_are_noticed() {
    for setup in grid() {
        let mut a = Liar::new(&setup, 9);
        for (i, set) in sets(&setup, setup.parity).into_iter().enumerate() {
            let (stripe, row) = (i % STRIPES, i / STRIPES % a.rows());
            let own = i % setup.data;
            // Covered is one data block; of a row in place that and the parity are written.
            let set: Vec<usize> =
                set.into_iter().filter(|c| *c == own || *c >= setup.data).collect();
            let case = format!("{} {set:?} of {own}", setup.name);
            let before = a.counts();
            let mut expected = Vec::new();
            for (j, c) in set.iter().enumerate() {
                let s = a.spot(stripe, row, *c);
                if (i + j) % 2 == 0 {
                    a.lie(s.disk, Lie::LostWrite(s.at));
                    if *c == own {
                        expected.push((s.disk, 1, 1));
                    }
                    continue;
                }
                // Onto a block of the same column in another stripe.
                let other = (0..setup.members())
                    .map(|c| ((stripe + 1) % STRIPES, c))
                    .find(|(s2, c2)| a.spot(*s2, row, *c2).disk == s.disk)
                    .expect("every disk has a block of every row");
                let victim = a.spot(other.0, row, other.1);
                a.lie(s.disk, Lie::MisdirectedWrite(s.at, victim.at));
                if *c == own {
                    expected.push((s.disk, 1, 1));
                }
                if other.1 < setup.data {
                    expected.push((s.disk, 1, 1));
                }
            }
            a.write(a.block(stripe, row, own), 1);
            a.running.destage();
            let told = |disk| a.running.sim.world().lies_left(disk) == 0;
            assert!((0..setup.members()).all(told), "{case}: not all lies were told");
            a.right(1, &case);
            for e in &expected {
                let now = a.counts()[e.0];
                assert!(now.0 > before[e.0].0 && now.0 - before[e.0].0 == now.1 - before[e.0].1);
            }
            // Every row of the two stripes is written anew.
            for s in [stripe, (stripe + 1) % STRIPES] {
                for r in 0..a.rows() {
                    a.write(a.block(s, r, i % setup.data), 1);
                }
            }
            a.running.destage();
        }
        a.at_rest(setup.name);
    }
}

#[test]
fn stale_and_exchanged_blocks_are_healed() {
    for setup in grid() {
        let mut a = Liar::new(&setup, 10);
        for own in 0..setup.data {
            let case = format!("{} column {own}", setup.name);
            let (here, there) = (a.spot(0, 1, own), a.spot(1, 1, own));
            let old = a.peek(here);
            a.write(a.block(0, 1, own), 1);
            a.running.destage();
            let before = a.counts();
            assert_eq!(a.spot(0, 1, own), here, "{case}: it was destaged in place");
            let new = a.peek(here);
            assert_ne!(old, new);
            a.put(here, &old);
            a.right(1, &case);
            assert_eq!(a.peek(here), new, "{case}");
            a.counted(&before, &[(here.disk, 1, 1)], &case);
            // Two blocks of one member, or of two, each in the other's place.
            let before = a.counts();
            let other = a.peek(there);
            a.put(here, &other);
            a.put(there, &new);
            a.right(2, &case);
            assert_eq!((a.peek(here), a.peek(there)), (new, other), "{case}");
            a.counted(&before, &[(here.disk, 1, 1), (there.disk, 1, 1)], &case);
        }
        a.at_rest(setup.name);
    }
}

/// The answer to one read is another block: it is not passed on, and the disk is named.
#[test]
fn a_misdirected_read_is_not_believed() {
    for setup in grid() {
        let a = Liar::new(&setup, 11);
        for column in 0..setup.data {
            let case = format!("{} column {column}", setup.name);
            let (here, there) = (a.spot(0, 1, column), a.spot(2, 0, column));
            let before = a.counts();
            a.lie(here.disk, Lie::MisdirectedRead(here.at, there.at));
            a.right(1, &case);
            assert_eq!(a.running.sim.world().lies_left(here.disk), 0, "{case}");
            a.counted(&before, &[(here.disk, 1, 0)], &case);
        }
        a.at_rest(setup.name);
    }
}

/// Members have unreadable sectors, each in another row, and wrong blocks beside them: a request for
/// all of them is answered, since each of them can be given.
#[test]
fn what_is_wrong_in_different_rows_does_not_add_up() {
    for setup in grid() {
        let a = Liar::new(&setup, 12);
        let world = a.running.sim.world();
        // In row 0 what holds column 0 cannot be read, in row 1 all others.
        let first = a.spot(0, 0, 0);
        world.add_bad_pages(first.disk, first.at, BLOCK as u64);
        for column in 1..setup.members() {
            let s = a.spot(0, 1, column);
            world.add_bad_pages(s.disk, s.at, BLOCK as u64);
        }
        let rows = a.rows();
        let got = a.running.read(0, rows);
        assert!(got.as_deref() == Ok(&a.running.content[..rows * BLOCK]), "{}", setup.name);
    }
}

/// Rows go in place while pages go home, since there is next to no memory for checksums. Gives what
/// a stop leaves, and every moment before.
fn places_and_pages(setup: &Setup, seed: u64) -> (Running, Survivors, Vec<Snapshot>) {
    let mut a = Running::empty(setup, seed, &tiny());
    let (blocks, value) = (a.stripe_blocks(), seed as u8);
    let stripes = a.content.len() / BLOCK / blocks;
    for stripe in 0..stripes {
        a.write(stripe * blocks, blocks, stripe as u8 + 1);
    }
    a.destage();
    a.sleep(3000);
    a.sim.record();
    // Parts of the even stripes, whole odd ones.
    let write = move |array: Array<SimWorld>, stripe: usize, from: usize, count: usize| {
        let bytes = vec![value ^ stripe as u8 ^ 0x80; count * BLOCK];
        let at = (stripe * blocks + from) * BLOCK;
        async move { array.write(at as u64, Slice::copy_of(&bytes), false).await.expect("written") }
    };
    for stripe in 0..stripes {
        let (from, count) = if stripe % 2 == 0 { (stripe % blocks, 1) } else { (0, blocks) };
        a.content[(stripe * blocks + from) * BLOCK..][..count * BLOCK]
            .fill(value ^ stripe as u8 ^ 0x80);
    }
    let (first, second) = (a.array.clone(), a.array.clone());
    let parts = async move {
        for stripe in (0..stripes).step_by(2) {
            write(first.clone(), stripe, stripe % blocks, 1).await;
            first.destage_all().await.expect("destaged");
        }
    };
    let whole = async move {
        for stripe in (1..stripes).step_by(2).cycle().take(3 * stripes) {
            write(second.clone(), stripe, 0, blocks).await;
        }
    };
    assert_eq!(a.sim.run(LIMIT, join2(parts, whole)), Ok(((), ())));
    let wrong: u64 = a.array.status().members.iter().map(|m| m.checksum_errors).sum();
    assert_eq!(wrong, 0, "{}: a false alarm", setup.name);
    let shots = a.sim.recorded();
    a.stop();
    let end = a.sim.snapshot().survive(Mode::PowerNone);
    (a, end, shots)
}

/// A member loses all writes from some moment on (slots, pages and checksums alike; not its
/// superblocks, or it would be left out): whenever that was, nothing that it then holds is believed.
#[test]
fn a_member_that_loses_everything_from_any_moment_on_gives_nothing_stale() {
    let mut starts = 0;
    for (setup, seed) in grid().into_iter().flat_map(|s| (1..9).map(move |seed| (s.clone(), seed)))
    {
        let (a, end, shots) = places_and_pages(&setup, seed);
        let own = areas(&end.disks[0]).expect("it has checksums");
        // The first copy of the page is on the first of these.
        let member = (1 + seed as usize % (setup.parity + 1)) % setup.members();
        for (i, shot) in shots.iter().enumerate().step_by(5) {
            let before = shot.survive(Mode::PowerAll).disks[member].view();
            let mut from = end.clone();
            for area in [&own.pages, &own.slots] {
                let mut old = vec![0; (area.end - area.start) as usize];
                before.read(area.start, &mut old);
                from.disks[member].corrupt(area.start, &old);
            }
            let b = a.again(i as u64, &from, &tiny());
            let case = format!("{} seed {seed}: disk {member} of {}", setup.name, shot.event);
            for block in (0..b.content.len() / BLOCK).step_by(a.stripe_blocks()) {
                let got = b.read(block, a.stripe_blocks());
                let wanted = &b.content[block * BLOCK..(block + a.stripe_blocks()) * BLOCK];
                assert!(got.as_deref() == Ok(wanted), "{case}, {block}: {:?}", got.map(|_| ()));
            }
            starts += 1;
        }
    }
    assert!(starts > 500, "{starts} starts");
}
