//! What is mapped: which parts of the device hold something, and which are holes. For front ends
//! that tell their clients, so that these need not read zeros.
//!
//! What must hold: a range that is called a hole reads as zeros in this very moment. A stripe with
//! dirty data is no hole, wherever it lies and whatever the data is, and no more is one with lost
//! blocks, which are EIO.

use evenkeel_journal::{BLOCK, Stripe, World};

use super::Array;
use crate::error::RequestError;

/// Stripes that one look covers at most, so that it takes well under a millisecond.
const STRIPES_A_LOOK: u64 = 1 << 14;

/// A part of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// How long it is; never 0.
    pub bytes: u64,
    /// It has a slot or dirty data. If not, it is a hole: it takes no space and reads as zeros.
    pub mapped: bool,
}

impl Extent {
    /// Adds it to a list; neighbours of one kind become one.
    pub fn append_to(self, list: &mut Vec<Extent>) {
        match list.last_mut() {
            Some(last) if last.mapped == self.mapped => last.bytes += self.bytes,
            _ => list.push(self),
        }
    }
}

impl<W: World> Array<W> {
    /// What of `at..at + len` is mapped and what is a hole, from `at` on without gaps, kinds
    /// alternating: at most `most` extents (at least one), none beyond the range. They may end
    /// before the range does, if more stripes would have to be looked at than one look takes
    /// (16384). Nothing waits here: the answer is that of one moment.
    ///
    /// # Errors
    /// `Invalid` for no bytes, or outside the device; `Stopping`.
    pub fn extents(&self, at: u64, len: u64, most: usize) -> Result<Vec<Extent>, RequestError> {
        if len == 0 {
            return Err(RequestError::Invalid);
        }
        let _request = self.enter(at, len, false)?;
        let stripe_bytes = self.0.geometry.get().stripe_blocks() * BLOCK as u64;
        let end = at + len;
        let first = at / stripe_bytes;
        let last = ((end - 1) / stripe_bytes).min(first + STRIPES_A_LOOK - 1);
        let (map, cache, lost) = (self.0.map.borrow(), self.0.cache.borrow(), self.0.lost.borrow());
        let mut dirty = cache.stripes.range(Stripe(first)..=Stripe(last)).peekable();
        let mut list = Vec::new();
        for stripe in first..=last {
            let is_dirty = dirty.next_if(|d| *d.0 == Stripe(stripe)).is_some();
            let mapped = is_dirty
                || map.get(Stripe(stripe)).slot.is_some()
                || lost.any_of(Stripe(stripe))
                || self.is_backed(Stripe(stripe));
            let from = at.max(stripe * stripe_bytes);
            let bytes = end.min((stripe + 1) * stripe_bytes) - from;
            Extent { bytes, mapped }.append_to(&mut list);
            if list.len() > most.max(1) {
                list.pop();
                break;
            }
        }
        Ok(list)
    }
}
