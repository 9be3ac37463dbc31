//! The simulated world: a seeded executor, a clock that moves with the work, random numbers,
//! ring memory, and a count of everything that happens.
//!
//! An *event* is the issue of a disk operation, its completion, a store to ring memory, and the
//! making or removing of a ring. Events are numbered from 1. A crash at event e means: events
//! 1 to e-1 happened, e and all later ones did not; the tasks are dropped where they stand.
//! While recording, the world keeps what would survive a crash at each event (pages are shared, so
//! this costs little): one run gives all its crash states.
//!
//! Everything follows from the seed: which ready task runs next, how long an operation takes, how
//! much time a step takes, which random numbers are given.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use evenkeel_journal::sync::{Signal, join_all};
use evenkeel_journal::{RunIdentity, World};

use super::disk::{Counters, DiskImage, DiskState, Fault, Op, SimDisk};
use super::image::Image;
use super::lies::{Lie, Lies};
use super::ring::{RingState, SimRing, Store};
use super::{Reset, Snapshot, Stop, Survivors};
use crate::rng::{Rng, hash, mix};

struct TaskWaker {
    id: usize,
    queued: AtomicBool,
    ready: Arc<Mutex<Vec<usize>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().expect("nobody panics with it").push(self.id);
        }
    }
}

struct Task {
    name: &'static str,
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    wake: Arc<TaskWaker>,
    polls: u64,
}

enum Due {
    Timer(Rc<TimerSlot>),
    Op(Op),
}

#[derive(Default)]
struct TimerSlot {
    over: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

/// The inside of a world; disks, rings and timers refer to it.
pub(super) struct Sim {
    schedule: RefCell<Rng>,
    chance: RefCell<Rng>,
    now: Cell<u64>,
    /// What the clock on the wall is ahead of `now`, in seconds.
    wall: Cell<u64>,
    events: Cell<u64>,
    crash_at: Cell<u64>,
    dead: Cell<bool>,
    violation: RefCell<Option<String>>,
    tasks: RefCell<Vec<Task>>,
    ready: Arc<Mutex<Vec<usize>>>,
    due: RefCell<BTreeMap<(u64, u64), Due>>,
    due_number: Cell<u64>,
    hung: RefCell<Vec<Op>>,
    disks: Vec<RefCell<DiskState>>,
    rings: RefCell<BTreeMap<u128, Rc<RingState>>>,
    boot: u64,
    host: u128,
    cut: RefCell<Option<Store>>,
    record: RefCell<Option<Vec<Snapshot>>>,
    /// What is to be done to the world, by the event after which it is.
    hooks: RefCell<BTreeMap<u64, Vec<Hook>>>,
    mark: Rc<Cell<usize>>,
}

const START: u64 = 1_000_000_000;
/// Seconds since 1970 that a world's clock on the wall begins at, until it is set.
const WALL: u64 = 1_700_000_000;

/// Something that a test does to the world.
type Hook = Box<dyn FnOnce(&SimWorld)>;

impl Sim {
    pub(super) fn rng(&self) -> RefMut<'_, Rng> {
        self.schedule.borrow_mut()
    }

