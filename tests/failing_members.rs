//! Members that fail, hang, or cannot give a sector: what goes on, what waits and for how long,
//! what is EIO, and what the next start finds.

use std::time::Duration;

use evenkeel_journal::{Buf, Slice, Slot, World};
use evenkeel_raid::codec::Level;
use evenkeel_raid::status::{MemberState, State};
use evenkeel_raid::{Ack, Array, CreateOptions, ErrorKind, RequestError, StartOptions, create};
use evenkeel_tests::sim::{Fault, Mode, SimDisk, SimWorld, Simulation, Survivors};

/// Simulated time that a run may take.
const LIMIT: Duration = Duration::from_secs(3600);
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;
const CHUNK: u64 = 16384;

const SHAPES: [(Level, usize, usize); 4] =
    [(Level::Raid5, 2, 1), (Level::Raid5, 4, 1), (Level::Raid6, 4, 2), (Level::Rs, 3, 3)];

fn made(level: Level, data: usize, parity: usize) -> CreateOptions {
    CreateOptions {
        name: "a".into(),
        level,
        data,
        parity,
        chunk_bytes: CHUNK,
        log_bytes: Some(4096),
        cache_bytes: Some(MIB),
        checksums: true,
        force: false,
    }
}

fn options(ack: Ack) -> StartOptions {
    StartOptions { ack, ..StartOptions::default() }
}

async fn start(world: &SimWorld, disks: &[SimDisk], ack: Ack) -> Array<SimWorld> {
    Array::start(world, disks, &options(ack), &|_| ()).await.expect("it starts")
}

fn filled(value: u8, bytes: u64) -> Slice {
    Slice::copy_of(&vec![value; bytes as usize])
}

async fn read(array: &Array<SimWorld>, at: u64, len: u64) -> Result<Vec<u8>, RequestError> {
    let (done, buf) = array.read(at, Buf::new(len as usize)).await;
    done.map(|()| buf.to_vec())
}

/// Which blocks of a stripe can be read, and that each of those has the value it should have.
async fn readable(array: &Array<SimWorld>, blocks: u64, value: impl Fn(u64) -> u8) -> Vec<bool> {
    let mut out = Vec::new();
    for b in 0..blocks {
        let found = read(array, b * BLOCK, BLOCK).await;
        if let Ok(bytes) = &found {
            assert!(bytes.iter().all(|x| *x == value(b)), "block {b} reads wrong bytes");
        }
        out.push(found.is_ok());
    }
    out
}

/// m members are gone and one more cannot give a sector: a row that has to be written anew cannot
/// be computed. Its unreadable block, and no other, is EIO from then on, over crashes, stops and a
/// log that has gone round, until it is overwritten.
#[test]
fn a_block_that_nobody_can_give_is_lost_until_it_is_overwritten() {
    for (level, k, m) in SHAPES {
        let case = format!("{level:?} {k}+{m}");
        let n = k + m;
        let sim = Simulation::new(3, &Survivors::new(n, 8 * MIB));
        let (world, disks) = (sim.world(), sim.disks());
        let blocks = k as u64 * CHUNK / BLOCK;
        // Block 0 is overwritten, block `lost` lies in the same row of the next column.
        let lost = CHUNK / BLOCK;
        let value = move |b: u64| if b == 0 { 9 } else { 1 };
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks, &made(level, k, m)).await.expect("made");
            let array = start(&world, &disks, Ack::Durable).await;
            array.write(0, filled(1, k as u64 * CHUNK), false).await.expect("written");
            array.write(8 * MIB / 4, filled(5, BLOCK), false).await.expect("written");
            array.destage_all().await.expect("destaged");
            let g = array.geometry();
            for c in 0..m {
                let member = g.member_of(Slot(0), k + c);
                array.fail_member(member).await.expect("failed");
            }
            let sick = g.member_of(Slot(0), 1);
            world.add_bad_pages(sick.at(), g.byte_of(Slot(0), 0), BLOCK);
            array.write(0, filled(9, BLOCK), false).await.expect("written");
            assert!(array.destage_all().await.is_ok(), "the row is written anew elsewhere");
            let found = readable(&array, blocks, value).await;
            let status = array.status();
            // The log goes round: the mark goes with it.
            for i in 0..2000u64 {
                let at = (i % 64 + 2) * k as u64 * CHUNK;
                array.write(at, filled(i as u8, BLOCK), false).await.expect("written");
            }
            let later = readable(&array, blocks, value).await;
            (found, status.stripes.lost_blocks, status.state, later)
        });
        let (found, marked, state, later) = ran.expect("it ends");
        let expected: Vec<bool> = (0..blocks).map(|b| b != lost).collect();
        assert_eq!((found, marked, state), (expected.clone(), 1, State::Degraded), "{case}");
        assert_eq!(later, expected, "{case}: after the log went round");

        // Every kind of end, and a start after each: the same answer.
        let mut survivors = vec![sim.snapshot().leave()];
        let modes = [Mode::PowerNone, Mode::PowerAll, Mode::PowerTorn(7), Mode::Process(7)];
        survivors.extend(modes.map(|mode| sim.snapshot().survive(mode)));
        for from in survivors {
            let sim = Simulation::new(5, &from);
            let (world, disks) = (sim.world(), sim.disks());
            let ran = sim.run(LIMIT, async move {
                let array = start(&world, &disks, Ack::Cached).await;
                let found = readable(&array, blocks, value).await;
                array.stop().await.expect("stopped");
                let array = start(&world, &disks, Ack::Cached).await;
                let again = readable(&array, blocks, value).await;
                let part = array.write(lost * BLOCK + 5, filled(3, 7), false).await;
                array.write(lost * BLOCK, filled(1, BLOCK), true).await.expect("written");
                array.destage_all().await.expect("destaged");
                array.stop().await.expect("stopped");
                let array = start(&world, &disks, Ack::Cached).await;
                let whole = readable(&array, blocks, value).await;
                (found, again, part, whole, array.status().stripes.lost_blocks)
            });
            let (found, again, part, whole, marked) = ran.expect("it ends");
            assert_eq!(found, expected, "{case}");
            assert_eq!(again, expected, "{case}: after a clean stop");
            assert_eq!(part, Err(RequestError::Io), "{case}: a part of a block that is lost");
            assert!(whole.iter().all(|b| *b), "{case}: overwritten, so whole again");
            assert_eq!(marked, 0, "{case}");
        }
    }
}

