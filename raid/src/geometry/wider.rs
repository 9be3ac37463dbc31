//! Growth by more data columns: the shape with them, and the shape of before while stripes of it are still
//! in use.
//!
//! What must hold: slots stay where they are, on every member at the same byte, so that a slot holds a
//! stripe of either shape; the pages of the wider shape lie behind the slots, over nothing that the
//! shape of before uses; and what the wider shape has more is never more than its slots can take while
//! both are in use ([`Geometry::ahead_at_most`]).

use evenkeel_journal::BLOCK;

use super::{Geometry, LOG_OFFSET, MAX_GROWTHS};
use crate::codec::{Code, Level};
use crate::error::{ArrayError, ErrorKind};
use crate::geometry::Growth;

/// Slots that are kept for destage and for whoever moves stripes, beyond the stripes of the shape of
/// before, while both are in use.
const KEPT: u64 = 24;
/// Stripes that may be moved out of turn, at the least.
const LEAST_AHEAD: u64 = 4;

/// What differs in the shape of before, while stripes of it are still in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before {
    /// k.
    pub data: usize,
    /// Stripes of the device.
    pub stripes: u64,
    /// Where its page area begins.
    pub pages_offset: u64,
    /// Where its checksum area begins; 0: the array has no checksums.
    pub checksums_offset: u64,
    /// Identity that its pages bear; 0: that of the array.
    pub pages_id: u128,
}

impl Geometry {
    /// The identity that pages bear: they are those of this shape.
    #[must_use]
    pub fn pages_are_of(&self, array: u128) -> u128 {
        if self.pages_id == 0 { array } else { self.pages_id }
    }

    /// Whether the areas of pages lie behind the slots.
    #[must_use]
    pub fn areas_are_behind(&self) -> bool {
        self.pages_id != 0
    }

    /// The shape of before, by which the stripes are found that have not been moved yet.
    #[must_use]
    pub fn shape_before(&self) -> Option<Geometry> {
        let b = self.before?;
        Some(Geometry {
            data: b.data,
            stripes: b.stripes,
            pages_offset: b.pages_offset,
            checksums_offset: b.checksums_offset,
            pages_id: b.pages_id,
            before: None,
            ..*self
        })
    }

    /// The same shape when nothing of the shape of before is in use any more.
    #[must_use]
    pub fn alone(self) -> Geometry {
        Geometry { before: None, ..self }
    }

    /// Stripes of this shape that may be moved out of turn, while those of before are moved in order.
    ///
    /// Moving in order never has more slots in use than the shape of before had stripes, and one:
    /// when the stripes before f are there, at most f of this shape and those from ⌊f × k' / k⌋ on of the
    /// shape of before are. Whatever is moved out of turn may come on top of that.
    #[must_use]
    pub fn ahead_at_most(&self) -> u64 {
        let before = self.before.map_or(0, |b| b.stripes);
        self.slots.saturating_sub(before + 1 + KEPT)
    }

