//! Members that fail together and come back: the running array waits for them, writes again what they
//! may have lost, and goes on as if nothing had happened (I7); and what it does if they do not.

use std::cell::Cell;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::sync::join_all;
use evenkeel_journal::{Buf, MemberIndex, Slice, World};
use evenkeel_raid::status::{MemberState, State};
use evenkeel_raid::{Ack, Array, RequestError, StartOptions};
use evenkeel_tests::crash::Scenario;
use evenkeel_tests::crash::run::{Notes, clients, read_all};
use evenkeel_tests::crash::sweep::{Effort, command, sweep};
use evenkeel_tests::evenkeel::{Evenkeel, journal_setups, on_journals, setups, shape};
use evenkeel_tests::oracle::{Floor, Oracle};
use evenkeel_tests::rng::{Rng, hash};
use evenkeel_tests::sim::{DiskImage, Fault, Mode, Reset, SimDisk, SimWorld, Simulation};
use evenkeel_tests::subject::{How, Setup, Subject};
use evenkeel_tests::workload::{Op, more};

/// Simulated time that a run may take.
const LIMIT: Duration = Duration::from_secs(3600);
const BLOCK: u64 = 4096;
/// The bound of the operations, where a test needs one.
const BOUND: Duration = Duration::from_secs(4);

fn grid() -> Vec<Setup> {
    let all = setups();
    let mut grid: Vec<Setup> = ["raid5-2+1", "raid6-4+2", "evenodd-3+2", "raid1-1+1", "raid1-1+2"]
        .iter()
        .filter_map(|name| all.iter().find(|s| s.name == *name).cloned())
        .collect();
    grid.push(shape("rs-4+3", "rs", 4, 3, 8192));
    grid.extend(journal_setups().into_iter().filter(|s| s.journals > 1).take(2));
    grid.push(on_journals("raid5-2+1-j1", all[0].clone(), 1));
    grid
}

/// The crash tests on the workloads with resets, over the grid: every kind of crash and of further
/// loss, before, during and after a reset.
#[test]
fn a_reset_is_survived_and_so_is_a_crash_after_it() {
    let mut scenarios = Vec::new();
    for (i, setup) in grid().into_iter().enumerate() {
        for seed in 0..3u64 {
            let workload = ["reset", "reset-destage"][(i + seed as usize) % 2];
            let durable = (i as u64 / 2 + seed).is_multiple_of(2);
            scenarios.push(Scenario { setup: setup.clone(), workload, seed: 40 + seed, durable });
        }
    }
    let effort = Effort { full: false, stride: 61, jobs: 2, failures: 3, salts: 1, sequel: None };
    let totals = sweep::<Evenkeel>(&scenarios, &effort, || {});
    for f in &totals.failures {
        println!("{}\n  {}", f.message, command(&f.replay));
    }
    assert!(totals.failures.is_empty(), "{} failures", totals.failures.len());
    assert!(totals.states > 200, "{totals:?}");
}

async fn start(world: &SimWorld, disks: &[SimDisk], ack: Ack) -> Array<SimWorld> {
    let options = StartOptions { ack, io_timeout: Some(BOUND), ..StartOptions::default() };
    Array::start(world, disks, &options, &|_| ()).await.expect("it starts")
}

fn filled(value: u8, bytes: u64) -> Slice {
    Slice::copy_of(&vec![value; bytes as usize])
}

async fn read(array: &Array<SimWorld>, at: u64, len: u64) -> Result<Vec<u8>, RequestError> {
    let (done, buf) = array.read(at, Buf::new(len as usize)).await;
    done.map(|()| buf.to_vec())
}

fn states(array: &Array<SimWorld>) -> Vec<MemberState> {
    array.status().members.iter().map(|m| m.state).collect()
}

/// What a run of [`everything`] gives.
struct Ran {
    /// Events from the end of the start to the end of the stop.
    events: Range<u64>,
    /// The member that was failed by order.
    ordered: usize,
    failed: Vec<usize>,
    errors: Vec<String>,
}

