//! Pins the journal's structures to docs/format.md: the constants, every documented field at its
//! documented place with its documented size, and zeros everywhere else.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;

use evenkeel_journal::commit::{
    COLUMN_MAGIC, COMMIT_VERSION, ColumnHeader, FLAG_INLINE, INLINE_AT, INLINE_MAX,
    LARGEST_PAYLOAD, MAX_PAYLOAD, blocks_in, column_crc, shape,
};
use evenkeel_journal::log::{IDLE, LOST_ROWS, SPARE_ROWS};
use evenkeel_journal::record::{
    Covered, FLAG_ZERO, KIND_CHECKPOINT, KIND_LOST, KIND_PARITY, KIND_PLACE, KIND_UNMAP,
    KIND_WRITE, MAX_COUNT, ParityRow, RECORD_HEAD, Record,
};
use evenkeel_journal::ring::{
    AT_HEAD, AT_TAIL, RING_LAST, RING_MAGIC, RING_RECORD_HEAD, RING_VERSION, Ring, read_ring,
    ring_bytes,
};
use evenkeel_journal::{BLOCK, CommitNumber, Lsn, RingMem, Slice, Slot, Stripe};

// ---- the tables of the page ----

fn page(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The rows of the table behind a marker, without the heading: cells without spaces around.
fn rows(marker: &str) -> Vec<Vec<String>> {
    let text = page("docs/format.md");
    let marker = format!("<!-- {marker} -->");
    let mut lines = text.lines().skip_while(|l| *l != marker).skip(1);
    assert!(lines.next().is_some_and(|l| l.starts_with("| ")), "{marker} has a table");
    let rows = lines.skip(1).take_while(|l| l.starts_with("| "));
    rows.map(|l| l.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect()).collect()
}

/// A sum of products of numbers and names.
fn value(text: &str, names: &[(&str, usize)]) -> usize {
    let factor = |f: &str| {
        let named = names.iter().find(|n| n.0 == f).map(|n| n.1);
        named.or_else(|| f.parse().ok()).unwrap_or_else(|| panic!("\"{f}\" is no number"))
    };
    text.split('+').map(|t| t.split('×').map(factor).product::<usize>()).sum()
}

/// Checks that `bytes` hold just the fields of a table, each as expected. Fields of other tables
/// in the same bytes are given with their offset.
fn check(table: &str, names: &[(&str, usize)], bytes: &[u8], fields: &[(&str, Vec<u8>)]) {
    let mut rest = bytes.to_vec();
    let mut expected: BTreeMap<&str, &Vec<u8>> = fields.iter().map(|(n, v)| (*n, v)).collect();
    assert_eq!(expected.len(), fields.len(), "{table}: a field is given twice");
    let mut end = 0;
    for row in rows(&format!("table: {table}")) {
        let (at, field) = (value(&row[0], names), &row[2]);
        let want = expected
            .remove(field.as_str())
            .unwrap_or_else(|| panic!("{table}: the page has a field \"{field}\" that is new"));
        if row[1] != "*" {
            assert_eq!(value(&row[1], names), want.len(), "{table}.{field}: size");
        }
        assert!(at >= end, "{table}.{field} begins in the field before");
        end = at + want.len();
        assert_eq!(&bytes[at..end], &want[..], "{table}.{field} at {at}");
        rest[at..end].fill(0);
    }
    assert!(expected.is_empty(), "{table}: the page lacks {expected:?}");
    let other = rest.iter().position(|b| *b != 0);
    assert_eq!(other, None, "{table}: a byte that no field names is not zero");
}

fn le16(v: u16) -> Vec<u8> {
    v.to_le_bytes().to_vec()
}
fn le32(v: u32) -> Vec<u8> {
    v.to_le_bytes().to_vec()
}
fn le64(v: u64) -> Vec<u8> {
    v.to_le_bytes().to_vec()
}
fn le128(v: u128) -> Vec<u8> {
    v.to_le_bytes().to_vec()
}

/// CRC32C with the four bytes at `at` as zero.
fn crc_with_zero(bytes: &[u8], at: usize) -> u32 {
    let mut b = bytes.to_vec();
    b[at..at + 4].fill(0);
    crc32c::crc32c(&b)
}

#[test]
fn the_constants_are_those_of_the_page() {
    let magic = |m: &[u8]| format!("`{}`", String::from_utf8_lossy(m));
    let here: BTreeMap<&str, String> = [
        ("BLOCK", BLOCK.to_string()),
        ("COLUMN_MAGIC", magic(&COLUMN_MAGIC)),
        ("COMMIT_VERSION", COMMIT_VERSION.to_string()),
        ("INLINE_AT", INLINE_AT.to_string()),
        ("INLINE_MAX", INLINE_MAX.to_string()),
        ("MAX_PAYLOAD", MAX_PAYLOAD.to_string()),
        ("LARGEST_PAYLOAD", LARGEST_PAYLOAD.to_string()),
        ("FLAG_INLINE", FLAG_INLINE.to_string()),
        ("RECORD_HEAD", RECORD_HEAD.to_string()),
        ("KIND_WRITE", KIND_WRITE.to_string()),
        ("KIND_PLACE", KIND_PLACE.to_string()),
        ("KIND_PARITY", KIND_PARITY.to_string()),
        ("KIND_UNMAP", KIND_UNMAP.to_string()),
        ("KIND_LOST", KIND_LOST.to_string()),
        ("KIND_CHECKPOINT", KIND_CHECKPOINT.to_string()),
        ("FLAG_ZERO", FLAG_ZERO.to_string()),
        ("MAX_COUNT", MAX_COUNT.to_string()),
        ("RING_MAGIC", magic(&RING_MAGIC)),
        ("RING_VERSION", RING_VERSION.to_string()),
        ("AT_HEAD", AT_HEAD.to_string()),
        ("AT_TAIL", AT_TAIL.to_string()),
        ("RING_RECORD_HEAD", RING_RECORD_HEAD.to_string()),
        ("RING_LAST", RING_LAST.to_string()),
        ("SPARE_ROWS", SPARE_ROWS.to_string()),
        ("LOST_ROWS", LOST_ROWS.to_string()),
        ("IDLE_MS", IDLE.as_millis().to_string()),
    ]
    .into();
    let there = rows("constants: journal");
    let there: BTreeMap<&str, String> =
        there.iter().map(|r| (r[0].as_str(), r[1].clone())).collect();
    assert_eq!(here, there);
}

fn header(flags: u32) -> ColumnHeader {
    ColumnHeader {
        array: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
        incarnation: 0x1112_1314_1516_1718,
        number: CommitNumber(0x2122_2324_2526_2728),
        prev_number: CommitNumber(0x2112_3334_3536_3738),
        prev_crc: 0x4142_4344,
        commit_crc: 0x5152_5354,
        lsn_first: Lsn(0x3162_6364_6566_6768),
        lsn_last: Lsn(0x3172_7374_7576_7778),
        durable: CommitNumber(0x1182_8384_8586_8788),
        tail: CommitNumber(0x1192_9394_9596_9798),
        tail_row: 0xa1a2_a3a4_a5a6_a7a8,
        row: 0xb1b2_b3b4_b5b6_b7b8,
        rows: 1 + 403,
        payload_blocks: 1208,
        width: 3,
        column: 3,
        member: 0xc4,
        meta_bytes: 0x0102,
        flags,
        column_crc: 0xd1d2_d3d4,
        records: 0xe1e2_e3e4,
        epoch: 0xf1f2_f3f4_f5f6_f7f8,
        members: vec![0xc1, 0xc2, 0xc3, 0xc4],
    }
}

#[test]
fn a_column_header_lies_as_the_page_says() {
    let meta: Vec<u8> = (0..0x0102u32).map(|i| i as u8 | 1).collect();
    for flags in [FLAG_INLINE, 0] {
        let h = header(flags);
        let b = h.encode(&meta);
        let mut members = h.members.clone();
        members.resize(255, 0);
        let mut inline = if flags == FLAG_INLINE { meta.clone() } else { Vec::new() };
        inline.resize(INLINE_MAX, 0);
        let fields = [
            ("magic", COLUMN_MAGIC.to_vec()),
            ("version", le32(COMMIT_VERSION)),
            ("crc", le32(crc_with_zero(&b, 12))),
            ("array", le128(h.array)),
            ("incarnation", le64(h.incarnation)),
            ("number", le64(h.number.0)),
            ("prev_number", le64(h.prev_number.0)),
            ("prev_crc", le32(h.prev_crc)),
            ("commit_crc", le32(h.commit_crc)),
            ("lsn_first", le64(h.lsn_first.0)),
            ("lsn_last", le64(h.lsn_last.0)),
            ("durable", le64(h.durable.0)),
            ("tail", le64(h.tail.0)),
            ("tail_row", le64(h.tail_row)),
            ("row", le64(h.row)),
            ("rows", le32(h.rows)),
            ("payload_blocks", le32(h.payload_blocks)),
            ("width", le16(h.width)),
            ("columns", le16(4)),
            ("column", le16(h.column)),
            ("member", le16(h.member)),
            ("meta_bytes", le32(h.meta_bytes)),
            ("flags", le32(h.flags)),
            ("column_crc", le32(h.column_crc)),
            ("records", le32(h.records)),
            ("epoch", le64(h.epoch)),
            ("members", members),
            ("inline", inline),
        ];
        assert_eq!(b.len(), BLOCK);
        check("column-header", &[], &b, &fields);
        assert_eq!(ColumnHeader::decode(&b, h.array, h.row), Ok(Some(h)));
    }
}

#[test]
fn the_crcs_of_a_commit_are_those_of_the_page() {
    let (meta, crcs) = ([7u8; 0x0102], [1u32, 2, 3]);
    let h = header(FLAG_INLINE);
    let mut sum = h.encode(&meta)[..INLINE_AT].to_vec();
    for (at, size) in [(12, 4), (60, 4), (124, 2), (126, 2), (136, 4)] {
        sum[at..at + size].fill(0);
    }
    sum.extend_from_slice(&meta);
    crcs.iter().for_each(|c| sum.extend_from_slice(&c.to_le_bytes()));
    assert_eq!(h.compute_commit_crc(&meta, &crcs), crc32c::crc32c(&sum));
    let columns: Vec<u8> = crcs.iter().flat_map(|c| c.to_le_bytes()).collect();
    assert_eq!(column_crc(crcs.into_iter()), crc32c::crc32c(&columns));
    assert_eq!(column_crc(std::iter::empty()), 0);
}

#[test]
fn a_header_is_valid_under_the_conditions_of_the_page_alone() {
    let accepted = |change: &dyn Fn(&mut ColumnHeader)| {
        let mut h = header(0);
        change(&mut h);
        ColumnHeader::decode(&h.encode(&[]), h.array, h.row)
            .expect("the version is known")
            .is_some()
    };
    assert!(accepted(&|_| ()));
    assert!(accepted(&|h| (h.payload_blocks, h.rows) = (4160, 1 + 1387)));
    assert!(!accepted(&|h| (h.payload_blocks, h.rows) = (4161, 1 + 1387)));
    assert!(!accepted(&|h| h.rows += 1));
    assert!(!accepted(&|h| h.width = 0));
    assert!(!accepted(&|h| h.width = 5));
    assert!(!accepted(&|h| h.column = 4));
    assert!(!accepted(&|h| h.member = 0xc3));
    assert!(!accepted(&|h| h.tail = CommitNumber(h.number.0 + 1)));
    assert!(!accepted(&|h| h.meta_bytes = 1208 * BLOCK as u32 + 1));
    assert!(!accepted(&|h| (h.flags, h.meta_bytes) = (FLAG_INLINE, 3585)));
}

#[test]
fn a_commit_has_the_shape_of_the_page() {
    assert_eq!(shape(0, 4), (1, 1));
    for k in 1..20usize {
        for p in 1..400usize {
            let rows = p.div_ceil(k);
            let width = p.div_ceil(rows);
            assert_eq!(shape(p, k), (width, 1 + rows));
            for c in 0..width {
                let dealt = (0..p).filter(|b| b % width == c).count();
                assert_eq!(blocks_in(p, width, c), dealt);
            }
        }
    }
}

// ---- records ----

const LSN: Lsn = Lsn(0x0a0b_0c0d_0e0f_1011);
const STRIPE: u64 = 0x2122_2324_2526_2728;

/// Checks head and body of a record.
fn check_record(table: &str, kind: u8, flags: u8, record: &Record, fields: &[(&str, Vec<u8>)]) {
    let mut b = Vec::new();
    record.encode(LSN, &mut b);
    assert_eq!(b.len() % 8, 0);
    let head = [
        ("kind", vec![kind]),
        ("flags", vec![flags]),
        ("bytes", le32(b.len() as u32)),
        ("lsn", le64(LSN.0)),
        ("body", b[RECORD_HEAD..].to_vec()),
    ];
    check("record", &[], &b, &head);
    b[..RECORD_HEAD].fill(0);
    check(table, &[], &b, fields);
}

#[test]
fn records_lie_as_the_page_says() {
    let crcs = [0x3132_3334u32, 0x4142_4344, 0x5152_5354];
    let crc_bytes: Vec<u8> = crcs.iter().flat_map(|c| c.to_le_bytes()).collect();
    let (first, count) = (0x6162_6364, 3);
    let stripe = Stripe(STRIPE);

    let write = Record::Write { stripe, first, count, crcs: Some(crcs.to_vec()) };
    let fields = |crcs: &[u8]| {
        let of_blocks = [("first", le32(first)), ("count", le32(count)), ("crcs", crcs.to_vec())];
        [vec![("stripe", le64(STRIPE))], of_blocks.to_vec()].concat()
    };
    check_record("write", KIND_WRITE, 0, &write, &fields(&crc_bytes));
    let zeros = Record::Write { stripe, first, count, crcs: None };
    check_record("write", KIND_WRITE, FLAG_ZERO, &zeros, &fields(&[]));

    let (slot, horizon) = (Slot(0x7172_7374), Lsn(0x8182_8384_8586_8788));
    let place = Record::Place { stripe, slot, horizon, crcs: crcs.to_vec() };
    let fields = [
        ("stripe", le64(STRIPE)),
        ("slot", le32(slot.0)),
        ("count", le32(3)),
        ("horizon", le64(horizon.0)),
        ("zero", le64(0)),
        ("crcs", crc_bytes.clone()),
    ];
    check_record("place", KIND_PLACE, 0, &place, &fields);

    let unmap = Record::Unmap { first: stripe, count: 0x9192, horizon };
    let fields = [("first", le64(STRIPE)), ("count", le64(0x9192)), ("horizon", le64(horizon.0))];
    check_record("unmap", KIND_UNMAP, 0, &unmap, &fields);

    let lost = Record::Lost { stripe, first, count };
    let fields = [("stripe", le64(STRIPE)), ("first", le32(first)), ("count", le32(count))];
    check_record("lost", KIND_LOST, 0, &lost, &fields);

    let checkpoint = Record::Checkpoint { incarnation: 0xa1a2_a3a4_a5a6_a7a8 };
    let fields = [("incarnation", le64(0xa1a2_a3a4_a5a6_a7a8))];
    check_record("checkpoint", KIND_CHECKPOINT, 0, &checkpoint, &fields);
}

#[test]
fn a_parity_lies_as_the_page_says() {
    let covered = |i: u64| Covered {
        column: 0x1100 + i as u32,
        crc: 0x2233_4400 + i as u32,
        lsn: Lsn(0x5566_7788_99aa_bb00 + i),
    };
    let row = |r: u32, n: u64, parities: u32| ParityRow {
        row: 0xcc00 + r,
        covered: (0..n).map(covered).collect(),
        parity_crcs: (0..parities).map(|p| 0xddee_ff00 + p).collect(),
    };
    let rows = vec![row(1, 1, 1), row(2, 3, 2), row(3, 2, 3)];
    let mut bytes = Vec::new();
    for r in &rows {
        let mut blocks = Vec::new();
        for c in &r.covered {
            let fields = [("column", le32(c.column)), ("crc", le32(c.crc)), ("lsn", le64(c.lsn.0))];
            let one = fields.iter().flat_map(|f| f.1.clone()).collect::<Vec<u8>>();
            check("covered", &[], &one, &fields);
            blocks.extend(one);
        }
        let crcs: Vec<u8> = r.parity_crcs.iter().flat_map(|c| c.to_le_bytes()).collect();
        let mut own = [le32(r.row), le32(r.covered.len() as u32)].concat();
        own.extend(
            [le32(r.parity_crcs.len() as u32), le32(0), blocks.clone(), crcs.clone()].concat(),
        );
        own.resize(own.len().next_multiple_of(8), 0);
        let fields = [
            ("row", le32(r.row)),
            ("covered", le32(r.covered.len() as u32)),
            ("parities", le32(r.parity_crcs.len() as u32)),
            ("zero", le32(0)),
            ("blocks", blocks),
            ("crcs", crcs),
        ];
        check("parity-row", &[("covered", r.covered.len())], &own, &fields);
        bytes.extend(own);
    }
    let (slot, base) = (Slot(0x7172_7374), Lsn(0x8182_8384_8586_8788));
    let parity = Record::Parity { stripe: Stripe(STRIPE), slot, base, rows };
    let fields = [
        ("stripe", le64(STRIPE)),
        ("slot", le32(slot.0)),
        ("rows", le32(3)),
        ("base", le64(base.0)),
        ("row", bytes),
    ];
    check_record("parity", KIND_PARITY, 0, &parity, &fields);
}

// ---- the ring ----

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
        let mut b = [0; 8];
        b.copy_from_slice(&self.0.borrow()[at..at + 8]);
        u64::from_le_bytes(b)
    }
    fn slice(&self, at: usize, len: usize) -> Slice {
        Slice::copy_of(&self.0.borrow()[at..at + len])
    }
}

