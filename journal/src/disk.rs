//! ④ The seam to a member: what the core asks of a disk, and what it may count on.
//!
//! An operation is issued when the method is called, in call order, and the future only waits for
//! its end. Dropping the future neither cancels the operation nor frees its memory early.
//! Completed writes are volatile until a later `flush` has completed; a flush covers the writes
//! that completed before it was called. Writes in flight at the same time may land in any order
//! and, at a crash, in part (whole 512-byte sectors, any of them).

use std::future::Future;

use crate::mem::{Buf, Segs};

/// What went wrong with an operation on a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskError {
    /// The operation failed with this errno; the disk is there. A read may be repaired.
    Io(i32),
    /// The disk is gone, or is shorter than it was: ENODEV and kin, a size of 0, a short transfer, a
    /// block device's ENOSPC.
    Gone,
    /// A file's file system is full.
    Full,
    /// There was no answer in time.
    Silent,
    /// The disk cannot do this at all (a hole punched in a file that refuses it).
    Unsupported,
}

impl std::fmt::Display for DiskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DiskError::Io(errno) => std::io::Error::from_raw_os_error(*errno).fmt(f),
            DiskError::Gone => f.write_str("the disk is gone, or was cut short"),
            DiskError::Full => f.write_str("the file system under the file is full"),
            DiskError::Silent => f.write_str("there was no answer in time"),
            DiskError::Unsupported => f.write_str("not supported by this disk"),
        }
    }
}

impl std::error::Error for DiskError {}

/// What is known about a disk without asking it, from when it was opened or measured.
#[derive(Clone, Debug)]
pub struct DiskFacts {
    /// Path or name that a person knows it by.
    pub path: String,
    /// Usable size in bytes.
    pub bytes: u64,
    /// Whether it is a regular file.
    pub is_file: bool,
}

/// A member, opened and locked by the very descriptor that does the I/O (I6).
///
/// `at` is in bytes; offsets and lengths are multiples of 4096.
pub trait Disk: Clone + 'static {
    /// Path, size and kind.
    fn facts(&self) -> DiskFacts;
    /// Asks the disk how large it is now: [`Disk::facts`] says so from then on. A disk that cannot
    /// become larger while it is open has nothing to do. Like a read, it may have no answer.
    ///
    /// # Errors
    /// If it does not say, or is shorter than it was (`Gone`); then the facts stay.
    fn measure(&self) -> impl Future<Output = Result<(), DiskError>> + 'static {
        std::future::ready(Ok(()))
    }
    /// Fills `buf` from `at`. On an error its content is arbitrary.
    fn read(
        &self,
        at: u64,
        buf: Buf,
    ) -> impl Future<Output = (Result<(), DiskError>, Buf)> + 'static;
    /// Writes the pieces one after the other from `at` on.
    fn write(&self, at: u64, segs: Segs) -> impl Future<Output = Result<(), DiskError>> + 'static;
    /// Makes every write that completed before this call stable (I5: a real flush).
    fn flush(&self) -> impl Future<Output = Result<(), DiskError>> + 'static;
    /// Tells the disk that the range holds nothing of use. Its content is then arbitrary.
    fn discard(&self, at: u64, len: u64) -> impl Future<Output = Result<(), DiskError>> + 'static;
}
