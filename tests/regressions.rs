//! Bugs that were found once, each as the smallest run that showed it. The story is told where it
//! is replayed; the list is in docs/reliability.md.
//!
//! Runs that the crash enumeration found are named by the arguments of the `crash` binary. When
//! the code changes, what happens at an event moves to another one, so the same crash is tried at
//! every event of the run.

use std::future::Future;
use std::time::Duration;

use evenkeel_journal::{Buf, Disk, DiskError, DiskFacts, RunIdentity, Segs, Slice, Slot, World};
use evenkeel_raid::codec::Level;
use evenkeel_raid::{Ack, Array, CreateOptions, StartOptions, create};
use evenkeel_tests::crash::case::{Sequel, Tally, check};
use evenkeel_tests::crash::run::record;
use evenkeel_tests::crash::{Crash, Scenario};
use evenkeel_tests::evenkeel::{Evenkeel, setups};
use evenkeel_tests::sim::{
    DiskImage, Fault, Mode, SimDisk, SimWorld, Simulation, Snapshot, Survivors,
};

/// Simulated time that a run may take.
const LIMIT: Duration = Duration::from_secs(3600);
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

fn made(data: usize, parity: usize, level: Level, chunk: u64) -> CreateOptions {
    CreateOptions {
        name: "a".into(),
        level,
        data,
        parity,
        chunk_bytes: chunk,
        log_bytes: Some(MIB),
        cache_bytes: Some(MIB),
        checksums: true,
        force: false,
    }
}

fn durable() -> StartOptions {
    StartOptions { ack: Ack::Durable, ..StartOptions::default() }
}

async fn start<W: World>(world: &W, disks: &[W::Disk], options: StartOptions) -> Array<W> {
    Array::start(world, disks, &options, &|_| ()).await.expect("it starts")
}

fn filled(value: u8, bytes: u64) -> Slice {
    Slice::copy_of(&vec![value; bytes as usize])
}

/// A block that is written again while its stripe is being destaged in place was released by the
/// log as soon as the newer Write was durable, although the Parity that covers the older one was
/// only planned: holding it when the Parity was appended came too late, and the assertion of I2
/// ended the daemon. It is held from the plan on.
#[test]
fn a_block_is_written_again_while_it_is_destaged() {
    for seed in 0..20 {
        let sim = Simulation::new(seed, &Survivors::new(6, 16 * MIB));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks, &made(4, 2, Level::Raid6, 65536)).await.expect("made");
            let array = start(&world, &disks, durable()).await;
            array.write(0, filled(1, 4 * 65536), false).await.expect("written");
            for round in 0..20 {
                array.write(0, filled(round + 2, BLOCK), false).await.expect("written");
                let other = array.clone();
                world.spawn("destage", async move { other.destage_all().await.expect("destaged") });
                for i in 0..5 {
                    array.write(0, filled(100 + i, BLOCK), false).await.expect("written");
                }
            }
        });
        assert_eq!(ran, Ok(()), "seed {seed}");
    }
}

/// With small chunks one request is more whole stripes than the 64 slots of the reserve: when
/// every stripe had a slot, such a request waited for slots for ever. The reserve now has room for
/// the largest request beside what is kept for destage.
#[test]
fn a_full_device_of_small_chunks_takes_the_largest_request() {
    let sim = Simulation::new(1, &Survivors::new(3, 8 * MIB));
    let (world, disks) = (sim.world(), sim.disks());
    let ran = sim.run(LIMIT, async move {
        create(&world, &disks, &made(2, 1, Level::Raid5, BLOCK)).await.expect("made");
        let array = start(&world, &disks, StartOptions::default()).await;
        for round in 0..2 {
            let mut at = 0;
            while at < array.size_bytes() {
                let n = MIB.min(array.size_bytes() - at);
                array.write(at, filled(round, n), false).await.expect("written");
                at += n;
            }
        }
    });
    assert_eq!(ran, Ok(()));
}

