//! Writes to the bare device, one after the other, each when the one before it was answered. After
//! a cut the device must hold a prefix of them: up to some number all, whole, and of later ones
//! nothing; and at least those that were synced. Every seventh or so makes its range zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::acks::{self, Acks};
use super::disk::zero;
use crate::rng::{Rng, hash};

const BLOCK: usize = 4096;
/// Blocks of the device that are used.
const BLOCKS: u64 = 8192;
const LONGEST: u64 = 64;

/// A write, by its number from 1: where, how long, and is it zeros?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Op {
    first: u64,
    blocks: u64,
    zeros: bool,
}

fn op(number: u64, seed: u64) -> Op {
    let mut rng = Rng::new(hash(&[seed, 5, number]));
    let blocks = if rng.one_in(3) { 1 + rng.below(LONGEST) } else { 1 + rng.below(4) };
    // Half of them close together, so that blocks are written again soon.
    let range = if rng.one_in(2) { 256 } else { BLOCKS };
    let first = rng.below(range - blocks + 1);
    Op { first, blocks, zeros: rng.one_in(7) }
}

/// A block as this write left it.
fn block(number: u64, index: u64, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(hash(&[seed, number, index]));
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(index.to_le_bytes());
    while bytes.len() < BLOCK {
        bytes.extend(rng.draw().to_le_bytes());
    }
    bytes
}

/// Memory that O_DIRECT takes.
struct Aligned(Vec<u8>, usize);

impl Aligned {
    fn new(len: usize) -> Aligned {
        let bytes = vec![0; len + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Aligned(bytes, start)
    }
    fn get(&mut self, len: usize) -> &mut [u8] {
        &mut self.0[self.1..self.1 + len]
    }
}

fn open(device: &Path, flags: i32) -> io::Result<File> {
    File::options().read(true).write(true).custom_flags(flags).open(device)
}

/// Makes the whole range zeros and has it synced.
///
/// # Errors
/// Of the device.
pub fn init(device: &Path) -> io::Result<()> {
    let device = open(device, libc::O_DIRECT)?;
    let mut zeros = Aligned::new(1 << 20);
    for at in (0..BLOCKS * BLOCK as u64).step_by(1 << 20) {
        device.write_all_at(zeros.get(1 << 20), at)?;
    }
    device.sync_all()
}

/// Writes until the machine is cut, an error comes, or the time is over.
///
/// # Errors
/// Of the device.
pub fn write(device: &Path, seed: u64, acks: &mut Acks, end: Instant) -> io::Result<()> {
    let device = open(device, libc::O_DIRECT)?;
    let mut memory = Aligned::new(LONGEST as usize * BLOCK);
    let mut chance = Rng::new(hash(&[seed, 6]));
    let mut number = 0;
    while Instant::now() < end {
        let sync = Instant::now() + Duration::from_millis(100 + chance.below(4000));
        while Instant::now() < sync {
            number += 1;
            let op = op(number, seed);
            let (at, len) = (op.first * BLOCK as u64, op.blocks as usize * BLOCK);
            if op.zeros {
                zero(&device, at, len as u64)?;
                continue;
            }
            let bytes = memory.get(len);
            for (index, into) in (op.first..).zip(bytes.chunks_mut(BLOCK)) {
                into.copy_from_slice(&block(number, index, seed));
            }
            device.write_all_at(bytes, at)?;
        }
        device.sync_all()?;
        acks.note("blocks", number)?;
    }
    Ok(())
}

/// How far the writes were promised, and how far they are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Writes that were synced.
    pub promised: u64,
    /// Writes that are there.
    pub there: u64,
}

