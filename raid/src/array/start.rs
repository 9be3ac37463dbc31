//! From disks to a running array. In this order (nothing is written before the refusals are over):
//!
//! 1. superblocks: which array, which epoch is in force, who belongs to it, are there enough;
//! 2. the log is read, and the ring of the last daemon where it must exist or still does;
//! 3. replay in memory: map, dirty blocks, rows that must go in place;
//! 4. the epoch is in force on all, and one without the missing members is durable;
//! 5. the log devices are flushed, damaged columns of kept commits rewritten, flushed;
//! 6. the ring's records above the log's end are logged, then a Checkpoint opens the incarnation;
//! 7. an epoch names the new ring; the old one is forgotten;
//! 8. rows of unfinished Parities go in place; then requests are taken.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use evenkeel_journal::log::{Halted, Journal};
use evenkeel_journal::replay::{LogContents, LogError, LogReader};
use evenkeel_journal::ring::{Ring, RingContents, read_ring, ring_bytes};
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::{Lock, Signal, join_all};
use evenkeel_journal::{Buf, Disk, MemberIndex, World};

use super::locks::Locks;
use super::lost::Marks;
use super::slots::Slots;
use super::takeover::{State, check_places};
use super::{Array, Inner};
use crate::array::cache::Cache;
use crate::codec::Code;
use crate::epoch::{Decision, Found, decide};
use crate::error::{ArrayError, ErrorKind};
use crate::geometry::{MEMBER_GRAIN, SUPERBLOCK_A, SUPERBLOCK_B, SUPERBLOCK_BYTES};
use crate::map::Map;
use crate::members::{Columns, Members};
use crate::options::{Progress, StartOptions};
use crate::replay::{Recovered, recover};
use crate::status::ReplayStatus;
use crate::superblock::{BadSuperblock, Superblock};

/// The whole superblocks of a disk.
///
/// # Errors
/// A sentence if there is none, by kind.
pub(crate) async fn find<D: Disk>(disk: &D) -> Result<Found, ArrayError> {
    let facts = disk.facts();
    let mut places = vec![SUPERBLOCK_A, SUPERBLOCK_B];
    if facts.bytes >= SUPERBLOCK_B + 2 * SUPERBLOCK_BYTES {
        places.push(facts.bytes / MEMBER_GRAIN * MEMBER_GRAIN - SUPERBLOCK_BYTES);
    }
    let mut copies: Vec<Superblock> = Vec::new();
    let mut array = None;
    let mut worst = BadSuperblock::Absent;
    let mut i = 0;
    while i < places.len() {
        let at = places[i];
        i += 1;
        if at + SUPERBLOCK_BYTES > facts.bytes {
            continue;
        }
        let (done, buf) = disk.read(at, Buf::new(SUPERBLOCK_BYTES as usize)).await;
        let found = match done {
            Ok(()) => Superblock::decode(&buf, at),
            Err(_) => Err(BadSuperblock::Damaged),
        };
        match found {
            // A copy C of an older array may be left at the end of a disk.
            Ok(s) if array.is_some_and(|a| a != s.array) => {}
            Ok(s) => {
                array = Some(s.array);
                let c = s.geometry.superblock_c();
                if !places.contains(&c) {
                    places.push(c);
                }
                copies.push(s);
            }
            Err(BadSuperblock::Absent) => {}
            Err(e) if matches!(worst, BadSuperblock::Unsupported(_)) => drop(e),
            Err(e) => worst = e,
        }
    }
    if let BadSuperblock::Unsupported(why) = &worst {
        return Err(ArrayError::new(
            ErrorKind::Unsupported,
            format!("{} cannot be used by this program: {why}. Nothing was written.", facts.path),
        ));
    }
    if copies.is_empty() {
        let what = match worst {
            BadSuperblock::Damaged => "all copies of its superblock are damaged",
            _ => "it bears no superblock",
        };
        return Err(ArrayError::new(
            ErrorKind::Foreign,
            format!("{} is no member of an array: {what}. Nothing was written.", facts.path),
        ));
    }
    Ok(Found { path: facts.path, copies })
}

