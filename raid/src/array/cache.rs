//! The dirty cache: blocks that are newer than what lies in the slots. Each is a place in the
//! ring (or zero), named by the Write that carries it.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_journal::ring::Place;
use evenkeel_journal::{Lsn, Stripe};

/// A block that waits to be destaged.
#[derive(Clone)]
pub(crate) struct DirtyBlock {
    /// The Write that carries it; held while the block is here.
    pub lsn: Lsn,
    /// Its bytes; None for zeros.
    pub data: Option<Place>,
    /// CRC32C of its bytes.
    pub crc: u32,
}

/// The dirty blocks of one stripe.
pub(crate) struct DirtyStripe {
    /// Ascending by block of the stripe.
    pub blocks: Vec<(u32, DirtyBlock)>,
    /// Charges for the Places that may be needed: one, and one more while a destage that does not
    /// cover the newest blocks is under way.
    pub charges: u32,
    /// A destage has gathered the content and not yet ended.
    pub destaging: bool,
    /// When the oldest of them came.
    pub since: Duration,
}

impl DirtyStripe {
    /// LSN of the oldest block.
    pub fn oldest(&self) -> Lsn {
        self.blocks.iter().map(|b| b.1.lsn).min().unwrap_or_default()
    }
}

/// All dirty stripes, in stripe order (the order of destage).
#[derive(Default)]
pub(crate) struct Cache {
    pub stripes: BTreeMap<Stripe, DirtyStripe>,
    pub blocks: u64,
}

impl Cache {
    /// The dirty block, if it is one.
    pub fn get(&self, stripe: Stripe, block: u32) -> Option<&DirtyBlock> {
        let s = self.stripes.get(&stripe)?;
        let i = s.blocks.binary_search_by_key(&block, |b| b.0).ok()?;
        Some(&s.blocks[i].1)
    }

    /// Puts a block in. Gives the older one.
    pub fn insert(
        &mut self,
        stripe: Stripe,
        block: u32,
        dirty: DirtyBlock,
        now: Duration,
    ) -> Option<DirtyBlock> {
        let s = self.stripes.entry(stripe).or_insert_with(|| DirtyStripe {
            blocks: Vec::new(),
            charges: 0,
            destaging: false,
            since: now,
        });
        match s.blocks.binary_search_by_key(&block, |b| b.0) {
            Ok(i) => Some(std::mem::replace(&mut s.blocks[i].1, dirty)),
            Err(i) => {
                s.blocks.insert(i, (block, dirty));
                self.blocks += 1;
                None
            }
        }
    }

    /// Takes out every block of the stripe for which `which` holds. Gives them, and the charges
    /// that end if the stripe is clean now.
    pub fn remove(
        &mut self,
        stripe: Stripe,
        which: impl Fn(u32, &DirtyBlock) -> bool,
    ) -> (Vec<DirtyBlock>, u32) {
        let Some(s) = self.stripes.get_mut(&stripe) else {
            return (Vec::new(), 0);
        };
        let (gone, kept) =
            std::mem::take(&mut s.blocks).into_iter().partition(|b| which(b.0, &b.1));
        s.blocks = kept;
        let gone: Vec<(u32, DirtyBlock)> = gone;
        self.blocks -= gone.len() as u64;
        let charges = if s.blocks.is_empty() {
            self.stripes.remove(&stripe).map_or(0, |s| s.charges)
        } else {
            0
        };
        (gone.into_iter().map(|b| b.1).collect(), charges)
    }
}
