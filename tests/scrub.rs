//! The scrub: what is wrong is found, counted exactly, and made right byte for byte; what is right
//! stays as it is; and it goes on after a crash.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::sync::Signal;
use evenkeel_journal::{BLOCK, Buf, MemberIndex, Slice, Stripe, World};
use evenkeel_raid::geometry::{Geometry, SUPERBLOCK_BYTES};
use evenkeel_raid::page;
use evenkeel_raid::status::ScrubStatus;
use evenkeel_raid::{Ack, Array, StartOptions};
use evenkeel_tests::damage::{columns, setup};
use evenkeel_tests::evenkeel::{Evenkeel, journal_setups, setups};
use evenkeel_tests::rng::Rng;
use evenkeel_tests::sim::{Mode, PAGE, SimDisk, SimWorld, Simulation};
use evenkeel_tests::subject::{Setup, Subject};

/// Simulated time that a run may take.
const LIMIT: Duration = Duration::from_secs(7200);

/// All geometries, with and without checksums, and with journal devices.
fn grid() -> Vec<Setup> {
    let mut all = setups();
    all.extend(journal_setups().into_iter().take(2));
    // One that was laid out without checksums has to be larger with them.
    let with = all.iter().map(|s| {
        let more = if s.checksums { 0 } else { 1 << 20 };
        Setup { checksums: true, member: s.member + more, ..s.clone() }
    });
    let without = all.iter().map(|s| Setup { checksums: false, ..s.clone() });
    with.chain(without).collect()
}

fn with_checksums() -> Vec<Setup> {
    grid().into_iter().filter(|s| s.checksums).collect()
}

/// A block that tells where it belongs.
fn block(number: u64, salt: u8) -> Vec<u8> {
    (0..BLOCK).map(|i| (number as u8).wrapping_mul(37).wrapping_add(i as u8 ^ salt) | 1).collect()
}

/// An array at rest: everything is in its place.
struct Rested {
    sim: Simulation,
    world: SimWorld,
    array: Array<SimWorld>,
    g: Geometry,
    content: Vec<u8>,
    name: String,
}

async fn start(world: &SimWorld, disks: &[SimDisk], read_only: bool) -> Array<SimWorld> {
    let options = StartOptions { ack: Ack::Durable, read_only, ..StartOptions::default() };
    Array::start(world, disks, &options, &|_| ()).await.expect("it starts")
}

async fn read_all(array: &Array<SimWorld>) -> Vec<u8> {
    let (done, buf) = array.read(0, Buf::new(array.size_bytes() as usize)).await;
    done.expect("it reads");
    buf.to_vec()
}

impl Rested {
    fn new(setup: &Setup, seed: u64) -> Rested {
        let name = format!("{}{}", setup.name, if setup.checksums { "" } else { " without" });
        let sim = Simulation::new(seed, &setup.empty());
        let (world, disks, setup) = (sim.world(), sim.disks(), setup.clone());
        let ran = sim.run(LIMIT, async move {
            Evenkeel::create(&world, &disks, &setup).await.expect("made");
            let array = start(&world, &disks, false).await;
            let mut content = vec![0; array.size_bytes() as usize];
            let per_stripe = setup.stripe() / BLOCK as u64;
            // Whole stripes, one of them not; then parts of them again, which are destaged in place.
            for number in (0..5 * per_stripe).chain([0, 1, per_stripe + 1, 6 * per_stripe + 1]) {
                let bytes = block(number, 5);
                let at = number as usize * BLOCK;
                content[at..at + BLOCK].copy_from_slice(&bytes);
                array.write(at as u64, Slice::copy_of(&bytes), false).await.expect("written");
                if number % per_stripe == per_stripe - 1 {
                    array.destage_all().await.expect("destaged");
                }
            }
            array.destage_all().await.expect("destaged");
            // What is in place goes home, and the log says that it is durable.
            world.sleep(Duration::from_secs(5)).await;
            (array, content)
        });
        let (array, content) = ran.unwrap_or_else(|e| panic!("{name}: {e}"));
        let (world, g) = (sim.world(), array.geometry());
        Rested { sim, world, array, g, content, name }
    }

