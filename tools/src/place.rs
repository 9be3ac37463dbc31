//! The run directory and what lies in it.

use std::io;
use std::path::{Path, PathBuf};

use evenkeel_ublk_target::control::Failure;

use crate::paths;

/// The run directory: `$EVENKEEL_RUN_DIR`, or `/run/evenkeel`.
pub fn run_dir() -> PathBuf {
    match std::env::var_os("EVENKEEL_RUN_DIR") {
        Some(dir) if !dir.is_empty() => absolute(Path::new(&dir)),
        _ => PathBuf::from("/run/evenkeel"),
    }
}

/// The daemon's pid file.
pub fn pid_path(name: &str) -> PathBuf {
    run_dir().join(format!("{name}.pid"))
}

/// The disks that the array was last started from, a path a line.
pub fn disks_path(name: &str) -> PathBuf {
    run_dir().join(format!("{name}.disks"))
}

/// Names of all arrays whose control socket lies in the run directory, in order.
pub fn running() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(run_dir())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.strip_suffix(".sock").map(str::to_owned))
        .filter(|n| is_name(n))
        .collect();
    names.sort();
    names
}

/// Whether `text` can be the name of an array.
pub fn is_name(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Checks the name of an array.
///
/// # Errors
/// A sentence, code 2.
pub fn check_name(text: &str) -> Result<(), Failure> {
    if is_name(text) {
        return Ok(());
    }
    Err(Failure::new(
        2,
        format!(
            "\"{text}\" cannot be the name of an array: take 1 to 32 letters, digits, dots, \
             dashes and underscores, not beginning with a dot or a dash."
        ),
    ))
}

/// The path from the root, symbolic links followed as far as files and folders are there.
pub fn absolute(path: &Path) -> PathBuf {
    let in_its_folder = || {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(std::fs::canonicalize(folder).ok()?.join(path.file_name()?))
    };
    std::fs::canonicalize(path)
        .ok()
        .or_else(in_its_folder)
        .or_else(|| std::path::absolute(path).ok())
        .unwrap_or_else(|| path.to_owned())
}

/// The disks that are remembered for a start by name.
pub fn remembered_disks(name: &str) -> Vec<PathBuf> {
    paths::paths_in(&std::fs::read(disks_path(name)).unwrap_or_default())
}

/// Remembers the disks of an array for the next start by name.
///
/// # Errors
/// If the run directory cannot be written.
pub fn remember_disks(name: &str, disks: &[PathBuf]) -> io::Result<()> {
    let (path, new) = (disks_path(name), run_dir().join(format!(".{name}.disks.new")));
    std::fs::write(&new, paths::list_of(disks))?;
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "tank", "a.b-c_9", &"x".repeat(32)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "a b", "ä", &"x".repeat(33)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