/// The same, crashed at its events: while the mark is made, and while it moves on with a log that
/// goes round. The block reads as it was or is EIO, and once it is EIO it stays so; all others read
/// what they should.
#[test]
fn a_mark_is_whole_after_any_crash() {
    let (mut lost_then, mut read_then) = (0, 0);
    for (level, k, m) in [SHAPES[0], SHAPES[2]] {
        let sim = Simulation::new(8, &Survivors::new(k + m, 8 * MIB));
        let (world, disks) = (sim.world(), sim.disks());
        sim.record();
        let mark = sim.mark();
        let blocks = k as u64 * CHUNK / BLOCK;
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks, &made(level, k, m)).await.expect("made");
            let array = start(&world, &disks, Ack::Durable).await;
            array.write(0, filled(1, k as u64 * CHUNK), false).await.expect("written");
            let g = array.geometry();
            for c in 0..m {
                array.fail_member(g.member_of(Slot(0), k + c)).await.expect("failed");
            }
            world.add_bad_pages(g.member_of(Slot(0), 1).at(), g.byte_of(Slot(0), 0), BLOCK);
            mark.set(1);
            array.write(0, filled(9, BLOCK), false).await.expect("written");
            mark.set(2);
            array.destage_all().await.expect("destaged");
            mark.set(3);
            for i in 0..120u64 {
                let at = (i % 16 + 2) * k as u64 * CHUNK;
                array.write(at, filled(i as u8, BLOCK), false).await.expect("written");
            }
        });
        ran.expect("it ends");
        let shots = sim.recorded();
        for shot in shots.iter().filter(|s| s.mark > 0).step_by(4) {
            let modes = [Mode::PowerNone, Mode::PowerAll, Mode::PowerTorn(3), Mode::Process(3)];
            let mode = modes[shot.event as usize / 4 % modes.len()];
            let sim = Simulation::new(9, &shot.survive(mode));
            let (world, disks) = (sim.world(), sim.disks());
            let written = shot.mark;
            let ran = sim.run(LIMIT, async move {
                let mut seen = Vec::new();
                for round in 0..2 {
                    let array = start(&world, &disks, Ack::Cached).await;
                    let first = read(&array, 0, BLOCK).await.expect("read")[0];
                    assert!(first == 9 || (first == 1 && written < 2), "block 0 is {first}");
                    let value = move |b: u64| if b == 0 { first } else { 1 };
                    let found = readable(&array, blocks, value).await;
                    let marked = array.status().stripes.lost_blocks;
                    assert_eq!(marked, found.iter().filter(|b| !**b).count() as u64);
                    seen.push(found);
                    if round == 0 {
                        array.stop().await.expect("stopped");
                    }
                }
                seen
            });
            let seen = ran.unwrap_or_else(|e| panic!("crash {} {mode}: {e}", shot.event));
            assert_eq!(seen[0], seen[1], "crash {} {mode}", shot.event);
            for (b, found) in seen[0].iter().enumerate() {
                assert!(*found || b as u64 == CHUNK / BLOCK, "crash {} {mode}: {b}", shot.event);
            }
            if seen[0].iter().all(|b| *b) {
                read_then += 1
            } else {
                lost_then += 1
            }
            // From the end of the destage on it is lost.
            assert!(shot.mark < 3 || seen[0].contains(&false), "crash {} {mode}", shot.event);
        }
    }
    assert!(lost_then > 20 && read_then > 2, "{lost_then} and {read_then} starts");
}

