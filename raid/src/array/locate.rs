//! Where a byte lies: asked of a running array, or of the disks of a stopped one.

use std::collections::HashSet;

use evenkeel_journal::replay::LogReader;
use evenkeel_journal::{BLOCK, Lsn, MemberIndex, Stripe, World};

use super::Array;
use super::before::Plane;
use super::salvage::Salvage;
use super::start::{Current, assemble_in_time, current, find_ring};
use crate::error::{ArrayError, ErrorKind};
use crate::geometry::Geometry;
use crate::hung::IO_TIMEOUT;
use crate::locate::{Known, Located};
use crate::map::Map;
use crate::options::{Progress, StartOptions};
use crate::replay::recover;
use crate::superblock::Superblock;

impl<W: World> Array<W> {
    /// Where a byte of the device lies at this moment.
    ///
    /// # Errors
    /// `Usage` if the device has no such byte.
    pub fn locate(&self, byte: u64) -> Result<Located, ArrayError> {
        let inner = &self.0;
        let (sb, g) = (inner.members.superblock(), inner.geometry.get());
        let newest = |stripe: Stripe| inner.map.borrow().get(stripe).lsn;
        let before = self.before().filter(|plane| is_of_before(plane, &g, byte, newest));
        Known {
            superblock: &by_shape_of(&sb, before.as_deref()),
            member: &|m| {
                let (state, path, ..) = inner.members.describe(m);
                (state, path)
            },
            slot: &|stripe| match &before {
                Some(plane) => plane.entry(stripe).slot,
                None => inner.map.borrow().get(stripe).slot,
            },
            dirty: &|stripe, block| {
                before.is_none() && inner.cache.borrow().get(stripe, block).is_some()
            },
            unfinished: &|member, at| inner.members.is_overlaid(member, at),
        }
        .locate(byte)
    }
}

/// Where a byte lies according to the disks of an array that does not run: superblocks, map, log
/// and ring are read and replayed in memory. Nothing is written, and what a start would refuse is
/// refused here, too; but for the word that it wants where k or more members are absent.
///
/// # Errors
/// By the exit codes of the command.
pub async fn locate<W: World>(
    world: &W,
    disks: &[W::Disk],
    byte: u64,
    progress: &dyn Fn(Progress),
) -> Result<Located, ArrayError> {
    let mut notices = Vec::new();
    let decision = assemble_in_time(world, disks, IO_TIMEOUT, &mut notices).await?;
    decision.quorum(true)?;
    decision.quorum_of_log(false)?;
    let moving = decision.log_goes_home(false);
    let s = &decision.epoch;
    let Current { g, code, members, log_devices } =
        current(world, disks, &decision, moving, true, IO_TIMEOUT)?;
    let reader = LogReader { members: &log_devices, geometry: g.log(s.array), code: &code };
    let survey = reader.survey(&|done, all| progress(Progress::ReadLog(done, all))).await;
    let salvage = Salvage { sb: s, force: false, moving };
    let kept = salvage.log(survey, &mut notices)?;
    let ring = find_ring(world, s, &kept.contents, &mut notices)?;
    let (map, _) = Map::load(g, s.array, &members)
        .await
        .map_err(|why| ArrayError::new(ErrorKind::Failed, format!("The map is damaged: {why}.")))?;
    let found = recover(&g, map, &kept.contents, ring.as_ref())
        .map_err(|why| ArrayError::new(ErrorKind::LogDamaged, why))?;
    let plane = match g.shape_before() {
        None => None,
        Some(old) => {
            let (map, _) = Map::load(old, s.array, &members).await.map_err(|why| {
                let text = format!("The map of the shape before is damaged: {why}.");
                ArrayError::new(ErrorKind::Failed, text)
            })?;
            let options = StartOptions::default();
            Some(kept.plane_before(&g, map, s, &options, &found, &mut notices)?)
        }
    };
    let newest = |stripe: Stripe| found.map.get(stripe).lsn;
    let before = plane.as_ref().filter(|plane| is_of_before(plane, &g, byte, newest));
    let mut unfinished: HashSet<(MemberIndex, u64)> = HashSet::new();
    for p in &found.parities {
        for r in &p.rows {
            let parity = g.data..g.members();
            for column in r.covered.iter().map(|c| c.column).chain(parity) {
                unfinished.insert((g.member_of(p.slot, column), g.byte_of(p.slot, r.row)));
            }
        }
    }
    let dirty =
        |stripe: Stripe, block: u32| before.is_none() && found.dirty.contains_key(&(stripe, block));
    Known {
        superblock: &by_shape_of(s, before),
        member: &|m| {
            let (state, path, ..) = members.describe(m);
            (state, path)
        },
        slot: &|stripe| match before {
            Some(plane) => plane.entry(stripe).slot,
            None => found.map.get(stripe).slot,
        },
        dirty: &dirty,
        unfinished: &|member, at| unfinished.contains(&(member, at)),
    }
    .locate(byte)
}

/// Whether a byte lies where the shape before has it, or that shape is to say that there is no such byte.
fn is_of_before(plane: &Plane, g: &Geometry, byte: u64, newest: impl Fn(Stripe) -> Lsn) -> bool {
    let block = byte / BLOCK as u64;
    if block >= plane.g.device_blocks() {
        return true;
    }
    let (stripe, _) = g.stripe_of(block);
    plane.backs(stripe, newest(stripe))
}

/// What the epoch says, with the shape before if that is meant.
fn by_shape_of(s: &Superblock, before: Option<&Plane>) -> Superblock {
    let mut s = s.clone();
    s.geometry = before.map_or(s.geometry, |plane| plane.g);
    s
}
