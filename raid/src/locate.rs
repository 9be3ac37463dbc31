//! Where a byte of the device lies on the members: arithmetic over the shape, the map's entry and
//! the member table. Nothing is read here; `array/locate.rs` asks a running array or stopped disks.

use evenkeel_journal::{BLOCK, MemberIndex, Slot, Stripe};
use serde::{Deserialize, Serialize};

use crate::error::{ArrayError, ErrorKind};
use crate::status::MemberState;
use crate::superblock::Superblock;

/// One block of a row: on which member, at which byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowBlock {
    /// Column of the code: data columns first, then parity.
    pub column: u32,
    /// Index of the member in the table.
    pub member: u8,
    /// Its path; empty where it is not there, or not current.
    pub path: String,
    /// Its state.
    pub state: MemberState,
    /// Byte of the member: as far into this block as the byte asked for is into its own.
    pub byte: u64,
}

/// Where a byte of the device lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// Name of the array.
    pub name: String,
    /// UUID of the array.
    pub uuid: String,
    /// The byte of the device that was asked for.
    pub byte: u64,
    /// Its stripe.
    pub stripe: u64,
    /// Its block of the stripe.
    pub block: u32,
    /// Its row: the offset of the block in the chunks, in blocks.
    pub row: u32,
    /// Whether the stripe has a slot. One that has none reads as zeros, but for dirty blocks.
    pub mapped: bool,
    /// The slot.
    pub slot: Option<u32>,
    /// The newest content of the block is in the log or the cache, not (or not certainly) at the
    /// place that is named here.
    pub dirty: bool,
    /// The row is being changed in place: its new content is safe in the log, and what lies on
    /// the members may be in part the old and in part the new row.
    pub row_unfinished: bool,
    /// The data block; none if the stripe has no slot.
    pub data: Option<RowBlock>,
    /// The parity blocks of its row, in the order of the code.
    pub parity: Vec<RowBlock>,
}

/// What is known of the array's state beside its shape.
pub(crate) struct Known<'a> {
    /// The epoch in force.
    pub superblock: &'a Superblock,
    /// State and path of a member.
    pub member: &'a dyn Fn(MemberIndex) -> (MemberState, String),
    /// The map.
    pub slot: &'a dyn Fn(Stripe) -> Option<Slot>,
    /// Whether a block of a stripe is dirty.
    pub dirty: &'a dyn Fn(Stripe, u32) -> bool,
    /// Whether what belongs at this byte (the first of a block) of a member may not be there yet.
    pub unfinished: &'a dyn Fn(MemberIndex, u64) -> bool,
}