/// An array is created anew with one smaller disk, so that its copies C no longer lie at the end
/// of the larger ones, where the older array's are left: these were taken for the disk's own, and
/// the start was refused. `create` wipes them, and a start ignores copies of another array.
#[test]
fn a_copy_of_an_older_array_is_left_at_the_end_of_a_disk() {
    let sim = Simulation::new(1, &Survivors::new(3, 64 * MIB));
    let (world, disks) = (sim.world(), sim.disks());
    let options = made(2, 1, Level::Raid5, 65536);
    let ran = sim.run(LIMIT, async move {
        create(&world, &disks, &options).await.expect("made");
        for _ in 0..3 {
            let array = start(&world, &disks, StartOptions::default()).await;
            array.stop().await.expect("stopped");
        }
        // The end of the old array, as a program would leave it that does not wipe.
        let at = 64 * MIB - 16384;
        let mut ends = Vec::new();
        for disk in &disks {
            let (done, buf) = disk.read(at, Buf::new(16384)).await;
            done.expect("read");
            ends.push(buf.freeze());
        }
        let sizes = [64 * MIB, 64 * MIB, 32 * MIB];
        let cut: Vec<Cut> = disks.iter().cloned().zip(sizes).map(|(d, n)| Cut(d, n)).collect();
        let world = CutWorld(world);
        let again = CreateOptions { force: true, ..options };
        create(&world, &cut, &again).await.expect("made again");
        start(&world, &cut, StartOptions::default()).await.stop().await.expect("stopped");
        for (disk, end) in disks.iter().zip(ends).take(2) {
            disk.write(at, vec![end]).await.expect("written");
        }
        start(&world, &cut, StartOptions::default()).await;
    });
    assert_eq!(ran, Ok(()));
}

/// A disk of which only the beginning is seen.
#[derive(Clone)]
struct Cut(SimDisk, u64);

impl Disk for Cut {
    fn facts(&self) -> DiskFacts {
        DiskFacts { bytes: self.1, ..self.0.facts() }
    }
    fn read(
        &self,
        at: u64,
        buf: Buf,
    ) -> impl Future<Output = (Result<(), DiskError>, Buf)> + 'static {
        self.0.read(at, buf)
    }
    fn write(&self, at: u64, segs: Segs) -> impl Future<Output = Result<(), DiskError>> + 'static {
        self.0.write(at, segs)
    }
    fn flush(&self) -> impl Future<Output = Result<(), DiskError>> + 'static {
        self.0.flush()
    }
    fn discard(&self, at: u64, len: u64) -> impl Future<Output = Result<(), DiskError>> + 'static {
        self.0.discard(at, len)
    }
}

/// The simulated world, with such disks.
#[derive(Clone)]
struct CutWorld(SimWorld);

impl World for CutWorld {
    type Disk = Cut;
    type Ring = <SimWorld as World>::Ring;
    fn now(&self) -> Duration {
        self.0.now()
    }
    fn wall_clock(&self) -> u64 {
        self.0.wall_clock()
    }
    fn sleep(&self, d: Duration) -> impl Future<Output = ()> + 'static {
        self.0.sleep(d)
    }
    fn random(&self) -> u64 {
        self.0.random()
    }
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        self.0.spawn(name, task);
    }
    fn identity(&self) -> RunIdentity {
        self.0.identity()
    }
    fn open_ring(&self, id: u128) -> std::io::Result<Option<Self::Ring>> {
        self.0.open_ring(id)
    }
    fn create_ring(&self, id: u128, bytes: usize) -> std::io::Result<Self::Ring> {
        self.0.create_ring(id, bytes)
    }
    fn remove_ring(&self, id: u128) -> std::io::Result<()> {
        self.0.remove_ring(id)
    }
}

