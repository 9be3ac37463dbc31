//! The program that is run on every event (`--hook`), as `mdadm --monitor --program` runs one:
//! `PROGRAM EVENT DEVICE [MEMBER]`. The sentence is in `$EVENKEEL_SENTENCE`, the array's name in
//! `$EVENKEEL_ARRAY`.
//!
//! The program is not run by the daemon, but by a small process beside it (`runner.rs`), which is forked
//! before the daemon has anything: so it, and what it runs, have no descriptor of a member (a lock
//! would live as long as they do), no locked memory, no mounts taken away, no blocked signals, and none
//! of the daemon's protection from the killer of processes.
//!
//! What must hold: the engine never waits for the runner; events that do not fit are counted, and
//! that is said; a daemon that ends, in whatever way, leaves a runner that ends by itself.

mod runner;

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evenkeel_raid::{ArrayError, ErrorKind, Event};
use serde::{Deserialize, Serialize};

use crate::process::note;
use runner::Runner;

/// How long a program may take for an event, unless it is said otherwise.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// Which program is run on events.
#[derive(Clone, Debug)]
pub struct HookConfig {
    /// The program: a path from the root.
    pub program: PathBuf,
    /// How long it may take for an event before it is killed.
    pub timeout: Duration,
}

/// An event on its way to the runner.
#[derive(Serialize, Deserialize, Debug)]
struct Told {
    event: String,
    device: String,
    member: Option<String>,
    array: String,
    sentence: String,
    /// Events before this one that did not fit.
    missed: u64,
}

/// Whether `program` can be run.
///
/// # Errors
/// Usage, if it is not there, is no file, or may not be executed.
pub fn check(program: &Path) -> Result<(), ArrayError> {
    let refuse = |why: String| {
        let text = format!(
            "The program that is to be run on events, {}, {why}. Nothing was changed, and the array \
             was not started.",
            program.display()
        );
        Err(ArrayError::new(ErrorKind::Usage, text))
    };
    match std::fs::metadata(program) {
        Err(e) => return refuse(format!("cannot be used: {e}")),
        Ok(there) if !there.is_file() => return refuse("is no file".into()),
        Ok(_) => {}
    }
    match std::ffi::CString::new(OsStr::as_bytes(program.as_os_str())) {
        // SAFETY: a string that ends in zero.
        Ok(path) if unsafe { libc::access(path.as_ptr(), libc::X_OK) } == 0 => Ok(()),
        _ => refuse("may not be executed: chmod +x makes it a program".into()),
    }
}

/// The daemon's end of the way to the runner.
pub struct Hook {
    to: OwnedFd,
    program: PathBuf,
    missed: Cell<u64>,
    gone: Cell<bool>,
}

impl Hook {
    /// Forks the runner. Only for a process with one thread, which holds nothing yet that must not
    /// outlive it: what is open is closed in the runner, but for the three standard descriptors.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn begin(config: &HookConfig) -> io::Result<Hook> {
        let (to, from) = pair()?;
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            0 => leave(&from, config),
            child => {
                // It ends at once, so that the runner is nobody's child here, and leaves no zombie.
                // SAFETY: no memory is involved; the child is this process's own.
                unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            }
        }
        let program = config.program.clone();
        Ok(Hook { to, program, missed: Cell::new(0), gone: Cell::new(false) })
    }

    /// Has the program be run for an event. Does not wait; what does not fit is counted.
    pub fn tell(&self, array: &str, device: &str, event: &Event) {
        if self.gone.get() {
            return;
        }
        let told = Told {
            event: event.kind.as_str().to_owned(),
            device: device.to_owned(),
            member: event.member.clone(),
            array: array.to_owned(),
            sentence: event.sentence.clone(),
            missed: self.missed.get(),
        };
        let Ok(bytes) = serde_json::to_vec(&told) else { return };
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: bytes that live over the call, and their number.
        let sent =
            unsafe { libc::send(self.to.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
        if sent >= 0 {
            self.missed.set(0);
            return;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => {
                self.gone.set(true);
                note(&format!(
                    "Warning: the process that runs {} on events is gone. Events are said here alone \
                     until the array is started again.",
                    self.program.display()
                ));
            }
            // Full, or short of memory.
            _ => self.missed.set(self.missed.get() + 1),
        }
    }
}

/// Two ends of a socket that keeps packets apart: the daemon's and the runner's.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both just opened, owned by nobody else.
    let [to, from] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    Ok((to, from))
}

/// The child: forks the runner and ends. Neither comes back.
fn leave(from: &OwnedFd, config: &HookConfig) -> ! {
    // SAFETY: no memory is involved; a session of its own keeps the terminal's signals away.
    unsafe { libc::setsid() };
    // SAFETY: this process has one thread.
    if unsafe { libc::fork() } != 0 {
        // SAFETY: ends this process without running what belongs to its parent.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: from here on nothing of the parent is used but `config`: whatever is open beyond the
    // standard descriptors is closed, and the socket is number 3.
    let from = unsafe {
        libc::dup2(from.as_raw_fd(), 3);
        // Who waits for the end of what the daemon prints does not wait for this.
        libc::dup2(2, 1);
        libc::fcntl(3, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::syscall(libc::SYS_close_range, 4, libc::c_uint::MAX, 0);
        libc::prctl(libc::PR_SET_NAME, c"evenkeel-hook".as_ptr());
        OwnedFd::from_raw_fd(3)
    };
    let _ = std::env::set_current_dir("/");
    Runner::new(from, config, note).run();
    // SAFETY: ends this process without running what belongs to its parent.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests;
