//! The rebuild: disks are filled to take the place of members that are out, or that are to be replaced.
//! In this order (`keep_members`), after those were judged that gave too many errors
//! (`members/failing.rs`):
//!
//! 1. a vacant place and a spare that is there: an epoch says that the spare is being filled for it
//!    (its *twin* from now on: `members/spares.rs`);
//! 2. what was begun before that ends, so that nothing is written any more that the twin misses;
//! 3. every mapped stripe, in order: what belongs on the twin is read or rebuilt, compared with its
//!    checksums, and written there (`fill_stripe`); how far that is is written down now and then;
//! 4. the pages of map and checksums (`rebuild/pages.rs`);
//! 5. the tail passes every commit of which the twin holds no column;
//! 6. an epoch says that it is the member (I9).
//!
//! What must hold: requests come first; a twin whose failure is recorded is filled no further; what is
//! written down as filled was flushed before, and the log says durably that it lies there.

mod members;
mod pages;

pub use members::Added;
pub(super) use members::{halted, refuse};

use std::cell::{Cell, RefCell};
use std::time::Duration;

use evenkeel_journal::log::Halted;
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::{Signal, after_the_ready, either, join_all};
use evenkeel_journal::{CommitNumber, Lsn, MemberIndex, Slot, Stripe, World};

use super::Array;
use super::background::{Courtesy, Limit, Rate};
use crate::error::{ArrayError, ErrorKind, RequestError};
use crate::event::{Event, EventKind};
use crate::news;
use crate::status::RebuildStatus;

/// The longest pause: a degraded array is in more of a hurry than a scrub.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// Stripes that are filled together, at most.
const STRIPES_AT_ONCE: usize = 4;
/// Bytes that they may take together; one stripe is filled in any case.
const BYTES_AT_ONCE: u64 = 8 << 20;
/// How far it is, is written down after this time, or after a part of all of one of so many.
const SAVED_TIME: Duration = Duration::from_secs(5);
const SAVED_SHARE: u64 = 16;
/// Between two looks whether the tail has passed what it must pass.
const TAIL_TIME: Duration = Duration::from_secs(1);

/// Why the filling ends before it is through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Break {
    /// The array stops; the next start goes on.
    Leaving,
    /// Too many members are gone.
    Halted,
}

impl From<Halted> for Break {
    fn from(_: Halted) -> Break {
        Break::Halted
    }
}

/// How far a twin is.
#[derive(Clone, Copy, Debug)]
struct Filled {
    twin: MemberIndex,
    takes: MemberIndex,
    /// Stripes before this one are whole there.
    next: u64,
    /// What was changed before this record is there already.
    missed_from: Lsn,
    /// The first commit of which it has a column.
    first: CommitNumber,
    /// Stripes that were filled, and that are left, about.
    done: u64,
    left: u64,
    /// When `next` was written down, and what it was in stripes filled.
    saved: (Duration, u64),
}

/// The rebuilds of a running array.
pub(super) struct Rebuild {
    filled: RefCell<Vec<Filled>>,
    leaving: Cell<bool>,
    gone: Cell<bool>,
    changed: Signal,
    pub courtesy: Courtesy,
    rate: Rate,
    limit: Limit,
}

impl Rebuild {
    pub fn new() -> Rebuild {
        Rebuild {
            filled: RefCell::default(),
            leaving: Cell::new(false),
            gone: Cell::new(true),
            changed: Signal::new(),
            courtesy: Courtesy::new(LONGEST_PAUSE),
            rate: Rate::default(),
            limit: Limit::default(),
        }
    }

    /// Whether one is under way: then the time that requests take is measured.
    pub fn is_running(&self) -> bool {
        !self.filled.borrow().is_empty()
    }

    /// Something happened that may end it.
    pub fn notify(&self) {
        self.changed.notify();
    }
}

impl<W: World> Array<W> {
    /// Has spares take the places of members that are out, for as long as the array runs.
    pub(super) fn spawn_rebuild(&self) {
        self.0.rebuild.gone.set(false);
        let this = self.clone();
        self.0.world.spawn("rebuild", async move {
            let ended = this.keep_members().await;
            if ended == Err(Break::Leaving) {
                // If members fail the array halts, and says so.
                let _ = this.save_filled(true).await;
            }
            this.0.rebuild.filled.borrow_mut().clear();
            this.0.rebuild.gone.set(true);
            this.0.rebuild.changed.notify();
        });
    }

