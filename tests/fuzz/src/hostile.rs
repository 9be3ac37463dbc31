//! Images of real arrays, changed behind all CRCs: what a disk, a ring or a superblock would have to
//! look like that somebody made up with care.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use evenkeel_journal::bytes::{
    crc_without, get_u16, get_u32, get_u64, get_u128, put_u16, put_u32, put_u64,
};
use evenkeel_journal::commit::{FLAG_INLINE, INLINE_AT, INLINE_MAX, column_crc};
use evenkeel_journal::ring::{AT_HEAD, AT_TAIL, RING_RECORD_HEAD};
use evenkeel_journal::{BLOCK, MemberIndex, Slice};
use evenkeel_raid::geometry::{Geometry, LOG_OFFSET};
use evenkeel_raid::page::PAGE_MAGIC;
use evenkeel_raid::superblock::Superblock;
use evenkeel_raid::{Ack, Array, ArrayError, StartOptions, widen};
use evenkeel_tests::damage::{Column, Running, SUPERBLOCK, columns, setup};
use evenkeel_tests::evenkeel::{Evenkeel, journal_setups};
use evenkeel_tests::sim::{Image, Mode, Simulation, Survivors};
use evenkeel_tests::subject::{Setup, Subject};

use crate::choices::Choices;

/// What a crash left of a real array, and what is known of it.
pub struct Base {
    /// The disks and rings.
    pub from: Survivors,
    /// Shape, as the superblocks say.
    pub geometry: Geometry,
    /// UUID of the array.
    pub array: u128,
    /// The commits of the log, oldest first, each with its columns.
    pub commits: Vec<Vec<Column>>,
    /// Pages of map, roots and checksums: (kind, number, place) → where its copies lie.
    pub pages: Vec<Vec<(usize, u64)>>,
}

/// Kind of a page, what it bears and its number, place.
type PageName = (u16, (u128, u64), u8);

thread_local! {
    static BASES: Vec<Rc<Base>> = make_bases();
}

/// The images, each of another shape or way to crash.
#[must_use]
pub fn bases() -> Vec<Rc<Base>> {
    BASES.with(Clone::clone)
}

fn make_bases() -> Vec<Rc<Base>> {
    let mut bases = Vec::new();
    let journals = journal_setups().into_iter().next().expect("a setup");
    for (setup, mode, ack) in [
        (setup("raid5-2+1"), Mode::Process(1), Ack::Cached),
        (setup("raid5-2+1"), Mode::PowerAll, Ack::Durable),
        (setup("raid1-1+1"), Mode::Process(2), Ack::Cached),
        (setup("rs-3+3"), Mode::PowerAll, Ack::Durable),
        (journals, Mode::PowerAll, Ack::Durable),
    ] {
        let mut running = Running::new(&setup, 3, ack);
        running.write_parts();
        running.destage();
        running.write_parts();
        let mut from = running.sim.snapshot().survive(mode);
        // Nothing is in flight or volatile any more: what is seen is what lies there.
        from.disks = from.disks.into_iter().map(|d| d.settled()).collect();
        bases.push(Rc::new(Base::of(from)));
    }
    bases.push(Rc::new(Base::of(growing())));
    bases
}

/// An array that moves its stripes to more columns.
fn growing() -> Survivors {
    let limit = Duration::from_secs(600);
    let sizes = Setup { member: 2 << 20, log: 1 << 20, cache: 2 << 20, ..setup("raid5-2+1") };
    let sim = Simulation::new(5, &Survivors::new(4, sizes.member));
    let (world, disks) = (sim.world(), sim.disks());
    let ran = sim.run(limit, async move {
        Evenkeel::create(&world, &disks[..3], &sizes).await?;
        let text = |e: ArrayError| e.to_string();
        let slowly = StartOptions { rebuild_rate: Some(1 << 16), ..StartOptions::default() };
        let array = Array::start(&world, &disks[..3], &slowly, &|_| ()).await.map_err(text)?;
        for nth in 0..(array.size_bytes() / sizes.stripe()).min(30) {
            let data = Slice::copy_of(&vec![nth as u8; sizes.stripe() as usize]);
            array.write(nth * sizes.stripe(), data, false).await.map_err(|e| e.to_string())?;
        }
        array.add_disk(disks[3].clone()).await.map_err(text)?;
        array.prepare_to_widen(&[MemberIndex(3)]).await.map_err(text)?;
        let id = array.status().members[3].uuid.replace('-', "");
        array.stop().await.map_err(text)?;
        let id = u128::from_str_radix(&id, 16).map_err(|e| e.to_string())?;
        widen(&world, &disks, &[id], None).await.map_err(text)?;
        let array = Array::start(&world, &disks, &slowly, &|_| ()).await.map_err(text)?;
        for nth in [3, 10, 11] {
            let data = Slice::copy_of(&[nth as u8; BLOCK]);
            array.write(nth * sizes.stripe(), data, true).await.map_err(|e| e.to_string())?;
        }
        if array.is_growing() { Ok(()) } else { Err("all is moved".to_owned()) }
    });
    ran.map_err(|s| s.to_string()).and_then(|inner| inner).expect("an array that grows");
    let mut from = sim.snapshot().survive(Mode::PowerAll);
    from.disks = from.disks.into_iter().map(|d| d.settled()).collect();
    from
}

