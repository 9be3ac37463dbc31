//! A ring of one's own and the loop around it, for users without ublk: create, examine, the
//! daemon behind NBD. (With ublk the ring lies in libublk's thread-local, and the ublk front end
//! has a loop of its own.)

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::IoUring;

use super::driver::Driver;
use super::executor::Executor;
use super::world::UringWorld;

/// Entries of the submission and of the completion queue.
pub const SQ_ENTRIES: u32 = 512;
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

/// One thread's ring, operations and tasks.
pub struct Engine {
    executor: Executor,
    driver: Driver,
    ring: Rc<RefCell<IoUring>>,
    /// Completions taken off the ring and not yet dispatched.
    reaped: RefCell<Vec<(u64, i32)>>,
}

impl Engine {
    /// An engine of the calling thread.
    ///
    /// # Errors
    /// If the kernel gives no ring.
    pub fn new() -> io::Result<Engine> {
        let ring = Rc::new(RefCell::new(make_ring()?));
        let lent = Rc::clone(&ring);
        let driver = Driver::new(Rc::new(move |f| f(&mut lent.borrow_mut())));
        let executor = Executor::new()?;
        executor.listen(&driver);
        Ok(Engine {
            executor,
            driver,
            ring,
            reaped: RefCell::default(),
        })
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
        {
            let mut ring = self.ring.borrow_mut();
            // EINTR: look again. EBUSY, EAGAIN: the completions must be taken first, as follows.
            let _ = ring.submit_and_wait(usize::from(wait && !backlog));
            reaped.extend(ring.completion().map(|c| (c.user_data(), c.result())));
        }
        for (user_data, result) in reaped.drain(..) {
            self.driver.dispatch(user_data, result);
        }
        self.reaped.replace(reaped);
    }
}

impl Drop for Engine {
    /// Gives operations in flight a chance to end, since what they hold is leaked otherwise.
    fn drop(&mut self) {
        self.executor.clear();
        self.driver.abandon();
        self.executor.clear();
    }
}
