//! Growth by more data columns, while both shapes are in use: stripes of the wider shape are made of
//! what the shape before holds, in ascending order beside the requests (`move_stripes`), and out of turn
//! where something is to be written to one (`move_first`). One such stripe (`move_stripe`):
//!
//! 1. a slot, room in ring and log, the stripe's lock;
//! 2. its content is read in the shape before and compared with its checksums there;
//! 3. all chunks into the slot, as for any whole stripe;
//! 4. its `Place` is appended; when that is durable, slots of before that nobody needs are free.
//!
//! When all are moved, an epoch forgets the shape before, and the device is as large as it can be. How it
//! begins is in `widen/prepare.rs` (while the array runs) and `widen/begin.rs` (after its stop).
//!
//! What must hold: nothing is written to a stripe that is backed by the shape before; so whatever is
//! dirty or in a slot of the wider shape is all there is of its stripe.

mod begin;
mod prepare;

pub use begin::widen;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::commit::rows_at_most;
use evenkeel_journal::log::{Halted, Item, Need};
use evenkeel_journal::record::Record;
use evenkeel_journal::ring::record_bytes;
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::{Signal, after_the_ready, either, join_all};
use evenkeel_journal::{BLOCK, Buf, Lsn, Stripe, World};

use super::Array;
use super::background::{Courtesy, Limit, Rate};
use super::before::Plane;
use super::grow::Grown;
use super::lost;
use super::slots::{DESTAGE_RESERVE, Promise};
use super::write::Piece;
use crate::checksums::LOST_SUM;
use crate::error::{ArrayError, ErrorKind, RequestError};
use crate::status::GrowStatus;

/// Stripes that are moved together, at most: as many as slots are kept for that.
const STRIPES_AT_ONCE: u64 = 8;
/// Bytes that they may take together; one stripe is moved in any case.
const BYTES_AT_ONCE: u64 = 16 << 20;
/// Stripes that are looked at without a pause.
const LOOKED_AT_ONCE: u64 = 4096;
/// The longest pause while requests are slow.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Before it is tried again what could not be done now.
const AGAIN: Duration = Duration::from_secs(1);

/// The growth of a running array.
pub(super) struct Widening {
    leaving: Cell<bool>,
    gone: Cell<bool>,
    /// Requests that wait for a permit.
    waiting: Cell<u64>,
    changed: Signal,
    pub courtesy: Courtesy,
    rate: Rate,
    limit: Limit,
    /// Bytes of the device before and after, when it has ended in this run.
    ended: RefCell<Option<Grown>>,
}

impl Widening {
    pub fn new() -> Widening {
        Widening {
            leaving: Cell::new(false),
            gone: Cell::new(true),
            waiting: Cell::new(0),
            changed: Signal::new(),
            courtesy: Courtesy::new(LONGEST_PAUSE),
            rate: Rate::default(),
            limit: Limit::default(),
            ended: RefCell::default(),
        }
    }
}

impl<W: World> Array<W> {
    /// Whether stripes of the shape before are still being moved to a wider one.
    #[must_use]
    pub fn is_growing(&self) -> bool {
        self.0.before.borrow().is_some()
    }

    /// Waits until no stripes are being moved to a wider shape any more. Gives the sizes of the device
    /// before and after if that ended since the array was started.
    ///
    /// # Errors
    /// If the array stops, is read-only, or has lost too much: the next start goes on with it.
    pub async fn grown(&self) -> Result<Option<Grown>, ArrayError> {
        let widening = &self.0.widening;
        while self.is_growing() {
            if widening.gone.get() || widening.leaving.get() || self.0.members.is_halted() {
                let text = "Moving the stripes was broken off, since the array stops, is read-only, or \
                            too many members are gone. The next start goes on with it.";
                return Err(ArrayError::new(ErrorKind::Failed, text));
            }
            either(widening.changed.wait(), self.0.members.changed().wait()).await;
        }
        Ok(*widening.ended.borrow())
    }

    /// Moves what is left to be moved, if anything is, for as long as the array runs.
    pub(super) fn spawn_moving(&self) {
        let Some(plane) = self.before() else { return };
        self.0.widening.gone.set(false);
        self.0.widening.courtesy.begin();
        let this = self.clone();
        self.0.world.spawn("move stripes", async move {
            // If members fail the array halts, and says so.
            let _ = this.move_stripes(&plane).await;
            this.0.widening.gone.set(true);
            this.0.widening.changed.notify();
        });
    }

    /// The array stops: ends the moving, which the next start goes on with.
    pub(super) async fn leave_moving(&self) {
        let widening = &self.0.widening;
        widening.leaving.set(true);
        widening.changed.notify();
        while !widening.gone.get() {
            widening.changed.wait().await;
        }
    }