    /// The array stops: ends the rebuild, which the next start goes on with.
    pub(super) async fn leave_rebuild(&self) {
        let rebuild = &self.0.rebuild;
        rebuild.leaving.set(true);
        rebuild.changed.notify();
        self.0.members.wake();
        while !rebuild.gone.get() {
            rebuild.changed.wait().await;
        }
    }

    /// Waits until no member is being filled, and no spare is about to take a vacant place.
    ///
    /// # Errors
    /// If the array stops, or has lost too much.
    pub async fn rebuilt(&self) -> Result<(), ArrayError> {
        let rebuild = &self.0.rebuild;
        loop {
            let none = self.0.members.twins().is_empty();
            if rebuild.gone.get() && none && !self.0.members.is_halted() {
                return Ok(());
            }
            if rebuild.gone.get() || rebuild.leaving.get() || self.0.members.is_halted() {
                let text = "The rebuild was broken off, since the array stops or too many members \
                            are gone. The next start goes on with it.";
                return Err(ArrayError::new(ErrorKind::Failed, text));
            }
            let wanted = (self.next_pair().is_some() || self.0.members.has_to_judge())
                && !self.0.options.read_only;
            if none && !wanted && !rebuild.is_running() {
                return Ok(());
            }
            either(rebuild.changed.wait(), self.0.members.changed().wait()).await;
        }
    }

    async fn keep_members(&self) -> Result<(), Break> {
        loop {
            self.may_go_on()?;
            let changed = self.0.members.changed().wait();
            if self.0.members.judge().await? {
                continue;
            }
            if let Some((spare, vacant)) = self.next_pair() {
                self.0.members.begin_filling(spare, vacant, Lsn(0)).await?;
                continue;
            }
            if self.fill_some().await? {
                continue;
            }
            self.0.rebuild.notify();
            either(changed, self.0.rebuild.changed.wait()).await;
        }
    }

    /// A spare, and the place that it is to take.
    fn next_pair(&self) -> Option<(MemberIndex, MemberIndex)> {
        let vacant = *self.0.members.vacant().first()?;
        Some((self.0.members.spare()?, vacant))
    }

    fn may_go_on(&self) -> Result<(), Break> {
        if self.0.rebuild.leaving.get() {
            return Err(Break::Leaving);
        }
        if self.0.members.is_halted() { Err(Break::Halted) } else { Ok(()) }
    }

    /// Fills what is to be filled: a few stripes, or what is left when these are done. False: nothing is
    /// to be filled, or not yet.
    async fn fill_some(&self) -> Result<bool, Break> {
        if self.is_growing() {
            // Stripes of the shape before are not filled: what is out is filled when they are moved.
            return Ok(false);
        }
        let g = &self.0.geometry.get();
        let of_stripe = g.chunk_bytes() * g.members() as u64;
        let most = (BYTES_AT_ONCE / of_stripe).clamp(1, STRIPES_AT_ONCE as u64) as usize;
        self.look_at_twins().await?;
        let all = self.0.rebuild.filled.borrow().clone();
        let Some(next) = all.iter().map(|f| f.next).min() else { return Ok(false) };
        self.let_requests_go_first().await?;
        if next >= g.stripes {
            let whole = all.iter().find(|f| f.next >= g.stripes).expect("the least is");
            self.seat(*whole).await?;
            return Ok(true);
        }
        let some = self.0.map.borrow().next_mapped(Stripe(next), most);
        let end = some.last().map_or(g.stripes, |s| s.0 + 1);
        if broken(Sabotage::FilledTooEarly) {
            for f in &all {
                self.0.members.filled_up_to(f.twin, f.next.max(end)).await?;
            }
        }
        let fills = some.iter().map(|s| self.fill_stripe(*s, &all));
        let mut bytes = 0;
        for filled in join_all(fills.collect()).await {
            let filled = filled?;
            for f in self.0.rebuild.filled.borrow_mut().iter_mut() {
                if filled.contains(&f.twin) {
                    bytes += g.chunk_bytes();
                    let before = *f;
                    (f.done, f.left) = (f.done + 1, f.left.saturating_sub(1));
                    self.tell_of_progress(&before, f);
                }
            }
        }
        for f in self.0.rebuild.filled.borrow_mut().iter_mut() {
            f.next = f.next.max(end);
        }
        self.keep_to_the_rate(bytes).await;
        self.save_filled(false).await?;
        Ok(true)
    }

