//! `/dev/ublkbN`: one queue, served by the engine thread on libublk's own ring.
//!
//! - [`device`] adding, recovering, starting, stopping and deleting a device, on a thread of its
//!   own: START_DEV scans partitions and STOP_DEV writes back, and both need the engine meanwhile;
//! - [`queue`] the queue on the engine thread: one permanent task a tag;
//! - [`request`] a request's descriptor turned into one `.await` on the target;
//! - [`buffers`] the memory of the tags; [`record`] what the run directory remembers of a device.
//!
//! What must hold: the ring is reached through libublk's thread-local, one borrow at a time;
//! completions are taken off it by libublk (it counts its commands) and dispatched only after the
//! borrow has ended. What is in a tag's buffer changes only while nobody else holds any of it.

pub mod buffers;
pub mod device;
pub mod queue;
pub mod record;
pub mod request;

use std::cell::RefCell;
use std::io;
use std::path::Path;

use evenkeel_journal::uring::engine::make_ring;
use evenkeel_journal::uring::{Engine, RingAccess};
use libublk::{UblkError, ublk_init_task_ring, with_task_io_ring_mut};

pub use device::{Control, Device, DeviceParams};
pub use queue::Queue;

/// Requests in flight.
pub const DEPTH: u16 = 128;
/// Bytes of the largest request.
pub const REQUEST_BYTES: u32 = evenkeel_raid::MAX_REQUEST as u32;

/// Whether this kernel has ublk, loaded.
#[must_use]
pub fn is_there() -> bool {
    Path::new("/dev/ublk-control").exists()
}

/// An engine of the calling thread over the ring that libublk will use on it.
///
/// # Errors
/// If the kernel gives no ring, or if this thread has one already.
pub fn engine() -> io::Result<Engine> {
    ublk_init_task_ring(|cell| {
        let ring = make_ring().map_err(UblkError::IOError)?;
        cell.set(RefCell::new(ring)).map_err(|_| UblkError::OtherError(-libc::EEXIST))
    })
    .map_err(|e| device::io_error(&e))?;
    let ring: RingAccess = std::rc::Rc::new(|f| with_task_io_ring_mut(|ring| f(ring)));
    Engine::over(ring)
}
