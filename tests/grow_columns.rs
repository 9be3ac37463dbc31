//! Arrays that take more data columns: their stripes are moved while they are used, and wherever that is
//! cut, whichever disks are lost then, everything is there.

use std::cell::Cell;
use std::rc::Rc;

use evenkeel_journal::{MemberIndex, Slice};
use evenkeel_raid::codec::Level;
use evenkeel_raid::{
    Ack, Added, Array, ErrorKind, StartOptions, create, create_with_journals, widen,
};
use evenkeel_tests::checkers::parity::check_at_rest;
use evenkeel_tests::sim::{Mode, SimDisk, SimWorld, Simulation, Survivors};

use crate::rebuild::{
    BLOCK, Content, LIMIT, MEMBER, SHAPES, all_of, made, start, whole_without_any,
};

const MIB: u64 = 1 << 20;

/// A shape with checksums or without, its journal devices, and how many columns it gets.
type Case = (Level, usize, usize, bool, usize, usize);

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (i, (level, k, m, sums)) in SHAPES.into_iter().enumerate().skip(1) {
        all.push((level, k, m, sums, 0, 1 + i % 3));
    }
    all.push((Level::Raid5, 2, 1, true, 2, 2));
    all.push((Level::Raid6, 3, 2, false, 3, 1));
    all
}

/// An array of its members, then journal devices; what it holds takes `share` of eight parts.
async fn filled(world: &SimWorld, disks: &[SimDisk], case: Case, share: u64) -> Content {
    let (level, k, m, sums, journals, _) = case;
    let options = made(level, k, m, sums);
    let (members, devices) = disks.split_at(k + m);
    if journals > 0 {
        create_with_journals(world, members, devices, &[], &options).await.expect("made");
    } else {
        create(world, members, &options).await.expect("made");
    }
    let array = start(world, disks).await;
    let mut content = Content::new(&array, 3);
    let stripe = array.geometry().stripe_blocks() * BLOCK;
    for nth in 0..array.size_bytes() / stripe {
        if nth % 8 < share {
            let value = nth as u8 | 1;
            let data = Slice::copy_of(&vec![value; stripe as usize]);
            array.write(nth * stripe, data, false).await.expect("written");
            content.bytes[(nth * stripe) as usize..][..stripe as usize].fill(value);
        }
    }
    content.write_some(&array, 40).await;
    array.stop().await.expect("stopped");
    content
}

/// Has disks of a running array become columns: it stops, and is started again.
async fn become_wider(
    world: &SimWorld,
    array: &Array<SimWorld>,
    disks: &[SimDisk],
    new: &[SimDisk],
) -> Array<SimWorld> {
    let mut spares = Vec::new();
    for disk in new {
        match array.add_disk(disk.clone()).await.expect("added") {
            Added::Spare(index) => spares.push(index),
            Added::Back(index) => panic!("{index} was never a member"),
        }
    }
    let wider = array.prepare_to_widen(&spares).await.expect("prepared");
    let status = array.status();
    let uuid = |m: &MemberIndex| {
        let found = status.members.iter().find(|s| s.index == m.0).expect("in the table");
        u128::from_str_radix(&found.uuid.replace('-', ""), 16).expect("a UUID")
    };
    let more: Vec<u128> = spares.iter().map(uuid).collect();
    array.stop().await.expect("stopped");
    let all = [disks, new].concat();
    let shape = widen(world, &all, &more, None).await.expect("it gets wider");
    assert_eq!((shape.data, shape.stripes), (wider.data, wider.stripes), "as it was prepared");
    start(world, &all).await
}

/// It is written while it grows, whole and in parts; then it has its new size, and any m disks may be lost.
#[test]
fn an_array_gets_more_columns_and_any_m_disks_may_be_lost_then() {
    for (i, case) in cases().into_iter().enumerate() {
        let (level, k, m, sums, journals, more) = case;
        let name = format!("{level:?} {k}+{m} by {more}, checksums {sums}, {journals} journals");
        let n = k + m + journals;
        let share = [8, 3, 1, 0][i % 4];
        let sim = Simulation::new(11, &Survivors::new(n + more + 1, MEMBER));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            let mut content = filled(&world, &disks[..n], case, share).await;
            let array = start(&world, &disks[..n]).await;
            let before = array.size_bytes();
            let array = become_wider(&world, &array, &disks[..n], &disks[n..n + more]).await;
            assert!(array.is_growing() || share == 0);
            assert_eq!(array.size_bytes(), before, "until all is moved");
            content.write_some(&array, 60).await;
            assert!(all_of(&array).await[..before as usize] == content.bytes[..], "while it grows");
            array.grown().await.expect("it ends");
            let after = array.size_bytes();
            assert!(after > before + before * more as u64 / k as u64 * 9 / 10);
            assert!(array.status().grow.is_none() && !array.is_growing());
            assert!(all_of(&array).await[..before as usize] == content.bytes[..], "grown");
            content.bytes.resize(after as usize, 0);
            content.write_some(&array, 60).await;
            let stripe = array.geometry().stripe_blocks() * BLOCK;
            let last = Slice::copy_of(&vec![77; stripe as usize]);
            array.write(after - stripe, last, false).await.expect("written");
            content.bytes[(after - stripe) as usize..].fill(77);
            array.destage_all().await.expect("destaged");
            array.start_scrub(true).await.expect("a scrub is begun");
            array.scrub_ended().await.expect("scrubbed");
            assert_eq!(array.status().scrub.expect("it was scrubbed").mismatches, 0);
            array.stop().await.expect("stopped");
            content.bytes
        });
        let bytes = ran.unwrap_or_else(|e| panic!("{name}: {e}"));
        let from = sim.snapshot().leave();
        check_at_rest(&from.disks, &bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let current: Vec<usize> = (0..k + m).chain(n..n + more).collect();
        whole_without_any(&from, &current, m, &bytes, &name);
    }
}

