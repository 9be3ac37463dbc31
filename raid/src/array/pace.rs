//! When destage runs: when the cache or the log fills, when blocks are old, and in idle time.
//! Two tasks: the destager, and a ticker that wakes it while something is dirty.

use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::log::Halted;
use evenkeel_journal::{Lsn, Stripe, World};

use super::Array;

/// Between two looks at idleness and age.
const TICK: Duration = Duration::from_secs(1);
/// A stripe is destaged when its oldest block is this old.
const MAX_AGE: Duration = Duration::from_secs(30);

impl<W: World> Array<W> {
    pub(super) fn spawn_destage(&self) {
        let destager = self.clone();
        self.0.world.spawn("destager", async move { destager.run_destage().await });
        let watcher = self.clone();
        self.0.world.spawn("halt watcher", async move {
            watcher.0.members.wait_halted(|| watcher.0.stopped.get()).await;
            // Whoever waits for room, slots or a commit is told.
            watcher.0.journal.halt();
            watcher.0.slots.freed().notify();
            watcher.0.sums.notify_saved();
            watcher.0.scrub.notify();
            watcher.0.rebuild.notify();
            watcher.0.quiet.notify();
            watcher.0.dirtied.notify();
        });
        let ticker = self.clone();
        self.0.world.spawn("destage ticker", ticker.run_ticker());
    }

    /// Something became dirty; if there is much of it, destage begins.
    pub(super) fn wake_destage(&self) {
        self.0.dirtied.notify();
        if self.cache_is_full() || self.log_is_full() {
            self.0.journal.pressure().notify();
        }
    }

    fn cache_is_full(&self) -> bool {
        let ring = self.0.journal.ring();
        self.0.journal.used_places() * 10 >= ring.places() * 6
    }

    fn sums_are_filling(&self) -> bool {
        self.0.sums.table.borrow().is_filling()
    }

    fn log_is_full(&self) -> bool {
        let (used, rows) = self.0.journal.used_rows();
        used * 2 >= rows
    }

    fn log_is_short(&self) -> bool {
        let (used, rows) = self.0.journal.used_rows();
        used * 4 >= rows * 3
    }

    fn has_work(&self) -> bool {
        self.0.cache.borrow().blocks > 0
            || self.0.map.borrow().unsaved() > 0
            || !self.0.sums.suspects().is_empty()
    }

    /// Asleep it does not keep the array: one that was stopped goes at once, with its memory.
    async fn run_ticker(mut self) {
        while !self.0.stopped.get() && !self.0.members.is_halted() {
            if self.has_work() {
                let (tick, array) = (self.0.world.sleep(TICK), Rc::downgrade(&self.0));
                drop(self);
                tick.await;
                let Some(inner) = array.upgrade() else { return };
                self = Array(inner);
                self.0.journal.pressure().notify();
            } else {
                self.0.dirtied.wait().await;
            }
        }
    }

    async fn run_destage(&self) {
        let mut begun = self.0.begun.get();
        let mut looked = self.0.world.now();
        while !self.0.stopped.get() && !self.0.members.is_halted() {
            let worked = if self.pressed() {
                self.make_room().await
            } else if self.0.world.now() - looked >= TICK {
                looked = self.0.world.now();
                let idle = begun == self.0.begun.get();
                begun = self.0.begun.get();
                self.in_idle_time(idle).await
            } else {
                Ok(false)
            };
            match worked {
                Ok(true) => {}
                Ok(false) => self.0.journal.pressure().wait().await,
                Err(Halted) => return,
            }
        }
    }

    fn pressed(&self) -> bool {
        self.0.journal.room_is_wanted()
            || self.cache_is_full()
            || self.log_is_full()
            || self.sums_are_filling()
    }

    /// Frees cache and log: the oldest stripes are destaged, then the map goes home, so that the
    /// tail moves on. False if there was nothing to do.
    async fn make_room(&self) -> Result<bool, Halted> {
        let (used, _) = self.0.journal.used_rows();
        let wanted = self.0.journal.room_is_wanted();
        let short = self.log_is_short() || wanted;
        let mut worked = false;
        if self.sums_are_filling() {
            let before = self.0.sums.table.borrow().unsaved_bytes();
            self.checkpoint().await?;
            // What a destage has just logged stays until its rows are in place.
            worked = self.0.sums.table.borrow().unsaved_bytes() < before;
        }
        if self.log_is_full() || wanted {
            let oldest = self.0.journal.oldest(used / 2);
            let old = self.stripes_up_to(oldest);
            for batch in old.chunks(self.batch()) {
                worked |= self.destage(batch, short).await? < batch.len();
            }
            if self.0.map.borrow().unsaved() > 0 {
                self.checkpoint().await?;
                worked = true;
            }
            worked |= self.renew_lost(oldest);
        }
        if self.cache_is_full() || (wanted && !worked) {
            let some = self.oldest_stripes(4 * self.batch());
            for batch in some.chunks(self.batch()) {
                worked |= self.destage(batch, short).await? < batch.len();
            }
        }
        if worked && self.log_is_full() {
            // What was released moves the tail once a commit says so.
            self.0.journal.move_tail();
        }
        Ok(worked)
    }

    /// Destages everything while nothing is written, and what is old anyway.
    async fn in_idle_time(&self, idle: bool) -> Result<bool, Halted> {
        let now = self.0.world.now();
        let due: Vec<Stripe> = {
            let cache = self.0.cache.borrow();
            let due = cache.stripes.iter().filter(|(_, s)| idle || now - s.since >= MAX_AGE);
            due.map(|(stripe, _)| *stripe).collect()
        };
        for batch in due.chunks(self.batch()) {
            let before = self.0.begun.get();
            self.destage(batch, false).await?;
            if idle && before != self.0.begun.get() {
                return Ok(false);
            }
        }
        let to_write = self.0.map.borrow().unsaved() > 0 || !self.0.sums.suspects().is_empty();
        if idle && to_write && self.0.cache.borrow().blocks == 0 {
            self.checkpoint().await?;
        }
        Ok(false)
    }

    /// Stripes with a block whose Write is at or before `lsn`, in stripe order.
    fn stripes_up_to(&self, lsn: Lsn) -> Vec<Stripe> {
        let cache = self.0.cache.borrow();
        cache.stripes.iter().filter(|(_, s)| s.oldest() <= lsn).map(|(s, _)| *s).collect()
    }

    /// Some stripes: whole ones first, then those with the oldest blocks; in stripe order.
    fn oldest_stripes(&self, some: usize) -> Vec<Stripe> {
        let cache = self.0.cache.borrow();
        let whole = self.0.geometry.get().stripe_blocks() as usize;
        let mut all: Vec<(bool, Lsn, Stripe)> = cache
            .stripes
            .iter()
            .map(|(stripe, s)| (s.blocks.len() < whole, s.oldest(), *stripe))
            .collect();
        all.sort_unstable();
        let mut stripes: Vec<Stripe> = all.into_iter().take(some).map(|s| s.2).collect();
        stripes.sort_unstable();
        stripes
    }
}
