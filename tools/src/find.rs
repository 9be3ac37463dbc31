//! Members by the name of their array: which disks of this machine say that they belong to it.
//!
//! Looked at are the disks that the array was last started from, those that the configuration
//! names, and all block devices. Only superblocks are read; nothing is locked. A start decides
//! later whether what was found belongs together.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use evenkeel_journal::uring::disk::identity;
use evenkeel_raid::geometry::{MEMBER_GRAIN, SUPERBLOCK_A, SUPERBLOCK_B, SUPERBLOCK_BYTES};
use evenkeel_raid::superblock::{BadSuperblock, Phase, Superblock};
use evenkeel_ublk_target::control::Failure;

use crate::place;

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

/// Reads the superblocks of a disk: a and b, c where one of them says, and what is left at the
/// end of the disk, if anything is.
///
/// # Errors
/// If the disk cannot be read.
pub fn superblocks(path: &Path) -> std::io::Result<Vec<Copy>> {
    let mut file = File::open(path)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    let read = |name, at| {
        let mut bytes = vec![0; SUPERBLOCK_BYTES as usize];
        let found = match file.read_exact_at(&mut bytes, at) {
            Ok(()) => Superblock::decode(&bytes, at),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(BadSuperblock::Absent),
            Err(e) => return Err(e),
        };
        Ok(Copy { name, at, found })
    };
    let mut copies = vec![read("a", SUPERBLOCK_A)?, read("b", SUPERBLOCK_B)?];
    for i in 0..2 {
        let Ok(s) = &copies[i].found else { continue };
        let at = s.copy_c();
        if copies.iter().all(|c| c.at != at) {
            copies.push(read("c", at)?);
        }
    }
    let end = (bytes / MEMBER_GRAIN * MEMBER_GRAIN).saturating_sub(SUPERBLOCK_BYTES);
    if end > SUPERBLOCK_B && copies.iter().all(|c| c.at != end) {
        copies.extend(Some(read("end", end)?).filter(|c| c.found != Err(BadSuperblock::Absent)));
    }
    Ok(copies)
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

/// Disks of the array `name`.
///
/// # Errors
/// None is found, or those found belong to several arrays of this name.
pub fn by_name(name: &str) -> Result<Vec<PathBuf>, Failure> {
    let mut seen = HashSet::new();
    let mut found: Vec<(u128, PathBuf)> = Vec::new();
    for path in remembered(name).into_iter().chain(configured()).chain(block_devices()) {
        // As the daemon sees it: a loop device is its file, which was remembered perhaps.
        let Ok(identity) = identity(&path) else { continue };
        if !seen.insert(identity) {
            continue;
        }
        let Ok(copies) = superblocks(&path) else { continue };
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
                config_path().display()
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

fn remembered(name: &str) -> Vec<PathBuf> {
    lines(&place::disks_path(name))
}

/// Paths that the configuration names: one a line, `#` begins a comment.
fn configured() -> Vec<PathBuf> {
    lines(&config_path())
}

fn config_path() -> PathBuf {
    std::env::var_os("EVENKEEL_CONF")
        .filter(|p| !p.is_empty())
        .map_or_else(|| PathBuf::from("/etc/evenkeel.conf"), PathBuf::from)
}

fn lines(path: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|l| l.trim())
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(PathBuf::from)
        .collect()
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
