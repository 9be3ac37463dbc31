//! All crashes of many scenarios, over threads, with totals.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::case::{Sequel, Tally, check};
use super::run::{Recording, record};
use super::{Crash, Scenario, losses};
use crate::rng::{Rng, hash, hash_text};
use crate::sim::Mode;
use crate::subject::Subject;

/// How much to try.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Every mode with every allowed set of lost disks; otherwise a choice by seed.
    pub full: bool,
    /// Every how many events there is a crash.
    pub stride: u64,
    /// Threads.
    pub jobs: usize,
    /// End after so many failures.
    pub failures: usize,
    /// Times that every crash is tried, each time with another choice of what follows.
    pub salts: u64,
    /// Only this sequel.
    pub sequel: Option<Sequel>,
}

/// A failure and the command that replays it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Arguments of the crash binary.
    pub replay: String,
    /// What is wrong.
    pub message: String,
}

/// Totals of a sweep.
#[derive(Clone, Default, Debug)]
pub struct Totals {
    /// Scenarios run.
    pub scenarios: u64,
    /// Events at which a crash was tried.
    pub points: u64,
    /// Crash states: event, mode and lost set.
    pub states: u64,
    /// Different lost sets tried.
    pub sets: u64,
    /// Starts, comparisons, refusals.
    pub tally: Tally,
    /// What went wrong.
    pub failures: Vec<Failure>,
}

thread_local! {
    static CURRENT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What this thread is at: arguments of the crash binary that replay it.
#[must_use]
pub fn current() -> String {
    CURRENT.with_borrow(Clone::clone)
}

fn at(what: String) {
    CURRENT.with_borrow_mut(|c| *c = what);
}

/// Makes a panic print the command that replays it (builds that abort on panic end there).
pub fn report_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        eprintln!("replay: {}", command(&current()));
    }));
}

/// The command line for these arguments.
#[must_use]
pub fn command(arguments: &str) -> String {
    format!("cargo run --release -p evenkeel-tests --bin crash -- {arguments}")
}

fn guarded<T>(job: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

/// The crashes that are tried at one event.
fn crashes(
    recording: &Recording,
    scenario: &Scenario,
    event: u64,
    salt: u64,
    full: bool,
) -> Vec<Crash> {
    let failed = recording.failed_before(event);
    let setup = &scenario.setup;
    let seed = hash(&[scenario.seed, event, hash_text(&scenario.to_string()), salt]);
    let mut rng = Rng::new(seed);
    // A failed disk may be lost or come back; it counts as gone either way.
    let mut sets = losses(setup, &failed);
    let with_failed: Vec<Vec<usize>> = sets
        .iter()
        .filter(|_| !failed.is_empty())
        .map(|s| {
            let mut all: Vec<usize> = s.iter().chain(&failed).copied().collect();
            all.sort_unstable();
            all
        })
        .collect();
    sets.extend(with_failed);
    let chance = [Mode::PowerSubset(rng.below(1000)), Mode::PowerTorn(rng.below(1000))];
    let mut modes = vec![Mode::Process(rng.below(1000)), Mode::PowerNone];
    if full {
        modes.extend(chance);
        modes.extend([Mode::PowerSubset(rng.below(1000)), Mode::PowerTorn(rng.below(1000))]);
    } else {
        modes.push(chance[rng.index(2)]);
    }
    if full || rng.one_in(4) {
        modes.push(Mode::PowerAll);
    }
    if recording.is_after_reset(event) {
        modes.retain(|m| !m.is_process());
    }
    let mut crashes = Vec::new();
    for mode in modes {
        if full {
            crashes.extend(sets.iter().map(|lost| Crash { event, mode, lost: lost.clone(), salt }));
        } else {
            let lost = sets[rng.index(sets.len())].clone();
            crashes.push(Crash { event, mode, lost, salt });
        }
    }
    crashes
}

struct Shared<'a> {
    scenarios: &'a [Scenario],
    parts: usize,
    effort: &'a Effort,
    next: AtomicUsize,
    stop: AtomicBool,
    totals: Mutex<Totals>,
}

impl Shared<'_> {
    fn fail(&self, replay: String, message: String) -> usize {
        let mut totals = self.totals.lock().expect("nobody panics with it");
        totals.failures.push(Failure { replay, message });
        if totals.failures.len() >= self.effort.failures {
            self.stop.store(true, Ordering::Relaxed);
        }
        totals.failures.len()
    }

    fn part<S: Subject>(&self, scenario: &Scenario, part: usize) {
        at(scenario.to_string());
        let recording = match guarded(|| record::<S>(scenario)) {
            Ok(r) => r,
            Err(message) => {
                if part == 0 {
                    self.fail(scenario.to_string(), format!("{message} [without any crash]"));
                }
                return;
            }
        };
        let mut mine = Totals { scenarios: u64::from(part == 0), ..Totals::default() };
        let mut failures = 0;
        let offset = hash_text(&scenario.to_string()) % self.effort.stride;
        let points = recording.shots.iter().map(|s| s.event).filter(|e| {
            e % self.effort.stride == offset
                && (e / self.effort.stride) as usize % self.parts == part
        });
        for event in points {
            if self.stop.load(Ordering::Relaxed) || failures >= 3 {
                break;
            }
            mine.points += 1;
            let salts = 0..self.effort.salts;
            let all = salts.flat_map(|s| crashes(&recording, scenario, event, s, self.effort.full));
            for crash in all {
                let sequel = self.effort.sequel;
                let only = sequel.map_or(String::new(), |s| format!(" --sequel {s}"));
                let replay = format!("{scenario} {crash}{only}");
                at(replay.clone());
                mine.states += 1;
                let tally = &mut mine.tally;
                let result = guarded(|| {
                    check::<S>(&recording, scenario, &crash, sequel, false, &mut *tally)
                });
                if let Err(message) = result {
                    failures += 1;
                    self.fail(replay, message);
                    break;
                }
            }
        }
        let mut totals = self.totals.lock().expect("nobody panics with it");
        totals.scenarios += mine.scenarios;
        totals.points += mine.points;
        totals.states += mine.states;
        totals.tally.add(mine.tally);
    }
}

/// Tries crashes of all scenarios. `prepare` runs first in every thread.
pub fn sweep<S: Subject>(
    scenarios: &[Scenario],
    effort: &Effort,
    prepare: impl Fn() + Sync,
) -> Totals {
    let parts = if effort.jobs > 1 { 4 } else { 1 };
    let shared = Shared {
        scenarios,
        parts,
        effort,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        totals: Mutex::new(Totals::default()),
    };
    let work = || {
        prepare();
        loop {
            let job = shared.next.fetch_add(1, Ordering::Relaxed);
            let Some(scenario) = shared.scenarios.get(job / parts) else {
                break;
            };
            if shared.stop.load(Ordering::Relaxed) {
                break;
            }
            shared.part::<S>(scenario, job % parts);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..effort.jobs.max(1) {
            scope.spawn(work);
        }
    });
    shared.totals.into_inner().expect("nobody panics with it")
}