/// One member is lost, and a second one fails in the middle of a destage in place: the array
/// halts, and must still read what it can. Rows that were half written, new data with old parity,
/// gave wrong bytes for the blocks of the lost member. Until a row is in place completely, reads
/// now see it as it will be.
#[test]
fn an_array_that_halts_within_a_row_reads_no_wrong_bytes() {
    let (mut halted, mut wrong) = (0, Vec::new());
    for seed in 0..120 {
        let sim = Simulation::new(seed, &Survivors::new(3, 8 * MIB));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks, &made(2, 1, Level::Raid5, 65536)).await.expect("made");
            let array = start(&world, &disks, durable()).await;
            array.write(0, filled(1, 2 * 65536), false).await.expect("written");
            // The disk of column 1 is lost, column 0 is written, the parity's disk fails then.
            let member = |column| array.geometry().member_of(Slot(0), column).at();
            let (column1, parity) = (member(1), member(2));
            world.set_fault(column1, Some(Fault::Io));
            let _ = array.flush().await;
            for b in 0..4 {
                array.write(b * BLOCK, filled(9, BLOCK), false).await.expect("written");
            }
            let side = world.clone();
            world.spawn("breaker", async move {
                side.sleep(Duration::from_micros(20 + seed % 60 * 500)).await;
                side.set_fault(parity, Some(Fault::Io));
            });
            let destaged = array.destage_all().await;
            // Back when it is too late.
            world.set_fault(parity, None);
            let (done, buf) = array.read(65536, Buf::new(4 * 4096)).await;
            (destaged.is_err(), done.is_ok() && buf.iter().any(|b| *b != 1))
        });
        let (halts, bad) = ran.expect("it ends");
        halted += u32::from(halts);
        if bad {
            wrong.push(seed);
        }
    }
    assert!(halted > 10, "only {halted} halted: the faults come at the wrong time");
    assert_eq!(wrong, [0; 0], "seeds that read wrong bytes");
}

/// Number and phase of the superblock copy at `at`.
fn epoch_at(disk: &DiskImage, at: u64) -> (u64, u32) {
    let mut b = [0; 112];
    disk.view().read(at, &mut b);
    let number = u64::from_le_bytes(b[96..104].try_into().expect("eight bytes"));
    (number, u32::from_le_bytes(b[104..108].try_into().expect("four bytes")))
}

/// Whether all disks but the last bear the newest epoch on copy A, and some of them alone bear it
/// in force on copy B.
fn marked_on_some(from: &Survivors) -> bool {
    let survivors: Vec<_> = from.disks.iter().filter(|d| d.id != 5).collect();
    let newest = survivors.iter().map(|d| epoch_at(d, 4096).0).max();
    let marked = survivors.iter().filter(|d| Some(epoch_at(d, 65536).0) == newest).count();
    let prepared = survivors.iter().all(|d| epoch_at(d, 4096) == (newest.unwrap_or(0), 1));
    prepared && (1..survivors.len()).contains(&marked)
}

/// An epoch that fails a member was prepared on all survivors, and so decided, but in force on
/// some of them alone when power was lost. The next start went on with it and prepared its own
/// epoch over copy A: a cut there left the others with the epoch before alone, so they counted
/// as stale, and a start was refused although one member was lost and one had failed of two. A
/// start now marks a decided epoch in force everywhere before it prepares another.
#[test]
fn a_decided_epoch_is_not_lost_by_the_start_that_acts_on_it() {
    let mut starts = 0;
    let shots = destage_that_loses_a_disk(1);
    let on_some: Vec<&Snapshot> =
        shots.iter().filter(|s| marked_on_some(&s.survive(Mode::PowerAll))).collect();
    assert!(!on_some.is_empty(), "the epoch was never in force on some alone");
    for shot in on_some.iter().take(2) {
        let sim = Simulation::new(99, &shot.survive(Mode::PowerAll));
        let (world, disks) = (sim.world(), sim.disks());
        sim.record();
        let left = sim.run(LIMIT, async move { start(&world, &disks, durable()).await.can_lose() });
        assert_eq!(left, Ok(1), "the epoch says that disk 5 has failed");
        for again in sim.recorded() {
            for mode in [Mode::PowerAll, Mode::PowerNone] {
                let right = reads_right(&again.survive(mode).without(&[0]));
                assert_eq!(right, Ok(true), "crashes at {} and {} {mode}", shot.event, again.event);
                starts += 1;
            }
        }
    }
    assert!(starts > 100, "only {starts} starts");
}

