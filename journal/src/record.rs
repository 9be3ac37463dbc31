//! Records: what the journal says, one at a time, and their bytes (format.md §6).
//!
//! A record's bytes hold no data blocks: those follow in the payload of the commit, or lie in
//! places of the ring, in the order of the records.

use crate::bytes::Reader;
use crate::units::{Lsn, Slot, Stripe};

/// Bytes before a record's body: kind, flags, length, LSN.
pub const RECORD_HEAD: usize = 16;
/// Kinds on disk.
pub const KIND_WRITE: u8 = 1;
/// See [`Record::Place`].
pub const KIND_PLACE: u8 = 2;
/// See [`Record::Parity`].
pub const KIND_PARITY: u8 = 3;
/// See [`Record::Unmap`].
pub const KIND_UNMAP: u8 = 4;
/// See [`Record::Lost`].
pub const KIND_LOST: u8 = 5;
/// See [`Record::Checkpoint`].
pub const KIND_CHECKPOINT: u8 = 6;
/// Flag of a Write: its blocks are zero and have no data.
pub const FLAG_ZERO: u8 = 1;
/// Largest number of blocks, CRCs or rows that a record may name: keeps bad bytes from asking for
/// memory.
pub const MAX_COUNT: usize = 1 << 20;

/// A data block that a [`ParityRow`] covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Covered {
    /// Data column of the row.
    pub column: u32,
    /// CRC32C of the block.
    pub crc: u32,
    /// The Write that carries it.
    pub lsn: Lsn,
}

/// One row of a [`Record::Parity`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParityRow {
    /// Row: the block's offset in the chunks.
    pub row: u32,
    /// The data blocks that go in place with this parity.
    pub covered: Vec<Covered>,
    /// CRC32C of the row's m parity blocks, which follow as data.
    pub parity_crcs: Vec<u32>,
}

/// What the journal says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// New content of `count` blocks of a stripe from block `first` on (block b of a stripe lies
    /// in data column b / chunk blocks, row b % chunk blocks). `crcs` is None for zeros.
    Write {
        /// Stripe.
        stripe: Stripe,
        /// First block of the stripe.
        first: u32,
        /// Number of blocks.
        count: u32,
        /// CRC32C of every block, or None where the blocks are zero and have no data.
        crcs: Option<Vec<u32>>,
    },
    /// The stripe lies in this slot from now on; Writes up to the horizon are superseded.
    Place {
        /// Stripe.
        stripe: Stripe,
        /// Its new slot.
        slot: Slot,
        /// Newest Write that the slot's content holds.
        horizon: Lsn,
        /// CRC32C of every block of the slot: column after column, data first.
        crcs: Vec<u32>,
    },
    /// Covered data and this parity go in place together.
    Parity {
        /// Stripe.
        stripe: Stripe,
        /// Where it lies.
        slot: Slot,
        /// LSN of the map entry when this was made: the stripe's last Place or Parity.
        base: Lsn,
        /// The rows.
        rows: Vec<ParityRow>,
    },
    /// The stripes have no slot any more and read as zeros, but for Writes after the horizon.
    Unmap {
        /// First stripe.
        first: Stripe,
        /// Number of stripes.
        count: u64,
        /// Newest Write that is superseded.
        horizon: Lsn,
    },
    /// Blocks that cannot be given any more: EIO until overwritten, zero in the parity.
    Lost {
        /// Stripe.
        stripe: Stripe,
        /// First block.
        first: u32,
        /// Number of blocks.
        count: u32,
    },
    /// Opens an incarnation.
    Checkpoint {
        /// The incarnation's random identity.
        incarnation: u64,
    },
}

impl Record {
    /// Number of data blocks that belong to the record.
    #[must_use]
    pub fn data_blocks(&self) -> usize {
        match self {
            Record::Write { crcs: Some(c), .. } => c.len(),
            Record::Parity { rows, .. } => rows.iter().map(|r| r.parity_crcs.len()).sum(),
            _ => 0,
        }
    }

