//! Whether somebody uses a disk, and who: a mount, swap, a device built on it, a daemon.
//!
//! The kernel's own word decides: a device is opened exclusively, files are locked as a daemon
//! would, and both are let go again at once. Who it is, is looked up afterwards, for people.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use evenkeel_ublk_target::control::Failure;

use crate::probe::{self, Identity};

/// Checks that nobody uses the disk. Nothing is written.
///
/// # Errors
/// A sentence that says who does, code 13.
pub fn check_free(path: &Path) -> Result<(), Failure> {
    let held = |by: String| {
        let shown = path.display();
        Err(Failure::new(13, format!("{shown} is in use: {by}. Nothing was changed.")))
    };
    let cannot =
        |e: std::io::Error| Failure::new(1, format!("{} cannot be opened: {e}.", path.display()));
    let meta = std::fs::metadata(path).map_err(cannot)?;
    let device = meta.file_type().is_block_device();
    let exclusive = if device { libc::O_EXCL } else { 0 };
    let opened =
        OpenOptions::new().read(true).custom_flags(exclusive | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            let by = user_of_device(meta.rdev())
                .unwrap_or_else(|| "another program holds the device".to_owned());
            return held(by);
        }
        other => other.map_err(cannot)?,
    };
    // SAFETY: an open descriptor. The lock ends with it.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0
        && std::io::Error::last_os_error().raw_os_error() == Some(libc::EWOULDBLOCK)
    {
        return held(locker(meta.dev(), meta.ino()));
    }
    if !device && let Some(by) = user_of_file(Identity::File(meta.dev(), meta.ino())) {
        return held(by);
    }
    Ok(())
}

/// Who has locked the file or node with this number.
fn locker(dev: u64, ino: u64) -> String {
    let text = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let wanted = format!("{:02x}:{:02x}:{ino}", libc::major(dev), libc::minor(dev));
    let found = text
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&wanted.as_str()));
    let pid = found.and_then(|words| words[4].parse::<u32>().ok());
    let name = pid.and_then(|p| std::fs::read_to_string(format!("/proc/{p}/comm")).ok());
    match (pid, name) {
        (Some(pid), Some(name)) => format!("process {pid} ({}) holds it", name.trim()),
        _ => "a daemon or another program holds it".to_owned(),
    }
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
