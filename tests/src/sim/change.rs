//! What a write or a discard makes of some pages, whole, torn, or not at all.

use std::rc::Rc;

use super::image::{Image, PAGE, Page, SECTOR};
use crate::rng::Rng;

/// A write or discard: what some pages become.
#[derive(Clone)]
pub struct Change {
    pub(super) first: usize,
    pub(super) pages: Vec<Option<Page>>,
}

impl Change {
    /// Bytes of the disk are others now; those of them that are in here, too.
    pub(super) fn corrupt(&mut self, at: u64, bytes: &[u8]) {
        let from = (self.first * PAGE) as u64;
        for (at, byte) in (at..).zip(bytes) {
            if let Some(nth) = at.checked_sub(from).map(|n| n as usize)
                && let Some(page) = self.pages.get_mut(nth / PAGE)
            {
                Rc::make_mut(page.get_or_insert_with(|| Rc::new([0; PAGE])))[nth % PAGE] = *byte;
            }
        }
    }

    pub(super) fn apply(&self, image: &mut Image) {
        for (i, page) in self.pages.iter().enumerate() {
            image.set(self.first + i, page.clone());
        }
    }

    /// Each sector by itself: kept or lost.
    pub(super) fn apply_torn(&self, image: &mut Image, rng: &mut Rng) {
        for (i, page) in self.pages.iter().enumerate() {
            let kept = rng.below(256);
            match kept {
                0 => {}
                255 => image.set(self.first + i, page.clone()),
                _ => {
                    let target = image.page_mut(self.first + i);
                    for s in (0..PAGE / SECTOR).filter(|s| kept >> s & 1 == 1) {
                        let range = s * SECTOR..(s + 1) * SECTOR;
                        match page {
                            Some(p) => target[range.clone()].copy_from_slice(&p[range]),
                            None => target[range].fill(0),
                        }
                    }
                }
            }
        }
    }

    /// Absent, whole or torn.
    pub(super) fn apply_by_chance(&self, image: &mut Image, rng: &mut Rng) {
        match rng.below(3) {
            0 => {}
            1 => self.apply(image),
            _ => self.apply_torn(image, rng),
        }
    }

    /// The change of the pages that makes `before` into `after`, for a torn write that stays in
    /// the volatile cache.
    pub(super) fn difference(&self, after: &Image) -> Change {
        let pages = (0..self.pages.len()).map(|i| after.page(self.first + i).cloned()).collect();
        Change { first: self.first, pages }
    }
}
