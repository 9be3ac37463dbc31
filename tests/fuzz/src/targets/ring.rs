//! The ring that a dead daemon left.

use std::cell::RefCell;
use std::rc::Rc;

use evenkeel_journal::bytes::{crc_without, get_u32, put_u32};
use evenkeel_journal::record::{Covered, ParityRow, Record};
use evenkeel_journal::ring::{
    AT_HEAD, AT_TAIL, RING_RECORD_HEAD, Ring, read_ring, record_area_bytes, ring_bytes,
};
use evenkeel_journal::{BLOCK, Lsn, RingMem, Slice, Slot, Stripe};

use crate::choices::Choices;

const ARRAY: u128 = 7;
const ID: u128 = 8;
const PLACES: usize = 16;

/// A ring's memory.
#[derive(Clone)]
struct Memory(Rc<RefCell<Vec<u8>>>);

impl RingMem for Memory {
    fn bytes(&self) -> usize {
        self.0.borrow().len()
    }

    fn store(&self, at: usize, bytes: &[u8]) {
        self.0.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn store_u64(&self, at: usize, value: u64) {
        self.store(at, &value.to_le_bytes());
    }

    fn load_u64(&self, at: usize) -> u64 {
        assert!(at.is_multiple_of(8), "a word of the ring is aligned");
        u64::from_le_bytes(self.0.borrow()[at..at + 8].try_into().expect("eight bytes"))
    }

    fn slice(&self, at: usize, len: usize) -> Slice {
        Slice::copy_of(&self.0.borrow()[at..at + len])
    }
}

fn record(c: &mut Choices, block: u32) -> (Record, Vec<u32>) {
    let stripe = Stripe(u64::from(c.byte()));
    match c.below(6) {
        0 | 1 => {
            let places: Vec<u32> = (0..1 + c.below(3)).map(|_| c.below(PLACES) as u32).collect();
            let crcs = Some(vec![block; places.len()]);
            (Record::Write { stripe, first: 3, count: places.len() as u32, crcs }, places)
        }
        2 => (Record::Write { stripe, first: 0, count: c.u32() % 64, crcs: None }, Vec::new()),
        3 => {
            let crcs = vec![7; c.below(400)];
            (Record::Place { stripe, slot: Slot(3), horizon: Lsn(1), crcs }, Vec::new())
        }
        4 => {
            let covered = vec![Covered { column: 0, crc: 5, lsn: Lsn(1) }; c.below(4)];
            let row = ParityRow { row: 1, covered, parity_crcs: vec![1; c.below(3)] };
            let rows = vec![row; c.below(5)];
            (Record::Parity { stripe, slot: Slot(3), base: Lsn(1), rows }, Vec::new())
        }
        _ => (Record::Unmap { first: stripe, count: 2, horizon: Lsn(1) }, Vec::new()),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let no_change = [3, 0, 1, 5, 4, 6, 7, 2, 0, 1, 8, 1, 2, 9, 9];
    let changed = |what: u8| {
        let mut s = vec![1, 0, 1, 1, 2, 0, 3, what, 16, 0, 0, 0, 3, 7, 1];
        s.extend_from_slice(&[2, 4, 6, 8, 1, 3, 5, 7]);
        s
    };
    (0..8).map(changed).chain([no_change.to_vec(), vec![255; 200]]).collect()
}

pub fn adopt(input: &[u8]) {
    let mut c = Choices::new(input);
    let memory = Memory(Rc::new(RefCell::new(vec![0; ring_bytes(PLACES)])));
    let ring = Ring::format(memory.clone(), ARRAY, ID, 5, PLACES);
    let block = vec![0x5a; BLOCK];
    for place in 0..PLACES {
        memory.store(BLOCK + record_area_bytes(PLACES) + place * BLOCK, &block);
    }
    let sum = crc32c::crc32c(&block);
    // Requests come and go; some wrap around the end of the area.
    let mut expected: Vec<(Lsn, Record, bool)> = Vec::new();
    let mut ends = Vec::new();
    let mut lsn = 1;
    let requests = c.below(24);
    let goes_round = c.one_in(3);
    for nth in 0..requests {
        let records: Vec<(Record, Vec<u32>)> =
            (0..1 + c.below(3)).map(|_| record(&mut c, sum)).collect();
        let last = records.len() - 1;
        let mut bytes = Vec::new();
        for (i, (r, places)) in records.into_iter().enumerate() {
            let mut meta = Vec::new();
            r.encode(Lsn(lsn), &mut meta);
            expected.push((Lsn(lsn), r, i == last));
            bytes.push((meta, places));
            lsn += 1;
        }
        ends.extend(ring.append(&bytes));
        if goes_round && nth == 0 {
            // So that the rest lies over the end of the area: filled up with what is forgotten.
            let filler = vec![9; 64 << 10];
            while *ends.last().expect("one") + 2 * (64 << 10) < record_area_bytes(PLACES) as u64 {
                let more = ring.append(&[(filler.clone(), Vec::new())]);
                ring.advance_tail(more[0]);
                ends.push(more[0]);
            }
            expected.clear();
            ends.clear();
            ends.push(memory.load_u64(AT_TAIL));
        }
        if c.one_in(6) && ends.len() > 1 && !expected.is_empty() {
            let gone = c.below(expected.len());
            let own = ends.len() - expected.len();
            if gone > 0 {
                ring.advance_tail(ends[own + gone - 1]);
                expected.drain(..gone);
            }
        }
    }
    let same = |memory: &Memory| {
        let found = read_ring(memory, ARRAY, ID).expect("a ring that is whole");
        let found: Vec<(Lsn, Record, bool)> =
            found.records.into_iter().map(|r| (r.lsn, r.record, r.last)).collect();
        assert_eq!(found, expected, "not what was appended");
    };
    same(&memory);
    // Now it is changed, behind its CRCs or not.
    while !c.are_over() {
        change(&memory, &mut c);
    }
    if let Ok(contents) = read_ring(&memory, ARRAY, ID) {
        for r in contents.records {
            let Record::Write { crcs: Some(crcs), .. } = &r.record else { continue };
            assert_eq!(crcs.len(), r.data.len());
            assert!(crcs.iter().zip(&r.data).all(|(c, d)| crc32c::crc32c(d) == *c), "wrong data");
        }
    }
}

fn change(memory: &Memory, c: &mut Choices) {
    let area = record_area_bytes(PLACES);
    let mut b = memory.0.borrow_mut();
    if b.len() < BLOCK + area {
        c.bytes(1); // cut short by an earlier change
        return;
    }
    let (tail, head) = (
        u64::from_le_bytes(b[AT_TAIL..AT_TAIL + 8].try_into().expect("eight bytes")),
        u64::from_le_bytes(b[AT_HEAD..AT_HEAD + 8].try_into().expect("eight bytes")),
    );
    match c.below(8) {
        0 => {
            let (at, like) = (8 + c.below(112), c.byte());
            let value = c.number(u64::from(like)).to_le_bytes();
            b[at..at + 8].copy_from_slice(&value);
            let crc = crc_without(&b[..128], 12);
            put_u32(&mut b, 12, crc);
        }
        1 => {
            let value = c.number(head).to_le_bytes();
            b[AT_HEAD..AT_HEAD + 8].copy_from_slice(&value);
        }
        2 => {
            let value = c.number(tail).to_le_bytes();
            b[AT_TAIL..AT_TAIL + 8].copy_from_slice(&value);
        }
        3 => {
            let len = b.len() - c.below(b.len());
            b.truncate(len.max(BLOCK));
        }
        4 => {
            let at = c.below(b.len());
            b[at] ^= c.byte();
        }
        _ => {
            // A record as a whole: a few fields, or a byte of what it says; then its CRC.
            let mut at = tail;
            for _ in 0..c.below(24) {
                let len = u64::from(get_u32(&b, BLOCK + (at % area as u64 / 8 * 8) as usize));
                if len < RING_RECORD_HEAD as u64
                    || len > area as u64
                    || head < at.saturating_add(len)
                {
                    break;
                }
                at += len;
            }
            let begin = (at % area as u64 / 8 * 8) as usize;
            let len = get_u32(&b, BLOCK + begin) as usize;
            if len < RING_RECORD_HEAD || begin + len > area {
                return;
            }
            let own = BLOCK + begin..BLOCK + begin + len;
            let field = if c.one_in(2) { c.below(len / 4) } else { c.below(16.min(len / 4)) };
            let like = get_u32(&b, own.start + field * 4);
            let value = c.number(u64::from(like)) as u32;
            put_u32(&mut b, own.start + field * 4, value);
            let crc = crc_without(&b[own.clone()], 4);
            put_u32(&mut b, own.start + 4, crc);
        }
    }
}
