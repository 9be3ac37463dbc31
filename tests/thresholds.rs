//! Members that give too many errors, are slow, or answer nothing and cannot be spared: which become
//! failing and which do not, what is told, what takes their place, and who waits for them meanwhile.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::{Buf, MemberIndex, Slice, World};
use evenkeel_raid::codec::Level;
use evenkeel_raid::status::{MemberState, State};
use evenkeel_raid::{Array, StartOptions, create};
use evenkeel_tests::sim::{Fault, Mode, SimDisk, SimWorld, Simulation, Survivors, path_of};

use crate::rebuild::{
    BLOCK, CHUNK, Content, LIMIT, MEMBER, SHAPES, all_of, made, start, whole_without_any,
};

/// What it takes (`raid/src/members/failing.rs`).
const MOST: usize = 20;
const DAY: Duration = Duration::from_secs(24 * 3600);
const LONG: Duration = Duration::from_secs(40 * 24 * 3600);
/// The member that has trouble.
const SICK: MemberIndex = MemberIndex(1);

type Told = Rc<RefCell<Vec<String>>>;

/// Keeps what the array says.
fn listen(world: &SimWorld, array: &Array<SimWorld>) -> Told {
    let told = Told::default();
    let (array, into) = (array.clone(), told.clone());
    world.spawn("listener", async move {
        loop {
            let sentence = array.news().await;
            into.borrow_mut().push(sentence.sentence);
        }
    });
    told
}

fn count(told: &Told, what: &str) -> usize {
    told.borrow().iter().filter(|s| s.contains(what)).count()
}

/// Every stripe has a content of its own and is in its slot.
async fn filled(array: &Array<SimWorld>) -> Vec<u8> {
    let stripe = array.geometry().stripe_blocks() * BLOCK;
    let mut all = Vec::new();
    for i in 0..array.size_bytes() / stripe {
        let data = vec![i as u8 ^ 0x5a; stripe as usize];
        array.write(i * stripe, Slice::copy_of(&data), false).await.expect("written");
        all.extend(data);
    }
    array.destage_all().await.expect("destaged");
    all
}

/// The chunks of data that a member holds: byte of the device, byte of the member.
fn chunks_of(array: &Array<SimWorld>, member: MemberIndex) -> Vec<(u64, u64)> {
    let all = (0..array.size_bytes() / CHUNK).map(|c| c * CHUNK);
    let own = all.filter_map(|byte| {
        let data = array.locate(byte).expect("it is somewhere").data?;
        (data.member == member.0).then_some((byte, data.byte))
    });
    own.collect()
}

async fn read(array: &Array<SimWorld>, at: u64, len: u64) -> Option<Vec<u8>> {
    let (done, buf) = array.read(at, Buf::new(len as usize)).await;
    done.ok().map(|()| buf.to_vec())
}

/// Reads one block, and that it is right.
async fn read_right(array: &Array<SimWorld>, at: u64, content: &[u8]) {
    let found = read(array, at, BLOCK).await.expect("read");
    assert!(found[..] == content[at as usize..(at + BLOCK) as usize], "byte {at} is wrong");
}

fn state(array: &Array<SimWorld>, member: MemberIndex) -> MemberState {
    array.status().members[member.at()].state
}

/// What a member gets, one place after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Unreadable,
    Wrong,
}

const BOTH: [What; 2] = [What::Unreadable, What::Wrong];

fn harm(world: &SimWorld, what: What, at: u64) {
    match what {
        What::Unreadable => world.add_bad_pages(SICK.at(), at, BLOCK),
        What::Wrong => world.corrupt(SICK.at(), at + 5, b"not what was written"),
    }
}

