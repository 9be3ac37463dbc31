//! ④ What was written to a member since its last good flush, in the order in which it was submitted:
//! what has to be written again when the member was away (I7).
//!
//! What must hold: a write is in its member's list from its submission until a flush has completed
//! that was issued after the write completed. The list holds the memory that was written, so it is
//! bounded: [`Unflushed::is_long`] asks for a flush, and beyond [`Unflushed::is_full`] a write waits
//! for one. Writes under way do not count there, since no flush can cover them; they are bounded by
//! the requests that are under way.

use std::collections::VecDeque;

use evenkeel_journal::Segs;
use evenkeel_journal::mem::segs_len;

/// Bytes of completed writes that one member's list holds at most. A flush is asked for at half.
const BYTES_MAX: usize = 32 << 20;
/// And at least, where the ring is small; else a quarter of the ring, whose places it may hold.
const BYTES_MIN: usize = 256 << 10;
/// The same in writes.
const WRITES_MAX: usize = 4096;

struct Written {
    number: u64,
    at: u64,
    segs: Segs,
    /// The member's count of completed writes when it completed.
    done: Option<u64>,
}

/// The writes of one member that no flush has covered.
pub(crate) struct Unflushed {
    writes: VecDeque<Written>,
    next: u64,
    most: usize,
    done: usize,
    done_bytes: usize,
    /// A flush was asked for and has not ended.
    pub flushing: bool,
}

impl Unflushed {
    /// An empty list, for an array whose ring has that many bytes of places.
    pub fn new(ring: usize) -> Unflushed {
        Unflushed {
            writes: VecDeque::new(),
            next: 0,
            most: (ring / 4).clamp(BYTES_MIN, BYTES_MAX),
            done: 0,
            done_bytes: 0,
            flushing: false,
        }
    }

    /// A write is submitted now. Gives its number.
    pub fn submitted(&mut self, at: u64, segs: &Segs) -> u64 {
        self.next += 1;
        self.writes.push_back(Written { number: self.next, at, segs: segs.clone(), done: None });
        self.next
    }

    /// A write has completed, as the member's `nth`.
    pub fn completed(&mut self, number: u64, nth: u64) {
        let Ok(i) = self.writes.binary_search_by_key(&number, |w| w.number) else { return };
        self.writes[i].done = Some(nth);
        self.done += 1;
        self.done_bytes += segs_len(&self.writes[i].segs);
    }

    /// A flush has completed that was issued after the member's `upto`-th completed write.
    pub fn flushed(&mut self, upto: u64) {
        let (mut done, mut bytes) = (self.done, self.done_bytes);
        self.writes.retain(|w| {
            let covered = w.done.is_some_and(|nth| nth <= upto);
            if covered {
                done -= 1;
                bytes -= segs_len(&w.segs);
            }
            !covered
        });
        (self.done, self.done_bytes) = (done, bytes);
    }

    /// Nothing of it is needed any more.
    pub fn clear(&mut self) {
        self.writes.clear();
        (self.done, self.done_bytes) = (0, 0);
    }

    /// Whether a flush is due.
    pub fn is_long(&self) -> bool {
        self.done * 2 > WRITES_MAX || self.done_bytes * 2 > self.most
    }

    /// Whether the next write has to wait for a flush.
    pub fn is_full(&self) -> bool {
        self.done > WRITES_MAX || self.done_bytes > self.most
    }

    /// All of them, oldest first, in groups: within a group no two touch the same bytes.
    pub fn groups(&self, most: usize) -> Vec<Vec<(u64, Segs)>> {
        let mut groups: Vec<Vec<(u64, Segs)>> = Vec::new();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for w in &self.writes {
            let end = w.at + segs_len(&w.segs) as u64;
            let apart = ranges.iter().all(|(from, to)| end <= *from || *to <= w.at);
            match groups.last_mut().filter(|g| apart && g.len() < most) {
                Some(group) => group.push((w.at, w.segs.clone())),
                None => {
                    groups.push(vec![(w.at, w.segs.clone())]);
                    ranges.clear();
                }
            }
            ranges.push((w.at, end));
        }
        groups
    }

    /// Puts what was written into bytes that were read at `at`: the disk may have lost it.
    pub fn lay_over(&self, at: u64, buf: &mut [u8]) {
        let end = at + buf.len() as u64;
        for w in &self.writes {
            let mut from = w.at;
            for s in &w.segs {
                let to = from + s.len() as u64;
                let (a, b) = (from.max(at), to.min(end));
                if a < b {
                    let piece = &s[(a - from) as usize..(b - from) as usize];
                    buf[(a - at) as usize..(b - at) as usize].copy_from_slice(piece);
                }
                from = to;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_journal::Slice;

    fn segs(value: u8, blocks: usize) -> Segs {
        (0..blocks).map(|_| Slice::copy_of(&[value; 4096])).collect()
    }

    #[test]
    fn a_flush_covers_what_completed_before_it() {
        let mut list = Unflushed::new(1 << 20);
        let all: Vec<u64> = (0..4).map(|i| list.submitted(i * 8192, &segs(i as u8, 2))).collect();
        list.completed(all[2], 1);
        list.completed(all[0], 2);
        list.completed(all[3], 3);
        list.flushed(2);
        let left: Vec<u64> = list.groups(64).concat().into_iter().map(|w| w.0).collect();
        assert_eq!(left, [8192, 3 * 8192]);
        let mut read = vec![9; 5 * 4096];
        list.lay_over(4096, &mut read);
        let blocks: Vec<u8> = read.chunks(4096).map(|b| b[0]).collect();
        assert_eq!(blocks, [9, 1, 1, 9, 9]);
        list.flushed(3);
        list.completed(all[1], 4);
        list.flushed(4);
        assert!(list.groups(64).is_empty() && (list.done, list.done_bytes) == (0, 0));
    }

    #[test]
    fn writes_over_each_other_stay_in_order() {
        let mut list = Unflushed::new(1 << 20);
        for (at, value) in [(0, 1), (8192, 2), (4096, 3), (16384, 4)] {
            list.submitted(at, &segs(value, 2));
        }
        let groups: Vec<usize> = list.groups(64).iter().map(Vec::len).collect();
        assert_eq!(groups, [2, 2]);
        let groups: Vec<usize> = list.groups(1).iter().map(Vec::len).collect();
        assert_eq!(groups, [1; 4]);
        let mut read = vec![0; 6 * 4096];
        list.lay_over(0, &mut read);
        assert_eq!(read.chunks(4096).map(|b| b[0]).collect::<Vec<_>>(), [1, 3, 3, 2, 4, 4]);
    }

    #[test]
    fn it_asks_for_flushes() {
        let mut list = Unflushed::new(0);
        let n = list.submitted(0, &segs(1, 33));
        assert!(!list.is_long(), "under way");
        list.completed(n, 1);
        assert!(list.is_long() && !list.is_full());
        let n = list.submitted(0, &segs(1, 33));
        list.completed(n, 2);
        assert!(list.is_full());
        list.flushed(2);
        assert!(!list.is_long());
    }
}
