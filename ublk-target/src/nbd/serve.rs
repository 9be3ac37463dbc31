//! Requests carried out: each is one `await` on the target, or some that begin in one moment, and
//! one reply.

use std::rc::Rc;

use evenkeel_journal::sync::{after_the_ready, join_all};
use evenkeel_journal::{BLOCK, Buf, Slice};
use evenkeel_raid::{Extent, MAX_REQUEST, RequestError};

use super::connection::{Chunk, Connection, Reply};
use super::protocol::options::ALLOCATION_ID;
use super::protocol::reply::{self, DESCRIPTOR_BYTES, STATE_HOLE_AND_ZERO};
use super::protocol::{EINVAL, Request, RequestHeader, Style};
use crate::target::BlockTarget;

/// Chunks of content of one reply; a read that would need more gets its holes as zeros.
const MAX_FRAGMENTS: usize = 16;
/// Extents that one answer to a block status tells.
pub const MAX_DESCRIPTORS: usize = 1024;
/// Looks at the target for one block status; others have their turn between two.
const MAX_LOOKS: usize = 64;

/// A request that was read, and what it was charged.
pub(super) struct Job {
    pub style: Style,
    pub head: RequestHeader,
    pub request: Request,
    pub payload: Option<Buf>,
    pub charged: usize,
}

/// Bytes that a request is charged for: those of its data, or of the zeros or extents made for it.
pub(super) fn bytes_of(request: Request) -> usize {
    let block = BLOCK as u64;
    match request {
        Request::Read { len, .. } | Request::Write { len, .. } => len,
        Request::Trim { at, len, .. } | Request::WriteZeroes { at, len, .. } => {
            let aligned = at.is_multiple_of(block) && len.is_multiple_of(block);
            if aligned { 0 } else { len.min(MAX_REQUEST as u64) as usize }
        }
        Request::BlockStatus { .. } => MAX_DESCRIPTORS * (DESCRIPTOR_BYTES + size_of::<Extent>()),
        Request::Flush | Request::Cache | Request::Disconnect => 0,
    }
}

/// Carries a request out and queues its reply.
pub(super) async fn serve<T: BlockTarget>(target: T, c: Rc<Connection>, job: Job) {
    let Job { style, head, request, payload, charged } = job;
    let done = match request {
        Request::Read { at, len, whole } => {
            c.answer(read(&target, style, &head, at, len, whole).await, charged);
            return;
        }
        Request::BlockStatus { at, len, one } => {
            c.answer(block_status(&target, style, &head, at, len, one).await, charged);
            return;
        }
        Request::Write { at, fua, .. } => match payload {
            Some(data) => target.write(at, data.freeze(), fua).await,
            None => Err(RequestError::Invalid),
        },
        Request::Flush => target.flush().await,
        Request::Trim { at, len, fua } => target.discard(at, len, fua).await,
        Request::WriteZeroes { at, len, fua } => target.write_zeroes(at, len, fua).await,
        Request::Cache | Request::Disconnect => Ok(()),
    };
    let reply = match done {
        Ok(()) => bare(Chunk { head: reply::done(style, &head), body: None }),
        Err(e) => refused(style, &head, e),
    };
    c.answer(reply, charged);
}

fn bare(first: Chunk) -> Reply {
    Reply { first, rest: Vec::new() }
}

/// The reply to a request that failed; the text goes with it where the style has room for one.
pub(super) fn failed(style: Style, to: &RequestHeader, error: u32, text: &str) -> Reply {
    let body = (style != Style::Simple).then(|| Slice::copy_of(text.as_bytes()));
    bare(Chunk { head: reply::failed(style, to, error, text), body })
}

fn refused(style: Style, to: &RequestHeader, e: RequestError) -> Reply {
    let mut text = e.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text.push('.');
    let error = u32::try_from(e.errno()).unwrap_or(EINVAL);
    failed(style, to, error, &text)
}

/// A read. Where the client takes chunks, holes are told and not sent; look and reads begin in one
/// moment, so the content is what one read of all of it would give.
async fn read<T: BlockTarget>(
    target: &T,
    style: Style,
    head: &RequestHeader,
    at: u64,
    len: usize,
    whole: bool,
) -> Reply {
    let holes = if style == Style::Simple { None } else { holes(target, at, len, whole) };
    let Some(list) = holes else {
        let (done, buf) = target.read(at, Buf::new(len)).await;
        return match done {
            Ok(()) => {
                let head = reply::data(style, head, at, len, true);
                bare(Chunk { head, body: Some(buf.freeze()) })
            }
            Err(e) => refused(style, head, e),
        };
    };
    let mut from = at;
    let mut reads = Vec::new();
    for e in &list {
        if e.mapped {
            reads.push(target.read(from, Buf::new(e.bytes as usize)));
        }
        from += e.bytes;
    }
    let mut found = join_all(reads).await.into_iter();
    let mut chunks = Vec::with_capacity(list.len());
    let mut from = at;
    for (i, e) in list.iter().enumerate() {
        let last = i + 1 == list.len();
        let chunk = if e.mapped {
            match found.next() {
                Some((Ok(()), buf)) => {
                    let head = reply::data(style, head, from, buf.len(), last);
                    Chunk { head, body: Some(buf.freeze()) }
                }
                Some((Err(e), _)) => return refused(style, head, e),
                None => return refused(style, head, RequestError::Io),
            }
        } else {
            Chunk { head: reply::hole(style, head, from, e.bytes as u32, last), body: None }
        };
        from += e.bytes;
        chunks.push(chunk);
    }
    let rest = chunks.split_off(1);
    Reply { first: chunks.remove(0), rest }
}

/// The extents of a read whose holes are worth telling; None if it is to be read as a whole.
fn holes<T: BlockTarget>(target: &T, at: u64, len: usize, whole: bool) -> Option<Vec<Extent>> {
    let most = if whole { 1 } else { MAX_FRAGMENTS };
    let list = target.extents(at, len as u64, most).ok()?;
    let all = list.iter().map(|e| e.bytes).sum::<u64>() == len as u64;
    (all && list.iter().any(|e| !e.mapped)).then_some(list)
}

async fn block_status<T: BlockTarget>(
    target: &T,
    style: Style,
    head: &RequestHeader,
    at: u64,
    len: u64,
    one: bool,
) -> Reply {
    let most = if one { 1 } else { MAX_DESCRIPTORS };
    let mut list: Vec<Extent> = Vec::new();
    let mut covered = 0;
    for look in 0..MAX_LOOKS {
        if look > 0 {
            after_the_ready().await;
        }
        match target.extents(at + covered, len - covered, most + 1 - list.len()) {
            Ok(more) => {
                for e in more {
                    covered += e.bytes;
                    e.append_to(&mut list);
                }
            }
            Err(e) => return refused(style, head, e),
        }
        if covered == len || list.len() > most {
            break;
        }
    }
    list.truncate(most);
    let mut body = Vec::with_capacity(list.len() * DESCRIPTOR_BYTES);
    for e in &list {
        let state = if e.mapped { 0 } else { STATE_HOLE_AND_ZERO };
        reply::descriptor(style, e.bytes, state, &mut body);
    }
    let head = reply::block_status(style, head, ALLOCATION_ID, list.len());
    bare(Chunk { head, body: Some(Slice::copy_of(&body)) })
}
