//! Where pages, checksums and slots lie on a member, read from a superblock by the tables of the format: what
//! was laid out at creation, and what each growth has added.

use std::ops::Range;

use super::parity::{u16_at, u32_at, u64_at};
use crate::sim::PAGE;

const BLOCK: u64 = PAGE as u64;
/// Entries of a map page, and map pages of a root.
const ENTRIES: u64 = 252;
const OF_ROOT: u64 = 4032 * 8;
const AT_GROWTHS: usize = 384;
const GROWTHS: usize = 7;

/// One of them.
pub(super) struct Stretch {
    /// Bytes of the members that hold its pages.
    pub pages: Range<u64>,
    /// The number of its first page, and how many of its pages are roots.
    pub first_page: u64,
    pub roots: u64,
    /// The number of its first map page among these.
    pub first_map: u64,
    /// Where its checksums begin, and the numbers of their pages.
    pub sums_at: u64,
    pub sums: Range<u64>,
    /// Where its slots begin, and their numbers.
    pub slots_at: u64,
    pub slots: Range<u64>,
}

/// The array's pages bear this: its UUID, or, since columns were added, an identity of their own.
pub(super) fn pages_id(head: &[u8]) -> &[u8] {
    if u64_at(head, 80) & 32 == 0 { &head[16..32] } else { &head[16328..16344] }
}

/// Whether stripes of the shape before more columns were added are in use.
pub(super) fn is_growing(head: &[u8]) -> bool {
    u64_at(head, 80) & 16 != 0
}

/// All of them, as they lie.
pub(super) fn read(head: &[u8]) -> Vec<Stretch> {
    let (n, k) = (u16_at(head, 156) as u64, u16_at(head, 152) as u64);
    let chunk_blocks = u64::from(u32_at(head, 160));
    let has_sums = u64_at(head, 216) != 0;
    let maps = |stripes: u64| stripes.div_ceil(ENTRIES);
    let roots = |stripes: u64| maps(stripes).div_ceil(OF_ROOT);
    let sums = |stripes: u64| match stripes {
        0 => 0,
        _ if !has_sums => 0,
        _ => 1 + (stripes * chunk_blocks).div_ceil(1008 / n),
    };
    let area = |pages: u64| pages.div_ceil(n) * (n - k + 1) * 2 * BLOCK;
    let mut begins = vec![(0, 0, 0)];
    for i in 0..GROWTHS {
        let at = AT_GROWTHS + i * 16;
        if u64_at(head, at + 8) != 0 {
            let numbers = (u32_at(head, at), u32_at(head, at + 4));
            begins.push((u64::from(numbers.0), u64::from(numbers.1), u64_at(head, at + 8)));
        }
    }
    let mut all = Vec::new();
    for (i, (stripes, slots, at)) in begins.iter().copied().enumerate() {
        let next = begins.get(i + 1).map(|b| (b.0, b.1));
        let (stripes_end, slots_end) = next.unwrap_or((u64_at(head, 168), u64_at(head, 176)));
        let first_page = roots(stripes) + maps(stripes);
        let pages = area(roots(stripes_end) + maps(stripes_end) - first_page);
        let sums = sums(stripes)..sums(stripes_end);
        let (pages_at, sums_at, slots_at) = if i == 0 {
            (u64_at(head, 200), u64_at(head, 216), u64_at(head, 232))
        } else {
            let sums_end = at + pages + area(sums.end - sums.start);
            (at, at + pages, sums_end.next_multiple_of(chunk_blocks * BLOCK))
        };
        all.push(Stretch {
            pages: pages_at..pages_at + pages,
            first_page,
            roots: roots(stripes_end) - roots(stripes),
            first_map: maps(stripes),
            sums_at,
            sums,
            slots_at,
            slots: slots..slots_end,
        });
    }
    all
}
