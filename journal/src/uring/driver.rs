//! Operations in flight on the ring. The ring itself belongs to somebody else (the engine's loop,
//! or libublk's thread-local) and is reached through a closure that lends it.
//!
//! What must hold: what an operation was given to keep lives until its completion was dispatched,
//! whatever becomes of the future; entries reach the kernel in the order of the calls. An entry
//! that finds the submission queue full even after a submit waits in a backlog, and everything
//! after it waits behind it. One completion an operation: no multishot, no zero-copy send.
//!
//! `user_data`: bits 63 and 62 are set on all of these (libublk's own commands have bit 63 clear,
//! its target operations bit 62), then 30 bits of generation and 32 of place in the slab.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

use super::files::Tables;
use crate::mem::Buf;

/// Lends the ring. It must not be called from within itself.
pub type RingAccess = Rc<dyn Fn(&mut dyn FnMut(&mut IoUring))>;

/// Set in the `user_data` of every operation made here.
pub const OURS: u64 = 3 << 62;

enum State {
    Free,
    Waiting { waker: Option<Waker>, keep: Box<dyn Any>, orphan: bool },
    Done { result: i32, keep: Box<dyn Any> },
}

struct Slot {
    generation: u32,
    state: State,
}

#[derive(Default)]
struct Slab {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

const GENERATION: u32 = 0x3fff_ffff;

impl Slab {
    /// The slot that this names, unless it has another user by now.
    fn slot(&mut self, user_data: u64) -> Option<&mut Slot> {
        let generation = (user_data >> 32) as u32 & GENERATION;
        self.slots.get_mut(user_data as u32 as usize).filter(|s| s.generation == generation)
    }
}

pub(super) struct Inner {
    ring: RingAccess,
    slab: RefCell<Slab>,
    backlog: RefCell<VecDeque<squeue::Entry>>,
    inflight: Cell<usize>,
    pub(super) tables: RefCell<Tables>,
}

/// The operations of one ring. Clones share them.
#[derive(Clone)]
pub struct Driver(pub(super) Rc<Inner>);

impl Driver {
    /// A driver of the ring that `ring` lends.
    #[must_use]
    pub fn new(ring: RingAccess) -> Driver {
        Driver(Rc::new(Inner {
            ring,
            slab: RefCell::default(),
            backlog: RefCell::default(),
            inflight: Cell::new(0),
            tables: RefCell::default(),
        }))
    }

    /// Uses the ring.
    pub fn with_ring<T>(&self, f: impl FnOnce(&mut IoUring) -> T) -> T {
        let (mut f, mut out) = (Some(f), None);
        (self.0.ring)(&mut |ring| {
            if let Some(f) = f.take() {
                out = Some(f(ring));
            }
        });
        out.expect("the closure that lends the ring calls back once")
    }

    /// Issues an operation now. The result and `keep` come back from the future; if that is
    /// dropped, `keep` stays here until the completion.
    ///
    /// # Safety
    /// Everything that `entry` points to (memory, descriptor) is owned by `keep`, stays where it is
    /// when `keep` is moved, and fits the operation; or it outlives the ring.
    pub unsafe fn submit<K: Any>(&self, entry: squeue::Entry, keep: K) -> Op<K> {
        let mut slab = self.0.slab.borrow_mut();
        let index = slab.free.pop().unwrap_or_else(|| {
            slab.slots.push(Slot { generation: 0, state: State::Free });
            (slab.slots.len() - 1) as u32
        });
        let slot = &mut slab.slots[index as usize];
        slot.generation = (slot.generation + 1) & GENERATION;
        slot.state = State::Waiting { waker: None, keep: Box::new(keep), orphan: false };
        let user_data = OURS | u64::from(slot.generation) << 32 | u64::from(index);
        drop(slab);
        self.0.inflight.set(self.0.inflight.get() + 1);
        self.push(entry.user_data(user_data));
        Op { driver: self.clone(), user_data, taken: false, _keep: PhantomData }
    }

    fn push(&self, entry: squeue::Entry) {
        let mut backlog = self.0.backlog.borrow_mut();
        let fits = backlog.is_empty()
            && self.with_ring(|ring| {
                // SAFETY: the caller of `submit` vouches for the entry; `keep` is in the slab.
                if unsafe { ring.submission().push(&entry) }.is_ok() {
                    return true;
                }
                // Full: hand over what is there. An error (a full completion queue) is met by the
                // loop, which reaps and calls `pump`.
                let _ = ring.submit();
                // SAFETY: as above.
                unsafe { ring.submission().push(&entry) }.is_ok()
            });
        if !fits {
            backlog.push_back(entry);
        }
    }

    /// Moves entries that found no room into the submission queue. The loop calls it before each
    /// submit. Whether some still wait.
    pub fn pump(&self) -> bool {
        let mut backlog = self.0.backlog.borrow_mut();
        if backlog.is_empty() {
            return false;
        }
        self.with_ring(|ring| {
            for round in 0..4 {
                while let Some(entry) = backlog.front() {
                    // SAFETY: vouched for by the caller of `submit`; `keep` is in the slab.
                    if unsafe { ring.submission().push(entry) }.is_err() {
                        break;
                    }
                    backlog.pop_front();
                }
                if backlog.is_empty() || round == 3 || ring.submit().is_err() {
                    break;
                }
            }
        });
        !backlog.is_empty()
    }

