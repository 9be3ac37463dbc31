//! What start-up finds in the log: the commits that count, where the log ends, and why.
//!
//! The cases are the lettered table of format.md §7; the letters stand beside the code.
//! Nothing is written here. Memory: a header per column found, and the records' metadata; data
//! blocks are read again, one commit at a time, when they are needed.

use std::collections::HashMap;

use crate::commit::{COMMIT_VERSION, ColumnHeader, FLAG_INLINE, INLINE_AT, column_crc};
use crate::disk::{Disk, DiskError};
use crate::log::{LogGeometry, LogStart};
use crate::mem::{Buf, Segs, Slice};
use crate::record::Record;
use crate::sabotage::{Sabotage, broken};
use crate::sync::join_all;
use crate::units::{BLOCK, CommitNumber, Lsn, MemberIndex};

/// Rows that are read at once while looking for headers.
const SCAN_ROWS: u64 = 256;
/// How often a column is read, if its disk is there, before it counts as unreadable: where just as
/// many columns are left as it takes, one read that fails once is one too many.
const READS: usize = 4;

/// The code of the columns: rebuilds what is missing.
pub trait ColumnCode {
    /// `shards`: `width` data columns, then parity columns, None where missing; all of the same
    /// length. Gives the wanted columns, or false if too few are there.
    fn rebuild(
        &self,
        width: usize,
        shards: &[Option<&[u8]>],
        wanted: &[usize],
        out: &mut [&mut [u8]],
    ) -> bool;
}

/// Why a log cannot be replayed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogError {
    /// No commit is there at all.
    Missing,
    /// A commit that was known as durable is not whole any more.
    Damaged {
        /// The last commit that is.
        last_whole: CommitNumber,
        /// The newest commit known as durable.
        durable: CommitNumber,
    },
    /// A commit whose CRC holds says something that this version does not know.
    Unknown {
        /// Its number, 0 if that is not known either.
        number: CommitNumber,
        /// The version found.
        version: u32,
    },
}

/// A record with the place of its data in its commit's payload.
#[derive(Clone, Debug)]
pub struct LoggedRecord {
    /// Its LSN.
    pub lsn: Lsn,
    /// What it says.
    pub record: Record,
    /// Index of its first data block in the payload.
    pub first_block: usize,
}

/// A commit that counts.
#[derive(Clone, Debug)]
pub struct KeptCommit {
    /// What its columns say of it (`column`, `member` and `column_crc` are one column's).
    pub header: ColumnHeader,
    /// Its records.
    pub records: Vec<LoggedRecord>,
    /// Columns that are not whole on a member that is there.
    pub damaged_columns: Vec<usize>,
}

/// What the log holds.
#[derive(Debug)]
pub struct LogContents {
    /// The commits that count, oldest first; empty only if the log begins anew.
    pub commits: Vec<KeptCommit>,
    /// Nothing of the log is kept: it begins anew, with records above this LSN.
    pub anew: Option<Lsn>,
    /// Highest commit number in any header.
    pub max_number: CommitNumber,
    /// Highest LSN in any header.
    pub max_lsn: Lsn,
    /// Bytes of columns found beyond the end: a torn tail.
    pub torn_bytes: u64,
    /// Commits found beyond the end.
    pub torn_commits: u64,
    /// Where headers of commits beyond the end lie: member, row. None lies in what is kept.
    pub dropped: Vec<(MemberIndex, u64)>,
}

/// A log as it was found: what can be kept of it, and what is wrong.
#[derive(Debug)]
pub struct Survey {
    /// All of the log where nothing is wrong; else the longest part of it that is whole, beginning
    /// with the oldest commit that was still needed (`anew`, if that one is gone).
    pub contents: LogContents,
    /// What is wrong.
    pub damage: Option<LogError>,
}

impl LogContents {
    /// The last commit that counts.
    ///
    /// # Panics
    /// If the log begins anew.
    #[must_use]
    pub fn last(&self) -> &KeptCommit {
        self.commits.last().expect("a log has commits unless it begins anew")
    }

    /// The newest LSN up to the end of what is kept.
    #[must_use]
    pub fn end_lsn(&self) -> Lsn {
        let end = self.commits.last().map(|c| c.header.lsn_last);
        end.into_iter().chain(self.anew).max().unwrap_or_default()
    }