#[test]
fn a_ring_lies_as_the_page_says() {
    let places = 100;
    let area = (places * 64 + 262_144usize).next_multiple_of(4096);
    assert_eq!(ring_bytes(places), 4096 + area + places * 4096);
    let memory = Memory(Rc::new(RefCell::new(vec![0; ring_bytes(places)])));
    let (array, id, incarnation) = (u128::MAX / 7, u128::MAX / 11, u64::MAX / 13);
    let ring = Ring::format(memory.clone(), array, id, incarnation, places);

    // Two records in one request; the second has two places.
    let data = [[3u8; BLOCK], [4u8; BLOCK]];
    let filled: Vec<_> = data.iter().map(|d| ring.fill(d).expect("there is room")).collect();
    let numbers: Vec<u32> = filled.iter().map(|p| p.index()).collect();
    let crcs = data.iter().map(|d| crc32c::crc32c(d)).collect();
    let write = Record::Write { stripe: Stripe(1), first: 2, count: 2, crcs: Some(crcs) };
    let meta = |r: &Record, lsn| {
        let mut b = Vec::new();
        r.encode(Lsn(lsn), &mut b);
        b
    };
    let unmap = meta(&Record::Unmap { first: Stripe(5), count: 1, horizon: Lsn(3) }, 8);
    let written = meta(&write, 9);
    let ends = ring.append(&[(unmap.clone(), Vec::new()), (written.clone(), numbers.clone())]);
    ring.advance_tail(ends[0]);

    let bytes = memory.0.borrow().clone();
    let fields = [
        ("magic", RING_MAGIC.to_vec()),
        ("version", le32(RING_VERSION)),
        ("crc", le32(crc_with_zero(&bytes[..128], 12))),
        ("array", le128(array)),
        ("id", le128(id)),
        ("incarnation", le64(incarnation)),
        ("records_offset", le64(4096)),
        ("records_bytes", le64(area as u64)),
        ("places_offset", le64((4096 + area) as u64)),
        ("places", le64(places as u64)),
        ("head", le64(ends[1])),
        ("tail", le64(ends[0])),
    ];
    check("ring-header", &[], &bytes[..4096], &fields);

    let mut at = 4096;
    for (meta, numbers, flags) in [(unmap, Vec::new(), 0), (written, numbers, RING_LAST)] {
        let len = (24 + meta.len() + numbers.len() * 4).next_multiple_of(8);
        let own = &bytes[at..at + len];
        let fields = [
            ("bytes", le32(len as u32)),
            ("crc", le32(crc_with_zero(own, 4))),
            ("places", le32(numbers.len() as u32)),
            ("meta", le32(meta.len() as u32)),
            ("flags", le32(flags)),
            ("record", meta.clone()),
            ("numbers", numbers.iter().flat_map(|n| n.to_le_bytes()).collect()),
        ];
        check("ring-record", &[("meta", meta.len())], own, &fields);
        at += len;
    }
    assert_eq!(ends, [at as u64 - 4096 - (ends[1] - ends[0]), at as u64 - 4096]);
    for (place, data) in filled.iter().zip(&data) {
        let at = 4096 + area + place.index() as usize * BLOCK;
        assert_eq!(&bytes[at..at + BLOCK], data);
    }

    let back = read_ring(&memory, array, id).expect("the ring is valid");
    assert_eq!(back.incarnation, incarnation);
    assert_eq!(back.records.len(), 1);
    assert_eq!((back.records[0].lsn, &back.records[0].record), (Lsn(9), &write));
}