fn destage_that_loses_a_disk(seed: u64) -> Vec<Snapshot> {
    let sim = Simulation::new(seed, &Survivors::new(6, 4 * MIB));
    let (world, disks) = (sim.world(), sim.disks());
    sim.record();
    let mark = sim.mark();
    let options = CreateOptions {
        log_bytes: Some(4096),
        cache_bytes: Some(4096),
        ..made(4, 2, Level::Raid6, 8192)
    };
    let ran = sim.run(LIMIT, async move {
        create(&world, &disks, &options).await.expect("made");
        let array = start(&world, &disks, durable()).await;
        for (value, bytes) in [(1, 32768), (7, BLOCK)] {
            for i in 0..4 {
                array.write(i * 32768, filled(value, bytes), false).await.expect("written");
            }
        }
        mark.set(1);
        let side = world.clone();
        world.spawn("breaker", async move {
            side.sleep(Duration::from_micros(100 * seed)).await;
            side.set_fault(5, Some(Fault::Gone));
        });
        array.destage_all().await.expect("destaged");
        array.write(0, filled(7, BLOCK), false).await.expect("written");
        world.sleep(Duration::from_millis(400)).await;
        let _ = array.flush().await;
        array.write(0, filled(7, BLOCK), false).await.expect("written");
    });
    assert_eq!(ran, Ok(()));
    sim.recorded().into_iter().filter(|s| s.mark == 1).collect()
}

fn reads_right(from: &Survivors) -> Result<bool, String> {
    let sim = Simulation::new(7, from);
    let (world, disks) = (sim.world(), sim.disks());
    let ran = sim.run(LIMIT, async move {
        let started = Array::start(&world, &disks, &StartOptions::default(), &|_| ()).await;
        let array = started.map_err(|e| e.message)?;
        let (done, buf) = array.read(0, Buf::new(4 * 32768)).await;
        done.map_err(|e| e.to_string())?;
        let (new, old) = (&[7; 4096][..], &[1; 32768 - 4096][..]);
        Ok(buf.chunks(32768).all(|stripe| stripe == [new, old].concat()))
    });
    ran.map_err(|stop| stop.to_string())?
}

/// Replays a crash of the enumeration, of this kind and at every event of its run: every sixteenth
/// with all sequels, the others with one each.
fn replay(geometry: &str, workload: &'static str, seed: u64, mode: &str, lost: &[usize]) {
    let setup = setups().into_iter().find(|s| s.name == geometry).expect("a geometry");
    let scenario = Scenario { setup, workload, seed, durable: false };
    let recording = record::<Evenkeel>(&scenario).expect("it runs without a crash");
    let mode: Mode = mode.parse().expect("a mode");
    for event in recording.shots.iter().map(|s| s.event) {
        let crash = Crash { event, mode, lost: lost.to_vec(), salt: 0 };
        let one = [None];
        let all = Sequel::ALL.map(Some);
        let sequels = if event % 16 == 0 { &all[..] } else { &one[..] };
        for sequel in sequels {
            let mut tally = Tally::default();
            let right =
                check::<Evenkeel>(&recording, &scenario, &crash, *sequel, false, &mut tally);
            assert_eq!(right, Ok(()), "{scenario} {crash} {sequel:?}");
        }
    }
}

/// A discard that began and ended within blocks was applied in three steps, each logged by
/// itself: a crash between them left a part of it (P3). Up to 1 MiB it is one write of zeros.
#[test]
fn an_unaligned_discard_is_atomic() {
    replay("raid6-4+2", "discard", 11, "process:224", &[2, 4]);
}

/// The horizon of a whole stripe was taken before its chunks were written: an overlapping write
/// that came meanwhile won in that stripe, since it was newer than the horizon, and lost in the
/// next one, where the first request's own Write was appended after it (P2, P3). The horizon is
/// now the moment of the append. (Found in raid6-4+2, workload full, cached, seed 1, crash 335.)
#[test]
fn overlapping_writes_have_one_order() {
    let mut second_first = 0;
    for seed in 0..40 {
        let sim = Simulation::new(seed, &Survivors::new(3, 8 * MIB));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks, &made(2, 1, Level::Raid5, 8192)).await.expect("made");
            let array = start(&world, &disks, StartOptions::default()).await;
            // Stripe 0 and half of stripe 1; then, over that, the end of 0 and the beginning of 1.
            let first = array.clone();
            world.spawn("first", async move {
                first.write(0, filled(1, 6 * BLOCK), false).await.expect("written");
            });
            world.sleep(Duration::from_micros(seed * 10)).await;
            array.write(3 * BLOCK, filled(2, 2 * BLOCK), false).await.expect("written");
            world.sleep(Duration::from_millis(200)).await;
            let (done, buf) = array.read(0, Buf::new(6 * 4096)).await;
            done.expect("read");
            (buf[3 * 4096], buf[4 * 4096])
        });
        let (end, beginning) = ran.expect("it ends");
        assert_eq!(end, beginning, "seed {seed}: each won in another stripe");
        second_first += u32::from(end == 1);
    }
    assert!((1..40).contains(&second_first), "the requests were never beside each other");
}

