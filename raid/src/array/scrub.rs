//! The scrub: everything that the members hold is looked at and compared, and what is wrong is
//! made right. In this order: every mapped stripe, a few at a time (`scrub/stripes.rs`); then the
//! pages of map and checksums, the copies of the superblock, and the columns of the log
//! (`scrub/metadata.rs`). It is begun by a person, or by itself after a while (`scrub/due.rs`).
//!
//! What must hold: requests come first (it pauses while they are slow); it keeps no more than
//! `STRIPES_AT_ONCE` stripes in memory; what it says it has healed is flushed before that is
//! written down; a start goes on where it was; and with check-only nothing is written but its own
//! progress.

mod due;
mod metadata;
mod stripes;

use std::cell::Cell;
use std::time::Duration;

use evenkeel_journal::log::Halted;
use evenkeel_journal::sync::{Signal, after_the_ready, either, join_all};
use evenkeel_journal::{BLOCK, Buf, Stripe, World};

use super::Array;
use super::background::{Courtesy, Rate};
use crate::error::{ArrayError, ErrorKind};
use crate::news;
use crate::scrub::{Run, RunState, ScrubPage, Tally};
use crate::status::ScrubStatus;

/// Its longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Stripes that are looked at together, at most.
const STRIPES_AT_ONCE: usize = 4;
/// Bytes that they may take together; one stripe is looked at in any case.
const BYTES_AT_ONCE: u64 = 8 << 20;
/// Its progress is written down after so many bytes, or after a part of all that is in use,
const SAVED_BYTES: u64 = 64 << 20;
/// which is one of so many;
const SAVED_SHARE: u64 = 8;
/// or after this time.
const SAVED_TIME: Duration = Duration::from_secs(10);

/// Why a scrub ends before it is through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Break {
    /// A person said so.
    Stopped,
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

/// The scrub of a running array.
pub(super) struct Scrub {
    now: Cell<Option<Run>>,
    last: Cell<Option<Run>>,
    /// How it is to end, if it is to.
    order: Cell<Option<Break>>,
    /// Its beginning is written down.
    begun: Cell<bool>,
    /// It began or ended, or is to end.
    changed: Signal,
    /// Generation and place of its page.
    page: Cell<(u64, u8)>,
    pub courtesy: Courtesy,
    rate: Rate,
    saved: Cell<(Duration, u64)>,
}

impl Scrub {
    pub fn new() -> Scrub {
        Scrub {
            now: Cell::new(None),
            last: Cell::new(None),
            order: Cell::new(None),
            begun: Cell::new(false),
            changed: Signal::new(),
            page: Cell::new((0, 0)),
            courtesy: Courtesy::new(LONGEST_PAUSE),
            rate: Rate::default(),
            saved: Cell::default(),
        }
    }

    /// Whether one is under way: then the time that requests take is measured.
    pub fn is_running(&self) -> bool {
        self.now.get().is_some()
    }

    /// Something happened that may end it.
    pub fn notify(&self) {
        self.changed.notify();
    }

    fn run(&self) -> Run {
        self.now.get().expect("a scrub is under way")
    }
}

impl<W: World> Array<W> {
    /// Begins a scrub; when this returns, a start goes on with it should the daemon die. With
    /// `check_only` nothing is made right.
    ///
    /// # Errors
    /// If one is under way, or the array cannot be written to and more than a look is wanted.
    pub async fn start_scrub(&self, check_only: bool) -> Result<(), ArrayError> {
        self.begin_scrub_because(check_only, None).await
    }

    /// The same; `overdue`: by itself, since there was none for so long.
    async fn begin_scrub_because(
        &self,
        check_only: bool,
        overdue: Option<Duration>,
    ) -> Result<(), ArrayError> {
        let refuse = |m: &str| Err(ArrayError::new(ErrorKind::Failed, m));
        if self.0.stopping.get() {
            return refuse("The array is being stopped; no scrub was begun.");
        }
        if self.0.members.is_halted() {
            return refuse(
                "More members are gone than the array tolerates, so nothing can be compared. No \
                 scrub was begun.",
            );
        }
        if self.0.options.read_only && !check_only {
            return refuse(
                "The array was started read-only, so a scrub can only look: evenkeel scrub NAME \
                 --check-only. None was begun.",
            );
        }
        if self.0.scrub.is_running() {
            return refuse("A scrub of this array is under way already; it goes on as it was.");
        }
        if self.is_growing() {
            return refuse(
                "Stripes are being moved to the disks that were added, and each is compared on its \
                 way. No scrub was begun; wait for that first (evenkeel wait NAME grow).",
            );
        }
        let sums = self.0.geometry.get().has_checksums();
        self.0.members.tell(news::scrub_begins(&self.name(), check_only, sums, overdue));
        self.begin_scrub(Run::begun(check_only, self.0.world.wall_clock()));
        let scrub = &self.0.scrub;
        while scrub.is_running() && !scrub.begun.get() {
            scrub.changed.wait().await;
        }
        Ok(())
    }

