//! A small array whose content is known, what a start makes of its disks after something was done
//! to them, and the places of the log where something can be done.
//!
//! For tests of damage and refusals: what was written is in [`Running::content`], so no oracle is
//! needed.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel_journal::commit::ColumnHeader;
use evenkeel_journal::{BLOCK, Buf, Slice};
use evenkeel_raid::{Ack, Array, ArrayError, ErrorKind, RequestError, StartOptions};

use crate::evenkeel::{Evenkeel, setups};
use crate::sim::{Fault, Image, Mode, SimWorld, Simulation, Snapshot, Survivors};
use crate::subject::{Setup, Subject};

/// Simulated time that a run may take.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Bytes of a sector: what a write is torn at.
pub const SECTOR: usize = 512;
/// Where the log begins.
pub const LOG_OFFSET: u64 = 131_072;
/// Bytes of a superblock.
pub const SUPERBLOCK: u64 = 16384;

/// The geometry with this name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn setup(name: &str) -> Setup {
    setups().into_iter().find(|s| s.name == name).expect("a geometry")
}

/// How to start.
#[must_use]
pub fn options(ack: Ack, read_only: bool) -> StartOptions {
    StartOptions { ack, read_only, ..StartOptions::default() }
}

/// Where the three superblock copies of a member lie.
#[must_use]
pub fn superblocks(setup: &Setup) -> [u64; 3] {
    [4096, 65536, setup.member - SUPERBLOCK]
}

/// An array that runs, and what it holds.
pub struct Running {
    /// Its world.
    pub sim: Simulation,
    /// It.
    pub array: Array<SimWorld>,
    /// What was written.
    pub content: Vec<u8>,
    stripe_blocks: usize,
}

