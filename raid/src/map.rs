//! The map: which slot a stripe lies in, in memory and in its home pages (format.md §8).
//!
//! What must hold (I2): a page is written from durable commits alone; one of its two places is
//! overwritten only after the other is flushed on all members that hold a copy; the tail passes a
//! Place, Unmap or Parity only after the page that carries its LSN is flushed.

use std::collections::BTreeMap;

use evenkeel_journal::bytes::{get_u32, get_u64, put_u32, put_u64};
use evenkeel_journal::log::Halted;
use evenkeel_journal::sync::join_all;
use evenkeel_journal::{BLOCK, Buf, Lsn, MemberIndex, Slice, Slot, Stripe, World};

use crate::geometry::{Geometry, PAGE_ENTRIES, PageRole, ROOT_BITS};
use crate::members::Members;
use crate::page::{self, Head, PAGE_HEAD, PAGE_MAP, PAGE_ROOT};

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 16;

/// Where a stripe lies, and which record said so or changed it last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// The slot, if it has one.
    pub slot: Option<Slot>,
    /// LSN of its last Place, Unmap or Parity.
    pub lsn: Lsn,
}

/// An entry whose home is not written yet.
#[derive(Clone, Debug, Default)]
struct Unsaved {
    /// (record, what it holds): released when the home carries the record.
    holds: Vec<(Lsn, Lsn)>,
}

#[derive(Clone, Copy, Default)]
struct Page {
    generation: u64,
    /// The place that holds this generation.
    place: u8,
}

/// The map of a running array.
pub struct Map {
    geometry: Geometry,
    /// What its pages bear.
    id: u128,
    entries: Vec<Entry>,
    mapped: u64,
    unsaved: BTreeMap<u64, Unsaved>,
    pages: Vec<Page>,
    roots: Vec<u64>,
    newest: Lsn,
}

/// A page on its way to its home.
pub struct PageWrite {
    page: u64,
    generation: u64,
    place: u8,
    bytes: Slice,
    /// (stripe, LSN of its entry) as written.
    saved: Vec<(u64, Lsn)>,
}

impl Map {
    /// A map with no stripe in it and no page written.
    #[must_use]
    pub fn empty(geometry: Geometry, array: u128) -> Map {
        let pages = (geometry.map_pages() + geometry.root_pages()) as usize;
        Map {
            geometry,
            id: geometry.pages_are_of(array),
            entries: vec![Entry::default(); geometry.stripes as usize],
            mapped: 0,
            unsaved: BTreeMap::new(),
            pages: vec![Page::default(); pages],
            roots: vec![0; (geometry.root_pages() * ROOT_BITS / 64) as usize],
            newest: Lsn(0),
        }
    }

    /// The entry of a stripe.
    #[must_use]
    pub fn get(&self, stripe: Stripe) -> Entry {
        self.entries[stripe.0 as usize]
    }

    /// The newest record that had been given out when one of the pages was made that were loaded.
    #[must_use]
    pub fn newest(&self) -> Lsn {
        self.newest
    }

