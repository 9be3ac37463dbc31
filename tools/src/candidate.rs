//! Disks that are to become a part of an array: what `create`, `add` and `replace` look at before the
//! first byte is written. Nothing is written here.

use std::path::Path;

use evenkeel_raid::superblock::BadSuperblock;
use evenkeel_ublk_target::control::Failure;

use crate::probe::{self, Identity};
use crate::{find, held, signature};

/// A disk that was named.
pub struct Candidate<'a> {
    /// Its path, as it was given.
    pub path: &'a Path,
    /// None: it is missing, and a file is to be made.
    pub identity: Option<Identity>,
    /// Its size.
    pub bytes: u64,
}

impl Candidate<'_> {
    /// A disk that must be there.
    ///
    /// # Errors
    /// A sentence: it is missing, is no disk, or cannot be opened.
    pub fn there(path: &Path) -> Result<Candidate<'_>, Failure> {
        let identity = probe::identify(path).map_err(|mut e| {
            e.message.push_str(" Nothing was changed.");
            e
        })?;
        Ok(Candidate { path, identity: Some(identity), bytes: probe::bytes(path)? })
    }
}

/// What is on a disk, if anything is.
///
/// # Errors
/// A sentence: it cannot be read.
pub fn occupant(path: &Path) -> Result<Option<String>, Failure> {
    occupant_but(path, None)
}

/// Checks a disk that is to be added to the array with this UUID: nobody uses it and nothing is on it.
/// What the array itself has left there is no obstacle; whether it may come back, its daemon decides.
///
/// # Errors
/// A sentence: it is missing or no disk (1, 2), in use (13), or something else is on it (16).
pub fn check_for(path: &Path, array: u128) -> Result<(), Failure> {
    Candidate::there(path)?;
    if !is_of(path, array)? {
        held::check_free(path)?;
    }
    match occupant_but(path, Some(array))? {
        None => Ok(()),
        Some(what) => Err(Failure::new(
            16,
            format!(
                "{} holds {what}. Nothing was changed. If that is not needed any more, wipe it first \
                 (evenkeel destroy for a member, else wipefs).",
                path.display()
            ),
        )),
    }
}

/// Whether this disk was, or is, one of the array with this UUID.
fn is_of(path: &Path, array: u128) -> Result<bool, Failure> {
    Ok(find::counting(&copies(path)?).is_some_and(|s| s.array == array))
}

fn copies(path: &Path) -> Result<Vec<find::Copy>, Failure> {
    find::superblocks(path)
        .map_err(|e| Failure::new(1, format!("{} cannot be read: {e}.", path.display())))
}

/// The same, where what this array has left does not count.
fn occupant_but(path: &Path, array: Option<u128>) -> Result<Option<String>, Failure> {
    let copies = copies(path)?;
    if let Some(s) = find::counting(&copies) {
        if Some(s.array) == array {
            return signature::signature(path);
        }
        return Ok(Some(format!("a member of the array \"{}\"", s.name)));
    }
    if find::unsupported(&copies).is_some() {
        return Ok(Some("a member of an array of another version of evenkeel".to_owned()));
    }
    if let Some(what) = signature::signature(path)? {
        return Ok(Some(what));
    }
    let damaged = copies.iter().any(|c| c.found == Err(BadSuperblock::Damaged));
    Ok(damaged.then(|| "a damaged member of an array".to_owned()))
}
