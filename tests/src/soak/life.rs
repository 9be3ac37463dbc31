//! One life of an array: started from what is on the disks, used by several clients while disks
//! misbehave, perhaps scrubbed, perhaps stopped. What would survive a crash is kept for every event.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::World;
use evenkeel_raid::{Ack, Array, ArrayError, ErrorKind, StartOptions};

use super::orders;
use super::plan::{Life, When};
use super::tally::Tally;
use super::trouble::{Kind, Trouble};
use super::voyage::Judge;
use crate::crash::run::read_all;
use crate::evenkeel::Evenkeel;
use crate::oracle::{Floor, Oracle};
use crate::rng::{Rng, hash};
use crate::sim::{Reset, SimDisk, SimWorld, Simulation, Snapshot, Survivors};
use crate::subject::{Setup, Subject};
use crate::workload::Op;

/// Simulated time that a life may take.
pub(super) const LIMIT: Duration = Duration::from_secs(3600);

/// What the array is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    Starting,
    Serving,
    Scrubbing,
    Stopping,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Scrubbing => "scrubbing",
            Phase::Stopping => "stopping",
        }
    }
}

/// Who plays which part in a life.
#[derive(Clone, Debug, Default)]
pub(super) struct Cast {
    /// Disks that may misbehave: with those that are out, no more than may be lost.
    pub(super) victims: Vec<usize>,
    /// Disks out of the array, or wrong in places, before.
    pub(super) taken: BTreeSet<usize>,
    /// Further ones, beyond what the array bears.
    pub(super) beyond: Vec<usize>,
    /// Whether some may be wrong in places.
    pub(super) dirty: bool,
    /// Whether no disk was ever wrong without a word.
    pub(super) honest: bool,
    /// Further disks that spares are made of.
    pub(super) spares: usize,
    /// Whether the disks are larger than what the array uses at first.
    pub(super) grows: bool,
}

/// What is shared by the tasks of a life.
pub(super) struct Shared {
    pub(super) phase: Cell<Phase>,
    device: RefCell<Option<Evenkeel>>,
    oracle: RefCell<Option<Oracle>>,
    /// Event at which the start was done; the phases after it likewise.
    started: Cell<Option<u64>>,
    phases: RefCell<Vec<(u64, Phase)>>,
    /// Events between which somebody waited for a destage of everything.
    destages: RefCell<Vec<(u64, u64)>>,
    happened: RefCell<Vec<(u64, Kind, usize)>>,
    story: RefCell<Vec<String>>,
    /// Disks that failed for good.
    broken: RefCell<BTreeSet<usize>>,
    wrong: RefCell<Option<String>>,
    errors: Cell<u64>,
    tally: RefCell<Tally>,
}

impl Shared {
    fn new() -> Shared {
        Shared {
            phase: Cell::new(Phase::Starting),
            device: RefCell::new(None),
            oracle: RefCell::new(None),
            started: Cell::new(None),
            phases: RefCell::new(Vec::new()),
            destages: RefCell::new(Vec::new()),
            happened: RefCell::new(Vec::new()),
            story: RefCell::new(Vec::new()),
            broken: RefCell::new(BTreeSet::new()),
            wrong: RefCell::new(None),
            errors: Cell::new(0),
            tally: RefCell::new(Tally::default()),
        }
    }

    fn enter(&self, world: &SimWorld, phase: Phase) {
        self.phase.set(phase);
        self.phases.borrow_mut().push((world.events(), phase));
    }

    /// What the array is doing now, in words.
    fn state(&self) -> &'static str {
        let destaging = self.destages.borrow().iter().any(|(_, to)| *to == u64::MAX);
        if destaging { "destaging" } else { self.phase.get().name() }
    }

    fn wrong(&self, text: String) {
        self.wrong.borrow_mut().get_or_insert(text);
    }
}

