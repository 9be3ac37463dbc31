//! Transactions in the simulator: what they take and refuse, what others see of them, what is left
//! of one that is larger than any request. Their crashes at every event, with other requests beside
//! them, are the workloads `transaction` and `transaction-fail` of the crash enumeration.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::{Buf, Slice, World};
use evenkeel_raid::codec::Level;
use evenkeel_raid::{
    Ack, Array, CreateOptions, RequestError, StartOptions, TransactionError, TransactionSize,
    create,
};
use evenkeel_tests::evenkeel::{Evenkeel, setups};
use evenkeel_tests::oracle::{Floor, Oracle};
use evenkeel_tests::rng::Rng;
use evenkeel_tests::sim::{Mode, SimDisk, SimWorld, Simulation, Survivors};
use evenkeel_tests::subject::{How, Setup, Subject};

/// Simulated time that a run may take.
const LIMIT: Duration = Duration::from_secs(3600);
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 4096;

async fn opened(world: &SimWorld, disks: &[SimDisk], setup: &Setup, how: How) -> Evenkeel {
    Evenkeel::create(world, disks, setup).await.expect("made");
    Evenkeel::start(world, disks, setup, how).await.expect("it starts")
}

/// Runs a job on a new array of this shape.
fn on_array<T: 'static, F: Future<Output = T> + 'static>(
    setup: &Setup,
    seed: u64,
    job: impl FnOnce(SimWorld, Array<SimWorld>) -> F + 'static,
) -> T {
    let sim = Simulation::new(seed, &Survivors::new(setup.members(), setup.member));
    let (world, disks, shape) = (sim.world(), sim.disks(), setup.clone());
    let ran = sim.run(LIMIT, async move {
        let array = opened(&world, &disks, &shape, How::default()).await.array().clone();
        job(world, array).await
    });
    ran.unwrap_or_else(|stop| panic!("{} seed {seed}: {stop}", setup.name))
}

async fn content(array: &Array<SimWorld>) -> Vec<u8> {
    let (done, buf) = array.read(0, Buf::new(array.size_bytes() as usize)).await;
    done.expect("read");
    buf.to_vec()
}

fn filled(value: u8, bytes: u64) -> Slice {
    Slice::copy_of(&vec![value; bytes as usize])
}

/// Up to the bound everything is taken, and committed on an array that is full of dirty blocks;
/// one block more is refused, and the transaction is as it was.
#[test]
fn the_bound_is_kept_by_the_write_and_never_by_the_commit() {
    for setup in setups() {
        for seed in 0..4 {
            let (short_of_blocks, short_of_rows) =
                on_array(&setup, seed, move |world, array| async move {
                    let bound = array.transaction_bound();
                    let blocks = array.size_bytes() / BLOCK;
                    let mut rng = Rng::new(seed);
                    let (mut by_blocks, mut by_rows) = (0, 0);
                    for round in 0..12u8 {
                        // Others dirty whatever they can meanwhile.
                        let (other, at) = (array.clone(), rng.below(blocks - 3) * BLOCK);
                        world.spawn("other", async move {
                            for i in 0..6 {
                                let at = (at + i * 7 * BLOCK) % (other.size_bytes() - 3 * BLOCK);
                                other
                                    .write(at, filled(1, 3 * BLOCK), false)
                                    .await
                                    .expect("written");
                            }
                        });
                        // Scattered or in one run, until it is full.
                        let mut wanted = content(&array).await;
                        let mut tx = array.begin();
                        let from = rng.below(blocks);
                        let step = if rng.one_in(2) { 1 } else { 5 };
                        for i in 0..blocks {
                            let b = (from + i * step) % blocks;
                            let before = tx.size();
                            let data = vec![round + 10; 4096];
                            match tx.write(b * BLOCK, &data) {
                                Ok(()) => {
                                    assert!(bound.allows(&tx.size()));
                                    let at = (b * BLOCK) as usize;
                                    wanted[at..at + 4096].copy_from_slice(&data);
                                }
                                Err(TransactionError::TooLarge { wanted, bound: told }) => {
                                    assert_eq!((tx.size(), told), (before, bound));
                                    assert!(!bound.allows(&wanted));
                                    by_blocks += u32::from(wanted.blocks > bound.blocks);
                                    by_rows += u32::from(bound.rows_of(&wanted) > bound.rows);
                                }
                                Err(e) => panic!("{e}"),
                            }
                        }
                        let own: Vec<usize> =
                            (0..wanted.len()).filter(|i| wanted[*i] == round + 10).collect();
                        assert_eq!(own.len() as u64, tx.size().blocks * BLOCK);
                        tx.commit().await.expect("what was taken is committed");
                        array.destage_all().await.expect("destaged");
                        world.sleep(Duration::from_secs(5)).await;
                    }
                    (by_blocks, by_rows)
                });
            assert!(short_of_blocks + short_of_rows > 0, "{}: never full", setup.name);
        }
    }
}

