//! `evenkeel locate`: on which disks, at which bytes, a byte of the device and its parity lie.
//!
//! A running array is asked; the disks of a stopped one are read, its log replayed in memory.
//! Nothing is written. What it says of a running array is true for a moment.

use std::path::PathBuf;

use evenkeel_journal::uring::{Access, UringDisk};
use evenkeel_raid::hung::IO_TIMEOUT;
use evenkeel_raid::locate::RowBlock;
use evenkeel_raid::{Located, Progress};
use evenkeel_ublk_target::control::client::CallError;
use evenkeel_ublk_target::control::{Failure, Request, client};

use crate::cli::LocateArgs;
use crate::progress::Shown;
use crate::{Outcome, call_failure, engine, find, held, place, print, probe, start};

pub fn run(args: &LocateArgs) -> Outcome {
    let located = match start::name_alone(&args.what) {
        Some(name) => by_name(name, args.byte)?,
        None => on_disks(&args.what, args.byte)?,
    };
    print(&if args.json {
        serde_json::to_string_pretty(&located).unwrap_or_default()
    } else {
        text(&located)
    });
    Ok(0)
}

fn by_name(name: &str, byte: u64) -> Result<Located, Failure> {
    match client::call(&place::run_dir(), name, &Request::Locate { byte }) {
        Ok(value) => serde_json::from_value(value).map_err(|e| {
            Failure::new(1, format!("The daemon of \"{name}\" speaks another version ({e})."))
        }),
        Err(CallError::NoDaemon) => on_disks(&find::by_name(name, IO_TIMEOUT)?, byte),
        Err(e) => Err(call_failure(name, e)),
    }
}

fn on_disks(paths: &[PathBuf], byte: u64) -> Result<Located, Failure> {
    let mut identities = Vec::new();
    for path in paths {
        identities.push((&**path, probe::identify(path)?));
    }
    probe::check_distinct(identities)?;
    // Locked against daemons that write: else the answer would be of no moment at all.
    for path in paths {
        held::check_still(path).map_err(|mut e| {
            if e.code == 13 {
                e.message.push_str(" Ask a running array by its name: evenkeel locate NAME");
            }
            e
        })?;
    }
    let (engine, world) = engine::open()?;
    let disks: Result<Vec<UringDisk>, Failure> =
        paths.iter().map(|path| engine::open_disk(&engine, path, Access::ReadOnly)).collect();
    let disks = disks?;
    let shown = Shown::new();
    let progress = |p: Progress| {
        if let Progress::ReadLog(done, all) = p {
            shown.bytes("reading the log", done, all);
        }
    };
    let located = engine.block_on(evenkeel_raid::locate(&world, &disks, byte, &progress));
    shown.end();
    Ok(located?)
}

/// For people.
fn text(l: &Located) -> String {
    let mut out = format!(
        "Byte {} of \"{}\" is in stripe {}, block {} of it, ",
        l.byte, l.name, l.stripe, l.block
    );
    match l.slot {
        Some(slot) => out += &format!("which lies in slot {slot}, row {}.", l.row),
        None => out += "which has no slot: it was never written, or was discarded.",
    }
    if let Some(b) = &l.data {
        out += &line("data", b);
    }
    for b in &l.parity {
        out += &line("parity", b);
    }
    out += match (l.mapped, l.dirty) {
        (true, true) => {
            "\nIts newest content is still in the log or the cache; at this place may be the old one."
        }
        (false, true) => "\nIts content is still in the log or the cache.",
        (false, false) => "\nIt reads as zero.",
        (true, false) => "",
    };
    if l.row_unfinished {
        out += "\nThe row is being changed in place: what lies there may be in part old and in \
                part new. The log holds what is needed to finish it.";
    }
    out
}

fn line(what: &str, b: &RowBlock) -> String {
    let state = serde_json::to_value(b.state).unwrap_or_default();
    let path = match (b.path.as_str(), state.as_str()) {
        ("", Some(state)) => format!("({state})"),
        (path, Some("active") | None) => path.to_owned(),
        (path, Some(state)) => format!("{path} ({state})"),
    };
    format!("\n  {what:<6}  member {:<3}  byte {:<14}  {path}", b.member, b.byte)
}
