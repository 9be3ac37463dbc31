//! The production form of the seams: one thread, one io_uring, one executor.
//!
//! - [`executor`] tasks of the engine thread, first in first out; [`executor::Remote`] lets other
//!   threads hand it work, through [`inbox`];
//! - [`driver`] operations in flight on the ring: who waits for them, and what memory they need;
//! - [`files`] the ring's tables of files and of registered memory;
//! - [`disk`] members, `open` opening them where that may hang; [`net`] sockets; [`shm_ring`] ring memory in shared memory;
//! - [`world`] all of it as one `World`; [`engine`] a ring of one's own and the loop around it.
//!
//! What must hold: memory that the kernel was told of lives until the completion of the operation,
//! whatever becomes of the future; operations are issued in call order.

pub mod disk;
pub mod driver;
pub mod engine;
pub mod executor;
pub mod files;
pub mod inbox;
pub mod net;
pub mod open;
pub mod shm_ring;
pub mod world;

#[cfg(test)]
mod tests;

pub use disk::{Access, UringDisk};
pub use driver::{Driver, Op, RingAccess};
pub use engine::{Engine, Reaper, ReaperSlot};
pub use executor::{Executor, Remote};
pub use shm_ring::ShmRing;
pub use world::UringWorld;
