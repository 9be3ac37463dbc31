//! The superblock: 16 KiB that say what a member is (format.md §3).
//!
//! Three copies: A is where an epoch is prepared, B and C hold the epoch in force. They are written
//! one at a time with a flush between, so that a cut never tears all of them.

use evenkeel_journal::bytes::{
    crc_without, get_u16, get_u32, get_u64, get_u128, put_u16, put_u32, put_u64, put_u128,
};
use evenkeel_journal::units::NUMBERS_END;
use evenkeel_journal::{Buf, Lsn, MemberIndex};

use crate::codec::Level;
use crate::geometry::{
    Before, CACHE_BLOCKS_MAX, DISK_BYTES_END, Geometry, Growth, LogHome, MAX_JOURNALS,
    MEMBER_GRAIN, SUPERBLOCK_BYTES,
};
use crate::status::MemberState;

/// First bytes of a member's superblock.
pub const MAGIC: [u8; 8] = *b"EVNKEEL1";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Features that may be ignored.
pub const COMPAT_KNOWN: u64 = 0;
/// Features that must be known to write.
pub const RO_COMPAT_KNOWN: u64 = 0;
/// Features that must be known at all.
pub const INCOMPAT_KNOWN: u64 =
    JOURNAL_DEVICES | CHECKSUMS | SPARES | GROWN | GROWING | AREAS_BEHIND;
/// Incompatible feature: there are journal devices.
pub const JOURNAL_DEVICES: u64 = 1;
/// Incompatible feature: every block has a checksum.
pub const CHECKSUMS: u64 = 2;
/// Incompatible feature: the member table goes on with spares.
pub const SPARES: u64 = 4;
/// Incompatible feature: the members have grown, and hold stretches behind the first one.
pub const GROWN: u64 = 8;
/// Incompatible feature: columns were added, and stripes of the shape of before are in use.
pub const GROWING: u64 = 16;
/// Incompatible feature: columns were added at some time, and the pages lie behind the slots.
pub const AREAS_BEHIND: u64 = 32;
/// Entries for spares at most, free ones included.
pub const MAX_SPARES: usize = 32;
/// Bytes of a name at most.
pub const NAME_MAX: usize = 32;
/// Epochs that are remembered.
pub const HISTORY: usize = 64;

const AT_CRC: usize = 56;
const AT_NAME: usize = 352;
const AT_GROWTHS: usize = 384;
const GROWTH_BYTES: usize = 16;
const AT_HOST: usize = 496;
const FLAG_CLEAN: u32 = 1;
const FLAG_UNEVEN: u32 = 2;
const AT_HISTORY: usize = 512;
const AT_MEMBERS: usize = 2048;
const HISTORY_ENTRY: usize = 24;
const MEMBER_ENTRY: usize = 56;
/// What differs in the shape of before: k, then the rest behind the member table.
const AT_BEFORE_DATA: usize = 344;
const AT_PAGES_ID: usize = 16328;
const AT_BEFORE_PAGES_ID: usize = 16344;
const AT_BEFORE_STRIPES: usize = 16360;
const AT_BEFORE_PAGES: usize = 16368;
const AT_BEFORE_CHECKSUMS: usize = 16376;
/// State of an entry that names no disk.
const FREE: u8 = 0;

/// Whether a name can be that of an array.
#[must_use]
pub fn name_is_good(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=NAME_MAX).contains(&name.len()) && name.chars().all(good) && !name.starts_with(['.', '-'])
}

/// Whether an epoch counts already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Written to copy A; counts only if every survivor bears it.
    Prepared,
    /// All survivors bear it.
    InForce,
}

/// An entry of the member table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberEntry {
    /// The member's own identity.
    pub uuid: u128,
    /// Its state in this epoch.
    pub state: MemberState,
    /// The tail when it failed: what was changed at or after it is missing there. Of one that is being
    /// filled: what was changed before it is there already.
    pub failed_at: Lsn,
    /// Number of the epoch that says so; 0: none does.
    pub failed_in: u64,
    /// While it is being filled: of whom it takes the place, and how far that is.
    pub filling: Option<Filling>,
}

/// How far a member is filled that will take another one's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Filling {
    /// Index that it will have.
    pub takes: u8,
    /// Stripes before this one are whole there.
    pub next: u64,
}