/// Cut anywhere, from the adding of the disks to the end of the growth: with some disks lost the content is
/// there, and with all of them the growth goes on.
#[test]
fn a_growth_that_is_cut_goes_on_or_has_not_begun() {
    for (nth, case) in [(1, 1, true), (3, 2, true), (2, 1, false)].into_iter().enumerate() {
        let (shape, more, sums) = case;
        let (level, k, m, _) = SHAPES[shape];
        let n = k + m;
        let case = (level, k, m, sums, 0, more);
        let sim = Simulation::new(13, &Survivors::new(n + more, MEMBER));
        let mark = sim.mark();
        let at = Rc::new(Cell::new(0));
        let (world, disks, began) = (sim.world(), sim.disks(), at.clone());
        sim.record();
        let ran = sim.run(LIMIT, async move {
            let content = filled(&world, &disks[..n], case, 2).await;
            let array = start(&world, &disks[..n]).await;
            began.set(world.events());
            mark.set(1);
            let array = become_wider(&world, &array, &disks[..n], &disks[n..]).await;
            mark.set(2);
            array.grown().await.expect("it ends");
            mark.set(3);
            let size = array.size_bytes();
            array.stop().await.expect("stopped");
            (content.bytes, size)
        });
        let (bytes, size) = ran.expect("it ends");
        let states = sim.recorded();
        let (mut old, mut growing, mut new) = (0, 0, 0);
        let step = [12, 25, 25][nth];
        let tried = states.iter().enumerate().filter(|(_, s)| s.mark > 0);
        for (i, state) in tried.filter(|(i, s)| s.mark == 1 && i % 6 == 0 || i % step == 0) {
            let mode = [Mode::PowerNone, Mode::PowerTorn(i as u64), Mode::Process(i as u64)][i % 3];
            let name = format!("{level:?}, cut at event {} ({mode})", state.event);
            let left = state.survive(mode);
            let lost: Vec<usize> = match i / 3 % 4 {
                0 => vec![i % n],
                1 => (0..m).map(|j| (i + j * 2) % n).collect(),
                _ => Vec::new(),
            };
            let left = left.without(&lost);
            let sim = Simulation::new(14, &left);
            let (world, disks) = (sim.world(), sim.disks());
            let wanted = bytes.clone();
            let whole = lost.is_empty();
            let ran = sim.run(LIMIT, async move {
                let options = StartOptions { ack: Ack::Durable, ..StartOptions::default() };
                let array = Array::start(&world, &disks, &options, &|_| ()).await;
                let array = array.map_err(|e| e.message)?;
                let (was, grows) = (array.size_bytes(), array.is_growing());
                if all_of(&array).await[..wanted.len()] != wanted[..] {
                    return Err("the content at the start".to_owned());
                }
                array.grown().await.map_err(|e| e.message)?;
                if all_of(&array).await[..wanted.len()] != wanted[..] {
                    return Err("the content at the end of the growth".to_owned());
                }
                let is = array.size_bytes();
                if whole {
                    array.stop().await.map_err(|e| e.message)?;
                }
                Ok((was, is, grows))
            });
            let ran = ran.unwrap_or_else(|e| panic!("{name} without {lost:?}: {e}"));
            let (was, is, grows) = ran.unwrap_or_else(|e| panic!("{name} without {lost:?}: {e}"));
            match (grows, is == size) {
                (true, true) => growing += 1,
                (false, true) if was == size => new += 1,
                (false, false) if is == bytes.len() as u64 => old += 1,
                _ => panic!("{name}: from {was} to {is} bytes, growing: {grows}"),
            }
            if whole {
                let mut held = bytes.clone();
                held.resize(is as usize, 0);
                let left = sim.snapshot().leave();
                check_at_rest(&left.disks, &held).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
        let counts = format!("{old} of before, {growing} growing, {new} of the wider one");
        assert!(old > 5 && growing > 50 && new > 0, "{counts}");
    }
}

/// Members fail while it grows, as many as may: it goes on, and what is out is filled when it has ended.
#[test]
fn members_that_fail_while_it_grows_are_filled_afterwards() {
    for (level, k, m, sums) in [(Level::Raid5, 2, 1, true), (Level::Raid6, 3, 2, true)] {
        let n = k + m;
        let case = (level, k, m, sums, 0, 1);
        let sim = Simulation::new(17, &Survivors::new(n + 1 + m, MEMBER));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            let mut content = filled(&world, &disks[..n], case, 8).await;
            let array = start(&world, &disks[..n]).await;
            let array = become_wider(&world, &array, &disks[..n], &disks[n..=n]).await;
            for i in 0..m {
                array.fail_member(MemberIndex(i as u8)).await.expect("failed");
                array.add_disk(disks[n + 1 + i].clone()).await.expect("added");
            }
            assert!(array.is_growing());
            let refused = array.start_scrub(false).await.expect_err("it grows");
            assert_eq!(refused.kind, ErrorKind::Failed);
            let refused = array.grow_size().await.expect_err("it is not whole");
            assert_eq!(refused.kind, ErrorKind::Failed);
            content.write_some(&array, 40).await;
            array.rebuilt().await.expect("rebuilt");
            assert!(!array.is_growing(), "first it grew");
            assert_eq!(array.can_lose(), m);
            let old = content.bytes.len();
            assert!(all_of(&array).await[..old] == content.bytes[..]);
            content.bytes.resize(array.size_bytes() as usize, 0);
            array.stop().await.expect("stopped");
            content.bytes
        });
        let bytes = ran.expect("it ends");
        let from = sim.snapshot().leave();
        check_at_rest(&from.disks, &bytes).expect("it is right");
        let current: Vec<usize> = (m..n + 1 + m).collect();
        whole_without_any(&from, &current, m, &bytes, &format!("{level:?}"));
    }
}

