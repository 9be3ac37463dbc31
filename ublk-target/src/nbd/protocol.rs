//! The bytes of the NBD protocol (fixed newstyle, simple replies): parsing and printing alone, no
//! I/O. Whatever arrives, nothing here panics, and nothing is allocated beyond what arrived.
//!
//! Numbers on the wire are big-endian.

/// Bytes of the server's greeting.
pub const GREETING_BYTES: usize = 18;
/// Bytes of the client's flags, which answer the greeting.
pub const CLIENT_FLAGS_BYTES: usize = 4;
/// Bytes of an option's header.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Largest data of an option that is looked at: a name of 4096 bytes and what stands around it.
pub const MAX_OPTION_BYTES: u32 = 16 << 10;
/// Longest name of an export.
pub const MAX_NAME_BYTES: usize = 4096;
/// Bytes of a request's header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply's header.
pub const REPLY_BYTES: usize = 16;

const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;

const FLAG_FIXED_NEWSTYLE: u16 = 1;
const FLAG_NO_ZEROES: u16 = 2;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_BLOCK_SIZE: u16 = 3;

const TRANSMIT_HAS_FLAGS: u16 = 1;
const TRANSMIT_READ_ONLY: u16 = 1 << 1;
const TRANSMIT_SEND_FLUSH: u16 = 1 << 2;
const TRANSMIT_SEND_FUA: u16 = 1 << 3;
const TRANSMIT_SEND_TRIM: u16 = 1 << 5;
const TRANSMIT_SEND_WRITE_ZEROES: u16 = 1 << 6;
const TRANSMIT_CAN_MULTI_CONN: u16 = 1 << 8;

const CMD_FLAG_FUA: u16 = 1;
const CMD_FLAG_NO_HOLE: u16 = 1 << 1;

/// Errors of a request, as they stand on the wire.
pub const EPERM: u32 = 1;
/// The array cannot give or take this.
pub const EIO: u32 = 5;
/// Not a request that this server takes.
pub const EINVAL: u32 = 22;

/// The bytes do not follow the protocol so far that the connection cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken(pub &'static str);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
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
    /// Preferred and largest request in bytes.
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
    pub fn flags(&self) -> u16 {
        let common = TRANSMIT_HAS_FLAGS | TRANSMIT_SEND_FLUSH | TRANSMIT_CAN_MULTI_CONN;
        if self.read_only {
            common | TRANSMIT_READ_ONLY
        } else {
            common | TRANSMIT_SEND_FUA | TRANSMIT_SEND_TRIM | TRANSMIT_SEND_WRITE_ZEROES
        }
    }
}

/// The server's greeting.
#[must_use]
pub fn greeting() -> Vec<u8> {
    let mut out = Vec::with_capacity(GREETING_BYTES);
    out.extend_from_slice(&NBD_MAGIC.to_be_bytes());
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    out
}

/// What the client's flags say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientFlags {
    /// The client wants no padding after the answer to EXPORT_NAME.
    pub no_zeroes: bool,
}

/// Reads the client's flags.
///
/// # Errors
/// Flags that were not offered.
pub fn client_flags(bytes: [u8; CLIENT_FLAGS_BYTES]) -> Result<ClientFlags, Broken> {
    let flags = u32::from_be_bytes(bytes);
    if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
        return Err(Broken("the client sets flags that were not offered"));
    }
    Ok(ClientFlags { no_zeroes: flags & u32::from(FLAG_NO_ZEROES) != 0 })
}

/// The header of an option: its number and how many bytes of data follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionHeader {
    /// Number of the option.
    pub option: u32,
    /// Bytes that follow.
    pub len: u32,
}

/// Reads the header of an option.
///
/// # Errors
/// A wrong magic.
pub fn option_header(bytes: &[u8; OPTION_HEADER_BYTES]) -> Result<OptionHeader, Broken> {
    let mut r = Reader(bytes);
    let (Some(magic), Some(option), Some(len)) = (r.u64(), r.u32(), r.u32()) else {
        return Err(Broken("an option's header is too short"));
    };
    if magic != OPTION_MAGIC {
        return Err(Broken("an option has a wrong magic"));
    }
    Ok(OptionHeader { option, len })
}

/// What the connection does after an option was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The next option follows.
    Haggle,
    /// Requests follow.
    Transmit,
    /// The connection ends, after the answer was sent.
    Close,
}

/// The kind of an option's reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum OptionReply {
    /// Done.
    Ack = 1,
    /// An export.
    Server = 2,
    /// Something about an export.
    Info = 3,
    /// This server does not know the option.
    Unsupported = 1 << 31 | 1,
    /// The option's data makes no sense.
    Invalid = 1 << 31 | 3,
    /// No such export.
    Unknown = 1 << 31 | 6,
    /// More data than is looked at.
    TooBig = 1 << 31 | 9,
}

