//! What is kept beside the stripes, under the scrub's eyes: the copies of the pages of map and
//! checksums, of the superblocks, and the columns of the commits that a start would need.
//!
//! What must hold: pages are looked at, and written again, under the checkpoint's lock, since their
//! places alternate; a commit's rows are not reused while it is looked at. A copy that is written
//! again gets the very bytes of one that is whole; where none is, the page is written anew from
//! memory as a checkpoint would, and the log is emptied past a commit that is beyond repair.

use std::cell::Cell;
use std::rc::Rc;

use evenkeel_journal::log::{Halted, LogDevices};
use evenkeel_journal::replay::{ColumnCode, KeptCommit, LogReader};
use evenkeel_journal::sync::join_all;
use evenkeel_journal::{
    BLOCK, Buf, CommitNumber, Disk, DiskError, DiskFacts, MemberIndex, Segs, Slice, World,
};

use super::super::Array;
use super::Break;
use crate::event::{Event, EventKind};
use crate::geometry::SUPERBLOCK_BYTES;
use crate::map::write_pages;
use crate::members::{Columns, Members};
use crate::page::{self, Head};
use crate::scrub::Tally;

/// Pages that are looked at together, and for which a checkpoint waits.
const PAGES_AT_ONCE: u64 = 64;
/// Commits that are looked at one after the other before requests have their turn.
const COMMITS_AT_ONCE: usize = 16;

/// A member's copy of a page.
pub(in crate::array) type Place = (MemberIndex, u64);

impl<W: World> Array<W> {
    pub(in crate::array) fn map_and_roots(&self) -> u64 {
        self.0.geometry.get().map_pages() + self.0.geometry.get().root_pages()
    }

    /// What the scrub is at when everything is done.
    pub(super) fn end_of_scrub(&self) -> u64 {
        let g = &self.0.geometry.get();
        g.stripes + self.map_and_roots() + g.sum_pages() + 2
    }

    /// Bytes of metadata that are still to be looked at, about, when the scrub is at `next`.
    pub(super) fn metadata_left(&self, next: u64) -> u64 {
        let g = &self.0.geometry.get();
        let (block, copies) = (BLOCK as u64, g.parity as u64 + 1);
        let at = next.saturating_sub(g.stripes);
        let map = self.map_and_roots();
        let sums = g.sum_pages();
        // Of the checksum pages those count that have something in them.
        let used = |pages: u64| {
            (u128::from(pages) * u128::from(self.0.map.borrow().mapped()) / u128::from(g.stripes))
                as u64
        };
        let sums_left = used(sums.saturating_sub(at.saturating_sub(map)));
        let mut left = map.saturating_sub(at) * copies * block + sums_left * copies * 2 * block;
        if at <= map + sums {
            left += self.superblock_bytes();
        }
        left + self.log_bytes()
    }

    fn superblock_bytes(&self) -> u64 {
        self.0.geometry.get().table() as u64 * 3 * SUPERBLOCK_BYTES
    }

    fn log_bytes(&self) -> u64 {
        let rows = self.0.journal.used_rows().0;
        rows * self.0.geometry.get().log_devices().len() as u64 * BLOCK as u64
    }

    /// All of it, from where the scrub is.
    pub(super) async fn scrub_metadata(&self, check_only: bool) -> Result<(), Break> {
        let g = &self.0.geometry.get();
        let (map, sums) = (self.map_and_roots(), self.0.geometry.get().sum_pages());
        loop {
            self.let_others_go_first().await?;
            let next = self.0.scrub.run().next;
            // Where the array has grown meanwhile it may be at a stripe of before.
            let at = next.saturating_sub(g.stripes);
            if at < map {
                let end = map.min(at + PAGES_AT_ONCE);
                let (bytes, found) = self.scrub_map_pages(at..end, check_only).await?;
                self.scrubbed(g.stripes + end, bytes, found).await?;
            } else if at < map + sums {
                // Page 0 is the scrub's own: it is written at the end of it.
                let first = (at - map).max(1);
                let end = sums.min(first + PAGES_AT_ONCE);
                let (bytes, found) = self.scrub_sum_pages(first..end, check_only).await?;
                self.scrubbed(g.stripes + map + end, bytes, found).await?;
            } else if at == map + sums {
                let found = self.0.members.scrub_superblocks(check_only).await?;
                self.scrubbed(g.stripes + at + 1, self.superblock_bytes(), found).await?;
            } else {
                let bytes = self.log_bytes();
                let found = self.scrub_log(check_only).await?;
                return self.scrubbed(g.stripes + at + 1, bytes, found).await;
            }
        }
    }

    // ---- pages ----

    pub(in crate::array) fn active_copies(&self, copies: Vec<Place>) -> Vec<Place> {
        copies.into_iter().filter(|(m, _)| self.0.members.is_active(*m)).collect()
    }

