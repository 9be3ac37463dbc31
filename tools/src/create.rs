//! `evenkeel create`: checks everything that can be checked, then writes superblocks and an empty
//! log. No initial sync: it takes a second whatever the size.
//!
//! What must hold: every check comes before the first byte is written and before the first file is
//! made; nothing on a disk is overwritten that was not looked at; files that this call made are
//! removed again if it fails. `--dry-run` writes nothing anywhere.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use evenkeel_journal::BLOCK;
use evenkeel_journal::uring::Access;
use evenkeel_raid::codec::Level;
use evenkeel_raid::geometry::{Geometry, MEMBER_GRAIN};
use evenkeel_raid::superblock::MAX_SPARES;
use evenkeel_raid::{ArrayError, CreateOptions, ErrorKind};
use evenkeel_ublk_target::control::{Failure, Request, client};

use crate::candidate::{self, Candidate};
use crate::cli::CreateArgs;
use crate::probe::Identity;
use crate::shape::{mkfs_options, shape, survives};
use crate::size::human;
use crate::{Outcome, engine, held, not_yet, place, print, probe};

pub fn run(args: &CreateArgs) -> Outcome {
    let options = options(args)?;
    check_name_is_free(&args.name)?;
    let named = args.disks.iter().chain(&args.journal).chain(&args.spare);
    let all: Result<Vec<_>, _> = named.map(|d| look(d, args.file_size)).collect();
    let all = all?;
    let (disks, others) = all.split_at(args.disks.len());
    let (journals, spares) = others.split_at(args.journal.len());
    let there: Vec<(&Path, Identity)> =
        all.iter().filter_map(|d| d.identity.map(|i| (d.path, i))).collect();
    check_distinct(&all, &there)?;
    there.iter().try_for_each(|(path, _)| held::check_free(path))?;
    let mut overwritten = Vec::new();
    for (path, _) in &there {
        if let Some(what) = candidate::occupant(path)? {
            overwritten.push((*path, what));
        }
    }
    if let Some((path, what)) = overwritten.first().filter(|_| !args.force) {
        return Err(Failure::new(
            16,
            format!("{} holds {what}. Nothing was changed; --force overwrites it.", path.display()),
        ));
    }
    let geometry = plan(&options, disks, journals)?;
    spares.iter().try_for_each(|s| geometry.takes_spare(&s.path.to_string_lossy(), s.bytes))?;
    for (path, what) in &overwritten {
        let verb = if args.dry_run { "Would overwrite" } else { "Overwriting" };
        eprintln!("evenkeel: {verb} {what} on {}.", path.display());
    }
    if let Some((a, b)) = probe::on_one_disk(&there) {
        eprintln!(
            "evenkeel: Warning: {} and {} are parts of one disk; if it fails, both are lost.",
            a.display(),
            b.display()
        );
    }
    let verb = if args.dry_run { "Would make" } else { "Made" };
    let text = story(args, &options, &geometry, disks, verb);
    if !args.dry_run {
        make(args, &options, &all)?;
    }
    print(&text);
    Ok(0)
}

fn options(args: &CreateArgs) -> Result<CreateOptions, Failure> {
    place::check_name(&args.name)?;
    let level: Level = args
        .level
        .parse()
        .map_err(|e| Failure::new(2, format!("{}.", capital(&format!("{e}")))))?;
    if args.nvram.is_some() {
        return Err(not_yet("Persistent memory (--nvram)"));
    }
    if args.spare.len() > MAX_SPARES {
        let text = format!("An array has {MAX_SPARES} spares at most. Nothing was changed.");
        return Err(Failure::new(2, text));
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
        checksums: !args.no_checksums,
        force: args.force,
    })
}

fn check_name_is_free(name: &str) -> Result<(), Failure> {
    match client::call(&place::run_dir(), name, &Request::Status) {
        Err(client::CallError::NoDaemon) => Ok(()),
        _ => Err(Failure::new(
            13,
            format!(
                "An array with the name \"{name}\" runs here. Nothing was changed. Take another \
                 name, or stop that array first: evenkeel stop {name}"
            ),
        )),
    }
}

/// What a disk is; a missing one is a file to be made, if a size was given.
fn look(path: &Path, file_size: Option<u64>) -> Result<Candidate<'_>, Failure> {
    // A link that leads nowhere is there, and is no disk.
    if let (Some(bytes), true) = (file_size, path.symlink_metadata().is_err()) {
        return Ok(Candidate { path, identity: None, bytes });
    }
    Candidate::there(path).map_err(|mut e| {
        if file_size.is_none() && e.code == 1 {
            e.message.push_str(" --file-size SIZE creates missing files.");
        }
        e
    })
}

