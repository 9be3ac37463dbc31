//! The configuration, `/etc/evenkeel.conf` or `$EVENKEEL_CONF`. It may be missing.
//!
//! A line each for disks that a start by name looks at, and at most one that begins with the word
//! `PROGRAM`: what is run on the events of all arrays that are started without `--hook`. `#` begins a
//! comment line; spaces around a line do not count. As in mdadm.conf, `PROGRAM` may be written in small
//! letters, and takes the path of a program without arguments.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use evenkeel_ublk_target::control::Failure;

use crate::paths;

/// Where it is.
pub fn path() -> PathBuf {
    std::env::var_os("EVENKEEL_CONF")
        .filter(|p| !p.is_empty())
        .map_or_else(|| PathBuf::from("/etc/evenkeel.conf"), PathBuf::from)
}

/// The disks that it names.
pub fn disks() -> Vec<PathBuf> {
    disks_in(&read())
}

/// The program that it names, if it does.
///
/// # Errors
/// Usage: there are several, or it is no path from the root.
pub fn program() -> Result<Option<PathBuf>, Failure> {
    program_in(&read()).map_err(|why| {
        let text = format!("{}: {why} Nothing was changed.", path().display());
        Failure::new(2, text)
    })
}

fn read() -> Vec<u8> {
    std::fs::read(path()).unwrap_or_default()
}

fn disks_in(text: &[u8]) -> Vec<PathBuf> {
    let mut all = paths::paths_in(text);
    all.retain(|line| program_of(line.as_os_str().as_bytes()).is_none());
    all
}

fn program_in(text: &[u8]) -> Result<Option<PathBuf>, String> {
    let lines = paths::paths_in(text);
    let mut found = None;
    for program in lines.iter().filter_map(|line| program_of(line.as_os_str().as_bytes())) {
        let program = PathBuf::from(OsStr::from_bytes(program));
        if !program.is_absolute() {
            return Err(format!(
                "the PROGRAM line names \"{}\", which is no path from the root.",
                program.display()
            ));
        }
        if found.replace(program).is_some() {
            return Err("there is more than one PROGRAM line.".to_owned());
        }
    }
    Ok(found)
}

/// What follows the word `PROGRAM`, if a line begins with it.
fn program_of(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    word.eq_ignore_ascii_case(b"PROGRAM").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_told_from_disks() {
        let text = b"# PROGRAM /no\n/dev/sda\n  program\t/usr/sbin/my hook \n/srv/PROGRAM /x\n";
        assert_eq!(program_in(text), Ok(Some(PathBuf::from("/usr/sbin/my hook"))));
        assert_eq!(disks_in(text), ["/dev/sda", "/srv/PROGRAM /x"].map(PathBuf::from));
        assert_eq!(program_in(b"/dev/sda\nPROGRAMS\n"), Ok(None));
        assert_eq!(program_in(b""), Ok(None));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, why) in [
            (&b"PROGRAM hook"[..], "no path from the root"),
            (b"PROGRAM", "no path from the root"),
            (b"PROGRAM /a\nPROGRAM /b", "more than one"),
        ] {
            let said = program_in(text).expect_err("refused");
            assert!(said.contains(why), "{said}");
        }
    }
}