/// What ends a mark beside a write: a discard of the whole stripe, and a write of all of it.
#[test]
fn a_lost_block_ends_with_its_stripe() {
    for whole_write in [false, true] {
        let sim = Simulation::new(4, &Survivors::new(3, 8 * MIB));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks, &made(Level::Raid5, 2, 1)).await.expect("made");
            let array = start(&world, &disks, Ack::Durable).await;
            array.write(0, filled(1, 2 * CHUNK), false).await.expect("written");
            let g = array.geometry();
            array.fail_member(g.member_of(Slot(0), 2)).await.expect("failed");
            world.add_bad_pages(g.member_of(Slot(0), 1).at(), g.byte_of(Slot(0), 0), 2 * BLOCK);
            array.write(0, filled(9, BLOCK), false).await.expect("written");
            array.destage_all().await.expect("destaged");
            let before = array.status().stripes.lost_blocks;
            if whole_write {
                array.write(0, filled(1, 2 * CHUNK), false).await.expect("written");
            } else {
                array.discard(0, 2 * CHUNK, false).await.expect("discarded");
            }
            let value = u8::from(whole_write);
            let all = readable(&array, 8, |_| value).await;
            array.stop().await.expect("stopped");
            (before, all, array.status().stripes.lost_blocks)
        });
        assert_eq!(ran, Ok((2, vec![true; 8], 0)));
    }
}

/// A disk that does not answer any more, to reads and to writes alike: it is failed within the
/// bound, and nobody waits longer than that, the grace and an epoch.
#[test]
fn a_hung_member_is_failed_within_the_bound() {
    let bound = Duration::from_secs(8);
    // A tick more than the bound, the grace, and what the rest takes.
    let patience = bound + bound / 4 + Duration::from_secs(1);
    for (level, k, m) in SHAPES {
        for (seed, reads) in (0..6).flat_map(|s| [(s, false), (s, true)]) {
            let sim = Simulation::new(seed, &Survivors::new(k + m, 8 * MIB));
            let (world, disks) = (sim.world(), sim.disks());
            let ran = sim.run(LIMIT, async move {
                create(&world, &disks, &made(level, k, m)).await.expect("made");
                let options = StartOptions { io_timeout: Some(bound), ..options(Ack::Durable) };
                let array =
                    Array::start(&world, &disks, &options, &|_| ()).await.expect("it starts");
                array.write(0, filled(1, k as u64 * CHUNK), false).await.expect("written");
                let hung = array.geometry().member_of(Slot(0), seed as usize % k);
                world.set_fault(hung.at(), Some(Fault::Hang));
                let began = world.now();
                if reads {
                    let all = read(&array, 0, k as u64 * CHUNK).await.expect("read");
                    assert!(all.iter().all(|b| *b == 1));
                } else {
                    array.write(0, filled(2, k as u64 * CHUNK), false).await.expect("written");
                }
                let took = world.now() - began;
                // A read may be served before the failure is decided; a durable write is not.
                array.write(BLOCK, filled(3, BLOCK), false).await.expect("written");
                let state = array.status().members[hung.at()].state;
                array.stop().await.expect("it stops although a disk hangs");
                (took, state)
            });
            let (took, state) = ran.expect("it ends");
            assert_eq!(state, MemberState::Failed, "{level:?} {k}+{m} seed {seed}");
            assert!(took < patience, "{level:?} {k}+{m} seed {seed}: {took:?}");
        }
    }
}