#[test]
fn what_is_outside_the_device_is_refused() {
    for setup in setups() {
        on_array(&setup, 1, |_, array| async move {
            let size = array.size_bytes();
            let mut tx = array.begin();
            for (at, len) in [(size, 1), (size - 1, 2), (u64::MAX, 1), (u64::MAX - 3, 8)] {
                let refused = tx.write(at, &vec![1; len]);
                assert!(matches!(refused, Err(TransactionError::Outside { .. })), "{at} {len}");
            }
            assert_eq!(tx.size(), TransactionSize::default());
            tx.write(size, &[]).expect("nothing is nowhere outside");
            tx.write(size - 1, &[7]).expect("the last byte");
            tx.commit().await.expect("committed");
            let all = content(&array).await;
            assert_eq!(all.iter().rposition(|b| *b != 0), Some(all.len() - 1));
        });
    }
}

/// A dropped transaction has asked nothing of ring, log or members.
#[test]
fn dropping_costs_nothing() {
    for setup in setups() {
        on_array(&setup, 1, |_, array| async move {
            array.write(0, filled(1, 2 * BLOCK), true).await.expect("written");
            let state = |a: &Array<SimWorld>| {
                let (s, t) = (a.status(), a.traffic());
                (s.log.used_bytes, s.cache.dirty_bytes, t.writes, t.flushes)
            };
            let before = state(&array);
            let all = content(&array).await;
            for _ in 0..100 {
                let mut tx = array.begin();
                tx.write(0, &[9; 4096]).expect("taken");
                tx.write(2 * BLOCK + 5, &[9; 100]).expect("taken");
                drop(tx);
            }
            array.begin().commit().await.expect("nothing to commit");
            assert_eq!(state(&array), before);
            assert_eq!(content(&array).await, all);
        });
    }
}

/// Any ranges, also such that meet or overlap within a block: the later one counts, the rest of a
/// block stays, and the transaction reads what it will leave.
#[test]
fn it_leaves_and_reads_what_was_written_last() {
    for setup in setups() {
        for seed in 0..12 {
            on_array(&setup, seed, move |_, array| async move {
                let mut rng = Rng::new(seed);
                let bytes = 3 * array.geometry().stripe_blocks() * BLOCK;
                array.write(BLOCK, filled(200, 5 * BLOCK), false).await.expect("written");
                if rng.one_in(2) {
                    array.destage_all().await.expect("destaged");
                }
                for round in 1..5 {
                    let mut wanted = content(&array).await;
                    let mut tx = array.begin();
                    for i in 0..8 {
                        let at = rng.below(bytes - 9000);
                        let (at, len) = match rng.below(4) {
                            0 => (at / BLOCK * BLOCK, BLOCK),
                            1 => (at / BLOCK * BLOCK + 4000, 200),
                            _ => (at, 1 + rng.below(9000)),
                        };
                        let data = vec![round * 16 + i; len as usize];
                        if tx.write(at, &data).is_ok() {
                            wanted[at as usize..][..data.len()].copy_from_slice(&data);
                        }
                        let (from, len) = (rng.below(bytes), 1 + rng.below(20_000));
                        let (done, buf) = tx.read(from, Buf::new(len as usize)).await;
                        done.expect("read");
                        assert!(buf[..] == wanted[from as usize..][..len as usize]);
                    }
                    if rng.one_in(4) {
                        wanted = content(&array).await;
                        drop(tx);
                    } else {
                        tx.commit().await.expect("committed");
                    }
                    assert!(content(&array).await == wanted, "{} round {round}", seed);
                }
            });
        }
    }
}

