//! `evenkeel create`: checks everything that can be checked, then writes superblocks and an empty
//! log. No initial sync: it takes a second whatever the size.
//!
//! What must hold: nothing on a disk is overwritten that was not looked at, unless forced; files
//! that this call made are removed again if it fails.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use evenkeel_journal::uring::Access;
use evenkeel_raid::codec::Level;
use evenkeel_raid::geometry::Geometry;
use evenkeel_raid::{CreateOptions, Created};
use evenkeel_ublk_target::control::Failure;

use crate::cli::CreateArgs;
use crate::size::human;
use crate::{Outcome, engine, find, not_yet, place, print, probe};

pub fn run(args: &CreateArgs) -> Outcome {
    let options = options(args)?;
    let mut made = MadeFiles::default();
    if let Some(bytes) = args.file_size {
        made.make(&args.disks, bytes, args.dry_run)?;
    }
    let mut there = Vec::new();
    for disk in args.disks.iter().filter(|d| !(args.dry_run && made.is_new(d))) {
        there.push((&**disk, probe::identify(disk).map_err(|e| hint(e, args))?));
    }
    probe::check_distinct(there.iter().copied())?;
    if !args.force {
        there.iter().filter(|(d, _)| !made.is_new(d)).try_for_each(|(d, _)| check_free(d))?;
    }
    if args.dry_run {
        return dry_run(args, &options);
    }

    let (engine, world) = engine::open()?;
    let disks: Result<Vec<_>, _> =
        args.disks.iter().map(|d| engine::open_disk(&engine, d, Access::ReadWrite)).collect();
    let disks = disks?;
    let created = engine.block_on(evenkeel_raid::create(&world, &disks, &options))?;
    made.keep();
    // For a start by name; without it, files have to be named (or be in the configuration).
    let paths: Vec<PathBuf> = args.disks.iter().map(|d| place::absolute(d)).collect();
    let _ = place::remember_disks(&args.name, &paths);
    print(&story(args, &options, &created, "Made"));
    Ok(0)
}

fn options(args: &CreateArgs) -> Result<CreateOptions, Failure> {
    place::check_name(&args.name)?;
    let level: Level = args
        .level
        .parse()
        .map_err(|e| Failure::new(2, format!("{}.", capital(&format!("{e}")))))?;
    for (given, what) in [
        (!args.journal.is_empty(), "A journal on disks of its own (--journal)"),
        (args.nvram.is_some(), "Persistent memory (--nvram)"),
        (!args.spare.is_empty(), "A spare disk (--spare)"),
    ] {
        if given {
            return Err(not_yet(what));
        }
    }
    let (data, parity) = shape(level, args.data, args.parity, args.disks.len())?;
    Ok(CreateOptions {
        name: args.name.clone(),
        level,
        data,
        parity,
        chunk_bytes: args.chunk,
        log_bytes: args.log_size,
        cache_bytes: args.cache,
        force: args.force,
    })
}