    /// Learns of twins that are new, or gone.
    async fn look_at_twins(&self) -> Result<(), Break> {
        let rebuild = &self.0.rebuild;
        let twins = self.0.members.twins();
        let all = rebuild.filled.take();
        let (there, gone) = all.into_iter().partition(|f| twins.contains(&(f.twin, f.takes)));
        rebuild.filled.replace(there);
        let gone: Vec<Filled> = gone;
        for f in gone {
            let (state, path, ..) = self.0.members.describe(f.twin);
            let why = format!("it is {} by now", state.as_str());
            self.0.members.tell(news::rebuild_given_up(&self.name(), &path, &why));
        }
        let known = |t: &MemberIndex| rebuild.filled.borrow().iter().any(|f| f.twin == *t);
        let new: Vec<_> = twins.into_iter().filter(|(t, _)| !known(t)).collect();
        if new.is_empty() {
            return Ok(());
        }
        if !rebuild.is_running() {
            rebuild.courtesy.begin();
            rebuild.rate.begin();
        }
        let first = self.0.journal.next_number();
        self.all_that_was_begun().await?;
        for (twin, takes) in new {
            let Some((next, missed_from)) = self.0.members.filling(twin) else { continue };
            let left = {
                let map = self.0.map.borrow();
                let mapped =
                    map.entries().filter(|(_, e)| e.slot.is_some() && e.lsn >= missed_from);
                mapped.filter(|(s, _)| s.0 >= next).count() as u64
            };
            let saved = (self.0.world.now(), 0);
            let filled = Filled { twin, takes, next, missed_from, first, done: 0, left, saved };
            rebuild.filled.borrow_mut().push(filled);
            self.tell_of_rebuild(&filled);
        }
        Ok(())
    }

    /// Waits for everything that may have written to a member before its twin was there: requests,
    /// and a destage.
    async fn all_that_was_begun(&self) -> Result<(), Break> {
        let inner = &self.0;
        inner.generation.set(inner.generation.get() + 1);
        inner.earlier.set(inner.requests.get());
        while inner.earlier.get() > 0 {
            self.may_go_on()?;
            either(inner.quiet.wait(), inner.rebuild.changed.wait()).await;
        }
        drop(inner.destage_lock.lock().await);
        Ok(())
    }

    /// Writes what belongs on those that are not there yet. Gives who got it.
    async fn fill_stripe(
        &self,
        stripe: Stripe,
        all: &[Filled],
    ) -> Result<Vec<MemberIndex>, Halted> {
        let g = &self.0.geometry.get();
        let _guard = self.0.locks.stripe(stripe).await;
        let entry = self.0.map.borrow().get(stripe);
        let Some(slot) = entry.slot else { return Ok(Vec::new()) };
        let forgotten = broken(Sabotage::ChangesForgotten);
        let lacks = |f: &&Filled| {
            let changed = entry.lsn >= f.missed_from && !(forgotten && f.missed_from > Lsn(0));
            f.next <= stripe.0 && changed
        };
        let twins: Vec<&Filled> = all.iter().filter(lacks).collect();
        if twins.is_empty() {
            return Ok(Vec::new());
        }
        let columns: Vec<usize> = twins.iter().map(|f| g.column_of(slot, f.takes)).collect();
        match self.read_rows_and_lost(stripe, slot, 0, g.chunk_blocks, &columns).await {
            Ok(found) => {
                let at = g.byte_of(slot, 0);
                let writes = twins
                    .iter()
                    .zip(found.columns)
                    .map(|(f, bytes)| self.0.members.write_twin(f.twin, at, vec![bytes.freeze()]));
                for done in join_all(writes.collect()).await {
                    done?;
                }
            }
            Err(_) => self.fill_what_is_left(stripe, slot, &twins, &columns).await?,
        }
        Ok(twins.iter().map(|f| f.twin).collect())
    }