    /// The shape with `more` data columns, whose pages bear `pages_id`.
    ///
    /// # Errors
    /// `Usage` if the code has no such shape; `Unsupported` after a growth by larger members, or while
    /// another growth goes on; `TooSmall` if the pages of the wider shape, or what its slots have to
    /// take meanwhile, do not fit.
    pub fn widened(&self, more: usize, pages_id: u128) -> Result<Geometry, ArrayError> {
        let refuse =
            |kind, text: String| Err(ArrayError::new(kind, format!("{text} Nothing was written.")));
        assert!(pages_id != 0 && more > 0, "a shape is widened by something, and has a name");
        if self.before.is_some() {
            let text = "Stripes are still being moved to the disks that were added last. Wait for that \
                        first (evenkeel wait NAME grow).";
            return refuse(ErrorKind::Failed, text.into());
        }
        if self.growths != [Growth::default(); MAX_GROWTHS] {
            let text = "The array has grown by larger members (grow --size). Adding columns after that is \
                        not supported.";
            return refuse(ErrorKind::Unsupported, text.into());
        }
        let data = self.data + more;
        if self.level == Level::Raid1 {
            let text = "A raid1 has one data column: there is none to add. To make it larger replace its \
                        members by larger ones, and grow it by --size.";
            return refuse(ErrorKind::Usage, text.into());
        }
        if let Err(e) = Code::new(self.level, data, self.parity) {
            return refuse(ErrorKind::Usage, format!("This shape is not possible: {e}."));
        }
        let before = Before {
            data: self.data,
            stripes: self.stripes,
            pages_offset: self.pages_offset,
            checksums_offset: self.checksums_offset,
            pages_id: self.pages_id,
        };
        let end = if self.areas_are_behind() { self.pages_offset } else { self.superblock_c() };
        let block = BLOCK as u64;
        let mut g = Geometry { data, pages_id, before: Some(before), ..*self };
        let fits = |g: &mut Geometry, stripes: u64| {
            g.stripes = stripes;
            let first = g.stretch(0);
            let areas = first.pages_bytes + first.sums_bytes;
            if self.slots_offset + areas + g.chunk_bytes() > end {
                return false;
            }
            g.pages_offset = (end - areas) / block * block;
            if g.has_checksums() {
                g.checksums_offset = g.pages_offset + first.pages_bytes;
            }
            g.slots = self.slots.min((g.pages_offset - self.slots_offset) / g.chunk_bytes());
            stripes + g.slot_reserve() <= g.slots && g.ahead_at_most() >= LEAST_AHEAD
        };
        let (mut low, mut high) = (0, self.slots + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(&mut g, middle) { low = middle } else { high = middle }
        }
        if low == 0 || !fits(&mut g, low) || g.device_blocks() <= self.device_blocks() {
            let text = format!(
                "The array cannot take {more} more: the map and checksums of the wider shape, and the \
                 slots that moving its stripes takes, do not fit beside the {} stripes that it has.",
                self.stripes
            );
            return refuse(ErrorKind::TooSmall, text);
        }
        if !g.log_and_cache_are_large_enough() {
            let text = "The log or the cache of this array is too small for the requests that a wider \
                        device takes.";
            return refuse(ErrorKind::TooSmall, text.into());
        }
        assert!(g.before_is_sane() && g.areas_are_apart(), "what fits lies apart");
        Ok(g)
    }

    /// Whether what is said of the shape of before can be. The other sizes were looked at before.
    pub(crate) fn before_is_sane(&self) -> bool {
        let Some(b) = self.before else { return true };
        (1..self.data).contains(&b.data)
            && (1..1 << 40).contains(&b.stripes)
            && self.areas_are_behind()
            && b.pages_id != self.pages_id
            && (b.checksums_offset != 0) == (self.checksums_offset != 0)
            && b.pages_offset < super::DISK_BYTES_END
            && b.checksums_offset < super::DISK_BYTES_END
            && b.stripes * b.data as u64 <= self.stripes * self.data as u64
            && b.stripes < self.slots
    }

