//! ④ Operations on members that do not end: every wait for a member is bounded (I4).
//!
//! Each operation under way has an entry here. A task that runs only while there are any counts
//! ticks, a quarter of the bound each, and wakes those that are overdue; so the clock is not read
//! for every operation. What is given up is not cancelled: the disk may still do it, and the
//! operation keeps its memory until it has really ended.
//!
//! What must hold: a write or flush counts as under way until it has really ended, whether anybody
//! still waits for it or not (`Watch::is_writing`). A member that comes back is written to only
//! when nothing is: a late write would land over what is newer.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use evenkeel_journal::sync::Signal;
use evenkeel_journal::{MemberIndex, World};

/// How long an operation of a member may take before that member counts as failed.
pub const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// Ticks after which an operation is overdue: the bound, and up to one tick more.
const PATIENCE: u64 = 5;

/// What an operation does: a write is also a flush.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    #[default]
    Read,
    Write,
}

#[derive(Default)]
struct Entry {
    /// None: free.
    begun: Option<u64>,
    member: MemberIndex,
    kind: Kind,
    given_up: bool,
    waker: Option<Waker>,
}

struct Inner {
    bound: Cell<Duration>,
    tick: Cell<u64>,
    counting: Cell<bool>,
    entries: RefCell<Vec<Entry>>,
    free: RefCell<Vec<usize>>,
    /// Writes and flushes that have not really ended, by member.
    writing: Counts,
    /// Operations of any kind that nobody waits for any longer and that have not ended.
    late: Counts,
    ended: Signal,
}

/// The operations under way. Clones share it.
#[derive(Clone)]
pub(crate) struct Watch(Rc<Inner>);

/// An operation under way: its entry goes with it.
struct Ticket {
    watch: Watch,
    at: usize,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.watch.0.entries.borrow_mut()[self.at] = Entry::default();
        self.watch.0.free.borrow_mut().push(self.at);
    }
}

/// A write or flush that has not really ended: it goes with the operation.
struct Running {
    watch: Watch,
    _counted: Counted,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watch.0.ended.notify();
    }
}

/// Operations by member. Those of a disk that is not that member any more count no longer.
#[derive(Default)]
struct Counts(RefCell<Vec<Rc<Cell<u32>>>>);

/// One of them: it goes with the operation.
struct Counted(Rc<Cell<u32>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Counts {
    fn of(&self, member: MemberIndex) -> u32 {
        self.0.borrow().get(member.at()).map_or(0, |n| n.get())
    }

    fn one(&self, member: MemberIndex) -> Counted {
        let mut all = self.0.borrow_mut();
        let least = all.len().max(member.at() + 1);
        all.resize_with(least, Rc::default);
        let count = Rc::clone(&all[member.at()]);
        count.set(count.get() + 1);
        Counted(count)
    }

    fn begin_anew(&self, member: MemberIndex) {
        if let Some(count) = self.0.borrow_mut().get_mut(member.at()) {
            *count = Rc::default();
        }
    }
}

impl Ticket {
    fn over(&self, cx: &Context<'_>) -> bool {
        let entry = &mut self.watch.0.entries.borrow_mut()[self.at];
        if entry.given_up {
            return true;
        }
        match &entry.waker {
            Some(w) if w.will_wake(cx.waker()) => {}
            _ => entry.waker = Some(cx.waker().clone()),
        }
        false
    }
}

impl Watch {
    pub fn new() -> Watch {
        Watch(Rc::new(Inner {
            bound: Cell::new(IO_TIMEOUT),
            tick: Cell::new(0),
            counting: Cell::new(false),
            entries: RefCell::default(),
            free: RefCell::default(),
            writing: Counts::default(),
            late: Counts::default(),
            ended: Signal::new(),
        }))
    }

    pub fn set_bound(&self, bound: Duration) {
        self.0.bound.set(bound);
    }

    pub fn bound(&self) -> Duration {
        self.0.bound.get()
    }

    /// Whether a write or flush of this member has not really ended.
    pub fn is_writing(&self, member: MemberIndex) -> bool {
        self.0.writing.of(member) > 0
    }

    /// Whether an operation of this member has taken longer than the bound and has not ended yet.
    pub fn is_silent(&self, member: MemberIndex) -> bool {
        self.late_of(member) > 0
    }

    /// How many of them there are.
    pub fn late_of(&self, member: MemberIndex) -> u32 {
        self.0.late.of(member)
    }

    /// Another disk is this member, or the same was opened again: what was asked of it before says
    /// nothing of it any more.
    pub fn new_disk(&self, member: MemberIndex) {
        self.0.late.begin_anew(member);
        self.0.writing.begin_anew(member);
    }

    /// Notified when a write or flush has really ended.
    pub fn ended(&self) -> &Signal {
        &self.0.ended
    }

    /// Waits for an operation on a member; None if it took longer than the bound, or if
    /// [`Watch::give_up`] was called for the member.
    pub async fn wait<W: World, T: 'static>(
        &self,
        world: &W,
        member: MemberIndex,
        kind: Kind,
        operation: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let running = (kind == Kind::Write).then(|| self.running(member));
        let ticket = self.begin(member, kind);
        if !self.0.counting.replace(true) {
            let (watch, clock) = (self.clone(), world.clone());
            world.spawn("I/O watch", async move { watch.count(&clock).await });
        }
        // On the heap: what is given up is waited for elsewhere.
        let mut operation = Box::pin(operation);
        let done = std::future::poll_fn(|cx| match operation.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if ticket.over(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await;
        if done.is_none() {
            let late = self.0.late.one(member);
            world.spawn("late I/O", async move {
                operation.await;
                drop((running, late));
            });
        }
        done
    }

    fn running(&self, member: MemberIndex) -> Running {
        Running { watch: self.clone(), _counted: self.0.writing.one(member) }
    }

    /// Ends the waits for some operations: what they do is not needed any more.
    pub fn give_up(&self, which: impl Fn(MemberIndex, Kind) -> bool) {
        self.wake(|e| which(e.member, e.kind));
    }

    fn begin(&self, member: MemberIndex, kind: Kind) -> Ticket {
        let mut entries = self.0.entries.borrow_mut();
        let at = self.0.free.borrow_mut().pop().unwrap_or_else(|| {
            entries.push(Entry::default());
            entries.len() - 1
        });
        let begun = Some(self.0.tick.get());
        entries[at] = Entry { begun, member, kind, given_up: false, waker: None };
        Ticket { watch: self.clone(), at }
    }

    /// Counts ticks while there is something under way.
    async fn count<W: World>(&self, world: &W) {
        while self.0.free.borrow().len() < self.0.entries.borrow().len() {
            world.sleep(self.0.bound.get() / (PATIENCE as u32 - 1)).await;
            let now = self.0.tick.get() + 1;
            self.0.tick.set(now);
            self.wake(|e| e.begun.is_some_and(|begun| now - begun >= PATIENCE));
        }
        self.0.counting.set(false);
    }

    fn wake(&self, which: impl Fn(&Entry) -> bool) {
        let mut woken = Vec::new();
        for e in self.0.entries.borrow_mut().iter_mut() {
            if e.begun.is_some() && !e.given_up && which(e) {
                e.given_up = true;
                woken.extend(e.waker.take());
            }
        }
        woken.into_iter().for_each(Waker::wake);
    }
}