    /// Writes the copies that are wrong again with the bytes of one that is not.
    async fn mend_copies(&self, wrong: &[Place], bytes: &Slice) -> Result<u64, Halted> {
        let mut healed = 0;
        for (member, at) in wrong {
            if self.write_again(*member, *at, bytes.clone()).await? {
                self.0.members.healed(*member, 1);
                healed += 1;
            }
        }
        self.0.members.flush_members().await?;
        Ok(healed)
    }

    /// Roots and map pages: every active member that has a copy must bear the newest generation.
    pub(in crate::array) async fn scrub_map_pages(
        &self,
        pages: std::ops::Range<u64>,
        check_only: bool,
    ) -> Result<(u64, Tally), Halted> {
        let g = &self.0.geometry.get();
        let _turn = self.0.checkpoint_lock.lock().await;
        let (mut bytes, mut tally) = (0, Tally::default());
        for number in pages {
            let Some(home) = self.0.map.borrow().page_at_home(number) else { continue };
            let copies = self.active_copies(g.page_copies(number, home.place));
            bytes += (copies.len() * BLOCK) as u64;
            let found =
                join_all(copies.iter().map(|c| self.read_map_copy(*c, home)).collect()).await;
            let wrong = copies.iter().zip(&found).filter(|(_, f)| f.whole().is_none());
            let wrong: Vec<(Place, bool)> =
                wrong.map(|(c, f)| (*c, matches!(f, MapCopy::Wrong))).collect();
            if self.0.members.is_halted() {
                return Err(Halted);
            }
            if wrong.is_empty() {
                continue;
            }
            tally.mismatches += wrong.len() as u64;
            for ((member, at), _) in wrong.iter().filter(|(_, was_read)| *was_read) {
                self.0.members.found_bad(*member, *at, "a page of the map");
            }
            if check_only {
                continue;
            }
            if let Some(whole) = found.iter().find_map(MapCopy::whole) {
                let wrong: Vec<Place> = wrong.into_iter().map(|(copy, _)| copy).collect();
                tally.healed += self.mend_copies(&wrong, whole).await?;
                continue;
            }
            // No copy is left, but memory has it.
            let lsn = self.0.journal.last_lsn();
            let again = [self.0.map.borrow().page_again(number, lsn)];
            self.0.journal.durable(lsn).await?;
            write_pages(&self.0.members, g, &again).await?;
            self.0.members.flush_members().await?;
            let ended = self.0.map.borrow_mut().saved(&again);
            assert!(ended.is_empty(), "I2: a page that is written for itself ends no hold");
            let home = self.0.map.borrow().page_at_home(number).expect("it was just written");
            for copy in self.active_copies(g.page_copies(number, home.place)) {
                if self.read_map_copy(copy, home).await.whole().is_some() {
                    self.0.members.healed(copy.0, 1);
                    tally.healed += 1;
                }
            }
        }
        Ok((bytes, tally))
    }

    /// A copy of a page, if it is the one that belongs there.
    async fn read_map_copy(&self, (member, at): Place, home: Head) -> MapCopy {
        let Some(b) = self.read_twice(member, at).await else { return MapCopy::Unreadable };
        let Some(found) = page::decode(&b, self.0.members.pages_are_of()) else {
            return MapCopy::Wrong;
        };
        // After a read-only start a copy may be older: nothing was written.
        let newest = (found.generation, found.place) == (home.generation, home.place);
        let right = (found.kind, found.page) == (home.kind, home.page)
            && (newest || self.0.options.read_only);
        if right { MapCopy::Right(b) } else { MapCopy::Wrong }
    }

    /// A copy of a page, if it is whole and the newest.
    pub(in crate::array) async fn whole_map_copy(&self, copy: Place, home: Head) -> Option<Slice> {
        self.read_map_copy(copy, home).await.whole().cloned()
    }

    /// A block; a read may fail once.
    async fn read_twice(&self, member: MemberIndex, at: u64) -> Option<Slice> {
        for _ in 0..2 {
            if let Some(b) = self.0.members.read(member, at, Buf::new(BLOCK)).await {
                return Some(b.freeze());
            }
        }
        None
    }

