//! What a disk given to `create` is, and whether something else is on it.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use evenkeel_ublk_target::control::Failure;

/// What makes two paths the same disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Identity {
    /// Device number of a block device.
    Device(u64),
    /// File system and inode of a file.
    File(u64, u64),
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

/// Checks that no disk is given twice.
///
/// # Errors
/// A sentence that names the two.
pub fn check_distinct<'a>(
    disks: impl IntoIterator<Item = (&'a Path, Identity)>,
) -> Result<(), Failure> {
    let mut seen: HashMap<Identity, &Path> = HashMap::new();
    for (path, identity) in disks {
        if let Some(before) = seen.insert(identity, path) {
            let sentence = if before == path {
                format!("{} is given twice.", path.display())
            } else {
                format!("{} and {} are the same disk.", before.display(), path.display())
            };
            return Err(Failure::new(12, format!("{sentence} Nothing was changed.")));
        }
    }
    Ok(())
}

/// What `blkid` finds on a disk: None, or a few words such as `ext4 "root"`.
///
/// # Errors
/// If blkid cannot be run or cannot read the disk.
pub fn signature(path: &Path) -> Result<Option<String>, Failure> {
    let cannot = |why: String| {
        Failure::new(
            1,
            format!(
                "Whether something else is on {} cannot be checked ({why}). Nothing was changed; \
                 --force goes on without the check.",
                path.display()
            ),
        )
    };
    let out = Command::new("blkid")
        .args(["--probe", "--output", "export", "--"])
        .arg(path)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .output()
        .map_err(|e| cannot(format!("blkid: {e}")))?;
    match out.status.code() {
        Some(0) => Ok(words(&String::from_utf8_lossy(&out.stdout)).or(Some("something".into()))),
        // Nothing was found; or it could not be read, which a read tells apart.
        Some(2) => match readable(path) {
            Ok(()) => Ok(None),
            Err(e) => Err(cannot(e.to_string())),
        },
        Some(8) => Ok(Some("several signatures that contradict each other".into())),
        code => Err(cannot(format!("blkid ended with {code:?}"))),
    }
}

/// blkid lies in sbin, which is not on everybody's path.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn readable(path: &Path) -> io::Result<()> {
    use std::io::Read;
    std::fs::File::open(path)?.read(&mut [0; 512]).map(|_| ())
}

fn words(export: &str) -> Option<String> {
    let tags: HashMap<&str, &str> = export.lines().filter_map(|l| l.split_once('=')).collect();
    let mut found = Vec::new();
    if let Some(kind) = tags.get("TYPE") {
        found.push(match tags.get("LABEL") {
            Some(label) => format!("{kind} \"{label}\""),
            None => (*kind).to_owned(),
        });
    }
    if let Some(table) = tags.get("PTTYPE") {
        found.push(format!("a partition table ({table})"));
    }
    (!found.is_empty()).then(|| found.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_named() {
        let text = "DEVNAME=/dev/sda\nUUID=x\nLABEL=root\nTYPE=ext4\n";
        assert_eq!(words(text).as_deref(), Some("ext4 \"root\""));
        assert_eq!(words("PTTYPE=gpt\n").as_deref(), Some("a partition table (gpt)"));
        assert_eq!(words("\n"), None);
    }

    #[test]
    fn the_same_disk_is_noticed() {
        let (a, b) = (Path::new("/a"), Path::new("/b"));
        let id = Identity::File(1, 2);
        assert!(check_distinct([(a, id), (b, Identity::Device(3))]).is_ok());
        let twice = check_distinct([(a, id), (b, id)]).unwrap_err();
        assert_eq!((twice.code, twice.message.contains("/a and /b")), (12, true));
        assert_eq!(identify(Path::new("/")).unwrap_err().code, 2);
        assert_eq!(identify(Path::new("/nonexistent/x")).unwrap_err().code, 1);
    }
}