/// As many errors as make a member failing, and more, over days; one sector that is read all the time:
/// nothing happens to the disk. As many within a day: it is failing.
#[test]
fn only_many_errors_within_a_day_make_a_member_failing() {
    for what in BOTH {
        let sim = Simulation::new(2, &Survivors::new(3, MEMBER));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LONG, async move {
            create(&world, &disks, &made(Level::Raid5, 2, 1, true)).await.expect("made");
            let array = start(&world, &disks).await;
            let told = listen(&world, &array);
            let content = filled(&array).await;
            let own = chunks_of(&array, SICK);
            let (spread, at_once) = own.split_at(3 * MOST);
            harm(&world, what, spread[0].1);
            for _ in 0..5 * MOST {
                read_right(&array, spread[0].0, &content).await;
            }
            assert_eq!(state(&array, SICK), MemberState::Active, "{what:?}: one sector");
            for (byte, at) in spread {
                world.sleep(DAY / (MOST as u32 - 2)).await;
                harm(&world, what, *at);
                read_right(&array, *byte, &content).await;
            }
            let status = array.status().members[SICK.at()].clone();
            let seen = match what {
                What::Unreadable => status.read_errors,
                What::Wrong => status.checksum_errors,
            };
            assert!(seen >= spread.len() as u64, "{what:?}: the errors are seen: {seen}");
            assert_eq!(state(&array, SICK), MemberState::Active, "{what:?}: spread over days");
            world.sleep(DAY + Duration::from_secs(1)).await;

            let epoch = array.status().epoch;
            for (nth, (byte, at)) in at_once.iter().take(MOST).enumerate() {
                assert_eq!(state(&array, SICK), MemberState::Active, "{what:?}: {nth}");
                harm(&world, what, *at);
                read_right(&array, *byte, &content).await;
                world.sleep(Duration::from_secs(60)).await;
            }
            let status = array.status();
            assert_eq!(status.members[SICK.at()].state, MemberState::Failing, "{what:?}");
            assert_eq!((status.state, status.epoch), (State::Healthy, epoch + 1));
            assert_eq!(array.can_lose(), 1, "it counts as before");
            assert_eq!(count(&told, "disk1 is failing: in 20 places"), 1);
            assert_eq!(count(&told, "There is no spare"), 1);

            // It stays so, is used, and nothing more is said.
            for (byte, at) in at_once.iter().skip(MOST).take(MOST) {
                harm(&world, what, *at);
                read_right(&array, *byte, &content).await;
            }
            let (byte, _) = at_once[2 * MOST];
            let before = array.status().members[SICK.at()].read_errors;
            let reads = array.traffic().reads;
            read_right(&array, byte, &content).await;
            assert_eq!(array.traffic().reads, reads + 1, "it is read itself");
            assert_eq!(array.status().members[SICK.at()].read_errors, before);
            assert_eq!((state(&array, SICK), array.can_lose()), (MemberState::Failing, 1));
            assert_eq!(count(&told, "is failing"), 1);
            array.stop().await.expect("stopped");
            // And over a stop.
            let array = start(&world, &disks).await;
            assert_eq!((state(&array, SICK), array.can_lose()), (MemberState::Failing, 1));
            assert!(all_of(&array).await == content);
        });
        ran.expect("it ends");
    }
}