    /// Pages of checksums: every active member that has a copy of one that is needed must bear one
    /// that counts. Those that are older than they might be are renewed, too, and not counted: a
    /// crash leaves them.
    pub(in crate::array) async fn scrub_sum_pages(
        &self,
        pages: std::ops::Range<u64>,
        check_only: bool,
    ) -> Result<(u64, Tally), Halted> {
        let g = &self.0.geometry.get();
        let turn = self.0.checkpoint_lock.lock().await;
        let (mut bytes, mut tally) = (0, Tally::default());
        let mut anew = Vec::new();
        for number in pages {
            let required = {
                let (table, map) = (self.0.sums.table.borrow(), self.0.map.borrow());
                table.required_of_page(number, &map)
            };
            // Nothing that only the page knows.
            if required.0 == 0 {
                continue;
            }
            let copies = self.active_copies(g.sum_page_copies(number, 0));
            bytes += (copies.len() * 2 * BLOCK) as u64;
            let id = self.0.members.pages_are_of();
            let reads = copies.iter().map(|c| self.read_sum_places(id, number, *c));
            let found = join_all(reads.collect()).await;
            if self.0.members.is_halted() {
                return Err(Halted);
            }
            let newest = found.iter().filter_map(|f| f.newest.as_ref());
            let newest = newest.max_by_key(|(h, _)| h.lsn);
            let newest = newest.filter(|(h, _)| h.lsn >= required).cloned();
            let (mut wrong, mut old) = (Vec::new(), Vec::new());
            for ((member, at), f) in copies.iter().zip(&found) {
                let lsn = f.newest.as_ref().map(|(h, _)| h.lsn);
                if lsn.is_none_or(|lsn| lsn < required) {
                    wrong.push((*member, *at));
                    if f.was_read && !self.0.sums.is_suspect(number, *member) {
                        self.0.members.found_bad(*member, *at, "a page of checksums");
                    }
                } else if newest.as_ref().is_some_and(|(h, _)| lsn < Some(h.lsn)) {
                    old.push((*member, *at));
                }
            }
            tally.mismatches += wrong.len() as u64;
            let Some((head, whole)) = newest else {
                if self.0.sums.table.borrow().page(number, required).is_none() {
                    tally.unrepairable += wrong.len() as u64;
                    self.0.members.sums_lost(number);
                } else if !check_only {
                    for (member, _) in &wrong {
                        self.0.sums.suspect(number, *member);
                    }
                    anew.push((number, required, wrong));
                }
                continue;
            };
            if check_only {
                continue;
            }
            let place = |c: &Place| (c.0, c.1 + u64::from(head.place) * BLOCK as u64);
            let places: Vec<Place> = old.iter().map(place).collect();
            for (member, at) in places {
                self.write_again(member, at, whole.clone()).await?;
            }
            let places: Vec<Place> = wrong.iter().map(place).collect();
            tally.healed += self.mend_copies(&places, &whole).await?;
            self.0.sums.trust(number, &wrong);
        }
        drop(turn);
        if !anew.is_empty() {
            // Memory has what no copy has any more.
            self.checkpoint().await?;
            for (number, required, wrong) in anew {
                for copy in wrong {
                    let found = self.read_sum_copy(number, copy).await;
                    tally.healed += u64::from(found.is_some_and(|(h, _)| h.lsn >= required));
                }
            }
        }
        Ok((bytes, tally))
    }

    // ---- the log ----

    /// The commits that a start would need: each column must be there and whole on its device.
    async fn scrub_log(&self, check_only: bool) -> Result<Tally, Break> {
        let mut tally = Tally::default();
        let mut beyond: Vec<(CommitNumber, u64)> = Vec::new();
        let needed = self.0.journal.needed_commits();
        for (i, number) in needed.into_iter().enumerate() {
            if i % COMMITS_AT_ONCE == COMMITS_AT_ONCE - 1 {
                self.let_others_go_first().await?;
            }
            match self.scrub_commit(number, check_only).await? {
                Ok(found) => tally += found,
                Err(columns) => beyond.push((number, columns)),
            }
        }
        if beyond.is_empty() {
            return Ok(tally);
        }
        tally.mismatches += beyond.iter().map(|(_, columns)| columns).sum::<u64>();
        if !check_only {
            let text = format!(
                "Array {}: what it holds is brought to its place from memory, so that it is not \
                 needed any more.",
                self.name()
            );
            self.0.members.tell(Event::of_array(EventKind::Note, text));
            self.leave_the_log_behind().await?;
        }
        for (number, columns) in beyond {
            if self.0.journal.needed_commits().contains(&number) {
                tally.unrepairable += columns;
            } else {
                tally.healed += columns;
            }
        }
        Ok(tally)
    }

