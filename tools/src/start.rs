//! `evenkeel start`: finds the members, then becomes the daemon; this process prints the device
//! once it serves.
//!
//! What must hold: no thread and no ring is made here, since the daemon begins with a fork.

use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_raid::hung::IO_TIMEOUT;
use evenkeel_raid::{Ack, ArrayError, StartOptions};
use evenkeel_ublk_target::control::{Failure, Request, client};
use evenkeel_ublk_target::daemon::hook::{HOOK_TIMEOUT, HookConfig};
use evenkeel_ublk_target::daemon::{self, DaemonConfig};

use crate::cli::{AckArg, StartArgs, Via};
use crate::{Outcome, config, find, place, print, probe, upgrade};

pub fn run(args: &StartArgs) -> Outcome {
    if args.takeover
        && let Some(name) = name_alone(&args.what)
        && let Some(old) = upgrade::Old::ask(name)?
    {
        return upgrade::take_over(&old, args);
    }
    if args.socket.is_some() && args.via != Some(Via::Nbd) {
        return Err(Failure::new(2, "--socket is for --via nbd: a ublk device has no socket."));
    }
    let io_timeout = args.io_timeout.map(Duration::from_secs);
    let bound = io_timeout.unwrap_or(IO_TIMEOUT);
    let (name, disks) = find_disks(&args.what, bound)?;
    place::check_name(&name)?;
    if args.takeover
        && let Some(old) = upgrade::Old::ask(&name)?
    {
        return upgrade::take_over(&old, args);
    }
    if let Ok(status) = client::call(&place::run_dir(), &name, &Request::Status) {
        return Err(Failure::new(
            13,
            format!(
                "The array \"{name}\" runs already, as {}. Nothing was changed.",
                status["device"].as_str().unwrap_or("a device")
            ),
        ));
    }
    let ack = args.ack.map(ack_of);
    let program = match &args.hook {
        Some(program) => Some(program.clone()),
        None => config::program()?,
    };
    let timeout = args.hook_timeout.map_or(HOOK_TIMEOUT, Duration::from_secs);
    let config = DaemonConfig {
        name,
        disks,
        start: StartOptions {
            ack: ack.unwrap_or_default(),
            read_only: args.read_only,
            accept_missing: args.accept_missing,
            force: args.force,
            checksum_cache: args.checksum_cache,
            io_timeout,
            rebuild_rate: args.rebuild_rate,
            scrub_every: args.scrub_every.0,
        },
        ack,
        via: args.via.map(via_of).unwrap_or_default(),
        socket: args.socket.as_deref().map(place::absolute),
        run_dir: place::run_dir(),
        foreground: args.foreground,
        hook: program.map(|program| HookConfig { program, timeout }),
        hand_over: false,
    };
    Ok(become_daemon(config, |e| eprintln!("evenkeel: {e}")))
}

/// `--ack` as the array knows it.
pub fn ack_of(ack: AckArg) -> Ack {
    match ack {
        AckArg::Durable => Ack::Durable,
        AckArg::Cached => Ack::Cached,
    }
}

/// `--via` as the daemon knows it.
pub fn via_of(via: Via) -> daemon::Via {
    match via {
        Via::Ublk => daemon::Via::Ublk,
        Via::Nbd => daemon::Via::Nbd,
    }
}

/// Runs the daemon; prints its device once it serves, or tells `complain` why it does not.
pub fn become_daemon(config: DaemonConfig, complain: impl FnOnce(ArrayError)) -> u8 {
    let (name, disks) = (config.name.clone(), config.disks.clone());
    daemon::run(config, |result| match result {
        Ok(device) => {
            if let Err(e) = place::remember_disks(&name, &disks) {
                eprintln!("evenkeel: The disks were not remembered for a start by name: {e}.");
            }
            print(&device);
        }
        Err(e) => complain(e),
    })
}

/// The name, if an array's name was given and not disks: one word that is no file here.
pub fn name_alone(what: &[PathBuf]) -> Option<&str> {
    let [one] = what else { return None };
    one.to_str().filter(|t| place::is_name(t) && !one.exists())
}

/// The name of the array that is meant, and the disks to start it from.
fn find_disks(what: &[PathBuf], bound: Duration) -> Result<(String, Vec<PathBuf>), Failure> {
    if let Some(name) = name_alone(what) {
        return Ok((name.to_owned(), find::by_name(name, bound)?));
    }
    let mut identities = Vec::new();
    for disk in what {
        let identity = probe::identify(disk).map_err(|mut e| {
            e.message
                .push_str(" Nothing was changed. A start without it is possible: leave it out.");
            e
        })?;
        identities.push((&**disk, identity));
    }
    probe::check_distinct(identities)?;
    Ok((name_on(what, bound)?, what.iter().map(|d| place::absolute(d)).collect()))
}

/// The name in the newest superblock of these disks.
fn name_on(disks: &[PathBuf], bound: Duration) -> Result<String, Failure> {
    let mut newest: Option<(u64, String)> = None;
    let mut unreadable = None;
    for (disk, copies) in disks.iter().zip(find::superblocks_of(disks, bound)) {
        match name_in(disk, copies) {
            Ok(Some(found)) if newest.as_ref().is_none_or(|(epoch, _)| *epoch < found.0) => {
                newest = Some(found);
            }
            Ok(_) => {}
            Err(e) => unreadable = Some(e),
        }
    }
    match (newest, unreadable) {
        (Some((_, name)), _) => Ok(name),
        (None, Some(e)) => Err(e),
        (None, None) => Err(Failure::new(
            12,
            match disks {
                [one] => format!("{} is no member of an array.", one.display()),
                _ => "None of these disks is a member of an array.".to_owned(),
            } + " Nothing was changed.",
        )),
    }
}

fn name_in(
    disk: &Path,
    copies: std::io::Result<Vec<find::Copy>>,
) -> Result<Option<(u64, String)>, Failure> {
    let copies =
        copies.map_err(|e| Failure::new(1, format!("{} cannot be read: {e}.", disk.display())))?;
    if let Some(s) = find::counting(&copies) {
        return Ok(Some((s.epoch, s.name.clone())));
    }
    match find::unsupported(&copies) {
        Some(why) => Err(Failure::new(
            17,
            format!("{} is a member that this version cannot read: {why}.", disk.display()),
        )),
        None => Ok(None),
    }
}
