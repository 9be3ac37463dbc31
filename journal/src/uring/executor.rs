//! Tasks of the engine thread: one queue, first in, first out. Wake-ups come from completions on
//! the ring; another thread's wake-ups and closures come in through an eventfd that is read on the
//! ring (see [`Executor::listen`]).
//!
//! What must hold: a task is polled and dropped on the thread that made the executor. `async_task`
//! checks that for every task spawned here; the queue checks it for itself.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Wake;
use std::thread::ThreadId;

use async_task::{Runnable, Task};

use super::driver::Driver;
use super::inbox::{Bell, Inbox, Raised};
use crate::mem::Buf;

type Job = Box<dyn FnOnce(&Executor) + Send>;

/// What another thread sends.
enum Sent {
    Job(Job),
    Runnable(Runnable),
}

/// Makes the engine's wait end.
struct Event(OwnedFd);

impl Bell for Event {
    /// Its only error is a full counter, and then the wait has ended.
    fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: 8 readable bytes and an open descriptor.
        let _ = unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), 8) };
    }
}

pub(super) struct Shared {
    owner: ThreadId,
    /// Touched by the owner thread alone, and never across a call to anything else.
    local: UnsafeCell<VecDeque<Runnable>>,
    inbox: Inbox<Sent, Event>,
}

// SAFETY: `local` is reached only after a check that this is the owner thread (`with_local`); the
// rest is Send and Sync by itself. Runnables made by `spawn_local` check their thread themselves.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn is_here(&self) -> bool {
        std::thread::current().id() == self.owner
    }

    fn with_local<T>(&self, f: impl FnOnce(&mut VecDeque<Runnable>) -> T) -> T {
        assert!(self.is_here(), "the executor belongs to another thread");
        // SAFETY: this is the owner thread, and none of the closures given here calls anything
        // that could come back (push, pop, len, take).
        f(unsafe { &mut *self.local.get() })
    }

    fn schedule(&self, runnable: Runnable) {
        if self.is_here() {
            self.with_local(|q| q.push_back(runnable));
        } else {
            self.inbox.send(Sent::Runnable(runnable));
        }
    }
}

/// The queue of tasks of one thread. Clones share it.
#[derive(Clone)]
pub struct Executor {
    shared: Arc<Shared>,
    /// Keeps the handle on its thread.
    _here: Rc<()>,
}

impl Executor {
    /// An executor of the calling thread.
    ///
    /// # Errors
    /// If no eventfd can be had.
    pub fn new() -> io::Result<Executor> {
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, owned by nobody else.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        let shared = Shared {
            owner: std::thread::current().id(),
            local: UnsafeCell::new(VecDeque::with_capacity(1024)),
            inbox: Inbox::new(Event(event)),
        };
        Ok(Executor { shared: Arc::new(shared), _here: Rc::new(()) })
    }

    /// Runs a task to its end; nobody waits for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawn_task(task).detach();
    }

    /// Runs a task whose result can be awaited; dropping the handle ends it.
    pub fn spawn_task<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Task<T> {
        let shared = Arc::clone(&self.shared);
        let (runnable, task) = async_task::spawn_local(task, move |r| shared.schedule(r));
        runnable.schedule();
        task
    }

    /// Runs tasks that are ready, at most `budget` of them. Whether more are ready.
    pub fn run_ready(&self, budget: usize) -> bool {
        for _ in 0..budget {
            let Some(runnable) = self.shared.with_local(VecDeque::pop_front) else {
                return false;
            };
            runnable.run();
        }
        self.has_ready()
    }

    /// Whether a task is ready.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.shared.with_local(|q| !q.is_empty())
    }

    /// A handle for other threads.
    #[must_use]
    pub fn remote(&self) -> Remote {
        Remote { shared: Arc::clone(&self.shared) }
    }

    /// Spawns the task that takes in what other threads sent. Once an executor.
    pub fn listen(&self, driver: &Driver) {
        let (here, driver) = (self.clone(), driver.clone());
        self.spawn(async move {
            let mut buf = Buf::zeroed(8);
            loop {
                let event = here.shared.inbox.bell().0.as_raw_fd();
                let (result, back) = driver.read_fd(event, Box::new(here.clone()), buf).await;
                buf = back;
                if let Err(e) = result
                    && e.raw_os_error() != Some(libc::EINTR)
                {
                    return; // the ring is being closed
                }
                here.take_foreign();
            }
        });
    }

    /// Runs the closures and queues the tasks that other threads sent.
    pub fn take_foreign(&self) {
        for sent in self.shared.inbox.take() {
            match sent {
                Sent::Runnable(runnable) => self.shared.schedule(runnable),
                Sent::Job(job) => job(self),
            }
        }
    }

    /// Drops the tasks that are ready and what other threads sent.
    pub(super) fn clear(&self) {
        loop {
            let queue = self.shared.with_local(std::mem::take);
            let sent = self.shared.inbox.take();
            if queue.is_empty() && sent.is_empty() {
                return;
            }
        }
    }

    pub(super) fn flag(&self) -> Arc<Flag> {
        Arc::new(Flag { raised: Raised::new(), shared: Arc::clone(&self.shared) })
    }
}

/// Another thread's way to the engine thread.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<Shared>,
}

impl Remote {
    /// Runs `job` on the engine thread, soon; it may spawn tasks there.
    pub fn run(&self, job: impl FnOnce(&Executor) + Send + 'static) {
        self.shared.inbox.send(Sent::Job(Box::new(job)));
    }
}

/// A waker that sets a flag, for the future that the engine's loop polls itself.
pub(super) struct Flag {
    raised: Raised,
    shared: Arc<Shared>,
}

impl Flag {
    /// Takes the flag down; whether it was up.
    pub(super) fn take(&self) -> bool {
        self.raised.take()
    }

    /// Whether it is up.
    pub(super) fn is_set(&self) -> bool {
        self.raised.is_up()
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.raised.raise();
        if !self.shared.is_here() {
            self.shared.inbox.bell().ring();
        }
    }
}
