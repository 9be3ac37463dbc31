//! What create and start are told.

use crate::codec::Level;

/// When a write is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// When it is in the ring: the device advertises a volatile write cache (P1).
    #[default]
    Cached,
    /// When its commit is durable in the disk log.
    Durable,
}

/// What `create` is told.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Name of the array: 1 to 32 characters of `[A-Za-z0-9._-]`, not starting with `.` or `-`.
    pub name: String,
    /// Which code.
    pub level: Level,
    /// k, data chunks of a stripe.
    pub data: usize,
    /// m, parity chunks of a stripe.
    pub parity: usize,
    /// Bytes of a chunk: a power of two from 4 KiB to 1 MiB. Default 64 KiB.
    pub chunk_bytes: u64,
    /// Bytes of the log on every device that holds it; None: chosen from their size.
    pub log_bytes: Option<u64>,
    /// Bytes of the write-back cache (the ring's places); None: 64 MiB, less for small arrays.
    pub cache_bytes: Option<u64>,
    /// Keep a checksum of every block (P7).
    pub checksums: bool,
    /// Overwrite what was an array before.
    pub force: bool,
}

/// What `start` is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartOptions {
    /// When writes are acknowledged.
    pub ack: Ack,
    /// Replay in memory, write nothing at all.
    pub read_only: bool,
    /// Start although k or more members of the newest epoch are absent.
    pub accept_missing: bool,
    /// Start although the log or the ring is damaged or missing, giving up what it held; and
    /// although another machine may hold the array.
    pub force: bool,
    /// Bytes of memory for checksums; None: [`crate::checksums::DEFAULT_MEMORY`].
    pub checksum_cache: Option<u64>,
    /// How long an operation on a member may take before the member counts as failed; None:
    /// [`crate::hung::IO_TIMEOUT`].
    pub io_timeout: Option<std::time::Duration>,
    /// Bytes a second that a rebuild writes at most, or a growth by columns; None: as many as the disks
    /// give while requests are fast enough.
    pub rebuild_rate: Option<u64>,
    /// A scrub is begun by itself when the last one ended so long ago; None: never.
    pub scrub_every: Option<std::time::Duration>,
}

/// What is being done while an array starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Reading the log: bytes read so far, bytes in all.
    ReadLog(u64, u64),
    /// Making parity right after a start by force: stripes so far, stripes in all.
    Parity(u64, u64),
    /// Applying the log: records so far, records in all.
    Replay(u64, u64),
}