    pub(super) fn disk(&self, index: usize) -> RefMut<'_, DiskState> {
        self.disks[index].borrow_mut()
    }

    pub(super) fn violation(&self, text: String) {
        self.violation.borrow_mut().get_or_insert(text);
    }

    /// Counts an event; whether it has an effect.
    pub(super) fn event(&self) -> bool {
        self.event_with(|| None)
    }

    /// Counts a store to ring memory, which may be cut in the middle.
    pub(super) fn ring_event(&self, store: impl FnOnce() -> Store) -> bool {
        self.event_with(|| Some(store()))
    }

    fn event_with(&self, store: impl FnOnce() -> Option<Store>) -> bool {
        if self.dead.get() {
            return false;
        }
        let number = self.events.get() + 1;
        self.events.set(number);
        let last = number >= self.crash_at.get();
        if last {
            *self.cut.borrow_mut() = store();
            self.dead.set(true);
        } else if self.record.borrow().is_some() {
            let shot = self.snapshot(number, store());
            self.record.borrow_mut().as_mut().expect("it records").push(shot);
        }
        !last
    }

    fn hooks_due(&self) -> Vec<Hook> {
        let mut hooks = self.hooks.borrow_mut();
        match hooks.first_entry() {
            Some(first) if *first.key() <= self.events.get() => first.remove(),
            _ => Vec::new(),
        }
    }

    fn snapshot(&self, event: u64, cut: Option<Store>) -> Snapshot {
        let rings = self.rings.borrow().iter().map(|(id, r)| (*id, r.image())).collect();
        Snapshot {
            event,
            mark: self.mark.get(),
            disks: self.disks.iter().map(|d| d.borrow_mut().image()).collect(),
            rings,
            boot: self.boot,
            host: self.host,
            cut,
        }
    }

    fn at(&self, when: u64, what: Due) -> (u64, u64) {
        let number = self.due_number.get();
        self.due_number.set(number + 1);
        self.due.borrow_mut().insert((when, number), what);
        (when, number)
    }

    fn id_of(&self, op: &Op) -> usize {
        self.disk(op.disk()).image_id()
    }

    /// Puts an operation on its way.
    pub(super) fn issue(&self, op: Op, disk: usize) {
        if self.disk(disk).fault() == Some(Fault::Hang) {
            self.hung.borrow_mut().push(op);
            return;
        }
        let factor = self.disk(disk).slower();
        let micros = factor * {
            let mut rng = self.rng();
            match rng.below(128) {
                0 => 5000 + rng.below(15_000),
                1..8 => 300 + rng.below(2700),
                _ => 20 + rng.below(180),
            }
        };
        self.at(self.now.get() + micros * 1000, Due::Op(op));
    }

    fn spawn(&self, name: &'static str, future: Pin<Box<dyn Future<Output = ()>>>) {
        let id = self.tasks.borrow().len();
        let ready = Arc::clone(&self.ready);
        let wake = Arc::new(TaskWaker { id, queued: AtomicBool::new(false), ready });
        self.tasks.borrow_mut().push(Task {
            name,
            future: Some(future),
            wake: Arc::clone(&wake),
            polls: 0,
        });
        wake.wake();
    }

    /// Runs one task that is ready, if there is one.
    fn step(&self) -> bool {
        let id = {
            let mut ready = self.ready.lock().expect("nobody panics with it");
            if ready.is_empty() {
                return false;
            }
            let i = self.rng().index(ready.len());
            ready.swap_remove(i)
        };
        let (future, wake) = {
            let task = &mut self.tasks.borrow_mut()[id];
            task.polls += 1;
            (task.future.take(), Arc::clone(&task.wake))
        };
        wake.queued.store(false, Ordering::Relaxed);
        self.now.set(self.now.get() + 1000 * (1 + self.rng().below(6)));
        if let Some(mut future) = future {
            let waker = Waker::from(wake);
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
                && let Some(task) = self.tasks.borrow_mut().get_mut(id)
            {
                task.future = Some(future);
            }
        }
        true
    }

    /// Ends what is due; without `idle` only what is due by now.
    fn fire(&self, idle: bool) -> bool {
        let first = {
            let mut due = self.due.borrow_mut();
            match due.first_entry() {
                Some(e) if idle || e.key().0 <= self.now.get() => Some(e.remove_entry()),
                _ => None,
            }
        };
        let Some(((when, _), what)) = first else {
            return false;
        };
        self.now.set(self.now.get().max(when));
        match what {
            Due::Timer(slot) => {
                slot.over.set(true);
                if let Some(w) = slot.waker.take() {
                    w.wake();
                }
            }
            Due::Op(op) => {
                if self.event() {
                    op.complete(self);
                }
            }
        }
        true
    }

    fn report(&self) -> String {
        let tasks = self.tasks.borrow();
        let alive: Vec<String> = tasks
            .iter()
            .enumerate()
            .filter(|(_, t)| t.future.is_some())
            .map(|(i, t)| format!("{}#{i} ({} polls)", t.name, t.polls))
            .collect();
        let hung = self.hung.borrow().len();
        format!("tasks that wait: {}; {hung} operations hang", alive.join(", "))
    }

    /// Drops everything that is under way, unrun.
    fn end(&self) {
        self.dead.set(true);
        loop {
            let tasks = self.tasks.take();
            let due = self.due.take();
            let hung = self.hung.take();
            if tasks.is_empty() && due.is_empty() && hung.is_empty() {
                break;
            }
            drop((tasks, due, hung));
        }
        self.rings.take();
        self.hooks.take();
    }
}

/// Holds a world and ends it when dropped: the tasks are dropped without running again.
pub struct Simulation {
    world: SimWorld,
}

/// A world for the core to run in. Clones are the same world.
#[derive(Clone)]
pub struct SimWorld(Rc<Sim>);

