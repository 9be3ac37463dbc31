//! Requests: their headers, and which may be carried out.
//!
//! What must hold: a [`Request`] lies inside the device, its flags are known and allowed, and what
//! it reads or writes is not more than the export's largest. How many bytes of payload follow a
//! header is known even where the request is refused, so that the connection can go on.

use super::{Agreement, Broken, EINVAL, ENOSPC, ENOTSUP, EPERM, Export, Reader, Style};

/// Bytes of a request's header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of an extended request's header.
pub const EXTENDED_REQUEST_BYTES: usize = 32;

pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISCONNECT: u16 = 2;
const CMD_FLUSH: u16 = 3;
const CMD_TRIM: u16 = 4;
const CMD_CACHE: u16 = 5;
const CMD_WRITE_ZEROES: u16 = 6;
const CMD_BLOCK_STATUS: u16 = 7;

pub(super) const FLAG_FUA: u16 = 1;
pub(super) const FLAG_NO_HOLE: u16 = 1 << 1;
pub(super) const FLAG_DF: u16 = 1 << 2;
pub(super) const FLAG_REQ_ONE: u16 = 1 << 3;
pub(super) const FLAG_FAST_ZERO: u16 = 1 << 4;
pub(super) const FLAG_PAYLOAD_LEN: u16 = 1 << 5;

/// A request's header as it arrived, not yet checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    /// Command flags.
    pub flags: u16,
    /// Number of the command.
    pub command: u16,
    /// The client's mark; the reply bears it.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl RequestHeader {
    /// Bytes of payload that follow the header, whatever the request is worth.
    #[must_use]
    pub fn payload_bytes(&self, style: Style) -> u64 {
        let carries = match (self.command, style) {
            (CMD_DISCONNECT, _) => false,
            (_, Style::Extended) => self.flags & FLAG_PAYLOAD_LEN != 0,
            (command, _) => command == CMD_WRITE,
        };
        if carries { self.len } else { 0 }
    }
}

/// Reads a request's header.
///
/// # Errors
/// A wrong magic: where the next request begins is then unknown.
pub fn request_header(bytes: &[u8; REQUEST_BYTES]) -> Result<RequestHeader, Broken> {
    parse(bytes, REQUEST_MAGIC)
}

/// Reads an extended request's header.
///
/// # Errors
/// As above.
pub fn extended_request_header(
    bytes: &[u8; EXTENDED_REQUEST_BYTES],
) -> Result<RequestHeader, Broken> {
    parse(bytes, EXTENDED_REQUEST_MAGIC)
}

fn parse(bytes: &[u8], expected: u32) -> Result<RequestHeader, Broken> {
    let mut r = Reader(bytes);
    let fields = (r.u32(), r.u16(), r.u16(), r.u64(), r.u64());
    let len = if r.0.len() == 8 { r.u64() } else { r.u32().map(u64::from) };
    let ((Some(magic), Some(flags), Some(command), Some(cookie), Some(offset)), Some(len)) =
        (fields, len)
    else {
        return Err(Broken("a request's header is too short"));
    };
    if magic != expected {
        return Err(Broken("a request has a wrong magic"));
    }
    Ok(RequestHeader { flags, command, cookie, offset, len })
}

/// A request that may be carried out: inside the device, flags known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Read this many bytes.
    Read {
        /// First byte.
        at: u64,
        /// Bytes, at most the export's largest.
        len: usize,
        /// The reply has one chunk of content at most.
        whole: bool,
    },
    /// Write the payload.
    Write {
        /// First byte.
        at: u64,
        /// Bytes, at most the export's largest.
        len: usize,
        /// Durable before the reply.
        fua: bool,
    },
    /// The client is done; no reply.
    Disconnect,
    /// Make all that was acknowledged durable.
    Flush,
    /// Free the range.
    Trim {
        /// First byte.
        at: u64,
        /// Bytes.
        len: u64,
        /// Durable before the reply.
        fua: bool,
    },
    /// The client will need the range: a hint that is not used.
    Cache,
    /// Make the range read as zeros.
    WriteZeroes {
        /// First byte.
        at: u64,
        /// Bytes.
        len: u64,
        /// Durable before the reply.
        fua: bool,
    },
    /// Say what of the range is allocated.
    BlockStatus {
        /// First byte.
        at: u64,
        /// Bytes.
        len: u64,
        /// Only the first extent.
        one: bool,
    },
}

