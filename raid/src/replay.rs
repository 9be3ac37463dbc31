//! Replay in memory: what log and ring mean for map and cache (format.md §7, second table).
//! Pure: nothing is read or written here.

use std::collections::{BTreeMap, HashMap};

use evenkeel_journal::record::{ParityRow, Record};
use evenkeel_journal::replay::LogContents;
use evenkeel_journal::ring::RingContents;
use evenkeel_journal::sabotage::{Sabotage, broken};
use evenkeel_journal::{Lsn, Slice, Slot, Stripe};

use crate::checksums::Unsaved;
use crate::geometry::Geometry;
use crate::map::Map;

/// Where a block's bytes are.
#[derive(Clone)]
pub(crate) enum Source {
    /// Zeros.
    Zero,
    /// Payload block of a kept commit: (index of the commit, block).
    Log(usize, usize),
    /// In the ring of the last daemon.
    Ring(Slice),
}

/// A block that is newer than what lies in its slot.
#[derive(Clone)]
pub(crate) struct Found {
    pub lsn: Lsn,
    pub source: Source,
    pub crc: u32,
}

/// A data block that a pending Parity covers.
pub(crate) struct CoveredBlock {
    pub column: usize,
    pub lsn: Lsn,
    pub source: Source,
}

/// A row of a pending Parity.
pub(crate) struct PendingRow {
    pub row: u32,
    pub covered: Vec<CoveredBlock>,
    pub parity: Vec<Source>,
}

/// A Parity that may not be in place completely.
pub(crate) struct PendingParity {
    pub stripe: Stripe,
    pub slot: Slot,
    pub lsn: Lsn,
    pub rows: Vec<PendingRow>,
}

/// A record of the ring above the log's end.
pub(crate) struct Adopted {
    pub lsn: Lsn,
    pub record: Record,
    pub data: Vec<(Slice, u32)>,
    pub last: bool,
}

/// What replay found.
pub(crate) struct Recovered {
    pub map: Map,
    pub dirty: BTreeMap<(Stripe, u32), Found>,
    /// Marks of lost blocks, each with its record.
    pub lost: BTreeMap<(Stripe, u32), Lsn>,
    pub adopted: Vec<Adopted>,
    pub parities: Vec<PendingParity>,
    /// Checksums that pages may not carry yet.
    pub sums: BTreeMap<Stripe, Unsaved>,
}

/// A Write of the log: stripe, first block, blocks, and where its data begins (commit, block).
type LoggedWrite = (Stripe, u32, u32, Option<(usize, usize)>);

struct Replay<'a> {
    g: &'a Geometry,
    map: Map,
    dirty: BTreeMap<(Stripe, u32), Found>,
    lost: BTreeMap<(Stripe, u32), Lsn>,
    writes: HashMap<Lsn, LoggedWrite>,
    parities: BTreeMap<Stripe, Vec<PendingParity>>,
    sums: BTreeMap<Stripe, Unsaved>,
}

/// Whether a row of a Parity is one that the array can have.
fn fits(g: &Geometry, row: &ParityRow) -> bool {
    row.row < g.chunk_blocks
        && row.parity_crcs.len() == g.parity
        && row.covered.iter().all(|c| (c.column as usize) < g.data)
}

/// Applies the kept commits, then the ring's records above the log's end, in LSN order.
///
/// # Errors
/// A sentence, if the records contradict each other or the geometry: that is damage.
pub(crate) fn recover(
    g: &Geometry,
    map: Map,
    log: &LogContents,
    ring: Option<&RingContents>,
) -> Result<Recovered, String> {
    let mut r = Replay {
        g,
        map,
        dirty: BTreeMap::new(),
        lost: BTreeMap::new(),
        writes: HashMap::new(),
        parities: BTreeMap::new(),
        sums: BTreeMap::new(),
    };
    for (c, commit) in log.commits.iter().enumerate() {
        for logged in &commit.records {
            let first = logged.first_block;
            r.apply(logged.lsn, &logged.record, |i| Source::Log(c, first + i), Some((c, first)))?;
        }
    }
    let end = log.end_lsn();
    let mut adopted: Vec<Adopted> = Vec::new();
    for found in
        ring.iter().flat_map(|r| &r.records).filter(|r| r.lsn > end || broken(Sabotage::StaleRing))
    {
        // Case QF: a Parity that is not in the log: nothing of it was written in place.
        if matches!(found.record, Record::Parity { .. } | Record::Checkpoint { .. }) {
            if let Some(before) = adopted.last_mut() {
                before.last |= found.last;
            }
            continue;
        }
        let data = &found.data;
        r.apply(found.lsn, &found.record, |i| Source::Ring(data[i].clone()), None)?;
        let crcs = match &found.record {
            Record::Write { crcs: Some(crcs), .. } => crcs.clone(),
            _ => Vec::new(),
        };
        adopted.push(Adopted {
            lsn: found.lsn,
            record: found.record.clone(),
            data: data.iter().cloned().zip(crcs).collect(),
            last: found.last,
        });
    }
    // Only now: a Place after a Parity supersedes it, and the tail may have passed what it covers.
    let mut parities: Vec<PendingParity> =
        std::mem::take(&mut r.parities).into_values().flatten().collect();
    parities.sort_by_key(|p| p.lsn);
    for p in &mut parities {
        r.find_covered(p)?;
    }
    // Case QB: what a pending Parity covers goes in place with it, unless a newer Write waits.
    for p in &parities {
        for row in &p.rows {
            for c in &row.covered {
                let block = c.column as u32 * g.chunk_blocks + row.row;
                if r.dirty.get(&(p.stripe, block)).is_some_and(|d| d.lsn == c.lsn) {
                    r.dirty.remove(&(p.stripe, block));
                }
            }
        }
    }
    let (map, dirty, lost, mut sums) = (r.map, r.dirty, r.lost, r.sums);
    // A log of which a part was given up may lack what put the stripe where home says it is.
    sums.retain(|stripe, u| u.newest() >= map.get(*stripe).lsn);
    Ok(Recovered { map, dirty, lost, adopted, parities, sums })
}

