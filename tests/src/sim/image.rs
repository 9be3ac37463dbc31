//! What a disk or a ring holds: pages of 4 KiB, kept only where something was written, shared
//! between copies. A copy costs a few dozen reference counts, so that thousands of crash states
//! can be made of one run.

use std::rc::Rc;

/// Bytes of a page: the array's block, and the unit of every write to a disk.
pub const PAGE: usize = 4096;
/// Bytes of a sector: what a disk writes whole or not at all.
pub const SECTOR: usize = 512;
const LEAF: usize = 32;

/// A page. `None` in the places that hold one means zeros.
pub type Page = Rc<[u8; PAGE]>;

type Leaf = Rc<[Option<Page>; LEAF]>;

/// The content of a disk or a ring.
#[derive(Clone)]
pub struct Image {
    leaves: Vec<Leaf>,
    pages: usize,
}

impl Image {
    /// `bytes` zeros (rounded up to whole pages).
    #[must_use]
    pub fn zeros(bytes: u64) -> Image {
        let pages = usize::try_from(bytes).expect("an image fits the memory").div_ceil(PAGE);
        let empty: Leaf = Rc::new([const { None }; LEAF]);
        Image { leaves: vec![empty; pages.div_ceil(LEAF)], pages }
    }

    /// Gives it so many bytes, if it has fewer; what is new is zeros.
    pub fn enlarge(&mut self, bytes: u64) {
        let more = Image::zeros(bytes);
        if more.pages > self.pages {
            self.leaves.extend(more.leaves.into_iter().skip(self.leaves.len()));
            self.pages = more.pages;
        }
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Page `i`.
    #[must_use]
    pub fn page(&self, i: usize) -> Option<&Page> {
        self.leaves[i / LEAF][i % LEAF].as_ref()
    }

    /// Replaces page `i`.
    pub fn set(&mut self, i: usize, page: Option<Page>) {
        assert!(i < self.pages, "page {i} of {}", self.pages);
        Rc::make_mut(&mut self.leaves[i / LEAF])[i % LEAF] = page;
    }

    /// Page `i`, to be changed; it becomes this image's own.
    pub fn page_mut(&mut self, i: usize) -> &mut [u8; PAGE] {
        assert!(i < self.pages, "page {i} of {}", self.pages);
        let slot = &mut Rc::make_mut(&mut self.leaves[i / LEAF])[i % LEAF];
        Rc::make_mut(slot.get_or_insert_with(|| Rc::new([0; PAGE])))
    }

    /// Copies bytes out.
    pub fn read(&self, at: u64, out: &mut [u8]) {
        let mut at = at as usize;
        let mut out = out;
        while !out.is_empty() {
            let (page, from) = (at / PAGE, at % PAGE);
            let n = out.len().min(PAGE - from);
            let (head, rest) = out.split_at_mut(n);
            match self.page(page) {
                Some(p) => head.copy_from_slice(&p[from..from + n]),
                None => head.fill(0),
            }
            (at, out) = (at + n, rest);
        }
    }

    /// Copies bytes in.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        let mut at = at as usize;
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let (page, from) = (at / PAGE, at % PAGE);
            let n = bytes.len().min(PAGE - from);
            self.page_mut(page)[from..from + n].copy_from_slice(&bytes[..n]);
            (at, bytes) = (at + n, &bytes[n..]);
        }
    }

    /// A number that two images share only if they hold the same.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut h = 0u64;
        for i in 0..self.pages {
            if let Some(p) = self.page(i).filter(|p| p.iter().any(|b| *b != 0)) {
                let words = p
                    .chunks_exact(8)
                    .map(|w| u64::from_le_bytes(w.try_into().expect("eight bytes")));
                h ^= words.fold(crate::rng::mix(i as u64 + 1), |h, w| crate::rng::mix(h ^ w));
            }
        }
        h
    }
}

/// Bytes cut into pages; the length is a multiple of [`PAGE`].
#[must_use]
pub fn pages_of(bytes: &[u8]) -> Vec<Option<Page>> {
    bytes
        .chunks_exact(PAGE)
        .map(|c| {
            let page: &[u8; PAGE] = c.try_into().expect("a whole page");
            if page.iter().all(|b| *b == 0) { None } else { Some(Rc::new(*page)) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_until_they_change() {
        let mut a = Image::zeros(1 << 20);
        a.write(4000, &[7; 200]);
        let b = a.clone();
        a.write(4090, &[9; 10]);
        let mut out = [0; 200];
        b.read(4000, &mut out);
        assert!(out.iter().all(|x| *x == 7));
        a.read(4000, &mut out);
        assert_eq!((out[89], out[90], out[99], out[100]), (7, 9, 9, 7));
        assert_ne!(a.digest(), b.digest());
        assert_eq!(Image::zeros(4096).digest(), Image::zeros(4096).digest());
    }
}
