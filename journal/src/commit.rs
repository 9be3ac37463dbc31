//! A commit and its columns: the bytes that the log is made of (format.md §5).
//!
//! A commit is a small stripe of its own: `width` data columns and some parity columns, each on
//! another member, all beginning at the same row of the log areas. Every column begins with a
//! header block that describes the whole commit, so that any `width` columns bring it back.

use crate::bytes::{
    crc_without, get_u16, get_u32, get_u64, get_u128, put_u16, put_u32, put_u64, put_u128,
};
use crate::mem::{Buf, Slice};
use crate::units::{BLOCK, CommitNumber, Lsn, NUMBERS_END};

/// First bytes of a column header.
pub const COLUMN_MAGIC: [u8; 8] = *b"EVKLCOL1";
/// Version of commits that this code writes and reads.
pub const COMMIT_VERSION: u32 = 1;
/// Where inline metadata begins in the header block.
pub const INLINE_AT: usize = 512;
/// Bytes of metadata that fit into the header block.
pub const INLINE_MAX: usize = BLOCK - INLINE_AT;
/// Payload blocks of a commit of several requests at most: what gathers while one is in flight is
/// cut here, so that nobody waits too long for the others.
pub const MAX_PAYLOAD: usize = 2048;
/// Payload blocks of any commit at most. Only one large request (a transaction of 4096 blocks,
/// with its records) comes near it. It keeps what a start reads at once in bounds.
pub const LARGEST_PAYLOAD: usize = 4096 + 64;
/// Flag: the metadata is in the header block, not in the payload.
pub const FLAG_INLINE: u32 = 1;

const AT_CRC: usize = 12;
const AT_COMMIT_CRC: usize = 60;
const AT_COLUMN: usize = 124;
const AT_COLUMN_CRC: usize = 136;
const AT_MEMBERS: usize = 160;

/// What a column's header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColumnHeader {
    /// UUID of the array.
    pub array: u128,
    /// Identity of the daemon run that wrote it.
    pub incarnation: u64,
    /// The commit's number.
    pub number: CommitNumber,
    /// Number of the commit before.
    pub prev_number: CommitNumber,
    /// `commit_crc` of the commit before.
    pub prev_crc: u32,
    /// CRC of the whole commit.
    pub commit_crc: u32,
    /// First record's LSN; for no records one more than `lsn_last`.
    pub lsn_first: Lsn,
    /// Newest LSN that the log holds up to this commit.
    pub lsn_last: Lsn,
    /// The commit up to which the log was durable when this was written.
    pub durable: CommitNumber,
    /// The oldest commit that is still needed.
    pub tail: CommitNumber,
    /// Row at which the tail commit begins.
    pub tail_row: u64,
    /// Row at which this commit begins.
    pub row: u64,
    /// Rows that it takes, the header row included.
    pub rows: u32,
    /// Payload blocks.
    pub payload_blocks: u32,
    /// Data columns.
    pub width: u16,
    /// This column: data columns first, then parity.
    pub column: u16,
    /// Member that this column was written to.
    pub member: u16,
    /// Bytes of metadata.
    pub meta_bytes: u32,
    /// [`FLAG_INLINE`].
    pub flags: u32,
    /// CRC over the CRCs of this column's payload blocks.
    pub column_crc: u32,
    /// Number of records.
    pub records: u32,
    /// Epoch in force when it was written.
    pub epoch: u64,
    /// Members of all columns, in column order.
    pub members: Vec<u8>,
}

impl ColumnHeader {
    /// The header block, with inline metadata where the flag says so.
    #[must_use]
    pub fn encode(&self, meta: &[u8]) -> Buf {
        let mut b = Buf::zeroed(BLOCK);
        self.encode_fields(&mut b);
        if self.flags & FLAG_INLINE != 0 {
            b[INLINE_AT..INLINE_AT + meta.len()].copy_from_slice(meta);
        }
        let crc = crc_without(&b, AT_CRC);
        put_u32(&mut b, AT_CRC, crc);
        b
    }