/// k and m, from what was said and the number of disks.
fn shape(
    level: Level,
    data: Option<usize>,
    parity: Option<usize>,
    disks: usize,
) -> Result<(usize, usize), Failure> {
    let usage = |text: String| Err(Failure::new(2, text));
    let own = match level {
        // Every disk holds all: there is one data chunk, and the other disks hold copies of it.
        Level::Raid1 if disks < 2 => {
            return usage("Level raid1 needs two disks at least.".into());
        }
        Level::Raid1 if data.is_some_and(|k| k != 1) => {
            return usage("Level raid1 has 1 data chunk; every other disk holds a copy.".into());
        }
        Level::Raid1 => Some(disks - 1),
        Level::Raid5 => Some(1),
        Level::Raid6 | Level::Evenodd => Some(2),
        Level::Rs => None,
    };
    let m = match (own, parity) {
        (Some(own), Some(m)) if m != own => {
            return usage(format!(
                "{level} on {disks} disks has {own} parity, not {m}; level rs takes any number."
            ));
        }
        (Some(own), _) => own,
        (None, Some(m)) => m,
        (None, None) => match data {
            Some(k) if k < disks => disks - k,
            _ => {
                return usage(format!(
                    "Level {level} needs --data K and --parity M: of the {disks} disks, how many \
                     may be lost?"
                ));
            }
        },
    };
    if m == 0 {
        return usage("Without parity no disk may be lost; --parity must be at least 1.".into());
    }
    let k = match data {
        Some(0) => return usage("--data must be at least 1.".into()),
        Some(k) => k,
        None if disks > m => disks - m,
        None => {
            return usage(format!("{disks} disks are too few for {level} with {m} parity."));
        }
    };
    if k.checked_add(m) != Some(disks) {
        return usage(format!("{k} data and {m} parity are not {disks}, the number of disks."));
    }
    if disks > 255 {
        return usage(format!("{disks} disks are too many; at most 255 are possible."));
    }
    Ok((k, m))
}

/// Something missing may have been meant to be made.
fn hint(mut e: Failure, args: &CreateArgs) -> Failure {
    if args.file_size.is_none() && e.message.ends_with("does not exist.") {
        e.message.push_str(" Nothing was changed. --file-size SIZE creates missing files.");
    }
    e
}

/// Refuses a disk that carries something else.
fn check_free(path: &Path) -> Result<(), Failure> {
    let occupied = |what: &str| {
        Failure::new(
            16,
            format!("{} holds {what}. Nothing was changed; --force overwrites it.", path.display()),
        )
    };
    let unreadable =
        |e: io::Error| Failure::new(1, format!("{} cannot be read: {e}.", path.display()));
    let copies = find::superblocks(path).map_err(unreadable)?;
    if let Some(s) = find::counting(&copies) {
        return Err(occupied(&format!("a member of the array \"{}\"", s.name)));
    }
    match probe::signature(path)? {
        Some(what) => Err(occupied(&what)),
        None => Ok(()),
    }
}

fn dry_run(args: &CreateArgs, options: &CreateOptions) -> Outcome {
    let sizes: Result<Vec<u64>, _> = args.disks.iter().map(|d| disk_bytes(d, args)).collect();
    let least = sizes?.into_iter().min().unwrap_or(0);
    let o = options;
    let g = Geometry::plan(
        o.level,
        o.data,
        o.parity,
        o.chunk_bytes,
        least,
        o.log_bytes,
        o.cache_bytes,
    )?;
    let block = evenkeel_journal::BLOCK as u64;
    let created = Created {
        uuid: 0,
        size_bytes: g.device_blocks() * block,
        log_bytes: g.log_rows * block,
        cache_bytes: g.cache_blocks * block,
    };
    print(&story(args, options, &created, "Would make"));
    Ok(0)
}

fn disk_bytes(path: &Path, args: &CreateArgs) -> Result<u64, Failure> {
    use std::io::{Seek, SeekFrom};
    match File::open(path).and_then(|mut f| f.seek(SeekFrom::End(0))) {
        Ok(bytes) => Ok(bytes),
        Err(e) => match args.file_size {
            Some(bytes) if e.kind() == io::ErrorKind::NotFound => Ok(bytes),
            _ => Err(Failure::new(1, format!("{} cannot be read: {e}.", path.display()))),
        },
    }
}

