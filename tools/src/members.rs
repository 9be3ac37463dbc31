//! `evenkeel add`, `remove` and `replace`: the disks of an array that runs. What they do first and last
//! is `grow --add`'s, too.
//!
//! What must hold: a disk is looked at before the daemon is asked to write to it; the disks that are
//! remembered for a start by name are those that the array has.

use std::path::{Path, PathBuf};

use serde_json::Value;
use uuid::Uuid;

use evenkeel_journal::uring::disk::identity;
use evenkeel_ublk_target::control::{AddedAs, Failure, Request, client};

use crate::cli::{DiskArgs, ReplaceArgs};
use crate::{Outcome, call_failure, candidate, find, place, print};

pub fn add(args: &DiskArgs) -> Outcome {
    place::check_name(&args.name)?;
    let (status, disk) = (status(&args.name)?, place::absolute(&args.disk));
    candidate::check_for(&args.disk, uuid_of(&args.name, &status)?)?;
    let answer = ask(&args.name, &Request::Add { seen: seen(&disk), disk: text(&disk) })?;
    let added: AddedAs = serde_json::from_value(answer)
        .map_err(|e| Failure::new(1, format!("The daemon speaks another version ({e}).")))?;
    remember(&args.name, Some(&disk), None);
    let (shown, name) = (args.disk.display(), &args.name);
    let members = array_of(&status, "members");
    let taken = |m: &Value| members.iter().any(|t| t["takes"] == m["index"]);
    let vacant = members.iter().any(|m| m["role"] == "data" && m["state"] != "active" && !taken(m));
    print(&if added.back {
        format!(
            "{shown} is member {} of \"{name}\" again as soon as it has what it missed, and only that.",
            added.member
        )
    } else if vacant {
        format!("{shown} is a spare of \"{name}\", and takes the place of a member that is out.")
    } else {
        format!("{shown} is a spare of \"{name}\": it takes the place of a member that fails.")
    });
    Ok(0)
}

pub fn remove(args: &DiskArgs) -> Outcome {
    place::check_name(&args.name)?;
    let disk = place::absolute(&args.disk);
    ask(&args.name, &Request::Remove { disk: text(&disk) })?;
    remember(&args.name, None, Some(&disk));
    Ok(0)
}

pub fn replace(args: &ReplaceArgs) -> Outcome {
    place::check_name(&args.name)?;
    let status = status(&args.name)?;
    let (old, new) = (place::absolute(&args.old), place::absolute(&args.new));
    check(&args.name, &status, &args.new)?;
    ask(&args.name, &Request::Replace { old: text(&old), seen: seen(&new), new: text(&new) })?;
    // The old one leaves when the new one is filled: until then a start needs both.
    remember(&args.name, Some(&new), None);
    Ok(0)
}

/// Checks a disk that is to be taken in, unless it is a spare already: the daemon has that one open, and it
/// was looked at when it was taken in.
///
/// # Errors
/// As [`candidate::check_for`].
pub fn check(name: &str, status: &Value, disk: &Path) -> Result<(), Failure> {
    let path = text(&place::absolute(disk));
    let is_spare = |m: &Value| m["state"] == "spare" && m["path"] == path;
    if array_of(status, "members").iter().any(is_spare) {
        return Ok(());
    }
    candidate::check_for(disk, uuid_of(name, status)?)
}

/// Takes off the list for a start by name what is no member any more: disks whose place was taken.
pub fn forget_those_that_left(name: &str) {
    remember(name, None, None);
}

/// Does what makes members of `disks`, with them on the list for a start by name: a daemon that dies
/// meanwhile may have done so. Those that the array has not in the end are taken off again.
pub fn with_remembered<T>(name: &str, disks: &[PathBuf], done: impl FnOnce() -> T) -> T {
    let before = place::remembered_disks(name);
    let and = |more: &[&PathBuf]| {
        let new = more.iter().copied().filter(|d| !before.contains(d));
        let all: Vec<PathBuf> = before.iter().chain(new).cloned().collect();
        if let Err(e) = place::remember_disks(name, &all) {
            eprintln!("evenkeel: The disks were not remembered for a start by name: {e}.");
        }
    };
    and(&disks.iter().collect::<Vec<_>>());
    let answer = done();
    if let Ok(status) = status(name) {
        let members = array_of(&status, "members");
        let there = |d: &&PathBuf| members.iter().any(|m| m["path"] == text(d));
        and(&disks.iter().filter(there).collect::<Vec<_>>());
    }
    answer
}

/// Brings the list for a start by name up to date. What cannot be known stays on it, and where it cannot
/// be written a start has to be told the disks: that is no failure of what was done.
fn remember(name: &str, came: Option<&Path>, left: Option<&Path>) {
    let Ok(status) = status(name) else { return };
    let Ok(array) = uuid_of(name, &status) else { return };
    let known: Vec<&str> =
        array_of(&status, "members").iter().filter_map(|m| m["uuid"].as_str()).collect();
    let gone = |path: &PathBuf| {
        if Some(&**path) == left {
            return true;
        }
        let Ok(copies) = find::superblocks(path) else { return false };
        let own = find::counting(&copies).filter(|s| s.array == array).map(|s| s.uuid());
        own.is_some_and(|own| !known.contains(&&*Uuid::from_u128(own).to_string()))
    };
    let mut disks = place::remembered_disks(name);
    disks.retain(|d| Some(&**d) == came || !gone(d));
    if let Some(came) = came.filter(|c| !disks.iter().any(|d| d == c)) {
        disks.push(came.to_owned());
    }
    if let Err(e) = place::remember_disks(name, &disks) {
        eprintln!("evenkeel: The disks were not remembered for a start by name: {e}.");
    }
}

/// What the daemon must find at this path, too: the file that was looked at here. Devices are the same
/// everywhere.
pub fn seen(path: &Path) -> Option<(u64, u64)> {
    path.is_file().then(|| identity(path).ok()).flatten()
}

/// What the daemon says of its array.
///
/// # Errors
/// No daemon runs, or it does not answer.
pub fn status(name: &str) -> Result<Value, Failure> {
    ask(name, &Request::Status)
}

fn ask(name: &str, request: &Request) -> Result<Value, Failure> {
    client::call(&place::run_dir(), name, request).map_err(|e| call_failure(name, e))
}

fn uuid_of(name: &str, status: &Value) -> Result<u128, Failure> {
    let uuid = status["uuid"].as_str().and_then(|u| Uuid::parse_str(u).ok());
    uuid.map(|u| u.as_u128()).ok_or_else(|| {
        Failure::new(1, format!("The daemon of \"{name}\" does not say its array's UUID."))
    })
}

fn array_of<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// A path as the daemon is told it.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