/// All that an array does, in one short life with or without a reset in it: start, whole stripes and
/// parts, flushes, destages, a member failed by order, a stop, and a start again.
fn everything(setup: &Setup, seed: u64, durable: bool, reset: Option<(u64, Reset)>) -> Ran {
    let sim = Simulation::new(hash(&[seed, 5]), &setup.empty());
    let (world, disks, setup) = (sim.world(), sim.disks(), setup.clone());
    let mark = sim.mark();
    let (from, to) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (began_at, stopped_at) = (Rc::clone(&from), Rc::clone(&to));
    let twice = reset.as_ref().filter(|_| seed.is_multiple_of(3)).map(|r| r.1.clone());
    if let Some((event, reset)) = reset {
        sim.reset_at(event, reset);
    }
    let out = sim.run(LIMIT, async move {
        let made = Evenkeel::create(&world, &disks, &setup).await;
        made.map_err(|e| format!("create: {e}"))?;
        let how = How { durable, ..How::default() };
        let began = Evenkeel::start(&world, &disks, &setup, how).await;
        let device = began.map_err(|e| format!("start: {e:?}"))?;
        began_at.set(world.events());
        let oracle = Oracle::new(device.size(), mark);
        let notes = Rc::new(Notes::default());
        let stripe = setup.stripe();
        let list = vec![Op::Write(0, stripe, false), Op::Write(stripe, 2 * stripe, false)];
        clients(&world, &device, vec![list], &oracle, &notes).await;
        let mut lists = more(&setup, device.size(), seed);
        lists[1].push(Op::Destage);
        lists[0].extend([Op::Write(BLOCK, BLOCK, false), Op::Flush, Op::Read(0, stripe)]);
        clients(&world, &device, lists, &oracle, &notes).await;
        let ordered = seed as usize % setup.members();
        let lists = vec![
            vec![Op::FailMember(ordered)],
            more(&setup, device.size(), seed + 1).swap_remove(0),
        ];
        clients(&world, &device, lists, &oracle, &notes).await;
        if let Some(again) = twice {
            // Fewer now: one is out by order.
            world.reset(&again);
        }
        let list = vec![Op::Write(0, 3 * BLOCK, true), Op::Flush, Op::Destage, Op::Read(0, stripe)];
        clients(&world, &device, vec![list], &oracle, &notes).await;
        let content = read_all(&device).await?;
        oracle.check_crash(&content, oracle.length(), Floor::Acknowledged).map_err(|v| v.0)?;
        let of = |d: usize| device.array().status().members[d].state;
        let failed: Vec<usize> =
            (0..disks.len()).filter(|d| of(*d) != MemberState::Active).collect();
        device.stop().await.map_err(|e| format!("stop: {e}"))?;
        stopped_at.set(world.events());
        // What was reset has to be back, and opened again.
        world.sleep(Duration::from_secs(10)).await;
        let began = Evenkeel::start(&world, &world.disks(), &setup, how).await;
        let device = began.map_err(|e| format!("second start: {e:?}"))?;
        if read_all(&device).await? != content {
            return Err("another content after a stop and a start".to_owned());
        }
        let errors = notes.errors.borrow().clone();
        Ok((ordered, failed, errors))
    });
    let out = out.map_err(|stop| stop.to_string()).and_then(|inner| inner);
    let events = from.get()..to.get();
    match out {
        Ok((ordered, failed, errors)) => Ran { events, ordered, failed, errors },
        Err(e) => Ran { events, ordered: 0, failed: Vec::new(), errors: vec![e] },
    }
}

/// A reset at any event of all that an array does: in a flush, in a destage, while an epoch is being
/// advanced, in the stop, and twice. No request fails, nobody is failed but by
/// order, the content is what it should be.
#[test]
fn a_reset_at_any_event_hurts_nobody() {
    let mut runs = 0;
    for (i, setup) in grid().into_iter().enumerate() {
        let seed = i as u64;
        let durable = i % 2 == 0;
        let plain = everything(&setup, seed, durable, None);
        assert_eq!(plain.errors, [""; 0], "{}", setup.name);
        let stride = 1 + (plain.events.end - plain.events.start) / 60;
        for event in plain.events.step_by(stride as usize) {
            let mut rng = Rng::new(hash(&[seed, event]));
            let mut disks: Vec<usize> = (0..setup.members() + setup.journals).collect();
            if rng.one_in(3) {
                disks.truncate(setup.members());
                rng.shuffle(&mut disks);
                disks.truncate(setup.parity + 1 + rng.index(setup.data));
            }
            let fault = if rng.one_in(2) { Fault::Gone } else { Fault::Io };
            let back = Some(Duration::from_millis(300 + rng.below(3000)));
            let reset = Reset { disks, fault, back, reopen: rng.one_in(2) };
            let case = format!("{} seed {seed} event {event} {reset:?}", setup.name);
            let ran = everything(&setup, seed, durable, Some((event, reset)));
            assert_eq!(ran.errors, [""; 0], "{case}");
            assert_eq!(ran.failed, [ran.ordered], "{case}");
            runs += 1;
        }
    }
    assert!(runs > 400, "only {runs} runs came to an end");
}