impl Base {
    fn of(from: Survivors) -> Base {
        let mut b = vec![0; SUPERBLOCK as usize];
        from.disks[0].view().read(4096, &mut b);
        let sb = Superblock::decode(&b, 4096).expect("a superblock");
        // With journal devices, columns lie there alone; what `columns` looks at is as long as a
        // member's log, and theirs is not shorter.
        let commits = columns(&from).into_values().collect();
        let mut pages: BTreeMap<PageName, Vec<(usize, u64)>> = BTreeMap::new();
        let g = sb.geometry;
        for disk in from.disks.iter().take(g.members()) {
            let image = disk.view();
            // Since columns were added they lie behind the slots, and before them those of before.
            let log_end = LOG_OFFSET + g.log_rows * BLOCK as u64;
            let behind = g.pages_offset.max(g.slots_offset)..g.superblock_c();
            let behind = if g.areas_are_behind() { behind } else { 0..0 };
            let places = (log_end..g.slots_offset).step_by(BLOCK).chain(behind.step_by(BLOCK));
            for at in places {
                let mut block = vec![0; BLOCK];
                image.read(at, &mut block);
                if block[..4] == PAGE_MAGIC {
                    let number = (get_u128(&block, 8), get_u64(&block, 24));
                    let name = (get_u16(&block, 6), number, block[32]);
                    pages.entry(name).or_default().push((disk.id, at));
                }
            }
        }
        let pages = pages.into_values().collect();
        Base { from, geometry: g, array: sb.array, commits, pages }
    }
}

fn image(from: &mut Survivors, disk: usize) -> Option<&mut Image> {
    from.disks.iter_mut().find(|d| d.id == disk).map(|d| d.medium_mut())
}

fn read(from: &mut Survivors, disk: usize, at: u64, len: usize) -> Vec<u8> {
    let mut b = vec![0; len];
    if let Some(image) = image(from, disk) {
        image.read(at, &mut b);
    }
    b
}

fn write(from: &mut Survivors, disk: usize, at: u64, bytes: &[u8]) {
    if let Some(image) = image(from, disk) {
        image.write(at, bytes);
    }
}

/// Changes a number in `b` that begins somewhere in `range`.
fn patch(b: &mut [u8], range: std::ops::Range<usize>, c: &mut Choices) {
    let at = range.start + c.below(range.len());
    let width = [1, 2, 4, 8][c.below(4)];
    // Fields are aligned; one in eight changes begins within one.
    let at = if c.one_in(8) { at } else { at / width * width };
    let end = (at + width).min(range.end);
    let mut old = [0; 8];
    old[..end - at].copy_from_slice(&b[at..end]);
    let new = c.number(u64::from_le_bytes(old)).to_le_bytes();
    b[at..end].copy_from_slice(&new[..end - at]);
}

/// Changes something, or several things, as the bytes say: superblocks, log, pages, ring, content.
pub fn change(base: &Base, c: &mut Choices) -> Survivors {
    let mut from = base.from.clone();
    let mut log: Vec<LogChange> = Vec::new();
    let changes = 1 + c.below(4);
    for _ in 0..changes {
        match c.below(16) {
            0..=3 => superblocks(base, &mut from, c),
            4..=8 => log.push(LogChange::draw(base, c)),
            9..=11 => pages(base, &mut from, c),
            12 | 13 => ring(&mut from, c),
            14 => content(base, &mut from, c),
            _ => {
                from.disks.remove(c.below(from.disks.len()));
            }
        }
        if from.disks.is_empty() || c.are_over() {
            break;
        }
    }
    change_log(base, &mut from, &log);
    from
}

/// The log alone, changed.
pub fn change_only_log(base: &Base, c: &mut Choices) -> Survivors {
    let mut from = base.from.clone();
    let changes: Vec<LogChange> = (0..=c.below(4)).map(|_| LogChange::draw(base, c)).collect();
    change_log(base, &mut from, &changes);
    from
}

