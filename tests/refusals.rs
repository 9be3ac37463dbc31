//! Every refusal of a start, and every flag of it, on simulated disks: what it says, that a start
//! that refuses writes not one byte, and what a start does instead that goes on.

use evenkeel_journal::{BLOCK, Slice};
use evenkeel_raid::superblock::Superblock;
use evenkeel_raid::{Ack, Array, ErrorKind, StartOptions};
use evenkeel_tests::checkers::parity::check_at_rest;
use evenkeel_tests::crash::subsets;
use evenkeel_tests::damage::{
    Beside, Column, LIMIT, Running, Started, after_power_loss, assert_content, assert_refused,
    columns, flip, kept, log_rows, options, overwrite_log, setup, start, start_with, superblocks,
    u64_at,
};
use evenkeel_tests::rng::{Rng, hash};
use evenkeel_tests::sim::{DiskImage, Image, Mode, Simulation, Snapshot, Survivors};
use evenkeel_tests::subject::Setup;

const GEOMETRIES: [&str; 3] = ["raid5-2+1", "raid6-4+2", "rs-3+3"];

fn plain() -> StartOptions {
    options(Ack::Durable, false)
}

fn read_only() -> StartOptions {
    options(Ack::Durable, true)
}

fn forced() -> StartOptions {
    StartOptions { force: true, ..plain() }
}

fn accepting() -> StartOptions {
    StartOptions { accept_missing: true, ..plain() }
}

/// An array with something in its log, after a loss of power.
fn crashed(geometry: &str) -> (Setup, Vec<u8>, Survivors) {
    let setup = setup(geometry);
    let mut running = Running::new(&setup, 5, Ack::Durable);
    running.write_parts();
    let from = after_power_loss(&running);
    (setup, running.content.clone(), from)
}

fn all_but(n: usize, these: &[usize]) -> Vec<usize> {
    (0..n).filter(|i| !these.contains(i)).collect()
}

fn assert_left_out(from: &Survivors, started: &Started, disks: &[usize], what: &str) {
    let left = started.left.leave();
    for ((i, was), is) in from.disks.iter().enumerate().zip(&left.disks) {
        if disks.contains(&was.id) {
            assert_eq!(was.digest(), is.digest(), "{what}: disk {} was written to", was.id);
            assert_eq!(started.writes_of[i], 0, "{what}: disk {}", was.id);
            assert!(started.said.contains(&was.path), "{what}: not named: {}", started.said);
        }
    }
}