    async fn move_stripes(&self, plane: &Rc<Plane>) -> Result<(), Halted> {
        let g = &self.0.geometry.get();
        let of_stripe = g.chunk_bytes() * g.members() as u64;
        let most = (BYTES_AT_ONCE / of_stripe).clamp(1, STRIPES_AT_ONCE) as usize;
        while plane.next() < plane.end {
            if !self.may_move_on().await? {
                return Ok(());
            }
            let mut next = plane.next();
            let mut some = Vec::new();
            let far = plane.end.min(next + LOOKED_AT_ONCE);
            while next < far && some.len() < most {
                if self.is_backed(Stripe(next)) {
                    some.push(Stripe(next));
                }
                next += 1;
            }
            let Some(mut promise) = self.slots_to_move(some.len()).await? else {
                return Ok(());
            };
            let moves = some.iter().map(|s| self.move_stripe(plane, *s, promise.split_off(1)));
            let moves = moves.collect();
            let mut left = None;
            for (stripe, done) in some.iter().zip(join_all(moves).await) {
                match done {
                    Ok(()) => {}
                    Err(RequestError::Io) if !self.0.members.is_halted() => {
                        left = left.or(Some(stripe.0));
                    }
                    Err(_) => return Err(Halted),
                }
            }
            plane.passed(left.unwrap_or(next));
            self.0.widening.rate.mark(self.0.world.now(), self.moved_bytes(plane));
            self.keep_to_the_move_rate(some.len() as u64 * of_stripe).await;
            if left.is_some() {
                // What is lost cannot be marked now: the log is short, or too much is lost already.
                either(self.0.world.sleep(AGAIN), self.0.widening.changed.wait()).await;
            }
        }
        self.forget_before(plane).await
    }

    /// Pauses while requests are slow, and lets whoever is ready run in any case. False: the array stops.
    async fn may_move_on(&self) -> Result<bool, Halted> {
        let widening = &self.0.widening;
        let pause = widening.courtesy.next_pause();
        let hurried = widening.leaving.get() || widening.waiting.get() > 0;
        if pause > Duration::ZERO && !hurried {
            either(self.0.world.sleep(pause), widening.changed.wait()).await;
        }
        after_the_ready().await;
        if self.0.members.is_halted() {
            return Err(Halted);
        }
        Ok(!widening.leaving.get())
    }

    /// Waits where so many bytes more are more than `--rebuild-rate` allows; not while somebody waits
    /// for stripes to be moved.
    async fn keep_to_the_move_rate(&self, bytes: u64) {
        let (widening, world) = (&self.0.widening, &self.0.world);
        let wait = widening.limit.wait_after(bytes, self.0.options.rebuild_rate, world.now());
        if let Some(wait) = wait.filter(|_| !widening.leaving.get() && widening.waiting.get() == 0)
        {
            either(world.sleep(wait), widening.changed.wait()).await;
        }
    }

    /// Slots for so many stripes. None: the array stops.
    async fn slots_to_move(&self, n: usize) -> Result<Option<Promise>, Halted> {
        let slots = &self.0.slots;
        if n == 0 {
            return Ok(Some(slots.none()));
        }
        loop {
            let freed = slots.freed().wait();
            if let Some(p) = slots.try_promise(n, DESTAGE_RESERVE) {
                return Ok(Some(p));
            }
            // What was moved before gives some back when it is durable.
            self.0.journal.durable(self.0.journal.last_lsn()).await?;
            if let Some(p) = slots.try_promise(n, DESTAGE_RESERVE) {
                return Ok(Some(p));
            }
            if self.0.widening.leaving.get() {
                return Ok(None);
            }
            either(freed, self.0.widening.changed.wait()).await;
        }
    }

    /// Moves the stripes of these pieces that are backed: after this they may be written to. Those that
    /// are to be `placed` as a whole need no more than a permit.
    pub(super) async fn move_first(
        &self,
        pieces: &[Piece],
        placed: bool,
    ) -> Result<(), RequestError> {
        let Some(plane) = self.before() else { return Ok(()) };
        let of_stripe = self.0.geometry.get().stripe_blocks();
        for p in pieces {
            self.wait_for_permit(&plane, p.stripe).await?;
            let whole = placed && u64::from(p.count) == of_stripe;
            if whole || broken(Sabotage::WrittenBeforeMoved) {
                continue;
            }
            if self.is_backed(p.stripe) {
                // The array stops only when this request has ended.
                let promise = self.slots_to_move(1).await?.ok_or(RequestError::Stopping)?;
                self.move_stripe(&plane, p.stripe, promise).await?;
            }
        }
        Ok(())
    }

