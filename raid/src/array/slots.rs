//! Slots: which are free, and who still does I/O to one (I4).
//!
//! A slot is free again only after the commit that replaced it is durable and every reader of it
//! has ended. Next-fit, so that sequential stripes get sequential slots.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use evenkeel_journal::Slot;
use evenkeel_journal::sync::{Lock, Signal};

/// Slots that only destage may take: so that it can always go on.
pub(crate) const DESTAGE_RESERVE: usize = 16;

#[derive(Default)]
struct State {
    used: Vec<bool>,
    free: usize,
    reserved: usize,
    cursor: usize,
    pins: HashMap<Slot, u32>,
    freed_while_pinned: HashSet<Slot>,
    /// Slots from this one on are not given out.
    end: usize,
}

#[derive(Default)]
struct Inner {
    state: RefCell<State>,
    freed: Signal,
    door: Lock,
}

/// The allocator. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Slots(Rc<Inner>);

/// Keeps a slot from being reused while it is read.
pub(crate) struct Pin(Slots, Slot);

impl Drop for Pin {
    fn drop(&mut self) {
        let mut s = self.0.0.state.borrow_mut();
        let n = s.pins.get_mut(&self.1).expect("a pin is counted");
        *n -= 1;
        if *n == 0 {
            s.pins.remove(&self.1);
            if s.freed_while_pinned.remove(&self.1) {
                drop(s);
                self.0.free(self.1);
            }
        }
    }
}

/// Slots promised to one writer; what it does not take goes back.
pub(crate) struct Promise(Slots, usize);

impl Promise {
    /// Slots that it still promises.
    pub fn left(&self) -> usize {
        self.1
    }

    /// A promise of `n` of them.
    pub fn split_off(&mut self, n: usize) -> Promise {
        self.1 = self.1.checked_sub(n).expect("a part of what was promised");
        Promise(self.0.clone(), n)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.0.0.state.borrow_mut().reserved -= self.1;
        self.0.0.freed.notify();
    }
}

impl Slots {
    /// All of `count` slots, with these in use.
    pub fn new(count: u64, used: impl Iterator<Item = Slot>) -> Slots {
        let slots = Slots::default();
        {
            let mut s = slots.0.state.borrow_mut();
            s.used = vec![false; count as usize];
            s.end = count as usize;
            s.free = count as usize;
            for slot in used {
                assert!(!s.used[slot.0 as usize], "I4: slot {slot} is used by two stripes");
                s.used[slot.0 as usize] = true;
                s.free -= 1;
            }
        }
        slots
    }

    /// There are more slots, free ones, behind the others.
    pub fn grow(&self, count: u64) {
        {
            let mut s = self.0.state.borrow_mut();
            let more =
                (count as usize).checked_sub(s.used.len()).expect("no slot is lost by growing");
            s.used.resize(count as usize, false);
            s.end = count as usize;
            s.free += more;
        }
        self.0.freed.notify();
    }

    /// A promise of nothing.
    pub fn none(&self) -> Promise {
        Promise(self.clone(), 0)
    }

    /// Notified when slots become free.
    pub fn freed(&self) -> &Signal {
        &self.0.freed
    }

    /// A promise of `n` slots if they are there, leaving `keep` for others.
    pub fn try_promise(&self, n: usize, keep: usize) -> Option<Promise> {
        let mut s = self.0.state.borrow_mut();
        if s.free < s.reserved + n + keep {
            return None;
        }
        s.reserved += n;
        Some(Promise(self.clone(), n))
    }

    /// Writers wait for slots one after the other.
    pub fn door(&self) -> &Lock {
        &self.0.door
    }

    /// Takes a free slot, near the last one.
    pub fn take(&self, promise: &mut Promise) -> Slot {
        assert!(promise.1 > 0, "the writer was promised its slots");
        promise.1 -= 1;
        let mut s = self.0.state.borrow_mut();
        s.reserved -= 1;
        s.free -= 1;
        let n = s.end;
        let at = (0..n).map(|i| (s.cursor + i) % n).find(|i| !s.used[*i]);
        let at = at.expect("a promised slot is free");
        s.used[at] = true;
        s.cursor = (at + 1) % n;
        Slot(at as u32)
    }

    /// Gives a slot back: nothing refers to it any more.
    pub fn free(&self, slot: Slot) {
        {
            let mut s = self.0.state.borrow_mut();
            assert!(s.used[slot.0 as usize], "I4: slot {slot} is freed once");
            if s.pins.contains_key(&slot) {
                s.freed_while_pinned.insert(slot);
                return;
            }
            s.used[slot.0 as usize] = false;
            s.free += usize::from((slot.0 as usize) < s.end);
        }
        self.0.freed.notify();
    }

    /// From now on slots from `end` on are not given out; or are again, if there are as many. False: too few
    /// of the others are free for what has been promised.
    pub fn use_up_to(&self, end: u64) -> bool {
        let mut s = self.0.state.borrow_mut();
        let (now, end) = (s.end, end as usize);
        let free = |range: std::ops::Range<usize>| s.used[range].iter().filter(|u| !**u).count();
        let (more, fewer) = (free(now..end.max(now)), free(end.min(now)..now));
        if s.free + more < fewer + s.reserved {
            return false;
        }
        s.free = s.free + more - fewer;
        s.end = end;
        s.cursor = if s.cursor < end { s.cursor } else { 0 };
        true
    }

    /// Whether a slot from this one on is in use.
    pub fn are_used_from(&self, first: u64) -> bool {
        self.0.state.borrow().used[first as usize..].iter().any(|u| *u)
    }

    /// Keeps the slot while the pin lives.
    pub fn pin(&self, slot: Slot) -> Pin {
        *self.0.state.borrow_mut().pins.entry(slot).or_default() += 1;
        Pin(self.clone(), slot)
    }
}