impl MemberEntry {
    /// An entry for a spare that is not used.
    pub const FREE: MemberEntry = MemberEntry {
        uuid: 0,
        state: MemberState::Missing,
        failed_at: Lsn(0),
        failed_in: 0,
        filling: None,
    };

    /// An active member, just made.
    #[must_use]
    pub fn active(uuid: u128) -> MemberEntry {
        MemberEntry { uuid, state: MemberState::Active, ..MemberEntry::FREE }
    }

    /// A spare, just added.
    #[must_use]
    pub fn spare(uuid: u128) -> MemberEntry {
        MemberEntry { uuid, state: MemberState::Spare, ..MemberEntry::FREE }
    }

    /// Whether it names no disk.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.uuid == 0
    }
}

/// The superblock of one member.
#[derive(Clone, PartialEq, Debug)]
pub struct Superblock {
    /// UUID of the array.
    pub array: u128,
    /// Own index in the member table.
    pub index: u8,
    /// Number of the epoch.
    pub epoch: u64,
    /// Its random identity.
    pub epoch_id: u128,
    /// Identity of the epoch before.
    pub parent: u128,
    /// Prepared or in force.
    pub phase: Phase,
    /// Features that may be ignored, as they were found: known or not, they are kept.
    pub compat: u64,
    /// Features that must be known to write, as they were found.
    pub ro_compat: u64,
    /// The last stop emptied the log.
    pub clean: bool,
    /// Parity may not fit its data: a start that gave up a part of the log has not ended yet. The
    /// next start that writes makes it right before requests are taken.
    pub uneven: bool,
    /// Rises when the array grows.
    pub generation: u32,
    /// Shape.
    pub geometry: Geometry,
    /// Boot of the machine that holds it.
    pub boot: u128,
    /// Run directory of the daemon that holds it.
    pub run_dir: u128,
    /// Ring of the daemon that holds it; 0 for none.
    pub ring: u128,
    /// Machine whose daemon holds it; 0 if that is not known.
    pub host: u128,
    /// Seconds since 1970 when it was made.
    pub created: u64,
    /// Name.
    pub name: String,
    /// Earlier epochs in force, newest first: number and identity.
    pub history: Vec<(u64, u128)>,
    /// The members, then the journal devices, then the spares and those that are being filled.
    pub members: Vec<MemberEntry>,
}

/// Why bytes are no superblock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadSuperblock {
    /// No magic: something else or nothing.
    Absent,
    /// The magic is there, the rest is damaged.
    Damaged,
    /// It needs a newer version.
    Unsupported(String),
}

fn state_number(s: MemberState) -> u8 {
    match s {
        MemberState::Active => 1,
        MemberState::Spare => 2,
        MemberState::Rebuilding => 3,
        MemberState::Failing => 4,
        MemberState::Failed => 5,
        MemberState::Missing => 6,
        MemberState::Stale => 7,
    }
}

fn state_from(n: u8) -> Option<MemberState> {
    Some(match n {
        1 => MemberState::Active,
        2 => MemberState::Spare,
        3 => MemberState::Rebuilding,
        4 => MemberState::Failing,
        5 => MemberState::Failed,
        6 => MemberState::Missing,
        7 => MemberState::Stale,
        _ => return None,
    })
}

impl Superblock {
    /// Why this version may read the member but not write to it, if that is so.
    #[must_use]
    pub fn read_only_because(&self) -> Option<String> {
        let unknown = self.ro_compat & !RO_COMPAT_KNOWN;
        (unknown != 0).then(|| {
            format!("it uses features that this program must know to write (flags {unknown:#x})")
        })
    }

    /// Own identity.
    #[must_use]
    pub fn uuid(&self) -> u128 {
        self.members[usize::from(self.index)].uuid
    }

    /// The one that is being filled to take the place of member `member`.
    #[must_use]
    pub fn twin_of(&self, member: MemberIndex) -> Option<MemberIndex> {
        let takes = |e: &MemberEntry| {
            e.state == MemberState::Rebuilding && e.filling.is_some_and(|f| f.takes == member.0)
        };
        let spares = self.geometry.table();
        let at = self.members.iter().skip(spares).position(takes)?;
        Some(MemberIndex((spares + at) as u8))
    }

