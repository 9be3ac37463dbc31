//! Pins superblocks, geometry and pages to docs/format.md: the constants, every documented field
//! at its documented place with its documented size, and zeros everywhere else.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use evenkeel_journal::{
    BLOCK, Buf, Disk, DiskError, DiskFacts, Lsn, MemberIndex, RingMem, RunIdentity, Segs, Slice,
    Slot, Stripe, World,
};
use evenkeel_raid::checksums::LOST_SUM;
use evenkeel_raid::codec::{Code, Level};
use evenkeel_raid::geometry::{
    Geometry, LOG_OFFSET, LogHome, MAX_GROWTHS, MAX_JOURNALS, MAX_REQUEST_BLOCKS, MEMBER_GRAIN,
    PAGE_ENTRIES, PAGE_SUMS, ROOT_BITS, SLOT_RESERVE, SUPERBLOCK_A, SUPERBLOCK_B, SUPERBLOCK_BYTES,
};
use evenkeel_raid::map::{ENTRY_BYTES, Map, write_pages};
use evenkeel_raid::members::Members;
use evenkeel_raid::page::{
    PAGE_CHECKSUMS, PAGE_HEAD, PAGE_MAGIC, PAGE_MAP, PAGE_ROOT, PAGE_SCRUB, PAGE_VERSION,
};
use evenkeel_raid::scrub::{RUN_BYTES, RUN_CHECK_ONLY, Run, RunState, ScrubPage, Tally};
use evenkeel_raid::status::MemberState;
use evenkeel_raid::superblock::{
    AREAS_BEHIND, CHECKSUMS, COMPAT_KNOWN, Filling, GROWING, GROWN, HISTORY, INCOMPAT_KNOWN,
    JOURNAL_DEVICES, MAGIC, MAX_SPARES, MemberEntry, NAME_MAX, Phase, RO_COMPAT_KNOWN, SPARES,
    Superblock, VERSION,
};

// ---- the tables of the page ----

/// The rows of the table behind a marker, without the heading: cells without spaces around.
fn rows(marker: &str) -> Vec<Vec<String>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/format.md");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let marker = format!("<!-- {marker} -->");
    let mut lines = text.lines().skip_while(|l| *l != marker).skip(1);
    assert!(lines.next().is_some_and(|l| l.starts_with("| ")), "{marker} has a table");
    let rows = lines.skip(1).take_while(|l| l.starts_with("| "));
    rows.map(|l| l.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect()).collect()
}