    /// Bytes of the record, a multiple of 8.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let body = match self {
            Record::Write { crcs, .. } => 16 + crcs.as_ref().map_or(0, |c| c.len() * 4),
            Record::Place { crcs, .. } => 32 + crcs.len() * 4,
            Record::Parity { rows, .. } => {
                let row = |r: &ParityRow| 16 + r.covered.len() * 16 + r.parity_crcs.len() * 4;
                24 + rows.iter().map(|r| row(r).next_multiple_of(8)).sum::<usize>()
            }
            Record::Unmap { .. } => 24,
            Record::Lost { .. } => 16,
            Record::Checkpoint { .. } => 8,
        };
        (RECORD_HEAD + body).next_multiple_of(8)
    }

    /// Appends the record's bytes.
    pub fn encode(&self, lsn: Lsn, out: &mut Vec<u8>) {
        let start = out.len();
        let (kind, flags) = match self {
            Record::Write { crcs, .. } => (KIND_WRITE, if crcs.is_none() { FLAG_ZERO } else { 0 }),
            Record::Place { .. } => (KIND_PLACE, 0),
            Record::Parity { .. } => (KIND_PARITY, 0),
            Record::Unmap { .. } => (KIND_UNMAP, 0),
            Record::Lost { .. } => (KIND_LOST, 0),
            Record::Checkpoint { .. } => (KIND_CHECKPOINT, 0),
        };
        let len = self.encoded_len();
        out.extend_from_slice(&[kind, flags, 0, 0]);
        put32(out, len as u32);
        put64(out, lsn.0);
        match self {
            Record::Write { stripe, first, count, crcs } => {
                put64(out, stripe.0);
                put32(out, *first);
                put32(out, *count);
                crcs.iter().flatten().for_each(|c| put32(out, *c));
            }
            Record::Place { stripe, slot, horizon, crcs } => {
                put64(out, stripe.0);
                put32(out, slot.0);
                put32(out, crcs.len() as u32);
                put64(out, horizon.0);
                put64(out, 0);
                crcs.iter().for_each(|c| put32(out, *c));
            }
            Record::Parity { stripe, slot, base, rows } => {
                put64(out, stripe.0);
                put32(out, slot.0);
                put32(out, rows.len() as u32);
                put64(out, base.0);
                for r in rows {
                    put32(out, r.row);
                    put32(out, r.covered.len() as u32);
                    put32(out, r.parity_crcs.len() as u32);
                    put32(out, 0);
                    for c in &r.covered {
                        put32(out, c.column);
                        put32(out, c.crc);
                        put64(out, c.lsn.0);
                    }
                    r.parity_crcs.iter().for_each(|c| put32(out, *c));
                    out.resize(start + (out.len() - start).next_multiple_of(8), 0);
                }
            }
            Record::Unmap { first, count, horizon } => {
                put64(out, first.0);
                put64(out, *count);
                put64(out, horizon.0);
            }
            Record::Lost { stripe, first, count } => {
                put64(out, stripe.0);
                put32(out, *first);
                put32(out, *count);
            }
            Record::Checkpoint { incarnation } => put64(out, *incarnation),
        }
        out.resize(start + len, 0);
    }

    /// Takes the next record off `bytes`. None if the bytes are not one: the CRC of their carrier
    /// held, so that is a format this version does not know, or damage.
    pub fn decode(bytes: &mut &[u8]) -> Option<(Lsn, Record)> {
        let mut head = Reader(bytes);
        let tag = head.take(4)?;
        let (kind, flags) = (tag[0], tag[1]);
        let len = head.u32()? as usize;
        let lsn = Lsn(head.u64()?);
        if len < RECORD_HEAD || !len.is_multiple_of(8) || len > bytes.len() {
            return None;
        }
        let mut r = Reader(&bytes[RECORD_HEAD..len]);
        let record = decode_body(kind, flags, &mut r)?;
        if record.encoded_len() != len {
            return None;
        }
        *bytes = &bytes[len..];
        Some((lsn, record))
    }
}