/// Rewrites every whole superblock copy of some disks.
fn change_superblocks(from: &mut Survivors, setup: &Setup, disks: &[usize], at: usize, by: u64) {
    for disk in from.disks.iter_mut().filter(|d| disks.contains(&d.id)) {
        for copy in superblocks(setup) {
            let mut b = vec![0; 16384];
            disk.medium_mut().read(copy, &mut b);
            b[at..at + 8].copy_from_slice(&by.to_le_bytes());
            b[56..60].fill(0);
            let crc = crc32c(&b);
            b[56..60].copy_from_slice(&crc.to_le_bytes());
            disk.medium_mut().write(copy, &b);
        }
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| c >> 1 ^ (0x82f6_3b78 & (c & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}

// ---- who is there ----

#[test]
fn too_few_members_are_refused_and_a_word_is_asked_where_the_others_may_have_gone_on() {
    let (mut refused, mut accepted) = (0, 0);
    for geometry in GEOMETRIES {
        let (setup, content, from) = crashed(geometry);
        let (n, k) = (setup.members(), setup.data);
        for lost in subsets(n, n - 1, &[]) {
            let from = from.without(&lost).shuffled(lost.len() as u64);
            let what = format!("{geometry} without {lost:?}");
            let started = start(&from, plain());
            if n - lost.len() < k {
                assert_refused(&from, &started, ErrorKind::TooFew, "needs", &what);
                for how in [accepting(), read_only(), forced()] {
                    let started = start(&from, how);
                    assert_refused(&from, &started, ErrorKind::TooFew, "needs", &what);
                }
                refused += 1;
            } else if lost.len() >= k {
                let words = "--accept-missing";
                assert_refused(&from, &started, ErrorKind::TooFew, words, &what);
                let started = start(&from, accepting());
                assert_content(&started.content, &content, &what);
                assert!(
                    started.said.contains("From now on it is given up"),
                    "{what}: {}",
                    started.said
                );
                accepted += 1;
            } else {
                assert_content(&started.content, &content, &what);
                assert_eq!(started.can_lose, setup.parity - lost.len(), "{what}");
                assert_eq!(started.said.contains("are absent"), !lost.is_empty(), "{what}");
            }
        }
    }
    assert!(refused > 40 && accepted >= 20, "{refused} refused, {accepted} accepted");
}

#[test]
fn stale_and_failed_members_are_left_out_or_named() {
    let setup = setup("raid6-4+2");
    let mut running = Running::new(&setup, 7, Ack::Durable);
    // One failed, one missed an epoch.
    running.fail(0);
    running.write_parts();
    let from = after_power_loss(&running);
    let started = start(&from.without(&[1]), plain());
    assert_content(&started.content, &running.content, "without the second");
    let mut newer = started.left.survive(Mode::PowerNone);
    newer.disks.insert(1, from.disks[1].clone());
    let mut kinds = [0; 3];
    for absent in subsets(6, 5, &[]) {
        let from = newer.without(&absent);
        let current = (2..6).filter(|d| !absent.contains(d)).count();
        let old: Vec<usize> = (0..2).filter(|d| !absent.contains(d)).collect();
        if current == 0 {
            continue;
        }
        let what = format!("{current} current, {old:?} of old");
        let started = start(&from, plain());
        if current == 4 {
            assert_content(&started.content, &running.content, &what);
            assert_left_out(&from, &started, &old, &what);
            kinds[0] += 1;
        } else if current + old.len() >= 4 {
            let words = "stale or failed there would be enough";
            assert_refused(&from, &started, ErrorKind::Disagree, words, &what);
            kinds[1] += 1;
        } else {
            assert_refused(&from, &started, ErrorKind::TooFew, "needs 4", &what);
            kinds[2] += 1;
        }
    }
    assert!(kinds.iter().all(|k| *k > 3), "{kinds:?}");
}

#[test]
fn halves_that_went_on_apart_are_refused_whatever_their_epochs_count() {
    let (setup, _, from) = crashed("rs-3+3");
    for (rounds_a, rounds_b) in [(1, 1), (1, 2), (3, 1)] {
        let go = |mut half: Survivors, rounds: usize| {
            for _ in 0..rounds {
                let started = start(&half, accepting());
                assert!(started.content.is_ok(), "{}", started.said);
                half = started.left.survive(Mode::PowerNone);
            }
            half
        };
        let a = go(from.without(&[3, 4, 5]), rounds_a);
        let b = go(from.without(&[0, 1, 2]), rounds_b);
        let epoch = |s: &Survivors| u64_at(&s.disks[0].view(), 65536 + 96);
        assert_eq!(epoch(&a) == epoch(&b), rounds_a == rounds_b);
        let both = Survivors { disks: [a.disks.clone(), b.disks.clone()].concat(), ..a.clone() };
        for lost in subsets(setup.members(), 4, &[]) {
            let here = all_but(6, &lost);
            if here.iter().all(|d| *d < 3) || here.iter().all(|d| *d >= 3) {
                continue;
            }
            let from = both.without(&lost).shuffled(hash(&[lost.len() as u64, 9]));
            let what = format!("{here:?} after {rounds_a} and {rounds_b} starts");
            for how in [plain(), accepting(), forced(), read_only()] {
                let started = start(&from, how);
                assert_refused(&from, &started, ErrorKind::Disagree, "split histories", &what);
            }
        }
        // Each half by itself goes on.
        for half in [&a, &b] {
            assert!(start(half, plain()).content.is_ok());
        }
    }
}

#[test]
fn clones_and_members_of_other_arrays_are_refused_by_name() {
    let (setup, _, from) = crashed("raid6-4+2");
    let older = {
        let running = Running::new(&setup, 5, Ack::Durable);
        after_power_loss(&running)
    };
    // The same name and shape, made apart.
    let other = after_power_loss(&Running::new(&setup, 77, Ack::Durable));
    for disk in 0..6 {
        for (source, words) in [
            (&from, "are the same member"),
            (&older, "are the same member"),
            (&other, "belongs to another array"),
        ] {
            let mut copy = source.disks[disk].clone();
            copy.path = "/sim/copy".to_owned();
            let mut with = from.clone();
            with.disks.insert(disk * 3 % 7, copy.clone());
            let mut instead = from.clone();
            let mut of_this = copy.clone();
            of_this.id = (disk + 1) % 6;
            instead.disks[(disk + 1) % 6] = of_this;
            for from in [with, instead] {
                for how in [plain(), forced(), read_only()] {
                    let started = start(&from, how);
                    let what = format!("a copy of disk {disk}: {words}");
                    assert_refused(&from, &started, ErrorKind::Foreign, words, &what);
                    assert!(started.said.contains("/sim/copy"), "{what}: {}", started.said);
                }
            }
        }
    }
}

#[test]
fn the_order_of_the_disks_does_not_matter() {
    let (_, content, from) = crashed("rs-3+3");
    for seed in 0..40 {
        let started = start(&from.clone().shuffled(seed), plain());
        assert_content(&started.content, &content, "shuffled");
    }
}

// ---- what a member says of itself ----

#[test]
fn members_without_a_superblock_that_can_be_read_are_absent() {
    let (setup, content, from) = crashed("raid6-4+2");
    let [a, b, c] = superblocks(&setup);
    let ways: [(&str, &[u64]); 4] =
        [("wiped", &[0]), ("flipped", &[300]), ("flipped at the end", &[16383]), ("broken", &[])];
    let (mut went_on, mut refused) = (0, 0);
    for set in subsets(6, 6, &[]).into_iter().filter(|s| !s.is_empty()) {
        for (i, (way, bytes)) in ways.iter().enumerate() {
            if set.len() > 3 && i > 0 && set.len() < 6 {
                continue;
            }
            let mut damaged = from.clone();
            for disk in &set {
                for copy in [a, b, c] {
                    bytes.iter().for_each(|byte| flip(&mut damaged, *disk, copy + byte));
                }
            }
            let broken = if bytes.is_empty() { set.clone() } else { Vec::new() };
            let started = start_with(&damaged, plain(), &Beside { broken, ..Beside::default() });
            let what = format!("{way} {set:?}");
            if set.len() == 6 {
                let words = "is no member of an array";
                assert_refused(&damaged, &started, ErrorKind::Foreign, words, &what);
            } else if set.len() > setup.parity {
                assert_refused(&damaged, &started, ErrorKind::TooFew, "is left out", &what);
                refused += 1;
            } else {
                assert_content(&started.content, &content, &what);
                assert_left_out(&damaged, &started, &set, &what);
                assert_eq!(started.can_lose, setup.parity - set.len(), "{what}");
                went_on += 1;
            }
        }
    }
    assert!(went_on > 80 && refused > 80, "{went_on} went on, {refused} refused");
}

#[test]
fn any_two_copies_of_several_members_at_once_may_be_damaged() {
    let (setup, content, from) = crashed("raid6-4+2");
    let copies = superblocks(&setup);
    for seed in 0..150 {
        let mut rng = Rng::new(seed);
        let mut damaged = from.clone();
        for disk in 0..6 {
            let whole = rng.index(3);
            for (i, copy) in copies.iter().enumerate() {
                if i != whole && rng.one_in(2) {
                    flip(&mut damaged, disk, copy + rng.below(16384));
                }
            }
        }
        let started = start(&damaged, plain());
        assert_content(&started.content, &content, &format!("seed {seed}"));
        assert_eq!(started.can_lose, 2, "seed {seed}");
        // They are written again: next time all are whole.
        let left = started.left.survive(Mode::PowerNone);
        for disk in &left.disks {
            let image = disk.view();
            for at in copies {
                let mut bytes = vec![0; 16384];
                image.read(at, &mut bytes);
                assert!(Superblock::decode(&bytes, at).is_ok(), "seed {seed}: {at}");
            }
        }
    }
}

#[test]
fn unknown_features_are_refused_by_their_class() {
    let (setup, content, from) = crashed("raid6-4+2");
    let (compat, ro_compat, incompat) = (64, 72, 80);
    for disks in [vec![0, 1, 2, 3, 4, 5], vec![3]] {
        let mut newer = from.clone();
        change_superblocks(&mut newer, &setup, &disks, incompat, 1 << 40);
        for how in [plain(), read_only(), forced()] {
            let started = start(&newer, how);
            let words = "features that this program does not know";
            assert_refused(&newer, &started, ErrorKind::Unsupported, words, "incompat");
        }
    }
    let everybody: Vec<usize> = (0..6).collect();
    let mut newer = from.clone();
    change_superblocks(&mut newer, &setup, &everybody, ro_compat, 4);
    for how in [plain(), forced(), accepting()] {
        let started = start(&newer, how);
        assert_refused(&newer, &started, ErrorKind::Unsupported, "--read-only", "ro_compat");
    }
    let started = start(&newer, read_only());
    assert_content(&started.content, &content, "ro_compat, read-only");
    assert_eq!(started.writes, 0);

    let mut newer = from.clone();
    change_superblocks(&mut newer, &setup, &everybody, compat, 0x8001);
    let started = start_with(&newer, plain(), &Beside { stop: true, ..Beside::default() });
    assert_content(&started.content, &content, "compat");
    let stopped = started.stopped.expect("stopped").survive(Mode::PowerNone);
    for (disk, at) in stopped.disks.iter().flat_map(|d| superblocks(&setup).map(|at| (d, at))) {
        let image = disk.view();
        assert_eq!(u64_at(&image, at + compat as u64), 0x8001, "kept when written again");
        assert!(u64_at(&image, at + 96) > u64_at(&newer.disks[0].view(), at + 96));
    }
}

#[test]
fn members_that_were_cut_are_absent() {
    let (setup, content, from) = crashed("raid6-4+2");
    let cut = |disk: &DiskImage, bytes: u64| {
        let mut short = DiskImage::empty(disk.id, bytes);
        let mut all = vec![0; bytes as usize];
        disk.view().read(0, &mut all);
        short.medium_mut().write(0, &all);
        short
    };
    let sizes = [setup.member - 4096, setup.member - 65536, setup.member / 2, 135_168, 65536, 8192];
    for bytes in sizes {
        for set in subsets(6, 3, &[]).into_iter().filter(|s| !s.is_empty()) {
            let mut short = from.clone();
            for disk in &set {
                short.disks[*disk] = cut(&from.disks[*disk], bytes);
            }
            let what = format!("{set:?} cut to {bytes}");
            let started = start(&short, plain());
            if set.len() > setup.parity {
                assert_refused(&short, &started, ErrorKind::TooFew, "is left out", &what);
            } else {
                assert_content(&started.content, &content, &what);
                assert_left_out(&short, &started, &set, &what);
            }
        }
    }
}

#[test]
fn an_array_that_another_machine_holds_is_refused() {
    let mut running = Running::new(&setup("raid6-4+2"), 5, Ack::Durable);
    running.write_parts();
    let (content, from) = (running.content.clone(), after_power_loss(&running));
    let boot = from.boot;
    let elsewhere = Survivors { host: 2, ..from.clone() };
    for how in [plain(), read_only(), accepting()] {
        let started = start(&elsewhere, how);
        let words = "another machine";
        assert_refused(&elsewhere, &started, ErrorKind::Held, words, "another machine");
    }
    let started = start(&elsewhere, forced());
    assert_content(&started.content, &content, "by force");
    assert!(started.said.contains("last held by another machine"), "{}", started.said);
    // From then on it is that machine's.
    let moved = started.left.survive(Mode::PowerNone);
    assert_content(&start(&moved, plain()).content, &content, "there again");
    let back = Survivors { host: 1, boot: boot + 9, ..moved };
    assert_eq!(start(&back, plain()).content, Err(ErrorKind::Held));
    // Not if a machine is not known by an identity, nor for a container on the same boot.
    let unknown = Survivors { host: 0, ..from.clone() };
    let killed = running.sim.snapshot().survive(Mode::Process(1));
    for from in [unknown, Survivors { host: 2, ..killed }] {
        assert_content(&start(&from, plain()).content, &content, "no other machine");
    }
    // Nor after a clean stop.
    let started = start_with(&from, plain(), &Beside { stop: true, ..Beside::default() });
    let stopped = started.stopped.expect("stopped").survive(Mode::PowerNone);
    let moved = Survivors { host: 2, ..stopped };
    assert_content(&start(&moved, plain()).content, &content, "stopped before");
}

// ---- the ring ----

/// Disks of a moment, the ring of a later one, and what was written up to the first.
fn ring_that_does_not_join() -> (Vec<u8>, Survivors) {
    let setup = setup("raid6-4+2");
    let mut running = Running::new(&setup, 5, Ack::Cached);
    running.write_parts();
    running.sleep(200);
    let before = running.sim.snapshot().leave();
    let content = running.content.clone();
    for round in 0..20 {
        running.write(40 + round % 8, 1, round as u8);
        running.sleep(3);
    }
    running.write(50, 1, 99);
    let after = running.sim.snapshot().leave();
    let ring = after.rings.values().next().expect("a ring");
    assert!(u64_at(ring, 576) > 0 && u64_at(ring, 576) < u64_at(ring, 512), "some are not logged");
    (content, Survivors { rings: after.rings, ..before })
}

#[test]
fn rings_that_do_not_fit_are_refused_or_given_up_by_force() {
    let setup = setup("raid6-4+2");
    let mut running = Running::new(&setup, 5, Ack::Cached);
    running.write_parts();
    let whole = running.sim.snapshot().survive(Mode::Process(3));
    let gone = Survivors { rings: Default::default(), ..whole.clone() };
    let started = start(&gone, plain());
    let words = "does not exist any more, although this machine has not been booted since";
    assert_refused(&gone, &started, ErrorKind::LogDamaged, words, "no ring");
    let started = start(&gone, forced());
    assert!(started.content.is_ok(), "{}", started.said);
    assert!(started.said.contains("Given up by force: the ring"), "{}", started.said);
    let bytes = format!("at most {} bytes", 4096 * running_places(&whole));
    assert!(started.said.contains(&bytes), "{}", started.said);

    // After another boot a ring that is gone was not promised: the log alone, and it is said.
    let booted = Survivors { boot: gone.boot + 1, ..gone };
    for how in [plain(), read_only()] {
        let started = start(&booted, how);
        assert!(started.content.is_ok(), "{}", started.said);
        assert!(started.said.contains("the log alone was replayed"), "{}", started.said);
    }
    // A ring of an earlier boot that still exists counts like one of this.
    let booted = Survivors { boot: whole.boot + 1, ..whole.clone() };
    let started = start(&booted, plain());
    assert_content(&started.content, &running.content, "a ring of an earlier boot");
    assert!(!started.said.contains("log alone"), "{}", started.said);

    let (content, torn) = ring_that_does_not_join();
    for boots in [0, 1] {
        let torn = Survivors { boot: torn.boot + boots, ..torn.clone() };
        for how in [plain(), read_only(), accepting()] {
            let started = start(&torn, how);
            let words = "still exists and may hold acknowledged writes. But it does not join";
            assert_refused(&torn, &started, ErrorKind::LogDamaged, words, "a gap");
        }
        let started = start(&torn, forced());
        assert_content(&started.content, &content, "the log alone");
        assert!(started.said.contains("Given up by force: the ring"), "{}", started.said);
    }
}

fn running_places(from: &Survivors) -> u64 {
    u64_at(&from.disks[0].view(), 4096 + 248)
}

#[test]
fn stale_rings_are_set_aside() {
    let setup = setup("raid6-4+2");
    let mut running = Running::new(&setup, 5, Ack::Cached);
    running.write_parts();
    let first = running.sim.snapshot().survive(Mode::Process(3));
    let started = start(&first, plain());
    assert_content(&started.content, &running.content, "the first ring");
    // The old ring beside the new one: of an earlier incarnation.
    let mut second = started.left.survive(Mode::Process(4));
    assert_eq!(second.rings.len(), 1, "the old one was removed");
    for (id, ring) in &first.rings {
        assert!(second.rings.insert(*id, ring.clone()).is_none(), "another identity");
    }
    for boots in [0, 1] {
        let from = Survivors { boot: second.boot + boots, ..second.clone() };
        let started = start(&from, plain());
        assert_content(&started.content, &running.content, "beside an old ring");
        let left = started.left.leave();
        for (id, ring) in &first.rings {
            assert_eq!(left.rings.get(id).map(Image::digest), Some(ring.digest()));
        }
    }
}

// ---- a log that is gone ----

#[test]
fn a_clean_array_needs_no_log_and_another_one_does() {
    for geometry in GEOMETRIES {
        let (setup, content, from) = crashed(geometry);
        let n = setup.members();
        let everybody: Vec<usize> = (0..n).collect();
        let beside = Beside { stop: true, ..Beside::default() };
        let stopped = start_with(&from, plain(), &beside).stopped.expect("stopped");
        let clean = stopped.survive(Mode::PowerNone);
        for lost in 0..=setup.parity.min(setup.data - 1) {
            let mut gone = clean.without(&everybody[..lost]);
            overwrite_log(&mut gone, &everybody);
            let what = format!("{geometry}, clean, without {lost} members");
            let started = start(&gone, read_only());
            assert_content(&started.content, &content, &what);
            assert_eq!(started.writes, 0, "{what}");
            let beside = Beside { record: true, ..Beside::default() };
            let started = start_with(&gone, plain(), &beside);
            assert_content(&started.content, &content, &what);
            assert!(started.said.contains("nothing is lost"), "{what}: {}", started.said);
            // A start that is cut anywhere loses nothing either.
            for shot in started.shots.iter().step_by(3) {
                for mode in [Mode::PowerNone, Mode::PowerTorn(shot.event), Mode::PowerAll] {
                    let again = start(&shot.survive(mode), plain());
                    let what = format!("{what}, cut at {} {mode}: {}", shot.event, again.said);
                    assert_content(&again.content, &content, &what);
                }
            }
        }
        // Not clean: refused, and only given up by force.
        let mut gone = from.clone();
        overwrite_log(&mut gone, &everybody);
        for how in [plain(), read_only(), accepting()] {
            let started = start(&gone, how);
            let words = "The log holds no commit at all";
            assert_refused(&gone, &started, ErrorKind::LogDamaged, words, geometry);
            let most = u64_at(&from.disks[0].view(), 4096 + 192) * setup.data as u64 * 4096;
            let cost = format!("at most {most} bytes of acknowledged writes");
            assert!(started.said.contains(&cost), "{}", started.said);
        }
        assert!(start(&gone, forced()).content.is_ok());
    }
}

/// Damages commits so that they are gone: the headers of all their columns, or their payload.
fn destroy(from: &mut Survivors, all: &[&Vec<Column>], payload: bool) {
    for c in all.iter().flat_map(|of| of.iter()) {
        let block = if payload { c.blocks.len() - 1 } else { 0 };
        flip(from, c.disk, c.blocks[block] + 77);
    }
}

#[test]
fn force_takes_the_longest_valid_prefix_and_says_what_it_gives_up() {
    let setup = setup("raid6-4+2");
    let mut running = Running::new(&setup, 5, Ack::Durable);
    running.destage();
    running.sleep(3000);
    // What the device held after each commit.
    let mut contents = vec![running.content.clone()];
    let writes = [(1, 1), (9, 3), (17, 2), (2, 2), (30, 1), (12, 1)];
    for (i, (block, count)) in writes.iter().enumerate() {
        running.write(*block, *count, 40 + i as u8);
        contents.push(running.content.clone());
    }
    running.sleep(150);
    let from = after_power_loss(&running);
    let commits = columns(&from);
    let (tail, known) = kept(&commits);
    let mut prefixes = std::collections::BTreeSet::new();
    for (number, columns) in commits.range(tail..=known) {
        for payload in [false, true] {
            let mut damaged = from.clone();
            destroy(&mut damaged, &[columns], payload);
            let what = format!("commit {number} of {tail}..={known}, payload {payload}");
            let refused = start(&damaged, plain());
            let words = "With --force the start goes on";
            assert_refused(&damaged, &refused, ErrorKind::LogDamaged, words, &what);
            let look = start(&damaged, StartOptions { force: true, ..read_only() });
            assert_eq!(look.writes, 0, "{what}");
            let beside = Beside { stop: true, record: true, ..Beside::default() };
            let started = start_with(&damaged, forced(), &beside);
            let got = started.content.as_ref().unwrap_or_else(|_| panic!("{}", started.said));
            assert_eq!(Some(got), look.content.as_ref().ok(), "{what}: read-only");
            let prefix = contents.iter().position(|c| c == got);
            prefixes.insert(prefix.unwrap_or_else(|| panic!("{what}: no prefix")));
            assert!(started.said.contains("Given up by force: a part of the log"), "{what}");
            assert!(started.said.contains("bytes of acknowledged writes"), "{what}");
            if *number > tail {
                let last = commits.range(..number).next_back().expect("one before").0;
                let which = format!("the commits after {last}, up to {known}");
                let newest = commits.keys().next_back().expect("commits");
                let or = format!("the commits after {last}, up to {newest}");
                assert!(
                    started.said.contains(&which) || started.said.contains(&or),
                    "{what}: {}",
                    started.said
                );
            }
            let stopped = started.stopped.as_ref().expect("stopped").survive(Mode::PowerNone);
            assert_eq!(check_at_rest(&stopped.disks, got), Ok(()), "{what}");
            // Cut anywhere, then forced again if that is needed, it comes to the same.
            for shot in started.shots.iter().step_by(37) {
                let cut = shot.survive(Mode::PowerTorn(shot.event));
                let again = start(&cut, plain());
                let again = match again.content {
                    Err(kind) => {
                        assert_refused(&cut, &again, kind, "--force", &what);
                        assert_eq!(kind, ErrorKind::LogDamaged, "{what}");
                        start(&cut, forced())
                    }
                    Ok(_) => again,
                };
                assert_content(&again.content, got, &format!("{what}, cut at {}", shot.event));
            }
        }
    }
    let all: Vec<usize> = prefixes.into_iter().collect();
    assert!(all.len() >= contents.len() - 2, "prefixes {all:?}");
}

/// The moments of a destage in place, in an array without checksums.
fn destage_in_place() -> Vec<Snapshot> {
    let setup = Setup { checksums: false, ..setup("raid6-4+2") };
    let mut running = Running::new(&setup, 5, Ack::Durable);
    running.destage();
    // The map goes home in idle time.
    running.sleep(3000);
    running.write_parts();
    running.sim.record();
    running.destage();
    running.sim.recorded()
}

#[test]
fn force_makes_parity_right_before_it_takes_writes() {
    let everybody: Vec<usize> = (0..6).collect();
    let (mut mended, mut cuts) = (0, 0);
    for (i, shot) in destage_in_place().iter().enumerate() {
        let seed = i as u64;
        let mut gone = shot.survive(Mode::PowerTorn(seed));
        overwrite_log(&mut gone, &everybody);
        let refused = start(&gone, plain());
        assert_eq!(refused.content, Err(ErrorKind::LogDamaged), "{}", refused.said);
        let beside = Beside { record: i % 12 == 0, ..Beside::default() };
        let started = start_with(&gone, forced(), &beside);
        let got = started.content.as_ref().unwrap_or_else(|_| panic!("{}", started.said));
        mended += u32::from(!started.said.contains("that of 0 was made right"));
        // Any two may now be lost: what is rebuilt is what was read.
        let left = started.left.survive(Mode::PowerNone);
        let sets = subsets(6, 2, &[]);
        let lost = &sets[(i * 5) % sets.len()];
        let again = start(&left.without(lost), plain());
        assert_content(&again.content, got, &format!("event {} without {lost:?}", shot.event));
        // The same if the start that makes it right is cut.
        for (j, cut) in started.shots.iter().enumerate().skip(i % 7).step_by(7) {
            let left = cut.survive(Mode::PowerTorn(j as u64));
            let mut again = start(&left, plain());
            if again.content == Err(ErrorKind::LogDamaged) {
                again = start(&left, forced());
            }
            assert_content(&again.content, got, &format!("cut at {}", cut.event));
            let left = again.left.survive(Mode::PowerNone);
            let lost = &sets[(i * 5 + j) % sets.len()];
            let last = start(&left.without(lost), plain());
            let what = format!("event {}, cut at {}, without {lost:?}", shot.event, cut.event);
            assert_content(&last.content, got, &what);
            cuts += 1;
        }
    }
    assert!(mended > 5 && cuts > 50, "{mended} mended, {cuts} cut");
}

// ---- starts that are cut ----

/// Rows between the tail and the end of the newest commit of which a header is there.
fn used_rows(from: &Survivors) -> u64 {
    let rows = log_rows(from);
    let commits = columns(from);
    let newest = &commits.values().next_back().expect("commits")[0].header;
    let end = newest.row + u64::from(newest.rows);
    match (end + rows - newest.tail_row) % rows {
        0 => rows,
        used => used,
    }
}

/// The state of those that a crash may leave with the fullest log.
fn fullest(shots: &[Snapshot], salt: u64) -> Survivors {
    let step = shots.len().div_ceil(60);
    let some = shots.iter().enumerate().skip(salt as usize % step).step_by(step);
    let states = some.flat_map(|(i, shot)| {
        let torn = Mode::PowerTorn(hash(&[salt, i as u64]));
        [Mode::PowerAll, torn].map(|mode| shot.survive(mode))
    });
    states.max_by_key(used_rows).expect("some")
}

/// A log as full as it gets, then starts that are cut where they have used most of it: none may
/// find no room for what it has to log.
#[test]
fn starts_cut_in_a_row_never_use_up_the_log() {
    for (geometry, seed) in GEOMETRIES.iter().zip([3, 4, 5]) {
        let running = Running::new(&setup(geometry), seed, Ack::Durable);
        let mut from = after_power_loss(&running);
        let rows = log_rows(&from);
        // One block after the other, each in a commit of its own, until they wait for room.
        for round in 0..6 {
            let sim = Simulation::new(hash(&[seed, round, 1]), &from);
            let (world, disks) = (sim.world(), sim.disks());
            sim.record();
            let ran = sim.run(LIMIT, async move {
                let array = Array::start(&world, &disks, &plain(), &|_| ()).await.expect("starts");
                let blocks = array.size_bytes() / BLOCK as u64;
                for i in 0..rows / 2 {
                    let (value, at) = ((i + round) as u8 | 1, i * 5 % blocks * BLOCK as u64);
                    let bytes = Slice::copy_of(&[value; BLOCK]);
                    array.write(at, bytes, false).await.expect("written");
                }
            });
            assert_eq!(ran, Ok(()));
            from = fullest(&sim.recorded(), round);
        }
        let content = start(&from, plain()).content.expect("it starts");
        let full = used_rows(&from);
        assert!(full * 10 > rows * 6, "{geometry}: only {full} of {rows} rows are used");
        for round in 0..20 {
            let beside = Beside { record: true, ..Beside::default() };
            let started = start_with(&from, plain(), &beside);
            assert_content(&started.content, &content, &format!("{geometry}, start {round}"));
            from = fullest(&started.shots, round);
        }
    }
}