    /// Where the log goes on, for a new incarnation.
    #[must_use]
    pub fn start(&self, g: &LogGeometry, incarnation: u64) -> LogStart {
        let (Some(last), Some(first)) = (self.commits.last(), self.commits.first()) else {
            let lsn = self.end_lsn().next();
            return LogStart {
                incarnation,
                number: CommitNumber(self.max_number.0 + g.rows + 1),
                prev: CommitNumber(0),
                prev_crc: 0,
                row: 0,
                lsn,
                kept: Vec::new(),
                first_lsn: lsn,
            };
        };
        let (last, first) = (&last.header, &first.header);
        let kept = self
            .commits
            .iter()
            .map(|c| (c.header.number, c.header.row, u64::from(c.header.rows), c.header.lsn_last));
        LogStart {
            incarnation,
            // Commits that nobody here has seen may lie on an absent member: none of their
            // numbers is used again. They are fewer than the log has rows.
            number: CommitNumber(self.max_number.0 + g.rows + 1),
            prev: last.number,
            prev_crc: last.commit_crc,
            row: (last.row + u64::from(last.rows)) % g.rows,
            lsn: last.lsn_last.next(),
            kept: kept.collect(),
            first_lsn: first.lsn_first.min(first.lsn_last.next()),
        }
    }
}

/// The devices whose log areas are read.
pub struct LogReader<'a, D: Disk> {
    /// Trusted devices of the log, with their indexes.
    pub members: &'a [(MemberIndex, D)],
    /// Where the log lies.
    pub geometry: LogGeometry,
    /// The code of the columns.
    pub code: &'a dyn ColumnCode,
}

struct Group {
    header: ColumnHeader,
    /// (column, member, CRC of the column) of every header found.
    columns: Vec<(usize, MemberIndex, u32)>,
}

struct Whole {
    payload: Vec<Slice>,
    inline: Vec<u8>,
    damaged: Vec<usize>,
}