/// Checks that `bytes` hold just the fields of a table, each as expected.
fn check(table: &str, bytes: &[u8], fields: &[(&str, Vec<u8>)]) {
    let mut rest = bytes.to_vec();
    let mut expected: BTreeMap<&str, &Vec<u8>> = fields.iter().map(|(n, v)| (*n, v)).collect();
    assert_eq!(expected.len(), fields.len(), "{table}: a field is given twice");
    let mut end = 0;
    for row in rows(&format!("table: {table}")) {
        let field = &row[2];
        let number = |i: usize| row[i].parse::<usize>().expect("a number");
        let at = number(0);
        let want = expected
            .remove(field.as_str())
            .unwrap_or_else(|| panic!("{table}: the page has a field \"{field}\" that is new"));
        assert_eq!(number(1), want.len(), "{table}.{field}: size");
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
fn filled_up(mut v: Vec<u8>, len: usize) -> Vec<u8> {
    assert!(v.len() <= len);
    v.resize(len, 0);
    v
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
        ("MAGIC", magic(&MAGIC)),
        ("VERSION", VERSION.to_string()),
        ("COMPAT_KNOWN", COMPAT_KNOWN.to_string()),
        ("RO_COMPAT_KNOWN", RO_COMPAT_KNOWN.to_string()),
        ("INCOMPAT_KNOWN", INCOMPAT_KNOWN.to_string()),
        ("JOURNAL_DEVICES", JOURNAL_DEVICES.to_string()),
        ("SUPERBLOCK_BYTES", SUPERBLOCK_BYTES.to_string()),
        ("SUPERBLOCK_A", SUPERBLOCK_A.to_string()),
        ("SUPERBLOCK_B", SUPERBLOCK_B.to_string()),
        ("LOG_OFFSET", LOG_OFFSET.to_string()),
        ("MEMBER_GRAIN", MEMBER_GRAIN.to_string()),
        ("SLOT_RESERVE", SLOT_RESERVE.to_string()),
        ("MAX_REQUEST_BLOCKS", MAX_REQUEST_BLOCKS.to_string()),
        ("MAX_JOURNALS", MAX_JOURNALS.to_string()),
        ("NAME_MAX", NAME_MAX.to_string()),
        ("HISTORY", HISTORY.to_string()),
        ("PAGE_MAGIC", magic(&PAGE_MAGIC)),
        ("PAGE_VERSION", PAGE_VERSION.to_string()),
        ("PAGE_ROOT", PAGE_ROOT.to_string()),
        ("PAGE_MAP", PAGE_MAP.to_string()),
        ("PAGE_CHECKSUMS", PAGE_CHECKSUMS.to_string()),
        ("PAGE_SCRUB", PAGE_SCRUB.to_string()),
        ("RUN_BYTES", RUN_BYTES.to_string()),
        ("RUN_CHECK_ONLY", RUN_CHECK_ONLY.to_string()),
        ("PAGE_SUMS", PAGE_SUMS.to_string()),
        ("LOST_SUM", LOST_SUM.to_string()),
        ("CHECKSUMS", CHECKSUMS.to_string()),
        ("SPARES", SPARES.to_string()),
        ("MAX_SPARES", MAX_SPARES.to_string()),
        ("GROWN", GROWN.to_string()),
        ("GROWING", GROWING.to_string()),
        ("AREAS_BEHIND", AREAS_BEHIND.to_string()),
        ("MAX_GROWTHS", MAX_GROWTHS.to_string()),
        ("PAGE_HEAD", PAGE_HEAD.to_string()),
        ("ENTRY_BYTES", ENTRY_BYTES.to_string()),
        ("PAGE_ENTRIES", PAGE_ENTRIES.to_string()),
        ("ROOT_BITS", ROOT_BITS.to_string()),
    ]
    .into();
    let there = rows("constants: raid");
    let there: BTreeMap<&str, String> =
        there.iter().map(|r| (r[0].as_str(), r[1].clone())).collect();
    assert_eq!(here, there);
}

// ---- superblocks ----

/// A superblock with another value in every field, and the states of its members by number.
fn sample() -> (Superblock, Vec<u8>) {
    let states = [
        MemberState::Active,
        MemberState::Active,
        MemberState::Active,
        MemberState::Failing,
        MemberState::Failed,
        MemberState::Missing,
        MemberState::Stale,
    ];
    let geometry =
        Geometry::plan(Level::Rs, 4, 3, 16384, 300 << 20, Some(5 << 20), Some(3 << 20), true)
            .expect("it fits");
    let member = |(i, state): (usize, MemberState)| MemberEntry {
        uuid: u128::MAX / 3 + i as u128,
        state,
        failed_at: Lsn(0x7071_7273_7475_7600 + i as u64),
        failed_in: 0x7879_7a7b_7c7d_7e00 + i as u64,
        filling: None,
    };
    let superblock = Superblock {
        array: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10,
        index: 0,
        epoch: 0x1112_1314_1516_1718,
        epoch_id: 0x2122_2324_2526_2728_292a_2b2c_2d2e_2f30,
        parent: 0x3132_3334_3536_3738_393a_3b3c_3d3e_3f40,
        phase: Phase::InForce,
        compat: 0x6162_6364_6566_6768,
        ro_compat: 0x7172_7374_7576_7778,
        clean: true,
        uneven: true,
        generation: 0x4142_4344,
        geometry,
        boot: u128::MAX / 17,
        run_dir: u128::MAX / 19,
        ring: u128::MAX / 23,
        host: u128::MAX / 31,
        created: 0x5152_5354_5556_5758,
        name: "an.array_with-a-name-of-32-bytes".into(),
        history: (0..64).map(|i| (1000 - i, u128::MAX / 29 + u128::from(i))).collect(),
        members: states.into_iter().enumerate().map(member).collect(),
    };
    (superblock, vec![1, 1, 1, 4, 5, 6, 7])
}

#[test]
fn a_superblock_lies_as_the_page_says() {
    let (s, states) = sample();
    superblock_lies(s, states, 5);
}

#[test]
fn a_superblock_with_journal_devices_lies_as_the_page_says() {
    for home in [LogHome::Journals, LogHome::Members] {
        let (mut s, mut states) = sample();
        s.geometry = s.geometry.with_journals(3, 48 << 20, Some(7 << 20)).expect("it fits");
        s.geometry.log_home = home;
        for i in 0..3 {
            s.members.push(MemberEntry { uuid: u128::MAX / 5 + i, ..s.members[0] });
            states.push(1);
        }
        superblock_lies(s.clone(), states.clone(), 9);
        superblock_lies(s, states, 1);
    }
}

#[test]
fn a_superblock_of_a_grown_array_lies_as_the_page_says() {
    let (mut s, states) = sample();
    for i in 1..=MAX_GROWTHS as u64 {
        s.geometry =
            s.geometry.grown_to(s.geometry.member_bytes + (i << 27)).expect("there is room");
        superblock_lies(s.clone(), states.clone(), 5);
    }
}

#[test]
fn a_superblock_with_more_columns_lies_as_the_page_says() {
    let (mut s, mut states) = sample();
    for (i, more) in [1, 2].into_iter().enumerate() {
        let id = u128::MAX / 37 + i as u128;
        s.geometry = s.geometry.alone().widened(more, id).expect("there is room");
        for n in 0..more {
            s.members.push(MemberEntry { uuid: id + 5 + n as u128, ..s.members[0] });
            states.push(1);
        }
        superblock_lies(s.clone(), states.clone(), 5);
        superblock_lies(
            Superblock { geometry: s.geometry.alone(), ..s.clone() },
            states.clone(),
            7,
        );
    }
}

#[test]
fn a_superblock_with_spares_lies_as_the_page_says() {
    let (mut s, mut states) = sample();
    let own = |i: u128| MemberEntry { uuid: u128::MAX / 5 + i, ..s.members[0] };
    let filling = Some(Filling { takes: 4, next: 0x0a0b_0c0d_0e0f_1011 });
    let more = [
        (MemberEntry { state: MemberState::Rebuilding, filling, ..own(0) }, 3),
        (MemberEntry::FREE, 0),
        (MemberEntry { state: MemberState::Spare, ..own(1) }, 2),
        (MemberEntry { state: MemberState::Failed, ..own(2) }, 5),
        (MemberEntry { state: MemberState::Missing, ..own(3) }, 6),
    ];
    for (entry, state) in more {
        s.members.push(entry);
        states.push(state);
    }
    for index in [0, 7, 9] {
        superblock_lies(s.clone(), states.clone(), index);
    }
}

fn superblock_lies(s: Superblock, states: Vec<u8>, index: u8) {
    let g = s.geometry;
    let spares = if s.members.len() > g.table() { SPARES } else { 0 };
    let at = 65536u64;
    let b = s.encode(index, at);
    assert_eq!(b.len() as u64, SUPERBLOCK_BYTES);
    let mut history = Vec::new();
    for (number, id) in &s.history {
        let fields = [("number", le64(*number)), ("id", le128(*id))];
        let one = &b[512 + history.len()..][..24];
        check("history-entry", one, &fields);
        history.extend_from_slice(one);
    }
    let mut growths = Vec::new();
    for growth in &g.growths {
        let (stripes, slots) = (le32(growth.stripes), le32(growth.slots));
        let fields = [("stripes", stripes), ("slots", slots), ("at", le64(growth.at))];
        let one = &b[384 + growths.len()..][..16];
        check("growth-entry", one, &fields);
        growths.extend_from_slice(one);
    }
    let mut flags = if g.growths[0].at > 0 { GROWN } else { 0 };
    flags |= if g.pages_id != 0 { AREAS_BEHIND } else { 0 };
    flags |= if g.before.is_some() { GROWING } else { 0 };
    let before = g.before.map_or((0, 0, 0, 0, 0), |b| {
        (b.data, b.pages_id, b.stripes, b.pages_offset, b.checksums_offset)
    });
    let mut table = Vec::new();
    for (m, state) in s.members.iter().zip(states) {
        let fields = [
            ("uuid", le128(m.uuid)),
            ("state", vec![state]),
            ("takes", vec![m.filling.map_or(0, |f| f.takes)]),
            ("failed_at", le64(m.failed_at.0)),
            ("filled", le64(m.filling.map_or(0, |f| f.next))),
            ("failed_in", le64(m.failed_in)),
            ("reserved", vec![0; 8]),
        ];
        let one = &b[2048 + table.len()..][..56];
        check("member-entry", one, &fields);
        table.extend_from_slice(one);
    }
    let fields = [
        ("magic", MAGIC.to_vec()),
        ("version", le32(VERSION)),
        ("array", le128(s.array)),
        ("member", le128(s.members[usize::from(index)].uuid)),
        ("position", le64(at)),
        ("crc", le32(crc_with_zero(&b, 56))),
        ("bytes", le32(16384)),
        ("compat", le64(s.compat)),
        ("ro_compat", le64(s.ro_compat)),
        ("incompat", le64(u64::from(g.journals > 0) | 2 | spares | flags)),
        ("epoch", le64(s.epoch)),
        ("phase", le32(2)),
        ("epoch_flags", le32(3)),
        ("epoch_id", le128(s.epoch_id)),
        ("parent", le128(s.parent)),
        ("generation", le32(s.generation)),
        ("level", vec![5]),
        ("data", le16(g.data as u16)),
        ("parity", le16(3)),
        ("members", le16(g.members() as u16)),
        ("index", le16(index.into())),
        ("chunk_blocks", le32(4)),
        ("block_bytes", le32(4096)),
        ("stripes", le64(g.stripes)),
        ("slots", le64(g.slots)),
        ("log_offset", le64(LOG_OFFSET)),
        ("log_rows", le64(g.log_rows)),
        ("pages_offset", le64(g.pages_offset)),
        ("pages", le64(g.map_pages() + g.root_pages())),
        ("checksums_offset", le64(g.checksums_offset)),
        ("checksums_bytes", le64(g.checksums_bytes())),
        ("slots_offset", le64(g.slots_offset)),
        ("member_bytes", le64(g.member_bytes)),
        ("cache_blocks", le64(g.cache_blocks)),
        ("boot", le128(s.boot)),
        ("run_dir", le128(s.run_dir)),
        ("ring", le128(s.ring)),
        ("ring_kind", le32(1)),
        ("created", le64(s.created)),
        ("journals", le16(g.journals as u16)),
        ("spares", le16((s.members.len() - g.table()) as u16)),
        ("log_home", vec![u8::from(g.log_home == LogHome::Journals)]),
        ("journal_rows", le64(g.journal_rows)),
        ("journal_bytes", le64(g.journal_bytes)),
        ("before_data", le16(before.0 as u16)),
        ("name", s.name.clone().into_bytes()),
        ("growths", growths),
        ("host", le128(s.host)),
        ("history", history),
        ("table", filled_up(table, 255 * 56)),
        ("pages_id", le128(g.pages_id)),
        ("before_pages_id", le128(before.1)),
        ("before_stripes", le64(before.2)),
        ("before_pages", le64(before.3)),
        ("before_checksums", le64(before.4)),
    ];
    check("superblock", &b, &fields);
    let back = Superblock::decode(&b, at).expect("it is valid");
    assert_eq!(back, Superblock { index, ..s.clone() });

    // Prepared, not clean, and without a ring.
    let other = Superblock { phase: Phase::Prepared, clean: false, uneven: false, ring: 0, ..s };
    let b = other.encode(index, at);
    assert_eq!((&b[104..108], &b[108..112]), (&le32(1)[..], &le32(0)[..]));
    assert_eq!((&b[288..304], &b[304..308]), (&[0; 16][..], &le32(0)[..]));
}

#[test]
fn levels_have_the_numbers_of_the_page() {
    let numbers: Vec<(u8, &str)> = Level::ALL.iter().map(|l| (l.to_u8(), l.as_str())).collect();
    let page = rows("table: superblock");
    let meaning = &page.iter().find(|r| r[2] == "level").expect("a row")[3];
    let listed: Vec<String> = numbers.iter().map(|(n, l)| format!("{n} {l}")).collect();
    assert_eq!(*meaning, listed.join(", "));
}

#[test]
fn unknown_flags_refuse_by_their_class() {
    let (s, _) = sample();
    let s = Superblock { ro_compat: 0, ..s };
    for (at, readable, writable) in [(64, true, true), (72, true, false), (80, false, false)] {
        let mut b = s.encode(0, 4096).to_vec();
        b[at] |= 4;
        let crc = crc_with_zero(&b, 56);
        b[56..60].copy_from_slice(&crc.to_le_bytes());
        let read = Superblock::decode(&b, 4096).ok();
        assert_eq!(read.is_some(), readable, "flag at {at}");
        let may_write = read.is_some_and(|s| s.read_only_because().is_none());
        assert_eq!(may_write, writable, "flag at {at}");
    }
}

// ---- geometry ----

#[test]
fn areas_are_computed_as_the_page_says() {
    for (level, k, m, chunk, bytes) in [
        (Level::Raid5, 3, 1, 65536, 200u64 << 20),
        (Level::Raid6, 4, 2, 4096, 5 << 30),
        (Level::Rs, 10, 4, 1 << 20, (900 << 20) + 12345),
    ] {
        let g = Geometry::plan(level, k, m, chunk, bytes, None, None, true).expect("it fits");
        let n = (k + m) as u64;
        assert_eq!(g.map_pages(), g.stripes.div_ceil(252));
        assert_eq!(g.root_pages(), g.map_pages().div_ceil(32256));
        let request = 256.min(g.device_blocks()) / g.stripe_blocks();
        assert_eq!(g.slots, g.stripes + 64.max(g.stripes.div_ceil(64)).max(request + 32));
        assert_eq!(g.member_bytes, bytes / 65536 * 65536);
        assert_eq!(g.pages_offset, 131_072 + g.log_rows * 4096);
        let groups = (g.map_pages() + g.root_pages()).div_ceil(n);
        assert_eq!(g.checksums_offset, g.pages_offset + groups * (m as u64 + 1) * 2 * 4096);
        let rows = g.stripes * (chunk / 4096);
        assert_eq!(g.sum_pages(), 1 + rows.div_ceil(1008 / n));
        let groups = g.sum_pages().div_ceil(n);
        let end = g.checksums_offset + groups * (m as u64 + 1) * 2 * 4096;
        assert_eq!(g.slots_offset, end.next_multiple_of(chunk));
        assert_eq!(g.superblock_c(), g.member_bytes - 16384);
        let asked = (bytes / 16).clamp(1 << 20, 256 << 20) / 4096;
        assert_eq!(g.log_rows, asked.max(g.least_log_rows()));
        for slot in [0u32, 1, 5, 77] {
            for c in 0..k + m {
                let member = (c as u64 + n - u64::from(slot) % n) % n;
                assert_eq!(u64::from(g.member_of(Slot(slot), c).0), member);
            }
            let at = g.slots_offset + u64::from(slot) * chunk + 4096;
            assert!(chunk == 4096 || g.byte_of(Slot(slot), 1) == at);
        }
        for page in [0u64, 1, 6, 50] {
            for place in [0u8, 1] {
                let copies = g.page_copies(page, place);
                assert_eq!(copies.len(), m + 1);
                for (i, (member, at)) in copies.into_iter().enumerate() {
                    assert_eq!(u64::from(member.0), (page + i as u64) % n);
                    let nth = page / n * (m as u64 + 1) + i as u64;
                    assert_eq!(at, g.pages_offset + (nth * 2 + u64::from(place)) * 4096);
                }
            }
        }
        // Journal devices: their layout, and the t and w of §5.
        for (j, size, log) in [(1, 40u64 << 20, None), (2, 5 << 30, None), (7, 64 << 20, Some(9))] {
            let size = size + 4321;
            let with = g.with_journals(j, size, log.map(|l| l << 20)).expect("it fits");
            assert_eq!(Geometry { journals: 0, journal_rows: 0, journal_bytes: 0, ..with }, {
                Geometry { log_home: LogHome::Journals, ..g }
            });
            assert_eq!(with.journal_bytes, size / 65536 * 65536);
            let room = (with.journal_bytes - 131_072 - 16384) / 4096;
            let asked = log.map_or(room.min(1 << 18), |l| (l << 20) / 4096);
            assert_eq!(with.journal_rows, asked.max(with.least_log_rows()));
            let (t, first) = (m.min(j - 1), MemberIndex((k + m) as u8));
            assert_eq!((with.log_tolerance(), with.log_width()), (t, k.min(j - t)));
            assert_eq!(with.log_devices(), k + m..k + m + j);
            assert_eq!(with.superblock_c_of(first), with.journal_bytes - 16384);
            assert_eq!(with.superblock_c_of(MemberIndex(0)), g.member_bytes - 16384);
            let log = with.log(1);
            assert_eq!((log.rows, log.data, log.parity), (with.journal_rows, k.min(j - t), t));
            assert!(log.apart && !g.log(1).apart);
            let home = Geometry { log_home: LogHome::Members, ..with }.log(1);
            let own = g.log(1);
            assert_eq!((home.rows, home.data, home.parity), (own.rows, own.data, own.parity));
        }
        // The wider shape of §2.
        for (wide, more) in [(1usize, 2usize), (3, 1)] {
            let Ok(w) = g.widened(more, wide as u128) else { continue };
            let (n, m) = ((k + more + m) as u64, m as u64);
            let maps = w.stripes.div_ceil(252);
            let pages = maps + maps.div_ceil(32256);
            let area = |pages: u64| pages.div_ceil(n) * (m + 1) * 2 * 4096;
            let sums = 1 + (w.stripes * (chunk / 4096)).div_ceil(1008 / n);
            assert_eq!((w.checksums_offset, w.pages_offset), {
                let at = g.superblock_c() - area(sums);
                (at, at - area(pages))
            });
            let slots = ((w.pages_offset - g.slots_offset) / chunk).min(g.slots);
            assert_eq!((w.slots, w.slots_offset), (slots, g.slots_offset));
            assert!(slots > g.stripes + 28 && w.stripes + 64 <= slots);
            assert_eq!(w.stripe_blocks(), (k + more) as u64 * chunk / 4096);
        }
        // The smallest log of §11.
        let stripe_blocks = g.stripe_blocks();
        let request = 256.min(g.stripes * stripe_blocks);
        let stripes = request.div_ceil(stripe_blocks) + 1;
        let place = 48 + n * (chunk / 4096) * 4;
        let rows = |data: u64, meta: u64| 1 + (data + meta.div_ceil(4096)).div_ceil(k as u64);
        let meta = request * 4 + stripes * (place + 64);
        let charge = rows(0, place) + u64::from(place > 3584);
        let least = rows(request, meta) + stripes + (stripes + 1) * charge + 8 + 2;
        assert_eq!(g.least_log_rows(), 2 * least);
    }
}

// ---- pages, as they are written to members ----

/// What was written to a member: byte and content.
type Written = Rc<RefCell<Vec<(u64, Vec<u8>)>>>;

#[derive(Clone, Default)]
struct Sink(Written);

impl Disk for Sink {
    fn facts(&self) -> DiskFacts {
        DiskFacts { path: "sink".into(), bytes: 1 << 40, is_file: true }
    }
    fn read(
        &self,
        _at: u64,
        buf: Buf,
    ) -> impl Future<Output = (Result<(), DiskError>, Buf)> + 'static {
        std::future::ready((Ok(()), buf))
    }
    fn write(&self, at: u64, segs: Segs) -> impl Future<Output = Result<(), DiskError>> + 'static {
        let bytes = segs.iter().flat_map(|s| s.to_vec()).collect();
        self.0.borrow_mut().push((at, bytes));
        std::future::ready(Ok(()))
    }
    fn flush(&self) -> impl Future<Output = Result<(), DiskError>> + 'static {
        std::future::ready(Ok(()))
    }
    fn discard(
        &self,
        _at: u64,
        _len: u64,
    ) -> impl Future<Output = Result<(), DiskError>> + 'static {
        std::future::ready(Ok(()))
    }
}

