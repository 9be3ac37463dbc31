//! Where everything lies: areas of a member, columns of a slot, copies of a map page.
//!
//! Pure arithmetic. Offsets are in bytes of a member. The areas, in order: superblocks A and B,
//! log, pages (roots, then map pages), checksums (unless the array has none), slots, superblock C.
//! A journal device has the superblocks and a log alone. What growing adds is in `geometry/growth.rs`
//! (larger members) and `geometry/wider.rs` (more of them: then the pages lie behind the slots).

mod growth;
mod wider;

pub use growth::{Growth, MAX_GROWTHS, PageRole, Stretch};
pub use wider::Before;

use evenkeel_journal::log::{LOST_ROWS, LogGeometry, SPARE_ROWS};
use evenkeel_journal::{BLOCK, MemberIndex, Slot, Stripe};

use crate::codec::Level;
use crate::error::{ArrayError, ErrorKind};

/// Bytes of a superblock.
pub const SUPERBLOCK_BYTES: u64 = 16384;
/// Where the first copy lies: the magic that other tools look for is at this offset.
pub const SUPERBLOCK_A: u64 = 4096;
/// Where the second copy lies.
pub const SUPERBLOCK_B: u64 = 65536;
/// Where the log area begins.
pub const LOG_OFFSET: u64 = 131_072;
/// Entries of a map page.
pub const PAGE_ENTRIES: u64 = 252;
/// Map pages that one root page knows of.
pub const ROOT_BITS: u64 = 4032 * 8;
/// Checksums of a checksum page.
pub const PAGE_SUMS: u64 = 4032 / 4;
/// Member sizes are rounded down to this.
pub const MEMBER_GRAIN: u64 = 65536;
/// Slots beyond the stripes: at least so many.
pub const SLOT_RESERVE: u64 = 64;
/// Largest request in blocks.
pub const MAX_REQUEST_BLOCKS: u64 = 256;
/// Places of the ring at most.
pub const CACHE_BLOCKS_MAX: u64 = 1 << 28;
/// Journal devices of an array at most.
pub const MAX_JOURNALS: usize = 8;
/// Bytes of the log on every journal device, unless something else is asked for: at most.
const JOURNAL_DEFAULT: u64 = 1 << 30;
/// Bytes used of a disk are fewer than this: what a larger one has beyond is not used.
pub const DISK_BYTES_END: u64 = 1 << 60;
/// Bytes of a log area at most.
const MAX_LOG: u64 = 64 << 30;

/// Where the log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogHome {
    /// On the log areas of the members.
    Members,
    /// On the journal devices.
    Journals,
}

/// Bytes used of a disk that has so many.
fn used_bytes(bytes: u64) -> u64 {
    bytes.min(DISK_BYTES_END - 1) / MEMBER_GRAIN * MEMBER_GRAIN
}

/// The shape of an array. It changes only by growing (its generation rises).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Code.
    pub level: Level,
    /// k.
    pub data: usize,
    /// m.
    pub parity: usize,
    /// Blocks of a chunk.
    pub chunk_blocks: u32,
    /// Stripes of the device.
    pub stripes: u64,
    /// Slots on the members.
    pub slots: u64,
    /// Rows (blocks) of the members' log area.
    pub log_rows: u64,
    /// Where the page area begins.
    pub pages_offset: u64,
    /// Where the checksum area begins; 0: the array has no checksums.
    pub checksums_offset: u64,
    /// Where the slots begin.
    pub slots_offset: u64,
    /// Bytes used of every member.
    pub member_bytes: u64,
    /// Blocks of the cache.
    pub cache_blocks: u64,
    /// j: journal devices; they follow the members in the member table.
    pub journals: usize,
    /// Where the log is: on the journal devices, unless there are none left.
    pub log_home: LogHome,
    /// Rows (blocks) of the journal devices' log area.
    pub journal_rows: u64,
    /// Bytes used of every journal device.
    pub journal_bytes: u64,
    /// How it has grown since it was created.
    pub growths: [Growth; MAX_GROWTHS],
    /// Identity that its pages bear, since columns were added; 0: that of the array, and the pages
    /// lie before the slots.
    pub pages_id: u128,
    /// The shape before columns were added, while stripes of it are in use.
    pub before: Option<Before>,
}