/// A discard locked the whole stripes that were in use when it began. A write over two stripes that
/// came while it waited for one of them lost there, since the discard's Unmap came later, and won in
/// the other one, which was not in use before: that one was left out (P2, P3). What comes into use
/// meanwhile is now locked, too.
#[test]
fn a_discard_and_a_write_over_its_end_have_one_order() {
    let mut beside = 0;
    for seed in 0..40 {
        let sim = Simulation::new(seed, &Survivors::new(3, 8 * MIB));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks, &made(2, 1, Level::Raid5, 8192)).await.expect("made");
            let array = start(&world, &disks, StartOptions::default()).await;
            // Stripe 0 is dirty, and locked by its destage. Stripe 1 was never written.
            array.write(0, filled(1, 4 * BLOCK), false).await.expect("written");
            array.write(0, filled(1, BLOCK), false).await.expect("written");
            let (destager, discarder) = (array.clone(), array.clone());
            world.spawn("destage", async move { destager.destage_all().await.expect("destaged") });
            let side = world.clone();
            world.spawn("discard", async move {
                side.sleep(Duration::from_micros(1 + seed)).await;
                discarder.discard(0, 8 * BLOCK, false).await.expect("discarded");
            });
            world.sleep(Duration::from_micros(2 + seed * 3)).await;
            array.write(3 * BLOCK, filled(2, 2 * BLOCK), false).await.expect("written");
            world.sleep(Duration::from_millis(200)).await;
            let (done, buf) = array.read(0, Buf::new(8 * 4096)).await;
            done.expect("read");
            (buf[3 * 4096], buf[4 * 4096])
        });
        let (end, beginning) = ran.expect("it ends");
        assert_eq!(end, beginning, "seed {seed}: each won in another stripe");
        beside += u32::from(end == 0);
    }
    assert!(beside > 0, "the discard never came later");
}

/// Two writes that each merge a part of a block in one of two stripes, and write the other stripe
/// in part: each held its merge and waited for the other's to end, for ever. Who merges now holds
/// the locks of all its stripes.
#[test]
fn two_writes_that_merge_do_not_wait_for_each_other() {
    for seed in 0..20 {
        let sim = Simulation::new(seed, &Survivors::new(3, 8 * MIB));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks, &made(2, 1, Level::Raid5, 8192)).await.expect("made");
            let array = start(&world, &disks, StartOptions::default()).await;
            array.write(0, filled(1, 8 * BLOCK), false).await.expect("written");
            let first = array.clone();
            world.spawn("first", async move {
                let data = filled(2, 3 * BLOCK + 100);
                first.write(3 * BLOCK - 100, data, false).await.expect("written");
            });
            let data = filled(3, 3 * BLOCK + 100);
            array.write(2 * BLOCK, data, false).await.expect("written");
            world.sleep(Duration::from_millis(200)).await;
            let (done, buf) = array.read(0, Buf::new(8 * 4096)).await;
            done.expect("read");
            buf[3 * 4096]
        });
        let last = ran.unwrap_or_else(|stop| panic!("seed {seed}: {stop}"));
        assert!([2, 3].contains(&last));
    }
}

/// A Parity that a later Place supersedes was refused by replay when a Write that it covers had
/// left the log: the tail may pass that Write once the Place is durable. What a Parity covers is
/// now looked for when the whole log was applied, so only for those that still count.
#[test]
fn a_superseded_parity_may_cover_what_has_left_the_log() {
    replay("raid5-2+1", "destage", 1, "power:subset:409", &[]);
}

/// A decided epoch was read from the cache of a disk, volatile since the process that wrote it
/// had died before its flush; the start marked it in force in other copies, and a loss of power
/// took copy A back. A start flushes before it marks.
#[test]
fn a_decided_epoch_may_still_be_volatile() {
    replay("raid6-4+2", "partial", 3, "process:315", &[2, 3]);
}