    /// Log, pages, checksums and slots: where each begins and ends on a member. What grew behind them
    /// is not among them.
    pub(super) fn areas(&self) -> Vec<(u64, u64)> {
        let first = self.stretch(0);
        let log = (LOG_OFFSET, LOG_OFFSET + self.log_rows * BLOCK as u64);
        let slots = first.slots.end - first.slots.start;
        let slots = (self.slots_offset, self.slots_offset + slots * self.chunk_bytes());
        let mut all = vec![log, slots];
        let shapes = [Some(*self), self.shape_before()];
        for g in shapes.iter().flatten() {
            let s = g.stretch(0);
            all.push((g.pages_offset, g.pages_offset + s.pages_bytes));
            if g.has_checksums() {
                all.push((g.checksums_offset, g.checksums_offset + s.sums_bytes));
            }
        }
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_journal::Slot;

    use super::*;
    use crate::codec::Level;

    fn plan(level: Level, k: usize, m: usize, chunk: u64, size: u64, sums: bool) -> Geometry {
        Geometry::plan(level, k, m, chunk, size, None, None, sums).expect("it fits")
    }

    #[test]
    fn wider_shapes_lie_apart_from_what_they_come_from_and_are_larger() {
        for (level, k, m) in [(Level::Raid5, 2, 1), (Level::Raid6, 4, 2), (Level::Rs, 3, 3)] {
            for (chunk, size) in [(4096, 16 << 20), (65536, 256 << 20), (65536, 40 << 30)] {
                for sums in [true, false] {
                    let g = plan(level, k, m, chunk, size, sums);
                    for more in [1, 2, 3, 7] {
                        let w = g.widened(more, 7).expect("it can be wider");
                        assert!(w.areas_are_apart() && w.before_is_sane());
                        assert_eq!(
                            (w.data, w.pages_are_of(9), g.pages_are_of(9)),
                            (k + more, 7, 9)
                        );
                        assert!(w.device_blocks() > g.device_blocks(), "{k}+{m} by {more}");
                        // About as much more as there are columns more.
                        let ideal = g.device_blocks() * (k + more) as u64 / k as u64;
                        assert!(w.device_blocks() * 20 >= ideal * 19, "{k}+{m} by {more} {size}");
                        let old = Geometry { slots: w.slots, ..g };
                        assert_eq!(w.shape_before(), Some(old));
                        let last = Slot(w.slots as u32 - 1);
                        assert_eq!(w.byte_of(last, 0), g.byte_of(last, 0), "slots stay");
                        assert!(w.ahead_at_most() >= LEAST_AHEAD);
                        // And wider again, when it is through.
                        let again = w.alone().widened(1, 8).expect("once more");
                        assert!(again.areas_are_apart());
                        assert_eq!(w.widened(1, 8).map_err(|e| e.kind), Err(ErrorKind::Failed));
                        let larger = w.alone().grown_to(size * 2).expect("by size");
                        assert!(larger.areas_are_apart() && larger.stripes > w.stripes);
                        let refused = larger.widened(1, 8).map_err(|e| e.kind);
                        assert_eq!(refused, Err(ErrorKind::Unsupported));
                    }
                }
            }
        }
    }

    #[test]
    fn codes_without_such_a_shape_are_refused() {
        let g = plan(Level::Raid1, 1, 1, 65536, 64 << 20, true);
        assert_eq!(g.widened(1, 7).map_err(|e| e.kind), Err(ErrorKind::Usage));
        let g = plan(Level::Rs, 250, 4, 4096, 64 << 20, true);
        assert_eq!(g.widened(2, 7).map_err(|e| e.kind), Err(ErrorKind::Usage));
    }

    /// In every order in which stripes can be moved the slots are enough: in order, with as many out of
    /// turn as may be, whatever of the shape of before is mapped.
    #[test]
    fn moving_never_needs_more_slots_than_there_are() {
        let g = plan(Level::Raid5, 3, 1, 4096, 8 << 20, true);
        for more in [1, 2, 4] {
            let w = g.widened(more, 7).expect("wider");
            let (k, wide) = (g.data as u64, w.data as u64);
            let mut rng = 1u64;
            let mut draw = |n: u64| {
                rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (rng >> 33) % n
            };
            for density in [1, 2, 3, 8] {
                let mapped: Vec<bool> = (0..g.stripes).map(|_| draw(8) < density).collect();
                let covers = |s: u64| s * wide / k..((s + 1) * wide).div_ceil(k).min(g.stripes);
                let end = (g.stripes * k).div_ceil(wide);
                let (mut moved, mut ahead) = (vec![false; end as usize], 0);
                let used = |moved: &[bool]| {
                    let left = (0..g.stripes).filter(|o| mapped[*o as usize]).filter(|o| {
                        let all = o * k / wide..((o + 1) * k).div_ceil(wide);
                        all.into_iter().any(|s| !moved[s as usize])
                    });
                    left.count() + moved.iter().filter(|m| **m).count()
                };
                for frontier in 0..end {
                    while ahead < w.ahead_at_most() && frontier + 1 < end {
                        let s = frontier + draw(end - frontier);
                        if moved[s as usize] || draw(20) == 0 {
                            break;
                        }
                        let backed = covers(s).any(|o| mapped[o as usize]);
                        moved[s as usize] = true;
                        ahead += u64::from(backed);
                    }
                    if moved[frontier as usize] {
                        ahead -= u64::from(covers(frontier).any(|o| mapped[o as usize]));
                    }
                    moved[frontier as usize] |= covers(frontier).any(|o| mapped[o as usize]);
                    assert!(used(&moved) as u64 + KEPT <= w.slots, "{more} at {frontier}");
                }
            }
        }
    }
}
