//! Fixed newstyle: the greeting, and the options that a client haggles over before its requests.
//!
//! What must hold: every option but EXPORT_NAME is answered, whatever is in it; an answer is not
//! larger than a few hundred bytes and the export's name; a client has [`MAX_OPTIONS`] to choose.

use super::{Agreement, Broken, Export, Reader, Style};

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
/// Options of one client; after more it is left alone.
pub const MAX_OPTIONS: usize = 64;
/// The identity of `base:allocation` in a connection that chose it.
pub const ALLOCATION_ID: u32 = 1;

const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const FLAG_FIXED_NEWSTYLE: u16 = 1;
const FLAG_NO_ZEROES: u16 = 2;

pub(super) const OPT_EXPORT_NAME: u32 = 1;
pub(super) const OPT_ABORT: u32 = 2;
pub(super) const OPT_LIST: u32 = 3;
pub(super) const OPT_STARTTLS: u32 = 5;
pub(super) const OPT_INFO: u32 = 6;
pub(super) const OPT_GO: u32 = 7;
pub(super) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(super) const OPT_LIST_META_CONTEXT: u32 = 9;
pub(super) const OPT_SET_META_CONTEXT: u32 = 10;
pub(super) const OPT_EXTENDED_HEADERS: u32 = 11;

const INFO_EXPORT: u16 = 0;
pub(super) const INFO_NAME: u16 = 1;
const INFO_BLOCK_SIZE: u16 = 3;

const ALLOCATION: &[u8] = b"base:allocation";
/// As a query of LIST it means all contexts of its name space.
const BASE: &[u8] = b"base:";

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
    /// Requests follow, as agreed.
    Transmit(Agreement),
    /// The connection ends, after the answer was sent.
    Close,
}

/// The kind of an option's reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Answer {
    /// Done.
    Ack = 1,
    /// An export.
    Server = 2,
    /// Something about an export.
    Info = 3,
    /// A metadata context.
    MetaContext = 4,
    /// This server does not do what the option asks for.
    Unsupported = 1 << 31 | 1,
    /// The option makes no sense, here or at all.
    Invalid = 1 << 31 | 3,
    /// No such export.
    Unknown = 1 << 31 | 6,
    /// More data than is looked at.
    TooBig = 1 << 31 | 9,
    /// Extended headers are agreed on, so this is no option any more.
    ExtendedHeaders = 1 << 31 | 10,
}

fn reply(out: &mut Vec<u8>, option: u32, kind: Answer, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&(kind as u32).to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// The haggling with one client: what was agreed so far.
pub struct Haggle<'a> {
    export: &'a Export,
    flags: ClientFlags,
    agreed: Agreement,
    answered: usize,
}