/// Disks that take writes, and nothing else.
#[derive(Clone)]
struct Still;

#[derive(Clone)]
struct NoRing;

impl RingMem for NoRing {
    fn bytes(&self) -> usize {
        0
    }
    fn store(&self, _at: usize, _bytes: &[u8]) {}
    fn store_u64(&self, _at: usize, _value: u64) {}
    fn load_u64(&self, _at: usize) -> u64 {
        0
    }
    fn slice(&self, _at: usize, len: usize) -> Slice {
        Buf::zeroed(len).freeze()
    }
}

impl World for Still {
    type Disk = Sink;
    type Ring = NoRing;
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn wall_clock(&self) -> u64 {
        0
    }
    fn sleep(&self, _d: Duration) -> impl Future<Output = ()> + 'static {
        std::future::ready(())
    }
    fn random(&self) -> u64 {
        4
    }
    fn spawn(&self, _name: &'static str, _task: impl Future<Output = ()> + 'static) {}
    fn identity(&self) -> RunIdentity {
        RunIdentity::default()
    }
    fn open_ring(&self, _id: u128) -> io::Result<Option<NoRing>> {
        Ok(None)
    }
    fn create_ring(&self, _id: u128, _bytes: usize) -> io::Result<NoRing> {
        Ok(NoRing)
    }
    fn remove_ring(&self, _id: u128) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a future that never waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(out) => out,
        Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn pages_lie_as_the_page_says() {
    let (mut s, _) = sample();
    let array = s.array;
    let geometry =
        Geometry::plan(Level::Raid6, 4, 2, 4096, 100 << 20, None, None, true).expect("it fits");
    assert!(geometry.map_pages() > 10);
    s.geometry = geometry;
    s.members.truncate(6);
    s.members.iter_mut().for_each(|m| m.state = MemberState::Active);
    let disks: Vec<Sink> = (0..6).map(|_| Sink::default()).collect();
    let all = disks.iter().cloned().map(Some).collect();
    let code = Code::new(Level::Raid6, 4, 2).expect("a code");
    let members = Members::new(&Still, code, s, all, false);

    // Two entries of map page 9, one of them on its last place.
    let mut map = Map::empty(geometry, array);
    let (first, last) = (9 * 252, 9 * 252 + 251);
    map.moved(Stripe(first), Some(Slot(0x0a0b)), Lsn(0x1112_1314_1516_1718));
    map.moved(Stripe(last), None, Lsn(0x2122_2324_2526_2728));
    let lsn = Lsn(0x3132_3334_3536_3738);
    let pages = map.snapshot(lsn, &map.next_unsaved(10));
    let roots = map.roots_for(&pages, lsn);
    assert_eq!((pages.len(), roots.len()), (1, 1));
    at_once(write_pages(&members, &geometry, &pages)).expect("written");
    at_once(write_pages(&members, &geometry, &roots)).expect("written");
    map.saved(&pages);
    map.saved(&roots);

    let mut content = vec![0u8; 4032];
    for (nth, slot, lsn) in
        [(0, 0x0a0bu32 + 1, 0x1112_1314_1516_1718u64), (251, 0, 0x2122_2324_2526_2728)]
    {
        let mut entry = [le32(slot), vec![0; 4]].concat();
        entry.extend(le64(lsn));
        check("map-entry", &entry, &[("slot", le32(slot)), ("lsn", le64(lsn))]);
        content[nth * 16..(nth + 1) * 16].copy_from_slice(&entry);
    }
    let mut bits = vec![0u8; 4032];
    bits[1] = 1 << 1; // Bit 9.
    // The first writing is generation 1, in place 1: a page that was never written counts as
    // generation 0 in place 0.
    for (page, kind, content) in [(geometry.root_pages() + 9, 2u16, content), (0, 1, bits)] {
        let copies = geometry.page_copies(page, 1);
        assert_eq!(copies.len(), 3);
        for (member, at) in copies {
            let written = disks[member.at()].0.borrow();
            let own = &written.iter().find(|w| w.0 == at).expect("a copy was written").1;
            let fields = [
                ("magic", PAGE_MAGIC.to_vec()),
                ("version", le16(PAGE_VERSION)),
                ("kind", le16(kind)),
                ("array", le128(array)),
                ("page", le64(page)),
                ("place", le32(1)),
                ("crc", le32(crc_with_zero(own, 36))),
                ("generation", le64(1)),
                ("lsn", le64(lsn.0)),
                ("content", content.clone()),
            ];
            assert_eq!(own.len(), BLOCK);
            check("page", own, &fields);
        }
    }
    assert_eq!(disks.iter().map(|d| d.0.borrow().len()).sum::<usize>(), 6);

    // The next writing goes to the other place.
    map.moved(Stripe(first), None, Lsn(0x4142_4344_4546_4748));
    let again = map.snapshot(lsn, &map.next_unsaved(10));
    at_once(write_pages(&members, &geometry, &again)).expect("written");
    for (member, at) in geometry.page_copies(geometry.root_pages() + 9, 0) {
        let written = disks[member.at()].0.borrow();
        let own = &written.iter().find(|w| w.0 == at).expect("a copy was written").1;
        assert_eq!((&own[32..36], &own[40..48]), (&le32(0)[..], &le64(2)[..]));
    }
}

