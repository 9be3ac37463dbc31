//! Spares that take places, members that come back or are replaced: what is on the disks afterwards,
//! whichever of them are lost then, and wherever it was cut.

use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::{Buf, MemberIndex, Slice};
use evenkeel_raid::codec::Level;
use evenkeel_raid::status::State;
use evenkeel_raid::{Ack, Added, Array, CreateOptions, StartOptions, create};
use evenkeel_tests::rng::Rng;
use evenkeel_tests::sim::{Mode, SimDisk, SimWorld, Simulation, Survivors, path_of};

/// Simulated time that a run may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(36_000);
const MIB: u64 = 1 << 20;
pub(crate) const BLOCK: u64 = 4096;
pub(crate) const CHUNK: u64 = 16384;
pub(crate) const MEMBER: u64 = 8 * MIB;

pub(crate) const SHAPES: [(Level, usize, usize, bool); 6] = [
    (Level::Raid1, 1, 1, true),
    (Level::Raid5, 2, 1, true),
    (Level::Raid5, 4, 1, false),
    (Level::Raid6, 4, 2, true),
    (Level::Evenodd, 3, 2, true),
    (Level::Rs, 3, 3, true),
];

pub(crate) fn made(level: Level, data: usize, parity: usize, checksums: bool) -> CreateOptions {
    CreateOptions {
        name: "a".into(),
        level,
        data,
        parity,
        chunk_bytes: CHUNK,
        log_bytes: Some(4096),
        cache_bytes: Some(MIB),
        checksums,
        force: false,
    }
}

pub(crate) async fn start(world: &SimWorld, disks: &[SimDisk]) -> Array<SimWorld> {
    let options = StartOptions { ack: Ack::Durable, ..StartOptions::default() };
    Array::start(world, disks, &options, &|_| ()).await.expect("it starts")
}

/// Writes by chance, and what the device holds then.
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    rng: Rng,
}

impl Content {
    pub(crate) fn new(array: &Array<SimWorld>, seed: u64) -> Content {
        Content { bytes: vec![0; array.size_bytes() as usize], rng: Rng::new(seed) }
    }

    pub(crate) async fn write_some(&mut self, array: &Array<SimWorld>, count: usize) {
        let stripe = array.geometry().stripe_blocks() * BLOCK;
        for i in 0..count {
            let len = if i % 3 == 0 { stripe } else { (self.rng.below(6) + 1) * BLOCK };
            let at = self.rng.below((self.bytes.len() as u64 - len) / BLOCK) * BLOCK;
            let at = if i % 3 == 0 { at / stripe * stripe } else { at };
            let value = self.rng.below(255) as u8 + 1;
            let data = Slice::copy_of(&vec![value; len as usize]);
            array.write(at, data, false).await.expect("written");
            self.bytes[at as usize..(at + len) as usize].fill(value);
            if i % 5 == 0 {
                array.destage_all().await.expect("destaged");
            }
        }
    }
}

pub(crate) async fn all_of(array: &Array<SimWorld>) -> Vec<u8> {
    let mut all = Vec::new();
    while (all.len() as u64) < array.size_bytes() {
        let len = MIB.min(array.size_bytes() - all.len() as u64);
        let (done, buf) = array.read(all.len() as u64, Buf::new(len as usize)).await;
        done.expect("it can be read");
        all.extend_from_slice(&buf);
    }
    all
}

/// Every way to choose `most` or fewer of these.
fn subsets(of: &[usize], most: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for one in of {
        let more: Vec<Vec<usize>> =
            all.iter().filter(|s| s.len() < most).map(|s| [&s[..], &[*one]].concat()).collect();
        all.extend(more);
    }
    all
}

/// Starts without any m of the current disks: the content is there each time.
pub(crate) fn whole_without_any(
    from: &Survivors,
    current: &[usize],
    m: usize,
    content: &[u8],
    case: &str,
) {
    for lost in subsets(current, m) {
        let sim = Simulation::new(9, &from.without(&lost));
        let (world, disks) = (sim.world(), sim.disks());
        let found = sim.run(LIMIT, async move {
            let options = StartOptions { accept_missing: true, ..StartOptions::default() };
            let array = Array::start(&world, &disks, &options, &|_| ()).await;
            let array = array.map_err(|e| e.message)?;
            Ok::<_, String>(all_of(&array).await)
        });
        let found = found.expect("it ends").unwrap_or_else(|e| panic!("{case} {lost:?}: {e}"));
        let at = found.iter().zip(content).position(|(a, b)| a != b);
        assert_eq!(at, None, "{case}: without {lost:?}");
    }
}

