//! What else is on a disk: file systems, swap, volumes, partition tables.
//!
//! `blkid` knows, and is asked where it is. Where it is not, a table of signatures stands in: the
//! common ones, each by bytes at a fixed place, so it may take for something what is only left of
//! it. That is the safe side.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use evenkeel_ublk_target::control::Failure;

/// What is on a disk: None, or a few words such as `ext4 "root"`. Members of arrays of this
/// program are not looked for.
///
/// # Errors
/// If the disk cannot be read.
pub fn signature(path: &Path) -> Result<Option<String>, Failure> {
    let found = match blkid(path) {
        Some(found) => Ok(found),
        None => known(path),
    };
    found.map_err(|e| {
        Failure::new(
            1,
            format!(
                "Whether something else is on {} cannot be checked ({e}). Nothing was changed.",
                path.display()
            ),
        )
    })
}

/// What blkid says; None where it is not there or cannot say.
fn blkid(path: &Path) -> Option<Option<String>> {
    let out = Command::new("blkid")
        .args(["-p", "-o", "export", "--"])
        .arg(path)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stdout);
    match out.status.code() {
        Some(0) => words(&text).map(Some),
        // Nothing was found; or it could not be read, which a read tells apart.
        Some(2) if readable(path).is_ok() => Some(None),
        Some(8) => Some(Some("several signatures that contradict each other".into())),
        _ => None,
    }
}

/// blkid lies in sbin, which is not on everybody's path.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn readable(path: &Path) -> io::Result<()> {
    File::open(path)?.read_at(&mut [0; 512], 0).map(|_| ())
}

fn words(export: &str) -> Option<String> {
    let tags: HashMap<&str, &str> = export.lines().filter_map(|l| l.split_once('=')).collect();
    let mut found = Vec::new();
    if let Some(kind) = tags.get("TYPE") {
        let kind = match *kind {
            "LVM2_member" => "an LVM volume (LVM2_member)",
            "linux_raid_member" => "a member of an md array (linux_raid_member)",
            "crypto_LUKS" => "an encrypted volume (crypto_LUKS)",
            "zfs_member" => "a member of a ZFS pool (zfs_member)",
            other => other,
        };
        found.push(match tags.get("LABEL") {
            Some(label) => format!("{kind} \"{}\"", label.escape_default()),
            None => kind.to_owned(),
        });
    }
    if let Some(table) = tags.get("PTTYPE") {
        found.push(format!("a partition table ({table})"));
    }
    (!found.is_empty()).then(|| found.join(" and "))
}

/// Where a signature lies.
#[derive(Clone, Copy)]
enum At {
    /// At this byte.
    Start(u64),
    /// So many bytes before the end.
    End(u64),
}
use At::{End, Start};