    /// The same, row by row. If too much of a row is unreadable or wrong, the stripe is placed anew
    /// without its blocks, which are lost.
    async fn fill_what_is_left(
        &self,
        stripe: Stripe,
        slot: Slot,
        twins: &[&Filled],
        columns: &[usize],
    ) -> Result<(), Halted> {
        let g = &self.0.geometry.get();
        for row in 0..g.chunk_blocks {
            if row % 16 == 15 {
                after_the_ready().await;
            }
            match self.read_rows_and_lost(stripe, slot, row, 1, columns).await {
                Ok(found) => {
                    for (f, bytes) in twins.iter().zip(found.columns) {
                        let at = g.byte_of(slot, row);
                        self.0.members.write_twin(f.twin, at, vec![bytes.freeze()]).await?;
                    }
                }
                Err(RequestError::Io) if !self.0.members.is_halted() => {
                    let lost = self.place_again(stripe, slot, None).await?;
                    self.tell_of_lost(stripe, lost);
                    return Ok(());
                }
                Err(_) => return Err(Halted),
            }
        }
        Ok(())
    }

    /// A twin of which all stripes are there becomes the member.
    async fn seat(&self, filled: Filled) -> Result<(), Break> {
        if !broken(Sabotage::PagesNotFilled) {
            self.fill_pages(filled.twin, filled.takes).await?;
        }
        if !broken(Sabotage::SeatBeforeTail) {
            self.pass_the_tail(filled.first).await?;
        }
        self.durable_where_it_lies().await?;
        let (_, path, ..) = self.0.members.describe(filled.twin);
        if self.0.members.take_the_place(filled.twin).await? {
            self.0.sums.forget_bad_of(filled.takes);
            self.tell_of_seat(&path);
            self.0.rebuild.filled.borrow_mut().retain(|f| f.twin != filled.twin);
        }
        Ok(())
    }

    /// Waits until the tail has passed every commit before this one.
    async fn pass_the_tail(&self, first: CommitNumber) -> Result<(), Break> {
        let needed = || self.0.journal.needed_commits().first().copied();
        while needed().is_some_and(|n| n < first) {
            self.leave_the_log_behind().await?;
            if needed().is_some_and(|n| n < first) {
                // Rows that cannot be destaged now may be later.
                let changed = self.0.rebuild.changed.wait();
                either(self.0.world.sleep(TAIL_TIME), changed).await;
            }
            self.may_go_on()?;
        }
        Ok(())
    }

    // ---- beside the requests ----

    /// Pauses while requests are slow, and lets whoever is ready run in any case.
    async fn let_requests_go_first(&self) -> Result<(), Break> {
        let rebuild = &self.0.rebuild;
        let pause = rebuild.courtesy.next_pause();
        if pause > Duration::ZERO && !rebuild.leaving.get() {
            either(self.0.world.sleep(pause), rebuild.changed.wait()).await;
        }
        after_the_ready().await;
        rebuild.rate.mark(self.0.world.now(), self.filled_bytes());
        self.may_go_on()
    }

    /// Waits where so many bytes more are more than `--rebuild-rate` allows.
    async fn keep_to_the_rate(&self, bytes: u64) {
        let (rebuild, world) = (&self.0.rebuild, &self.0.world);
        let wait = rebuild.limit.wait_after(bytes, self.0.options.rebuild_rate, world.now());
        if let Some(wait) = wait.filter(|_| !rebuild.leaving.get()) {
            either(world.sleep(wait), rebuild.changed.wait()).await;
        }
    }