impl Running {
    /// A new array whose first three stripes are whole and in their slots.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(setup: &Setup, seed: u64, ack: Ack) -> Running {
        let stripe_blocks = setup.stripe() as usize / BLOCK;
        let mut running = Running::empty(setup, seed, &options(ack, false));
        for stripe in 0..3 {
            running.write(stripe * stripe_blocks, stripe_blocks, stripe as u8 + 1);
        }
        running
    }

    /// A new array with nothing in it.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn empty(setup: &Setup, seed: u64, how: &StartOptions) -> Running {
        let (setup, how) = (setup.clone(), *how);
        let stripe_blocks = setup.stripe() as usize / BLOCK;
        let sim = Simulation::new(seed, &setup.empty());
        let (world, disks) = (sim.world(), sim.disks());
        let array = sim.run(LIMIT, async move {
            Evenkeel::create(&world, &disks, &setup).await.expect("created");
            Array::start(&world, &disks, &how, &|_| ()).await.expect("started")
        });
        let array = array.expect("it runs");
        let content = vec![0; array.size_bytes() as usize];
        Running { sim, array, content, stripe_blocks }
    }

    /// The same array, with the same content, after another start.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn again(&self, seed: u64, from: &Survivors, how: &StartOptions) -> Running {
        let how = *how;
        let sim = Simulation::new(seed, from);
        let (world, disks) = (sim.world(), sim.disks());
        let array = sim.run(LIMIT, async move {
            Array::start(&world, &disks, &how, &|_| ()).await.expect("started")
        });
        let array = array.expect("it runs");
        Running { sim, array, content: self.content.clone(), stripe_blocks: self.stripe_blocks }
    }

    /// Reads blocks.
    ///
    /// # Errors
    /// As the array says.
    ///
    /// # Panics
    /// If the world ends.
    pub fn read(&self, block: usize, count: usize) -> Result<Vec<u8>, RequestError> {
        let array = self.array.clone();
        let ran = self.sim.run(LIMIT, async move {
            let (done, buf) = array.read((block * BLOCK) as u64, Buf::new(count * BLOCK)).await;
            done.map(|()| buf.to_vec())
        });
        ran.expect("it ends")
    }

    /// Blocks of a stripe.
    #[must_use]
    pub fn stripe_blocks(&self) -> usize {
        self.stripe_blocks
    }

    /// Writes blocks; every block of it is different.
    ///
    /// # Panics
    /// If the array refuses.
    pub fn write(&mut self, block: usize, count: usize, value: u8) {
        let bytes: Vec<u8> = (0..count * BLOCK)
            .map(|i| value.wrapping_mul(31).wrapping_add((i / 7 + i / BLOCK) as u8) | 1)
            .collect();
        let at = block * BLOCK;
        self.content[at..at + bytes.len()].copy_from_slice(&bytes);
        let array = self.array.clone();
        let done = self
            .sim
            .run(LIMIT, async move { array.write(at as u64, Slice::copy_of(&bytes), false).await });
        assert_eq!(done, Ok(Ok(())));
    }

    /// Some parts of stripes: one block, several, and over the end of a stripe.
    pub fn write_parts(&mut self) {
        let s = self.stripe_blocks;
        let parts = [(1, 1), (s + 2, 3), (3 * s - 2, 4), (5, 1)];
        for (value, (block, count)) in parts.into_iter().enumerate() {
            self.write(block, count, value as u8 + 11);
        }
    }

    /// Brings everything dirty into its slots.
    ///
    /// # Panics
    /// If that fails.
    pub fn destage(&self) {
        let array = self.array.clone();
        assert_eq!(self.sim.run(LIMIT, async move { array.destage_all().await }), Ok(Ok(())));
    }

    /// Fails a member.
    ///
    /// # Panics
    /// If that is refused.
    pub fn fail(&self, disk: usize) {
        let array = self.array.clone();
        let path = crate::sim::path_of(disk);
        let done = self.sim.run(LIMIT, async move {
            let member = array.member_by_path(&path).expect("a member");
            array.fail_member(member).await.map_err(|e| e.message)
        });
        assert_eq!(done, Ok(Ok(())));
    }

    /// Stops cleanly.
    ///
    /// # Panics
    /// If that fails.
    pub fn stop(&self) {
        let array = self.array.clone();
        let done = self.sim.run(LIMIT, async move { array.stop().await.map_err(|e| e.message) });
        assert_eq!(done, Ok(Ok(())));
    }

    /// Lets time pass.
    ///
    /// # Panics
    /// If the world ends.
    pub fn sleep(&self, millis: u64) {
        let world = self.sim.world();
        let sleep = async move {
            evenkeel_journal::World::sleep(&world, Duration::from_millis(millis)).await;
        };
        assert_eq!(self.sim.run(LIMIT, sleep), Ok(()));
    }
}

/// What became of a start.
pub struct Started {
    /// What the device holds, or why there is none.
    pub content: Result<Vec<u8>, ErrorKind>,
    /// Why there is none, in words; else what was said.
    pub said: String,
    /// Members that may still be lost.
    pub can_lose: usize,
    /// What is on the disks afterwards, with the array still running.
    pub left: Snapshot,
    /// Writes, flushes and discards that were asked for.
    pub writes: u64,
    /// What was asked of each disk, in the order given.
    pub writes_of: Vec<u64>,
    /// What is on the disks after a stop, if that was asked for.
    pub stopped: Option<Snapshot>,
    /// What would be left at every event, if that was asked for.
    pub shots: Vec<Snapshot>,
}

/// What to do beside a start.
#[derive(Clone, Default)]
pub struct Beside {
    /// Disks that fail every operation.
    pub broken: Vec<usize>,
    /// Stop at the end.
    pub stop: bool,
    /// Keep a snapshot of every event.
    pub record: bool,
}

/// Starts and reads everything.
#[must_use]
pub fn start(from: &Survivors, how: StartOptions) -> Started {
    start_with(from, how, &Beside::default())
}