/// Reads the superblocks of `disks` and decides which epoch counts and who belongs to it.
///
/// # Errors
/// A disk that is no member or of another array; clones; split histories.
pub async fn assemble<D: Disk>(disks: &[D]) -> Result<Decision, ArrayError> {
    let mut found = Vec::new();
    for one in join_all(disks.iter().map(find).collect()).await {
        found.push(one?);
    }
    let Some(first) = found.first() else {
        return Err(ArrayError::new(ErrorKind::Usage, "No disks were given."));
    };
    let array = first.copies[0].array;
    if let Some(other) = found.iter().find(|f| f.copies[0].array != array) {
        return Err(ArrayError::new(
            ErrorKind::Foreign,
            format!(
                "{} belongs to another array ({}) than {} ({}). Nothing was written. Name the \
                 disks of one array.",
                other.path, other.copies[0].name, first.path, first.copies[0].name
            ),
        ));
    }
    decide(&found)
}

fn too_many(what: &str) -> ArrayError {
    ArrayError::new(
        ErrorKind::Failed,
        format!(
            "{what} failed because too many members failed while the array was starting. Nothing \
             that was acknowledged is lost: the log is as it was."
        ),
    )
}

pub(super) fn log_error(e: &LogError, force: bool) -> ArrayError {
    let _ = force;
    let message = match e {
        LogError::Missing => "The log holds no commit at all: it was overwritten, or the disks \
                              are not what they say. Nothing was written."
            .to_string(),
        LogError::Damaged { last_whole, durable } => format!(
            "The log is damaged: commit {durable} was durable, but the last one that is whole is \
             {last_whole}. What was acknowledged after it would be lost. Nothing was written. \
             Bring back members that are missing and start again."
        ),
        LogError::Unknown { number, version } => {
            return ArrayError::new(
                ErrorKind::Unsupported,
                format!(
                    "Commit {number} of the log has version {version}, which this program does \
                     not know. Nothing was written."
                ),
            );
        }
    };
    ArrayError::new(ErrorKind::LogDamaged, message)
}