    fn run<T: 'static>(&self, work: impl Future<Output = T> + 'static) -> T {
        self.sim.run(LIMIT, work).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// Scrubs to the end.
    fn scrub(&self, check_only: bool) -> ScrubStatus {
        let array = self.array.clone();
        self.run(async move {
            array.start_scrub(check_only).await.expect("it begins");
            array.scrub_ended().await.expect("it ends");
            array.status().scrub.expect("there was one")
        })
    }

    /// What lies on every disk, but for the scrub's own page.
    fn images(&self) -> Vec<(usize, Vec<Vec<u8>>)> {
        let own: BTreeSet<(usize, u64)> = if self.g.has_checksums() {
            (0..2).flat_map(|p| self.g.sum_page_copies(0, p)).map(|(m, at)| (m.at(), at)).collect()
        } else {
            BTreeSet::new()
        };
        let disks = self.sim.snapshot().leave().disks;
        disks
            .iter()
            .map(|d| {
                let view = d.view();
                let page = |i: usize| match view.page(i) {
                    Some(p) if !own.contains(&(d.id, (i * PAGE) as u64)) => p.to_vec(),
                    _ => Vec::new(),
                };
                (d.id, (0..view.pages()).map(page).collect())
            })
            .collect()
    }

    fn assert_images(&self, before: &[(usize, Vec<Vec<u8>>)], what: &str) {
        for ((id, was), (_, is)) in before.iter().zip(self.images()) {
            let zero = |p: &Vec<u8>| p.iter().all(|b| *b == 0);
            let other = was.iter().zip(&is).position(|(a, b)| a != b && !(zero(a) && zero(b)));
            assert_eq!(other, None, "{}: {what}: disk {id} differs in a page", self.name);
        }
    }

    /// Other bytes in a block, so that nothing in it is what it was.
    fn corrupt(&self, disk: usize, at: u64) {
        let bytes: Vec<u8> = self.world.peek(disk, at, BLOCK).iter().map(|b| !b).collect();
        self.world.corrupt(disk, at, &bytes);
    }

    /// Disk and byte of all columns of a row of a stripe that has a slot.
    fn row(&self, stripe: u64, row: u64) -> Vec<(usize, u64)> {
        let at = (stripe * self.g.stripe_blocks() + row) * BLOCK as u64;
        let slot = self.array.locate(at).expect("it is there").slot.expect("a slot");
        let slot = evenkeel_journal::Slot(slot);
        (0..self.g.members())
            .map(|c| (self.g.member_of(slot, c).at(), self.g.byte_of(slot, row as u32)))
            .collect()
    }

    fn read_all(&self) -> Vec<u8> {
        let array = self.array.clone();
        self.run(async move { read_all(&array).await })
    }

    fn wrong(&self) -> (u64, u64) {
        let members = self.array.status().members;
        members.iter().fold((0, 0), |(a, b), m| (a + m.checksum_errors, b + m.healed))
    }
}

fn counts(s: &ScrubStatus) -> (u64, u64, u64) {
    (s.mismatches, s.healed, s.unrepairable)
}

#[test]
fn what_is_wrong_is_counted_once_and_mended_byte_for_byte() {
    for setup in with_checksums() {
        let (m, mut rng) = (setup.parity, Rng::new(7));
        let a = Rested::new(&setup, 3);
        let (before, name) = (a.images(), a.name.clone());
        let clean = a.scrub(false);
        assert_eq!(counts(&clean), (0, 0, 0), "{name}: nothing is wrong");
        let stripes = a.array.status().stripes.mapped;
        assert!(clean.done_bytes > stripes * a.g.chunk_bytes() * a.g.members() as u64, "{name}");
        assert_eq!(clean.done_bytes, clean.total_bytes, "{name}");
        a.assert_images(&before, "a scrub of what is right");

        let mut injected = 0;
        for stripe in [0, 1, 2, 4, 6] {
            for row in 0..u64::from(a.g.chunk_blocks) {
                let mut all = a.row(stripe, row);
                rng.shuffle(&mut all);
                for (disk, at) in all.into_iter().take(rng.index(m + 1)) {
                    a.corrupt(disk, at);
                    injected += 1;
                }
            }
        }
        assert!(injected > 4, "{name}");
        let damaged = a.images();
        let seen = a.scrub(true);
        assert_eq!(counts(&seen), (injected, 0, 0), "{name}: check only");
        assert!(seen.check_only && !seen.running && seen.ended.is_some());
        assert_eq!(a.wrong(), (injected, 0), "{name}: of the members");
        a.assert_images(&damaged, "check only");
        assert_eq!(counts(&a.scrub(true)), (injected, 0, 0), "{name}: check only, again");
        assert_eq!(a.wrong(), (injected, 0), "{name}: each block counts once");

        assert_eq!(counts(&a.scrub(false)), (injected, injected, 0), "{name}");
        assert_eq!(a.wrong(), (injected, injected), "{name}: of the members");
        a.assert_images(&before, "mended");
        assert_eq!(counts(&a.scrub(false)), (0, 0, 0), "{name}: and then nothing is wrong");
        assert!(a.read_all() == a.content, "{name}: content");
    }
}