/// How a life went.
pub(super) struct Ran {
    /// What would survive a crash at each event.
    pub(super) shots: Vec<Snapshot>,
    /// The event at which the start was done.
    pub(super) started: Option<u64>,
    /// The requests since then.
    pub(super) oracle: Option<Oracle>,
    /// Troubles: after which event, what, which disk.
    pub(super) happened: Vec<(u64, Kind, usize)>,
    /// The same in words.
    pub(super) story: Vec<String>,
    /// Disks that are active, at the start and at the end.
    pub(super) active: (BTreeSet<usize>, BTreeSet<usize>),
    /// From which event on nobody was out, and the disk of each member and journal device then.
    pub(super) whole: Option<(u64, Vec<usize>)>,
    /// What the device held at the end, if it could all be read.
    pub(super) content: Option<Rc<Vec<u8>>>,
    /// Whether it was scrubbed to the end with honest disks, and stopped.
    pub(super) scrubbed: bool,
    pub(super) stopped: bool,
    /// Requests that failed.
    pub(super) errors: u64,
    phases: Vec<(u64, Phase)>,
    destages: Vec<(u64, u64)>,
    pub(super) tally: Tally,
}

impl Ran {
    /// Whether many disks were reset before an event.
    pub(super) fn was_reset_before(&self, event: u64) -> bool {
        self.happened.iter().any(|(when, kind, _)| *kind == Kind::Reset && *when < event)
    }

    /// What the array was doing at an event.
    pub(super) fn phase_at(&self, event: u64) -> &'static str {
        // About as many as it takes to write epochs to all superblocks.
        let failing = |h: &(u64, Kind, usize)| h.1.fails() && (h.0..h.0 + 100).contains(&event);
        if self.happened.iter().any(failing) {
            return "after a failure";
        }
        if self.destages.iter().any(|(from, to)| (*from..*to).contains(&event)) {
            return "destaging";
        }
        let past = self.phases.iter().rev().find(|(from, _)| *from <= event);
        past.map_or(Phase::Starting, |(_, p)| *p).name()
    }
}

/// How to start, and when a refusal is right.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) options: StartOptions,
    /// Members that are certainly absent and were active, and those that may be.
    pub(super) absent: usize,
    pub(super) perhaps: usize,
    pub(super) k: usize,
    /// Bytes that the device has from the beginning.
    pub(super) size: u64,
}

/// Starts the array; where k or more members are absent it has to be told that this is known.
pub(super) async fn open(
    world: &SimWorld,
    disks: &[SimDisk],
    entry: &Entry,
) -> Result<(Evenkeel, bool), String> {
    let text = |e: ArrayError| format!("start failed: {e} (exit code {})", e.kind.exit_code());
    match Array::start(world, disks, &entry.options, &|_| ()).await {
        Ok(_) if entry.absent >= entry.k => {
            Err("start went on with k or more members absent, and nobody said it may".to_owned())
        }
        Ok(array) => Ok((Evenkeel::of(array).first(entry.size), false)),
        Err(e) if e.kind == ErrorKind::TooFew && entry.absent.max(entry.perhaps) >= entry.k => {
            let told = StartOptions { accept_missing: true, ..entry.options };
            match Array::start(world, disks, &told, &|_| ()).await {
                Ok(array) => Ok((Evenkeel::of(array).first(entry.size), true)),
                Err(e) => Err(text(e)),
            }
        }
        Err(e) => Err(text(e)),
    }
}

/// The disks whose members hold everything.
pub(super) fn active(device: &Evenkeel, disks: usize) -> BTreeSet<usize> {
    let members = device.array().status().members;
    let id = |path: &str| (0..disks).find(|d| crate::sim::path_of(*d) == path);
    let on = members.iter().filter(|m| m.state.serves());
    on.filter_map(|m| id(&m.path)).collect()
}

/// The disks of all members and journal devices that are active, in their order.
fn holders(device: &Evenkeel, disks: usize) -> Vec<usize> {
    let members = device.array().status().members;
    let id = |path: &str| (0..disks).find(|d| crate::sim::path_of(*d) == path);
    members.iter().filter(|m| m.state.serves()).filter_map(|m| id(&m.path)).collect()
}