    /// Writes down how far each is, if it is time.
    async fn save_filled(&self, all: bool) -> Result<(), Halted> {
        let now = self.0.world.now();
        let due = |f: &Filled| {
            let share = ((f.done + f.left) / SAVED_SHARE).max(1);
            let more = f.done > f.saved.1 && (all || now >= f.saved.0 + SAVED_TIME);
            more || f.done >= f.saved.1 + share
        };
        let due: Vec<Filled> =
            self.0.rebuild.filled.borrow().iter().filter(|f| due(f)).copied().collect();
        if due.is_empty() {
            return Ok(());
        }
        self.durable_where_it_lies().await?;
        for f in due {
            self.0.members.filled_up_to(f.twin, f.next).await?;
            let mut filled = self.0.rebuild.filled.borrow_mut();
            if let Some(own) = filled.iter_mut().find(|own| own.twin == f.twin) {
                own.saved = (now, f.done);
            }
        }
        Ok(())
    }

    /// A stripe was filled, or passed over, by the map in memory: waits until a crash can take none of
    /// it back. Else the stripe would lie again in a slot of which a twin has nothing.
    async fn durable_where_it_lies(&self) -> Result<(), Halted> {
        if broken(Sabotage::FilledBeforePlace) {
            return Ok(());
        }
        self.0.journal.durable(self.0.journal.last_lsn()).await
    }

    fn filled_bytes(&self) -> u64 {
        let done: u64 = self.0.rebuild.filled.borrow().iter().map(|f| f.done).sum();
        done * self.0.geometry.get().chunk_bytes()
    }

    /// What is being rebuilt.
    pub(super) fn rebuild_status(&self) -> Option<RebuildStatus> {
        let filled = self.0.rebuild.filled.borrow();
        let last = filled.iter().max_by_key(|f| f.left);
        let member = match last {
            Some(f) => f.takes,
            None => self.0.members.twins().first()?.1,
        };
        let chunk = self.0.geometry.get().chunk_bytes();
        let left = filled.iter().map(|f| f.left).sum::<u64>() * chunk;
        let done = filled.iter().map(|f| f.done).sum::<u64>() * chunk;
        drop(filled);
        let rate = self.0.rebuild.rate.per_second(self.0.world.now(), done);
        Some(RebuildStatus {
            member: member.0,
            done_bytes: done,
            total_bytes: done + left,
            bytes_per_s: rate,
            eta_s: (rate > 0).then(|| left.div_ceil(rate)),
        })
    }

    // ---- what is said of it ----

    fn tell_of_rebuild(&self, f: &Filled) {
        let (name, members) = (self.name(), &self.0.members);
        let (_, path, ..) = members.describe(f.twin);
        let (_, old, ..) = members.describe(f.takes);
        let chunk = self.0.geometry.get().chunk_bytes();
        if f.next > 0 {
            members.tell(news::rebuild_goes_on(&name, &path, f.left * chunk));
            return;
        }
        let old = if old.is_empty() { format!("member {}", f.takes) } else { old };
        members.tell(news::spare_steps_in(&name, &path, &old));
        members.tell(news::rebuild_begins(&name, &path, f.left * chunk));
    }

    fn tell_of_progress(&self, before: &Filled, now: &Filled) {
        let percent = |f: &Filled| f.done * 100 / (f.done + f.left).max(1);
        let (_, path, ..) = self.0.members.describe(now.twin);
        let passed = news::rebuild_passes(&self.name(), &path, percent(before), percent(now));
        passed.into_iter().for_each(|event| self.0.members.tell(event));
    }

    fn tell_of_seat(&self, path: &str) {
        let (name, members) = (self.name(), &self.0.members);
        let epoch = members.superblock().epoch;
        members.tell(news::rebuild_ended(&name, path, epoch, members.can_lose()));
        members.tell(news::spare_is_active(&name, path));
    }

    fn tell_of_lost(&self, stripe: Stripe, lost: Option<u64>) {
        let text = match lost {
            Some(0) => return,
            Some(n) => format!(
                "{n} blocks of stripe {stripe} cannot be rebuilt: too much of their rows is gone or \
                 wrong. They give EIO until they are overwritten."
            ),
            None => format!(
                "Stripe {stripe} cannot be rebuilt as a whole, and there is no room now to place \
                 what is left of it anew. What cannot be rebuilt gives EIO."
            ),
        };
        let text = format!("Array {}: {text}", self.name());
        self.0.members.tell(Event::of_array(EventKind::Mismatch, text));
    }
}
