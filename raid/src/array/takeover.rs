//! The second half of a start: what replay found becomes the running array's cache, holds and log.

use std::collections::{BTreeMap, HashMap};

use evenkeel_journal::log::Halted;
use evenkeel_journal::record::Record;
use evenkeel_journal::replay::{LogContents, LogReader, LoggedRecord};
use evenkeel_journal::sync::join_all;
use evenkeel_journal::{BLOCK, Bounded, Buf, Lsn, MemberIndex, Segs, Slice, Stripe, World};

use super::Array;
use super::cache::DirtyBlock;
use crate::checksums::{Verdict, verdict};
use crate::error::{ArrayError, ErrorKind};
use crate::geometry::Geometry;
use crate::members::Members;
use crate::options::Progress;
use crate::replay::{Adopted, Found, PendingParity, Recovered, Source};

/// What replay found, but for the map.
pub(super) struct State {
    pub dirty: BTreeMap<(Stripe, u32), Found>,
    pub adopted: Vec<Adopted>,
    pub parities: Vec<PendingParity>,
    pub fence: bool,
}

/// Blocks of kept commits that are needed, by (commit, payload block).
type Blocks = HashMap<(usize, usize), Slice>;

/// Stripe, block, LSN, CRC, payload block.
type DirtyInLog = (Stripe, u32, Lsn, u32, usize);

impl<W: World> Array<W> {
    /// Fills the cache, takes over the ring's records, opens the incarnation, and puts the rows
    /// of pending Parities in place. Read-only: in memory alone.
    pub(super) async fn take_over(
        &self,
        state: State,
        reader: &LogReader<'_, Bounded<W>>,
        log: &LogContents,
        incarnation: u64,
        progress: &dyn Fn(Progress),
    ) -> Result<(), ArrayError> {
        let read_only = self.0.options.read_only;
        let journal = &self.0.journal;
        if !read_only {
            for a in &state.adopted {
                journal.adopt(a.lsn, &a.record, a.data.clone(), a.last);
            }
            if state.fence {
                let left_out = log.max_lsn.0.saturating_sub(journal.next_lsn().0);
                if left_out > reader.geometry.most_lsns() {
                    return Err(ArrayError::new(
                        ErrorKind::LogDamaged,
                        format!(
                            "A page of the map or of checksums names record {}, far beyond all that \
                             the log can have held: somebody made it up.",
                            log.max_lsn
                        ),
                    ));
                }
                journal.skip_to(log.max_lsn.next());
                let checkpoint = Record::Checkpoint { incarnation };
                journal.adopt(journal.next_lsn(), &checkpoint, Vec::new(), true);
            }
            let held = self.0.map.borrow().held();
            held.into_iter().for_each(|lsn| journal.hold(lsn));
            self.0.lost.borrow().records().into_iter().for_each(|lsn| journal.hold(lsn));
            for p in &state.parities {
                journal.hold(p.lsn);
                for c in p.rows.iter().flat_map(|r| &r.covered) {
                    journal.hold(c.lsn);
                }
            }
        }
        let blocks = self.fill_cache(&state, reader, log, progress).await?;
        if read_only {
            for p in &state.parities {
                for (member, at, block) in self.placed_blocks(p, &blocks)? {
                    self.0.members.overlay(member, at, block);
                }
            }
            return Ok(());
        }
        journal.spawn();
        let halted = |Halted| {
            ArrayError::new(
                ErrorKind::Failed,
                "Too many members failed while the array was starting. Nothing that was \
                 acknowledged is lost: the log is as it was.",
            )
        };
        journal.durable(journal.last_lsn()).await.map_err(halted)?;
        self.put_in_place(&state.parities, &blocks).await?.map_err(halted)
    }

