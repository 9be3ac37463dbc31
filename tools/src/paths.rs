//! Lists of disks in files: what an array was last started from, and the disks of the configuration.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The paths in a list: one a line, whatever bytes it is made of; spaces around it do not count, and
/// `#` begins a comment line.
#[must_use]
pub fn paths_in(text: &[u8]) -> Vec<PathBuf> {
    text.split(|b| *b == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(|line| PathBuf::from(OsStr::from_bytes(line)))
        .collect()
}

/// The list of these paths.
#[must_use]
pub fn list_of(paths: &[PathBuf]) -> Vec<u8> {
    let mut text = Vec::new();
    for path in paths {
        text.extend_from_slice(path.as_os_str().as_bytes());
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_name_does_not_hide_the_others() {
        let text = b"/dev/sda\n  # no disk\n\t/srv/\xff\xfe disk \n\n/dev/sdb\r\n";
        let paths = paths_in(text);
        let expected = [&b"/dev/sda"[..], b"/srv/\xff\xfe disk", b"/dev/sdb"];
        assert_eq!(paths, expected.map(|p| PathBuf::from(OsStr::from_bytes(p))));
        assert_eq!(paths_in(&list_of(&paths)), paths);
    }
}