impl Simulation {
    /// A world with what survived the last one.
    #[must_use]
    pub fn new(seed: u64, from: &Survivors) -> Simulation {
        let rings = from
            .rings
            .iter()
            .map(|(id, image)| (*id, Rc::new(RingState::new(*id, image.clone()))))
            .collect();
        Simulation {
            world: SimWorld(Rc::new(Sim {
                schedule: RefCell::new(Rng::new(hash(&[seed, 1]))),
                chance: RefCell::new(Rng::new(hash(&[seed, 2, from.boot]))),
                now: Cell::new(START),
                wall: Cell::new(WALL),
                events: Cell::new(0),
                crash_at: Cell::new(u64::MAX),
                dead: Cell::new(false),
                violation: RefCell::new(None),
                tasks: RefCell::new(Vec::new()),
                ready: Arc::new(Mutex::new(Vec::new())),
                due: RefCell::new(BTreeMap::new()),
                due_number: Cell::new(0),
                hung: RefCell::new(Vec::new()),
                disks: from.disks.iter().map(|d| RefCell::new(DiskState::new(d))).collect(),
                rings: RefCell::new(rings),
                boot: from.boot,
                host: from.host,
                cut: RefCell::new(None),
                record: RefCell::new(None),
                hooks: RefCell::new(BTreeMap::new()),
                mark: Rc::new(Cell::new(0)),
            })),
        }
    }

    /// The world, for the core.
    #[must_use]
    pub fn world(&self) -> SimWorld {
        self.world.clone()
    }

    /// The disks, in the order of the survivors.
    #[must_use]
    pub fn disks(&self) -> Vec<SimDisk> {
        self.world.disks()
    }

    fn sim(&self) -> &Sim {
        &self.world.0
    }

    /// The event at which the world ends.
    pub fn crash_at(&self, event: u64) {
        self.sim().crash_at.set(event);
    }

    /// Disks are reset as soon as this event has happened.
    pub fn reset_at(&self, event: u64, reset: Reset) {
        self.at_event(event, move |world| world.reset(&reset));
    }

    /// Something is done to the world as soon as this event has happened.
    pub fn at_event(&self, event: u64, what: impl FnOnce(&SimWorld) + 'static) {
        self.world.at_event(event, what);
    }

    /// From now on, keeps what would survive a crash at each event.
    pub fn record(&self) {
        *self.sim().record.borrow_mut() = Some(Vec::new());
    }

    /// What would survive a crash at each event since [`Simulation::record`], and after the last.
    #[must_use]
    pub fn recorded(&self) -> Vec<Snapshot> {
        let mut shots = self.sim().record.borrow_mut().take().unwrap_or_default();
        shots.push(self.sim().snapshot(self.events() + 1, None));
        shots
    }

    /// A number that snapshots carry: the length of the history so far, say.
    #[must_use]
    pub fn mark(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.sim().mark)
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.sim().events.get()
    }

    /// What is there now, or was there when the world ended.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let cut = self.sim().cut.borrow().clone();
        self.sim().snapshot(self.events(), cut)
    }

    /// Bytes and operations of each disk.
    #[must_use]
    pub fn counters(&self) -> Vec<Counters> {
        self.sim().disks.iter().map(|d| d.borrow().counters()).collect()
    }

    /// Runs `main` to its end, and all other tasks beside it.
    ///
    /// # Errors
    /// The crash that was asked for; a violation that the world itself saw; a deadlock (nothing
    /// can ever happen again and `main` has not ended); `limit` of simulated time passed.
    pub fn run<T: 'static>(
        &self,
        limit: Duration,
        main: impl Future<Output = T> + 'static,
    ) -> Result<T, Stop> {
        let sim = self.sim();
        let out = Rc::new(RefCell::new(None));
        let result = Rc::clone(&out);
        sim.spawn("main", Box::pin(async move { *result.borrow_mut() = Some(main.await) }));
        let deadline = sim.now.get().saturating_add(limit.as_nanos() as u64);
        loop {
            if let Some(text) = sim.violation.borrow_mut().take() {
                return Err(Stop::Violation(text));
            }
            if sim.dead.get() {
                return Err(Stop::Crash);
            }
            if let Some(value) = out.borrow_mut().take() {
                return Ok(value);
            }
            if sim.now.get() > deadline {
                return Err(Stop::Late(sim.report()));
            }
            for hook in sim.hooks_due() {
                hook(&self.world);
            }
            if !sim.fire(false) && !sim.step() && !sim.fire(true) {
                return Err(Stop::Deadlock(sim.report()));
            }
        }
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.sim().end();
    }
}

