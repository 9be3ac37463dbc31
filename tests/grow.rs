//! Arrays whose members are larger than what is used of them: they grow while they are used, and wherever
//! that is cut, a start finds the array of before or the larger one, whole.

use std::cell::Cell;
use std::rc::Rc;

use evenkeel_journal::{MemberIndex, Slice, World};
use evenkeel_raid::codec::Level;
use evenkeel_raid::{Array, ErrorKind, StartOptions, create, create_with_journals};
use evenkeel_tests::checkers::parity::check_at_rest;
use evenkeel_tests::sim::{Mode, SimDisk, SimWorld, Simulation, Survivors};

use crate::rebuild::{
    BLOCK, Content, LIMIT, MEMBER, SHAPES, all_of, made, start, whole_without_any,
};

const MIB: u64 = 1 << 20;

/// Larger disks, each by something else; none is smaller than `bytes`.
fn enlarged(mut from: Survivors, bytes: u64) -> Survivors {
    for (i, disk) in from.disks.iter_mut().enumerate() {
        disk.enlarge(bytes + i as u64 * 40_960);
    }
    from
}

/// An array with something in it, stopped, and what it holds.
fn prepared(shape: usize, journals: usize) -> (Survivors, Vec<u8>) {
    let (level, k, m, checksums) = SHAPES[shape];
    let n = k + m;
    let sim = Simulation::new(11, &Survivors::new(n + journals, MEMBER));
    let (world, disks) = (sim.world(), sim.disks());
    let ran = sim.run(LIMIT, async move {
        let options = made(level, k, m, checksums);
        let (members, devices) = disks.split_at(n);
        if journals > 0 {
            create_with_journals(&world, members, devices, &[], &options).await.expect("made");
        } else {
            create(&world, members, &options).await.expect("made");
        }
        let array = start(&world, &disks).await;
        let mut content = Content::new(&array, 3);
        content.write_some(&array, 40).await;
        array.stop().await.expect("stopped");
        content.bytes
    });
    let content = ran.expect("it ends");
    (sim.snapshot().leave(), content)
}

/// Writes by chance into what a growth has added.
async fn fill_what_is_new(array: &Array<SimWorld>, content: &mut Content) {
    let before = content.bytes.len() as u64;
    content.bytes.resize(array.size_bytes() as usize, 0);
    let stripe = array.geometry().stripe_blocks() * BLOCK;
    let end = array.size_bytes();
    // Over the border, whole stripes, parts, and the last block.
    let ranges = [
        (before - BLOCK, 3 * BLOCK),
        (before + stripe, 2 * stripe),
        ((before + end) / 2 / BLOCK * BLOCK, 5 * BLOCK),
        (end - BLOCK, BLOCK),
        (end - 3 * stripe, stripe),
    ];
    for (i, (at, len)) in ranges.into_iter().enumerate() {
        let value = 100 + i as u8;
        array.write(at, Slice::copy_of(&vec![value; len as usize]), false).await.expect("written");
        content.bytes[at as usize..(at + len) as usize].fill(value);
    }
}

/// It grows while it is written, is used, grows again after a restart, and any m disks may be lost.
#[test]
fn an_array_grows_and_any_m_disks_may_be_lost_then() {
    for (shape, (level, k, m, _)) in SHAPES.into_iter().enumerate() {
        for journals in [0, m + 1] {
            if journals > 0 && ![1, 3].contains(&shape) {
                continue;
            }
            let case = format!("{level:?} {k}+{m}, {journals} journal devices");
            let (mut from, mut bytes) = prepared(shape, journals);
            for size in [MEMBER + 5 * MIB + 12_288, MEMBER + 23 * MIB] {
                from = enlarged(from, size);
                let sim = Simulation::new(12, &from);
                let (world, disks) = (sim.world(), sim.disks());
                let ran = sim.run(LIMIT, async move {
                    let array = start(&world, &disks).await;
                    let mut content = Content::new(&array, size);
                    content.bytes = bytes;
                    let before = array.size_bytes();
                    let busy = Rc::new(Cell::new(true));
                    let (own, other) = (busy.clone(), array.clone());
                    world.spawn("grow", async move {
                        other.start_scrub(true).await.expect("a scrub is begun");
                        let grown = other.grow_size().await.expect("it grows");
                        assert!(grown.before == before && grown.after > before);
                        own.set(false);
                    });
                    let mut rounds = 0;
                    while busy.get() || rounds < 3 {
                        content.write_some(&array, 5).await;
                        rounds += 1;
                    }
                    assert!(array.size_bytes() > before + k as u64 * 4 * MIB);
                    fill_what_is_new(&array, &mut content).await;
                    array.scrub_ended().await.expect("scrubbed");
                    array.destage_all().await.expect("destaged");
                    array.start_scrub(true).await.expect("a scrub is begun");
                    array.scrub_ended().await.expect("scrubbed");
                    let scrub = array.status().scrub.expect("it was scrubbed");
                    assert_eq!(scrub.mismatches, 0);
                    array.stop().await.expect("stopped");
                    content.bytes
                });
                bytes = ran.unwrap_or_else(|e| panic!("{case}: {e}"));
                from = sim.snapshot().leave();
                check_at_rest(&from.disks, &bytes).unwrap_or_else(|e| panic!("{case}: {e}"));
            }
            let current: Vec<usize> = (0..k + m).collect();
            whole_without_any(&from, &current, m, &bytes, &case);
        }
    }
}