    /// Byte of copy C of the disk that bears this.
    #[must_use]
    pub fn copy_c(&self) -> u64 {
        self.geometry.superblock_c_of(MemberIndex(self.index))
    }

    /// The bytes of the copy that lies at byte `at` of member `index`.
    #[must_use]
    pub fn encode(&self, index: u8, at: u64) -> Buf {
        let mut b = Buf::zeroed(SUPERBLOCK_BYTES as usize);
        b[..8].copy_from_slice(&MAGIC);
        put_u32(&mut b, 8, VERSION);
        put_u128(&mut b, 16, self.array);
        put_u128(&mut b, 32, self.members[usize::from(index)].uuid);
        put_u64(&mut b, 48, at);
        put_u32(&mut b, 60, SUPERBLOCK_BYTES as u32);
        put_u32(&mut b, 104, u32::from(self.phase == Phase::InForce) + 1);
        let clean = if self.clean { FLAG_CLEAN } else { 0 };
        let uneven = if self.uneven { FLAG_UNEVEN } else { 0 };
        put_u32(&mut b, 108, clean | uneven);
        put_u64(&mut b, 64, self.compat);
        put_u64(&mut b, 72, self.ro_compat);
        put_u64(&mut b, 96, self.epoch);
        put_u128(&mut b, 112, self.epoch_id);
        put_u128(&mut b, 128, self.parent);
        let g = &self.geometry;
        put_u32(&mut b, 144, self.generation);
        b[148] = g.level.to_u8();
        put_u16(&mut b, 152, g.data as u16);
        put_u16(&mut b, 154, g.parity as u16);
        put_u16(&mut b, 156, g.members() as u16);
        put_u16(&mut b, 158, u16::from(index));
        put_u32(&mut b, 160, g.chunk_blocks);
        put_u32(&mut b, 164, evenkeel_journal::BLOCK as u32);
        put_u64(&mut b, 168, g.stripes);
        put_u64(&mut b, 176, g.slots);
        put_u64(&mut b, 184, crate::geometry::LOG_OFFSET);
        put_u64(&mut b, 192, g.log_rows);
        put_u64(&mut b, 200, g.pages_offset);
        put_u64(&mut b, 208, g.map_pages() + g.root_pages());
        put_u64(&mut b, 216, g.checksums_offset);
        put_u64(&mut b, 224, g.checksums_bytes());
        put_u64(&mut b, 232, g.slots_offset);
        put_u64(&mut b, 240, g.member_bytes);
        put_u64(&mut b, 248, g.cache_blocks);
        put_u128(&mut b, 256, self.boot);
        put_u128(&mut b, 272, self.run_dir);
        put_u128(&mut b, 288, self.ring);
        put_u32(&mut b, 304, u32::from(self.ring != 0));
        put_u64(&mut b, 312, self.created);
        let journals = if g.journals > 0 { JOURNAL_DEVICES } else { 0 };
        let checksums = if g.has_checksums() { CHECKSUMS } else { 0 };
        let spares = self.members.len() - g.table();
        let has_spares = if spares > 0 { SPARES } else { 0 };
        let grown = if g.growths[0].at != 0 { GROWN } else { 0 };
        let growing = if g.before.is_some() { GROWING } else { 0 };
        let behind = if g.areas_are_behind() { AREAS_BEHIND } else { 0 };
        put_u64(&mut b, 80, journals | checksums | has_spares | grown | growing | behind);
        put_u128(&mut b, AT_PAGES_ID, g.pages_id);
        if let Some(before) = &g.before {
            put_u16(&mut b, AT_BEFORE_DATA, before.data as u16);
            put_u128(&mut b, AT_BEFORE_PAGES_ID, before.pages_id);
            put_u64(&mut b, AT_BEFORE_STRIPES, before.stripes);
            put_u64(&mut b, AT_BEFORE_PAGES, before.pages_offset);
            put_u64(&mut b, AT_BEFORE_CHECKSUMS, before.checksums_offset);
        }
        for (i, growth) in g.growths.iter().enumerate() {
            let at = AT_GROWTHS + i * GROWTH_BYTES;
            put_u32(&mut b, at, growth.stripes);
            put_u32(&mut b, at + 4, growth.slots);
            put_u64(&mut b, at + 8, growth.at);
        }
        put_u16(&mut b, 320, g.journals as u16);
        b[322] = u8::from(g.log_home == LogHome::Journals);
        put_u16(&mut b, 324, spares as u16);
        put_u64(&mut b, 328, g.journal_rows);
        put_u64(&mut b, 336, g.journal_bytes);
        put_u128(&mut b, AT_HOST, self.host);
        b[AT_NAME..AT_NAME + self.name.len()].copy_from_slice(self.name.as_bytes());
        for (i, (number, id)) in self.history.iter().take(HISTORY).enumerate() {
            let at = AT_HISTORY + i * HISTORY_ENTRY;
            put_u64(&mut b, at, *number);
            put_u128(&mut b, at + 8, *id);
        }
        for (i, m) in self.members.iter().enumerate() {
            let at = AT_MEMBERS + i * MEMBER_ENTRY;
            put_u128(&mut b, at, m.uuid);
            b[at + 16] = if m.is_free() { FREE } else { state_number(m.state) };
            put_u64(&mut b, at + 24, m.failed_at.0);
            put_u64(&mut b, at + 40, m.failed_in);
            if let Some(f) = m.filling.filter(|_| m.state == MemberState::Rebuilding) {
                b[at + 17] = f.takes;
                put_u64(&mut b, at + 32, f.next);
            }
        }
        let crc = crc_without(&b, AT_CRC);
        put_u32(&mut b, AT_CRC, crc);
        b
    }