/// A spare is there, a member fails under load: the spare takes its place by itself. Afterwards any m
/// disks may be lost.
#[test]
fn a_spare_takes_the_place_of_a_member_that_fails() {
    for (level, k, m, checksums) in SHAPES {
        let case = format!("{level:?} {k}+{m}");
        let n = k + m;
        let sim = Simulation::new(3, &Survivors::new(n + 1, MEMBER));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks[..n], &made(level, k, m, checksums)).await.expect("made");
            let array = start(&world, &disks[..n]).await;
            let mut content = Content::new(&array, 7);
            content.write_some(&array, 60).await;
            let added = array.add_disk(disks[n].clone()).await.expect("added");
            assert_eq!(added, Added::Spare(MemberIndex(n as u8)));
            assert_eq!(array.status().state, State::Healthy);
            array.rebuilt().await.expect("nothing to do");
            content.write_some(&array, 10).await;
            array.fail_member(MemberIndex(1)).await.expect("failed");
            assert_eq!(array.can_lose(), m - 1);
            content.write_some(&array, 30).await;
            array.rebuilt().await.expect("rebuilt");
            let status = array.status();
            assert_eq!((status.state, array.can_lose()), (State::Healthy, m));
            assert_eq!((status.members.len(), &status.members[1].path), (n, &path_of(n)));
            content.write_some(&array, 10).await;
            (array, content.bytes)
        });
        let (array, content) = ran.expect("it ends");
        let current: Vec<usize> = (0..=n).filter(|d| *d != 1).collect();
        // As if killed now, and as if the power failed now.
        for mode in [Mode::Process(4), Mode::PowerNone] {
            whole_without_any(&sim.snapshot().survive(mode), &current, m, &content, &case);
        }
        let stopped = sim.run(LIMIT, async move { array.stop().await });
        stopped.expect("it ends").expect("stopped");
        whole_without_any(&sim.snapshot().leave(), &current, m, &content, &case);
    }
}

/// What is done to the members while the others hold the content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// One fails, and another disk is added.
    Add,
    /// One is replaced while it works.
    Replace,
    /// One fails for a while and comes back.
    Back,
    /// As many fail as may, and as many are added.
    Many,
}

/// Does it, and waits for its end. Gives the disks that are out then.
async fn change(
    array: &Array<SimWorld>,
    disks: &[SimDisk],
    how: How,
    content: &mut Content,
) -> Vec<usize> {
    let g = array.geometry();
    let n = g.members();
    match how {
        How::Add => {
            array.fail_member(MemberIndex(0)).await.expect("failed");
            content.write_some(array, 6).await;
            array.add_disk(disks[n].clone()).await.expect("added");
            vec![0]
        }
        How::Replace => {
            array.replace_member(MemberIndex(0), Ok(disks[n].clone())).await.expect("replaced");
            vec![0]
        }
        How::Back => {
            array.fail_member(MemberIndex(0)).await.expect("failed");
            content.write_some(array, 6).await;
            let back = array.add_disk(disks[0].clone()).await.expect("added");
            assert_eq!(back, Added::Back(MemberIndex(0)));
            Vec::new()
        }
        How::Many => {
            for i in 0..g.parity {
                array.fail_member(MemberIndex(i as u8)).await.expect("failed");
            }
            for spare in &disks[n..n + g.parity] {
                array.add_disk(spare.clone()).await.expect("added");
            }
            (0..g.parity).collect()
        }
    }
}

/// Each of these, cut by a crash at its events: a start goes on with it, and in the end any m disks
/// may be lost.
#[test]
fn what_is_cut_goes_on_and_ends() {
    for (how, shape) in [How::Add, How::Replace, How::Back, How::Many].into_iter().zip([1, 3, 1, 3])
    {
        let (level, k, m, checksums) = SHAPES[shape];
        let n = k + m;
        let sim = Simulation::new(5, &Survivors::new(n + m, MEMBER));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            create(&world, &disks[..n], &made(level, k, m, checksums)).await.expect("made");
            let array = start(&world, &disks[..n]).await;
            let mut content = Content::new(&array, 8);
            content.write_some(&array, 30).await;
            array.stop().await.expect("stopped");
            content
        });
        let mut content = ran.expect("it ends");
        let before = sim.snapshot().leave();

        let sim = Simulation::new(6, &before);
        let mark = sim.mark();
        sim.record();
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            let array = start(&world, &disks[..n]).await;
            let out = change(&array, &disks, how, &mut content).await;
            mark.set(1);
            array.rebuilt().await.expect("rebuilt");
            assert_eq!(array.can_lose(), m, "{how:?}");
            (out, content.bytes)
        });
        let (out, content) = ran.expect("it ends");
        let current: Vec<usize> = (0..n + m).filter(|d| !out.contains(d)).collect();
        let states = sim.recorded();
        let states: Vec<_> = states.into_iter().filter(|s| s.mark == 1).collect();
        assert!(states.len() > 50, "{how:?}: {} states", states.len());
        let content = Rc::new(content);
        for (i, state) in states.iter().enumerate().step_by((states.len() / 40).max(1)) {
            let mode = [Mode::PowerNone, Mode::PowerTorn(i as u64), Mode::Process(i as u64)][i % 3];
            let case = format!("{how:?}, cut at event {} ({mode})", state.event);
            let sim = Simulation::new(7, &state.survive(mode));
            let (world, disks) = (sim.world(), sim.disks());
            let wanted = content.clone();
            let what = case.clone();
            let ran = sim.run(LIMIT, async move {
                let array = start(&world, &disks).await;
                array.rebuilt().await.expect("rebuilt");
                assert_eq!(array.can_lose(), m, "{what}");
                assert!(all_of(&array).await == *wanted, "{what}");
                array.stop().await.expect("stopped");
            });
            ran.unwrap_or_else(|e| panic!("{case}: {e}"));
            let after = sim.snapshot().leave();
            let few: Vec<usize> = current.iter().copied().take(n).collect();
            if i % 5 == 0 {
                whole_without_any(&after, &few, m, &content, &case);
            }
        }
    }
}