/// Readers see none of it before its commit begins, and once one of them saw some of it, all of it.
#[test]
fn others_see_all_of_it_or_nothing() {
    let (mut saw_old, mut saw_new) = (0, 0);
    for setup in setups() {
        for seed in 0..6 {
            let seen = on_array(&setup, seed, move |world, array| async move {
                let stripe = array.geometry().stripe_blocks() * BLOCK;
                let places = [BLOCK, stripe, 2 * stripe + BLOCK, 3 * stripe];
                for s in 0..4 {
                    let old = filled(1, stripe);
                    array.write(s * stripe, old, false).await.expect("written");
                }
                array.destage_all().await.expect("destaged");
                let seen: Rc<RefCell<Vec<[u8; 4]>>> = Rc::default();
                let done = Rc::new(Cell::new(false));
                let (reader, log, end) = (array.clone(), Rc::clone(&seen), Rc::clone(&done));
                let clock = world.clone();
                world.spawn("reader", async move {
                    while !end.get() {
                        let mut values = [0; 4];
                        for (v, at) in values.iter_mut().zip(places) {
                            let (ok, buf) = reader.read(at, Buf::new(100)).await;
                            ok.expect("read");
                            assert!(buf.iter().all(|b| *b == buf[0]), "a torn block");
                            *v = buf[0];
                            clock.sleep(Duration::from_micros(30)).await;
                        }
                        log.borrow_mut().push(values);
                    }
                });
                let mut tx = array.begin();
                for at in places {
                    tx.write(at, &[2; 4096]).expect("taken");
                    tx.write(at + 100, &[2; 300]).expect("taken");
                    world.sleep(Duration::from_millis(2)).await;
                }
                assert!(seen.borrow().iter().all(|v| *v == [1; 4]), "seen before its commit");
                tx.commit().await.expect("committed");
                array.destage_all().await.expect("destaged");
                world.sleep(Duration::from_millis(2)).await;
                done.set(true);
                world.sleep(Duration::from_millis(20)).await;
                seen.take()
            });
            for values in seen {
                // One read after the other: the first new one is followed by new ones alone.
                let first = values.iter().position(|v| *v == 2).unwrap_or(4);
                assert!(values[..first].iter().all(|v| *v == 1), "{values:?}");
                assert!(values[first..].iter().all(|v| *v == 2), "{values:?}");
                saw_old += u32::from(first == 4);
                saw_new += u32::from(first == 0);
            }
        }
    }
    assert!(saw_old > 0 && saw_new > 0, "{saw_old} {saw_new}: never beside each other");
}

