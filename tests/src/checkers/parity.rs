//! Looks at members at rest, after a clean stop: superblocks, map and slots, read here byte by
//! byte by the tables of the format, not with the array's code. Every mapped stripe must hold the
//! content that was read from the device, and the parity of it, on every active member; a stripe
//! without a slot must read as zeros. Checksums, if the array has any, must be those of the blocks.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_raid::codec::{Code, Level};

use super::checksums::Table;
use super::stretches;

use crate::sim::{DiskImage, Image, PAGE};
use crate::subject::Areas;

const SUPERBLOCK: usize = 16384;
const COPY_A: u64 = 4096;
const COPY_B: u64 = 65536;
/// Member sizes are rounded down to this; copy C lies at the end.
const GRAIN: u64 = 65536;
const ACTIVE: u8 = 1;
const FAILING: u8 = 4;
const IN_FORCE: u32 = 2;
const MAP_PAGE: usize = 2;
/// Entries of a map page.
const ENTRIES: u64 = 252;

pub(super) fn u16_at(b: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(b[at..at + 2].try_into().expect("two bytes")))
}

pub(super) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 };
            bit += 1;
        }
        table[i] = c;
        i += 1;
    }
    table
}

static CRC: [u32; 256] = crc_table();

/// CRC32C with the four bytes at `hole` taken as zero.
pub(super) fn crc(b: &[u8], hole: usize) -> u32 {
    let step = |crc: u32, byte: &u8| crc >> 8 ^ CRC[usize::from(crc as u8 ^ byte)];
    let head = b[..hole].iter().fold(!0, step);
    let middle = (0..4).fold(head, |c, _| step(c, &0));
    !b[hole + 4..].iter().fold(middle, step)
}

/// What the superblock in force says.
struct Head {
    bytes: Vec<u8>,
    member: usize,
}

impl Head {
    fn epoch(&self) -> u64 {
        u64_at(&self.bytes, 96)
    }
    fn n(&self) -> usize {
        u16_at(&self.bytes, 156)
    }
    fn k(&self) -> usize {
        u16_at(&self.bytes, 152)
    }
    fn chunk(&self) -> u64 {
        u64::from(u32_at(&self.bytes, 160)) * PAGE as u64
    }
    fn is_active(&self, member: usize) -> bool {
        [ACTIVE, FAILING].contains(&self.bytes[2048 + member * 56 + 16])
    }
    fn is_clean(&self) -> bool {
        u32_at(&self.bytes, 108) & 1 == 1
    }
}

/// The superblock copies of every disk, a line each.
#[must_use]
pub fn describe(disks: &[DiskImage]) -> String {
    let mut lines = Vec::new();
    for disk in disks {
        let image = disk.view();
        let size = (image.pages() * PAGE) as u64;
        let copy_c = size / GRAIN * GRAIN - SUPERBLOCK as u64;
        for (name, at) in [("A", COPY_A), ("B", COPY_B), ("C", copy_c)] {
            let mut b = vec![0; SUPERBLOCK];
            image.read(at, &mut b);
            if &b[..8] != b"EVNKEEL1" || u32_at(&b, 56) != crc(&b, 56) {
                lines.push(format!("  disk {} {name}: damaged or absent", disk.id));
                continue;
            }
            let phase = if u32_at(&b, 104) == IN_FORCE { "in force" } else { "prepared" };
            let table = u16_at(&b, 156) + u16_at(&b, 320);
            let states: Vec<u8> = (0..table).map(|i| b[2048 + i * 56 + 16]).collect();
            lines.push(format!(
                "  disk {} {name}: epoch {} ({:08x}) after {:08x}, {phase}, member {} of {states:?}, \
                 ring {:x}",
                disk.id,
                u64_at(&b, 96),
                u32_at(&b, 112),
                u32_at(&b, 128),
                u16_at(&b, 158),
                u64_at(&b, 288)
            ));
        }
    }
    lines.join("\n")
}

/// The newest superblock in force of a member.
fn head(image: &Image) -> Option<Head> {
    let size = (image.pages() * PAGE) as u64;
    let copy_c = size / GRAIN * GRAIN - SUPERBLOCK as u64;
    let whole = [COPY_A, COPY_B, copy_c].into_iter().filter_map(|at| {
        let mut bytes = vec![0; SUPERBLOCK];
        image.read(at, &mut bytes);
        let whole = &bytes[..8] == b"EVNKEEL1"
            && u64_at(&bytes, 48) == at
            && u32_at(&bytes, 56) == crc(&bytes, 56)
            && u32_at(&bytes, 104) == IN_FORCE;
        whole.then(|| Head { member: u16_at(&bytes, 158), bytes })
    });
    whole.max_by_key(Head::epoch)
}

/// The map: stripe to slot, from the newest whole copy of every page.
fn map(head: &Head, members: &BTreeMap<usize, Image>) -> BTreeMap<u64, u64> {
    let h = &head.bytes;
    let (pages, stretches) = (u64_at(h, 208), stretches::read(h));
    let mut newest: BTreeMap<u64, (u64, Vec<u8>)> = BTreeMap::new();
    for image in members.values() {
        let places = stretches.iter().flat_map(|s| s.pages.clone().step_by(PAGE));
        for at in places {
            let Some(b) = image.page(at as usize / PAGE) else {
                continue;
            };
            let (page, generation) = (u64_at(&b[..], 24), u64_at(&b[..], 40));
            let whole = &b[..4] == b"EKMP"
                && b[8..24] == *stretches::pages_id(h)
                && page < pages
                && newest.get(&page).is_none_or(|n| n.0 < generation)
                && u32_at(&b[..], 36) == crc(&b[..], 36);
            if whole {
                newest.insert(page, (generation, b.to_vec()));
            }
        }
    }
    let mut map = BTreeMap::new();
    for (page, (_, b)) in newest.iter().filter(|(_, (_, b))| u16_at(b, 6) == MAP_PAGE) {
        let own = stretches.iter().rfind(|s| s.first_page <= *page).expect("the first begins at 0");
        // Root pages come first; every map page is known by its kind.
        let nth = page - own.first_page - own.roots + own.first_map;
        for i in 0..ENTRIES {
            let slot = u32_at(b, 64 + i as usize * 16);
            if slot != 0 {
                map.insert(nth * ENTRIES + i, u64::from(slot) - 1);
            }
        }
    }
    map
}

