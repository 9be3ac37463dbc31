//! The stop: requests end, the cache is destaged, the log emptied, and the superblocks say `clean`.

use evenkeel_journal::World;
use evenkeel_journal::log::Halted;

use super::Array;
use crate::error::{ArrayError, ErrorKind};

impl<W: World> Array<W> {
    /// Stops: no request is taken any more; what was taken ends first.
    ///
    /// # Errors
    /// If members fail meanwhile, or rows cannot be destaged: the log stays as it is, nothing
    /// that was acknowledged is lost, and a later start replays it.
    pub async fn stop(&self) -> Result<(), ArrayError> {
        self.0.stopping.set(true);
        while self.0.requests.get() > 0 {
            self.0.quiet.wait().await;
        }
        self.leave_scrub().await;
        self.leave_rebuild().await;
        self.leave_moving().await;
        let done = if self.0.options.read_only { Ok(()) } else { self.empty_the_log().await };
        self.0.stopped.set(true);
        self.0.journal.halt();
        self.0.members.wake();
        self.0.dirtied.notify();
        self.0.scrub.notify();
        if done.is_ok() || self.0.options.read_only {
            let _ = self.0.world.remove_ring(self.0.ring_id.get());
        }
        done.map_err(|Halted| {
            ArrayError::new(
                ErrorKind::Failed,
                "The array stopped without emptying its log, because members failed. What was \
                 acknowledged is in the log; the next start replays it.",
            )
        })
    }

    async fn empty_the_log(&self) -> Result<(), Halted> {
        if self.destage_all().await.is_err() {
            return Err(Halted);
        }
        self.checkpoint().await?;
        self.0.journal.close().await?;
        // Marks of lost blocks live in the log alone.
        let clean = self.0.lost.borrow().len() == 0;
        self.0.members.advance_epoch(|s| (s.clean, s.ring) = (clean, 0)).await
    }
}