/// Signatures, the more specific ones first.
const KNOWN: &[(&str, At, &[u8])] = &[
    ("an encrypted volume (LUKS)", Start(0), b"LUKS\xba\xbe"),
    ("an encrypted volume (LUKS)", Start(16384), b"SKUL\xba\xbe"),
    ("xfs", Start(0), b"XFSB"),
    ("btrfs", Start(65600), b"_BHRfS_M"),
    ("bcachefs or bcache", Start(4120), b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f"),
    ("bcachefs", Start(4120), b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf"),
    ("a member of an md array", Start(0), b"\xfc\x4e\x2b\xa9"),
    ("a member of an md array", Start(4096), b"\xfc\x4e\x2b\xa9"),
    ("an LVM volume", Start(536), b"LVM2 001"),
    ("an LVM volume", Start(24), b"LVM2 001"),
    ("an LVM volume", Start(1048), b"LVM2 001"),
    ("an LVM volume", Start(1560), b"LVM2 001"),
    ("swap", Start(4086), b"SWAPSPACE2"),
    ("swap", Start(4086), b"SWAP-SPACE"),
    ("swap", Start(16374), b"SWAPSPACE2"),
    ("swap", Start(65526), b"SWAPSPACE2"),
    ("a suspended system", Start(4086), b"S1SUSPEND"),
    ("an encrypted volume (BitLocker)", Start(3), b"-FVE-FS-"),
    ("ntfs", Start(3), b"NTFS    "),
    ("exfat", Start(3), b"EXFAT   "),
    ("vfat", Start(82), b"FAT32   "),
    ("vfat", Start(54), b"FAT1"),
    ("a CD or DVD image (iso9660)", Start(32769), b"CD001"),
    ("a DVD image (udf)", Start(32769), b"BEA01"),
    ("f2fs", Start(1024), b"\x10\x20\xf5\xf2"),
    ("erofs", Start(1024), b"\xe2\xe1\xf5\xe0"),
    ("squashfs", Start(0), b"hsqs"),
    ("jfs", Start(32768), b"JFS1"),
    ("reiserfs", Start(65588), b"ReIsEr"),
    ("reiser4", Start(65536), b"ReIsEr4"),
    ("gfs2", Start(65536), b"\x01\x16\x19\x70"),
    ("ocfs2", Start(8192), b"OCFSV2"),
    ("nilfs2", Start(1030), b"\x34\x34"),
    ("a Ceph volume", Start(0), b"bluestore block device"),
    ("a Stratis pool", Start(516), b"!Stra0tis"),
    ("a VDO volume", Start(0), b"dmvdo001"),
    ("hashes of dm-verity", Start(0), b"verity\0\0"),
    ("data of dm-integrity", Start(0), b"integrt\0"),
    ("a partition table (gpt)", Start(512), b"EFI PART"),
    ("a partition table (gpt)", Start(4096), b"EFI PART"),
    ("a partition table (gpt)", End(512), b"EFI PART"),
    ("a partition table (gpt)", End(4096), b"EFI PART"),
    ("ext2, ext3 or ext4", Start(1080), b"\x53\xef"),
];

/// What the table says.
fn known(path: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    let has = |at: u64, magic: &[u8]| -> io::Result<bool> {
        let mut found = [0; 32];
        match file.read_exact_at(&mut found[..magic.len()], at) {
            Ok(()) => Ok(&found[..magic.len()] == magic),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    };
    for (name, at, magic) in KNOWN {
        let at = match at {
            Start(at) => *at,
            End(before) => match bytes.checked_sub(*before) {
                Some(at) => at,
                None => continue,
            },
        };
        if has(at, magic)? {
            return Ok(Some((*name).to_owned()));
        }
    }
    // md's older superblocks lie near the end, at two roundings.
    let md = [
        (bytes / 512).checked_sub(16).map(|s| s / 8 * 4096),
        (bytes >> 16).checked_sub(1).map(|s| s << 16),
    ];
    for at in md.into_iter().flatten() {
        if has(at, b"\xfc\x4e\x2b\xa9")? {
            return Ok(Some("a member of an md array".to_owned()));
        }
    }
    // ZFS writes its label in a ring of 128 places, and in two more copies at the end.
    let labels = [0, 256 << 10, bytes.saturating_sub(512 << 10), bytes.saturating_sub(256 << 10)];
    for label in labels.map(|l| l / (256 << 10) * (256 << 10)) {
        for nth in 0..128 {
            let at = label + (128 << 10) + nth * 1024;
            if has(at, &0x00ba_b10c_u64.to_le_bytes())? || has(at, &0x00ba_b10c_u64.to_be_bytes())?
            {
                return Ok(Some("a member of a ZFS pool".to_owned()));
            }
        }
    }
    let mut sector = [0; 512];
    if file.read_exact_at(&mut sector, 0).is_ok() && sector[510..] == [0x55, 0xaa] {
        return Ok(Some("a partition table or boot sector (dos)".to_owned()));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blkid_says_is_named() {
        let text = "DEVNAME=/dev/sda\nUUID=x\nLABEL=root\nTYPE=ext4\n";
        assert_eq!(words(text).as_deref(), Some("ext4 \"root\""));
        assert_eq!(words("PTTYPE=gpt\n").as_deref(), Some("a partition table (gpt)"));
        assert!(words("TYPE=crypto_LUKS\n").unwrap().contains("encrypted"));
        assert_eq!(words("\n"), None);
    }

    #[test]
    fn every_signature_of_the_table_is_found_at_its_place_alone() {
        let path = std::env::temp_dir().join(format!("evenkeel-known-{}", std::process::id()));
        let size = 4 << 20;
        let write = |at: u64, bytes: &[u8]| {
            let file = File::create(&path).unwrap();
            file.set_len(size).unwrap();
            file.write_all_at(bytes, at).unwrap();
        };
        write(0, b"");
        assert_eq!(known(&path).unwrap(), None);
        for (name, at, magic) in KNOWN {
            let at = match at {
                Start(at) => *at,
                End(before) => size - before,
            };
            write(at, magic);
            assert_eq!(known(&path).unwrap().as_deref(), Some(*name), "at {at}");
            write(at + 256, magic);
            assert_eq!(known(&path).unwrap(), None, "{name} at {at} + 256");
        }
        for (at, bytes, what) in [
            (510, &b"\x55\xaa"[..], "dos"),
            (size - 8192, b"\xfc\x4e\x2b\xa9", "md"),
            (size - 65536, b"\xfc\x4e\x2b\xa9", "md"),
            (132 << 10, b"\x0c\xb1\xba\0\0\0\0\0", "ZFS"),
            (size - (100 << 10), b"\0\0\0\0\0\xba\xb1\x0c", "ZFS"),
        ] {
            write(at, bytes);
            assert!(known(&path).unwrap().is_some_and(|k| k.contains(what)), "{what} at {at}");
        }
        // Smaller than any of these places.
        File::create(&path).unwrap().set_len(100).unwrap();
        assert_eq!(known(&path).unwrap(), None);
        std::fs::remove_file(&path).unwrap();
    }
}