#[test]
fn without_checksums_parity_is_made_to_fit_the_data() {
    for setup in grid().into_iter().filter(|s| !s.checksums) {
        let (k, m) = (setup.data, setup.parity);
        let a = Rested::new(&setup, 4);
        let (before, name) = (a.images(), a.name.clone());
        assert_eq!(counts(&a.scrub(false)), (0, 0, 0), "{name}: nothing is wrong");
        // One parity block, and all of a row.
        for (stripe, row, wrong) in [(0, 0, k..k + 1), (1, 1, k + m - 1..k + m), (4, 0, k..k + m)] {
            a.row(stripe, row)[wrong].iter().for_each(|(disk, at)| a.corrupt(*disk, *at));
        }
        let damaged = a.images();
        assert_eq!(counts(&a.scrub(true)), (3, 0, 0), "{name}: check only");
        a.assert_images(&damaged, "check only");
        assert_eq!(counts(&a.scrub(false)), (3, 3, 0), "{name}");
        a.assert_images(&before, "mended");
        assert_eq!(a.wrong(), (0, 0), "{name}: nobody can say which member");
        // A data block: parity follows it.
        let (disk, at) = a.row(2, 0)[k - 1];
        a.corrupt(disk, at);
        let wrong = a.world.peek(disk, at, BLOCK);
        assert_eq!(counts(&a.scrub(false)), (1, 1, 0), "{name}");
        assert_eq!(counts(&a.scrub(false)), (0, 0, 0), "{name}");
        assert_eq!(a.world.peek(disk, at, BLOCK), wrong, "{name}");
    }
}

#[test]
fn sectors_that_cannot_be_read_are_written_again() {
    for setup in grid() {
        let a = Rested::new(&setup, 5);
        let (before, name) = (a.images(), a.name.clone());
        let mut bad = Vec::new();
        for (stripe, row) in [(0, 0), (1, 1), (3, 1)] {
            bad.extend(a.row(stripe, row).into_iter().rev().take(setup.parity));
        }
        bad.iter().for_each(|(disk, at)| a.world.add_bad_pages(*disk, *at, BLOCK as u64));
        let n = bad.len() as u64;
        assert_eq!(counts(&a.scrub(true)), (n, 0, 0), "{name}: check only");
        assert_eq!(counts(&a.scrub(false)), (n, n, 0), "{name}");
        assert_eq!(a.wrong(), (0, n), "{name}: they could not be read, which is counted elsewhere");
        let errors =
            |a: &Rested| -> u64 { a.array.status().members.iter().map(|m| m.read_errors).sum() };
        let so_far = errors(&a);
        assert_eq!(counts(&a.scrub(false)), (0, 0, 0), "{name}");
        assert_eq!(errors(&a), so_far, "{name}: all can be read again");
        // A read that fails once is nothing to be mended.
        (0..setup.members()).for_each(|disk| a.world.add_bad_read(disk));
        assert_eq!(counts(&a.scrub(false)), (0, 0, 0), "{name}: one bad read each");
        assert!(errors(&a) >= so_far + setup.members() as u64);
        a.assert_images(&before, "read again");
    }
}