/// Where log, pages and slots of a member lie, if the array has checksums.
#[must_use]
pub fn areas(disk: &DiskImage) -> Option<Areas> {
    let h = head(&disk.view())?.bytes;
    (u64_at(&h, 216) != 0).then(|| areas_of(disk)).flatten()
}

/// Where log, pages and slots of a member lie.
#[must_use]
pub fn areas_of(disk: &DiskImage) -> Option<Areas> {
    let h = head(&disk.view())?.bytes;
    let at = |offset| u64_at(&h, offset);
    // Where the log is on journal devices it is not on this disk.
    let log = (h[322] == 0).then(|| at(184)..at(184) + at(192) * PAGE as u64);
    let slots = at(232)..at(232) + at(176) * u64::from(u32_at(&h, 160)) * PAGE as u64;
    // Behind the slots, since columns were added.
    let end = if at(200) < at(232) { at(232) } else { at(240) - SUPERBLOCK as u64 };
    Some(Areas { log, pages: at(200)..end, slots })
}

/// Checks members at rest against the content that the device had.
///
/// # Errors
/// What is wrong, with stripe, slot, member and byte.
pub fn check_at_rest(disks: &[DiskImage], content: &[u8]) -> Result<(), String> {
    let mut heads: Vec<(usize, Head, Image)> = Vec::new();
    for disk in disks {
        let image = disk.view();
        if let Some(h) = head(&image) {
            heads.push((disk.id, h, image));
        }
    }
    let epoch = heads.iter().map(|h| h.1.epoch()).max().ok_or("no superblock is left")?;
    let Some((_, first, _)) = heads.iter().find(|h| h.1.epoch() == epoch) else {
        return Err("no superblock is left".to_owned());
    };
    let first = Head { bytes: first.bytes.clone(), member: first.member };
    let mut members = BTreeMap::new();
    for (id, h, image) in heads {
        if h.epoch() == epoch && first.is_active(h.member) {
            if !h.is_clean() {
                return Err(format!("disk {id} is not marked clean after a stop"));
            }
            // Journal devices hold no pages and no slots.
            if h.member < first.n() {
                members.insert(h.member, image);
            }
        }
    }
    let (n, k, chunk) = (first.n(), first.k(), first.chunk());
    let level = Level::from_u8(first.bytes[148]).ok_or("unknown level")?;
    let code = Code::new(level, k, n - k).map_err(|e| e.to_string())?;
    let map = map(&first, &members);
    let checksums = Table::read(&first.bytes, &members)?;
    let mut used = BTreeSet::new();
    let stripe_bytes = chunk * k as u64;
    let stretches = stretches::read(&first.bytes);
    for stripe in 0..u64_at(&first.bytes, 168) {
        let from = (stripe * stripe_bytes) as usize;
        // Of an array that has grown the content may be the first part alone: nothing was written behind.
        let rest = content.get(from..).unwrap_or_default();
        let mut data = rest[..rest.len().min(stripe_bytes as usize)].to_vec();
        data.resize(stripe_bytes as usize, 0);
        let Some(slot) = map.get(&stripe) else {
            if stretches::is_growing(&first.bytes) {
                // It may lie where the shape before has it.
                continue;
            }
            if data.iter().any(|b| *b != 0) {
                return Err(format!("stripe {stripe} has content and no slot"));
            }
            continue;
        };
        if !used.insert(*slot) {
            return Err(format!("slot {slot} holds two stripes, one of them {stripe}"));
        }
        let columns: Vec<&[u8]> = data.chunks(chunk as usize).collect();
        let mut parity = vec![vec![0; chunk as usize]; n - k];
        let mut rows: Vec<&mut [u8]> = parity.iter_mut().map(|p| &mut p[..]).collect();
        code.encode(&columns, &mut rows);
        let all = columns.into_iter().chain(parity.iter().map(|p| &p[..]));
        for (column, wanted) in all.enumerate() {
            if let Some(table) = &checksums {
                table.check(stripe, column, wanted)?;
            }
            let member = (column + n - (*slot as usize) % n) % n;
            let Some(image) = members.get(&member) else {
                continue;
            };
            let own = stretches.iter().find(|s| s.slots.contains(slot));
            let Some(own) = own else { return Err(format!("there is no slot {slot}")) };
            let at = own.slots_at + (slot - own.slots.start) * chunk;
            let mut here = vec![0; chunk as usize];
            image.read(at, &mut here);
            if let Some(i) = here.iter().zip(wanted).position(|(a, b)| a != b) {
                let what = if column < k { "data" } else { "parity" };
                return Err(format!(
                    "stripe {stripe} in slot {slot}: the {what} of column {column} on member \
                     {member} is wrong at byte {} of the member",
                    at + i as u64
                ));
            }
        }
    }
    Ok(())
}
