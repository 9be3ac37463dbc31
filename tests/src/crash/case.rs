//! One crash state: what must hold when the array starts from it, and afterwards.
//!
//! Every case starts the array from the survivors without the lost disks, reads everything and
//! asks the oracle. Then, by the case's own seed, one of the [`Sequel`]s follows, and the content
//! must stay what it was when it was first read.

use std::fmt;
use std::future::Future;
use std::rc::Rc;

use super::lies::read_honest;
use super::run::{LIMIT, Notes, Recording, clients};
use super::{Crash, Scenario, losses};
use crate::oracle::Floor;
use crate::rng::{Rng, hash, hash_text};
use crate::sim::{Mode, SimDisk, SimWorld, Simulation, Snapshot, Survivors};
use crate::subject::{How, StartError, Subject};
use crate::workload::more;

/// What follows the first start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sequel {
    /// Destage all, read, stop cleanly, start with further disks absent, read.
    Stop,
    /// Crash when everything has been read; start with further disks absent, read.
    Crash,
    /// Crash in the middle of the start itself; start again.
    CrashInStart,
    /// Crash in the middle of destaging; start with further disks absent, read.
    CrashInDestage,
    /// Write more, crash in the middle of it; start with further disks absent, ask the oracle.
    Write,
}

impl Sequel {
    /// All of them.
    pub const ALL: [Sequel; 5] =
        [Sequel::Stop, Sequel::Crash, Sequel::CrashInStart, Sequel::CrashInDestage, Sequel::Write];
}

impl fmt::Display for Sequel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sequel::Stop => "stop",
            Sequel::Crash => "crash",
            Sequel::CrashInStart => "crash-in-start",
            Sequel::CrashInDestage => "crash-in-destage",
            Sequel::Write => "write",
        })
    }
}

/// How much was tried.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    /// Starts of the array.
    pub starts: u64,
    /// Contents compared.
    pub comparisons: u64,
    /// Starts that were refused until told to go on.
    pub refusals: u64,
}

impl Tally {
    /// Adds another's numbers.
    pub fn add(&mut self, other: Tally) {
        self.starts += other.starts;
        self.comparisons += other.comparisons;
        self.refusals += other.refusals;
    }
}

/// Whether a start without a person's word must be refused, may be, or must not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    Must,
    May,
    Never,
}

pub(super) struct Case<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) seed: u64,
    tally: Tally,
    verbose: bool,
}

struct Opened<S> {
    device: S,
    refused: bool,
}

async fn open<S: Subject>(
    world: &SimWorld,
    disks: &[SimDisk],
    scenario: &Scenario,
    refusal: Refusal,
    read_only: bool,
) -> Result<Opened<S>, String> {
    let how = How { durable: scenario.durable, accept_missing: false, read_only };
    match S::start(world, disks, &scenario.setup, how).await {
        Ok(_) if refusal == Refusal::Must => {
            Err("start went on with k or more members absent, and nobody said it may".to_owned())
        }
        Ok(device) => Ok(Opened { device, refused: false }),
        Err(StartError::TooFew) if refusal == Refusal::Never => {
            Err("start refused (too few members) with fewer than k absent".to_owned())
        }
        Err(StartError::TooFew) => {
            let how = How { accept_missing: true, ..how };
            match S::start(world, disks, &scenario.setup, how).await {
                Ok(device) => Ok(Opened { device, refused: true }),
                Err(StartError::TooFew) => {
                    Err("start refused (too few members) although told to go on".to_owned())
                }
                Err(StartError::Other(e)) => Err(format!("start failed: {e}")),
            }
        }
        Err(StartError::Other(e)) => Err(format!("start failed: {e}")),
    }
}