/// A failing member is drained onto a spare by itself, whether the spare was there before or comes
/// later, although more of its sectors are bad that nobody had read. Any m disks may be lost then.
#[test]
fn a_failing_member_is_drained_onto_a_spare() {
    for (nth, (level, k, m, checksums)) in SHAPES.into_iter().enumerate() {
        let n = k + m;
        let later = nth % 2 == 1;
        let case = format!("{level:?} {k}+{m}, later: {later}");
        let sim = Simulation::new(nth as u64, &Survivors::new(n + 1, MEMBER));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks[..n], &made(level, k, m, checksums)).await.expect("made");
            let array = start(&world, &disks[..n]).await;
            let told = listen(&world, &array);
            if !later {
                array.add_disk(disks[n].clone()).await.expect("added");
            }
            filled(&array).await;
            let mut content = Content::new(&array, 7);
            content.bytes = all_of(&array).await;
            let own = chunks_of(&array, SICK);
            // Of some rows that many are bad as may be, on others as well.
            for (_, at) in own.iter().take(60) {
                world.add_bad_pages(SICK.at(), *at, BLOCK);
            }
            for (byte, _) in own.iter().take(MOST) {
                read_right(&array, *byte, &content.bytes).await;
            }
            if later {
                content.write_some(&array, 10).await;
                array.rebuilt().await.expect("nothing to do");
                assert_eq!(state(&array, SICK), MemberState::Failing);
                array.add_disk(disks[n].clone()).await.expect("added");
            }
            content.write_some(&array, 10).await;
            array.rebuilt().await.expect("rebuilt");
            let status = array.status();
            assert_eq!(status.members.len(), n);
            assert_eq!(status.members[SICK.at()].path, path_of(n));
            assert_eq!(status.members[SICK.at()].state, MemberState::Active);
            assert_eq!((status.state, array.can_lose()), (State::Healthy, m));
            assert_eq!(status.stripes.lost_blocks, 0);
            let spare = if later { "There is no spare" } else { "A spare is filled" };
            assert_eq!((count(&told, "is failing"), count(&told, spare)), (1, 1));
            content.write_some(&array, 10).await;
            content.bytes
        });
        let content = ran.unwrap_or_else(|e| panic!("{case}: {e}"));
        let current: Vec<usize> = (0..=n).filter(|d| *d != SICK.at()).collect();
        let from = sim.snapshot().survive(Mode::PowerNone);
        whole_without_any(&from, &current, m, &content, &case);
    }
}

/// Ten times as many errors fail a member, where it can be spared and nobody takes its place; where it
/// cannot it stays.
#[test]
fn far_beyond_a_member_is_failed_if_it_can_be_spared() {
    for (k, spared, what) in
        [(4, true, What::Unreadable), (4, true, What::Wrong), (4, false, What::Unreadable)]
    {
        let (n, case) = (k + 1, format!("spared: {spared}, {what:?}"));
        let sim = Simulation::new(4, &Survivors::new(n, 4 * MEMBER));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks, &made(Level::Raid5, k, 1, true)).await.expect("made");
            let array = start(&world, &disks).await;
            let told = listen(&world, &array);
            let content = filled(&array).await;
            let own = chunks_of(&array, SICK);
            assert!(own.len() > 11 * MOST, "{} chunks", own.len());
            for (nth, (byte, at)) in own.iter().take(11 * MOST).enumerate() {
                // The last ones find another member gone.
                if !spared && nth == 9 * MOST {
                    array.fail_member(MemberIndex(0)).await.expect("failed");
                }
                if nth < 10 * MOST {
                    let left = [MemberState::Active, MemberState::Failing];
                    assert!(left.contains(&state(&array, SICK)), "{nth}");
                }
                harm(&world, what, *at);
                let found = read(&array, *byte, BLOCK).await;
                assert_eq!(found.is_some(), spared || nth < 9 * MOST, "{nth}");
                world.sleep(Duration::from_secs(1)).await;
            }
            if spared {
                assert_eq!(state(&array, SICK), MemberState::Failed);
                assert_eq!(count(&told, "disk1 failed: it gave ever more errors"), 1);
                assert!(all_of(&array).await == content);
            } else {
                assert_eq!(state(&array, SICK), MemberState::Failing);
                assert_eq!(array.status().state, State::Degraded);
            }
        });
        ran.unwrap_or_else(|e| panic!("{case}: {e}"));
    }
}

/// Starts an array whose operations may take very long.
async fn start_patient(world: &SimWorld, disks: &[SimDisk], read_only: bool) -> Array<SimWorld> {
    let options = StartOptions {
        io_timeout: Some(Duration::from_secs(if read_only { 30 } else { 3600 })),
        accept_missing: true,
        read_only,
        ..StartOptions::default()
    };
    Array::start(world, disks, &options, &|_| ()).await.expect("it starts")
}