/// Once more by columns, then by larger members; by columns after that is refused.
#[test]
fn larger_members_come_after_columns() {
    let case = (Level::Raid5, 2, 1, true, 0, 1);
    let sim = Simulation::new(18, &Survivors::new(5, MEMBER));
    let (world, disks) = (sim.world(), sim.disks());
    let ran = sim.run(LIMIT, async move {
        let mut content = filled(&world, &disks[..3], case, 4).await;
        let mut array = start(&world, &disks[..3]).await;
        for n in [3, 4] {
            array = become_wider(&world, &array, &disks[..n], &disks[n..=n]).await;
            array.grown().await.expect("it ends");
            content.bytes.resize(array.size_bytes() as usize, 0);
            content.write_some(&array, 30).await;
        }
        array.stop().await.expect("stopped");
        content.bytes
    });
    let mut bytes = ran.expect("it ends");
    let mut from = sim.snapshot().leave();
    from.disks.iter_mut().for_each(|d| d.enlarge(MEMBER + 6 * MIB));
    let sim = Simulation::new(19, &from);
    let (world, disks) = (sim.world(), sim.disks());
    let ran = sim.run(LIMIT, async move {
        let array = start(&world, &disks).await;
        array.grow_size().await.expect("it grows");
        assert!(all_of(&array).await[..bytes.len()] == bytes[..]);
        bytes.resize(array.size_bytes() as usize, 0);
        let mut content = Content::new(&array, 6);
        content.bytes = bytes;
        content.write_some(&array, 30).await;
        array.stop().await.expect("stopped");
        content.bytes
    });
    let bytes = ran.expect("it ends");
    let mut from = sim.snapshot().leave();
    check_at_rest(&from.disks, &bytes).expect("it is right");
    whole_without_any(&from, &[0, 1, 2, 3, 4], 1, &bytes, "all");
    from.disks.extend(Survivors::new(6, MEMBER + 6 * MIB).disks.drain(5..));
    let sim = Simulation::new(20, &from);
    let (world, disks) = (sim.world(), sim.disks());
    let ran = sim.run(LIMIT, async move {
        let array = start(&world, &disks[..5]).await;
        let added = array.add_disk(disks[5].clone()).await.expect("added");
        let Added::Spare(spare) = added else { panic!("it was never a member") };
        array.prepare_to_widen(&[spare]).await.map(|_| ()).map_err(|e| e.kind)
    });
    assert_eq!(ran.expect("it ends"), Err(ErrorKind::Unsupported));
}