/// Transactions, writes, whole stripes and discards over the same stripes at the same time: there
/// is one order of all of them that gives the content, with each of them whole.
#[test]
fn with_other_requests_beside_it_there_is_one_order() {
    for setup in setups() {
        for seed in 0..25 {
            on_array(&setup, seed, move |world, array| async move {
                let oracle = Oracle::new(array.size_bytes(), world_mark());
                let stripe = array.geometry().stripe_blocks() * BLOCK;
                let ended = Rc::new(Cell::new(0));
                let clients = 6;
                for client in 0..clients {
                    let (array, oracle, ended) = (array.clone(), oracle.clone(), Rc::clone(&ended));
                    let mut rng = Rng::new(seed * 100 + client);
                    world.spawn("client", async move {
                        for _ in 0..5 {
                            let s = rng.below(3);
                            match rng.below(6) {
                                0 => {
                                    let (id, data) = oracle.write(s * stripe, stripe, false);
                                    let data = Slice::copy_of(&data);
                                    let done = array.write(s * stripe, data, false).await;
                                    oracle.answered(id, done.is_ok());
                                }
                                1 => {
                                    let len = (1 + rng.below(2)) * stripe;
                                    let id = oracle.discard(s * stripe, len, false);
                                    let done = array.discard(s * stripe, len, false).await;
                                    oracle.answered(id, done.is_ok());
                                }
                                2 => {
                                    let at = s * stripe + rng.below(2 * stripe);
                                    let len = 8 + rng.below(stripe);
                                    let (id, data) = oracle.write(at, len, false);
                                    let done = array.write(at, Slice::copy_of(&data), false).await;
                                    oracle.answered(id, done.is_ok());
                                }
                                3 => array.destage_all().await.expect("destaged"),
                                _ => {
                                    let odd = rng.one_in(2);
                                    let range = |r: &mut Rng, s: u64| {
                                        let b = r.below(stripe / BLOCK) * BLOCK;
                                        let off = if odd { r.below(4000) } else { 0 };
                                        (s * stripe + b + off, BLOCK - off)
                                    };
                                    let ranges: Vec<_> =
                                        (0..4).map(|s| range(&mut rng, s)).collect();
                                    let (id, parts) = oracle.together(&ranges);
                                    let mut tx = array.begin();
                                    for (at, data) in &parts {
                                        tx.write(*at, data).expect("taken");
                                    }
                                    oracle.answered(id, tx.commit().await.is_ok());
                                }
                            }
                        }
                        ended.set(ended.get() + 1);
                    });
                }
                while ended.get() < clients {
                    world.sleep(Duration::from_millis(5)).await;
                }
                assert_eq!(oracle.failures(), [""; 0]);
                let all = content(&array).await;
                let right = oracle.check_crash(&all, oracle.length(), Floor::Acknowledged);
                assert_eq!(right, Ok(()));
            });
        }
    }
}

fn world_mark() -> Rc<Cell<usize>> {
    Rc::new(Cell::new(0))
}