    /// The superblock in `b`, which was read at byte `at`.
    pub fn decode(b: &[u8], at: u64) -> Result<Superblock, BadSuperblock> {
        if b.len() < SUPERBLOCK_BYTES as usize || b[..8] != MAGIC {
            return Err(BadSuperblock::Absent);
        }
        if get_u32(b, AT_CRC) != crc_without(&b[..SUPERBLOCK_BYTES as usize], AT_CRC)
            || get_u64(b, 48) != at
        {
            return Err(BadSuperblock::Damaged);
        }
        if get_u32(b, 8) != VERSION {
            let v = get_u32(b, 8);
            return Err(BadSuperblock::Unsupported(format!(
                "it has format version {v}, this program knows version {VERSION}"
            )));
        }
        let incompat = get_u64(b, 80) & !INCOMPAT_KNOWN;
        if incompat != 0 {
            return Err(BadSuperblock::Unsupported(format!(
                "it uses features that this program does not know (flags {incompat:#x})"
            )));
        }
        Self::decode_fields(b).ok_or(BadSuperblock::Damaged)
    }

    fn decode_fields(b: &[u8]) -> Option<Superblock> {
        let n = usize::from(get_u16(b, 156));
        let (data, parity) = (usize::from(get_u16(b, 152)), usize::from(get_u16(b, 154)));
        let geometry = Geometry {
            level: Level::from_u8(b[148])?,
            data,
            parity,
            chunk_blocks: get_u32(b, 160),
            stripes: get_u64(b, 168),
            slots: get_u64(b, 176),
            log_rows: get_u64(b, 192),
            pages_offset: get_u64(b, 200),
            checksums_offset: get_u64(b, 216),
            slots_offset: get_u64(b, 232),
            member_bytes: get_u64(b, 240),
            cache_blocks: get_u64(b, 248),
            journals: usize::from(get_u16(b, 320)),
            log_home: match b[322] {
                0 => LogHome::Members,
                1 => LogHome::Journals,
                _ => return None,
            },
            journal_rows: get_u64(b, 328),
            journal_bytes: get_u64(b, 336),
            growths: std::array::from_fn(|i| {
                let at = AT_GROWTHS + i * GROWTH_BYTES;
                let (stripes, slots) = (get_u32(b, at), get_u32(b, at + 4));
                Growth { stripes, slots, at: get_u64(b, at + 8) }
            }),
            pages_id: get_u128(b, AT_PAGES_ID),
            before: (get_u64(b, 80) & GROWING != 0).then(|| Before {
                data: usize::from(get_u16(b, AT_BEFORE_DATA)),
                stripes: get_u64(b, AT_BEFORE_STRIPES),
                pages_offset: get_u64(b, AT_BEFORE_PAGES),
                checksums_offset: get_u64(b, AT_BEFORE_CHECKSUMS),
                pages_id: get_u128(b, AT_BEFORE_PAGES_ID),
            }),
        };
        let index = get_u16(b, 158);
        let spares = usize::from(get_u16(b, 324));
        let table = n + geometry.journals + spares;
        let sane = table <= 255
            && spares <= MAX_SPARES
            && (spares > 0) == (get_u64(b, 80) & SPARES != 0)
            && (geometry.growths[0].at != 0) == (get_u64(b, 80) & GROWN != 0)
            && journals_are_sane(&geometry, get_u64(b, 80) & JOURNAL_DEVICES != 0)
            && get_u64(b, 96) < NUMBERS_END
            && data >= 1
            && parity >= 1
            && n == data + parity
            && usize::from(index) < table
            && get_u32(b, 164) == evenkeel_journal::BLOCK as u32
            && get_u64(b, 184) == crate::geometry::LOG_OFFSET
            && (1..=256).contains(&geometry.chunk_blocks)
            && (1..1 << 40).contains(&geometry.stripes)
            && geometry.slots <= u64::from(u32::MAX - 1)
            && geometry.slots >= geometry.stripes
            && geometry.log_rows >= 16
            && geometry.log_rows < 1 << 40
            && geometry.member_bytes < DISK_BYTES_END
            && geometry.member_bytes.is_multiple_of(MEMBER_GRAIN)
            && geometry.pages_offset < DISK_BYTES_END
            && geometry.slots_offset < DISK_BYTES_END
            && geometry.checksums_offset < DISK_BYTES_END
            && geometry.areas_are_behind() == (get_u64(b, 80) & AREAS_BEHIND != 0)
            && geometry.before_is_sane()
            && geometry.areas_are_apart()
            && geometry.rows_of_log() >= geometry.least_log_rows()
            && checksums_are_sane(&geometry, get_u64(b, 80) & CHECKSUMS != 0, get_u64(b, 224))
            && geometry.cache_blocks <= CACHE_BLOCKS_MAX;
        if !sane {
            return None;
        }
        let name = &b[AT_NAME..AT_NAME + NAME_MAX];
        let name = &name[..name.iter().position(|c| *c == 0).unwrap_or(NAME_MAX)];
        let mut members = Vec::new();
        for i in 0..table {
            let entry = &b[AT_MEMBERS + i * MEMBER_ENTRY..][..MEMBER_ENTRY];
            members.push(decode_entry(entry, i + spares >= table, n)?);
        }
        let fills = |m: &MemberEntry| m.filling.map(|f| f.takes);
        let mut takes: Vec<u8> = members.iter().filter_map(fills).collect();
        takes.sort_unstable();
        if takes.windows(2).any(|t| t[0] == t[1]) || members[usize::from(index)].is_free() {
            return None;
        }
        let history = (0..HISTORY)
            .map(|i| AT_HISTORY + i * HISTORY_ENTRY)
            .map(|at| (get_u64(b, at), get_u128(b, at + 8)))
            .take_while(|(_, id)| *id != 0);
        Some(Superblock {
            array: get_u128(b, 16),
            index: index as u8,
            epoch: get_u64(b, 96),
            epoch_id: get_u128(b, 112),
            parent: get_u128(b, 128),
            phase: match get_u32(b, 104) {
                1 => Phase::Prepared,
                2 => Phase::InForce,
                _ => return None,
            },
            compat: get_u64(b, 64),
            ro_compat: get_u64(b, 72),
            clean: get_u32(b, 108) & FLAG_CLEAN != 0,
            uneven: get_u32(b, 108) & FLAG_UNEVEN != 0,
            generation: get_u32(b, 144),
            geometry,
            boot: get_u128(b, 256),
            run_dir: get_u128(b, 272),
            ring: get_u128(b, 288),
            host: get_u128(b, AT_HOST),
            created: get_u64(b, 312),
            name: String::from_utf8(name.to_vec()).ok().filter(|n| name_is_good(n))?,
            history: history.collect(),
            members,
        })
    }
}

