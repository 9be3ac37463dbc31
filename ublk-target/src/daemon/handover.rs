//! Taking an array over from a daemon that runs.
//!
//! What must hold: the old daemon is asked only when everything is ready that does not need its
//! locks, since clients wait from its answer on. After that answer it takes nothing away any more:
//! sockets are put in the place of its own, its device stays, and log and ring are as a dead daemon
//! leaves them. What may be refused is refused before (the command looks at the members first).

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use evenkeel_raid::{ArrayError, ErrorKind};

use super::pid_file::PidFile;
use super::tell::Teller;
use super::{DaemonConfig, Via, failed};
use crate::control::client::CallError;
use crate::control::{self, Request, client};
use crate::nbd;

/// How long a daemon may take to end after it has said that it leaves.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);

/// The place of the array's daemon.
pub struct Seat {
    /// Its pid file, locked.
    pub pid_file: PidFile,
    /// Its control socket, if it was put in the place of the old one.
    pub control: Option<UnixListener>,
    /// Its NBD socket, likewise.
    pub nbd: Option<UnixListener>,
    /// Since when the old daemon takes no requests.
    pub since: Option<Instant>,
}

/// Takes the place: a free one, or that of a daemon which hands over.
///
/// # Errors
/// If another daemon has it, or does not give it up.
pub fn take_seat(config: &DaemonConfig, teller: &Teller<'_>) -> Result<Seat, ArrayError> {
    let (run_dir, name) = (&config.run_dir, &config.name);
    if !config.hand_over {
        let pid_file = PidFile::take(run_dir, name, Duration::ZERO)?;
        return Ok(Seat { pid_file, control: None, nbd: None, since: None });
    }
    match client::call(run_dir, name, &Request::HandOver) {
        // It is gone, or leaves for another one that asked.
        Ok(_) | Err(CallError::NoDaemon) => {}
        Err(e) => {
            return Err(failed(format!("The daemon of \"{name}\" did not hand over: {e}")));
        }
    }
    let since = Some(Instant::now());
    let replace = |path: &Path| {
        let done = nbd::socket::replace(path);
        let lost = |e| teller.note(&format!("{} is not there for a moment: {e}.", path.display()));
        done.map_err(lost).ok()
    };
    let nbd = (config.via == Via::Nbd).then(|| replace(&config.socket_path())).flatten();
    let control = replace(&control::socket_path(run_dir, name));
    let pid_file = PidFile::take(run_dir, name, LEAVE_PATIENCE).map_err(|e| match e.kind {
        ErrorKind::Held => ArrayError::new(
            ErrorKind::Held,
            format!(
                "{} It said that it leaves, but has not ended after {} s: a disk may hang.",
                e.message,
                LEAVE_PATIENCE.as_secs()
            ),
        ),
        _ => e,
    })?;
    Ok(Seat { pid_file, control, nbd, since })
}
