//! What a disk given on the command line is: a file, a device, or a part of either. Two paths may
//! lead to the same bytes by a link, a second node, a bind mount, a partition or a loop device.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use evenkeel_ublk_target::control::Failure;

/// What makes two paths the same disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Identity {
    /// Device number of a block device.
    Device(u64),
    /// File system and inode of a file.
    File(u64, u64),
}

/// A range of bytes of a file or device that is not itself a part of another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    root: Identity,
    start: u64,
    end: u64,
}

impl Extent {
    fn overlaps(&self, other: &Extent) -> bool {
        self.root == other.root && self.start < other.end && other.start < self.end
    }
}

/// Checks that `path` is a block device or a file, and says which.
///
/// # Errors
/// A sentence: it is missing or something else.
pub fn identify(path: &Path) -> Result<Identity, Failure> {
    let shown = path.display();
    let meta = std::fs::metadata(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Failure::new(1, format!("{shown} does not exist.")),
        _ => Failure::new(1, format!("{shown} cannot be looked at: {e}.")),
    })?;
    let kind = meta.file_type();
    if kind.is_block_device() {
        Ok(Identity::Device(meta.rdev()))
    } else if kind.is_file() {
        Ok(Identity::File(meta.dev(), meta.ino()))
    } else {
        Err(Failure::new(2, format!("{shown} is neither a block device nor a file.")))
    }
}

/// Bytes of a disk.
///
/// # Errors
/// A sentence, if it cannot be opened.
pub fn bytes(path: &Path) -> Result<u64, Failure> {
    use std::io::{Seek, SeekFrom};
    std::fs::File::open(path)
        .and_then(|mut f| f.seek(SeekFrom::End(0)))
        .map_err(|e| Failure::new(1, format!("{} cannot be read: {e}.", path.display())))
}

/// Which bytes of which file or device the disk stands for: partitions and loop devices are
/// followed down to what they are made of.
#[must_use]
pub fn extent(identity: Identity) -> Extent {
    let mut extent = Extent { root: identity, start: 0, end: u64::MAX };
    // Deeper stacks of loop devices are not told apart.
    for _ in 0..8 {
        let Identity::Device(number) = extent.root else { break };
        let Some((root, offset, length)) = below(number) else { break };
        let end = length.map_or(u64::MAX, |l| offset.saturating_add(l));
        extent = Extent {
            root,
            start: extent.start.saturating_add(offset),
            end: extent.end.saturating_add(offset).min(end),
        };
    }
    extent
}

/// What a partition or loop device is made of: offset and length in it (none: to its end).
fn below(number: u64) -> Option<(Identity, u64, Option<u64>)> {
    let dir = sysfs(number);
    let value = |name: &str| {
        let text = std::fs::read_to_string(dir.join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    if dir.join("partition").exists() {
        let parent = std::fs::canonicalize(&dir).ok()?.parent()?.join("dev");
        let parent = std::fs::read_to_string(parent).ok()?;
        let (major, minor) = parent.trim().split_once(':')?;
        let device = libc::makedev(major.parse().ok()?, minor.parse().ok()?);
        return Some((Identity::Device(device), value("start")? * 512, Some(value("size")? * 512)));
    }
    let backing = loop_backing(&dir)?;
    let limit = value("loop/sizelimit").filter(|l| *l > 0);
    Some((identify(&backing).ok()?, value("loop/offset").unwrap_or(0), limit))
}

/// The directory of a block device.
pub fn sysfs(number: u64) -> PathBuf {
    let (major, minor) = (libc::major(number), libc::minor(number));
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

/// The file behind the loop device of this directory.
pub fn loop_backing(dir: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut path = std::fs::read(dir.join("loop/backing_file")).ok()?;
    path.pop_if(|b| *b == b'\n');
    Some(std::ffi::OsString::from_vec(path).into())
}

/// Checks that no two disks have bytes in common.
///
/// # Errors
/// A sentence that names the two, code 12.
pub fn check_distinct<'a>(
    disks: impl IntoIterator<Item = (&'a Path, Identity)>,
) -> Result<(), Failure> {
    let mut seen: Vec<(&Path, Identity, Extent)> = Vec::new();
    for (path, identity) in disks {
        let own = extent(identity);
        for (before, other, other_extent) in &seen {
            if !own.overlaps(other_extent) {
                continue;
            }
            let (a, b) = (before.display(), path.display());
            let sentence = if *before == path {
                format!("{a} is given twice.")
            } else if *other == identity {
                format!("{a} and {b} are the same disk.")
            } else {
                format!("{a} and {b} have bytes in common: one is made of the other.")
            };
            let text = format!("{sentence} Nothing was changed. Name each disk once.");
            return Err(Failure::new(12, text));
        }
        seen.push((path, identity, own));
    }
    Ok(())
}

/// Pairs of disks that are different parts of one disk, and so fail together.
pub fn on_one_disk<'a>(disks: &[(&'a Path, Identity)]) -> Option<(&'a Path, &'a Path)> {
    let all: Vec<(&Path, Extent)> = disks.iter().map(|(p, i)| (*p, extent(*i))).collect();
    all.iter().enumerate().find_map(|(i, (path, own))| {
        let other = all[i + 1..].iter().find(|(_, e)| e.root == own.root)?;
        Some((*path, other.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_disk_is_noticed() {
        let (a, b) = (Path::new("/a"), Path::new("/b"));
        let id = Identity::File(1, 2);
        assert!(check_distinct([(a, id), (b, Identity::File(3, 2))]).is_ok());
        let twice = check_distinct([(a, id), (b, id)]).unwrap_err();
        assert_eq!((twice.code, twice.message.contains("/a and /b")), (12, true));
        let twice = check_distinct([(a, id), (a, id)]).unwrap_err();
        assert!(twice.message.contains("/a is given twice"), "{}", twice.message);
        assert_eq!(identify(Path::new("/")).unwrap_err().code, 2);
        assert_eq!(identify(Path::new("/nonexistent/x")).unwrap_err().code, 1);
    }

    #[test]
    fn parts_overlap_or_not() {
        let root = Identity::Device(1);
        let part = |start, end| Extent { root, start, end };
        for (a, b, common) in [
            (part(0, 10), part(10, 20), false),
            (part(0, 11), part(10, 20), true),
            (part(0, u64::MAX), part(10, 20), true),
            (part(12, 13), part(10, 20), true),
            (part(0, 10), Extent { root: Identity::Device(2), start: 0, end: 10 }, false),
        ] {
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (common, common), "{a:?} {b:?}");
        }
    }
}
