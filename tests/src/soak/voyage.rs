//! All of a seed: one life after the other, each from a crash or a stop of the one before; and for
//! every life, what some of its crashes leave behind, with every part of it that may be lost.
//!
//! The rule of all of it: disks that are out of the array, that may misbehave in a life, that are
//! wrong in places since an earlier one, or that are taken away, are together never more than m
//! (and of the journal devices never more than the log bears); so nothing may go wrong. Only the last
//! life of some seeds goes beyond; then requests may fail, and nothing else may go wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use evenkeel_raid::StartOptions;

use super::life::{Cast, Entry, LIMIT, Ran, open, options, run};
use super::plan::{Life, Plan};
use super::tally::Tally;
use super::{changes, probe, seats, trouble::Kind};
use crate::crash::run::read_all;
use crate::evenkeel::Evenkeel;
use crate::oracle::{Floor, Oracle};
use crate::rng::{Rng, hash};
use crate::sim::{DiskImage, Fault, Mode, PAGE, Reset, Simulation, Snapshot, Survivors};
use crate::subject::{Setup, Subject};

/// Crash states that are looked at in a life.
const STATES: usize = 5;

/// What a content has to be.
#[derive(Clone)]
pub(super) struct Judge {
    /// The requests of the last life that served.
    pub(super) oracle: Oracle,
    /// How much of its history counts.
    pub(super) mark: usize,
    /// What was promised for the crash that it ended with.
    pub(super) floor: Floor,
    /// What is promised if power is lost as well before the array runs again.
    pub(super) power: Floor,
}

impl Judge {
    pub(super) fn check(&self, content: &[u8]) -> Result<(), String> {
        self.oracle.check_crash(content, self.mark, self.floor).map_err(|v| v.0)
    }

    /// After another crash, before the array ran again.
    pub(super) fn after(&self, mode: Mode) -> Judge {
        let floor = if mode.is_process() { self.floor } else { self.power };
        Judge { floor, ..self.clone() }
    }
}

/// A reset of more members than may be lost: those that come back lose nothing that counts.
pub(super) fn reset_of_many(rng: &mut Rng, setup: &Setup, cast: &Cast) -> Option<Reset> {
    let mut disks: Vec<usize> = (0..setup.members()).filter(|d| !cast.taken.contains(d)).collect();
    let least = setup.parity + 1;
    if disks.len() < least {
        return None;
    }
    rng.shuffle(&mut disks);
    disks.truncate(least + rng.index(disks.len() - least + 1));
    let fault = if rng.one_in(2) { Fault::Gone } else { Fault::Io };
    let back = Some(Duration::from_millis(300 + rng.below(3000)));
    Some(Reset { disks, fault, back, reopen: rng.one_in(2) })
}

pub(super) fn any_mode(rng: &mut Rng) -> Mode {
    let seed = rng.below(1 << 30);
    match rng.below(8) {
        0 | 1 => Mode::Process(seed),
        2 => Mode::PowerAll,
        3 => Mode::PowerNone,
        4 | 5 => Mode::PowerSubset(seed),
        _ => Mode::PowerTorn(seed),
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Process(_) => "process killed",
        Mode::PowerAll => "power lost, all kept",
        Mode::PowerNone => "power lost, nothing unflushed kept",
        Mode::PowerSubset(_) => "power lost, some kept",
        Mode::PowerTorn(_) => "power lost, some kept and torn",
    }
}

/// The state of a run through a plan.
pub(super) struct Voyage<'a> {
    pub(super) plan: &'a Plan,
    /// The shape by now: it may have got wider.
    pub(super) setup: Setup,
    pub(super) tally: &'a mut Tally,
    verbose: bool,
    /// All disks, those that are out of the array as well.
    pub(super) left: Survivors,
    pub(super) judge: Judge,
    /// Disks that are not active members, or may not be.
    out: BTreeSet<usize>,
    /// Disks that may be wrong in places.
    dirty: BTreeSet<usize>,
    /// Whether no disk was ever wrong without a word.
    honest: bool,
    /// Whether one was in the life whose crashes are looked at.
    lied: bool,
}