impl<'a> Haggle<'a> {
    /// Nothing is agreed yet.
    #[must_use]
    pub fn new(export: &'a Export, flags: ClientFlags) -> Haggle<'a> {
        Haggle { export, flags, agreed: Agreement::default(), answered: 0 }
    }

    /// Answers an option whose data was not looked at because there was too much of it.
    pub fn answer_too_big(&mut self, option: u32, out: &mut Vec<u8>) -> Next {
        self.answered += 1;
        if option == OPT_EXPORT_NAME || self.answered > MAX_OPTIONS {
            return Next::Close;
        }
        if option == OPT_SET_META_CONTEXT {
            self.agreed.allocation = false;
        }
        reply(out, option, Answer::TooBig, b"The option's data is longer than 16 KiB.");
        Next::Haggle
    }

    /// Answers an option: what to send is appended to `out`.
    pub fn answer(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        self.answered += 1;
        if self.answered > MAX_OPTIONS {
            return Next::Close;
        }
        match option {
            OPT_EXPORT_NAME => return self.export_name(data, out),
            OPT_ABORT => {
                reply(out, option, Answer::Ack, &[]);
                return Next::Close;
            }
            OPT_INFO | OPT_GO => return self.info(option, data, out),
            OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => self.meta_context(option, data, out),
            OPT_LIST | OPT_STRUCTURED_REPLY | OPT_EXTENDED_HEADERS if !data.is_empty() => {
                reply(out, option, Answer::Invalid, b"This option takes no data.");
            }
            OPT_LIST => {
                let name = self.export.name.as_bytes();
                let mut entry = (name.len() as u32).to_be_bytes().to_vec();
                entry.extend_from_slice(name);
                reply(out, option, Answer::Server, &entry);
                reply(out, option, Answer::Ack, &[]);
            }
            OPT_STRUCTURED_REPLY if self.agreed.style == Style::Extended => {
                let text = b"Extended headers are agreed on; they include structured replies.";
                reply(out, option, Answer::ExtendedHeaders, text);
            }
            OPT_STRUCTURED_REPLY => {
                self.agreed.style = Style::Structured;
                reply(out, option, Answer::Ack, &[]);
            }
            OPT_EXTENDED_HEADERS => {
                self.agreed.style = Style::Extended;
                reply(out, option, Answer::Ack, &[]);
            }
            OPT_STARTTLS => {
                let text =
                    b"There is no TLS here: the permissions of the socket say who may connect.";
                reply(out, option, Answer::Unsupported, text);
            }
            _ => reply(out, option, Answer::Unsupported, b"This server does not know the option."),
        }
        Next::Haggle
    }

    /// The oldest way to choose, which has no answer that says no.
    fn export_name(&self, name: &[u8], out: &mut Vec<u8>) -> Next {
        // Whoever wants extended headers has to choose with GO.
        if !self.export.is_named(name) || self.agreed.style == Style::Extended {
            return Next::Close;
        }
        out.extend_from_slice(&self.export.size_bytes.to_be_bytes());
        out.extend_from_slice(&self.export.flags(self.agreed.style).to_be_bytes());
        if !self.flags.no_zeroes {
            out.resize(out.len() + 124, 0);
        }
        Next::Transmit(self.agreed)
    }

    fn info(&self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        let Some(ask) = parse_info(data) else {
            reply(out, option, Answer::Invalid, b"The option's data makes no sense.");
            return Next::Haggle;
        };
        if !self.export.is_named(ask.name) {
            self.unknown(option, out);
            return Next::Haggle;
        }
        let export = self.export;
        let mut data = INFO_EXPORT.to_be_bytes().to_vec();
        data.extend_from_slice(&export.size_bytes.to_be_bytes());
        data.extend_from_slice(&export.flags(self.agreed.style).to_be_bytes());
        reply(out, option, Answer::Info, &data);

        let mut data = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
        for bytes in [1, export.preferred_bytes, export.max_bytes] {
            data.extend_from_slice(&bytes.to_be_bytes());
        }
        reply(out, option, Answer::Info, &data);

        if ask.wants_name {
            let mut data = INFO_NAME.to_be_bytes().to_vec();
            data.extend_from_slice(export.name.as_bytes());
            reply(out, option, Answer::Info, &data);
        }
        reply(out, option, Answer::Ack, &[]);
        if option == OPT_GO { Next::Transmit(self.agreed) } else { Next::Haggle }
    }

    fn meta_context(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) {
        let sets = option == OPT_SET_META_CONTEXT;
        if sets {
            // What was chosen before goes, even if this fails.
            self.agreed.allocation = false;
        }
        if self.agreed.style == Style::Simple {
            let text = b"Metadata contexts need structured replies or extended headers first.";
            return reply(out, option, Answer::Invalid, text);
        }
        let Some(ask) = parse_meta_context(data) else {
            return reply(out, option, Answer::Invalid, b"The option's data makes no sense.");
        };
        if !self.export.is_named(ask.name) {
            return self.unknown(option, out);
        }
        let chosen = if sets { ask.allocation } else { ask.allocation || ask.base || ask.none };
        if chosen {
            let id = if sets { ALLOCATION_ID } else { 0 };
            let mut data = id.to_be_bytes().to_vec();
            data.extend_from_slice(ALLOCATION);
            reply(out, option, Answer::MetaContext, &data);
            self.agreed.allocation |= sets;
        }
        reply(out, option, Answer::Ack, &[]);
    }

    fn unknown(&self, option: u32, out: &mut Vec<u8>) {
        let text = format!(
            "There is no export of this name; here is \"{}\", which the empty name means, too.",
            self.export.name
        );
        reply(out, option, Answer::Unknown, text.as_bytes());
    }
}

struct InfoAsk<'a> {
    name: &'a [u8],
    wants_name: bool,
}

fn parse_name<'a>(r: &mut Reader<'a>) -> Option<&'a [u8]> {
    let len = r.u32()? as usize;
    if len > MAX_NAME_BYTES { None } else { r.take(len) }
}

fn parse_info(data: &[u8]) -> Option<InfoAsk<'_>> {
    let mut r = Reader(data);
    let name = parse_name(&mut r)?;
    let infos = r.u16()?;
    let mut wants_name = false;
    for _ in 0..infos {
        wants_name |= r.u16()? == INFO_NAME;
    }
    r.0.is_empty().then_some(InfoAsk { name, wants_name })
}

struct ContextAsk<'a> {
    name: &'a [u8],
    /// There is no query.
    none: bool,
    base: bool,
    allocation: bool,
}

fn parse_meta_context(data: &[u8]) -> Option<ContextAsk<'_>> {
    let mut r = Reader(data);
    let name = parse_name(&mut r)?;
    let queries = r.u32()?;
    let mut ask = ContextAsk { name, none: queries == 0, base: false, allocation: false };
    for _ in 0..queries {
        let len = r.u32()? as usize;
        let query = r.take(len)?;
        ask.base |= query == BASE;
        ask.allocation |= query == ALLOCATION;
    }
    r.0.is_empty().then_some(ask)
}