    /// The stripes that have a slot, with their entries.
    pub fn entries(&self) -> impl Iterator<Item = (Stripe, Entry)> + '_ {
        let all = self.entries.iter().enumerate().map(|(i, e)| (Stripe(i as u64), *e));
        all.filter(|(_, e)| e.slot.is_some())
    }

    /// Stripes that have a slot.
    #[must_use]
    pub fn mapped(&self) -> u64 {
        self.mapped
    }

    /// Entries whose homes are not written.
    #[must_use]
    pub fn unsaved(&self) -> usize {
        self.unsaved.len()
    }

    /// What the entries without a home hold: one item per hold.
    #[must_use]
    pub fn held(&self) -> Vec<Lsn> {
        self.unsaved.values().flat_map(|u| u.holds.iter().map(|h| h.1)).collect()
    }

    /// All slots in use.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.entries.iter().filter_map(|e| e.slot)
    }

    /// Sets an entry as replay found it, with nothing held.
    pub fn set(&mut self, stripe: Stripe, entry: Entry) {
        let old = std::mem::replace(&mut self.entries[stripe.0 as usize], entry);
        self.mapped += u64::from(entry.slot.is_some());
        self.mapped -= u64::from(old.slot.is_some());
    }

    /// A Place or Unmap moved the stripe: the record is held (by the caller) until the home is
    /// written. Gives what the older records of this stripe held: to be released when the new
    /// one is durable.
    pub fn moved(&mut self, stripe: Stripe, slot: Option<Slot>, lsn: Lsn) -> Vec<Lsn> {
        self.set(stripe, Entry { slot, lsn });
        let unsaved = Unsaved { holds: vec![(lsn, lsn)] };
        let old = self.unsaved.insert(stripe.0, unsaved).unwrap_or_default();
        old.holds.into_iter().map(|(_, held)| held).collect()
    }

    /// A Parity's rows are in place and flushed. It and the Writes that it covers stay held until
    /// the home carries its LSN.
    pub fn destaged(&mut self, stripe: Stripe, lsn: Lsn, covered: &[Lsn]) {
        let entry = &mut self.entries[stripe.0 as usize];
        entry.lsn = entry.lsn.max(lsn);
        let holds = &mut self.unsaved.entry(stripe.0).or_default().holds;
        holds.push((lsn, lsn));
        holds.extend(covered.iter().map(|c| (lsn, *c)));
    }

    /// Home knows this record of the stripe, but perhaps not the checksums that it carries: it stays
    /// held until both are written.
    pub fn hold_again(&mut self, stripe: Stripe, lsn: Lsn) {
        self.unsaved.entry(stripe.0).or_default().holds.push((lsn, lsn));
    }

    fn kind_of(&self, page: u64) -> u16 {
        match self.geometry.role_of_page(page) {
            PageRole::Root(_) => PAGE_ROOT,
            PageRole::Map(_) => PAGE_MAP,
        }
    }

    fn map_page(&self, nth: u64) -> u64 {
        self.geometry.page_of_map(nth)
    }

    /// The shape has grown: there are stripes more, none of which has a slot, and pages that were never
    /// written but for the roots, `new_roots`.
    pub fn grow(&mut self, geometry: Geometry, new_roots: &[PageWrite]) {
        assert!(geometry.stripes >= self.geometry.stripes, "no stripe is lost by growing");
        self.geometry = geometry;
        self.entries.resize(geometry.stripes as usize, Entry::default());
        let pages = (geometry.map_pages() + geometry.root_pages()) as usize;
        self.pages.resize(pages, Page::default());
        self.roots.resize((geometry.root_pages() * ROOT_BITS / 64) as usize, 0);
        self.saved(new_roots);
    }

    /// The root pages that a grown shape has more, as they are to be written before it is in force.
    #[must_use]
    pub fn roots_of_growth(&self, grown: &Geometry, lsn: Lsn) -> Vec<PageWrite> {
        let roots = self.geometry.root_pages()..grown.root_pages();
        let empty = vec![0; (ROOT_BITS / 64) as usize];
        let page = |root| self.root_with(grown.page_of_root(root), Page::default(), &empty, lsn);
        roots.map(page).collect()
    }

    /// Stripes whose entries have no home yet, ascending: those of up to `most` map pages.
    #[must_use]
    pub fn next_unsaved(&self, most: usize) -> Vec<Stripe> {
        let mut pages = 0;
        let mut last = None;
        let mut out = Vec::new();
        for stripe in self.unsaved.keys() {
            if last != Some(stripe / PAGE_ENTRIES) {
                if pages == most {
                    break;
                }
                pages += 1;
                last = Some(stripe / PAGE_ENTRIES);
            }
            out.push(Stripe(*stripe));
        }
        out
    }

    /// The pages of these stripes (ascending), as they are now. `lsn` is the newest record given
    /// out: everything in the pages is covered by it.
    #[must_use]
    pub fn snapshot(&self, lsn: Lsn, stripes: &[Stripe]) -> Vec<PageWrite> {
        let mut writes: Vec<PageWrite> = Vec::new();
        for stripe in stripes {
            let saved = (stripe.0, self.get(*stripe).lsn);
            let nth = stripe.0 / PAGE_ENTRIES;
            if let Some(w) = writes.last_mut()
                && w.page == self.map_page(nth)
            {
                w.saved.push(saved);
                continue;
            }
            let mut write = self.entries_page(nth, lsn);
            write.saved.push(saved);
            writes.push(write);
        }
        writes
    }

    /// A page of entries as it is to be written next; it ends no hold.
    fn entries_page(&self, nth: u64, lsn: Lsn) -> PageWrite {
        let page = self.map_page(nth);
        let old = self.pages[page as usize];
        let (generation, place) = (old.generation + 1, 1 - old.place);
        let head = Head { kind: PAGE_MAP, page, place, generation, lsn };
        let mut b = head.page(self.id);
        let first = nth * PAGE_ENTRIES;
        let last = (first + PAGE_ENTRIES).min(self.geometry.stripes);
        for (i, e) in self.entries[first as usize..last as usize].iter().enumerate() {
            let at = PAGE_HEAD + i * ENTRY_BYTES;
            put_u32(&mut b, at, e.slot.map_or(0, |s| s.0 + 1));
            put_u64(&mut b, at + 8, e.lsn.0);
        }
        page::seal(&mut b);
        PageWrite { page, generation, place, bytes: b.freeze(), saved: Vec::new() }
    }

    /// A page, of either kind, that is written anew from memory: no whole copy of it is left. It ends
    /// no hold, since the checksums do not go home with it.
    #[must_use]
    pub fn page_again(&self, page: u64, lsn: Lsn) -> PageWrite {
        match self.geometry.role_of_page(page) {
            PageRole::Map(nth) => self.entries_page(nth, lsn),
            PageRole::Root(root) => self.root_page(root, lsn),
        }
    }

    /// What lies at a page's home on every member that has a copy; None if it was never written.
    #[must_use]
    pub fn page_at_home(&self, page: u64) -> Option<Head> {
        let Page { generation, place } = self.pages[page as usize];
        let kind = self.kind_of(page);
        (generation > 0).then_some(Head { kind, page, place, generation, lsn: Lsn(0) })
    }

    /// Up to `most` stripes with a slot, from this one on, ascending.
    #[must_use]
    pub fn next_mapped(&self, from: Stripe, most: usize) -> Vec<Stripe> {
        let rest = self.entries.iter().enumerate().skip(from.0 as usize);
        let mapped = rest.filter(|(_, e)| e.slot.is_some()).map(|(i, _)| Stripe(i as u64));
        mapped.take(most).collect()
    }

    /// Root pages that do not yet know of these map pages, as they are to be written.
    #[must_use]
    pub fn roots_for(&mut self, written: &[PageWrite], lsn: Lsn) -> Vec<PageWrite> {
        let mut roots = Vec::new();
        for w in written {
            let PageRole::Map(nth) = self.geometry.role_of_page(w.page) else { continue };
            let word = &mut self.roots[(nth / 64) as usize];
            let bit = 1 << (nth % 64);
            if *word & bit == 0 {
                *word |= bit;
                roots.push(nth / ROOT_BITS);
            }
        }
        roots.dedup();
        roots.into_iter().map(|root| self.root_page(root, lsn)).collect()
    }

    /// A root page as it is to be written next.
    #[must_use]
    pub fn root_page(&self, root: u64, lsn: Lsn) -> PageWrite {
        let page = self.geometry.page_of_root(root);
        let words = (ROOT_BITS / 64) as usize;
        let own = &self.roots[root as usize * words..][..words];
        self.root_with(page, self.pages[page as usize], own, lsn)
    }

    /// All root pages of a shape in which nothing has a slot yet, as they are written first.
    #[must_use]
    pub fn empty_roots(geometry: &Geometry, array: u128, lsn: Lsn) -> Vec<PageWrite> {
        let one = Geometry { stripes: 1, ..*geometry };
        let bits = vec![0; (ROOT_BITS / 64) as usize];
        let map = Map::empty(one, array);
        let pages = (0..geometry.root_pages()).map(|root| geometry.page_of_root(root));
        pages.map(|page| map.root_with(page, Page::default(), &bits, lsn)).collect()
    }

    /// A root page with these bits, after what lies at its home.
    fn root_with(&self, page: u64, old: Page, bits: &[u64], lsn: Lsn) -> PageWrite {
        let (generation, place) = (old.generation + 1, 1 - old.place);
        let head = Head { kind: PAGE_ROOT, page, place, generation, lsn };
        let mut b = head.page(self.id);
        for (i, word) in bits.iter().enumerate() {
            put_u64(&mut b, PAGE_HEAD + i * 8, *word);
        }
        page::seal(&mut b);
        PageWrite { page, generation, place, bytes: b.freeze(), saved: Vec::new() }
    }

    /// The pages are flushed: gives the holds that end.
    pub fn saved(&mut self, written: &[PageWrite]) -> Vec<Lsn> {
        let mut released = Vec::new();
        for w in written {
            self.pages[w.page as usize] = Page { generation: w.generation, place: w.place };
            for (stripe, lsn) in &w.saved {
                let Some(u) = self.unsaved.get_mut(stripe) else {
                    continue;
                };
                released.extend(u.holds.iter().filter(|h| h.0 <= *lsn).map(|h| h.1));
                u.holds.retain(|h| h.0 > *lsn);
                if u.holds.is_empty() {
                    self.unsaved.remove(stripe);
                }
            }
        }
        released
    }

    /// Reads all pages of all active members and takes the newest of each. Gives the map and the
    /// copies that have to be written again because they are older or damaged.
    ///
    /// # Errors
    /// A sentence, if a page that was written is whole nowhere.
    pub async fn load<W: World>(
        geometry: Geometry,
        array: u128,
        members: &Members<W>,
    ) -> Result<(Map, Vec<(MemberIndex, u64, Slice)>), String> {
        let mut map = Map::empty(geometry, array);
        let n = geometry.members() as u64;
        let total = geometry.map_pages() + geometry.root_pages();
        let mut newest: Vec<Option<Slice>> = vec![None; total as usize];
        let mut at_newest: BTreeMap<(u64, u8), u64> = BTreeMap::new();
        let active: Vec<MemberIndex> =
            (0..n as u8).map(MemberIndex).filter(|m| members.is_active(*m)).collect();
        for (at, blocks) in areas_of_pages(&geometry) {
            let reads = active.iter().map(|m| read_blocks(members, *m, at, blocks as usize));
            for (member, found) in active.iter().zip(join_all(reads.collect()).await) {
                for (i, block) in found.into_iter().enumerate() {
                    let Some(block) = block else { continue };
                    let at = at + (i * BLOCK) as u64;
                    let Some(Head { kind, page, place, generation, .. }) =
                        page::decode(&block, map.id)
                    else {
                        continue;
                    };
                    // Another page of this member may be given for it, one of checksums as well.
                    let expected = page < total
                        && kind == map.kind_of(page)
                        && geometry.page_copies(page, place).contains(&(*member, at));
                    if !expected {
                        continue;
                    }
                    let best = at_newest.entry((page, member.0)).or_default();
                    *best = generation.max(*best);
                    let known = newest[page as usize].as_ref().map_or(0, |b| get_u64(b, 40));
                    if generation > known {
                        newest[page as usize] = Some(block);
                    }
                }
            }
        }
        let mut repairs = Vec::new();
        for (page, block) in newest.iter().enumerate() {
            let page = page as u64;
            let Some(b) = block else { continue };
            let (generation, place) = (get_u64(b, 40), b[32]);
            map.newest = map.newest.max(Lsn(get_u64(b, 48)));
            map.pages[page as usize] = Page { generation, place };
            for (member, at) in geometry.page_copies(page, place) {
                let here = at_newest.get(&(page, member.0)).copied().unwrap_or(0);
                if members.is_active(member) && here < generation {
                    repairs.push((member, at, b.clone()));
                }
            }
            let nth = match geometry.role_of_page(page) {
                PageRole::Map(nth) => nth,
                PageRole::Root(root) => {
                    let words = (ROOT_BITS / 64) as usize;
                    for i in 0..words {
                        map.roots[root as usize * words + i] = get_u64(b, PAGE_HEAD + i * 8);
                    }
                    continue;
                }
            };
            let first = nth * PAGE_ENTRIES;
            for i in 0..PAGE_ENTRIES.min(geometry.stripes - first) {
                let at = PAGE_HEAD + i as usize * ENTRY_BYTES;
                let slot = get_u32(b, at);
                if u64::from(slot) > geometry.slots {
                    return Err(format!("map page {page} names slot {slot}, which does not exist"));
                }
                let slot = slot.checked_sub(1).map(Slot);
                map.set(Stripe(first + i), Entry { slot, lsn: Lsn(get_u64(b, at + 8)) });
            }
        }
        for root in 0..geometry.root_pages() {
            if newest[geometry.page_of_root(root) as usize].is_none() {
                return Err(format!("root page {root} of the map is whole on none of the members"));
            }
        }
        for nth in 0..geometry.map_pages() {
            let ever = map.roots[(nth / 64) as usize] >> (nth % 64) & 1 != 0;
            if ever && newest[geometry.page_of_map(nth) as usize].is_none() {
                return Err(format!("map page {nth} is whole on none of the members"));
            }
        }
        Ok((map, repairs))
    }
}