/// Why a request is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The error for the reply.
    pub error: u32,
    /// A sentence for a person.
    pub text: &'static str,
}

fn refuse<T>(error: u32, text: &'static str) -> Result<T, Refusal> {
    Err(Refusal { error, text })
}

/// Checks a request against the export and what was agreed.
///
/// # Errors
/// What the reply says.
pub fn check_request(
    header: &RequestHeader,
    export: &Export,
    agreed: Agreement,
) -> Result<Request, Refusal> {
    let RequestHeader { flags, command, offset: at, len, .. } = *header;
    let extended = agreed.style == Style::Extended;
    let own_flags = match command {
        CMD_DISCONNECT => return Ok(Request::Disconnect),
        CMD_READ if agreed.style != Style::Simple => FLAG_DF,
        CMD_WRITE if extended => FLAG_PAYLOAD_LEN,
        CMD_READ | CMD_WRITE | CMD_FLUSH | CMD_TRIM | CMD_CACHE => 0,
        CMD_WRITE_ZEROES => FLAG_NO_HOLE | FLAG_FAST_ZERO,
        CMD_BLOCK_STATUS if agreed.allocation => FLAG_REQ_ONE,
        CMD_BLOCK_STATUS => {
            return refuse(
                EINVAL,
                "Block status needs the context base:allocation, agreed before.",
            );
        }
        _ => return refuse(EINVAL, "This server does not know the command."),
    };
    if flags & !(own_flags | FLAG_FUA) != 0 {
        return refuse(EINVAL, "The command does not take these flags.");
    }
    if extended && command == CMD_WRITE && flags & FLAG_PAYLOAD_LEN == 0 {
        return refuse(EINVAL, "An extended write must be flagged as having a payload.");
    }
    let changes = matches!(command, CMD_WRITE | CMD_TRIM | CMD_WRITE_ZEROES);
    if changes && export.read_only {
        return refuse(EPERM, "The array was started read-only.");
    }
    if command == CMD_FLUSH {
        if at != 0 || len != 0 {
            return refuse(EINVAL, "A flush has no range.");
        }
        return Ok(Request::Flush);
    }
    if len == 0 {
        return refuse(EINVAL, "The request has no bytes.");
    }
    if matches!(command, CMD_READ | CMD_WRITE) && len > u64::from(export.max_bytes) {
        return refuse(EINVAL, "The request is larger than the largest that was advertised.");
    }
    if at.checked_add(len).is_none_or(|end| end > export.size_bytes) {
        let full = matches!(command, CMD_WRITE | CMD_WRITE_ZEROES);
        let error = if full { ENOSPC } else { EINVAL };
        return refuse(error, "The request goes beyond the end of the device.");
    }
    let fua = flags & FLAG_FUA != 0;
    Ok(match command {
        CMD_READ => Request::Read { at, len: len as usize, whole: flags & FLAG_DF != 0 },
        CMD_WRITE => Request::Write { at, len: len as usize, fua },
        CMD_TRIM => Request::Trim { at, len, fua },
        CMD_CACHE => Request::Cache,
        CMD_BLOCK_STATUS => Request::BlockStatus { at, len, one: flags & FLAG_REQ_ONE != 0 },
        // Every stripe of the device has its slot in store, so a hole can always be written:
        // what NO_HOLE asks for holds by itself.
        _ => {
            let block = u64::from(export.preferred_bytes);
            let fast = at.is_multiple_of(block) && len.is_multiple_of(block);
            if flags & FLAG_FAST_ZERO != 0 && !fast {
                return refuse(ENOTSUP, "Parts of blocks are not made zeros faster than written.");
            }
            Request::WriteZeroes { at, len, fua }
        }
    })
}
