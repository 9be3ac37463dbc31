//! Superblocks and pages.

use evenkeel_journal::bytes::{crc_without, put_u16, put_u32, put_u128};
use evenkeel_journal::{BLOCK, Lsn, MemberIndex, Slot};
use evenkeel_raid::codec::Level;
use evenkeel_raid::geometry::{Geometry, LOG_OFFSET, LogHome, SUPERBLOCK_A, SUPERBLOCK_BYTES};
use evenkeel_raid::page::{self, Head, PAGE_CHECKSUMS, PAGE_MAGIC, PAGE_MAP, PAGE_ROOT};
use evenkeel_raid::scrub::{Run, RunState, ScrubPage, Tally};
use evenkeel_raid::superblock::{MAGIC, MemberEntry, Phase, Superblock};

use crate::hostile::seal_superblock;

/// The array of the pages.
const ARRAY: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;

/// A superblock of this shape with all members active.
pub fn sample(level: Level, data: usize, parity: usize, journals: usize) -> Superblock {
    let mut geometry = Geometry::plan(level, data, parity, 65536, 1 << 30, None, None, true)
        .expect("a gigabyte is enough");
    if journals > 0 {
        geometry = geometry.with_journals(journals, 1 << 30, None).expect("it fits");
    }
    let member = |i: usize| MemberEntry::active(100 + i as u128);
    Superblock {
        array: ARRAY,
        index: 0,
        epoch: 5,
        epoch_id: 55,
        parent: 54,
        phase: Phase::InForce,
        compat: 0,
        ro_compat: 0,
        clean: false,
        uneven: false,
        generation: 1,
        geometry,
        boot: 3,
        run_dir: 4,
        ring: 9,
        host: 2,
        created: 1_700_000_000,
        name: "tank".into(),
        history: vec![(4, 54), (3, 53)],
        members: (0..geometry.table()).map(member).collect(),
    }
}

/// Without the zeros at its end: the target fills them up again.
fn short(b: &[u8]) -> Vec<u8> {
    let end = b.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
    b[..end].to_vec()
}

pub fn superblock_seeds() -> Vec<Vec<u8>> {
    let shapes = [
        (Level::Raid6, 4, 2, 0),
        (Level::Raid5, 2, 1, 2),
        (Level::Raid1, 1, 1, 0),
        (Level::Evenodd, 4, 2, 0),
        (Level::Rs, 12, 5, 1),
    ];
    let bytes = |(level, k, m, j)| short(&sample(level, k, m, j).encode(0, SUPERBLOCK_A));
    let mut seeds: Vec<Vec<u8>> = shapes.into_iter().map(bytes).collect();
    // One whose members have become larger twice.
    let mut grown = sample(Level::Raid6, 4, 2, 0);
    for more in [1 << 28, 1 << 30] {
        let larger = grown.geometry.member_bytes + more;
        grown.geometry = grown.geometry.grown_to(larger).expect("there is room");
    }
    seeds.push(short(&grown.encode(0, SUPERBLOCK_A)));
    // One that gets more columns, one that got some, and one that grew by larger members after that.
    let mut wider = sample(Level::Raid6, 4, 2, 0);
    wider.geometry = wider.geometry.widened(2, 77).expect("there is room");
    wider.members.extend((0..2).map(|i| MemberEntry::active(200 + i)));
    seeds.push(short(&wider.encode(0, SUPERBLOCK_A)));
    wider.geometry = wider.geometry.alone();
    seeds.push(short(&wider.encode(0, SUPERBLOCK_A)));
    wider.geometry = wider.geometry.grown_to(2 << 30).expect("there is room");
    seeds.push(short(&wider.encode(0, SUPERBLOCK_A)));
    seeds
}

/// No area may lie over another one, whatever a superblock says: else one would be written over it.
fn areas_are_apart(g: &Geometry) {
    let block = BLOCK as u64;
    let bytes = |pages: u64| pages.div_ceil(g.members() as u64) * (g.parity as u64 + 1) * 2 * block;
    let mut areas = vec![(LOG_OFFSET, LOG_OFFSET + g.log_rows * block)];
    for s in g.stretches() {
        let last = Slot((s.slots.end - 1) as u32);
        areas.push((s.slots_at, g.byte_of(last, g.chunk_blocks - 1) + block));
        areas.push((s.pages_at, s.pages_at + bytes(s.pages())));
        if g.has_checksums() {
            areas.push((s.sums_at, s.sums_at + bytes(s.sums.end - s.sums.start)));
        }
    }
    if let Some(before) = g.shape_before() {
        assert!(before.data < g.data && before.device_blocks() <= g.device_blocks());
        let n = before.members() as u64;
        let own = |pages: u64| pages.div_ceil(n) * (g.parity as u64 + 1) * 2 * block;
        for s in before.stretches() {
            areas.push((s.pages_at, s.pages_at + own(s.pages())));
            if g.has_checksums() {
                areas.push((s.sums_at, s.sums_at + own(s.sums.end - s.sums.start)));
            }
        }
    }
    areas.sort_unstable();
    assert!(areas.windows(2).all(|two| two[0].1 <= two[1].0), "one over another: {areas:?} {g:?}");
    let inside = |a: &(u64, u64)| a.0 >= LOG_OFFSET && a.1 <= g.superblock_c();
    assert!(areas.iter().all(inside), "over a superblock: {areas:?} {g:?}");
    assert!(g.slots_offset.is_multiple_of(block), "slots lie between blocks");
}