/// Where pages lie on every member: byte and blocks of what is read at once.
fn areas_of_pages(g: &Geometry) -> Vec<(u64, u64)> {
    let per_group = (g.parity as u64 + 1) * 2;
    let mut all = Vec::new();
    for s in g.stretches() {
        let blocks = s.pages().div_ceil(g.members() as u64) * per_group;
        let firsts = (0..blocks).step_by(256);
        all.extend(firsts.map(|f| (s.pages_at + f * BLOCK as u64, 256.min(blocks - f))));
    }
    all
}

async fn read_blocks<W: World>(
    members: &Members<W>,
    member: MemberIndex,
    at: u64,
    blocks: usize,
) -> Vec<Option<Slice>> {
    if let Some(b) = members.read(member, at, Buf::new(blocks * BLOCK)).await {
        let s = b.freeze();
        return (0..blocks).map(|i| Some(s.part(i * BLOCK, BLOCK))).collect();
    }
    let mut out = Vec::new();
    for i in 0..blocks {
        let b = members.read(member, at + (i * BLOCK) as u64, Buf::new(BLOCK)).await;
        out.push(b.map(Buf::freeze));
    }
    out
}

/// Writes pages to their places on all active members; they are not flushed.
///
/// # Errors
/// `Halted` if too many members fail.
pub async fn write_pages<W: World>(
    members: &Members<W>,
    geometry: &Geometry,
    pages: &[PageWrite],
) -> Result<(), Halted> {
    let mut writes = Vec::new();
    for p in pages {
        for (member, at) in geometry.page_copies(p.page, p.place) {
            writes.push(members.write(member, at, vec![p.bytes.clone()]));
        }
    }
    for done in join_all(writes).await {
        done?;
    }
    Ok(())
}