fn reply(out: &mut Vec<u8>, option: u32, kind: OptionReply, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&(kind as u32).to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// Answers an option whose data was not looked at because there was too much of it.
pub fn answer_too_big(option: u32, out: &mut Vec<u8>) -> Next {
    if option == OPT_EXPORT_NAME {
        return Next::Close;
    }
    reply(out, option, OptionReply::TooBig, b"the option's data is too long");
    Next::Haggle
}

/// Answers an option: what to send is appended to `out`.
pub fn answer_option(
    option: u32,
    data: &[u8],
    flags: ClientFlags,
    export: &Export,
    out: &mut Vec<u8>,
) -> Next {
    match option {
        OPT_EXPORT_NAME => {
            if !export.is_named(data) {
                return Next::Close;
            }
            out.extend_from_slice(&export.size_bytes.to_be_bytes());
            out.extend_from_slice(&export.flags().to_be_bytes());
            if !flags.no_zeroes {
                out.resize(out.len() + 124, 0);
            }
            Next::Transmit
        }
        OPT_ABORT => {
            reply(out, option, OptionReply::Ack, &[]);
            Next::Close
        }
        OPT_LIST if data.is_empty() => {
            let mut entry = (export.name.len() as u32).to_be_bytes().to_vec();
            entry.extend_from_slice(export.name.as_bytes());
            reply(out, option, OptionReply::Server, &entry);
            reply(out, option, OptionReply::Ack, &[]);
            Next::Haggle
        }
        OPT_LIST => {
            reply(out, option, OptionReply::Invalid, b"LIST takes no data");
            Next::Haggle
        }
        OPT_INFO | OPT_GO => {
            let Some(ask) = parse_info(data) else {
                reply(out, option, OptionReply::Invalid, b"the option's data makes no sense");
                return Next::Haggle;
            };
            if !export.is_named(ask.name) {
                reply(out, option, OptionReply::Unknown, b"no such export");
                return Next::Haggle;
            }
            answer_info(option, &ask, export, out);
            if option == OPT_GO { Next::Transmit } else { Next::Haggle }
        }
        _ => {
            reply(out, option, OptionReply::Unsupported, b"this server does not know the option");
            Next::Haggle
        }
    }
}

struct InfoAsk<'a> {
    name: &'a [u8],
    wants_name: bool,
}

fn parse_info(data: &[u8]) -> Option<InfoAsk<'_>> {
    let mut r = Reader(data);
    let name_len = r.u32()? as usize;
    if name_len > MAX_NAME_BYTES {
        return None;
    }
    let name = r.take(name_len)?;
    let infos = r.u16()?;
    let mut wants_name = false;
    for _ in 0..infos {
        wants_name |= r.u16()? == INFO_NAME;
    }
    r.0.is_empty().then_some(InfoAsk { name, wants_name })
}

fn answer_info(option: u32, ask: &InfoAsk<'_>, export: &Export, out: &mut Vec<u8>) {
    let mut data = INFO_EXPORT.to_be_bytes().to_vec();
    data.extend_from_slice(&export.size_bytes.to_be_bytes());
    data.extend_from_slice(&export.flags().to_be_bytes());
    reply(out, option, OptionReply::Info, &data);

    let mut data = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
    for bytes in [1, export.preferred_bytes, export.max_bytes] {
        data.extend_from_slice(&bytes.to_be_bytes());
    }
    reply(out, option, OptionReply::Info, &data);

    if ask.wants_name {
        let mut data = INFO_NAME.to_be_bytes().to_vec();
        data.extend_from_slice(export.name.as_bytes());
        reply(out, option, OptionReply::Info, &data);
    }
    reply(out, option, OptionReply::Ack, &[]);
}

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
    pub len: u32,
}

/// Number of the command that carries a payload.
pub const CMD_WRITE: u16 = 1;

impl RequestHeader {
    /// Bytes of payload that follow the header, whatever the request is worth.
    #[must_use]
    pub fn payload_bytes(&self) -> u32 {
        if self.command == CMD_WRITE { self.len } else { 0 }
    }
}