impl<W: World> Array<W> {
    /// Starts the array that `disks` (in any order) are members of. When this returns, requests
    /// are taken.
    ///
    /// # Errors
    /// By the exit codes of the command; before anything is written where the disks are to blame.
    pub async fn start(
        world: &W,
        disks: &[W::Disk],
        options: &StartOptions,
        progress: &dyn Fn(Progress),
    ) -> Result<Array<W>, ArrayError> {
        let began = world.now();
        // 1. Superblocks.
        let decision = assemble(disks).await?;
        decision.quorum(options.accept_missing)?;
        let sb = decision.epoch.clone();
        let g = sb.geometry;
        let code = Code::new(g.level, g.data, g.parity).map_err(|e| {
            ArrayError::new(ErrorKind::Unsupported, format!("The array's code: {e}."))
        })?;
        for i in decision.current.iter().flatten() {
            let facts = disks[*i].facts();
            if facts.bytes < g.member_bytes {
                return Err(ArrayError::new(
                    ErrorKind::TooSmall,
                    format!(
                        "{} has {} bytes, but its superblock says {}: it was cut. Nothing was \
                         written. Leave it out.",
                        facts.path, facts.bytes, g.member_bytes
                    ),
                ));
            }
        }
        let by_index: Vec<Option<W::Disk>> =
            decision.current.iter().map(|i| i.map(|i| disks[i].clone())).collect();
        let log_members: Vec<(MemberIndex, W::Disk)> = by_index
            .iter()
            .enumerate()
            .filter_map(|(i, d)| d.clone().map(|d| (MemberIndex(i as u8), d)))
            .collect();
        let members = Members::new(world, code.clone(), sb.clone(), by_index, options.read_only);
        members.set_io_timeout(options.io_timeout.unwrap_or(crate::hung::IO_TIMEOUT));

        // 2. Log and ring.
        let columns = Columns(code);
        let reader = LogReader { members: &log_members, geometry: g.log(sb.array), code: &columns };
        let log = reader
            .read(&|done, all| progress(Progress::ReadLog(done, all)))
            .await
            .map_err(|e| log_error(&e, options.force))?;
        let old_ring = find_ring(world, &sb, &log)?;

        // 3. Replay in memory.
        let (map, mut repairs) = Map::load(g, sb.array, &members).await.map_err(|why| {
            let message = format!("The map is damaged: {why}. Nothing was written.");
            ArrayError::new(ErrorKind::Failed, message)
        })?;
        let recovered = recover(&g, map, &log, old_ring.as_ref())
            .map_err(|why| ArrayError::new(ErrorKind::LogDamaged, why))?;
        let mut slots = std::collections::HashSet::new();
        // Case XB: two stripes in one slot.
        if let Some(twice) = recovered.map.slots().find(|s| !slots.insert(*s)) {
            return Err(ArrayError::new(
                ErrorKind::LogDamaged,
                format!("Map and log put two stripes into slot {twice}. Nothing was written."),
            ));
        }
        drop(slots);
        repairs.extend(check_places(&members, &g, &recovered.adopted).await?);

        // 4. Without the missing ones.
        if !options.read_only {
            let failed = |Halted| too_many("Recording the missing members");
            let all = !decision.unmarked || members.mark_in_force().await.map_err(failed)?;
            if !decision.absent().is_empty() || !all {
                members.advance_epoch(|s| s.clean = false).await.map_err(failed)?;
            }
            // 5. Log devices flushed, damaged columns and pages rewritten, flushed.
            mend(&members, &reader, &log, repairs)
                .await
                .map_err(|Halted| too_many("Mending the log"))?;
        }

        let running = Started { world, options, sb: &sb, began, progress };
        running.go(members, &reader, &log, old_ring, recovered).await
    }
}

/// The ring of the last daemon: needed if it must exist, or if it still does.
pub(super) fn find_ring<W: World>(
    world: &W,
    sb: &Superblock,
    log: &LogContents,
) -> Result<Option<RingContents>, ArrayError> {
    // Case RA: after a clean stop there is none.
    if sb.ring == 0 || broken(Sabotage::RingIgnored) {
        return Ok(None);
    }
    let refuse = |why: String| {
        Err(ArrayError::new(
            ErrorKind::LogDamaged,
            format!(
                "The ring of the daemon that held the array is needed, because this machine has \
                 not been booted since: it holds acknowledged writes. But {why}. Nothing was \
                 written."
            ),
        ))
    };
    let here = world.identity();
    let required = (sb.boot, sb.run_dir) == (here.boot, here.run_dir);
    let ring = match world.open_ring(sb.ring) {
        Ok(Some(memory)) => match read_ring(&memory, sb.array, sb.ring) {
            Ok(contents) => contents,
            // Case RF: it exists, so power was not lost with it; but it is damaged.
            Err(why) => return refuse(why),
        },
        // Case RD: it must be here, since the machine has not been booted.
        Ok(None) if required => return refuse("it does not exist any more".into()),
        Err(e) if required => return refuse(format!("it cannot be opened: {e}")),
        // Case RE: power was lost with it, or this is another machine.
        Ok(None) | Err(_) => return Ok(None),
    };
    // Case RC: a gap between log and ring.
    let end = log.last().header.lsn_last;
    if ring.records.first().is_some_and(|r| r.lsn > end.next()) {
        return refuse("it does not join the end of the log".into());
    }
    // Case RB: what it holds above the log's end is adopted.
    Ok(Some(ring))
}

async fn mend<W: World>(
    members: &Members<W>,
    reader: &LogReader<'_, W::Disk>,
    log: &LogContents,
    repairs: Vec<(MemberIndex, u64, evenkeel_journal::Slice)>,
) -> Result<(), Halted> {
    members.flush().await?;
    // Case N: kept commits survive m losses again before anything rests on them.
    for commit in &log.commits {
        for (member, at, segs) in reader.repair(commit).await {
            members.write(member, at, segs).await?;
        }
    }
    for (member, at, bytes) in repairs {
        members.write(member, at, vec![bytes]).await?;
    }
    members.flush().await
}

