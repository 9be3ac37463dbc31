//! The oracle: what an array may hold, known from requests, their acknowledgements, and contents
//! read. It knows nothing of stripes, logs or members.
//!
//! The history of a life is a log of submissions and acknowledgements. After a crash the content
//! is right if and only if there is a set S of the submitted requests and an order of S so that
//! - S holds every request of the *floor* (what was promised to survive this kind of crash);
//! - with B, S holds every A that was acknowledged before B was submitted, and A is before B (P2);
//! - the requests of S, applied whole (P3) in that order to what the device held before, give
//!   exactly the content that was read.
//!
//! That is decided exactly: the device is cut into *cells* (ranges that the same requests touch);
//! a cell shows one request, or the old content; the smallest S with the floor and all shown ones
//! is taken, since more requests only add constraints; and it is right if no order constraint goes
//! in a circle. Where zeros may come from several discards, every choice is tried. Concurrent
//! requests may have happened in any order: no false alarms.

mod check;
mod content;
#[cfg(test)]
mod tests;

pub use check::Violation;
pub use content::{decode, pattern};

/// What a transaction writes: where, and which bytes.
pub type Parts = Vec<(u64, Rc<[u8]>)>;

/// What the block around byte `at` of a content seems to be, in words.
#[must_use]
pub fn describe_block(content: &[u8], at: usize) -> String {
    let from = at / 4096 * 4096;
    let block = &content[from..(from + 4096).min(content.len())];
    content::describe(block, from as u64, content.len() as u64, u64::MAX >> 24)
}

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What was promised to survive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Floor {
    /// Every acknowledged request: durable mode, and the death of the process in any mode.
    Acknowledged,
    /// What was acknowledged before a completed FLUSH was submitted, and FUA: cached mode.
    Flushed,
}

/// What a request does to the content.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Effect {
    Write(Rc<[u8]>),
    /// Ranges (at, content) that are written together; at and len of the request span them.
    Together(Parts),
    Zero,
    Flush,
}

/// Number of a request in its life's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestId(usize);

#[derive(Clone, Debug)]
struct Request {
    /// Number over all lives: what its content says.
    number: u64,
    effect: Effect,
    at: u64,
    len: u64,
    fua: bool,
    submitted: usize,
    acknowledged: Option<usize>,
    failed: bool,
}

impl Request {
    /// The ranges that it changes: (from, to).
    fn ranges(&self) -> Vec<(u64, u64)> {
        match &self.effect {
            Effect::Flush => Vec::new(),
            Effect::Write(_) | Effect::Zero => vec![(self.at, self.at + self.len)],
            Effect::Together(parts) => {
                parts.iter().map(|(at, data)| (*at, at + data.len() as u64)).collect()
            }
        }
    }

    fn covers(&self, at: u64) -> bool {
        self.ranges().iter().any(|(from, to)| (*from..*to).contains(&at))
    }

    /// Whether `here` is what it leaves at byte `at`; it covers all of that.
    fn leaves(&self, at: u64, here: &[u8]) -> bool {
        let same = |from: u64, data: &[u8]| data[(at - from) as usize..][..here.len()] == *here;
        match &self.effect {
            Effect::Write(data) => same(self.at, data),
            Effect::Zero => here.iter().all(|b| *b == 0),
            Effect::Flush => false,
            // Where its ranges overlap they have the same content.
            Effect::Together(parts) => parts
                .iter()
                .filter(|(from, data)| (*from..from + data.len() as u64).contains(&at))
                .all(|(from, data)| same(*from, data)),
        }
    }
}

#[derive(Default)]
struct Log {
    requests: Vec<Request>,
    length: usize,
    next_number: u64,
}

/// The history of one life of an array. Clones share it.
#[derive(Clone)]
pub struct Oracle {
    base: Rc<Vec<u8>>,
    log: Rc<RefCell<Log>>,
    mark: Rc<Cell<usize>>,
}

/// The moment when a read was submitted.
#[derive(Clone, Copy, Debug)]
pub struct ReadStart(usize);

impl Oracle {
    /// A device of `size` zeros. The length of the history is kept in `mark`.
    #[must_use]
    pub fn new(size: u64, mark: Rc<Cell<usize>>) -> Oracle {
        Oracle::with_base(Rc::new(vec![0; size as usize]), 1, mark)
    }