#[test]
fn the_scrubs_page_lies_as_the_page_says() {
    let states = [(RunState::UnderWay, 1), (RunState::Ended, 2), (RunState::Stopped, 3)];
    for ((state, number), check_only) in states.into_iter().zip([true, false, true]) {
        let tally = Tally {
            mismatches: 0x4142_4344_4546_4748,
            healed: 0x5152_5354_5556_5758,
            unrepairable: 0x6162_6364_6566_6768,
        };
        let run = Run {
            state,
            check_only,
            started: 0x0102_0304_0506_0708,
            ended: 0x1112_1314_1516_1718,
            next: 0x2122_2324_2526_2728,
            done_bytes: 0x3132_3334_3536_3738,
            tally,
        };
        let fields = [
            ("state", le32(number)),
            ("flags", le32(check_only.into())),
            ("started", le64(run.started)),
            ("ended", le64(run.ended)),
            ("next", le64(run.next)),
            ("done", le64(run.done_bytes)),
            ("mismatches", le64(tally.mismatches)),
            ("healed", le64(tally.healed)),
            ("unrepairable", le64(tally.unrepairable)),
        ];
        for page in [
            ScrubPage { now: Some(run), last: None },
            ScrubPage { now: None, last: Some(run) },
            ScrubPage { now: Some(run), last: Some(run) },
        ] {
            let b = page.encode(77, 1, 5);
            let runs = [page.now, page.last].map(|r| {
                r.map_or(vec![0; 64], |_| {
                    let at = if page.now.is_some() { 64 } else { 128 };
                    check("scrub-run", &b[at..at + 64], &fields);
                    b[at..at + 64].to_vec()
                })
            });
            let mut own = b.to_vec();
            own[..64].fill(0);
            let [now, last] = runs;
            check("scrub-page", &own, &[("now", now), ("last", last)]);
            let head = [
                ("magic", PAGE_MAGIC.to_vec()),
                ("version", le16(PAGE_VERSION)),
                ("kind", le16(PAGE_SCRUB)),
                ("array", le128(77)),
                ("page", le64(0)),
                ("place", le32(1)),
                ("crc", le32(crc_with_zero(&b, 36))),
                ("generation", le64(5)),
                ("lsn", le64(0)),
                ("content", b[64..].to_vec()),
            ];
            check("page", &b, &head);
        }
    }
}