/// An entry of the member table of an array of `n` members.
fn decode_entry(b: &[u8], is_spare: bool, n: usize) -> Option<MemberEntry> {
    let uuid = get_u128(b, 0);
    if is_spare && b[16] == FREE {
        return (uuid == 0).then_some(MemberEntry::FREE);
    }
    let state = state_from(b[16])?;
    let filling = Filling { takes: b[17], next: get_u64(b, 32) };
    let is_filled = state == MemberState::Rebuilding;
    // Only a spare is filled, and none is in use as a member.
    let sane = if is_spare {
        !state.serves() && (!is_filled || usize::from(filling.takes) < n)
    } else {
        state.serves() || !state.bears_epochs()
    };
    if uuid == 0 || !sane {
        return None;
    }
    let filling = is_filled.then_some(filling);
    Some(MemberEntry {
        uuid,
        state,
        failed_at: Lsn(get_u64(b, 24)),
        failed_in: get_u64(b, 40),
        filling,
    })
}

/// Whether the checksum area is as large as it must be, and is there if and only if the flag says so.
fn checksums_are_sane(g: &Geometry, flag: bool, bytes: u64) -> bool {
    if !flag {
        return !g.has_checksums() && bytes == 0;
    }
    g.has_checksums() && bytes == g.checksums_bytes()
}

