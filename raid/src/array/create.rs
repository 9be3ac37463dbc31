//! A new array: superblocks, root pages and the first commit of the log, on the members or on journal
//! devices; spares bear superblocks alone. Nothing else is written, whatever the size: no stripe has a
//! slot, so nothing has to be in sync.

use evenkeel_journal::log::{Journal, LogStart};
use evenkeel_journal::record::Record;
use evenkeel_journal::ring::{Ring, ring_bytes};
use evenkeel_journal::{Buf, CommitNumber, Disk, Lsn, MemberIndex, World};

use crate::codec::Code;
use crate::epoch::Found;
use crate::error::{ArrayError, ErrorKind};
use crate::geometry::{Geometry, MEMBER_GRAIN, SUPERBLOCK_BYTES};
use crate::map::{Map, write_pages};
use crate::members::Members;
use crate::options::CreateOptions;
use crate::superblock::{MAX_SPARES, MemberEntry, NAME_MAX, Phase, Superblock, name_is_good};

/// What `create` made.
#[derive(Clone, Debug)]
pub struct Created {
    /// UUID of the array.
    pub uuid: u128,
    /// Bytes of the device.
    pub size_bytes: u64,
    /// Bytes of the log on every device that holds it.
    pub log_bytes: u64,
    /// Bytes of the cache.
    pub cache_bytes: u64,
}

/// Makes an array of `disks`, in this order.
///
/// # Errors
/// Before anything is written: usage, too small, or a disk that is a member already (unless
/// forced).
pub async fn create<W: World>(
    world: &W,
    disks: &[W::Disk],
    o: &CreateOptions,
) -> Result<Created, ArrayError> {
    create_with_journals(world, disks, &[], &[], o).await
}

/// The shape of an array on disks and journal devices of these sizes.
///
/// # Errors
/// Too small, or not possible at all.
pub fn plan(o: &CreateOptions, disks: &[u64], journals: &[u64]) -> Result<Geometry, ArrayError> {
    let smallest = |sizes: &[u64]| sizes.iter().copied().min().unwrap_or(0);
    // Beside journal devices the smallest log of the members' own is enough.
    let own = if journals.is_empty() { o.log_bytes } else { Some(0) };
    let g = Geometry::plan(
        o.level,
        o.data,
        o.parity,
        o.chunk_bytes,
        smallest(disks),
        own,
        o.cache_bytes,
        o.checksums,
    )?;
    if journals.is_empty() {
        return Ok(g);
    }
    g.with_journals(journals.len(), smallest(journals), o.log_bytes)
}