/// Is there a prefix of the writes, as long as was promised?
///
/// # Errors
/// With what is not as it must be.
pub fn check(device: &Path, seed: u64, said: &str) -> Result<Found, String> {
    let promised = acks::last(said, "blocks").unwrap_or(0);
    let device = open(device, libc::O_DIRECT).map_err(|e| format!("cannot be opened: {e}"))?;
    let mut memory = Aligned::new(1 << 20);
    // Which write each block is of.
    let mut is = Vec::new();
    for at in (0..BLOCKS * BLOCK as u64).step_by(1 << 20) {
        let bytes = memory.get(1 << 20);
        device.read_exact_at(bytes, at).map_err(|e| format!("byte {at} cannot be read: {e}"))?;
        for bytes in bytes.chunks(BLOCK) {
            let index = is.len() as u64;
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[..8]);
            let number = u64::from_le_bytes(number);
            if number == 0 && bytes.iter().all(|b| *b == 0) {
                is.push(0);
            } else if number != 0 && bytes == block(number, index, seed) {
                is.push(number);
            } else {
                return Err(format!("block {index} holds something that was never written there"));
            }
        }
    }
    let newest = is.iter().copied().max().unwrap_or(0);
    let mut should = vec![0; BLOCKS as usize];
    let mut put = |number| {
        let op = op(number, seed);
        let value = if op.zeros { 0 } else { number };
        should[op.first as usize..(op.first + op.blocks) as usize].fill(value);
        let wrong = (0..).zip(is.iter().zip(&should)).find(|(_, (is, should))| is != should);
        wrong.map(|(index, (is, should)): (u64, _)| (index, *is, *should))
    };
    let mut wrong = None;
    let last = promised.max(newest);
    for number in 1..=last {
        wrong = put(number);
    }
    // Later ones may have left nothing but zeros, so the prefix may be longer. A promise that is
    // not kept, or what is no prefix, fits with none of them.
    let Some((index, is, should)) = wrong else { return Ok(Found { promised, there: last }) };
    match (last + 1..last + 50).find(|number| put(*number).is_none()) {
        Some(there) => Ok(Found { promised, there }),
        None => Err(format!(
            "block {index} is of write {is}, not {should}; the newest that is there is {newest}, \
             and {promised} were synced"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    struct Device(PathBuf);

    impl Device {
        /// One with the first writes done.
        fn new(name: &str, writes: u64) -> Device {
            let path = std::env::temp_dir().join(format!("blocks-{name}-{}", std::process::id()));
            let file = File::create(&path).unwrap();
            file.set_len(BLOCKS * BLOCK as u64).unwrap();
            let device = Device(path);
            (1..=writes).for_each(|n| device.put(n, 0..op(n, 5).blocks));
            device
        }
        /// Writes some blocks of a write.
        fn put(&self, number: u64, part: std::ops::Range<u64>) {
            let (file, op) = (open(&self.0, 0).unwrap(), op(number, 5));
            for index in part.map(|i| op.first + i) {
                let bytes = if op.zeros { vec![0; BLOCK] } else { block(number, index, 5) };
                file.write_all_at(&bytes, index * BLOCK as u64).unwrap();
            }
        }
        fn check(&self, said: &str) -> Result<Found, String> {
            check(&self.0, 5, said)
        }
    }
    impl Drop for Device {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// A write after `number` with several blocks that are not zeros.
    fn long_one(number: u64) -> u64 {
        (number + 1..).find(|n| !op(*n, 5).zeros && op(*n, 5).blocks > 2).unwrap()
    }

    #[test]
    fn a_prefix_is_found_wherever_it_ends() {
        for writes in 90..120 {
            let device = Device::new(&format!("prefix{writes}"), writes);
            let found = device.check("blocks 80\n").unwrap();
            assert!(found.there >= 80 && found.there <= writes);
            // Writes of zeros at the end cannot be told apart from none, sometimes.
            assert!(found.there == writes || (found.there + 1..=writes).all(|n| op(n, 5).zeros));
        }
    }

    #[test]
    fn a_lost_promise_is_noticed() {
        let device = Device::new("promise", 100);
        assert!(device.check("blocks 100\n").is_ok());
        let next = long_one(100);
        assert!(device.check(&format!("blocks {next}\n")).is_err());
    }

    #[test]
    fn a_gap_and_a_half_write_are_noticed() {
        let device = Device::new("gap", 100);
        let (gap, later) = (long_one(100), long_one(long_one(100)));
        (101..=later).filter(|n| *n != gap).for_each(|n| device.put(n, 0..op(n, 5).blocks));
        assert!(device.check("blocks 100\n").is_err());
        let device = Device::new("half", 100);
        (101..gap).for_each(|n| device.put(n, 0..op(n, 5).blocks));
        device.put(gap, 0..1);
        assert!(device.check("blocks 100\n").is_err());
        device.put(gap, 0..op(gap, 5).blocks);
        assert_eq!(device.check("blocks 100\n").unwrap().there, gap);
    }

    #[test]
    fn a_foreign_block_is_noticed() {
        let device = Device::new("foreign", 100);
        let file = open(&device.0, 0).unwrap();
        file.write_all_at(&block(7, 20, 5), 21 * BLOCK as u64).unwrap();
        assert!(device.check("").unwrap_err().contains("block 21"));
    }
}
