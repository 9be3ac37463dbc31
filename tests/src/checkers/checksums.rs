//! Looks at the checksum area of members at rest, read byte by byte by the tables of the format: every
//! copy on an active member bears the newest generation of its page, and the checksum of every block
//! of every mapped stripe, data and parity, is that of the block.

use std::collections::BTreeMap;

use super::parity::{crc, u16_at, u32_at, u64_at};
use super::stretches;
use crate::sim::{Image, PAGE};

const CHECKSUM_PAGE: usize = 3;

/// The newest page of each number.
pub(super) struct Table {
    pages: BTreeMap<u64, Vec<u8>>,
    n: u64,
    chunk_blocks: u64,
}

fn newest(image: &Image, head: &[u8], at: u64, number: u64) -> Option<(u64, Vec<u8>)> {
    let places = [at, at + PAGE as u64].into_iter().zip(0..);
    let whole = places.filter_map(|(at, place)| {
        let b = image.page(at as usize / PAGE)?;
        let whole = &b[..4] == b"EKMP"
            && b[8..24] == *stretches::pages_id(head)
            && u16_at(&b[..], 6) == CHECKSUM_PAGE
            && u64_at(&b[..], 24) == number
            && u32_at(&b[..], 32) == place
            && u32_at(&b[..], 36) == crc(&b[..], 36);
        whole.then(|| (u64_at(&b[..], 40), b.to_vec()))
    });
    whole.max_by_key(|w| w.0)
}

impl Table {
    /// Reads all pages; None where the array has no checksums.
    pub fn read(head: &[u8], members: &BTreeMap<usize, Image>) -> Result<Option<Table>, String> {
        if u64_at(head, 216) == 0 {
            return Ok(None);
        }
        let (n, k) = (u16_at(head, 156) as u64, u16_at(head, 152) as u64);
        let copies = n - k + 1;
        let mut pages = BTreeMap::new();
        let stretches = stretches::read(head);
        // Every group of n pages has its copies, in both places, on all members.
        let all = stretches.iter().flat_map(|s| s.sums.clone().map(move |number| (s, number)));
        for (stretch, number) in all {
            let (at, here) = (stretch.sums_at, number - stretch.sums.start);
            let mut found = Vec::new();
            for copy in 0..copies {
                let member = ((here % n + copy) % n) as usize;
                let nth = here / n * copies + copy;
                let Some(image) = members.get(&member) else { continue };
                found.push((member, newest(image, head, at + nth * 2 * PAGE as u64, number)));
            }
            let best = found.iter().filter_map(|(_, f)| f.as_ref().map(|f| f.0)).max();
            let Some(best) = best else { continue };
            for (member, f) in found {
                match f {
                    Some((generation, b)) if generation == best => drop(pages.insert(number, b)),
                    other => {
                        return Err(format!(
                            "page {number} of the checksums: generation {best} is not on member \
                             {member}, which has {:?}",
                            other.map(|o| o.0)
                        ));
                    }
                }
            }
        }
        let chunk_blocks = u64::from(u32_at(head, 160));
        Ok(Some(Table { pages, n, chunk_blocks }))
    }

    /// Checks a column of a stripe.
    pub fn check(&self, stripe: u64, column: usize, wanted: &[u8]) -> Result<(), String> {
        let of_page = 1008 / self.n;
        for (row, block) in wanted.chunks(PAGE).enumerate() {
            let nth = stripe * self.chunk_blocks + row as u64;
            let page = 1 + nth / of_page;
            let at = 64 + (nth % of_page * self.n + column as u64) * 4;
            let sum = self.pages.get(&page).map(|b| u32_at(b, at as usize));
            if sum != Some(crc32c::crc32c(block)) {
                return Err(format!(
                    "stripe {stripe}, column {column}, row {row}: page {page} has the checksum \
                     {sum:08x?}, which is not that of the block"
                ));
            }
        }
        Ok(())
    }
}