/// Writes a stripe and a part of it, then resets disks while more is written: block 0 with rising
/// values from 3, and another stripe. Gives what was acknowledged last in block 0.
async fn written_until_it_ends(
    array: &Array<SimWorld>,
    world: &SimWorld,
    stripe: u64,
    reset: &Reset,
) -> (u8, Option<RequestError>) {
    array.write(0, filled(1, stripe), false).await.expect("written");
    array.write(0, filled(2, BLOCK), false).await.expect("written");
    world.reset(reset);
    for i in 3..40 {
        if let Err(e) = array.write(0, filled(i, BLOCK), false).await {
            return (i - 1, Some(e));
        }
        if let Err(e) = array.write(stripe, filled(i, stripe), false).await {
            return (i, Some(e));
        }
    }
    (39, None)
}

/// They do not come back: EIO when the bound is over and not before, nothing recorded, what is
/// readable is read, and a start that finds them again has lost nothing.
#[test]
fn members_that_stay_away_are_waited_for_within_the_bound() {
    for (i, setup) in grid().into_iter().enumerate() {
        for seed in 0..4 {
            let case = format!("{} seed {seed}", setup.name);
            let sim = Simulation::new(seed, &setup.empty());
            let (world, disks, stripe) = (sim.world(), sim.disks(), setup.stripe());
            let (n, m) = (setup.members(), setup.parity);
            let journals = setup.journals > 0 && seed % 2 == 1;
            let away: Vec<usize> = if journals {
                (n..n + setup.journals).collect()
            } else {
                (0..=m).map(|d| (d + i + seed as usize) % n).collect()
            };
            let fault = if seed < 2 { Fault::Gone } else { Fault::Io };
            let reset = Reset { disks: away, fault, back: None, reopen: false };
            let setup = setup.clone();
            let ran = sim.run(LIMIT, async move {
                Evenkeel::create(&world, &disks, &setup).await.expect("made");
                let array = start(&world, &disks, Ack::Durable).await;
                let epoch = array.status().epoch;
                let began = world.now();
                let (last, e) = written_until_it_ends(&array, &world, stripe, &reset).await;
                let took = world.now() - began;
                let status = array.status();
                assert_eq!(e, Some(RequestError::Io));
                assert_eq!(
                    (status.state, status.epoch, status.can_lose),
                    (State::Failed, epoch, 0)
                );
                assert!(took >= BOUND && took < 2 * BOUND, "{took:?}");
                reset.disks.iter().for_each(|d| world.set_fault(*d, None));
                let first = read(&array, 0, BLOCK).await.expect("the disks are back")[0];
                assert!(first == last || first == last + 1);
                last
            });
            let last = ran.unwrap_or_else(|e| panic!("{case}: {e}"));
            let sim = Simulation::new(seed, &sim.snapshot().survive(Mode::PowerNone));
            let (world, disks) = (sim.world(), sim.disks());
            let ran = sim.run(LIMIT, async move {
                let array = start(&world, &disks, Ack::Durable).await;
                (array.status().state, read(&array, 0, BLOCK).await.expect("read")[0])
            });
            let (state, first) = ran.expect("it ends");
            assert_eq!(state, State::Healthy, "{case}");
            assert!(first == last || first == last + 1, "{case}: {last}, found {first}");
        }
    }
}