/// Runs a plan.
///
/// # Errors
/// What is wrong, and in which life.
pub fn sail(plan: &Plan, verbose: bool, tally: &mut Tally) -> Result<(), String> {
    let setup = &plan.setup;
    let mut empty = setup.empty();
    let seats = setup.members() + setup.journals;
    let spare = |i: usize| DiskImage::empty(seats + i, setup.member + (i as u64) * 65536);
    empty.disks.extend((0..plan.spares).map(spare));
    let sim = Simulation::new(hash(&[plan.seed, 1]), &empty);
    let (world, disks, own, mark) = (sim.world(), sim.disks(), setup.clone(), sim.mark());
    let made = sim.run(LIMIT, async move { Evenkeel::create(&world, &disks[..seats], &own).await });
    made.map_err(|s| s.to_string())?.map_err(|e| format!("create: {e}"))?;
    let floor = Floor::Acknowledged;
    let judge = Judge { oracle: Oracle::new(plan.size, mark), mark: 0, floor, power: floor };
    let (out, dirty) = (BTreeSet::new(), BTreeSet::new());
    let mut left = sim.snapshot().survive(Mode::PowerNone);
    for disk in &mut left.disks {
        disk.enlarge((disk.view().pages() * PAGE) as u64 + plan.larger);
    }
    let (honest, lied) = (true, false);
    let setup = setup.clone();
    let mut voyage = Voyage { plan, setup, tally, verbose, left, judge, out, dirty, honest, lied };
    voyage.tally.count("n/seeds");
    let level = format!("level/{}/{} members", plan.setup.level, plan.setup.members());
    voyage.tally.count(&level);
    for life in &plan.lives {
        voyage.widen(life).map_err(|e| format!("{e} [before life {}]", life.number))?;
        voyage.live(life).map_err(|e| format!("{e} [life {}]", life.number))?;
    }
    let mut rng = Rng::new(hash(&[plan.seed, 2]));
    if rng.one_in(64) {
        probe::full_log(tally, &mut rng)?;
    }
    let mut rng = Rng::new(hash(&[plan.seed, 5]));
    if rng.one_in(16) {
        changes::under_writes(tally, &mut rng)?;
    }
    Ok(())
}