impl Replay<'_> {
    fn apply(
        &mut self,
        lsn: Lsn,
        record: &Record,
        data: impl Fn(usize) -> Source,
        at: Option<(usize, usize)>,
    ) -> Result<(), String> {
        let bad = |what: &str| {
            Err(format!(
                "Record {lsn} of the log names {what} that the array does not have. Nothing was \
                 written."
            ))
        };
        let g = self.g;
        match record {
            Record::Write { stripe, first, count, crcs } => {
                let end = u64::from(*first) + u64::from(*count);
                // Case WA: blocks that the device does not have.
                if stripe.0 >= g.stripes || end > g.stripe_blocks() {
                    return bad("blocks");
                }
                let zero = crc32c::crc32c(&[0; evenkeel_journal::BLOCK]);
                for i in 0..*count {
                    let (source, crc) = match crcs {
                        Some(crcs) => (data(i as usize), crcs[i as usize]),
                        None => (Source::Zero, zero),
                    };
                    // Case WB: dirty, in place of an older one.
                    self.dirty.insert((*stripe, first + i), Found { lsn, source, crc });
                    self.lost.remove(&(*stripe, first + i));
                }
                let at = at.filter(|_| crcs.is_some());
                self.writes.insert(lsn, (*stripe, *first, *count, at));
            }
            Record::Place { stripe, slot, horizon, crcs } => {
                if stripe.0 >= g.stripes || u64::from(slot.0) >= g.slots {
                    return bad("a stripe or slot");
                }
                if g.has_checksums() && !broken(Sabotage::ChecksumsNotLogged) {
                    // Case PC: home may know the Place, but not its checksums.
                    let Some(sums) = Unsaved::placed(g, lsn, crcs) else {
                        return bad("checksums");
                    };
                    self.sums.insert(*stripe, sums);
                }
                // Cases PA, PB: newer than the entry or not, what it supersedes is clean.
                self.superseded(*stripe, *horizon);
                if !self.moved(*stripe, Some(*slot), lsn) && g.has_checksums() {
                    self.map.hold_again(*stripe, lsn);
                }
            }
            Record::Unmap { first, count, horizon } => {
                if first.0.checked_add(*count).is_none_or(|end| end > g.stripes) {
                    return bad("stripes");
                }
                if broken(Sabotage::DiscardsForgotten) {
                    return Ok(());
                }
                for s in first.0..first.0 + count {
                    // Cases UA, UB: as PA and PB.
                    self.superseded(Stripe(s), *horizon);
                    self.sums.remove(&Stripe(s));
                    self.moved(Stripe(s), None, lsn);
                }
            }
            Record::Parity { stripe, slot, base, rows } => {
                if stripe.0 >= g.stripes || u64::from(slot.0) >= g.slots {
                    return bad("a stripe or slot");
                }
                self.parity(lsn, *stripe, *slot, rows, data)?;
                let here = self.map.get(*stripe).slot == Some(*slot);
                let fit = rows.iter().all(|r| fits(g, r));
                if g.has_checksums() && here && fit && !broken(Sabotage::ChecksumsNotLogged) {
                    // Case QG: home may know the Parity, but not its checksums.
                    let none = || Unsaved::none(*base);
                    self.sums.entry(*stripe).or_insert_with(none).changed(g, lsn, rows);
                    if lsn <= self.map.get(*stripe).lsn {
                        self.map.hold_again(*stripe, lsn);
                    }
                }
            }
            Record::Lost { stripe, first, count } => {
                let end = u64::from(*first) + u64::from(*count);
                // Case LA: blocks that the device does not have.
                if stripe.0 >= g.stripes || end > g.stripe_blocks() {
                    return bad("blocks");
                }
                // Case LB: EIO, unless a Write of before waits there already.
                for block in *first..first + count {
                    if !self.dirty.contains_key(&(*stripe, block)) {
                        self.lost.insert((*stripe, block), lsn);
                    }
                }
            }
            // Case XA: it says nothing of map or cache.
            Record::Checkpoint { .. } => {}
        }
        Ok(())
    }

    fn superseded(&mut self, stripe: Stripe, horizon: Lsn) {
        let of_stripe = (stripe, 0)..=(stripe, u32::MAX);
        let horizon = if broken(Sabotage::HorizonIgnored) { Lsn(u64::MAX) } else { horizon };
        let gone = self.dirty.range(of_stripe).filter(|(_, d)| d.lsn <= horizon);
        let gone: Vec<(Stripe, u32)> = gone.map(|(at, _)| *at).collect();
        for at in gone {
            self.dirty.remove(&at);
        }
        let of_stripe = (stripe, 0)..=(stripe, u32::MAX);
        let gone = self.lost.range(of_stripe).filter(|(_, lsn)| **lsn <= horizon);
        let gone: Vec<(Stripe, u32)> = gone.map(|(at, _)| *at).collect();
        for at in gone {
            self.lost.remove(&at);
        }
    }

    fn moved(&mut self, stripe: Stripe, slot: Option<Slot>, lsn: Lsn) -> bool {
        // Cases PA, UA: the entry follows. PB and UB: it is as new or newer.
        let newer = lsn > self.map.get(stripe).lsn;
        if newer {
            self.map.moved(stripe, slot, lsn);
            self.parities.remove(&stripe);
        }
        newer
    }

    fn parity(
        &mut self,
        lsn: Lsn,
        stripe: Stripe,
        slot: Slot,
        rows: &[ParityRow],
        data: impl Fn(usize) -> Source,
    ) -> Result<(), String> {
        let g = self.g;
        let entry = self.map.get(stripe);
        if lsn <= entry.lsn {
            // Case QA: home knows of it: it was in place and flushed. What it covers is clean.
            for row in rows {
                for c in &row.covered {
                    let block = c.column * g.chunk_blocks + row.row;
                    if self.dirty.get(&(stripe, block)).is_some_and(|d| d.lsn == c.lsn) {
                        self.dirty.remove(&(stripe, block));
                    }
                }
            }
            return Ok(());
        }
        // Case QC: the slot is another stripe's by now.
        if entry.slot != Some(slot) {
            return Ok(());
        }
        // Case QB: it may be in place in part: it goes there again.
        let mut pending = Vec::new();
        let mut next = 0;
        for row in rows {
            // Case QE: it does not fit the array.
            if !fits(g, row) {
                return Err(format!("Record {lsn} of the log does not fit the array's shape."));
            }
            let parity = (next..next + g.parity).map(&data).collect();
            next += g.parity;
            let covered = row.covered.iter().map(|c| CoveredBlock {
                column: c.column as usize,
                lsn: c.lsn,
                source: Source::Zero,
            });
            let covered = covered.collect();
            pending.push(PendingRow { row: row.row, covered, parity });
        }
        let all = self.parities.entry(stripe).or_default();
        all.push(PendingParity { stripe, slot, lsn, rows: pending });
        Ok(())
    }

    /// Finds the blocks that a pending Parity covers (case QD: one is gone).
    fn find_covered(&self, p: &mut PendingParity) -> Result<(), String> {
        for row in &mut p.rows {
            for c in &mut row.covered {
                let block = c.column as u32 * self.g.chunk_blocks + row.row;
                c.source = self.write_source(c.lsn, p.stripe, block).ok_or_else(|| {
                    format!(
                        "Record {} of the log covers block {block} of stripe {} by record {}, \
                         which is not in the log any more. Nothing was written.",
                        p.lsn, p.stripe, c.lsn
                    )
                })?;
            }
        }
        Ok(())
    }

    fn write_source(&self, lsn: Lsn, stripe: Stripe, block: u32) -> Option<Source> {
        let (s, first, count, at) = self.writes.get(&lsn)?;
        if *s != stripe || block < *first || block >= first + count {
            return None;
        }
        Some(match at {
            Some((commit, first_block)) => {
                Source::Log(*commit, first_block + (block - first) as usize)
            }
            None => Source::Zero,
        })
    }
}
