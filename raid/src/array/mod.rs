//! ② The array: owner of order. (The way of a write lives in `write.rs`.)

use std::rc::Rc;

use evenkeel_journal::{Buf, MemberIndex, Slice, World};

use crate::error::{ArrayError, RequestError};
use crate::options::{CreateOptions, Progress, StartOptions};
use crate::status::Status;

/// Largest request that the device takes, in bytes.
pub const MAX_REQUEST: usize = 1 << 20;

/// A running array. Clones share it.
pub struct Array<W: World>(Rc<Inner<W>>);

struct Inner<W: World> {
    world: W,
}

impl<W: World> Clone for Array<W> {
    fn clone(&self) -> Self {
        Array(Rc::clone(&self.0))
    }
}

/// What `create` made.
#[derive(Clone, Debug)]
pub struct Created {
    /// UUID of the array.
    pub uuid: u128,
    /// Bytes of the device.
    pub size_bytes: u64,
    /// Bytes of the log area on every member.
    pub log_bytes: u64,
    /// Bytes of the cache.
    pub cache_bytes: u64,
}

/// Makes an array of `disks`, in this order.
///
/// # Errors
/// Before anything is written: usage, too small, occupied by an array (unless forced).
pub async fn create<W: World>(
    _world: &W,
    _disks: &[W::Disk],
    _options: &CreateOptions,
) -> Result<Created, ArrayError> {
    Err(ArrayError::new(crate::error::ErrorKind::Failed, "being written"))
}

impl<W: World> Array<W> {
    /// Starts the array that `disks` (in any order) are members of: decides which epoch is in
    /// force, replays log and ring, and spawns the array's tasks. After it returned, requests can
    /// be made.
    ///
    /// # Errors
    /// Each of §11's exit codes, before anything is written.
    pub async fn start(
        _world: &W,
        _disks: &[W::Disk],
        _options: &StartOptions,
        _progress: &dyn Fn(Progress),
    ) -> Result<Array<W>, ArrayError> {
        Err(ArrayError::new(crate::error::ErrorKind::Failed, "being written"))
    }

    /// Bytes of the device: a multiple of the stripe.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let _ = &self.0.world;
        0
    }

    /// Fills `buf` from byte `at` on. Any byte range inside the device. On an error the content
    /// is arbitrary and must not be passed on.
    pub async fn read(&self, _at: u64, buf: Buf) -> (Result<(), RequestError>, Buf) {
        (Err(RequestError::Io), buf)
    }

    /// Writes `data` at byte `at`: atomic up to 1 MiB (P3); any byte range. With `fua` it is
    /// durable when this returns.
    pub async fn write(&self, _at: u64, _data: Slice, _fua: bool) -> Result<(), RequestError> {
        Err(RequestError::Io)
    }

    /// Makes all that was acknowledged before durable (I5).
    pub async fn flush(&self) -> Result<(), RequestError> {
        Err(RequestError::Io)
    }

    /// Frees the range: it reads as zeros afterwards (whole stripes give their slots back). Any
    /// byte range, of any length.
    pub async fn discard(&self, _at: u64, _len: u64, _fua: bool) -> Result<(), RequestError> {
        Err(RequestError::Io)
    }

    /// Makes the range read as zeros; the same as discard.
    pub async fn write_zeroes(&self, at: u64, len: u64, fua: bool) -> Result<(), RequestError> {
        self.discard(at, len, fua).await
    }

    /// What `status --json` prints, except device and via, which are the front end's.
    #[must_use]
    pub fn status(&self) -> Status {
        unreachable!("being written")
    }

    /// The member with this path, if there is one.
    #[must_use]
    pub fn member_by_path(&self, _path: &str) -> Option<MemberIndex> {
        None
    }

    /// Fails a member by order of a person: durable when this returns (I3).
    ///
    /// # Errors
    /// If it is not active, or if fewer than k would be left.
    pub async fn fail_member(&self, _member: MemberIndex) -> Result<(), ArrayError> {
        Err(ArrayError::new(crate::error::ErrorKind::Failed, "being written"))
    }

    /// Brings everything that is dirty now into its slots.
    pub async fn destage_all(&self) -> Result<(), RequestError> {
        Err(RequestError::Io)
    }

    /// Stops: no request is taken any more, the cache is destaged, the log emptied, and the
    /// superblocks say `clean`.
    ///
    /// # Errors
    /// If members fail meanwhile: then the log stays as it is and a later start replays it.
    pub async fn stop(&self) -> Result<(), ArrayError> {
        Err(ArrayError::new(crate::error::ErrorKind::Failed, "being written"))
    }
}