impl Voyage<'_> {
    pub(super) fn seed(&self, life: &Life, what: u64) -> u64 {
        hash(&[self.plan.seed, life.number + 1, what])
    }

    pub(super) fn say(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{}", text());
        }
    }

    fn members<'b>(&self, disks: impl IntoIterator<Item = &'b usize>) -> usize {
        let n = self.setup.members();
        disks.into_iter().filter(|d| **d < n).count()
    }

    pub(super) fn taken(&self) -> BTreeSet<usize> {
        self.out.union(&self.dirty).copied().collect()
    }

    /// Further disks that may be lost: random ones, at most as many as may be.
    fn further(&self, rng: &mut Rng, taken: &BTreeSet<usize>, all: bool) -> Vec<usize> {
        let setup = &self.setup;
        let n = setup.members();
        let mut pick = |range: std::ops::Range<usize>, most: usize| {
            let used = range.clone().filter(|d| taken.contains(d)).count();
            let mut free: Vec<usize> = range.filter(|d| !taken.contains(d)).collect();
            rng.shuffle(&mut free);
            let room = most.saturating_sub(used);
            let count = if all { room } else { rng.index(room + 1) };
            free.truncate(count);
            free
        };
        let mut lost = pick(0..n, setup.parity);
        lost.extend(pick(n..n + setup.journals, setup.journals_out()));
        lost
    }

    pub(super) fn entry(
        &self,
        options: StartOptions,
        absent: &[usize],
        maybe: &BTreeSet<usize>,
    ) -> Entry {
        let n = self.setup.members();
        let absent: BTreeSet<usize> = absent.iter().copied().filter(|d| *d < n).collect();
        let surely = absent.difference(maybe).count();
        let perhaps = self.members(absent.union(maybe));
        let (k, size) = (self.setup.data, self.plan.size);
        Entry { options, absent: surely, perhaps, k, size }
    }

    fn cast(&self, life: &Life, rng: &mut Rng) -> (Cast, Vec<usize>) {
        let taken = self.taken();
        let mut extra = if rng.one_in(3) { Vec::new() } else { self.further(rng, &taken, false) };
        rng.shuffle(&mut extra);
        let absent = if rng.one_in(4) { rng.index(extra.len() + 1) } else { 0 };
        let lost = extra.split_off(extra.len() - absent);
        let mut victims = extra;
        victims.extend(self.dirty.difference(&self.out));
        let mut beyond = Vec::new();
        if life.beyond {
            let here = |d: &usize| !taken.contains(d) && !lost.contains(d) && !victims.contains(d);
            beyond = (0..self.setup.members()).filter(here).collect();
            rng.shuffle(&mut beyond);
            beyond.truncate(1 + rng.index(beyond.len().max(1)));
        }
        let spares = if life.beyond { 0 } else { self.plan.spares };
        let seats = self.setup.members() + self.setup.journals;
        let mut own = Rng::new(self.seed(life, 4));
        // They only ever take places of members that may be lost, so they may fail as well.
        victims.extend((seats..seats + spares).filter(|_| own.one_in(4)));
        let (dirty, honest) = (!self.dirty.is_empty(), self.honest);
        let grows = self.plan.larger > 0;
        (Cast { victims, taken, beyond, dirty, honest, spares, grows }, lost)
    }

    fn live(&mut self, life: &Life) -> Result<(), String> {
        let mut rng = Rng::new(self.seed(life, 2));
        self.tally.count("n/lives");
        if rng.one_in(4) {
            probe::refusals(self, &self.left.clone(), &self.taken(), &mut rng)?;
        }
        let (mut cast, lost) = self.cast(life, &mut rng);
        // Those that are out may be there, or not.
        let mut absent = lost.clone();
        absent.extend(self.out.iter().copied().filter(|_| rng.one_in(3)));
        let before = self.left.clone();
        let from = before.without(&absent).shuffled(rng.draw());
        let mut options = options(&mut rng, life.durable);
        if self.setup.data > self.plan.setup.data {
            // So that the requests meet stripes that are still to be moved.
            options.rebuild_rate = Some(1 << (18 + Rng::new(self.seed(life, 7)).below(8)));
        }
        let mut maybe = self.taken();
        maybe.extend(&cast.victims);
        let entry = self.entry(options, &absent, &maybe);
        cast.taken.extend(&lost);
        self.say(|| {
            format!(
                "life {} of {:?}:\n  lost {lost:?}, absent {absent:?}, {cast:?}",
                life.number, self.setup
            )
        });
        let seed = self.seed(life, 3);
        let ran = run(seed, &from, &self.setup, life, &cast, &self.judge, entry)?;
        self.tally.merge(&ran.tally);
        self.tally.add("n/crash points", ran.shots.len() as u64);
        self.tally.count("n/starts");
        self.say(|| {
            let oracle = ran.oracle.as_ref();
            format!(
                "{}\n  troubles {:?}, events {}, start done at {:?}, active {:?}",
                oracle.map_or(String::new(), |o| o.story(usize::MAX)),
                ran.story,
                ran.shots.len(),
                ran.started,
                ran.active
            )
        });
        self.states_of_members(&cast, &ran)?;
        self.out.extend(&lost);
        self.outcomes(&cast, &ran);
        if life.beyond && cast.dirty {
            // Of those that fail so many as the array bears are recorded as failed, for good; another
            // that was wrong in places before makes them too many: EIO is right there.
            return Ok(());
        }
        self.go_on(life, &cast, &ran, &before, &absent, &mut rng)
    }

    /// Only disks that had a reason are out of the array.
    fn states_of_members(&self, cast: &Cast, ran: &Ran) -> Result<(), String> {
        let all = self.setup.members() + self.setup.journals;
        let failed = |d: &usize| {
            ran.happened.iter().any(|(_, k, who)| *k == Kind::Reset || k.fails() && who == d)
        };
        for disk in (0..all).filter(|d| !cast.taken.contains(d)) {
            let may = cast.victims.contains(&disk) || cast.beyond.contains(&disk);
            if !ran.active.0.contains(&disk) && !may {
                return Err(format!(
                    "disk {disk} is out of the array after the start, for nothing"
                ));
            }
            if !ran.active.1.contains(&disk) && !failed(&disk) && !may {
                return Err(format!("disk {disk} is out of the array at the end, for nothing"));
            }
        }
        Ok(())
    }

    fn outcomes(&mut self, cast: &Cast, ran: &Ran) {
        for (_, kind, disk) in &ran.happened {
            let outcome = if ran.errors > 0 {
                "beyond m: EIO, nothing wrong"
            } else if cast.beyond.contains(disk) {
                "within m after all"
            } else if *kind == Kind::Reset || ran.active.1.contains(disk) {
                "no request failed"
            } else {
                "no request failed, member out"
            };
            self.tally.count(&format!("outcome/{kind}/{outcome}"));
        }
    }

    /// What is true of a crash state: what it has to hold, and who may be out.
    fn judge_of(&self, life: &Life, ran: &Ran, shot: &Snapshot, mode: Mode) -> Judge {
        match (&ran.oracle, ran.started) {
            (Some(oracle), Some(started)) if shot.event > started => {
                let broken = ran.errors > 0;
                let power = if life.durable { Floor::Acknowledged } else { Floor::Flushed };
                let kept = mode.is_process() && !broken;
                let floor = if kept { Floor::Acknowledged } else { power };
                Judge { oracle: oracle.clone(), mark: shot.mark, floor, power }
            }
            _ => self.judge.after(mode),
        }
    }

    fn go_on(
        &mut self,
        life: &Life,
        cast: &Cast,
        ran: &Ran,
        before: &Survivors,
        absent: &[usize],
        rng: &mut Rng,
    ) -> Result<(), String> {
        let mut taken: BTreeSet<usize> = self.taken();
        taken.extend(&cast.victims);
        let before_reset = taken.clone();
        if ran.happened.iter().any(|h| h.1 == Kind::Reset) {
            // Those that might have been out are not, if they served then.
            taken.retain(|d| !ran.active.0.contains(d) || self.dirty.contains(d));
            taken.extend(ran.active.0.difference(&ran.active.1));
        }
        let broken: Vec<usize> = ran.happened.iter().filter(|h| h.1.fails()).map(|h| h.2).collect();
        if !life.beyond {
            assert!(self.members(&taken) <= self.setup.parity, "the cast keeps to the rule");
        }
        self.lied = ran.happened.iter().any(|h| h.1.lies() || h.1.loses_cache());
        let count = ran.shots.len();
        let start = ran.started.map_or(count, |e| (e as usize).min(count));
        let mut next = None;
        for i in 0..STATES {
            let nth = match rng.below(8) {
                0 => rng.index(start.max(1)),
                // The moment when the start is done: all is as it was read.
                1 => start.min(count - 1),
                _ => rng.index(count),
            };
            let (shot, mut mode) = (&ran.shots[nth], any_mode(rng));
            // More disks than may be lost lack what they had not flushed. Should the process die before
            // it has written that again, whole stripes lie nowhere: as bad as a loss of power,
            // and with the ring there the start says so (14).
            while mode.is_process() && ran.was_reset_before(shot.event) {
                mode = any_mode(rng);
            }
            let judge = self.judge_of(life, ran, shot, mode);
            let found = shot.survive(mode);
            let phase = ran.phase_at(shot.event);
            self.tally.count(&format!("cut/{}/{phase}", mode_name(mode)));
            self.say(|| format!("  state {i}: event {} ({phase}), {mode}", shot.event));
            let served = ran.started.is_some_and(|started| shot.event > started);
            let whole = ran.whole.as_ref().filter(|(since, _)| shot.event > *since);
            let own;
            let (taken, seats) = match whole {
                Some((_, holders)) => {
                    own = self.taken_of_whole(ran, holders);
                    self.tally.count("n/crash states of arrays that were whole again");
                    (&own, Some(&holders[..]))
                }
                None if served && ran.was_reset_before(shot.event) && self.plan.spares > 0 => {
                    // One that was away may have come back since, and was out until then.
                    let all = self.setup.members() + self.setup.journals;
                    let out = seats::look(&found.disks, all).map(|s| s.out).unwrap_or_default();
                    own = taken.union(&out).copied().collect();
                    (&own, None)
                }
                None => (if served { &taken } else { &before_reset }, None),
            };
            self.look(&found, &judge, taken, seats, life.beyond, rng)
                .map_err(|e| format!("{e} [crash at event {}, {mode}]", shot.event))?;
            let mut own = Rng::new(self.seed(life, 100 + i as u64));
            if taken.is_empty() && own.one_in(8) {
                probe::lost_commit(self, &found, &judge, &mut own)
                    .map_err(|e| format!("{e} [crash at event {}, {mode}]", shot.event))?;
            }
            next = Some((found, judge, shot.event));
        }
        let (mut found, judge, mut event) = next.expect("there are crash states");
        let mut clean = false;
        self.judge = judge;
        if ran.stopped {
            let end = ran.shots.last().expect("there is an end");
            event = end.event;
            let kill = rng.one_in(2) && !ran.was_reset_before(end.event);
            let mode = if kill { Mode::Process(1) } else { Mode::PowerNone };
            found = if mode.is_process() { end.leave() } else { end.survive(mode) };
            self.judge = self.judge_of(life, ran, end, mode);
            clean = ran.scrubbed;
            let content = ran.content.as_ref().expect("it was read before it was stopped");
            let wrong = !clean && (!self.honest || ran.happened.iter().any(|h| h.1.lies()));
            if !wrong {
                crate::checkers::parity::check_at_rest(&found.disks, content)
                    .map_err(|e| format!("{e} [at rest]"))?;
                self.tally.count("n/arrays checked at rest");
            }
            if self.setup.checksums && rng.one_in(3) {
                probe::too_many_lies(self, &found, content, rng)?;
            }
            self.look(&found, &self.judge.clone(), &taken, None, life.beyond, rng)
                .map_err(|e| format!("{e} [after the stop]"))?;
        }
        // The parts of the next life.
        // Before the start is done nobody is taken back for good.
        if ran.started.is_some_and(|started| event > started) {
            self.out = (0..self.setup.members() + self.setup.journals)
                .filter(|d| !ran.active.0.contains(d) || !ran.active.1.contains(d))
                .collect();
        }
        self.out.extend(broken.iter().filter(|d| cast.victims.contains(d)));
        if clean {
            self.dirty.clear();
        } else {
            let wrong = ran.happened.iter().filter(|h| h.1.lies()).map(|h| h.2);
            self.dirty.extend(wrong);
        }
        self.honest &= !ran.happened.iter().any(|h| h.1.lies() || h.1.loses_cache());
        let gone = before.disks.iter().filter(|d| absent.contains(&d.id)).cloned();
        found.disks.extend(gone);
        self.left = found;
        if self.plan.spares > 0 {
            self.settle(ran.started.is_some_and(|started| event > started), &broken);
        }
        Ok(())
    }

    /// Members of a whole array that are not to be counted on: those whose disks are wrong in places, or
    /// fail.
    fn taken_of_whole(&self, ran: &Ran, holders: &[usize]) -> BTreeSet<usize> {
        let sick = |disk: &usize| {
            let own = ran.happened.iter().filter(|h| h.2 == *disk);
            self.dirty.contains(disk) || own.into_iter().any(|h| h.1.lies() || h.1.fails())
        };
        holders.iter().enumerate().filter(|(_, disk)| sick(disk)).map(|(seat, _)| seat).collect()
    }

    /// Disks may have taken places: who is who from now on.
    fn settle(&mut self, served: bool, broken: &[usize]) {
        let all = self.setup.members() + self.setup.journals;
        let Some(seats) = seats::look(&self.left.disks, all) else { return };
        let numbers = seats::settle(&mut self.left, &seats);
        let now = |disks: &BTreeSet<usize>| -> BTreeSet<usize> {
            disks.iter().filter_map(|d| numbers.get(d).copied()).filter(|d| *d < all).collect()
        };
        self.dirty = now(&self.dirty);
        let changed: BTreeSet<usize> = (0..all).filter(|d| numbers.get(d) != Some(d)).collect();
        if served {
            self.out = now(&broken.iter().copied().collect());
        } else {
            self.out.retain(|d| *d < all && !changed.contains(d));
        }
        self.out.extend(seats.out);
    }

    /// Starts from a crash state with several sets of further disks lost: what is there is right,
    /// each time.
    fn look(
        &mut self,
        found: &Survivors,
        judge: &Judge,
        taken: &BTreeSet<usize>,
        seats: Option<&[usize]>,
        beyond: bool,
        rng: &mut Rng,
    ) -> Result<(), String> {
        for i in 0..3 {
            let mut lost = match i {
                0 => Vec::new(),
                // What is beyond the promise is never recorded: with all of them back, all is there.
                _ if beyond => Vec::new(),
                1 => self.further(rng, taken, true),
                _ => self.further(rng, taken, false),
            };
            lost.extend(taken.iter().copied().filter(|_| !beyond && rng.one_in(3)));
            let (read_only, destage) = (rng.one_in(2), rng.one_in(2));
            let durable = rng.one_in(2);
            let options = StartOptions { read_only, ..options(rng, durable) };
            let entry = self.entry(options, &lost, taken);
            if let Some(seats) = seats {
                lost.iter_mut().for_each(|seat| *seat = seats[*seat]);
            }
            let from = found.without(&lost).shuffled(rng.draw());
            let sim = Simulation::new(rng.draw(), &from);
            let (world, disks) = (sim.world(), sim.disks());
            let step = |e: String| {
                format!(
                    "{e} [without disks {lost:?}{}]",
                    if read_only { ", read-only" } else { "" }
                )
            };
            let honest = self.honest && !self.lied;
            let filled = self.plan.spares > 0 && i == 0 && !read_only && !beyond;
            let got = sim.run(LIMIT, async move {
                let (device, told) = open(&world, &disks, &entry).await?;
                let content = read_all(&device).await?;
                if filled {
                    look_at_what_is_filled(&device, honest).await?;
                }
                if destage && !read_only {
                    device.destage().await.map_err(|e| format!("destaging failed: {e}"))?;
                    let after = read_all(&device).await?;
                    if let Some(at) = content.iter().zip(&after).position(|(a, b)| a != b) {
                        return Err(format!("destaging changed what is read at byte {at}"));
                    }
                }
                Ok((content, told))
            });
            let got = got.map_err(|s| s.to_string()).and_then(|inner| inner);
            if got.is_err() {
                self.say(|| crate::checkers::parity::describe(&from.disks));
                self.say(|| describe_log(found));
            }
            let (content, told) = got.map_err(step)?;
            judge.check(&content).map_err(step)?;
            self.tally.count("n/starts");
            self.tally.count("n/contents judged");
            self.tally.add("n/starts refused until told", u64::from(told));
        }
        self.tally.count("n/crash states");
        Ok(())
    }
}