/// A page of checksums that a crash had left in its newest generation on some members alone was taken
/// from one of those, and the next checkpoint wrote over the other place on all: over the only
/// generation that the others had. One more cut, with the first member lost, and the page was gone.
/// A page is the same on all members before one of its places is written again.
#[test]
fn a_page_of_checksums_is_on_all_members_before_it_is_written_again() {
    const CHUNK: u64 = 16384;
    let sim = Simulation::new(40, &Survivors::new(3, 8 * MIB));
    let (world, disks) = (sim.world(), sim.disks());
    let rest = Duration::from_secs(5);
    let made = sim.run(LIMIT, async move {
        create(&world, &disks, &made(2, 1, Level::Raid5, CHUNK)).await.expect("made");
        let array = start(&world, &disks, durable()).await;
        for stripe in 0..4 {
            array.write(stripe * 2 * CHUNK, filled(1, 2 * CHUNK), false).await.expect("written");
        }
        world.sleep(rest).await;
        array
    });
    let array = made.expect("it ends");
    let g = array.geometry();
    let copies = |place| g.sum_page_copies(1, place);
    // Of the second generation: written, but not flushed yet.
    sim.record();
    let (world, second) = (sim.world(), array.clone());
    let ran = sim.run(LIMIT, async move {
        second.write(0, filled(2, BLOCK), false).await.expect("written");
        world.sleep(rest).await;
    });
    ran.expect("it ends");
    let page = |from: &Survivors, place: u8, copy: usize| {
        let (member, at) = copies(place)[copy];
        from.disks[member.at()].view().page(at as usize / 4096).cloned()
    };
    let shots = sim.recorded();
    let state = |s: &Snapshot, mode| {
        let from = s.survive(mode);
        [0, 1].map(|copy| [0, 1].map(|place| page(&from, place, copy)))
    };
    let old = state(&shots[0], Mode::PowerNone);
    let cut = shots.iter().rfind(|s| {
        let whole = state(s, Mode::PowerAll);
        state(s, Mode::PowerNone) == old && (0..2).all(|copy| whole[copy] != old[copy])
    });
    let cut = cut.expect("a moment between the writes of the page and their flush");
    let new = state(cut, Mode::PowerAll);
    let place = (0..2).find(|p| new[1][*p] != old[1][*p]).expect("one was written");
    // The second copy is not there.
    let mut from = cut.survive(Mode::PowerAll);
    let (member, at) = copies(place as u8)[1];
    from.disks[member.at()].medium_mut().set(at as usize / 4096, old[1][place].clone());

    let sim = Simulation::new(41, &from);
    let (world, disks) = (sim.world(), sim.disks());
    sim.record();
    let mark = sim.mark();
    let ran = sim.run(LIMIT, async move {
        let array = start(&world, &disks, durable()).await;
        mark.set(1);
        // In more than one sector of the page, so that it can be torn.
        array.write(2 * CHUNK, filled(3, BLOCK), false).await.expect("written");
        array.write(40 * 2 * CHUNK, filled(3, 2 * CHUNK), false).await.expect("written");
        world.sleep(rest).await;
    });
    ran.expect("it ends");
    let lost = copies(0)[0].0.at();
    for shot in sim.recorded().iter().filter(|s| s.mark == 1) {
        for mode in (0..6).map(Mode::PowerTorn).chain([Mode::PowerNone, Mode::PowerAll]) {
            let sim = Simulation::new(42, &shot.survive(mode).without(&[lost]));
            let (world, disks) = (sim.world(), sim.disks());
            let ran = sim.run(LIMIT, async move {
                let array = start(&world, &disks, durable()).await;
                let mut wrong = Vec::new();
                for block in 0..4 * 2 * CHUNK / BLOCK {
                    let (done, buf) = array.read(block * BLOCK, Buf::new(BLOCK as usize)).await;
                    let right = match block {
                        0 => vec![2],
                        b if b == 2 * CHUNK / BLOCK => vec![1, 3],
                        _ => vec![1],
                    };
                    if done.is_err() || !right.iter().any(|v| buf.iter().all(|b| b == v)) {
                        wrong.push((block, done));
                    }
                }
                wrong
            });
            let wrong = ran.unwrap_or_else(|e| panic!("event {} {mode}: {e}", shot.event));
            assert!(wrong.is_empty(), "event {} {mode}: {wrong:?}", shot.event);
        }
    }
}