/// A field of the superblocks, in all copies on all disks, or on some.
fn superblocks(base: &Base, from: &mut Survivors, c: &mut Choices) {
    // Shape and identities, the table, the history; or anywhere.
    let range = [(64, 400), (64, 400), (2048, 2304), (496, 640), (0, 2304)][c.below(5)];
    let choice = c.clone();
    let which = if c.one_in(4) { c.byte() } else { 0xff };
    let disks: Vec<(usize, u64)> =
        from.disks.iter().map(|d| (d.id, (d.view().pages() * BLOCK) as u64)).collect();
    let mut used = choice.clone();
    for (nth, (disk, bytes)) in disks.into_iter().enumerate() {
        for (copy, at) in [4096, 65536, bytes - SUPERBLOCK].into_iter().enumerate() {
            if which >> ((nth + copy) % 8) & 1 == 0 {
                continue;
            }
            let mut b = read(from, disk, at, SUPERBLOCK as usize);
            let mut same = choice.clone();
            patch(&mut b, range.0..range.1, &mut same);
            used = same;
            // What it asks for is allocated here, where in earnest the system refuses it.
            if get_u64(&b, 248) > 8192 {
                put_u64(&mut b, 248, base.geometry.cache_blocks);
            }
            let crc = crc_without(&b, 56);
            put_u32(&mut b, 56, crc);
            write(from, disk, at, &b);
        }
    }
    *c = used;
}

/// A page, in all of its copies or in one.
fn pages(base: &Base, from: &mut Survivors, c: &mut Choices) {
    if base.pages.is_empty() {
        return;
    }
    let copies = &base.pages[c.below(base.pages.len())];
    let range = if c.one_in(3) { 4..64 } else { 64..192 };
    let one = c.one_in(4).then(|| c.below(copies.len()));
    let choice = c.clone();
    for (i, (disk, at)) in copies.iter().enumerate() {
        if one.is_some_and(|one| one != i) {
            continue;
        }
        let mut b = read(from, *disk, *at, BLOCK);
        *c = choice.clone();
        patch(&mut b, range.clone(), c);
        let crc = crc_without(&b, 36);
        put_u32(&mut b, 36, crc);
        write(from, *disk, *at, &b);
    }
}

/// Bytes of the slots, or anywhere.
fn content(base: &Base, from: &mut Survivors, c: &mut Choices) {
    let disk = from.disks[c.below(from.disks.len())].id;
    let bytes = (read_len(from, disk) - 8) as usize;
    let begin = if c.one_in(4) { 0 } else { base.geometry.slots_offset as usize % bytes };
    let at = begin + c.below(bytes - begin);
    let value = c.u64().to_le_bytes();
    write(from, disk, at as u64, &value);
}

fn read_len(from: &mut Survivors, disk: usize) -> u64 {
    image(from, disk).map_or(0, |i| (i.pages() * BLOCK) as u64)
}

/// A field of the ring: its header, its head or tail, or one of its records.
fn ring(from: &mut Survivors, c: &mut Choices) {
    let Some(image) = from.rings.values_mut().next() else { return };
    let mut head = vec![0; BLOCK];
    image.read(0, &mut head);
    match c.below(6) {
        0 => {
            patch(&mut head, 8..128, c);
            let crc = crc_without(&head[..128], 12);
            put_u32(&mut head, 12, crc);
            image.write(0, &head);
        }
        1 => {
            let at = if c.one_in(2) { AT_HEAD } else { AT_TAIL };
            let value = c.number(get_u64(&head, at));
            image.write(at as u64, &value.to_le_bytes());
        }
        _ => {
            let (tail, end) = (get_u64(&head, AT_TAIL), get_u64(&head, AT_HEAD));
            let area = get_u64(&head, 64);
            // A record that does not go round the end of its area.
            let mut found = Vec::new();
            let mut at = tail;
            while at < end && found.len() < 64 {
                let place = BLOCK as u64 + at % area;
                let mut len = [0; 4];
                image.read(place, &mut len);
                let len = u64::from(u32::from_le_bytes(len));
                if len < RING_RECORD_HEAD as u64 || at % area + len > area {
                    break;
                }
                found.push((place, len as usize));
                at += len;
            }
            if found.is_empty() {
                return;
            }
            let (place, len) = found[c.below(found.len())];
            let mut b = vec![0; len];
            image.read(place, &mut b);
            patch(&mut b, 0..len, c);
            let crc = crc_without(&b, 4);
            put_u32(&mut b, 4, crc);
            image.write(place, &b);
        }
    }
}

/// One change of one commit.
struct LogChange {
    commit: usize,
    /// Only this column, which then contradicts the others.
    column: Option<usize>,
    what: What,
    choice: Vec<u8>,
}

enum What {
    Header,
    Records,
    Payload,
    /// Anywhere, and no CRC follows.
    Damage,
}