    /// Takes in a completion. False if it is not of an operation made here.
    pub fn dispatch(&self, user_data: u64, result: i32) -> bool {
        if user_data & OURS != OURS {
            return false;
        }
        let index = user_data as u32;
        let mut slab = self.0.slab.borrow_mut();
        let Some(slot) = slab.slot(user_data) else {
            return false;
        };
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Waiting { waker, keep, orphan: false } => {
                slot.state = State::Done { result, keep };
                drop(slab);
                self.0.inflight.set(self.0.inflight.get() - 1);
                if let Some(w) = waker {
                    w.wake();
                }
            }
            State::Waiting { keep, .. } => {
                slab.free.push(index);
                drop(slab);
                self.0.inflight.set(self.0.inflight.get() - 1);
                drop(keep); // may issue operations of its own: nothing is borrowed any more
            }
            other => {
                slot.state = other;
                return false;
            }
        }
        true
    }

    /// Whether operations have been issued and not yet completed.
    #[must_use]
    pub fn has_inflight(&self) -> bool {
        self.inflight() > 0
    }

    /// How many operations have been issued and not yet completed.
    #[must_use]
    pub fn inflight(&self) -> usize {
        self.0.inflight.get()
    }

    /// Asks the kernel to end an operation early. It still completes, perhaps with ECANCELED.
    pub fn cancel(&self, user_data: u64) {
        let entry = opcode::AsyncCancel::new(user_data).build();
        // SAFETY: the entry points to nothing.
        drop(unsafe { self.submit(entry, ()) });
    }

    /// Ends after `d`. Dropping it takes the timer down.
    pub fn sleep(&self, d: Duration) -> Sleep {
        let spec = Box::new(types::Timespec::from(d));
        let entry = opcode::Timeout::new(&raw const *spec).build();
        // SAFETY: the time lies in the box that is kept.
        let op = unsafe { self.submit(entry, spec) };
        Sleep { op }
    }

    /// Reads from a descriptor at its own position; `keep` keeps the descriptor open.
    pub fn read_fd(
        &self,
        fd: RawFd,
        keep: Box<dyn Any>,
        mut buf: Buf,
    ) -> impl Future<Output = (io::Result<usize>, Buf)> + 'static {
        let len = buf.len().min(1 << 30) as u32;
        let entry =
            opcode::Read::new(types::Fd(fd), buf.as_mut_ptr(), len).offset(u64::MAX).build();
        // SAFETY: the buffer and the descriptor's owner are kept.
        let op = unsafe { self.submit(entry, (buf, keep)) };
        async move {
            let (result, (buf, _keep)) = op.await;
            (check(result), buf)
        }
    }

    /// Gives up all operations, for the end of the ring: their futures never end, and what they
    /// kept is never freed, since the kernel may still use it.
    pub fn abandon(&self) {
        let slots = std::mem::take(&mut self.0.slab.borrow_mut().slots);
        self.0.slab.borrow_mut().free.clear();
        self.0.backlog.borrow_mut().clear();
        self.0.inflight.set(0);
        for slot in slots {
            if let State::Waiting { waker, keep, .. } = slot.state {
                std::mem::forget(keep);
                drop(waker);
            }
        }
    }
}

/// A kernel result as Rust has it.
///
/// # Errors
/// If it is negative.
pub fn check(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// An operation that was issued: its result, and what it kept.
pub struct Op<K: Any> {
    driver: Driver,
    user_data: u64,
    taken: bool,
    _keep: PhantomData<fn() -> K>,
}

impl<K: Any> Op<K> {
    /// What names it to the kernel.
    #[must_use]
    pub fn user_data(&self) -> u64 {
        self.user_data
    }
}

impl<K: Any> Future for Op<K> {
    type Output = (i32, K);
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(i32, K)> {
        let index = self.user_data as u32;
        let driver = self.driver.clone();
        let mut slab = driver.0.slab.borrow_mut();
        let Some(slot) = slab.slot(self.user_data).filter(|_| !self.taken) else {
            return Poll::Pending; // given up (abandon), or polled after its end
        };
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Done { result, keep } => {
                slab.free.push(index);
                drop(slab);
                self.taken = true;
                let keep = keep.downcast::<K>().expect("kept by submit with this very type");
                Poll::Ready((result, *keep))
            }
            State::Waiting { keep, orphan, .. } => {
                let waker = Some(cx.waker().clone());
                slot.state = State::Waiting { waker, keep, orphan };
                Poll::Pending
            }
            State::Free => Poll::Pending,
        }
    }
}

impl<K: Any> Drop for Op<K> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let index = self.user_data as u32;
        let mut slab = self.driver.0.slab.borrow_mut();
        let Some(slot) = slab.slot(self.user_data) else {
            return;
        };
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Waiting { keep, waker, .. } => {
                slot.state = State::Waiting { waker: None, keep, orphan: true };
                drop(slab);
                drop(waker);
            }
            State::Done { keep, .. } => {
                slab.free.push(index);
                drop(slab);
                drop(keep);
            }
            State::Free => {}
        }
    }
}

/// A timer.
pub struct Sleep {
    op: Op<Box<types::Timespec>>,
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.op).poll(cx).map(|_| ())
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if !self.op.taken {
            self.op.driver.cancel(self.op.user_data);
        }
    }
}
