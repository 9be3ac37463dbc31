//! A transaction near the bound on real files and io_uring: its columns are longer than one
//! operation of the kernel takes, and it comes back whole from copies of the disks, made behind the
//! back of the array that runs: as after a loss of power, with one disk lost.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use evenkeel_journal::uring::{Access, Engine, UringDisk};
use evenkeel_journal::{BLOCK, Buf};
use evenkeel_raid::codec::Level;
use evenkeel_raid::{Ack, Array, CreateOptions, StartOptions, create};

type Failure = Box<dyn Error>;

const MIB: u64 = 1 << 20;
const STEP: u64 = 5 * BLOCK as u64;

/// A directory that goes with its test.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(engine: &Engine, paths: &[PathBuf]) -> Result<Vec<UringDisk>, Failure> {
    let open = |p: &PathBuf| UringDisk::open(engine.driver(), p, Access::ReadWrite);
    Ok(paths.iter().map(open).collect::<Result<_, _>>()?)
}

fn disks(dir: &Path, name: &str) -> Vec<PathBuf> {
    (0..3).map(|i| dir.join(format!("{name}{i}"))).collect()
}

#[test]
fn a_large_transaction_comes_back_from_copies_of_the_disks() -> Result<(), Failure> {
    let name = format!("evenkeel-on-files-{}", std::process::id());
    let dir = Directory(std::env::temp_dir().join(name));
    let Ok(engine) = Engine::new() else {
        println!("skipped: the kernel gives no io_uring");
        return Ok(());
    };
    let runs = dir.0.join("run");
    fs::create_dir_all(&runs)?;
    let (paths, copies) = (disks(&dir.0, "disk"), disks(&dir.0, "copy"));
    for path in &paths {
        fs::File::create(path)?.set_len(64 * MIB)?;
    }
    let options = CreateOptions {
        name: "files".into(),
        level: Level::Raid5,
        data: 2,
        parity: 1,
        chunk_bytes: 65536,
        log_bytes: Some(40 * MIB),
        cache_bytes: Some(64 * MIB),
        checksums: true,
        force: false,
    };
    let durable = StartOptions { ack: Ack::Durable, ..StartOptions::default() };
    let world = engine.world(&runs)?;
    let members = open(&engine, &paths)?;
    let blocks = engine.block_on(async {
        create(&world, &members, &options).await?;
        let array = Array::start(&world, &members, &durable, &|_| ()).await?;
        // Four blocks of five, as far as it may be.
        let (mut tx, mut at) = (array.begin(), 0);
        let data: Vec<u8> = (0..4 * BLOCK).map(|i| (i / 7) as u8).collect();
        while tx.write(at, &data).is_ok() {
            at += STEP;
        }
        let blocks = tx.size().blocks;
        tx.commit().await?;
        for (from, to) in paths.iter().zip(&copies) {
            fs::copy(from, to)?;
        }
        array.stop().await?;
        Ok::<u64, Failure>(blocks)
    })?;
    assert!(blocks > 2 * 1024, "{blocks} blocks are no large transaction");

    // Another run directory is another machine: the log alone counts.
    let other = dir.0.join("other");
    fs::create_dir_all(&other)?;
    let engine = Engine::new()?;
    let world = engine.world(&other)?;
    let members = open(&engine, &copies[1..])?;
    engine.block_on(async {
        let array = Array::start(&world, &members, &durable, &|_| ()).await?;
        assert!(array.status().replay.bytes > blocks * BLOCK as u64, "it comes from the log");
        for i in 0..=blocks / 4 {
            let (done, buf) = array.read(i * STEP, Buf::new(STEP as usize)).await;
            done?;
            for (b, byte) in buf.iter().enumerate() {
                let wanted = if i < blocks / 4 && b < 4 * BLOCK { (b / 7) as u8 } else { 0 };
                assert_eq!(*byte, wanted, "byte {b} of run {i}");
            }
        }
        array.stop().await?;
        Ok(())
    })
}
