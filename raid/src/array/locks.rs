//! Stripe locks (who changes where a stripe lies, or its rows in place) and block locks (who reads,
//! merges and writes a part of a block). Taken in ascending order, after all room was reserved.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use evenkeel_journal::Stripe;
use evenkeel_journal::sync::{Guard, Lock, Signal};

#[derive(Default)]
struct Inner {
    stripes: RefCell<HashMap<Stripe, Lock>>,
    blocks: RefCell<Vec<u64>>,
    freed: Signal,
}

/// The locks of an array. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Locks(Rc<Inner>);

/// A locked stripe.
pub(crate) struct StripeGuard {
    locks: Locks,
    stripe: Stripe,
    guard: Option<Guard>,
}

impl StripeGuard {
    /// Which stripe.
    pub fn stripe(&self) -> Stripe {
        self.stripe
    }
}

impl Drop for StripeGuard {
    fn drop(&mut self) {
        self.guard = None;
        let mut stripes = self.locks.0.stripes.borrow_mut();
        if stripes.get(&self.stripe).is_some_and(|l| !l.is_busy()) {
            stripes.remove(&self.stripe);
        }
    }
}

/// Blocks that are being merged.
pub(crate) struct BlockGuard(Locks, Vec<u64>);

impl Drop for BlockGuard {
    fn drop(&mut self) {
        self.0.0.blocks.borrow_mut().retain(|b| !self.1.contains(b));
        self.0.0.freed.notify();
    }
}

impl Locks {
    /// Waits for a stripe.
    pub async fn stripe(&self, stripe: Stripe) -> StripeGuard {
        let lock = self.0.stripes.borrow_mut().entry(stripe).or_default().clone();
        let guard = Some(lock.lock().await);
        StripeGuard { locks: self.clone(), stripe, guard }
    }

    /// Whether a stripe is locked now.
    pub fn is_locked(&self, stripe: Stripe) -> bool {
        self.0.stripes.borrow().contains_key(&stripe)
    }

    /// Waits until nobody merges a block of any of these ranges (first block, count): of none of
    /// them at the moment when this returns.
    pub async fn unmerged(&self, ranges: &[(u64, u64)]) {
        let hit = |b: &u64| ranges.iter().any(|(first, n)| (*first..first + n).contains(b));
        while self.0.blocks.borrow().iter().any(hit) {
            self.0.freed.wait().await;
        }
    }

    /// Takes blocks for merging. Their stripes are locked by the caller, so nobody else has them.
    pub fn merge(&self, blocks: Vec<u64>) -> BlockGuard {
        self.0.blocks.borrow_mut().extend(&blocks);
        BlockGuard(self.clone(), blocks)
    }
}
