//! Pages: blocks with a head that says what they are, of which m + 1 copies lie on distinct members,
//! each in one of two places (format.md §8). Map, roots, checksums and the scrub's progress
//! are kept in such pages.

use evenkeel_journal::bytes::{crc_without, get_u16, get_u32, get_u64, get_u128};
use evenkeel_journal::bytes::{put_u16, put_u32, put_u64, put_u128};
use evenkeel_journal::units::NUMBERS_END;
use evenkeel_journal::{BLOCK, Buf, Lsn};

/// First bytes of a page.
pub const PAGE_MAGIC: [u8; 4] = *b"EKMP";
/// Version of pages.
pub const PAGE_VERSION: u16 = 1;
/// Kind of a page that says which map pages were ever written.
pub const PAGE_ROOT: u16 = 1;
/// Kind of a page of map entries.
pub const PAGE_MAP: u16 = 2;
/// Kind of a page of checksums.
pub const PAGE_CHECKSUMS: u16 = 3;
/// Kind of the page that says how far the scrub is.
pub const PAGE_SCRUB: u16 = 4;
/// Bytes of a page before its content.
pub const PAGE_HEAD: usize = 64;
const AT_CRC: usize = 36;

/// What a page says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// What it holds: one of the kinds above.
    pub kind: u16,
    /// Its number in its area.
    pub page: u64,
    /// 0 or 1: which of the two places this is.
    pub place: u8,
    /// Rises with every writing of the page.
    pub generation: u64,
    /// Newest record given out when the page was made.
    pub lsn: Lsn,
}

impl Head {
    /// A page with this head and nothing in it yet.
    #[must_use]
    pub fn page(&self, array: u128) -> Buf {
        let mut b = Buf::zeroed(BLOCK);
        self.put(array, &mut b);
        b
    }

    /// Puts the head into a page.
    pub fn put(&self, array: u128, b: &mut [u8]) {
        b[..4].copy_from_slice(&PAGE_MAGIC);
        put_u16(b, 4, PAGE_VERSION);
        put_u16(b, 6, self.kind);
        put_u128(b, 8, array);
        put_u64(b, 24, self.page);
        put_u32(b, 32, u32::from(self.place));
        put_u64(b, 40, self.generation);
        put_u64(b, 48, self.lsn.0);
    }
}

/// Puts the CRC into a page that is complete.
pub fn seal(b: &mut [u8]) {
    let crc = crc_without(b, AT_CRC);
    put_u32(b, AT_CRC, crc);
}

/// The head of a whole page of this array; None for anything else.
#[must_use]
pub fn decode(b: &[u8], array: u128) -> Option<Head> {
    let whole = b[..4] == PAGE_MAGIC
        && get_u128(b, 8) == array
        && get_u32(b, AT_CRC) == crc_without(b, AT_CRC)
        && get_u16(b, 4) == PAGE_VERSION
        && b[32] < 2
        && get_u64(b, 40) < NUMBERS_END
        && get_u64(b, 48) < NUMBERS_END;
    whole.then(|| Head {
        kind: get_u16(b, 6),
        page: get_u64(b, 24),
        place: b[32],
        generation: get_u64(b, 40),
        lsn: Lsn(get_u64(b, 48)),
    })
}