#[test]
fn a_read_only_or_stopping_array_commits_nothing() {
    for setup in setups() {
        let sim = Simulation::new(1, &Survivors::new(setup.members(), setup.member));
        let (world, disks) = (sim.world(), sim.disks());
        let ran = sim.run(LIMIT, async move {
            let device = opened(&world, &disks, &setup, How::default()).await;
            let mut open = device.array().begin();
            open.write(0, &[1; 10]).expect("taken");
            device.stop().await.expect("an open transaction does not hold up a stop");
            assert_eq!(open.commit().await, Err(RequestError::Stopping));
            let how = How { read_only: true, ..How::default() };
            let device = Evenkeel::start(&world, &disks, &setup, how).await.expect("it starts");
            let mut tx = device.array().begin();
            tx.write(0, &[1; 10]).expect("taken");
            let (done, buf) = tx.read(0, Buf::new(12)).await;
            done.expect("read");
            assert_eq!(buf[..], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
            assert_eq!(tx.commit().await, Err(RequestError::ReadOnly));
            assert!(content(device.array()).await.iter().all(|b| *b == 0));
        });
        assert_eq!(ran, Ok(()));
    }
}

// ---- one that is larger than a commit of several requests ----

const PARTS: u64 = 30;
const PART_BLOCKS: u64 = 100;
const STEP: u64 = 130 * BLOCK;

fn big_array() -> (Survivors, CreateOptions) {
    let options = CreateOptions {
        name: "a".into(),
        level: Level::Raid5,
        data: 2,
        parity: 1,
        chunk_bytes: 65536,
        log_bytes: Some(48 * MIB),
        cache_bytes: Some(64 * MIB),
        checksums: true,
        force: false,
    };
    (Survivors::new(3, 80 * MIB), options)
}

/// Begins with a write before it; then 3000 blocks in 30 runs, with the ends of others between.
async fn big_transaction(world: &SimWorld, disks: &[SimDisk], options: &CreateOptions, ack: Ack) {
    create(world, disks, options).await.expect("made");
    let start = StartOptions { ack, ..StartOptions::default() };
    let array = Array::start(world, disks, &start, &|_| ()).await.expect("it starts");
    for i in 0..PARTS / 2 {
        array.write(i * 2 * STEP, filled(1, PART_BLOCKS * BLOCK), true).await.expect("written");
    }
    let mut tx = array.begin();
    for i in 0..PARTS {
        tx.write(i * STEP + 4 * BLOCK, &vec![2; (PART_BLOCKS * BLOCK) as usize]).expect("taken");
    }
    assert_eq!(tx.size().blocks, PARTS * PART_BLOCKS);
    world_is_here(world).await;
    tx.commit().await.expect("committed");
}

/// An event that marks the moment before the commit: nothing else is under way.
async fn world_is_here(world: &SimWorld) {
    world.sleep(Duration::from_millis(500)).await;
}

/// What is there of it after a crash: false nothing, true all.
fn big_is_there(from: &Survivors) -> bool {
    let sim = Simulation::new(5, from);
    let (world, disks) = (sim.world(), sim.disks());
    let ran = sim.run(LIMIT, async move {
        let start = StartOptions::default();
        let array = Array::start(&world, &disks, &start, &|_| ()).await.expect("it starts");
        let mut values = Vec::new();
        for i in 0..PARTS {
            let (done, buf) = array.read(i * STEP, Buf::new(STEP as usize)).await;
            done.expect("read");
            let own = &buf[4 * 4096..(4 + PART_BLOCKS as usize) * 4096];
            let old = |b: usize| u8::from(i % 2 == 0 && b < PART_BLOCKS as usize * 4096);
            let is_new = own.iter().all(|b| *b == 2);
            let is_old = (4 * 4096..).zip(own).all(|(at, b)| *b == old(at));
            assert!(is_new || is_old, "run {i} is there in part");
            values.push(is_new);
            let mut rest = (0..buf.len()).filter(|b| !(4 * 4096..(4 + 100) * 4096).contains(b));
            assert!(rest.all(|b| buf[b] == old(b)), "beside run {i}");
        }
        assert!(values.iter().all(|v| *v == values[0]), "{values:?}");
        values[0]
    });
    ran.unwrap_or_else(|stop| panic!("{stop}"))
}

/// 12 MiB in 30 runs, in one commit of more than 2048 blocks: all or nothing after the death of
/// the process and after every kind of power loss, with any member lost.
#[test]
fn one_of_many_mib_is_there_wholly_or_not_at_all() {
    for ack in [Ack::Durable, Ack::Cached] {
        let (empty, options) = big_array();
        let run = |crash: Option<u64>| {
            let sim = Simulation::new(3, &empty);
            let (world, disks, options) = (sim.world(), sim.disks(), options.clone());
            if let Some(event) = crash {
                sim.crash_at(event);
            }
            let ran = sim.run(LIMIT, async move {
                big_transaction(&world, &disks, &options, ack).await;
                let acknowledged = world.events();
                // What was only acknowledged is written by now.
                world_is_here(&world).await;
                acknowledged
            });
            (ran, sim)
        };
        let (ran, sim) = run(None);
        let (acknowledged, end) = (ran.expect("it ends"), sim.events());
        drop(sim);
        // The blocks are copied into the ring one event each; then records, columns, flushes.
        let half = PARTS * PART_BLOCKS / 2;
        let points = [end - 60 - half, end - 100, end - 40].into_iter();
        let points = points.chain((end - 16..=end).step_by(4));
        let (mut all, mut nothing) = (0, 0);
        for (i, event) in points.enumerate() {
            let (ran, sim) = run(Some(event));
            assert!(ran.is_err() || event >= end, "the crash came");
            let shot = sim.snapshot();
            drop(sim);
            let seed = i as u64;
            for mode in [Mode::Process(seed), Mode::PowerNone, Mode::PowerTorn(seed)] {
                let lost = (i + usize::from(mode.is_process())) % 4;
                let there = big_is_there(&shot.survive(mode).without(&[lost]));
                let promised = mode.is_process() || ack == Ack::Durable;
                assert!(there || event <= acknowledged || !promised, "event {event} {mode}");
                all += u32::from(there);
                nothing += u32::from(!there);
            }
        }
        assert!(all > 0 && nothing > 0, "{all} times all, {nothing} times nothing");
    }
}
