//! Lies: what a disk does wrong without saying so. Each is decided when the operation is issued (a
//! write) or answered (a read); the disk's answer is always that all went well.

use super::change::Change;
use super::image::{Image, PAGE};

/// A lie that a disk tells once, about one page, named by its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// The next write of the page is not done.
    LostWrite(u64),
    /// The next write of the first page is done to the second one instead.
    MisdirectedWrite(u64, u64),
    /// The next read of the first page gives the second one.
    MisdirectedRead(u64, u64),
}

/// The lies that a disk is going to tell.
#[derive(Default)]
pub(super) struct Lies {
    once: Vec<Lie>,
    pub(super) loses_writes: bool,
}

fn page_of(at: u64) -> usize {
    assert!(at.is_multiple_of(PAGE as u64), "a lie is about a page");
    at as usize / PAGE
}

impl Lies {
    pub(super) fn add(&mut self, lie: Lie) {
        self.once.push(lie);
    }

    /// Lies that were not told yet.
    pub(super) fn left(&self) -> usize {
        self.once.len()
    }

    /// What really becomes of a write or discard; None if it is done as it should be.
    pub(super) fn of_write(&mut self, sent: &Change, view: &Image) -> Option<Vec<Change>> {
        if self.loses_writes {
            return Some(Vec::new());
        }
        let pages = sent.first..sent.first + sent.pages.len();
        let (mut done, mut elsewhere) = (sent.clone(), Vec::new());
        let before = self.once.len();
        self.once.retain(|lie| {
            let (page, to) = match *lie {
                Lie::LostWrite(at) => (page_of(at), None),
                Lie::MisdirectedWrite(at, to) => (page_of(at), Some(page_of(to))),
                Lie::MisdirectedRead(..) => return true,
            };
            if !pages.contains(&page) {
                return true;
            }
            let nth = page - sent.first;
            done.pages[nth] = view.page(page).cloned();
            if let Some(first) = to {
                elsewhere.push(Change { first, pages: vec![sent.pages[nth].clone()] });
            }
            false
        });
        (self.once.len() < before).then(|| std::iter::once(done).chain(elsewhere).collect())
    }

    /// Puts into the answer of a read what the disk gives instead.
    pub(super) fn of_read(&mut self, at: u64, buf: &mut [u8], view: &Image) {
        let first = at as usize / PAGE;
        self.once.retain(|lie| {
            let Lie::MisdirectedRead(page, from) = *lie else { return true };
            let Some(nth) = page_of(page).checked_sub(first) else { return true };
            let Some(out) = buf.get_mut(nth * PAGE..(nth + 1) * PAGE) else { return true };
            view.read(from, out);
            false
        });
    }
}
