//! The log: headers, records, and all of it.

use std::cell::RefCell;
use std::future::{Future, ready};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use evenkeel_journal::bytes::{crc_without, put_u32, put_u64, put_u128};
use evenkeel_journal::commit::{COLUMN_MAGIC, ColumnHeader, FLAG_INLINE, INLINE_AT};
use evenkeel_journal::record::{Covered, ParityRow, Record};
use evenkeel_journal::replay::LogReader;
use evenkeel_journal::{
    BLOCK, Buf, CommitNumber, Disk, DiskError, DiskFacts, Lsn, MemberIndex, Segs, Slot, Stripe,
};
use evenkeel_raid::codec::Code;
use evenkeel_raid::members::Columns;
use evenkeel_tests::sim::Image;

use crate::choices::Choices;
use crate::hostile::{bases, change_only_log};

const ARRAY: u128 = 7;
const ROW: u64 = 77;

pub fn column_seeds() -> Vec<Vec<u8>> {
    let h = ColumnHeader {
        array: ARRAY,
        incarnation: 9,
        number: CommitNumber(12),
        prev_number: CommitNumber(11),
        prev_crc: 1,
        commit_crc: 2,
        lsn_first: Lsn(3),
        lsn_last: Lsn(4),
        durable: CommitNumber(10),
        tail: CommitNumber(5),
        tail_row: 6,
        row: ROW,
        rows: 2,
        payload_blocks: 3,
        width: 3,
        column: 1,
        member: 4,
        meta_bytes: 16,
        flags: FLAG_INLINE,
        column_crc: 8,
        records: 1,
        epoch: 3,
        members: vec![3, 4, 5, 0, 1],
    };
    let outside = ColumnHeader { flags: 0, rows: 6, payload_blocks: 9, width: 2, ..h.clone() };
    let cut = |b: Buf| b[..INLINE_AT + 16].to_vec();
    vec![cut(h.encode(&[5; 16])), cut(outside.encode(&[]))]
}

pub fn column(input: &[u8]) {
    let mut b = input.to_vec();
    b.resize(BLOCK, 0);
    let _ = ColumnHeader::decode(&b, ARRAY, ROW);
    b[..8].copy_from_slice(&COLUMN_MAGIC);
    put_u128(&mut b, 16, ARRAY);
    put_u64(&mut b, 104, ROW);
    let crc = crc_without(&b, 12);
    put_u32(&mut b, 12, crc);
    let Ok(Some(h)) = ColumnHeader::decode(&b, ARRAY, ROW) else { return };
    let inline = if h.flags & FLAG_INLINE != 0 { h.meta_bytes as usize } else { 0 };
    let again = h.encode(&b[INLINE_AT..INLINE_AT + inline]);
    assert_eq!(ColumnHeader::decode(&again, ARRAY, ROW), Ok(Some(h.clone())), "not the same again");
    let blocks: usize = (0..usize::from(h.width)).map(|c| h.blocks_in(c)).sum();
    assert_eq!(blocks, h.payload_blocks as usize, "blocks are dealt out completely");
    assert!((0..usize::from(h.width)).all(|c| h.blocks_in(c) < h.rows as usize));
    let _ = h.compute_commit_crc(&again[INLINE_AT..INLINE_AT + inline], &[1, 2, 3]);
    assert!(h.same_commit(&ColumnHeader { column: 0, member: 0, column_crc: 1, ..h.clone() }));
}

pub fn record_seeds() -> Vec<Vec<u8>> {
    let covered = vec![Covered { column: 2, crc: 5, lsn: Lsn(40) }];
    let row = |row, parity_crcs| ParityRow { row, covered: covered.clone(), parity_crcs };
    let all = [
        Record::Write { stripe: Stripe(7), first: 3, count: 3, crcs: Some(vec![1, 2, 3]) },
        Record::Write { stripe: Stripe(7), first: 0, count: 9, crcs: None },
        Record::Place { stripe: Stripe(1), slot: Slot(2), horizon: Lsn(3), crcs: vec![9; 11] },
        Record::Parity {
            stripe: Stripe(1),
            slot: Slot(2),
            base: Lsn(4),
            rows: vec![row(1, vec![1, 2, 3]), row(5, vec![4, 5])],
        },
        Record::Unmap { first: Stripe(1), count: 5, horizon: Lsn(2) },
        Record::Lost { stripe: Stripe(1), first: 2, count: 3 },
        Record::Checkpoint { incarnation: 77 },
    ];
    let bytes = |records: &[Record]| {
        let mut b = Vec::new();
        records.iter().enumerate().for_each(|(i, r)| r.encode(Lsn(i as u64), &mut b));
        b
    };
    all.iter().map(|r| bytes(std::slice::from_ref(r))).chain([bytes(&all)]).collect()
}

pub fn record(input: &[u8]) {
    let mut rest = input;
    while !rest.is_empty() {
        let before = rest.len();
        let Some((lsn, record)) = Record::decode(&mut rest) else { return };
        assert!(rest.len() < before, "a record of no bytes");
        let mut bytes = Vec::new();
        record.encode(lsn, &mut bytes);
        assert_eq!(bytes.len(), before - rest.len(), "another length: {record:?}");
        let again = Record::decode(&mut &bytes[..]);
        assert_eq!(again, Some((lsn, record.clone())), "not the same again");
        let _ = record.data_blocks();
    }
}