/// A member that is slower than the others by orders is read around, so that reads are as fast as theirs;
/// asked by the way, it is fast again when it is; and if it stays slow, it is failing, and drained.
#[test]
fn a_slow_member_is_read_around_and_drained_in_the_end() {
    for (level, k, m) in [(Level::Raid5, 3, 1), (Level::Raid6, 4, 2)] {
        let n = k + m;
        let sim = Simulation::new(6, &Survivors::new(n + 1, MEMBER));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks[..n], &made(level, k, m, true)).await.expect("made");
            let array = start_patient(&world, &disks[..n], false).await;
            let told = listen(&world, &array);
            let content = filled(&array).await;
            let own = chunks_of(&array, SICK);
            for _ in 0..4 {
                assert!(all_of(&array).await == content);
            }
            let read_one = async |i: usize| {
                let began = world.now();
                read_right(&array, own[i % own.len()].0, &content).await;
                world.now() - began
            };
            // A pause: some reads take long, then none does.
            world.slow_down(SICK.at(), 10_000);
            for i in 0..5 {
                assert!(read_one(i).await > Duration::from_millis(100));
            }
            world.slow_down(SICK.at(), 1);
            for i in 0..50 {
                read_one(i).await;
            }
            assert_eq!(count(&told, "is slow"), 0);

            // Now it stays slow: soon nobody waits for it.
            for round in 0..2 {
                world.slow_down(SICK.at(), 10_000);
                let mut slow = 0;
                while count(&told, "disk1 is slow") == round {
                    read_one(slow).await;
                    slow += 1;
                    assert!(slow < 60, "still not told");
                }
                for i in 0..100 {
                    let took = read_one(i).await;
                    // As slow as the slowest of some others.
                    assert!(took < Duration::from_millis(100), "{took:?}");
                }
                assert_eq!(state(&array, SICK), MemberState::Active);
                if round == 0 {
                    world.slow_down(SICK.at(), 1);
                    for i in 0..600 {
                        read_one(i).await;
                        world.sleep(Duration::from_millis(500)).await;
                    }
                    assert_eq!(count(&told, "disk1 is fast again"), 1);
                    let reads = array.traffic().reads;
                    read_one(0).await;
                    assert_eq!(array.traffic().reads, reads + 1, "it is read itself");
                }
            }
            // For long, with a read now and then. What it alone can give, it gives.
            for i in 0..2000 {
                if count(&told, "is failing") > 0 {
                    break;
                }
                read_one(i).await;
                world.sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(count(&told, "disk1 is failing: it has been slow for"), 1);
            array.add_disk(disks[n].clone()).await.expect("added");
            array.rebuilt().await.expect("rebuilt");
            assert_eq!(array.status().members[SICK.at()].path, path_of(n));
            assert_eq!((array.status().state, array.can_lose()), (State::Healthy, m));
            assert!(all_of(&array).await == content);
            for i in 0..100 {
                assert!(read_one(i).await < Duration::from_millis(100));
            }
            array.stop().await.expect("stopped");
        });
        ran.unwrap_or_else(|e| panic!("{level:?}: {e}"));
    }
}