/// Enough of them come back, the rest does not, or comes later: the rest is waited for a while and
/// then failed, durably, and no request fails.
#[test]
fn those_that_stay_away_within_the_tolerance_are_failed() {
    for setup in grid() {
        for seed in 0..6 {
            let case = format!("{} seed {seed}", setup.name);
            let sim = Simulation::new(seed, &setup.empty());
            let (world, disks, stripe) = (sim.world(), sim.disks(), setup.stripe());
            let (n, m) = (setup.members(), setup.parity);
            let setup = setup.clone();
            let ran = sim.run(LIMIT, async move {
                Evenkeel::create(&world, &disks, &setup).await.expect("made");
                let array = start(&world, &disks, Ack::Durable).await;
                let mut all: Vec<usize> = (0..n).collect();
                Rng::new(seed).shuffle(&mut all);
                let never = all.split_off(n - m);
                let late = seed % 2 == 1;
                let after = BOUND / if late { 6 } else { 1 };
                let side = world.clone();
                let (back, gone) = (all.clone(), never.clone());
                world.spawn("some come back", async move {
                    side.sleep(Duration::from_millis(900)).await;
                    back.iter().for_each(|d| side.set_fault(*d, None));
                    side.sleep(after).await;
                    if late {
                        gone.iter().for_each(|d| side.set_fault(*d, None));
                    }
                });
                let reset = Reset {
                    disks: (0..n).collect(),
                    fault: Fault::Gone,
                    back: None,
                    reopen: seed % 3 == 0,
                };
                let ended = written_until_it_ends(&array, &world, stripe, &reset).await;
                assert_eq!(ended, (39, None));
                for d in 0..n {
                    let out = never.contains(&d) && !late;
                    let state = if out { MemberState::Failed } else { MemberState::Active };
                    assert_eq!(states(&array)[d], state, "disk {d}");
                }
                let whole = read(&array, 0, stripe).await.expect("read");
                assert!(whole[..BLOCK as usize].iter().all(|b| *b == 39));
                assert!(whole[BLOCK as usize..].iter().all(|b| *b == 1));
                array.stop().await.expect("stopped");
            });
            ran.unwrap_or_else(|e| panic!("{case}: {e}"));
        }
    }
}

/// What comes back is not what went: an older state of the same disk, a stranger, a shorter one, the
/// disk of another member, an empty one. It is not taken back, nothing is read from it, and not a
/// byte is written to it.
#[test]
fn another_disk_under_the_path_is_not_taken_back() {
    let kinds = ["older", "stranger", "shorter", "another member", "empty", "cut and made long"];
    for setup in [shape("raid6-4+2", "raid6", 4, 2, 8192), shape("raid1-1+2", "raid1", 1, 2, 16384)]
    {
        for (i, kind) in kinds.into_iter().enumerate() {
            let case = format!("{} {kind}", setup.name);
            let (n, stripe) = (setup.members(), setup.stripe());
            let stranger = {
                let sim = Simulation::new(99, &setup.empty());
                let (world, disks, setup) = (sim.world(), sim.disks(), setup.clone());
                let made = sim.run(LIMIT, async move {
                    Evenkeel::create(&world, &disks, &setup).await.expect("made");
                });
                made.expect("it ends");
                sim.world().image_of(0).settled()
            };
            let sim = Simulation::new(i as u64, &setup.empty());
            let (world, disks) = (sim.world(), sim.disks());
            let (setup, member) = (setup.clone(), setup.member);
            let ran = sim.run(LIMIT, async move {
                Evenkeel::create(&world, &disks, &setup).await.expect("made");
                let array = start(&world, &disks, Ack::Durable).await;
                let (ordered, target) = (0, 1);
                let older = world.image_of(target).settled();
                // The epoch moves on, so that this state is of an older one.
                array.fail_member(MemberIndex(ordered)).await.expect("failed");
                let mut cut = older.clone();
                array.write(0, filled(1, stripe), false).await.expect("written");
                let by = match kind {
                    "stranger" => stranger,
                    "another member" => world.image_of((target + 1) % n).settled(),
                    "empty" => DiskImage::empty(target, member),
                    "shorter" => DiskImage::empty(target, member / 2),
                    "cut and made long" => {
                        let now = world.image_of(target).settled().view();
                        let mut kept = vec![0; member as usize];
                        now.read(0, &mut kept[..member as usize / 2]);
                        *cut.medium_mut() = evenkeel_tests::sim::Image::zeros(member);
                        cut.medium_mut().write(0, &kept);
                        cut
                    }
                    _ => older,
                };
                // All fail; all but this one come back as they were.
                let reset =
                    Reset { disks: (0..n).collect(), fault: Fault::Gone, back: None, reopen: true };
                let side = world.clone();
                let put = by.clone();
                world.spawn("another comes", async move {
                    side.sleep(Duration::from_millis(700)).await;
                    side.replace_disk(target, &put);
                    (0..n).for_each(|d| side.set_fault(d, None));
                });
                let ended = written_until_it_ends(&array, &world, stripe, &reset).await;
                let state = states(&array)[target];
                let untouched = world.image_of(target).settled().digest() == by.settled().digest();
                let whole = read(&array, BLOCK, stripe - BLOCK).await.expect("read");
                assert!(whole.iter().all(|b| *b == 1));
                (ended, state, untouched)
            });
            let (ended, state, untouched) = ran.unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!(
                (ended, state, untouched),
                ((39, None), MemberState::Failed, true),
                "{case}"
            );
        }
    }
}