impl Geometry {
    /// n.
    #[must_use]
    pub fn members(&self) -> usize {
        self.data + self.parity
    }

    /// Entries of the member table: members and journal devices.
    #[must_use]
    pub fn table(&self) -> usize {
        self.members() + self.journals
    }

    /// Whether this index of the member table is a journal device's.
    #[must_use]
    pub fn is_journal(&self, member: MemberIndex) -> bool {
        (self.members()..self.table()).contains(&member.at())
    }

    /// Journal devices that may be lost as long as the log is there.
    #[must_use]
    pub fn journal_tolerance(&self) -> usize {
        self.parity.min(self.journals.saturating_sub(1))
    }

    /// Indices of the devices that hold the log.
    #[must_use]
    pub fn log_devices(&self) -> std::ops::Range<usize> {
        match self.log_home {
            LogHome::Members => 0..self.members(),
            LogHome::Journals => self.members()..self.table(),
        }
    }

    /// Devices of the log that may be lost.
    #[must_use]
    pub fn log_tolerance(&self) -> usize {
        match self.log_home {
            LogHome::Members => self.parity,
            LogHome::Journals => self.journal_tolerance(),
        }
    }

    /// Data columns of a commit at most.
    #[must_use]
    pub fn log_width(&self) -> usize {
        self.data.min(self.log_devices().len() - self.log_tolerance())
    }

    /// Rows of the log where it is.
    #[must_use]
    pub fn rows_of_log(&self) -> u64 {
        match self.log_home {
            LogHome::Members => self.log_rows,
            LogHome::Journals => self.journal_rows,
        }
    }

    /// Blocks of a stripe (data alone).
    #[must_use]
    pub fn stripe_blocks(&self) -> u64 {
        u64::from(self.chunk_blocks) * self.data as u64
    }

    /// Blocks of the device.
    #[must_use]
    pub fn device_blocks(&self) -> u64 {
        self.stripes * self.stripe_blocks()
    }