pub(super) fn compare(wanted: &[u8], got: &[u8], when: &str) -> Result<(), String> {
    if wanted == got {
        return Ok(());
    }
    let at = wanted.iter().zip(got).position(|(a, b)| a != b).unwrap_or(0);
    Err(format!(
        "{when}, byte {at} is not what it was: it was {}, it is {}",
        crate::oracle::describe_block(wanted, at),
        crate::oracle::describe_block(got, at)
    ))
}

/// A start that ran, what it left, and the events it took to start.
pub(super) struct Life<T> {
    pub(super) value: T,
    pub(super) left: Snapshot,
}

impl Case<'_> {
    fn live<T: 'static, F: Future<Output = Result<T, String>> + 'static>(
        &mut self,
        number: u64,
        from: &Survivors,
        job: impl FnOnce(SimWorld, Vec<SimDisk>) -> F,
    ) -> Result<Life<T>, String> {
        let sim = Simulation::new(hash(&[self.seed, number]), from);
        self.tally.starts += 1;
        let value = sim.run(LIMIT, job(sim.world(), sim.disks()));
        let value = value.map_err(|stop| stop.to_string()).and_then(|inner| inner)?;
        Ok(Life { value, left: sim.snapshot() })
    }

    /// Starts and reads everything. Where no disk lies, none may be said to.
    pub(super) fn start_and_read<S: Subject>(
        &mut self,
        number: u64,
        from: &Survivors,
        refusal: Refusal,
        read_only: bool,
        lies: bool,
    ) -> Result<Life<Vec<u8>>, String> {
        let scenario = self.scenario.clone();
        if self.verbose {
            println!("start {number} from:\n{}", S::describe(&from.disks));
        }
        let life = self.live(number, from, move |world, disks| async move {
            let opened: Opened<S> = open(&world, &disks, &scenario, refusal, read_only).await?;
            Ok((read_honest(&opened.device, lies).await?, opened.refused))
        })?;
        self.tally.comparisons += 1;
        self.tally.refusals += u64::from(life.value.1);
        Ok(Life { value: life.value.0, left: life.left })
    }
}

fn any_mode(rng: &mut Rng) -> Mode {
    let seed = rng.below(1000);
    match rng.below(5) {
        0 => Mode::Process(seed),
        1 => Mode::PowerAll,
        2 => Mode::PowerNone,
        3 => Mode::PowerSubset(seed),
        _ => Mode::PowerTorn(seed),
    }
}

/// Checks one crash of a recording, and one sequel of it (`None`: one by seed). With `verbose`
/// it prints what each start finds.
///
/// # Errors
/// What is wrong, and at which step.
///
/// # Panics
/// If the recording has no such event.
pub fn check<S: Subject>(
    recording: &Recording,
    scenario: &Scenario,
    crash: &Crash,
    sequel: Option<Sequel>,
    verbose: bool,
    tally: &mut Tally,
) -> Result<(), String> {
    let seed =
        hash(&[scenario.seed, hash_text(&scenario.to_string()), hash_text(&crash.to_string())]);
    let mut case = Case { scenario, seed, tally: Tally::default(), verbose };
    let result = case.check::<S>(recording, crash, sequel);
    tally.add(case.tally);
    result
}