fn decode_body(kind: u8, flags: u8, r: &mut Reader) -> Option<Record> {
    let bounded = |n: u32| Some(n as usize).filter(|n| *n <= MAX_COUNT);
    Some(match kind {
        KIND_WRITE => {
            let (stripe, first, count) = (Stripe(r.u64()?), r.u32()?, r.u32()?);
            let n = bounded(count)?;
            let crcs = if flags & FLAG_ZERO != 0 { None } else { Some(r.u32s(n)?) };
            Record::Write { stripe, first, count, crcs }
        }
        KIND_PLACE => {
            let (stripe, slot, n) = (Stripe(r.u64()?), Slot(r.u32()?), bounded(r.u32()?)?);
            let horizon = Lsn(r.u64()?);
            r.u64()?;
            Record::Place { stripe, slot, horizon, crcs: r.u32s(n)? }
        }
        KIND_PARITY => {
            let (stripe, slot, n) = (Stripe(r.u64()?), Slot(r.u32()?), bounded(r.u32()?)?);
            let base = Lsn(r.u64()?);
            let mut rows = Vec::new();
            for _ in 0..n {
                let (row, covers, parities) = (r.u32()?, bounded(r.u32()?)?, bounded(r.u32()?)?);
                r.u32()?;
                let mut covered = Vec::new();
                for _ in 0..covers {
                    let (column, crc, lsn) = (r.u32()?, r.u32()?, Lsn(r.u64()?));
                    covered.push(Covered { column, crc, lsn });
                }
                let parity_crcs = r.u32s(parities)?;
                r.take(parities % 2 * 4)?;
                rows.push(ParityRow { row, covered, parity_crcs });
            }
            Record::Parity { stripe, slot, base, rows }
        }
        KIND_UNMAP => {
            let (first, count, horizon) = (Stripe(r.u64()?), r.u64()?, Lsn(r.u64()?));
            Record::Unmap { first, count, horizon }
        }
        KIND_LOST => Record::Lost { stripe: Stripe(r.u64()?), first: r.u32()?, count: r.u32()? },
        KIND_CHECKPOINT => Record::Checkpoint { incarnation: r.u64()? },
        _ => return None,
    })
}

fn put32(out: &mut Vec<u8>, v: u32) {
    out.extend_from_slice(&v.to_le_bytes());
}

fn put64(out: &mut Vec<u8>, v: u64) {
    out.extend_from_slice(&v.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Record> {
        let covered = vec![Covered { column: 2, crc: 5, lsn: Lsn(40) }];
        vec![
            Record::Write { stripe: Stripe(7), first: 3, count: 3, crcs: Some(vec![1, 2, 3]) },
            Record::Write { stripe: Stripe(7), first: 0, count: 9, crcs: None },
            Record::Place { stripe: Stripe(1), slot: Slot(2), horizon: Lsn(3), crcs: vec![9; 11] },
            Record::Parity {
                stripe: Stripe(1),
                slot: Slot(2),
                base: Lsn(4),
                rows: vec![
                    ParityRow { row: 1, covered: covered.clone(), parity_crcs: vec![1, 2, 3] },
                    ParityRow { row: 5, covered, parity_crcs: vec![4, 5] },
                ],
            },
            Record::Unmap { first: Stripe(1), count: 5, horizon: Lsn(2) },
            Record::Lost { stripe: Stripe(1), first: 2, count: 3 },
            Record::Checkpoint { incarnation: 77 },
        ]
    }

    #[test]
    fn records_come_back_as_they_went() {
        let mut bytes = Vec::new();
        for (i, r) in samples().iter().enumerate() {
            let before = bytes.len();
            r.encode(Lsn(i as u64), &mut bytes);
            assert_eq!(bytes.len() - before, r.encoded_len());
        }
        let mut rest = &bytes[..];
        for (i, r) in samples().iter().enumerate() {
            assert_eq!(Record::decode(&mut rest), Some((Lsn(i as u64), r.clone())));
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn any_cut_or_flip_is_an_error_or_another_record_never_a_panic() {
        for r in samples() {
            let mut bytes = Vec::new();
            r.encode(Lsn(1), &mut bytes);
            for cut in 0..bytes.len() {
                assert_eq!(Record::decode(&mut &bytes[..cut]), None);
            }
            for at in 0..bytes.len() {
                for flip in [1u8, 0x80, 0xff] {
                    let mut b = bytes.clone();
                    b[at] ^= flip;
                    let _ = Record::decode(&mut &b[..]);
                }
            }
        }
    }
}