/// Operations that hang are given up, and the disk answers again; then what hung is done after all.
/// It must not land on what was written since.
#[test]
fn what_hung_never_lands_on_what_is_newer() {
    let (mut back, mut waited) = (0, 0);
    for setup in [shape("raid5-2+1", "raid5", 2, 1, 8192), shape("raid6-4+2", "raid6", 4, 2, 8192)]
    {
        for seed in 0..12 {
            let case = format!("{} seed {seed}", setup.name);
            let sim = Simulation::new(seed, &setup.empty());
            let (world, disks, stripe) = (sim.world(), sim.disks(), setup.stripe());
            let (n, setup) = (setup.members(), setup.clone());
            let ends = seed % 2 == 0;
            let ran = sim.run(LIMIT, async move {
                Evenkeel::create(&world, &disks, &setup).await.expect("made");
                let array = start(&world, &disks, Ack::Durable).await;
                array.write(0, filled(1, stripe), false).await.expect("written");
                array.destage_all().await.expect("destaged");
                let side = world.clone();
                world.spawn("they hang", async move {
                    side.sleep(Duration::from_micros(seed * 900)).await;
                    (0..n).for_each(|d| side.set_fault(d, Some(Fault::Hang)));
                    // Given up after the bound; all but one answer then.
                    side.sleep(BOUND * 2).await;
                    (0..n).for_each(|d| side.set_fault(d, None));
                    (1..n).for_each(|d| side.end_hung(d));
                    if ends {
                        side.sleep(BOUND / 8).await;
                        side.end_hung(0);
                    }
                });
                let began = world.now();
                for i in 2..30 {
                    array.write(0, filled(i, BLOCK), false).await?;
                    array.destage_all().await?;
                }
                let took = world.now() - began;
                world.end_hung(0);
                world.sleep(Duration::from_secs(1)).await;
                let found = read(&array, 0, stripe).await?;
                assert!(found[..BLOCK as usize].iter().all(|b| *b == 29));
                assert!(found[BLOCK as usize..].iter().all(|b| *b == 1));
                let state = states(&array)[0];
                array.stop().await.expect("stopped");
                let array = start(&world, &disks, Ack::Durable).await;
                let found = read(&array, 0, stripe).await?;
                assert!(found[..BLOCK as usize].iter().all(|b| *b == 29));
                Ok::<_, RequestError>((state, took))
            });
            let ran = ran.unwrap_or_else(|e| panic!("{case}: {e}"));
            let (state, took) = ran.unwrap_or_else(|e| panic!("{case}: {e}"));
            waited += u32::from(took > BOUND);
            back += u32::from(state == MemberState::Active);
        }
    }
    assert!(waited > 12 && back > 4, "{waited} waited, {back} had all disks back");
}

/// While the array waits for members, reads that the others can serve are served, with what was
/// written last; the status says that nothing may be lost any more.
#[test]
fn reads_go_on_while_the_array_waits() {
    let setup = on_journals("raid5-2+1-j2", setups()[0].clone(), 2);
    let sim = Simulation::new(3, &setup.empty());
    let (world, disks, stripe) = (sim.world(), sim.disks(), setup.stripe());
    let ran = sim.run(LIMIT, async move {
        Evenkeel::create(&world, &disks, &setup).await.expect("made");
        let array = start(&world, &disks, Ack::Durable).await;
        array.write(0, filled(1, stripe), false).await.expect("written");
        let n = setup.members();
        let reset = Reset { disks: vec![n, n + 1], fault: Fault::Gone, back: None, reopen: false };
        world.reset(&reset);
        let waiting = array.write(0, filled(2, BLOCK), true);
        let side = world.clone();
        let looking = async {
            side.sleep(Duration::from_secs(1)).await;
            let began = side.now();
            let found = read(&array, BLOCK, stripe - BLOCK).await.expect("read");
            assert!(found.iter().all(|b| *b == 1) && side.now() - began < Duration::from_secs(1));
            let status = array.status();
            assert_eq!((status.state, status.can_lose), (State::Degraded, 0));
            assert_eq!(status.members[n].state, MemberState::Missing);
            reset.disks.iter().for_each(|d| side.set_fault(*d, None));
            Ok(())
        };
        let both: Vec<Pin<Box<dyn Future<Output = _>>>> =
            vec![Box::pin(waiting), Box::pin(looking)];
        let ended = join_all(both).await;
        let status = array.status();
        (ended, status.state, status.can_lose)
    });
    assert_eq!(ran, Ok((vec![Ok(()), Ok(())], State::Healthy, 1)));
}