pub fn superblock(input: &[u8]) {
    let mut b = input.to_vec();
    b.resize(SUPERBLOCK_BYTES as usize, 0);
    let _ = Superblock::decode(input, SUPERBLOCK_A);
    let _ = Superblock::decode(&b, SUPERBLOCK_A);
    b[..8].copy_from_slice(&MAGIC);
    seal_superblock(&mut b, SUPERBLOCK_A);
    let Ok(s) = Superblock::decode(&b, SUPERBLOCK_A) else { return };
    let again = s.encode(s.index, SUPERBLOCK_A);
    assert_eq!(Superblock::decode(&again, SUPERBLOCK_A).as_ref(), Ok(&s), "not the same again");
    let g = s.geometry;
    areas_are_apart(&g);
    let _ = (s.uuid(), s.read_only_because());
    assert!(s.copy_c() >= SUPERBLOCK_A, "copy C over copy A");
    // What a start computes of it.
    let log = g.log(s.array);
    assert!(log.data >= 1 && log.data + log.parity <= log.members, "a log of this shape: {log:?}");
    let _ = (g.least_log_rows(), g.max_request_blocks(), g.slot_reserve());
    for page in [0, g.map_pages() + g.root_pages() - 1] {
        for (member, at) in g.page_copies(page, 1) {
            assert!(member.at() < g.members() && at + BLOCK as u64 <= g.superblock_c());
        }
    }
    if g.has_checksums() {
        let (page, number) =
            g.sum_of(evenkeel_journal::Stripe(g.stripes - 1), g.chunk_blocks - 1, g.members() - 1);
        assert!(page < g.sum_pages() && number < 1008, "a checksum beyond its area");
    }
    if g.log_home == LogHome::Journals {
        assert!(g.log_devices().start == g.members());
    }
    for i in 0..g.table() {
        assert!(g.superblock_c_of(MemberIndex(i as u8)) >= SUPERBLOCK_A);
    }
}

pub fn page_seeds() -> Vec<Vec<u8>> {
    let begun = Run { next: 7, done_bytes: 9, ..Run::begun(true, 5) };
    let tally = Tally { mismatches: 3, healed: 2, unrepairable: 1 };
    let ended = Run { state: RunState::Ended, ended: 6, tally, ..Run::begun(false, 4) };
    let scrub = ScrubPage { now: Some(begun), last: Some(ended) }.encode(ARRAY, 1, 12);
    let mut all = vec![short(&scrub)];
    for kind in [PAGE_ROOT, PAGE_MAP, PAGE_CHECKSUMS] {
        let mut b = Head { kind, page: 3, place: 0, generation: 8, lsn: Lsn(99) }.page(ARRAY);
        b[64..256].iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        page::seal(&mut b);
        all.push(short(&b));
    }
    all
}

pub fn page(input: &[u8]) {
    let mut b = input.to_vec();
    b.resize(BLOCK, 0);
    let _ = page::decode(&b, ARRAY);
    b[..4].copy_from_slice(&PAGE_MAGIC);
    put_u16(&mut b, 4, page::PAGE_VERSION);
    put_u128(&mut b, 8, ARRAY);
    let crc = crc_without(&b, 36);
    put_u32(&mut b, 36, crc);
    let Some(head) = page::decode(&b, ARRAY) else { return };
    let mut again = head.page(ARRAY);
    again[64..].copy_from_slice(&b[64..]);
    page::seal(&mut again);
    assert_eq!(page::decode(&again, ARRAY), Some(head), "not the same again");
    let Some((head, scrub)) = ScrubPage::decode(&b, ARRAY) else { return };
    let again = scrub.encode(ARRAY, head.place, head.generation);
    let (other, back) = ScrubPage::decode(&again, ARRAY).expect("it was just made");
    assert_eq!((other.place, other.generation, back), (head.place, head.generation, scrub));
}