/// All members are slow at once: nobody is to blame. And a slow one gives what only it can give.
#[test]
fn a_busy_machine_makes_nobody_slow() {
    let sim = Simulation::new(7, &Survivors::new(3, MEMBER));
    let (world, disks) = (sim.world(), sim.disks());
    let ran = sim.run(LIMIT, async move {
        create(&world, &disks, &made(Level::Raid5, 2, 1, true)).await.expect("made");
        let array = start_patient(&world, &disks, false).await;
        let told = listen(&world, &array);
        let content = filled(&array).await;
        for _ in 0..4 {
            assert!(all_of(&array).await == content);
        }
        (0..3).for_each(|d| world.slow_down(d, 10_000));
        let mut rng = evenkeel_tests::rng::Rng::new(5);
        for _ in 0..300 {
            let at = rng.below(array.size_bytes() / BLOCK) * BLOCK;
            read_right(&array, at, &content).await;
        }
        assert_eq!(count(&told, "is slow"), 0);
        (0..3).for_each(|d| world.slow_down(d, 1));
        for _ in 0..4 {
            assert!(all_of(&array).await == content);
        }
        world.slow_down(SICK.at(), 10_000);
        let own = chunks_of(&array, SICK);
        for (byte, _) in own.iter().take(60) {
            read_right(&array, *byte, &content).await;
        }
        assert_eq!(count(&told, "disk1 is slow"), 1);
        // Another member cannot give its part of this row, and the slow one is read after all.
        let row = own[0].0 / (2 * CHUNK) * 2 * CHUNK;
        for byte in [row, row + CHUNK] {
            let data = array.locate(byte).expect("it is somewhere").data.expect("mapped");
            if data.member != SICK.0 {
                world.add_bad_pages(usize::from(data.member), data.byte, BLOCK);
            }
        }
        read_right(&array, own[0].0, &content).await;
    });
    ran.expect("it ends");
}

/// A disk that answers nothing any more and is not failed, since nothing may be written: where others
/// can give what it holds, one read waits for it, and no more. Where they cannot, a few do, and
/// then it is not asked, so what hangs is bounded; until it answers.
#[test]
fn nobody_waits_for_ever_for_a_disk_that_cannot_be_spared() {
    for needed in [false, true] {
        let sim = Simulation::new(3, &Survivors::new(3, MEMBER));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks, &made(Level::Raid5, 2, 1, true)).await.expect("made");
            let array = start(&world, &disks).await;
            let content = filled(&array).await;
            let own = chunks_of(&array, SICK);
            array.stop().await.expect("stopped");
            let there = if needed { &disks[1..] } else { &disks[..] };
            let array = start_patient(&world, there, true).await;
            assert!(all_of(&array).await == content);
            world.set_fault(SICK.at(), Some(Fault::Hang));
            let bound = Duration::from_secs(30);
            let (mut waited, began) = (0, world.now());
            for i in 0..200 {
                let before = world.now();
                let found = read(&array, own[i % own.len()].0, BLOCK).await;
                assert_eq!(found.is_some(), !needed, "{i}");
                let took = world.now() - before;
                waited += u32::from(took >= bound);
                assert!(i < 16 || took < Duration::from_secs(1), "{i}: {took:?}");
            }
            let most = if needed { 8 } else { 1 };
            assert!((1..=most).contains(&waited), "{waited} waited");
            assert!(world.now() - began < bound * 2 * most, "{:?}", world.now() - began);
            let hung = world.hung_on(SICK.at());
            assert!(hung <= most as usize, "{hung} operations hang");
            // What the others hold is read at once.
            let other = (0..array.size_bytes() / CHUNK).map(|c| c * CHUNK);
            let other = other.filter(|b| own.iter().all(|o| o.0 != *b));
            let theirs = |b: &u64| {
                let data = array.locate(*b).expect("it is somewhere").data.expect("mapped");
                there.iter().any(|d| evenkeel_tests::evenkeel::path(d) == data.path)
            };
            for byte in other.filter(theirs).take(20) {
                read_right(&array, byte, &content).await;
            }
            // It answers again.
            world.set_fault(SICK.at(), None);
            world.end_hung(SICK.at());
            world.sleep(Duration::from_secs(1)).await;
            for (byte, _) in own.iter().take(20) {
                read_right(&array, *byte, &content).await;
            }
            let reads = array.traffic().reads;
            read_right(&array, own[0].0, &content).await;
            assert_eq!(array.traffic().reads, reads + 1, "it is read itself");
        });
        ran.unwrap_or_else(|e| panic!("needed: {needed}: {e}"));
    }
}