#[test]
fn beyond_the_tolerance_those_blocks_alone_give_eio() {
    for setup in with_checksums() {
        let a = Rested::new(&setup, 6);
        let name = a.name.clone();
        let damaged: Vec<(usize, u64)> = a.row(1, 0).into_iter().take(setup.parity + 1).collect();
        damaged.iter().for_each(|(disk, at)| a.corrupt(*disk, *at));
        let (disk, at) = a.row(2, 1)[0];
        a.corrupt(disk, at);
        let wrong = damaged.len() as u64;
        assert_eq!(counts(&a.scrub(true)), (wrong + 1, 0, wrong), "{name}: check only");
        for round in 0..2 {
            let healed = 1 - round;
            assert_eq!(counts(&a.scrub(false)), (wrong + healed, healed, wrong), "{name}");
        }
        assert_eq!(a.wrong(), (wrong + 1, 1), "{name}");
        let (array, content, g) = (a.array.clone(), a.content.clone(), a.g);
        a.run(async move {
            for number in 0..g.device_blocks() {
                let at = number as usize * BLOCK;
                let (done, buf) = array.read(at as u64, Buf::new(BLOCK)).await;
                let (stripe, own) = g.stripe_of(number);
                let (column, row) = g.column_row(own);
                let gone = stripe == Stripe(1) && row == 0 && column < g.parity + 1;
                assert_eq!(done.is_err(), gone, "{name}: block {number}");
                assert!(gone || buf[..] == content[at..at + BLOCK], "{name}: block {number}");
            }
        });
    }
}

#[test]
fn a_degraded_array_is_scrubbed_too() {
    for setup in with_checksums().into_iter().filter(|s| s.parity > 1) {
        let a = Rested::new(&setup, 9);
        let name = a.name.clone();
        let array = a.array.clone();
        a.run(async move { array.fail_member(MemberIndex(1)).await.expect("failed") });
        let before = a.images();
        let mut injected = 0;
        for stripe in [0, 1, 2, 3, 4, 6] {
            let left = a.row(stripe, 1).into_iter().filter(|(disk, _)| *disk != 1);
            for (disk, at) in left.take(setup.parity - 1) {
                a.corrupt(disk, at);
                injected += 1;
            }
        }
        assert_eq!(counts(&a.scrub(false)), (injected, injected, 0), "{name}");
        a.assert_images(&before, "mended");
    }
}

/// Every copy of every kind of metadata that a start would need: what it is, disk and first byte, and
/// bytes.
fn metadata(a: &Rested) -> BTreeMap<String, Vec<(usize, u64, usize)>> {
    let mut all: BTreeMap<String, Vec<(usize, u64, usize)>> = BTreeMap::new();
    let survivors = a.sim.snapshot().leave();
    for (index, disk) in survivors.disks.iter().enumerate() {
        let size = a.g.bytes_of(MemberIndex(index as u8));
        for at in [4096, 65536, size - SUPERBLOCK_BYTES] {
            let place = (disk.id, at, SUPERBLOCK_BYTES as usize);
            all.entry(format!("superblock of {index}")).or_default().push(place);
        }
    }
    let mut id = [0; 16];
    survivors.disks[0].view().read(4096 + 16, &mut id);
    let array = u128::from_le_bytes(id);
    let mut pages = |kind: &str, number: u64, copies: &dyn Fn(u8) -> Vec<(MemberIndex, u64)>| {
        let found = |(place, (m, at)): (u8, (MemberIndex, u64))| {
            let mut b = vec![0; BLOCK];
            survivors.disks[m.at()].view().read(at, &mut b);
            let head = page::decode(&b, array).filter(|h| h.page == number && h.place == place)?;
            Some((head.generation, place))
        };
        let heads = (0..2).flat_map(|p| copies(p).into_iter().map(move |c| (p, c)));
        let Some((_, place)) = heads.filter_map(found).max() else { return };
        let copies = copies(place).into_iter().map(|(m, at)| (m.at(), at, BLOCK));
        all.insert(format!("{kind} {number}"), copies.collect());
    };
    for number in 0..a.g.map_pages() + a.g.root_pages() {
        pages("map", number, &|place| a.g.page_copies(number, place));
    }
    for number in 1..a.g.sum_pages() {
        pages("sums", number, &|place| a.g.sum_page_copies(number, place));
    }
    let commits = columns(&survivors);
    let newest = commits.values().next_back().expect("there are commits");
    for (number, columns) in commits.range(newest[0].header.tail.0..) {
        let places = columns.iter().map(|c| (c.disk, c.blocks[0], BLOCK));
        all.insert(format!("commit {number}"), places.collect());
    }
    all
}

