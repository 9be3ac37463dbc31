//! The bytes of the NBD protocol: parsing and printing alone, no I/O. Whatever arrives, nothing
//! here panics, and nothing is allocated beyond what arrived.
//!
//! - [`options`] fixed newstyle: greeting, options, and what was agreed;
//! - [`request`] requests, checked against export and agreement;
//! - [`reply`] replies in the three styles: simple, structured, extended.
//!
//! Numbers on the wire are big-endian.

pub mod options;
pub mod reply;
pub mod request;
#[cfg(test)]
mod tests;

pub use options::{Answer, Haggle, Next};
pub use reply::Head;
pub use request::{Refusal, Request, RequestHeader};

/// Not allowed: the export is read-only.
pub const EPERM: u32 = 1;
/// The array cannot give or take this.
pub const EIO: u32 = 5;
/// Not a request that this server takes.
pub const EINVAL: u32 = 22;
/// A write beyond the end of the device.
pub const ENOSPC: u32 = 28;
/// Zeros that would be no faster than a write, where only a fast way was asked for.
pub const ENOTSUP: u32 = 95;

/// The bytes do not follow the protocol so far that the connection cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken(pub &'static str);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

/// How requests and replies are headed: agreed on with options.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Style {
    /// A reply is a header, and for a read the data.
    #[default]
    Simple,
    /// A reply may be several chunks, each of which says what it is.
    Structured,
    /// The same, with wider headers and lengths of 64 bits.
    Extended,
}

/// What client and server agreed on before the requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreement {
    /// Headers.
    pub style: Style,
    /// The client may ask what is allocated (`base:allocation`).
    pub allocation: bool,
}

/// What the server says of its export.
#[derive(Clone, Debug)]
pub struct Export {
    /// Name; the empty name means the same export.
    pub name: String,
    /// Bytes of the device.
    pub size_bytes: u64,
    /// No request that changes anything is taken.
    pub read_only: bool,
    /// Preferred request in bytes: zeros in such units need no old content.
    pub preferred_bytes: u32,
    /// Largest payload of a request in bytes.
    pub max_bytes: u32,
}

impl Export {
    /// Whether a client means this export.
    #[must_use]
    pub fn is_named(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }

    /// The transmission flags.
    #[must_use]
    pub fn flags(&self, style: Style) -> u16 {
        const HAS_FLAGS: u16 = 1;
        const READ_ONLY: u16 = 1 << 1;
        const SEND_FLUSH: u16 = 1 << 2;
        const SEND_FUA: u16 = 1 << 3;
        const SEND_TRIM: u16 = 1 << 5;
        const SEND_WRITE_ZEROES: u16 = 1 << 6;
        const SEND_DF: u16 = 1 << 7;
        const CAN_MULTI_CONN: u16 = 1 << 8;
        const SEND_CACHE: u16 = 1 << 10;
        const SEND_FAST_ZERO: u16 = 1 << 11;
        let mut flags = HAS_FLAGS | SEND_FLUSH | CAN_MULTI_CONN | SEND_CACHE;
        if style != Style::Simple {
            flags |= SEND_DF;
        }
        flags
            | if self.read_only {
                READ_ONLY
            } else {
                SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO
            }
    }
}

/// Fields of what arrived, one after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}
