//! What a database does on a file system, for the cut to meet: a log of numbered records, pages
//! changed in place, and small files replaced by renaming. Every now and then, with long gaps,
//! something is synced, and then it is said outside up to where ([`super::acks`]).
//!
//! All contents follow from the seed, so that the check after the cut knows them: what was said
//! must be there, and of the rest nothing may be there that was never written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::acks::{self, Acks};
use crate::rng::{Rng, hash};

const PAGE: usize = 4096;
const PAGES: u64 = 512;
const FILES: u64 = 24;
const HEADER: usize = 32;
const MAGIC: &[u8; 8] = b"record\0\x01";

/// Bytes with a header: what they are, their number, where they belong, their checksum.
fn sealed(number: u64, place: u64, len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(hash(&[seed, number, place]));
    let mut bytes = Vec::with_capacity(HEADER + len + 8);
    bytes.extend(MAGIC);
    bytes.extend(number.to_le_bytes());
    bytes.extend(place.to_le_bytes());
    bytes.extend((len as u32).to_le_bytes());
    bytes.extend([0; 4]);
    while bytes.len() < HEADER + len {
        bytes.extend(rng.draw().to_le_bytes());
    }
    bytes.truncate(HEADER + len);
    let sum = crc32c::crc32c(&bytes);
    bytes[28..HEADER].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The record of the log with this number: its length, too, follows from the seed.
fn record(number: u64, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(hash(&[seed, 1, number]));
    let len = if rng.one_in(12) { rng.below(24_000) } else { rng.below(900) };
    sealed(number, u64::MAX, len as usize, seed)
}

/// The page that the change of this number, from 1, is made to.
fn page_of(change: u64, seed: u64) -> u64 {
    Rng::new(hash(&[seed, 2, change])).below(PAGES)
}

/// A page as that change left it; change 0 made all of them.
fn page(change: u64, place: u64, seed: u64) -> Vec<u8> {
    sealed(change, place, PAGE - HEADER, seed)
}

/// A small file in this version, from 1.
fn small(version: u64, file: u64, seed: u64) -> Vec<u8> {
    let len = Rng::new(hash(&[seed, 3, version, file])).below(9000);
    sealed(version, file, len as usize, seed)
}

/// Makes the files, and has them synced.
///
/// # Errors
/// Of the file system.
pub fn init(directory: &Path, seed: u64) -> io::Result<()> {
    fs::create_dir_all(directory.join("small"))?;
    File::create(directory.join("log"))?.sync_all()?;
    let pages = File::create(directory.join("pages"))?;
    for place in 0..PAGES {
        pages.write_all_at(&page(0, place, seed), place * PAGE as u64)?;
    }
    pages.sync_all()?;
    for dir in [directory, &directory.join("small")] {
        File::open(dir)?.sync_all()?;
    }
    if let Some(parent) = directory.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Writes until the machine is cut, an error comes, or the time is over.
///
/// # Errors
/// Of the file system.
pub fn write(directory: &Path, seed: u64, acks: &mut Acks, end: Instant) -> io::Result<()> {
    let mut log = File::options().append(true).open(directory.join("log"))?;
    let pages = File::options().write(true).open(directory.join("pages"))?;
    let mut chance = Rng::new(hash(&[seed, 4]));
    let (mut records, mut changes, mut files) = (0, 0, 0);
    for turn in 0.. {
        // One sync of each kind soon, then long gaps, in which much gathers that is not synced.
        let gap = if turn < 3 { 100 } else { 100 + chance.below(4000) };
        let sync = Instant::now() + Duration::from_millis(gap);
        while Instant::now() < sync {
            log.write_all(&record(records + 1, seed))?;
            records += 1;
            changes += 1;
            let place = page_of(changes, seed);
            pages.write_all_at(&page(changes, place, seed), place * PAGE as u64)?;
            thread::sleep(Duration::from_millis(chance.below(4)));
        }
        match if turn < 3 { turn * 2 } else { chance.below(5) } {
            0 | 1 => {
                log.sync_data()?;
                acks.note("log", records)?;
            }
            2 | 3 => {
                pages.sync_data()?;
                acks.note("pages", changes)?;
            }
            _ => {
                files += 1;
                replace(directory, files, seed)?;
                acks.note("small", files)?;
            }
        }
        if Instant::now() >= end {
            break;
        }
    }
    Ok(())
}

/// Replaces a small file, as one does who wants the old or the new one after a crash.
fn replace(directory: &Path, number: u64, seed: u64) -> io::Result<()> {
    let (file, version) = (number % FILES, number / FILES + 1);
    let small_files = directory.join("small");
    let temporary = small_files.join(format!("{file}.new"));
    let mut new = File::create(&temporary)?;
    new.write_all(&small(version, file, seed))?;
    new.sync_all()?;
    fs::rename(&temporary, small_files.join(file.to_string()))?;
    File::open(small_files)?.sync_all()
}

/// What the check found to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Records of the log that were promised.
    pub promised: u64,
    /// Records that are there.
    pub records: u64,
    /// Changes of pages that were promised.
    pub promised_changes: u64,
    /// The newest change that is there.
    pub changes: u64,
    /// Small files that were promised.
    pub small: u64,
}

/// Looks for everything that was promised.
///
/// # Errors
/// With what is not as it must be.
pub fn check(directory: &Path, seed: u64, said: &str) -> Result<Found, String> {
    let promised = |what| acks::last(said, what).unwrap_or(0);
    let read = |name: &str| {
        fs::read(directory.join(name)).map_err(|e| format!("{name} cannot be read: {e}"))
    };

    let log = read("log")?;
    let (mut records, mut at) = (0, 0);
    loop {
        let next = record(records + 1, seed);
        if log.get(at..at + next.len()) != Some(&next) {
            break;
        }
        records += 1;
        at += next.len();
    }
    if records < promised("log") {
        let n = promised("log");
        return Err(format!("of {n} records that were synced, {records} are there (byte {at})"));
    }

    let pages = read("pages")?;
    if pages.len() != PAGE * PAGES as usize {
        return Err(format!("the pages are {} bytes", pages.len()));
    }
    let mut at_least = vec![0; PAGES as usize];
    for change in 1..=promised("pages") {
        at_least[page_of(change, seed) as usize] = change;
    }
    let mut changes = 0;
    for (place, bytes) in (0..).zip(pages.chunks(PAGE)) {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[8..16]);
        let change = u64::from_le_bytes(number);
        if bytes != page(change, place, seed) || (change > 0 && page_of(change, seed) != place) {
            return Err(format!("page {place} holds something that was never written there"));
        }
        if change < at_least[place as usize] {
            let need = at_least[place as usize];
            return Err(format!("page {place} is of change {change}, but {need} was synced"));
        }
        changes = changes.max(change);
    }

    let last = promised("small");
    for file in 0..FILES {
        // The newest promised version, and the next, which may have been under way.
        let version = (1..=last).rev().find(|n| n % FILES == file).map_or(0, |n| n / FILES + 1);
        let name = format!("small/{file}");
        if version == 0 && !directory.join(&name).exists() {
            continue;
        }
        let bytes = read(&name)?;
        let next = if version > 0 { version + 1 } else { (last + 1) / FILES + 1 };
        let right = |v| v > 0 && bytes == small(v, file, seed);
        let under_way = (last + 1) % FILES == file && right(next);
        if !(right(version) || under_way) {
            return Err(format!("{name} is not as it was when it was synced (version {version})"));
        }
    }
    Ok(Found {
        promised: promised("log"),
        records,
        promised_changes: promised("pages"),
        changes,
        small: last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A directory with some of it all written, and what was said.
    struct Place(PathBuf, String);

    impl Place {
        fn new(name: &str) -> Place {
            let dir = std::env::temp_dir().join(format!("records-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            init(&dir, 5).unwrap();
            let mut log = File::options().append(true).open(dir.join("log")).unwrap();
            let pages = File::options().write(true).open(dir.join("pages")).unwrap();
            for n in 1..=100 {
                log.write_all(&record(n, 5)).unwrap();
                let place = page_of(n, 5);
                pages.write_all_at(&page(n, place, 5), place * 4096).unwrap();
            }
            for n in 1..=50 {
                replace(&dir, n, 5).unwrap();
            }
            Place(dir, "log 90\npages 80\nsmall 50\n".into())
        }
        fn check(&self) -> Result<Found, String> {
            check(&self.0, 5, &self.1)
        }
        fn open(&self, name: &str) -> File {
            File::options().read(true).write(true).open(self.0.join(name)).unwrap()
        }
    }
    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_was_written_is_found() {
        let found = Place::new("found").check().unwrap();
        let expected =
            Found { promised: 90, records: 100, promised_changes: 80, changes: 100, small: 50 };
        assert_eq!(found, expected);
    }

    #[test]
    fn what_was_not_synced_may_be_missing() {
        let place = Place::new("tail");
        let len = (1..=90).map(|n| record(n, 5).len() as u64).sum::<u64>();
        place.open("log").set_len(len + 10).unwrap();
        let change = (81..=100).rfind(|n| (81..*n).all(|m| page_of(m, 5) != page_of(*n, 5)));
        let at = page_of(change.unwrap(), 5);
        let old = (0..=80).rev().find(|n| *n == 0 || page_of(*n, 5) == at).unwrap();
        place.open("pages").write_all_at(&page(old, at, 5), at * 4096).unwrap();
        assert_eq!(place.check().unwrap().records, 90);
    }

    #[test]
    fn a_synced_record_that_is_lost_is_noticed() {
        let place = Place::new("lost");
        let len = (1..90).map(|n| record(n, 5).len() as u64).sum::<u64>();
        place.open("log").set_len(len).unwrap();
        assert!(place.check().unwrap_err().contains("89 are there"));
    }

    #[test]
    fn a_flipped_bit_of_a_record_is_noticed() {
        let place = Place::new("bit");
        let log = place.open("log");
        let mut byte = [0];
        log.read_exact_at(&mut byte, 500).unwrap();
        log.write_all_at(&[byte[0] ^ 4], 500).unwrap();
        assert!(place.check().unwrap_err().contains("records"));
    }

    #[test]
    fn an_old_page_and_another_page_are_noticed() {
        let place = Place::new("page");
        let at = page_of(80, 5);
        place.open("pages").write_all_at(&page(0, at, 5), at * 4096).unwrap();
        assert!(place.check().unwrap_err().contains("80 was synced"));
        let other = (at + 1) % PAGES;
        place.open("pages").write_all_at(&page(80, at, 5), other * 4096).unwrap();
        assert!(place.check().is_err());
    }

    #[test]
    fn a_small_file_that_is_old_or_gone_is_noticed() {
        let place = Place::new("small");
        fs::write(place.0.join("small/2"), small(2, 2, 5)).unwrap();
        assert!(place.check().unwrap_err().contains("small/2"), "it was replaced a third time");
        fs::write(place.0.join("small/2"), small(3, 2, 5)).unwrap();
        place.check().unwrap();
        fs::remove_file(place.0.join("small/7")).unwrap();
        assert!(place.check().unwrap_err().contains("small/7"));
    }
}
