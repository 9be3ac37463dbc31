//! Arrays of many members, up to the 255 that a member table, a commit's list of columns and a code
//! have room for: made, written, crashed, started without as many members as may be lost, stopped
//! and started again.

use std::time::Duration;

use evenkeel_journal::{Buf, Slice};
use evenkeel_raid::codec::Level;
use evenkeel_raid::{Ack, Array, CreateOptions, StartOptions, create};
use evenkeel_tests::rng::Rng;
use evenkeel_tests::sim::{Mode, SimDisk, SimWorld, Simulation, Survivors};

/// Simulated time that a run may take.
const LIMIT: Duration = Duration::from_secs(3600);
const BLOCK: u64 = 4096;

async fn start(world: &SimWorld, disks: &[SimDisk], accept_missing: bool) -> Array<SimWorld> {
    let options = StartOptions { ack: Ack::Durable, accept_missing, ..StartOptions::default() };
    Array::start(world, disks, &options, &|_| ()).await.expect("it starts")
}

async fn read(array: &Array<SimWorld>) -> Vec<u8> {
    let mut all = Vec::new();
    while (all.len() as u64) < array.size_bytes() {
        let len = (1 << 20).min(array.size_bytes() - all.len() as u64);
        let (done, buf) = array.read(all.len() as u64, Buf::new(len as usize)).await;
        done.expect("read");
        all.extend_from_slice(&buf);
    }
    all
}

/// Writes of a block, of a few, of stripes and of the largest size, at places by seed. Gives what
/// the device holds afterwards.
async fn write(array: &Array<SimWorld>, rng: &mut Rng, mut content: Vec<u8>) -> Vec<u8> {
    let size = array.size_bytes();
    for blocks in [1, 1, 3, 40, 1, 256, 2, 256] {
        let len = (blocks * BLOCK).min(size);
        let at = rng.below(size / BLOCK - len / BLOCK + 1) * BLOCK;
        let fill = 1 + rng.below(255) as u8;
        let data: Vec<u8> = (0..len).map(|i| fill ^ (i / 512) as u8).collect();
        array.write(at, Slice::copy_of(&data), false).await.expect("written");
        content[at as usize..][..data.len()].copy_from_slice(&data);
    }
    content
}

/// One array, through all of it.
fn survives(level: Level, k: usize, m: usize, chunk: u64, member: u64, seed: u64) {
    let what = format!("{level} {k}+{m}, chunks of {chunk}");
    let (n, mut rng) = (k + m, Rng::new(seed));
    let options = CreateOptions {
        name: "wide".into(),
        level,
        data: k,
        parity: m,
        chunk_bytes: chunk,
        log_bytes: Some(BLOCK),
        cache_bytes: Some(BLOCK),
        checksums: true,
        force: false,
    };

    let sim = Simulation::new(seed, &Survivors::new(n, member));
    let (world, disks) = (sim.world(), sim.disks());
    let mut draws = Rng::new(seed + 1);
    let written = sim.run(LIMIT, async move {
        create(&world, &disks, &options).await.expect("made");
        let array = start(&world, &disks, false).await;
        let zeros = vec![0; array.size_bytes() as usize];
        let content = write(&array, &mut draws, zeros).await;
        array.destage_all().await.expect("destaged");
        // Some of it stays in the log.
        let half = content.len() as u64 / 2;
        let content = if half > BLOCK { write(&array, &mut draws, content).await } else { content };
        assert!(read(&array).await == content, "read back");
        content
    });
    let content = written.unwrap_or_else(|e| panic!("{what}: {e}"));

    // As many members are lost as may be, and all that was not flushed.
    let mut all: Vec<usize> = (0..n).collect();
    for i in 0..m {
        all.swap(i, i + rng.index(n - i));
    }
    let left = sim.snapshot().survive(Mode::PowerNone).without(&all[..m]).shuffled(rng.draw());
    let sim = Simulation::new(seed + 2, &left);
    let (world, disks) = (sim.world(), sim.disks());
    let (wanted, mut draws) = (content, Rng::new(seed + 3));
    let written = sim.run(LIMIT, async move {
        let array = start(&world, &disks, true).await;
        assert!(read(&array).await == wanted, "read back after the crash");
        let content = write(&array, &mut draws, wanted).await;
        array.stop().await.expect("stopped");
        content
    });
    let content = written.unwrap_or_else(|e| panic!("{what}, without {m}: {e}"));

    let sim = Simulation::new(seed + 4, &sim.snapshot().survive(Mode::PowerNone));
    let (world, disks) = (sim.world(), sim.disks());
    let read = sim.run(LIMIT, async move { read(&start(&world, &disks, false).await).await });
    assert!(read.unwrap_or_else(|e| panic!("{what}, again: {e}")) == content, "{what}");
}

#[test]
fn the_course_notes_shape() {
    survives(Level::Rs, 4, 12, 65536, 16 << 20, 1);
    survives(Level::Rs, 4, 12, 4096, 4 << 20, 2);
}

#[test]
fn two_hundred_and_fifty_five_members_with_four_parities() {
    survives(Level::Rs, 251, 4, 4096, 2 << 20, 3);
}

#[test]
fn two_hundred_and_fifty_five_members_with_evenodd() {
    survives(Level::Evenodd, 253, 2, 4096, 2 << 20, 4);
}

#[test]
fn two_hundred_and_fifty_four_copies() {
    survives(Level::Rs, 1, 254, 65536, 10 << 20, 5);
    survives(Level::Raid1, 1, 254, 4096, 6 << 20, 6);
}

#[test]
fn as_many_parities_as_data() {
    survives(Level::Rs, 128, 127, 4096, 3 << 20, 7);
}
