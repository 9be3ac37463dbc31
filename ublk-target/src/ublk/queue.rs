//! The queue of a device, on the engine thread: one permanent task a tag, which turns each request
//! into one `.await` on the target and commits its result together with the next fetch.
//!
//! What must hold: libublk's queue borrows its device; here both live in one value, and the queue
//! goes first. After a stop, commits never resolve: the tasks are dropped, not joined.

use std::cell::RefCell;
use std::io;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_journal::uring::{Driver, Engine, Reaper, ReaperSlot, UringWorld};
use evenkeel_journal::world::World;
use io_uring::cqueue;
use libublk::io::{BufDesc, UblkDev, UblkQueue};
use libublk::uring_async::{ublk_reap_io_events_with_update_queue, ublk_wake_task};
use libublk::{UblkError, sys};

use super::buffers::Pool;
use super::device::{Device, io_error};
use super::request::Request;
use crate::target::BlockTarget;

/// A queue and the device that it borrows.
struct Bound {
    /// Dropped before `_dev`, see `Drop`. Not really 'static: as long as `_dev`.
    queue: ManuallyDrop<UblkQueue<'static>>,
    _dev: Arc<UblkDev>,
}

impl Bound {
    fn new(dev: Arc<UblkDev>) -> Result<Bound, UblkError> {
        // SAFETY: the device lies in the Arc, which is kept until the queue is gone, and the
        // reference does not leave this value for longer than a borrow of it.
        let lent: &'static UblkDev = unsafe { &*Arc::as_ptr(&dev) };
        let queue = ManuallyDrop::new(UblkQueue::new(0, lent)?);
        Ok(Bound { queue, _dev: dev })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // SAFETY: dropped once, here, while the device still lives.
        unsafe { ManuallyDrop::drop(&mut self.queue) }
    }
}

impl Reaper for Bound {
    fn reap(&self, into: &mut Vec<cqueue::Entry>) {
        // What it returns says nothing: a member's ENODEV looks like an abort.
        let take = |done: &cqueue::Entry| into.push(done.clone());
        let _ = ublk_reap_io_events_with_update_queue(&self.queue, false, None, take);
    }

    fn foreign(&self, done: &cqueue::Entry) {
        ublk_wake_task(done.user_data(), done);
    }
}

/// The tasks that serve a device.
pub struct Queue {
    bound: Option<Rc<Bound>>,
    tasks: Vec<async_task::Task<()>>,
    reaper: ReaperSlot,
    driver: Driver,
}

impl Queue {
    /// Serves the device's requests by `target`, from now on and in this engine.
    ///
    /// # Errors
    /// If the queue cannot be made.
    pub fn start<T: BlockTarget>(
        engine: &Engine,
        device: &Device,
        target: &T,
    ) -> io::Result<Queue> {
        let driver = engine.driver().clone();
        let info = device.dev.dev_info;
        let (depth, bytes) = (info.queue_depth, info.max_io_buf_bytes as usize);
        if info.nr_hw_queues != 1 {
            let text = "the device has more than one queue, so it is not one of this program's";
            return Err(io::Error::other(text));
        }
        let pool = Pool::new(&driver, usize::from(depth), bytes)?;
        // libublk registers a file table of its own; ours takes its place, with its file 0.
        driver.suspend_files();
        let bound = Bound::new(Arc::clone(&device.dev));
        let char_device = device.dev.tgt.fds[0];
        let resumed = driver.resume_files(bound.is_ok().then_some(char_device));
        let bound = Rc::new(bound.map_err(|e| io_error(&e))?);
        let mut queue = Queue {
            bound: Some(Rc::clone(&bound)),
            tasks: Vec::with_capacity(usize::from(depth)),
            reaper: Rc::clone(engine.reaper()),
            driver,
        };
        if !resumed {
            return Err(io::Error::other("the ring takes no table of files"));
        }
        queue.reaper.replace(Some(Rc::clone(&bound) as Rc<dyn Reaper>));
        let pool = Rc::new(RefCell::new(pool));
        for tag in 0..depth {
            let task = serve(Rc::clone(&bound), tag, target.clone(), Rc::clone(&pool), bytes);
            queue.tasks.push(engine.executor().spawn_task(task));
        }
        Ok(queue)
    }

    /// Whether the kernel has ended the queue's commands.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.bound.as_ref().is_none_or(|b| b.queue.is_stopping())
    }

    /// Ends the tasks, then the queue, so that the device can be deleted. After the device was
    /// stopped.
    pub async fn close(mut self, world: &UringWorld) {
        self.tasks.clear();
        let Some(bound) = self.bound.take() else { return };
        // The tasks are dropped when the executor comes to them.
        while Rc::strong_count(&bound) > 2 {
            world.sleep(Duration::from_millis(1)).await;
        }
        self.reaper.replace(None);
        drop(bound);
        // The queue unregistered whatever table was there.
        self.driver.resume_files(None);
    }
}

/// The permanent task of one tag.
async fn serve<T: BlockTarget>(
    bound: Rc<Bound>,
    tag: u16,
    target: T,
    pool: Rc<RefCell<Pool>>,
    bytes: usize,
) {
    let queue = &*bound.queue;
    let mut buffer = pool.borrow_mut().take();
    let address = BufDesc::RawAddress(buffer.address());
    let mut next = queue.submit_io_prep_cmd(tag, address, -1, None).await;
    loop {
        match next {
            Ok(n) if n == sys::UBLK_IO_RES_OK as i32 => {}
            Ok(n) => {
                // Only what was asked for comes here; a tag that cannot be served is left to the
                // kernel, which holds its request until the next daemon.
                crate::process::note(&format!("Tag {tag}: ublk says {n}; it is not served."));
                return;
            }
            Err(_) => return,
        }
        let iod = *queue.get_iod(tag);
        let result = match Request::decode(&iod, bytes) {
            Ok(request) => request.serve(&target, &mut buffer, &pool).await,
            Err(errno) => errno,
        };
        let address = BufDesc::RawAddress(buffer.address());
        next = queue.submit_io_commit_cmd(tag, address, result).await;
    }
}