impl<D: Disk> LogReader<'_, D> {
    /// Reads all log areas and decides which commits count.
    ///
    /// # Errors
    /// What is wrong with the log.
    pub async fn read(&self, progress: &dyn Fn(u64, u64)) -> Result<LogContents, LogError> {
        let survey = self.survey(progress).await?;
        survey.damage.map_or(Ok(survey.contents), Err)
    }

    /// The same, and what is left of a log that is damaged.
    ///
    /// # Errors
    /// If a newer program wrote it.
    pub async fn survey(&self, progress: &dyn Fn(u64, u64)) -> Result<Survey, LogError> {
        let groups = self.scan(progress).await?;
        let mut order: Vec<usize> = (0..groups.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(groups[*i].header.number));
        let mut by_number: HashMap<CommitNumber, Vec<usize>> = HashMap::new();
        let mut by_prev: HashMap<(CommitNumber, u32), Vec<usize>> = HashMap::new();
        for i in &order {
            let h = &groups[*i].header;
            by_number.entry(h.number).or_default().push(*i);
            by_prev.entry((h.prev_number, h.prev_crc)).or_default().push(*i);
        }
        let max_number = groups.iter().map(|g| g.header.number).max().unwrap_or_default();
        let max_lsn = groups.iter().map(|g| g.header.lsn_last).max().unwrap_or_default();
        let known = groups.iter().map(|g| g.header.durable).max().unwrap_or_default();

        let rows = self.geometry.rows;
        let contents = |commits: Vec<KeptCommit>, last: CommitNumber| {
            let torn: Vec<&Group> = groups.iter().filter(|g| g.header.number > last).collect();
            // From the first row of what is kept, how far each lies behind it.
            let first = commits.first().map_or(0, |c| c.header.row);
            let behind = |row: u64| (row + rows - first) % rows;
            let kept =
                commits.last().map_or(0, |c| behind(c.header.row) + u64::from(c.header.rows));
            let places = |g: &&Group| -> Vec<(MemberIndex, u64)> {
                let row = g.header.row;
                let there = if behind(row) < kept { &[][..] } else { &g.columns[..] };
                there.iter().map(|(_, member, _)| (*member, row)).collect()
            };
            LogContents {
                anew: commits.is_empty().then_some(max_lsn),
                commits,
                max_number,
                max_lsn,
                torn_bytes: torn
                    .iter()
                    .map(|g| u64::from(g.header.payload_blocks) * BLOCK as u64)
                    .sum(),
                torn_commits: torn.len() as u64,
                dropped: torn.iter().flat_map(places).collect(),
            }
        };
        let nothing = |damage| Survey {
            contents: contents(Vec::new(), CommitNumber(0)),
            damage: Some(damage),
        };
        // Case H: no header at all; a log that was created has one.
        if groups.is_empty() {
            return Ok(nothing(LogError::Missing));
        }

        // Case I: the newest whole commit whose tail is whole, too; that tail is the beginning.
        let (mut begin, mut newest_tail) = (None, None);
        'newest: for i in &order {
            if self.load(&groups[*i]).await?.is_none() {
                continue;
            }
            newest_tail = newest_tail.or(Some(groups[*i].header.tail));
            for t in by_number.get(&groups[*i].header.tail).into_iter().flatten() {
                if let Some(commit) = self.load(&groups[*t]).await? {
                    begin = Some((*t, commit));
                    break 'newest;
                }
            }
        }
        let Some((mut at, first)) = begin else {
            // Case J: no commit is whole together with its tail.
            return Ok(nothing(LogError::Damaged { last_whole: CommitNumber(0), durable: known }));
        };

        // Case K: from there on, successor by successor. Of two the higher number counts: the
        // other was dropped by an earlier start.
        let mut kept_rows = u64::from(first.header.rows);
        let mut commits = vec![first];
        loop {
            let (number, crc) = (groups[at].header.number, groups[at].header.commit_crc);
            let mut next = None;
            for i in by_prev.get(&(number, crc)).into_iter().flatten() {
                if groups[*i].header.number <= number {
                    continue;
                }
                if let Some(commit) = self.load(&groups[*i]).await? {
                    next = Some((*i, commit));
                    break;
                }
            }
            if next.is_none() && broken(Sabotage::TornCommitPassed) {
                for i in order.iter().rev().filter(|i| groups[**i].header.number > number) {
                    if let Some(commit) = self.load(&groups[*i]).await? {
                        next = Some((*i, commit));
                        break;
                    }
                }
            }
            let Some((i, commit)) = next else { break };
            // Case KA: it says that it follows, but its place or its records do not.
            let (before, own) = (&groups[at].header, &commit.header);
            kept_rows += u64::from(own.rows);
            let follows = own.row == (before.row + u64::from(before.rows)) % rows
                && own.lsn_first > before.lsn_last
                && kept_rows <= rows;
            if !follows {
                return Err(LogError::Unknown { number: own.number, version: COMMIT_VERSION });
            }
            commits.push(commit);
            at = i;
        }
        let last = groups[at].header.number;
        // Case KB: numbers of records go on by far more than there can be.
        let first_lsn = commits[0].header.lsn_first.0;
        if max_lsn.0.saturating_sub(first_lsn) > self.geometry.most_lsns() {
            return Err(LogError::Unknown { number: last, version: COMMIT_VERSION });
        }
        // Case M: some header knew a later commit as durable: what was promised is gone.
        if known > last && !broken(Sabotage::DamageAsTail) {
            let damage = LogError::Damaged { last_whole: last, durable: known };
            // Commits before the tail that counts say what newer ones have superseded.
            if newest_tail != Some(commits[0].header.number) {
                return Ok(nothing(damage));
            }
            return Ok(Survey { contents: contents(commits, last), damage: Some(damage) });
        }
        // Case L: nobody did, so what lies beyond is a torn tail, and is dropped.
        Ok(Survey { contents: contents(commits, last), damage: None })
    }

    /// Looks at every block of every log area for a header.
    async fn scan(&self, progress: &dyn Fn(u64, u64)) -> Result<Vec<Group>, LogError> {
        let g = &self.geometry;
        let mut groups: Vec<Group> = Vec::new();
        let mut by_key: HashMap<(u64, u64, u32), usize> = HashMap::new();
        let mut row = 0;
        while row < g.rows {
            let rows = SCAN_ROWS.min(g.rows - row);
            let reads = self.members.iter().map(|(i, d)| self.read_rows(*i, d, row, rows));
            for (member, blocks) in join_all(reads.collect()).await {
                for (n, block) in blocks.iter().enumerate() {
                    let Some(block) = block else { continue };
                    let found = ColumnHeader::decode(block, g.array, row + n as u64);
                    let header = match found {
                        Ok(Some(h)) if h.member == u16::from(member.0) && self.fits(&h) => h,
                        // Case A: old data, payload, torn, another member's, or of another shape.
                        Ok(_) => continue,
                        // Case B: a newer program wrote it.
                        Err(version) => {
                            return Err(LogError::Unknown { number: CommitNumber(0), version });
                        }
                    };
                    let key = (header.incarnation, header.number.0, header.commit_crc);
                    let column = (usize::from(header.column), member, header.column_crc);
                    let at = *by_key.entry(key).or_insert_with(|| {
                        groups.push(Group { header: header.clone(), columns: Vec::new() });
                        groups.len() - 1
                    });
                    // Case C: columns of one commit agree in all that is the commit's.
                    if groups[at].header.same_commit(&header) {
                        groups[at].columns.push(column);
                    }
                }
            }
            row += rows;
            progress(row, g.rows);
        }
        Ok(groups)
    }

    /// Whether a commit of this shape can lie in this log.
    fn fits(&self, h: &ColumnHeader) -> bool {
        let (g, width, all) = (&self.geometry, usize::from(h.width), h.members.len());
        u64::from(h.rows) <= g.rows && width <= g.data && all - width <= g.parity
    }

    /// Some rows of one member's log area, block by block; None where a block cannot be read.
    async fn read_rows(
        &self,
        member: MemberIndex,
        disk: &D,
        row: u64,
        rows: u64,
    ) -> (MemberIndex, Vec<Option<Slice>>) {
        let at = self.geometry.offset + row * BLOCK as u64;
        let (done, buf) = disk.read(at, Buf::new(rows as usize * BLOCK)).await;
        let mut blocks = Vec::new();
        if done.is_ok() {
            let s = buf.freeze();
            blocks.extend((0..rows as usize).map(|i| Some(s.part(i * BLOCK, BLOCK))));
            return (member, blocks);
        }
        for i in 0..rows {
            let (done, buf) = disk.read(at + i * BLOCK as u64, Buf::new(BLOCK)).await;
            blocks.push(done.is_ok().then(|| buf.freeze()));
        }
        (member, blocks)
    }

    /// A commit with its records; None if it is not whole.
    async fn load(&self, group: &Group) -> Result<Option<KeptCommit>, LogError> {
        let number = group.header.number;
        // Case G: the CRC of the commit holds, but its records do not decode or do not fit.
        let unknown = LogError::Unknown { number, version: COMMIT_VERSION };
        let Some(whole) = self.gather(&group.header, Some(&group.columns)).await else {
            return Ok(None);
        };
        let meta_len = group.header.meta_bytes as usize;
        let (meta, mut block) = if group.header.flags & FLAG_INLINE != 0 {
            (whole.inline, 0)
        } else {
            let blocks = meta_len.div_ceil(BLOCK);
            let mut m = Vec::with_capacity(blocks * BLOCK);
            whole.payload[..blocks].iter().for_each(|b| m.extend_from_slice(b));
            m.truncate(meta_len);
            (m, blocks)
        };
        let mut rest = &meta[..];
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (lsn, record) = Record::decode(&mut rest).ok_or(unknown.clone())?;
            let first_block = block;
            block += record.data_blocks();
            records.push(LoggedRecord { lsn, record, first_block });
        }
        let (first, last) = (group.header.lsn_first, group.header.lsn_last);
        let ascending = records.windows(2).all(|pair| pair[0].lsn < pair[1].lsn);
        let inside = |r: &LoggedRecord| (first..=last).contains(&r.lsn);
        if block != group.header.payload_blocks as usize
            || records.len() != group.header.records as usize
            || !ascending
            || !records.iter().all(inside)
        {
            return Err(unknown);
        }
        let header = group.header.clone();
        Ok(Some(KeptCommit { header, records, damaged_columns: whole.damaged }))
    }

    /// The payload of a commit that counts, block by block.
    pub async fn payload(&self, commit: &KeptCommit) -> Option<Vec<Slice>> {
        Some(self.gather(&commit.header, None).await?.payload)
    }

    /// Reads the columns of a commit that are there, checks them, and rebuilds what is missing.
    /// None if fewer than `width` hold.
    async fn gather(
        &self,
        h: &ColumnHeader,
        columns: Option<&[(usize, MemberIndex, u32)]>,
    ) -> Option<Whole> {
        let (width, all) = (usize::from(h.width), h.members.len());
        let rows = h.rows as usize - 1;
        let wanted = |c: usize, m: MemberIndex| match columns {
            Some(list) => list.iter().any(|(lc, lm, _)| (*lc, *lm) == (c, m)),
            None => true,
        };
        let mut reads = Vec::new();
        for (i, d) in self.members {
            let Some(c) = h.members.iter().position(|m| *m == i.0) else {
                continue;
            };
            if wanted(c, *i) {
                let blocks = if c < width { h.blocks_in(c) } else { rows };
                reads.push(self.read_column(d, h, c, blocks));
            }
        }
        let mut shards: Vec<Option<Buf>> = (0..all).map(|_| None).collect();
        let mut crcs = vec![0; width];
        let mut inline = Vec::new();
        for (column, found) in join_all(reads).await {
            let Some((header, mut bytes, blocks)) = found else {
                continue;
            };
            let crc = column_crc(bytes[..blocks * BLOCK].chunks(BLOCK).map(crc32c::crc32c));
            let own = ColumnHeader::decode(&header, h.array, h.row);
            let Ok(Some(own)) = own else { continue };
            // Case D: torn or damaged since the scan, or its payload is: the column is missing.
            let torn = own.column_crc != crc && !broken(Sabotage::AnyCrc);
            if torn || !own.same_commit(h) || usize::from(own.column) != column {
                continue;
            }
            if column < width {
                crcs[column] = crc;
            }
            bytes[blocks * BLOCK..].fill(0);
            inline = header[INLINE_AT..].to_vec();
            shards[column] = Some(bytes);
        }
        let present = shards.iter().filter(|s| s.is_some()).count();
        // Case E: too few columns: the commit is not whole.
        if present < width {
            return None;
        }
        let here = |c: usize| self.members.iter().any(|(i, _)| i.0 == h.members[c]);
        let damaged = (0..all).filter(|c| shards[*c].is_none() && here(*c)).collect();
        let missing: Vec<usize> = (0..width).filter(|c| shards[*c].is_none()).collect();
        if !missing.is_empty() {
            let mut made: Vec<Buf> = missing.iter().map(|_| Buf::new(rows * BLOCK)).collect();
            if rows > 0 {
                let views: Vec<Option<&[u8]>> = shards.iter().map(|s| s.as_deref()).collect();
                let mut out: Vec<&mut [u8]> = made.iter_mut().map(|b| &mut b[..]).collect();
                if !self.code.rebuild(width, &views, &missing, &mut out) {
                    return None;
                }
            }
            for (c, b) in missing.into_iter().zip(made) {
                let blocks = h.blocks_in(c);
                crcs[c] = column_crc(b[..blocks * BLOCK].chunks(BLOCK).map(crc32c::crc32c));
                shards[c] = Some(b);
            }
        }
        inline.truncate(if h.flags & FLAG_INLINE != 0 { h.meta_bytes as usize } else { 0 });
        // Case F: the columns count together only if the CRC over all of them holds.
        let whole = h.compute_commit_crc(&inline, &crcs) == h.commit_crc;
        if !whole && !broken(Sabotage::AnyCrc) {
            return None;
        }
        let shards: Vec<Slice> =
            shards.into_iter().take(width).flatten().map(Buf::freeze).collect();
        let payload = (0..h.payload_blocks as usize)
            .map(|b| shards[b % width].part(b / width * BLOCK, BLOCK))
            .collect();
        Some(Whole { payload, inline, damaged })
    }

    /// What is left of a commit that is known to be in the log: the commit, and which of its columns
    /// are damaged (its records are left out). `Err`: how many may be, where it is not whole any more.
    ///
    /// # Errors
    /// As said.
    pub async fn look(&self, number: CommitNumber, row: u64) -> Result<KeptCommit, usize> {
        let reads = self.members.iter().map(|(i, d)| self.read_rows(*i, d, row, 1));
        let mut seen: Vec<ColumnHeader> = Vec::new();
        for (member, blocks) in join_all(reads.collect()).await {
            let block = blocks.into_iter().flatten().next();
            let found = block.map(|b| ColumnHeader::decode(&b, self.geometry.array, row));
            let Some(Ok(Some(h))) = found else { continue };
            let own = h.number == number && h.member == u16::from(member.0) && self.fits(&h);
            if own && seen.iter().all(|s| !s.same_commit(&h)) {
                seen.push(h);
            }
        }
        let mut damaged = 1;
        for header in seen {
            if let Some(whole) = self.gather(&header, None).await {
                let damaged_columns = whole.damaged;
                return Ok(KeptCommit { header, records: Vec::new(), damaged_columns });
            }
            let here = |m: &&u8| self.members.iter().any(|(i, _)| i.0 == **m);
            let columns = header.members.iter().filter(here).count();
            damaged = damaged.max(columns.saturating_sub(usize::from(header.width) - 1));
        }
        Err(damaged)
    }

    /// Header and payload of a column; the payload is as long as the longest column's.
    async fn read_column(
        &self,
        disk: &D,
        h: &ColumnHeader,
        column: usize,
        blocks: usize,
    ) -> (usize, Option<(Slice, Buf, usize)>) {
        let g = &self.geometry;
        let total = blocks + 1;
        let before = ((g.rows - h.row) as usize).min(total);
        let at = g.offset + h.row * BLOCK as u64;
        let Some(first) = read_often(disk, at, before * BLOCK).await else {
            return (column, None);
        };
        let mut bytes = Buf::new((h.rows as usize - 1) * BLOCK);
        let head = (before - 1) * BLOCK;
        bytes[..head].copy_from_slice(&first[BLOCK..]);
        if before < total {
            let rest = (total - before) * BLOCK;
            let Some(second) = read_often(disk, g.offset, rest).await else {
                return (column, None);
            };
            bytes[head..head + rest].copy_from_slice(&second);
        }
        (column, Some((first.freeze().part(0, BLOCK), bytes, blocks)))
    }

    /// Case N: the writes that make a kept commit's damaged columns whole again (member, byte,
    /// pieces). None if it cannot be read again: without that, nothing may rest on it.
    pub async fn repair(&self, commit: &KeptCommit) -> Option<Vec<(MemberIndex, u64, Segs)>> {
        let h = &commit.header;
        if commit.damaged_columns.is_empty() {
            return Some(Vec::new());
        }
        let whole = self.gather(h, None).await?;
        let (width, rows) = (usize::from(h.width), h.rows as usize - 1);
        let mut data: Vec<Buf> = (0..width).map(|_| Buf::zeroed(rows * BLOCK)).collect();
        for (b, block) in whole.payload.iter().enumerate() {
            let r = b / width * BLOCK;
            data[b % width][r..r + BLOCK].copy_from_slice(block);
        }
        let mut writes = Vec::new();
        for c in &commit.damaged_columns {
            let blocks = if *c < width { h.blocks_in(*c) } else { rows };
            let bytes = if *c < width {
                Slice::copy_of(&data[*c])
            } else {
                let mut made = Buf::new(rows * BLOCK);
                if rows > 0 {
                    let mut views: Vec<Option<&[u8]>> = data.iter().map(|d| Some(&d[..])).collect();
                    views.resize(h.members.len(), None);
                    let mut out = [&mut made[..]];
                    if !self.code.rebuild(width, &views, &[*c], &mut out) {
                        continue;
                    }
                }
                made.freeze()
            };
            let crc = column_crc(bytes[..blocks * BLOCK].chunks(BLOCK).map(crc32c::crc32c));
            let own = ColumnHeader {
                column: *c as u16,
                member: u16::from(h.members[*c]),
                column_crc: crc,
                ..h.clone()
            };
            let mut segs = vec![own.encode(&whole.inline).freeze()];
            segs.extend((0..blocks).map(|b| bytes.part(b * BLOCK, BLOCK)));
            let before = ((self.geometry.rows - h.row) as usize).min(segs.len());
            let rest = segs.split_off(before);
            let member = MemberIndex(h.members[*c]);
            writes.push((member, self.geometry.offset + h.row * BLOCK as u64, segs));
            if !rest.is_empty() {
                writes.push((member, self.geometry.offset, rest));
            }
        }
        Some(writes)
    }
}

/// Some bytes of a disk, read up to [`READS`] times.
async fn read_often<D: Disk>(disk: &D, at: u64, len: usize) -> Option<Buf> {
    for _ in 0..READS {
        match disk.read(at, Buf::new(len)).await {
            (Ok(()), bytes) => return Some(bytes),
            (Err(DiskError::Gone), _) => return None,
            (Err(_), _) => {}
        }
    }
    None
}
