//! Growth by larger members: what the new bytes hold, and where every page and slot lies then.
//!
//! A member's areas are a row of *stretches*: the first one as it was created, then one for each growth,
//! each with pages, checksum pages and slots of its own for the stripes that it added. What must
//! hold: nothing that was there before moves, and every page keeps its number; so whoever works with the
//! shape of before a growth still finds everything.

use std::ops::Range;

use evenkeel_journal::BLOCK;

use super::{Geometry, PAGE_ENTRIES, ROOT_BITS, SUPERBLOCK_BYTES, used_bytes};
use crate::error::{ArrayError, ErrorKind};

/// Growths that an array remembers at most.
pub const MAX_GROWTHS: usize = 7;

/// Where a growth began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Growth {
    /// Stripes before it.
    pub stripes: u32,
    /// Slots before it.
    pub slots: u32,
    /// Byte of every member where what it added begins; 0: there was no such growth.
    pub at: u64,
}

/// What was laid out at once: at creation, or by one growth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// Its slots.
    pub slots: Range<u64>,
    /// Its root pages, by their numbers among the roots.
    pub roots: Range<u64>,
    /// Its map pages, by their numbers among the map pages.
    pub maps: Range<u64>,
    /// Number of its first page: its roots, then its map pages.
    pub first_page: u64,
    /// Its pages of checksums.
    pub sums: Range<u64>,
    /// Byte where its pages begin.
    pub pages_at: u64,
    /// Bytes that they take on every member.
    pub pages_bytes: u64,
    /// Byte where its checksum pages begin.
    pub sums_at: u64,
    /// Bytes that they take on every member.
    pub sums_bytes: u64,
    /// Byte where its slots begin.
    pub slots_at: u64,
}

impl Stretch {
    /// Root and map pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        let count = |r: &Range<u64>| r.end - r.start;
        count(&self.roots) + count(&self.maps)
    }
}

/// What a page of the page area is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageRole {
    /// A root page, by its number among these.
    Root(u64),
    /// A page of map entries, by its number among these.
    Map(u64),
}

fn maps_of(stripes: u64) -> u64 {
    stripes.div_ceil(PAGE_ENTRIES)
}

fn roots_of(stripes: u64) -> u64 {
    maps_of(stripes).div_ceil(ROOT_BITS)
}

impl Geometry {
    /// The growths, oldest first.
    pub fn grown_at(&self) -> impl Iterator<Item = &Growth> {
        self.growths.iter().take_while(|g| g.at != 0)
    }