// ---- the cases of replay ----

/// The letters of the tables: first cells of one to two capitals.
fn letters() -> Vec<String> {
    let is_letter =
        |c: &str| (1..=2).contains(&c.len()) && c.chars().all(|c| c.is_ascii_uppercase());
    let text = page("docs/format.md");
    let first = text.lines().filter_map(|l| l.strip_prefix("| ")?.split(" |").next());
    first.filter(|c| is_letter(c)).map(str::to_owned).collect()
}

/// The letters behind `// Case` or `// Cases`, up to a colon.
fn named_in(file: &str) -> Vec<String> {
    let text = page(file);
    let comments = text.lines().filter_map(|l| l.trim().strip_prefix("// Case"));
    let lists = comments.filter_map(|c| c.trim_start_matches('s').split_once(':')).map(|c| c.0);
    lists.flat_map(|l| l.split(&[',', ' ']).filter(|x| !x.is_empty())).map(str::to_owned).collect()
}

#[test]
fn every_case_in_the_code_is_in_the_page_and_letters_are_used_once() {
    let mut known = letters();
    assert!(known.len() > 40, "{known:?}");
    known.sort();
    let once = known.len();
    known.dedup();
    assert_eq!(known.len(), once, "a letter names two cases");
    for file in [
        "journal/src/replay.rs",
        "journal/src/ring.rs",
        "raid/src/replay.rs",
        "raid/src/epoch.rs",
        "raid/src/array/start.rs",
        "raid/src/array/takeover.rs",
    ] {
        for case in named_in(file) {
            assert!(
                known.contains(&case),
                "{file} names case {case}, which the page does not have"
            );
        }
    }
}