/// A disk in memory, whose every operation ends at once.
#[derive(Clone)]
struct MemDisk(Rc<RefCell<Image>>);

impl Disk for MemDisk {
    fn facts(&self) -> DiskFacts {
        let bytes = (self.0.borrow().pages() * BLOCK) as u64;
        DiskFacts { path: "memory".into(), bytes, is_file: true }
    }

    fn read(
        &self,
        at: u64,
        mut buf: Buf,
    ) -> impl Future<Output = (Result<(), DiskError>, Buf)> + 'static {
        let image = self.0.borrow();
        let inside = at.checked_add(buf.len() as u64);
        if inside.is_some_and(|end| end <= (image.pages() * BLOCK) as u64) {
            image.read(at, &mut buf);
            return ready((Ok(()), buf));
        }
        ready((Err(DiskError::Gone), buf))
    }

    fn write(&self, at: u64, segs: Segs) -> impl Future<Output = Result<(), DiskError>> + 'static {
        let mut at = at;
        for seg in segs {
            let mut image = self.0.borrow_mut();
            let end = at.checked_add(seg.len() as u64);
            if end.is_none_or(|end| end > (image.pages() * BLOCK) as u64) {
                return ready(Err(DiskError::Gone));
            }
            image.write(at, &seg);
            at += seg.len() as u64;
        }
        ready(Ok(()))
    }

    fn flush(&self) -> impl Future<Output = Result<(), DiskError>> + 'static {
        ready(Ok(()))
    }

    fn discard(&self, _: u64, _: u64) -> impl Future<Output = Result<(), DiskError>> + 'static {
        ready(Ok(()))
    }
}

/// What `future` gives; it never waits, since no disk does.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..1_000_000 {
        if let Poll::Ready(out) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return out;
        }
    }
    panic!("reading a log waits for something");
}

pub fn walk_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for base in 0..bases().len() as u8 {
        for what in [0, 3, 6, 7] {
            let mut s = vec![base, 0, 2, 0, what];
            s.extend_from_slice(&[8, 0, 0, 0, 1, 0, 7, 9, 0, 0, 0, 0]);
            seeds.push(s);
        }
    }
    seeds
}

pub fn walk(input: &[u8]) {
    let mut c = Choices::new(input);
    let bases = bases();
    let base = &bases[c.below(bases.len())];
    let from = change_only_log(base, &mut c);
    let g = base.geometry;
    let code = Columns(Code::new(g.level, g.data, g.parity).expect("a shape that is there"));
    let devices: Vec<(MemberIndex, MemDisk)> = g
        .log_devices()
        .filter_map(|i| {
            let disk = from.disks.iter().find(|d| d.id == i)?;
            Some((MemberIndex(i as u8), MemDisk(Rc::new(RefCell::new(disk.view())))))
        })
        .collect();
    let geometry = g.log(base.array);
    let rows = geometry.rows;
    let reader = LogReader { members: &devices, geometry, code: &code };
    let Ok(survey) = at_once(reader.survey(&|_, _| ())) else { return };
    let log = &survey.contents;
    // Where the log goes on.
    let start = log.start(&g.log(base.array), 1);
    assert!(start.row < rows && start.number > log.max_number, "{start:?}");
    for pair in log.commits.windows(2) {
        assert!(pair[0].header.number < pair[1].header.number, "commits go back");
        assert_eq!(pair[1].header.prev_crc, pair[0].header.commit_crc);
    }
    let mut repairs = 0;
    for commit in &log.commits {
        let payload = at_once(reader.payload(commit)).expect("a commit that counts is whole");
        assert_eq!(payload.len(), commit.header.payload_blocks as usize);
        let data: usize = commit.records.iter().map(|r| r.record.data_blocks()).sum();
        assert!(data <= payload.len(), "records name more than there is");
        let seen = at_once(reader.look(commit.header.number, commit.header.row));
        assert!(seen.is_ok(), "a commit that counts is not seen");
        let writes = at_once(reader.repair(commit)).expect("what counts can be read again");
        for (member, at, segs) in writes {
            let (_, disk) = devices.iter().find(|(i, _)| *i == member).expect("it is here");
            let end = at + segs.iter().map(|s| s.len() as u64).sum::<u64>();
            let log = g.log(base.array);
            assert!(at >= log.offset && end <= log.offset + rows * BLOCK as u64, "outside the log");
            assert_eq!(at_once(disk.write(at, segs)), Ok(()));
            repairs += 1;
        }
    }
    // Of a damaged log a part is given up, and what is written next says so.
    if repairs == 0 || survey.damage.is_some() {
        return;
    }
    // Mended, the same counts, up to the same end, and nothing of it is damaged.
    let again = match at_once(reader.survey(&|_, _| ())) {
        Ok(again) => again,
        Err(e) => panic!("what was mended cannot be read: {e:?}"),
    };
    let numbers = |s: &evenkeel_journal::replay::Survey| -> Vec<(u64, u32)> {
        s.contents.commits.iter().map(|c| (c.header.number.0, c.header.commit_crc)).collect()
    };
    // It may begin later: a newer tail may be whole by now.
    let (before, after) = (numbers(&survey), numbers(&again));
    assert!(!after.is_empty() && before.ends_with(&after), "another log: {before:?} {after:?}");
    assert!(again.contents.commits.iter().all(|c| c.damaged_columns.is_empty()), "still damaged");
}