    fn encode_fields(&self, b: &mut [u8]) {
        b[..8].copy_from_slice(&COLUMN_MAGIC);
        put_u32(b, 8, COMMIT_VERSION);
        put_u128(b, 16, self.array);
        put_u64(b, 32, self.incarnation);
        put_u64(b, 40, self.number.0);
        put_u64(b, 48, self.prev_number.0);
        put_u32(b, 56, self.prev_crc);
        put_u32(b, AT_COMMIT_CRC, self.commit_crc);
        put_u64(b, 64, self.lsn_first.0);
        put_u64(b, 72, self.lsn_last.0);
        put_u64(b, 80, self.durable.0);
        put_u64(b, 88, self.tail.0);
        put_u64(b, 96, self.tail_row);
        put_u64(b, 104, self.row);
        put_u32(b, 112, self.rows);
        put_u32(b, 116, self.payload_blocks);
        put_u16(b, 120, self.width);
        put_u16(b, 122, self.members.len() as u16);
        put_u16(b, AT_COLUMN, self.column);
        put_u16(b, AT_COLUMN + 2, self.member);
        put_u32(b, 128, self.meta_bytes);
        put_u32(b, 132, self.flags);
        put_u32(b, AT_COLUMN_CRC, self.column_crc);
        put_u32(b, 140, self.records);
        put_u64(b, 144, self.epoch);
        b[AT_MEMBERS..AT_MEMBERS + self.members.len()].copy_from_slice(&self.members);
    }

    /// The header in `b` (a block), if it is one of this array, whole, and at this place. A
    /// version that is not known comes back as `Err` with its number.
    pub fn decode(b: &[u8], array: u128, row: u64) -> Result<Option<ColumnHeader>, u32> {
        if b[..8] != COLUMN_MAGIC || get_u128(b, 16) != array || get_u64(b, 104) != row {
            return Ok(None);
        }
        if get_u32(b, AT_CRC) != crc_without(b, AT_CRC) {
            return Ok(None);
        }
        if get_u32(b, 8) != COMMIT_VERSION {
            return Err(get_u32(b, 8));
        }
        let columns = usize::from(get_u16(b, 122));
        if columns > 255 {
            return Ok(None);
        }
        let h = ColumnHeader {
            array,
            incarnation: get_u64(b, 32),
            number: CommitNumber(get_u64(b, 40)),
            prev_number: CommitNumber(get_u64(b, 48)),
            prev_crc: get_u32(b, 56),
            commit_crc: get_u32(b, AT_COMMIT_CRC),
            lsn_first: Lsn(get_u64(b, 64)),
            lsn_last: Lsn(get_u64(b, 72)),
            durable: CommitNumber(get_u64(b, 80)),
            tail: CommitNumber(get_u64(b, 88)),
            tail_row: get_u64(b, 96),
            row,
            rows: get_u32(b, 112),
            payload_blocks: get_u32(b, 116),
            width: get_u16(b, 120),
            column: get_u16(b, AT_COLUMN),
            member: get_u16(b, AT_COLUMN + 2),
            meta_bytes: get_u32(b, 128),
            flags: get_u32(b, 132),
            column_crc: get_u32(b, AT_COLUMN_CRC),
            records: get_u32(b, 140),
            epoch: get_u64(b, 144),
            members: b[AT_MEMBERS..AT_MEMBERS + columns].to_vec(),
        };
        Ok(h.is_sound().then_some(h))
    }

    /// Whether the numbers fit together: a header that a bad disk made up must not lead anywhere.
    fn is_sound(&self) -> bool {
        let (w, p) = (usize::from(self.width), self.payload_blocks as usize);
        let meta = self.meta_bytes as usize;
        let meta_fits = if self.flags & FLAG_INLINE != 0 {
            meta <= INLINE_MAX
        } else {
            meta.div_ceil(BLOCK) <= p
        };
        let mut members = self.members.clone();
        members.sort_unstable();
        let distinct = members.windows(2).all(|pair| pair[0] != pair[1]);
        let numbers = [self.number.0, self.durable.0, self.lsn_last.0];
        w >= 1
            && numbers.iter().all(|n| *n < NUMBERS_END)
            && self.lsn_first.0 <= self.lsn_last.0 + 1
            && u64::from(self.records) <= self.lsn_last.0 + 1 - self.lsn_first.0
            && self.prev_number < self.number
            && distinct
            && w <= self.members.len()
            && usize::from(self.column) < self.members.len()
            && u16::from(self.members[usize::from(self.column)]) == self.member
            && p <= LARGEST_PAYLOAD
            && self.rows as usize == 1 + p.div_ceil(w)
            && self.tail <= self.number
            && meta_fits
    }

    /// Payload blocks in data column `column`.
    #[must_use]
    pub fn blocks_in(&self, column: usize) -> usize {
        blocks_in(self.payload_blocks as usize, usize::from(self.width), column)
    }

    /// Whether both say the same of their commit.
    #[must_use]
    pub fn same_commit(&self, other: &ColumnHeader) -> bool {
        let strip =
            |h: &ColumnHeader| ColumnHeader { column: 0, member: 0, column_crc: 0, ..h.clone() };
        strip(self) == strip(other)
    }