    async fn wait_for_permit(&self, plane: &Plane, stripe: Stripe) -> Result<(), RequestError> {
        if plane.permit(stripe) {
            return Ok(());
        }
        // It is in a hurry now.
        let widening = &self.0.widening;
        widening.waiting.set(widening.waiting.get() + 1);
        widening.changed.notify();
        let done = loop {
            let changed = plane.changed.wait();
            if plane.permit(stripe) {
                break Ok(());
            }
            if self.0.members.is_halted() {
                break Err(RequestError::Io);
            }
            either(changed, self.0.members.changed().wait()).await;
        };
        widening.waiting.set(widening.waiting.get() - 1);
        done
    }

    /// Makes a stripe of the wider shape of what the shape before holds, unless that has been done.
    ///
    /// # Errors
    /// `Io` if the array has lost too much; or if blocks are lost, and that cannot be marked now.
    async fn move_stripe(
        &self,
        plane: &Rc<Plane>,
        stripe: Stripe,
        mut promise: Promise,
    ) -> Result<(), RequestError> {
        // 1. Room, and the lock.
        let g = &self.0.geometry.get();
        let bytes = g.place_record_bytes();
        let rows = rows_at_most(0, bytes, g.log_width());
        let need = Need { places: 0, ring_bytes: record_bytes(bytes, 0), rows };
        let mut room = self.0.journal.reserve(need).await?;
        let _guard = self.0.locks.stripe(stripe).await;
        if !self.is_backed(stripe) {
            return Ok(());
        }
        // 2. What it holds.
        let blocks = g.stripe_blocks();
        let runs = self.runs_before(plane, stripe.0 * blocks, blocks);
        let mut data = Buf::zeroed(blocks as usize * BLOCK);
        let lost = self.what_is_left_before(plane, &runs, &mut data).await?;
        let mut marks = None;
        if !lost.is_empty() {
            marks = self.room_for_lost(stripe, &lost);
            // Without checksums a mark is all that tells a lost block from zeros.
            if marks.is_none() && !g.has_checksums() {
                return Err(RequestError::Io);
            }
        }
        // 3. Into its slot.
        let slot = self.0.slots.take(&mut promise);
        let mut crcs = self.write_slots(&[(slot, data.freeze())]).await?.remove(0);
        lost.iter().for_each(|block| crcs[*block as usize] = LOST_SUM);
        // 4. Its Place. Nothing of it was ever dirty.
        let horizon = Lsn(0);
        let place = Record::Place { stripe, slot, horizon, crcs: crcs.clone() };
        let mut items = vec![Item::bare(place)];
        let marked = if let Some(marks) = marks {
            room.join(marks);
            &lost[..]
        } else {
            &[]
        };
        items.extend(lost::items(stripe, marked));
        let lsn = self.0.journal.append(&mut room, items);
        self.moved(stripe, Some((slot, &crcs)), lsn, horizon);
        self.mark_lost(stripe, marked, lsn.next());
        Ok(())
    }

    /// Everything is moved: the shape before is forgotten, and the device has its new size.
    async fn forget_before(&self, plane: &Plane) -> Result<(), Halted> {
        if !broken(Sabotage::ForgottenBeforeMoved) {
            self.0.journal.durable(self.0.journal.last_lsn()).await?;
        }
        // No other growth meanwhile.
        let _turn = self.0.checkpoint_lock.lock().await;
        let before = self.size_bytes();
        let alone = self.0.geometry.get().alone();
        self.0.members.advance_shape(alone).await?;
        assert!(plane.left() == 0, "P4: nothing of the shape before is needed any more");
        self.0.geometry.set(alone);
        self.0.before.replace(None);
        let grown = Grown { before, after: self.size_bytes() };
        self.0.widening.ended.replace(Some(grown));
        self.0.widening.changed.notify();
        self.0.rebuild.notify();
        Ok(())
    }

    /// Bytes of the device that are moved, or hold nothing.
    fn moved_bytes(&self, plane: &Plane) -> u64 {
        let g = self.0.geometry.get();
        (plane.next() * g.stripe_blocks() * BLOCK as u64).min(self.size_bytes())
    }

    /// How far the moving is.
    pub(super) fn grow_status(&self) -> Option<GrowStatus> {
        let plane = self.before()?;
        let (done, total) = (self.moved_bytes(&plane), self.size_bytes());
        let rate = self.0.widening.rate.per_second(self.0.world.now(), done);
        Some(GrowStatus {
            done_bytes: done,
            total_bytes: total,
            bytes_per_s: rate,
            eta_s: (rate > 0).then(|| (total - done).div_ceil(rate)),
        })
    }
}