#[test]
fn copies_of_metadata_are_mended_one_by_one_and_all_but_one() {
    for setup in grid() {
        let a = Rested::new(&setup, 8);
        let (before, name) = (a.images(), a.name.clone());
        let all = metadata(&a);
        let kinds: BTreeSet<&str> =
            all.keys().map(|k| k.split(' ').next().expect("a word")).collect();
        assert_eq!(kinds.len(), if setup.checksums { 4 } else { 3 }, "{name}: {kinds:?}");
        let mut cases = 0;
        for (what, copies) in &all {
            // Of a commit as many as may be lost, of anything else all but one.
            let of_log = if setup.journals > 0 { setup.journals_out() } else { setup.parity };
            let most = if what.starts_with("commit") { of_log } else { copies.len() - 1 };
            let mut sets: Vec<Vec<usize>> = Vec::new();
            if most > 0 {
                sets.extend((0..copies.len()).map(|i| vec![i]));
            }
            if most > 1 {
                sets.extend([(0..most).collect(), (1..=most).collect()]);
            }
            for set in sets {
                // A byte in the middle, and one near the end, of a copy.
                for (i, place) in set.iter().enumerate() {
                    let (disk, at, len) = copies[*place];
                    let byte = at + if (i + cases) % 2 == 0 { 70 } else { len as u64 - 9 };
                    let old = a.world.peek(disk, byte, 1)[0];
                    a.world.corrupt(disk, byte, &[old ^ 0x20]);
                }
                let n = set.len() as u64;
                let case = format!("{name}: {what}, copies {set:?}");
                let (errors, healed) = a.wrong();
                if cases % 7 == 0 {
                    let damaged = a.images();
                    assert_eq!(counts(&a.scrub(true)), (n, 0, 0), "{case}: check only");
                    a.assert_images(&damaged, &case);
                    assert_eq!(a.wrong(), (errors + n, healed), "{case}");
                }
                let (errors, _) = a.wrong();
                assert_eq!(counts(&a.scrub(false)), (n, n, 0), "{case}");
                assert_eq!(a.wrong(), (errors + n, healed + n), "{case}");
                a.assert_images(&before, &case);
                cases += 1;
                // As many errors within a day would make a member failing, and an epoch says so.
                let world = a.world.clone();
                a.run(async move { world.sleep(Duration::from_secs(5400)).await });
            }
        }
        assert!(cases > 10, "{name}: {cases} cases");
        assert_eq!(counts(&a.scrub(false)), (0, 0, 0), "{name}");
    }
}