impl Known<'_> {
    /// Locates a byte.
    ///
    /// # Errors
    /// `Usage` if the device has no such byte.
    pub fn locate(&self, byte: u64) -> Result<Located, ArrayError> {
        let s = self.superblock;
        let g = &s.geometry;
        let block = BLOCK as u64;
        let size = g.device_blocks() * block;
        if byte >= size {
            return Err(ArrayError::new(
                ErrorKind::Usage,
                format!(
                    "The array \"{}\" has {size} bytes, 0 to {}; there is no byte {byte}.",
                    s.name,
                    size - 1
                ),
            ));
        }
        let (stripe, of_stripe) = g.stripe_of(byte / block);
        let (column, row) = g.column_row(of_stripe);
        let slot = (self.slot)(stripe);
        let place = |slot: Slot, column: usize| {
            let member = g.member_of(slot, column);
            let (state, path) = (self.member)(member);
            let at = g.byte_of(slot, row);
            let here = RowBlock {
                column: column as u32,
                member: member.0,
                path,
                state,
                byte: at + byte % block,
            };
            (here, (self.unfinished)(member, at))
        };
        let data = slot.map(|slot| place(slot, column));
        let parity: Vec<(RowBlock, bool)> =
            slot.iter().flat_map(|s| (g.data..g.members()).map(|c| place(*s, c))).collect();
        let data_unfinished = data.as_ref().is_some_and(|d| d.1);
        Ok(Located {
            name: s.name.clone(),
            uuid: uuid::Uuid::from_u128(s.array).to_string(),
            byte,
            stripe: stripe.0,
            block: of_stripe,
            row,
            mapped: slot.is_some(),
            slot: slot.map(|s| s.0),
            dirty: (self.dirty)(stripe, of_stripe) || data_unfinished,
            row_unfinished: data_unfinished || parity.iter().any(|p| p.1),
            data: data.map(|d| d.0),
            parity: parity.into_iter().map(|p| p.0).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Level;
    use crate::geometry::Geometry;
    use crate::superblock::tests::sample;

    fn known(s: &Superblock, byte: u64) -> Result<Located, ArrayError> {
        let slots = s.geometry.slots;
        Known {
            superblock: s,
            member: &|m| (MemberState::Active, format!("/disk{}", m.0)),
            slot: &|stripe| (stripe.0 % 3 != 2).then(|| Slot(((stripe.0 * 7 + 5) % slots) as u32)),
            dirty: &|stripe, block| stripe.0 == 1 && block == 2,
            unfinished: &|m, at| m.0 == 0 && at.is_multiple_of(8192),
        }
        .locate(byte)
    }

    #[test]
    fn every_byte_has_one_place_and_rows_lie_on_distinct_members() {
        for (level, k, m) in
            [(Level::Raid5, 2, 1), (Level::Raid6, 4, 2), (Level::Rs, 3, 3), (Level::Raid1, 1, 2)]
        {
            for chunk in [4096, 65536] {
                let geometry =
                    Geometry::plan(level, k, m, chunk, 32 << 20, None, None, true).expect("fits");
                let mut s = sample();
                (s.geometry, s.members) = (geometry, vec![s.members[0]; k + m]);
                let g = &s.geometry;
                let blocks = g.stripe_blocks();
                let mut seen = std::collections::HashSet::new();
                for nth in 0..(blocks * 5).min(g.device_blocks()) {
                    let byte = nth * 4096 + 17 * (nth % 5);
                    let l = known(&s, byte).expect("inside");
                    assert_eq!((l.stripe, u64::from(l.block)), (nth / blocks, nth % blocks));
                    assert_eq!(l.mapped, l.stripe % 3 != 2);
                    assert_eq!((l.slot.is_some(), l.data.is_some()), (l.mapped, l.mapped));
                    assert_eq!(l.parity.len(), if l.mapped { m } else { 0 });
                    let Some(data) = &l.data else { continue };
                    assert!(seen.insert((data.member, data.byte / 4096)), "a place is used once");
                    assert_eq!(u64::from(data.column), u64::from(l.block) / (chunk / 4096));
                    let row: std::collections::HashSet<u8> =
                        l.parity.iter().chain(&l.data).map(|b| b.member).collect();
                    assert_eq!(row.len(), m + 1, "a row's blocks are on distinct members");
                    for b in l.parity.iter().chain(&l.data) {
                        assert_eq!(b.byte % 4096, byte % 4096);
                        assert_eq!(b.byte / 4096, data.byte / 4096, "all at the same row");
                        assert!((g.slots_offset..g.superblock_c()).contains(&b.byte));
                    }
                    let torn = |b: &RowBlock| b.member == 0 && (b.byte / 4096).is_multiple_of(2);
                    assert_eq!(l.row_unfinished, l.parity.iter().chain(&l.data).any(torn));
                    assert_eq!(l.dirty, torn(data) || (l.stripe == 1 && l.block == 2));
                }
                let size = g.device_blocks() * 4096;
                assert!(known(&s, size - 1).is_ok());
                assert_eq!(known(&s, size).expect_err("outside").kind, ErrorKind::Usage);
                assert_eq!(known(&s, u64::MAX).expect_err("outside").kind, ErrorKind::Usage);
            }
        }
    }
}
