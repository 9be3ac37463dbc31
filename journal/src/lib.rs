//! ③ and ④ of the way of a request: everything about getting bytes to stable storage in order.
//!
//! From the outside in:
//! - [`units`] the newtypes that never mix ([`Lsn`], [`Stripe`], [`Slot`], …) and the block size;
//! - [`mem`] owned and shared memory that I/O can run from ([`Buf`], [`Slice`]);
//! - [`disk`] the `Disk` seam, [`world`] the `World` seam (time, randomness, spawn, ring memory):
//!   nothing in this crate or in the array makes a system call outside them; [`bounded`] a disk whose
//!   reads end;
//! - [`sync`] the few things that tasks of one thread wait on;
//! - [`record`] the records and their bytes; [`ring`] the journal's front in memory that survives;
//! - [`commit`] the bytes of a commit and its columns; [`log`] the disk log (group commit, space);
//! - [`replay`] what start-up finds in the log and the ring.
//!
//! The bytes are specified in `docs/format.md`; a test pins the constants to it.

pub mod bounded;
pub mod bytes;
pub mod commit;
pub mod disk;
pub mod log;
pub mod mem;
pub mod record;
pub mod replay;
pub mod ring;
pub mod sabotage;
pub mod sync;
pub mod units;
pub mod uring;
pub mod world;

pub use bounded::Bounded;
pub use disk::{Disk, DiskError, DiskFacts};
pub use mem::{Buf, Segs, Slice};
pub use units::{BLOCK, CommitNumber, Lsn, MemberIndex, Slot, Stripe};
pub use world::{RingMem, RunIdentity, World};
