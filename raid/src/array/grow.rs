//! Growing: what all members have beyond what is used of them becomes stripes of the device.
//!
//! In this order (`grow_size`):
//!
//! 1. everything is looked at: the array is whole, and every disk large enough, as it is now: it may have
//!    become larger since it was opened;
//! 2. the root pages that the larger map has more are written, behind what is used so far, and flushed;
//! 3. an epoch names the new shape (I6): from here on a start finds the larger array;
//! 4. map, checksums and slots have the new ones, all of them empty, and requests may name them.
//!
//! What must hold: nothing that is there moves (`geometry/growth.rs`), so requests go on meanwhile, and
//! nothing uses what is new before the epoch is in force.

use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::join_all;
use evenkeel_journal::{Bounded, Disk, Lsn, MemberIndex, World};

use super::Array;
use super::rebuild::{halted, refuse};
use crate::error::{ArrayError, ErrorKind};
use crate::geometry::Geometry;
use crate::map::{PageWrite, write_pages};
use crate::status::MemberState;

/// Bytes of the device before and after it has grown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grown {
    /// Before.
    pub before: u64,
    /// Now.
    pub after: u64,
}

impl<W: World> Array<W> {
    /// Uses what all members have beyond what is used of them now. Requests go on; when this returns
    /// [`Array::size_bytes`] is the new size.
    ///
    /// # Errors
    /// Before anything is written: a disk is too small (`TooSmall`), the array is not whole, or takes no
    /// writes (`Failed`). `Failed` as well if too many members fail meanwhile.
    pub async fn grow_size(&self) -> Result<Grown, ArrayError> {
        self.may_be_changed()?;
        self.measure().await?;
        // No second growth meanwhile.
        let _turn = self.0.checkpoint_lock.lock().await;
        self.may_be_changed()?;
        let before = self.size_bytes();
        let (smallest, bytes) = self.smallest()?;
        let g = self.0.geometry.get();
        let grown = g.grown_to(bytes).map_err(|e| {
            ArrayError::new(e.kind, format!("{} The smallest is {smallest}.", e.message))
        })?;
        let roots = self.0.map.borrow().roots_of_growth(&grown, Lsn(0));
        let members = &self.0.members;
        if !roots.is_empty() {
            write_pages(members, &grown, &roots).await.map_err(halted)?;
            members.flush_members().await.map_err(halted)?;
        }
        if broken(Sabotage::GrownBeforeEpoch) {
            self.use_what_is_new(grown, &roots);
            members.advance_shape(grown).await.map_err(halted)?;
        } else {
            members.advance_shape(grown).await.map_err(halted)?;
            self.use_what_is_new(grown, &roots);
        }
        Ok(Grown { before, after: self.size_bytes() })
    }

    fn use_what_is_new(&self, grown: Geometry, new_roots: &[PageWrite]) {
        self.0.geometry.set(grown);
        self.0.map.borrow_mut().grow(grown, new_roots);
        self.0.sums.table.borrow_mut().grow(grown);
        self.0.slots.grow(grown.slots);
        self.wake_destage();
    }

    /// Asks all members and spares how large they are now.
    async fn measure(&self) -> Result<(), ArrayError> {
        let (g, members) = (self.0.geometry.get(), &self.0.members);
        let bound = self.bound();
        let mut all = members.those(|m| m.is_bearer());
        all.retain(|m| !g.is_journal(*m));
        let disks: Vec<W::Disk> = all.iter().filter_map(|m| members.disk(*m)).collect();
        let world = &self.0.world;
        let asked = disks.iter().map(|d| async move {
            let measured = Bounded::new(world, d, bound).measure().await;
            measured.or_else(|e| {
                let path = d.facts().path;
                let text = format!("{path} does not say how large it is now: {e}.");
                refuse(ErrorKind::Failed, text)
            })
        });
        join_all(asked.collect()).await.into_iter().collect()
    }

    /// Whether all members are there, and none is being filled.
    pub(super) fn is_whole(&self) -> Result<(), ArrayError> {
        let (g, members) = (self.0.geometry.get(), &self.0.members);
        let of = |m: &MemberIndex| members.describe(*m);
        let mut table = (0..g.table() as u8).map(MemberIndex);
        if let Some(out) = table.find(|m| of(m).0 != MemberState::Active) {
            let (state, path, ..) = of(&out);
            let path = if path.is_empty() { String::new() } else { format!(" ({path})") };
            return refuse(
                ErrorKind::Failed,
                format!(
                    "Member {out}{path} is {}. An array grows only while it is whole: replace what has \
                     failed first.",
                    state.as_str()
                ),
            );
        }
        if let Some((twin, _)) = members.twins().first() {
            let (_, path, ..) = of(twin);
            return refuse(
                ErrorKind::Failed,
                format!("{path} is being filled. Wait for it first (evenkeel wait NAME rebuild)."),
            );
        }
        Ok(())
    }

    /// The smallest disk among members and spares, and its bytes. All members have to be there.
    fn smallest(&self) -> Result<(String, u64), ArrayError> {
        self.is_whole()?;
        let (g, members) = (self.0.geometry.get(), &self.0.members);
        let table = (0..g.table() as u8).map(MemberIndex);
        let used = table.take(g.members()).chain(members.those(|m| m.state == MemberState::Spare));
        let facts = used.filter_map(|m| Some(members.disk(m)?.facts()));
        let smallest = facts.min_by_key(|f| f.bytes).expect("all members are there");
        Ok((smallest.path, smallest.bytes))
    }
}