/// Starts and reads everything, and more.
///
/// # Panics
/// If the world ends in between.
#[must_use]
pub fn start_with(from: &Survivors, how: StartOptions, beside: &Beside) -> Started {
    // Another seed for each, or two starts would make rings, epochs and runs of one name.
    let mut parts = vec![from.boot, from.rings.len() as u64, u64::from(how.read_only)];
    parts.extend(from.rings.keys().next_back().map(|id| *id as u64));
    for disk in &from.disks {
        let image = disk.view();
        let epochs = [4096, 65536].map(|at| if at < 4096 * image.pages() as u64 { at } else { 0 });
        parts.extend([disk.id as u64, u64_at(&image, epochs[0] + 96)]);
        parts.push(u64_at(&image, epochs[1] + 96));
    }
    let sim = Simulation::new(crate::rng::hash(&parts), from);
    let (world, disks) = (sim.world(), sim.disks());
    beside.broken.iter().for_each(|disk| world.set_fault(*disk, Some(Fault::Io)));
    if beside.record {
        sim.record();
    }
    type Ran = Result<(Array<SimWorld>, Vec<u8>), ArrayError>;
    let ran: Result<Ran, _> = sim.run(LIMIT, async move {
        let array = Array::start(&world, &disks, &how, &|_| ()).await?;
        let mut content = Vec::new();
        while (content.len() as u64) < array.size_bytes() {
            let rest = array.size_bytes() as usize - content.len();
            let (done, buf) = array.read(content.len() as u64, Buf::new(rest.min(1 << 20))).await;
            done.expect("it reads");
            content.extend_from_slice(&buf);
        }
        Ok((array, content))
    });
    let ran = ran.unwrap_or_else(|stop| panic!("the start did not end: {stop}"));
    let writes_of: Vec<u64> =
        sim.counters().iter().map(|c| c.writes + c.flushes + c.discards).collect();
    let left = sim.snapshot();
    let (content, said, can_lose, stopped) = match ran {
        Err(e) => (Err(e.kind), e.message, 0, None),
        Ok((array, content)) => {
            let (said, can_lose) = (array.notices().join("\n"), array.can_lose());
            let stopped = beside.stop.then(|| {
                let done = sim.run(LIMIT, async move { array.stop().await.map_err(|e| e.message) });
                assert_eq!(done, Ok(Ok(())));
                sim.snapshot()
            });
            (Ok(content), said, can_lose, stopped)
        }
    };
    let shots = if beside.record { sim.recorded() } else { Vec::new() };
    let writes = writes_of.iter().sum();
    Started { content, said, can_lose, left, writes, writes_of, stopped, shots }
}

/// Asserts that a start left the disks, and the rings that were there, as they were.
///
/// # Panics
/// If not.
pub fn assert_untouched(from: &Survivors, started: &Started, what: &str) {
    assert_eq!(started.writes, 0, "{what}: something was written");
    let left = started.left.leave();
    for (was, is) in from.disks.iter().zip(&left.disks) {
        assert_eq!((was.id, was.digest()), (is.id, is.digest()), "{what}: a disk has changed");
    }
    for (id, ring) in &from.rings {
        let is = left.rings.get(id).map(Image::digest);
        assert_eq!(is, Some(ring.digest()), "{what}: a ring has changed");
    }
}

/// Asserts that a start was refused like this, said so, and left everything as it was.
///
/// # Panics
/// If not.
pub fn assert_refused(
    from: &Survivors,
    started: &Started,
    kind: ErrorKind,
    words: &str,
    what: &str,
) {
    let said = &started.said;
    assert_eq!(started.content.as_ref().err(), Some(&kind), "{what}: {said}");
    assert!(said.contains(words), "{what}: \"{words}\" is not said: {said}");
    assert!(said.contains("Nothing was written"), "{what}: {said}");
    assert_untouched(from, started, what);
}

/// Asserts that a start gave this content.
///
/// # Panics
/// If not.
pub fn assert_content(got: &Result<Vec<u8>, ErrorKind>, wanted: &[u8], what: &str) {
    match got {
        Err(kind) => panic!("{what}: the start was refused ({kind:?})"),
        Ok(got) => {
            let at = got.iter().zip(wanted).position(|(a, b)| a != b);
            assert_eq!((at, got.len()), (None, wanted.len()), "{what}: first wrong byte");
        }
    }
}