    /// Loads every commit that something is needed of, once; dirty blocks become places.
    async fn fill_cache(
        &self,
        state: &State,
        reader: &LogReader<'_, Bounded<W>>,
        log: &LogContents,
        progress: &dyn Fn(Progress),
    ) -> Result<Blocks, ArrayError> {
        let mut dirty: Vec<Vec<DirtyInLog>> = log.commits.iter().map(|_| Vec::new()).collect();
        let mut needed: Vec<Vec<usize>> = log.commits.iter().map(|_| Vec::new()).collect();
        for ((stripe, block), d) in &state.dirty {
            match &d.source {
                Source::Log(c, b) => dirty[*c].push((*stripe, *block, d.lsn, d.crc, *b)),
                Source::Ring(bytes) => {
                    self.recovered(*stripe, *block, d.lsn, d.crc, Some(bytes))?
                }
                Source::Zero => self.recovered(*stripe, *block, d.lsn, d.crc, None)?,
            }
        }
        for row in state.parities.iter().flat_map(|p| &p.rows) {
            for s in row.covered.iter().map(|c| &c.source).chain(&row.parity) {
                if let Source::Log(c, b) = s {
                    needed[*c].push(*b);
                }
            }
        }
        let mut blocks = Blocks::new();
        let all = log.commits.len() as u64;
        for (c, commit) in log.commits.iter().enumerate() {
            progress(Progress::Replay(c as u64 + 1, all));
            if dirty[c].is_empty() && needed[c].is_empty() {
                continue;
            }
            let payload =
                reader.payload(commit).await.ok_or_else(|| damaged(commit.header.number))?;
            for (stripe, block, lsn, crc, b) in &dirty[c] {
                self.recovered(*stripe, *block, *lsn, *crc, Some(&payload[*b]))?;
            }
            for b in &needed[c] {
                blocks.insert((c, *b), Slice::copy_of(&payload[*b]));
            }
        }
        Ok(blocks)
    }

    fn recovered(
        &self,
        stripe: Stripe,
        block: u32,
        lsn: Lsn,
        crc: u32,
        bytes: Option<&Slice>,
    ) -> Result<(), ArrayError> {
        let place = match bytes {
            None => None,
            Some(bytes) => {
                // The CRC of its commit held, so it was written like this.
                if crc32c::crc32c(bytes) != crc {
                    return Err(ArrayError::new(
                        ErrorKind::LogDamaged,
                        format!(
                            "Record {lsn} of the log says another checksum of block {block} of \
                             stripe {stripe} than that block has: what the log says is not what \
                             a daemon wrote."
                        ),
                    ));
                }
                let place = self.0.journal.ring().fill(bytes);
                Some(place.ok_or_else(|| {
                    ArrayError::new(
                        ErrorKind::Failed,
                        "The log holds more unwritten blocks than the cache has places. Nothing \
                         that was acknowledged is lost.",
                    )
                })?)
            }
        };
        let new = DirtyBlock { lsn, data: place, crc };
        let now = self.0.world.now();
        let mut cache = self.0.cache.borrow_mut();
        cache.insert(stripe, block, new, now);
        if self.0.options.read_only {
            return Ok(());
        }
        self.0.journal.hold(lsn);
        let s = cache.stripes.get_mut(&stripe).expect("it was just put in");
        if s.charges == 0 {
            s.charges = 1;
            self.0.journal.charge_at_start();
        }
        Ok(())
    }

    /// Member, byte and content of every block of a Parity.
    fn placed_blocks(
        &self,
        p: &PendingParity,
        blocks: &Blocks,
    ) -> Result<Vec<(MemberIndex, u64, Slice)>, ArrayError> {
        let g = &self.0.geometry.get();
        let zero = Slice::copy_of(&[0; BLOCK]);
        let bytes = |s: &Source| match s {
            Source::Zero => Ok(zero.clone()),
            Source::Ring(bytes) => Ok(bytes.clone()),
            Source::Log(c, b) => blocks.get(&(*c, *b)).cloned().ok_or_else(|| {
                ArrayError::new(ErrorKind::LogDamaged, "A commit lacks a block that it names.")
            }),
        };
        let mut out = Vec::new();
        for r in &p.rows {
            let at = g.byte_of(p.slot, r.row);
            let covered = r.covered.iter().map(|c| (c.column, &c.source));
            let parity = r.parity.iter().enumerate().map(|(i, s)| (g.data + i, s));
            for (column, source) in covered.chain(parity) {
                out.push((g.member_of(p.slot, column), at, bytes(source)?));
            }
        }
        Ok(out)
    }

    /// Writes the rows of pending Parities, in LSN order, and flushes them.
    async fn put_in_place(
        &self,
        parities: &[PendingParity],
        blocks: &Blocks,
    ) -> Result<Result<(), Halted>, ArrayError> {
        if parities.is_empty() {
            return Ok(Ok(()));
        }
        // A later Parity's block replaces an earlier one's at the same place.
        let mut runs: BTreeMap<(u8, u64), Segs> = BTreeMap::new();
        for p in parities {
            for (member, at, block) in self.placed_blocks(p, blocks)? {
                runs.insert((member.0, at), vec![block]);
            }
        }
        if let Err(Halted) = self.write_runs(runs).await {
            return Ok(Err(Halted));
        }
        if let Err(Halted) = self.0.members.flush_members().await {
            return Ok(Err(Halted));
        }
        for p in parities {
            let covered: Vec<Lsn> = p.rows.iter().flat_map(|r| &r.covered).map(|c| c.lsn).collect();
            self.0.map.borrow_mut().destaged(p.stripe, p.lsn, &covered);
        }
        Ok(Ok(()))
    }
}