/// One client's requests. `may_fail` says whether a request may be answered with an error now.
async fn client(
    world: SimWorld,
    device: Evenkeel,
    ops: Vec<Op>,
    oracle: Oracle,
    shared: Rc<Shared>,
    may_fail: Rc<dyn Fn() -> bool>,
) {
    for op in ops {
        shared.tally.borrow_mut().count("n/requests");
        let answered = |id, done: Result<(), String>| {
            oracle.answered(id, done.is_ok());
            done
        };
        let done = match op {
            Op::Transaction(ref ranges) => {
                let (id, parts) = oracle.together(ranges);
                answered(id, device.transaction(parts).await)
            }
            Op::Write(at, len, fua) => {
                let (id, data) = oracle.write(at, len, fua);
                answered(id, device.write(at, data, fua).await)
            }
            Op::Discard(at, len, fua) => {
                let id = oracle.discard(at, len, fua);
                answered(id, device.discard(at, len, fua).await)
            }
            Op::Flush => {
                let id = oracle.flush();
                answered(id, device.flush().await)
            }
            Op::Read(at, len) => {
                let start = oracle.read();
                match device.read(at, len).await {
                    Ok(bytes) => {
                        if let Err(v) = oracle.check_read(start, at, &bytes) {
                            shared.wrong(v.0);
                        }
                        Ok(())
                    }
                    Err(e) => Err(e),
                }
            }
            Op::Destage => {
                let nth = shared.destages.borrow().len();
                shared.destages.borrow_mut().push((world.events(), u64::MAX));
                let done = device.destage().await;
                shared.destages.borrow_mut()[nth].1 = world.events();
                done
            }
            Op::Sleep(ms) => {
                world.sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
            ref other => Err(format!("{other:?} is no request")),
        };
        if let Err(e) = done {
            shared.errors.set(shared.errors.get() + 1);
            if !may_fail() {
                shared.wrong(format!("{op:?} failed: {e}"));
            }
        }
    }
}

/// What the array knows of why it cannot give something.
fn whole_story(e: String, device: &Evenkeel) -> String {
    let status = device.array().status();
    let wrong: Vec<u64> = status.members.iter().map(|m| m.checksum_errors).collect();
    let (lost, notices) = (status.stripes.lost_blocks, device.array().notices());
    format!(
        "{e} [checksum errors {wrong:?}, lost blocks {lost}, replay {:?}, {notices:?}]",
        status.replay
    )
}

/// Runs clients beside each other to their ends.
async fn clients(
    world: &SimWorld,
    device: &Evenkeel,
    lists: Vec<Vec<Op>>,
    oracle: &Oracle,
    shared: &Rc<Shared>,
    may_fail: &Rc<dyn Fn() -> bool>,
) {
    let one = |ops| {
        let (world, device, oracle) = (world.clone(), device.clone(), oracle.clone());
        client(world, device, ops, oracle, Rc::clone(shared), Rc::clone(may_fail))
    };
    world.beside_each_other("client", lists.into_iter().map(one)).await;
}

/// All that a trouble needs to know when its time has come.
#[derive(Clone)]
struct Stage {
    cast: Cast,
    setup: Setup,
    shared: Rc<Shared>,
}

/// Has the troubles of a life happen that come after an event of it, or after its start.
fn arrange(world: &SimWorld, life: &Life, stage: &Stage, started: Option<u64>) {
    for (_, when, kind, salt) in life.troubles.iter().copied() {
        let event = match (when, started) {
            (When::Event(event), None) => event,
            (When::Served(after), Some(started)) => started + after,
            _ => continue,
        };
        let stage = stage.clone();
        world.at_event(event, move |world| stage.trouble(world, kind, salt));
    }
}

impl Stage {
    /// A trouble comes, if there is a disk that may have it.
    fn trouble(&self, world: &SimWorld, kind: Kind, salt: u64) {
        let shared = &self.shared;
        let starting = shared.phase.get() == Phase::Starting;
        let mut rng = Rng::new(salt);
        let Some((disk, reset)) = self.who(kind, starting, &mut rng) else { return };
        let trouble = Trouble { kind, disk, reset, salt: rng.draw() };
        if !trouble.happen(world) {
            return;
        }
        let device = shared.device.borrow().clone();
        if let Some(device) = device.filter(|_| kind == Kind::Order) {
            world.spawn("an order", async move {
                // Refused if it is out already.
                let _ = device.fail_member(disk).await;
            });
        }
        if kind.fails() {
            shared.broken.borrow_mut().insert(disk);
        }
        shared.happened.borrow_mut().push((world.events(), kind, disk));
        shared.story.borrow_mut().push(format!("event {}: {trouble:?}", world.events()));
        let degraded = if self.cast.taken.is_empty() { "" } else { ", degraded" };
        let place = format!("fault/{kind}/{}{degraded}", shared.state());
        shared.tally.borrow_mut().count(&place);
    }

    /// The disk, or the disks, that a trouble befalls.
    fn who(&self, kind: Kind, starting: bool, rng: &mut Rng) -> Option<(usize, Option<Reset>)> {
        let (cast, setup) = (&self.cast, &self.setup);
        let n = setup.members();
        match kind {
            Kind::Slow => return Some((rng.index(n + setup.journals), None)),
            // Of members that are reset some may stay out: those whose superblocks were just being
            // written. With others that may be wrong, too, they could be too many.
            Kind::Reset if starting || !cast.victims.is_empty() || cast.dirty => return None,
            // Without checksums nobody can tell what such a disk has lost, should the process die
            // before its failure is recorded.
            Kind::FlushErrors if !setup.checksums => return None,
            Kind::Reset => {
                let reset = super::voyage::reset_of_many(rng, setup, cast)?;
                return Some((reset.disks[0], Some(reset)));
            }
            _ => {}
        }
        let mut all: Vec<usize> = cast.victims.iter().chain(&cast.beyond).copied().collect();
        all.retain(|d| !self.shared.broken.borrow().contains(d));
        // Journal devices hold no blocks; a person fails members of an array that serves.
        match kind {
            Kind::BadSectors => all.retain(|d| *d < n),
            kind if kind.lies() => all.retain(|d| *d < n && setup.checksums),
            Kind::Order => all.retain(|d| *d < n && !starting),
            _ => {}
        }
        (!all.is_empty()).then(|| (all[rng.index(all.len())], None))
    }
}

/// Runs a life to its end and keeps its crash states.
///
/// # Errors
/// What is wrong.
pub(super) fn run(
    seed: u64,
    from: &Survivors,
    setup: &Setup,
    life: &Life,
    cast: &Cast,
    judge: &Judge,
    entry: Entry,
) -> Result<Ran, String> {
    let sim = Simulation::new(seed, from);
    sim.record();
    let shared = Rc::new(Shared::new());
    let stage = Stage { cast: cast.clone(), setup: setup.clone(), shared: Rc::clone(&shared) };
    arrange(&sim.world(), life, &stage, None);
    let (world, disks, mark) = (sim.world(), sim.disks(), sim.mark());
    let (own, told, life, judge) = (Rc::clone(&shared), cast.clone(), life.clone(), judge.clone());
    let setup = setup.clone();
    let ends = sim.run(LIMIT, async move {
        let (shared, cast) = (own, told);
        let seats = setup.members() + setup.journals;
        let total = seats + cast.spares;
        let (device, _) = open(&world, &disks, &entry).await?;
        shared.started.set(Some(world.events()));
        shared.enter(&world, Phase::Serving);
        let begins = active(&device, total);
        let content = Rc::new(read_all(&device).await.map_err(|e| whole_story(e, &device))?);
        judge.check(&content)?;
        let oracle = judge.oracle.next_life(content, mark);
        *shared.oracle.borrow_mut() = Some(oracle.clone());
        *shared.device.borrow_mut() = Some(device.clone());
        arrange(&world, &life, &stage, Some(world.events()));

        let lists = life.clients.iter().map(|c| c.iter().map(|(_, op)| op.clone()).collect());
        let (broken, taken) = (Rc::clone(&shared), cast.taken.clone());
        let (n, m) = (setup.members(), setup.parity);
        let may_fail: Rc<dyn Fn() -> bool> = Rc::new(move || {
            let broken = broken.broken.borrow();
            let all = broken.union(&taken).filter(|d| **d < n).count();
            all > m
        });
        if cast.spares > 0 && cast.beyond.is_empty() {
            let (own, n) = (Rc::clone(&shared), setup.members());
            let tell = move |done: orders::Done| {
                let how = match done.how {
                    Ok(()) => "done".to_owned(),
                    Err(kind) => format!("refused: {kind:?}"),
                };
                own.story.borrow_mut().push(format!("{}: {how}", done.what));
                own.tally.borrow_mut().count(&format!("order/{}/{how}", done.what));
            };
            let (own, who) = (world.clone(), cast.clone());
            let orders = orders::give_some(own, device.clone(), who, n, seed, tell);
            world.spawn("orders", orders);
        }
        if cast.grows {
            grow_at_some_time(&world, &device, &shared, seed);
        }
        clients(&world, &device, lists.collect(), &oracle, &shared, &may_fail).await;
        if !cast.beyond.is_empty() {
            look_at_what_is_left(&device, &oracle, &shared, &may_fail).await;
            return Ok((begins, active(&device, total), None, false, false, None));
        }
        let content = read_all(&device).await.map_err(|e| whole_story(e, &device))?;
        oracle
            .check_crash(&content, oracle.length(), Floor::Acknowledged)
            .map_err(|v| format!("{v} [at the end of a life]"))?;
        let lied = shared.happened.borrow().iter().any(|h| h.1.lies() || h.1.loses_cache());
        if cast.honest && !lied && device.found_wrong() > 0 {
            let e = "something is said to be wrong, and no disk lied".to_owned();
            return Err(whole_story(e, &device));
        }
        bounds(&device)?;
        let mut whole = None;
        if cast.spares > 0 && !seed.is_multiple_of(3) {
            // If disks fail meanwhile, there may be none left to take places.
            let _ = device.array().rebuilt().await;
            let holders = holders(&device, total);
            if holders.len() == seats {
                shared.tally.borrow_mut().count("n/arrays whole again, or still");
                whole = Some((world.events(), holders));
            }
        }
        let (mut scrubbed, mut honest_since) = (false, 0);
        if life.scrub {
            shared.enter(&world, Phase::Scrubbing);
            cast.victims.iter().for_each(|d| world.be_honest(*d));
            honest_since = world.events();
            let began = device.array().start_scrub(false).await;
            if began.is_ok() {
                device.array().scrub_ended().await.map_err(|e| format!("scrub: {e}"))?;
            }
            let run = device.array().status().scrub;
            scrubbed = began.is_ok() && run.is_some_and(|s| s.unrepairable == 0);
            let again = read_all(&device).await.map_err(|e| whole_story(e, &device))?;
            if again != content {
                return Err("the scrub changed what is read".to_owned());
            }
        }
        let reset = shared.happened.borrow().iter().any(|h| h.1 == Kind::Reset);
        if reset && active(&device, total) != begins {
            // They may be away for a while yet.
            let id = oracle.flush();
            let done = device.flush().await;
            oracle.answered(id, done.is_ok());
            done.map_err(|e| format!("a flush after a reset failed: {e}"))?;
        }
        let ends = active(&device, total);
        if life.stop {
            shared.enter(&world, Phase::Stopping);
            let id = oracle.flush();
            let done = device.stop().await;
            oracle.answered(id, done.is_ok());
            done.map_err(|e| format!("stop failed: {e}"))?;
        }
        // In the scrub or the stop a disk may have gone wrong again.
        scrubbed &= !shared.happened.borrow().iter().any(|h| h.1.lies() && h.0 >= honest_since);
        // If others were in these places at the end, it was not whole all the time.
        whole = whole.filter(|(_, own)| own.iter().copied().collect::<BTreeSet<usize>>() == ends);
        Ok((begins, ends, Some(Rc::new(content)), scrubbed, life.stop, whole))
    });
    *shared.device.borrow_mut() = None;
    let ends = ends.map_err(|stop| stop.to_string()).and_then(|inner| inner);
    let wrong = shared.wrong.borrow_mut().take();
    let ends = if let Some(wrong) = wrong { Err(wrong) } else { ends };
    let story = shared.story.borrow().join("; ");
    let (begins, ended, content, scrubbed, stopped, whole) =
        ends.map_err(|e| format!("{e} [troubles so far: {story}]"))?;
    Ok(Ran {
        shots: sim.recorded(),
        started: shared.started.get(),
        oracle: shared.oracle.borrow_mut().take(),
        happened: shared.happened.borrow().clone(),
        story: shared.story.borrow().clone(),
        active: (begins, ended),
        whole,
        content,
        scrubbed,
        stopped,
        errors: shared.errors.get(),
        phases: shared.phases.borrow().clone(),
        destages: shared.destages.borrow().clone(),
        tally: shared.tally.borrow().clone(),
    })
}

/// Has the array grow, while clients use it and disks misbehave. What is new is not judged here.
fn grow_at_some_time(world: &SimWorld, device: &Evenkeel, shared: &Rc<Shared>, seed: u64) {
    let mut rng = Rng::new(hash(&[seed, 0x9707]));
    if rng.one_in(3) {
        return;
    }
    let (own, device, shared) = (world.clone(), device.clone(), Rc::clone(shared));
    world.spawn("grow", async move {
        own.sleep(Duration::from_micros(rng.below(30_000))).await;
        let how = match device.array().grow_size().await {
            Ok(_) => "done".to_owned(),
            Err(e) => format!("refused: {:?}", e.kind),
        };
        shared.story.borrow_mut().push(format!("the array grows: {how}"));
        shared.tally.borrow_mut().count(&format!("order/the array grows/{how}"));
    });
}

/// Reads all of a device that has lost too much: what it gives has to be right.
async fn look_at_what_is_left(
    device: &Evenkeel,
    oracle: &Oracle,
    shared: &Rc<Shared>,
    may_fail: &Rc<dyn Fn() -> bool>,
) {
    // Of a disk that hangs each read may have to wait for the bound.
    let step = 65536.min(device.size());
    let every = (device.size() / 8).next_multiple_of(4096).max(step);
    for at in (0..=device.size() - step).step_by(every as usize) {
        let start = oracle.read();
        match device.read(at, step).await {
            Ok(bytes) => {
                if let Err(v) = oracle.check_read(start, at, &bytes) {
                    shared.wrong(v.0);
                }
            }
            Err(_) if may_fail() => {
                shared.tally.borrow_mut().count("n/reads with EIO beyond the tolerance");
            }
            Err(e) => shared.wrong(format!("a read at {at} failed: {e}")),
        }
    }
}

/// Memory and log stay within what was allotted.
fn bounds(device: &Evenkeel) -> Result<(), String> {
    let status = device.array().status();
    if status.cache.dirty_bytes > status.cache.size_bytes {
        return Err(format!("the cache is larger than allowed: {:?}", status.cache));
    }
    if status.log.used_bytes > status.log.size_bytes {
        return Err(format!("more of the log is in use than there is: {:?}", status.log));
    }
    Ok(())
}

/// How this life starts its array.
pub(super) fn options(rng: &mut Rng, durable: bool) -> StartOptions {
    StartOptions {
        ack: if durable { Ack::Durable } else { Ack::Cached },
        checksum_cache: if rng.one_in(3) { Some(1) } else { None },
        io_timeout: Some(Duration::from_secs(5 + rng.below(40))),
        ..StartOptions::default()
    }
}
