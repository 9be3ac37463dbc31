//! `evenkeel stop`: the daemon closes the front end, empties the log and ends.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use evenkeel_ublk_target::control::{Failure, Request, client};

use crate::cli::StopArgs;
use crate::{Outcome, call_failure, place};

/// How long the daemon may take to end after it has said that the array is stopped.
const END_TIME: Duration = Duration::from_secs(60);

pub fn run(args: &StopArgs) -> Outcome {
    place::check_name(&args.name)?;
    let daemon = open_daemon(&args.name);
    client::call(&place::run_dir(), &args.name, &Request::Stop { force: args.force })
        .map_err(|e| call_failure(&args.name, e))?;
    if let Some(daemon) = daemon
        && !has_ended(&daemon, END_TIME)
    {
        return Err(Failure::new(
            1,
            format!(
                "The array \"{}\" is stopped and clean, but its daemon has not ended after {} s; \
                 a disk may still hang.",
                args.name,
                END_TIME.as_secs()
            ),
        ));
    }
    Ok(0)
}

/// A descriptor of the daemon's process, if its pid file names one that is there.
fn open_daemon(name: &str) -> Option<OwnedFd> {
    let pid: i32 = std::fs::read_to_string(place::pid_path(name)).ok()?.trim().parse().ok()?;
    // SAFETY: a system call that takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: a descriptor that the call above has just made, owned by nobody else.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Waits for the end of a process, at most this long.
fn has_ended(process: &OwnedFd, limit: Duration) -> bool {
    let mut poll = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let ms = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one pollfd that lives over the call.
    unsafe { libc::poll(&raw mut poll, 1, ms) > 0 }
}