    /// One commit. `Err`: so many of its columns are damaged that it is not whole any more.
    async fn scrub_commit(
        &self,
        number: CommitNumber,
        check_only: bool,
    ) -> Result<Result<Tally, u64>, Halted> {
        let mut tally = Tally::default();
        let Some(pinned) = self.0.journal.pin_commit(number) else {
            return Ok(Ok(tally));
        };
        let members = &self.0.members;
        let through = |m| Through { members: members.clone(), member: m, failed: Rc::default() };
        let live: Vec<(MemberIndex, Through<W>)> =
            members.live().into_iter().map(|m| (m, through(m))).collect();
        let code = Columns(members.code().clone());
        let code: &dyn ColumnCode = &code;
        let geometry = self.0.geometry.get().log(members.superblock_array());
        let reader = LogReader { members: &live, geometry, code };
        let mut commit = reader.look(pinned.number, pinned.row).await;
        if commit.as_ref().is_ok_and(|c| c.damaged_columns.is_empty()) {
            return Ok(Ok(tally));
        }
        // A read may fail once.
        live.iter().for_each(|(_, disk)| disk.failed.set(false));
        commit = reader.look(pinned.number, pinned.row).await;
        if members.is_halted() {
            return Err(Halted);
        }
        let at = geometry.offset + pinned.row * BLOCK as u64;
        let commit = match commit {
            Ok(commit) => commit,
            Err(columns) => {
                let text = format!(
                    "Array {}: commit {number} of the log is not whole any more on the disks.",
                    self.name()
                );
                members.tell(Event::of_array(EventKind::Mismatch, text));
                return Ok(Err(columns as u64));
            }
        };
        let still = |c: &usize| members.is_active(MemberIndex(commit.header.members[*c]));
        let damaged: Vec<usize> = commit.damaged_columns.iter().copied().filter(still).collect();
        tally.mismatches = damaged.len() as u64;
        for c in &damaged {
            let member = MemberIndex(commit.header.members[*c]);
            if live.iter().any(|(m, disk)| *m == member && !disk.failed.get()) {
                members.found_bad(member, at, "a column of the log");
            }
        }
        if check_only || damaged.is_empty() {
            return Ok(Ok(tally));
        }
        for (member, at, segs) in reader.repair(&commit).await.unwrap_or_default() {
            members.write(member, at, segs).await?;
        }
        LogDevices::flush(members).await?;
        let left = reader.look(pinned.number, pinned.row).await;
        let left =
            left.map_or(damaged.clone(), |KeptCommit { damaged_columns, .. }| damaged_columns);
        for c in damaged.iter().filter(|c| !left.contains(c)) {
            members.healed(MemberIndex(commit.header.members[*c]), 1);
            tally.healed += 1;
        }
        Ok(Ok(tally))
    }

    /// Brings everything that the log holds to its place, so that no start needs what is in it now.
    ///
    /// # Errors
    /// `Halted` if too many members fail.
    pub(in crate::array) async fn leave_the_log_behind(&self) -> Result<(), Halted> {
        let end = self.0.journal.last_lsn();
        // Rows that cannot be destaged stay in the log; then the commit counts as beyond repair.
        let _ = self.destage_all().await;
        self.checkpoint().await?;
        self.renew_lost(end);
        self.0.journal.durable(self.0.journal.last_lsn()).await?;
        // The tail does not pass a commit before it is durable, even if nothing in it is needed: the
        // first of these makes it so, the second is beyond it.
        self.0.journal.announce_tail().await?;
        self.0.journal.announce_tail().await
    }
}

/// A copy of a page of the map.
enum MapCopy {
    Right(Slice),
    Wrong,
    Unreadable,
}

impl MapCopy {
    fn whole(&self) -> Option<&Slice> {
        match self {
            MapCopy::Right(b) => Some(b),
            MapCopy::Wrong | MapCopy::Unreadable => None,
        }
    }
}

/// A device of the log as the log's reader sees it: reads go by way of the members, so that they are
/// bounded and counted.
#[derive(Clone)]
struct Through<W: World> {
    members: Members<W>,
    member: MemberIndex,
    /// Whether a read failed: what could not be read is written again, but it is not wrong.
    failed: Rc<Cell<bool>>,
}

impl<W: World> Disk for Through<W> {
    fn facts(&self) -> DiskFacts {
        DiskFacts { path: self.members.describe(self.member).1, bytes: u64::MAX, is_file: false }
    }

    fn read(
        &self,
        at: u64,
        buf: Buf,
    ) -> impl Future<Output = (Result<(), DiskError>, Buf)> + 'static {
        let Through { members, member, failed } = self.clone();
        async move {
            let len = buf.len();
            match members.read(member, at, buf).await {
                Some(buf) => (Ok(()), buf),
                None => {
                    failed.set(true);
                    (Err(DiskError::Io(5)), Buf::new(len))
                }
            }
        }
    }

    fn write(&self, _: u64, _: Segs) -> impl Future<Output = Result<(), DiskError>> + 'static {
        std::future::ready(Err(DiskError::Unsupported))
    }

    fn flush(&self) -> impl Future<Output = Result<(), DiskError>> + 'static {
        std::future::ready(Err(DiskError::Unsupported))
    }

    fn discard(&self, _: u64, _: u64) -> impl Future<Output = Result<(), DiskError>> + 'static {
        std::future::ready(Err(DiskError::Unsupported))
    }
}
