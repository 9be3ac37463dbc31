//! The seam to everything else outside the core: time, randomness, tasks, and the memory of the
//! ring. The same core runs in production (io_uring, shared memory) and in the simulator.

use std::future::Future;
use std::io;
use std::time::Duration;

use crate::disk::Disk;
use crate::mem::Slice;

/// Who is running: named in the superblock so that a start can tell whether a ring must exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RunIdentity {
    /// The boot of this machine (`/proc/sys/kernel/random/boot_id`).
    pub boot: u128,
    /// The run directory's own random identity.
    pub run_dir: u128,
    /// This machine, for as long as its system is not installed anew; 0 if it has no identity.
    pub host: u128,
}

/// Ring memory: it survives the process (shared memory), or power too (persistent memory).
///
/// Stores reach the survivor in program order as far as another process after this one's death
/// can see. Offsets are in bytes. The simulator cuts between stores.
pub trait RingMem: Clone + 'static {
    /// Size in bytes.
    fn bytes(&self) -> usize;
    /// Copies `bytes` to `at`. Nobody else looks at the range until a head that covers it moves.
    fn store(&self, at: usize, bytes: &[u8]);
    /// One 8-byte store at `at` (a multiple of 8) with release order.
    fn store_u64(&self, at: usize, value: u64);
    /// The 8 bytes at `at` (a multiple of 8), little-endian.
    fn load_u64(&self, at: usize) -> u64;
    /// The bytes `at..at+len` as they are now, shared: the caller keeps them from changing while
    /// the slice lives (places are immutable between append and release).
    fn slice(&self, at: usize, len: usize) -> Slice;
}

/// Time, randomness, tasks and ring memory. Cheap to clone; everything stays on one thread.
pub trait World: Clone + 'static {
    /// The disks of this world.
    type Disk: Disk;
    /// The ring memory of this world.
    type Ring: RingMem;

    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;
    /// Seconds since 1970, for time stamps that people read, and for what is done now and then; it
    /// may be wrong, and nothing that must hold depends on it.
    fn wall_clock(&self) -> u64;
    /// Ends after `d`.
    fn sleep(&self, d: Duration) -> impl Future<Output = ()> + 'static;
    /// 64 random bits. Identities are made of two.
    fn random(&self) -> u64;
    /// Runs a task on this thread; its name is for people.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static);

    /// The present boot and run directory.
    fn identity(&self) -> RunIdentity;
    /// A member that failed, opened and locked again: what its path leads to now, perhaps the same as
    /// before. None if there is nothing to be had, or less than there was. What is on it, the caller
    /// looks at. Whoever drops this does not wait any longer; a later call may.
    fn reopen(&self, disk: &Self::Disk) -> impl Future<Output = Option<Self::Disk>> + 'static {
        std::future::ready(Some(disk.clone()))
    }
    /// The ring with this identity, if it still exists here.
    fn open_ring(&self, id: u128) -> io::Result<Option<Self::Ring>>;
    /// A new ring of `bytes` zero bytes with this identity.
    fn create_ring(&self, id: u128, bytes: usize) -> io::Result<Self::Ring>;
    /// Forgets a ring. One that does not exist is no error.
    fn remove_ring(&self, id: u128) -> io::Result<()>;
}