    /// Bytes of a chunk.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        u64::from(self.chunk_blocks) * BLOCK as u64
    }

    /// Blocks of the largest request: one that the whole device can take.
    #[must_use]
    pub fn max_request_blocks(&self) -> u64 {
        MAX_REQUEST_BLOCKS.min(self.device_blocks())
    }

    /// Bytes of a Place record.
    #[must_use]
    pub fn place_record_bytes(&self) -> usize {
        (48 + self.members() * self.chunk_blocks as usize * 4).next_multiple_of(8)
    }

    /// Rows that a stripe is charged for its Place: what one takes at most, and at least one more
    /// than a commit of one Place alone takes. That one pays for the fence of the next start,
    /// should this one be cut: so cut starts in a row never use up the log.
    #[must_use]
    pub fn place_rows(&self) -> u64 {
        let bytes = self.place_record_bytes();
        let most = evenkeel_journal::commit::rows_at_most(0, bytes, self.log_width());
        if bytes <= evenkeel_journal::commit::INLINE_MAX { most } else { most + 1 }
    }

    /// What the log needs to know.
    #[must_use]
    pub fn log(&self, array: u128) -> LogGeometry {
        LogGeometry {
            array,
            offset: LOG_OFFSET,
            rows: self.rows_of_log(),
            data: self.log_width(),
            parity: self.log_tolerance(),
            members: self.log_devices().len(),
            place_rows: self.place_rows(),
            apart: self.log_home == LogHome::Journals,
        }
    }

    /// Map pages.
    #[must_use]
    pub fn map_pages(&self) -> u64 {
        self.stripes.div_ceil(PAGE_ENTRIES)
    }

    /// Root pages.
    #[must_use]
    pub fn root_pages(&self) -> u64 {
        self.map_pages().div_ceil(ROOT_BITS)
    }

    /// The member of a column of a slot: columns rotate so that parity is spread.
    #[must_use]
    pub fn member_of(&self, slot: Slot, column: usize) -> MemberIndex {
        let n = self.members();
        MemberIndex(((column + n - slot.0 as usize % n) % n) as u8)
    }

    /// The column of a slot that lies on a member: the inverse of [`Geometry::member_of`].
    #[must_use]
    pub fn column_of(&self, slot: Slot, member: MemberIndex) -> usize {
        (member.at() + slot.0 as usize) % self.members()
    }

    /// Byte on its member of a row of a slot.
    #[must_use]
    pub fn byte_of(&self, slot: Slot, row: u32) -> u64 {
        let (mut from, mut slot) = (self.slots_offset, u64::from(slot.0));
        if self.growths[0].at != 0 && slot >= u64::from(self.growths[0].slots) {
            let s = self.last_stretch(|s| s.slots.start <= slot);
            (from, slot) = (s.slots_at, slot - s.slots.start);
        }
        from + slot * self.chunk_bytes() + u64::from(row) * BLOCK as u64
    }

    /// Column and row of a stripe's block.
    #[must_use]
    pub fn column_row(&self, block: u32) -> (usize, u32) {
        ((block / self.chunk_blocks) as usize, block % self.chunk_blocks)
    }

    /// Stripe and block of a device block.
    #[must_use]
    pub fn stripe_of(&self, block: u64) -> (Stripe, u32) {
        (Stripe(block / self.stripe_blocks()), (block % self.stripe_blocks()) as u32)
    }

    /// Where the copies of a page lie: member and byte of place 0 or 1, m+1 of them. Pages count
    /// roots first.
    #[must_use]
    pub fn page_copies(&self, page: u64, place: u8) -> Vec<(MemberIndex, u64)> {
        let s = self.last_stretch(|s| s.first_page <= page);
        self.copies_from(s.pages_at, page - s.first_page, place)
    }

    /// The same for a page of the checksum area.
    #[must_use]
    pub fn sum_page_copies(&self, page: u64, place: u8) -> Vec<(MemberIndex, u64)> {
        let s = self.last_stretch(|s| s.sums.start <= page);
        self.copies_from(s.sums_at, page - s.sums.start, place)
    }

    fn copies_from(&self, area: u64, page: u64, place: u8) -> Vec<(MemberIndex, u64)> {
        let n = self.members() as u64;
        let copies = self.parity as u64 + 1;
        let first = page % n;
        (0..copies)
            .map(|i| {
                let member = MemberIndex(((first + i) % n) as u8);
                let nth = page / n * copies + i;
                (member, area + (nth * 2 + u64::from(place)) * BLOCK as u64)
            })
            .collect()
    }

    /// Bytes that an area of so many pages takes on every member.
    fn page_area_bytes(&self, pages: u64) -> u64 {
        let copies = self.parity as u64 + 1;
        pages.div_ceil(self.members() as u64) * copies * 2 * BLOCK as u64
    }

    /// Whether no area of a member lies over another one, or over copy C. The sizes are within the
    /// bounds that a superblock's are checked against.
    pub(crate) fn areas_are_apart(&self) -> bool {
        if !self.stretches_are_apart() {
            return false;
        }
        let end = self.grown_at().next().map_or(self.superblock_c(), |g| g.at);
        let all = self.areas();
        let aligned = |at: u64| at.is_multiple_of(BLOCK as u64);
        all.iter().all(|a| aligned(a.0))
            && all.windows(2).all(|w| w[0].1 <= w[1].0)
            && all.last().is_some_and(|a| a.1 <= end)
            && (self.pages_offset > self.slots_offset) == self.areas_are_behind()
    }

    /// Whether every block has a checksum.
    #[must_use]
    pub fn has_checksums(&self) -> bool {
        self.checksums_offset != 0
    }

    /// Rows whose checksums one page holds: a row is never in two pages.
    #[must_use]
    pub fn rows_of_sum_page(&self) -> u64 {
        PAGE_SUMS / self.members() as u64
    }

    /// Pages of the checksum area: the scrub page, then those with checksums. 0 without any.
    #[must_use]
    pub fn sum_pages(&self) -> u64 {
        self.sums_for(self.stripes)
    }

    /// Bytes of the checksum area on every member, as it was created.
    #[must_use]
    pub fn checksums_bytes(&self) -> u64 {
        self.stretch(0).sums_bytes
    }

    /// Where the checksum of a column of a stripe's row lies: page, and number in it.
    #[must_use]
    pub fn sum_of(&self, stripe: Stripe, row: u32, column: usize) -> (u64, usize) {
        let row = stripe.0 * u64::from(self.chunk_blocks) + u64::from(row);
        let of_page = self.rows_of_sum_page();
        let number = row % of_page * self.members() as u64 + column as u64;
        (1 + row / of_page, number as usize)
    }

    /// Byte of superblock copy C of a member.
    #[must_use]
    pub fn superblock_c(&self) -> u64 {
        self.member_bytes - SUPERBLOCK_BYTES
    }

    /// Bytes used of a member or journal device.
    #[must_use]
    pub fn bytes_of(&self, member: MemberIndex) -> u64 {
        if self.is_journal(member) { self.journal_bytes } else { self.member_bytes }
    }

    /// Byte of superblock copy C of a member or journal device.
    #[must_use]
    pub fn superblock_c_of(&self, member: MemberIndex) -> u64 {
        self.bytes_of(member) - SUPERBLOCK_BYTES
    }

    /// Checks that a disk of so many bytes can take a member's place.
    ///
    /// # Errors
    /// `TooSmall` if it cannot.
    pub fn takes_spare(&self, path: &str, bytes: u64) -> Result<(), ArrayError> {
        if bytes >= self.member_bytes {
            return Ok(());
        }
        let text = format!(
            "{path} has {bytes} bytes; a member of this array takes {}. Nothing was written.",
            self.member_bytes
        );
        Err(ArrayError::new(ErrorKind::TooSmall, text))
    }

    /// Slots beyond the stripes: 1/64, and enough for the whole stripes of the largest request
    /// beside those that are kept for destage.
    #[must_use]
    pub fn slot_reserve(&self) -> u64 {
        let request = self.max_request_blocks() / self.stripe_blocks();
        SLOT_RESERVE.max(self.stripes.div_ceil(64)).max(request + SLOT_RESERVE / 2)
    }

    /// Smallest log that works, in rows: the largest request, what its stripes are charged, and
    /// the spare rows, twice over.
    #[must_use]
    pub fn least_log_rows(&self) -> u64 {
        let request = self.max_request_blocks();
        let stripes = request.div_ceil(self.stripe_blocks()) + 1;
        let meta = request as usize * 4 + stripes as usize * (self.place_record_bytes() + 64);
        let rows = evenkeel_journal::commit::rows_at_most(request as usize, meta, self.log_width())
            + stripes;
        2 * (rows + (stripes + 1) * self.place_rows() + SPARE_ROWS + LOST_ROWS)
    }

    /// Whether log and cache take the largest request, the log also where it goes when journal devices
    /// are lost.
    fn log_and_cache_are_large_enough(&self) -> bool {
        let home = Geometry { log_home: LogHome::Members, ..*self };
        self.rows_of_log() >= self.least_log_rows()
            && home.log_rows >= home.least_log_rows()
            && self.cache_blocks >= 2 * self.max_request_blocks() + 16
    }

    /// Lays an array out over members of `member_bytes`.
    ///
    /// # Errors
    /// Too small for 1 stripe, or for the log asked for; or a chunk that is no power of two from
    /// 4 KiB to 1 MiB.
    #[allow(clippy::too_many_arguments)] // Each is a size or a count that create is told.
    pub fn plan(
        level: Level,
        data: usize,
        parity: usize,
        chunk_bytes: u64,
        member_bytes: u64,
        log_bytes: Option<u64>,
        cache_bytes: Option<u64>,
        checksums: bool,
    ) -> Result<Geometry, ArrayError> {
        let usage = |m: String| Err(ArrayError::new(ErrorKind::Usage, m));
        if !chunk_bytes.is_power_of_two() || !(4096..=1 << 20).contains(&chunk_bytes) {
            return usage(format!(
                "A chunk of {chunk_bytes} bytes is not possible: it must be a power of two from 4K to 1M."
            ));
        }
        let block = BLOCK as u64;
        let log_of = |bytes: u64| log_bytes.unwrap_or((bytes / 16).clamp(1 << 20, 256 << 20));
        let log = log_of(member_bytes);
        if log > MAX_LOG {
            return usage("A log of more than 64G on a disk is not possible.".into());
        }
        let mut g = Geometry {
            level,
            data,
            parity,
            chunk_blocks: (chunk_bytes / block) as u32,
            stripes: 1,
            slots: 0,
            log_rows: log / block,
            pages_offset: 0,
            checksums_offset: 0,
            slots_offset: 0,
            member_bytes: used_bytes(member_bytes),
            cache_blocks: 0,
            journals: 0,
            log_home: LogHome::Members,
            journal_rows: 0,
            journal_bytes: 0,
            growths: [Growth::default(); MAX_GROWTHS],
            pages_id: 0,
            before: None,
        };
        let fits = |g: &mut Geometry, stripes: u64, log: u64| {
            g.stripes = stripes;
            g.log_rows = (log / block).max(g.least_log_rows());
            g.slots = stripes + g.slot_reserve();
            g.pages_offset = LOG_OFFSET + g.log_rows * block;
            let pages = g.page_area_bytes(g.map_pages() + g.root_pages());
            let mut end = g.pages_offset + pages;
            g.checksums_offset = if checksums { end } else { 0 };
            end += g.checksums_bytes();
            g.slots_offset = end.next_multiple_of(g.chunk_bytes().max(block));
            let end = g.slots_offset + g.slots * g.chunk_bytes() + SUPERBLOCK_BYTES;
            g.slots <= u64::from(u32::MAX - 1) && end <= g.member_bytes
        };
        if !fits(&mut g, 1, log) {
            // A larger member has a larger log by default, which is counted in.
            let mut need = 0;
            loop {
                let end = g.slots_offset + g.slots * g.chunk_bytes() + SUPERBLOCK_BYTES;
                if end <= need {
                    break;
                }
                need = end.next_multiple_of(MEMBER_GRAIN);
                fits(&mut g, 1, log_of(need));
            }
            return Err(ArrayError::new(
                ErrorKind::TooSmall,
                format!(
                    "The smallest disk has {member_bytes} bytes. An array of this shape needs at \
                     least {} bytes on every disk. Nothing was written.",
                    need
                ),
            ));
        }
        let (mut low, mut high) = (1, member_bytes / chunk_bytes + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(&mut g, middle, log) { low = middle } else { high = middle }
        }
        assert!(fits(&mut g, low, log));
        let least = 2 * g.max_request_blocks() + 16;
        let default = (64 << 20).min(g.device_blocks() * block / 4);
        g.cache_blocks = (cache_bytes.unwrap_or(default) / block).max(least);
        if g.cache_blocks > CACHE_BLOCKS_MAX {
            return usage("A cache of more than 1T is not possible.".into());
        }
        Ok(g)
    }

    /// The same with the log on `journals` journal devices, of which the smallest has `bytes`.
    ///
    /// # Errors
    /// Too many of them, or too small for the log asked for or for the smallest that works.
    pub fn with_journals(
        self,
        journals: usize,
        bytes: u64,
        log_bytes: Option<u64>,
    ) -> Result<Geometry, ArrayError> {
        let usage = |m: String| Err(ArrayError::new(ErrorKind::Usage, m));
        if journals == 0 || journals > MAX_JOURNALS || self.members() + journals > 255 {
            return usage(format!(
                "{journals} journal devices beside {} members are not possible: at most \
                 {MAX_JOURNALS}, and 255 disks in all.",
                self.members()
            ));
        }
        if log_bytes.is_some_and(|b| b > MAX_LOG) {
            return usage("A log of more than 64G on a disk is not possible.".into());
        }
        let block = BLOCK as u64;
        let mut g = Geometry { journals, log_home: LogHome::Journals, ..self };
        g.journal_bytes = used_bytes(bytes);
        let room = g.journal_bytes.saturating_sub(LOG_OFFSET + SUPERBLOCK_BYTES) / block;
        let asked = log_bytes.unwrap_or((room * block).min(JOURNAL_DEFAULT)) / block;
        g.journal_rows = asked.max(g.least_log_rows());
        if g.journal_rows > room {
            let need = LOG_OFFSET + g.journal_rows * block + SUPERBLOCK_BYTES;
            return Err(ArrayError::new(
                ErrorKind::TooSmall,
                format!(
                    "The smallest journal device has {bytes} bytes. The log of this array needs at \
                     least {} bytes on every one. Nothing was written.",
                    need.next_multiple_of(MEMBER_GRAIN)
                ),
            ));
        }
        Ok(g)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_journal::Lsn;
    use evenkeel_journal::record::Record;

    /// What is reserved for a record must be what it takes.
    #[test]
    fn places_are_as_long_as_they_are_said_to_be() {
        for (level, k, m) in [(Level::Raid5, 2, 1), (Level::Raid6, 3, 2), (Level::Rs, 7, 4)] {
            for chunk in [4096, 8192, 65536] {
                let g = Geometry::plan(level, k, m, chunk, 1 << 30, None, None, true);
                let g = g.expect("it fits");
                let crcs = vec![0; g.members() * g.chunk_blocks as usize];
                let (stripe, slot, horizon) = (Stripe(0), Slot(0), Lsn(0));
                let place = Record::Place { stripe, slot, horizon, crcs };
                assert_eq!(g.place_record_bytes(), place.encoded_len(), "{level:?} {chunk}");
            }
        }
    }

    #[test]
    fn what_is_said_to_be_needed_is_enough_and_no_more() {
        for (k, m) in [(2, 1), (4, 2), (10, 4), (1, 1), (252, 3)] {
            for chunk in [4096, 65536, 1 << 20] {
                for log in [None, Some(100 << 20)] {
                    let plan =
                        |bytes| Geometry::plan(Level::Rs, k, m, chunk, bytes, log, None, true);
                    let refused = plan(100_000).expect_err("too small");
                    assert_eq!(refused.kind, ErrorKind::TooSmall);
                    let need = refused.message.split("at least ").nth(1).expect("a number");
                    let need: u64 = need.split(' ').next().and_then(|n| n.parse().ok()).unwrap();
                    assert!(plan(need).is_ok(), "{k}+{m} {chunk} {log:?}: {need}");
                    let less = plan(need - MEMBER_GRAIN).expect_err("less than needed");
                    assert!(less.message.contains(&format!("least {need} ")));
                }
            }
        }
    }

    #[test]
    fn areas_do_not_overlap_and_pages_have_copies_on_distinct_members() {
        for (k, m) in [(2, 1), (3, 1), (4, 2), (3, 3), (8, 2), (1, 1), (10, 4)] {
            for chunk in [4096, 8192, 65536, 1 << 20] {
                for size in [8 << 20, 100 << 20, 3 << 30] {
                    let g = Geometry::plan(Level::Rs, k, m, chunk, size, None, None, true);
                    let Ok(g) = g else { continue };
                    assert!(g.slots_offset % chunk == 0);
                    assert!(g.slots_offset + g.slots * chunk <= g.superblock_c());
                    let mut seen = std::collections::HashSet::new();
                    for page in 0..(g.map_pages() + g.root_pages()).min(500) {
                        for place in 0..2 {
                            let copies = g.page_copies(page, place);
                            let members: std::collections::HashSet<_> =
                                copies.iter().map(|c| c.0).collect();
                            assert_eq!(members.len(), m + 1);
                            for c in copies {
                                assert!(c.1 >= g.pages_offset && c.1 < g.checksums_offset);
                                assert!(seen.insert(c), "a place is used once");
                            }
                        }
                    }
                    let last = g.sum_pages() - 1;
                    for page in (0..=last.min(300)).chain([last]) {
                        for c in g.sum_page_copies(page, 1) {
                            assert!(c.1 >= g.checksums_offset && c.1 < g.slots_offset);
                        }
                    }
                    let end = g.sum_of(Stripe(g.stripes - 1), g.chunk_blocks - 1, k + m - 1);
                    assert_eq!((end.0, end.1 < PAGE_SUMS as usize), (last, true));
                    for j in 1..=MAX_JOURNALS {
                        let g = g.with_journals(j, 64 << 20, None).expect("64 MiB are enough");
                        let (t, w) = (g.log_tolerance(), g.log_width());
                        assert!(t < j && t <= m && w >= 1 && w <= k && w + t <= j);
                        assert!(t == m || t + 1 == j, "as many losses as can be");
                        assert!(g.journal_rows >= g.least_log_rows());
                        let c = g.superblock_c_of(MemberIndex((k + m) as u8));
                        assert!(LOG_OFFSET + g.journal_rows * BLOCK as u64 <= c);
                    }
                    for slot in 0..10 {
                        let on: std::collections::HashSet<_> =
                            (0..k + m).map(|c| g.member_of(Slot(slot), c)).collect();
                        assert_eq!(on.len(), k + m);
                    }
                }
            }
        }
    }
}
