//! Replies: the headers of their chunks, in the style that was agreed on. A chunk is a [`Head`] and
//! perhaps a body (data, descriptors, a sentence), which the server sends behind it.
//!
//! In simple style there are only [`done`], [`failed`] and [`data`], each of them once a request.

use super::{RequestHeader, Style};

pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(super) const CHUNK_MAGIC: u32 = 0x668e_33ef;
pub(super) const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

const FLAG_DONE: u16 = 1;

pub(super) const TYPE_NONE: u16 = 0;
pub(super) const TYPE_DATA: u16 = 1;
pub(super) const TYPE_HOLE: u16 = 2;
pub(super) const TYPE_BLOCK_STATUS: u16 = 5;
pub(super) const TYPE_BLOCK_STATUS_EXTENDED: u16 = 6;
pub(super) const TYPE_ERROR: u16 = 1 << 15 | 1;

/// Bits of a descriptor: takes no space, and reads as zeros.
pub const STATE_HOLE_AND_ZERO: u32 = 3;
/// Bytes of a descriptor in extended style, which is the larger one.
pub const DESCRIPTOR_BYTES: usize = 16;

/// Bytes of the largest head: an extended header and a hole's place and length.
const MAX_HEAD: usize = 32 + 12;

/// The first bytes of a chunk. They lie in it; nothing is allocated.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; MAX_HEAD],
    len: usize,
}

impl std::ops::Deref for Head {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Head {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.len..self.len + field.len()].copy_from_slice(field);
        self.len += field.len();
    }

    fn simple(to: &RequestHeader, error: u32) -> Head {
        let mut head = Head { bytes: [0; MAX_HEAD], len: 0 };
        head.put(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        head.put(&error.to_be_bytes());
        head.put(&to.cookie.to_be_bytes());
        head
    }

    /// A chunk's header; `len` bytes follow it.
    fn chunk(style: Style, to: &RequestHeader, kind: u16, last: bool, len: usize) -> Head {
        let mut head = Head { bytes: [0; MAX_HEAD], len: 0 };
        let extended = style == Style::Extended;
        let magic = if extended { EXTENDED_REPLY_MAGIC } else { CHUNK_MAGIC };
        head.put(&magic.to_be_bytes());
        head.put(&(if last { FLAG_DONE } else { 0 }).to_be_bytes());
        head.put(&kind.to_be_bytes());
        head.put(&to.cookie.to_be_bytes());
        if extended {
            head.put(&to.offset.to_be_bytes());
            head.put(&(len as u64).to_be_bytes());
        } else {
            head.put(&(len as u32).to_be_bytes());
        }
        head
    }
}

/// The request went well, and there is nothing more to say.
#[must_use]
pub fn done(style: Style, to: &RequestHeader) -> Head {
    match style {
        Style::Extended => Head::chunk(style, to, TYPE_NONE, true, 0),
        // Allowed in structured style, too, and shorter.
        Style::Simple | Style::Structured => Head::simple(to, 0),
    }
}

/// The request failed. Behind the head stands the text, unless the style is simple.
#[must_use]
pub fn failed(style: Style, to: &RequestHeader, error: u32, text: &str) -> Head {
    if style == Style::Simple {
        return Head::simple(to, error);
    }
    let mut head = Head::chunk(style, to, TYPE_ERROR, true, 6 + text.len());
    head.put(&error.to_be_bytes());
    head.put(&(text.len() as u16).to_be_bytes());
    head
}

/// So many bytes of the device from `at` on stand behind the head; in simple style all that the
/// request asked for.
#[must_use]
pub fn data(style: Style, to: &RequestHeader, at: u64, len: usize, last: bool) -> Head {
    if style == Style::Simple {
        return Head::simple(to, 0);
    }
    let mut head = Head::chunk(style, to, TYPE_DATA, last, 8 + len);
    head.put(&at.to_be_bytes());
    head
}

/// So many bytes of the device from `at` on are zeros. Not in simple style.
#[must_use]
pub fn hole(style: Style, to: &RequestHeader, at: u64, len: u32, last: bool) -> Head {
    let mut head = Head::chunk(style, to, TYPE_HOLE, last, 12);
    head.put(&at.to_be_bytes());
    head.put(&len.to_be_bytes());
    head
}

/// What is allocated: as many descriptors, made by [`descriptor`], stand behind the head. Not in
/// simple style.
#[must_use]
pub fn block_status(style: Style, to: &RequestHeader, context: u32, descriptors: usize) -> Head {
    if style == Style::Extended {
        let len = 8 + 16 * descriptors;
        let mut head = Head::chunk(style, to, TYPE_BLOCK_STATUS_EXTENDED, true, len);
        head.put(&context.to_be_bytes());
        head.put(&(descriptors as u32).to_be_bytes());
        return head;
    }
    let mut head = Head::chunk(style, to, TYPE_BLOCK_STATUS, true, 4 + 8 * descriptors);
    head.put(&context.to_be_bytes());
    head
}

/// Appends a descriptor. Unless the style is extended, an extent is part of a range whose length
/// has 32 bits.
pub fn descriptor(style: Style, bytes: u64, state: u32, out: &mut Vec<u8>) {
    if style == Style::Extended {
        out.extend_from_slice(&bytes.to_be_bytes());
        out.extend_from_slice(&u64::from(state).to_be_bytes());
    } else {
        out.extend_from_slice(&(bytes as u32).to_be_bytes());
        out.extend_from_slice(&state.to_be_bytes());
    }
}