/// Reads a request's header.
///
/// # Errors
/// A wrong magic: where the next request begins is then unknown.
pub fn request_header(bytes: &[u8; REQUEST_BYTES]) -> Result<RequestHeader, Broken> {
    let mut r = Reader(bytes);
    let fields = (r.u32(), r.u16(), r.u16(), r.u64(), r.u64(), r.u32());
    let (Some(magic), Some(flags), Some(command), Some(cookie), Some(offset), Some(len)) = fields
    else {
        return Err(Broken("a request's header is too short"));
    };
    if magic != REQUEST_MAGIC {
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
    /// Make the range read as zeros.
    WriteZeroes {
        /// First byte.
        at: u64,
        /// Bytes.
        len: u64,
        /// Durable before the reply.
        fua: bool,
    },
}

/// Checks a request against the export.
///
/// # Errors
/// The error for the reply.
pub fn check_request(header: &RequestHeader, export: &Export) -> Result<Request, u32> {
    let RequestHeader { flags, command, offset: at, len, .. } = *header;
    let fua = flags & CMD_FLAG_FUA != 0;
    let known = if command == 6 { CMD_FLAG_FUA | CMD_FLAG_NO_HOLE } else { CMD_FLAG_FUA };
    if command == 2 {
        return Ok(Request::Disconnect);
    }
    if flags & !known != 0 {
        return Err(EINVAL);
    }
    if command == 3 {
        return if at == 0 && len == 0 { Ok(Request::Flush) } else { Err(EINVAL) };
    }
    if !matches!(command, 0 | CMD_WRITE | 4 | 6) {
        return Err(EINVAL);
    }
    let inside = at.checked_add(u64::from(len)).is_some_and(|end| end <= export.size_bytes);
    if !inside || len == 0 || (command <= CMD_WRITE && len > export.max_bytes) {
        return Err(EINVAL);
    }
    if export.read_only && command != 0 {
        return Err(EPERM);
    }
    let bytes = u64::from(len);
    Ok(match command {
        0 => Request::Read { at, len: len as usize },
        CMD_WRITE => Request::Write { at, len: len as usize, fua },
        4 => Request::Trim { at, len: bytes, fua },
        // Every stripe of the device has its slot in store, so a hole can always be written:
        // what NO_HOLE asks for holds by itself.
        _ => Request::WriteZeroes { at, len: bytes, fua },
    })
}

/// The header of a simple reply; the data of a read that went well follows it.
#[must_use]
pub fn simple_reply(cookie: u64, error: u32) -> [u8; REPLY_BYTES] {
    let mut out = [0; REPLY_BYTES];
    out[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&error.to_be_bytes());
    out[8..].copy_from_slice(&cookie.to_be_bytes());
    out
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn export() -> Export {
        Export {
            name: "tank".into(),
            size_bytes: 10 << 20,
            read_only: false,
            preferred_bytes: 4096,
            max_bytes: 1 << 20,
        }
    }

    fn request(flags: u16, command: u16, offset: u64, len: u32) -> Result<Request, u32> {
        check_request(&RequestHeader { flags, command, cookie: 9, offset, len }, &export())
    }

    fn info(name: &[u8], infos: &[u16]) -> Vec<u8> {
        let mut d = (name.len() as u32).to_be_bytes().to_vec();
        d.extend_from_slice(name);
        d.extend_from_slice(&(infos.len() as u16).to_be_bytes());
        infos.iter().for_each(|i| d.extend_from_slice(&i.to_be_bytes()));
        d
    }

    fn answer(option: u32, data: &[u8]) -> (Next, Vec<u8>) {
        let mut out = Vec::new();
        let next =
            answer_option(option, data, ClientFlags { no_zeroes: false }, &export(), &mut out);
        (next, out)
    }

    /// Kinds of the replies in `out`, with their data.
    fn replies(mut out: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut list = Vec::new();
        while !out.is_empty() {
            let mut r = Reader(out);
            assert_eq!(r.u64(), Some(OPTION_REPLY_MAGIC));
            r.u32().expect("the option");
            let kind = r.u32().expect("a kind");
            let len = r.u32().expect("a length") as usize;
            list.push((kind, r.take(len).expect("data").to_vec()));
            out = r.0;
        }
        list
    }

    #[test]
    fn a_request_is_inside_the_device_or_invalid() {
        let end = 10u64 << 20;
        assert_eq!(request(0, 0, end - 1, 1), Ok(Request::Read { at: end - 1, len: 1 }));
        assert_eq!(request(0, 0, end, 1), Err(EINVAL));
        assert_eq!(request(0, 0, u64::MAX, 1), Err(EINVAL));
        assert_eq!(request(0, 0, 0, 0), Err(EINVAL));
        assert_eq!(request(1, 1, 7, 3), Ok(Request::Write { at: 7, len: 3, fua: true }));
        assert_eq!(request(0, 1, 0, (1 << 20) + 1), Err(EINVAL));
        assert_eq!(request(0, 4, 0, 10 << 20), Ok(Request::Trim { at: 0, len: end, fua: false }));
        assert_eq!(request(2, 6, 0, 1), Ok(Request::WriteZeroes { at: 0, len: 1, fua: false }));
        assert_eq!(request(1 << 4, 6, 0, 1), Err(EINVAL), "fast zero was not offered");
        assert_eq!(request(2, 1, 0, 1), Err(EINVAL), "no-hole belongs to write-zeroes");
        assert_eq!(request(0, 3, 0, 0), Ok(Request::Flush));
        assert_eq!(request(0, 3, 1, 0), Err(EINVAL));
        assert_eq!(request(0, 2, 5, 5), Ok(Request::Disconnect));
        for command in [5, 7, 8, 99] {
            assert_eq!(request(0, command, 0, 1), Err(EINVAL));
        }
    }

    #[test]
    fn a_read_only_export_takes_reads_and_flushes() {
        let e = Export { read_only: true, ..export() };
        let ask = |command, len| {
            let h = RequestHeader { flags: 0, command, cookie: 0, offset: 0, len };
            check_request(&h, &e)
        };
        assert_eq!(ask(0, 1), Ok(Request::Read { at: 0, len: 1 }));
        assert_eq!(ask(3, 0), Ok(Request::Flush));
        for command in [1, 4, 6] {
            assert_eq!(ask(command, 1), Err(EPERM));
        }
        assert_eq!(e.flags() & 0b110_1010, 0b10);
    }

    #[test]
    fn options_are_answered() {
        let (next, out) = answer(OPT_GO, &info(b"", &[]));
        assert_eq!(next, Next::Transmit);
        let got = replies(&out);
        assert_eq!(got.iter().map(|r| r.0).collect::<Vec<_>>(), [3, 3, 1]);
        assert_eq!(got[0].1[2..10], (10u64 << 20).to_be_bytes());
        assert_eq!(got[1].1, [0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 0, 16, 0, 0]);

        let (next, out) = answer(OPT_INFO, &info(b"tank", &[INFO_NAME, 77]));
        assert_eq!(next, Next::Haggle);
        assert_eq!(replies(&out)[2].1, b"\0\x01tank");

        let (next, out) = answer(OPT_GO, &info(b"pond", &[]));
        assert_eq!((next, replies(&out)[0].0), (Next::Haggle, OptionReply::Unknown as u32));
        let (next, out) = answer(OPT_GO, &info(b"tank", &[1])[..9]);
        assert_eq!((next, replies(&out)[0].0), (Next::Haggle, OptionReply::Invalid as u32));
        let (next, out) = answer(8, &[]);
        assert_eq!((next, replies(&out)[0].0), (Next::Haggle, OptionReply::Unsupported as u32));

        let (next, out) = answer(OPT_LIST, &[]);
        assert_eq!(next, Next::Haggle);
        assert_eq!(replies(&out), [(2, b"\0\0\0\x04tank".to_vec()), (1, vec![])]);
        assert_eq!(answer(OPT_ABORT, &[]).0, Next::Close);

        let (next, out) = answer(OPT_EXPORT_NAME, b"tank");
        assert_eq!((next, out.len()), (Next::Transmit, 134));
        assert_eq!(answer(OPT_EXPORT_NAME, b"pond"), (Next::Close, vec![]));
    }

    #[test]
    fn what_arrives_is_read_back() {
        let mut b = [0u8; REQUEST_BYTES];
        b[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        b[5] = 1;
        b[7] = 1;
        b[15] = 0xc0;
        b[23] = 8;
        b[27] = 16;
        let h = request_header(&b).expect("a good header");
        assert_eq!(h, RequestHeader { flags: 1, command: 1, cookie: 0xc0, offset: 8, len: 16 });
        assert_eq!(h.payload_bytes(), 16);
        assert_eq!(simple_reply(0xc0, 5)[4..], [0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0xc0]);
    }

    /// Seeded garbage, and good messages with some bytes changed.
    #[test]
    fn garbage_never_panics_and_answers_stay_small() {
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        for round in 0..200_000 {
            let len = (next() % 64) as usize;
            let mut data: Vec<u8> =
                if round % 2 == 0 { info(b"tank", &[0, 1, 3]) } else { Vec::new() };
            if data.is_empty() {
                data.resize_with(len, || next() as u8);
            } else {
                let at = next() as usize % data.len();
                data[at] = next() as u8;
                data.truncate(next() as usize % 32);
            }
            let (_, out) = answer((next() % 12) as u32, &data);
            assert!(out.len() < 256);
            let mut h = [0u8; OPTION_HEADER_BYTES];
            h.fill_with(|| next() as u8);
            let _ = option_header(&h);
            let mut h = [0u8; REQUEST_BYTES];
            h.fill_with(|| next() as u8);
            h[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
            h[6] = 0;
            h[7] %= 8;
            let header = request_header(&h).expect("the magic is right");
            match check_request(&header, &export()) {
                Ok(Request::Read { at, len } | Request::Write { at, len, .. }) => {
                    assert!(len <= 1 << 20 && at + len as u64 <= 10 << 20);
                }
                Ok(Request::Trim { at, len, .. } | Request::WriteZeroes { at, len, .. }) => {
                    assert!(at + len <= 10 << 20);
                }
                _ => {}
            }
        }
    }
}