/// Makes an array of `disks`, in this order, with its log on `journals`, if there are any, and `spares`
/// that take the places of members that fail.
///
/// # Errors
/// As [`create`].
pub async fn create_with_journals<W: World>(
    world: &W,
    disks: &[W::Disk],
    journals: &[W::Disk],
    spares: &[W::Disk],
    o: &CreateOptions,
) -> Result<Created, ArrayError> {
    let usage = |m: String| Err(ArrayError::new(ErrorKind::Usage, m));
    if !name_is_good(&o.name) {
        return usage(format!(
            "\"{}\" cannot be a name: 1 to {NAME_MAX} letters, digits, dots, underscores or \
             hyphens, not beginning with a dot or hyphen.",
            o.name
        ));
    }
    let code = Code::new(o.level, o.data, o.parity).map_err(|e| {
        ArrayError::new(ErrorKind::Usage, format!("This shape is not possible: {e}."))
    })?;
    if disks.len() != o.data + o.parity {
        return usage(format!(
            "{} data and {} parity chunks need {} disks; {} were given.",
            o.data,
            o.parity,
            o.data + o.parity,
            disks.len()
        ));
    }
    let sizes = |disks: &[W::Disk]| disks.iter().map(|d| d.facts().bytes).collect::<Vec<_>>();
    let geometry = plan(o, &sizes(disks), &sizes(journals))?;
    if spares.len() > MAX_SPARES || geometry.table() + spares.len() > 255 {
        return usage(format!(
            "{} spares are too many: there is room for {}.",
            spares.len(),
            MAX_SPARES.min(255 - geometry.table())
        ));
    }
    for facts in spares.iter().map(Disk::facts) {
        geometry.takes_spare(&facts.path, facts.bytes)?;
    }
    let disks: Vec<W::Disk> = disks.iter().chain(journals).chain(spares).cloned().collect();
    for d in &disks {
        if let Ok(found) = super::start::find(d).await
            && !o.force
        {
            return Err(occupied(&d.facts().path, &found));
        }
    }
    let id = || u128::from(world.random()) << 64 | u128::from(world.random());
    let uuid = id();
    let table = geometry.table();
    let entry = |i| if i < table { MemberEntry::active(id()) } else { MemberEntry::spare(id()) };
    let superblock = Superblock {
        array: uuid,
        index: 0,
        epoch: 0,
        epoch_id: id(),
        parent: 0,
        phase: Phase::InForce,
        compat: 0,
        ro_compat: 0,
        clean: true,
        uneven: false,
        generation: 1,
        geometry,
        boot: 0,
        run_dir: 0,
        ring: 0,
        host: 0,
        created: world.wall_clock(),
        name: o.name.clone(),
        history: Vec::new(),
        members: (0..disks.len()).map(entry).collect(),
    };
    let all: Vec<_> = disks.iter().cloned().map(Some).collect();
    let members = Members::new(world, code, superblock, all, false);
    let gone = |what: &str| {
        ArrayError::new(
            ErrorKind::Failed,
            format!(
                "{what} could not be written: a disk failed, or the file system under one is full. \
                 The array was not made. Make room or change the disk, then create it again."
            ),
        )
    };
    // The old superblocks go first: a create that is cut leaves no array, old or new.
    wipe(&members, &geometry, disks.len()).await.map_err(|_| gone("The superblocks"))?;
    for (index, d) in disks.iter().enumerate() {
        // The end of a disk that is larger than the smallest may bear an older array's copy C.
        let end = d.facts().bytes / MEMBER_GRAIN * MEMBER_GRAIN - SUPERBLOCK_BYTES;
        if end > geometry.superblock_c_of(MemberIndex(index as u8)) {
            let zeros = Buf::zeroed(SUPERBLOCK_BYTES as usize).freeze();
            let wiped = match d.write(end, vec![zeros]).await {
                Ok(()) => d.flush().await,
                failed => failed,
            };
            wiped.map_err(|_| gone("The end of a disk"))?;
        }
    }
    let map = Map::empty(geometry, uuid);
    for root in 0..geometry.root_pages() {
        let page = map.root_page(root, Lsn(0));
        write_pages(&members, &geometry, &[page]).await.map_err(|_| gone("The map"))?;
    }
    members.flush_members().await.map_err(|_| gone("The map"))?;
    let ring_id = id();
    let memory = world.create_ring(ring_id, ring_bytes(16)).map_err(|e| {
        ArrayError::new(
            ErrorKind::Failed,
            format!("{} The array was not made.", no_ring_memory(ring_bytes(16), &e)),
        )
    })?;
    let incarnation = world.random() | 1;
    let ring = Ring::format(memory, uuid, ring_id, incarnation, 16);
    let start = LogStart {
        incarnation,
        number: CommitNumber(1),
        prev: CommitNumber(0),
        prev_crc: 0,
        row: 0,
        lsn: Lsn(1),
        kept: Vec::new(),
        first_lsn: Lsn(1),
    };
    let journal = Journal::new(world, &members, geometry.log(uuid), ring, &start);
    journal.spawn();
    journal.adopt(Lsn(1), &Record::Checkpoint { incarnation }, Vec::new(), true);
    let logged = journal.durable(Lsn(1)).await;
    let closed = journal.close().await;
    let _ = world.remove_ring(ring_id);
    logged.and(closed).map_err(|_| gone("The log"))?;
    members.advance_epoch(|_| ()).await.map_err(|_| gone("The superblocks"))?;
    if !(0..disks.len() as u8).all(|m| members.is_bearer(MemberIndex(m))) {
        return Err(gone("Everything"));
    }
    Ok(Created {
        uuid,
        size_bytes: geometry.device_blocks() * evenkeel_journal::BLOCK as u64,
        log_bytes: geometry.rows_of_log() * evenkeel_journal::BLOCK as u64,
        cache_bytes: geometry.cache_blocks * evenkeel_journal::BLOCK as u64,
    })
}

/// Why there is no memory for a ring, and what to do.
pub(super) fn no_ring_memory(bytes: usize, e: &std::io::Error) -> String {
    format!(
        "The ring's memory could not be had: {e}. It takes {bytes} bytes of shared memory: make room in \
         /dev/shm, or make that larger (mount -o remount,size=... /dev/shm)."
    )
}

async fn wipe<W: World>(
    members: &Members<W>,
    g: &Geometry,
    all: usize,
) -> Result<(), evenkeel_journal::log::Halted> {
    let zeros = evenkeel_journal::Buf::zeroed(crate::geometry::LOG_OFFSET as usize).freeze();
    let last = zeros.part(0, crate::geometry::SUPERBLOCK_BYTES as usize);
    for m in (0..all as u8).map(MemberIndex) {
        members.write(m, 0, vec![zeros.clone()]).await?;
        members.write(m, g.superblock_c_of(m), vec![last.clone()]).await?;
    }
    members.flush().await?;
    // Whoever is no member yet is flushed by name.
    members.flush_twins((g.table() as u8..all as u8).map(MemberIndex).collect()).await
}

fn occupied(path: &str, found: &Found) -> ArrayError {
    let s = &found.copies[0];
    ArrayError::new(
        ErrorKind::Occupied,
        format!(
            "{path} is a member of the array {} ({}). Nothing was written. To give up what is on \
             it, create with --force.",
            s.name,
            uuid::Uuid::from_u128(s.array)
        ),
    )
}