/// Cut at its events: the array of before or the larger one, which can grow, or is whole.
#[test]
fn a_growth_that_is_cut_has_happened_or_not() {
    for shape in [1, 3, 4] {
        let (level, k, m, _) = SHAPES[shape];
        let (from, bytes) = prepared(shape, 0);
        let from = enlarged(from, MEMBER + 9 * MIB);
        let sim = Simulation::new(13, &from);
        let mark = sim.mark();
        sim.record();
        let (world, disks) = (sim.world(), sim.disks());
        let wanted = bytes.clone();
        let ran = sim.run(LIMIT, async move {
            let array = start(&world, &disks).await;
            let mut content = Content::new(&array, 4);
            content.bytes = wanted;
            mark.set(1);
            array.grow_size().await.expect("it grows");
            mark.set(2);
            fill_what_is_new(&array, &mut content).await;
            array.destage_all().await.expect("destaged");
            mark.set(3);
            content.write_some(&array, 4).await;
            array.stop().await.expect("stopped");
            content.bytes
        });
        let after = ran.expect("it ends");
        let states = sim.recorded();
        assert!(states.iter().filter(|s| s.mark == 1).count() > 20, "it takes some events");
        let (mut old, mut new) = (0, 0);
        // Every event of the growth, and some of those that follow.
        let tried =
            states.iter().enumerate().filter(|(i, s)| s.mark == 1 || s.mark == 2 && i % 5 == 0);
        for (i, state) in tried {
            let mode = [Mode::PowerNone, Mode::PowerTorn(i as u64), Mode::Process(i as u64)][i % 3];
            let case = format!("{level:?}, cut at event {} ({mode})", state.event);
            let left = state.survive(mode);
            let lost: Vec<usize> = if i % 2 == 0 { vec![i % (k + m)] } else { Vec::new() };
            let sim = Simulation::new(14, &left.without(&lost));
            let (world, disks) = (sim.world(), sim.disks());
            let whole = lost.is_empty();
            let ran = sim.run(LIMIT, async move {
                let array = start(&world, &disks).await;
                let size = array.size_bytes();
                if whole {
                    // It can grow now if it has not.
                    let again = array.grow_size().await.map_err(|e| e.kind);
                    assert!(again.is_ok() || again == Err(ErrorKind::TooSmall));
                }
                let found = all_of(&array).await;
                array.stop().await.expect("stopped");
                (size, found)
            });
            let (size, found) = ran.unwrap_or_else(|e| panic!("{case}: {e}"));
            if size == bytes.len() as u64 {
                assert!(state.mark == 1, "{case}: what had grown is small again");
                old += 1;
            } else {
                assert_eq!(size, after.len() as u64, "{case}");
                new += 1;
            }
            // What was there before the growth is as it was, but for what was written since.
            let same = bytes.len() - BLOCK as usize;
            assert!(found[..same] == bytes[..same], "{case}: the old content");
            if state.mark == 1 {
                assert!(
                    found[bytes.len()..].iter().all(|b| *b == 0),
                    "{case}: what is new is zeros"
                );
            }
        }
        assert!(old > 5 && new > 5, "{old} of before, {new} of the larger one");
    }
}

async fn refusal(array: &Array<SimWorld>) -> (ErrorKind, String) {
    let e = array.grow_size().await.expect_err("it is refused");
    assert!(e.message.contains("Nothing was written."), "{}", e.message);
    (e.kind, e.message)
}

