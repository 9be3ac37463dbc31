//! Reads the log of the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/
//! log-writes.rst and drivers/md/dm-log-writes.c of Linux) and does the writes again on an image.
//!
//! The log is made of sectors of the logged device. The first has magic, version, number of entries
//! and bytes of a sector. Each entry is a sector (where, how many sectors, flags, length of a mark's
//! text, which follows there), and then what was written. The target logs a write only when a flush
//! covers it, or when it had FUA; so up to any entry with one of these flags the image is what a
//! disk has that loses everything else.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::disk::zero;

const MAGIC: u64 = 0x6a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// An entry of the log, in bytes of the logged device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it was written.
    pub offset: u64,
    /// How much.
    pub len: u64,
    /// Where what was written lies in the log; none if it was discarded.
    pub data: Option<u64>,
    /// Everything before is durable, and so is this.
    pub durable: bool,
    /// It is no write, but a mark that somebody set.
    pub mark: bool,
}

/// All entries that are there.
///
/// # Errors
/// If it is no such log, or a part of it is missing.
pub fn entries(log: &File) -> io::Result<Vec<Entry>> {
    let wrong = |text: &str| io::Error::new(io::ErrorKind::InvalidData, text.to_owned());
    let numbers = |at: u64| -> io::Result<[u64; 4]> {
        let mut bytes = [0; 32];
        log.read_exact_at(&mut bytes, at)?;
        let mut numbers = [0; 4];
        for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *number = u64::from_le_bytes(*bytes);
        }
        Ok(numbers)
    };
    let [magic, version, count, last] = numbers(0)?;
    if magic != MAGIC || version != 1 {
        return Err(wrong("no log of dm-log-writes"));
    }
    let sector = last & 0xffff_ffff;
    if !matches!(sector, 512 | 1024 | 2048 | 4096) {
        return Err(wrong("a log of odd sectors"));
    }
    let mut at = sector;
    let mut entries = Vec::new();
    for _ in 0..count {
        let [first, sectors, flags, _] = numbers(at)?;
        if flags >= 32 {
            return Err(wrong("an entry with unknown flags"));
        }
        at += sector;
        let written = flags & (DISCARD | MARK) == 0;
        entries.push(Entry {
            offset: first * sector,
            len: sectors * sector,
            data: written.then_some(at),
            durable: flags & (FLUSH | FUA) != 0,
            mark: flags & MARK != 0,
        });
        if written {
            at += sectors * sector;
        }
    }
    Ok(entries)
}

/// Does it again on an image.
///
/// # Errors
/// Of the files.
pub fn replay(entry: &Entry, log: &File, image: &File) -> io::Result<()> {
    if entry.mark {
        return Ok(());
    }
    let Some(at) = entry.data else { return zero(image, entry.offset, entry.len) };
    let mut bytes = vec![0; entry.len as usize];
    log.read_exact_at(&mut bytes, at)?;
    image.write_all_at(&bytes, entry.offset)
}

#[cfg(test)]
mod tests {
    use super::super::disk::nameless;
    use super::*;

    fn log(sector: u64, entries: &[(u64, u64, u64, u8)]) -> File {
        let file = nameless(&std::env::temp_dir()).unwrap();
        let put = |at: u64, numbers: [u64; 4]| {
            let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            file.write_all_at(&bytes, at).unwrap();
        };
        put(0, [MAGIC, 1, entries.len() as u64, sector]);
        let mut at = sector;
        for (first, sectors, flags, byte) in entries {
            put(at, [*first, *sectors, *flags, 0]);
            at += sector;
            if flags & (DISCARD | MARK) == 0 {
                let bytes = vec![*byte; (sectors * sector) as usize];
                file.write_all_at(&bytes, at).unwrap();
                at += sectors * sector;
            }
        }
        file.set_len(at + sector).unwrap();
        file
    }

    #[test]
    fn writes_discards_and_marks_are_read_and_done_again() {
        for sector in [512, 4096] {
            let all = [(1, 2, 0, 7), (0, 0, MARK, 0), (0, 0, FLUSH, 0), (2, 1, DISCARD, 0)];
            let log = log(sector, &[&all[..], &[(5, 1, FUA, 9)]].concat());
            let entries = entries(&log).unwrap();
            assert_eq!(entries.iter().position(|e| e.mark), Some(1));
            let durable: Vec<bool> = entries.iter().map(|e| e.durable).collect();
            assert_eq!(durable, [false, false, true, false, true]);
            let image = nameless(&std::env::temp_dir()).unwrap();
            image.set_len(8 * sector).unwrap();
            let sectors = || -> Vec<u8> {
                let mut bytes = vec![0; 8 * sector as usize];
                image.read_exact_at(&mut bytes, 0).unwrap();
                bytes.chunks(sector as usize).map(|s| s[0]).collect()
            };
            replay(&entries[0], &log, &image).unwrap();
            assert_eq!(sectors(), [0, 7, 7, 0, 0, 0, 0, 0]);
            entries[1..].iter().for_each(|e| replay(e, &log, &image).unwrap());
            assert_eq!(sectors(), [0, 7, 0, 0, 0, 9, 0, 0]);
        }
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let file = nameless(&std::env::temp_dir()).unwrap();
        file.set_len(8192).unwrap();
        assert!(entries(&file).is_err());
        assert!(entries(&log(512, &[(0, 1, 77, 0)])).is_err());
        assert!(entries(&log(12, &[])).is_err());
    }
}
