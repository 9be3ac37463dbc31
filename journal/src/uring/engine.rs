//! The loop around a ring: of one's own (create, examine, the daemon behind NBD), or somebody
//! else's that also carries operations that are not the driver's (libublk's). Then a [`Reaper`]
//! takes the completions off the ring and gets those that the driver does not know.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{IoUring, cqueue};

use super::driver::{Driver, RingAccess};
use super::executor::Executor;
use super::world::UringWorld;

/// Entries of the submission and of the completion queue.
pub const SQ_ENTRIES: u32 = 1024;
/// See [`SQ_ENTRIES`].
pub const CQ_ENTRIES: u32 = 4096;
/// Most task polls between two looks at the completions.
pub const BUDGET: usize = 512;

/// A ring as the engine wants it, with as much of it as this kernel has: task work deferred to
/// the wait (6.1), one issuer (6.0), no interruption of the thread (5.19).
///
/// # Errors
/// What the kernel says to the simplest wish.
pub fn make_ring() -> io::Result<IoUring> {
    let mut error = None;
    for wish in [3, 2, 1, 0] {
        let mut b = IoUring::builder();
        b.setup_cqsize(CQ_ENTRIES).setup_clamp().dontfork();
        if wish >= 1 {
            b.setup_coop_taskrun().setup_taskrun_flag();
        }
        if wish >= 2 {
            b.setup_single_issuer();
        }
        if wish >= 3 {
            b.setup_defer_taskrun();
        }
        match b.build(SQ_ENTRIES) {
            Ok(ring) => return Ok(ring),
            Err(e) => error = Some(e),
        }
    }
    Err(error.unwrap_or_else(|| io::ErrorKind::Unsupported.into()))
}

/// Why the kernel gives no ring, and what to do: full sentences.
#[must_use]
pub fn why_no_ring(e: &io::Error) -> String {
    let advice = match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "It is forbidden here: by the setting kernel.io_uring_disabled, or by the filter of a \
             container, which has to allow io_uring_setup, io_uring_enter and io_uring_register."
        }
        Some(libc::ENOMEM) => {
            "This user may lock too little memory: raise the limit (ulimit -l), or run it with \
             CAP_IPC_LOCK."
        }
        Some(libc::ENFILE | libc::EMFILE) => {
            "Too many files are open: raise the limit (ulimit -n)."
        }
        _ => "Evenkeel needs Linux 6.0 with io_uring.",
    };
    format!("The kernel gives no io_uring: {e}. {advice} Nothing was changed.")
}

/// Somebody who shares the ring.
pub trait Reaper {
    /// Takes all completions off the ring.
    fn reap(&self, into: &mut Vec<cqueue::Entry>);
    /// Takes in a completion that is not of the driver's operations.
    fn foreign(&self, done: &cqueue::Entry);
}

/// Where a [`Reaper`] is put while there is one.
pub type ReaperSlot = Rc<RefCell<Option<Rc<dyn Reaper>>>>;

/// One thread's ring, operations and tasks.
pub struct Engine {
    executor: Executor,
    driver: Driver,
    reaper: ReaperSlot,
    /// Completions taken off the ring and not yet dispatched.
    reaped: RefCell<Vec<cqueue::Entry>>,
}

impl Engine {
    /// An engine of the calling thread, with a ring of its own.
    ///
    /// # Errors
    /// If the kernel gives no ring.
    pub fn new() -> io::Result<Engine> {
        let ring = RefCell::new(make_ring()?);
        Engine::over(Rc::new(move |f| f(&mut ring.borrow_mut())))
    }

    /// An engine of the calling thread over a ring that this thread made.
    ///
    /// # Errors
    /// If the kernel gives no eventfd.
    pub fn over(ring: RingAccess) -> io::Result<Engine> {
        let driver = Driver::new(ring);
        let executor = Executor::new()?;
        executor.listen(&driver);
        let reaper = ReaperSlot::default();
        Ok(Engine { executor, driver, reaper, reaped: RefCell::default() })
    }

    /// Where to put who shares the ring.
    #[must_use]
    pub fn reaper(&self) -> &ReaperSlot {
        &self.reaper
    }

    /// Its tasks.
    #[must_use]
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Its operations.
    #[must_use]
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Its world, with this run directory.
    ///
    /// # Errors
    /// As [`UringWorld::new`].
    pub fn world(&self, run_dir: &Path) -> io::Result<UringWorld> {
        UringWorld::new(&self.executor, &self.driver, run_dir)
    }

    /// Runs `future`, and everything that was spawned, until `future` ends.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let flag = self.executor.flag();
        let waker = Waker::from(std::sync::Arc::clone(&flag));
        let mut cx = Context::from_waker(&waker);
        loop {
            if flag.take()
                && let Poll::Ready(out) = future.as_mut().poll(&mut cx)
            {
                return out;
            }
            let more = self.executor.run_ready(BUDGET) || flag.is_set();
            self.turn(!more);
        }
    }

    /// Submits, waits for a completion if `wait`, and dispatches what has completed.
    pub fn turn(&self, wait: bool) {
        let backlog = self.driver.pump();
        let mut reaped = self.reaped.take();
        let reaper = self.reaper.borrow().clone();
        self.driver.with_ring(|ring| {
            // EINTR: look again. EBUSY, EAGAIN: the completions must be taken first, as follows.
            let _ = ring.submit_and_wait(usize::from(wait && !backlog));
            if reaper.is_none() {
                reaped.extend(ring.completion());
            }
        });
        if let Some(reaper) = &reaper {
            reaper.reap(&mut reaped);
        }
        for done in reaped.drain(..) {
            if !self.driver.dispatch(done.user_data(), done.result())
                && let Some(reaper) = &reaper
            {
                reaper.foreign(&done);
            }
        }
        self.reaped.replace(reaped);
    }
}

impl Drop for Engine {
    /// What operations in flight hold is leaked: the kernel may still use it.
    fn drop(&mut self) {
        self.executor.clear();
        self.driver.abandon();
        self.executor.clear();
    }
}