/// What was made, for people.
fn story(args: &CreateArgs, o: &CreateOptions, c: &Created, verb: &str) -> String {
    let lost = if o.parity == 1 {
        "any 1 disk may be lost".to_owned()
    } else {
        format!("any {} disks may be lost", o.parity)
    };
    let mut text = format!(
        "{verb} \"{}\": {} {}+{} on {} disks, {} usable; {lost}, at the moment of a crash, too.\n\
         Chunks of {}, a log of {} on every disk, a cache of {}.",
        o.name,
        o.level,
        o.data,
        o.parity,
        args.disks.len(),
        human(c.size_bytes),
        human(o.chunk_bytes),
        human(c.log_bytes),
        human(c.cache_bytes),
    );
    if args.no_checksums {
        text.push_str("\nBlocks have no checksums.");
    }
    text
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// Files that this call created; removed again unless kept.
#[derive(Default)]
struct MadeFiles {
    files: Vec<PathBuf>,
    real: bool,
}

impl MadeFiles {
    fn make(&mut self, disks: &[PathBuf], bytes: u64, dry: bool) -> Result<(), Failure> {
        self.real = !dry;
        for disk in disks {
            if self.is_new(disk) {
                return Err(Failure::new(12, format!("{} is given twice.", disk.display())));
            }
            if disk.exists() {
                continue;
            }
            if dry {
                self.files.push(disk.clone());
                continue;
            }
            let cannot = |e: io::Error| {
                Failure::new(1, format!("{} cannot be created: {e}.", disk.display()))
            };
            let file =
                OpenOptions::new().write(true).create_new(true).open(disk).map_err(cannot)?;
            self.files.push(disk.clone());
            file.set_len(bytes).and_then(|()| file.sync_all()).map_err(cannot)?;
        }
        Ok(())
    }

    fn is_new(&self, disk: &Path) -> bool {
        let disk = place::absolute(disk);
        self.files.iter().any(|f| place::absolute(f) == disk)
    }

    fn keep(&mut self) {
        self.files.clear();
    }
}

impl Drop for MadeFiles {
    fn drop(&mut self) {
        for file in self.files.iter().filter(|_| self.real) {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_follows_from_the_disks() {
        let shape = |level: Level, k, m, n| shape(level, k, m, n).map_err(|e| e.code);
        assert_eq!(shape(Level::Raid5, None, None, 4), Ok((3, 1)));
        assert_eq!(shape(Level::Raid6, None, None, 6), Ok((4, 2)));
        assert_eq!(shape(Level::Raid6, Some(4), Some(2), 6), Ok((4, 2)));
        assert_eq!(shape(Level::Evenodd, None, None, 6), Ok((4, 2)));
        assert_eq!(shape(Level::Evenodd, None, None, 3), Ok((1, 2)));
        assert_eq!(shape(Level::Raid1, None, None, 2), Ok((1, 1)));
        assert_eq!(shape(Level::Raid1, Some(1), Some(2), 3), Ok((1, 2)));
        assert_eq!(shape(Level::Raid1, None, None, 255), Ok((1, 254)));
        assert_eq!(shape(Level::Rs, Some(251), Some(4), 255), Ok((251, 4)));
        assert_eq!(shape(Level::Rs, Some(4), Some(3), 7), Ok((4, 3)));
        assert_eq!(shape(Level::Rs, None, Some(3), 7), Ok((4, 3)));
        assert_eq!(shape(Level::Rs, Some(4), None, 7), Ok((4, 3)));
        for (level, k, m, n) in [
            (Level::Rs, None, None, 7),
            (Level::Rs, Some(4), Some(3), 6),
            (Level::Rs, Some(7), None, 7),
            (Level::Rs, Some(7), Some(0), 7),
            (Level::Rs, Some(0), Some(7), 7),
            (Level::Raid1, None, None, 1),
            (Level::Raid1, None, None, 256),
            (Level::Raid1, None, Some(1), 3),
            (Level::Raid1, Some(2), None, 3),
            (Level::Evenodd, None, None, 2),
            (Level::Evenodd, None, Some(3), 6),
            (Level::Raid5, None, Some(2), 4),
            (Level::Raid5, None, None, 1),
            (Level::Raid6, Some(4), None, 5),
            (Level::Rs, Some(usize::MAX), Some(1), 3),
            (Level::Rs, None, Some(2), 300),
        ] {
            assert_eq!(shape(level, k, m, n), Err(2), "{level} {k:?} {m:?} {n}");
        }
    }
}