    /// The stretches of a member, as they lie.
    pub fn stretches(&self) -> impl DoubleEndedIterator<Item = Stretch> + '_ {
        (0..=self.grown_at().count()).map(|i| self.stretch(i))
    }

    /// The last stretch that begins so early.
    pub(super) fn last_stretch(&self, begins: impl Fn(&Stretch) -> bool) -> Stretch {
        self.stretches().rfind(begins).expect("in the first one everything begins with 0")
    }

    /// What was laid out at creation, or by the growth before the i-th one.
    pub(super) fn stretch(&self, i: usize) -> Stretch {
        let g = if i == 0 { Growth::default() } else { self.growths[i - 1] };
        let before = u64::from(g.stripes);
        let (stripes, slots) = match self.growths.get(i).filter(|next| next.at != 0) {
            Some(next) => (u64::from(next.stripes), u64::from(next.slots)),
            None => (self.stripes, self.slots),
        };
        let mut s = Stretch {
            slots: u64::from(g.slots)..slots,
            roots: roots_of(before)..roots_of(stripes),
            maps: maps_of(before)..maps_of(stripes),
            first_page: roots_of(before) + maps_of(before),
            sums: self.sums_for(before)..self.sums_for(stripes),
            pages_at: self.pages_offset,
            pages_bytes: 0,
            sums_at: self.checksums_offset,
            sums_bytes: 0,
            slots_at: self.slots_offset,
        };
        s.pages_bytes = self.page_area_bytes(s.pages());
        s.sums_bytes = self.page_area_bytes(s.sums.end - s.sums.start);
        if i > 0 {
            s.pages_at = g.at;
            s.sums_at = g.at + s.pages_bytes;
            let end = s.sums_at + s.sums_bytes;
            s.slots_at = end.next_multiple_of(self.chunk_bytes().max(BLOCK as u64));
        }
        s
    }

    /// Pages of checksums that so many stripes take; none for none.
    pub(super) fn sums_for(&self, stripes: u64) -> u64 {
        if stripes == 0 || !self.has_checksums() {
            return 0;
        }
        let rows = stripes * u64::from(self.chunk_blocks);
        1 + rows.div_ceil(self.rows_of_sum_page())
    }

    /// The number of a root page among all pages.
    #[must_use]
    pub fn page_of_root(&self, root: u64) -> u64 {
        self.page_with(|s| s.roots.contains(&root).then(|| s.first_page + root - s.roots.start))
    }

    /// The number of a page of map entries among all pages.
    #[must_use]
    pub fn page_of_map(&self, nth: u64) -> u64 {
        self.page_with(|s| {
            let first = s.first_page + (s.roots.end - s.roots.start);
            s.maps.contains(&nth).then(|| first + nth - s.maps.start)
        })
    }

    fn page_with(&self, which: impl Fn(&Stretch) -> Option<u64>) -> u64 {
        self.stretches().find_map(|s| which(&s)).expect("every page is in a stretch")
    }

    /// What a page is.
    #[must_use]
    pub fn role_of_page(&self, page: u64) -> PageRole {
        let s = self.last_stretch(|s| s.first_page <= page);
        let (nth, roots) = (page - s.first_page, s.roots.end - s.roots.start);
        if nth < roots {
            PageRole::Root(s.roots.start + nth)
        } else {
            PageRole::Map(s.maps.start + nth - roots)
        }
    }

    /// Whether the stretches follow each other and none lies over another, or over copy C. The first one
    /// and the sizes were looked at before.
    pub(crate) fn stretches_are_apart(&self) -> bool {
        let used = self.grown_at().count();
        if self.growths[used..].iter().any(|g| *g != Growth::default()) {
            return false;
        }
        // Numbers first: what is computed from them must not overflow.
        let mut before = (0, 0, 0);
        for g in self.grown_at() {
            let now = (u64::from(g.stripes), u64::from(g.slots), g.at);
            let rises = now.0 > before.0 && now.1 > before.1 && now.2 > before.2;
            let fits = now.0 <= now.1 && now.2 % BLOCK as u64 == 0 && now.2 < self.member_bytes;
            if !rises || !fits {
                return false;
            }
            before = now;
        }
        if used > 0 && (self.stripes <= before.0 || self.slots <= before.1) {
            return false;
        }
        let all: Vec<Stretch> = self.stretches().collect();
        let end = |s: &Stretch| s.slots_at + (s.slots.end - s.slots.start) * self.chunk_bytes();
        all.windows(2).all(|w| end(&w[0]) <= w[1].pages_at)
            && all.last().is_some_and(|s| end(s) + SUPERBLOCK_BYTES <= self.member_bytes)
    }

    /// The shape when every member has so many bytes: whatever fits behind what is there.
    ///
    /// # Errors
    /// `TooSmall` if not one more stripe fits, or the log or the cache could not take the larger
    /// requests of the larger device; `Failed` if it has grown too often.
    pub fn grown_to(&self, member_bytes: u64) -> Result<Geometry, ArrayError> {
        let refuse =
            |kind, text: String| Err(ArrayError::new(kind, format!("{text} Nothing was written.")));
        if self.before.is_some() {
            let text = "Stripes are still being moved to the disks that were added last. Wait for that \
                        first (evenkeel wait NAME grow).";
            return refuse(ErrorKind::Failed, text.to_owned());
        }
        let used = self.grown_at().count();
        if used == MAX_GROWTHS {
            let text =
                format!("The array has grown {MAX_GROWTHS} times, which is as often as can be.");
            return refuse(ErrorKind::Failed, text);
        }
        let mut g = Geometry { member_bytes: used_bytes(member_bytes), ..*self };
        g.growths[used] = Growth {
            stripes: self.stripes as u32,
            slots: self.slots as u32,
            at: self.superblock_c(),
        };
        let fits = |g: &mut Geometry, stripes: u64| {
            g.stripes = stripes;
            g.slots = (stripes + g.slot_reserve()).max(self.slots + 1);
            g.slots <= u64::from(u32::MAX - 1) && g.stretches_are_apart()
        };
        let most = (member_bytes / self.chunk_bytes()).min(u64::from(u32::MAX - 1));
        let (mut low, mut high) = (self.stripes, most.max(self.stripes) + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(&mut g, middle) { low = middle } else { high = middle }
        }
        if low == self.stripes {
            let mut need = g.member_bytes;
            while !fits(&mut g, self.stripes + 1) {
                g.member_bytes += super::MEMBER_GRAIN;
                need = g.member_bytes;
            }
            let text = format!(
                "The smallest disk has {member_bytes} bytes, and {} are in use. For the array to \
                 grow every disk must have at least {need} bytes.",
                self.member_bytes
            );
            return refuse(ErrorKind::TooSmall, text);
        }
        assert!(fits(&mut g, low), "what fitted fits");
        if !g.log_and_cache_are_large_enough() {
            let text =
                "The log or the cache of this array is too small for the requests that a larger \
                        device takes."
                    .to_owned();
            return refuse(ErrorKind::TooSmall, text);
        }
        Ok(g)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::codec::Level;
    use evenkeel_journal::{Slot, Stripe};

    /// Everything that has a place on the members: what it is, and where.
    fn places(g: &Geometry) -> HashMap<(String, u8), u64> {
        let mut all = HashMap::new();
        let some = |n: u64| (0..n.min(300)).chain(n.saturating_sub(300)..n);
        for page in some(g.map_pages() + g.root_pages()) {
            for place in 0..2 {
                for (m, at) in g.page_copies(page, place) {
                    all.insert((format!("{:?} place {place}", g.role_of_page(page)), m.0), at);
                }
            }
        }
        for page in some(g.sum_pages()) {
            for place in 0..2 {
                for (m, at) in g.sum_page_copies(page, place) {
                    all.insert((format!("sums {page} place {place}"), m.0), at);
                }
            }
        }
        for slot in some(g.slots) {
            for row in [0, g.chunk_blocks - 1] {
                let at = g.byte_of(Slot(slot as u32), row);
                (0..g.members() as u8).for_each(|m| {
                    all.insert((format!("slot {slot} row {row}"), m), at);
                });
            }
        }
        all
    }

    #[test]
    fn nothing_moves_and_nothing_overlaps() {
        for (k, m, chunk) in [(2, 1, 65536), (4, 2, 4096), (3, 3, 1 << 20), (1, 1, 8192)] {
            for checksums in [true, false] {
                let size = 16 << 20;
                let (log, cache) = (Some(8 << 20), Some(4 << 20));
                let plan = Geometry::plan(Level::Rs, k, m, chunk, size, log, cache, checksums);
                let Ok(mut g) = plan else { continue };
                let mut size = size;
                for growth in 1..=MAX_GROWTHS {
                    size += (growth as u64 * 37) << 20;
                    let before = g;
                    g = before.grown_to(size).expect("there is room");
                    assert!(g.stripes > before.stripes && g.stretches_are_apart());
                    assert_eq!(g.grown_at().count(), growth);
                    let (old, new) = (places(&before), places(&g));
                    for (what, at) in old {
                        if let Some(now) = new.get(&what) {
                            assert_eq!(at, *now, "{what:?} has moved");
                        }
                    }
                    let mut seen = HashSet::new();
                    for (what, at) in &new {
                        assert!(seen.insert((what.1, *at)), "{what:?} lies over something else");
                        assert!(at + BLOCK as u64 <= g.superblock_c());
                    }
                    for nth in 0..g.map_pages() {
                        assert_eq!(g.role_of_page(g.page_of_map(nth)), PageRole::Map(nth));
                    }
                    for root in 0..g.root_pages() {
                        assert_eq!(g.role_of_page(g.page_of_root(root)), PageRole::Root(root));
                    }
                    let end = g.sum_of(Stripe(g.stripes - 1), g.chunk_blocks - 1, k + m - 1);
                    assert!(!checksums || end.0 == g.sum_pages() - 1);
                }
                assert!(g.grown_to(size << 1).is_err(), "it remembers so many");
            }
        }
    }

    /// More map pages than one root knows of.
    #[test]
    fn roots_are_added() {
        let g =
            Geometry::plan(Level::Raid5, 2, 1, 4096, 20 << 30, None, None, false).expect("fits");
        let new = g.grown_to(90 << 30).expect("there is room");
        assert!(new.root_pages() > g.root_pages());
        for nth in [0, g.map_pages() - 1, g.map_pages(), new.map_pages() - 1] {
            assert_eq!(new.role_of_page(new.page_of_map(nth)), PageRole::Map(nth));
        }
        assert_eq!(new.page_of_map(g.map_pages() - 1), g.page_of_map(g.map_pages() - 1));
        let last = new.root_pages() - 1;
        assert!(new.page_copies(new.page_of_root(last), 0)[0].1 >= g.superblock_c());
    }

    #[test]
    fn what_is_said_to_be_needed_to_grow_is_enough_and_no_more() {
        for (k, m, chunk) in [(2, 1, 65536), (4, 2, 4096), (3, 3, 1 << 20)] {
            let g = Geometry::plan(Level::Rs, k, m, chunk, 128 << 20, None, None, true);
            let g = g.expect("it fits");
            let refused = g.grown_to(g.member_bytes).expect_err("nothing to gain");
            assert_eq!(refused.kind, ErrorKind::TooSmall);
            let need = refused.message.split("at least ").nth(1).expect("a number");
            let need: u64 = need.split(' ').next().and_then(|n| n.parse().ok()).expect("one");
            assert!(g.grown_to(need).is_ok());
            assert!(g.grown_to(need - super::super::MEMBER_GRAIN).is_err());
        }
    }

    #[test]
    fn growths_that_make_no_sense_are_not_believed() {
        let g =
            Geometry::plan(Level::Raid6, 4, 2, 65536, 64 << 20, None, None, true).expect("fits");
        let good = g.grown_to(200 << 20).expect("there is room");
        let bad: [fn(&mut Geometry); 6] = [
            |g| g.growths[0].at += 1,
            |g| g.growths[0].at = g.slots_offset,
            |g| g.growths[0].stripes = u32::MAX,
            |g| g.growths[0].slots = 0,
            |g| g.growths[2] = g.growths[0],
            |g| g.growths[0].at = u64::MAX / 4096 * 4096,
        ];
        for (i, break_it) in bad.into_iter().enumerate() {
            let mut g = good;
            break_it(&mut g);
            assert!(!g.stretches_are_apart(), "case {i}");
        }
    }
}
