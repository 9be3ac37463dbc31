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
//!
//! What is refused without `--force`, and what force gives up, is in `salvage.rs`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::log::{Halted, Journal};
use evenkeel_journal::replay::{LogContents, LogReader};
use evenkeel_journal::ring::{Ring, RingContents, read_ring, ring_bytes};
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::sync::{Lock, Signal, join_all};
use evenkeel_journal::{Bounded, Buf, CommitNumber, Disk, DiskError, Lsn, MemberIndex, World};

use super::before::Plane;
use super::create::no_ring_memory;
use super::locks::Locks;
use super::lost::Marks;
use super::rebuild::Rebuild;
use super::salvage::{
    LOG_GOES_HOME, Salvage, UNEVEN_READ_ONLY, check_right_to_start, give_up_ring,
};
use super::scrub::Scrub;
use super::slots::Slots;
use super::sums::{Sums, newest_sum_page};
use super::takeover::{State, check_places, damaged, must_fence};
use super::widen::Widening;
use super::{Array, Inner};
use crate::array::cache::Cache;
use crate::checksums::{Checksums, DEFAULT_MEMORY};
use crate::codec::Code;
use crate::epoch::{Decision, Found, decide};
use crate::error::{ArrayError, ErrorKind};
use crate::geometry::{
    Geometry, LogHome, MEMBER_GRAIN, SUPERBLOCK_A, SUPERBLOCK_B, SUPERBLOCK_BYTES,
};
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
    let (mut unreadable, mut silent) = (false, false);
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
            Err(e) => {
                unreadable = true;
                silent |= e == DiskError::Silent;
                Err(BadSuperblock::Damaged)
            }
        };
        match found {
            // A copy C of an older array may be left at the end of a disk.
            Ok(s) if array.is_some_and(|a| a != s.array) => {}
            Ok(s) => {
                array = Some(s.array);
                let c = s.copy_c();
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
            _ if silent => "it did not answer in time (--io-timeout)",
            BadSuperblock::Damaged if unreadable => "its superblocks cannot be read",
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

/// Reads the superblocks of `disks` and decides which epoch counts and who belongs to it. Indexes
/// in the decision are those of `disks`. What a person should know of disks that are left out is
/// added to `notices`.
///
/// # Errors
/// No disk is a member; members of several arrays; clones; split histories; a newer format.
pub async fn assemble<D: Disk>(
    disks: &[D],
    notices: &mut Vec<String>,
) -> Result<Decision, ArrayError> {
    let (mut found, mut which, mut none) = (Vec::new(), Vec::new(), Vec::new());
    for (i, one) in join_all(disks.iter().map(find).collect()).await.into_iter().enumerate() {
        match one {
            Ok(one) => {
                found.push(one);
                which.push(i);
            }
            // A member whose superblocks are gone is as good as absent.
            Err(e) if e.kind == ErrorKind::Foreign => none.push(e),
            Err(e) => return Err(e),
        }
    }
    let Some(first) = found.first() else {
        let usage = || ArrayError::new(ErrorKind::Usage, "No disks were given.");
        return Err(none.into_iter().next().unwrap_or_else(usage));
    };
    let array = first.copies[0].array;
    if let Some(other) = found.iter().find(|f| f.copies[0].array != array) {
        return Err(ArrayError::new(
            ErrorKind::Foreign,
            format!(
                "{} belongs to another array ({}, {}) than {} ({}, {}). Nothing was written. Name \
                 the disks of one array.",
                other.path,
                other.copies[0].name,
                uuid::Uuid::from_u128(other.copies[0].array),
                first.path,
                first.copies[0].name,
                uuid::Uuid::from_u128(array),
            ),
        ));
    }
    let mut decision = decide(&found)?;
    for e in none {
        let why = e.message.replace(" Nothing was written.", "");
        notices.push(format!("Warning: {why} It is left out, and nothing is written to it."));
    }
    for i in &decision.left_out {
        notices.push(format!(
            "Warning: {} bears the array's UUID, but is no member of it: it was taken out, or was \
             never quite taken in. It is left out, and nothing is written to it. To use it again, \
             wipe it first (evenkeel destroy), or add it (evenkeel add).",
            found[*i].path
        ));
    }
    for i in &decision.stale {
        let (f, epoch) = (&found[*i], decision.epoch.epoch);
        let own = f.copies.iter().map(|s| s.epoch).max().unwrap_or_default();
        let why = if own >= epoch { "has failed".into() } else { format!("is of epoch {own}") };
        notices.push(format!(
            "Warning: {} {why}, the array is in epoch {epoch}: it misses what was written since. \
             It is left out; nothing is read from it or written to it.",
            f.path
        ));
    }
    for c in decision.current.iter_mut().flatten().chain(&mut decision.stale) {
        *c = which[*c];
    }
    // A disk that was cut lacks slots, or the end of the log: it counts as absent.
    let g = decision.epoch.geometry;
    for (index, c) in decision.current.iter_mut().enumerate() {
        let needed = g.bytes_of(MemberIndex(index as u8));
        let Some(facts) = c.map(|i| disks[i].facts()).filter(|f| f.bytes < needed) else {
            continue;
        };
        *c = None;
        notices.push(format!(
            "Warning: {} has {} bytes, but its superblock says {needed}: it was cut. It is left \
             out, and nothing is written to it.",
            facts.path, facts.bytes
        ));
    }
    Ok(decision)
}

/// The same with a bound for each disk: one that does not answer is left out.
pub(super) async fn assemble_in_time<W: World>(
    world: &W,
    disks: &[W::Disk],
    bound: Duration,
    notices: &mut Vec<String>,
) -> Result<Decision, ArrayError> {
    let bounded: Vec<_> = disks.iter().map(|d| Bounded::new(world, d, bound)).collect();
    assemble(&bounded, notices).await
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

/// The disks that are current in the epoch that counts, ready to be read.
pub(super) struct Current<W: World> {
    /// The shape, with the log where it is to be.
    pub g: Geometry,
    /// The code, as the log's replay uses it.
    pub code: Columns,
    /// Members and journal devices.
    pub members: Members<W>,
    /// Those that the log lies on.
    pub log_devices: Vec<(MemberIndex, Bounded<W>)>,
}

/// Puts the disks that count in their places. If the log is `moving` to the members, the journal
/// devices are left out.
pub(super) fn current<W: World>(
    world: &W,
    disks: &[W::Disk],
    decision: &Decision,
    moving: bool,
    read_only: bool,
    bound: Duration,
) -> Result<Current<W>, ArrayError> {
    let sb = &decision.epoch;
    let mut g = sb.geometry;
    let code = Code::new(g.level, g.data, g.parity)
        .map_err(|e| ArrayError::new(ErrorKind::Unsupported, format!("The array's code: {e}.")))?;
    let mut by_index: Vec<Option<W::Disk>> =
        decision.current.iter().map(|i| i.map(|i| disks[i].clone())).collect();
    if moving {
        g.log_home = LogHome::Members;
        by_index[g.members()..].fill(None);
    }
    let log_devices = g
        .log_devices()
        .filter_map(|i| {
            let disk = by_index[i].as_ref()?;
            Some((MemberIndex(i as u8), Bounded::new(world, disk, bound)))
        })
        .collect();
    let members = Members::new(world, code.clone(), sb.clone(), by_index, read_only);
    members.set_io_timeout(bound);
    if decision.unmarked {
        members.set_unmarked();
    }
    if moving {
        members.log_goes_home();
    }
    Ok(Current { g, code: Columns(code), members, log_devices })
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
        let mut unread = CommitNumber(0);
        for _ in 0..=disks.len() {
            match Array::start_once(world, disks, options, progress).await? {
                Ok(array) => return Ok(array),
                // A disk that failed meanwhile has taken a commit with it. If that was never durable,
                // the log ends before it; nothing rests on it yet.
                Err(number) => unread = number,
            }
        }
        Err(damaged(unread))
    }

    /// `Ok(Err)`: this commit could be read, and then not again.
    async fn start_once(
        world: &W,
        disks: &[W::Disk],
        options: &StartOptions,
        progress: &dyn Fn(Progress),
    ) -> Result<Result<Array<W>, CommitNumber>, ArrayError> {
        let began = world.now();
        let mut notices = Vec::new();
        // 1. Superblocks.
        let bound = options.io_timeout.unwrap_or(crate::hung::IO_TIMEOUT);
        let decision = assemble_in_time(world, disks, bound, &mut notices).await?;
        let quorum = decision.quorum(options.accept_missing);
        if let Err(mut e) = quorum.and_then(|()| decision.quorum_of_log(options.force)) {
            notices.iter().for_each(|n| e.message = format!("{} {n}", e.message));
            return Err(e);
        }
        notices.extend(decision.notice_of_absent(options.read_only));
        let sb = decision.epoch.clone();
        check_right_to_start(&sb, &world.identity(), options, &mut notices)?;
        let moving = decision.log_goes_home(options.force);
        let Current { g, code: columns, members, log_devices } =
            current(world, disks, &decision, moving, options.read_only, bound)?;
        if moving {
            notices.push(LOG_GOES_HOME.into());
        }

        // 2. Log and ring.
        let reader = LogReader { members: &log_devices, geometry: g.log(sb.array), code: &columns };
        let survey = reader.survey(&|done, all| progress(Progress::ReadLog(done, all))).await;
        let salvage = Salvage { sb: &sb, force: options.force, moving };
        let mut log = salvage.log(survey, &mut notices)?;
        let mut old_ring = match find_ring(world, &sb, &log.contents, &mut notices) {
            Err(e) if options.force && e.kind == ErrorKind::LogDamaged => {
                notices.push(give_up_ring(&g, &e));
                None
            }
            found => found?,
        };

        // 3. Replay in memory.
        let (recovered, repairs) = loop {
            let (map, mut repairs) = Map::load(g, sb.array, &members).await.map_err(|why| {
                let message = format!("The map is damaged: {why}. Nothing was written.");
                ArrayError::new(ErrorKind::Failed, message)
            })?;
            salvage.not_older(&mut log, &map, &mut notices)?;
            log.above(map.newest());
            if log.begins_elsewhere() {
                log.above(newest_sum_page(&members, &g, sb.array).await);
            }
            let done = recover(&g, map, &log.contents, old_ring.as_ref())
                .map_err(|why| ArrayError::new(ErrorKind::LogDamaged, why));
            let done = match done {
                Ok(r) => check_places(&members, &g, &r.adopted).await.map(|more| (r, more)),
                Err(e) => Err(e),
            };
            match done {
                Ok((r, more)) => {
                    repairs.extend(more);
                    break (r, repairs);
                }
                Err(e)
                    if options.force && old_ring.is_some() && e.kind == ErrorKind::LogDamaged =>
                {
                    notices.push(give_up_ring(&g, &e));
                    old_ring = None;
                }
                Err(e) => return Err(e),
            }
        };
        let recovered = log.one_stripe_a_slot(recovered, &mut notices)?;
        let mut repairs = repairs;
        let before = match g.shape_before() {
            None => None,
            Some(old) => {
                let loaded = Map::load(old, sb.array, &members).await.map_err(|why| {
                    let message = format!(
                        "The map of the shape before is damaged: {why}. Nothing was written."
                    );
                    ArrayError::new(ErrorKind::Failed, message)
                })?;
                repairs.extend(loaded.1);
                Some(log.plane_before(&g, loaded.0, &sb, options, &recovered, &mut notices)?)
            }
        };
        let uneven = log.lossy || sb.uneven;
        if uneven && options.read_only {
            notices.push(UNEVEN_READ_ONLY.into());
        }
        let log = log.contents;
        let fence = must_fence(&log, &recovered, uneven);

        // 4. Without the missing ones.
        if !options.read_only {
            let failed = |Halted| too_many("Recording the missing members");
            // What is older was flushed on those that are absent, too.
            let oldest = log.commits.first().map(|c| &c.header);
            let tail = oldest.map_or(Lsn(0), |h| h.lsn_first.min(h.lsn_last.next()));
            members.set_tail(if uneven { Lsn(0) } else { tail });
            let all = members.mark_in_force().await.map_err(failed)?;
            if !decision.absent().is_empty() || !all || uneven != sb.uneven || moving {
                // Clean stays: nothing that could be lost is in the log before the ring is named.
                let next = |s: &mut Superblock| {
                    s.uneven = uneven;
                    if uneven {
                        all_is_missed(s);
                    }
                };
                members.advance_epoch(next).await.map_err(failed)?;
            }
            // 5. Log devices flushed, damaged columns and pages rewritten, flushed.
            let dropped = if fence { &[][..] } else { &log.dropped };
            let unread = mend(&members, &reader, &log, repairs, dropped)
                .await
                .map_err(|Halted| too_many("Mending the log"))?;
            if let Some(number) = unread {
                return Ok(Err(number));
            }
        }

        let running =
            Started { world, options, sb: &sb, g, before, began, progress, uneven, fence, notices };
        running.go(members, &reader, &log, old_ring, recovered).await.map(Ok)
    }
}

/// The ring of the last daemon: needed if it must exist, or if it still does.
pub(super) fn find_ring<W: World>(
    world: &W,
    sb: &Superblock,
    log: &LogContents,
    notices: &mut Vec<String>,
) -> Result<Option<RingContents>, ArrayError> {
    // Case RA: after a clean stop there is none.
    if sb.ring == 0 || broken(Sabotage::RingIgnored) {
        return Ok(None);
    }
    let refuse = |why: String| {
        Err(ArrayError::new(
            ErrorKind::LogDamaged,
            format!(
                "The ring of the daemon that held the array still exists and may hold \
                 acknowledged writes. But {why}. Nothing was written."
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
        Ok(None) if required => {
            return Err(ArrayError::new(
                ErrorKind::LogDamaged,
                "The ring of the daemon that held the array does not exist any more, although \
                 this machine has not been booted since. It held acknowledged writes. Nothing was \
                 written. Start with --force to give them up; what was flushed is in the log.",
            ));
        }
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
            return Err(ArrayError::new(
                ErrorKind::Held,
                "The ring of this array is held by another process: its daemon runs. Nothing was \
                 written.",
            ));
        }
        Err(e) if required => return refuse(format!("it cannot be opened: {e}")),
        // Case RE: power was lost with it, or this is another machine.
        Ok(None) | Err(_) => {
            notices.push(
                "The machine was booted since the array ran, or it is another one, and the ring \
                 is gone with that: the log alone was replayed. Everything that was flushed is \
                 there; of what was acknowledged since the last flush some may be missing."
                    .into(),
            );
            return Ok(None);
        }
    };
    // Case RC: a gap between log and ring.
    let end = log.commits.last().map_or(Lsn(0), |c| c.header.lsn_last);
    if ring.records.first().is_some_and(|r| r.lsn > end.next()) {
        return refuse("it does not join the end of the log".into());
    }
    // Case RB: what it holds above the log's end is adopted.
    Ok(Some(ring))
}

/// Makes the log whole again. Gives a commit that cannot be read again, if there is one.
async fn mend<W: World>(
    members: &Members<W>,
    reader: &LogReader<'_, Bounded<W>>,
    log: &LogContents,
    repairs: Vec<(MemberIndex, u64, evenkeel_journal::Slice)>,
    dropped: &[(MemberIndex, u64)],
) -> Result<Option<CommitNumber>, Halted> {
    members.flush().await?;
    // Case P: no fence says that they are dropped, so they go.
    let zeros = Buf::zeroed(evenkeel_journal::BLOCK).freeze();
    for (member, row) in dropped {
        let at = reader.geometry.offset + row * evenkeel_journal::BLOCK as u64;
        members.write(*member, at, vec![zeros.clone()]).await?;
    }
    // Case N: kept commits survive m losses again before anything rests on them.
    for commit in &log.commits {
        let Some(writes) = reader.repair(commit).await else {
            return Ok(Some(commit.header.number));
        };
        for (member, at, segs) in writes {
            members.write(member, at, segs).await?;
        }
    }
    for (member, at, bytes) in repairs {
        members.write(member, at, vec![bytes]).await?;
    }
    members.flush().await?;
    Ok(None)
}

/// Parity is made right again. Members that are out, and those that are being filled, miss that, and
/// it has no number: so they have missed everything.
fn all_is_missed(s: &mut Superblock) {
    for entry in s.members.iter_mut().filter(|e| !e.state.serves()) {
        entry.failed_at = Lsn(0);
        entry.filling.iter_mut().for_each(|f| f.next = 0);
    }
}

/// The second half of a start: everything is known, now it is set up.
struct Started<'a, W: World> {
    world: &'a W,
    options: &'a StartOptions,
    sb: &'a Superblock,
    g: Geometry,
    /// The shape before, while stripes are moved from it.
    before: Option<Plane>,
    began: std::time::Duration,
    progress: &'a dyn Fn(Progress),
    /// Parity has to be made right before requests are taken.
    uneven: bool,
    fence: bool,
    notices: Vec<String>,
}

impl<W: World> Started<'_, W> {
    async fn go(
        self,
        members: Members<W>,
        reader: &LogReader<'_, Bounded<W>>,
        log: &LogContents,
        old_ring: Option<RingContents>,
        recovered: Recovered,
    ) -> Result<Array<W>, ArrayError> {
        let (world, g, sb) = (self.world, self.g, self.sb);
        let incarnation = world.random() | 1;
        let ring_id = u128::from(world.random()) << 64 | u128::from(world.random()) | 1;
        let places = g.cache_blocks as usize;
        let memory = world.create_ring(ring_id, ring_bytes(places)).map_err(|e| {
            let why = no_ring_memory(ring_bytes(places), &e);
            let message = format!("{why} Nothing is lost; then start again.");
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
        let of_before = self.before.iter().flat_map(Plane::slots);
        let slots = Slots::new(g.slots, recovered.map.slots().chain(of_before));
        let state = State {
            dirty: recovered.dirty,
            adopted: recovered.adopted,
            parities: recovered.parities,
            fence: self.fence,
        };
        let memory = self.options.checksum_cache.unwrap_or(DEFAULT_MEMORY);
        let sums = Checksums::new(g, sb.array, memory, recovered.sums);
        let array = Array(Rc::new(Inner {
            world: world.clone(),
            geometry: Cell::new(g),
            members: members.clone(),
            journal,
            map: RefCell::new(recovered.map),
            cache: RefCell::new(Cache::default()),
            lost: RefCell::new(Marks::found(recovered.lost)),
            sums: Sums::new(sums),
            scrub: Scrub::new(),
            rebuild: Rebuild::new(),
            before: RefCell::new(self.before.map(Rc::new)),
            widening: Widening::new(),
            unreadable: RefCell::default(),
            slots,
            locks: Locks::default(),
            options: *self.options,
            replay: Cell::new(replay),
            notices: RefCell::new(self.notices),
            ring_id: Cell::new(ring_id),
            checkpoint_lock: Lock::new(),
            destage_lock: Lock::new(),
            requests: Cell::new(0),
            generation: Cell::new(0),
            earlier: Cell::new(0),
            begun: Cell::new(0),
            stopping: Cell::new(false),
            stopped: Cell::new(false),
            quiet: Signal::new(),
            dirtied: Signal::new(),
        }));
        let mut done = array.take_over(state, reader, log, incarnation, self.progress).await;
        if done.is_ok() && self.uneven && !self.options.read_only {
            done = array.make_parity_right(self.progress).await;
        }
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
                s.geometry = g;
                if self.uneven {
                    all_is_missed(s);
                }
                (s.host, s.clean, s.uneven) = (identity.host, false, false);
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
            array.spawn_rebuild();
            array.spawn_moving();
        }
        array.resume_scrub().await;
        array.spawn_scrub_clock();
        Ok(array)
    }
}