/// Whether what a superblock says of journal devices fits together.
fn journals_are_sane(g: &Geometry, flag: bool) -> bool {
    if g.journals == 0 {
        return !flag
            && g.log_home == LogHome::Members
            && (g.journal_rows, g.journal_bytes) == (0, 0);
    }
    flag && g.journals <= MAX_JOURNALS
        && (16..1 << 40).contains(&g.journal_rows)
        && g.journal_bytes < DISK_BYTES_END
        && g.journal_bytes.is_multiple_of(MEMBER_GRAIN)
        && crate::geometry::LOG_OFFSET
            + g.journal_rows * evenkeel_journal::BLOCK as u64
            + SUPERBLOCK_BYTES
            <= g.journal_bytes
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A superblock of a raid6 4+2 with all members active.
    pub(crate) fn sample() -> Superblock {
        let geometry =
            Geometry::plan(Level::Raid6, 4, 2, 65536, 256 << 20, None, None, true).expect("fits");
        let member = |i: u128| MemberEntry::active(100 + i);
        Superblock {
            array: 7,
            index: 0,
            epoch: 5,
            epoch_id: 55,
            parent: 44,
            phase: Phase::InForce,
            compat: 0x60,
            ro_compat: 0,
            clean: false,
            uneven: true,
            generation: 1,
            geometry,
            boot: 1,
            run_dir: 2,
            ring: 3,
            host: 8,
            created: 4,
            name: "data".into(),
            history: vec![(4, 44), (3, 33)],
            members: (0..6).map(member).collect(),
        }
    }

    #[test]
    fn journal_devices_come_back_and_nonsense_does_not() {
        let mut s = sample();
        s.geometry = s.geometry.with_journals(2, 16 << 20, None).expect("fits");
        let extra = (0..2).map(|i| MemberEntry { uuid: 900 + i, ..s.members[0] });
        s.members.extend(extra.collect::<Vec<_>>());
        for (index, home) in [(0, LogHome::Journals), (7, LogHome::Journals), (7, LogHome::Members)]
        {
            s.geometry.log_home = home;
            let b = s.encode(index, 4096);
            let back = Superblock::decode(&b, 4096).expect("whole");
            assert_eq!(back, Superblock { index, ..s.clone() });
            assert_eq!(back.copy_c() == (16 << 20) - 16384, index == 7);
        }
        let b = s.encode(7, 4096);
        // The flag, too many, nowhere, no rows, too many rows, a device that is too small.
        for (at, value) in [(80, 0), (320, 9), (322, 2), (328, 0), (331, 1), (339, 0)] {
            let mut bad = b.to_vec();
            bad[at] = value;
            if at == 328 {
                bad[328..336].fill(0);
            }
            let crc = crc_without(&bad, AT_CRC);
            put_u32(&mut bad, AT_CRC, crc);
            assert_eq!(Superblock::decode(&bad, 4096), Err(BadSuperblock::Damaged), "{at}");
        }
    }

    #[test]
    fn spares_come_back_and_nonsense_does_not() {
        let mut s = sample();
        let filling = Some(Filling { takes: 2, next: 77 });
        let twin =
            MemberEntry { state: MemberState::Rebuilding, filling, ..MemberEntry::spare(900) };
        s.members.extend([twin, MemberEntry::FREE, MemberEntry::spare(901)]);
        for index in [0, 6, 8] {
            let b = s.encode(index, 4096);
            let back = Superblock::decode(&b, 4096).expect("whole");
            assert_eq!(back, Superblock { index, ..s.clone() });
            assert_eq!(back.twin_of(MemberIndex(2)), Some(MemberIndex(6)));
            assert_eq!(back.twin_of(MemberIndex(1)), None);
        }
        let mut without = s.clone();
        without.members.truncate(6);
        for (what, change) in [
            ("the index of a free entry", (|s, _| s.index = 7) as fn(&mut Superblock, u8)),
            ("a spare that is active", |s, _| s.members[8].state = MemberState::Active),
            ("a member that is a spare", |s, _| s.members[1].state = MemberState::Spare),
            ("a member that is being filled", |s, _| s.members[1] = s.members[6]),
            ("nobody's place", |s, _| s.members[6].filling = Some(Filling { takes: 6, next: 0 })),
            ("one place twice", |s, _| s.members[7] = MemberEntry { uuid: 5, ..s.members[6] }),
            ("a member without a name", |s, _| s.members[3].uuid = 0),
        ] {
            let mut bad = s.clone();
            change(&mut bad, 0);
            let b = bad.encode(bad.index, 4096);
            assert_eq!(Superblock::decode(&b, 4096), Err(BadSuperblock::Damaged), "{what}");
        }
        let mut b = s.encode(0, 4096).to_vec();
        put_u16(&mut b, 324, MAX_SPARES as u16 + 1);
        let crc = crc_without(&b, AT_CRC);
        put_u32(&mut b, AT_CRC, crc);
        assert_eq!(Superblock::decode(&b, 4096), Err(BadSuperblock::Damaged));
    }

    #[test]
    fn a_superblock_comes_back_and_any_flip_is_noticed() {
        let s = sample();
        let b = s.encode(3, 4096);
        let back = Superblock::decode(&b, 4096).expect("whole");
        assert_eq!(back, Superblock { index: 3, ..s });
        assert_eq!(Superblock::decode(&b, 65536), Err(BadSuperblock::Damaged));
        for at in (0..b.len()).step_by(7) {
            let mut c = b.to_vec();
            c[at] ^= 0x10;
            assert!(Superblock::decode(&c, 4096).is_err(), "flip at {at}");
        }
    }

    #[test]
    fn unknown_features_refuse_or_forbid_writing_or_are_kept() {
        let s = sample();
        let sealed = |mut b: Vec<u8>| {
            let crc = crc_without(&b, AT_CRC);
            put_u32(&mut b, AT_CRC, crc);
            b
        };
        let with = |at: usize, flag: u64| {
            let mut b = s.encode(0, 4096).to_vec();
            put_u64(&mut b, at, flag);
            sealed(b)
        };
        for bit in 0..64 {
            let incompat = Superblock::decode(&with(80, CHECKSUMS ^ 1 << bit), 4096);
            if 1 << bit & INCOMPAT_KNOWN != 0 {
                // Known, but there are no journal devices, and there are checksums.
                assert_eq!(incompat, Err(BadSuperblock::Damaged), "bit {bit}");
            } else {
                assert!(matches!(incompat, Err(BadSuperblock::Unsupported(_))), "bit {bit}");
            }
            let ro = Superblock::decode(&with(72, 1 << bit), 4096).expect("it can be read");
            assert!(ro.read_only_because().is_some(), "bit {bit}");
            let compat = Superblock::decode(&with(64, 1 << bit), 4096).expect("it can be used");
            assert_eq!((compat.compat, compat.read_only_because()), (1 << bit, None));
            assert_eq!(compat.encode(0, 4096)[64..72], (1u64 << bit).to_le_bytes());
        }
        let mut b = s.encode(0, 4096).to_vec();
        put_u64(&mut b, 248, CACHE_BLOCKS_MAX + 1);
        assert_eq!(Superblock::decode(&sealed(b), 4096), Err(BadSuperblock::Damaged));
    }
}