    fn with_base(base: Rc<Vec<u8>>, next_number: u64, mark: Rc<Cell<usize>>) -> Oracle {
        mark.set(0);
        let log = Log { next_number, ..Log::default() };
        Oracle { base, log: Rc::new(RefCell::new(log)), mark }
    }

    /// The history of the next life of a device that holds `content` for good.
    #[must_use]
    pub fn next_life(&self, content: Rc<Vec<u8>>, mark: Rc<Cell<usize>>) -> Oracle {
        Oracle::with_base(content, self.log.borrow().next_number, mark)
    }

    /// Bytes of the device.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.base.len() as u64
    }

    fn submit(&self, effect: Effect, at: u64, len: u64, fua: bool) -> RequestId {
        let mut log = self.log.borrow_mut();
        let submitted = log.length;
        let number = log.next_number;
        log.next_number += 1;
        log.requests.push(Request {
            number,
            effect,
            at,
            len,
            fua,
            submitted,
            acknowledged: None,
            failed: false,
        });
        log.length += 1;
        self.mark.set(log.length);
        RequestId(log.requests.len() - 1)
    }

    /// A write is submitted now: gives its content, which no other write has.
    #[must_use]
    pub fn write(&self, at: u64, len: u64, fua: bool) -> (RequestId, Rc<[u8]>) {
        let number = self.log.borrow().next_number;
        let data: Rc<[u8]> = pattern(number, at, len as usize).into();
        (self.submit(Effect::Write(Rc::clone(&data)), at, len, fua), data)
    }

    /// A transaction over these ranges (at, bytes) is submitted now; it is atomic like a write.
    /// Gives its content: where ranges overlap it is the same.
    ///
    /// # Panics
    /// If there is no range.
    #[must_use]
    pub fn together(&self, ranges: &[(u64, u64)]) -> (RequestId, Parts) {
        let number = self.log.borrow().next_number;
        let content = |(at, len): &(u64, u64)| (*at, pattern(number, *at, *len as usize).into());
        let parts: Parts = ranges.iter().map(content).collect();
        let at = ranges.iter().map(|r| r.0).min().expect("a transaction has ranges");
        let end = ranges.iter().map(|r| r.0 + r.1).max().expect("a transaction has ranges");
        (self.submit(Effect::Together(parts.clone()), at, end - at, false), parts)
    }

    /// A discard (or a write of zeros) is submitted now; it is atomic like a write.
    #[must_use]
    pub fn discard(&self, at: u64, len: u64, fua: bool) -> RequestId {
        self.submit(Effect::Zero, at, len, fua)
    }

    /// A FLUSH is submitted now.
    #[must_use]
    pub fn flush(&self) -> RequestId {
        self.submit(Effect::Flush, 0, 0, false)
    }

    /// A request was answered. One that failed may have happened or not.
    pub fn answered(&self, id: RequestId, ok: bool) {
        let mut log = self.log.borrow_mut();
        let now = log.length;
        log.length += 1;
        self.mark.set(log.length);
        let request = &mut log.requests[id.0];
        if ok {
            request.acknowledged = Some(now);
        } else {
            request.failed = true;
        }
    }

    /// A read is submitted now.
    #[must_use]
    pub fn read(&self) -> ReadStart {
        ReadStart(self.log.borrow().length)
    }

    /// Events of the history so far; see [`Oracle::check_crash`].
    #[must_use]
    pub fn length(&self) -> usize {
        self.log.borrow().length
    }

    /// The first `mark` entries of the history, in words: what began and ended, in order.
    #[must_use]
    pub fn story(&self, mark: usize) -> String {
        let log = self.log.borrow();
        let mut lines: Vec<(usize, String)> = Vec::new();
        for r in &log.requests {
            lines.push((r.submitted, format!("  {} begins", r.name())));
            if let Some(end) = r.acknowledged {
                lines.push((end, format!("  {} is acknowledged", r.name())));
            }
        }
        lines.sort();
        let shown = lines.into_iter().filter(|(when, _)| *when < mark);
        shown.map(|(_, line)| line).collect::<Vec<_>>().join("\n")
    }

    /// Requests that failed, in words.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let log = self.log.borrow();
        log.requests.iter().filter(|r| r.failed).map(|r| format!("{} failed", r.name())).collect()
    }
}
