//! `evenkeel destroy`: wipes what makes a disk a member, so that it is free for something else.
//!
//! What must hold: nothing is written before every disk has passed every check, and all of them
//! are locked meanwhile. Copy A goes last: a disk that was cut half-way is still known as a member.

use std::path::{Path, PathBuf};

use evenkeel_journal::uring::{Access, UringDisk};
use evenkeel_journal::{Buf, Disk};
use evenkeel_raid::geometry::SUPERBLOCK_BYTES;
use evenkeel_raid::superblock::BadSuperblock;
use evenkeel_ublk_target::control::Failure;
use evenkeel_ublk_target::ublk::record::Record;

use crate::cli::DestroyArgs;
use crate::find::{self, Copy};
use crate::{Outcome, engine, held, place, print, probe, signature};

pub fn run(args: &DestroyArgs) -> Outcome {
    let mut identities = Vec::new();
    for path in &args.disks {
        identities.push((&**path, probe::identify(path).map_err(unchanged)?));
    }
    probe::check_distinct(identities)?;
    args.disks.iter().try_for_each(|path| held::check_free(path))?;
    let looked: Result<Vec<Member>, _> = args.disks.iter().map(|d| check(d)).collect();
    let looked = looked?;
    if args.dry_run {
        for (member, path) in looked.iter().zip(&args.disks) {
            print(&member.told(path, "Would wipe"));
        }
        return Ok(0);
    }

    let (engine, world) = engine::open()?;
    let locked: Result<Vec<UringDisk>, _> =
        args.disks.iter().map(|d| engine::open_disk(&engine, d, Access::ReadWrite)).collect();
    let locked = locked?;
    // Once more: what is looked at under the lock does not change any more.
    let mut wiped = Vec::new();
    let found: Result<Vec<Member>, _> = args.disks.iter().map(|d| check(d)).collect();
    for (i, (member, disk)) in found?.into_iter().zip(&locked).enumerate() {
        let path = &args.disks[i];
        engine.block_on(wipe(disk, &member)).map_err(|why| {
            Failure::new(
                1,
                format!(
                    "{} cannot be wiped: {why}. {}The disks named after it are as they were.",
                    path.display(),
                    wiped_before(&args.disks[..i])
                ),
            )
        })?;
        print(&member.told(path, "Wiped"));
        wiped.extend(member.array);
    }
    // The ring of a daemon that died is memory that nothing would ever free.
    for (array, members) in &wiped {
        if wiped.iter().filter(|(a, _)| a == array).count() == *members {
            world.sweep_rings(*array);
        }
    }
    Ok(0)
}

/// What is to be wiped on one disk.
struct Member {
    /// Whose it is.
    whose: String,
    /// UUID of the array, and how many members it has.
    array: Option<(u128, usize)>,
    /// The array was not stopped since it ran last.
    unclean: bool,
    /// Byte and name of every copy, in the order of wiping.
    copies: Vec<(u64, &'static str)>,
}

/// Checks that a disk is a member and nothing else.
fn check(path: &Path) -> Result<Member, Failure> {
    let shown = path.display();
    let refuse = |code, why: String| Err(Failure::new(code, format!("{shown} {why}")));
    let copies = find::superblocks(path).map_err(|e| {
        Failure::new(1, format!("{shown} cannot be read: {e}. Nothing was changed."))
    })?;
    let mut found: Vec<(u64, &'static str)> = copies.iter().filter(is_there).map(at).collect();
    if found.is_empty() {
        let why = "is no member of an array. Nothing was changed on any disk. Leave it out.";
        return refuse(12, why.to_owned());
    }
    if let Some(why) = find::unsupported(&copies) {
        return refuse(
            17,
            format!(
                "is a member that this version cannot read: {why}. Nothing was changed on any \
                 disk. The version that made it can destroy it."
            ),
        );
    }
    if let Some(other) = signature::signature(path)? {
        return refuse(
            16,
            format!(
                "holds {other} beside what is left of a member: it was taken for something else \
                 since. Nothing was changed on any disk. If that is not needed, wipe it with \
                 wipefs first."
            ),
        );
    }
    found.sort_by_key(|(_, name)| *name == "a");
    let Some(s) = find::counting(&copies) else {
        let whose = "a damaged member of an array".to_owned();
        return Ok(Member { whose, array: None, unclean: false, copies: found });
    };
    if let Some(device) = waiting_device(&s.name, s.array) {
        return refuse(
            13,
            format!(
                "belongs to \"{}\", whose device {} waits for a daemon. Nothing was changed \
                 on any disk. Start the array and stop it first.",
                s.name,
                device.display()
            ),
        );
    }
    let whose = format!("member {} of \"{}\"", s.index, s.name);
    let array = Some((s.array, s.members.len()));
    Ok(Member { whose, array, unclean: !s.clean, copies: found })
}

fn is_there(copy: &&Copy) -> bool {
    copy.found != Err(BadSuperblock::Absent)
}

fn at(copy: &Copy) -> (u64, &'static str) {
    (copy.at, copy.name)
}

/// The ublk device that a daemon which died has left behind.
fn waiting_device(name: &str, array: u128) -> Option<PathBuf> {
    let record = Record::load(&place::run_dir(), name).filter(|r| r.uuid() == Some(array))?;
    let device = PathBuf::from(format!("/dev/ublkb{}", record.ublk_id));
    device.exists().then_some(device)
}

impl Member {
    fn told(&self, path: &Path, verb: &str) -> String {
        let names: Vec<String> =
            self.copies.iter().map(|(at, name)| format!("{name} at byte {at}")).collect();
        let unclean = if self.unclean { ", which was not stopped cleanly" } else { "" };
        format!(
            "{verb} {}: {}{unclean}; superblocks {}.",
            path.display(),
            self.whose,
            names.join(", ")
        )
    }
}

async fn wipe(disk: &UringDisk, member: &Member) -> Result<(), String> {
    let zeros = Buf::zeroed(SUPERBLOCK_BYTES as usize).freeze();
    for (at, _) in &member.copies {
        let done = match disk.write(*at, vec![zeros.clone()]).await {
            Ok(()) => disk.flush().await,
            failed => failed,
        };
        done.map_err(|e| format!("{e} at byte {at}"))?;
    }
    Ok(())
}

fn wiped_before(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return String::new();
    }
    let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    format!("Wiped before it: {}. ", names.join(", "))
}

fn unchanged(mut e: Failure) -> Failure {
    e.message.push_str(" Nothing was changed.");
    e
}