/// More members fail at the same moment than the code tolerates (a controller, a cable): nothing
/// is recorded, writes end with EIO, what can be read is read, and when the disks are back a start
/// finds all of them, and everything that was acknowledged.
#[test]
fn a_failure_too_many_is_never_recorded() {
    for (level, k, m) in SHAPES {
        for seed in 0..12 {
            let case = format!("{level:?} {k}+{m} seed {seed}");
            let sim = Simulation::new(seed, &Survivors::new(k + m, 8 * MIB));
            let (world, disks) = (sim.world(), sim.disks());
            let ran = sim.run(LIMIT, async move {
                create(&world, &disks, &made(level, k, m)).await.expect("made");
                let array = start(&world, &disks, Ack::Durable).await;
                array.write(0, filled(1, k as u64 * CHUNK), false).await.expect("written");
                array.write(0, filled(2, BLOCK), false).await.expect("written");
                let epoch = array.status().epoch;
                let side = world.clone();
                world.spawn("breaker", async move {
                    for d in 0..=m {
                        side.set_fault(d, Some(Fault::Gone));
                        side.sleep(Duration::from_millis(seed * 3)).await;
                    }
                });
                let mut acknowledged = 2;
                for i in 3..40 {
                    match array.write(0, filled(i, BLOCK), false).await {
                        Ok(()) => acknowledged = i,
                        Err(e) => {
                            assert_eq!(e, RequestError::Io);
                            break;
                        }
                    }
                }
                let _ = array.write(k as u64 * CHUNK, filled(1, k as u64 * CHUNK), true).await;
                let status = array.status();
                assert_eq!(status.state, State::Failed);
                assert_eq!((status.epoch, status.can_lose), (epoch, 0));
                for d in 0..=m {
                    world.set_fault(d, None);
                }
                // The write that failed may or may not be there.
                let first = read(&array, 0, BLOCK).await.map(|b| b[0]);
                assert!(first.is_ok_and(|x| x == acknowledged || x == acknowledged + 1));
                let rest = read(&array, BLOCK, k as u64 * CHUNK - BLOCK).await;
                assert!(rest.is_ok_and(|all| all.iter().all(|x| *x == 1)), "the disks are back");
                acknowledged
            });
            let acknowledged = ran.expect("it ends");
            for from in [sim.snapshot().leave(), sim.snapshot().survive(Mode::Process(seed))] {
                let sim = Simulation::new(seed, &from);
                let (world, disks) = (sim.world(), sim.disks());
                let ran = sim.run(LIMIT, async move {
                    let array = start(&world, &disks, Ack::Durable).await;
                    let first = read(&array, 0, BLOCK).await.expect("read")[0];
                    (array.status().state, first)
                });
                let (state, first) = ran.expect("it ends");
                assert_eq!(state, State::Healthy, "{case}");
                assert!(
                    first == acknowledged || first == acknowledged + 1,
                    "{case}: {acknowledged} was acknowledged, {first} is there"
                );
            }
        }
    }
}

/// A member fails for a write and comes back at once, while the array goes on; then power is lost
/// and another member with it. What was acknowledged after the failure must not rest on the
/// member that missed it: the epoch that names it comes first (I3).
#[test]
fn nothing_is_acknowledged_before_a_failure_is_recorded() {
    for (level, k, m) in SHAPES {
        for seed in 0..10 {
            let case = format!("{level:?} {k}+{m} seed {seed}");
            let sim = Simulation::new(seed, &Survivors::new(k + m, 8 * MIB));
            let (world, disks) = (sim.world(), sim.disks());
            sim.record();
            let mark = sim.mark();
            let ran = sim.run(LIMIT, async move {
                create(&world, &disks, &made(level, k, m)).await.expect("made");
                let array = start(&world, &disks, Ack::Durable).await;
                let broken = array.geometry().member_of(Slot(0), seed as usize % (k + m)).at();
                for i in 1..12u8 {
                    if i == 4 {
                        // A chunk is what fails, so that the log goes on beside it.
                        world.set_fault(broken, Some(Fault::Io));
                        let (side, other) = (world.clone(), array.clone());
                        world.spawn("a whole stripe", async move {
                            let at = 8 * k as u64 * CHUNK;
                            other
                                .write(at, filled(1, k as u64 * CHUNK), false)
                                .await
                                .expect("written");
                        });
                        world.spawn("mender", async move {
                            side.sleep(Duration::from_millis(25)).await;
                            side.set_fault(broken, None);
                        });
                        world.sleep(Duration::from_millis(24)).await;
                    }
                    let writes = (0..3).map(|s| {
                        let at = s * k as u64 * CHUNK;
                        array.write(at, filled(i, BLOCK), false)
                    });
                    for w in evenkeel_journal::sync::join_all(writes.collect()).await {
                        w.expect("written");
                    }
                    mark.set(usize::from(i));
                }
            });
            ran.expect("it ends");
            let shots = sim.recorded();
            for shot in shots.iter().filter(|s| (3..8).contains(&s.mark)).step_by(3) {
                // All that may be lost on top, by turns.
                let lost: Vec<usize> =
                    (0..m).map(|i| (shot.event as usize + i) % (k + m)).collect();
                let from = shot.survive(Mode::PowerNone).without(&lost);
                let sim = Simulation::new(seed, &from);
                let (world, disks) = (sim.world(), sim.disks());
                let ran = sim.run(LIMIT, async move {
                    let options = StartOptions { accept_missing: true, ..StartOptions::default() };
                    let started = Array::start(&world, &disks, &options, &|_| ()).await;
                    match started {
                        Ok(array) => Some(read(&array, 0, BLOCK).await.expect("read")[0]),
                        // The one that failed is not among those that are lost: too few are left.
                        Err(e) => {
                            assert!(matches!(e.kind, ErrorKind::TooFew | ErrorKind::Disagree));
                            None
                        }
                    }
                });
                if let Some(first) = ran.expect("it ends") {
                    let mark = shot.mark as u8;
                    assert!(
                        first == mark || first == mark + 1,
                        "{case}: crash {}: {mark} was acknowledged, {first} is there",
                        shot.event
                    );
                }
            }
        }
    }
}