    /// The CRC of the whole commit: over what the header says of it, the inline metadata, and
    /// the CRCs of all data columns.
    #[must_use]
    pub fn compute_commit_crc(&self, inline: &[u8], data_column_crcs: &[u32]) -> u32 {
        let mut b = vec![0u8; INLINE_AT];
        let h = ColumnHeader { column: 0, member: 0, column_crc: 0, commit_crc: 0, ..self.clone() };
        h.encode_fields(&mut b);
        let mut crc = crc32c::crc32c(&b);
        crc = crc32c::crc32c_append(crc, inline);
        for c in data_column_crcs {
            crc = crc32c::crc32c_append(crc, &c.to_le_bytes());
        }
        crc
    }
}

/// The shape of a commit with `payload` blocks on `k` data columns at most: (width, rows). The
/// fewest rows first (they are what was reserved), then the fewest columns.
#[must_use]
pub fn shape(payload: usize, k: usize) -> (usize, usize) {
    if payload == 0 {
        return (1, 1);
    }
    let rows = payload.div_ceil(k);
    (payload.div_ceil(rows), 1 + rows)
}

/// Rows that a request with `data` data blocks and `meta` bytes of records can take at most,
/// whichever commit it ends up in: the sum over a commit's requests is never less than its rows.
#[must_use]
pub fn rows_at_most(data: usize, meta: usize, k: usize) -> u64 {
    (1 + (data + meta.div_ceil(BLOCK)).div_ceil(k)) as u64
}

/// Blocks of data column `column` of `width` when `payload` blocks are dealt out in turn.
#[must_use]
pub fn blocks_in(payload: usize, width: usize, column: usize) -> usize {
    if column < payload { (payload - column).div_ceil(width) } else { 0 }
}

/// CRC of a column: over the CRCs of its blocks.
#[must_use]
pub fn column_crc(blocks: impl Iterator<Item = u32>) -> u32 {
    blocks.fold(0, |crc, b| crc32c::crc32c_append(crc, &b.to_le_bytes()))
}

/// The metadata as payload blocks, zero-padded.
#[must_use]
pub fn meta_blocks(meta: &[u8]) -> Vec<Slice> {
    let len = meta.len().next_multiple_of(BLOCK);
    let mut b = Buf::zeroed(len);
    b[..meta.len()].copy_from_slice(meta);
    let s = b.freeze();
    (0..len / BLOCK).map(|i| s.part(i * BLOCK, BLOCK)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_take_no_more_rows_than_reserved_in_parts() {
        for k in 1..8 {
            for a in 0..40 {
                for b in 0..40 {
                    let (w, rows) = shape(a + b + 1, k);
                    assert!(w <= k && (rows - 1) * w > a + b);
                    let parts = rows_at_most(a, 100, k) + rows_at_most(b, 4000, k);
                    assert!(shape(a + b + 2, k).1 as u64 <= parts, "{a} {b} {k}");
                }
            }
        }
    }

    #[test]
    fn blocks_are_dealt_out_completely() {
        for p in 0..50 {
            for w in 1..9 {
                assert_eq!((0..w).map(|c| blocks_in(p, w, c)).sum::<usize>(), p);
            }
        }
    }

    #[test]
    fn headers_come_back_and_flips_do_not() {
        let h = ColumnHeader {
            array: 7,
            incarnation: 9,
            number: CommitNumber(12),
            prev_number: CommitNumber(11),
            prev_crc: 1,
            commit_crc: 2,
            lsn_first: Lsn(3),
            lsn_last: Lsn(4),
            durable: CommitNumber(10),
            tail: CommitNumber(5),
            tail_row: 6,
            row: 77,
            rows: 2,
            payload_blocks: 3,
            width: 3,
            column: 1,
            member: 4,
            meta_bytes: 16,
            flags: FLAG_INLINE,
            column_crc: 8,
            records: 1,
            epoch: 3,
            members: vec![3, 4, 5, 0, 1],
        };
        let b = h.encode(&[5; 16]);
        assert_eq!(ColumnHeader::decode(&b, 7, 77), Ok(Some(h)));
        assert_eq!(ColumnHeader::decode(&b, 8, 77), Ok(None));
        assert_eq!(ColumnHeader::decode(&b, 7, 78), Ok(None));
        for at in 0..BLOCK {
            let mut c = b.to_vec();
            c[at] ^= 1;
            assert_eq!(ColumnHeader::decode(&c, 7, 77), Ok(None), "flip at {at}");
        }
    }
}
