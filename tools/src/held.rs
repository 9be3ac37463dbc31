//! Whether somebody uses a disk, and who: a mount, swap, a device built on it, a daemon.
//!
//! The kernel's own word decides: a device is opened exclusively, files are locked as a daemon
//! would, and both are let go again at once. Who it is, is looked up afterwards, for people.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_ublk_target::control::Failure;

use crate::probe::{self, Identity};

/// How long a lock whose holder is not to be found is waited for: a daemon that died has it until
/// its last write has ended.
const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(20);

/// Checks that nobody uses the disk. Nothing is written.
///
/// # Errors
/// A sentence that says who does, code 13.
pub fn check_free(path: &Path) -> Result<(), Failure> {
    check(path, true)
}

/// Checks that no daemon writes to the disk.
///
/// # Errors
/// A sentence that says who does, code 13.
pub fn check_still(path: &Path) -> Result<(), Failure> {
    check(path, false)
}

fn check(path: &Path, alone: bool) -> Result<(), Failure> {
    let mut waited = Duration::ZERO;
    let by = loop {
        match user(path, alone) {
            Ok(None) => return Ok(()),
            Ok(Some(By::Known(by))) => break by,
            Ok(Some(By::Unknown)) if waited >= PATIENCE => {
                break "another program holds it".to_owned();
            }
            Ok(Some(By::Unknown)) => {
                std::thread::sleep(STEP);
                waited += STEP;
            }
            Err(e) => {
                let text =
                    format!("{} cannot be opened: {e}. Nothing was changed.", path.display());
                return Err(Failure::new(1, text));
            }
        }
    };
    let text = format!("{} is in use: {by}. Nothing was changed.", path.display());
    Err(Failure::new(13, text))
}

/// Who uses a disk.
enum By {
    /// As a clause.
    Known(String),
    /// Somebody who is not to be seen; perhaps the last writes of a process that died.
    Unknown,
}

/// Who uses the disk now, if anybody does. Alone: also those who only read it as a daemon.
fn user(path: &Path, alone: bool) -> std::io::Result<Option<By>> {
    let meta = std::fs::metadata(path)?;
    let device = meta.file_type().is_block_device();
    let exclusive = if device && alone { libc::O_EXCL } else { 0 };
    let opened =
        OpenOptions::new().read(true).custom_flags(exclusive | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            return Ok(Some(user_of_device(meta.rdev()).map_or(By::Unknown, By::Known)));
        }
        other => other?,
    };
    let lock = if alone { libc::LOCK_EX } else { libc::LOCK_SH };
    // SAFETY: an open descriptor. The lock ends with it.
    if unsafe { libc::flock(file.as_raw_fd(), lock | libc::LOCK_NB) } != 0
        && std::io::Error::last_os_error().raw_os_error() == Some(libc::EWOULDBLOCK)
    {
        return Ok(Some(locker(meta.dev(), meta.ino()).map_or(By::Unknown, By::Known)));
    }
    if device || !alone {
        return Ok(None);
    }
    Ok(user_of_file(Identity::File(meta.dev(), meta.ino())).map(By::Known))
}

/// Which process has locked the file or node with this number, if it is one that lives.
fn locker(dev: u64, ino: u64) -> Option<String> {
    let text = std::fs::read_to_string("/proc/locks").ok()?;
    let wanted = format!("{:02x}:{:02x}:{ino}", libc::major(dev), libc::minor(dev));
    let found = text
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&wanted.as_str()))?;
    let pid = found[4].parse::<u32>().ok()?;
    // One that is dying has no memory left: the line is there in every process but those.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let name = status.lines().find_map(|l| l.strip_prefix("Name:"))?.trim();
    let lives = status.lines().any(|l| l.starts_with("VmSize:"));
    lives.then(|| format!("process {pid} ({name}) holds it"))
}

/// Who has a device open exclusively, as far as it can be told.
fn user_of_device(number: u64) -> Option<String> {
    let dir = probe::sysfs(number);
    let mut numbers = vec![(number, String::new())];
    for part in entries(&dir).filter(|p| p.join("partition").exists()) {
        let name = part.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dev = std::fs::read_to_string(part.join("dev")).unwrap_or_default();
        if let Some(number) = parse_number(&dev) {
            numbers.push((number, format!("its partition {name} ")));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for (number, whose) in &numbers {
        let it = if whose.is_empty() { "it " } else { whose.as_str() };
        if let Some(at) = mounted_at(&mounts, *number) {
            return Some(format!("{it}is mounted at {at}"));
        }
        if swaps().contains(&Identity::Device(*number)) {
            return Some(format!("{it}is swap"));
        }
        let holders: Vec<String> = entries(&probe::sysfs(*number).join("holders"))
            .filter_map(|h| Some(h.file_name()?.to_str()?.to_owned()))
            .collect();
        if !holders.is_empty() {
            return Some(format!("{it}is a part of {}", holders.join(", ")));
        }
    }
    None
}

/// Who uses a file as a disk without having locked it.
fn user_of_file(file: Identity) -> Option<String> {
    for device in entries(Path::new("/sys/block")) {
        let Some(backing) = probe::loop_backing(&device) else { continue };
        if probe::identify(&backing).is_ok_and(|i| i == file) {
            let name = device.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Some(format!("the loop device /dev/{name} is made of it"));
        }
    }
    swaps().contains(&file).then(|| "it is swap".to_owned())
}

fn swaps() -> Vec<Identity> {
    let text = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let paths = text.lines().skip(1).filter_map(|l| l.split_whitespace().next());
    paths.filter_map(|p| probe::identify(Path::new(&unescape(p))).ok()).collect()
}

/// Where the device with this number is mounted first.
fn mounted_at(mountinfo: &str, number: u64) -> Option<String> {
    let wanted = format!("{}:{}", libc::major(number), libc::minor(number));
    mountinfo.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().take(5).collect();
        (words.get(2) == Some(&wanted.as_str())).then(|| unescape(words.get(4).unwrap_or(&"?")))
    })
}

/// A path as the kernel's tables show it: blanks and the like stand as `\040`.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()).filter(|_| *first == b'\\') {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn parse_number(text: &str) -> Option<u64> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let table = "22 1 8:2 / / rw - ext4 /dev/sda2 rw\n\
                     30 22 8:17 / /mnt/my\\040disk rw - xfs /dev/sdb1 rw\n";
        assert_eq!(mounted_at(table, libc::makedev(8, 17)).as_deref(), Some("/mnt/my disk"));
        assert_eq!(mounted_at(table, libc::makedev(8, 1)), None);
        assert_eq!(unescape("a\\134b\\0"), "a\\b\\0");
        assert_eq!(parse_number("259:7\n"), Some(libc::makedev(259, 7)));
    }

    #[test]
    fn a_locked_file_is_held_by_this_process() {
        let path = std::env::temp_dir().join(format!("evenkeel-held-{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        assert_eq!(check_free(&path), Ok(()));
        // SAFETY: an open descriptor.
        assert_eq!(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }, 0);
        let e = check_free(&path).unwrap_err();
        assert_eq!(e.code, 13);
        assert!(e.message.contains("holds it"), "{}", e.message);
        drop(file);
        assert_eq!(check_free(&path), Ok(()));
        std::fs::remove_file(&path).unwrap();
    }
}