impl Case<'_> {
    fn check<S: Subject>(
        &mut self,
        recording: &Recording,
        crash: &Crash,
        sequel: Option<Sequel>,
    ) -> Result<(), String> {
        let setup = &self.scenario.setup;
        let (n, k, m) = (setup.members(), setup.data, setup.parity);
        let mut rng = Rng::new(self.seed);
        let shot = &recording.shots[crash.event as usize - 1];
        assert_eq!(shot.event, crash.event, "events are numbered from 1");
        let failed = recording.failed_before(crash.event);
        let floor = self.floor(crash.mode);

        let found = shot.survive(crash.mode);
        let left = found.without(&crash.lost).shuffled(rng.draw());
        // Journal devices never give a start pause, as long as the log can be had.
        let lost: Vec<usize> = crash.lost.iter().copied().filter(|d| *d < n).collect();
        let never_failed = lost.iter().filter(|d| !failed.contains(d)).count();
        let refusal = if never_failed >= k {
            Refusal::Must
        } else if lost.len() >= k {
            Refusal::May
        } else {
            Refusal::Never
        };
        let first = self.start_and_read::<S>(1, &left, refusal, false, false)?;
        let content = Rc::new(first.value);
        recording.oracle.check_crash(&content, shot.mark, floor).map_err(|v| v.0)?;

        // Members that may be missing from now on, beside those lost or failed already.
        let mut gone: Vec<usize> = crash.lost.iter().chain(&failed).copied().collect();
        gone.sort_unstable();
        gone.dedup();
        let further = losses(setup, &gone);
        let when = (crash.event, shot.mark, floor);
        self.with_lies::<S>(recording, when, &left, &gone, refusal)?;
        let members_gone = gone.iter().filter(|d| **d < n).count();
        let pick = |rng: &mut Rng| further[rng.index(further.len())].clone();
        let later = if lost.len() + m - members_gone >= k || m >= k {
            Refusal::May
        } else {
            Refusal::Never
        };
        let sequel = sequel.unwrap_or(Sequel::ALL[rng.index(5)]);
        let step = |e: String| format!("{e} [after {sequel}]");
        // Lost disks may come back, with old content.
        let back = rng.one_in(4);
        let rejoin = |mut s: Survivors| {
            if back {
                let lost = found.disks.iter().filter(|d| crash.lost.contains(&d.id));
                s.disks.extend(lost.cloned());
            }
            s
        };
        match sequel {
            Sequel::Stop | Sequel::CrashInDestage => {
                let destaged =
                    self.destage::<S>(&left, refusal, &content, sequel == Sequel::Stop, false);
                let (shots, end) = destaged.map_err(step)?;
                let from = if sequel == Sequel::Stop {
                    let rest = end.survive(Mode::PowerNone);
                    S::check_at_rest(&rest.disks, &content).map_err(step)?;
                    rest
                } else {
                    shots[rng.index(shots.len())].survive(any_mode(&mut rng))
                };
                let e = pick(&mut rng);
                let from = rejoin(from).without(&e).shuffled(rng.draw());
                let read_only = rng.one_in(4);
                let again =
                    self.start_and_read::<S>(4, &from, later, read_only, false).map_err(step)?;
                compare(&content, &again.value, "after destaging and a restart").map_err(step)
            }
            Sequel::Crash => {
                let e = pick(&mut rng);
                let from = rejoin(first.left.survive(any_mode(&mut rng)));
                let from = from.without(&e).shuffled(rng.draw());
                let again =
                    self.start_and_read::<S>(2, &from, later, false, false).map_err(step)?;
                compare(&content, &again.value, "after one more crash").map_err(step)
            }
            Sequel::CrashInStart => {
                let shots = self.shots_of_start::<S>(&left, refusal).map_err(step)?;
                let cut = &shots[rng.index(shots.len())];
                let mode = any_mode(&mut rng);
                let same = rng.one_in(2);
                let e = if same { Vec::new() } else { pick(&mut rng) };
                let from = cut.survive(mode).without(&e).shuffled(rng.draw());
                let refusal = if refusal == Refusal::Never { later } else { Refusal::May };
                let again =
                    self.start_and_read::<S>(2, &from, refusal, false, false).map_err(step)?;
                let floor = if crash.mode.is_process() { self.floor(mode) } else { floor };
                let judged = recording.oracle.check_crash(&again.value, shot.mark, floor);
                judged.map_err(|v| step(v.0))?;
                if same && (mode.is_process() || !crash.mode.is_process()) {
                    compare(&content, &again.value, "after a crash in the start").map_err(step)?;
                }
                Ok(())
            }
            Sequel::Write => {
                let e = pick(&mut rng);
                let mode = any_mode(&mut rng);
                let oracle = recording.oracle.clone();
                let sim = Simulation::new(hash(&[self.seed, 1]), &left);
                let oracle = oracle.next_life(Rc::clone(&content), sim.mark());
                let notes = Rc::new(Notes::default());
                sim.record();
                let (world, disks) = (sim.world(), sim.disks());
                let scenario = self.scenario.clone();
                let (log, side, seed) = (oracle.clone(), Rc::clone(&notes), self.seed);
                self.tally.starts += 1;
                let ran = sim.run(LIMIT, async move {
                    let opened: Opened<S> = open(&world, &disks, &scenario, refusal, false).await?;
                    let lists = more(&scenario.setup, opened.device.size(), seed);
                    let started = world.events();
                    clients(&world, &opened.device, lists, &log, &side).await;
                    Case::no_false_alarm(&opened.device)?;
                    Ok(started)
                });
                let ran = ran.map_err(|s| s.to_string()).and_then(|inner| inner);
                let started = ran.map_err(step)?;
                if let Some(e) = notes.errors.borrow().first() {
                    return Err(step(e.clone()));
                }
                let shots = sim.recorded();
                let from = started as usize;
                let cut = &shots[from + rng.index(shots.len() - from)];
                let again = rejoin(cut.survive(mode)).without(&e).shuffled(rng.draw());
                let again =
                    self.start_and_read::<S>(2, &again, later, false, false).map_err(step)?;
                let judged = oracle.check_crash(&again.value, cut.mark, self.floor(mode));
                judged.map_err(|v| step(v.0))
            }
        }
    }

    fn floor(&self, mode: Mode) -> Floor {
        if self.scenario.durable || mode.is_process() {
            Floor::Acknowledged
        } else {
            Floor::Flushed
        }
    }

    /// Starts, destages, reads, perhaps stops: gives the crash states since the start was done.
    pub(super) fn destage<S: Subject>(
        &mut self,
        from: &Survivors,
        refusal: Refusal,
        content: &Rc<Vec<u8>>,
        stop: bool,
        lies: bool,
    ) -> Result<(Vec<Snapshot>, Snapshot), String> {
        let sim = Simulation::new(hash(&[self.seed, 1]), from);
        if !stop {
            sim.record();
        }
        let (world, disks) = (sim.world(), sim.disks());
        let (scenario, wanted) = (self.scenario.clone(), Rc::clone(content));
        self.tally.starts += 1;
        let ran = sim.run(LIMIT, async move {
            let opened: Opened<S> = open(&world, &disks, &scenario, refusal, false).await?;
            compare(&wanted, &read_honest(&opened.device, lies).await?, "at a second reading")?;
            let started = world.events();
            opened.device.destage().await.map_err(|e| format!("destaging failed: {e}"))?;
            compare(&wanted, &read_honest(&opened.device, lies).await?, "after destaging")?;
            if stop {
                opened.device.stop().await.map_err(|e| format!("stop failed: {e}"))?;
            }
            Ok(started)
        });
        let started = ran.map_err(|s| s.to_string()).and_then(|inner| inner)?;
        let end = sim.snapshot();
        let shots = if stop { Vec::new() } else { sim.recorded().split_off(started as usize) };
        Ok((shots, end))
    }

    /// All crash states of a start.
    fn shots_of_start<S: Subject>(
        &mut self,
        from: &Survivors,
        refusal: Refusal,
    ) -> Result<Vec<Snapshot>, String> {
        let sim = Simulation::new(hash(&[self.seed, 1]), from);
        sim.record();
        let (world, disks) = (sim.world(), sim.disks());
        let scenario = self.scenario.clone();
        self.tally.starts += 1;
        let ran = sim.run(LIMIT, async move {
            open::<S>(&world, &disks, &scenario, refusal, false).await.map(|_| ())
        });
        ran.map_err(|s| s.to_string()).and_then(|inner| inner)?;
        Ok(sim.recorded())
    }
}