impl SimWorld {
    /// Breaks (or mends) a disk from now on.
    pub fn set_fault(&self, disk: usize, fault: Option<Fault>) {
        for d in self.0.disks.iter().filter(|d| d.borrow().image_id() == disk) {
            d.borrow_mut().set_fault(fault);
        }
    }

    /// Something is done to the world as soon as this event has happened.
    pub fn at_event(&self, event: u64, what: impl FnOnce(&SimWorld) + 'static) {
        self.0.hooks.borrow_mut().entry(event).or_default().push(Box::new(what));
    }

    /// Runs tasks beside each other, until all have ended.
    pub async fn beside_each_other<F: Future<Output = ()> + 'static>(
        &self,
        name: &'static str,
        tasks: impl IntoIterator<Item = F>,
    ) {
        let ends = tasks.into_iter().map(|task| {
            let end = Rc::new((Cell::new(false), Signal::new()));
            let told = Rc::clone(&end);
            self.spawn(name, async move {
                task.await;
                told.0.set(true);
                told.1.notify();
            });
            async move {
                while !end.0.get() {
                    end.1.wait().await;
                }
            }
        });
        join_all(ends.collect()).await;
    }

    /// The disks, opened now.
    #[must_use]
    pub fn disks(&self) -> Vec<SimDisk> {
        (0..self.0.disks.len()).map(|i| SimDisk::new(Rc::clone(&self.0), i)).collect()
    }

    /// These disks are reset; they are back after a while, or not by themselves.
    pub fn reset(&self, reset: &Reset) {
        for id in &reset.disks {
            for d in self.0.disks.iter().filter(|d| d.borrow().image_id() == *id) {
                d.borrow_mut().reset(reset.fault, reset.reopen, &mut self.0.rng());
            }
            if let Some(after) = reset.back {
                let (world, id) = (self.clone(), *id);
                self.0.spawn(
                    "a disk comes back",
                    Box::pin(async move {
                        world.sleep(after).await;
                        world.set_fault(id, None);
                    }),
                );
            }
        }
    }

    /// From now on another disk is under the path of this one.
    pub fn replace_disk(&self, disk: usize, by: &DiskImage) {
        for d in self.0.disks.iter().filter(|d| d.borrow().image_id() == disk) {
            d.borrow_mut().replace(by);
        }
    }

    /// What is on a disk now.
    ///
    /// # Panics
    /// If there is no such disk.
    #[must_use]
    pub fn image_of(&self, disk: usize) -> DiskImage {
        let all = &self.0.disks;
        let d = all.iter().find(|d| d.borrow().image_id() == disk).expect("there is such a disk");
        let image = d.borrow_mut().image();
        (*image).clone()
    }

    /// Somebody sets the clock on the wall: seconds since 1970.
    pub fn set_wall_clock(&self, seconds: u64) {
        self.0.wall.set(seconds.saturating_sub(self.0.now.get() / 1_000_000_000));
    }

    /// From now on operations of a disk take so many times as long (1: as long as those of others).
    pub fn slow_down(&self, disk: usize, factor: u64) {
        self.disk(disk).slow_down(factor);
    }

    /// How many operations hang on a disk.
    #[must_use]
    pub fn hung_on(&self, disk: usize) -> usize {
        self.0.hung.borrow().iter().filter(|op| self.0.id_of(op) == disk).count()
    }

    /// What hangs on a disk is done after all, now.
    pub fn end_hung(&self, disk: usize) {
        let (these, rest): (Vec<Op>, Vec<Op>) =
            self.0.hung.take().into_iter().partition(|op| self.0.id_of(op) == disk);
        *self.0.hung.borrow_mut() = rest;
        for op in these {
            self.0.at(self.0.now.get() + 1000, Due::Op(op));
        }
    }

    /// The next read of a disk fails, once.
    pub fn add_bad_read(&self, disk: usize) {
        for d in self.0.disks.iter().filter(|d| d.borrow().image_id() == disk) {
            d.borrow_mut().add_bad_read();
        }
    }

    /// These bytes of a disk cannot be read until they are written.
    pub fn add_bad_pages(&self, disk: usize, at: u64, len: u64) {
        for d in self.0.disks.iter().filter(|d| d.borrow().image_id() == disk) {
            d.borrow_mut().add_bad_pages(at, len);
        }
    }

    fn disk(&self, id: usize) -> RefMut<'_, DiskState> {
        let found = self.0.disks.iter().find(|d| d.borrow().image_id() == id);
        found.expect("a disk of this world").borrow_mut()
    }

    /// Bytes of a disk change by themselves, on the medium and in its cache.
    pub fn corrupt(&self, disk: usize, at: u64, bytes: &[u8]) {
        self.disk(disk).corrupt(at, bytes);
    }

    /// What a reader of a disk would be given now.
    #[must_use]
    pub fn peek(&self, disk: usize, at: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.disk(disk).peek(at, &mut out);
        out
    }

    /// A disk lies once, when its time has come.
    pub fn lie(&self, disk: usize, lie: Lie) {
        self.disk(disk).lies().add(lie);
    }

    /// Lies of a disk that were not told yet.
    #[must_use]
    pub fn lies_left(&self, disk: usize) -> usize {
        self.disk(disk).lies().left()
    }

    /// From now on a disk acknowledges all writes and does none of them; or no longer.
    pub fn lose_writes(&self, disk: usize, on: bool) {
        self.disk(disk).lies().loses_writes = on;
    }

    /// Whether a disk is part of this world.
    #[must_use]
    pub fn has_disk(&self, disk: usize) -> bool {
        self.0.disks.iter().any(|d| d.borrow().image_id() == disk)
    }

    /// From now on a disk lies no more; what it has done wrong stays wrong.
    pub fn be_honest(&self, disk: usize) {
        *self.disk(disk).lies() = Lies::default();
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.0.events.get()
    }

    /// A random number of the seeded schedule.
    #[must_use]
    pub fn below(&self, n: u64) -> u64 {
        self.0.rng().below(n)
    }
}