    /// Has the scrub end, which is not gone on with later. Waits until it has.
    ///
    /// # Errors
    /// If none is under way.
    pub async fn stop_scrub(&self) -> Result<(), ArrayError> {
        if !self.0.scrub.is_running() {
            let text = "No scrub of this array is under way; nothing was changed.";
            return Err(ArrayError::new(ErrorKind::Failed, text));
        }
        self.end_scrub(Break::Stopped).await;
        Ok(())
    }

    /// Waits until no scrub is under way.
    ///
    /// # Errors
    /// If it was broken off: the array stops, or too many members are gone.
    pub async fn scrub_ended(&self) -> Result<(), ArrayError> {
        let scrub = &self.0.scrub;
        if !scrub.is_running() {
            return Ok(());
        }
        while scrub.is_running() {
            scrub.changed.wait().await;
        }
        if scrub.last.get().is_some_and(|run| run.state == RunState::UnderWay) {
            let text = "The scrub was broken off, since the array stops or too many members are \
                        gone. The next start goes on with it.";
            return Err(ArrayError::new(ErrorKind::Failed, text));
        }
        Ok(())
    }

    /// The array stops: ends the scrub, which the next start goes on with.
    pub(super) async fn leave_scrub(&self) {
        if self.0.scrub.is_running() {
            self.end_scrub(Break::Leaving).await;
        }
    }

    async fn end_scrub(&self, how: Break) {
        let scrub = &self.0.scrub;
        // That the array stops counts more: what is left of the scrub is done another time.
        if scrub.order.get() != Some(Break::Leaving) {
            scrub.order.set(Some(how));
        }
        scrub.changed.notify();
        while scrub.is_running() {
            scrub.changed.wait().await;
        }
    }

    /// What was written down of the last scrub; one that had not ended goes on.
    pub(super) async fn resume_scrub(&self) {
        let Some((generation, place, page)) = self.read_scrub_page().await else {
            return;
        };
        self.0.scrub.page.set((generation, place));
        self.0.scrub.last.set(page.last);
        match page.now {
            Some(mut run) if !self.0.options.read_only => {
                run.next = run.next.min(self.end_of_scrub());
                self.0.members.tell(news::scrub_goes_on(&self.name(), &run));
                self.begin_scrub(run);
            }
            _ => {}
        }
    }

    fn begin_scrub(&self, run: Run) {
        let scrub = &self.0.scrub;
        scrub.order.set(None);
        scrub.begun.set(false);
        scrub.courtesy.begin();
        scrub.rate.begin();
        scrub.now.set(Some(run));
        let this = self.clone();
        self.0.world.spawn("scrub", async move { this.run_scrub().await });
    }

    async fn run_scrub(&self) {
        let (scrub, name) = (&self.0.scrub, self.name());
        let done = self.scrub_all().await;
        let mut run = scrub.run();
        let ended = match done {
            Ok(()) => Some(RunState::Ended),
            Err(Break::Stopped) => Some(RunState::Stopped),
            Err(Break::Leaving | Break::Halted) => None,
        };
        if let Some(state) = ended {
            (run.state, run.ended) = (state, self.0.world.wall_clock());
        }
        if done != Err(Break::Halted) {
            let page = match ended {
                Some(_) => ScrubPage { now: None, last: Some(run) },
                None => ScrubPage { now: Some(run), last: scrub.last.get() },
            };
            // If members fail the array halts, and says so.
            let _ = self.write_scrub_page(page).await;
        }
        self.0.members.tell(news::scrub_ended(&name, &run));
        scrub.last.set(Some(run));
        scrub.now.set(None);
        scrub.changed.notify();
    }

    async fn scrub_all(&self) -> Result<(), Break> {
        let scrub = &self.0.scrub;
        self.save_scrub().await?;
        scrub.begun.set(true);
        scrub.changed.notify();
        let g = &self.0.geometry.get();
        let of_stripe = g.chunk_bytes() * g.members() as u64;
        let most = (BYTES_AT_ONCE / of_stripe).clamp(1, STRIPES_AT_ONCE as u64) as usize;
        while scrub.run().next < g.stripes {
            self.let_others_go_first().await?;
            let run = scrub.run();
            let some = self.0.map.borrow().next_mapped(Stripe(run.next), most);
            let next = some.last().map_or(g.stripes, |s| s.0 + 1);
            let looks = some.iter().map(|s| self.scrub_stripe(*s, run.check_only));
            let mut found = Tally::default();
            for tally in join_all(looks.collect()).await {
                found += tally?;
            }
            self.scrubbed(next, of_stripe * some.len() as u64, found).await?;
        }
        self.scrub_metadata(scrub.run().check_only).await
    }