impl LogChange {
    fn draw(base: &Base, c: &mut Choices) -> LogChange {
        let back = c.below(base.commits.len().min(12));
        let commit = base.commits.len() - 1 - back;
        let column = c.one_in(6).then(|| c.below(8));
        let what = match c.below(8) {
            0..=2 => What::Header,
            3..=5 => What::Records,
            6 => What::Payload,
            _ => What::Damage,
        };
        LogChange { commit, column, what, choice: c.bytes(16).to_vec() }
    }
}

/// Applies changes, and makes the CRCs of columns, commits and chain right again.
fn change_log(base: &Base, from: &mut Survivors, changes: &[LogChange]) {
    let Some(first) = changes.iter().map(|c| c.commit).min() else { return };
    let mut crc_before: Option<(u32, u32)> = None;
    for (nth, commit) in base.commits.iter().enumerate().skip(first) {
        let mut heads: Vec<Vec<u8>> =
            commit.iter().map(|c| read(from, c.disk, c.blocks[0], BLOCK)).collect();
        let own = changes.iter().filter(|c| c.commit == nth);
        let mut damage = Vec::new();
        for change in own {
            for (i, column) in commit.iter().enumerate() {
                if change.column.is_some_and(|one| one % commit.len() != i) {
                    continue;
                }
                let mut c = Choices::new(&change.choice);
                let meta = (get_u32(&heads[i], 128) as usize).clamp(8, INLINE_MAX);
                match change.what {
                    What::Header => patch(&mut heads[i], 32..168, &mut c),
                    What::Records => patch(&mut heads[i], INLINE_AT..INLINE_AT + meta, &mut c),
                    What::Payload | What::Damage => {
                        let at = column.blocks[c.below(column.blocks.len())];
                        let header = at == column.blocks[0];
                        if matches!(change.what, What::Damage) || header {
                            damage.push((column.disk, at, c.below(BLOCK), c.byte()));
                        } else {
                            let mut b = read(from, column.disk, at, BLOCK);
                            patch(&mut b, 0..64, &mut c);
                            write(from, column.disk, at, &b);
                        }
                    }
                }
            }
        }
        // Of each column the CRC over its payload, then of all of them, then of each header.
        let width = usize::from(get_u16(&heads[0], 120)).clamp(1, 255);
        let mut crcs: BTreeMap<usize, u32> = BTreeMap::new();
        for (i, column) in commit.iter().enumerate() {
            let blocks: Vec<u32> = column.blocks[1..]
                .iter()
                .map(|at| crc32c::crc32c(&read(from, column.disk, *at, BLOCK)))
                .collect();
            let crc = column_crc(blocks.into_iter());
            crcs.insert(usize::from(column.header.column), crc);
            put_u32(&mut heads[i], 136, crc);
        }
        let old_crc = get_u32(&heads[0], 60);
        if let Some((was, is)) = crc_before {
            for head in heads.iter_mut().filter(|h| get_u32(h, 56) == was) {
                put_u32(head, 56, is);
            }
        }
        let mut new_crc = old_crc;
        for (i, column) in commit.iter().enumerate() {
            new_crc = commit_crc(&heads[i], width, &crcs);
            put_u32(&mut heads[i], 60, new_crc);
            let crc = crc_without(&heads[i], 12);
            put_u32(&mut heads[i], 12, crc);
            write(from, column.disk, column.blocks[0], &heads[i]);
        }
        crc_before = Some((old_crc, new_crc));
        for (disk, at, byte, value) in damage {
            let mut b = read(from, disk, at, BLOCK);
            b[byte] ^= value | 1;
            write(from, disk, at, &b);
        }
    }
}

/// The CRC of a whole commit, by the bytes of one of its headers (format.md §5).
fn commit_crc(head: &[u8], width: usize, columns: &BTreeMap<usize, u32>) -> u32 {
    let mut b = head[..INLINE_AT].to_vec();
    for own in [12, 60, 136] {
        put_u32(&mut b, own, 0);
    }
    put_u16(&mut b, 124, 0);
    put_u16(&mut b, 126, 0);
    let mut crc = crc32c::crc32c(&b);
    if get_u32(head, 132) & FLAG_INLINE != 0 {
        let meta = (get_u32(head, 128) as usize).min(INLINE_MAX);
        crc = crc32c::crc32c_append(crc, &head[INLINE_AT..INLINE_AT + meta]);
    }
    for column in 0..width {
        let own = columns.get(&column).copied().unwrap_or(0);
        crc = crc32c::crc32c_append(crc, &own.to_le_bytes());
    }
    crc
}

/// The identity of the array in a superblock's bytes.
#[must_use]
pub fn array_in(b: &[u8]) -> u128 {
    get_u128(b, 16)
}

/// Puts the place of a copy into a superblock's bytes, and its CRC.
pub fn seal_superblock(b: &mut [u8], at: u64) {
    put_u64(b, 48, at);
    let crc = crc_without(b, 56);
    put_u32(b, 56, crc);
}