struct Sleep {
    sim: Rc<Sim>,
    slot: Rc<TimerSlot>,
    key: (u64, u64),
}

impl Future for Sleep {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.slot.over.get() {
            return Poll::Ready(());
        }
        self.slot.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if !self.slot.over.get() {
            self.sim.due.borrow_mut().remove(&self.key);
        }
    }
}

impl World for SimWorld {
    type Disk = SimDisk;
    type Ring = SimRing;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.now.get())
    }

    fn wall_clock(&self) -> u64 {
        self.0.wall.get() + self.0.now.get() / 1_000_000_000
    }

    fn sleep(&self, d: Duration) -> impl Future<Output = ()> + 'static {
        let slot = Rc::new(TimerSlot::default());
        let when = self.0.now.get().saturating_add(d.as_nanos() as u64);
        let key = self.0.at(when, Due::Timer(Rc::clone(&slot)));
        Sleep { sim: Rc::clone(&self.0), slot, key }
    }

    fn random(&self) -> u64 {
        self.0.chance.borrow_mut().draw()
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        self.0.spawn(name, Box::pin(task));
    }

    fn identity(&self) -> RunIdentity {
        let boot = u128::from(mix(self.0.boot + 77)) << 64 | u128::from(self.0.boot);
        let run_dir = 0x5eed_0000_0000_0000_0000_0000_0000_0001;
        RunIdentity { boot, run_dir, host: self.0.host }
    }

    fn reopen(&self, disk: &SimDisk) -> impl Future<Output = Option<SimDisk>> + 'static {
        let (world, disk) = (self.clone(), disk.clone());
        async move {
            world.sleep(Duration::from_micros(100 + world.below(900))).await;
            if disk.hangs() {
                std::future::pending::<()>().await;
            }
            disk.again()
        }
    }

    fn open_ring(&self, id: u128) -> io::Result<Option<SimRing>> {
        let found = self.0.rings.borrow().get(&id).cloned();
        Ok(found.map(|state| SimRing::new(Rc::clone(&self.0), state)))
    }

    fn create_ring(&self, id: u128, bytes: usize) -> io::Result<SimRing> {
        let exists = self.0.rings.borrow().contains_key(&id);
        if exists {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let state = Rc::new(RingState::new(id, Image::zeros(bytes as u64)));
        if self.0.event() {
            self.0.rings.borrow_mut().insert(id, Rc::clone(&state));
        }
        Ok(SimRing::new(Rc::clone(&self.0), state))
    }

    fn remove_ring(&self, id: u128) -> io::Result<()> {
        if self.0.event() {
            self.0.rings.borrow_mut().remove(&id);
        }
        Ok(())
    }
}