/// A column of the log.
#[derive(Clone, Debug)]
pub struct Column {
    /// The disk that it lies on.
    pub disk: usize,
    /// The blocks that it takes, header first: byte of the disk.
    pub blocks: Vec<u64>,
    /// Its header.
    pub header: ColumnHeader,
}

/// A number of eight bytes.
#[must_use]
pub fn u64_at(image: &Image, at: u64) -> u64 {
    let mut b = [0; 8];
    image.read(at, &mut b);
    u64::from_le_bytes(b)
}

/// Rows of the log, as the superblock of a disk says.
#[must_use]
pub fn log_rows(from: &Survivors) -> u64 {
    u64_at(&from.disks[0].view(), 4096 + 192)
}

/// All columns of the log by commit, oldest first.
#[must_use]
pub fn columns(from: &Survivors) -> BTreeMap<u64, Vec<Column>> {
    let mut found: BTreeMap<u64, Vec<Column>> = BTreeMap::new();
    for disk in &from.disks {
        let image = disk.view();
        let mut id = [0; 16];
        image.read(4096 + 16, &mut id);
        let rows = u64_at(&image, 4096 + 192);
        for row in 0..rows {
            let mut block = vec![0; BLOCK];
            image.read(LOG_OFFSET + row * BLOCK as u64, &mut block);
            let header = ColumnHeader::decode(&block, u128::from_le_bytes(id), row);
            let Ok(Some(header)) = header else { continue };
            let column = usize::from(header.column);
            let data = column < usize::from(header.width);
            let payload =
                if data { header.blocks_in(column) } else { header.rows as usize - 1 } as u64;
            let byte = |i: u64| LOG_OFFSET + (row + i) % rows * BLOCK as u64;
            let blocks = (0..=payload).map(byte).collect();
            let column = Column { disk: disk.id, blocks, header };
            found.entry(column.header.number.0).or_default().push(column);
        }
    }
    found
}

/// The oldest commit that replay needs, and the last one that a header knows as durable.
///
/// # Panics
/// If there are no commits.
#[must_use]
pub fn kept(all: &BTreeMap<u64, Vec<Column>>) -> (u64, u64) {
    let newest = &all.values().next_back().expect("there are commits")[0].header;
    let headers = all.values().flatten().map(|c| c.header.durable.0);
    (newest.tail.0, headers.max().expect("there are headers"))
}

/// Flips a bit of a disk.
pub fn flip(from: &mut Survivors, disk: usize, at: u64) {
    for d in from.disks.iter_mut().filter(|d| d.id == disk) {
        let image = d.medium_mut();
        let mut b = [0];
        image.read(at, &mut b);
        image.write(at, &[b[0] ^ 0x10]);
    }
}

/// The bytes of a column, or of its place in another image.
///
/// # Panics
/// If its disk is not there.
#[must_use]
pub fn bytes_of(from: &Survivors, c: &Column) -> Vec<u8> {
    let image = from.disks.iter().find(|d| d.id == c.disk).expect("it is there").view();
    let mut bytes = vec![0; c.blocks.len() * BLOCK];
    for (block, at) in bytes.chunks_mut(BLOCK).zip(&c.blocks) {
        image.read(*at, block);
    }
    bytes
}

/// Puts bytes into the place of a column.
///
/// # Panics
/// If its disk is not there.
pub fn put(from: &mut Survivors, c: &Column, bytes: &[u8]) {
    let disk = from.disks.iter_mut().find(|d| d.id == c.disk).expect("it is there");
    for (block, at) in bytes.chunks(BLOCK).zip(&c.blocks) {
        disk.medium_mut().write(*at, block);
    }
}

/// Overwrites the whole log area of some disks.
pub fn overwrite_log(from: &mut Survivors, disks: &[usize]) {
    let garbage = vec![0xa5; log_rows(from) as usize * BLOCK];
    for d in from.disks.iter_mut().filter(|d| disks.contains(&d.id)) {
        d.medium_mut().write(LOG_OFFSET, &garbage);
    }
}

/// A crash by loss of power that keeps what was flushed.
#[must_use]
pub fn after_power_loss(running: &Running) -> Survivors {
    running.sim.snapshot().survive(Mode::PowerNone)
}