    /// All before `next` was looked at: so many bytes more, and this was found in them.
    async fn scrubbed(&self, next: u64, bytes: u64, found: Tally) -> Result<(), Break> {
        let scrub = &self.0.scrub;
        let mut run = scrub.run();
        run.next = next;
        run.done_bytes = run.done_bytes.saturating_add(bytes);
        run.tally += found;
        scrub.now.set(Some(run));
        let (then, before) = scrub.saved.get();
        let share = self.scrub_total(&run) / SAVED_SHARE;
        let due = run.done_bytes >= before + share.min(SAVED_BYTES)
            || self.0.world.now() >= then + SAVED_TIME;
        if due { self.save_scrub().await } else { Ok(()) }
    }

    /// Pauses while requests are slow, and lets whoever is ready run in any case.
    async fn let_others_go_first(&self) -> Result<(), Break> {
        let scrub = &self.0.scrub;
        let pause = scrub.courtesy.next_pause();
        if pause > Duration::ZERO && scrub.order.get().is_none() {
            either(self.0.world.sleep(pause), scrub.changed.wait()).await;
        }
        after_the_ready().await;
        scrub.rate.mark(self.0.world.now(), scrub.run().done_bytes);
        match scrub.order.get() {
            Some(order) => Err(order),
            None if self.0.members.is_halted() => Err(Break::Halted),
            None => Ok(()),
        }
    }

    // ---- what is written down ----

    async fn save_scrub(&self) -> Result<(), Break> {
        let (run, last) = (self.0.scrub.run(), self.0.scrub.last.get());
        self.0.scrub.saved.set((self.0.world.now(), run.done_bytes));
        Ok(self.write_scrub_page(ScrubPage { now: Some(run), last }).await?)
    }

    /// Writes the scrub's page, where the array has one.
    async fn write_scrub_page(&self, page: ScrubPage) -> Result<(), Halted> {
        let (g, members) = (&self.0.geometry.get(), &self.0.members);
        if !g.has_checksums() || self.0.options.read_only {
            return Ok(());
        }
        // What is counted as healed stays so.
        members.flush_members().await?;
        let (generation, place) = self.0.scrub.page.get();
        let (generation, place) = (generation + 1, 1 - place);
        let bytes = page.encode(members.pages_are_of(), place, generation).freeze();
        let writes = g
            .sum_page_copies(0, place)
            .into_iter()
            .map(|(member, at)| members.write(member, at, vec![bytes.clone()]));
        for done in join_all(writes.collect()).await {
            done?;
        }
        members.flush_members().await?;
        self.0.scrub.page.set((generation, place));
        Ok(())
    }

    /// The newest copy of the scrub's page: generation, place, content.
    async fn read_scrub_page(&self) -> Option<(u64, u8, ScrubPage)> {
        let (g, members) = (&self.0.geometry.get(), &self.0.members);
        if !g.has_checksums() {
            return None;
        }
        let places = [0, 1].into_iter().flat_map(|place| g.sum_page_copies(0, place));
        let reads = places.map(|(member, at)| members.read(member, at, Buf::new(BLOCK)));
        let found = join_all(reads.collect()).await.into_iter().flatten();
        let pages = found.filter_map(|b| ScrubPage::decode(&b, members.pages_are_of()));
        let (head, page) = pages.max_by_key(|(head, _)| head.generation)?;
        Some((head.generation, head.place, page))
    }

    // ---- what is said of it ----

    /// The scrub under way, or the last one.
    pub(super) fn scrub_status(&self) -> Option<ScrubStatus> {
        let scrub = &self.0.scrub;
        let run = scrub.now.get().or(scrub.last.get())?;
        let running = scrub.is_running();
        let total = if running { self.scrub_total(&run) } else { run.done_bytes };
        let now = self.0.world.now();
        let rate = if running { scrub.rate.per_second(now, run.done_bytes) } else { 0 };
        Some(ScrubStatus {
            done_bytes: run.done_bytes,
            total_bytes: total,
            mismatches: run.tally.mismatches,
            healed: run.tally.healed,
            unrepairable: run.tally.unrepairable,
            running,
            check_only: run.check_only,
            stopped: run.state == RunState::Stopped,
            started: run.started,
            ended: (run.ended > 0).then_some(run.ended),
            bytes_per_s: rate,
            eta_s: (rate > 0).then(|| (total - run.done_bytes).div_ceil(rate)),
        })
    }

    /// Bytes in all: stripes come into use, and go, meanwhile.
    fn scrub_total(&self, run: &Run) -> u64 {
        let g = &self.0.geometry.get();
        let of_stripe = g.chunk_bytes() * g.members() as u64;
        let left = if run.next < g.stripes {
            let mapped = self.0.map.borrow().mapped();
            mapped.saturating_sub(run.done_bytes / of_stripe).min(g.stripes - run.next) * of_stripe
        } else {
            0
        };
        run.done_bytes + left + self.metadata_left(run.next)
    }
}
