//! Of a stopped array, and spares of it, a wider one. In this order:
//!
//! 1. everything is looked at: the array was stopped cleanly and is whole, the last slots are empty;
//! 2. the epoch that counts is in force on all disks;
//! 3. the root pages of the wider shape are written to all members and flushed;
//! 4. an epoch names the wider shape (I6): the spares are members in it.
//!
//! What must hold: until 4. is in force the array is what it was; from then on it is the wider one, with
//! all its stripes still in the shape before. A spare bears the epoch before it, so an epoch that some of
//! them do not bear is dropped like any other (format.md §3, ED).

use std::time::Duration;

use evenkeel_journal::replay::LogReader;
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::{MemberIndex, World};

use super::super::rebuild::refuse;
use super::super::salvage::Salvage;
use super::super::start::{Current, assemble_in_time, current};
use super::super::sums::newest_sum_page;
use crate::codec::Code;
use crate::epoch::Decision;
use crate::error::{ArrayError, ErrorKind};
use crate::geometry::Geometry;
use crate::map::{Map, write_pages};
use crate::members::Members;
use crate::status::MemberState;
use crate::superblock::{MemberEntry, Superblock};

/// Makes spares of a stopped array members of it, each a data column more. `disks` are all its disks, the
/// spares among them; `more` the UUIDs of those that become members. The next start moves the stripes,
/// and the device gets larger when they are moved. Gives the shape.
///
/// # Errors
/// Before anything is changed: the array was not stopped cleanly, is not whole, or was not prepared for it
/// ([`crate::Array::prepare_to_widen`]). `Failed` if a disk fails meanwhile: then it is what it was, or
/// the wider one, as any start will find.
pub async fn widen<W: World>(
    world: &W,
    disks: &[W::Disk],
    more: &[u128],
    io_timeout: Option<Duration>,
) -> Result<Geometry, ArrayError> {
    // 1. What is there.
    let bound = io_timeout.unwrap_or(crate::hung::IO_TIMEOUT);
    let mut notices = Vec::new();
    let decision = assemble_in_time(world, disks, bound, &mut notices).await?;
    let sb = &decision.epoch;
    if let Some(why) = sb.read_only_because() {
        return refuse(ErrorKind::Unsupported, format!("The array cannot be written: {why}."));
    }
    if !sb.clean || sb.ring != 0 {
        let text = "The array was not stopped cleanly, so its log is needed. Start it and stop it.";
        return refuse(ErrorKind::Failed, text);
    }
    let spares = spares_of(&decision, more)?;
    let Current { g, code, members, log_devices } =
        current(world, disks, &decision, false, false, bound)?;
    let pages_id = u128::from(world.random()) << 64 | u128::from(world.random()) | 1;
    let wider = g.widened(spares.len(), pages_id)?;
    let map = Map::load(g, sb.array, &members).await;
    let (map, _) = map.map_err(|why| {
        let text = format!("The map is damaged: {why}. Nothing was written.");
        ArrayError::new(ErrorKind::Failed, text)
    })?;
    if map.slots().any(|s| u64::from(s.0) >= wider.slots) {
        let text = "Stripes lie where the pages of the wider shape will: the array was not prepared for \
                    it before it was stopped.";
        return refuse(ErrorKind::Failed, text);
    }
    let reader = LogReader { members: &log_devices, geometry: g.log(sb.array), code: &code };
    let survey = reader.survey(&|_, _| ()).await;
    let log = Salvage { sb, force: false, moving: false }.log(survey, &mut notices)?;
    let newest = log.contents.max_lsn.max(map.newest());
    let newest = newest.max(newest_sum_page(&members, &g, sb.array).await);

    // 2. The epoch that counts.
    let failed = |_| {
        let text = "Disks failed while the array was made wider: either nothing was changed, or the \
                    wider shape is in force. Nothing is lost; start the array.";
        ArrayError::new(ErrorKind::Failed, text)
    };
    let all = members.mark_in_force().await.map_err(failed)?;
    if !all {
        return Err(failed(evenkeel_journal::log::Halted));
    }
    drop(members);

    // 3. Roots.
    let (next, order) = wider_epoch(sb, &spares, wider);
    let by_index = order.iter().map(|i| {
        let found = decision.current[*i]?;
        Some(disks[found].clone())
    });
    let code = Code::new(wider.level, wider.data, wider.parity).map_err(|e| {
        ArrayError::new(ErrorKind::Usage, format!("The wider shape is not possible: {e}."))
    })?;
    let members = Members::new(world, code, next, by_index.collect(), false);
    members.set_io_timeout(bound);
    let roots = Map::empty_roots(&wider, sb.array, newest);
    if !broken(Sabotage::WidenedWithoutRoots) {
        write_pages(&members, &wider, &roots).await.map_err(failed)?;
        members.flush_members().await.map_err(failed)?;
    }

    // 4. In force.
    members.advance_epoch(|s| s.generation += 1).await.map_err(failed)?;
    if (0..wider.table() as u8).any(|m| !members.is_bearer(MemberIndex(m))) {
        return Err(failed(evenkeel_journal::log::Halted));
    }
    Ok(wider)
}

/// Where the disks are in the table that become members. The array has to be whole.
fn spares_of(decision: &Decision, more: &[u128]) -> Result<Vec<usize>, ArrayError> {
    let (sb, g) = (&decision.epoch, &decision.epoch.geometry);
    let uuid = |id: u128| uuid::Uuid::from_u128(id);
    for (i, m) in sb.members.iter().enumerate().take(g.table()) {
        if decision.current[i].is_none() || m.state != MemberState::Active {
            let text = format!("Member {i} ({}) is not there, or not whole.", uuid(m.uuid));
            return refuse(ErrorKind::Failed, text);
        }
    }
    if sb.members.iter().any(|m| m.state == MemberState::Rebuilding) {
        return refuse(
            ErrorKind::Failed,
            "A disk is being filled. Start the array, and wait for it.",
        );
    }
    let mut at = Vec::new();
    for id in more {
        let own = |m: &MemberEntry| m.uuid == *id && m.state == MemberState::Spare;
        let found = sb.members.iter().position(own);
        match found.filter(|i| decision.current[*i].is_some() && !at.contains(i)) {
            Some(i) => at.push(i),
            None => {
                let text = format!("The spare {} is not there.", uuid(*id));
                return refuse(ErrorKind::Failed, text);
            }
        }
    }
    if at.is_empty() {
        return refuse(ErrorKind::Usage, "No disk was named.");
    }
    Ok(at)
}

/// What the next epoch says, and the index that each of its entries had: the members, those that become
/// some, the journal devices, the spares that are left.
fn wider_epoch(sb: &Superblock, spares: &[usize], wider: Geometry) -> (Superblock, Vec<usize>) {
    let (n, table) = (sb.geometry.members(), sb.geometry.table());
    let left = (table..sb.members.len()).filter(|i| !spares.contains(i));
    let order: Vec<usize> =
        (0..n).chain(spares.iter().copied()).chain(n..table).chain(left).collect();
    let entry = |i: &usize| {
        let entry = sb.members[*i];
        if spares.contains(i) { MemberEntry::active(entry.uuid) } else { entry }
    };
    let members = order.iter().map(entry).collect();
    (Superblock { geometry: wider, members, ..sb.clone() }, order)
}