/// All copies of a page, or of a commit, are gone from the disks: what is in memory is written anew,
/// and a start finds everything.
#[test]
fn what_is_gone_from_all_disks_is_written_anew_from_memory() {
    for setup in grid() {
        let a = Rested::new(&setup, 10);
        let name = a.name.clone();
        for (what, copies) in metadata(&a) {
            // The checksums are in memory only as long as there is room: here they are.
            if what.starts_with("superblock") {
                continue;
            }
            // What a commit does not need any more is not there for this.
            let now = metadata(&a);
            if now.get(&what) != Some(&copies) {
                continue;
            }
            for (disk, at, _) in &copies {
                a.world.corrupt(*disk, at + 77, &[0xee; 33]);
            }
            let found = a.scrub(false);
            // Of a commit without any header nobody knows how many columns it had.
            let n = if what.starts_with("commit") { 1 } else { copies.len() as u64 };
            assert_eq!(counts(&found), (n, n, 0), "{name}: {what}");
            assert_eq!(counts(&a.scrub(false)), (0, 0, 0), "{name}: {what}");
        }
        for mode in [Mode::PowerNone, Mode::Process(3)] {
            let sim = Simulation::new(11, &a.sim.snapshot().survive(mode));
            let (world, disks) = (sim.world(), sim.disks());
            let (content, case) = (a.content.clone(), format!("{name}, {mode}"));
            let ran = sim.run(LIMIT, async move {
                let array = start(&world, &disks, false).await;
                let all = read_all(&array).await;
                assert!(all == content, "{case}: content");
                array.stop().await.expect("stopped");
            });
            ran.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

/// The scrub under way at a crash goes on with the next start, at every 5th event.
#[test]
fn it_goes_on_after_a_crash() {
    let (mut gone_on, mut ended_before, mut not_begun) = (0, 0, 0);
    for (name, check_only) in [("raid5-2+1", false), ("raid5-2+1", true), ("raid6-4+2", true)] {
        let a = Rested::new(&setup(name), 12);
        let mut bad = Vec::new();
        for stripe in [0, 1, 2, 3, 4, 6] {
            bad.push(a.row(stripe, stripe % 2)[stripe as usize % a.g.members()]);
        }
        let right: Vec<Vec<u8>> = bad.iter().map(|(d, at)| a.world.peek(*d, *at, BLOCK)).collect();
        bad.iter().for_each(|(disk, at)| a.corrupt(*disk, *at));
        a.sim.record();
        let mark = a.sim.mark();
        let array = a.array.clone();
        let whole = a.run(async move {
            array.start_scrub(check_only).await.expect("it begins");
            mark.set(1);
            array.scrub_ended().await.expect("it ends");
            mark.set(2);
            array.status().scrub.expect("there was one")
        });
        let n = bad.len() as u64;
        assert_eq!(whole.mismatches, n);
        let of_stripe = a.g.chunk_bytes() * a.g.members() as u64;
        let of_stripes = a.array.status().stripes.mapped * of_stripe;
        for shot in a.sim.recorded().iter().step_by(5) {
            let modes = [Mode::PowerNone, Mode::PowerAll, Mode::PowerTorn(5), Mode::Process(5)];
            let mode = modes[shot.event as usize / 5 % modes.len()];
            let case = format!("{name}, check only {check_only}, crash {} {mode}", shot.event);
            let sim = Simulation::new(13, &shot.survive(mode));
            let (world, disks, mark) = (sim.world(), sim.disks(), shot.mark);
            let (content, told) = (a.content.clone(), case.clone());
            let ran = sim.run(LIMIT, async move {
                let array = start(&world, &disks, false).await;
                let found = array.status().scrub;
                assert!(found.is_some() || mark == 0, "{told}: it is forgotten");
                array.scrub_ended().await.expect("it ends");
                let last = array.status().scrub;
                let mut again = None;
                if !check_only && mark > 0 {
                    array.start_scrub(false).await.expect("it begins");
                    array.scrub_ended().await.expect("it ends");
                    again = array.status().scrub;
                }
                assert!(read_all(&array).await == content, "{told}: content");
                (found, last, again, world.clone())
            });
            let (found, last, again, world) = ran.unwrap_or_else(|e| panic!("{case}: {e}"));
            let Some(last) = last else {
                not_begun += 1;
                continue;
            };
            assert!(last.ended.is_some() && !last.running, "{case}");
            assert!(last.done_bytes >= of_stripes, "{case}: all of it was looked at");
            if check_only {
                assert_eq!(counts(&last), (n, 0, 0), "{case}: exact over the crash");
            } else {
                let again = again.map(|s| counts(&s));
                assert!(last.mismatches <= n && last.healed == last.mismatches, "{case}");
                assert!(again.is_none_or(|c| c == (0, 0, 0)), "{case}: {again:?}");
                for ((disk, at), right) in bad.iter().zip(&right) {
                    assert!(world.peek(*disk, *at, BLOCK) == *right, "{case}: mended");
                }
            }
            match found {
                Some(s) if s.ended.is_some() => ended_before += 1,
                Some(s) if s.done_bytes > 0 => gone_on += 1,
                _ => {}
            }
        }
    }
    assert!(
        gone_on > 20 && ended_before > 0 && not_begun > 0,
        "{gone_on} {ended_before} {not_begun}"
    );
}

/// Writers, discards and destage at work: the scrub finds nothing wrong, since nothing is, and
/// mends what is made wrong where nobody writes.
#[test]
fn beside_a_workload_nothing_is_taken_for_wrong() {
    for setup in grid() {
        for seed in 0..3 {
            let a = Rested::new(&setup, 20 + seed);
            let name = format!("{}, seed {seed}", a.name);
            let (array, g, case) = (a.array.clone(), a.g, name.clone());
            let world = a.world.clone();
            // Stripe 6 is nobody's; a block of it is wrong.
            let wrong = setup.checksums.then(|| a.row(6, 1)[1 % g.members()]);
            if let Some((disk, at)) = wrong {
                a.corrupt(disk, at);
            }
            let content = Rc::new(std::cell::RefCell::new(a.content.clone()));
            let working = Rc::new((Cell::new(3), Signal::new()));
            let (scrubs, found) = a.run(async move {
                for worker in 0..3u64 {
                    let (array, working, w) = (array.clone(), Rc::clone(&working), world.clone());
                    let content = Rc::clone(&content);
                    world.spawn("worker", async move {
                        let mut rng = Rng::new(seed * 10 + worker);
                        let per_stripe = g.stripe_blocks();
                        let first = worker * 2 * per_stripe;
                        for i in 0..60u64 {
                            let at = first + rng.below(2 * per_stripe);
                            let count = 1 + rng.below(first + 2 * per_stripe - at);
                            let bytes = (at as usize * BLOCK, (count as usize) * BLOCK);
                            match rng.below(8) {
                                0 => array.destage_all().await.expect("destaged"),
                                1 => {
                                    array
                                        .discard(bytes.0 as u64, bytes.1 as u64, false)
                                        .await
                                        .expect("discarded");
                                    content.borrow_mut()[bytes.0..bytes.0 + bytes.1].fill(0);
                                }
                                2 => w.sleep(Duration::from_millis(rng.below(1500))).await,
                                _ => {
                                    let new: Vec<u8> =
                                        (at..at + count).flat_map(|b| block(b, i as u8)).collect();
                                    content.borrow_mut()[bytes.0..bytes.0 + bytes.1]
                                        .copy_from_slice(&new);
                                    let new = Slice::copy_of(&new);
                                    let done = array.write(bytes.0 as u64, new, false).await;
                                    done.expect("written");
                                }
                            }
                        }
                        working.0.set(working.0.get() - 1);
                        working.1.notify();
                    });
                }
                let (mut scrubs, mut found) = (0, (0, 0, 0));
                while working.0.get() > 0 {
                    array.start_scrub(scrubs % 3 == 2).await.expect("it begins");
                    array.scrub_ended().await.expect("it ends");
                    let c = counts(&array.status().scrub.expect("there was one"));
                    found = (found.0 + c.0, found.1 + c.1, found.2 + c.2);
                    scrubs += 1;
                }
                assert!(read_all(&array).await == *content.borrow(), "{case}: content");
                array.start_scrub(true).await.expect("it begins");
                array.scrub_ended().await.expect("it ends");
                assert_eq!(counts(&array.status().scrub.expect("one")), (0, 0, 0), "{case}");
                array.stop().await.expect("stopped");
                (scrubs, found)
            });
            let n = u64::from(setup.checksums);
            assert_eq!(found, (n, n, 0), "{name}: {scrubs} scrubs");
            assert!(scrubs > 2, "{name}: only {scrubs} scrubs");
        }
    }
}

#[test]
fn orders_that_make_no_sense_are_refused_and_a_stop_ends_it() {
    let a = Rested::new(&setup("raid6-4+2"), 30);
    let (disk, at) = a.row(4, 0)[2];
    a.corrupt(disk, at);
    let array = a.array.clone();
    a.run(async move {
        let none = array.stop_scrub().await.expect_err("none is under way");
        assert!(none.message.contains("No scrub"), "{}", none.message);
        array.start_scrub(false).await.expect("it begins");
        let second = array.start_scrub(true).await.expect_err("one is under way");
        assert!(second.message.contains("under way already"), "{}", second.message);
        array.stop_scrub().await.expect("it ends");
        let stopped = array.status().scrub.expect("there was one");
        assert!(stopped.stopped && !stopped.running && stopped.ended.is_some());
        // Broken off by a stop of the array: it goes on.
        array.start_scrub(false).await.expect("it begins");
        array.stop().await.expect("stopped");
        assert!(array.start_scrub(false).await.is_err(), "it is stopped");
    });
    let from = a.sim.snapshot().leave();
    for read_only in [true, false] {
        let sim = Simulation::new(31, &from);
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            let array = start(&world, &disks, read_only).await;
            if read_only {
                assert!(array.start_scrub(false).await.is_err(), "read-only");
                array.start_scrub(true).await.expect("it may look");
            } else {
                assert!(array.status().scrub.is_some_and(|s| s.running), "it goes on");
            }
            array.scrub_ended().await.expect("it ends");
            array.status().scrub.expect("there was one")
        });
        let last = ran.expect("it ends");
        assert_eq!(counts(&last), (1, u64::from(!read_only), 0));
        let writes: u64 = sim.counters().iter().map(|c| c.writes).sum();
        assert_eq!(writes == 0, read_only, "{writes} writes");
    }
}