/// Disks that are too small, and arrays that are not whole: refused, and nothing is written.
#[test]
fn what_cannot_grow_is_refused_and_nothing_is_written() {
    let (from, _) = prepared(3, 0);
    let grow = |from: &Survivors, before: fn(Array<SimWorld>, Vec<SimDisk>) -> Done| {
        let sim = Simulation::new(15, from);
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            let array = start(&world, &disks[..6]).await;
            before(array.clone(), disks).await;
            let superblock = array.status().epoch;
            let found = refusal(&array).await;
            assert_eq!(array.status().epoch, superblock, "no epoch was made");
            found
        });
        ran.expect("it ends")
    };
    let nothing: fn(Array<SimWorld>, Vec<SimDisk>) -> Done = |_, _| Box::pin(async {});
    let (kind, text) = grow(&from, nothing);
    assert_eq!(kind, ErrorKind::TooSmall);
    assert!(text.contains("bytes are in use") || text.contains("are in use"), "{text}");
    // All but one are larger: it is named.
    let mut one_is_small = enlarged(from.clone(), MEMBER + 9 * MIB);
    one_is_small.disks[4] = from.disks[4].clone();
    let (kind, text) = grow(&one_is_small, nothing);
    assert_eq!(kind, ErrorKind::TooSmall);
    assert!(text.contains("/sim/disk4"), "{text}");
    // A member is out.
    let large = enlarged(from.clone(), MEMBER + 9 * MIB);
    let (kind, text) = grow(&large, |array, _| {
        Box::pin(async move { array.fail_member(MemberIndex(2)).await.expect("failed") })
    });
    assert_eq!(kind, ErrorKind::Failed);
    assert!(text.contains("Member 2 (/sim/disk2) is failed"), "{text}");
    // A spare is too small for the larger array.
    let mut with_spare = large.clone();
    with_spare.disks.extend(Survivors::new(7, MEMBER).disks.drain(6..));
    let (kind, text) = grow(&with_spare, |array, disks| {
        Box::pin(async move {
            array.add_disk(disks[6].clone()).await.expect("added");
        })
    });
    assert_eq!(kind, ErrorKind::TooSmall);
    assert!(text.contains("/sim/disk6"), "{text}");
}

type Done = std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// A member of before the growth that comes back is known, and is too small for its place.
#[test]
fn a_disk_that_was_replaced_by_a_larger_one_is_too_small_to_come_back() {
    let (level, k, m, checksums) = SHAPES[1];
    let n = k + m;
    let mut from = Survivors::new(n + 1, MEMBER);
    from = enlarged(from, MEMBER);
    (1..=n).for_each(|i| from.disks[i].enlarge(MEMBER + 9 * MIB));
    let sim = Simulation::new(16, &from);
    let (world, disks) = (sim.world(), sim.disks());
    let ran = sim.run(LIMIT, async move {
        create(&world, &disks[..n], &made(level, k, m, checksums)).await.expect("made");
        let array = start(&world, &disks[..n]).await;
        let mut content = Content::new(&array, 5);
        content.write_some(&array, 20).await;
        assert_eq!(refusal(&array).await.0, ErrorKind::TooSmall);
        array.replace_member(MemberIndex(0), Ok(disks[n].clone())).await.expect("replaced");
        let (kind, text) = refusal(&array).await;
        assert_eq!(kind, ErrorKind::Failed, "{text}");
        array.rebuilt().await.expect("rebuilt");
        array.grow_size().await.expect("it grows");
        fill_what_is_new(&array, &mut content).await;
        let back = array.add_disk(disks[0].clone()).await.expect_err("it is too small");
        assert_eq!(back.kind, ErrorKind::TooSmall);
        assert!(all_of(&array).await == content.bytes);
        array.stop().await.expect("stopped");
        // Beside the others it is left out.
        let array = start(&world, &disks).await;
        assert!(all_of(&array).await == content.bytes);
    });
    ran.expect("it ends");
}

/// So much larger that the map has one more root page, which nobody had written.
#[test]
fn a_map_that_needs_one_more_root_has_it() {
    let sim = Simulation::new(17, &Survivors::new(2, 31 << 30));
    let (world, disks) = (sim.world(), sim.disks());
    let ran = sim.run(LIMIT, async move {
        let options =
            evenkeel_raid::CreateOptions { chunk_bytes: 4096, ..made(Level::Raid1, 1, 1, false) };
        create(&world, &disks, &options).await.expect("made");
        let array = start(&world, &disks).await;
        array.write(0, Slice::copy_of(&[7; 4096]), false).await.expect("written");
        let roots = array.geometry().root_pages();
        array.stop().await.expect("stopped");
        roots
    });
    let roots = ran.expect("it ends");
    let from = enlarged(sim.snapshot().leave(), 34 << 30);
    let sim = Simulation::new(18, &from);
    let (world, disks) = (sim.world(), sim.disks());
    let ran = sim.run(LIMIT, async move {
        let array = start(&world, &disks).await;
        array.grow_size().await.expect("it grows");
        assert!(array.geometry().root_pages() > roots, "this is what is tried");
        let end = array.size_bytes() - BLOCK;
        array.write(end, Slice::copy_of(&[9; 4096]), false).await.expect("written");
        array.stop().await.expect("stopped");
        let options = StartOptions { read_only: true, ..StartOptions::default() };
        let array = Array::start(&world, &disks, &options, &|_| ()).await.expect("it starts");
        for (at, value) in [(0, 7), (end, 9), (end / 2 / BLOCK * BLOCK, 0)] {
            let (done, buf) = array.read(at, evenkeel_journal::Buf::new(4096)).await;
            done.expect("read");
            assert!(buf.iter().all(|b| *b == value));
        }
    });
    ran.expect("it ends");
}