fn check_distinct(disks: &[Candidate<'_>], there: &[(&Path, Identity)]) -> Result<(), Failure> {
    probe::check_distinct(there.iter().copied())?;
    let new: Vec<&Path> = disks.iter().filter(|d| d.identity.is_none()).map(|d| d.path).collect();
    for (i, path) in new.iter().enumerate() {
        if let Some(other) =
            new[i + 1..].iter().find(|p| place::absolute(p) == place::absolute(path))
        {
            let text = if other == path {
                format!("{} is given twice.", path.display())
            } else {
                format!("{} and {} are the same file.", path.display(), other.display())
            };
            return Err(Failure::new(12, format!("{text} Nothing was changed.")));
        }
    }
    Ok(())
}

fn plan(
    o: &CreateOptions,
    disks: &[Candidate<'_>],
    journals: &[Candidate<'_>],
) -> Result<Geometry, Failure> {
    let Some(least) = disks.iter().min_by_key(|d| d.bytes) else {
        return Err(Failure::new(2, "No disks were given."));
    };
    let named = |too_small: &Candidate<'_>| {
        let path = too_small.path.display().to_string();
        move |e: ArrayError| {
            let too_small = e.kind == ErrorKind::TooSmall;
            let mut failure = Failure::from(e);
            if too_small {
                failure.message = format!("{path} is too small. {}", failure.message);
            }
            failure
        }
    };
    let whole = |c: &Candidate<'_>| c.bytes / BLOCK as u64 * BLOCK as u64;
    // The members by themselves first, so that the one to blame is named.
    let sizes: Vec<u64> = disks.iter().map(whole).collect();
    let alone = CreateOptions {
        log_bytes: if journals.is_empty() { o.log_bytes } else { Some(0) },
        ..o.clone()
    };
    let g = evenkeel_raid::plan(&alone, &sizes, &[]).map_err(named(least))?;
    let Some(least) = journals.iter().min_by_key(|d| d.bytes) else {
        return Ok(g);
    };
    let journals: Vec<u64> = journals.iter().map(whole).collect();
    evenkeel_raid::plan(o, &sizes, &journals).map_err(named(least))
}

fn make(
    args: &CreateArgs,
    options: &CreateOptions,
    candidates: &[Candidate<'_>],
) -> Result<(), Failure> {
    let mut made = MadeFiles::default();
    for new in candidates.iter().filter(|c| c.identity.is_none()) {
        made.make(new.path, new.bytes)?;
    }
    let (engine, world) = engine::open()?;
    let open = |disks: &[PathBuf]| -> Result<Vec<_>, Failure> {
        disks.iter().map(|d| engine::open_disk(&engine, d, Access::ReadWrite)).collect()
    };
    let (disks, journals) = (open(&args.disks)?, open(&args.journal)?);
    let spares = open(&args.spare)?;
    let create = evenkeel_raid::create_with_journals(&world, &disks, &journals, &spares, options);
    engine.block_on(create)?;
    made.keep();
    // For a start by name; without it, files have to be named (or be in the configuration).
    let paths: Vec<PathBuf> = candidates.iter().map(|c| place::absolute(c.path)).collect();
    let _ = place::remember_disks(&args.name, &paths);
    Ok(())
}

/// What was made, for people.
fn story(
    args: &CreateArgs,
    o: &CreateOptions,
    g: &Geometry,
    disks: &[Candidate<'_>],
    verb: &str,
) -> String {
    let block = BLOCK as u64;
    let mut text = format!(
        "{verb} \"{}\": {}, {} data + {} parity on {} disks, {} usable.\n\
         It survives {}, at the moment of a crash, too.\n\
         Chunks of {}, stripes of {}, a log of {} on {}, a cache of {}.",
        o.name,
        o.level,
        o.data,
        o.parity,
        disks.len(),
        human(g.device_blocks() * block),
        survives(o.parity, disks.len()),
        human(g.chunk_bytes()),
        human(g.stripe_blocks() * block),
        human(g.rows_of_log() * block),
        log_place(g.journals),
        human(g.cache_blocks * block),
    );
    text.push_str(&warning(g.journals, o.parity));
    match &*args.spare {
        [] => {}
        [one] => {
            text += &format!("\n{} takes the place of a member that fails.", one.display());
        }
        all => text += &format!("\n{} spares take the places of members that fail.", all.len()),
    }
    if args.no_checksums {
        text.push_str("\nBlocks have no checksums.");
    }
    if let Some(least) = disks.iter().min_by_key(|d| d.bytes) {
        for d in disks.iter().filter(|d| d.bytes >= g.member_bytes + MEMBER_GRAIN) {
            text += &format!(
                "\n{} of {} stay unused, since {} is the smallest disk.",
                human(d.bytes - g.member_bytes),
                d.path.display(),
                least.path.display()
            );
        }
    }
    if let Some(options) = mkfs_options(g.chunk_bytes(), o.data) {
        text += "\nA ublk device tells file systems the width of a stripe. Over NBD, say it:\n  ";
        text += &options;
    }
    text
}

fn log_place(journals: usize) -> String {
    match journals {
        0 => "every disk".into(),
        1 => "the journal device".into(),
        2 => "both journal devices".into(),
        n => format!("each of the {n} journal devices"),
    }
}

/// What is given up where the log survives the loss of fewer disks than the data does.
fn warning(journals: usize, parity: usize) -> String {
    if journals == 0 || journals > parity {
        return String::new();
    }
    let lost = match journals {
        1 => "the journal device".to_owned(),
        n => format!("{n} journal devices"),
    };
    format!(
        "\nBut the loss of {lost} loses what only the log held. {} journal devices would make the \
         log as safe as the data.",
        parity + 1
    )
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// Files that this call created; removed again unless kept.
#[derive(Default)]
struct MadeFiles(Vec<PathBuf>);

impl MadeFiles {
    fn make(&mut self, path: &Path, bytes: u64) -> Result<(), Failure> {
        let cannot =
            |e: io::Error| Failure::new(1, format!("{} cannot be created: {e}.", path.display()));
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(cannot)?;
        self.0.push(path.to_owned());
        file.set_len(bytes).and_then(|()| file.sync_all()).map_err(cannot)
    }

    fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for MadeFiles {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_less_safe_than_the_data_is_told_of() {
        for parity in 1..4 {
            for journals in 0..6 {
                let text = warning(journals, parity);
                assert_eq!(text.is_empty(), journals == 0 || journals > parity, "{text}");
            }
        }
        assert!(warning(1, 1).contains("loss of the journal device"));
        assert!(warning(2, 2).contains("loss of 2 journal devices"), "{}", warning(2, 2));
    }
}
