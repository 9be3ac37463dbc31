//! Members by the name of their array: which disks of this machine say that they belong to it.
//!
//! Looked at are the disks that the array was last started from, those that the configuration
//! names, and all block devices. Only superblocks are read, each disk within a bound; nothing is locked. A start decides
//! later whether what was found belongs together.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_journal::uring::disk::identity;
use evenkeel_raid::geometry::{MEMBER_GRAIN, SUPERBLOCK_A, SUPERBLOCK_B, SUPERBLOCK_BYTES};
use evenkeel_raid::hung::IO_TIMEOUT;
use evenkeel_raid::superblock::{BadSuperblock, Phase, Superblock};
use evenkeel_ublk_target::control::Failure;

use crate::{aside, config, place};

/// One place of a member where a superblock lies, and what is there.
#[derive(Debug)]
pub struct Copy {
    /// `a`, `b` or `c`; `end` for the end of a disk that is larger than its array needs, where an
    /// older array's copy C may be left.
    pub name: &'static str,
    /// Byte.
    pub at: u64,
    /// What was read.
    pub found: Result<Superblock, BadSuperblock>,
}

const NAMES: [&str; 4] = ["a", "b", "c", "end"];

/// Reads the superblocks of a disk: a and b, c where one of them says, and what is left at the
/// end of the disk, if anything is.
///
/// # Errors
/// If the disk cannot be read, or does not answer within [`IO_TIMEOUT`].
pub fn superblocks(path: &Path) -> std::io::Result<Vec<Copy>> {
    let mut all = superblocks_of(&[path.to_owned()], IO_TIMEOUT);
    all.pop().unwrap_or_else(|| Ok(Vec::new()))
}

/// The same for several disks at the same time, each of which has `bound` to answer.
pub fn superblocks_of(paths: &[PathBuf], bound: Duration) -> Vec<std::io::Result<Vec<Copy>>> {
    let jobs = paths.iter().map(|path| || bytes_of_superblocks(path));
    let answers = aside::all(bound, jobs.collect()).into_iter();
    answers.map(|bytes| bytes.map(|b| copies_in(&b))).collect()
}

/// What `copies_in` takes: of each copy the name, the byte, whether it is there, its bytes.
fn bytes_of_superblocks(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    let mut all = Vec::new();
    let mut seen: Vec<u64> = Vec::new();
    let mut read = |name: u8, at: u64| {
        if seen.contains(&at) {
            return Ok(None);
        }
        seen.push(at);
        let mut bytes = vec![0; SUPERBLOCK_BYTES as usize];
        let there = match file.read_exact_at(&mut bytes, at) {
            Ok(()) => true,
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => false,
            Err(e) => return Err(e),
        };
        all.push(name);
        all.extend_from_slice(&at.to_le_bytes());
        all.push(u8::from(there));
        all.extend_from_slice(&bytes);
        Ok(Superblock::decode(&bytes, at).ok().map(|s| s.copy_c()))
    };
    let others = [read(0, SUPERBLOCK_A)?, read(1, SUPERBLOCK_B)?];
    for c in others.into_iter().flatten() {
        read(2, c)?;
    }
    let end = (bytes / MEMBER_GRAIN * MEMBER_GRAIN).saturating_sub(SUPERBLOCK_BYTES);
    if end > SUPERBLOCK_B {
        read(3, end)?;
    }
    Ok(all)
}

fn copies_in(bytes: &[u8]) -> Vec<Copy> {
    let all = bytes.chunks_exact(10 + SUPERBLOCK_BYTES as usize).map(|b| {
        let at = u64::from_le_bytes(b[1..9].try_into().expect("eight bytes"));
        let found =
            if b[9] == 1 { Superblock::decode(&b[10..], at) } else { Err(BadSuperblock::Absent) };
        Copy { name: NAMES[usize::from(b[0])], at, found }
    });
    all.filter(|c| c.name != NAMES[3] || c.found != Err(BadSuperblock::Absent)).collect()
}

/// The copy to believe: of the first array that is found, the newest in force, else the newest.
pub fn counting(copies: &[Copy]) -> Option<&Superblock> {
    let whole = || copies.iter().filter_map(|c| c.found.as_ref().ok());
    let array = whole().next()?.array;
    whole().filter(|s| s.array == array).max_by_key(|s| (s.phase == Phase::InForce, s.epoch))
}

/// Why a member cannot be read by this version, if that is so.
pub fn unsupported(copies: &[Copy]) -> Option<&str> {
    copies.iter().find_map(|c| match &c.found {
        Err(BadSuperblock::Unsupported(why)) => Some(why.as_str()),
        _ => None,
    })
}

/// Disks of the array `name`. One that does not answer within `bound` is passed over.
///
/// # Errors
/// None is found, or those found belong to several arrays of this name.
pub fn by_name(name: &str, bound: Duration) -> Result<Vec<PathBuf>, Failure> {
    let mut seen = HashSet::new();
    let mut found: Vec<(u128, PathBuf)> = Vec::new();
    let mut paths = Vec::new();
    for path in
        place::remembered_disks(name).into_iter().chain(config::disks()).chain(block_devices())
    {
        // As the daemon sees it: a loop device is its file, which was remembered perhaps.
        let Ok(identity) = identity(&path) else { continue };
        if seen.insert(identity) {
            paths.push(path);
        }
    }
    let read = superblocks_of(&paths, bound);
    for (path, copies) in paths.into_iter().zip(read) {
        let Ok(copies) = copies else { continue };
        if let Some(s) = counting(&copies).filter(|s| s.name == name) {
            found.push((s.array, path));
        }
    }
    let Some((array, _)) = found.first() else {
        return Err(Failure::new(
            10,
            format!(
                "No member of an array \"{name}\" was found on the block devices of this machine \
                 or among the paths in {}. Name its disks: evenkeel start DISK...",
                config::path().display()
            ),
        ));
    };
    if let Some((_, other)) = found.iter().find(|(a, _)| a != array) {
        return Err(Failure::new(
            12,
            format!(
                "There are several arrays with the name \"{name}\": {} and {} belong to \
                 different ones. Nothing was changed. Name the disks of the one that is meant.",
                found[0].1.display(),
                other.display()
            ),
        ));
    }
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Block devices that hold anything. A ublk device is left out: without its daemon, reading from
/// it would wait for ever.
fn block_devices() -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = std::fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| {
            let size = std::fs::read_to_string(e.path().join("size")).unwrap_or_default();
            let sectors: u64 = size.trim().parse().unwrap_or(0);
            let name = e.file_name();
            sectors > 0 && !name.to_string_lossy().starts_with("ublk")
        })
        // A slash in a name (cciss) stands as an exclamation mark there.
        .map(|e| Path::new("/dev").join(e.file_name().to_string_lossy().replace('!', "/")))
        .collect();
    list.sort();
    list
}