/// The second half of a start: everything is known, now it is set up.
struct Started<'a, W: World> {
    world: &'a W,
    options: &'a StartOptions,
    sb: &'a Superblock,
    began: std::time::Duration,
    progress: &'a dyn Fn(Progress),
}

impl<W: World> Started<'_, W> {
    async fn go(
        self,
        members: Members<W>,
        reader: &LogReader<'_, W::Disk>,
        log: &LogContents,
        old_ring: Option<RingContents>,
        recovered: Recovered,
    ) -> Result<Array<W>, ArrayError> {
        let (world, g, sb) = (self.world, self.sb.geometry, self.sb);
        let incarnation = world.random() | 1;
        let ring_id = u128::from(world.random()) << 64 | u128::from(world.random()) | 1;
        let places = g.cache_blocks as usize;
        let memory = world.create_ring(ring_id, ring_bytes(places)).map_err(|e| {
            let message = format!("The ring's memory could not be had: {e}. Nothing is lost.");
            ArrayError::new(ErrorKind::Failed, message)
        })?;
        let ring = Ring::format(memory, sb.array, ring_id, incarnation, places);
        let start = log.start(&g.log(sb.array), incarnation);
        let journal = Journal::new(world, &members, g.log(sb.array), ring, &start);
        let adopted = recovered.adopted.len() as u64;
        let replay = ReplayStatus {
            commits: log.commits.len() as u64,
            records: log.commits.iter().map(|c| c.records.len() as u64).sum::<u64>() + adopted,
            bytes: log
                .commits
                .iter()
                .map(|c| u64::from(c.header.payload_blocks) * evenkeel_journal::BLOCK as u64)
                .sum(),
            torn_tail_bytes: log.torn_bytes,
            seconds: 0.0,
        };
        let slots = Slots::new(g.slots, recovered.map.slots());
        let state = State {
            dirty: recovered.dirty,
            adopted: recovered.adopted,
            parities: recovered.parities,
        };
        let array = Array(Rc::new(Inner {
            world: world.clone(),
            geometry: g,
            members: members.clone(),
            journal,
            map: RefCell::new(recovered.map),
            cache: RefCell::new(Cache::default()),
            lost: RefCell::new(Marks::found(recovered.lost)),
            unreadable: RefCell::default(),
            slots,
            locks: Locks::default(),
            options: *self.options,
            replay: Cell::new(replay),
            ring_id: Cell::new(ring_id),
            checkpoint_lock: Lock::new(),
            destage_lock: Lock::new(),
            requests: Cell::new(0),
            begun: Cell::new(0),
            stopping: Cell::new(false),
            stopped: Cell::new(false),
            quiet: Signal::new(),
            dirtied: Signal::new(),
        }));
        let done = array.take_over(state, reader, log, incarnation, self.progress).await;
        if let Err(e) = done {
            array.0.journal.halt();
            let _ = world.remove_ring(ring_id);
            return Err(e);
        }
        drop(old_ring);
        if !self.options.read_only {
            // 7. From here on the new ring counts.
            let identity = world.identity();
            let named = members.advance_epoch(|s| {
                (s.boot, s.run_dir, s.ring) = (identity.boot, identity.run_dir, ring_id);
                s.clean = false;
            });
            named.await.map_err(|Halted| too_many("Naming the new ring"))?;
            if sb.ring != 0 {
                let _ = world.remove_ring(sb.ring);
            }
        }
        let seconds = (world.now() - self.began).as_secs_f64();

        array.0.replay.set(ReplayStatus { seconds, ..replay });
        array.0.members.set_tail(array.0.journal.tail_lsn());
        if !self.options.read_only {
            array.spawn_destage();
            array.wake_destage();
        }
        Ok(array)
    }
}
