//! What an array says of itself: the keys of `status --json`, with serde's derive.

use serde::{Deserialize, Serialize};

use crate::options::Ack;

/// Health of the array.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All members active.
    Healthy,
    /// Some members gone, none too many.
    Degraded,
    /// A member is being rebuilt.
    Rebuilding,
    /// More members are gone than the code tolerates.
    Failed,
}

/// State of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// In use.
    Active,
    /// Waiting to take a failed one's place.
    Spare,
    /// Being filled.
    Rebuilding,
    /// Being drained by copy before it is taken out.
    Failing,
    /// Failed; durably recorded.
    Failed,
    /// Was not there at start.
    Missing,
    /// There, but of an older epoch.
    Stale,
}

impl MemberState {
    /// The name, as JSON has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            MemberState::Active => "active",
            MemberState::Spare => "spare",
            MemberState::Rebuilding => "rebuilding",
            MemberState::Failing => "failing",
            MemberState::Failed => "failed",
            MemberState::Missing => "missing",
            MemberState::Stale => "stale",
        }
    }

    /// Whether it holds everything, and is read.
    #[must_use]
    pub fn serves(self) -> bool {
        matches!(self, MemberState::Active | MemberState::Failing)
    }

    /// Whether what is written to the array is written to it.
    #[must_use]
    pub fn takes_writes(self) -> bool {
        self.serves() || self == MemberState::Rebuilding
    }

    /// Whether it bears every epoch: it is one of the survivors that must be told.
    #[must_use]
    pub fn bears_epochs(self) -> bool {
        self.takes_writes() || self == MemberState::Spare
    }
}

/// What a member is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It holds data and parity.
    #[default]
    Data,
    /// It holds the log.
    Journal,
    /// It waits to take a failed one's place, or is being filled.
    Spare,
}

/// One member or journal device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Index in the member table.
    pub index: u8,
    /// Data, the log, or a spare.
    #[serde(default)]
    pub role: Role,
    /// Path; empty where it is not there.
    pub path: String,
    /// The member's own identity.
    pub uuid: String,
    /// Its state.
    pub state: MemberState,
    /// Index of the member whose place it takes, while it is being filled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes: Option<u8>,
    /// Reads that failed.
    pub read_errors: u64,
    /// Writes and flushes that failed.
    pub write_errors: u64,
    /// Blocks whose checksum was wrong.
    pub checksum_errors: u64,
    /// Blocks that were rewritten after an error.
    pub healed: u64,
}

/// A rebuild that goes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RebuildStatus {
    /// Which member; of several, the one that is furthest behind.
    pub member: u8,
    /// Bytes written to those that are being filled.
    pub done_bytes: u64,
    /// Bytes in all, as far as that is known.
    pub total_bytes: u64,
    /// Bytes a second over the last while; 0 while it is not known.
    pub bytes_per_s: u64,
    /// Seconds left at this rate; none while it is not known.
    pub eta_s: Option<u64>,
}

/// Stripes that are moved to a wider shape (`grow --add`).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GrowStatus {
    /// Bytes of the device that lie in the wider shape by now, or hold nothing.
    pub done_bytes: u64,
    /// Bytes of the device.
    pub total_bytes: u64,
    /// Bytes a second over the last while; 0 while it is not known.
    pub bytes_per_s: u64,
    /// Seconds left at this rate; none while it is not known.
    pub eta_s: Option<u64>,
}

/// A scrub that goes on, or the last one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// Whether it goes on now.
    pub running: bool,
    /// Whether it only looks.
    pub check_only: bool,
    /// Whether a person stopped it before it was through.
    pub stopped: bool,
    /// Seconds since 1970 when it began.
    pub started: u64,
    /// Seconds since 1970 when it ended; none: it has not, and a start goes on with it.
    pub ended: Option<u64>,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all, as far as that is known.
    pub total_bytes: u64,
    /// Blocks, copies of metadata and columns of the log that were wrong or could not be read.
    pub mismatches: u64,
    /// Those of them that were mended.
    pub healed: u64,
    /// Those of them that nobody can mend.
    pub unrepairable: u64,
    /// Bytes a second over the last while; 0 while it is not known.
    pub bytes_per_s: u64,
    /// Seconds left at this rate; none while it is not known.
    pub eta_s: Option<u64>,
}

/// The disk log.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct LogStatus {
    /// Bytes of the log areas of all its devices together.
    pub size_bytes: u64,
    /// Bytes between tail and head.
    pub used_bytes: u64,
}

/// The write-back cache.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Bytes that are newer than what lies in the slots.
    pub dirty_bytes: u64,
    /// Bytes that fit.
    pub size_bytes: u64,
}

/// Stripes of the device.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct StripesStatus {
    /// All.
    pub total: u64,
    /// Those that have a slot.
    pub mapped: u64,
    /// Blocks that are lost: EIO until they are overwritten.
    #[serde(default)]
    pub lost_blocks: u64,
}

/// What the last start found in the log and the ring.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ReplayStatus {
    /// Commits kept.
    pub commits: u64,
    /// Records applied, those of the ring included.
    pub records: u64,
    /// Bytes of log payload read from kept commits.
    pub bytes: u64,
    /// Bytes of a torn tail that was never acknowledged as durable.
    pub torn_tail_bytes: u64,
    /// How long the replay took.
    pub seconds: f64,
}

/// An array, as `status NAME --json` prints it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Name.
    pub name: String,
    /// UUID of the array.
    pub uuid: String,
    /// Health.
    pub state: State,
    /// Started with `--read-only`.
    pub read_only: bool,
    /// Level, as `create --level` takes it.
    pub level: String,
    /// k.
    pub data: u32,
    /// m.
    pub parity: u32,
    /// Bytes of a chunk.
    pub chunk_bytes: u64,
    /// Bytes of the device.
    pub size_bytes: u64,
    /// `/dev/ublkbN` or the socket; the front end fills it in.
    pub device: String,
    /// `ublk` or `nbd`; the front end fills it in.
    pub via: String,
    /// When writes are acknowledged.
    pub ack: Ack,
    /// Number of the epoch in force.
    pub epoch: u64,
    /// How many more disks may be lost without loss of data, whichever they are.
    pub can_lose: u32,
    /// The members, then the journal devices, then the spares, by index.
    pub members: Vec<MemberStatus>,
    /// The rebuild that goes on.
    pub rebuild: Option<RebuildStatus>,
    /// The growth by columns that goes on.
    #[serde(default)]
    pub grow: Option<GrowStatus>,
    /// The scrub.
    pub scrub: Option<ScrubStatus>,
    /// The disk log.
    pub log: LogStatus,
    /// The cache.
    pub cache: CacheStatus,
    /// The map.
    pub stripes: StripesStatus,
    /// The last replay.
    pub replay: ReplayStatus,
}