/// Disks that do not answer when the array is started, at once or some way into it: each is waited
/// for once, named and left out, and the start goes on if enough are there; else it is refused.
#[test]
fn a_start_waits_for_a_silent_disk_once() {
    let bound = Duration::from_secs(5);
    let mut left_out = 0;
    for (level, k, m) in SHAPES {
        for seed in 0..10u64 {
            let case = format!("{level:?} {k}+{m} seed {seed}");
            let sim = Simulation::new(seed, &Survivors::new(k + m, 8 * MIB));
            let (world, disks) = (sim.world(), sim.disks());
            let ran = sim.run(LIMIT, async move {
                create(&world, &disks, &made(level, k, m)).await.expect("made");
                let array = start(&world, &disks, Ack::Durable).await;
                array.write(0, filled(1, k as u64 * CHUNK), false).await.expect("written");
                array.write(0, filled(2, BLOCK), false).await.expect("written");
                if seed % 3 == 0 {
                    array.stop().await.expect("stopped");
                }
            });
            ran.expect("it ends");
            let sim = Simulation::new(seed + 100, &sim.snapshot().survive(Mode::PowerAll));
            let (world, disks) = (sim.world(), sim.disks());
            let too_many = seed == 9;
            let hung = if too_many { m + 1 } else { m };
            let ran = sim.run(LIMIT, async move {
                let side = world.clone();
                let break_them = move || {
                    (0..hung).for_each(|d| side.set_fault(d, Some(Fault::Hang)));
                };
                if seed < 4 || too_many {
                    break_them();
                } else {
                    let clock = world.clone();
                    world.spawn("they hang", async move {
                        clock.sleep(Duration::from_micros(700 * (seed - 3))).await;
                        break_them();
                    });
                }
                let began = world.now();
                let how = StartOptions {
                    io_timeout: Some(bound),
                    accept_missing: true,
                    ..options(Ack::Durable)
                };
                let started = Array::start(&world, &disks, &how, &|_| ()).await;
                let took = world.now() - began;
                if too_many {
                    let e = started.err().expect("too few answer");
                    let kinds = [ErrorKind::TooFew, ErrorKind::Disagree];
                    assert!(kinds.contains(&e.kind), "{e}");
                    assert!(e.message.contains("/sim/disk0"), "{e}");
                    assert!(took < bound * 2, "{took:?}");
                    return false;
                }
                let array = started.expect("it starts");
                // Once for superblocks and log; then once for an operation of a member, and once
                // for the question whether others still answer, a tick longer each.
                assert!(took < bound * 4, "{took:?}");
                let notices = array.notices().join(" ");
                let told =
                    notices.contains("/sim/disk0 is no member of an array: it did not answer");
                let all = read(&array, 0, k as u64 * CHUNK).await.expect("read");
                assert!(all[..BLOCK as usize].iter().all(|b| *b == 2));
                assert!(all[BLOCK as usize..].iter().all(|b| *b == 1));
                array.write(BLOCK, filled(3, BLOCK), true).await.expect("written");
                assert_ne!(array.status().members[0].state, MemberState::Active);
                array.stop().await.expect("stopped");
                told
            });
            left_out += u32::from(ran.unwrap_or_else(|e| panic!("{case}: {e}")));
        }
    }
    assert!(left_out >= 16, "{left_out} starts left silent disks out");
}