/// Waits until what is being filled is a member, and has everything looked at then.
async fn look_at_what_is_filled(device: &Evenkeel, honest: bool) -> Result<(), String> {
    if device.array().status().rebuild.is_none() || device.array().rebuilt().await.is_err() {
        return Ok(());
    }
    // One may be under way that an earlier life began.
    device.array().scrub_ended().await.map_err(|e| format!("scrub: {e}"))?;
    device.array().start_scrub(true).await.map_err(|e| format!("scrub: {e}"))?;
    device.array().scrub_ended().await.map_err(|e| format!("scrub: {e}"))?;
    match device.found_wrong() {
        n if n > 0 && honest => Err(format!("{n} blocks or pages are wrong after a rebuild")),
        _ => Ok(()),
    }
}

/// The columns of the log whose headers are whole, a line a commit.
fn describe_log(from: &Survivors) -> String {
    let mut text = String::new();
    for (number, all) in crate::damage::columns(from) {
        let h = &all[0].header;
        let disks: Vec<usize> = all.iter().map(|c| c.disk).collect();
        text += &format!(
            "  commit {number} after {}: durable {}, tail {}, width {}, members {:?}, row {}, {} rows; on disks {disks:?}\n",
            h.prev_number.0, h.durable.0, h.tail.0, h.width, h.members, h.row, h.rows
        );
    }
    text
}