pub(super) fn damaged(number: evenkeel_journal::CommitNumber) -> ArrayError {
    ArrayError::new(
        ErrorKind::LogDamaged,
        format!("Commit {number} of the log could be read once, but not again."),
    )
}

/// Whether commits that were dropped have to be fenced off by a new one. Not if the last commit is
/// such a fence itself: what was seen beyond it is erased instead, so that starts that are cut
/// again and again do not fill the log.
pub(super) fn must_fence(log: &LogContents, recovered: &Recovered, uneven: bool) -> bool {
    // Case P: the log goes on after a fence beyond which nothing is left. Case O: all else.
    let fence = |r: &LoggedRecord| matches!(r.record, Record::Checkpoint { .. });
    let is_fence = log.commits.last().is_some_and(|last| last.records.iter().all(fence));
    uneven || !is_fence || !recovered.adopted.is_empty()
}

/// Checks the chunks named by Places in the ring against their CRCs. Gives what has to be written
/// again.
///
/// # Errors
/// `LogDamaged` if a slot is not there with at most m chunks missing or wrong.
pub(super) async fn check_places<W: World>(
    members: &Members<W>,
    g: &Geometry,
    adopted: &[Adopted],
) -> Result<Vec<(MemberIndex, u64, Slice)>, ArrayError> {
    let mut repairs = Vec::new();
    for a in adopted {
        let Record::Place { stripe, slot, crcs, .. } = &a.record else {
            continue;
        };
        let rows = g.chunk_blocks as usize;
        if crcs.len() != rows * g.members() {
            continue;
        }
        let at = g.byte_of(*slot, 0);
        let reads = (0..g.members())
            .map(|c| members.read(g.member_of(*slot, c), at, Buf::new(rows * BLOCK)));
        let found: Vec<Option<Buf>> = join_all(reads.collect())
            .await
            .into_iter()
            .enumerate()
            .map(|(c, bytes)| {
                let own = &crcs[c * rows..(c + 1) * rows];
                // A block that is lost is zero, and its checksum says so.
                let right = |b: &Buf| {
                    let mut all = b.chunks(BLOCK).zip(own);
                    all.all(|(block, sum)| verdict(block, *sum) != Verdict::Bad)
                };
                bytes.filter(right)
            })
            .collect();
        let wrong: Vec<usize> = (0..g.members())
            .filter(|c| found[*c].is_none())
            .filter(|c| {
                let member = g.member_of(*slot, *c);
                members.is_active(member) || members.twin_of(member).is_some()
            })
            .collect();
        // Case RG: at most m chunks are wrong: they are made again.
        let views: Vec<Option<&[u8]>> = found.iter().map(|f| f.as_deref()).collect();
        let mut made: Vec<Buf> = wrong.iter().map(|_| Buf::new(rows * BLOCK)).collect();
        let mut out: Vec<&mut [u8]> = made.iter_mut().map(|b| &mut b[..]).collect();
        let present = views.iter().filter(|v| v.is_some()).count();
        let rebuilt = present >= g.data
            && members.code().reconstruct(g.data, &views, &wrong, &mut out).is_ok();
        // Case RH: more are.
        if !rebuilt {
            return Err(ArrayError::new(
                ErrorKind::LogDamaged,
                format!(
                    "Stripe {stripe} was acknowledged, but its chunks are whole on {present} \
                     members alone, {} are needed. Nothing was written. Bring back the missing \
                     members and start again.",
                    g.data
                ),
            ));
        }
        for (c, bytes) in wrong.into_iter().zip(made) {
            repairs.push((g.member_of(*slot, c), at, bytes.freeze()));
        }
        // What is being filled for one that is there was not looked at.
        for (c, bytes) in found.into_iter().enumerate() {
            let member = g.member_of(*slot, c);
            if let Some(bytes) = bytes.filter(|_| members.twin_of(member).is_some()) {
                repairs.push((member, at, bytes.freeze()));
            }
        }
    }
    Ok(repairs)
}
