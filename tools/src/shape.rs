//! The shape of a new array: how many chunks of a stripe are data and how many are parity, from
//! what was said and the number of disks.

use evenkeel_raid::codec::{Code, CodeError, Level};
use evenkeel_ublk_target::control::Failure;

/// k and m.
///
/// # Errors
/// A sentence, code 2; 17 if this version cannot make the level.
pub fn shape(
    level: Level,
    data: Option<usize>,
    parity: Option<usize>,
    disks: usize,
) -> Result<(usize, usize), Failure> {
    let usage = |text: String| Err(Failure::new(2, text));
    if disks > 255 {
        return usage(format!("{disks} disks are too many; at most 255 are possible."));
    }
    if data == Some(0) {
        return usage("--data must be at least 1.".into());
    }
    if parity == Some(0) {
        return usage("Without parity no disk may be lost; --parity must be at least 1.".into());
    }
    let fixed = match level {
        Level::Raid5 => (None, Some(1)),
        Level::Raid6 | Level::Evenodd => (None, Some(2)),
        Level::Raid1 => (Some(1), None),
        Level::Rs => (None, None),
    };
    for (own, given, what) in [(fixed.0, data, "data"), (fixed.1, parity, "parity")] {
        if let (Some(own), Some(given)) = (own, given)
            && own != given
        {
            return usage(format!("{level} has {own} {what}, not {given}; level rs takes any."));
        }
    }
    let (k, m) = match (fixed.0.or(data), fixed.1.or(parity)) {
        (Some(k), Some(m)) => (k, m),
        (Some(k), None) if k < disks => (k, disks - k),
        (None, Some(m)) if m < disks => (disks - m, m),
        (None, None) => {
            let lost = (disks / 3).max(1);
            let example = match disks.checked_sub(lost).filter(|k| *k > 0) {
                Some(k) => {
                    format!(" For example --parity {lost}: {k} data, and any {lost} may be lost.")
                }
                None => String::new(),
            };
            return usage(format!(
                "Level {level} needs --parity M: how many of the {disks} disks may be lost?{example}"
            ));
        }
        (k, m) => {
            return usage(format!(
                "{disks} disks are too few for {level} with {} {}.",
                k.or(m).unwrap_or_default(),
                if k.is_some() { "data" } else { "parity" }
            ));
        }
    };
    if k.checked_add(m) != Some(disks) {
        return usage(format!("{k} data and {m} parity are not {disks}, the number of disks."));
    }
    possible(level, k, m)?;
    Ok((k, m))
}

fn possible(level: Level, k: usize, m: usize) -> Result<(), Failure> {
    match Code::new(level, k, m) {
        Ok(_) => Ok(()),
        Err(CodeError::Unsupported { reason, .. }) if reason.contains("not supported yet") => {
            Err(crate::not_yet(&format!("Level {level}")))
        }
        Err(e) => Err(Failure::new(2, format!("This shape is not possible: {e}."))),
    }
}

/// What the array survives, as part of a sentence.
pub fn survives(parity: usize, disks: usize) -> String {
    match parity {
        1 => format!("the loss of any 1 of the {disks} disks"),
        m => format!("the loss of any {m} of the {disks} disks"),
    }
}

/// What to tell mkfs where the device cannot say it itself; None where stripes are one chunk.
pub fn mkfs_options(chunk_bytes: u64, data: usize) -> Option<String> {
    let (blocks, kib) = (chunk_bytes / 4096, chunk_bytes / 1024);
    (data > 1).then(|| {
        format!(
            "mkfs.ext4 -b 4096 -E stride={blocks},stripe-width={}\n  mkfs.xfs -d su={kib}k,sw={data}",
            blocks * data as u64
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_follows_from_the_disks() {
        let shape = |level: Level, k, m, n| shape(level, k, m, n).map_err(|e| e.code);
        for (level, k, m, n, is) in [
            (Level::Raid5, None, None, 4, (3, 1)),
            (Level::Raid5, None, None, 2, (1, 1)),
            (Level::Raid6, None, None, 6, (4, 2)),
            (Level::Raid6, Some(4), Some(2), 6, (4, 2)),
            (Level::Raid1, None, None, 2, (1, 1)),
            (Level::Raid1, None, None, 4, (1, 3)),
            (Level::Raid1, Some(1), Some(2), 3, (1, 2)),
            (Level::Rs, Some(4), Some(3), 7, (4, 3)),
            (Level::Rs, None, Some(3), 7, (4, 3)),
            (Level::Rs, Some(4), None, 7, (4, 3)),
            (Level::Rs, Some(253), Some(2), 255, (253, 2)),
        ] {
            assert_eq!(shape(level, k, m, n), Ok(is), "{level} {k:?} {m:?} {n}");
        }
        for (level, k, m, n) in [
            (Level::Rs, None, None, 7),
            (Level::Rs, None, None, 1),
            (Level::Rs, Some(4), Some(3), 6),
            (Level::Rs, Some(7), None, 7),
            (Level::Rs, Some(7), Some(0), 7),
            (Level::Rs, Some(0), Some(7), 7),
            (Level::Raid5, None, Some(2), 4),
            (Level::Raid5, None, None, 1),
            (Level::Raid1, None, None, 1),
            (Level::Raid1, Some(2), None, 4),
            (Level::Raid6, Some(4), None, 5),
            (Level::Raid6, None, None, 2),
            (Level::Rs, Some(usize::MAX), Some(1), 3),
            (Level::Rs, None, Some(2), 300),
        ] {
            assert_eq!(shape(level, k, m, n), Err(2), "{level} {k:?} {m:?} {n}");
        }
    }

    #[test]
    fn file_systems_are_told_the_stripe() {
        let text = mkfs_options(65536, 4).unwrap();
        assert!(text.contains("stride=16,stripe-width=64") && text.contains("su=64k,sw=4"));
        assert_eq!(mkfs_options(65536, 1), None);
    }
}
