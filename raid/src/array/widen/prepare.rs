//! Before an array stops to become wider: everything is looked at that could hinder it, and the last slots
//! are emptied, where the pages of the wider shape will lie. Requests go on meanwhile.
//!
//! What must hold: nothing is changed that a start without more columns would have to undo; an emptied
//! slot stays empty until the array stops.

use evenkeel_journal::sync::either;
use evenkeel_journal::{MemberIndex, Stripe, World};

use super::super::rebuild::{halted, refuse};
use super::AGAIN;
use crate::array::Array;
use crate::error::{ArrayError, ErrorKind};
use crate::geometry::Geometry;
use crate::status::MemberState;

impl<W: World> Array<W> {
    /// Checks that these spares can become members, each a data column more, and empties the last slots
    /// for the pages of the wider shape; they are not used again until the array stops. Gives the shape
    /// that it will have. Then stop the array, [`crate::widen`] its disks, and start it again.
    ///
    /// # Errors
    /// If the shape is not possible or does not fit; if the array is not whole, read-only or stops; if
    /// blocks are lost, or too many members fail.
    pub async fn prepare_to_widen(&self, more: &[MemberIndex]) -> Result<Geometry, ArrayError> {
        let wider = self.may_become_wider(more)?;
        let slots = &self.0.slots;
        while !slots.use_up_to(wider.slots) {
            // So many are promised to requests just now.
            let freed = slots.freed().wait();
            self.0.journal.durable(self.0.journal.last_lsn()).await.map_err(halted)?;
            either(freed, self.0.world.sleep(AGAIN)).await;
            self.may_be_changed()?;
        }
        let emptied = self.empty_from(wider.slots).await;
        if emptied.is_err() {
            self.stay_as_it_is();
        }
        emptied.map(|()| wider)
    }

    /// It will not become wider after all: the last slots are used again.
    pub fn stay_as_it_is(&self) {
        self.0.slots.use_up_to(self.0.geometry.get().slots);
    }

    /// The wider shape. Only how wide it is matters here; what its pages bear is drawn when it comes in
    /// force.
    fn may_become_wider(&self, more: &[MemberIndex]) -> Result<Geometry, ArrayError> {
        self.may_be_changed()?;
        let (g, members) = (self.0.geometry.get(), &self.0.members);
        let mut all = more.to_vec();
        all.sort_unstable();
        all.dedup();
        if all.is_empty() || all.len() < more.len() {
            return refuse(ErrorKind::Usage, "Every disk has to be named once, and one at least.");
        }
        self.is_whole()?;
        for m in &all {
            let (state, path, ..) = members.describe(*m);
            if m.at() < g.table() || state != MemberState::Spare {
                return refuse(
                    ErrorKind::Failed,
                    format!("{path} is {}: only a spare can become a member.", state.as_str()),
                );
            }
        }
        if self.0.lost.borrow().len() > 0 {
            return refuse(
                ErrorKind::Failed,
                "Blocks of the array are lost (status: lost_blocks). Overwrite or discard them first.",
            );
        }
        g.widened(all.len(), 1)
    }

    /// Moves every stripe that lies in a slot from `end` on.
    async fn empty_from(&self, end: u64) -> Result<(), ArrayError> {
        loop {
            self.may_be_changed()?;
            let freed = self.0.slots.freed().wait();
            let high: Vec<Stripe> = {
                let map = self.0.map.borrow();
                let is_high = |slot: evenkeel_journal::Slot| u64::from(slot.0) >= end;
                let high = map.entries().filter(|(_, e)| e.slot.is_some_and(is_high));
                high.map(|(stripe, _)| stripe).collect()
            };
            let mut stuck = false;
            for stripe in high {
                let _guard = self.0.locks.stripe(stripe).await;
                let slot = self.0.map.borrow().get(stripe).slot;
                let Some(slot) = slot.filter(|s| u64::from(s.0) >= end) else { continue };
                let lost = self.place_again(stripe, slot, None).await.map_err(halted)?;
                stuck |= lost.is_none();
                if lost.is_some_and(|n| n > 0) {
                    return refuse(
                        ErrorKind::Failed,
                        format!(
                            "Blocks of stripe {stripe} are lost. Overwrite or discard them first."
                        ),
                    );
                }
            }
            self.0.journal.durable(self.0.journal.last_lsn()).await.map_err(halted)?;
            if !self.0.slots.are_used_from(end) {
                return Ok(());
            }
            // Requests may just be writing there, or reading; or room in the log is short.
            self.wake_destage();
            let pause = self.0.world.sleep(AGAIN);
            if stuck {
                pause.await;
            } else {
                either(freed, pause).await;
            }
        }
    }
}
